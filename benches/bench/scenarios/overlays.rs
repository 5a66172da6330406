//! What overlays get and cost: how soon a vote is shown, many overlays of one session, idle ones, and very many
//! that come at once.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use uuid::Uuid;

use super::webhook::measured;
use super::{many_overlays, named, seconds};
use crate::latency::{Found, Shown};
use crate::limits::FanoutSpec;
use crate::process;
use crate::progress;
use crate::report::{Goal, Report, Row};
use crate::requests;
use crate::sockets::{Seen, Spec};
use crate::stage::{FIRST_CHANNEL, Instance, SECRET, Stage};
use crate::worker::{Work, Worker};

/// A tick, the program's default.
const TICK_MS: u64 = 50;
/// A frame as the program sends it.
const FRAME: &str = r#"{"type":"sentiment","version":4294968297,"value":-12.345678901234567,"at":1763700000123,"for":12345,"against":12345}"#;

/// Votes over 200 sessions, with an overlay each on the same instance and on another one.
pub async fn latency(dir: &Path) -> Result<Report> {
    let stage = Stage::set(dir).await?;
    let streamers = stage.streamers(200).await?;
    let settings = many_overlays();
    let same = stage.serve(&settings).await?;
    let other = stage.serve(&settings).await?;
    progress("measuring for 12 s");
    let (mut worker, _) = Worker::start(Work::Latency(crate::latency::Spec {
        votes_to: same.public,
        watched_at: vec![same.public, other.public],
        secret: SECRET.into(),
        first_channel: FIRST_CHANNEL,
        overlays: streamers.iter().map(|streamer| streamer.overlay_uuid).collect(),
        rate: 1_000.0,
        connections: 256,
        warm_up_seconds: 2.0,
        seconds: 10.0,
    }))
    .await?;
    worker.go()?;
    let found: Found = worker.result().await?;
    let row = |label: &str, shown: &Shown| {
        Row::new(label)
            .with("votes", shown.votes as f64)
            .with("p50 ms", shown.p50_ms)
            .with("p99 ms", shown.p99_ms)
            .with("p99.9 ms", shown.p999_ms)
            .with("never shown", shown.missing as f64)
    };
    let (here, there) = (&found.shown[0], &found.shown[1]);
    let goals = vec![
        Goal::at_most(
            "votes refused or never shown",
            (found.failed + here.missing + there.missing) as f64,
            0.0,
        ),
        Goal::at_most("same instance p50 ms", here.p50_ms, 5.0),
        Goal::at_most("same instance p99 ms", here.p99_ms, 55.0),
        Goal::at_most("other instance p99 ms", there.p99_ms, 65.0),
    ];
    Ok(Report {
        scenario: "latency",
        work: "from a vote's sending to its frame: 1,000 votes a second over 200 sessions".into(),
        rows: vec![row("same instance", here), row("other instance", there)],
        goals,
        settings: named(&settings),
    })
}

fn spec(instance: &Instance, overlays: Vec<Uuid>) -> Spec {
    Spec {
        address: instance.public,
        overlays,
        raw: false,
        connect_when_told: false,
        at_once: 64,
        warm_up_seconds: 2.0,
        seconds: 10.0,
        late_ms: TICK_MS,
        sleepless: false,
    }
}

