//! One vote of a viewer in a while: judged on arrival, by Redis for all instances and by this
//! instance's memory.

use std::sync::Arc;
use tokio::time::Instant;

use super::committer::PendingVote;
use super::services::Services;
use crate::hot::debounce::{Claim, Claimed, LocalDebounce};

/// Judges votes by their viewers' last ones.
pub(super) struct Debouncer {
    services: Arc<Services>,
    memory: LocalDebounce,
}

impl Debouncer {
    pub(super) fn new(services: Arc<Services>) -> Debouncer {
        Debouncer { services, memory: LocalDebounce::default() }
    }

    /// Which votes come too soon after the same viewer's last one.
    pub(super) async fn judge(&mut self, votes: &[PendingVote]) -> Vec<Claimed> {
        let claims: Vec<Claim<'_>> = votes.iter().map(|vote| self.claim(vote)).collect();
        let started = Instant::now();
        let answer = self.services.hot.claim(&claims).await;
        self.services.metrics.redis_command_seconds.observe(started.elapsed().as_secs_f64());
        // Redis is away: this instance's memory has to do.
        let Ok(mut judged) = answer else {
            return votes.iter().map(|vote| self.judge_by_memory(vote)).collect();
        };
        let mut untimely = Vec::new();
        for ((vote, claim), judged) in votes.iter().zip(&claims).zip(&mut judged) {
            // A key's life begins when it is set; only memory knows when the vote before arrived.
            if *judged == Claimed::Fresh && self.judge_by_memory(vote) == Claimed::Other {
                *judged = Claimed::Other;
                untimely.push(*claim);
            }
        }
        self.release(&untimely).await;
        judged
    }

    /// Gives back what votes that do not count have claimed, so that they block no later vote.
    pub(super) async fn give_back(&mut self, votes: &[&PendingVote]) {
        let claims: Vec<Claim<'_>> = votes.iter().map(|vote| self.claim(vote)).collect();
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
    pub(super) fn judge_by_memory(&mut self, vote: &PendingVote) -> Claimed {
        let ttl_ms = self.services.options.debounce.as_millis() as u64;
        self.memory.claim(&Claim { ttl_ms, ..self.claim(vote) }, vote.t.0)
    }

    fn claim<'a>(&self, vote: &'a PendingVote) -> Claim<'a> {
        // The time since the arrival is gone already: the next vote is judged on its arrival, too.
        let left = self.services.options.debounce.saturating_sub(vote.arrived.elapsed());
        Claim {
            streamer_id: vote.live.streamer_id,
            viewer: &vote.viewer,
            message_id: &vote.message_id,
            ttl_ms: (left.as_millis() as u64).max(1),
        }
    }
}
