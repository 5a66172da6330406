//! Answers in chat are said by the bot, with the application's token, no faster than Twitch lets it. Every instance
//! takes part: each takes some of what waits. What must wait its turn stays in the queue, and is dropped once it is
//! late.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use prometheus::IntCounterVec;

use super::Twitch;
use crate::domain::time::Millis;
use crate::hot::HotError;
use crate::hot::replies::{ChatLimits, Replies, Reply, Turn, Waiting};
use crate::journal::clock::DatabaseClock;
use crate::twitch::client::TwitchError;
use crate::twitch::helix::Sent;

/// Between two looks at what other instances have queued, or left.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What one instance has in hand at a time.
const AT_ONCE_MAX: usize = 50;
/// After a 429 that is not the API's rate limit but the chat's, which doesn't say how long to wait.
const CHAT_LIMITED: Duration = Duration::from_secs(5);
const TOO_MANY_REQUESTS: u16 = 429;
/// Kinds of failures that are told apart in the log.
const KINDS_MAX: usize = 50;
/// What Twitch drops a repeated sentence for: several people gave one command.
const DUPLICATE: &str = "msg_duplicate";

// What became of answers.
const SENT: &str = "sent";
/// Taken by Twitch and kept out by the chat's own rules; or not readable.
const DROPPED: &str = "dropped";
/// Refused for being too many, and put back.
const LIMITED: &str = "limited";
/// Refused for good, or nobody knows whether it was said.
const FAILED: &str = "failed";
const LATE: &str = "late";

impl Twitch {
    /// Says what waits, for as long as the instance runs; nothing without a bot. Costs one question to Redis every two
    /// seconds while nothing waits. `outcomes` has one label: `sent`, `dropped` (by the chat's rules), `limited` (put
    /// back), `failed` or `late`.
    pub async fn serve_replies(
        &self,
        replies: &Replies,
        limits: &ChatLimits,
        clock: &DatabaseClock,
        outcomes: &IntCounterVec,
    ) {
        let Some(sender_id) = self.options.bot_user_id.as_deref() else { return };
        let chats = Chats { twitch: self, sender_id, replies, limits, clock };
        let mut speaker = Speaker::new(outcomes.clone());
        let mut failing = false;
        loop {
            let spoken = speaker.round(&chats).await;
            match &spoken {
                Err(error) if !failing => tracing::warn!(%error, "answers in chat can't be sent"),
                Ok(_) if failing => tracing::info!("answers in chat are sent again"),
                _ => {}
            }
            failing = spoken.is_err();
            let Ok(pause) = spoken else {
                tokio::time::sleep(LOOK_EVERY).await;
                // The queue's connection is our own: nobody else looks for it. The next round tells what this found.
                let _ = replies.probe().await;
                continue;
            };
            // While nothing may be said anyway, news of more is no reason to look.
            let may_speak = speaker.free_at <= clock.now();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = replies.queued(), if may_speak => {}
            }
        }
    }
}

/// What answers are taken from and said to; tests have another one.
trait World {
    fn now(&self) -> Millis;
    async fn take(&self, limit: usize) -> Result<Vec<Waiting>, HotError>;
    async fn strike_out(&self, ids: &[String]) -> Result<(), HotError>;
    async fn put_back(&self, reply: &Reply) -> Result<(), HotError>;
    async fn turn(&self, broadcaster_id: &str, now: Millis) -> Result<Turn, HotError>;
    async fn send(&self, reply: &Reply) -> Result<Sent, TwitchError>;
}

/// Twitch's chats, and what waits for them.
struct Chats<'a> {
    twitch: &'a Twitch,
    sender_id: &'a str,
    replies: &'a Replies,
    limits: &'a ChatLimits,
    clock: &'a DatabaseClock,
}

