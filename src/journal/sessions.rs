//! Live sessions: what is known of them, putting them back to the middle, and keeping chat from voting for a while. Who
//! holds them is in [`super::holds`], following what changes in [`super::directory`].

use uuid::Uuid;

use super::votes::SessionHead;
use super::{Journal, JournalError, rows};
use crate::domain::holders::Holders;
use crate::domain::session::Session;
use crate::domain::streamer::Streamer;

pub use super::directory::{DirectoryCursor, LiveDigest, LiveVersions, News, listen};
pub use super::holds::{EndedSession, Held, Hold, IfLocked, Lease};

/// What an instance has to know of a streamer.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub streamer: Streamer,
    /// The ordinal of the streamer's newest session, live or ended; 0 before the first.
    pub last_ordinal: i64,
    pub live: Option<LiveSession>,
}

/// A session that is going on.
#[derive(Clone, PartialEq)]
pub struct LiveSession {
    pub session_id: Uuid,
    /// The secret under which this session's viewers are hashed.
    pub key: [u8; 32],
    pub holders: Holders,
    /// Whether chat does not vote for now.
    pub paused: bool,
    pub head: Session,
}

impl std::fmt::Debug for LiveSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveSession")
            .field("session_id", &self.session_id)
            .field("holders", &self.holders)
            .field("paused", &self.paused)
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Puts a streamer's live session back to the middle; `false` when none is live.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn reset(&self, streamer_id: Uuid, correlation_id: &str) -> Result<bool, JournalError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "SELECT chatpulse.reset_session($1, $2)",
                &[&streamer_id, &self.metadata(correlation_id)],
            )
            .await?;
        Ok(row.try_get(0)?)
    }

    /// Keeps chat from voting in a streamer's live session; `false` when none is live, or it was so before. Votes that
    /// were taken already may follow, and count.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn pause(&self, streamer_id: Uuid, correlation_id: &str) -> Result<bool, JournalError> {
        self.set_paused(streamer_id, true, correlation_id).await
    }

    /// Lets chat vote again in a streamer's live session; `false` when none is live, or it does.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn resume(&self, streamer_id: Uuid, correlation_id: &str) -> Result<bool, JournalError> {
        self.set_paused(streamer_id, false, correlation_id).await
    }

    async fn set_paused(
        &self,
        streamer_id: Uuid,
        paused: bool,
        correlation_id: &str,
    ) -> Result<bool, JournalError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "SELECT chatpulse.set_paused($1, $2, $3)",
                &[&streamer_id, &paused, &self.metadata(correlation_id)],
            )
            .await?;
        Ok(row.try_get(0)?)
    }

    /// One streamer's entry; `None` when there is no such streamer.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or the row can't be read.
    pub async fn entry(&self, streamer_id: Uuid) -> Result<Option<Entry>, JournalError> {
        let client = self.client().await?;
        client
            .query_opt("SELECT * FROM chatpulse.entries WHERE streamer_id = $1", &[&streamer_id])
            .await?
            .as_ref()
            .map(rows::entry)
            .transpose()
    }

    /// Live sessions by streamer id, at most `limit`, after the given streamer.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or a row can't be read.
    pub async fn live_sessions(&self, after: Option<Uuid>, limit: i64) -> Result<Vec<Entry>, JournalError> {
        let client = self.client().await?;
        client
            .query(
                "SELECT * FROM chatpulse.entries
                 WHERE session_id IS NOT NULL AND streamer_id > $1
                 ORDER BY streamer_id LIMIT $2",
                &[&after.unwrap_or_default(), &limit],
            )
            .await?
            .iter()
            .map(rows::entry)
            .collect()
    }

    /// The live session of the given id; `None` when it is not live.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or the row can't be read.
    pub async fn live_session(&self, session_id: Uuid) -> Result<Option<Entry>, JournalError> {
        let client = self.client().await?;
        client
            .query_opt("SELECT * FROM chatpulse.entries WHERE session_id = $1", &[&session_id])
            .await?
            .as_ref()
            .map(rows::entry)
            .transpose()
    }

    /// The head of a session, live or ended; `None` when there is no such session.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or the row can't be read.
    pub async fn head(&self, session_id: Uuid) -> Result<Option<Session>, JournalError> {
        let client = self.client().await?;
        client
            .query_opt("SELECT * FROM chatpulse.sessions WHERE session_id = $1", &[&session_id])
            .await?
            .as_ref()
            .map(rows::head)
            .transpose()
    }

    /// The entries of streamers, in any order; none for those who don't exist.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or a row can't be read.
    pub async fn entries(&self, streamer_ids: &[Uuid]) -> Result<Vec<Entry>, JournalError> {
        let client = self.client().await?;
        let sql = "SELECT * FROM chatpulse.entries WHERE streamer_id = ANY ($1)";
        client.query(sql, &[&streamer_ids]).await?.iter().map(rows::entry).collect()
    }

    /// The entries of those Twitch broadcasters who have a live session.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or a row can't be read.
    pub async fn live_broadcasters(&self, twitch_user_ids: &[String]) -> Result<Vec<Entry>, JournalError> {
        let client = self.client().await?;
        let sql =
            "SELECT * FROM chatpulse.entries WHERE session_id IS NOT NULL AND twitch_user_id = ANY ($1)";
        client.query(sql, &[&twitch_user_ids]).await?.iter().map(rows::entry).collect()
    }

    /// The heads of those sessions, live or ended, that are newer than the given stream version.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or a row can't be read.
    pub async fn newer_heads(&self, known: &[(Uuid, i64)]) -> Result<Vec<SessionHead>, JournalError> {
        let (session_ids, versions): (Vec<Uuid>, Vec<i64>) = known.iter().copied().unzip();
        let client = self.client().await?;
        client
            .query(
                "SELECT s.* FROM unnest($1::uuid[], $2::bigint[]) AS known (session_id, version)
                 JOIN chatpulse.sessions s ON s.session_id = known.session_id AND s.version > known.version",
                &[&session_ids, &versions],
            )
            .await?
            .iter()
            .map(|row| Ok(SessionHead { session_id: row.try_get("session_id")?, head: rows::head(row)? }))
            .collect()
    }
}
