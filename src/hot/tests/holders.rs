//! Who holds a session: absolute, the newer rank wins.

use super::*;
use crate::hot::refs::Mark;

const NOBODY: Vec<Uuid> = Vec::new();

async fn refs(server: &Server, streamer_id: Uuid) -> HashSet<Uuid> {
    let ids: Vec<String> = raw(server, &["SMEMBERS", &keys::refs(streamer_id)]).await;
    ids.iter().map(|id| id.parse().expect("an instance id")).collect()
}

async fn last_disconnect(server: &Server, streamer_id: Uuid) -> Option<i64> {
    raw(server, &["HGET", &keys::session(streamer_id), "last_disconnect"]).await
}

async fn mark(hot: &Hot, streamer_id: Uuid) -> Option<Mark> {
    hot.marks(&[streamer_id]).await.expect("an answer").remove(0)
}

#[tokio::test]
async fn a_session_is_an_orphan_from_its_last_holders_leaving_until_the_next_hold() {
    let server = Server::start().await;
    let hot = server.hot();
    let state = session(Uuid::now_v7(), 1, 1);
    let (id, a, b) = (state.streamer_id, Uuid::now_v7(), Uuid::now_v7());
    let at = |ms: i64| Millis(EPOCH.0 + ms);
    mirror(&hot, &state).await;
    let disconnected = async || hot.read(id, EPOCH).await.unwrap().unwrap().last_disconnect;

    assert_eq!(note(&hot, &held_by(&state, 1, &[a, b])).await, Mirrored::Written);
    assert_eq!((hot.ref_count(id).await.unwrap(), refs(&server, id).await), (2, HashSet::from([a, b])));
    assert_eq!(note(&hot, &held_by(&state, 2, &[b])).await, Mirrored::Written);
    assert_eq!((refs(&server, id).await, disconnected().await), (HashSet::from([b]), None));
    assert_eq!(hot.orphans(at(99)).await.unwrap(), NOBODY);

    assert_eq!(note(&hot, &unheld(&state, 3, at(20))).await, Mirrored::Written);
    assert_eq!((hot.ref_count(id).await.unwrap(), disconnected().await), (0, Some(at(20))));
    assert_eq!(hot.orphans(at(19)).await.unwrap(), NOBODY);
    assert_eq!(hot.orphans(at(20)).await.unwrap(), vec![id]);
    mirror(&hot, &session(id, 1, 2)).await;
    assert_eq!(disconnected().await, Some(at(20)), "a newer state keeps the time");

    assert_eq!(note(&hot, &held_by(&state, 4, &[a])).await, Mirrored::Written);
    assert_eq!((hot.ref_count(id).await.unwrap(), disconnected().await), (1, None));
    assert_eq!(hot.orphans(at(99)).await.unwrap(), NOBODY);
    assert_eq!(note(&hot, &unheld(&state, 5, at(40))).await, Mirrored::Written);
    assert_eq!((disconnected().await, hot.orphans(at(39)).await.unwrap()), (Some(at(40)), NOBODY));
}

#[tokio::test]
async fn in_any_order_of_writes_the_newest_holders_stand() {
    let server = Server::start().await;
    let hot = server.hot();
    let (a, b) = (Uuid::now_v7(), Uuid::now_v7());
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        let state = session(Uuid::now_v7(), 1, 1);
        mirror(&hot, &state).await;
        let writes = [held_by(&state, 1, &[a]), unheld(&state, 2, EPOCH), held_by(&state, 3, &[b])];
        let mut newest = 0;
        for write in order.map(|i| &writes[i]) {
            let wanted = if write.version > newest { Mirrored::Written } else { Mirrored::Older };
            assert_eq!(note(&hot, write).await, wanted, "{order:?}");
            assert_eq!(note(&hot, write).await, Mirrored::Older, "a repeated write changes nothing");
            newest = newest.max(write.version);
        }
        assert_eq!(refs(&server, state.streamer_id).await, HashSet::from([b]), "{order:?}");
        assert_eq!(mark(&hot, state.streamer_id).await.unwrap().holders, writes[2].rank());
        assert_eq!(hot.orphans(EPOCH).await.unwrap(), NOBODY, "{order:?}");
    }
}

