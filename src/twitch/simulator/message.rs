//! A chat message in the full shape that Twitch documents for `channel.chat.message` version 1:
//! <https://dev.twitch.tv/docs/eventsub/eventsub-subscription-types/#channelchatmessage>.

use serde::Serialize;

use super::chatter::Piece;
use super::crowd::Person;
use crate::twitch::eventsub::CHANNEL_CHAT_MESSAGE;

/// The account that reads the chats.
const BOT_USER_ID: &str = "900000001";
const CONDUIT_ID: &str = "3f1c2a87-161a-49f9-a165-0f21d7a4e1c4";
const SUBSCRIBED_AT: &str = "2026-01-01T00:00:00.492253549Z";

/// What the body tells, before it takes Twitch's shape.
pub(super) struct Told<'a> {
    pub subscription_id: &'a str,
    pub channel: &'a Person,
    pub chatter: &'a Person,
    pub message_id: &'a str,
    pub text: &'a str,
    pub pieces: &'a [Piece],
    pub color: &'a str,
    pub badges: &'a [Badge],
    pub message_type: &'a str,
    pub reply: Option<&'a ReplyTo>,
    /// In a shared chat, the channel where it was written.
    pub source: Option<&'a Person>,
}

/// The message that is replied to.
#[derive(Clone, Debug)]
pub(super) struct ReplyTo {
    pub message_id: String,
    pub text: String,
    pub author: Person,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Badge {
    pub set_id: &'static str,
    pub id: &'static str,
    pub info: &'static str,
}

/// The body as JSON.
pub(super) fn body(told: &Told<'_>) -> Vec<u8> {
    // Strings and numbers under string keys always serialise.
    serde_json::to_vec(&Body { subscription: subscription(told), event: event(told) }).unwrap_or_default()
}

#[derive(Serialize)]
struct Body<'a> {
    subscription: Subscription<'a>,
    event: Event<'a>,
}

#[derive(Serialize)]
struct Subscription<'a> {
    id: &'a str,
    status: &'static str,
    r#type: &'static str,
    version: &'static str,
    condition: Condition<'a>,
    transport: Transport,
    created_at: &'static str,
    cost: u32,
}

#[derive(Serialize)]
struct Condition<'a> {
    broadcaster_user_id: &'a str,
    user_id: &'static str,
}

#[derive(Serialize)]
struct Transport {
    method: &'static str,
    conduit_id: &'static str,
}

#[derive(Serialize)]
struct Event<'a> {
    broadcaster_user_id: &'a str,
    broadcaster_user_login: &'a str,
    broadcaster_user_name: &'a str,
    chatter_user_id: &'a str,
    chatter_user_login: &'a str,
    chatter_user_name: &'a str,
    message_id: &'a str,
    message: Message<'a>,
    color: &'a str,
    badges: &'a [Badge],
    message_type: &'a str,
    cheer: Option<Cheer>,
    reply: Option<Reply<'a>>,
    channel_points_custom_reward_id: Option<&'a str>,
    source_broadcaster_user_id: Option<&'a str>,
    source_broadcaster_user_login: Option<&'a str>,
    source_broadcaster_user_name: Option<&'a str>,
    source_message_id: Option<&'a str>,
    source_badges: Option<&'a [Badge]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_source_only: Option<bool>,
}

#[derive(Serialize)]
struct Message<'a> {
    text: &'a str,
    fragments: Vec<Fragment<'a>>,
}

#[derive(Serialize)]
struct Fragment<'a> {
    r#type: &'static str,
    text: String,
    cheermote: Option<Cheermote>,
    emote: Option<Emote<'a>>,
    mention: Option<Mention<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gif: Option<Gif>,
}

#[derive(Serialize)]
struct Cheer {
    bits: u32,
}

#[derive(Serialize)]
struct Cheermote {
    prefix: &'static str,
    bits: u32,
    tier: u32,
}

#[derive(Serialize)]
struct Emote<'a> {
    id: &'a str,
    emote_set_id: &'static str,
    owner_id: &'static str,
    format: [&'static str; 1],
}

