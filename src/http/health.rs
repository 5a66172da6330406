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
    /// Whether votes could wait there while PostgreSQL is away.
    queue: Dependency,
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
    let services = &state.services;
    let asked = tokio::time::timeout(ANSWER_MAX, services.vote_journal.ping()).await;
    let postgres = matches!(asked, Ok(Ok(()))) && services.is_journaling();
    let queue = services.spill.as_deref().is_some_and(|spill| spill.is_durable());
    let redis = services.hot.is_up();
    let verdict = verdict(&Parts {
        stopping: state.draining.load(Ordering::Acquire),
        working: state.supervisor.connected() && services.is_whole(),
        postgres,
        queue,
        redis,
        mirroring: services.mirroring(),
    });
    let unavailable = verdict.status == "unavailable";
    let mut answer = if unavailable { HttpResponse::ServiceUnavailable() } else { HttpResponse::Ok() };
    answer.insert_header((CACHE_CONTROL, "no-store")).json(Readiness {
        status: verdict.status,
        dependencies: Dependencies {
            postgres: Dependency::of(postgres),
            redis: Dependency::of(redis),
            queue: Dependency::of(queue),
        },
        reason: verdict.reason,
    })
}

/// What an instance's readiness depends on.
struct Parts {
    stopping: bool,
    working: bool,
    postgres: bool,
    /// Whether votes can be kept in the queue.
    queue: bool,
    redis: bool,
    /// Whether Redis takes sessions' states.
    mirroring: bool,
}

struct Verdict {
    status: &'static str,
    reason: Option<&'static str>,
}

/// The gravest reason wins.
fn verdict(parts: &Parts) -> Verdict {
    let (status, reason) = if parts.stopping {
        ("unavailable", "this instance is stopping")
    } else if !parts.working {
        ("unavailable", "a part of this instance has failed; restart it")
    } else if !parts.postgres && !parts.queue {
        ("unavailable", "PostgreSQL is away, and there is no durable queue: votes can't be made durable")
    } else if !parts.postgres {
        ("degraded", "PostgreSQL is away: votes are kept in the queue, new sessions can't be started")
    } else if !parts.redis {
        ("degraded", "Redis is away: votes go on without it")
    } else if !parts.mirroring {
        ("degraded", "Redis refuses to store sessions: votes go on without it")
    } else {
        return Verdict { status: "ready", reason: None };
    };
    Verdict { status, reason: Some(reason) }
}

/// `GET /metrics`: for Prometheus.
///
/// # Errors
/// [`Problem`] 500 when a metric can't be written.
pub async fn metrics(state: Data<State>) -> Result<HttpResponse, Problem> {
    let text = state.services.metrics.render().map_err(Problem::internal)?;
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, prometheus::TEXT_FORMAT)).body(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Parts =
        Parts { stopping: false, working: true, postgres: true, queue: true, redis: true, mirroring: true };

    #[test]
    fn an_instance_is_ready_without_a_queue_as_long_as_the_journal_is_there() {
        assert_eq!(verdict(&WELL).status, "ready");
        assert_eq!(verdict(&Parts { queue: false, ..WELL }).status, "ready");
    }

    #[test]
    fn a_part_that_others_stand_in_for_degrades() {
        for parts in [
            Parts { postgres: false, ..WELL },
            Parts { redis: false, ..WELL },
            Parts { mirroring: false, ..WELL },
        ] {
            assert_eq!(verdict(&parts).status, "degraded");
            assert!(verdict(&parts).reason.is_some());
        }
    }

    #[test]
    fn without_journal_and_queue_or_when_it_stops_an_instance_is_unavailable() {
        for parts in [
            Parts { postgres: false, queue: false, ..WELL },
            Parts { stopping: true, ..WELL },
            Parts { working: false, ..WELL },
        ] {
            assert_eq!(verdict(&parts).status, "unavailable");
        }
    }
}
