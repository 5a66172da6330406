//! Very many sessions: what they cost while chat goes on, and how soon all is right after Redis lost everything.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use deadpool_redis::redis::cmd;

use super::webhook::row;
use super::{many_overlays, named, seconds};
use crate::latency::{self, Found};
use crate::progress;
use crate::report::{Goal, Report, Row, number};
use crate::requests::{Answers, Spec};
use crate::stage::{FIRST_CHANNEL, Instance, SECRET, Stage};
use crate::worker::{Work, Worker};

/// 100,000 live sessions without sockets, and chat over all of them.
pub async fn sessions(dir: &Path) -> Result<Report> {
    const SESSIONS: usize = 100_000;
    let stage = Stage::set(dir).await?;
    let instance = stage.serve(&[]).await?;
    let empty = instance.resident();
    drop(instance);
    progress("starting 100,000 sessions");
    let streamers = stage.streamers(SESSIONS).await?;
    stage.hold(&streamers).await?;
    let instance = stage.serve(&[]).await?;
    let known = "chatpulse_live_broadcasters";
    instance.until(known, Duration::from_secs(60), |count| count == SESSIONS as f64).await?;
    tokio::time::sleep(seconds(2.0)).await;
    let memory = instance.resident().saturating_sub(empty) as f64 / SESSIONS as f64;

    let mut rows = Vec::new();
    let mut goals = Vec::new();
    for rate in [1_600.0, 8_000.0, 16_000.0] {
        progress(&format!("{} messages a second, 12 s", number(rate)));
        let load = load(&instance, rate, SESSIONS as u64);
        let (warm_up, time) = (seconds(load.warm_up_seconds), seconds(load.seconds));
        let (mut worker, _) = Worker::start(Work::Requests(load)).await?;
        worker.go()?;
        tokio::time::sleep(warm_up).await;
        let (before, buckets) = (stage.usage(&instance), Buckets::of(&instance).await?);
        tokio::time::sleep(time).await;
        let (usage, ticks) =
            (stage.usage(&instance).since(before), Buckets::of(&instance).await?.since(&buckets));
        let answers: Answers = worker.result().await?;
        let micros = |cpu: Duration| cpu.as_secs_f64() * 1e6 / answers.answered.max(1) as f64;
        let label = format!("{} messages/s", number(rate));
        rows.push(
            row(&label, &answers)
                .with("server µs", micros(usage.server))
                .with("all µs", micros(usage.total()))
                .with("ticks a second", ticks.count() / answers.seconds)
                .with("tick p99 ms ≤", ticks.quantile(0.99) * 1000.0)
                .with("refused", (answers.failed() - answers.of_status(0)) as f64)
                // More are sent than are answered: these were still on their way when it was over.
                .with("too late", answers.of_status(0) as f64),
        );
        let refused = answers.of_status(503) as f64;
        goals.push(Goal::at_most(&format!("{label}: answered 503"), refused, 0.0));
        if rate < 16_000.0 {
            goals.push(Goal::at_most(&format!("{label}: not answered 204"), answers.failed() as f64, 0.0));
            goals.push(Goal::at_most(&format!("{label}: p99 ms"), answers.p99_ms, 50.0));
            let p99 = ticks.quantile(0.99) * 1000.0;
            goals.push(Goal::at_most(&format!("{label}: p99 of a tick's work, ms"), p99, 25.0));
        }
    }
    rows.push(
        Row::new("memory")
            .with("bytes a session", memory)
            .with("memory MB", instance.resident() as f64 / 1e6),
    );
    let work = "100,000 live sessions without sockets, 10 % of the messages votes".into();
    Ok(Report { scenario: "sessions", work, rows, goals, settings: Vec::new() })
}

fn load(instance: &Instance, rate: f64, channels: u64) -> Spec {
    Spec {
        address: instance.public,
        secret: SECRET.into(),
        connections: 256,
        rate: Some(rate),
        warm_up_seconds: 2.0,
        seconds: 10.0,
        first_channel: FIRST_CHANNEL,
        channels,
        vote_share: 0.1,
        messages: (rate * 12.0) as usize + 1,
        again: false,
        viewers: None,
    }
}

