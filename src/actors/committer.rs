//! Group commit: takes the waiting votes of all sessions whenever it is free, so that while one
//! round trip is under way the next batch fills. No timer is involved.
//!
//! Votes go through the debounce ([`Debouncer`], Redis) and through the journal, which are two tasks, so that one
//! batch is judged while the one before is committed; then [`publish`] takes over, while the next batch is
//! on its way. Votes that could not be journaled in time go to the queue there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::Addr;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::Instant;
use uuid::Uuid;

use super::debouncer::{Debouncer, Inlets, Judged, Returned, UnusedClaim};
use super::directory::LiveEntry;
use super::publish::{self, Decision};
use super::services::Services;
use super::session::{Reply, SessionActor, VoteOutcome};
use super::watch;
use crate::domain::session::Session;
use crate::domain::vote::NewVote;
use crate::hot::debounce::Claimed;
use crate::journal::JournalError;
use crate::journal::votes::{AppendAnswer, Appended};

/// Votes of one commit at most: what PostgreSQL appends well within its share of a vote's time.
pub(super) const BATCH_MAX: usize = 1000;
/// Returns that wait for the debouncer.
const RETURNS_MAX: usize = 8;
/// Batches that are being shown and answered while the next ones are committed.
const FOLLOWERS_MAX: usize = 8;

/// A vote on its way to the journal, and who waits for it.
pub struct PendingVote {
    pub vote: NewVote,
    pub live: Arc<LiveEntry>,
    pub arrived: Instant,
    pub session: Addr<SessionActor>,
    pub reply: Reply,
}

/// The way into the committer.
#[derive(Clone)]
pub struct Committer {
    votes: mpsc::Sender<PendingVote>,
}

/// A vote with its place in the batch.
type Placed<'a> = (usize, &'a PendingVote);

impl Committer {
    /// Starts the committer on this thread's runtime. It ends when all its handles are gone.
    pub fn start(services: Arc<Services>) -> Committer {
        let (votes, waiting) = mpsc::channel(services.options.votes_waiting_max);
        // As many places: whoever waits for a vote has it in one of the two.
        let (judged, to_append) = mpsc::channel(services.options.votes_waiting_max);
        let (returned, returns) = mpsc::channel(RETURNS_MAX);
        // Kept here, so that votes that wait survive a task that fails.
        let inlets = Arc::new(Mutex::new(Inlets { votes: waiting, returns }));
        let debouncer = {
            let services = Arc::clone(&services);
            async move {
                let work = || {
                    let (services, inlets) = (Arc::clone(&services), Arc::clone(&inlets));
                    let judged = judged.clone();
                    async move { Debouncer::new(services, judged).run(&mut *inlets.lock().await).await }
                };
                watch::keep_running("the debouncer", &services, work).await;
            }
        };
        actix::spawn(debouncer);
        let (to_append, inlet) = (Arc::new(Mutex::new(to_append)), votes.downgrade());
        actix::spawn(async move {
            let returns = Arc::new(AtomicU64::new(0));
            let work = || {
                let (services, to_append) = (Arc::clone(&services), Arc::clone(&to_append));
                let outlet = Outlet {
                    returned: returned.clone(),
                    returns: Arc::clone(&returns),
                    inlet: inlet.clone(),
                };
                async move { Work::new(services, outlet).run(&mut *to_append.lock().await).await }
            };
            watch::keep_running("the committer", &services, work).await;
        });
        Committer { votes }
    }

    /// Puts a vote into the next batch.
    ///
    /// # Errors
    /// The vote, when too many are waiting.
    pub fn submit(&self, vote: PendingVote) -> Result<(), Box<PendingVote>> {
        self.votes.try_send(vote).map_err(|refused| Box::new(refused.into_inner()))
    }
}

/// The ways from the committer back to the debouncer.
struct Outlet {
    /// What the debouncer has to take back.
    returned: mpsc::Sender<Returned>,
    /// How many times something was returned to it, also before this task failed and was started again.
    returns: Arc<AtomicU64>,
    /// Where votes wait for it.
    inlet: mpsc::WeakSender<PendingVote>,
}

struct Work {
    services: Arc<Services>,
    followers: Arc<Semaphore>,
    outlet: Outlet,
    /// Viewers whose claims were returned, and by which return; for as long as votes may come that were judged
    /// without knowing it.
    returned_viewers: HashMap<(Uuid, String), u64>,
}

