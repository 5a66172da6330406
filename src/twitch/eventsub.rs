//! What Twitch says: the bodies of verified EventSub messages.
//!
//! Lenient on purpose. Only the fields used are read, borrowed from the body where the JSON holds no
//! escapes; Twitch adds fields, fragment types, message types and statuses without a new version, and
//! none of that may lose a vote. What decides is the body, because the headers that repeat it are not
//! signed. Shapes: <https://dev.twitch.tv/docs/eventsub/eventsub-subscription-types/> and, for conduit
//! shards, <https://dev.twitch.tv/docs/eventsub/handling-conduit-events/#verifying-a-conduit>.

mod wire;

use std::borrow::Cow;

use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::wire::{
    ChatEnvelope, Envelope, ModerationEnvelope, StreamEnvelope, Text, UserEnvelope, WireBadge, WireFragment,
    WireSubscription,
};
use super::signature::{MessageType, Verified};
use crate::domain::stream::{Stream, StreamSeen};
use crate::domain::time::Millis;
use crate::domain::trigger::{Fragment, FragmentKind};

/// The subscription type of chat messages.
pub const CHANNEL_CHAT_MESSAGE: &str = "channel.chat.message";

const MESSAGE_DELETED: &str = "channel.chat.message_delete";
const USER_CLEARED: &str = "channel.chat.clear_user_messages";
const CHAT_CLEARED: &str = "channel.chat.clear";
const STREAM_ONLINE: &str = "stream.online";
const STREAM_OFFLINE: &str = "stream.offline";
/// The subscription type of users who withdraw their authorization.
pub const USER_AUTHORIZATION_REVOKE: &str = "user.authorization.revoke";
/// The subscription type of shards that were disabled.
pub const CONDUIT_SHARD_DISABLED: &str = "conduit.shard.disabled";

/// The status of a subscription that lives. A revocation can't carry it.
const STATUS_ENABLED: &str = "enabled";
/// Bytes of an id at most. Twitch's have up to 36; the journal takes 64.
const ID_BYTES_MAX: usize = 64;

/// What a verified message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Answer with exactly this text to prove that the callback is ours.
    Challenge(Cow<'a, str>),
    /// Twitch ended a subscription.
    Revocation(Revocation<'a>),
    /// Somebody wrote in a chat.
    ChatMessage(ChatMessage<'a>),
    /// A moderator has deleted a message.
    MessageDeleted { broadcaster_user_id: Cow<'a, str>, message_id: Cow<'a, str> },
    /// A user was banned or timed out, and their messages were deleted.
    UserCleared {
        broadcaster_user_id: Cow<'a, str>,
        user_id: Cow<'a, str>,
        /// In lower case; empty where Twitch does not say it.
        user_login: Cow<'a, str>,
    },
    /// What a chat shows was cleared. It deletes no message.
    ChatCleared { broadcaster_user_id: Cow<'a, str> },
    /// A stream has begun or ended.
    StreamChanged { broadcaster_user_id: Cow<'a, str>, seen: StreamSeen },
    /// Something happened in a chat that changes no vote.
    ChatEvent,
    /// A user has withdrawn the authorization of the application, or has been removed.
    AuthorizationRevoked { user_id: Cow<'a, str> },
    /// A shard of a conduit was disabled.
    ShardDisabled,
    /// A message or a subscription of a type that nobody here asked for.
    Unknown {
        /// The subscription's type, empty when there is none.
        subscription_type: Cow<'a, str>,
    },
}

/// A subscription that Twitch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation<'a> {
    pub subscription_id: Cow<'a, str>,
    pub subscription_type: Cow<'a, str>,
    /// Why, e.g. `authorization_revoked`. New values come without notice: each means that the
    /// subscription is dead.
    pub status: Cow<'a, str>,
    /// Whose channel it was for, where the subscription's condition says so.
    pub broadcaster_user_id: Option<Cow<'a, str>>,
}

/// One message in a chat. All ids have 1 to 64 bytes and no control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage<'a> {
    /// The channel whose chat shows the message.
    pub broadcaster_user_id: Cow<'a, str>,
    pub chatter_user_id: Cow<'a, str>,
    /// In lower case; empty where Twitch does not say it.
    pub chatter_user_login: Cow<'a, str>,
    /// As it is shown; empty where Twitch does not say it.
    pub chatter_user_name: Cow<'a, str>,
    /// The chat message's own id: the same in each notification about it.
    pub message_id: Cow<'a, str>,
    /// The whole text; may be empty (a GIF alone).
    pub text: Cow<'a, str>,
    /// In a shared chat, the channel in which it was written, if that is another one.
    pub source_broadcaster_user_id: Option<Cow<'a, str>>,
    fragments: Vec<WireFragment<'a>>,
    /// JSON that is read when somebody asks: nearly no message needs it.
    badges: Option<&'a str>,
}

/// A genuine message whose shape is not the documented one.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    #[error("the body is not JSON of the documented shape: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the body has no {0}")]
    Missing(&'static str),
    #[error("{0} must have 1 to {ID_BYTES_MAX} bytes and no control characters")]
    Id(&'static str),
    #[error("a revocation of a subscription that is enabled")]
    RevokedButEnabled,
}

/// Reads what `verified` says.
///
/// # Errors
/// [`ShapeError`] when the body is not what Twitch documents for its type. Sending it again would not
/// help, so the sender should not hear of it.
pub fn parse<'a>(verified: &Verified<'a>) -> Result<Message<'a>, ShapeError> {
    parse_body(verified.message_type(), verified.body())
}

/// Reads a notification that came over a connection to Twitch of our own: it is not signed.
///
/// # Errors
/// [`ShapeError`] as for [`parse`].
pub fn parse_notification(body: &[u8]) -> Result<Message<'_>, ShapeError> {
    parse_body(MessageType::Notification, body)
}

/// Reads a revocation that came over a connection to Twitch of our own: it is not signed.
///
/// # Errors
/// [`ShapeError`] as for [`parse`].
pub fn parse_revocation(body: &[u8]) -> Result<Message<'_>, ShapeError> {
    parse_body(MessageType::Revocation, body)
}

