//! The simulated Twitch as a program of its own: `chatpulse simulate --twitch`, for whoever wants to lead a
//! ChatPulse, or another application that uses EventSub, to it.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};

use rand::Rng;
use serde_json::json;
use url::Url;

use super::platform::{Account, Platform, PlatformOptions};
use super::{Options, SimulatorError, chat};
use crate::settings::Secret;

/// The settings of ChatPulse that name Twitch, as environment variables.
pub const CLIENT_ID: &str = "CHATPULSE_TWITCH__CLIENT_ID";
pub const CLIENT_SECRET: &str = "CHATPULSE_TWITCH__CLIENT_SECRET";
pub const BOT_USER_ID: &str = "CHATPULSE_TWITCH__BOT_USER_ID";
pub const HELIX_URL: &str = "CHATPULSE_TWITCH__HELIX_URL";
pub const OAUTH_URL: &str = "CHATPULSE_TWITCH__OAUTH_URL";
pub const EVENTSUB_URL: &str = "CHATPULSE_TWITCH__EVENTSUB_URL";

const CLIENT_ID_DEFAULT: &str = "chatpulse_simulated";
/// Where a ChatPulse with default settings on this machine takes users back.
const REDIRECT_URIS: [&str; 2] =
    ["http://localhost:8080/auth/callback", "http://127.0.0.1:8080/auth/callback"];
/// A streamer, a bot and some viewers.
const ACCOUNTS: [&str; 5] =
    ["700000001:streamer", "900000000:chatpulse_bot", "100000001:ada", "100000002:bob", "100000003:eve"];
/// How a bot's login ends.
const BOT: &str = "bot";
const SECRET_BYTES: usize = 24;

/// Everything a simulated Twitch can be told. On the command line, what `chatpulse simulate --twitch` takes
/// beside the options of its chat.
#[derive(Clone, clap::Args)]
pub struct TwitchOptions {
    /// Where sign-in, API and control API are served; port 0 for a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8081")]
    pub listen: SocketAddr,
    /// Where EventSub's WebSockets are served; port 0 for a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8082")]
    pub listen_eventsub: SocketAddr,
    /// Listen also on addresses that other machines can reach, although it guards nothing
    #[arg(long)]
    pub anywhere: bool,
    /// The application's client id; else that of CHATPULSE_TWITCH__CLIENT_ID, else chatpulse_simulated
    #[arg(long, value_name = "ID")]
    pub client_id: Option<String>,
    /// Its client secret; else that of CHATPULSE_TWITCH__CLIENT_SECRET, else a new one, which is printed
    #[arg(long, value_name = "SECRET", value_parser = parse_secret)]
    pub client_secret: Option<Secret<String>>,
    /// Where the application may have its users sent back to; repeatable
    #[arg(long = "redirect-uri", value_name = "URL", default_values = REDIRECT_URIS)]
    pub redirect_uris: Vec<String>,
    /// Somebody with an account; repeatable. The first whose login ends in "bot" is taken for ChatPulse's bot
    #[arg(long = "account", value_name = "ID:LOGIN", value_parser = parse_account, default_values = ACCOUNTS)]
    pub accounts: Vec<Account>,
    /// Id of an account that is live from the start; repeatable
    #[arg(long, value_name = "ID")]
    pub live: Vec<String>,
    /// What viewers write by themselves, in every chat that somebody reads; `None`: nothing.
    #[arg(skip)]
    pub chat: Option<Options>,
}

/// Clap's way to read a value that can't be wrong.
fn parse_secret(text: &str) -> Result<Secret<String>, Infallible> {
    Ok(Secret::new(text.to_owned()))
}

/// `700000001:streamer`. Whether there can be such an account is the platform's to say.
fn parse_account(text: &str) -> Result<Account, String> {
    let parts = text.split_once(':').ok_or_else(|| "write it as 700000001:streamer".to_owned())?;
    Ok(Account::new(parts.0, parts.1))
}

