use std::collections::HashSet;

use uuid::Uuid;

use super::super::form::FIELDS;
use super::*;
use crate::domain::sentiment::{Model, Mood, Params, Side};
use crate::domain::stream::{ChatHealth, Stream};
use crate::http::pages::source_hash;

/// Looks like markup, as whoever tries would name it.
const MARKUP: &str = "<script>\"'&</textarea>";

fn facts() -> Facts {
    let profile =
        Profile { twitch_user_id: "1".into(), login: "ada".into(), display_name: format!("Ada {MARKUP}") };
    Facts {
        csrf: Some("the-token".into()),
        profile,
        overlay_url: "https://pulse.example/overlay/00000000-0000-4000-8000-000000000001".into(),
        saved: VersionedConfig {
            version: 7,
            config: Config { for_label: "Saved".into(), ..Config::default() },
        },
        live: None,
        standing: StreamStanding {
            recorded: Some(true),
            stream: None,
            health: ChatHealth::Well,
            health_reason: None,
            health_since: None,
            last_message_at: None,
        },
        subscriptions: Vec::new(),
        now: Millis(3_600_000),
    }
}

fn head(value: f64) -> Session {
    let mood = Mood { at: Millis(3_600_000), value, for_count: 12, against_count: 3, ..Mood::default() };
    Session {
        streamer_id: Uuid::from_u128(2),
        ordinal: 1,
        version: 12,
        config_version: 7,
        params: Params { model: Model::Decay, vote_delta: 10.0, decay_speed: 1.0, window_seconds: 30 },
        mood,
        started_at: Millis(0),
        reset_at: None,
        ended_at: None,
    }
}

fn live(value: f64) -> Live {
    Live {
        head: head(value),
        paused: false,
        overlays: 2,
        instances: 1,
        recorded: false,
        heard: Heard::Message(Millis(3_600_000)),
        said: Some(vec![line("hello"), ChatLine { side: Some(Side::For), ..line("yes") }, line(MARKUP)]),
    }
}

fn line(text: &str) -> ChatLine {
    let name = format!("Somebody {MARKUP}");
    let (message_id, login) = ("1".into(), "somebody".into());
    ChatLine { message_id, login, name, text: text.into(), at: Millis(3_600_000), side: None }
}

/// A stream that is live and recorded, of whose chat nothing is known.
fn being_recorded() -> Facts {
    let nobody = Live { overlays: 0, instances: 0, ..live(0.0) };
    let unknown = Live { recorded: true, heard: Heard::Unknown, said: None, ..nobody };
    let stream = Some(Stream { id: "1".into(), started_at: Millis(0) });
    let facts = facts();
    Facts { live: Some(unknown), standing: StreamStanding { stream, ..facts.standing }, ..facts }
}

fn posted(fields: &[(&str, &str)]) -> Posted {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    Posted::parse(body.as_bytes())
}

fn html(facts: Facts, outcome: Outcome) -> String {
    Dashboard::of(facts, outcome).render().unwrap()
}

/// Each kind of page.
fn all_pages() -> Vec<String> {
    let typed = || posted(&FIELDS.map(|field| (field, MARKUP)));
    let problem = |field| Problem { field, detail: format!("is {MARKUP}") };
    let problems = FIELDS.map(problem).to_vec();
    let meant = Config { for_label: MARKUP.into(), ..Config::default() };
    let with_live = Facts { live: Some(live(37.5)), ..facts() };
    vec![
        html(facts(), Outcome::Shown(None)),
        html(with_live, Outcome::Shown(notice("saved"))),
        html(being_recorded(), Outcome::Shown(None)),
        html(facts(), Outcome::Invalid(typed(), problems)),
        html(facts(), Outcome::Stale(Some(typed()))),
        html(facts(), Outcome::Stale(None)),
        html(facts(), Outcome::MovedOn(typed(), meant)),
        html(facts(), Outcome::Unsure),
    ]
}

