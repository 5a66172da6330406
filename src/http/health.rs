//! `/health/*` on both listeners and `/metrics` on the ops listener.

use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::Data;
use actix_web::{HttpResponse, Responder};
use serde::Serialize;

use super::problem::Problem;
use super::state::State;

/// A dependency that does not answer in this time counts as away.
const ANSWER_MAX: Duration = Duration::from_millis(500);

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    dependencies: Dependencies,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Dependencies {
    postgres: Dependency,
    redis: Dependency,
}

#[derive(Serialize)]
struct Dependency {
    status: &'static str,
}

impl Dependency {
    fn of(up: bool) -> Dependency {
        Dependency { status: if up { "up" } else { "down" } }
    }
}

/// `GET /health/live`: this process runs.
pub async fn live() -> impl Responder {
    HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-store"))
        .json(serde_json::json!({ "status": "live" }))
}

/// `GET /health/ready`: whether this instance can take requests, and how its dependencies are.
pub async fn ready(state: Data<State>) -> impl Responder {
    let postgres = tokio::time::timeout(ANSWER_MAX, state.services.vote_journal.ping()).await;
    let postgres = matches!(postgres, Ok(Ok(())));
    let redis = state.services.hot.is_up();
    let working = state.supervisor.connected() && state.services.committing();
    let draining = state.draining.load(Ordering::Acquire);
    let (status, reason) = match (draining, postgres, redis) {
        (true, _, _) => ("unavailable", Some("this instance is stopping")),
        _ if !working => ("unavailable", Some("a part of this instance has failed; restart it")),
        (_, false, _) => ("unavailable", Some("PostgreSQL is away: votes can't be made durable")),
        (_, _, true) if !state.services.mirroring() => {
            ("degraded", Some("Redis refuses to store sessions: votes go on without it"))
        }
        (_, _, false) => ("degraded", Some("Redis is away: votes go on without it")),
        _ => ("ready", None),
    };
    let mut answer =
        if status == "unavailable" { HttpResponse::ServiceUnavailable() } else { HttpResponse::Ok() };
    answer.insert_header((CACHE_CONTROL, "no-store")).json(Readiness {
        status,
        dependencies: Dependencies { postgres: Dependency::of(postgres), redis: Dependency::of(redis) },
        reason,
    })
}

/// `GET /metrics`: for Prometheus.
///
/// # Errors
/// [`Problem`] 500 when a metric can't be written.
pub async fn metrics(state: Data<State>) -> Result<HttpResponse, Problem> {
    let text = state.services.metrics.render().map_err(Problem::internal)?;
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, prometheus::TEXT_FORMAT)).body(text))
}
