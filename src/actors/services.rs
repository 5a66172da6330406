//! What all actors of an instance share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::circuit::Circuit;
use super::directory::{Directory, LiveEntry};
use super::ports::{HotPort, JournalPort, SpillPort};
use super::session::Follow;
use crate::domain::holders::Holders;
use crate::domain::session::Session;
use crate::hot::HotError;
use crate::journal::JournalError;
use crate::journal::clock::DatabaseClock;
use crate::telemetry::metrics::Metrics;

/// After so long without a failure a PostgreSQL that answers counts as back.
const JOURNAL_TRUSTED_AFTER: Duration = Duration::from_secs(3);
/// A directory that was brought up to date longer ago may lack sessions that others have started. The
/// feed asks once a second.
const FOLLOWED_MAX: Duration = Duration::from_secs(2);

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
    pub subscriptions: Box<dyn Subscriptions>,
    /// Tells the feed that the directory may have changed.
    pub directory_changed: Arc<Notify>,
    /// Whether PostgreSQL takes votes.
    pub journal_circuit: Circuit,
    /// When PostgreSQL last failed to take votes; none: it takes them, as far as known.
    journal_away: Mutex<Option<Instant>>,
    /// When the directory was last brought up to date.
    followed: Mutex<Option<Instant>>,
    /// Tasks that failed too often and rest.
    resting: AtomicUsize,
    /// Whether Redis was away when it was last asked for a sign of life.
    redis_away: AtomicBool,
    /// Whether the queue refused the last votes.
    queue_refuses: AtomicBool,
    /// Whether Redis takes sessions' states, when it is there.
    mirroring: AtomicBool,
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
    /// Streamers whose session has to be read from the journal.
    restore: BTreeSet<Uuid>,
}

impl Services {
    /// What the actors of one instance share, with an empty directory.
    pub fn new(
        options: ActorOptions,
        ports: Ports,
        clock: Arc<DatabaseClock>,
        metrics: Arc<Metrics>,
        subscriptions: Box<dyn Subscriptions>,
    ) -> Services {
        Services {
            directory: Directory::new(Arc::clone(&metrics)),
            options,
            journal: ports.journal,
            vote_journal: ports.vote_journal,
            hot: ports.hot,
            spill: ports.spill,
            clock,
            metrics,
            subscriptions,
            directory_changed: Arc::new(Notify::new()),
            journal_circuit: Circuit::default(),
            journal_away: Mutex::default(),
            followed: Mutex::default(),
            resting: AtomicUsize::new(0),
            redis_away: AtomicBool::new(false),
            queue_refuses: AtomicBool::new(false),
            mirroring: AtomicBool::new(true),
            due: Mutex::default(),
        }
    }

    /// Whether all tasks of this instance run.
    pub fn is_whole(&self) -> bool {
        self.resting.load(Ordering::Acquire) == 0
    }

    /// Notes that a task failed too often and rests for a while, or goes on again.
    pub fn note_resting(&self, rests: bool) {
        if rests {
            self.resting.fetch_add(1, Ordering::AcqRel);
        } else {
            self.resting.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Logs when Redis goes, with its reason, and when it is back.
    pub fn note_redis(&self, answer: Result<(), HotError>) {
        let was_away = self.redis_away.swap(answer.is_err(), Ordering::AcqRel);
        match answer {
            Err(error) if !was_away => tracing::warn!(%error, "Redis is away; votes go on without it"),
            Ok(()) if was_away => tracing::info!("Redis is back"),
            Ok(()) | Err(_) => {}
        }
    }

    /// Logs when the queue begins to refuse votes, with its reason, and when it takes them again.
    pub fn note_queue(&self, answer: Result<(), HotError>, votes: usize) {
        let was_refusing = self.queue_refuses.swap(answer.is_err(), Ordering::AcqRel);
        match answer {
            Err(error) if !was_refusing => tracing::warn!(%error, votes, "votes can't be kept in the queue"),
            Ok(()) if was_refusing => tracing::info!("the queue takes votes again"),
            Ok(()) | Err(_) => {}
        }
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

    /// PostgreSQL took votes.
    pub fn journal_took_votes(&self) {
        self.journal_circuit.succeeded();
        if self.journal_away().take().is_some() {
            tracing::info!("PostgreSQL is back: votes are journaled");
        }
    }

    /// PostgreSQL answered a probe: votes are tried again. It may still refuse them, such as with a
    /// full disk, so it only counts as back when none has failed for a while.
    pub fn journal_answered(&self) {
        self.journal_circuit.succeeded();
        let mut away = self.journal_away();
        if away.is_some_and(|failed| failed.elapsed() >= JOURNAL_TRUSTED_AFTER) {
            *away = None;
            tracing::info!("PostgreSQL is back");
        }
    }

    /// PostgreSQL did not take votes, for a reason that is not theirs.
    pub fn journal_failed(&self, error: &JournalError) {
        let away_now = self.journal_circuit.failed();
        let mut away = self.journal_away();
        if away_now && away.is_none() {
            tracing::warn!(%error, "PostgreSQL is away: votes are kept in the queue, if it is durable");
        }
        if away_now || away.is_some() {
            *away = Some(Instant::now());
        }
    }

    /// Notes that the directory is as new as the journal.
    pub fn note_followed(&self) {
        *self.followed() = Some(Instant::now());
    }

    /// Whether the directory was as new as the journal just now.
    pub fn is_followed(&self) -> bool {
        self.followed().is_some_and(|at| at.elapsed() < FOLLOWED_MAX)
    }

    fn followed(&self) -> MutexGuard<'_, Option<Instant>> {
        // A moment is whole at any time.
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether PostgreSQL takes votes, as far as was tried lately.
    pub fn is_journaling(&self) -> bool {
        self.journal_away().is_none()
    }

    fn journal_away(&self) -> MutexGuard<'_, Option<Instant>> {
        // A moment is whole at any time.
        self.journal_away.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// These streamers' sessions have to be read from the journal, few at a time.
    pub fn restore_later(&self, streamer_ids: impl IntoIterator<Item = Uuid>) {
        self.due().restore.extend(streamer_ids);
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

    /// Takes at most `limit` streamers whose session has to be read from the journal.
    pub fn take_restores(&self, limit: usize) -> Vec<Uuid> {
        let mut due = self.due();
        let taken: Vec<Uuid> = due.restore.iter().take(limit).copied().collect();
        for streamer_id in &taken {
            due.restore.remove(streamer_id);
        }
        taken
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        // Nothing in here can panic half-way, so a poisoned lock still guards whole data.
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
