//! What the journal says of the chats: their subscriptions, the streamers' sign-ins, and the instances that look after
//! them.

use std::collections::{BTreeMap, BTreeSet};

use super::twitch::NO_JOURNAL;
use super::{Finding, Known, SHOWN_MAX, Verdict, counted, in_time, unanswered};
use crate::journal::JournalError;
use crate::journal::examination::{DutyHolder, StuckBy, StuckChats, TokenCounts};
use crate::journal::tokens::OwnerKind;
use crate::reconcile::{duty, shards};
use crate::settings::Transport;

const SUBSCRIPTIONS: &str = "subscriptions";
const SIGN_INS: &str = "sign-ins";
const INSTANCES: &str = "instances";
/// The duty of an instance that died is another's after so long.
const LOG: &str = "wait for half a minute; if it stays so, the instances' logs say why";

/// Looks at the subscriptions of all chats.
pub(super) async fn subscriptions(known: &Known<'_>) -> Vec<Finding> {
    let Some(journal) = &known.journal else { return vec![Finding::left_out(SUBSCRIPTIONS, NO_JOURNAL)] };
    let limit = SHOWN_MAX as i64;
    let (counts, blocked, failing) = tokio::join!(
        in_time(journal.subscription_counts(), JournalError::Away),
        in_time(journal.stuck_chats(StuckBy::Blocked, limit), JournalError::Away),
        in_time(journal.stuck_chats(StuckBy::Failing, limit), JournalError::Away),
    );
    let sign_in_url = format!("{}/auth/login", known.settings.http.public_url);
    let mut findings = vec![match counts {
        Ok(counts) => judge_counts(counts),
        Err(error) => unanswered(SUBSCRIPTIONS, &error),
    }];
    match blocked {
        Ok(blocked) => findings.extend(judge_blocked(&blocked, &sign_in_url)),
        Err(error) => findings.push(unanswered(SUBSCRIPTIONS, &error)),
    }
    match failing {
        Ok(failing) => findings.extend(judge_failing(&failing)),
        Err(error) => findings.push(unanswered(SUBSCRIPTIONS, &error)),
    }
    findings
}

fn judge_counts(mut counts: Vec<(String, i64)>) -> Finding {
    counts.sort();
    let told: Vec<String> = counts.iter().map(|(status, count)| format!("{count} {status}")).collect();
    Finding::good(
        SUBSCRIPTIONS,
        match told.is_empty() {
            true => "none now: a chat is subscribed to when an overlay of it opens".to_owned(),
            false => told.join(", "),
        },
    )
}

/// The chats that only people can help, by reason.
fn judge_blocked(blocked: &StuckChats, sign_in_url: &str) -> Vec<Finding> {
    let mut findings: Vec<Finding> = by_reason(blocked)
        .into_iter()
        .map(|((is_read, reason), logins)| {
            let chats = logins.join(", ");
            let remedy = unblocking(reason, sign_in_url);
            if is_read {
                let said = format!(
                    "chats that are read, but not all that happens there is noticed, such as deleted messages or the \
                     stream's end: {chats} ({reason})"
                );
                Finding::note(SUBSCRIPTIONS, said, remedy)
            } else {
                Finding::bad(SUBSCRIPTIONS, format!("chats that can't be read: {chats} ({reason})"), remedy)
            }
        })
        .collect();
    findings.extend(rest_of(blocked, Verdict::Bad));
    findings
}

/// The chats that are tried again, by reason.
fn judge_failing(failing: &StuckChats) -> Vec<Finding> {
    let mut findings: Vec<Finding> = by_reason(failing)
        .into_iter()
        .map(|((_, reason), logins)| {
            let said = format!("not subscribed to yet, tried again: {} ({reason})", logins.join(", "));
            Finding::note(SUBSCRIPTIONS, said, "this mends itself once its reason is gone")
        })
        .collect();
    findings.extend(rest_of(failing, Verdict::Note));
    findings
}

/// Logins by whether messages are read all the same, and by reason.
fn by_reason(stuck: &StuckChats) -> BTreeMap<(bool, &str), Vec<&str>> {
    let mut by_reason: BTreeMap<(bool, &str), Vec<&str>> = BTreeMap::new();
    for chat in &stuck.some {
        let reason = if chat.reason.is_empty() { "no reason is known" } else { chat.reason.as_str() };
        by_reason.entry((!chat.messages, reason)).or_default().push(&chat.login);
    }
    by_reason
}

