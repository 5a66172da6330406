//! What is kept about the servers of a data directory between runs: passwords and ports, in `private.json`,
//! readable by its owner only.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::LocalError;
use super::server::Kind;

const FILE: &str = "private.json";

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Private {
    pub(super) superuser_password: String,
    pub(super) owner_password: String,
    pub(super) app_password: String,
    postgres_port: u16,
    cache_port: u16,
    queue_port: u16,
}

impl Private {
    /// Reads what is kept in `dir`; nothing there yet is `None`.
    pub(super) fn read(dir: &Path) -> Result<Option<Private>, LocalError> {
        let path = dir.join(FILE);
        match std::fs::read(&path) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(private) => Ok(Some(private)),
                Err(source) => Err(LocalError::Broken { path, dir: dir.to_owned(), source }),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LocalError::path(&path, error)),
        }
    }

    /// Fresh random passwords of 192 bits, and no ports yet.
    pub(super) fn fresh() -> Private {
        let password = || hex::encode(rand::random::<[u8; 24]>());
        Private {
            superuser_password: password(),
            owner_password: password(),
            app_password: password(),
            postgres_port: 0,
            cache_port: 0,
            queue_port: 0,
        }
    }

    /// Writes it to `dir`, whole or not at all, and through to the disk.
    pub(super) fn write(&self, dir: &Path) -> Result<(), LocalError> {
        let path = dir.join(FILE);
        let new = path.with_extension("new");
        let text = serde_json::to_vec(self).map_err(|source| LocalError::Broken {
            path: path.clone(),
            dir: dir.to_owned(),
            source,
        })?;
        let written = write_secret(&new, &text).and_then(|()| std::fs::rename(&new, &path));
        written.map_err(|source| LocalError::path(&path, source))
    }

    pub(super) fn port(&self, kind: Kind) -> u16 {
        match kind {
            Kind::Postgres => self.postgres_port,
            Kind::Cache => self.cache_port,
            Kind::Queue => self.queue_port,
        }
    }

    /// Keeps the port from last time if it is free, else takes another free one.
    pub(super) fn choose_port(&mut self, kind: Kind) -> std::io::Result<u16> {
        let last = self.port(kind);
        let free = |port| TcpListener::bind(("127.0.0.1", port)).and_then(|listener| listener.local_addr());
        let address = if last == 0 { free(0) } else { free(last).or_else(|_| free(0)) }?;
        self.set_port(kind, address.port());
        Ok(address.port())
    }

    pub(super) fn set_port(&mut self, kind: Kind, port: u16) {
        match kind {
            Kind::Postgres => self.postgres_port = port,
            Kind::Cache => self.cache_port = port,
            Kind::Queue => self.queue_port = port,
        }
    }
}

/// Writes a new file that only its owner can read.
pub(super) fn write_secret(path: &Path, text: &[u8]) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_kept_comes_back_and_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Private::read(dir.path()).unwrap().is_none());
        let mut private = Private::fresh();
        private.set_port(Kind::Queue, 4711);
        private.write(dir.path()).unwrap();
        let again = Private::read(dir.path()).unwrap().unwrap();
        assert_eq!(again.port(Kind::Queue), 4711);
        assert_eq!(again.app_password, private.app_password);
        let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_port_is_kept_while_it_is_free_and_left_when_it_is_taken() {
        let mut private = Private::fresh();
        let first = private.choose_port(Kind::Cache).unwrap();
        assert_eq!(private.choose_port(Kind::Cache).unwrap(), first);
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let _holder = TcpListener::bind(taken).or_else(|_| TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let held = _holder.local_addr().unwrap().port();
        private.set_port(Kind::Cache, held);
        assert_ne!(private.choose_port(Kind::Cache).unwrap(), held);
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        let error = Private::read(dir.path()).err().unwrap().to_string();
        assert!(error.contains("private.json cannot be understood"), "{error}");
    }
}
