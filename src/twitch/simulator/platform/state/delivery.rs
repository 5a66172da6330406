//! From an event to the shards that carry it, and what becomes of them when they don't.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::conduits::Transport;
use super::kinds::Kind;
use super::subscriptions::Subscription;
use super::{State, timestamp};
use crate::twitch::signature::Secrets;

pub(super) const ENABLED: &str = "enabled";
const NOTIFICATION: &str = "notification";
pub(super) const REVOCATION: &str = "revocation";
pub const FAILURES_EXCEEDED: &str = "notification_failures_exceeded";

/// Something to be done outside.
#[derive(Clone, Debug)]
pub enum Effect {
    Challenge(Challenge),
    Post(Post),
    /// To the task that serves this WebSocket.
    Order {
        connection: u64,
        order: Order,
    },
}

/// What a WebSocket's task is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Send this text.
    Say(String),
    /// Send this reconnect message; the grace time begins.
    Reconnect(String),
    /// Close with this code.
    Close(u16),
    /// Drop the connection without a word.
    Cut,
    /// From now on send nothing, or again.
    Mute(bool),
}

/// A shard as of one transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardTarget {
    pub conduit_id: String,
    pub shard: u32,
    pub version: u64,
}

/// A request that a webhook has to answer with `challenge`.
#[derive(Clone, Debug)]
pub struct Challenge {
    pub target: ShardTarget,
    pub callback: String,
    pub secrets: Secrets,
    pub message: Message,
    pub challenge: String,
}

/// A message for a webhook.
#[derive(Clone, Debug)]
pub struct Post {
    pub target: ShardTarget,
    pub callback: String,
    pub secrets: Secrets,
    pub message: Message,
}

/// A message before it is signed.
#[derive(Clone, Debug)]
pub struct Message {
    /// The same each time it is sent.
    pub id: String,
    /// The header that says what it is for.
    pub kind: &'static str,
    /// Type and version, for their headers.
    pub subscription: Option<(&'static str, &'static str)>,
    pub body: Vec<u8>,
}

/// What stands around a payload.
struct Header {
    id: String,
    message_type: &'static str,
    kind: &'static Kind,
}

/// How many notifications and revocations went which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Handed to a shard.
    pub sent: u64,
    /// Of these, answered by a webhook with 2xx.
    pub delivered: u64,
    /// Tries that a webhook did not answer so.
    pub failed_tries: u64,
    /// Lost: no enabled shard, no more tries, or too many waiting.
    pub dropped: u64,
}

impl State {
    /// Sends `event` to the enabled subscriptions of this type whose condition names `target`: the
    /// broadcaster, or the application's client id. Answers how many there are.
    pub fn deliver(&mut self, kind: &str, target: &str, event: &Value, now: OffsetDateTime) -> usize {
        let subscriptions = self.subscriptions.about(kind, target, event);
        for subscription in &subscriptions {
            let payload = json!({ "subscription": subscription.json(), "event": event });
            self.dispatch(subscription, NOTIFICATION, &payload, now);
        }
        subscriptions.len()
    }

    /// Hands a message to the shard that its channel belongs to.
    pub(super) fn dispatch(
        &mut self,
        subscription: &Subscription,
        message_type: &'static str,
        payload: &Value,
        now: OffsetDateTime,
    ) {
        let chosen = self.shard_for(&subscription.conduit_id, subscription.target());
        let effect = chosen.and_then(|(target, transport)| {
            let header = Header { id: self.new_id(), message_type, kind: subscription.kind };
            self.effect_of(target, transport, header, payload, now)
        });
        match effect {
            Some(effect) => {
                self.counts.sent += 1;
                self.effects.push(effect);
            }
            None => self.counts.dropped += 1,
        }
    }

    /// The enabled shard that a channel's hash leads to, or the one after it.
    fn shard_for(&self, conduit_id: &str, channel: &str) -> Option<(ShardTarget, Transport)> {
        let conduit = self.conduits.get(conduit_id)?;
        let mut hasher = DefaultHasher::new();
        channel.hash(&mut hasher);
        let count = u64::from(conduit.shard_count.max(1));
        let first = hasher.finish() % count;
        [first, (first + 1) % count].into_iter().find_map(|number| {
            let number = u32::try_from(number).ok()?;
            let shard = conduit.shards.get(&number).filter(|shard| shard.status == ENABLED)?;
            let target = ShardTarget { conduit_id: conduit_id.into(), shard: number, version: shard.version };
            Some((target, shard.transport.clone()))
        })
    }

    fn effect_of(
        &self,
        target: ShardTarget,
        transport: Transport,
        header: Header,
        payload: &Value,
        now: OffsetDateTime,
    ) -> Option<Effect> {
        let Header { id, message_type, kind } = header;
        match transport {
            Transport::Webhook { callback, secrets } => {
                let body = payload.to_string().into_bytes();
                let subscription = Some((kind.name, kind.version));
                let message = Message { id, kind: message_type, subscription, body };
                Some(Effect::Post(Post { target, callback, secrets, message }))
            }
            Transport::Socket { session_id, .. } => {
                let connection = self.sessions.get(&session_id)?.connection;
                let text = json!({
                    "metadata": {
                        "message_id": id, "message_type": message_type, "message_timestamp": timestamp(now),
                        "subscription_type": kind.name, "subscription_version": kind.version,
                    },
                    "payload": payload,
                });
                Some(Effect::Order { connection, order: Order::Say(text.to_string()) })
            }
        }
    }

    /// What a webhook said to a message. Answers whether it may be tried again, if that is needed: a shard
    /// that is disabled gets nothing more, and failures in a row disable it.
    pub fn posted(&mut self, target: &ShardTarget, is_taken: bool, now: OffsetDateTime) -> bool {
        if is_taken {
            self.counts.delivered += 1;
        } else {
            self.counts.failed_tries += 1;
        }
        let failures_max = self.rules.failures_max;
        let Some(shard) = self.shard_mut(&target.conduit_id, target.shard) else { return false };
        if shard.version != target.version {
            // It has another transport by now, to which this says nothing.
            return true;
        }
        if shard.status != ENABLED {
            return false;
        }
        shard.failures = if is_taken { 0 } else { shard.failures + 1 };
        if shard.failures < failures_max {
            return true;
        }
        // It is there: it was just looked at.
        let _ = self.disable_shard(&target.conduit_id, target.shard, FAILURES_EXCEEDED, now);
        false
    }

    /// A message will not be tried again.
    pub fn gave_up(&mut self) {
        self.counts.dropped += 1;
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }
}
