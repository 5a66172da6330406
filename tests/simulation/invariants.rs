//! What has to be true when the faults are over, and when everybody has gone. What has to be true at every
//! moment is checked where it happens, in `world` and `overlay`.

use std::collections::BTreeMap;
use std::time::Duration;

use chatpulse::actors::session::VoteOutcome;
use chatpulse::domain::sentiment::Model;
use chatpulse::domain::session::{self, Event, Session};
use chatpulse::domain::time::Millis;
use serde_json::Value;
use uuid::Uuid;

use super::scenario::Simulation;
use super::world::World;

/// After so long without a fault nothing of it is left to be made good.
const SETTLED: Duration = Duration::from_secs(5);
/// By so much an overlay may be behind the journal while there are no faults, whatever becomes of Redis' keys.
const BEHIND_MAX: Duration = Duration::from_secs(2);

/// While nothing but Redis' keys is lost, no overlay is behind for long.
pub fn while_settled(simulation: &Simulation) {
    let ms = |time: Duration| time.as_millis() as i64;
    for (place, (streamer_id, screen)) in simulation.screens.borrow().iter().enumerate() {
        let screen = screen.borrow();
        let Some(version) = screen.state.as_ref().and_then(|state| state["version"].as_i64()) else {
            continue;
        };
        let behind = simulation.network.world(|world| {
            let now = world.now();
            let then = Millis(now.0 - ms(BEHIND_MAX));
            let connected = screen.connected.is_some_and(|since| since < then);
            let settled = now.0 - world.disturbed.0 > ms(SETTLED);
            let expected = world.version_at(*streamer_id, then);
            (connected && settled && version < expected).then_some(expected)
        });
        if let Some(expected) = behind {
            simulation.violate(format!("overlay {place} is behind: it shows {version} and not {expected}"));
        }
    }
}

/// The faults are over for a while: everybody sees the same, and it is what the journal says.
pub fn after_quiet(simulation: &Simulation) {
    let went_back = simulation.network.world(|world| world.hot.went_back);
    if went_back > 0 {
        simulation.violate(format!("the mirror went back {went_back} times"));
    }
    let mut wrong = simulation.network.world(|world| {
        let mut wrong = votes(world, simulation);
        wrong.extend(streams(world));
        wrong.extend(queue(world));
        wrong
    });
    for (place, (streamer_id, screen)) in simulation.screens.borrow().iter().enumerate() {
        let screen = screen.borrow();
        let entry = simulation.network.world(|world| world.journal.entry(*streamer_id));
        let Some(entry) = entry.filter(|entry| !entry.streamer.disabled) else { continue };
        match (entry.live, &screen.state) {
            (Some(live), Some(state)) if screen.connected.is_some() => {
                wrong.extend(shown(place, &live.head, state));
                if screen.config_version != Some(entry.streamer.config.version) {
                    wrong.push(format!(
                        "overlay {place} shows config {:?}, not {}",
                        screen.config_version, entry.streamer.config.version
                    ));
                }
            }
            (live, _) => wrong.push(format!(
                "overlay {place} of {streamer_id} is not connected ({} live)",
                if live.is_some() { "one is" } else { "none is" }
            )),
        }
    }
    wrong.into_iter().for_each(|wrong| simulation.violate(format!("after quiet: {wrong}")));
}

/// Everybody has gone: nothing is left but the journal.
pub fn after_all(simulation: &Simulation) {
    let wrong = simulation.network.world(|world| {
        let mut wrong = votes(world, simulation);
        wrong.extend(streams(world));
        wrong.extend(queue(world));
        for (streamer, live) in world.journal.streamers() {
            if live {
                let holders = world.journal.holders(streamer.id);
                wrong.push(format!("the session of {} did not end; held by {holders:?}", streamer.id));
            }
        }
        let mut keys = world.hot.streamers();
        keys.retain(|streamer_id| !world.revived.contains(streamer_id));
        if !keys.is_empty() {
            wrong.push(format!("Redis still has keys of {keys:?}"));
        }
        wrong
    });
    wrong.into_iter().for_each(|wrong| simulation.violate(format!("in the end: {wrong}")));
}

/// What was answered is in the journal, and nothing is there twice.
fn votes(world: &World, simulation: &Simulation) -> Vec<String> {
    let mut journaled: BTreeMap<(Uuid, &str), usize> = BTreeMap::new();
    for stream in world.journal.streams.values() {
        for event in &stream.events {
            let Event::VotesCast(cast) = event else { continue };
            for vote in &cast.votes {
                *journaled.entry((stream.head.streamer_id, &vote.message_id)).or_default() += 1;
            }
        }
    }
    let twice = journaled.iter().filter(|(_, times)| **times > 1);
    let mut wrong: Vec<_> = twice.map(|((_, id), times)| format!("{id} counts {times} times")).collect();
    for (message_id, (streamer_id, outcome)) in simulation.answered.borrow().iter() {
        let kept = matches!(outcome, VoteOutcome::Accepted | VoteOutcome::Duplicate | VoteOutcome::Queued);
        if kept && !journaled.contains_key(&(*streamer_id, message_id.as_str())) {
            wrong.push(format!("{message_id} was answered {outcome:?} and is not in the journal"));
        }
    }
    wrong
}

/// Every head is the fold of its events, and no session ends twice.
fn streams(world: &World) -> Vec<String> {
    let mut wrong = Vec::new();
    for (session_id, stream) in &world.journal.streams {
        let fold = |state: Option<Session>, event| session::evolve(state, event);
        if stream.events.iter().fold(None, fold).as_ref() != Some(&stream.head) {
            wrong.push(format!("the head of {session_id} is not the fold of its events"));
        }
        let ends = stream.events.iter().filter(|event| matches!(event, Event::Ended { .. })).count();
        if ends > 1 {
            wrong.push(format!("{session_id} ended {ends} times"));
        }
    }
    wrong
}

fn queue(world: &World) -> Vec<String> {
    let mut wrong = Vec::new();
    if world.queue.waiting() > 0 {
        wrong.push(format!("{} votes still wait in the queue", world.queue.waiting()));
    }
    if !world.queue.dead.is_empty() {
        wrong.push(format!("{} votes are among the dead letters", world.queue.dead.len()));
    }
    wrong
}

/// Whether an overlay shows a head.
fn shown(place: usize, head: &Session, state: &Value) -> Option<String> {
    let at = Millis(state["at"].as_i64()?);
    let value = match head.params.model {
        Model::Decay => head.mood.value,
        Model::Window => head.mood.value_at(&head.params, at),
    };
    let counts = (state["for"].as_i64(), state["against"].as_i64());
    let same = state["version"].as_i64() == Some(head.frame_version())
        && counts == (Some(head.mood.for_count), Some(head.mood.against_count))
        && (state["value"].as_f64()? - value).abs() < 1e-9;
    (!same).then(|| format!("overlay {place} shows {state}, the journal says {head:?}"))
}
