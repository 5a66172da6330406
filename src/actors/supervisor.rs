//! The supervisor, one an instance: starts session actors, lets overlays in, drives the tick, holds
//! and releases sessions, and keeps everything that an instance does now and then going.

mod drain;
mod held;
mod holds;
mod jobs;
mod releases;
mod sessions;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Arbiter, AsyncContext, Context, Handler, Message, MessageResult,
    ResponseActFuture, ResponseFuture, WrapFuture,
};
use futures_util::stream::poll_fn;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use super::committer::Committer;
use super::directory::{LiveEntry, SessionHandle};
use super::feed::Feed;
use super::follower::Follower;
use super::overlay::Seat;
use super::services::Services;
use super::session::Tick;
use super::watch::{self, Restarts};
use crate::domain::time::Millis;

use held::Held;
use jobs::Job;
use releases::{Release, Turns};

/// An instance says that it is running so many times within its lease.
const RENEWALS_PER_LEASE: u32 = 3;
/// Between two looks whether the parts are there, actors live, the queue is empty, sessions are orphans.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two comparisons of what is known here with the journal, at most; and so many of them fit
/// into the time after which a session that nobody holds ends.
const COMPARE_EVERY_MAX: Duration = Duration::from_secs(10);
const COMPARES_PER_ORPHAN: u32 = 3;
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

/// A vote needs the actor of a session; `None` while it dies too often.
#[derive(Message)]
#[rtype(result = "Option<SessionHandle>")]
pub struct EnsureSession(pub Arc<LiveEntry>);

/// Close all sockets, spread over the time for it, and let go of all sessions.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain;

type Waiter = oneshot::Sender<Result<Seat, OpenError>>;

/// One instance's supervisor.
pub struct Supervisor {
    services: Arc<Services>,
    committer: Committer,
    feed: Arc<Feed>,
    /// Session actors are spread over these; none: they run beside the supervisor.
    arbiters: Vec<Arbiter>,
    held: Held,
    /// Streamers whose session this instance is letting go of.
    releasing: BTreeSet<Uuid>,
    /// Streamers whose session actor has not been told the state by the journal: an overlay needs a
    /// cold start, whoever holds the session.
    untold: BTreeSet<Uuid>,
    /// Streamers of whose session it is not known whether it is still held, because the answer to a release was
    /// lost: an overlay needs a cold start.
    doubtful: BTreeSet<Uuid>,
    /// Who waits for which overlay URL: the first one's cold start serves all.
    opening: HashMap<Uuid, Vec<Waiter>>,
    /// Overlay URLs whose cold start waits for its turn.
    to_start: VecDeque<Uuid>,
    /// Those that are asked for each by itself.
    to_start_singly: VecDeque<Uuid>,
    turns: Turns,
    /// Taken when the supervisor starts.
    releases: Option<mpsc::Receiver<Release>>,
    /// Overlay URLs whose cold start waits until its streamer's release is through.
    after_release: BTreeMap<Uuid, Vec<Uuid>>,
    /// Streamers whose session was let go of while cold starts were under way, one of which may be theirs.
    released_meanwhile: BTreeSet<Uuid>,
    /// Streamers whose hold may have been dropped, to be held again.
    to_hold_again: BTreeSet<Uuid>,
    follower: Follower,
    running: BTreeSet<Job>,
    /// When actors of these streamers' sessions were rebuilt lately.
    restarts: BTreeMap<Uuid, Restarts>,
    /// When the present lease began, as far as known.
    lease_since: Option<Millis>,
    /// Whether the last renewal of the lease went through.
    lease_unbroken: bool,
    /// How many times it was looked whether the parts are there.
    looks: u32,
    /// Which of the sessions held was the last whose state in Redis was compared.
    mirrors_compared: usize,
    last_mirrored: Instant,
    last_polled: Instant,
    restore_not_before: Instant,
    draining: bool,
    /// Whether all sessions are let go of, and the lease is given up.
    leaving: bool,
}

