//! Follows the heads that other instances move: by the mirror's change log at each tick, and while
//! Redis can't be asked by the journal, less often.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::directory::{LiveEntry, SessionHandle};
use super::feed;
use super::services::{Services, Unmirrored};
use super::session::MirrorAgain;
use crate::domain::rank;
use crate::hot::HotError;
use crate::hot::changes::{CHANGES_MAX, Change, Cursor, Pulse};
use crate::hot::keys::Bucket;
use crate::journal::JournalError;
use crate::journal::votes::SessionHead;

/// The change logs are asked after so long also without a sign of a change: it is lost with who dies before giving it,
/// and the previous release gives none.
const ASKED_ANYWAY: Duration = Duration::from_secs(5);

/// How far this instance has read the change logs.
#[derive(Default)]
pub(super) struct Follower {
    cursors: BTreeMap<Bucket, Cursor>,
    /// The pulse that was heard before the logs were last asked, and when that was.
    heard: Option<(Pulse, Instant)>,
}

/// What a look at the change logs brought.
#[derive(Default)]
pub(super) struct Looked {
    /// Buckets whose changes may have been missed.
    pub(super) lost: Vec<Bucket>,
    /// Sessions whose mirrored state is newer than what is known here.
    changed: Vec<Uuid>,
}

impl Follower {
    /// Asks what changed in these buckets; forgets the others.
    ///
    /// # Errors
    /// [`HotError`] when Redis can't be asked; the next look goes on where this one began.
    pub(super) async fn look(&mut self, services: &Services, buckets: &[Bucket]) -> Result<Looked, HotError> {
        self.cursors.retain(|bucket, _| buckets.contains(bucket));
        let mut looked = Looked::default();
        if buckets.is_empty() {
            return Ok(looked);
        }
        // Heard first: what changes while the logs are asked changes the pulse again.
        let pulse = services.hot.pulse().await?;
        if self.is_quiet(&pulse, buckets) {
            return Ok(looked);
        }
        let cursor = |bucket: &Bucket| self.cursors.get(bucket).cloned().unwrap_or_default();
        let asked: Vec<(Bucket, Cursor)> = buckets.iter().map(|bucket| (*bucket, cursor(bucket))).collect();
        let mut complete = true;
        for changes in services.hot.changes_since(&asked).await? {
            complete &= changes.changed.len() < CHANGES_MAX;
            self.cursors.insert(changes.bucket, changes.cursor);
            if changes.reset {
                looked.lost.push(changes.bucket);
            }
            let news = changes.changed.iter().filter(|change| is_news(services, change));
            looked.changed.extend(news.map(|change| change.streamer_id));
        }
        self.heard = complete.then(|| (pulse, Instant::now()));
        Ok(looked)
    }

    /// Whether nothing has changed since the logs of all these buckets were asked.
    fn is_quiet(&self, pulse: &Pulse, buckets: &[Bucket]) -> bool {
        let same = |(heard, asked): &(Pulse, Instant)| heard == pulse && asked.elapsed() < ASKED_ANYWAY;
        self.heard.as_ref().is_some_and(same)
            && buckets.iter().all(|bucket| self.cursors.contains_key(bucket))
    }
}

/// Whether a change is news to a session actor here. One that is being started reads the head when it is there.
fn is_news(services: &Services, change: &Change) -> bool {
    let handle = services.directory.session(change.streamer_id);
    handle.is_some_and(|handle| version_of(&handle) < change.version)
}

fn version_of(handle: &SessionHandle) -> i64 {
    handle.version.load(Ordering::Acquire)
}

/// Reads what changed, and tells the session actors.
pub(super) async fn take(services: &Arc<Services>, looked: &Looked) {
    if looked.changed.is_empty() {
        return;
    }
    let read = services.hot.read_all(&looked.changed, services.clock.now()).await;
    let Ok(sessions) = read else { return services.restore_later(looked.changed.iter().copied()) };
    for (streamer_id, session) in looked.changed.iter().zip(sessions) {
        match session {
            Some(session) => services.follow(*streamer_id, session.session_id, session.session),
            // It has ended, or the mirror is gone meanwhile: the journal knows.
            None => services.restore_later([*streamer_id]),
        }
    }
}

