//! How the reading of a streamer's chat is doing, in words for the streamer.

use crate::journal::subscriptions::SubscriptionStanding;

/// The subscription that votes come through.
const CHAT: &str = "channel.chat.message";
/// Of the subscriptions that tell what is taken back, the names begin so.
const CHAT_KINDS: &str = "channel.chat.";
const SIGN_IN_OR_TELL: &str = "Sign in again; if that does not help, tell the operator of this server.";

/// How good something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Good,
    /// It gets better by itself.
    Waiting,
    /// It is not needed now.
    Idle,
    /// Somebody has to do something.
    Trouble,
}

impl Level {
    /// The level in words; colours only repeat it.
    pub fn word(self) -> &'static str {
        match self {
            Level::Good => "Good",
            Level::Waiting => "Wait",
            Level::Idle => "Idle",
            Level::Trouble => "Trouble",
        }
    }

    /// The name of the level's style.
    pub fn class(self) -> &'static str {
        match self {
            Level::Good => "good",
            Level::Waiting => "waiting",
            Level::Idle => "idle",
            Level::Trouble => "trouble",
        }
    }
}

/// One thing about the chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub level: Level,
    pub sentence: String,
    /// What to do, or what will happen; may be empty.
    pub advice: String,
    /// Whether signing in again may help.
    pub sign_in: bool,
}

/// How the chat of a streamer is doing, the most important first. `live`: whether a session is going on.
pub fn chat_health(subscriptions: &[SubscriptionStanding], live: bool) -> Vec<Condition> {
    let chat = subscriptions.iter().find(|one| one.kind == CHAT);
    let mut conditions = vec![chat_condition(chat, live)];
    if chat.is_some_and(|chat| chat.status == "enabled") {
        conditions.extend(moderation_condition(subscriptions));
    }
    conditions
}

fn chat_condition(chat: Option<&SubscriptionStanding>, live: bool) -> Condition {
    let reason = chat.and_then(|chat| chat.reason.as_deref());
    match (chat.map(|chat| chat.status.as_str()), reason) {
        (Some("enabled"), _) => condition(Level::Good, "Chat is connected.", ""),
        (Some("blocked"), reason) => blocked(reason.unwrap_or("no reason was given")),
        (Some("requested"), Some(reason)) => Condition {
            sentence: format!("Connecting to your chat… The last try failed: {}.", told(reason)),
            ..condition(
                Level::Waiting,
                "",
                "It is tried again by itself. If this stays so, tell the operator of this server.",
            )
        },
        (Some("requested"), None) => connecting(),
        // A session that has just begun, or has come back while its chat was let go of.
        _ if live => connecting(),
        _ => {
            let sentence = "Chat is connected when an overlay is open.";
            condition(Level::Idle, sentence, "Open yours in OBS to begin.")
        }
    }
}

fn connecting() -> Condition {
    condition(Level::Waiting, "Connecting to your chat…", "This takes a few seconds. Look again then.")
}

/// Why Twitch refuses, or has ended, the reading of a chat. Sources: Twitch, "Get EventSub Subscriptions", `status`;
/// "Create EventSub Subscription", 403, which it also answers when the bot is banned.
fn blocked(reason: &str) -> Condition {
    let lower = reason.to_lowercase();
    if lower.contains("authorization") || lower.contains("scope") {
        let sentence = "Twitch does not let the bot read your chat.";
        let advice = "Sign in again to give the permission back, and check that the bot is neither banned nor timed \
                      out in your channel.";
        return Condition { sign_in: true, ..condition(Level::Trouble, sentence, advice) };
    }
    match reason {
        "chat_user_banned" => {
            let sentence = "The bot is banned or timed out in your channel, so it can't read your chat.";
            let advice = "Unban the bot on Twitch, then sign in again.";
            Condition { sign_in: true, ..condition(Level::Trouble, sentence, advice) }
        }
        "moderator_removed" => {
            let sentence = "The bot is no moderator of your channel any more, so it can't read your chat.";
            let advice = "Sign in again to give it the permission, or make it a moderator again.";
            Condition { sign_in: true, ..condition(Level::Trouble, sentence, advice) }
        }
        "user_removed" => {
            let sentence = "Twitch does not know your account, or the bot's, any more.";
            condition(Level::Trouble, sentence, "Tell the operator of this server.")
        }
        "version_removed" => {
            let sentence = "Twitch has ended the way in which this version of ChatPulse reads chat.";
            let advice = "Tell the operator of this server: ChatPulse needs an update.";
            condition(Level::Trouble, sentence, advice)
        }
        reason => Condition {
            sentence: format!("Twitch refuses to connect your chat: {}.", told(reason)),
            sign_in: true,
            ..condition(Level::Trouble, "", SIGN_IN_OR_TELL)
        },
    }
}

