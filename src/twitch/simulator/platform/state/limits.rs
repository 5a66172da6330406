//! Helix's rate limit: a bucket of points for the application and for each user,
//! <https://dev.twitch.tv/docs/api/guide/#twitch-rate-limits>.

use time::OffsetDateTime;

use super::State;
use super::oauth::Caller;

const SECONDS_PER_MINUTE: f64 = 60.0;

/// Points that are left, as of a time.
#[derive(Clone, Debug)]
pub struct Bucket {
    points: f64,
    at: OffsetDateTime,
}

/// What the `Ratelimit-` headers say, and whether the request may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Points {
    pub limit: u32,
    pub remaining: u32,
    /// Unix seconds when the bucket is full.
    pub reset: i64,
    pub is_allowed: bool,
}

impl State {
    /// Takes the point that a request costs, if there is one.
    pub fn charge(&mut self, caller: &Caller, now: OffsetDateTime) -> Points {
        let limit = self.rules.points_per_minute;
        let full = f64::from(limit);
        let per_second = full / SECONDS_PER_MINUTE;
        let key = caller.user_id.clone().unwrap_or_default();
        let bucket = self.buckets.entry(key).or_insert(Bucket { points: full, at: now });
        let passed = (now - bucket.at).as_seconds_f64().max(0.0);
        bucket.points = (bucket.points + passed * per_second).min(full);
        bucket.at = now;
        let is_allowed = bucket.points >= 1.0;
        if is_allowed {
            bucket.points -= 1.0;
        }
        let seconds = ((full - bucket.points) / per_second.max(f64::MIN_POSITIVE)).ceil();
        Points {
            limit,
            remaining: bucket.points as u32,
            reset: now.unix_timestamp().saturating_add(seconds as i64),
            is_allowed,
        }
    }
}
