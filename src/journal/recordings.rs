//! Which streams are live and recorded, and how each streamer's chat is doing.

use tokio_postgres::Row;
use uuid::Uuid;

use super::sessions::{Entry, Hold};
use super::{Journal, JournalError, rows};
use crate::domain::stream::{ChatHealth, Stream, StreamSeen};
use crate::domain::time::Millis;

/// The correlation id of what is noted of chats.
const CHAT_HEALTH: &str = "chat health";

/// A streamer whose streams are followed, because they have signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    pub streamer_id: Uuid,
    pub twitch_user_id: String,
    /// The stream that is live, as far as it was noted.
    pub stream: Option<Stream>,
    /// Whether streams are recorded.
    pub recorded: bool,
    /// Whether the recording holds a live session.
    pub held: bool,
}

/// How a streamer's stream and chat stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStanding {
    /// Whether streams are recorded; `None`: nobody has said yet.
    pub recorded: Option<bool>,
    pub stream: Option<Stream>,
    pub health: ChatHealth,
    pub health_reason: Option<String>,
    /// Since when; `None` when it has never been otherwise.
    pub health_since: Option<Millis>,
    /// The last message that was known when the health changed.
    pub last_message_at: Option<Millis>,
}

/// A chat that may be doing otherwise than was noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatChange {
    pub streamer_id: Uuid,
    pub noted: ChatHealth,
    /// As PostgreSQL knows it: silent where it was noted so and nothing is worse. Only Redis knows whether it still is.
    pub now: ChatHealth,
    pub reason: Option<String>,
    /// Whether silence means anything: live on Twitch, subscribed to, and a session is going on.
    pub listening: bool,
}

impl Journal {
    /// Streamers whose streams are followed and who are not disabled, by id, at most `limit`, after the given one.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or a row can't be read.
    pub async fn followed(&self, after: Option<Uuid>, limit: i64) -> Result<Vec<Followed>, JournalError> {
        let client = self.client().await?;
        let rows = client
            .query(
                "SELECT u.id, u.twitch_user_id, u.recorded, s.stream_id, s.started_ms,
                        EXISTS (SELECT FROM chatpulse.live_sessions l
                                WHERE l.streamer_id = u.id AND chatpulse.recording() = ANY (l.holders)) AS held
                 FROM chatpulse.users u
                 LEFT JOIN chatpulse.streams s ON s.streamer_id = u.id AND s.ended_ms IS NULL
                 WHERE u.recorded IS NOT NULL AND u.disabled_at IS NULL AND u.id > $1
                 ORDER BY u.id LIMIT $2",
                &[&after.unwrap_or_default(), &limit],
            )
            .await?;
        let followed = |row: &Row| {
            Ok(Followed {
                streamer_id: row.try_get("id")?,
                twitch_user_id: row.try_get("twitch_user_id")?,
                stream: stream(row)?,
                recorded: row.try_get("recorded")?,
                held: row.try_get("held")?,
            })
        };
        rows.iter().map(followed).collect()
    }

