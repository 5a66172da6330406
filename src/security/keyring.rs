//! Sealing what is stored: AES-256-GCM with a random nonce. The name of the key stands with the ciphertext, and a
//! ciphertext opens only in the place that it was sealed for: moved to another row it is worthless.

use std::fmt;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key};
use hmac::{Hmac, Mac};
use rand::Rng;
use sha2::Sha256;

use crate::settings::Secret;

/// The first byte of what is sealed in this way.
const FORMAT: u8 = 1;
const KEY_ID_BYTES: usize = 8;
/// Source: NIST SP 800-38D, 8.2: 96 bits are what GCM is meant for.
const NONCE_BYTES: usize = 12;
const HEAD_BYTES: usize = 1 + KEY_ID_BYTES + NONCE_BYTES;
/// What keys' names are made of.
const KEY_ID_INPUT: &[u8] = b"chatpulse key id";

/// Keys, the newest first. The newest seals, all of them open.
#[derive(Clone)]
pub struct Keyring {
    keys: Vec<SealingKey>,
}

#[derive(Clone)]
struct SealingKey {
    id: KeyId,
    cipher: Aes256Gcm,
}

/// A key's name: tells keys apart, and nothing of what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyId([u8; KEY_ID_BYTES]);

/// Where something sealed is stored.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub table: &'static str,
    pub column: &'static str,
    /// The row's id. Has no zero bytes.
    pub row: &'a str,
}

/// Why something is not sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    #[error("no key to encrypt with: set security.encryption_keys (CHATPULSE_SECURITY__ENCRYPTION_KEYS)")]
    NoKey,
    #[error("it was encrypted with the key {0}, which is not in security.encryption_keys (any more)")]
    UnknownKey(KeyId),
    #[error("what is stored does not open: it was damaged, or belongs to another row")]
    Broken,
}

impl Keyring {
    /// The keys of the settings, newest first.
    pub fn new(keys: &[Secret<[u8; 32]>]) -> Keyring {
        Keyring { keys: keys.iter().map(|key| SealingKey::new(key.expose())).collect() }
    }

    /// The name of the key that seals.
    ///
    /// # Errors
    /// [`KeyringError::NoKey`].
    pub fn newest(&self) -> Result<KeyId, KeyringError> {
        self.keys.first().map(|key| key.id).ok_or(KeyringError::NoKey)
    }

    /// Seals `secret` for `place`, with the newest key.
    ///
    /// # Errors
    /// [`KeyringError::NoKey`].
    pub fn seal(&self, place: Place<'_>, secret: &str) -> Result<Vec<u8>, KeyringError> {
        let key = self.keys.first().ok_or(KeyringError::NoKey)?;
        let mut nonce = [0u8; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        let payload = Payload { msg: secret.as_bytes(), aad: &place.with(key.id) };
        // Fails for more than 64 GiB only.
        let ciphertext = key.cipher.encrypt(&nonce.into(), payload).map_err(|_| KeyringError::Broken)?;
        let mut sealed = Vec::with_capacity(HEAD_BYTES + ciphertext.len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&key.id.0);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&ciphertext);
        Ok(sealed)
    }

    /// Opens what was sealed for `place`, with whichever key it was.
    ///
    /// # Errors
    /// [`KeyringError::UnknownKey`], [`KeyringError::Broken`].
    pub fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Secret<String>, KeyringError> {
        let (id, nonce, ciphertext) = parts(sealed).ok_or(KeyringError::Broken)?;
        let key = self.keys.iter().find(|key| key.id == id).ok_or(KeyringError::UnknownKey(id))?;
        let payload = Payload { msg: ciphertext, aad: &place.with(id) };
        let opened = key.cipher.decrypt(&nonce.into(), payload).map_err(|_| KeyringError::Broken)?;
        String::from_utf8(opened).map(Secret::new).map_err(|_| KeyringError::Broken)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| key.id)).finish()
    }
}

