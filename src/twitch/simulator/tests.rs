use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use time::{OffsetDateTime, macros::datetime};

use super::plan::{Plan, Planned, Turn};
use super::*;
use crate::domain::sentiment::Side;
use crate::domain::trigger::FragmentKind;
use crate::twitch::eventsub::{self, ChatMessage, Message};
use crate::twitch::signature::{Headers, Secrets};

const SECRET: &str = "simulated-secret";
const START: OffsetDateTime = datetime!(2026-11-21 10:00:00.123456789 UTC);

fn options() -> Options {
    Options { quiet: true, ..Options::new("http://127.0.0.1:9/webhooks/eventsub", SECRET) }
}

/// `count` messages at ten a second.
fn generate(options: &Options, count: u32) -> Vec<Notification> {
    let mut generator = Generator::new(options, START).unwrap();
    (0..count)
        .map(|number| {
            let elapsed = Duration::from_millis(u64::from(number) * 100);
            generator.next(elapsed, START + elapsed)
        })
        .collect()
}

fn verified_chat(notification: &Notification) -> ChatMessage<'_> {
    let secrets = Secrets::new([SECRET]).unwrap();
    let now = START + time::Duration::minutes(5);
    let verified = secrets.verify(&notification.signed_headers(), &notification.body, now).unwrap();
    match eventsub::parse(&verified) {
        Ok(Message::ChatMessage(message)) => message,
        other => panic!("no chat message: {other:?}"),
    }
}

/// The side that `message` votes for by the rule of the product, written down a second time: the whole
/// text, without invisible characters and case, is one word or that word repeated.
fn side_of(message: &ChatMessage<'_>) -> Option<Side> {
    let text = message.text.replace('\u{E0000}', "").to_lowercase();
    let words: HashSet<&str> = text.split_whitespace().collect();
    match Vec::from_iter(words)[..] {
        ["yes" | "pogchamp"] => Some(Side::For),
        ["no"] => Some(Side::Against),
        _ => None,
    }
}

#[test]
fn generated_notifications_verify_parse_and_vote_as_they_say() {
    let for_words = vec!["yes".into(), "PogChamp".into()];
    for notification in generate(&Options { for_words, channels: 5, ..options() }, 3000) {
        let message = verified_chat(&notification);
        assert_eq!(message.message_id, notification.message_id);
        assert_eq!(message.broadcaster_user_id, notification.broadcaster_user_id);
        assert_eq!(side_of(&message), notification.vote, "{}", message.text);
    }
}

#[test]
fn the_traffic_holds_everything_that_twitch_may_send() {
    let notifications = generate(&options(), 3000);
    let bodies: Vec<String> =
        notifications.iter().map(|one| String::from_utf8(one.body.clone()).unwrap()).collect();
    for part in [
        r#""type":"emote""#,
        r#""type":"mention""#,
        r#""type":"cheermote""#,
        r#""type":"gif""#,
        r#""text":"""#,
        r#""cheer":{"bits":"#,
        r#""reply":{"parent_message_id""#,
        r#""set_id":"moderator""#,
        r#""source_broadcaster_user_id":"8"#,
        r#""message_type":"user_intro""#,
        r#"\""#,
        "\u{E0000}",
        "привет",
    ] {
        assert!(bodies.iter().any(|body| body.contains(part)), "{part}");
    }
    let emote_votes = generate(&Options { for_words: vec!["PogChamp".into()], ..options() }, 1000);
    let is_emote_vote = |one: &Notification| {
        one.vote == Some(Side::For)
            && verified_chat(one).fragments().iter().any(|fragment| fragment.kind == FragmentKind::Emote)
    };
    assert!(emote_votes.iter().any(is_emote_vote));
}

#[test]
fn fragments_add_up_to_the_text() {
    for notification in generate(&options(), 500) {
        let message = verified_chat(&notification);
        let joined: String = message.fragments().iter().map(|fragment| fragment.text).collect();
        assert_eq!(joined, message.text);
    }
}

