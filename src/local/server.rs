//! One private server process: started on a free port, awaited until it answers, ended in order.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

use super::binaries::{PostgresPrograms, RedisProgram};
use super::error::LocalError;
use super::home::Home;
use super::private::Private;
use super::{postgres, redis};

/// A free port may be taken by another program before the server has it; then the next is tried.
const PORTS_TRIED_MAX: u32 = 5;
/// Long enough for PostgreSQL's recovery after a crash.
const READY_SECONDS_MAX: u64 = 180;
const READY_PROBE: Duration = Duration::from_millis(30);
/// After this a server that was asked to end is killed.
const END_SECONDS_MAX: u64 = 20;

/// The three private servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Postgres,
    /// Redis for what may be forgotten: no persistence.
    Cache,
    /// Redis for queues: each write is on disk before it is acknowledged.
    Queue,
}

impl Kind {
    /// In the order of starting and ending.
    pub(super) const ALL: [Kind; 3] = [Kind::Postgres, Kind::Cache, Kind::Queue];

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Postgres => "PostgreSQL",
            Kind::Cache => "Redis (cache)",
            Kind::Queue => "Redis (queue)",
        }
    }

    pub(super) fn folder(self) -> &'static str {
        match self {
            Kind::Postgres => "postgres",
            Kind::Cache => "redis-cache",
            Kind::Queue => "redis-queue",
        }
    }
}

/// Everything that starting and ending servers needs to know.
pub(super) struct Site {
    pub(super) home: Home,
    pub(super) private: Private,
    pub(super) postgres: PostgresPrograms,
    pub(super) redis: RedisProgram,
    /// The data is deleted at the end, so it need not survive a power cut while it is made, nor be written
    /// out in order when it ends. How a running server treats its writes is the same.
    pub(super) throwaway: bool,
}

/// A running server. Dropped without [`Server::end`] it is killed.
pub(super) struct Server {
    pub(super) kind: Kind,
    child: Child,
}

impl Server {
    /// Starts a server on the port from last time, or another free one, which `site.private` then knows.
    pub(super) async fn start(site: &mut Site, kind: Kind) -> Result<Server, LocalError> {
        let log = site.home.log(kind);
        let mut tries_left = PORTS_TRIED_MAX;
        loop {
            let port = site.private.choose_port(kind).map_err(|error| LocalError::Start {
                what: kind.name(),
                reason: format!("no free port on 127.0.0.1: {error}"),
                log: log.clone(),
            })?;
            File::create(&log).map_err(|source| LocalError::path(&log, source))?;
            let started = Server::start_again(site, kind).await;
            tries_left -= 1;
            let taken =
                || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("Address already in use"));
            match started {
                Err(_) if tries_left > 0 && taken() => site.private.set_port(kind, port.wrapping_add(1)),
                started => return started,
            }
        }
    }

    /// Starts a server on the port it has, adding to its log.
    pub(super) async fn start_again(site: &Site, kind: Kind) -> Result<Server, LocalError> {
        let path = site.home.log(kind);
        let log = File::options().append(true).create(true).open(&path);
        let logs = log.and_then(|log| Ok((log.try_clone()?, log)));
        let (out, err) = logs.map_err(|source| LocalError::path(&path, source))?;
        let mut command = match kind {
            Kind::Postgres => postgres::command(site),
            Kind::Cache | Kind::Queue => redis::command(site, kind),
        };
        // A process group of its own: a signal to the keeper's is not for the servers.
        command.process_group(0).kill_on_drop(true).stdout(Stdio::from(out)).stderr(Stdio::from(err));
        let program = command.as_std().get_program().into();
        let child = command.spawn().map_err(|source| LocalError::Run { program, source })?;
        let mut server = Server { kind, child };
        server.ready(site).await?;
        Ok(server)
    }

    /// Waits until the server answers, or has ended.
    async fn ready(&mut self, site: &Site) -> Result<(), LocalError> {
        let deadline = Instant::now() + Duration::from_secs(READY_SECONDS_MAX);
        loop {
            if !matches!(self.child.try_wait(), Ok(None)) || Instant::now() > deadline {
                return Err(LocalError::from_log(
                    self.kind.name(),
                    site.home.dir(),
                    &site.home.log(self.kind),
                ));
            }
            let answers = match self.kind {
                Kind::Postgres => postgres::answers(site).await?,
                Kind::Cache | Kind::Queue => redis::answers(site, self.kind).await,
            };
            if answers {
                return Ok(());
            }
            sleep(READY_PROBE).await;
        }
    }

    /// Waits until the process has ended by itself.
    pub(super) async fn ended(&mut self) {
        // An error would mean that there is no such child any more.
        self.child.wait().await.ok();
    }

    /// Ends the server in order, by force if it does not.
    pub(super) async fn end(mut self, site: &Site) {
        let asked = async {
            match self.kind {
                Kind::Postgres => postgres::end(site, site.throwaway).await,
                Kind::Cache | Kind::Queue => redis::end(site, self.kind).await,
            }
            self.child.wait().await.ok();
        };
        if timeout(Duration::from_secs(END_SECONDS_MAX), asked).await.is_err() {
            self.child.kill().await.ok();
        }
    }
}
