//! What is measured.

mod journal;
mod overlays;
mod sessions;
mod webhook;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Result;

use super::report::Report;

type Measuring = Pin<Box<dyn Future<Output = Result<Report>>>>;

/// One thing that can be measured alone.
pub struct Scenario {
    pub name: &'static str,
    pub measure: fn(PathBuf) -> Measuring,
}

macro_rules! scenario {
    ($name:literal, $measure:path) => {
        Scenario { name: $name, measure: |dir| Box::pin(async move { $measure(&dir).await }) }
    };
}

/// All of them, in the order in which they are run.
pub const SCENARIOS: &[Scenario] = &[
    scenario!("chat", webhook::chat),
    scenario!("votes", webhook::votes),
    scenario!("hot-channel", webhook::hot_channel),
    scenario!("latency", overlays::latency),
    scenario!("fanout", overlays::fanout),
    scenario!("idle", overlays::idle),
    scenario!("sessions", sessions::sessions),
    scenario!("cold-start", overlays::cold_start),
    scenario!("flush", sessions::flush),
    scenario!("journal", journal::journal),
    scenario!("rehydrate", journal::rehydrate),
    scenario!("cost", journal::cost),
];

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// The settings, as the report names them.
fn named(settings: &[(&str, String)]) -> Vec<String> {
    settings.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// Overlays of one address, since all of the load comes from one.
fn many_overlays() -> Vec<(&'static str, String)> {
    vec![("CHATPULSE_LIMITS__OVERLAYS_PER_IP_MAX", "20000".into())]
}
