//! A strict Twitch of our own over real HTTP and WebSocket: OAuth under `/oauth2`, Helix under `/helix`,
//! EventSub by webhook and by WebSocket, and under `/control` what a person would do on Twitch, and faults on
//! request. It refuses what Twitch refuses. For tests, `make run` and development without Twitch; it keeps
//! everything in memory and guards nothing: not for the open network.
//!
//! Reading order: [`options`], `refusal` (how Twitch says no), `state` (all decisions, pure), `http/` (thin,
//! over the state), `webhook` and `socket` (sending what the state decided), `control` (the same from Rust).

mod control;
mod http;
pub mod options;
mod refusal;
mod socket;
mod state;
mod webhook;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix_web::dev::ServerHandle;
use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::SimulatorError;
use state::{Effect, Order, State};

pub use options::{Account, Clock, PlatformOptions, Rules};
pub use refusal::Refusal;
pub use state::{
    Badge, Counts, Failure, Fault, GrantedTokens, Say, SeenRequest, SentMessage, ShardView, SubscriptionView,
};

/// A running Twitch of our own. Dropped, it ends too, only without waiting for it.
pub struct Platform {
    shared: Arc<Shared>,
    server: ServerHandle,
    http: SocketAddr,
}

impl Platform {
    /// Listens, and serves on the current Tokio (or Actix) runtime until it is stopped.
    ///
    /// # Errors
    /// [`SimulatorError`] when an address can't be listened on or the HTTP client can't be made.
    pub async fn start(options: PlatformOptions) -> Result<Platform, SimulatorError> {
        let listener = TcpListener::bind(options.http).map_err(SimulatorError::Listen)?;
        let sockets =
            tokio::net::TcpListener::bind(options.eventsub).await.map_err(SimulatorError::Listen)?;
        let http = listener.local_addr().map_err(SimulatorError::Listen)?;
        let eventsub = sockets.local_addr().map_err(SimulatorError::Listen)?;
        let shared = Arc::new(Shared::new(&options, format!("ws://{eventsub}/ws"))?);
        let server = http::server(Arc::clone(&shared), listener).map_err(SimulatorError::Listen)?;
        let handle = server.handle();
        // Not among the tasks that are ended: it has to carry out the order to stop.
        tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::warn!(%error, "the simulated Twitch's HTTP server failed");
            }
        });
        shared.spawn(socket::accept_all(Arc::clone(&shared), sockets));
        Ok(Platform { shared, server: handle, http })
    }

    /// The setting `twitch.oauth_url` for this Twitch.
    pub fn oauth_url(&self) -> String {
        format!("http://{}/oauth2", self.http)
    }

    /// The setting `twitch.helix_url` for this Twitch.
    pub fn helix_url(&self) -> String {
        format!("http://{}/helix", self.http)
    }

    /// The setting `twitch.eventsub_url` for this Twitch.
    pub fn eventsub_url(&self) -> String {
        self.shared.eventsub_url.clone()
    }

    /// Where the control API is.
    pub fn control_url(&self) -> String {
        format!("http://{}/control", self.http)
    }

    /// Ends all connections and deliveries, and frees the ports.
    pub async fn stop(&self) {
        self.server.stop(false).await;
        self.shared.end_tasks();
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // The order to stop is given at once; nobody is left to wait until it is carried out.
        drop(self.server.stop(false));
        self.shared.end_tasks();
    }
}

/// What requests, WebSockets and deliveries share.
struct Shared {
    state: Mutex<State>,
    clock: Clock,
    rules: Rules,
    eventsub_url: String,
    client: reqwest::Client,
    /// Where tasks run, whichever thread starts them.
    runtime: Handle,
    tasks: Mutex<JoinSet<()>>,
    is_stopped: AtomicBool,
    /// The tasks of the WebSockets, by the number of the connection.
    sockets: Mutex<HashMap<u64, mpsc::Sender<Order>>>,
    connections: AtomicU64,
    /// Of requests to webhooks at a time.
    permits: Semaphore,
    /// Deliveries that are under way, or wait.
    deliveries: AtomicUsize,
}

impl Shared {
    fn new(options: &PlatformOptions, eventsub_url: String) -> Result<Shared, SimulatorError> {
        Ok(Shared {
            state: Mutex::new(State::new(options)),
            clock: options.clock.clone().unwrap_or_else(|| Arc::new(OffsetDateTime::now_utc)),
            rules: options.rules.clone(),
            eventsub_url,
            client: webhook::client(&options.rules)?,
            runtime: Handle::current(),
            tasks: Mutex::new(JoinSet::new()),
            is_stopped: AtomicBool::new(false),
            sockets: Mutex::new(HashMap::new()),
            connections: AtomicU64::new(0),
            permits: Semaphore::new(options.rules.deliveries_max.clamp(1, Semaphore::MAX_PERMITS)),
            deliveries: AtomicUsize::new(0),
        })
    }

    /// Decides something, then does what follows from it.
    fn act<R>(self: &Arc<Self>, decide: impl FnOnce(&mut State, OffsetDateTime) -> R) -> R {
        let now = (self.clock)();
        let (result, effects) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            (decide(&mut state, now), state.take_effects())
        };
        for effect in effects {
            match effect {
                Effect::Challenge(challenge) => self.challenge(challenge),
                Effect::Post(post) => self.post(post),
                Effect::Order { connection, order } => self.order(connection, order),
            }
        }
        result
    }

    /// Runs a task until it ends or the platform does.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        if !self.is_stopped.load(Ordering::Acquire) {
            tasks.spawn_on(task, &self.runtime);
        }
    }

    fn end_tasks(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        self.sockets().clear();
    }

    fn sockets(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<Order>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
