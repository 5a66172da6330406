//! `/streamers`: making, showing and changing them.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::web::{self, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;
use uuid::Uuid;

use super::audit::{self, Entry};
use super::auth::caller::{Caller, Look, May, Steer};
use super::body::JsonBody;
use super::paging::{Listed, Page};
use super::precondition::{IfMatch, etag};
use super::shapes::StreamerShape;
use super::{input, only, sessions};
use crate::domain::config::Config;
use crate::domain::streamer::{Command, Refusal, Streamer};
use crate::http::problem::Problem;
use crate::http::request_id::RequestId;
use crate::http::state::State;
use crate::journal::streamers::ChangeError;

/// How often a config is saved anew when others save it at the same time and `If-Match` allows any.
const ATTEMPTS: usize = 5;

pub fn configure(routes: &mut web::ServiceConfig) {
    let command =
        |name: &str| web::resource(format!("/streamers/{{id}}/{name}")).default_service(only("POST"));
    routes
        .service(web::resource("/streamers").get(list).post(create).default_service(only("GET, POST")))
        .service(web::resource("/streamers/{id}").get(show).default_service(only("GET")))
        .service(web::resource("/streamers/{id}/config").put(save_config).default_service(only("PUT")))
        .service(command("reset").post(reset))
        .service(command("rotate").post(rotate))
        .service(command("disable").post(disable))
        .service(command("enable").post(enable));
}

async fn list(_: May<Look>, state: Data<State>, page: Page) -> Result<HttpResponse, Problem> {
    let streamers = state.journal.streamers(page.after, page.fetch()).await?;
    let (streamers, next) = page.cut(streamers, |streamer| streamer.id);
    let items: Vec<StreamerShape> =
        streamers.into_iter().map(|streamer| StreamerShape::of(streamer, &state)).collect();
    Ok(HttpResponse::Ok().json(Listed { items, next }))
}

async fn create(
    who: May<Steer>,
    state: Data<State>,
    id: RequestId,
    JsonBody(body): JsonBody,
) -> Result<HttpResponse, Problem> {
    let new = input::new_streamer(body).map_err(Problem::invalid)?;
    let (streamer, created) = state.journal.register(new.profile, new.config, id.as_str()).await?;
    if !created {
        return Ok(answer(StatusCode::OK, streamer, &state));
    }
    refresh(&state).await;
    let entry = Entry::of(audit::STREAMER_CREATED, &who).about(streamer.id);
    entry.with(json!({ "twitch_user_id": &streamer.profile.twitch_user_id })).write(&state).await?;
    let place = HeaderValue::from_str(&format!("/admin/api/v1/streamers/{}", streamer.id));
    let mut response = answer(StatusCode::CREATED, streamer, &state);
    if let Ok(place) = place {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

async fn show(_: May<Look>, state: Data<State>, id: Path<Uuid>) -> Result<HttpResponse, Problem> {
    let entry = state.journal.entry(*id).await?.ok_or(Refusal::Unknown)?;
    Ok(answer(StatusCode::OK, entry.streamer, &state))
}

async fn save_config(
    who: May<Steer>,
    state: Data<State>,
    streamer_id: Path<Uuid>,
    request: HttpRequest,
    id: RequestId,
    JsonBody(body): JsonBody,
) -> Result<HttpResponse, Problem> {
    let condition = IfMatch::of(request.headers())?;
    let config = input::config(body).map_err(Problem::invalid)?;
    let streamer = save(&state, *streamer_id, &condition, config, &id).await?;
    refresh(&state).await;
    let entry = Entry::of(audit::CONFIG_SAVED, &who).about(streamer.id);
    entry.with(json!({ "version": streamer.config.version })).write(&state).await?;
    Ok(answer(StatusCode::OK, streamer, &state))
}

/// Saves a config over the newest version, if `condition` allows that one.
async fn save(
    state: &State,
    streamer_id: Uuid,
    condition: &IfMatch,
    config: Config,
    id: &RequestId,
) -> Result<Streamer, Problem> {
    let journal = &state.journal;
    let mut current = journal.entry(streamer_id).await?.ok_or(Refusal::Unknown)?.streamer.config.version;
    for _ in 0..ATTEMPTS {
        if !condition.allows(current) {
            break;
        }
        let command = Command::ChangeConfig { edited_version: current, config: config.clone() };
        match journal.change_streamer(streamer_id, command, id.as_str()).await {
            Ok(entry) => return Ok(entry.streamer),
            Err(ChangeError::Refused(Refusal::ConfigMovedOn { current: newer })) => current = newer,
            Err(error) => return Err(error.into()),
        }
    }
    Err(Problem::from(Refusal::ConfigMovedOn { current }).with_header(header::ETAG, etag(current)))
}

async fn reset(
    who: May<Steer>,
    state: Data<State>,
    streamer_id: Path<Uuid>,
    id: RequestId,
) -> Result<HttpResponse, Problem> {
    let journal = &state.journal;
    let done = journal.reset(*streamer_id, id.as_str()).await?;
    let entry = journal.entry(*streamer_id).await?.ok_or(Refusal::Unknown)?;
    if done {
        refresh(&state).await;
        Entry::of(audit::SESSION_RESET, &who).about(*streamer_id).write(&state).await?;
    }
    match entry.live.filter(|_| done) {
        Some(live) => Ok(HttpResponse::Ok().json(sessions::live_shape(&state, &live).await)),
        None => Ok(HttpResponse::NoContent().finish()),
    }
}

async fn rotate(
    who: May<Steer>,
    state: Data<State>,
    streamer_id: Path<Uuid>,
) -> Result<HttpResponse, Problem> {
    let command = Command::RotateOverlay { overlay_uuid: Uuid::new_v4() };
    change(&state, &who, *streamer_id, command, audit::OVERLAY_ROTATED).await
}

async fn disable(
    who: May<Steer>,
    state: Data<State>,
    streamer_id: Path<Uuid>,
) -> Result<HttpResponse, Problem> {
    change(&state, &who, *streamer_id, Command::Disable, audit::STREAMER_DISABLED).await
}

async fn enable(
    who: May<Steer>,
    state: Data<State>,
    streamer_id: Path<Uuid>,
) -> Result<HttpResponse, Problem> {
    change(&state, &who, *streamer_id, Command::Enable, audit::STREAMER_ENABLED).await
}

async fn change(
    state: &State,
    who: &Caller,
    streamer_id: Uuid,
    command: Command,
    kind: &'static str,
) -> Result<HttpResponse, Problem> {
    let request_id = who.origin.request_id.as_str();
    let entry = state.journal.change_streamer(streamer_id, command, request_id).await?;
    refresh(state).await;
    Entry::of(kind, who).about(streamer_id).write(state).await?;
    Ok(answer(StatusCode::OK, entry.streamer, state))
}

/// Brings this instance up to date before the answer, so that its overlays show the change at once.
async fn refresh(state: &State) {
    // The change is made. If the feed can't see it now, it catches up by itself and says so in the log.
    let _ = state.feed.refresh().await;
}

fn answer(status: StatusCode, streamer: Streamer, state: &State) -> HttpResponse {
    let etag = etag(streamer.config.version);
    HttpResponse::build(status).insert_header((header::ETAG, etag)).json(StreamerShape::of(streamer, state))
}
