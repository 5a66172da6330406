//! OAuth tokens at rest: sealed before they come here. Each question is one statement that an index answers.
//!
//! Only one instance at a time refreshes a token: who takes it on notes until when, skipping rows that somebody else
//! has locked. What the answer brings is stored where the refresh token is still the one that was used. What was taken
//! on and did not come about is taken on again after all others, so that it keeps none of them waiting.

use std::time::Duration;

use tokio_postgres::Row;

use super::{Journal, JournalError};
use crate::domain::time::Millis;

const COLUMNS: &str = "t.owner_kind, t.owner_id, t.login, t.scopes, t.access_token, t.refresh_token, \
                       chatpulse.unix_ms(t.expires_at), t.status, t.status_reason, t.generation, t.key_id";

/// Whose token it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OwnerKind {
    /// A streamer's, for their channel.
    Channel,
    /// An account's that reads and writes chat.
    Bot,
}

/// An owner of a token.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    pub kind: OwnerKind,
    /// Twitch's user id.
    pub id: String,
}

/// A token to be stored. Both ciphertexts are sealed for this owner's row.
#[derive(Clone)]
pub struct NewToken {
    pub owner: Owner,
    pub login: String,
    pub scopes: Vec<String>,
    pub access: Vec<u8>,
    pub refresh: Vec<u8>,
    /// SHA-256 of the refresh token.
    pub refresh_hash: [u8; 32],
    /// The key that both are sealed with.
    pub key_id: String,
    pub expires_in: Duration,
}

/// A token as it is stored.
#[derive(Clone, PartialEq)]
pub struct StoredToken {
    pub owner: Owner,
    pub login: String,
    pub scopes: Vec<String>,
    pub access: Vec<u8>,
    pub refresh: Vec<u8>,
    pub expires_at: Millis,
    /// Why it is not valid any more; `None` while it is.
    pub invalid: Option<String>,
    /// Counts the tokens of this owner.
    pub generation: i64,
    pub key_id: String,
}

impl OwnerKind {
    /// As it stands in the table.
    pub fn name(self) -> &'static str {
        match self {
            OwnerKind::Channel => "channel",
            OwnerKind::Bot => "bot",
        }
    }
}

impl Owner {
    pub fn channel(id: impl Into<String>) -> Owner {
        Owner { kind: OwnerKind::Channel, id: id.into() }
    }

    pub fn bot(id: impl Into<String>) -> Owner {
        Owner { kind: OwnerKind::Bot, id: id.into() }
    }

    /// The row's id, as ciphertexts are bound to it.
    pub fn row(&self) -> String {
        format!("{}/{}", self.kind.name(), self.id)
    }
}

