//! Sessions in which chat does not vote for a while.

use chatpulse::domain::config::Config;
use chatpulse::domain::sentiment::{Model, Side};
use chatpulse::domain::session::{self, Session};
use chatpulse::domain::streamer::Command;
use chatpulse::domain::time::Millis;
use chatpulse::journal::Journal;
use chatpulse::journal::sessions::{DirectoryCursor, Entry, LiveDigest};
use chatpulse::journal::votes::Appended;
use uuid::Uuid;

use crate::support::database::{
    HoldOne, LEASE, append, assert_close, assert_same_session, events, fold, hold, live, migrated,
    session_of, vote,
};

/// The streamer's entry as the journal has it.
async fn entry(journal: &Journal, streamer_id: Uuid) -> Entry {
    journal.entry(streamer_id).await.unwrap().unwrap()
}

async fn is_paused(journal: &Journal, streamer_id: Uuid) -> bool {
    session_of(&entry(journal, streamer_id).await).paused
}

/// The head and whether it is paused, after both were found to be what the events say.
async fn checked(journal: &Journal, streamer_id: Uuid) -> (Session, bool) {
    let entry = entry(journal, streamer_id).await;
    let live = session_of(&entry);
    let events = events(journal, live.session_id).await;
    assert_same_session(fold(&events).last().unwrap(), &live.head);
    let paused =
        events.iter().fold(false, |paused, recorded| session::is_paused_after(paused, &recorded.event));
    assert_eq!(paused, live.paused);
    (live.head.clone(), paused)
}

#[tokio::test]
async fn a_pause_lasts_until_its_end_and_is_noted_once() {
    let database = migrated().await;
    let (journal, other) = (database.journal(), database.journal());
    let id = live(&journal, Config::default()).await.streamer.id;
    assert!(!is_paused(&journal, id).await, "a session begins without one");
    assert!(!journal.resume(id, "test").await.unwrap());
    assert!(journal.pause(id, "test").await.unwrap());
    assert!(is_paused(&other, id).await);
    assert!(!other.pause(id, "test").await.unwrap());
    assert_eq!(checked(&journal, id).await.0.version, 2);
    assert!(other.resume(id, "test").await.unwrap());
    assert!(!is_paused(&journal, id).await);
    assert!(!journal.resume(id, "test").await.unwrap());
    assert_eq!(checked(&journal, id).await.0.version, 3);

    let sql = "SELECT type, data, metadata->>'correlation_id', schema_version FROM chatpulse.session_events
               WHERE version > 1 ORDER BY version";
    let rows = database.app().await.query(sql, &[]).await.unwrap();
    let types: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(types, ["VotingPaused", "VotingResumed"]);
    let data: serde_json::Value = rows[1].get(1);
    let at = entry(&journal, id).await.live.unwrap().head.mood.at;
    assert_eq!(data, serde_json::json!({ "at": at.0 }));
    assert_eq!((rows[1].get::<_, &str>(2), rows[1].get::<_, i32>(3)), ("test", 1));
}

#[tokio::test]
async fn of_many_who_pause_at_once_one_does() {
    let database = migrated().await;
    let journal = database.journal();
    let id = live(&journal, Config::default()).await.streamer.id;
    for round in 0..3 {
        let pauses = (0..6).map(|_| {
            let journal = database.journal();
            async move { journal.pause(id, "test").await.unwrap() }
        });
        let paused = futures_util::future::join_all(pauses).await;
        assert_eq!(paused.iter().filter(|paused| **paused).count(), 1, "round {round}");
        assert!(checked(&journal, id).await.1);
        assert!(journal.resume(id, "test").await.unwrap());
    }
}

#[tokio::test]
async fn without_a_live_session_there_is_nothing_to_pause_and_the_next_one_begins_without_a_pause() {
    let database = migrated().await;
    let journal = database.journal();
    let streamer = live(&journal, Config::default()).await.streamer;
    assert!(journal.pause(streamer.id, "test").await.unwrap());
    journal.change_streamer(streamer.id, Command::Disable, "test").await.unwrap();
    assert!(!journal.pause(streamer.id, "test").await.unwrap());
    assert!(!journal.resume(streamer.id, "test").await.unwrap());
    assert!(!journal.pause(Uuid::now_v7(), "test").await.unwrap());
    journal.change_streamer(streamer.id, Command::Enable, "test").await.unwrap();
    let next = hold(&journal, &streamer).await;
    assert_eq!((session_of(&next).paused, session_of(&next).head.version), (false, 1));
}

