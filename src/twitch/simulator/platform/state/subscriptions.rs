//! Subscriptions: which there can be, who may have them, what they cost,
//! <https://dev.twitch.tv/docs/eventsub/manage-subscriptions/>.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::delivery::{ENABLED, REVOCATION};
use super::kinds::{BROADCASTER, CLIENT, KINDS, Kind, USER};
use super::oauth::Caller;
use super::{State, timestamp};
use crate::twitch::simulator::platform::refusal::{Fields, Refusal, page};

pub(super) const AUTHORIZATION_REVOKED: &str = "authorization_revoked";
pub(super) const CHAT_USER_BANNED: &str = "chat_user_banned";
pub(super) const MODERATOR_REMOVED: &str = "moderator_removed";
pub(super) const USER_REMOVED: &str = "user_removed";
const CONDUIT_DELETED: &str = "conduit_deleted";
/// Why a subscription can end; a control request may name any.
const REASONS: [&str; 7] = [
    AUTHORIZATION_REVOKED,
    CHAT_USER_BANNED,
    MODERATOR_REMOVED,
    USER_REMOVED,
    "notification_failures_exceeded",
    "version_removed",
    "beta_maintenance",
];
const FILTERS: [&str; 5] = ["status", "type", "user_id", "subscription_id", "conduit_id"];

type Condition = BTreeMap<String, String>;

#[derive(Clone, Debug)]
pub struct Subscription {
    serial: u64,
    id: String,
    pub(super) kind: &'static Kind,
    condition: Condition,
    pub(super) conduit_id: String,
    status: &'static str,
    cost: u32,
    created_at: String,
}

impl Subscription {
    /// By whom its events are found: the broadcaster, or the client.
    pub(super) fn target(&self) -> &str {
        self.kind.required.first().and_then(|key| self.condition.get(*key)).map_or("", String::as_str)
    }

    fn is_about(&self, user_id: &str) -> bool {
        [BROADCASTER, USER].iter().any(|key| self.condition.get(*key).is_some_and(|id| id == user_id))
    }

    /// As it is shown to its owner.
    pub(super) fn json(&self) -> Value {
        json!({
            "id": self.id, "status": self.status, "type": self.kind.name, "version": self.kind.version,
            "condition": self.condition, "created_at": self.created_at, "cost": self.cost,
            "transport": { "method": "conduit", "conduit_id": self.conduit_id },
        })
    }
}

/// All subscriptions, the dead ones for a while too.
#[derive(Default)]
pub struct Subscriptions {
    all: BTreeMap<u64, Subscription>,
    /// The enabled ones, by type and target.
    enabled: HashMap<(&'static str, String), Vec<u64>>,
}

impl Subscriptions {
    /// The enabled ones that an event is for.
    pub(super) fn about(&self, kind: &str, target: &str, event: &Value) -> Vec<Subscription> {
        let Some(kind) = KINDS.iter().find(|known| known.name == kind) else { return Vec::new() };
        let serials = self.enabled.get(&(kind.name, target.to_owned())).map_or(&[][..], Vec::as_slice);
        let all = serials.iter().filter_map(|serial| self.all.get(serial));
        // What a condition may hold beside its target narrows it to the events that say the same.
        let fits = |subscription: &&Subscription| {
            let wanted = |key: &&str| subscription.condition.get(*key);
            kind.optional.iter().all(|key| wanted(key).is_none_or(|wanted| event[*key] == **wanted))
        };
        all.filter(fits).cloned().collect()
    }

    fn key(subscription: &Subscription) -> (&'static str, String) {
        (subscription.kind.name, subscription.target().to_owned())
    }

    fn add(&mut self, subscription: Subscription) {
        self.enabled.entry(Self::key(&subscription)).or_default().push(subscription.serial);
        self.all.insert(subscription.serial, subscription);
    }

    fn disable(&mut self, serial: u64, status: &'static str, dead_max: usize) -> Option<Subscription> {
        let subscription = self.all.get_mut(&serial)?;
        subscription.status = status;
        let subscription = subscription.clone();
        self.forget_enabled(&subscription);
        let dead = self.all.values().filter(|subscription| subscription.status != ENABLED);
        if let Some(oldest) = dead.clone().next().map(|oldest| oldest.serial)
            && dead.count() > dead_max
        {
            self.all.remove(&oldest);
        }
        Some(subscription)
    }

    fn remove(&mut self, id: &str) -> Option<()> {
        let serial = self.all.values().find(|subscription| subscription.id == id)?.serial;
        let subscription = self.all.remove(&serial)?;
        self.forget_enabled(&subscription);
        Some(())
    }

    fn forget_enabled(&mut self, subscription: &Subscription) {
        let key = Self::key(subscription);
        if let Some(serials) = self.enabled.get_mut(&key) {
            serials.retain(|serial| *serial != subscription.serial);
            if serials.is_empty() {
                self.enabled.remove(&key);
            }
        }
    }

    fn enabled_where(&self, holds: impl Fn(&Subscription) -> bool) -> Vec<u64> {
        let enabled = self.all.values().filter(|subscription| subscription.status == ENABLED);
        enabled.filter(|subscription| holds(subscription)).map(|subscription| subscription.serial).collect()
    }

