//! The two private Redis servers: one for what may be forgotten, one whose writes are on disk before they are
//! acknowledged.

use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{Client, RedisResult, cmd};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::server::{Kind, Site};

/// More than the usual 16, so that each test can have one of its own.
const DATABASES: &str = "512";
/// Databases 0 and 1 are the other roles' where one server has all of them.
const QUEUE_DATABASE: u32 = 2;
const ANSWER_MAX: Duration = Duration::from_secs(5);
const GONE_PROBE: Duration = Duration::from_millis(30);

/// The server's command line: no configuration file, no background saving, never an eviction.
pub(super) fn command(site: &Site, kind: Kind) -> Command {
    let folder = site.home.folder(kind);
    let mut command = site.home.account.command(&site.redis.path, &folder);
    command.arg("--port").arg(site.private.port(kind).to_string()).arg("--dir").arg(&folder);
    command.args(["--bind", "127.0.0.1", "--databases", DATABASES, "--save", ""]);
    command.args(["--maxmemory-policy", "noeviction", "--daemonize", "no"]);
    match kind {
        Kind::Queue => command.args(["--appendonly", "yes", "--appendfsync", "always"]),
        Kind::Cache | Kind::Postgres => command.args(["--appendonly", "no"]),
    };
    command
}

/// Whether the server answers, from our data: a program that took the port meanwhile does not count.
pub(super) async fn answers(site: &Site, kind: Kind) -> bool {
    matches!(timeout(ANSWER_MAX, connect_to_ours(site, kind)).await, Ok(Ok(Some(_))))
}

/// Asks the server to end. It writes out what it keeps.
pub(super) async fn end(site: &Site, kind: Kind) {
    let asked = async {
        if let Some(mut connection) = connect_to_ours(site, kind).await? {
            // Its answer is the end of the connection.
            cmd("SHUTDOWN").exec_async(&mut connection).await?;
        }
        RedisResult::Ok(())
    };
    timeout(ANSWER_MAX, asked).await.ok();
}

/// Ends a server left over from a keeper that was killed; tells whether there was one.
pub(super) async fn end_leftover(site: &Site, kind: Kind) -> bool {
    if site.private.port(kind) == 0 || !answers(site, kind).await {
        return false;
    }
    end(site, kind).await;
    let gone = async {
        while answers(site, kind).await {
            sleep(GONE_PROBE).await;
        }
    };
    timeout(ANSWER_MAX, gone).await.ok();
    true
}

pub(super) fn url(site: &Site, kind: Kind) -> String {
    let database = if kind == Kind::Queue { QUEUE_DATABASE } else { 0 };
    format!("redis://127.0.0.1:{}/{database}", site.private.port(kind))
}

/// A connection to the server on our port, if it is the one with our data.
async fn connect_to_ours(site: &Site, kind: Kind) -> RedisResult<Option<MultiplexedConnection>> {
    let client = Client::open(url(site, kind))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let (_, folder): (String, String) =
        cmd("CONFIG").arg("GET").arg("dir").query_async(&mut connection).await?;
    let ours = site.home.folder(kind).to_string_lossy() == folder;
    Ok(ours.then_some(connection))
}
