//! A stream that is live is recorded: its session is held without an overlay, whatever dies, until the stream ends. And
//! how a chat is doing: what was said lately, and whether it has fallen silent.

use std::collections::HashMap;

use chatpulse::hot::keys;
use deadpool_redis::redis;
use serde_json::Value;

use crate::support::eventually;
use crate::support::instance::{Instance, Streamer};
use crate::support::platform::{ADA, BOB, BOT, Stage, VIEWER, Visitor};
use crate::support::servers::query;

/// Short, so that what nobody holds ends soon.
const ORPHAN: (&str, &str) = ("CHATPULSE_SESSION__ORPHAN_SECONDS", "1");

/// An instance with the bot and Ada signed in.
async fn signed_in(stage: &Stage, settings: &[(&str, &str)]) -> (Instance, Streamer) {
    let instance = stage.instance(settings).await;
    stage.sign_in_bot(&instance).await;
    Visitor::new().sign_in(&stage.public_url, ADA).await;
    let ada = stage.streamer(&instance, ADA).await;
    (instance, ada)
}

/// Who holds a streamer's live session; `None` when none is live.
async fn holders(instance: &Instance, streamer: &Streamer) -> Option<usize> {
    let sql = instance.sql().await;
    let question = "SELECT cardinality(holders) FROM chatpulse.live_sessions WHERE streamer_id = $1";
    let row = sql.query_opt(question, &[&streamer.id]).await.unwrap();
    row.map(|row| row.get::<_, i32>(0) as usize)
}

async fn is_recorded(instance: &Instance, streamer: &Streamer) -> bool {
    let sql = instance.sql().await;
    let question = "SELECT EXISTS (SELECT FROM chatpulse.live_sessions
                    WHERE streamer_id = $1 AND chatpulse.recording() = ANY (holders))";
    sql.query_one(question, &[&streamer.id]).await.unwrap().get(0)
}

