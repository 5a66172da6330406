//! Rate limits by a sliding window.

use super::*;
use crate::hot::limits::{Limit, Limits, Verdict};

const LOGIN: Limit = Limit { module: "login", window: Duration::from_secs(60), max: 2 };

fn at(ms: i64) -> Millis {
    Millis(EPOCH.0 + ms)
}

fn allowed(remaining: u32) -> Verdict {
    Verdict { allowed: true, remaining, retry_after: Duration::ZERO }
}

fn refused(retry_after_ms: u64) -> Verdict {
    Verdict { allowed: false, remaining: 0, retry_after: Duration::from_millis(retry_after_ms) }
}

#[tokio::test]
async fn a_window_allows_its_maximum_and_slides() {
    let server = Server::start().await;
    let limits = Limits::new(server.hot());
    let check = async |ms| limits.check(&LOGIN, "a", at(ms)).await.unwrap();
    assert_eq!(check(0).await, allowed(1));
    assert_eq!(check(10_000).await, allowed(0));
    assert_eq!(check(20_000).await, refused(40_000));
    assert_eq!(check(59_999).await, refused(1), "what was refused does not count");
    assert_eq!(check(60_000).await, allowed(0), "the first one has left the window");
    assert_eq!(check(60_001).await, refused(9_999));
}

#[tokio::test]
async fn each_subject_and_each_module_has_a_window_of_its_own() {
    let server = Server::start().await;
    let limits = Limits::new(server.hot());
    let one = Limit { max: 1, ..LOGIN };
    assert_eq!(limits.check(&one, "a", EPOCH).await, Ok(allowed(0)));
    assert_eq!(limits.check(&one, "a", EPOCH).await, Ok(refused(60_000)));
    assert_eq!(limits.check(&one, "b", EPOCH).await, Ok(allowed(0)));
    assert_eq!(limits.check(&Limit { module: "reset", ..one }, "a", EPOCH).await, Ok(allowed(0)));
}

#[tokio::test]
async fn all_instances_count_together_and_the_key_lives_as_long_as_the_window() {
    let server = Server::start().await;
    let (one, two) = (Limits::new(server.hot()), Limits::new(server.hot()));
    assert_eq!(one.check(&LOGIN, "a", at(0)).await, Ok(allowed(1)));
    assert_eq!(two.check(&LOGIN, "a", at(5)).await, Ok(allowed(0)));
    assert_eq!(one.check(&LOGIN, "a", at(9)).await, Ok(refused(59_991)));
    let life: i64 = raw(&server, &["PTTL", &keys::rate_limit("login", "a")]).await;
    assert!(0 < life && life <= 60_000, "{life}");
}

#[tokio::test]
async fn a_lowered_maximum_holds_at_once() {
    let server = Server::start().await;
    let limits = Limits::new(server.hot());
    for ms in [0, 10_000] {
        limits.check(&LOGIN, "a", at(ms)).await.unwrap();
    }
    let one = Limit { max: 1, ..LOGIN };
    assert_eq!(limits.check(&one, "a", at(20_000)).await, Ok(refused(50_000)));
    assert_eq!(limits.check(&one, "a", at(60_000)).await, Ok(refused(10_000)));
    assert!(!limits.check(&Limit { max: 0, ..LOGIN }, "b", at(0)).await.unwrap().allowed);
}
