//! What a session actor is told.

use std::sync::Arc;
use std::time::Instant;

use actix::{Addr, Message};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::actors::directory::LiveEntry;
use crate::actors::outbox::{Close, Outbox};
use crate::actors::overlay::OverlayActor;
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

/// A batch with votes of this session has been decided. Answers who waits for which outcome: they
/// are told after the mirror was written.
#[derive(Message)]
#[rtype(result = "Vec<(Reply, VoteOutcome)>")]
pub struct Decided {
    /// The head after the commit, if there was one.
    pub head: Option<(Uuid, Session)>,
    pub outcomes: Vec<(String, VoteOutcome)>,
    /// When the oldest of the votes arrived.
    pub arrived: Instant,
}

/// What the journal says of the streamer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Adopt(pub Arc<Entry>);

/// An overlay wants frames.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Join {
    pub overlay_id: Uuid,
    pub overlay_uuid: Uuid,
    pub outbox: Arc<Outbox>,
    pub address: Addr<OverlayActor>,
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

/// Close all overlays.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CloseOverlays(pub Close);

/// How many overlays are connected?
#[derive(Message)]
#[rtype(result = "usize")]
pub struct CountOverlays;
