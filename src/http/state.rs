//! What all routes share.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use actix::Addr;

use super::admin::auth::gate::Gate;
use crate::actors::chat_window::ChatWindow;
use crate::actors::feed::Feed;
use crate::actors::lookup::Lookup;
use crate::actors::places::Places;
use crate::actors::retract::Retractor;
use crate::actors::services::Services;
use crate::actors::supervisor::Supervisor;
use crate::domain::audience::Audience;
use crate::hot::cache::Cache;
use crate::hot::chat::ChatWindows;
use crate::hot::deny::DenyList;
use crate::hot::limits::Limits;
use crate::hot::replies::{ChatLimits, Replies};
use crate::hot::spill::Spill;
use crate::journal::Journal;
use crate::reconcile::Twitch;
use crate::security::access_token::AccessTokens;
use crate::security::keyring::Keyring;
use crate::security::password::Passwords;
use crate::security::ticket::TicketSigner;
use crate::settings::Settings;
use crate::twitch::signature::Secrets;

/// Unknown subscription types that are told apart; who could sign messages could make up more.
const UNKNOWN_TYPES_MAX: usize = 100;

/// What all routes share.
pub struct State {
    pub services: Arc<Services>,
    /// For what the actors have no part in: profiles, settings, lists.
    pub journal: Journal,
    /// The votes' queue, for its dead letters.
    pub spill: Spill,
    /// How often somebody may try something, for all instances.
    pub limits: Limits,
    /// What belongs to browsers and may be forgotten.
    pub cache: Cache,
    /// Signs cookies; none: nobody can sign in.
    pub signer: Option<TicketSigner>,
    /// Hashes and compares operators' passwords.
    pub passwords: Passwords,
    /// Signs operators' access tokens; none: no operator can sign in.
    pub access_tokens: Option<AccessTokens>,
    /// Access tokens that are worth nothing any more.
    pub deny: DenyList,
    /// What this instance knows of who is let in to the admin API.
    pub gate: Gate,
    /// Seals operators' second factors.
    pub keyring: Keyring,
    /// Takes votes back.
    pub retractor: Retractor,
    /// Who votes.
    pub audience: Audience,
    /// What the bot has to say, and how often it may.
    pub replies: Replies,
    /// What was said lately in each chat, to be written to Redis.
    pub chat_window: Arc<ChatWindow>,
    /// The same, as Redis has it.
    pub windows: ChatWindows,
    pub chat_limits: ChatLimits,
    /// None without an application at Twitch.
    pub twitch: Option<Arc<Twitch>>,
    pub supervisor: Addr<Supervisor>,
    /// For broadcasters that the directory may not know yet.
    pub lookup: Lookup,
    pub feed: Arc<Feed>,
    pub settings: Arc<Settings>,
    /// Where people and browsers reach this deployment, without a final slash.
    pub public_url: String,
    /// Whether only this machine can reach it.
    pub loopback: bool,
    pub webhook_secrets: Secrets,
    /// Set once the instance is about to stop.
    pub draining: Arc<AtomicBool>,
    /// Open overlays by IP address.
    pub places: Arc<Places>,
    pub unknown_types: Mutex<HashSet<String>>,
}

impl State {
    /// The URL to paste into OBS.
    pub fn overlay_url(&self, overlay_uuid: uuid::Uuid) -> String {
        format!("{}/overlay/{overlay_uuid}", self.public_url)
    }

    /// Whether browsers reach this deployment by TLS.
    pub fn tls(&self) -> bool {
        self.public_url.starts_with("https:")
    }

    /// Whether this subscription type has not been seen before.
    pub fn first_unknown(&self, subscription_type: &str) -> bool {
        let mut seen = self.unknown_types.lock().unwrap_or_else(PoisonError::into_inner);
        seen.len() < UNKNOWN_TYPES_MAX && seen.insert(subscription_type.to_owned())
    }
}
