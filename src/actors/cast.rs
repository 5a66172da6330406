//! From a matched chat message to what became of its vote.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use actix::Addr;
use actix::prelude::SendError;
use tokio::sync::oneshot;

use super::directory::LiveEntry;
use super::feed;
use super::services::Services;
use super::session::{CastVote, VoteOutcome};
use super::supervisor::{EnsureSession, Supervisor};
use crate::domain::sentiment::Side;

/// From a vote's arrival to its answer, at most. Twitch wants one within a few seconds.
const ANSWER_MAX: Duration = Duration::from_millis(1500);

/// A chat message that matched a trigger.
pub struct Ballot<'a> {
    pub message_id: &'a str,
    pub viewer_id: &'a str,
    pub side: Side,
    pub arrived: Instant,
}

/// Casts a vote and waits until it is decided. A vote that comes too late for its session is cast
/// once more in the streamer's newer one, if there is one.
pub async fn cast(
    services: &Arc<Services>,
    supervisor: &Addr<Supervisor>,
    live: Arc<LiveEntry>,
    ballot: Ballot<'_>,
) -> VoteOutcome {
    let Some(_place) = services.directory.wait_for_vote(services.options.votes_waiting_max) else {
        return VoteOutcome::Unavailable;
    };
    let deadline = ballot.arrived + ANSWER_MAX;
    let answer = tokio::time::timeout_at(deadline, async {
        let outcome = cast_in(services, supervisor, Arc::clone(&live), &ballot).await;
        if outcome != VoteOutcome::Late {
            return outcome;
        }
        match newer_session(services, &live).await {
            Some(newer) => cast_in(services, supervisor, newer, &ballot).await,
            None => outcome,
        }
    });
    answer.await.unwrap_or(VoteOutcome::Unavailable)
}

/// The streamer's live session, if it is another one; the journal knows when nobody told us yet.
async fn newer_session(services: &Services, live: &LiveEntry) -> Option<Arc<LiveEntry>> {
    let newer =
        || services.directory.by_streamer(live.streamer_id).filter(|known| known.ordinal > live.ordinal);
    if let Some(newer) = newer() {
        return Some(newer);
    }
    let entry = services.vote_journal.entries(&[live.streamer_id]).await.ok()?.pop()?;
    feed::adopt(services, entry);
    newer()
}

async fn cast_in(
    services: &Arc<Services>,
    supervisor: &Addr<Supervisor>,
    live: Arc<LiveEntry>,
    ballot: &Ballot<'_>,
) -> VoteOutcome {
    let address = match services.directory.session(live.streamer_id) {
        Some(handle) => handle.address,
        // Mailbox errors mean that this instance is stopping; no actor, that it dies too often.
        None => match supervisor.send(EnsureSession(Arc::clone(&live))).await {
            Ok(Some(handle)) => handle.address,
            Ok(None) | Err(_) => return VoteOutcome::Unavailable,
        },
    };
    let (reply, outcome) = oneshot::channel();
    let vote = CastVote {
        live,
        message_id: ballot.message_id.to_owned(),
        viewer_id: ballot.viewer_id.to_owned(),
        side: ballot.side,
        arrived: ballot.arrived,
        reply,
    };
    match address.try_send(vote) {
        Ok(()) => outcome.await.unwrap_or(VoteOutcome::Unavailable),
        Err(SendError::Full(_) | SendError::Closed(_)) => VoteOutcome::Unavailable,
    }
}
