//! How chats are doing: which are silent although their stream is live, which Twitch does not let us read, and which
//! are well again. PostgreSQL knows what Twitch refuses; when a chat was last heard, only Redis knows. Each change is
//! an event.

use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

use super::{ReconcileError, Twitch};
use crate::domain::stream::ChatHealth;
use crate::domain::time::Millis;
use crate::hot::HotError;
use crate::journal::recordings::ChatChange;

/// Chats that are compared in one pass; those that PostgreSQL knows to have changed come first.
const CHANGES_A_PASS: i64 = 5_000;
/// Quiet chats that are looked at in one pass, longest quiet first.
const QUIET_A_PASS: usize = 5_000;
/// Events that one pass appends for each of both, so that the duty's lease does not lapse meanwhile.
const NOTED_A_PASS: usize = 500;
/// When a chat was last heard is remembered for so long after nobody expects to hear it any more.
const REMEMBERED: Duration = Duration::from_secs(3_600);

/// What is to be done about a chat that PostgreSQL has named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Note(ChatHealth),
    /// Redis has forgotten when it was heard: that is noted anew.
    Remember,
    Leave,
}

impl Twitch {
    /// One pass over all chats: appends which are silent, blocked, unauthorized or well again, and counts them in the
    /// metric. Chats are known to have been heard without a break from `heard_from` on: silence before it is none.
    /// While Redis is away nothing is said of silence, which then counts from `now` on.
    ///
    /// # Errors
    /// [`ReconcileError`] when PostgreSQL is away; what was noted stays noted.
    pub(super) async fn check_chats(
        &self,
        heard_from: &mut Millis,
        now: Millis,
    ) -> Result<(), ReconcileError> {
        let since = before(now, self.options.silent_after);
        let changes = self.journal.chat_changes(CHANGES_A_PASS).await?;
        let quiet = match self.note_changes(&changes, since).await? {
            true => answered(self.windows.quiet_since(since).await),
            false => None,
        };
        match quiet {
            Some(quiet) => {
                let silent = changes.iter().filter(|change| change.noted == ChatHealth::Silent);
                let quiet = others(quiet, &silent.map(|change| change.streamer_id).collect());
                if *heard_from <= since {
                    self.note_silent(&quiet, since).await?;
                }
                self.forget_idle(&quiet, now).await?;
            }
            None => *heard_from = now,
        }
        self.count_chats().await
    }

    /// Notes what has changed as far as PostgreSQL knows, and who of the silent ones is not silent any more. Answers
    /// whether Redis told what it was asked.
    async fn note_changes(&self, changes: &[ChatChange], since: Millis) -> Result<bool, ReconcileError> {
        if changes.is_empty() {
            return Ok(true);
        }
        let ids: Vec<Uuid> = changes.iter().map(|change| change.streamer_id).collect();
        let told = answered(self.windows.last_heard(&ids).await);
        let is_told = told.is_some();
        let (mut forgotten, mut noted) = (Vec::new(), 0);
        for (change, last) in changes.iter().zip(told.unwrap_or_else(|| vec![None; ids.len()])) {
            match judge(change, last, since) {
                Verdict::Note(health) if noted < NOTED_A_PASS => {
                    noted += 1;
                    self.note_health(change.streamer_id, health, change.reason.as_deref(), last).await?;
                }
                Verdict::Remember => forgotten.push(change.streamer_id),
                Verdict::Note(_) | Verdict::Leave => {}
            }
        }
        if is_told {
            // Before others count them as heard now, which would make them well.
            self.watch_chats(&forgotten, since).await;
        }
        Ok(is_told)
    }

