//! The hot state against real Redis servers, one of its own for each test.

mod cache;
mod changes;
mod chat;
mod deny;
mod holders;
mod limits;
mod moves;
mod queue;
mod replies;
mod spill;

use std::collections::HashSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, FromRedisValue, Value, aio::MultiplexedConnection, cmd,
};
use futures_util::StreamExt;
use proptest::prelude::*;
use uuid::Uuid;

use super::changes::{Change, Cursor};
use super::debounce::{Claim, Claimed};
use super::keys::{self, Bucket};
use super::limits::{Limit, Limits};
use super::mirror::{MirrorEntry, Mirrored, mirror_call};
use super::queue::{Failed, Queue};
use super::{Hot, HotError, HotOptions};
use crate::domain::holders::Holders;
use crate::domain::sentiment::{Impulse, Model, Mood, Params, Side};
use crate::domain::session::Session;
use crate::domain::time::Millis;

/// Long enough for a busy machine: no test measures time.
const PATIENCE: Duration = Duration::from_secs(20);
const EPOCH: Millis = Millis(1_763_700_000_000);

// Servers -------------------------------------------------------------------------------------

/// A private redis-server; ends with this value.
struct Server {
    process: Child,
    directory: tempfile::TempDir,
    url: String,
    options: &'static [&'static str],
}

impl Server {
    /// A server that listens on a socket file only.
    async fn start() -> Server {
        Server::start_with(&[]).await
    }

    async fn start_with(options: &'static [&'static str]) -> Server {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let url = format!("redis+unix://{}", directory.path().join("r.sock").display());
        let process = spawn_on_socket(&directory, options);
        Server { process, directory, url, options }.ready().await
    }

    /// A cluster of one node that owns all slots.
    async fn start_cluster() -> Server {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (port, bus) = (free_port(), free_port());
        let (port, bus) = (port.to_string(), bus.to_string());
        let options =
            ["--port", &port, "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-port", &bus];
        let process = spawn(&directory, &options);
        let url = format!("redis://127.0.0.1:{port}");
        let server = Server { process, directory, url, options: &[] }.ready().await;
        let mut connection = server.connection().await;
        let slots = cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(0).arg(16383).clone();
        slots.exec_async(&mut connection).await.expect("the slots");
        until(async || raw::<String>(&server, &["CLUSTER", "INFO"]).await.contains("cluster_state:ok")).await;
        server
    }

    async fn ready(self) -> Server {
        until(async || {
            let client = Client::open(self.url.as_str()).expect("a URL");
            client.get_multiplexed_async_connection().await.is_ok()
        })
        .await;
        self
    }

    /// The same server again after it was stopped, empty unless its options keep what it had.
    async fn start_again(mut self) -> Server {
        self.process = spawn_on_socket(&self.directory, self.options);
        self.ready().await
    }

    fn stop(&mut self) {
        self.process.kill().expect("a running server");
        self.process.wait().expect("an ended server");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.process.id().to_string()]).status();
        assert!(status.expect("the program kill").success());
    }

    async fn connection(&self) -> MultiplexedConnection {
        let client = Client::open(self.url.as_str()).expect("a URL");
        // The library gives up after half a second, which flushing to a busy disk may take.
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        client.get_multiplexed_async_connection_with_config(&config).await.expect("a connection")
    }

    fn hot(&self) -> Hot {
        self.hot_within(PATIENCE)
    }

    fn hot_within(&self, command_timeout: Duration) -> Hot {
        hot_at(vec![self.url.clone()], command_timeout)
    }

    /// As a cluster: one address for all of it is that address, twice.
    fn cluster_hot(&self) -> Hot {
        hot_at(vec![self.url.clone(), self.url.clone()], PATIENCE)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn hot_at(urls: Vec<String>, command_timeout: Duration) -> Hot {
    let options = HotOptions { urls, pool_size: 4, command_timeout, connect_timeout: PATIENCE };
    Hot::connect(&options).expect("a usable URL")
}

fn spawn_on_socket(directory: &tempfile::TempDir, options: &[&str]) -> Child {
    let socket = directory.path().join("r.sock").to_string_lossy().into_owned();
    spawn(directory, &[&["--port", "0", "--unixsocket", &socket], options].concat())
}

fn spawn(directory: &tempfile::TempDir, options: &[&str]) -> Child {
    Command::new("redis-server")
        .args(["--save", "", "--appendonly", "no", "--dir", &directory.path().to_string_lossy()])
        .args(options)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server 7 is needed for this test; install it (apt-get install redis-server)")
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the condition to come true");
}

async fn raw<T: FromRedisValue>(server: &Server, words: &[&str]) -> T {
    let mut connection = server.connection().await;
    let mut command = cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut connection).await.expect("an answer")
}

