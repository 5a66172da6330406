//! The calls of Twitch's API: users, streams, conduits and their shards, subscriptions, chat.
//!
//! Lenient where it reads: fields that are not used are ignored, those that may be missing may also be
//! null, and statuses are texts, since Twitch adds new ones without notice. What leaves something out that
//! we can't do without is [`TwitchError::Answer`]. All calls may fail with every [`TwitchError`] but `Setup`;
//! what is said below is what means something particular. <https://dev.twitch.tv/docs/api/reference/>.

mod shapes;

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use self::shapes::{
    SentShape, ShardShape, SubscriptionShape, all, first, list, live_streams, nothing, shard_errors,
};
use super::client::{Call, Client, TwitchError};
use super::oauth::AccessToken;
use crate::settings::Secret;

const CONDUITS: &str = "/eventsub/conduits";
const SHARDS: &str = "/eventsub/conduits/shards";
const SUBSCRIPTIONS: &str = "/eventsub/subscriptions";

/// The status of a shard or a subscription that delivers.
const STATUS_ENABLED: &str = "enabled";
/// How many users or streams one call takes; [`Client::streams`] asks for as many to a page.
const ITEMS_MAX: usize = 100;
/// Pages that are followed at most. A conduit's 20,000 shards fill 200.
const PAGES_MAX: usize = 1_000;

/// A user of Twitch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct User {
    pub id: String,
    /// The name in URLs, in small letters. It can change.
    pub login: String,
    /// The name as the user spells it; may be empty.
    #[serde(default, deserialize_with = "shapes::nullable")]
    pub display_name: String,
}

/// A stream that is live now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveStream {
    pub id: String,
    /// The broadcaster.
    pub user_id: String,
    pub started_at: OffsetDateTime,
}

/// A conduit: what subscriptions deliver into, spread over shards.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Conduit {
    pub id: String,
    pub shard_count: u32,
}

/// One of a conduit's ways to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// A number from 0, as text.
    pub id: String,
    /// `enabled`, or why not; empty when Twitch doesn't say.
    pub status: String,
    /// `webhook` or `websocket`.
    pub method: String,
    pub callback: Option<String>,
    pub session_id: Option<String>,
}

impl Shard {
    /// Whether notifications go through it. Every status that is not known means no.
    pub fn is_enabled(&self) -> bool {
        self.status == STATUS_ENABLED
    }
}

/// Where a shard delivers to.
#[derive(Clone, Debug)]
pub enum ShardTransport {
    /// `callback` is HTTPS on port 443; Twitch signs with `secret`, 10 to 100 ASCII characters.
    Webhook {
        callback: String,
        secret: Secret<String>,
    },
    Websocket {
        session_id: String,
    },
}

/// Why one shard of several was not updated.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ShardError {
    pub id: String,
    /// For people.
    #[serde(default, deserialize_with = "shapes::nullable")]
    pub message: String,
    #[serde(default, deserialize_with = "shapes::nullable")]
    pub code: String,
}

/// A subscription as Twitch has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub id: String,
    /// `enabled`, or why it is dead; empty when Twitch doesn't say.
    pub status: String,
    /// The type, e.g. `channel.chat.message`.
    pub kind: String,
    pub version: String,
    pub condition: BTreeMap<String, String>,
    /// Where it delivers to; `None` when that is no conduit.
    pub conduit_id: Option<String>,
    /// What it takes of the application's allowance.
    pub cost: u32,
    /// RFC 3339, with nanoseconds.
    pub created_at: String,
}

impl Subscription {
    /// Whether it delivers. Every status that is not known means no.
    pub fn is_enabled(&self) -> bool {
        self.status == STATUS_ENABLED
    }
}

/// A subscription to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSubscription {
    /// The type, e.g. `channel.chat.message`.
    pub kind: String,
    pub version: String,
    pub condition: BTreeMap<String, String>,
    pub conduit_id: String,
}

/// What became of a chat message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Empty when it was not sent.
    pub message_id: String,
    pub is_sent: bool,
    /// Why it was not sent, `code: message`: the chat's own rules, such as AutoMod's.
    pub drop_reason: Option<String>,
}

impl Client {
    /// The user whose token `access` is.
    pub async fn users_by_token(&self, access: &AccessToken) -> Result<User, TwitchError> {
        self.call(self.helix_call(Method::GET, "/users", &[], access)?, first).await
    }