    /// Notes as silent who has not been heard since `since`, of those whose silence means something.
    async fn note_silent(&self, quiet: &[(Uuid, Millis)], since: Millis) -> Result<(), ReconcileError> {
        let ids: Vec<Uuid> = quiet.iter().map(|(id, _)| *id).collect();
        // One that can't be read is silent too, which is told already.
        let listening = self.listening(&ids, since, true).await?;
        for (id, last) in quiet.iter().filter(|(id, _)| listening.contains(id)).take(NOTED_A_PASS) {
            self.note_health(*id, ChatHealth::Silent, None, Some(*last)).await?;
        }
        Ok(())
    }

    /// Forgets when chats were heard that nobody expects to hear. One that is live although we are not listening yet is
    /// watched again when streams are looked at.
    async fn forget_idle(&self, quiet: &[(Uuid, Millis)], now: Millis) -> Result<(), ReconcileError> {
        let mut idle = idle(quiet, now);
        let listening = self.listening(&idle, now, false).await?;
        idle.retain(|id| !listening.contains(id));
        if !idle.is_empty() {
            answered(self.windows.unwatch(&idle).await);
        }
        Ok(())
    }

    async fn listening(
        &self,
        ids: &[Uuid],
        since: Millis,
        well: bool,
    ) -> Result<HashSet<Uuid>, ReconcileError> {
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        Ok(self.journal.listening(ids, since, well).await?.into_iter().collect())
    }

    async fn note_health(
        &self,
        streamer_id: Uuid,
        health: ChatHealth,
        reason: Option<&str>,
        last: Option<Millis>,
    ) -> Result<(), ReconcileError> {
        if !self.journal.note_chat_health(streamer_id, health, reason, last).await? {
            return Ok(());
        }
        match health {
            ChatHealth::Well => tracing::info!(%streamer_id, "a chat is well again"),
            ChatHealth::Silent => tracing::info!(%streamer_id, "a live stream's chat is silent"),
            ChatHealth::Blocked => {
                tracing::warn!(%streamer_id, reason, "Twitch does not let a chat be read");
            }
            ChatHealth::Unauthorized => {
                tracing::warn!(%streamer_id, reason, "a chat can't be read: its streamer has to sign in again");
            }
        }
        Ok(())
    }

    async fn count_chats(&self) -> Result<(), ReconcileError> {
        let counts = self.journal.chat_health_counts().await?;
        for health in ChatHealth::TROUBLES {
            let count = counts.iter().find(|(counted, _)| *counted == health).map_or(0, |(_, count)| *count);
            self.chats.with_label_values(&[health.name()]).set(count);
        }
        Ok(())
    }

    /// Expects these chats to be heard: those of which nothing is known count as heard at `at`. While Redis is away
    /// they don't.
    pub(super) async fn watch_chats(&self, streamer_ids: &[Uuid], at: Millis) {
        if !streamer_ids.is_empty() {
            answered(self.windows.watch(streamer_ids, at).await);
        }
    }
}

/// What Redis answered; `None` while it is away, which is told where it is probed.
fn answered<T>(answer: Result<T, HotError>) -> Option<T> {
    answer.inspect_err(|error| tracing::debug!(%error, "when chats were heard is not known")).ok()
}

