//! `chatpulse doctor`: what it finds, what it says to do about it, and its exit code.

use crate::support::eventually;
use crate::support::instance::{Ended, Instance, Stores, program};
use crate::support::overlay::Overlay;
use crate::support::platform::{ADA, BOT, CLIENT_SECRET, Stage, Visitor};
use crate::support::ports::free_port;
use crate::support::twitch::SECRET;

const BOT_SIGN_IN: &str = "run `chatpulse bot sign-in`";

/// Runs the doctor with the settings that an instance on this stage has, and changes of them.
async fn doctor(stage: &Stage, stores: &Stores, changes: &[(&str, &str)]) -> Ended {
    let own = stage.settings();
    let all: Vec<(&str, &str)> = own
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .chain(changes.iter().copied())
        .collect();
    program(&["doctor"], &stores.environment(&all)).await
}

/// Whether one line says this of this part as a problem, and the next what to do.
fn is_told(ended: &Ended, said: &str, remedy: &str) -> bool {
    let lines: Vec<&str> = ended.stdout.lines().collect();
    let is_problem = |line: &str| line.contains("problem  ") && line.contains(said);
    lines.windows(2).any(|pair| is_problem(pair[0]) && pair[1].contains(remedy))
}

/// Requires a problem with what to do, the exit code for that, and no secret in it.
fn assert_told(ended: &Ended, said: &str, remedy: &str) {
    assert!(is_told(ended, said, remedy), "{said:?} and {remedy:?} in\n{}", ended.stdout);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(ended.stderr.trim_end(), "not everything is in order", "{ended:?}");
    let last = ended.stdout.lines().last().unwrap_or_default();
    assert!(last.contains("problem"), "{ended:?}");
    assert_keeps_secrets(ended);
}

fn assert_keeps_secrets(ended: &Ended) {
    let (session_key, encryption_key) = ("5e".repeat(32), "e0".repeat(32));
    for secret in [CLIENT_SECRET, SECRET, session_key.as_str(), encryption_key.as_str()] {
        assert!(!ended.stdout.contains(secret) && !ended.stderr.contains(secret), "{secret} in {ended:?}");
    }
}

/// An instance with the bot and Ada signed in and an overlay of hers, where all works.
async fn at_work(stage: &Stage, settings: &[(&str, &str)]) -> (Instance, Overlay) {
    let instance = stage.instance(settings).await;
    stage.sign_in_bot(&instance).await;
    Visitor::new().sign_in(&stage.public_url, ADA).await;
    let overlay = stage.overlay_of(&instance, ADA).await;
    let subscribed = async || is_subscribed_to(stage, "channel.chat.message");
    eventually("the chat is subscribed to", subscribed).await;
    (instance, overlay)
}

async fn twitch_would_tell_of_a_withdrawal(stage: &Stage) {
    let subscribed = async || is_subscribed_to(stage, "user.authorization.revoke");
    eventually("Twitch would tell of a withdrawal", subscribed).await;
}

fn is_subscribed_to(stage: &Stage, kind: &str) -> bool {
    stage.platform.subscriptions().iter().any(|found| found.kind == kind && found.status == "enabled")
}

#[tokio::test]
async fn where_all_is_well_the_doctor_says_so() {
    let stage = Stage::set().await;
    let (instance, _overlay) = at_work(&stage, &[]).await;
    let mut ended = doctor(&stage, &instance.stores, &[]).await;
    // What the instance has just begun may not be through yet.
    eventually("nothing is wrong", async || {
        ended = doctor(&stage, &instance.stores, &[]).await;
        ended.code == Some(0)
    })
    .await;
    assert_eq!(ended.stderr, "", "{ended:?}");
    let last = ended.stdout.lines().last().unwrap_or_default();
    assert!(last == "everything is in order" || last.starts_with("nothing is wrong"), "{ended:?}");
    let callback = format!("leading to {}/webhooks/eventsub", stage.public_url);
    for good in [
        "it answers, and takes the client id and secret",
        "signed in as pulse_bot, with all permissions",
        "the schema has what this release needs",
        "is answered by ChatPulse",
        "reaches ChatPulse, which refuses what Twitch has not signed",
        "running: 1",
        "looks after the conduit and subscriptions",
        "streamers with a valid token: 1",
        callback.as_str(),
    ] {
        let line = ended.stdout.lines().find(|line| line.contains(good));
        assert!(line.is_some_and(|line| line.contains("  ok ")), "{good:?} in\n{}", ended.stdout);
    }
    assert_keeps_secrets(&ended);
}

