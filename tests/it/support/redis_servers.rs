//! Redis servers of a test's own, as `config/redis/` ships them: one a role, or a cluster.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use chatpulse::hot::{Hot, HotOptions};
use deadpool_redis::redis::{FromRedisValue, RedisResult, cmd};
use futures_util::future::join_all;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::instance::Process;
use super::ports::free_port;
use super::servers::query;
use super::{PATIENCE, eventually};

/// The roles that `users.acl` has a user for.
pub const ROLES: [&str; 5] = ["cache", "limits", "queue", "replica", "admin"];
/// Masters of a cluster of the tests; each has one replica.
const MASTERS: usize = 3;
const SLOTS: usize = 16_384;
/// Milliseconds after which the nodes of a cluster take one of them for failed.
const NODE_TIMEOUT_MS: &str = "1000";

/// A private redis-server with a shipped configuration and the shipped users; ends with this value.
pub struct RedisServer {
    configuration: PathBuf,
    options: Vec<String>,
    pub port: u16,
    directory: TempDir,
    process: Option<Process>,
}

/// A file of `config/redis/`.
pub fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/redis").join(file)
}

/// The password of a role's user.
pub fn password(role: &str) -> String {
    format!("the-tests-{role}-password")
}

/// The shipped users with passwords, and the administrator let in.
fn users() -> String {
    let acl = std::fs::read_to_string(shipped("users.acl")).expect("users.acl is shipped");
    let acl = acl.replace("chatpulse_admin off", "chatpulse_admin on");
    ROLES.iter().fold(acl, |acl, role| {
        let placeholder = format!("SHA256_OF_{}_PASSWORD", role.to_uppercase());
        assert!(acl.contains(&placeholder), "users.acl has a place for the password of {role}");
        acl.replace(&placeholder, &hex::encode(Sha256::digest(password(role))))
    })
}

impl RedisServer {
    /// A server with the configuration in this file of `config/redis/`.
    pub async fn start(configuration: &str) -> RedisServer {
        RedisServer::start_with(configuration, &[]).await
    }

    async fn start_with(configuration: &str, options: &[&str]) -> RedisServer {
        let directory = tempfile::tempdir().expect("a directory can be made");
        std::fs::write(directory.path().join("users.acl"), users()).expect("the users can be written");
        let mut server = RedisServer {
            configuration: shipped(configuration),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            port: free_port(),
            directory,
            process: None,
        };
        server.start_again().await;
        server
    }

    /// Starts the server again on its port and with its files, after it was killed.
    pub async fn start_again(&mut self) {
        assert!(self.process.is_none(), "the server runs already");
        let directory = self.directory.path().to_owned();
        let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
        let mut command = Command::new("redis-server");
        command.arg(&self.configuration);
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--dir", &path("")]);
        command.args(["--aclfile", &path("users.acl"), "--logfile", &path("log")]).args(&self.options);
        self.process = Some(Process::start(command.stdin(Stdio::null()), Arc::default()));
        eventually("the Redis server answers", async || {
            if self.process.as_mut().and_then(Process::ended).is_some() {
                panic!(
                    "the Redis server ended: {}",
                    std::fs::read_to_string(path("log")).unwrap_or_default()
                );
            }
            self.admin::<String>(&["PING"]).await.is_ok()
        })
        .await;
    }

    /// Kills the process at once.
    pub fn kill(&mut self) {
        self.process = None;
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the server runs").id()
    }

    /// Its URL for the user of a role.
    pub fn url(&self, role: &str) -> String {
        format!("redis://chatpulse_{role}:{}@127.0.0.1:{}", password(role), self.port)
    }

    /// A command as the user of a role.
    pub async fn ask<T: FromRedisValue>(&self, role: &str, words: &[&str]) -> RedisResult<T> {
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        query(&self.url(role), &command).await
    }

    /// A command as the administrator.
    pub async fn admin<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        self.ask("admin", words).await
    }

    async fn told(&self, words: &[&str]) -> String {
        self.admin(words).await.expect("the node answers")
    }
}

/// A cluster of three masters with a replica each.
pub struct RedisCluster {
    /// The masters come first, in the order of their slots; failovers don't change the places here.
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    pub async fn start() -> RedisCluster {
        let nodes = (0..2 * MASTERS).map(|_| async {
            let (bus, secret) = (free_port().to_string(), password("replica"));
            let options = ["--cluster-port", &bus, "--cluster-node-timeout", NODE_TIMEOUT_MS];
            RedisServer::start_with("cluster.conf", &[&options[..], &["--masterauth", &secret]].concat())
                .await
        });
        let nodes = join_all(nodes).await;
        let cluster = RedisCluster { nodes };
        cluster.meet().await;
        cluster.ready().await;
        cluster
    }

    async fn meet(&self) {
        for (place, node) in self.nodes.iter().enumerate() {
            node.told(&["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]).await;
        }
        // Only now: nodes that meet make up epochs of their own.
        for node in &self.nodes {
            let bus = &node.options[1];
            self.nodes[0].told(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), bus]).await;
        }
        for (place, master) in self.nodes[..MASTERS].iter().enumerate() {
            let (first, end) = (place * SLOTS / MASTERS, (place + 1) * SLOTS / MASTERS);
            master.told(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &(end - 1).to_string()]).await;
        }
        for (master, replica) in self.nodes.iter().zip(&self.nodes[MASTERS..]) {
            let id = master.told(&["CLUSTER", "MYID"]).await;
            eventually("the replica has heard of its master", async || {
                replica.admin::<String>(&["CLUSTER", "REPLICATE", &id]).await.is_ok()
            })
            .await;
        }
    }

    /// Waits until every running node says that all slots are served, and every replica is in step.
    pub async fn ready(&self) {
        let in_step = async |node: &RedisServer| {
            let info = node.told(&["INFO", "replication"]).await;
            let all = node.told(&["CLUSTER", "INFO"]).await;
            let nodes = format!("cluster_known_nodes:{}", self.nodes.len());
            let is_in_step = info.contains("role:master") || info.contains("master_link_status:up");
            is_in_step && all.contains("cluster_state:ok") && all.contains(&nodes)
        };
        eventually("the cluster serves all slots", async || {
            for node in self.nodes.iter().filter(|node| node.is_running()) {
                if !in_step(node).await {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// Its URLs for the user of a role: those of the first masters.
    pub fn urls(&self, role: &str) -> Vec<String> {
        self.nodes[..MASTERS].iter().map(|node| node.url(role)).collect()
    }

    /// The place of the node that serves a key.
    pub async fn master_of(&self, key: &str) -> usize {
        for (place, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_running()) {
            // Any other node sends elsewhere, a replica too.
            if node.admin::<Option<String>>(&["OBJECT", "ENCODING", key]).await.is_ok() {
                return place;
            }
        }
        panic!("nobody serves {key}");
    }

    /// The hot state in this cluster, with limits that a busy machine keeps.
    pub fn hot(&self) -> Hot {
        hot(self.urls("cache"))
    }
}

/// A hot state with limits that a busy machine keeps.
pub fn hot(urls: Vec<String>) -> Hot {
    let options =
        HotOptions { urls, pool_size: 4, command_timeout: PATIENCE / 6, connect_timeout: PATIENCE / 3 };
    Hot::connect(&options).expect("the URLs can be used")
}
