//! Reading streams back, page by page: a long read holds no old snapshot open.

use serde_json::Value;
use uuid::Uuid;

use super::{Journal, JournalError, codec};
use crate::domain::{session, streamer};

/// An event with its place in its stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded<E> {
    pub version: i64,
    pub event: E,
}

impl Journal {
    /// At most `limit` events of a session, in order, after `version`.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or an event can't be read.
    pub async fn session_events(
        &self,
        session_id: Uuid,
        after_version: i64,
        limit: i64,
    ) -> Result<Vec<Recorded<session::Event>>, JournalError> {
        let sql = "SELECT version, type, schema_version, data FROM chatpulse.session_events
                   WHERE session_id = $1 AND version > $2 ORDER BY version LIMIT $3";
        self.read(sql, session_id, after_version, limit, codec::decode_session_event).await
    }

    /// At most `limit` events of a streamer, in order, after `version`.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or an event can't be read.
    pub async fn streamer_events(
        &self,
        streamer_id: Uuid,
        after_version: i64,
        limit: i64,
    ) -> Result<Vec<Recorded<streamer::Event>>, JournalError> {
        let sql = "SELECT version, type, schema_version, data FROM chatpulse.streamer_events
                   WHERE streamer_id = $1 AND version > $2 ORDER BY version LIMIT $3";
        let decode = |event_type: &str, schema_version, data| {
            codec::decode_streamer_event(streamer_id, event_type, schema_version, data)
        };
        self.read(sql, streamer_id, after_version, limit, decode).await
    }

    async fn read<E>(
        &self,
        sql: &str,
        id: Uuid,
        after_version: i64,
        limit: i64,
        decode: impl Fn(&str, i32, Value) -> Result<E, JournalError>,
    ) -> Result<Vec<Recorded<E>>, JournalError> {
        let client = self.client().await?;
        let rows = client.query(sql, &[&id, &after_version, &limit]).await?;
        rows.iter()
            .map(|row| {
                let event =
                    decode(row.try_get("type")?, row.try_get("schema_version")?, row.try_get("data")?)?;
                Ok(Recorded { version: row.try_get("version")?, event })
            })
            .collect()
    }
}
