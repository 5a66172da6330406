//! What the overlay socket promises.

use std::time::{Duration, Instant};

use deadpool_redis::redis;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use uuid::Uuid;

use crate::support::instance::{Instance, Shared, Slot, Stores, Streamer};
use crate::support::overlay::Overlay;
use crate::support::servers::{connect, query, servers};
use crate::support::twitch::Chat;
use crate::support::{PATIENCE, eventually};

/// Nothing should come in this time where nothing is due.
const SILENCE: Duration = Duration::from_millis(300);
/// The version of a streamer's first state: ordinal 1, and the session's first event.
const FIRST_VERSION: i64 = (1 << 32) + 1;

/// One instance for the tests that don't disturb each other. Keyframes come too late to be seen.
async fn instance() -> Shared {
    static INSTANCE: Slot = Slot::new();
    INSTANCE.get(&[("CHATPULSE_SESSION__KEYFRAME_SECONDS", "60"), ("RUST_LOG", "debug")]).await
}

async fn database_now(instance: &Instance) -> i64 {
    let now = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    instance.sql().await.query_one(now, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn the_first_frame_is_a_hello_of_exactly_the_documented_shape() {
    let instance = instance().await;
    let streamer = instance.streamer(&["yes"], &["no"]).await;
    let before = database_now(&instance).await;
    let hello = instance.overlay(&streamer).await.hello;
    let after = database_now(&instance).await;
    let (now, at) = (hello["now"].as_i64().unwrap(), hello["state"]["at"].as_i64().unwrap());
    // The instance estimates PostgreSQL's clock to within a round trip.
    assert!((before - 1000..=after + 1000).contains(&now), "{before} … {now} … {after}");
    assert!((before..=after).contains(&at), "{before} … {at} … {after}");
    let shape = json!({
        "type": "hello", "protocol": 1, "now": now,
        "config": {
            "version": 1, "model": "decay", "decay_speed": 1.0, "window_seconds": 30, "display": "combined",
            "theme": "dark", "for_label": "Yes", "against_label": "No",
        },
        "state": { "version": FIRST_VERSION, "value": 0.0, "at": at, "for": 0, "against": 0 },
    });
    assert_eq!(hello, shape);
}

#[tokio::test]
async fn an_unknown_or_malformed_url_is_404() {
    let instance = instance().await;
    let unknown = Uuid::new_v4().to_string();
    for path in [unknown.as_str(), "not-a-uuid", "%00", "1"] {
        assert_eq!(Overlay::open(instance.public, path, &[]).await.err(), Some(404), "{path}");
    }
}

#[tokio::test]
async fn each_vote_makes_a_frame_with_the_next_version_and_the_journals_state() {
    let instance = instance().await;
    let (streamer, mut overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let (mut value, mut at) = (0.0, overlay.hello["state"]["at"].as_i64().unwrap());
    let decay = |milliseconds: i64| (-(milliseconds as f64) / 1000.0).exp();
    for (round, word) in ["yes", "yes", "no", "yes"].into_iter().enumerate() {
        twitch.say(&streamer.twitch_id, word).await;
        let frame = overlay.next_frame("sentiment").await;
        assert_eq!(frame["version"], FIRST_VERSION + 1 + round as i64);
        let (against, frame_at) = (i64::from(round >= 2), frame["at"].as_i64().unwrap());
        assert_eq!((&frame["for"], &frame["against"]), (&json!(round as i64 + 1 - against), &json!(against)));

        let vote = instance.votes(&streamer).await.pop().unwrap();
        let pull = if word == "yes" { 10.0 } else { -10.0 };
        value = value * decay(frame_at - at) + pull * decay(frame_at - vote["t"].as_i64().unwrap());
        at = frame_at;
        let shown = frame["value"].as_f64().unwrap();
        assert!((shown - value).abs() < 1e-6, "{shown} is not {value}");
        let keys: Vec<&String> = frame.as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 6, "{frame}");
    }
}

#[tokio::test]
async fn the_value_stays_within_its_limits() {
    let instance = instance().await;
    let (streamer, mut overlay) = instance.watched().await;
    instance.change_config(&streamer, json!({ "vote_delta": 50.0, "decay_speed": 0.1 })).await;
    overlay.next_frame("config").await;
    let twitch = instance.twitch();
    join_all((0..20).map(|_| twitch.say(&streamer.twitch_id, "no"))).await;
    let frames = overlay.frames_until_votes(20).await;
    let value = |frame: &Value| frame["value"].as_f64().unwrap();
    assert!(frames.iter().all(|frame| (-100.0..=100.0).contains(&value(frame))), "{frames:?}");
    assert!(value(frames.last().unwrap()) < -90.0, "{frames:?}");
}

/// With ticks a second apart, a vote that waited for one right after another would wait nearly a second.
#[tokio::test]
async fn a_vote_after_a_pause_does_not_wait_for_the_tick() {
    let tick = Duration::from_secs(1);
    let instance = Instance::start(&[("CHATPULSE_SESSION__TICK_MS", "1000")]).await;
    let mut watched = join_all((0..3).map(|_| instance.watched())).await;
    for (_, overlay) in &mut watched {
        assert!(overlay.next_within(tick).await.is_none(), "the pause");
    }
    let twitch = instance.twitch();
    for (streamer, overlay) in &mut watched {
        twitch.say(&streamer.twitch_id, "yes").await;
        let frame = overlay.next_within(tick * 8 / 10).await.expect("a frame comes at once");
        assert_eq!(frame["for"], 1);
    }
}

#[tokio::test]
async fn a_burst_makes_at_most_one_frame_a_tick_and_the_last_one_shows_all_votes() {
    let instance = Instance::start(&[("CHATPULSE_SESSION__TICK_MS", "500")]).await;
    let (streamer, mut overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let begun = Instant::now();
    let burst = join_all((0..4).map(async |_| {
        for _ in 0..50 {
            twitch.say(&streamer.twitch_id, "yes").await;
        }
    }));
    let (_, frames) = tokio::join!(burst, overlay.frames_until_votes(200));
    let ticks = begun.elapsed().as_millis() / 500 + 2;
    assert!(frames.len() as u128 <= ticks, "{} frames in {ticks} ticks", frames.len());
    let versions: Vec<i64> = frames.iter().map(|frame| frame["version"].as_i64().unwrap()).collect();
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    assert_eq!(frames.last().unwrap()["for"], 200);
    assert_eq!(instance.votes(&streamer).await.len(), 200);
}

#[tokio::test]
async fn keyframes_come_while_the_value_moves_and_none_at_rest() {
    let instance = Instance::start(&[("CHATPULSE_SESSION__KEYFRAME_SECONDS", "1")]).await;
    let streamer = instance.streamer(&["yes"], &["no"]).await;
    // 10 points sink to rest, below 0.5, in 1.5 s.
    instance.change_config(&streamer, json!({ "decay_speed": 2.0 })).await;
    let mut overlay = instance.overlay(&streamer).await;
    assert!(overlay.next_within(Duration::from_millis(1500)).await.is_none(), "a bar at rest needs none");
    instance.twitch().say(&streamer.twitch_id, "yes").await;
    let frame = overlay.next_frame("sentiment").await;
    assert_eq!(overlay.next_frame("sentiment").await, frame, "a keyframe repeats the state");
    let mut more = 0;
    while overlay.next_within(Duration::from_millis(1500)).await.is_some() {
        more += 1;
    }
    assert!(more <= 1, "{more} keyframes after the first one");
}

#[tokio::test]
async fn a_window_has_shares_and_sinks_as_its_seconds_expire() {
    let instance = instance().await;
    let streamer = instance.streamer(&["yes"], &["no"]).await;
    instance.change_config(&streamer, json!({ "model": "window", "window_seconds": 5 })).await;
    let mut overlay = instance.overlay(&streamer).await;
    let hello = &overlay.hello;
    assert_eq!(
        (&hello["config"]["model"], &hello["config"]["window_seconds"]),
        (&json!("window"), &json!(5))
    );
    assert_eq!((&hello["state"]["for_share"], &hello["state"]["against_share"]), (&json!(0.0), &json!(0.0)));
    let twitch = instance.twitch();
    for word in ["yes", "no", "yes", "yes"] {
        twitch.say(&streamer.twitch_id, word).await;
    }
    let voted = overlay.frames_until_votes(4).await.pop().unwrap();
    let shares =
        |frame: &Value| [&frame["for_share"], &frame["against_share"]].map(|share| share.as_f64().unwrap());
    assert_eq!(shares(&voted), [0.75, 0.25]);
    assert_eq!(voted["value"], 50.0);
    let version = &voted["version"];
    let empty = loop {
        let frame = overlay.next_frame("sentiment").await;
        assert_eq!(&frame["version"], version, "expiry is no event");
        if shares(&frame) == [0.0, 0.0] {
            break frame;
        }
    };
    assert_eq!((&empty["value"], &empty["for"], &empty["against"]), (&json!(0.0), &json!(3), &json!(1)));
    assert!(empty["at"].as_i64() > voted["at"].as_i64());
    assert!(overlay.next_within(SILENCE).await.is_none());
}

#[tokio::test]
async fn a_changed_config_is_shown_with_the_state_rebased() {
    let instance = instance().await;
    let (streamer, mut overlay) = instance.watched().await;
    instance.twitch().say(&streamer.twitch_id, "yes").await;
    let voted = overlay.next_frame("sentiment").await;
    instance.change_config(&streamer, json!({ "decay_speed": 0.5, "theme": "light" })).await;
    let frame = overlay.next_frame("config").await;
    assert_eq!((&frame["config"]["version"], &frame["config"]["theme"]), (&json!(2), &json!("light")));
    let state = &frame["state"];
    assert_eq!(state["version"].as_i64(), voted["version"].as_i64().map(|version| version + 1));
    let seconds = (state["at"].as_i64().unwrap() - voted["at"].as_i64().unwrap()) as f64 / 1000.0;
    let expected = voted["value"].as_f64().unwrap() * (-seconds).exp();
    assert!((state["value"].as_f64().unwrap() - expected).abs() < 1e-6, "{frame} after {voted}");
    assert_eq!((&state["for"], &state["against"]), (&json!(1), &json!(0)));
}

#[tokio::test]
async fn what_a_client_sends_is_ignored() {
    let instance = instance().await;
    let (streamer, mut overlay) = instance.watched().await;
    overlay.send(Message::text("{\"type\":\"vote\"}")).await;
    overlay.send(Message::binary(vec![0, 255, 1])).await;
    overlay.send(Message::text("x".repeat(1024))).await;
    overlay.send(Message::Pong(vec![1].into())).await;
    assert!(overlay.next_within(SILENCE).await.is_none());
    instance.twitch().say(&streamer.twitch_id, "yes").await;
    assert_eq!(overlay.next_frame("sentiment").await["for"], 1);
}

#[tokio::test]
async fn a_message_over_1_kib_closes_with_1009() {
    let instance = instance().await;
    let streamer = instance.streamer(&["yes"], &["no"]).await;
    for large in [Message::text("x".repeat(1025)), Message::binary(vec![0; 70_000])] {
        let mut overlay = instance.overlay(&streamer).await;
        overlay.send(large).await;
        assert_eq!(overlay.close_code().await, 1009);
    }
    // Also in parts that are small.
    let mut overlay = instance.overlay(&streamer).await;
    for (opcode, last) in [(Data::Text, false), (Data::Continue, false), (Data::Continue, true)] {
        let part = Frame::message(vec![b'x'; 500], OpCode::Data(opcode), last);
        overlay.send(Message::Frame(part)).await;
    }
    assert_eq!(overlay.close_code().await, 1009);
}

#[tokio::test]
async fn a_frame_without_an_end_closes_with_1009() {
    let instance = instance().await;
    let (_, mut overlay) = instance.watched().await;
    // A masked binary frame of 2^40 bytes, of which a few come.
    let head = [&[0x82, 0xff][..], &(1u64 << 40).to_be_bytes(), &[0; 4], &[0; 4096]].concat();
    overlay.socket.get_mut().write_all(&head).await.unwrap();
    assert_eq!(overlay.close_code().await, 1009);
}

#[tokio::test]
async fn text_that_is_not_utf_8_closes_with_1007() {
    let instance = instance().await;
    let (_, mut overlay) = instance.watched().await;
    let garbled = Frame::message(vec![b'a', 0xC3, 0x28], OpCode::Data(Data::Text), true);
    overlay.send(Message::Frame(garbled)).await;
    assert_eq!(overlay.close_code().await, 1007);
}

#[tokio::test]
async fn a_ping_is_answered_with_its_payload() {
    let instance = instance().await;
    let (_, mut overlay) = instance.watched().await;
    overlay.send(Message::Ping(b"are you there?".to_vec().into())).await;
    assert_eq!(overlay.pong().await, b"are you there?");
}

#[tokio::test]
async fn a_clients_close_is_answered() {
    let instance = instance().await;
    let (_, mut overlay) = instance.watched().await;
    overlay.send(Message::Close(None)).await;
    assert!([1000, 1005].contains(&overlay.close_code().await));
}

#[tokio::test]
async fn a_client_that_answers_no_pings_is_closed_with_4102_and_others_stay() {
    let settings =
        [("CHATPULSE_OVERLAY__PING_SECONDS", "2"), ("CHATPULSE_OVERLAY__PONG_TIMEOUT_SECONDS", "1")];
    let instance = Instance::start(&settings).await;
    let (streamer, mut answering) = instance.watched().await;
    let close = silent_client_close(&instance, &streamer);
    let stays = answering.next_within(PATIENCE);
    tokio::select! {
        code = close => assert_eq!(code, 4102),
        frame = stays => panic!("no frame is due: {frame:?}"),
    }
    instance.twitch().say(&streamer.twitch_id, "yes").await;
    assert_eq!(answering.next_frame("sentiment").await["for"], 1);
    eventually("the close is counted", async || {
        let closes = instance.metrics().await;
        closes.get("chatpulse_overlay_closes_total{code=\"4102\"}") == Some(&1.0)
    })
    .await;
}

/// A client that reads and never answers; the code that it is closed with.
async fn silent_client_close(instance: &Instance, streamer: &Streamer) -> u16 {
    let mut stream = TcpStream::connect(instance.public).await.unwrap();
    let request = format!(
        "GET /ws/overlay/{} HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        streamer.overlay_uuid, instance.public
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let all = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    all.expect("the server ends the connection").unwrap();
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head") + 4;
    // RFC 6455, section 5.2. The server's frames are not masked.
    let mut frames = &answer[head..];
    while let [opcode, length, rest @ ..] = frames {
        let (length, payload) = match length {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            length => (usize::from(*length), rest),
        };
        if *opcode == 0x88 {
            return u16::from_be_bytes([payload[0], payload[1]]);
        }
        frames = &payload[length..];
    }
    panic!("the connection ended without a close frame");
}

#[tokio::test]
async fn five_hundred_overlays_at_once_share_one_cold_start() {
    let stores = Stores::fresh().await;
    let superuser = connect(&stores.superuser_url).await;
    if servers().private {
        superuser.batch_execute("CREATE EXTENSION pg_stat_statements").await.expect("it is preloaded");
    }
    let instance = Instance::start_on(stores, &[("CHATPULSE_LIMITS__OVERLAYS_PER_IP_MAX", "1000")]).await;
    let streamer = instance.streamer(&["yes"], &["no"]).await;
    let mut overlays = join_all((0..500).map(|_| instance.overlay(&streamer))).await;
    assert!(overlays.iter().all(|overlay| overlay.hello["state"]["version"] == FIRST_VERSION));
    if servers().private {
        let calls = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements s
                     JOIN pg_database d ON d.oid = s.dbid
                     WHERE d.datname = current_database() AND query LIKE 'SELECT%chatpulse.hold_overlays(%'";
        assert_eq!(superuser.query_one(calls, &[]).await.unwrap().get::<_, i64>(0), 1);
    }
    let started = "SELECT count(*) FROM chatpulse.events WHERE type = 'SessionStarted'";
    assert_eq!(superuser.query_one(started, &[]).await.unwrap().get::<_, i64>(0), 1);
    let metrics = instance.metrics().await;
    assert_eq!(metrics["chatpulse_overlays"], 500.0);
    assert_eq!(metrics["chatpulse_cold_starts_total{source=\"postgres\"}"], 1.0);

    instance.twitch().say(&streamer.twitch_id, "yes").await;
    let frames = join_all(overlays.iter_mut().map(|overlay| overlay.next_frame("sentiment"))).await;
    assert!(frames.iter().all(|frame| *frame == frames[0]));
}

#[tokio::test]
async fn the_sessions_of_two_streamers_do_not_mix() {
    let instance = instance().await;
    let ((one, mut watching_one), (two, mut watching_two)) =
        (instance.watched().await, instance.watched().await);
    let twitch = instance.twitch();
    twitch.say(&one.twitch_id, "yes").await;
    assert_eq!(watching_one.next_frame("sentiment").await["for"], 1);
    twitch.say(&two.twitch_id, "no").await;
    let frame = watching_two.next_frame("sentiment").await;
    assert_eq!((&frame["for"], &frame["against"]), (&json!(0), &json!(1)));
    assert!(watching_one.next_within(SILENCE).await.is_none());
}

#[tokio::test]
async fn a_later_overlay_begins_with_the_present_state() {
    let instance = instance().await;
    let (streamer, mut first) = instance.watched().await;
    instance.twitch().say(&streamer.twitch_id, "yes").await;
    let frame = first.next_frame("sentiment").await;
    let second = instance.overlay(&streamer).await;
    for key in ["version", "value", "at", "for", "against"] {
        assert_eq!(second.hello["state"][key], frame[key], "{key}");
    }
}

#[tokio::test]
async fn only_known_origins_may_open_a_socket() {
    let instance = instance().await;
    let streamer = instance.streamer(&["yes"], &["no"]).await;
    let path = streamer.overlay_uuid.to_string();
    let own = format!("http://{}", instance.public);
    for foreign in ["https://evil.example", "http://127.0.0.1:1", "http://localhost.evil.example", ""] {
        let refused = Overlay::open(instance.public, &path, &[("origin", foreign)]).await.err();
        assert_eq!(refused, Some(403), "{foreign:?}");
    }
    for allowed in [own.as_str(), "null", "file://"] {
        let opened = Overlay::open(instance.public, &path, &[("origin", allowed)]).await;
        opened.unwrap_or_else(|status| panic!("{status} for {allowed:?}")).next_frame("hello").await;
    }
    Overlay::open(instance.public, &path, &[]).await.expect("a client without an origin is no browser");
}

#[tokio::test]
async fn the_public_url_and_listed_origins_may_open_a_socket() {
    let settings = [
        ("CHATPULSE_HTTP__PUBLIC_URL", "https://pulse.example"),
        ("CHATPULSE_HTTP__ALLOWED_ORIGINS", "https://one.example,https://two.example"),
    ];
    let instance = Instance::start(&settings).await;
    let streamer = instance.streamer(&["yes"], &["no"]).await;
    let path = streamer.overlay_uuid.to_string();
    for (origin, refused) in [
        ("https://pulse.example", None),
        ("https://two.example", None),
        ("http://pulse.example", Some(403)),
        ("https://pulse.example.evil.example", Some(403)),
    ] {
        let opened = Overlay::open(instance.public, &path, &[("origin", origin)]).await;
        assert_eq!(opened.err(), refused, "{origin}");
    }
}

/// The headers of an upgrade; the key is RFC 6455's example.
const UPGRADE: [(&str, &str); 4] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

#[tokio::test]
async fn an_impossible_cold_start_is_503_with_retry_after_and_possible_later() {
    let instance = Instance::start(&[("CHATPULSE_DATABASE__STATEMENT_TIMEOUT_MS", "300")]).await;
    let streamer = instance.streamer(&["yes"], &["no"]).await;
    let blocker = instance.sql().await;
    blocker.batch_execute("BEGIN; SELECT FROM chatpulse.users FOR UPDATE").await.unwrap();
    let path = format!("/ws/overlay/{}", streamer.overlay_uuid);
    let answer = instance.twitch().get_with(&path, &UPGRADE).await;
    answer.assert_problem(503);
    assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{answer:?}");
    blocker.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(instance.overlay(&streamer).await.hello["state"]["version"], FIRST_VERSION);
}

#[tokio::test]
async fn further_overlays_of_one_address_are_closed_with_4103() {
    let instance = Instance::start(&[("CHATPULSE_LIMITS__OVERLAYS_PER_IP_MAX", "2")]).await;
    let ((one, first), (_, _second)) = (instance.watched().await, instance.watched().await);
    assert_eq!(instance.socket(&one).await.first().await, Err(4103));
    drop(first);
    eventually("a place is free again", async || instance.socket(&one).await.first().await.is_ok()).await;
}

#[tokio::test]
async fn a_full_session_closes_further_overlays_with_4103() {
    let instance = Instance::start(&[("CHATPULSE_OVERLAY__CONNECTIONS_PER_SESSION_MAX", "2")]).await;
    let (streamer, _first) = instance.watched().await;
    let second = instance.overlay(&streamer).await;
    assert_eq!(instance.socket(&streamer).await.first().await, Err(4103));
    drop(second);
    eventually("a place is free again", async || instance.socket(&streamer).await.first().await.is_ok())
        .await;
}

#[tokio::test]
async fn the_overlays_uuid_is_in_no_log_line() {
    let instance = Instance::start(&[
        ("RUST_LOG", "debug"),
        ("CHATPULSE_OVERLAY__PING_SECONDS", "2"),
        ("CHATPULSE_OVERLAY__PONG_TIMEOUT_SECONDS", "1"),
    ])
    .await;
    let (streamer, mut overlay) = instance.watched().await;
    instance.twitch().say(&streamer.twitch_id, "yes").await;
    overlay.next_frame("sentiment").await;
    let uuid = streamer.overlay_uuid;
    // Refusals, errors and the page name it nowhere either.
    Overlay::open(instance.public, &uuid.to_string(), &[("origin", "https://evil.example")]).await.err();
    instance.twitch().get(&format!("/ws/overlay/{uuid}")).await;
    instance.twitch().get(&format!("/overlay/{uuid}")).await;
    instance.twitch().get(&format!("/overlay/{uuid}/more")).await;
    overlay.send(Message::text("x".repeat(2000))).await;
    overlay.close_code().await;
    let redacted = format!("{}…", &uuid.to_string()[..4]);
    eventually("the overlay's end is logged", async || {
        instance.lines().iter().any(|line| line.contains("disconnected") && line.contains(&redacted))
    })
    .await;
    for secret in [uuid.to_string(), uuid.simple().to_string()] {
        let lines = instance.lines();
        let told: Vec<&String> = lines.iter().filter(|line| line.to_lowercase().contains(&secret)).collect();
        assert!(told.is_empty(), "{told:#?}");
    }
}

#[tokio::test]
async fn the_last_overlay_leaves_and_the_next_one_finds_the_session() {
    let instance = instance().await;
    let (streamer, mut overlay) = instance.watched().await;
    instance.twitch().say(&streamer.twitch_id, "yes").await;
    let frame = overlay.next_frame("sentiment").await;
    drop(overlay);
    let sql = instance.sql().await;
    let holders = "SELECT cardinality(holders) FROM chatpulse.live_sessions WHERE streamer_id = $1";
    eventually("the session is let go of", async || {
        sql.query_one(holders, &[&streamer.id]).await.unwrap().get::<_, i32>(0) == 0
    })
    .await;
    // Chat still counts until the session ends.
    let vote = Chat::new(&streamer.twitch_id, "no");
    instance.twitch().chat(&vote).await;
    assert_eq!(instance.voted(&streamer).await.pop(), Some(vote.message_id));
    let again = instance.overlay(&streamer).await;
    assert_eq!(
        again.hello["state"]["version"].as_i64(),
        frame["version"].as_i64().map(|version| version + 1)
    );
    assert_eq!((&again.hello["state"]["for"], &again.hello["state"]["against"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn redis_forgets_a_session_that_has_ended() {
    let instance = Instance::start(&[]).await;
    let (streamer, _overlay) = instance.watched().await;
    let sessions = redis::cmd("KEYS").arg("chatpulse:session:*").to_owned();
    let keys = async || query::<Vec<String>>(&instance.stores.redis_url, &sessions).await.unwrap_or_default();
    eventually("the session is mirrored", async || keys().await.len() == 1).await;
    let end = "SELECT chatpulse.end_session($1, '{}')";
    instance.sql().await.query_one(end, &[&streamer.id]).await.unwrap();
    eventually("the session is forgotten", async || keys().await.is_empty()).await;
}
