//! The schema: how it is made, and who may do what with it.

use std::collections::HashSet;

use chatpulse::domain::config::Config;
use chatpulse::domain::sentiment::Side;
use chatpulse::journal::JournalError;
use chatpulse::journal::migrations::{migrate, newest_version};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use crate::support::database::{
    HoldOne, LEASE, append, application_role, journal_at, live, migrated, session_of, vote,
};
use crate::support::servers::{TestDatabase, connect, servers};

/// PostgreSQL's code for what a role may not do.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// The SQLSTATE with which a statement is refused.
async fn refusal(client: &Client, sql: &str) -> String {
    let error = client.batch_execute(sql).await.expect_err(sql);
    error.code().map(|code| code.code().to_owned()).unwrap_or_else(|| error.to_string())
}

#[tokio::test]
async fn migrating_twice_or_twice_at_once_is_harmless() {
    let database = TestDatabase::create().await;
    let (one, other) = tokio::join!(
        migrate(&database.owner_url, application_role()),
        migrate(&database.owner_url, application_role())
    );
    let (one, other) = (one.unwrap(), other.unwrap());
    let (did, waited) = if one.applied.is_empty() { (other, one) } else { (one, other) };
    assert_eq!(did.applied.len(), newest_version() as usize);
    assert_eq!(waited.applied, Vec::<String>::new());
    assert_eq!((did.version, waited.version), (newest_version(), newest_version()));
    let again = migrate(&database.owner_url, application_role()).await.unwrap();
    assert_eq!(again, waited);
    journal_at(&database.app_url).check_schema().await.unwrap();
}

#[tokio::test]
async fn a_database_without_the_schema_is_refused_with_what_to_do() {
    let database = TestDatabase::create().await;
    let error = journal_at(&database.app_url).check_schema().await.unwrap_err();
    assert!(matches!(error, JournalError::Schema(_)), "{error:?}");
    assert!(error.to_string().contains("run `chatpulse migrate`"), "{error}");
}

#[tokio::test]
async fn an_older_schema_is_refused_with_what_to_do() {
    let database = migrated().await;
    let newest = newest_version() as i32;
    let owner = database.owner().await;
    owner.execute("DELETE FROM chatpulse.schema_history WHERE version = $1", &[&newest]).await.unwrap();
    let error = database.journal().check_schema().await.unwrap_err().to_string();
    let expected = format!("the schema has version {}, this release needs {newest}", newest - 1);
    assert!(error.starts_with(&expected) && error.contains("run `chatpulse migrate`"), "{error}");
}

/// The partition of an event, and the one that the month of its session's id asks for.
const PARTITIONS: &str = "
    SELECT tableoid::regclass::text,
           'chatpulse.session_events_' || to_char(to_timestamp(
               ('x' || left(replace(session_id::text, '-', ''), 12))::bit(48)::bigint / 1000.0
           ) AT TIME ZONE 'UTC', 'YYYY_MM')
    FROM chatpulse.session_events";

#[tokio::test]
async fn events_stand_in_the_partition_of_the_month_their_session_began() {
    let database = migrated().await;
    let journal = database.journal();
    let live = live(&journal, Config::default()).await;
    let session = session_of(&live);
    append(&journal, &[vote(session.session_id, "a", Side::For, session.head.started_at)]).await;
    let rows = database.owner().await.query(PARTITIONS, &[]).await.unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!(row.get::<_, String>(0), row.get::<_, String>(1));
    }
}

#[tokio::test]
async fn partitions_are_there_for_this_month_and_twelve_more() {
    let database = migrated().await;
    let sql = "SELECT inhrelid::regclass::text FROM pg_inherits
               WHERE inhparent = 'chatpulse.session_events'::regclass";
    let expected = "SELECT 'chatpulse.session_events_' ||
                           to_char((now() AT TIME ZONE 'UTC') + make_interval(months => m), 'YYYY_MM')
                    FROM generate_series(0, 12) AS m";
    let client = database.owner().await;
    let names = async |sql: &str| -> HashSet<String> {
        client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let mut expected = names(expected).await;
    assert_eq!(expected.len(), 13);
    expected.insert("chatpulse.session_events_default".into());
    assert_eq!(names(sql).await, expected);
}

#[tokio::test]
async fn partitions_are_months_of_utc_whatever_the_time_zone_of_who_makes_them() {
    let database = migrated().await;
    let client = database.owner().await;
    for (zone, months) in [("America/Los_Angeles", 24), ("Pacific/Kiritimati", 36)] {
        let sql = format!("SET TimeZone = '{zone}'; SELECT chatpulse.create_event_partitions({months})");
        client.batch_execute(&sql).await.unwrap();
    }
    // The first and the last millisecond of each of those months.
    let sql = "INSERT INTO chatpulse.session_events (session_id, version, type, schema_version, data, metadata)
               SELECT chatpulse.uuid_floor(
                   (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => m)) AT TIME ZONE 'UTC'
                   - edge * interval '1 ms'), 1, 'SessionStarted', 1, '{}', '{}'
               FROM generate_series(1, 36) AS m, generate_series(0, 1) AS edge";
    assert_eq!(client.execute(sql, &[]).await.unwrap(), 72);
    for row in client.query(PARTITIONS, &[]).await.unwrap() {
        assert_eq!(row.get::<_, String>(0), row.get::<_, String>(1));
    }
}

