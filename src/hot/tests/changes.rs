//! What changed in the mirror since an instance last looked.

use super::*;

#[tokio::test]
async fn changes_come_once_in_order_with_their_versions() {
    let server = Server::start().await;
    let hot = server.hot();
    let ids = neighbours(3);
    let bucket = Bucket::of(ids[0]);
    let mut cursor = Cursor::default();
    mirror(&hot, &session(ids[0], 1, 1)).await;
    assert_eq!(changes(&hot, bucket, &mut cursor).await, (true, vec![]));
    assert_eq!(changes(&hot, bucket, &mut cursor).await, (false, vec![]));

    for (i, version) in [(2, 1), (1, 1), (0, 2), (2, 2), (1, 1)] {
        mirror(&hot, &session(ids[i], 1, version)).await;
    }
    let wanted = [(1, 1), (0, 2), (2, 2)].map(|(i, version)| change(&session(ids[i], 1, version)));
    assert_eq!(changes(&hot, bucket, &mut cursor).await, (false, wanted.to_vec()));
    assert_eq!(changes(&hot, bucket, &mut cursor).await, (false, vec![]));
}

#[tokio::test]
async fn an_empty_log_resets_once_and_is_then_quiet() {
    let server = Server::start().await;
    let hot = server.hot();
    let mut cursor = Cursor::default();
    let bucket = Bucket::of(Uuid::now_v7());
    assert_eq!(changes(&hot, bucket, &mut cursor).await, (true, vec![]));
    assert_eq!(changes(&hot, bucket, &mut cursor).await, (false, vec![]));
}

#[tokio::test]
async fn a_flush_resets_also_when_as_many_changes_followed() {
    let server = Server::start().await;
    let hot = server.hot();
    let ids = neighbours(2);
    let bucket = Bucket::of(ids[0]);
    let mut cursor = Cursor::default();
    mirror(&hot, &session(ids[0], 1, 1)).await;
    changes(&hot, bucket, &mut cursor).await;

    let _: String = raw(&server, &["FLUSHALL"]).await;
    assert_eq!(changes(&hot, bucket, &mut cursor.clone()).await, (true, vec![]));
    mirror(&hot, &session(ids[1], 1, 1)).await;
    assert_eq!(changes(&hot, bucket, &mut cursor).await, (true, vec![]));
    mirror(&hot, &session(ids[0], 1, 1)).await;
    let wanted = vec![change(&session(ids[0], 1, 1))];
    assert_eq!(changes(&hot, bucket, &mut cursor).await, (false, wanted));
}

#[tokio::test]
async fn a_log_that_went_back_resets() {
    let server = Server::start().await;
    let hot = server.hot();
    let id = Uuid::now_v7();
    let mut cursor = Cursor::default();
    for version in 1..=5 {
        mirror(&hot, &session(id, 1, version)).await;
    }
    changes(&hot, Bucket::of(id), &mut cursor).await;
    let _: i64 = raw(&server, &["HSET", &keys::changes_epoch(Bucket::of(id)), "newest", "4"]).await;
    assert_eq!(changes(&hot, Bucket::of(id), &mut cursor).await, (true, vec![]));
}

#[tokio::test]
async fn whoever_is_behind_a_trimmed_log_is_reset_and_the_others_go_on() {
    let server = Server::start().await;
    let hot = server.hot();
    let ids = neighbours(5);
    let bucket = Bucket::of(ids[0]);
    let states: Vec<Session> = ids.iter().map(|id| session(*id, 1, 1)).collect();
    let (mut behind, mut in_time) = (Cursor::default(), Cursor::default());
    let write = async |state: &Session| hot.ask::<String>(mirror_call(&entry(state), "e", 3)).await.unwrap();

    write(&states[0]).await;
    changes(&hot, bucket, &mut behind).await;
    write(&states[1]).await;
    changes(&hot, bucket, &mut in_time).await;
    for state in &states[2..] {
        write(state).await;
    }
    assert_eq!(changes(&hot, bucket, &mut behind).await, (true, vec![]));
    assert_eq!(changes(&hot, bucket, &mut in_time).await, (false, states[2..].iter().map(change).collect()));
    let fields: i64 = raw(&server, &["HLEN", &keys::changes_epoch(bucket)]).await;
    assert_eq!(fields, 3 + 3, "id, newest, floor and one version for each entry kept");
}

