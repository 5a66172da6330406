//! A worker that sends signed chat messages: as fast as they are answered, or at a rate, whatever the answers.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::MissedTickBehavior;

use super::chat::Chat;
use super::http::Connection;
use super::worker;

/// How often the plan is asked what is due.
const PACE: Duration = Duration::from_millis(1);
/// How long the last answers are waited for.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// What to send.
#[derive(Clone, Serialize, Deserialize)]
pub struct Spec {
    pub address: SocketAddr,
    pub secret: String,
    pub connections: usize,
    /// Messages a second; none: as many as are answered.
    pub rate: Option<f64>,
    /// Sent before anything counts.
    pub warm_up_seconds: f64,
    pub seconds: f64,
    pub first_channel: u64,
    pub channels: u64,
    pub vote_share: f64,
    /// Messages that are signed beforehand.
    pub messages: usize,
    /// Whether they are sent again when all were sent. Votes would be repetitions.
    pub again: bool,
    /// Votes are of so many viewers in turn; none: each of another one.
    pub viewers: Option<u64>,
}

/// What became of the messages.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answers {
    /// Within the measured time.
    pub answered: u64,
    pub seconds: f64,
    /// By status; 0: none came.
    pub statuses: BTreeMap<u16, u64>,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

impl Answers {
    /// Messages that were answered so; 0: not at all.
    pub fn of_status(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// Messages that were not answered 204.
    pub fn failed(&self) -> u64 {
        self.statuses.iter().filter(|(status, _)| **status != 204).map(|(_, count)| count).sum()
    }
}

/// Times in microseconds.
pub fn histogram() -> Histogram<u64> {
    // 60 s at three digits: in range for the library, whatever happens.
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 3)
        .unwrap_or_else(|_| Histogram::new(3).expect("three digits are allowed"));
    histogram.auto(true);
    histogram
}

/// A quantile in milliseconds.
pub fn quantile_ms(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}

struct Load {
    spec: Spec,
    messages: Vec<Vec<u8>>,
    state: RefCell<State>,
    due: Notify,
}

struct State {
    /// Which message is next.
    next: usize,
    /// When messages that nobody has taken yet were due.
    waiting: VecDeque<Instant>,
    begun: Instant,
    over: bool,
    answered: u64,
    statuses: BTreeMap<u16, u64>,
    times: Histogram<u64>,
}

pub fn run(spec: Spec) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let messages = signed(&spec)?;
    LocalSet::new().block_on(&runtime, send(spec, messages))
}

/// The messages, with votes evenly among them.
fn signed(spec: &Spec) -> Result<Vec<Vec<u8>>> {
    let mut chat = Chat::new(spec.address, &spec.secret)?;
    let mut votes = 0.0;
    let mut made = Vec::with_capacity(spec.messages);
    for number in 0..spec.messages as u64 {
        let is_vote = (number + 1) as f64 * spec.vote_share >= votes + 1.0;
        votes += f64::from(u8::from(is_vote));
        // Far apart, so that neighbours in time are no neighbours in any index.
        let channel = spec.first_channel + number.wrapping_mul(7_919) % spec.channels;
        made.push(match spec.viewers {
            Some(viewers) => chat.request_of(channel, 50_000_000 + number % viewers, is_vote)?,
            None => chat.request(channel, is_vote)?,
        });
    }
    Ok(made)
}

async fn send(spec: Spec, messages: Vec<Vec<u8>>) -> Result<()> {
    let mut connections = Vec::new();
    for _ in 0..spec.connections {
        connections.push(Connection::open(spec.address).await?);
    }
    worker::ready("")?;
    let state = State {
        next: 0,
        waiting: VecDeque::new(),
        begun: Instant::now(),
        over: false,
        answered: 0,
        statuses: BTreeMap::new(),
        times: histogram(),
    };
    let load = Rc::new(Load { spec, messages, state: RefCell::new(state), due: Notify::new() });
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|connection| tokio::task::spawn_local(Rc::clone(&load).work(connection)))
        .collect();
    let total = Duration::from_secs_f64(load.spec.warm_up_seconds + load.spec.seconds);
    match load.spec.rate {
        Some(rate) => load.pace(rate, total).await,
        None => tokio::time::sleep(total).await,
    }
    load.state.borrow_mut().over = true;
    load.due.notify_waiters();
    let last = async {
        for task in tasks {
            // A connection that broke has counted its message as lost.
            let _ = task.await;
        }
    };
    let _ = tokio::time::timeout(LAST_ANSWERS, last).await;
    worker::finish(&load.answers())
}

impl Load {
    /// Hands out messages when they are due.
    async fn pace(&self, rate: f64, total: Duration) {
        let begun = self.state.borrow().begun;
        let mut ticks = tokio::time::interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut handed_out = 0u64;
        while begun.elapsed() < total {
            ticks.tick().await;
            let due = (begun.elapsed().min(total).as_secs_f64() * rate) as u64;
            for number in handed_out..due {
                let at = begun + Duration::from_secs_f64(number as f64 / rate);
                self.state.borrow_mut().waiting.push_back(at);
                self.due.notify_one();
            }
            handed_out = due.max(handed_out);
        }
    }

    /// Sends one message after the other on one connection.
    async fn work(self: Rc<Self>, mut connection: Connection) {
        while let Some((place, due)) = self.take().await {
            let status = connection.exchange(&self.messages[place]).await;
            self.note(due, status.as_ref().copied().unwrap_or(0));
            if status.is_err() {
                match Connection::open(self.spec.address).await {
                    Ok(another) => connection = another,
                    Err(_) => return,
                }
            }
        }
    }

    /// The next message and when it was due; none when all is over.
    async fn take(&self) -> Option<(usize, Instant)> {
        loop {
            let notified = self.due.notified();
            {
                let mut state = self.state.borrow_mut();
                let due = if self.spec.rate.is_some() {
                    state.waiting.pop_front()
                } else {
                    (!state.over).then(Instant::now)
                };
                let spent = !self.spec.again && state.next >= self.messages.len();
                if let Some(due) = due.filter(|_| !spent) {
                    let place = state.next % self.messages.len();
                    state.next += 1;
                    return Some((place, due));
                }
                if state.over || spent {
                    return None;
                }
            }
            notified.await;
        }
    }

    fn note(&self, due: Instant, status: u16) {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        let from = state.begun + Duration::from_secs_f64(self.spec.warm_up_seconds);
        let to = from + Duration::from_secs_f64(self.spec.seconds);
        // An open loop answers for what was due, a closed one for what was answered.
        let counted = if self.spec.rate.is_some() { due } else { now };
        if (from..to).contains(&counted) {
            state.answered += 1;
            *state.statuses.entry(status).or_default() += 1;
            state.times.saturating_record((now - due).as_micros() as u64);
        }
    }

    fn answers(&self) -> Answers {
        let mut state = self.state.borrow_mut();
        if let Some(rate) = self.spec.rate {
            // What was due and never answered.
            let due = (rate * self.spec.seconds) as u64;
            let missing = due.saturating_sub(state.answered).saturating_sub(1);
            *state.statuses.entry(0).or_default() += missing;
        }
        Answers {
            answered: state.answered,
            seconds: self.spec.seconds,
            statuses: state.statuses.clone(),
            p50_ms: quantile_ms(&state.times, 0.5),
            p99_ms: quantile_ms(&state.times, 0.99),
            p999_ms: quantile_ms(&state.times, 0.999),
            max_ms: state.times.max() as f64 / 1000.0,
        }
    }
}