impl std::fmt::Debug for StoredToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredToken")
            .field("owner", &self.owner)
            .field("expires_at", &self.expires_at)
            .field("invalid", &self.invalid)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Stores a token in place of the one that this owner had.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn store_token(&self, new: &NewToken) -> Result<(), JournalError> {
        let client = self.client().await?;
        client
            .query(
                "INSERT INTO chatpulse.oauth_tokens AS t (
                     owner_kind, owner_id, login, scopes, access_token, refresh_token, refresh_token_hash, key_id,
                     expires_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp() + make_interval(secs => $9))
                 ON CONFLICT (owner_kind, owner_id) DO UPDATE SET
                     login = excluded.login, scopes = excluded.scopes, access_token = excluded.access_token,
                     refresh_token = excluded.refresh_token, refresh_token_hash = excluded.refresh_token_hash,
                     key_id = excluded.key_id, expires_at = excluded.expires_at, status = 'valid',
                     status_reason = NULL, generation = t.generation + 1, refreshing_until = NULL,
                     validated_at = clock_timestamp(), validating_until = NULL, changed_at = clock_timestamp()",
                &[
                    &new.owner.kind.name(),
                    &new.owner.id,
                    &new.login,
                    &new.scopes,
                    &new.access,
                    &new.refresh,
                    &&new.refresh_hash[..],
                    &new.key_id,
                    &new.expires_in.as_secs_f64(),
                ],
            )
            .await?;
        Ok(())
    }

    /// Stores what the refresh token with the hash `used` brought; `false` when that is not this owner's refresh
    /// token any more, because they have signed in anew.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn store_refreshed(&self, used: &[u8; 32], new: &NewToken) -> Result<bool, JournalError> {
        let client = self.client().await?;
        let rows = client
            .query(
                "UPDATE chatpulse.oauth_tokens SET
                     scopes = $4, access_token = $5, refresh_token = $6, refresh_token_hash = $7, key_id = $8,
                     expires_at = clock_timestamp() + make_interval(secs => $9), status = 'valid',
                     status_reason = NULL, generation = generation + 1, refreshing_until = NULL,
                     validated_at = clock_timestamp(), validating_until = NULL, changed_at = clock_timestamp()
                 WHERE refresh_token_hash IN ($1, $7) AND owner_kind = $2 AND owner_id = $3
                 RETURNING 1",
                &[
                    &&used[..],
                    &new.owner.kind.name(),
                    &new.owner.id,
                    &new.scopes,
                    &new.access,
                    &new.refresh,
                    &&new.refresh_hash[..],
                    &new.key_id,
                    &new.expires_in.as_secs_f64(),
                ],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// An owner's token.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or the row can't be read.
    pub async fn token(&self, owner: &Owner) -> Result<Option<StoredToken>, JournalError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM chatpulse.oauth_tokens t WHERE t.owner_kind = $1 AND t.owner_id = $2"
        );
        let client = self.client().await?;
        let row = client.query_opt(&sql, &[&owner.kind.name(), &owner.id]).await?;
        row.as_ref().map(stored).transpose()
    }

    /// Takes on refreshing of tokens that expire within `ahead`, for `lease`: nobody else does meanwhile. Those
    /// that somebody is refreshing are left out; those that somebody has taken on in vain come last.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; they may be taken on all the same, until the lease lapses.
    pub async fn take_expiring_tokens(
        &self,
        ahead: Duration,
        lease: Duration,
        limit: i64,
    ) -> Result<Vec<StoredToken>, JournalError> {
        let sql = format!(
            "WITH due AS (
                 SELECT owner_kind, owner_id FROM chatpulse.oauth_tokens
                 WHERE status = 'valid' AND expires_at < clock_timestamp() + make_interval(secs => $1)
                   AND (refreshing_until IS NULL OR refreshing_until < clock_timestamp())
                 ORDER BY refreshing_until NULLS FIRST, expires_at LIMIT $3
                 FOR UPDATE SKIP LOCKED)
             UPDATE chatpulse.oauth_tokens t
             SET refreshing_until = clock_timestamp() + make_interval(secs => $2)
             FROM due d WHERE t.owner_kind = d.owner_kind AND t.owner_id = d.owner_id
             RETURNING {COLUMNS}"
        );
        let client = self.client().await?;
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&ahead.as_secs_f64(), &lease.as_secs_f64(), &limit];
        client.query(&sql, &params).await?.iter().map(stored).collect()
    }

    /// Takes on refreshing of one owner's token, if it is still of this generation and nobody else is refreshing it.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may be taken on all the same, until the lease lapses.
    pub async fn take_token(
        &self,
        owner: &Owner,
        generation: i64,
        lease: Duration,
    ) -> Result<Option<StoredToken>, JournalError> {
        let sql = format!(
            "UPDATE chatpulse.oauth_tokens t
             SET refreshing_until = clock_timestamp() + make_interval(secs => $4)
             WHERE t.owner_kind = $1 AND t.owner_id = $2 AND t.generation = $3 AND t.status = 'valid'
               AND (t.refreshing_until IS NULL OR t.refreshing_until < clock_timestamp())
             RETURNING {COLUMNS}"
        );
        let client = self.client().await?;
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&owner.kind.name(), &owner.id, &generation, &lease.as_secs_f64()];
        client.query_opt(&sql, &params).await?.as_ref().map(stored).transpose()
    }

    /// Takes on asking Twitch whether tokens are still valid: those of which Twitch has not said so for `every`. Nobody
    /// else asks for `lease`; those about which somebody has asked in vain come last.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; they may be taken on all the same, until the lease lapses.
    pub async fn take_unvalidated_tokens(
        &self,
        every: Duration,
        lease: Duration,
        limit: i64,
    ) -> Result<Vec<StoredToken>, JournalError> {
        let sql = format!(
            "WITH due AS (
                 SELECT owner_kind, owner_id FROM chatpulse.oauth_tokens
                 WHERE status = 'valid' AND validated_at < clock_timestamp() - make_interval(secs => $1)
                   AND (validating_until IS NULL OR validating_until < clock_timestamp())
                 ORDER BY validating_until NULLS FIRST, validated_at LIMIT $3
                 FOR UPDATE SKIP LOCKED)
             UPDATE chatpulse.oauth_tokens t
             SET validating_until = clock_timestamp() + make_interval(secs => $2)
             FROM due d WHERE t.owner_kind = d.owner_kind AND t.owner_id = d.owner_id
             RETURNING {COLUMNS}"
        );
        let client = self.client().await?;
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&every.as_secs_f64(), &lease.as_secs_f64(), &limit];
        client.query(&sql, &params).await?.iter().map(stored).collect()
    }

    /// Notes that Twitch has just said that these tokens are valid, as far as they are still the same ones.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away: they are due again when the lease lapses.
    pub async fn note_validated(&self, tokens: &[&StoredToken]) -> Result<(), JournalError> {
        let kinds: Vec<&str> = tokens.iter().map(|token| token.owner.kind.name()).collect();
        let ids: Vec<&str> = tokens.iter().map(|token| token.owner.id.as_str()).collect();
        let generations: Vec<i64> = tokens.iter().map(|token| token.generation).collect();
        let client = self.client().await?;
        client
            .query(
                "UPDATE chatpulse.oauth_tokens t
                 SET validated_at = clock_timestamp(), validating_until = NULL
                 FROM unnest($1::text[], $2::text[], $3::bigint[]) AS v (owner_kind, owner_id, generation)
                 WHERE t.owner_kind = v.owner_kind AND t.owner_id = v.owner_id AND t.generation = v.generation",
                &[&kinds, &ids, &generations],
            )
            .await?;
        Ok(())
    }

    /// Notes that a token of this generation is not valid any more, and why. `false` when there is a newer one, or it
    /// was noted before.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn invalidate_token(
        &self,
        owner: &Owner,
        generation: i64,
        reason: &str,
    ) -> Result<bool, JournalError> {
        let client = self.client().await?;
        let rows = client
            .query(
                "UPDATE chatpulse.oauth_tokens
                 SET status = 'invalid', status_reason = $4, changed_at = clock_timestamp()
                 WHERE owner_kind = $1 AND owner_id = $2 AND generation = $3 AND status = 'valid'
                 RETURNING 1",
                &[&owner.kind.name(), &owner.id, &generation, &reason],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// Tokens that are sealed with another key than `key_id`, at most `limit`.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or a row can't be read.
    pub async fn tokens_sealed_otherwise(
        &self,
        key_id: &str,
        after: Option<&Owner>,
        limit: i64,
    ) -> Result<Vec<StoredToken>, JournalError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM chatpulse.oauth_tokens t
             WHERE t.key_id <> $1 AND (t.owner_kind, t.owner_id) > ($2, $3)
             ORDER BY t.owner_kind, t.owner_id LIMIT $4"
        );
        let (kind, id) = after.map_or(("", ""), |owner| (owner.kind.name(), &owner.id));
        let client = self.client().await?;
        client.query(&sql, &[&key_id, &kind, &id, &limit]).await?.iter().map(stored).collect()
    }

    /// Stores the same token of this generation sealed with another key; `false` when it is another one by now.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn reseal_token(
        &self,
        token: &StoredToken,
        access: &[u8],
        refresh: &[u8],
        key_id: &str,
    ) -> Result<bool, JournalError> {
        let client = self.client().await?;
        let rows = client
            .query(
                "UPDATE chatpulse.oauth_tokens SET access_token = $4, refresh_token = $5, key_id = $6
                 WHERE owner_kind = $1 AND owner_id = $2 AND generation = $3
                 RETURNING 1",
                &[&token.owner.kind.name(), &token.owner.id, &token.generation, &access, &refresh, &key_id],
            )
            .await?;
        Ok(!rows.is_empty())
    }
}

fn stored(row: &Row) -> Result<StoredToken, JournalError> {
    let kind = match row.try_get::<_, &str>(0)? {
        "channel" => OwnerKind::Channel,
        "bot" => OwnerKind::Bot,
        other => return Err(JournalError::Unreadable(format!("a token of a {other}"))),
    };
    let status: &str = row.try_get(7)?;
    let reason: Option<String> = row.try_get(8)?;
    Ok(StoredToken {
        owner: Owner { kind, id: row.try_get(1)? },
        login: row.try_get(2)?,
        scopes: row.try_get(3)?,
        access: row.try_get(4)?,
        refresh: row.try_get(5)?,
        expires_at: Millis(row.try_get(6)?),
        invalid: (status != "valid").then(|| reason.unwrap_or_else(|| status.to_owned())),
        generation: row.try_get(9)?,
        key_id: row.try_get(10)?,
    })
}
