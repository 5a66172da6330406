//! What viewers and moderators can say to the bot, and who does not vote.

use chatpulse::twitch::simulator::platform::Say;

use crate::support::eventually;
use crate::support::instance::Instance;
use crate::support::overlay::Overlay;
use crate::support::platform::{ADA, Stage, VIEWER, Visitor};

const MODERATOR: &str = "700000002";

/// An instance with the bot and Ada signed in, an overlay of hers, and a moderator in her chat.
async fn watched(settings: &[(&str, &str)]) -> (Stage, Instance, Overlay) {
    let stage = Stage::set().await;
    let account = chatpulse::twitch::simulator::platform::Account::new(MODERATOR, "moderator");
    stage.platform.add_user(account).unwrap();
    stage.platform.set_moderator(ADA, MODERATOR, true).unwrap();
    let instance = stage.instance(settings).await;
    stage.sign_in_bot(&instance).await;
    Visitor::new().sign_in(&stage.public_url, ADA).await;
    let overlay = stage.overlay_of(&instance, ADA).await;
    eventually("the chat is subscribed to", async || {
        let all = stage.platform.subscriptions();
        all.iter().any(|found| found.kind == "channel.chat.message" && found.status == "enabled")
    })
    .await;
    (stage, instance, overlay)
}

fn said(stage: &Stage) -> Vec<String> {
    stage.platform.sent().into_iter().map(|sent| sent.text).collect()
}

async fn is_said(stage: &Stage, part: &str) {
    eventually(part, async || said(stage).iter().any(|text| text.contains(part))).await;
}

#[tokio::test]
async fn whoever_asks_is_told_the_mood() {
    let (stage, _instance, mut overlay) = watched(&[]).await;
    stage.say(ADA, VIEWER, "yes");
    assert_eq!(overlay.next_frame("sentiment").await["for"], 1);
    stage.say(ADA, VIEWER, "!PULSE");
    is_said(&stage, "(1 Yes, 0 No)").await;
    let sent = stage.platform.sent();
    assert_eq!(sent.len(), 1, "{sent:?}");
}

#[tokio::test]
async fn a_moderator_puts_the_bar_back_and_a_viewer_does_not() {
    let (stage, _instance, mut overlay) = watched(&[]).await;
    stage.say(ADA, VIEWER, "yes");
    assert_eq!(overlay.next_frame("sentiment").await["for"], 1);
    stage.say(ADA, VIEWER, "!pulse reset");
    stage.say(ADA, MODERATOR, "!pulse reset");
    assert_eq!(overlay.next_frame("reset").await["for"], 0);
    is_said(&stage, "back in the middle").await;
    assert_eq!(said(&stage).len(), 1, "the viewer is not answered");
}

#[tokio::test]
async fn while_votes_are_paused_nobody_votes() {
    let (stage, instance, mut overlay) = watched(&[]).await;
    stage.say(ADA, MODERATOR, "!pulse pause");
    is_said(&stage, "paused").await;
    stage.say(ADA, VIEWER, "yes");
    eventually("the vote is ignored", async || {
        instance.metrics().await.get("chatpulse_votes_total{result=\"ignored\"}") == Some(&1.0)
    })
    .await;
    stage.say(ADA, MODERATOR, "!pulse resume");
    eventually("votes count again", async || {
        let viewer = (uuid::Uuid::new_v4().as_u128() % 1_000_000_000_000).to_string();
        stage.say(ADA, &viewer, "yes");
        !instance.voted(&stage.streamer(&instance, ADA).await).await.is_empty()
    })
    .await;
    overlay.frames_until_votes(1).await;
}

#[tokio::test]
async fn a_deleted_message_and_a_banned_viewer_have_not_voted() {
    let (stage, instance, _overlay) = watched(&[]).await;
    eventually("all is subscribed to", async || {
        stage.platform.subscriptions().iter().filter(|found| found.status == "enabled").count() >= 6
    })
    .await;
    let deleted = stage.say(ADA, VIEWER, "yes");
    stage.say(ADA, MODERATOR, "yes");
    stage.say(ADA, "700000003", "no");
    let sql = instance.sql().await;
    let counts = async || {
        let row =
            sql.query_one("SELECT for_count, against_count FROM chatpulse.sessions", &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    eventually("all have voted", async || counts().await == (2, 1)).await;
    stage.platform.delete_message(&deleted).unwrap();
    eventually("the message's vote is gone", async || counts().await == (1, 1)).await;
    stage.platform.clear_user(ADA, "700000003").unwrap();
    eventually("the viewer's vote is gone", async || counts().await == (1, 0)).await;
    let question = "SELECT count(*) FROM chatpulse.events WHERE type = 'VotesRetracted'";
    assert_eq!(sql.query_one(question, &[]).await.unwrap().get::<_, i64>(0), 2);
}

#[tokio::test]
async fn ignored_users_and_other_channels_do_not_vote() {
    let (stage, instance, _overlay) = watched(&[("CHATPULSE_CHAT__IGNORED_USERS", "@Viewer")]).await;
    stage.say(ADA, VIEWER, "yes");
    let mut shared = Say::new(ADA, "700000009", "yes");
    shared.source_broadcaster_id = Some("800000009".into());
    stage.platform.say(&shared).unwrap();
    let counted = stage.say(ADA, MODERATOR, "yes");
    let streamer = stage.streamer(&instance, ADA).await;
    eventually("the moderator's vote is journaled", async || {
        instance.voted(&streamer).await == [counted.clone()]
    })
    .await;
    eventually("the others are counted as ignored", async || {
        instance.metrics().await.get("chatpulse_votes_total{result=\"ignored\"}") == Some(&2.0)
    })
    .await;
    assert_eq!(instance.voted(&streamer).await, [counted]);
}

#[tokio::test]
async fn votes_of_a_shared_chat_count_where_the_operator_wants_them_to() {
    let (stage, instance, _overlay) = watched(&[("CHATPULSE_CHAT__COUNT_SHARED", "yes")]).await;
    let mut shared = Say::new(ADA, VIEWER, "yes");
    shared.source_broadcaster_id = Some("800000009".into());
    let message = stage.platform.say(&shared).unwrap();
    let streamer = stage.streamer(&instance, ADA).await;
    eventually("it is journaled", async || instance.voted(&streamer).await == [message.clone()]).await;
}
