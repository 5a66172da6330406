//! Which broadcasters have a live session, with what the vote's way needs of each, and which
//! session actors run on this instance. Read by every message of chat, written seldom.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use actix::Addr;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

use super::session::SessionActor;
use crate::domain::config::VersionedConfig;
use crate::domain::trigger::Triggers;
use crate::journal::codec::ConfigRecord;
use crate::journal::sessions::Entry;
use crate::telemetry::metrics::Metrics;

/// How long the end of a session is remembered: longer than any answer of the journal takes.
const ENDED_KNOWN: Duration = Duration::from_secs(60);
/// Bytes of a viewer's hash that are kept: 128 bits leave no room for accidents.
const VIEWER_HASH_BYTES: usize = 16;

/// A live session as the vote's way needs it. Never changed; replaced as a whole.
pub struct LiveEntry {
    pub streamer_id: Uuid,
    pub twitch_user_id: String,
    pub overlay_uuid: Uuid,
    pub session_id: Uuid,
    pub ordinal: i64,
    /// The version of the streamer's stream, which grows with each rotation and config change.
    streamer_version: i64,
    pub config: VersionedConfig,
    /// The config as Redis keeps it.
    pub config_json: String,
    pub triggers: Triggers,
    viewer_key: Hmac<Sha256>,
}

impl LiveEntry {
    /// The entry of a streamer's live session; `None` while none is live.
    pub fn of(entry: &Entry) -> Option<LiveEntry> {
        let live = entry.live.as_ref()?;
        let streamer = &entry.streamer;
        // HMAC pads short keys with zeros to the size of a block.
        let mut viewer_key = [0u8; 64];
        viewer_key[..live.key.len()].copy_from_slice(&live.key);
        Some(LiveEntry {
            streamer_id: streamer.id,
            twitch_user_id: streamer.profile.twitch_user_id.clone(),
            overlay_uuid: streamer.overlay_uuid,
            session_id: live.session_id,
            streamer_version: streamer.version,
            ordinal: live.head.ordinal,
            // Serialising strings and numbers has no way to fail.
            config_json: serde_json::to_string(&ConfigRecord::from(&streamer.config)).unwrap_or_default(),
            triggers: Triggers::of(&streamer.config.config),
            config: streamer.config.clone(),
            viewer_key: Hmac::new(&viewer_key.into()),
        })
    }

    /// A viewer as the journal keeps them: a hash under the session's key, in hex.
    pub fn viewer_hash(&self, viewer_id: &str) -> String {
        let mut mac = self.viewer_key.clone();
        mac.update(viewer_id.as_bytes());
        hex::encode(&mac.finalize().into_bytes()[..VIEWER_HASH_BYTES])
    }
}

impl std::fmt::Debug for LiveEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveEntry")
            .field("streamer_id", &self.streamer_id)
            .field("session_id", &self.session_id)
            .finish_non_exhaustive()
    }
}

/// A session actor that runs here.
#[derive(Clone)]
pub struct SessionHandle {
    pub address: Addr<SessionActor>,
    /// Overlays that were let in, and are not gone yet.
    pub seats: Arc<AtomicUsize>,
}

/// The directory of one instance.
pub struct Directory {
    live: RwLock<Live>,
    sessions: RwLock<HashMap<Uuid, SessionHandle>>,
    /// Votes that wait for their answer.
    votes_waiting: AtomicUsize,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Live {
    by_broadcaster: HashMap<String, Arc<LiveEntry>>,
    by_streamer: HashMap<Uuid, Arc<LiveEntry>>,
    by_overlay: HashMap<Uuid, Uuid>,
    /// Sessions that ended lately: what was read before their end must not bring them back.
    ended: HashMap<Uuid, Ended>,
}

struct Ended {
    streamer_version: i64,
    ordinal: i64,
    noticed: Instant,
}

impl Live {
    /// Whether `entry` was read before what is known. Both numbers only grow, together.
    fn is_outdated(&self, entry: &Entry, fresh: Option<&LiveEntry>) -> bool {
        let version = entry.streamer.version;
        let known = self.by_streamer.get(&entry.streamer.id);
        let ended = self.ended.get(&entry.streamer.id);
        match fresh {
            None => known
                .is_some_and(|known| version < known.streamer_version || entry.last_ordinal < known.ordinal),
            Some(fresh) => {
                known.is_some_and(|known| (version, fresh.ordinal) < (known.streamer_version, known.ordinal))
                    || ended.is_some_and(|ended| {
                        version < ended.streamer_version || fresh.ordinal <= ended.ordinal
                    })
            }
        }
    }

