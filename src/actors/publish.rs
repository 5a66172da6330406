//! What follows a commit: votes that could not be journaled go to the queue, the session actors show
//! the heads, the mirror is written, and those who wait are answered.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;
use uuid::Uuid;

use super::committer::PendingVote;
use super::services::{ForRedis, Services, Unmirrored};
use super::session::{Journaled, VoteOutcome};
use super::spill;
use crate::domain::session::Session;
use crate::hot::HotError;
use crate::hot::mirror::{MirrorEntry, Mirrored};

/// States that are sent to Redis at a time.
const WRITTEN_AT_ONCE: usize = 200;

/// What was decided about one vote.
pub(super) type Decision = (PendingVote, VoteOutcome);

/// Shows what was committed, mirrors it, then answers.
pub(super) async fn publish(
    services: &Arc<Services>,
    heads: HashMap<Uuid, Session>,
    mut decisions: Vec<Decision>,
) {
    spill::keep(services, &mut decisions).await;
    let states = show(services, heads, &decisions);
    mirror(services, states).await;
    for (vote, outcome) in decisions {
        // Nobody listens any more if the request has gone meanwhile.
        let _ = vote.reply.send(outcome);
    }
}

/// Gives each session's actor its new head. Answers what is to be mirrored.
fn show(services: &Services, mut heads: HashMap<Uuid, Session>, decisions: &[Decision]) -> Vec<Unmirrored> {
    let mut arrivals: HashMap<Uuid, Instant> = HashMap::with_capacity(heads.len());
    for (vote, _) in decisions {
        let arrived = arrivals.entry(vote.live.session_id).or_insert(vote.arrived);
        *arrived = vote.arrived.min(*arrived);
    }
    let mut states = Vec::with_capacity(heads.len());
    for (vote, _) in decisions {
        // The first vote of each session.
        let Some(head) = heads.remove(&vote.live.session_id) else { continue };
        let arrived = arrivals.get(&vote.live.session_id).copied().unwrap_or(vote.arrived);
        let journaled = Journaled { session_id: vote.live.session_id, head: head.clone(), arrived };
        if vote.session.try_send(journaled).is_err() {
            // Too busy, or rebuilt meanwhile: it is read again.
            services.restore_later([vote.live.streamer_id]);
        }
        states.push(Unmirrored { live: Arc::clone(&vote.live), session: head });
    }
    states
}

/// Shows heads that no vote of this instance waits for, and mirrors them.
pub(super) async fn publish_heads(services: &Arc<Services>, heads: Vec<(Uuid, Session)>) {
    let mut unmirrored = Vec::new();
    for (session_id, head) in heads {
        let streamer_id = head.streamer_id;
        let live = services.directory.by_streamer(streamer_id);
        if let Some(live) = live.filter(|live| live.session_id == session_id) {
            unmirrored.push(Unmirrored { live, session: head.clone() });
        }
        services.follow(streamer_id, session_id, head);
    }
    mirror(services, unmirrored).await;
}

/// Writes states to Redis; what Redis does not confirm is written again at later ticks, and other
/// instances are told by the journal.
async fn mirror(services: &Services, states: Vec<Unmirrored>) {
    let mut said = None;
    write_states(services, states, &mut said).await;
    note(services, said);
}

/// What Redis said of what it was given: that it takes it, or why not. `None` as long as it said nothing.
type Said = Option<Result<(), String>>;

/// Writes to Redis what it has not confirmed yet, in parts: votes wait in between.
pub(super) async fn write(services: &Services, work: ForRedis) {
    let mut said = None;
    for states in parts(work.states) {
        write_states(services, states, &mut said).await;
    }
    for holders in parts(work.holders) {
        let noted = services.hot.note_holders(&holders).await;
        let kept = unconfirmed(holders, noted, &mut said);
        kept.into_iter().for_each(|holders| services.note_holders_later(holders));
    }
    note(services, said);
    for (streamer_id, ordinal) in work.ended {
        if services.hot.remove(streamer_id, ordinal).await.is_err() {
            services.forget_later(streamer_id, ordinal);
        }
    }
}

fn note(services: &Services, said: Said) {
    if let Some(said) = said {
        services.standing.note_mirror(said.err());
    }
}

/// What was to be written at once, as parts that Redis writes in little time.
fn parts<T>(all: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut rest = all.into_iter();
    std::iter::from_fn(move || Some(rest.by_ref().take(WRITTEN_AT_ONCE).collect::<Vec<T>>()))
        .take_while(|part| !part.is_empty())
}

async fn write_states(services: &Services, states: Vec<Unmirrored>, said: &mut Said) {
    if states.is_empty() {
        return;
    }
    let entries: Vec<MirrorEntry<'_>> = states.iter().map(entry).collect();
    let started = Instant::now();
    let mirrored = services.hot.mirror(&entries).await;
    services.metrics.redis_command_seconds.observe(started.elapsed().as_secs_f64());
    for state in unconfirmed(states, mirrored, said) {
        services.announce_later([state.live.streamer_id]);
        services.mirror_later(state);
    }
}

/// Those of `written` that Redis has not confirmed.
fn unconfirmed<T>(written: Vec<T>, answer: Result<Vec<Mirrored>, HotError>, said: &mut Said) -> Vec<T> {
    let mirrored = match answer {
        Ok(mirrored) => mirrored,
        // It is there, but takes nothing: out of memory, or its disk is full.
        Err(HotError::Server(reason)) => {
            *said = Some(Err(reason));
            return written;
        }
        Err(_) => return written,
    };
    said.get_or_insert(Ok(()));
    let mut kept = Vec::new();
    for (state, mirrored) in written.into_iter().zip(mirrored) {
        if let Mirrored::Refused(reason) = mirrored {
            *said = Some(Err(reason));
            kept.push(state);
        }
    }
    kept
}

fn entry(state: &Unmirrored) -> MirrorEntry<'_> {
    MirrorEntry {
        session_id: state.live.session_id,
        twitch_user_id: &state.live.twitch_user_id,
        session: &state.session,
        config_json: &state.live.config_json,
        config_json_version: state.live.config.version,
    }
}
