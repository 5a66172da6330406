//! Which messages were there before.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

/// Remembers the ids of the newest messages, as hashes under a random key: two of them would have to
/// agree in 64 bits for a message to be taken for another one.
#[derive(Debug)]
pub(super) struct Recent {
    hasher: RandomState,
    seen: HashSet<u64>,
    order: VecDeque<u64>,
    max: usize,
}

impl Recent {
    /// Remembers at most `max` ids.
    pub fn new(max: usize) -> Recent {
        Recent { hasher: RandomState::new(), seen: HashSet::new(), order: VecDeque::new(), max }
    }

    /// Whether this id is not among those remembered; from now on it is.
    pub fn is_new(&mut self, id: &str) -> bool {
        let hash = self.hasher.hash_one(id);
        if !self.seen.insert(hash) {
            return false;
        }
        self.order.push_back(hash);
        if self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_new_once() {
        let mut recent = Recent::new(2);
        assert_eq!(["a", "b", "a", "b", "a"].map(|id| recent.is_new(id)), [true, true, false, false, false]);
    }

    #[test]
    fn the_oldest_id_is_forgotten() {
        let mut recent = Recent::new(2);
        assert_eq!(["a", "b", "c", "b", "a"].map(|id| recent.is_new(id)), [true, true, true, false, true]);
        assert_eq!((recent.seen.len(), recent.order.len()), (2, 2));
    }
}