    fn note_end(&mut self, entry: &Entry) {
        self.ended.retain(|_, ended| ended.noticed.elapsed() < ENDED_KNOWN);
        let ended = Ended {
            streamer_version: entry.streamer.version,
            ordinal: entry.last_ordinal,
            noticed: Instant::now(),
        };
        self.ended.insert(entry.streamer.id, ended);
    }
}

impl Directory {
    /// An empty directory.
    pub fn new(metrics: Arc<Metrics>) -> Directory {
        Directory {
            live: RwLock::default(),
            sessions: RwLock::default(),
            votes_waiting: AtomicUsize::new(0),
            metrics,
        }
    }

    /// The live session of a Twitch broadcaster.
    pub fn by_broadcaster(&self, twitch_user_id: &str) -> Option<Arc<LiveEntry>> {
        read(&self.live).by_broadcaster.get(twitch_user_id).cloned()
    }

    /// The live session of a streamer.
    pub fn by_streamer(&self, streamer_id: Uuid) -> Option<Arc<LiveEntry>> {
        read(&self.live).by_streamer.get(&streamer_id).cloned()
    }

    /// The streamer behind an overlay URL, if a session of theirs is live.
    pub fn streamer_of_overlay(&self, overlay_uuid: Uuid) -> Option<Uuid> {
        read(&self.live).by_overlay.get(&overlay_uuid).copied()
    }

    /// Takes what the journal says of a streamer; what is older than what is known changes nothing.
    pub fn adopt(&self, entry: &Entry) -> Option<Arc<LiveEntry>> {
        let streamer_id = entry.streamer.id;
        let fresh = LiveEntry::of(entry).map(Arc::new);
        let mut live = write(&self.live);
        let known = live.by_streamer.get(&streamer_id).cloned();
        if live.is_outdated(entry, fresh.as_deref()) {
            return known;
        }
        if fresh.is_none() && entry.last_ordinal > 0 {
            live.note_end(entry);
        }
        if let Some(known) = known {
            live.by_broadcaster.remove(&known.twitch_user_id);
            live.by_overlay.remove(&known.overlay_uuid);
            live.by_streamer.remove(&streamer_id);
        }
        if let Some(fresh) = &fresh {
            live.by_broadcaster.insert(fresh.twitch_user_id.clone(), Arc::clone(fresh));
            live.by_overlay.insert(fresh.overlay_uuid, streamer_id);
            live.by_streamer.insert(streamer_id, Arc::clone(fresh));
        }
        self.metrics.live_broadcasters.set(live.by_streamer.len() as i64);
        fresh
    }

    /// The streamers whose session is live.
    pub fn streamers(&self) -> Vec<Uuid> {
        read(&self.live).by_streamer.keys().copied().collect()
    }

    /// The session actor of a streamer on this instance, if one runs.
    pub fn session(&self, streamer_id: Uuid) -> Option<SessionHandle> {
        let handle = read(&self.sessions).get(&streamer_id).cloned();
        // An actor that panicked leaves a dead address behind.
        handle.filter(|handle| handle.address.connected())
    }

    /// All session actors on this instance.
    pub fn sessions(&self) -> Vec<(Uuid, SessionHandle)> {
        read(&self.sessions).iter().map(|(streamer_id, handle)| (*streamer_id, handle.clone())).collect()
    }

    /// How many session actors run on this instance.
    pub fn session_count(&self) -> usize {
        read(&self.sessions).len()
    }

    /// Enters a session actor; answers the one it takes the place of.
    pub fn enter_session(&self, streamer_id: Uuid, handle: SessionHandle) -> Option<SessionHandle> {
        write(&self.sessions).insert(streamer_id, handle)
    }

    /// Strikes a session actor out, if it is still the one that stands there.
    pub fn strike_session(&self, streamer_id: Uuid, address: &Addr<SessionActor>) {
        let mut sessions = write(&self.sessions);
        if sessions.get(&streamer_id).is_some_and(|handle| &handle.address == address) {
            sessions.remove(&streamer_id);
        }
    }

    /// A place among the votes that wait; `None` when `max` are waiting already.
    pub fn wait_for_vote(&self, max: usize) -> Option<WaitingVote<'_>> {
        let place = self.votes_waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
            (waiting < max).then_some(waiting + 1)
        });
        place.ok().map(|_| WaitingVote { directory: self })
    }
}

