//! Redis Cluster: the same program against three masters with a replica each, also while one dies.

use std::collections::HashSet;
use std::time::Duration;

use chatpulse::domain::config::Config;
use chatpulse::domain::sentiment::Mood;
use chatpulse::domain::session::Session;
use chatpulse::domain::time::Millis;
use chatpulse::hot::changes::{Changes, Cursor};
use chatpulse::hot::debounce::{Claim, Claimed};
use chatpulse::hot::keys::{self, Bucket};
use chatpulse::hot::mirror::{MirrorEntry, Mirrored};
use chatpulse::hot::{Hot, HotError};
use deadpool_redis::redis::Value;
use uuid::Uuid;

use crate::redis_roles::{assert_ready, stores};
use crate::support::eventually;
use crate::support::instance::{Instance, signal};
use crate::support::redis_servers::{RedisCluster, RedisServer, hot, password};
use crate::support::twitch::{Chat, Twitch};

/// How long an overlay may be wrong after a failover.
const STALE_MAX: Duration = Duration::from_secs(2);
const NOW: Millis = Millis(1_763_700_000_000);

/// A streamer of this bucket.
fn streamer_in(bucket: u8) -> Uuid {
    let mut bytes = *Uuid::now_v7().as_bytes();
    bytes[15] = bucket;
    Uuid::from_bytes(bytes)
}

/// A live session of the streamer.
pub fn session(streamer_id: Uuid, version: i64) -> Session {
    Session {
        streamer_id,
        ordinal: 1,
        version,
        config_version: 1,
        params: Config::default().params,
        mood: Mood { at: NOW, value: 1.5, for_count: 2, against_count: 1, seconds: Vec::new() },
        started_at: NOW,
        reset_at: None,
        ended_at: None,
    }
}

/// Mirrors the sessions.
pub async fn mirror(hot: &Hot, sessions: &[Session]) -> Result<Vec<Mirrored>, HotError> {
    let names: Vec<String> = sessions.iter().map(|session| session.streamer_id.to_string()).collect();
    let entries: Vec<MirrorEntry<'_>> = sessions
        .iter()
        .zip(&names)
        .map(|(session, name)| MirrorEntry {
            session_id: Uuid::nil(),
            twitch_user_id: name,
            session,
            config_json: "{}",
            config_json_version: session.config_version,
        })
        .collect();
    hot.mirror(&entries).await
}

async fn changes(hot: &Hot, cursors: &[(Bucket, Cursor)]) -> Vec<Changes> {
    hot.changes_since(cursors).await.expect("the cluster answers")
}

fn after(changes: Vec<Changes>) -> Vec<(Bucket, Cursor)> {
    changes.into_iter().map(|changes| (changes.bucket, changes.cursor)).collect()
}

#[tokio::test]
async fn a_call_reaches_all_shards_and_its_answers_keep_their_order() {
    let cluster = RedisCluster::start().await;
    let hot = cluster.hot();
    hot.probe().await.unwrap();
    // Three a bucket, mixed, and more than go at once.
    let streamers: Vec<Uuid> = (0..600).map(|n| streamer_in((n * 7 % 64) as u8)).collect();
    let sessions: Vec<Session> =
        streamers.iter().zip(1..).map(|(id, version)| session(*id, version)).collect();
    // A log's first entry makes it a new log, which is a reset.
    mirror(&hot, &(0..64).map(|bucket| session(streamer_in(bucket), 1)).collect::<Vec<_>>()).await.unwrap();
    let buckets: Vec<(Bucket, Cursor)> = Bucket::all().map(|bucket| (bucket, Cursor::default())).collect();
    let cursors = after(changes(&hot, &buckets).await);

    assert!(mirror(&hot, &sessions).await.unwrap().iter().all(|done| *done == Mirrored::Written));

    let read = hot.read_all(&streamers, NOW).await.unwrap();
    for (session, read) in sessions.iter().zip(read) {
        assert_eq!(read.as_ref().map(|read| &read.session), Some(session));
    }
    let changed = changes(&hot, &cursors).await;
    let versions: HashSet<(Uuid, i64)> =
        changed.iter().flat_map(|c| &c.changed).map(|c| (c.streamer_id, c.version)).collect();
    let expected = sessions.iter().map(|session| (session.streamer_id, session.frame_version()));
    assert_eq!(versions, expected.collect());
    assert!(changed.iter().zip(Bucket::all()).all(|(changes, bucket)| changes.bucket == bucket));

    let claims: Vec<Claim<'_>> = streamers
        .iter()
        .chain(&streamers)
        .zip(0..)
        .map(|(&streamer_id, n)| Claim {
            streamer_id,
            viewer: "v",
            message_id: if n % 600 == 0 {
                "own"
            } else if n < 600 {
                "first"
            } else {
                "second"
            },
            ttl_ms: 600_000,
        })
        .collect();
    let judged = hot.claim(&claims).await.unwrap();
    assert!(judged[..600].iter().all(|claimed| *claimed == Claimed::Fresh));
    assert_eq!(judged[600], Claimed::Own);
    assert!(judged[601..].iter().all(|claimed| *claimed == Claimed::Other));
}

