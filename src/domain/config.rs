//! What a streamer can set, and what makes a setting acceptable.

use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;

use super::sentiment::{Model, Params, WINDOW_SECONDS_MAX};
use super::trigger;

/// Triggers a side may have at most.
pub const TRIGGERS_MAX: usize = 10;
/// Characters of a trigger at most.
pub const TRIGGER_CHARS_MAX: usize = 100;
/// Characters of a label at most.
pub const LABEL_CHARS_MAX: usize = 50;
/// Characters of a theme's name at most.
const THEME_CHARS_MAX: usize = 32;

/// How the overlay draws the mood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Display {
    /// One bar that grows from the middle.
    Combined,
    /// Two shares that push against each other.
    Split,
}

/// A streamer's settings, without their version.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub for_triggers: Vec<String>,
    pub against_triggers: Vec<String>,
    pub for_label: String,
    pub against_label: String,
    pub params: Params,
    pub display: Display,
    pub theme: String,
}

/// Settings together with the number that grows with each change of them.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionedConfig {
    pub version: i64,
    pub config: Config,
}

/// One thing that is wrong with a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field's name as the API spells it.
    pub field: &'static str,
    /// What is wrong and what to do, in plain words.
    pub detail: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            for_triggers: vec!["yes".into()],
            against_triggers: vec!["no".into()],
            for_label: "Yes".into(),
            against_label: "No".into(),
            params: Params { model: Model::Decay, vote_delta: 10.0, decay_speed: 1.0, window_seconds: 30 },
            display: Display::Combined,
            theme: "dark".into(),
        }
    }
}

impl Config {
    /// Everything that is wrong with this config; empty when it can be saved.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        check_triggers("for_triggers", &self.for_triggers, &mut problems);
        check_triggers("against_triggers", &self.against_triggers, &mut problems);
        self.check_sides(&mut problems);
        check_text("for_label", &self.for_label, LABEL_CHARS_MAX, &mut problems);
        check_text("against_label", &self.against_label, LABEL_CHARS_MAX, &mut problems);
        check_text("theme", &self.theme, THEME_CHARS_MAX, &mut problems);
        let params = &self.params;
        check_range("vote_delta", params.vote_delta, 1.0..=50.0, &mut problems);
        check_range("decay_speed", params.decay_speed, 0.1..=5.0, &mut problems);
        check_range("window_seconds", params.window_seconds, 5..=WINDOW_SECONDS_MAX, &mut problems);
        problems
    }

    /// A trigger may stand on one side only, however it is written.
    fn check_sides(&self, problems: &mut Vec<Problem>) {
        // Longer ones are refused for their length, and not echoed.
        let short = |word: &&String| word.chars().count() <= TRIGGER_CHARS_MAX;
        let for_words: HashMap<String, &String> =
            self.for_triggers.iter().filter(short).map(|word| (trigger::normalise(word), word)).collect();
        for word in self.against_triggers.iter().filter(short) {
            let normal = trigger::normalise(word);
            if let Some(other) = for_words.get(&normal).filter(|_| !normal.is_empty()) {
                let detail =
                    format!("{word:?} also votes for (as {other:?}); a trigger may stand on one side only");
                problems.push(Problem { field: "against_triggers", detail });
            }
        }
    }
}

fn check_triggers(field: &'static str, triggers: &[String], problems: &mut Vec<Problem>) {
    let mut problem = |detail: String| problems.push(Problem { field, detail });
    if triggers.len() > TRIGGERS_MAX {
        problem(format!("has {} triggers; at most {TRIGGERS_MAX} a side are possible", triggers.len()));
    }
    for word in triggers {
        let chars = word.chars().count();
        if chars > TRIGGER_CHARS_MAX {
            problem(format!("a trigger has {chars} characters; at most {TRIGGER_CHARS_MAX} are possible"));
        } else if trigger::normalise(word).is_empty() {
            problem(format!("{word:?} has no visible character; write a word or an emote's name"));
        }
        if word.contains('\0') {
            problem("a trigger contains the character NUL; remove it".into());
        }
    }
}

/// Finds a text that is blank, longer than `chars_max` characters or has control characters.
pub(super) fn check_text(field: &'static str, text: &str, chars_max: usize, problems: &mut Vec<Problem>) {
    let mut problem = |detail: String| problems.push(Problem { field, detail });
    let chars = text.chars().count();
    if chars > chars_max {
        problem(format!("has {chars} characters; at most {chars_max} are possible"));
    } else if trigger::normalise(text).is_empty() {
        problem(format!("has no visible character; write 1 to {chars_max}"));
    }
    if text.chars().any(char::is_control) {
        problem("contains a control character; remove it".into());
    }
}

