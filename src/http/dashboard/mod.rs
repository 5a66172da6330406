//! `/dashboard`: where a streamer sees how it is going, and changes their settings.
//!
//! Works without scripts. A form is refused without a session of its streamer (401), from another site (403), too
//! often (429) or with an old token (403, with the page and all that was typed). What was typed and not saved outlives
//! every such answer in the browser: by the page's script, and without scripts by the back button.
//!
//! Reading order: this file (the routes), [`form`] (what is sent), [`view`] (what is shown), [`fields`] (the
//! settings in it), [`recording`], [`health`] and [`chat`] (the stream and its chat in it), [`times`] (in words).

mod chat;
mod fields;
mod form;
mod health;
mod recording;
mod times;
mod view;

use std::sync::LazyLock;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::web::{self, Data, Payload};
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use askama::Template;
use uuid::Uuid;

use self::form::Posted;
use self::health::Heard;
use self::view::{Dashboard, Facts, Live, Outcome};
use super::admin::sessions::overlays;
use super::auth::look_at_stream;
use super::pages;
use super::problem::{Problem, only};
use super::request_id::RequestId;
use super::session::{SignedIn, check_origin, count_form, csrf_matches, csrf_token, signed_in};
use super::state::State;
use crate::actors::feed;
use crate::domain::streamer::{Command, Refusal};
use crate::journal::sessions::{Entry, LiveSession};
use crate::journal::streamers::ChangeError;

/// Bytes of a form at most: the longest settings, percent-encoded, take less than half.
const BYTES_MAX: usize = 64 * 1024;
const FORM_TYPE: &str = "application/x-www-form-urlencoded";
const DASHBOARD: &str = "/dashboard";
const LOGIN: &str = "/auth/login";

static POLICY: LazyLock<HeaderValue> = LazyLock::new(policy);

/// The routes of the dashboard. Needs `web::Data<State>`.
pub fn configure(routes: &mut web::ServiceConfig) {
    LazyLock::force(&POLICY);
    routes
        .service(web::resource(DASHBOARD).get(show).head(show).default_service(only("GET, HEAD")))
        .service(web::resource("/dashboard/config").post(save).default_service(only("POST")))
        .service(web::resource("/dashboard/recording").post(record).default_service(only("POST")))
        .service(web::resource("/dashboard/reset").post(reset).default_service(only("POST")))
        .service(web::resource("/dashboard/rotate").post(rotate).default_service(only("POST")));
}

async fn show(request: HttpRequest, state: Data<State>) -> Result<HttpResponse, Problem> {
    match signed_in(&request, &state).await? {
        Some(who) => page(&state, &who, Outcome::Shown(view::notice(request.query_string()))).await,
        None => Ok(go_to(LOGIN, &state)),
    }
}

/// Saves the settings over the version that was edited, if that is still the newest.
async fn save(
    request: HttpRequest,
    payload: Payload,
    state: Data<State>,
    id: RequestId,
) -> Result<HttpResponse, Problem> {
    let (who, posted, _) = take(&request, payload, &state).await?;
    if !csrf_matches(&state, &who, &posted.csrf).await? {
        return page(&state, &who, Outcome::Stale(Some(posted))).await;
    }
    let config = match posted.draft.config() {
        Ok(config) => config,
        Err(problems) => return page(&state, &who, Outcome::Invalid(posted, problems)).await,
    };
    let command = Command::ChangeConfig { edited_version: posted.version, config: config.clone() };
    match state.journal.change_streamer(who.streamer_id, command, id.as_str()).await {
        Ok(_) => {
            refresh(&state).await;
            Ok(go_to("/dashboard?saved", &state))
        }
        Err(ChangeError::Refused(Refusal::ConfigMovedOn { .. })) => {
            page(&state, &who, Outcome::MovedOn(posted, config)).await
        }
        Err(error) => Err(error.into()),
    }
}

