//! A viewer's vote counts when their last counted one is long enough ago: judged in Redis for all
//! instances, or by an instance's own memory while Redis is away.

use std::collections::HashMap;

use deadpool_redis::redis::Cmd;
use uuid::Uuid;

use super::functions::Function;
use super::pool::answer;
use super::{Hot, HotError, keys};

/// Votes each of the two generations of a [`LocalDebounce`] remembers at most.
const GENERATION_MAX: usize = 200_000;

/// A vote that wants to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim<'a> {
    pub streamer_id: Uuid,
    /// The viewer as a keyed hash.
    pub viewer: &'a str,
    pub message_id: &'a str,
    /// How long the viewer's next vote must not count; 0 switches the debounce off.
    pub ttl_ms: u64,
}

/// What a claim met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// No vote of this viewer within the time; this one is noted now.
    Fresh,
    /// This very message is noted: a redelivery, which passes.
    Own,
    /// Another message of this viewer is noted: this one is debounced.
    Other,
}

impl Hot {
    /// Judges claims in their order, in one pipeline of `SET … NX PX … GET`.
    ///
    /// # Errors
    /// [`HotError`] when it is not known which claims are noted; claiming again is safe.
    pub async fn claim(&self, claims: &[Claim<'_>]) -> Result<Vec<Claimed>, HotError> {
        let set = |claim: &Claim<'_>| {
            let mut set = Cmd::with_capacity(8, 256);
            set.arg("SET").arg(keys::debounce(claim.streamer_id, claim.viewer)).arg(claim.message_id);
            set.arg("NX").arg("PX").arg(claim.ttl_ms).arg("GET");
            set
        };
        let judged = claims.iter().filter(|claim| claim.ttl_ms > 0).map(set).collect();
        let mut answers = self.send(judged).await?.into_iter();
        let judge = |claim: &Claim<'_>| {
            if claim.ttl_ms == 0 {
                return Ok(Claimed::Fresh);
            }
            let noted = answers.next().map(answer::<Option<String>>).transpose()?.flatten();
            Ok(judged_by(noted.as_deref(), claim.message_id))
        };
        claims.iter().map(judge).collect()
    }

    /// Takes back claims whose votes did not count, where they are still the ones noted.
    ///
    /// # Errors
    /// [`HotError`]; the claims then lapse by themselves.
    pub async fn release_claims(&self, claims: &[Claim<'_>]) -> Result<(), HotError> {
        let delete = |claim: &Claim<'_>| {
            let mut call = Function::DeleteIfHolds.call(&[keys::debounce(claim.streamer_id, claim.viewer)]);
            call.arg(claim.message_id);
            call
        };
        let answers = self.send(claims.iter().map(delete).collect()).await?;
        answers.into_iter().try_for_each(answer)
    }
}

fn judged_by(noted: Option<&str>, message_id: &str) -> Claimed {
    match noted {
        None => Claimed::Fresh,
        Some(noted) if noted == message_id => Claimed::Own,
        Some(_) => Claimed::Other,
    }
}

/// The debounce by this instance's memory: the same answers, for the votes it has seen itself.
///
/// Votes that Redis let pass are noted here as well, so that their time is known when Redis goes
/// away. It keeps two generations of notes and drops the older one each debounce period, or
/// earlier when [`GENERATION_MAX`] is reached: then a vote too many may count.
#[derive(Debug, Default)]
pub struct LocalDebounce {
    current: HashMap<(Uuid, Box<str>), Note>,
    previous: HashMap<(Uuid, Box<str>), Note>,
    /// When `current` was begun, in milliseconds.
    begun_ms: i64,
}

#[derive(Debug)]
struct Note {
    message_id: Box<str>,
    /// When the viewer's next vote counts again.
    until_ms: i64,
}

