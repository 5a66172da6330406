use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use prometheus::Opts;

use super::*;

const NOW: Millis = Millis(1_763_700_000_000);
const WAIT: Duration = Duration::from_millis(700);

/// Chats that take what they are told to, and a queue in memory.
#[derive(Default)]
struct Fake {
    /// Milliseconds since [`NOW`].
    ms: Cell<i64>,
    waiting: RefCell<Vec<Waiting>>,
    /// The turns to come; after them it is anybody's.
    turns: RefCell<VecDeque<Result<Turn, HotError>>>,
    /// What Twitch answers; after that, that it was sent.
    answers: RefCell<VecDeque<Result<Sent, TwitchError>>>,
    /// How long striking out takes, in milliseconds, or that it can't be done.
    striking: Cell<Option<i64>>,
    done: RefCell<Vec<String>>,
}

impl Fake {
    fn new() -> Fake {
        Fake { striking: Cell::new(Some(0)), ..Fake::default() }
    }

    /// Something to be said in a channel, made so many milliseconds after [`NOW`].
    fn queue(&self, channel: &str, text: &str, made_ms: i64) {
        let reply = Reply {
            broadcaster_id: channel.into(),
            text: text.into(),
            reply_to: None,
            made_at: Millis(NOW.0 + made_ms),
        };
        self.waiting.borrow_mut().push(Waiting { id: text.into(), reply: Ok(reply) });
    }

    fn tell(&self, answer: Result<Sent, TwitchError>) {
        self.answers.borrow_mut().push_back(answer);
    }

    fn turn_is(&self, turn: Result<Turn, HotError>) {
        self.turns.borrow_mut().push_back(turn);
    }

    /// What was done since it was last asked.
    fn done(&self) -> Vec<String> {
        self.done.take()
    }

    fn left(&self) -> Vec<String> {
        self.waiting.borrow().iter().map(|waiting| waiting.id.clone()).collect()
    }
}

impl World for Fake {
    fn now(&self) -> Millis {
        Millis(NOW.0 + self.ms.get())
    }

    async fn take(&self, limit: usize) -> Result<Vec<Waiting>, HotError> {
        Ok(self.waiting.borrow().iter().take(limit).cloned().collect())
    }

    async fn strike_out(&self, ids: &[String]) -> Result<(), HotError> {
        let Some(ms) = self.striking.get() else { return Err(HotError::Away) };
        self.ms.set(self.ms.get() + ms);
        self.done.borrow_mut().push(format!("strike out {}", ids.join(" ")));
        self.waiting.borrow_mut().retain(|waiting| !ids.contains(&waiting.id));
        Ok(())
    }

    async fn put_back(&self, reply: &Reply) -> Result<(), HotError> {
        self.done.borrow_mut().push(format!("put back {}", reply.text));
        self.waiting.borrow_mut().push(Waiting { id: reply.text.clone(), reply: Ok(reply.clone()) });
        Ok(())
    }

    async fn turn(&self, broadcaster_id: &str, _: Millis) -> Result<Turn, HotError> {
        self.done.borrow_mut().push(format!("ask for {broadcaster_id}"));
        self.turns.borrow_mut().pop_front().unwrap_or(Ok(Turn::Now))
    }

    async fn send(&self, reply: &Reply) -> Result<Sent, TwitchError> {
        self.done.borrow_mut().push(format!("say {}", reply.text));
        self.answers.borrow_mut().pop_front().unwrap_or_else(|| Ok(sent()))
    }
}

fn sent() -> Sent {
    Sent { message_id: "m".into(), is_sent: true, drop_reason: None }
}

fn dropped(reason: &str) -> Sent {
    Sent { message_id: String::new(), is_sent: false, drop_reason: Some(reason.into()) }
}

fn refused(status: u16) -> TwitchError {
    TwitchError::Refused { status, message: "why".into(), id: None }
}

fn speaker() -> Speaker {
    Speaker::new(IntCounterVec::new(Opts::new("replies_total", "help"), &["outcome"]).unwrap())
}

async fn round(speaker: &mut Speaker, fake: &Fake) -> Duration {
    speaker.round(fake).await.unwrap()
}

fn counted(speaker: &Speaker) -> [u64; 5] {
    [SENT, DROPPED, LIMITED, FAILED, LATE].map(|outcome| speaker.outcomes.with_label_values(&[outcome]).get())
}

#[tokio::test]
async fn an_answer_is_struck_out_before_it_is_said() {
    let (mut speaker, fake) = (speaker(), Fake::new());
    fake.queue("1", "one", 0);
    fake.queue("2", "two", 0);
    assert_eq!(round(&mut speaker, &fake).await, LOOK_EVERY);
    let wanted = ["ask for 1", "strike out one", "say one", "ask for 2", "strike out two", "say two"];
    assert_eq!(fake.done(), wanted);
    assert_eq!(counted(&speaker), [2, 0, 0, 0, 0]);
}

#[tokio::test]
async fn what_may_not_have_been_struck_out_is_not_said() {
    let (mut speaker, fake) = (speaker(), Fake::new());
    fake.queue("1", "one", 0);
    fake.striking.set(None);
    assert_eq!(speaker.round(&fake).await, Err(HotError::Away));
    assert_eq!(fake.done(), ["ask for 1"]);
    fake.striking.set(Some(0));
    round(&mut speaker, &fake).await;
    assert_eq!(counted(&speaker), [1, 0, 0, 0, 0]);
}