    /// Notes what was seen of a broadcaster's stream. While it is live and to be recorded, the recording holds the
    /// session, which is started if none is live; afterwards it lets go. That another stream than the known one has
    /// ended is no news. Answers the streamer's entry when something changed, `None` also for a broadcaster whose streams
    /// are not followed.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn note_stream(
        &self,
        twitch_user_id: &str,
        seen: &StreamSeen,
        correlation_id: &str,
    ) -> Result<Option<Entry>, JournalError> {
        let (live, ended) = match seen {
            StreamSeen::Live(stream) => (Some(stream), None),
            StreamSeen::Offline { stream_id } => (None, stream_id.as_deref()),
        };
        let fresh = Hold::of(Uuid::nil());
        let client = self.client().await?;
        let row = client
            .query_opt(
                "SELECT * FROM chatpulse.note_stream($1, $2, $3, $4, $5, $6, $7)",
                &[
                    &twitch_user_id,
                    &live.map(|stream| stream.id.as_str()),
                    &live.map(|stream| stream.started_at.0),
                    &ended,
                    &fresh.session_id,
                    &fresh.key.as_slice(),
                    &self.metadata(correlation_id),
                ],
            )
            .await?;
        row.as_ref().map(rows::entry).transpose()
    }

    /// The stream of a broadcaster that was noted as live.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn known_stream(&self, twitch_user_id: &str) -> Result<Option<Stream>, JournalError> {
        let client = self.client().await?;
        let sql = "SELECT s.stream_id, s.started_ms FROM chatpulse.streams s
                   JOIN chatpulse.users u ON u.id = s.streamer_id
                   WHERE u.twitch_user_id = $1 AND s.ended_ms IS NULL";
        let row = client.query_opt(sql, &[&twitch_user_id]).await?;
        Ok(row.as_ref().map(stream).transpose()?.flatten())
    }

    /// Says whether a streamer's streams are to be recorded; with `first` only where nobody has said yet. Switched off,
    /// a running recording lets go of its session. Answers whether that changed something.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn set_recorded(
        &self,
        streamer_id: Uuid,
        recorded: bool,
        first: bool,
        correlation_id: &str,
    ) -> Result<bool, JournalError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "SELECT chatpulse.set_recorded($1, $2, $3, $4)",
                &[&streamer_id, &recorded, &first, &self.metadata(correlation_id)],
            )
            .await?;
        Ok(row.try_get(0)?)
    }

    /// How a streamer's stream and chat stand.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away, the streamer is unknown, or the row can't be read.
    pub async fn stream_standing(&self, streamer_id: Uuid) -> Result<StreamStanding, JournalError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "SELECT u.recorded, s.stream_id, s.started_ms, coalesce(h.health, 'well') AS health, h.reason,
                        chatpulse.unix_ms(h.since) AS since_ms, h.last_message_at_ms
                 FROM chatpulse.users u
                 LEFT JOIN chatpulse.streams s ON s.streamer_id = u.id AND s.ended_ms IS NULL
                 LEFT JOIN chatpulse.chat_health h ON h.streamer_id = u.id
                 WHERE u.id = $1",
                &[&streamer_id],
            )
            .await?;
        Ok(StreamStanding {
            recorded: row.try_get("recorded")?,
            stream: stream(&row)?,
            health: health(&row, "health")?,
            health_reason: row.try_get("reason")?,
            health_since: row.try_get::<_, Option<i64>>("since_ms")?.map(Millis),
            last_message_at: row.try_get::<_, Option<i64>>("last_message_at_ms")?.map(Millis),
        })
    }

    /// Requests what tells when followed streams begin and end and nobody has requested, at most `limit`. Answers how
    /// many.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn request_missing_stream_subscriptions(&self, limit: i32) -> Result<u64, JournalError> {
        let client = self.client().await?;
        let sql = "SELECT chatpulse.request_missing_stream_subscriptions($1)";
        Ok(client.query_one(sql, &[&limit]).await?.try_get::<_, i64>(0)?.unsigned_abs())
    }

    /// Of these streamers, those whose silence since `since` means something: live on Twitch and subscribed to since
    /// before, and with a session that is going on; those alone that were noted as well, with `well`.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn listening(
        &self,
        streamer_ids: &[Uuid],
        since: Millis,
        well: bool,
    ) -> Result<Vec<Uuid>, JournalError> {
        let client = self.client().await?;
        let rows = client
            .query(
                "SELECT e.streamer_id FROM chatpulse.eventsub_subscriptions e
                 JOIN chatpulse.streams s
                   ON s.streamer_id = e.streamer_id AND s.started_ms <= $2 AND s.ended_ms IS NULL
                 JOIN chatpulse.live_sessions l ON l.streamer_id = e.streamer_id
                 JOIN chatpulse.sessions h ON h.session_id = l.session_id AND h.started_at_ms <= $2
                 WHERE e.streamer_id = ANY ($1) AND e.type = 'channel.chat.message' AND e.status = 'enabled'
                   AND chatpulse.unix_ms(e.changed_at) <= $2
                   AND NOT ($3 AND EXISTS (SELECT FROM chatpulse.chat_health c
                                           WHERE c.streamer_id = e.streamer_id AND c.health <> 'well'))",
                &[&streamer_ids, &since.0, &well],
            )
            .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Chats that are doing otherwise than was noted, as far as PostgreSQL knows, and those that were noted as silent; at
    /// most `limit`, of many silent ones other ones each time.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or a row can't be read.
    pub async fn chat_changes(&self, limit: i64) -> Result<Vec<ChatChange>, JournalError> {
        let client = self.client().await?;
        let rows = client
            .query(
                "SELECT streamer_id, noted, now, reason, coalesce(listening, false) AS listening
                 FROM chatpulse.chat_standings
                 WHERE noted <> now OR now = 'silent'
                 ORDER BY noted = now, random() LIMIT $1",
                &[&limit],
            )
            .await?;
        let change = |row: &Row| {
            Ok(ChatChange {
                streamer_id: row.try_get("streamer_id")?,
                noted: health(row, "noted")?,
                now: health(row, "now")?,
                reason: row.try_get("reason")?,
                listening: row.try_get("listening")?,
            })
        };
        rows.iter().map(change).collect()
    }

    /// Notes how a streamer's chat is doing, as an event. Answers whether that is something new.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn note_chat_health(
        &self,
        streamer_id: Uuid,
        health: ChatHealth,
        reason: Option<&str>,
        last_message_at: Option<Millis>,
    ) -> Result<bool, JournalError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "SELECT chatpulse.note_chat_health($1, $2, $3, $4, $5)",
                &[
                    &streamer_id,
                    &health.name(),
                    &reason,
                    &last_message_at.map(|at| at.0),
                    &self.metadata(CHAT_HEALTH),
                ],
            )
            .await?;
        Ok(row.try_get(0)?)
    }

    /// How many streamers there are of each health that is not well.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or a row can't be read.
    pub async fn chat_health_counts(&self) -> Result<Vec<(ChatHealth, i64)>, JournalError> {
        let client = self.client().await?;
        let sql = "SELECT h.health, count(*) FROM chatpulse.chat_health h
                   JOIN chatpulse.users u ON u.id = h.streamer_id AND u.disabled_at IS NULL
                   WHERE h.health <> 'well' GROUP BY h.health";
        let rows = client.query(sql, &[]).await?;
        rows.iter().map(|row| Ok((health(row, "health")?, row.try_get(1)?))).collect()
    }
}

/// The stream that is live, if one is.
fn stream(row: &Row) -> Result<Option<Stream>, JournalError> {
    let id: Option<String> = row.try_get("stream_id")?;
    let started_at: Option<i64> = row.try_get("started_ms")?;
    Ok(id.zip(started_at).map(|(id, at)| Stream { id, started_at: Millis(at) }))
}

fn health(row: &Row, column: &str) -> Result<ChatHealth, JournalError> {
    let name: &str = row.try_get(column)?;
    ChatHealth::named(name).ok_or_else(|| JournalError::Unreadable(format!("a chat that is {name}")))
}
