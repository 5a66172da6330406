//! Random faults under signed load on three instances, by a seed, and what came of it as a table.
//!
//! `CHATPULSE_FAULT_SEED=<seed>` repeats the choices of a run (not its timing), `CHATPULSE_FAULT_ROUNDS=<n>`
//! makes it longer or shorter.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::ANSWER_MAX;
use crate::support::cluster::{Cluster, Node, VOTE_TIMES};
use crate::support::instance::{Streamer, signal};
use crate::support::load::{Delivery, Load, Outcome};
use crate::support::own_servers::OwnServers;
use crate::support::proxy::Mode;
use crate::support::watcher::{Watcher, What, now_ms};
use crate::support::{eventually, stretched};

const SEED: &str = "CHATPULSE_FAULT_SEED";
const ROUNDS: &str = "CHATPULSE_FAULT_ROUNDS";
const INSTANCES: usize = 3;
/// How long a fault lasts, and the calm after it, in milliseconds.
const FAULT_MS: std::ops::RangeInclusive<u64> = 500..=4_500;
const CALM_MS: std::ops::RangeInclusive<u64> = 200..=2_000;

/// What may happen. A number is an instance's place.
#[derive(Clone, Debug, PartialEq)]
enum Fault {
    FlushRedis,
    KillRedis,
    FreezeRedis,
    KillPostgres,
    FreezePostgres,
    KillQueue,
    KillInstance(usize),
    FreezeInstance(usize),
    Redis(usize, Mode),
    Postgres(usize, Mode),
    Queue(usize, Mode),
}

impl Fault {
    fn any(random: &mut StdRng) -> Fault {
        let place = random.random_range(0..INSTANCES);
        let modes = [Mode::Cut, Mode::BlackHole, Mode::Delay(20..=400), Mode::Flaky(20..=500)];
        let mode = modes.choose(random).expect("there are some").clone();
        match random.random_range(0..14) {
            0 => Fault::FlushRedis,
            1 => Fault::KillRedis,
            2 => Fault::FreezeRedis,
            3 => Fault::KillPostgres,
            4 => Fault::FreezePostgres,
            5 => Fault::KillQueue,
            6 | 7 => Fault::KillInstance(place),
            8 | 9 => Fault::FreezeInstance(place),
            10 | 11 => Fault::Redis(place, mode),
            12 => Fault::Postgres(place, mode),
            _ => Fault::Queue(place, mode),
        }
    }

    /// What can't happen twice at a time.
    fn target(&self) -> String {
        match self {
            Fault::FlushRedis | Fault::KillRedis | Fault::FreezeRedis => "redis".into(),
            Fault::KillPostgres | Fault::FreezePostgres => "postgres".into(),
            Fault::KillQueue => "queue".into(),
            Fault::KillInstance(place) | Fault::FreezeInstance(place) => format!("instance {place}"),
            Fault::Redis(place, _) => format!("redis of {place}"),
            Fault::Postgres(place, _) => format!("postgres of {place}"),
            Fault::Queue(place, _) => format!("queue of {place}"),
        }
    }
}

/// All that may be hurt.
struct Stage {
    cluster: Cluster,
    servers: OwnServers,
    /// When which instance could not answer, being frozen or dead.
    silences: Vec<(usize, Instant, Option<Instant>)>,
    /// Unix milliseconds.
    began_ms: i64,
}

impl Stage {
    async fn hurt(&mut self, fault: &Fault) {
        match fault {
            Fault::FlushRedis => self.servers.cache::<()>(&["FLUSHALL"]).await,
            Fault::KillRedis => self.servers.cache.kill(),
            Fault::FreezeRedis => self.servers.cache.freeze(),
            Fault::KillPostgres => self.servers.postgres.kill(),
            Fault::FreezePostgres => self.servers.postgres.freeze(),
            Fault::KillQueue => self.servers.queue.kill(),
            Fault::KillInstance(place) => {
                self.silences.push((*place, Instant::now(), None));
                self.cluster.nodes[*place].instance.kill();
            }
            Fault::FreezeInstance(place) => {
                self.silences.push((*place, Instant::now(), None));
                signal("STOP", self.cluster.nodes[*place].instance.pid());
            }
            Fault::Redis(place, mode) => self.node(*place).redis.set(mode.clone()),
            Fault::Postgres(place, mode) => self.node(*place).postgres.set(mode.clone()),
            Fault::Queue(place, mode) => self.node(*place).queue.set(mode.clone()),
        }
    }

