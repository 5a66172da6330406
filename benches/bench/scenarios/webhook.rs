//! What chat costs: messages that are no votes, votes, and one channel with very many of them.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::seconds;
use crate::limits::HttpSpec;
use crate::process;
use crate::progress;
use crate::report::{Goal, Report, Row};
use crate::requests::{Answers, Spec};
use crate::stage::{FIRST_CHANNEL, Instance, SECRET, Stage, Usage};
use crate::worker::{Work, Worker};

const CHANNELS: u64 = 1_000;
/// Votes that counted.
const ACCEPTED: &str = "chatpulse_votes_total{result=\"accepted\"}";
const WARM_UP: f64 = 2.0;
const SECONDS: f64 = 10.0;
const ROUNDS: usize = 3;
const ROUND_WARM_UP: f64 = 1.0;
const ROUND_SECONDS: f64 = 4.0;

/// Chat that is no vote, as much as is answered.
pub async fn chat(dir: &Path) -> Result<Report> {
    compare(
        dir,
        "chat",
        "signed chat messages without a vote, 1,000 channels, 64 connections",
        0.0,
        64,
        30_000,
    )
    .await
}

/// Votes only, as many as are answered when they are durable.
pub async fn votes(dir: &Path) -> Result<Report> {
    compare(
        dir,
        "votes",
        "every message an accepted vote of another viewer, 1,000 sessions, 512 connections",
        1.0,
        512,
        120_000,
    )
    .await
}

/// What was answered and used in all rounds.
#[derive(Default)]
struct Sum {
    answers: Vec<Answers>,
    usage: Usage,
}

impl Sum {
    fn add(&mut self, answers: Answers, usage: Usage) {
        self.answers.push(answers);
        self.usage = self.usage.plus(usage);
    }

    fn answered(&self) -> u64 {
        self.answers.iter().map(|answers| answers.answered).sum()
    }

    fn failed(&self) -> u64 {
        self.answers.iter().map(Answers::failed).sum()
    }

    fn micros(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / self.answered().max(1) as f64
    }

    fn row(&self, label: &str) -> Row {
        let median = |figure: fn(&Answers) -> f64| {
            let mut figures: Vec<f64> = self.answers.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures[figures.len() / 2]
        };
        Row::new(label)
            .with("a second", median(|answers| answers.answered as f64 / answers.seconds))
            .with("p50 ms", median(|answers| answers.p50_ms))
            .with("p99 ms", median(|answers| answers.p99_ms))
            .with("p99.9 ms", self.answers.iter().map(|answers| answers.p999_ms).fold(0.0, f64::max))
            .with("server µs", self.micros(self.usage.server))
    }
}

/// Ours and the limit with the same load, in turns: the machine may be faster at one time than at another.
async fn compare(
    dir: &Path,
    scenario: &'static str,
    work: &str,
    vote_share: f64,
    connections: usize,
    messages: usize,
) -> Result<Report> {
    let stage = Stage::set(dir).await?;
    progress("starting 1,000 sessions");
    let streamers = stage.streamers(CHANNELS as usize).await?;
    stage.hold(&streamers).await?;
    let instance = stage.serve(&[]).await?;
    let (mut limit, limit_address) =
        Worker::start(Work::HttpLimit(HttpSpec { secret: SECRET.into() })).await?;
    limit.go()?;
    let load = |address, again| Spec {
        address,
        secret: SECRET.into(),
        connections,
        rate: None,
        warm_up_seconds: ROUND_WARM_UP,
        seconds: ROUND_SECONDS,
        first_channel: FIRST_CHANNEL,
        channels: CHANNELS,
        vote_share,
        messages,
        again,
        viewers: None,
    };
    let (mut ours, mut theirs) = (Sum::default(), Sum::default());
    let mut accepted = 0.0;
    for round in 1..=ROUNDS {
        progress(&format!("round {round} of {ROUNDS}, ours and the limit, 5 s each"));
        let (answers, usage, votes) =
            measured_with(&stage, &instance, load(instance.public, vote_share == 0.0), ACCEPTED).await?;
        ours.add(answers, usage);
        accepted += votes;
        let (answers, cpu) = limited(limit.id(), load(limit_address.parse()?, true)).await?;
        theirs.add(answers, Usage { server: cpu, ..Usage::default() });
    }

    let rate = |sum: &Sum| per_second(sum.answered(), sum.usage.server);
    let (server, all) = (ours.micros(ours.usage.server), ours.micros(ours.usage.total()));
    let least = theirs.micros(theirs.usage.server);
    let rows = vec![
        ours.row("ChatPulse")
            .with("Redis µs", ours.micros(ours.usage.redis))
            .with("PostgreSQL µs", ours.micros(ours.usage.postgres))
            .with("per CPU second", rate(&ours))
            .with("memory MB", instance.resident() as f64 / 1e6),
        theirs.row("limit").with("per CPU second", rate(&theirs)),
    ];
    let mut goals = vec![Goal::at_most("messages not answered 204", ours.failed() as f64, 0.0)];
    if vote_share == 0.0 {
        goals.push(Goal::at_least(
            "of the limit's messages per CPU second",
            rate(&ours) / rate(&theirs),
            0.9,
        ));
    } else {
        goals.push(Goal::at_least(
            "accepted votes for each answer",
            // Some are under way when it begins and when it ends.
            accepted / ours.answered().max(1) as f64,
            0.95,
        ));
        goals.push(Goal::at_most("server CPU a vote, as multiple of the limit's", server / least, 2.0));
        goals.push(Goal::at_most("CPU of all parts a vote, as multiple of the limit's", all / least, 4.0));
    }
    Ok(Report { scenario, work: work.into(), rows, goals, settings: Vec::new() })
}

