//! An instance that is told to stop lets everybody go elsewhere in peace.

use std::time::Duration;

use super::ANSWER_MAX;
use crate::support::cluster::{Cluster, VOTE_TIMES};
use crate::support::load::{Load, Outcome};
use crate::support::twitch::Twitch;
use crate::support::watcher::{Watcher, What, now_ms};
use crate::support::{eventually, stretched};

const DRAIN: (&str, &str) = ("CHATPULSE_HTTP__DRAIN_SECONDS", "4");
const OVERLAYS: usize = 24;
/// Told to go elsewhere.
const DRAINING: u16 = 4101;

#[tokio::test]
async fn a_stopping_instance_fails_its_readiness_then_closes_overlays_one_after_the_other() {
    let mut cluster = Cluster::on_shared(2, &[&VOTE_TIMES[..], &[DRAIN]].concat()).await;
    let streamer = cluster.streamer().await;
    let balancer = cluster.balancer();
    let _elsewhere = cluster.nodes[1].watch(&streamer).await;
    let mut overlays = Vec::new();
    for _ in 0..OVERLAYS {
        overlays.push(cluster.nodes[0].watch(&streamer).await);
    }
    let load = Load::start(&balancer, std::slice::from_ref(&streamer), 4, 1);
    load.goes_on(20).await;

    let (public, stopped) = (cluster.nodes[0].instance.public, cluster.nodes[0].id);
    let told = now_ms();
    cluster.nodes[0].instance.terminate();
    let twitch = Twitch::patient(public, Duration::from_secs(1));
    let mut failed_at = None;
    eventually("readiness fails", async || {
        failed_at = (twitch.try_status("/health/ready").await == Some(503)).then(now_ms);
        failed_at.is_some()
    })
    .await;
    let status = cluster.nodes[0].instance.stopped().await;
    assert_eq!(status.code(), Some(0), "{status}");
    let took_ms = now_ms() - told;
    assert!(
        took_ms < stretched(Duration::from_secs(10)).as_millis() as i64,
        "{took_ms} ms with a drain of 4 s"
    );

    let mut closes: Vec<i64> = Vec::new();
    for overlay in &overlays {
        let (time, code) = overlay.closes()[0];
        assert_eq!(code, DRAINING, "an overlay is told to reconnect elsewhere");
        closes.push(time);
    }
    closes.sort_unstable();
    assert!(
        failed_at.unwrap() <= closes[OVERLAYS / 2],
        "readiness fails while most overlays are still there"
    );
    let spread_ms = closes[OVERLAYS - 1] - closes[0];
    assert!(spread_ms >= 1_000, "all overlays were closed within {spread_ms} ms of a drain of 4 s");
    let holders = cluster.holders(&streamer).await.expect("the session goes on");
    assert!(!holders.contains(&stopped), "holds are released");
    let gone = "SELECT FROM chatpulse.instances WHERE instance_id = $1 AND lease_until > clock_timestamp()";
    assert!(cluster.sql().await.query_opt(gone, &[&stopped]).await.unwrap().is_none(), "so is the lease");

    let outcome = load.stop().await;
    assert_taken(&outcome);
    // The first instance is gone for good, so this asks the second.
    cluster.nodes.remove(0);
    cluster.assert_kept(std::slice::from_ref(&streamer), &outcome).await;
    assert!(outcome.slowest(|_| true) < stretched(ANSWER_MAX), "{:?}", outcome.slowest(|_| true));
}

/// Requires that votes were taken, but for few on a machine that was busy for a moment.
fn assert_taken(outcome: &Outcome) {
    let statuses = outcome.statuses();
    let number = |status| statuses.get(&status).copied().unwrap_or(0);
    assert!(number(503) * 20 <= number(204), "{statuses:?}");
    assert!(statuses.keys().all(|status| [0, 204, 503].contains(status)), "{statuses:?}");
    assert_eq!(number(204), outcome.votes.len(), "every vote was taken once: {statuses:?}");
}

#[tokio::test]
async fn a_rolling_restart_under_load_loses_no_vote_and_overlays_are_current_once_reconnected() {
    let mut cluster =
        Cluster::on_shared(3, &[&VOTE_TIMES[..], &[("CHATPULSE_HTTP__DRAIN_SECONDS", "2")]].concat()).await;
    let streamers = [cluster.streamer().await, cluster.streamer().await];
    let balancer = cluster.balancer();
    let mut watchers = Vec::new();
    for seed in 0..8 {
        watchers.push(Watcher::start(&balancer, &streamers[seed as usize % 2], seed));
    }
    eventually("all overlays are open", async || watchers.iter().all(Watcher::is_open)).await;
    let load = Load::start(&balancer, &streamers, 4, 2);
    for place in 0..cluster.nodes.len() {
        load.goes_on(30).await;
        cluster.nodes[place].instance.terminate();
        let status = cluster.nodes[place].instance.stopped().await;
        assert_eq!(status.code(), Some(0), "{status}");
        cluster.nodes[place].start_again().await;
        let others = &cluster.nodes[place];
        others.becomes("ready").await;
    }
    load.goes_on(30).await;
    let outcome = load.stop().await;
    assert_taken(&outcome);
    cluster.assert_kept(&streamers, &outcome).await;
    for (place, streamer) in streamers.iter().enumerate() {
        let theirs: Vec<&Watcher> = watchers.iter().skip(place).step_by(2).collect();
        cluster.await_shown(streamer, &theirs).await;
        assert_eq!(cluster.ends(streamer).await, 0, "the sessions go on");
        assert_eq!(cluster.head(streamer).await.shown.version >> 32, 1);
    }
    for watcher in &watchers {
        let closes = watcher.closes();
        assert!(!closes.is_empty() && closes.iter().all(|(_, code)| *code == DRAINING), "{closes:?}");
        let events = watcher.events();
        for pair in events.windows(2) {
            let reopened = matches!(pair[0].what, What::Closed(_) | What::Refused(_));
            let first = matches!(&pair[1].what, What::Frame(kind, _) if kind == "hello");
            let refused = matches!(pair[1].what, What::Refused(_));
            assert!(!reopened || first || refused, "a hello comes first: {pair:?}");
        }
    }
}
