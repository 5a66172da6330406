//! What the dashboard shows: from what is known and what was asked to the page's texts. Nothing here asks anybody.

use actix_web::http::StatusCode;
use askama::Template;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::fields::{Content, Kind, Section, told};
use super::form::{Draft, Posted};
use super::health::{Condition, chat_health};
use crate::domain::config::{Config, Problem, VersionedConfig};
use crate::domain::sentiment::REST;
use crate::domain::session::Session;
use crate::domain::streamer::Profile;
use crate::domain::time::Millis;
use crate::journal::subscriptions::SubscriptionStanding;

/// The page's one style, which its policy allows by the hash of these exact bytes.
pub const STYLE: &str =
    concat!(include_str!("../../../web/page.css"), include_str!("../../../web/dashboard.css"));
/// The page's one script, likewise.
pub const SCRIPT: &str = include_str!("../../../web/dashboard.js");

/// What is known of who is signed in.
pub struct Facts {
    /// The token that the forms carry.
    pub csrf: String,
    pub profile: Profile,
    pub overlay_url: String,
    pub saved: VersionedConfig,
    pub live: Option<Live>,
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
}

/// What to say after a form was done; `None` for a query that no form of ours leads to.
pub fn notice(query: &str) -> Option<&'static str> {
    match query {
        "saved" => Some("Saved. Open overlays show it already."),
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
    display_name: String,
    login: String,
    overlay_url: String,
    notice: Option<&'static str>,
    alert: Option<Alert>,
    now: Option<Now>,
    chat: Vec<Condition>,
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
}

impl Dashboard {
    /// The page that answers `outcome`.
    pub fn of(facts: Facts, outcome: Outcome) -> Dashboard {
        let alert = Alert::of(&outcome, &facts.saved);
        let chat = chat_health(&facts.subscriptions, facts.live.is_some());
        let now = facts.live.as_ref().map(|live| Now::of(live, &facts.saved.config, facts.now));
        let (notice, unsure) = match &outcome {
            Outcome::Shown(notice) => (*notice, false),
            other => (None, matches!(other, Outcome::Unsure)),
        };
        let (content, version) = content(outcome, &facts.saved);
        Dashboard {
            style: STYLE,
            script: SCRIPT,
            csrf: facts.csrf,
            display_name: facts.profile.display_name,
            login: facts.profile.login,
            overlay_url: facts.overlay_url,
            notice,
            alert,
            now,
            chat,
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
        let Live { head, paused, overlays, instances } = live;
        let value = Some(head.mood.value_at(&head.params, now)).filter(|value| value.abs() >= REST);
        // In −100 … 100.
        let points = value.unwrap_or_default().round() as i64;
        let size = points.abs();
        let (value, words) = match points {
            0 => ("0".to_owned(), "in the middle".to_owned()),
            1.. => (format!("+{size}"), format!("{size} of 100 towards {}", config.for_label)),
            _ => (format!("−{size}"), format!("{size} of 100 towards {}", config.against_label)),
        };
        let began = OffsetDateTime::from_unix_timestamp(head.started_at.second()).ok();
        Now {
            paused: *paused,
            value,
            words,
            points,
            for_label: config.for_label.clone(),
            for_count: head.mood.for_count,
            against_label: config.against_label.clone(),
            against_count: head.mood.against_count,
            overlays: overlays_open(*overlays, *instances),
            age: age(now.seconds_since(head.started_at) as u64),
            began: began.and_then(|began| began.format(&Rfc3339).ok()).unwrap_or_default(),
        }
    }
}

/// How many overlays are open. Those of other instances are not counted here.
fn overlays_open(here: usize, instances: usize) -> String {
    match (here, instances) {
        (0, 0) => "none any more; the measurement ends soon if none is opened".to_owned(),
        (0, _) => "none on this server, perhaps some on others".to_owned(),
        (here, 0 | 1) => here.to_string(),
        (here, _) => format!("{here} on this server, perhaps more on others"),
    }
}

fn age(seconds: u64) -> String {
    let many = |count: u64, unit: &str| format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    match seconds {
        0..60 => "less than a minute".to_owned(),
        60..3_600 => many(seconds / 60, "minute"),
        _ => {
            let (hours, minutes) = (seconds / 3_600, seconds % 3_600 / 60);
            format!("{} {}", many(hours, "hour"), many(minutes, "minute"))
        }
    }
}

#[cfg(test)]
mod tests;
