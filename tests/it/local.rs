//! The private servers of `make run`: they keep their data, have one user, and never outlive it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chatpulse::local::{Servers, Urls};
use deadpool_redis::redis;

use crate::support::servers::{PROGRAM, connect, query};

/// In the environment of [`holds_servers_until_killed`]: the data directory.
const HOLDER_DIR: &str = "CHATPULSE_TEST_HOLDER_DIR";
/// Far more than it takes: a test that awaits a condition fails then.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(dir: &Path) -> Result<Servers, String> {
    Servers::start(Path::new(PROGRAM), dir, false).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_second_start_keeps_data_passwords_and_ports() {
    let dir = tempfile::tempdir().unwrap();
    let first = start(dir.path()).unwrap();
    let urls = first.urls().clone();
    connect(&urls.migrate_url).await.batch_execute("CREATE TABLE kept AS SELECT 42 AS x").await.unwrap();
    for url in [&urls.queue_url, &urls.redis_url] {
        query::<()>(url, redis::cmd("SET").arg("kept").arg("42")).await.unwrap();
    }
    drop(first);
    await_closed(&urls).await;

    let second = start(dir.path()).unwrap();
    let urls = second.urls();
    let kept: i32 =
        connect(&urls.migrate_url).await.query_one("SELECT x FROM kept", &[]).await.unwrap().get(0);
    assert_eq!(kept, 42);
    let queued: Option<u32> = query(&urls.queue_url, redis::cmd("GET").arg("kept")).await.unwrap();
    assert_eq!(queued, Some(42));
    let cached: Option<u32> = query(&urls.redis_url, redis::cmd("GET").arg("kept")).await.unwrap();
    assert_eq!(cached, None, "the cache keeps nothing");
}

#[tokio::test]
async fn servers_are_durable_where_they_must_be_and_their_roles_are_lesser() {
    let dir = tempfile::tempdir().unwrap();
    let servers = start(dir.path()).unwrap();
    let urls = servers.urls();
    let app = connect(&urls.database_url).await;
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        let value: String = app.query_one(&format!("SHOW {setting}"), &[]).await.unwrap().get(0);
        assert_eq!(value, "on", "{setting}");
    }
    let refused = app.batch_execute("CREATE TABLE public.x ()").await.unwrap_err();
    assert_eq!(
        refused.code().map(|code| code.code()),
        Some("42501"),
        "the application's role makes no tables"
    );
    for (url, setting, value) in [
        (&urls.queue_url, "appendonly", "yes"),
        (&urls.queue_url, "appendfsync", "always"),
        (&urls.queue_url, "maxmemory-policy", "noeviction"),
        (&urls.redis_url, "appendonly", "no"),
        (&urls.redis_url, "maxmemory-policy", "noeviction"),
    ] {
        let (_, is): (String, String) =
            query(url, redis::cmd("CONFIG").arg("GET").arg(setting)).await.unwrap();
        assert_eq!(is, value, "{setting}");
    }
    let owner = std::fs::metadata(dir.path().join("postgres")).unwrap().uid();
    assert_ne!(owner, 0, "also when started as root, in a directory that is closed to all others");
}

#[tokio::test]
async fn a_second_keeper_of_a_directory_is_refused_in_a_plain_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let _first = start(dir.path()).unwrap();
    let error = start(dir.path()).err().expect("the second one is refused");
    assert!(error.contains("already in use by another run"), "{error}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_refused_in_a_plain_sentence() {
    let error = start(Path::new("/dev/null/servers")).err().expect("it is refused");
    assert!(error.starts_with("/dev/null/servers cannot be used"), "{error}");
}

#[tokio::test]
async fn servers_end_when_their_user_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "local::holds_servers_until_killed", "--ignored", "--nocapture"])
        .env(HOLDER_DIR, &data)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let urls = BufReader::new(holder.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| serde_json::from_str::<Urls>(line.get(line.find('{')?..)?).ok())
        .expect("the holder tells where its servers listen");
    assert!(addresses(&urls).iter().all(is_open));
    holder.kill().unwrap();
    holder.wait().unwrap();
    await_closed(&urls).await;
    await_condition(|| !data.exists(), "the throwaway directory to go").await;
}

/// Not a test of its own: the process that [`servers_end_when_their_user_is_killed`] kills.
#[test]
#[ignore = "started by another test"]
fn holds_servers_until_killed() {
    let Some(dir) = std::env::var_os(HOLDER_DIR) else { return };
    let servers = Servers::start(Path::new(PROGRAM), Path::new(&dir), true).unwrap();
    println!("{}", serde_json::to_string(servers.urls()).unwrap());
    std::io::stdout().flush().unwrap();
    loop {
        std::thread::park();
    }
}

#[tokio::test]
async fn servers_left_behind_by_a_killed_keeper_are_replaced_with_their_data_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (mut keeper, urls) = keeper(dir.path());
    connect(&urls.migrate_url).await.batch_execute("CREATE TABLE kept ()").await.unwrap();
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    assert!(addresses(&urls).iter().all(is_open), "a killed keeper cannot end its servers");

    let second = start(dir.path()).unwrap();
    connect(&second.urls().migrate_url).await.batch_execute("SELECT FROM kept").await.unwrap();
    drop(second);
    await_closed(&urls).await;
}

#[tokio::test]
async fn a_server_that_dies_is_started_again_at_the_same_address() {
    let dir = tempfile::tempdir().unwrap();
    let servers = start(dir.path()).unwrap();
    let url = &servers.urls().redis_url;
    // Its answer is the end of the connection.
    query::<()>(url, redis::cmd("SHUTDOWN").arg("NOSAVE")).await.ok();
    let deadline = Instant::now() + PATIENCE;
    while query::<String>(url, &redis::cmd("PING")).await.is_err() {
        assert!(Instant::now() < deadline, "Redis is started again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A keeper as our own child, so that it can be killed.
fn keeper(dir: &Path) -> (std::process::Child, Urls) {
    let mut keeper = Command::new(PROGRAM)
        .args(["local-servers", "--data-dir"])
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(keeper.stdout.as_mut().unwrap().take(10_000)).read_line(&mut line).unwrap();
    (keeper, serde_json::from_str(&line).unwrap())
}

fn addresses(urls: &Urls) -> [SocketAddr; 3] {
    [&urls.superuser_url, &urls.redis_url, &urls.queue_url].map(|url| {
        let host = url.rsplit('/').nth(1).unwrap();
        host.rsplit('@').next().unwrap().parse().unwrap()
    })
}

fn is_open(address: &SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

async fn await_closed(urls: &Urls) {
    let addresses = addresses(urls);
    await_condition(|| !addresses.iter().any(is_open), "the servers to end").await;
}

async fn await_condition(holds: impl Fn() -> bool, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