    async fn heal(&mut self, fault: &Fault) {
        match fault {
            Fault::FlushRedis => {}
            Fault::KillRedis => self.servers.start_cache().await,
            Fault::FreezeRedis => self.servers.cache.thaw(),
            Fault::KillPostgres => self.servers.start_postgres().await,
            Fault::FreezePostgres => self.servers.postgres.thaw(),
            Fault::KillQueue => self.servers.start_queue().await,
            Fault::KillInstance(place) => {
                self.cluster.nodes[*place].start_again().await;
                self.end_silence(*place);
            }
            Fault::FreezeInstance(place) => {
                signal("CONT", self.node(*place).instance.pid());
                self.end_silence(*place);
            }
            Fault::Redis(place, _) => self.node(*place).redis.heal(),
            Fault::Postgres(place, _) => self.node(*place).postgres.heal(),
            Fault::Queue(place, _) => self.node(*place).queue.heal(),
        }
    }

    fn node(&self, place: usize) -> &Node {
        &self.cluster.nodes[place]
    }

    fn end_silence(&mut self, place: usize) {
        let open = self.silences.iter_mut().rfind(|(silent, _, end)| *silent == place && end.is_none());
        open.expect("the instance was silent").2 = Some(Instant::now());
    }

    /// Whether the instance could have answered all the time.
    fn was_able(&self, delivery: &Delivery) -> bool {
        let end = delivery.began + delivery.took;
        !self.silences.iter().any(|(place, from, to)| {
            *place == delivery.place && *from <= end && to.is_none_or(|to| delivery.began <= to)
        })
    }
}

#[tokio::test]
async fn random_faults_under_load_lose_and_double_no_vote_and_overlays_end_right() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number(SEED).unwrap_or_else(rand::random);
    let rounds = number(ROUNDS).unwrap_or(10);
    println!("{SEED}={seed} {ROUNDS}={rounds}");
    let mut random = StdRng::seed_from_u64(seed);

    let servers = OwnServers::start_alone().await;
    let settings = [VOTE_TIMES.as_slice(), &[("CHATPULSE_SESSION__LEASE_SECONDS", "3")]].concat();
    let cluster = Cluster::start(servers.stores(), INSTANCES as u64, &settings).await;
    let mut stage = Stage { cluster, servers, silences: Vec::new(), began_ms: now_ms() };
    let streamers = [stage.cluster.streamer().await, stage.cluster.streamer().await];
    let balancer = stage.cluster.balancer();
    let watchers: Vec<Watcher> =
        (0..6).map(|place| Watcher::start(&balancer, &streamers[place % 2], seed ^ place as u64)).collect();
    eventually("all overlays are open", async || watchers.iter().all(Watcher::is_open)).await;
    let load = Load::start(&balancer, &streamers, 6, seed);
    for round in 0..rounds {
        faults(&mut stage, round, &mut random).await;
    }
    for node in &stage.cluster.nodes {
        node.becomes("ready").await;
    }
    load.goes_on(20).await;
    let outcome = load.stop().await;
    for node in &stage.cluster.nodes {
        eventually("the queue is empty", async || node.metric("chatpulse_spill_entries").await == 0.0).await;
    }
    for (place, streamer) in streamers.iter().enumerate() {
        let theirs: Vec<&Watcher> = watchers.iter().skip(place).step_by(2).collect();
        stage.cluster.await_shown(streamer, &theirs).await;
        assert_eq!(stage.cluster.ends(streamer).await, 0, "a watched session never ends");
    }
    report(&stage, &streamers, &watchers, &outcome).await;
    stage.cluster.assert_kept(&streamers, &outcome).await;
    let slowest = outcome.slowest(|delivery| stage.was_able(delivery));
    assert!(slowest < stretched(ANSWER_MAX), "an answer took {slowest:?}");
}

