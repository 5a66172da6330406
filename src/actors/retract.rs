//! Takes votes back: of messages that were deleted, and of viewers who were banned or timed out.
//!
//! Each time may read all votes of a session, so what is wanted while one is under way is done together in the next. A
//! viewer's votes are looked for a second time, for those that were on their way to the journal at the ban.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex as Turn, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use super::directory::LiveEntry;
use super::services::Services;
use crate::journal::retraction::{Retract, Retracted};
use crate::journal::{Journal, JournalError};

/// Sessions from which votes are taken back at a time.
const AT_ONCE: usize = 2;
/// Wishes that wait, are under way, or are looked at again soon, at most. Many of one session are done together.
const WISHES_MAX: usize = 1_000;
/// A vote is answered within 1.5 s of its arrival ([`super::cast`]), and journaled within twice that if it ever is,
/// unless it has to wait in the queue while PostgreSQL is away.
const ON_ITS_WAY_MAX: Duration = Duration::from_secs(3);
/// What events say as part of what they came about.
const CORRELATION: &str = "moderation";

/// Whose votes are not to count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unwanted {
    /// A chat message's, by its id: it was deleted.
    Message(String),
    /// All so far of a viewer, by their id on Twitch: they were banned or timed out.
    Viewer(String),
}

/// Takes votes back, from each session all that is wanted together.
#[derive(Clone)]
pub struct Retractor {
    services: Arc<Services>,
    journal: Journal,
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    gatherings: Arc<Gatherings>,
}

impl Retractor {
    /// One of an instance; `journal` is not the votes', who have to be quick.
    pub fn new(services: Arc<Services>, journal: Journal) -> Retractor {
        let (places, turns) = (Arc::new(Semaphore::new(WISHES_MAX)), Arc::new(Semaphore::new(AT_ONCE)));
        Retractor { services, journal, places, turns, gatherings: Arc::default() }
    }

    /// Takes votes back from a live session, and makes its new state known: to this instance's directory and actors at
    /// once, to others by the journal. `arrived` is when it was told to: what a viewer says later counts. Answers how
    /// many votes were taken back, those that others wanted at the same time among them. In a long session it takes
    /// seconds, and goes on by itself when this is not awaited to its end; a failure is logged then. Counts each vote in
    /// the metrics.
    ///
    /// To be called on a runtime of actix.
    ///
    /// # Errors
    /// [`JournalError::Busy`] when too much else is to be taken back, or the session was changed by others all the time;
    /// [`JournalError`] when PostgreSQL is away. It may have happened, and may be repeated.
    pub async fn retract(
        &self,
        live: &LiveEntry,
        unwanted: Unwanted,
        arrived: Instant,
    ) -> Result<usize, JournalError> {
        let crowded = |_| JournalError::Busy("too many votes are being taken back".into());
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(crowded)?;
        let what = match unwanted {
            Unwanted::Message(message_id) => Retract::message(message_id),
            Unwanted::Viewer(viewer_id) => {
                Retract::viewer(live.viewer_hash(&viewer_id), self.services.clock.at(arrived))
            }
        };
        let (tell, told) = oneshot::channel();
        let gathering = self.gatherings.of(live.streamer_id, live.session_id);
        gathering.add(vec![Wish { what, arrived, seen: 0, tell: Some(tell), _place: place }]);
        let retractor = self.clone();
        actix::spawn(async move { retractor.look_after(&gathering).await });
        told.await.unwrap_or_else(|_| Err(JournalError::Busy("taking votes back was broken off".into())))
    }

    /// Sees to it that all that is wanted now is done, and done again where votes may have been missed.
    async fn look_after(&self, gathering: &Gathering) {
        let mut again = self.fulfil(gathering).await;
        while let Some(last) = again.iter().map(|wish| wish.arrived).max() {
            tokio::time::sleep_until(last + ON_ITS_WAY_MAX).await;
            gathering.add(again);
            again = self.fulfil(gathering).await;
        }
    }

    /// Takes all back that is wanted of a session. Answers for what that has to be done again.
    async fn fulfil(&self, gathering: &Gathering) -> Vec<Wish> {
        let _alone = gathering.turn.lock().await;
        if gathering.wishes().is_empty() {
            // Whoever had the turn before has taken them along.
            return Vec::new();
        }
        // Nobody closes it.
        let Ok(_turn) = self.turns.acquire().await else { return Vec::new() };
        let mut wishes = std::mem::take(&mut *gathering.wishes());
        let began = Instant::now();
        let outcome = self.retract_together(gathering, &wishes).await;
        tell(gathering, &mut wishes, &outcome);
        wishes.retain(|wish| wish.may_miss_votes(began));
        if let Ok(retracted) = outcome {
            wishes.iter_mut().for_each(|wish| wish.seen = retracted.seen);
        }
        wishes
    }

    async fn retract_together(
        &self,
        gathering: &Gathering,
        wishes: &[Wish],
    ) -> Result<Retracted, JournalError> {
        let mut what = Retract::default();
        wishes.iter().for_each(|wish| what.add(wish.what.clone()));
        let Gathering { streamer_id, session_id, .. } = *gathering;
        let of_viewers = wishes.iter().filter(|wish| wish.is_of_viewers());
        let seen = of_viewers.map(|wish| wish.seen).min().unwrap_or(0);
        let retracted = self.journal.retract_votes(streamer_id, session_id, &what, seen, CORRELATION).await?;
        if retracted.votes > 0 {
            tracing::debug!(%session_id, votes = retracted.votes, "votes were taken back");
            self.services.metrics.votes.retracted.inc_by(retracted.votes as u64);
            self.services.directory_changed.notify_one();
        }
        Ok(retracted)
    }
}

