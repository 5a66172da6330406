//! What the supervisor has done beside itself, each job at most once at a time: at a tick, and now and
//! then.

use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use tokio::time::Instant;
use uuid::Uuid;

use super::Supervisor;
use crate::actors::{follower, publish, spill, upkeep};
use crate::journal::JournalError;
use crate::journal::sessions::Lease;

/// Sessions that the journal is asked about at a time, so that a flush of Redis under many sessions is no storm.
const RESTORED_AT_ONCE: usize = 1_000;
/// Before the journal is asked again for sessions that it could not tell.
const RESTORE_AGAIN: Duration = Duration::from_secs(1);
/// Between two questions to the journal for heads while Redis can't be asked.
const POLL_EVERY: Duration = Duration::from_millis(250);
/// Between two tries while Redis refuses to take states.
const MIRROR_AGAIN: Duration = Duration::from_secs(1);

/// Redis is asked for orphans, bucket by bucket, at each so many looks.
const LOOKS_PER_ORPHANS: u32 = 3;
/// Sessions whose state in Redis is compared with the journal at a time.
const MIRRORS_COMPARED: usize = 1_000;

/// What is done at most once at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Job {
    Mirror,
    Announce,
    Restore,
    Rewrite,
    Follow,
    Poll,
    Start,
    /// Each of some that may be under way at a time.
    StartSingle(u8),
    HoldAgain,
    Renew,
    ProbeRedis,
    ProbeJournal,
    Spill,
    Orphans,
    Compare,
}

