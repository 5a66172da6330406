//! The command line.

mod arguments;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use arguments::{
    Arguments, BotCommand, Command, DemoArguments, KeysCommand, OperatorCommand, StreamerCommand,
};
use chatpulse::demo::{self, DemoError, DemoOptions};
use chatpulse::doctor;
use chatpulse::domain::config::Config;
use chatpulse::domain::streamer::Profile;
use chatpulse::journal::streamers::ChangeError;
use chatpulse::local;
use chatpulse::reconcile::vault::Rotated;
use chatpulse::run::operators::{self, OperatorError};
use chatpulse::run::{self, Listeners, RunError};
use chatpulse::settings::{self, Loaded, Needs, Settings};
use chatpulse::telemetry::logs::{self, Format};
use chatpulse::twitch::simulator::serve::TwitchOptions;
use chatpulse::twitch::simulator::{self, Simulation, SimulatorError};
use clap::Parser;

/// Every message of chat makes dozens of small, short-lived allocations on several threads, for which this one
/// takes less time than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for wrong usage or settings.
const WRONG_USAGE: u8 = 2;

/// What `streamer create` prints.
#[derive(serde::Serialize)]
struct Created {
    streamer_id: uuid::Uuid,
    overlay_uuid: uuid::Uuid,
    overlay_url: String,
}

/// What a command came to.
enum Failure {
    /// The work failed.
    Work(anyhow::Error),
    /// The usage or the settings are wrong.
    Usage(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        if is_usage(&error) { Failure::Usage(error) } else { Failure::Work(error) }
    }
}

/// Whether somebody has to write something else, in the settings or on the command line.
fn is_usage(error: &anyhow::Error) -> bool {
    let run = |error: &RunError| matches!(error, RunError::Secret(_));
    let change = |error: &ChangeError| matches!(error, ChangeError::Refused(_));
    let operator = |error: &OperatorError| matches!(error, OperatorError::Email(_));
    if let Some(error) = error.downcast_ref::<DemoError>() {
        return match error {
            DemoError::Settings(_) | DemoError::HalfGiven | DemoError::Simulator(_) => true,
            DemoError::Run(error) => run(error),
            DemoError::Change(error) => change(error),
            _ => false,
        };
    }
    let simulator = |error: &SimulatorError| matches!(error, SimulatorError::Option { .. });
    error.downcast_ref().is_some_and(run)
        || error.downcast_ref().is_some_and(change)
        || error.downcast_ref().is_some_and(operator)
        || error.downcast_ref().is_some_and(simulator)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = arguments.config;
    let outcome = match arguments.command {
        Command::LocalServers { data_dir, throwaway } => {
            return actix::System::new().block_on(local::keeper::run(&data_dir, throwaway));
        }
        Command::Serve => on_system(serve(config)),
        Command::Demo(options) => on_system(run_demo(options)),
        Command::Simulate(Simulation::Chat(options)) => on_system(simulate_chat(*options)),
        Command::Simulate(Simulation::Twitch(options)) => on_system(simulate_twitch(*options)),
        Command::Migrate => on_system(migrate(config)),
        Command::CheckConfig => return check_config(config),
        Command::Doctor => on_system(examine(config)),
        Command::Healthcheck => on_system(healthcheck(config)),
        Command::Streamer(command) => on_system(create_streamer(config, command)),
        Command::Operator(command) => on_system(create_operator(config, command)),
        Command::Bot(BotCommand::SignIn) => on_system(bot_sign_in(config)),
        Command::Keys(KeysCommand::Rotate) => on_system(rotate_keys(config)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Work(error)) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
        Err(Failure::Usage(error)) => {
            eprintln!("{error:#}");
            ExitCode::from(WRONG_USAGE)
        }
    }
}

fn on_system(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    actix::System::new().block_on(work)
}

fn load(needs: Needs, config: Option<PathBuf>) -> Result<Settings, Failure> {
    let loaded = settings::load(needs, config.as_deref(), settings::environment());
    let Loaded { settings, report } = loaded.map_err(|report| Failure::Usage(report.into()))?;
    let json = settings.log.json(std::io::stderr().is_terminal());
    let format = if json { Format::Json } else { Format::Human };
    logs::init(format, &settings.log.filter).map_err(|error| Failure::Usage(error.into()))?;
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    Ok(settings)
}

async fn serve(config: Option<PathBuf>) -> Result<(), Failure> {
    let settings = Arc::new(load(Needs::Everything, config)?);
    run::refuse_huge_pages();
    let listeners = Listeners::bind(&settings)?;
    Ok(run::run(settings, listeners, || {}, stop_signal()).await?)
}

/// Logs for a command without settings: warnings, or what RUST_LOG asks for.
fn log_warnings() -> Result<(), Failure> {
    let format = if std::io::stderr().is_terminal() { Format::Human } else { Format::Json };
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into());
    logs::init(format, &filter).map_err(|error| Failure::Usage(error.into()))
}

async fn run_demo(arguments: DemoArguments) -> Result<(), Failure> {
    log_warnings()?;
    let DemoArguments { data_dir, rate, channels } = arguments;
    let environment = settings::environment().collect();
    let options = DemoOptions { data_dir, rate, channels };
    Ok(demo::run(options, environment, stop_signal()).await?)
}

