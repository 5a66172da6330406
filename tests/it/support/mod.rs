//! What the tests share.

pub mod admin;
pub mod balancer;
pub mod browser;
pub mod cluster;
pub mod database;
pub mod instance;
pub mod load;
pub mod overlay;
pub mod own_servers;
pub mod platform;
pub mod ports;
pub mod proxy;
pub mod redis_servers;
pub mod servers;
pub mod twitch;
pub mod watcher;

use std::time::{Duration, Instant};

/// Far more than anything takes: a test that awaits a condition fails then.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `holds` answers true.
pub async fn eventually(what: &str, holds: impl AsyncFnMut() -> bool) {
    within(PATIENCE, what, holds).await;
}

/// What a promised time is on this machine just now: longer by as much as it has more to do than two
/// programs for each of its processor cores. As promised where that is not known.
pub fn stretched(promised: Duration) -> Duration {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    promised.mul_f64((load / (2 * cores) as f64).max(1.0))
}

/// Waits until `holds` answers true, which is promised to come within this time.
pub async fn within(promised: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < stretched(promised), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
