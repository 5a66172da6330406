//! Are the servers in memory like the real ones? Recorded runs are replayed on PostgreSQL with the real schema
//! and on Redis with the real functions, call by call, and every answer has to be the same.
//!
//! PostgreSQL's clock is set to each call's time. Redis' clock can't be set: what expires there is deleted when
//! its time has come. Cursors and epochs are compared by what they lead to. Numbers may differ by 1e-9.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use chatpulse::domain::time::Millis;
use chatpulse::hot::changes::Cursor;
use chatpulse::hot::debounce::{Claim, Claimed};
use chatpulse::hot::mirror::MirrorEntry;
use chatpulse::hot::spill::{Durability, Spill, SpillOptions};
use chatpulse::hot::{Hot, HotOptions, keys};
use chatpulse::journal::sessions::{DirectoryCursor, IfLocked};
use chatpulse::journal::{Journal, JournalOptions};
use deadpool_redis::redis::cmd;
use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt};
use uuid::Uuid;

use super::scenario::{self, Outcome};
use super::support::database::{MigratedDatabase, TestClock, migrated};
use super::support::servers::{TestRedis, query};
use super::world::hot::{HotAnswer, HotCall, OwnedClaim, State};
use super::world::journal::{JournalAnswer, JournalCall, Targets};
use super::world::queue::{QueueAnswer, QueueCall};
use super::world::{BEGIN, Effect, Rules, Step};

/// How many runs are replayed.
const RUNS: u64 = 24;
/// How many of them at a time.
const AT_ONCE: usize = 3;
/// Longer than a replay takes: Redis forgets nothing by itself.
const LONG_MS: u64 = 3_600_000;
const PATIENCE: Duration = Duration::from_secs(120);

/// Some runs, recorded.
async fn recorded(first: u64, rules: Rules) -> Vec<(u64, Outcome)> {
    // A run has a runtime of its own, which can't be inside of the test's.
    let record = move || (first..first + RUNS).map(|seed| (seed, scenario::run(seed, rules, true))).collect();
    tokio::task::spawn_blocking(record).await.expect("a run does not panic")
}

/// Whether one of the replays finds an answer that differs.
async fn finds_a_difference(replays: impl Iterator<Item = impl Future>) -> bool {
    let mut replays = stream::iter(replays);
    while let Some(replay) = replays.next().await {
        if AssertUnwindSafe(replay).catch_unwind().await.is_err() {
            return true;
        }
    }
    false
}

// PostgreSQL --------------------------------------------------------------------------------------------

struct RealJournal {
    database: MigratedDatabase,
    clock: TestClock,
    instances: BTreeMap<Uuid, Journal>,
    /// What a cursor in memory is here.
    cursors: BTreeMap<DirectoryCursor, DirectoryCursor>,
}

impl RealJournal {
    async fn new() -> RealJournal {
        let database = migrated().await;
        let clock = database.take_clock(BEGIN).await;
        RealJournal { database, clock, instances: BTreeMap::new(), cursors: BTreeMap::new() }
    }

    /// The journal of a simulated instance.
    fn of(&mut self, instance: Uuid) -> Journal {
        let options = JournalOptions { pool_size: 1, connect_timeout: PATIENCE, statement_timeout: PATIENCE };
        let url = &self.database.database.app_url;
        let new = || Journal::new(url, &options, instance).expect("the test's URL can be used");
        self.instances.entry(instance).or_insert_with(new).clone()
    }

