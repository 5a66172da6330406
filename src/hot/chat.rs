//! What was said last in each live chat, for who looks on, and when each was last heard. Written in batches; all
//! of it may be lost, and comes again with what is said next.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use deadpool_redis::redis::{Cmd, cmd};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::functions::Function;
use super::keys::{self, Bucket};
use super::pool::answer;
use super::{Hot, HotError};
use crate::domain::sentiment::Side;
use crate::domain::time::Millis;

/// Lines that a window keeps: the last ones by time.
pub const LINES_MAX: usize = 100;
/// Bytes of a text that are kept: a message on Twitch has up to 500 characters, most have far fewer.
const TEXT_MAX: usize = 600;
/// Bytes of a login or name that are kept.
const NAME_MAX: usize = 100;
/// How long a line is kept, and a window after the last batch of its chat.
const WINDOW_TTL_MS: u64 = 3600 * 1000;
/// How long it is known of a bucket's chats when they were heard, after the last one was.
const HEARD_TTL_MS: u64 = 24 * 3600 * 1000;
/// Quiet chats read from one bucket at most; the rest comes with the next look.
const QUIET_MAX: usize = 500;

/// A message in a chat. Who wrote it is known by login and name alone, not by an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatLine {
    pub message_id: String,
    /// In lower case.
    pub login: String,
    pub name: String,
    pub text: String,
    pub at: Millis,
    /// For which side it has voted.
    pub side: Option<Side>,
}

/// What was said in one chat since the last batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatBatch {
    pub streamer_id: Uuid,
    /// Oldest first; of more than [`LINES_MAX`] the last ones count.
    pub lines: Vec<ChatLine>,
    /// When the chat was last heard, whether or not a line is left of that.
    pub heard_at: Millis,
}

/// What is taken out of a chat's window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Erased {
    /// The message of this id.
    Message(String),
    /// Everything a viewer wrote, by their login in lower case.
    User(String),
    All,
}

impl Erased {
    /// Whether this line is taken out.
    pub fn covers(&self, line: &ChatLine) -> bool {
        match self {
            Erased::Message(message_id) => line.message_id == *message_id,
            Erased::User(login) => line.login == *login,
            Erased::All => true,
        }
    }
}

/// The windows of all live chats.
#[derive(Clone)]
pub struct ChatWindows {
    redis: Hot,
}

impl ChatWindows {
    /// The windows on the server behind `redis`.
    pub fn new(redis: Hot) -> ChatWindows {
        ChatWindows { redis }
    }

    /// Looks whether the server is there. To be called once a second; the one way back after it was
    /// away.
    ///
    /// # Errors
    /// [`HotError`] when there is no sign of life.
    pub async fn probe(&self) -> Result<(), HotError> {
        self.redis.probe().await
    }

    /// Adds what was said to the windows, which keep their last 100 lines by time, and notes when the chats were
    /// heard.
    ///
    /// # Errors
    /// [`HotError`]; some of it may be there, and adding it again is safe.
    pub async fn append(&self, batches: &[ChatBatch]) -> Result<(), HotError> {
        let mut calls = Vec::with_capacity(batches.len());
        for batch in batches {
            calls.push(append_call(batch)?);
        }
        self.redis.send(calls).await?.into_iter().try_for_each(answer)
    }

    /// Takes lines out of windows, in this order.
    ///
    /// # Errors
    /// [`HotError`]; some may be out, and taking them out again is safe.
    pub async fn erase(&self, erased: &[(Uuid, Erased)]) -> Result<(), HotError> {
        let calls = erased.iter().map(|(streamer_id, erased)| erase_call(*streamer_id, erased));
        self.redis.send(calls.collect()).await?.into_iter().try_for_each(answer)
    }

    /// The last lines of a chat, oldest first; what can't be read is left out.
    ///
    /// # Errors
    /// [`HotError`] when they are not known.
    pub async fn read(&self, streamer_id: Uuid) -> Result<Vec<ChatLine>, HotError> {
        let mut range = cmd("LRANGE");
        range.arg(keys::chat(streamer_id)).arg(0).arg(-1);
        let written: Vec<Vec<u8>> = self.redis.ask(range).await?;
        let mut lines: Vec<ChatLine> = written.iter().filter_map(|json| line_of(json)).collect();
        // A message that Twitch delivered again much later is there twice: looking for it with each batch would take
        // far more time than leaving it out here.
        let mut known = HashSet::new();
        lines.retain(|line| known.insert(line.message_id.clone()));
        Ok(lines)
    }

    /// When each of these chats was last heard, in their order; `None` where nothing is known.
    ///
    /// # Errors
    /// [`HotError`].
    pub async fn last_heard(&self, streamer_ids: &[Uuid]) -> Result<Vec<Option<Millis>>, HotError> {
        let commands = streamer_ids.iter().map(|streamer_id| {
            let mut score = cmd("ZSCORE");
            score.arg(keys::heard(Bucket::of(*streamer_id))).arg(streamer_id.to_string());
            score
        });
        let answers = self.redis.send(commands.collect()).await?;
        let heard_at = |value| answer::<Option<f64>>(value).map(|score| score.map(millis));
        answers.into_iter().map(heard_at).collect()
    }

