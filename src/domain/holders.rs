//! Who keeps a session alive.

use uuid::Uuid;

use super::rank;
use super::time::Millis;

/// The holder that a running recording is: a session is held while the stream is live. No instance has this id.
pub const RECORDING: Uuid = Uuid::nil();

/// Who holds a streamer's live session, as the journal knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holders {
    pub streamer_id: Uuid,
    /// The session's place among the streamer's sessions.
    pub ordinal: i64,
    /// Grows with each change of the holders of this session.
    pub version: i64,
    /// Ids of those who hold the session, instances or [`RECORDING`], in the order in which they came.
    pub ids: Vec<Uuid>,
    /// Since when nobody has held it; `None` while somebody does.
    pub unheld_since: Option<Millis>,
}

impl Holders {
    /// Whether the session is recorded: it is held for as long as the stream is live.
    pub fn are_recording(&self) -> bool {
        self.ids.contains(&RECORDING)
    }

    /// How many instances hold the session.
    pub fn instances(&self) -> usize {
        self.ids.iter().filter(|id| **id != RECORDING).count()
    }

    /// Orders what is known of a streamer's holders over all sessions: ordinal · 2³² + version.
    pub fn rank(&self) -> i64 {
        rank::of(self.ordinal, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_holds_a_session_but_is_no_instance() {
        let holders = |ids: &[Uuid]| Holders {
            streamer_id: Uuid::from_u128(1),
            ordinal: 1,
            version: 1,
            ids: ids.to_vec(),
            unheld_since: None,
        };
        let instance = Uuid::from_u128(2);
        assert_eq!((holders(&[instance]).are_recording(), holders(&[instance]).instances()), (false, 1));
        let both = holders(&[RECORDING, instance]);
        assert_eq!((both.are_recording(), both.instances()), (true, 1));
    }
}
