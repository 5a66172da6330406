//! PostgreSQL killed, frozen, unreachable, slow, out of connections or disk: votes wait in the queue, and are
//! journaled once each.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio_postgres::NoTls;

use super::{assert_degraded, deliver, votes_are_taken};
use crate::support::cluster::{Cluster, VOTE_TIMES};
use crate::support::eventually;
use crate::support::instance::{Stores, Streamer};
use crate::support::own_servers::OwnServers;
use crate::support::proxy::Mode;
use crate::support::servers::connect;
use crate::support::twitch::Chat;
use crate::support::watcher::Watcher;

const VOTES: usize = 10;

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
        let stores = servers.stores();
        Stage::set_on(servers, stores).await
    }

    async fn set_on(servers: OwnServers, stores: Stores) -> Stage {
        let cluster = Cluster::start(stores, 2, &VOTE_TIMES).await;
        let streamer = cluster.streamer().await;
        let overlays = [cluster.nodes[0].watch(&streamer).await, cluster.nodes[1].watch(&streamer).await];
        let stage = Stage { overlays, streamer, cluster, servers };
        stage.go_on().await;
        stage
    }

    /// Votes are taken everywhere and shown everywhere.
    async fn go_on(&self) {
        let taken = votes_are_taken(&self.cluster, &self.streamer, 4).await;
        self.cluster.await_journaled(&self.streamer, &taken).await;
        self.cluster.await_shown(&self.streamer, &self.overlays.each_ref()).await;
    }

    /// Votes are taken in spite of what was done to PostgreSQL, and both instances say so.
    async fn votes_are_queued(&self) -> Vec<String> {
        let mut taken = votes_are_taken(&self.cluster, &self.streamer, VOTES).await;
        for node in &self.cluster.nodes {
            assert_degraded(node).await;
        }
        taken.extend(votes_are_taken(&self.cluster, &self.streamer, VOTES).await);
        taken
    }

    /// The queue is empty, what was taken is journaled, and everything is as before.
    async fn assert_recovered(&self, taken: &[String]) {
        self.cluster.await_journaled(&self.streamer, taken).await;
        for node in &self.cluster.nodes {
            node.becomes("ready").await;
            eventually("the queue is empty", async || node.metric("chatpulse_spill_entries").await == 0.0)
                .await;
            assert_eq!(node.metric("chatpulse_dead_letters").await, 0.0, "a flapping server kills no vote");
        }
        self.go_on().await;
        assert!(self.overlays.iter().all(|overlay| overlay.closes().is_empty()), "no overlay was closed");
        assert_eq!(self.cluster.ends(&self.streamer).await, 0, "nobody is ended for an outage");
    }
}

#[tokio::test]
async fn votes_survive_a_killed_postgresql() {
    let mut stage = Stage::set().await;
    stage.servers.postgres.kill();
    let taken = stage.votes_are_queued().await;
    stage.servers.start_postgres().await;
    stage.assert_recovered(&taken).await;
}

#[tokio::test]
async fn a_queue_that_was_restarted_takes_the_very_next_vote() {
    let mut stage = Stage::set().await;
    stage.servers.postgres.kill();
    let mut taken = stage.votes_are_queued().await;
    for _ in 0..3 {
        stage.servers.queue.kill();
        stage.servers.start_queue().await;
        let chat = Chat::new(&stage.streamer.twitch_id, "yes");
        let answer = deliver(&stage.cluster.nodes[0], &chat).await;
        assert_eq!(answer.status, 204, "{answer:?}");
        taken.push(chat.message_id);
    }
    stage.servers.start_postgres().await;
    stage.assert_recovered(&taken).await;
}

#[tokio::test]
async fn without_the_queues_server_an_instance_is_degraded() {
    let mut stage = Stage::set().await;
    stage.servers.queue.kill();
    for node in &stage.cluster.nodes {
        assert_degraded(node).await;
    }
    stage.servers.start_queue().await;
    stage.assert_recovered(&[]).await;
}

#[tokio::test]
async fn votes_survive_on_an_instance_that_had_nothing_to_do_with_the_session_before() {
    let mut stage = Stage::set().await;
    let streamer = stage.cluster.streamer().await;
    let overlay = stage.cluster.nodes[0].watch(&streamer).await;
    // It knows of the session, but has no part in it.
    let known = "chatpulse_live_broadcasters";
    eventually("it knows the session", async || stage.cluster.nodes[1].metric(known).await == 2.0).await;
    stage.servers.postgres.kill();
    let mut taken = Vec::new();
    for _ in 0..4 {
        let chat = Chat::new(&streamer.twitch_id, "yes");
        let answer = deliver(&stage.cluster.nodes[1], &chat).await;
        assert_eq!(answer.status, 204, "{answer:?}");
        taken.push(chat.message_id);
    }
    stage.servers.start_postgres().await;
    stage.cluster.await_journaled(&streamer, &taken).await;
    stage.cluster.await_shown(&streamer, &[&overlay]).await;
    stage.assert_recovered(&[]).await;
}

