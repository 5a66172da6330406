//! Instances killed, frozen and cut off: what they held is let go, and nothing that is watched ends.

use std::collections::HashSet;
use std::time::Duration;

use super::{refs, votes_are_taken};
use crate::support::cluster::{Cluster, VOTE_TIMES};
use crate::support::eventually;
use crate::support::instance::signal;
use crate::support::proxy::Mode;
use crate::support::within;
use uuid::Uuid;

/// The least that the settings allow, so that nobody waits long.
const LEASE: (&str, &str) = ("CHATPULSE_SESSION__LEASE_SECONDS", "3");
const ORPHAN: &str = "CHATPULSE_SESSION__ORPHAN_SECONDS";
/// Twice the usual lease: in this time Redis counts a dead instance no more.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(30);
/// Lease, orphan time and a sweep.
const ENDED_WITHIN: Duration = Duration::from_secs(75);

#[tokio::test]
async fn a_killed_instance_leaks_no_hold_and_its_unwatched_session_ends_once() {
    let mut cluster = Cluster::on_shared(2, &[LEASE, (ORPHAN, "3")]).await;
    let (alone, shared) = (cluster.streamer().await, cluster.streamer().await);
    let _there = cluster.nodes[0].watch(&alone).await;
    let _also_there = cluster.nodes[0].watch(&shared).await;
    let here = cluster.nodes[1].watch(&shared).await;
    let (dead, living) = (cluster.nodes[0].id, cluster.nodes[1].id);
    eventually("both hold", async || refs(&cluster, &shared).await == HashSet::from([dead, living])).await;
    cluster.nodes[0].instance.kill();

    within(Duration::from_secs(15), "the lease is gone", async || !has_lease(&cluster, dead).await).await;
    within(FORGOTTEN_WITHIN, "the hold is gone from the ref count", async || {
        refs(&cluster, &shared).await == HashSet::from([living])
    })
    .await;
    assert_eq!(cluster.holders(&shared).await, Some(HashSet::from([living])));
    within(ENDED_WITHIN, "the unheld session ends", async || cluster.ends(&alone).await == 1).await;
    assert_eq!(cluster.holders(&alone).await, None);
    assert!(refs(&cluster, &alone).await.is_empty());

    cluster.nodes[1].vote(&shared, "yes").await;
    cluster.await_shown(&shared, &[&here]).await;
    assert_eq!(cluster.ends(&shared).await, 0, "a watched session goes on");
    assert_eq!(cluster.ends(&alone).await, 1, "once");
}

async fn has_lease(cluster: &Cluster, instance: Uuid) -> bool {
    let sql = "SELECT FROM chatpulse.instances WHERE instance_id = $1 AND lease_until > clock_timestamp()";
    cluster.sql().await.query_opt(sql, &[&instance]).await.unwrap().is_some()
}

#[tokio::test]
async fn an_instance_frozen_for_longer_than_its_lease_takes_its_holds_again_and_says_hello() {
    let cluster = Cluster::on_shared(2, &[LEASE, (ORPHAN, "60")]).await;
    let streamer = cluster.streamer().await;
    let overlay = cluster.nodes[0].watch(&streamer).await;
    let frozen = cluster.nodes[0].id;
    let pid = cluster.nodes[0].instance.pid();
    signal("STOP", pid);
    let _thaw = Thaw(pid);
    eventually("the hold is dropped", async || {
        cluster.holders(&streamer).await == Some(HashSet::new()) && refs(&cluster, &streamer).await.is_empty()
    })
    .await;
    // Votes go on elsewhere.
    let taken =
        [cluster.nodes[1].vote(&streamer, "yes").await, cluster.nodes[1].vote(&streamer, "yes").await];
    cluster.await_journaled(&streamer, &taken).await;
    signal("CONT", pid);
    eventually("the overlay gets a new hello", async || {
        overlay.count("hello") > 1 || !overlay.closes().is_empty()
    })
    .await;
    eventually("the hold is taken again", async || {
        cluster.holders(&streamer).await == Some(HashSet::from([frozen]))
            && refs(&cluster, &streamer).await == HashSet::from([frozen])
    })
    .await;
    cluster.await_shown(&streamer, &[&overlay]).await;
    cluster.nodes[1].vote(&streamer, "no").await;
    cluster.nodes[0].vote(&streamer, "no").await;
    cluster.await_shown(&streamer, &[&overlay]).await;
    assert_eq!(overlay.shown().unwrap().votes, (2, 2));
    assert_eq!(cluster.ends(&streamer).await, 0);
}

/// Lets a frozen process go on, should a test fail before it does.
struct Thaw(u32);

impl Drop for Thaw {
    fn drop(&mut self) {
        if std::thread::panicking() {
            signal("CONT", self.0);
        }
    }
}

#[tokio::test]
async fn an_instance_frozen_until_its_session_has_ended_shows_the_next_one() {
    let cluster = Cluster::on_shared(2, &[LEASE, (ORPHAN, "2")]).await;
    let streamer = cluster.streamer().await;
    let overlay = cluster.nodes[0].watch(&streamer).await;
    cluster.nodes[0].vote(&streamer, "yes").await;
    let first = cluster.head(&streamer).await.session_id;
    let pid = cluster.nodes[0].instance.pid();
    signal("STOP", pid);
    let _thaw = Thaw(pid);
    within(ENDED_WITHIN, "the session ends", async || cluster.ends(&streamer).await == 1).await;
    signal("CONT", pid);
    eventually("the overlay shows a session that lives", async || {
        let head = cluster.head(&streamer).await;
        head.session_id != first
            && !head.ended
            && overlay.shown().is_some_and(|shown| shown.version == head.shown.version)
    })
    .await;
    cluster.nodes[1].vote(&streamer, "no").await;
    cluster.await_shown(&streamer, &[&overlay]).await;
    assert_eq!(overlay.shown().unwrap().votes, (0, 1));
    assert_eq!(cluster.ends(&streamer).await, 1, "no double end");
    assert_eq!(cluster.holders(&streamer).await, Some(HashSet::from([cluster.nodes[0].id])));
}

#[tokio::test]
async fn an_instance_cut_off_from_postgresql_for_longer_than_its_lease_gets_its_holds_back() {
    let settings = [VOTE_TIMES.as_slice(), &[LEASE, (ORPHAN, "60")]].concat();
    let cluster = Cluster::on_shared(2, &settings).await;
    let streamer = cluster.streamer().await;
    let overlay = cluster.nodes[0].watch(&streamer).await;
    let cut_off = cluster.nodes[0].id;
    cluster.nodes[0].postgres.set(Mode::BlackHole);
    eventually("the hold is dropped", async || cluster.holders(&streamer).await == Some(HashSet::new()))
        .await;
    let taken = votes_are_taken(&cluster, &streamer, 4).await;
    cluster.await_journaled(&streamer, &taken).await;
    cluster.await_shown(&streamer, &[&overlay]).await;
    cluster.nodes[0].postgres.heal();
    eventually("the hold is taken again", async || {
        cluster.holders(&streamer).await == Some(HashSet::from([cut_off]))
            && refs(&cluster, &streamer).await == HashSet::from([cut_off])
    })
    .await;
    cluster.nodes[0].becomes("ready").await;
    cluster.nodes[0].vote(&streamer, "yes").await;
    cluster.await_shown(&streamer, &[&overlay]).await;
    assert_eq!(cluster.ends(&streamer).await, 0);
}
