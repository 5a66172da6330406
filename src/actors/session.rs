//! The session actor: one live session's state, its waiting votes and its overlays here.
//!
//! Handlers never await. What becomes of votes comes back as a message of the committer.

mod link;
mod messages;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, SpawnHandle};
use uuid::Uuid;

use super::committer::{Committer, PendingVote};
use super::directory::{LiveEntry, SessionHandle};
use super::frames::{self, Frame};
use super::outbox::Close;
use super::services::Services;
use crate::domain::sentiment::{Model, REST};
use crate::domain::session::Session;
use crate::domain::time::Millis;

use link::OverlayLink;
pub use messages::{
    Adopt, CastVote, CloseOverlays, CountOverlays, Decided, HelloAgain, Join, Leave, Reply, Tick, VoteOutcome,
};

/// Messages of others than votes: votes have a bound of their own, in the directory.
const MAILBOX: usize = 1024;

/// One live session on this instance.
pub struct SessionActor {
    services: Arc<Services>,
    committer: Committer,
    live: Arc<LiveEntry>,
    /// The newest state known; none before the journal first told it.
    state: Option<Session>,
    /// Who waits for which chat message's vote.
    waiting: HashMap<String, Vec<Reply>>,
    overlays: HashMap<Uuid, OverlayLink>,
    last_frame: Option<Instant>,
    /// The arrival of the oldest vote since the last frame.
    unsent_since: Option<Instant>,
    /// Whether the next tick has a frame to send.
    due: bool,
    /// The next frame that no vote causes: a keyframe, or a window that loses a second.
    next_own_frame: Option<SpawnHandle>,
    last_active: Instant,
}

impl SessionActor {
    /// Starts an actor for a live session on an arbiter.
    pub fn start_on(
        arbiter: &actix::ArbiterHandle,
        services: Arc<Services>,
        committer: Committer,
        live: Arc<LiveEntry>,
    ) -> SessionHandle {
        let address = SessionActor::start_in_arbiter(arbiter, move |context| {
            context.set_mailbox_capacity(MAILBOX);
            SessionActor {
                services,
                committer,
                live,
                state: None,
                waiting: HashMap::new(),
                overlays: HashMap::new(),
                last_frame: None,
                unsent_since: None,
                due: false,
                next_own_frame: None,
                last_active: Instant::now(),
            }
        });
        SessionHandle { address, seats: Arc::new(AtomicUsize::new(0)) }
    }

    /// Takes a state if it is newer than the one known.
    fn take_state(&mut self, state: Session) -> bool {
        let newer = self.state.as_ref().is_none_or(|known| known.frame_version() < state.frame_version());
        if newer {
            self.state = Some(state);
        }
        newer
    }

    /// Shows votes of which the oldest arrived then.
    fn show_votes(&mut self, arrived: Instant, context: &mut Context<Self>) {
        self.unsent_since.get_or_insert(arrived);
        self.show(context);
    }

    /// Sends the state now if the last frame is older than a tick, else at the next tick.
    fn show(&mut self, context: &mut Context<Self>) {
        if self.overlays.is_empty() {
            // Who comes gets a hello.
            self.unsent_since = None;
            return;
        }
        let tick = self.services.options.tick;
        if self.last_frame.is_none_or(|last| last.elapsed() >= tick) {
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
        let offered = overlay.outbox.offer(frame);
        self.services.metrics.frames_conflated.inc_by(offered.conflated);
        if offered.tell {
            overlay.tell();
        }
    }

    fn hello(&self, state: &Session) -> Frame {
        frames::hello(&self.live.config, state, self.services.clock.now())
    }

    fn close_overlays(&self, close: Close, which: impl Fn(&OverlayLink) -> bool) {
        for overlay in self.overlays.values().filter(|overlay| which(overlay)) {
            if overlay.outbox.close(close) {
                overlay.tell();
            }
        }
    }

    /// The streamer has no live session any more.
    fn end(&mut self, disabled: bool) {
        let close = if disabled { Close::UrlGone } else { Close::Restarted };
        self.close_overlays(close, |_| true);
    }
}

/// From `now` to `at`, a moment later rather than a moment early.
fn until(now: Millis, at: Millis) -> Duration {
    Duration::from_millis(at.0.saturating_sub(now.0).max(0) as u64 + 1)
}

impl Actor for SessionActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        // Votes alone keep an actor for a while; overlays keep it until they leave.
        context.run_interval(self.services.options.idle, |actor, context| {
            let idle = actor.overlays.is_empty() && actor.waiting.is_empty();
            let seats = actor.services.directory.session(actor.live.streamer_id);
            let seated =
                seats.is_some_and(|handle| handle.seats.load(std::sync::atomic::Ordering::Acquire) > 0);
            if idle && !seated && actor.last_active.elapsed() >= actor.services.options.idle {
                context.stop();
            }
        });
    }

    fn stopped(&mut self, context: &mut Self::Context) {
        self.services.directory.strike_session(self.live.streamer_id, &context.address());
    }
}

impl Handler<CastVote> for SessionActor {
    type Result = ();

