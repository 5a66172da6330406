//! Keeps the directory fed: what the journal says has changed reaches the directory and the
//! session actors of this instance.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use uuid::Uuid;

use super::directory::LiveEntry;
use super::services::{Services, Unmirrored};
use super::session::Adopt;
use super::upkeep;
use crate::journal::sessions::{DirectoryCursor, Entry, News, listen};
use crate::journal::{JournalError, JournalOptions};

/// Notifications may be lost: the journal is asked at least this often.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Streamers that are read by one statement.
const READ_AT_ONCE: usize = 2_000;
/// Between two tries to listen again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Follows the journal's directory.
pub struct Feed {
    services: Arc<Services>,
    /// Held while a question is under way, so that they don't overtake each other.
    place: Mutex<Place>,
    /// PostgreSQL may be another server now, whose transactions are numbered anew.
    start_over: AtomicBool,
}

/// How far the feed has come.
#[derive(Default)]
struct Place {
    /// Where the next question begins; none: everything is asked for.
    cursor: Option<DirectoryCursor>,
    /// Whether everything has to be compared, too.
    compare: bool,
}

impl Feed {
    /// A feed that has asked nothing yet.
    pub fn new(services: Arc<Services>) -> Feed {
        Feed { services, place: Mutex::default(), start_over: AtomicBool::new(false) }
    }

    /// Asks the journal once, and brings directory and actors up to date.
    ///
    /// # Errors
    /// [`JournalError`] when the journal can't be asked; nothing was changed then.
    pub async fn refresh(&self) -> Result<(), JournalError> {
        let mut place = self.place.lock().await;
        place.compare |= self.start_over.swap(false, Ordering::AcqRel);
        let known_all = place.cursor.is_some();
        let (mut entries, next) = self.services.vote_journal.directory_since(place.cursor).await?;
        if place.compare && known_all {
            entries.extend(self.differing().await?);
            // Heads may have moved unseen as well.
            let here = self.services.directory.sessions();
            self.services.restore_later(here.into_iter().map(|(streamer_id, _)| streamer_id));
        }
        for entry in entries {
            if self.services.directory.contradicts(&entry) {
                upkeep::note_desync(&self.services, 1, "the directory");
            }
            adopt(&self.services, entry);
        }
        *place = Place { cursor: Some(next), compare: false };
        self.services.standing.note_followed();
        Ok(())
    }

    /// The streamers of whom other versions are known here than the journal has, as it has them.
    async fn differing(&self) -> Result<Vec<Entry>, JournalError> {
        let (journal, directory) = (&self.services.vote_journal, &self.services.directory);
        let known = directory.streamers();
        let live = journal.live_versions().await?;
        let listed: HashSet<Uuid> = live.iter().map(|versions| versions.streamer_id).collect();
        let other = live.iter().filter(|versions| directory.differs(versions)).map(|live| live.streamer_id);
        // Those that are not listed may have ended.
        let differing: Vec<Uuid> =
            other.chain(known.into_iter().filter(|known| !listed.contains(known))).collect();
        let mut entries = Vec::with_capacity(differing.len());
        for part in differing.chunks(READ_AT_ONCE) {
            entries.extend(journal.entries(part).await?);
        }
        Ok(entries)
    }

    /// Whether the feed has seen all changes up to this one.
    pub async fn has_passed(&self, changed: DirectoryCursor) -> bool {
        self.place.lock().await.cursor.is_some_and(|cursor| cursor.covers(changed))
    }

    /// Compares the versions of everything with the next question: after a new connection PostgreSQL may be another
    /// server, whose transactions are numbered anew.
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
    tell(services, entry, live);
}

/// Brings the directory and Redis up to date with a session that a recording holds or let go of: no actor may run for it.
pub fn adopt_recording(services: &Services, entry: Entry) {
    let streamer_id = entry.streamer.id;
    if let (Some(live), Some(told)) = (services.directory.adopt(&entry), &entry.live) {
        services.mirror_later(Unmirrored { live, session: told.head.clone() });
        services.note_holders_later(told.holders.clone());
    }
    if services.directory.session(streamer_id).is_some() {
        adopt(services, entry);
    }
    services.directory_changed.notify_one();
}

/// Tells Redis and the actor of the session, if one runs here, what the directory has made of an entry.
pub(super) fn tell(services: &Services, entry: Entry, live: Option<Arc<LiveEntry>>) {
    let streamer_id = entry.streamer.id;
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
