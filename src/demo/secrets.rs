//! The demo's own secrets, kept with its data: what was stored and who was signed in outlive a restart.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rand::Rng;

const FILE: &str = "demo-secrets";
const SECRET_BYTES: usize = 32;

/// Secrets of 64 hex characters.
pub struct Secrets {
    pub session_key: String,
    pub encryption_key: String,
    pub webhook_secret: String,
    pub bootstrap_token: String,
}

impl Secrets {
    /// The secrets in this folder; made up when there are none yet.
    ///
    /// # Errors
    /// [`std::io::Error`] when they can't be read or kept.
    pub fn of(data_dir: &Path) -> std::io::Result<Secrets> {
        let path = data_dir.join(FILE);
        if let Some(secrets) = std::fs::read_to_string(&path).ok().as_deref().and_then(parse) {
            return Ok(secrets);
        }
        let text = [(); 4].map(|()| random()).join("\n");
        std::fs::create_dir_all(data_dir)?;
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())?;
        parse(&text).ok_or_else(|| std::io::Error::other("secrets that were just made can't be read"))
    }
}

/// Anything but four secrets is made anew.
fn parse(text: &str) -> Option<Secrets> {
    let fits = |line: &&str| line.len() == 2 * SECRET_BYTES && hex::decode(line).is_ok();
    let lines: Vec<&str> = text.lines().filter(fits).collect();
    let [session_key, encryption_key, webhook_secret, bootstrap_token] = lines[..] else { return None };
    Some(Secrets {
        session_key: session_key.into(),
        encryption_key: encryption_key.into(),
        webhook_secret: webhook_secret.into(),
        bootstrap_token: bootstrap_token.into(),
    })
}

fn random() -> String {
    let mut bytes = [0u8; SECRET_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_the_same_and_are_nobody_elses_to_read() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let first = Secrets::of(folder.path()).unwrap();
        let second = Secrets::of(folder.path()).unwrap();
        assert_eq!(first.session_key, second.session_key);
        assert_ne!(first.session_key, first.encryption_key);
        let mode = std::fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
        std::fs::write(folder.path().join(FILE), "broken").unwrap();
        assert_ne!(Secrets::of(folder.path()).unwrap().session_key, first.session_key);
    }
}