    /// The users with these ids, in no order; those that don't exist (any more) are missing.
    pub async fn users(&self, access: &AccessToken, ids: &[String]) -> Result<Vec<User>, TwitchError> {
        let mut users = Vec::with_capacity(ids.len());
        for ids in ids.chunks(ITEMS_MAX) {
            let query: Vec<_> = ids.iter().map(|id| ("id", id.as_str())).collect();
            let call = self.helix_call(Method::GET, "/users", &query, access)?.of_app();
            users.append(&mut self.call(call, all::<User>).await?);
        }
        Ok(users)
    }

    /// Who of these users is live. Reruns and the like are no live streams.
    pub async fn streams(
        &self,
        access: &AccessToken,
        user_ids: &[String],
    ) -> Result<Vec<LiveStream>, TwitchError> {
        let mut streams = Vec::new();
        // No ids, no call: without them Twitch would list the streams of everybody.
        for ids in user_ids.chunks(ITEMS_MAX) {
            let call = self.streams_call(access, ids)?;
            streams.append(&mut self.call(call, live_streams).await?);
        }
        Ok(streams)
    }

    /// The application's conduits.
    pub async fn conduits(&self, access: &AccessToken) -> Result<Vec<Conduit>, TwitchError> {
        let call = self.helix_call(Method::GET, CONDUITS, &[], access)?.of_app();
        self.call(call, all).await
    }

    /// Makes a conduit with so many shards, none of which leads anywhere yet.
    ///
    /// # Errors
    /// [`TwitchError::Refused`] with 429 when the application has its five conduits already.
    pub async fn create_conduit(
        &self,
        access: &AccessToken,
        shard_count: u32,
    ) -> Result<Conduit, TwitchError> {
        let call = self.helix_call(Method::POST, CONDUITS, &[], access)?.of_app();
        self.call(call.json(&json!({ "shard_count": shard_count })), first).await
    }

    /// Changes how many shards a conduit has. With fewer, the last ones end.
    ///
    /// # Errors
    /// [`TwitchError::Refused`] with 404 when there is no such conduit of this application.
    pub async fn resize_conduit(
        &self,
        access: &AccessToken,
        conduit_id: &str,
        shard_count: u32,
    ) -> Result<Conduit, TwitchError> {
        let call = self.helix_call(Method::PATCH, CONDUITS, &[], access)?.of_app();
        self.call(call.json(&json!({ "id": conduit_id, "shard_count": shard_count })), first).await
    }

