//! JSON bodies.

use std::future::ready;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap};
use actix_web::{FromRequest, HttpRequest};
use futures_util::future::{FutureExt, LocalBoxFuture};
use futures_util::stream::StreamExt;
use serde_json::Value;

use crate::http::problem::Problem;

/// Bytes of a body at most: the longest config takes a tenth.
const BYTES_MAX: usize = 64 * 1024;
/// A body has to be here after this long; the listener itself only watches over headers.
const ARRIVAL_MAX: Duration = Duration::from_secs(10);

/// A body of JSON, whatever it holds: what is wrong with its fields is all told at once later.
pub struct JsonBody(pub Value);

impl FromRequest for JsonBody {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<JsonBody, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        if !is_json(request.headers()) {
            let detail = "Send the body as `Content-Type: application/json`.";
            return ready(Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))).boxed_local();
        }
        let payload = payload.take();
        async move {
            let bytes = tokio::time::timeout(ARRIVAL_MAX, read(payload)).await.unwrap_or_else(|_| {
                Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "The body took too long to arrive."))
            })?;
            let parsed = serde_json::from_slice(&bytes);
            parsed
                .map(JsonBody)
                .map_err(|error| Problem::bad_request(format!("The body is not JSON: {error}.")))
        }
        .boxed_local()
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    // JSON is UTF-8 whatever the parameters say (RFC 8259, 8.1).
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

async fn read(mut payload: Payload) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| Problem::bad_request("The body broke off."))?;
        if bytes.len() + chunk.len() > BYTES_MAX {
            let detail = format!("The body is larger than {} KiB.", BYTES_MAX / 1024);
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use actix_web::ResponseError;
    use actix_web::test::TestRequest;

    use super::*;

    async fn status_of(kind: &str, body: impl Into<actix_web::web::Bytes>) -> u16 {
        let request = TestRequest::post().insert_header((header::CONTENT_TYPE, kind)).set_payload(body);
        let (request, mut payload) = request.to_http_parts();
        match JsonBody::from_request(&request, &mut payload).await {
            Ok(_) => 200,
            Err(problem) => problem.status_code().as_u16(),
        }
    }

    #[actix_web::test]
    async fn json_is_taken_whatever_its_charset_parameter() {
        for kind in ["application/json", "Application/JSON", "application/json; charset=utf-8"] {
            assert_eq!(status_of(kind, "{}").await, 200, "{kind}");
        }
    }

    #[actix_web::test]
    async fn other_types_broken_json_and_large_bodies_are_told_apart() {
        assert_eq!(status_of("text/plain", "{}").await, 415);
        assert_eq!(status_of("application/jsonx", "{}").await, 415);
        for broken in ["", "{", "{\"a\":1}x", "{\"a\":1e999}"] {
            assert_eq!(status_of("application/json", broken).await, 400, "{broken}");
        }
        let text = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
        assert_eq!(status_of("application/json", text(BYTES_MAX)).await, 200);
        assert_eq!(status_of("application/json", text(BYTES_MAX + 1)).await, 413);
    }
}
