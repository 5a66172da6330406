//! How the reading of a streamer's chat is doing, in words for the streamer.

use super::times;
use crate::domain::stream::ChatHealth;
use crate::domain::time::Millis;
use crate::journal::recordings::StreamStanding;
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

/// What is known of a streamer's chat.
pub struct Known<'a> {
    pub subscriptions: &'a [SubscriptionStanding],
    pub standing: &'a StreamStanding,
    /// When the chat was last heard; `None` while no session is going on.
    pub heard: Option<Heard>,
    pub now: Millis,
}

/// When a chat was last heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Redis can't be asked.
    Unknown,
    Never,
    /// A message came then.
    Message(Millis),
    /// It has been listened to at least since then, and no message is known to have come later.
    NothingSince(Millis),
}

impl Heard {
    /// From what Redis says of a chat (`None`: it could not be asked), and whether any message of the session that
    /// `began` then is there: a chat that nobody has written in counts as heard when it was first listened to.
    pub fn of(last: Option<Option<Millis>>, has_messages: bool, began: Millis) -> Heard {
        match last {
            None => Heard::Unknown,
            Some(None) => Heard::Never,
            Some(Some(at)) if has_messages => Heard::Message(at),
            Some(Some(at)) => Heard::NothingSince(at.max(began)),
        }
    }
}

/// How the chat of a streamer is doing, the most important first.
pub fn chat_health(known: &Known<'_>) -> Vec<Condition> {
    let chat = known.subscriptions.iter().find(|one| one.kind == CHAT);
    let mut conditions = vec![chat_condition(chat, known)];
    if chat.is_some_and(|chat| chat.status == "enabled") {
        conditions.extend(moderation_condition(known.subscriptions));
    }
    conditions
}

fn chat_condition(chat: Option<&SubscriptionStanding>, known: &Known<'_>) -> Condition {
    let reason = chat.and_then(|chat| chat.reason.as_deref());
    match (chat.map(|chat| chat.status.as_str()), reason) {
        (Some("enabled"), _) => {
            let trouble = unauthorized(known).or_else(|| silent(known));
            trouble.unwrap_or_else(|| connected(known))
        }
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
        _ if known.heard.is_some() => connecting(),
        _ => {
            let sentence = "Chat is connected when an overlay is open, or your stream is recorded.";
            condition(Level::Idle, sentence, "Open your overlay in OBS to begin.")
        }
    }
}

fn connected(known: &Known<'_>) -> Condition {
    let heard = match known.heard {
        None => String::new(),
        Some(Heard::Unknown) => {
            "When it was last heard is not known just now: ChatPulse can't reach its Redis.".to_owned()
        }
        Some(Heard::Never) => "No message has come yet.".to_owned(),
        Some(Heard::Message(at)) => format!("The last message was heard {}.", times::ago(at, known.now)),
        Some(Heard::NothingSince(at)) => {
            format!("No message has come since {}.", times::clock(at, known.now))
        }
    };
    condition(Level::Good, "Chat is connected.", &heard)
}

/// The streamer's authorization is lost, although Twitch has not ended the subscription (yet).
fn unauthorized(known: &Known<'_>) -> Option<Condition> {
    let standing = known.standing;
    if standing.health != ChatHealth::Unauthorized {
        return None;
    }
    let since = standing.health_since.map(|at| format!(" since {}", times::clock(at, known.now)));
    let sentence = format!("Your permission to read your chat is gone{}.", since.unwrap_or_default());
    let advice = "Sign in again to give it back. If you have just done so, look again in some seconds.";
    Some(Condition { sign_in: true, ..condition(Level::Trouble, &sentence, advice) })
}

