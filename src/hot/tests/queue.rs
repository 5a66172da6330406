//! Queues on streams: nothing is lost, and each entry goes to one consumer at a time.

use super::*;
use crate::hot::queue::{DeadLetter, Depth, Entry, Failed, Queue, QueueOptions};

const STREAM: &str = "chatpulse:stream:{jobs}";

pub(super) fn options(consumer: &str) -> QueueOptions {
    QueueOptions {
        name: "{jobs}".into(),
        group: "workers".into(),
        consumer: consumer.into(),
        entries_max: 5,
        claim_after: Duration::from_secs(3600),
        claim_every: Duration::ZERO,
    }
}

fn queue(server: &Server, consumer: &str) -> Queue {
    Queue::new(server.hot(), options(consumer))
}

/// A consumer to which every other one counts as gone.
fn heir(server: &Server, consumer: &str) -> Queue {
    Queue::new(server.hot(), QueueOptions { claim_after: Duration::ZERO, ..options(consumer) })
}

async fn push(queue: &Queue, payloads: &[&str]) {
    queue.push(&bytes(payloads)).await.expect("room in the queue");
}

fn bytes(payloads: &[&str]) -> Vec<Vec<u8>> {
    payloads.iter().map(|payload| payload.as_bytes().to_vec()).collect()
}

async fn take(queue: &Queue, limit: usize) -> Vec<Entry> {
    queue.take(limit).await.expect("an answer")
}

fn payloads(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| std::str::from_utf8(&entry.payload).expect("a text")).collect()
}

fn ids(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| entry.id.clone()).collect()
}

async fn depth(queue: &Queue) -> (u64, u64) {
    let Depth { waiting, dead_letters } = queue.depth().await.expect("an answer");
    (waiting, dead_letters)
}

#[tokio::test]
async fn each_entry_goes_to_one_consumer_in_order() {
    let server = Server::start().await;
    let (a, b) = (queue(&server, "a"), queue(&server, "b"));
    assert_eq!(take(&a, 9).await, vec![]);
    push(&a, &["1", "2", "3"]).await;
    push(&b, &["4"]).await;
    let first = take(&a, 2).await;
    let rest = take(&b, 9).await;
    assert_eq!((payloads(&first), payloads(&rest)), (vec!["1", "2"], vec!["3", "4"]));
    assert_eq!(depth(&a).await, (4, 0), "what is taken still waits");
    a.settle(&ids(&first)).await.unwrap();
    b.settle(&ids(&rest)).await.unwrap();
    assert_eq!(depth(&b).await, (0, 0));
    assert_eq!((take(&a, 9).await, take(&b, 9).await), (vec![], vec![]));
}

#[tokio::test]
async fn entries_are_put_all_or_none_up_to_the_bound() {
    let server = Server::start().await;
    let queue = queue(&server, "a");
    push(&queue, &["1", "2", "3"]).await;
    let full = queue.push(&bytes(&["4", "5", "6"])).await;
    assert_eq!(full, Err(HotError::Full("{jobs}".into())));
    assert_eq!(depth(&queue).await, (3, 0));
    push(&queue, &["4", "5"]).await;
    push(&queue, &[]).await;
    let taken = take(&queue, 1).await;
    queue.settle(&ids(&taken)).await.unwrap();
    push(&queue, &["6"]).await;
    assert_eq!(payloads(&take(&queue, 9).await), ["2", "3", "4", "5", "6"]);
}

#[tokio::test]
async fn what_was_not_settled_comes_again_before_what_is_new() {
    let server = Server::start().await;
    let queue = queue(&server, "a");
    push(&queue, &["1", "2", "3"]).await;
    let first = take(&queue, 2).await;
    assert_eq!(payloads(&take(&queue, 2).await), ["1", "2"]);
    queue.settle(&ids(&first)[..1]).await.unwrap();
    assert_eq!(payloads(&take(&queue, 9).await), ["2", "3"]);
    queue.settle(&ids(&first)).await.unwrap();
    queue.settle(&ids(&first)).await.unwrap();
    assert_eq!(payloads(&take(&queue, 9).await), ["3"]);
}

