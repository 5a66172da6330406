//! What is said in the chats that this instance hears: gathered, and written to Redis once a second.
//!
//! A line may wait here, or on another instance, when a moderator takes it out: who moderates automatically does so
//! within a second. So an erasure is remembered until every line said before it has been written.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::domain::time::Millis;
use crate::hot::chat::{ChatBatch, ChatLine, ChatWindows, Erased, LINES_MAX};

/// How often what was said is written.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// So many flushes after it was first applied an erasure is applied once more: by then other instances have written
/// what they had heard before it.
const AGAIN_AFTER: u64 = 2;
/// So many flushes after it came an erasure that Redis never took is given up: no line is kept for longer.
const GIVE_UP_AFTER: u64 = 3600;
/// Between two looks for sessions that have ended, in flushes.
const LOOK_EVERY: u64 = 10;
/// Erasures remembered at most; the oldest go first.
const ERASURES_MAX: usize = 10_000;

/// What was said since the last batch, by streamer. Bounded: the last 100 lines of each live session.
pub struct ChatWindow {
    windows: ChatWindows,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    said: HashMap<Uuid, Said>,
    erasures: VecDeque<Erasure>,
    flushes: u64,
    /// Streamers whose windows were written here since their sessions began.
    written: HashSet<Uuid>,
}

#[derive(Default)]
struct Said {
    /// As they came.
    lines: VecDeque<ChatLine>,
    heard_at: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Erasure {
    streamer_id: Uuid,
    erased: Erased,
    /// From which flush on it is to be applied.
    due: u64,
    /// Whether it has been applied once.
    again: bool,
    give_up: u64,
}

impl ChatWindow {
    /// One of an instance, which writes to these windows.
    pub fn new(windows: ChatWindows) -> ChatWindow {
        ChatWindow { windows, pending: Mutex::default() }
    }

    /// Notes what was said in a streamer's chat. For every message: it neither waits nor fails.
    pub fn note(&self, streamer_id: Uuid, line: ChatLine) {
        self.pending().note(streamer_id, line);
    }

    /// Takes lines out, here at once, from Redis with the next batch, and once more two batches later. What is said
    /// within these three seconds after a chat was cleared, or by a viewer who may write again, is taken out with
    /// the rest.
    pub fn erase(&self, streamer_id: Uuid, erased: Erased) {
        self.pending().erase(streamer_id, erased);
    }

    /// Writes what was said, once a second, for ever; takes out the windows of streamers whose session `is_live` no more.
    pub async fn keep_writing(&self, is_live: impl Fn(Uuid) -> bool) -> ! {
        let mut ticks = tokio::time::interval(FLUSH_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.pending().erase_ended(&is_live);
            self.flush().await;
        }
    }

    /// Writes what is left, and takes out all that is to go: the instance stops.
    pub async fn finish(&self) {
        self.pending().hurry();
        self.flush().await;
    }

