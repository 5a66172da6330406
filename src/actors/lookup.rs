//! Broadcasters that the directory does not know: the journal is asked once, for many at a time.
//! Closes the moment between a session's start elsewhere and the news of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};

use super::directory::LiveEntry;
use super::feed;
use super::services::Services;
use super::watch;

/// Chat messages that wait for an answer; more are taken for ones without a session.
const WAITING_MAX: usize = 10_000;
/// Broadcasters asked for at a time.
const ASKED_MAX: usize = 500;
/// From a question to its answer, at most.
const ANSWER_MAX: Duration = Duration::from_millis(1200);
/// Of that, what the journal may take.
const JOURNAL_MAX: Duration = Duration::from_millis(800);

/// A broadcaster, and whether it is certain that there is no session.
type Question = (String, oneshot::Sender<bool>);

/// Nobody can tell whether a broadcaster has a live session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("whether this broadcaster has a session can't be told just now")]
pub struct Unknown;

/// The way to ask for broadcasters.
#[derive(Clone)]
pub struct Lookup {
    services: Arc<Services>,
    questions: mpsc::Sender<Question>,
}

impl Lookup {
    /// Starts to answer on this thread's runtime.
    pub fn start(services: Arc<Services>) -> Lookup {
        let (questions, asked) = mpsc::channel(WAITING_MAX);
        let asked = Arc::new(Mutex::new(asked));
        let served = Arc::clone(&services);
        actix::spawn(async move {
            let work = || {
                let (services, asked) = (Arc::clone(&served), Arc::clone(&asked));
                async move { serve(&services, &mut *asked.lock().await).await }
            };
            watch::keep_running("the look-up of broadcasters", &served, work).await;
        });
        Lookup { services, questions }
    }

    /// The live session of a Twitch broadcaster. Asks the journal for one that was never heard of;
    /// after that the feed tells when a session starts, as long as it can ask.
    ///
    /// # Errors
    /// [`Unknown`] when the journal can't be asked and Redis doesn't say that there is none either.
    pub async fn find(&self, twitch_user_id: &str) -> Result<Option<Arc<LiveEntry>>, Unknown> {
        let directory = &self.services.directory;
        if let Some(live) = directory.by_broadcaster(twitch_user_id) {
            return Ok(Some(live));
        }
        if directory.is_absent(twitch_user_id) && self.services.standing.is_followed() {
            return Ok(None);
        }
        let (answer, answered) = oneshot::channel();
        self.questions.try_send((twitch_user_id.to_owned(), answer)).map_err(|_| Unknown)?;
        let known = tokio::time::timeout(ANSWER_MAX, answered).await;
        match (directory.by_broadcaster(twitch_user_id), known) {
            (Some(live), _) => Ok(Some(live)),
            (None, Ok(Ok(true))) => Ok(None),
            (None, _) => Err(Unknown),
        }
    }
}

async fn serve(services: &Services, asked: &mut mpsc::Receiver<Question>) {
    let mut questions = Vec::new();
    while asked.recv_many(&mut questions, ASKED_MAX).await > 0 {
        let wanted: BTreeSet<String> = questions.iter().map(|(id, _)| id.clone()).collect();
        let wanted: Vec<String> = wanted.into_iter().collect();
        let absent = match ask_journal(services, &wanted).await {
            Some(absent) => {
                services.directory.note_absent(absent.clone());
                absent
            }
            None => ask_redis(services, &wanted).await,
        };
        let absent: BTreeSet<String> = absent.into_iter().collect();
        for (id, answer) in questions.drain(..) {
            // Who has gone meanwhile needs no answer.
            let _ = answer.send(absent.contains(&id));
        }
    }
}

/// Which of these broadcasters have no live session; `None` when the journal does not tell in time.
async fn ask_journal(services: &Services, wanted: &[String]) -> Option<Vec<String>> {
    if !services.standing.journal_circuit.is_up() {
        return None;
    }
    let question = services.vote_journal.live_broadcasters(wanted);
    let entries = tokio::time::timeout(JOURNAL_MAX, question).await.ok()?.ok()?;
    entries.into_iter().for_each(|entry| feed::adopt(services, entry));
    let is_absent = |id: &&String| services.directory.by_broadcaster(id).is_none();
    Some(wanted.iter().filter(is_absent).cloned().collect())
}

/// Which of these broadcasters have no session in the mirror either, which other instances write: then
/// there is none, as far as anybody can tell. None of them when Redis does not tell.
async fn ask_redis(services: &Services, wanted: &[String]) -> Vec<String> {
    match services.hot.are_live(wanted).await {
        Ok(live) => wanted.iter().zip(live).filter(|(_, live)| !live).map(|(id, _)| id.clone()).collect(),
        Err(_) => Vec::new(),
    }
}
