//! The one list of metrics. Base units, no ids as labels; handles are resolved once, here.

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// From a tenth of a millisecond to five seconds.
const SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Numbers of things in a batch.
const SIZES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

/// What became of votes.
#[derive(Clone, Debug)]
pub struct Votes {
    pub accepted: IntCounter,
    pub debounced: IntCounter,
    pub duplicate: IntCounter,
    pub ignored: IntCounter,
    /// Taken back after they had counted.
    pub retracted: IntCounter,
    pub late: IntCounter,
    pub queued: IntCounter,
    pub unavailable: IntCounter,
}

impl Votes {
    fn new(maker: &Maker) -> Result<Votes, prometheus::Error> {
        let votes = maker.counters("votes_total", "Votes by what became of them.", "result")?;
        Ok(Votes {
            accepted: votes.with_label_values(&["accepted"]),
            debounced: votes.with_label_values(&["debounced"]),
            duplicate: votes.with_label_values(&["duplicate"]),
            ignored: votes.with_label_values(&["ignored"]),
            late: votes.with_label_values(&["late"]),
            retracted: votes.with_label_values(&["retracted"]),
            queued: votes.with_label_values(&["queued"]),
            unavailable: votes.with_label_values(&["unavailable"]),
        })
    }
}

/// How webhook requests were answered.
#[derive(Clone, Debug)]
pub struct Webhooks {
    pub vote: IntCounter,
    pub no_vote: IntCounter,
    pub no_session: IntCounter,
    pub challenge: IntCounter,
    pub revocation: IntCounter,
    /// Other notifications that were asked for.
    pub event: IntCounter,
    pub command: IntCounter,
    pub unknown: IntCounter,
    pub malformed: IntCounter,
    pub missing_header: IntCounter,
    pub forbidden: IntCounter,
    pub too_large: IntCounter,
    pub too_slow: IntCounter,
    pub unavailable: IntCounter,
}

impl Webhooks {
    fn new(maker: &Maker) -> Result<Webhooks, prometheus::Error> {
        let webhooks = maker.counters("webhook_requests_total", "Webhook requests by outcome.", "outcome")?;
        Ok(Webhooks {
            vote: webhooks.with_label_values(&["vote"]),
            no_vote: webhooks.with_label_values(&["no_vote"]),
            no_session: webhooks.with_label_values(&["no_session"]),
            challenge: webhooks.with_label_values(&["challenge"]),
            revocation: webhooks.with_label_values(&["revocation"]),
            command: webhooks.with_label_values(&["command"]),
            event: webhooks.with_label_values(&["event"]),
            unknown: webhooks.with_label_values(&["unknown"]),
            malformed: webhooks.with_label_values(&["malformed"]),
            missing_header: webhooks.with_label_values(&["missing_header"]),
            forbidden: webhooks.with_label_values(&["forbidden"]),
            too_large: webhooks.with_label_values(&["too_large"]),
            too_slow: webhooks.with_label_values(&["too_slow"]),
            unavailable: webhooks.with_label_values(&["unavailable"]),
        })
    }
}

/// What was found wrong and set right.
#[derive(Clone, Debug)]
pub struct Repairs {
    pub orphans_ended: IntCounter,
    pub actor_restarts: IntCounter,
    pub config_desync: IntCounter,
    pub sessions_restored: IntCounter,
}

impl Repairs {
    fn new(maker: &Maker) -> Result<Repairs, prometheus::Error> {
        Ok(Repairs {
            orphans_ended: maker.counter(
                "orphans_ended_total",
                "Sessions that this instance ended because nobody held them.",
            )?,
            actor_restarts: maker.counter("actor_restarts_total", "Actors that died and were rebuilt.")?,
            config_desync: maker.counter(
                "config_desync_total",
                "Times that a cache disagreed with PostgreSQL and was corrected.",
            )?,
            sessions_restored: maker.counter(
                "sessions_restored_total",
                "Sessions of which it was looked in PostgreSQL whether they had moved unseen.",
            )?,
        })
    }
}

/// Votes that wait for the journal in the durable queue.
#[derive(Clone, Debug)]
pub struct Queue {
    pub entries: IntGauge,
    pub drained: IntCounter,
    pub dead_letters: IntGauge,
}

impl Queue {
    fn new(maker: &Maker) -> Result<Queue, prometheus::Error> {
        Ok(Queue {
            entries: maker.gauge("spill_entries", "Votes in the queue that wait for the journal.")?,
            drained: maker.counter("spill_drained_total", "Votes journaled out of the queue.")?,
            dead_letters: maker
                .gauge("dead_letters", "Entries of queues that PostgreSQL refused for good.")?,
        })
    }
}

/// What is asked of Twitch, and said there.
#[derive(Clone, Debug)]
pub struct Twitch {
    pub subscriptions: IntGaugeVec,
    pub requests: IntCounterVec,
    pub replies: IntCounterVec,
    pub chats: IntGaugeVec,
}

impl Twitch {
    fn new(maker: &Maker) -> Result<Twitch, prometheus::Error> {
        Ok(Twitch {
            subscriptions: maker.gauges(
                "eventsub_subscriptions",
                "Subscriptions at Twitch by status, on the instance that looks after them.",
                "status",
            )?,
            requests: maker.counters("twitch_requests_total", "Calls of Twitch by outcome.", "outcome")?,
            replies: maker.counters("replies_total", "Answers in chat by outcome.", "outcome")?,
            chats: maker.gauges(
                "chats_in_trouble",
                "Chats that are silent, blocked or unauthorized, on the instance that looks after subscriptions.",
                "health",
            )?,
        })
    }
}