#[tokio::test]
async fn holders_may_be_there_before_the_first_state_and_are_no_session_yet() {
    let server = Server::start().await;
    let hot = server.hot();
    let state = session(Uuid::now_v7(), 2, 1);
    let id = state.streamer_id;
    assert_eq!(note(&hot, &unheld(&state, 7, EPOCH)).await, Mirrored::Written);
    assert_eq!((hot.read(id, EPOCH).await.unwrap(), mark(&hot, id).await), (None, None));
    assert_eq!(hot.orphans(EPOCH).await.unwrap(), vec![id]);
    assert_eq!(mirror(&hot, &session(id, 1, 99)).await, Mirrored::Older, "that session has ended");

    assert_eq!(mirror(&hot, &state).await, Mirrored::Written);
    let session_id = entry(&state).session_id;
    let wanted = Mark { session_id, version: (2 << 32) + 1, config_version: 3, holders: (2 << 32) + 7 };
    assert_eq!(mark(&hot, id).await, Some(wanted));
    assert_eq!(last_disconnect(&server, id).await, Some(EPOCH.0));
}

#[tokio::test]
async fn a_new_session_keeps_its_holders_and_drops_those_of_the_one_before() {
    let server = Server::start().await;
    let hot = server.hot();
    let (a, b) = (Uuid::now_v7(), Uuid::now_v7());
    let (old, new) = (session(Uuid::now_v7(), 1, 5), session(Uuid::now_v7(), 2, 1));
    let new = Session { streamer_id: old.streamer_id, ..new };
    let id = old.streamer_id;
    mirror(&hot, &old).await;
    note(&hot, &unheld(&old, 9, EPOCH)).await;
    // The state comes first, then the holders.
    mirror(&hot, &new).await;
    assert_eq!((last_disconnect(&server, id).await, mark(&hot, id).await.unwrap().holders), (None, 0));
    assert_eq!(note(&hot, &held_by(&old, 10, &[a])).await, Mirrored::Older);
    assert_eq!(note(&hot, &held_by(&new, 1, &[b])).await, Mirrored::Written);
    assert_eq!(refs(&server, id).await, HashSet::from([b]));

    // The holders come first, then the state.
    let newer = session(id, 3, 1);
    note(&hot, &held_by(&newer, 1, &[a])).await;
    assert_eq!(mirror(&hot, &session(id, 2, 6)).await, Mirrored::Older);
    assert_eq!(mirror(&hot, &newer).await, Mirrored::Written);
    assert_eq!(mark(&hot, id).await.unwrap().holders, (3 << 32) + 1);
    assert_eq!(refs(&server, id).await, HashSet::from([a]));
}

#[tokio::test]
async fn a_late_write_of_an_ended_session_brings_nothing_back() {
    let server = Server::start().await;
    let hot = server.hot();
    let state = session(Uuid::now_v7(), 1, 1);
    mirror(&hot, &state).await;
    note(&hot, &unheld(&state, 1, EPOCH)).await;
    assert!(hot.remove(state.streamer_id, 1).await.unwrap());
    assert_eq!(note(&hot, &held_by(&state, 2, &[Uuid::now_v7()])).await, Mirrored::Older);
    assert_eq!(note(&hot, &unheld(&state, 3, EPOCH)).await, Mirrored::Older);
    assert_eq!(hot.orphans(EPOCH).await.unwrap(), NOBODY);
    let there: Vec<String> = raw(&server, &["KEYS", &format!("*:{}", state.streamer_id)]).await;
    assert_eq!(there, vec![keys::ended(state.streamer_id)]);
    assert_eq!(note(&hot, &held_by(&session(state.streamer_id, 2, 0), 1, &[])).await, Mirrored::Written);
}

