//! The types of subscriptions, <https://dev.twitch.tv/docs/eventsub/eventsub-subscription-types/>.

pub(super) const BROADCASTER: &str = "broadcaster_user_id";
pub(super) const USER: &str = "user_id";
pub(super) const CLIENT: &str = "client_id";

/// A type of subscription.
#[derive(Debug)]
pub struct Kind {
    pub name: &'static str,
    pub version: &'static str,
    /// What the condition must hold; by the first, events find it.
    pub(super) required: &'static [&'static str],
    /// What the condition may hold.
    pub(super) optional: &'static [&'static str],
    pub(super) is_chat: bool,
}

/// A type about a chat, read as a user.
const fn of_chat(name: &'static str) -> Kind {
    Kind { name, version: "1", required: &[BROADCASTER, USER], optional: &[], is_chat: true }
}

/// A type about a channel, which needs nobody's leave.
const fn of_channel(name: &'static str) -> Kind {
    Kind { name, version: "1", required: &[BROADCASTER], optional: &[], is_chat: false }
}

/// A type about the application itself.
const fn of_client(name: &'static str, optional: &'static [&'static str]) -> Kind {
    Kind { name, version: "1", required: &[CLIENT], optional, is_chat: false }
}

/// The types that there are here.
pub static KINDS: [Kind; 10] = [
    of_chat("channel.chat.message"),
    of_chat("channel.chat.message_delete"),
    of_chat("channel.chat.clear_user_messages"),
    of_chat("channel.chat.clear"),
    of_channel("channel.shared_chat.begin"),
    of_channel("channel.shared_chat.end"),
    of_channel("stream.online"),
    of_channel("stream.offline"),
    of_client("user.authorization.revoke", &[]),
    of_client("conduit.shard.disabled", &["conduit_id"]),
];
