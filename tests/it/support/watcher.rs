//! An overlay as the page in OBS is one: it comes back after a close, and keeps what it was shown.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::balancer::Balancer;
use super::instance::Streamer;
use super::overlay::Overlay;

/// The page's own waiting times, shortened.
const BACKOFF_START_MS: u64 = 100;
const BACKOFF_CAP_MS: u64 = 2_000;
const HELLO_MAX: Duration = Duration::from_secs(3);

/// Unix milliseconds; PostgreSQL's too, since it runs on this machine.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970").as_millis() as i64
}

/// The state that an overlay shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shown {
    pub version: i64,
    pub value: f64,
    pub at: i64,
    pub votes: (i64, i64),
}

impl Shown {
    fn of(state: &Value) -> Shown {
        let number = |key: &str| state[key].as_i64().unwrap_or_else(|| panic!("{key} of {state}"));
        Shown {
            version: number("version"),
            value: state["value"].as_f64().unwrap_or_else(|| panic!("value of {state}")),
            at: number("at"),
            votes: (number("for"), number("against")),
        }
    }

    /// What the bar shows at a time.
    pub fn value_at(&self, time_ms: i64, decay_speed: f64) -> f64 {
        self.value * (-decay_speed * (time_ms - self.at).max(0) as f64 / 1000.0).exp()
    }
}

/// Something that an overlay went through.
#[derive(Clone, Debug)]
pub struct Event {
    pub time_ms: i64,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    /// A frame by its type, with what is shown after it.
    Frame(String, Shown),
    /// The socket was closed with this code; 1006 without a close frame.
    Closed(u16),
    /// The socket was not opened: the answer's status, or 0.
    Refused(u16),
}

#[derive(Debug, Default)]
struct Record {
    shown: Option<Shown>,
    config: Value,
    events: Vec<Event>,
    wrong: Vec<String>,
    open: bool,
}

/// An overlay at work; goes when dropped.
pub struct Watcher {
    record: Arc<Mutex<Record>>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Opens the streamer's overlay on the instances in turn, and again whenever it is closed.
    pub fn start(balancer: &Balancer, streamer: &Streamer, seed: u64) -> Watcher {
        let record = Arc::<Mutex<Record>>::default();
        let watching = Watching {
            balancer: balancer.clone(),
            path: streamer.overlay_uuid.to_string(),
            record: Arc::clone(&record),
            random: StdRng::seed_from_u64(seed),
        };
        Watcher { record, task: tokio::spawn(watching.run()) }
    }

    /// As [`Watcher::start`] on one instance, once it has had its hello.
    pub async fn on(address: std::net::SocketAddr, streamer: &Streamer) -> Watcher {
        let watcher = Watcher::start(&Balancer::blind(&[address]), streamer, 0);
        super::eventually("an overlay has its hello", async || watcher.shown().is_some()).await;
        watcher
    }

    /// What it shows, once it had a hello.
    pub fn shown(&self) -> Option<Shown> {
        self.record().shown
    }

    /// The streamer's settings that it knows.
    pub fn config(&self) -> Value {
        self.record().config.clone()
    }

    /// Whether its socket is open and has had a hello.
    pub fn is_open(&self) -> bool {
        self.record().open
    }

    /// All it went through so far.
    pub fn events(&self) -> Vec<Event> {
        self.record().events.clone()
    }

    /// The codes that its sockets were closed with, with the times.
    pub fn closes(&self) -> Vec<(i64, u16)> {
        let closed = |event: &Event| match event.what {
            What::Closed(code) => Some((event.time_ms, code)),
            _ => None,
        };
        self.record().events.iter().filter_map(closed).collect()
    }

    /// How many frames of this type it got.
    pub fn count(&self, frame_type: &str) -> usize {
        let is = |event: &&Event| matches!(&event.what, What::Frame(kind, _) if kind == frame_type);
        self.record().events.iter().filter(is).count()
    }

    /// Requires that no frame went against the contract.
    pub fn assert_in_order(&self) {
        let record = self.record();
        assert!(record.wrong.is_empty(), "{:#?}", record.wrong);
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Watching {
    balancer: Balancer,
    path: String,
    record: Arc<Mutex<Record>>,
    random: StdRng,
}

impl Watching {
    async fn run(mut self) {
        let mut attempt = 0;
        loop {
            let (place, address) = self.balancer.next();
            let opening = tokio::time::timeout(HELLO_MAX, Overlay::try_open(address, &self.path, &[])).await;
            let what = match opening {
                Ok(Ok(overlay)) => {
                    let code = self.read(overlay, &mut attempt).await;
                    lock(&self.record).open = false;
                    What::Closed(code)
                }
                Ok(Err(Error::Http(response))) => What::Refused(response.status().as_u16()),
                Ok(Err(_)) | Err(_) => {
                    self.balancer.failed(place);
                    What::Refused(0)
                }
            };
            let for_good = matches!(what, What::Closed(4000..=4099) | What::Refused(404));
            lock(&self.record).events.push(Event { time_ms: now_ms(), what });
            if for_good {
                return;
            }
            let pause_ms = BACKOFF_CAP_MS.min(BACKOFF_START_MS << attempt.min(10));
            attempt += 1;
            tokio::time::sleep(Duration::from_millis(self.random.random_range(0..=pause_ms))).await;
        }
    }

    /// Reads frames until the socket ends, and answers its code.
    async fn read(&mut self, mut overlay: Overlay, attempt: &mut u32) -> u16 {
        let mut newest = None;
        loop {
            let message = if newest.is_none() {
                let first = tokio::time::timeout(HELLO_MAX, overlay.socket.next()).await;
                let Ok(first) = first else { return 1006 };
                first
            } else {
                overlay.socket.next().await
            };
            match message {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).expect("a frame is JSON");
                    self.take(&frame, &mut newest);
                    *attempt = 0;
                }
                Some(Ok(Message::Close(close))) => return close.map_or(1005, |close| close.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return 1006,
            }
        }
    }

    /// Does what the contract says of a frame; `newest` is the newest version on this socket.
    fn take(&self, frame: &Value, newest: &mut Option<i64>) {
        let mut record = lock(&self.record);
        let kind = frame["type"].as_str().unwrap_or_default().to_owned();
        let state = if kind == "hello" || kind == "config" { &frame["state"] } else { frame };
        let state = Shown::of(state);
        match (kind.as_str(), *newest) {
            ("hello", _) => {
                record.shown = Some(state);
                record.open = true;
            }
            (_, None) => record.wrong.push(format!("no hello came first: {frame}")),
            (_, Some(known)) if state.version < known => {
                record.wrong.push(format!("older than {known}: {frame}"));
            }
            // A frame that is no newer than what an earlier socket has shown is passed over.
            _ if record.shown.is_none_or(|shown| shown.version <= state.version) => {
                record.shown = Some(state);
            }
            _ => {}
        }
        if kind == "hello" || kind == "config" {
            record.config = frame["config"].clone();
        }
        *newest = Some(state.version);
        let shown = record.shown.unwrap_or(state);
        record.events.push(Event { time_ms: now_ms(), what: What::Frame(kind, shown) });
    }
}
