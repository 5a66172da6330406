//! Holding sessions: from an overlay's request to its seat. Letting go of them is in [`super::releases`].
//!
//! Who holds a session is decided in PostgreSQL. While an answer is under way no other is asked for the
//! same session, and where an answer was lost, [`Supervisor::compare_holds`] finds what differs.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{AsyncContext, Context};
use futures_util::stream::{self, StreamExt};
use uuid::Uuid;

use super::jobs::Job;
use super::{OpenError, Supervisor, Waiter};
use crate::actors::directory::SessionHandle;
use crate::actors::feed;
use crate::actors::overlay::Seat;
use crate::actors::services::Services;
use crate::actors::session::HelloAll;
use crate::journal::JournalError;
use crate::journal::sessions::{Held, Hold, IfLocked};

/// How long an overlay waits for its session, at most.
pub(super) const OPEN_WAIT: Duration = Duration::from_secs(10);
/// Before another try to hold a session again: others come first.
const HOLD_AGAIN: Duration = Duration::from_secs(5);
/// Sessions that are asked for each by itself, at a time.
const SINGLES_AT_ONCE: u8 = 4;
/// Sessions that are taken hold of by one statement, at most: it has to be a short one.
const HOLDS_A_CALL: usize = 50;

/// Whose sessions are taken hold of.
#[derive(Clone, Copy)]
enum Whose {
    /// Those behind overlay URLs.
    Overlays,
    Streamers,
}

/// What PostgreSQL answered about a hold, and for whom.
type Answered = (Uuid, Result<Option<Held>, JournalError>);

impl Supervisor {
    /// A seat in a session that this instance holds already.
    fn seat_in_held(&self, overlay_uuid: Uuid) -> Option<Seat> {
        let streamer_id = self.services.directory.streamer_of_overlay(overlay_uuid)?;
        let ready = self.held.contains(streamer_id)
            && !self.untold.contains(&streamer_id)
            && !self.doubtful.contains(&streamer_id);
        let handle = self.services.directory.session(streamer_id).filter(|_| ready)?;
        Some(self.seat(streamer_id, overlay_uuid, handle))
    }

    fn seat(&self, streamer_id: Uuid, overlay_uuid: Uuid, handle: SessionHandle) -> Seat {
        Seat::take(Arc::clone(&self.services), streamer_id, overlay_uuid, handle.address, handle.seats)
    }

    pub(super) fn open(&mut self, overlay_uuid: Uuid, waiter: Waiter, context: &mut Context<Self>) {
        if self.draining {
            return answer(waiter, Err(OpenError::Unavailable));
        }
        if let Some(seat) = self.seat_in_held(overlay_uuid) {
            return answer(waiter, Ok(seat));
        }
        if let Some(waiters) = self.opening.get_mut(&overlay_uuid) {
            self.services.metrics.cold_starts_joined.inc();
            waiters.push(waiter);
            return;
        }
        self.opening.insert(overlay_uuid, vec![waiter]);
        let streamer_id = self.services.directory.streamer_of_overlay(overlay_uuid);
        match streamer_id.filter(|streamer_id| self.releasing.contains(streamer_id)) {
            Some(streamer_id) => self.after_release.entry(streamer_id).or_default().push(overlay_uuid),
            None => self.start_cold(overlay_uuid, context),
        }
    }

    /// The cold start: one statement, whoever waits for it.
    pub(super) fn start_cold(&mut self, overlay_uuid: Uuid, context: &mut Context<Self>) {
        self.services.metrics.cold_starts_postgres.inc();
        self.to_start.push_back(overlay_uuid);
        self.start_next(context);
    }

    /// Starts the sessions that are waited for. While PostgreSQL is asked for some, more may gather. What that left
    /// open is asked for beside, each by itself.
    fn start_next(&mut self, context: &mut Context<Self>) {
        if !self.is_at(Job::Start) {
            let overlays = self.next_to_start(HOLDS_A_CALL, |supervisor| &mut supervisor.to_start);
            self.start(Job::Start, overlays, IfLocked::LeaveOut, context);
        }
        for job in (0..SINGLES_AT_ONCE).map(Job::StartSingle) {
            if !self.is_at(job) {
                let overlays = self.next_to_start(1, |supervisor| &mut supervisor.to_start_singly);
                self.start(job, overlays, IfLocked::Wait, context);
            }
        }
    }

    fn start(&mut self, job: Job, overlays: Vec<Uuid>, locked: IfLocked, context: &mut Context<Self>) {
        if overlays.is_empty() {
            return;
        }
        let hold = hold(Arc::clone(&self.services), Whose::Overlays, overlays, locked);
        self.alone(job, context, hold, |supervisor, (answers, left_open), context| {
            supervisor.to_start_singly.extend(left_open);
            for (overlay_uuid, held) in answers {
                supervisor.opened(overlay_uuid, held, context);
            }
            supervisor.start_next(context);
        });
    }

