//! The keeper: the process that has the private servers as its children. It reports on its standard output
//! with one JSON line ([`Urls`], or `{"error": …}`), tells its progress on standard error, and ends the
//! servers when its standard input closes or it gets SIGTERM or SIGINT.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::future::select_all;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::sleep;

use super::binaries::{PostgresPrograms, RedisProgram};
use super::error::LocalError;
use super::home::Home;
use super::private::Private;
use super::server::{Kind, Server, Site};
use super::{Report, Urls, postgres, redis};

/// Pause before a server that ended by itself is started again; it doubles with each failure.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Runs the servers of the data directory `dir` until they are no longer wanted; with `throwaway` it deletes
/// the directory at the end. The body of `chatpulse local-servers`. A failure is told in the report alone.
pub async fn run(dir: &Path, throwaway: bool) -> ExitCode {
    match keep(dir, throwaway).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&Report::Failed { error: error.to_string() });
            ExitCode::FAILURE
        }
    }
}

async fn keep(dir: &Path, throwaway: bool) -> Result<(), LocalError> {
    let stop = Stop::listen()?;
    let mut site = open(dir, throwaway).await?;
    let mut servers = Vec::new();
    let started = start_all(&mut site, &mut servers, &stop).await;
    if started.is_ok() && !stop.is_wanted() {
        report(&Report::Ready(urls(&site)));
        supervise(&site, &mut servers, stop).await;
    }
    for server in servers {
        server.end(&site).await;
    }
    let deleted = if throwaway { site.home.delete() } else { Ok(()) };
    started.and(deleted)
}

/// Opens the data directory and clears what an earlier run may have left.
async fn open(dir: &Path, throwaway: bool) -> Result<Site, LocalError> {
    let home = Home::open(dir).await?;
    let kept = Private::read(home.dir())?;
    let folder = home.folder(Kind::Postgres);
    // Without passwords what lies outside belonged to a directory that was deleted: of any version, and useless.
    let made = if kept.is_some() { postgres::made_by(&folder) } else { None };
    let postgres = PostgresPrograms::find(made, &home.named)?;
    let redis = RedisProgram::find()?;
    let fresh = kept.is_none();
    let site = Site { private: kept.unwrap_or_else(Private::fresh), home, postgres, redis, throwaway };
    end_leftovers(&site).await?;
    if fresh {
        site.home.clear_outside()?;
        site.private.write(site.home.dir())?;
    }
    Ok(site)
}

async fn end_leftovers(site: &Site) -> Result<(), LocalError> {
    let mut found = postgres::end_leftover(site).await?;
    for kind in [Kind::Cache, Kind::Queue] {
        found |= redis::end_leftover(site, kind).await;
    }
    if found {
        say("Ended the private servers that an earlier run had left behind.");
    }
    Ok(())
}

async fn start_all(site: &mut Site, servers: &mut Vec<Server>, stop: &Stop) -> Result<(), LocalError> {
    let folder = site.home.folder(Kind::Postgres);
    let named = site.home.named.display();
    if postgres::made_by(&folder).is_none() {
        say(&format!("Preparing a private PostgreSQL in {named}/postgres (first time only)…"));
        postgres::make(site).await?;
    }
    for kind in [Kind::Cache, Kind::Queue] {
        site.home.make_folder(&site.home.folder(kind))?;
    }
    let (postgres, redis) = (&site.postgres.version.text, &site.redis.version.text);
    say(&format!(
        "Starting private servers in {}: PostgreSQL {postgres}, Redis {redis}…",
        site.home.named.display()
    ));
    for kind in Kind::ALL {
        if stop.is_wanted() {
            return Ok(());
        }
        servers.push(Server::start(site, kind).await?);
    }
    site.private.write(site.home.dir())?;
    postgres::make_roles(site).await
}

/// Starts a server again when it ends by itself, until the servers are no longer wanted.
async fn supervise(site: &Site, servers: &mut [Server], mut stop: Stop) {
    let mut pause = RESTART_PAUSE;
    loop {
        let ended = tokio::select! {
            () = stop.wanted() => return,
            (_, index, _) = select_all(servers.iter_mut().map(|server| Box::pin(server.ended()))) => index,
        };
        let kind = servers[ended].kind;
        say(&format!("{} has ended unexpectedly; starting it again.", kind.name()));
        tokio::select! {
            () = stop.wanted() => return,
            () = sleep(pause) => {}
        }
        match Server::start_again(site, kind).await {
            Ok(server) => {
                servers[ended] = server;
                pause = RESTART_PAUSE;
            }
            Err(error) => {
                say(&error.to_string());
                pause = RESTART_PAUSE_MAX.min(pause * 2);
            }
        }
    }
}

fn urls(site: &Site) -> Urls {
    let [database_url, migrate_url, superuser_url] = postgres::urls(site);
    let (redis_url, queue_url) = (redis::url(site, Kind::Cache), redis::url(site, Kind::Queue));
    Urls { database_url, migrate_url, superuser_url, redis_url, queue_url }
}

/// Tells when the servers are no longer wanted.
struct Stop(watch::Receiver<bool>);

impl Stop {
    fn listen() -> Result<Stop, LocalError> {
        let (wanted, receiver) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate()).map_err(LocalError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(LocalError::Signals)?;
        let by_signal = wanted.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            by_signal.send_replace(true);
        });
        // A plain thread: a blocked read of standard input must not hold up the end of the process.
        std::thread::spawn(move || {
            io::copy(&mut io::stdin(), &mut io::sink()).ok();
            wanted.send_replace(true);
        });
        Ok(Stop(receiver))
    }

    fn is_wanted(&self) -> bool {
        *self.0.borrow()
    }

    async fn wanted(&mut self) {
        // An error means that both senders are gone, after one of them has sent.
        self.0.wait_for(|wanted| *wanted).await.ok();
    }
}

/// The reader may be gone already; then standard input has closed too, and nobody misses the line.
fn report(report: &Report) {
    if let Ok(line) = serde_json::to_string(report) {
        writeln!(io::stdout(), "{line}").ok();
    }
}

/// Progress for people; it is no failure when nobody reads it.
fn say(line: &str) {
    writeln!(io::stderr(), "{line}").ok();
}