#[tokio::test]
async fn votes_survive_a_postgresql_that_was_killed_and_is_back_at_once() {
    let mut stage = Stage::set().await;
    let mut taken = Vec::new();
    for _ in 0..3 {
        stage.servers.postgres.kill();
        taken.extend(votes_are_taken(&stage.cluster, &stage.streamer, 2).await);
        stage.servers.start_postgres().await;
        taken.extend(votes_are_taken(&stage.cluster, &stage.streamer, 2).await);
    }
    stage.assert_recovered(&taken).await;
}

#[tokio::test]
async fn votes_survive_a_frozen_postgresql() {
    let stage = Stage::set().await;
    stage.servers.postgres.freeze();
    let taken = stage.votes_are_queued().await;
    stage.servers.postgres.thaw();
    stage.assert_recovered(&taken).await;
}

#[tokio::test]
async fn votes_survive_a_network_that_swallows_everything_to_postgresql() {
    let stage = Stage::set().await;
    let set = |mode: Mode| stage.cluster.nodes.iter().for_each(|node| node.postgres.set(mode.clone()));
    set(Mode::BlackHole);
    let taken = stage.votes_are_queued().await;
    set(Mode::Pass);
    stage.assert_recovered(&taken).await;
}

#[tokio::test]
async fn votes_survive_a_slow_and_a_flaky_way_to_postgresql() {
    let stage = Stage::set().await;
    for mode in [Mode::Delay(50..=200), Mode::Delay(300..=700), Mode::Flaky(20..=400)] {
        stage.cluster.nodes.iter().for_each(|node| node.postgres.set(mode.clone()));
        let taken = votes_are_taken(&stage.cluster, &stage.streamer, VOTES).await;
        stage.cluster.nodes.iter().for_each(|node| node.postgres.heal());
        stage.assert_recovered(&taken).await;
    }
}

#[tokio::test]
async fn votes_survive_an_instance_alone_cut_off_from_postgresql() {
    let stage = Stage::set().await;
    for mode in [Mode::Cut, Mode::BlackHole] {
        stage.cluster.nodes[0].postgres.set(mode);
        let taken = votes_are_taken(&stage.cluster, &stage.streamer, VOTES).await;
        // The other one journals what this one could not, and both show it.
        stage.cluster.await_journaled(&stage.streamer, &taken).await;
        stage.cluster.await_shown(&stage.streamer, &stage.overlays.each_ref()).await;
        assert_degraded(&stage.cluster.nodes[0]).await;
        stage.cluster.nodes[0].postgres.heal();
        stage.assert_recovered(&taken).await;
    }
}

#[tokio::test]
async fn votes_survive_a_postgresql_without_a_free_connection() {
    let stage = Stage::set().await;
    let hog = Hog::take_all(&stage).await;
    let taken = stage.votes_are_queued().await;
    drop(hog);
    stage.assert_recovered(&taken).await;
}

/// Has all connections that the application's role may have, and takes each one that comes free.
struct Hog(tokio::task::JoinHandle<()>);

