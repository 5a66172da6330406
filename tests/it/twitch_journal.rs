//! What PostgreSQL knows of Twitch: tokens, who is signed in, duties, subscriptions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chatpulse::domain::config::Config;
use chatpulse::domain::streamer::{Command, Event};
use chatpulse::journal::Journal;
use chatpulse::journal::examination::{StuckBy, StuckChat, StuckChats};
use chatpulse::journal::subscriptions::{Due, Task};
use chatpulse::journal::tokens::{NewToken, Owner, StoredToken};
use chatpulse::reconcile::vault;
use chatpulse::security::keyring::{Keyring, KeyringError, Place};
use chatpulse::settings::Secret;
use uuid::Uuid;

use crate::support::database::{MigratedDatabase, journal_at, live, migrated, register};
use crate::support::eventually;

const HOUR: Duration = Duration::from_secs(3600);
const CHAT: &str = "channel.chat.message";

fn token(owner: Owner, refresh: u8, expires_in: Duration) -> NewToken {
    NewToken {
        login: format!("login_{}", owner.id),
        owner,
        scopes: vec!["channel:bot".into()],
        access: vec![1, refresh],
        refresh: vec![2, refresh],
        refresh_hash: [refresh; 32],
        key_id: "k1".into(),
        expires_in,
    }
}

async fn stored(journal: &Journal, owner: &Owner) -> StoredToken {
    journal.token(owner).await.unwrap().expect("a token")
}

async fn due(journal: &Journal) -> Vec<Due> {
    journal.take_due_subscriptions(Duration::from_secs(60), 100).await.unwrap()
}

fn kinds(due: &[Due]) -> BTreeSet<&str> {
    due.iter().map(|due| due.kind.as_str()).collect()
}

/// Another instance on the same database.
fn another(database: &MigratedDatabase) -> Journal {
    journal_at(&database.database.app_url)
}

#[tokio::test]
async fn an_owner_has_one_token_and_channels_and_bots_are_told_apart() {
    let database = migrated().await;
    let journal = database.journal();
    let (channel, bot) = (Owner::channel("7"), Owner::bot("7"));
    journal.store_token(&token(channel.clone(), 1, HOUR)).await.unwrap();
    journal.store_token(&token(bot.clone(), 2, HOUR)).await.unwrap();
    journal.store_token(&token(channel.clone(), 3, HOUR)).await.unwrap();
    let found = stored(&journal, &channel).await;
    assert_eq!((found.access, found.refresh, found.generation), (vec![1, 3], vec![2, 3], 2));
    assert_eq!(stored(&journal, &bot).await.refresh, [2, 2]);
    assert_eq!(journal.token(&Owner::bot("8")).await.unwrap(), None);
}

#[tokio::test]
async fn what_a_refresh_brings_is_stored_where_its_refresh_token_still_stands() {
    let database = migrated().await;
    let journal = database.journal();
    let owner = Owner::channel("7");
    journal.store_token(&token(owner.clone(), 1, HOUR)).await.unwrap();
    let renewed = token(owner.clone(), 2, HOUR);
    assert!(journal.store_refreshed(&[1; 32], &renewed).await.unwrap());
    // The answer was lost, and it is said again.
    assert!(journal.store_refreshed(&[1; 32], &renewed).await.unwrap());
    assert_eq!(stored(&journal, &owner).await.refresh, [2, 2]);
    // Meanwhile the owner has signed in anew.
    journal.store_token(&token(owner.clone(), 9, HOUR)).await.unwrap();
    assert!(!journal.store_refreshed(&[2; 32], &token(owner.clone(), 3, HOUR)).await.unwrap());
    assert_eq!(stored(&journal, &owner).await.refresh, [2, 9]);
}