/// A vote's place among those that wait for their answer; given back when dropped.
pub struct WaitingVote<'a> {
    directory: &'a Directory,
}

impl Drop for WaitingVote<'_> {
    fn drop(&mut self) {
        self.directory.votes_waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

// Writers only insert and remove, which can't panic half-way: a poisoned lock guards whole data.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::config::Config;
    use crate::domain::session::{self, Command};
    use crate::domain::streamer::{Profile, Streamer};
    use crate::domain::time::Millis;
    use crate::journal::sessions::LiveSession;

    fn directory() -> Directory {
        Directory::new(Arc::new(Metrics::new().unwrap()))
    }

    /// A streamer whose stream has `version`, and whose newest session, live or not, has `ordinal`.
    fn entry(id: Uuid, version: i64, ordinal: i64, live: bool) -> Entry {
        let config = VersionedConfig { version: 1, config: Config::default() };
        let start = Command::Start { streamer_id: id, ordinal, config: config.clone() };
        let events = session::decide(start, None, Millis(0)).unwrap();
        let head = session::evolve(None, &events[0]).unwrap();
        let session_id = Uuid::from_u128(ordinal as u128);
        Entry {
            streamer: Streamer {
                id,
                version,
                profile: Profile {
                    twitch_user_id: id.simple().to_string(),
                    login: "streamer".into(),
                    display_name: "Streamer".into(),
                },
                overlay_uuid: Uuid::from_u128(version as u128),
                disabled: false,
                config,
            },
            last_ordinal: ordinal,
            live: live.then_some(LiveSession { session_id, key: [7; 32], holders: 1, head }),
        }
    }

    #[test]
    fn a_live_session_is_found_by_broadcaster_streamer_and_overlay() {
        let (directory, id) = (directory(), Uuid::now_v7());
        directory.adopt(&entry(id, 1, 1, true));
        assert!(directory.by_broadcaster(&id.simple().to_string()).is_some());
        assert!(directory.by_streamer(id).is_some());
        assert_eq!(directory.streamer_of_overlay(Uuid::from_u128(1)), Some(id));
    }

    #[test]
    fn a_rotated_url_is_not_brought_back_by_what_was_read_before() {
        let (directory, id) = (directory(), Uuid::now_v7());
        directory.adopt(&entry(id, 2, 1, true));
        directory.adopt(&entry(id, 1, 1, true));
        assert_eq!(directory.streamer_of_overlay(Uuid::from_u128(1)), None);
        assert_eq!(directory.streamer_of_overlay(Uuid::from_u128(2)), Some(id));
    }

    #[test]
    fn an_ended_session_is_not_brought_back_but_the_next_one_is_taken() {
        let (directory, id) = (directory(), Uuid::now_v7());
        directory.adopt(&entry(id, 1, 1, true));
        directory.adopt(&entry(id, 1, 1, false));
        assert!(directory.by_streamer(id).is_none());
        directory.adopt(&entry(id, 1, 1, true));
        assert!(directory.by_streamer(id).is_none(), "read before the end");
        directory.adopt(&entry(id, 1, 2, true));
        assert_eq!(directory.by_streamer(id).unwrap().ordinal, 2);
    }

    #[test]
    fn a_session_just_started_is_not_ended_by_what_was_read_before() {
        let (directory, id) = (directory(), Uuid::now_v7());
        directory.adopt(&entry(id, 1, 1, true));
        directory.adopt(&entry(id, 1, 0, false));
        assert!(directory.by_streamer(id).is_some());
    }

    #[test]
    fn a_viewer_has_one_hash_in_a_session_that_does_not_tell_who_it_is() {
        let live = LiveEntry::of(&entry(Uuid::now_v7(), 1, 1, true)).unwrap();
        assert_eq!(live.viewer_hash("4145994"), live.viewer_hash("4145994"));
        assert_ne!(live.viewer_hash("4145994"), live.viewer_hash("4145995"));
        assert_eq!(live.viewer_hash("4145994").len(), 32);
        assert!(!live.viewer_hash("4145994").contains("4145994"));
    }

    #[test]
    fn votes_that_wait_have_a_bound_and_give_their_place_back() {
        let directory = directory();
        let first = directory.wait_for_vote(1);
        assert!(first.is_some() && directory.wait_for_vote(1).is_none());
        drop(first);
        assert!(directory.wait_for_vote(1).is_some());
    }
}
