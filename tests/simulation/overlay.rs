//! An overlay: opens, shows what it is sent, and comes back when it is closed. It knows only what a page
//! knows, and notes what a page may never see.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chatpulse::actors::outbox::{Close, Outbox};
use chatpulse::actors::overlay::Seat;
use chatpulse::actors::session::{Join, Leave};
use chatpulse::actors::supervisor::{OpenError, OpenOverlay};
use chatpulse::domain::time::Millis;
use serde_json::Value;
use tokio::time::sleep;
use uuid::Uuid;

use super::scenario::{Instance, Phase, Simulation};

/// How often an overlay's socket looks whether its session is still there.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What one overlay shows.
#[derive(Default)]
pub struct Screen {
    /// Since when it is connected and has had a hello, if it is.
    pub connected: Option<Millis>,
    /// The newest frame's state.
    pub state: Option<Value>,
    /// The newest frame's config version.
    pub config_version: Option<i64>,
}

/// The socket's end here.
struct Socket {
    outbox: Arc<Outbox>,
    screen: Rc<RefCell<Screen>>,
    closed: Rc<RefCell<Option<Close>>>,
    simulation: Rc<Simulation>,
    instance: Rc<Instance>,
    name: String,
}

impl Socket {
    /// Shows what is sent until it is closed.
    async fn run(self) {
        while self.closed.borrow().is_none() {
            let taken = poll_fn(|context| self.outbox.poll_take(context)).await;
            if self.instance.is_crashed() {
                return;
            }
            let close = taken.close;
            for frame in taken.into_frames() {
                let frame: Value = serde_json::from_str(&frame.text()).expect("frames are JSON");
                self.show(&frame);
            }
            *self.closed.borrow_mut() = close;
        }
    }
}

impl Socket {
    fn show(&self, frame: &Value) {
        let kind = frame["type"].as_str().unwrap_or_default();
        let state = if frame["state"].is_object() { &frame["state"] } else { frame };
        let mut screen = self.screen.borrow_mut();
        let version = state["version"].as_i64().expect("every frame has a version");
        let before = screen.state.as_ref().and_then(|state| state["version"].as_i64());
        match kind {
            "hello" => {
                screen.connected.get_or_insert(self.simulation.network.world(|world| world.now()));
            }
            _ if before.is_none() => self.simulation.violate(format!("{}: {kind} before hello", self.name)),
            _ if before > Some(version) => self
                .simulation
                .violate(format!("{}: {kind} goes back from version {before:?} to {version}", self.name)),
            _ => {}
        }
        if let Some(config_version) = frame["config"]["version"].as_i64() {
            screen.config_version = Some(config_version);
        }
        screen.state = Some(state.clone());
        self.simulation.log(|| format!("{} shows {kind} {state}", self.name));
    }
}

/// Why an overlay's visit ended.
enum End {
    Closed(Close),
    Gone,
}

/// An overlay of a streamer, from the first connection until the simulation ends.
pub async fn run(simulation: Rc<Simulation>, streamer_id: Uuid, screen: Rc<RefCell<Screen>>, name: String) {
    loop {
        sleep(simulation.network.draw_ms(1..400)).await;
        if simulation.phase() == Phase::Leaving {
            return;
        }
        let Some(instance) = simulation.any_instance() else { continue };
        // A browser source that was given the new URL.
        let url = simulation
            .network
            .world(|world| world.journal.entry(streamer_id).map(|entry| entry.streamer.overlay_uuid));
        let Some(overlay_uuid) = url else { continue };
        instance.running().await;
        let open = instance.supervisor.send(OpenOverlay { overlay_uuid });
        let opened = tokio::time::timeout(Duration::from_secs(5), open).await;
        instance.running_or_gone().await;
        match opened {
            Ok(Ok(Ok(seat))) if !instance.is_crashed() => {
                visit(&simulation, &instance, seat, streamer_id, &screen, &name).await;
            }
            Ok(Ok(Err(OpenError::Unknown))) => sleep(Duration::from_millis(500)).await,
            _ => {}
        }
    }
}

/// One connection of an overlay.
async fn visit(
    simulation: &Rc<Simulation>,
    instance: &Rc<Instance>,
    seat: Seat,
    streamer_id: Uuid,
    screen: &Rc<RefCell<Screen>>,
    name: &str,
) {
    let (outbox, closed) = (Arc::<Outbox>::default(), Rc::default());
    *screen.borrow_mut() = Screen::default();
    let socket = Socket {
        outbox: Arc::clone(&outbox),
        screen: Rc::clone(screen),
        closed: Rc::clone(&closed),
        simulation: Rc::clone(simulation),
        instance: Rc::clone(instance),
        name: name.to_owned(),
    };
    let overlay_id = simulation.network.id();
    let showing = actix::spawn(socket.run());
    let join = Join { overlay_id, overlay_uuid: seat.overlay_uuid, outbox };
    simulation.log(|| format!("{name} opens on {}", instance.id()));
    if seat.session.clone().try_send(join).is_ok() {
        simulation.watch(streamer_id, instance.id(), 1);
        let end = stay(simulation, instance, &seat, &closed).await;
        simulation.watch(streamer_id, instance.id(), -1);
        let how = match end {
            End::Closed(close) => format!("closed with {}", close.code()),
            End::Gone => "gone".into(),
        };
        simulation.log(|| format!("{name} is {how}"));
    }
    showing.abort();
    screen.borrow_mut().connected = None;
    if instance.is_crashed() {
        // Nobody is there who would notice.
        std::mem::forget(seat);
        return;
    }
    let _ = seat.session.clone().try_send(Leave { overlay_id });
}

/// Stays until the socket is closed, by whomever.
async fn stay(
    simulation: &Simulation,
    instance: &Instance,
    seat: &Seat,
    closed: &RefCell<Option<Close>>,
) -> End {
    loop {
        sleep(LOOK_EVERY).await;
        if let Some(close) = *closed.borrow() {
            return End::Closed(close);
        }
        if instance.is_crashed() || simulation.phase() == Phase::Leaving {
            return End::Gone;
        }
        if !seat.session.connected() {
            return End::Closed(Close::Restarted);
        }
        if simulation.phase() == Phase::Storm && simulation.network.happens(60) {
            return End::Gone;
        }
    }
}