#[tokio::test]
async fn a_token_that_ends_soon_is_in_the_hands_of_one_instance() {
    let database = migrated().await;
    let journals = [database.journal(), another(&database)];
    let soon = Duration::from_secs(60);
    for id in 0..20 {
        let expires_in = if id < 12 { soon } else { HOUR };
        journals[0].store_token(&token(Owner::channel(id.to_string()), id, expires_in)).await.unwrap();
    }
    let take = async |journal: &Journal| {
        journal.take_expiring_tokens(Duration::from_secs(900), HOUR, 20).await.unwrap()
    };
    let (one, other) = tokio::join!(take(&journals[0]), take(&journals[1]));
    let taken: BTreeSet<String> = one.iter().chain(&other).map(|token| token.owner.id.clone()).collect();
    assert_eq!((one.len() + other.len(), taken.len()), (12, 12));
    assert_eq!(take(&journals[0]).await, vec![], "all are in somebody's hands");
    // One that is in somebody's hands is refused to others; another one is given.
    let owner = Owner::channel("0");
    assert_eq!(journals[1].take_token(&owner, 1, HOUR).await.unwrap(), None);
    let owner = Owner::channel("19");
    assert!(journals[1].take_token(&owner, 1, HOUR).await.unwrap().is_some());
    assert_eq!(journals[0].take_token(&owner, 1, HOUR).await.unwrap(), None);
}

#[tokio::test]
async fn who_dies_while_refreshing_keeps_nobody_from_it_for_longer_than_the_lease() {
    let database = migrated().await;
    let journal = database.journal();
    journal.store_token(&token(Owner::bot("7"), 1, Duration::ZERO)).await.unwrap();
    let take = async || journal.take_expiring_tokens(HOUR, Duration::from_millis(50), 9).await.unwrap().len();
    assert_eq!(take().await, 1);
    eventually("the lease has lapsed", async || take().await == 1).await;
}

#[tokio::test]
async fn a_token_that_has_ended_is_told_once_and_not_refreshed_again() {
    let database = migrated().await;
    let journal = database.journal();
    let owner = Owner::channel("7");
    journal.store_token(&token(owner.clone(), 1, Duration::ZERO)).await.unwrap();
    assert!(!journal.invalidate_token(&owner, 2, "other").await.unwrap(), "it is of another generation");
    assert!(journal.invalidate_token(&owner, 1, "withdrawn").await.unwrap());
    assert!(!journal.invalidate_token(&owner, 1, "withdrawn").await.unwrap());
    assert_eq!(stored(&journal, &owner).await.invalid.as_deref(), Some("withdrawn"));
    assert_eq!(journal.take_expiring_tokens(HOUR, HOUR, 9).await.unwrap(), vec![]);
    assert_eq!(journal.take_unvalidated_tokens(Duration::ZERO, HOUR, 9).await.unwrap(), vec![]);
    // Signing in again makes it good.
    journal.store_token(&token(owner.clone(), 2, HOUR)).await.unwrap();
    assert_eq!(stored(&journal, &owner).await.invalid, None);
}

#[tokio::test]
async fn a_token_whose_refresh_does_not_come_about_comes_after_all_others() {
    let database = migrated().await;
    let journal = database.journal();
    let store = async |id: u8| {
        let expires_in = Duration::from_secs(60 + u64::from(id));
        journal.store_token(&token(Owner::channel(id.to_string()), id, expires_in)).await.unwrap();
    };
    let take = async || {
        let taken = journal.take_expiring_tokens(HOUR, Duration::ZERO, 1).await.unwrap();
        taken.into_iter().map(|token| token.owner.id).collect::<String>()
    };
    store(1).await;
    store(2).await;
    assert_eq!([take().await, take().await], ["1", "2"]);
    store(3).await;
    assert_eq!([take().await, take().await, take().await], ["3", "1", "2"]);
}

#[tokio::test]
async fn every_token_is_asked_about_once_in_a_while_by_one_instance() {
    let database = migrated().await;
    let journals = [database.journal(), another(&database)];
    for id in 0..10 {
        journals[0].store_token(&token(Owner::channel(id.to_string()), id, HOUR)).await.unwrap();
    }
    let take = async |journal: &Journal| journal.take_unvalidated_tokens(HOUR, HOUR, 20).await.unwrap().len();
    assert_eq!(take(&journals[0]).await, 0, "asked when they were stored");
    an_hour_passes(&database).await;
    let (one, other) = tokio::join!(take(&journals[0]), take(&journals[1]));
    assert_eq!(one + other, 10);
    assert_eq!(take(&journals[0]).await, 0);
}

