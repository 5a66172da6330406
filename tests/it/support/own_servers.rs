//! PostgreSQL and Redis of one test, to be killed, frozen and started again as it likes: nobody else uses
//! them. They are copies of servers that were prepared once, so they come up quickly.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use chatpulse::local::{Servers, Urls};
use deadpool_redis::redis;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::NoTls;
use uuid::Uuid;

use super::eventually;
use super::instance::{Stores, program};
use super::ports::free_port;
use super::servers::{PROGRAM, connect, query};

/// Tests with servers of their own at a time: each keeps a processor core busy while it starts.
static PLACES: Semaphore = Semaphore::const_new(2);

/// All connections that the private PostgreSQL takes, those kept for superusers among them.
pub const CONNECTIONS_MAX: u32 = 60;

/// How long a server may take to end in order.
const QUIT_MAX: std::time::Duration = std::time::Duration::from_secs(3);

/// Kills a process that is its argument, and its children, once its standard input ends. Where there is no
/// /proc, only those children stay that are frozen: the others notice.
const KILL_WITH_CHILDREN: &str = r#"read _
kill -STOP "$0" || exit
for stat in /proc/[0-9]*/stat; do
    read -r pid _ _ parent _ <"$stat" && [ "$parent" = "$0" ] && kill -9 "$pid"
done
kill -9 "$0""#;
/// Removes directories once its standard input ends and those who wrote there have ended too.
const REMOVE: &str = r#"read _; sleep 1; rm -rf "$@""#;

/// What the servers of all tests begin with.
struct Prepared {
    /// Data with the roles and the newest schema.
    postgres: PathBuf,
    /// Where copies go: the servers' account gets there.
    home: PathBuf,
    urls: Urls,
    postgres_program: PathBuf,
    redis_program: PathBuf,
    /// Who runs the servers, where that is not ourselves.
    account: Option<(u32, u32)>,
    /// Removes all of it when this process ends.
    _remover: Remover,
}

impl Prepared {
    async fn get() -> &'static Prepared {
        static PREPARED: OnceLock<Prepared> = OnceLock::new();
        static ONE: Semaphore = Semaphore::const_new(1);
        let _one = ONE.acquire().await.expect("the semaphore is never closed");
        if PREPARED.get().is_none() {
            // Err is impossible: only one is here at a time.
            let _ = PREPARED.set(Prepared::make().await);
        }
        PREPARED.get().expect("it was set just now")
    }

    async fn make() -> Prepared {
        let dir = std::env::temp_dir().join(format!("chatpulse-faults-{}", Uuid::now_v7().simple()));
        let remover = Remover::of(&[&dir]);
        let begun = {
            let dir = dir.clone();
            move || Servers::start(Path::new(PROGRAM), &dir, false).unwrap_or_else(|error| panic!("{error}"))
        };
        let servers = tokio::task::spawn_blocking(begun).await.expect("private servers start");
        let urls = servers.urls().clone();
        let environment = [
            ("DATABASE_URL", &urls.database_url),
            ("CHATPULSE_DATABASE__MIGRATE_URL", &urls.migrate_url),
            ("REDIS_URL", &urls.redis_url),
        ]
        .map(|(key, value)| (key.to_owned(), value.clone()));
        let mut environment = environment.to_vec();
        environment.push(("CHATPULSE_TWITCH__WEBHOOK_SECRET".into(), super::twitch::SECRET.into()));
        let migrated = program(&["migrate"], &environment).await;
        assert_eq!(migrated.code, Some(0), "{migrated:?}");
        let asked = "SELECT setting FROM pg_config() WHERE name = 'BINDIR'";
        let client = connect(&urls.superuser_url).await;
        let bin: String = client.query_one(asked, &[]).await.expect("PostgreSQL knows").get(0);
        let info: String =
            query(&urls.redis_url, redis::cmd("INFO").arg("server")).await.expect("Redis answers");
        let redis = info.lines().find_map(|line| line.strip_prefix("executable:")).expect("it has one");
        drop(client);
        tokio::task::spawn_blocking(move || drop(servers)).await.expect("they end in order");

        let postgres = dir.join("postgres").canonicalize().expect("the data is there");
        let home = postgres.parent().expect("it lies somewhere").to_owned();
        let owner = std::fs::metadata(&postgres).expect("the data is there");
        let ours = std::fs::metadata(&dir).expect("it is there").uid();
        let account = (owner.uid() != ours).then(|| (owner.uid(), owner.gid()));
        // As root the data may lie outside of the directory.
        let _remover = if home == dir { remover } else { Remover::of(&[&dir, &home]) };
        Prepared {
            postgres,
            home,
            urls,
            postgres_program: Path::new(&bin).join("postgres"),
            redis_program: redis.trim().into(),
            account,
            _remover,
        }
    }
}

