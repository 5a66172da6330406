//! The admin API, and what else an operator meets: health, metrics, headers, error pages.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use deadpool_redis::redis;
use futures_util::future::join_all;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::support::admin::{Admin, TOKEN, TOKEN_SETTING, config_with, some_twitch_id};
use crate::support::eventually;
use crate::support::instance::{Instance, Shared, Slot, Streamer};
use crate::support::overlay::Overlay;
use crate::support::servers::query;
use crate::support::twitch::{Answer, Twitch};

/// No repeated frames: each frame that comes tells of something that a test did.
const SETTINGS: [(&str, &str); 4] = [
    TOKEN_SETTING,
    ("CHATPULSE_SESSION__KEYFRAME_SECONDS", "60"),
    // Patience with a busy machine: these tests don't repeat a vote that was refused, as Twitch does.
    ("CHATPULSE_LIMITS__VOTE_WAIT_MS", "5000"),
    ("CHATPULSE_DATABASE__APPEND_TIMEOUT_MS", "5000"),
];
/// More than a body may have.
const BODY_BYTES: usize = 256 * 1024;
const BROWSER_ACCEPTS: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// One instance for the tests that see to their own streamers only.
async fn instance() -> Shared {
    static INSTANCE: Slot = Slot::new();
    INSTANCE.get(&SETTINGS).await
}

/// Every route of the API, as if for this streamer or session.
fn routes(id: &str) -> Vec<(&'static str, String)> {
    let of = |rest: &str| format!("/streamers/{id}{rest}");
    vec![
        ("GET", "/streamers".into()),
        ("POST", "/streamers".into()),
        ("GET", of("")),
        ("PUT", of("/config")),
        ("POST", of("/reset")),
        ("POST", of("/rotate")),
        ("POST", of("/disable")),
        ("POST", of("/enable")),
        ("GET", "/sessions".into()),
        ("GET", format!("/sessions/{id}")),
    ]
}

/// Votes whose bar takes a minute to fade, so that there is something left to compare.
fn slow() -> Value {
    json!({ "vote_delta": 50, "decay_speed": 0.1 })
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number, not {value}"))
}

/// The value of a state after a while of decay.
fn decayed(state: &Value, decay_speed: f64, at: &Value) -> f64 {
    number(&state["value"]) * (-decay_speed * (number(at) - number(&state["at"])) / 1000.0).exp()
}

/// What a frame and a session both tell.
fn told(state: &Value) -> Value {
    let keys = ["value", "at", "for", "against", "version"];
    keys.into_iter().map(|key| (key.to_owned(), state[key].clone())).collect::<serde_json::Map<_, _>>().into()
}

fn problem_fields(problem: &Value) -> BTreeSet<&str> {
    let errors = problem["errors"].as_array().expect("every problem is named");
    assert!(errors.iter().all(|error| error["detail"].as_str().is_some_and(|detail| !detail.is_empty())));
    errors.iter().map(|error| error["field"].as_str().expect("a field")).collect()
}

/// Casts one vote and reads the frame that tells of it.
async fn vote(twitch: &Twitch, streamer: &Streamer, word: &str, overlay: &mut Overlay, votes: i64) -> Value {
    twitch.say(&streamer.twitch_id, word).await;
    overlay.frames_until_votes(votes).await.pop().expect("a frame")
}

async fn count_events(instance: &Instance, streamer: &Streamer, kind: &str) -> i64 {
    let sql = "SELECT count(*) FROM chatpulse.session_events e JOIN chatpulse.sessions s USING (session_id)
               WHERE s.streamer_id = $1 AND e.type = $2";
    instance.sql().await.query_one(sql, &[&streamer.id, &kind]).await.expect("the journal can be read").get(0)
}

// Who is let in

