//! What the tests share.

pub mod admin;
pub mod browser;
pub mod database;
pub mod instance;
pub mod overlay;
pub mod servers;
pub mod twitch;

use std::time::{Duration, Instant};

/// Far more than anything takes: a test that awaits a condition fails then.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `holds` answers true.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