#[tokio::test]
async fn a_long_list_of_changes_comes_in_parts() {
    let server = Server::start().await;
    let hot = server.hot();
    let ids = neighbours(1001);
    let bucket = Bucket::of(ids[0]);
    let mut cursor = Cursor::default();
    changes(&hot, bucket, &mut cursor).await;
    mirror(&hot, &session(ids[0], 1, 1)).await;
    changes(&hot, bucket, &mut cursor).await;
    let states: Vec<Session> = ids.iter().map(|id| session(*id, 1, 2)).collect();
    hot.mirror(&states.iter().map(entry).collect::<Vec<_>>()).await.unwrap();
    let (reset, mut all) = changes(&hot, bucket, &mut cursor).await;
    assert_eq!((reset, all.len()), (false, 1000));
    all.extend(changes(&hot, bucket, &mut cursor).await.1);
    assert_eq!(all, states.iter().map(change).collect::<Vec<_>>());
}

#[tokio::test]
async fn another_server_behind_the_same_url_resets() {
    let mut server = Server::start().await;
    let hot = server.hot();
    let bucket = Bucket::of(Uuid::now_v7());
    let mut cursor = Cursor::default();
    changes(&hot, bucket, &mut cursor).await;
    assert!(!changes(&hot, bucket, &mut cursor).await.0);
    // The log looks as it did: empty.
    server.stop();
    let _server = server.start_again().await;
    until(async || hot.probe().await.is_ok()).await;
    assert!(changes(&hot, bucket, &mut cursor).await.0);
}

#[tokio::test]
async fn a_log_that_is_not_there_is_begun_by_asking_and_lives_for_a_while() {
    let server = Server::start().await;
    let (one, two) = (server.hot(), server.hot());
    let id = Uuid::now_v7();
    let bucket = Bucket::of(id);
    let (mut first, mut second) = (Cursor::default(), Cursor::default());
    assert_eq!(changes(&one, bucket, &mut first).await, (true, vec![]));
    assert_eq!(changes(&two, bucket, &mut second).await, (true, vec![]));
    let life: i64 = raw(&server, &["PTTL", &keys::changes_epoch(bucket)]).await;
    assert!(life > 0, "{life}");

    // The first change in the log that asking began is missed by nobody.
    mirror(&one, &session(id, 1, 1)).await;
    let wanted = (false, vec![change(&session(id, 1, 1))]);
    assert_eq!(changes(&one, bucket, &mut first).await, wanted);
    assert_eq!(changes(&two, bucket, &mut second).await, wanted);
    for key in [keys::changes(bucket), keys::changes_epoch(bucket)] {
        let life: i64 = raw(&server, &["PTTL", &key]).await;
        assert!(life > 0, "{key} lives for ever");
    }
}

#[tokio::test]
async fn after_a_flush_each_instance_resets_once_whoever_asks_first() {
    let server = Server::start().await;
    let (one, two) = (server.hot(), server.hot());
    let bucket = Bucket::of(Uuid::now_v7());
    let (mut first, mut second) = (Cursor::default(), Cursor::default());
    changes(&one, bucket, &mut first).await;
    changes(&two, bucket, &mut second).await;
    let _: String = raw(&server, &["FLUSHALL"]).await;
    assert_eq!(changes(&one, bucket, &mut first).await, (true, vec![]));
    assert_eq!(changes(&two, bucket, &mut second).await, (true, vec![]));
    assert_eq!(changes(&one, bucket, &mut first).await, (false, vec![]));
    assert_eq!(changes(&two, bucket, &mut second).await, (false, vec![]));
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_no_server_where_nothing_changes() {
    let server = Server::start().await;
    let hot = server.hot();
    let state = session(Uuid::now_v7(), 1, 1);
    let bucket = Bucket::of(state.streamer_id);
    mirror(&hot, &state).await;
    changes(&hot, bucket, &mut Cursor::default()).await;

    let _: String = raw(&server, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let cursors = [(bucket, Cursor::default())];
    let refused = |failure: HotError| matches!(&failure, HotError::Server(why) if why.contains("OOM"));
    assert!(refused(hot.changes_since(&cursors).await.unwrap_err()));
    let newer = session(state.streamer_id, 1, 2);
    assert!(refused(hot.mirror(&[entry(&newer)]).await.unwrap_err()), "nothing is wrong with the state");
    let holders = held_by(&state, 1, &[Uuid::now_v7()]);
    assert!(refused(hot.note_holders(&[holders]).await.unwrap_err()));
    assert_eq!(frame_version(&hot, state.streamer_id).await, Some((1, 1)), "it still answers");
    hot.discard(state.streamer_id).await.unwrap();
    assert!(hot.remove(state.streamer_id, 1).await.unwrap(), "what frees memory is done");

    let _: String = raw(&server, &["CONFIG", "SET", "maxmemory", "0"]).await;
    let _: String = raw(&server, &["REPLICAOF", "127.0.0.1", "1"]).await;
    let failure = hot.changes_since(&cursors).await.unwrap_err();
    assert!(matches!(&failure, HotError::Connection(why) if why.contains("ReadOnly")), "{failure}");
}
