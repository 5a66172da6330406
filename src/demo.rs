//! `chatpulse demo`: the whole product on one machine, with a streamer whose chat votes by itself.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use rand::Rng;
use tokio::sync::Notify;

use crate::domain::config::Config;
use crate::domain::streamer::Profile;
use crate::journal::JournalError;
use crate::journal::streamers::ChangeError;
use crate::local::{LocalError, Servers};
use crate::run::{self, Listeners, RunError};
use crate::settings::{self, Needs, Report, Settings};
use crate::twitch::simulator::{self, SimulatorError};

/// The demo streamer's id on the simulated Twitch.
const STREAMER_ID: &str = "700000001";
/// Where the demo listens, if the port is free.
const PORT: u16 = 8080;
const OPS_PORT: u16 = 9464;
/// Of the demo's chat messages, how many are votes.
const VOTE_SHARE: f64 = 0.35;
/// Chatters of one channel.
const VIEWERS: u64 = 400;

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// The folder of the private servers.
    pub data_dir: PathBuf,
    /// Chat messages per second, over all channels.
    pub rate: f64,
    /// Channels that chat; the first is the demo streamer's.
    pub channels: u64,
}

/// Why the demo does not run.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error(transparent)]
    Local(#[from] LocalError),
    #[error("{0}")]
    Settings(Report),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Simulator(#[from] SimulatorError),
    #[error(
        "only one of DATABASE_URL and REDIS_URL is set; set both to use your servers, or none for private ones"
    )]
    HalfGiven,
    #[error("no program to start the private servers with: {0}")]
    Program(std::io::Error),
}

/// Runs the demo until `shutdown` is ready.
///
/// # Errors
/// [`DemoError`], each a plain sentence.
pub async fn run(
    options: DemoOptions,
    environment: Vec<(String, String)>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), DemoError> {
    let mut environment = environment;
    // Dropped last: the servers go after everything that uses them.
    let _servers = local_servers(&options, &mut environment)?;
    let (listeners, settings) = prepare(&mut environment)?;
    let migrated = run::migrate(&settings).await?;
    if !migrated.applied.is_empty() {
        say(&format!("The database is ready (schema version {}).", migrated.version));
    }
    let journal = run::journal(&settings, uuid::Uuid::now_v7())?;
    let profile = Profile {
        twitch_user_id: STREAMER_ID.into(),
        login: "demo_streamer".into(),
        display_name: "Demo Streamer".into(),
    };
    let (streamer, _) = journal.register(profile, demo_config(), "demo").await?;

    let public_url = settings.http.public_url.to_string();
    let address = listeners.public.local_addr().map_err(RunError::from)?;
    let secret = settings.twitch.webhook_secret.clone();
    let traffic = simulator::Options {
        rate: options.rate,
        channels: options.channels,
        viewers: VIEWERS,
        vote_share: VOTE_SHARE,
        broadcaster_ids: vec![STREAMER_ID.into()],
        for_words: streamer.config.config.for_triggers.clone(),
        against_words: streamer.config.config.against_triggers.clone(),
        seed: rand::rng().next_u64(),
        quiet: true,
        ..simulator::Options::new(
            format!("http://{}/webhooks/eventsub", on_this_machine(address)),
            secret.as_ref().map(|secret| secret.expose().clone()).unwrap_or_default(),
        )
    };
    traffic.check()?;

    let stop = Arc::new(Notify::new());
    let chat_stop = Arc::clone(&stop);
    let chat = actix::spawn(async move { simulator::run(traffic, chat_stop.notified()).await });
    let settings = Arc::new(settings);
    let ready = || announce(&public_url, streamer.overlay_uuid, &settings);
    let served = run::run(Arc::clone(&settings), listeners, ready, shutdown).await;
    stop.notify_one();
    if let Ok(Err(error)) = chat.await {
        tracing::warn!(%error, "the simulated chat failed");
    }
    say("Stopped. The data stays; `make run` goes on with it.");
    Ok(served?)
}

