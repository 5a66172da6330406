//! Which broadcasters have a live session, with what the vote's way needs of each, and which
//! session actors run on this instance. Read by every message of chat, written seldom.

use std::cmp::Ordering::{Equal, Less};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use actix::Addr;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::time::Instant;
use uuid::Uuid;

use super::session::SessionActor;
use crate::domain::config::VersionedConfig;
use crate::domain::trigger::Triggers;
use crate::journal::codec::ConfigRecord;
use crate::journal::sessions::{Entry, LiveDigest, LiveVersions};
use crate::telemetry::metrics::Metrics;

/// No answer of the journal takes longer.
const ANSWERED: Duration = Duration::from_secs(60);
/// Broadcasters remembered to have no live session, at most.
const ABSENT_MAX: usize = 200_000;
/// Bytes of a viewer's hash that are kept: 128 bits leave no room for accidents.
const VIEWER_HASH_BYTES: usize = 16;

/// A live session as the vote's way needs it. Never changed; replaced as a whole.
pub struct LiveEntry {
    pub streamer_id: Uuid,
    pub twitch_user_id: String,
    pub overlay_uuid: Uuid,
    pub session_id: Uuid,
    pub ordinal: i64,
    /// While it is paused, chat does not vote.
    pub paused: bool,
    /// The version of the streamer's stream, which grows with each rotation and config change.
    streamer_version: i64,
    /// The version of the session's stream when this was read, which grows with each pause and its end.
    session_version: i64,
    /// When the journal answered with this.
    answered: Instant,
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
            session_version: live.head.version,
            paused: live.paused,
            answered: Instant::now(),
            // Serialising strings and numbers has no way to fail.
            config_json: serde_json::to_string(&ConfigRecord::from(&streamer.config)).unwrap_or_default(),
            triggers: Triggers::of(&streamer.config.config),
            config: streamer.config.clone(),
            viewer_key: Hmac::new(&viewer_key.into()),
        })
    }

    /// Whether this was read before `known`, an entry of the same streamer.
    fn is_older_than(&self, known: &LiveEntry) -> bool {
        let versions = |entry: &LiveEntry| (entry.streamer_version, entry.ordinal);
        match versions(self).cmp(&versions(known)) {
            // A server that has taken over and lacks the newest session gives its ordinal to another one.
            Equal if self.session_id == known.session_id => {
                self.session_version < known.session_version && !self.contradicts_pause(known)
            }
            order => order == Less,
        }
    }

    /// Whether this says otherwise than `known` whether the session is paused, and was read after it: then the journal
    /// has another history, of a server that has taken over and lacks the newest pause, or its end.
    fn contradicts_pause(&self, known: &LiveEntry) -> bool {
        self.paused != known.paused && known.is_settled()
    }

    /// Whether no answer is under way any more of what the journal was asked before this.
    fn is_settled(&self) -> bool {
        self.answered.elapsed() >= ANSWERED
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
    /// The frame version of the newest state that the actor knows; 0 before it knows one.
    pub version: Arc<AtomicI64>,
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
    /// Broadcasters of whom the journal said that they have no live session. Asked for only when a
    /// broadcaster is not live as far as we know, so a session that starts later makes it no lie.
    absent: HashSet<String>,
}

struct Ended {
    streamer_version: i64,
    ordinal: i64,
    noticed: Instant,
}

impl Live {
    /// Whether `entry` was read before what is known. The versions and ordinals only grow, together.
    fn is_outdated(&self, entry: &Entry, fresh: Option<&LiveEntry>) -> bool {
        let version = entry.streamer.version;
        let known = self.by_streamer.get(&entry.streamer.id);
        let ended = self.ended.get(&entry.streamer.id);
        match fresh {
            None => known
                .is_some_and(|known| version < known.streamer_version || entry.last_ordinal < known.ordinal),
            Some(fresh) => {
                known.is_some_and(|known| fresh.is_older_than(known))
                    || ended.is_some_and(|ended| {
                        version < ended.streamer_version || fresh.ordinal <= ended.ordinal
                    })
            }
        }
    }