#[tokio::test]
async fn nobody_is_let_in_without_the_right_token() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let streamer = admin.streamer(json!({})).await;
    let shown = admin.get(&format!("/streamers/{}", streamer.id)).await;
    let [prefix, longer] =
        [&TOKEN[..TOKEN.len() - 1], &format!("{TOKEN}x")].map(|token| format!("Bearer {token}"));
    let given = [
        None,
        Some("Bearer"),
        Some("Bearer "),
        Some("Basic eDp4"),
        Some(TOKEN),
        Some(&prefix),
        Some(&longer),
    ];
    for (method, path) in routes(&streamer.id.to_string()).into_iter().chain([("GET", "/nowhere".into())]) {
        for authorization in given {
            let mut asking = admin.stranger(method, &format!("/admin/api/v1{path}")).with("if-match", "*");
            if let Some(authorization) = authorization {
                asking = asking.with("authorization", authorization);
            }
            let answer = asking.json(&config_with(json!({}))).send().await;
            answer.assert_refused(401);
            assert_eq!(answer.header("www-authenticate"), "Bearer", "{method} {path}");
        }
    }
    assert_eq!(
        admin.get(&format!("/streamers/{}", streamer.id)).await.body,
        shown.body,
        "nothing has changed"
    );
}

#[tokio::test]
async fn nobody_is_let_in_while_no_token_is_set() {
    let instance = Instance::start(&[]).await;
    let admin = Admin::of(&instance);
    for authorization in ["Bearer", "Bearer ", &format!("Bearer {TOKEN}")] {
        let asking = admin.stranger("GET", "/admin/api/v1/streamers").with("authorization", authorization);
        let answer = asking.send().await;
        answer.assert_refused(401);
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
}

// Streamers

#[tokio::test]
async fn a_streamer_is_made_once_with_defaults_for_what_was_not_said() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let twitch_id = some_twitch_id();
    let made = admin.create(&json!({ "twitch_user_id": twitch_id, "login": "ada" })).await;
    assert_eq!(made.status, 201, "{made:?}");
    let streamer = made.json();
    let (id, overlay) = (&streamer["streamer_id"], &streamer["overlay_uuid"]);
    let [id, overlay] = [id, overlay].map(|uuid| uuid.as_str().expect("a UUID"));
    let url = streamer["overlay_url"].as_str().expect("a URL");
    assert!(url.starts_with("http") && url.ends_with(&format!("/overlay/{overlay}")), "{url}");
    let expected = json!({
        "streamer_id": id, "twitch_user_id": twitch_id, "login": "ada", "display_name": "ada",
        "overlay_uuid": overlay, "overlay_url": url, "disabled": false,
        "config": { "version": 1, "for_triggers": ["yes"], "against_triggers": ["no"], "for_label": "Yes",
                    "against_label": "No", "model": "decay", "vote_delta": 10.0, "decay_speed": 1.0,
                    "window_seconds": 30, "display": "combined", "theme": "dark" },
    });
    assert_eq!(streamer, expected);
    assert_eq!((made.header("etag"), made.header("content-type")), ("\"1\"", "application/json"));
    assert_eq!(made.header("location"), format!("/admin/api/v1/streamers/{id}"));
    assert_eq!(made.header("cache-control"), "no-store");

    let other = json!({ "twitch_user_id": twitch_id, "login": "eve", "config": { "for_label": "Other" } });
    let again = admin.create(&other).await;
    assert_eq!((again.status, again.json()), (200, expected.clone()), "the first one stays");
    let shown = admin.get(&format!("/streamers/{id}")).await;
    assert_eq!((shown.status, shown.header("etag"), shown.json()), (200, "\"1\"", expected));
}

#[tokio::test]
async fn a_streamer_made_by_many_at_once_is_one() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let body = json!({ "twitch_user_id": some_twitch_id(), "login": "ada" });
    let answers = join_all((0..8).map(|_| admin.create(&body))).await;
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 201]);
    let ids: BTreeSet<String> =
        answers.iter().map(|answer| answer.json()["streamer_id"].to_string()).collect();
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn a_new_streamer_takes_a_part_of_the_settings() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let body = json!({ "twitch_user_id": some_twitch_id(), "login": "ada", "display_name": "Ada 🎉",
                       "config": { "model": "window", "window_seconds": 120, "against_triggers": [] } });
    let made = admin.create(&body).await.json();
    assert_eq!(made["display_name"], "Ada 🎉");
    let mut expected =
        config_with(json!({ "model": "window", "window_seconds": 120, "against_triggers": [] }));
    expected["version"] = 1.into();
    assert_eq!(made["config"], expected);
}

