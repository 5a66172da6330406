//! Who keeps sessions alive: leases of instances, their holds, and the end of what nobody holds. All
//! of it is decided here; what Redis knows of holders is a copy.

use std::collections::HashMap;
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

/// A hold that is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// The overlay's UUID, or the streamer's id.
    pub whose: Uuid,
    /// The id of the session, if this hold starts one.
    pub session_id: Uuid,
    /// The secret under which that session's viewers are hashed.
    pub key: [u8; 32],
}

impl Hold {
    /// A hold with a new id and a new key.
    pub fn of(whose: Uuid) -> Hold {
        let mut key = [0u8; 32];
        rand::rng().fill_bytes(&mut key);
        Hold { whose, session_id: Uuid::now_v7(), key }
    }
}

/// What becomes of a hold while somebody else has the streamer's row locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfLocked {
    Wait,
    /// It is left out, and keeps no other one waiting.
    LeaveOut,
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hold")
            .field("whose", &self.whose)
            .field("session_id", &self.session_id)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Takes hold of the sessions behind overlay URLs, starting one for each streamer who has none live; one
    /// statement. Answers in the order of the holds: `None` for an unknown URL, and for what is left out; an entry
    /// without a session for a disabled streamer. An instance without a lease begins one of length `lease`.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; the holds may have happened, and may be repeated.
    pub async fn hold_overlays(
        &self,
        wanted: &[Hold],
        lease: Duration,
        locked: IfLocked,
    ) -> Result<Vec<Option<Held>>, JournalError> {
        let sql = "SELECT * FROM chatpulse.hold_overlays($1, $2, $3, $4, $5, make_interval(secs => $6), $7)";
        self.take_holds(sql, wanted, lease, locked, |entry| entry.streamer.overlay_uuid).await
    }

    /// Takes hold of streamers' sessions, as [`Journal::hold_overlays`] does by overlay URLs: an instance
    /// whose lease had lapsed takes its holds again. `None` for an unknown streamer, and for what is left out.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; the holds may have happened, and may be repeated.
    pub async fn hold_streamers(
        &self,
        wanted: &[Hold],
        lease: Duration,
        locked: IfLocked,
    ) -> Result<Vec<Option<Held>>, JournalError> {
        let sql = "SELECT * FROM chatpulse.hold_streamers($1, $2, $3, $4, $5, make_interval(secs => $6), $7)";
        self.take_holds(sql, wanted, lease, locked, |entry| entry.streamer.id).await
    }

    async fn take_holds(
        &self,
        sql: &str,
        wanted: &[Hold],
        lease: Duration,
        locked: IfLocked,
        whose: impl Fn(&Entry) -> Uuid,
    ) -> Result<Vec<Option<Held>>, JournalError> {
        let metadata = self.metadata(&Uuid::now_v7().to_string());
        let (ids, session_ids): (Vec<Uuid>, Vec<Uuid>) =
            wanted.iter().map(|hold| (hold.whose, hold.session_id)).unzip();
        let keys: Vec<&[u8]> = wanted.iter().map(|hold| hold.key.as_slice()).collect();
        let client = self.client().await?;
        let (instance_id, lease, wait) = (self.instance_id(), lease.as_secs_f64(), locked == IfLocked::Wait);
        let rows =
            client.query(sql, &[&ids, &session_ids, &keys, &instance_id, &metadata, &lease, &wait]).await?;
        let mut held = HashMap::with_capacity(rows.len());
        for row in &rows {
            let entry = rows::entry(row)?;
            held.insert(whose(&entry), entry);
        }
        let answer = |hold: &Hold| {
            let entry = held.get(&hold.whose)?.clone();
            let started = entry.live.as_ref().is_some_and(|live| live.session_id == hold.session_id);
            Some(Held { entry, started })
        };
        Ok(wanted.iter().map(answer).collect())
    }

    /// Who holds the live sessions of streamers, in any order; none for those who have none live.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or a row can't be read.
    pub async fn holders(&self, streamer_ids: &[Uuid]) -> Result<Vec<Holders>, JournalError> {
        let client = self.client().await?;
        let sql = "SELECT streamer_id, ordinal, holders_version, holders AS holder_ids,
                          chatpulse.unix_ms(unheld_since) AS unheld_since_ms
                   FROM chatpulse.live_sessions WHERE streamer_id = ANY ($1)";
        client.query(sql, &[&streamer_ids]).await?.iter().map(rows::holders).collect()
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