#[derive(Serialize)]
struct Mention<'a> {
    user_id: &'a str,
    user_name: &'a str,
    user_login: &'a str,
}

/// Documented as `gif_id`, sent as `id`: live messages have the latter.
#[derive(Serialize)]
struct Gif {
    id: &'static str,
    url: String,
}

#[derive(Serialize)]
struct Reply<'a> {
    parent_message_id: &'a str,
    parent_message_body: &'a str,
    parent_user_id: &'a str,
    parent_user_name: &'a str,
    parent_user_login: &'a str,
    thread_message_id: &'a str,
    thread_user_id: &'a str,
    thread_user_name: &'a str,
    thread_user_login: &'a str,
}

fn subscription<'a>(told: &Told<'a>) -> Subscription<'a> {
    Subscription {
        id: told.subscription_id,
        status: "enabled",
        r#type: CHANNEL_CHAT_MESSAGE,
        version: "1",
        condition: Condition { broadcaster_user_id: &told.channel.id, user_id: BOT_USER_ID },
        transport: Transport { method: "conduit", conduit_id: CONDUIT_ID },
        created_at: SUBSCRIBED_AT,
        cost: 0,
    }
}

fn event<'a>(told: &Told<'a>) -> Event<'a> {
    let cheer = told.pieces.iter().find_map(|piece| match piece {
        Piece::Cheer { bits } => Some(Cheer { bits: *bits }),
        _ => None,
    });
    Event {
        broadcaster_user_id: &told.channel.id,
        broadcaster_user_login: &told.channel.login,
        broadcaster_user_name: &told.channel.name,
        chatter_user_id: &told.chatter.id,
        chatter_user_login: &told.chatter.login,
        chatter_user_name: &told.chatter.name,
        message_id: told.message_id,
        message: Message { text: told.text, fragments: told.pieces.iter().map(fragment).collect() },
        color: told.color,
        badges: told.badges,
        message_type: told.message_type,
        cheer,
        reply: told.reply.map(reply),
        channel_points_custom_reward_id: None,
        source_broadcaster_user_id: told.source.map(|source| source.id.as_str()),
        source_broadcaster_user_login: told.source.map(|source| source.login.as_str()),
        source_broadcaster_user_name: told.source.map(|source| source.name.as_str()),
        source_message_id: told.source.map(|_| told.message_id),
        source_badges: told.source.map(|_| told.badges),
        is_source_only: told.source.map(|_| false),
    }
}

fn fragment(piece: &Piece) -> Fragment<'_> {
    let mut fragment = Fragment {
        r#type: "text",
        text: piece.text(),
        cheermote: None,
        emote: None,
        mention: None,
        gif: None,
    };
    match piece {
        Piece::Text(_) => {}
        Piece::Emote { id, .. } => {
            fragment.r#type = "emote";
            fragment.emote = Some(Emote { id, emote_set_id: "0", owner_id: "0", format: ["static"] });
        }
        Piece::Mention(person) => {
            fragment.r#type = "mention";
            fragment.mention =
                Some(Mention { user_id: &person.id, user_name: &person.name, user_login: &person.login });
        }
        Piece::Cheer { bits } => {
            fragment.r#type = "cheermote";
            fragment.cheermote = Some(Cheermote { prefix: "cheer", bits: *bits, tier: (*bits).min(100) });
        }
        Piece::Gif { id, .. } => {
            fragment.r#type = "gif";
            fragment.gif = Some(Gif { id, url: format!("https://media4.giphy.com/media/{id}/giphy.gif") });
        }
    }
    fragment
}

fn reply(parent: &ReplyTo) -> Reply<'_> {
    Reply {
        parent_message_id: &parent.message_id,
        parent_message_body: &parent.text,
        parent_user_id: &parent.author.id,
        parent_user_name: &parent.author.name,
        parent_user_login: &parent.author.login,
        thread_message_id: &parent.message_id,
        thread_user_id: &parent.author.id,
        thread_user_name: &parent.author.name,
        thread_user_login: &parent.author.login,
    }
}
