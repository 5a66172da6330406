//! One vote of a viewer in a while: judged on arrival, by Redis for all instances and by this
//! instance's memory.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use super::committer::{BATCH_MAX, PendingVote};
use super::services::Services;
use crate::hot::debounce::{Claim, Claimed, LocalDebounce};

/// A vote, and what its viewer's last one says of it.
pub(super) struct Judged {
    pub(super) vote: PendingVote,
    pub(super) claimed: Claimed,
    /// The number of the newest return that was taken back before this was judged.
    pub(super) known_returns: u64,
}

/// What a vote has claimed that turned out not to count.
pub(super) struct UnusedClaim {
    pub(super) streamer_id: Uuid,
    pub(super) viewer: String,
    pub(super) message_id: String,
}

impl UnusedClaim {
    fn as_claim(&self) -> Claim<'_> {
        // It is to be deleted: it has no life.
        Claim { streamer_id: self.streamer_id, viewer: &self.viewer, message_id: &self.message_id, ttl_ms: 0 }
    }
}

/// What comes back from the journal.
pub(super) struct Returned {
    pub(super) number: u64,
    pub(super) unused: Vec<UnusedClaim>,
    /// Votes that were debounced by one of those claims: to be judged anew.
    pub(super) again: Vec<PendingVote>,
}

/// Where votes come from.
pub(super) struct Inlets {
    pub(super) votes: mpsc::Receiver<PendingVote>,
    pub(super) returns: mpsc::Receiver<Returned>,
}

/// Judges votes by their viewers' last ones.
pub(super) struct Debouncer {
    services: Arc<Services>,
    memory: LocalDebounce,
    judged: mpsc::Sender<Judged>,
    known_returns: u64,
}

impl Debouncer {
    pub(super) fn new(services: Arc<Services>, judged: mpsc::Sender<Judged>) -> Debouncer {
        Debouncer { services, memory: LocalDebounce::default(), judged, known_returns: 0 }
    }

    /// Judges the votes that wait, all at once, whenever the ones before are judged.
    pub(super) async fn run(mut self, inlets: &mut Inlets) {
        loop {
            let mut votes = Vec::new();
            tokio::select! {
                biased;
                // First, so that no later vote is judged by a claim that is given back already.
                Some(returned) = inlets.returns.recv() => {
                    self.known_returns = returned.number;
                    self.give_back(&returned.unused).await;
                    votes = returned.again;
                }
                taken = inlets.votes.recv_many(&mut votes, BATCH_MAX) => {
                    if taken == 0 {
                        return;
                    }
                }
            }
            if !self.pass_on(votes).await {
                return;
            }
        }
    }

    /// Judges votes and hands them to the journal; `false` when that is gone.
    async fn pass_on(&mut self, votes: Vec<PendingVote>) -> bool {
        // Who has waited too long has no time left to ask Redis.
        let wait_max = self.services.options.vote_wait;
        let (timely, waited): (Vec<_>, Vec<_>) =
            votes.into_iter().partition(|vote| vote.arrived.elapsed() < wait_max);
        let judged = waited.iter().map(|vote| self.judge_by_memory(vote)).collect();
        if !self.hand_over(waited, judged).await {
            return false;
        }
        let judged = self.judge(&timely).await;
        self.hand_over(timely, judged).await
    }

    async fn hand_over(&self, votes: Vec<PendingVote>, judged: Vec<Claimed>) -> bool {
        let known_returns = self.known_returns;
        // All at once, so that the next commit has all of them.
        let Ok(places) = self.judged.reserve_many(votes.len()).await else { return false };
        for ((vote, claimed), place) in votes.into_iter().zip(judged).zip(places) {
            place.send(Judged { vote, claimed, known_returns });
        }
        true
    }

    /// Which votes come too soon after the same viewer's last one.
    async fn judge(&mut self, votes: &[PendingVote]) -> Vec<Claimed> {
        let claims: Vec<Claim<'_>> = votes.iter().map(|vote| self.claim(vote)).collect();
        if claims.is_empty() {
            return Vec::new();
        }
        let started = Instant::now();
        let answer = self.services.hot.claim(&claims).await;
        self.services.metrics.redis_command_seconds.observe(started.elapsed().as_secs_f64());
        // Redis is away: this instance's memory has to do.
        let Ok(mut judged) = answer else {
            return votes.iter().map(|vote| self.judge_by_memory(vote)).collect();
        };
        let mut untimely = Vec::new();
        for ((vote, claim), judged) in votes.iter().zip(&claims).zip(&mut judged) {
            if *judged == Claimed::Other {
                continue;
            }
            // A key's life begins when it is set; only memory knows when the vote before arrived. A redelivery passes,
            // but may be the first time that it is heard of here.
            let remembered = self.judge_by_memory(vote);
            if *judged == Claimed::Fresh && remembered == Claimed::Other {
                *judged = Claimed::Other;
                untimely.push(*claim);
            }
        }
        self.release(&untimely).await;
        judged
    }

    /// Gives back what votes that do not count have claimed, so that they block no later vote.
    async fn give_back(&mut self, unused: &[UnusedClaim]) {
        let claims: Vec<Claim<'_>> = unused.iter().map(UnusedClaim::as_claim).collect();
        claims.iter().for_each(|claim| self.memory.release(claim));
        self.release(&claims).await;
    }

    async fn release(&self, claims: &[Claim<'_>]) {
        if !claims.is_empty() {
            // A key that could not be deleted goes by itself within the debounce time.
            let _ = self.services.hot.release_claims(claims).await;
        }
    }

    /// Whether a vote comes too soon, as far as this instance remembers.
    fn judge_by_memory(&mut self, vote: &PendingVote) -> Claimed {
        let ttl_ms = self.services.options.debounce.as_millis() as u64;
        self.memory.claim(&Claim { ttl_ms, ..self.claim(vote) }, vote.vote.t.0)
    }

    fn claim<'a>(&self, vote: &'a PendingVote) -> Claim<'a> {
        // The time since the arrival is gone already: the next vote is judged on its arrival, too.
        let left = self.services.options.debounce.saturating_sub(vote.arrived.elapsed());
        Claim {
            streamer_id: vote.live.streamer_id,
            viewer: &vote.vote.viewer,
            message_id: &vote.vote.message_id,
            ttl_ms: (left.as_millis() as u64).max(1),
        }
    }
}