fn parse_body(message_type: MessageType, body: &[u8]) -> Result<Message<'_>, ShapeError> {
    let envelope: Envelope = serde_json::from_slice(body)?;
    let subscription = envelope.subscription.unwrap_or_default();
    match message_type {
        MessageType::Challenge => {
            let Text(challenge) = envelope.challenge.ok_or(ShapeError::Missing("challenge"))?;
            Ok(Message::Challenge(challenge))
        }
        MessageType::Revocation => subscription.revocation().map(Message::Revocation),
        MessageType::Notification => match subscription.kind {
            None => Err(ShapeError::Missing("subscription.type")),
            Some(Text(kind)) => notification(kind, body),
        },
        MessageType::Other => Ok(Message::Unknown { subscription_type: text(subscription.kind) }),
    }
}

fn notification<'a>(kind: Cow<'a, str>, body: &'a [u8]) -> Result<Message<'a>, ShapeError> {
    match kind.as_ref() {
        CHANNEL_CHAT_MESSAGE => chat_message(body).map(Message::ChatMessage),
        MESSAGE_DELETED => message_deleted(body),
        USER_CLEARED => user_cleared(body),
        CHAT_CLEARED => chat_cleared(body),
        STREAM_ONLINE => stream_online(body),
        STREAM_OFFLINE => stream_offline(body),
        "channel.shared_chat.begin" | "channel.shared_chat.end" => Ok(Message::ChatEvent),
        USER_AUTHORIZATION_REVOKE => authorization_revoked(body),
        CONDUIT_SHARD_DISABLED => Ok(Message::ShardDisabled),
        _ => Ok(Message::Unknown { subscription_type: kind }),
    }
}

impl<'a> ChatMessage<'a> {
    /// The sets of the chatter's badges in this channel, such as `moderator`; none where they can't be read.
    pub fn badges(&self) -> Vec<Cow<'a, str>> {
        let badges: Vec<WireBadge> =
            self.badges.and_then(|badges| serde_json::from_str(badges).ok()).unwrap_or_default();
        badges.into_iter().filter_map(|badge| badge.set_id).map(|Text(set)| set).collect()
    }

    /// The pieces of the message, as triggers are matched against them.
    pub fn fragments(&self) -> Vec<Fragment<'_>> {
        self.fragments.iter().map(WireFragment::as_domain).collect()
    }
}

impl<'a> WireSubscription<'a> {
    fn revocation(self) -> Result<Revocation<'a>, ShapeError> {
        let Text(subscription_id) = self.id.ok_or(ShapeError::Missing("subscription.id"))?;
        let status = text(self.status);
        if status == STATUS_ENABLED {
            // The message type is not signed: a notification sent again as a revocation ends here.
            return Err(ShapeError::RevokedButEnabled);
        }
        let broadcaster_user_id = self.condition.and_then(|condition| condition.broadcaster_user_id);
        Ok(Revocation {
            subscription_id: id(Text(subscription_id), "subscription.id")?,
            subscription_type: text(self.kind),
            status,
            broadcaster_user_id: broadcaster_user_id.map(|Text(id)| id),
        })
    }
}

impl WireFragment<'_> {
    fn as_domain(&self) -> Fragment<'_> {
        let kind = match self.kind.as_ref().map(|Text(kind)| kind.as_ref()) {
            Some("text") => FragmentKind::Text,
            Some("emote") => FragmentKind::Emote,
            _ => FragmentKind::Other,
        };
        Fragment { kind, text: self.text.as_ref().map_or("", |Text(text)| text) }
    }
}