#[tokio::test]
async fn every_value_that_cannot_be_taken_is_named() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let config = json!({
        "for_triggers": [], "against_triggers": ["x".repeat(101)], "for_label": "", "against_label": "x".repeat(51),
        "model": "mean", "vote_delta": 51, "decay_speed": 0, "window_seconds": 4, "display": "round",
        "theme": 7, "colour": "red",
    });
    let wrong = [
        "against_label",
        "against_triggers",
        "colour",
        "decay_speed",
        "display",
        "for_label",
        "model",
        "theme",
        "vote_delta",
        "window_seconds",
    ];
    let twitch_id = some_twitch_id();
    let answer =
        admin.create(&json!({ "twitch_user_id": twitch_id, "login": " ", "age": 3, "config": config })).await;
    let problem = answer.assert_refused(422);
    let mut expected: BTreeSet<String> = wrong.map(|field| format!("config.{field}")).into();
    expected.extend(["age".to_owned(), "login".to_owned()]);
    assert_eq!(problem_fields(&problem), expected.iter().map(String::as_str).collect());
    let made = admin.create(&json!({ "twitch_user_id": twitch_id, "login": "ada" })).await;
    assert_eq!(made.status, 201, "the refused one was not made");

    let id = made.json()["streamer_id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    let problem = admin.save(id, "\"1\"", &config).await.assert_refused(422);
    assert_eq!(problem_fields(&problem), wrong.into());
    let problem = admin.save(id, "\"1\"", &json!({ "version": 1 })).await.assert_refused(422);
    let all = config_with(json!({ "version": 1 }));
    let all: BTreeSet<&str> = all.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(problem_fields(&problem), all, "a config is saved whole, without its version");
    let both = config_with(json!({ "for_triggers": ["Hype"], "against_triggers": ["boo", "hype "] }));
    let problem = admin.save(id, "\"1\"", &both).await.assert_refused(422);
    assert_eq!(problem_fields(&problem), ["against_triggers"].into());
    assert_eq!(admin.get(&format!("/streamers/{id}")).await.json()["config"]["version"], 1);
}

#[tokio::test]
async fn bodies_that_are_no_json_or_too_large_are_told_apart() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let streamer = admin.streamer(json!({})).await;
    for (method, path) in
        [("POST", "/streamers".to_owned()), ("PUT", format!("/streamers/{}/config", streamer.id))]
    {
        let ask = |kind: &str| admin.ask(method, &path).with("if-match", "*").with("content-type", kind);
        for broken in ["", "{", "{\"login\":}", "{}{}", "\u{feff}{}"] {
            ask("application/json").body(broken).send().await.assert_refused(400);
        }
        for other in ["text/plain", "application/x-www-form-urlencoded", "application/xml"] {
            ask(other).body("{}").send().await.assert_refused(415);
        }
        admin.ask(method, &path).with("if-match", "*").body("{}").send().await.assert_refused(415);
        ask("application/json").body("x".repeat(BODY_BYTES)).send().await.assert_refused(413);
        ask("application/json").body("[]").send().await.assert_refused(422);
    }
}

#[tokio::test]
async fn a_list_is_read_page_by_page_to_its_end() {
    let instance = Instance::start(&SETTINGS).await;
    let admin = Admin::of(&instance);
    assert_eq!(admin.get("/streamers").await.json(), json!({ "items": [], "next": null }));
    let mut made = Vec::new();
    for _ in 0..25 {
        made.push(admin.streamer(json!({})).await);
    }
    let ids: BTreeSet<String> = made.iter().map(|streamer| streamer.id.to_string()).collect();
    assert_eq!(pages(&admin, "/streamers", 10, "streamer_id").await, (vec![10, 10, 5], ids.clone()));
    assert_eq!(pages(&admin, "/streamers", 5, "streamer_id").await, (vec![5, 5, 5, 5, 5], ids.clone()));
    let all = admin.get("/streamers").await.json();
    assert_eq!((all["items"].as_array().map(Vec::len), &all["next"]), (Some(25), &Value::Null));

    let mut watching = Vec::new();
    for streamer in made.iter().step_by(6) {
        watching.push((streamer.id.to_string(), instance.overlay(streamer).await));
    }
    let live: BTreeSet<String> = watching.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(pages(&admin, "/sessions", 2, "streamer_id").await, (vec![2, 2, 1], live));

    for query in ["limit=0", "limit=201", "limit=x", "after=x", "limit=1&limit=2"] {
        for list in ["/streamers", "/sessions"] {
            admin.get(&format!("{list}?{query}")).await.assert_refused(400);
        }
    }
    assert_eq!(admin.get(&format!("/streamers?after={}", Uuid::max())).await.json()["items"], json!([]));
}

