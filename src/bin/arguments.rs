//! What can be written on the command line. Comments here are what `--help` shows.

use std::path::PathBuf;

use chatpulse::domain::operator::Role;
use chatpulse::twitch::simulator::Simulation;
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
pub struct Arguments {
    /// A file of settings (TOML), over the defaults and under the environment
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Runs one instance
    Serve,
    /// Runs the whole product on this machine, with a simulated Twitch
    Demo(DemoArguments),
    /// Sends the chat of a simulated Twitch to a webhook, or with --twitch runs a whole one
    Simulate(Simulation),
    /// Brings the database's schema to the newest version
    Migrate,
    /// Shows all settings with their sources, and everything that is wrong with them
    CheckConfig,
    /// Looks at everything that votes need, and says what to do
    Doctor,
    /// Exits with 0 when the local instance is ready
    Healthcheck,
    /// Streamers without a Twitch login
    #[command(subcommand)]
    Streamer(StreamerCommand),
    /// Accounts of the people who run this
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// The account that reads the chats
    #[command(subcommand)]
    Bot(BotCommand),
    /// The keys that stored tokens are encrypted with
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Runs private PostgreSQL and Redis servers until standard input closes
    #[command(hide = true)]
    LocalServers {
        /// The folder of their data; made if it is missing
        #[arg(long)]
        data_dir: PathBuf,
        /// Delete the folder at the end
        #[arg(long)]
        throwaway: bool,
    },
}

#[derive(Args)]
pub struct DemoArguments {
    /// The folder of the private servers' data; made if it is missing
    #[arg(long, default_value = ".local")]
    pub data_dir: PathBuf,
    /// Chat messages per second, over all channels
    #[arg(long, default_value_t = 12.0)]
    pub rate: f64,
    /// Channels that chat; the first is the demo streamer's
    #[arg(long, default_value_t = 1)]
    pub channels: u64,
}

#[derive(Subcommand)]
pub enum StreamerCommand {
    /// Makes a streamer, or shows the existing one with this Twitch id, as one line of JSON
    Create {
        /// The user's id on Twitch
        #[arg(long)]
        twitch_id: String,
        /// The user's login name on Twitch
        #[arg(long)]
        login: String,
        /// A word that votes for; repeatable
        #[arg(long = "for", value_name = "WORD")]
        for_words: Vec<String>,
        /// A word that votes against; repeatable
        #[arg(long = "against", value_name = "WORD")]
        against_words: Vec<String>,
    },
}

#[derive(Subcommand)]
pub enum OperatorCommand {
    /// Makes an operator's account, and prints it with a password for its first sign-in as one line of JSON
    Create {
        /// The operator's e-mail address
        #[arg(long)]
        email: String,
        /// What the account may do: owner, admin or viewer
        #[arg(long, value_parser = role)]
        role: Role,
    },
}

fn role(name: &str) -> Result<Role, String> {
    Role::named(name).ok_or_else(|| format!("write one of {}", Role::ALL.map(Role::name).join(", ")))
}

#[derive(Subcommand)]
pub enum BotCommand {
    /// Prints a link at which the bot's account signs in with Twitch; it works once, for ten minutes
    SignIn,
}

#[derive(Subcommand)]
pub enum KeysCommand {
    /// Encrypts stored tokens again with the newest key, so that older ones can be removed from the settings
    Rotate,
}