// States ---------------------------------------------------------------------------------------

const DECAY: Params = Params { model: Model::Decay, vote_delta: 10.0, decay_speed: 1.0, window_seconds: 30 };

fn session(streamer_id: Uuid, ordinal: i64, version: i64) -> Session {
    let mood = Mood { at: EPOCH, value: 37.5, for_count: 12, against_count: 3, seconds: Vec::new() };
    Session {
        streamer_id,
        ordinal,
        version,
        config_version: 3,
        params: DECAY,
        mood,
        started_at: EPOCH,
        reset_at: None,
        ended_at: None,
    }
}

/// An entry whose session id follows from the ordinal.
fn entry(session: &Session) -> MirrorEntry<'_> {
    let session_id = Uuid::from_u128(session.streamer_id.as_u128() + session.ordinal as u128);
    MirrorEntry {
        session_id,
        twitch_user_id: "4711",
        session,
        config_json: r#"{"theme":"dark"}"#,
        config_json_version: session.config_version,
    }
}

async fn mirror(hot: &Hot, session: &Session) -> Mirrored {
    hot.mirror(&[entry(session)]).await.expect("an answer").remove(0)
}

/// The session's holders after `version` changes of them.
fn held_by(session: &Session, version: i64, instances: &[Uuid]) -> Holders {
    Holders {
        streamer_id: session.streamer_id,
        ordinal: session.ordinal,
        version,
        ids: instances.to_vec(),
        unheld_since: None,
    }
}

fn unheld(session: &Session, version: i64, since: Millis) -> Holders {
    Holders { unheld_since: Some(since), ..held_by(session, version, &[]) }
}

async fn note(hot: &Hot, holders: &Holders) -> Mirrored {
    hot.note_holders(std::slice::from_ref(holders)).await.expect("an answer").remove(0)
}

async fn frame_version(hot: &Hot, streamer_id: Uuid) -> Option<(i64, i64)> {
    let read = hot.read(streamer_id, EPOCH).await.expect("an answer")?;
    Some((read.session.ordinal, read.session.version))
}

async fn changes(hot: &Hot, bucket: Bucket, cursor: &mut Cursor) -> (bool, Vec<Change>) {
    let answer = hot.changes_since(&[(bucket, cursor.clone())]).await.expect("an answer").remove(0);
    *cursor = answer.cursor;
    (answer.reset, answer.changed)
}

/// Streamers that share one bucket.
fn neighbours(n: u128) -> Vec<Uuid> {
    let first = Uuid::new_v4().as_u128() & !0xffff_0000;
    (0..n).map(|i| Uuid::from_u128(first + (i << 16))).collect()
}

fn change(session: &Session) -> Change {
    Change { streamer_id: session.streamer_id, version: session.frame_version() }
}

// The mirror -----------------------------------------------------------------------------------

#[tokio::test]
async fn what_is_mirrored_reads_back_the_same() {
    let server = Server::start().await;
    let hot = server.hot();
    let mut state = session(Uuid::now_v7(), 2, 5);
    state.params = Params { model: Model::Window, vote_delta: 0.1, decay_speed: 0.3, window_seconds: 120 };
    state.reset_at = Some(Millis(EPOCH.0 - 1));
    state.mood.value = 0.1 + 0.2;
    let vote = Impulse { t: EPOCH, side: Side::Against, weight: 1.0 };
    state.mood.apply(&state.params, &[vote], Millis(EPOCH.0 + 1));

    assert_eq!(mirror(&hot, &state).await, Mirrored::Written);
    let read = hot.read(state.streamer_id, EPOCH).await.unwrap().unwrap();
    assert_eq!(read.session, state);
    assert_eq!((read.session_id, read.twitch_user_id.as_str()), (entry(&state).session_id, "4711"));
    assert_eq!(read.config_json, entry(&state).config_json);
    let broadcaster: String = raw(&server, &["GET", "chatpulse:broadcaster:4711"]).await;
    assert_eq!(broadcaster, state.streamer_id.to_string());
    assert_eq!(hot.read(Uuid::now_v7(), EPOCH).await.unwrap(), None);
}

