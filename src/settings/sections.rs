//! The settings by section, and how each key is read. What the keys mean stands in
//! `config/default.toml`; here a time carries its unit in its type.

mod twitch;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::thread::available_parallelism;
use std::time::Duration;

use ipnet::IpNet;

pub use self::twitch::{Chat, Transport, Twitch};
use super::reader::{Fault, Reader};
use super::servers::{self, DatabaseUrl, RedisUrl};
use super::values::{self, Key, Keys, WebUrl};
use super::{Needs, Secret};

/// Stands in for an address that could not be read.
const NO_ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
/// Databases of one Redis server that the roles use by default.
const RATE_LIMIT_DATABASE: u8 = 1;
const QUEUE_DATABASE: u8 = 2;

/// All settings.
#[derive(Clone, Debug)]
pub struct Settings {
    pub http: Http,
    pub ops: Ops,
    pub database: Database,
    pub redis: Redis,
    pub session: Session,
    pub overlay: Overlay,
    pub limits: Limits,
    pub twitch: Twitch,
    pub chat: Chat,
    pub security: Security,
    pub admin: Admin,
    pub retention: Retention,
    pub log: Log,
}

impl Settings {
    pub(super) fn read(from: &mut Reader) -> Self {
        let settings = Settings {
            http: Http::read(from),
            ops: Ops { bind: from.optional("ops.bind", values::address).unwrap_or(NO_ADDRESS) },
            database: Database::read(from),
            redis: Redis::read(from),
            session: Session::read(from),
            overlay: Overlay::read(from),
            limits: Limits::read(from),
            twitch: Twitch::read(from),
            chat: Chat::read(from),
            security: Security::read(from),
            admin: Admin { bootstrap_token: from.optional("admin.bootstrap_token", values::token) },
            retention: Retention {
                vote_ids_days: from.number("retention.vote_ids_days", 1..=365),
                session_events_days: from.number("retention.session_events_days", 0..=36_500),
            },
            log: Log::read(from),
        };
        if settings.http.bind == settings.ops.bind && settings.ops.bind.port() != 0 {
            let what = "is the address of http.bind too";
            from.refuse("ops.bind", Fault::new(what, "write another port; this one is not for the public"));
        }
        settings
    }
}

/// The public listener.
#[derive(Clone, Debug)]
pub struct Http {
    pub bind: SocketAddr,
    /// Without a path or final slash. Follows from `bind` when not set; with port 0 there, the real
    /// port is known to the listener only.
    pub public_url: WebUrl,
    /// At least 1.
    pub workers: usize,
    pub allowed_origins: Vec<String>,
    pub trusted_proxies: Vec<IpNet>,
    pub drain: Duration,
}

impl Http {
    fn read(from: &mut Reader) -> Self {
        let bind = from.optional("http.bind", values::address).unwrap_or(NO_ADDRESS);
        let public_url = from.optional("http.public_url", values::public_url).unwrap_or_else(|| {
            let url = WebUrl::of_listener(bind);
            from.explain("http.public_url", format!("{url} (from http.bind)"));
            url
        });
        let workers = match from.size("http.workers", 0..=1_024) {
            0 => available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        Http {
            bind,
            public_url,
            workers,
            allowed_origins: from.list("http.allowed_origins", values::origin),
            trusted_proxies: from.list("http.trusted_proxies", values::network),
            drain: from.seconds("http.drain_seconds", 0..=600),
        }
    }
}

/// The listener for metrics and health.
#[derive(Clone, Debug)]
pub struct Ops {
    pub bind: SocketAddr,
}

/// PostgreSQL.
#[derive(Clone, Debug)]
pub struct Database {
    pub url: DatabaseUrl,
    /// Signs in as the owner of the schema.
    pub migrate_url: DatabaseUrl,
    pub pool_size: usize,
    pub statement_timeout: Duration,
    pub connect_timeout: Duration,
    pub append_timeout: Duration,
}

impl Database {
    fn read(from: &mut Reader) -> Self {
        let hint = "postgres://user:password@host:port/name";
        let url = from.required("database.url", Needs::Database, hint, servers::database_url);
        let url = url.unwrap_or_default();
        let migrate_url = from.optional("database.migrate_url", servers::database_url).unwrap_or_else(|| {
            from.explain("database.migrate_url", "(as database.url)".to_owned());
            url.clone()
        });
        Database {
            url,
            migrate_url,
            pool_size: from.size("database.pool_size", 1..=256),
            statement_timeout: from.millis("database.statement_timeout_ms", 100..=600_000),
            connect_timeout: from.millis("database.connect_timeout_ms", 100..=60_000),
            append_timeout: from.millis("database.append_timeout_ms", 50..=5_000),
        }
    }
}

/// Redis, in its three roles.
#[derive(Clone, Debug)]
pub struct Redis {
    /// Cache and sessions.
    pub url: RedisUrl,
    pub rate_limit_url: RedisUrl,
    pub queue_url: RedisUrl,
    /// Of each role.
    pub pool_size: usize,
    pub command_timeout: Duration,
    pub queue_timeout: Duration,
    pub queue_is_durable: QueueDurability,
    pub queue_entries_max: u64,
}

/// How it is known whether the queue's server keeps what it acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueDurability {
    /// The server is asked.
    Ask,
    Yes,
    No,
}

