//! What chat can ask of ChatPulse, who may, and what is answered.
//!
//! Votes come first: a streamer who has `!pulse` as a trigger has votes there and no command. So whoever reads a
//! message asks [`Triggers::side_of`](super::trigger::Triggers::side_of) before [`Command::of`].

use std::fmt::{self, Write};

use super::config::{Config, LABEL_CHARS_MAX};
use super::session::Session;
use super::time::Millis;
use super::trigger::normalise;

/// Badges of those who may steer a channel's measurement. Source: `badges[].set_id` of `channel.chat.message`,
/// <https://dev.twitch.tv/docs/eventsub/eventsub-subscription-types/#channelchatmessage>; a lead moderator wears a
/// badge of their own instead of a moderator's.
const STEERING_BADGES: [&str; 3] = ["broadcaster", "moderator", "lead_moderator"];

/// What a chat message can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// `!pulse`: where the bar stands.
    Mood,
    /// `!pulse reset`: back to the middle.
    Reset,
    /// `!pulse pause`: no votes until further notice.
    Pause,
    /// `!pulse resume`: votes again.
    Resume,
}

impl Command {
    /// The command that a message is; `None` for one that is none. The whole text counts, normalised as triggers are
    /// (case, invisible characters, white space): `!pulse` with any other word behind it is no command.
    pub fn of(text: &str) -> Option<Command> {
        // Nearly no message is one, and this allocates nothing: what may stand before the mark is not ASCII.
        if text.bytes().find(u8::is_ascii_graphic) != Some(b'!') {
            return None;
        }
        match normalise(text).as_str() {
            "!pulse" => Some(Command::Mood),
            "!pulse reset" => Some(Command::Reset),
            "!pulse pause" => Some(Command::Pause),
            "!pulse resume" => Some(Command::Resume),
            _ => None,
        }
    }

    /// Whether somebody may give this command: anybody may ask for the mood, the rest is for the broadcaster and their
    /// moderators. `badges` are the set ids of what the chatter wears in the broadcaster's own channel.
    pub fn is_allowed<'a>(self, is_broadcaster: bool, badges: impl IntoIterator<Item = &'a str>) -> bool {
        self == Command::Mood
            || is_broadcaster
            || badges.into_iter().any(|set_id| STEERING_BADGES.contains(&set_id))
    }
}

/// What is said in answer to a command; its text is what [`fmt::Display`] writes.
///
/// Each sentence begins with a word of ours, so that no label can make it a command: neither one of ours or another
/// bot's (`!`), nor one of Twitch's chat (`/`, `.`). It has at most 500 characters, as many as Twitch takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer<'a> {
    Mood(MoodNow<'a>),
    Reset,
    Paused,
    Resumed,
}

/// Where the bar stands, and by what votes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MoodNow<'a> {
    /// In −100 … 100.
    pub value: f64,
    /// Votes for since the session's start or its last reset.
    pub for_count: i64,
    /// Votes against since then.
    pub against_count: i64,
    pub for_label: &'a str,
    pub against_label: &'a str,
    /// Whether votes count for nothing just now.
    pub is_paused: bool,
}

impl<'a> MoodNow<'a> {
    /// Where a session's bar stands at `now`, with the labels of `config`.
    pub fn of(session: &Session, config: &'a Config, is_paused: bool, now: Millis) -> MoodNow<'a> {
        MoodNow {
            value: session.mood.value_at(&session.params, now),
            for_count: session.mood.for_count,
            against_count: session.mood.against_count,
            for_label: &config.for_label,
            against_label: &config.against_label,
            is_paused,
        }
    }
}

impl fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Mood(mood) => write!(f, "{mood}"),
            Answer::Reset => f.write_str("The bar is back in the middle."),
            Answer::Paused => f.write_str("Votes are paused. !pulse resume goes on."),
            Answer::Resumed => f.write_str("Votes count again."),
        }
    }
}

impl fmt::Display for MoodNow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mood ")?;
        // Whole points. What is no number becomes 0.
        match self.value.round() as i64 {
            0 => f.write_str("0")?,
            points => write!(f, "{points:+}")?,
        }
        write!(f, " ({} {}", self.for_count, Label(self.for_label))?;
        write!(f, ", {} {})", self.against_count, Label(self.against_label))?;
        if self.is_paused { f.write_str(", votes are paused") } else { Ok(()) }
    }
}

