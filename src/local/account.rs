//! The system account that the servers run as. PostgreSQL refuses to run as root, so when we are root the
//! servers get a lesser account: the one that owns their data already, else `postgres`, else `nobody`.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::error::LocalError;

/// How to run a server: as ourselves, or as a lesser account when we are root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Account {
    Ourselves,
    Lesser { uid: u32, gid: u32 },
}

impl Account {
    /// The account for servers whose data is (or will be) in `data`.
    pub(super) fn choose(data: &Path) -> Result<Account, LocalError> {
        if id(&["-u"]) != Some(0) {
            return Ok(Account::Ourselves);
        }
        match std::fs::metadata(data) {
            Ok(owner) if owner.uid() != 0 => Ok(Account::Lesser { uid: owner.uid(), gid: owner.gid() }),
            _ => ["postgres", "nobody"].into_iter().find_map(named).ok_or(LocalError::NoAccount),
        }
    }

    /// A command as this account with `dir` as its current directory, a bare environment and no input.
    pub(super) fn command(self, program: &Path, dir: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(dir).env_clear().env("LC_ALL", "C").stdin(Stdio::null());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        if let Account::Lesser { uid, gid } = self {
            // As root, std also drops the supplementary groups.
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Whether this account can enter `dir`: root's own folders (such as a clone in /root) are closed to
    /// others. Found out by trying, since more than mode bits may decide.
    pub(super) async fn reaches(self, dir: &Path) -> bool {
        if self == Account::Ourselves {
            return true;
        }
        let mut probe = self.command(Path::new("/bin/sh"), dir);
        probe.args(["-c", ":"]).stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().await.is_ok_and(|status| status.success())
    }

    /// Gives `path` to this account.
    pub(super) fn own(self, path: &Path) -> Result<(), LocalError> {
        match self {
            Account::Ourselves => Ok(()),
            Account::Lesser { uid, gid } => {
                chown(path, Some(uid), Some(gid)).map_err(|source| LocalError::path(path, source))
            }
        }
    }
}

fn named(name: &str) -> Option<Account> {
    Some(Account::Lesser { uid: id(&["-u", name])?, gid: id(&["-g", name])? })
}

/// Asks POSIX `id`, which knows every source of accounts (and std has no `geteuid`).
fn id(args: &[&str]) -> Option<u32> {
    let output = std::process::Command::new("id").args(args).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
