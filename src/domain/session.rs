//! One live measurement of a streamer's chat: `decide` says which events a command brings about,
//! `evolve` says what an event does to the state. Folding a session's events gives its head.

use uuid::Uuid;

use super::config::VersionedConfig;
use super::rank;
use super::sentiment::{Impulse, Mood, Params, Side};
use super::time::Millis;

/// A session as its events have made it.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    pub streamer_id: Uuid,
    /// 1 for a streamer's first session, 2 for the second, …
    pub ordinal: i64,
    /// The version of the last event folded.
    pub version: i64,
    pub config_version: i64,
    pub params: Params,
    pub mood: Mood,
    pub started_at: Millis,
    /// Votes cast before this point move nothing.
    pub reset_at: Option<Millis>,
    pub ended_at: Option<Millis>,
}

/// A vote as the journal keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct JournaledVote {
    pub message_id: String,
    pub side: Side,
    pub weight: f64,
    pub t: Millis,
    /// The viewer as a hash under the session's key.
    pub viewer: String,
}

/// What was asked of a session.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Start {
        streamer_id: Uuid,
        ordinal: i64,
        config: VersionedConfig,
    },
    CastVotes {
        votes: Vec<JournaledVote>,
    },
    /// As [`Command::CastVotes`], for votes that were acknowledged before: an ended session takes
    /// them, too.
    CastDrained {
        votes: Vec<JournaledVote>,
    },
    ApplyConfig {
        config_version: i64,
        params: Params,
    },
    Reset,
    End,
}

/// What happened to a session.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Started {
        streamer_id: Uuid,
        ordinal: i64,
        config: VersionedConfig,
        at: Millis,
    },
    VotesCast(VotesCast),
    ConfigApplied {
        config_version: i64,
        params: Params,
        at: Millis,
        value: f64,
    },
    Reset {
        at: Millis,
    },
    VotesRetracted(VotesRetracted),
    /// From here on chat does not vote. Votes that were taken before may still follow.
    Paused {
        at: Millis,
    },
    /// Chat votes again.
    Resumed {
        at: Millis,
    },
    Ended {
        at: Millis,
    },
}

/// One batch of votes, with the value and the totals after it.
#[derive(Clone, Debug, PartialEq)]
pub struct VotesCast {
    pub votes: Vec<JournaledVote>,
    pub at: Millis,
    pub value: f64,
    pub for_count: i64,
    pub against_count: i64,
}

/// Votes that were taken back, by [`super::retraction`], and the state without them.
#[derive(Clone, Debug, PartialEq)]
pub struct VotesRetracted {
    /// Chat messages that had voted, by Twitch's ids.
    pub messages: Vec<String>,
    /// Viewers, as hashes under the session's key: their votes before this event that were cast until this moment.
    pub viewers: Vec<(String, Millis)>,
    pub mood: Mood,
}

/// Why a command brings about nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the session has not been started")]
    NotStarted,
    #[error("the session has been started already")]
    AlreadyStarted,
    #[error("the session has ended")]
    Ended,
}

/// The events that `command` brings about at `now`.
///
/// # Errors
/// [`Refusal`] when the session is not in a state that allows the command.
pub fn decide(command: Command, state: Option<&Session>, now: Millis) -> Result<Vec<Event>, Refusal> {
    let (command, session) = match (command, state) {
        (Command::Start { streamer_id, ordinal, config }, None) => {
            return Ok(vec![Event::Started { streamer_id, ordinal, config, at: now }]);
        }
        (Command::Start { .. }, Some(_)) => return Err(Refusal::AlreadyStarted),
        (_, None) => return Err(Refusal::NotStarted),
        (command, Some(session))
            if session.ended_at.is_some() && !matches!(command, Command::CastDrained { .. }) =>
        {
            return Err(Refusal::Ended);
        }
        (command, Some(session)) => (command, session),
    };
    let at = now.max(session.mood.at);
    Ok(match command {
        Command::CastVotes { votes } | Command::CastDrained { votes } => session.cast(votes, at),
        Command::ApplyConfig { config_version, params } if config_version > session.config_version => {
            let mut mood = session.mood.clone();
            mood.rebase(&session.params, &params, at);
            vec![Event::ConfigApplied { config_version, params, at, value: mood.value }]
        }
        Command::Reset => vec![Event::Reset { at }],
        Command::End => vec![Event::Ended { at }],
        Command::ApplyConfig { .. } | Command::Start { .. } => Vec::new(),
    })
}

/// The state after `event`. An event that does not fit the state only counts its version; votes may
/// follow the end, when they were acknowledged before it and journaled late.
pub fn evolve(state: Option<Session>, event: &Event) -> Option<Session> {
    let Some(mut session) = state else {
        let Event::Started { streamer_id, ordinal, config, at } = event else { return None };
        return Some(Session {
            streamer_id: *streamer_id,
            ordinal: *ordinal,
            version: 1,
            config_version: config.version,
            params: config.config.params,
            mood: Mood { at: *at, ..Mood::default() },
            started_at: *at,
            reset_at: None,
            ended_at: None,
        });
    };
    session.version += 1;
    match event {
        Event::Started { .. } => {}
        Event::VotesCast(cast) => {
            let impulses = impulses(&cast.votes);
            session.mood.apply(&session.params, &impulses, cast.at);
        }
        Event::ConfigApplied { config_version, params, at, .. } => {
            session.mood.rebase(&session.params, params, *at);
            session.params = *params;
            session.config_version = *config_version;
        }
        Event::Reset { at } => {
            session.mood.reset(*at);
            session.reset_at = Some(session.mood.at);
        }
        Event::VotesRetracted(retracted) => session.mood = retracted.mood.clone(),
        Event::Paused { at } | Event::Resumed { at } => {
            session.mood.rebase(&session.params, &session.params, *at);
        }
        Event::Ended { at } => session.ended_at = Some(*at),
    }
    Some(session)
}

/// Whether chat is kept from voting after `event`, if it was (`paused`) before. No part of [`Session`]: who moves a
/// head does not ask for it, and who takes votes need not know the head.
pub fn is_paused_after(paused: bool, event: &Event) -> bool {
    match event {
        Event::Paused { .. } => true,
        Event::Started { .. } | Event::Resumed { .. } | Event::Ended { .. } => false,
        _ => paused,
    }
}

impl Session {
    /// Orders all states of a streamer over all their sessions: `ordinal · 2³² + version`.
    pub fn frame_version(&self) -> i64 {
        rank::of(self.ordinal, self.version)
    }

    /// The one event of a batch of votes; none for an empty batch.
    fn cast(&self, mut votes: Vec<JournaledVote>, at: Millis) -> Vec<Event> {
        if votes.is_empty() {
            return Vec::new();
        }
        for vote in &mut votes {
            vote.t = vote.t.min(at);
            if self.reset_at.is_some_and(|reset_at| vote.t < reset_at) {
                vote.weight = 0.0;
            }
        }
        let mut mood = self.mood.clone();
        mood.apply(&self.params, &impulses(&votes), at);
        vec![Event::VotesCast(VotesCast {
            votes,
            at,
            value: mood.value,
            for_count: mood.for_count,
            against_count: mood.against_count,
        })]
    }
}

fn impulses(votes: &[JournaledVote]) -> Vec<Impulse> {
    votes.iter().map(|vote| Impulse { t: vote.t, side: vote.side, weight: vote.weight }).collect()
}

#[cfg(test)]
mod tests;
