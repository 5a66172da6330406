//! What the dashboard shows: from what is known and what was asked to the page's texts. Nothing here asks anybody.

use actix_web::http::StatusCode;
use askama::Template;

use super::chat::{Said, said};
use super::fields::{Content, Kind, Section, told};
use super::form::{Draft, Posted};
use super::health::{Condition, Heard, Known, chat_health};
use super::recording::Recording;
use super::times;
use crate::domain::config::{Config, Problem, VersionedConfig};
use crate::domain::sentiment::REST;
use crate::domain::session::Session;
use crate::domain::streamer::Profile;
use crate::domain::time::Millis;
use crate::hot::chat::ChatLine;
use crate::journal::recordings::StreamStanding;
use crate::journal::subscriptions::SubscriptionStanding;

/// The page's one style, which its policy allows by the hash of these exact bytes.
pub const STYLE: &str =
    concat!(include_str!("../../../web/page.css"), include_str!("../../../web/dashboard.css"));
/// The page's one script, likewise.
pub const SCRIPT: &str = include_str!("../../../web/dashboard.js");

/// Said once settings were saved.
const SAVED: &str = "Saved. Open overlays show it already.";

/// What is known of who is signed in.
pub struct Facts {
    /// The token that the forms carry; `None` when none is to be had, so that no form can be sent.
    pub csrf: Option<String>,
    pub profile: Profile,
    pub overlay_url: String,
    pub saved: VersionedConfig,
    pub live: Option<Live>,
    pub standing: StreamStanding,
    pub subscriptions: Vec<SubscriptionStanding>,
    /// On PostgreSQL's clock.
    pub now: Millis,
}

/// The session that is going on.
pub struct Live {
    pub head: Session,
    /// Whether votes count for nothing just now.
    pub paused: bool,
    /// Overlays connected to the instance that answers.
    pub overlays: usize,
    /// Instances that hold the session.
    pub instances: usize,
    /// Whether a recording holds it, too.
    pub recorded: bool,
    pub heard: Heard,
    /// What was said in it last, oldest first; `None` when that is not known.
    pub said: Option<Vec<ChatLine>>,
}

/// What the page is an answer to.
pub enum Outcome {
    /// It was asked for, perhaps after something was done, of which the sentence tells.
    Shown(Option<&'static str>),
    /// Settings that can't be saved as they are.
    Invalid(Posted, Vec<Problem>),
    /// The form's token is too old; with the settings, if it was their form.
    Stale(Option<Posted>),
    /// The settings moved on since they were loaded; with what the typed ones mean.
    MovedOn(Posted, Config),
    /// The address was to be replaced, but the box was not ticked.
    Unsure,
}

impl Outcome {
    /// The status of such an answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Outcome::Shown(_) => StatusCode::OK,
            Outcome::Invalid(..) | Outcome::Unsure => StatusCode::UNPROCESSABLE_ENTITY,
            Outcome::Stale(_) => StatusCode::FORBIDDEN,
            Outcome::MovedOn(..) => StatusCode::CONFLICT,
        }
    }

    /// What the settings' form shows, for the script that keeps what was typed until it is saved.
    fn shows(&self) -> &'static str {
        match self {
            Outcome::Shown(Some(notice)) if *notice == SAVED => "just-saved",
            Outcome::Shown(_) | Outcome::Stale(None) | Outcome::Unsure => "saved",
            Outcome::Invalid(..) | Outcome::Stale(Some(_)) | Outcome::MovedOn(..) => "typed",
        }
    }
}

/// What to say after a form was done; `None` for a query that no form of ours leads to.
pub fn notice(query: &str) -> Option<&'static str> {
    match query {
        "saved" => Some(SAVED),
        "recording-on" => Some("Recording is on. A stream that is live already is recorded from now on."),
        "recording-off" => Some("Recording is off. Votes count only while an overlay is open."),
        "reset" => Some("Reset. The bar is in the middle, and counting begins again."),
        "rotated" => Some("Your overlay has a new address: paste it into OBS. The old one works no more."),
        _ => None,
    }
}

/// The page. Its fields are what `web/dashboard.html` names.
#[derive(Template)]
#[template(path = "dashboard.html", config = "config/askama.toml")]
pub struct Dashboard {
    style: &'static str,
    script: &'static str,
    csrf: String,
    /// No form can be sent just now.
    locked: bool,
    display_name: String,
    login: String,
    /// Whose settings they are.
    twitch_user_id: String,
    overlay_url: String,
    notice: Option<&'static str>,
    alert: Option<Alert>,
    now: Option<Now>,
    chat: Vec<Condition>,
    recording: Recording,
    /// See [`Outcome::shows`].
    shows: &'static str,
    /// The version that was edited, where the form carries another one.
    edited: Option<i64>,
    version: i64,
    sections: Vec<Section>,
    unsure: bool,
}

/// Why nothing was done.
struct Alert {
    title: &'static str,
    sentence: String,
    /// The fields to look at.
    links: Vec<Link>,
    moved_on: bool,
}

struct Link {
    /// The id of the field.
    target: &'static str,
    text: String,
}

/// How the live session stands.
struct Now {
    paused: bool,
    value: String,
    /// The value in words.
    words: String,
    /// −100 … 100, whole.
    points: i64,
    for_label: String,
    for_count: i64,
    against_label: String,
    against_count: i64,
    overlays: String,
    /// How long ago the session began.
    age: String,
    began: String,
    /// What was said last, newest first; `None` when that is not known.
    said: Option<Vec<Said>>,
}

