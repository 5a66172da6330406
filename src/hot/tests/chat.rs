//! The windows of chats, when they were heard, and what was seen of streams.

use super::*;
use crate::domain::stream::{Stream, StreamSeen};
use crate::hot::chat::{ChatBatch, ChatLine, ChatWindows, Erased, LINES_MAX};
use crate::hot::stream_status::StreamStatuses;

const HOUR_MS: i64 = 3600 * 1000;

fn after(ms: i64) -> Millis {
    Millis(EPOCH.0 + ms)
}

/// A line of a message whose id tells when it was written.
fn line(login: &str, ms: i64) -> ChatLine {
    ChatLine {
        message_id: format!("{login}-{ms}"),
        login: login.into(),
        name: login.to_uppercase(),
        text: "Hello".into(),
        at: after(ms),
        side: None,
    }
}

fn batch(streamer_id: Uuid, lines: Vec<ChatLine>) -> ChatBatch {
    let heard_at = lines.iter().map(|line| line.at).max().unwrap_or(EPOCH);
    ChatBatch { streamer_id, lines, heard_at }
}

async fn append(windows: &ChatWindows, streamer_id: Uuid, lines: &[ChatLine]) {
    windows.append(&[batch(streamer_id, lines.to_vec())]).await.expect("an answer");
}

/// The ids of a window's messages.
async fn ids(windows: &ChatWindows, streamer_id: Uuid) -> Vec<String> {
    let lines = windows.read(streamer_id).await.expect("an answer");
    lines.into_iter().map(|line| line.message_id).collect()
}

async fn heard(windows: &ChatWindows, streamer_id: Uuid) -> Option<Millis> {
    windows.last_heard(&[streamer_id]).await.expect("an answer")[0]
}

/// Calls every function of chats, each of their ways included that touches keys.
pub(super) async fn use_every_chat(hot: &Hot) {
    let windows = ChatWindows::new(hot.clone());
    let (id, other) = (Uuid::new_v4(), Uuid::new_v4());
    append(&windows, id, &[line("a", 2), line("b", 4)]).await;
    let batches = [batch(id, vec![line("c", 1), line("b", 4)]), batch(other, vec![line("a", 1)])];
    windows.append(&batches).await.unwrap();
    windows.watch(&[id, other], EPOCH).await.unwrap();
    assert_eq!(windows.last_heard(&[id, other]).await.unwrap(), [Some(after(4)), Some(after(1))]);
    assert_eq!(windows.quiet_since(after(4)).await.unwrap().len(), 2);
    for erased in [Erased::Message("c-1".into()), Erased::User("a".into()), Erased::All] {
        windows.erase(&[(id, erased.clone()), (other, erased)]).await.unwrap();
    }
    assert!(windows.read(id).await.unwrap().is_empty());
    windows.unwatch(&[id, other]).await.unwrap();
    let statuses = StreamStatuses::new(hot.clone());
    let offline = StreamSeen::Offline { stream_id: None };
    statuses.put("1", &offline).await.unwrap();
    statuses.put_unknown(&[("2".into(), offline.clone())]).await.unwrap();
    let known = statuses.get(&["2".into(), "3".into()]).await.unwrap();
    assert_eq!(known, [Some(offline), None]);
}

// Windows --------------------------------------------------------------------------------------

