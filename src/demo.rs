//! `chatpulse demo`: the whole product on one machine, with a streamer whose chat votes by itself.

mod secrets;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use self::secrets::Secrets;
use crate::domain::config::Config;
use crate::domain::streamer::{Profile, Streamer};
use crate::journal::JournalError;
use crate::journal::streamers::ChangeError;
use crate::local::{LocalError, Servers};
use crate::run::{self, Listeners, RunError};
use crate::settings::{self, Needs, Report, Secret, Settings};
use crate::twitch::simulator::platform::{Account, Platform, PlatformOptions, Refusal};
use crate::twitch::simulator::{self, SimulatorError, chat, serve};
use rand::Rng;

/// The demo's streamer on the simulated Twitch.
const STREAMER_ID: &str = "700000001";
const STREAMER_LOGIN: &str = "demo_streamer";
const STREAMER_NAME: &str = "Demo Streamer";
const STREAMER_SCOPES: &[&str] = &["channel:bot"];
/// The account that reads the chat there.
const BOT_ID: &str = "900000000";
const BOT_SCOPES: &[&str] = &["user:read:chat", "user:bot", "user:write:chat"];
/// The application there.
const CLIENT_ID: &str = "chatpulse_demo";
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
    #[error("the simulated Twitch: {0}")]
    Twitch(String),
    #[error("the demo's secrets can't be kept: {0}")]
    Secrets(std::io::Error),
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
    choose_addresses(&mut environment);
    keep_secrets(&options, &mut environment)?;
    let public_url = load(&environment)?.http.public_url.to_string();
    let platform = start_twitch(&public_url, &mut environment).await?;
    let settings = Arc::new(load(&environment)?);
    let listeners = Listeners::bind(&settings)?;
    let migrated = run::migrate(&settings).await?;
    if !migrated.applied.is_empty() {
        say(&format!("The database is ready (schema version {}).", migrated.version));
    }
    let journal = run::journal(&settings, uuid::Uuid::now_v7())?;
    let profile = Profile {
        twitch_user_id: STREAMER_ID.into(),
        login: STREAMER_LOGIN.into(),
        display_name: STREAMER_NAME.into(),
    };
    let (streamer, _) = journal.register(profile, demo_config(), "demo").await?;
    let traffic = traffic(&options, &streamer);
    traffic.check()?;
    let ready = || announce(&public_url, streamer.overlay_uuid, &settings);
    let served = tokio::select! {
        served = run::run(Arc::clone(&settings), listeners, ready, shutdown) => served.map_err(DemoError::from),
        chatted = chat::run(&platform, &traffic) => chatted.map_err(DemoError::from),
    };
    platform.stop().await;
    say("Stopped. The data stays; `make run` goes on with it.");
    served
}

fn traffic(options: &DemoOptions, streamer: &Streamer) -> simulator::Options {
    simulator::Options {
        rate: options.rate,
        channels: options.channels,
        viewers: VIEWERS,
        vote_share: VOTE_SHARE,
        broadcaster_ids: vec![STREAMER_ID.into()],
        for_words: streamer.config.config.for_triggers.clone(),
        against_words: streamer.config.config.against_triggers.clone(),
        seed: rand::rng().next_u64(),
        ..simulator::Options::on_platform()
    }
}

/// Starts a Twitch of our own, where the streamer and the bot have allowed everything and the streamer is
/// live, and names it in the settings.
async fn start_twitch(
    public_url: &str,
    environment: &mut Vec<(String, String)>,
) -> Result<Platform, DemoError> {
    let secret = serve::random_secret();
    let mut options = PlatformOptions::new(CLIENT_ID, Secret::new(secret.clone()));
    options.redirect_uris = vec![format!("{public_url}/auth/callback")];
    options.accounts = vec![
        Account { display_name: STREAMER_NAME.into(), ..Account::new(STREAMER_ID, STREAMER_LOGIN) },
        Account::new(BOT_ID, "chatpulse_bot"),
    ];
    let platform = Platform::start(options).await?;
    let refused = |refusal: Refusal| DemoError::Twitch(refusal.to_string());
    for (user, scopes) in [(STREAMER_ID, STREAMER_SCOPES), (BOT_ID, BOT_SCOPES)] {
        platform.grant(user, scopes).map_err(refused)?;
    }
    platform.go_live(STREAMER_ID).map_err(refused)?;
    // Whatever was given: the demo plays Twitch itself.
    let settings = serve::settings(&platform, CLIENT_ID, &secret, BOT_ID);
    environment.retain(|(key, _)| settings.iter().all(|(own, _)| own != key));
    environment.extend(settings.map(|(key, value)| (key.to_owned(), value)));
    Ok(platform)
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

fn load(environment: &[(String, String)]) -> Result<Settings, DemoError> {
    let loaded = settings::load(Needs::Everything, None, environment.iter().cloned());
    Ok(loaded.map_err(DemoError::Settings)?.settings)
}

/// The usual ports, or free ones, where none are given.
fn choose_addresses(environment: &mut Vec<(String, String)>) {
    default(environment, "CHATPULSE_HTTP__BIND", || free_address(PORT).to_string());
    default(environment, "CHATPULSE_OPS__BIND", || free_address(OPS_PORT).to_string());
}

/// Secrets where none are given.
fn keep_secrets(options: &DemoOptions, environment: &mut Vec<(String, String)>) -> Result<(), DemoError> {
    let secrets = Secrets::of(&options.data_dir).map_err(DemoError::Secrets)?;
    default(environment, "CHATPULSE_TWITCH__WEBHOOK_SECRET", || secrets.webhook_secret);
    default(environment, "CHATPULSE_ADMIN__BOOTSTRAP_TOKEN", || secrets.bootstrap_token);
    default(environment, "CHATPULSE_SECURITY__SESSION_KEY", || secrets.session_key);
    default(environment, "CHATPULSE_SECURITY__ENCRYPTION_KEYS", || secrets.encryption_key);
    default(environment, "CHATPULSE_SECURITY__TOKEN_KEYS", || secrets.token_key);
    Ok(())
}

fn default(environment: &mut Vec<(String, String)>, key: &str, value: impl FnOnce() -> String) {
    if !environment.iter().any(|(known, _)| known == key) {
        environment.push((key.into(), value()));
    }
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
         \x20 Dashboard  {public_url}/dashboard   (sign in as {STREAMER_NAME})\n\
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
