//! The one formula in SQL, Lua and Rust: on random numbers, and on random histories.

use std::collections::HashMap;
use std::time::Duration;

use chatpulse::domain::config::Config;
use chatpulse::domain::sentiment::{Impulse, Model, Mood, Params, SecondTally, Side, decay_factor, decayed};
use chatpulse::domain::session::Session;
use chatpulse::domain::streamer::Command;
use chatpulse::domain::time::Millis;
use chatpulse::hot::mirror::{MirrorEntry, Mirrored};
use chatpulse::hot::{Hot, HotOptions};
use chatpulse::journal::Journal;
use chatpulse::journal::sessions::Entry;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::database::{
    TOLERANCE, append, assert_close, assert_same_seconds, assert_same_session, events, fold, live, migrated,
    session_of, vote,
};
use crate::support::servers::TestRedis;

/// A time like today's.
const NOW: i64 = 1_790_000_000_000;

/// Random numbers that are the same in each run; TEST_SEED gives others. The seed is shown on failure.
fn random() -> StdRng {
    let seed = std::env::var("TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_260_101);
    println!("TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Numbers over many magnitudes, either sign.
fn wild(random: &mut StdRng) -> f64 {
    let sign = if random.random_bool(0.5) { 1.0 } else { -1.0 };
    sign * 10f64.powf(random.random_range(-15.0..7.0))
}

#[tokio::test]
async fn the_decay_factor_of_sql_is_the_one_of_rust() {
    let database = migrated().await;
    let mut random = random();
    let mut inputs: Vec<f64> = (0..4_000).map(|_| wild(&mut random)).collect();
    inputs.extend((0..1_000).map(|_| random.random_range(95.0..105.0)));
    inputs.extend([0.0, -0.0, 100.0, 100f64.next_down(), 1e-320, f64::MIN_POSITIVE, f64::MAX, f64::MIN]);
    inputs.extend([f64::INFINITY, f64::NEG_INFINITY, f64::NAN]);
    let sql =
        "SELECT chatpulse.decay_factor(x) FROM unnest($1::float8[]) WITH ORDINALITY AS i (x, n) ORDER BY n";
    let rows = database.app().await.query(sql, &[&inputs]).await.unwrap();
    assert_eq!(rows.len(), inputs.len());
    for (x, row) in inputs.iter().zip(rows) {
        assert_close(row.get(0), decay_factor(*x), &format!("d({x})"));
    }
}

#[tokio::test]
async fn the_decay_of_sql_is_the_one_of_rust_and_never_underflows() {
    let database = migrated().await;
    let mut random = random();
    let (mut values, mut speeds, mut from, mut to) = (vec![], vec![], vec![], vec![]);
    for _ in 0..5_000 {
        // As stored: within the limits, never between 0 and the negligible.
        let value = wild(&mut random).clamp(-100.0, 100.0);
        values.push(if value.abs() < 1e-9 { value.signum() * 1e-9 } else { value });
        speeds.push(random.random_range(0.1..=5.0));
        let start = NOW + random.random_range(-100_000_000..100_000_000);
        from.push(start);
        to.push(start + wild(&mut random) as i64);
    }
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, 9.999e-10, 0.0] {
        for age in [0, 1, 1_000_000] {
            values.push(value);
            speeds.push(1.0);
            from.push(NOW);
            to.push(NOW + age);
        }
    }
    let sql = "SELECT chatpulse.seconds_between(a, b),
                      chatpulse.settled(value * chatpulse.decay_factor(speed * chatpulse.seconds_between(a, b)))
               FROM unnest($1::float8[], $2::float8[], $3::int8[], $4::int8[])
                    WITH ORDINALITY AS i (value, speed, a, b, n) ORDER BY n";
    let rows = database.app().await.query(sql, &[&values, &speeds, &from, &to]).await.unwrap();
    assert_eq!(rows.len(), values.len());
    for (n, row) in rows.iter().enumerate() {
        let seconds = Millis(to[n]).seconds_since(Millis(from[n]));
        assert_eq!(row.get::<_, f64>(0), seconds);
        let context = format!("{} after {seconds} s at {}", values[n], speeds[n]);
        assert_close(row.get(1), decayed(values[n], speeds[n], seconds), &context);
    }
}

/// A window at `at`, and what is added to it at `now`.
struct WindowCase {
    mood: Mood,
    added: Vec<Impulse>,
    now: Millis,
    params: Params,
}

fn window_case(random: &mut StdRng) -> WindowCase {
    let at = NOW + random.random_range(0..1_000_000);
    let now = Millis(at + [0, 300, 40_000, 119_000, 121_000, 500_000][random.random_range(0..6)]);
    let mut seconds: Vec<i64> =
        (0..random.random_range(0..40)).map(|_| random.random_range(0..120)).collect();
    seconds.sort_unstable();
    seconds.dedup();
    let tally = |random: &mut StdRng, back: i64| SecondTally {
        second: at / 1000 - 119 + back,
        for_weight: random.random_range(0..40).into(),
        against_weight: random.random_range(0.0..20.0),
    };
    let seconds = seconds.into_iter().map(|back| tally(random, back)).collect();
    let added = (0..random.random_range(0..10))
        .map(|_| Impulse {
            t: Millis(now.0 - random.random_range(0..200_000)),
            side: if random.random_bool(0.5) { Side::For } else { Side::Against },
            weight: [1.0, 0.5, 3.25][random.random_range(0..3)],
        })
        .collect();
    let window_seconds = random.random_range(5..=120);
    let params = Params { model: Model::Window, vote_delta: 10.0, decay_speed: 1.0, window_seconds };
    WindowCase { mood: Mood { at: Millis(at), seconds, ..Mood::default() }, added, now, params }
}

impl WindowCase {
    fn seconds_json(&self) -> Value {
        let row = |tally: &SecondTally| json!([tally.second, tally.for_weight, tally.against_weight]);
        self.mood.seconds.iter().map(row).collect()
    }

    fn added_json(&self) -> Option<Value> {
        let row = |vote: &Impulse| match vote.side {
            Side::For => json!([vote.t.second(), vote.weight, 0]),
            Side::Against => json!([vote.t.second(), 0, vote.weight]),
        };
        (!self.added.is_empty()).then(|| self.added.iter().map(row).collect())
    }
}

#[tokio::test]
async fn the_window_of_sql_is_the_one_of_rust() {
    let database = migrated().await;
    let mut random = random();
    let cases: Vec<WindowCase> = (0..2_000).map(|_| window_case(&mut random)).collect();
    let seconds: Vec<Value> = cases.iter().map(WindowCase::seconds_json).collect();
    let added: Vec<Option<Value>> = cases.iter().map(WindowCase::added_json).collect();
    let nows: Vec<i64> = cases.iter().map(|case| case.now.0).collect();
    let windows: Vec<i32> = cases.iter().map(|case| case.params.window_seconds as i32).collect();
    let sql = "SELECT tally, chatpulse.window_value(tally, w, now_ms)
               FROM (SELECT n, chatpulse.window_tally(s, a, now_ms) AS tally, now_ms, w
                     FROM unnest($1::jsonb[], $2::jsonb[], $3::int8[], $4::int4[])
                          WITH ORDINALITY AS i (s, a, now_ms, w, n)) AS t ORDER BY n";
    let rows = database.app().await.query(sql, &[&seconds, &added, &nows, &windows]).await.unwrap();
    assert_eq!(rows.len(), cases.len());
    for (case, row) in cases.iter().zip(rows) {
        let mut mood = case.mood.clone();
        mood.apply(&case.params, &case.added, case.now);
        let stored: Vec<(i64, f64, f64)> = serde_json::from_value(row.get(0)).unwrap();
        let tally = |(second, for_weight, against_weight)| SecondTally { second, for_weight, against_weight };
        let stored: Vec<SecondTally> = stored.into_iter().map(tally).collect();
        assert_same_seconds(&stored, &mood.seconds, "the window after the votes");
        assert_close(row.get(1), mood.value, "the value of the window");
    }
}

const HISTORIES: usize = 250;
const STEPS: usize = 14;

/// Histories of many sessions, told at once: the journal writes them, all three languages read them.
struct Histories {
    journal: Journal,
    hot: Hot,
    random: StdRng,
    now: Millis,
    entries: Vec<Entry>,
    /// The heads that PostgreSQL told, by session and version.
    heads: HashMap<(Uuid, i64), Session>,
    messages: u64,
}

#[tokio::test]
async fn sql_lua_and_rust_agree_on_random_histories() {
    let (database, redis) = (migrated().await, TestRedis::lease().await);
    let clock = database.take_clock(Millis(NOW)).await;
    let options = HotOptions {
        urls: vec![redis.redis_url.clone()],
        pool_size: 2,
        command_timeout: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(30),
    };
    let mut histories = Histories {
        journal: database.journal(),
        hot: Hot::connect(&options).unwrap(),
        random: random(),
        now: Millis(NOW),
        entries: Vec::new(),
        heads: HashMap::new(),
        messages: 0,
    };
    for _ in 0..HISTORIES {
        let config = histories.config();
        histories.entries.push(live(&histories.journal, config).await);
    }
    for _ in 0..STEPS {
        // Also backwards: the clock of a server may be set.
        let step = [0, 7, 180, 2_500, 31_000, 140_000, 1_500_000, -700][histories.random.random_range(0..8)];
        histories.now.0 += step;
        clock.set(histories.now).await;
        histories.change_some().await;
        histories.vote().await;
        histories.compare_mirror().await;
    }
    histories.compare_folds().await;
}

impl Histories {
    fn config(&mut self) -> Config {
        let params = Params {
            model: if self.random.random_bool(0.5) { Model::Decay } else { Model::Window },
            vote_delta: self.random.random_range(1.0..=50.0),
            decay_speed: self.random.random_range(0.1..=5.0),
            window_seconds: self.random.random_range(5..=120),
        };
        Config { params, ..Config::default() }
    }

    /// Resets some sessions and changes the settings of others.
    async fn change_some(&mut self) {
        for place in 0..self.entries.len() {
            let streamer_id = self.entries[place].streamer.id;
            match self.random.random_range(0..20) {
                0 => assert!(self.journal.reset(streamer_id, "test").await.unwrap()),
                1 | 2 => {
                    let (config, edited_version) =
                        (self.config(), self.entries[place].streamer.config.version);
                    let command = Command::ChangeConfig { edited_version, config };
                    self.journal.change_streamer(streamer_id, command, "test").await.unwrap();
                }
                _ => {}
            }
        }
        self.note_heads().await;
    }

    /// One batch over most sessions: repeated ids, times before resets and after now, all weights.
    async fn vote(&mut self) {
        let mut votes = Vec::new();
        for place in 0..self.entries.len() {
            let session_id = session_of(&self.entries[place]).session_id;
            for _ in 0..self.random.random_range(0..5) {
                let fresh = self.random.random_bool(0.9);
                self.messages += u64::from(fresh);
                let side = if self.random.random_bool(0.6) { Side::For } else { Side::Against };
                let late_by = [0, 30, 400, 9_000, 100_000, 2_000_000, -600][self.random.random_range(0..7)];
                let t = Millis(self.now.0 - late_by);
                let mut vote = vote(session_id, &format!("message-{}", self.messages), side, t);
                vote.weight = [1.0, 1.0, 1.0, 0.1, 2.5, 0.0][self.random.random_range(0..6)];
                votes.push(vote);
            }
        }
        for told in append(&self.journal, &votes).await.heads {
            self.heads.insert((told.session_id, told.head.version), told.head);
        }
        self.note_heads().await;
    }

    async fn note_heads(&mut self) {
        self.entries = self.journal.live_sessions(None, HISTORIES as i64 + 1).await.unwrap();
        assert_eq!(self.entries.len(), HISTORIES);
        for entry in &self.entries {
            let live = session_of(entry);
            let told = self.heads.entry((live.session_id, live.head.version)).or_insert(live.head.clone());
            assert_eq!(told, &live.head, "a version of a session has one state");
        }
    }

    /// What Lua reads at any time is what Rust says of the head.
    async fn compare_mirror(&mut self) {
        let mirrored: Vec<MirrorEntry<'_>> = self
            .entries
            .iter()
            .map(|entry| MirrorEntry {
                session_id: session_of(entry).session_id,
                twitch_user_id: &entry.streamer.profile.twitch_user_id,
                session: &session_of(entry).head,
                config_json: "{}",
                config_json_version: session_of(entry).head.config_version,
            })
            .collect();
        let answers = self.hot.mirror(&mirrored).await.unwrap();
        assert!(
            answers.iter().all(|answer| matches!(answer, Mirrored::Written | Mirrored::Older)),
            "{answers:?}"
        );
        let ids: Vec<Uuid> = self.entries.iter().map(|entry| entry.streamer.id).collect();
        for ahead in [-1_000, 0, 1, 900, 20_000, 119_500, 3_000_000] {
            let now = Millis(self.now.0 + ahead + self.random.random_range(0..500));
            let read = self.hot.read_all(&ids, now).await.unwrap();
            for (entry, read) in self.entries.iter().zip(read) {
                let (read, head) = (read.expect("the session is mirrored"), &session_of(entry).head);
                assert_same_session(&read.session, head);
                let value = head.mood.value_at(&head.params, now);
                assert_close(read.value_now, value, &format!("{head:?} at {now:?}"));
            }
        }
    }

    /// Every head that PostgreSQL told is the fold of the journal up to its version.
    async fn compare_folds(&self) {
        let mut moved = 0;
        for entry in &self.entries {
            let session_id = session_of(entry).session_id;
            let states = fold(&events(&self.journal, session_id).await);
            for state in &states {
                let Some(head) = self.heads.get(&(session_id, state.version)) else { continue };
                assert_same_session(head, state);
                moved += usize::from(state.mood.value.abs() > TOLERANCE);
            }
            assert!(self.heads.contains_key(&(session_id, states.len() as i64)), "the newest head was told");
        }
        assert!(moved > HISTORIES * STEPS / 4, "the histories move their values: {moved}");
    }
}