impl Supervisor {
    /// A supervisor that is yet to be started; it starts the threads for session actors.
    pub fn new(services: Arc<Services>, committer: Committer, feed: Arc<Feed>) -> Supervisor {
        let arbiters = (0..services.options.arbiters).map(|_| Arbiter::new()).collect();
        let now = Instant::now();
        let (turns, releases) = Turns::new();
        Supervisor {
            services,
            committer,
            feed,
            arbiters,
            held: Held::default(),
            releasing: BTreeSet::new(),
            untold: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            opening: HashMap::new(),
            to_start: VecDeque::new(),
            to_start_singly: VecDeque::new(),
            turns,
            releases: Some(releases),
            after_release: BTreeMap::new(),
            released_meanwhile: BTreeSet::new(),
            to_hold_again: BTreeSet::new(),
            follower: Follower::default(),
            running: BTreeSet::new(),
            restarts: BTreeMap::new(),
            lease_since: None,
            lease_unbroken: true,
            looks: 0,
            mirrors_compared: 0,
            last_mirrored: now,
            last_polled: now,
            restore_not_before: now,
            draining: false,
            leaving: false,
        }
    }

    fn tick(&mut self, context: &mut Context<Self>) {
        let started = Instant::now();
        let (frames, vacated) = self.services.take_due();
        let changes = frames.len();
        for streamer_id in frames {
            if let Some(handle) = self.services.directory.session(streamer_id)
                && handle.address.try_send(Tick).is_err()
            {
                // Too busy: the next tick will do.
                self.services.frame_due(streamer_id);
            }
        }
        for streamer_id in vacated {
            self.release(streamer_id);
        }
        self.mirror(context);
        self.announce(context);
        self.restore(context);
        self.rewrite(context);
        self.hold_again(context);
        self.follow(context);
        if changes > 0 {
            self.services.metrics.tick_changes.observe(changes as f64);
        }
        self.services.metrics.tick_duration_seconds.observe(started.elapsed().as_secs_f64());
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX);
        if let Some(mut releases) = self.releases.take() {
            context.add_message_stream(poll_fn(move |context| releases.poll_recv(context)));
        }
        let options = &self.services.options;
        let compare_every = (options.orphan / COMPARES_PER_ORPHAN).min(COMPARE_EVERY_MAX);
        let renew_every = options.lease / RENEWALS_PER_LEASE;
        context.run_interval(options.tick, |supervisor, context| supervisor.tick(context));
        context.run_interval(renew_every, |supervisor, context| supervisor.renew_lease(context));
        context.run_interval(LOOK_EVERY, |supervisor, context| supervisor.look(context));
        context.run_interval(compare_every, |supervisor, context| supervisor.compare(context));
        // At once too: until it was asked, the metrics would not know of Redis, nor others of us.
        self.renew_lease(context);
        self.look(context);
        let (feed, services) = (Arc::clone(&self.feed), Arc::clone(&self.services));
        actix::spawn(async move {
            watch::keep_running("the directory's feed", &services, || Arc::clone(&feed).follow()).await;
        });
    }
}

impl Handler<OpenOverlay> for Supervisor {
    type Result = ResponseFuture<Result<Seat, OpenError>>;

    fn handle(&mut self, open: OpenOverlay, context: &mut Self::Context) -> Self::Result {
        let (waiter, seat) = oneshot::channel();
        self.open(open.overlay_uuid, waiter, context);
        let seat = tokio::time::timeout(holds::OPEN_WAIT, seat);
        Box::pin(async move {
            seat.await.map_or(Err(OpenError::Unavailable), |seat| seat.unwrap_or(Err(OpenError::Unavailable)))
        })
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
        self.start_no_more();
        let close = drain::close_overlays(Arc::clone(&self.services)).into_actor(self);
        Box::pin(close.then(|(), supervisor, _| {
            supervisor.leaving = true;
            supervisor.held.clear();
            drain::leave(Arc::clone(&supervisor.services)).into_actor(supervisor)
        }))
    }
}
