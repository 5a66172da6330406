//! Votes that wait in a durable queue until the journal is back.
//!
//! What is put there was acknowledged, so it may only go to a server that keeps it: AOF with a sync
//! before each answer, nothing evicted, and no replica that takes over by itself, since Redis copies
//! to replicas after it has answered.

mod format;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_redis::redis::{Cmd, Value, cmd};
use uuid::Uuid;

use self::format::{decoded, encoded};
use super::pool::answer;
pub use super::queue::{DeadLetter, Depth, Failed};
use super::queue::{Entry, Queue, QueueOptions};
use super::{Hot, HotError, HotOptions};
use crate::domain::vote::NewVote;

const QUEUE: &str = "{votes}";
const GROUP: &str = "journal";
/// An instance that took entries and was not heard of for so long is not journaling them any more.
const CLAIM_AFTER: Duration = Duration::from_secs(15);
const CLAIM_EVERY: Duration = Duration::from_secs(5);
/// What a durable server's settings are, and in which order they are asked for.
const DURABLE_SETTINGS: [(&str, &str); 4] = [
    ("appendonly", "yes"),
    ("appendfsync", "always"),
    ("no-appendfsync-on-rewrite", "no"),
    ("maxmemory-policy", "noeviction"),
];

/// How it is known whether the queue's server is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// By asking the server for its settings.
    Ask,
    /// By the operator's word: it is, also when it doesn't tell its settings.
    Yes,
    /// By the operator's word: it is not.
    No,
}

/// How the queue is used.
#[derive(Clone, Debug)]
pub struct SpillOptions {
    /// Under which name entries are taken: this instance's, new at each start.
    pub instance_id: Uuid,
    /// Votes that may wait at most; some 300 bytes of the server's memory each.
    pub entries_max: usize,
    pub durability: Durability,
}

/// A vote in the queue, being delivered to this instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Spilled {
    /// The queue's id of the entry.
    pub id: String,
    pub vote: NewVote,
}

/// The durable queue of votes.
#[derive(Clone)]
pub struct Spill {
    redis: Hot,
    queue: Queue,
    durability: Durability,
    standing: Arc<Mutex<Standing>>,
}

/// What the last probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// Not probed, or the last probe failed.
    Unknown,
    Durable,
    /// Not durable, and why.
    Fleeting(String),
}

impl Spill {
    /// The queue on the server that `redis` names; its `command_timeout` bounds a push. Nothing is
    /// asked yet.
    ///
    /// # Errors
    /// [`HotError::Options`] for a URL that can't be used.
    pub fn connect(redis: &HotOptions, options: &SpillOptions) -> Result<Spill, HotError> {
        Ok(Spill::new(Hot::connect(redis)?, options))
    }

    /// The queue on the server behind `redis`, the role of the queues.
    pub fn new(redis: Hot, options: &SpillOptions) -> Spill {
        let queue = QueueOptions {
            name: QUEUE.into(),
            group: GROUP.into(),
            consumer: options.instance_id.to_string(),
            entries_max: options.entries_max,
            claim_after: CLAIM_AFTER,
            claim_every: CLAIM_EVERY,
        };
        Spill {
            queue: Queue::new(redis.clone(), queue),
            redis,
            durability: options.durability,
            standing: Arc::new(Mutex::new(Standing::Unknown)),
        }
    }

    /// Whether the queue's server was there and durable when last asked.
    pub fn is_durable(&self) -> bool {
        self.redis.is_up() && *self.standing() == Standing::Durable
    }

    /// Whether the queue's server was not durable when last asked: nothing needs to be put there then.
    pub fn is_fleeting(&self) -> bool {
        matches!(*self.standing(), Standing::Fleeting(_))
    }

    /// Why the queue's server was not durable when last asked; `None` when it was, or that is not known.
    pub fn why_fleeting(&self) -> Option<String> {
        match &*self.standing() {
            Standing::Fleeting(why) => Some(why.clone()),
            Standing::Unknown | Standing::Durable => None,
        }
    }