/// A streamer's label as a sentence can hold it: in one line, and no longer than one that can be saved.
struct Label<'a>(&'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars().map(|c| if c.is_control() { ' ' } else { c });
        chars.by_ref().take(LABEL_CHARS_MAX).try_for_each(|c| f.write_char(c))?;
        if chars.next().is_some() { f.write_char('…') } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::config::VersionedConfig;
    use crate::domain::sentiment::{Impulse, Side};
    use crate::domain::session::{Event, evolve};
    use crate::domain::trigger::Triggers;

    const START: Millis = Millis(1_763_700_000_000);
    const MOOD: MoodNow<'static> = MoodNow {
        value: 37.4,
        for_count: 12,
        against_count: 3,
        for_label: "yes",
        against_label: "no",
        is_paused: false,
    };

    fn mood(value: f64) -> String {
        Answer::Mood(MoodNow { value, ..MOOD }).to_string()
    }

    #[test]
    fn the_words_are_commands() {
        assert_eq!(Command::of("!pulse"), Some(Command::Mood));
        assert_eq!(Command::of("!pulse reset"), Some(Command::Reset));
        assert_eq!(Command::of("!pulse pause"), Some(Command::Pause));
        assert_eq!(Command::of("!pulse resume"), Some(Command::Resume));
    }

    #[test]
    fn a_command_is_read_as_a_trigger_is() {
        for text in
            ["!PULSE", "  !pulse\n", "!pulse \u{E0000}", "\u{200B}!pu\u{AD}lse", "\u{3000}!Pulse\u{FEFF}"]
        {
            assert_eq!(Command::of(text), Some(Command::Mood), "{text:?}");
        }
        assert_eq!(Command::of("!pulse \u{3000} RESET \u{E0000}"), Some(Command::Reset));
    }

    #[test]
    fn anything_else_is_no_command() {
        for text in [
            "",
            " ",
            "!",
            "!puls",
            "!pulses",
            "! pulse",
            "!!pulse",
            "pulse",
            "say !pulse",
            "ж!pulse",
            "!pulse!pulse",
            "!pulse !pulse",
            "!pulse resets",
            "!pulsereset",
            "!pulse reset now",
            "!pulse 100",
            "/pulse",
            "！pulse",
        ] {
            assert_eq!(Command::of(text), None, "{text:?}");
        }
    }

    #[test]
    fn anybody_may_ask_and_only_the_broadcaster_and_moderators_may_steer() {
        let others = ["vip", "subscriber", "staff", "Moderator", "bot-badge", ""];
        assert!(Command::Mood.is_allowed(false, []));
        for command in [Command::Reset, Command::Pause, Command::Resume] {
            assert!(!command.is_allowed(false, []));
            assert!(!command.is_allowed(false, others));
            assert!(command.is_allowed(true, others));
            for badge in ["moderator", "broadcaster", "lead_moderator"] {
                assert!(command.is_allowed(false, ["subscriber", badge]), "{badge}");
            }
        }
    }

    #[test]
    fn a_trigger_that_is_the_command_is_a_vote_for_who_asks_for_votes_first() {
        let config = Config { for_triggers: vec!["!pulse".into()], ..Config::default() };
        assert_eq!(Triggers::of(&config).side_of("!Pulse", &[]), Some(Side::For));
    }

    #[test]
    fn the_mood_is_told_in_whole_points_with_the_streamers_words() {
        assert_eq!(mood(37.4), "Mood +37 (12 yes, 3 no)");
        assert_eq!(mood(-99.5), "Mood -100 (12 yes, 3 no)");
        for middle in [0.0, -0.0, 0.49, -0.49, f64::NAN] {
            assert_eq!(mood(middle), "Mood 0 (12 yes, 3 no)", "{middle}");
        }
        let paused = Answer::Mood(MoodNow { is_paused: true, ..MOOD });
        assert_eq!(paused.to_string(), "Mood +37 (12 yes, 3 no), votes are paused");
    }

    #[test]
    fn the_mood_is_the_sessions_as_it_has_decayed_by_now() {
        let config = Config::default();
        let started = Event::Started {
            streamer_id: uuid::Uuid::from_u128(7),
            ordinal: 1,
            config: VersionedConfig { version: 1, config: config.clone() },
            at: START,
        };
        let mut session = evolve(None, &started).unwrap();
        let vote = Impulse { t: START, side: Side::Against, weight: 1.0 };
        session.mood.apply(&session.params, &[vote, vote, vote], START);
        let told = |ms| Answer::Mood(MoodNow::of(&session, &config, false, Millis(START.0 + ms))).to_string();
        assert_eq!(told(0), "Mood -30 (0 Yes, 3 No)");
        assert_eq!(told(1_000), "Mood -11 (0 Yes, 3 No)");
        assert_eq!(told(60_000), "Mood 0 (0 Yes, 3 No)");
    }

    #[test]
    fn no_label_makes_an_answer_too_long_or_a_command() {
        let long = "\u{1F600}".repeat(10_000);
        for label in ["!pulse reset", "/ban somebody", ".clear", "yes\r\n/ban somebody", long.as_str()] {
            let wordy = MoodNow {
                value: f64::MAX,
                for_count: i64::MIN,
                against_count: i64::MIN,
                for_label: label,
                against_label: label,
                is_paused: true,
            };
            for answer in [Answer::Mood(wordy), Answer::Reset, Answer::Paused, Answer::Resumed] {
                let text = answer.to_string();
                assert!(text.starts_with(|c: char| c.is_ascii_uppercase()), "{text}");
                assert!(text.chars().count() <= 500 && text.encode_utf16().count() <= 500, "{text}");
                assert!(!text.chars().any(char::is_control), "{text:?}");
                assert_eq!(Command::of(&text), None, "{text}");
                assert_eq!(Triggers::of(&Config::default()).side_of(&text, &[]), None, "{text}");
            }
        }
    }

    #[test]
    fn a_label_that_is_cut_shows_it() {
        let label = "x".repeat(LABEL_CHARS_MAX);
        assert_eq!(Label(&label).to_string(), label);
        assert_eq!(Label(&format!("{label}x")).to_string(), format!("{label}…"));
    }
}
