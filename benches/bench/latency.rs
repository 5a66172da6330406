//! A worker that votes and watches: how long from when a vote is due until an overlay shows it.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::chat::Chat;
use super::http::{self, Connection};
use super::overlay::{self, Overlay};
use super::requests::{histogram, quantile_ms};
use super::worker;

const PACE: Duration = Duration::from_millis(1);
/// How long what was sent last may take to be shown.
const LAST_SHOWN: Duration = Duration::from_secs(3);
/// Overlays that are being opened at a time.
const AT_ONCE: usize = 100;

/// Who votes where, and who watches.
#[derive(Serialize, Deserialize)]
pub struct Spec {
    pub votes_to: SocketAddr,
    /// An overlay of each session at each of these.
    pub watched_at: Vec<SocketAddr>,
    pub secret: String,
    pub first_channel: u64,
    /// By channel.
    pub overlays: Vec<Uuid>,
    pub rate: f64,
    pub connections: usize,
    pub warm_up_seconds: f64,
    pub seconds: f64,
}

/// How long votes took until they were shown, at one of the instances.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    pub votes: u64,
    /// Votes that were never shown.
    pub missing: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
    /// The last frame's version and value by session, in the order of the channels.
    pub last: Vec<(i64, f64)>,
}

/// What the worker found: an entry an instance that was watched, and the answers that were not 204.
#[derive(Debug, Serialize, Deserialize)]
pub struct Found {
    pub shown: Vec<Shown>,
    pub answered: u64,
    pub failed: u64,
}

/// One session as watched at one instance.
struct Watched {
    /// The votes sent that are not shown yet: their place among the session's votes, and when.
    pending: VecDeque<(i64, Instant)>,
    last: (i64, f64),
}

struct Round {
    spec: Spec,
    /// By instance and channel.
    watched: Vec<Vec<RefCell<Watched>>>,
    times: Vec<RefCell<Histogram<u64>>>,
    votes: RefCell<Vec<i64>>,
    answers: RefCell<BTreeMap<u16, u64>>,
    connected: RefCell<usize>,
}

pub fn run(spec: Spec) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, measure(spec))
}

async fn measure(spec: Spec) -> Result<()> {
    let total = ((spec.warm_up_seconds + spec.seconds) * spec.rate) as usize;
    let mut chat = Chat::new(spec.votes_to, &spec.secret)?;
    let channels = spec.overlays.len();
    let channel_of = move |number: usize| number.wrapping_mul(7_919) % channels;
    let messages = (0..total)
        .map(|number| chat.request(spec.first_channel + channel_of(number) as u64, true))
        .collect::<Result<Vec<_>>>()?;
    let round = Rc::new(Round::new(spec));
    round.open_all().await?;
    let doors = Rc::new(Semaphore::new(round.spec.connections));
    // In turn, so that none waits so long for its first request that the server gives it up.
    let idle = Rc::new(RefCell::new(VecDeque::new()));
    for _ in 0..round.spec.connections {
        let connection = Connection::open(round.spec.votes_to).await?;
        idle.borrow_mut().push_back(connection);
    }
    worker::ready("")?;

    let begun = Instant::now();
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut messages = messages.into_iter().enumerate();
    let mut sent = 0;
    while sent < total {
        ticks.tick().await;
        let due = ((begun.elapsed().as_secs_f64() * round.spec.rate) as usize).min(total);
        for (number, message) in messages.by_ref().take(due.saturating_sub(sent)) {
            // Its time counts from when it was due, whatever becomes of those before it.
            let at = begun + Duration::from_secs_f64(number as f64 / round.spec.rate);
            let place = round.due(channel_of(number));
            let (round, doors, idle) = (Rc::clone(&round), Rc::clone(&doors), Rc::clone(&idle));
            let counts = begun.elapsed().as_secs_f64() >= round.spec.warm_up_seconds;
            tokio::task::spawn_local(async move {
                let Ok(_door) = doors.acquire().await else { return };
                let Some(mut connection) = idle.borrow_mut().pop_front() else { return };
                if counts {
                    round.sending(channel_of(number), place, at);
                }
                let status = connection.exchange(&message).await.unwrap_or(0);
                *round.answers.borrow_mut().entry(status).or_default() += 1;
                idle.borrow_mut().push_back(connection);
            });
        }
        sent = due.max(sent);
    }
    tokio::time::sleep(LAST_SHOWN).await;
    worker::finish(&round.found())
}

