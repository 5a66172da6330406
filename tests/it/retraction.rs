//! Votes that are taken back: of messages that were deleted, and of viewers who were banned.

use std::collections::BTreeSet;

use chatpulse::domain::config::Config;
use chatpulse::domain::retraction::Refold;
use chatpulse::domain::sentiment::{Model, Mood, Side};
use chatpulse::domain::session::{self, Session};
use chatpulse::domain::streamer::Command;
use chatpulse::domain::time::Millis;
use chatpulse::journal::retraction::Retract;
use chatpulse::journal::sessions::Entry;
use chatpulse::journal::votes::{Appended, NewVote};
use chatpulse::journal::{Journal, JournalError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::database::{
    MigratedDatabase, append, assert_close, assert_same_seconds, assert_same_session, events, fold, hold,
    live, migrated, session_of, vote,
};

use Appended::{Accepted, Duplicate};

const MODELS: [Model; 2] = [Model::Decay, Model::Window];

/// A database with one live session.
struct Stage {
    database: MigratedDatabase,
    journal: Journal,
    entry: Entry,
}

async fn stage(model: Model) -> Stage {
    let database = migrated().await;
    let journal = database.journal();
    let entry = live(&journal, config(model)).await;
    Stage { database, journal, entry }
}

fn config(model: Model) -> Config {
    let mut config = Config::default();
    config.params.model = model;
    // Slow enough that nothing decays away while a test runs.
    config.params.decay_speed = 0.1;
    config
}

impl Stage {
    fn session_id(&self) -> Uuid {
        session_of(&self.entry).session_id
    }

    fn vote(&self, message_id: &str, viewer: &str, side: Side) -> NewVote {
        let t = session_of(&self.entry).head.started_at;
        NewVote { viewer: viewer.into(), ..vote(self.session_id(), message_id, side, t) }
    }

    async fn append(&self, votes: &[NewVote]) -> Vec<Appended> {
        append(&self.journal, votes).await.appended
    }

    async fn retract(&self, what: &Retract) -> usize {
        retract(&self.journal, &self.entry, what).await
    }

    async fn head(&self) -> Session {
        self.journal.head(self.session_id()).await.unwrap().unwrap()
    }

    /// The head, after it was found to be what its events say and what their votes add up to.
    async fn checked(&self) -> Session {
        checked(&self.journal, self.session_id()).await
    }

    /// The types of the session's events.
    async fn types(&self) -> Vec<String> {
        let sql = "SELECT type FROM chatpulse.session_events WHERE session_id = $1 ORDER BY version";
        let rows = self.database.app().await.query(sql, &[&self.session_id()]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

fn messages(ids: &[&str]) -> Retract {
    Retract::Messages(ids.iter().map(|id| (*id).to_owned()).collect())
}

fn viewer(viewer: &str) -> Retract {
    Retract::Viewer(viewer.into())
}

/// Takes back until PostgreSQL is not too busy for it. A deadlock is no such reason.
async fn retract(journal: &Journal, entry: &Entry, what: &Retract) -> usize {
    loop {
        match journal.retract_votes(entry.streamer.id, session_of(entry).session_id, what, "test").await {
            Err(JournalError::Busy(reason)) if !reason.contains("40P01") => {}
            answer => return answer.unwrap().votes,
        }
    }
}

async fn checked(journal: &Journal, session_id: Uuid) -> Session {
    let events = events(journal, session_id).await;
    let head = journal.head(session_id).await.unwrap().unwrap();
    assert_same_session(fold(&events).last().unwrap(), &head);
    let mut refold = Refold::new(&messages(&[]));
    events.iter().for_each(|recorded| refold.take(&recorded.event));
    assert_same_mood(refold.mood().unwrap(), &head.mood);
    head
}

fn assert_same_mood(one: &Mood, other: &Mood) {
    let context = format!("{one:?}\nagainst\n{other:?}");
    assert_close(one.value, other.value, &context);
    assert_same_seconds(&one.seconds, &other.seconds, &context);
    assert_eq!((one.at, one.for_count, one.against_count), (other.at, other.for_count, other.against_count));
}

#[tokio::test]
async fn the_vote_of_a_deleted_message_is_gone() {
    for model in MODELS {
        let stage = stage(model).await;
        let votes = [stage.vote("a", "one", Side::For), stage.vote("b", "two", Side::Against)];
        stage.append(&votes).await;
        stage.append(&[stage.vote("c", "one", Side::For)]).await;
        assert_eq!(stage.retract(&messages(&["b", "never said"])).await, 1);

        let head = stage.checked().await;
        assert_eq!((head.version, head.mood.for_count, head.mood.against_count), (4, 2, 0));
        match model {
            Model::Decay => assert!(head.mood.value > 10.0, "{head:?}"),
            Model::Window => assert_eq!(head.mood.value, 100.0),
        }
        assert_eq!(stage.types().await.last().unwrap(), "VotesRetracted");
        let events = events(&stage.journal, stage.session_id()).await;
        let last = &events.last().unwrap().event;
        let session::Event::VotesRetracted(told) = last else { panic!("{last:?}") };
        assert_eq!((&told.messages, &told.viewers), (&vec!["b".to_owned()], &vec![]));
        assert_eq!(told.mood, head.mood);
    }
}

#[tokio::test]
async fn the_votes_of_a_banned_viewer_are_gone_and_others_stay() {
    for model in MODELS {
        let stage = stage(model).await;
        let crowd: Vec<_> = (0..30).map(|n| stage.vote(&format!("m{n}"), "one", Side::For)).collect();
        stage.append(&crowd).await;
        let others = [stage.vote("a", "two", Side::Against), stage.vote("b", "one", Side::For)];
        stage.append(&others).await;
        assert_eq!(stage.retract(&viewer("one")).await, 31);
        let head = stage.checked().await;
        assert_eq!((head.mood.for_count, head.mood.against_count), (0, 1));
        assert!(head.mood.value < -5.0, "{head:?}");

        // Who comes back after a time-out votes again.
        assert_eq!(stage.append(&[stage.vote("c", "one", Side::For)]).await, [Accepted]);
        assert_eq!(stage.checked().await.mood.for_count, 1);
        assert_eq!(stage.retract(&viewer("one")).await, 1);
        assert_eq!(stage.checked().await.mood.for_count, 0);
    }
}

#[tokio::test]
async fn the_event_has_the_shape_that_was_promised() {
    let stage = stage(Model::Window).await;
    stage.append(&[stage.vote("a", "one", Side::For), stage.vote("b", "two", Side::Against)]).await;
    stage.retract(&viewer("two")).await;
    let sql = "SELECT data, metadata, schema_version FROM chatpulse.events WHERE type = 'VotesRetracted'";
    let row = stage.database.app().await.query_one(sql, &[]).await.unwrap();
    let head = stage.head().await;
    let second = session_of(&stage.entry).head.started_at.0 / 1000;
    let expected = json!({
        "messages": [], "viewers": ["two"], "at": head.mood.at.0, "value": 100, "for": 1, "against": 0,
        "seconds": [[second, 1.0, 0.0]],
    });
    assert_eq!(row.get::<_, Value>(0), expected);
    assert_eq!(row.get::<_, Value>(1)["correlation_id"], "test");
    assert_eq!(row.get::<_, i32>(2), 1);
}

#[tokio::test]
async fn a_message_that_comes_after_its_deletion_does_not_count() {
    let stage = stage(Model::Decay).await;
    let id = Uuid::new_v4().to_string();
    let before = stage.head().await;
    assert_eq!(stage.retract(&messages(&[id.as_str(), "x"])).await, 0);
    assert_eq!(stage.append(&[stage.vote(&id, "one", Side::For)]).await, [Duplicate]);
    assert_eq!(stage.append(&[stage.vote("x", "one", Side::For)]).await, [Duplicate]);
    let drained = stage.journal.append_drained(&[stage.vote(&id, "one", Side::For)], "test").await.unwrap();
    assert_eq!(drained.appended, [Duplicate], "nor does one that has waited in the queue");
    // Told once more of the deletion.
    assert_eq!(stage.retract(&messages(&[id.as_str()])).await, 0);
    assert_eq!(stage.head().await, before);
    assert_eq!(stage.append(&[stage.vote("y", "one", Side::For)]).await, [Accepted]);
}

#[tokio::test]
async fn what_is_not_there_is_not_taken_back_and_what_is_gone_stays_gone() {
    let stage = stage(Model::Decay).await;
    stage.append(&[stage.vote("a", "one", Side::For), stage.vote("b", "two", Side::For)]).await;
    for what in [messages(&[]), messages(&["c"]), viewer("a"), viewer("three")] {
        assert_eq!(stage.retract(&what).await, 0, "{what:?}");
    }
    assert_eq!(stage.head().await.version, 2);
    assert_eq!(stage.retract(&messages(&["a"])).await, 1);
    let once = stage.head().await;
    for what in [messages(&["a", "a"]), viewer("one")] {
        assert_eq!(stage.retract(&what).await, 0, "{what:?}");
    }
    assert_eq!(stage.head().await, once);
    assert_eq!(stage.append(&[stage.vote("a", "one", Side::For)]).await, [Duplicate]);
}

#[tokio::test]
async fn votes_from_before_a_reset_are_left_alone() {
    for model in MODELS {
        let stage = stage(model).await;
        stage.append(&[stage.vote("a", "one", Side::For)]).await;
        stage.journal.reset(stage.entry.streamer.id, "test").await.unwrap();
        // It was cast before the reset, and moves nothing.
        let early = NewVote { t: Millis(0), ..stage.vote("b", "one", Side::For) };
        assert_eq!(stage.append(&[early]).await, [Accepted]);
        let before = stage.head().await;
        assert_eq!(stage.retract(&messages(&["a", "b"])).await, 0);
        assert_eq!(stage.retract(&viewer("one")).await, 0);
        assert_eq!(stage.head().await, before);
    }
}

#[tokio::test]
async fn of_a_session_that_is_over_nothing_is_taken_back() {
    let stage = stage(Model::Decay).await;
    let other = live(&stage.journal, config(Model::Decay)).await;
    stage.append(&[stage.vote("a", "one", Side::For)]).await;
    let streamer_id = stage.entry.streamer.id;
    for command in [Command::Disable, Command::Enable] {
        stage.journal.change_streamer(streamer_id, command, "test").await.unwrap();
    }
    let ended = stage.head().await;
    assert_eq!(stage.retract(&messages(&["a"])).await, 0);
    assert_eq!(stage.retract(&viewer("one")).await, 0);
    assert_eq!(stage.head().await, ended);
    let next = hold(&stage.journal, &stage.entry.streamer).await;
    assert_eq!(retract(&stage.journal, &next, &messages(&["a"])).await, 0, "it voted in the session before");
    let nowhere = Uuid::now_v7();
    let answer = stage.journal.retract_votes(streamer_id, nowhere, &viewer("one"), "test").await.unwrap();
    assert_eq!(answer.votes, 0);
    // A message counts once a streamer, and is deleted for one.
    let elsewhere = vote(session_of(&other).session_id, "a", Side::For, Millis(0));
    assert_eq!(append(&stage.journal, &[elsewhere]).await.appended, [Accepted]);
}

#[tokio::test]
async fn the_directory_tells_the_state_without_what_was_taken_back() {
    let stage = stage(Model::Decay).await;
    stage.append(&[stage.vote("a", "one", Side::For), stage.vote("b", "two", Side::For)]).await;
    let (_, cursor) = stage.journal.directory_since(None).await.unwrap();
    stage.retract(&viewer("two")).await;
    let (changed, _) = stage.journal.directory_since(Some(cursor)).await.unwrap();
    let told = changed.iter().find(|entry| entry.streamer.id == stage.entry.streamer.id).unwrap();
    assert_eq!(session_of(told).head, stage.checked().await);
    assert_eq!(session_of(told).head.mood.for_count, 1);
}

/// Calls the function of `schema/` with the fold of the events up to `version`.
async fn apply_late(stage: &Stage, version: i64, what: &Retract) -> Option<i64> {
    let mut refold = Refold::new(what);
    let known = events(&stage.journal, stage.session_id()).await;
    known.iter().take(version as usize).for_each(|recorded| refold.take(&recorded.event));
    let session::VotesRetracted { messages, viewers, mood } = refold.retracted().unwrap();
    let seconds: Vec<_> =
        mood.seconds.iter().map(|second| (second.second, second.for_weight, second.against_weight)).collect();
    let sql = "SELECT chatpulse.apply_retraction($1, $2, $3, $4, $5, $6, $7, $8, $9, '{}')";
    let (session_id, at, seconds) = (stage.session_id(), mood.at.0, json!(seconds));
    let (value, for_count, against_count) = (mood.value, mood.for_count, mood.against_count);
    let app = stage.database.app().await;
    let row = app
        .query_one(
            sql,
            &[&session_id, &version, &at, &value, &for_count, &against_count, &seconds, &messages, &viewers],
        )
        .await
        .unwrap();
    row.get(0)
}

#[tokio::test]
async fn votes_that_came_meanwhile_are_added() {
    for model in MODELS {
        let stage = stage(model).await;
        stage.append(&[stage.vote("a", "one", Side::For), stage.vote("b", "two", Side::Against)]).await;
        for number in 0..5 {
            let side = if number % 2 == 0 { Side::For } else { Side::Against };
            let weight = 0.1 + f64::from(number);
            let votes = [
                NewVote { weight, ..stage.vote(&format!("c{number}"), "two", side) },
                NewVote { weight: 0.0, ..stage.vote(&format!("d{number}"), "three", side) },
            ];
            stage.append(&votes).await;
        }
        assert_eq!(apply_late(&stage, 2, &viewer("one")).await, Some(8));
        let head = stage.checked().await;
        assert_eq!((head.mood.for_count, head.mood.against_count), (3, 3));
    }
}

#[tokio::test]
async fn what_else_came_meanwhile_has_to_be_folded_first() {
    let stage = stage(Model::Decay).await;
    let id = stage.entry.streamer.id;
    for change in 0..5 {
        let now = |message: &str, viewer: &str| NewVote {
            t: Millis(i64::MAX),
            ..stage.vote(&format!("{message}{change}"), viewer, Side::For)
        };
        stage.append(&[now("a", "one"), now("b", "two")]).await;
        let version = stage.head().await.version;
        match change {
            0 => assert_eq!(stage.append(&[now("c", "one")]).await, [Accepted]),
            1 => assert!(stage.journal.reset(id, "test").await.unwrap()),
            2 => assert!(stage.journal.pause(id, "test").await.unwrap()),
            3 => assert_eq!(stage.retract(&viewer("two")).await, 2, "since the reset"),
            _ => {
                let disabled = stage.journal.change_streamer(id, Command::Disable, "test").await;
                assert!(disabled.unwrap().live.is_none());
            }
        }
        let before = stage.head().await;
        assert_eq!(apply_late(&stage, version, &viewer("one")).await, None, "change {change}");
        assert_eq!(stage.head().await, before);
    }
}

// Many at the same time ---------------------------------------------------------------------------------

const WRITERS: u64 = 4;
const TAKERS: u64 = 2;
const BATCHES: usize = 40;
/// Few enough that votes and deletions meet.
const MESSAGES: usize = 600;
const VIEWERS: usize = 12;

fn message_id(number: usize) -> String {
    Uuid::from_u128(0xcc10_6a89_1814_419d_854c_0000_0000_0000 + number as u128).to_string()
}

async fn write(journal: Journal, session_id: Uuid, now: Millis, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..BATCHES {
        let mut votes = Vec::new();
        for _ in 0..random.random_range(1..12) {
            let side = if random.random_bool(0.5) { Side::For } else { Side::Against };
            let (id, t) =
                (message_id(random.random_range(0..MESSAGES)), now.0 + random.random_range(-500..2_000));
            let viewer = format!("viewer{}", random.random_range(0..VIEWERS));
            votes.push(NewVote { viewer, ..vote(session_id, &id, side, Millis(t)) });
        }
        append(&journal, &votes).await;
    }
}

/// Takes back what random decides; answers all of it, and how many votes that were.
async fn take_back(journal: Journal, entry: Entry, seed: u64) -> (BTreeSet<String>, usize) {
    let mut random = StdRng::seed_from_u64(1_000 + seed);
    let (mut deleted, mut votes) = (BTreeSet::new(), 0);
    for _ in 0..BATCHES / 2 {
        let what = if random.random_bool(0.7) {
            let ids: Vec<_> = (0..3).map(|_| message_id(random.random_range(0..MESSAGES))).collect();
            deleted.extend(ids.iter().cloned());
            Retract::Messages(ids)
        } else {
            Retract::Viewer(format!("viewer{}", random.random_range(0..VIEWERS)))
        };
        votes += retract(&journal, &entry, &what).await;
    }
    (deleted, votes)
}

async fn change(journal: Journal, streamer_id: Uuid) {
    for round in 0..6u32 {
        if round == 3 {
            assert!(journal.reset(streamer_id, "test").await.unwrap());
        }
        journal.pause(streamer_id, "test").await.unwrap();
        let edited_version = round as i64 + 1;
        let mut config = config(MODELS[round as usize % 2]);
        config.params.vote_delta = 1.0 + f64::from(round);
        let command = Command::ChangeConfig { edited_version, config };
        journal.change_streamer(streamer_id, command, "test").await.unwrap();
        journal.resume(streamer_id, "test").await.unwrap();
    }
}

#[tokio::test]
async fn the_head_is_the_fold_when_votes_come_and_are_taken_back_at_the_same_time() {
    for model in MODELS {
        let stage = stage(model).await;
        let (session_id, database) = (stage.session_id(), &stage.database);
        let now = session_of(&stage.entry).head.started_at;
        let writers = (1..=WRITERS).map(|seed| write(database.journal(), session_id, now, seed));
        let takers = (1..=TAKERS).map(|seed| take_back(database.journal(), stage.entry.clone(), seed));
        let (_, taken, ()) = tokio::join!(
            futures_util::future::join_all(writers),
            futures_util::future::join_all(takers),
            change(database.journal(), stage.entry.streamer.id)
        );
        assert!(taken.iter().map(|(_, votes)| votes).sum::<usize>() > 0, "some had voted before");
        let head = stage.checked().await;
        let deleted: BTreeSet<_> = taken.into_iter().flat_map(|(deleted, _)| deleted).collect();
        let again = Retract::Messages(deleted.into_iter().collect());
        assert_eq!(stage.retract(&again).await, 0, "none of them counts");
        assert_eq!(stage.head().await, head);

        let mut taken_back = 0;
        for number in 0..VIEWERS {
            taken_back += stage.retract(&viewer(&format!("viewer{number}"))).await;
        }
        assert_eq!(taken_back as i64, head.mood.for_count + head.mood.against_count);
        let empty = stage.checked().await;
        assert_eq!((empty.mood.value, empty.mood.for_count, empty.mood.against_count), (0.0, 0, 0));
    }
}
