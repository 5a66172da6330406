//! A vote on its way into a session's journal.

use uuid::Uuid;

use super::sentiment::Side;
use super::time::Millis;

/// A vote that was matched, not yet journaled.
#[derive(Clone, Debug, PartialEq)]
pub struct NewVote {
    pub session_id: Uuid,
    /// The chat message's id, as Twitch gave it.
    pub message_id: String,
    pub side: Side,
    pub weight: f64,
    /// When it arrived, on PostgreSQL's clock as estimated by the instance that took it.
    pub t: Millis,
    /// The viewer as a hash under the session's key.
    pub viewer: String,
}
