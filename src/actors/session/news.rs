//! What others have done: heads that other instances moved, what the journal says of the streamer, what Redis has
//! lost.

use std::sync::Arc;

use actix::{Context, Handler};

use super::{Adopt, Close, Follow, MirrorAgain, SessionActor, frames, is_dying};
use crate::actors::services::Unmirrored;

impl Handler<Follow> for SessionActor {
    type Result = ();

    fn handle(&mut self, Follow { session_id, head }: Follow, context: &mut Context<Self>) {
        if is_dying() {
            return;
        }
        let config_moved = head.config_version > self.live.config.version;
        if session_id != self.live.session_id || head.ended_at.is_some() || config_moved {
            // Another session, or other settings: the journal tells.
            self.services.directory_changed.notify_one();
        }
        if head.ended_at.is_none() {
            self.take_head(session_id, head, None, context);
        }
    }
}

impl Handler<MirrorAgain> for SessionActor {
    type Result = ();

    fn handle(&mut self, _: MirrorAgain, _: &mut Context<Self>) {
        if is_dying() {
            return;
        }
        // The journal's news of another config are on their way here, and to Redis.
        let state = self.state.as_ref().filter(|state| state.config_version <= self.live.config.version);
        if let Some(state) = state {
            self.services.mirror_later(Unmirrored { live: Arc::clone(&self.live), session: state.clone() });
        }
    }
}

impl Handler<Adopt> for SessionActor {
    type Result = ();

    fn handle(&mut self, Adopt { entry, live }: Adopt, context: &mut Context<Self>) {
        if is_dying() {
            return;
        }
        let Some(fresh) = live else {
            return self.end(entry.streamer.disabled);
        };
        let told = entry.live.as_ref().is_some_and(|live| live.session_id == fresh.session_id);
        if !told || entry.streamer.config.version != fresh.config.version {
            // The directory knows something newer, which is on its way here, too.
            return;
        }
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
