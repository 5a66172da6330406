//! Twitch, and what happens in its chats.

use std::time::Duration;

use crate::settings::reader::Reader;
use crate::settings::values::{self, WebUrl};
use crate::settings::{Needs, Secret};

/// Twitch.
#[derive(Clone, Debug)]
pub struct Twitch {
    pub transport: Transport,
    pub client_id: Option<String>,
    pub client_secret: Option<Secret<String>>,
    pub webhook_secret: Option<Secret<String>>,
    pub webhook_secret_previous: Option<Secret<String>>,
    pub bot_user_id: Option<String>,
    pub helix_url: WebUrl,
    pub oauth_url: WebUrl,
    pub eventsub_url: WebUrl,
    pub conduit_shards: u32,
    /// How long a chat's subscriptions are kept after its session has ended.
    pub keep: Duration,
    /// What one call of Twitch may take.
    pub timeout: Duration,
}

/// How notifications arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Webhook,
    Websocket,
}

impl Twitch {
    pub(super) fn read(from: &mut Reader) -> Self {
        let transports = [("webhook", Transport::Webhook), ("websocket", Transport::Websocket)];
        let transport = from.choice("twitch.transport", transports);
        Twitch {
            transport,
            client_id: from.optional("twitch.client_id", values::twitch_id),
            client_secret: from.optional("twitch.client_secret", values::client_secret),
            webhook_secret: match transport {
                Transport::Webhook => {
                    let hint = "10 to 100 ASCII characters, the same for all instances";
                    from.required("twitch.webhook_secret", Needs::Everything, hint, values::webhook_secret)
                }
                Transport::Websocket => from.optional("twitch.webhook_secret", values::webhook_secret),
            },
            webhook_secret_previous: from.optional("twitch.webhook_secret_previous", values::webhook_secret),
            bot_user_id: from.optional("twitch.bot_user_id", values::twitch_id),
            helix_url: from.optional("twitch.helix_url", values::http_url).unwrap_or_default(),
            oauth_url: from.optional("twitch.oauth_url", values::http_url).unwrap_or_default(),
            eventsub_url: from.optional("twitch.eventsub_url", values::socket_url).unwrap_or_default(),
            conduit_shards: from.number("twitch.conduit_shards", 1..=20_000),
            keep: from.seconds("twitch.keep_seconds", 0..=86_400),
            timeout: from.millis("twitch.timeout_ms", 100..=60_000),
        }
    }

    /// The secrets that a notification may be signed with, the current one first. None accept none.
    pub fn webhook_secrets(&self) -> impl Iterator<Item = &Secret<String>> {
        self.webhook_secret.iter().chain(&self.webhook_secret_previous)
    }
}

/// Who votes in chat, and what the bot says there.
#[derive(Clone, Debug)]
pub struct Chat {
    /// Logins and user ids, beside well-known bots.
    pub ignored_users: Vec<String>,
    /// Counts votes of messages that a shared chat brings from other channels, too.
    pub count_shared: bool,
    /// Takes back votes of messages that were deleted, and of users who were banned or timed out.
    pub retract_votes: bool,
    pub replies_per_30_seconds: u32,
    /// A live stream's chat in which nothing was heard for so long is silent.
    pub silent_after: Duration,
}

impl Chat {
    pub(super) fn read(from: &mut Reader) -> Self {
        Chat {
            ignored_users: from.list("chat.ignored_users", values::chat_user),
            retract_votes: from.choice("chat.retract_votes", [("no", false), ("yes", true)]),
            count_shared: from.choice("chat.count_shared", [("no", false), ("yes", true)]),
            replies_per_30_seconds: from.number("chat.replies_per_30_seconds", 1..=100),
            silent_after: from.seconds("chat.silent_after_seconds", 1..=86_400),
        }
    }
}
