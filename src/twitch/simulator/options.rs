//! What is asked of a simulation.

use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Id};

use super::SimulatorError;
use super::serve::TwitchOptions;

const RATE: f64 = 20.0;
const CHANNELS: u64 = 1;
const VIEWERS: u64 = 1000;
const VOTE_SHARE: f64 = 0.2;
const FIRST_CHANNEL_ID: u64 = 700_000_000;
const CONNECTIONS: usize = 64;
const SEED: u64 = 1;
const FOR_WORD: &str = "yes";
const AGAINST_WORD: &str = "no";
const TWITCH: &str = "twitch";
/// Where chat goes, by the names of the fields.
const TARGET: [&str; 2] = ["url", "secret"];
/// What else would mean nothing to a whole Twitch.
const CHAT_ALONE: [&str; 9] = [
    "channels",
    "duration",
    "first_channel_id",
    "broadcaster_ids",
    "duplicates",
    "reorder",
    "connections",
    "json",
    "quiet",
];

/// What `chatpulse simulate` is asked for.
pub enum Simulation {
    /// Chat that is sent to a webhook.
    Chat(Box<Options>),
    /// A whole Twitch.
    Twitch(Box<TwitchOptions>),
}

impl Args for Simulation {
    fn augment_args(command: Command) -> Command {
        let twitch = Arg::new(TWITCH)
            .long(TWITCH)
            .action(ArgAction::SetTrue)
            .conflicts_with_all(TARGET)
            .conflicts_with_all(CHAT_ALONE)
            .help(
                "Run a whole Twitch instead: sign-in, API, EventSub, and an API to control it; viewers write \
                 there by themselves if --rate is given",
            );
        let command = Options::augment_args(command.arg(twitch)).next_help_heading("With --twitch");
        let command = TARGET.into_iter().fold(command, |command, id| {
            command.mut_arg(id, |target| target.required(false).required_unless_present(TWITCH))
        });
        let of_twitch = TwitchOptions::augment_args(Command::default());
        let of_twitch: Vec<Id> = of_twitch.get_arguments().map(|option| option.get_id().clone()).collect();
        of_twitch.into_iter().fold(TwitchOptions::augment_args(command), |command, id| {
            command.mut_arg(id, |option| option.requires(TWITCH).conflicts_with_all(TARGET))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Simulation::augment_args(command)
    }
}

impl FromArgMatches for Simulation {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        if !matches.get_flag(TWITCH) {
            return Ok(Simulation::Chat(Box::new(Options::from_arg_matches(matches)?)));
        }
        let mut twitch = TwitchOptions::from_arg_matches(matches)?;
        let has_chat = matches.value_source("rate") == Some(ValueSource::CommandLine);
        twitch.chat = has_chat.then(|| chat_on_platform(matches));
        Ok(Simulation::Twitch(Box::new(twitch)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Simulation::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Those options of chat that say something also where it is not sent to a webhook.
fn chat_on_platform(matches: &ArgMatches) -> Options {
    let words = |id| matches.get_many::<String>(id).into_iter().flatten().cloned().collect();
    let defaults = Options::on_platform();
    Options {
        rate: matches.get_one("rate").copied().unwrap_or(defaults.rate),
        viewers: matches.get_one("viewers").copied().unwrap_or(defaults.viewers),
        vote_share: matches.get_one("vote_share").copied().unwrap_or(defaults.vote_share),
        seed: matches.get_one("seed").copied().unwrap_or(defaults.seed),
        for_words: words("for_words"),
        against_words: words("against_words"),
        ..defaults
    }
}

/// Everything simulated chat can be told. On the command line, the options of `chatpulse simulate`.
///
/// Has no `Debug`, because it holds a secret.
#[derive(Clone, clap::Args)]
pub struct Options {
    /// Where to send to, e.g. http://127.0.0.1:8080/webhooks/eventsub
    #[arg(long)]
    pub url: String,
    /// The webhook secret to sign with: 10 to 100 ASCII characters
    #[arg(long)]
    pub secret: String,
    /// New chat messages per second, over all channels
    #[arg(long, default_value_t = RATE)]
    pub rate: f64,
    /// Channels that chat; the first are the busiest
    #[arg(long, default_value_t = CHANNELS)]
    pub channels: u64,
    /// Viewers in each channel's chat; the first write most
    #[arg(long, default_value_t = VIEWERS)]
    pub viewers: u64,
    /// Share of messages that are votes, 0 to 1, averaged over quiet and lively times
    #[arg(long, default_value_t = VOTE_SHARE)]
    pub vote_share: f64,
    /// How long: 90, 30s, 5m or 1h; without it until stopped
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Twitch id of the first generated channel; the others count on from it
    #[arg(long, default_value_t = FIRST_CHANNEL_ID)]
    pub first_channel_id: u64,
    /// Twitch id of a real channel, to be the first instead of a generated one; repeatable
    #[arg(long = "broadcaster-id", value_name = "ID")]
    pub broadcaster_ids: Vec<String>,
    /// Share of messages that are sent a second time a little later, 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub duplicates: f64,
    /// Share of messages that are sent late, after newer ones, 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub reorder: f64,
    /// Requests under way at a time, each on a kept connection; the pool may open a few more
    #[arg(long, default_value_t = CONNECTIONS)]
    pub connections: usize,
    /// The same seed makes the same chat
    #[arg(long, default_value_t = SEED)]
    pub seed: u64,
    /// A word that votes for; repeatable
    #[arg(long = "for", value_name = "WORD", default_value = FOR_WORD)]
    pub for_words: Vec<String>,
    /// A word that votes against; repeatable
    #[arg(long = "against", value_name = "WORD", default_value = AGAINST_WORD)]
    pub against_words: Vec<String>,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Say nothing while running
    #[arg(long)]
    pub quiet: bool,
}

impl Options {
    /// The defaults of the command line, for a target.
    pub fn new(url: impl Into<String>, secret: impl Into<String>) -> Self {
        Options {
            url: url.into(),
            secret: secret.into(),
            rate: RATE,
            channels: CHANNELS,
            viewers: VIEWERS,
            vote_share: VOTE_SHARE,
            duration: None,
            first_channel_id: FIRST_CHANNEL_ID,
            broadcaster_ids: Vec::new(),
            duplicates: 0.0,
            reorder: 0.0,
            connections: CONNECTIONS,
            seed: SEED,
            for_words: vec![FOR_WORD.into()],
            against_words: vec![AGAINST_WORD.into()],
            json: false,
            quiet: false,
        }
    }

    /// The same for chat on a platform of our own, which knows itself where to send it and how to sign.
    pub fn on_platform() -> Self {
        Options { quiet: true, ..Options::new("http://127.0.0.1/", "signed by the platform") }
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    /// [`SimulatorError::Option`] with the first option that is out of its range.
    pub fn check(&self) -> Result<(), SimulatorError> {
        let refuse = |option, value: String, allowed| Err(SimulatorError::Option { option, value, allowed });
        let shares = [
            ("--vote-share", self.vote_share),
            ("--duplicates", self.duplicates),
            ("--reorder", self.reorder),
        ];
        if let Some((option, share)) = shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            return refuse(option, share.to_string(), "a share lies between 0 and 1");
        }
        if !(self.rate > 0.0 && self.rate <= 1e6) {
            return refuse(
                "--rate",
                self.rate.to_string(),
                "more than 0 and at most 1000000 messages per second",
            );
        }
        let counts = [
            ("--channels", self.channels),
            ("--viewers", self.viewers),
            ("--connections", self.connections as u64),
        ];
        if let Some((option, count)) =
            counts.into_iter().find(|(_, count)| !(1..=100_000_000).contains(count))
        {
            return refuse(option, count.to_string(), "1 to 100000000 are possible");
        }
        let sides = [("--for", &self.for_words), ("--against", &self.against_words)];
        for (option, words) in sides {
            if words.is_empty() || words.iter().any(|word| word.trim().is_empty()) {
                return refuse(option, format!("{words:?}"), "give at least one word, none of them blank");
            }
        }
        Ok(())
    }
}

/// `90`, `90s`, `5m` or `1h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let (digits, unit_seconds) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        _ => (text, 1),
    };
    let count: u64 = digits.parse().map_err(|_| "write it as 90, 90s, 5m or 1h".to_owned())?;
    count.checked_mul(unit_seconds).map(Duration::from_secs).ok_or_else(|| "that is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: [&str; 4] = ["--url", "http://127.0.0.1:1/", "--secret", "0123456789"];

    fn simulation(arguments: &[&str]) -> Result<Simulation, clap::Error> {
        let command = Simulation::augment_args(Command::new("simulate"));
        let matches = command.try_get_matches_from(["simulate"].iter().chain(arguments))?;
        Simulation::from_arg_matches(&matches)
    }

    fn parse(arguments: &[&str]) -> Result<Options, clap::Error> {
        match simulation(&[&NEEDED[..], arguments].concat())? {
            Simulation::Chat(options) => Ok(*options),
            Simulation::Twitch(_) => panic!("{arguments:?} is a Twitch"),
        }
    }

    #[test]
    fn chat_has_to_be_told_where_it_goes_and_a_twitch_must_not_be() {
        assert!(simulation(&[]).is_err() && simulation(&NEEDED[..2]).is_err());
        assert!(simulation(&["--twitch"]).is_ok());
        for chat_alone in [&NEEDED[..], &["--duration", "1s"], &["--json"], &["--channels", "2"]] {
            assert!(simulation(&[&["--twitch"][..], chat_alone].concat()).is_err(), "{chat_alone:?}");
        }
        for twitch_alone in [&["--listen", "127.0.0.1:0"][..], &["--account", "1:ada"], &["--anywhere"]] {
            assert!(parse(twitch_alone).is_err(), "{twitch_alone:?}");
            assert!(simulation(twitch_alone).is_err(), "{twitch_alone:?}");
        }
    }

    #[test]
    fn viewers_write_on_a_twitch_only_if_a_rate_is_given() {
        let chat = |arguments: &[&str]| match simulation(&[&["--twitch"][..], arguments].concat()) {
            Ok(Simulation::Twitch(options)) => options.chat,
            _ => panic!("{arguments:?} is no Twitch"),
        };
        assert!(chat(&[]).is_none() && chat(&["--viewers", "5"]).is_none());
        let given = ["--rate", "3", "--viewers", "5", "--vote-share", "1", "--seed", "7", "--for", "ja"];
        let chat = chat(&given).unwrap();
        assert!(chat.check().is_ok());
        assert_eq!((chat.rate, chat.viewers, chat.vote_share, chat.seed), (3.0, 5, 1.0, 7));
        assert_eq!((chat.for_words, chat.against_words), (vec!["ja".to_owned()], vec!["no".to_owned()]));
    }

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600), ("0", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "s", "5d", "-1", "1.5", "ü", "9999999999999999999h", "5124095576030432h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_line_has_the_same_defaults_as_the_library() {
        let parsed = parse(&[]).unwrap();
        let made = Options::new("http://127.0.0.1:1/", "0123456789");
        assert!(parsed.check().is_ok());
        assert_eq!((parsed.rate, parsed.vote_share), (made.rate, made.vote_share));
        assert_eq!((parsed.channels, parsed.viewers, parsed.seed), (made.channels, made.viewers, made.seed));
        assert_eq!((parsed.for_words, parsed.against_words), (made.for_words, made.against_words));
        assert_eq!((parsed.connections, parsed.duration), (made.connections, made.duration));
    }

    #[test]
    fn given_words_replace_the_default_ones() {
        let parsed = parse(&["--for", "PogChamp", "--for", "ja", "--duration", "2m"]).unwrap();
        assert_eq!(parsed.for_words, ["PogChamp", "ja"]);
        assert_eq!(parsed.against_words, ["no"]);
        assert_eq!(parsed.duration, Some(Duration::from_secs(120)));
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let good = || Options::new("http://127.0.0.1:1/", "0123456789");
        for bad in [
            Options { rate: 0.0, ..good() },
            Options { rate: f64::NAN, ..good() },
            Options { vote_share: 1.1, ..good() },
            Options { duplicates: -0.1, ..good() },
            Options { reorder: f64::NAN, ..good() },
            Options { channels: 0, ..good() },
            Options { viewers: 0, ..good() },
            Options { connections: 0, ..good() },
            Options { for_words: Vec::new(), ..good() },
            Options { against_words: vec![" ".into()], ..good() },
        ] {
            assert!(matches!(bad.check(), Err(SimulatorError::Option { .. })));
        }
    }
}
