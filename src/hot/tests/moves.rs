//! What votes change is written alone, and whoever waits for changes hears of it.

use super::*;
use crate::hot::changes::Beat;

#[tokio::test]
async fn votes_write_only_what_they_change_and_now_and_then_everything() {
    let server = Server::start().await;
    let hot = server.hot();
    let id = Uuid::now_v7();
    assert_eq!(mirror(&hot, &session(id, 1, 5)).await, Mirrored::Written);
    raw::<()>(&server, &["HDEL", &keys::session(id), "started_at"]).await;
    raw::<()>(&server, &["PERSIST", &keys::session(id)]).await;
    let is_whole = async || raw::<bool>(&server, &["HEXISTS", &keys::session(id), "started_at"]).await;

    assert_eq!(mirror(&hot, &session(id, 1, 6)).await, Mirrored::Written);
    assert!(!is_whole().await, "only what votes change");
    assert_eq!(mirror(&hot, &session(id, 1, 64)).await, Mirrored::Written);
    assert!(is_whole().await, "everything");
    assert!(raw::<i64>(&server, &["PTTL", &keys::session(id)]).await > 0, "its life is renewed");
}

#[tokio::test]
async fn a_moved_state_reads_back_the_same() {
    let server = Server::start().await;
    let hot = server.hot();
    let mut state = session(Uuid::now_v7(), 2, 5);
    state.params = Params { model: Model::Window, window_seconds: 120, ..DECAY };
    assert_eq!(mirror(&hot, &state).await, Mirrored::Written);
    for version in 6..9 {
        let at = Millis(EPOCH.0 + 1000 * version);
        let vote = Impulse { t: at, side: Side::For, weight: 1.0 };
        state.mood.apply(&state.params, &[vote], at);
        state.version = version;
        state.reset_at = Some(Millis(EPOCH.0 + version));
        assert_eq!(mirror(&hot, &state).await, Mirrored::Written);
        assert_eq!(hot.read(state.streamer_id, at).await.unwrap().unwrap().session, state);
    }
}

#[tokio::test]
async fn another_config_or_session_is_written_whole() {
    let server = Server::start().await;
    let hot = server.hot();
    let mut state = session(Uuid::now_v7(), 1, 5);
    assert_eq!(mirror(&hot, &state).await, Mirrored::Written);
    state.version += 1;
    state.config_version += 1;
    state.params.decay_speed = 0.25;
    assert_eq!(mirror(&hot, &state).await, Mirrored::Written);
    assert_eq!(hot.read(state.streamer_id, EPOCH).await.unwrap().unwrap().session, state);
    let next = session(state.streamer_id, 2, 1);
    assert_eq!(mirror(&hot, &next).await, Mirrored::Written);
    assert_eq!(hot.read(state.streamer_id, EPOCH).await.unwrap().unwrap().session, next);
    assert_eq!(mirror(&hot, &state).await, Mirrored::Older);
}

#[tokio::test]
async fn states_of_one_call_are_answered_in_their_order_however_they_are_written() {
    let server = Server::start().await;
    let hot = server.hot();
    let (known, new, ended) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    mirror(&hot, &session(known, 1, 8)).await;
    hot.remove(ended, 1).await.unwrap();
    let states = [
        session(known, 1, 7),
        session(new, 1, 3),
        session(known, 1, 9),
        session(ended, 1, 5),
        session(new, 1, 64),
    ];
    let entries: Vec<_> = states.iter().map(entry).collect();
    let answers = hot.mirror(&entries).await.unwrap();
    use Mirrored::{Older, Written};
    // The fifth is written whole at once, which the second has to wait for.
    assert_eq!(answers, [Older, Older, Written, Older, Written]);
}

#[tokio::test]
async fn the_pulse_changes_with_every_change_of_another_instance_and_with_a_flush_and_else_stays() {
    let server = Server::start().await;
    let (hot, other) = (server.hot(), server.hot());
    let id = Uuid::now_v7();
    let mut heard = hot.pulse().await.unwrap();
    for version in [1, 2, 64] {
        mirror(&other, &session(id, 1, version)).await;
        let pulse = hot.pulse().await.unwrap();
        assert_ne!(pulse, heard, "version {version}");
        heard = pulse;
    }
    hot.changes_since(&[(Bucket::of(id), Cursor::default())]).await.unwrap();
    assert_eq!(hot.pulse().await.unwrap(), heard);
    for version in [65, 66, 128] {
        mirror(&hot, &session(id, 1, version)).await;
        assert_eq!(
            hot.pulse().await.unwrap(),
            heard,
            "what it changes by itself it knows: version {version}"
        );
    }
    mirror(&other, &session(id, 1, 129)).await;
    mirror(&hot, &session(id, 1, 130)).await;
    assert_ne!(hot.pulse().await.unwrap(), heard, "another one changed something in between");
    heard = hot.pulse().await.unwrap();
    raw::<()>(&server, &["FLUSHALL"]).await;
    mirror(&hot, &session(id, 1, 131)).await;
    assert_ne!(hot.pulse().await.unwrap(), heard, "what was there is gone");
}

#[test]
fn no_two_beats_are_alike_so_that_nobody_who_listens_between_them_misses_one() {
    assert_ne!(Beat::new().command().get_packed_command(), Beat::new().command().get_packed_command());
}

#[tokio::test]
async fn a_config_that_was_written_too_old_is_written_with_the_next_state() {
    let server = Server::start().await;
    let hot = server.hot();
    let id = Uuid::now_v7();
    let (first, second) = (session(id, 1, 5), session(id, 1, 6));
    let outdated = MirrorEntry { config_json: "{}", config_json_version: 2, ..entry(&first) };
    assert_eq!(hot.mirror(&[outdated]).await.unwrap(), [Mirrored::Written]);
    assert_eq!(mirror(&hot, &second).await, Mirrored::Written);
    let read = hot.read(id, EPOCH).await.unwrap().unwrap();
    assert_eq!(read.config_json, entry(&second).config_json);
}

#[tokio::test]
async fn a_broadcaster_that_is_lost_comes_back_with_the_whole_state() {
    let server = Server::start().await;
    let hot = server.hot();
    let id = Uuid::now_v7();
    mirror(&hot, &session(id, 1, 5)).await;
    raw::<()>(&server, &["DEL", &keys::broadcaster("4711")]).await;
    mirror(&hot, &session(id, 1, 64)).await;
    assert_eq!(hot.are_live(&["4711".to_owned()]).await.unwrap(), [true]);
}

#[tokio::test]
async fn on_a_cluster_the_pulse_changes_too() {
    let server = Server::start_cluster().await;
    let hot = server.hot();
    let heard = hot.pulse().await.unwrap();
    mirror(&hot, &session(Uuid::now_v7(), 1, 1)).await;
    assert_ne!(hot.pulse().await.unwrap(), heard);
}

#[tokio::test]
async fn connections_that_were_lost_are_replaced_within_the_call_that_finds_out() {
    let server = Server::start().await;
    let hot = server.hot();
    let id = Uuid::now_v7();
    for version in 1..=9 {
        mirror(&hot, &session(id, 1, version)).await;
    }
    raw::<i64>(&server, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    for version in 10..=19 {
        assert_eq!(mirror(&hot, &session(id, 1, version)).await, Mirrored::Written, "version {version}");
    }
}
