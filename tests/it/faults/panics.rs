//! A panic in one session touches no other, and the session is rebuilt.

use std::time::Duration;

use uuid::Uuid;

use super::deliver;
use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::instance::Streamer;
use crate::support::twitch::Chat;
use crate::support::within;

/// A session actor that gets a vote with such a message id panics, in a build for tests.
const PANIC: (&str, &str) = ("PANIC_ON_MESSAGE", "deadbeef");
/// Restarts of one session are counted for this long.
const FORGIVEN_WITHIN: Duration = Duration::from_secs(90);

/// A vote that its session does not survive.
fn deadly(streamer: &Streamer) -> Chat {
    let message_id = Uuid::new_v4().to_string();
    Chat { message_id: format!("deadbeef{}", &message_id[8..]), ..Chat::new(&streamer.twitch_id, "yes") }
}

#[tokio::test]
async fn a_panic_in_one_session_touches_no_other_and_the_session_is_rebuilt() {
    let cluster = Cluster::on_shared(1, &[PANIC]).await;
    let node = &cluster.nodes[0];
    let (hit, spared) = (cluster.streamer().await, cluster.streamer().await);
    let (hit_overlay, spared_overlay) = (node.watch(&hit).await, node.watch(&spared).await);
    let before = node.vote(&hit, "yes").await;
    let answer = deliver(node, &deadly(&hit)).await;
    assert!([204, 503].contains(&answer.status), "{answer:?}");
    node.vote(&spared, "yes").await;
    cluster.await_shown(&spared, &[&spared_overlay]).await;
    assert!(spared_overlay.closes().is_empty());

    eventually("the death was noticed", async || node.metric("chatpulse_actor_restarts_total").await >= 1.0)
        .await;
    eventually("the session takes votes again", async || {
        deliver(node, &Chat::new(&hit.twitch_id, "yes")).await.status == 204
    })
    .await;
    cluster.await_shown(&hit, &[&hit_overlay]).await;
    cluster.await_journaled(&hit, &[before]).await;
    assert_eq!(node.readiness().await.1["status"], "ready");
    assert_eq!(cluster.ends(&hit).await, 0);
}

#[tokio::test]
async fn a_session_that_panics_again_and_again_is_left_alone_for_a_while_and_others_go_on() {
    let cluster = Cluster::on_shared(1, &[PANIC]).await;
    let node = &cluster.nodes[0];
    let (hit, spared) = (cluster.streamer().await, cluster.streamer().await);
    let (hit_overlay, spared_overlay) = (node.watch(&hit).await, node.watch(&spared).await);
    let poison = deadly(&hit);
    let mut restarts = Vec::new();
    for _ in 0..20 {
        // As Twitch does, which knows nothing of its message's deadliness.
        deliver(node, &poison).await;
        node.vote(&spared, "yes").await;
        restarts.push(node.metric("chatpulse_actor_restarts_total").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let restarted = restarts.last().unwrap();
    assert!((1.0..20.0).contains(restarted), "restarts are counted, and have a limit: {restarts:?}");
    cluster.await_shown(&spared, &[&spared_overlay]).await;
    assert!(spared_overlay.closes().is_empty());
    within(FORGIVEN_WITHIN, "the session takes votes again", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        deliver(node, &Chat::new(&hit.twitch_id, "no")).await.status == 204
    })
    .await;
    within(FORGIVEN_WITHIN, "and shows them", async || {
        let head = cluster.head(&hit).await;
        hit_overlay.is_open() && hit_overlay.shown().is_some_and(|shown| shown.version == head.shown.version)
    })
    .await;
}