#[test]
fn the_vote_share_is_kept_and_the_mood_swings() {
    for share in [0.0, 0.1, 0.5, 1.0] {
        let notifications = generate(&Options { vote_share: share, ..options() }, 6200);
        let votes = notifications.iter().filter(|one| one.vote.is_some()).count() as f64;
        let measured = votes / notifications.len() as f64;
        assert!((measured - share).abs() < 0.03, "{measured} for {share}");
    }
    let notifications = generate(&Options { vote_share: 0.5, ..options() }, 6000);
    let leans: Vec<i32> = notifications
        .chunks(50)
        .map(|five_seconds| {
            let count = |side| five_seconds.iter().filter(|one| one.vote == Some(side)).count() as i32;
            count(Side::For) - count(Side::Against)
        })
        .collect();
    assert!(leans.iter().any(|&lean| lean > 20), "{leans:?}");
    assert!(leans.iter().any(|&lean| lean < -20), "{leans:?}");
    assert!(leans.iter().any(|&lean| lean.abs() < 5), "{leans:?}");
}

#[test]
fn the_same_seed_and_start_make_the_same_traffic() {
    assert_eq!(generate(&options(), 200), generate(&options(), 200));
    assert_ne!(generate(&options(), 200), generate(&Options { seed: 2, ..options() }, 200));
}

#[test]
fn another_run_says_the_same_under_other_ids() {
    let mut later = Generator::new(&options(), START + time::Duration::SECOND).unwrap();
    let second = later.next(Duration::ZERO, START);
    let first = generate(&options(), 1).remove(0);
    assert_ne!(second.message_id, first.message_id);
    assert_ne!(second.id, first.id);
    assert_eq!(verified_chat(&second).text, verified_chat(&first).text);
}

#[test]
fn real_channels_chat_most() {
    let notifications =
        generate(&Options { broadcaster_ids: vec!["1337".into()], channels: 10, ..options() }, 2000);
    let mut heard: HashMap<&str, u32> = HashMap::new();
    for notification in &notifications {
        *heard.entry(&notification.broadcaster_user_id).or_default() += 1;
    }
    assert_eq!(heard.len(), 10);
    assert_eq!(heard.iter().max_by_key(|(_, count)| **count).unwrap().0, &"1337");
    let alone = generate(&Options { broadcaster_ids: vec!["1".into(), "2".into()], ..options() }, 100);
    assert!(alone.iter().all(|one| ["1", "2"].contains(&one.broadcaster_user_id.as_str())));
}

#[test]
fn bad_options_and_secrets_are_refused() {
    let refusal = |options: &Options| Generator::new(options, START).err();
    assert!(matches!(refusal(&Options { rate: -1.0, ..options() }), Some(SimulatorError::Option { .. })));
    assert!(matches!(
        refusal(&Options { secret: "short".into(), ..options() }),
        Some(SimulatorError::Secret(_))
    ));
}

fn whole_plan(options: &Options) -> Vec<Planned> {
    let mut plan = Plan::new(options, START).unwrap();
    let planned: Vec<Planned> =
        std::iter::from_fn(|| plan.next_due(Duration::from_secs(3600), START)).collect();
    assert!(plan.is_finished());
    planned
}

#[test]
fn the_plan_keeps_rate_and_duration() {
    let options = Options { rate: 50.0, duration: Some(Duration::from_secs(10)), ..options() };
    let planned = whole_plan(&options);
    assert_eq!(planned.len(), 500);
    assert_eq!(planned[0].due, Duration::ZERO);
    assert_eq!(planned[499].due, Duration::from_millis(9980));
    let mut plan = Plan::new(&options, START).unwrap();
    let at_once = std::iter::from_fn(|| plan.next_due(Duration::from_secs(1), START)).count();
    assert_eq!(at_once, 51);
    assert!(!plan.is_finished());
}

