//! One instance of the real program as a child process, with databases of its own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::ops::Deref;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::Value;
use tokio_postgres::Client;
use uuid::Uuid;

use super::database::migrated;
use super::overlay::Overlay;
use super::servers::{PROGRAM, TestDatabase, TestRedis, connect};
use super::twitch::{SECRET, Twitch};
use super::{PATIENCE, eventually};

/// Lines of the log that a failed test shows.
const LINES_SHOWN: usize = 100;

/// Where an instance keeps its data, and what keeps that alive.
pub struct Stores {
    pub app_url: String,
    pub owner_url: String,
    pub superuser_url: String,
    pub redis_url: String,
    pub queue_url: String,
    pub _guard: Box<dyn Send + Sync>,
}

impl Stores {
    /// An empty database and empty Redis databases on the servers of this test process.
    pub async fn fresh() -> Stores {
        let (database, redis) = (TestDatabase::create().await, TestRedis::lease().await);
        Stores {
            app_url: database.app_url.clone(),
            owner_url: database.owner_url.clone(),
            superuser_url: database.superuser_url.clone(),
            redis_url: redis.redis_url.clone(),
            queue_url: redis.queue_url.clone(),
            _guard: Box::new((database, redis)),
        }
    }

    /// As [`Stores::fresh`], with the newest schema.
    pub async fn migrated() -> Stores {
        let (database, redis) = (migrated().await, TestRedis::lease().await);
        Stores {
            app_url: database.database.app_url.clone(),
            owner_url: database.database.owner_url.clone(),
            superuser_url: database.database.superuser_url.clone(),
            redis_url: redis.redis_url.clone(),
            queue_url: redis.queue_url.clone(),
            _guard: Box::new((database, redis)),
        }
    }

    /// The same stores for another instance; they stay as long as the first ones.
    pub fn shared(&self) -> Stores {
        Stores {
            app_url: self.app_url.clone(),
            owner_url: self.owner_url.clone(),
            superuser_url: self.superuser_url.clone(),
            redis_url: self.redis_url.clone(),
            queue_url: self.queue_url.clone(),
            _guard: Box::new(()),
        }
    }

