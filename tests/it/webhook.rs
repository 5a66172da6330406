//! What the webhook promises Twitch, and what a vote is.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use deadpool_redis::redis;
use futures_util::future::{join, join_all};
use serde_json::json;
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use uuid::Uuid;

use crate::support::instance::{Instance, Shared, Slot, Stores, signal};
use crate::support::servers::{connect, query, servers};
use crate::support::twitch::{Chat, Signed};
use crate::support::{PATIENCE, eventually};

/// Twitch's own words are in these headers.
const SIGNATURE: &str = "twitch-eventsub-message-signature";
const ID: &str = "twitch-eventsub-message-id";
const TIMESTAMP: &str = "twitch-eventsub-message-timestamp";
const TYPE: &str = "twitch-eventsub-message-type";
const BODY_BYTES_MAX: usize = 256 * 1024;

/// One instance for the tests that don't disturb each other. No viewer's second vote counts there.
async fn instance() -> Shared {
    static INSTANCE: Slot = Slot::new();
    INSTANCE.get(&[("CHATPULSE_SESSION__DEBOUNCE_MS", "60000")]).await
}

/// No queue takes votes while the journal is away.
const NO_QUEUE: (&str, &str) = ("CHATPULSE_REDIS__QUEUE_IS_DURABLE", "no");

