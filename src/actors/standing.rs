//! How the parts that an instance needs are doing, as far as it has noticed. What changes is logged once,
//! with its reason.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::circuit::Circuit;
use crate::hot::HotError;
use crate::journal::JournalError;

/// After so long without a failure a PostgreSQL that answers counts as back.
const JOURNAL_TRUSTED_AFTER: Duration = Duration::from_secs(3);
/// A directory that was brought up to date longer ago may lack sessions that others have started. The
/// feed asks once a second.
const FOLLOWED_MAX: Duration = Duration::from_secs(2);

/// How the parts of an instance are doing.
#[derive(Default)]
pub struct Standing {
    /// Whether PostgreSQL takes votes.
    pub journal_circuit: Circuit,
    /// When PostgreSQL last failed to take votes; none: it takes them, as far as known.
    journal_away: Mutex<Option<Instant>>,
    /// When the directory was last brought up to date.
    followed: Mutex<Option<Instant>>,
    /// Tasks that failed too often and rest.
    resting: AtomicUsize,
    redis: Complaint,
    mirror: Complaint,
    queue: Complaint,
    push: Complaint,
}

/// Why a part does not do its work; none: it does, as far as it was asked.
#[derive(Default)]
struct Complaint(Mutex<Option<String>>);

impl Complaint {
    /// Notes how the part is; answers whether that is news.
    fn note(&self, reason: Option<&str>) -> bool {
        let mut known = self.known();
        let news = known.is_some() != reason.is_some();
        if reason != known.as_deref() {
            *known = reason.map(str::to_owned);
        }
        news
    }

    fn reason(&self) -> Option<String> {
        self.known().clone()
    }

    fn known(&self) -> MutexGuard<'_, Option<String>> {
        // A reason is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    /// Whether all tasks of this instance run.
    pub fn is_whole(&self) -> bool {
        self.resting.load(Ordering::Acquire) == 0
    }

    /// Notes that a task failed too often and rests for a while, or goes on again.
    pub fn note_resting(&self, rests: bool) {
        if rests {
            self.resting.fetch_add(1, Ordering::AcqRel);
        } else {
            self.resting.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Notes whether Redis gave a sign of life.
    pub fn note_redis(&self, answer: Result<(), HotError>) {
        let reason = answer.err().map(|error| error.to_string());
        if self.redis.note(reason.as_deref()) {
            match reason {
                Some(reason) => tracing::warn!(reason, "Redis is away; votes go on without it"),
                None => tracing::info!("Redis is back"),
            }
        }
    }

    /// Why Redis is away; `None` when it was there when last asked.
    pub fn redis_away(&self) -> Option<String> {
        self.redis.reason()
    }

    /// Notes whether the queue's server gave a sign of life.
    pub fn note_queue(&self, error: Option<&HotError>) {
        let reason = error.map(ToString::to_string);
        if self.queue.note(reason.as_deref()) {
            match reason {
                Some(reason) => tracing::warn!(reason, "the queue's Redis is away"),
                None => tracing::info!("the queue's Redis is back"),
            }
        }
    }

    /// Why the queue's server is away; `None` when it was there when last asked.
    pub fn queue_away(&self) -> Option<String> {
        self.queue.reason()
    }

    /// Notes whether the queue took so many votes.
    pub fn note_push(&self, error: Option<&HotError>, votes: usize) {
        let reason = error.map(ToString::to_string);
        if self.push.note(reason.as_deref()) {
            match reason {
                Some(reason) => tracing::warn!(reason, votes, "votes can't be kept in the queue"),
                None => tracing::info!("the queue takes votes again"),
            }
        }
    }

    /// Notes whether Redis takes sessions' states, or why not.
    pub fn note_mirror(&self, refused: Option<String>) {
        if self.mirror.note(refused.as_deref()) {
            match refused {
                Some(reason) => tracing::error!(reason, "Redis refuses sessions' states; votes go on"),
                None => tracing::info!("Redis takes sessions' states again"),
            }
        }
    }

    /// Why Redis, which is there, takes no states of sessions; `None` when it took the last ones.
    pub fn mirror_refused(&self) -> Option<String> {
        self.mirror.reason()
    }

    /// Whether Redis takes sessions' states, as far as it was asked.
    pub fn is_mirroring(&self) -> bool {
        self.mirror.known().is_none()
    }

    /// PostgreSQL took votes.
    pub fn journal_took_votes(&self) {
        self.journal_circuit.succeeded();
        if self.journal_away().take().is_some() {
            tracing::info!("PostgreSQL is back: votes are journaled");
        }
    }

    /// PostgreSQL answered a probe: votes are tried again. It may still refuse them, such as with a
    /// full disk, so it only counts as back when none has failed for a while.
    pub fn journal_answered(&self) {
        self.journal_circuit.succeeded();
        let mut away = self.journal_away();
        if away.is_some_and(|failed| failed.elapsed() >= JOURNAL_TRUSTED_AFTER) {
            *away = None;
            tracing::info!("PostgreSQL is back");
        }
    }

    /// PostgreSQL did not take votes, for a reason that is not theirs.
    pub fn journal_failed(&self, error: &JournalError) {
        let away_now = self.journal_circuit.failed();
        let mut away = self.journal_away();
        if away_now && away.is_none() {
            tracing::warn!(%error, "PostgreSQL is away: votes are kept in the queue, if it is durable");
        }
        if away_now || away.is_some() {
            *away = Some(Instant::now());
        }
    }

    /// Whether PostgreSQL takes votes, as far as was tried lately.
    pub fn is_journaling(&self) -> bool {
        self.journal_away().is_none()
    }

    /// Notes that the directory is as new as the journal.
    pub fn note_followed(&self) {
        *self.followed() = Some(Instant::now());
    }

    /// Whether the directory was as new as the journal just now.
    pub fn is_followed(&self) -> bool {
        self.followed().is_some_and(|at| at.elapsed() < FOLLOWED_MAX)
    }

    fn followed(&self) -> MutexGuard<'_, Option<Instant>> {
        // A moment is whole at any time.
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn journal_away(&self) -> MutexGuard<'_, Option<Instant>> {
        // A moment is whole at any time.
        self.journal_away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_and_coming_back_is_news_and_another_reason_is_not_but_is_known() {
        let complaint = Complaint::default();
        assert!(!complaint.note(None));
        assert!(complaint.note(Some("refused")));
        assert!(!complaint.note(Some("timed out")));
        assert_eq!(complaint.reason().as_deref(), Some("timed out"));
        assert!(complaint.note(None));
        assert_eq!(complaint.reason(), None);
    }
}
