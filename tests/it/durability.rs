//! What is acknowledged is kept, and chat that is no vote costs no database anything.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use chatpulse::domain::session::{Session, evolve};
use chatpulse::journal::codec::decode_session_event;
use chatpulse::local::Servers;
use deadpool_redis::redis;
use futures_util::future::join_all;
use rand::RngExt;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::eventually;
use crate::support::instance::{Instance, Stores, Streamer};
use crate::support::servers::{PROGRAM, connect, query};
use crate::support::twitch::Chat;

/// Stores on servers that nobody else uses, so that what they do can be put down to one instance.
fn own_servers() -> Stores {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let program = std::path::Path::new(PROGRAM);
    let servers = Servers::start(program, dir.path(), false).unwrap_or_else(|error| panic!("{error}"));
    let urls = servers.urls().clone();
    let (superuser, _) = urls.superuser_url.rsplit_once('/').expect("a URL with a database");
    let guard: (Servers, TempDir) = (servers, dir);
    Stores {
        superuser_url: format!("{superuser}/chatpulse"),
        app_url: urls.database_url,
        owner_url: urls.migrate_url,
        redis_url: urls.redis_url,
        queue_url: urls.queue_url,
        _guard: Box::new(guard),
    }
}

#[tokio::test]
async fn what_was_answered_204_survives_kill_9_exactly_once() {
    let mut instance = Instance::start(&[]).await;
    let streamers = [instance.streamer(&["yes"], &["no"]).await, instance.streamer(&["yes"], &["no"]).await];
    let mut accepted: [HashSet<String>; 2] = Default::default();
    let mut unanswered: Vec<Chat> = Vec::new();
    for round in 0..3 {
        let mut overlays = join_all(streamers.iter().map(|streamer| instance.overlay(streamer))).await;
        let votes_until_kill = rand::rng().random_range(20..200);
        let (taken, lost) = vote_until_killed(&mut instance, &streamers, votes_until_kill).await;
        assert!(taken.len() >= votes_until_kill, "round {round}");
        for chat in taken {
            let place = usize::from(chat.broadcaster == streamers[1].twitch_id);
            accepted[place].insert(chat.message_id);
        }
        unanswered.extend(lost);
        overlays.clear();
        instance.start_again().await;
        for (streamer, accepted) in streamers.iter().zip(&accepted) {
            assert_kept(&instance, streamer, accepted).await;
            assert_hello_is_the_journals_state(&instance, streamer).await;
        }
    }

    // What got no answer is delivered again, and counts once whether it had been journaled or not.
    let _overlays = join_all(streamers.iter().map(|streamer| instance.overlay(streamer))).await;
    let twitch = instance.twitch();
    for chat in &unanswered {
        twitch.chat(chat).await;
        let place = usize::from(chat.broadcaster == streamers[1].twitch_id);
        accepted[place].insert(chat.message_id.clone());
    }
    for (streamer, accepted) in streamers.iter().zip(&accepted) {
        assert_kept(&instance, streamer, accepted).await;
        assert_eq!(instance.voted(streamer).await.len(), accepted.len(), "nothing but what was sent");
    }
}

/// Votes over several connections, each vote a viewer's first, and kills the instance after this many
/// answers. Answers which votes got a 204, and which got no answer.
async fn vote_until_killed(
    instance: &mut Instance,
    streamers: &[Streamer; 2],
    answers: usize,
) -> (Vec<Chat>, Vec<Chat>) {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let voters: Vec<_> = (0..6)
        .map(|voter| {
            let (twitch, tell) = (instance.twitch(), tell.clone());
            let broadcaster = streamers[voter % 2].twitch_id.clone();
            tokio::spawn(async move {
                loop {
                    let chat = Chat::new(&broadcaster, if rand::random() { "yes" } else { "no" });
                    match twitch.try_post(&chat.signed()).await {
                        Ok(answer) => {
                            assert_eq!(answer.status, 204);
                            tell.send(chat).expect("the test listens");
                        }
                        Err(_) => return chat,
                    }
                }
            })
        })
        .collect();
    drop(tell);
    let mut taken = Vec::new();
    while taken.len() < answers {
        taken.push(told.recv().await.expect("the voters vote"));
    }
    instance.kill();
    let lost = join_all(voters).await.into_iter().map(|lost| lost.expect("only 204 is answered")).collect();
    while let Some(chat) = told.recv().await {
        taken.push(chat);
    }
    (taken, lost)
}