impl Work {
    fn new(services: Arc<Services>, outlet: Outlet) -> Work {
        let followers = Arc::new(Semaphore::new(FOLLOWERS_MAX));
        Work { services, followers, outlet, returned_viewers: HashMap::new() }
    }

    /// Notes how many votes wait: these and those that are not judged yet.
    fn note_lag(&self, judged: usize) {
        let unjudged = self.outlet.inlet.upgrade().map_or(0, |inlet| inlet.max_capacity() - inlet.capacity());
        self.services.metrics.journal_lag_events.set((judged + unjudged) as i64);
    }

    async fn run(mut self, waiting: &mut mpsc::Receiver<Judged>) {
        loop {
            let mut batch = Vec::new();
            if waiting.recv_many(&mut batch, BATCH_MAX).await == 0 {
                return;
            }
            self.note_lag(batch.len() + waiting.len());
            let (heads, decisions) = self.decide(batch).await;
            // Waiting here, when too many batches are being answered, lets the next one grow.
            let Ok(place) = Arc::clone(&self.followers).acquire_owned().await else { return };
            let services = Arc::clone(&self.services);
            actix::spawn(async move {
                publish::publish(&services, heads, decisions).await;
                drop(place);
            });
            self.note_lag(waiting.len());
        }
    }

    /// What becomes of each vote of a batch, and the heads after it.
    async fn decide(&mut self, votes: Vec<Judged>) -> (HashMap<Uuid, Session>, Vec<Decision>) {
        // Who has waited too long, or would wait for a journal that is away, has the queue's time left.
        let wait_max = self.services.options.vote_wait;
        let newest_known = votes.last().map_or(0, |judged| judged.known_returns);
        let (mut counting, mut debounced) = (Vec::with_capacity(votes.len()), Vec::new());
        let mut decisions: Vec<Decision> = Vec::with_capacity(votes.len());
        for judged in votes {
            match judged.claimed {
                Claimed::Other => debounced.push(judged),
                _ if judged.vote.arrived.elapsed() >= wait_max => {
                    decisions.push((judged.vote, VoteOutcome::Unavailable));
                }
                claimed => counting.push((judged.vote, claimed == Claimed::Fresh)),
            }
        }
        let mut heads = HashMap::new();
        let mut unused = Vec::new();
        if !counting.is_empty() {
            self.services.metrics.journal_batch_events.observe(counting.len() as f64);
            let outcomes;
            (heads, outcomes) = self.append(&counting).await;
            unused = unused_claims(&counting, &outcomes);
            decisions.extend(counting.into_iter().map(|(vote, _)| vote).zip(outcomes));
        }
        let debounced = self.judge_again(unused, debounced).await;
        // Votes come in the order in which they were judged.
        self.returned_viewers.retain(|_, number| *number > newest_known);
        decisions.extend(debounced.into_iter().map(|judged| (judged.vote, VoteOutcome::Debounced)));
        (heads, decisions)
    }

    /// Gives back what repeated and late votes have claimed. The votes that they kept from counting are judged
    /// anew; answers the others.
    async fn judge_again(&mut self, unused: Vec<UnusedClaim>, debounced: Vec<Judged>) -> Vec<Judged> {
        let number = self.outlet.returns.load(Ordering::Relaxed) + 1;
        let viewers = unused.iter().map(|claim| ((claim.streamer_id, claim.viewer.clone()), number));
        self.returned_viewers.extend(viewers);
        if self.returned_viewers.is_empty() {
            return debounced;
        }
        let (again, debounced): (Vec<_>, Vec<_>) = debounced.into_iter().partition(|judged| {
            let viewer = (judged.vote.live.streamer_id, judged.vote.vote.viewer.clone());
            self.returned_viewers.get(&viewer).is_some_and(|number| judged.known_returns < *number)
        });
        if !unused.is_empty() || !again.is_empty() {
            self.outlet.returns.store(number, Ordering::Relaxed);
            let again = again.into_iter().map(|judged| judged.vote).collect();
            // A debouncer that is gone needs none of it: then nobody is left who waits.
            let _ = self.outlet.returned.send(Returned { number, unused, again }).await;
        }
        debounced
    }

