//! Group commit: takes the waiting votes of all sessions whenever it is free, so that while one
//! round trip is under way the next batch fills. No timer is involved.
//!
//! A batch goes through the debounce (one Redis pipeline) and the journal (one commit); then
//! [`publish`] takes over, while the next batch is on its way. Votes that could not be journaled in
//! time go to the queue there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use actix::Addr;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::Instant;
use uuid::Uuid;

use super::debouncer::Debouncer;
use super::directory::LiveEntry;
use super::publish::{self, Decision};
use super::services::Services;
use super::session::{SessionActor, VoteOutcome};
use super::watch;
use crate::domain::sentiment::Side;
use crate::domain::session::Session;
use crate::domain::time::Millis;
use crate::hot::debounce::Claimed;
use crate::journal::JournalError;
use crate::journal::votes::{AppendAnswer, Appended, NewVote};

/// Votes of one commit at most: what PostgreSQL appends well within its share of a vote's time.
const BATCH_MAX: usize = 1000;
/// Batches that are being shown and answered while the next ones are committed.
const FOLLOWERS_MAX: usize = 8;
/// Every vote counts the same.
const WEIGHT: f64 = 1.0;

/// A vote on its way to the journal.
pub struct PendingVote {
    pub live: Arc<LiveEntry>,
    pub message_id: String,
    pub viewer: String,
    pub side: Side,
    /// When it arrived, on PostgreSQL's clock.
    pub t: Millis,
    pub arrived: Instant,
    pub session: Addr<SessionActor>,
}

impl PendingVote {
    /// The vote as the journal and the queue take it.
    pub(super) fn to_new(&self) -> NewVote {
        NewVote {
            session_id: self.live.session_id,
            message_id: self.message_id.clone(),
            side: self.side,
            weight: WEIGHT,
            t: self.t,
            viewer: self.viewer.clone(),
        }
    }
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
        // Kept here, so that votes that wait survive a committer that fails.
        let waiting = Arc::new(Mutex::new(waiting));
        actix::spawn(async move {
            let work = || {
                let (services, waiting) = (Arc::clone(&services), Arc::clone(&waiting));
                async move { Work::new(services).run(&mut *waiting.lock().await).await }
            };
            watch::keep_running("the committer", &services, work).await;
        });
        Committer { votes }
    }

    /// Puts a vote into the next batch; `false` when too many are waiting.
    pub fn submit(&self, vote: PendingVote) -> bool {
        self.votes.try_send(vote).is_ok()
    }
}

struct Work {
    services: Arc<Services>,
    debouncer: Debouncer,
    followers: Arc<Semaphore>,
    /// Debounced by a vote that turned out not to count: to be judged anew.
    again: Vec<PendingVote>,
}

impl Work {
    fn new(services: Arc<Services>) -> Work {
        Work {
            debouncer: Debouncer::new(Arc::clone(&services)),
            followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            again: Vec::new(),
            services,
        }
    }

    async fn run(mut self, waiting: &mut mpsc::Receiver<PendingVote>) {
        loop {
            let mut batch = std::mem::take(&mut self.again);
            if batch.is_empty() && waiting.recv_many(&mut batch, BATCH_MAX).await == 0 {
                return;
            }
            self.services.metrics.journal_lag_events.set((batch.len() + waiting.len()) as i64);
            let (heads, decisions) = self.decide(batch).await;
            // Waiting here, when too many batches are being answered, lets the next one grow.
            let Ok(place) = Arc::clone(&self.followers).acquire_owned().await else { return };
            let services = Arc::clone(&self.services);
            actix::spawn(async move {
                publish::publish(&services, heads, decisions).await;
                drop(place);
            });
            self.services.metrics.journal_lag_events.set(waiting.len() as i64);
        }
    }

    /// What becomes of each vote of a batch, and the heads after it.
    async fn decide(&mut self, votes: Vec<PendingVote>) -> (HashMap<Uuid, Session>, Vec<Decision>) {
        // Who has waited too long, or would wait for a journal that is away, has the queue's time left.
        let wait_max = self.services.options.vote_wait;
        let (timely, waited): (Vec<_>, Vec<_>) =
            votes.into_iter().partition(|vote| vote.arrived.elapsed() < wait_max);
        let mut decisions: Vec<Decision> = Vec::new();
        for vote in waited {
            // There is no time left to ask Redis.
            let outcome = match self.debouncer.judge_by_memory(&vote) {
                Claimed::Other => VoteOutcome::Debounced,
                Claimed::Fresh | Claimed::Own => VoteOutcome::Unavailable,
            };
            decisions.push((vote, outcome));
        }

        let judged = self.debouncer.judge(&timely).await;
        let (mut counting, mut debounced) = (Vec::with_capacity(timely.len()), Vec::new());
        for (vote, judged) in timely.into_iter().zip(judged) {
            match judged {
                Claimed::Other => debounced.push(vote),
                Claimed::Fresh | Claimed::Own => counting.push((vote, judged == Claimed::Fresh)),
            }
        }
        let mut heads = HashMap::new();
        if !counting.is_empty() {
            self.services.metrics.journal_batch_events.observe(counting.len() as f64);
            let outcomes;
            (heads, outcomes) = self.append(&counting).await;
            debounced = self.judge_again(&counting, &outcomes, debounced).await;
            decisions.extend(counting.into_iter().map(|(vote, _)| vote).zip(outcomes));
        }
        decisions.extend(debounced.into_iter().map(|vote| (vote, VoteOutcome::Debounced)));
        (heads, decisions)
    }

    /// Gives back what repeated and late votes have claimed. The votes of this batch that they kept
    /// from counting are judged anew; answers the others.
    async fn judge_again(
        &mut self,
        votes: &[(PendingVote, bool)],
        outcomes: &[VoteOutcome],
        debounced: Vec<PendingVote>,
    ) -> Vec<PendingVote> {
        // Where the outcome is unknown the vote may have counted: its claim stays.
        let no_vote = |outcome| matches!(outcome, VoteOutcome::Duplicate | VoteOutcome::Late);
        let unused: Vec<&PendingVote> = votes
            .iter()
            .zip(outcomes)
            .filter(|((_, fresh), outcome)| *fresh && no_vote(**outcome))
            .map(|((vote, _), _)| vote)
            .collect();
        if unused.is_empty() {
            return debounced;
        }
        self.debouncer.give_back(&unused).await;
        let viewers: HashSet<(Uuid, &str)> =
            unused.iter().map(|vote| (vote.live.streamer_id, vote.viewer.as_str())).collect();
        let (again, debounced) = debounced
            .into_iter()
            .partition(|vote| viewers.contains(&(vote.live.streamer_id, vote.viewer.as_str())));
        self.again = again;
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
        let batch: Vec<NewVote> = votes.iter().map(|(_, vote)| vote.to_new()).collect();
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

fn outcome(appended: Appended) -> VoteOutcome {
    match appended {
        Appended::Accepted => VoteOutcome::Accepted,
        Appended::Duplicate => VoteOutcome::Duplicate,
        Appended::Late => VoteOutcome::Late,
    }
}
