//! What the journal does with votes, with sessions and their holders, and with streamers.

use std::time::Duration;

use chatpulse::domain::config::Config;
use chatpulse::domain::sentiment::{Model, Side};
use chatpulse::domain::session::{self, JournaledVote, Session};
use chatpulse::domain::streamer::{self, Command, Streamer};
use chatpulse::domain::time::Millis;
use chatpulse::journal::sessions::{DirectoryCursor, Entry, News, listen};
use chatpulse::journal::votes::{Appended, NewVote};
use chatpulse::journal::{Journal, JournalError, JournalOptions};
use serde_json::Value;
use uuid::Uuid;

use crate::support::database::{
    HoldOne, LEASE, MigratedDatabase, append, assert_close, assert_same_session, events, fold, hold,
    journal_at, live, migrated, register, session_of, vote,
};
use crate::support::eventually;
use crate::support::servers::{TestDatabase, connect};

use Appended::{Accepted, Duplicate, Late};

const NOW: Millis = Millis(1_790_000_000_000);

/// A database with one live session.
struct Stage {
    database: MigratedDatabase,
    journal: Journal,
    streamer: Streamer,
    session_id: Uuid,
    started_at: Millis,
}

async fn stage(config: Config) -> Stage {
    let database = migrated().await;
    stage_in(database, config).await
}

async fn stage_in(database: MigratedDatabase, config: Config) -> Stage {
    let journal = database.journal();
    let entry = live(&journal, config).await;
    let session = session_of(&entry);
    let (session_id, started_at) = (session.session_id, session.head.started_at);
    Stage { database, journal, streamer: entry.streamer, session_id, started_at }
}

impl Stage {
    fn vote(&self, message_id: &str) -> NewVote {
        vote(self.session_id, message_id, Side::For, self.started_at)
    }

    /// What became of votes with these ids, in one batch.
    async fn append(&self, message_ids: &[&str]) -> Vec<Appended> {
        let votes: Vec<NewVote> = message_ids.iter().map(|id| self.vote(id)).collect();
        append(&self.journal, &votes).await.appended
    }

    async fn change(&self, command: Command) -> Entry {
        self.journal.change_streamer(self.streamer.id, command, "test").await.unwrap()
    }

    async fn head(&self) -> Session {
        self.journal.head(self.session_id).await.unwrap().unwrap()
    }

    /// The votes in the journal of the session.
    async fn journaled(&self) -> Vec<JournaledVote> {
        let votes = |event: session::Event| match event {
            session::Event::VotesCast(cast) => cast.votes,
            _ => Vec::new(),
        };
        let events = events(&self.journal, self.session_id).await;
        events.into_iter().flat_map(|recorded| votes(recorded.event)).collect()
    }

    /// Disables and enables the streamer, and takes hold again: a new session.
    async fn next_session(&self) -> Entry {
        self.change(Command::Disable).await;
        self.change(Command::Enable).await;
        hold(&self.journal, &self.streamer).await
    }
}

#[tokio::test]
async fn a_message_votes_once_within_a_batch_and_over_batches() {
    let stage = stage(Config::default()).await;
    assert_eq!(stage.append(&["a", "b", "a"]).await, [Accepted, Accepted, Duplicate]);
    assert_eq!(stage.append(&["b", "c"]).await, [Duplicate, Accepted]);
    let head = stage.head().await;
    assert_eq!((head.version, head.mood.for_count), (3, 3));
}

#[tokio::test]
async fn ids_that_are_no_uuids_or_differ_in_spelling_are_ids_of_their_own() {
    let stage = stage(Config::default()).await;
    let id = "cc106a89-1814-919d-454c-f4f2f970aae7";
    let (upper, simple, long) = (id.to_uppercase(), id.replace('-', ""), "x".repeat(64));
    let ids = [id, &upper, &simple, "message 1", "❤", "", &long];
    assert_eq!(stage.append(&ids).await, [Accepted; 7]);
    assert_eq!(stage.append(&ids).await, [Duplicate; 7]);
    let journaled: Vec<String> = stage.journaled().await.into_iter().map(|vote| vote.message_id).collect();
    assert_eq!(journaled, ids);
}