#[tokio::test]
async fn the_entries_of_a_consumer_that_is_gone_go_to_another() {
    let server = Server::start().await;
    let (a, b, heir) = (queue(&server, "a"), queue(&server, "b"), heir(&server, "c"));
    push(&a, &["1", "2", "3"]).await;
    let lost = take(&a, 2).await;
    assert_eq!(payloads(&take(&b, 9).await), ["3"], "a was heard of");
    let claimed = take(&heir, 9).await;
    assert_eq!(payloads(&claimed), ["1", "2", "3"]);
    assert_eq!(payloads(&take(&heir, 9).await), ["1", "2", "3"], "each once, though claimed and its own");
    heir.settle(&ids(&claimed)).await.unwrap();
    assert_eq!((take(&a, 9).await, take(&b, 9).await), (vec![], vec![]));
    a.settle(&ids(&lost)).await.unwrap();
    assert_eq!(depth(&a).await, (0, 0));
}

#[tokio::test]
async fn after_the_fifth_delivery_a_failing_entry_is_dead_and_can_be_retried() {
    let server = Server::start().await;
    let queue = queue(&server, "a");
    push(&queue, &["bad", "good"]).await;
    let taken = take(&queue, 9).await;
    queue.settle(&[taken[1].id.clone()]).await.unwrap();
    let bad = taken[0].id.as_str();
    for _ in 1..5 {
        assert_eq!(queue.fail(bad, "no").await.unwrap(), Failed::Again);
        assert_eq!(queue.fail(bad, "no").await.unwrap(), Failed::Again, "failing again is no try");
        assert_eq!(payloads(&take(&queue, 9).await), ["bad"]);
    }
    assert_eq!(queue.fail(bad, "no").await.unwrap(), Failed::Dead);
    assert_eq!(queue.fail(bad, "no").await.unwrap(), Failed::Dead, "as it was answered before");
    assert_eq!((depth(&queue).await, take(&queue, 9).await), ((0, 1), vec![]));

    let letters = queue.dead_letters(None, 9).await.unwrap();
    let id = letters[0].id.clone();
    let wanted = DeadLetter {
        id: id.clone(),
        entry_id: bad.into(),
        payload: b"bad".to_vec(),
        reason: "no".into(),
        tries: 5,
    };
    assert_eq!(letters, vec![wanted]);
    assert!(queue.retry_dead(&id).await.unwrap());
    assert!(!queue.retry_dead(&id).await.unwrap());
    assert_eq!(depth(&queue).await, (1, 0));
    let again = take(&queue, 9).await;
    assert_eq!(payloads(&again), ["bad"]);
    assert_eq!(queue.fail(&again[0].id, "no").await.unwrap(), Failed::Again, "its tries begin anew");
}

#[tokio::test]
async fn dead_letters_are_read_page_by_page() {
    let server = Server::start().await;
    let queue = queue(&server, "a");
    push(&queue, &["1", "2", "3"]).await;
    for entry in take(&queue, 9).await {
        queue.bury(&entry.id, "unreadable").await.unwrap();
    }
    let page = queue.dead_letters(None, 2).await.unwrap();
    let rest = queue.dead_letters(Some(&page[1].id), 2).await.unwrap();
    let texts: Vec<&[u8]> = page.iter().chain(&rest).map(|letter| letter.payload.as_slice()).collect();
    assert_eq!(texts, [b"1", b"2", b"3"]);
    assert_eq!(page[0].tries, 1);
}