#[tokio::test]
async fn a_dead_masters_replica_takes_over_and_what_was_read_counts_as_flushed() {
    let mut cluster = RedisCluster::start().await;
    let hot = cluster.hot();
    let streamers: Vec<Uuid> = (0..64).map(streamer_in).collect();
    let sessions: Vec<Session> = streamers.iter().map(|id| session(*id, 1)).collect();
    mirror(&hot, &sessions).await.unwrap();
    let all: Vec<(Bucket, Cursor)> = Bucket::all().map(|bucket| (bucket, Cursor::default())).collect();
    let cursors = after(changes(&hot, &all).await);
    assert!(changes(&hot, &cursors).await.iter().all(|changes| !changes.reset), "nothing happened");

    let lost = cluster.master_of(&keys::session(streamers[0])).await;
    cluster.nodes[lost].kill();
    eventually("calls fail", async || mirror(&hot, &sessions).await.is_err()).await;
    eventually("a probe finds the cluster whole again", async || hot.probe().await.is_ok()).await;
    assert!(hot.is_up());

    assert!(changes(&hot, &cursors).await.iter().all(|changes| changes.reset));
    let newer: Vec<Session> = streamers.iter().map(|id| session(*id, 2)).collect();
    mirror(&hot, &newer).await.unwrap();
    let read = hot.read_all(&streamers, NOW).await.unwrap();
    assert!(read.iter().all(|read| read.as_ref().is_some_and(|read| read.session.version == 2)));

    // And the dead one comes back as a replica, without any call failing.
    cluster.nodes[lost].start_again().await;
    cluster.ready().await;
    hot.probe().await.unwrap();
    mirror(&hot, &newer).await.unwrap();
}

#[tokio::test]
async fn a_frozen_master_is_left_for_its_replica() {
    let cluster = RedisCluster::start().await;
    let hot = cluster.hot();
    let streamer = streamer_in(5);
    mirror(&hot, &[session(streamer, 1)]).await.unwrap();

    let frozen = cluster.master_of(&keys::session(streamer)).await;
    signal("STOP", cluster.nodes[frozen].pid());
    let recovered = async || hot.probe().await.is_ok() && mirror(&hot, &[session(streamer, 2)]).await.is_ok();
    eventually("the replica serves", recovered).await;
    signal("CONT", cluster.nodes[frozen].pid());

    cluster.ready().await;
    let served =
        async || matches!(hot.read(streamer, NOW).await, Ok(Some(read)) if read.session.version == 2);
    eventually("what the replica took is there", served).await;
}

#[tokio::test]
async fn masters_without_the_library_get_it() {
    let cluster = RedisCluster::start().await;
    let hot = cluster.hot();
    let streamers: Vec<Uuid> = (0..64).map(streamer_in).collect();
    let sessions: Vec<Session> = streamers.iter().map(|id| session(*id, 1)).collect();
    mirror(&hot, &sessions).await.unwrap();
    let one = cluster.master_of(&keys::session(streamers[9])).await;
    cluster.nodes[one].admin::<()>(&["FUNCTION", "FLUSH", "SYNC"]).await.unwrap();

    let read = hot.read_all(&streamers, NOW).await.unwrap();
    assert!(read.iter().all(Option::is_some));
}

