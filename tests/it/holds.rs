//! Who keeps sessions alive, and which end: leases, holds and orphans, by a clock set by hand.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chatpulse::domain::config::Config;
use chatpulse::domain::holders::Holders;
use chatpulse::domain::sentiment::Side;
use chatpulse::domain::session;
use chatpulse::domain::streamer::{self, Command, Streamer};
use chatpulse::domain::time::Millis;
use chatpulse::journal::sessions::{EndedSession, Entry, Held, Hold, IfLocked};
use chatpulse::journal::streamers::ChangeError;
use chatpulse::journal::votes::Appended;
use chatpulse::journal::{Journal, JournalError};
use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::{Client, Transaction};
use uuid::Uuid;

use crate::support::database::{
    HoldOne, MigratedDatabase, TestClock, append, assert_close, assert_same_session, events, fold,
    journal_at, migrated, register, session_of, vote,
};
use crate::support::eventually;

const START: Millis = Millis(1_790_000_000_000);
const LEASE: Duration = Duration::from_secs(15);
const ORPHAN: Duration = Duration::from_secs(30);
/// How often a race is run.
const ROUNDS: i64 = 30;

/// A database whose clock is set by hand.
struct Stage {
    database: MigratedDatabase,
    clock: TestClock,
    sql: Client,
    now: Millis,
}

async fn stage() -> Stage {
    let database = migrated().await;
    let clock = database.take_clock(START).await;
    let sql = database.owner().await;
    Stage { database, clock, sql, now: START }
}

impl Stage {
    /// An instance with a lease that has gone on for long and goes on for long.
    async fn instance(&self) -> Journal {
        let journal = self.database.journal();
        let sql = "INSERT INTO chatpulse.instances (instance_id, lease_until, lease_since)
                   VALUES ($1, 'infinity', 'epoch')";
        self.sql.execute(sql, &[&journal.instance_id()]).await.unwrap();
        journal
    }

    async fn pass(&mut self, time: Duration) {
        self.now = Millis(self.now.0 + time.as_millis() as i64);
        self.clock.set(self.now).await;
    }