    /// The overlay URLs whose turn it is, but for those for which nobody waits any more.
    fn next_to_start(&mut self, at_most: usize, queue: fn(&mut Self) -> &mut VecDeque<Uuid>) -> Vec<Uuid> {
        if self.draining {
            self.start_no_more();
        }
        let mut overlays = Vec::new();
        while overlays.len() < at_most
            && let Some(overlay_uuid) = queue(self).pop_front()
        {
            let waiters = self.opening.get(&overlay_uuid);
            if waiters.is_some_and(|waiters| waiters.iter().any(|waiter| !waiter.is_closed())) {
                overlays.push(overlay_uuid);
            } else {
                self.no_longer_opening(overlay_uuid);
            }
        }
        overlays
    }

    /// Those who wait for a session that is not being started any more.
    fn no_longer_opening(&mut self, overlay_uuid: Uuid) -> Vec<Waiter> {
        let waiters = self.opening.remove(&overlay_uuid).unwrap_or_default();
        if self.opening.is_empty() {
            self.released_meanwhile.clear();
        }
        waiters
    }

    /// Refuses what waits for its turn to be started.
    pub(super) fn start_no_more(&mut self) {
        let waiting = std::mem::take(&mut self.to_start).into_iter();
        for overlay_uuid in waiting.chain(std::mem::take(&mut self.to_start_singly)) {
            for waiter in self.no_longer_opening(overlay_uuid) {
                answer(waiter, Err(OpenError::Unavailable));
            }
        }
    }

    fn opened(
        &mut self,
        overlay_uuid: Uuid,
        held: Result<Option<Held>, JournalError>,
        context: &mut Context<Self>,
    ) {
        let streamer_id = held.iter().flatten().next().map(|held| held.entry.streamer.id);
        if let Some(streamer_id) = streamer_id.filter(|streamer_id| self.releasing.contains(streamer_id)) {
            // Which of the two came last in PostgreSQL is not known: hold once more after the release.
            self.after_release.entry(streamer_id).or_default().push(overlay_uuid);
            return;
        }
        if streamer_id.is_some_and(|streamer_id| self.released_meanwhile.remove(&streamer_id)) {
            // As above, but the release is through already.
            return self.start_cold(overlay_uuid, context);
        }
        let waiters = self.no_longer_opening(overlay_uuid);
        let opened = match held {
            // All holds are let go of at the end of the drain.
            Ok(Some(_)) if self.draining => Err(OpenError::Unavailable),
            Ok(Some(held)) => self.adopt_held(held),
            Ok(None) => Err(OpenError::Unknown),
            Err(error) => {
                if self.services.standing.is_journaling() {
                    tracing::warn!(%error, overlays = waiters.len(), "a session can't be started");
                }
                Err(OpenError::Unavailable)
            }
        };
        for waiter in waiters {
            let seat = match &opened {
                Ok((streamer_id, handle)) => Ok(self.seat(*streamer_id, overlay_uuid, handle.clone())),
                Err(error) => Err(error.clone()),
            };
            answer(waiter, seat);
        }
        if let Ok((streamer_id, handle)) = opened
            && handle.seats.load(Ordering::Acquire) == 0
        {
            // All who waited have gone meanwhile.
            self.services.vacated(streamer_id);
        }
    }

    /// Makes ready what a hold answered.
    fn adopt_held(&mut self, held: Held) -> Result<(Uuid, SessionHandle), OpenError> {
        let streamer_id = held.entry.streamer.id;
        // None: the streamer is disabled.
        let live = self.services.directory.adopt(&held.entry).ok_or(OpenError::Unknown)?;
        if held.started {
            tracing::info!(%streamer_id, session_id = %live.session_id, "session started");
            self.services.chat_wanted.notify_one();
        }
        self.held.insert(streamer_id);
        self.doubtful.remove(&streamer_id);
        let Some(handle) = self.ensure(Arc::clone(&live)) else {
            // Nobody sits here: the hold is let go of at a next tick.
            self.services.vacated(streamer_id);
            return Err(OpenError::Unavailable);
        };
        let told = held.entry.live.as_ref().is_some_and(|told| told.session_id == live.session_id);
        if told && held.entry.streamer.config.version == live.config.version {
            self.untold.remove(&streamer_id);
        }
        feed::tell(&self.services, held.entry, Some(live));
        // What changed since that answer had nobody to be told.
        self.services.restore_later([streamer_id]);
        self.count_sessions();
        Ok((streamer_id, handle))
    }

    /// Takes holds again that may have been dropped, some at a time.
    pub(super) fn hold_again(&mut self, context: &mut Context<Self>) {
        if self.draining || !self.services.standing.journal_circuit.is_up() {
            return;
        }
        let held = &self.held;
        // What was released meanwhile is not to be held again.
        self.to_hold_again.retain(|streamer_id| held.contains(*streamer_id));
        let due: Vec<Uuid> = self.to_hold_again.iter().copied().take(HOLDS_A_CALL).collect();
        if due.is_empty() {
            return;
        }
        let hold = hold_each(Arc::clone(&self.services), due);
        self.alone(Job::HoldAgain, context, hold, |supervisor, answers, context| {
            for (streamer_id, held) in answers {
                supervisor.held_again(streamer_id, held, context);
            }
            supervisor.hold_again(context);
        });
    }

