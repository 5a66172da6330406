//! The demo's chat: what viewers write, said on the simulated Twitch.

use std::time::{Duration, Instant};

use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};

use crate::twitch::eventsub::CHANNEL_CHAT_MESSAGE;
use crate::twitch::simulator::plan::Plan;
use crate::twitch::simulator::platform::Platform;
use crate::twitch::simulator::{Options, SimulatorError};

/// How often the plan is asked what is due.
const PACE: Duration = Duration::from_millis(20);

/// Has viewers write until nobody waits for it any more. Who subscribed to a chat hears of it.
///
/// # Errors
/// [`SimulatorError`] before anything is written, when the options can't be used.
pub async fn run(platform: &Platform, options: &Options) -> Result<(), SimulatorError> {
    let mut plan = Plan::new(options, OffsetDateTime::now_utc())?;
    let started = Instant::now();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        pace.tick().await;
        while let Some(planned) = plan.next_due(started.elapsed(), OffsetDateTime::now_utc()) {
            let written = planned.notification;
            let Ok(body) = serde_json::from_slice::<Value>(&written.body) else { continue };
            platform.deliver(CHANNEL_CHAT_MESSAGE, &body["event"], &written.broadcaster_user_id);
        }
    }
}