impl TwitchOptions {
    /// Takes client id and secret from the environment's settings of ChatPulse, where they were not given.
    pub fn or_from(mut self, environment: impl IntoIterator<Item = (String, String)>) -> Self {
        for (key, value) in environment.into_iter().filter(|(_, value)| !value.is_empty()) {
            match key.as_str() {
                CLIENT_ID if self.client_id.is_none() => self.client_id = Some(value),
                CLIENT_SECRET if self.client_secret.is_none() => {
                    self.client_secret = Some(Secret::new(value));
                }
                _ => {}
            }
        }
        self
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    /// [`SimulatorError::Option`] with the first option that can't be used.
    pub fn check(&self) -> Result<(), SimulatorError> {
        let addresses = [("--listen", self.listen), ("--listen-eventsub", self.listen_eventsub)];
        for (option, address) in addresses {
            if !self.anywhere && !address.ip().is_loopback() {
                let allowed = "it guards nothing: without --anywhere only 127.0.0.1 and [::1] are possible";
                return Err(refused(option, address, allowed));
            }
        }
        if self.listen == self.listen_eventsub && self.listen.port() != 0 {
            return Err(refused("--listen-eventsub", self.listen_eventsub, "--listen has this address"));
        }
        let is_good = |sign: u8| sign.is_ascii_alphanumeric() || matches!(sign, b'_' | b'-');
        if self.client_id().is_empty() || !self.client_id().bytes().all(is_good) {
            return Err(refused("--client-id", self.client_id(), "letters, digits, _ and - are possible"));
        }
        if self.client_secret.as_ref().is_some_and(|secret| secret.expose().is_empty()) {
            return Err(refused("--client-secret", "empty", "leave it out to have one made up"));
        }
        let leads_nowhere =
            |uri: &&String| !Url::parse(uri).is_ok_and(|uri| matches!(uri.scheme(), "http" | "https"));
        if let Some(uri) = self.redirect_uris.iter().find(leads_nowhere) {
            return Err(refused("--redirect-uri", uri, "it must begin with http:// or https://"));
        }
        self.chat.as_ref().map_or(Ok(()), Options::check)
    }

    fn client_id(&self) -> &str {
        self.client_id.as_deref().unwrap_or(CLIENT_ID_DEFAULT)
    }

    fn bot_id(&self) -> Option<&str> {
        let bot = self.accounts.iter().find(|account| account.login.ends_with(BOT))?;
        Some(&bot.id)
    }
}

fn refused(option: &'static str, value: impl ToString, allowed: &'static str) -> SimulatorError {
    SimulatorError::Option { option, value: value.to_string(), allowed }
}

/// Runs a simulated Twitch until `shutdown` is ready. Tells `announce` once, when everything is served, how
/// to use it.
///
/// # Errors
/// [`SimulatorError`] when an option can't be used or an address can't be listened on.
pub async fn run(
    options: TwitchOptions,
    announce: impl FnOnce(&str),
    shutdown: impl Future<Output = ()>,
) -> Result<(), SimulatorError> {
    options.check()?;
    let made_up = options.client_secret.is_none().then(random_secret);
    let secret = options.client_secret.clone();
    let secret = secret.unwrap_or_else(|| Secret::new(made_up.clone().unwrap_or_default()));
    let platform = start(&options, secret).await?;
    let serving = async {
        announce(&announcement(&platform, &options, made_up.as_deref()));
        match &options.chat {
            Some(chat) => chat::run_where_read(&platform, chat).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        // Who has read the announcement may stop it at once: by then `shutdown` has to be waited for.
        biased;
        () = shutdown => Ok(()),
        ended = serving => ended,
    };
    platform.stop().await;
    ended
}

async fn start(options: &TwitchOptions, secret: Secret<String>) -> Result<Platform, SimulatorError> {
    for address in [options.listen, options.listen_eventsub] {
        // Only to name the address in the error.
        let tried = TcpListener::bind(address).map(drop);
        tried.map_err(|error| SimulatorError::Address { address, error })?;
    }
    let platform = Platform::start(PlatformOptions {
        redirect_uris: options.redirect_uris.clone(),
        http: options.listen,
        eventsub: options.listen_eventsub,
        ..PlatformOptions::new(options.client_id(), secret)
    });
    let platform = platform.await?;
    for account in &options.accounts {
        let allowed = "an id is of digits, a login of a to z, digits and underscores, and nobody else's";
        let refused = |_| refused("--account", format!("{}:{}", account.id, account.login), allowed);
        platform.add_user(account.clone()).map_err(refused)?;
    }
    for id in &options.live {
        let refused = |_| refused("--live", id, "it must be the id of an account, each given once");
        platform.go_live(id).map_err(refused)?;
    }
    Ok(platform)
}

/// The settings, as environment variables, of a ChatPulse that is to take `platform` for Twitch.
pub fn settings(
    platform: &Platform,
    client_id: &str,
    client_secret: &str,
    bot_id: &str,
) -> [(&'static str, String); 6] {
    [
        (CLIENT_ID, client_id.to_owned()),
        (CLIENT_SECRET, client_secret.to_owned()),
        (BOT_USER_ID, bot_id.to_owned()),
        (HELIX_URL, platform.helix_url()),
        (OAUTH_URL, platform.oauth_url()),
        (EVENTSUB_URL, platform.eventsub_url()),
    ]
}

/// A secret that nobody knows yet, of 48 hexadecimal digits.
pub fn random_secret() -> String {
    let mut bytes = [0u8; SECRET_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

/// What people are told. A secret that was given is not shown again.
fn announcement(platform: &Platform, options: &TwitchOptions, made_up: Option<&str>) -> String {
    let bot_id = options.bot_id().unwrap_or_default();
    let settings = settings(platform, options.client_id(), made_up.unwrap_or_default(), bot_id);
    let settings: String = settings.iter().map(|(key, value)| setting(key, value)).collect();
    let accounts: String = options.accounts.iter().map(|account| listed(account, &options.live)).collect();
    let redirects: String = options.redirect_uris.iter().map(|uri| format!("  {uri}\n")).collect();
    let chat = match &options.chat {
        Some(chat) => {
            format!("Viewers write {} messages a second, over all chats that somebody reads.\n", chat.rate)
        }
        None => String::new(),
    };
    let is_unspecified = [options.listen, options.listen_eventsub].iter().any(|at| at.ip().is_unspecified());
    let elsewhere = "From another machine, write this machine's address in their place.\n";
    format!(
        "A simulated Twitch is running. It guards nothing, and forgets everything when it ends.\n\n\
         Settings for ChatPulse:\n\n\
         {settings}\n\
         {}\
         Users are sent back to one of these alone (--redirect-uri):\n{redirects}\
         Accounts (--account):\n{accounts}\
         {chat}\n\
         {}\n\
         Ctrl-C ends it.",
        if is_unspecified { elsewhere } else { "" },
        examples(&platform.control_url(), &options.accounts),
    )
}

/// A line for a shell.
fn setting(key: &str, value: &str) -> String {
    match (key, value) {
        (CLIENT_SECRET, "") => format!("# {key} is the one that was given\n"),
        (_, "") => format!("# {key} is the id of the account that is to read the chats\n"),
        _ => format!("export {key}={value}\n"),
    }
}

fn listed(account: &Account, live: &[String]) -> String {
    let is_live = if live.contains(&account.id) { ", live" } else { "" };
    format!("  {} {}{is_live}\n", account.id, account.login)
}

/// How the control API is used.
fn examples(control_url: &str, accounts: &[Account]) -> String {
    let id = |account: Option<&Account>| account.map(|account| account.id.clone()).unwrap_or_default();
    let say =
        json!({ "broadcaster_id": id(accounts.first()), "user_id": id(accounts.last()), "text": "yes" });
    let fail = json!({
        "path": "/helix/eventsub/subscriptions", "times": 3, "failure": "limited", "reset_seconds": 10,
    });
    let post = |command: &str, body: String| {
        format!("curl -H 'Content-Type: application/json' {control_url}/{command} \\\n  -d '{body}'\n")
    };
    format!(
        "What people do on Twitch, and faults, is told to the control API. It says itself what there is:\n\n\
         curl {control_url}\n{}{}",
        post("say", say.to_string()),
        post("fail", fail.to_string())
    )
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;
    use crate::twitch::simulator::Simulation;

    fn simulation(arguments: &[&str]) -> Result<Simulation, clap::Error> {
        let command = Simulation::augment_args(Command::new("simulate"));
        let matches = command.try_get_matches_from(["simulate"].iter().chain(arguments))?;
        Simulation::from_arg_matches(&matches)
    }

    fn twitch(arguments: &[&str]) -> TwitchOptions {
        let arguments: Vec<&str> = std::iter::once("--twitch").chain(arguments.iter().copied()).collect();
        match simulation(&arguments) {
            Ok(Simulation::Twitch(options)) => *options,
            Ok(Simulation::Chat(_)) => panic!("{arguments:?} is chat"),
            Err(error) => panic!("{arguments:?}: {error}"),
        }
    }

    #[test]
    fn without_options_there_is_all_that_a_chatpulse_needs() {
        let options = twitch(&[]);
        assert!(options.check().is_ok());
        assert_eq!((options.listen.port(), options.listen_eventsub.port()), (8081, 8082));
        assert_eq!((options.client_id(), options.bot_id()), (CLIENT_ID_DEFAULT, Some("900000000")));
        assert_eq!((options.redirect_uris.len(), options.accounts.len()), (2, 5));
        assert!(options.chat.is_none() && options.client_secret.is_none() && options.live.is_empty());
    }

    #[test]
    fn what_the_network_could_reach_has_to_be_asked_for() {
        for option in ["--listen", "--listen-eventsub"] {
            for address in ["0.0.0.0:0", "192.0.2.1:8081", "[::]:0"] {
                assert!(twitch(&[option, address]).check().is_err(), "{option} {address}");
                assert!(twitch(&[option, address, "--anywhere"]).check().is_ok(), "{option} {address}");
            }
            assert!(twitch(&[option, "[::1]:0"]).check().is_ok());
        }
    }

    #[test]
    fn options_that_can_not_be_used_are_refused() {
        for bad in [
            &["--listen", "127.0.0.1:8082"][..],
            &["--client-id", "a b"],
            &["--client-secret", ""],
            &["--redirect-uri", "callback"],
            &["--rate", "0"],
        ] {
            assert!(matches!(twitch(bad).check(), Err(SimulatorError::Option { .. })), "{bad:?}");
        }
        assert!(simulation(&["--twitch", "--account", "somebody"]).is_err());
    }

    #[test]
    fn the_environment_names_the_application_unless_the_command_line_does() {
        let given = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let environment = || [(CLIENT_ID, "theirs"), (CLIENT_SECRET, "secret")].map(given);
        let options = twitch(&[]).or_from(environment());
        assert_eq!(options.client_id(), "theirs");
        assert_eq!(options.client_secret.as_ref().map(|secret| secret.expose().as_str()), Some("secret"));
        assert_eq!(twitch(&["--client-id", "mine"]).or_from(environment()).client_id(), "mine");
    }

    #[tokio::test]
    async fn it_tells_a_secret_that_it_made_up_and_no_other() {
        let free = ["--listen", "127.0.0.1:0", "--listen-eventsub", "127.0.0.1:0", "--live", "700000001"];
        let options = twitch(&free);
        let platform = start(&options, Secret::new("a-secret".into())).await.unwrap();
        let made_up = announcement(&platform, &options, Some("a-secret"));
        assert!(made_up.contains("export CHATPULSE_TWITCH__CLIENT_SECRET=a-secret\n"), "{made_up}");
        assert!(made_up.contains(&format!("export {HELIX_URL}={}\n", platform.helix_url())), "{made_up}");
        assert!(made_up.contains("700000001 streamer, live"), "{made_up}");
        let given = announcement(&platform, &options, None);
        assert!(!given.contains("a-secret") && given.contains(CLIENT_SECRET), "{given}");
        platform.stop().await;
    }

    #[tokio::test]
    async fn a_taken_address_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let options = twitch(&["--listen", "127.0.0.1:0", "--listen-eventsub", &address]);
        let error = start(&options, Secret::new("a-secret".into())).await.err().unwrap();
        assert!(matches!(error, SimulatorError::Address { .. }), "{error}");
        assert!(error.to_string().contains(&address), "{error}");
    }

    #[tokio::test]
    async fn accounts_that_can_not_be_are_refused() {
        for bad in [["--account", "x:ada"], ["--account", "1:Ada Lovelace"], ["--live", "5"]] {
            let free = ["--listen", "127.0.0.1:0", "--listen-eventsub", "127.0.0.1:0"];
            let options = twitch(&[&free[..], &bad[..]].concat());
            let error = start(&options, Secret::new("a-secret".into())).await.err().unwrap();
            assert!(matches!(error, SimulatorError::Option { .. }), "{error}");
        }
    }
}
