//! Taking votes back: a session's events are read and folded without them, and the head that this gives takes the place
//! of the one that is there, unless something has happened meanwhile that the fold does not know.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use uuid::Uuid;

use super::votes::message_key;
use super::{Journal, JournalError, codec};
use crate::domain::retraction::Refold;
use crate::domain::sentiment::Params;
use crate::domain::session::{Event, VotesRetracted};
use crate::domain::time::Millis;

pub use crate::domain::retraction::Retract;

/// Events that are read by one statement; each has the votes of a batch.
const EVENTS_A_PAGE: i64 = 200;
/// Events that are searched for viewers by one statement.
const EVENTS_A_SEARCH: i64 = 1_000;
/// Events of which one statement reads the types only.
const TYPES_A_SEARCH: i64 = 10_000;
/// How often the head is tried to be replaced. Votes that come meanwhile are no reason to try again, other changes are.
const ATTEMPTS: usize = 20;

/// What taking votes back has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retracted {
    /// Votes that counted before, and do not any more.
    pub votes: usize,
    /// The version of the session's stream up to which the viewers' votes were looked for.
    pub seen: i64,
}

impl Journal {
    /// Takes votes back from a streamer's live session, as if they had not been cast; all in one event. Nothing is
    /// appended when there are none, or when the session is over. Messages shall not vote from now on, whether they had
    /// voted or not.
    ///
    /// Reads all of the session's votes since its last reset, in many short statements, unless it is plain that none is
    /// concerned. Up to version `seen` the viewers are known to have no votes that count; 0: nothing is known.
    ///
    /// # Errors
    /// [`JournalError::Busy`] when the session was changed by others all the time; [`JournalError`] when PostgreSQL is
    /// away, or events can't be read. It may have happened, and may be repeated.
    pub async fn retract_votes(
        &self,
        streamer_id: Uuid,
        session_id: Uuid,
        what: &Retract,
        seen: i64,
        correlation_id: &str,
    ) -> Result<Retracted, JournalError> {
        let have_voted = self.refuse_messages(streamer_id, session_id, &what.messages).await?;
        if !have_voted && what.viewers.is_empty() {
            return Ok(Retracted { votes: 0, seen });
        }
        let mut refold = self.begin_fold(session_id, what).await?;
        if !have_voted {
            let after = seen.max(refold.version());
            if let Search::Nothing { seen } = self.search_votes(session_id, &what.viewers, after).await? {
                return Ok(Retracted { votes: 0, seen });
            }
        }
        for _ in 0..ATTEMPTS {
            self.catch_up(session_id, &mut refold).await?;
            let seen = refold.version();
            let retracted = refold.retracted().filter(|_| !refold.has_ended());
            let Some(retracted) = retracted else { return Ok(Retracted { votes: 0, seen }) };
            if self.apply_retraction(session_id, seen, &retracted, correlation_id).await? {
                return Ok(Retracted { votes: refold.votes(), seen });
            }
        }
        Err(JournalError::Busy("the session is being changed by others all the time".into()))
    }

    /// Has messages not vote from now on; answers whether some of them may have voted in this session.
    async fn refuse_messages(
        &self,
        streamer_id: Uuid,
        session_id: Uuid,
        messages: &BTreeSet<String>,
    ) -> Result<bool, JournalError> {
        if messages.is_empty() {
            return Ok(false);
        }
        let keys: Vec<Uuid> = messages.iter().map(|id| message_key(id)).collect();
        let client = self.client().await?;
        let row = client
            .query_one("SELECT chatpulse.refuse_messages($1, $2, $3)", &[&streamer_id, &session_id, &keys])
            .await?;
        Ok(row.try_get::<_, i64>(0)? > 0)
    }

