//! Live sessions: taking and letting go of them, resetting them, and following what changes.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio_postgres::AsyncMessage;
use uuid::Uuid;

use super::{Journal, JournalError, JournalOptions, rows};
use crate::domain::session::Session;
use crate::domain::streamer::Streamer;
use crate::domain::time::Millis;

/// The channel on which PostgreSQL tells that the directory changed.
const DIRECTORY_CHANNEL: &str = "chatpulse_directory";

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
    /// How many instances hold it.
    pub holders: i32,
    pub head: Session,
}

impl std::fmt::Debug for LiveSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveSession")
            .field("session_id", &self.session_id)
            .field("holders", &self.holders)
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

/// What a hold found.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub entry: Entry,
    /// Whether this hold started the session.
    pub started: bool,
}

/// A place in the history of the directory, to ask for what came after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DirectoryCursor(i64);

impl Journal {
    /// Takes hold of the session behind an overlay URL, starting one if none is live; one
    /// statement. `None` for an unknown URL; an entry without a session for a disabled streamer.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; the hold may have happened, and may be repeated.
    pub async fn hold(&self, overlay_uuid: Uuid) -> Result<Option<Held>, JournalError> {
        let session_id = Uuid::now_v7();
        let mut key = [0u8; 32];
        rand::rng().fill_bytes(&mut key);
        let metadata = self.metadata(&session_id.to_string());
        let client = self.client().await?;
        let row = client
            .query_opt(
                "SELECT * FROM chatpulse.hold($1, $2, $3, $4, $5)",
                &[&overlay_uuid, &self.instance_id(), &session_id, &key.as_slice(), &metadata],
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        let entry = rows::entry(&row)?;
        let started = entry.live.as_ref().is_some_and(|live| live.session_id == session_id);
        Ok(Some(Held { entry, started }))
    }

    /// Lets go of a streamer's live session.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; may be repeated.
    pub async fn release(&self, streamer_id: Uuid) -> Result<(), JournalError> {
        let client = self.client().await?;
        client.query("SELECT chatpulse.release($1, $2)", &[&streamer_id, &self.instance_id()]).await?;
        Ok(())
    }

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

    /// The streamers that changed since `cursor` (all that have a live session, for a new cursor),
    /// and the cursor to ask with next. A change may be answered twice, but never missed.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or a row can't be read.
    pub async fn directory_since(
        &self,
        cursor: Option<DirectoryCursor>,
    ) -> Result<(Vec<Entry>, DirectoryCursor), JournalError> {
        let client = self.client().await?;
        // Transactions still running now may commit later: the next question begins with them.
        let horizon = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon";
        let sql = match cursor {
            None => format!(
                "SELECT h.horizon, d.* FROM ({horizon}) h
                 LEFT JOIN chatpulse.directory d ON d.session_id IS NOT NULL AND $1::bigint IS NOT NULL"
            ),
            Some(_) => format!(
                "SELECT h.horizon, d.* FROM ({horizon}) h
                 LEFT JOIN chatpulse.directory d ON d.changed >= $1::bigint::text::xid8"
            ),
        };
        let rows = client.query(&sql, &[&cursor.unwrap_or_default().0]).await?;
        let mut entries = Vec::with_capacity(rows.len());
        let mut next = cursor.unwrap_or_default();
        for row in &rows {
            next = DirectoryCursor(row.try_get("horizon")?);
            if row.try_get::<_, Option<Uuid>>("streamer_id")?.is_some() {
                entries.push(rows::entry(row)?);
            }
        }
        Ok((entries, next))
    }

    /// One streamer's entry; `None` when there is no such streamer.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or the row can't be read.
    pub async fn entry(&self, streamer_id: Uuid) -> Result<Option<Entry>, JournalError> {
        let client = self.client().await?;
        client
            .query_opt("SELECT * FROM chatpulse.directory WHERE streamer_id = $1", &[&streamer_id])
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
                "SELECT * FROM chatpulse.directory
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
            .query_opt("SELECT * FROM chatpulse.directory WHERE session_id = $1", &[&session_id])
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

    /// Says that this instance is running, for another `lease`. Answers PostgreSQL's time.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn renew_lease(&self, lease: Duration) -> Result<Millis, JournalError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "SELECT chatpulse.renew_lease($1, make_interval(secs => $2))",
                &[&self.instance_id(), &lease.as_secs_f64()],
            )
            .await?;
        Ok(Millis(row.try_get(0)?))
    }
}

/// Calls `changed` whenever PostgreSQL tells that the directory changed, until the connection
/// ends. Notifications may be lost with the connection: the caller asks again by itself now and
/// then, and in full after a new connection.
///
/// # Errors
/// [`JournalError`] that ended the connection.
pub async fn listen(
    url: &str,
    options: &JournalOptions,
    connected: impl FnOnce(),
    changed: Arc<tokio::sync::Notify>,
) -> Result<(), JournalError> {
    let config = super::connection_config(url, options)?;
    let (client, mut connection) = config.connect(tokio_postgres::NoTls).await?;
    let (subscribed_tx, subscribed) = tokio::sync::oneshot::channel();
    let subscribe = async move {
        let answer = client.batch_execute(&format!("LISTEN {DIRECTORY_CHANNEL}")).await;
        // The receiver lives as long as the loop below polls.
        let _ = subscribed_tx.send((client, answer));
    };
    let messages = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
    tokio::pin!(messages, subscribe, subscribed);
    let mut keep_open = None;
    let mut connected = Some(connected);
    loop {
        tokio::select! {
            () = &mut subscribe, if keep_open.is_none() => {
                let Ok((client, answer)) = (&mut subscribed).await else { return Ok(()) };
                answer?;
                keep_open = Some(client);
                if let Some(connected) = connected.take() { connected() }
            }
            message = futures_util::StreamExt::next(&mut messages) => match message {
                Some(Ok(AsyncMessage::Notification(_))) => changed.notify_one(),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
        }
    }
}
