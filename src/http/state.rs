//! What all routes share.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use actix::Addr;

use crate::actors::feed::Feed;
use crate::actors::places::Places;
use crate::actors::services::Services;
use crate::actors::supervisor::Supervisor;
use crate::settings::Settings;
use crate::twitch::signature::Secrets;

/// Unknown subscription types that are told apart; who could sign messages could make up more.
const UNKNOWN_TYPES_MAX: usize = 100;

/// What all routes share.
pub struct State {
    pub services: Arc<Services>,
    pub supervisor: Addr<Supervisor>,
    pub feed: Arc<Feed>,
    pub settings: Arc<Settings>,
    /// Where people and browsers reach this deployment, without a final slash.
    pub public_url: String,
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
