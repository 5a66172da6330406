//! Who is signed in: a cookie with a signed ticket, of which PostgreSQL knows the digest, and Redis for a minute.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::cookie::{Cookie, SameSite, time};
use actix_web::http::StatusCode;
use actix_web::http::header;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::client_address::client_address;
use super::problem::Problem;
use super::state::State;
use crate::hot::HotError;
use crate::hot::limits::Limit;
use crate::journal::tokens::{Owner, OwnerKind};
use crate::security::ticket::{Ticket, TicketDigest};

/// How long a sign-in lasts.
pub(super) const SIGN_IN_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// What Redis remembers of a session is believed for so long: after a sign-out that Redis did not hear of, too.
const CACHE_LIFE: Duration = Duration::from_secs(60);
/// How long a form can be sent after its page was loaded.
const CSRF_LIFE: Duration = Duration::from_secs(60 * 60);
const LIMIT_WINDOW: Duration = Duration::from_secs(60);
const CACHE_MODULE: &str = "session";
pub(super) const SESSION: &str = "session";

/// Who is signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIn {
    pub streamer_id: Uuid,
    digest: TicketDigest,
}

/// Who sends this request; `None` when nobody is signed in (any more).
///
/// # Errors
/// [`Problem`] 503 when PostgreSQL is away and Redis does not know.
pub async fn signed_in(request: &HttpRequest, state: &State) -> Result<Option<SignedIn>, Problem> {
    let Some(ticket) = ticket(request, state, SESSION) else { return Ok(None) };
    let digest = ticket.digest();
    let id = hex::encode(digest);
    let cached = state.cache.get(CACHE_MODULE, &id).await;
    if let Ok(Some(streamer_id)) = &cached
        && let Ok(streamer_id) = Uuid::parse_str(streamer_id)
    {
        return Ok(Some(SignedIn { streamer_id, digest }));
    }
    let Some(streamer_id) = state.journal.web_session(&digest).await? else { return Ok(None) };
    if cached.is_ok() {
        // Not remembered costs the next request a question.
        let _ = state.cache.put(CACHE_MODULE, &id, &streamer_id.to_string(), CACHE_LIFE).await;
    }
    Ok(Some(SignedIn { streamer_id, digest }))
}

/// Signs a browser in. Answers the cookie that it has to keep.
///
/// # Errors
/// [`Problem`] 503 when PostgreSQL is away.
pub(super) async fn begin(state: &State, streamer_id: Uuid) -> Result<Cookie<'static>, Problem> {
    let ticket = Ticket::random();
    state.journal.begin_web_session(&ticket.digest(), streamer_id, SIGN_IN_LIFE).await?;
    cookie(state, SESSION, &ticket, SIGN_IN_LIFE)
}

/// Signs a browser out.
///
/// # Errors
/// [`Problem`] 503 when PostgreSQL or Redis is away: what Redis remembers would let in for another minute.
pub(super) async fn end(state: &State, who: &SignedIn) -> Result<(), Problem> {
    state.journal.end_web_session(&who.digest).await?;
    forget(state, &who.digest).await?;
    Ok(())
}

/// Signs out all browsers of the streamer with this id on Twitch.
///
/// # Errors
/// [`Problem`] 503 when PostgreSQL or Redis is away.
async fn end_all_of(state: &State, twitch_user_id: &str) -> Result<(), Problem> {
    for digest in state.journal.end_web_sessions_of(twitch_user_id).await? {
        forget(state, &digest).await?;
    }
    Ok(())
}

/// Signs out a streamer everywhere whose token has ended. Source: Twitch, "Validating tokens".
pub async fn sign_out(state: &State, owner: &Owner) {
    if owner.kind == OwnerKind::Channel
        && let Err(problem) = end_all_of(state, &owner.id).await
    {
        tracing::warn!(%problem, "a streamer whose token has ended could not be signed out everywhere");
    }
}

async fn forget(state: &State, digest: &[u8]) -> Result<(), HotError> {
    let id = hex::encode(digest);
    state.cache.forget(CACHE_MODULE, &id).await?;
    state.cache.forget_csrf(&id).await
}

/// The token that this session's forms carry; lives an hour.
///
/// # Errors
/// [`Problem`] 503 when Redis is away: no form could be sent.
pub async fn csrf_token(state: &State, who: &SignedIn) -> Result<String, Problem> {
    let fresh = Ticket::random().expose();
    Ok(state.cache.csrf_token(&hex::encode(who.digest), &fresh, CSRF_LIFE).await?)
}