    async fn execute(&mut self, at: Millis, instance: Uuid, call: &JournalCall) -> JournalAnswer {
        self.clock.set(at).await;
        let journal = self.of(instance);
        match call {
            JournalCall::Ping => {
                journal.ping().await.unwrap();
                JournalAnswer::Done
            }
            JournalCall::Announce(streamers) => {
                journal.announce(streamers).await.unwrap();
                JournalAnswer::Done
            }
            JournalCall::Append { votes, drained } => JournalAnswer::Appended(if *drained {
                journal.append_drained(votes, "replay").await.unwrap()
            } else {
                journal.append_votes(votes, "replay").await.unwrap()
            }),
            JournalCall::Hold { targets, lease, wanted } => JournalAnswer::Held(match targets {
                Targets::Overlays => journal.hold_overlays(wanted, *lease, IfLocked::Wait).await.unwrap(),
                Targets::Streamers => journal.hold_streamers(wanted, *lease, IfLocked::Wait).await.unwrap(),
            }),
            JournalCall::Release(id) => {
                JournalAnswer::Holders(journal.release(*id).await.unwrap().into_iter().collect())
            }
            JournalCall::Leave => JournalAnswer::Holders(journal.leave().await.unwrap()),
            JournalCall::Held => JournalAnswer::Streamers(journal.held().await.unwrap()),
            JournalCall::Renew { lease, unbroken } => {
                JournalAnswer::Lease(journal.renew_lease(*lease, *unbroken).await.unwrap())
            }
            JournalCall::DropLapsed => JournalAnswer::Holders(journal.drop_lapsed().await.unwrap()),
            JournalCall::EndOrphans { streamers, orphan } => {
                JournalAnswer::Ended(journal.end_orphans(streamers.as_deref(), *orphan).await.unwrap())
            }
            JournalCall::Change { streamer_id, expected_version, event } => {
                let change = journal.append_streamer_event(*streamer_id, *expected_version, event, "replay");
                JournalAnswer::Changed(change.await.unwrap())
            }
            JournalCall::Reset(id) => JournalAnswer::Changed(journal.reset(*id, "replay").await.unwrap()),
            question => self.ask(&journal, question).await,
        }
    }

    async fn ask(&self, journal: &Journal, question: &JournalCall) -> JournalAnswer {
        match question {
            JournalCall::DirectorySince(cursor) => {
                let cursor = cursor.map(|cursor| self.cursors[&cursor]);
                let (entries, next) = journal.directory_since(cursor).await.unwrap();
                JournalAnswer::Directory(entries, next)
            }
            JournalCall::Entries(ids) => JournalAnswer::Entries(journal.entries(ids).await.unwrap()),
            JournalCall::LiveBroadcasters(ids) => {
                JournalAnswer::Entries(journal.live_broadcasters(ids).await.unwrap())
            }
            JournalCall::NewerHeads(known) => JournalAnswer::Heads(journal.newer_heads(known).await.unwrap()),
            JournalCall::HoldersOf(ids) => JournalAnswer::Holders(journal.holders(ids).await.unwrap()),
            JournalCall::Digest => JournalAnswer::Digest(journal.live_digest().await.unwrap()),
            JournalCall::Versions => JournalAnswer::Versions(journal.live_versions().await.unwrap()),
            other => unreachable!("no question: {other:?}"),
        }
    }

    /// Learns what the cursors are here, and makes answers alike that may differ.
    fn settle(&mut self, mut expected: JournalAnswer, mut real: JournalAnswer) -> [JournalAnswer; 2] {
        if let (JournalAnswer::Directory(expected, cursor), JournalAnswer::Directory(real, next)) =
            (&expected, &mut real)
        {
            self.cursors.insert(*cursor, *next);
            *next = *cursor;
            // A change may be told twice.
            real.retain(|entry| expected.iter().any(|known| known.streamer.id == entry.streamer.id));
        }
        for answer in [&mut expected, &mut real] {
            match answer {
                JournalAnswer::Directory(entries, _) | JournalAnswer::Entries(entries) => {
                    entries.sort_by_key(|entry| entry.streamer.id);
                }
                JournalAnswer::Holders(holders) => holders.sort_by_key(|holders| holders.streamer_id),
                JournalAnswer::Streamers(streamers) => streamers.sort(),
                JournalAnswer::Heads(heads) => heads.sort_by_key(|head| head.session_id),
                JournalAnswer::Appended(appended) => appended.heads.sort_by_key(|head| head.session_id),
                JournalAnswer::Ended(ended) => ended.sort_by_key(|ended| ended.session_id),
                JournalAnswer::Versions(versions) => {
                    versions.sort_by_key(|versions| versions.streamer_id);
                    versions.iter_mut().for_each(|one| one.changed = DirectoryCursor::default());
                }
                _ => {}
            }
        }
        [expected, real]
    }
}

#[tokio::test]
async fn postgresql_in_memory_answers_as_the_real_one() {
    let runs = recorded(0, Rules::default()).await;
    let replays = runs.iter().map(|(seed, outcome)| replay_journal(*seed, outcome));
    // Dropping a database blocks the thread, hence the others' time: that comes when all are done.
    let _done: Vec<RealJournal> = stream::iter(replays).buffer_unordered(AT_ONCE).collect().await;
}

