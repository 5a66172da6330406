//! `chatpulse doctor`: looks at everything that has to be right for votes to arrive, and says what to do about what is
//! not. It only reads, works whether or not an instance runs, and each look is bounded in time and made although
//! others failed.
//!
//! Reading order: `setup` (settings that belong together), `stores` (PostgreSQL and Redis), `address` (whether Twitch
//! can reach us), `twitch` (application, bot, conduit), `chats` (subscriptions, sign-ins, instances). Some functions
//! ask, and others, which are pure, judge the answers.

mod address;
mod chats;
mod setup;
mod stores;
mod twitch;

use std::future::Future;
use std::time::Duration;

use crate::journal::{Journal, JournalError};
use crate::settings::Settings;
use crate::settings::report::Problem;
use crate::twitch::client::{Client, TwitchError};
use crate::twitch::oauth::AccessToken;

/// What one question may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Of many things of a kind, so many are shown.
const SHOWN_MAX: usize = 5;
const VERDICT_COLUMNS: usize = 7;
const GAP: &str = "  ";

/// How good what was found is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Good,
    /// Worth knowing; votes arrive all the same, or it was not looked at.
    Note,
    /// Something has to be done.
    Bad,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Good => "ok",
            Verdict::Note => "note",
            Verdict::Bad => "problem",
        }
    }

    /// What a terminal is told to show the word in green, yellow or red (ECMA-48, SGR).
    fn colour(self) -> &'static str {
        match self {
            Verdict::Good => "\x1b[32m",
            Verdict::Note => "\x1b[33m",
            Verdict::Bad => "\x1b[31m",
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about, such as `PostgreSQL`.
    pub part: &'static str,
    pub verdict: Verdict,
    pub said: String,
    /// What to do.
    pub remedy: Option<String>,
}

impl Finding {
    fn good(part: &'static str, said: impl Into<String>) -> Finding {
        Finding { part, verdict: Verdict::Good, said: said.into(), remedy: None }
    }

    fn note(part: &'static str, said: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { part, verdict: Verdict::Note, said: said.into(), remedy: Some(remedy.into()) }
    }

    fn bad(part: &'static str, said: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { part, verdict: Verdict::Bad, said: said.into(), remedy: Some(remedy.into()) }
    }

    /// That something could not be looked at.
    fn left_out(part: &'static str, because: &str) -> Finding {
        let said = format!("not looked at, because {because}");
        Finding { part, verdict: Verdict::Note, said, remedy: None }
    }
}

/// What the later looks build on.
struct Known<'a> {
    settings: &'a Settings,
    /// There if PostgreSQL answers and has the right schema.
    journal: Option<Journal>,
    /// There if Twitch knows it.
    application: Option<Application>,
}

/// Twitch's application, and its own token.
struct Application {
    client: Client,
    access: AccessToken,
}

/// Looks at everything. `warnings` are those of the settings. The findings come in the order in which to mend them.
pub async fn examine(settings: &Settings, warnings: &[Problem]) -> Vec<Finding> {
    // Err means that the process has its provider already, which does as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (redis, address, rest) =
        tokio::join!(stores::redis(settings), address::examine(settings), journal_and_twitch(settings));
    let Rest { postgres, twitch } = rest;
    [setup::examine(settings, warnings), postgres, redis, address, twitch].concat()
}

/// Whether nothing is bad.
pub fn is_sound(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.verdict != Verdict::Bad)
}

struct Rest {
    postgres: Vec<Finding>,
    twitch: Vec<Finding>,
}

async fn journal_and_twitch(settings: &Settings) -> Rest {
    let ((postgres, journal), (mut twitch, application)) =
        tokio::join!(stores::postgres(settings), twitch::application(settings));
    let known = Known { settings, journal, application };
    let (bot, conduit, subscriptions, sign_ins, instances) = tokio::join!(
        twitch::bot(&known),
        twitch::conduit(&known),
        chats::subscriptions(&known),
        chats::sign_ins(&known),
        chats::instances(&known),
    );
    twitch.extend([instances, bot, conduit, subscriptions, sign_ins].concat());
    Rest { postgres, twitch }
}

/// What `question` answers, or what `late` says when that takes too long.
async fn in_time<T, E>(
    question: impl Future<Output = Result<T, E>>,
    late: impl FnOnce(String) -> E,
) -> Result<T, E> {
    match tokio::time::timeout(ANSWER_MAX, question).await {
        Ok(answer) => answer,
        Err(_) => Err(late(format!("no answer within {} s", ANSWER_MAX.as_secs()))),
    }
}

/// What a question to the journal that failed means.
fn unanswered(part: &'static str, error: &JournalError) -> Finding {
    let text = error.to_string();
    let remedy = match error {
        // These say what to do at their end.
        JournalError::Schema(_) | JournalError::NotDurable(_) => {
            return match text.rsplit_once("; ") {
                Some((said, remedy)) => Finding::bad(part, said, remedy),
                None => Finding::bad(part, text, "run `chatpulse migrate`"),
            };
        }
        JournalError::Url(_) => {
            let said = "database.url can't be used";
            return Finding::bad(part, said, "write it as postgres://user:password@host:port/name");
        }
        JournalError::Away(_) => {
            "check that PostgreSQL runs, that database.url is right, and that it lets this machine in"
        }
        JournalError::Busy(_) => "try again in a while; if it stays so, look at PostgreSQL's load",
        JournalError::Data(_) | JournalError::Refused(_) | JournalError::Unreadable(_) => {
            "check that the role in database.url may read the schema chatpulse, and that every instance is of this \
             release"
        }
    };
    Finding::bad(part, text, remedy)
}

