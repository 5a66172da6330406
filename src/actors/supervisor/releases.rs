//! Letting go of sessions, after the last overlay here has left.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use uuid::Uuid;

use super::Supervisor;
use crate::actors::services::Services;

/// Before another try to let go of a session.
const RELEASE_AGAIN: Duration = Duration::from_secs(1);
/// Sessions that are let go of at a time.
const RELEASES_AT_ONCE: usize = 4;

/// How far it is with letting go of a session.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) enum Release {
    /// It is a session's turn to be let go of.
    Due {
        streamer_id: Uuid,
        place: OwnedSemaphorePermit,
    },
    Done {
        streamer_id: Uuid,
        released: bool,
    },
}

/// Whose turn it is to let go of a session, and where it is told.
///
/// Who waits for a turn is a task by itself: an actor polls all futures that it waits for whenever one of them may
/// go on, and here may be thousands.
pub(super) struct Turns {
    places: Arc<Semaphore>,
    told: mpsc::Sender<Release>,
}

impl Turns {
    /// Turns, and what comes of them.
    pub(super) fn new() -> (Turns, mpsc::Receiver<Release>) {
        let (told, releases) = mpsc::channel(RELEASES_AT_ONCE);
        (Turns { places: Arc::new(Semaphore::new(RELEASES_AT_ONCE)), told }, releases)
    }
}

impl Handler<Release> for Supervisor {
    type Result = ();

    fn handle(&mut self, release: Release, context: &mut Self::Context) {
        match release {
            Release::Due { streamer_id, place } => self.release_now(streamer_id, place, context),
            Release::Done { streamer_id, released } => self.released(streamer_id, released, context),
        }
    }
}

impl Supervisor {
    /// Lets go of a session whose last overlay here has left, unless another has come meanwhile.
    pub(super) fn release(&mut self, streamer_id: Uuid) {
        let seated = self.services.directory.session(streamer_id);
        if seated.is_some_and(|handle| handle.seats.load(Ordering::Acquire) > 0)
            || !self.held.remove(streamer_id)
        {
            return;
        }
        self.count_sessions();
        self.let_go(streamer_id);
    }

    pub(super) fn let_go(&mut self, streamer_id: Uuid) {
        self.releasing.insert(streamer_id);
        if !self.opening.is_empty() {
            // One of the cold starts under way may be this streamer's, by a new URL.
            self.released_meanwhile.insert(streamer_id);
        }
        let (places, told) = (Arc::clone(&self.turns.places), self.turns.told.clone());
        actix::spawn(async move {
            if let Ok(place) = places.acquire_owned().await {
                // A supervisor that is gone needs no telling.
                let _ = told.send(Release::Due { streamer_id, place }).await;
            }
        });
    }

    /// Lets go of a session whose turn it is, unless overlays have come back or PostgreSQL has gone meanwhile.
    fn release_now(&mut self, streamer_id: Uuid, place: OwnedSemaphorePermit, context: &mut Context<Self>) {
        let wanted = self.after_release.contains_key(&streamer_id);
        if wanted || !self.services.standing.journal_circuit.is_up() {
            return self.released(streamer_id, false, context);
        }
        let (services, told) = (Arc::clone(&self.services), self.turns.told.clone());
        actix::spawn(async move {
            let released = actix::spawn(async move { release(&services, streamer_id).await }).await;
            drop(place);
            let released = released.unwrap_or(false);
            let _ = told.send(Release::Done { streamer_id, released }).await;
        });
    }

    fn released(&mut self, streamer_id: Uuid, released: bool, context: &mut Context<Self>) {
        self.releasing.remove(&streamer_id);
        self.doubtful.remove(&streamer_id);
        if !released {
            // Whether it is held is unknown: an overlay that comes needs a cold start, and if none
            // does, it is let go of again.
            self.held.insert(streamer_id);
            self.doubtful.insert(streamer_id);
            context.run_later(RELEASE_AGAIN, move |supervisor, _| supervisor.services.vacated(streamer_id));
        }
        for overlay_uuid in self.after_release.remove(&streamer_id).unwrap_or_default() {
            self.start_cold(overlay_uuid, context);
        }
    }
}

/// Lets go of a session; whether that is journaled.
async fn release(services: &Services, streamer_id: Uuid) -> bool {
    match services.journal.release(streamer_id).await {
        Ok(holders) => {
            holders.into_iter().for_each(|holders| services.note_holders_later(holders));
            true
        }
        Err(error) => {
            tracing::debug!(%error, %streamer_id, "a session can't be released yet");
            false
        }
    }
}
