//! Signing in with Twitch: `GET /auth/login`, `GET /auth/callback`, `POST /auth/logout`.
//!
//! Source: Twitch, "Getting OAuth access tokens", authorization code grant. The state is random, known to Redis for ten
//! minutes and for one use, and bound to the browser by a cookie.

use std::time::Duration;

use actix_web::cookie::Cookie;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::web::{self, Data, Form, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;

use super::pages;
use super::problem::{Problem, only};
use super::request_id::RequestId;
use super::session::{self, SESSION};
use super::state::State;
use crate::domain::config::Config;
use crate::domain::streamer::{Command, Profile, Streamer};
use crate::hot::HotError;
use crate::hot::cache::Cache;
use crate::journal::tokens::Owner;
use crate::reconcile::{ReconcileError, Twitch};
use crate::security::ticket::Ticket;
use crate::twitch::client::TwitchError;
use crate::twitch::oauth::{Identity, UserGrant};

/// What a streamer is asked to allow: that the bot reads the chat of their channel.
const STREAMER_SCOPES: &[&str] = &["channel:bot"];
/// What the bot's account is asked to allow: reading chats, being a bot there, and writing.
pub(crate) const BOT_SCOPES: &[&str] = &["user:read:chat", "user:bot", "user:write:chat"];
/// From leaving for Twitch to coming back.
const LOGIN_LIFE: Duration = Duration::from_secs(600);
/// How long the link for the bot's sign-in can be used.
const BOT_LINK_LIFE: Duration = Duration::from_secs(600);
const LOGIN: &str = "login";
const BOT_LINK: &str = "bot_link";
const CALLBACK: &str = "/auth/callback";
/// Characters of what Twitch says that are shown.
const TOLD_CHARS: usize = 200;

/// Whose sign-in it is, as Redis remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Streamer,
    Bot,
}

impl Whose {
    fn name(self) -> &'static str {
        match self {
            Whose::Streamer => "streamer",
            Whose::Bot => "bot",
        }
    }

    fn scopes(self) -> &'static [&'static str] {
        match self {
            Whose::Streamer => STREAMER_SCOPES,
            Whose::Bot => BOT_SCOPES,
        }
    }
}

/// The routes of signing in. Needs `web::Data<State>`.
pub fn configure(routes: &mut web::ServiceConfig) {
    routes
        .service(web::resource("/auth/login").get(login).default_service(only("GET")))
        .service(web::resource(CALLBACK).get(callback).default_service(only("GET")))
        .service(web::resource("/auth/logout").post(logout).default_service(only("POST")));
}

/// Makes a link for the bot's sign-in, which works once, for ten minutes. Answers the path with its query.
///
/// # Errors
/// [`HotError`] when Redis is away.
pub async fn bot_link(cache: &Cache) -> Result<String, HotError> {
    let ticket = Ticket::random();
    cache.put(BOT_LINK, &hex::encode(ticket.digest()), Whose::Bot.name(), BOT_LINK_LIFE).await?;
    Ok(format!("/auth/login?bot={}", ticket.expose()))
}

#[derive(Deserialize)]
struct LoginQuery {
    /// The ticket of a link for the bot's sign-in.
    bot: Option<String>,
}

async fn login(
    request: HttpRequest,
    state: Data<State>,
    query: Query<LoginQuery>,
) -> Result<HttpResponse, Problem> {
    session::count_sign_in(&state, &request).await?;
    let twitch = set_up(&state)?;
    let whose = match &query.bot {
        None => Whose::Streamer,
        Some(link) => {
            let ticket = Ticket::parse(link).ok_or_else(used_up_link)?;
            let known = state.cache.take(BOT_LINK, &hex::encode(ticket.digest())).await?;
            known.map(|_| Whose::Bot).ok_or_else(used_up_link)?
        }
    };
    let ticket = Ticket::random();
    state.cache.put(LOGIN, &hex::encode(ticket.digest()), whose.name(), LOGIN_LIFE).await?;
    let cookie = session::cookie(&state, LOGIN, &ticket, LOGIN_LIFE)?;
    // A bot signs in from its operator's browser, which may know Twitch by another account.
    let choose_account = whose == Whose::Bot;
    let redirect_uri = redirect_uri(&state);
    let url = twitch.client.authorize_url(&redirect_uri, whose.scopes(), &ticket.expose(), choose_account);
    Ok(go_to(&url, [cookie]))
}

