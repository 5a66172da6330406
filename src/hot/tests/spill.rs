//! Votes that wait in a durable queue.

use super::*;
use crate::domain::vote::NewVote;
use crate::hot::spill::{Depth, Durability, Failed, Spill, SpillOptions, Spilled};

const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

fn spill_by(server: &Server, durability: Durability) -> Spill {
    let options = SpillOptions { instance_id: Uuid::new_v4(), entries_max: 3, durability };
    Spill::new(server.hot(), &options)
}

fn spill(server: &Server) -> Spill {
    spill_by(server, Durability::Ask)
}

fn vote(message_id: &str) -> NewVote {
    NewVote {
        session_id: Uuid::from_u128(7),
        message_id: message_id.into(),
        side: Side::For,
        weight: 1.0,
        t: EPOCH,
        viewer: "ab12".into(),
    }
}

fn votes(spilled: &[Spilled]) -> Vec<&NewVote> {
    spilled.iter().map(|spilled| &spilled.vote).collect()
}

fn ids(spilled: &[Spilled]) -> Vec<String> {
    spilled.iter().map(|spilled| spilled.id.clone()).collect()
}

async fn set(server: &Server, name: &str, value: &str) {
    let _: String = raw(server, &["CONFIG", "SET", name, value]).await;
}

#[tokio::test]
async fn votes_survive_the_death_of_the_server() {
    let mut server = Server::start_with(DURABLE).await;
    let before = spill(&server);
    assert!(!before.is_durable(), "not asked yet");
    assert_eq!(before.probe().await.unwrap(), Depth::default());
    assert!(before.is_durable());
    before.push(&[vote("m1"), vote("m2")]).await.unwrap();
    let taken = before.take(1).await.unwrap();
    assert_eq!(votes(&taken), [&vote("m1")]);
    before.settle(&ids(&taken)).await.unwrap();
    server.stop();
    before.probe().await.unwrap_err();
    assert!(!before.is_durable());

    let server = server.start_again().await;
    let after = spill(&server);
    assert_eq!(after.probe().await.unwrap(), Depth { waiting: 1, dead_letters: 0 });
    let taken = after.take(9).await.unwrap();
    assert_eq!(votes(&taken), [&vote("m2")]);
    after.settle(&ids(&taken)).await.unwrap();
    assert_eq!(after.take(9).await.unwrap(), vec![]);
    until(async || before.probe().await.is_ok()).await;
    assert!(before.is_durable(), "found again");
}

#[tokio::test]
async fn a_server_is_durable_only_with_all_of_its_settings() {
    let server = Server::start_with(DURABLE).await;
    let spill = spill(&server);
    for (name, bad, good) in [
        ("appendonly", "no", "yes"),
        ("appendfsync", "everysec", "always"),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
    ] {
        set(&server, name, bad).await;
        spill.probe().await.unwrap();
        assert!(spill.is_fleeting() && !spill.is_durable(), "{name} {bad}");
        let refused = spill.push(&[vote("m1")]).await;
        assert!(matches!(&refused, Err(HotError::Fleeting(why)) if why.contains(name)), "{refused:?}");
        let _: String = raw(&server, &["FLUSHALL"]).await;
        set(&server, name, good).await;
        spill.probe().await.unwrap();
        assert!(spill.is_durable(), "{name} {good}");
    }
}

#[tokio::test]
async fn the_operators_word_stands_where_a_server_does_not_tell_its_settings() {
    let server = Server::start().await;
    let rights = ["ACL", "SETUSER", "default", "-config"];
    let _: String = raw(&server, &rights).await;
    let (asked, trusted) = (spill(&server), spill_by(&server, Durability::Yes));
    asked.probe().await.unwrap();
    trusted.probe().await.unwrap();
    assert_eq!((asked.is_durable(), trusted.is_durable()), (false, true));
    trusted.push(&[vote("m1")]).await.unwrap();
    assert!(matches!(asked.push(&[]).await, Err(HotError::Fleeting(_))));
    let distrusted = spill_by(&server, Durability::No);
    assert_eq!(distrusted.probe().await.unwrap(), Depth { waiting: 1, dead_letters: 0 });
    assert!(!distrusted.is_durable());
    assert!(matches!(distrusted.push(&[vote("m2")]).await, Err(HotError::Fleeting(_))));
}