#[tokio::test]
async fn the_newer_version_wins_over_sessions_too() {
    let server = Server::start().await;
    let hot = server.hot();
    let id = Uuid::now_v7();
    assert_eq!(mirror(&hot, &session(id, 1, 7)).await, Mirrored::Written);
    assert_eq!(mirror(&hot, &session(id, 1, 6)).await, Mirrored::Older);
    assert_eq!(mirror(&hot, &session(id, 1, 7)).await, Mirrored::Older);
    assert_eq!(mirror(&hot, &session(id, 2, 1)).await, Mirrored::Written);
    assert_eq!(mirror(&hot, &session(id, 1, 4_000_000_000)).await, Mirrored::Older);
    // As far as a double counts exactly.
    assert_eq!(mirror(&hot, &session(id, (1 << 21) - 1, 8)).await, Mirrored::Written);
    assert_eq!(mirror(&hot, &session(id, (1 << 21) - 1, 7)).await, Mirrored::Older);
    assert_eq!(frame_version(&hot, id).await, Some(((1 << 21) - 1, 8)));
}

#[tokio::test]
async fn an_equal_version_is_written_again_only_when_the_hash_is_gone() {
    let server = Server::start().await;
    let hot = server.hot();
    let state = session(Uuid::now_v7(), 1, 7);
    mirror(&hot, &state).await;
    assert_eq!(mirror(&hot, &state).await, Mirrored::Older);
    let _: i64 = raw(&server, &["DEL", &keys::session(state.streamer_id)]).await;
    assert_eq!(mirror(&hot, &state).await, Mirrored::Written);
}

#[tokio::test]
async fn a_state_that_cannot_be_is_refused_and_spoils_no_other() {
    let server = Server::start().await;
    let hot = server.hot();
    let good = session(Uuid::now_v7(), 1, 1);
    let mut bad = session(Uuid::now_v7(), 1, 1);
    bad.mood.value = f64::NAN;
    let answers = hot.mirror(&[entry(&bad), entry(&good)]).await.unwrap();
    assert!(
        matches!(&answers[0], Mirrored::Refused(why) if why.contains("value is no number")),
        "{answers:?}"
    );
    assert_eq!(answers[1], Mirrored::Written);
    assert_eq!(hot.read(bad.streamer_id, EPOCH).await.unwrap(), None);
}

#[tokio::test]
async fn going_back_to_the_decay_model_drops_the_seconds() {
    let server = Server::start().await;
    let hot = server.hot();
    let mut state = session(Uuid::now_v7(), 1, 1);
    state.params.model = Model::Window;
    mirror(&hot, &state).await;
    state.params.model = Model::Decay;
    state.config_version += 1;
    state.version = 2;
    mirror(&hot, &state).await;
    let there: i64 = raw(&server, &["HEXISTS", &keys::session(state.streamer_id), "seconds"]).await;
    assert_eq!(there, 0);
}

#[tokio::test]
async fn more_sessions_than_one_pipeline_takes_are_mirrored_and_read_in_order() {
    let server = Server::start().await;
    let hot = server.hot();
    let states: Vec<Session> = (0..1200).map(|i| session(Uuid::now_v7(), 1, i + 1)).collect();
    let entries: Vec<MirrorEntry<'_>> = states.iter().map(entry).collect();
    let answers = hot.mirror(&entries).await.unwrap();
    assert_eq!(answers, vec![Mirrored::Written; 1200]);
    let ids: Vec<Uuid> = states.iter().map(|state| state.streamer_id).collect();
    let read = hot.read_all(&ids, EPOCH).await.unwrap();
    assert!(read.iter().zip(&states).all(|(read, state)| read.as_ref().unwrap().session == *state));
}