/// Removes paths when this process ends, unless it is dropped before.
struct Remover(Child);

impl Remover {
    fn of(paths: &[&Path]) -> Remover {
        let mut command = Command::new("sh");
        command.args(["-c", REMOVE, "sh"]).args(paths).process_group(0);
        Remover(command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("sh starts"))
    }
}

impl Drop for Remover {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// One server process with a port and data of its own.
pub struct Server {
    program: PathBuf,
    arguments: Vec<String>,
    folder: PathBuf,
    account: Option<(u32, u32)>,
    running: Option<Running>,
}

struct Running {
    child: Child,
    /// Kills the server and its children when this test process ends first.
    watchdog: Child,
}

impl Server {
    fn new(prepared: &Prepared, program: &Path, folder: PathBuf, arguments: Vec<String>) -> Server {
        let program = program.to_owned();
        Server { program, arguments, folder, account: prepared.account, running: None }
    }

    fn spawn(&mut self) {
        assert!(self.running.is_none(), "the server runs already");
        let log = std::fs::File::options().create(true).append(true).open(self.folder.with_extension("log"));
        let log = log.expect("the log can be written");
        let output = log.try_clone().expect("a file can be shared");
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(&self.folder).env_clear().env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(output).stderr(log).process_group(0);
        if let Some((uid, gid)) = self.account {
            command.uid(uid).gid(gid);
        }
        let child = command.spawn().expect("the server starts");
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", KILL_WITH_CHILDREN, &child.id().to_string()]).process_group(0);
        let watchdog = watchdog.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("sh starts");
        self.running = Some(Running { child, watchdog });
    }

    /// Ends the server and its children at once, as a power cut does. Fine when it does not run.
    pub fn kill(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        // First, so that it never kills another process that got the same id.
        end(&mut running.watchdog);
        // Its children can't be followed by new ones then.
        self::signal("STOP", &[running.child.id()]);
        let children = children(running.child.id());
        self::signal("KILL", &children);
        end(&mut running.child);
    }

    /// Ends the server without saving anything, but lets it give back what the system lent it.
    fn quit(&mut self) {
        if let Some(running) = &mut self.running {
            let pid = running.child.id();
            self::signal("QUIT", &[pid]);
            self::signal("CONT", &children(pid));
            self::signal("CONT", &[pid]);
            let deadline = std::time::Instant::now() + QUIT_MAX;
            while std::time::Instant::now() < deadline && matches!(running.child.try_wait(), Ok(None)) {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        self.kill();
    }

    /// Stops the server and its children from running, with all connections open.
    pub fn freeze(&self) {
        let pid = self.pid();
        self::signal("STOP", &[pid]);
        self::signal("STOP", &children(pid));
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) {
        let pid = self.pid();
        self::signal("CONT", &children(pid));
        self::signal("CONT", &[pid]);
    }

    /// Whether the server was started and not killed since.
    pub fn runs(&self) -> bool {
        self.running.is_some()
    }

    fn pid(&self) -> u32 {
        self.running.as_ref().expect("the server runs").child.id()
    }
}

fn end(child: &mut Child) {
    // Err: it has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

fn signal(name: &str, pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    let mut command = Command::new("kill");
    command.arg(format!("-{name}")).args(pids.iter().map(u32::to_string)).stderr(Stdio::null());
    // A failure: one of them has ended by itself meanwhile.
    let _ = command.status().expect("kill can be run");
}

/// The processes that this one has started.
fn children(pid: u32) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return children_by_ps(pid) };
    let stats =
        processes.flatten().filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let child = |stat: String| {
        // The name in parentheses may hold anything.
        let (number, after) = (stat.split_once(' ')?.0, stat.rsplit_once(')')?.1);
        let parent: u32 = after.split_whitespace().nth(1)?.parse().ok()?;
        (parent == pid).then(|| number.parse().ok())?
    };
    stats.filter_map(child).collect()
}

/// As [`children`], where there is no /proc.
fn children_by_ps(pid: u32) -> Vec<u32> {
    let output = Command::new("ps").args(["-axo", "pid=,ppid="]).output().expect("ps can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pair = |line: &str| {
        let mut numbers = line.split_whitespace().map_while(|number| number.parse::<u32>().ok());
        Some((numbers.next()?, numbers.next()?))
    };
    text.lines().filter_map(pair).filter(|(_, parent)| *parent == pid).map(|(child, _)| child).collect()
}

/// The servers of one test. Dropping them ends them and removes their data.
pub struct OwnServers {
    pub postgres: Server,
    /// Cache, sessions and rate limits: keeps nothing.
    pub cache: Server,
    /// Queues: each write is on disk before it is acknowledged.
    pub queue: Server,
    pub app_url: String,
    pub owner_url: String,
    pub superuser_url: String,
    pub redis_url: String,
    pub queue_url: String,
    dir: PathBuf,
    remover: Option<Remover>,
    _places: SemaphorePermit<'static>,
}

impl OwnServers {
    /// Waits for a place, and starts servers with the newest schema in it.
    pub async fn start() -> OwnServers {
        OwnServers::start_in(PLACES.acquire().await.expect("the semaphore is never closed")).await
    }