    fn handle(&mut self, vote: CastVote, context: &mut Self::Context) {
        self.last_active = Instant::now();
        if let Some(waiting) = self.waiting.get_mut(&vote.message_id) {
            waiting.push(vote.reply);
            return;
        }
        let pending = PendingVote {
            viewer: vote.live.viewer_hash(&vote.viewer_id),
            message_id: vote.message_id.clone(),
            side: vote.side,
            t: self.services.clock.at(vote.arrived),
            arrived: vote.arrived,
            live: vote.live,
            session: context.address(),
        };
        if self.committer.submit(pending) {
            self.waiting.insert(vote.message_id, vec![vote.reply]);
        } else {
            // Nobody listens any more if the request has gone meanwhile.
            let _ = vote.reply.send(VoteOutcome::Unavailable);
        }
    }
}

impl Handler<Decided> for SessionActor {
    type Result = actix::MessageResult<Decided>;

    fn handle(&mut self, decided: Decided, context: &mut Self::Context) -> Self::Result {
        if let Some((session_id, head)) = decided.head
            && session_id == self.live.session_id
        {
            let reset_at = self.state.as_ref().and_then(|state| state.reset_at);
            let was_reset = self.state.is_some() && head.reset_at != reset_at;
            if self.take_state(head) {
                if was_reset {
                    self.send_reset(context);
                } else {
                    self.show_votes(decided.arrived, context);
                }
            }
        }
        let mut replies = Vec::with_capacity(decided.outcomes.len());
        for (message_id, outcome) in decided.outcomes {
            let waiting = self.waiting.remove(&message_id).unwrap_or_default();
            replies.extend(waiting.into_iter().enumerate().map(|(place, reply)| {
                // Deliveries that joined the first one's wait are repetitions of it.
                let repeated = place > 0 && outcome == VoteOutcome::Accepted;
                (reply, if repeated { VoteOutcome::Duplicate } else { outcome })
            }));
        }
        actix::MessageResult(replies)
    }
}

impl Handler<Adopt> for SessionActor {
    type Result = ();

    fn handle(&mut self, Adopt(entry): Adopt, context: &mut Self::Context) {
        let Some(fresh) = self.services.directory.by_streamer(self.live.streamer_id) else {
            return self.end(entry.streamer.disabled);
        };
        let before = std::mem::replace(&mut self.live, fresh);
        let head = entry.live.as_ref().filter(|live| live.session_id == self.live.session_id);
        let reset_at = self.state.as_ref().map(|state| state.reset_at);
        let taken = head.is_some_and(|live| self.take_state(live.head.clone()));
        if before.overlay_uuid != self.live.overlay_uuid {
            let valid = self.live.overlay_uuid;
            self.close_overlays(Close::UrlGone, |overlay| overlay.overlay_uuid != valid);
        }
        let Some(state) = self.state.clone() else { return };
        let now = self.services.clock.now();
        if before.session_id != self.live.session_id {
            self.broadcast(&self.hello(&state));
        } else if before.config.version != self.live.config.version {
            self.broadcast(&frames::config(&self.live.config, &state, now));
        } else if taken && reset_at.is_some_and(|reset_at| reset_at != state.reset_at) {
            return self.send_reset(context);
        } else {
            if taken {
                self.show(context);
            }
            return;
        }
        self.sent(context);
    }
}

impl Handler<Join> for SessionActor {
    type Result = ();

    fn handle(&mut self, join: Join, context: &mut Self::Context) {
        let overlay =
            OverlayLink { overlay_uuid: join.overlay_uuid, outbox: join.outbox, address: join.address };
        let refused = if join.overlay_uuid != self.live.overlay_uuid {
            Some(Close::UrlGone)
        } else if self.overlays.len() >= self.services.options.overlays_per_session_max {
            Some(Close::LimitReached)
        } else {
            None
        };
        if let Some(close) = refused {
            if overlay.outbox.close(close) {
                overlay.tell();
            }
            return;
        }
        match &self.state {
            Some(state) => self.offer(&overlay, &self.hello(state)),
            // The supervisor lets nobody in before the journal told the state.
            None if overlay.outbox.close(Close::Restarted) => overlay.tell(),
            None => {}
        }
        self.overlays.insert(join.overlay_id, overlay);
        if self.next_own_frame.is_none() {
            self.plan_own_frame(context);
        }
    }
}

impl Handler<HelloAgain> for SessionActor {
    type Result = ();

    fn handle(&mut self, again: HelloAgain, _: &mut Self::Context) {
        if let (Some(overlay), Some(state)) = (self.overlays.get(&again.overlay_id), &self.state) {
            self.offer(overlay, &self.hello(state));
        }
    }
}

impl Handler<Leave> for SessionActor {
    type Result = ();

    fn handle(&mut self, leave: Leave, _: &mut Self::Context) {
        self.overlays.remove(&leave.overlay_id);
        self.last_active = Instant::now();
    }
}

impl Handler<Tick> for SessionActor {
    type Result = ();

    fn handle(&mut self, _: Tick, context: &mut Self::Context) {
        if std::mem::take(&mut self.due) {
            self.send_sentiment(context);
        }
    }
}

impl Handler<CloseOverlays> for SessionActor {
    type Result = ();

    fn handle(&mut self, CloseOverlays(close): CloseOverlays, _: &mut Self::Context) {
        self.close_overlays(close, |_| true);
    }
}

impl Handler<CountOverlays> for SessionActor {
    type Result = usize;

    fn handle(&mut self, _: CountOverlays, _: &mut Self::Context) -> usize {
        self.overlays.len()
    }
}
