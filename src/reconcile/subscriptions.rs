//! Subscriptions: what the journal wants is created at Twitch, what nobody needs is deleted there, and both lists are
//! compared now and then.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::conduit::APPLICATION_KINDS;
use super::{ReconcileError, Twitch, backoff};
use crate::journal::subscriptions::{Due, Task};
use crate::twitch::client::TwitchError;
use crate::twitch::helix::{NewSubscription, Subscription};

/// What is due is nobody else's for so long: longer than a batch takes.
const DUE_LEASE: Duration = Duration::from_secs(60);
const DUE_A_BATCH: i64 = 50;
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Subscriptions marked as unwanted in one statement.
const UNWANTED_A_CALL: i32 = 200;
const KNOWN_A_CALL: i64 = 5_000;
const ENABLED: &str = "enabled";
/// While Twitch lets us do no more: short, so that the duty is kept.
const LIMITED_PAUSE: Duration = Duration::from_secs(5);
/// With fewer points left, others get a turn between two calls: Twitch gives some ten points a second back.
const FEW_POINTS: u32 = 50;
const OTHERS_TURN: Duration = Duration::from_millis(150);
/// What was made lately may be somebody's who has not noted it yet.
const YOUNG: time::Duration = time::Duration::minutes(2);

/// What a subscription's condition names besides the broadcaster.
const READER: &str = "user_id";
const BROADCASTER: &str = "broadcaster_user_id";
/// What the types begin with that are read as somebody.
const CHAT_KINDS: &str = "channel.chat.";
const OTHER_READER: &str = "twitch.bot_user_id is another account now";

/// How far a batch came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is due any more.
    Done,
    /// There may be more.
    More,
    /// Twitch lets us do no more for so long.
    Limited(Duration),
    /// The conduit is not there: it has to be looked after first.
    ConduitGone,
}

/// What a try to create a subscription means for it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Confirmed(String),
    /// Tried again after a pause.
    Later(String),
    /// Only a person can help.
    Blocked(String),
}

impl Twitch {
    /// Creates and deletes what is due, a batch of it.
    ///
    /// # Errors
    /// [`ReconcileError`] when PostgreSQL is away; what Twitch refuses is noted where it belongs.
    pub async fn work_off_due(&self, conduit_id: &str) -> Result<Progress, ReconcileError> {
        let due = self.journal.take_due_subscriptions(DUE_LEASE, DUE_A_BATCH).await?;
        let all = due.len() < DUE_A_BATCH as usize;
        for (index, one) in due.iter().enumerate() {
            if !self.keeps_duty().await? {
                return Ok(Progress::Done);
            }
            self.give_others_a_turn().await;
            let worked = match one.task {
                Task::Create => self.create(one, conduit_id).await,
                Task::Delete => self.delete(one).await,
            };
            let (stopped, wait) = match worked {
                Ok(()) => continue,
                Err(ReconcileError::Twitch(TwitchError::Limited { wait })) => (Progress::Limited(wait), wait),
                Err(ReconcileError::Twitch(error)) if is_conduit_gone(&error) => {
                    (Progress::ConduitGone, FIRST_PAUSE)
                }
                Err(error) => return Err(error),
            };
            self.journal.give_back_subscriptions(&due[index + 1..], wait).await?;
            return Ok(stopped);
        }
        Ok(if all { Progress::Done } else { Progress::More })
    }

    /// Waits a moment while little is left of the rate limit, which shards and answers in chat need, too.
    async fn give_others_a_turn(&self) {
        if self.client.allowance().is_some_and(|left| left < FEW_POINTS) {
            tokio::time::sleep(OTHERS_TURN).await;
        }
    }