#[tokio::test]
async fn a_month_with_events_in_the_default_partition_does_not_stop_the_next_ones() {
    let database = migrated().await;
    let client = database.owner().await;
    let far =
        "INSERT INTO chatpulse.session_events (session_id, version, type, schema_version, data, metadata)
               SELECT chatpulse.uuid_floor(now() + interval '14 months'), 1, 'SessionStarted', 1, '{}', '{}'";
    client.batch_execute(far).await.unwrap();
    let made: i32 =
        client.query_one("SELECT chatpulse.create_event_partitions(16)", &[]).await.unwrap().get(0);
    assert_eq!(made, 3, "13, 15 and 16; 14 stays in the default one");
}

#[tokio::test]
async fn the_application_can_append_to_the_journal_but_not_change_it() {
    if !servers().private {
        return; // On given servers there is but one role.
    }
    let database = migrated().await;
    live(&database.journal(), Config::default()).await;
    let app = database.app().await;
    // Who owns nothing can grant nothing; PostgreSQL only warns.
    app.batch_execute("SELECT chatpulse.grant_application('chatpulse_app')").await.unwrap();
    let partition: String = database
        .owner()
        .await
        .query_one("SELECT tableoid::regclass::text FROM chatpulse.session_events", &[])
        .await
        .unwrap()
        .get(0);
    for table in ["chatpulse.session_events", "chatpulse.streamer_events", partition.as_str()] {
        for statement in [
            "UPDATE {} SET version = 9",
            "DELETE FROM {}",
            "TRUNCATE {}",
            "DROP TABLE {}",
            "ALTER TABLE {} DISABLE TRIGGER ALL",
            "ALTER TABLE {} ADD COLUMN x int",
            "CREATE TRIGGER t AFTER INSERT ON {} EXECUTE FUNCTION chatpulse.refuse_change()",
        ] {
            let statement = statement.replace("{}", table);
            assert_eq!(refusal(&app, &statement).await, INSUFFICIENT_PRIVILEGE, "{statement}");
        }
    }
    for statement in [
        "CREATE TABLE chatpulse.x ()",
        "DROP SCHEMA chatpulse CASCADE",
        "ALTER TABLE chatpulse.sessions ADD COLUMN x int",
        "TRUNCATE chatpulse.vote_ids",
        "UPDATE chatpulse.schema_history SET version = 0",
        "SELECT chatpulse.create_event_partitions(20)",
        "CREATE OR REPLACE FUNCTION chatpulse.clock_ms() RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint'",
    ] {
        assert_eq!(refusal(&app, statement).await, INSUFFICIENT_PRIVILEGE, "{statement}");
    }
}

