//! A queue on a Redis stream with a consumer group: delivered at least once, to one consumer at a
//! time, with a count of the deliveries and a stream of dead letters. Handlers have to be idempotent.
//!
//! An entry is in the stream until it is settled or dead, so the stream's length is what waits. What
//! a consumer took belongs to it until then; it gets it again with its next [`Queue::take`], or
//! another consumer does, once it has been idle for long enough.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deadpool_redis::redis::{Cmd, Value, cmd};

use super::functions::Function;
use super::pool::answer;
use super::{Hot, HotError, keys};

/// Deliveries after which an entry that fails is dead.
const TRIES_MAX: u32 = 5;
/// Ids struck out in one call at most: the server does nothing else meanwhile.
const SETTLED_AT_ONCE_MAX: usize = 500;
/// How often a consumer that is gone is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// A consumer without entries that has not asked for so long is gone.
const CONSUMER_IDLE_MAX: Duration = Duration::from_secs(3600);

/// Which queue, and as whom.
#[derive(Clone, Debug)]
pub struct QueueOptions {
    /// The queue's name with a hash tag, such as `{votes}`: it and its dead letters share a slot.
    pub name: String,
    /// The consumers that share the entries.
    pub group: String,
    /// This consumer; no two that live at the same time may have one name.
    pub consumer: String,
    /// Entries that may wait at most.
    pub entries_max: usize,
    /// After so long without a sign of its consumer an entry goes to another.
    pub claim_after: Duration,
    /// How often such entries are looked for.
    pub claim_every: Duration,
}

/// An entry, being delivered to this consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: String,
    pub payload: Vec<u8>,
}

/// An entry that could not be dealt with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its id among the dead letters.
    pub id: String,
    /// Its id in the queue; the milliseconds before the dash tell when it came.
    pub entry_id: String,
    pub payload: Vec<u8>,
    pub reason: String,
    /// How often it was delivered.
    pub tries: u32,
}

/// What became of an entry that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It will be delivered again.
    Again,
    /// It is with the dead letters now, or no longer there.
    Dead,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Entries that are not settled.
    pub waiting: u64,
    pub dead_letters: u64,
}

/// A queue, as one consumer sees it.
#[derive(Clone)]
pub struct Queue {
    redis: Hot,
    options: Arc<QueueOptions>,
    progress: Arc<Mutex<Progress>>,
}

/// What this consumer knows of its own doing.
#[derive(Default)]
struct Progress {
    /// Taken and neither settled nor dead, as far as is known.
    unsettled: HashSet<String>,
    /// The answer to a take may have been lost, with entries in it.
    unsure: bool,
    claimed_at: Option<Instant>,
    /// Where the next look for idle entries begins: one look goes through a part of them only.
    claim_from: Option<String>,
    swept_at: Option<Instant>,
}

impl Progress {
    fn may_have_unsettled(&self) -> bool {
        self.unsure || !self.unsettled.is_empty()
    }

    fn forget(&mut self, ids: &[String]) {
        ids.iter().for_each(|id| {
            self.unsettled.remove(id);
        });
    }
}

/// A stream's entries, ids with fields; an entry that was deleted has none.
type Rows = Vec<(String, Option<Vec<Vec<u8>>>)>;

impl Queue {
    /// The queue on the server behind `redis`; nothing is asked yet.
    pub fn new(redis: Hot, options: QueueOptions) -> Queue {
        Queue { redis, options: Arc::new(options), progress: Arc::default() }
    }

    /// Puts entries into the queue: all of them or none.
    ///
    /// # Errors
    /// [`HotError::Full`] when it has no room for all of them; any other: it is unknown whether they
    /// are in.
    pub async fn push(&self, payloads: &[Vec<u8>]) -> Result<(), HotError> {
        self.pushed(self.redis.ask(self.push_call(payloads)).await?)
    }

    /// The command that puts entries into the queue, for who has more to ask in the same exchange.
    pub(super) fn push_call(&self, payloads: &[Vec<u8>]) -> Cmd {
        let mut call = Function::Enqueue.call(&[self.stream()]);
        call.arg(&self.options.group).arg(self.options.entries_max);
        for payload in payloads {
            call.arg(payload.as_slice());
        }
        call
    }

    /// What became of the entries, by the answer to [`Queue::push_call`].
    pub(super) fn pushed(&self, answered: Value) -> Result<(), HotError> {
        match answer::<String>(answered)?.as_str() {
            "queued" => Ok(()),
            "full" => Err(HotError::Full(self.options.name.clone())),
            other => Err(HotError::Answer(format!("to a push: {other:?}"))),
        }
    }

