//! Passwords at rest: argon2id, off the async threads and few at a time, because each takes 19 MiB and tens of
//! milliseconds of a processor.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::Error as HashError;
use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version};
use rand::RngExt;
use tokio::sync::Semaphore;

use crate::settings::Secret;

/// Source of these three: OWASP Password Storage Cheat Sheet, argon2id.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const PARAMS: Params = match Params::new(MEMORY_KIB, PASSES, LANES, None) {
    Ok(params) => params,
    // The compiler works this out, so a wrong number doesn't build.
    Err(_) => panic!("argon2 takes these parameters"),
};
/// How long a password waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// What one-time passwords are made of: nothing that looks like something else.
const LETTERS: &[u8] = b"23456789abcdefghjkmnpqrstuvwxyz";
/// 99 random bits.
const RANDOM_LETTERS: usize = 20;
const RANDOM_GROUP: usize = 5;

/// Hashes passwords and compares them, so many at a time.
#[derive(Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
}

/// Why a password was neither hashed nor compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    #[error("too many passwords are being checked: try again in a few seconds")]
    Busy,
    #[error("the password hash that is stored can't be read: set a new password")]
    Unreadable,
    #[error("a password could not be hashed: {0}")]
    Failed(HashError),
    #[error("the work on a password ended before it was done: try again")]
    Stopped,
}

impl Passwords {
    /// Works on `at_once` passwords at a time, at least one.
    pub fn new(at_once: usize) -> Passwords {
        Passwords { turns: Arc::new(Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS))) }
    }

    /// The hash to store, with its salt and its parameters (a PHC string).
    ///
    /// # Errors
    /// All but [`PasswordError::Unreadable`].
    pub async fn hash(&self, password: &Secret<String>) -> Result<String, PasswordError> {
        let password = password.clone();
        self.take_turn(move || hashed(&password)).await?
    }

    /// Whether `password` is the one of `hash`. Where there is no account (`None`) it is compared with a hash that
    /// costs the same and the answer is no, so that nobody learns from the time whether there is one.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub async fn verify(&self, password: &Secret<String>, hash: Option<&str>) -> Result<bool, PasswordError> {
        let known = hash.is_some();
        let hash = hash.map_or_else(nobodys_hash, str::to_owned);
        let password = password.clone();
        let same = self.take_turn(move || compared(&password, &hash)).await??;
        Ok(known && same)
    }

    /// A one-time password: random, easy to type, long enough for everybody's rules.
    pub fn random() -> Secret<String> {
        let mut rng = rand::rng();
        let mut password = String::with_capacity(RANDOM_LETTERS + RANDOM_LETTERS / RANDOM_GROUP);
        for place in 0..RANDOM_LETTERS {
            if place > 0 && place.is_multiple_of(RANDOM_GROUP) {
                password.push('-');
            }
            password.push(char::from(LETTERS[rng.random_range(0..LETTERS.len())]));
        }
        Secret::new(password)
    }

    /// Does `work` on a thread for it, in its turn. The turn lasts as long as the work, also where nobody waits for
    /// the answer any more.
    async fn take_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.turns).acquire_owned()).await;
        let turn = turn.map_err(|_| PasswordError::Busy)?.map_err(|_| PasswordError::Stopped)?;
        let work = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        work.await.map_err(|_| PasswordError::Stopped)
    }
}

fn argon2id() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, PARAMS)
}

fn hashed(password: &Secret<String>) -> Result<String, PasswordError> {
    let hash: PasswordHash =
        argon2id().hash_password(password.expose().as_bytes()).map_err(PasswordError::Failed)?;
    Ok(hash.to_string())
}

/// Constant in time for hashes with the same parameters.
fn compared(password: &Secret<String>, hash: &str) -> Result<bool, PasswordError> {
    let hash = PasswordHash::new(hash).map_err(|_| PasswordError::Unreadable)?;
    // The hash's own parameters count, so that one from before they were raised is compared too.
    match argon2id().verify_password(password.expose().as_bytes(), &hash) {
        Ok(()) => Ok(true),
        Err(HashError::PasswordInvalid) => Ok(false),
        Err(error) => Err(PasswordError::Failed(error)),
    }
}