    /// The settings that name these stores, then `settings`, of which the later ones win.
    pub fn environment(&self, settings: &[(&str, &str)]) -> Vec<(String, String)> {
        let stores = [
            ("DATABASE_URL", self.app_url.as_str()),
            ("CHATPULSE_DATABASE__MIGRATE_URL", &self.owner_url),
            ("REDIS_URL", &self.redis_url),
            ("RATE_LIMIT_REDIS_URL", &self.redis_url),
            ("MESSAGE_QUEUE_REDIS_URL", &self.queue_url),
            ("CHATPULSE_TWITCH__WEBHOOK_SECRET", SECRET),
            ("CHATPULSE_HTTP__BIND", "127.0.0.1:0"),
            ("CHATPULSE_OPS__BIND", "127.0.0.1:0"),
            ("CHATPULSE_HTTP__WORKERS", "2"),
            ("CHATPULSE_LOG__FORMAT", "json"),
            // A machine busy with other tests is no outage: up to the 1.5 s that a vote may take at all.
            ("CHATPULSE_LIMITS__VOTE_WAIT_MS", "1400"),
            ("CHATPULSE_DATABASE__APPEND_TIMEOUT_MS", "1400"),
        ];
        let all: HashMap<&str, &str> = stores.iter().chain(settings).copied().collect();
        all.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the program to its end with nothing but `environment`.
pub async fn program(arguments: &[&str], environment: &[(String, String)]) -> Ended {
    let mut command = tokio::process::Command::from(command(arguments, environment));
    let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await;
    let output = output.expect("the program ends").expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program writes UTF-8");
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn command(arguments: &[&str], environment: &[(String, String)]) -> Command {
    let mut command = Command::new(PROGRAM);
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.args(arguments).env_clear().env("PATH", path).stdin(Stdio::null());
    command.envs(environment.iter().map(|(key, value)| (key, value)));
    command
}

/// A streamer whose session can be watched and voted in.
#[derive(Clone, Debug)]
pub struct Streamer {
    pub twitch_id: String,
    pub id: Uuid,
    pub overlay_uuid: Uuid,
}

/// A running instance. Killed when dropped; its log is shown when the test fails.
pub struct Instance {
    pub public: SocketAddr,
    pub ops: SocketAddr,
    pub stores: Stores,
    settings: Vec<(String, String)>,
    process: Option<Process>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Instance {
    /// Makes fresh databases, migrates them, and starts an instance that is ready.
    pub async fn start(settings: &[(&str, &str)]) -> Instance {
        Instance::start_on(Stores::fresh().await, settings).await
    }

    /// Migrates the given stores and starts an instance on them that is ready.
    pub async fn start_on(stores: Stores, settings: &[(&str, &str)]) -> Instance {
        let migrated = program(&["migrate"], &stores.environment(settings)).await;
        assert_eq!(migrated.code, Some(0), "{migrated:?}");
        Instance::start_on_migrated(stores, settings).await
    }

    /// Starts an instance that is ready on stores with the newest schema.
    pub async fn start_on_migrated(stores: Stores, settings: &[(&str, &str)]) -> Instance {
        let settings = stores.environment(settings);
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut instance = Instance {
            public: anywhere,
            ops: anywhere,
            stores,
            settings,
            process: None,
            log: Arc::default(),
        };
        instance.start_again().await;
        instance
    }

    /// Starts the program: at first on free ports, later on the same ones.
    pub async fn start_again(&mut self) {
        assert!(self.process.is_none(), "the instance runs already");
        let ports = [("CHATPULSE_HTTP__BIND", self.public), ("CHATPULSE_OPS__BIND", self.ops)];
        let mut environment = self.settings.clone();
        for (key, address) in ports.into_iter().filter(|(_, address)| address.port() != 0) {
            environment.retain(|(known, _)| known != key);
            environment.push((key.into(), address.to_string()));
        }
        let lines_before = self.lines().len();
        let mut command = command(&["serve"], &environment);
        self.process = Some(Process::start(&mut command, Arc::clone(&self.log)));
        eventually("the instance says that it is ready", async || {
            let ready = self.lines()[lines_before..].iter().find_map(|line| ready_line(line));
            if let Some((public, ops)) = ready {
                (self.public, self.ops) = (public, ops);
            } else if let Some(status) = self.process.as_mut().and_then(Process::ended) {
                panic!("the instance ended at its start with {status}");
            }
            ready.is_some()
        })
        .await;
        let twitch = self.twitch();
        eventually("the instance is ready", async || twitch.get("/health/ready").await.status == 200).await;
    }

    /// Changes settings, from the next start on.
    pub fn set(&mut self, settings: &[(&str, &str)]) {
        for (key, value) in settings {
            self.settings.retain(|(known, _)| known != key);
            self.settings.push(((*key).into(), (*value).into()));
        }
    }

    /// Kills the process at once, as a power cut does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the instance runs").id()
    }

    /// Asks the process to stop; [`Instance::stopped`] awaits it.
    pub fn terminate(&self) {
        signal("TERM", self.pid());
    }

    /// Waits until the process has ended by itself.
    pub async fn stopped(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the instance runs");
        let mut status = None;
        eventually("the instance ends", async || {
            status = process.ended();
            status.is_some()
        })
        .await;
        status.expect("it has ended")
    }

    /// What the program has logged so far.
    pub fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs another command of the program with this instance's settings.
    pub async fn program(&self, arguments: &[&str]) -> Ended {
        let mut environment = self.settings.clone();
        environment.retain(|(key, _)| key != "CHATPULSE_OPS__BIND");
        environment.push(("CHATPULSE_OPS__BIND".into(), self.ops.to_string()));
        program(arguments, &environment).await
    }

    /// Makes a streamer whom nobody else in this database is.
    pub async fn streamer(&self, for_words: &[&str], against_words: &[&str]) -> Streamer {
        let twitch_id = (Uuid::new_v4().as_u128() % 1_000_000_000_000).to_string();
        let mut arguments = vec!["streamer", "create", "--twitch-id", &twitch_id, "--login", "somebody"];
        arguments.extend(for_words.iter().flat_map(|word| ["--for", word]));
        arguments.extend(against_words.iter().flat_map(|word| ["--against", word]));
        let created = self.program(&arguments).await;
        assert_eq!(created.code, Some(0), "{created:?}");
        let line: Value = serde_json::from_str(&created.stdout).expect("one line of JSON");
        let uuid = |key: &str| line[key].as_str().and_then(|id| id.parse().ok()).expect(key);
        Streamer { id: uuid("streamer_id"), overlay_uuid: uuid("overlay_uuid"), twitch_id }
    }

    /// A streamer with the words yes and no, and an overlay that has had its hello.
    pub async fn watched(&self) -> (Streamer, Overlay) {
        let streamer = self.streamer(&["yes"], &["no"]).await;
        let overlay = self.overlay(&streamer).await;
        (streamer, overlay)
    }

    /// An overlay of the streamer that has had its hello.
    pub async fn overlay(&self, streamer: &Streamer) -> Overlay {
        let mut overlay = self.socket(streamer).await;
        overlay.hello = overlay.next_frame("hello").await;
        overlay
    }

    /// An overlay socket of the streamer, just opened.
    pub async fn socket(&self, streamer: &Streamer) -> Overlay {
        let path = streamer.overlay_uuid.to_string();
        Overlay::open(self.public, &path, &[]).await.expect("the overlay is let in")
    }

    /// A Twitch that tells this instance things.
    pub fn twitch(&self) -> Twitch {
        Twitch::new(self.public)
    }

    /// A connection to the database as the owner.
    pub async fn sql(&self) -> Client {
        connect(&self.stores.owner_url).await
    }

    /// The votes of the streamer as journaled, in order.
    pub async fn votes(&self, streamer: &Streamer) -> Vec<Value> {
        let sql = "SELECT vote FROM chatpulse.events e
                   JOIN chatpulse.sessions s ON e.stream_id = 'session-' || s.session_id,
                   LATERAL jsonb_array_elements(e.data->'votes') WITH ORDINALITY AS v (vote, place)
                   WHERE s.streamer_id = $1 AND e.type = 'VotesCast'
                   ORDER BY s.ordinal, e.version, v.place";
        let rows = self.sql().await.query(sql, &[&streamer.id]).await.expect("the journal can be read");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// The chat message ids of the streamer's votes as journaled, in order.
    pub async fn voted(&self, streamer: &Streamer) -> Vec<String> {
        let id = |vote: &Value| vote["m"].as_str().expect("a vote has a message id").to_owned();
        self.votes(streamer).await.iter().map(id).collect()
    }

    /// Changes keys of the streamer's config, as the admin API does.
    pub async fn change_config(&self, streamer: &Streamer, changes: Value) {
        let sql = self.sql().await;
        let row = sql
            .query_one(
                "SELECT u.version, chatpulse.config_json(c) FROM chatpulse.users u
                 JOIN chatpulse.configs c ON c.streamer_id = u.id WHERE u.id = $1",
                &[&streamer.id],
            )
            .await
            .expect("the streamer exists");
        let (version, mut config): (i64, Value) = (row.get(0), row.get(1));
        config["version"] = (config["version"].as_i64().expect("a version") + 1).into();
        for (key, value) in changes.as_object().expect("an object") {
            config[key] = value.clone();
        }
        let data = serde_json::json!({ "config": config });
        let append = "SELECT chatpulse.append_streamer_event($1, $2, 'ConfigChanged', 1, $3, '{}')";
        let row = sql.query_one(append, &[&streamer.id, &version, &data]).await.expect("the config changes");
        assert!(row.get::<_, Option<i64>>(0).is_some(), "nobody else changes this streamer");
    }

    /// The metrics by name and labels as written, such as `chatpulse_votes_total{result="accepted"}`.
    pub async fn metrics(&self) -> HashMap<String, f64> {
        let text = Twitch::new(self.ops).get("/metrics").await.body;
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        };
        samples.map(sample).collect()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            show(self);
        }
    }
}

fn show(instance: &Instance) {
    let lines = instance.lines();
    eprintln!("--- the instance's log, the last lines of {}", lines.len());
    lines.iter().skip(lines.len().saturating_sub(LINES_SHOWN)).for_each(|line| eprintln!("{line}"));
}

fn ready_line(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let address = |key: &str| line[key].as_str()?.parse().ok();
    (line["message"] == "ready").then(|| Some((address("public")?, address("ops")?)))?
}

/// Sends a signal to a process that this test started.
pub fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(sent.expect("kill can be run").success(), "the signal {name} reaches process {pid}");
}

/// A child process, killed when dropped, and also when this test process dies before.
pub struct Process {
    child: Child,
    /// Waits for the end of its standard input, then kills the child.
    watchdog: Child,
}

impl Process {
    /// Starts a program; what it writes to its standard error goes to the log.
    pub fn start(command: &mut Command, log: Arc<Mutex<Vec<String>>>) -> Process {
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let stderr = child.stderr.take().expect("standard error is piped");
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        let watchdog = Command::new("sh")
            .args(["-c", "read _; kill -9 \"$0\"", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        Process { child, watchdog }
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // First, so that it never kills another process that got the same id.
        for child in [&mut self.watchdog, &mut self.child] {
            // Err: it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An instance that the tests of a file share while any of them runs.
pub struct Slot(tokio::sync::Mutex<Weak<Instance>>);

impl Slot {
    pub const fn new() -> Slot {
        Slot(tokio::sync::Mutex::const_new(Weak::new()))
    }

    /// The instance that another test uses, else a new one with these settings.
    pub async fn get(&self, settings: &[(&str, &str)]) -> Shared {
        let mut slot = self.0.lock().await;
        if let Some(instance) = slot.upgrade() {
            return Shared(instance);
        }
        let instance = Arc::new(Instance::start(settings).await);
        *slot = Arc::downgrade(&instance);
        Shared(instance)
    }
}

/// A share of an instance.
pub struct Shared(Arc<Instance>);

impl Deref for Shared {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The last one drops the instance, which shows it too.
        if std::thread::panicking() && Arc::strong_count(&self.0) > 1 {
            show(&self.0);
        }
    }
}
