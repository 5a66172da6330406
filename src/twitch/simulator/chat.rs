//! Chat on a platform of our own: what viewers write there by themselves.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::plan::Plan;
use super::platform::{Account, Platform};
use super::{Options, SimulatorError};
use crate::twitch::eventsub::CHANNEL_CHAT_MESSAGE;

/// How often the plan is asked what is due.
const PACE: Duration = Duration::from_millis(20);
/// How often it is looked which chats somebody reads.
const LOOK: Duration = Duration::from_secs(1);
/// Messages written in one go, so that others get their turn.
const BATCH_MAX: usize = 1_000;

/// Has viewers write in the channels of `options` until nobody waits for it any more. Who subscribed to a
/// chat hears of it. Target and secret of `options` are not used: the platform sends and signs by itself.
///
/// # Errors
/// [`SimulatorError`] before anything is written, when the options can't be used.
pub async fn run(platform: &Platform, options: &Options) -> Result<(), SimulatorError> {
    let mut chat = Chat::new(platform, options)?;
    let mut pace = every(PACE);
    loop {
        pace.tick().await;
        chat.say_due(platform);
    }
}

/// The same, but in every channel whose chat somebody has subscribed to, as long as the subscription lasts;
/// the rate is over all of them.
///
/// # Errors
/// As [`run`].
pub async fn run_where_read(platform: &Platform, options: &Options) -> Result<(), SimulatorError> {
    options.check()?;
    let mut chat: Option<Chat> = None;
    let mut channels = Vec::new();
    let (mut pace, mut looks) = (every(PACE), every(LOOK));
    loop {
        tokio::select! {
            _ = looks.tick() => {
                let read = read_channels(platform);
                if read != channels {
                    chat = chat_in(&read, platform, options)?;
                    channels = read;
                }
            }
            _ = pace.tick() => {
                if let Some(chat) = &mut chat {
                    chat.say_due(platform);
                }
            }
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// The channels whose chat somebody has subscribed to, by id.
fn read_channels(platform: &Platform) -> Vec<String> {
    let subscriptions = platform.subscriptions().into_iter();
    let chats = subscriptions.filter(|one| one.kind == CHANNEL_CHAT_MESSAGE && one.status == "enabled");
    let ids: BTreeSet<String> =
        chats.filter_map(|mut chat| chat.condition.remove("broadcaster_user_id")).collect();
    ids.into_iter().collect()
}

fn chat_in(
    channels: &[String],
    platform: &Platform,
    options: &Options,
) -> Result<Option<Chat>, SimulatorError> {
    if channels.is_empty() {
        return Ok(None);
    }
    let (broadcaster_ids, channels) = (channels.to_vec(), channels.len() as u64);
    Chat::new(platform, &Options { broadcaster_ids, channels, ..options.clone() }).map(Some)
}

/// Viewers who write by a plan.
struct Chat {
    plan: Plan,
    started: Instant,
    /// Those with an account when it began, by id: the generator knows no names of real channels.
    accounts: HashMap<String, Account>,
}

impl Chat {
    fn new(platform: &Platform, options: &Options) -> Result<Chat, SimulatorError> {
        let accounts = platform.users().into_iter().map(|account| (account.id.clone(), account)).collect();
        let plan = Plan::new(options, OffsetDateTime::now_utc())?;
        Ok(Chat { plan, started: Instant::now(), accounts })
    }

    /// Says what is due by now.
    fn say_due(&mut self, platform: &Platform) {
        let elapsed = self.started.elapsed();
        for _ in 0..BATCH_MAX {
            let Some(planned) = self.plan.next_due(elapsed, OffsetDateTime::now_utc()) else { return };
            let written = planned.notification;
            let Ok(mut body) = serde_json::from_slice::<Value>(&written.body) else { continue };
            let mut event = body["event"].take();
            if let Some(channel) = self.accounts.get(&written.broadcaster_user_id) {
                event["broadcaster_user_login"] = json!(channel.login);
                event["broadcaster_user_name"] = json!(channel.display_name);
            }
            platform.deliver(CHANNEL_CHAT_MESSAGE, &event, &written.broadcaster_user_id);
        }
    }
}
