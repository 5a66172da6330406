//! Answers in chat that wait to be said, and how often something may be said; counted and shared by all instances.
//!
//! An answer is said at most once: it is struck out first and sent then, so one is lost when its instance dies between
//! the two, or when nobody can tell whether it was struck out. That is the better failure: somebody asks again, where
//! the same sentence twice would annoy a whole chat and use up what the bot may say. No state depends on an answer. For
//! the same reason a late one is dropped ([`Reply::is_late`]), and the queue's server need not be durable.
//!
//! One way to say something twice is left: a connection that is lost while something is queued has it queued again, maybe
//! as a second entry. Twitch itself drops what a bot repeats within 30 seconds, unless the bot is a moderator.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

use super::limits::{Limit, Limits};
use super::queue::{Queue, QueueOptions};
use super::{Hot, HotError};
use crate::domain::time::Millis;

const QUEUE: &str = "{replies}";
const GROUP: &str = "chat";
/// Some 300 bytes of the server's memory each.
const ENTRIES_MAX: usize = 10_000;
/// An answer that comes later than this confuses.
const LIFE_MS: i64 = 30_000;
/// What an instance took stays its own until it is late, however fast clocks run, so that no two can say it. Who claims
/// it then only strikes it out.
const CLAIM_AFTER: Duration = Duration::from_secs(60);
const CLAIM_EVERY: Duration = Duration::from_secs(60);
/// The version of the entries' format. An instance that can't read one has it dropped, so a change is best read by a
/// release before the one that writes it.
const FORMAT_VERSION: u32 = 1;

/// What a bot may say: 20 messages in 30 seconds over all channels, as long as it is no moderator there; and one a
/// second in each channel. Source: <https://dev.twitch.tv/docs/chat/#rate-limits>. The windows are a little longer than
/// Twitch's, because of two messages the first may be longer on its way.
const SENDER: Limit = Limit { module: "chat_send", window: Duration::from_millis(31_000), max: 20 };
const CHANNEL: Limit = Limit { module: "chat_channel", window: Duration::from_millis(1_200), max: 1 };
/// Answers to who asks for the mood.
const MOOD: Limit = Limit { module: "pulse_command", window: Duration::from_secs(5), max: 1 };
/// Answers to moderators: fewer than [`CHANNEL`] lets out, so that none pile up.
const STEERING: Limit = Limit { module: "pulse_steering", window: Duration::from_secs(5), max: 3 };
/// A message that Twitch delivers again is no second command. What is older than this is refused at the door.
const MESSAGE: Limit = Limit { module: "pulse_message", window: Duration::from_secs(600), max: 1 };

/// Something to be said in a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// In whose chat.
    pub broadcaster_id: String,
    /// At most 500 characters.
    pub text: String,
    /// The message that it answers.
    pub reply_to: Option<String>,
    pub made_at: Millis,
}

impl Reply {
    /// Whether it is too late to say it at `now`.
    pub fn is_late(&self, now: Millis) -> bool {
        now.0.saturating_sub(self.made_at.0) > LIFE_MS
    }
}

/// An entry that was taken and not struck out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The queue's id of the entry.
    pub id: String,
    /// Or why it can't be read.
    pub reply: Result<Reply, String>,
}

/// The queue of answers, as one instance sees it.
#[derive(Clone)]
pub struct Replies {
    redis: Hot,
    queue: Queue,
    queued: Arc<Notify>,
}

impl Replies {
    /// The queue on the server behind `redis`, the role of the queues; `instance_id` is new at each start. Nothing is
    /// asked yet.
    pub fn new(redis: Hot, instance_id: Uuid) -> Replies {
        let options = QueueOptions {
            name: QUEUE.into(),
            group: GROUP.into(),
            consumer: instance_id.to_string(),
            entries_max: ENTRIES_MAX,
            claim_after: CLAIM_AFTER,
            claim_every: CLAIM_EVERY,
        };
        Replies { queue: Queue::new(redis.clone(), options), redis, queued: Arc::default() }
    }