/// How long ticks worked, as the program counts them.
struct Buckets(Vec<(f64, f64)>);

impl Buckets {
    async fn of(instance: &Instance) -> Result<Buckets> {
        let text = crate::http::get(instance.ops, "/metrics").await?;
        let lines =
            text.lines().filter_map(|line| line.strip_prefix("chatpulse_tick_duration_seconds_bucket{le=\""));
        let bucket = |line: &str| {
            let (bound, count) = line.split_once("\"} ")?;
            Some((bound.parse().unwrap_or(f64::INFINITY), count.parse().ok()?))
        };
        lines.map(|line| bucket(line).context("a bucket")).collect::<Result<_>>().map(Buckets)
    }

    fn since(&self, before: &Buckets) -> Buckets {
        let pairs = self.0.iter().zip(&before.0);
        Buckets(pairs.map(|((bound, count), (_, before))| (*bound, count - before)).collect())
    }

    fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// The upper bound of the bucket in which the quantile is, in seconds.
    fn quantile(&self, quantile: f64) -> f64 {
        let place = quantile * self.count();
        self.0.iter().find(|(_, count)| *count >= place).map_or(0.0, |(bound, _)| *bound)
    }
}

/// `FLUSHALL` while 10,000 sessions are watched on one instance and get votes on another, so that every frame
/// comes by way of Redis.
pub async fn flush(dir: &Path) -> Result<Report> {
    const SESSIONS: usize = 10_000;
    const RATE: f64 = 1_000.0;
    let stage = Stage::set(dir).await?;
    let streamers = stage.streamers(SESSIONS).await?;
    let settings = many_overlays();
    let voting = stage.serve(&settings).await?;
    let watched = stage.serve(&settings).await?;
    progress("opening an overlay on each of 10,000 sessions");
    let (mut worker, _) = Worker::start(Work::Latency(latency::Spec {
        votes_to: voting.public,
        watched_at: vec![watched.public],
        secret: SECRET.into(),
        first_channel: FIRST_CHANNEL,
        overlays: streamers.iter().map(|streamer| streamer.overlay_uuid).collect(),
        rate: RATE,
        connections: 256,
        warm_up_seconds: 3.0,
        seconds: 6.0,
    }))
    .await?;
    progress("voting for 9 s, with a flush in their midst");
    worker.go()?;
    tokio::time::sleep(seconds(4.5)).await;
    let looked_at = "chatpulse_sessions_restored_total";
    let before = watched.metric(looked_at).await?;
    stage.redis::<()>(&cmd("FLUSHALL")).await?;
    let found: Found = worker.result().await?;
    let shown = &found.shown[0];

    let sql =
        "SELECT s.version + (s.ordinal << 32), s.value, s.decay_speed, s.at_ms FROM chatpulse.sessions s
               JOIN chatpulse.users u ON u.id = s.streamer_id ORDER BY u.twitch_user_id::bigint";
    let heads = stage.owner().await?.query(sql, &[]).await?;
    let behind = heads.iter().zip(&shown.last).filter(|(head, last)| head.get::<_, i64>(0) != last.0).count();
    let errors = heads.iter().zip(&shown.last).map(|(head, last)| (head.get::<_, f64>(1) - last.1).abs());
    let error = errors.fold(0.0, f64::max);
    let restored = watched.metric(looked_at).await? - before;
    let row = Row::new("10,000 sessions")
        .with("votes", shown.votes as f64)
        .with("p50 ms", shown.p50_ms)
        .with("longest ms", shown.max_ms)
        .with("never shown", shown.missing as f64)
        .with("behind at the end", behind as f64)
        .with("largest error", error)
        .with("restored", restored);
    Ok(Report {
        scenario: "flush",
        work: "FLUSHALL under 10,000 live sessions, 1,000 votes a second on another instance".into(),
        rows: vec![row],
        goals: vec![
            Goal::at_most("votes refused or never shown", (found.failed + shown.missing) as f64, 0.0),
            Goal::at_most("longest from a vote to its frame, ms", shown.max_ms, 2_000.0),
            Goal::at_most("overlays behind the journal at the end", behind as f64, 0.0),
            Goal::at_most("largest error, points", error, 1.0),
        ],
        settings: named(&settings),
    })
}
