//! Overlays that come and go.

use actix::{Context, Handler};
use tokio::time::Instant;

use super::{
    CloseOverlays, CloseShare, CountOverlays, HelloAgain, HelloAll, Join, Leave, OverlayLink, SessionActor,
    is_dying,
};
use crate::actors::outbox::Close;

impl Handler<Join> for SessionActor {
    type Result = ();

    fn handle(&mut self, join: Join, context: &mut Self::Context) {
        if is_dying() {
            return;
        }
        let overlay = OverlayLink { overlay_uuid: join.overlay_uuid, outbox: join.outbox };
        let refused = if join.overlay_uuid != self.live.overlay_uuid {
            Some(Close::UrlGone)
        } else if self.overlays.len() >= self.services.options.overlays_per_session_max {
            Some(Close::LimitReached)
        } else {
            None
        };
        if let Some(close) = refused {
            return overlay.outbox.close(close);
        }
        match &self.state {
            Some(state) => self.offer(&overlay, &self.hello(state)),
            // The supervisor lets nobody in before the journal told the state.
            None => overlay.outbox.close(Close::Restarted),
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
        if is_dying() {
            return;
        }
        if let (Some(overlay), Some(state)) = (self.overlays.get(&again.overlay_id), &self.state) {
            self.offer(overlay, &self.hello(state));
        }
    }
}

impl Handler<Leave> for SessionActor {
    type Result = ();

    fn handle(&mut self, leave: Leave, context: &mut Self::Context) {
        if is_dying() {
            return;
        }
        self.overlays.remove(&leave.overlay_id);
        self.last_active = Instant::now();
        if self.overlays.is_empty() {
            self.plan_rest(context);
        }
    }
}

impl Handler<CloseOverlays> for SessionActor {
    type Result = ();

    fn handle(&mut self, CloseOverlays(close): CloseOverlays, _: &mut Self::Context) {
        if is_dying() {
            return;
        }
        self.close_overlays(close, |_| true);
    }
}

impl Handler<CountOverlays> for SessionActor {
    type Result = usize;

    fn handle(&mut self, _: CountOverlays, _: &mut Self::Context) -> usize {
        if is_dying() {
            return 0;
        }
        self.overlays.len()
    }
}

impl Handler<HelloAll> for SessionActor {
    type Result = ();

    fn handle(&mut self, _: HelloAll, _: &mut Context<Self>) {
        if is_dying() {
            return;
        }
        if let Some(state) = &self.state {
            self.broadcast(&self.hello(state));
        }
    }
}

impl Handler<CloseShare> for SessionActor {
    type Result = ();

    fn handle(&mut self, CloseShare { close, share, shares }: CloseShare, _: &mut Context<Self>) {
        if is_dying() {
            return;
        }
        for (id, overlay) in &self.overlays {
            let ours = id.as_u64_pair().1 % shares.max(1) == share;
            if ours {
                overlay.outbox.close(close);
            }
        }
    }
}
