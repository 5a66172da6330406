//! A worker that opens overlays and counts what they are sent.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;
use uuid::Uuid;

use super::overlay::{self, Overlay};
use super::requests::{histogram, quantile_ms};
use super::worker;

/// States whose first arrival is remembered.
const REMEMBERED: usize = 256;

/// Which overlays to open, and how long to watch.
#[derive(Serialize, Deserialize)]
pub struct Spec {
    pub address: SocketAddr,
    pub overlays: Vec<Uuid>,
    /// Connections that are sent frames without a WebSocket's greeting.
    pub raw: bool,
    /// Whether to connect only when it begins: that is what is measured then.
    pub connect_when_told: bool,
    /// Overlays that are being opened at a time.
    pub at_once: usize,
    pub warm_up_seconds: f64,
    pub seconds: f64,
    /// A frame is late if it comes so long after the first overlay had it.
    pub late_ms: u64,
    /// Whether to watch without ever sleeping: else every frame may have to wake this process, which costs its
    /// sender more than sending it, and more the slower it sends.
    pub sleepless: bool,
}

/// What the overlays saw.
#[derive(Debug, Serialize, Deserialize)]
pub struct Seen {
    pub connected: usize,
    pub failed: usize,
    /// Closed again before the end.
    pub lost: usize,
    /// From the beginning until the last one had its first frame.
    pub connect_seconds: f64,
    pub connect_p99_ms: f64,
    /// Frames within the measured time.
    pub frames: u64,
    /// Frames that came late after the first overlay's.
    pub late: u64,
    /// From the first overlay's to the last one's, in a hundredth of all cases.
    pub spread_p99_ms: f64,
    pub seconds: f64,
}

struct Watch {
    spec: Spec,
    state: RefCell<State>,
    doors: Semaphore,
}

struct State {
    begun: Instant,
    from: Option<Instant>,
    connected: usize,
    failed: usize,
    lost: usize,
    last_hello: Option<Instant>,
    connects: Histogram<u64>,
    frames: u64,
    late: u64,
    spreads: Histogram<u64>,
    /// When the first overlay had a state, by its version.
    first: BTreeMap<i64, Instant>,
}

pub fn run(spec: Spec) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, watch(spec))
}

async fn watch(spec: Spec) -> Result<()> {
    let when_told = spec.connect_when_told;
    if when_told {
        worker::ready("")?;
    }
    let state = State {
        begun: Instant::now(),
        from: None,
        connected: 0,
        failed: 0,
        lost: 0,
        last_hello: None,
        connects: histogram(),
        frames: 0,
        late: 0,
        spreads: histogram(),
        first: BTreeMap::new(),
    };
    let watch = Rc::new(Watch { doors: Semaphore::new(spec.at_once), spec, state: RefCell::new(state) });
    let expected = watch.spec.overlays.len();
    for overlay_uuid in watch.spec.overlays.clone() {
        tokio::task::spawn_local(Rc::clone(&watch).overlay(overlay_uuid));
    }
    let here = || watch.state.borrow().connected + watch.state.borrow().failed;
    while here() < expected {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if !when_told {
        // The thread is blocked until it is told: nothing else happens before.
        worker::ready(&watch.state.borrow().failed.to_string())?;
    }
    if watch.spec.sleepless {
        tokio::task::spawn_local(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
    }
    tokio::time::sleep(Duration::from_secs_f64(watch.spec.warm_up_seconds)).await;
    watch.state.borrow_mut().from = Some(Instant::now());
    tokio::time::sleep(Duration::from_secs_f64(watch.spec.seconds)).await;
    worker::finish(&watch.seen())
}

impl Watch {
    async fn overlay(self: Rc<Self>, overlay_uuid: Uuid) {
        let began = Instant::now();
        let opened = self.open(overlay_uuid).await;
        let Ok(mut overlay) = opened else {
            self.state.borrow_mut().failed += 1;
            return;
        };
        {
            let mut state = self.state.borrow_mut();
            state.connected += 1;
            state.last_hello = Some(Instant::now());
            state.connects.saturating_record(began.elapsed().as_micros() as u64);
        }
        while let Ok(text) = overlay.text().await {
            self.state.borrow_mut().note(text, self.spec.late_ms);
        }
        self.state.borrow_mut().lost += 1;
    }

    /// Opens an overlay and waits for its first frame.
    async fn open(&self, overlay_uuid: Uuid) -> Result<Overlay> {
        let _door = self.doors.acquire().await?;
        if self.spec.raw {
            return Overlay::connect(self.spec.address).await;
        }
        let mut overlay = Overlay::open(self.spec.address, overlay_uuid).await?;
        overlay.text().await?;
        Ok(overlay)
    }

    fn seen(&self) -> Seen {
        let state = self.state.borrow();
        let took = state.last_hello.map(|last| last - state.begun).unwrap_or_default();
        Seen {
            connected: state.connected,
            failed: state.failed,
            lost: state.lost,
            connect_seconds: took.as_secs_f64(),
            connect_p99_ms: quantile_ms(&state.connects, 0.99),
            frames: state.frames,
            late: state.late,
            spread_p99_ms: quantile_ms(&state.spreads, 0.99),
            seconds: self.spec.seconds,
        }
    }
}

impl State {
    fn note(&mut self, text: &[u8], late_ms: u64) {
        if self.from.is_none() {
            return;
        }
        self.frames += 1;
        let Some(version) = overlay::whole_number(text, "\"version\":") else { return };
        let now = Instant::now();
        let first = *self.first.entry(version).or_insert(now);
        if self.first.len() > REMEMBERED {
            self.first.pop_first();
        }
        let spread = now - first;
        self.late += u64::from(spread > Duration::from_millis(late_ms));
        self.spreads.saturating_record(spread.as_micros() as u64);
    }
}
