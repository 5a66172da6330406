//! From an overlay that opens to chat that votes: conduit, shards and subscriptions at a strict Twitch, and what
//! becomes of them when something fails.

use std::collections::BTreeSet;

use chatpulse::twitch::simulator::platform::{Account, Failure, Fault, SubscriptionView};

use crate::support::eventually;
use crate::support::instance::{Instance, Stores, Streamer};
use crate::support::overlay::Overlay;
use crate::support::platform::{ADA, BOT, Stage, VIEWER, Visitor};
use crate::support::proxy::{Mode, Proxy};

const CHAT: &str = "channel.chat.message";
const OTHER_BOT: &str = "900000002";
const MODERATOR: &str = "700000002";
const SUBSCRIPTIONS: &str = "/helix/eventsub/subscriptions";

/// Ada, signed in.
async fn ada(stage: &Stage, instance: &Instance) -> Streamer {
    Visitor::new().sign_in(&stage.public_url, ADA).await;
    stage.streamer(instance, ADA).await
}

/// An instance with the bot and Ada signed in, and an overlay of hers.
async fn watched(stage: &Stage, settings: &[(&str, &str)]) -> (Instance, Streamer, Overlay) {
    let instance = stage.instance(settings).await;
    stage.sign_in_bot(&instance).await;
    let ada = ada(stage, &instance).await;
    let overlay = instance.overlay(&ada).await;
    (instance, ada, overlay)
}

/// What Twitch has of a channel's chat, and enabled.
fn of_chat(stage: &Stage, broadcaster: &str) -> Vec<SubscriptionView> {
    let of = |found: &SubscriptionView| {
        found.status == "enabled"
            && found.kind.starts_with("channel.")
            && found.condition.get("broadcaster_user_id").is_some_and(|id| id == broadcaster)
    };
    stage.platform.subscriptions().into_iter().filter(of).collect()
}

/// The types of what Twitch has of a channel's chat, and enabled.
fn enabled(stage: &Stage, broadcaster: &str) -> BTreeSet<String> {
    of_chat(stage, broadcaster).into_iter().map(|found| found.kind).collect()
}

async fn chat_is_connected(stage: &Stage) {
    eventually("the chat is subscribed to", async || enabled(stage, ADA).contains(CHAT)).await;
    eventually("a shard works", async || {
        stage.platform.shards().iter().any(|shard| shard.status == "enabled")
    })
    .await;
}

/// What a viewer says becomes a vote.
async fn chat_votes(stage: &Stage, instance: &Instance, ada: &Streamer) {
    let message = stage.say(ADA, VIEWER, "yes");
    eventually("the vote is journaled", async || instance.voted(ada).await.contains(&message)).await;
}

#[tokio::test]
async fn an_overlay_that_opens_has_chat_vote() {
    let stage = Stage::set().await;
    let (instance, ada, mut overlay) = watched(&stage, &[]).await;
    chat_is_connected(&stage).await;
    chat_votes(&stage, &instance, &ada).await;
    assert_eq!(overlay.next_frame("sentiment").await["for"], 1);
    eventually("all that the chat needs is subscribed to", async || enabled(&stage, ADA).len() == 6).await;
    let shards = stage.platform.shards();
    assert!(shards.len() == 1 && shards[0].status == "enabled", "{shards:?}");
    let sql = instance.sql().await;
    let question = "SELECT count(*) FROM chatpulse.events
                    WHERE type = 'SubscriptionConfirmed' AND data->>'type' LIKE 'channel.%'";
    assert_eq!(sql.query_one(question, &[]).await.unwrap().get::<_, i64>(0), 6);
}

#[tokio::test]
async fn what_twitch_refuses_for_a_while_is_asked_for_again() {
    let stage = Stage::set().await;
    let fail = |failure| {
        let path = SUBSCRIPTIONS.into();
        stage.platform.fail_next(Fault { path, method: Some("POST".into()), times: 2, failure });
    };
    fail(Failure::Status { status: 503, message: "busy".into() });
    fail(Failure::AnswerLost);
    fail(Failure::TooManyAlike);
    fail(Failure::Limited { reset_seconds: 1 });
    let (instance, ada, _overlay) = watched(&stage, &[]).await;
    eventually("all is subscribed to", async || enabled(&stage, ADA).len() == 6).await;
    chat_votes(&stage, &instance, &ada).await;
    let alike = stage.platform.subscriptions();
    let chats = alike.iter().filter(|found| found.kind == CHAT && found.status == "enabled").count();
    assert_eq!(chats, 1, "an answer that was lost makes no second one: {alike:?}");
}