    fn total_cost(&self) -> u32 {
        let enabled = self.all.values().filter(|subscription| subscription.status == ENABLED);
        enabled.map(|subscription| subscription.cost).sum()
    }
}

/// The body of `POST /eventsub/subscriptions`.
#[derive(Deserialize)]
pub struct SubscriptionAsked {
    #[serde(rename = "type")]
    kind: String,
    version: String,
    condition: Condition,
    transport: TransportAsked,
}

#[derive(Deserialize)]
struct TransportAsked {
    method: String,
    conduit_id: Option<String>,
}

/// A subscription as tests look at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubscriptionView {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub condition: BTreeMap<String, String>,
    pub conduit_id: String,
    pub cost: u32,
}

impl State {
    /// `POST /eventsub/subscriptions`.
    ///
    /// # Errors
    /// [`Refusal`] for whatever Twitch refuses: see the checks, in order.
    pub fn create_subscription(
        &mut self,
        asked: SubscriptionAsked,
        caller: &Caller,
        now: OffsetDateTime,
    ) -> Result<Value, Refusal> {
        let kind = KINDS.iter().find(|kind| kind.name == asked.kind && kind.version == asked.version);
        let kind = kind.ok_or_else(|| Refusal::new(400, "invalid subscription type and version"))?;
        if asked.transport.method != "conduit" {
            return Err(Refusal::new(400, "invalid transport"));
        }
        if caller.user_id.is_some() {
            return Err(Refusal::new(400, "invalid transport and auth combination"));
        }
        let conduit_id = asked.transport.conduit_id.unwrap_or_default();
        if !self.conduits.contains_key(&conduit_id) {
            return Err(Refusal::new(400, "conduit does not exist"));
        }
        self.check_condition(kind, &asked.condition)?;
        if !self.is_authorized(kind, &asked.condition) {
            return Err(Refusal::new(403, "subscription missing proper authorization"));
        }
        let subscription = Subscription {
            serial: self.next_serial(),
            id: self.new_id(),
            cost: self.cost(kind, &asked.condition),
            kind,
            condition: asked.condition,
            conduit_id,
            status: ENABLED,
            created_at: timestamp(now),
        };
        self.check_limits(&subscription)?;
        let shown = subscription.json();
        self.subscriptions.add(subscription);
        Ok(self.with_totals(json!({ "data": [shown] })))
    }

    fn check_condition(&self, kind: &Kind, condition: &Condition) -> Result<(), Refusal> {
        let is_known = |key: &str| kind.required.contains(&key) || kind.optional.contains(&key);
        let is_missing = |key: &&&str| condition.get(**key).is_none_or(String::is_empty);
        if let Some(missing) = kind.required.iter().find(is_missing) {
            return Err(Refusal::new(400, format!("invalid condition: {missing} is required")));
        }
        if let Some(unknown) = condition.keys().find(|key| !is_known(key.as_str())) {
            return Err(Refusal::new(400, format!("invalid condition: {unknown} is unknown")));
        }
        let mut users = [BROADCASTER, USER].into_iter().filter_map(|key| condition.get(key));
        if users.any(|user_id| !self.accounts.contains_key(user_id)) {
            return Err(Refusal::new(400, "invalid condition: user does not exist"));
        }
        Ok(())
    }

    /// For chat, with the application's token: the reading user allowed `user:read:chat` and `user:bot`, and
    /// the broadcaster `channel:bot`, unless the user is a moderator there; and is not banned.
    fn is_authorized(&self, kind: &Kind, condition: &Condition) -> bool {
        let value = |key: &str| condition.get(key).map_or("", String::as_str);
        if kind.is_chat {
            let (broadcaster_id, user_id) = (value(BROADCASTER), value(USER));
            return self.has_granted(user_id, "user:read:chat") && self.is_welcome(broadcaster_id, user_id);
        }
        let is_own_client = !condition.contains_key(CLIENT) || value(CLIENT) == self.client_id;
        let conduit_id = condition.get("conduit_id");
        is_own_client && conduit_id.is_none_or(|id| self.conduits.contains_key(id))
    }

    /// Free where a user's authorization is needed, or the broadcaster authorized the application.
    fn cost(&self, kind: &Kind, condition: &Condition) -> u32 {
        let has_authorized = condition.get(BROADCASTER).is_some_and(|id| self.grants.contains_key(id));
        u32::from(!kind.is_chat && !has_authorized)
    }

    fn check_limits(&self, new: &Subscription) -> Result<(), Refusal> {
        let serials = self.subscriptions.enabled.get(&Subscriptions::key(new)).map_or(&[][..], Vec::as_slice);
        let known = serials.iter().filter_map(|serial| self.subscriptions.all.get(serial));
        let alike: Vec<_> = known.filter(|known| known.condition == new.condition).collect();
        if let Some(existing) = alike.iter().find(|known| known.conduit_id == new.conduit_id) {
            return Err(Refusal::conflict("subscription already exists", &existing.id));
        }
        if alike.len() >= self.rules.same_subscriptions_max {
            return Err(Refusal::new(429, "maximum subscriptions with type and condition exceeded"));
        }
        if self.subscriptions.total_cost() + new.cost > self.rules.max_total_cost {
            return Err(Refusal::new(429, "maximum total cost of subscriptions exceeded"));
        }
        Ok(())
    }