fn per_second(count: u64, cpu: Duration) -> f64 {
    count as f64 / cpu.as_secs_f64().max(0.001)
}

/// A row's usual figures.
pub fn row(label: &str, answers: &Answers) -> Row {
    Row::new(label)
        .with("a second", answers.answered as f64 / answers.seconds)
        .with("p50 ms", answers.p50_ms)
        .with("p99 ms", answers.p99_ms)
        .with("p99.9 ms", answers.p999_ms)
}

/// Sends a load to an instance, and answers what became of it and what it cost.
pub async fn measured(stage: &Stage, instance: &Instance, load: Spec) -> Result<(Answers, Usage)> {
    let (answers, usage, _) = measured_with(stage, instance, load, ACCEPTED).await?;
    Ok((answers, usage))
}

/// As [`measured`], and by how much a metric grew.
async fn measured_with(
    stage: &Stage,
    instance: &Instance,
    load: Spec,
    metric: &str,
) -> Result<(Answers, Usage, f64)> {
    let (warm_up, measured) = (seconds(load.warm_up_seconds), seconds(load.seconds));
    let (mut worker, _) = Worker::start(Work::Requests(load)).await?;
    worker.go()?;
    tokio::time::sleep(warm_up).await;
    let (before, metric_before) = (stage.usage(instance), instance.metric(metric).await?);
    tokio::time::sleep(measured).await;
    let usage = stage.usage(instance).since(before);
    let grown = instance.metric(metric).await? - metric_before;
    Ok((worker.result().await?, usage, grown))
}

/// The same for the limit's process.
async fn limited(pid: u32, load: Spec) -> Result<(Answers, Duration)> {
    let (warm_up, measured) = (seconds(load.warm_up_seconds), seconds(load.seconds));
    let (mut worker, _) = Worker::start(Work::Requests(load)).await?;
    worker.go()?;
    tokio::time::sleep(warm_up).await;
    let before = process::cpu(pid);
    tokio::time::sleep(measured).await;
    let cpu = process::cpu(pid).saturating_sub(before);
    Ok((worker.result().await?, cpu))
}

/// One session with 5,000 votes a second of 50,000 viewers.
pub async fn hot_channel(dir: &Path) -> Result<Report> {
    const RATE: f64 = 5_000.0;
    let stage = Stage::set(dir).await?;
    let streamers = stage.streamers(1).await?;
    stage.hold(&streamers).await?;
    let instance = stage.serve(&[]).await?;
    progress("measuring for 12 s");
    let load = Spec {
        address: instance.public,
        secret: SECRET.into(),
        connections: 512,
        rate: Some(RATE),
        warm_up_seconds: WARM_UP,
        seconds: SECONDS,
        first_channel: FIRST_CHANNEL,
        channels: 1,
        vote_share: 1.0,
        messages: ((WARM_UP + SECONDS) * RATE) as usize + 1,
        again: false,
        viewers: Some(50_000),
    };
    let accepted_before = instance.metric(ACCEPTED).await?;
    let commits_before = instance.metric("chatpulse_journal_commit_seconds_count").await?;
    let votes_before = instance.metric("chatpulse_journal_batch_events_sum").await?;
    let (answers, usage) = measured(&stage, &instance, load).await?;
    let commits = instance.metric("chatpulse_journal_commit_seconds_count").await? - commits_before;
    let votes = instance.metric("chatpulse_journal_batch_events_sum").await? - votes_before;
    let accepted = instance.metric(ACCEPTED).await? - accepted_before;
    let micros = |cpu: Duration| cpu.as_secs_f64() * 1e6 / answers.answered.max(1) as f64;
    let row = row("one session", &answers)
        .with("server µs", micros(usage.server))
        .with("all µs", micros(usage.total()))
        .with("votes a commit", votes / commits.max(1.0))
        .with("memory MB", instance.resident() as f64 / 1e6);
    let goals = vec![
        Goal::at_most("votes shed", answers.failed() as f64, 0.0),
        Goal::at_least("votes accepted a second", accepted / (WARM_UP + SECONDS), RATE * 0.99),
        Goal::at_most("p99 ms", answers.p99_ms, 50.0),
        Goal::at_least("votes a commit", votes / commits.max(1.0), 2.0),
    ];
    let work = "one session, 5,000 votes a second of 50,000 viewers".into();
    Ok(Report { scenario: "hot-channel", work, rows: vec![row], goals, settings: Vec::new() })
}
