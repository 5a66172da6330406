//! What Twitch's answers mean, pure: statuses, the rate limit's headers, and what of an answer may be
//! repeated in an error. Rate limits: <https://dev.twitch.tv/docs/api/guide/#twitch-rate-limits>; what
//! stands before Twitch says `Retry-After` instead (RFC 9110, 10.2.3).

use std::str::FromStr;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::de::DeserializeOwned;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::TwitchError;
use crate::settings::Secret;

/// Points left in the token bucket.
pub(super) const REMAINING: &str = "ratelimit-remaining";
/// When the bucket is full again, Unix seconds.
pub(super) const RESET: &str = "ratelimit-reset";
/// How long to wait: seconds, or a date.
const RETRY_AFTER: &str = "retry-after";
/// The longest wait for the rate limit, seconds: a bucket is full again within a minute, but clocks differ.
const WAIT_SECONDS_MAX: i64 = 120;
const WAIT_SECONDS_MIN: i64 = 1;
/// The wait when Twitch doesn't say one: by then some of a one-minute bucket has come back.
const WAIT_UNTOLD: Duration = Duration::from_secs(5);
/// With one of these, a 429 means too many subscriptions of one type and condition, or too many conduits,
/// whatever the bucket holds.
const TOO_MANY_OF_A_KIND: [&str; 3] = ["maximum subscriptions", "type and condition", "conduit"];

/// Characters of a text of Twitch's that an error repeats at most.
const QUOTE_CHARS_MAX: usize = 200;
/// What is shorter is no secret, and hiding it could make a message unreadable.
const SECRET_BYTES_MIN: usize = 8;
/// Bytes of an id at most. Twitch's have up to 36.
const ID_BYTES_MAX: usize = 64;

/// What an answer's status means; the body of a good one is left to others. `now` is Unix seconds.
pub(super) fn interpret(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now: i64,
    secrets: &[Secret<String>],
) -> Result<(), TwitchError> {
    if status.is_success() {
        return Ok(());
    }
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = message_in(&said, secrets);
    Err(match status.as_u16() {
        401 => TwitchError::Unauthorized(message),
        429 if is_rate_limit(headers, &message) => TwitchError::Limited { wait: wait(headers, now) },
        status if status == 408 || status >= 500 => TwitchError::Away(format!("status {status}: {message}")),
        status if status >= 400 => {
            let id = if status == 409 { id_in(&said) } else { None };
            TwitchError::Refused { status, message, id }
        }
        status => TwitchError::Answer(format!("status {status}; redirects are not followed")),
    })
}

/// Twitch answers 429 also when there are too many subscriptions or conduits, where waiting is of no use.
/// Only an empty bucket is the rate limit; one that is not mentioned may be, and so is what says how long to
/// wait.
fn is_rate_limit(headers: &HeaderMap, message: &str) -> bool {
    let message = message.to_lowercase();
    let may_have_points = number::<u32>(headers, REMAINING).is_some_and(|remaining| remaining > 0);
    !TOO_MANY_OF_A_KIND.iter().any(|words| message.contains(words))
        && (!may_have_points || headers.contains_key(RETRY_AFTER))
}

/// Until the bucket is full again, or for as long as is asked for, whichever is longer.
fn wait(headers: &HeaderMap, now: i64) -> Duration {
    let full_in = number::<i64>(headers, RESET).map(|reset| reset.saturating_sub(now));
    match full_in.max(retry_after(headers, now)) {
        Some(seconds) => {
            Duration::from_secs(seconds.clamp(WAIT_SECONDS_MIN, WAIT_SECONDS_MAX).unsigned_abs())
        }
        None => WAIT_UNTOLD,
    }
}

/// The seconds until what `Retry-After` says.
fn retry_after(headers: &HeaderMap, now: i64) -> Option<i64> {
    let date = || {
        let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
        let date = OffsetDateTime::parse(text.trim(), &Rfc2822).ok()?;
        Some(date.unix_timestamp().saturating_sub(now))
    };
    number(headers, RETRY_AFTER).or_else(date)
}

/// A header that is a number; `None` also for one that should be.
pub(super) fn number<T: FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

fn message_in(said: &Value, secrets: &[Secret<String>]) -> String {
    let keys = ["message", "error_description", "error"];
    let mut texts = keys.iter().filter_map(|key| said.get(key)?.as_str());
    let message = texts.find(|text| !text.trim().is_empty());
    message.map_or_else(|| "it gave no reason".to_owned(), |message| quoted(message, secrets))
}

/// The id of what there is already. It came late into the body of a 409, and where exactly is not
/// documented: it is looked for beside the message and in `data`.
fn id_in(said: &Value) -> Option<String> {
    let places = ["/id", "/data/0/id", "/data/id"];
    let id = places.iter().find_map(|place| said.pointer(place)?.as_str())?;
    let is_id = (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    is_id.then(|| id.to_owned())
}

/// A text of somebody else's as an error may repeat it: without the secrets, short, and in one line.
pub(in crate::twitch) fn quoted(text: &str, secrets: &[Secret<String>]) -> String {
    let secrets = secrets.iter().map(|secret| secret.expose().as_str());
    let hidden = secrets
        .filter(|secret| secret.len() >= SECRET_BYTES_MIN)
        .fold(text.to_owned(), |text, secret| text.replace(secret, "(secret)"));
    let mut chars = hidden.chars().map(|char| if char.is_control() { '\u{FFFD}' } else { char });
    let mut quote: String = chars.by_ref().take(QUOTE_CHARS_MAX).collect();
    if chars.next().is_some() {
        quote.push('…');
    }
    quote
}

/// Reads a good answer's body.
///
/// # Errors
/// [`TwitchError::Answer`] when it is not JSON of the shape `T`.
pub(in crate::twitch) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, TwitchError> {
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        // Only this kind of error repeats nothing of the answer, which may hold tokens.
        TwitchError::Answer(match text.starts_with("missing field `") {
            true => text,
            false => format!("it is not JSON of the documented shape, column {}", error.column()),
        })
    })
}
