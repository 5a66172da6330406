//! The sessions that an instance holds.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::hot::keys::Bucket;

/// Streamers whose session this instance holds, by bucket.
#[derive(Default)]
pub(super) struct Held {
    buckets: BTreeMap<Bucket, BTreeSet<Uuid>>,
    count: usize,
}

impl Held {
    /// Notes a hold; `false` when it was there.
    pub(super) fn insert(&mut self, streamer_id: Uuid) -> bool {
        let new = self.buckets.entry(Bucket::of(streamer_id)).or_default().insert(streamer_id);
        self.count += usize::from(new);
        new
    }

    /// Strikes a hold out; `false` when there was none.
    pub(super) fn remove(&mut self, streamer_id: Uuid) -> bool {
        let bucket = Bucket::of(streamer_id);
        let Some(streamers) = self.buckets.get_mut(&bucket) else { return false };
        let removed = streamers.remove(&streamer_id);
        if streamers.is_empty() {
            self.buckets.remove(&bucket);
        }
        self.count -= usize::from(removed);
        removed
    }

    pub(super) fn contains(&self, streamer_id: Uuid) -> bool {
        self.buckets.get(&Bucket::of(streamer_id)).is_some_and(|streamers| streamers.contains(&streamer_id))
    }

    /// How many sessions are held.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The buckets with a held session.
    pub(super) fn buckets(&self) -> Vec<Bucket> {
        self.buckets.keys().copied().collect()
    }

    /// The streamers of one bucket.
    pub(super) fn of_bucket(&self, bucket: Bucket) -> impl Iterator<Item = Uuid> + '_ {
        self.buckets.get(&bucket).into_iter().flatten().copied()
    }

    /// All streamers.
    pub(super) fn all(&self) -> Vec<Uuid> {
        self.buckets.values().flatten().copied().collect()
    }

    /// Forgets all holds.
    pub(super) fn clear(&mut self) {
        *self = Held::default();
    }
}