#[tokio::test]
async fn votes_that_were_taken_before_a_pause_count_also_during_it() {
    for model in [Model::Decay, Model::Window] {
        let database = migrated().await;
        let journal = database.journal();
        let mut config = Config::default();
        config.params.model = model;
        let live = live(&journal, config).await;
        let (id, session) = (live.streamer.id, session_of(&live));
        let vote = |message_id| vote(session.session_id, message_id, Side::For, session.head.started_at);
        append(&journal, &[vote("a")]).await;
        assert!(journal.pause(id, "test").await.unwrap());
        let (paused, _) = checked(&journal, id).await;
        let seconds = usize::from(model == Model::Window);
        assert_eq!((paused.mood.for_count, paused.mood.seconds.len()), (1, seconds));
        assert_eq!(append(&journal, &[vote("b")]).await.appended, [Appended::Accepted]);
        assert!(journal.reset(id, "test").await.unwrap());
        assert!(checked(&journal, id).await.1, "a reset does not end it");
        assert!(journal.resume(id, "test").await.unwrap());
        append(&journal, &[vote("c")]).await;
        assert_eq!(checked(&journal, id).await.0.version, 7);
    }
}

#[tokio::test]
async fn a_pause_goes_on_from_the_value_shown_and_time_does_not_run_back() {
    let database = migrated().await;
    let start = Millis(1_790_000_000_000);
    let clock = database.take_clock(start).await;
    let journal = database.journal();
    let live = live(&journal, Config::default()).await;
    let (id, session_id) = (live.streamer.id, session_of(&live).session_id);
    append(&journal, &[vote(session_id, "a", Side::For, start)]).await;
    clock.set(Millis(start.0 + 2_000)).await;
    journal.pause(id, "test").await.unwrap();
    let (head, _) = checked(&journal, id).await;
    assert_eq!(head.mood.at.0, start.0 + 2_000);
    assert_close(head.mood.value, 10.0 * (-2.0f64).exp(), "after two seconds");
    clock.set(start).await;
    journal.resume(id, "test").await.unwrap();
    append(&journal, &[vote(session_id, "b", Side::For, start)]).await;
    assert_eq!(checked(&journal, id).await.0.mood.at.0, start.0 + 2_000);
}

#[tokio::test]
async fn the_directory_tells_of_a_pause_and_of_its_end() {
    let database = migrated().await;
    let journal = database.journal();
    let id = live(&journal, Config::default()).await.streamer.id;
    let (_, mut cursor) = journal.directory_since(None).await.unwrap();
    for paused in [true, false] {
        let changed = if paused { journal.pause(id, "test").await } else { journal.resume(id, "test").await };
        assert!(changed.unwrap());
        let (entries, next) = journal.directory_since(Some(cursor)).await.unwrap();
        cursor = next;
        let told = entries.iter().find(|entry| entry.streamer.id == id).unwrap();
        assert_eq!(session_of(told).paused, paused);
        let digest = LiveDigest {
            sessions: 1,
            streamer_versions: told.streamer.version,
            config_versions: 1,
            ordinals: 1,
            paused: i64::from(paused),
        };
        assert_eq!(journal.live_digest().await.unwrap(), digest);
        assert_eq!(journal.live_versions().await.unwrap()[0].paused, paused);
    }
}

/// Gives the view another column at its end, as a next release may.
const ANOTHER_COLUMN: &str = "DO $$ BEGIN
    EXECUTE 'CREATE OR REPLACE VIEW chatpulse.entries AS SELECT e.*, 1 AS more FROM ('
        || rtrim(pg_get_viewdef('chatpulse.entries'::regclass), ';') || ') AS e';
END $$";

#[tokio::test]
async fn another_column_of_the_entries_disturbs_nobody_who_runs() {
    let database = migrated().await;
    let journal = database.journal();
    let live = live(&journal, Config::default()).await;
    let (id, session_id) = (live.streamer.id, session_of(&live).session_id);
    // Twice before it, so that the statements are prepared, and twice after it.
    for round in 0..4 {
        if round == 2 {
            database.owner().await.batch_execute(ANOTHER_COLUMN).await.unwrap();
        }
        let held = journal.hold(live.streamer.overlay_uuid, LEASE).await.unwrap().unwrap();
        let held_again = journal.hold_streamer(id, LEASE).await.unwrap().unwrap();
        let since = journal.directory_since(Some(DirectoryCursor::default())).await.unwrap().0;
        let read = [
            held.entry,
            held_again.entry,
            since.into_iter().next().unwrap(),
            entry(&journal, id).await,
            journal.live_session(session_id).await.unwrap().unwrap(),
            journal.entries(&[id]).await.unwrap().remove(0),
        ];
        for read in read {
            assert_eq!(read, live, "round {round}");
        }
    }
}