    /// Looks whether the queue's server is there and durable, and how much waits. To be called once
    /// a second; the one way back after it was away.
    ///
    /// # Errors
    /// [`HotError`] when it can't be asked.
    pub async fn probe(&self) -> Result<Depth, HotError> {
        let looked = self.look().await;
        match &looked {
            Ok((_, standing)) => self.note(standing.clone()),
            // It may only have been slow; the circuit decides, and a push is checked afterwards.
            Err(HotError::TimedOut { .. }) => {}
            Err(_) => self.note(Standing::Unknown),
        }
        looked.map(|(depth, _)| depth)
    }

    /// Puts votes into the queue: all of them or none. They are durable when this answers: the same
    /// server, asked along with the push, says that it keeps them.
    ///
    /// # Errors
    /// [`HotError::Full`] when the queue has no room; [`HotError::Fleeting`] when its server is not
    /// durable; any other: it is unknown whether they are in the queue. Putting them there again is
    /// safe, because the journal counts a message once.
    pub async fn push(&self, votes: &[NewVote]) -> Result<(), HotError> {
        let payloads: Vec<Vec<u8>> = votes.iter().map(encoded).collect::<Result<_, _>>()?;
        let push = self.queue.push_call(&payloads);
        match self.durability_question()? {
            None => self.queue.pushed(self.redis.ask(push).await?),
            Some(question) => {
                let [settings, pushed] = self.redis.ask_together([question, push]).await?;
                self.queue.pushed(pushed)?;
                why_fleeting(settings)?.map_or(Ok(()), |reason| Err(HotError::Fleeting(reason)))
            }
        }
    }

    /// At most `limit` votes for this instance to journal: new ones, ones it took before and did not
    /// settle, and those of instances that took them and were not heard of for a while. None only
    /// when none wait for this instance.
    ///
    /// Not to be called again while what it gave is still being journaled: it would give the same
    /// votes again.
    ///
    /// # Errors
    /// [`HotError`]; taking again is safe.
    pub async fn take(&self, limit: usize) -> Result<Vec<Spilled>, HotError> {
        loop {
            let entries = self.queue.take(limit).await?;
            if entries.is_empty() {
                return Ok(Vec::new());
            }
            let mut votes = Vec::with_capacity(entries.len());
            for Entry { id, payload } in entries {
                match decoded(&payload) {
                    Ok(vote) => votes.push(Spilled { id, vote }),
                    Err(reason) => self.queue.bury(&id, &reason).await?,
                }
            }
            if !votes.is_empty() {
                return Ok(votes);
            }
        }
    }

    /// Strikes out entries whose votes are journaled.
    ///
    /// # Errors
    /// [`HotError`]; settling again is safe.
    pub async fn settle(&self, ids: &[String]) -> Result<(), HotError> {
        self.queue.settle(ids).await
    }

    /// Notes that the journal refused an entry's data. After the fifth delivery the entry goes to
    /// the dead letters, with the reason.
    ///
    /// # Errors
    /// [`HotError`]; failing again is safe.
    pub async fn fail(&self, id: &str, reason: &str) -> Result<Failed, HotError> {
        self.queue.fail(id, reason).await
    }

    /// At most `limit` dead letters, oldest first: those after the one with the id `after`.
    ///
    /// # Errors
    /// [`HotError`].
    pub async fn dead_letters(&self, after: Option<&str>, limit: usize) -> Result<Vec<DeadLetter>, HotError> {
        self.queue.dead_letters(after, limit).await
    }

    /// Puts a dead letter back into the queue; `false` when it is not there.
    ///
    /// # Errors
    /// [`HotError`]; trying again is safe.
    pub async fn retry_dead(&self, id: &str) -> Result<bool, HotError> {
        self.queue.retry_dead(id).await
    }