/// What stands in the attribute `name` wherever it does, outside of the style and the script.
fn attributes(html: &str, name: &str) -> Vec<String> {
    let html = html.replace(STYLE, "").replace(SCRIPT, "");
    let start = format!(" {name}=\"");
    html.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

#[test]
fn the_page_holds_exactly_what_its_policy_allows() {
    let policy = super::super::policy();
    let policy = policy.to_str().unwrap();
    for source in [STYLE, SCRIPT] {
        assert!(policy.contains(&source_hash(source)));
        let fit = !source.contains('\r') && !source.contains("</s");
        assert!(fit, "browsers would hash other bytes than these");
    }
    assert!(policy.split("; ").any(|directive| directive == "form-action 'self'"), "{policy}");
    for html in all_pages() {
        assert!(html.contains(&format!("<style>{STYLE}</style>")));
        assert!(html.contains(&format!("<script>{SCRIPT}</script>")));
        assert!(attributes(&html, "style").is_empty() && attributes(&html, "onclick").is_empty());
    }
}

#[test]
fn what_people_write_is_text_and_never_markup() {
    for html in all_pages() {
        assert_eq!(html.matches("<script>").count(), 1);
        assert_eq!(html.matches("</textarea>").count(), 2);
        assert!(html.contains("Ada &#60;script&#62;"));
    }
}

#[test]
fn ids_are_there_once_and_what_names_one_finds_it() {
    for html in all_pages() {
        let ids = attributes(&html, "id");
        let known: HashSet<&str> = ids.iter().map(String::as_str).collect();
        assert_eq!(known.len(), ids.len(), "{ids:?}");
        let mut named = attributes(&html, "for");
        named.extend(attributes(&html, "aria-labelledby"));
        named.extend(attributes(&html, "aria-describedby"));
        let links = attributes(&html, "href");
        named.extend(links.iter().filter_map(|to| to.strip_prefix('#')).map(str::to_owned));
        assert!(named.len() > 20);
        for id in named.iter().flat_map(|ids| ids.split(' ')) {
            assert!(known.contains(id), "{id}");
        }
    }
}

#[test]
fn every_form_carries_the_token() {
    for html in all_pages() {
        assert_eq!(html.matches("<form ").count(), 5);
        assert_eq!(html.matches("name=\"csrf\" value=\"the-token\"").count(), 5);
    }
}

#[test]
fn what_is_wrong_is_told_at_the_top_and_beside_the_field_and_what_was_typed_stays() {
    let typed = posted(&[("version", "6"), ("vote_delta", "a lot"), ("for_triggers", "\n one\r\ntwo")]);
    let problems = typed.draft.config().unwrap_err();
    let outcome = Outcome::Invalid(typed, problems);
    assert_eq!(outcome.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let html = html(facts(), outcome);
    assert_eq!(html.matches("Points a vote adds: is no number; write one such as 1.5.").count(), 2);
    assert!(html.contains("<a href=\"#vote_delta\">") && html.contains("value=\"a lot\""));
    // The browser drops the line break that follows the tag, so what begins with one needs another.
    assert!(html.contains(">\n\n one\r\ntwo</textarea>"));
    assert!(html.contains("name=\"version\" value=\"6\""));
}

#[test]
fn a_form_with_an_old_token_is_shown_again_with_what_was_typed() {
    let outcome = Outcome::Stale(Some(posted(&[("version", "6"), ("for_label", "Typed")])));
    assert_eq!(outcome.status(), StatusCode::FORBIDDEN);
    let html = html(facts(), outcome);
    assert!(html.contains("value=\"Typed\"") && html.contains("name=\"version\" value=\"6\""));
    assert!(html.contains("save it again"));
}

#[test]
fn when_the_settings_moved_on_both_are_shown_and_saving_again_overwrites() {
    let typed = posted(&[("version", "6"), ("for_label", "Typed")]);
    let meant = Config { for_label: "Typed".into(), ..Config::default() };
    let outcome = Outcome::MovedOn(typed, meant);
    assert_eq!(outcome.status(), StatusCode::CONFLICT);
    let html = html(facts(), outcome);
    assert!(html.contains("value=\"Typed\"") && html.contains("name=\"version\" value=\"7\""));
    assert_eq!(html.matches("Saved as version 7:").count(), 1);
    assert!(html.contains("<p class=\"lines\">Saved</p>") && html.contains("overwrites"));
    assert!(html.contains("id=\"load-saved\" href=\"/dashboard\">Drop what I typed"));
}

#[test]
fn settings_that_moved_on_to_the_same_are_told_so() {
    let facts = facts();
    let same = facts.saved.config.clone();
    let html = html(facts, Outcome::MovedOn(posted(&[]), same));
    assert!(html.contains("just what you typed") && !html.contains("Saved as version"));
}

#[test]
fn an_address_is_replaced_only_knowingly() {
    assert_eq!(Outcome::Unsure.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let html = html(facts(), Outcome::Unsure);
    assert!(html.contains("<a href=\"#sure\">") && html.contains("id=\"sure-problem\""));
}

#[test]
fn only_what_our_own_forms_lead_to_is_noticed() {
    for query in ["saved", "reset", "rotated", "recording-on", "recording-off"] {
        assert!(notice(query).is_some_and(|text| html(facts(), Outcome::Shown(Some(text))).contains(text)));
    }
    for query in ["", "saved=1", "SAVED", "x&saved", MARKUP] {
        assert_eq!(notice(query), None, "{query}");
    }
}

#[test]
fn the_value_is_the_one_of_this_moment_in_sign_and_words() {
    let at = |value, later_ms| {
        let now = Now::of(&live(value), &Config::default(), Millis(3_600_000 + i64::from(later_ms)));
        (now.value, now.words, now.points)
    };
    assert_eq!(at(37.4, 0), ("+37".into(), "37 of 100 towards Yes".into(), 37));
    assert_eq!(at(-100.0, 1_000), ("−37".into(), "37 of 100 towards No".into(), -37));
    for (value, later_ms) in [(0.0, 0), (0.49, 0), (100.0, 60_000), (f64::NAN, 0)] {
        assert_eq!(at(value, later_ms), ("0".into(), "in the middle".into(), 0));
    }
    let now = Now::of(&live(0.0), &Config::default(), Millis(3_600_000));
    assert_eq!((now.age.as_str(), now.began.as_str()), ("1 hour 0 minutes", "1970-01-01T00:00:00Z"));
}

#[test]
fn that_votes_are_paused_is_said() {
    let page =
        |paused| html(Facts { live: Some(Live { paused, ..live(0.0) }), ..facts() }, Outcome::Shown(None));
    assert!(page(true).contains("!pulse resume") && !page(false).contains("!pulse resume"));
}

#[test]
fn overlays_are_told_in_words() {
    let told =
        |overlays, instances, recorded| overlays_open(&Live { overlays, instances, recorded, ..live(0.0) });
    assert_eq!(told(2, 1, false), "2");
    assert_eq!(told(2, 1, true), "2");
    assert!(told(2, 3, false).starts_with("2 on this server"));
    assert!(told(0, 0, false).contains("ends soon") && told(0, 1, false).starts_with("none on this server"));
    assert_eq!(told(0, 0, true), "none");
}

#[test]
fn recording_is_switched_by_a_form_that_says_what_it_does() {
    let on = html(being_recorded(), Outcome::Shown(None));
    assert!(on.contains("live since 00:00 UTC and is being recorded."), "{on}");
    assert!(on.contains("name=\"recorded\" value=\"no\""));
    let facts = facts();
    let standing = StreamStanding { recorded: Some(false), ..facts.standing.clone() };
    let off = html(Facts { standing, ..facts }, Outcome::Shown(None));
    assert!(off.contains("Recording is off.") && off.contains("name=\"recorded\" value=\"yes\""));
}

#[test]
fn what_chat_said_can_be_scrolled_by_keys_with_the_newest_first() {
    let enabled =
        SubscriptionStanding { kind: "channel.chat.message".into(), status: "enabled".into(), reason: None };
    let facts = Facts { live: Some(live(0.0)), subscriptions: vec![enabled], ..facts() };
    let page = html(facts, Outcome::Shown(None));
    assert!(page.contains("role=\"region\" aria-labelledby=\"said\" tabindex=\"0\""));
    let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("no {text} in {page}"));
    assert!(place("<bdi>yes</bdi>") < place("<bdi>hello</bdi>"));
    assert_eq!(page.matches("Vote: Saved").count(), 1);
    assert!(page.contains("01:00:00</time>") && page.contains("heard 0 s ago"));
}

#[test]
fn what_is_not_known_of_chat_is_said_plainly() {
    let unknown = html(being_recorded(), Outcome::Shown(None));
    assert!(unknown.contains("What chat said is not known just now"), "{unknown}");
    assert!(!unknown.contains("aria-labelledby=\"said\""));
    let nothing = Live { said: Some(Vec::new()), heard: Heard::Never, ..live(0.0) };
    let nothing = html(Facts { live: Some(nothing), ..facts() }, Outcome::Shown(None));
    assert!(nothing.contains("no message to show yet"), "{nothing}");
    assert!(!html(facts(), Outcome::Shown(None)).contains("What chat said"), "no session is going on");
}

#[test]
fn without_a_token_the_page_says_that_nothing_can_be_changed() {
    let locked = "Nothing can be changed just now";
    assert!(html(Facts { csrf: None, ..facts() }, Outcome::Shown(None)).contains(locked));
    assert!(!html(facts(), Outcome::Shown(None)).contains(locked));
}

#[test]
fn the_script_is_told_whether_the_settings_are_saved_and_whose_they_are() {
    let typed = || posted(&[("version", "6"), ("for_label", "Typed")]);
    let meant = || Config { for_label: "Typed".into(), ..Config::default() };
    for (outcome, shows) in [
        (Outcome::Shown(None), "saved"),
        (Outcome::Shown(notice("reset")), "saved"),
        (Outcome::Shown(notice("saved")), "just-saved"),
        (Outcome::Stale(None), "saved"),
        (Outcome::Unsure, "saved"),
        (Outcome::Stale(Some(typed())), "typed"),
        (Outcome::Invalid(typed(), Vec::new()), "typed"),
        (Outcome::MovedOn(typed(), meant()), "typed"),
    ] {
        let moved_on = matches!(outcome, Outcome::MovedOn(..));
        let html = html(facts(), outcome);
        assert_eq!(html.contains("data-edited=\"6\""), moved_on, "{shows}");
        assert!(html.contains(&format!("data-shows=\"{shows}\" data-owner=\"1\"")), "{shows}");
    }
}