#[tokio::test]
async fn the_journal_refuses_changes_also_by_its_owner() {
    let database = migrated().await;
    let journal = database.journal();
    let live = live(&journal, Config::default()).await;
    let session_id = session_of(&live).session_id;
    let owner = database.owner().await;
    let partition: String = owner
        .query_one("SELECT tableoid::regclass::text FROM chatpulse.session_events", &[])
        .await
        .unwrap()
        .get(0);
    for table in ["chatpulse.session_events", "chatpulse.streamer_events", partition.as_str()] {
        for statement in ["UPDATE {} SET version = version", "DELETE FROM {}", "TRUNCATE {}"] {
            let statement = statement.replace("{}", table);
            let error = owner.batch_execute(&statement).await.expect_err(&statement);
            let error = error.as_db_error().unwrap();
            assert_eq!(error.code().code(), INSUFFICIENT_PRIVILEGE, "{statement}");
            assert!(error.message().starts_with("the journal is append-only"), "{error}");
        }
    }
    assert_eq!(journal.session_events(session_id, 0, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_event_of_an_unknown_type_is_named() {
    let database = migrated().await;
    let journal = database.journal();
    let entry = live(&journal, Config::default()).await;
    let (streamer_id, session_id) = (entry.streamer.id, session_of(&entry).session_id);
    let app = database.app().await;
    for (table, id, key) in
        [("session", session_id, "SessionPaused"), ("streamer", streamer_id, "StreamerRenamed")]
    {
        let sql = format!(
            "INSERT INTO chatpulse.{table}_events ({table}_id, version, type, schema_version, data, metadata)
             VALUES ($1, 9, '{key}', 1, '{{}}', '{{}}')"
        );
        app.execute(&sql, &[&id]).await.unwrap();
    }
    for (error, name) in [
        (journal.session_events(session_id, 0, 10).await.unwrap_err(), "SessionPaused"),
        (journal.streamer_events(streamer_id, 0, 10).await.unwrap_err(), "StreamerRenamed"),
    ] {
        assert!(matches!(error, JournalError::Unreadable(_)), "{error:?}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[tokio::test]
async fn streams_are_read_in_pages_by_version() {
    let database = migrated().await;
    let journal = database.journal();
    let entry = live(&journal, Config::default()).await;
    let session = session_of(&entry);
    for number in 0..6 {
        let vote = vote(session.session_id, &number.to_string(), Side::For, session.head.started_at);
        append(&journal, &[vote]).await;
    }
    let page = async |after| -> Vec<i64> {
        let events = journal.session_events(session.session_id, after, 3).await.unwrap();
        events.iter().map(|event| event.version).collect()
    };
    assert_eq!(page(0).await, [1, 2, 3]);
    assert_eq!(page(3).await, [4, 5, 6]);
    assert_eq!(page(6).await, [7]);
    assert_eq!(page(7).await, [0; 0]);
    assert_eq!(journal.session_events(Uuid::now_v7(), 0, 3).await.unwrap(), []);
    let events = journal.streamer_events(entry.streamer.id, 1, 3).await.unwrap();
    assert_eq!(events.iter().map(|event| event.version).collect::<Vec<_>>(), [2]);
}

#[tokio::test]
async fn commits_wait_for_the_disk_whatever_the_server_says() {
    let database = migrated().await;
    let sql = format!("ALTER DATABASE {} SET synchronous_commit = off", database.database.name());
    connect(&database.database.superuser_url).await.batch_execute(&sql).await.unwrap();
    let off: String = database.app().await.query_one("SHOW synchronous_commit", &[]).await.unwrap().get(0);
    assert_eq!(off, "off");
    // What the journal's own connection says, by way of an event's metadata.
    let journal = database.journal();
    let trigger = "CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                       new.metadata := jsonb_build_object('sync', current_setting('synchronous_commit'));
                       RETURN new; END $$;
                   CREATE TRIGGER note BEFORE INSERT ON chatpulse.streamer_events
                       FOR EACH ROW EXECUTE FUNCTION public.note()";
    database.owner().await.batch_execute(trigger).await.unwrap();
    live(&journal, Config::default()).await;
    let sql = "SELECT DISTINCT metadata->>'sync' FROM chatpulse.streamer_events";
    let said: String = database.app().await.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(said, "on");
}

/// The schema of the previous release.
const PREVIOUS: [&str; 6] = [
    include_str!("../../schema/V1__journal.sql"),
    include_str!("../../schema/V2__streamers.sql"),
    include_str!("../../schema/V3__sessions.sql"),
    include_str!("../../schema/V4__arithmetic.sql"),
    include_str!("../../schema/V5__votes.sql"),
    include_str!("../../schema/V6__sessions_and_streamers.sql"),
];
const THIS: [&str; 8] = [
    include_str!("../../schema/V7__many_instances.sql"),
    include_str!("../../schema/V8__drained_votes.sql"),
    include_str!("../../schema/V9__lasting_plans.sql"),
    include_str!("../../schema/V10__holds_together.sql"),
    include_str!("../../schema/V11__twitch.sql"),
    include_str!("../../schema/V12__retraction_and_pause.sql"),
    include_str!("../../schema/V13__recording.sql"),
    include_str!("../../schema/V14__operators.sql"),
];

/// The previous release's statements on an open connection, prepared once and for all.
struct PreviousRelease {
    client: Client,
    register: Statement,
    entry: Statement,
    renew: Statement,
    hold: Statement,
    release: Statement,
    append: Statement,
    head: Statement,
}

impl PreviousRelease {
    async fn connect(url: &str) -> PreviousRelease {
        let client = connect(url).await;
        let prepare = async |sql: &str| client.prepare(sql).await.unwrap();
        PreviousRelease {
            register: prepare("SELECT chatpulse.append_streamer_event($1, $2, $3, $4, $5, $6)").await,
            entry: prepare("SELECT * FROM chatpulse.directory WHERE streamer_id = $1").await,
            renew: prepare("SELECT chatpulse.renew_lease($1, make_interval(secs => $2))").await,
            hold: prepare("SELECT * FROM chatpulse.hold($1, $2, $3, $4, $5)").await,
            release: prepare("SELECT chatpulse.release($1, $2)").await,
            append: prepare("SELECT * FROM chatpulse.append_votes($1, $2, $3, $4, $5, $6, $7, $8)").await,
            head: prepare("SELECT * FROM chatpulse.sessions WHERE session_id = $1").await,
            client,
        }
    }

    /// Registers a streamer; holds, votes, reads and lets go of the session. Answers the streamer and the
    /// session, which nobody holds then.
    async fn run(&self) -> (Uuid, Uuid) {
        let (id, overlay, instance, session) =
            (Uuid::now_v7(), Uuid::new_v4(), Uuid::now_v7(), Uuid::now_v7());
        let config = serde_json::json!({
            "version": 1, "for_triggers": ["yes"], "against_triggers": ["no"], "for_label": "Yes",
            "against_label": "No", "model": "decay", "vote_delta": 10.0, "decay_speed": 1.0,
            "window_seconds": 30, "display": "combined", "theme": "dark",
        });
        let registered = serde_json::json!({
            "twitch_user_id": id.simple().to_string(), "login": "login", "display_name": "Name",
            "overlay_uuid": overlay, "config": config,
        });
        let meta = serde_json::json!({});
        let one = async |statement: &Statement, params: &[&(dyn ToSql + Sync)]| {
            self.client.query_one(statement, params).await.unwrap()
        };
        one(&self.register, &[&id, &0i64, &"StreamerRegistered", &1, &registered, &meta]).await;
        assert!(one(&self.renew, &[&instance, &15f64]).await.get::<_, i64>(0) > 0);
        let held = one(&self.hold, &[&overlay, &instance, &session, &[1u8; 32].as_slice(), &meta]).await;
        assert_eq!((held.get::<_, Uuid>("session_id"), held.get::<_, i32>("holders")), (session, 1));
        let votes: [&(dyn ToSql + Sync); 8] = [
            &vec![session],
            &vec![Uuid::now_v7()],
            &vec!["a"],
            &vec![true],
            &vec![1f64],
            &vec![0i64],
            &vec!["viewer"],
            &meta,
        ];
        assert_eq!(one(&self.append, &votes).await.get::<_, Vec<i64>>("accepted"), [1]);
        assert_eq!(one(&self.head, &[&session]).await.get::<_, i64>("version"), 2);
        assert_eq!(one(&self.entry, &[&id]).await.get::<_, i32>("holders"), 1);
        one(&self.release, &[&id, &instance]).await;
        assert_eq!(one(&self.entry, &[&id]).await.get::<_, i32>("holders"), 0);
        (id, session)
    }
}

#[tokio::test]
async fn the_previous_release_goes_on_over_the_migration_and_beside_this_one() {
    let database = TestDatabase::create().await;
    let mut owner = connect(&database.owner_url).await;
    owner.batch_execute("CREATE SCHEMA chatpulse").await.unwrap();
    for file in PREVIOUS {
        owner.batch_execute(file).await.unwrap();
    }
    let grant = async |owner: &Client| {
        let Some(role) = application_role() else { return };
        owner.execute("SELECT chatpulse.grant_application($1::text::name)", &[&role]).await.unwrap();
    };
    grant(&owner).await;
    let previous = PreviousRelease::connect(&database.app_url).await;
    let (before, _) = previous.run().await;
    let gone = "UPDATE chatpulse.live_sessions SET holders = ARRAY[gen_random_uuid()], unheld_since = NULL";
    owner.batch_execute(gone).await.unwrap();

    for file in THIS {
        let migration = owner.transaction().await.unwrap();
        migration.batch_execute(file).await.unwrap();
        migration.commit().await.unwrap();
    }
    let (during, session_id) = previous.run().await;
    grant(&owner).await;

    let journal = journal_at(&database.app_url);
    let held = journal.hold_streamer(during, LEASE).await.unwrap().unwrap();
    assert!(!held.started);
    let live = session_of(&held.entry);
    assert_eq!((live.session_id, live.holders.version), (session_id, 3), "let go by one, held by the other");
    let lapsed = journal.drop_lapsed().await.unwrap();
    assert_eq!(lapsed.iter().map(|holders| holders.streamer_id).collect::<Vec<_>>(), [before]);
    assert!(lapsed[0].ids.is_empty() && lapsed[0].unheld_since.is_some());
}