// Ended sessions -------------------------------------------------------------------------------

#[tokio::test]
async fn an_ended_session_leaves_no_key_without_a_life_and_does_not_come_back() {
    let server = Server::start().await;
    let hot = server.hot();
    let state = session(Uuid::now_v7(), 3, 9);
    mirror(&hot, &state).await;
    note(&hot, &held_by(&state, 1, &[Uuid::now_v7()])).await;
    assert!(hot.remove(state.streamer_id, 3).await.unwrap());
    assert_eq!(mirror(&hot, &session(state.streamer_id, 3, 10)).await, Mirrored::Older);
    assert_eq!(hot.read(state.streamer_id, EPOCH).await.unwrap(), None);
    for key in raw::<Vec<String>>(&server, &["KEYS", "*"]).await {
        let life: i64 = raw(&server, &["PTTL", &key]).await;
        assert!(life > 0, "{key} lives for ever");
    }
    assert_eq!(mirror(&hot, &session(state.streamer_id, 4, 1)).await, Mirrored::Written);
}

#[tokio::test]
async fn removing_a_session_spares_a_newer_one() {
    let server = Server::start().await;
    let hot = server.hot();
    let state = session(Uuid::now_v7(), 4, 1);
    mirror(&hot, &state).await;
    note(&hot, &held_by(&state, 1, &[Uuid::now_v7()])).await;
    assert!(!hot.remove(state.streamer_id, 3).await.unwrap());
    assert_eq!(frame_version(&hot, state.streamer_id).await, Some((4, 1)));
    assert_eq!(hot.ref_count(state.streamer_id).await.unwrap(), 1);
    let broadcaster: Option<String> = raw(&server, &["GET", "chatpulse:broadcaster:4711"]).await;
    assert!(broadcaster.is_some());
}

// The arithmetic -------------------------------------------------------------------------------

/// Age in milliseconds, whether for, whether cast after the last reset.
type Vote = (i64, bool, bool);

#[derive(Clone, Debug)]
struct History {
    params: Params,
    /// Milliseconds since the batch before, and the votes.
    batches: Vec<(i64, Vec<Vote>)>,
    /// From the last batch to the reading.
    read_after_ms: i64,
}

fn histories() -> impl Strategy<Value = History> {
    let vote = (0i64..150_000, any::<bool>(), prop::bool::weighted(0.9));
    let gap = prop_oneof![0i64..200, 0i64..5_000, 0i64..200_000];
    let batch = (gap.clone(), prop::collection::vec(vote, 0..6));
    let params = (any::<bool>(), 1.0f64..50.0, 0.1f64..5.0, 5i64..=120);
    (params, prop::collection::vec(batch, 1..12), prop_oneof![Just(-5i64), gap]).prop_map(
        |((decay, vote_delta, decay_speed, window_seconds), batches, read_after_ms)| {
            let model = if decay { Model::Decay } else { Model::Window };
            let params = Params { model, vote_delta, decay_speed, window_seconds };
            History { params, batches, read_after_ms }
        },
    )
}

/// The session after a history, and when it is to be read.
fn lived(history: &History) -> (Session, Millis) {
    let mut state = session(Uuid::now_v7(), 1, 1);
    state.params = history.params;
    state.mood = Mood { at: EPOCH, ..Mood::default() };
    let mut now = EPOCH;
    for (gap, votes) in &history.batches {
        now.0 += gap;
        let impulse = |(age, is_for, counts): &Vote| Impulse {
            t: Millis(now.0 - age),
            side: if *is_for { Side::For } else { Side::Against },
            weight: f64::from(u8::from(*counts)),
        };
        let votes: Vec<Impulse> = votes.iter().map(impulse).collect();
        state.mood.apply(&state.params, &votes, now);
    }
    (state, Millis(now.0 + history.read_after_ms))
}