    /// Queues something to be said, by whichever instance takes it first; wakes this one.
    ///
    /// # Errors
    /// [`HotError::Full`] when too much waits; any other: it may be queued. Not to be repeated: it could be said twice.
    pub async fn push(&self, reply: &Reply) -> Result<(), HotError> {
        self.queue.push(&[encoded(reply)?]).await?;
        self.queued.notify_one();
        Ok(())
    }

    /// Waits until this instance has queued something.
    pub async fn queued(&self) {
        self.queued.notified().await;
    }

    /// At most `limit` entries for this instance, oldest first: what it took before and did not strike out, and new
    /// ones. One that was taken is nobody else's until it is late.
    ///
    /// # Errors
    /// [`HotError`]; taking again is safe.
    pub async fn take(&self, limit: usize) -> Result<Vec<Waiting>, HotError> {
        let entries = self.queue.take(limit).await?;
        let waiting =
            entries.into_iter().map(|entry| Waiting { reply: decoded(&entry.payload), id: entry.id });
        Ok(waiting.collect())
    }

    /// Strikes out entries: those that are about to be said, and those that are of no use.
    ///
    /// # Errors
    /// [`HotError`] when it is not known whether they are struck out: then they must not be said. What is still there
    /// comes again.
    pub async fn strike_out(&self, ids: &[String]) -> Result<(), HotError> {
        self.queue.settle(ids).await
    }

    /// Looks whether the queue's server is there; the one way back after it was away.
    ///
    /// # Errors
    /// [`HotError`] when there is no sign of life.
    pub async fn probe(&self) -> Result<(), HotError> {
        // Full is no reason not to empty it.
        self.redis.probe_alive().await
    }
}

/// When something may be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Now; it is counted.
    Now,
    /// Not in this channel for so long.
    Channel(Duration),
    /// Nowhere for so long.
    Sender(Duration),
}

/// How often something may be said in chat, on the limits' role of Redis.
#[derive(Clone)]
pub struct ChatLimits {
    limits: Limits,
    sender: Limit,
}

impl ChatLimits {
    /// With so many messages within 30 seconds over all channels: 20, or up to 100 for a bot that is a moderator
    /// wherever it speaks.
    pub fn new(limits: Limits, sends_max: u32) -> ChatLimits {
        ChatLimits { limits, sender: Limit { max: sends_max, ..SENDER } }
    }

    /// Whether `sender_id` may say something in a channel at `now`; counts it if so.
    ///
    /// # Errors
    /// [`HotError`] when it is not known: then nothing may be said.
    pub async fn turn(&self, sender_id: &str, broadcaster_id: &str, now: Millis) -> Result<Turn, HotError> {
        // The channel first: a turn there that is not used costs a second, one of the sender's would cost thirty.
        let channel = self.limits.check(&CHANNEL, broadcaster_id, now).await?;
        if !channel.allowed {
            return Ok(Turn::Channel(channel.retry_after));
        }
        let sender = self.limits.check(&self.sender, sender_id, now).await?;
        Ok(if sender.allowed { Turn::Now } else { Turn::Sender(sender.retry_after) })
    }

    /// Whether a channel's mood may be told at `now`; counts it if so. Not while Redis is away: everybody may ask.
    pub async fn may_tell_mood(&self, broadcaster_id: &str, now: Millis) -> bool {
        self.allows(&MOOD, broadcaster_id, now).await.unwrap_or(false)
    }

    /// Whether a moderator's command may be answered in a channel at `now`; counts it if so. It is obeyed either way.
    /// Not while Redis is away.
    pub async fn may_confirm(&self, broadcaster_id: &str, now: Millis) -> bool {
        self.allows(&STEERING, broadcaster_id, now).await.unwrap_or(false)
    }

