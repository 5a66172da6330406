//! This instance's estimate of PostgreSQL's clock.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::domain::time::Millis;

/// A sample may be wrong by half its round trip; slower ones tell nothing new.
const ROUND_TRIP_MAX_MS: i64 = 100;
/// A difference beyond this is a step of PostgreSQL's clock, not jitter: it is taken over at once.
const STEP_US: i64 = 1_000_000;
/// How much of a sample's difference is taken over: 1/8 smooths the jitter of single round trips.
const SMOOTHING: i64 = 8;

/// PostgreSQL's clock as seen from here. It runs on the monotonic clock between samples, so a jump
/// of this machine's wall clock does not show.
#[derive(Debug)]
pub struct DatabaseClock {
    origin: Instant,
    /// Microseconds to add to the time since `origin`.
    offset_us: AtomicI64,
    sampled: AtomicBool,
}

impl Default for DatabaseClock {
    fn default() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        DatabaseClock {
            origin: Instant::now(),
            offset_us: AtomicI64::new(wall.as_micros() as i64),
            sampled: AtomicBool::new(false),
        }
    }
}

impl DatabaseClock {
    /// Now, on PostgreSQL's clock.
    pub fn now(&self) -> Millis {
        self.at(Instant::now())
    }

    /// A moment of the monotonic clock, on PostgreSQL's clock.
    pub fn at(&self, moment: Instant) -> Millis {
        Millis((self.since_origin_us(moment) + self.offset_us.load(Ordering::Relaxed)).div_euclid(1000))
    }

    /// Takes a time that PostgreSQL told in answer to a question sent at `asked`.
    pub fn sample(&self, told: Millis, asked: Instant) {
        self.take(told, asked, Instant::now());
    }

    fn take(&self, told: Millis, asked: Instant, answered: Instant) {
        let asked_us = self.since_origin_us(asked);
        let answered_us = self.since_origin_us(answered);
        let round_trip_us = answered_us - asked_us;
        if round_trip_us > ROUND_TRIP_MAX_MS * 1000 {
            return;
        }
        // Told in whole milliseconds, rounded down: half a millisecond is the best correction.
        let offset = told.0 * 1000 + 500 - (asked_us + round_trip_us / 2);
        let known = self.offset_us.load(Ordering::Relaxed);
        let first = !self.sampled.swap(true, Ordering::Relaxed);
        let step = (offset - known).abs() > STEP_US;
        let next = if first || step { offset } else { known + (offset - known) / SMOOTHING };
        self.offset_us.store(next, Ordering::Relaxed);
    }

    fn since_origin_us(&self, moment: Instant) -> i64 {
        moment.saturating_duration_since(self.origin).as_micros() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How far a sample that is `ahead_ms` ahead of the clock moves it.
    fn moved_by(clock: &DatabaseClock, ahead_ms: i64) -> i64 {
        let moment = Instant::now();
        let before = clock.at(moment).0;
        clock.take(Millis(before + ahead_ms), moment, moment);
        clock.at(moment).0 - before
    }

    #[test]
    fn the_first_sample_is_taken_whole_and_later_ones_smooth() {
        let clock = DatabaseClock::default();
        assert!((398..=401).contains(&moved_by(&clock, 400)));
        let moved = moved_by(&clock, 800);
        assert!((98..=101).contains(&moved), "{moved}");
    }

    #[test]
    fn a_step_of_the_servers_clock_is_taken_over_at_once() {
        let clock = DatabaseClock::default();
        moved_by(&clock, 400);
        let moved = moved_by(&clock, 10_000);
        assert!((9_998..=10_001).contains(&moved), "{moved}");
    }
}
