//! Who is signed in: one row a browser, found by the digest of what its cookie holds.

use std::time::Duration;

use uuid::Uuid;

use super::{Journal, JournalError};

impl Journal {
    /// Lets in who holds the ticket with this digest, as this streamer, for `life`.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn begin_web_session(
        &self,
        digest: &[u8; 32],
        streamer_id: Uuid,
        life: Duration,
    ) -> Result<(), JournalError> {
        let client = self.client().await?;
        client
            .query(
                "INSERT INTO chatpulse.web_sessions (id_hash, streamer_id, expires_at)
                 VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
                 ON CONFLICT DO NOTHING",
                &[&&digest[..], &streamer_id, &life.as_secs_f64()],
            )
            .await?;
        Ok(())
    }

    /// Whose session it is; `None` when it has ended or expired, or the streamer's token has ended.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn web_session(&self, digest: &[u8; 32]) -> Result<Option<Uuid>, JournalError> {
        let client = self.client().await?;
        let row = client
            .query_opt(
                "SELECT w.streamer_id FROM chatpulse.web_sessions w
                 JOIN chatpulse.users u ON u.id = w.streamer_id
                 JOIN chatpulse.oauth_tokens t ON t.owner_kind = 'channel' AND t.owner_id = u.twitch_user_id
                 WHERE w.id_hash = $1 AND w.expires_at > clock_timestamp() AND t.status = 'valid'",
                &[&&digest[..]],
            )
            .await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    /// Ends one browser's session.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn end_web_session(&self, digest: &[u8; 32]) -> Result<(), JournalError> {
        let client = self.client().await?;
        client.query("DELETE FROM chatpulse.web_sessions WHERE id_hash = $1", &[&&digest[..]]).await?;
        Ok(())
    }

    /// Ends all sessions of the streamer with this id on Twitch. Answers the digests of those that were there.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn end_web_sessions_of(&self, twitch_user_id: &str) -> Result<Vec<Vec<u8>>, JournalError> {
        let client = self.client().await?;
        let rows = client
            .query(
                "DELETE FROM chatpulse.web_sessions w USING chatpulse.users u
                 WHERE u.id = w.streamer_id AND u.twitch_user_id = $1
                 RETURNING w.id_hash",
                &[&twitch_user_id],
            )
            .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Forgets sessions that have expired, at most `limit`. Answers how many.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn drop_expired_web_sessions(&self, limit: i64) -> Result<usize, JournalError> {
        let client = self.client().await?;
        let rows = client
            .query(
                "DELETE FROM chatpulse.web_sessions WHERE id_hash IN (
                     SELECT id_hash FROM chatpulse.web_sessions WHERE expires_at < clock_timestamp()
                     LIMIT $1 FOR UPDATE SKIP LOCKED)
                 RETURNING 1",
                &[&limit],
            )
            .await?;
        Ok(rows.len())
    }
}