    async fn look(&self) -> Result<(Depth, Standing), HotError> {
        // Full is no reason not to empty it.
        self.redis.probe_alive().await?;
        let depth = self.queue.depth().await?;
        let fleeting = match self.durability_question() {
            Ok(None) => None,
            Ok(Some(question)) => {
                let [settings] = self.redis.ask_together([question]).await?;
                why_fleeting(settings)?
            }
            Err(HotError::Fleeting(reason)) => Some(reason),
            Err(error) => return Err(error),
        };
        Ok((depth, fleeting.map_or(Standing::Durable, Standing::Fleeting)))
    }

    /// What to ask the server to know whether it is durable; `None` when it is by the operator's word.
    ///
    /// # Errors
    /// [`HotError::Fleeting`] when it is not, whatever it would say.
    fn durability_question(&self) -> Result<Option<Cmd>, HotError> {
        let fleeting = |reason: &str| Err(HotError::Fleeting(reason.into()));
        match self.durability {
            Durability::Yes => Ok(None),
            Durability::No => fleeting("the settings say so"),
            Durability::Ask if self.redis.is_cluster() => {
                fleeting("a replica in a cluster may take over without what was just written")
            }
            Durability::Ask => {
                let mut get = cmd("CONFIG");
                get.arg("GET").arg(&DURABLE_SETTINGS.map(|(name, _)| name));
                Ok(Some(get))
            }
        }
    }

    /// Notes what a probe found, and says so when it is news.
    fn note(&self, found: Standing) {
        let before = std::mem::replace(&mut *self.standing(), found.clone());
        if std::mem::discriminant(&before) == std::mem::discriminant(&found) {
            return;
        }
        match found {
            Standing::Durable => {
                tracing::info!("the queue is durable: votes can wait there while the journal is away")
            }
            Standing::Fleeting(reason) => tracing::warn!(
                reason,
                "the queue's Redis may lose votes: none are put there, and while PostgreSQL is away votes are \
                 answered 503; give it the settings in config/redis/, or, if it keeps what it acknowledges and \
                 can't be asked, set redis.queue_is_durable"
            ),
            // Whoever probes hears of the failure itself.
            Standing::Unknown => {}
        }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a server that was asked for its settings would not keep what it acknowledged; `None` when it
/// would.
fn why_fleeting(asked: Value) -> Result<Option<String>, HotError> {
    match answer::<HashMap<String, String>>(asked) {
        Ok(settings) => Ok(unfit_settings(&settings)),
        Err(HotError::Server(why)) => Ok(Some(format!("it does not tell its settings ({why})"))),
        Err(error) => Err(error),
    }
}

/// What of a server's settings is not as a durable server's; `None` when all is.
fn unfit_settings(settings: &HashMap<String, String>) -> Option<String> {
    let unfit = DURABLE_SETTINGS.iter().filter_map(|(name, wanted)| {
        let there = settings.get(*name).map_or("unknown", String::as_str);
        (there != *wanted).then(|| format!("{name} is {there} instead of {wanted}"))
    });
    let unfit: Vec<String> = unfit.collect();
    (!unfit.is_empty()).then(|| unfit.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_that_syncs_before_it_answers_and_evicts_nothing_is_durable() {
        let settings = |fsync: &str, policy: &str| {
            let pairs = [
                ("appendonly", "yes"),
                ("appendfsync", fsync),
                ("no-appendfsync-on-rewrite", "no"),
                ("maxmemory-policy", policy),
            ];
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
        };
        assert_eq!(unfit_settings(&settings("always", "noeviction")), None);
        let why = unfit_settings(&settings("everysec", "allkeys-lru")).unwrap();
        assert_eq!(
            why,
            "appendfsync is everysec instead of always, maxmemory-policy is allkeys-lru instead of noeviction"
        );
        assert!(unfit_settings(&HashMap::new()).unwrap().starts_with("appendonly is unknown"));
    }
}
