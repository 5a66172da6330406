//! A round-robin over instances, as a load balancer before them: it leaves out whoever is not ready.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::twitch::Twitch;

/// Between two looks at an instance's readiness.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// An instance that takes longer to say that it is ready is left out.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// Says which instance is next. Copies of it share their state.
#[derive(Clone)]
pub struct Balancer(Arc<State>);

struct State {
    addresses: Vec<SocketAddr>,
    next: AtomicUsize,
    out: Mutex<HashSet<usize>>,
    looks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

impl Balancer {
    /// Over these public addresses, looking at their readiness until the last copy is dropped.
    pub fn over(addresses: &[SocketAddr]) -> Balancer {
        let balancer = Balancer::blind(addresses);
        let mut looks = balancer.0.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.extend(addresses.iter().enumerate().map(|(place, address)| {
            let (state, twitch) = (Arc::downgrade(&balancer.0), Twitch::patient(*address, LOOK_MAX));
            tokio::spawn(async move {
                loop {
                    let ready = twitch.try_status("/health/ready").await == Some(200);
                    let Some(state) = state.upgrade() else { return };
                    state.mark(place, ready);
                    drop(state);
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            })
        }));
        drop(looks);
        balancer
    }

    /// Over these public addresses, ready or not.
    pub fn blind(addresses: &[SocketAddr]) -> Balancer {
        Balancer(Arc::new(State {
            addresses: addresses.to_vec(),
            next: AtomicUsize::new(0),
            out: Mutex::default(),
            looks: Mutex::default(),
        }))
    }

    /// The place and address of the instance that is next: a ready one, if there is any.
    pub fn next(&self) -> (usize, SocketAddr) {
        let state = &self.0;
        let out = state.out.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = || state.next.fetch_add(1, Ordering::Relaxed) % state.addresses.len();
        let place = (0..state.addresses.len()).map(|_| turn()).find(|place| !out.contains(place));
        let place = place.unwrap_or_else(turn);
        (place, state.addresses[place])
    }

    /// All addresses, by place.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0.addresses
    }

    /// Leaves an instance out until it says that it is ready: a connection to it failed.
    pub fn failed(&self, place: usize) {
        self.0.mark(place, false);
    }
}

impl State {
    fn mark(&self, place: usize, ready: bool) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if ready {
            out.remove(&place)
        } else {
            out.insert(place)
        };
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.looks.get_mut().unwrap_or_else(PoisonError::into_inner).iter().for_each(|look| look.abort());
    }
}
