//! Rows of `chatpulse.entries` and heads of sessions, as domain values.

use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::JournalError;
use super::codec::{self, ConfigRecord, SecondRow};
use super::sessions::{Entry, LiveSession};
use crate::domain::holders::Holders;
use crate::domain::sentiment::{Model, Mood, Params, SecondTally};
use crate::domain::session::Session;
use crate::domain::streamer::{Profile, Streamer};
use crate::domain::time::Millis;

/// A row of the view `chatpulse.entries`.
pub(super) fn entry(row: &Row) -> Result<Entry, JournalError> {
    let config: Value = row.try_get("config")?;
    let config: ConfigRecord = serde_json::from_value(config)
        .map_err(|error| JournalError::Unreadable(format!("a config: {error}")))?;
    let streamer = Streamer {
        id: row.try_get("streamer_id")?,
        version: row.try_get("streamer_version")?,
        profile: Profile {
            twitch_user_id: row.try_get("twitch_user_id")?,
            login: row.try_get("login")?,
            display_name: row.try_get("display_name")?,
        },
        overlay_uuid: row.try_get("overlay_uuid")?,
        disabled: row.try_get("disabled")?,
        config: config.into(),
    };
    let live = match row.try_get::<_, Option<Uuid>>("session_id")? {
        Some(session_id) => Some(LiveSession {
            session_id,
            key: key(row)?,
            holders: holders(row)?,
            paused: row.try_get("paused")?,
            head: head(row)?,
        }),
        None => None,
    };
    Ok(Entry { streamer, last_ordinal: row.try_get("last_ordinal")?, live })
}

/// The columns of `chatpulse.holding`, which `chatpulse.entries` has, too.
pub(super) fn holders(row: &Row) -> Result<Holders, JournalError> {
    Ok(Holders {
        streamer_id: row.try_get("streamer_id")?,
        ordinal: row.try_get("ordinal")?,
        version: row.try_get("holders_version")?,
        ids: row.try_get("holder_ids")?,
        unheld_since: row.try_get::<_, Option<i64>>("unheld_since_ms")?.map(Millis),
    })
}

fn key(row: &Row) -> Result<[u8; 32], JournalError> {
    let key: &[u8] = row.try_get("key")?;
    key.try_into().map_err(|_| JournalError::Unreadable("a session's key is not 32 bytes long".into()))
}

/// The columns of `chatpulse.sessions`.
pub(super) fn head(row: &Row) -> Result<Session, JournalError> {
    let model = match row.try_get("model")? {
        "window" => Model::Window,
        "decay" => Model::Decay,
        other => return Err(JournalError::Unreadable(format!("the model {other}"))),
    };
    Ok(Session {
        streamer_id: row.try_get("streamer_id")?,
        ordinal: row.try_get("ordinal")?,
        version: row.try_get("version")?,
        config_version: row.try_get("config_version")?,
        params: Params {
            model,
            vote_delta: row.try_get("vote_delta")?,
            decay_speed: row.try_get("decay_speed")?,
            window_seconds: row.try_get::<_, i32>("window_seconds")?.into(),
        },
        mood: Mood {
            at: Millis(row.try_get("at_ms")?),
            value: row.try_get("value")?,
            for_count: row.try_get("for_count")?,
            against_count: row.try_get("against_count")?,
            seconds: seconds(row.try_get("seconds")?)?,
        },
        started_at: Millis(row.try_get("started_at_ms")?),
        reset_at: row.try_get::<_, Option<i64>>("reset_at_ms")?.map(Millis),
        ended_at: row.try_get::<_, Option<i64>>("ended_at_ms")?.map(Millis),
    })
}

fn seconds(stored: Value) -> Result<Vec<SecondTally>, JournalError> {
    let rows: Vec<SecondRow> = serde_json::from_value(stored)
        .map_err(|error| JournalError::Unreadable(format!("the seconds of a window: {error}")))?;
    Ok(codec::seconds(rows))
}