/// Every metric of the program.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    pub votes: Votes,
    pub webhooks: Webhooks,
    pub webhook_duration_seconds: Histogram,
    pub vote_to_frame_seconds: Histogram,
    pub sessions_held: IntGauge,
    pub sessions_unheld: IntGauge,
    pub overlays: IntGauge,
    pub overlay_closes: IntCounterVec,
    pub frames_sent: IntCounter,
    pub frames_conflated: IntCounter,
    pub tick_duration_seconds: Histogram,
    pub tick_changes: Histogram,
    pub cold_starts_postgres: IntCounter,
    pub cold_starts_joined: IntCounter,
    pub holds: IntGauge,
    pub repairs: Repairs,
    pub queue: Queue,
    pub journal_lag_events: IntGauge,
    pub redis_memory_bytes: IntGauge,
    pub postgres_query_seconds: Histogram,
    pub journal_commit_seconds: Histogram,
    pub journal_batch_events: Histogram,
    pub redis_command_seconds: Histogram,
    pub live_broadcasters: IntGauge,
    pub dependency_up: IntGaugeVec,
    pub twitch: Twitch,
    pub started_at_seconds: Gauge,
}

impl Metrics {
    /// All metrics, at zero, in a registry of their own.
    ///
    /// # Errors
    /// [`prometheus::Error`] when two metrics have one name, which a test rules out.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let maker = Maker { registry: Registry::new_custom(Some("chatpulse".into()), None)? };
        let frames = maker.counters("frames_total", "Frames for overlays by outcome.", "outcome")?;
        let cold_starts = maker.counters("cold_starts_total", "Sessions made ready, by source.", "source")?;
        let sessions = maker.gauges("sessions", "Session actors on this instance by state.", "state")?;
        // Known from the start, so that a rate over it is right from the first one on.
        cold_starts.with_label_values(&["redis"]);
        Ok(Metrics {
            votes: Votes::new(&maker)?,
            webhooks: Webhooks::new(&maker)?,
            webhook_duration_seconds: maker.histogram(
                "webhook_duration_seconds",
                "From a webhook request's head to its answer.",
                SECONDS,
            )?,
            vote_to_frame_seconds: maker.histogram(
                "vote_to_frame_seconds",
                "From a vote's arrival to the frame that shows it.",
                SECONDS,
            )?,
            sessions_held: sessions.with_label_values(&["held"]),
            sessions_unheld: sessions.with_label_values(&["unheld"]),
            overlays: maker.gauge("overlays", "Overlay sockets that are open.")?,
            overlay_closes: maker.counters(
                "overlay_closes_total",
                "Overlay sockets closed, by code.",
                "code",
            )?,
            frames_sent: frames.with_label_values(&["sent"]),
            frames_conflated: frames.with_label_values(&["conflated"]),
            tick_duration_seconds: maker.histogram(
                "tick_duration_seconds",
                "Work done in a tick.",
                SECONDS,
            )?,
            tick_changes: maker.histogram("tick_changes", "Sessions that a tick had to do with.", SIZES)?,
            cold_starts_postgres: cold_starts.with_label_values(&["postgres"]),
            cold_starts_joined: cold_starts.with_label_values(&["joined"]),
            holds: maker.gauge("holds", "Sessions that this instance holds.")?,
            repairs: Repairs::new(&maker)?,
            queue: Queue::new(&maker)?,
            journal_lag_events: maker
                .gauge("journal_lag_events", "Votes on this instance that wait for the journal.")?,
            redis_memory_bytes: maker.gauge("redis_memory_bytes", "Memory that Redis uses.")?,
            postgres_query_seconds: maker.histogram(
                "postgres_query_seconds",
                "Round trips to PostgreSQL.",
                SECONDS,
            )?,
            journal_commit_seconds: maker.histogram(
                "journal_commit_seconds",
                "Appending one batch of votes.",
                SECONDS,
            )?,
            journal_batch_events: maker.histogram("journal_batch_events", "Votes in one batch.", SIZES)?,
            redis_command_seconds: maker.histogram("redis_command_seconds", "Redis round trips.", SECONDS)?,
            live_broadcasters: maker.gauge("live_broadcasters", "Live sessions that the directory knows.")?,
            dependency_up: maker.gauges("dependency_up", "Whether a dependency answers: 1 or 0.", "name")?,
            twitch: Twitch::new(&maker)?,
            started_at_seconds: maker
                .float_gauge("started_at_seconds", "When this process began, Unix time.")?,
            registry: maker.registry,
        })
    }

    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    /// [`prometheus::Error`] when a metric can't be written.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

struct Maker {
    registry: Registry,
}

impl Maker {
    fn counters(&self, name: &str, help: &str, label: &str) -> Result<IntCounterVec, prometheus::Error> {
        let metric = IntCounterVec::new(Opts::new(name, help), &[label])?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        let metric = IntCounter::with_opts(Opts::new(name, help))?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> Result<IntGaugeVec, prometheus::Error> {
        let metric = IntGaugeVec::new(Opts::new(name, help), &[label])?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        let metric = IntGauge::with_opts(Opts::new(name, help))?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn float_gauge(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        let metric = Gauge::with_opts(Opts::new(name, help))?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
        let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_registers_once_and_renders_under_the_products_prefix() {
        let metrics = Metrics::new().unwrap();
        metrics.votes.accepted.inc();
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        assert!(text.contains("chatpulse_votes_total{result=\"accepted\"} 1"), "{text}");
        assert!(text.contains("chatpulse_cold_starts_total{source=\"redis\"} 0"), "{text}");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        assert!(samples.clone().count() > 20 && samples.clone().all(|line| line.starts_with("chatpulse_")));
    }
}