/// One or two faults for a while, then calm.
async fn faults(stage: &mut Stage, round: u64, random: &mut StdRng) {
    let mut now = vec![Fault::any(random)];
    let second = Fault::any(random);
    if random.random() && second.target() != now[0].target() {
        now.push(second);
    }
    let (lasting, calm) = (random.random_range(FAULT_MS), random.random_range(CALM_MS));
    let since = now_ms() - stage.began_ms;
    println!("round {round} at {since} ms: {now:?} for {lasting} ms, calm for {calm} ms");
    for fault in &now {
        stage.hurt(fault).await;
    }
    tokio::time::sleep(Duration::from_millis(lasting)).await;
    // Servers first: an instance does not start without PostgreSQL.
    now.sort_by_key(|fault| matches!(fault, Fault::KillInstance(_)));
    for fault in &now {
        stage.heal(fault).await;
    }
    tokio::time::sleep(Duration::from_millis(calm)).await;
}

async fn report(stage: &Stage, streamers: &[Streamer], watchers: &[Watcher], outcome: &Outcome) {
    let mut journaled = Vec::new();
    let mut stalest = Stale::default();
    for (place, streamer) in streamers.iter().enumerate() {
        journaled.extend(stage.cluster.journaled(streamer).await);
        let versions = versions(&stage.cluster, streamer).await;
        let theirs = watchers.iter().skip(place).step_by(streamers.len());
        stalest = theirs.map(|watcher| staleness(watcher, &versions)).fold(stalest, Stale::max);
    }
    let once: std::collections::HashSet<&String> = journaled.iter().collect();
    let lost = outcome.answered().iter().filter(|id| !once.contains(id)).count();
    let rows = [
        ("votes sent", outcome.votes.len().to_string()),
        ("votes answered", outcome.answered().len().to_string()),
        ("votes in the journal", journaled.len().to_string()),
        ("duplicates in the journal", (journaled.len() - once.len()).to_string()),
        ("answered and lost", lost.to_string()),
        ("deliveries by status (0: none)", format!("{:?}", outcome.statuses())),
        (
            "longest time an overlay was stale",
            format!("{} ms, from {} ms on", stalest.ms, stalest.since_ms - stage.began_ms),
        ),
        ("slowest answer", format!("{:?}", outcome.slowest(|_| true))),
        (
            "slowest answer of a living instance",
            format!("{:?}", outcome.slowest(|delivery| stage.was_able(delivery))),
        ),
    ];
    for (name, value) in rows {
        println!("| {name:<36} | {value:<40} |");
    }
}

/// The versions of the streamer's state, as frames have them, with the times when they came to be.
async fn versions(cluster: &Cluster, streamer: &Streamer) -> Vec<(i64, i64)> {
    let sql = "SELECT (s.ordinal << 32) + e.version,
                      (extract(epoch FROM e.recorded_at) * 1000)::bigint
               FROM chatpulse.events e JOIN chatpulse.sessions s ON e.stream_id = 'session-' || s.session_id
               WHERE s.streamer_id = $1 ORDER BY 1";
    let rows = cluster.sql().await.query(sql, &[&streamer.id]).await.expect("the journal can be read");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// A time in which an overlay did not show what was journaled already.
#[derive(Clone, Copy, Default)]
struct Stale {
    ms: i64,
    /// Unix milliseconds.
    since_ms: i64,
}

impl Stale {
    fn max(self, other: Stale) -> Stale {
        if other.ms > self.ms { other } else { self }
    }
}

/// The longest such time of an overlay.
fn staleness(watcher: &Watcher, versions: &[(i64, i64)]) -> Stale {
    let shown: Vec<(i64, i64)> = watcher
        .events()
        .iter()
        .filter_map(|event| match &event.what {
            What::Frame(_, shown) => Some((event.time_ms, shown.version)),
            _ => None,
        })
        .collect();
    let mut longest = Stale::default();
    let Some((began, _)) = shown.first() else { return longest };
    let mut frames = shown.iter();
    let mut frame = frames.next();
    for (version, at) in versions.iter().filter(|(_, at)| at >= began) {
        while frame.is_some_and(|(_, known)| known < version) {
            frame = frames.next();
        }
        let Some((time, _)) = frame else { break };
        longest = longest.max(Stale { ms: time - at, since_ms: *at });
    }
    longest
}