    fn with_totals(&self, mut answer: Value) -> Value {
        answer["total"] = json!(self.subscriptions.all.len());
        answer["total_cost"] = json!(self.subscriptions.total_cost());
        answer["max_total_cost"] = json!(self.rules.max_total_cost);
        answer
    }

    /// `GET /eventsub/subscriptions`, the oldest first.
    ///
    /// # Errors
    /// [`Refusal`] for more than one filter, and a page that can't be.
    pub fn subscriptions(&self, query: &Fields, caller: &Caller) -> Result<Value, Refusal> {
        let mut filters = FILTERS.into_iter().filter_map(|key| Some((key, query.get(key)?)));
        let filter = filters.next();
        if filters.next().is_some() {
            return Err(Refusal::new(400, "The query parameters are mutually exclusive; specify only one"));
        }
        let fits = |subscription: &&Subscription| match filter {
            None => true,
            Some(("status", value)) => subscription.status == value,
            Some(("type", value)) => subscription.kind.name == value,
            Some(("subscription_id", value)) => subscription.id == value,
            Some(("conduit_id", value)) => subscription.conduit_id == value,
            Some((_, value)) => subscription.is_about(value),
        };
        // Users' own tokens have subscriptions by WebSocket alone, of which there are none.
        let own = self.subscriptions.all.values().filter(|_| caller.user_id.is_none());
        let shown = own.filter(fits).map(|subscription| (subscription.serial, subscription.json()));
        let (data, pagination) = page(shown, query.get("after"), self.rules.page_size)?;
        Ok(self.with_totals(json!({ "data": data, "pagination": pagination })))
    }

    /// `DELETE /eventsub/subscriptions`.
    ///
    /// # Errors
    /// [`Refusal`] for an unknown subscription.
    pub fn delete_subscription(&mut self, query: &Fields, caller: &Caller) -> Result<(), Refusal> {
        let id = query.required("id")?;
        let is_own = caller.user_id.is_none();
        let removed = if is_own { self.subscriptions.remove(id) } else { None };
        removed.ok_or_else(|| Refusal::new(404, "subscription does not exist"))
    }

    /// Ends a subscription with a revocation.
    ///
    /// # Errors
    /// [`Refusal`] when there is none that is enabled, or Twitch knows no such reason.
    pub fn revoke_subscription(
        &mut self,
        id: &str,
        reason: &str,
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        let reason = REASONS.into_iter().find(|known| *known == reason);
        let reason = reason.ok_or_else(|| Refusal::new(400, "there is no such reason"))?;
        let serials = self.subscriptions.enabled_where(|subscription| subscription.id == id);
        let serial = *serials.first().ok_or_else(Refusal::not_found)?;
        self.end_subscription(serial, reason, now);
        Ok(())
    }

    fn end_subscription(&mut self, serial: u64, status: &'static str, now: OffsetDateTime) {
        if let Some(ended) = self.subscriptions.disable(serial, status, self.rules.remembered_max) {
            let payload = json!({ "subscription": ended.json() });
            self.dispatch(&ended, REVOCATION, &payload, now);
        }
    }

    /// Ends the subscriptions that are not authorized (any more).
    pub(super) fn end_unauthorized(&mut self, status: &'static str, now: OffsetDateTime) {
        let is_unauthorized =
            |subscription: &Subscription| !self.is_authorized(subscription.kind, &subscription.condition);
        for serial in self.subscriptions.enabled_where(is_unauthorized) {
            self.end_subscription(serial, status, now);
        }
    }

    /// Ends the subscriptions that are about a user, or read as one.
    pub(super) fn end_subscriptions_about(
        &mut self,
        user_id: &str,
        status: &'static str,
        now: OffsetDateTime,
    ) {
        let is_about = |subscription: &Subscription| subscription.is_about(user_id);
        for serial in self.subscriptions.enabled_where(is_about) {
            self.end_subscription(serial, status, now);
        }
    }

    /// Ends the subscriptions of a conduit that is gone; there is nobody to tell.
    pub(super) fn end_subscriptions_of(&mut self, conduit_id: &str) {
        let dead_max = self.rules.remembered_max;
        let is_of = |subscription: &Subscription| subscription.conduit_id == conduit_id;
        for serial in self.subscriptions.enabled_where(is_of) {
            self.subscriptions.disable(serial, CONDUIT_DELETED, dead_max);
        }
    }

    /// All subscriptions, as tests look at them, the oldest first.
    pub fn subscription_views(&self) -> Vec<SubscriptionView> {
        let view = |subscription: &Subscription| SubscriptionView {
            id: subscription.id.clone(),
            kind: subscription.kind.name.into(),
            status: subscription.status.into(),
            condition: subscription.condition.clone(),
            conduit_id: subscription.conduit_id.clone(),
            cost: subscription.cost,
        };
        self.subscriptions.all.values().map(view).collect()
    }
}
