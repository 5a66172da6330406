//! A change made through one instance is seen on all, whatever part is away.

use std::time::Duration;

use chatpulse::hot::keys;
use deadpool_redis::redis::cmd;
use serde_json::json;

use super::{Deafness, cache, mirrored};
use crate::support::admin::config_with;
use crate::support::cluster::Cluster;
use crate::support::proxy::Mode;
use crate::support::within;

/// Within a tick of the answer, and what a busy machine adds.
const AT_ONCE: Duration = Duration::from_secs(1);
/// With Redis or the notifications gone.
const SOON: Duration = Duration::from_secs(10);
/// What nobody could have been told of.
const IN_THE_END: Duration = Duration::from_secs(30);

#[tokio::test]
async fn changes_through_one_instance_are_seen_on_another_at_once() {
    let cluster = Cluster::on_shared(2, &[]).await;
    changes_are_seen(&cluster, AT_ONCE).await;
}

#[tokio::test]
async fn changes_are_seen_while_redis_is_away() {
    let cluster = Cluster::on_shared(2, &[]).await;
    for node in &cluster.nodes {
        node.redis.set(Mode::Cut);
    }
    changes_are_seen(&cluster, SOON).await;
}

#[tokio::test]
async fn changes_are_seen_while_notifications_are_lost() {
    let cluster = Cluster::on_shared(2, &[]).await;
    let _deafness = Deafness::begin(&cluster).await;
    changes_are_seen(&cluster, SOON).await;
}

/// Changes settings, resets, rotates and disables through the first instance.
async fn changes_are_seen(cluster: &Cluster, promised: Duration) {
    let streamer = cluster.streamer().await;
    let (here, there) = (cluster.nodes[0].watch(&streamer).await, cluster.nodes[1].watch(&streamer).await);
    let admin = cluster.nodes[0].admin();
    let path = format!("/streamers/{}", streamer.id);
    cluster.nodes[1].vote(&streamer, "yes").await;
    cluster.await_shown(&streamer, &[&here, &there]).await;

    let etag = admin.get(&path).await.header("etag").to_owned();
    let words = json!({ "for_label": "Hooray", "for_triggers": ["hooray"], "against_triggers": ["no"] });
    let saved = admin.save(streamer.id, &etag, &config_with(words)).await;
    assert_eq!(saved.status, 200, "{saved:?}");
    for overlay in [&here, &there] {
        within(promised, "the label is shown", async || overlay.config()["for_label"] == "Hooray").await;
    }
    within(promised, "the new word counts on the other instance", async || {
        let id = cluster.nodes[1].vote(&streamer, "hooray").await;
        cluster.journaled(&streamer).await.contains(&id)
    })
    .await;

    let resets = (here.count("reset"), there.count("reset"));
    assert_eq!(admin.post(&format!("{path}/reset")).await.status, 200);
    cluster.await_shown_within(promised, &streamer, &[&here, &there]).await;
    assert_eq!(here.shown().unwrap().votes, (0, 0));
    assert!(here.count("reset") > resets.0 || here.count("hello") > 1, "{:#?}", here.events());
    assert!(there.count("reset") > resets.1 || there.count("hello") > 1, "{:#?}", there.events());

    let rotated = admin.post(&format!("{path}/rotate")).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    for overlay in [&here, &there] {
        within(promised, "the old URL's overlays go for good", async || {
            overlay.closes().last().is_some_and(|(_, code)| *code == 4004)
        })
        .await;
    }
    let overlay_uuid = rotated.json()["overlay_uuid"].as_str().and_then(|id| id.parse().ok()).unwrap();
    let streamer = crate::support::instance::Streamer { overlay_uuid, ..streamer };
    let (here, there) = (cluster.nodes[0].watch(&streamer).await, cluster.nodes[1].watch(&streamer).await);

    let disabled = admin.post(&format!("{path}/disable")).await;
    assert_eq!(disabled.status, 200, "{disabled:?}");
    for overlay in [&here, &there] {
        within(promised, "a disabled streamer's overlays go for good", async || {
            overlay.closes().last().is_some_and(|(_, code)| *code == 4004)
        })
        .await;
    }
    within(promised, "votes are ignored on the other instance", async || {
        let id = cluster.nodes[1].vote(&streamer, "hooray").await;
        !cluster.journaled(&streamer).await.contains(&id)
    })
    .await;
}

#[tokio::test]
async fn settings_changed_behind_the_journals_back_are_found_counted_and_shown() {
    let cluster = Cluster::on_shared(2, &[]).await;
    let streamer = cluster.streamer().await;
    let (here, there) = (cluster.nodes[0].watch(&streamer).await, cluster.nodes[1].watch(&streamer).await);
    // As long as the session's start is news, an instance may read the streamer again and come upon the change.
    let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot()) > changed FROM chatpulse.users WHERE id = $1";
    within(IN_THE_END, "all transactions since the start are over", async || {
        cluster.superuser().await.query_one(sql, &[&streamer.id]).await.unwrap().get(0)
    })
    .await;
    changes_are_seen(&cluster, IN_THE_END).await;
    let sql = "UPDATE chatpulse.configs SET version = version + 1, for_label = 'Behind'
               WHERE streamer_id = $1";
    assert_eq!(cluster.superuser().await.execute(sql, &[&streamer.id]).await.unwrap(), 1);
    for overlay in [&here, &there] {
        within(IN_THE_END, "the label is shown", async || overlay.config()["for_label"] == "Behind").await;
    }
    assert!(cluster.metric("chatpulse_config_desync_total").await >= 1.0);
}

#[tokio::test]
async fn a_mirror_that_says_something_else_is_found_counted_and_corrected() {
    let cluster = Cluster::on_shared(2, &[]).await;
    let streamer = cluster.streamer().await;
    let overlay = cluster.nodes[1].watch(&streamer).await;
    cluster.nodes[0].vote(&streamer, "yes").await;
    cluster.await_shown(&streamer, &[&overlay]).await;
    super::await_mirrored(&cluster, &streamer).await;
    let right = mirrored(&cluster, &streamer, "config_version").await;
    let mut corrupt = cmd("HSET");
    corrupt.arg(keys::session(streamer.id)).arg(&["config_version", "0", "config_json", "{}"]);
    cache::<()>(&cluster, &corrupt).await;
    within(IN_THE_END, "Redis has the right settings again", async || {
        mirrored(&cluster, &streamer, "config_version").await == right
            && mirrored(&cluster, &streamer, "config_json").await.contains("yes")
    })
    .await;
    within(IN_THE_END, "it was counted", async || {
        cluster.metric("chatpulse_config_desync_total").await >= 1.0
    })
    .await;
    cluster.await_shown(&streamer, &[&overlay]).await;
}