/// What Twitch sends a browser back with.
#[derive(Deserialize)]
struct CallbackQuery {
    state: Option<String>,
    code: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

async fn callback(
    request: HttpRequest,
    state: Data<State>,
    query: Query<CallbackQuery>,
    id: RequestId,
) -> Result<HttpResponse, Problem> {
    session::count_sign_in(&state, &request).await?;
    let twitch = set_up(&state)?;
    let whose = take_state(&request, &state, query.state.as_deref()).await?;
    let Some(code) = &query.code else { return Err(denied(&query)) };
    let grant = twitch.client.exchange_code(code, &redirect_uri(&state)).await.map_err(exchange_failed)?;
    let identity = twitch.client.validate(&grant.access).await.map_err(exchange_failed)?;
    let missing = whose.scopes().iter().find(|scope| !identity.scopes.iter().any(|given| given == *scope));
    if let Some(missing) = missing {
        let detail =
            format!("Twitch did not give the permission {missing}. Sign in again, and allow all of it.");
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    match whose {
        Whose::Streamer => streamer_signed_in(&state, twitch, &grant, &identity, &id).await,
        Whose::Bot => bot_signed_in(&state, twitch, &grant, &identity).await,
    }
}

/// Whose sign-in it is that this browser began, which is over with that.
async fn take_state(request: &HttpRequest, state: &State, given: Option<&str>) -> Result<Whose, Problem> {
    let began = session::ticket(request, state, LOGIN).ok_or_else(not_begun_here)?;
    let given = given.and_then(Ticket::parse).ok_or_else(not_begun_here)?;
    if began.digest() != given.digest() {
        return Err(not_begun_here());
    }
    match state.cache.take(LOGIN, &hex::encode(given.digest())).await?.as_deref() {
        Some("streamer") => Ok(Whose::Streamer),
        Some("bot") => Ok(Whose::Bot),
        _ => Err(not_begun_here()),
    }
}

async fn streamer_signed_in(
    state: &State,
    twitch: &Twitch,
    grant: &UserGrant,
    identity: &Identity,
    id: &RequestId,
) -> Result<HttpResponse, Problem> {
    let user = twitch.client.users_by_token(&grant.access).await.map_err(exchange_failed)?;
    if user.id != identity.user_id {
        return Err(Problem::internal("Twitch named two different users for one token"));
    }
    let profile = Profile { twitch_user_id: user.id, login: user.login, display_name: user.display_name };
    let streamer = known_streamer(state, profile, id).await?;
    if streamer.disabled {
        let detail = "The operator of this server has disabled your account here. Ask them about it.";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    let owner = Owner::channel(&identity.user_id);
    twitch.vault.store(&owner, &identity.login, grant).await?;
    // From now on the journal has whole streams, unless the streamer has said otherwise.
    state.journal.set_recorded(streamer.id, true, true, id.as_str()).await?;
    look_at_stream(state, &identity.user_id);
    // What was blocked for want of the permission may work now.
    state.journal.request_blocked_subscriptions(Some(streamer.id)).await?;
    twitch.due.notify_one();
    tracing::info!(login = identity.login, "a streamer signed in");
    let cookie = session::begin(state, streamer.id).await?;
    Ok(go_to("/dashboard", [cookie, session::removed_cookie(state, LOGIN)]))
}

/// Looks whether a streamer is live already, beside the answer: Twitch tells only of streams that begin later.
pub(super) fn look_at_stream(state: &State, twitch_user_id: &str) {
    let Some(twitch) = state.twitch.clone() else { return };
    let twitch_user_id = twitch_user_id.to_owned();
    actix_web::rt::spawn(async move {
        if let Err(error) = twitch.look_at_stream(&twitch_user_id).await {
            tracing::debug!(%error, "whether a stream is live is not known yet");
        }
    });
}

/// The streamer with this profile, made at the first sign-in; with the names that Twitch has today.
async fn known_streamer(state: &State, profile: Profile, id: &RequestId) -> Result<Streamer, Problem> {
    let (streamer, created) = state.journal.register(profile.clone(), Config::default(), id.as_str()).await?;
    if created || streamer.profile == profile {
        return Ok(streamer);
    }
    let command = Command::ChangeProfile { login: profile.login, display_name: profile.display_name };
    Ok(state.journal.change_streamer(streamer.id, command, id.as_str()).await?.streamer)
}

async fn bot_signed_in(
    state: &State,
    twitch: &Twitch,
    grant: &UserGrant,
    identity: &Identity,
) -> Result<HttpResponse, Problem> {
    let (login, user_id) = (&identity.login, &identity.user_id);
    if let Some(wanted) = &twitch.options.bot_user_id
        && wanted != user_id
    {
        let detail = format!(
            "You signed in as {login}, whose user id is {user_id}, but twitch.bot_user_id is {wanted}. Make another \
             link and sign in with that account, or change the setting."
        );
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    twitch.vault.store(&Owner::bot(user_id), login, grant).await?;
    state.journal.request_blocked_subscriptions(None).await?;
    twitch.due.notify_one();
    tracing::info!(login, "the bot's account signed in");
    let detail = match &twitch.options.bot_user_id {
        Some(_) => format!("{login} reads the chats from now on. This page can be closed."),
        None => format!("{login} signed in. Now set twitch.bot_user_id to {user_id}, and restart ChatPulse."),
    };
    let mut response = pages::notice("The bot is signed in", &detail, state.tls());
    add_cookie(&mut response, &session::removed_cookie(state, LOGIN));
    Ok(response)
}

#[derive(Deserialize)]
struct LogoutForm {
    csrf: String,
}

async fn logout(
    request: HttpRequest,
    state: Data<State>,
    form: Form<LogoutForm>,
) -> Result<HttpResponse, Problem> {
    session::check_origin(&request, &state)?;
    if let Some(who) = session::signed_in(&request, &state).await? {
        if !session::csrf_matches(&state, &who, &form.csrf).await? {
            let detail = "The page was open for too long. Load the dashboard again, and sign out there.";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        session::end(&state, &who).await?;
    }
    Ok(go_to("/", [session::removed_cookie(&state, SESSION)]))
}

/// Twitch's application, if signing in is set up.
fn set_up(state: &State) -> Result<&Twitch, Problem> {
    let twitch = state.twitch.as_deref().filter(|_| state.signer.is_some());
    let twitch = twitch.filter(|twitch| twitch.vault.check().is_ok()).ok_or_else(session::not_set_up)?;
    if !state.tls() && !state.loopback {
        let detail = "Signing in needs https, or a server on this machine. The operator has to set http.public_url to \
                      an https address.";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    }
    Ok(twitch)
}

fn redirect_uri(state: &State) -> String {
    format!("{}{CALLBACK}", state.public_url)
}

fn not_begun_here() -> Problem {
    Problem::bad_request(
        "This sign-in was not begun in this browser, took longer than ten minutes, or was used already. Begin again at \
         /auth/login.",
    )
}

fn used_up_link() -> Problem {
    Problem::bad_request(
        "This link was used already, or is older than ten minutes. Make another one with `chatpulse bot sign-in`.",
    )
}

/// Why somebody came back from Twitch without a code.
fn denied(query: &CallbackQuery) -> Problem {
    if query.error.as_deref() == Some("access_denied") {
        let detail = "You did not allow ChatPulse to read your chat, so nothing was changed. Sign in again whenever you \
                      like.";
        return Problem::new(StatusCode::FORBIDDEN, detail);
    }
    let told = query.error_description.as_deref().or(query.error.as_deref()).unwrap_or("no reason");
    let told: String = told.chars().filter(|char| !char.is_control()).take(TOLD_CHARS).collect();
    Problem::bad_request(format!("Twitch did not sign you in: {told}. Begin again at /auth/login."))
}

fn exchange_failed(error: TwitchError) -> Problem {
    match error {
        TwitchError::Refused { .. } | TwitchError::Unauthorized(_) => {
            let detail = "Twitch refused this sign-in. Begin again at /auth/login; if that does not help, the operator \
                          has to check twitch.client_id, twitch.client_secret and the redirect URL.";
            Problem::new(StatusCode::BAD_GATEWAY, detail).because(error)
        }
        other => ReconcileError::from(other).into(),
    }
}

fn go_to(url: &str, cookies: impl IntoIterator<Item = Cookie<'static>>) -> HttpResponse {
    let mut response = HttpResponse::SeeOther().insert_header((header::LOCATION, url)).finish();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for cookie in cookies {
        add_cookie(&mut response, &cookie);
    }
    response
}

fn add_cookie(response: &mut HttpResponse, cookie: &Cookie<'_>) {
    // Fails for characters that no cookie of ours has.
    let _ = response.add_cookie(cookie);
}