async fn assert_kept(instance: &Instance, streamer: &Streamer, accepted: &HashSet<String>) {
    let voted = instance.voted(streamer).await;
    let once: HashSet<&String> = voted.iter().collect();
    assert_eq!(once.len(), voted.len(), "no vote counts twice");
    let lost: Vec<&String> = accepted.iter().filter(|id| !once.contains(id)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

/// A new overlay's first frame shows what the journal's events add up to.
async fn assert_hello_is_the_journals_state(instance: &Instance, streamer: &Streamer) {
    let state = instance.overlay(streamer).await.hello["state"].clone();
    // What was under way at the kill may still be committed after that frame.
    let version = state["version"].as_i64().expect("a version") % (1 << 32);
    let head = fold(instance, streamer, version).await;
    assert_eq!(state["version"], head.frame_version());
    assert_eq!(state["for"], head.mood.for_count);
    assert_eq!(state["against"], head.mood.against_count);
    assert_eq!(state["at"], head.mood.at.0);
    let value = state["value"].as_f64().expect("a value");
    assert!((value - head.mood.value).abs() < 1e-9, "{value} is not {}", head.mood.value);
}

/// The streamer's newest session, folded from its events up to a version.
async fn fold(instance: &Instance, streamer: &Streamer, version: i64) -> Session {
    let sql = "SELECT e.type, e.schema_version, e.data FROM chatpulse.events e
               WHERE e.stream_id = (SELECT 'session-' || session_id FROM chatpulse.sessions
                                    WHERE streamer_id = $1 ORDER BY ordinal DESC LIMIT 1)
                     AND e.version <= $2
               ORDER BY e.version";
    let rows =
        instance.sql().await.query(sql, &[&streamer.id, &version]).await.expect("the journal can be read");
    let event = |row: &tokio_postgres::Row| decode_session_event(row.get(0), row.get(1), row.get(2));
    let events = rows.iter().map(|row| event(row).expect("this release reads its events"));
    events.fold(None, |state, event| evolve(state, &event)).expect("a session")
}

/// By PostgreSQL's own books: nothing that was acknowledged waits to be written out.
#[tokio::test]
async fn an_acknowledged_vote_is_flushed_to_disk_as_postgresql_counts() {
    let instance = Instance::start_on(own_servers(), &[]).await;
    let (streamer, _overlay) = instance.watched().await;
    let sql = connect(&instance.stores.superuser_url).await;
    let flushed = "SELECT pg_current_wal_flush_lsn()::text,
                          pg_current_wal_flush_lsn() > $1::text::pg_lsn";
    let inserted = "SELECT pg_current_wal_insert_lsn()::text";
    for _ in 0..20 {
        let before: String = sql.query_one(inserted, &[]).await.unwrap().get(0);
        instance.twitch().say(&streamer.twitch_id, "yes").await;
        let row = sql.query_one(flushed, &[&before]).await.unwrap();
        assert!(
            row.get::<_, bool>(1),
            "{before} was inserted, and flushed up to {}",
            row.get::<_, String>(0)
        );
    }
}

/// By the kernel's: between a vote's request and its answer a process of PostgreSQL has waited for the disk.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_204_of_a_vote_waits_for_the_disk() {
    // Being watched makes a server slow.
    let settings = [("CHATPULSE_DATABASE__APPEND_TIMEOUT_MS", "1200")];
    let instance = Instance::start_on(own_servers(), &settings).await;
    let (streamer, _overlay) = instance.watched().await;
    // What is done once for each connection is done.
    instance.twitch().say(&streamer.twitch_id, "yes").await;
    let trace = strace::Trace::start(&strace::server_pids(&instance).await).await;
    let mut votes = Vec::new();
    for _ in 0..5 {
        let sent = strace::now();
        instance.twitch().say(&streamer.twitch_id, "yes").await;
        votes.push((sent, strace::now()));
    }
    let (syncs, text) = trace.end().await;
    for (sent, answered) in votes {
        let within = syncs.iter().filter(|end| (sent..=answered).contains(*end)).count();
        assert!(within > 0, "no sync ended between {sent} and {answered}:\n{text}");
    }
}

#[cfg(target_os = "linux")]
mod strace {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};
    use std::time::{SystemTime, UNIX_EPOCH};

    use tempfile::NamedTempFile;

    use super::{Instance, connect};
    use crate::support::instance::signal;

    const HELP: &str = "this test watches PostgreSQL with strace: install the package strace, and where \
                        attaching is not permitted run the tests as root, set kernel.yama.ptrace_scope=0, or \
                        give the container the capability SYS_PTRACE";

    /// Unix seconds.
    pub fn now() -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970").as_secs_f64()
    }

    /// The processes of the instance's PostgreSQL that may write out its log.
    pub async fn server_pids(instance: &Instance) -> Vec<u32> {
        let sql = "SELECT pid FROM pg_stat_activity
                   WHERE backend_type = 'walwriter' OR application_name = 'chatpulse'";
        let rows = connect(&instance.stores.superuser_url).await.query(sql, &[]).await;
        let mut pids: Vec<u32> =
            rows.expect("the processes are known").iter().map(|row| row.get::<_, i32>(0) as u32).collect();
        // Their parent too: what it starts from now on is followed.
        let status = std::fs::read_to_string(format!("/proc/{}/status", pids[0])).expect("it runs here");
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("it has a parent");
        pids.push(parent.trim().parse().expect("a number"));
        pids
    }

    /// A running strace; killed when dropped.
    pub struct Trace {
        child: Child,
        output: NamedTempFile,
    }

    impl Trace {
        /// Attaches to all these processes.
        pub async fn start(pids: &[u32]) -> Trace {
            let output = NamedTempFile::new().expect("a file can be made");
            let mut command = Command::new("strace");
            command.args(["-f", "-ttt", "-T", "-e", "trace=fdatasync,fsync,sync_file_range,msync", "-o"]);
            command.arg(output.path());
            pids.iter().for_each(|pid| {
                command.args(["-p", &pid.to_string()]);
            });
            let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
            let mut child = child.unwrap_or_else(|error| panic!("{HELP} ({error})"));
            let mut messages = BufReader::new(child.stderr.take().expect("it is piped")).lines();
            // One line for each process; nothing more is written until something ends.
            let mut attached = 0;
            while attached < pids.len() {
                match messages.next() {
                    Some(Ok(line)) if line.contains("attached") => attached += 1,
                    Some(Ok(line)) if line.contains("ptrace") => panic!("{HELP} ({line})"),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => panic!("{HELP} (strace ended)"),
                }
            }
            std::thread::spawn(move || messages.map_while(Result::ok).count());
            Trace { child, output }
        }

        /// Detaches; answers when syncs ended (Unix seconds), and all that was seen.
        pub async fn end(mut self) -> (Vec<f64>, String) {
            signal("INT", self.child.id());
            super::eventually("strace ends", async || self.child.try_wait().expect("a child").is_some())
                .await;
            let text = std::fs::read_to_string(self.output.path()).expect("strace has written");
            (text.lines().filter_map(sync_end).collect(), text)
        }
    }

    impl Drop for Trace {
        fn drop(&mut self) {
            // Err: it has ended already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    /// When the sync of a line like `123 1700000000.123456 fdatasync(5) = 0 <0.000789>` ended.
    fn sync_end(line: &str) -> Option<f64> {
        let (call, took) = line.rsplit_once(" = 0 <")?;
        let begun: f64 = call.split_whitespace().nth(1)?.parse().ok()?;
        // The line of a call that another one interrupted on paper is written at its end.
        let took: f64 =
            if call.contains("resumed>") { 0.0 } else { took.trim_end_matches('>').parse().ok()? };
        Some(begun + took)
    }

    #[test]
    fn the_end_of_a_sync_is_read() {
        assert_eq!(sync_end("12 1000.5 fdatasync(5) = 0 <0.25>"), Some(1000.75));
        assert_eq!(sync_end("12 1000.5 <... fdatasync resumed>) = 0 <0.25>"), Some(1000.5));
        assert_eq!(sync_end("12 1000.5 fdatasync(5 <unfinished ...>"), None);
        assert_eq!(sync_end("12 1000.5 fdatasync(5) = -1 EIO (Input/output error) <0.25>"), None);
    }
}

/// Redis commands of connections, of looking whether Redis is there, and of a tick that asks what changed.
const REDIS_PERIODIC: [&str; 15] = [
    "ping",
    "unwatch",
    "info",
    "select",
    "hello",
    "client|setinfo",
    "config|resetstat",
    "config|get",
    "fcall",
    "get",
    "hget",
    "hmget",
    "zrangebyscore",
    "xlen",
    "xinfo|consumers",
];
/// Statements of the directory's feed, the lease, the comparison, and of asking for the statements.
const SQL_PERIODIC: [&str; 11] = [
    "pg_snapshot_xmin",
    "chatpulse.renew_lease",
    "chatpulse.drop_lapsed",
    "chatpulse.end_orphans",
    "pg_stat_statements",
    "LISTEN",
    "instances",
    "live_sessions",
    "chatpulse.sessions",
    "up_since",
    "SELECT $1",
];
/// What writing a batch of what was said takes, whatever is in it.
const REDIS_BATCH: [&str; 5] = ["lindex", "rpush", "ltrim", "pexpire", "zadd"];
/// How often such a command comes at most in so long: a batch is written once a second, and takes some of each.
fn redis_batch_max(elapsed: Duration) -> i64 {
    3 * (2 + elapsed.as_secs() as i64)
}

/// How often a Redis command of those comes at most in so long: 64 buckets are asked every three seconds.
fn redis_periodic_max(elapsed: Duration) -> i64 {
    150 + elapsed.as_millis() as i64 / 25
}

/// How often a statement of those comes at most in so long.
fn sql_periodic_max(elapsed: Duration) -> i64 {
    60 + elapsed.as_millis() as i64 / 100
}

#[tokio::test]
async fn chat_that_is_no_vote_never_reaches_postgresql_and_redis_once_a_second() {
    let stores = own_servers();
    let superuser = connect(&stores.superuser_url).await;
    superuser
        .batch_execute("CREATE EXTENSION pg_stat_statements")
        .await
        .expect("pg_stat_statements is there");
    let instance = Instance::start_on(stores, &[]).await;
    let (streamer, mut overlay) = instance.watched().await;
    let twitch = instance.twitch();
    twitch.say(&streamer.twitch_id, "yes").await;
    overlay.next_frame("sentiment").await;
    // What the session's start and the vote bring about comes to its end.
    eventually("calm", async || {
        let before = redis_commands(&instance).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let after = redis_commands(&instance).await;
        after
            .iter()
            .all(|(name, calls)| REDIS_PERIODIC.contains(&name.as_str()) || before.get(name) == Some(calls))
    })
    .await;

    let began = Instant::now();
    let (redis_before, sql_before) = (redis_commands(&instance).await, statements(&superuser).await);
    let chat: Vec<Chat> = (0..2000).map(|n| Chat::new(&streamer.twitch_id, &format!("hello {n}"))).collect();
    for batch in chat.chunks(50) {
        join_all(batch.iter().map(|chat| twitch.chat(chat))).await;
    }
    let (redis_after, sql_after) = (redis_commands(&instance).await, statements(&superuser).await);
    let elapsed = began.elapsed();
    for (command, calls) in more(&redis_before, &redis_after) {
        let max = match command.as_str() {
            batch if REDIS_BATCH.contains(&batch) => redis_batch_max(elapsed),
            periodic if REDIS_PERIODIC.contains(&periodic) => redis_periodic_max(elapsed),
            _ => 0,
        };
        assert!(calls <= max, "{calls} times {command}");
    }
    for (statement, calls) in more(&sql_before, &sql_after) {
        let periodic = SQL_PERIODIC.iter().any(|known| statement.contains(known));
        assert!(periodic && calls <= sql_periodic_max(elapsed), "{calls} times {statement}");
    }
    assert_eq!(instance.metrics().await["chatpulse_webhook_requests_total{outcome=\"no_vote\"}"], 2000.0);
}

/// What `after` counts more than `before`.
fn more(before: &BTreeMap<String, i64>, after: &BTreeMap<String, i64>) -> Vec<(String, i64)> {
    let difference = |(name, calls): (&String, &i64)| (name.clone(), calls - before.get(name).unwrap_or(&0));
    after.iter().map(difference).filter(|(_, calls)| *calls > 0).collect()
}

/// How often each Redis command was called, on both servers.
async fn redis_commands(instance: &Instance) -> BTreeMap<String, i64> {
    let mut commands = BTreeMap::new();
    for url in [&instance.stores.redis_url, &instance.stores.queue_url] {
        let text: String = query(url, redis::cmd("INFO").arg("commandstats")).await.expect("Redis answers");
        for line in text.lines().filter_map(|line| line.strip_prefix("cmdstat_")) {
            let (name, calls) = line.split_once(":calls=").expect("a command and its calls");
            let calls: i64 = calls.split(',').next().and_then(|calls| calls.parse().ok()).expect("a number");
            *commands.entry(name.to_owned()).or_default() += calls;
        }
    }
    commands
}

/// How often each statement was called in the instance's database.
async fn statements(superuser: &tokio_postgres::Client) -> BTreeMap<String, i64> {
    let sql =
        "SELECT query, sum(calls)::bigint FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
               WHERE d.datname = current_database() GROUP BY query";
    let rows = superuser.query(sql, &[]).await.expect("the statements are counted");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// A session that nobody could mistake: its totals are the number of its votes.
#[tokio::test]
async fn totals_are_the_votes_under_load_from_many_connections() {
    let instance = Instance::start(&[]).await;
    let (streamer, mut overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let voting = join_all((0..8).map(async |voter| {
        for _ in 0..25 {
            twitch.say(&streamer.twitch_id, if voter % 4 == 0 { "no" } else { "yes" }).await;
        }
    }));
    let (_, frames) = tokio::join!(voting, overlay.frames_until_votes(200));
    let last: &Value = frames.last().expect("a frame");
    let head = fold(&instance, &streamer, i64::MAX).await;
    assert_eq!((last["for"].as_i64(), last["against"].as_i64()), (Some(150), Some(50)));
    assert_eq!((head.mood.for_count, head.mood.against_count), (150, 50));
    assert_eq!(last["version"], head.frame_version());
}