#[test]
fn lua_computes_the_same_value_as_the_domain_for_any_history() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(Server::start());
    let hot = server.hot();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) };
    proptest!(config, |(history in histories())| {
        let (state, now) = lived(&history);
        let read = runtime.block_on(async {
            mirror(&hot, &state).await;
            hot.read(state.streamer_id, now).await.unwrap().unwrap()
        });
        prop_assert_eq!(&read.session, &state);
        let wanted = state.mood.value_at(&state.params, now);
        prop_assert!((read.value_now - wanted).abs() <= 1e-9, "{} instead of {wanted}", read.value_now);
    });
}

// Debounce -------------------------------------------------------------------------------------

fn claim<'a>(streamer_id: Uuid, viewer: &'a str, message_id: &'a str) -> Claim<'a> {
    Claim { streamer_id, viewer, message_id, ttl_ms: 60_000 }
}

#[tokio::test]
async fn one_message_a_viewer_passes_and_its_redelivery() {
    let server = Server::start().await;
    let hot = server.hot();
    let (id, other) = (Uuid::now_v7(), Uuid::now_v7());
    let claims = [
        claim(id, "v", "m1"),
        claim(id, "v", "m2"),
        claim(id, "v", "m1"),
        claim(id, "w", "m3"),
        claim(other, "v", "m4"),
        Claim { ttl_ms: 0, ..claim(id, "v", "m5") },
        claim(id, "w", "m6"),
    ];
    use Claimed::{Fresh, Other, Own};
    assert_eq!(hot.claim(&claims).await.unwrap(), [Fresh, Other, Own, Fresh, Fresh, Fresh, Other]);
    let life: i64 = raw(&server, &["PTTL", &keys::debounce(id, "v")]).await;
    assert!(0 < life && life <= 60_000, "{life}");
}

#[tokio::test]
async fn a_redelivery_does_not_lengthen_the_debounce() {
    let server = Server::start().await;
    let hot = server.hot();
    let id = Uuid::now_v7();
    hot.claim(&[claim(id, "v", "m1")]).await.unwrap();
    hot.claim(&[Claim { ttl_ms: 600_000, ..claim(id, "v", "m1") }]).await.unwrap();
    let life: i64 = raw(&server, &["PTTL", &keys::debounce(id, "v")]).await;
    assert!(life <= 60_000, "{life}");
}

#[tokio::test]
async fn a_claim_is_taken_back_only_while_it_is_the_one_noted() {
    let server = Server::start().await;
    let hot = server.hot();
    let id = Uuid::now_v7();
    hot.claim(&[claim(id, "v", "m1")]).await.unwrap();
    hot.release_claims(&[claim(id, "v", "m2")]).await.unwrap();
    assert_eq!(hot.claim(&[claim(id, "v", "m2")]).await.unwrap(), [Claimed::Other]);
    hot.release_claims(&[claim(id, "v", "m1")]).await.unwrap();
    assert_eq!(hot.claim(&[claim(id, "v", "m2")]).await.unwrap(), [Claimed::Fresh]);
}

// The server -----------------------------------------------------------------------------------

#[tokio::test]
async fn a_lost_function_library_is_loaded_again() {
    let server = Server::start().await;
    let (one, two) = (server.hot(), server.hot());
    let id = Uuid::now_v7();
    for version in 1..=3 {
        let _: String = raw(&server, &["FUNCTION", "FLUSH"]).await;
        let state = session(id, 1, version);
        let (a, b) = tokio::join!(mirror(&one, &state), mirror(&two, &state));
        assert!([a, b].contains(&Mirrored::Written));
        let _: String = raw(&server, &["FUNCTION", "FLUSH"]).await;
        assert_eq!(frame_version(&one, id).await, Some((1, version)));
    }
}