#[tokio::test]
async fn a_postgresql_in_memory_that_counts_twice_is_found() {
    let runs = recorded(0, Rules { duplicate_check: false, ..Rules::default() }).await;
    let replays = runs.iter().map(|(seed, outcome)| replay_journal(*seed, outcome));
    assert!(finds_a_difference(replays).await);
}

async fn replay_journal(seed: u64, outcome: &Outcome) -> RealJournal {
    let mut journal = RealJournal::new().await;
    for (number, step) in outcome.trace.iter().enumerate() {
        match &step.effect {
            Effect::Journal(call, expected) => {
                let real = journal.execute(step.at, step.instance, call).await;
                let answers = journal.settle(expected.clone(), real);
                assert_alike(seed, number, step, &answers.map(|answer| format!("{answer:?}")));
            }
            Effect::JournalRestarted => {
                journal.clock.set(step.at).await;
                journal.clock.restart().await;
            }
            _ => {}
        }
    }
    for (session_id, stream) in &outcome.streams {
        let real = journal.of(Uuid::nil()).session_events(*session_id, 0, 10_000).await.unwrap();
        let real: Vec<_> = real.into_iter().map(|recorded| recorded.event).collect();
        let (events, real) = (format!("{:?}", stream.events), format!("{real:?}"));
        assert!(alike(&events, &real), "seed {seed}: {session_id}\n{events}\n{real}");
    }
    journal
}

// Redis -------------------------------------------------------------------------------------------------

struct RealHot {
    redis: TestRedis,
    hot: Hot,
    spills: BTreeMap<Uuid, Spill>,
    /// What a cursor in memory is here.
    cursors: HashMap<String, Cursor>,
    /// When which viewer's claim ends.
    claims: BTreeMap<(Uuid, String), Millis>,
    /// What an entry of the queue in memory is called here.
    entries: HashMap<String, String>,
}

impl RealHot {
    async fn new() -> RealHot {
        let redis = TestRedis::lease().await;
        let hot = Hot::connect(&at(&redis.redis_url)).expect("the test's URL can be used");
        RealHot {
            redis,
            hot,
            spills: BTreeMap::new(),
            cursors: HashMap::new(),
            claims: BTreeMap::new(),
            entries: HashMap::new(),
        }
    }

    async fn flush(&mut self) {
        query::<()>(&self.redis.redis_url, &cmd("FLUSHDB")).await.unwrap();
        self.claims.clear();
    }

    /// Deletes what has expired.
    async fn expire(&mut self, now: Millis) {
        let expired: Vec<_> =
            self.claims.iter().filter(|(_, until)| **until <= now).map(|(key, _)| key.clone()).collect();
        for (streamer_id, viewer) in expired {
            let key = keys::debounce(streamer_id, &viewer);
            query::<()>(&self.redis.redis_url, cmd("DEL").arg(key)).await.unwrap();
            self.claims.remove(&(streamer_id, viewer));
        }
    }

