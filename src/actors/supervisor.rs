//! The supervisor, one an instance: starts session actors, lets overlays in, drives the tick, and
//! holds and releases sessions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorFutureExt, Arbiter, ArbiterHandle, AsyncContext, Context, Handler, Message, MessageResult,
    ResponseActFuture, WrapFuture,
};
use futures_util::StreamExt;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::committer::{self, Committer};
use super::directory::{LiveEntry, SessionHandle};
use super::feed::{self, Feed};
use super::outbox::Close;
use super::overlay::Seat;
use super::services::Services;
use super::session::{CloseOverlays, SessionActor, Tick};
use super::upkeep;
use crate::journal::JournalError;
use crate::journal::sessions::Held;

/// An instance says that it is running so many times within its lease.
const RENEWALS_PER_LEASE: u32 = 3;
/// Before another try to let go of a session.
const RELEASE_AGAIN: Duration = Duration::from_secs(1);
/// Releases under way at a time when an instance stops.
const RELEASES_AT_ONCE: usize = 8;
/// Between two looks whether Redis is there.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Requests to open sockets that wait for the supervisor; more wait at the door.
const MAILBOX: usize = 4096;

/// Why an overlay is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("there is no such overlay")]
    Unknown,
    #[error("the session can't be started just now")]
    Unavailable,
}

/// An overlay wants a seat in the session behind its URL.
#[derive(Message)]
#[rtype(result = "Result<Seat, OpenError>")]
pub struct OpenOverlay {
    pub overlay_uuid: Uuid,
}

/// A vote needs the actor of a session.
#[derive(Message)]
#[rtype(result = "SessionHandle")]
pub struct EnsureSession(pub Arc<LiveEntry>);

/// Close all sockets and let go of all sessions.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain;

type Waiter = oneshot::Sender<Result<Seat, OpenError>>;

/// One instance's supervisor.
pub struct Supervisor {
    services: Arc<Services>,
    committer: Committer,
    feed: Arc<Feed>,
    /// Session actors are spread over these.
    arbiters: Vec<Arbiter>,
    /// Streamers whose session this instance holds.
    held: HashSet<Uuid>,
    /// Streamers whose session this instance is letting go of.
    releasing: HashSet<Uuid>,
    /// Streamers whose session actor has not been told the state by the journal: an overlay needs a
    /// cold start, whoever holds the session.
    untold: HashSet<Uuid>,
    /// Who waits for which overlay URL: the first one's cold start serves all.
    opening: HashMap<Uuid, Vec<Waiter>>,
    /// Overlay URLs whose cold start waits until its streamer's release is through.
    after_release: HashMap<Uuid, Vec<Uuid>>,
    mirroring: bool,
    draining: bool,
}

impl Supervisor {
    /// A supervisor that is yet to be started; it starts the threads for session actors.
    pub fn new(services: Arc<Services>, committer: Committer, feed: Arc<Feed>) -> Supervisor {
        let arbiters = (0..services.options.arbiters.max(1)).map(|_| Arbiter::new()).collect();
        Supervisor {
            services,
            committer,
            feed,
            arbiters,
            held: HashSet::new(),
            releasing: HashSet::new(),
            untold: HashSet::new(),
            opening: HashMap::new(),
            after_release: HashMap::new(),
            mirroring: false,
            draining: false,
        }
    }

    /// The actor of a live session; started now if none runs.
    fn ensure(&mut self, live: Arc<LiveEntry>) -> SessionHandle {
        let streamer_id = live.streamer_id;
        if let Some(handle) = self.services.directory.session(streamer_id) {
            return handle;
        }
        let handle = SessionActor::start_on(
            &self.arbiter_of(streamer_id),
            Arc::clone(&self.services),
            self.committer.clone(),
            live,
        );
        if self.services.directory.enter_session(streamer_id, handle.clone()).is_some() {
            // The one before died without striking itself out: it panicked.
            tracing::error!(%streamer_id, "a session actor died and was rebuilt");
            self.services.metrics.actor_restarts.inc();
        }
        self.untold.insert(streamer_id);
        self.count_sessions();
        handle
    }

    fn arbiter_of(&self, streamer_id: Uuid) -> ArbiterHandle {
        let place = usize::from(streamer_id.as_bytes()[15]) % self.arbiters.len();
        self.arbiters[place].handle()
    }