#[tokio::test]
async fn redis_away_is_noticed_skipped_and_found_again() {
    let mut server = Server::start().await;
    let hot = server.hot();
    let state = session(Uuid::now_v7(), 1, 1);
    mirror(&hot, &state).await;
    server.stop();
    for _ in 0..2 {
        assert!(hot.is_up());
        let failure = hot.mirror(&[entry(&state)]).await.unwrap_err();
        assert!(matches!(failure, HotError::Connection(_)), "{failure}");
    }
    assert!(!hot.is_up());
    assert_eq!(hot.mirror(&[entry(&state)]).await, Err(HotError::Away));
    hot.probe().await.unwrap_err();
    assert!(!hot.is_up());

    let _server = server.start_again().await;
    assert_eq!(hot.mirror(&[entry(&state)]).await, Err(HotError::Away));
    hot.probe().await.unwrap();
    assert!(hot.is_up());
    assert_eq!(mirror(&hot, &state).await, Mirrored::Written);
}

#[tokio::test]
async fn redis_away_at_the_start_is_no_reason_not_to_start() {
    let mut server = Server::start().await;
    server.stop();
    let hot = server.hot();
    hot.probe().await.unwrap_err();
    let server = server.start_again().await;
    hot.probe().await.unwrap();
    assert_eq!(mirror(&hot, &session(Uuid::now_v7(), 1, 1)).await, Mirrored::Written);
    drop(server);
}

#[tokio::test]
async fn a_frozen_redis_is_timed_out_skipped_and_found_again() {
    let server = Server::start().await;
    let hot = server.hot_within(Duration::from_millis(150));
    until(async || hot.probe().await.is_ok()).await;
    let state = session(Uuid::now_v7(), 1, 1);
    server.signal("-STOP");
    until(async || matches!(hot.mirror(&[entry(&state)]).await, Err(HotError::TimedOut { limit_ms: 150 })))
        .await;
    until(async || hot.mirror(&[entry(&state)]).await == Err(HotError::Away)).await;
    server.signal("-CONT");
    hot.probe().await.unwrap();
    assert!(hot.is_up());
}

#[tokio::test]
async fn a_refused_command_says_nothing_about_the_server_being_away() {
    let server = Server::start().await;
    let hot = server.hot();
    let id = Uuid::now_v7();
    let _: String = raw(&server, &["SET", &keys::refs(id), "no set"]).await;
    for _ in 0..3 {
        assert!(matches!(hot.ref_count(id).await, Err(HotError::Server(_))));
    }
    assert!(hot.is_up());
}

#[test]
fn a_url_that_cannot_be_used_is_named_at_the_start() {
    let options = HotOptions {
        urls: vec!["http://localhost".into()],
        pool_size: 1,
        command_timeout: PATIENCE,
        connect_timeout: PATIENCE,
    };
    assert!(matches!(Hot::connect(&options), Err(HotError::Options(_))));
}

/// On a cluster every command may only touch keys of one slot, and the MONITOR feed of the server
/// shows which keys the functions really touch: only those declared in the call.
#[tokio::test]
async fn on_a_cluster_everything_works_and_all_keys_are_declared() {
    let server = Server::start_cluster().await;
    let hot = server.hot();
    hot.probe().await.unwrap();
    let client = Client::open(server.url.as_str()).unwrap();
    let monitor = client.get_async_monitor().await.unwrap();

    use_everything(&hot).await;
    use_every_queue(&hot).await;
    chat::use_every_chat(&hot).await;
    let _: String = raw(&server, &["ECHO", "the-end"]).await;

    let mut lines = monitor.into_on_message::<Value>();
    let (mut declared, mut functions) = (HashSet::new(), HashSet::new());
    loop {
        let line = tokio::time::timeout(PATIENCE, lines.next()).await.expect("a line").expect("a line");
        let line: String = deadpool_redis::redis::from_redis_value(line).unwrap();
        let words = monitored_words(&line);
        match words[0].to_uppercase().as_str() {
            "ECHO" => break,
            "FCALL" | "FCALL_RO" => {
                functions.insert(words[1].clone());
                let count: usize = words[2].parse().unwrap();
                declared = words[3..3 + count].iter().cloned().collect();
            }
            _ if line.contains(" lua] ") => {
                let subcommands = ["XGROUP", "XINFO"].contains(&words[0].as_str());
                let key = &words[if subcommands { 2 } else { 1 }];
                assert!(declared.contains(key), "{line} touches an undeclared key");
            }
            _ => {}
        }
    }
    assert_eq!(functions.len(), 16, "{functions:?}");
}

