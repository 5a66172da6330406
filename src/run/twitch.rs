//! Twitch, as one instance needs it: built from the settings, and looked after while the instance runs.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use actix_web::web::Data;
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use super::RunError;
use crate::actors::feed;
use crate::actors::services::Services;
use crate::hot::Hot;
use crate::hot::cache::Cache;
use crate::hot::chat::ChatWindows;
use crate::hot::stream_status::StreamStatuses;
use crate::http::state::State;
use crate::http::{self, auth, session};
use crate::journal::Journal;
use crate::journal::sessions::Entry;
use crate::journal::tokens::Owner;
use crate::reconcile::app_token::AppToken;
use crate::reconcile::vault::{self, Vault};
use crate::reconcile::{Delivery, Twitch, TwitchOptions};
use crate::security::keyring::Keyring;
use crate::settings::{Settings, Transport, WebUrl};
use crate::twitch::client::{Client, ClientOptions};

/// Where Twitch delivers notifications.
pub(crate) const WEBHOOK_PATH: &str = "/webhooks/eventsub";

/// Messages from WebSockets that may wait to be taken.
const ARRIVALS_MAX: usize = 256;

/// What is wanted of Twitch; `None` without an application there.
///
/// # Errors
/// [`RunError::Twitch`] for a URL that can't be used.
pub(super) fn build(
    settings: &Settings,
    journal: &Journal,
    services: &Arc<Services>,
    redis: &Hot,
) -> Result<Option<Arc<Twitch>>, RunError> {
    let twitch = &settings.twitch;
    let (Some(client_id), Some(client_secret)) = (&twitch.client_id, &twitch.client_secret) else {
        tracing::info!(
            "twitch.client_id and twitch.client_secret are not set: nobody can sign in with Twitch"
        );
        return Ok(None);
    };
    let client = Client::new(ClientOptions {
        client_id: client_id.clone(),
        client_secret: client_secret.clone(),
        helix_url: twitch.helix_url.to_string(),
        oauth_url: twitch.oauth_url.to_string(),
        timeout: twitch.timeout,
    })?
    .observed_by(services.metrics.twitch.requests.clone());
    let keys = Keyring::new(&settings.security.encryption_keys.0);
    Ok(Some(Arc::new(Twitch {
        options: TwitchOptions {
            bot_user_id: twitch.bot_user_id.clone(),
            delivery: match twitch.transport {
                Transport::Webhook => Delivery::Webhook {
                    callback: format!("{}{WEBHOOK_PATH}", settings.http.public_url),
                    secret: twitch.webhook_secret.clone().unwrap_or_default(),
                },
                Transport::Websocket => Delivery::Websocket,
            },
            shards: twitch.conduit_shards,
            keep: twitch.keep,
            silent_after: settings.chat.silent_after,
        },
        statuses: StreamStatuses::new(redis.clone()),
        windows: ChatWindows::new(redis.clone()),
        clock: Arc::clone(&services.clock),
        changed: told_of_recordings(Arc::clone(services)),
        chats: services.metrics.twitch.chats.clone(),
        app: AppToken::new(client.clone()),
        vault: Vault::new(journal.clone(), keys, client.clone()),
        client,
        journal: journal.clone(),
        stopping: AtomicBool::new(false),
        due: Arc::clone(&services.chat_wanted),
        shards_in_doubt: Arc::new(Notify::new()),
        subscriptions: services.metrics.twitch.subscriptions.clone(),
    })))
}

/// What is done with an entry whose recording has begun or ended.
fn told_of_recordings(services: Arc<Services>) -> Arc<dyn Fn(&Entry) + Send + Sync> {
    Arc::new(move |entry| {
        feed::adopt_recording(&services, entry.clone());
        services.chat_wanted.notify_one();
    })
}

/// Looks after tokens, conduit and subscriptions from now on.
pub(super) fn start(state: &Data<State>) {
    let Some(twitch) = state.twitch.clone() else { return };
    actix::spawn({
        let twitch = Arc::clone(&twitch);
        async move { twitch.serve_duty().await }
    });
    if let Delivery::Websocket = twitch.options.delivery {
        let (inbox, arrivals) = mpsc::channel(ARRIVALS_MAX);
        let url = state.settings.twitch.eventsub_url.to_string();
        actix::spawn(http::arrivals::take_all(state.clone(), arrivals));
        actix::spawn(Arc::clone(&twitch).serve_shards(url, inbox));
    }
    actix::spawn({
        let (twitch, state) = (Arc::clone(&twitch), state.clone());
        async move {
            let services = &state.services;
            let (clock, outcomes) = (&services.clock, &services.metrics.twitch.replies);
            twitch.serve_replies(&state.replies, &state.chat_limits, clock, outcomes).await;
        }
    });
    let state = state.clone();
    actix::spawn(async move {
        twitch.keep_tokens(async |owner: &Owner| session::sign_out(&state, owner).await).await;
    });
}

/// Makes a link for the bot's sign-in: a path with its query.
///
/// # Errors
/// [`RunError::Hot`] when Redis is away.
pub async fn bot_link(settings: &Settings) -> Result<String, RunError> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cache = Cache::new(Hot::connect(&super::redis_options(&settings.redis, &settings.redis.url))?);
    Ok(auth::bot_link(&cache).await?)
}

/// Encrypts stored tokens again with the newest key; tells how many it has done so far. Answers how many, and which ones
/// could not be opened.
///
/// # Errors
/// [`RunError::Twitch`] or [`RunError::Reconcile`] when there is no key, or PostgreSQL is away; what was done stays done.
pub async fn rotate_keys(settings: &Settings, done: impl FnMut(usize)) -> Result<vault::Rotated, RunError> {
    let keyring = Keyring::new(&settings.security.encryption_keys.0);
    Ok(vault::rotate(&super::journal(settings, Uuid::now_v7())?, &keyring, done).await?)
}

/// Whether only this machine can reach the address.
pub(crate) fn is_loopback(url: &WebUrl) -> bool {
    let host = url::Url::parse(url.as_str()).ok();
    let host = host.as_ref().and_then(|url| url.host_str()).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