async fn simulate_chat(options: simulator::Options) -> Result<(), Failure> {
    let json = options.json;
    let report =
        simulator::run(options, stop_signal()).await.map_err(|error| Failure::Usage(error.into()))?;
    say(&report.render(json));
    if report.is_all_accepted() { Ok(()) } else { Err(anyhow!("not every message was accepted").into()) }
}

async fn simulate_twitch(options: TwitchOptions) -> Result<(), Failure> {
    log_warnings()?;
    let options = options.or_from(settings::environment());
    Ok(simulator::serve::run(options, say, stop_signal()).await?)
}

async fn migrate(config: Option<PathBuf>) -> Result<(), Failure> {
    let settings = load(Needs::Database, config)?;
    let migrated = run::migrate(&settings).await?;
    for migration in &migrated.applied {
        say(&format!("applied {migration}"));
    }
    say(&format!("the schema has version {}", migrated.version));
    Ok(())
}

fn check_config(config: Option<PathBuf>) -> ExitCode {
    match settings::load(Needs::Everything, config.as_deref(), settings::environment()) {
        Ok(loaded) => {
            say(&loaded.report.full().to_string());
            ExitCode::SUCCESS
        }
        Err(report) => {
            say(&report.full().to_string());
            ExitCode::FAILURE
        }
    }
}

async fn examine(config: Option<PathBuf>) -> Result<(), Failure> {
    let loaded = settings::load(Needs::Nothing, config.as_deref(), settings::environment());
    let Loaded { settings, report } = loaded.map_err(|report| Failure::Usage(report.into()))?;
    let findings = doctor::examine(&settings, &report.warnings).await;
    let colours =
        std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    say(doctor::render(&findings, colours).trim_end());
    if doctor::is_sound(&findings) { Ok(()) } else { Err(anyhow!("not everything is in order").into()) }
}

async fn healthcheck(config: Option<PathBuf>) -> Result<(), Failure> {
    let settings = load(Needs::Nothing, config)?;
    let url = format!("http://{}/health/ready", settings.ops.bind);
    // Err means that the process has its provider already, which does as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Plain HTTP to this machine needs no certificates, which a container may lack.
    let client =
        reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(Duration::from_secs(3)).build()?;
    let answer = client.get(&url).send().await.with_context(|| format!("no instance answers at {url}"))?;
    let status = answer.status();
    let text = answer.text().await.unwrap_or_default();
    say(&text);
    if status.is_success() { Ok(()) } else { Err(anyhow!("the instance is not ready ({status})").into()) }
}

async fn create_streamer(config: Option<PathBuf>, command: StreamerCommand) -> Result<(), Failure> {
    let StreamerCommand::Create { twitch_id, login, for_words, against_words } = command;
    let settings = load(Needs::Database, config)?;
    let journal = run::journal(&settings, uuid::Uuid::now_v7())?;
    let mut config = Config::default();
    if !for_words.is_empty() {
        config.for_triggers = for_words;
    }
    if !against_words.is_empty() {
        config.against_triggers = against_words;
    }
    let profile = Profile { twitch_user_id: twitch_id, display_name: login.clone(), login };
    let (streamer, _) = journal.register(profile, config, "streamer create").await?;
    let overlay_uuid = streamer.overlay_uuid;
    let overlay_url = format!("{}/overlay/{overlay_uuid}", settings.http.public_url);
    say(&serde_json::to_string(&Created { streamer_id: streamer.id, overlay_uuid, overlay_url })?);
    Ok(())
}

async fn create_operator(config: Option<PathBuf>, command: OperatorCommand) -> Result<(), Failure> {
    let OperatorCommand::Create { email, role } = command;
    let settings = load(Needs::Database, config)?;
    let created = operators::create(&settings, &email, role).await?;
    say(&created.to_json()?);
    match created.unlogged {
        None => Ok(()),
        Some(error) => Err(anyhow!("the account is made, but the security log lacks it: {error}").into()),
    }
}

async fn bot_sign_in(config: Option<PathBuf>) -> Result<(), Failure> {
    let settings = load(Needs::Everything, config)?;
    let path = run::twitch::bot_link(&settings).await?;
    say("Open this link in a browser, and sign in with the bot's account. It works once, for ten minutes.");
    say(&format!("{}{path}", settings.http.public_url));
    Ok(())
}

async fn rotate_keys(config: Option<PathBuf>) -> Result<(), Failure> {
    let settings = load(Needs::Database, config)?;
    let mut shown = std::time::Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let rotated = run::twitch::rotate_keys(&settings, |resealed| {
        if shown.elapsed() >= Duration::from_secs(1) {
            shown = std::time::Instant::now();
            let _ = write!(std::io::stderr(), "{resealed} tokens{}", if terminal { "\r" } else { "\n" });
        }
    });
    let Rotated { resealed, unopened } = rotated.await?;
    for token in &unopened {
        let _ = writeln!(std::io::stderr(), "{}: {}", token.whose, token.why);
    }
    let done = format!("{resealed} secrets are encrypted with the newest key now");
    if unopened.is_empty() {
        say(&format!("{done}; older keys can be removed"));
        return Ok(());
    }
    say(&done);
    let count = unopened.len();
    Err(Failure::Work(anyhow!(
        "{count} secrets could not be opened: put the keys that they were encrypted with into \
         security.encryption_keys and run this again, or have their owners sign in again"
    )))
}

/// Writes a line for people or programs. Who closes our output has seen enough.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Ready when the process is asked to stop.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the signals end the process at once, which loses nothing.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
