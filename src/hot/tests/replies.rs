//! Answers in chat: each said by one instance at most, in time, and no faster than Twitch lets us.

use std::time::Instant;

use super::*;
use crate::hot::queue::QueueOptions;
use crate::hot::replies::{ChatLimits, Replies, Reply, Turn, Waiting};

const STREAM: &str = "chatpulse:stream:{replies}";
const BOT: &str = "4711";

fn replies(server: &Server) -> Replies {
    Replies::new(server.hot(), Uuid::new_v4())
}

fn limits(server: &Server) -> ChatLimits {
    ChatLimits::new(Limits::new(server.hot()), 2)
}

fn reply(text: &str) -> Reply {
    Reply {
        broadcaster_id: "123".into(),
        text: text.into(),
        reply_to: Some(format!("message of {text}")),
        made_at: EPOCH,
    }
}

async fn take(replies: &Replies) -> Vec<Waiting> {
    replies.take(9).await.expect("an answer")
}

fn texts(waiting: &[Waiting]) -> Vec<&str> {
    waiting.iter().map(|waiting| waiting.reply.as_ref().expect("readable").text.as_str()).collect()
}

fn ids(waiting: &[Waiting]) -> Vec<String> {
    waiting.iter().map(|waiting| waiting.id.clone()).collect()
}

fn at(ms: i64) -> Millis {
    Millis(EPOCH.0 + ms)
}

// The queue ------------------------------------------------------------------------------------

#[tokio::test]
async fn an_answer_goes_to_one_instance_as_it_was_queued_and_is_gone_once_struck_out() {
    let server = Server::start().await;
    let (a, b) = (replies(&server), replies(&server));
    assert_eq!(take(&b).await, vec![]);
    a.push(&reply("one")).await.unwrap();
    let taken = take(&b).await;
    assert_eq!(taken[0].reply, Ok(reply("one")));
    assert_eq!(take(&a).await, vec![]);
    b.strike_out(&ids(&taken)).await.unwrap();
    assert_eq!((take(&a).await, take(&b).await), (vec![], vec![]));
    let left: i64 = raw(&server, &["XLEN", STREAM]).await;
    assert_eq!(left, 0);
}

#[tokio::test]
async fn what_was_not_struck_out_comes_again_to_the_same_instance_beside_what_is_new() {
    let server = Server::start().await;
    let (a, b) = (replies(&server), replies(&server));
    a.push(&reply("one")).await.unwrap();
    a.push(&reply("two")).await.unwrap();
    let taken = take(&a).await;
    assert_eq!(texts(&taken), ["one", "two"]);
    a.push(&reply("three")).await.unwrap();
    assert_eq!(texts(&take(&a).await), ["one", "two", "three"]);
    a.strike_out(&ids(&taken)[..1]).await.unwrap();
    assert_eq!(texts(&take(&a).await), ["two", "three"]);
    assert_eq!(take(&b).await, vec![]);
}

#[tokio::test]
async fn what_an_instance_that_is_gone_took_comes_to_another_only_when_it_is_late() {
    let server = Server::start().await;
    let gone = replies(&server);
    gone.push(&reply("one")).await.unwrap();
    let taken = take(&gone).await;
    assert_eq!(take(&replies(&server)).await, vec![]);
    let idle = |ms: &'static str| {
        let (server, id) = (&server, taken[0].id.clone());
        async move {
            // As if its consumer had not been heard of for so long.
            let pending: Vec<(String, String, i64, i64)> =
                raw(server, &["XPENDING", STREAM, "chat", "-", "+", "9"]).await;
            let claim = ["XCLAIM", STREAM, "chat", &pending[0].1, "0", &id, "IDLE", ms, "JUSTID"];
            let _: Vec<String> = raw(server, &claim).await;
        }
    };
    idle("35000").await;
    assert_eq!(take(&replies(&server)).await, vec![], "clocks may differ");
    idle("60001").await;
    let heir = replies(&server);
    let claimed = take(&heir).await;
    assert_eq!(ids(&claimed), ids(&taken));
    heir.strike_out(&ids(&claimed)).await.unwrap();
    gone.strike_out(&ids(&taken)).await.unwrap();
    assert_eq!((take(&heir).await, take(&gone).await), (vec![], vec![]));
}

