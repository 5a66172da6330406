//! How a vote stands in an entry of the queue.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::sentiment::Side;
use crate::domain::time::Millis;
use crate::domain::vote::NewVote;
use crate::hot::HotError;

/// The version of the entries' format; a change of it needs a reader of the versions before.
const FORMAT_VERSION: u32 = 1;

/// A vote as it stands in an entry, as JSON; the short names are those of a vote in the journal.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    session: Uuid,
    #[serde(rename = "m")]
    message_id: String,
    #[serde(rename = "s")]
    side: RecordSide,
    #[serde(rename = "w")]
    weight: f64,
    t: i64,
    #[serde(rename = "v")]
    viewer: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RecordSide {
    For,
    Against,
}

/// What tells how to read an entry.
#[derive(Deserialize)]
struct Format {
    version: u32,
}

pub(super) fn encoded(vote: &NewVote) -> Result<Vec<u8>, HotError> {
    let record = Record {
        version: FORMAT_VERSION,
        session: vote.session_id,
        message_id: vote.message_id.clone(),
        side: match vote.side {
            Side::For => RecordSide::For,
            Side::Against => RecordSide::Against,
        },
        weight: vote.weight,
        t: vote.t.0,
        viewer: vote.viewer.clone(),
    };
    serde_json::to_vec(&record).map_err(|error| HotError::Answer(format!("a vote can't be written: {error}")))
}

/// The vote of an entry, or why it can't be read.
pub(super) fn decoded(payload: &[u8]) -> Result<NewVote, String> {
    let unreadable = |error: serde_json::Error| format!("the entry is unreadable: {error}");
    let Format { version } = serde_json::from_slice(payload).map_err(unreadable)?;
    if version != FORMAT_VERSION {
        return Err(format!("the entry has format {version}; this release reads {FORMAT_VERSION}"));
    }
    let record: Record = serde_json::from_slice(payload).map_err(unreadable)?;
    Ok(NewVote {
        session_id: record.session,
        message_id: record.message_id,
        side: match record.side {
            RecordSide::For => Side::For,
            RecordSide::Against => Side::Against,
        },
        weight: record.weight,
        t: Millis(record.t),
        viewer: record.viewer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first release with a queue wrote it: what waits there outlives an update.
    const FIXTURE: &str = include_str!("../../../tests/fixtures/spilled_vote_v1.json");

    fn vote() -> NewVote {
        NewVote {
            session_id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_00ff),
            message_id: "3f1c\u{fffd}\"-\u{1f600}".into(),
            side: Side::Against,
            weight: 0.1 + 0.2,
            t: Millis(1_763_700_000_123),
            viewer: "ab12".into(),
        }
    }

    #[test]
    fn a_vote_of_the_first_format_is_read() {
        assert_eq!(decoded(FIXTURE.trim().as_bytes()), Ok(vote()));
    }

    #[test]
    fn a_vote_is_written_in_the_first_format() {
        assert_eq!(String::from_utf8(encoded(&vote()).unwrap()).unwrap(), FIXTURE.trim());
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let reason = |payload: &str| decoded(payload.as_bytes()).unwrap_err();
        assert!(reason("").starts_with("the entry is unreadable"), "{}", reason(""));
        assert!(reason(r#"{"version":1}"#).contains("session"), "{}", reason(r#"{"version":1}"#));
        assert_eq!(reason(r#"{"version":2}"#), "the entry has format 2; this release reads 1");
    }
}