/// Answers all who wait. A failure is logged where somebody does not wait any more, who would tell of it.
fn tell(gathering: &Gathering, wishes: &mut [Wish], outcome: &Result<Retracted, JournalError>) {
    let mut unheard = false;
    for wish in wishes {
        let answer = outcome.clone().map(|retracted| retracted.votes);
        unheard |= wish.tell.take().is_none_or(|tell| tell.send(answer).is_err());
    }
    if let (Err(error), true) = (outcome, unheard) {
        let session_id = gathering.session_id;
        tracing::warn!(%error, %session_id, "votes that a moderator does not want could not be taken back");
    }
}

/// What somebody wants to be taken back.
struct Wish {
    what: Retract,
    arrived: Instant,
    /// The version of the session's stream up to which votes have been looked for already.
    seen: i64,
    /// None: nobody waits for it.
    tell: Option<oneshot::Sender<Result<usize, JournalError>>>,
    /// Given back when it is done.
    _place: OwnedSemaphorePermit,
}

impl Wish {
    fn is_of_viewers(&self) -> bool {
        !self.what.viewers.is_empty()
    }

    /// Whether votes that were cast before its arrival may have been on their way at this moment. A message's vote does
    /// not count when it comes later.
    fn may_miss_votes(&self, began: Instant) -> bool {
        self.is_of_viewers() && began < self.arrived + ON_ITS_WAY_MAX
    }
}

/// What waits to be taken back from one session.
struct Gathering {
    streamer_id: Uuid,
    session_id: Uuid,
    /// Who has it takes votes back.
    turn: Turn<()>,
    wishes: Mutex<Vec<Wish>>,
}

impl Gathering {
    fn add(&self, wishes: Vec<Wish>) {
        self.wishes().extend(wishes);
    }

    fn wishes(&self) -> MutexGuard<'_, Vec<Wish>> {
        // Nothing in here can panic half-way, so a poisoned lock still guards whole data.
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sessions from which votes are being taken back; each is known as long as somebody looks after it.
#[derive(Default)]
struct Gatherings(Mutex<HashMap<Uuid, Weak<Gathering>>>);

impl Gatherings {
    fn of(&self, streamer_id: Uuid, session_id: Uuid) -> Arc<Gathering> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gathering) = known.get(&session_id).and_then(Weak::upgrade) {
            return gathering;
        }
        known.retain(|_, gathering| gathering.strong_count() > 0);
        let (turn, wishes) = (Turn::default(), Mutex::default());
        let gathering = Arc::new(Gathering { streamer_id, session_id, turn, wishes });
        known.insert(session_id, Arc::downgrade(&gathering));
        gathering
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Millis;

    fn wish(what: Retract, arrived: Instant) -> Wish {
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Wish { what, arrived, seen: 0, tell: None, _place: place }
    }

    #[test]
    fn what_is_wanted_of_one_session_is_gathered_until_nobody_looks_after_it() {
        let gatherings = Gatherings::default();
        let (streamer_id, session_id) = (Uuid::now_v7(), Uuid::now_v7());
        let first = gatherings.of(streamer_id, session_id);
        let second = gatherings.of(streamer_id, session_id);
        let other = gatherings.of(Uuid::now_v7(), Uuid::now_v7());
        let now = Instant::now();
        first.add(vec![wish(Retract::message("a".into()), now)]);
        second.add(vec![wish(Retract::message("b".into()), now)]);
        assert_eq!((first.wishes().len(), other.wishes().len()), (2, 0));
        drop((first, second));
        assert!(gatherings.of(streamer_id, session_id).wishes().is_empty());
        gatherings.of(Uuid::now_v7(), Uuid::now_v7());
        assert_eq!(gatherings.0.lock().unwrap().len(), 2, "one that is looked after, and the newest");
    }

    #[test]
    fn only_votes_of_viewers_are_looked_for_again_and_only_while_some_may_be_on_their_way() {
        let now = Instant::now();
        let viewer = wish(Retract::viewer("one".into(), Millis(1)), now);
        assert!(viewer.may_miss_votes(now));
        assert!(!viewer.may_miss_votes(now + ON_ITS_WAY_MAX));
        assert!(!wish(Retract::message("a".into()), now).may_miss_votes(now));
    }

    #[tokio::test]
    async fn everybody_is_told_how_many_votes_were_taken_back_once() {
        let gatherings = Gatherings::default();
        let gathering = gatherings.of(Uuid::now_v7(), Uuid::now_v7());
        let (mut wishes, mut told) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (tell, answer) = oneshot::channel();
            told.push(answer);
            wishes.push(Wish { tell: Some(tell), ..wish(Retract::default(), Instant::now()) });
        }
        tell(&gathering, &mut wishes, &Ok(Retracted { votes: 3, seen: 7 }));
        for answer in told {
            assert_eq!(answer.await.unwrap().unwrap(), 3);
        }
        assert!(wishes.iter().all(|wish| wish.tell.is_none()));
    }
}