fn rest_of(stuck: &StuckChats, verdict: Verdict) -> Option<Finding> {
    let more = usize::try_from(stuck.count).unwrap_or(0).saturating_sub(stuck.some.len());
    let said = format!("{} like these", counted(more, "more chat"));
    (more > 0).then_some(Finding { part: SUBSCRIPTIONS, verdict, said, remedy: None })
}

/// What can be done about a reason why Twitch has ended a subscription or refuses it. Sources: Twitch, "Get EventSub
/// Subscriptions", `status`; "Create EventSub Subscription", 403, which it also answers when the bot is banned.
fn unblocking(reason: &str, sign_in_url: &str) -> String {
    let lower = reason.to_lowercase();
    let sign_in = format!("have the streamer sign in again at {sign_in_url}");
    if lower.contains("authorization") || lower.contains("scope") {
        return format!("{sign_in}, and see that the bot is neither banned nor timed out in the channel");
    }
    match reason {
        "chat_user_banned" => format!("have the streamer unban the bot at Twitch; then {sign_in}"),
        "moderator_removed" => format!("{sign_in}, or make the bot a moderator again and then do so"),
        "user_removed" => {
            "Twitch does not know the streamer's account or the bot's any more: disable the streamer, or \
                           set twitch.bot_user_id to another account"
                .to_owned()
        }
        "version_removed" => "Twitch has ended what this release subscribes to: update ChatPulse".to_owned(),
        _ => format!(
            "{sign_in}; if that does not help, the log of the instance that looks after Twitch tells more"
        ),
    }
}

/// Looks at the streamers' tokens.
pub(super) async fn sign_ins(known: &Known<'_>) -> Vec<Finding> {
    let Some(journal) = &known.journal else { return vec![Finding::left_out(SIGN_INS, NO_JOURNAL)] };
    let counts = journal.token_counts(OwnerKind::Channel, SHOWN_MAX as i32);
    vec![match in_time(counts, JournalError::Away).await {
        Ok(counts) => judge_tokens(&counts),
        Err(error) => unanswered(SIGN_INS, &error),
    }]
}

fn judge_tokens(counts: &TokenCounts) -> Finding {
    let TokenCounts { valid, invalid, invalid_logins } = counts;
    if *invalid == 0 {
        return Finding::good(SIGN_INS, format!("streamers with a valid token: {valid}"));
    }
    let more =
        if usize::try_from(*invalid).is_ok_and(|all| all > invalid_logins.len()) { ", …" } else { "" };
    let logins = invalid_logins.join(", ");
    let said =
        format!("streamers whose sign-in has ended: {invalid} of {} ({logins}{more})", valid + invalid);
    Finding::note(
        SIGN_INS,
        said,
        "they have to sign in again to see their dashboard, and if their chat can't be read",
    )
}

/// Looks at who runs, and who looks after what.
pub(super) async fn instances(known: &Known<'_>) -> Vec<Finding> {
    let Some(journal) = &known.journal else { return vec![Finding::left_out(INSTANCES, NO_JOURNAL)] };
    let asked = tokio::join!(
        in_time(journal.running_instances(), JournalError::Away),
        in_time(journal.duty_holders(), JournalError::Away),
    );
    let twitch = &known.settings.twitch;
    let is_set = twitch.client_id.is_some() && twitch.client_secret.is_some();
    let sockets = if twitch.transport == Transport::Websocket { twitch.conduit_shards } else { 0 };
    match asked {
        (Err(error), _) | (_, Err(error)) => vec![unanswered(INSTANCES, &error)],
        (Ok(running), Ok(holders)) if is_set => judge_instances(running, Some((holders.as_slice(), sockets))),
        (Ok(running), Ok(_)) => judge_instances(running, None),
    }
}