/// As if nobody had asked Twitch about the tokens for an hour.
async fn an_hour_passes(database: &MigratedDatabase) {
    let sql = "UPDATE chatpulse.oauth_tokens SET validated_at = validated_at - interval '61 minutes'";
    database.owner().await.execute(sql, &[]).await.unwrap();
}

#[tokio::test]
async fn a_token_about_which_twitch_did_not_answer_is_due_again_soon_after_all_others() {
    let database = migrated().await;
    let journal = database.journal();
    let take = async |lease: Duration, limit: i64| {
        let taken = journal.take_unvalidated_tokens(HOUR, lease, limit).await.unwrap();
        taken.into_iter().map(|token| (token.owner.id.clone(), token)).collect::<BTreeMap<_, _>>()
    };
    let ids = |taken: &BTreeMap<String, StoredToken>| taken.keys().cloned().collect::<String>();
    for id in 1..=3 {
        journal.store_token(&token(Owner::channel(id.to_string()), id, HOUR)).await.unwrap();
    }
    an_hour_passes(&database).await;
    // Who has taken them on has died.
    let lost = take(Duration::ZERO, 2).await;
    assert_eq!(lost.len(), 2);
    let next = take(HOUR, 1).await;
    assert!(!lost.contains_key(&ids(&next)), "the third one comes first");
    let again = take(HOUR, 9).await;
    assert_eq!(again.keys().collect::<Vec<_>>(), lost.keys().collect::<Vec<_>>());
    // Twitch has answered, but meanwhile one is another token.
    an_hour_passes(&database).await;
    journal.store_token(&token(Owner::channel("1"), 9, HOUR)).await.unwrap();
    an_hour_passes(&database).await;
    let answered: Vec<&StoredToken> = again.values().chain(next.values()).collect();
    journal.note_validated(&answered).await.unwrap();
    assert_eq!(ids(&take(HOUR, 9).await), "1");
}

#[tokio::test]
async fn tokens_are_sealed_with_the_newest_key_and_those_that_no_key_opens_are_named() {
    let database = migrated().await;
    let journal = database.journal();
    let key = |byte: u8| Secret::new([byte; 32]);
    let sealed = |owner: Owner, number: u8, keyring: &Keyring| {
        let row = owner.row();
        let place = |column| Place { table: "oauth_tokens", column, row: &row };
        NewToken {
            access: keyring.seal(place("access_token"), "access").unwrap(),
            refresh: keyring.seal(place("refresh_token"), "refresh").unwrap(),
            key_id: keyring.newest().unwrap().to_string(),
            ..token(owner, number, HOUR)
        }
    };
    let (lost, old) = (Keyring::new(&[key(1)]), Keyring::new(&[key(2)]));
    for (id, keyring) in [(1, &old), (2, &lost), (3, &old)] {
        let owner = Owner::channel(id.to_string());
        journal.store_token(&sealed(owner, id, keyring)).await.unwrap();
    }
    let keyring = Keyring::new(&[key(3), key(2)]);
    let mut told = Vec::new();
    let rotated = vault::rotate(&journal, &keyring, |done| told.push(done)).await.unwrap();
    assert_eq!((rotated.resealed, told), (2, vec![1, 2]));
    let unopened: Vec<_> = rotated.unopened.iter().map(|it| (it.whose.clone(), &it.why)).collect();
    let why = KeyringError::UnknownKey(lost.newest().unwrap());
    assert!(unopened.len() == 1 && unopened[0].0.starts_with("channel/2 (") && unopened[0].1 == &why);
    assert_eq!(stored(&journal, &Owner::channel("3")).await.key_id, keyring.newest().unwrap().to_string());
    assert_eq!(stored(&journal, &Owner::channel("2")).await.key_id, lost.newest().unwrap().to_string());
    let again = vault::rotate(&journal, &keyring, |_| {}).await.unwrap();
    assert_eq!((again.resealed, again.unopened), (0, rotated.unopened));
}

