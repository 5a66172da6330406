//! What was said last in the streamer's chat, as the page shows it.

use super::times;
use crate::domain::config::Config;
use crate::domain::sentiment::Side;
use crate::domain::time::Millis;
use crate::hot::chat::{ChatLine, LINES_MAX};

/// A message of the chat.
pub struct Said {
    /// When, as machines read it.
    pub at: String,
    /// The time of the day in UTC.
    pub time: String,
    pub name: String,
    pub text: String,
    /// The label of the side that it voted for.
    pub vote: Option<String>,
}

/// What of a chat's window was said since a session began, in the same order.
pub fn since(mut lines: Vec<ChatLine>, began: Millis) -> Vec<ChatLine> {
    lines.retain(|line| line.at >= began);
    lines
}

/// What was said, oldest first, as the page shows it: newest first.
pub fn said(lines: &[ChatLine], config: &Config) -> Vec<Said> {
    let said = |line: &ChatLine| Said {
        at: times::machine(line.at),
        time: times::second(line.at),
        name: name(line),
        text: line.text.clone(),
        vote: line.side.map(|side| label(side, config).to_owned()),
    };
    lines.iter().rev().take(LINES_MAX).map(said).collect()
}

/// The name that Twitch shows; with the login where that is another word, as names in other scripts have it.
fn name(line: &ChatLine) -> String {
    if line.name.to_lowercase() == line.login {
        line.name.clone()
    } else {
        format!("{} ({})", line.name, line.login)
    }
}

fn label(side: Side, config: &Config) -> &str {
    match side {
        Side::For => &config.for_label,
        Side::Against => &config.against_label,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: i64, text: &str, side: Option<Side>) -> ChatLine {
        ChatLine {
            message_id: text.to_owned(),
            login: "ada".into(),
            name: "Ada".into(),
            text: text.to_owned(),
            at: Millis(at),
            side,
        }
    }

    #[test]
    fn the_newest_stands_first_with_the_side_that_it_voted_for() {
        let lines = [line(1_000, "yes", Some(Side::For)), line(61_000, "no", Some(Side::Against))];
        let config = Config { against_label: "Nope".into(), ..Config::default() };
        let shown: Vec<(String, Option<String>)> =
            said(&lines, &config).into_iter().map(|said| (said.time, said.vote)).collect();
        let expected = [("00:01:01".into(), Some("Nope".into())), ("00:00:01".into(), Some("Yes".into()))];
        assert_eq!(shown, expected);
        assert_eq!(said(&[line(0, "hello", None)], &config)[0].vote, None);
    }

    #[test]
    fn no_more_is_shown_than_a_window_keeps() {
        let lines: Vec<ChatLine> = (0..150).map(|at| line(at, &at.to_string(), None)).collect();
        let shown = said(&lines, &Config::default());
        assert_eq!((shown.len(), shown[0].text.as_str()), (LINES_MAX, "149"));
    }

    #[test]
    fn what_was_said_before_the_session_is_left_out() {
        let lines = vec![line(999, "before", None), line(1_000, "at once", None)];
        let left = since(lines, Millis(1_000));
        assert_eq!(left, [line(1_000, "at once", None)]);
    }

    #[test]
    fn a_name_in_another_script_has_its_login_beside_it() {
        let other = ChatLine { name: "アダ".into(), ..line(0, "hi", None) };
        assert_eq!((name(&line(0, "hi", None)), name(&other)), ("Ada".into(), "アダ (ada)".into()));
    }
}