    /// Writes what was said since the last time. What Redis doesn't take is lost; what is to be taken out is tried
    /// again.
    pub async fn flush(&self) {
        let (batches, due) = self.pending().take();
        if !batches.is_empty()
            && let Err(error) = self.windows.append(&batches).await
        {
            tracing::debug!(%error, chats = batches.len(), "what was said in chats was not kept");
        }
        if due.is_empty() {
            return;
        }
        // After what was said: a message may have come after the word that it is to go.
        let erased: Vec<_> = due.iter().map(|one| (one.streamer_id, one.erased.clone())).collect();
        let result = self.windows.erase(&erased).await;
        if let Err(error) = &result {
            tracing::debug!(%error, erasures = due.len(), "lines of chats could not be taken out yet");
        }
        self.pending().put_back(due, result.is_ok());
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Nothing in there can panic half-way, so a poisoned lock still guards whole data.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn note(&mut self, streamer_id: Uuid, line: ChatLine) {
        let said = self.said.entry(streamer_id).or_default();
        said.heard_at = said.heard_at.max(line.at);
        if said.lines.len() >= LINES_MAX {
            said.lines.pop_front();
        }
        said.lines.push_back(line);
    }

    fn erase(&mut self, streamer_id: Uuid, erased: Erased) {
        if let Some(said) = self.said.get_mut(&streamer_id) {
            said.lines.retain(|line| !erased.covers(line));
        }
        let (due, give_up) = (self.flushes, self.flushes + GIVE_UP_AFTER);
        self.remember(Erasure { streamer_id, erased, due, again: false, give_up });
    }

    /// Takes out the windows of sessions that have ended, now and then.
    fn erase_ended(&mut self, is_live: impl Fn(Uuid) -> bool) {
        if !self.flushes.is_multiple_of(LOOK_EVERY) {
            return;
        }
        let ended: Vec<Uuid> = self.written.iter().copied().filter(|id| !is_live(*id)).collect();
        for streamer_id in ended {
            self.written.remove(&streamer_id);
            self.erase(streamer_id, Erased::All);
        }
    }

    /// Has all erasures be applied with the next flush.
    fn hurry(&mut self) {
        self.erasures.iter_mut().for_each(|erasure| erasure.due = 0);
    }

    fn remember(&mut self, erasure: Erasure) {
        if self.erasures.len() >= ERASURES_MAX {
            self.erasures.pop_front();
        }
        self.erasures.push_back(erasure);
    }

    /// Takes what a flush is to write: what was said, and then what is to be taken out.
    fn take(&mut self) -> (Vec<ChatBatch>, Vec<Erasure>) {
        let flush = self.flushes;
        self.flushes += 1;
        let erasures = std::mem::take(&mut self.erasures);
        let (due, waiting): (Vec<_>, Vec<_>) = erasures.into_iter().partition(|one| one.due <= flush);
        self.erasures = waiting.into();
        let batch = |(streamer_id, Said { lines, heard_at }): (Uuid, Said)| {
            let mut lines: Vec<ChatLine> = lines.into();
            lines.sort_by_key(|line| line.at);
            ChatBatch { streamer_id, lines, heard_at }
        };
        let batches: Vec<ChatBatch> = std::mem::take(&mut self.said).into_iter().map(batch).collect();
        self.written.extend(batches.iter().map(|batch| batch.streamer_id));
        (batches, due)
    }

    /// Remembers which erasures of the last flush are to be applied again: for the second time, or since Redis did
    /// not take them.
    fn put_back(&mut self, erasures: Vec<Erasure>, applied: bool) {
        let next = self.flushes;
        for erasure in erasures {
            if applied && !erasure.again {
                self.remember(Erasure { due: next - 1 + AGAIN_AFTER, again: true, ..erasure });
            } else if !applied && erasure.give_up >= next {
                self.remember(erasure);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hot::{Hot, HotOptions};

    const STREAMER: Uuid = Uuid::from_u128(7);

    fn line(message_id: &str, login: &str, at: i64) -> ChatLine {
        ChatLine {
            message_id: message_id.into(),
            login: login.into(),
            name: login.to_uppercase(),
            text: "Hello".into(),
            at: Millis(at),
            side: None,
        }
    }

    fn ids(batches: &[ChatBatch]) -> Vec<&str> {
        batches.iter().flat_map(|batch| &batch.lines).map(|line| line.message_id.as_str()).collect()
    }

    /// What a flush to a Redis that takes everything would take out.
    fn flushed(pending: &mut Pending) -> Vec<Erased> {
        let (_, due) = pending.take();
        let erased = due.iter().map(|one| one.erased.clone()).collect();
        pending.put_back(due, true);
        erased
    }

    #[test]
    fn the_window_of_a_session_that_has_ended_goes() {
        let mut pending = Pending::default();
        pending.note(STREAMER, line("m", "a", 1));
        flushed(&mut pending);
        pending.flushes = LOOK_EVERY;
        pending.erase_ended(|_| true);
        assert!(pending.erasures.is_empty());
        pending.erase_ended(|_| false);
        assert_eq!(flushed(&mut pending), [Erased::All]);
    }

    #[test]
    fn an_instance_that_stops_takes_out_what_was_to_go_later() {
        let mut pending = Pending::default();
        pending.erase(STREAMER, message("m"));
        assert_eq!(flushed(&mut pending), [message("m")]);
        assert_eq!(flushed(&mut pending), []);
        pending.hurry();
        assert_eq!(flushed(&mut pending), [message("m")]);
    }

    fn message(id: &str) -> Erased {
        Erased::Message(id.into())
    }

    #[test]
    fn a_batch_has_what_was_said_since_the_last_one_in_order_of_time() {
        let mut pending = Pending::default();
        for (id, at) in [("b", 20), ("a", 10), ("c", 20)] {
            pending.note(STREAMER, line(id, "x", at));
        }
        let (batches, _) = pending.take();
        assert_eq!(ids(&batches), ["a", "b", "c"]);
        assert_eq!((batches[0].streamer_id, batches[0].heard_at), (STREAMER, Millis(20)));
        assert!(pending.take().0.is_empty());
    }

    #[test]
    fn of_more_than_a_window_holds_the_last_lines_wait() {
        let mut pending = Pending::default();
        for at in 0..250 {
            pending.note(STREAMER, line(&at.to_string(), "x", at));
        }
        let (batches, _) = pending.take();
        assert_eq!((batches[0].lines.len(), batches[0].lines[0].at), (LINES_MAX, Millis(150)));
    }

    #[test]
    fn what_is_erased_is_gone_from_what_waits_but_was_heard() {
        let waiting_after = |erased: Erased| {
            let mut pending = Pending::default();
            pending.note(STREAMER, line("a", "x", 10));
            pending.note(STREAMER, line("b", "y", 20));
            pending.note(STREAMER, line("c", "x", 30));
            pending.note(Uuid::from_u128(8), line("d", "x", 5));
            pending.erase(STREAMER, erased);
            let (mut batches, _) = pending.take();
            batches.retain(|batch| batch.streamer_id == STREAMER);
            assert_eq!(batches[0].heard_at, Millis(30));
            ids(&batches).join(",")
        };
        assert_eq!(waiting_after(message("b")), "a,c");
        assert_eq!(waiting_after(Erased::User("x".into())), "b");
        assert_eq!(waiting_after(Erased::All), "");
    }

    #[test]
    fn an_erasure_is_applied_with_the_next_flush_and_once_more_two_later() {
        let mut pending = Pending::default();
        flushed(&mut pending);
        pending.erase(STREAMER, message("a"));
        assert_eq!(flushed(&mut pending), [message("a")]);
        pending.erase(STREAMER, Erased::All);
        assert_eq!(flushed(&mut pending), [Erased::All]);
        assert_eq!(flushed(&mut pending), [message("a")]);
        assert_eq!(flushed(&mut pending), [Erased::All]);
        assert!(pending.erasures.is_empty());
    }

    #[test]
    fn what_redis_did_not_take_out_is_tried_until_no_window_is_as_old() {
        let mut pending = Pending::default();
        pending.erase(STREAMER, message("a"));
        for _ in 0..5 {
            let (_, due) = pending.take();
            assert_eq!(due.len(), 1);
            pending.put_back(due, false);
        }
        pending.flushes = GIVE_UP_AFTER;
        let (_, due) = pending.take();
        pending.put_back(due, false);
        assert!(pending.erasures.is_empty());
    }

    #[test]
    fn the_erasures_that_are_remembered_have_a_bound() {
        let mut pending = Pending::default();
        for id in 0..=ERASURES_MAX {
            pending.erase(STREAMER, message(&id.to_string()));
        }
        let (_, due) = pending.take();
        assert_eq!((due.len(), &due[0].erased), (ERASURES_MAX, &message("1")));
    }

    #[tokio::test]
    async fn while_redis_is_away_lines_are_dropped_and_erasures_kept() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let patience = Duration::from_secs(20);
        let options = HotOptions {
            urls: vec![format!("redis+unix://{}", directory.path().join("none.sock").display())],
            pool_size: 1,
            command_timeout: patience,
            connect_timeout: patience,
        };
        let window = ChatWindow::new(ChatWindows::new(Hot::connect(&options).expect("a usable URL")));
        window.note(STREAMER, line("a", "x", 10));
        window.erase(STREAMER, message("b"));
        window.flush().await;
        let (batches, due) = window.pending().take();
        assert!(batches.is_empty());
        assert_eq!(due.len(), 1);
    }
}