/// The sizes of all pages, and the ids that stand on them.
async fn pages(admin: &Admin, list: &str, limit: usize, id: &str) -> (Vec<usize>, BTreeSet<String>) {
    let (mut sizes, mut ids) = (Vec::new(), Vec::new());
    let mut after = String::new();
    loop {
        let page = admin.get(&format!("{list}?limit={limit}&after={after}")).await.json();
        let items = page["items"].as_array().expect("items");
        sizes.push(items.len());
        ids.extend(items.iter().map(|item| item[id].as_str().expect("an id").to_owned()));
        match page["next"].as_str() {
            Some(next) => after = next.into(),
            None => break,
        }
    }
    assert!(ids.is_sorted_by(|a, b| a < b), "in order, none twice: {ids:?}");
    (sizes, ids.into_iter().collect())
}

#[tokio::test]
async fn settings_are_saved_over_the_version_that_was_edited() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let id = admin.streamer(json!({})).await.id;
    let labelled = |label: &str| config_with(json!({ "for_label": label }));
    let path = format!("/streamers/{id}/config");
    admin.ask("PUT", &path).json(&labelled("None")).send().await.assert_refused(428);

    let saved = admin.save(id, "\"1\"", &labelled("Two")).await;
    assert_eq!((saved.status, saved.header("etag")), (200, "\"2\""), "{saved:?}");
    assert_eq!(
        (&saved.json()["config"]["version"], &saved.json()["config"]["for_label"]),
        (&json!(2), &json!("Two"))
    );
    for stale in ["\"1\"", "\"3\"", "W/\"2\"", "\"\""] {
        let refused = admin.save(id, stale, &labelled("Stale")).await;
        refused.assert_refused(412);
        assert_eq!(refused.header("etag"), "\"2\"", "what to edit instead");
    }
    admin.save(id, "2", &labelled("Bare")).await.assert_refused(400);
    assert_eq!(admin.save(id, "\"7\", \"2\"", &labelled("Three")).await.header("etag"), "\"3\"");
    assert_eq!(admin.save(id, "*", &labelled("Four")).await.header("etag"), "\"4\"");
    let shown = admin.get(&format!("/streamers/{id}")).await;
    assert_eq!((shown.header("etag"), &shown.json()["config"]["for_label"]), ("\"4\"", &json!("Four")));
}

#[tokio::test]
async fn of_two_who_save_the_same_version_one_wins() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let id = admin.streamer(json!({})).await.id;
    for version in 1..=5 {
        let etag = format!("\"{version}\"");
        let configs = ["Left", "Right"].map(|label| config_with(json!({ "for_label": label })));
        let both = join_all(configs.iter().map(|config| admin.save(id, &etag, config))).await;
        let won: Vec<&Answer> = both.iter().filter(|answer| answer.status == 200).collect();
        assert_eq!(won.len(), 1, "{both:?}");
        both.iter().find(|answer| answer.status != 200).expect("a loser").assert_refused(412);
        let shown = admin.get(&format!("/streamers/{id}")).await;
        assert_eq!(shown.json(), won[0].json());
    }
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let strange = ["%00", "x", "1", "..%2f..", "00000000-0000-0000-0000-00000000000g"].map(str::to_owned);
    for id in strange.into_iter().chain([Uuid::now_v7().to_string()]) {
        for (method, path) in routes(&id).into_iter().filter(|(_, path)| path.contains(&id)) {
            let asking = admin.ask(method, &path).with("if-match", "*").json(&config_with(json!({})));
            asking.send().await.assert_refused(404);
        }
    }
    for path in ["", "/", "/streamer", "/streamers/", "/sessions/x/y"] {
        admin.get(path).await.assert_refused(404);
    }
    admin.stranger("GET", "/nowhere").send().await.assert_refused(404);
}

