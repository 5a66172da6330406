//! Who keeps sessions alive: leases of instances, their holds, and the end of what nobody holds. All
//! of it is decided here; what Redis knows of holders is a copy.

use std::time::Duration;

use rand::Rng;
use uuid::Uuid;

use super::sessions::Entry;
use super::{Journal, JournalError, rows};
use crate::domain::holders::Holders;
use crate::domain::time::Millis;

/// Holds dropped by one statement, so that each is a short one, however many an instance had.
const HOLDS_A_CALL: i32 = 1_000;
/// Sessions ended by one call of [`Journal::end_orphans`].
pub const ORPHANS_A_CALL: usize = 200;

/// What a hold found.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub entry: Entry,
    /// Whether this hold started the session.
    pub started: bool,
}

/// An instance's word that it is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// PostgreSQL's time.
    pub now: Millis,
    /// When it began. Another beginning than before: the lease had lapsed, and what the instance
    /// held may have been dropped.
    pub since: Millis,
}

/// A session that was ended because nobody held it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedSession {
    pub streamer_id: Uuid,
    pub session_id: Uuid,
    pub ordinal: i64,
}

impl Journal {
    /// Takes hold of the session behind an overlay URL, starting one if none is live; one
    /// statement. `None` for an unknown URL; an entry without a session for a disabled streamer. An
    /// instance without a lease begins one of length `lease`.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; the hold may have happened, and may be repeated.
    pub async fn hold(&self, overlay_uuid: Uuid, lease: Duration) -> Result<Option<Held>, JournalError> {
        self.hold_as(overlay_uuid, lease, Uuid::now_v7(), &session_key()).await
    }

    /// Takes hold of a streamer's session, as [`Journal::hold`] does by an overlay URL: an instance
    /// whose lease had lapsed takes its holds again. `None` for an unknown streamer.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; the hold may have happened, and may be repeated.
    pub async fn hold_streamer(
        &self,
        streamer_id: Uuid,
        lease: Duration,
    ) -> Result<Option<Held>, JournalError> {
        self.hold_streamer_as(streamer_id, lease, Uuid::now_v7(), &session_key()).await
    }

    /// As [`Journal::hold`]; a session that is started has this id and this key.
    ///
    /// # Errors
    /// As [`Journal::hold`].
    pub async fn hold_as(
        &self,
        overlay_uuid: Uuid,
        lease: Duration,
        session_id: Uuid,
        key: &[u8; 32],
    ) -> Result<Option<Held>, JournalError> {
        let sql = "SELECT * FROM chatpulse.hold($1, $2, $3, $4, $5, make_interval(secs => $6))";
        self.take_hold(sql, overlay_uuid, lease, session_id, key).await
    }

    /// As [`Journal::hold_streamer`]; a session that is started has this id and this key.
    ///
    /// # Errors
    /// As [`Journal::hold_streamer`].
    pub async fn hold_streamer_as(
        &self,
        streamer_id: Uuid,
        lease: Duration,
        session_id: Uuid,
        key: &[u8; 32],
    ) -> Result<Option<Held>, JournalError> {
        let sql = "SELECT * FROM chatpulse.hold_streamer($1, $2, $3, $4, $5, make_interval(secs => $6))";
        self.take_hold(sql, streamer_id, lease, session_id, key).await
    }