/// Private servers, unless the environment names others.
fn local_servers(
    options: &DemoOptions,
    environment: &mut Vec<(String, String)>,
) -> Result<Option<Servers>, DemoError> {
    let given = |names: [&str; 2]| {
        environment.iter().any(|(key, value)| names.contains(&key.as_str()) && !value.is_empty())
    };
    let database = given(["DATABASE_URL", "CHATPULSE_DATABASE__URL"]);
    let redis = given(["REDIS_URL", "CHATPULSE_REDIS__URL"]);
    match (database, redis) {
        (true, true) => return Ok(None),
        (false, false) => {}
        _ => return Err(DemoError::HalfGiven),
    }
    let program = std::env::current_exe().map_err(DemoError::Program)?;
    let servers = Servers::start(&program, &options.data_dir, false)?;
    let urls = servers.urls();
    environment.extend([
        ("DATABASE_URL".into(), urls.database_url.clone()),
        ("CHATPULSE_DATABASE__MIGRATE_URL".into(), urls.migrate_url.clone()),
        ("REDIS_URL".into(), urls.redis_url.clone()),
        ("MESSAGE_QUEUE_REDIS_URL".into(), urls.queue_url.clone()),
    ]);
    Ok(Some(servers))
}

/// Listens on the usual ports, or on free ones, and makes up the secrets that are not given.
fn prepare(environment: &mut Vec<(String, String)>) -> Result<(Listeners, Settings), DemoError> {
    let mut default = |key: &str, value: String| {
        if !environment.iter().any(|(known, _)| known == key) {
            environment.push((key.into(), value));
        }
    };
    let address = free_address(PORT);
    default("CHATPULSE_HTTP__BIND", address.to_string());
    default("CHATPULSE_OPS__BIND", free_address(OPS_PORT).to_string());
    default("CHATPULSE_TWITCH__WEBHOOK_SECRET", random_secret());
    default("CHATPULSE_ADMIN__BOOTSTRAP_TOKEN", random_secret());
    let loaded =
        settings::load(Needs::Everything, None, environment.iter().cloned()).map_err(DemoError::Settings)?;
    let listeners = Listeners::bind(&loaded.settings)?;
    Ok((listeners, loaded.settings))
}

/// The address with this port on the loopback, or with a free one when it is taken.
fn free_address(port: u16) -> SocketAddr {
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if TcpListener::bind(wanted).is_ok() {
        return wanted;
    }
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    free.inspect(|free| say(&format!("Port {port} is in use; taking {} instead.", free.port())))
        .unwrap_or(wanted)
}

/// Where a listener is reached from this machine.
fn on_this_machine(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    address
}

fn random_secret() -> String {
    let mut bytes = [0u8; 24];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

fn demo_config() -> Config {
    Config {
        for_triggers: vec!["yes".into(), "PogChamp".into()],
        against_triggers: vec!["no".into(), "NotLikeThis".into()],
        ..Config::default()
    }
}

fn announce(public_url: &str, overlay_uuid: uuid::Uuid, settings: &Settings) {
    let token =
        settings.admin.bootstrap_token.as_ref().map(|token| token.expose().clone()).unwrap_or_default();
    say(&format!(
        "\nChatPulse is running, with a simulated Twitch whose chat votes by itself.\n\n\
         \x20 Overlay    {public_url}/overlay/{overlay_uuid}\n\
         \x20 Home       {public_url}/\n\
         \x20 Admin API  {public_url}/admin/api/v1/streamers\n\
         \x20            Authorization: Bearer {token}\n\
         \x20 Metrics    http://{}/metrics\n\n\
         Open the overlay in a browser, or add it to OBS as a browser source. Ctrl-C ends everything.\n",
        settings.ops.bind
    ));
}

/// Writes a line for people. Who closes our output has seen enough.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