impl World for Chats<'_> {
    fn now(&self) -> Millis {
        self.clock.now()
    }

    async fn take(&self, limit: usize) -> Result<Vec<Waiting>, HotError> {
        self.replies.take(limit).await
    }

    async fn strike_out(&self, ids: &[String]) -> Result<(), HotError> {
        self.replies.strike_out(ids).await
    }

    async fn put_back(&self, reply: &Reply) -> Result<(), HotError> {
        self.replies.push(reply).await
    }

    async fn turn(&self, broadcaster_id: &str, now: Millis) -> Result<Turn, HotError> {
        self.limits.turn(self.sender_id, broadcaster_id, now).await
    }

    async fn send(&self, reply: &Reply) -> Result<Sent, TwitchError> {
        let Twitch { app, client, .. } = self.twitch;
        let Reply { broadcaster_id, text, reply_to, .. } = reply;
        // A second try with a new token says nothing twice: with the first one nothing happened.
        app.call(async |token: &_| {
            client.send_chat(token, broadcaster_id, self.sender_id, text, reply_to.as_deref()).await
        })
        .await
    }
}

/// Who says what waits, and what it knows of the limits.
struct Speaker {
    outcomes: IntCounterVec,
    /// Nothing may be said before.
    free_at: Millis,
    /// Nor in these channels.
    channels_free_at: HashMap<String, Millis>,
    /// Kinds of failures that were logged.
    told: HashSet<String>,
}

impl Speaker {
    fn new(outcomes: IntCounterVec) -> Speaker {
        for outcome in [SENT, DROPPED, LIMITED, FAILED, LATE] {
            // Known from the start, so that a rate over it is right from the first one on.
            outcomes.with_label_values(&[outcome]);
        }
        Speaker {
            outcomes,
            free_at: Millis::default(),
            channels_free_at: HashMap::new(),
            told: HashSet::new(),
        }
    }

    /// Says what may be said now. Answers how long to wait before the next round.
    async fn round(&mut self, world: &impl World) -> Result<Duration, HotError> {
        let now = world.now();
        self.channels_free_at.retain(|_, free_at| *free_at > now);
        let taken = world.take(AT_ONCE_MAX).await?;
        let count = taken.len();
        let timely = self.sort_out(world, taken).await?;
        let mut pause = LOOK_EVERY;
        let mut left = 0;
        for (id, reply) in timely {
            if let Some(wait) = self.try_to_say(world, id, reply).await? {
                pause = pause.min(wait);
                left += 1;
            }
        }
        // There may be more, and there is room for it.
        let is_full = count >= AT_ONCE_MAX && left < count;
        Ok(if is_full { Duration::ZERO } else { pause })
    }

    /// Strikes out what is late or can't be read, and gives the rest.
    async fn sort_out(
        &mut self,
        world: &impl World,
        taken: Vec<Waiting>,
    ) -> Result<Vec<(String, Reply)>, HotError> {
        let now = world.now();
        let (mut timely, mut useless, mut late) = (Vec::with_capacity(taken.len()), Vec::new(), 0);
        for Waiting { id, reply } in taken {
            match reply {
                Ok(reply) if !reply.is_late(now) => timely.push((id, reply)),
                Ok(_) => {
                    late += 1;
                    useless.push(id);
                }
                Err(reason) => {
                    if self.is_news("unreadable") {
                        tracing::warn!(reason, "an answer in chat is dropped; so are others like it");
                    }
                    useless.push(id);
                }
            }
        }
        if !useless.is_empty() {
            world.strike_out(&useless).await?;
            self.count(LATE, late);
            self.count(DROPPED, useless.len() - late);
        }
        Ok(timely)
    }