/// What happened to a streamer, of these types.
async fn events(instance: &Instance, streamer: &Streamer, types: &[&str]) -> Vec<(String, Value)> {
    let sql = instance.sql().await;
    let question = "SELECT type, data FROM chatpulse.streamer_events
                    WHERE streamer_id = $1 AND type = ANY ($2) ORDER BY version";
    let rows = sql.query(question, &[&streamer.id, &types]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn names(instance: &Instance, streamer: &Streamer, types: &[&str]) -> Vec<String> {
    events(instance, streamer, types).await.into_iter().map(|(name, _)| name).collect()
}

/// Twitch will tell when the streamer goes live.
async fn stream_is_listened_to(stage: &Stage, broadcaster: &str) {
    eventually("the stream's beginning and end are subscribed to", async || {
        let all = stage.platform.subscriptions();
        let of = |kind: &str| {
            all.iter().any(|found| {
                found.kind == kind
                    && found.status == "enabled"
                    && found.condition.get("broadcaster_user_id").is_some_and(|id| id == broadcaster)
            })
        };
        of("stream.online") && of("stream.offline")
    })
    .await;
    eventually("a shard works", async || {
        stage.platform.shards().iter().any(|shard| shard.status == "enabled")
    })
    .await;
}

async fn chat_votes(stage: &Stage, instance: &Instance, ada: &Streamer) {
    eventually("the chat is subscribed to, and what is taken back there", async || {
        let all = stage.platform.subscriptions();
        let chat =
            all.iter().filter(|found| found.kind.starts_with("channel.chat.") && found.status == "enabled");
        chat.count() >= 4
    })
    .await;
    let message = stage.say(ADA, VIEWER, "yes");
    eventually("the vote is journaled", async || instance.voted(ada).await.contains(&message)).await;
}

#[tokio::test]
async fn a_stream_is_recorded_from_its_beginning_to_its_end_without_an_overlay() {
    let stage = Stage::set().await;
    let (instance, ada) = signed_in(&stage, &[ORPHAN]).await;
    stream_is_listened_to(&stage, ADA).await;
    assert_eq!(holders(&instance, &ada).await, None);
    stage.platform.go_live(ADA).unwrap();
    eventually("the stream is recorded", async || is_recorded(&instance, &ada).await).await;
    chat_votes(&stage, &instance, &ada).await;
    stage.platform.go_offline(ADA).unwrap();
    eventually("the session has ended", async || holders(&instance, &ada).await.is_none()).await;
    let of_streams = ["RecordingChanged", "StreamWentLive", "StreamEnded"];
    assert_eq!(names(&instance, &ada, &of_streams).await, of_streams);
}

#[tokio::test]
async fn who_signs_in_while_live_is_recorded_from_then_on() {
    let stage = Stage::set().await;
    let started = stage.platform.go_live(ADA).unwrap();
    let (instance, ada) = signed_in(&stage, &[]).await;
    eventually("the stream is recorded", async || is_recorded(&instance, &ada).await).await;
    let live = events(&instance, &ada, &["StreamWentLive"]).await;
    assert_eq!((live.len(), &live[0].1["stream_id"]), (1, &Value::from(started)));
}

#[tokio::test]
async fn what_was_told_while_nobody_listened_is_found_by_looking() {
    let stage = Stage::set().await;
    let (mut instance, ada) = signed_in(&stage, &[ORPHAN]).await;
    stream_is_listened_to(&stage, ADA).await;
    instance.kill();
    stage.platform.go_live(ADA).unwrap();
    forget_statuses(&instance).await;
    instance.start_again().await;
    eventually("the stream is recorded", async || is_recorded(&instance, &ada).await).await;
    instance.kill();
    stage.platform.go_offline(ADA).unwrap();
    forget_statuses(&instance).await;
    instance.start_again().await;
    eventually("the session has ended", async || holders(&instance, &ada).await.is_none()).await;
}

/// As if 300 seconds had passed.
async fn forget_statuses(instance: &Instance) {
    let forget = redis::cmd("DEL").arg(keys::cache("stream", ADA)).to_owned();
    let _: u64 = query(&instance.stores.redis_url, &forget).await.unwrap();
}

#[tokio::test]
async fn a_recording_outlives_the_instance_that_began_it() {
    let stage = Stage::set().await;
    let (mut instance, ada) = signed_in(&stage, &[ORPHAN, ("CHATPULSE_SESSION__LEASE_SECONDS", "3")]).await;
    stream_is_listened_to(&stage, ADA).await;
    stage.platform.go_live(ADA).unwrap();
    eventually("the stream is recorded", async || is_recorded(&instance, &ada).await).await;
    let session = session_id(&instance, &ada).await;
    instance.kill();
    instance.start_again().await;
    chat_votes(&stage, &instance, &ada).await;
    assert_eq!(session_id(&instance, &ada).await, session);
}

async fn session_id(instance: &Instance, streamer: &Streamer) -> uuid::Uuid {
    let sql = instance.sql().await;
    let question = "SELECT session_id FROM chatpulse.live_sessions WHERE streamer_id = $1";
    sql.query_one(question, &[&streamer.id]).await.unwrap().get(0)
}

#[tokio::test]
async fn an_overlay_and_a_recording_hold_one_session_each_for_itself() {
    let stage = Stage::set().await;
    let (instance, ada) = signed_in(&stage, &[ORPHAN]).await;
    stream_is_listened_to(&stage, ADA).await;
    let overlay = instance.overlay(&ada).await;
    let session = session_id(&instance, &ada).await;
    stage.platform.go_live(ADA).unwrap();
    eventually("both hold it", async || holders(&instance, &ada).await == Some(2)).await;
    drop(overlay);
    eventually("the overlay has let go", async || holders(&instance, &ada).await == Some(1)).await;
    let overlay = instance.overlay(&ada).await;
    stage.platform.go_offline(ADA).unwrap();
    eventually("the recording has let go", async || {
        holders(&instance, &ada).await == Some(1) && !is_recorded(&instance, &ada).await
    })
    .await;
    assert_eq!(session_id(&instance, &ada).await, session);
    drop(overlay);
}

#[tokio::test]
async fn a_stream_that_is_not_to_be_recorded_starts_nothing() {
    let stage = Stage::set().await;
    let (instance, ada) = signed_in(&stage, &[ORPHAN]).await;
    let sql = instance.sql().await;
    sql.execute("SELECT chatpulse.set_recorded($1, false, false, '{}')", &[&ada.id]).await.unwrap();
    // Bob is recorded: what came after Ada's beginning has been heard.
    Visitor::new().sign_in(&stage.public_url, BOB).await;
    let bob = stage.streamer(&instance, BOB).await;
    stream_is_listened_to(&stage, BOB).await;
    stage.platform.go_live(ADA).unwrap();
    stage.platform.go_live(BOB).unwrap();
    eventually("Bob's stream is recorded", async || is_recorded(&instance, &bob).await).await;
    assert_eq!(holders(&instance, &ada).await, None);
    // Signing in again changes nothing about it.
    Visitor::new().sign_in(&stage.public_url, ADA).await;
    let changes = events(&instance, &ada, &["RecordingChanged"]).await;
    assert_eq!(changes.last().map(|(_, data)| &data["recorded"]), Some(&Value::from(false)));
}

#[tokio::test]
async fn the_status_of_a_stream_is_remembered_for_300_seconds() {
    let stage = Stage::set().await;
    let (instance, ada) = signed_in(&stage, &[]).await;
    stream_is_listened_to(&stage, ADA).await;
    stage.platform.go_live(ADA).unwrap();
    eventually("the stream is recorded", async || is_recorded(&instance, &ada).await).await;
    let life = redis::cmd("TTL").arg(keys::cache("stream", ADA)).to_owned();
    let life: i64 = query(&instance.stores.redis_url, &life).await.unwrap();
    assert!((1..=300).contains(&life), "{life}");
}

#[tokio::test]
async fn the_last_hundred_messages_of_a_live_chat_are_in_redis() {
    let stage = Stage::set().await;
    let (instance, ada) = signed_in(&stage, &[]).await;
    stage.platform.go_live(ADA).unwrap();
    let _overlay = instance.overlay(&ada).await;
    chat_votes(&stage, &instance, &ada).await;
    for number in 0..110 {
        stage.say(ADA, VIEWER, &format!("message {number}"));
    }
    eventually("the last message is there", async || {
        let lines = window(&instance, &ada).await;
        lines.len() == 100 && lines.iter().any(|line| line.contains("message 109"))
    })
    .await;
}

/// What Redis keeps of a chat.
async fn window(instance: &Instance, streamer: &Streamer) -> Vec<String> {
    let range = redis::cmd("LRANGE").arg(keys::chat(streamer.id)).arg(0).arg(-1).to_owned();
    query(&instance.stores.redis_url, &range).await.unwrap()
}

#[tokio::test]
async fn a_message_that_was_deleted_and_those_of_a_banned_user_are_not_kept() {
    let stage = Stage::set().await;
    let (instance, ada) = signed_in(&stage, &[]).await;
    let _overlay = instance.overlay(&ada).await;
    chat_votes(&stage, &instance, &ada).await;
    let bad = stage.say(ADA, VIEWER, "something bad");
    stage.say(ADA, BOB, "something worse");
    stage.say(ADA, ADA, "calm down");
    stage.platform.delete_message(&bad).unwrap();
    stage.platform.clear_user(ADA, BOB).unwrap();
    eventually("what is left is there, and nothing else", async || {
        let lines = window(&instance, &ada).await;
        let has = |text: &str| lines.iter().any(|line| line.contains(text));
        has("calm down") && !has("something bad") && !has("something worse")
    })
    .await;
}

#[tokio::test]
async fn a_live_chat_that_falls_silent_is_said_to_be_so_until_somebody_speaks() {
    let stage = Stage::set().await;
    let (instance, ada) = signed_in(&stage, &[("CHATPULSE_CHAT__SILENT_AFTER_SECONDS", "1")]).await;
    stream_is_listened_to(&stage, ADA).await;
    stage.platform.go_live(ADA).unwrap();
    eventually("the stream is recorded", async || is_recorded(&instance, &ada).await).await;
    chat_votes(&stage, &instance, &ada).await;
    eventually("the silence is noted", async || health(&instance, &ada).await == ["silent"]).await;
    let told = events(&instance, &ada, &["ChatHealthChanged"]).await;
    assert!(told[0].1["last_message_at"].is_i64(), "{told:?}");
    eventually("it is counted", async || troubles(&instance).await["silent"] == 1.0).await;
    eventually("somebody who speaks is heard", async || {
        stage.say(ADA, VIEWER, "hello again");
        health(&instance, &ada).await.get(1).is_some_and(|health| health == "well")
    })
    .await;
}

#[tokio::test]
async fn an_authorization_that_is_lost_and_given_back_is_told_as_such() {
    let stage = Stage::set().await;
    let (instance, ada) = signed_in(&stage, &[]).await;
    let _overlay = instance.overlay(&ada).await;
    chat_votes(&stage, &instance, &ada).await;
    stage.platform.revoke(ADA);
    eventually("the loss is noted", async || health(&instance, &ada).await == ["unauthorized"]).await;
    eventually("it is counted", async || troubles(&instance).await["unauthorized"] == 1.0).await;
    Visitor::new().sign_in(&stage.public_url, ADA).await;
    eventually("all is well", async || health(&instance, &ada).await == ["unauthorized", "well"]).await;
    eventually("nothing is counted", async || {
        troubles(&instance).await.get("unauthorized").is_none_or(|count| *count == 0.0)
    })
    .await;
}

/// The healths of a chat, as they followed each other.
async fn health(instance: &Instance, streamer: &Streamer) -> Vec<String> {
    let told = events(instance, streamer, &["ChatHealthChanged"]).await;
    told.iter().filter_map(|(_, data)| data["health"].as_str().map(str::to_owned)).collect()
}

/// Chats in trouble, by health.
async fn troubles(instance: &Instance) -> HashMap<String, f64> {
    let metrics = instance.metrics().await;
    ["silent", "blocked", "unauthorized"]
        .into_iter()
        .map(|health| {
            let name = format!("chatpulse_chats_in_trouble{{health=\"{health}\"}}");
            (health.to_owned(), metrics.get(&name).copied().unwrap_or_default())
        })
        .collect()
}

#[tokio::test]
async fn the_bots_own_words_are_no_votes_but_are_heard() {
    let stage = Stage::set().await;
    let (instance, ada) = signed_in(&stage, &[]).await;
    let _overlay = instance.overlay(&ada).await;
    chat_votes(&stage, &instance, &ada).await;
    let said = stage.say(ADA, BOT, "yes");
    eventually("it is shown", async || {
        let lines = window(&instance, &ada).await;
        lines.iter().any(|line| line.contains(&said))
    })
    .await;
    assert!(!instance.voted(&ada).await.contains(&said));
}