impl Hog {
    async fn take_all(stage: &Stage) -> Hog {
        let superuser = connect(&stage.servers.superuser_url).await;
        let url = format!("{}?application_name=hog", stage.servers.app_url);
        let (tell, told) = tokio::sync::oneshot::channel();
        let hog = tokio::spawn(async move {
            let mut connections = Vec::new();
            let mut tell = Some(tell);
            loop {
                while let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await {
                    tokio::spawn(connection);
                    connections.push(client);
                }
                let theirs = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                              WHERE usename = 'chatpulse_app' AND application_name <> 'hog'";
                let ended = superuser.query(theirs, &[]).await.expect("the superuser may end connections");
                if let Some(tell) = tell.take_if(|_| ended.is_empty()) {
                    // Err: nobody waits any more.
                    let _ = tell.send(());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        told.await.expect("no connection is left");
        Hog(hog)
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn votes_survive_a_full_disk() {
    let stage = Stage::set().await;
    let Some(disk) = SmallDisk::mount(&stage.servers) else {
        // Making a disk that is full takes rights that not everybody has who runs the tests.
        eprintln!("skipped: no right to mount a small disk");
        return;
    };
    let superuser = connect(&stage.servers.superuser_url).await;
    let path = disk.path.display();
    superuser.batch_execute(&format!("CREATE TABLESPACE small LOCATION '{path}'")).await.unwrap();
    let partitions = "SELECT inhrelid::regclass::text FROM pg_inherits
                      WHERE inhparent = 'chatpulse.session_events'::regclass";
    for row in superuser.query(partitions, &[]).await.unwrap() {
        let partition: String = row.get(0);
        superuser.batch_execute(&format!("ALTER TABLE {partition} SET TABLESPACE small")).await.unwrap();
    }
    stage.go_on().await;
    disk.fill();
    let mut taken = Vec::new();
    // What the last page still has room for is journaled.
    eventually("votes wait in the queue", async || {
        taken.extend(votes_are_taken(&stage.cluster, &stage.streamer, VOTES).await);
        stage.cluster.nodes[0].metric("chatpulse_spill_entries").await > 0.0
    })
    .await;
    taken.extend(stage.votes_are_queued().await);
    disk.free();
    stage.assert_recovered(&taken).await;
    // The disk goes before the servers, who would miss it.
    drop(stage);
}

/// A small disk of its own; unmounted when dropped, and also when this process ends before.
struct SmallDisk {
    path: PathBuf,
    watchdog: Child,
}

impl SmallDisk {
    fn mount(servers: &OwnServers) -> Option<SmallDisk> {
        let path = servers.folder("disk");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m", "chatpulse-test"])
            .arg(&path)
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            return None;
        }
        servers.give(&path);
        let watchdog = Command::new("sh")
            .args(["-c", r#"read _; umount -l "$0""#])
            .arg(&path)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        Some(SmallDisk { path, watchdog })
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    fn fill(&self) {
        // Err is what is wanted: no space is left.
        let _ = std::fs::write(self.filler(), vec![0; 8 << 20]);
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).expect("the filler is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Err: it has ended already.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        unmount(&self.path);
    }
}

fn unmount(path: &Path) {
    let _ = Command::new("umount").arg("-l").arg(path).status();
}

#[tokio::test]
async fn without_a_durable_queue_votes_are_refused_until_postgresql_is_back() {
    let servers = OwnServers::start().await;
    // The cache's server keeps nothing: what it takes would be lost with it.
    let queue_url = servers.redis_url.replace("/0", "/2");
    let stores = Stores { queue_url, ..servers.stores() };
    let mut stage = Stage::set_on(servers, stores).await;
    stage.servers.postgres.kill();
    let refused = refused(&stage).await;
    stage.servers.start_postgres().await;
    come_again(&stage, &refused).await;
}

#[tokio::test]
async fn with_postgresql_and_the_queue_gone_votes_are_refused_and_overlays_stay() {
    let mut stage = Stage::set().await;
    stage.servers.postgres.kill();
    stage.servers.queue.kill();
    stage.servers.cache.kill();
    let refused = refused(&stage).await;
    assert!(stage.overlays.iter().all(Watcher::is_open), "the bars go on decaying");
    stage.servers.start_all().await;
    come_again(&stage, &refused).await;
}

/// Votes that are refused so that Twitch delivers them again.
async fn refused(stage: &Stage) -> Vec<Chat> {
    let mut refused = Vec::new();
    for place in 0..VOTES {
        let chat = Chat::new(&stage.streamer.twitch_id, "yes");
        let answer = deliver(&stage.cluster.nodes[place % 2], &chat).await;
        answer.assert_problem(503);
        assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
        refused.push(chat);
    }
    refused
}

/// Delivers again what was refused, until it is taken.
async fn come_again(stage: &Stage, refused: &[Chat]) {
    for chat in refused {
        eventually("the vote is taken", async || deliver(&stage.cluster.nodes[0], chat).await.status == 204)
            .await;
    }
    let ids: Vec<String> = refused.iter().map(|chat| chat.message_id.clone()).collect();
    stage.assert_recovered(&ids).await;
}

#[tokio::test]
async fn settings_and_new_overlays_are_refused_with_a_plain_sentence_while_postgresql_is_away() {
    let mut stage = Stage::set().await;
    let other = stage.cluster.streamer().await;
    let admin = stage.cluster.nodes[0].admin();
    stage.servers.postgres.kill();
    let reset = admin.post(&format!("/streamers/{}/reset", stage.streamer.id)).await;
    reset.assert_refused(503);
    assert!(!reset.header("retry-after").is_empty(), "{reset:?}");
    let path = other.overlay_uuid.to_string();
    let opened =
        crate::support::overlay::Overlay::open(stage.cluster.nodes[0].instance.public, &path, &[]).await;
    assert_eq!(opened.err(), Some(503), "a cold start is impossible");
    stage.servers.start_postgres().await;
    tokio::time::timeout(Duration::from_secs(30), stage.cluster.nodes[0].watch(&other)).await.unwrap();
    stage.assert_recovered(&[]).await;
}