#[tokio::test]
async fn a_method_that_a_route_does_not_have_is_refused_with_those_it_has() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let id = admin.streamer(json!({})).await.id.to_string();
    for (method, path) in routes(&id) {
        let refused = admin.ask("DELETE", &path).send().await;
        refused.assert_refused(405);
        assert!(refused.header("allow").split(", ").any(|allowed| allowed == method), "{path}: {refused:?}");
    }
    for (method, path) in [
        ("GET", format!("/streamers/{id}/config")),
        ("GET", format!("/streamers/{id}/reset")),
        ("POST", format!("/streamers/{id}")),
        ("POST", "/sessions".to_owned()),
    ] {
        admin.ask(method, &path).send().await.assert_refused(405);
    }
}

#[tokio::test]
async fn a_request_keeps_its_id() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    for path in ["/streamers", "/nowhere"] {
        let answer = admin.ask("GET", path).with("x-request-id", "trace-1/2:a").send().await;
        assert_eq!(answer.header("x-request-id"), "trace-1/2:a");
        let answer = admin.ask("GET", path).with("x-request-id", &"x".repeat(1000)).send().await;
        assert!(Uuid::parse_str(answer.header("x-request-id")).is_ok(), "a hostile one is not kept");
        let (first, second) = (admin.get(path).await, admin.get(path).await);
        assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
    }
    let refused = admin.ask("GET", "/nowhere").with("x-request-id", "mine").send().await;
    assert_eq!(refused.assert_refused(404)["request_id"], "mine");
}

// What overlays see of it

#[tokio::test]
async fn new_settings_reach_overlays_and_votes_at_once() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let streamer = admin.streamer(slow()).await;
    let twitch = instance.twitch();
    let mut overlay = instance.overlay(&streamer).await;
    let before = vote(&twitch, &streamer, "yes", &mut overlay, 1).await;

    let changes = json!({ "for_triggers": ["tea"], "for_label": "Tea", "theme": "light", "display": "split",
                          "vote_delta": 50, "decay_speed": 0.2 });
    assert_eq!(admin.save(streamer.id, "\"1\"", &config_with(changes)).await.status, 200);
    // The answer is the promise: from now on the old word is chat, and the new one a vote.
    twitch.say(&streamer.twitch_id, "yes").await;
    let counted = twitch.say(&streamer.twitch_id, "tea").await;

    let frame = overlay.next_frame("config").await;
    let config = json!({ "version": 2, "model": "decay", "decay_speed": 0.2, "window_seconds": 30,
                         "display": "split", "theme": "light", "for_label": "Tea", "against_label": "No" });
    assert_eq!(frame["config"], config);
    let state = &frame["state"];
    let expected = decayed(&before, 0.1, &state["at"]);
    assert!((number(&state["value"]) - expected).abs() < 0.5, "{before} then {frame}");
    assert!(
        number(&state["at"]) >= number(&before["at"])
            && number(&state["version"]) > number(&before["version"])
    );
    assert_eq!((&state["for"], &state["against"]), (&json!(1), &json!(0)));

    let after = overlay.frames_until_votes(2).await.pop().expect("a frame");
    assert_eq!((&after["for"], &after["against"]), (&json!(2), &json!(0)));
    let without = decayed(state, 0.2, &after["at"]);
    assert!((without + 1.0..=without + 50.5).contains(&number(&after["value"])), "{state} then {after}");
    let voted = instance.voted(&streamer).await;
    assert_eq!((voted.len(), voted.last()), (2, Some(&counted)));
}

#[tokio::test]
async fn a_reset_begins_anew_for_all_to_see() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let streamer = admin.streamer(slow()).await;
    let reset = format!("/streamers/{}/reset", streamer.id);
    assert_eq!(admin.post(&reset).await.status, 204, "nothing is going on");
    let twitch = instance.twitch();
    let mut overlay = instance.overlay(&streamer).await;
    vote(&twitch, &streamer, "yes", &mut overlay, 1).await;
    let before = vote(&twitch, &streamer, "yes", &mut overlay, 2).await;

    let answer = admin.post(&reset).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let frame = overlay.next_frame("reset").await;
    assert_eq!(told(&answer.json()), told(&frame));
    assert_eq!(
        frame,
        json!({ "type": "reset", "version": frame["version"], "value": 0.0, "at": frame["at"],
                              "for": 0, "against": 0 })
    );
    assert!(number(&frame["version"]) > number(&before["version"]));

    let after = vote(&twitch, &streamer, "no", &mut overlay, 1).await;
    assert_eq!((&after["for"], &after["against"]), (&json!(0), &json!(1)));
    assert!(number(&after["version"]) > number(&frame["version"]), "{after}");
    assert!((-50.0..0.0).contains(&number(&after["value"])), "one vote from 0 on: {after}");
}