    /// As [`OwnServers::start`], while no other test has servers of its own.
    pub async fn start_alone() -> OwnServers {
        OwnServers::start_in(PLACES.acquire_many(2).await.expect("the semaphore is never closed")).await
    }

    async fn start_in(places: SemaphorePermit<'static>) -> OwnServers {
        let prepared = Prepared::get().await;
        let dir = prepared.home.join(format!("own-{}", Uuid::now_v7().simple()));
        std::fs::create_dir(&dir).expect("a directory can be made");
        let remover = Some(Remover::of(&[&dir]));
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        let copied = tokio::process::Command::new("cp")
            .arg("-a")
            .args([&prepared.postgres, &dir.join("postgres")])
            .status()
            .await;
        assert!(copied.expect("cp can be run").success(), "the data is copied");
        let [postgres_port, cache_port, queue_port] = [(); 3].map(|()| free_port());
        let urls = &prepared.urls;
        let postgres_url = |url: &str, database: &str| {
            let (rest, _) = url.rsplit_once(':').expect("a URL with a port");
            format!("{rest}:{postgres_port}/{database}")
        };
        let mut servers = OwnServers {
            app_url: postgres_url(&urls.database_url, "chatpulse"),
            owner_url: postgres_url(&urls.migrate_url, "chatpulse"),
            superuser_url: postgres_url(&urls.superuser_url, "chatpulse"),
            redis_url: format!("redis://127.0.0.1:{cache_port}/0"),
            queue_url: format!("redis://127.0.0.1:{queue_port}/2"),
            postgres: postgres(prepared, &dir, postgres_port),
            cache: redis_server(prepared, &dir, "cache", cache_port),
            queue: redis_server(prepared, &dir, "queue", queue_port),
            dir,
            remover,
            _places: places,
        };
        servers.start_all().await;
        servers
    }

    /// Starts what does not run, and waits until all answer.
    pub async fn start_all(&mut self) {
        for server in [&mut self.postgres, &mut self.cache, &mut self.queue] {
            if !server.runs() {
                server.spawn();
            }
        }
        self.await_postgres().await;
        for url in [&self.redis_url, &self.queue_url] {
            eventually("Redis answers", async || query::<String>(url, &redis::cmd("PING")).await.is_ok())
                .await;
        }
    }

    /// Starts PostgreSQL again with the data it had, and waits until it answers.
    pub async fn start_postgres(&mut self) {
        self.postgres.spawn();
        self.await_postgres().await;
    }

    /// Starts the cache again, empty.
    pub async fn start_cache(&mut self) {
        self.cache.spawn();
        let url = &self.redis_url;
        eventually("Redis answers", async || query::<String>(url, &redis::cmd("PING")).await.is_ok()).await;
    }

    /// Starts the queue again with the data it had.
    pub async fn start_queue(&mut self) {
        self.queue.spawn();
        let url = &self.queue_url;
        eventually("Redis answers", async || query::<String>(url, &redis::cmd("PING")).await.is_ok()).await;
    }

    /// One command to the cache's server.
    pub async fn cache<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        query(&self.redis_url, &command).await.expect("Redis answers")
    }