#[tokio::test]
async fn tokens_under_an_older_key_are_found_page_by_page_and_sealed_again_unless_they_changed() {
    let database = migrated().await;
    let journal = database.journal();
    for id in 0..5 {
        journal.store_token(&token(Owner::channel(id.to_string()), id, HOUR)).await.unwrap();
    }
    let (mut after, mut seen) = (None, 0);
    loop {
        let page = journal.tokens_sealed_otherwise("k2", after.as_ref(), 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.owner.clone());
        for token in &page {
            assert!(journal.reseal_token(token, &[8], &[9], "k2").await.unwrap());
            seen += 1;
        }
    }
    assert_eq!(seen, 5);
    assert_eq!(stored(&journal, &Owner::channel("3")).await.access, [8]);
    let old = stored(&journal, &Owner::channel("3")).await;
    journal.store_token(&token(Owner::channel("3"), 7, HOUR)).await.unwrap();
    assert!(!journal.reseal_token(&old, &[0], &[0], "k3").await.unwrap());
    assert_eq!(stored(&journal, &Owner::channel("3")).await.refresh, [2, 7]);
}

#[tokio::test]
async fn a_browser_is_signed_in_until_it_signs_out_or_its_time_is_over() {
    let database = migrated().await;
    let journal = database.journal();
    let streamer = register(&journal, Config::default()).await;
    let owner = Owner::channel(streamer.profile.twitch_user_id.clone());
    journal.store_token(&token(owner.clone(), 1, HOUR)).await.unwrap();
    journal.begin_web_session(&[1; 32], streamer.id, HOUR).await.unwrap();
    journal.begin_web_session(&[2; 32], streamer.id, HOUR).await.unwrap();
    journal.begin_web_session(&[3; 32], streamer.id, Duration::ZERO).await.unwrap();
    let who = async |digest: u8| journal.web_session(&[digest; 32]).await.unwrap();
    assert_eq!((who(1).await, who(3).await, who(4).await), (Some(streamer.id), None, None));
    assert_eq!(journal.drop_expired_web_sessions(10).await.unwrap(), 1);
    journal.end_web_session(&[1; 32]).await.unwrap();
    assert_eq!((who(1).await, who(2).await), (None, Some(streamer.id)));
    journal.invalidate_token(&owner, 1, "withdrawn").await.unwrap();
    assert_eq!(who(2).await, None, "who has no token any more is not signed in");
    let ended = journal.end_web_sessions_of(&streamer.profile.twitch_user_id).await.unwrap();
    assert_eq!(ended, [vec![2; 32]]);
    assert_eq!(who(2).await, None);
}

#[tokio::test]
async fn a_duty_is_one_instances_until_it_leaves_or_its_lease_lapses() {
    let database = migrated().await;
    let (one, other) = (database.journal(), another(&database));
    assert!(one.take_duty("twitch", HOUR).await.unwrap());
    assert!(!other.take_duty("twitch", HOUR).await.unwrap());
    assert!(other.take_duty("elsewhere", HOUR).await.unwrap());
    assert!(one.take_duty("twitch", HOUR).await.unwrap(), "whoever has it keeps it");
    other.leave_duties().await.unwrap();
    assert!(!other.take_duty("twitch", HOUR).await.unwrap(), "nobody leaves another one's duty");
    one.leave_duties().await.unwrap();
    assert!(other.take_duty("twitch", Duration::ZERO).await.unwrap());
    assert!(one.take_duty("twitch", HOUR).await.unwrap(), "the lease has lapsed");
}

/// A database with a live session, whose chat is therefore wanted.
async fn wanted() -> (MigratedDatabase, Journal, Uuid) {
    let database = migrated().await;
    let journal = database.journal();
    let streamer_id = live(&journal, Config::default()).await.streamer.id;
    (database, journal, streamer_id)
}

