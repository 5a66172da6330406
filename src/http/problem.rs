//! Error answers: `application/problem+json` (RFC 9457), or a page for clients that ask for HTML.
//!
//! Handlers answer a [`Problem`]. What the answer looks like depends on the request, which an error
//! knows nothing of, so [`super::request_id::follow`] shapes it on the way out, together with the
//! bare error answers of actix itself: unknown routes, unknown methods, bodies that are too large.

use std::borrow::Cow;
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, EitherBody, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpResponse, ResponseError, Route, web};
use serde::Serialize;

use super::pages;
use super::request_id::RequestId;
use crate::domain::config;
use crate::domain::streamer::Refusal;
use crate::hot::HotError;
use crate::journal::JournalError;
use crate::journal::streamers::ChangeError;
use crate::reconcile::ReconcileError;
use crate::twitch::client::TwitchError;

/// The type of a problem of which the status says all (RFC 9457, 4.2.1).
const NO_KIND: &str = "about:blank";
/// After this time it is worth asking again for what the database was needed for.
const DATABASE_RETRY: Duration = Duration::from_secs(5);

/// An error as a client sees it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{status}: {detail}")]
pub struct Problem {
    /// What programs tell it apart by, where the status does not say it (RFC 9457, 3.1.1).
    kind: &'static str,
    status: StatusCode,
    detail: Cow<'static, str>,
    errors: Vec<FieldProblem>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What the log says of it; never shown to the client.
    cause: Option<Box<str>>,
    asked: Option<Box<Asked>>,
}

/// One field of a request that can't be taken as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldProblem {
    /// The field's name, with the names of those around it before a point.
    pub field: Cow<'static, str>,
    /// What is wrong and what to do, in plain words.
    pub detail: Cow<'static, str>,
}

/// What an error answer has to know of its request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub request_id: RequestId,
    /// Whether a page is wanted rather than JSON.
    pub html: bool,
    /// Whether this deployment is reached by TLS.
    pub tls: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldProblem],
}

impl Problem {
    /// A problem with a sentence for the client: what was wrong and what to do.
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem {
            kind: NO_KIND,
            status,
            detail: detail.into(),
            errors: Vec::new(),
            headers: Vec::new(),
            cause: None,
            asked: None,
        }
    }

    /// 400.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 404.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, detail)
    }

    /// 422 with every field that can't be taken.
    pub fn invalid(errors: Vec<FieldProblem>) -> Problem {
        let detail = "Some values can't be taken as they are; they are named in `errors`.";
        Problem { errors, ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }

    /// 503: try again after `retry_after`. Expected, so it is not logged by itself.
    pub fn unavailable(detail: impl Into<Cow<'static, str>>, retry_after: Duration) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(retry_after)
    }

    /// 500, with a cause for the log that the client does not see.
    pub fn internal(cause: impl ToString) -> Problem {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Problem::new(status, standard_detail(status)).because(cause)
    }

    /// Gives it a type, a path of ours.
    pub fn of_type(mut self, kind: &'static str) -> Problem {
        self.kind = kind;
        self
    }

    /// Adds a header to the answer.
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.headers.push((name, value));
        self
    }

    /// Says after what time, in whole seconds and at least one, to try again.
    pub fn retry_after(self, after: Duration) -> Problem {
        self.with_header(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)))
    }

    /// Notes for the log what was behind a failure of ours; it is logged with the request.
    pub fn because(mut self, cause: impl ToString) -> Problem {
        self.cause = Some(cause.to_string().into());
        self
    }

    /// What the log should say of this failure.
    pub(super) fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// Any error as a problem that knows its request.
    pub(super) fn of(error: &actix_web::Error, asked: Asked) -> Problem {
        let problem = match error.as_error::<Problem>() {
            Some(problem) => problem.clone(),
            None => Problem::standard(error.as_response_error().status_code()),
        };
        Problem { asked: Some(Box::new(asked)), ..problem }
    }

    fn standard(status: StatusCode) -> Problem {
        Problem::new(status, standard_detail(status))
    }

    fn title(&self) -> &'static str {
        self.status.canonical_reason().unwrap_or("Error")
    }

    /// Writes the headers and answers the body.
    fn render(&self, asked: Option<&Asked>, headers: &mut HeaderMap) -> String {
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::VARY, HeaderValue::from_static("Accept"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let tls = asked.is_some_and(|asked| asked.tls);
        if asked.is_some_and(|asked| asked.html) {
            return pages::error(self.title(), &self.detail, tls, headers);
        }
        pages::secure(headers, tls);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let body = Body {
            // The status says all there is to say about the type of these problems (RFC 9457, 4.2.1).
            r#type: self.kind,
            title: self.title(),
            status: self.status.as_u16(),
            detail: &self.detail,
            request_id: asked.map(|asked| asked.request_id.as_str()),
            errors: &self.errors,
        };
        // Serialising strings and numbers has no way to fail.
        serde_json::to_string(&body).unwrap_or_default()
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::new(self.status);
        if let Some(asked) = &self.asked {
            asked.request_id.write(response.headers_mut());
        }
        let body = self.render(self.asked.as_deref(), response.headers_mut());
        response.set_body(BoxBody::new(body))
    }
}