#[tokio::test]
async fn where_all_is_well_over_websockets_the_doctor_says_so() {
    let stage = Stage::set().await;
    let websocket = [("CHATPULSE_TWITCH__TRANSPORT", "websocket")];
    let (instance, _overlay) = at_work(&stage, &websocket).await;
    eventually("nothing is wrong", async || {
        let ended = doctor(&stage, &instance.stores, &websocket).await;
        ended.code == Some(0) && ended.stdout.contains("leading to sessions of instances")
    })
    .await;
}

#[tokio::test]
async fn a_bot_that_has_not_signed_in_is_told() {
    let stage = Stage::set().await;
    let instance = stage.instance(&[]).await;
    let ended = doctor(&stage, &instance.stores, &[]).await;
    assert_told(&ended, "it has not signed in, so no chat can be read", BOT_SIGN_IN);
    let link = "and open the link that it prints";
    assert!(ended.stdout.contains(link), "{ended:?}");
}

#[tokio::test]
async fn a_wrong_client_secret_is_told() {
    let (stage, stores) = (Stage::set().await, Stores::migrated().await);
    let wrong = "a-secret-that-is-not-the-one";
    let ended = doctor(&stage, &stores, &[("CHATPULSE_TWITCH__CLIENT_SECRET", wrong)]).await;
    let said = "it refuses twitch.client_id or twitch.client_secret (403: invalid client secret)";
    assert_told(&ended, said, "copy both again from dev.twitch.tv/console/apps");
    assert!(!ended.stdout.contains(wrong), "{ended:?}");
    // What needs the application is left out, and nothing else.
    assert!(ended.stdout.contains("not looked at, because the application can't be used"), "{ended:?}");
    assert!(ended.stdout.contains("the schema has what this release needs"), "{ended:?}");
}

#[tokio::test]
async fn a_bot_whose_authorization_was_withdrawn_is_told_before_and_after_an_instance_knows() {
    let stage = Stage::set().await;
    let (mut instance, _overlay) = at_work(&stage, &[]).await;
    twitch_would_tell_of_a_withdrawal(&stage).await;
    stage.platform.revoke(BOT);
    eventually("its sign-in has ended", async || {
        let ended = doctor(&stage, &instance.stores, &[]).await;
        is_told(&ended, "its sign-in has ended: the authorization was withdrawn", BOT_SIGN_IN)
    })
    .await;

    stage.sign_in_bot(&instance).await;
    // Nobody is there to be told.
    instance.kill();
    stage.platform.revoke(BOT);
    let ended = doctor(&stage, &instance.stores, &[]).await;
    assert_told(&ended, "Twitch does not accept its token any more", BOT_SIGN_IN);
}

#[tokio::test]
async fn a_streamer_whose_authorization_was_withdrawn_is_told_with_where_to_sign_in() {
    let stage = Stage::set().await;
    let (instance, _overlay) = at_work(&stage, &[]).await;
    twitch_would_tell_of_a_withdrawal(&stage).await;
    stage.platform.revoke(ADA);
    let remedy = format!("have the streamer sign in again at {}/auth/login", stage.public_url);
    eventually("the chat can't be read", async || {
        let ended = doctor(&stage, &instance.stores, &[]).await;
        let sign_in = ended.stdout.contains("streamers whose sign-in has ended: 1 of 1 (ada)");
        sign_in && is_told(&ended, "chats that can't be read: ada", &remedy) && ended.code == Some(1)
    })
    .await;
}