/// Whether a form's token is this session's. Constant in time.
///
/// # Errors
/// [`Problem`] 503 when Redis is away.
pub async fn csrf_matches(state: &State, who: &SignedIn, given: &str) -> Result<bool, Problem> {
    let known = state.cache.known_csrf_token(&hex::encode(who.digest)).await?;
    Ok(known.is_some_and(|known| known.as_bytes().ct_eq(given.as_bytes()).into()))
}

/// Refuses a form that another site sent. Source: OWASP, "Cross-Site Request Forgery Prevention": Fetch Metadata, and
/// the origin.
///
/// # Errors
/// [`Problem`] 403.
pub fn check_origin(request: &HttpRequest, state: &State) -> Result<(), Problem> {
    let value = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or("?"));
    let site_fits = value("sec-fetch-site").is_none_or(|site| matches!(site, "same-origin" | "none"));
    let origin_fits = value("origin").is_none_or(|origin| origin == state.public_url);
    if site_fits && origin_fits {
        return Ok(());
    }
    let detail = "This form was sent from another site. Open the page here, and send it from there. If this is the \
                  right page, its address is not the one in http.public_url.";
    Err(Problem::new(StatusCode::FORBIDDEN, detail))
}

/// Counts a form of this streamer.
///
/// # Errors
/// [`Problem`] 429 beyond the limit; 503 when Redis is away.
pub async fn count_form(state: &State, who: &SignedIn) -> Result<(), Problem> {
    let max = state.settings.limits.forms_per_minute;
    count(state, "form", max, &who.streamer_id.to_string()).await
}

/// Counts a step of signing in by this address.
///
/// # Errors
/// [`Problem`] 429 beyond the limit; 503 when Redis is away.
pub(super) async fn count_sign_in(state: &State, request: &HttpRequest) -> Result<(), Problem> {
    let address = client_address(request, &state.settings.http.trusted_proxies);
    let max = state.settings.limits.sign_ins_per_minute;
    count(state, "sign_in", max, &address.to_string()).await
}

async fn count(state: &State, module: &'static str, max: u32, subject: &str) -> Result<(), Problem> {
    let limit = Limit { module, window: LIMIT_WINDOW, max };
    let verdict = state.limits.check(&limit, subject, state.services.clock.now()).await?;
    if verdict.allowed {
        return Ok(());
    }
    let detail = "That was too often within a minute. Wait a little, and try again.";
    Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(verdict.retry_after))
}

/// The ticket in a cookie that was signed here for `purpose`.
pub(super) fn ticket(request: &HttpRequest, state: &State, purpose: &'static str) -> Option<Ticket> {
    let signer = state.signer.as_ref()?;
    let cookie = request.cookie(&cookie_name(state, purpose))?;
    signer.verify(purpose, cookie.value())
}

/// A cookie with a signed ticket.
///
/// # Errors
/// [`Problem`] 503 without a key to sign with.
pub(super) fn cookie(
    state: &State,
    purpose: &'static str,
    ticket: &Ticket,
    life: Duration,
) -> Result<Cookie<'static>, Problem> {
    let signer = state.signer.as_ref().ok_or_else(not_set_up)?;
    let life = time::Duration::try_from(life).unwrap_or(time::Duration::DAY);
    Ok(empty_cookie(state, purpose, signer.sign(purpose, ticket)).max_age(life).finish())
}

/// A cookie that removes the one for `purpose`.
pub(super) fn removed_cookie(state: &State, purpose: &'static str) -> Cookie<'static> {
    empty_cookie(state, purpose, String::new()).max_age(time::Duration::ZERO).finish()
}

fn empty_cookie(
    state: &State,
    purpose: &'static str,
    value: String,
) -> actix_web::cookie::CookieBuilder<'static> {
    // Lax: Twitch sends the browser back by a link.
    Cookie::build(cookie_name(state, purpose), value)
        .path("/")
        .http_only(true)
        .same_site(SameSite::Lax)
        .secure(state.tls())
}

/// The prefix has browsers refuse a cookie that another host or a page without TLS has set. Without TLS, which is
/// possible on the own machine only, it can't be used.
fn cookie_name(state: &State, purpose: &str) -> String {
    let prefix = if state.tls() { "__Host-" } else { "" };
    format!("{prefix}chatpulse_{purpose}")
}

/// Why nobody can sign in.
pub(super) fn not_set_up() -> Problem {
    let detail = "Signing in is not set up on this server. Its operator has to set twitch.client_id, \
                  twitch.client_secret, security.session_key and security.encryption_keys.";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        .with_header(header::RETRY_AFTER, header::HeaderValue::from_static("60"))
}
