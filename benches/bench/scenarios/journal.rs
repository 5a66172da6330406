//! What the journal can do and costs: appending beside PostgreSQL's fastest way of writing the same rows, reading
//! a long session's state, and bytes a vote.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chatpulse::domain::sentiment::Side;
use chatpulse::domain::time::Millis;
use chatpulse::domain::vote::NewVote;
use chatpulse::journal::Journal;
use deadpool_redis::redis::cmd;
use futures_util::SinkExt;
use serde_json::json;
use tokio_postgres::Client;
use uuid::Uuid;

use super::webhook::measured;
use crate::progress;
use crate::report::{Goal, Report, Row};
use crate::requests::Spec;
use crate::stage::{FIRST_CHANNEL, SECRET, Stage, Streamer};

const SESSIONS: usize = 100;
const SECONDS: f64 = 4.0;

/// Votes of new viewers, over sessions in turn.
struct Votes {
    sessions: Vec<Uuid>,
    next: usize,
}

impl Votes {
    fn batch(&mut self, size: usize, in_a_row: usize) -> Vec<NewVote> {
        let now = Millis(time::OffsetDateTime::now_utc().unix_timestamp_nanos() as i64 / 1_000_000);
        (0..size)
            .map(|_| {
                let session_id = self.sessions[self.next / in_a_row % self.sessions.len()];
                self.next += 1;
                NewVote {
                    session_id,
                    message_id: Uuid::new_v4().to_string(),
                    side: if self.next.is_multiple_of(3) { Side::Against } else { Side::For },
                    weight: 1.0,
                    t: now,
                    viewer: format!("{:016x}", rand::random::<u64>()),
                }
            })
            .collect()
    }
}

async fn live_sessions(stage: &Stage, count: usize) -> Result<(Vec<Streamer>, Vec<Uuid>)> {
    let streamers = stage.streamers(count).await?;
    stage.hold(&streamers).await?;
    let rows = stage.owner().await?.query("SELECT session_id FROM chatpulse.live_sessions", &[]).await?;
    Ok((streamers, rows.iter().map(|row| row.get(0)).collect()))
}

/// The append with batches of 1, 10 and 100 votes, and COPY of the same rows in as many transactions.
pub async fn journal(dir: &Path) -> Result<Report> {
    let stage = Stage::set(dir).await?;
    // Each has sessions of its own: COPY leaves their heads behind.
    let (_, mut sessions) = live_sessions(&stage, 2 * SESSIONS).await?;
    let mut copied = Copied::new(&stage, sessions.split_off(SESSIONS)).await?;
    let journal = stage.journal(1)?;
    let mut votes = Votes { sessions, next: 0 };
    let mut rows = Vec::new();
    let mut share = 0.0;
    for size in [1, 10, 100] {
        progress(&format!("batches of {size}, 8 s with the limit"));
        let ours = appends(&journal, &mut votes, size).await?;
        let limit = copied.run(size).await?;
        share = ours / limit;
        rows.push(Row::new(format!("batches of {size}")).with("votes a second", ours));
        rows.push(Row::new(format!("batches of {size}, COPY (limit)")).with("votes a second", limit));
    }
    Ok(Report {
        scenario: "journal",
        work: "the append over 100 sessions, one connection, batch after batch".into(),
        rows,
        goals: vec![Goal::at_least("of COPY's votes a second, at 100 a batch", share, 0.5)],
        settings: Vec::new(),
    })
}

async fn appends(journal: &Journal, votes: &mut Votes, size: usize) -> Result<f64> {
    let began = Instant::now();
    let mut appended = 0;
    while began.elapsed().as_secs_f64() < SECONDS {
        let answer = journal.append_votes(&votes.batch(size, 1), "bench").await?;
        appended += answer.appended.len();
    }
    Ok(appended as f64 / began.elapsed().as_secs_f64())
}

/// Writes the rows that an append of such a batch makes: message ids, and an event a session.
struct Copied {
    owner: Client,
    votes: Votes,
    /// Session → streamer and version.
    streams: HashMap<Uuid, (Uuid, i64)>,
}