/// A hash as of an account: 16 bytes of salt and 32 of hash, in base64 without padding.
fn nobodys_hash() -> String {
    let (salt, hash) = ("A".repeat(22), "A".repeat(43));
    format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${hash}")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::task::{Context, Waker};

    use super::*;

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
        std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn the_right_password_alone_is_accepted() {
        let passwords = Passwords::new(2);
        let hash = passwords.hash(&secret("correct horse battery")).await.unwrap();
        assert!(passwords.verify(&secret("correct horse battery"), Some(&hash)).await.unwrap());
        assert!(!passwords.verify(&secret("correct horse batterz"), Some(&hash)).await.unwrap());
    }

    #[tokio::test]
    async fn a_hash_is_argon2id_with_a_salt_of_its_own() {
        let passwords = Passwords::new(2);
        let password = secret("correct horse battery");
        let hashes = [passwords.hash(&password).await.unwrap(), passwords.hash(&password).await.unwrap()];
        assert_ne!(hashes[0], hashes[1]);
        for hash in hashes {
            assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        }
    }

    #[tokio::test]
    async fn where_there_is_no_account_the_same_work_is_done_and_the_answer_is_no() {
        let passwords = Passwords::new(1);
        let real = passwords.hash(&secret("correct horse battery")).await.unwrap();
        let (real, nobodys) = (PasswordHash::new(&real).unwrap(), nobodys_hash());
        let nobodys = PasswordHash::new(&nobodys).unwrap();
        assert_eq!((nobodys.algorithm, nobodys.version), (real.algorithm, real.version));
        assert_eq!(nobodys.params, real.params);
        assert_eq!(nobodys.salt.unwrap().len(), real.salt.unwrap().len());
        assert_eq!(nobodys.hash.unwrap().len(), real.hash.unwrap().len());
        // An error would say that nothing was hashed.
        assert_eq!(passwords.verify(&secret("anything"), None).await, Ok(false));
    }

    #[tokio::test]
    async fn a_hash_that_is_none_is_an_error_and_no_match() {
        let passwords = Passwords::new(1);
        for hash in ["", "plain text", "$argon2id$v=19$m=19456,t=2,p=1$AAAA"] {
            assert!(!matches!(passwords.verify(&secret("plain text"), Some(hash)).await, Ok(true)), "{hash}");
        }
        assert_eq!(passwords.verify(&secret(""), Some("")).await, Err(PasswordError::Unreadable));
    }

    #[tokio::test]
    async fn work_beyond_the_bound_does_not_begin() {
        let passwords = Passwords::new(1);
        let (release, held) = mpsc::channel::<()>();
        let mut first = Box::pin(passwords.take_turn(move || held.recv()));
        assert!(is_pending(&mut first));

        let began = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&began);
        let mut second = Box::pin(passwords.take_turn(move || begins.store(true, Ordering::SeqCst)));
        assert!(is_pending(&mut second));
        drop(second);
        // Work that had begun would still be somewhere, or have left its mark.
        assert_eq!(Arc::strong_count(&began), 1);
        assert!(!began.load(Ordering::SeqCst));

        release.send(()).unwrap();
        first.await.unwrap().unwrap();
        passwords.take_turn(|| ()).await.unwrap();
    }

    #[tokio::test]
    async fn who_hangs_up_makes_no_room_while_the_work_goes_on() {
        let passwords = Passwords::new(1);
        let (release, held) = mpsc::channel::<()>();
        let mut first = Box::pin(passwords.take_turn(move || held.recv()));
        assert!(is_pending(&mut first));
        drop(first);
        assert_eq!(passwords.turns.available_permits(), 0);
        release.send(()).unwrap();
        passwords.take_turn(|| ()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told_to_come_again() {
        let passwords = Passwords::new(1);
        let _held = Arc::clone(&passwords.turns).acquire_owned().await.unwrap();
        assert_eq!(passwords.verify(&secret("anything"), None).await, Err(PasswordError::Busy));
    }

    #[tokio::test]
    async fn passwords_are_hashed_off_the_async_thread() {
        let elsewhere = Passwords::new(1).take_turn(|| std::thread::current().id()).await.unwrap();
        assert_ne!(elsewhere, std::thread::current().id());
    }

    #[test]
    fn one_time_passwords_are_long_plain_and_never_alike() {
        let passwords: Vec<Secret<String>> = (0..100).map(|_| Passwords::random()).collect();
        for password in &passwords {
            let groups: Vec<&str> = password.expose().split('-').collect();
            assert!(groups.len() == 4 && groups.iter().all(|group| group.len() == 5));
            assert!(groups.concat().bytes().all(|letter| LETTERS.contains(&letter)));
        }
        let different: std::collections::HashSet<&String> = passwords.iter().map(Secret::expose).collect();
        assert_eq!(different.len(), passwords.len());
    }
}
