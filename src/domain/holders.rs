//! Who keeps a session alive.

use uuid::Uuid;

use super::rank;
use super::time::Millis;

/// Who holds a streamer's live session, as the journal knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holders {
    pub streamer_id: Uuid,
    /// The session's place among the streamer's sessions.
    pub ordinal: i64,
    /// Grows with each change of the holders of this session.
    pub version: i64,
    /// Ids of the instances that hold the session, in the order in which they came.
    pub instances: Vec<Uuid>,
    /// Since when nobody has held it; `None` while somebody does.
    pub unheld_since: Option<Millis>,
}

impl Holders {
    /// Orders what is known of a streamer's holders over all sessions: ordinal · 2³² + version.
    pub fn rank(&self) -> i64 {
        rank::of(self.ordinal, self.version)
    }
}
