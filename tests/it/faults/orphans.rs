//! A session that nobody watches goes on for a while, and ends once.

use std::collections::HashSet;
use std::time::Duration;

use chatpulse::hot::keys;
use deadpool_redis::redis::cmd;
use rand::RngExt;
use serde_json::Value;

use super::{cache, mirrored, refs};
use crate::support::cluster::Cluster;
use crate::support::eventually;
use crate::support::within;

const ORPHAN: &str = "CHATPULSE_SESSION__ORPHAN_SECONDS";
/// The orphan time, and a sweep over all sessions.
const ENDED_WITHIN: Duration = Duration::from_secs(45);

#[tokio::test]
async fn a_session_resumed_in_time_keeps_its_value_and_counts() {
    let cluster = Cluster::on_shared(2, &[(ORPHAN, "60")]).await;
    let streamer = cluster.streamer().await;
    let overlay = cluster.nodes[0].watch(&streamer).await;
    cluster.nodes[0].vote(&streamer, "yes").await;
    cluster.nodes[1].vote(&streamer, "yes").await;
    cluster.nodes[1].vote(&streamer, "no").await;
    cluster.await_shown(&streamer, &[&overlay]).await;
    let before = cluster.head(&streamer).await;
    assert_eq!(refs(&cluster, &streamer).await, HashSet::from([cluster.nodes[0].id]));
    let admin = cluster.nodes[0].admin();
    let live = admin.session(&streamer).await.expect("it is live");
    assert_eq!((live["holders"].as_i64(), live.get("last_disconnect")), (Some(1), None), "{live}");

    drop(overlay);
    eventually("nobody is counted, and since when", async || {
        refs(&cluster, &streamer).await.is_empty()
            && !mirrored(&cluster, &streamer, "last_disconnect").await.is_empty()
    })
    .await;
    for node in &cluster.nodes {
        eventually("the admin API tells it too", async || {
            let session = node.admin().session(&streamer).await.unwrap_or(Value::Null);
            session["holders"] == 0 && session["last_disconnect"].is_i64()
        })
        .await;
    }
    // The session goes on meanwhile.
    cluster.nodes[1].vote(&streamer, "yes").await;

    let overlay = cluster.nodes[1].watch(&streamer).await;
    cluster.await_shown(&streamer, &[&overlay]).await;
    let after = cluster.head(&streamer).await;
    assert_eq!((after.session_id, after.shown.votes), (before.session_id, (3, 1)));
    assert_eq!(overlay.shown().unwrap().votes, (3, 1));
    eventually("the new holder is counted", async || {
        refs(&cluster, &streamer).await == HashSet::from([cluster.nodes[1].id])
            && mirrored(&cluster, &streamer, "last_disconnect").await.is_empty()
    })
    .await;
    assert_eq!(cluster.ends(&streamer).await, 0);
}

#[tokio::test]
async fn a_session_that_nobody_resumes_ends_once_and_leaves_no_keys() {
    let cluster = Cluster::on_shared(2, &[(ORPHAN, "2")]).await;
    let streamer = cluster.streamer().await;
    for ends in 1..=2 {
        let overlay = cluster.nodes[0].watch(&streamer).await;
        cluster.nodes[1].vote(&streamer, "yes").await;
        cluster.await_shown(&streamer, &[&overlay]).await;
        assert_eq!(overlay.shown().unwrap().votes, (1, 0), "a new session begins at rest");
        drop(overlay);
        within(ENDED_WITHIN, "the session ends", async || cluster.ends(&streamer).await == ends).await;
        assert_eq!(cluster.holders(&streamer).await, None);
        eventually("Redis forgets it", async || {
            let keys = [keys::session(streamer.id), keys::refs(streamer.id)];
            let orphans = keys::orphans(keys::Bucket::of(streamer.id));
            let orphan: Option<f64> =
                cache(&cluster, cmd("ZSCORE").arg(orphans).arg(streamer.id.to_string())).await;
            cache::<i64>(&cluster, cmd("EXISTS").arg(&keys[..])).await == 0 && orphan.is_none()
        })
        .await;
        assert!(cluster.nodes[0].admin().session(&streamer).await.is_none());
        assert_eq!(cluster.metric("chatpulse_orphans_ended_total").await, ends as f64);
    }
    let unwatched = cluster.nodes[0].vote(&streamer, "yes").await;
    assert!(!cluster.journaled(&streamer).await.contains(&unwatched), "no session, nothing stored");
}

#[tokio::test]
async fn a_watched_session_never_ends_however_overlays_come_and_go() {
    let cluster = Cluster::on_shared(2, &[(ORPHAN, "1")]).await;
    let streamer = cluster.streamer().await;
    let mut overlays = vec![cluster.nodes[0].watch(&streamer).await];
    let first = cluster.head(&streamer).await.session_id;
    // Handed from one to the other, so that one is always there.
    for _ in 0..40 {
        let place = rand::rng().random_range(0..2);
        let next = cluster.nodes[place].watch(&streamer).await;
        cluster.nodes[1 - place].vote(&streamer, "yes").await;
        overlays.push(next);
        while overlays.len() > rand::rng().random_range(1..3) {
            overlays.remove(0);
        }
    }
    let last = overlays.last().unwrap();
    cluster.await_shown(&streamer, &[last]).await;
    let head = cluster.head(&streamer).await;
    assert_eq!((head.session_id, head.shown.votes, head.ended), (first, (40, 0), false));
    drop(overlays);
    within(ENDED_WITHIN, "the session ends", async || cluster.ends(&streamer).await == 1).await;
}

#[tokio::test]
async fn a_flush_neither_ends_a_watched_session_nor_keeps_an_unwatched_one() {
    let cluster = Cluster::on_shared(2, &[(ORPHAN, "3")]).await;
    let (watched, left) = (cluster.streamer().await, cluster.streamer().await);
    let overlay = cluster.nodes[0].watch(&watched).await;
    drop(cluster.nodes[1].watch(&left).await);
    eventually("nobody is counted", async || refs(&cluster, &left).await.is_empty()).await;
    cache::<()>(&cluster, &cmd("FLUSHDB")).await;
    within(ENDED_WITHIN, "the unwatched session ends", async || cluster.ends(&left).await == 1).await;
    cluster.nodes[1].vote(&watched, "yes").await;
    cluster.await_shown(&watched, &[&overlay]).await;
    assert_eq!(cluster.ends(&watched).await, 0);
}