/// One session with 8,000 overlays that changes at every tick, beside a loop that writes the same frames.
pub async fn fanout(dir: &Path) -> Result<Report> {
    const OVERLAYS: usize = 8_000;
    let stage = Stage::set(dir).await?;
    let streamers = stage.streamers(1).await?;
    let settings = many_overlays();
    let instance = stage.serve(&settings).await?;
    let overlays = vec![streamers[0].overlay_uuid; OVERLAYS];
    let spec = |late_ms| Spec { late_ms, sleepless: true, ..spec(&instance, overlays.clone()) };
    progress("the limit, 12 s");
    let (limit, limit_cpu) = raw_loop(OVERLAYS).await?;
    progress("8,000 overlays, a change at every tick, 12 s");
    let (full, cpu) = watched(&stage, &instance, spec(TICK_MS), 40.0).await?;
    progress("changes at half the limit's rate, 12 s");
    let changes = limit.frames as f64 / limit.seconds / 2.0 / OVERLAYS as f64;
    let conflated = "chatpulse_frames_total{outcome=\"conflated\"}";
    let before = instance.metric(conflated).await?;
    let (half, half_cpu) = watched(&stage, &instance, spec((1000.0 / changes) as u64), changes).await?;
    let skipped = instance.metric(conflated).await? - before;
    let memory = instance.resident();

    let rates = |label: &str, seen: &Seen, cpu: Duration| {
        Row::new(label)
            .with("frames a second", seen.frames as f64 / seen.seconds)
            .with("frames per CPU second", seen.frames as f64 / cpu.as_secs_f64())
    };
    let row = |label: &str, seen: &Seen, cpu: Duration| {
        rates(label, seen, cpu).with("spread p99 ms", seen.spread_p99_ms)
    };
    let share = (full.frames as f64 / cpu.as_secs_f64()) / (limit.frames as f64 / limit_cpu.as_secs_f64());
    Ok(Report {
        scenario: "fanout",
        work: "one session, 8,000 overlays, a change at every tick".into(),
        rows: vec![
            row("ChatPulse", &full, cpu).with("memory MB", memory as f64 / 1e6),
            row("at half the limit's rate", &half, half_cpu)
                .with("changes a second", changes)
                .with("after the next change", half.late as f64),
            // Its frames are all the same: none is late.
            rates("limit", &limit, limit_cpu),
        ],
        goals: vec![
            Goal::at_least("of the limit's frames per CPU second", share, 0.8),
            Goal::at_most("frames after the next change, at half the limit's rate", half.late as f64, 0.0),
            Goal::at_most("frames skipped there", skipped, 0.0),
        ],
        settings: named(&settings),
    })
}

/// Watches overlays while the first channel gets votes at a rate; answers what they saw and the server's CPU.
async fn watched(stage: &Stage, instance: &Instance, spec: Spec, votes: f64) -> Result<(Seen, Duration)> {
    let (warm_up, time) = (spec.warm_up_seconds, spec.seconds);
    let (mut worker, _) = Worker::start(Work::Sockets(spec)).await?;
    let load = requests::Spec {
        address: instance.public,
        secret: SECRET.into(),
        connections: 16,
        rate: Some(votes),
        warm_up_seconds: warm_up,
        seconds: time,
        first_channel: FIRST_CHANNEL,
        channels: 1,
        vote_share: 1.0,
        messages: ((warm_up + time) * votes) as usize + 1,
        again: false,
        viewers: None,
    };
    worker.go()?;
    let (_, usage) = measured(stage, instance, load).await?;
    Ok((worker.result().await?, usage.server))
}

/// What a loop that only writes can do with as many sockets.
async fn raw_loop(sockets: usize) -> Result<(Seen, Duration)> {
    let limit = FanoutSpec { sockets, text: FRAME.into(), every_ms: TICK_MS, seconds: 13.0 };
    let (mut limit, address) = Worker::start(Work::FanoutLimit(limit)).await?;
    let spec = Spec {
        address: address.parse()?,
        overlays: vec![Uuid::nil(); sockets],
        raw: true,
        connect_when_told: false,
        at_once: 64,
        warm_up_seconds: 2.0,
        seconds: 10.0,
        late_ms: TICK_MS,
        sleepless: true,
    };
    let (mut worker, _) = Worker::start(Work::Sockets(spec)).await?;
    limit.go()?;
    worker.go()?;
    tokio::time::sleep(seconds(2.0)).await;
    let before = process::cpu(limit.id());
    tokio::time::sleep(seconds(10.0)).await;
    let cpu = process::cpu(limit.id()).saturating_sub(before);
    Ok((worker.result().await?, cpu))
}