    async fn execute(&mut self, at: Millis, call: &HotCall, expected: &HotAnswer) -> HotAnswer {
        let hot = self.hot.clone();
        match call {
            HotCall::Probe => {
                hot.probe().await.unwrap();
                HotAnswer::Done
            }
            HotCall::Claim(claims) => {
                self.expire(at).await;
                let judged = hot.claim(&borrowed(claims)).await.unwrap();
                for (claim, judged) in claims.iter().zip(&judged) {
                    if *judged == Claimed::Fresh {
                        let until = Millis(at.0 + claim.ttl_ms as i64);
                        self.claims.insert((claim.streamer_id, claim.viewer.clone()), until);
                    }
                }
                HotAnswer::Claimed(judged)
            }
            HotCall::ReleaseClaims(claims) => {
                self.expire(at).await;
                hot.release_claims(&borrowed(claims)).await.unwrap();
                HotAnswer::Done
            }
            HotCall::Mirror(states) => {
                let entries: Vec<_> = states.iter().map(mirror_entry).collect();
                HotAnswer::Written(hot.mirror(&entries).await.unwrap())
            }
            HotCall::NoteHolders(holders) => HotAnswer::Written(hot.note_holders(holders).await.unwrap()),
            // Its values are random; only whether they change means something.
            HotCall::Pulse => {
                hot.pulse().await.unwrap();
                expected.clone()
            }
            HotCall::ChangesSince(asked) => {
                let cursor = |cursor: &Cursor| self.cursors.get(&name(cursor)).cloned().unwrap_or_default();
                let asked: Vec<_> = asked.iter().map(|(bucket, known)| (*bucket, cursor(known))).collect();
                let mut changes = hot.changes_since(&asked).await.unwrap();
                let HotAnswer::Changes(expected) = expected else { panic!("{expected:?}") };
                for (real, expected) in changes.iter_mut().zip(expected) {
                    let here = std::mem::replace(&mut real.cursor, expected.cursor.clone());
                    self.cursors.insert(name(&expected.cursor), here);
                }
                HotAnswer::Changes(changes)
            }
            HotCall::ReadAll(ids, now) => HotAnswer::Sessions(hot.read_all(ids, *now).await.unwrap()),
            HotCall::Marks(ids) => HotAnswer::Marks(hot.marks(ids).await.unwrap()),
            HotCall::Discard(id) => {
                hot.discard(*id).await.unwrap();
                HotAnswer::Done
            }
            HotCall::Orphans(since) => {
                let mut orphans = hot.orphans(*since).await.unwrap();
                orphans.sort();
                HotAnswer::Streamers(orphans)
            }
            HotCall::ForgetOrphan(id) => {
                hot.forget_orphan(*id).await.unwrap();
                HotAnswer::Done
            }
            HotCall::Remove(id, ordinal) => HotAnswer::Removed(hot.remove(*id, *ordinal).await.unwrap()),
        }
    }

    async fn queue(&mut self, instance: Uuid, call: &QueueCall, expected: &QueueAnswer) -> QueueAnswer {
        let url = &self.redis.queue_url;
        let options =
            SpillOptions { instance_id: instance, entries_max: 10_000, durability: Durability::Yes };
        let new = || Spill::connect(&at(url), &options).expect("the test's URL can be used");
        let spill = self.spills.entry(instance).or_insert_with(new).clone();
        match call {
            QueueCall::Probe => QueueAnswer::Depth(spill.probe().await.unwrap()),
            QueueCall::Push(votes) => {
                spill.push(votes).await.unwrap();
                QueueAnswer::Done
            }
            QueueCall::Take(limit) => {
                let mut taken = spill.take(*limit).await.unwrap();
                let QueueAnswer::Taken(expected) = expected else { panic!("{expected:?}") };
                for (real, expected) in taken.iter_mut().zip(expected) {
                    let here = std::mem::replace(&mut real.id, expected.id.clone());
                    self.entries.insert(expected.id.clone(), here);
                }
                QueueAnswer::Taken(taken)
            }
            QueueCall::Settle(ids) => {
                let ids: Vec<String> = ids.iter().map(|id| self.entries[id].clone()).collect();
                spill.settle(&ids).await.unwrap();
                QueueAnswer::Done
            }
            QueueCall::Fail(id, reason) => {
                QueueAnswer::Failed(spill.fail(&self.entries[id], reason).await.unwrap())
            }
        }
    }
}

fn at(url: &str) -> HotOptions {
    HotOptions {
        urls: vec![url.to_owned()],
        pool_size: 1,
        command_timeout: PATIENCE,
        connect_timeout: PATIENCE,
    }
}

fn name(cursor: &Cursor) -> String {
    format!("{cursor:?}")
}

fn mirror_entry(state: &State) -> MirrorEntry<'_> {
    let State { session_id, twitch_user_id, session, config_json } = state;
    let config_json_version = state.config_json_version();
    MirrorEntry { session_id: *session_id, twitch_user_id, session, config_json, config_json_version }
}

/// The claims, with a life that outlasts the replay.
fn borrowed(claims: &[OwnedClaim]) -> Vec<Claim<'_>> {
    claims.iter().map(borrow).collect()
}

fn borrow(claim: &OwnedClaim) -> Claim<'_> {
    let OwnedClaim { streamer_id, viewer, message_id, .. } = claim;
    Claim { streamer_id: *streamer_id, viewer, message_id, ttl_ms: LONG_MS }
}

#[tokio::test]
async fn redis_in_memory_answers_as_the_real_one() {
    for (seed, outcome) in recorded(0, Rules::default()).await {
        replay_hot(seed, &outcome).await;
    }
}

#[tokio::test]
async fn a_redis_in_memory_whose_older_states_win_is_found() {
    let runs = recorded(0, Rules { versions: false, ..Rules::default() }).await;
    assert!(finds_a_difference(runs.iter().map(|(seed, outcome)| replay_hot(*seed, outcome))).await);
}

