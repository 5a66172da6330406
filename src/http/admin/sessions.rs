//! `/sessions`: what is going on, and how a session ended.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::web::{self, Data, Path};
use futures_util::future::join_all;
use uuid::Uuid;

use super::auth::caller::{Look, May};
use super::only;
use super::paging::{Listed, Page};
use super::shapes::SessionShape;
use crate::actors::session::CountOverlays;
use crate::http::problem::Problem;
use crate::http::state::State;
use crate::journal::sessions::LiveSession;

/// A session actor that is too busy to count its overlays is not waited for longer.
const COUNT_TIMEOUT: Duration = Duration::from_millis(500);

pub fn configure(routes: &mut web::ServiceConfig) {
    routes
        .service(web::resource("/sessions").get(list).default_service(only("GET")))
        .service(web::resource("/sessions/{id}").get(show).default_service(only("GET")));
}

/// The live sessions, by streamer: the cursor is a streamer's id.
async fn list(_: May<Look>, state: Data<State>, page: Page) -> Result<HttpResponse, Problem> {
    let entries = state.journal.live_sessions(page.after, page.fetch()).await?;
    let (entries, next) = page.cut(entries, |entry| entry.streamer.id);
    let live = entries.iter().filter_map(|entry| entry.live.as_ref());
    let items = join_all(live.map(|live| live_shape(&state, live))).await;
    Ok(HttpResponse::Ok().json(Listed { items, next }))
}

/// A session, live or over.
async fn show(_: May<Look>, state: Data<State>, session_id: Path<Uuid>) -> Result<HttpResponse, Problem> {
    let journal = &state.journal;
    let entry = journal.live_session(*session_id).await?;
    if let Some(live) = entry.and_then(|entry| entry.live) {
        return Ok(HttpResponse::Ok().json(live_shape(&state, &live).await));
    }
    match journal.head(*session_id).await? {
        Some(head) => Ok(HttpResponse::Ok().json(SessionShape::of(*session_id, &head, None, 0))),
        None => Err(Problem::not_found("There is no such session.")),
    }
}

/// A live session with its overlays on this instance.
pub async fn live_shape(state: &State, live: &LiveSession) -> SessionShape {
    let overlays = overlays(state, live.head.streamer_id).await;
    SessionShape::of(live.session_id, &live.head, Some(&live.holders), overlays)
}

/// How many overlays of a streamer are connected here.
pub(in crate::http) async fn overlays(state: &State, streamer_id: Uuid) -> usize {
    let Some(handle) = state.services.directory.session(streamer_id) else { return 0 };
    let counted = tokio::time::timeout(COUNT_TIMEOUT, handle.address.send(CountOverlays)).await;
    counted.ok().and_then(Result::ok).unwrap_or(0)
}