/// What is missing while chat itself is read; votes don't need it.
fn moderation_condition(subscriptions: &[SubscriptionStanding]) -> Option<Condition> {
    let of_chat = |one: &&SubscriptionStanding| one.kind.starts_with(CHAT_KINDS) && one.kind != CHAT;
    let missing = || subscriptions.iter().filter(of_chat);
    let sentence = "Votes count, but deleted messages and banned viewers are not noticed yet.";
    if let Some(stuck) = missing().find(|one| one.status == "blocked") {
        let reason = stuck.reason.as_deref().unwrap_or("no reason was given");
        let sentence = format!("{sentence} Twitch says: {}.", told(reason));
        return Some(Condition { sentence, sign_in: true, ..condition(Level::Trouble, "", SIGN_IN_OR_TELL) });
    }
    let waits = missing().any(|one| one.status == "requested");
    waits.then(|| condition(Level::Waiting, sentence, "This gets better by itself."))
}

fn condition(level: Level, sentence: &str, advice: &str) -> Condition {
    Condition { level, sentence: sentence.to_owned(), advice: advice.to_owned(), sign_in: false }
}

/// A reason as the end of a sentence.
fn told(reason: &str) -> &str {
    reason.trim().trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(kind: &str, status: &str, reason: Option<&str>) -> SubscriptionStanding {
        SubscriptionStanding { kind: kind.into(), status: status.into(), reason: reason.map(str::to_owned) }
    }

    fn chat(status: &str, reason: Option<&str>) -> Condition {
        let conditions = chat_health(&[standing(CHAT, status, reason)], true);
        assert_eq!(conditions.len(), 1);
        conditions.into_iter().next().unwrap()
    }

    #[test]
    fn a_chat_that_is_read_is_good_and_needs_nothing() {
        let all = ["message", "message_delete", "clear"];
        let all = all.map(|name| standing(&format!("{CHAT_KINDS}{name}"), "enabled", None));
        assert_eq!(chat_health(&all, true), [condition(Level::Good, "Chat is connected.", "")]);
    }

    #[test]
    fn nothing_is_wrong_while_nobody_needs_the_chat() {
        for subscriptions in [vec![], vec![standing(CHAT, "ending", None)]] {
            assert_eq!(chat_health(&subscriptions, false)[0].level, Level::Idle);
            assert_eq!(chat_health(&subscriptions, true)[0].level, Level::Waiting);
        }
    }

    #[test]
    fn a_try_that_failed_is_told_with_its_reason() {
        assert_eq!(chat("requested", None).sentence, "Connecting to your chat…");
        let failed = chat("requested", Some("Twitch can't be reached."));
        assert_eq!(
            (failed.level, failed.sentence.as_str()),
            (Level::Waiting, "Connecting to your chat… The last try failed: Twitch can't be reached.")
        );
    }

    #[test]
    fn what_the_streamer_can_mend_is_explained() {
        for reason in ["missing proper authorization", "authorization_revoked", "missing the required scopes"]
        {
            let condition = chat("blocked", Some(reason));
            assert!(condition.sign_in, "{reason}");
            assert!(condition.sentence.contains("does not let the bot read"), "{reason}");
            assert!(condition.advice.contains("banned"), "{reason}");
        }
        assert!(chat("blocked", Some("chat_user_banned")).advice.starts_with("Unban"));
        assert!(!chat("blocked", Some("version_removed")).sign_in);
        let unknown = chat("blocked", Some("something new."));
        assert_eq!(unknown.sentence, "Twitch refuses to connect your chat: something new.");
        for reason in [None, Some("user_removed"), Some("moderator_removed")] {
            assert_eq!(chat("blocked", reason).level, Level::Trouble);
        }
    }

    #[test]
    fn what_is_missing_besides_votes_is_told_once_votes_are_there() {
        let with = |chat, status| {
            let subscriptions = [
                standing(CHAT, chat, None),
                standing("channel.chat.clear", status, Some("why")),
                standing("channel.shared_chat.begin", "blocked", None),
            ];
            chat_health(&subscriptions, true).into_iter().map(|one| one.level).collect::<Vec<_>>()
        };
        assert_eq!(with("enabled", "requested"), [Level::Good, Level::Waiting]);
        assert_eq!(with("enabled", "blocked"), [Level::Good, Level::Trouble]);
        assert_eq!(with("requested", "blocked"), [Level::Waiting]);
    }
}
