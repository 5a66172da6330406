//! Access tokens that are no longer accepted.

use super::*;
use crate::hot::deny::{Denied, DenyList};

const LIFE: Duration = Duration::from_secs(900);

fn jti() -> Uuid {
    Uuid::new_v4()
}

async fn look(list: &DenyList, jti: Uuid) -> Denied {
    list.look(jti).await.expect("an answer")
}

/// A list that has been loaded, empty.
async fn loaded(hot: Hot) -> DenyList {
    let list = DenyList::new(hot);
    list.load(&[]).await.expect("the list is loaded");
    list
}

#[tokio::test]
async fn a_denied_token_is_denied_on_all_instances_until_it_ends() {
    let server = Server::start().await;
    let (one, two) = (loaded(server.hot()).await, loaded(server.hot()).await);
    let (denied, other, ended) = (jti(), jti(), jti());
    one.deny(&[(denied, LIFE), (ended, Duration::ZERO)]).await.unwrap();
    for list in [&one, &two] {
        assert_eq!(look(list, denied).await, Denied::Yes);
        assert_eq!(look(list, other).await, Denied::No);
        assert_eq!(look(list, ended).await, Denied::No);
    }
    let left: i64 = raw(&server, &["PTTL", &keys::denied(denied)]).await;
    assert!((1..=900_000).contains(&left), "{left}");
    // As its end does.
    let _: i64 = raw(&server, &["DEL", &keys::denied(denied)]).await;
    assert_eq!(look(&two, denied).await, Denied::No);
}

#[tokio::test]
async fn each_instance_loads_the_list_before_it_trusts_it() {
    let server = Server::start().await;
    let list = DenyList::new(server.hot());
    let (denied, other) = (jti(), jti());
    assert_eq!(look(&list, other).await, Denied::NotLoaded);
    list.deny(&[(denied, LIFE)]).await.unwrap();
    assert_eq!(look(&list, denied).await, Denied::Yes, "what is there is denied in any case");
    assert_eq!(look(&list, other).await, Denied::NotLoaded, "one token is not the list");
    list.load(&[]).await.unwrap();
    assert_eq!(look(&list.clone(), other).await, Denied::No);
    let restarted = DenyList::new(server.hot());
    assert_eq!(look(&restarted, other).await, Denied::NotLoaded);
}

#[tokio::test]
async fn after_a_flush_nobody_is_let_in_until_the_list_is_loaded_again() {
    let server = Server::start().await;
    let (one, two) = (loaded(server.hot()).await, loaded(server.hot()).await);
    let (denied, other) = (jti(), jti());
    one.deny(&[(denied, LIFE)]).await.unwrap();
    let _: String = raw(&server, &["FLUSHALL"]).await;
    for jti in [denied, other] {
        assert_eq!(look(&one, jti).await, Denied::NotLoaded);
    }
    one.load(&[(denied, LIFE)]).await.unwrap();
    assert_eq!([look(&one, denied).await, look(&one, other).await], [Denied::Yes, Denied::No]);
    // The marker is there again, but it is not the one that this instance knew.
    assert_eq!([look(&two, denied).await, look(&two, other).await], [Denied::Yes, Denied::NotLoaded]);
    two.load(&[(denied, LIFE)]).await.unwrap();
    assert_eq!([look(&one, other).await, look(&two, other).await], [Denied::No, Denied::No]);
}

#[tokio::test]
async fn a_list_that_was_only_half_lost_is_loaded_again_too() {
    let mut server = Server::start().await;
    let list = loaded(server.hot()).await;
    let _: i64 = raw(&server, &["DEL", &keys::deny_list_loaded()]).await;
    assert_eq!(look(&list, jti()).await, Denied::NotLoaded);
    list.load(&[]).await.unwrap();

    // Behind a new connection there may be a server that lost the newest writes.
    let _: i64 = raw(&server, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    until(async || list.look(jti()).await == Ok(Denied::NotLoaded)).await;
    list.load(&[]).await.unwrap();
    assert_eq!(look(&list, jti()).await, Denied::No);

    server.stop();
    assert!(list.look(jti()).await.is_err(), "nobody is let in while it is away");
    assert!(list.load(&[]).await.is_err());
}

#[tokio::test]
async fn a_token_that_could_not_be_denied_here_has_the_list_loaded_again() {
    let server = Server::start().await;
    let list = loaded(server.hot()).await;
    let (denied, other) = (jti(), jti());
    let _: String = raw(&server, &["CONFIG", "SET", "maxmemory", "1"]).await;
    assert!(matches!(list.deny(&[(denied, LIFE)]).await, Err(HotError::Server(_))));
    assert!(list.load(&[(denied, LIFE)]).await.is_err());
    let _: String = raw(&server, &["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(look(&list, other).await, Denied::NotLoaded);
    list.load(&[(denied, LIFE)]).await.unwrap();
    assert_eq!([look(&list, denied).await, look(&list, other).await], [Denied::Yes, Denied::No]);
}

#[tokio::test]
async fn the_marker_ends_within_the_hour_unless_the_list_is_loaded_again() {
    let server = Server::start().await;
    let (one, two) = (loaded(server.hot()).await, DenyList::new(server.hot()));
    let key = keys::deny_list_loaded();
    let _: i64 = raw(&server, &["PEXPIRE", &key, "1800000"]).await;
    two.load(&[]).await.unwrap();
    let left: i64 = raw(&server, &["PTTL", &key]).await;
    assert!((1_800_001..=3_600_000).contains(&left), "{left}");
    assert_eq!(look(&one, jti()).await, Denied::No, "one instance's loading is none of another's");
}

#[tokio::test]
async fn in_a_cluster_tokens_and_marker_may_be_anywhere() {
    let server = Server::start_cluster().await;
    let list = loaded(server.cluster_hot()).await;
    let denied: Vec<(Uuid, Duration)> = (0..50).map(|_| (jti(), LIFE)).collect();
    list.deny(&denied).await.unwrap();
    for (denied, _) in denied {
        assert_eq!(look(&list, denied).await, Denied::Yes);
        assert_eq!(look(&list, jti()).await, Denied::No);
    }
}
