//! Which instances hold a session, and which sessions nobody holds since when. A hint for the
//! orphan timer that may be lost; the last word has the journal.

use deadpool_redis::redis::cmd;
use uuid::Uuid;

use super::functions::Function;
use super::keys::{self, Bucket};
use super::pool::answer;
use super::{Hot, HotError};
use crate::domain::time::Millis;

/// Orphans read from one bucket at most; the rest comes with the next sweep.
const ORPHANS_MAX: usize = 1000;
/// How long a bucket's orphans live without a new one.
const ORPHANS_TTL_MS: u64 = 24 * 3600 * 1000;

impl Hot {
    /// Notes that an instance holds a streamer's session; answers how many do now.
    ///
    /// # Errors
    /// [`HotError`]; holding again is safe.
    pub async fn hold(&self, streamer_id: Uuid, instance_id: Uuid) -> Result<usize, HotError> {
        let mut call = Function::Hold.call(&held_keys(streamer_id));
        call.arg(instance_id.to_string()).arg(streamer_id.to_string());
        self.ask(call).await
    }

    /// Notes that an instance no longer holds a streamer's session; answers how many still do.
    /// After the last one the session is an orphan since `now`.
    ///
    /// # Errors
    /// [`HotError`]; releasing again is safe.
    pub async fn release(
        &self,
        streamer_id: Uuid,
        instance_id: Uuid,
        now: Millis,
    ) -> Result<usize, HotError> {
        let mut call = Function::Release.call(&held_keys(streamer_id));
        call.arg(instance_id.to_string()).arg(streamer_id.to_string()).arg(now.0).arg(ORPHANS_TTL_MS);
        self.ask(call).await
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
}

fn held_keys(streamer_id: Uuid) -> [String; 3] {
    [keys::refs(streamer_id), keys::session(streamer_id), keys::orphans(Bucket::of(streamer_id))]
}
