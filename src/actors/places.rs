//! How many overlays one IP address may have open on this instance.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Open overlays by IP address. An address without any takes no room.
#[derive(Debug)]
pub struct Places {
    max: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One open overlay's place; given back when dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Places {
    /// Allows each address at most `max` overlays.
    pub fn new(max: usize) -> Arc<Places> {
        Arc::new(Places { max, open: Mutex::default() })
    }

    /// A place for one more overlay of this address; `None` when it has too many.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut open = self.lock();
        let count = open.entry(address).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Place { places: Arc::clone(self), address })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Nothing in here can panic half-way, so a poisoned lock still guards whole data.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let places = Places::new(2);
        let address = IpAddr::from([127, 0, 0, 1]);
        let first = places.take(address);
        let _second = places.take(address);
        assert!(first.is_some() && places.take(address).is_none());
        assert!(places.take(IpAddr::from([127, 0, 0, 2])).is_some(), "another address has its own");
        drop(first);
        assert!(places.take(address).is_some());
    }

    #[test]
    fn an_address_without_overlays_takes_no_room() {
        let places = Places::new(1);
        drop(places.take(IpAddr::from([127, 0, 0, 1])));
        assert!(places.lock().is_empty());
    }
}