#[tokio::test]
async fn a_vote_is_in_the_journal_when_its_204_comes() {
    let instance = instance().await;
    let (streamer, _overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let mut sent = Vec::new();
    for word in ["yes", "no", "yes"] {
        sent.push(twitch.say(&streamer.twitch_id, word).await);
        assert_eq!(instance.voted(&streamer).await, sent);
    }
}

#[tokio::test]
async fn a_journaled_vote_names_side_weight_time_and_no_viewer() {
    let instance = instance().await;
    let (streamer, _overlay) = instance.watched().await;
    let chat = Chat::new(&streamer.twitch_id, "no");
    instance.twitch().chat(&chat).await;
    let sql = instance.sql().await;
    let row = sql
        .query_one(
            "SELECT e.data, chatpulse.clock_ms(), e.schema_version, e.version FROM chatpulse.events e
             JOIN chatpulse.sessions s ON e.stream_id = 'session-' || s.session_id
             WHERE s.streamer_id = $1 AND e.type = 'VotesCast'",
            &[&streamer.id],
        )
        .await
        .unwrap();
    let (data, now): (serde_json::Value, i64) = (row.get(0), row.get(1));
    let (at, vote) = (data["at"].as_i64().unwrap(), &data["votes"][0]);
    let (t, viewer) = (vote["t"].as_i64().unwrap(), vote["v"].as_str().unwrap());
    assert!(t <= at && at <= now && now - t < 60_000, "{data} at {now}");
    assert!(viewer.len() >= 16 && !data.to_string().contains(&chat.chatter), "{data}");
    let vote = json!({ "m": chat.message_id, "s": "against", "w": 1.0, "t": t, "v": viewer });
    assert_eq!(
        (data["votes"][0]["w"].as_f64(), &data["for"], &data["against"]),
        (Some(1.0), &json!(0), &json!(1))
    );
    assert_eq!(data["votes"].as_array().unwrap().len(), 1);
    for key in ["m", "s", "t", "v"] {
        assert_eq!(data["votes"][0][key], vote[key]);
    }
}

/// Computed with `openssl dgst -sha256 -hmac`, so that ours is not checked against itself.
#[test]
fn messages_are_signed_as_twitch_signs_them() {
    let signature = chatpulse::twitch::signature::sign(
        "s3cRe7s3cRe7",
        "e76c6bd4-55c9-4987-8304-da1588d8988b",
        "2019-11-16T10:11:12.634234626Z",
        br#"{"challenge":"pogchamp-kappa-360noscope-vohiyo"}"#,
    );
    let openssl = "sha256=01e77ab8b0afad68199b2b13da6cd1bc63f8e639ec6cf6400a973a4ad9f67ce4";
    assert_eq!(signature.unwrap(), openssl);
}

#[tokio::test]
async fn a_missing_header_is_400() {
    let instance = instance().await;
    let twitch = instance.twitch();
    for header in [ID, TIMESTAMP, SIGNATURE, TYPE] {
        let answer = twitch.post(&Chat::new("1", "yes").signed().without(header)).await;
        answer.assert_problem(400);
        assert!(answer.body.to_lowercase().contains(header), "{answer:?}");
    }
}

#[tokio::test]
async fn a_bad_signature_is_403() {
    let instance = instance().await;
    let (streamer, _overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let chat = Chat::new(&streamer.twitch_id, "yes");
    let right = chat.signed();
    let signature = right.headers.iter().find(|(name, _)| name == SIGNATURE).unwrap().1.clone();
    let other_digit = if signature.ends_with('0') { "1" } else { "0" };
    for wrong in [
        format!("{}{other_digit}", &signature[..signature.len() - 1]),
        signature[..signature.len() - 1].to_owned(),
        signature[..signature.len() - 2].to_owned(),
        format!("{signature}0"),
        format!("{signature}00"),
        signature.replacen("sha256=", "sha1=", 1),
        signature["sha256=".len()..].to_owned(),
        format!("sha256={}", "x".repeat(64)),
        "sha256=".to_owned(),
    ] {
        twitch.post(&right.clone().with(SIGNATURE, &wrong)).await.assert_problem(403);
    }
    twitch.post(&right.clone().with(ID, "another id")).await.assert_problem(403);
    let mut altered = right.clone();
    altered.body.push(b' ');
    twitch.post(&altered).await.assert_problem(403);
    assert!(instance.voted(&streamer).await.is_empty());
    assert_eq!(twitch.post(&right).await.status, 204);
    assert_eq!(instance.voted(&streamer).await, [chat.message_id]);
}

#[tokio::test]
async fn an_old_or_future_timestamp_is_403_and_a_slow_one_is_taken() {
    let instance = instance().await;
    let (streamer, _overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let signed = |seconds: i64, chat: &Chat| {
        let time = OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
        Signed::at(time, "notification", "channel.chat.message", &chat.body())
    };
    for seconds in [-605, -3600, 65, 3600] {
        twitch.post(&signed(seconds, &Chat::new(&streamer.twitch_id, "yes"))).await.assert_problem(403);
    }
    let mut taken = Vec::new();
    for seconds in [-540, 30] {
        let chat = Chat::new(&streamer.twitch_id, "yes");
        assert_eq!(twitch.post(&signed(seconds, &chat)).await.status, 204, "{seconds}");
        taken.push(chat.message_id);
    }
    let garbled = Chat::new(&streamer.twitch_id, "yes").signed().with(TIMESTAMP, "yesterday");
    twitch.post(&garbled).await.assert_problem(403);
    assert_eq!(instance.voted(&streamer).await, taken);
}

#[tokio::test]
async fn both_forms_of_a_challenge_are_answered_with_its_bare_bytes() {
    let instance = instance().await;
    let twitch = instance.twitch();
    let challenge = "pogchamp-kappa-360noscope-vohiyo \u{e4}\"<";
    for (subscription_type, body) in [
        (
            "channel.chat.message",
            json!({ "challenge": challenge, "subscription": {
                "id": "f1c2a387-161a-49f9-a165-0f21d7a4e1c4", "status": "webhook_callback_verification_pending",
                "type": "channel.chat.message", "version": "1", "cost": 0,
                "condition": { "broadcaster_user_id": "12826", "user_id": "900000001" },
                "transport": { "method": "webhook", "callback": "https://example.com/webhooks/eventsub" },
                "created_at": "2026-01-01T00:00:00.634234626Z" } }),
        ),
        (
            "conduit.shard",
            json!({ "challenge": challenge, "conduit_shard": {
                "conduit_id": "bfcfc993-26b1-b876-44d9-afe75a379dac", "shard": "4",
                "status": "webhook_callback_verification_pending",
                "transport": { "method": "webhook", "callback": "https://example.com/webhooks/eventsub" } } }),
        ),
    ] {
        let body = serde_json::to_vec(&body).unwrap();
        let message = Signed::of_type("webhook_callback_verification", subscription_type, &body);
        let answer = twitch.post(&message).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, challenge), "{answer:?}");
        let content_type = answer.header("content-type");
        assert!(content_type == "text/plain" || content_type.starts_with("text/plain;"), "{content_type}");
        assert_eq!(answer.header("content-length"), challenge.len().to_string());
    }
}

#[tokio::test]
async fn a_revocation_is_204() {
    let instance = instance().await;
    let body = json!({ "subscription": {
        "id": "f1c2a387-161a-49f9-a165-0f21d7a4e1c4", "status": "authorization_revoked",
        "type": "channel.chat.message", "cost": 0, "version": "1",
        "condition": { "broadcaster_user_id": "12826", "user_id": "900000001" },
        "transport": { "method": "webhook", "callback": "https://example.com/webhooks/eventsub" },
        "created_at": "2026-01-01T00:00:00.634234626Z" } });
    let body = serde_json::to_vec(&body).unwrap();
    let answer = instance.twitch().post(&Signed::of_type("revocation", "channel.chat.message", &body)).await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{answer:?}");
}

#[tokio::test]
async fn what_is_verified_but_not_understood_is_204_counted_and_logged_once() {
    let instance = instance().await;
    let twitch = instance.twitch();
    let unknown = "chatpulse_webhook_requests_total{outcome=\"unknown\"}";
    let before = instance.metrics().await[unknown];
    let mut told = 0;
    let mut names = Vec::new();
    for (case, message_type, body) in [
        ("type", "notification", json!({ "subscription": { "type": "@" }, "event": {} }).to_string()),
        ("message", "announcement", json!({ "subscription": { "type": "@" } }).to_string()),
        ("shape", "notification", json!({ "subscription": { "type": "channel.chat.message" } }).to_string()),
        (
            "event",
            "notification",
            json!({ "subscription": { "type": "channel.chat.message" }, "event": 1 }).to_string(),
        ),
        ("json", "notification", "{\"subscription\":".to_owned()),
        ("bytes", "notification", "\u{0}".to_owned()),
        ("nothing", "notification", String::new()),
        ("challenge", "webhook_callback_verification", "{}".to_owned()),
    ] {
        let name = format!("test.{case}.{}", Uuid::new_v4().simple());
        let body = body.replace('@', &name);
        for _ in 0..3 {
            let answer = twitch.post(&Signed::of_type(message_type, &name, body.as_bytes())).await;
            assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{case}: {answer:?}");
            told += 1;
        }
        names.push(name);
    }
    assert!(instance.metrics().await[unknown] >= before + f64::from(told));
    for name in names {
        eventually("it is logged", async || instance.lines().iter().any(|line| line.contains(&name))).await;
        let lines = instance.lines();
        assert_eq!(lines.iter().filter(|line| line.contains(&name)).count(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_body_over_256_kib_is_413_and_one_of_256_kib_is_taken() {
    let instance = instance().await;
    let (streamer, _overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let chat = Chat::new(&streamer.twitch_id, "yes");
    let mut body = chat.body();
    body.resize(BODY_BYTES_MAX, b' ');
    let largest = Signed::notification("channel.chat.message", &body);
    assert_eq!(twitch.post(&largest).await.status, 204);
    assert_eq!(instance.voted(&streamer).await, [chat.message_id]);

    body.push(b' ');
    let larger = Signed::notification("channel.chat.message", &body);
    for chunked in [false, true] {
        let answer = exchange(instance.public, &larger, chunked).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "chunked {chunked}: {answer}");
    }
}

/// A message as bytes on the wire.
fn on_the_wire(address: SocketAddr, message: &Signed, chunked: bool) -> Vec<u8> {
    let mut request = message.head(address).into_bytes();
    if chunked {
        request.extend(b"transfer-encoding: chunked\r\n\r\n");
        for chunk in message.body.chunks(10_000) {
            request.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
            request.extend(chunk);
            request.extend(b"\r\n");
        }
        request.extend(b"0\r\n\r\n");
    } else {
        request.extend(format!("content-length: {}\r\n\r\n", message.body.len()).as_bytes());
        request.extend(&message.body);
    }
    request
}

/// Sends a message over a connection of its own and answers what comes back, also early.
async fn exchange(address: SocketAddr, message: &Signed, chunked: bool) -> String {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let request = on_the_wire(address, message, chunked);
    // Both at once: the instance need not take what it refuses.
    let writing = tokio::spawn(async move {
        let _ = writer.write_all(&request).await;
        writer
    });
    let mut answer = [0; 4096];
    let bytes = timeout(PATIENCE, reader.read(&mut answer)).await.expect("an answer comes");
    writing.abort();
    String::from_utf8_lossy(&answer[..bytes.unwrap_or(0)]).into_owned()
}

#[tokio::test]
async fn a_slow_request_is_ended_by_a_deadline() {
    let limits =
        [("CHATPULSE_LIMITS__BODY_TIMEOUT_MS", "200"), ("CHATPULSE_LIMITS__HEADER_TIMEOUT_MS", "200")];
    let instance = Instance::start(&limits).await;
    let message = Chat::new("1", "yes").signed();
    let head = message.head(instance.public);
    let slow_body = format!("{head}content-length: {}\r\n\r\n{{", message.body.len());
    for (what, begun) in [("body", slow_body), ("head", head)] {
        let mut stream = TcpStream::connect(instance.public).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut answer = [0; 4096];
        let bytes = timeout(PATIENCE, stream.read(&mut answer)).await;
        let bytes = bytes.unwrap_or_else(|_| panic!("a slow {what} is let wait")).unwrap_or(0);
        let answer = String::from_utf8_lossy(&answer[..bytes]).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{what}: {answer}");
    }
}

#[tokio::test]
async fn a_connection_whose_body_does_not_end_is_closed_after_its_answer() {
    let instance = Instance::start(&[("CHATPULSE_LIMITS__BODY_TIMEOUT_MS", "200")]).await;
    let to = |address: SocketAddr, path: &str| format!("POST {path} HTTP/1.1\r\nhost: {address}\r\n");
    let (public, ops) = (instance.public, instance.ops);
    let webhook = Chat::new("1", "yes").signed().head(public);
    let begun = "transfer-encoding: chunked\r\n\r\n1\r\n{\r\n";
    let unread = "transfer-encoding: chunked\r\n\r\n";
    let counted = "content-length: 100000\r\n\r\n{";
    let too_large = format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{}\r\n", 300_000, "x".repeat(300_000));
    let cases = [
        (public, webhook.clone(), begun, 408),
        (public, webhook.clone(), unread, 408),
        (public, webhook.clone(), counted, 408),
        (public, webhook, &too_large, 413),
        (public, to(public, "/nowhere"), begun, 404),
        (public, to(public, "/nowhere"), unread, 404),
        (public, to(public, "/nowhere"), counted, 404),
        (public, to(public, "/health/live"), begun, 405),
        (public, to(public, "/admin/api/v1/streamers"), begun, 401),
        (public, to(public, "/admin/api/v1/streamers"), counted, 401),
        (ops, to(ops, "/metrics"), begun, 405),
        (ops, to(ops, "/metrics"), counted, 405),
    ];
    let sent = cases.iter().flat_map(|(address, head, body, status)| {
        [false, true].map(|trickles| never_ending(*address, format!("{head}{body}"), trickles, *status))
    });
    join_all(sent).await;
}

/// Sends a request whose body never ends, and requires its answer and then the connection's end.
async fn never_ending(address: SocketAddr, request: String, trickles: bool, status: u16) {
    let what = request.lines().next().unwrap_or_default().to_owned();
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let writing = tokio::spawn(async move {
        // Err: the instance need not take what it refuses.
        let mut open = writer.write_all(request.as_bytes()).await.is_ok();
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        while open && trickles {
            pace.tick().await;
            open = writer.write_all(b"1\r\n \r\n").await.is_ok();
        }
        // Only the instance ends the connection.
        std::future::pending::<()>().await;
    });
    let answer = timeout(PATIENCE, answer(&mut reader)).await.expect("an answer comes");
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{what}: {answer}");
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, reader.read_to_end(&mut rest)).await;
    // What trickles in after the end is answered with a reset.
    assert!(end.is_ok(), "the connection stays open, trickling {trickles}: {what}");
    writing.abort();
}

#[tokio::test]
async fn a_connection_whose_bodies_were_read_is_kept() {
    let instance = instance().await;
    let good = Chat::new("1", "yes").signed();
    let forged = good.clone().with(ID, "another id");
    let (mut reader, mut writer) = TcpStream::connect(instance.public).await.unwrap().into_split();
    for (message, status) in [(&good, 204), (&forged, 403), (&forged, 403), (&good, 204)] {
        for chunked in [true, false, true] {
            writer.write_all(&on_the_wire(instance.public, message, chunked)).await.unwrap();
            let answer = timeout(PATIENCE, answer(&mut reader)).await.expect("an answer comes");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "chunked {chunked}: {answer}");
            assert!(!answer.contains("connection: close"), "chunked {chunked}: {answer}");
        }
    }
}

/// Reads one answer, and nothing of what follows it.
async fn answer(reader: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        answer.push(reader.read_u8().await.unwrap_or_else(|error| panic!("{error} after {answer:?}")).into());
    }
    let length = answer.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a length"))];
    reader.read_exact(&mut body).await.expect("the body is whole");
    answer + &String::from_utf8(body).expect("answers are UTF-8")
}

#[tokio::test]
async fn chat_without_a_session_is_204_and_stored_nowhere() {
    let instance = instance().await;
    let streamer = instance.streamer(&["yes"], &["no"]).await;
    let twitch = instance.twitch();
    let message_id = twitch.say(&streamer.twitch_id, "yes").await;
    twitch.say("nobody-here", "yes").await;
    // A session that starts later does not find it.
    let overlay = instance.overlay(&streamer).await;
    assert_eq!(overlay.hello["state"]["for"], 0);
    assert!(instance.votes(&streamer).await.is_empty());
    let sql = instance.sql().await;
    let known = "SELECT count(*) FROM chatpulse.vote_ids WHERE message_id::text = $1";
    assert_eq!(sql.query_one(known, &[&message_id]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn the_same_notification_again_is_204_and_counts_once() {
    let instance = instance().await;
    let (streamer, _overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let chat = Chat::new(&streamer.twitch_id, "yes");
    let signed = chat.signed();
    for _ in 0..3 {
        assert_eq!(twitch.post(&signed).await.status, 204);
    }
    assert_eq!(instance.voted(&streamer).await, [chat.message_id]);
}

#[tokio::test]
async fn the_same_chat_message_in_other_notifications_counts_once() {
    let instance = instance().await;
    let (streamer, _overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let chat = Chat::new(&streamer.twitch_id, "yes");
    twitch.chat(&chat).await;
    twitch.chat(&chat).await;
    // Also when it claims to be somebody else's, whom no debounce holds back.
    twitch.chat(&Chat::new(&streamer.twitch_id, "no").by("8")).await;
    let again = Chat { message_id: chat.message_id.clone(), ..Chat::new(&streamer.twitch_id, "yes") };
    twitch.chat(&again).await;
    let voted = instance.voted(&streamer).await;
    assert_eq!(voted.iter().filter(|id| **id == chat.message_id).count(), 1, "{voted:?}");
    assert_eq!(voted.len(), 2);
}

#[tokio::test]
async fn twenty_deliveries_at_once_count_once_and_are_all_204() {
    let instance = instance().await;
    let (streamer, _overlay) = instance.watched().await;
    let twitch = instance.twitch();
    for _ in 0..5 {
        let chat = Chat::new(&streamer.twitch_id, "yes");
        join_all((0..20).map(|_| twitch.chat(&chat))).await;
        let voted = instance.voted(&streamer).await;
        assert_eq!(voted.iter().filter(|id| **id == chat.message_id).count(), 1);
    }
}

#[tokio::test]
async fn a_viewers_second_vote_within_the_debounce_is_204_and_does_not_count() {
    let instance = instance().await;
    let (streamer, _overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let first = Chat::new(&streamer.twitch_id, "yes").by("7");
    twitch.chat(&first).await;
    for word in ["yes", "no"] {
        twitch.chat(&Chat::new(&streamer.twitch_id, word).by("7")).await;
    }
    // Another viewer is not held back, nor is this one in another streamer's chat.
    let other_viewer = twitch.say(&streamer.twitch_id, "no").await;
    let (elsewhere, _other_overlay) = instance.watched().await;
    let there = Chat::new(&elsewhere.twitch_id, "yes").by("7");
    twitch.chat(&there).await;
    assert_eq!(instance.voted(&streamer).await, [first.message_id, other_viewer]);
    assert_eq!(instance.voted(&elsewhere).await, [there.message_id]);
}

#[tokio::test]
async fn after_the_debounce_a_viewer_votes_again_and_a_redelivery_is_judged_anew() {
    let instance = Instance::start(&[("CHATPULSE_SESSION__DEBOUNCE_MS", "1000")]).await;
    let (streamer, _overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let (first, second) =
        (Chat::new(&streamer.twitch_id, "yes").by("7"), Chat::new(&streamer.twitch_id, "no").by("7"));
    let begun = Instant::now();
    twitch.chat(&first).await;
    eventually("the redelivered second vote counts", async || {
        twitch.chat(&second).await;
        instance.voted(&streamer).await.len() == 2
    })
    .await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "not before the debounce time is over");
    assert_eq!(instance.voted(&streamer).await, [first.message_id, second.message_id]);
}

#[tokio::test]
async fn a_repeated_vote_keeps_no_new_vote_of_its_viewer_from_counting() {
    let instance = Instance::start(&[("CHATPULSE_SESSION__DEBOUNCE_MS", "400")]).await;
    let (streamer, _overlay) = instance.watched().await;
    let (busy, _other_overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let vote = || Chat::new(&streamer.twitch_id, "yes").by("7");
    let first = vote();
    twitch.chat(&first).await;
    let claimed = redis::cmd("KEYS").arg("chatpulse:debounce:*").to_owned();
    eventually("the first vote's time is over", async || {
        query::<Vec<String>>(&instance.stores.redis_url, &claimed).await.is_ok_and(|keys| keys.is_empty())
    })
    .await;
    // While the commit of another vote waits, a repetition and a new vote gather in the next batch.
    let blocker = instance.sql().await;
    let lock = format!("BEGIN; SELECT FROM chatpulse.sessions WHERE streamer_id = '{}' FOR UPDATE", busy.id);
    blocker.batch_execute(&lock).await.unwrap();
    let second = vote();
    let held_up = Chat::new(&busy.twitch_id, "yes").by("8");
    let unlock = async {
        let repeated = join(twitch.chat(&first), twitch.chat(&second));
        join(repeated, async { blocker.batch_execute("ROLLBACK").await.unwrap() }).await
    };
    join(twitch.try_post(&held_up.signed()), unlock).await.0.unwrap();
    assert_eq!(instance.voted(&streamer).await, [first.message_id, second.message_id]);
}

#[tokio::test]
async fn a_trigger_counts_however_it_is_written_and_other_chat_does_not() {
    let instance = instance().await;
    let streamer = instance.streamer(&["Yes", "PogChamp", "ja bitte"], &["no", "NotLikeThis"]).await;
    let _overlay = instance.overlay(&streamer).await;
    let twitch = instance.twitch();
    let five_hundred = "yes ".repeat(125);
    let mut expected = Vec::new();
    for (text, side) in [
        ("yes", Some("for")),
        ("YES", Some("for")),
        ("  yes\t ", Some("for")),
        ("yes \u{E0000}", Some("for")),
        ("y\u{34F}es", Some("for")),
        ("\u{200B}yes\u{FEFF}", Some("for")),
        ("yes yes  YES", Some("for")),
        ("Ja   Bitte", Some("for")),
        ("ja bitte ja bitte", Some("for")),
        ("pogchamp", Some("for")),
        (&five_hundred, Some("for")),
        ("No", Some("against")),
        ("no no", Some("against")),
        ("yes no", None),
        ("yes!", None),
        ("oh yes", None),
        ("yesyes", None),
        ("nope", None),
        ("ja", None),
        ("yes PogChamp", None),
        ("", None),
        ("\u{E0000}", None),
    ] {
        let message_id = twitch.say(&streamer.twitch_id, text).await;
        expected.extend(side.map(|side| (message_id, side.to_owned())));
    }
    assert_eq!(sides(&instance, &streamer).await, expected);
}

async fn sides(instance: &Instance, streamer: &crate::support::instance::Streamer) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    instance.votes(streamer).await.iter().map(|vote| (text(&vote["m"]), text(&vote["s"]))).collect()
}

#[tokio::test]
async fn emotes_count_as_triggers_and_gifs_do_not() {
    let instance = instance().await;
    let streamer = instance.streamer(&["PogChamp"], &["NotLikeThis"]).await;
    let _overlay = instance.overlay(&streamer).await;
    let twitch = instance.twitch();
    let emote = |name: &str| {
        json!({ "type": "emote", "text": name, "cheermote": null, "mention": null,
                "emote": { "id": "305954156", "emote_set_id": "0", "owner_id": "0", "format": ["static"] } })
    };
    let space = json!({ "type": "text", "text": " " });
    let gif = json!({ "type": "gif", "text": "PogChamp", "gif": { "id": "1", "url": "https://media4.giphy.com/1" } });
    let mut expected = Vec::new();
    for (text, fragments, side) in [
        ("PogChamp", json!([emote("PogChamp")]), Some("for")),
        (
            "NotLikeThis NotLikeThis",
            json!([emote("NotLikeThis"), space, emote("NotLikeThis")]),
            Some("against"),
        ),
        ("PogChampPogChamp", json!([emote("PogChamp"), emote("PogChamp")]), Some("for")),
        ("PogChamp NotLikeThis", json!([emote("PogChamp"), space, emote("NotLikeThis")]), None),
        ("Kappa", json!([emote("Kappa")]), None),
        ("", json!([gif]), None),
        ("", json!([]), None),
    ] {
        let chat = Chat::new(&streamer.twitch_id, text).with_fragments(fragments);
        twitch.chat(&chat).await;
        expected.extend(side.map(|side| (chat.message_id, side.to_owned())));
    }
    assert_eq!(sides(&instance, &streamer).await, expected);
}

#[tokio::test]
async fn a_shared_chats_message_from_another_channel_is_ignored() {
    let instance = instance().await;
    let (streamer, _overlay) = instance.watched().await;
    let twitch = instance.twitch();
    twitch.chat(&Chat::new(&streamer.twitch_id, "yes").written_in("4242")).await;
    let own = Chat::new(&streamer.twitch_id, "yes").written_in(&streamer.twitch_id);
    twitch.chat(&own).await;
    assert_eq!(instance.voted(&streamer).await, [own.message_id]);
}

#[tokio::test]
async fn votes_are_counted_by_what_became_of_them() {
    let instance = Instance::start(&[("CHATPULSE_SESSION__DEBOUNCE_MS", "60000")]).await;
    let (streamer, _overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let chat = Chat::new(&streamer.twitch_id, "yes").by("7");
    twitch.chat(&chat).await;
    twitch.chat(&chat).await;
    twitch.chat(&Chat::new(&streamer.twitch_id, "yes").by("7")).await;
    twitch.chat(&Chat::new(&streamer.twitch_id, "yes").written_in("4242")).await;
    twitch.say(&streamer.twitch_id, "hello").await;
    let metrics = instance.metrics().await;
    for (result, count) in
        [("accepted", 1.0), ("duplicate", 1.0), ("debounced", 1.0), ("ignored", 1.0), ("late", 0.0)]
    {
        assert_eq!(metrics[&format!("chatpulse_votes_total{{result=\"{result}\"}}")], count, "{result}");
    }
    assert_eq!(metrics["chatpulse_webhook_duration_seconds_count"], 5.0);
}

#[tokio::test]
async fn a_vote_that_cannot_be_made_durable_is_503_and_its_redelivery_counts_once() {
    let instance = Instance::start(&[NO_QUEUE]).await;
    let (streamer, _overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let blocker = instance.sql().await;
    let chat = Chat::new(&streamer.twitch_id, "yes");
    for lock in [
        format!("SELECT FROM chatpulse.sessions WHERE streamer_id = '{}' FOR UPDATE", streamer.id),
        "LOCK TABLE chatpulse.vote_ids IN ACCESS EXCLUSIVE MODE".to_owned(),
    ] {
        blocker.batch_execute(&format!("BEGIN; {lock}")).await.unwrap();
        let answer = timeout(Duration::from_secs(2), twitch.post(&chat.signed())).await.expect("in time");
        answer.assert_problem(503);
        assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{answer:?}");
        blocker.batch_execute("ROLLBACK").await.unwrap();
        assert!(instance.voted(&streamer).await.is_empty());
    }
    twitch.chat(&chat).await;
    assert_eq!(instance.voted(&streamer).await, [chat.message_id]);
}

/// PostgreSQL's processes stand still: nothing is refused, nothing is answered, and what was asked
/// is done later.
#[tokio::test]
async fn a_frozen_postgresql_makes_votes_503_and_their_redelivery_counts_once() {
    if !servers().private {
        return; // Its processes are not ours.
    }
    let instance = Instance::start(&[NO_QUEUE, ("CHATPULSE_DATABASE__POOL_SIZE", "1")]).await;
    let (streamer, _overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'chatpulse'";
    let rows = connect(&instance.stores.superuser_url).await.query(sql, &[]).await.unwrap();
    let frozen = Frozen(rows.iter().map(|row| row.get::<_, i32>(0) as u32).collect());
    frozen.0.iter().for_each(|pid| signal("STOP", *pid));
    let chat = Chat::new(&streamer.twitch_id, "yes");
    let answer = timeout(Duration::from_secs(2), twitch.post(&chat.signed())).await.expect("in time");
    answer.assert_problem(503);
    assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{answer:?}");
    drop(frozen);
    eventually("the redelivered vote is taken", async || {
        matches!(twitch.post(&chat.signed()).await.status, 204)
    })
    .await;
    assert_eq!(instance.voted(&streamer).await, [chat.message_id]);
}

/// Processes that stand still until this is dropped.
struct Frozen(Vec<u32>);

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            signal("CONT", *pid);
        }
    }
}

#[tokio::test]
async fn without_redis_votes_count_and_are_debounced_by_memory() {
    let nowhere = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let nowhere = format!("redis://{nowhere}/0");
    let settings = [
        ("REDIS_URL", nowhere.as_str()),
        ("RATE_LIMIT_REDIS_URL", &nowhere),
        ("MESSAGE_QUEUE_REDIS_URL", &nowhere),
        ("CHATPULSE_SESSION__DEBOUNCE_MS", "60000"),
    ];
    let instance = Instance::start_on(Stores::fresh().await, &settings).await;
    let (streamer, mut overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let first = Chat::new(&streamer.twitch_id, "yes").by("7");
    twitch.chat(&first).await;
    twitch.chat(&first).await;
    twitch.chat(&Chat::new(&streamer.twitch_id, "yes").by("7")).await;
    let other = twitch.say(&streamer.twitch_id, "no").await;
    assert_eq!(instance.voted(&streamer).await, [first.message_id, other]);
    overlay.frames_until_votes(2).await;
    eventually("readiness says that Redis is away", async || {
        let ready = twitch.get("/health/ready").await;
        let body: serde_json::Value = serde_json::from_str(&ready.body).unwrap();
        ready.status == 200 && body["status"] == "degraded" && ready.body.contains("redis")
    })
    .await;
}