#[tokio::test]
async fn a_subscription_that_twitch_ended_is_made_again() {
    let stage = Stage::set().await;
    let (instance, ada, _overlay) = watched(&stage, &[]).await;
    chat_is_connected(&stage).await;
    let id = |stage: &Stage| {
        let all = stage.platform.subscriptions();
        let found = all.iter().find(|found| found.kind == CHAT && found.status == "enabled");
        found.map(|found| found.id.clone())
    };
    let first = id(&stage).expect("a subscription");
    stage.platform.revoke_subscription(&first, "notification_failures_exceeded").unwrap();
    eventually("there is another one", async || id(&stage).is_some_and(|id| id != first)).await;
    chat_votes(&stage, &instance, &ada).await;
}

#[tokio::test]
async fn chats_are_read_as_another_bot_once_the_settings_name_it() {
    let stage = Stage::set().await;
    let (mut instance, ada, overlay) = watched(&stage, &[("CHATPULSE_HTTP__DRAIN_SECONDS", "1")]).await;
    eventually("all is subscribed to", async || enabled(&stage, ADA).len() == 6).await;
    stage.platform.add_user(Account::new(OTHER_BOT, "other_bot")).unwrap();
    stage.platform.grant(OTHER_BOT, &["user:read:chat", "user:bot", "user:write:chat"]).unwrap();
    drop(overlay);
    instance.set(&[("CHATPULSE_TWITCH__BOT_USER_ID", OTHER_BOT)]);
    instance.terminate();
    instance.stopped().await;
    assert_eq!(readers(&stage), BTreeSet::from([BOT.to_owned()]));
    instance.start_again().await;
    let _overlay = instance.overlay(&ada).await;
    eventually("the chat is read as the other bot alone", async || {
        readers(&stage) == BTreeSet::from([OTHER_BOT.to_owned()]) && enabled(&stage, ADA).len() == 6
    })
    .await;
    chat_votes(&stage, &instance, &ada).await;
}

/// As whom Ada's chat is read.
fn readers(stage: &Stage) -> BTreeSet<String> {
    of_chat(stage, ADA).iter().filter_map(|found| found.condition.get("user_id").cloned()).collect()
}

