//! What a session actor is told.

use std::sync::Arc;
use tokio::time::Instant;

use actix::Message;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::actors::directory::LiveEntry;
use crate::actors::outbox::{Close, Outbox};
use crate::domain::sentiment::Side;
use crate::domain::session::Session;
use crate::journal::sessions::Entry;

/// What became of a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteOutcome {
    /// It is in the journal and counts.
    Accepted,
    /// The same viewer's last vote is too recent.
    Debounced,
    /// Its message had voted before.
    Duplicate,
    /// Its session has ended.
    Late,
    /// It is in the durable queue, and will be journaled when PostgreSQL is back.
    Queued,
    /// It could not be made durable; Twitch has to deliver it again.
    Unavailable,
}

/// Where a vote's outcome goes.
pub type Reply = oneshot::Sender<VoteOutcome>;

/// A vote that was matched.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CastVote {
    pub live: Arc<LiveEntry>,
    pub message_id: String,
    pub viewer_id: String,
    pub side: Side,
    pub arrived: Instant,
    pub reply: Reply,
}

/// A batch with votes of this session is journaled.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Journaled {
    pub session_id: Uuid,
    pub head: Session,
    /// When the oldest of the votes arrived.
    pub arrived: Instant,
}

/// The session's head has moved: another instance journaled votes, or the queue was drained.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Follow {
    pub session_id: Uuid,
    pub head: Session,
}

/// What the journal says of the streamer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Adopt {
    pub entry: Arc<Entry>,
    /// What the directory made of it: the live session; none when it is over.
    pub live: Option<Arc<LiveEntry>>,
}

/// Redis may have lost the session's state.
#[derive(Message)]
#[rtype(result = "()")]
pub struct MirrorAgain;

/// An overlay wants frames.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Join {
    pub overlay_id: Uuid,
    pub overlay_uuid: Uuid,
    pub outbox: Arc<Outbox>,
}

/// An overlay has not had a hello for a while. A page can't see pings: this is how it knows that its
/// socket is alive.
#[derive(Message)]
#[rtype(result = "()")]
pub struct HelloAgain {
    pub overlay_id: Uuid,
}

/// An overlay is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Leave {
    pub overlay_id: Uuid,
}

/// A tick has come at which this session has a frame to send.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Tick;

/// All overlays need a new base: what they were shown may be out of date.
#[derive(Message)]
#[rtype(result = "()")]
pub struct HelloAll;

/// Close one of `shares` equal shares of the overlays, the one with this number.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CloseShare {
    pub close: Close,
    pub share: u64,
    pub shares: u64,
}

/// Close all overlays.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CloseOverlays(pub Close);

/// How many overlays are connected?
#[derive(Message)]
#[rtype(result = "usize")]
pub struct CountOverlays;
