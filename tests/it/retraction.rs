//! Votes that are taken back: of messages that were deleted, and of viewers who were banned.

use std::collections::BTreeSet;

use chatpulse::actors::directory::LiveEntry;
use chatpulse::domain::config::Config;
use chatpulse::domain::retraction::Refold;
use chatpulse::domain::sentiment::{Model, Mood, Side};
use chatpulse::domain::session::{self, Session};
use chatpulse::domain::streamer::Command;
use chatpulse::domain::time::Millis;
use chatpulse::journal::retraction::{Retract, Retracted};
use chatpulse::journal::sessions::Entry;
use chatpulse::journal::votes::{Appended, NewVote};
use chatpulse::journal::{Journal, JournalError};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::database::{
    MigratedDatabase, append, assert_close, assert_same_seconds, assert_same_session, events, fold, hold,
    journal_at, live, migrated, session_of, vote,
};
use crate::support::eventually;
use crate::support::instance::{Instance, Streamer};
use crate::support::twitch::{Chat, Signed};

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

    /// A vote that was cast a second before the others.
    fn early(&self, message_id: &str, viewer: &str, side: Side) -> NewVote {
        let vote = self.vote(message_id, viewer, side);
        NewVote { t: Millis(vote.t.0 - 1_000), ..vote }
    }

    /// A ban of a viewer a moment after their early votes.
    fn early_ban(&self, viewer: &str) -> Retract {
        let started_at = session_of(&self.entry).head.started_at;
        Retract::viewer(viewer.into(), Millis(started_at.0 - 1))
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
    Retract { messages: ids.iter().map(|id| (*id).to_owned()).collect(), ..Retract::default() }
}

/// All that the viewer has said.
fn viewer(viewer: &str) -> Retract {
    Retract::viewer(viewer.into(), Millis(i64::MAX))
}

async fn retract(journal: &Journal, entry: &Entry, what: &Retract) -> usize {
    retract_after(journal, entry, what, 0).await.votes
}

