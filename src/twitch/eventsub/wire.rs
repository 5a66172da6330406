//! The shapes of messages as Twitch sends them: only what is used, and most of it optional.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// The parts that every message may have. Read first, in a pass that skips the event, because the
/// subscription's type decides what the event is.
#[derive(Deserialize)]
pub(super) struct Envelope<'a> {
    #[serde(borrow, default)]
    pub(super) challenge: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) subscription: Option<WireSubscription<'a>>,
}

#[derive(Default, Deserialize)]
pub(super) struct WireSubscription<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow, default, rename = "type")]
    pub(super) kind: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) status: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) condition: Option<WireCondition<'a>>,
}

#[derive(Deserialize)]
pub(super) struct WireCondition<'a> {
    #[serde(borrow, default)]
    pub(super) broadcaster_user_id: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct ModerationEnvelope<'a> {
    #[serde(borrow)]
    pub(super) event: WireModeration<'a>,
}

#[derive(Deserialize)]
pub(super) struct WireModeration<'a> {
    #[serde(borrow)]
    pub(super) broadcaster_user_id: Text<'a>,
    #[serde(borrow, default)]
    pub(super) target_user_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) target_user_login: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) message_id: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct StreamEnvelope<'a> {
    #[serde(borrow)]
    pub(super) event: WireStream<'a>,
}

#[derive(Deserialize)]
pub(super) struct WireStream<'a> {
    #[serde(borrow)]
    pub(super) broadcaster_user_id: Text<'a>,
    #[serde(borrow, default)]
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow, default, rename = "type")]
    pub(super) kind: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) started_at: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct UserEnvelope<'a> {
    #[serde(borrow)]
    pub(super) event: WireUserEvent<'a>,
}

#[derive(Deserialize)]
pub(super) struct WireUserEvent<'a> {
    #[serde(borrow)]
    pub(super) user_id: Text<'a>,
}

#[derive(Deserialize)]
pub(super) struct ChatEnvelope<'a> {
    #[serde(borrow)]
    pub(super) event: WireChatEvent<'a>,
}

#[derive(Deserialize)]
pub(super) struct WireChatEvent<'a> {
    #[serde(borrow)]
    pub(super) broadcaster_user_id: Text<'a>,
    #[serde(borrow)]
    pub(super) chatter_user_id: Text<'a>,
    #[serde(borrow, default)]
    pub(super) chatter_user_login: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) chatter_user_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) message_id: Text<'a>,
    #[serde(borrow)]
    pub(super) message: WireChatText<'a>,
    #[serde(borrow, default)]
    pub(super) badges: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) source_broadcaster_user_id: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct WireBadge<'a> {
    #[serde(borrow, default)]
    pub(super) set_id: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct WireChatText<'a> {
    #[serde(borrow, default)]
    pub(super) text: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) fragments: Option<Vec<WireFragment<'a>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct WireFragment<'a> {
    #[serde(borrow, default, rename = "type")]
    pub(super) kind: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) text: Option<Text<'a>>,
}

/// A string that borrows from the JSON unless it has escapes. (`Cow` inside an `Option` would always
/// be copied.)
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);