    async fn take_hold(
        &self,
        sql: &str,
        whose: Uuid,
        lease: Duration,
        session_id: Uuid,
        key: &[u8; 32],
    ) -> Result<Option<Held>, JournalError> {
        let metadata = self.metadata(&session_id.to_string());
        let client = self.client().await?;
        let row = client
            .query_opt(
                sql,
                &[&whose, &self.instance_id(), &session_id, &key.as_slice(), &metadata, &lease.as_secs_f64()],
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        let entry = rows::entry(&row)?;
        let started = entry.live.as_ref().is_some_and(|live| live.session_id == session_id);
        Ok(Some(Held { entry, started }))
    }

    /// Lets go of a streamer's live session; answers who still holds it, `None` when none is live.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; may be repeated.
    pub async fn release(&self, streamer_id: Uuid) -> Result<Option<Holders>, JournalError> {
        let client = self.client().await?;
        client
            .query_opt("SELECT * FROM chatpulse.let_go($1, $2)", &[&streamer_id, &self.instance_id()])
            .await?
            .as_ref()
            .map(rows::holders)
            .transpose()
    }

    /// This instance stops: gives up its lease and lets go of all that it holds. Answers who holds
    /// those sessions now.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; may be repeated.
    pub async fn leave(&self) -> Result<Vec<Holders>, JournalError> {
        let instance_id = self.instance_id();
        self.drop_holds("SELECT * FROM chatpulse.leave($2, $1)", Some(instance_id)).await
    }

    /// Drops the holds of instances whose lease has lapsed, and forgets those instances. Answers
    /// who holds the sessions concerned now.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; may be repeated.
    pub async fn drop_lapsed(&self) -> Result<Vec<Holders>, JournalError> {
        self.drop_holds("SELECT * FROM chatpulse.drop_lapsed($1)", None).await
    }

    /// Drops holds in one statement after the other, until one finds fewer than it may drop.
    async fn drop_holds(&self, sql: &str, instance_id: Option<Uuid>) -> Result<Vec<Holders>, JournalError> {
        let mut dropped = Vec::new();
        loop {
            let client = self.client().await?;
            let rows = match &instance_id {
                Some(instance_id) => client.query(sql, &[&HOLDS_A_CALL, instance_id]).await?,
                None => client.query(sql, &[&HOLDS_A_CALL]).await?,
            };
            for row in &rows {
                dropped.push(rows::holders(row)?);
            }
            if rows.len() < HOLDS_A_CALL as usize {
                return Ok(dropped);
            }
        }
    }

    /// The streamers whose live session this instance holds, as the journal knows it.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn held(&self) -> Result<Vec<Uuid>, JournalError> {
        let client = self.client().await?;
        let sql = "SELECT streamer_id FROM chatpulse.live_sessions WHERE $1 = ANY (holders)";
        let rows = client.query(sql, &[&self.instance_id()]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Says that this instance is running, for another `lease`. With `unbroken` the lease goes on if
    /// it has not lapsed; without it, or after a lapse, another one begins.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn renew_lease(&self, lease: Duration, unbroken: bool) -> Result<Lease, JournalError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "SELECT * FROM chatpulse.renew_lease($1, make_interval(secs => $2), $3)",
                &[&self.instance_id(), &lease.as_secs_f64(), &unbroken],
            )
            .await?;
        Ok(Lease { now: Millis(row.try_get("now_ms")?), since: Millis(row.try_get("since_ms")?) })
    }

    /// Ends sessions that nobody has held for `orphan`: of the given streamers, or all of them. Ends
    /// none while this instance has not had a lease without a break, or PostgreSQL not been up, for
    /// as long: whoever watched could not come back. At most [`ORPHANS_A_CALL`] at once, so an answer
    /// of that many says that there may be more.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; may be repeated.
    pub async fn end_orphans(
        &self,
        streamer_ids: Option<&[Uuid]>,
        orphan: Duration,
    ) -> Result<Vec<EndedSession>, JournalError> {
        let metadata = self.metadata(&Uuid::now_v7().to_string());
        let client = self.client().await?;
        let rows = client
            .query(
                "SELECT * FROM chatpulse.end_orphans($1, $2, make_interval(secs => $3), $4, $5)",
                &[
                    &self.instance_id(),
                    &streamer_ids,
                    &orphan.as_secs_f64(),
                    &(ORPHANS_A_CALL as i32),
                    &metadata,
                ],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(EndedSession {
                    streamer_id: row.try_get("streamer_id")?,
                    session_id: row.try_get("session_id")?,
                    ordinal: row.try_get("ordinal")?,
                })
            })
            .collect()
    }
}

/// A new secret for a session.
fn session_key() -> [u8; 32] {
    let mut key = [0u8; 32];
    rand::rng().fill_bytes(&mut key);
    key
}
