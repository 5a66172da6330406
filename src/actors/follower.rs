//! Follows the heads that other instances move: by the mirror's change log at each tick, and while
//! Redis can't be asked by the journal, less often.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::directory::SessionHandle;
use super::services::Services;
use crate::domain::rank;
use crate::hot::HotError;
use crate::hot::changes::{CHANGES_MAX, Change, Cursor, Pulse};
use crate::hot::keys::Bucket;
use crate::journal::JournalError;

/// The change logs are asked after so long also without a sign of a change, which may have been lost.
const ASKED_ANYWAY: Duration = Duration::from_secs(1);

/// How far this instance has read the change logs.
#[derive(Default)]
pub(super) struct Follower {
    cursors: BTreeMap<Bucket, Cursor>,
    /// The pulse that was heard before the logs were last asked, and when that was.
    heard: Option<(Pulse, Instant)>,
    /// Changes of streamers without an actor here, while cold starts are under way: one of them may be
    /// theirs, and have read the journal before the change.
    unclaimed: HashMap<Uuid, i64>,
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
    pub(super) async fn look(
        &mut self,
        services: &Services,
        buckets: &[Bucket],
        opening: bool,
    ) -> Result<Looked, HotError> {
        self.cursors.retain(|bucket, _| buckets.contains(bucket));
        if !opening {
            self.unclaimed.clear();
        }
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
            looked
                .changed
                .extend(changes.changed.iter().filter_map(|change| self.note(services, change, opening)));
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

    /// The streamer, if the change is news here.
    fn note(&mut self, services: &Services, change: &Change, opening: bool) -> Option<Uuid> {
        match services.directory.session(change.streamer_id) {
            Some(handle) => (version_of(&handle) < change.version).then_some(change.streamer_id),
            None => {
                if opening {
                    self.unclaimed.insert(change.streamer_id, change.version);
                }
                None
            }
        }
    }

    /// Whether a change newer than `version` was seen while the streamer's cold start was under way.
    pub(super) fn missed(&mut self, streamer_id: Uuid, version: i64) -> bool {
        self.unclaimed.remove(&streamer_id).is_some_and(|seen| seen > version)
    }
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

/// Asks the journal which of these streamers' sessions have moved, and tells their actors.
///
/// # Errors
/// [`JournalError`] when the journal can't be asked.
pub(super) async fn poll(services: &Arc<Services>, streamer_ids: &[Uuid]) -> Result<(), JournalError> {
    let known: Vec<(Uuid, i64)> =
        streamer_ids.iter().filter_map(|streamer_id| known(services, *streamer_id)).collect();
    if known.is_empty() {
        return Ok(());
    }
    for head in services.vote_journal.newer_heads(&known).await? {
        services.follow(head.head.streamer_id, head.session_id, head.head);
    }
    Ok(())
}

/// A session of this instance with the stream version that its actor knows.
fn known(services: &Services, streamer_id: Uuid) -> Option<(Uuid, i64)> {
    let handle = services.directory.session(streamer_id)?;
    let live = services.directory.by_streamer(streamer_id)?;
    let (ordinal, version) = rank::split(version_of(&handle));
    // Of an older session nothing is known of the live one.
    Some((live.session_id, if ordinal == live.ordinal { version } else { 0 }))
}
