//! Access tokens that are no longer accepted although they have not ended: who holds one has signed out. PostgreSQL
//! knows them, too; here they are looked up with each request, each until its token ends by itself.
//!
//! Redis may lose them, so a list that lacks a token says nothing by itself. A marker tells a list that is whole: it is
//! set when all has been loaded, and gone with the rest after a flush. An instance trusts the marker that it found when
//! it loaded the list itself, and for no longer than it has the same servers before it: it also loads the list when it
//! starts, when a connection was lost, and when it could not write down a denied token.
//!
//! This holds for servers that lose all or nothing. One that evicts may throw a token away and keep the marker, so the
//! cache's server must not evict: `config/redis/README.md`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_redis::redis::cmd;
use uuid::Uuid;

use super::pool::answer;
use super::{Hot, HotError, keys};

/// How long a loaded list is trusted at most, unless it is loaded again.
const MARKER_LIFE: Duration = Duration::from_secs(60 * 60);

/// What the list says of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    Yes,
    No,
    /// The list may lack some: it has to be loaded before anybody is let in.
    NotLoaded,
}

/// The deny-list, in the cache role of Redis. Its clones share what they know of it.
#[derive(Clone)]
pub struct DenyList {
    redis: Hot,
    loaded: Arc<Mutex<Option<Loaded>>>,
}

/// The list as this instance has loaded it.
#[derive(Debug, PartialEq, Eq)]
struct Loaded {
    /// The marker's value, another one after each loss.
    marker: String,
    server_generation: u64,
}

impl DenyList {
    /// The list on the server behind `redis`, which somebody has to probe.
    pub fn new(redis: Hot) -> DenyList {
        DenyList { redis, loaded: Arc::default() }
    }

    /// Denies tokens, each for the rest of its life, by their ids (`jti`). They have to be denied in PostgreSQL
    /// already.
    ///
    /// # Errors
    /// [`HotError`]; some may not be denied here. This instance then has the list loaded again before it lets anybody
    /// in; others may let in who was not denied until that has happened.
    pub async fn deny(&self, jtis: &[(Uuid, Duration)]) -> Result<(), HotError> {
        let written = self.write(jtis).await;
        if written.is_err() {
            *self.loaded() = None;
        }
        written
    }

    /// Whether a token is denied.
    ///
    /// # Errors
    /// [`HotError`] when it is not known; nobody is to be let in then.
    pub async fn look(&self, jti: Uuid) -> Result<Denied, HotError> {
        // In this order: a marker that is still there says that the token was not lost before it was looked for.
        let denied = cmd("EXISTS").arg(keys::denied(jti)).to_owned();
        let marker = cmd("GET").arg(keys::deny_list_loaded()).to_owned();
        let [denied, marker] = self.redis.ask_together([denied, marker]).await?;
        let (denied, marker): (bool, Option<String>) = (answer(denied)?, answer(marker)?);
        let server_generation = self.redis.server_generation();
        let found = marker.map(|marker| Loaded { marker, server_generation });
        Ok(match denied {
            true => Denied::Yes,
            false if found.is_some() && *self.loaded() == found => Denied::No,
            false => Denied::NotLoaded,
        })
    }

    /// Loads the list: all tokens that are denied and have not ended, each with the rest of its life. PostgreSQL has to
    /// be asked for them after [`DenyList::look`] said that this is needed, not before.
    ///
    /// # Errors
    /// [`HotError`]; the list may not be loaded, and what was known of it stays.
    pub async fn load(&self, jtis: &[(Uuid, Duration)]) -> Result<(), HotError> {
        let server_generation = self.redis.server_generation();
        self.write(jtis).await?;
        let key = keys::deny_list_loaded();
        let (fresh, life) = (Uuid::new_v4().simple().to_string(), millis(MARKER_LIFE));
        // What another instance has set stays, so that instances which load it at once don't undo each other's.
        let set = cmd("SET").arg(&key).arg(fresh).arg("PX").arg(life).arg("NX").to_owned();
        let renew = cmd("PEXPIRE").arg(&key).arg(life).to_owned();
        let get = cmd("GET").arg(&key).to_owned();
        let [set, _, marker] = self.redis.ask_together([set, renew, get]).await?;
        answer::<Option<String>>(set)?;
        let marker: Option<String> = answer(marker)?;
        let marker = marker.ok_or_else(|| HotError::Answer("a marker that was just set is gone".into()))?;
        *self.loaded() = Some(Loaded { marker, server_generation });
        Ok(())
    }

    async fn write(&self, jtis: &[(Uuid, Duration)]) -> Result<(), HotError> {
        let alive = jtis.iter().map(|(jti, life)| (jti, millis(*life))).filter(|(_, life)| *life > 0);
        let commands =
            alive.map(|(jti, life)| cmd("SET").arg(keys::denied(*jti)).arg(1).arg("PX").arg(life).to_owned());
        for written in self.redis.send(commands.collect()).await? {
            answer::<()>(written)?;
        }
        Ok(())
    }

    fn loaded(&self) -> MutexGuard<'_, Option<Loaded>> {
        // Nothing in there can panic half-way, so a poisoned lock still guards whole data.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
