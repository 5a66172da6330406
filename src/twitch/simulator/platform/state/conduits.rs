//! Conduits and their shards, <https://dev.twitch.tv/docs/eventsub/handling-conduit-events/>.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use url::{Host, Url};

use super::State;
use super::delivery::{Challenge, ENABLED, Effect, Message, ShardTarget};
use super::oauth::Caller;
use crate::twitch::signature::Secrets;
use crate::twitch::simulator::platform::refusal::{Fields, Refusal, page};

const PENDING: &str = "webhook_callback_verification_pending";
const VERIFICATION_FAILED: &str = "webhook_callback_verification_failed";
/// Shards in one request.
const UPDATED_MAX: usize = 100;
/// Twitch's code of every shard that it refuses.
const INVALID_PARAMETER: &str = "invalid_parameter";

pub struct Conduit {
    serial: u64,
    pub(super) shard_count: u32,
    /// Those that were ever given a transport.
    pub(super) shards: BTreeMap<u32, Shard>,
}

pub struct Shard {
    pub(super) status: &'static str,
    pub(super) transport: Transport,
    /// Grows with each new transport, so that what belongs to an older one is known.
    pub(super) version: u64,
    /// Deliveries that failed in a row.
    pub(super) failures: u32,
}

#[derive(Clone, Debug)]
pub enum Transport {
    Webhook { callback: String, secrets: Secrets },
    Socket { session_id: String, connected_at: String, disconnected_at: Option<String> },
}

/// The body of `PATCH /eventsub/conduits/shards`.
#[derive(Deserialize)]
pub struct ShardsAsked {
    conduit_id: String,
    shards: Vec<ShardAsked>,
}

#[derive(Deserialize)]
struct ShardAsked {
    id: String,
    transport: TransportAsked,
}

#[derive(Deserialize)]
struct TransportAsked {
    method: String,
    callback: Option<String>,
    secret: Option<String>,
    session_id: Option<String>,
}

/// A shard as tests look at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardView {
    pub conduit_id: String,
    pub shard: u32,
    pub status: String,
    pub callback: Option<String>,
    pub session_id: Option<String>,
    /// Deliveries that failed in a row.
    pub failures: u32,
}

impl Transport {
    fn json(&self) -> Value {
        match self {
            Transport::Webhook { callback, .. } => json!({ "method": "webhook", "callback": callback }),
            Transport::Socket { session_id, connected_at, disconnected_at } => json!({
                "method": "websocket", "session_id": session_id, "connected_at": connected_at,
                "disconnected_at": disconnected_at,
            }),
        }
    }
}

impl State {
    /// `GET /eventsub/conduits`.
    ///
    /// # Errors
    /// [`Refusal`] for a user's token, as all of these.
    pub fn conduits(&self, caller: &Caller) -> Result<Value, Refusal> {
        caller.require_app()?;
        let mut conduits: Vec<_> = self.conduits.iter().collect();
        conduits.sort_by_key(|(_, conduit)| conduit.serial);
        let data: Vec<Value> = conduits
            .into_iter()
            .map(|(id, conduit)| json!({ "id": id, "shard_count": conduit.shard_count }))
            .collect();
        Ok(json!({ "data": data }))
    }

    /// `POST /eventsub/conduits`.
    ///
    /// # Errors
    /// [`Refusal`] for a count that can't be, and beyond the limit of conduits.
    pub fn create_conduit(&mut self, body: &Value, caller: &Caller) -> Result<Value, Refusal> {
        caller.require_app()?;
        let shard_count = self.shard_count(body)?;
        if self.conduits.len() >= self.rules.conduits_max {
            return Err(Refusal::new(429, "conduit limit reached"));
        }
        let (id, serial) = (self.new_id(), self.next_serial());
        self.conduits.insert(id.clone(), Conduit { serial, shard_count, shards: BTreeMap::new() });
        Ok(json!({ "data": [{ "id": id, "shard_count": shard_count }] }))
    }

    /// `PATCH /eventsub/conduits`: fewer shards end the last ones.
    ///
    /// # Errors
    /// [`Refusal`] for a count that can't be, and an unknown conduit.
    pub fn resize_conduit(&mut self, body: &Value, caller: &Caller) -> Result<Value, Refusal> {
        caller.require_app()?;
        let id = body["id"].as_str().ok_or_else(|| Refusal::new(400, "The id field is required"))?;
        let shard_count = self.shard_count(body)?;
        let conduit = self.conduits.get_mut(id).ok_or_else(Refusal::not_found)?;
        conduit.shard_count = shard_count;
        conduit.shards.retain(|shard, _| *shard < shard_count);
        Ok(json!({ "data": [{ "id": id, "shard_count": shard_count }] }))
    }