    fn held_again(
        &mut self,
        streamer_id: Uuid,
        held: Result<Option<Held>, JournalError>,
        context: &mut Context<Self>,
    ) {
        match held {
            Ok(Some(held)) => {
                self.to_hold_again.remove(&streamer_id);
                self.doubtful.remove(&streamer_id);
                feed::adopt(&self.services, held.entry);
                if let Some(handle) = self.services.directory.session(streamer_id)
                    && handle.address.try_send(HelloAll).is_err()
                {
                    tracing::debug!(%streamer_id, "a session actor is too busy; its overlays hear of it later");
                }
                if !self.held.contains(streamer_id) {
                    // Released meanwhile; which came last in PostgreSQL is not known.
                    self.held.insert(streamer_id);
                    self.doubtful.insert(streamer_id);
                    self.services.vacated(streamer_id);
                }
            }
            Ok(None) => drop(self.to_hold_again.remove(&streamer_id)),
            Err(error) => {
                tracing::debug!(%error, %streamer_id, "a session can't be held again yet");
                self.to_hold_again.remove(&streamer_id);
                context.run_later(HOLD_AGAIN, move |supervisor, _| {
                    if supervisor.held.contains(streamer_id) {
                        supervisor.to_hold_again.insert(streamer_id);
                    }
                });
            }
        }
    }

    /// Compares what this instance holds with what the journal knows of it, and mends what differs: the
    /// answer of a hold or a release may have been lost.
    pub(super) fn compare_holds(&mut self, journaled: Vec<Uuid>) {
        if self.draining {
            return;
        }
        let journaled: BTreeSet<Uuid> = journaled.into_iter().collect();
        let missing = self.held.all().into_iter().filter(|streamer_id| !journaled.contains(streamer_id));
        self.to_hold_again.extend(missing);
        if !self.opening.is_empty() {
            // A cold start under way may be one of what is journaled.
            return;
        }
        for streamer_id in journaled {
            if !self.held.contains(streamer_id) && !self.releasing.contains(&streamer_id) {
                self.let_go(streamer_id);
            }
        }
    }
}

/// Takes hold of sessions in one statement. Answers also what has to be asked for each by itself: unknown URLs and
/// locked streamers, or all, when one of them may be in the others' way.
async fn hold(
    services: Arc<Services>,
    whose: Whose,
    ids: Vec<Uuid>,
    locked: IfLocked,
) -> (Vec<Answered>, Vec<Uuid>) {
    use JournalError::{Away, Busy, Data, Refused, Unreadable};
    let wanted: Vec<Hold> = ids.iter().copied().map(Hold::of).collect();
    // If it panics they are answered too: somebody waits for it.
    let asked = actix::spawn(async move {
        let lease = services.options.lease;
        match whose {
            Whose::Overlays => services.journal.hold_overlays(&wanted, lease, locked).await,
            Whose::Streamers => services.journal.hold_streamers(&wanted, lease, locked).await,
        }
    });
    let (mut answers, mut left_open) = (Vec::with_capacity(ids.len()), Vec::new());
    match asked.await.unwrap_or_else(|error| Err(Away(error.to_string()))) {
        Ok(held) => {
            for (id, held) in ids.into_iter().zip(held) {
                match held {
                    None if locked == IfLocked::LeaveOut => left_open.push(id),
                    held => answers.push((id, Ok(held))),
                }
            }
        }
        Err(Busy(_) | Data(_) | Refused(_) | Unreadable(_)) if ids.len() > 1 => left_open = ids,
        Err(error) => answers.extend(ids.into_iter().map(|id| (id, Err(error.clone())))),
    }
    (answers, left_open)
}

/// Takes hold of streamers' sessions, of what that left open each by itself.
async fn hold_each(services: Arc<Services>, streamer_ids: Vec<Uuid>) -> Vec<Answered> {
    let ask = |ids, locked| hold(Arc::clone(&services), Whose::Streamers, ids, locked);
    let (mut answers, left_open) = ask(streamer_ids, IfLocked::LeaveOut).await;
    let singles = stream::iter(left_open).map(|streamer_id| ask(vec![streamer_id], IfLocked::Wait));
    let mut singles = singles.buffer_unordered(SINGLES_AT_ONCE.into());
    while let Some((answered, _)) = singles.next().await {
        answers.extend(answered);
    }
    answers
}

fn answer(waiter: Waiter, seat: Result<Seat, OpenError>) {
    // A request that has gone meanwhile drops its seat, which gives the place back.
    let _ = waiter.send(seat);
}