    /// Says it if it has its turn, else answers how long it has to wait.
    async fn try_to_say(
        &mut self,
        world: &impl World,
        id: String,
        reply: Reply,
    ) -> Result<Option<Duration>, HotError> {
        let now = world.now();
        let channel_free_at = self.channels_free_at.get(&reply.broadcaster_id).copied();
        let free_at = channel_free_at.unwrap_or_default().max(self.free_at);
        if free_at > now {
            return Ok(Some(Duration::from_millis(free_at.0.abs_diff(now.0))));
        }
        match world.turn(&reply.broadcaster_id, now).await? {
            Turn::Now => {
                self.say(world, id, &reply).await?;
                Ok(None)
            }
            Turn::Channel(wait) => {
                self.channels_free_at.insert(reply.broadcaster_id, later(now, wait));
                Ok(Some(wait))
            }
            Turn::Sender(wait) => {
                self.free_at = later(now, wait);
                Ok(Some(wait))
            }
        }
    }

    /// Says it, having struck it out: whatever happens from then on, it is not said again.
    async fn say(&mut self, world: &impl World, id: String, reply: &Reply) -> Result<(), HotError> {
        world.strike_out(&[id]).await?;
        // An instance that was frozen meanwhile is not the only one that has had it.
        if reply.is_late(world.now()) {
            self.count(LATE, 1);
            return Ok(());
        }
        match world.send(reply).await {
            Ok(Sent { is_sent: true, .. }) => self.count(SENT, 1),
            Ok(Sent { drop_reason, .. }) => {
                self.count(DROPPED, 1);
                self.tell_dropped(reply, drop_reason.as_deref().unwrap_or("no reason given"));
            }
            Err(error) => match pause_after(&error) {
                Some(pause) => self.put_back(world, reply, &error, pause).await,
                None => {
                    self.count(FAILED, 1);
                    self.tell_failed(reply, &error);
                }
            },
        }
        Ok(())
    }

    /// Queues again what Twitch refused for being too much: it was not said.
    async fn put_back(&mut self, world: &impl World, reply: &Reply, error: &TwitchError, pause: Duration) {
        self.count(LIMITED, 1);
        self.free_at = later(world.now(), pause);
        if self.is_news(LIMITED) {
            tracing::warn!(%error, "Twitch finds that the bot says too much; its answers wait");
        }
        if let Err(error) = world.put_back(reply).await {
            tracing::debug!(%error, "an answer in chat can't be put back");
            self.count(DROPPED, 1);
        }
    }

    fn tell_dropped(&mut self, reply: &Reply, reason: &str) {
        let broadcaster = &reply.broadcaster_id;
        let code = reason.split(':').next().unwrap_or(reason);
        if code != DUPLICATE && self.is_news(code) {
            tracing::warn!(broadcaster, reason, "a chat keeps an answer out; others like it are counted");
        } else {
            tracing::debug!(broadcaster, reason, "a chat keeps an answer out");
        }
    }

    fn tell_failed(&mut self, reply: &Reply, error: &TwitchError) {
        let broadcaster = &reply.broadcaster_id;
        let kind = match error {
            TwitchError::Refused { status, .. } => format!("{} {status}", error.outcome()),
            _ => error.outcome().to_owned(),
        };
        if self.is_news(&kind) {
            tracing::warn!(broadcaster, %error, "an answer in chat was not sent; others like it are counted");
        } else {
            tracing::debug!(broadcaster, %error, "an answer in chat was not sent");
        }
    }

    /// Whether this kind of failure was not logged before.
    fn is_news(&mut self, kind: &str) -> bool {
        self.told.len() < KINDS_MAX && self.told.insert(kind.to_owned())
    }

    fn count(&self, outcome: &str, answers: usize) {
        self.outcomes.with_label_values(&[outcome]).inc_by(answers as u64);
    }
}

/// How long to say nothing after Twitch found it too much; `None` for any other failure.
fn pause_after(error: &TwitchError) -> Option<Duration> {
    match error {
        TwitchError::Limited { wait } => Some(*wait),
        TwitchError::Refused { status: TOO_MANY_REQUESTS, .. } => Some(CHAT_LIMITED),
        _ => None,
    }
}

fn later(now: Millis, wait: Duration) -> Millis {
    Millis(now.0.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests;