    /// Chats that were last heard at `since` or before, longest ago first, and when that was; of each of the 64
    /// buckets 500 at most. Those of sessions that have ended are among them, until [`ChatWindows::unwatch`].
    ///
    /// # Errors
    /// [`HotError`].
    pub async fn quiet_since(&self, since: Millis) -> Result<Vec<(Uuid, Millis)>, HotError> {
        let commands = Bucket::all().map(|bucket| {
            let mut range = cmd("ZRANGEBYSCORE");
            range.arg(keys::heard(bucket)).arg("-inf").arg(since.0);
            range.arg("WITHSCORES").arg("LIMIT").arg(0).arg(QUIET_MAX);
            range
        });
        let mut quiet = Vec::new();
        for value in self.redis.send(commands.collect()).await? {
            for (id, heard_at) in answer::<Vec<(String, f64)>>(value)? {
                let id = id.parse().map_err(|_| HotError::Answer(format!("the chat {id:?}")))?;
                quiet.push((id, millis(heard_at)));
            }
        }
        quiet.sort_by_key(|(_, heard_at)| *heard_at);
        Ok(quiet)
    }

    /// Expects these chats to be heard from `now` on: those of which nothing is known count as heard now.
    ///
    /// # Errors
    /// [`HotError`]; some may be noted, and noting them again is safe.
    pub async fn watch(&self, streamer_ids: &[Uuid], now: Millis) -> Result<(), HotError> {
        let mut commands = Vec::new();
        for (bucket, ids) in by_bucket(streamer_ids) {
            let mut add = cmd("ZADD");
            add.arg(keys::heard(bucket)).arg("NX");
            for id in ids {
                add.arg(now.0).arg(id);
            }
            let mut renew = cmd("PEXPIRE");
            renew.arg(keys::heard(bucket)).arg(HEARD_TTL_MS);
            commands.extend([add, renew]);
        }
        self.redis.send(commands).await?.into_iter().try_for_each(answer)
    }

    /// Forgets when these chats were heard: nobody expects to hear them.
    ///
    /// # Errors
    /// [`HotError`]; some may be forgotten, and forgetting them again is safe.
    pub async fn unwatch(&self, streamer_ids: &[Uuid]) -> Result<(), HotError> {
        let commands = by_bucket(streamer_ids).into_iter().map(|(bucket, ids)| {
            let mut remove = cmd("ZREM");
            remove.arg(keys::heard(bucket)).arg(ids);
            remove
        });
        self.redis.send(commands.collect()).await?.into_iter().try_for_each(answer)
    }
}

fn by_bucket(streamer_ids: &[Uuid]) -> BTreeMap<Bucket, Vec<String>> {
    let mut buckets: BTreeMap<Bucket, Vec<String>> = BTreeMap::new();
    for id in streamer_ids {
        buckets.entry(Bucket::of(*id)).or_default().push(id.to_string());
    }
    buckets
}

fn append_call(batch: &ChatBatch) -> Result<Cmd, HotError> {
    let streamer_id = batch.streamer_id;
    let touched = [keys::chat(streamer_id), keys::heard(Bucket::of(streamer_id))];
    let mut call = Function::ChatAppend.call(&touched);
    call.arg(streamer_id.to_string()).arg(batch.heard_at.0);
    call.arg(LINES_MAX).arg(WINDOW_TTL_MS).arg(HEARD_TTL_MS);
    for line in &batch.lines[batch.lines.len().saturating_sub(LINES_MAX)..] {
        call.arg(json_of(line)?);
    }
    Ok(call)
}

fn erase_call(streamer_id: Uuid, erased: &Erased) -> Cmd {
    let mut call = Function::ChatErase.call(&[keys::chat(streamer_id)]);
    // A value is sought as it stands in a line.
    let json = |value: &str| serde_json::Value::from(value).to_string();
    match erased {
        Erased::Message(message_id) => call.arg("id").arg(json(message_id)),
        Erased::User(login) => call.arg("login").arg(json(cut(login, NAME_MAX))),
        Erased::All => call.arg("all"),
    };
    call
}

/// A line as it stands in a window, as JSON. The functions in `lua/chat.lua` rely on the order of the first three, and
/// on another one after them.
#[derive(Serialize, Deserialize)]
struct Record<'a> {
    at: u64,
    id: Cow<'a, str>,
    login: Cow<'a, str>,
    name: Cow<'a, str>,
    text: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    side: Option<Cow<'a, str>>,
}

fn json_of(line: &ChatLine) -> Result<Vec<u8>, HotError> {
    let side = line.side.map(|side| match side {
        Side::For => "for",
        Side::Against => "against",
    });
    let record = Record {
        at: u64::try_from(line.at.0).unwrap_or(0),
        id: Cow::from(line.message_id.as_str()),
        login: Cow::from(cut(&line.login, NAME_MAX)),
        name: Cow::from(cut(&line.name, NAME_MAX)),
        text: Cow::from(cut(&line.text, TEXT_MAX)),
        side: side.map(Cow::from),
    };
    serde_json::to_vec(&record)
        .map_err(|error| HotError::Answer(format!("a line of chat can't be written: {error}")))
}

/// The line of an entry; `None` of what this release can't read.
fn line_of(json: &[u8]) -> Option<ChatLine> {
    let record: Record<'_> = serde_json::from_slice(json).ok()?;
    Some(ChatLine {
        message_id: record.id.into_owned(),
        login: record.login.into_owned(),
        name: record.name.into_owned(),
        text: record.text.into_owned(),
        at: Millis(i64::try_from(record.at).ok()?),
        side: match record.side.as_deref() {
            Some("for") => Some(Side::For),
            Some("against") => Some(Side::Against),
            _ => None,
        },
    })
}

/// As many whole characters of a text as fit.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A sorted set's score, which is exact for milliseconds.
fn millis(score: f64) -> Millis {
    Millis(score as i64)
}