    async fn create(&self, due: &Due, conduit_id: &str) -> Result<(), ReconcileError> {
        let Some(condition) = self.condition(due) else {
            let reason = "twitch.bot_user_id names no account that reads chat";
            return Ok(self.journal.postpone_subscription(due, reason, Some(LONGEST_PAUSE)).await?);
        };
        let wanted = NewSubscription {
            kind: due.kind.clone(),
            version: "1".into(),
            condition,
            conduit_id: conduit_id.to_owned(),
        };
        let create = async |token: &_| self.client.create_subscription(token, &wanted).await;
        let answered = self.app.call(create).await;
        let pause = match &answered {
            Err(TwitchError::Limited { wait }) => Some(*wait),
            Err(error) if is_conduit_gone(error) => Some(FIRST_PAUSE),
            _ => None,
        };
        if let (Some(pause), Err(error)) = (pause, &answered) {
            self.journal.postpone_subscription(due, &error.to_string(), Some(pause)).await?;
            return Err(error.clone().into());
        }
        match verdict(answered, due.subscription_id.as_deref()) {
            Verdict::Confirmed(id) => {
                self.journal.confirm_subscription(due, &id, conduit_id).await?;
                if let Some(before) = due.subscription_id.as_ref().filter(|before| **before != id) {
                    self.delete_replaced(before).await;
                }
            }
            Verdict::Later(reason) => {
                let pause = backoff(due.attempts, FIRST_PAUSE, LONGEST_PAUSE);
                self.journal.postpone_subscription(due, &reason, Some(pause)).await?;
            }
            Verdict::Blocked(reason) => {
                let (broadcaster, kind) = (&due.twitch_user_id, &due.kind);
                tracing::warn!(broadcaster, kind, reason, "Twitch refuses a subscription");
                self.journal.postpone_subscription(due, &reason, None).await?;
            }
        }
        Ok(())
    }

    /// Deletes what another subscription has taken the place of.
    async fn delete_replaced(&self, id: &str) {
        let delete = async |token: &_| self.client.delete_subscription(token, id).await;
        if let Err(error) = self.app.call(delete).await {
            tracing::debug!(%error, "a replaced subscription is left to the next comparison, if Twitch has it");
        }
    }

    async fn delete(&self, due: &Due) -> Result<(), ReconcileError> {
        if let Some(id) = &due.subscription_id {
            let delete = async |token: &_| self.client.delete_subscription(token, id).await;
            match self.app.call(delete).await {
                Ok(()) | Err(TwitchError::Refused { status: 404, .. }) => {}
                Err(error) => {
                    let pause = backoff(due.attempts, FIRST_PAUSE, LONGEST_PAUSE);
                    self.journal.postpone_subscription(due, &error.to_string(), Some(pause)).await?;
                    return match error {
                        TwitchError::Limited { .. } => Err(error.into()),
                        _ => Ok(()),
                    };
                }
            }
        }
        Ok(self.journal.forget_subscription(due).await?)
    }

    /// What a subscription is about; `None` while there is no account to read the chat as.
    fn condition(&self, due: &Due) -> Option<BTreeMap<String, String>> {
        let mut condition = BTreeMap::from([(BROADCASTER.to_owned(), due.twitch_user_id.clone())]);
        if due.kind.starts_with(CHAT_KINDS) {
            condition.insert(READER.to_owned(), self.options.bot_user_id.clone()?);
        }
        Some(condition)
    }

    /// Marks what nobody needs any more for being deleted, and requests what somebody needs and nobody has requested.
    ///
    /// # Errors
    /// [`ReconcileError`] when PostgreSQL is away.
    pub async fn end_unwanted(&self) -> Result<(), ReconcileError> {
        self.journal.end_unwanted_subscriptions(self.options.keep, UNWANTED_A_CALL).await?;
        self.journal.request_missing_subscriptions(UNWANTED_A_CALL).await?;
        Ok(())
    }