/// Says whether whole streams are recorded. A stream that is live already is from then on.
async fn record(
    request: HttpRequest,
    payload: Payload,
    state: Data<State>,
    id: RequestId,
) -> Result<HttpResponse, Problem> {
    let (who, posted, entry) = take(&request, payload, &state).await?;
    if !csrf_matches(&state, &who, &posted.csrf).await? {
        return page(&state, &who, Outcome::Stale(None)).await;
    }
    let Some(recorded) = posted.recorded else {
        return Err(Problem::bad_request("Say in `recorded` whether streams are recorded: yes or no."));
    };
    if state.journal.set_recorded(who.streamer_id, recorded, false, id.as_str()).await?
        && let Some(entry) = state.journal.entry(who.streamer_id).await?
    {
        // Who holds the session may be another now, of which no actor here would tell Redis.
        feed::adopt_recording(&state.services, entry);
    }
    if !recorded {
        return Ok(go_to("/dashboard?recording-off", &state));
    }
    look_at_stream(&state, &entry.streamer.profile.twitch_user_id);
    Ok(go_to("/dashboard?recording-on", &state))
}

/// Puts the bar back to the middle, where it also is when no session is going on.
async fn reset(
    request: HttpRequest,
    payload: Payload,
    state: Data<State>,
    id: RequestId,
) -> Result<HttpResponse, Problem> {
    let (who, posted, _) = take(&request, payload, &state).await?;
    if !csrf_matches(&state, &who, &posted.csrf).await? {
        return page(&state, &who, Outcome::Stale(None)).await;
    }
    if state.journal.reset(who.streamer_id, id.as_str()).await? {
        refresh(&state).await;
    }
    Ok(go_to("/dashboard?reset", &state))
}

/// Gives the overlay another address.
async fn rotate(
    request: HttpRequest,
    payload: Payload,
    state: Data<State>,
    id: RequestId,
) -> Result<HttpResponse, Problem> {
    let (who, posted, _) = take(&request, payload, &state).await?;
    if !csrf_matches(&state, &who, &posted.csrf).await? {
        return page(&state, &who, Outcome::Stale(None)).await;
    }
    if !posted.sure {
        return page(&state, &who, Outcome::Unsure).await;
    }
    let command = Command::RotateOverlay { overlay_uuid: Uuid::new_v4() };
    state.journal.change_streamer(who.streamer_id, command, id.as_str()).await?;
    refresh(&state).await;
    Ok(go_to("/dashboard?rotated", &state))
}

/// Who sends a form, what it says, and how its streamer stands. Its token is still to be compared: how to answer an old
/// one depends on the form.
async fn take(
    request: &HttpRequest,
    payload: Payload,
    state: &State,
) -> Result<(SignedIn, Posted, Entry), Problem> {
    check_origin(request, state)?;
    let Some(who) = signed_in(request, state).await? else { return Err(signed_out()) };
    count_form(state, &who).await?;
    let posted = read(request, payload, state).await?;
    let entry = enabled_entry(state, &who).await?;
    Ok((who, posted, entry))
}

/// Without a session nobody knows whose settings they are, so they stay where they are: in the browser.
fn signed_out() -> Problem {
    let detail = "You are not signed in any more, so nothing was changed. Open /auth/login in this tab and sign in: the \
                  dashboard then has what you typed. If your browser runs no scripts, sign in in another tab instead, \
                  come back here with your browser's back button, and send the form again.";
    Problem::new(StatusCode::UNAUTHORIZED, detail)
}

async fn read(request: &HttpRequest, payload: Payload, state: &State) -> Result<Posted, Problem> {
    if !request.content_type().eq_ignore_ascii_case(FORM_TYPE) {
        let detail = format!("Send the form as `Content-Type: {FORM_TYPE}`.");
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let body = payload.to_bytes_limited(BYTES_MAX);
    match tokio::time::timeout(state.settings.limits.body_timeout, body).await {
        Ok(Ok(Ok(body))) => Ok(Posted::parse(&body)),
        Ok(Ok(Err(_))) => Err(Problem::bad_request("The form broke off before its end.")),
        Ok(Err(_)) => {
            let detail = format!("The form is larger than {} KiB.", BYTES_MAX / 1024);
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail))
        }
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "The form took too long to arrive.")),
    }
}