impl From<HotError> for Problem {
    fn from(error: HotError) -> Self {
        let detail = "ChatPulse can't reach its Redis just now. Try again in a few seconds.";
        Problem::unavailable(detail, DATABASE_RETRY).because(error)
    }
}

impl From<JournalError> for Problem {
    fn from(error: JournalError) -> Self {
        match &error {
            JournalError::Away(_) | JournalError::Busy(_) => {
                let detail = "ChatPulse can't reach its database just now. Try again in a few seconds.";
                Problem::unavailable(detail, DATABASE_RETRY).because(error)
            }
            _ => Problem::internal(error),
        }
    }
}

impl From<ReconcileError> for Problem {
    fn from(error: ReconcileError) -> Self {
        match error {
            ReconcileError::Journal(error) => error.into(),
            ReconcileError::Twitch(TwitchError::Away(_) | TwitchError::Limited { .. }) => {
                let detail = "Twitch can't be reached just now. Try again in a few seconds.";
                Problem::unavailable(detail, DATABASE_RETRY).because(error)
            }
            _ => Problem::internal(error),
        }
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Journal(error) => error.into(),
            ChangeError::Refused(refusal) => refusal.into(),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unknown => Problem::not_found("There is no such streamer."),
            Refusal::AlreadyRegistered => Problem::new(StatusCode::CONFLICT, "This streamer exists already."),
            Refusal::ConfigMovedOn { current } => {
                let detail =
                    format!("The config moved on to version {current}; load it again and repeat the change.");
                Problem::new(StatusCode::PRECONDITION_FAILED, detail)
            }
            Refusal::Invalid(problems) => Problem::invalid(problems.into_iter().map(Into::into).collect()),
        }
    }
}

impl From<config::Problem> for FieldProblem {
    fn from(problem: config::Problem) -> Self {
        FieldProblem { field: problem.field.into(), detail: problem.detail.into() }
    }
}

/// The fallback of a route: 405 with the methods that it does understand.
pub fn only(allow: &'static str) -> Route {
    web::to(move || {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let problem = Problem::standard(status).with_header(header::ALLOW, HeaderValue::from_static(allow));
        std::future::ready(Err::<HttpResponse, Problem>(problem))
    })
}

/// Gives an error answer its shape. Bodies that a handler wrote on purpose stay.
pub(super) fn shape<B: MessageBody>(
    response: HttpResponse<B>,
    asked: impl FnOnce() -> Asked,
) -> HttpResponse<EitherBody<B>> {
    let status = response.status();
    let failed = status.is_client_error() || status.is_server_error();
    let bare = matches!(response.body().size(), BodySize::None | BodySize::Sized(0));
    if !failed || !(bare || response.error().is_some()) {
        return response.map_into_left_body();
    }
    let problem = match response.error().and_then(|error| error.as_error::<Problem>()) {
        Some(problem) => problem.clone(),
        None => Problem::standard(status),
    };
    let mut response = response.drop_body();
    let body = problem.render(Some(&asked()), response.headers_mut());
    response.set_body(EitherBody::right(BoxBody::new(body)))
}

/// Whether a client prefers a page to JSON (RFC 9110, 12.5.1; wildcards ask for neither).
pub(super) fn wants_html(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT).filter_map(|line| line.to_str().ok());
    // The greatest quality wins, the earlier of two equal ones.
    let mut best = (0.0, false);
    for range in lines.flat_map(|line| line.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let html = match parts.next().unwrap_or_default() {
            kind if kind.eq_ignore_ascii_case("text/html") => true,
            kind if kind.eq_ignore_ascii_case("application/json") => false,
            kind if kind.eq_ignore_ascii_case("application/problem+json") => false,
            _ => continue,
        };
        let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let quality = quality.map_or(1.0, |quality| quality.parse::<f64>().unwrap_or(0.0));
        if quality > best.0 {
            best = (quality, html);
        }
    }
    best.1
}

/// What to say of an error that only has a status.
fn standard_detail(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "The request can't be understood.",
        401 => "Sign in first.",
        403 => "This is not allowed.",
        404 => "There is nothing at this address.",
        405 => "This address does not understand this method.",
        408 => "The request took too long to arrive.",
        413 => "The body is larger than this address takes.",
        415 => "The body has a type that this address does not take.",
        429 => "Too many requests; try again later.",
        500 => "Something went wrong inside ChatPulse. It was logged with the id of this request.",
        503 => "ChatPulse can't do this just now. Try again in a few seconds.",
        _ if status.is_client_error() => "The request can't be answered as it is.",
        _ => "ChatPulse could not answer this request.",
    }
}

#[cfg(test)]
mod tests;