    /// Appends votes, within the time that a commit may take. A batch that waits too long for a lock is
    /// split by session, one with data that PostgreSQL refuses is halved until only the guilty vote is
    /// left. What is not journaled in the end is [`VoteOutcome::Unavailable`].
    async fn append(&mut self, votes: &[(PendingVote, bool)]) -> (HashMap<Uuid, Session>, Vec<VoteOutcome>) {
        let deadline = Instant::now() + self.services.options.commit;
        let mut heads = HashMap::new();
        let mut outcomes = vec![VoteOutcome::Unavailable; votes.len()];
        let mut parts: Vec<Vec<Placed<'_>>> = vec![votes.iter().map(|(vote, _)| vote).enumerate().collect()];
        while let Some(part) = parts.pop() {
            if !self.services.standing.journal_circuit.is_up() || Instant::now() >= deadline {
                break;
            }
            match self.commit(&part, deadline).await {
                Ok(answer) => {
                    for (appended, (place, _)) in answer.appended.iter().zip(part) {
                        outcomes[place] = outcome(*appended);
                    }
                    heads.extend(answer.heads.into_iter().map(|head| (head.session_id, head.head)));
                }
                Err(error) => {
                    let votes = part.len();
                    let smaller = split(&error, part);
                    if smaller.is_empty() {
                        self.note_failure(&error, votes);
                    }
                    if smaller.is_empty() && !matches!(error, JournalError::Data(_) | JournalError::Busy(_)) {
                        // The others would only meet with the same.
                        break;
                    }
                    parts.extend(smaller);
                }
            }
        }
        (heads, outcomes)
    }

    async fn commit(
        &mut self,
        votes: &[Placed<'_>],
        deadline: Instant,
    ) -> Result<AppendAnswer, JournalError> {
        let batch: Vec<NewVote> = votes.iter().map(|(_, vote)| vote.vote.clone()).collect();
        let batch_id = Uuid::now_v7().to_string();
        let started = Instant::now();
        let append = self.services.vote_journal.append_votes(&batch, &batch_id);
        let answer = match tokio::time::timeout_at(deadline, append).await {
            Ok(answer) => answer?,
            Err(_) => return Err(JournalError::Away("the commit took too long".into())),
        };
        self.services.metrics.journal_commit_seconds.observe(started.elapsed().as_secs_f64());
        if let Some(now) = answer.now {
            self.services.clock.sample(now, started);
        }
        self.services.standing.journal_took_votes();
        Ok(answer)
    }

    /// Logs every vote that fails by itself; anything else is a failure of the journal.
    fn note_failure(&mut self, error: &JournalError, votes: usize) {
        if matches!(error, JournalError::Data(_) | JournalError::Busy(_)) {
            tracing::warn!(%error, votes, "votes can't be journaled now");
        } else {
            self.services.standing.journal_failed(error);
        }
    }
}

/// The smaller batches to try instead of a failed one; none when that would not help.
fn split<'a>(error: &JournalError, mut votes: Vec<Placed<'a>>) -> Vec<Vec<Placed<'a>>> {
    match error {
        JournalError::Busy(_) => {
            let mut sessions: BTreeMap<Uuid, Vec<Placed<'a>>> = BTreeMap::new();
            for (place, vote) in votes {
                sessions.entry(vote.live.session_id).or_default().push((place, vote));
            }
            if sessions.len() > 1 { sessions.into_values().collect() } else { Vec::new() }
        }
        JournalError::Data(_) if votes.len() > 1 => {
            let second = votes.split_off(votes.len() / 2);
            vec![second, votes]
        }
        _ => Vec::new(),
    }
}

/// The claims of votes that do not count. Where the outcome is unknown the vote may have counted: its claim stays.
fn unused_claims(votes: &[(PendingVote, bool)], outcomes: &[VoteOutcome]) -> Vec<UnusedClaim> {
    let no_vote = |outcome| matches!(outcome, VoteOutcome::Duplicate | VoteOutcome::Late);
    let judged = votes.iter().zip(outcomes);
    judged
        .filter(|((_, fresh), outcome)| *fresh && no_vote(**outcome))
        .map(|((vote, _), _)| UnusedClaim {
            streamer_id: vote.live.streamer_id,
            viewer: vote.vote.viewer.clone(),
            message_id: vote.vote.message_id.clone(),
        })
        .collect()
}

fn outcome(appended: Appended) -> VoteOutcome {
    match appended {
        Appended::Accepted => VoteOutcome::Accepted,
        Appended::Duplicate => VoteOutcome::Duplicate,
        Appended::Late => VoteOutcome::Late,
    }
}