impl Supervisor {
    /// Has a job done, unless it is under way; then `then` with what came of it. A job that panics
    /// harms nobody else, and is done again the next time.
    pub(super) fn alone<T: 'static>(
        &mut self,
        job: Job,
        context: &mut Context<Self>,
        work: impl Future<Output = T> + 'static,
        then: impl FnOnce(&mut Self, T, &mut Context<Self>) + 'static,
    ) {
        if !self.running.insert(job) {
            return;
        }
        let work = actix::spawn(work).into_actor(self).map(move |done, supervisor, context| {
            supervisor.running.remove(&job);
            match done {
                Ok(done) => then(supervisor, done, context),
                Err(error) => tracing::error!(%error, ?job, "a job of the supervisor failed"),
            }
        });
        context.spawn(work);
    }

    /// Whether a job is under way.
    pub(super) fn is_at(&self, job: Job) -> bool {
        self.running.contains(&job)
    }

    /// Writes to Redis what it has not confirmed.
    pub(super) fn mirror(&mut self, context: &mut Context<Self>) {
        let services = Arc::clone(&self.services);
        let patient = services.standing.is_mirroring() || self.last_mirrored.elapsed() >= MIRROR_AGAIN;
        if !services.hot.is_up() || !patient || self.is_at(Job::Mirror) {
            return;
        }
        let Some(work) = services.take_unmirrored() else { return };
        self.last_mirrored = Instant::now();
        let write = async move { publish::write(&services, work).await };
        self.alone(Job::Mirror, context, write, |_, (), _| {});
    }

    /// Tells other instances by the journal what Redis could not.
    pub(super) fn announce(&mut self, context: &mut Context<Self>) {
        if self.is_at(Job::Announce) || !self.services.standing.journal_circuit.is_up() {
            return;
        }
        let moved = self.services.take_unannounced();
        if moved.is_empty() {
            return;
        }
        let services = Arc::clone(&self.services);
        let announce = async move {
            if let Err(error) = services.vote_journal.announce(&moved).await {
                tracing::debug!(%error, "other instances can't be told of moved sessions yet");
                services.announce_later(moved);
            }
        };
        self.alone(Job::Announce, context, announce, |_, (), _| {});
    }

    /// Whether the journal may be asked for what was missed, or told wrongly.
    fn may_restore(&self) -> bool {
        Instant::now() >= self.restore_not_before && self.services.standing.journal_circuit.is_up()
    }

    fn restore_again_later(&mut self, error: &JournalError) {
        tracing::debug!(%error, "sessions can't be read from the journal yet");
        self.restore_not_before = Instant::now() + RESTORE_AGAIN;
    }

    /// Reads heads from the journal that may have moved unseen, some at a time.
    pub(super) fn restore(&mut self, context: &mut Context<Self>) {
        if !self.may_restore() || self.is_at(Job::Restore) {
            return;
        }
        let due = self.services.take_restores(RESTORED_AT_ONCE);
        if due.is_empty() {
            return;
        }
        let services = Arc::clone(&self.services);
        let restore = async move {
            let told = follower::restore(&services, &due).await;
            match &told {
                Ok(told) => services.metrics.repairs.sessions_restored.inc_by(told.len() as u64),
                Err(_) => services.restore_later(due),
            }
            told
        };
        self.alone(Job::Restore, context, restore, |supervisor, restored, context| match restored {
            Ok(told) => {
                told.iter().for_each(|streamer_id| _ = supervisor.untold.remove(streamer_id));
                supervisor.restore(context);
            }
            Err(error) => supervisor.restore_again_later(&error),
        });
    }

    /// Has sessions written to Redis that it may have lost, some at a time.
    pub(super) fn rewrite(&mut self, context: &mut Context<Self>) {
        if !self.may_restore() || self.is_at(Job::Rewrite) {
            return;
        }
        let due = self.services.take_rewrites(RESTORED_AT_ONCE);
        if due.is_empty() {
            return;
        }
        let services = Arc::clone(&self.services);
        let rewrite = async move {
            let told = follower::rewrite(&services, &due).await;
            if told.is_err() {
                services.rewrite_later(due);
            }
            told
        };
        self.alone(Job::Rewrite, context, rewrite, |supervisor, told, context| match told {
            Ok(()) => supervisor.rewrite(context),
            Err(error) => supervisor.restore_again_later(&error),
        });
    }

    /// Looks what other instances have moved.
    pub(super) fn follow(&mut self, context: &mut Context<Self>) {
        if self.is_at(Job::Follow) {
            return;
        }
        let (services, buckets) = (Arc::clone(&self.services), self.held.buckets());
        let mut follower = std::mem::take(&mut self.follower);
        let look = async move {
            let looked = follower.look(&services, &buckets).await;
            if let Ok(looked) = &looked {
                follower::take(&services, looked).await;
            }
            (follower, looked)
        };
        self.alone(Job::Follow, context, look, |supervisor, (follower, looked), context| {
            supervisor.follower = follower;
            match looked {
                Ok(looked) => {
                    let lost = || looked.lost.iter().flat_map(|bucket| supervisor.held.of_bucket(*bucket));
                    supervisor.services.restore_later(lost());
                    supervisor.services.rewrite_later(lost());
                }
                Err(_) => supervisor.poll(context),
            }
        });
    }

    /// Follows heads by the journal, because Redis can't be asked.
    fn poll(&mut self, context: &mut Context<Self>) {
        if self.last_polled.elapsed() < POLL_EVERY || !self.services.standing.journal_circuit.is_up() {
            return;
        }
        self.last_polled = Instant::now();
        let (services, held) = (Arc::clone(&self.services), self.held.all());
        let poll = async move {
            if let Err(error) = follower::restore(&services, &held).await {
                tracing::debug!(%error, "sessions can't be followed by the journal");
            }
        };
        self.alone(Job::Poll, context, poll, |_, (), _| {});
    }

    /// Says that this instance is running; drops what instances hold that no longer say so.
    pub(super) fn renew_lease(&mut self, context: &mut Context<Self>) {
        let (services, unbroken) = (Arc::clone(&self.services), self.lease_unbroken);
        if self.leaving {
            return;
        }
        let renew = async move { upkeep::renew_lease(&services, unbroken).await };
        self.alone(Job::Renew, context, renew, |supervisor, lease, _| supervisor.note_lease(lease));
        let directory = &self.services.directory;
        self.untold.retain(|streamer_id| directory.session(*streamer_id).is_some());
        self.count_sessions();
    }

    fn note_lease(&mut self, lease: Option<Lease>) {
        self.lease_unbroken = lease.is_some();
        let Some(lease) = lease else { return };
        let known = self.lease_since.replace(lease.since);
        if known.is_some_and(|known| known != lease.since) && self.held.count() > 0 {
            tracing::warn!(sessions = self.held.count(), "the lease had lapsed: sessions are held again");
            self.to_hold_again.extend(self.held.all());
        }
    }

    /// Looks whether the parts are there, actors live, the queue is empty, and sessions are orphans.
    pub(super) fn look(&mut self, context: &mut Context<Self>) {
        let services = Arc::clone(&self.services);
        self.alone(
            Job::ProbeRedis,
            context,
            async move { upkeep::probe_redis(&services).await },
            |_, (), _| {},
        );
        let services = Arc::clone(&self.services);
        if !services.standing.is_journaling() {
            let probe = async move { upkeep::probe_journal(&services).await };
            self.alone(Job::ProbeJournal, context, probe, |_, (), _| {});
        }
        let services = Arc::clone(&self.services);
        self.alone(Job::Spill, context, async move { spill::look(&services).await }, |_, (), _| {});
        self.rebuild_dead();
        self.looks = self.looks.wrapping_add(1);
        if !self.draining && self.looks.is_multiple_of(LOOKS_PER_ORPHANS) {
            let services = Arc::clone(&self.services);
            let end = async move { upkeep::end_orphans(&services).await };
            self.alone(Job::Orphans, context, end, |_, (), _| {});
        }
    }

    /// Compares what is known here with the journal: what was missed is found at last.
    pub(super) fn compare(&mut self, context: &mut Context<Self>) {
        if self.draining || !self.services.standing.journal_circuit.is_up() {
            return;
        }
        let (services, feed, held) = (Arc::clone(&self.services), Arc::clone(&self.feed), self.held.all());
        // Some in turn, so that thousands of idle sessions cost little.
        let begin = self.mirrors_compared.checked_rem(held.len()).unwrap_or(0);
        let share = MIRRORS_COMPARED.min(held.len());
        let mirrored: Vec<Uuid> = held.iter().cycle().skip(begin).take(share).copied().collect();
        let compare = async move { upkeep::compare(&services, &feed, &held, &mirrored).await };
        self.alone(Job::Compare, context, compare, move |supervisor, journaled, _| match journaled {
            Ok(journaled) => {
                supervisor.mirrors_compared = begin + share;
                supervisor.compare_holds(journaled);
            }
            Err(error) => tracing::debug!(%error, "nothing can be compared with the journal now"),
        });
    }
}
