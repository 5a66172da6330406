//! What all actors of an instance share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::directory::{Directory, LiveEntry};
use super::ports::{HotPort, JournalPort, SpillPort};
use super::session::Follow;
use super::standing::Standing;
use crate::domain::holders::Holders;
use crate::domain::session::Session;
use crate::journal::clock::DatabaseClock;
use crate::telemetry::metrics::Metrics;

/// Numbers that steer the actors.
#[derive(Clone, Debug)]
pub struct ActorOptions {
    /// Between two looks at what is due, and between two frames of a session; a little less than that where the
    /// second one comes from another instance.
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
    /// A session that nobody has held for so long ends.
    pub orphan: Duration,
    /// From being told to stop to the end, at most.
    pub drain: Duration,
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
    /// Threads that session actors are spread over; 0: the supervisor's own.
    pub arbiters: usize,
    /// Only in builds with debug assertions, for tests: a session actor that gets a vote whose message
    /// id begins so panics.
    pub panic_on_message: Option<String>,
}

/// A session's state on its way to Redis.
#[derive(Clone, Debug)]
pub struct Unmirrored {
    pub live: Arc<LiveEntry>,
    pub session: Session,
}

/// What an instance's actors reach the world through.
pub struct Ports {
    pub journal: Arc<dyn JournalPort>,
    pub vote_journal: Arc<dyn JournalPort>,
    pub hot: Arc<dyn HotPort>,
    pub spill: Option<Arc<dyn SpillPort>>,
}

/// What all actors of an instance share.
pub struct Services {
    pub options: ActorOptions,
    /// When this instance began.
    pub began: Instant,
    /// For cold starts and requests.
    pub journal: Arc<dyn JournalPort>,
    /// For votes, the lease and the directory's feed: a storm of cold starts must not hold them up.
    pub vote_journal: Arc<dyn JournalPort>,
    pub hot: Arc<dyn HotPort>,
    /// Where votes wait while the journal is away; none: they are refused then.
    pub spill: Option<Arc<dyn SpillPort>>,
    pub clock: Arc<DatabaseClock>,
    pub metrics: Arc<Metrics>,
    pub directory: Directory,
    /// Tells who looks after subscriptions that a session has started whose chat is wanted.
    pub chat_wanted: Arc<Notify>,
    /// Tells the feed that the directory may have changed.
    pub directory_changed: Arc<Notify>,
    /// How PostgreSQL, Redis, the queue and this instance's own tasks are doing.
    pub standing: Standing,
    due: Mutex<Due>,
}

/// What has to be written to Redis.
#[derive(Default)]
pub struct ForRedis {
    pub states: Vec<Unmirrored>,
    pub holders: Vec<Holders>,
    pub ended: Vec<(Uuid, i64)>,
}

/// What the next ticks have to do: a few entries a session at most, so it is bounded by the sessions
/// of this instance.
#[derive(Default)]
struct Due {
    /// Streamers whose session has a frame to send.
    frames: Vec<Uuid>,
    /// Streamers whose last overlay may have left.
    vacated: Vec<Uuid>,
    /// The newest states that Redis has not confirmed.
    unmirrored: BTreeMap<Uuid, Unmirrored>,
    /// The newest holders that Redis has not confirmed.
    holders: BTreeMap<Uuid, Holders>,
    /// Streamers whose session has ended, with its ordinal: Redis has to forget it.
    ended: BTreeMap<Uuid, i64>,
    /// Streamers whose session moved without Redis noting it: other instances are told by the journal.
    unannounced: BTreeSet<Uuid>,
    /// Streamers whose session's head has to be read from the journal.
    restore: BTreeSet<Uuid>,
    /// Streamers whose session has to be written to Redis again.
    rewrite: BTreeSet<Uuid>,
}

impl Services {
    /// What the actors of one instance share, with an empty directory.
    pub fn new(
        options: ActorOptions,
        ports: Ports,
        clock: Arc<DatabaseClock>,
        metrics: Arc<Metrics>,
    ) -> Services {
        Services {
            directory: Directory::new(Arc::clone(&metrics)),
            options,
            began: Instant::now(),
            journal: ports.journal,
            vote_journal: ports.vote_journal,
            hot: ports.hot,
            spill: ports.spill,
            clock,
            metrics,
            chat_wanted: Arc::new(Notify::new()),
            directory_changed: Arc::new(Notify::new()),
            standing: Standing::default(),
            due: Mutex::default(),
        }
    }