#[tokio::test]
async fn a_rotated_address_is_replaced_and_the_session_goes_on() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let streamer = admin.streamer(slow()).await;
    let twitch = instance.twitch();
    let mut overlay = instance.overlay(&streamer).await;
    let before = vote(&twitch, &streamer, "yes", &mut overlay, 1).await;
    let session = admin.session(&streamer).await.expect("a session");

    let answer = admin.post(&format!("/streamers/{}/rotate", streamer.id)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let old = streamer.overlay_uuid.to_string();
    twitch.get(&format!("/overlay/{old}")).await.assert_refused(404);
    assert_eq!(Overlay::open(instance.public, &old, &[]).await.err(), Some(404));
    assert_eq!(overlay.close_code().await, 4004);

    let new = answer.json()["overlay_uuid"].as_str().and_then(|uuid| uuid.parse().ok()).expect("a UUID");
    assert_ne!(new, streamer.overlay_uuid);
    assert_eq!(twitch.get(&format!("/overlay/{new}")).await.status, 200);
    let streamer = Streamer { overlay_uuid: new, ..streamer };
    let mut overlay = instance.overlay(&streamer).await;
    assert_eq!(told(&overlay.hello["state"]), told(&before), "as it was");
    let after = vote(&twitch, &streamer, "yes", &mut overlay, 2).await;
    assert_eq!(after["for"], 2);
    assert_eq!(admin.session(&streamer).await.expect("a session")["session_id"], session["session_id"]);
}

#[tokio::test]
async fn a_disabled_streamer_is_silent_until_enabled() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let streamer = admin.streamer(slow()).await;
    let twitch = instance.twitch();
    let mut overlay = instance.overlay(&streamer).await;
    let last = vote(&twitch, &streamer, "yes", &mut overlay, 1).await;
    assert_eq!(number(&last["version"]) as i64 >> 32, 1);

    for _ in 0..2 {
        let answer = admin.post(&format!("/streamers/{}/disable", streamer.id)).await;
        assert_eq!((answer.status, &answer.json()["disabled"]), (200, &json!(true)), "{answer:?}");
    }
    assert_eq!(overlay.close_code().await, 4004);
    twitch.say(&streamer.twitch_id, "yes").await;
    assert_eq!(instance.voted(&streamer).await.len(), 1, "answered, not counted");
    assert_eq!(count_events(&instance, &streamer, "SessionEnded").await, 1);
    assert_eq!(admin.session(&streamer).await, None);
    assert_eq!(
        Overlay::open(instance.public, &streamer.overlay_uuid.to_string(), &[]).await.err(),
        Some(404)
    );

    let answer = admin.post(&format!("/streamers/{}/enable", streamer.id)).await;
    assert_eq!((answer.status, &answer.json()["disabled"]), (200, &json!(false)), "{answer:?}");
    let mut overlay = instance.overlay(&streamer).await;
    let state = overlay.hello["state"].clone();
    assert_eq!(number(&state["version"]) as i64 >> 32, 2, "the next session: {state}");
    assert_eq!((&state["value"], &state["for"]), (&json!(0.0), &json!(0)));
    assert_eq!(vote(&twitch, &streamer, "yes", &mut overlay, 1).await["for"], 1);
    assert_eq!(count_events(&instance, &streamer, "SessionStarted").await, 2);
}

