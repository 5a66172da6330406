//! Appending votes: one call for the waiting votes of all sessions.

use std::collections::HashSet;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Journal, JournalError, rows};
use crate::domain::sentiment::Side;
use crate::domain::session::Session;
use crate::domain::time::Millis;
pub use crate::domain::vote::NewVote;

/// What became of a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is in the journal and counts.
    Accepted,
    /// Its message had voted before.
    Duplicate,
    /// Its session has ended (and only live ones take this vote), or does not exist.
    Late,
}

/// A session's head after an append.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionHead {
    pub session_id: Uuid,
    pub head: Session,
}

/// What an append did.
#[derive(Clone, Debug, PartialEq)]
pub struct AppendAnswer {
    /// In the order of the votes.
    pub appended: Vec<Appended>,
    /// Every session of the batch, also when all its votes were duplicates.
    pub heads: Vec<SessionHead>,
    /// PostgreSQL's time under the locks; `None` when no session of the batch exists.
    pub now: Option<Millis>,
}

/// A chat message's id in 16 bytes: Twitch's ids are UUIDs; anything else is hashed.
pub(super) fn message_key(message_id: &str) -> Uuid {
    match Uuid::parse_str(message_id) {
        // Only the one canonical spelling, so that different ids have different keys.
        Ok(uuid) if uuid.hyphenated().to_string() == message_id => uuid,
        _ => {
            let digest = Sha256::digest(message_id.as_bytes());
            let mut bytes = [0u8; 16];
            bytes.copy_from_slice(&digest[..16]);
            uuid::Builder::from_custom_bytes(bytes).into_uuid()
        }
    }
}

impl Journal {
    /// Appends votes of any number of sessions; they are durable when this answers.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or refuses. What was sent may have been appended:
    /// the same votes may be sent again, and count once.
    pub async fn append_votes(
        &self,
        votes: &[NewVote],
        batch_id: &str,
    ) -> Result<AppendAnswer, JournalError> {
        self.append(votes, batch_id, false).await
    }

    /// Appends votes that were acknowledged before: also to sessions that have ended meanwhile.
    ///
    /// # Errors
    /// As [`Journal::append_votes`].
    pub async fn append_drained(
        &self,
        votes: &[NewVote],
        batch_id: &str,
    ) -> Result<AppendAnswer, JournalError> {
        self.append(votes, batch_id, true).await
    }

    async fn append(
        &self,
        votes: &[NewVote],
        batch_id: &str,
        also_ended: bool,
    ) -> Result<AppendAnswer, JournalError> {
        let sessions: Vec<Uuid> = votes.iter().map(|vote| vote.session_id).collect();
        let keys: Vec<Uuid> = votes.iter().map(|vote| message_key(&vote.message_id)).collect();
        let ids: Vec<&str> = votes.iter().map(|vote| vote.message_id.as_str()).collect();
        let sides: Vec<bool> = votes.iter().map(|vote| vote.side == Side::For).collect();
        let weights: Vec<f64> = votes.iter().map(|vote| vote.weight).collect();
        let times: Vec<i64> = votes.iter().map(|vote| vote.t.0).collect();
        let viewers: Vec<&str> = votes.iter().map(|vote| vote.viewer.as_str()).collect();
        let metadata = self.metadata(batch_id);

        let client = self.client().await?;
        let rows = client
            .query(
                "SELECT * FROM chatpulse.append_votes($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                &[&sessions, &keys, &ids, &sides, &weights, &times, &viewers, &metadata, &also_ended],
            )
            .await?;

        let mut appended = vec![Appended::Duplicate; votes.len()];
        let mut heads = Vec::with_capacity(rows.len());
        let mut now = None;
        for row in &rows {
            let session_id: Uuid = row.try_get("session_id")?;
            heads.push(SessionHead { session_id, head: rows::head(row)? });
            now = Some(Millis(row.try_get("now_ms")?));
            let accepted: Vec<i64> = row.try_get("accepted")?;
            let late: Vec<i64> = row.try_get("late")?;
            mark(&mut appended, &accepted, Appended::Accepted);
            mark(&mut appended, &late, Appended::Late);
        }
        let known: HashSet<Uuid> = heads.iter().map(|head| head.session_id).collect();
        for (outcome, session_id) in appended.iter_mut().zip(&sessions) {
            if !known.contains(session_id) {
                *outcome = Appended::Late;
            }
        }
        Ok(AppendAnswer { appended, heads, now })
    }
}

/// Marks the votes at `positions`, counted from 1.
fn mark(appended: &mut [Appended], positions: &[i64], outcome: Appended) {
    for position in positions {
        if let Some(slot) = usize::try_from(position - 1).ok().and_then(|index| appended.get_mut(index)) {
            *slot = outcome;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_its_own_key_and_other_ids_have_keys_of_their_own() {
        let id = "cc106a89-1814-919d-454c-f4f2f970aae7";
        assert_eq!(message_key(id).to_string(), id);
        assert_ne!(message_key(&id.to_uppercase()), message_key(id));
        assert_ne!(message_key("a"), message_key("b"));
    }
}
