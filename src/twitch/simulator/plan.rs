//! When each notification is sent: at a steady rate, some of them again, some of them late.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::ops::Range;
use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use time::OffsetDateTime;

use super::{Generator, Notification, Options, SimulatorError};

/// After how many milliseconds a message is sent a second time.
const DUPLICATE_DELAY_MS: Range<u64> = 100..3000;
/// How many milliseconds late a reordered message is sent.
const REORDER_DELAY_MS: Range<u64> = 50..1500;

/// Why a notification is sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is new.
    Fresh,
    /// It is new, but newer ones were sent before it.
    Late,
    /// It was sent before: the same ids, timestamp and bytes.
    Again,
}

/// A notification whose time has come.
#[derive(Clone, Debug)]
pub struct Planned {
    /// When it should be sent, counted from the start.
    pub due: Duration,
    pub turn: Turn,
    pub notification: Notification,
}

/// What is sent when, whatever becomes of it.
pub struct Plan {
    generator: Generator,
    rate: f64,
    duration: Option<Duration>,
    duplicates: f64,
    reorder: f64,
    /// Messages made so far; the next is due at `made / rate`.
    made: u64,
    waiting: BinaryHeap<Reverse<Waiting>>,
    rng: StdRng,
}

impl Plan {
    /// The plan for `options`, from `start` on.
    ///
    /// # Errors
    /// As [`Generator::new`].
    pub fn new(options: &Options, start: OffsetDateTime) -> Result<Self, SimulatorError> {
        Ok(Plan {
            generator: Generator::new(options, start)?,
            rate: options.rate,
            duration: options.duration,
            duplicates: options.duplicates,
            reorder: options.reorder,
            made: 0,
            waiting: BinaryHeap::new(),
            rng: StdRng::seed_from_u64(options.seed.wrapping_add(1)),
        })
    }

    /// The next notification that is due `elapsed` after the start, oldest first; `None` when all
    /// that are due have been given. New ones are signed at `now`.
    pub fn next_due(&mut self, elapsed: Duration, now: OffsetDateTime) -> Option<Planned> {
        loop {
            let fresh = self.fresh_due().filter(|&due| due <= elapsed);
            let waiting = self.waiting.peek().map(|Reverse(first)| first.due()).filter(|&due| due <= elapsed);
            match (fresh, waiting) {
                (None, None) => return None,
                (Some(due), waiting) if waiting.is_none_or(|other| due < other) => {
                    if let Some(planned) = self.make(due, now) {
                        return Some(planned);
                    }
                }
                _ => return self.waiting.pop().map(|Reverse(Waiting { planned, .. })| planned),
            }
        }
    }

    /// Whether everything has been given.
    pub fn is_finished(&self) -> bool {
        self.fresh_due().is_none() && self.waiting.is_empty()
    }

    fn fresh_due(&self) -> Option<Duration> {
        let due = Duration::from_secs_f64(self.made as f64 / self.rate);
        self.duration.is_none_or(|duration| due < duration).then_some(due)
    }

    /// Makes the message due at `due`; `None` when it was put off.
    fn make(&mut self, due: Duration, now: OffsetDateTime) -> Option<Planned> {
        self.made += 1;
        let notification = self.generator.next(due, now);
        let is_late = self.rng.random_bool(self.reorder);
        let sent = if is_late { due + self.delay(REORDER_DELAY_MS) } else { due };
        if self.rng.random_bool(self.duplicates) {
            let again = sent + self.delay(DUPLICATE_DELAY_MS);
            self.wait(Planned { due: again, turn: Turn::Again, notification: notification.clone() });
        }
        let turn = if is_late { Turn::Late } else { Turn::Fresh };
        let planned = Planned { due: sent, turn, notification };
        if is_late {
            self.wait(planned);
            return None;
        }
        Some(planned)
    }

    fn delay(&mut self, range_ms: Range<u64>) -> Duration {
        Duration::from_millis(self.rng.random_range(range_ms))
    }

    fn wait(&mut self, planned: Planned) {
        self.waiting.push(Reverse(Waiting { planned, order: self.made }));
    }
}

/// A notification put off, ordered by when it is due, then by when it was made.
struct Waiting {
    planned: Planned,
    order: u64,
}

impl Waiting {
    fn due(&self) -> Duration {
        self.planned.due
    }

    fn key(&self) -> (Duration, u64) {
        (self.planned.due, self.order)
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}