#[test]
fn duplicates_are_the_same_message_sent_later() {
    let duration = Some(Duration::from_secs(20));
    let planned = whole_plan(&Options { duplicates: 0.25, rate: 100.0, duration, ..options() });
    let (again, first): (Vec<&Planned>, Vec<&Planned>) =
        planned.iter().partition(|one| one.turn == Turn::Again);
    assert_eq!(first.len(), 2000);
    assert!((400..600).contains(&again.len()), "{}", again.len());
    let by_id: HashMap<&str, &Planned> =
        first.iter().map(|one| (one.notification.id.as_str(), *one)).collect();
    assert_eq!(by_id.len(), 2000);
    for duplicate in again {
        let original = by_id[duplicate.notification.id.as_str()];
        assert_eq!(duplicate.notification, original.notification);
        assert!(duplicate.due > original.due);
    }
}

#[test]
fn reordered_messages_come_late_and_none_is_lost() {
    let duration = Some(Duration::from_secs(20));
    let in_order = whole_plan(&Options { rate: 100.0, duration, ..options() });
    let reordered =
        whole_plan(&Options { reorder: 0.2, duplicates: 0.1, rate: 100.0, duration, ..options() });
    assert!(reordered.is_sorted_by_key(|one| one.due));
    let late = reordered.iter().filter(|one| one.turn == Turn::Late).count();
    assert!((300..500).contains(&late), "{late}");
    let ids = |plan: &[Planned]| -> HashSet<String> {
        plan.iter().map(|one| one.notification.message_id.clone()).collect()
    };
    assert_eq!(ids(&in_order), ids(&reordered));
}

/// What a server of the tests saw: how many peers connected, and each notification's id.
#[derive(Default)]
struct Seen {
    peers: HashSet<std::net::SocketAddr>,
    ids: Vec<String>,
}

/// Starts a server on loopback that verifies what it gets and answers with the status that `status`
/// names for the so-manieth request. Ends with the test's runtime.
fn serve(status: fn(usize) -> u16) -> (String, Arc<Mutex<Seen>>) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let state = web::Data::from(Arc::clone(&seen));
    let server = HttpServer::new(move || {
        let answer = move |request: HttpRequest, body: web::Bytes, seen: web::Data<Mutex<Seen>>| async move {
            let header = |name| request.headers().get(name).map(|value| value.as_bytes());
            let headers = Headers {
                id: header("Twitch-Eventsub-Message-Id"),
                timestamp: header("Twitch-Eventsub-Message-Timestamp"),
                signature: header("Twitch-Eventsub-Message-Signature"),
                message_type: header("Twitch-Eventsub-Message-Type"),
                subscription_type: header("Twitch-Eventsub-Subscription-Type"),
            };
            let secrets = Secrets::new([SECRET]).unwrap();
            let Ok(verified) = secrets.verify(&headers, &body, OffsetDateTime::now_utc()) else {
                return HttpResponse::Forbidden().finish();
            };
            let mut seen = seen.lock().unwrap();
            seen.peers.extend(request.peer_addr());
            seen.ids.push(verified.id().into_owned());
            let status = actix_web::http::StatusCode::from_u16(status(seen.ids.len())).unwrap();
            HttpResponse::build(status).body(if status.is_success() { "" } else { "not now" })
        };
        App::new().app_data(state.clone()).default_service(web::to(answer))
    })
    .workers(1)
    .disable_signals()
    .bind(("127.0.0.1", 0))
    .unwrap();
    let url = format!("http://{}/webhooks/eventsub", server.addrs()[0]);
    actix_web::rt::spawn(server.run());
    (url, seen)
}

/// 200 messages: fewer than eight connections let wait, so that none is left out on a slow machine.
fn short_run(url: String) -> Options {
    Options { url, rate: 1000.0, duration: Some(Duration::from_millis(200)), connections: 8, ..options() }
}