#[tokio::test]
async fn a_session_is_shown_as_its_overlays_see_it() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let streamer = admin.streamer(slow()).await;
    assert_eq!(admin.session(&streamer).await, None);
    let twitch = instance.twitch();
    let (mut first, _second) = (instance.overlay(&streamer).await, instance.overlay(&streamer).await);
    vote(&twitch, &streamer, "yes", &mut first, 1).await;
    let frame = vote(&twitch, &streamer, "no", &mut first, 2).await;

    let session = admin.session(&streamer).await.expect("a session");
    assert_eq!(told(&session), told(&frame));
    assert_eq!((&session["holders"], &session["overlays"]), (&json!(1), &json!(2)));
    assert!(number(&session["started_at"]) > 0.0 && number(&session["started_at"]) <= number(&frame["at"]));
    let keys: BTreeSet<&str> = session.as_object().expect("an object").keys().map(String::as_str).collect();
    let expected = [
        "session_id",
        "streamer_id",
        "started_at",
        "holders",
        "overlays",
        "value",
        "at",
        "for",
        "against",
        "version",
    ];
    assert_eq!(keys, expected.into());
    let path = format!("/sessions/{}", session["session_id"].as_str().expect("an id"));
    assert_eq!(admin.get(&path).await.json(), session);

    admin.post(&format!("/streamers/{}/disable", streamer.id)).await;
    let ended = admin.get(&path).await.json();
    assert_eq!((&ended["holders"], &ended["overlays"], &ended["for"]), (&json!(0), &json!(0), &json!(1)));
    assert!(number(&ended["ended_at"]) >= number(&frame["at"]), "{ended}");
}

// Health, metrics, pages

#[tokio::test]
async fn health_is_told_on_both_listeners_and_metrics_on_one() {
    let instance = instance().await;
    for address in [instance.public, instance.ops] {
        let client = Twitch::new(address);
        assert_eq!(client.get("/health/live").await.status, 200);
        eventually("the queue was asked", async || {
            client.get("/health/ready").await.json()["dependencies"]["queue"]["status"] == "up"
        })
        .await;
        let ready = client.get("/health/ready").await;
        let dependencies = json!({
            "postgres": { "status": "up" }, "redis": { "status": "up" }, "queue": { "status": "up" }
        });
        assert_eq!(
            (ready.status, ready.json()),
            (200, json!({ "status": "ready", "dependencies": dependencies }))
        );
    }
    instance.twitch().get("/metrics").await.assert_refused(404);
    let (_streamer, _overlay) = instance.watched().await;
    let up = "chatpulse_dependency_up{name=\"redis\"}";
    eventually("Redis was asked", async || instance.metrics().await.contains_key(up)).await;
    let metrics = instance.metrics().await;
    assert!(metrics.keys().all(|name| name.starts_with("chatpulse_")), "{metrics:?}");
    for (name, least) in [
        ("chatpulse_overlays", 1.0),
        ("chatpulse_dependency_up{name=\"postgres\"}", 1.0),
        (up, 1.0),
        // Unix time.
        ("chatpulse_started_at_seconds", 1_700_000_000.0),
        ("chatpulse_frames_total{outcome=\"sent\"}", 1.0),
    ] {
        assert!(metrics.get(name).is_some_and(|value| *value >= least), "{name} in {metrics:?}");
    }
    for path in ["/", "/admin/api/v1/streamers", "/webhooks/eventsub"] {
        let answer = Twitch::new(instance.ops).get(path).await;
        assert_eq!(answer.status, 404, "{path} is not for the ops listener");
    }
}

#[tokio::test]
async fn the_overlays_page_allows_its_own_code_alone() {
    let instance = instance().await;
    let streamer = instance.streamer(&[], &[]).await;
    let page = instance.twitch().get(&format!("/overlay/{}", streamer.overlay_uuid)).await;
    assert_eq!(page.status, 200);
    let headers = [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ];
    for (name, value) in headers {
        assert_eq!(page.header(name), value, "{name}");
    }
    let policy: Vec<&str> = page.header("content-security-policy").split("; ").collect();
    assert!(policy.contains(&"default-src 'none'") && policy.contains(&"connect-src 'self'"), "{policy:?}");
    for (element, directive) in [("script", "script-src"), ("style", "style-src")] {
        let (_, rest) = page.body.split_once(&format!("<{element}>")).expect(element);
        let (source, rest) = rest.split_once(&format!("</{element}>")).expect(element);
        assert!(!rest.contains(&format!("<{element}")), "there is one {element}");
        let hash = STANDARD.encode(Sha256::digest(source));
        assert!(
            policy.contains(&format!("{directive} 'sha256-{hash}'").as_str()),
            "{directive} in {policy:?}"
        );
    }
}