    /// Whether this message is seen as a command for the first time; notes it. While Redis is away each one is: what
    /// moderators ask for is done, if now and then twice.
    pub async fn is_first(&self, message_id: &str, now: Millis) -> bool {
        self.allows(&MESSAGE, message_id, now).await.unwrap_or(true)
    }

    /// Forgets that this message was seen as a command: it could not be obeyed, and is delivered again.
    pub async fn forget(&self, message_id: &str) {
        if let Err(error) = self.limits.forget(&MESSAGE, message_id).await {
            tracing::debug!(%error, "a command in chat that failed can't be forgotten");
        }
    }

    async fn allows(&self, limit: &Limit, subject: &str, now: Millis) -> Result<bool, HotError> {
        let checked = self.limits.check(limit, subject, now).await;
        if let Err(error) = &checked {
            tracing::debug!(%error, module = limit.module, "commands in chat can't be counted");
        }
        checked.map(|verdict| verdict.allowed)
    }
}

/// An answer as it stands in an entry, as JSON.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    broadcaster_id: String,
    text: String,
    reply_to: Option<String>,
    /// Milliseconds.
    made_at: i64,
}

/// What tells how to read an entry.
#[derive(Deserialize)]
struct Format {
    version: u32,
}

fn encoded(reply: &Reply) -> Result<Vec<u8>, HotError> {
    let Reply { broadcaster_id, text, reply_to, made_at } = reply.clone();
    let record = Record { version: FORMAT_VERSION, broadcaster_id, text, reply_to, made_at: made_at.0 };
    serde_json::to_vec(&record)
        .map_err(|error| HotError::Answer(format!("a reply can't be written: {error}")))
}

/// The answer of an entry, or why it can't be read.
fn decoded(payload: &[u8]) -> Result<Reply, String> {
    let unreadable = |error: serde_json::Error| format!("the entry is unreadable: {error}");
    let Format { version } = serde_json::from_slice(payload).map_err(unreadable)?;
    if version != FORMAT_VERSION {
        return Err(format!("the entry has format {version}; this release reads {FORMAT_VERSION}"));
    }
    let record: Record = serde_json::from_slice(payload).map_err(unreadable)?;
    Ok(Reply {
        broadcaster_id: record.broadcaster_id,
        text: record.text,
        reply_to: record.reply_to,
        made_at: Millis(record.made_at),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first release with this queue wrote it.
    const FIXTURE: &str = r#"{"version":1,"broadcaster_id":"4711","text":"Mood \"0\"","reply_to":"3f1c","made_at":1763700000123}"#;

    fn reply() -> Reply {
        Reply {
            broadcaster_id: "4711".into(),
            text: "Mood \"0\"".into(),
            reply_to: Some("3f1c".into()),
            made_at: Millis(1_763_700_000_123),
        }
    }

    #[test]
    fn an_answer_of_the_first_format_is_read_and_written() {
        assert_eq!(decoded(FIXTURE.as_bytes()), Ok(reply()));
        assert_eq!(String::from_utf8(encoded(&reply()).unwrap()).unwrap(), FIXTURE);
        let alone = Reply { reply_to: None, ..reply() };
        assert_eq!(decoded(&encoded(&alone).unwrap()), Ok(alone));
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let reason = |payload: &str| decoded(payload.as_bytes()).unwrap_err();
        assert!(reason("").starts_with("the entry is unreadable"), "{}", reason(""));
        assert!(reason(r#"{"version":1}"#).contains("broadcaster_id"), "{}", reason(r#"{"version":1}"#));
        assert_eq!(reason(r#"{"version":2}"#), "the entry has format 2; this release reads 1");
    }

    #[test]
    fn an_answer_is_late_after_half_a_minute() {
        let at = |ms| Millis(reply().made_at.0 + ms);
        assert!(!reply().is_late(at(30_000)));
        assert!(reply().is_late(at(30_001)));
        assert!(!reply().is_late(at(-5_000)), "made by who has another clock");
    }
}