#[tokio::test]
async fn a_batch_of_duplicates_answers_the_head_and_writes_nothing() {
    let stage = stage(Config::default()).await;
    let other = live(&stage.journal, Config::default()).await;
    let other_id = session_of(&other).session_id;
    stage.append(&["a"]).await;
    let before = stage.head().await;
    let fresh = vote(other_id, "b", Side::Against, stage.started_at);
    let answer = append(&stage.journal, &[stage.vote("a"), fresh]).await;
    assert_eq!(answer.appended, [Duplicate, Accepted]);
    assert_eq!(answer.heads.len(), 2);
    let told = |id: Uuid| &answer.heads.iter().find(|told| told.session_id == id).unwrap().head;
    assert_eq!(told(stage.session_id), &before);
    assert_eq!(told(other_id).mood.against_count, 1);
    assert!(answer.now.is_some());
    assert_eq!(stage.head().await, before);
}

#[tokio::test]
async fn the_same_message_votes_with_two_streamers() {
    let stage = stage(Config::default()).await;
    let other = live(&stage.journal, Config::default()).await;
    let elsewhere = vote(session_of(&other).session_id, "a", Side::For, stage.started_at);
    assert_eq!(append(&stage.journal, &[stage.vote("a"), elsewhere]).await.appended, [Accepted, Accepted]);
}

#[tokio::test]
async fn a_vote_for_no_session_is_late() {
    let stage = stage(Config::default()).await;
    let unknown = vote(Uuid::now_v7(), "a", Side::For, stage.started_at);
    let answer = append(&stage.journal, &[unknown.clone(), stage.vote("a")]).await;
    assert_eq!(answer.appended, [Late, Accepted]);
    assert_eq!(answer.heads.len(), 1);
    let answer = append(&stage.journal, &[unknown]).await;
    assert_eq!((answer.appended, answer.heads, answer.now), (vec![Late], vec![], None));
    assert_eq!(append(&stage.journal, &[]).await.appended, []);
}

#[tokio::test]
async fn after_the_end_a_known_vote_is_a_duplicate_and_a_new_one_late() {
    let stage = stage(Config::default()).await;
    stage.append(&["a"]).await;
    stage.change(Command::Disable).await;
    let ended = stage.head().await;
    assert!(ended.ended_at.is_some());
    let answer = append(&stage.journal, &[stage.vote("a"), stage.vote("b")]).await;
    assert_eq!(answer.appended, [Duplicate, Late]);
    assert_eq!(answer.heads[0].head, ended);
    assert_eq!(stage.journaled().await.len(), 1);
    assert_eq!(stage.append(&["b"]).await, [Late], "a late vote is not remembered");
}

#[tokio::test]
async fn a_message_of_an_earlier_session_is_a_duplicate_in_the_next_one() {
    let stage = stage(Config::default()).await;
    stage.append(&["a"]).await;
    let next = stage.next_session().await;
    let next_id = session_of(&next).session_id;
    let in_next = |id: &str| vote(next_id, id, Side::For, stage.started_at);
    let votes = [in_next("a"), stage.vote("b"), in_next("b"), in_next("c")];
    assert_eq!(append(&stage.journal, &votes).await.appended, [Duplicate, Duplicate, Accepted, Accepted]);
    assert_eq!(append(&stage.journal, &[stage.vote("d"), in_next("d")]).await.appended[1], Accepted);
}

#[tokio::test]
async fn a_vote_from_before_the_last_reset_is_journaled_but_moves_nothing() {
    for model in [Model::Decay, Model::Window] {
        let database = migrated().await;
        let clock = database.take_clock(NOW).await;
        let mut config = Config::default();
        config.params.model = model;
        let stage = stage_in(database, config).await;
        stage.append(&["a"]).await;
        clock.set(Millis(NOW.0 + 1_000)).await;
        assert!(stage.journal.reset(stage.streamer.id, "test").await.unwrap());
        let reset = stage.head().await;
        assert_eq!((reset.mood.value, reset.mood.for_count), (0.0, 0));
        assert_eq!(reset.reset_at, Some(Millis(NOW.0 + 1_000)));

        let mut before = stage.vote("before");
        before.t = Millis(NOW.0 + 999);
        let mut at = stage.vote("at");
        at.t = Millis(NOW.0 + 1_000);
        assert_eq!(append(&stage.journal, &[before.clone()]).await.appended, [Accepted]);
        let head = stage.head().await;
        assert_eq!((head.version, &head.mood.seconds), (4, &Vec::new()));
        assert_eq!((head.mood.value, head.mood.for_count), (0.0, 0));
        assert_eq!(append(&stage.journal, &[before, at]).await.appended, [Duplicate, Accepted]);
        let head = stage.head().await;
        assert!(head.mood.value > 0.0 && head.mood.for_count == 1, "{head:?}");
        let weights: Vec<f64> = stage.journaled().await.iter().map(|vote| vote.weight).collect();
        assert_eq!(weights, [1.0, 0.0, 1.0]);
    }
}