impl Copied {
    async fn new(stage: &Stage, sessions: Vec<Uuid>) -> Result<Copied> {
        let owner = stage.owner().await?;
        let sql = "SELECT session_id, streamer_id, version FROM chatpulse.sessions";
        let rows = owner.query(sql, &[]).await?;
        let streams = rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
        Ok(Copied { owner, votes: Votes { sessions, next: 0 }, streams })
    }

    /// Copies batch after batch; answers votes a second.
    async fn run(&mut self, size: usize) -> Result<f64> {
        let began = Instant::now();
        let mut copied = 0;
        while began.elapsed().as_secs_f64() < SECONDS {
            let batch = self.votes.batch(size, 1);
            let (mut ids, mut events) = (String::new(), String::new());
            for vote in &batch {
                let (streamer_id, version) =
                    self.streams.get_mut(&vote.session_id).context("a session of this scenario")?;
                *version += 1;
                ids.push_str(&format!("{streamer_id}\t{}\t{}\n", vote.message_id, vote.session_id));
                events.push_str(&event(vote, *version));
            }
            copy(&mut self.owner, &ids, &events).await?;
            copied += batch.len();
        }
        Ok(copied as f64 / began.elapsed().as_secs_f64())
    }
}

/// An event as the append writes it, as a line for COPY.
fn event(vote: &NewVote, version: i64) -> String {
    let NewVote { session_id, message_id, viewer, t, .. } = vote;
    let data = json!({
        "at": t.0, "for": version, "against": version, "value": 12.345678901234567,
        "votes": [{ "m": message_id, "s": "for", "t": t.0, "v": viewer, "w": 1 }],
    });
    let metadata = json!({ "instance": Uuid::nil(), "correlation_id": "bench" });
    format!("{session_id}\t{version}\tVotesCast\t1\t{data}\t{metadata}\n")
}

async fn copy(owner: &mut Client, ids: &str, events: &str) -> Result<()> {
    let transaction = owner.transaction().await?;
    for (sql, rows) in [
        ("COPY chatpulse.vote_ids (streamer_id, message_id, session_id) FROM STDIN", ids),
        (
            "COPY chatpulse.session_events (session_id, version, type, schema_version, data, metadata) FROM STDIN",
            events,
        ),
    ] {
        let mut sink = Box::pin(transaction.copy_in(sql).await?);
        sink.send(bytes(rows)).await?;
        sink.as_mut().finish().await?;
    }
    Ok(transaction.commit().await?)
}

fn bytes(text: &str) -> actix_web::web::Bytes {
    actix_web::web::Bytes::copy_from_slice(text.as_bytes())
}

/// A million votes in one session, and reading its state from nothing.
pub async fn rehydrate(dir: &Path) -> Result<Report> {
    const VOTES: usize = 1_000_000;
    let stage = Stage::set(dir).await?;
    let (streamers, sessions) = live_sessions(&stage, 2).await?;
    let (long, short) = (sessions[0], sessions[1]);
    let journal = stage.journal(1)?;
    journal.append_votes(&Votes { sessions: vec![short], next: 0 }.batch(1, 1), "bench").await?;
    progress("journaling a million votes of one session");
    let mut votes = Votes { sessions: vec![long], next: 0 };
    for _ in 0..VOTES / 1_000 {
        journal.append_votes(&votes.batch(1_000, 1), "bench").await?;
    }
    let mut times = Vec::new();
    for session_id in [short, long] {
        let sql = "SELECT streamer_id FROM chatpulse.sessions WHERE session_id = $1";
        let streamer_id: Uuid = stage.owner().await?.query_one(sql, &[&session_id]).await?.get(0);
        assert!(streamers.iter().any(|streamer| streamer.id == streamer_id));
        times.push(reading(&journal, streamer_id).await?);
    }
    let row = |label: &str, (p50, p99): (f64, f64)| Row::new(label).with("p50 ms", p50).with("p99 ms", p99);
    Ok(Report {
        scenario: "rehydrate",
        work: "reading a session's state from the journal, 500 times".into(),
        rows: vec![row("1 vote", times[0]), row("1,000,000 votes", times[1])],
        goals: vec![
            Goal::at_most("p99 ms with a million votes", times[1].1, 20.0),
            Goal::at_most(
                "p50 with a million votes, as multiple of that with one",
                times[1].0 / times[0].0,
                1.5,
            ),
        ],
        settings: Vec::new(),
    })
}

