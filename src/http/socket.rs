//! `GET /ws/overlay/{overlay_uuid}`: an overlay's socket.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{HOST, ORIGIN};
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use uuid::Uuid;

use super::client_address::client_address;
use super::problem::Problem;
use super::state::State;
use crate::actors::outbox::Close;
use crate::actors::overlay;
use crate::actors::supervisor::{OpenError, OpenOverlay};

/// How long clients are asked to wait before they try again.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// What OBS sends for a page from a local file.
const LOCAL_FILE_ORIGINS: [&str; 2] = ["null", "file://"];

/// Opens a socket that shows one streamer's sentiment.
///
/// # Errors
/// [`Problem`] 404 for an unknown URL, 403 for a page of a foreign origin, 503 when the session
/// can't be started, 400 when the request is no WebSocket upgrade.
pub async fn open(
    request: HttpRequest,
    payload: Payload,
    overlay_uuid: Path<String>,
    state: Data<State>,
) -> Result<HttpResponse, actix_web::Error> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "there is no such overlay");
    let overlay_uuid = Uuid::try_parse(&overlay_uuid).map_err(|_| unknown())?;
    if !origin_allowed(&request, &state) {
        let detail = "this page's origin may not open overlays; add it to http.allowed_origins";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail).into());
    }
    let address = client_address(&request, &state.settings.http.trusted_proxies);
    let Some(place) = state.places.take(address) else {
        return overlay::refuse(Close::LimitReached, &request);
    };
    let unavailable =
        || Problem::unavailable("the session can't be started just now; please try again", RETRY_AFTER);
    let seat = match state.supervisor.send(OpenOverlay { overlay_uuid }).await {
        Ok(Ok(seat)) => seat,
        Ok(Err(OpenError::Unknown)) => return Err(unknown().into()),
        Ok(Err(OpenError::Unavailable)) | Err(_) => return Err(unavailable().into()),
    };
    overlay::open(seat, place, &request, payload)
}

/// Pages of our own, of local files, of listed origins, and clients that are no browsers.
fn origin_allowed(request: &HttpRequest, state: &State) -> bool {
    let Some(origin) = request.headers().get(ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let own_host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let same_host = own_host.is_some_and(|host| {
        origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) == Some(host)
    });
    same_host
        || origin == state.public_url
        || LOCAL_FILE_ORIGINS.contains(&origin)
        || state.settings.http.allowed_origins.iter().any(|allowed| allowed == origin)
}