    async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// The instances that are known.
    async fn instances(&self) -> HashSet<Uuid> {
        let rows = self.sql.query("SELECT instance_id FROM chatpulse.instances", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn ends(&self) -> i64 {
        self.one("SELECT count(*) FROM chatpulse.session_events WHERE type = 'SessionEnded'").await
    }

    /// What has to be true of the holds at any time.
    async fn assert_sound(&self) {
        let strays = "SELECT count(*) FROM chatpulse.live_sessions l, unnest(l.holders) AS h (id)
                      WHERE NOT EXISTS (SELECT FROM chatpulse.instances i WHERE i.instance_id = h.id)";
        assert_eq!(self.one::<i64>(strays).await, 0, "each holder is a known instance");
        let doubled = "SELECT count(*) FROM chatpulse.live_sessions l
                       WHERE cardinality(holders) <> (SELECT count(DISTINCT h) FROM unnest(holders) AS h)
                          OR (cardinality(holders) = 0) <> (unheld_since IS NOT NULL)";
        assert_eq!(self.one::<i64>(doubled).await, 0, "each holder counts once, and none is unheld");
        let live = "SELECT count(*) FROM chatpulse.live_sessions l FULL JOIN
                        (SELECT * FROM chatpulse.sessions WHERE ended_at_ms IS NULL) s USING (session_id)
                    WHERE l.session_id IS NULL OR s.session_id IS NULL";
        assert_eq!(self.one::<i64>(live).await, 0, "a session is live until it ends");
        let ends = "SELECT count(*) FROM (
                        SELECT FROM chatpulse.session_events WHERE type = 'SessionEnded'
                        GROUP BY session_id HAVING count(*) > 1) AS twice";
        assert_eq!(self.one::<i64>(ends).await, 0, "a session ends once");
    }
}

async fn hold(journal: &Journal, streamer: &Streamer) -> Entry {
    journal.hold(streamer.overlay_uuid, LEASE).await.unwrap().expect("the URL is known").entry
}

async fn orphans(journal: &Journal) -> Vec<EndedSession> {
    journal.end_orphans(None, ORPHAN).await.unwrap()
}

/// A new streamer whose session was just left alone by `journal`.
async fn orphaned(journal: &Journal) -> Entry {
    let streamer = register(journal, Config::default()).await;
    let entry = hold(journal, &streamer).await;
    journal.release(streamer.id).await.unwrap().expect("a session is live");
    entry
}

#[tokio::test]
async fn a_lease_goes_on_until_it_lapses_or_is_broken() {
    let mut stage = stage().await;
    let journal = stage.database.journal();
    let lease = journal.renew_lease(LEASE, true).await.unwrap();
    assert_eq!((lease.now, lease.since), (START, START));
    stage.pass(LEASE - Duration::from_millis(1)).await;
    let lease = journal.renew_lease(LEASE, true).await.unwrap();
    assert_eq!((lease.now, lease.since), (stage.now, START));
    let lease = journal.renew_lease(LEASE, false).await.unwrap();
    assert_eq!(lease.since, stage.now, "broken");
    stage.pass(LEASE).await;
    let lease = journal.renew_lease(LEASE, true).await.unwrap();
    assert_eq!(lease.since, stage.now, "lapsed");
}

#[tokio::test]
async fn a_lapsed_instance_loses_its_holds_and_takes_them_again() {
    let mut stage = stage().await;
    let (lapses, lives) = (stage.database.journal(), stage.instance().await);
    let (alone, shared) =
        (register(&lives, Config::default()).await, register(&lives, Config::default()).await);
    let began = lapses.renew_lease(LEASE, true).await.unwrap();
    hold(&lapses, &alone).await;
    hold(&lapses, &shared).await;
    let both = hold(&lives, &shared).await;
    let before = session_of(&both).holders.clone();
    assert_eq!(before.ids, [lapses.instance_id(), lives.instance_id()]);
    stage.pass(LEASE - Duration::from_millis(1)).await;
    assert_eq!(lives.drop_lapsed().await.unwrap(), []);
    stage.pass(Duration::from_millis(1)).await;

    let mut dropped = lives.drop_lapsed().await.unwrap();
    dropped.sort_by_key(|holders| holders.ids.len());
    let [unheld, held] = dropped.as_slice() else { panic!("{dropped:?}") };
    assert_eq!((unheld.streamer_id, &unheld.ids), (alone.id, &vec![]));
    assert_eq!(unheld.unheld_since, Some(stage.now));
    let expected = Holders { version: before.version + 1, ids: vec![lives.instance_id()], ..before.clone() };
    assert_eq!(held, &expected);
    assert!(held.rank() > before.rank());
    assert_eq!(lives.drop_lapsed().await.unwrap(), []);
    assert_eq!(stage.instances().await, HashSet::from([lives.instance_id()]));

    assert!(lapses.held().await.unwrap().is_empty());
    assert_ne!(lapses.renew_lease(LEASE, true).await.unwrap().since, began.since);
    let again = lapses.hold_streamer(alone.id, LEASE).await.unwrap().unwrap();
    assert!(!again.started);
    assert_eq!(session_of(&again.entry).holders.ids, [lapses.instance_id()]);
    assert_eq!(lapses.held().await.unwrap(), [alone.id]);
    assert_eq!(lapses.hold_streamer(Uuid::now_v7(), LEASE).await.unwrap(), None);
    stage.assert_sound().await;
}

#[tokio::test]
async fn a_hold_that_is_repeated_writes_nothing() {
    let stage = stage().await;
    let journal = stage.instance().await;
    let streamer = register(&journal, Config::default()).await;
    let first = hold(&journal, &streamer).await;
    let row = "SELECT ctid::text || xmin FROM chatpulse.live_sessions";
    let written: String = stage.one(row).await;
    assert_eq!(hold(&journal, &streamer).await, first);
    assert_eq!(journal.hold_streamer(streamer.id, LEASE).await.unwrap().unwrap().entry, first);
    assert_eq!(stage.one::<String>(row).await, written);

    let released = journal.release(streamer.id).await.unwrap().unwrap();
    assert_eq!((released.version, released.unheld_since), (2, Some(START)));
    assert_eq!(journal.release(streamer.id).await.unwrap(), Some(released), "also a release");
    journal.change_streamer(streamer.id, Command::Disable, "test").await.unwrap();
    assert_eq!(journal.release(streamer.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_hold_before_the_first_renewal_begins_the_lease() {
    let mut stage = stage().await;
    let journal = stage.database.journal();
    let streamer = register(&journal, Config::default()).await;
    hold(&journal, &streamer).await;
    stage.assert_sound().await;
    stage.pass(Duration::from_secs(1)).await;
    assert_eq!(journal.renew_lease(LEASE, true).await.unwrap().since, START);
}

#[tokio::test]
async fn a_given_id_and_key_are_those_of_the_session_that_is_started() {
    let stage = stage().await;
    let journal = stage.instance().await;
    let streamer = register(&journal, Config::default()).await;
    let wanted = Hold { whose: streamer.overlay_uuid, session_id: Uuid::now_v7(), key: [9; 32] };
    let held = journal.hold_overlays(&[wanted], LEASE, IfLocked::Wait).await.unwrap().remove(0).unwrap();
    assert!(held.started);
    let live = session_of(&held.entry);
    assert_eq!((live.session_id, live.key), (wanted.session_id, wanted.key));
    let other = journal.hold_streamer(streamer.id, LEASE).await.unwrap().unwrap();
    assert!(!other.started);
    assert_eq!(other.entry, held.entry);
}

#[tokio::test]
async fn holds_taken_together_are_each_as_if_taken_alone() {
    let stage = stage().await;
    let (one, other) = (stage.instance().await, stage.instance().await);
    let mut streamers = Vec::new();
    for _ in 0..4 {
        streamers.push(register(&one, Config::default()).await);
    }
    let [new, live, returning, disabled] = streamers.try_into().expect("four");
    let before = hold(&other, &live).await;
    hold(&other, &returning).await;
    other.change_streamer(returning.id, Command::Disable, "test").await.unwrap();
    other.change_streamer(returning.id, Command::Enable, "test").await.unwrap();
    other.change_streamer(disabled.id, Command::Disable, "test").await.unwrap();

    let unknown = Uuid::new_v4();
    let urls = [&new, &live, &returning, &disabled].map(|streamer| streamer.overlay_uuid);
    let wanted = [urls[0], unknown, urls[1], urls[2], urls[3], urls[0]].map(Hold::of);
    let held = one.hold_overlays(&wanted, LEASE, IfLocked::LeaveOut).await.unwrap();
    let [first, nobody, shared, again, none, twice] = held.try_into().expect("an answer for each");
    assert_eq!(nobody, None);
    assert_eq!(none.expect("the URL is known").entry.live, None);

    let (first, twice) = (first.unwrap(), twice.unwrap());
    assert_eq!((first.started, twice.started), (true, false), "who is named twice starts one session");
    assert_eq!(first.entry, twice.entry);
    let live = session_of(&first.entry);
    assert_eq!((live.session_id, live.key, live.head.ordinal), (wanted[0].session_id, wanted[0].key, 1));
    assert_same_session(fold(&events(&one, live.session_id).await).last().unwrap(), &live.head);

    let shared = shared.unwrap();
    assert!(!shared.started);
    assert_eq!(session_of(&shared.entry).session_id, session_of(&before).session_id);
    assert_eq!(session_of(&shared.entry).holders.ids, [other.instance_id(), one.instance_id()]);

    let again = again.unwrap();
    assert!(again.started);
    assert_eq!(session_of(&again.entry).head.ordinal, 2);
    let told = one.streamer_events(returning.id, 0, 100).await.unwrap();
    let asked = |event: &streamer::Event| matches!(event, streamer::Event::SubscriptionRequested { .. });
    assert_eq!(told.iter().filter(|told| asked(&told.event)).count(), 1, "chat is asked for once");

    let by_id = [new.id, Uuid::now_v7(), disabled.id].map(Hold::of);
    let held = other.hold_streamers(&by_id, LEASE, IfLocked::LeaveOut).await.unwrap();
    assert_eq!(held.iter().map(|held| held.is_some()).collect::<Vec<_>>(), [true, false, true]);
    let mut holders = one.holders(&[new.id, live.head.streamer_id, disabled.id]).await.unwrap();
    assert_eq!(holders.len(), 1, "of live sessions, each once");
    assert_eq!(holders.remove(0).ids, [one.instance_id(), other.instance_id()]);
    stage.assert_sound().await;
}

#[tokio::test]
async fn instances_that_hold_many_sessions_together_start_each_once() {
    let stage = stage().await;
    let mut instances = Vec::new();
    for _ in 0..4 {
        instances.push(stage.instance().await);
    }
    let mut urls = Vec::new();
    for _ in 0..12 {
        urls.push(register(&instances[0], Config::default()).await.overlay_uuid);
    }
    // In another order each: no two of them may wait for each other.
    let holds = instances.iter().enumerate().map(|(n, journal)| {
        let mut wanted: Vec<Hold> = urls.iter().copied().map(Hold::of).collect();
        wanted.rotate_left(n * 3);
        async move { journal.hold_overlays(&wanted, LEASE, IfLocked::Wait).await.unwrap() }
    });
    let held: Vec<Held> = join_all(holds).await.into_iter().flatten().flatten().collect();
    assert_eq!(held.len(), urls.len() * instances.len());
    assert_eq!(held.iter().filter(|held| held.started).count(), urls.len());
    stage.assert_sound().await;
}

#[tokio::test]
async fn who_comes_back_in_time_finds_the_value_and_the_counts() {
    let mut stage = stage().await;
    let (one, other) = (stage.instance().await, stage.instance().await);
    let streamer = register(&one, Config::default()).await;
    let session_id = session_of(&hold(&one, &streamer).await).session_id;
    let votes: Vec<_> = (0..3).map(|n| vote(session_id, &n.to_string(), Side::For, START)).collect();
    append(&one, &votes).await;
    let before = one.head(session_id).await.unwrap().unwrap();
    assert_eq!(before.mood.for_count, 3);
    one.release(streamer.id).await.unwrap();

    stage.pass(ORPHAN - Duration::from_millis(1)).await;
    assert_eq!(orphans(&one).await, []);
    let back = hold(&other, &streamer).await;
    assert_eq!(session_of(&back).head, before);
    stage.pass(ORPHAN * 10).await;
    assert_eq!(orphans(&one).await, [], "it is held");

    other.release(streamer.id).await.unwrap();
    stage.pass(ORPHAN - Duration::from_millis(1)).await;
    assert_eq!(orphans(&one).await, [], "the time begins anew");
    stage.pass(Duration::from_millis(1)).await;
    let ended = EndedSession { streamer_id: streamer.id, session_id, ordinal: 1 };
    assert_eq!(other.end_orphans(Some(&[Uuid::now_v7()]), ORPHAN).await.unwrap(), [], "of others");
    assert_eq!(other.end_orphans(Some(&[streamer.id]), ORPHAN).await.unwrap(), [ended]);
    let head = one.head(session_id).await.unwrap().unwrap();
    assert_eq!((head.ended_at, head.version), (Some(stage.now), before.version + 1));
    let events = events(&one, session_id).await;
    assert_same_session(fold(&events).last().unwrap(), &head);
    let next = hold(&other, &streamer).await;
    assert_eq!(session_of(&next).head.ordinal, 2);
    assert_close(session_of(&next).head.mood.value, 0.0, "it begins in the middle");
}

#[tokio::test]
async fn an_end_is_told_in_the_directory() {
    let mut stage = stage().await;
    let journal = stage.instance().await;
    let entry = orphaned(&journal).await;
    let (_, cursor) = journal.directory_since(None).await.unwrap();
    stage.pass(ORPHAN).await;
    orphans(&journal).await;
    let (changed, _) = journal.directory_since(Some(cursor)).await.unwrap();
    let told = changed.iter().find(|told| told.streamer.id == entry.streamer.id).expect("it is told");
    assert!(told.live.is_none() && told.last_ordinal == 1);
}

#[tokio::test]
async fn twenty_who_end_orphans_at_once_end_each_once() {
    let mut stage = stage().await;
    let mut journals = Vec::new();
    for _ in 0..5 {
        journals.push(stage.instance().await);
    }
    let mut expected = HashSet::new();
    for _ in 0..8 {
        expected.insert(session_of(&orphaned(&journals[0]).await).session_id);
    }
    stage.pass(ORPHAN).await;
    let ended = join_all((0..20).map(|n| orphans(&journals[n % 5]))).await;
    let mut ended: Vec<Uuid> = ended.into_iter().flatten().map(|ended| ended.session_id).collect();
    // Where two were in each other's way, neither may have ended it.
    ended.extend(orphans(&journals[0]).await.into_iter().map(|ended| ended.session_id));
    assert_eq!(ended.len(), expected.len());
    assert_eq!(ended.into_iter().collect::<HashSet<_>>(), expected);
    assert_eq!(stage.ends().await, expected.len() as i64);
    stage.assert_sound().await;
}

#[tokio::test]
async fn a_streamer_who_is_locked_is_left_out_or_waited_for() {
    let stage = stage().await;
    let journal = stage.instance().await;
    let locked = register(&journal, Config::default()).await;
    let free = register(&journal, Config::default()).await;
    let mut client = stage.database.app().await;
    let changing = client.transaction().await.unwrap();
    let sql = "SELECT FROM chatpulse.users WHERE id = $1 FOR UPDATE";
    changing.execute(sql, &[&locked.id]).await.unwrap();
    let by_url = [locked.overlay_uuid, free.overlay_uuid].map(Hold::of);
    let by_id = [locked.id, free.id].map(Hold::of);
    let overlays = journal.hold_overlays(&by_url, LEASE, IfLocked::LeaveOut).await.unwrap();
    let streamers = journal.hold_streamers(&by_id, LEASE, IfLocked::LeaveOut).await.unwrap();
    for held in [overlays, streamers] {
        assert_eq!(held.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
    }
    let waits = journal.hold_overlays(&by_url, LEASE, IfLocked::Wait);
    let watch = stage.database.app().await;
    let (held, ()) = tokio::join!(waits, async {
        eventually("the hold waits", async || is_waiting(&watch).await).await;
        changing.rollback().await.unwrap();
    });
    assert!(held.unwrap().iter().all(Option::is_some));
    stage.assert_sound().await;
}

/// Whether somebody in this database waits for a lock.
async fn is_waiting(client: &Client) -> bool {
    let sql = "SELECT count(*) FROM pg_stat_activity
               WHERE datname = current_database() AND wait_event_type = 'Lock'";
    client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0
}

/// Takes hold of a streamer's session for an instance, in a transaction that goes on.
async fn take_hold(transaction: &Transaction<'_>, streamer_id: Uuid, journal: &Journal) {
    let sql = "SELECT * FROM chatpulse.hold_streamers($1, $2, $3, $4, '{}', '15 s', true)";
    let (ids, session_ids, keys) = (vec![streamer_id], vec![Uuid::now_v7()], vec![[1u8; 32].as_slice()]);
    transaction.execute(sql, &[&ids, &session_ids, &keys, &journal.instance_id()]).await.unwrap();
}

#[tokio::test]
async fn a_hold_that_is_under_way_wins() {
    let mut stage = stage().await;
    let journal = stage.instance().await;
    let entry = orphaned(&journal).await;
    stage.pass(ORPHAN).await;
    let mut client = stage.database.app().await;
    let holding = client.transaction().await.unwrap();
    take_hold(&holding, entry.streamer.id, &journal).await;
    assert_eq!(orphans(&journal).await, []);
    holding.commit().await.unwrap();
    assert_eq!(orphans(&journal).await, []);
    let live = journal.entry(entry.streamer.id).await.unwrap().unwrap();
    assert_eq!(session_of(&live).session_id, session_of(&entry).session_id);
}

#[tokio::test]
async fn a_hold_that_races_the_end_keeps_the_session_or_starts_the_next() {
    let mut stage = stage().await;
    let (one, other) = (stage.instance().await, stage.instance().await);
    let streamer = register(&one, Config::default()).await;
    let mut kept = 0;
    for round in 0..ROUNDS {
        let before = session_of(&hold(&one, &streamer).await).session_id;
        one.release(streamer.id).await.unwrap();
        stage.pass(ORPHAN).await;
        let (held, ended, _) = tokio::join!(
            async {
                for _ in 0..round % 4 {
                    tokio::task::yield_now().await;
                }
                other.hold(streamer.overlay_uuid, LEASE).await
            },
            orphans(&one),
            orphans(&other)
        );
        let held = held.unwrap().unwrap();
        let after = session_of(&held.entry).session_id;
        assert_eq!(after != before, held.started);
        kept += i64::from(after == before);
        let ends = ended.iter().filter(|ended| ended.session_id != before).count();
        assert_eq!(ends, 0, "only what was left alone ends");
        let live = stage.database.journal().entry(streamer.id).await.unwrap().unwrap();
        assert_eq!(session_of(&live).session_id, after, "what is held is live");
        assert_eq!(session_of(&live).holders.ids, [other.instance_id()]);
        stage.assert_sound().await;
        other.release(streamer.id).await.unwrap();
    }
    assert_eq!(stage.ends().await, ROUNDS - kept);
}

#[tokio::test]
async fn a_lease_is_not_dropped_under_a_hold_that_is_under_way() {
    let mut stage = stage().await;
    let (sweeper, lapses) = (stage.instance().await, stage.database.journal());
    let streamer = register(&sweeper, Config::default()).await;
    hold(&sweeper, &streamer).await;
    lapses.renew_lease(LEASE, true).await.unwrap();
    stage.pass(LEASE).await;
    let mut client = stage.database.app().await;
    let holding = client.transaction().await.unwrap();
    take_hold(&holding, streamer.id, &lapses).await;
    assert_eq!(sweeper.drop_lapsed().await.unwrap(), []);
    holding.commit().await.unwrap();
    assert_eq!(lapses.held().await.unwrap(), [streamer.id]);
    stage.assert_sound().await;
    let dropped = sweeper.drop_lapsed().await.unwrap();
    assert_eq!((dropped.len(), &dropped[0].ids), (1, &vec![sweeper.instance_id()]));
}

#[tokio::test]
async fn a_hold_that_waits_for_the_drop_of_its_lease_begins_another() {
    let mut stage = stage().await;
    let (sweeper, lapses) = (stage.instance().await, stage.database.journal());
    let (one, other) =
        (register(&sweeper, Config::default()).await, register(&sweeper, Config::default()).await);
    lapses.renew_lease(LEASE, true).await.unwrap();
    hold(&lapses, &one).await;
    stage.pass(LEASE).await;
    let mut client = stage.database.app().await;
    let dropping = client.transaction().await.unwrap();
    dropping.execute("SELECT * FROM chatpulse.drop_lapsed(1000)", &[]).await.unwrap();
    let watch = stage.database.app().await;
    let (held, ()) = tokio::join!(lapses.hold(other.overlay_uuid, LEASE), async {
        eventually("the hold waits", async || is_waiting(&watch).await).await;
        dropping.commit().await.unwrap();
    });
    held.unwrap().unwrap();
    assert_eq!(lapses.held().await.unwrap(), [other.id]);
    assert_eq!(lapses.renew_lease(LEASE, true).await.unwrap().since, stage.now);
    stage.assert_sound().await;
}

#[tokio::test]
async fn a_hold_that_races_the_drop_of_its_lease_leaves_no_stray() {
    let mut stage = stage().await;
    let sweeper = stage.instance().await;
    let (one, other) =
        (register(&sweeper, Config::default()).await, register(&sweeper, Config::default()).await);
    for _ in 0..ROUNDS {
        let lapsing = stage.database.journal();
        hold(&lapsing, &one).await;
        stage.pass(LEASE).await;
        let (held, dropped, again) = tokio::join!(
            lapsing.hold(other.overlay_uuid, LEASE),
            sweeper.drop_lapsed(),
            lapsing.hold(one.overlay_uuid, LEASE)
        );
        held.unwrap().unwrap();
        dropped.unwrap();
        again.unwrap().unwrap();
        stage.assert_sound().await;
        stage.pass(LEASE).await;
        sweeper.drop_lapsed().await.unwrap();
        let known = stage.instances().await;
        assert_eq!(known, HashSet::from([sweeper.instance_id()]), "no hold outlives its lease");
        stage.assert_sound().await;
        assert!(lapsing.held().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn nobody_ends_sessions_soon_after_an_outage() {
    let mut stage = stage().await;
    let (runs, comes) = (stage.instance().await, stage.database.journal());
    orphaned(&runs).await;
    stage.pass(ORPHAN * 2).await;
    assert_eq!(orphans(&comes).await, [], "an instance without a lease");
    let long = LEASE * 100;
    comes.renew_lease(long, true).await.unwrap();
    assert_eq!(orphans(&comes).await, [], "one that was just started");
    stage.pass(ORPHAN - Duration::from_millis(1)).await;
    comes.renew_lease(long, true).await.unwrap();
    assert_eq!(orphans(&comes).await, []);
    stage.pass(Duration::from_millis(1)).await;
    comes.renew_lease(long, false).await.unwrap();
    assert_eq!(orphans(&comes).await, [], "one whose lease was broken");

    stage.clock.restart().await;
    assert_eq!(orphans(&runs).await, [], "a server that was just started");
    stage.pass(ORPHAN - Duration::from_millis(1)).await;
    assert_eq!(orphans(&runs).await, []);
    stage.pass(Duration::from_millis(1)).await;
    let lapses = stage.database.journal();
    let lapsed = "INSERT INTO chatpulse.instances (instance_id, lease_until, lease_since)
                  VALUES ($1, chatpulse.clock(), 'epoch')";
    stage.sql.execute(lapsed, &[&lapses.instance_id()]).await.unwrap();
    assert_eq!(orphans(&lapses).await, [], "one whose lease has lapsed");
    assert_eq!(orphans(&comes).await.len(), 1);
}

#[tokio::test]
async fn the_clocks_are_those_of_the_server() {
    let database = migrated().await;
    let sql = "SELECT chatpulse.up_since() = pg_postmaster_start_time(),
                      abs(chatpulse.clock_ms() - chatpulse.unix_ms(clock_timestamp())) < 60000,
                      abs(chatpulse.clock_ms() - chatpulse.unix_ms(chatpulse.clock())) < 60000";
    let row = database.app().await.query_one(sql, &[]).await.unwrap();
    assert!(row.get::<_, bool>(0) && row.get::<_, bool>(1) && row.get::<_, bool>(2));
    let journal = database.journal();
    let entry = orphaned(&journal).await;
    assert_eq!(journal.end_orphans(None, Duration::from_secs(3_600)).await.unwrap(), []);
    let ended = journal.end_orphans(None, Duration::ZERO).await.unwrap();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].session_id, session_of(&entry).session_id);
}

#[tokio::test]
async fn who_leaves_holds_nothing_and_has_no_lease() {
    let stage = stage().await;
    let (leaves, stays) = (stage.instance().await, stage.instance().await);
    let (alone, shared, other) = (
        register(&stays, Config::default()).await,
        register(&stays, Config::default()).await,
        register(&stays, Config::default()).await,
    );
    hold(&leaves, &alone).await;
    hold(&leaves, &shared).await;
    hold(&stays, &shared).await;
    hold(&stays, &other).await;
    let told: HashMap<Uuid, Holders> =
        leaves.leave().await.unwrap().into_iter().map(|holders| (holders.streamer_id, holders)).collect();
    assert_eq!(told.len(), 2);
    assert_eq!((&told[&alone.id].ids, told[&alone.id].unheld_since), (&vec![], Some(START)));
    assert_eq!(told[&shared.id].ids, [stays.instance_id()]);
    assert_eq!(stage.instances().await, HashSet::from([stays.instance_id()]));
    assert!(leaves.held().await.unwrap().is_empty());
    assert_eq!(leaves.leave().await.unwrap(), []);
    stage.assert_sound().await;
}

#[tokio::test]
async fn what_is_much_is_done_in_parts() {
    let mut stage = stage().await;
    let (journal, lapses) = (stage.instance().await, stage.database.journal());
    let mut streamers = Vec::new();
    for _ in 0..3 {
        let streamer = register(&journal, Config::default()).await;
        hold(&lapses, &streamer).await;
        streamers.push(streamer.id);
    }
    stage.pass(LEASE).await;
    let drop = "SELECT count(*) FROM chatpulse.drop_lapsed(2)";
    assert_eq!(stage.one::<i64>(drop).await, 2);
    assert!(stage.instances().await.contains(&lapses.instance_id()), "a hold is left");
    stage.assert_sound().await;
    stage.pass(Duration::from_secs(1)).await;
    assert_eq!(stage.one::<i64>(drop).await, 1);
    assert!(!stage.instances().await.contains(&lapses.instance_id()));

    stage.pass(ORPHAN).await;
    let end = "SELECT streamer_id FROM chatpulse.end_orphans($1, NULL, '30 s', 2, '{}')";
    let ended = stage.sql.query(end, &[&journal.instance_id()]).await.unwrap();
    let mut ended: Vec<Uuid> = ended.iter().map(|row| row.get(0)).collect();
    ended.sort_unstable();
    streamers.sort_unstable();
    assert_eq!(ended, streamers[..2], "those first that were left alone for longest");
    assert_eq!(orphans(&journal).await.len(), 1);
}

#[tokio::test]
async fn many_who_change_everything_at_once_never_block_each_other_for_good() {
    const TASKS: u64 = 8;
    let mut stage = stage().await;
    let first = stage.instance().await;
    let mut streamers = Vec::new();
    for _ in 0..6 {
        streamers.push(register(&first, Config::default()).await);
    }
    let tasks: Vec<_> = (0..TASKS)
        .map(|seed| {
            let (url, streamers) = (stage.database.database.app_url.clone(), streamers.clone());
            tokio::spawn(async move { change_at_random(&url, &streamers, seed).await })
        })
        .collect();
    while !tasks.iter().all(|task| task.is_finished()) {
        stage.pass(Duration::from_millis(200)).await;
    }
    let mut accepted = HashSet::new();
    for task in tasks {
        for vote in task.await.unwrap() {
            assert!(accepted.insert(vote), "nothing is accepted twice");
        }
    }
    stage.assert_sound().await;
    let rows = stage.sql.query("SELECT session_id FROM chatpulse.sessions", &[]).await.unwrap();
    let mut journaled = HashSet::new();
    for row in rows {
        let session_id: Uuid = row.get(0);
        let events = events(&first, session_id).await;
        assert_same_session(fold(&events).last().unwrap(), &first.head(session_id).await.unwrap().unwrap());
        for recorded in &events {
            let session::Event::VotesCast(cast) = &recorded.event else { continue };
            journaled.extend(cast.votes.iter().map(|vote| (session_id, vote.message_id.clone())));
        }
    }
    assert_eq!(journaled, accepted);
    assert!(stage.ends().await > 0, "some sessions have ended");
}

/// Does one thing after the other, as an instance that is replaced now and then. Answers the votes that were
/// accepted.
async fn change_at_random(url: &str, streamers: &[Streamer], seed: u64) -> Vec<(Uuid, String)> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut journal = journal_at(url);
    let mut accepted = Vec::new();
    for step in 0..60 {
        let streamer = &streamers[random.random_range(0..streamers.len())];
        match random.random_range(0..12) {
            0 => drop(sound(journal.hold(streamer.overlay_uuid, LEASE).await)),
            1 | 2 => drop(sound(journal.hold_streamer(streamer.id, LEASE).await)),
            3 => drop(sound(journal.release(streamer.id).await)),
            4 => drop(sound(journal.drop_lapsed().await)),
            5 => drop(sound(journal.end_orphans(None, LEASE).await)),
            6 => drop(sound(journal.renew_lease(LEASE * 3, true).await)),
            7 => {
                sound(journal.leave().await);
                journal = journal_at(url);
            }
            8 => drop(sound(journal.reset(streamer.id, "test").await)),
            9 => {
                let entry = journal.entry(streamer.id).await.unwrap().unwrap();
                let command = match random.random_range(0..3) {
                    0 if entry.streamer.disabled => Command::Enable,
                    0 => Command::Disable,
                    _ => Command::ChangeConfig {
                        edited_version: entry.streamer.config.version,
                        config: Config::default(),
                    },
                };
                match journal.change_streamer(streamer.id, command, "test").await {
                    Ok(_) | Err(ChangeError::Refused(_)) => {}
                    Err(ChangeError::Journal(error)) => drop(sound::<()>(Err(error))),
                }
            }
            _ => {
                let live = journal.live_sessions(None, 100).await.unwrap();
                let votes: Vec<_> = live
                    .iter()
                    .map(|entry| {
                        vote(session_of(entry).session_id, &format!("{seed}-{step}"), Side::For, START)
                    })
                    .collect();
                let answer = if random.random_bool(0.5) {
                    journal.append_votes(&votes, "test").await
                } else {
                    journal.append_drained(&votes, "test").await
                };
                let Some(answer) = sound(answer) else { continue };
                for (vote, appended) in votes.into_iter().zip(answer.appended) {
                    if appended == Appended::Accepted {
                        accepted.push((vote.session_id, vote.message_id));
                    }
                }
            }
        }
    }
    accepted
}

/// What was answered; having waited too long for a lock is none, a deadlock a failure.
fn sound<T>(answer: Result<T, JournalError>) -> Option<T> {
    match answer {
        Err(JournalError::Busy(reason)) if !reason.contains("40P01") => None,
        answer => Some(answer.unwrap()),
    }
}
