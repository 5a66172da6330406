//! Which instances hold a session, and which sessions nobody holds since when. A hint for the
//! orphan timer that may be lost; the last word has the journal.

use deadpool_redis::redis::{Cmd, Value, cmd};
use uuid::Uuid;

use super::functions::Function;
use super::keys::{self, Bucket};
use super::mirror::{Mirrored, SESSION_TTL_MS, written};
use super::pool::answer;
use super::{Hot, HotError};
use crate::domain::holders::Holders;
use crate::domain::time::Millis;

/// Orphans read from one bucket at most; the rest comes with the next sweep.
const ORPHANS_MAX: usize = 1000;
/// How long a bucket's orphans live without a new one.
const ORPHANS_TTL_MS: u64 = 24 * 3600 * 1000;

/// Which versions the mirror has of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub session_id: Uuid,
    /// The frame version.
    pub version: i64,
    pub config_version: i64,
    /// The rank of the holders; 0 when none were written.
    pub holders: i64,
}

impl Hot {
    /// Writes who holds sessions, each only if it is newer than what is there, and answers in their
    /// order. Sessions that nobody holds become orphans.
    ///
    /// # Errors
    /// [`HotError`]; writing again is safe.
    pub async fn note_holders(&self, holders: &[Holders]) -> Result<Vec<Mirrored>, HotError> {
        let answers = self.send(holders.iter().map(holders_call).collect()).await?;
        answers.into_iter().map(written).collect()
    }

    /// How many instances hold a streamer's session.
    ///
    /// # Errors
    /// [`HotError`].
    pub async fn ref_count(&self, streamer_id: Uuid) -> Result<usize, HotError> {
        let mut count = cmd("SCARD");
        count.arg(keys::refs(streamer_id));
        self.ask(count).await
    }

    /// The streamers whose sessions nobody has held since `since` or earlier.
    ///
    /// # Errors
    /// [`HotError`].
    pub async fn orphans(&self, since: Millis) -> Result<Vec<Uuid>, HotError> {
        let commands = Bucket::all().map(|bucket| {
            let mut range = cmd("ZRANGEBYSCORE");
            range.arg(keys::orphans(bucket)).arg("-inf").arg(since.0);
            range.arg("LIMIT").arg(0).arg(ORPHANS_MAX);
            range
        });
        let mut orphans = Vec::new();
        for value in self.send(commands.collect()).await? {
            for id in answer::<Vec<String>>(value)? {
                orphans.push(id.parse().map_err(|_| HotError::Answer(format!("the orphan {id:?}")))?);
            }
        }
        Ok(orphans)
    }

    /// Strikes a streamer off the orphans, where the journal says that the session is none.
    ///
    /// # Errors
    /// [`HotError`].
    pub async fn forget_orphan(&self, streamer_id: Uuid) -> Result<(), HotError> {
        let mut remove = cmd("ZREM");
        remove.arg(keys::orphans(Bucket::of(streamer_id))).arg(streamer_id.to_string());
        self.ask(remove).await
    }

    /// What the mirror has of each streamer, in their order; `None` where it has no state.
    ///
    /// # Errors
    /// [`HotError`].
    pub async fn marks(&self, streamer_ids: &[Uuid]) -> Result<Vec<Option<Mark>>, HotError> {
        let commands = streamer_ids.iter().map(|streamer_id| {
            let mut get = cmd("HMGET");
            get.arg(keys::session(*streamer_id)).arg(&["session_id", "version", "config_version", "holders"]);
            get
        });
        self.send(commands.collect()).await?.into_iter().map(mark).collect()
    }

    /// Deletes what the mirror has of a streamer's session, so that it can be written anew: where it
    /// disagrees with the journal. Read the journal after this, not before: another instance may
    /// have mirrored something newer in between.
    ///
    /// # Errors
    /// [`HotError`]; discarding again is safe.
    pub async fn discard(&self, streamer_id: Uuid) -> Result<(), HotError> {
        let bucket = Bucket::of(streamer_id);
        let mut call = Function::Discard.call(&[
            keys::session(streamer_id),
            keys::refs(streamer_id),
            keys::changes(bucket),
            keys::changes_epoch(bucket),
            keys::orphans(bucket),
        ]);
        call.arg(streamer_id.to_string());
        self.ask(call).await
    }
}

fn holders_call(holders: &Holders) -> Cmd {
    let streamer_id = holders.streamer_id;
    let mut call = Function::Holders.call(&[
        keys::refs(streamer_id),
        keys::session(streamer_id),
        keys::orphans(Bucket::of(streamer_id)),
        keys::ended(streamer_id),
    ]);
    let unheld_since = holders.unheld_since.map_or(String::new(), |since| since.0.to_string());
    call.arg(streamer_id.to_string()).arg(holders.rank()).arg(unheld_since);
    call.arg(ORPHANS_TTL_MS).arg(SESSION_TTL_MS);
    for instance_id in &holders.ids {
        call.arg(instance_id.to_string());
    }
    call
}

fn mark(value: Value) -> Result<Option<Mark>, HotError> {
    type Fields = (Option<String>, Option<i64>, Option<i64>, Option<i64>);
    let (session_id, version, config_version, holders) = answer::<Fields>(value)?;
    let (Some(session_id), Some(version)) = (session_id, version) else { return Ok(None) };
    let session_id =
        session_id.parse().map_err(|_| HotError::Answer(format!("the session {session_id:?}")))?;
    Ok(Some(Mark {
        session_id,
        version,
        config_version: config_version.unwrap_or(0),
        holders: holders.unwrap_or(0),
    }))
}
