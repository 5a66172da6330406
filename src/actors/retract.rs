//! Takes votes back: of messages that were deleted, and of viewers who were banned or timed out.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::directory::LiveEntry;
use super::services::Services;
use crate::journal::retraction::{Retract, Retracted};
use crate::journal::{Journal, JournalError};

/// Under way at a time: each may read and fold all votes of a session.
const AT_ONCE: usize = 2;
/// Under way or waiting, at most.
const WAITING_MAX: usize = 200;

/// Whose votes are not to count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unwanted {
    /// A chat message's, by its id: it was deleted.
    Message(String),
    /// All so far of a viewer, by their id on Twitch: they were banned or timed out.
    Viewer(String),
}

/// Takes votes back, a few at a time.
#[derive(Clone)]
pub struct Retractor {
    services: Arc<Services>,
    journal: Journal,
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

impl Retractor {
    /// One of an instance; `journal` is not the votes', who have to be quick.
    pub fn new(services: Arc<Services>, journal: Journal) -> Retractor {
        let (places, turns) = (Arc::new(Semaphore::new(WAITING_MAX)), Arc::new(Semaphore::new(AT_ONCE)));
        Retractor { services, journal, places, turns }
    }

    /// Takes votes back from a live session, and makes its new state known: to this instance's directory and actors at
    /// once, to others by the journal. In a long session it takes seconds.
    ///
    /// # Errors
    /// [`JournalError::Busy`] when too many others wait, or the session was changed by others all the time;
    /// [`JournalError`] when PostgreSQL is away. It may have happened, and may be repeated.
    pub async fn retract(
        &self,
        live: &LiveEntry,
        unwanted: Unwanted,
        correlation_id: &str,
    ) -> Result<Retracted, JournalError> {
        let crowded = || JournalError::Busy("too many votes are being taken back".into());
        let _place = self.places.try_acquire().map_err(|_| crowded())?;
        // Nobody closes it.
        let _turn = self.turns.acquire().await.map_err(|_| crowded())?;
        let what = match unwanted {
            Unwanted::Message(message_id) => Retract::Messages(vec![message_id]),
            Unwanted::Viewer(viewer_id) => Retract::Viewer(live.viewer_hash(&viewer_id)),
        };
        let retracted =
            self.journal.retract_votes(live.streamer_id, live.session_id, &what, correlation_id).await?;
        if retracted.votes > 0 {
            tracing::debug!(session_id = %live.session_id, votes = retracted.votes, "votes were taken back");
            self.services.directory_changed.notify_one();
        }
        Ok(retracted)
    }
}
