//! What an instance does when it is told to stop.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::actors::outbox::Close;
use crate::actors::publish;
use crate::actors::services::{ForRedis, Services};
use crate::actors::session::CloseShare;

/// The share of the drain time in which overlays are closed; the rest is for what is under way.
const CLOSING_SHARE: f64 = 0.6;
/// Between two shares of overlays.
const STEP: Duration = Duration::from_millis(100);
/// The share in which all sessions are let go of.
const LEAVING_SHARE: f64 = 0.1;

/// Closes all overlays, spread over time so that they do not all come to the other instances at once.
pub(super) async fn close_overlays(services: Arc<Services>) {
    let closing = services.options.drain.mul_f64(CLOSING_SHARE);
    let shares = (closing.as_millis() / STEP.as_millis()).clamp(1, 1 << 16) as u64;
    let began = Instant::now();
    for share in 0..shares {
        let seated = services
            .directory
            .sessions()
            .into_iter()
            .filter(|(_, handle)| handle.address.connected() && handle.seats.load(Ordering::Acquire) > 0);
        let mut any = false;
        for (streamer_id, handle) in seated {
            any = true;
            if handle.address.try_send(CloseShare { close: Close::Draining, share, shares }).is_err() {
                tracing::debug!(%streamer_id, "a session actor is too busy to close overlays; they will notice");
            }
        }
        if !any {
            return;
        }
        tokio::time::sleep_until(began + STEP * (share as u32 + 1)).await;
    }
}

/// Lets go of everything that this instance holds.
pub(super) async fn leave(services: Arc<Services>) {
    let leaving = services.options.drain.mul_f64(LEAVING_SHARE);
    match tokio::time::timeout(leaving, services.journal.leave()).await {
        Ok(Ok(holders)) if services.hot.is_up() => {
            publish::write(&services, ForRedis { holders, ..ForRedis::default() }).await;
        }
        // Redis is told by whoever sweeps.
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "sessions could not be released; the lease will lapse"),
        Err(_) => tracing::warn!("sessions could not be released in time; the lease will lapse"),
    }
}
