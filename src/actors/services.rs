//! What all actors of an instance share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use uuid::Uuid;

use super::directory::{Directory, LiveEntry};
use crate::domain::session::Session;
use crate::hot::Hot;
use crate::journal::Journal;
use crate::journal::clock::DatabaseClock;
use crate::telemetry::metrics::Metrics;

/// Numbers that steer the actors.
#[derive(Clone, Debug)]
pub struct ActorOptions {
    /// Between two looks at what is due; also the least time between two frames of a session.
    pub tick: Duration,
    /// Between two counted votes of one viewer.
    pub debounce: Duration,
    /// Between two frames of a session that is not at rest and has no votes.
    pub keyframe: Duration,
    /// Between two pings to an overlay.
    pub ping: Duration,
    /// From a ping to its answer, at most.
    pub pong_timeout: Duration,
    /// How long an instance counts as running after it last said so.
    pub lease: Duration,
    /// A session actor without overlays goes after this long without votes.
    pub idle: Duration,
    /// A vote that has waited this long for its commit is refused, so that Twitch sends it again.
    pub vote_wait: Duration,
    /// A commit that takes longer counts as unknown: its votes are refused and may be sent again.
    pub commit: Duration,
    /// Bytes of a message from an overlay, at most.
    pub overlay_message_bytes_max: usize,
    /// Votes that wait for their answer on this instance, at most; more are refused.
    pub votes_waiting_max: usize,
    /// Overlays of one session on this instance, at most; more are closed with 4103.
    pub overlays_per_session_max: usize,
    /// Threads that session actors are spread over.
    pub arbiters: usize,
}

/// A request for EventSub subscriptions, handed out by the supervisor.
pub trait Subscriptions: Send + Sync {
    /// Chat messages of this broadcaster are wanted. Asking again for the same is harmless.
    fn request(&self, streamer_id: Uuid, twitch_user_id: &str);
}

/// Notes in the log what is wanted from Twitch.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoggedSubscriptions;

impl Subscriptions for LoggedSubscriptions {
    fn request(&self, streamer_id: Uuid, twitch_user_id: &str) {
        tracing::info!(%streamer_id, twitch_user_id, "chat messages are wanted from Twitch");
    }
}

/// A session's state on its way to Redis.
#[derive(Clone, Debug)]
pub struct Unmirrored {
    pub live: Arc<LiveEntry>,
    pub session: Session,
}

/// What all actors of an instance share.
pub struct Services {
    pub options: ActorOptions,
    /// For cold starts and requests.
    pub journal: Journal,
    /// For votes, the lease and the directory's feed: a storm of cold starts must not hold them up.
    pub vote_journal: Journal,
    pub hot: Hot,
    pub clock: Arc<DatabaseClock>,
    pub metrics: Arc<Metrics>,
    pub directory: Directory,
    pub subscriptions: Box<dyn Subscriptions>,
    /// Tells the feed that the directory may have changed.
    pub directory_changed: Arc<Notify>,
    /// Whether the committer runs.
    committing: AtomicBool,
    /// Whether Redis takes sessions' states, when it is there.
    mirroring: AtomicBool,
    due: Mutex<Due>,
}

/// What the next tick has to do: a few entries a session at most, so it is bounded by the sessions
/// of this instance.
#[derive(Default)]
pub struct Due {
    /// Streamers whose session has a frame to send.
    pub frames: Vec<Uuid>,
    /// Streamers whose last overlay may have left.
    pub vacated: Vec<Uuid>,
    /// The newest states that Redis has not confirmed.
    pub unmirrored: HashMap<Uuid, Unmirrored>,
    /// Streamers whose session has ended, with its ordinal: Redis has to forget it.
    pub ended: HashMap<Uuid, i64>,
}

impl Services {
    /// What the actors of one instance share, with an empty directory.
    pub fn new(
        options: ActorOptions,
        [journal, vote_journal]: [Journal; 2],
        hot: Hot,
        clock: Arc<DatabaseClock>,
        metrics: Arc<Metrics>,
        subscriptions: Box<dyn Subscriptions>,
    ) -> Services {
        Services {
            directory: Directory::new(Arc::clone(&metrics)),
            options,
            journal,
            vote_journal,
            hot,
            clock,
            metrics,
            subscriptions,
            directory_changed: Arc::new(Notify::new()),
            committing: AtomicBool::new(false),
            mirroring: AtomicBool::new(true),
            due: Mutex::default(),
        }
    }

    /// Whether the committer runs: without it no vote is journaled.
    pub fn committing(&self) -> bool {
        self.committing.load(Ordering::Acquire)
    }

    /// Notes whether the committer runs.
    pub fn set_committing(&self, committing: bool) {
        self.committing.store(committing, Ordering::Release);
    }

    /// Logs when Redis begins to refuse states, with its reason, and when it takes them again.
    pub fn note_mirror(&self, refused: Option<String>) {
        let took = self.mirroring.swap(refused.is_none(), Ordering::AcqRel);
        match refused {
            Some(reason) if took => tracing::error!(reason, "Redis refuses sessions' states; votes go on"),
            None if !took => tracing::info!("Redis takes sessions' states again"),
            Some(_) | None => {}
        }
    }

    /// Whether Redis takes sessions' states, as far as it was asked.
    pub fn mirroring(&self) -> bool {
        self.mirroring.load(Ordering::Acquire)
    }

    /// A session's frame is due at the next tick. Called once until that tick.
    pub fn frame_due(&self, streamer_id: Uuid) {
        self.due().frames.push(streamer_id);
    }

    /// A session's last overlay on this instance has left.
    pub fn vacated(&self, streamer_id: Uuid) {
        self.due().vacated.push(streamer_id);
    }

    /// A session's state has to be written to Redis at the next tick, unless a newer one is
    /// waiting already.
    pub fn mirror_later(&self, state: Unmirrored) {
        let mut due = self.due();
        let waiting = due.unmirrored.get(&state.live.streamer_id);
        if waiting.is_none_or(|waiting| waiting.session.frame_version() <= state.session.frame_version()) {
            due.unmirrored.insert(state.live.streamer_id, state);
        }
    }

    /// A streamer's sessions up to this ordinal have ended: Redis has to forget them.
    pub fn forget_later(&self, streamer_id: Uuid, ordinal: i64) {
        let mut due = self.due();
        if due.unmirrored.get(&streamer_id).is_some_and(|state| state.session.ordinal <= ordinal) {
            due.unmirrored.remove(&streamer_id);
        }
        let known = due.ended.entry(streamer_id).or_default();
        *known = ordinal.max(*known);
    }

    /// Takes what a tick has to do; what concerns Redis only when Redis can take it.
    pub fn take_due(&self, redis_up: bool) -> Due {
        let mut due = self.due();
        Due {
            frames: std::mem::take(&mut due.frames),
            vacated: std::mem::take(&mut due.vacated),
            unmirrored: if redis_up { std::mem::take(&mut due.unmirrored) } else { HashMap::new() },
            ended: if redis_up { std::mem::take(&mut due.ended) } else { HashMap::new() },
        }
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        // Nothing in here can panic half-way, so a poisoned lock still guards whole data.
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
