//! How a platform is set up: its application, who has an account, and by which rules it plays.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::settings::Secret;
use crate::twitch::simulator::crowd::Person;

/// Tells the time; tests may bring their own.
pub type Clock = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

/// Somebody on Twitch: a streamer, a bot or a viewer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Digits, as on Twitch.
    pub id: String,
    /// Lower case.
    pub login: String,
    pub display_name: String,
}

impl Account {
    /// An account whose display name is its login.
    pub fn new(id: impl Into<String>, login: impl Into<String>) -> Account {
        let login = login.into();
        Account { id: id.into(), display_name: login.clone(), login }
    }

    pub(super) fn person(&self) -> Person {
        Person { id: self.id.clone(), login: self.login.clone(), name: self.display_name.clone() }
    }
}

/// What a platform is started with.
#[derive(Clone)]
pub struct PlatformOptions {
    /// The one application that is registered.
    pub client_id: String,
    pub client_secret: Secret<String>,
    /// Where its users may be sent back to, each exactly as the application will say it.
    pub redirect_uris: Vec<String>,
    /// Who has an account from the beginning; more can be added.
    pub accounts: Vec<Account>,
    /// Where OAuth, Helix and the control API are served; port 0 for a free one.
    pub http: SocketAddr,
    /// Where EventSub's WebSockets are served; port 0 for a free one.
    pub eventsub: SocketAddr,
    /// `None`: this machine's clock.
    pub clock: Option<Clock>,
    /// What tokens and ids follow from; `None`: chance.
    pub seed: Option<u64>,
    pub rules: Rules,
}

impl PlatformOptions {
    /// A platform on free ports of loopback with this application and no accounts.
    pub fn new(client_id: impl Into<String>, client_secret: Secret<String>) -> PlatformOptions {
        let free_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        PlatformOptions {
            client_id: client_id.into(),
            client_secret,
            redirect_uris: Vec::new(),
            accounts: Vec::new(),
            http: free_port,
            eventsub: free_port,
            clock: None,
            seed: None,
            rules: Rules::default(),
        }
    }
}

/// Limits and waits. The defaults are Twitch's where Twitch says them, else guesses at them.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Whether a webhook may be plain HTTP on a loopback address, beside HTTPS on port 443.
    pub allow_http: bool,
    /// Whether a refresh token ends as soon as it was used; else once the one after it is used.
    pub strict_rotation: bool,
    pub user_token: Duration,
    pub app_token: Duration,
    /// How long an authorization code can be exchanged.
    pub code: Duration,
    /// Helix requests per minute, of the application and of each user.
    pub points_per_minute: u32,
    pub conduits_max: usize,
    /// Shards of one conduit.
    pub shards_max: u32,
    /// Subscriptions with the same type and condition.
    pub same_subscriptions_max: usize,
    pub max_total_cost: u32,
    /// Entries of one page, where the client does not choose.
    pub page_size: usize,
    /// Chat messages that one account may send in `chat_window`.
    pub chat_sends_max: usize,
    /// The same, where it is the broadcaster or a moderator.
    pub chat_sends_privileged_max: usize,
    pub chat_window: Duration,
    /// A message that holds one of these, in whatever case, is rejected by moderation.
    pub rejected_words: Vec<String>,
    /// Names and ids of the emotes that everybody can use.
    pub emotes: Vec<(String, String)>,
    /// How long a webhook may take to answer.
    pub answer: Duration,
    /// Between a failed delivery and the next try; as many tries more as there are pauses.
    pub retry_pauses: Vec<Duration>,
    /// So many failed tries in a row disable a webhook shard.
    pub failures_max: u32,
    /// Requests to webhooks at a time.
    pub deliveries_max: usize,
    /// Notifications that may wait to be delivered, or to be tried again; beyond, they are dropped.
    pub deliveries_waiting_max: usize,
    /// What a WebSocket client may choose, in seconds.
    pub keepalive_seconds: RangeInclusive<u64>,
    /// Without a choice.
    pub keepalive_seconds_default: u64,
    /// How long a WebSocket may live without belonging to a shard.
    pub unused: Duration,
    /// How long a client may take to follow a reconnect message.
    pub reconnect_grace: Duration,
    /// Whether a session gets another id when its client reconnected. Twitch does not say.
    pub renames_on_reconnect: bool,
    /// Between two pings; a client that has not answered one by the next has failed.
    pub ping: Duration,
    /// WebSockets at a time.
    pub sockets_max: usize,
    /// How long a request hangs that was told to.
    pub hang: Duration,
    /// Chat messages, requests and dead subscriptions that are remembered, each.
    pub remembered_max: usize,
}

impl Default for Rules {
    fn default() -> Rules {
        let emote = |name: &str, id: &str| (name.to_owned(), id.to_owned());
        Rules {
            allow_http: true,
            strict_rotation: false,
            user_token: Duration::from_secs(4 * 3600),
            app_token: Duration::from_secs(58 * 24 * 3600),
            code: Duration::from_secs(600),
            points_per_minute: 800,
            conduits_max: 5,
            shards_max: 20_000,
            same_subscriptions_max: 3,
            max_total_cost: 10_000,
            page_size: 100,
            chat_sends_max: 20,
            chat_sends_privileged_max: 100,
            chat_window: Duration::from_secs(30),
            rejected_words: Vec::new(),
            emotes: vec![emote("Kappa", "25"), emote("LUL", "425618"), emote("HeyGuys", "30259")],
            answer: Duration::from_secs(10),
            retry_pauses: [1, 5, 20, 60].map(Duration::from_secs).to_vec(),
            failures_max: 100,
            deliveries_max: 64,
            deliveries_waiting_max: 10_000,
            keepalive_seconds: 10..=600,
            keepalive_seconds_default: 10,
            unused: Duration::from_secs(10),
            reconnect_grace: Duration::from_secs(30),
            renames_on_reconnect: false,
            ping: Duration::from_secs(30),
            sockets_max: 1_000,
            hang: Duration::from_secs(60),
            remembered_max: 10_000,
        }
    }
}