#[tokio::test]
async fn what_a_moderator_commands_while_postgresql_is_away_is_done_when_it_is_back() {
    let stage = Stage::set().await;
    stage.platform.add_user(Account::new(MODERATOR, "moderator")).unwrap();
    stage.platform.set_moderator(ADA, MODERATOR, true).unwrap();
    let mut stores = Stores::migrated().await;
    let proxy = Proxy::before(&stores.app_url, 1);
    stores.app_url = proxy.url(&stores.app_url);
    let instance = stage.instance_on(stores, &[]).await;
    stage.sign_in_bot(&instance).await;
    let ada = ada(&stage, &instance).await;
    let mut overlay = instance.overlay(&ada).await;
    chat_is_connected(&stage).await;
    chat_votes(&stage, &instance, &ada).await;
    assert_eq!(overlay.next_frame("sentiment").await["for"], 1);
    let refused = async || {
        let metrics = instance.metrics().await;
        metrics.get("chatpulse_webhook_requests_total{outcome=\"unavailable\"}").copied().unwrap_or_default()
    };
    let before = refused().await;
    proxy.set(Mode::Cut);
    stage.say(ADA, MODERATOR, "!pulse reset");
    eventually("Twitch is asked to deliver it again", async || refused().await > before).await;
    proxy.heal();
    assert_eq!(overlay.next_frame("reset").await["for"], 0);
    let question = "SELECT count(*) FROM chatpulse.events WHERE type = 'SentimentReset'";
    let count = instance.sql().await.query_one(question, &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(count, 1, "and only once");
}

#[tokio::test]
async fn an_end_that_is_told_before_the_beginning_was_noted_is_not_missed() {
    let stage = Stage::set().await;
    let (instance, ada, _overlay) = watched(&stage, &[]).await;
    chat_is_connected(&stage).await;
    let sql = instance.sql().await;
    let known =
        "SELECT subscription_id FROM chatpulse.eventsub_subscriptions WHERE type = $1 AND status = 'enabled'";
    eventually("it is noted", async || sql.query_opt(known, &[&CHAT]).await.unwrap().is_some()).await;
    let id: String = sql.query_one(known, &[&CHAT]).await.unwrap().get(0);
    // As if the one who has made it had been held up before noting so.
    let held_up = "UPDATE chatpulse.eventsub_subscriptions
                   SET status = 'requested', subscription_id = NULL, due_at = clock_timestamp() + interval '1 h'
                   WHERE subscription_id = $1";
    sql.execute(held_up, &[&id]).await.unwrap();
    stage.platform.revoke_subscription(&id, "notification_failures_exceeded").unwrap();
    eventually("its end is told", async || {
        instance.metrics().await["chatpulse_webhook_requests_total{outcome=\"revocation\"}"] == 1.0
    })
    .await;
    let noted = "UPDATE chatpulse.eventsub_subscriptions SET status = 'enabled', subscription_id = $1 WHERE type = $2";
    sql.execute(noted, &[&id, &CHAT]).await.unwrap();
    eventually("there is another one", async || enabled(&stage, ADA).contains(CHAT)).await;
    chat_votes(&stage, &instance, &ada).await;
}

#[tokio::test]
async fn a_conduit_that_is_gone_is_made_again_with_all_that_came_through_it() {
    let stage = Stage::set().await;
    let (instance, ada, _overlay) = watched(&stage, &[]).await;
    chat_is_connected(&stage).await;
    let conduit = stage.platform.shards()[0].conduit_id.clone();
    stage.platform.drop_conduit(&conduit).unwrap();
    eventually("the chat is subscribed to by another conduit", async || {
        let all = stage.platform.subscriptions();
        all.iter().any(|found| found.kind == CHAT && found.status == "enabled" && found.conduit_id != conduit)
    })
    .await;
    eventually("its shard works", async || {
        let shards = stage.platform.shards();
        shards.iter().any(|shard| shard.status == "enabled" && shard.conduit_id != conduit)
    })
    .await;
    chat_votes(&stage, &instance, &ada).await;
}

#[tokio::test]
async fn a_shard_that_twitch_disabled_is_led_here_again() {
    let stage = Stage::set().await;
    let (instance, ada, _overlay) = watched(&stage, &[("CHATPULSE_TWITCH__CONDUIT_SHARDS", "2")]).await;
    chat_is_connected(&stage).await;
    let conduit = stage.platform.shards()[0].conduit_id.clone();
    stage.platform.disable_shard(&conduit, 0).unwrap();
    eventually("it is enabled again", async || {
        let shards = stage.platform.shards();
        shards.len() == 2 && shards.iter().all(|shard| shard.status == "enabled")
    })
    .await;
    chat_votes(&stage, &instance, &ada).await;
}

#[tokio::test]
async fn without_the_bots_authorization_the_dashboard_says_what_is_missing_and_signing_in_mends_it() {
    let stage = Stage::set().await;
    let instance = stage.instance(&[]).await;
    let visitor = Visitor::new();
    visitor.sign_in(&stage.public_url, ADA).await;
    let ada = ada(&stage, &instance).await;
    let _overlay = instance.overlay(&ada).await;
    let dashboard = format!("{}/dashboard", stage.public_url);
    eventually("the dashboard says so", async || {
        let page = visitor.get(&dashboard).await.body;
        page.contains("sign in again") || page.contains("Sign in again")
    })
    .await;
    assert!(!enabled(&stage, ADA).contains(CHAT));
    stage.sign_in_bot(&instance).await;
    chat_is_connected(&stage).await;
    eventually("the dashboard says that it works", async || {
        visitor.get(&dashboard).await.body.contains("Chat is connected")
    })
    .await;
    chat_votes(&stage, &instance, &ada).await;
}

#[tokio::test]
async fn what_nobody_watches_any_more_is_unsubscribed_from() {
    let stage = Stage::set().await;
    let settings = [("CHATPULSE_TWITCH__KEEP_SECONDS", "0"), ("CHATPULSE_SESSION__ORPHAN_SECONDS", "1")];
    let (_instance, _ada, overlay) = watched(&stage, &settings).await;
    eventually("all is subscribed to", async || enabled(&stage, ADA).len() == 6).await;
    drop(overlay);
    eventually("nothing is", async || enabled(&stage, ADA).is_empty()).await;
}

#[tokio::test]
async fn another_instance_takes_over_what_one_did_for_all() {
    let stage = Stage::set().await;
    let (mut first, ada, _overlay) = watched(&stage, &[]).await;
    chat_is_connected(&stage).await;
    let elsewhere = [("CHATPULSE_HTTP__BIND", "127.0.0.1:0")];
    let second = stage.instance_on(first.stores.shared(), &elsewhere).await;
    first.kill();
    let bob = second.streamer(&["yes"], &["no"]).await;
    let account = Account::new(bob.twitch_id.clone(), "bob2");
    stage.platform.add_user(account).unwrap();
    stage.platform.grant(&bob.twitch_id, &["channel:bot"]).unwrap();
    let _overlay = second.overlay(&bob).await;
    eventually("the other one subscribes", async || enabled(&stage, &bob.twitch_id).contains(CHAT)).await;
    drop(ada);
}

#[tokio::test]
async fn chat_votes_over_a_websocket_where_twitch_can_not_reach_us() {
    let stage = Stage::set().await;
    let (instance, ada, _overlay) = watched(&stage, &[("CHATPULSE_TWITCH__TRANSPORT", "websocket")]).await;
    chat_is_connected(&stage).await;
    chat_votes(&stage, &instance, &ada).await;
    assert_eq!(stage.platform.reconnect_sockets(), 1);
    for _ in 0..5 {
        chat_votes_by_anybody(&stage, &instance, &ada).await;
    }
    let before = stage.platform.shards()[0].session_id.clone();
    stage.platform.cut_sockets();
    eventually("the shard has another session", async || {
        let shards = stage.platform.shards();
        shards.iter().any(|shard| shard.status == "enabled" && shard.session_id != before)
    })
    .await;
    chat_votes_by_anybody(&stage, &instance, &ada).await;
}

/// As `chat_votes`, by a viewer who has not voted yet: nobody votes twice a second.
async fn chat_votes_by_anybody(stage: &Stage, instance: &Instance, ada: &Streamer) {
    let viewer = (uuid::Uuid::new_v4().as_u128() % 1_000_000_000_000).to_string();
    let message = stage.say(ADA, &viewer, "no");
    eventually("the vote is journaled", async || instance.voted(ada).await.contains(&message)).await;
}

#[tokio::test]
async fn another_instance_takes_over_the_websocket_of_one_that_died() {
    let stage = Stage::set().await;
    let websocket = ("CHATPULSE_TWITCH__TRANSPORT", "websocket");
    let (mut first, ada, _overlay) = watched(&stage, &[websocket]).await;
    chat_is_connected(&stage).await;
    chat_votes(&stage, &first, &ada).await;
    let elsewhere = [("CHATPULSE_HTTP__BIND", "127.0.0.1:0"), websocket];
    let second = stage.instance_on(first.stores.shared(), &elsewhere).await;
    let _overlay = second.overlay(&ada).await;
    let before = stage.platform.shards()[0].session_id.clone();
    first.kill();
    eventually("the shard has another session", async || {
        let shards = stage.platform.shards();
        shards.iter().any(|shard| shard.status == "enabled" && shard.session_id != before)
    })
    .await;
    chat_votes_by_anybody(&stage, &second, &ada).await;
}

#[tokio::test]
async fn a_token_of_the_application_that_twitch_forgot_is_replaced() {
    let stage = Stage::set().await;
    let (_instance, _ada, _overlay) = watched(&stage, &[]).await;
    chat_is_connected(&stage).await;
    stage.platform.expire_access(None);
    let conduit = stage.platform.shards()[0].conduit_id.clone();
    stage.platform.disable_shard(&conduit, 0).unwrap();
    eventually("the shard is enabled again", async || {
        stage.platform.shards().iter().all(|shard| shard.status == "enabled")
    })
    .await;
}
