//! Databases with the schema, and what most tests of the journal begin with.

use std::sync::{Arc, Weak};
use std::time::Duration;

use chatpulse::domain::config::Config;
use chatpulse::domain::sentiment::{SecondTally, Side};
use chatpulse::domain::session::{self, Session};
use chatpulse::domain::streamer::{Profile, Streamer};
use chatpulse::domain::time::Millis;
use chatpulse::journal::migrations::migrate;
use chatpulse::journal::sessions::{Entry, Held, Hold, IfLocked, LiveSession};
use chatpulse::journal::streams::Recorded;
use chatpulse::journal::votes::{AppendAnswer, NewVote};
use chatpulse::journal::{Journal, JournalError, JournalOptions};
use tokio::sync::Mutex;
use tokio_postgres::Client;
use uuid::Uuid;

use super::servers::{TestDatabase, connect, servers};

/// Numbers that have to agree differ by no more than this.
pub const TOLERANCE: f64 = 1e-9;

/// The lease of a test's instance: on the real clock it outlives the test.
pub const LEASE: Duration = Duration::from_secs(600);

/// The one database that was migrated; it goes with the last test that uses a copy.
static TEMPLATE: Mutex<Weak<TestDatabase>> = Mutex::const_new(Weak::new());

/// A database of one test with the newest schema.
pub struct MigratedDatabase {
    pub database: TestDatabase,
    _template: Arc<TestDatabase>,
}

/// A database with the newest schema, as a copy of one that was migrated before.
pub async fn migrated() -> MigratedDatabase {
    let template = template().await;
    MigratedDatabase { database: TestDatabase::create_from(template.name()).await, _template: template }
}

async fn template() -> Arc<TestDatabase> {
    let mut known = TEMPLATE.lock().await;
    if let Some(template) = known.upgrade() {
        return template;
    }
    let template = Arc::new(TestDatabase::create().await);
    migrate(&template.owner_url, application_role()).await.expect("the schema is made");
    *known = Arc::downgrade(&template);
    template
}

/// The role to which [`migrate`] grants what the application may do. On given servers the owner is the
/// application, who needs no grants.
pub fn application_role() -> Option<&'static str> {
    servers().private.then_some("chatpulse_app")
}

/// The journal of an instance of its own behind `url`.
pub fn journal_at(url: &str) -> Journal {
    let options = JournalOptions {
        pool_size: 4,
        connect_timeout: Duration::from_secs(10),
        statement_timeout: Duration::from_secs(30),
    };
    Journal::new(url, &options, Uuid::now_v7()).expect("the test's URL can be used")
}

impl MigratedDatabase {
    /// The journal of an instance of its own.
    pub fn journal(&self) -> Journal {
        journal_at(&self.database.app_url)
    }

    /// A connection as the application's role.
    pub async fn app(&self) -> Client {
        connect(&self.database.app_url).await
    }

    /// A connection as the owner.
    pub async fn owner(&self) -> Client {
        connect(&self.database.owner_url).await
    }

    /// Puts a clock in the place of the journal's own, to be set by hand. By this clock the server
    /// has been up since 1970.
    pub async fn take_clock(&self, now: Millis) -> TestClock {
        let owner = self.owner().await;
        // Setting it shall be quick: nothing of it has to outlive a crash.
        let sql = format!(
            "SET synchronous_commit = off;
             CREATE UNLOGGED TABLE public.test_clock AS SELECT {}::bigint AS now_ms, 0::bigint AS up_ms;
             GRANT SELECT ON public.test_clock TO PUBLIC;
             CREATE OR REPLACE FUNCTION chatpulse.clock_ms() RETURNS bigint
             LANGUAGE sql VOLATILE AS 'SELECT now_ms FROM public.test_clock';
             CREATE OR REPLACE FUNCTION chatpulse.up_since() RETURNS timestamptz
             LANGUAGE sql STABLE AS 'SELECT to_timestamp(up_ms / 1000.0) FROM public.test_clock'",
            now.0
        );
        owner.batch_execute(&sql).await.expect("the clock is exchanged");
        TestClock { owner }
    }
}

/// The journal's clock in the hands of a test.
pub struct TestClock {
    owner: Client,
}

impl TestClock {
    /// Makes it `now`, which may be earlier than before.
    pub async fn set(&self, now: Millis) {
        self.owner.execute("UPDATE public.test_clock SET now_ms = $1", &[&now.0]).await.unwrap();
    }

    /// Makes it so that the server has been up since now.
    pub async fn restart(&self) {
        self.owner.execute("UPDATE public.test_clock SET up_ms = now_ms", &[]).await.unwrap();
    }
}

/// A broadcaster nobody else has.
pub fn profile() -> Profile {
    let twitch_user_id = Uuid::now_v7().simple().to_string();
    Profile { login: format!("login{twitch_user_id}"), display_name: "Streamer".into(), twitch_user_id }
}

/// A new streamer with `config`.
pub async fn register(journal: &Journal, config: Config) -> Streamer {
    let (streamer, created) = journal.register(profile(), config, "test").await.unwrap();
    assert!(created);
    streamer
}