async fn replay_hot(seed: u64, outcome: &Outcome) {
    let mut hot = RealHot::new().await;
    for (number, step) in outcome.trace.iter().enumerate() {
        let answers = match &step.effect {
            Effect::Hot(call, expected) => {
                let real = hot.execute(step.at, call, expected).await;
                [expected.clone(), real].map(|answer| format!("{:?}", in_order(answer)))
            }
            Effect::HotFlushed => {
                hot.flush().await;
                continue;
            }
            // What a server does that died is in its own hands: cursors of it are worth nothing.
            Effect::HotRolledBack => break,
            _ => continue,
        };
        assert_alike(seed, number, step, &answers);
    }
}

/// Of the changes that one call made, which is the first means nothing.
fn in_order(mut answer: HotAnswer) -> HotAnswer {
    if let HotAnswer::Changes(changes) = &mut answer {
        changes.iter_mut().for_each(|bucket| bucket.changed.sort_by_key(|change| change.streamer_id));
    }
    answer
}

#[tokio::test]
async fn the_queue_in_memory_answers_as_the_real_one() {
    for (seed, outcome) in recorded(100, Rules::default()).await {
        replay_queue(seed, &outcome).await;
    }
}

#[tokio::test]
async fn a_queue_in_memory_that_loses_a_vote_is_found() {
    let mut runs = recorded(100, Rules::default()).await;
    for step in runs.iter_mut().flat_map(|(_, outcome)| &mut outcome.trace) {
        if let Effect::Queue(QueueCall::Take(_), QueueAnswer::Taken(taken)) = &mut step.effect {
            taken.pop();
        }
    }
    assert!(finds_a_difference(runs.iter().map(|(seed, outcome)| replay_queue(*seed, outcome))).await);
}

async fn replay_queue(seed: u64, outcome: &Outcome) {
    let mut hot = RealHot::new().await;
    let mut owners = HashMap::new();
    for (number, step) in outcome.trace.iter().enumerate() {
        let Effect::Queue(call, expected) = &step.effect else { continue };
        // Who was not heard of for how long is a matter of real time.
        if takes_over(call, expected, step.instance, &mut owners) {
            break;
        }
        let real = hot.queue(step.instance, call, expected).await;
        assert_alike(seed, number, step, &[format!("{expected:?}"), format!("{real:?}")]);
    }
}

/// Whether an instance takes what another one had taken.
fn takes_over(
    call: &QueueCall,
    answer: &QueueAnswer,
    instance: Uuid,
    owners: &mut HashMap<String, Uuid>,
) -> bool {
    let (QueueCall::Take(_), QueueAnswer::Taken(taken)) = (call, answer) else { return false };
    taken.iter().any(|entry| *owners.entry(entry.id.clone()).or_insert(instance) != instance)
}

// Comparing ---------------------------------------------------------------------------------------------

#[track_caller]
fn assert_alike(seed: u64, number: usize, step: &Step, [expected, real]: &[String; 2]) {
    assert!(
        alike(expected, real),
        "seed {seed}, step {number} at {}: {:?}\nin memory: {expected}\nreal:      {real}",
        step.at.0 - BEGIN.0,
        step.effect,
    );
}

/// Whether two values, as they are printed, are the same but for tiny differences of numbers.
fn alike(one: &str, other: &str) -> bool {
    let words = |text| str::split(text, |c: char| " ,:()[]{}\"".contains(c)).filter(|word| !word.is_empty());
    let close = |one: &str, other: &str| {
        let numbers = one.parse::<f64>().ok().zip(other.parse::<f64>().ok());
        one == other || numbers.is_some_and(|(one, other)| (one - other).abs() < 1e-9)
    };
    words(one).count() == words(other).count()
        && words(one).zip(words(other)).all(|(one, other)| close(one, other))
}

#[test]
fn only_tiny_differences_of_numbers_are_overlooked() {
    assert!(alike("A { x: 1.0, y: [2] }", "A { x: 1.0000000000001, y: [2] }"));
    assert!(!alike("A { x: 1.0 }", "A { x: 1.000001 }"));
    assert!(!alike("A { x: 1.0 }", "B { x: 1.0 }"));
    assert!(!alike("[1, 2]", "[1]"));
}