    fn shard_count(&self, body: &Value) -> Result<u32, Refusal> {
        let count = body["shard_count"].as_u64().and_then(|count| u32::try_from(count).ok());
        let count = count.filter(|count| (1..=self.rules.shards_max).contains(count));
        count.ok_or_else(|| Refusal::new(400, "invalid shard count"))
    }

    /// `DELETE /eventsub/conduits`.
    ///
    /// # Errors
    /// [`Refusal`] for an unknown conduit.
    pub fn delete_conduit(&mut self, query: &Fields, caller: &Caller) -> Result<(), Refusal> {
        caller.require_app()?;
        self.drop_conduit(query.required("id")?)
    }

    /// Ends a conduit and its subscriptions, as Twitch does after three days without shards.
    ///
    /// # Errors
    /// [`Refusal`] for an unknown conduit.
    pub fn drop_conduit(&mut self, id: &str) -> Result<(), Refusal> {
        self.conduits.remove(id).ok_or_else(Refusal::not_found)?;
        self.end_subscriptions_of(id);
        Ok(())
    }

    /// `GET /eventsub/conduits/shards`.
    ///
    /// # Errors
    /// [`Refusal`] for an unknown conduit and a page that can't be.
    pub fn shards(&self, query: &Fields, caller: &Caller) -> Result<Value, Refusal> {
        caller.require_app()?;
        let conduit = self.conduits.get(query.required("conduit_id")?).ok_or_else(Refusal::not_found)?;
        let status = query.get("status");
        let shown = conduit
            .shards
            .iter()
            .filter(|(_, shard)| status.is_none_or(|status| status == shard.status))
            .map(|(number, shard)| (u64::from(*number), shard_json(*number, shard)));
        let (data, pagination) = page(shown, query.get("after"), self.rules.page_size)?;
        Ok(json!({ "data": data, "pagination": pagination }))
    }

    /// `PATCH /eventsub/conduits/shards`: what is good is taken, what is not is told under `errors`.
    ///
    /// # Errors
    /// [`Refusal`] for an unknown conduit, and for none or too many shards.
    pub fn update_shards(&mut self, asked: ShardsAsked, caller: &Caller) -> Result<Value, Refusal> {
        caller.require_app()?;
        if !self.conduits.contains_key(&asked.conduit_id) {
            return Err(Refusal::not_found());
        }
        if !(1..=UPDATED_MAX).contains(&asked.shards.len()) {
            return Err(Refusal::new(400, format!("shards must have 1 to {UPDATED_MAX} entries")));
        }
        let (mut data, mut errors) = (Vec::new(), Vec::new());
        for shard in asked.shards {
            match self.update_shard(&asked.conduit_id, &shard) {
                Ok(updated) => data.push(updated),
                Err(message) => {
                    errors.push(json!({ "id": shard.id, "message": message, "code": INVALID_PARAMETER }));
                }
            }
        }
        Ok(json!({ "data": data, "errors": errors }))
    }