    /// At most `limit` entries: first those this consumer took before and did not settle, then those
    /// of consumers that were not heard of for a while, then new ones.
    ///
    /// Not to be called again before what it gave is settled, failed or given up: it would give the
    /// same entries again.
    ///
    /// # Errors
    /// [`HotError`]; taking again is safe.
    pub async fn take(&self, limit: usize) -> Result<Vec<Entry>, HotError> {
        match self.try_take(limit).await {
            Err(HotError::Server(why)) if why.contains("NOGROUP") => {
                self.create_group().await?;
                self.try_take(limit).await
            }
            taken => taken,
        }
    }

    async fn try_take(&self, limit: usize) -> Result<Vec<Entry>, HotError> {
        if is_due(&mut self.progress().swept_at, SWEEP_EVERY) {
            self.drop_consumers(CONSUMER_IDLE_MAX).await?;
        }
        let mut taken = Vec::new();
        if self.progress().may_have_unsettled() {
            taken = self.take_again(limit).await?;
        }
        if taken.len() < limit && is_due(&mut self.progress().claimed_at, self.options.claim_every) {
            let claimed = self.claim(limit - taken.len()).await?;
            let known: HashSet<String> = taken.iter().map(|entry| entry.id.clone()).collect();
            taken.extend(claimed.into_iter().filter(|entry| !known.contains(&entry.id)));
        }
        if taken.len() < limit {
            taken.extend(self.take_new(limit - taken.len()).await?);
        }
        Ok(taken)
    }

    /// Strikes out entries that are dealt with.
    ///
    /// # Errors
    /// [`HotError`]; settling again is safe.
    pub async fn settle(&self, ids: &[String]) -> Result<(), HotError> {
        let calls = ids.chunks(SETTLED_AT_ONCE_MAX).map(|ids| {
            let mut call = Function::Settle.call(&[self.stream()]);
            call.arg(&self.options.group).arg(ids);
            call
        });
        let answers = self.redis.send(calls.collect()).await?;
        answers.into_iter().try_for_each(answer::<()>)?;
        self.progress().forget(ids);
        Ok(())
    }

    /// Notes that an entry could not be dealt with. After its fifth delivery it goes to the dead
    /// letters, with the reason.
    ///
    /// # Errors
    /// [`HotError`]; failing again is safe.
    pub async fn fail(&self, id: &str, reason: &str) -> Result<Failed, HotError> {
        self.fail_after(TRIES_MAX, id, reason).await
    }

    /// Puts an entry that can never be dealt with to the dead letters at once.
    ///
    /// # Errors
    /// [`HotError`]; burying again is safe.
    pub async fn bury(&self, id: &str, reason: &str) -> Result<(), HotError> {
        self.fail_after(0, id, reason).await.map(|_| ())
    }

    async fn fail_after(&self, tries: u32, id: &str, reason: &str) -> Result<Failed, HotError> {
        let mut call = Function::Fail.call(&[self.stream(), self.letters()]);
        call.arg(&self.options.group).arg(id).arg(tries).arg(reason);
        match self.redis.ask::<String>(call).await?.as_str() {
            "again" => Ok(Failed::Again),
            "dead" | "gone" => {
                self.progress().forget(&[id.to_owned()]);
                Ok(Failed::Dead)
            }
            other => Err(HotError::Answer(format!("to a failed entry: {other:?}"))),
        }
    }

    /// How much waits.
    ///
    /// # Errors
    /// [`HotError`].
    pub async fn depth(&self) -> Result<Depth, HotError> {
        let length = |key: String| cmd("XLEN").arg(key).to_owned();
        let lengths = [length(self.stream()), length(self.letters())];
        let [waiting, dead_letters] = self.redis.ask_together(lengths).await?;
        Ok(Depth { waiting: answer(waiting)?, dead_letters: answer(dead_letters)? })
    }

    /// At most `limit` dead letters, oldest first: those after the one with the id `after`.
    ///
    /// # Errors
    /// [`HotError`].
    pub async fn dead_letters(&self, after: Option<&str>, limit: usize) -> Result<Vec<DeadLetter>, HotError> {
        let start = after.map_or("-".to_owned(), |id| format!("({id}"));
        let mut range = cmd("XRANGE");
        range.arg(self.letters()).arg(start).arg("+").arg("COUNT").arg(limit);
        let rows: Rows = self.redis.ask(range).await?;
        Ok(rows.into_iter().filter_map(|(id, fields)| Some(dead_letter(id, &fields?))).collect())
    }

    /// Puts a dead letter back into the queue, as a new entry; `false` when it is not there.
    ///
    /// # Errors
    /// [`HotError`]; trying again is safe.
    pub async fn retry_dead(&self, id: &str) -> Result<bool, HotError> {
        let mut call = Function::RetryDead.call(&[self.letters(), self.stream()]);
        call.arg(id);
        self.redis.ask(call).await
    }

    /// Removes the group's consumers that have nothing and have not asked for `idle`; answers how
    /// many.
    pub(super) async fn drop_consumers(&self, idle: Duration) -> Result<usize, HotError> {
        let mut call = Function::DropConsumers.call(&[self.stream()]);
        call.arg(&self.options.group).arg(&self.options.consumer).arg(millis(idle));
        self.redis.ask(call).await
    }

