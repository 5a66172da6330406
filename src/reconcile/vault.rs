//! The tokens of Twitch users: sealed in PostgreSQL, opened when they are used.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::ReconcileError;
use crate::journal::Journal;
use crate::journal::tokens::{NewToken, Owner, StoredToken};
use crate::security::keyring::{Keyring, KeyringError, Place};
use crate::settings::Secret;
use crate::twitch::client::{Client, TwitchError};
use crate::twitch::oauth::{AccessToken, UserGrant};

/// Nobody else refreshes a token for so long: longer than Twitch may take to answer.
pub const REFRESH_LEASE: Duration = Duration::from_secs(90);
/// So often it is tried to store what Twitch has answered, with a second between: the old token may be worthless.
const STORE_TRIES: usize = 15;

/// Tokens that one statement reads.
const TOKENS_A_CALL: i64 = 100;

const TABLE: &str = "oauth_tokens";
const ACCESS: &str = "access_token";
const REFRESH: &str = "refresh_token";

/// Where tokens are kept.
#[derive(Clone)]
pub struct Vault {
    journal: Journal,
    keyring: Keyring,
    client: Client,
}

/// What became of refreshing a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// There is a new one.
    Renewed,
    /// Twitch does not accept the refresh token any more: the owner has to sign in again.
    Ended,
}

impl Vault {
    pub fn new(journal: Journal, keyring: Keyring, client: Client) -> Vault {
        Vault { journal, keyring, client }
    }

    /// Whether tokens can be stored.
    ///
    /// # Errors
    /// [`KeyringError::NoKey`].
    pub fn check(&self) -> Result<(), KeyringError> {
        self.keyring.newest().map(|_| ())
    }

    /// Stores what signing in brought, in place of the token that the owner had.
    ///
    /// # Errors
    /// [`ReconcileError`] when there is no key, or PostgreSQL is away.
    pub async fn store(&self, owner: &Owner, login: &str, grant: &UserGrant) -> Result<(), ReconcileError> {
        Ok(self.journal.store_token(&self.sealed(owner, login, grant)?).await?)
    }

    /// A stored token's access token.
    ///
    /// # Errors
    /// [`ReconcileError::Keyring`] when it can't be opened.
    pub fn open_access(&self, stored: &StoredToken) -> Result<AccessToken, ReconcileError> {
        let access = self.keyring.open(place(&stored.owner.row(), ACCESS), &stored.access)?;
        Ok(AccessToken::new(access))
    }

    /// Refreshes a token that the caller has taken on. What Twitch answers is stored before anybody uses it.
    ///
    /// # Errors
    /// [`ReconcileError`] when it is not known what became of it: it is tried again when the lease has lapsed, with
    /// the refresh token that stands there then.
    pub async fn refresh(&self, taken: &StoredToken) -> Result<Refreshed, ReconcileError> {
        let refresh = self.keyring.open(place(&taken.owner.row(), REFRESH), &taken.refresh)?;
        let grant = match self.client.refresh(&refresh).await {
            Ok(grant) => grant,
            Err(TwitchError::Refused { status, message, .. }) if is_end(status, &message) => {
                let reason = format!("Twitch refused to refresh it ({status}): {message}");
                let ended = self.journal.invalidate_token(&taken.owner, taken.generation, &reason).await?;
                // Else there is a newer token: somebody was faster.
                return Ok(if ended { Refreshed::Ended } else { Refreshed::Renewed });
            }
            Err(error) => return Err(error.into()),
        };
        let new = self.sealed(&taken.owner, &taken.login, &grant)?;
        // If it is not there any more the owner has signed in anew, and that token is as good.
        let used = digest(&refresh);
        let mut stored = self.journal.store_refreshed(&used, &new).await;
        for _ in 1..STORE_TRIES {
            if stored.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            stored = self.journal.store_refreshed(&used, &new).await;
        }
        stored?;
        Ok(Refreshed::Renewed)
    }

    fn sealed(&self, owner: &Owner, login: &str, grant: &UserGrant) -> Result<NewToken, KeyringError> {
        let row = owner.row();
        Ok(NewToken {
            owner: owner.clone(),
            login: login.to_owned(),
            scopes: grant.scopes.clone(),
            access: self.keyring.seal(place(&row, ACCESS), grant.access.secret().expose())?,
            refresh: self.keyring.seal(place(&row, REFRESH), grant.refresh.expose())?,
            refresh_hash: digest(&grant.refresh),
            key_id: self.keyring.newest()?.to_string(),
            expires_in: grant.expires_in,
        })
    }
}

