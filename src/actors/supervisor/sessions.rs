//! Session actors: started when they are needed, found and rebuilt when they have died.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::{Arbiter, ArbiterHandle};
use uuid::Uuid;

use super::Supervisor;
use crate::actors::directory::{LiveEntry, SessionHandle};
use crate::actors::session::SessionActor;

impl Supervisor {
    /// The actor of a live session; started now if none runs. `None` when it died too often lately.
    pub(super) fn ensure(&mut self, live: Arc<LiveEntry>) -> Option<SessionHandle> {
        let streamer_id = live.streamer_id;
        if let Some(handle) = self.services.directory.session(streamer_id) {
            return Some(handle);
        }
        // One that stands there still died without striking itself out: it panicked.
        let died = self.services.directory.has_dead_session(streamer_id);
        if died && !self.restarts.entry(streamer_id).or_default().allow() {
            return None;
        }
        let handle = SessionActor::start_on(
            &self.arbiter_of(streamer_id),
            Arc::clone(&self.services),
            self.committer.clone(),
            live,
        );
        self.services.directory.enter_session(streamer_id, handle.clone());
        if died {
            tracing::error!(%streamer_id, "a session actor died and was rebuilt");
            self.services.metrics.repairs.actor_restarts.inc();
        }
        self.untold.insert(streamer_id);
        self.count_sessions();
        Some(handle)
    }

    fn arbiter_of(&self, streamer_id: Uuid) -> ArbiterHandle {
        if self.arbiters.is_empty() {
            return Arbiter::current();
        }
        let place = usize::from(streamer_id.as_bytes()[15]) % self.arbiters.len();
        self.arbiters[place].handle()
    }

    /// Rebuilds the actors of held sessions that have died. Their overlays are closed by themselves and
    /// come back; the state comes from the journal.
    pub(super) fn rebuild_dead(&mut self) {
        for (streamer_id, handle) in self.services.directory.dead_sessions() {
            let seated = handle.seats.load(Ordering::Acquire) > 0;
            let live = self.services.directory.by_streamer(streamer_id);
            let Some(live) = live.filter(|_| seated || self.held.contains(streamer_id)) else {
                self.services.directory.strike_session(streamer_id, &handle.address);
                continue;
            };
            if self.ensure(live).is_some() {
                self.services.restore_later([streamer_id]);
            }
        }
        self.restarts.retain(|_, restarts| !restarts.is_empty());
    }

    pub(super) fn count_sessions(&self) {
        let metrics = &self.services.metrics;
        let actors = self.services.directory.session_count() as i64;
        let held = self.held.count() as i64;
        metrics.holds.set(held);
        metrics.sessions_held.set(held);
        metrics.sessions_unheld.set((actors - held).max(0));
    }
}
