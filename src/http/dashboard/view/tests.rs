use std::collections::HashSet;

use uuid::Uuid;

use super::super::form::FIELDS;
use super::*;
use crate::domain::sentiment::{Model, Mood, Params};
use crate::http::pages::source_hash;

/// Looks like markup, as whoever tries would name it.
const MARKUP: &str = "<script>\"'&</textarea>";

fn facts() -> Facts {
    let profile =
        Profile { twitch_user_id: "1".into(), login: "ada".into(), display_name: format!("Ada {MARKUP}") };
    Facts {
        csrf: "the-token".into(),
        profile,
        overlay_url: "https://pulse.example/overlay/00000000-0000-4000-8000-000000000001".into(),
        saved: VersionedConfig {
            version: 7,
            config: Config { for_label: "Saved".into(), ..Config::default() },
        },
        live: None,
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
    Live { head: head(value), paused: false, overlays: 2, instances: 1 }
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
        assert_eq!(html.matches("<form ").count(), 4);
        assert_eq!(html.matches("name=\"csrf\" value=\"the-token\"").count(), 4);
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
    assert!(html.contains("href=\"/dashboard\">Drop what I typed"));
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
    for query in ["saved", "reset", "rotated"] {
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
fn ages_and_overlays_are_told_in_words() {
    let short = [(0, "less than a minute"), (60, "1 minute"), (3_599, "59 minutes")];
    for (seconds, words) in short.into_iter().chain([(7_260, "2 hours 1 minute")]) {
        assert_eq!(age(seconds), words);
    }
    assert_eq!(overlays_open(2, 1), "2");
    assert!(overlays_open(2, 3).starts_with("2 on this server"));
    assert!(overlays_open(0, 0).starts_with("none") && overlays_open(0, 1).starts_with("none"));
}