impl SealingKey {
    fn new(key: &[u8; 32]) -> SealingKey {
        let mut id = [0u8; KEY_ID_BYTES];
        let mac = Hmac::<Sha256>::new_from_slice(key);
        // An HMAC takes keys of any length.
        let mut mac = mac.expect("a key of any length");
        mac.update(KEY_ID_INPUT);
        id.copy_from_slice(&mac.finalize().into_bytes()[..KEY_ID_BYTES]);
        SealingKey { id: KeyId(id), cipher: Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key)) }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Place<'_> {
    /// What has to be the same when it is opened.
    fn with(&self, key: KeyId) -> Vec<u8> {
        let mut data = [self.table, self.column, self.row].join("\0").into_bytes();
        data.push(0);
        data.extend_from_slice(&key.0);
        data
    }
}

fn parts(sealed: &[u8]) -> Option<(KeyId, [u8; NONCE_BYTES], &[u8])> {
    let (&[format], rest) = sealed.split_first_chunk()?;
    let (id, rest) = rest.split_first_chunk::<KEY_ID_BYTES>()?;
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>()?;
    (format == FORMAT).then_some((KeyId(*id), *nonce, ciphertext))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = Place { table: "oauth_tokens", column: "access_token", row: "bot/7" };

    fn key(byte: u8) -> Secret<[u8; 32]> {
        Secret::new([byte; 32])
    }

    #[test]
    fn what_was_sealed_opens_in_its_place_alone() {
        let keyring = Keyring::new(&[key(1)]);
        let sealed = keyring.seal(PLACE, "a token").unwrap();
        assert_eq!(keyring.open(PLACE, &sealed).unwrap().expose(), "a token");
        for elsewhere in [
            Place { table: "users", ..PLACE },
            Place { column: "refresh_token", ..PLACE },
            Place { row: "bot/8", ..PLACE },
        ] {
            assert_eq!(keyring.open(elsewhere, &sealed).unwrap_err(), KeyringError::Broken);
        }
    }

    #[test]
    fn the_same_secret_never_looks_the_same() {
        let keyring = Keyring::new(&[key(1)]);
        let sealed = [keyring.seal(PLACE, "a token").unwrap(), keyring.seal(PLACE, "a token").unwrap()];
        assert_ne!(sealed[0], sealed[1]);
        assert!(sealed.iter().all(|sealed| !sealed.windows(7).any(|bytes| bytes == b"a token")));
    }

    #[test]
    fn older_keys_open_and_the_newest_seals() {
        let old = Keyring::new(&[key(1)]);
        let sealed = old.seal(PLACE, "a token").unwrap();
        let rotated = Keyring::new(&[key(2), key(1)]);
        assert_eq!(rotated.open(PLACE, &sealed).unwrap().expose(), "a token");
        let anew = rotated.seal(PLACE, "a token").unwrap();
        assert_eq!(Keyring::new(&[key(2)]).open(PLACE, &anew).unwrap().expose(), "a token");
        let unknown = Keyring::new(&[key(2)]).open(PLACE, &sealed).unwrap_err();
        assert_eq!(unknown, KeyringError::UnknownKey(old.newest().unwrap()));
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let keyring = Keyring::new(&[key(1)]);
        let sealed = keyring.seal(PLACE, "a token").unwrap();
        for place in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[place] ^= 1;
            assert!(keyring.open(PLACE, &damaged).is_err(), "byte {place}");
            assert!(keyring.open(PLACE, &sealed[..place]).is_err(), "{place} bytes");
        }
    }

    #[test]
    fn without_a_key_nothing_is_sealed_and_the_setting_is_named() {
        let none = Keyring::new(&[]).seal(PLACE, "a token").unwrap_err();
        assert!(none.to_string().contains("security.encryption_keys"), "{none}");
    }

    #[test]
    fn keys_are_never_shown() {
        let keyring = Keyring::new(&[key(0xab)]);
        assert!(!format!("{keyring:?}").contains("abab"), "{keyring:?}");
    }
}