#[tokio::test]
async fn a_browser_gets_an_error_as_a_page_of_plain_text() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let id = admin.streamer(json!({})).await.id;
    for path in [
        format!("/overlay/{}", Uuid::now_v7()),
        "/overlay/<b>x</b>".into(),
        "/<script>alert(1)</script>".into(),
    ] {
        let answer = admin.stranger("GET", &path).with("accept", BROWSER_ACCEPTS).send().await;
        assert_error_page(&answer, 404);
    }
    // Its sentence has quotes in it.
    let asking = admin.ask("PUT", &format!("/streamers/{id}/config")).with("accept", BROWSER_ACCEPTS);
    let answer = asking.with("if-match", "3").json(&config_with(json!({}))).send().await;
    assert_error_page(&answer, 400);
    assert!(answer.body.contains("such as &quot;3&quot;"), "{}", answer.body);
}

fn assert_error_page(answer: &Answer, status: u16) {
    assert_eq!((answer.status, answer.header("content-type")), (status, "text/html; charset=utf-8"));
    assert!(answer.header("content-security-policy").starts_with("default-src 'none'"));
    assert_eq!(
        (answer.header("cache-control"), answer.header("x-content-type-options")),
        ("no-store", "nosniff")
    );
    assert!(!answer.header("x-request-id").is_empty());
    for never in ["<script", "<b>"] {
        assert!(!answer.body.contains(never), "{never}");
    }
}

// Limits, dead letters

#[tokio::test]
async fn an_address_that_asks_too_often_is_told_when_to_come_again() {
    let settings = [TOKEN_SETTING, ("CHATPULSE_LIMITS__ADMIN_REQUESTS_PER_MINUTE", "3")];
    let instance = Instance::start(&settings).await;
    let admin = Admin::of(&instance);
    for _ in 0..2 {
        assert_eq!(admin.get("/streamers").await.status, 200);
    }
    // A wrong token counts as well.
    let stranger = admin.stranger("GET", "/admin/api/v1/streamers").with("authorization", "Bearer wrong");
    stranger.send().await.assert_refused(401);
    let refused = admin.get("/streamers").await;
    let wait: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    refused.assert_refused(429);
}

#[tokio::test]
async fn a_dead_letter_is_seen_and_goes_back_into_the_queue() {
    let instance = Instance::start(&[TOKEN_SETTING]).await;
    let admin = Admin::of(&instance);
    let (streamer, mut overlay) = instance.watched().await;
    let session = admin.get("/sessions").await.json()["items"][0]["session_id"].clone();
    let vote = json!({
        "version": 1, "session": session, "m": "left-over", "s": "for", "w": 1.0, "t": 1_763_700_000_000_i64,
        "v": "0123456789abcdef0123456789abcdef",
    });
    let letter = |payload: &str| {
        let mut add = redis::cmd("XADD");
        add.arg("chatpulse:dlq:{votes}").arg("*").arg("payload").arg(payload);
        add.arg("id").arg("1763700000000-0").arg("reason").arg("a test").arg("tries").arg(5);
        add
    };
    for payload in [vote.to_string(), "what?".to_owned()] {
        query::<String>(&instance.stores.queue_url, &letter(&payload)).await.expect("Redis takes it");
    }
    let first = admin.get("/dead-letters?limit=1").await.json();
    let shown = &first["items"][0];
    assert_eq!((&shown["vote"], &shown["reason"], &shown["tries"]), (&vote, &json!("a test"), &json!(5)));
    let second = admin.get(&format!("/dead-letters?cursor={}", first["next"].as_str().unwrap())).await.json();
    assert_eq!((&second["items"][0]["vote"], &second["next"]), (&json!("what?"), &Value::Null));

    let retry = async |id: &str| admin.post(&format!("/dead-letters/{id}/retry")).await;
    let id = shown["id"].as_str().expect("an id").to_owned();
    assert_eq!(retry(&id).await.status, 204);
    overlay.frames_until_votes(1).await;
    assert_eq!(instance.voted(&streamer).await, ["left-over"]);
    retry(&id).await.assert_refused(404);
    retry("1-x").await.assert_refused(404);
    admin.get("/dead-letters?cursor=x").await.assert_refused(400);
}
