//! Holding sessions: from an overlay's request to its seat, and letting go after the last has left.
//!
//! Who holds a session is decided in PostgreSQL. While an answer is under way no other is asked for the
//! same session, and where an answer was lost, [`Supervisor::compare_holds`] finds what differs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use uuid::Uuid;

use super::{OpenError, Supervisor, Waiter};
use crate::actors::directory::SessionHandle;
use crate::actors::feed;
use crate::actors::overlay::Seat;
use crate::actors::services::Services;
use crate::actors::session::HelloAll;
use crate::journal::JournalError;
use crate::journal::sessions::Held;

/// How long an overlay waits for its session, and a cold start for its turn, at most.
pub(super) const OPEN_WAIT: Duration = Duration::from_secs(10);
/// Before another try to let go of a session.
const RELEASE_AGAIN: Duration = Duration::from_secs(1);
/// Before another try to hold a session again.
const HOLD_AGAIN: Duration = Duration::from_secs(1);
/// Sessions being held again at a time.
const HOLDS_AT_ONCE: usize = 8;

/// Cold starts that PostgreSQL is asked for at a time.
const STARTS_AT_ONCE: usize = 6;
/// Sessions that are let go of at a time.
const RELEASES_AT_ONCE: usize = 4;

/// What PostgreSQL answered about a hold.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) enum HoldAnswer {
    Started {
        overlay_uuid: Uuid,
        held: Box<Result<Option<Held>, JournalError>>,
        /// Whether a look at the change logs was under way when it began.
        blind: bool,
    },
    /// It is a session's turn to be let go of.
    Releasing {
        streamer_id: Uuid,
        place: OwnedSemaphorePermit,
    },
    Released {
        streamer_id: Uuid,
        released: bool,
    },
}

/// Whose turn it is to ask PostgreSQL, and where its answers go.
///
/// Who asks is a task by itself: an actor polls all futures that it waits for whenever one of them may go on,
/// and here may be thousands.
pub(super) struct Turns {
    to_start: Arc<Semaphore>,
    to_release: Arc<Semaphore>,
    answered: mpsc::Sender<HoldAnswer>,
}

impl Turns {
    /// Turns, and the answers that come of them.
    pub(super) fn new() -> (Turns, mpsc::Receiver<HoldAnswer>) {
        let (answered, answers) = mpsc::channel(STARTS_AT_ONCE + RELEASES_AT_ONCE);
        let to_start = Arc::new(Semaphore::new(STARTS_AT_ONCE));
        let to_release = Arc::new(Semaphore::new(RELEASES_AT_ONCE));
        (Turns { to_start, to_release, answered }, answers)
    }
}

impl Handler<HoldAnswer> for Supervisor {
    type Result = ();

    fn handle(&mut self, answer: HoldAnswer, context: &mut Self::Context) {
        match answer {
            HoldAnswer::Started { overlay_uuid, held, blind } => {
                self.opened(overlay_uuid, *held, blind);
            }
            HoldAnswer::Releasing { streamer_id, place } => self.release_now(streamer_id, place, context),
            HoldAnswer::Released { streamer_id, released } => self.released(streamer_id, released, context),
        }
    }
}

impl Supervisor {
    /// A seat in a session that this instance holds already.
    fn seat_in_held(&self, overlay_uuid: Uuid) -> Option<Seat> {
        let streamer_id = self.services.directory.streamer_of_overlay(overlay_uuid)?;
        let ready = self.held.contains(streamer_id) && !self.untold.contains(&streamer_id);
        let handle = self.services.directory.session(streamer_id).filter(|_| ready)?;
        Some(self.seat(streamer_id, overlay_uuid, handle))
    }

    fn seat(&self, streamer_id: Uuid, overlay_uuid: Uuid, handle: SessionHandle) -> Seat {
        Seat::take(Arc::clone(&self.services), streamer_id, overlay_uuid, handle.address, handle.seats)
    }