#[tokio::test]
async fn a_flush_loses_the_group_and_not_what_comes_after() {
    let server = Server::start().await;
    let queue = queue(&server, "a");
    push(&queue, &["1"]).await;
    let lost = take(&queue, 9).await;
    let _: String = raw(&server, &["FLUSHALL"]).await;
    push(&queue, &["2"]).await;
    queue.settle(&ids(&lost)).await.unwrap();
    assert_eq!(queue.fail(&lost[0].id, "no").await.unwrap(), Failed::Dead, "gone");
    assert_eq!(payloads(&take(&queue, 9).await), ["2"]);
}

#[tokio::test]
async fn an_entry_that_nobody_took_yet_fails_without_harm() {
    let server = Server::start().await;
    let queue = queue(&server, "a");
    push(&queue, &["1"]).await;
    let entry: Vec<(String, Vec<String>)> = raw(&server, &["XRANGE", STREAM, "-", "+"]).await;
    assert_eq!(queue.fail(&entry[0].0, "no").await.unwrap(), Failed::Again, "there is not even a group");
    assert_eq!(payloads(&take(&queue, 9).await), ["1"]);
}

#[tokio::test]
async fn an_entry_deleted_by_hand_is_not_waited_for() {
    let server = Server::start().await;
    let queue = queue(&server, "a");
    push(&queue, &["1", "2"]).await;
    let taken = take(&queue, 9).await;
    let _: i64 = raw(&server, &["XDEL", STREAM, &taken[0].id]).await;
    assert_eq!(payloads(&take(&queue, 9).await), ["2"]);
    let pending: Vec<Value> = raw(&server, &["XPENDING", STREAM, "workers", "-", "+", "9"]).await;
    assert_eq!(pending.len(), 1);
}

#[tokio::test]
async fn only_consumers_that_have_nothing_are_dropped() {
    let server = Server::start().await;
    let (a, b, c) = (queue(&server, "a"), queue(&server, "b"), queue(&server, "c"));
    assert_eq!(a.drop_consumers(Duration::ZERO).await.unwrap(), 0, "no queue yet");
    push(&a, &["1", "2", "3"]).await;
    assert_eq!(payloads(&take(&b, 1).await), ["1"]);
    for done in [&a, &c] {
        done.settle(&ids(&take(done, 1).await)).await.unwrap();
    }
    assert_eq!(a.drop_consumers(Duration::from_secs(3600)).await.unwrap(), 0, "none is idle for so long");
    assert_eq!(a.drop_consumers(Duration::ZERO).await.unwrap(), 1, "neither itself nor who has entries");
    assert_eq!(payloads(&take(&heir(&server, "d"), 9).await), ["1"]);
}

#[tokio::test]
async fn entries_whose_delivery_was_not_heard_of_come_again() {
    let server = Server::start().await;
    let hot = server.hot_within(Duration::from_millis(150));
    until(async || hot.probe().await.is_ok()).await;
    let queue = Queue::new(hot.clone(), QueueOptions { claim_after: Duration::ZERO, ..options("a") });
    take(&queue, 9).await;
    push(&queue, &["1", "2"]).await;
    server.signal("-STOP");
    until(async || queue.take(9).await == Err(HotError::Away)).await;
    server.signal("-CONT");
    hot.probe().await.unwrap();
    until(async || queue.take(9).await.is_ok_and(|taken| payloads(&taken) == ["1", "2"])).await;
}

#[tokio::test]
async fn a_full_server_refuses_entries_and_lets_go_of_others() {
    let server = Server::start().await;
    let queue = queue(&server, "a");
    push(&queue, &["1", "2"]).await;
    let taken = take(&queue, 9).await;
    let _: String = raw(&server, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let failure = queue.push(&bytes(&["3"])).await.unwrap_err();
    assert!(matches!(&failure, HotError::Server(why) if why.contains("OOM")), "{failure}");
    queue.settle(&[taken[0].id.clone()]).await.unwrap();
    queue.bury(&taken[1].id, "unreadable").await.unwrap();
    assert_eq!(depth(&queue).await, (0, 1));
}