#[tokio::test]
async fn a_session_wants_its_chat_and_what_is_taken_back_there() {
    let (database, journal, streamer_id) = wanted().await;
    let first = due(&journal).await;
    let expected = BTreeSet::from([
        CHAT,
        "channel.chat.message_delete",
        "channel.chat.clear_user_messages",
        "channel.chat.clear",
        "channel.shared_chat.begin",
        "channel.shared_chat.end",
    ]);
    assert_eq!(kinds(&first), expected);
    assert!(first.iter().all(|due| due.task == Task::Create && due.streamer_id == streamer_id));
    assert_eq!(due(&another(&database)).await, [], "nobody else tries them meanwhile");
}

#[tokio::test]
async fn a_confirmed_subscription_is_an_event_and_is_confirmed_once() {
    let (_database, journal, streamer_id) = wanted().await;
    let due = due(&journal).await.into_iter().find(|due| due.kind == CHAT).unwrap();
    for _ in 0..2 {
        assert!(journal.confirm_subscription(&due, "s1", "c1").await.unwrap());
    }
    let events = journal.streamer_events(streamer_id, 0, 100).await.unwrap();
    let confirmed = Event::SubscriptionConfirmed {
        subscription_type: CHAT.into(),
        subscription_id: "s1".into(),
        conduit_id: "c1".into(),
    };
    assert_eq!(events.iter().filter(|recorded| recorded.event == confirmed).count(), 1);
    let known = journal.known_subscriptions(None, 10).await.unwrap();
    assert_eq!((known.len(), known[0].subscription_id.as_str(), known[0].kind.as_str()), (1, "s1", CHAT));
    assert_eq!(journal.known_subscriptions(Some("s1"), 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_revoked_subscription_is_wanted_again_or_waits_for_a_person() {
    let (database, journal, streamer_id) = wanted().await;
    for (index, due) in due(&journal).await.iter().enumerate() {
        journal.confirm_subscription(due, &format!("s{index}"), "c1").await.unwrap();
    }
    let whose = journal.revoke_subscription("s0", "notification_failures_exceeded", true).await.unwrap();
    assert_eq!(whose, Some(streamer_id));
    assert_eq!(journal.revoke_subscription("s0", "x", true).await.unwrap(), None, "it was noted before");
    assert_eq!(journal.revoke_subscription("s9", "x", true).await.unwrap(), None, "it is unknown");
    journal.revoke_subscription("s1", "authorization_revoked", false).await.unwrap();
    let standing = journal.subscriptions_of(streamer_id).await.unwrap();
    let of = |status: &str| standing.iter().filter(|standing| standing.status == status).count();
    assert_eq!((of("requested"), of("blocked"), of("enabled")), (1, 1, 4));
    let blocked = standing.iter().find(|standing| standing.status == "blocked").unwrap();
    assert_eq!(blocked.reason.as_deref(), Some("authorization_revoked"));
    journal.request_blocked_subscriptions(Some(streamer_id)).await.unwrap();
    let standing = journal.subscriptions_of(streamer_id).await.unwrap();
    assert!(standing.iter().all(|standing| standing.status != "blocked"));
    drop(database);
}

#[tokio::test]
async fn a_subscription_that_twitch_revokes_again_and_again_waits_ever_longer_until_one_has_held() {
    let (database, journal, _) = wanted().await;
    let chat = due(&journal).await.into_iter().find(|due| due.kind == CHAT).unwrap();
    let owner = database.owner().await;
    // Seconds until it is requested again.
    let pause_after_revoking = async |id: &str| {
        assert!(journal.revoke_subscription(id, "conduit_deleted", true).await.unwrap().is_some());
        let question = "SELECT round(extract(epoch FROM due_at - changed_at))::bigint
                        FROM chatpulse.eventsub_subscriptions WHERE type = 'channel.chat.message'";
        owner.query_one(question, &[]).await.unwrap().get::<_, i64>(0)
    };
    for (id, pauses) in [("s1", 0..=0), ("s2", 1..=2), ("s3", 3..=6), ("s4", 7..=14)] {
        assert!(journal.confirm_subscription(&chat, id, "c1").await.unwrap());
        let pause = pause_after_revoking(id).await;
        assert!(pauses.contains(&pause), "{id}: {pause} s");
    }
    assert!(journal.confirm_subscription(&chat, "s5", "c1").await.unwrap());
    let held = "UPDATE chatpulse.eventsub_subscriptions SET changed_at = changed_at - interval '11 minutes'";
    owner.execute(held, &[]).await.unwrap();
    assert_eq!(pause_after_revoking("s5").await, 0, "it had held");
}

#[tokio::test]
async fn a_subscription_that_is_replaced_is_due_and_still_known() {
    let (_database, journal, streamer_id) = wanted().await;
    for (index, due) in due(&journal).await.iter().enumerate() {
        journal.confirm_subscription(due, &format!("s{index}"), "c1").await.unwrap();
    }
    let ids = ["s0", "s3", "unknown"].map(str::to_owned);
    assert_eq!(journal.replace_subscriptions(&ids, "another account").await.unwrap(), 2);
    assert_eq!(
        journal.replace_subscriptions(&ids, "another account").await.unwrap(),
        0,
        "they are under way"
    );
    let again = due(&journal).await;
    assert!(again.iter().all(|due| due.task == Task::Create));
    let known: BTreeSet<_> = again.iter().filter_map(|due| due.subscription_id.as_deref()).collect();
    assert_eq!(known, BTreeSet::from(["s0", "s3"]));
    assert!(journal.confirm_subscription(&again[0], "s9", "c1").await.unwrap());
    assert!(journal.known_subscriptions(Some("s8"), 9).await.unwrap().iter().any(|known| {
        known.subscription_id == "s9" && known.streamer_id == streamer_id && known.kind == again[0].kind
    }));
}

#[tokio::test]
async fn a_channel_that_is_stuck_is_counted_once_with_what_is_said_of_its_messages() {
    let (_database, journal, _) = wanted().await;
    let other = live(&journal, Config::default()).await.streamer;
    for due in due(&journal).await {
        let reason = match due.kind.as_str() {
            CHAT => "banned",
            "channel.chat.clear" => "another reason",
            _ => continue,
        };
        if due.streamer_id != other.id || due.kind != CHAT {
            journal.postpone_subscription(&due, reason, None).await.unwrap();
        }
    }
    let stuck = journal.stuck_chats(StuckBy::Blocked, 9).await.unwrap();
    assert_eq!((stuck.count, stuck.some.len()), (2, 2), "{stuck:?}");
    assert_eq!((stuck.some[0].reason.as_str(), stuck.some[0].messages), ("banned", true));
    let login = other.profile.login;
    assert_eq!(stuck.some[1], StuckChat { login, reason: "another reason".into(), messages: false });
    assert_eq!(journal.stuck_chats(StuckBy::Blocked, 1).await.unwrap().count, 2);
    let failing = journal.stuck_chats(StuckBy::Failing, 9).await.unwrap();
    assert_eq!(failing, StuckChats::default());
}

#[tokio::test]
async fn what_twitch_refuses_is_tried_again_later_or_blocked() {
    let (_database, journal, streamer_id) = wanted().await;
    let all = due(&journal).await;
    let (later, blocked) = (&all[0], &all[1]);
    journal.postpone_subscription(later, "busy", Some(Duration::ZERO)).await.unwrap();
    journal.postpone_subscription(blocked, "no permission", None).await.unwrap();
    let again = due(&journal).await;
    assert_eq!(kinds(&again), BTreeSet::from([later.kind.as_str()]));
    assert_eq!(again[0].attempts, 1);
    let standing = journal.subscriptions_of(streamer_id).await.unwrap();
    let found = standing.iter().find(|standing| standing.kind == blocked.kind).unwrap();
    assert_eq!((found.status.as_str(), found.reason.as_deref()), ("blocked", Some("no permission")));
}

#[tokio::test]
async fn subscriptions_are_kept_for_a_while_after_the_session_and_deleted_then() {
    let (_database, journal, streamer_id) = wanted().await;
    for (index, due) in due(&journal).await.iter().enumerate() {
        journal.confirm_subscription(due, &format!("s{index}"), "c1").await.unwrap();
    }
    let end = async |keep| journal.end_unwanted_subscriptions(keep, 100).await.unwrap();
    assert_eq!(end(Duration::ZERO).await, 0, "the session is live");
    journal.change_streamer(streamer_id, Command::Disable, "test").await.unwrap();
    journal.change_streamer(streamer_id, Command::Enable, "test").await.unwrap();
    assert_eq!(end(HOUR).await, 0, "it ended just now");
    assert_eq!(end(Duration::ZERO).await, 6);
    let ending = due(&journal).await;
    assert!(ending.len() == 6 && ending.iter().all(|due| due.task == Task::Delete));
    assert!(ending.iter().all(|due| due.subscription_id.is_some()));
    journal.forget_subscription(&ending[0]).await.unwrap();
    assert_eq!(journal.subscriptions_of(streamer_id).await.unwrap().len(), 5);
}

#[tokio::test]
async fn a_session_that_starts_while_its_subscriptions_are_being_deleted_gets_new_ones() {
    let (_database, journal, streamer_id) = wanted().await;
    for (index, due) in due(&journal).await.iter().enumerate() {
        journal.confirm_subscription(due, &format!("s{index}"), "c1").await.unwrap();
    }
    journal.change_streamer(streamer_id, Command::Disable, "test").await.unwrap();
    let entry = journal.change_streamer(streamer_id, Command::Enable, "test").await.unwrap();
    journal.end_unwanted_subscriptions(Duration::ZERO, 100).await.unwrap();
    let ending = due(&journal).await;
    crate::support::database::hold(&journal, &entry.streamer).await;
    // Twitch has deleted them meanwhile.
    for due in &ending {
        journal.forget_subscription(due).await.unwrap();
    }
    let again = due(&journal).await;
    assert!(again.len() == 6 && again.iter().all(|due| due.task == Task::Create), "{again:?}");
    assert_eq!(journal.subscriptions_of(streamer_id).await.unwrap().len(), 6);
}

#[tokio::test]
async fn what_a_live_session_lacks_is_requested() {
    let (database, journal, streamer_id) = wanted().await;
    assert_eq!(journal.request_missing_subscriptions(100).await.unwrap(), 0);
    let owner = database.owner().await;
    owner
        .batch_execute(
            "DELETE FROM chatpulse.eventsub_subscriptions WHERE type = 'channel.chat.clear';
             UPDATE chatpulse.eventsub_subscriptions SET status = 'ending' WHERE type = 'channel.chat.message'",
        )
        .await
        .unwrap();
    assert_eq!(journal.request_missing_subscriptions(100).await.unwrap(), 2);
    let standing = journal.subscriptions_of(streamer_id).await.unwrap();
    assert!(
        standing.len() == 6 && standing.iter().all(|standing| standing.status == "requested"),
        "{standing:?}"
    );
}

#[tokio::test]
async fn what_was_not_tried_is_due_again_when_it_may_be() {
    let (_database, journal, _) = wanted().await;
    let taken = due(&journal).await;
    journal.give_back_subscriptions(&taken[2..], Duration::ZERO).await.unwrap();
    assert_eq!(due(&journal).await.len(), taken.len() - 2);
}

#[tokio::test]
async fn another_conduit_has_all_subscriptions_made_anew() {
    let (_database, journal, streamer_id) = wanted().await;
    journal.note_conduit("client", "c1").await.unwrap();
    for (index, due) in due(&journal).await.iter().enumerate() {
        journal.confirm_subscription(due, &format!("s{index}"), "c1").await.unwrap();
    }
    journal.note_conduit("client", "c1").await.unwrap();
    assert_eq!(due(&journal).await, [], "it is the same one");
    journal.note_conduit("client", "c2").await.unwrap();
    assert_eq!(journal.conduit("client").await.unwrap().as_deref(), Some("c2"));
    assert_eq!(due(&journal).await.len(), 6);
    let _ = streamer_id;
}
