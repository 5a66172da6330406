//! What happens to every request: it gets an id, its failure gets a shape, and the log a line.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::time::{Duration, Instant};

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, FromRequest, HttpMessage, HttpRequest, web};
use tracing::Level;
use uuid::Uuid;

use super::problem::{self, Asked, Problem};
use super::state::State;
use super::unread;

/// Carries a request's id, in and out.
static HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of an id that a client gives, at most.
const CHARS_MAX: usize = 128;

/// A request's id: the client's, or one of ours.
///
/// Kept as the header that answers it, so that it is allocated once at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The id that the client gave if it is 1 to 128 visible ASCII characters, else a new one.
    pub fn of(headers: &HeaderMap) -> RequestId {
        match headers.get(&HEADER) {
            Some(given) if acceptable(given.as_bytes()) => RequestId(given.clone()),
            _ => RequestId::generate(),
        }
    }

    /// A new id: a UUIDv7, so that ids sort by time.
    pub fn generate() -> RequestId {
        let mut buffer = Uuid::encode_buffer();
        let text = Uuid::now_v7().hyphenated().encode_lower(&mut buffer);
        // Hex digits and hyphens are always possible in a header.
        RequestId(HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("none")))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        // Only visible ASCII gets in.
        self.0.to_str().unwrap_or_default()
    }

    pub(super) fn write(&self, headers: &mut HeaderMap) {
        headers.insert(HEADER.clone(), self.0.clone());
    }
}

impl FromRequest for RequestId {
    type Error = Infallible;
    type Future = Ready<Result<RequestId, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let known = request.extensions().get::<RequestId>().cloned();
        ready(Ok(known.unwrap_or_else(RequestId::generate)))
    }
}

fn acceptable(given: &[u8]) -> bool {
    (1..=CHARS_MAX).contains(&given.len()) && given.iter().all(u8::is_ascii_graphic)
}

/// The middleware around everything: `App::wrap(from_fn(request_id::follow))`, wrapped last, so that
/// it sees the answers of all others.
///
/// # Errors
/// What a middleware further in failed with, as an error that renders itself.
pub async fn follow<B: MessageBody>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let started = Instant::now();
    let id = RequestId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    unread::hold(&mut request);
    // An error of a middleware leaves no request to look at.
    let html = problem::wants_html(request.headers());
    let method = request.method().clone();
    let tls = request.app_data::<web::Data<State>>().is_some_and(|state| state.tls());
    match next.call(request).await {
        Ok(answer) => {
            let (request, response) = answer.into_parts();
            let line = Line { method: &method, status: response.status(), took: started.elapsed(), id: &id };
            line.write(Some(&request), response.error());
            let mut response = problem::shape(response, || Asked { request_id: id.clone(), html, tls });
            id.write(response.headers_mut());
            Ok(ServiceResponse::new(request, response))
        }
        Err(error) => {
            let status = error.as_response_error().status_code();
            let line = Line { method: &method, status, took: started.elapsed(), id: &id };
            line.write(None, Some(&error));
            Err(Problem::of(&error, Asked { request_id: id, html, tls }).into())
        }
    }
}

/// A request's line in the log.
struct Line<'a> {
    method: &'a Method,
    status: StatusCode,
    took: Duration,
    id: &'a RequestId,
}

impl Line<'_> {
    fn write(&self, request: Option<&HttpRequest>, error: Option<&Error>) {
        let cause = error.and_then(|error| match error.as_error::<Problem>() {
            Some(problem) => problem.cause().map(str::to_owned),
            None => Some(error.to_string()),
        });
        let level = level(self.status, cause.is_some());
        // Finding the pattern costs: only for lines that are written.
        if level == Level::DEBUG && !tracing::enabled!(Level::DEBUG) {
            return;
        }
        let Line { method, status, took, id } = self;
        let (status, took_ms, request_id) = (status.as_u16(), took.as_secs_f64() * 1000.0, id.as_str());
        // The pattern, never the path: overlay UUIDs are secrets.
        let route = request.and_then(HttpRequest::match_pattern);
        let route = route.as_deref().unwrap_or("(none)");
        // A client's error may quote what the client sent: only our own failures name their cause.
        let cause = cause.filter(|_| level != Level::DEBUG);
        match level {
            Level::ERROR => {
                tracing::error!(%method, route, status, took_ms, request_id, cause, "a request failed")
            }
            Level::WARN => {
                tracing::warn!(%method, route, status, took_ms, request_id, cause, "a request was put off")
            }
            _ => tracing::debug!(%method, route, status, took_ms, request_id, "request"),
        }
    }
}

