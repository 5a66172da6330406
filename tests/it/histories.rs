//! What several instances write at the same time.

use std::collections::{HashMap, HashSet};

use chatpulse::domain::config::Config;
use chatpulse::domain::sentiment::{Model, Side};
use chatpulse::domain::session::{self, Session};
use chatpulse::domain::streamer::{Command, Refusal};
use chatpulse::domain::time::Millis;
use chatpulse::journal::Journal;
use chatpulse::journal::sessions::Entry;
use chatpulse::journal::streamers::ChangeError;
use chatpulse::journal::votes::Appended;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use uuid::Uuid;

use crate::support::database::{
    MigratedDatabase, append, assert_same_session, events, fold, live, migrated, session_of, vote,
};

const WRITERS: u64 = 4;
const STREAMERS: usize = 6;
const BATCHES: usize = 40;
/// Few enough that writers meet on the same ids all the time.
const MESSAGES: usize = 500;

/// What one writer learnt.
#[derive(Default)]
struct Learnt {
    accepted: Vec<(Uuid, String)>,
    late: Vec<(Uuid, String)>,
    heads: Vec<(Uuid, Session)>,
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_when_four_writers_a_changer_and_ends_race() {
    let database = migrated().await;
    let first = database.journal();
    let mut entries = Vec::new();
    for place in 0..STREAMERS {
        let mut config = Config::default();
        config.params.model = if place % 2 == 0 { Model::Decay } else { Model::Window };
        entries.push(live(&first, config).await);
    }
    let now = session_of(&entries[0]).head.started_at;
    let writers = (1..=WRITERS).map(|seed| write(database.journal(), entries.clone(), now, seed));
    let changer = change(database.journal(), entries.clone());
    let (learnt, ()) = tokio::join!(futures_util::future::join_all(writers), changer);

    let accepted: Vec<_> = learnt.iter().flat_map(|learnt| learnt.accepted.iter().cloned()).collect();
    let once: HashSet<_> = accepted.iter().cloned().collect();
    assert_eq!(once.len(), accepted.len(), "nothing is accepted twice");
    let late: HashSet<_> = learnt.iter().flat_map(|learnt| learnt.late.iter().cloned()).collect();
    assert!(late.is_disjoint(&once), "what was late is not in the journal");
    let mut heads: HashMap<(Uuid, i64), Session> = HashMap::new();
    for (session_id, head) in learnt.into_iter().flat_map(|learnt| learnt.heads) {
        heads.insert((session_id, head.version), head);
    }
    let mut journaled = HashSet::new();
    for (place, entry) in entries.iter().enumerate() {
        let session_id = session_of(entry).session_id;
        let ended = place < STREAMERS / 2;
        let of_session = verify_session(&first, session_id, &heads, ended).await;
        assert_eq!(known_ids(&database, session_id).await, keys_of(&of_session));
        journaled.extend(of_session.into_iter().map(|message_id| (session_id, message_id)));
    }
    assert_eq!(journaled, once, "what was acknowledged is in the journal, and nothing else");
}

/// Votes for random sessions with random ids of the shared pool.
async fn write(journal: Journal, entries: Vec<Entry>, now: Millis, seed: u64) -> Learnt {
    let mut random = StdRng::seed_from_u64(seed);
    let mut learnt = Learnt::default();
    for _ in 0..BATCHES {
        let mut votes = Vec::new();
        for _ in 0..random.random_range(1..25) {
            let entry = &entries[random.random_range(0..entries.len())];
            let side = if random.random_bool(0.5) { Side::For } else { Side::Against };
            let id = message_id(random.random_range(0..MESSAGES));
            let t = Millis(now.0 + random.random_range(-2_000..2_000));
            votes.push(vote(session_of(entry).session_id, &id, side, t));
        }
        let answer = append(&journal, &votes).await;
        assert_eq!(answer.appended.len(), votes.len());
        let asked: HashSet<Uuid> = votes.iter().map(|vote| vote.session_id).collect();
        let told: HashSet<Uuid> = answer.heads.iter().map(|told| told.session_id).collect();
        assert_eq!(told, asked, "the head of every session of the batch is told");
        for (vote, outcome) in votes.into_iter().zip(answer.appended) {
            match outcome {
                Appended::Accepted => learnt.accepted.push((vote.session_id, vote.message_id)),
                Appended::Late => learnt.late.push((vote.session_id, vote.message_id)),
                Appended::Duplicate => {}
            }
        }
        learnt.heads.extend(answer.heads.into_iter().map(|told| (told.session_id, told.head)));
    }
    learnt
}

/// Resets and new settings for all, then the end for half of them, while votes are written.
async fn change(journal: Journal, entries: Vec<Entry>) {
    let mut random = StdRng::seed_from_u64(99);
    for _ in 0..8 {
        for entry in &entries {
            let id = entry.streamer.id;
            if random.random_bool(0.5) {
                assert!(journal.reset(id, "test").await.unwrap());
            }
            let edited_version = journal.entry(id).await.unwrap().unwrap().streamer.config.version;
            let mut config = Config::default();
            config.params.model = if random.random_bool(0.5) { Model::Decay } else { Model::Window };
            config.params.vote_delta = random.random_range(1.0..50.0);
            journal
                .change_streamer(id, Command::ChangeConfig { edited_version, config }, "test")
                .await
                .unwrap();
        }
    }
    for entry in &entries[..entries.len() / 2] {
        journal.change_streamer(entry.streamer.id, Command::Disable, "test").await.unwrap();
    }
}

/// Compares the journal of a session with its heads; answers the ids of the votes in it.
async fn verify_session(
    journal: &Journal,
    session_id: Uuid,
    heads: &HashMap<(Uuid, i64), Session>,
    ended: bool,
) -> HashSet<String> {
    let events = events(journal, session_id).await;
    let states = fold(&events);
    for state in &states {
        if let Some(head) = heads.get(&(session_id, state.version)) {
            assert_same_session(head, state);
        }
    }
    let last = states.last().unwrap();
    assert_same_session(&journal.head(session_id).await.unwrap().unwrap(), last);
    assert_eq!(last.ended_at.is_some(), ended);
    let ends = events.iter().filter(|event| matches!(event.event, session::Event::Ended { .. })).count();
    assert_eq!(ends, usize::from(ended));
    if ended {
        assert!(
            matches!(events.last().unwrap().event, session::Event::Ended { .. }),
            "nothing follows the end"
        );
    }
    let mut ids = HashSet::new();
    for event in &events {
        let session::Event::VotesCast(cast) = &event.event else { continue };
        for vote in &cast.votes {
            assert!(ids.insert(vote.message_id.clone()), "{} was journaled once", vote.message_id);
            assert!(vote.t <= cast.at);
        }
    }
    ids
}

async fn known_ids(database: &MigratedDatabase, session_id: Uuid) -> HashSet<Uuid> {
    let sql = "SELECT message_id FROM chatpulse.vote_ids WHERE session_id = $1";
    let rows = database.app().await.query(sql, &[&session_id]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Ids as Twitch makes them, the same ones for all writers.
fn message_id(number: usize) -> String {
    Uuid::from_u128(0xcc10_6a89_1814_419d_854c_0000_0000_0000 + number as u128).to_string()
}

fn keys_of(ids: &HashSet<String>) -> HashSet<Uuid> {
    ids.iter().map(|id| id.parse().unwrap()).collect()
}

#[tokio::test]
async fn events_of_votes_have_the_shape_that_was_promised() {
    let database = migrated().await;
    let journal = database.journal();
    let live = live(&journal, Config::default()).await;
    let session = session_of(&live);
    let t = Millis(session.head.started_at.0 - 5);
    let votes =
        [vote(session.session_id, "a", Side::For, t), vote(session.session_id, "b", Side::Against, t)];
    append(&journal, &votes).await;
    let sql =
        "SELECT data, metadata, schema_version, stream_id FROM chatpulse.events WHERE type = 'VotesCast'";
    let row = database.app().await.query_one(sql, &[]).await.unwrap();
    let head = journal.head(session.session_id).await.unwrap().unwrap();
    let data: Value = row.get(0);
    let viewer = &votes[0].viewer;
    let expected = serde_json::json!({
        "votes": [
            { "m": "a", "s": "for", "w": 1, "t": t.0, "v": viewer },
            { "m": "b", "s": "against", "w": 1, "t": t.0, "v": viewer },
        ],
        "at": head.mood.at.0, "value": data["value"], "for": 1, "against": 1,
    });
    assert_eq!(data, expected);
    assert_eq!(data["value"].as_f64(), Some(head.mood.value));
    let metadata: Value = row.get(1);
    assert_eq!(metadata["instance"], journal.instance_id().to_string());
    assert_eq!(metadata["correlation_id"], "test");
    assert_eq!(row.get::<_, i32>(2), 1);
    assert_eq!(row.get::<_, String>(3), format!("session-{}", session.session_id));
}

#[tokio::test]
async fn changes_of_a_streamer_by_many_leave_no_gaps_in_their_stream() {
    let database = migrated().await;
    let first = database.journal();
    let entry = live(&first, Config::default()).await;
    let id = entry.streamer.id;
    let changers = (0..4).map(|number| {
        let journal = database.journal();
        async move {
            for _ in 0..6 {
                let command = match number {
                    0 => Command::Disable,
                    1 => Command::Enable,
                    _ => Command::RotateOverlay { overlay_uuid: Uuid::new_v4() },
                };
                match journal.change_streamer(id, command, "test").await {
                    // Beaten five times in a row: said so, and nothing done.
                    Ok(_) | Err(ChangeError::Journal(chatpulse::journal::JournalError::Busy(_))) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    });
    futures_util::future::join_all(changers).await;
    let events = first.streamer_events(id, 0, 1_000).await.unwrap();
    let mut state = None;
    for event in &events {
        state = chatpulse::domain::streamer::evolve(state, &event.event);
        assert_eq!(state.as_ref().unwrap().version, event.version);
    }
    let entry = first.entry(id).await.unwrap().unwrap();
    assert_eq!(state, Some(entry.streamer), "the projections are the fold of the stream");
}

#[tokio::test]
async fn of_two_settings_for_the_same_version_one_is_saved() {
    let database = migrated().await;
    let (one, other) = (database.journal(), database.journal());
    let streamer = crate::support::database::register(&one, Config::default()).await;
    let change = |vote_delta: f64| {
        let mut config = Config::default();
        config.params.vote_delta = vote_delta;
        Command::ChangeConfig { edited_version: 1, config }
    };
    let answers = tokio::join!(
        one.change_streamer(streamer.id, change(20.0), "test"),
        other.change_streamer(streamer.id, change(30.0), "test")
    );
    let (won, lost) = match answers {
        (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
        both => panic!("one of them is refused: {both:?}"),
    };
    assert!(matches!(lost, ChangeError::Refused(Refusal::ConfigMovedOn { current: 2 })), "{lost}");
    assert_eq!(won.streamer.config.version, 2);
    assert_eq!(one.entry(streamer.id).await.unwrap().unwrap().streamer, won.streamer);
    let stale = one.change_streamer(streamer.id, change(40.0), "test").await.unwrap_err();
    assert!(matches!(stale, ChangeError::Refused(Refusal::ConfigMovedOn { current: 2 })), "{stale}");
    assert_eq!(one.streamer_events(streamer.id, 0, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn twenty_registrations_at_once_make_one_streamer() {
    let database = migrated().await;
    let profile = crate::support::database::profile();
    let journals: Vec<Journal> = (0..5).map(|_| database.journal()).collect();
    let calls = (0..20).map(|n| journals[n % 5].register(profile.clone(), Config::default(), "test"));
    let answers = futures_util::future::join_all(calls).await;
    let streamers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap()).collect();
    assert_eq!(streamers.iter().filter(|(_, created)| *created).count(), 1);
    assert!(streamers.iter().all(|(streamer, _)| *streamer == streamers[0].0));
    let client = database.app().await;
    for table in ["users", "streamer_events", "configs"] {
        let count: i64 =
            client.query_one(&format!("SELECT count(*) FROM chatpulse.{table}"), &[]).await.unwrap().get(0);
        assert_eq!(count, 1, "{table}");
    }
}
