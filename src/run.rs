//! Builds all rooms and runs one instance, for the program and for tests alike.

pub mod operators;
mod servers;
pub mod twitch;

use std::collections::HashSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, Addr};
use actix_web::dev::ServerHandle;
use actix_web::web::Data;
use tokio_postgres::Config;
use uuid::Uuid;

pub use self::servers::Listeners;
use crate::actors::chat_window::ChatWindow;
use crate::actors::committer::Committer;
use crate::actors::feed::{self, Feed};
use crate::actors::lookup::Lookup;
use crate::actors::places::Places;
use crate::actors::retract::Retractor;
use crate::actors::services::{ActorOptions, Ports, Services};
use crate::actors::supervisor::{Drain, Supervisor};
use crate::actors::upkeep;
use crate::domain::audience::Audience;
use crate::hot::cache::Cache;
use crate::hot::chat::ChatWindows;
use crate::hot::deny::DenyList;
use crate::hot::limits::Limits;
use crate::hot::replies::{ChatLimits, Replies};
use crate::hot::spill::{Durability, Spill, SpillOptions};
use crate::hot::{Hot, HotError, HotOptions};
use crate::http::admin::auth::gate::Gate;
use crate::http::state::State;
use crate::journal::clock::DatabaseClock;
use crate::journal::{Journal, JournalError, JournalOptions, migrations};
use crate::reconcile::{ReconcileError, Twitch};
use crate::security::access_token::AccessTokens;
use crate::security::keyring::Keyring;
use crate::security::password::Passwords;
use crate::security::ticket::TicketSigner;
use crate::settings::sections::{QueueDurability, Redis};
use crate::settings::{RedisUrl, Settings};
use crate::telemetry::metrics::Metrics;
use crate::twitch::client::TwitchError;
use crate::twitch::signature::{SecretError, Secrets};

/// Connections to PostgreSQL for votes, the lease and the directory's feed, beside the pool.
const VOTE_CONNECTIONS: usize = 6;
/// With so many threads for HTTP or fewer, session actors share the committer's: more threads than cores only
/// make a vote wait for each other.
const FEW_WORKERS: usize = 2;
/// Connecting to Redis, and its sign of life: a server that takes longer counts as away.
const REDIS_CONNECT_MAX: Duration = Duration::from_millis(500);
/// For tests, in builds with debug assertions only: see [`ActorOptions::panic_on_message`].
const PANIC_ON_MESSAGE: &str = "PANIC_ON_MESSAGE";
/// What a person waits for Redis without noticing.
const PERSON_WAITS: Duration = Duration::from_millis(500);
/// Between two looks whether the supervisor lives.
const SUPERVISOR_LOOK: Duration = Duration::from_secs(1);
/// Between two looks for the limits' Redis.
const LIMITS_PROBE: Duration = Duration::from_secs(1);