/// What sealing all tokens again came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotated {
    /// How many are sealed with the newest key now, and were not before.
    pub resealed: usize,
    /// Those that no key opens: they are as they were.
    pub unopened: Vec<Unopened>,
}

/// A token that no key opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unopened {
    /// Whose it is, for people.
    pub whose: String,
    pub why: KeyringError,
}

/// Seals everything again that is not sealed with the newest key, tokens and operators' second factors, and leaves as it
/// is what no key opens; tells how much it has done so far.
///
/// # Errors
/// [`ReconcileError`] when there is no key, or PostgreSQL is away; what was done stays done.
pub async fn rotate(
    journal: &Journal,
    keyring: &Keyring,
    mut done: impl FnMut(usize),
) -> Result<Rotated, ReconcileError> {
    let newest = keyring.newest()?.to_string();
    let (mut rotated, mut after) = (Rotated::default(), None);
    loop {
        let tokens = journal.tokens_sealed_otherwise(&newest, after.as_ref(), TOKENS_A_CALL).await?;
        let Some(last) = tokens.last() else { break };
        after = Some(last.owner.clone());
        for token in &tokens {
            match seal_again(keyring, token) {
                Ok((access, refresh)) => {
                    // One that is another token by now was sealed by an instance, with the newest key that it knows.
                    let stored = journal.reseal_token(token, &access, &refresh, &newest).await?;
                    rotated.resealed += usize::from(stored);
                    done(rotated.resealed);
                }
                Err(error @ KeyringError::NoKey) => return Err(error.into()),
                Err(why) => {
                    let whose = format!("{} ({})", token.owner.row(), token.login);
                    rotated.unopened.push(Unopened { whose, why });
                }
            }
        }
    }
    rotate_second_factors(journal, keyring, &mut rotated, done).await?;
    Ok(rotated)
}

/// The same for operators' second factors.
async fn rotate_second_factors(
    journal: &Journal,
    keyring: &Keyring,
    rotated: &mut Rotated,
    mut done: impl FnMut(usize),
) -> Result<(), ReconcileError> {
    let newest = keyring.newest()?.to_string();
    let mut after = None;
    loop {
        let seeds = journal.mfa_secrets_sealed_otherwise(&newest, after, TOKENS_A_CALL).await?;
        let Some((last, _)) = seeds.last() else { return Ok(()) };
        after = Some(*last);
        for (operator_id, seed) in &seeds {
            let row = operator_id.to_string();
            let place = second_factor_place(&row);
            let again = keyring.open(place, &seed.sealed).and_then(|open| keyring.seal(place, open.expose()));
            match again {
                Ok(sealed) => {
                    let stored = journal.reseal_mfa_secret(*operator_id, seed, &sealed, &newest).await?;
                    rotated.resealed += usize::from(stored);
                    done(rotated.resealed);
                }
                Err(error @ KeyringError::NoKey) => return Err(error.into()),
                Err(why) => {
                    let whose = format!("the second factor of operator {operator_id}");
                    rotated.unopened.push(Unopened { whose, why });
                }
            }
        }
    }
}

/// Where an operator's second factor stands; `row` is the operator's id.
pub fn second_factor_place(row: &str) -> Place<'_> {
    Place { table: "mfa_secrets", column: "secret", row }
}

/// A token's access and refresh tokens, sealed with the newest key.
fn seal_again(keyring: &Keyring, token: &StoredToken) -> Result<(Vec<u8>, Vec<u8>), KeyringError> {
    let row = token.owner.row();
    let again = |column, sealed: &[u8]| {
        let opened = keyring.open(place(&row, column), sealed)?;
        keyring.seal(place(&row, column), opened.expose())
    };
    Ok((again(ACCESS, &token.access)?, again(REFRESH, &token.refresh)?))
}

/// Whether it is the refresh token that Twitch refuses. Source: Twitch, "Refreshing access tokens": 400 for an invalid
/// one, 401 once the user has disconnected the application or changed the password. Another 400 or a 403 is about our
/// settings: a wrong client secret must not end everybody's token.
fn is_end(status: u16, message: &str) -> bool {
    status == 401 || (status == 400 && message.to_ascii_lowercase().contains("refresh token"))
}

fn place<'a>(row: &'a str, column: &'static str) -> Place<'a> {
    Place { table: TABLE, column, row }
}

fn digest(refresh: &Secret<String>) -> [u8; 32] {
    Sha256::digest(refresh.expose()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_setting_of_ours_ends_nobodys_token() {
        assert!(is_end(400, "Invalid refresh token") && is_end(401, "unauthorized"));
        assert!(!is_end(400, "missing client id") && !is_end(403, "invalid client secret"));
    }
}