    /// A new folder beside the servers' data.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::create_dir(&path).expect("a directory can be made");
        path
    }

    /// Gives a path to the account that runs the servers.
    pub fn give(&self, path: &Path) {
        if let Some((uid, gid)) = self.postgres.account {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("we may give it away");
        }
    }

    /// The stores as they are without anything between.
    pub fn stores(&self) -> Stores {
        Stores {
            app_url: self.app_url.clone(),
            owner_url: self.owner_url.clone(),
            superuser_url: self.superuser_url.clone(),
            redis_url: self.redis_url.clone(),
            queue_url: self.queue_url.clone(),
            _guard: Box::new(()),
        }
    }

    async fn await_postgres(&self) {
        eventually("PostgreSQL answers", async || {
            let Ok((client, connection)) = tokio_postgres::connect(&self.superuser_url, NoTls).await else {
                return false;
            };
            tokio::spawn(connection);
            client.simple_query("SELECT").await.is_ok()
        })
        .await;
    }
}

impl Drop for OwnServers {
    fn drop(&mut self) {
        self.postgres.quit();
        self.cache.kill();
        self.queue.kill();
        drop(self.remover.take());
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("{} was not removed: {error}", self.dir.display());
        }
    }
}

fn postgres(prepared: &Prepared, dir: &Path, port: u16) -> Server {
    let folder = dir.join("postgres");
    let mut arguments = vec!["-D".to_owned(), folder.display().to_string()];
    // Nothing here touches fsync, synchronous_commit or full_page_writes.
    for setting in [
        format!("port={port}"),
        "listen_addresses=127.0.0.1".into(),
        "unix_socket_directories=".into(),
        format!("max_connections={CONNECTIONS_MAX}"),
        "shared_buffers=16MB".into(),
    ] {
        arguments.extend(["-c".to_owned(), setting]);
    }
    Server::new(prepared, &prepared.postgres_program, folder, arguments)
}

fn redis_server(prepared: &Prepared, dir: &Path, name: &str, port: u16) -> Server {
    let folder = dir.join(name);
    std::fs::create_dir(&folder).expect("a directory can be made");
    if let Some((uid, gid)) = prepared.account {
        std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).expect("we may give it away");
    }
    let mut arguments =
        vec!["--port".to_owned(), port.to_string(), "--dir".into(), folder.display().to_string()];
    let durable = if name == "queue" { "yes" } else { "no" };
    let fixed =
        ["--bind", "127.0.0.1", "--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no"];
    arguments.extend(fixed.map(str::to_owned));
    arguments.extend(["--appendonly", durable, "--appendfsync", "always"].map(str::to_owned));
    Server::new(prepared, &prepared.redis_program, folder, arguments)
}

#[tokio::test]
async fn own_servers_keep_what_they_must_through_a_kill_and_pause_when_frozen() {
    let mut servers = OwnServers::start().await;
    let owner = connect(&servers.owner_url).await;
    owner.batch_execute("CREATE TABLE public.kept AS SELECT 42 AS x").await.unwrap();
    for url in [&servers.redis_url, &servers.queue_url] {
        query::<()>(url, redis::cmd("SET").arg("kept").arg(42)).await.unwrap();
    }
    servers.postgres.freeze();
    let asked = tokio::time::timeout(std::time::Duration::from_millis(200), owner.simple_query("SELECT"));
    assert!(asked.await.is_err(), "a frozen server is silent");
    servers.postgres.thaw();
    owner.simple_query("SELECT").await.unwrap();

    servers.postgres.kill();
    servers.cache.kill();
    servers.queue.kill();
    assert!(owner.simple_query("SELECT").await.is_err());
    servers.start_all().await;
    let owner = connect(&servers.owner_url).await;
    let kept: i32 = owner.query_one("SELECT x FROM public.kept", &[]).await.unwrap().get(0);
    assert_eq!(kept, 42);
    let left = async |url| query::<Option<u32>>(url, redis::cmd("GET").arg("kept")).await.unwrap();
    assert_eq!(left(&servers.redis_url).await, None);
    assert_eq!(left(&servers.queue_url).await, Some(42));
    let migrated: bool =
        owner.query_one("SELECT to_regclass('chatpulse.sessions') IS NOT NULL", &[]).await.unwrap().get(0);
    assert!(migrated);
}
