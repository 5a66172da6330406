//! What a chat feels, and when: waves of votes for and against with quiet times between.

use std::f64::consts::TAU;
use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Seconds from one swing of the mood to the next of the same kind.
const SWING_SECONDS: f64 = 23.0;
/// Seconds of a shorter wave on top, so that no two swings look alike.
const RIPPLE_SECONDS: f64 = 7.3;
/// Seconds from one lively time to the next.
const LIVELY_SECONDS: f64 = 31.0;
/// How far the number of votes swings around its mean: 0.95 makes quiet times all but silent.
const LIVELY_SWING: f64 = 0.95;

/// The mood of one chat: three waves, whose phases are the chat's own.
#[derive(Clone, Copy, Debug)]
pub struct Mood {
    swing_phase: f64,
    ripple_phase: f64,
    lively_phase: f64,
}

impl Mood {
    /// The mood of the chat with this number in the simulation with this seed.
    pub fn of(seed: u64, channel: u64) -> Self {
        let mixed = seed ^ channel.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15); // 2^64 / golden ratio
        let mut rng = StdRng::seed_from_u64(mixed);
        Mood { swing_phase: rng.random(), ripple_phase: rng.random(), lively_phase: rng.random() }
    }

    /// The chance that a vote at `elapsed` is for: near 0 or 1 most of the time, for whole waves.
    pub fn for_chance(&self, elapsed: Duration) -> f64 {
        let swing = wave(elapsed, SWING_SECONDS, self.swing_phase);
        let ripple = wave(elapsed, RIPPLE_SECONDS, self.ripple_phase);
        (0.5 + 0.8 * swing + 0.25 * ripple).clamp(0.04, 0.96)
    }

    /// The chance that a message at `elapsed` is a vote. Its mean over time is `vote_share`.
    pub fn vote_chance(&self, elapsed: Duration, vote_share: f64) -> f64 {
        // With a great share there is less room above the mean, hence less swing.
        let room = if vote_share > 0.0 { (1.0 - vote_share) / vote_share } else { 0.0 };
        let swing = LIVELY_SWING.min(room);
        vote_share * (1.0 + swing * wave(elapsed, LIVELY_SECONDS, self.lively_phase))
    }
}

fn wave(elapsed: Duration, period_seconds: f64, phase: f64) -> f64 {
    (TAU * (elapsed.as_secs_f64() / period_seconds + phase)).sin()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over_time(seconds: u64) -> impl Iterator<Item = Duration> {
        (0..seconds * 10).map(|tenth| Duration::from_millis(tenth * 100))
    }

    #[test]
    fn the_share_of_votes_is_kept_on_average() {
        for share in [0.0, 0.05, 0.3, 0.7, 1.0] {
            let mood = Mood::of(1, 1);
            let chances: Vec<f64> = over_time(310).map(|at| mood.vote_chance(at, share)).collect();
            let mean = chances.iter().sum::<f64>() / chances.len() as f64;
            assert!((mean - share).abs() < 1e-6, "{mean} for {share}");
            assert!(chances.iter().all(|chance| (0.0..=1.0).contains(chance)));
        }
    }

    #[test]
    fn within_a_minute_the_mood_swings_both_ways_and_rests() {
        for channel in 0..20 {
            let mood = Mood::of(1, channel);
            assert!(over_time(60).any(|at| mood.for_chance(at) > 0.9));
            assert!(over_time(60).any(|at| mood.for_chance(at) < 0.1));
            assert!(over_time(60).any(|at| mood.vote_chance(at, 0.3) < 0.03));
            assert!(over_time(60).any(|at| mood.vote_chance(at, 0.3) > 0.5));
        }
    }

    #[test]
    fn chats_do_not_swing_in_step() {
        let at = Duration::from_secs(5);
        assert_ne!(Mood::of(1, 1).for_chance(at), Mood::of(1, 2).for_chance(at));
        assert_ne!(Mood::of(1, 1).for_chance(at), Mood::of(2, 1).for_chance(at));
        assert_eq!(Mood::of(1, 1).for_chance(at), Mood::of(1, 1).for_chance(at));
    }
}