impl Redis {
    fn read(from: &mut Reader) -> Self {
        let hint = "redis://host:port";
        let durabilities =
            [("ask", QueueDurability::Ask), ("yes", QueueDurability::Yes), ("no", QueueDurability::No)];
        let url = from.required("redis.url", Needs::Everything, hint, servers::redis_url).unwrap_or_default();
        Redis {
            rate_limit_url: redis_role(from, "redis.rate_limit_url", &url, RATE_LIMIT_DATABASE),
            queue_url: redis_role(from, "redis.queue_url", &url, QUEUE_DATABASE),
            url,
            pool_size: from.size("redis.pool_size", 1..=256),
            command_timeout: from.millis("redis.command_timeout_ms", 10..=10_000),
            queue_timeout: from.millis("redis.queue_timeout_ms", 10..=10_000),
            queue_is_durable: from.choice("redis.queue_is_durable", durabilities),
            queue_entries_max: from.number("redis.queue_entries_max", 1_000..=100_000_000).into(),
        }
    }
}

fn redis_role(from: &mut Reader, key: &'static str, main: &RedisUrl, database: u8) -> RedisUrl {
    from.optional(key, servers::redis_url).unwrap_or_else(|| {
        let url = main.with_database(database);
        if url.expose().next().is_some() {
            from.explain(key, format!("{url} (from redis.url)"));
        }
        url
    })
}

/// Live sessions.
#[derive(Clone, Debug)]
pub struct Session {
    pub orphan: Duration,
    pub tick: Duration,
    pub debounce: Duration,
    pub keyframe: Duration,
    pub lease: Duration,
    pub idle: Duration,
}

impl Session {
    fn read(from: &mut Reader) -> Self {
        Session {
            orphan: from.seconds("session.orphan_seconds", 1..=3_600),
            tick: from.millis("session.tick_ms", 10..=1_000),
            debounce: from.millis("session.debounce_ms", 1..=60_000),
            keyframe: from.seconds("session.keyframe_seconds", 1..=60),
            lease: from.seconds("session.lease_seconds", 3..=300),
            idle: from.seconds("session.idle_seconds", 1..=3_600),
        }
    }
}

/// The overlays' sockets.
#[derive(Clone, Debug)]
pub struct Overlay {
    pub ping: Duration,
    pub pong_timeout: Duration,
    pub tcp_user_timeout: Duration,
    pub frame_bytes_max: usize,
    pub connections_per_session_max: usize,
}

impl Overlay {
    fn read(from: &mut Reader) -> Self {
        let overlay = Overlay {
            ping: from.seconds("overlay.ping_seconds", 1..=300),
            pong_timeout: from.seconds("overlay.pong_timeout_seconds", 1..=300),
            tcp_user_timeout: from.millis("overlay.tcp_user_timeout_ms", 1_000..=120_000),
            frame_bytes_max: from.size("overlay.frame_bytes_max", 128..=65_536),
            connections_per_session_max: from.size("overlay.connections_per_session_max", 1..=1_000_000),
        };
        if overlay.pong_timeout >= overlay.ping && overlay.ping > Duration::from_secs(1) {
            let what = "is not less than overlay.ping_seconds";
            let remedy = "shorten it, or ping less often: a pong is due before the next ping";
            from.refuse("overlay.pong_timeout_seconds", Fault::new(what, remedy));
        }
        overlay
    }
}

