//! What can go wrong with private servers, each as one plain sentence that says what to do.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why the private servers did not start.
#[derive(Debug, Error)]
pub enum LocalError {
    #[error(
        "{what} is missing: install {package}, or give DATABASE_URL and REDIS_URL of servers that already run."
    )]
    Missing { what: &'static str, package: &'static str },
    #[error("{what} {found} is too old, {needed} or newer is needed: install a newer version of {package}.")]
    TooOld { what: &'static str, found: String, needed: u32, package: &'static str },
    #[error("{dir} was made by PostgreSQL {made}, which is no longer installed: install it, or delete {dir} to start afresh.", dir = dir.display())]
    OtherMajor { dir: PathBuf, made: u32 },
    #[error("The private servers in {path} are already in use by another run: end that one first.", path = .0.display())]
    InUse(PathBuf),
    #[error("No right to use {path}: run as its owner, or choose another folder with --data-dir.", path = .0.display())]
    NoRights(PathBuf),
    #[error("The disk with {path} is full: free some space and start again.", path = .0.display())]
    DiskFull(PathBuf),
    #[error("{path} cannot be used ({source}): choose another folder with --data-dir.", path = path.display())]
    Path { path: PathBuf, source: io::Error },
    #[error("{path} cannot be understood ({source}): delete {dir} to start afresh.", path = path.display(), dir = dir.display())]
    Broken { path: PathBuf, dir: PathBuf, source: serde_json::Error },
    #[error("{path} has a PostgreSQL whose password is not the one kept beside it: delete the folder to start afresh, or choose another.", path = .0.display())]
    OtherPassword(PathBuf),
    #[error("{program} cannot be run: {source}.", program = program.display())]
    Run { program: PathBuf, source: io::Error },
    #[error(
        "PostgreSQL does not run as root, and there is no user postgres or nobody to run it as: add one, or start as another user."
    )]
    NoAccount,
    #[error("{what} did not start ({reason}): its log is {log}.", log = log.display())]
    Start { what: &'static str, reason: String, log: PathBuf },
    #[error("The roles in the private PostgreSQL could not be made: {0}.")]
    Roles(tokio_postgres::Error),
    #[error("Signals cannot be received: {0}.")]
    Signals(io::Error),
    #[error("{0}")]
    Keeper(String),
    #[error(
        "The private servers did not start and gave no reason: start them by hand with `chatpulse local-servers` to see why."
    )]
    Silent,
}

impl LocalError {
    /// The plain sentence for a failed use of `path`.
    pub(super) fn path(path: &Path, source: io::Error) -> LocalError {
        match source.kind() {
            io::ErrorKind::PermissionDenied => LocalError::NoRights(path.to_owned()),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                LocalError::DiskFull(path.to_owned())
            }
            _ => LocalError::Path { path: path.to_owned(), source },
        }
    }

    /// The plain sentence for a server (or `initdb`) that ended instead of starting, from what it logged.
    pub(super) fn from_log(what: &'static str, dir: &Path, log: &Path) -> LocalError {
        let text = std::fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        if text.contains("No space left on device") {
            return LocalError::DiskFull(dir.to_owned());
        }
        let telling = |line: &&str| {
            ["FATAL", "ERROR", "error", "rror:", "Failed", "failed", "could not"]
                .iter()
                .any(|word| line.contains(word))
        };
        let reason = text.lines().rev().find(telling).or_else(|| text.lines().last());
        LocalError::Start {
            what,
            reason: reason.unwrap_or("no reason given").trim().to_owned(),
            log: log.to_owned(),
        }
    }
}
