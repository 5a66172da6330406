//! Redis flushed, killed, frozen, full, read-only, slow, or away from one instance alone: overlays and votes
//! go on, and all is as before once it is back.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;

use super::{assert_degraded, await_mirrored, refs, votes_are_taken};
use crate::support::cluster::{Cluster, head, is_shown};
use crate::support::instance::Streamer;
use crate::support::own_servers::OwnServers;
use crate::support::proxy::Mode;
use crate::support::watcher::{Watcher, now_ms};
use crate::support::within;

/// In what time every overlay is right again after a flush.
const REPAIR_MAX: Duration = Duration::from_secs(2);

/// Enough that they are not repaired all in one go.
const SESSIONS: usize = 250;

/// Two instances with an overlay each on servers of their own.
struct Stage {
    // Dropped in this order.
    overlays: [Watcher; 2],
    streamer: Streamer,
    cluster: Cluster,
    servers: OwnServers,
}

impl Stage {
    async fn set() -> Stage {
        let servers = OwnServers::start().await;
        let cluster = Cluster::start(servers.stores(), 2, &[]).await;
        let streamer = cluster.streamer().await;
        let overlays = [cluster.nodes[0].watch(&streamer).await, cluster.nodes[1].watch(&streamer).await];
        let stage = Stage { overlays, streamer, cluster, servers };
        stage.go_on().await;
        stage
    }

    fn overlays(&self) -> [&Watcher; 2] {
        self.overlays.each_ref()
    }

    /// Votes are taken everywhere and shown everywhere.
    async fn go_on(&self) {
        let taken = votes_are_taken(&self.cluster, &self.streamer, 6).await;
        self.cluster.await_shown(&self.streamer, &self.overlays()).await;
        self.cluster.await_journaled(&self.streamer, &taken).await;
    }

    /// Everything is as if nothing had happened.
    async fn assert_recovered(&self) {
        for node in &self.cluster.nodes {
            node.becomes("ready").await;
        }
        self.go_on().await;
        await_mirrored(&self.cluster, &self.streamer).await;
        let holders: HashSet<_> = self.cluster.nodes.iter().map(|node| node.id).collect();
        crate::support::eventually("Redis knows who holds the session", async || {
            refs(&self.cluster, &self.streamer).await == holders
        })
        .await;
        assert!(self.overlays.iter().all(|overlay| overlay.closes().is_empty()), "no overlay was closed");
        assert_eq!(self.cluster.ends(&self.streamer).await, 0);
    }

    /// Votes and overlays go on in spite of what was done to Redis, and both instances say so.
    async fn assert_goes_on_without_redis(&self) {
        self.go_on().await;
        for node in &self.cluster.nodes {
            assert_degraded(node).await;
        }
        self.go_on().await;
    }
}

#[tokio::test]
async fn after_a_flush_every_overlay_is_right_within_2_s_and_the_holders_are_known_again() {
    let stage = Stage::set().await;
    for _ in 0..3 {
        stage.cluster.nodes[0].vote(&stage.streamer, "yes").await;
        stage.servers.cache::<()>(&["FLUSHALL"]).await;
        stage.cluster.nodes[0].vote(&stage.streamer, "yes").await;
        stage.cluster.await_shown_within(REPAIR_MAX, &stage.streamer, &stage.overlays()).await;
        let holders: HashSet<_> = stage.cluster.nodes.iter().map(|node| node.id).collect();
        within(Duration::from_secs(30), "Redis knows who holds the session", async || {
            refs(&stage.cluster, &stage.streamer).await == holders
        })
        .await;
    }
    stage.assert_recovered().await;
}