/// Asks the journal which of these streamers' sessions have moved, and tells their actors, and Redis, which may have
/// lost it. Answers whose actors know a state then.
///
/// # Errors
/// [`JournalError`] when the journal can't be asked.
pub(super) async fn restore(
    services: &Arc<Services>,
    streamer_ids: &[Uuid],
) -> Result<Vec<Uuid>, JournalError> {
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for streamer_id in streamer_ids {
        match known_of(services, *streamer_id) {
            Known::Head(session_id, version) => known.push((session_id, version)),
            Known::Nothing => unknown.push(*streamer_id),
            Known::NoActor => {}
        }
    }
    let heads = if known.is_empty() { Vec::new() } else { services.vote_journal.newer_heads(&known).await? };
    for SessionHead { session_id, head } in heads {
        let streamer_id = head.streamer_id;
        let live = services.directory.by_streamer(streamer_id);
        let is_same =
            |live: &LiveEntry| live.session_id == session_id && live.config.version == head.config_version;
        match live.filter(|live| head.ended_at.is_none() && is_same(live)) {
            Some(live) => {
                services.mirror_later(Unmirrored { live, session: head.clone() });
                services.follow(streamer_id, session_id, head);
            }
            // Something else has changed as well.
            None => unknown.push(streamer_id),
        }
    }
    let mut told: BTreeSet<Uuid> =
        streamer_ids.iter().copied().filter(|id| knows_a_state(services, *id)).collect();
    if !unknown.is_empty() {
        for entry in services.vote_journal.entries(&unknown).await? {
            let (streamer_id, session_id) =
                (entry.streamer.id, entry.live.as_ref().map(|live| live.session_id));
            let config_version = entry.streamer.config.version;
            feed::adopt(services, entry);
            // Actors heed only what agrees with the directory: something newer may be on its way there.
            let live = services.directory.by_streamer(streamer_id);
            if live.is_none_or(|live| {
                session_id == Some(live.session_id) && live.config.version == config_version
            }) {
                told.insert(streamer_id);
            }
        }
    }
    Ok(told.into_iter().collect())
}

fn knows_a_state(services: &Services, streamer_id: Uuid) -> bool {
    services.directory.session(streamer_id).is_some_and(|handle| version_of(&handle) > 0)
}

/// What an actor of this instance knows of its session.
enum Known {
    /// The session and its stream version.
    Head(Uuid, i64),
    /// Nothing of the streamer's live session.
    Nothing,
    NoActor,
}

fn known_of(services: &Services, streamer_id: Uuid) -> Known {
    let Some(handle) = services.directory.session(streamer_id) else { return Known::NoActor };
    let (ordinal, version) = rank::split(version_of(&handle));
    match services.directory.by_streamer(streamer_id).filter(|live| live.ordinal == ordinal) {
        Some(live) => Known::Head(live.session_id, version),
        None => Known::Nothing,
    }
}

/// Has these streamers' sessions written to Redis: their states as their actors know them, and who holds them as the
/// journal does.
///
/// # Errors
/// [`JournalError`] when the journal can't be asked.
pub(super) async fn rewrite(services: &Services, streamer_ids: &[Uuid]) -> Result<(), JournalError> {
    for holders in services.vote_journal.holders(streamer_ids).await? {
        let Some(handle) = services.directory.session(holders.streamer_id) else { continue };
        // Only a closed mailbox refuses; one that is rebuilt is told its state, which is mirrored, too.
        if handle.address.try_send(MirrorAgain).is_err() {
            continue;
        }
        services.note_holders_later(holders);
    }
    Ok(())
}