impl Round {
    fn new(spec: Spec) -> Round {
        let instances = spec.watched_at.len();
        let watched = || RefCell::new(Watched { pending: VecDeque::new(), last: (0, 0.0) });
        Round {
            watched: (0..instances).map(|_| spec.overlays.iter().map(|_| watched()).collect()).collect(),
            times: (0..instances).map(|_| RefCell::new(histogram())).collect(),
            votes: RefCell::new(vec![0; spec.overlays.len()]),
            answers: RefCell::default(),
            connected: RefCell::new(0),
            spec,
        }
    }

    async fn open_all(self: &Rc<Self>) -> Result<()> {
        let doors = Rc::new(Semaphore::new(AT_ONCE));
        for (instance, address) in self.spec.watched_at.iter().enumerate() {
            for (channel, overlay_uuid) in self.spec.overlays.iter().enumerate() {
                let (round, doors) = (Rc::clone(self), Rc::clone(&doors));
                let (address, overlay_uuid) = (*address, *overlay_uuid);
                tokio::task::spawn_local(async move {
                    let Ok(door) = doors.acquire().await else { return };
                    let Ok(mut overlay) = Overlay::open(address, overlay_uuid).await else { return };
                    let Ok(hello) = overlay.text().await else { return };
                    round.shown(instance, channel, hello);
                    *round.connected.borrow_mut() += 1;
                    drop(door);
                    while let Ok(text) = overlay.text().await {
                        round.shown(instance, channel, text);
                    }
                });
            }
        }
        let expected = self.spec.watched_at.len() * self.spec.overlays.len();
        let all = async {
            while *self.connected.borrow() < expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await?;
        Ok(())
    }

    /// A vote is due: its place among those of its session.
    fn due(&self, channel: usize) -> i64 {
        let mut votes = self.votes.borrow_mut();
        votes[channel] += 1;
        votes[channel]
    }

    /// A vote that was due `at` is about to be sent.
    fn sending(&self, channel: usize, place: i64, at: Instant) {
        for watched in &self.watched {
            watched[channel].borrow_mut().pending.push_back((place, at));
        }
    }

    /// An overlay was sent a state.
    fn shown(&self, instance: usize, channel: usize, text: &[u8]) {
        let now = Instant::now();
        // A hello names the config's version, too.
        let text = http::find(text, b"\"state\":").map_or(text, |state| &text[state..]);
        let Ok(votes) = overlay::votes(text) else { return };
        let mut watched = self.watched[instance][channel].borrow_mut();
        watched.last = (
            overlay::whole_number(text, "\"version\":").unwrap_or_default(),
            overlay::number(text, "\"value\":").unwrap_or_default(),
        );
        while let Some(&(_, due)) = watched.pending.front().filter(|(place, _)| *place <= votes) {
            self.times[instance].borrow_mut().saturating_record((now - due).as_micros() as u64);
            watched.pending.pop_front();
        }
    }

    fn found(&self) -> Found {
        let shown = self.times.iter().zip(&self.watched).map(|(times, watched)| {
            let times = times.borrow();
            Shown {
                votes: times.len(),
                missing: watched.iter().map(|watched| watched.borrow().pending.len() as u64).sum(),
                p50_ms: quantile_ms(&times, 0.5),
                p99_ms: quantile_ms(&times, 0.99),
                p999_ms: quantile_ms(&times, 0.999),
                max_ms: times.max() as f64 / 1000.0,
                last: watched.iter().map(|watched| watched.borrow().last).collect(),
            }
        });
        let answers = self.answers.borrow();
        let failed = answers.iter().filter(|(status, _)| **status != 204).map(|(_, count)| count).sum();
        Found { shown: shown.collect(), answered: answers.values().sum(), failed }
    }
}
