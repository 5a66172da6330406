//! Group commit: takes the waiting votes of all sessions whenever it is free, so that while one
//! round trip is under way the next batch fills. No timer is involved.
//!
//! A batch goes, in this order, through the debounce (one Redis pipeline), the journal (one
//! commit), the session actors (which show it), the mirror (one pipeline), and then its replies.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use actix::Addr;
use tokio::sync::{Semaphore, mpsc};
use uuid::Uuid;

use super::debouncer::Debouncer;
use super::directory::LiveEntry;
use super::services::{Services, Unmirrored};
use super::session::{Decided, SessionActor, VoteOutcome};
use crate::domain::sentiment::Side;
use crate::domain::session::Session;
use crate::domain::time::Millis;
use crate::hot::debounce::Claimed;
use crate::hot::mirror::{MirrorEntry, Mirrored};
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

/// The way into the committer.
#[derive(Clone)]
pub struct Committer {
    votes: mpsc::Sender<PendingVote>,
}

/// A vote with its place in the batch.
type Placed<'a> = (usize, &'a PendingVote);

/// What was decided about one vote.
type Decision = (PendingVote, VoteOutcome);

impl Committer {
    /// Starts the committer on this thread's runtime. It ends when all its handles are gone.
    pub fn start(services: Arc<Services>) -> Committer {
        let (votes, waiting) = mpsc::channel(services.options.votes_waiting_max);
        services.set_committing(true);
        let watched = Arc::clone(&services);
        let work = actix::spawn(Work::new(services).run(waiting));
        actix::spawn(async move {
            let ended = work.await;
            watched.set_committing(false);
            if let Err(error) = ended {
                tracing::error!(%error, "the committer failed: this instance takes no votes until it is restarted");
            }
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
    journal_up: bool,
}

impl Work {
    fn new(services: Arc<Services>) -> Work {
        Work {
            debouncer: Debouncer::new(Arc::clone(&services)),
            followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            again: Vec::new(),
            journal_up: true,
            services,
        }
    }

    async fn run(mut self, mut waiting: mpsc::Receiver<PendingVote>) {
        loop {
            let mut batch = std::mem::take(&mut self.again);
            if batch.is_empty() && waiting.recv_many(&mut batch, BATCH_MAX).await == 0 {
                return;
            }
            let (heads, decisions) = self.decide(batch).await;
            // Waiting here, when too many batches are being answered, lets the next one grow.
            let Ok(place) = Arc::clone(&self.followers).acquire_owned().await else { return };
            let services = Arc::clone(&self.services);
            actix::spawn(async move {
                follow(&services, heads, decisions).await;
                drop(place);
            });
        }
    }

    /// What becomes of each vote of a batch, and the heads after it.
    async fn decide(&mut self, votes: Vec<PendingVote>) -> (HashMap<Uuid, Session>, Vec<Decision>) {
        let wait_max = self.services.options.vote_wait;
        let (timely, waited): (Vec<_>, Vec<_>) =
            votes.into_iter().partition(|vote| vote.arrived.elapsed() < wait_max);
        let mut decisions: Vec<Decision> =
            waited.into_iter().map(|vote| (vote, VoteOutcome::Unavailable)).collect();

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

    /// Appends votes. A batch that waits too long for a lock is split by session, one with data that
    /// PostgreSQL refuses is halved until only the guilty vote is left.
    async fn append(&mut self, votes: &[(PendingVote, bool)]) -> (HashMap<Uuid, Session>, Vec<VoteOutcome>) {
        let mut heads = HashMap::new();
        let mut outcomes = vec![VoteOutcome::Unavailable; votes.len()];
        let mut parts: Vec<Vec<Placed<'_>>> = vec![votes.iter().map(|(vote, _)| vote).enumerate().collect()];
        while let Some(part) = parts.pop() {
            match self.commit(&part).await {
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

    async fn commit(&mut self, votes: &[Placed<'_>]) -> Result<AppendAnswer, JournalError> {
        let batch: Vec<NewVote> = votes
            .iter()
            .map(|(_, vote)| NewVote {
                session_id: vote.live.session_id,
                message_id: vote.message_id.clone(),
                side: vote.side,
                weight: WEIGHT,
                t: vote.t,
                viewer: vote.viewer.clone(),
            })
            .collect();
        let batch_id = Uuid::now_v7().to_string();
        let started = Instant::now();
        let append = self.services.vote_journal.append_votes(&batch, &batch_id);
        let commit_max = self.services.options.commit;
        let answer = match tokio::time::timeout(commit_max, append).await {
            Ok(answer) => answer?,
            Err(_) => return Err(JournalError::Away(format!("no answer within {commit_max:?}"))),
        };
        self.services.metrics.journal_commit_seconds.observe(started.elapsed().as_secs_f64());
        if let Some(now) = answer.now {
            self.services.clock.sample(now, started);
        }
        if !std::mem::replace(&mut self.journal_up, true) {
            tracing::info!("votes are journaled again");
        }
        Ok(answer)
    }

    /// Logs the first failure of an outage, and every vote that fails by itself.
    fn note_failure(&mut self, error: &JournalError, votes: usize) {
        if matches!(error, JournalError::Data(_) | JournalError::Busy(_)) {
            tracing::error!(%error, votes, "a vote can't be journaled; Twitch was asked to send it again");
        } else if std::mem::replace(&mut self.journal_up, false) {
            tracing::warn!(%error, votes, "votes can't be journaled; Twitch is asked to send them again");
        }
    }
}

/// The smaller batches to try instead of a failed one; none when that would not help.
fn split<'a>(error: &JournalError, mut votes: Vec<Placed<'a>>) -> Vec<Vec<Placed<'a>>> {
    match error {
        JournalError::Busy(_) => {
            let mut sessions: HashMap<Uuid, Vec<Placed<'a>>> = HashMap::new();
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

/// Shows what was committed, mirrors it, then answers.
async fn follow(services: &Arc<Services>, heads: HashMap<Uuid, Session>, decisions: Vec<Decision>) {
    // An actor may have been rebuilt between two votes of a session: each is told of its own.
    #[expect(clippy::mutable_key_type, reason = "an address is hashed by which actor it is")]
    let mut sessions: HashMap<(Uuid, Addr<SessionActor>), (Arc<LiveEntry>, Decided)> = HashMap::new();
    for (vote, outcome) in decisions {
        let session_id = vote.live.session_id;
        let (_, decided) = sessions.entry((session_id, vote.session)).or_insert_with(|| {
            let head = heads.get(&session_id).map(|head| (session_id, head.clone()));
            let decided = Decided { head, outcomes: Vec::new(), arrived: vote.arrived };
            (vote.live, decided)
        });
        decided.arrived = decided.arrived.min(vote.arrived);
        decided.outcomes.push((vote.message_id, outcome));
    }

    let mut unmirrored = Vec::new();
    let mut shown = Vec::with_capacity(sessions.len());
    for ((_, session), (live, decided)) in sessions {
        if let Some((_, head)) = &decided.head {
            unmirrored.push(Unmirrored { live, session: head.clone() });
        }
        shown.push(session.send(decided));
    }
    let mut replies = Vec::new();
    for answer in futures_util::future::join_all(shown).await {
        // An actor that died has dropped its replies: those who wait are answered 503, and Twitch
        // sends the vote again.
        replies.extend(answer.into_iter().flatten());
    }
    mirror(services, unmirrored).await;
    for (reply, outcome) in replies {
        // Nobody listens any more if the request has gone meanwhile.
        let _ = reply.send(outcome);
    }
}

/// Writes states to Redis; what Redis does not confirm is written again at the next ticks.
pub async fn mirror(services: &Services, states: Vec<Unmirrored>) {
    if states.is_empty() {
        return;
    }
    let entries: Vec<MirrorEntry<'_>> = states
        .iter()
        .map(|state| MirrorEntry {
            session_id: state.live.session_id,
            twitch_user_id: &state.live.twitch_user_id,
            session: &state.session,
            config_json: &state.live.config_json,
        })
        .collect();
    let started = Instant::now();
    let mirrored = services.hot.mirror(&entries).await;
    services.metrics.redis_command_seconds.observe(started.elapsed().as_secs_f64());
    let Ok(mirrored) = mirrored else {
        return states.into_iter().for_each(|state| services.mirror_later(state));
    };
    // Trying the same again would be refused again; the next states will be tried.
    let refused = mirrored.into_iter().find_map(|mirrored| match mirrored {
        Mirrored::Refused(reason) => Some(reason),
        Mirrored::Written | Mirrored::Older => None,
    });
    services.note_mirror(refused);
}
