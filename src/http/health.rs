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
    reason: Option<String>,
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
    let standing = &services.standing;
    let asked = tokio::time::timeout(ANSWER_MAX, services.vote_journal.ping()).await;
    let postgres = matches!(asked, Ok(Ok(()))) && standing.is_journaling();
    let queue = services.spill.as_deref().is_some_and(|spill| spill.is_durable());
    let redis = services.hot.is_up();
    let verdict = verdict(&Parts {
        stopping: state.draining.load(Ordering::Acquire),
        working: state.supervisor.connected() && standing.is_whole(),
        postgres,
        queue,
        redis_away: (!redis).then(|| standing.redis_away().unwrap_or_else(|| "it fails".into())),
        mirror_refused: standing.mirror_refused(),
        // A server that is slow for a moment still takes votes.
        queue_away: standing.queue_away().filter(|_| !queue),
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
#[derive(Clone)]
struct Parts {
    stopping: bool,
    working: bool,
    postgres: bool,
    /// Whether votes can be kept in the queue.
    queue: bool,
    /// Why Redis is away, if it is.
    redis_away: Option<String>,
    /// Why Redis takes no states of sessions, if it doesn't.
    mirror_refused: Option<String>,
    /// Why the queue's Redis is away, if it is.
    queue_away: Option<String>,
}

struct Verdict {
    status: &'static str,
    reason: Option<String>,
}

/// The gravest reason wins.
fn verdict(parts: &Parts) -> Verdict {
    let (status, reason) = if parts.stopping {
        ("unavailable", "this instance is stopping".into())
    } else if !parts.working {
        ("unavailable", "a part of this instance has failed; restart it".into())
    } else if !parts.postgres && !parts.queue {
        let reason = "PostgreSQL is away, and there is no durable queue: votes can't be made durable";
        ("unavailable", reason.into())
    } else if !parts.postgres {
        let reason = "PostgreSQL is away: votes are kept in the queue, new sessions can't be started";
        ("degraded", reason.into())
    } else if let Some(why) = &parts.redis_away {
        ("degraded", format!("Redis is away: votes go on without it ({why})"))
    } else if let Some(why) = &parts.mirror_refused {
        ("degraded", format!("Redis refuses to store sessions: votes go on without it ({why})"))
    } else if let Some(why) = &parts.queue_away {
        ("degraded", format!("the queue's Redis is away: votes could not wait for PostgreSQL ({why})"))
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

    fn well() -> Parts {
        Parts {
            stopping: false,
            working: true,
            postgres: true,
            queue: true,
            redis_away: None,
            mirror_refused: None,
            queue_away: None,
        }
    }

    #[test]
    fn an_instance_is_ready_without_a_queue_as_long_as_the_journal_is_there() {
        assert_eq!(verdict(&well()).status, "ready");
        assert_eq!(verdict(&Parts { queue: false, ..well() }).status, "ready");
    }

    #[test]
    fn a_part_that_others_stand_in_for_degrades() {
        for parts in [
            Parts { postgres: false, ..well() },
            Parts { redis_away: Some("refused".into()), ..well() },
            Parts { mirror_refused: Some("full".into()), ..well() },
            Parts { queue_away: Some("refused".into()), ..well() },
        ] {
            assert_eq!(verdict(&parts).status, "degraded");
            assert!(verdict(&parts).reason.is_some());
        }
    }

    #[test]
    fn a_reason_tells_what_the_part_itself_said() {
        let parts = Parts { redis_away: Some("it takes no writes: it is a replica".into()), ..well() };
        let reason = verdict(&parts).reason.unwrap();
        assert!(reason.starts_with("Redis is away") && reason.contains("it is a replica"), "{reason}");
    }

    #[test]
    fn without_journal_and_queue_or_when_it_stops_an_instance_is_unavailable() {
        for parts in [
            Parts { postgres: false, queue: false, ..well() },
            Parts { stopping: true, ..well() },
            Parts { working: false, ..well() },
        ] {
            assert_eq!(verdict(&parts).status, "unavailable");
        }
    }
}
