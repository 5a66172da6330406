//! Sessions' events, which the functions of `schema/` write.

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::{ConfigRecord, decode, upcast};
use crate::domain::config::VersionedConfig;
use crate::domain::sentiment::{Mood, SecondTally, Side};
use crate::domain::session::{self, JournaledVote, VotesCast, VotesRetracted};
use crate::domain::time::Millis;
use crate::journal::JournalError;

/// A second of a window: which one, its votes for and against by weight.
pub(in crate::journal) type SecondRow = (i64, f64, f64);

#[derive(Deserialize)]
struct StartedData {
    streamer_id: Uuid,
    ordinal: i64,
    config: ConfigRecord,
    at: i64,
}

#[derive(Deserialize)]
struct VotesData {
    votes: Vec<VoteData>,
    at: i64,
    value: f64,
    #[serde(rename = "for")]
    for_count: i64,
    #[serde(rename = "against")]
    against_count: i64,
}

#[derive(Deserialize)]
struct VoteData {
    m: String,
    s: SideName,
    w: f64,
    t: i64,
    v: String,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SideName {
    For,
    Against,
}

#[derive(Deserialize)]
struct RetractedData {
    messages: Vec<String>,
    viewers: Vec<String>,
    /// For each of the viewers. Events from before it was told have none.
    #[serde(default)]
    until: Vec<i64>,
    at: i64,
    value: f64,
    #[serde(rename = "for")]
    for_count: i64,
    #[serde(rename = "against")]
    against_count: i64,
    seconds: Vec<SecondRow>,
}

#[derive(Deserialize)]
struct ConfigAppliedData {
    config: ConfigRecord,
    at: i64,
    value: f64,
}

#[derive(Deserialize)]
struct AtData {
    at: i64,
}

/// A session's event as it was written, whichever release wrote it.
///
/// # Errors
/// [`JournalError::Unreadable`] for a type or shape that this release does not know.
pub fn decode_session_event(
    event_type: &str,
    schema_version: i32,
    data: Value,
) -> Result<session::Event, JournalError> {
    let data = upcast(event_type, schema_version, data)?;
    let at = |data: Value| decode::<AtData>(event_type, data).map(|data| Millis(data.at));
    Ok(match event_type {
        "SessionStarted" => {
            let data: StartedData = decode(event_type, data)?;
            session::Event::Started {
                streamer_id: data.streamer_id,
                ordinal: data.ordinal,
                config: data.config.into(),
                at: Millis(data.at),
            }
        }
        "VotesCast" => session::Event::VotesCast(decode::<VotesData>(event_type, data)?.into()),
        "VotesRetracted" => session::Event::VotesRetracted(decode::<RetractedData>(event_type, data)?.into()),
        "ConfigApplied" => {
            let data: ConfigAppliedData = decode(event_type, data)?;
            let config = VersionedConfig::from(data.config);
            session::Event::ConfigApplied {
                config_version: config.version,
                params: config.config.params,
                at: Millis(data.at),
                value: data.value,
            }
        }
        "SentimentReset" => session::Event::Reset { at: at(data)? },
        "VotingPaused" => session::Event::Paused { at: at(data)? },
        "VotingResumed" => session::Event::Resumed { at: at(data)? },
        "SessionEnded" => session::Event::Ended { at: at(data)? },
        other => return Err(JournalError::Unreadable(format!("a session's event of type {other}"))),
    })
}

impl From<VotesData> for VotesCast {
    fn from(data: VotesData) -> Self {
        let vote = |vote: VoteData| JournaledVote {
            message_id: vote.m,
            side: match vote.s {
                SideName::For => Side::For,
                SideName::Against => Side::Against,
            },
            weight: vote.w,
            t: Millis(vote.t),
            viewer: vote.v,
        };
        VotesCast {
            votes: data.votes.into_iter().map(vote).collect(),
            at: Millis(data.at),
            value: data.value,
            for_count: data.for_count,
            against_count: data.against_count,
        }
    }
}

impl From<RetractedData> for VotesRetracted {
    fn from(data: RetractedData) -> Self {
        let until = data.until.into_iter().chain(std::iter::repeat(i64::MAX)).map(Millis);
        VotesRetracted {
            messages: data.messages,
            viewers: data.viewers.into_iter().zip(until).collect(),
            mood: Mood {
                at: Millis(data.at),
                value: data.value,
                for_count: data.for_count,
                against_count: data.against_count,
                seconds: seconds(data.seconds),
            },
        }
    }
}

/// A window as events and heads keep it, in the domain's shape.
pub(in crate::journal) fn seconds(rows: Vec<SecondRow>) -> Vec<SecondTally> {
    let tally = |(second, for_weight, against_weight)| SecondTally { second, for_weight, against_weight };
    rows.into_iter().map(tally).collect()
}

/// A window as events and heads keep it.
pub(in crate::journal) fn second_rows(seconds: &[SecondTally]) -> Vec<SecondRow> {
    seconds.iter().map(|tally| (tally.second, tally.for_weight, tally.against_weight)).collect()
}
