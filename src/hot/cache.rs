//! What may be forgotten at any time: copies of what PostgreSQL knows, sign-ins on their way, forms' tokens. Each key
//! has an end; losing one early costs a question to PostgreSQL, or a person another try.

use std::time::Duration;

use deadpool_redis::redis::cmd;

use super::pool::answer;
use super::{Hot, HotError, keys};

/// The cache role of Redis, for what is no session's state.
#[derive(Clone)]
pub struct Cache {
    redis: Hot,
}

impl Cache {
    /// The cache on the server behind `redis`.
    pub fn new(redis: Hot) -> Cache {
        Cache { redis }
    }

    /// Looks whether the server is there. To be called once a second; the one way back after it was
    /// away.
    ///
    /// # Errors
    /// [`HotError`] when there is no sign of life.
    pub async fn probe(&self) -> Result<(), HotError> {
        self.redis.probe().await
    }

    /// A cached value; `None` when it isn't there (any more).
    ///
    /// # Errors
    /// [`HotError`] when it is not known.
    pub async fn get(&self, module: &str, id: &str) -> Result<Option<String>, HotError> {
        let mut get = cmd("GET");
        get.arg(keys::cache(module, id));
        self.redis.ask(get).await
    }

    /// Caches a value for `life`, in place of what was there.
    ///
    /// # Errors
    /// [`HotError`]; it may be there.
    pub async fn put(&self, module: &str, id: &str, value: &str, life: Duration) -> Result<(), HotError> {
        let mut set = cmd("SET");
        set.arg(keys::cache(module, id)).arg(value).arg("PX").arg(millis(life));
        self.redis.ask(set).await
    }

    /// Forgets a value.
    ///
    /// # Errors
    /// [`HotError`]; it may be forgotten.
    pub async fn forget(&self, module: &str, id: &str) -> Result<(), HotError> {
        let mut del = cmd("DEL");
        del.arg(keys::cache(module, id));
        self.redis.ask::<u64>(del).await.map(|_| ())
    }

    /// Takes a value out: of all who try, one gets it.
    ///
    /// # Errors
    /// [`HotError`]; it may be taken out, and nobody gets it then.
    pub async fn take(&self, module: &str, id: &str) -> Result<Option<String>, HotError> {
        let key = keys::cache(module, id);
        let [value, removed] = self
            .redis
            .ask_together([cmd("GET").arg(&key).to_owned(), cmd("DEL").arg(&key).to_owned()])
            .await?;
        let (value, removed): (Option<String>, u64) = (answer(value)?, answer(removed)?);
        Ok(value.filter(|_| removed == 1))
    }

    /// The token that the forms of a browser's session carry: the one that is there, whose life begins anew, or
    /// `fresh`.
    ///
    /// # Errors
    /// [`HotError`] when it is not known.
    pub async fn csrf_token(&self, session: &str, fresh: &str, life: Duration) -> Result<String, HotError> {
        let key = keys::csrf(session);
        let set = cmd("SET").arg(&key).arg(fresh).arg("PX").arg(millis(life)).arg("NX").to_owned();
        let get = cmd("GET").arg(&key).to_owned();
        let renew = cmd("PEXPIRE").arg(&key).arg(millis(life)).to_owned();
        let [_, token, _] = self.redis.ask_together([set, get, renew]).await?;
        let token: Option<String> = answer(token)?;
        token.ok_or_else(|| HotError::Answer("a token that was just set is gone".into()))
    }

    /// The token that was given out to a browser's session; `None` when it has ended.
    ///
    /// # Errors
    /// [`HotError`] when it is not known.
    pub async fn known_csrf_token(&self, session: &str) -> Result<Option<String>, HotError> {
        let mut get = cmd("GET");
        get.arg(keys::csrf(session));
        self.redis.ask(get).await
    }

    /// Forgets the token of a browser's session.
    ///
    /// # Errors
    /// [`HotError`]; it may be forgotten.
    pub async fn forget_csrf(&self, session: &str) -> Result<(), HotError> {
        let mut del = cmd("DEL");
        del.arg(keys::csrf(session));
        self.redis.ask::<u64>(del).await.map(|_| ())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
