//! What is started again when it fails.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::services::Services;

/// So many restarts within [`RESTARTS_WITHIN`] are allowed; then it is left alone for as long.
const RESTARTS_MAX: usize = 5;
const RESTARTS_WITHIN: Duration = Duration::from_secs(60);

/// When something was started again lately.
#[derive(Debug, Default)]
pub(super) struct Restarts(VecDeque<Instant>);

impl Restarts {
    /// Whether another restart is allowed now; notes it if so.
    pub(super) fn allow(&mut self) -> bool {
        self.forget();
        let allowed = self.0.len() < RESTARTS_MAX;
        if allowed {
            self.0.push_back(Instant::now());
        }
        allowed
    }

    /// Whether no restart was noted lately.
    pub(super) fn is_empty(&mut self) -> bool {
        self.forget();
        self.0.is_empty()
    }

    fn forget(&mut self) {
        while self.0.front().is_some_and(|restart| restart.elapsed() >= RESTARTS_WITHIN) {
            self.0.pop_front();
        }
    }
}

/// Runs a task to its end, and again when it fails. What fails all the time rests for a while between,
/// and the instance counts as broken meanwhile.
pub(super) async fn keep_running<F: Future<Output = ()> + 'static>(
    name: &'static str,
    services: &Services,
    mut task: impl FnMut() -> F,
) {
    let mut restarts = Restarts::default();
    while let Err(error) = actix::spawn(task()).await {
        if error.is_cancelled() {
            return;
        }
        if restarts.allow() {
            tracing::error!(%error, name, "failed and was started again");
        } else {
            tracing::error!(%error, name, "failed too often and rests for a while");
            services.standing.note_resting(true);
            tokio::time::sleep(RESTARTS_WITHIN).await;
            services.standing.note_resting(false);
        }
        services.metrics.repairs.actor_restarts.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn restarts_have_a_bound_within_a_time() {
        let mut restarts = Restarts::default();
        assert!(restarts.is_empty());
        assert!((0..RESTARTS_MAX).all(|_| restarts.allow()));
        assert!(!restarts.allow());
        tokio::time::advance(RESTARTS_WITHIN).await;
        assert!(restarts.is_empty() && restarts.allow());
    }
}
