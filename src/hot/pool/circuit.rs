//! When Redis counts as away, and when it may have become another one.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// After so many time-outs or connection errors in a row Redis counts as away.
const FAILURES_MAX: u32 = 2;

/// Counts failures in a row, and knows whether writes are refused.
#[derive(Default)]
pub(super) struct Circuit {
    failures: AtomicU32,
    refuses_writes: AtomicBool,
}

impl Circuit {
    /// Whether calls are to be sent.
    pub(super) fn is_closed(&self) -> bool {
        self.failures.load(Ordering::Relaxed) < FAILURES_MAX && !self.refuses_writes.load(Ordering::Relaxed)
    }

    /// Notes whether writes are refused; answers what was known before.
    pub(super) fn note_refusal(&self, refuses_writes: bool) -> bool {
        self.refuses_writes.swap(refuses_writes, Ordering::Relaxed)
    }

    pub(super) fn count_success(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    pub(super) fn count_failure(&self) {
        // Saturating, so that a long outage can't wrap it to "up". The closure always answers.
        let _ = self
            .failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |failures| Some(failures.saturating_add(1)));
    }
}

/// A number that grows when the servers behind the URLs may have become others.
#[derive(Default)]
pub(super) struct Generation(AtomicU64);

impl Generation {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn grow(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}
