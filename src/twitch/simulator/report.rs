//! What became of a simulation: counts and latencies.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::plan::{Planned, Turn};
use crate::domain::sentiment::Side;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With this HTTP status.
    Answered(u16),
    /// No connection could be made.
    NotConnected,
    /// No answer in time.
    TimedOut,
    /// The connection broke, or the answer was no HTTP.
    Broken,
}

/// Counts as they grow. Latencies run from when a message was due to its whole answer, so time spent
/// waiting for a free connection counts.
pub struct Tally {
    sent: u64,
    again: u64,
    late: u64,
    votes_for: u64,
    votes_against: u64,
    not_sent: u64,
    answered: BTreeMap<u16, u64>,
    failures: BTreeMap<&'static str, u64>,
    /// Microseconds; `None` if the crate ever refused its constant bounds.
    latency: Option<Histogram<u64>>,
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            sent: 0,
            again: 0,
            late: 0,
            votes_for: 0,
            votes_against: 0,
            not_sent: 0,
            answered: BTreeMap::new(),
            failures: BTreeMap::new(),
            latency: Histogram::new_with_bounds(1, 3_600_000_000, 3).ok(),
        }
    }
}

impl Tally {
    /// A notification went out.
    pub fn sent(&mut self, planned: &Planned) {
        self.sent += 1;
        self.again += u64::from(planned.turn == Turn::Again);
        self.late += u64::from(planned.turn == Turn::Late);
        if planned.turn != Turn::Again {
            self.votes_for += u64::from(planned.notification.vote == Some(Side::For));
            self.votes_against += u64::from(planned.notification.vote == Some(Side::Against));
        }
    }

    /// A notification was due while too many others waited.
    pub fn not_sent(&mut self) {
        self.not_sent += 1;
    }

    /// A request ended, so long after it was due.
    pub fn ended(&mut self, outcome: Outcome, latency: Duration) {
        let failure = match outcome {
            Outcome::Answered(status) => {
                *self.answered.entry(status).or_default() += 1;
                let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                if let Some(histogram) = &mut self.latency {
                    histogram.saturating_record(micros);
                }
                return;
            }
            Outcome::NotConnected => "not_connected",
            Outcome::TimedOut => "timed_out",
            Outcome::Broken => "broken",
        };
        *self.failures.entry(failure).or_default() += 1;
    }

    /// What can be said after `elapsed`.
    pub fn report(&self, elapsed: Duration) -> Report {
        let seconds = elapsed.as_secs_f64();
        Report {
            seconds,
            sent: self.sent,
            sent_per_second: if seconds > 0.0 { self.sent as f64 / seconds } else { 0.0 },
            votes_for: self.votes_for,
            votes_against: self.votes_against,
            duplicates: self.again,
            late: self.late,
            not_sent: self.not_sent,
            answered: self.answered.clone(),
            failed: self.failures.values().sum(),
            failures: self.failures.clone(),
            latency_ms: self.latency.as_ref().map(Latency::of).unwrap_or_default(),
        }
    }
}

/// The result of a simulation, or how far it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// How long it ran, with the wait for the last answers.
    pub seconds: f64,
    /// Requests sent, duplicates among them.
    pub sent: u64,
    pub sent_per_second: f64,
    /// Votes for among what was sent, duplicates not counted.
    pub votes_for: u64,
    /// Votes against among what was sent, duplicates not counted.
    pub votes_against: u64,
    /// Requests that repeated an earlier one.
    pub duplicates: u64,
    /// New messages sent after newer ones.
    pub late: u64,
    /// Messages left out, because too many were still unanswered.
    pub not_sent: u64,
    /// Requests answered, by HTTP status.
    pub answered: BTreeMap<u16, u64>,
    /// Requests that got no answer.
    pub failed: u64,
    /// Those, by reason.
    pub failures: BTreeMap<&'static str, u64>,
    /// Milliseconds from when a message was due to its answer.
    pub latency_ms: Latency,
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Latency { p50: ms(0.5), p90: ms(0.9), p99: ms(0.99), p99_9: ms(0.999), max: ms(1.0) }
    }
}

impl Report {
    /// Whether everything was sent and answered with a 2xx status.
    pub fn is_all_accepted(&self) -> bool {
        self.not_sent == 0
            && self.failed == 0
            && self.answered.keys().all(|status| (200..300).contains(status))
    }

    /// One JSON object, or lines for people.
    pub fn render(&self, json: bool) -> String {
        // Numbers under string keys always serialise.
        if json { serde_json::to_string(self).unwrap_or_default() } else { self.to_string() }
    }

    /// One short line: how far it is.
    pub fn progress(&self) -> String {
        format!(
            "{:.0} s: {} sent, {}, {} failed, {} not sent, p50 {:.1} ms, p99 {:.1} ms",
            self.seconds,
            self.sent,
            self.answers(),
            self.failed,
            self.not_sent,
            self.latency_ms.p50,
            self.latency_ms.p99,
        )
    }

    fn answers(&self) -> String {
        let by_status: Vec<String> =
            self.answered.iter().map(|(status, count)| format!("{count} × {status}")).collect();
        if by_status.is_empty() { "no answer".into() } else { by_status.join(", ") }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons: Vec<String> = self
            .failures
            .iter()
            .map(|(reason, count)| format!("{count} {}", reason.replace('_', " ")))
            .collect();
        let latency = &self.latency_ms;
        writeln!(
            formatter,
            "sent      {} in {:.1} s, {:.1}/s",
            self.sent, self.seconds, self.sent_per_second
        )?;
        writeln!(
            formatter,
            "          {} votes for, {} against, {} duplicates, {} late",
            self.votes_for, self.votes_against, self.duplicates, self.late
        )?;
        writeln!(formatter, "answered  {}", self.answers())?;
        writeln!(formatter, "failed    {} {}", self.failed, reasons.join(", "))?;
        writeln!(formatter, "not sent  {}", self.not_sent)?;
        write!(
            formatter,
            "latency   p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
            latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max
        )
    }
}
