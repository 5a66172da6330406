//! The durable queue of votes: a stream with a consumer group, in memory.

use std::collections::BTreeMap;

use chatpulse::domain::time::Millis;
use chatpulse::domain::vote::NewVote;
use chatpulse::hot::spill::{Depth, Failed, Spilled};
use uuid::Uuid;

/// Deliveries of an entry before it goes to the dead letters.
const TRIES_MAX: u32 = 5;
/// What a consumer that was not heard of for so long has taken may be taken by others; scaled down from 30 s.
const CLAIM_AFTER_MS: i64 = 2_000;

/// What is asked of the queue.
#[derive(Clone, Debug)]
pub enum QueueCall {
    Probe,
    Push(Vec<NewVote>),
    Take(usize),
    Settle(Vec<String>),
    Fail(String, String),
}

/// What the queue answers.
#[derive(Clone, Debug, PartialEq)]
pub enum QueueAnswer {
    Done,
    Depth(Depth),
    Taken(Vec<Spilled>),
    Failed(Failed),
}

#[derive(Clone, Debug)]
struct Waiting {
    vote: NewVote,
    /// Who has taken it, when last, and how often it was delivered.
    taken: Option<(Uuid, Millis)>,
    deliveries: u32,
}

/// All entries.
#[derive(Clone, Debug, Default)]
pub struct QueueModel {
    entries: BTreeMap<u64, Waiting>,
    pub dead: Vec<NewVote>,
    newest: u64,
}

impl QueueModel {
    /// Entries that are not settled.
    pub fn waiting(&self) -> usize {
        self.entries.len()
    }

    /// Executes one call of an instance.
    pub fn execute(&mut self, now: Millis, instance: Uuid, call: &QueueCall) -> QueueAnswer {
        match call {
            QueueCall::Probe => QueueAnswer::Depth(Depth {
                waiting: self.entries.len() as u64,
                dead_letters: self.dead.len() as u64,
            }),
            QueueCall::Push(votes) => {
                for vote in votes {
                    self.newest += 1;
                    let waiting = Waiting { vote: vote.clone(), taken: None, deliveries: 0 };
                    self.entries.insert(self.newest, waiting);
                }
                QueueAnswer::Done
            }
            QueueCall::Take(limit) => QueueAnswer::Taken(self.take(now, instance, *limit)),
            QueueCall::Settle(ids) => {
                ids.iter().filter_map(|id| id.parse().ok()).for_each(|id: u64| {
                    self.entries.remove(&id);
                });
                QueueAnswer::Done
            }
            QueueCall::Fail(id, _) => QueueAnswer::Failed(self.fail(id)),
        }
    }

    fn take(&mut self, now: Millis, instance: Uuid, limit: usize) -> Vec<Spilled> {
        let free = |waiting: &Waiting| match waiting.taken {
            None => true,
            Some((taker, at)) => taker == instance || now.0 - at.0 >= CLAIM_AFTER_MS,
        };
        // Its own first, then those of others, then new ones.
        let order = |waiting: &Waiting| match waiting.taken {
            Some((taker, _)) => u8::from(taker != instance),
            None => 2,
        };
        let mut free: Vec<_> = self.entries.iter_mut().filter(|(_, waiting)| free(waiting)).collect();
        free.sort_by_key(|(id, waiting)| (order(waiting), **id));
        let mut taken = Vec::new();
        for (id, waiting) in free.into_iter().take(limit) {
            waiting.taken = Some((instance, now));
            waiting.deliveries += 1;
            taken.push(Spilled { id: id.to_string(), vote: waiting.vote.clone() });
        }
        taken
    }

    fn fail(&mut self, id: &str) -> Failed {
        let id: u64 = id.parse().unwrap_or_default();
        match self.entries.get(&id) {
            Some(waiting) if waiting.deliveries < TRIES_MAX => Failed::Again,
            _ => {
                self.dead.extend(self.entries.remove(&id).map(|waiting| waiting.vote));
                Failed::Dead
            }
        }
    }
}