/// The median and the 99th of a hundred, in milliseconds.
async fn reading(journal: &Journal, streamer_id: Uuid) -> Result<(f64, f64)> {
    let mut times = Vec::new();
    for _ in 0..500 {
        let began = Instant::now();
        let entries = journal.entries(&[streamer_id]).await?;
        anyhow::ensure!(entries.iter().any(|entry| entry.live.is_some()), "the session is live");
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], times[times.len() * 99 / 100]))
}

/// What a million votes take on disk, ten of a session at a time, and what sessions with votes take in Redis.
pub async fn cost(dir: &Path) -> Result<Report> {
    const VOTES: usize = 1_000_000;
    let stage = Stage::set(dir).await?;
    let (_, sessions) = live_sessions(&stage, SESSIONS).await?;
    let owner = stage.owner().await?;
    owner.batch_execute("VACUUM FULL").await?;
    let before = size(&owner).await?;
    progress("journaling a million votes, ten of a session at a time");
    let journal = stage.journal(1)?;
    let mut votes = Votes { sessions, next: 0 };
    for _ in 0..VOTES / 1_000 {
        journal.append_votes(&votes.batch(1_000, 10), "bench").await?;
    }
    let sql = "SELECT relname, pg_total_relation_size(oid) FROM pg_class
               WHERE relnamespace = 'chatpulse'::regnamespace AND relkind = 'r' ORDER BY 2 DESC LIMIT 3";
    let mut row =
        Row::new("PostgreSQL").with("bytes a vote", (size(&owner).await? - before) as f64 / VOTES as f64);
    for table in owner.query(sql, &[]).await? {
        let (name, bytes): (String, i64) = (table.get(0), table.get(1));
        let heading = if name.starts_with("vote_ids") { "of it message ids" } else { "of it events" };
        if name.starts_with("vote_ids") || name.starts_with("session_events") {
            row = row.with(heading, bytes as f64 / VOTES as f64);
        }
    }
    let bytes = row.figures[0].value;
    let redis = in_redis(&stage).await?;
    Ok(Report {
        scenario: "cost",
        work: "1,000,000 votes of 100 sessions, ten of a session in a batch".into(),
        rows: vec![row, redis],
        goals: vec![Goal::at_most("bytes a vote in PostgreSQL", bytes, 400.0)],
        settings: Vec::new(),
    })
}

async fn size(owner: &Client) -> Result<i64> {
    let sql = "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
               WHERE relnamespace = 'chatpulse'::regnamespace AND relkind = 'r'";
    Ok(owner.query_one(sql, &[]).await?.get(0))
}

/// What Redis keeps: nothing for a vote but for a second, and a state for each session with votes.
async fn in_redis(stage: &Stage) -> Result<Row> {
    let instance = stage.serve(&[]).await?;
    let before = memory(stage).await?;
    let load = Spec {
        address: instance.public,
        secret: SECRET.into(),
        connections: 64,
        rate: Some(1_000.0),
        warm_up_seconds: 0.0,
        seconds: 5.0,
        first_channel: FIRST_CHANNEL,
        channels: SESSIONS as u64,
        vote_share: 1.0,
        messages: 5_001,
        again: false,
        viewers: None,
    };
    let (answers, _) = measured(stage, &instance, load).await?;
    // The debounce's keys live for a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = memory(stage).await?;
    let kept = after.saturating_sub(before) as f64;
    Ok(Row::new("Redis, a moment after 5,000 votes")
        .with("bytes a vote", kept / answers.answered.max(1) as f64)
        .with("bytes a session", kept / SESSIONS as f64))
}

async fn memory(stage: &Stage) -> Result<u64> {
    let info: String = stage.redis(cmd("INFO").arg("memory")).await?;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory_dataset:"));
    Ok(used.and_then(|used| used.trim().parse().ok()).unwrap_or_default())
}
