//! Whether a part is asked: after a few failures in a row it is not, until a probe finds it again.

use std::sync::atomic::{AtomicU32, Ordering};

/// After so many failures in a row a part counts as away.
const FAILURES_MAX: u32 = 2;

/// Counts a part's failures in a row.
#[derive(Debug, Default)]
pub struct Circuit {
    failures: AtomicU32,
}

impl Circuit {
    /// Whether the part is asked.
    pub fn is_up(&self) -> bool {
        self.failures.load(Ordering::Relaxed) < FAILURES_MAX
    }

    /// Notes that the part did what it was asked. Answers whether it counted as away before.
    pub fn succeeded(&self) -> bool {
        self.failures.swap(0, Ordering::Relaxed) >= FAILURES_MAX
    }

    /// Notes that the part did not answer in time, or not at all. Answers whether it counts as away
    /// from now on.
    pub fn failed(&self) -> bool {
        // Saturating, so that a long outage can't wrap it to "up".
        let before = self
            .failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |failures| Some(failures.saturating_add(1)));
        // The closure always answers, so either way this is the number before.
        before.unwrap_or_else(|failures| failures).saturating_add(1) == FAILURES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_away_from_the_second_failure_in_a_row_until_it_answers() {
        let circuit = Circuit::default();
        assert!(!circuit.failed() && circuit.is_up());
        assert!(!circuit.succeeded());
        assert!(!circuit.failed());
        assert!(circuit.failed() && !circuit.is_up(), "told once");
        assert!(!circuit.failed() && !circuit.is_up());
        assert!(circuit.succeeded() && circuit.is_up());
    }
}
