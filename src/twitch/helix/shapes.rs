//! The shapes of the API's good answers, and how they are read, pure.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{LiveStream, Sent, Shard, ShardError, Subscription};
use crate::settings::Secret;
use crate::twitch::client::{TwitchError, parse, quoted};

/// The type of a stream that is live; one with an error has an empty type.
const TYPE_LIVE: &str = "live";

/// What nearly all answers look like.
#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
struct Listing<T> {
    #[serde(deserialize_with = "nullable")]
    data: Vec<T>,
    pagination: Option<Pagination>,
}

/// What is said of shards that were to be updated. Twitch's own example is without `errors`.
#[derive(Default, Deserialize)]
struct Updated {
    errors: Option<Vec<ShardError>>,
}

#[derive(Deserialize)]
struct Pagination {
    cursor: Option<String>,
}

/// The items of a page, and the cursor of the next one if there is one.
pub(super) fn list<T: DeserializeOwned>(body: &[u8]) -> Result<(Vec<T>, Option<String>), TwitchError> {
    let listing: Listing<T> = parse(body)?;
    let cursor = listing.pagination.and_then(|pagination| pagination.cursor);
    Ok((listing.data, cursor.filter(|cursor| !cursor.is_empty())))
}

/// The items of an answer that has one page only.
pub(super) fn all<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, TwitchError> {
    list(body).map(|(items, _)| items)
}

/// The item of an answer that has one.
pub(super) fn first<T: DeserializeOwned>(body: &[u8]) -> Result<T, TwitchError> {
    let item = all(body)?.into_iter().next();
    item.ok_or_else(|| TwitchError::Answer("its data is empty".to_owned()))
}

/// An answer whose status says all.
pub(super) fn nothing(_body: &[u8]) -> Result<(), TwitchError> {
    Ok(())
}

/// Which shards were not updated, without the secrets that were sent.
pub(super) fn shard_errors(body: &[u8], secrets: &[Secret<String>]) -> Result<Vec<ShardError>, TwitchError> {
    let updated: Updated = if body.is_empty() { Updated::default() } else { parse(body)? };
    let errors = updated.errors.unwrap_or_default().into_iter();
    let clean = |error: ShardError| ShardError {
        message: quoted(&error.message, secrets),
        code: quoted(&error.code, secrets),
        ..error
    };
    Ok(errors.map(clean).collect())
}

#[derive(Deserialize)]
struct StreamShape {
    id: String,
    user_id: String,
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    kind: String,
    #[serde(default, deserialize_with = "nullable")]
    started_at: String,
}

/// The streams that are live.
pub(super) fn live_streams(body: &[u8]) -> Result<Vec<LiveStream>, TwitchError> {
    let streams = all::<StreamShape>(body)?.into_iter();
    streams.filter(|stream| stream.kind == TYPE_LIVE).map(live_stream).collect()
}

fn live_stream(found: StreamShape) -> Result<LiveStream, TwitchError> {
    let started_at = OffsetDateTime::parse(&found.started_at, &Rfc3339)
        .map_err(|_| TwitchError::Answer("a live stream's started_at is no time".to_owned()))?;
    Ok(LiveStream { id: found.id, user_id: found.user_id, started_at })
}

#[derive(Deserialize)]
pub(super) struct ShardShape {
    id: String,
    #[serde(default, deserialize_with = "nullable")]
    status: String,
    #[serde(default, deserialize_with = "nullable")]
    transport: TransportShape,
}

/// The transport of a shard or of a subscription.
#[derive(Default, Deserialize)]
struct TransportShape {
    method: Option<String>,
    callback: Option<String>,
    session_id: Option<String>,
    conduit_id: Option<String>,
}

impl From<ShardShape> for Shard {
    fn from(found: ShardShape) -> Self {
        Shard {
            id: found.id,
            status: found.status,
            method: found.transport.method.unwrap_or_default(),
            callback: found.transport.callback,
            session_id: found.transport.session_id,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct SubscriptionShape {
    id: String,
    #[serde(default, deserialize_with = "nullable")]
    status: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "nullable")]
    version: String,
    #[serde(default, deserialize_with = "nullable")]
    condition: BTreeMap<String, Value>,
    #[serde(default, deserialize_with = "nullable")]
    transport: TransportShape,
    #[serde(default, deserialize_with = "nullable")]
    cost: u32,
    #[serde(default, deserialize_with = "nullable")]
    created_at: String,
}

impl From<SubscriptionShape> for Subscription {
    fn from(found: SubscriptionShape) -> Self {
        // Conditions of types that are not ours may hold anything; ours hold ids, which are texts.
        let condition = found.condition.into_iter().filter_map(|(key, value)| match value {
            Value::String(text) => Some((key, text)),
            Value::Number(number) => Some((key, number.to_string())),
            _ => None,
        });
        Subscription {
            id: found.id,
            status: found.status,
            kind: found.kind,
            version: found.version,
            condition: condition.collect(),
            conduit_id: found.transport.conduit_id,
            cost: found.cost,
            created_at: found.created_at,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct SentShape {
    #[serde(default, deserialize_with = "nullable")]
    message_id: String,
    is_sent: bool,
    /// `{"code", "message"}`.
    drop_reason: Option<Value>,
}

impl From<SentShape> for Sent {
    fn from(found: SentShape) -> Self {
        let drop_reason = found.drop_reason.as_ref().map(reason);
        Sent { message_id: found.message_id, is_sent: found.is_sent, drop_reason }
    }
}

fn reason(said: &Value) -> String {
    let part = |key: &str| said.get(key).and_then(Value::as_str).filter(|part| !part.is_empty());
    let parts: Vec<&str> = [said.as_str(), part("code"), part("message")].into_iter().flatten().collect();
    quoted(&parts.join(": "), &[])
}

/// A field that may be null, which then means the same as empty.
pub(super) fn nullable<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}