#[tokio::test]
async fn a_server_that_was_restarted_takes_votes_before_it_is_asked_again() {
    let mut server = Server::start_with(DURABLE).await;
    let hot = server.hot();
    let options = SpillOptions { instance_id: Uuid::new_v4(), entries_max: 3, durability: Durability::Ask };
    let spill = Spill::new(hot.clone(), &options);
    spill.probe().await.unwrap();
    server.stop();
    let _server = server.start_again().await;
    // Another call found out first, and made the connections anew.
    until(async || hot.probe().await.is_ok()).await;
    spill.push(&[vote("m1")]).await.unwrap();
    assert_eq!(votes(&spill.take(9).await.unwrap()), [&vote("m1")]);
}

#[tokio::test]
async fn another_server_behind_the_same_url_takes_no_votes_unless_it_is_durable_too() {
    let mut server = Server::start_with(DURABLE).await;
    let spill = spill(&server);
    spill.probe().await.unwrap();
    server.stop();
    server.options = &[];
    let server = server.start_again().await;
    until(async || server.hot().probe().await.is_ok()).await;
    let refused = spill.push(&[vote("m1")]).await;
    assert!(matches!(&refused, Err(HotError::Fleeting(why)) if why.contains("appendonly")), "{refused:?}");
    spill.probe().await.unwrap();
    assert!(spill.is_fleeting() && !spill.is_durable());
}

#[tokio::test]
async fn a_full_queue_says_so_and_takes_none_of_the_votes() {
    let server = Server::start_with(DURABLE).await;
    let spill = spill(&server);
    spill.probe().await.unwrap();
    spill.push(&[vote("m1"), vote("m2")]).await.unwrap();
    let full = spill.push(&[vote("m3"), vote("m4")]).await;
    assert_eq!(full, Err(HotError::Full("{votes}".into())));
    assert_eq!(spill.probe().await.unwrap().waiting, 2);
}

#[tokio::test]
async fn what_cannot_be_read_goes_to_the_dead_letters_and_stops_no_other() {
    let server = Server::start_with(DURABLE).await;
    let spill = spill(&server);
    spill.probe().await.unwrap();
    for (field, payload) in [("payload", "{"), ("payload", r#"{"version":2}"#), ("other", "x")] {
        let _: String = raw(&server, &["XADD", "chatpulse:stream:{votes}", "*", field, payload]).await;
    }
    assert_eq!(spill.take(2).await.unwrap(), vec![]);
    spill.push(&[vote("m1")]).await.unwrap();
    assert_eq!(votes(&spill.take(9).await.unwrap()), [&vote("m1")]);
    assert_eq!(spill.probe().await.unwrap(), Depth { waiting: 1, dead_letters: 3 });
    let letters = spill.dead_letters(None, 9).await.unwrap();
    assert_eq!(letters[1].payload, br#"{"version":2}"#);
    assert_eq!(letters[1].reason, "the entry has format 2; this release reads 1");
}

#[tokio::test]
async fn a_vote_that_the_journal_refuses_dies_after_five_tries_and_no_sooner() {
    let server = Server::start_with(DURABLE).await;
    let spill = spill(&server);
    spill.probe().await.unwrap();
    spill.push(&[vote("bad"), vote("good")]).await.unwrap();
    for tried in 1..=5 {
        let taken = spill.take(9).await.unwrap();
        let bad = taken.iter().find(|spilled| spilled.vote == vote("bad")).expect("the bad one");
        let wanted = if tried < 5 { Failed::Again } else { Failed::Dead };
        assert_eq!(spill.fail(&bad.id, "22P05").await.unwrap(), wanted, "{tried}");
    }
    assert_eq!(votes(&spill.take(9).await.unwrap()), [&vote("good")]);
    let letters = spill.dead_letters(None, 9).await.unwrap();
    assert_eq!((letters.len(), letters[0].reason.as_str(), letters[0].tries), (1, "22P05", 5));
    assert!(spill.retry_dead(&letters[0].id).await.unwrap());
    assert_eq!(spill.take(9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_cluster_is_durable_only_by_the_operators_word_and_serves_the_queue() {
    let server = Server::start_cluster().await;
    for (durability, wanted) in [(Durability::Ask, false), (Durability::Yes, true)] {
        let options = SpillOptions { instance_id: Uuid::new_v4(), entries_max: 3, durability };
        let spill = Spill::new(server.cluster_hot(), &options);
        until(async || spill.probe().await.is_ok()).await;
        assert_eq!(spill.is_durable(), wanted);
        assert_eq!(spill.push(&[vote("m1")]).await.is_ok(), wanted);
        let taken = spill.take(9).await.unwrap();
        assert_eq!(votes(&taken), vec![&vote("m1"); usize::from(wanted)]);
        spill.settle(&ids(&taken)).await.unwrap();
    }
}
