//! Times of the functions that every message of chat goes through: is it Twitch, what does it say, is it a vote.

use std::hint::black_box;
use std::time::Duration;

use chatpulse::domain::config::Config;
use chatpulse::domain::trigger::Triggers;
use chatpulse::twitch::eventsub::{self, Message};
use chatpulse::twitch::signature::Secrets;
use chatpulse::twitch::simulator::{Generator, Notification, Options};
use criterion::{Criterion, criterion_group, criterion_main};
use time::OffsetDateTime;

const SECRET: &str = "benchmark-secret-of-the-webhook";
/// So many messages take turns, so that none is always in the cache.
const MESSAGES: usize = 256;

fn messages(now: OffsetDateTime) -> Vec<Notification> {
    let options = Options { quiet: true, ..Options::new("http://localhost/", SECRET) };
    let mut generator = Generator::new(&options, now).expect("the options can be used");
    (0..MESSAGES).map(|_| generator.next(Duration::ZERO, now)).collect()
}

fn message(criterion: &mut Criterion) {
    let now = OffsetDateTime::now_utc();
    let messages = messages(now);
    let secrets = Secrets::new([SECRET]).expect("the secret can be used");
    let words = |word: &str| (0..10).map(|number| format!("{word}{number}")).collect();
    let config = Config { for_triggers: words("yes"), against_triggers: words("no"), ..Config::default() };
    let triggers = Triggers::of(&config);
    let verified: Vec<_> = messages
        .iter()
        .map(|message| secrets.verify(&message.signed_headers(), &message.body, now).expect("it is signed"))
        .collect();
    let parsed: Vec<_> = verified
        .iter()
        .filter_map(|verified| match eventsub::parse(verified) {
            Ok(Message::ChatMessage(message)) => Some(message),
            _ => None,
        })
        .collect();

    let mut turn = 0;
    let mut next = move || {
        turn = (turn + 1) % MESSAGES;
        turn
    };
    criterion.bench_function("verify a signature", |bencher| {
        bencher.iter(|| {
            let message = &messages[next()];
            black_box(secrets.verify(&message.signed_headers(), &message.body, now).is_ok())
        });
    });
    criterion.bench_function("read a chat message", |bencher| {
        bencher.iter(|| black_box(eventsub::parse(&verified[next()]).is_ok()));
    });
    criterion.bench_function("match 20 triggers", |bencher| {
        bencher.iter(|| {
            let message = &parsed[next()];
            black_box(triggers.side_of(&message.text, &message.fragments()))
        });
    });
}

criterion_group!(benches, message);
criterion_main!(benches);