#[tokio::test]
async fn a_vote_from_the_future_is_one_of_now() {
    let database = migrated().await;
    let _clock = database.take_clock(NOW).await;
    let stage = stage_in(database, Config::default()).await;
    let mut early = stage.vote("early");
    early.t = Millis(NOW.0 + 86_400_000);
    append(&stage.journal, &[early]).await;
    assert_eq!(stage.journaled().await[0].t, NOW);
    let head = stage.head().await;
    assert_eq!(head.mood.at, NOW);
    assert_close(head.mood.value, 10.0, "one vote at full weight");
}

#[tokio::test]
async fn a_vote_that_waited_counts_as_much_as_it_still_would() {
    let database = migrated().await;
    let clock = database.take_clock(NOW).await;
    let stage = stage_in(database, Config::default()).await;
    clock.set(Millis(NOW.0 + 2_000)).await;
    append(&stage.journal, &[stage.vote("waited")]).await;
    assert_close(stage.head().await.mood.value, 10.0 * (-2f64).exp(), "two seconds at speed 1");
}

#[tokio::test]
async fn time_never_runs_backwards_within_a_session() {
    let stage = stage(Config::default()).await;
    let ahead = Millis(stage.started_at.0 + 3_600_000);
    let sql = "UPDATE chatpulse.sessions SET at_ms = $1, value = 50 WHERE session_id = $2";
    stage.database.owner().await.execute(sql, &[&ahead.0, &stage.session_id]).await.unwrap();
    let mut vote = stage.vote("a");
    vote.t = ahead;
    append(&stage.journal, &[vote]).await;
    let head = stage.head().await;
    assert_eq!(head.mood.at, ahead);
    assert_close(head.mood.value, 60.0, "no time has passed");
    stage.change(Command::ChangeConfig { edited_version: 1, config: Config::default() }).await;
    assert_eq!(stage.head().await.mood.at, ahead);
    stage.journal.reset(stage.streamer.id, "test").await.unwrap();
    assert_eq!(stage.head().await.reset_at, Some(ahead));
    stage.change(Command::Disable).await;
    assert_eq!(stage.head().await.ended_at, Some(ahead));
}

#[tokio::test]
async fn a_batch_with_a_vote_that_cannot_be_stored_is_refused_whole() {
    let stage = stage(Config::default()).await;
    let before = stage.head().await;
    let with = |change: fn(&mut NewVote)| {
        let mut vote = stage.vote("guilty");
        change(&mut vote);
        vote
    };
    let guilty = [
        with(|vote| vote.message_id = "a\0b".into()),
        with(|vote| vote.viewer = "\0".into()),
        with(|vote| vote.weight = f64::MAX),
        with(|vote| vote.weight = f64::INFINITY),
        with(|vote| vote.weight = f64::NAN),
        with(|vote| vote.t = Millis(i64::MIN)),
    ];
    for guilty in guilty {
        let batch = [stage.vote("innocent"), guilty];
        let error = stage.journal.append_votes(&batch, "test").await.expect_err(&format!("{:?}", batch[1]));
        assert!(matches!(error, JournalError::Data(_)), "{error:?}");
        assert_eq!(stage.head().await, before);
    }
    let known = "SELECT count(*) FROM chatpulse.vote_ids";
    let known: i64 = stage.database.app().await.query_one(known, &[]).await.unwrap().get(0);
    assert_eq!(known, 0);
    assert_eq!(stage.append(&["innocent"]).await, [Accepted]);
}

#[tokio::test]
async fn an_append_that_waits_for_a_head_gives_up_soon_and_keeps_nothing() {
    let stage = stage(Config::default()).await;
    let mut client = stage.database.app().await;
    let transaction = client.transaction().await.unwrap();
    transaction.execute("SELECT FROM chatpulse.sessions FOR UPDATE", &[]).await.unwrap();
    let error = stage.journal.append_votes(&[stage.vote("a")], "test").await.unwrap_err();
    assert!(matches!(error, JournalError::Busy(_)), "{error:?}");
    transaction.rollback().await.unwrap();
    assert_eq!(stage.append(&["a"]).await, [Accepted]);
}