impl Dashboard {
    /// The page that answers `outcome`.
    pub fn of(facts: Facts, outcome: Outcome) -> Dashboard {
        let alert = Alert::of(&outcome, &facts.saved);
        let live = facts.live.as_ref();
        let chat = chat_health(&Known {
            subscriptions: &facts.subscriptions,
            standing: &facts.standing,
            heard: live.map(|live| live.heard),
            now: facts.now,
        });
        let recording = Recording::of(&facts.standing, live.is_some_and(|live| live.recorded), facts.now);
        let now = live.map(|live| Now::of(live, &facts.saved.config, facts.now));
        let shows = outcome.shows();
        let (notice, unsure) = match &outcome {
            Outcome::Shown(notice) => (*notice, false),
            other => (None, matches!(other, Outcome::Unsure)),
        };
        let edited = match &outcome {
            Outcome::MovedOn(posted, _) => Some(posted.version),
            _ => None,
        };
        let (content, version) = content(outcome, &facts.saved);
        Dashboard {
            style: STYLE,
            script: SCRIPT,
            locked: facts.csrf.is_none(),
            csrf: facts.csrf.unwrap_or_default(),
            display_name: facts.profile.display_name,
            login: facts.profile.login,
            twitch_user_id: facts.profile.twitch_user_id,
            overlay_url: facts.overlay_url,
            notice,
            alert,
            now,
            chat,
            recording,
            shows,
            edited,
            version,
            sections: content.sections(),
            unsure,
        }
    }
}

impl Alert {
    fn of(outcome: &Outcome, saved: &VersionedConfig) -> Option<Alert> {
        let alert = |title, sentence: &str, links| Alert {
            title,
            sentence: sentence.to_owned(),
            links,
            moved_on: false,
        };
        match outcome {
            Outcome::Shown(_) => None,
            Outcome::Invalid(_, problems) => {
                let sentence = "What you typed is still here. Look at these settings:";
                Some(alert("Nothing was saved", sentence, problems.iter().map(Link::to).collect()))
            }
            Outcome::Stale(Some(_)) => {
                let sentence = "The page was open for too long. What you typed is still here: save it again.";
                Some(alert("Nothing was saved yet", sentence, Vec::new()))
            }
            Outcome::Stale(None) => {
                let sentence = "The page was open for too long. It is fresh now: do it again.";
                Some(alert("Nothing was changed yet", sentence, Vec::new()))
            }
            Outcome::MovedOn(_, typed) => {
                let same = Draft::of(typed) == Draft::of(&saved.config);
                let what = if same {
                    "What is saved is just what you typed."
                } else {
                    "What you typed is still here. Where it differs you see beside it what is saved. Saving again \
                     overwrites that."
                };
                let version = saved.version;
                let sentence =
                    format!("The settings were saved elsewhere meanwhile, as version {version}. {what}");
                Some(Alert { moved_on: true, ..alert("Nothing was saved yet", &sentence, Vec::new()) })
            }
            Outcome::Unsure => {
                let text = "Tick the box that says that you know what happens.".to_owned();
                let links = vec![Link { target: "sure", text }];
                Some(alert("The address was not replaced", "It is as it was.", links))
            }
        }
    }
}

impl Link {
    fn to(problem: &Problem) -> Link {
        Link { target: problem.field, text: told(problem) }
    }
}

/// What the settings' form shows, and the version that it carries.
fn content(outcome: Outcome, saved: &VersionedConfig) -> (Content, i64) {
    let typed = |draft| Content { draft, ..Content::default() };
    match outcome {
        Outcome::Shown(_) | Outcome::Stale(None) | Outcome::Unsure => {
            (typed(Draft::of(&saved.config)), saved.version)
        }
        // Still the version that was edited: nobody has looked whether it moved on.
        Outcome::Invalid(posted, problems) => (Content { problems, ..typed(posted.draft) }, posted.version),
        Outcome::Stale(Some(posted)) => (typed(posted.draft), posted.version),
        Outcome::MovedOn(posted, meant) => {
            let versions = Some((Draft::of(&meant), Draft::of(&saved.config)));
            (Content { versions, ..typed(posted.draft) }, saved.version)
        }
    }
}

impl Now {
    fn of(live: &Live, config: &Config, now: Millis) -> Now {
        let head = &live.head;
        let value = Some(head.mood.value_at(&head.params, now)).filter(|value| value.abs() >= REST);
        // In −100 … 100.
        let points = value.unwrap_or_default().round() as i64;
        let size = points.abs();
        let (value, words) = match points {
            0 => ("0".to_owned(), "in the middle".to_owned()),
            1.. => (format!("+{size}"), format!("{size} of 100 towards {}", config.for_label)),
            _ => (format!("−{size}"), format!("{size} of 100 towards {}", config.against_label)),
        };
        Now {
            paused: live.paused,
            value,
            words,
            points,
            for_label: config.for_label.clone(),
            for_count: head.mood.for_count,
            against_label: config.against_label.clone(),
            against_count: head.mood.against_count,
            overlays: overlays_open(live),
            age: times::age(now.seconds_since(head.started_at) as u64),
            began: times::machine(head.started_at),
            said: live.said.as_ref().map(|lines| said(lines, config)),
        }
    }
}

/// How many overlays are open. Those of other instances are not counted here.
fn overlays_open(live: &Live) -> String {
    match (live.overlays, live.instances) {
        (0, 0) if live.recorded => "none".to_owned(),
        (0, 0) => "none any more; the measurement ends soon if none is opened".to_owned(),
        (0, _) => "none on this server, perhaps some on others".to_owned(),
        (here, 0 | 1) => here.to_string(),
        (here, _) => format!("{here} on this server, perhaps more on others"),
    }
}

#[cfg(test)]
mod tests;
