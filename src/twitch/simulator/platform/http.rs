//! The platform over HTTP: a thin layer that reads requests, asks the state, and words its answers.

mod control;
mod helix;
mod oauth;

use std::net::TcpListener;
use std::sync::Arc;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Server, ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{Bytes, Data};
use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer, web};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Shared;
use super::refusal::{Fields, Refusal};
use super::state::{Failure, Points};

/// Everything is decided under one lock, and quickly.
const WORKERS: usize = 1;
const CONTROL: &str = "/control";
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// A server that is ready to be run.
///
/// # Errors
/// When the socket can't be used.
pub(super) fn server(shared: Arc<Shared>, listener: TcpListener) -> std::io::Result<Server> {
    let shared: Data<Shared> = Data::from(shared);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(shared.clone())
            .wrap(from_fn(observe))
            .service(web::scope("/oauth2").configure(oauth::routes))
            .service(web::scope("/helix").configure(helix::routes))
            .service(web::scope(CONTROL).configure(control::routes))
            .default_service(web::to(nothing_here))
    });
    Ok(server.workers(WORKERS).disable_signals().listen(listener)?.run())
}

async fn nothing_here() -> HttpResponse {
    refused(&Refusal::not_found())
}

/// Notes what is asked, and has it fail where that was asked for.
async fn observe(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let (method, path) = (request.method().to_string(), request.path().to_owned());
    let query = request.query_string().to_owned();
    let shared = request.app_data::<Data<Shared>>().cloned().filter(|_| !path.starts_with(CONTROL));
    let Some(shared) = shared else { return Ok(next.call(request).await?.map_into_boxed_body()) };
    let note = |status: StatusCode| {
        shared.act(|state, now| state.saw(&method, &path, &query, status.as_u16(), now));
    };
    let answer = match shared.act(|state, _| state.take_fault(&method, &path)) {
        None => next.call(request).await?.map_into_boxed_body(),
        Some(Failure::AnswerLost) => {
            let (request, _) = next.call(request).await?.into_parts();
            ServiceResponse::new(request, HttpResponse::BadGateway().finish())
        }
        Some(failure) => {
            // Only a connection whose request was read whole can be used again.
            let _ = request.extract::<Bytes>().await;
            let response = failed(&shared, &failure);
            if failure == Failure::Hang {
                note(response.status());
                tokio::time::sleep(shared.rules.hang).await;
                return Ok(request.into_response(response));
            }
            request.into_response(response)
        }
    };
    note(answer.status());
    Ok(answer)
}

fn failed(shared: &Shared, failure: &Failure) -> HttpResponse {
    let now = (shared.clock)().unix_timestamp();
    let limit = shared.rules.points_per_minute;
    match failure {
        Failure::Status { status, message } => refused(&Refusal::new(*status, message.as_str())),
        Failure::Limited { reset_seconds } => {
            let reset = now.saturating_add(i64::from(*reset_seconds));
            let mut response = refused(&Refusal::new(429, "Too many requests"));
            tell_points(&mut response, Points { limit, remaining: 0, reset, is_allowed: false });
            response
        }
        Failure::TooManyAlike => {
            let message = "maximum subscriptions with type and condition exceeded";
            let mut response = refused(&Refusal::new(429, message));
            let remaining = limit.saturating_sub(1);
            tell_points(&mut response, Points { limit, remaining, reset: now, is_allowed: true });
            response
        }
        Failure::Hang => HttpResponse::GatewayTimeout().finish(),
        Failure::AnswerLost => HttpResponse::BadGateway().finish(),
    }
}

fn tell_points(response: &mut HttpResponse, points: Points) {
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("ratelimit-limit"), HeaderValue::from(points.limit));
    headers.insert(HeaderName::from_static("ratelimit-remaining"), HeaderValue::from(points.remaining));
    headers.insert(HeaderName::from_static("ratelimit-reset"), HeaderValue::from(points.reset));
}

fn refused(refusal: &Refusal) -> HttpResponse {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponse::build(status).json(refusal.body())
}

/// 200 with this body, or the refusal.
fn answered(result: Result<Value, Refusal>) -> HttpResponse {
    match result {
        Ok(body) => HttpResponse::Ok().json(body),
        Err(refusal) => refused(&refusal),
    }
}

fn query(request: &HttpRequest) -> Fields {
    Fields::parse(request.query_string().as_bytes())
}

fn header<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok().filter(|value| !value.is_empty())
}

/// The token of the `Authorization` header under one of these schemes, in whatever case.
fn token<'a>(request: &'a HttpRequest, schemes: &[&str]) -> Option<&'a str> {
    let (scheme, token) = header(request, AUTHORIZATION.as_str())?.split_once(' ')?;
    let is_allowed = schemes.iter().any(|allowed| allowed.eq_ignore_ascii_case(scheme));
    is_allowed.then_some(token.trim()).filter(|token| !token.is_empty())
}

fn is_of_type(request: &HttpRequest, content_type: &str) -> bool {
    let given = header(request, CONTENT_TYPE.as_str()).unwrap_or_default();
    given.split(';').next().is_some_and(|given| given.trim().eq_ignore_ascii_case(content_type))
}

/// A body of JSON. What is wrong with it is not told in detail: there are secrets in some.
fn json<T: DeserializeOwned>(request: &HttpRequest, body: &[u8]) -> Result<T, Refusal> {
    if !is_of_type(request, JSON) {
        return Err(Refusal::new(400, "The Content-Type header must be application/json"));
    }
    let malformed = |_| Refusal::new(400, "The request body is not JSON of the documented shape");
    serde_json::from_slice(body).map_err(malformed)
}

/// The fields of a form. Secrets belong there and not into the URL, where logs would keep them.
fn form(request: &HttpRequest, body: &[u8]) -> Result<Fields, Refusal> {
    if !request.query_string().is_empty() {
        return Err(Refusal::bare(400, "parameters belong into the body"));
    }
    if !is_of_type(request, FORM) {
        return Err(Refusal::bare(400, "The Content-Type header must be application/x-www-form-urlencoded"));
    }
    Ok(Fields::parse(body))
}