/// The streamer as they stand in the journal, unless the operator has disabled them since they signed in.
async fn enabled_entry(state: &State, who: &SignedIn) -> Result<Entry, Problem> {
    let entry = state.journal.entry(who.streamer_id).await?.ok_or(Refusal::Unknown)?;
    if entry.streamer.disabled {
        let detail = "The operator of this server has disabled your account here. Ask them about it.";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(entry)
}

/// Brings this instance up to date before the answer, so that its overlays show the change at once.
async fn refresh(state: &State) {
    // The change is made. If the feed can't see it now, it catches up by itself and says so in the log.
    let _ = state.feed.refresh().await;
}

async fn page(state: &State, who: &SignedIn, outcome: Outcome) -> Result<HttpResponse, Problem> {
    let facts = facts(state, who).await?;
    let status = outcome.status();
    let html = Dashboard::of(facts, outcome).render().map_err(Problem::internal)?;
    let mut response = HttpResponse::build(status).body(html);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, pages::HTML);
    headers.insert(header::CACHE_CONTROL, pages::NO_STORE);
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    pages::secure(headers, state.tls());
    // With `no-referrer` browsers would send our own forms with `Origin: null` (Fetch, "append a request `Origin`
    // header"), as if from another site.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    Ok(response)
}

async fn facts(state: &State, who: &SignedIn) -> Result<Facts, Problem> {
    let Entry { streamer, live, .. } = enabled_entry(state, who).await?;
    let live = match live {
        Some(session) => Some(going_on(state, session).await),
        None => None,
    };
    Ok(Facts {
        // Without Redis the page can be looked at, which says that its forms can't be sent.
        csrf: csrf_token(state, who).await.ok(),
        standing: state.journal.stream_standing(streamer.id).await?,
        subscriptions: state.journal.subscriptions_of(streamer.id).await?,
        overlay_url: state.overlay_url(streamer.overlay_uuid),
        profile: streamer.profile,
        saved: streamer.config,
        live,
        now: state.services.clock.now(),
    })
}

/// What there is to say of a session. Redis away is no error: then what was said is not known.
async fn going_on(state: &State, session: LiveSession) -> Live {
    let (streamer_id, began) = (session.head.streamer_id, session.head.started_at);
    let ids = [streamer_id];
    let (lines, heard) = tokio::join!(state.windows.read(streamer_id), state.windows.last_heard(&ids));
    let said = lines.ok().map(|lines| chat::since(lines, began));
    let has_messages = said.as_ref().is_some_and(|said| !said.is_empty());
    let heard = heard.ok().filter(|_| said.is_some()).map(|heard| heard.into_iter().next().flatten());
    Live {
        overlays: overlays(state, streamer_id).await,
        instances: session.holders.instances(),
        recorded: session.holders.are_recording(),
        heard: Heard::of(heard, has_messages, began),
        said,
        paused: session.paused,
        head: session.head,
    }
}

/// Has the browser load another page of ours.
fn go_to(place: &'static str, state: &State) -> HttpResponse {
    let mut response = HttpResponse::SeeOther().finish();
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::from_static(place));
    headers.insert(header::CACHE_CONTROL, pages::NO_STORE);
    pages::secure(headers, state.tls());
    response
}

/// What the page may do: its style, its script, and sending forms to ourselves.
fn policy() -> HeaderValue {
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; base-uri 'none'; form-action 'self'; \
         frame-ancestors 'none'",
        pages::source_hash(view::SCRIPT),
        pages::source_hash(view::STYLE),
    );
    // Base64 and the words above are always possible in a header; else the page may do nothing.
    HeaderValue::from_str(&policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
}