#[tokio::test]
async fn each_part_that_is_away_is_told_with_the_setting_to_look_at() {
    let (stage, stores) = (Stage::set().await, Stores::migrated().await);
    let nobody = format!("127.0.0.1:{}", free_port());
    let database = format!("postgres://somebody:hunter2hunter2@{nobody}/chatpulse");
    let redis = format!("redis://{nobody}/0");
    let twitch = format!("http://{nobody}/oauth2");
    for (key, value, said, remedy) in [
        ("DATABASE_URL", &database, "PostgreSQL can't be reached", "that database.url is right"),
        ("REDIS_URL", &redis, "cache and sessions: ", "check redis.url"),
        ("RATE_LIMIT_REDIS_URL", &redis, "rate limits: ", "check redis.rate_limit_url"),
        ("MESSAGE_QUEUE_REDIS_URL", &redis, "queue: ", "check redis.queue_url"),
        (
            "CHATPULSE_TWITCH__OAUTH_URL",
            &twitch,
            "Twitch can't be reached",
            "check that this machine can connect to twitch.helix_url and twitch.oauth_url",
        ),
    ] {
        let ended = doctor(&stage, &stores, &[(key, value.as_str())]).await;
        assert_told(&ended, said, remedy);
        assert!(!ended.stdout.contains("hunter2"), "{ended:?}");
    }
    let ended = doctor(&stage, &stores, &[("DATABASE_URL", database.as_str())]).await;
    assert!(ended.stdout.contains("not looked at, because PostgreSQL is not ready"), "{ended:?}");
    assert!(ended.stdout.contains("it answers, and takes the client id and secret"), "{ended:?}");
}

#[tokio::test]
async fn a_database_without_the_schema_is_told() {
    let (stage, stores) = (Stage::set().await, Stores::fresh().await);
    let ended = doctor(&stage, &stores, &[]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("chatpulse migrate"), "{ended:?}");
}

#[tokio::test]
async fn a_public_address_that_leads_elsewhere_is_told() {
    let stage = Stage::set().await;
    let (instance, _overlay) = at_work(&stage, &[]).await;
    // There the simulated Twitch answers, which has no such pages.
    let elsewhere = stage.platform.helix_url();
    let elsewhere = elsewhere.trim_end_matches("/helix");
    let public_url = |url| [("CHATPULSE_HTTP__PUBLIC_URL", url)];
    let ended = doctor(&stage, &instance.stores, &public_url(elsewhere)).await;
    let remedy = "have the proxy in front pass all paths and methods on to http.bind";
    assert_told(&ended, "/health/live leads nowhere (404)", remedy);
    assert_told(&ended, "/webhooks/eventsub leads nowhere (404)", remedy);
    let shard = format!("leads to {}/webhooks/eventsub", stage.public_url);
    assert!(is_told(&ended, &shard, "restart the instances if http.public_url"), "{}", ended.stdout);

    let nobody = format!("http://127.0.0.1:{}", free_port());
    let ended = doctor(&stage, &instance.stores, &public_url(&nobody)).await;
    assert_told(&ended, "can't be reached", "check that `chatpulse serve` runs");

    let plain = "http://pulse.example.invalid";
    let ended = doctor(&stage, &instance.stores, &public_url(plain)).await;
    assert_told(&ended, "without https nobody can sign in", "set http.public_url to an https address");
}

#[tokio::test]
async fn settings_that_are_missing_are_told_with_their_variables() {
    let (stage, stores) = (Stage::set().await, Stores::migrated().await);
    let empty = [("CHATPULSE_TWITCH__BOT_USER_ID", ""), ("CHATPULSE_SECURITY__ENCRYPTION_KEYS", "")];
    let ended = doctor(&stage, &stores, &empty).await;
    let bot = "twitch.bot_user_id is not set: there is no account to read chats as";
    assert_told(&ended, bot, "set CHATPULSE_TWITCH__BOT_USER_ID");
    let keys = "security.encryption_keys is not set: no token can be stored";
    assert_told(&ended, keys, "set CHATPULSE_SECURITY__ENCRYPTION_KEYS");
}