/// The time so long before `now`.
fn before(now: Millis, duration: Duration) -> Millis {
    Millis(now.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
}

/// What to do about a chat that was last heard at `last`, and is silent if that was not after `since`.
fn judge(change: &ChatChange, last: Option<Millis>, since: Millis) -> Verdict {
    match (change.now, last) {
        (ChatHealth::Silent, _) if !change.listening => Verdict::Note(ChatHealth::Well),
        (ChatHealth::Silent, None) => Verdict::Remember,
        (ChatHealth::Silent, Some(last)) if last > since => Verdict::Note(ChatHealth::Well),
        (ChatHealth::Silent, Some(_)) => Verdict::Leave,
        (health, _) => Verdict::Note(health),
    }
}

/// The quiet chats that are not known to be silent, as many as one pass looks at.
fn others(quiet: Vec<(Uuid, Millis)>, silent: &HashSet<Uuid>) -> Vec<(Uuid, Millis)> {
    quiet.into_iter().filter(|(id, _)| !silent.contains(id)).take(QUIET_A_PASS).collect()
}

/// The quiet chats that may be forgotten if nobody expects to hear them: after a while, or at once where they would
/// keep others from being looked at.
fn idle(quiet: &[(Uuid, Millis)], now: Millis) -> Vec<Uuid> {
    let is_crowded = quiet.len() >= QUIET_A_PASS;
    let until = if is_crowded { now } else { before(now, REMEMBERED) };
    quiet.iter().filter(|(_, last)| *last <= until).map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_763_700_000_000);
    const SINCE: Millis = Millis(NOW.0 - 300_000);

    fn change(noted: ChatHealth, now: ChatHealth, listening: bool) -> ChatChange {
        ChatChange { streamer_id: Uuid::from_u128(1), noted, now, reason: None, listening }
    }

    fn chat(number: u128, seconds_ago: i64) -> (Uuid, Millis) {
        (Uuid::from_u128(number), Millis(NOW.0 - seconds_ago * 1_000))
    }

    #[test]
    fn what_postgresql_knows_is_noted_whatever_was_heard() {
        for now in [ChatHealth::Blocked, ChatHealth::Unauthorized] {
            for last in [None, Some(NOW), Some(SINCE)] {
                let verdict = judge(&change(ChatHealth::Silent, now, true), last, SINCE);
                assert_eq!(verdict, Verdict::Note(now));
            }
        }
        let mended = change(ChatHealth::Blocked, ChatHealth::Well, false);
        assert_eq!(judge(&mended, None, SINCE), Verdict::Note(ChatHealth::Well));
    }

    #[test]
    fn a_silent_chat_is_well_once_it_is_heard_or_its_silence_means_nothing() {
        let silent = |listening| change(ChatHealth::Silent, ChatHealth::Silent, listening);
        let well = Verdict::Note(ChatHealth::Well);
        assert_eq!(judge(&silent(true), Some(Millis(SINCE.0 + 1)), SINCE), well);
        assert_eq!(judge(&silent(false), Some(SINCE), SINCE), well);
        assert_eq!(judge(&silent(false), None, SINCE), well);
        assert_eq!(judge(&silent(true), Some(SINCE), SINCE), Verdict::Leave);
    }

    #[test]
    fn a_silent_chat_that_redis_has_forgotten_stays_silent() {
        let silent = change(ChatHealth::Silent, ChatHealth::Silent, true);
        assert_eq!(judge(&silent, None, SINCE), Verdict::Remember);
        // As it is noted anew, also in the passes that follow.
        assert_eq!(judge(&silent, Some(SINCE), SINCE), Verdict::Leave);
        assert_eq!(judge(&silent, Some(SINCE), Millis(SINCE.0 + 10_000)), Verdict::Leave);
    }

    #[test]
    fn chats_known_to_be_silent_are_not_looked_at_again() {
        let quiet = vec![chat(1, 900), chat(2, 600), chat(3, 300)];
        let silent = HashSet::from([Uuid::from_u128(2)]);
        assert_eq!(others(quiet, &silent), [chat(1, 900), chat(3, 300)]);
    }

    #[test]
    fn when_a_chat_was_heard_is_forgotten_after_an_hour_or_when_there_are_too_many() {
        let quiet = [chat(1, 3_700), chat(2, 3_500), chat(3, 300)];
        assert_eq!(idle(&quiet, NOW), [Uuid::from_u128(1)]);
        let many: Vec<_> = (0..QUIET_A_PASS as u128).map(|number| chat(number, 300)).collect();
        assert_eq!(idle(&many, NOW).len(), QUIET_A_PASS);
    }

    #[test]
    fn no_time_is_too_long_to_go_back() {
        assert_eq!(before(Millis(5_000), Duration::from_secs(2)), Millis(3_000));
        assert!(before(NOW, Duration::MAX) < Millis(0));
    }
}
