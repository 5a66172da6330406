//! What an instance does now and then: it says that it runs, looks whether PostgreSQL and Redis are
//! there, ends sessions that nobody holds, and compares what it knows with the journal.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;
use uuid::Uuid;

use super::feed::{self, Feed};
use super::follower;
use super::services::Services;
use crate::domain::time::Millis;
use crate::hot::refs::Mark;
use crate::journal::JournalError;
use crate::journal::sessions::{EndedSession, Lease};

/// Says that this instance is running, which also tells PostgreSQL's time; then drops what instances
/// hold that no longer say so. `None` when PostgreSQL does not answer.
pub async fn renew_lease(services: &Services, unbroken: bool) -> Option<Lease> {
    let asked = Instant::now();
    let lease = services.vote_journal.renew_lease(services.options.lease, unbroken).await;
    services.metrics.dependency_up.with_label_values(&["postgres"]).set(i64::from(lease.is_ok()));
    match lease {
        Ok(lease) => {
            services.clock.sample(lease.now, asked);
            // After an outage all leases have lapsed: everybody is to have had the time to take another.
            if lease.now.0 - lease.since.0 >= services.options.lease.as_millis() as i64 {
                drop_lapsed(services).await;
            }
            Some(lease)
        }
        Err(error) => {
            tracing::debug!(%error, "the lease can't be renewed");
            None
        }
    }
}

async fn drop_lapsed(services: &Services) {
    match services.vote_journal.drop_lapsed().await {
        Ok(holders) if !holders.is_empty() => {
            tracing::info!(sessions = holders.len(), "an instance is gone: its holds are dropped");
            holders.into_iter().for_each(|holders| services.note_holders_later(holders));
        }
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "holds of instances that are gone can't be dropped yet"),
    }
}

/// Looks whether Redis is there; the one way back after it was away.
pub async fn probe_redis(services: &Services) {
    let answer = services.hot.probe().await;
    services.metrics.dependency_up.with_label_values(&["redis"]).set(i64::from(answer.is_ok()));
    services.standing.note_redis(answer);
}

/// Looks whether PostgreSQL is there again.
pub async fn probe_journal(services: &Services) {
    if services.vote_journal.ping().await.is_ok() {
        services.standing.journal_answered();
    }
}

/// Ends the sessions that Redis names as held by nobody for long enough, if the journal agrees.
pub async fn end_orphans(services: &Services) {
    let Ok(named) = orphans(services).await else { return };
    if named.is_empty() {
        return;
    }
    match services.vote_journal.end_orphans(Some(&named), services.options.orphan).await {
        Ok(ended) => note_ended(services, &ended),
        Err(error) => tracing::debug!(%error, "sessions that nobody holds can't be ended yet"),
    }
}

/// The streamers whose sessions Redis has as held by nobody for long enough.
async fn orphans(services: &Services) -> Result<Vec<Uuid>, crate::hot::HotError> {
    let orphan_ms = services.options.orphan.as_millis() as i64;
    services.hot.orphans(Millis(services.clock.now().0 - orphan_ms)).await
}

fn note_ended(services: &Services, ended: &[EndedSession]) {
    for session in ended {
        tracing::info!(streamer_id = %session.streamer_id, session_id = %session.session_id,
            "a session that nobody held was ended");
        services.forget_later(session.streamer_id, session.ordinal);
    }
    if !ended.is_empty() {
        services.metrics.repairs.orphans_ended.inc_by(ended.len() as u64);
        services.directory_changed.notify_one();
    }
}

