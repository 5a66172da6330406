//! Keeping Twitch and us in line: tokens that stay valid, a conduit whose shards lead here, the subscriptions that the
//! live sessions need, which streams are live, and how chats are doing. All of it heals by itself, and says so where
//! only a person can help.
//!
//! Reading order: [`vault`] (tokens, sealed), [`app_token`] (the application's own), [`tokens`] (refreshed ahead of
//! their end, asked about hourly), [`conduit`], [`subscriptions`], [`streams`] (which are live, so that they are
//! recorded), [`chat_health`] (which chats are silent or can't be read), [`duty`] (one instance does it for all),
//! [`shards`] (over WebSockets, where Twitch can't reach us), [`replies`] (what the bot says).

pub mod app_token;
pub mod chat_health;
pub mod conduit;
pub mod duty;
pub mod replies;
pub mod shards;
pub mod streams;
pub mod subscriptions;
pub mod tokens;
pub mod vault;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use prometheus::IntGaugeVec;
use rand::RngExt;
use tokio::sync::Notify;

use self::app_token::AppToken;
use self::vault::Vault;
use crate::hot::chat::ChatWindows;
use crate::hot::stream_status::StreamStatuses;
use crate::journal::clock::DatabaseClock;
use crate::journal::sessions::Entry;
use crate::journal::{Journal, JournalError};
use crate::security::keyring::KeyringError;
use crate::settings::Secret;
use crate::twitch::client::{Client, TwitchError};

/// What is wanted of Twitch, whichever instance does it.
#[derive(Clone)]
pub struct TwitchOptions {
    /// The account that reads chat; without it no chat is subscribed to.
    pub bot_user_id: Option<String>,
    pub delivery: Delivery,
    /// How many shards the conduit has.
    pub shards: u32,
    /// How long a chat's subscriptions are kept after its session has ended.
    pub keep: Duration,
    /// A live stream's chat counts as silent once nothing has been heard of it for so long.
    pub silent_after: Duration,
}

/// How Twitch delivers notifications.
#[derive(Clone)]
pub enum Delivery {
    /// To this address, signed with this secret.
    Webhook { callback: String, secret: Secret<String> },
    /// Over sessions that instances hold.
    Websocket,
}

/// Everything that is known of Twitch's application, its tokens and its conduit.
pub struct Twitch {
    pub options: TwitchOptions,
    pub journal: Journal,
    pub client: Client,
    pub app: AppToken,
    pub vault: Vault,
    /// What was last seen of streams.
    pub statuses: StreamStatuses,
    /// When chats were last heard.
    pub windows: ChatWindows,
    pub clock: Arc<DatabaseClock>,
    /// Told of each streamer whose stream began or ended, or whose recording did: who holds the session has changed.
    pub changed: Arc<dyn Fn(&Entry) + Send + Sync>,
    /// Set once the instance is about to stop: it takes no duty any more.
    pub stopping: AtomicBool,
    /// Something is due sooner than the next look.
    pub due: Arc<Notify>,
    /// A shard may have been disabled.
    pub shards_in_doubt: Arc<Notify>,
    /// Subscriptions by status, shown by the instance that looks after them.
    pub subscriptions: IntGaugeVec,
    /// Chats in trouble by health, likewise.
    pub chats: IntGaugeVec,
}

/// Why something with Twitch did not come about.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error(transparent)]
    Twitch(#[from] TwitchError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("stored tokens: {0}")]
    Keyring(#[from] KeyringError),
    #[error("{0}")]
    Token(String),
}

/// The pause before the next try after `attempts` in vain: doubles up to `most`, and differs by up to a half, so that
/// what failed together does not come back together.
pub fn backoff(attempts: u32, first: Duration, most: Duration) -> Duration {
    let whole = first.saturating_mul(2u32.saturating_pow(attempts.min(30))).min(most);
    whole.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let pause = |attempts| backoff(attempts, Duration::from_secs(1), Duration::from_secs(300));
        assert!(
            (0..50).all(|_| pause(0) <= Duration::from_secs(1) && pause(0) >= Duration::from_millis(500))
        );
        assert!(pause(3) >= Duration::from_secs(4));
        assert!(pause(u32::MAX) >= Duration::from_secs(150) && pause(u32::MAX) <= Duration::from_secs(300));
        let pauses: std::collections::BTreeSet<Duration> = (0..50).map(|_| pause(5)).collect();
        assert!(pauses.len() > 1);
    }
}