#[actix_web::test]
async fn a_run_sends_everything_once_and_keeps_its_connections() {
    let (url, seen) = serve(|_| 204);
    let report = run(short_run(url), std::future::pending()).await.unwrap();
    assert_eq!((report.sent, report.failed, report.not_sent), (200, 0, 0));
    assert_eq!(report.answered, [(204, 200)].into());
    assert!(report.is_all_accepted());
    assert!(report.votes_for + report.votes_against > 0);
    assert!(report.latency_ms.p50 > 0.0 && report.latency_ms.p50 <= report.latency_ms.max);
    let seen = seen.lock().unwrap();
    assert!(seen.peers.len() <= 100, "{} connections", seen.peers.len());
    assert_eq!(seen.ids.iter().collect::<HashSet<_>>().len(), 200);
}

#[actix_web::test]
async fn answers_are_counted_by_status() {
    let (url, _) = serve(|count| if count % 4 == 0 { 503 } else { 204 });
    let report = run(short_run(url), std::future::pending()).await.unwrap();
    assert_eq!(report.answered, [(204, 150), (503, 50)].into());
    assert_eq!(report.failed, 0);
    assert!(!report.is_all_accepted());
}

#[actix_web::test]
async fn a_wrong_secret_is_answered_403() {
    let (url, _) = serve(|_| 204);
    let options = Options { secret: "another-secret".into(), ..short_run(url) };
    let report = run(options, std::future::pending()).await.unwrap();
    assert_eq!(report.answered, [(403, 200)].into());
}

#[actix_web::test]
async fn duplicates_arrive_under_the_same_id() {
    let (url, seen) = serve(|_| 204);
    let duration = Some(Duration::from_millis(50));
    let options = Options { duplicates: 1.0, reorder: 0.5, duration, ..short_run(url) };
    let report = run(options, std::future::pending()).await.unwrap();
    assert_eq!((report.sent, report.duplicates), (100, 50));
    assert_eq!(seen.lock().unwrap().ids.iter().collect::<HashSet<_>>().len(), 50);
}

#[actix_web::test]
async fn nobody_listening_is_reported_as_failed() {
    // Bound, so that nobody else takes it, but not listening.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    let report = run(short_run(format!("http://127.0.0.1:{port}/")), std::future::pending()).await.unwrap();
    assert_eq!((report.sent, report.failed), (200, 200));
    assert_eq!(report.failures, [("not_connected", 200)].into());
    assert!(report.answered.is_empty());
}

#[actix_web::test]
async fn urls_that_cannot_be_sent_to_are_refused() {
    for url in ["", "localhost:8080", "ftp://127.0.0.1/", "/webhooks"] {
        let result = run(Options { url: url.into(), ..options() }, std::future::pending()).await;
        assert!(matches!(result, Err(SimulatorError::Option { option: "--url", .. })), "{url}");
    }
}

#[actix_web::test]
async fn a_run_stops_when_told_to() {
    let (url, _) = serve(|_| 204);
    let options = Options { duration: None, ..short_run(url) };
    let report = run(options, std::future::ready(())).await.unwrap();
    assert_eq!(report.sent, report.answered.values().sum::<u64>());
}

#[test]
fn a_report_reads_well_for_people_and_machines() {
    let planned = whole_plan(&Options { rate: 10.0, duration: Some(Duration::from_secs(1)), ..options() });
    let mut tally = report::Tally::default();
    for one in &planned {
        tally.sent(one);
        tally.ended(report::Outcome::Answered(204), Duration::from_millis(2));
    }
    tally.sent(&planned[0]);
    tally.ended(report::Outcome::TimedOut, Duration::from_secs(10));
    let report = tally.report(Duration::from_secs(1));
    let json: serde_json::Value = serde_json::from_str(&report.render(true)).unwrap();
    assert_eq!(json["answered"]["204"], 10);
    assert_eq!(json["failures"]["timed_out"], 1);
    assert!((json["latency_ms"]["p99_9"].as_f64().unwrap() - 2.0).abs() < 0.01);
    let text = report.render(false);
    assert!(text.contains("10 × 204") && text.contains("1 timed out"), "{text}");
}