/// Why an instance does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("can't listen on {address} ({setting}): {reason}")]
    Listen { address: SocketAddr, setting: &'static str, reason: String },
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("Redis: {0}")]
    Hot(#[from] HotError),
    #[error("twitch.webhook_secret: {0}")]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Reconcile(#[from] ReconcileError),
    #[error("twitch: {0}")]
    Twitch(#[from] TwitchError),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("the supervisor failed; start this instance again")]
    Supervisor,
    #[error("the HTTP server failed: {0}")]
    Http(#[from] std::io::Error),
}

/// Brings the schema to the newest version, and grants the application's role what it needs.
///
/// # Errors
/// [`JournalError`] when PostgreSQL is away or refuses.
pub async fn migrate(settings: &Settings) -> Result<migrations::Migrated, JournalError> {
    let owner_url = settings.database.migrate_url.expose();
    let user = |url: &str| url.parse::<Config>().ok().and_then(|config| config.get_user().map(str::to_owned));
    let application = user(settings.database.url.expose());
    let application = application.filter(|application| Some(application) != user(owner_url).as_ref());
    migrations::migrate(owner_url, application.as_deref()).await
}

/// The journal of the settings, for the given instance.
///
/// # Errors
/// [`JournalError::Url`] when the URL can't be used.
pub fn journal(settings: &Settings, instance_id: Uuid) -> Result<Journal, JournalError> {
    Journal::new(settings.database.url.expose(), &journal_options(settings), instance_id)
}

fn journal_options(settings: &Settings) -> JournalOptions {
    JournalOptions {
        pool_size: settings.database.pool_size,
        connect_timeout: settings.database.connect_timeout,
        statement_timeout: settings.database.statement_timeout,
    }
}

/// Has this process use small pages of memory only. Linux would give it huge ones, of which thousands of small
/// things use a part each, and clear all of each before its first use.
pub fn refuse_huge_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
}

/// Runs one instance until `shutdown` is ready, then lets go of everything in order. Calls `ready`
/// when it takes requests.
///
/// # Errors
/// [`RunError`] when the instance can't start: PostgreSQL away, its schema too old, or a setting
/// that can't be used. Redis or Twitch being away is no reason not to start.
pub async fn run(
    settings: Arc<Settings>,
    listeners: Listeners,
    ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let parts = parts(&settings).await?;
    let services = Arc::clone(&parts.services);
    let feed = Arc::new(Feed::new(Arc::clone(&services)));
    feed.refresh().await?;
    upkeep::renew_lease(&services, true).await;
    // What can stand in for another part has to be known before the first vote; away, it is found later.
    let _ =
        tokio::join!(services.hot.probe(), parts.spill.probe(), parts.limits.probe(), parts.cache.probe());
    let committer = Committer::start(Arc::clone(&services));
    let supervisor = Supervisor::new(services, committer, Arc::clone(&feed)).start();
    actix::spawn(feed::listen_always(
        settings.database.url.expose().to_owned(),
        journal_options(&settings),
        Arc::clone(&feed),
    ));
    actix::spawn(look_for_limits(parts.limits.clone()));
    actix::spawn(look_for_cache(parts.cache.clone()));
    let state = Data::new(state(Arc::clone(&settings), parts, supervisor.clone(), feed)?);
    let addresses = (listeners.public.local_addr()?, listeners.ops.local_addr()?);
    let public = servers::public_server(&settings, state.clone(), listeners.public)?;
    let ops = servers::ops_server(state.clone(), listeners.ops)?;
    let handles = [public.handle(), ops.handle()];
    let mut serving = actix::spawn(async move { tokio::try_join!(public, ops).map(|_| ()) });
    tracing::info!(public = %addresses.0, ops = %addresses.1, "ready");
    twitch::start(&state);
    actix::spawn({
        let state = state.clone();
        async move {
            let is_live = |id| state.services.directory.by_streamer(id).is_some();
            state.chat_window.keep_writing(is_live).await
        }
    });
    ready();

    tokio::select! {
        ended = &mut serving => return Ok(ended.map_err(std::io::Error::other)??),
        () = end_of(supervisor.clone()) => return Err(RunError::Supervisor),
        () = shutdown => {}
    }
    tracing::info!("stopping");
    state.draining.store(true, Ordering::Release);
    // Overlays are told to go elsewhere and holds are released, while requests are still answered.
    if tokio::time::timeout(settings.http.drain, supervisor.send(Drain)).await.is_err() {
        tracing::warn!("not all sessions could be released in time; their leases will lapse");
    }
    if let Some(twitch) = &state.twitch {
        twitch.leave_duties().await;
    }
    stop(handles).await;
    serving.await.map_err(std::io::Error::other)??;
    state.chat_window.finish().await;
    tracing::info!("stopped");
    Ok(())
}

fn state(
    settings: Arc<Settings>,
    parts: Parts,
    supervisor: Addr<Supervisor>,
    feed: Arc<Feed>,
) -> Result<State, RunError> {
    let Parts { services, journal, spill, limits, cache, windows, deny, replies, twitch } = parts;
    Ok(State {
        lookup: Lookup::start(Arc::clone(&services)),
        retractor: Retractor::new(Arc::clone(&services), journal.clone()),
        services,
        journal,
        spill,
        audience: Audience::new(&settings.chat.ignored_users, settings.twitch.bot_user_id.as_deref()),
        chat_limits: ChatLimits::new(limits.clone(), settings.chat.replies_per_30_seconds),
        limits,
        cache,
        replies,
        chat_window: Arc::new(ChatWindow::new(windows.clone())),
        windows,
        passwords: Passwords::new(settings.security.hashes_at_once),
        access_tokens: AccessTokens::new(&settings.security.token_keys.0),
        deny,
        gate: Gate::default(),
        keyring: Keyring::new(&settings.security.encryption_keys.0),
        signer: settings.security.session_key.clone().map(TicketSigner::new),
        twitch,
        supervisor,
        feed,
        public_url: settings.http.public_url.to_string(),
        loopback: twitch::is_loopback(&settings.http.public_url),
        webhook_secrets: Secrets::new(settings.twitch.webhook_secrets().map(|secret| secret.expose()))?,
        draining: Arc::new(AtomicBool::new(false)),
        places: Places::new(settings.limits.overlays_per_ip_max),
        unknown_types: Mutex::new(HashSet::new()),
        settings,
    })
}

/// Ends when the supervisor has died, without which nothing goes on.
async fn end_of(supervisor: Addr<Supervisor>) {
    while supervisor.connected() {
        tokio::time::sleep(SUPERVISOR_LOOK).await;
    }
}

/// Looks whether the limits' Redis is there, for as long as the instance runs.
async fn look_for_limits(limits: Limits) {
    let mut there = true;
    loop {
        let answer = limits.probe().await;
        if let Err(error) = &answer
            && there
        {
            tracing::warn!(%error, "the Redis for rate limits is away: nothing is limited");
        }
        there = answer.is_ok();
        tokio::time::sleep(LIMITS_PROBE).await;
    }
}

/// Looks whether the cache's Redis is there for browsers, too. Who looks for the sessions' one says so in the log.
async fn look_for_cache(cache: Cache) {
    loop {
        let _ = cache.probe().await;
        tokio::time::sleep(LIMITS_PROBE).await;
    }
}

async fn stop(handles: [ServerHandle; 2]) {
    let [public, ops] = handles;
    tokio::join!(public.stop(true), ops.stop(true));
}

/// What one instance is built of, apart from HTTP.
struct Parts {
    services: Arc<Services>,
    journal: Journal,
    spill: Spill,
    limits: Limits,
    cache: Cache,
    windows: ChatWindows,
    deny: DenyList,
    replies: Replies,
    twitch: Option<Arc<Twitch>>,
}

async fn parts(settings: &Settings) -> Result<Parts, RunError> {
    let instance_id = Uuid::now_v7();
    let metrics = Arc::new(Metrics::new()?);
    let journal = journal(settings, instance_id)?.observed_by(metrics.postgres_query_seconds.clone());
    let vote_options = JournalOptions { pool_size: VOTE_CONNECTIONS, ..journal_options(settings) };
    let vote_journal = Journal::new(settings.database.url.expose(), &vote_options, instance_id)?
        .observed_by(metrics.postgres_query_seconds.clone());
    for warning in journal.check_durability().await? {
        tracing::warn!("{warning}");
    }
    journal.check_schema().await?;
    // Redis may be reached by TLS. Err means that the process has its provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let redis = &settings.redis;
    let spill = spill(redis, instance_id)?;
    let ports = Ports {
        journal: Arc::new(journal.clone()),
        vote_journal: Arc::new(vote_journal),
        hot: Arc::new(Hot::connect(&redis_options(redis, &redis.url))?),
        spill: Some(Arc::new(spill.clone())),
    };
    let limits = Limits::new(Hot::connect(&patient(redis, &redis.rate_limit_url))?);
    let clock = Arc::new(DatabaseClock::default());
    metrics.started_at_seconds.set(clock.now().0 as f64 / 1000.0);
    let services = Arc::new(Services::new(actor_options(settings), ports, clock, metrics));
    // Connections of their own: their time-outs are none of the votes'.
    let beside = Hot::connect(&patient(redis, &redis.url))?;
    let twitch = twitch::build(settings, &journal, &services, &beside)?;
    let cache = Cache::new(beside.clone());
    let (windows, deny) = (ChatWindows::new(beside.clone()), DenyList::new(beside));
    let replies = Replies::new(Hot::connect(&patient(redis, &redis.queue_url))?, instance_id);
    Ok(Parts { services, journal, spill, limits, cache, windows, deny, replies, twitch })
}

pub(crate) fn spill(redis: &Redis, instance_id: Uuid) -> Result<Spill, HotError> {
    let durability = match redis.queue_is_durable {
        QueueDurability::Ask => Durability::Ask,
        QueueDurability::Yes => Durability::Yes,
        QueueDurability::No => Durability::No,
    };
    let entries_max = usize::try_from(redis.queue_entries_max).unwrap_or(usize::MAX);
    let options = SpillOptions { instance_id, entries_max, durability };
    let server = redis_options(redis, &redis.queue_url);
    Spill::connect(&HotOptions { command_timeout: redis.queue_timeout, ..server }, &options)
}

/// As [`redis_options`], for what a person or a chat waits for rather than a vote.
fn patient(redis: &Redis, url: &RedisUrl) -> HotOptions {
    let options = redis_options(redis, url);
    HotOptions { command_timeout: options.command_timeout.max(PERSON_WAITS), ..options }
}

pub(crate) fn redis_options(redis: &Redis, url: &RedisUrl) -> HotOptions {
    HotOptions {
        urls: url.expose().map(str::to_owned).collect(),
        pool_size: redis.pool_size,
        command_timeout: redis.command_timeout,
        connect_timeout: REDIS_CONNECT_MAX,
    }
}

fn actor_options(settings: &Settings) -> ActorOptions {
    ActorOptions {
        tick: settings.session.tick,
        debounce: settings.session.debounce,
        keyframe: settings.session.keyframe,
        ping: settings.overlay.ping,
        pong_timeout: settings.overlay.pong_timeout,
        lease: settings.session.lease,
        orphan: settings.session.orphan,
        drain: settings.http.drain,
        idle: settings.session.idle,
        vote_wait: settings.limits.vote_wait,
        commit: settings.database.append_timeout,
        overlay_message_bytes_max: settings.overlay.frame_bytes_max,
        votes_waiting_max: settings.limits.votes_waiting_max,
        overlays_per_session_max: settings.overlay.connections_per_session_max,
        arbiters: if settings.http.workers <= FEW_WORKERS { 0 } else { settings.http.workers / 2 },
        panic_on_message: std::env::var(PANIC_ON_MESSAGE).ok().filter(|_| cfg!(debug_assertions)),
    }
}