    fn update_shard(&mut self, conduit_id: &str, asked: &ShardAsked) -> Result<Value, &'static str> {
        let outside = "The shard id is outside of the conduit's range";
        let number: u32 = asked.id.parse().map_err(|_| outside)?;
        if self.conduits.get(conduit_id).is_none_or(|conduit| number >= conduit.shard_count) {
            return Err(outside);
        }
        let version = self.next_serial();
        let target = ShardTarget { conduit_id: conduit_id.into(), shard: number, version };
        let (transport, status) = match asked.transport.method.as_str() {
            "webhook" => (self.webhook(&asked.transport, &target)?, PENDING),
            "websocket" => (self.socket(&asked.transport)?, ENABLED),
            _ => return Err("The transport method must be webhook or websocket"),
        };
        let shard = Shard { status, transport, version, failures: 0 };
        let shown = shard_json(number, &shard);
        if let Some(conduit) = self.conduits.get_mut(conduit_id) {
            conduit.shards.insert(number, shard);
        }
        Ok(shown)
    }

    /// A webhook, and the challenge that it has to answer.
    fn webhook(&mut self, asked: &TransportAsked, target: &ShardTarget) -> Result<Transport, &'static str> {
        let callback = asked.callback.as_deref().unwrap_or_default();
        if !self.may_call(callback) {
            return Err("The callback must be an HTTPS URL on port 443");
        }
        let secrets = Secrets::new([asked.secret.as_deref().unwrap_or_default()])
            .map_err(|_| "The secret must have 10 to 100 ASCII characters")?;
        let challenge = self.new_id();
        let body = json!({
            "challenge": challenge,
            "conduit_shard": { "conduit_id": target.conduit_id, "shard": target.shard.to_string() },
        });
        let message = Message {
            id: self.new_id(),
            kind: "webhook_callback_verification",
            subscription: None,
            body: body.to_string().into_bytes(),
        };
        let transport = Transport::Webhook { callback: callback.into(), secrets: secrets.clone() };
        self.effects.push(Effect::Challenge(Challenge {
            target: target.clone(),
            callback: callback.into(),
            secrets,
            message,
            challenge,
        }));
        Ok(transport)
    }

    fn may_call(&self, callback: &str) -> bool {
        let Ok(url) = Url::parse(callback) else { return false };
        let is_loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        match url.scheme() {
            "https" => url.port_or_known_default() == Some(443),
            "http" => self.rules.allow_http && is_loopback,
            _ => false,
        }
    }

    fn socket(&mut self, asked: &TransportAsked) -> Result<Transport, &'static str> {
        let session_id = asked.session_id.clone().unwrap_or_default();
        let session = self.sessions.get_mut(&session_id).ok_or("The WebSocket session is not connected")?;
        session.is_attached = true;
        let connected_at = session.connected_at.clone();
        Ok(Transport::Socket { session_id, connected_at, disconnected_at: None })
    }

    /// What became of a challenge. Only the right answer enables the shard.
    pub fn challenged(&mut self, target: &ShardTarget, is_right: bool) {
        let shard = self.shard_mut(&target.conduit_id, target.shard);
        let is_current = |shard: &&mut Shard| shard.version == target.version && shard.status == PENDING;
        if let Some(shard) = shard.filter(is_current) {
            shard.status = if is_right { ENABLED } else { VERIFICATION_FAILED };
        }
    }

    pub(super) fn shard_mut(&mut self, conduit_id: &str, number: u32) -> Option<&mut Shard> {
        self.conduits.get_mut(conduit_id)?.shards.get_mut(&number)
    }

    /// Ends a shard, and says so by `conduit.shard.disabled`.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such shard.
    pub fn disable_shard(
        &mut self,
        conduit_id: &str,
        number: u32,
        status: &'static str,
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        let shard = self.shard_mut(conduit_id, number).ok_or_else(Refusal::not_found)?;
        let was_enabled = shard.status == ENABLED;
        shard.status = status;
        let shown = shard.transport.json();
        let or_null = |key: &str| shown.get(key).cloned().unwrap_or_default();
        let event = json!({
            "conduit_id": conduit_id, "shard_id": number.to_string(), "status": status,
            "transport": {
                "method": or_null("method"), "callback": or_null("callback"),
                "session_id": or_null("session_id"), "connected_at": or_null("connected_at"),
                "disconnected_at": or_null("disconnected_at"),
            },
        });
        if was_enabled {
            let client_id = self.client_id.clone();
            self.deliver("conduit.shard.disabled", &client_id, &event, now);
        }
        Ok(())
    }

    /// All shards, as tests look at them.
    pub fn shard_views(&self) -> Vec<ShardView> {
        let shards = self
            .conduits
            .iter()
            .flat_map(|(id, conduit)| conduit.shards.iter().map(move |(number, shard)| (id, *number, shard)));
        shards
            .map(|(conduit_id, number, shard)| {
                let (callback, session_id) = match &shard.transport {
                    Transport::Webhook { callback, .. } => (Some(callback.clone()), None),
                    Transport::Socket { session_id, .. } => (None, Some(session_id.clone())),
                };
                ShardView {
                    conduit_id: conduit_id.clone(),
                    shard: number,
                    status: shard.status.into(),
                    callback,
                    session_id,
                    failures: shard.failures,
                }
            })
            .collect()
    }
}

fn shard_json(number: u32, shard: &Shard) -> Value {
    json!({ "id": number.to_string(), "status": shard.status, "transport": shard.transport.json() })
}