    /// A seat in a session that this instance holds already.
    fn seat_in_held(&self, overlay_uuid: Uuid) -> Option<Seat> {
        let streamer_id = self.services.directory.streamer_of_overlay(overlay_uuid)?;
        let ready = self.held.contains(&streamer_id) && !self.untold.contains(&streamer_id);
        let handle = self.services.directory.session(streamer_id).filter(|_| ready)?;
        Some(self.seat(streamer_id, overlay_uuid, handle))
    }

    fn seat(&self, streamer_id: Uuid, overlay_uuid: Uuid, handle: SessionHandle) -> Seat {
        Seat::take(Arc::clone(&self.services), streamer_id, overlay_uuid, handle.address, handle.seats)
    }

    fn open(&mut self, overlay_uuid: Uuid, waiter: Waiter, context: &mut Context<Self>) {
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
    fn start_cold(&mut self, overlay_uuid: Uuid, context: &mut Context<Self>) {
        self.services.metrics.cold_starts_postgres.inc();
        let journal = self.services.journal.clone();
        let hold = async move { journal.hold(overlay_uuid).await };
        context.spawn(
            hold.into_actor(self).map(move |held, supervisor, _| supervisor.opened(overlay_uuid, held)),
        );
    }

    fn opened(&mut self, overlay_uuid: Uuid, held: Result<Option<Held>, JournalError>) {
        let streamer_id = held.iter().flatten().next().map(|held| held.entry.streamer.id);
        if let Some(streamer_id) = streamer_id.filter(|streamer_id| self.releasing.contains(streamer_id)) {
            // Which of the two came last in PostgreSQL is not known: hold once more after the release.
            self.after_release.entry(streamer_id).or_default().push(overlay_uuid);
            return;
        }
        let waiters = self.opening.remove(&overlay_uuid).unwrap_or_default();
        let opened = match held {
            Ok(Some(held)) if self.draining => {
                let services = Arc::clone(&self.services);
                actix::spawn(async move { release(&services, held.entry.streamer.id).await });
                Err(OpenError::Unavailable)
            }
            Ok(Some(held)) => self.adopt_held(held).ok_or(OpenError::Unknown),
            Ok(None) => Err(OpenError::Unknown),
            Err(error) => {
                tracing::warn!(%error, overlays = waiters.len(), "a session can't be started");
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

    /// Makes ready what a hold answered; `None` for a disabled streamer.
    fn adopt_held(&mut self, held: Held) -> Option<(Uuid, SessionHandle)> {
        let streamer_id = held.entry.streamer.id;
        let live = self.services.directory.adopt(&held.entry)?;
        if held.started {
            tracing::info!(%streamer_id, session_id = %live.session_id, "session started");
            self.services.subscriptions.request(streamer_id, &live.twitch_user_id);
        }
        let handle = self.ensure(live);
        feed::adopt(&self.services, held.entry);
        self.untold.remove(&streamer_id);
        if self.held.insert(streamer_id) {
            let services = Arc::clone(&self.services);
            actix::spawn(async move {
                // Redis may forget this at any time; PostgreSQL has the last word.
                let _ = services.hot.hold(streamer_id, services.journal.instance_id()).await;
            });
        }
        self.count_sessions();
        Some((streamer_id, handle))
    }

    fn probe(&self) {
        let services = Arc::clone(&self.services);
        actix::spawn(async move { upkeep::probe(&services).await });
    }

    fn count_sessions(&self) {
        let metrics = &self.services.metrics;
        let actors = self.services.directory.session_count() as i64;
        let held = self.held.len() as i64;
        metrics.holds.set(held);
        metrics.sessions_held.set(held);
        metrics.sessions_unheld.set((actors - held).max(0));
    }

    fn tick(&mut self, context: &mut Context<Self>) {
        let started = Instant::now();
        let due = self.services.take_due(self.services.hot.is_up() && !self.mirroring);
        let changes = due.frames.len() + due.unmirrored.len();
        for streamer_id in due.frames {
            if let Some(handle) = self.services.directory.session(streamer_id)
                && handle.address.try_send(Tick).is_err()
            {
                // Too busy: the next tick will do.
                self.services.frame_due(streamer_id);
            }
        }
        for streamer_id in due.vacated {
            self.release(streamer_id, context);
        }
        for (streamer_id, ordinal) in due.ended {
            let services = Arc::clone(&self.services);
            actix::spawn(async move {
                if services.hot.remove(streamer_id, ordinal).await.is_err() {
                    services.forget_later(streamer_id, ordinal);
                }
            });
        }
        if !due.unmirrored.is_empty() {
            self.mirroring = true;
            let services = Arc::clone(&self.services);
            let states = due.unmirrored.into_values().collect();
            let mirror = async move { committer::mirror(&services, states).await };
            context.spawn(mirror.into_actor(self).map(|(), supervisor, _| supervisor.mirroring = false));
        }
        if changes > 0 {
            self.services.metrics.tick_changes.observe(changes as f64);
            self.services.metrics.tick_duration_seconds.observe(started.elapsed().as_secs_f64());
        }
    }

    /// Lets go of a session whose last overlay here has left, unless another has come meanwhile.
    fn release(&mut self, streamer_id: Uuid, context: &mut Context<Self>) {
        if !self.opening.is_empty() {
            // One of the cold starts under way may be this streamer's, by a new URL.
            return self.services.vacated(streamer_id);
        }
        let seated = self.services.directory.session(streamer_id);
        if seated.is_some_and(|handle| handle.seats.load(Ordering::Acquire) > 0)
            || !self.held.remove(&streamer_id)
        {
            return;
        }
        self.releasing.insert(streamer_id);
        self.count_sessions();
        let services = Arc::clone(&self.services);
        let release = async move { release(&services, streamer_id).await };
        context.spawn(release.into_actor(self).map(move |released, supervisor, context| {
            supervisor.releasing.remove(&streamer_id);
            if !released {
                // Still held as far as PostgreSQL knows: try again, unless somebody comes.
                supervisor.held.insert(streamer_id);
                context
                    .run_later(RELEASE_AGAIN, move |supervisor, _| supervisor.services.vacated(streamer_id));
            }
            for overlay_uuid in supervisor.after_release.remove(&streamer_id).unwrap_or_default() {
                supervisor.start_cold(overlay_uuid, context);
            }
        }));
    }
}

/// Lets go of a session; whether that is journaled.
async fn release(services: &Services, streamer_id: Uuid) -> bool {
    if let Err(error) = services.journal.release(streamer_id).await {
        tracing::debug!(%error, %streamer_id, "a session can't be released yet");
        return false;
    }
    let now = services.clock.now();
    // Redis may forget this at any time; PostgreSQL has the last word.
    let _ = services.hot.release(streamer_id, services.journal.instance_id(), now).await;
    true
}

fn answer(waiter: Waiter, seat: Result<Seat, OpenError>) {
    // A request that has gone meanwhile drops its seat, which gives the place back.
    let _ = waiter.send(seat);
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX);
        context.run_interval(self.services.options.tick, |supervisor, context| supervisor.tick(context));
        let renew_every = self.services.options.lease / RENEWALS_PER_LEASE;
        context.run_interval(renew_every, |supervisor, _| {
            let services = Arc::clone(&supervisor.services);
            actix::spawn(async move { upkeep::renew_lease(&services).await });
            let directory = &supervisor.services.directory;
            supervisor.untold.retain(|streamer_id| directory.session(*streamer_id).is_some());
            supervisor.count_sessions();
        });
        // At once too: until it was asked, the metrics would not know of Redis.
        self.probe();
        context.run_interval(PROBE_EVERY, |supervisor, _| supervisor.probe());
        actix::spawn(Arc::clone(&self.feed).follow());
    }
}

impl Handler<OpenOverlay> for Supervisor {
    type Result = ResponseActFuture<Self, Result<Seat, OpenError>>;

    fn handle(&mut self, open: OpenOverlay, context: &mut Self::Context) -> Self::Result {
        let (waiter, seat) = oneshot::channel();
        self.open(open.overlay_uuid, waiter, context);
        Box::pin(async move { seat.await.unwrap_or(Err(OpenError::Unavailable)) }.into_actor(self))
    }
}

impl Handler<EnsureSession> for Supervisor {
    type Result = MessageResult<EnsureSession>;

    fn handle(&mut self, EnsureSession(live): EnsureSession, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.ensure(live))
    }
}

impl Handler<Drain> for Supervisor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Drain, _: &mut Self::Context) -> Self::Result {
        self.draining = true;
        for (_, handle) in self.services.directory.sessions() {
            if handle.address.try_send(CloseOverlays(Close::Draining)).is_err() {
                tracing::debug!("a session actor is too busy to close its overlays; they will notice");
            }
        }
        let services = Arc::clone(&self.services);
        let held: Vec<Uuid> = self.held.drain().collect();
        let releases = async move {
            let services = &services;
            let releases = held.into_iter().map(|streamer_id| release(services, streamer_id));
            futures_util::stream::iter(releases).buffer_unordered(RELEASES_AT_ONCE).count().await;
        };
        Box::pin(releases.into_actor(self))
    }
}