    fn note_end(&mut self, entry: &Entry) {
        self.ended.retain(|_, ended| ended.noticed.elapsed() < ANSWERED);
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

    /// Whether the journal was asked for this broadcaster, and had no live session.
    pub fn is_absent(&self, twitch_user_id: &str) -> bool {
        read(&self.live).absent.contains(twitch_user_id)
    }

    /// Notes that the journal has no live session of these broadcasters; the feed tells when they do.
    pub fn note_absent(&self, twitch_user_ids: Vec<String>) {
        let mut live = write(&self.live);
        if live.absent.len() + twitch_user_ids.len() > ABSENT_MAX {
            // They are asked for again when they say something.
            live.absent.clear();
        }
        live.absent.extend(twitch_user_ids);
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

    /// What is known of all live sessions together, to be compared with the journal's.
    pub fn digest(&self) -> LiveDigest {
        let live = read(&self.live);
        live.by_streamer.values().fold(LiveDigest::default(), |sum, entry| LiveDigest {
            sessions: sum.sessions + 1,
            streamer_versions: sum.streamer_versions + entry.streamer_version,
            config_versions: sum.config_versions + entry.config.version,
            ordinals: sum.ordinals + entry.ordinal,
            paused: sum.paused + i64::from(entry.paused),
        })
    }

    /// Whether what is known of a streamer's live session is older than what the journal has. Of a pause, or its end,
    /// that has just become known, `journal` may not know yet.
    pub fn is_behind(&self, journal: &LiveVersions) -> bool {
        self.by_streamer(journal.streamer_id).is_none_or(|known| {
            let other_pause = known.paused != journal.paused && known.is_settled();
            known.streamer_version < journal.streamer_version
                || known.config.version < journal.config_version
                || known.ordinal < journal.ordinal
                || (known.ordinal == journal.ordinal && other_pause)
        })
    }

    /// Whether something else is known of a streamer's live session than the journal has.
    pub fn differs(&self, journal: &LiveVersions) -> bool {
        self.by_streamer(journal.streamer_id).is_none_or(|known| {
            (known.streamer_version, known.config.version, known.ordinal, known.paused)
                != (journal.streamer_version, journal.config_version, journal.ordinal, journal.paused)
        })
    }

    /// Whether the journal has another config than is known here without a change of the streamer that
    /// would have told of it.
    pub fn contradicts(&self, entry: &Entry) -> bool {
        self.by_streamer(entry.streamer.id).is_some_and(|known| {
            known.streamer_version == entry.streamer.version
                && known.config.version != entry.streamer.config.version
        })
    }

    /// The streamers whose session is live.
    pub fn streamers(&self) -> Vec<Uuid> {
        let mut streamers: Vec<Uuid> = read(&self.live).by_streamer.keys().copied().collect();
        streamers.sort_unstable();
        streamers
    }

    /// The session actor of a streamer on this instance, if one runs.
    pub fn session(&self, streamer_id: Uuid) -> Option<SessionHandle> {
        let handle = read(&self.sessions).get(&streamer_id).cloned();
        // An actor that panicked leaves a dead address behind.
        handle.filter(|handle| handle.address.connected())
    }

    /// The actors that stand here but have died, in the order of their streamers' ids.
    pub fn dead_sessions(&self) -> Vec<(Uuid, SessionHandle)> {
        let sessions = read(&self.sessions);
        let dead = sessions.iter().filter(|(_, handle)| !handle.address.connected());
        let mut listed: Vec<_> = dead.map(|(id, handle)| (*id, handle.clone())).collect();
        listed.sort_unstable_by_key(|(streamer_id, _)| *streamer_id);
        listed
    }

    /// Whether the actor that stands here for a streamer has died.
    pub fn has_dead_session(&self, streamer_id: Uuid) -> bool {
        read(&self.sessions).get(&streamer_id).is_some_and(|handle| !handle.address.connected())
    }

    /// All session actors on this instance, also dead ones, in the order of their streamers' ids.
    pub fn sessions(&self) -> Vec<(Uuid, SessionHandle)> {
        let sessions = read(&self.sessions);
        let mut listed: Vec<_> = sessions.iter().map(|(id, handle)| (*id, handle.clone())).collect();
        listed.sort_unstable_by_key(|(streamer_id, _)| *streamer_id);
        listed
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
mod tests;
