//! Private PostgreSQL and Redis servers for a machine that has none running: `make run` and the tests.
//!
//! They belong to a *keeper*, a process of its own (`chatpulse local-servers`) that starts them, tells
//! where they listen and ends them as soon as its standard input closes. So they never outlive the program
//! that wanted them, not even when that one is killed. This room knows no other room.

mod account;
mod binaries;
mod error;
mod home;
pub mod keeper;
mod postgres;
mod private;
mod redis;
mod server;

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};

pub use error::LocalError;

/// Where the private servers listen: URLs with passwords, on the loopback only.
#[derive(Clone, Serialize, Deserialize)]
pub struct Urls {
    /// Database `chatpulse` as the application's plain role, `chatpulse_app`.
    pub database_url: String,
    /// The same database as its owner, `chatpulse_owner`, who runs migrations and may make databases.
    pub migrate_url: String,
    /// Database `postgres` as the superuser: for tests.
    pub superuser_url: String,
    /// The Redis server without persistence, database 0: cache, sessions and rate limits.
    pub redis_url: String,
    /// The Redis server that syncs each write to disk, database 2: queues.
    pub queue_url: String,
}

/// The one line that a keeper writes to its standard output.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Report {
    Failed { error: String },
    Ready(Urls),
}

/// Running private servers. Dropping it ends them and waits until they are gone.
pub struct Servers {
    keeper: Child,
    urls: Urls,
}

impl Servers {
    /// Starts the servers of the data directory `dir` (made if it is missing) through a keeper,
    /// `<program> local-servers`, and waits until they answer. Blocks: seconds the first time, less than one
    /// later. With `throwaway` the directory is deleted at the end.
    ///
    /// # Errors
    /// Every reason is one plain sentence: something to install, another user of `dir`, no rights, no disk.
    pub fn start(program: &Path, dir: &Path, throwaway: bool) -> Result<Servers, LocalError> {
        let mut command = Command::new(program);
        command.arg("local-servers").arg("--data-dir").arg(dir);
        if throwaway {
            command.arg("--throwaway");
        }
        // A process group of its own: a Ctrl-C in the terminal reaches us first, then we end the servers.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut keeper =
            command.spawn().map_err(|source| LocalError::Run { program: program.to_owned(), source })?;
        let mut line = String::new();
        if let Some(stdout) = keeper.stdout.take() {
            // Unreadable output is an empty line, which is reported below.
            BufReader::new(stdout).read_line(&mut line).ok();
        }
        match serde_json::from_str(&line) {
            Ok(Report::Ready(urls)) => Ok(Servers { keeper, urls }),
            Ok(Report::Failed { error }) => {
                end(&mut keeper);
                Err(LocalError::Keeper(error))
            }
            Err(_) => {
                end(&mut keeper);
                Err(LocalError::Silent)
            }
        }
    }

    /// Where the servers listen. They keep their ports while they run.
    #[must_use]
    pub fn urls(&self) -> &Urls {
        &self.urls
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        end(&mut self.keeper);
    }
}

/// Lets the keeper end its servers, and waits for it. A keeper that is already gone is fine.
fn end(keeper: &mut Child) {
    drop(keeper.stdin.take());
    keeper.wait().ok();
}