    /// What this consumer took and did not settle, delivered once more.
    async fn take_again(&self, limit: usize) -> Result<Vec<Entry>, HotError> {
        let rows = self.read(limit, "0").await?;
        let complete = rows.len() < limit;
        let (entries, deleted) = entries_of(rows);
        {
            let mut progress = self.progress();
            if complete {
                // Others may have dealt with the rest.
                progress.unsettled.clear();
                progress.unsure = false;
            }
            progress.unsettled.extend(entries.iter().map(|entry| entry.id.clone()));
        }
        if !deleted.is_empty() {
            self.settle(&deleted).await?;
        }
        Ok(entries)
    }

    async fn take_new(&self, limit: usize) -> Result<Vec<Entry>, HotError> {
        let was_unsure = std::mem::replace(&mut self.progress().unsure, true);
        let rows = self.read(limit, ">").await?;
        Ok(self.taken(rows, was_unsure))
    }

    /// Takes over entries whose consumer was not heard of for a while.
    async fn claim(&self, limit: usize) -> Result<Vec<Entry>, HotError> {
        let was_unsure = std::mem::replace(&mut self.progress().unsure, true);
        let QueueOptions { group, consumer, claim_after, .. } = &*self.options;
        let mut claim = cmd("XAUTOCLAIM");
        claim.arg(self.stream()).arg(group).arg(consumer).arg(millis(*claim_after));
        let from = self.progress().claim_from.clone().unwrap_or_else(|| "0-0".into());
        claim.arg(from).arg("COUNT").arg(limit);
        let (next, rows, _): (String, Rows, Vec<String>) = self.redis.ask(claim).await?;
        self.progress().claim_from = Some(next);
        Ok(self.taken(rows, was_unsure))
    }

    fn taken(&self, rows: Rows, was_unsure: bool) -> Vec<Entry> {
        let (entries, _) = entries_of(rows);
        let mut progress = self.progress();
        progress.unsure = was_unsure;
        progress.unsettled.extend(entries.iter().map(|entry| entry.id.clone()));
        entries
    }

    /// Reads from the stream as this consumer: `from` is `>` for new entries, `0` for those it has.
    async fn read(&self, limit: usize, from: &str) -> Result<Rows, HotError> {
        let QueueOptions { group, consumer, .. } = &*self.options;
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(group).arg(consumer).arg("COUNT").arg(limit);
        read.arg("STREAMS").arg(self.stream()).arg(from);
        let streams: Option<Vec<(String, Rows)>> = self.redis.ask(read).await?;
        Ok(streams.unwrap_or_default().into_iter().flat_map(|(_, rows)| rows).collect())
    }

    /// Makes the group, and the stream: at the start, and after a flush. It begins with the oldest
    /// entry, so that nothing that was queued before is left out.
    async fn create_group(&self) -> Result<(), HotError> {
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(self.stream()).arg(&self.options.group).arg("0").arg("MKSTREAM");
        match self.redis.ask::<()>(create).await {
            // Another consumer was faster.
            Err(HotError::Server(why)) if why.contains("BUSYGROUP") => Ok(()),
            created => created,
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stream(&self) -> String {
        keys::stream(&self.options.name)
    }

    fn letters(&self) -> String {
        keys::dead_letters(&self.options.name)
    }
}

/// Whether something that happens `every` so often is due; notes that it happens now.
fn is_due(last: &mut Option<Instant>, every: Duration) -> bool {
    let due = last.is_none_or(|last| last.elapsed() >= every);
    if due {
        *last = Some(Instant::now());
    }
    due
}

/// The entries, and the ids of those that were deleted while they were with a consumer.
fn entries_of(rows: Rows) -> (Vec<Entry>, Vec<String>) {
    let (mut entries, mut deleted) = (Vec::with_capacity(rows.len()), Vec::new());
    for (id, fields) in rows {
        match fields {
            Some(fields) => entries.push(Entry { payload: field(&fields, "payload"), id }),
            None => deleted.push(id),
        }
    }
    (entries, deleted)
}

fn dead_letter(id: String, fields: &[Vec<u8>]) -> DeadLetter {
    let text = |name| String::from_utf8_lossy(&field(fields, name)).into_owned();
    DeadLetter {
        id,
        entry_id: text("id"),
        payload: field(fields, "payload"),
        reason: text("reason"),
        tries: text("tries").parse().unwrap_or(0),
    }
}

/// A field's value from a list of names and values; empty when it is not there.
fn field(fields: &[Vec<u8>], name: &str) -> Vec<u8> {
    let mut pairs = fields.chunks_exact(2);
    pairs.find(|pair| pair[0] == name.as_bytes()).map_or(Vec::new(), |pair| pair[1].clone())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