impl LocalDebounce {
    /// Judges a claim at `now_ms` (any clock that does not go back, in milliseconds).
    pub fn claim(&mut self, claim: &Claim<'_>, now_ms: i64) -> Claimed {
        let key = (claim.streamer_id, Box::from(claim.viewer));
        let notes = [&self.current, &self.previous];
        let noted = notes.iter().find_map(|notes| notes.get(&key)).filter(|note| now_ms < note.until_ms);
        let judged = judged_by(noted.map(|note| &*note.message_id), claim.message_id);
        if judged == Claimed::Fresh {
            self.note(claim, now_ms);
        }
        judged
    }

    /// Notes a vote that Redis let pass.
    pub fn note(&mut self, claim: &Claim<'_>, now_ms: i64) {
        let ttl_ms = i64::try_from(claim.ttl_ms).unwrap_or(i64::MAX);
        if ttl_ms == 0 {
            return;
        }
        let age_ms = now_ms.saturating_sub(self.begun_ms);
        if age_ms >= ttl_ms || self.current.len() >= GENERATION_MAX {
            self.previous = std::mem::take(&mut self.current);
            self.begun_ms = now_ms;
        }
        let note = Note { message_id: claim.message_id.into(), until_ms: now_ms.saturating_add(ttl_ms) };
        self.current.insert((claim.streamer_id, claim.viewer.into()), note);
    }

    /// Takes back a claim whose vote did not count, where it is still the one noted.
    pub fn release(&mut self, claim: &Claim<'_>) {
        let key = (claim.streamer_id, Box::from(claim.viewer));
        for notes in [&mut self.current, &mut self.previous] {
            if notes.get(&key).is_some_and(|note| *note.message_id == *claim.message_id) {
                notes.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim<'a>(viewer: &'a str, message_id: &'a str) -> Claim<'a> {
        Claim { streamer_id: Uuid::nil(), viewer, message_id, ttl_ms: 1000 }
    }

    #[test]
    fn memory_lets_a_viewer_vote_again_exactly_when_the_period_is_over() {
        let mut memory = LocalDebounce::default();
        assert_eq!(memory.claim(&claim("v", "m1"), 5000), Claimed::Fresh);
        assert_eq!(memory.claim(&claim("v", "m2"), 5999), Claimed::Other);
        assert_eq!(memory.claim(&claim("v", "m1"), 5999), Claimed::Own);
        assert_eq!(memory.claim(&claim("w", "m3"), 5999), Claimed::Fresh);
        assert_eq!(memory.claim(&claim("v", "m4"), 6000), Claimed::Fresh);
    }

    #[test]
    fn memory_remembers_across_a_change_of_generations_and_forgets_after_two() {
        let mut memory = LocalDebounce::default();
        memory.claim(&claim("a", "m1"), 5000);
        memory.claim(&claim("b", "m2"), 5900);
        memory.claim(&claim("c", "m3"), 6100);
        assert_eq!(memory.claim(&claim("b", "m4"), 6899), Claimed::Other);
        memory.claim(&claim("d", "m5"), 7100);
        assert_eq!(memory.current.len() + memory.previous.len(), 2);
    }

    #[test]
    fn memory_is_bounded_within_one_period() {
        let mut memory = LocalDebounce::default();
        for i in 0..(3 * GENERATION_MAX) {
            memory.note(&claim(&i.to_string(), "m"), 5000);
        }
        assert!(memory.current.len() + memory.previous.len() <= 2 * GENERATION_MAX);
    }

    #[test]
    fn memory_takes_back_only_the_claim_that_is_noted() {
        let mut memory = LocalDebounce::default();
        memory.claim(&claim("v", "m1"), 5000);
        memory.release(&claim("v", "m2"));
        assert_eq!(memory.claim(&claim("v", "m2"), 5001), Claimed::Other);
        memory.release(&claim("v", "m1"));
        assert_eq!(memory.claim(&claim("v", "m2"), 5001), Claimed::Fresh);
    }

    #[test]
    fn a_period_of_0_debounces_nothing() {
        let mut memory = LocalDebounce::default();
        let off = |message_id| Claim { ttl_ms: 0, ..claim("v", message_id) };
        assert_eq!(memory.claim(&off("m1"), 5000), Claimed::Fresh);
        assert_eq!(memory.claim(&off("m2"), 5000), Claimed::Fresh);
    }
}