#[tokio::test]
async fn no_more_wait_than_the_bound() {
    let server = Server::start().await;
    let options = QueueOptions {
        name: "{replies}".into(),
        group: "chat".into(),
        consumer: "filler".into(),
        entries_max: 10_000,
        claim_after: PATIENCE,
        claim_every: PATIENCE,
    };
    Queue::new(server.hot(), options).push(&vec![b"{}".to_vec(); 9_999]).await.unwrap();
    let replies = replies(&server);
    replies.push(&reply("the last one")).await.unwrap();
    assert_eq!(replies.push(&reply("one too many")).await, Err(HotError::Full("{replies}".into())));
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_says_why_and_can_be_struck_out() {
    let server = Server::start().await;
    let replies = replies(&server);
    replies.push(&reply("one")).await.unwrap();
    let newer = r#"{"version":2,"words":["one"]}"#;
    let _: String = raw(&server, &["XADD", STREAM, "*", "payload", newer]).await;
    let taken = take(&replies).await;
    let reason = taken[1].reply.as_ref().unwrap_err();
    assert_eq!(reason, "the entry has format 2; this release reads 1");
    replies.strike_out(&ids(&taken)[1..]).await.unwrap();
    assert_eq!(texts(&take(&replies).await), ["one"]);
}

#[tokio::test]
async fn who_waits_for_answers_is_woken_by_one_that_was_queued_here() {
    let server = Server::start().await;
    let (replies, one) = (replies(&server), reply("one"));
    let woken = tokio::time::timeout(PATIENCE, replies.queued());
    let (woken, pushed) = tokio::join!(woken, replies.push(&one));
    pushed.unwrap();
    woken.expect("to be woken");
}

#[tokio::test]
async fn a_probe_finds_the_queue_again_after_it_was_away() {
    let mut server = Server::start().await;
    let replies = replies(&server);
    take(&replies).await;
    server.stop();
    until(async || replies.take(9).await == Err(HotError::Away)).await;
    assert!(replies.push(&reply("one")).await.is_err());
    let _server = server.start_again().await;
    assert_eq!(replies.take(9).await, Err(HotError::Away), "it is not asked");
    until(async || replies.probe().await.is_ok()).await;
    replies.push(&reply("two")).await.unwrap();
    assert_eq!(texts(&take(&replies).await), ["two"]);
}

// The limits -----------------------------------------------------------------------------------

/// What is seen of limits within less than the shortest window, of subjects that nobody else has. Redis forgets what it
/// counted after a window of real time, so what took a busy machine too long is looked at once more.
async fn seen_in_time<T>(mut look: impl AsyncFnMut(String) -> T) -> T {
    let looking = async {
        loop {
            let began = Instant::now();
            let seen = look(Uuid::new_v4().to_string()).await;
            if began.elapsed() < Duration::from_secs(1) {
                return seen;
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("a machine that is fast enough")
}

#[tokio::test]
async fn a_channel_is_spoken_in_once_in_a_while_by_all_instances_together() {
    let server = Server::start().await;
    let (a, b) = (limits(&server), limits(&server));
    let seen = seen_in_time(async |id: String| {
        let (one, two) = (format!("{id}-1"), format!("{id}-2"));
        [
            a.turn(&id, &one, at(0)).await.unwrap(),
            b.turn(&id, &one, at(200)).await.unwrap(),
            b.turn(&id, &two, at(200)).await.unwrap(),
            a.turn(&id, &one, at(1_200)).await.unwrap(),
        ]
    });
    let [first, again, elsewhere, later] = seen.await;
    assert_eq!((first, elsewhere), (Turn::Now, Turn::Now));
    assert_eq!(again, Turn::Channel(Duration::from_millis(1_000)));
    assert!(matches!(later, Turn::Sender(_)), "the channel is free; the bot has said all it may: {later:?}");
}

#[tokio::test]
async fn a_channel_that_waits_takes_nothing_of_what_the_bot_may_say() {
    let server = Server::start().await;
    let limits = limits(&server);
    let seen = seen_in_time(async |id: String| {
        let mut turns = Vec::new();
        for ms in 0..5 {
            turns.push(limits.turn(&id, &id, at(ms)).await.unwrap());
        }
        turns.push(limits.turn(&id, "elsewhere", at(10)).await.unwrap());
        turns
    });
    let seen = seen.await;
    assert!(seen[1..5].iter().all(|turn| matches!(turn, Turn::Channel(_))), "{seen:?}");
    assert_eq!((seen[0], seen[5]), (Turn::Now, Turn::Now));
}

#[tokio::test]
async fn the_bot_speaks_so_often_over_all_channels() {
    let server = Server::start().await;
    let (a, b) = (limits(&server), limits(&server));
    assert_eq!(a.turn(BOT, "1", at(0)).await, Ok(Turn::Now));
    assert_eq!(b.turn(BOT, "2", at(10)).await, Ok(Turn::Now));
    assert_eq!(a.turn(BOT, "3", at(20)).await, Ok(Turn::Sender(Duration::from_millis(30_980))));
    assert_eq!(a.turn("4712", "4", at(20)).await, Ok(Turn::Now), "another bot");
    assert_eq!(a.turn(BOT, "5", at(31_000)).await, Ok(Turn::Now));
}

#[tokio::test]
async fn a_channels_mood_is_told_once_in_five_seconds_by_all_instances_together() {
    let server = Server::start().await;
    let (a, b) = (limits(&server), limits(&server));
    let seen = seen_in_time(async |id: String| {
        [
            a.may_tell_mood(&id, at(0)).await,
            b.may_tell_mood(&id, at(4_999)).await,
            b.may_tell_mood(&format!("{id}-2"), at(4_999)).await,
            b.may_tell_mood(&id, at(5_000)).await,
        ]
    });
    assert_eq!(seen.await, [true, false, true, true]);
}

#[tokio::test]
async fn moderators_are_answered_more_often_and_beside_who_asks_for_the_mood() {
    let server = Server::start().await;
    let limits = limits(&server);
    let seen = seen_in_time(async |id: String| {
        let mut answered = vec![limits.may_tell_mood(&id, at(0)).await];
        for ms in [0, 1, 2, 3, 5_000] {
            answered.push(limits.may_confirm(&id, at(ms)).await);
        }
        answered
    });
    assert_eq!(seen.await, [true, true, true, true, false, true]);
}

#[tokio::test]
async fn a_message_that_is_delivered_again_is_no_second_command() {
    let server = Server::start().await;
    let (a, b) = (limits(&server), limits(&server));
    assert!(a.is_first("m1", at(0)).await);
    assert!(!b.is_first("m1", at(599_999)).await);
    assert!(b.is_first("m2", at(599_999)).await);
}

#[tokio::test]
async fn without_redis_nothing_is_said_and_moderators_are_still_obeyed() {
    let mut server = Server::start().await;
    let limits = limits(&server);
    server.stop();
    assert!(limits.turn(BOT, "1", EPOCH).await.is_err());
    assert!(!limits.may_tell_mood("1", EPOCH).await);
    assert!(!limits.may_confirm("1", EPOCH).await);
    assert!(limits.is_first("m1", EPOCH).await);
}
