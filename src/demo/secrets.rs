//! The demo's own secrets, kept with its data: what was stored and who was signed in outlive a restart.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rand::Rng;

const FILE: &str = "demo-secrets";
const SECRETS: usize = 5;
/// What releases without accounts of operators kept: all but the last.
const EARLIER_SECRETS: usize = 4;
const SECRET_BYTES: usize = 32;

/// Secrets of 64 hex characters.
pub struct Secrets {
    pub session_key: String,
    pub encryption_key: String,
    pub webhook_secret: String,
    pub bootstrap_token: String,
    pub token_key: String,
}

impl Secrets {
    /// The secrets in this folder; made up when there are none yet.
    ///
    /// # Errors
    /// [`std::io::Error`] when they can't be read or kept.
    pub fn of(data_dir: &Path) -> std::io::Result<Secrets> {
        let path = data_dir.join(FILE);
        let mut lines = kept(&std::fs::read_to_string(&path).unwrap_or_default());
        if lines.len() != SECRETS {
            // Anything but what was kept is made anew.
            lines.truncate(if lines.len() == EARLIER_SECRETS { EARLIER_SECRETS } else { 0 });
            lines.resize_with(SECRETS, random);
            std::fs::create_dir_all(data_dir)?;
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(lines.join("\n").as_bytes())?;
        }
        let lines: [String; SECRETS] = lines
            .try_into()
            .map_err(|_| std::io::Error::other("secrets that were just made can't be read"))?;
        let [session_key, encryption_key, webhook_secret, bootstrap_token, token_key] = lines;
        Ok(Secrets { session_key, encryption_key, webhook_secret, bootstrap_token, token_key })
    }
}

/// The secrets that stand in a file.
fn kept(text: &str) -> Vec<String> {
    let fits = |line: &&str| line.len() == 2 * SECRET_BYTES && hex::decode(line).is_ok();
    text.lines().filter(fits).map(str::to_owned).collect()
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

    #[test]
    fn what_an_earlier_release_kept_is_kept_and_completed() {
        let folder = tempfile::tempdir().unwrap();
        let earlier: Vec<String> = (0..EARLIER_SECRETS).map(|_| random()).collect();
        std::fs::write(folder.path().join(FILE), earlier.join("\n")).unwrap();
        let Secrets { session_key, encryption_key, webhook_secret, bootstrap_token, token_key } =
            Secrets::of(folder.path()).unwrap();
        assert_eq!([session_key, encryption_key, webhook_secret, bootstrap_token][..], earlier);
        assert_eq!(Secrets::of(folder.path()).unwrap().token_key, token_key);
        assert!(!earlier.contains(&token_key));
    }
}
