//! What the platform knows and decides, pure: time is passed in, and what is to be sent comes out as
//! [`Effect`]s.
//!
//! Reading order: `people` (accounts, moderation, streams), `consent`, `oauth`, `limits` and `faults` (which
//! requests are let through), `conduits`, `sessions` (of WebSockets), `kinds` and `subscriptions`, `delivery`
//! (from an event to a shard), `chat`, `send`.

mod chat;
mod conduits;
mod consent;
mod delivery;
mod faults;
mod kinds;
mod limits;
mod oauth;
mod people;
mod send;
mod sessions;
mod subscriptions;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::options::{Account, PlatformOptions, Rules};
use crate::settings::Secret;

pub use chat::{Badge, Say, SentMessage};
pub use conduits::ShardView;
pub(super) use conduits::ShardsAsked;
pub(super) use consent::Consent;
pub use delivery::Counts;
pub(super) use delivery::{Challenge, Effect, FAILURES_EXCEEDED, Message, Order, Post};
pub use faults::{Failure, Fault, SeenRequest};
pub(super) use limits::Points;
pub(super) use oauth::Caller;
pub use oauth::GrantedTokens;
pub(super) use send::SendAsked;
pub(super) use sessions::Opened;
pub(super) use subscriptions::SubscriptionAsked;
pub use subscriptions::SubscriptionView;

/// Letters and digits of a token.
const TOKEN_LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

pub(super) struct State {
    client_id: String,
    client_secret: Secret<String>,
    redirect_uris: Vec<String>,
    rules: Rules,
    rng: StdRng,
    serial: u64,
    accounts: BTreeMap<String, Account>,
    /// Scopes that each account granted the application and has not taken back.
    grants: BTreeMap<String, BTreeSet<String>>,
    /// Pairs of broadcaster and user.
    moderators: BTreeSet<(String, String)>,
    /// Pairs of broadcaster and user.
    banned: BTreeSet<(String, String)>,
    streams: BTreeMap<String, people::Stream>,
    tokens: oauth::Tokens,
    buckets: HashMap<String, limits::Bucket>,
    faults: Vec<Fault>,
    seen: VecDeque<SeenRequest>,
    conduits: BTreeMap<String, conduits::Conduit>,
    sessions: BTreeMap<String, sessions::Session>,
    subscriptions: subscriptions::Subscriptions,
    chat: chat::Chat,
    counts: Counts,
    effects: Vec<Effect>,
}

impl State {
    pub fn new(options: &PlatformOptions) -> State {
        let accounts = options.accounts.iter().map(|account| (account.id.clone(), account.clone()));
        State {
            client_id: options.client_id.clone(),
            client_secret: options.client_secret.clone(),
            redirect_uris: options.redirect_uris.clone(),
            rules: options.rules.clone(),
            rng: StdRng::seed_from_u64(options.seed.unwrap_or_else(|| rand::rng().next_u64())),
            serial: 0,
            accounts: accounts.collect(),
            grants: BTreeMap::new(),
            moderators: BTreeSet::new(),
            banned: BTreeSet::new(),
            streams: BTreeMap::new(),
            tokens: oauth::Tokens::default(),
            buckets: HashMap::new(),
            faults: Vec::new(),
            seen: VecDeque::new(),
            conduits: BTreeMap::new(),
            sessions: BTreeMap::new(),
            subscriptions: subscriptions::Subscriptions::default(),
            chat: chat::Chat::default(),
            counts: Counts::default(),
            effects: Vec::new(),
        }
    }

    /// What is to be done since the last time.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn new_id(&mut self) -> String {
        uuid::Builder::from_random_bytes(self.rng.random()).into_uuid().to_string()
    }

    fn new_token(&mut self, letters: usize) -> String {
        let mut letter = || char::from(TOKEN_LETTERS[self.rng.random_range(0..TOKEN_LETTERS.len())]);
        (0..letters).map(|_| letter()).collect()
    }

    /// Puts `value` at the end of a list that forgets its oldest.
    fn remember<T>(list: &mut VecDeque<T>, value: T, max: usize) {
        while list.len() >= max.max(1) {
            list.pop_front();
        }
        list.push_back(value);
    }
}

/// As Twitch writes times: RFC 3339 with nanoseconds.
pub(super) fn timestamp(at: OffsetDateTime) -> String {
    // Only years beyond 9999 have no such form.
    at.format(&Rfc3339).unwrap_or_default()
}

/// `event` with somebody's id, login and name under this prefix.
fn naming(mut event: Value, prefix: &str, account: &Account) -> Value {
    event[format!("{prefix}_id")] = json!(account.id);
    event[format!("{prefix}_login")] = json!(account.login);
    event[format!("{prefix}_name")] = json!(account.display_name);
    event
}

#[cfg(test)]
mod tests;
