//! Sessions that overlays wait for are started together.

use futures_util::future::join_all;
use tokio_postgres::Client;

use crate::support::eventually;
use crate::support::instance::{Instance, Streamer};

/// An instance that waits long for locks, with its streamers and two connections to their database.
async fn stage(streamers: usize) -> (Instance, Vec<Streamer>, [Client; 2]) {
    let instance = Instance::start(&[("CHATPULSE_DATABASE__STATEMENT_TIMEOUT_MS", "60000")]).await;
    let mut registered = Vec::new();
    for _ in 0..streamers {
        registered.push(instance.streamer(&["yes"], &["no"]).await);
    }
    let connections = [instance.sql().await, instance.sql().await];
    (instance, registered, connections)
}

async fn asked_for(instance: &Instance, cold_starts: f64) {
    let name = "chatpulse_cold_starts_total{source=\"postgres\"}";
    eventually("all cold starts are asked for", async || instance.metrics().await[name] == cold_starts).await;
}

#[tokio::test]
async fn what_gathers_during_one_statement_is_started_by_the_next() {
    let (instance, streamers, [mut client, sql]) = stage(40).await;
    let (first, others) = streamers.split_first().expect("there are 40");
    // Every hold looks whether its instance is known.
    let locked = client.transaction().await.unwrap();
    locked.execute("SELECT FROM chatpulse.instances FOR UPDATE", &[]).await.unwrap();
    let later = async {
        asked_for(&instance, 1.0).await;
        let unlock = async {
            asked_for(&instance, 40.0).await;
            locked.rollback().await.unwrap();
        };
        tokio::join!(join_all(others.iter().map(|streamer| instance.overlay(streamer))), unlock)
    };
    tokio::join!(instance.overlay(first), later);
    // All sessions of one statement have the same transaction.
    let statements = "SELECT count(DISTINCT xmin::text), count(*) FROM chatpulse.session_keys";
    let row = sql.query_one(statements, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (2, 40));
}

#[tokio::test]
async fn a_locked_streamer_keeps_no_other_from_their_session() {
    let (instance, streamers, [mut client, sql]) = stage(4).await;
    let (first, others) = streamers.split_first().expect("there are 4");
    let locked = client.transaction().await.unwrap();
    let lock = "SELECT FROM chatpulse.users WHERE overlay_uuid = $1 FOR UPDATE";
    locked.execute(lock, &[&first.overlay_uuid]).await.unwrap();
    let others = async {
        asked_for(&instance, 1.0).await;
        join_all(others.iter().map(|streamer| instance.overlay(streamer))).await;
        let live = "SELECT count(*) FROM chatpulse.live_sessions";
        assert_eq!(sql.query_one(live, &[]).await.unwrap().get::<_, i64>(0), 3);
        locked.rollback().await.unwrap();
    };
    let (overlay, ()) = tokio::join!(instance.overlay(first), others);
    assert_eq!(overlay.hello["type"], "hello");
}