#[tokio::test]
async fn what_is_late_or_unreadable_is_struck_out_unsaid_and_asks_for_no_turn() {
    let (mut speaker, fake) = (speaker(), Fake::new());
    fake.queue("1", "late", -30_001);
    fake.waiting.borrow_mut().push(Waiting { id: "odd".into(), reply: Err("format 2".into()) });
    fake.queue("1", "timely", -30_000);
    round(&mut speaker, &fake).await;
    assert_eq!(fake.done(), ["strike out late odd", "ask for 1", "strike out timely", "say timely"]);
    assert_eq!(counted(&speaker), [1, 1, 0, 0, 1]);
}

#[tokio::test]
async fn what_became_late_while_it_was_struck_out_is_not_said() {
    let (mut speaker, fake) = (speaker(), Fake::new());
    fake.queue("1", "one", 0);
    fake.striking.set(Some(30_001));
    round(&mut speaker, &fake).await;
    assert_eq!(fake.done(), ["ask for 1", "strike out one"]);
    assert_eq!(counted(&speaker), [0, 0, 0, 0, 1]);
}

#[tokio::test]
async fn a_channel_that_has_to_wait_keeps_no_other_waiting() {
    let (mut speaker, fake) = (speaker(), Fake::new());
    for (channel, text) in [("1", "one"), ("1", "more"), ("2", "two")] {
        fake.queue(channel, text, 0);
    }
    fake.turn_is(Ok(Turn::Channel(WAIT)));
    assert_eq!(round(&mut speaker, &fake).await, WAIT);
    assert_eq!(fake.done(), ["ask for 1", "ask for 2", "strike out two", "say two"]);
    fake.ms.set(699);
    assert_eq!(round(&mut speaker, &fake).await, Duration::from_millis(1));
    assert_eq!(fake.done(), Vec::<String>::new(), "not even asked");
    fake.ms.set(700);
    round(&mut speaker, &fake).await;
    assert_eq!(fake.left(), Vec::<String>::new());
    assert_eq!(counted(&speaker), [3, 0, 0, 0, 0]);
}

#[tokio::test]
async fn a_bot_that_has_to_wait_says_nothing_and_drops_what_becomes_late() {
    let (mut speaker, fake) = (speaker(), Fake::new());
    fake.queue("1", "one", -20_000);
    fake.queue("2", "two", 0);
    fake.turn_is(Ok(Turn::Sender(Duration::from_secs(25))));
    assert_eq!(round(&mut speaker, &fake).await, LOOK_EVERY);
    assert_eq!(fake.done(), ["ask for 1"]);
    fake.ms.set(10_001);
    round(&mut speaker, &fake).await;
    assert_eq!(fake.done(), ["strike out one"]);
    fake.ms.set(25_000);
    round(&mut speaker, &fake).await;
    assert_eq!(counted(&speaker), [1, 0, 0, 0, 1]);
}

#[tokio::test]
async fn what_twitch_finds_too_much_is_put_back_and_said_later() {
    for (error, wait) in
        [(TwitchError::Limited { wait: WAIT }, WAIT), (refused(TOO_MANY_REQUESTS), CHAT_LIMITED)]
    {
        let (mut speaker, fake) = (speaker(), Fake::new());
        fake.queue("1", "one", 0);
        fake.queue("2", "two", 0);
        fake.tell(Err(error));
        assert_eq!(round(&mut speaker, &fake).await, wait.min(LOOK_EVERY));
        assert_eq!(fake.done(), ["ask for 1", "strike out one", "say one", "put back one"]);
        assert_eq!(fake.left(), ["two", "one"]);
        fake.ms.set(wait.as_millis() as i64);
        round(&mut speaker, &fake).await;
        assert_eq!(counted(&speaker), [2, 0, 1, 0, 0]);
    }
}

#[tokio::test]
async fn nothing_is_tried_again_that_twitch_may_have_said_or_refuses() {
    let (mut speaker, fake) = (speaker(), Fake::new());
    let answers = [
        Err(TwitchError::Away("no answer in time".into())),
        Err(refused(403)),
        Ok(dropped("msg_rejected: by AutoMod")),
        Err(TwitchError::Answer("not JSON".into())),
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        fake.queue("1", &format!("text {number}"), 0);
        fake.tell(answer);
    }
    round(&mut speaker, &fake).await;
    assert_eq!(fake.left(), Vec::<String>::new());
    assert_eq!(counted(&speaker), [0, 1, 0, 3, 0]);
}

#[tokio::test]
async fn without_the_limits_redis_all_waits() {
    let (mut speaker, fake) = (speaker(), Fake::new());
    fake.queue("1", "one", 0);
    fake.turn_is(Err(HotError::Away));
    assert_eq!(speaker.round(&fake).await, Err(HotError::Away));
    assert_eq!(fake.left(), ["one"]);
}

#[tokio::test]
async fn more_than_one_look_takes_is_looked_at_at_once() {
    let (mut speaker, fake) = (speaker(), Fake::new());
    for number in 0..=AT_ONCE_MAX {
        fake.queue(&format!("channel {number}"), &format!("text {number}"), 0);
    }
    assert_eq!(round(&mut speaker, &fake).await, Duration::ZERO);
    assert_eq!(round(&mut speaker, &fake).await, LOOK_EVERY);
    assert_eq!(counted(&speaker)[0], AT_ONCE_MAX as u64 + 1);
}

#[test]
fn each_kind_of_failure_is_told_once_and_no_more_kinds_than_the_bound() {
    let mut speaker = speaker();
    assert!(speaker.is_news("msg_rejected"));
    assert!(!speaker.is_news("msg_rejected"));
    let news = (0..200).filter(|number| speaker.is_news(&format!("kind {number}"))).count();
    assert_eq!(news, KINDS_MAX - 1);
}