/// Twitch says that the stream is live, but nothing comes from its chat.
fn silent(known: &Known<'_>) -> Option<Condition> {
    let standing = known.standing;
    // Twitch is not asked about streams that nobody records: what is known of them may be old.
    let is_live = standing.stream.is_some() && standing.recorded == Some(true);
    if standing.health != ChatHealth::Silent || !is_live {
        return None;
    }
    let since = match known.heard? {
        // Somebody has spoken after that was noted.
        Heard::Message(at) if standing.health_since.is_some_and(|since| at > since) => return None,
        Heard::Message(at) | Heard::NothingSince(at) => standing.last_message_at.or(Some(at)),
        Heard::Unknown | Heard::Never => standing.last_message_at,
    };
    let since = since.map_or("yet".to_owned(), |at| format!("since {}", times::clock(at, known.now)));
    let sentence = format!("Your stream is live, but ChatPulse has heard nothing in your chat {since}.");
    let advice = "If nobody has written, all is well. Else write something yourself, and look again: if it is not \
                  below then, check that the bot is neither banned nor timed out in your channel, sign in again, and if \
                  that does not help, tell the operator of this server.";
    Some(Condition { sign_in: true, ..condition(Level::Trouble, &sentence, advice) })
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
    use crate::domain::stream::Stream;

    /// 12:34 UTC.
    const NOW: Millis = Millis(45_240_000);

    fn standing(kind: &str, status: &str, reason: Option<&str>) -> SubscriptionStanding {
        SubscriptionStanding { kind: kind.into(), status: status.into(), reason: reason.map(str::to_owned) }
    }

    fn stream_standing(health: ChatHealth) -> StreamStanding {
        StreamStanding {
            recorded: Some(true),
            stream: Some(Stream { id: "1".into(), started_at: Millis(0) }),
            health,
            health_reason: None,
            health_since: Some(NOW),
            last_message_at: None,
        }
    }

    fn conditions(subscriptions: &[SubscriptionStanding], live: bool) -> Vec<Condition> {
        let standing = stream_standing(ChatHealth::Well);
        let heard = live.then_some(Heard::Message(Millis(NOW.0 - 12_000)));
        chat_health(&Known { subscriptions, standing: &standing, heard, now: NOW })
    }

    fn chat(status: &str, reason: Option<&str>) -> Condition {
        let conditions = conditions(&[standing(CHAT, status, reason)], true);
        assert_eq!(conditions.len(), 1);
        conditions.into_iter().next().unwrap()
    }

    /// What is said of a chat that Twitch lets be read.
    fn enabled(stream: &StreamStanding, heard: Heard) -> Condition {
        let subscriptions = [standing(CHAT, "enabled", None)];
        let known = Known { subscriptions: &subscriptions, standing: stream, heard: Some(heard), now: NOW };
        chat_health(&known).into_iter().next().unwrap()
    }

    #[test]
    fn a_chat_that_is_read_is_good_and_needs_nothing() {
        let all = ["message", "message_delete", "clear"];
        let all = all.map(|name| standing(&format!("{CHAT_KINDS}{name}"), "enabled", None));
        let heard = "The last message was heard 12 s ago.";
        assert_eq!(conditions(&all, true), [condition(Level::Good, "Chat is connected.", heard)]);
        assert_eq!(conditions(&all, false), [condition(Level::Good, "Chat is connected.", "")]);
    }

    #[test]
    fn when_chat_was_last_heard_is_said_as_far_as_it_is_known() {
        let well = stream_standing(ChatHealth::Well);
        for (heard, told) in [
            (Heard::Unknown, "not known just now"),
            (Heard::Never, "No message has come yet."),
            (Heard::NothingSince(NOW), "No message has come since 12:34 UTC."),
            (Heard::Message(NOW), "0 s ago"),
        ] {
            let condition = enabled(&well, heard);
            assert_eq!(condition.level, Level::Good);
            assert!(condition.advice.contains(told), "{condition:?}");
        }
    }

    #[test]
    fn a_chat_that_was_only_listened_to_is_not_said_to_have_spoken() {
        let (began, at) = (Millis(5), Millis(7));
        assert_eq!(Heard::of(Some(Some(at)), true, began), Heard::Message(at));
        assert_eq!(Heard::of(Some(Some(at)), false, began), Heard::NothingSince(at));
        assert_eq!(Heard::of(Some(Some(Millis(1))), false, began), Heard::NothingSince(began));
        assert_eq!(Heard::of(Some(None), false, began), Heard::Never);
        assert_eq!(Heard::of(None, true, began), Heard::Unknown);
    }

    #[test]
    fn a_live_stream_with_a_silent_chat_is_told_with_what_to_check() {
        let last_message_at = Some(Millis(NOW.0 - 60_000));
        let silent = StreamStanding { last_message_at, ..stream_standing(ChatHealth::Silent) };
        for heard in [Heard::Unknown, Heard::Never, Heard::NothingSince(NOW), Heard::Message(NOW)] {
            let told = enabled(&silent, heard);
            assert_eq!(told.level, Level::Trouble);
            assert!(told.sentence.ends_with("heard nothing in your chat since 12:33 UTC."), "{told:?}");
            assert!(told.sign_in && told.advice.contains("banned"), "{told:?}");
        }
        let never = enabled(&stream_standing(ChatHealth::Silent), Heard::Never);
        assert!(never.sentence.ends_with("in your chat yet."), "{never:?}");
    }

    #[test]
    fn silence_is_over_once_somebody_speaks_and_means_nothing_off_stream() {
        let silent = stream_standing(ChatHealth::Silent);
        assert_eq!(enabled(&silent, Heard::Message(Millis(NOW.0 + 1))).level, Level::Good);
        let offline = StreamStanding { stream: None, ..silent.clone() };
        let unrecorded = StreamStanding { recorded: Some(false), ..silent };
        for standing in [offline, unrecorded] {
            assert_eq!(enabled(&standing, Heard::NothingSince(NOW)).level, Level::Good);
        }
    }

    #[test]
    fn a_permission_that_is_gone_is_told_before_twitch_ends_the_subscription() {
        let told = enabled(&stream_standing(ChatHealth::Unauthorized), Heard::Message(NOW));
        assert!(told.level == Level::Trouble && told.sign_in, "{told:?}");
        assert!(told.sentence.contains("gone since 12:34 UTC"), "{told:?}");
    }

    #[test]
    fn nothing_is_wrong_while_nobody_needs_the_chat() {
        for subscriptions in [vec![], vec![standing(CHAT, "ending", None)]] {
            assert_eq!(conditions(&subscriptions, false)[0].level, Level::Idle);
            assert_eq!(conditions(&subscriptions, true)[0].level, Level::Waiting);
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
            conditions(&subscriptions, true).into_iter().map(|one| one.level).collect::<Vec<_>>()
        };
        assert_eq!(with("enabled", "requested"), [Level::Good, Level::Waiting]);
        assert_eq!(with("enabled", "blocked"), [Level::Good, Level::Trouble]);
        assert_eq!(with("requested", "blocked"), [Level::Waiting]);
    }
}
