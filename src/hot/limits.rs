//! How often somebody may do something within a sliding window, counted for all instances.

use std::time::Duration;

use deadpool_redis::redis::cmd;
use uuid::Uuid;

use super::functions::Function;
use super::{Hot, HotError, keys};
use crate::domain::time::Millis;

/// The limits' role of Redis.
#[derive(Clone)]
pub struct Limits {
    redis: Hot,
}

/// A limit: at most `max` within any `window`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is limited, such as `login`; part of the key's name.
    pub module: &'static str,
    pub window: Duration,
    pub max: u32,
}

/// What a limit says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    /// How many more are allowed now.
    pub remaining: u32,
    /// When the next one is allowed; zero while some remain.
    pub retry_after: Duration,
}

impl Limits {
    /// The limits on the server behind `redis`.
    pub fn new(redis: Hot) -> Limits {
        Limits { redis }
    }

    /// Looks whether the server is there. To be called once a second; the one way back after it was
    /// away.
    ///
    /// # Errors
    /// [`HotError`] when there is no sign of life.
    pub async fn probe(&self) -> Result<(), HotError> {
        self.redis.probe().await
    }

    /// Whether `subject` (who is limited: an address, an account) may once more at `now`; counts it
    /// if so.
    ///
    /// # Errors
    /// [`HotError`] when it is not known. Whether that allows or forbids is up to the caller; it may
    /// have been counted.
    pub async fn check(&self, limit: &Limit, subject: &str, now: Millis) -> Result<Verdict, HotError> {
        let mut call = Function::RateLimit.call(&[keys::rate_limit(limit.module, subject)]);
        let window_ms = u64::try_from(limit.window.as_millis()).unwrap_or(u64::MAX);
        // The member tells a repetition of this very call, after the library was loaded, from another.
        call.arg(now.0).arg(window_ms).arg(limit.max).arg(Uuid::new_v4().simple().to_string());
        let (allowed, remaining, retry_after_ms): (bool, u32, u64) = self.redis.ask(call).await?;
        Ok(Verdict { allowed, remaining, retry_after: Duration::from_millis(retry_after_ms) })
    }

    /// Forgets what was counted for `subject`.
    ///
    /// # Errors
    /// [`HotError`] when it may not be forgotten.
    pub async fn forget(&self, limit: &Limit, subject: &str) -> Result<(), HotError> {
        let mut forget = cmd("ZREMRANGEBYSCORE");
        forget.arg(keys::rate_limit(limit.module, subject)).arg("-inf").arg("+inf");
        self.redis.ask::<i64>(forget).await.map(|_| ())
    }
}