    /// Compares Twitch's list with ours, both ways: what Twitch lost is requested again, what reads a chat as another
    /// account than the settings' is replaced, what nobody knows of is deleted there.
    ///
    /// # Errors
    /// [`ReconcileError`] when Twitch or PostgreSQL is away.
    pub async fn compare_subscriptions(&self, conduit_id: &str) -> Result<(), ReconcileError> {
        let mut there = self.all_subscriptions(conduit_id).await?;
        let (lost, replaced) = self.compare_known(&mut there).await?;
        let is_there =
            |kind: &&str| there.values().any(|found| found.kind == **kind && found.status == ENABLED);
        if !APPLICATION_KINDS.iter().all(is_there) {
            self.ensure_application_subscriptions(conduit_id).await?;
        }
        let unknown = there.into_values().filter(|found| !APPLICATION_KINDS.contains(&found.kind.as_str()));
        let unknown = unknown.filter(|found| found.status == ENABLED && is_old(&found.created_at));
        let unknown: Vec<Subscription> = unknown.collect();
        for found in &unknown {
            if !self.keeps_duty().await? {
                return Ok(());
            }
            let delete = async |token: &_| self.client.delete_subscription(token, &found.id).await;
            match self.app.call(delete).await {
                Ok(()) | Err(TwitchError::Refused { status: 404, .. }) => {}
                // The next comparison finds the rest.
                Err(TwitchError::Limited { .. }) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if lost > 0 || replaced > 0 || !unknown.is_empty() {
            tracing::info!(
                lost,
                replaced,
                unknown = unknown.len(),
                "subscriptions differed from Twitch's list"
            );
        }
        Ok(())
    }

    /// Takes what we know of out of Twitch's list. Answers how many of ours Twitch has lost, and how many read a chat as
    /// another account.
    async fn compare_known(
        &self,
        there: &mut HashMap<String, Subscription>,
    ) -> Result<(usize, usize), ReconcileError> {
        let bot = self.options.bot_user_id.as_deref();
        let mut after: Option<String> = None;
        let (mut lost, mut replaced) = (0, 0);
        loop {
            let known = self.journal.known_subscriptions(after.as_deref(), KNOWN_A_CALL).await?;
            let Some(last) = known.last() else { return Ok((lost, replaced)) };
            after = Some(last.subscription_id.clone());
            let mut others = Vec::new();
            for known in known {
                let id = known.subscription_id;
                let found = there.remove(&id);
                if !known.is_enabled {
                    continue;
                }
                match found {
                    Some(found) if found.status == ENABLED => {
                        if is_read_as_another(&found, bot) {
                            others.push(id);
                        }
                    }
                    found => {
                        lost += 1;
                        let reason = found.map_or("missing at Twitch".to_owned(), |found| found.status);
                        self.journal.revoke_subscription(&id, &reason, is_recoverable(&reason)).await?;
                    }
                }
            }
            replaced += self.journal.replace_subscriptions(&others, OTHER_READER).await?;
        }
    }

    async fn all_subscriptions(
        &self,
        conduit_id: &str,
    ) -> Result<HashMap<String, Subscription>, ReconcileError> {
        let mut all = HashMap::new();
        let mut after: Option<String> = None;
        loop {
            let page = async |token: &_| {
                self.client.subscriptions_page(token, Some(conduit_id), after.as_deref()).await
            };
            let (subscriptions, next) = match self.app.call(page).await {
                Err(TwitchError::Limited { wait }) => {
                    tokio::time::sleep(wait.min(LIMITED_PAUSE)).await;
                    self.keeps_duty().await?;
                    continue;
                }
                answered => answered?,
            };
            self.keeps_duty().await?;
            all.extend(subscriptions.into_iter().map(|found| (found.id.clone(), found)));
            match next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
    }
}

/// Whether asking for a subscription again may help after Twitch has ended it. Source: Twitch, "Get EventSub
/// Subscriptions", `status`. Unknown reasons come without notice: trying again shows whether it helps.
pub fn is_recoverable(status: &str) -> bool {
    !matches!(
        status,
        "authorization_revoked"
            | "user_removed"
            | "moderator_removed"
            | "chat_user_banned"
            | "version_removed"
    )
}

/// Whether a subscription was made a while ago; one whose time can't be read was.
fn is_old(created_at: &str) -> bool {
    let created = OffsetDateTime::parse(created_at, &Rfc3339);
    created.is_ok_and(|created| OffsetDateTime::now_utc() - created > YOUNG) || created.is_err()
}

/// Whether Twitch refuses because of the conduit. Its documentation does not say by which status.
fn is_conduit_gone(error: &TwitchError) -> bool {
    let TwitchError::Refused { status, message, .. } = error else { return false };
    *status == 404 || (*status == 400 && message.to_ascii_lowercase().contains("conduit"))
}

/// Whether a chat is read as another account than `bot`; while there is none to read it as, that may go on.
fn is_read_as_another(found: &Subscription, bot: Option<&str>) -> bool {
    let reader = found.condition.get(READER).filter(|_| found.kind.starts_with(CHAT_KINDS));
    reader.zip(bot).is_some_and(|(reader, bot)| reader.as_str() != bot)
}

/// What a try means; `before` is the subscription that Twitch was known to have.
fn verdict(answered: Result<Subscription, TwitchError>, before: Option<&str>) -> Verdict {
    match answered {
        Ok(made) => Verdict::Confirmed(made.id),
        Err(TwitchError::Refused { status: 409, id: Some(id), .. }) => Verdict::Confirmed(id),
        // Twitch need not say which one it has. If it is another one, that is found when the lists are compared.
        Err(error @ TwitchError::Refused { status: 409, .. }) => {
            before.map_or_else(|| Verdict::Later(error.to_string()), |id| Verdict::Confirmed(id.to_owned()))
        }
        // 403: also where the bot is banned. 400 and 410: Twitch would refuse it again.
        Err(TwitchError::Refused { status: 400 | 403 | 410, message, .. }) => Verdict::Blocked(message),
        Err(error) => Verdict::Later(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, id: Option<&str>) -> Result<Subscription, TwitchError> {
        Err(TwitchError::Refused { status, message: "why".into(), id: id.map(str::to_owned) })
    }

    #[test]
    fn a_conflict_is_a_success_and_its_id_is_kept() {
        assert_eq!(verdict(refused(409, Some("s1")), None), Verdict::Confirmed("s1".into()));
        assert_eq!(verdict(refused(409, Some("s1")), Some("s0")), Verdict::Confirmed("s1".into()));
        assert_eq!(verdict(refused(409, None), Some("s0")), Verdict::Confirmed("s0".into()));
        assert!(matches!(verdict(refused(409, None), None), Verdict::Later(_)));
    }

    #[test]
    fn what_only_a_person_can_mend_is_not_tried_again() {
        for status in [400, 403, 410] {
            assert_eq!(verdict(refused(status, None), Some("s0")), Verdict::Blocked("why".into()));
        }
        assert!(matches!(verdict(refused(429, None), None), Verdict::Later(_)));
        assert!(matches!(verdict(Err(TwitchError::Away("no route".into())), None), Verdict::Later(_)));
    }

    #[test]
    fn a_chat_that_is_read_as_another_account_is_told_apart() {
        let found = |kind: &str, reader: Option<&str>| {
            let reader = reader.map(|reader| (READER.to_owned(), reader.to_owned()));
            let broadcaster = (BROADCASTER.to_owned(), "1".to_owned());
            Subscription {
                id: "s1".into(),
                status: ENABLED.into(),
                kind: kind.into(),
                version: "1".into(),
                condition: reader.into_iter().chain([broadcaster]).collect(),
                conduit_id: None,
                cost: 0,
                created_at: String::new(),
            }
        };
        let chat = "channel.chat.message";
        assert!(is_read_as_another(&found(chat, Some("8")), Some("9")));
        assert!(!is_read_as_another(&found(chat, Some("9")), Some("9")));
        assert!(!is_read_as_another(&found(chat, Some("8")), None), "nobody else can read it");
        assert!(!is_read_as_another(&found(chat, None), Some("9")), "Twitch does not say");
        assert!(!is_read_as_another(&found("stream.online", Some("8")), Some("9")));
    }

    #[test]
    fn a_conduit_that_is_gone_blames_no_subscription() {
        let refused =
            |status, message: &str| TwitchError::Refused { status, message: message.into(), id: None };
        assert!(is_conduit_gone(&refused(404, "not found")));
        assert!(is_conduit_gone(&refused(400, "Conduit does not exist")));
        assert!(!is_conduit_gone(&refused(400, "user does not exist")));
    }

    #[test]
    fn revocations_are_told_apart_by_who_can_help() {
        for status in ["notification_failures_exceeded", "conduit_deleted", "websocket_disconnected", "new"] {
            assert!(is_recoverable(status), "{status}");
        }
        for status in ["authorization_revoked", "user_removed", "chat_user_banned", "version_removed"] {
            assert!(!is_recoverable(status), "{status}");
        }
    }
}