/// Takes back until PostgreSQL is not too busy for it. A deadlock is no such reason. Viewers' votes are looked for
/// after the version `seen`.
async fn retract_after(journal: &Journal, entry: &Entry, what: &Retract, seen: i64) -> Retracted {
    let (streamer_id, session_id) = (entry.streamer.id, session_of(entry).session_id);
    loop {
        match journal.retract_votes(streamer_id, session_id, what, seen, "test").await {
            Err(JournalError::Busy(reason)) if !reason.contains("40P01") => {}
            answer => return answer.unwrap(),
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
async fn what_a_viewer_says_after_the_ban_counts() {
    for model in MODELS {
        let stage = stage(model).await;
        stage.append(&[stage.early("a", "one", Side::For), stage.vote("b", "two", Side::Against)]).await;
        stage.append(&[stage.early("c", "one", Side::For), stage.vote("d", "one", Side::Against)]).await;
        assert_eq!(stage.retract(&stage.early_ban("one")).await, 2);
        let head = stage.checked().await;
        assert_eq!((head.mood.for_count, head.mood.against_count), (0, 2));
        assert_eq!(stage.retract(&stage.early_ban("one")).await, 0);
        assert_eq!(stage.head().await, head);
        // Nor is it lost when something else is folded.
        assert_eq!(stage.retract(&messages(&["b"])).await, 1);
        let head = stage.checked().await;
        assert_eq!((head.mood.for_count, head.mood.against_count), (0, 1));
    }
}

#[tokio::test]
async fn what_was_on_its_way_at_the_ban_is_found_by_a_second_look() {
    let stage = stage(Model::Decay).await;
    let look = async |viewer: &str, seen: i64| {
        retract_after(&stage.journal, &stage.entry, &stage.early_ban(viewer), seen).await
    };
    stage.append(&[stage.early("a", "one", Side::For), stage.vote("b", "two", Side::Against)]).await;
    let first = look("one", 0).await;
    assert_eq!(first, Retracted { votes: 1, seen: 2 });
    let never = look("three", 0).await;
    assert_eq!(never, Retracted { votes: 0, seen: 3 });
    let late = [stage.early("c", "one", Side::For), stage.early("d", "three", Side::For)];
    stage.append(&late).await;
    stage.append(&[stage.vote("e", "one", Side::For)]).await;
    assert_eq!(look("one", first.seen).await.votes, 1);
    assert_eq!(look("three", never.seen).await.votes, 1);
    let head = stage.checked().await;
    assert_eq!((head.mood.for_count, head.mood.against_count), (1, 1));
    for viewer in ["one", "three"] {
        assert_eq!(look(viewer, 0).await, Retracted { votes: 0, seen: head.version });
        assert_eq!(look(viewer, head.version).await, Retracted { votes: 0, seen: head.version });
    }
    assert_eq!(stage.head().await, head);
}

#[tokio::test]
async fn what_is_taken_back_together_is_one_event_that_names_those_who_had_voted() {
    for model in MODELS {
        let stage = stage(model).await;
        for number in 0..6 {
            let votes = [
                stage.early(&format!("a{number}"), &format!("one{number}"), Side::For),
                stage.vote(&format!("b{number}"), &format!("two{number}"), Side::Against),
            ];
            stage.append(&votes).await;
        }
        let mut what = messages(&["b1", "b2", "b9"]);
        for number in 2..9 {
            what.add(stage.early_ban(&format!("one{number}")));
            // They voted later.
            what.add(stage.early_ban(&format!("two{number}")));
        }
        assert_eq!(stage.retract(&what).await, 6);
        let head = stage.checked().await;
        assert_eq!((head.version, head.mood.for_count, head.mood.against_count), (8, 2, 4));
        let events = events(&stage.journal, stage.session_id()).await;
        let last = &events.last().unwrap().event;
        let session::Event::VotesRetracted(told) = last else { panic!("{last:?}") };
        assert_eq!(told.messages, ["b1", "b2"]);
        let viewers: Vec<&str> = told.viewers.iter().map(|(viewer, _)| viewer.as_str()).collect();
        assert_eq!(viewers, ["one2", "one3", "one4", "one5"]);
        let until = Millis(session_of(&stage.entry).head.started_at.0 - 1);
        assert!(told.viewers.iter().all(|(_, told)| *told == until));
        assert_eq!(stage.append(&[stage.vote("b9", "two9", Side::For)]).await, [Duplicate]);
    }
}

#[tokio::test]
async fn an_event_without_moments_means_all_votes_of_its_viewers() {
    let stage = stage(Model::Decay).await;
    stage.append(&[stage.vote("a", "one", Side::For), stage.vote("b", "two", Side::Against)]).await;
    let sql = "SELECT chatpulse.apply_retraction($1, 2, $2, $3, 0, 1, '[]', '{}', ARRAY['one'], '{}')";
    let mut without = Refold::new(&viewer("one"));
    let known = events(&stage.journal, stage.session_id()).await;
    known.iter().for_each(|recorded| without.take(&recorded.event));
    let mood = without.mood().unwrap().clone();
    let app = stage.database.app().await;
    let row = app.query_one(sql, &[&stage.session_id(), &mood.at.0, &mood.value]).await.unwrap();
    assert_eq!(row.get::<_, Option<i64>>(0), Some(3), "as the release before writes it");
    assert_eq!(stage.checked().await.mood.for_count, 0);
    assert_eq!(stage.retract(&messages(&["b"])).await, 1);
    let head = stage.checked().await;
    assert_eq!((head.mood.value, head.mood.for_count, head.mood.against_count), (0.0, 0, 0));
}

#[tokio::test]
async fn the_event_has_the_shape_that_was_promised() {
    let stage = stage(Model::Window).await;
    stage.append(&[stage.vote("a", "one", Side::For), stage.vote("b", "two", Side::Against)]).await;
    stage.retract(&Retract::viewer("two".into(), Millis(i64::MAX - 1))).await;
    let sql = "SELECT data, metadata, schema_version FROM chatpulse.events WHERE type = 'VotesRetracted'";
    let row = stage.database.app().await.query_one(sql, &[]).await.unwrap();
    let head = stage.head().await;
    let second = session_of(&stage.entry).head.started_at.0 / 1000;
    let expected = json!({
        "messages": [], "viewers": ["two"], "until": [i64::MAX - 1], "at": head.mood.at.0, "value": 100,
        "for": 1, "against": 0, "seconds": [[second, 1.0, 0.0]],
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
async fn votes_since_a_reset_are_folded_with_the_config_that_was_in_force_then() {
    for (before, after) in [(false, false), (true, false), (false, true), (true, true)] {
        let stage = stage(Model::Decay).await;
        let id = stage.entry.streamer.id;
        let change = async |model, vote_delta| {
            let mut config = config(model);
            config.params.vote_delta = vote_delta;
            let edited_version = stage.journal.entry(id).await.unwrap().unwrap().streamer.config.version;
            let command = Command::ChangeConfig { edited_version, config };
            stage.journal.change_streamer(id, command, "test").await.unwrap();
        };
        let now = |message: &str, viewer: &str| NewVote {
            t: Millis(i64::MAX),
            ..stage.vote(message, viewer, Side::For)
        };
        stage.append(&[stage.vote("a", "one", Side::Against)]).await;
        assert!(stage.journal.reset(id, "test").await.unwrap());
        stage.append(&[now("b", "one")]).await;
        if before {
            change(Model::Window, 3.0).await;
            change(Model::Decay, 7.0).await;
        }
        assert!(stage.journal.reset(id, "test").await.unwrap());
        stage.append(&[now("c", "one"), now("d", "two")]).await;
        if after {
            change(Model::Decay, 13.0).await;
        }
        stage.append(&[now("e", "one"), now("f", "two")]).await;
        assert_eq!(stage.retract(&viewer("one")).await, 2, "{before} {after}");
        let head = stage.checked().await;
        assert_eq!(head.mood.for_count, 2);
    }
}

/// Appends an event that this release does not know.
async fn append_unknown(stage: &Stage) {
    let sql = "INSERT INTO chatpulse.session_events
                   (session_id, version, type, schema_version, data, metadata)
               SELECT session_id, version + 1, 'SessionPainted', 1, '{}', '{}' FROM chatpulse.sessions;
               UPDATE chatpulse.sessions SET version = version + 1";
    stage.database.app().await.batch_execute(sql).await.unwrap();
}

#[tokio::test]
async fn what_came_before_the_last_reset_is_not_read() {
    let stage = stage(Model::Decay).await;
    let now = |message: &str| NewVote { t: Millis(i64::MAX), ..stage.vote(message, "one", Side::For) };
    stage.append(&[now("a")]).await;
    append_unknown(&stage).await;
    let session_id = stage.session_id();
    let take = async || {
        stage.journal.retract_votes(stage.entry.streamer.id, session_id, &viewer("one"), 0, "test").await
    };
    assert!(matches!(take().await, Err(JournalError::Unreadable(_))));
    assert!(stage.journal.reset(stage.entry.streamer.id, "test").await.unwrap());
    stage.append(&[now("b"), now("c")]).await;
    assert_eq!(take().await.unwrap().votes, 2);
    let head = stage.head().await;
    assert_eq!((head.mood.value, head.mood.for_count), (0.0, 0));
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
    let answer = stage.journal.retract_votes(streamer_id, nowhere, &viewer("one"), 0, "test").await.unwrap();
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
    let (viewers, until): (Vec<String>, Vec<i64>) =
        viewers.into_iter().map(|(viewer, until)| (viewer, until.0)).unzip();
    let seconds: Vec<_> =
        mood.seconds.iter().map(|second| (second.second, second.for_weight, second.against_weight)).collect();
    let sql = "SELECT chatpulse.retract_votes($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, '{}')";
    let (session_id, at, seconds) = (stage.session_id(), mood.at.0, json!(seconds));
    let (value, for_count, against_count) = (mood.value, mood.for_count, mood.against_count);
    let app = stage.database.app().await;
    let row = app
        .query_one(
            sql,
            &[
                &session_id,
                &version,
                &at,
                &value,
                &for_count,
                &against_count,
                &seconds,
                &messages,
                &viewers,
                &until,
            ],
        )
        .await
        .unwrap();
    row.get(0)
}

#[tokio::test]
async fn votes_that_came_meanwhile_are_added() {
    for model in MODELS {
        let stage = stage(model).await;
        stage.append(&[stage.early("a", "one", Side::For), stage.vote("b", "two", Side::Against)]).await;
        for number in 0..5 {
            let side = if number % 2 == 0 { Side::For } else { Side::Against };
            let weight = 0.1 + f64::from(number);
            let votes = [
                NewVote { weight, ..stage.vote(&format!("c{number}"), "two", side) },
                NewVote { weight: 0.0, ..stage.vote(&format!("d{number}"), "three", side) },
            ];
            stage.append(&votes).await;
        }
        // Who comes back after a time-out is no reason to fold anew.
        stage.append(&[stage.vote("e", "one", Side::For)]).await;
        assert_eq!(apply_late(&stage, 2, &stage.early_ban("one")).await, Some(9));
        let head = stage.checked().await;
        assert_eq!((head.mood.for_count, head.mood.against_count), (4, 3));
    }
}

#[tokio::test]
async fn an_early_vote_that_came_meanwhile_has_to_be_folded_first() {
    let stage = stage(Model::Decay).await;
    stage.append(&[stage.early("a", "one", Side::For), stage.vote("b", "two", Side::Against)]).await;
    stage.append(&[stage.early("c", "one", Side::For)]).await;
    let before = stage.head().await;
    assert_eq!(apply_late(&stage, 2, &stage.early_ban("one")).await, None);
    assert_eq!(stage.head().await, before);
    assert_eq!(stage.retract(&stage.early_ban("one")).await, 2);
    assert_eq!(stage.checked().await.mood.for_count, 0);
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
    let now = session_of(&entry).head.started_at;
    let (mut deleted, mut votes) = (BTreeSet::new(), 0);
    for _ in 0..BATCHES / 2 {
        let mut what = Retract::default();
        if random.random_bool(0.7) {
            what.messages = (0..3).map(|_| message_id(random.random_range(0..MESSAGES))).collect();
            deleted.extend(what.messages.iter().cloned());
        }
        if random.random_bool(0.4) {
            let until = [i64::MAX, now.0 + random.random_range(-500..2_000)][random.random_range(0..2usize)];
            what.viewers.insert(format!("viewer{}", random.random_range(0..VIEWERS)), Millis(until));
        }
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
        let again = Retract { messages: deleted, ..Retract::default() };
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

// A whole instance -------------------------------------------------------------------------------------

/// What Twitch tells when a viewer is banned or timed out.
fn cleared(streamer: &Streamer, viewer: &str) -> Signed {
    let body = json!({
        "subscription": {
            "id": "5f1b3c52-1c55-4a43-a5f6-6f3c3c5f1b3c", "status": "enabled", "version": "1",
            "type": "channel.chat.clear_user_messages",
        },
        "event": {
            "broadcaster_user_id": streamer.twitch_id,
            "target_user_id": viewer, "target_user_login": "viewer",
        },
    });
    Signed::notification("channel.chat.clear_user_messages", body.to_string().as_bytes())
}

async fn counts(sql: &Client) -> (i64, i64) {
    let row = sql.query_one("SELECT for_count, against_count FROM chatpulse.sessions", &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// PostgreSQL's clock, in Unix milliseconds.
async fn clock(sql: &Client) -> i64 {
    sql.query_one("SELECT chatpulse.clock_ms()", &[]).await.unwrap().get(0)
}

async fn retractions(sql: &Client) -> i64 {
    let question = "SELECT count(*) FROM chatpulse.events WHERE type = 'VotesRetracted'";
    sql.query_one(question, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn bans_that_come_together_are_done_together() {
    const BANNED: usize = 8;
    let instance = Instance::start(&[("CHATPULSE_DATABASE__STATEMENT_TIMEOUT_MS", "30000")]).await;
    let (streamer, _overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let viewers: Vec<String> = (0..BANNED).map(|number| format!("70000000{number}")).collect();
    for viewer in &viewers {
        twitch.chat(&Chat::new(&streamer.twitch_id, "yes").by(viewer)).await;
    }
    twitch.say(&streamer.twitch_id, "no").await;
    let sql = instance.sql().await;
    eventually("all have voted", async || counts(&sql).await == (BANNED as i64, 1)).await;

    // The first one waits for this, and the others for the first one.
    let mut blocker = instance.sql().await;
    let locked = blocker.transaction().await.unwrap();
    locked.execute("SELECT FROM chatpulse.sessions FOR UPDATE", &[]).await.unwrap();
    let bans: Vec<Signed> = viewers.iter().map(|viewer| cleared(&streamer, viewer)).collect();
    let answers = futures_util::future::join_all(bans.iter().map(|ban| twitch.post(ban))).await;
    assert!(answers.iter().all(|answer| answer.status == 204), "{answers:?}");
    locked.commit().await.unwrap();

    eventually("their votes are gone", async || counts(&sql).await == (0, 1)).await;
    let events = retractions(&sql).await;
    assert!((1..=2).contains(&events), "{events}");
    eventually("each vote is counted once", async || {
        let taken = instance.metrics().await.get("chatpulse_votes_total{result=\"retracted\"}").copied();
        taken == Some(BANNED as f64)
    })
    .await;
}

#[tokio::test]
async fn a_vote_that_is_journaled_after_the_ban_of_its_viewer_is_gone_soon() {
    let instance = Instance::start(&[]).await;
    let (streamer, _overlay) = instance.watched().await;
    let journal = journal_at(&instance.stores.app_url);
    let entry = journal.entry(streamer.id).await.unwrap().unwrap();
    let hash = LiveEntry::of(&entry).unwrap().viewer_hash("700000001");
    let live = session_of(&entry);
    let answer = instance.twitch().post(&cleared(&streamer, "700000001")).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    let of_viewer =
        |message: &str, side, t| NewVote { viewer: hash.clone(), ..vote(live.session_id, message, side, t) };
    // Another instance had it in its hands at the ban.
    let late = of_viewer("a", Side::For, live.head.started_at);
    assert_eq!(append(&journal, &[late]).await.appended, [Accepted]);
    // The instance knows PostgreSQL's clock up to some milliseconds.
    let sql = instance.sql().await;
    let banned = clock(&sql).await;
    eventually("the ban is past", async || clock(&sql).await > banned + 200).await;
    let back = of_viewer("b", Side::Against, Millis(i64::MAX));
    assert_eq!(append(&journal, &[back]).await.appended, [Accepted]);
    eventually("the one that was on its way is gone", async || counts(&sql).await == (0, 1)).await;
    assert_eq!(retractions(&sql).await, 1);
}
