//! Votes while the journal is away: kept in a durable queue, and journaled out of it when the journal
//! is back, each once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::publish::{self, Decision};
use super::services::Services;
use super::session::VoteOutcome;
use crate::domain::session::Session;
use crate::domain::vote::NewVote;
use crate::hot::HotError;
use crate::hot::spill::{Failed, Spilled};
use crate::journal::JournalError;
use crate::journal::votes::{AppendAnswer, Appended};

use super::ports::SpillPort;

/// Entries taken from the queue at a time: what PostgreSQL appends in one call.
const TAKEN_MAX: usize = 1000;
/// So many votes of one session are not halved when PostgreSQL is busy: then it is not their number.
const SMALL: usize = 64;
/// So long votes wait for a queue that was away to say that it is back.
const ASKED_MAX: Duration = Duration::from_millis(150);

/// Puts votes that are not journaled into the queue, if it is durable: they are answered like
/// journaled ones then. Where the commit's outcome is unknown this is safe: a message counts once.
pub(super) async fn keep(services: &Services, decisions: &mut [Decision]) {
    let Some(spill) = services.spill.as_deref() else { return };
    let mut unjournaled: Vec<&mut Decision> =
        decisions.iter_mut().filter(|(_, outcome)| *outcome == VoteOutcome::Unavailable).collect();
    if unjournaled.is_empty() || spill.is_fleeting() {
        return;
    }
    let votes: Vec<NewVote> = unjournaled.iter().map(|(vote, _)| vote.vote.clone()).collect();
    let pushed = push(spill, &votes).await;
    if pushed.is_ok() {
        unjournaled.iter_mut().for_each(|(_, outcome)| *outcome = VoteOutcome::Queued);
    }
    services.standing.note_push(pushed.err().as_ref(), votes.len());
}

/// Puts votes into the queue; once more when its server was away and is back. After a time-out no time
/// would be left.
async fn push(spill: &dyn SpillPort, votes: &[NewVote]) -> Result<(), HotError> {
    match spill.push(votes).await {
        Err(HotError::Away | HotError::Connection(_)) if is_back(spill).await => spill.push(votes).await,
        pushed => pushed,
    }
}

/// Asks whether the queue's server is there, for as long as a vote can wait for that.
async fn is_back(spill: &dyn SpillPort) -> bool {
    let asked = tokio::time::timeout(ASKED_MAX, spill.probe()).await;
    matches!(asked, Ok(Ok(_)))
}

/// Looks how much waits in the queue, and journals it if the journal is there.
pub(super) async fn look(services: &Arc<Services>) {
    let Some(spill) = services.spill.as_deref() else { return };
    let depth = spill.probe().await;
    services.metrics.dependency_up.with_label_values(&["queue"]).set(i64::from(depth.is_ok()));
    services.standing.note_queue(depth.as_ref().err());
    let Ok(depth) = depth else { return };
    services.metrics.queue.entries.set(depth.waiting as i64);
    services.metrics.queue.dead_letters.set(depth.dead_letters as i64);
    if depth.waiting > 0 && services.standing.journal_circuit.is_up() {
        drain(services, spill).await;
    }
}

/// Journals what waits in the queue until nothing is left for this instance, or a part is away.
async fn drain(services: &Arc<Services>, spill: &dyn SpillPort) {
    let mut drained = 0;
    while let Ok(taken) = spill.take(TAKEN_MAX).await {
        if taken.is_empty() {
            break;
        }
        match journal(services, spill, taken).await {
            Some(settled) if settled > 0 => drained += settled,
            _ => break,
        }
    }
    if drained > 0 {
        services.metrics.queue.drained.inc_by(drained as u64);
        tracing::info!(votes = drained, "votes of the queue are journaled");
    }
}

/// Journals entries, and settles them. Data that PostgreSQL refuses is halved down to the guilty
/// entry. Answers how many were settled; `None` when a part is away.
async fn journal(services: &Arc<Services>, spill: &dyn SpillPort, taken: Vec<Spilled>) -> Option<usize> {
    let mut settled = 0;
    let mut parts = vec![taken];
    while let Some(mut part) = parts.pop() {
        let votes: Vec<NewVote> = part.iter().map(|entry| entry.vote.clone()).collect();
        let batch_id = Uuid::now_v7().to_string();
        match services.vote_journal.append_drained(&votes, &batch_id).await {
            Ok(answer) => {
                services.standing.journal_took_votes();
                // Shown first: whether settling went through may stay unknown.
                publish::publish_heads(services, heads(&answer)).await;
                settled += settle(spill, &part, &answer).await?;
            }
            Err(JournalError::Data(_)) if part.len() > 1 => {
                let second = part.split_off(part.len() / 2);
                parts.extend([second, part]);
            }
            Err(JournalError::Data(reason)) => fail(spill, &part, &reason).await?,
            // Somebody holds a lock, or it was too much at once. What is left waits for the next look.
            Err(JournalError::Busy(_)) => parts.extend(smaller(part)),
            Err(error) => {
                services.standing.journal_failed(&error);
                return None;
            }
        }
    }
    Some(settled)
}

/// Strikes out what is journaled now, or was before; answers how many.
async fn settle(spill: &dyn SpillPort, part: &[Spilled], answer: &AppendAnswer) -> Option<usize> {
    let known: BTreeSet<Uuid> = answer.heads.iter().map(|head| head.session_id).collect();
    let mut ids = Vec::with_capacity(part.len());
    for (entry, appended) in part.iter().zip(&answer.appended) {
        if *appended == Appended::Late && !known.contains(&entry.vote.session_id) {
            fail(spill, std::slice::from_ref(entry), "its session is unknown").await?;
        } else {
            ids.push(entry.id.clone());
        }
    }
    spill.settle(&ids).await.ok()?;
    Some(ids.len())
}

async fn fail(spill: &dyn SpillPort, entries: &[Spilled], reason: &str) -> Option<()> {
    for entry in entries {
        if spill.fail(&entry.id, reason).await.ok()? == Failed::Dead {
            let message_id = &entry.vote.message_id;
            tracing::error!(reason, message_id, "PostgreSQL refuses a vote for good: see the dead letters");
        }
    }
    Some(())
}

/// Smaller parts to try instead of one that took too long: by session, and those in halves; none when it
/// is small already.
fn smaller(mut part: Vec<Spilled>) -> Vec<Vec<Spilled>> {
    let mut sessions: BTreeMap<Uuid, Vec<Spilled>> = BTreeMap::new();
    if part.iter().any(|entry| entry.vote.session_id != part[0].vote.session_id) {
        for entry in part {
            sessions.entry(entry.vote.session_id).or_default().push(entry);
        }
        return sessions.into_values().collect();
    }
    if part.len() <= SMALL {
        return Vec::new();
    }
    let second = part.split_off(part.len() / 2);
    vec![second, part]
}

fn heads(answer: &AppendAnswer) -> Vec<(Uuid, Session)> {
    answer.heads.iter().map(|head| (head.session_id, head.head.clone())).collect()
}