/// With an application at Twitch: what is looked after, and how many shards have to be held over WebSockets.
fn judge_instances(running: i64, twitch: Option<(&[DutyHolder], u32)>) -> Vec<Finding> {
    if running == 0 {
        let remedy = "start `chatpulse serve`; if it runs, its log says why it can't reach PostgreSQL";
        return vec![Finding::bad(INSTANCES, "none is running", remedy)];
    }
    let mut findings = vec![Finding::good(INSTANCES, format!("running: {running}"))];
    let Some((holders, sockets)) = twitch else { return findings };
    findings.push(match holders.iter().find(|holder| holder.name == duty::DUTY) {
        Some(holder) => Finding::good(
            INSTANCES,
            format!("{} looks after the conduit and subscriptions", holder.instance_id),
        ),
        None => Finding::bad(INSTANCES, "none looks after the conduit and subscriptions", LOG),
    });
    let names: BTreeSet<&str> = holders.iter().map(|holder| holder.name.as_str()).collect();
    let held = (0..sockets).filter(|shard| names.contains(shards::duty(*shard).as_str())).count();
    if held < sockets as usize {
        let said = format!("only {held} of {} over WebSockets are held", counted(sockets as usize, "shard"));
        findings.push(Finding::bad(INSTANCES, said, LOG));
    }
    findings
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::journal::examination::StuckChat;

    const SIGN_IN: &str = "https://pulse.example.com/auth/login";

    fn stuck(chats: &[(&str, &str, bool)], count: i64) -> StuckChats {
        let chat = |(login, reason, messages): &(&str, &str, bool)| StuckChat {
            login: login.to_string(),
            reason: reason.to_string(),
            messages: *messages,
        };
        StuckChats { some: chats.iter().map(chat).collect(), count }
    }

    fn holder(name: &str) -> DutyHolder {
        DutyHolder { name: name.into(), instance_id: Uuid::nil() }
    }

    #[test]
    fn subscriptions_are_counted_by_status() {
        let counts = vec![("requested".to_owned(), 1), ("enabled".to_owned(), 12)];
        assert_eq!(judge_counts(counts).said, "12 enabled, 1 requested");
        assert!(judge_counts(Vec::new()).said.starts_with("none now"));
    }

    #[test]
    fn blocked_chats_stand_together_by_reason_those_that_are_not_read_first() {
        let blocked = stuck(
            &[
                ("ada", "subscription missing proper authorization", true),
                ("bob", "chat_user_banned", true),
                ("cy", "subscription missing proper authorization", true),
                ("dee", "chat_user_banned", false),
            ],
            4,
        );
        let findings = judge_blocked(&blocked, SIGN_IN);
        let verdicts: Vec<_> = findings.iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [Verdict::Bad, Verdict::Bad, Verdict::Note]);
        assert!(findings[0].said.contains("bob") && findings[1].said.contains("ada, cy"));
        assert!(findings[2].said.contains("dee"));
    }

    #[test]
    fn each_known_reason_has_its_own_advice() {
        let reasons = [
            "authorization_revoked",
            "chat_user_banned",
            "moderator_removed",
            "user_removed",
            "version_removed",
            "something new",
        ];
        let advice: BTreeSet<String> = reasons.iter().map(|reason| unblocking(reason, SIGN_IN)).collect();
        assert_eq!(advice.len(), reasons.len());
        assert!(unblocking("missing the required scopes", SIGN_IN).contains(SIGN_IN));
    }

    #[test]
    fn of_many_chats_some_are_shown_and_the_rest_counted() {
        let chats = [("ada", "", true)];
        let findings = judge_blocked(&stuck(&chats, 3), SIGN_IN);
        assert!(findings[0].said.contains("no reason is known"));
        assert_eq!(findings[1].said, "2 more chats like these");
        assert!(judge_failing(&stuck(&chats, 1)).iter().all(|finding| finding.verdict == Verdict::Note));
        assert!(judge_failing(&StuckChats::default()).is_empty());
    }

    #[test]
    fn ended_sign_ins_are_noted_with_some_logins() {
        assert_eq!(judge_tokens(&TokenCounts { valid: 3, ..TokenCounts::default() }).verdict, Verdict::Good);
        let ended = TokenCounts { valid: 1, invalid: 3, invalid_logins: vec!["ada".into(), "bob".into()] };
        let finding = judge_tokens(&ended);
        assert_eq!(finding.verdict, Verdict::Note);
        assert!(finding.said.contains("3 of 4 (ada, bob, …)"), "{}", finding.said);
    }

    #[test]
    fn without_an_instance_nothing_else_is_to_be_said() {
        let nobody: [DutyHolder; 0] = [];
        let findings = judge_instances(0, Some((nobody.as_slice(), 1)));
        assert!(findings.len() == 1 && findings[0].verdict == Verdict::Bad);
    }

    #[test]
    fn somebody_has_to_look_after_twitch_and_after_each_shard() {
        let worst = |holders: &[DutyHolder], sockets| {
            judge_instances(2, Some((holders, sockets))).iter().map(|finding| finding.verdict).max()
        };
        let all = [holder(duty::DUTY), holder(&shards::duty(0)), holder(&shards::duty(1))];
        assert_eq!(worst(&all, 2), Some(Verdict::Good));
        assert_eq!(worst(&all, 3), Some(Verdict::Bad));
        assert_eq!(worst(&all[..1], 0), Some(Verdict::Good));
        assert_eq!(worst(&all[1..], 2), Some(Verdict::Bad));
        assert!(judge_instances(2, None).iter().all(|finding| finding.verdict == Verdict::Good));
    }
}