/// Calls every function, each of their ways included that touches keys.
async fn use_everything(hot: &Hot) {
    let ids = neighbours(4);
    let states: Vec<Session> = ids.iter().map(|id| session(*id, 1, 1)).collect();
    for state in &states {
        hot.ask::<String>(mirror_call(&entry(state), "e", 2)).await.unwrap();
    }
    let many: Vec<Session> = (0..64).map(|_| session(Uuid::new_v4(), 1, 1)).collect();
    let answers = hot.mirror(&many.iter().map(entry).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(answers, vec![Mirrored::Written; 64]);
    let mut cursor = Cursor::default();
    changes(hot, Bucket::of(ids[0]), &mut cursor).await;
    let mut window = session(ids[0], 2, 1);
    window.params.model = Model::Window;
    assert_eq!(mirror(hot, &window).await, Mirrored::Written);
    let decay = Session { config_version: 4, ..session(ids[0], 2, 2) };
    assert_eq!(mirror(hot, &decay).await, Mirrored::Written);
    assert_eq!(changes(hot, Bucket::of(ids[0]), &mut cursor).await.1.len(), 1);
    assert_eq!(mirror(hot, &session(ids[3], 1, 2)).await, Mirrored::Written);
    assert_eq!(frame_version(hot, ids[0]).await, Some((2, 2)));
    let state = session(ids[0], 2, 2);
    assert_eq!(note(hot, &held_by(&state, 1, &[ids[1], ids[2]])).await, Mirrored::Written);
    assert_eq!(note(hot, &unheld(&state, 2, EPOCH)).await, Mirrored::Written);
    assert_eq!(hot.orphans(EPOCH).await.unwrap(), vec![ids[0]]);
    assert_eq!(hot.marks(&ids).await.unwrap().len(), 4);
    assert_eq!(note(hot, &held_by(&session(ids[0], 3, 0), 1, &[ids[1]])).await, Mirrored::Written);
    assert!(!hot.remove(ids[0], 2).await.unwrap());
    assert_eq!(mirror(hot, &session(ids[0], 3, 1)).await, Mirrored::Written);
    hot.discard(ids[1]).await.unwrap();
    hot.claim(&[claim(ids[0], "v", "m1"), claim(ids[1], "w", "m2")]).await.unwrap();
    hot.release_claims(&[claim(ids[0], "v", "m1"), claim(ids[1], "w", "m3")]).await.unwrap();
    assert!(hot.remove(ids[0], 3).await.unwrap());
    assert_eq!(mirror(hot, &session(ids[0], 3, 3)).await, Mirrored::Older);
    assert_eq!(note(hot, &held_by(&session(ids[0], 3, 0), 9, &[ids[1]])).await, Mirrored::Older);
}

async fn use_every_queue(hot: &Hot) {
    let queue = Queue::new(hot.clone(), queue::options("a"));
    queue.push(&[b"1".to_vec(), b"2".to_vec()]).await.unwrap();
    let taken = queue.take(9).await.unwrap();
    assert_eq!(queue.fail(&taken[0].id, "no").await.unwrap(), Failed::Again);
    queue.bury(&taken[0].id, "no").await.unwrap();
    queue.settle(&[taken[1].id.clone()]).await.unwrap();
    let letters = queue.dead_letters(None, 9).await.unwrap();
    assert!(queue.retry_dead(&letters[0].id).await.unwrap());
    let another = Queue::new(hot.clone(), queue::options("b"));
    assert_eq!(another.drop_consumers(Duration::ZERO).await.unwrap(), 1);
    let limit = Limit { module: "login", window: Duration::from_secs(1), max: 1 };
    for allowed in [true, false] {
        assert_eq!(Limits::new(hot.clone()).check(&limit, "a", EPOCH).await.unwrap().allowed, allowed);
    }
}

/// The words of a line such as `1763700000.123 [0 lua] "GET" "a key"`; none of ours holds a quote
/// but the config, which comes after the keys.
fn monitored_words(line: &str) -> Vec<String> {
    line.split(" \"").skip(1).map(|word| word.trim_end_matches('"').to_owned()).collect()
}