#[tokio::test]
async fn a_server_that_only_reads_or_lets_nobody_in_is_away() {
    let stage = stage(Config::default()).await;
    let TestDatabase { app_url, superuser_url, .. } = &stage.database.database;
    let read_only =
        format!("ALTER DATABASE {} SET default_transaction_read_only = on", stage.database.database.name());
    connect(superuser_url).await.batch_execute(&read_only).await.unwrap();
    let missing = app_url.replace(stage.database.database.name(), "missing");
    for url in [app_url, &missing] {
        let error = journal_at(url).append_votes(&[stage.vote("a")], "test").await.unwrap_err();
        assert!(matches!(error, JournalError::Away(_)), "{error:?}");
    }
    assert_eq!(stage.append(&["a"]).await, [Accepted], "by a connection from before");
}

#[tokio::test]
async fn projections_follow_the_events_in_their_transactions() {
    let stage = stage(Config::default()).await;
    let overlay_uuid = Uuid::new_v4();
    stage.change(Command::RotateOverlay { overlay_uuid }).await;
    let config =
        Config { for_triggers: vec!["a".into(), "b c".into()], theme: "light".into(), ..Config::default() };
    stage.change(Command::ChangeConfig { edited_version: 1, config: config.clone() }).await;
    let app = stage.database.app().await;
    let one = async |sql: &str| app.query_one(sql, &[]).await.unwrap();

    let user = one("SELECT u.version, overlay_uuid, disabled_at IS NULL, login, e.transaction_id = u.changed
                    FROM chatpulse.users u JOIN chatpulse.streamer_events e
                        ON e.streamer_id = u.id AND e.version = u.version")
    .await;
    assert_eq!(
        (user.get::<_, i64>(0), user.get::<_, Uuid>(1), user.get::<_, bool>(2)),
        (4, overlay_uuid, true)
    );
    assert_eq!(user.get::<_, String>(3), stage.streamer.profile.login);
    assert!(user.get::<_, bool>(4), "event and projection are one transaction");
    let saved = one("SELECT version, for_triggers, theme FROM chatpulse.configs").await;
    assert_eq!((saved.get::<_, i64>(0), saved.get::<_, Vec<String>>(1)), (2, config.for_triggers.clone()));
    assert_eq!(saved.get::<_, String>(2), "light");
    let wanted = one("SELECT type, status, subscription_id FROM chatpulse.eventsub_subscriptions
                      WHERE type = 'channel.chat.message'")
    .await;
    assert_eq!(wanted.get::<_, String>(0), "channel.chat.message");
    assert_eq!((wanted.get::<_, String>(1), wanted.get::<_, Option<String>>(2)), ("requested".into(), None));

    let mut state = None;
    for recorded in stage.journal.streamer_events(stage.streamer.id, 0, 100).await.unwrap() {
        state = streamer::evolve(state, &recorded.event);
    }
    let entry = stage.journal.entry(stage.streamer.id).await.unwrap().unwrap();
    assert_eq!(state.as_ref(), Some(&entry.streamer));
    assert_eq!(state.unwrap().config.config, config);
    let disabled = stage.change(Command::Disable).await;
    assert!(disabled.streamer.disabled && disabled.live.is_none());
    assert!(!stage.change(Command::Enable).await.streamer.disabled);
}

#[tokio::test]
async fn an_event_whose_projection_fails_is_not_kept() {
    let stage = stage(Config::default()).await;
    let app = stage.database.app().await;
    let before = stage.journal.entry(stage.streamer.id).await.unwrap();
    let append = "SELECT chatpulse.append_streamer_event($1, 2, $2, 1, $3, '{}')";
    let bogus: Value = serde_json::json!({ "config": { "version": 2, "model": "guess" } });
    for event_type in ["ConfigChanged", "OverlayRotated", "StreamerRenamed"] {
        let data = if event_type == "OverlayRotated" {
            serde_json::json!({ "overlay_uuid": "x" })
        } else {
            bogus.clone()
        };
        app.execute(append, &[&stage.streamer.id, &event_type, &data]).await.expect_err(event_type);
    }
    assert_eq!(stage.journal.entry(stage.streamer.id).await.unwrap(), before);
    assert_eq!(stage.journal.streamer_events(stage.streamer.id, 0, 10).await.unwrap().len(), 2);
}

/// The holders of the one live session, and whether it is unheld.
async fn holders(database: &MigratedDatabase) -> (Vec<Uuid>, bool) {
    let sql = "SELECT holders, unheld_since IS NOT NULL FROM chatpulse.live_sessions";
    let row = database.app().await.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn twenty_holds_at_once_start_one_session() {
    let database = migrated().await;
    let journals: Vec<Journal> = (0..5).map(|_| database.journal()).collect();
    let streamer = register(&journals[0], Config::default()).await;
    let holds = (0..20).map(|n| journals[n % 5].hold(streamer.overlay_uuid, LEASE));
    let held = futures_util::future::join_all(holds).await;
    let held: Vec<_> = held.into_iter().map(|held| held.unwrap().unwrap()).collect();
    assert_eq!(held.iter().filter(|held| held.started).count(), 1);
    let session_id = session_of(&held[0].entry).session_id;
    for each in &held {
        let live = session_of(&each.entry);
        assert_eq!((live.session_id, live.head.ordinal, live.head.version), (session_id, 1, 1));
        assert_eq!(live.key, session_of(&held[0].entry).key);
    }
    let (mut noted, unheld) = holders(&database).await;
    noted.sort_unstable();
    let mut instances: Vec<Uuid> = journals.iter().map(Journal::instance_id).collect();
    instances.sort_unstable();
    assert_eq!((noted, unheld), (instances, false));
    let starts: i64 = database
        .app()
        .await
        .query_one("SELECT count(*) FROM chatpulse.session_events WHERE type = 'SessionStarted'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(starts, 1);
}

#[tokio::test]
async fn a_session_is_unheld_from_the_last_release_to_the_next_hold() {
    let stage = stage(Config::default()).await;
    let other = stage.database.journal();
    hold(&other, &stage.streamer).await;
    stage.journal.release(stage.streamer.id).await.unwrap();
    assert_eq!(holders(&stage.database).await, (vec![other.instance_id()], false));
    other.release(stage.streamer.id).await.unwrap();
    assert_eq!(holders(&stage.database).await, (vec![], true));
    let since = "SELECT unheld_since::text FROM chatpulse.live_sessions";
    let app = stage.database.app().await;
    let first: String = app.query_one(since, &[]).await.unwrap().get(0);
    other.release(stage.streamer.id).await.unwrap();
    let again: String = app.query_one(since, &[]).await.unwrap().get(0);
    assert_eq!(again, first, "the time of the first release stays");
    let held = other.hold(stage.streamer.overlay_uuid, LEASE).await.unwrap().unwrap();
    assert!(!held.started);
    assert_eq!(session_of(&held.entry).session_id, stage.session_id);
    assert_eq!(holders(&stage.database).await, (vec![other.instance_id()], false));
}

#[tokio::test]
async fn nothing_is_held_by_an_unknown_url_or_of_a_disabled_streamer() {
    let stage = stage(Config::default()).await;
    assert_eq!(stage.journal.hold(Uuid::new_v4(), LEASE).await.unwrap(), None);
    stage.change(Command::Disable).await;
    let held = stage.journal.hold(stage.streamer.overlay_uuid, LEASE).await.unwrap().unwrap();
    assert!(held.entry.streamer.disabled && held.entry.live.is_none() && !held.started);
    assert!(!stage.journal.reset(stage.streamer.id, "test").await.unwrap());
    stage.journal.release(stage.streamer.id).await.unwrap();
    let rotated = stage.change(Command::RotateOverlay { overlay_uuid: Uuid::new_v4() }).await;
    assert_eq!(stage.journal.hold(stage.streamer.overlay_uuid, LEASE).await.unwrap(), None, "the old URL");
    assert!(stage.journal.hold(rotated.streamer.overlay_uuid, LEASE).await.unwrap().is_some());
}

#[tokio::test]
async fn the_next_session_goes_on_from_the_last_one_in_number_and_order() {
    let stage = stage(Config::default()).await;
    stage.append(&["a", "b"]).await;
    let next = stage.next_session().await;
    let (ended, live) = (stage.head().await, session_of(&next));
    assert_eq!((ended.ordinal, live.head.ordinal, next.last_ordinal), (1, 2, 2));
    assert!(live.head.frame_version() > ended.frame_version());
    assert_ne!(live.session_id, stage.session_id);
    assert_eq!((live.head.mood.value, live.head.mood.for_count), (0.0, 0));
    let states = fold(&events(&stage.journal, stage.session_id).await);
    assert_eq!(states.last(), Some(&ended));
    let of_streamer = stage.journal.streamer_events(stage.streamer.id, 0, 100).await.unwrap();
    let requested = |event: &streamer::Event| matches!(event, streamer::Event::SubscriptionRequested { .. });
    assert_eq!(of_streamer.iter().filter(|recorded| requested(&recorded.event)).count(), 1);
    let ends = events(&stage.journal, stage.session_id).await;
    let ends = ends.iter().filter(|recorded| matches!(recorded.event, session::Event::Ended { .. })).count();
    assert_eq!(ends, 1);
}

#[tokio::test]
async fn a_lease_is_renewed_from_now_on() {
    let database = migrated().await;
    let journal = database.journal();
    let sql =
        "SELECT lease_until > clock_timestamp() + interval '50 s', count(*) OVER () FROM chatpulse.instances";
    let app = database.app().await;
    journal.renew_lease(Duration::from_secs(1), true).await.unwrap();
    assert!(!app.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
    journal.renew_lease(Duration::from_secs(60), true).await.unwrap();
    let row = app.query_one(sql, &[]).await.unwrap();
    assert!(row.get::<_, bool>(0) && row.get::<_, i64>(1) == 1);
}

/// The entry of the streamer among what changed since the cursor, which is moved on.
async fn followed(stage: &Stage, cursor: &mut DirectoryCursor) -> Entry {
    let (entries, next) = stage.journal.directory_since(Some(*cursor)).await.unwrap();
    *cursor = next;
    let of_streamer = |entry: &Entry| entry.streamer.id == stage.streamer.id;
    entries.into_iter().find(of_streamer).expect("the change is told")
}

#[tokio::test]
async fn the_directory_tells_each_kind_of_change() {
    let database = migrated().await;
    let journal = database.journal();
    let streamer = register(&journal, Config::default()).await;
    let (cold, mut cursor) = journal.directory_since(None).await.unwrap();
    assert_eq!(cold, [], "in full it is those who are live");
    let entry = hold(&journal, &streamer).await;
    let session = session_of(&entry);
    let (session_id, started_at) = (session.session_id, session.head.started_at);
    let stage = Stage { database, journal, streamer, session_id, started_at };

    assert_eq!(followed(&stage, &mut cursor).await, entry);
    assert_eq!(stage.journal.directory_since(None).await.unwrap().0, [entry]);
    let command = Command::ChangeConfig { edited_version: 1, config: Config::default() };
    stage.change(command).await;
    let changed = followed(&stage, &mut cursor).await;
    assert_eq!((changed.streamer.config.version, session_of(&changed).head.config_version), (2, 2));
    let overlay_uuid = Uuid::new_v4();
    stage.change(Command::RotateOverlay { overlay_uuid }).await;
    assert_eq!(followed(&stage, &mut cursor).await.streamer.overlay_uuid, overlay_uuid);
    stage.journal.reset(stage.streamer.id, "test").await.unwrap();
    assert!(session_of(&followed(&stage, &mut cursor).await).head.reset_at.is_some());
    stage.change(Command::Disable).await;
    let disabled = followed(&stage, &mut cursor).await;
    assert!(disabled.streamer.disabled && disabled.live.is_none());
    assert_eq!(disabled.last_ordinal, 1);
    stage.change(Command::Enable).await;
    assert!(!followed(&stage, &mut cursor).await.streamer.disabled);
}

#[tokio::test]
async fn the_directory_misses_no_change_of_a_slow_transaction() {
    let stage = stage(Config::default()).await;
    let other = live(&stage.journal, Config::default()).await;
    let mut client = stage.database.app().await;
    let slow = client.transaction().await.unwrap();
    let reset = "SELECT chatpulse.reset_session($1, '{}')";
    slow.execute(reset, &[&stage.streamer.id]).await.unwrap();
    // Later transactions are committed and told, and cursors taken, while the slow one is open.
    let (_, mut cursor) = stage.journal.directory_since(None).await.unwrap();
    for _ in 0..3 {
        stage.journal.reset(other.streamer.id, "test").await.unwrap();
        let (entries, next) = stage.journal.directory_since(Some(cursor)).await.unwrap();
        assert!(entries.iter().any(|entry| entry.streamer.id == other.streamer.id));
        // It may be told for an earlier change, but not for this one.
        let slow = entries.iter().find(|entry| entry.streamer.id == stage.streamer.id);
        assert!(slow.is_none_or(|entry| session_of(entry).head.reset_at.is_none()), "not committed yet");
        cursor = next;
    }
    slow.commit().await.unwrap();
    assert!(session_of(&followed(&stage, &mut cursor).await).head.reset_at.is_some());
}

#[tokio::test]
async fn an_acknowledged_vote_is_journaled_also_after_the_end() {
    let stage = stage(Config::default()).await;
    stage.append(&["a"]).await;
    let next = stage.next_session().await;
    let ended = stage.head().await;
    let in_next = |id: &str| vote(session_of(&next).session_id, id, Side::For, stage.started_at);
    append(&stage.journal, &[in_next("elsewhere")]).await;
    let nowhere = vote(Uuid::now_v7(), "x", Side::For, stage.started_at);
    let votes = [
        stage.vote("a"),
        stage.vote("b"),
        stage.vote("b"),
        stage.vote("elsewhere"),
        in_next("b"),
        in_next("c"),
        nowhere,
    ];
    let answer = stage.journal.append_drained(&votes, "test").await.unwrap();
    let expected = [Duplicate, Accepted, Duplicate, Duplicate, Duplicate, Accepted, Late];
    assert_eq!(answer.appended, expected);
    assert_eq!(stage.journal.append_drained(&votes[..1], "test").await.unwrap().appended, [Duplicate]);
    assert_eq!(stage.append(&["b", "c", "d"]).await, [Duplicate, Duplicate, Late]);

    let head = stage.head().await;
    assert_eq!((head.version, head.mood.for_count), (ended.version + 1, 2));
    assert_eq!(head.ended_at, ended.ended_at);
    let events = events(&stage.journal, stage.session_id).await;
    let kinds: Vec<bool> =
        events.iter().map(|recorded| matches!(recorded.event, session::Event::VotesCast(_))).collect();
    assert_eq!(kinds, [false, true, false, true], "started, votes, ended, votes");
    assert_same_session(fold(&events).last().unwrap(), &head);
}

#[tokio::test]
async fn only_heads_that_are_newer_are_read() {
    let stage = stage(Config::default()).await;
    let other = live(&stage.journal, Config::default()).await;
    let other_id = session_of(&other).session_id;
    let newer = async |known: &[(Uuid, i64)]| stage.journal.newer_heads(known).await.unwrap();
    assert_eq!(newer(&[]).await, []);
    assert_eq!(newer(&[(stage.session_id, 1), (other_id, 1), (Uuid::now_v7(), 0)]).await, []);
    stage.append(&["a"]).await;
    let heads = newer(&[(stage.session_id, 1), (other_id, 1)]).await;
    assert_eq!((heads.len(), heads[0].session_id), (1, stage.session_id));
    assert_eq!(heads[0].head, stage.head().await);
    stage.change(Command::Disable).await;
    let heads = newer(&[(stage.session_id, 2), (other_id, 0)]).await;
    assert_eq!(heads.len(), 2);
    assert!(heads.iter().any(|told| told.session_id == stage.session_id && told.head.ended_at.is_some()));
}

#[tokio::test]
async fn the_sums_of_the_directory_tell_each_kind_of_change() {
    let stage = stage(Config::default()).await;
    let other = live(&stage.journal, Config::default()).await;
    register(&stage.journal, Config::default()).await;
    let mut last = stage.journal.live_digest().await.unwrap();
    assert_eq!((last.sessions, last.config_versions, last.ordinals), (2, 2, 2));
    assert_eq!(stage.journal.live_digest().await.unwrap(), last);
    let mut moved = async |what: &str| {
        let digest = stage.journal.live_digest().await.unwrap();
        assert_ne!(digest, last, "{what}");
        last = digest;
    };
    stage.change(Command::RotateOverlay { overlay_uuid: Uuid::new_v4() }).await;
    moved("another URL").await;
    stage.change(Command::ChangeConfig { edited_version: 1, config: Config::default() }).await;
    moved("other settings").await;
    stage.change(Command::Disable).await;
    moved("an end").await;
    stage.change(Command::Enable).await;
    let entry = stage.journal.entry(stage.streamer.id).await.unwrap().unwrap();
    stage.journal.hold(entry.streamer.overlay_uuid, LEASE).await.unwrap();
    moved("a start").await;
    assert_eq!(last.ordinals, 3);

    let (_, before) = stage.journal.directory_since(None).await.unwrap();
    stage.journal.reset(stage.streamer.id, "test").await.unwrap();
    let versions = stage.journal.live_versions().await.unwrap();
    assert_eq!(versions.len(), 2);
    let of = |id: Uuid| versions.iter().find(|versions| versions.streamer_id == id).unwrap();
    let (one, two) = (of(stage.streamer.id), of(other.streamer.id));
    assert_eq!((one.config_version, one.ordinal, two.config_version, two.ordinal), (2, 2, 1, 1));
    assert_eq!(two.streamer_version, 2);
    assert!(!before.covers(one.changed));
    // A transaction that is under way anywhere on the server holds cursors back.
    eventually("the cursor covers all changes", async || {
        let (_, cursor) = stage.journal.directory_since(None).await.unwrap();
        cursor.covers(one.changed) && cursor.covers(two.changed)
    })
    .await;
}

#[tokio::test]
async fn entries_are_found_by_streamer_and_live_ones_by_broadcaster() {
    let stage = stage(Config::default()).await;
    let idle = register(&stage.journal, Config::default()).await;
    let live = stage.journal.entry(stage.streamer.id).await.unwrap().unwrap();
    let mut found =
        stage.journal.entries(&[idle.id, Uuid::now_v7(), stage.streamer.id, idle.id]).await.unwrap();
    found.sort_by_key(|entry| entry.live.is_none());
    assert_eq!((found.len(), &found[0], &found[1].streamer), (2, &live, &idle));
    let ids = [&stage.streamer, &idle].map(|streamer| streamer.profile.twitch_user_id.clone());
    assert_eq!(stage.journal.live_broadcasters(&ids).await.unwrap(), [live]);
    assert_eq!(stage.journal.live_broadcasters(&[]).await.unwrap(), []);
}

fn one_connection(statement_timeout: Duration) -> JournalOptions {
    JournalOptions { pool_size: 1, connect_timeout: Duration::from_secs(10), statement_timeout }
}

#[tokio::test]
async fn what_is_announced_reaches_who_listens() {
    let stage = stage(Config::default()).await;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let (connected, is_connected) = tokio::sync::oneshot::channel();
    let url = stage.database.database.app_url.clone();
    let listening = tokio::spawn(async move {
        let options = one_connection(Duration::from_secs(30));
        let connected = move || connected.send(()).unwrap();
        listen(&url, &options, connected, |news| told.send(news).unwrap()).await
    });
    is_connected.await.unwrap();
    let app = stage.database.app().await;
    app.batch_execute("NOTIFY chatpulse_heads, 'of another release'").await.unwrap();
    stage.journal.announce(&[]).await.unwrap();
    let ids: Vec<Uuid> = (0..450).map(|_| Uuid::now_v7()).collect();
    stage.journal.announce(&ids).await.unwrap();
    let mut heads = Vec::new();
    while heads.len() < ids.len() {
        match heard.recv().await.unwrap() {
            News::Heads(more) => heads.extend(more),
            News::Directory => panic!("nothing in the directory changed"),
        }
    }
    assert_eq!(heads, ids);
    stage.journal.reset(stage.streamer.id, "test").await.unwrap();
    assert_eq!(heard.recv().await.unwrap(), News::Directory);
    listening.abort();
}

#[tokio::test]
async fn a_statement_that_waits_for_a_lock_is_busy_and_a_silent_server_away() {
    let stage = stage(Config::default()).await;
    let options = one_connection(Duration::from_secs(2));
    let journal = Journal::new(&stage.database.database.app_url, &options, Uuid::now_v7()).unwrap();
    journal.ping().await.unwrap();
    let mut client = stage.database.app().await;
    let transaction = client.transaction().await.unwrap();
    transaction.execute("SELECT FROM chatpulse.users FOR UPDATE", &[]).await.unwrap();
    let error = journal.hold(stage.streamer.overlay_uuid, LEASE).await.unwrap_err();
    assert!(matches!(error, JournalError::Busy(_)), "{error:?}");
}

#[tokio::test]
async fn a_statement_that_a_migration_has_outdated_is_prepared_anew() {
    let stage = stage(Config::default()).await;
    let options = one_connection(Duration::from_secs(30));
    let journal = Journal::new(&stage.database.database.app_url, &options, Uuid::now_v7()).unwrap();
    let before = journal.head(stage.session_id).await.unwrap();
    let change = "ALTER TABLE chatpulse.sessions ADD COLUMN later bigint";
    stage.database.owner().await.batch_execute(change).await.unwrap();
    assert_eq!(journal.head(stage.session_id).await.unwrap(), before);
}