/// Finds a number outside of `possible`; NaN is.
fn check_range<T: PartialOrd + fmt::Display>(
    field: &'static str,
    value: T,
    possible: RangeInclusive<T>,
    problems: &mut Vec<Problem>,
) {
    if !possible.contains(&value) {
        let detail = format!("is {value}; {} to {} are possible", possible.start(), possible.end());
        problems.push(Problem { field, detail });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(count: usize, word: &str) -> Vec<String> {
        vec![word.into(); count]
    }

    fn fields(config: &Config) -> Vec<&'static str> {
        config.problems().iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn the_default_can_be_saved() {
        assert_eq!(Config::default().problems(), []);
    }

    #[test]
    fn the_ends_of_each_range_can_be_saved() {
        let mut config = Config {
            for_triggers: words(TRIGGERS_MAX, &"ж".repeat(TRIGGER_CHARS_MAX)),
            against_triggers: Vec::new(),
            for_label: "ж".repeat(LABEL_CHARS_MAX),
            ..Config::default()
        };
        for (vote_delta, decay_speed, window_seconds) in [(1.0, 0.1, 5), (50.0, 5.0, 120)] {
            config.params = Params { vote_delta, decay_speed, window_seconds, ..config.params };
            assert_eq!(config.problems(), []);
        }
    }

    #[test]
    fn every_problem_is_named() {
        let config = Config {
            for_triggers: words(TRIGGERS_MAX + 1, "yes"),
            against_triggers: vec!["YES\u{200B}".into(), " \u{E0000}".into(), "x".repeat(101), "n\0o".into()],
            for_label: "  ".into(),
            against_label: "x".repeat(LABEL_CHARS_MAX + 1),
            theme: "dark\n".into(),
            params: Params { model: Model::Decay, vote_delta: 0.99, decay_speed: 5.01, window_seconds: 4 },
            ..Config::default()
        };
        let expected = [
            "for_triggers",
            "against_triggers",
            "against_triggers",
            "against_triggers",
            "against_triggers",
            "for_label",
            "against_label",
            "theme",
            "vote_delta",
            "decay_speed",
            "window_seconds",
        ];
        assert_eq!(fields(&config), expected);
    }

    #[test]
    fn a_number_out_of_range_or_that_is_none_is_refused() {
        let with = |vote_delta, decay_speed, window_seconds| {
            let params = Params { model: Model::Decay, vote_delta, decay_speed, window_seconds };
            Config { params, ..Config::default() }
        };
        for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -1.0, 50.1, f64::MAX, 1e-320] {
            assert_eq!(fields(&with(wrong, 1.0, 30)), ["vote_delta"], "{wrong}");
            assert_eq!(fields(&with(10.0, wrong, 30)), ["decay_speed"], "{wrong}");
        }
        for wrong in [i64::MIN, -30, 0, 121, i64::MAX] {
            assert_eq!(fields(&with(10.0, 1.0, wrong)), ["window_seconds"], "{wrong}");
        }
        assert_eq!(with(f64::NAN, 1.0, 30).problems()[0].detail, "is NaN; 1 to 50 are possible");
    }

    #[test]
    fn a_trigger_on_both_sides_is_refused_however_it_is_written() {
        for (left, right) in [("yes", "YES"), ("Straße", "STRASSE "), ("go  left", "go\u{200B} left")] {
            let config = Config {
                for_triggers: vec![left.into()],
                against_triggers: vec![right.into()],
                ..Config::default()
            };
            assert_eq!(fields(&config), ["against_triggers"], "{left} {right}");
        }
    }

    #[test]
    fn a_text_that_nobody_can_see_is_refused() {
        for blank in ["", " ", "\u{200B}", " \u{E0000}"] {
            let config =
                Config { for_label: blank.into(), for_triggers: words(1, blank), ..Config::default() };
            assert_eq!(fields(&config), ["for_triggers", "for_label"], "{blank:?}");
        }
    }

    #[test]
    fn a_trigger_too_long_is_not_echoed() {
        let long = words(1, &"x".repeat(100_000));
        let config = Config { for_triggers: long.clone(), against_triggers: long, ..Config::default() };
        assert!(config.problems().iter().all(|problem| problem.detail.len() < 200));
    }
}