#[tokio::test]
async fn removing_a_session_spares_holders_of_a_newer_one_that_has_no_state_yet() {
    let server = Server::start().await;
    let hot = server.hot();
    let (old, holder) = (session(Uuid::now_v7(), 1, 5), Uuid::now_v7());
    let id = old.streamer_id;
    mirror(&hot, &old).await;
    note(&hot, &held_by(&session(id, 2, 0), 1, &[holder])).await;
    assert!(!hot.remove(id, 1).await.unwrap());
    assert_eq!(hot.read(id, EPOCH).await.unwrap(), None, "the old state is gone");
    assert_eq!(refs(&server, id).await, HashSet::from([holder]));
    let life: i64 = raw(&server, &["PTTL", &keys::session(id)]).await;
    assert!(life > 0, "{life}");
    assert_eq!(mirror(&hot, &session(id, 2, 1)).await, Mirrored::Written);
    assert_eq!(mark(&hot, id).await.unwrap().holders, (2 << 32) + 1);
}

#[tokio::test]
async fn an_orphan_can_be_struck_off() {
    let server = Server::start().await;
    let hot = server.hot();
    let state = session(Uuid::now_v7(), 1, 1);
    note(&hot, &unheld(&state, 1, EPOCH)).await;
    assert_eq!(hot.orphans(EPOCH).await.unwrap(), vec![state.streamer_id]);
    hot.forget_orphan(state.streamer_id).await.unwrap();
    assert_eq!(hot.orphans(EPOCH).await.unwrap(), NOBODY);
}

#[tokio::test]
async fn a_session_that_everybody_forgot_has_a_life_that_writes_renew() {
    let server = Server::start().await;
    let hot = server.hot();
    let state = session(Uuid::now_v7(), 1, 1);
    let both = [keys::session(state.streamer_id), keys::refs(state.streamer_id)];
    let lives = async || {
        let mut lives = Vec::new();
        for key in &both {
            lives.push(raw::<i64>(&server, &["PTTL", key]).await > 3_600_000);
        }
        lives
    };
    let shorten = async || {
        for key in &both {
            let _: i64 = raw(&server, &["PEXPIRE", key, "3600000"]).await;
        }
    };
    mirror(&hot, &state).await;
    note(&hot, &held_by(&state, 1, &[Uuid::now_v7()])).await;
    assert_eq!(lives().await, [true, true]);
    shorten().await;
    mirror(&hot, &session(state.streamer_id, 1, 64)).await;
    assert_eq!(lives().await, [true, true], "by a whole state");
    shorten().await;
    note(&hot, &held_by(&state, 2, &[Uuid::now_v7()])).await;
    assert_eq!(lives().await, [true, true], "by holders");
}

#[tokio::test]
async fn marks_say_what_is_there_of_each_streamer() {
    let server = Server::start().await;
    let hot = server.hot();
    let state = session(Uuid::now_v7(), 1, 4);
    mirror(&hot, &state).await;
    let marks = hot.marks(&[Uuid::now_v7(), state.streamer_id]).await.unwrap();
    let session_id = entry(&state).session_id;
    let wanted = Mark { session_id, version: state.frame_version(), config_version: 3, holders: 0 };
    assert_eq!(marks, vec![None, Some(wanted)]);
    assert_eq!(hot.marks(&[]).await.unwrap(), vec![]);
}

#[tokio::test]
async fn what_is_discarded_is_gone_and_can_be_written_anew_even_if_older() {
    let server = Server::start().await;
    let hot = server.hot();
    let state = session(Uuid::now_v7(), 2, 9);
    let (id, bucket) = (state.streamer_id, Bucket::of(state.streamer_id));
    mirror(&hot, &state).await;
    note(&hot, &unheld(&state, 5, EPOCH)).await;
    let mut cursor = Cursor::default();
    changes(&hot, bucket, &mut cursor).await;
    hot.discard(id).await.unwrap();
    assert_eq!((mark(&hot, id).await, hot.orphans(EPOCH).await.unwrap()), (None, NOBODY));
    assert_eq!(raw::<i64>(&server, &["EXISTS", &keys::session(id), &keys::refs(id)]).await, 0);

    let truth = session(id, 2, 3);
    assert_eq!(mirror(&hot, &truth).await, Mirrored::Written);
    assert_eq!(note(&hot, &held_by(&truth, 1, &[])).await, Mirrored::Written);
    assert_eq!(changes(&hot, bucket, &mut cursor).await, (false, vec![change(&truth)]));
}