fn message_deleted(body: &[u8]) -> Result<Message<'_>, ShapeError> {
    let ModerationEnvelope { event } = serde_json::from_slice(body)?;
    let message_id = event.message_id.ok_or(ShapeError::Missing("event.message_id"))?;
    Ok(Message::MessageDeleted {
        broadcaster_user_id: id(event.broadcaster_user_id, "event.broadcaster_user_id")?,
        message_id: id(message_id, "event.message_id")?,
    })
}

fn user_cleared(body: &[u8]) -> Result<Message<'_>, ShapeError> {
    let ModerationEnvelope { event } = serde_json::from_slice(body)?;
    let user_id = event.target_user_id.ok_or(ShapeError::Missing("event.target_user_id"))?;
    Ok(Message::UserCleared {
        broadcaster_user_id: id(event.broadcaster_user_id, "event.broadcaster_user_id")?,
        user_id: id(user_id, "event.target_user_id")?,
        user_login: text(event.target_user_login),
    })
}

fn chat_cleared(body: &[u8]) -> Result<Message<'_>, ShapeError> {
    let ModerationEnvelope { event } = serde_json::from_slice(body)?;
    let broadcaster_user_id = id(event.broadcaster_user_id, "event.broadcaster_user_id")?;
    Ok(Message::ChatCleared { broadcaster_user_id })
}

/// A rerun, a premiere or a watch party is no stream whose chat is about it: as in Twitch's list of streams, only what
/// is live counts.
fn stream_online(body: &[u8]) -> Result<Message<'_>, ShapeError> {
    let StreamEnvelope { event } = serde_json::from_slice(body)?;
    if text(event.kind) != "live" {
        return Ok(Message::ChatEvent);
    }
    let stream_id = event.id.ok_or(ShapeError::Missing("event.id"))?;
    let started_at = OffsetDateTime::parse(&text(event.started_at), &Rfc3339);
    let started_at = started_at.map_err(|_| ShapeError::Missing("event.started_at"))?;
    Ok(Message::StreamChanged {
        broadcaster_user_id: id(event.broadcaster_user_id, "event.broadcaster_user_id")?,
        seen: StreamSeen::Live(Stream {
            id: id(stream_id, "event.id")?.into_owned(),
            // Whole milliseconds of any time that can be written fit.
            started_at: Millis((started_at.unix_timestamp_nanos() / 1_000_000) as i64),
        }),
    })
}

fn stream_offline(body: &[u8]) -> Result<Message<'_>, ShapeError> {
    let StreamEnvelope { event } = serde_json::from_slice(body)?;
    let stream_id = event.id.map(|stream_id| id(stream_id, "event.id")).transpose()?;
    Ok(Message::StreamChanged {
        broadcaster_user_id: id(event.broadcaster_user_id, "event.broadcaster_user_id")?,
        seen: StreamSeen::Offline { stream_id: stream_id.map(Cow::into_owned) },
    })
}

fn authorization_revoked(body: &[u8]) -> Result<Message<'_>, ShapeError> {
    let UserEnvelope { event } = serde_json::from_slice(body)?;
    Ok(Message::AuthorizationRevoked { user_id: id(event.user_id, "event.user_id")? })
}

fn chat_message(body: &[u8]) -> Result<ChatMessage<'_>, ShapeError> {
    let ChatEnvelope { event } = serde_json::from_slice(body)?;
    let source = event.source_broadcaster_user_id;
    Ok(ChatMessage {
        broadcaster_user_id: id(event.broadcaster_user_id, "event.broadcaster_user_id")?,
        chatter_user_id: id(event.chatter_user_id, "event.chatter_user_id")?,
        message_id: id(event.message_id, "event.message_id")?,
        text: text(event.message.text),
        source_broadcaster_user_id: source
            .map(|source| id(source, "event.source_broadcaster_user_id"))
            .transpose()?,
        chatter_user_login: text(event.chatter_user_login),
        chatter_user_name: text(event.chatter_user_name),
        fragments: event.message.fragments.unwrap_or_default(),
        badges: event.badges.map(RawValue::get),
    })
}

fn text(text: Option<Text<'_>>) -> Cow<'_, str> {
    text.map(|Text(text)| text).unwrap_or_default()
}

fn id<'a>(Text(id): Text<'a>, field: &'static str) -> Result<Cow<'a, str>, ShapeError> {
    let fits = !id.is_empty() && id.len() <= ID_BYTES_MAX && !id.chars().any(char::is_control);
    if fits { Ok(id) } else { Err(ShapeError::Id(field)) }
}

#[cfg(test)]
#[path = "eventsub_tests.rs"]
mod tests;