/// A new streamer with `config`, and their live session, held by the journal's instance.
pub async fn live(journal: &Journal, config: Config) -> Entry {
    let streamer = register(journal, config).await;
    hold(journal, &streamer).await
}

/// Taking hold of one session.
pub trait HoldOne {
    /// Of the session behind an overlay's URL, as [`Journal::hold_overlays`].
    async fn hold(&self, overlay_uuid: Uuid, lease: Duration) -> Result<Option<Held>, JournalError>;
    /// Of a streamer's session, as [`Journal::hold_streamers`].
    async fn hold_streamer(&self, streamer_id: Uuid, lease: Duration) -> Result<Option<Held>, JournalError>;
}

impl HoldOne for Journal {
    async fn hold(&self, overlay_uuid: Uuid, lease: Duration) -> Result<Option<Held>, JournalError> {
        Ok(self.hold_overlays(&[Hold::of(overlay_uuid)], lease, IfLocked::Wait).await?.remove(0))
    }

    async fn hold_streamer(&self, streamer_id: Uuid, lease: Duration) -> Result<Option<Held>, JournalError> {
        Ok(self.hold_streamers(&[Hold::of(streamer_id)], lease, IfLocked::Wait).await?.remove(0))
    }
}

/// A streamer's live session, held by the journal's instance.
pub async fn hold(journal: &Journal, streamer: &Streamer) -> Entry {
    journal.hold(streamer.overlay_uuid, LEASE).await.unwrap().expect("the overlay's URL is known").entry
}

/// The live session of an entry that has one.
pub fn session_of(entry: &Entry) -> &LiveSession {
    entry.live.as_ref().expect("a session is live")
}

/// A vote of weight 1.
pub fn vote(session_id: Uuid, message_id: &str, side: Side, t: Millis) -> NewVote {
    let viewer = "0123456789abcdef".to_owned();
    NewVote { session_id, message_id: message_id.to_owned(), side, weight: 1.0, t, viewer }
}

/// Appends until PostgreSQL is not too busy for it. A deadlock is no such reason.
pub async fn append(journal: &Journal, votes: &[NewVote]) -> AppendAnswer {
    loop {
        match journal.append_votes(votes, "test").await {
            Err(JournalError::Busy(reason)) if !reason.contains("40P01") => {}
            answer => return answer.unwrap(),
        }
    }
}

/// All events of a session, read in pages.
pub async fn events(journal: &Journal, session_id: Uuid) -> Vec<Recorded<session::Event>> {
    let mut events: Vec<Recorded<session::Event>> = Vec::new();
    loop {
        let after = events.last().map_or(0, |event| event.version);
        let page = journal.session_events(session_id, after, 100).await.unwrap();
        if page.is_empty() {
            return events;
        }
        events.extend(page);
    }
}

/// The states after each event of a session, by the domain; that after version n stands at n − 1.
/// What events say of themselves (value and totals after them) has to be what the fold says.
pub fn fold(events: &[Recorded<session::Event>]) -> Vec<Session> {
    let mut states: Vec<Session> = Vec::with_capacity(events.len());
    for recorded in events {
        let state = session::evolve(states.last().cloned(), &recorded.event).expect("a start comes first");
        assert_eq!(recorded.version, state.version, "versions have no gaps");
        match &recorded.event {
            session::Event::VotesCast(cast) => {
                assert_eq!(cast.at, state.mood.at);
                assert_eq!(
                    (cast.for_count, cast.against_count),
                    (state.mood.for_count, state.mood.against_count)
                );
                assert_close(cast.value, state.mood.value, "the value of VotesCast");
            }
            session::Event::ConfigApplied { value, .. } => {
                assert_close(*value, state.mood.value, "the value of ConfigApplied");
            }
            _ => {}
        }
        states.push(state);
    }
    states
}

/// Fails unless both sessions are the same, their numbers up to [`TOLERANCE`].
pub fn assert_same_session(one: &Session, other: &Session) {
    let context = format!("{one:?}\nagainst\n{other:?}");
    assert_close(one.mood.value, other.mood.value, &context);
    assert_same_seconds(&one.mood.seconds, &other.mood.seconds, &context);
    let mut rest = one.clone();
    rest.mood.value = other.mood.value;
    rest.mood.seconds = other.mood.seconds.clone();
    assert_eq!(&rest, other);
}

/// Fails unless both windows are the same up to [`TOLERANCE`].
pub fn assert_same_seconds(one: &[SecondTally], other: &[SecondTally], context: &str) {
    assert_eq!(one.len(), other.len(), "{context}");
    for (one, other) in one.iter().zip(other) {
        assert_eq!(one.second, other.second, "{context}");
        assert_close(one.for_weight, other.for_weight, context);
        assert_close(one.against_weight, other.against_weight, context);
    }
}

/// Fails unless both numbers are the same up to [`TOLERANCE`].
#[track_caller]
pub fn assert_close(one: f64, other: f64, context: &str) {
    assert!((one - other).abs() <= TOLERANCE, "{one} is not {other}: {context}");
}
