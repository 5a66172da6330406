//! What may be forgotten.

use super::*;
use crate::hot::cache::Cache;

const LIFE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn of_all_who_take_a_value_one_gets_it() {
    let server = Server::start().await;
    let cache = Cache::new(server.hot());
    cache.put("login", "ab", "streamer", LIFE).await.unwrap();
    assert_eq!(cache.get("login", "ab").await.unwrap().as_deref(), Some("streamer"));
    let takes = futures_util::future::join_all((0..20).map(|_| cache.take("login", "ab"))).await;
    let got: Vec<String> = takes.into_iter().filter_map(|take| take.unwrap()).collect();
    assert_eq!(got, ["streamer"]);
    assert_eq!(cache.get("login", "ab").await.unwrap(), None);
}

#[tokio::test]
async fn everything_has_an_end() {
    let server = Server::start().await;
    let cache = Cache::new(server.hot());
    cache.put("session", "ab", "x", LIFE).await.unwrap();
    cache.csrf_token("ab", "token", LIFE).await.unwrap();
    for key in ["chatpulse:cache:session:ab", "chatpulse:csrf:ab"] {
        let left: i64 = raw(&server, &["PTTL", key]).await;
        assert!((1..=60_000).contains(&left), "{key}: {left}");
    }
}

#[tokio::test]
async fn a_session_keeps_its_forms_token_until_it_is_forgotten() {
    let server = Server::start().await;
    let cache = Cache::new(server.hot());
    assert_eq!(cache.known_csrf_token("ab").await.unwrap(), None);
    assert_eq!(cache.csrf_token("ab", "first", LIFE).await.unwrap(), "first");
    assert_eq!(cache.csrf_token("ab", "second", LIFE).await.unwrap(), "first");
    cache.forget_csrf("ab").await.unwrap();
    assert_eq!(cache.csrf_token("ab", "third", LIFE).await.unwrap(), "third");
    assert_eq!(cache.csrf_token("cd", "other", LIFE).await.unwrap(), "other");
}