/// What a call of Twitch that failed means.
fn uncalled(part: &'static str, error: &TwitchError) -> Finding {
    let text = error.to_string();
    match error {
        TwitchError::Limited { .. } => Finding::note(part, text, "examine again when that is over"),
        TwitchError::Setup(_) => Finding::bad(part, text, "correct the setting that it names"),
        TwitchError::Away(_) => {
            let remedy = "check that this machine can connect to twitch.helix_url and twitch.oauth_url (by default \
                          api.twitch.tv and id.twitch.tv, port 443); if it can, Twitch itself has trouble";
            Finding::bad(part, text, remedy)
        }
        TwitchError::Unauthorized(_) | TwitchError::Refused { .. } => {
            Finding::bad(part, text, "check twitch.client_id and twitch.client_secret")
        }
        TwitchError::Answer(_) => {
            let remedy =
                "check twitch.helix_url and twitch.oauth_url; if they are right, ChatPulse needs an update";
            Finding::bad(part, text, remedy)
        }
    }
}

/// The findings for reading: each with its part and verdict, what to do below it, and at the end how it is on the
/// whole. With `colours` for a terminal that shows them.
pub fn render(findings: &[Finding], colours: bool) -> String {
    let part_columns = findings.iter().map(|finding| finding.part.len()).max().unwrap_or(0);
    let margin = " ".repeat(part_columns + GAP.len() + VERDICT_COLUMNS + GAP.len());
    let mut text = String::new();
    let mut part_before = "";
    for finding in findings {
        let shown = if finding.part == part_before { "" } else { finding.part };
        part_before = finding.part;
        let verdict = finding.verdict;
        let word = format!("{:VERDICT_COLUMNS$}", verdict.word());
        let word = if colours { format!("{}{word}\x1b[0m", verdict.colour()) } else { word };
        text.push_str(&format!("{shown:part_columns$}{GAP}{word}{GAP}{}\n", one_line(&finding.said)));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!("{margin}{}\n", one_line(remedy)));
        }
    }
    text.push_str(&format!("\n{}\n", summary(findings)));
    text
}

/// What others said must not end the line, or tell a terminal something.
fn one_line(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

fn summary(findings: &[Finding]) -> String {
    let count = |verdict: Verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    match (count(Verdict::Bad), count(Verdict::Note)) {
        (0, 0) => "everything is in order".to_owned(),
        (0, notes) => format!("nothing is wrong; {}", counted(notes, "note")),
        (problems, 0) => counted(problems, "problem"),
        (problems, notes) => format!("{}, {}", counted(problems, "problem"), counted(notes, "note")),
    }
}

/// `1 note`, `2 notes`.
fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_stand_below_each_other_with_what_to_do() {
        let findings = [
            Finding::good("PostgreSQL", "it answers"),
            Finding::bad("PostgreSQL", "the schema is old", "run `chatpulse migrate`"),
            Finding::left_out("bot", "PostgreSQL is not ready"),
        ];
        let text = "\
PostgreSQL  ok       it answers
            problem  the schema is old
                     run `chatpulse migrate`
bot         note     not looked at, because PostgreSQL is not ready

1 problem, 1 note
";
        assert_eq!(render(&findings, false), text);
        assert!(!is_sound(&findings));
        assert!(is_sound(&findings[2..]));
    }

    #[test]
    fn colours_are_for_terminals_and_move_nothing() {
        let findings = [Finding::good("bot", "signed in")];
        let coloured = render(&findings, true);
        assert!(coloured.contains("\x1b[32m"));
        assert_eq!(coloured.replace("\x1b[32m", "").replace("\x1b[0m", ""), render(&findings, false));
        assert!(render(&findings, false).ends_with("\neverything is in order\n"));
    }

    #[test]
    fn what_others_said_stays_on_its_line_and_moves_no_cursor() {
        let findings = [Finding::note("Twitch", "a\nb\x1b[2J", "c\rd")];
        let text = render(&findings, false);
        assert!(!text.contains('\x1b') && !text.contains('\r'));
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn a_failure_that_says_what_to_do_is_split_into_both() {
        let schema = JournalError::Schema("the schema has version 1, this release needs 2; run it".into());
        let finding = unanswered("PostgreSQL", &schema);
        assert_eq!(finding.said, "the schema has version 1, this release needs 2");
        assert_eq!(finding.remedy.as_deref(), Some("run it"));
    }

    #[test]
    fn no_failure_repeats_the_database_url() {
        let finding = unanswered("PostgreSQL", &JournalError::Url("near `hunter2`".into()));
        assert!(!finding.said.contains("hunter2"));
    }

    #[test]
    fn being_limited_is_no_problem_and_everything_else_is() {
        let limited = TwitchError::Limited { wait: Duration::from_secs(1) };
        assert_eq!(uncalled("Twitch", &limited).verdict, Verdict::Note);
        for error in [
            TwitchError::Away("why".into()),
            TwitchError::Answer("why".into()),
            TwitchError::Unauthorized("why".into()),
        ] {
            let finding = uncalled("Twitch", &error);
            assert_eq!(finding.verdict, Verdict::Bad);
            assert!(finding.remedy.is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_is_not_answered_ends() {
        let silent = std::future::pending::<Result<(), JournalError>>();
        let error = in_time(silent, JournalError::Away).await.unwrap_err();
        assert!(error.to_string().contains("within 5 s"), "{error}");
    }
}
