//! Every part may die: real servers and instances are cut off, frozen, killed and started again, and what
//! ARCHITECTURE.md says of it under "When a part fails" is held to.

mod anywhere;
mod changes;
mod drain;
mod instances;
mod orphans;
mod panics;
mod postgres;
mod redis;
mod rounds;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use chatpulse::hot::keys;
use deadpool_redis::redis::{Cmd, FromRedisValue, cmd};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::cluster::{Cluster, Node};
use crate::support::instance::Streamer;
use crate::support::servers::query;
use crate::support::twitch::{Answer, Chat};
use crate::support::{eventually, stretched};

/// In what time a webhook is answered under every fault.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Delivers a vote to an instance, which has to answer in time.
async fn deliver(node: &Node, chat: &Chat) -> Answer {
    let began = Instant::now();
    let answer = node.instance.twitch().post(&chat.signed()).await;
    let took = began.elapsed();
    assert!(took < stretched(ANSWER_MAX), "a webhook was answered after {took:?}: {answer:?}");
    answer
}

/// Some votes for each instance in turn, delivered as Twitch does; answers their message ids. Each is answered
/// in time, and few have to come again, for what is slow for a moment on a busy machine.
async fn votes_are_taken(cluster: &Cluster, streamer: &Streamer, votes: usize) -> Vec<String> {
    let (mut taken, mut refused) = (Vec::new(), Vec::new());
    for place in 0..votes {
        let chat = Chat::new(&streamer.twitch_id, if place % 3 == 0 { "no" } else { "yes" });
        let node = &cluster.nodes[place % cluster.nodes.len()];
        loop {
            let answer = deliver(node, &chat).await;
            if answer.status == 204 {
                break;
            }
            answer.assert_problem(503);
            refused.push(answer);
            assert!(refused.len() <= 2 + votes, "too many of {votes} votes are refused: {refused:#?}");
            // Where it says that it takes none, asking again at once would only meet with the same.
            eventually("it takes votes again", async || node.readiness().await.0 == 200).await;
        }
        taken.push(chat.message_id);
    }
    taken
}

/// Requires that the instance takes requests, and says why it is not at its best.
async fn assert_degraded(node: &Node) {
    let (status, body) = node.becomes("degraded").await;
    assert_eq!(status, 200, "{body}");
    assert!(body["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{body}");
}

/// One command to the cluster's cache, past all proxies.
async fn cache<T: FromRedisValue>(cluster: &Cluster, command: &Cmd) -> T {
    query(&cluster.stores.redis_url, command).await.expect("Redis answers")
}

/// Who holds the streamer's session, as Redis counts.
async fn refs(cluster: &Cluster, streamer: &Streamer) -> HashSet<Uuid> {
    let members: Vec<String> = cache(cluster, cmd("SMEMBERS").arg(keys::refs(streamer.id))).await;
    members.iter().map(|member| member.parse().expect("members are instance ids")).collect()
}

/// A field of the streamer's session in Redis, empty when it is not there.
async fn mirrored(cluster: &Cluster, streamer: &Streamer, field: &str) -> String {
    let value: Option<String> = cache(cluster, cmd("HGET").arg(keys::session(streamer.id)).arg(field)).await;
    value.unwrap_or_default()
}

/// Waits until Redis has the streamer's session as the journal has it.
async fn await_mirrored(cluster: &Cluster, streamer: &Streamer) {
    crate::support::eventually("Redis has the journal's state", async || {
        let head = cluster.head(streamer).await;
        mirrored(cluster, streamer, "version").await == head.shown.version.to_string()
    })
    .await;
}

/// Ends the connections on which instances hear of changes.
async fn deafen(superuser: &Client) {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND query ILIKE 'listen%'";
    superuser.query(sql, &[]).await.expect("the superuser may end connections");
}

/// Ends those connections again and again, until it is dropped.
struct Deafness(tokio::task::JoinHandle<()>);

impl Deafness {
    async fn begin(cluster: &Cluster) -> Deafness {
        let superuser = cluster.superuser().await;
        deafen(&superuser).await;
        Deafness(tokio::spawn(async move {
            loop {
                deafen(&superuser).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }))
    }
}

impl Drop for Deafness {
    fn drop(&mut self) {
        self.0.abort();
    }
}
