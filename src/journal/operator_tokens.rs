//! Operators' sign-ins: refresh tokens, of which only digests are stored, and which access tokens are denied.
//!
//! Each sign-in is a family of refresh tokens. A token is exchanged for one of the next generation, once: whoever uses it
//! later than a lost answer would explain is not who got it, or they are not, so the family ends. Access tokens are
//! noted before they are given out, so that whatever ends a family knows which of them may be alive.

use tokio_postgres::Row;
use uuid::Uuid;

use super::{Journal, JournalError};
use crate::domain::time::Millis;

/// What became of using a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// The new one is in its place.
    Rotated { operator_id: Uuid, family: Uuid },
    /// It was replaced within the last five seconds, and nobody has used what replaced it: an answer was lost, or two
    /// asked at once. The new one is good, too.
    Grace { operator_id: Uuid, family: Uuid },
    /// It was replaced before: somebody else has it. The family has ended.
    Reused {
        operator_id: Uuid,
        family: Uuid,
        /// Access tokens that have to be denied, each until its end.
        access: Vec<(Uuid, Millis)>,
    },
    /// Unknown, expired (30 days after the sign-in, or unused for 7), ended, or its operator is disabled.
    Unknown,
}

impl Journal {
    /// Begins a family with the refresh token of this digest, for a sign-in that has succeeded. Answers the family. The
    /// token is given out only after [`Journal::note_access`] has agreed to the access token beside it.
    ///
    /// # Errors
    /// [`JournalError::Data`] when there is no such operator; [`JournalError`] when PostgreSQL is away.
    pub async fn begin_family(&self, operator_id: Uuid, digest: &[u8; 32]) -> Result<Uuid, JournalError> {
        let family = Uuid::now_v7();
        let client = self.client().await?;
        client
            .query(
                "INSERT INTO chatpulse.refresh_tokens (hash, family, operator_id, expires_at, idle_until)
                 VALUES ($1, $2, $3, clock_timestamp() + interval '30 days', clock_timestamp() + interval '7 days')",
                &[&&digest[..], &family, &operator_id],
            )
            .await?;
        Ok(family)
    }

    /// Exchanges the refresh token with the digest `old` for the one with the digest `new`.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated for some seconds.
    pub async fn rotate_refresh(&self, old: &[u8; 32], new: &[u8; 32]) -> Result<Rotation, JournalError> {
        let sql = "SELECT * FROM chatpulse.rotate_refresh($1, $2)";
        let client = self.client().await?;
        let Some(row) = client.query_opt(sql, &[&&old[..], &&new[..]]).await? else {
            return Ok(Rotation::Unknown);
        };
        let (operator_id, family) = (row.try_get("operator_id")?, row.try_get("family")?);
        Ok(match row.try_get("outcome")? {
            "rotated" => Rotation::Rotated { operator_id, family },
            "grace" => Rotation::Grace { operator_id, family },
            "reused" => Rotation::Reused { operator_id, family, access: alive(&row)? },
            other => return Err(JournalError::Unreadable(format!("a refresh token that is {other}"))),
        })
    }

    /// Notes an access token of a family before it is given out. `false` when it must not be: the family has ended
    /// meanwhile, or the operator was disabled or changed since `version`, in which they were judged; they have to be
    /// judged anew.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away: the token must not be given out.
    pub async fn note_access(
        &self,
        jti: Uuid,
        family: Uuid,
        version: i64,
        until: Millis,
    ) -> Result<bool, JournalError> {
        let sql = "SELECT chatpulse.note_access($1, $2, $3, $4)";
        let client = self.client().await?;
        Ok(client.query_one(sql, &[&jti, &family, &version, &until.0]).await?.try_get(0)?)
    }

    /// Ends one sign-in. Answers the access tokens to deny, also when it had ended before.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn revoke_family(&self, family: Uuid) -> Result<Vec<(Uuid, Millis)>, JournalError> {
        let client = self.client().await?;
        alive(&client.query_one("SELECT * FROM chatpulse.end_family($1)", &[&family]).await?)
    }

    /// Ends all sign-ins of an operator. Answers the access tokens to deny, also of those that had ended before.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn revoke_all_families(&self, operator_id: Uuid) -> Result<Vec<(Uuid, Millis)>, JournalError> {
        let sql = "SELECT * FROM chatpulse.end_sign_ins($1, NULL, NULL)";
        alive(&self.client().await?.query_one(sql, &[&operator_id]).await?)
    }

    /// Denies one access token until its end.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn revoke_access(&self, jti: Uuid, until: Millis) -> Result<(), JournalError> {
        let client = self.client().await?;
        client
            .query(
                "INSERT INTO chatpulse.revoked_tokens (jti, until)
                 VALUES ($1, to_timestamp($2::bigint / 1000.0))
                 ON CONFLICT DO NOTHING",
                &[&jti, &until.0],
            )
            .await?;
        Ok(())
    }

    /// All access tokens that are denied and have not expired, each with its end: what a copy of the list begins with.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn revoked_access(&self) -> Result<Vec<(Uuid, Millis)>, JournalError> {
        let sql = "SELECT jti, chatpulse.unix_ms(until) FROM chatpulse.revoked_tokens
                   WHERE until > clock_timestamp()";
        let rows = self.client().await?.query(sql, &[]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, Millis(row.try_get(1)?)))).collect()
    }

    /// Forgets refresh and access tokens that have expired, at most `limit` of each kind. Answers how many.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn forget_expired_operator_tokens(&self, limit: i32) -> Result<i64, JournalError> {
        let sql = "SELECT chatpulse.forget_expired_operator_tokens($1)";
        Ok(self.client().await?.query_one(sql, &[&limit]).await?.try_get(0)?)
    }
}

/// Access tokens that are to be denied, each with its end, of what `chatpulse.deny_access` answers.
pub(super) fn alive(row: &Row) -> Result<Vec<(Uuid, Millis)>, JournalError> {
    let jtis: Vec<Uuid> = row.try_get("jtis")?;
    let untils: Vec<i64> = row.try_get("untils_ms")?;
    Ok(jtis.into_iter().zip(untils.into_iter().map(Millis)).collect())
}
