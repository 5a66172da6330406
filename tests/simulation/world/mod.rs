//! What all instances share: PostgreSQL, Redis, the queue, and what is written down of their use.

pub mod hot;
pub mod journal;
pub mod queue;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chatpulse::domain::time::Millis;
use chatpulse::journal::sessions::News;
use tokio::time::Instant;
use uuid::Uuid;

use hot::{HotAnswer, HotCall, HotModel};
use journal::{JournalAnswer, JournalCall, JournalModel};
use queue::{QueueAnswer, QueueCall, QueueModel};

/// When the simulation begins, on PostgreSQL's clock: far in the future, so that a real server that a trace is
/// replayed on has been up for long.
pub const BEGIN: Millis = Millis(4_000_000_000_000);

/// The rules that the servers keep. Breaking one on purpose has to make seeds fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A message id counts once.
    pub duplicate_check: bool,
    /// The holds of instances whose lease has lapsed are dropped.
    pub lapsed_leases_drop: bool,
    /// A session that is held is no orphan.
    pub holds_count: bool,
    /// A change log that lost something says so.
    pub epochs: bool,
    /// The newer state wins in the mirror.
    pub versions: bool,
    /// A streamer's sessions are numbered.
    pub ordinals: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            duplicate_check: true,
            lapsed_leases_drop: true,
            holds_count: true,
            epochs: true,
            versions: true,
            ordinals: true,
        }
    }
}

/// One effect on the world.
#[derive(Clone, Debug)]
pub struct Step {
    pub at: Millis,
    pub instance: Uuid,
    pub effect: Effect,
}

/// A call with its answer, or what befell a server.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "most are the largest")]
pub enum Effect {
    Journal(JournalCall, JournalAnswer),
    Hot(HotCall, HotAnswer),
    Queue(QueueCall, QueueAnswer),
    HotFlushed,
    HotRolledBack,
    JournalRestarted,
}

/// The shared world.
pub struct World {
    begun: Instant,
    pub rules: Rules,
    pub journal: JournalModel,
    pub hot: HotModel,
    pub queue: QueueModel,
    /// What was done, if it is to be written down.
    pub trace: Option<Vec<Step>>,
    /// An overlay is shown on this instance: streamer and instance → how many.
    pub watched: BTreeMap<(Uuid, Uuid), usize>,
    /// Which frame versions a streamer's sessions had since when.
    pub heads: BTreeMap<Uuid, Vec<(Millis, i64)>>,
    /// When anything but Redis' keys was last lost.
    pub disturbed: Millis,
    /// Whose ended session came back to Redis with an earlier snapshot: nobody knows of those keys any more,
    /// and they go when their life is over.
    pub revived: BTreeSet<Uuid>,
    /// When an instance was last kept from reaching PostgreSQL in time.
    pub troubled: BTreeMap<Uuid, Millis>,
    /// What must never be, and was.
    pub violations: Vec<String>,
}

impl World {
    /// An empty world that begins now.
    pub fn new(rules: Rules, traced: bool) -> World {
        World {
            begun: Instant::now(),
            rules,
            journal: JournalModel::new(Millis(BEGIN.0 - 60_000)),
            hot: HotModel::default(),
            queue: QueueModel::default(),
            trace: traced.then(Vec::new),
            watched: BTreeMap::new(),
            heads: BTreeMap::new(),
            disturbed: Millis(0),
            revived: BTreeSet::new(),
            troubled: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    /// PostgreSQL's time.
    pub fn now(&self) -> Millis {
        Millis(BEGIN.0 + self.begun.elapsed().as_millis() as i64)
    }

    /// Executes a call on PostgreSQL.
    pub fn journal(&mut self, instance: Uuid, call: &JournalCall) -> (JournalAnswer, Vec<News>) {
        let now = self.now();
        let (answer, notices) = self.journal.execute(&self.rules, now, instance, call);
        for (streamer_id, version) in std::mem::take(&mut self.journal.moved) {
            self.heads.entry(streamer_id).or_default().push((now, version));
        }
        if let (JournalCall::EndOrphans { orphan, .. }, JournalAnswer::Ended(ended)) = (call, &answer) {
            for ended in ended {
                self.check_end(ended.streamer_id, *orphan);
            }
        }
        self.note(instance, || Effect::Journal(call.clone(), answer.clone()));
        (answer, notices)
    }

    /// Executes a call on Redis.
    pub fn hot(&mut self, instance: Uuid, call: &HotCall) -> HotAnswer {
        let now = self.now();
        let answer = self.hot.execute(&self.rules, now, call);
        self.note(instance, || Effect::Hot(call.clone(), answer.clone()));
        answer
    }

    /// Executes a call on the queue.
    pub fn queue(&mut self, instance: Uuid, call: &QueueCall) -> QueueAnswer {
        let now = self.now();
        let answer = self.queue.execute(now, instance, call);
        self.note(instance, || Effect::Queue(call.clone(), answer.clone()));
        answer
    }

    /// Redis loses all its keys.
    pub fn flush_hot(&mut self) {
        self.hot.flush();
        self.note(Uuid::nil(), || Effect::HotFlushed);
    }

    /// Redis is started again with the keys that it had once.
    pub fn roll_hot_back(&mut self, snapshot: HotModel) {
        let live =
            |streamer_id: &Uuid| self.journal.entry(*streamer_id).is_some_and(|entry| entry.live.is_some());
        self.revived.extend(snapshot.streamers().into_iter().filter(|streamer_id| !live(streamer_id)));
        self.hot.restart_from(snapshot);
        self.note(Uuid::nil(), || Effect::HotRolledBack);
    }

    /// PostgreSQL is started again.
    pub fn restart_journal(&mut self) {
        let now = self.now();
        self.journal.restart(now);
        self.note(Uuid::nil(), || Effect::JournalRestarted);
    }

    fn note(&mut self, instance: Uuid, effect: impl FnOnce() -> Effect) {
        let at = self.now();
        if let Some(trace) = &mut self.trace {
            trace.push(Step { at, instance, effect: effect() });
        }
    }

    /// The frame version that a streamer's state had at a time; 0 before the first session.
    pub fn version_at(&self, streamer_id: Uuid, at: Millis) -> i64 {
        let heads = self.heads.get(&streamer_id).map_or(&[][..], Vec::as_slice);
        heads.iter().rev().find(|(since, _)| *since <= at).map_or(0, |(_, version)| *version)
    }

    /// Something other than Redis' keys is lost until then.
    pub fn disturb(&mut self, until: Millis) {
        self.disturbed = until.max(self.disturbed);
    }

    /// No session may be ended under an overlay on an instance that was well for long enough.
    fn check_end(&mut self, streamer_id: Uuid, orphan: Duration) {
        let now = self.now();
        let well_since = |instance: &Uuid| self.troubled.get(instance).copied().unwrap_or_default();
        let watched: Vec<Uuid> = self
            .watched
            .iter()
            .filter(|((streamer, instance), overlays)| {
                *streamer == streamer_id
                    && **overlays > 0
                    && self.journal.is_running(*instance, now)
                    && now.0 - well_since(instance).0 > 2 * orphan.as_millis() as i64
            })
            .map(|((_, instance), _)| *instance)
            .collect();
        if !watched.is_empty() {
            self.violations.push(format!(
                "at {} the session of {streamer_id} was ended while overlays watched it on {watched:?}",
                now.0 - BEGIN.0
            ));
        }
    }
}