#[tokio::test]
async fn a_line_reads_back_as_it_was_said() {
    let server = Server::start().await;
    let windows = ChatWindows::new(server.hot());
    let id = Uuid::now_v7();
    let odd = "\",\"id\":\"x\",\"login\":\"y\", \\ \u{1f600} \u{0} \n";
    let lines = [
        ChatLine { side: Some(Side::For), text: odd.into(), ..line("a", 1) },
        ChatLine { side: Some(Side::Against), name: odd.into(), ..line("b", 2) },
        ChatLine { message_id: odd.into(), ..line("c", 3) },
    ];
    append(&windows, id, &lines).await;
    append(&windows, id, &lines).await;
    assert_eq!(windows.read(id).await.unwrap(), lines);
    assert!(windows.read(Uuid::now_v7()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_window_keeps_the_last_100_lines() {
    let server = Server::start().await;
    let windows = ChatWindows::new(server.hot());
    let id = Uuid::now_v7();
    for begin in [0, 70, 140] {
        let lines: Vec<ChatLine> = (begin..begin + 70).map(|ms| line("a", ms)).collect();
        append(&windows, id, &lines).await;
    }
    let last: Vec<String> = (110..210).map(|ms| format!("a-{ms}")).collect();
    assert_eq!(ids(&windows, id).await, last);

    let many: Vec<ChatLine> = (1000..1250).map(|ms| line("a", ms)).collect();
    append(&windows, id, &many).await;
    let kept = ids(&windows, id).await;
    assert_eq!((kept.len(), kept[0].as_str()), (LINES_MAX, "a-1150"));
    append(&windows, id, &[line("late", 1)]).await;
    assert_eq!(ids(&windows, id).await, kept, "what was said before all of these does not displace one");
}

#[tokio::test]
async fn lines_of_two_instances_stand_in_order_of_time_and_once() {
    let server = Server::start().await;
    let (one, two) = (ChatWindows::new(server.hot()), ChatWindows::new(server.hot()));
    let id = Uuid::now_v7();
    append(&one, id, &[line("a", 0), line("a", 10), line("a", 30)]).await;
    append(&two, id, &[line("b", 5), line("b", 10), line("b", 40)]).await;
    append(&one, id, &[line("a", 30), line("a", 35), line("a", 50)]).await;
    let wanted = ["a-0", "b-5", "a-10", "b-10", "a-30", "a-35", "b-40", "a-50"];
    assert_eq!(ids(&one, id).await, wanted);
    let stored: i64 = raw(&server, &["LLEN", &keys::chat(id)]).await;
    assert_eq!(stored, 8);
}

#[tokio::test]
async fn a_message_that_is_delivered_again_later_is_read_once() {
    let server = Server::start().await;
    let windows = ChatWindows::new(server.hot());
    let id = Uuid::now_v7();
    append(&windows, id, &[line("a", 0), line("b", 1)]).await;
    append(&windows, id, &[ChatLine { at: after(9000), ..line("a", 0) }, line("c", 9001)]).await;
    assert_eq!(ids(&windows, id).await, ["a-0", "b-1", "c-9001"]);
    windows.erase(&[(id, Erased::Message("a-0".into()))]).await.unwrap();
    assert_eq!(ids(&windows, id).await, ["b-1", "c-9001"]);
}

#[tokio::test]
async fn a_line_is_kept_for_an_hour_however_long_the_chat_goes_on() {
    let server = Server::start().await;
    let windows = ChatWindows::new(server.hot());
    let id = Uuid::now_v7();
    append(&windows, id, &[line("a", 0), line("b", 5)]).await;
    append(&windows, id, &[line("c", HOUR_MS + 1)]).await;
    assert_eq!(ids(&windows, id).await, ["b-5".to_owned(), format!("c-{}", HOUR_MS + 1)]);
    append(&windows, id, &[line("d", 3 * HOUR_MS)]).await;
    assert_eq!(ids(&windows, id).await, [format!("d-{}", 3 * HOUR_MS)]);
}

#[tokio::test]
async fn long_texts_and_names_are_cut_at_whole_characters() {
    let server = Server::start().await;
    let windows = ChatWindows::new(server.hot());
    let id = Uuid::now_v7();
    let long = "\u{1f600}".repeat(600);
    let (login, name, text) = (long.clone(), long.clone(), long.clone());
    append(&windows, id, &[ChatLine { login, name, text, ..line("a", 0) }]).await;
    let read = windows.read(id).await.unwrap();
    let lengths = [&read[0].login, &read[0].name, &read[0].text].map(|text| text.chars().count());
    assert_eq!(lengths, [25, 25, 150]);
    windows.erase(&[(id, Erased::User(long))]).await.unwrap();
    assert_eq!(ids(&windows, id).await, [""; 0]);
}

#[tokio::test]
async fn what_is_erased_is_gone_and_nothing_else_is() {
    let server = Server::start().await;
    let windows = ChatWindows::new(server.hot());
    let (id, other) = (Uuid::now_v7(), Uuid::now_v7());
    let decoy = ChatLine { text: r#","login":"a","id":"b-2","#.into(), ..line("ab", 4) };
    let lines = [line("a", 1), line("b", 2), line("a", 3), decoy];
    append(&windows, id, &lines).await;
    append(&windows, other, &lines).await;
    let erase = async |erased| windows.erase(&[(id, erased)]).await.unwrap();
    erase(Erased::Message("b-2".into())).await;
    assert_eq!(ids(&windows, id).await, ["a-1", "a-3", "ab-4"]);
    erase(Erased::User("a".into())).await;
    assert_eq!(ids(&windows, id).await, ["ab-4"]);
    erase(Erased::All).await;
    assert_eq!(ids(&windows, id).await, [""; 0]);
    assert_eq!(ids(&windows, other).await.len(), 4);
    assert_eq!(heard(&windows, id).await, Some(after(4)), "it was heard all the same");
}

#[tokio::test]
async fn what_another_release_may_have_written_is_left_out() {
    let server = Server::start().await;
    let windows = ChatWindows::new(server.hot());
    let id = Uuid::now_v7();
    let foreign = r#"{"at":1,"id":"x"}"#;
    let rest = r#""id":"a-1","login":"a","name":"A","text":"Hello","side":"new","more":1"#;
    let known = format!("{{\"at\":{},{rest}}}", after(1).0);
    let _: i64 = raw(&server, &["RPUSH", &keys::chat(id), &known, foreign, "junk"]).await;
    assert_eq!(windows.read(id).await.unwrap(), [line("a", 1)]);
    append(&windows, id, &[line("b", 2)]).await;
    assert_eq!(ids(&windows, id).await, ["a-1", "b-2"]);
}

#[tokio::test]
async fn windows_and_what_was_heard_have_an_end_that_each_batch_puts_off() {
    let server = Server::start().await;
    let windows = ChatWindows::new(server.hot());
    let id = Uuid::now_v7();
    let lives = [(keys::chat(id), HOUR_MS), (keys::heard(Bucket::of(id)), 24 * HOUR_MS)];
    append(&windows, id, &[line("a", 1)]).await;
    for (key, _) in &lives {
        let _: i64 = raw(&server, &["PEXPIRE", key, "60000"]).await;
    }
    append(&windows, id, &[]).await;
    for (key, life_ms) in lives {
        let left: i64 = raw(&server, &["PTTL", &key]).await;
        assert!(60_000 < left && left <= life_ms, "{key}: {left}");
    }
}

// When chats were heard ------------------------------------------------------------------------

#[tokio::test]
async fn when_a_chat_was_heard_only_goes_forward() {
    let server = Server::start().await;
    let windows = ChatWindows::new(server.hot());
    let id = Uuid::now_v7();
    assert_eq!(heard(&windows, id).await, None);
    append(&windows, id, &[line("a", 10)]).await;
    append(&windows, id, &[line("a", 5)]).await;
    assert_eq!(heard(&windows, id).await, Some(after(10)));
    windows.append(&[ChatBatch { streamer_id: id, lines: Vec::new(), heard_at: after(20) }]).await.unwrap();
    assert_eq!(heard(&windows, id).await, Some(after(20)));
}

#[tokio::test]
async fn quiet_chats_are_found_in_all_buckets_the_longest_quiet_first() {
    let server = Server::start().await;
    let windows = ChatWindows::new(server.hot());
    let chats: Vec<Uuid> = (0..100).map(|i| Uuid::from_u128(1 + i)).collect();
    let batches: Vec<ChatBatch> =
        (0..).zip(&chats).map(|(ms, id)| batch(*id, vec![line("a", 1000 - 10 * ms)])).collect();
    windows.append(&batches).await.unwrap();
    let quiet = windows.quiet_since(after(500)).await.unwrap();
    let wanted: Vec<(Uuid, Millis)> =
        (50..100).rev().map(|i: usize| (chats[i], after(1000 - 10 * i as i64))).collect();
    assert_eq!(quiet, wanted);
}

#[tokio::test]
async fn a_chat_that_is_watched_counts_as_heard_from_then_on_unless_it_was() {
    let server = Server::start().await;
    let windows = ChatWindows::new(server.hot());
    let ids = neighbours(3);
    append(&windows, ids[0], &[line("a", 5)]).await;
    windows.watch(&ids, after(10)).await.unwrap();
    windows.watch(&ids, after(20)).await.unwrap();
    let known = [Some(after(5)), Some(after(10)), Some(after(10))];
    assert_eq!(windows.last_heard(&ids).await.unwrap(), known);
    let left: i64 = raw(&server, &["PTTL", &keys::heard(Bucket::of(ids[0]))]).await;
    assert!(0 < left && left <= 24 * HOUR_MS, "{left}");

    windows.unwatch(&ids[..2]).await.unwrap();
    assert_eq!(windows.last_heard(&ids).await.unwrap(), [None, None, Some(after(10))]);
    for nobody in [windows.watch(&[], EPOCH).await, windows.unwatch(&[]).await, windows.append(&[]).await] {
        nobody.unwrap();
    }
}

// What was seen of streams ---------------------------------------------------------------------

#[tokio::test]
async fn what_was_seen_of_streams_is_known_for_five_minutes() {
    let server = Server::start().await;
    let statuses = StreamStatuses::new(server.hot());
    let seen = [
        ("1".to_owned(), StreamSeen::Live(Stream { id: "40".into(), started_at: EPOCH })),
        ("2".to_owned(), StreamSeen::Offline { stream_id: Some("41".into()) }),
        ("3".to_owned(), StreamSeen::Offline { stream_id: None }),
    ];
    statuses.put_unknown(&seen).await.unwrap();
    let _: String = raw(&server, &["SET", "chatpulse:cache:stream:4", r#"{"stream":"paused"}"#]).await;
    let _: String = raw(&server, &["SET", "chatpulse:cache:stream:5", "junk"]).await;
    let ids = ["3", "1", "4", "5", "6", "2"].map(str::to_owned);
    let of = |i: usize| Some(seen[i].1.clone());
    assert_eq!(statuses.get(&ids).await.unwrap(), [of(2), of(0), None, None, None, of(1)]);
    let left: i64 = raw(&server, &["PTTL", "chatpulse:cache:stream:1"]).await;
    assert!(0 < left && left <= 300_000, "{left}");

    let told = StreamSeen::Offline { stream_id: Some("40".into()) };
    statuses.put("1", &told).await.unwrap();
    // An answer to a question from before that.
    statuses.put_unknown(&seen).await.unwrap();
    assert_eq!(statuses.get(&["1".into()]).await.unwrap(), [Some(told)]);
}