#[tokio::test]
async fn after_a_flush_under_many_sessions_every_overlay_is_right_within_2_s() {
    let servers = OwnServers::start().await;
    let cluster = Cluster::start(servers.stores(), 2, &[]).await;
    let mut watched = Vec::new();
    for _ in 0..SESSIONS {
        let streamer = cluster.streamer().await;
        let overlay = cluster.nodes[1].watch(&streamer).await;
        watched.push((streamer, overlay));
    }
    let vote = async |words: &[&str]| {
        for word in words {
            join_all(watched.iter().map(|(streamer, _)| cluster.nodes[0].vote(streamer, word))).await;
        }
    };
    vote(&["yes", "no"]).await;
    servers.cache::<()>(&["FLUSHALL"]).await;
    vote(&["yes"]).await;
    let sql = cluster.sql().await;
    within(REPAIR_MAX, "all overlays are right", async || {
        for (streamer, overlay) in &watched {
            let head = head(&sql, streamer).await.expect("the session is live");
            if head.shown.votes != (2, 1) || !is_shown(&head, overlay.shown(), now_ms()) {
                return false;
            }
        }
        true
    })
    .await;
    for (streamer, overlay) in &watched {
        overlay.assert_in_order();
        await_mirrored(&cluster, streamer).await;
    }
}

#[tokio::test]
async fn a_flush_without_any_vote_after_it_is_repaired_too() {
    let stage = Stage::set().await;
    stage.servers.cache::<()>(&["FLUSHALL"]).await;
    await_mirrored(&stage.cluster, &stage.streamer).await;
    stage.assert_recovered().await;
}

#[tokio::test]
async fn a_killed_redis_is_done_without_and_filled_again() {
    let mut stage = Stage::set().await;
    stage.servers.cache.kill();
    stage.assert_goes_on_without_redis().await;
    stage.servers.start_cache().await;
    stage.assert_recovered().await;
}

#[tokio::test]
async fn a_redis_killed_and_back_at_once_is_filled_again() {
    let mut stage = Stage::set().await;
    stage.servers.cache.kill();
    stage.servers.start_cache().await;
    stage.cluster.nodes[0].vote(&stage.streamer, "yes").await;
    stage.cluster.await_shown(&stage.streamer, &stage.overlays()).await;
    stage.assert_recovered().await;
}

#[tokio::test]
async fn a_frozen_redis_is_done_without() {
    let stage = Stage::set().await;
    stage.servers.cache.freeze();
    stage.assert_goes_on_without_redis().await;
    stage.servers.cache.thaw();
    stage.assert_recovered().await;
}

#[tokio::test]
async fn a_redis_without_memory_is_done_without() {
    let stage = Stage::set().await;
    stage.servers.cache::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    stage.assert_goes_on_without_redis().await;
    stage.servers.cache::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    stage.assert_recovered().await;
}

#[tokio::test]
async fn a_redis_that_only_reads_is_done_without() {
    let stage = Stage::set().await;
    // A port on which nobody listens.
    stage.servers.cache::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    stage.assert_goes_on_without_redis().await;
    stage.servers.cache::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    stage.assert_recovered().await;
}

#[tokio::test]
async fn an_instance_alone_cut_off_from_redis_is_followed_and_follows() {
    let stage = Stage::set().await;
    for mode in [Mode::Cut, Mode::BlackHole] {
        let alone = &stage.cluster.nodes[0];
        alone.redis.set(mode);
        for _ in 0..3 {
            alone.vote(&stage.streamer, "yes").await;
            stage.cluster.await_shown(&stage.streamer, &stage.overlays()).await;
            stage.cluster.nodes[1].vote(&stage.streamer, "no").await;
            stage.cluster.await_shown(&stage.streamer, &stage.overlays()).await;
        }
        assert_degraded(alone).await;
        stage.cluster.nodes[1].becomes("ready").await;
        stage.go_on().await;
        stage.cluster.nodes[0].redis.heal();
        stage.assert_recovered().await;
    }
}

#[tokio::test]
async fn a_slow_or_flaky_way_to_redis_costs_no_vote() {
    let stage = Stage::set().await;
    for mode in [Mode::Delay(10..=120), Mode::Delay(100..=400), Mode::Flaky(20..=300)] {
        for node in &stage.cluster.nodes {
            node.redis.set(mode.clone());
        }
        stage.go_on().await;
        for node in &stage.cluster.nodes {
            node.redis.heal();
        }
        stage.assert_recovered().await;
    }
}
