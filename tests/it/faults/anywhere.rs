//! Votes anywhere, overlays anywhere.

use std::collections::HashSet;
use std::time::Duration;

use super::Deafness;
use crate::support::cluster::Cluster;
use crate::support::instance::Streamer;
use crate::support::{eventually, within};

#[tokio::test]
async fn a_vote_posted_to_one_instance_moves_an_overlay_on_another() {
    let cluster = Cluster::on_shared(2, &[]).await;
    let streamer = cluster.streamer().await;
    let there = cluster.nodes[1].watch(&streamer).await;
    for _ in 0..5 {
        cluster.nodes[0].vote(&streamer, "yes").await;
        cluster.await_shown(&streamer, &[&there]).await;
    }
    assert_eq!(there.shown().unwrap().votes, (5, 0));
    let holder = HashSet::from([cluster.nodes[1].id]);
    assert_eq!(cluster.holders(&streamer).await, Some(holder), "votes hold nothing");
}

#[tokio::test]
async fn overlays_on_all_instances_show_the_same() {
    let cluster = Cluster::on_shared(3, &[]).await;
    let streamer = cluster.streamer().await;
    let mut watchers = Vec::new();
    for node in &cluster.nodes {
        watchers.push(node.watch(&streamer).await);
    }
    let watchers: Vec<_> = watchers.iter().collect();
    for round in 0..9 {
        cluster.nodes[round % 3].vote(&streamer, if round == 4 { "no" } else { "yes" }).await;
    }
    cluster.await_shown(&streamer, &watchers).await;
    assert!(watchers.iter().all(|watcher| watcher.shown().unwrap().votes == (8, 1)));
}

#[tokio::test]
async fn a_session_started_on_one_instance_is_known_to_the_webhook_of_another_at_once() {
    let cluster = Cluster::on_shared(2, &[]).await;
    for _ in 0..5 {
        let streamer = cluster.streamer().await;
        let _overlay = cluster.nodes[0].watch(&streamer).await;
        let id = cluster.nodes[1].vote(&streamer, "yes").await;
        assert_eq!(cluster.journaled(&streamer).await, [id], "the first vote after the hello counts");
    }
}

#[tokio::test]
async fn a_session_that_was_known_not_to_be_is_known_soon_after_its_start() {
    let cluster = Cluster::on_shared(2, &[]).await;
    let streamer = cluster.streamer().await;
    cluster.nodes[1].vote(&streamer, "yes").await;
    assert!(cluster.journaled(&streamer).await.is_empty(), "no session, nothing stored");
    let _overlay = cluster.nodes[0].watch(&streamer).await;
    eventually("votes count", async || counts(&cluster, 1, &streamer).await).await;
}

#[tokio::test]
async fn a_lost_notification_of_a_start_is_made_up_for_within_2_s() {
    let cluster = Cluster::on_shared(2, &[]).await;
    let streamer = cluster.streamer().await;
    cluster.nodes[1].vote(&streamer, "yes").await;
    let _deafness = Deafness::begin(&cluster).await;
    let _overlay = cluster.nodes[0].watch(&streamer).await;
    let promised = Duration::from_secs(2);
    within(promised, "votes count", async || counts(&cluster, 1, &streamer).await).await;
}

/// Whether a vote posted now counts.
async fn counts(cluster: &Cluster, place: usize, streamer: &Streamer) -> bool {
    let id = cluster.nodes[place].vote(streamer, "yes").await;
    cluster.journaled(streamer).await.contains(&id)
}