#[tokio::test]
async fn a_slot_on_its_way_to_another_node_is_served_all_along() {
    let cluster = RedisCluster::start().await;
    let hot = cluster.hot();
    let (here, there) = (streamer_in(5), streamer_in(5));
    mirror(&hot, &[session(here, 1)]).await.unwrap();
    let bucket = Bucket::of(here);
    let cursor = after(changes(&hot, &[(bucket, Cursor::default())]).await);
    let key = keys::session(here);
    let from = cluster.master_of(&key).await;
    let to = (from + 1) % 3;
    let (from, to) = (&cluster.nodes[from], &cluster.nodes[to]);
    let id = async |node: &RedisServer| node.admin::<String>(&["CLUSTER", "MYID"]).await.unwrap();
    let (from_id, to_id) = (id(from).await, id(to).await);
    let slot = from.admin::<u16>(&["CLUSTER", "KEYSLOT", &key]).await.unwrap().to_string();
    to.admin::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await.unwrap();
    from.admin::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await.unwrap();
    // Keys that are nowhere are made at the new place, several in one call.
    let claim = |message_id| Claim { streamer_id: there, viewer: message_id, message_id, ttl_ms: 600_000 };
    let claims = [claim("a"), claim("b"), claim("c")];
    assert_eq!(hot.claim(&claims).await.unwrap(), [Claimed::Fresh; 3]);
    assert_eq!(hot.claim(&claims).await.unwrap(), [Claimed::Own; 3]);

    let keys: Vec<String> = from.admin(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]).await.unwrap();
    let (port, secret) = (to.port.to_string(), password("admin"));
    let mut migrate =
        vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "AUTH2", "chatpulse_admin", &secret, "KEYS"];
    migrate.extend(keys.iter().map(String::as_str));
    from.admin::<String>(&migrate).await.unwrap();
    for node in [to, from] {
        node.admin::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await.unwrap();
    }

    assert_eq!(hot.claim(&claims).await.unwrap(), [Claimed::Own; 3]);
    assert!(hot.read(here, NOW).await.unwrap().is_some());
    assert!(changes(&hot, &cursor).await[0].reset, "a redirect counts as a flush");
    hot.probe().await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_is_told() {
    let cluster = RedisCluster::start().await;
    let wrong = cluster.urls("cache").into_iter().map(|url| url.replace("-password@", "-wrong@")).collect();
    let hot = hot(wrong);
    let told =
        async || matches!(hot.probe().await, Err(HotError::Connection(why)) if why.contains("uthentication"));
    eventually("the reason is told", told).await;
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_no_reason_not_to_start() {
    let mut cluster = RedisCluster::start().await;
    cluster.nodes.iter_mut().for_each(|node| node.kill());
    let hot = hot(cluster.urls("cache"));
    for _ in 0..2 {
        assert!(matches!(hot.probe().await, Err(HotError::Connection(_) | HotError::TimedOut { .. })));
    }
    assert_eq!(mirror(&hot, &[session(streamer_in(1), 1)]).await, Err(HotError::Away));

    for node in &mut cluster.nodes {
        node.start_again().await;
    }
    eventually("the cluster is found", async || hot.probe().await.is_ok()).await;
    mirror(&hot, &[session(streamer_in(1), 1)]).await.unwrap();
}

#[tokio::test]
async fn the_program_keeps_every_vote_while_a_master_dies() {
    let mut cluster = RedisCluster::start().await;
    let queue = RedisServer::start("queue.conf").await;
    let (urls, queue_url) = (cluster.urls("cache").join(","), queue.url("queue"));
    let settings = [("RATE_LIMIT_REDIS_URL", urls.as_str())];
    let first = Instance::start_on(stores(urls.clone(), queue_url.clone(), queue).await, &settings).await;
    let second = Instance::start_on(first.stores.shared(), &settings).await;
    let streamer = first.streamer(&["yes"], &["no"]).await;
    let mut overlay = second.overlay(&streamer).await;
    first.twitch().say(&streamer.twitch_id, "yes").await;
    overlay.frames_until_votes(1).await;

    let lost = cluster.master_of(&keys::session(streamer.id)).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let voters: Vec<_> = [first.twitch(), second.twitch(), first.twitch()]
        .into_iter()
        .map(|twitch| tokio::spawn(vote_until(twitch, streamer.twitch_id.clone(), stopped.clone())))
        .collect();
    overlay.frames_until_votes(20).await;
    cluster.nodes[lost].kill();
    cluster.ready().await;
    stop.send(true).expect("the voters listen");
    let mut acknowledged = HashSet::new();
    for voter in voters {
        acknowledged.extend(voter.await.expect("the voter ends"));
    }
    let votes = acknowledged.len() as i64 + 1;
    let right_again = tokio::time::timeout(STALE_MAX, overlay.frames_until_votes(votes)).await;

    assert!(right_again.is_ok(), "the overlay is right {STALE_MAX:?} after the failover");
    let voted = first.voted(&streamer).await;
    let journaled: HashSet<String> = voted.iter().cloned().collect();
    assert_eq!(journaled.len(), voted.len(), "each once");
    assert!(acknowledged.is_subset(&journaled));
    assert_ready(&first).await;
    assert_ready(&second).await;
    let promoted = cluster.master_of(&keys::session(streamer.id)).await;
    let libraries = cluster.nodes[promoted].admin::<Value>(&["FUNCTION", "LIST"]).await.unwrap();
    assert!(format!("{libraries:?}").contains("chatpulse_v2"));
    first.twitch().say(&streamer.twitch_id, "yes").await;
    overlay.frames_until_votes(votes + 1).await;
}

/// Votes as new viewers until told to stop, each vote again until it is acknowledged, as Twitch does;
/// answers the message ids.
async fn vote_until(
    twitch: Twitch,
    broadcaster: String,
    stopped: tokio::sync::watch::Receiver<bool>,
) -> Vec<String> {
    let mut acknowledged = Vec::new();
    while !*stopped.borrow() {
        let chat = Chat::new(&broadcaster, "yes");
        while twitch.post(&chat.signed()).await.status != 204 {}
        acknowledged.push(chat.message_id);
    }
    acknowledged
}
