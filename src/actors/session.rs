//! The session actor: one live session's state and its overlays here.
//!
//! Handlers never await. What votes have made of the state comes back as a message when it is journaled.

mod messages;
mod news;
mod overlays;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, SpawnHandle};
use tokio::time::Instant;
use uuid::Uuid;

use super::committer::{Committer, PendingVote};
use super::directory::{LiveEntry, SessionHandle};
use super::frames::{self, Frame};
use super::outbox::{Close, Outbox};
use super::services::Services;
use crate::domain::sentiment::{Model, REST};
use crate::domain::session::Session;
use crate::domain::time::Millis;
use crate::domain::vote::NewVote;

pub use messages::{
    Adopt, CastVote, CloseOverlays, CloseShare, CountOverlays, Follow, HelloAgain, HelloAll, Join, Journaled,
    Leave, MirrorAgain, Reply, Tick, VoteOutcome,
};

/// Messages of others than votes: votes have a bound of their own, in the directory.
const MAILBOX: usize = 1024;
/// Every vote counts the same.
const WEIGHT: f64 = 1.0;

/// One overlay as its session sees it.
struct OverlayLink {
    overlay_uuid: Uuid,
    outbox: Arc<Outbox>,
}

/// One live session on this instance.
pub struct SessionActor {
    services: Arc<Services>,
    committer: Committer,
    live: Arc<LiveEntry>,
    /// The newest state known; none before the journal first told it.
    state: Option<Session>,
    /// The newest state's version, for others to see.
    version: Arc<AtomicI64>,
    /// By their ids, which are random.
    overlays: BTreeMap<Uuid, OverlayLink>,
    last_frame: Option<Instant>,
    /// The arrival of the oldest vote since the last frame.
    unsent_since: Option<Instant>,
    /// Whether the next tick has a frame to send.
    due: bool,
    /// The next frame that no vote causes: a keyframe, or a window that loses a second.
    next_own_frame: Option<SpawnHandle>,
    last_active: Instant,
    /// Whether it is going to look whether it can go.
    rest_planned: bool,
}

impl SessionActor {
    /// Starts an actor for a live session on an arbiter.
    pub fn start_on(
        arbiter: &actix::ArbiterHandle,
        services: Arc<Services>,
        committer: Committer,
        live: Arc<LiveEntry>,
    ) -> SessionHandle {
        let version = Arc::new(AtomicI64::new(0));
        let shown = Arc::clone(&version);
        let address = SessionActor::start_in_arbiter(arbiter, move |context| {
            context.set_mailbox_capacity(MAILBOX);
            SessionActor {
                services,
                committer,
                live,
                state: None,
                version,
                overlays: BTreeMap::new(),
                last_frame: None,
                unsent_since: None,
                due: false,
                next_own_frame: None,
                last_active: Instant::now(),
                rest_planned: false,
            }
        });
        SessionHandle { address, seats: Arc::new(AtomicUsize::new(0)), version: shown }
    }

    /// Takes a state if it is newer than the one known.
    fn take_state(&mut self, state: Session) -> bool {
        let newer = self.state.as_ref().is_none_or(|known| known.frame_version() < state.frame_version());
        if newer {
            self.version.store(state.frame_version(), Ordering::Release);
            self.state = Some(state);
        }
        newer
    }

    /// Takes a head of this session if it is newer than the one known, and shows it; `arrived` is when
    /// the oldest vote that moved it came, if it came to this instance.
    fn take_head(
        &mut self,
        session_id: Uuid,
        head: Session,
        arrived: Option<Instant>,
        context: &mut Context<Self>,
    ) {
        if session_id != self.live.session_id {
            return;
        }
        let reset_at = self.state.as_ref().and_then(|state| state.reset_at);
        let was_reset = self.state.is_some() && head.reset_at != reset_at;
        if !self.take_state(head) {
            return;
        }
        if was_reset {
            return self.send_reset(context);
        }
        self.unsent_since = self.unsent_since.or(arrived);
        // What other instances moved comes with a tick, a little sooner or later after it.
        let tick = self.services.options.tick;
        self.show_after(if arrived.is_some() { tick } else { tick * 4 / 5 }, context);
    }

    /// Sends the state now if the last frame is older than a tick, else at the next tick.
    fn show(&mut self, context: &mut Context<Self>) {
        self.show_after(self.services.options.tick, context);
    }

    /// As [`SessionActor::show`], at once if the last frame is older than `pause`.
    fn show_after(&mut self, pause: Duration, context: &mut Context<Self>) {
        if self.overlays.is_empty() {
            // Who comes gets a hello.
            self.unsent_since = None;
            return;
        }
        if self.last_frame.is_none_or(|last| last.elapsed() >= pause) {
            self.send_sentiment(context);
        } else if !std::mem::replace(&mut self.due, true) {
            self.services.frame_due(self.live.streamer_id);
        }
    }

    fn send_sentiment(&mut self, context: &mut Context<Self>) {
        if let Some(state) = &self.state {
            let frame = frames::sentiment(state, self.services.clock.now());
            self.broadcast(&frame);
        }
        self.sent(context);
    }

    fn send_reset(&mut self, context: &mut Context<Self>) {
        if let Some(state) = &self.state {
            let frame = frames::reset(state, self.services.clock.now());
            self.broadcast(&frame);
        }
        self.sent(context);
    }

    /// Notes that overlays have the newest state, and when they need another frame by themselves.
    fn sent(&mut self, context: &mut Context<Self>) {
        let arrived = self.unsent_since.take();
        self.due = false;
        if self.overlays.is_empty() {
            return;
        }
        if let Some(arrived) = arrived {
            self.services.metrics.vote_to_frame_seconds.observe(arrived.elapsed().as_secs_f64());
        }
        self.last_frame = Some(Instant::now());
        self.plan_own_frame(context);
    }

