//! Keeps the directory fed: what the journal says has changed reaches the directory and the
//! session actors of this instance.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use uuid::Uuid;

use super::services::{Services, Unmirrored};
use super::session::Adopt;
use super::upkeep;
use crate::journal::sessions::{DirectoryCursor, Entry, News, listen};
use crate::journal::{JournalError, JournalOptions};

/// Notifications may be lost: the journal is asked at least this often.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Between two tries to listen again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Follows the journal's directory.
pub struct Feed {
    services: Arc<Services>,
    /// Where the next question begins; none: everything is asked for. Held while a question is under
    /// way, so that they don't overtake each other.
    cursor: Mutex<Option<DirectoryCursor>>,
    /// PostgreSQL may be another server now, whose transactions are numbered anew.
    start_over: AtomicBool,
}

impl Feed {
    /// A feed that has asked nothing yet.
    pub fn new(services: Arc<Services>) -> Feed {
        Feed { services, cursor: Mutex::new(None), start_over: AtomicBool::new(false) }
    }

    /// Asks the journal once, and brings directory and actors up to date.
    ///
    /// # Errors
    /// [`JournalError`] when the journal can't be asked; nothing was changed then.
    pub async fn refresh(&self) -> Result<(), JournalError> {
        let mut cursor = self.cursor.lock().await;
        if self.start_over.swap(false, Ordering::AcqRel) {
            *cursor = None;
        }
        let known = if cursor.is_none() { self.services.directory.streamers() } else { Vec::new() };
        let (entries, next) = self.services.vote_journal.directory_since(*cursor).await?;
        let listed: HashSet<Uuid> = entries.iter().map(|entry| entry.streamer.id).collect();
        for entry in entries {
            if self.services.directory.contradicts(&entry) {
                upkeep::note_desync(&self.services, 1, "the directory");
            }
            adopt(&self.services, entry);
        }
        // A full answer lists live sessions only: those that are missing may have ended.
        let missing: Vec<Uuid> = known.into_iter().filter(|known| !listed.contains(known)).collect();
        if !missing.is_empty() {
            for entry in self.services.vote_journal.entries(&missing).await? {
                adopt(&self.services, entry);
            }
        }
        *cursor = Some(next);
        self.services.standing.note_followed();
        Ok(())
    }

    /// Whether the feed has seen all changes up to this one.
    pub async fn has_passed(&self, changed: DirectoryCursor) -> bool {
        self.cursor.lock().await.is_some_and(|cursor| cursor.covers(changed))
    }

    /// Asks for everything with the next question: after a new connection PostgreSQL may be another
    /// server, or one that was restored.
    pub fn start_over(&self) {
        self.start_over.store(true, Ordering::Release);
        self.services.directory_changed.notify_one();
    }

    /// Takes what PostgreSQL notified of.
    pub fn told(&self, news: News) {
        match news {
            News::Directory => self.services.directory_changed.notify_one(),
            News::Heads(moved) => {
                let here = |streamer_id: &Uuid| self.services.directory.session(*streamer_id).is_some();
                self.services.restore_later(moved.into_iter().filter(here));
            }
        }
    }

    /// Follows the journal for as long as the instance runs.
    pub async fn follow(self: Arc<Self>) {
        let mut up = true;
        loop {
            let told = self.services.directory_changed.notified();
            let _ = tokio::time::timeout(ASK_EVERY, told).await;
            match self.refresh().await {
                Ok(()) if !up => {
                    tracing::info!("the directory is followed again");
                    up = true;
                }
                Err(error) if up => {
                    tracing::warn!(%error, "changes of sessions and settings can't be followed");
                    up = false;
                }
                Ok(()) | Err(_) => {}
            }
        }
    }
}

/// Brings directory and actor up to date with one streamer.
pub fn adopt(services: &Services, entry: Entry) {
    let streamer_id = entry.streamer.id;
    let known = services.directory.by_streamer(streamer_id).is_some();
    let live = services.directory.adopt(&entry);
    if known && live.is_none() {
        services.forget_later(streamer_id, entry.last_ordinal);
    }
    let Some(handle) = services.directory.session(streamer_id) else { return };
    if let (Some(live), Some(told)) = (&live, &entry.live) {
        services.mirror_later(Unmirrored { live: Arc::clone(live), session: told.head.clone() });
        services.note_holders_later(told.holders.clone());
    }
    // Only a closed mailbox refuses: then there is nobody to tell.
    if handle.address.try_send(Adopt { entry: Arc::new(entry), live }).is_err() {
        tracing::debug!(%streamer_id, "a session actor is gone and needs no news");
    }
}

/// Listens for PostgreSQL's notifications for as long as the instance runs.
pub async fn listen_always(url: String, options: JournalOptions, feed: Arc<Feed>) {
    loop {
        let connected = Arc::clone(&feed);
        let listening = listen(&url, &options, move || connected.start_over(), |news| feed.told(news)).await;
        if let Err(error) = listening {
            tracing::debug!(%error, "notifications of the journal ended");
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}