    /// Looks for viewers' votes after a version, as far as they were cast early enough. Most who are banned have never
    /// voted, and PostgreSQL finds that out with less work than it takes to send the votes.
    async fn search_votes(
        &self,
        session_id: Uuid,
        viewers: &BTreeMap<String, Millis>,
        after_version: i64,
    ) -> Result<Search, JournalError> {
        let sql = "WITH page AS MATERIALIZED (
                       SELECT e.version, e.type, e.data FROM chatpulse.session_events e
                       WHERE e.session_id = $1 AND e.version > $2
                       ORDER BY e.version LIMIT $3)
                   SELECT (SELECT count(*) FROM page), (SELECT max(page.version) FROM page),
                          EXISTS (
                              SELECT FROM page, jsonb_array_elements(page.data->'votes') AS v
                              JOIN unnest($4::text[], $5::bigint[]) AS b (viewer, until_ms)
                                  ON b.viewer = v->>'v'
                              WHERE page.type = 'VotesCast' AND (v->>'t')::bigint <= b.until_ms)";
        let (viewers, until): (Vec<&str>, Vec<i64>) =
            viewers.iter().map(|(viewer, until)| (viewer.as_str(), until.0)).unzip();
        let mut seen = after_version;
        loop {
            let client = self.client().await?;
            let row =
                client.query_one(sql, &[&session_id, &seen, &EVENTS_A_SEARCH, &viewers, &until]).await?;
            if row.try_get::<_, bool>(2)? {
                return Ok(Search::Found);
            }
            seen = row.try_get::<_, Option<i64>>(1)?.unwrap_or(seen);
            if row.try_get::<_, i64>(0)? < EVENTS_A_SEARCH {
                return Ok(Search::Nothing { seen });
            }
        }
    }

    /// Begins a fold with the session's last reset, else with its start.
    async fn begin_fold(&self, session_id: Uuid, what: &Retract) -> Result<Refold, JournalError> {
        let head = self.head(session_id).await?;
        let Some(head) = head.filter(|head| head.reset_at.is_some()) else { return Ok(Refold::new(what)) };
        let reset = self.newest_before(session_id, "SentimentReset", i64::MAX).await?;
        let Some((version, Event::Reset { at })) = reset else { return Ok(Refold::new(what)) };
        let params = self.params_at(session_id, version, head.config_version).await?;
        Ok(match params {
            Some(params) => Refold::since_reset(what, version, params, at),
            None => Refold::new(what),
        })
    }

    /// The numbers in force at an event of a session that has had no config newer than `config_version` until then.
    async fn params_at(
        &self,
        session_id: Uuid,
        version: i64,
        config_version: i64,
    ) -> Result<Option<Params>, JournalError> {
        let Some(Event::Started { config: first, .. }) = self.session_event(session_id, 1).await? else {
            return Ok(None);
        };
        // Mostly it is the only one, and nothing has to be searched.
        if first.version < config_version
            && let Some((_, applied)) = self.newest_before(session_id, "ConfigApplied", version).await?
        {
            return Ok(match applied {
                Event::ConfigApplied { params, .. } => Some(params),
                _ => None,
            });
        }
        Ok(Some(first.config.params))
    }

    /// The newest event of a type before a version, with its own version.
    async fn newest_before(
        &self,
        session_id: Uuid,
        event_type: &str,
        before_version: i64,
    ) -> Result<Option<(i64, Event)>, JournalError> {
        let sql = "SELECT count(*), min(page.version), max(page.version) FILTER (WHERE page.type = $4)
                   FROM (SELECT e.version, e.type FROM chatpulse.session_events e
                         WHERE e.session_id = $1 AND e.version < $2
                         ORDER BY e.version DESC LIMIT $3) AS page";
        let mut before = before_version;
        loop {
            let client = self.client().await?;
            let row = client.query_one(sql, &[&session_id, &before, &TYPES_A_SEARCH, &event_type]).await?;
            if let Some(version) = row.try_get::<_, Option<i64>>(2)? {
                let event = self.session_event(session_id, version).await?;
                return Ok(event.map(|event| (version, event)));
            }
            if row.try_get::<_, i64>(0)? < TYPES_A_SEARCH {
                return Ok(None);
            }
            before = row.try_get(1)?;
        }
    }

    /// One event of a session.
    async fn session_event(&self, session_id: Uuid, version: i64) -> Result<Option<Event>, JournalError> {
        let found = self.session_events(session_id, version - 1, 1).await?.pop();
        Ok(found.filter(|recorded| recorded.version == version).map(|recorded| recorded.event))
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
        let (viewers, until): (Vec<&str>, Vec<i64>) =
            viewers.iter().map(|(viewer, until)| (viewer.as_str(), until.0)).unzip();
        let client = self.client().await?;
        let row = client
            .query_one(
                "SELECT chatpulse.retract_votes($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                &[
                    &session_id,
                    &version,
                    &mood.at.0,
                    &mood.value,
                    &mood.for_count,
                    &mood.against_count,
                    &seconds,
                    messages,
                    &viewers,
                    &until,
                    &self.metadata(correlation_id),
                ],
            )
            .await?;
        Ok(row.try_get::<_, Option<i64>>(0)?.is_some())
    }
}

/// Whether viewers have voted.
enum Search {
    Found,
    /// Not up to this version.
    Nothing {
        seen: i64,
    },
}