/// 8,000 overlays on as many sessions without votes.
pub async fn idle(dir: &Path) -> Result<Report> {
    const OVERLAYS: usize = 8_000;
    const SECONDS: f64 = 60.0;
    let stage = Stage::set(dir).await?;
    let streamers = stage.streamers(OVERLAYS).await?;
    let settings = many_overlays();
    let instance = stage.serve(&settings).await?;
    tokio::time::sleep(seconds(1.0)).await;
    let before = instance.resident();
    progress("opening 8,000 overlays of as many sessions");
    let overlays = streamers.iter().map(|streamer| streamer.overlay_uuid).collect();
    let watching = Spec { warm_up_seconds: 0.0, seconds: SECONDS + 10.0, ..spec(&instance, overlays) };
    let (mut worker, _) = Worker::start(Work::Sockets(watching)).await?;
    worker.go()?;
    // What opening them left to do is done.
    tokio::time::sleep(seconds(8.0)).await;
    progress("watching them for 60 s");
    let began = stage.usage(&instance);
    tokio::time::sleep(seconds(SECONDS)).await;
    let usage = stage.usage(&instance).since(began);
    let memory = instance.resident().saturating_sub(before) as f64 / OVERLAYS as f64 / 1000.0;
    let seen: Seen = worker.result().await?;
    let percent = |cpu: Duration| cpu.as_secs_f64() / SECONDS * 100.0;
    let row = Row::new("8,000 idle overlays")
        .with("server % of a core", percent(usage.server))
        .with("Redis % of a core", percent(usage.redis))
        .with("PostgreSQL % of a core", percent(usage.postgres))
        .with("KB an overlay", memory)
        .with("memory MB", instance.resident() as f64 / 1e6);
    Ok(Report {
        scenario: "idle",
        work: "8,000 overlays on 8,000 sessions without votes, 60 s".into(),
        rows: vec![row],
        goals: vec![
            Goal::at_most("overlays not connected, or closed", (seen.failed + seen.lost) as f64, 0.0),
            Goal::at_most("server % of a core", percent(usage.server), 2.0),
            Goal::at_most("Redis % of a core", percent(usage.redis), 1.0),
            Goal::at_most("KB an overlay with its session", memory, 20.0),
        ],
        settings: named(&settings),
    })
}

/// 4,000 overlays at once: half on one session that nobody has yet, half on as many others.
pub async fn cold_start(dir: &Path) -> Result<Report> {
    const EACH: usize = 2_000;
    let stage = Stage::set(dir).await?;
    let streamers = stage.streamers(EACH + 1).await?;
    let superuser = stage.superuser().await?;
    superuser.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await?;
    let settings = many_overlays();
    let instance = stage.serve(&settings).await?;
    let one = streamers[0].overlay_uuid;
    let overlays = streamers[1..].iter().flat_map(|other| [one, other.overlay_uuid]).collect();
    let spec = Spec {
        connect_when_told: true,
        at_once: 2 * EACH,
        warm_up_seconds: 0.0,
        seconds: 0.0,
        ..spec(&instance, overlays)
    };
    progress("opening 4,000 overlays");
    let (mut worker, _) = Worker::start(Work::Sockets(spec)).await?;
    let before = stage.usage(&instance);
    worker.go()?;
    let seen: Seen = worker.result().await?;
    let usage = stage.usage(&instance).since(before);
    // One of them serves all the overlays of the one session.
    let starts = instance.metric("chatpulse_cold_starts_total{source=\"postgres\"}").await?;
    let sql = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE query LIKE '%chatpulse.hold_overlays(%'";
    let statements: i64 = superuser.query_one(sql, &[]).await?.get(0);
    let row = Row::new("4,000 overlays at once")
        .with("connected", seen.connected as f64)
        .with("all after s", seen.connect_seconds)
        .with("p99 ms", seen.connect_p99_ms)
        .with("server CPU s", usage.server.as_secs_f64())
        .with("PostgreSQL CPU s", usage.postgres.as_secs_f64())
        .with("sessions asked for", starts)
        .with("in statements", statements as f64);
    Ok(Report {
        scenario: "cold-start",
        work: "4,000 overlays at once, half on one cold session, half on 2,000 others".into(),
        rows: vec![row],
        goals: vec![
            Goal::at_most("overlays not connected", seen.failed as f64, 0.0),
            Goal::at_most("all connected after s", seen.connect_seconds, 5.0),
            Goal::at_most("times the one session was asked for", starts - EACH as f64, 1.0),
        ],
        settings: named(&settings),
    })
}