    /// Tells the actor of a streamer's session, if one runs here, that the head has moved.
    pub fn follow(&self, streamer_id: Uuid, session_id: Uuid, head: Session) {
        let Some(handle) = self.directory.session(streamer_id) else { return };
        if handle.address.try_send(Follow { session_id, head }).is_err() {
            // Too busy: it is read again.
            self.restore_later([streamer_id]);
        }
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

    /// Who holds a session has to be written to Redis at the next tick, unless something newer is
    /// waiting already.
    pub fn note_holders_later(&self, holders: Holders) {
        let mut due = self.due();
        let waiting = due.holders.get(&holders.streamer_id);
        if waiting.is_none_or(|waiting| waiting.rank() <= holders.rank()) {
            due.holders.insert(holders.streamer_id, holders);
        }
    }

    /// A streamer's sessions up to this ordinal have ended: Redis has to forget them.
    pub fn forget_later(&self, streamer_id: Uuid, ordinal: i64) {
        let mut due = self.due();
        if due.unmirrored.get(&streamer_id).is_some_and(|state| state.session.ordinal <= ordinal) {
            due.unmirrored.remove(&streamer_id);
        }
        if due.holders.get(&streamer_id).is_some_and(|holders| holders.ordinal <= ordinal) {
            due.holders.remove(&streamer_id);
        }
        let known = due.ended.entry(streamer_id).or_default();
        *known = ordinal.max(*known);
    }

    /// Other instances have to be told by the journal that these streamers' sessions moved.
    pub fn announce_later(&self, streamer_ids: impl IntoIterator<Item = Uuid>) {
        self.due().unannounced.extend(streamer_ids);
    }

    /// The heads of these streamers' sessions have to be read from the journal: they may have moved unseen.
    pub fn restore_later(&self, streamer_ids: impl IntoIterator<Item = Uuid>) {
        self.due().restore.extend(streamer_ids);
    }

    /// These streamers' sessions have to be written to Redis, which may have lost them.
    pub fn rewrite_later(&self, streamer_ids: impl IntoIterator<Item = Uuid>) {
        self.due().rewrite.extend(streamer_ids);
    }

    /// Takes what a tick has to do for overlays.
    pub fn take_due(&self) -> (Vec<Uuid>, Vec<Uuid>) {
        let mut due = self.due();
        (std::mem::take(&mut due.frames), std::mem::take(&mut due.vacated))
    }

    /// Takes what has to be written to Redis.
    pub fn take_unmirrored(&self) -> Option<ForRedis> {
        let mut due = self.due();
        let taken = ForRedis {
            states: std::mem::take(&mut due.unmirrored).into_values().collect(),
            holders: std::mem::take(&mut due.holders).into_values().collect(),
            ended: std::mem::take(&mut due.ended).into_iter().collect(),
        };
        let empty = taken.states.is_empty() && taken.holders.is_empty() && taken.ended.is_empty();
        (!empty).then_some(taken)
    }

    /// Takes whom to tell other instances about.
    pub fn take_unannounced(&self) -> Vec<Uuid> {
        std::mem::take(&mut self.due().unannounced).into_iter().collect()
    }

    /// Takes at most `limit` streamers whose session's head has to be read from the journal.
    pub fn take_restores(&self, limit: usize) -> Vec<Uuid> {
        take_first(&mut self.due().restore, limit)
    }

    /// Takes at most `limit` streamers whose session has to be written to Redis again.
    pub fn take_rewrites(&self, limit: usize) -> Vec<Uuid> {
        take_first(&mut self.due().rewrite, limit)
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        // Nothing in here can panic half-way, so a poisoned lock still guards whole data.
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes at most `limit` of a set.
fn take_first(set: &mut BTreeSet<Uuid>, limit: usize) -> Vec<Uuid> {
    let rest = set.iter().nth(limit).copied().map(|first| set.split_off(&first)).unwrap_or_default();
    std::mem::replace(set, rest).into_iter().collect()
}
