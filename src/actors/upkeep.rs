//! What an instance does now and then: it says that it runs, and looks whether Redis is there.

use std::time::Instant;

use super::services::Services;

/// Says that this instance is running, which also tells PostgreSQL's time.
pub async fn renew_lease(services: &Services) {
    let asked = Instant::now();
    match services.vote_journal.renew_lease(services.options.lease).await {
        Ok(now) => {
            services.metrics.dependency_up.with_label_values(&["postgres"]).set(1);
            services.clock.sample(now, asked);
        }
        Err(error) => {
            services.metrics.dependency_up.with_label_values(&["postgres"]).set(0);
            tracing::debug!(%error, "the lease can't be renewed");
        }
    }
}

/// Looks whether Redis is there; the one way back after it was away.
pub async fn probe(services: &Services) {
    let was_up = services.hot.is_up();
    let answer = services.hot.probe().await;
    services.metrics.dependency_up.with_label_values(&["redis"]).set(i64::from(answer.is_ok()));
    match answer {
        Err(error) if was_up => tracing::warn!(%error, "Redis is away; votes go on without it"),
        Ok(()) if !was_up => tracing::info!("Redis is back"),
        Ok(()) | Err(_) => {}
    }
}