/// Compares what is known here and in Redis with the journal, and mends what differs; in Redis only what it has of
/// the streamers `mirrored`. Answers the streamers whose session this instance holds as the journal knows it.
///
/// # Errors
/// [`JournalError`] when the journal can't be asked.
pub async fn compare(
    services: &Arc<Services>,
    feed: &Feed,
    held: &[Uuid],
    mirrored: &[Uuid],
) -> Result<Vec<Uuid>, JournalError> {
    // What Redis forgot, and what it names wrongly.
    note_ended(services, &services.vote_journal.end_orphans(None, services.options.orphan).await?);
    forget_false_orphans(services).await?;
    compare_directory(services, feed).await?;
    follower::restore(services, held).await?;
    compare_mirror(services, mirrored).await?;
    if let Ok(bytes) = services.hot.used_memory().await {
        services.metrics.redis_memory_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
    services.vote_journal.held().await
}

async fn forget_false_orphans(services: &Services) -> Result<(), JournalError> {
    let Ok(named) = orphans(services).await else { return Ok(()) };
    if named.is_empty() {
        return Ok(());
    }
    for entry in services.vote_journal.entries(&named).await? {
        let unheld = entry.live.as_ref().is_some_and(|live| live.holders.unheld_since.is_some());
        if unheld {
            continue;
        }
        if entry.live.is_none() {
            services.forget_later(entry.streamer.id, entry.last_ordinal);
        }
        // Redis being away meanwhile: the next comparison will do.
        let _ = services.hot.forget_orphan(entry.streamer.id).await;
    }
    Ok(())
}

/// Finds entries of the directory that the feed should have corrected, and did not.
async fn compare_directory(services: &Services, feed: &Feed) -> Result<(), JournalError> {
    if services.vote_journal.live_digest().await? == services.directory.digest() {
        return Ok(());
    }
    let journaled = services.vote_journal.live_versions().await?;
    let mut wrong = Vec::new();
    for versions in &journaled {
        // What has changed since the feed asked last is no disagreement, but news on its way.
        if services.directory.is_behind(versions) && feed.has_passed(versions.changed).await {
            wrong.push(versions.streamer_id);
        }
    }
    note_desync(services, wrong.len(), "the directory");
    let live: BTreeSet<Uuid> = journaled.iter().map(|versions| versions.streamer_id).collect();
    wrong.extend(services.directory.streamers().into_iter().filter(|known| !live.contains(known)));
    for entry in services.vote_journal.entries(&wrong).await? {
        feed::adopt(services, entry);
    }
    Ok(())
}

/// Finds sessions of which the mirror has something else than the journal.
async fn compare_mirror(services: &Services, streamer_ids: &[Uuid]) -> Result<(), JournalError> {
    if !services.standing.is_mirroring() || streamer_ids.is_empty() {
        return Ok(());
    }
    // Asked before looking at what is known here: what moves meanwhile makes the mirror look behind.
    let Ok(marks) = services.hot.marks(streamer_ids).await else { return Ok(()) };
    let mut doubtful = Vec::new();
    for (streamer_id, mark) in streamer_ids.iter().zip(marks) {
        match mark {
            Some(mark) if is_doubtful(services, *streamer_id, &mark) => doubtful.push((*streamer_id, mark)),
            Some(mark) if mark.version == version_here(services, *streamer_id) => {}
            // Behind.
            Some(_) | None => services.rewrite_later([*streamer_id]),
        }
    }
    if doubtful.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = doubtful.iter().map(|(streamer_id, _)| *streamer_id).collect();
    let mut discarded = Vec::new();
    for entry in services.vote_journal.entries(&ids).await? {
        let Some(live) = &entry.live else { continue };
        let mark = doubtful.iter().find(|(streamer_id, _)| *streamer_id == entry.streamer.id);
        let Some((_, mark)) = mark else { continue };
        let version = live.head.frame_version();
        let other = mark.session_id != live.session_id || mark.config_version != live.head.config_version;
        if mark.version > version || (mark.version == version && other) {
            note_desync(services, 1, "the mirror");
            // What could not be discarded is found again.
            let _ = services.hot.discard(entry.streamer.id).await;
            discarded.push(entry.streamer.id);
        } else {
            feed::adopt(services, entry);
        }
    }
    if discarded.is_empty() {
        return Ok(());
    }
    // Read anew: by now others may have written something newer.
    let read = services.vote_journal.entries(&discarded).await;
    let entries = read.inspect_err(|_| services.rewrite_later(discarded))?;
    entries.into_iter().for_each(|entry| feed::adopt(services, entry));
    Ok(())
}

/// Whether the mirror has more than is known here, or something else.
fn is_doubtful(services: &Services, streamer_id: Uuid, mark: &Mark) -> bool {
    let version = version_here(services, streamer_id);
    let Some(live) = services.directory.by_streamer(streamer_id) else { return false };
    let other = mark.session_id != live.session_id || mark.config_version != live.config.version;
    mark.version > version || (mark.version == version && other)
}

fn version_here(services: &Services, streamer_id: Uuid) -> i64 {
    services.directory.session(streamer_id).map_or(0, |handle| handle.version.load(Ordering::Acquire))
}

/// Counts what disagreed with PostgreSQL though nothing was about to tell of it.
pub fn note_desync(services: &Services, found: usize, place: &str) {
    if found > 0 {
        tracing::warn!(found, place, "disagreed with PostgreSQL and is corrected");
        services.metrics.repairs.config_desync.inc_by(found as u64);
    }
}