    pub(super) fn open(&mut self, overlay_uuid: Uuid, waiter: Waiter) {
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
            None => self.start_cold(overlay_uuid),
        }
    }

    /// The cold start: one statement, whoever waits for it.
    fn start_cold(&mut self, overlay_uuid: Uuid) {
        self.services.metrics.cold_starts_postgres.inc();
        let (services, places) = (Arc::clone(&self.services), Arc::clone(&self.turns.to_start));
        let hold = async move {
            match tokio::time::timeout(OPEN_WAIT, places.acquire()).await {
                Ok(Ok(_place)) => services.journal.hold(overlay_uuid, services.options.lease).await,
                Ok(Err(_)) => Err(JournalError::Away("this instance is stopping".into())),
                Err(_) => Err(JournalError::Away("too many sessions are being started".into())),
            }
        };
        // A look that is under way already does not know of this cold start.
        let blind = self.is_following();
        let answered = self.turns.answered.clone();
        actix::spawn(async move {
            // One that panics is answered too: somebody waits for it.
            let held = actix::spawn(hold).await;
            let held = held.unwrap_or_else(|error| Err(JournalError::Away(error.to_string())));
            // A supervisor that is gone needs no telling.
            let _ = answered.send(HoldAnswer::Started { overlay_uuid, held: Box::new(held), blind }).await;
        });
    }

    fn opened(&mut self, overlay_uuid: Uuid, held: Result<Option<Held>, JournalError>, blind: bool) {
        let streamer_id = held.iter().flatten().next().map(|held| held.entry.streamer.id);
        if let Some(streamer_id) = streamer_id.filter(|streamer_id| self.releasing.contains(streamer_id)) {
            // Which of the two came last in PostgreSQL is not known: hold once more after the release.
            self.after_release.entry(streamer_id).or_default().push(overlay_uuid);
            return;
        }
        if streamer_id.is_some_and(|streamer_id| self.released_meanwhile.remove(&streamer_id)) {
            // As above, but the release is through already.
            return self.start_cold(overlay_uuid);
        }
        let waiters = self.opening.remove(&overlay_uuid).unwrap_or_default();
        let opened = match held {
            // All holds are let go of at the end of the drain.
            Ok(Some(_)) if self.draining => Err(OpenError::Unavailable),
            Ok(Some(held)) => self.adopt_held(held, blind),
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
        if self.opening.is_empty() {
            self.released_meanwhile.clear();
        }
    }

    /// Makes ready what a hold answered.
    fn adopt_held(&mut self, held: Held, blind: bool) -> Result<(Uuid, SessionHandle), OpenError> {
        let streamer_id = held.entry.streamer.id;
        // None: the streamer is disabled.
        let live = self.services.directory.adopt(&held.entry).ok_or(OpenError::Unknown)?;
        if held.started {
            tracing::info!(%streamer_id, session_id = %live.session_id, "session started");
            self.services.subscriptions.request(streamer_id, &live.twitch_user_id);
        }
        self.held.insert(streamer_id);
        let Some(handle) = self.ensure(live) else {
            // Nobody sits here: the hold is let go of at a next tick.
            self.services.vacated(streamer_id);
            return Err(OpenError::Unavailable);
        };
        let version = held.entry.live.as_ref().map_or(0, |live| live.head.frame_version());
        feed::adopt(&self.services, held.entry);
        self.untold.remove(&streamer_id);
        // A change that was seen meanwhile had nobody to be told.
        if blind || self.is_following() || self.follower.missed(streamer_id, version) {
            self.services.restore_later([streamer_id]);
        }
        self.count_sessions();
        Ok((streamer_id, handle))
    }

    /// Lets go of a session whose last overlay here has left, unless another has come meanwhile.
    pub(super) fn release(&mut self, streamer_id: Uuid) {
        let seated = self.services.directory.session(streamer_id);
        if seated.is_some_and(|handle| handle.seats.load(Ordering::Acquire) > 0)
            || !self.held.remove(streamer_id)
        {
            return;
        }
        self.count_sessions();
        self.let_go(streamer_id);
    }

    fn let_go(&mut self, streamer_id: Uuid) {
        self.releasing.insert(streamer_id);
        if !self.opening.is_empty() {
            // One of the cold starts under way may be this streamer's, by a new URL.
            self.released_meanwhile.insert(streamer_id);
        }
        let (places, answered) = (Arc::clone(&self.turns.to_release), self.turns.answered.clone());
        actix::spawn(async move {
            if let Ok(place) = places.acquire_owned().await {
                let _ = answered.send(HoldAnswer::Releasing { streamer_id, place }).await;
            }
        });
    }

    /// Lets go of a session whose turn it is, unless overlays have come back or PostgreSQL has gone meanwhile.
    fn release_now(&mut self, streamer_id: Uuid, place: OwnedSemaphorePermit, context: &mut Context<Self>) {
        let wanted = self.after_release.contains_key(&streamer_id);
        if wanted || !self.services.standing.journal_circuit.is_up() {
            return self.released(streamer_id, false, context);
        }
        let (services, answered) = (Arc::clone(&self.services), self.turns.answered.clone());
        actix::spawn(async move {
            let released = actix::spawn(async move { release(&services, streamer_id).await }).await;
            drop(place);
            let released = released.unwrap_or(false);
            let _ = answered.send(HoldAnswer::Released { streamer_id, released }).await;
        });
    }

    /// Ends the waiting for a turn to start a session: none is started any more.
    pub(super) fn start_no_more(&self) {
        self.turns.to_start.close();
    }

    fn released(&mut self, streamer_id: Uuid, released: bool, context: &mut Context<Self>) {
        self.releasing.remove(&streamer_id);
        if !released {
            // Whether it is held is unknown: an overlay that comes needs a cold start, and if none
            // does, it is let go of again.
            self.held.insert(streamer_id);
            self.untold.insert(streamer_id);
            context.run_later(RELEASE_AGAIN, move |supervisor, _| supervisor.services.vacated(streamer_id));
        }
        for overlay_uuid in self.after_release.remove(&streamer_id).unwrap_or_default() {
            self.start_cold(overlay_uuid);
        }
    }

    /// Takes holds again that may have been dropped, a few at a time.
    pub(super) fn hold_again(&mut self, context: &mut Context<Self>) {
        if self.draining || !self.services.standing.journal_circuit.is_up() {
            return;
        }
        let held = &self.held;
        // What was released meanwhile is not to be held again.
        self.to_hold_again.retain(|streamer_id| held.contains(*streamer_id));
        let due: Vec<Uuid> = self.to_hold_again.iter().copied().take(HOLDS_AT_ONCE).collect();
        if due.is_empty() {
            return;
        }
        let services = Arc::clone(&self.services);
        let wanted = due.clone();
        let hold = async move {
            let holds =
                wanted.into_iter().map(|id| services.journal.hold_streamer(id, services.options.lease));
            futures_util::future::join_all(holds).await
        };
        self.alone(super::Job::HoldAgain, context, hold, move |supervisor, held, context| {
            for (streamer_id, held) in due.into_iter().zip(held) {
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
                feed::adopt(&self.services, held.entry);
                if let Some(handle) = self.services.directory.session(streamer_id)
                    && handle.address.try_send(HelloAll).is_err()
                {
                    tracing::debug!(%streamer_id, "a session actor is too busy; its overlays hear of it later");
                }
                if !self.held.contains(streamer_id) {
                    // Released meanwhile; which came last in PostgreSQL is not known.
                    self.held.insert(streamer_id);
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

/// Lets go of a session; whether that is journaled.
async fn release(services: &Services, streamer_id: Uuid) -> bool {
    match services.journal.release(streamer_id).await {
        Ok(holders) => {
            holders.into_iter().for_each(|holders| services.note_holders_later(holders));
            true
        }
        Err(error) => {
            tracing::debug!(%error, %streamer_id, "a session can't be released yet");
            false
        }
    }
}

fn answer(waiter: Waiter, seat: Result<Seat, OpenError>) {
    // A request that has gone meanwhile drops its seat, which gives the place back.
    let _ = waiter.send(seat);
}