/// How loudly a request is logged. A 503 without a cause is an answer made on purpose by those who
/// log the outage themselves, once.
fn level(status: StatusCode, has_cause: bool) -> Level {
    match status {
        StatusCode::SERVICE_UNAVAILABLE if has_cause => Level::WARN,
        StatusCode::SERVICE_UNAVAILABLE => Level::DEBUG,
        status if status.is_server_error() => Level::ERROR,
        _ => Level::DEBUG,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::ACCEPT;
    use actix_web::middleware::from_fn;
    use actix_web::test::{TestRequest, call_service, init_service, read_body};
    use actix_web::{App, HttpResponse};
    use serde_json::Value;

    use super::*;

    fn id_for(given: &[u8]) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER.clone(), HeaderValue::from_bytes(given).unwrap());
        RequestId::of(&headers)
    }

    #[test]
    fn an_id_of_visible_ascii_is_kept_and_any_other_replaced() {
        let longest = "x".repeat(CHARS_MAX);
        for kept in ["a", "req-1/2:{\"~", &longest] {
            assert_eq!(id_for(kept.as_bytes()).as_str(), kept);
        }
        let too_long = "x".repeat(CHARS_MAX + 1);
        for replaced in ["", "two words", "tab\there", "größe", &too_long] {
            let id = id_for(replaced.as_bytes());
            assert_eq!(Uuid::try_parse(id.as_str()).unwrap().get_version_num(), 7, "{replaced:?}");
        }
    }

    #[test]
    fn our_failures_are_logged_loudly_and_refusals_are_not() {
        assert_eq!(level(StatusCode::OK, false), Level::DEBUG);
        assert_eq!(level(StatusCode::NOT_FOUND, true), Level::DEBUG);
        assert_eq!(level(StatusCode::INTERNAL_SERVER_ERROR, false), Level::ERROR);
        assert_eq!(level(StatusCode::SERVICE_UNAVAILABLE, true), Level::WARN);
        assert_eq!(level(StatusCode::SERVICE_UNAVAILABLE, false), Level::DEBUG);
    }

    async fn refuse(
        _: ServiceRequest,
        _: Next<impl MessageBody + 'static>,
    ) -> Result<ServiceResponse, Error> {
        Err(Problem::bad_request("refused early").into())
    }

    fn app() -> App<
        impl actix_web::dev::ServiceFactory<
            ServiceRequest,
            Config = (),
            Response = ServiceResponse<impl MessageBody>,
            Error = Error,
            InitError = (),
        >,
    > {
        let echo = |id: RequestId| async move { id.as_str().to_owned() };
        let own = || async { HttpResponse::ServiceUnavailable().body("own") };
        App::new()
            .service(web::resource("/echo").route(web::get().to(echo)))
            .service(web::resource("/own").route(web::get().to(own)))
            .service(
                web::resource("/bytes")
                    .app_data(web::PayloadConfig::new(4))
                    .route(web::post().to(|_: web::Bytes| async { HttpResponse::NoContent().finish() })),
            )
            .service(web::scope("/early").wrap(from_fn(refuse)))
            .wrap(from_fn(follow))
    }

    #[actix_web::test]
    async fn handlers_and_answers_have_the_same_id() {
        let app = init_service(app()).await;
        let answer = call_service(&app, TestRequest::get().uri("/echo").to_request()).await;
        let header = answer.headers().get(&HEADER).unwrap().clone();
        assert_eq!(read_body(answer).await, header.as_bytes());

        let given = TestRequest::get().uri("/echo").insert_header((HEADER.clone(), "mine"));
        assert_eq!(read_body(call_service(&app, given.to_request()).await).await, "mine");
    }

    #[actix_web::test]
    async fn errors_of_the_framework_are_problems_too() {
        let app = init_service(app()).await;
        let cases = [
            (TestRequest::get().uri("/nowhere"), 404),
            (TestRequest::delete().uri("/echo"), 405),
            (TestRequest::post().uri("/bytes").set_payload("too much"), 413),
        ];
        for (request, status) in cases {
            let request = request.insert_header((HEADER.clone(), "mine")).to_request();
            let answer = call_service(&app, request).await;
            assert_eq!(answer.status(), status);
            assert_eq!(answer.headers().get("content-type").unwrap(), "application/problem+json");
            let body: Value = serde_json::from_slice(&read_body(answer).await).unwrap();
            assert_eq!((&body["status"], &body["request_id"]), (&status.into(), &"mine".into()));
            assert!(body["detail"].as_str().is_some_and(|detail| detail.ends_with('.')), "{body}");
        }
    }

    #[actix_web::test]
    async fn a_body_that_a_handler_wrote_stays() {
        let app = init_service(app()).await;
        let answer = call_service(&app, TestRequest::get().uri("/own").to_request()).await;
        assert_eq!((answer.status().as_u16(), read_body(answer).await.as_ref()), (503, &b"own"[..]));
    }

    #[actix_web::test]
    async fn a_middleware_that_fails_is_answered_with_a_problem() {
        let app = init_service(app()).await;
        let request = TestRequest::get().uri("/early/x").insert_header((ACCEPT, "text/html")).to_request();
        let error = match actix_web::test::try_call_service(&app, request).await {
            Err(error) => error,
            Ok(answer) => panic!("answered {}", answer.status()),
        };
        let answer = error.error_response();
        assert!(answer.headers().contains_key(&HEADER));
        let body = actix_web::body::to_bytes(answer.into_body()).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains("refused early"));
    }
}