    /// Plans a keyframe while the value is not at rest, and a frame when the window loses a second.
    fn plan_own_frame(&mut self, context: &mut Context<Self>) {
        if let Some(planned) = self.next_own_frame.take() {
            context.cancel_future(planned);
        }
        let Some(state) = self.state.as_ref().filter(|_| !self.overlays.is_empty()) else { return };
        let now = self.services.clock.now();
        let moving = state.mood.value_at(&state.params, now).abs() >= REST;
        let keyframe = moving.then_some(self.services.options.keyframe);
        let expiry = state.mood.next_expiry(&state.params, now).map(|at| until(now, at));
        let Some(delay) = keyframe.into_iter().chain(expiry).min() else { return };
        self.next_own_frame = Some(context.run_later(delay, |actor, context| {
            actor.next_own_frame = None;
            actor.show_change(context);
        }));
    }

    /// Shows what time alone has changed, unless the bar has come to rest, which overlays know.
    fn show_change(&mut self, context: &mut Context<Self>) {
        let now = self.services.clock.now();
        let Some(state) = &self.state else { return };
        let moving = state.mood.value_at(&state.params, now).abs() >= REST;
        if moving || state.params.model == Model::Window {
            self.show(context);
        }
    }

    fn broadcast(&self, frame: &Frame) {
        for overlay in self.overlays.values() {
            self.offer(overlay, frame);
        }
    }

    fn offer(&self, overlay: &OverlayLink, frame: &Frame) {
        let conflated = overlay.outbox.offer(frame);
        if conflated > 0 {
            self.services.metrics.frames_conflated.inc_by(conflated);
        }
    }

    fn hello(&self, state: &Session) -> Frame {
        frames::hello(&self.live.config, state, self.services.clock.now())
    }

    fn close_overlays(&self, close: Close, which: impl Fn(&OverlayLink) -> bool) {
        for overlay in self.overlays.values().filter(|overlay| which(overlay)) {
            overlay.outbox.close(close);
        }
    }

    /// Votes alone keep an actor for a while; overlays keep it until they leave. Has it look, when that while is
    /// over, whether it can go.
    fn plan_rest(&mut self, context: &mut Context<Self>) {
        if self.rest_planned {
            return;
        }
        self.rest_planned = true;
        let idle = self.services.options.idle;
        context.run_later(idle.saturating_sub(self.last_active.elapsed()), move |actor, context| {
            actor.rest_planned = false;
            if !actor.overlays.is_empty() {
                // The last one to leave plans it again.
                return;
            }
            let seats = actor.services.directory.session(actor.live.streamer_id);
            let seated = seats.is_some_and(|handle| handle.seats.load(Ordering::Acquire) > 0);
            if seated {
                // An overlay is on its way here.
                actor.last_active = Instant::now();
            }
            if actor.last_active.elapsed() >= idle {
                context.stop();
            } else {
                actor.plan_rest(context);
            }
        });
    }

    /// Dies when a test has asked for it.
    #[cfg(debug_assertions)]
    fn panic_if_told(&self, message_id: &str) {
        if self
            .services
            .options
            .panic_on_message
            .as_deref()
            .is_some_and(|start| message_id.starts_with(start))
        {
            panic!("a test asked for it"); // only in builds with debug assertions
        }
    }

    /// The streamer has no live session any more.
    fn end(&mut self, disabled: bool) {
        let close = if disabled { Close::UrlGone } else { Close::Restarted };
        self.close_overlays(close, |_| true);
    }
}

/// Whether this actor is being dropped because it panicked. Actix then still hands it the messages that
/// wait: a second panic would end the process.
fn is_dying() -> bool {
    std::thread::panicking()
}

/// From `now` to `at`, a moment later rather than a moment early.
fn until(now: Millis, at: Millis) -> Duration {
    Duration::from_millis(at.0.saturating_sub(now.0).max(0) as u64 + 1)
}

impl Actor for SessionActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.plan_rest(context);
    }

    fn stopped(&mut self, context: &mut Self::Context) {
        if is_dying() {
            // The supervisor finds who died.
            return self.close_overlays(Close::Restarted, |_| true);
        }
        self.services.directory.strike_session(self.live.streamer_id, &context.address());
    }
}

impl Handler<CastVote> for SessionActor {
    type Result = ();

    fn handle(&mut self, vote: CastVote, context: &mut Self::Context) {
        if is_dying() {
            return;
        }
        self.last_active = Instant::now();
        #[cfg(debug_assertions)]
        self.panic_if_told(&vote.message_id);
        let pending = PendingVote {
            vote: NewVote {
                session_id: vote.live.session_id,
                viewer: vote.live.viewer_hash(&vote.viewer_id),
                message_id: vote.message_id,
                side: vote.side,
                weight: WEIGHT,
                t: self.services.clock.at(vote.arrived),
            },
            arrived: vote.arrived,
            live: vote.live,
            session: context.address(),
            reply: vote.reply,
        };
        if let Err(refused) = self.committer.submit(pending) {
            // Nobody listens any more if the request has gone meanwhile.
            let _ = refused.reply.send(VoteOutcome::Unavailable);
        }
    }
}

impl Handler<Journaled> for SessionActor {
    type Result = ();

    fn handle(&mut self, journaled: Journaled, context: &mut Self::Context) {
        if is_dying() {
            return;
        }
        self.take_head(journaled.session_id, journaled.head, Some(journaled.arrived), context);
    }
}

impl Handler<Tick> for SessionActor {
    type Result = ();

    fn handle(&mut self, _: Tick, context: &mut Self::Context) {
        if is_dying() {
            return;
        }
        if std::mem::take(&mut self.due) {
            self.send_sentiment(context);
        }
    }
}
