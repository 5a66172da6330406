//! What the admin API answers.

use serde::Serialize;
use uuid::Uuid;

use crate::domain::holders::Holders;
use crate::domain::session::Session;
use crate::domain::streamer::Streamer;
use crate::http::state::State;
use crate::journal::codec::ConfigRecord;

/// A streamer.
#[derive(Debug, Serialize)]
pub struct StreamerShape {
    streamer_id: Uuid,
    twitch_user_id: String,
    login: String,
    display_name: String,
    overlay_uuid: Uuid,
    overlay_url: String,
    disabled: bool,
    config: ConfigRecord,
}

impl StreamerShape {
    pub fn of(streamer: Streamer, state: &State) -> StreamerShape {
        StreamerShape {
            overlay_url: state.overlay_url(streamer.overlay_uuid),
            config: ConfigRecord::from(&streamer.config),
            streamer_id: streamer.id,
            twitch_user_id: streamer.profile.twitch_user_id,
            login: streamer.profile.login,
            display_name: streamer.profile.display_name,
            overlay_uuid: streamer.overlay_uuid,
            disabled: streamer.disabled,
        }
    }
}

/// A session. Times are Unix milliseconds, as in frames.
#[derive(Debug, Serialize)]
pub struct SessionShape {
    session_id: Uuid,
    streamer_id: Uuid,
    started_at: i64,
    /// Only of a session that is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<i64>,
    /// Instances that hold it.
    holders: usize,
    /// Since when nobody has held it.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_disconnect: Option<i64>,
    /// Overlays connected to the instance that answers.
    overlays: usize,
    /// As it was at `at`.
    value: f64,
    at: i64,
    r#for: i64,
    against: i64,
    /// As in frames: over all sessions of the streamer.
    version: i64,
}

impl SessionShape {
    pub fn of(session_id: Uuid, head: &Session, holders: Option<&Holders>, overlays: usize) -> SessionShape {
        SessionShape {
            session_id,
            streamer_id: head.streamer_id,
            started_at: head.started_at.0,
            ended_at: head.ended_at.map(|at| at.0),
            holders: holders.map_or(0, |holders| holders.ids.len()),
            last_disconnect: holders.and_then(|holders| holders.unheld_since).map(|since| since.0),
            overlays,
            value: head.mood.value,
            at: head.mood.at.0,
            r#for: head.mood.for_count,
            against: head.mood.against_count,
            version: head.frame_version(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::config::Config;
    use crate::domain::sentiment::Mood;
    use crate::domain::time::Millis;

    #[test]
    fn a_session_has_the_fields_of_the_contract() {
        let mood =
            Mood { at: Millis(2_500), value: 37.5, for_count: 12, against_count: 3, ..Mood::default() };
        let mut head = Session {
            streamer_id: Uuid::from_u128(2),
            ordinal: 1,
            version: 12,
            config_version: 1,
            params: Config::default().params,
            mood,
            started_at: Millis(1_000),
            reset_at: None,
            ended_at: None,
        };
        let mut holders = Holders {
            streamer_id: head.streamer_id,
            ordinal: 1,
            version: 3,
            ids: vec![Uuid::from_u128(8), Uuid::from_u128(9)],
            unheld_since: None,
        };
        let shown = |head: &Session, holders: &Holders| {
            serde_json::to_value(SessionShape::of(Uuid::from_u128(1), head, Some(holders), 5)).unwrap()
        };
        let live = serde_json::json!({
            "session_id": Uuid::from_u128(1), "streamer_id": Uuid::from_u128(2), "started_at": 1_000,
            "holders": 2, "overlays": 5, "value": 37.5, "at": 2_500, "for": 12, "against": 3,
            "version": (1_i64 << 32) + 12,
        });
        assert_eq!(shown(&head, &holders), live);
        head.ended_at = Some(Millis(9_000));
        assert_eq!(shown(&head, &holders)["ended_at"], 9_000);
        holders.unheld_since = Some(Millis(8_000));
        assert_eq!(shown(&head, &holders)["last_disconnect"], 8_000);
    }
}
