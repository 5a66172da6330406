//! The data directory of private servers: who may use it, and where the data really lies.
//!
//! ```text
//! <dir>/private.json  passwords and ports       <dir>/lock         held by the keeper
//! <dir>/postgres      PostgreSQL's data         <dir>/*.log        what the servers say
//! <dir>/redis-cache   nothing is kept           <dir>/redis-queue  append-only file
//! ```
//!
//! As root the servers run as a lesser account, which cannot enter root's own folders, such as a clone in
//! /root. Then the three data folders lie in `/var/lib/chatpulse/<hash of dir>` and `<dir>` has links to them.

use std::fs::{File, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::account::Account;
use super::error::LocalError;
use super::server::Kind;

const OUTSIDE: &str = "/var/lib/chatpulse";
/// In a folder outside: the data directory that it belongs to.
const BELONGS_TO: &str = "belongs-to";

/// An open data directory; nobody else can open it until this is dropped.
pub(super) struct Home {
    /// The data directory as it was named, for messages.
    pub(super) named: PathBuf,
    dir: PathBuf,
    /// Where the data folders lie: `dir`, or a folder outside.
    data: PathBuf,
    pub(super) account: Account,
    _lock: File,
}

impl Home {
    /// Opens (and makes, if missing) the data directory and takes its lock.
    pub(super) async fn open(named: &Path) -> Result<Home, LocalError> {
        make_dir(named)?;
        let dir = named.canonicalize().map_err(|source| LocalError::path(named, source))?;
        let lock = lock(named, &dir.join("lock"))?;
        let account = Account::choose(&dir.join(Kind::Postgres.folder()))?;
        let data = if account.reaches(&dir).await { dir.clone() } else { open_outside(&dir)? };
        let home = Home { named: named.to_owned(), dir, data, account, _lock: lock };
        home.link_folders()?;
        Ok(home)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder with the data of one server.
    pub(super) fn folder(&self, kind: Kind) -> PathBuf {
        self.data.join(kind.folder())
    }

    pub(super) fn log(&self, kind: Kind) -> PathBuf {
        self.dir.join(kind.folder()).with_extension("log")
    }

    /// Makes a folder of the data that belongs to the servers' account and is closed to others.
    pub(super) fn make_folder(&self, path: &Path) -> Result<(), LocalError> {
        make_dir(path)?;
        let closed = std::fs::set_permissions(path, Permissions::from_mode(0o700));
        closed.map_err(|source| LocalError::path(path, source))?;
        self.account.own(path)
    }

    /// Removes data outside whose data directory was deleted and made anew, which nobody has passwords for.
    /// The servers must have ended. What lies in the data directory itself is never removed: it is refused.
    pub(super) fn clear_outside(&self) -> Result<(), LocalError> {
        if self.data == self.dir {
            let found = self.folder(Kind::Postgres).exists();
            return if found { Err(LocalError::OtherPassword(self.named.clone())) } else { Ok(()) };
        }
        Kind::ALL.into_iter().try_for_each(|kind| remove(&self.folder(kind)))
    }

    /// Deletes the data directory, here and outside.
    pub(super) fn delete(self) -> Result<(), LocalError> {
        if self.data != self.dir {
            remove(&self.data)?;
        }
        remove(&self.dir)
    }

    fn link_folders(&self) -> Result<(), LocalError> {
        if self.data == self.dir {
            return Ok(());
        }
        for kind in Kind::ALL {
            let link = self.dir.join(kind.folder());
            // A link from before is replaced; a folder from before (another account's) is in the way.
            if link.is_symlink() {
                remove(&link)?;
            }
            symlink(self.folder(kind), &link).map_err(|source| LocalError::path(&link, source))?;
        }
        Ok(())
    }
}

fn lock(named: &Path, path: &Path) -> Result<File, LocalError> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|source| LocalError::path(path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LocalError::InUse(named.to_owned())),
        Err(TryLockError::Error(source)) => Err(LocalError::path(path, source)),
    }
}

/// The folder outside that belongs to `dir`, made if it is missing. One whose owner was moved to `dir`
/// (its links came along) moves too; one whose owner still exists was only copied, and stays the owner's.
fn open_outside(dir: &Path) -> Result<PathBuf, LocalError> {
    let name = hex::encode(&Sha256::digest(dir.as_os_str().as_encoded_bytes())[..8]);
    let outside = Path::new(OUTSIDE).join(name);
    let linked = std::fs::read_link(dir.join(Kind::Postgres.folder())).ok();
    let linked = linked.as_deref().and_then(Path::parent).filter(|linked| linked.starts_with(OUTSIDE));
    make_dir(Path::new(OUTSIDE))?;
    if let Some(linked) = linked.filter(|linked| *linked != outside && linked.is_dir())
        && !outside.exists()
        && std::fs::read_to_string(linked.join(BELONGS_TO)).is_ok_and(|owner| !Path::new(&owner).exists())
    {
        std::fs::rename(linked, &outside).map_err(|source| LocalError::path(&outside, source))?;
    }
    make_dir(&outside)?;
    let owner = outside.join(BELONGS_TO);
    std::fs::write(&owner, dir.as_os_str().as_encoded_bytes())
        .map_err(|source| LocalError::path(&owner, source))?;
    Ok(outside)
}

/// Makes a folder that others may enter, whatever the umask; one that exists stays as it is.
fn make_dir(path: &Path) -> Result<(), LocalError> {
    if path.is_dir() {
        return Ok(());
    }
    let made = std::fs::create_dir_all(path)
        .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o755)));
    made.map_err(|source| LocalError::path(path, source))
}

/// Removes a folder with all in it, a link or a file; nothing there is fine.
pub(super) fn remove(path: &Path) -> Result<(), LocalError> {
    let is_folder = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let removed = if is_folder { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(LocalError::path(path, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_has_one_user_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Home::open(dir.path()).await.unwrap();
        let error = Home::open(dir.path()).await.err().unwrap();
        assert!(matches!(error, LocalError::InUse(_)), "{error}");
        first.delete().unwrap();
        assert!(!dir.path().exists());
    }

    #[tokio::test]
    async fn the_servers_account_reaches_its_folders_also_below_a_closed_directory() {
        // tempdir makes it 0700: as root, closed to the servers' account.
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).await.unwrap();
        let folder = home.folder(Kind::Queue);
        home.make_folder(&folder).unwrap();
        assert!(home.account.reaches(&folder).await);
        assert!(dir.path().join("redis-queue").is_dir(), "it is seen in the directory too");
        let data = home.data.clone();
        home.delete().unwrap();
        assert!(!data.exists(), "{}", data.display());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = make_dir(Path::new("/dev/null/x")).unwrap_err().to_string();
        assert!(error.starts_with("/dev/null/x cannot be used"), "{error}");
    }
}