/// Bounds on what one instance takes in.
#[derive(Clone, Debug)]
pub struct Limits {
    pub webhook_body_bytes: usize,
    pub body_timeout: Duration,
    pub header_timeout: Duration,
    pub votes_waiting_max: usize,
    pub vote_wait: Duration,
    pub overlays_per_ip_max: usize,
    pub admin_requests_per_minute: u32,
    pub sign_ins_per_minute: u32,
    pub forms_per_minute: u32,
    /// Of one address, and to one account.
    pub operator_sign_ins_per_minute: u32,
    /// Codes of a second factor, of one account.
    pub operator_codes_per_minute: u32,
}

impl Limits {
    fn read(from: &mut Reader) -> Self {
        Limits {
            webhook_body_bytes: from.size("limits.webhook_body_bytes", 1_024..=16_777_216),
            body_timeout: from.millis("limits.body_timeout_ms", 100..=60_000),
            header_timeout: from.millis("limits.header_timeout_ms", 100..=60_000),
            votes_waiting_max: from.size("limits.votes_waiting_max", 100..=1_000_000),
            vote_wait: from.millis("limits.vote_wait_ms", 10..=5_000),
            overlays_per_ip_max: from.size("limits.overlays_per_ip_max", 1..=1_000_000),
            admin_requests_per_minute: from.number("limits.admin_requests_per_minute", 1..=1_000_000),
            sign_ins_per_minute: from.number("limits.sign_ins_per_minute", 1..=1_000_000),
            forms_per_minute: from.number("limits.forms_per_minute", 1..=1_000_000),
            operator_sign_ins_per_minute: from.number("limits.operator_sign_ins_per_minute", 1..=1_000_000),
            operator_codes_per_minute: from.number("limits.operator_codes_per_minute", 1..=1_000_000),
        }
    }
}

/// Keys of the program's own, and what guards passwords.
#[derive(Clone, Debug)]
pub struct Security {
    /// Newest first; none: tokens can't be stored.
    pub encryption_keys: Keys,
    /// None: no streamer can sign in.
    pub session_key: Option<Key>,
    /// Sign operators' access tokens, newest first; none: no operator can sign in.
    pub token_keys: Keys,
    /// On one instance, at least 1.
    pub hashes_at_once: usize,
}

impl Security {
    fn read(from: &mut Reader) -> Self {
        let encryption_keys = from.optional("security.encryption_keys", values::keys);
        let token_keys = from.optional("security.token_keys", values::keys);
        Security {
            encryption_keys: encryption_keys.unwrap_or_default(),
            session_key: from.optional("security.session_key", values::key),
            token_keys: token_keys.unwrap_or_default(),
            hashes_at_once: from.size("security.hashes_at_once", 1..=64),
        }
    }
}

/// The admin API.
#[derive(Clone, Debug)]
pub struct Admin {
    /// None: the API lets nobody in until there is an operator account.
    pub bootstrap_token: Option<Secret<String>>,
}

/// How long data is kept.
#[derive(Clone, Debug)]
pub struct Retention {
    pub vote_ids_days: u32,
    /// 0: for ever.
    pub session_events_days: u32,
}

/// Log lines.
#[derive(Clone, Debug)]
pub struct Log {
    pub format: LogFormat,
    /// `tracing` directives, checked.
    pub filter: String,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people on a terminal, else JSON.
    Auto,
    Human,
    Json,
}

impl Log {
    fn read(from: &mut Reader) -> Self {
        let formats = [("auto", LogFormat::Auto), ("human", LogFormat::Human), ("json", LogFormat::Json)];
        Log {
            format: from.choice("log.format", formats),
            filter: from.optional("log.filter", values::log_filter).unwrap_or_default(),
        }
    }

    /// Whether to write JSON, given whether standard error is a terminal.
    pub fn json(&self, terminal: bool) -> bool {
        match self.format {
            LogFormat::Auto => !terminal,
            LogFormat::Human => false,
            LogFormat::Json => true,
        }
    }
}
