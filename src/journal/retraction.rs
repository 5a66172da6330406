//! Taking votes back: a session's events are read and folded without them, and the head that this gives takes the place
//! of the one that is there, unless something has happened meanwhile that the fold does not know.

use serde_json::json;
use uuid::Uuid;

use super::votes::message_key;
use super::{Journal, JournalError, codec};
use crate::domain::retraction::Refold;
use crate::domain::session::VotesRetracted;

pub use crate::domain::retraction::Retract;

/// Events that are read by one statement; each has the votes of a batch.
const EVENTS_A_PAGE: i64 = 200;
/// Events that are searched for a viewer by one statement.
const EVENTS_A_SEARCH: i64 = 1_000;
/// How often the head is tried to be replaced. Votes that come meanwhile are no reason to try again, other changes are.
const ATTEMPTS: usize = 20;

/// What taking votes back has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retracted {
    /// Votes that counted before, and do not any more.
    pub votes: usize,
}

impl Journal {
    /// Takes votes back from a streamer's live session, as if they had not been cast; one event. Nothing is appended
    /// when there are none, or when the session is over. Messages shall not vote from now on, whether they had voted
    /// or not; what a viewer says later counts.
    ///
    /// Reads all of the session's votes, in many short statements, unless it is plain that none is concerned.
    ///
    /// # Errors
    /// [`JournalError::Busy`] when the session was changed by others all the time; [`JournalError`] when PostgreSQL is
    /// away, or events can't be read. It may have happened, and may be repeated.
    pub async fn retract_votes(
        &self,
        streamer_id: Uuid,
        session_id: Uuid,
        what: &Retract,
        correlation_id: &str,
    ) -> Result<Retracted, JournalError> {
        let concerned = match what {
            Retract::Messages(messages) => self.refuse_messages(streamer_id, session_id, messages).await?,
            Retract::Viewer(viewer) => self.has_voted(session_id, viewer).await?,
        };
        if !concerned {
            return Ok(Retracted::default());
        }
        let mut refold = Refold::new(what);
        for _ in 0..ATTEMPTS {
            self.catch_up(session_id, &mut refold).await?;
            let retracted = refold.retracted().filter(|_| !refold.has_ended());
            let Some(retracted) = retracted else { return Ok(Retracted::default()) };
            if self.apply_retraction(session_id, refold.version(), &retracted, correlation_id).await? {
                return Ok(Retracted { votes: refold.votes() });
            }
        }
        Err(JournalError::Busy("the session is being changed by others all the time".into()))
    }

    /// Has messages not vote from now on; answers whether some of them may have voted in this session.
    async fn refuse_messages(
        &self,
        streamer_id: Uuid,
        session_id: Uuid,
        messages: &[String],
    ) -> Result<bool, JournalError> {
        let keys: Vec<Uuid> = messages.iter().map(|id| message_key(id)).collect();
        let client = self.client().await?;
        let row = client
            .query_one("SELECT chatpulse.refuse_messages($1, $2, $3)", &[&streamer_id, &session_id, &keys])
            .await?;
        Ok(row.try_get::<_, i64>(0)? > 0)
    }

    /// Whether a viewer has ever voted in a session. Most who are banned have not, and PostgreSQL finds that out with
    /// less work than it takes to send the votes.
    async fn has_voted(&self, session_id: Uuid, viewer: &str) -> Result<bool, JournalError> {
        let sql = "SELECT count(*), max(page.version),
                          coalesce(bool_or(page.type = 'VotesCast' AND page.data @> $4), false)
                   FROM (SELECT e.version, e.type, e.data FROM chatpulse.session_events e
                         WHERE e.session_id = $1 AND e.version > $2
                         ORDER BY e.version LIMIT $3) AS page";
        let votes = json!({ "votes": [{ "v": viewer }] });
        let mut after = 0i64;
        loop {
            let client = self.client().await?;
            let row = client.query_one(sql, &[&session_id, &after, &EVENTS_A_SEARCH, &votes]).await?;
            let (searched, found): (i64, bool) = (row.try_get(0)?, row.try_get(2)?);
            if found || searched < EVENTS_A_SEARCH {
                return Ok(found);
            }
            after = row.try_get(1)?;
        }
    }

    /// Folds the events that are not folded yet.
    async fn catch_up(&self, session_id: Uuid, refold: &mut Refold) -> Result<(), JournalError> {
        loop {
            let page = self.session_events(session_id, refold.version(), EVENTS_A_PAGE).await?;
            for recorded in &page {
                refold.take(&recorded.event);
                if recorded.version != refold.version() {
                    let detail = format!("session {session_id} without its event {}", refold.version());
                    return Err(JournalError::Unreadable(detail));
                }
            }
            if page.len() < EVENTS_A_PAGE as usize {
                return Ok(());
            }
        }
    }

    /// Has the head take the state of a fold of the events up to `version`; `false` when it does not fit any more.
    async fn apply_retraction(
        &self,
        session_id: Uuid,
        version: i64,
        VotesRetracted { messages, viewers, mood }: &VotesRetracted,
        correlation_id: &str,
    ) -> Result<bool, JournalError> {
        let seconds = json!(codec::second_rows(&mood.seconds));
        let client = self.client().await?;
        let row = client
            .query_one(
                "SELECT chatpulse.apply_retraction($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                &[
                    &session_id,
                    &version,
                    &mood.at.0,
                    &mood.value,
                    &mood.for_count,
                    &mood.against_count,
                    &seconds,
                    messages,
                    viewers,
                    &self.metadata(correlation_id),
                ],
            )
            .await?;
        Ok(row.try_get::<_, Option<i64>>(0)?.is_some())
    }
}