    /// All shards of a conduit that were ever given a transport.
    ///
    /// # Errors
    /// [`TwitchError::Refused`] with 404 when there is no such conduit of this application.
    pub async fn shards(&self, access: &AccessToken, conduit_id: &str) -> Result<Vec<Shard>, TwitchError> {
        let mut shards = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let query = paged(Some(("conduit_id", conduit_id)), after.as_deref());
            let call = self.helix_call(Method::GET, SHARDS, &query, access)?.of_app();
            let (page, next) = self.call(call, list::<ShardShape>).await?;
            shards.extend(page.into_iter().map(Shard::from));
            match next {
                None => return Ok(shards),
                Some(_) if next == after => break,
                Some(_) => after = next,
            }
        }
        Err(TwitchError::Answer("its pages of shards have no end".to_owned()))
    }

    /// Points shards, at most 100 in a call, to transports. What Twitch says of those that it did not update
    /// is in the answer: the others are. Doing it again is harmless; a webhook is challenged each time.
    ///
    /// # Errors
    /// [`TwitchError::Refused`] with 404 when there is no such conduit of this application.
    pub async fn update_shards(
        &self,
        access: &AccessToken,
        conduit_id: &str,
        shards: &[(String, ShardTransport)],
    ) -> Result<Vec<ShardError>, TwitchError> {
        let call = self.update_shards_call(access, conduit_id, shards)?;
        let secrets = call.secrets.clone();
        self.call(call, |body| shard_errors(body, &secrets)).await
    }

    /// One page of the subscriptions, the oldest first, of one conduit or of all transports, and the cursor
    /// of the page after it. Dead ones are listed too, for days.
    pub async fn subscriptions_page(
        &self,
        access: &AccessToken,
        conduit_id: Option<&str>,
        after: Option<&str>,
    ) -> Result<(Vec<Subscription>, Option<String>), TwitchError> {
        let query = paged(conduit_id.map(|id| ("conduit_id", id)), after);
        let call = self.helix_call(Method::GET, SUBSCRIPTIONS, &query, access)?.of_app();
        let (page, next) = self.call(call, list::<SubscriptionShape>).await?;
        Ok((page.into_iter().map(Subscription::from).collect(), next))
    }

    /// Subscribes a conduit. For chat, the broadcaster or the bot's being a moderator must allow it.
    ///
    /// # Errors
    /// [`TwitchError::Refused`] with 409 when it is there already, its id in `id` where Twitch says it; with
    /// 403 when an authorization is missing, and also when the bot is banned or timed out; with 400 for a
    /// user who doesn't exist; with 410 for a type that is no more; with 429 when there are three of it.
    pub async fn create_subscription(
        &self,
        access: &AccessToken,
        new: &NewSubscription,
    ) -> Result<Subscription, TwitchError> {
        let call = self.create_subscription_call(access, new)?;
        self.call(call, first::<SubscriptionShape>).await.map(Subscription::from)
    }

    /// Ends a subscription.
    ///
    /// # Errors
    /// [`TwitchError::Refused`] with 404 when there is none with this id.
    pub async fn delete_subscription(&self, access: &AccessToken, id: &str) -> Result<(), TwitchError> {
        let call = self.helix_call(Method::DELETE, SUBSCRIPTIONS, &[("id", id)], access)?.of_app();
        self.call(call, nothing).await
    }

    /// Says something in a chat, as an answer to the message `reply_parent` if there is one. After
    /// [`TwitchError::Away`] it may have been said. A message that the chat's rules keep out is no error:
    /// see [`Sent::is_sent`]. As the token may be the app's or the bot's, it leaves
    /// [`Client::allowance`] alone.
    pub async fn send_chat(
        &self,
        access: &AccessToken,
        broadcaster_id: &str,
        sender_id: &str,
        text: &str,
        reply_parent: Option<&str>,
    ) -> Result<Sent, TwitchError> {
        let call = self.helix_call(Method::POST, "/chat/messages", &[], access)?;
        let call = call.json(&chat_message(broadcaster_id, sender_id, text, reply_parent));
        self.call(call, first::<SentShape>).await.map(Sent::from)
    }

    fn helix_call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        access: &AccessToken,
    ) -> Result<Call, TwitchError> {
        let mut url = self.helix_url(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let call = Call::new(method, url).authorized("Bearer", access.secret())?;
        Ok(self.identified(call))
    }

    fn streams_call(&self, access: &AccessToken, user_ids: &[String]) -> Result<Call, TwitchError> {
        let mut query = vec![("type", "live"), ("first", "100")];
        query.extend(user_ids.iter().map(|id| ("user_id", id.as_str())));
        Ok(self.helix_call(Method::GET, "/streams", &query, access)?.of_app())
    }

    fn update_shards_call(
        &self,
        access: &AccessToken,
        conduit_id: &str,
        shards: &[(String, ShardTransport)],
    ) -> Result<Call, TwitchError> {
        let mut call = self.helix_call(Method::PATCH, SHARDS, &[], access)?.of_app();
        let mut items = Vec::with_capacity(shards.len());
        for (id, transport) in shards {
            let transport = match transport {
                ShardTransport::Webhook { callback, secret } => {
                    call = call.hiding(secret);
                    json!({ "method": "webhook", "callback": callback, "secret": secret.expose() })
                }
                ShardTransport::Websocket { session_id } => {
                    json!({ "method": "websocket", "session_id": session_id })
                }
            };
            items.push(json!({ "id": id, "transport": transport }));
        }
        Ok(call.json(&json!({ "conduit_id": conduit_id, "shards": items })))
    }

    fn create_subscription_call(
        &self,
        access: &AccessToken,
        new: &NewSubscription,
    ) -> Result<Call, TwitchError> {
        let call = self.helix_call(Method::POST, SUBSCRIPTIONS, &[], access)?.of_app();
        Ok(call.json(&json!({
            "type": new.kind,
            "version": new.version,
            "condition": new.condition,
            "transport": { "method": "conduit", "conduit_id": new.conduit_id },
        })))
    }
}

/// The query of one page.
fn paged<'a>(filter: Option<(&'a str, &'a str)>, after: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    filter.into_iter().chain(after.map(|cursor| ("after", cursor))).collect()
}

fn chat_message(broadcaster_id: &str, sender_id: &str, text: &str, reply_parent: Option<&str>) -> Value {
    let mut message = json!({ "broadcaster_id": broadcaster_id, "sender_id": sender_id, "message": text });
    if let Some(parent) = reply_parent {
        message["reply_parent_message_id"] = parent.into();
    }
    message
}

#[cfg(test)]
#[path = "helix_tests.rs"]
mod tests;
