//! Who may use the admin API.

use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpRequest};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::hot::limits::Limit;
use crate::http::client_address::client_address;
use crate::http::problem::Problem;
use crate::http::state::State;
use crate::settings::Secret;

/// In which the requests of an address are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// The middleware that lets in who has the token.
///
/// # Errors
/// Only those of the services further in: a refusal is an answer.
pub async fn let_in<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let state = request.app_data::<Data<State>>().cloned();
    let token = state.as_ref().and_then(|state| state.settings.admin.bootstrap_token.as_ref());
    let allowed = match &state {
        Some(state) => count(state, request.request()).await,
        None => Ok(()),
    };
    match allowed.and_then(|()| check(token, request.headers())) {
        Ok(()) => next.call(request).await.map(ServiceResponse::map_into_boxed_body),
        Err(refused) => Ok(request.error_response(refused)),
    }
}

/// Counts a request of an address, whether its token is right or not.
async fn count(state: &State, request: &HttpRequest) -> Result<(), Problem> {
    let address = client_address(request, &state.settings.http.trusted_proxies);
    let max = state.settings.limits.admin_requests_per_minute;
    let limit = Limit { module: "admin", window: WINDOW, max };
    match state.limits.check(&limit, &address.to_string(), state.services.clock.now()).await {
        Ok(verdict) if !verdict.allowed => {
            let detail = "Too many requests came from this address.";
            Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(verdict.retry_after))
        }
        Ok(_) => Ok(()),
        // When much is down this API is needed most; a token of 32 characters is not guessed meanwhile.
        Err(error) => {
            tracing::debug!(%error, "requests to the admin API can't be counted");
            Ok(())
        }
    }
}

fn check(token: Option<&Secret<String>>, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(token) = token else {
        return Err(unauthorized(
            "This API lets nobody in until the setting admin.bootstrap_token (CHATPULSE_ADMIN__BOOTSTRAP_TOKEN) \
             names a token.",
        ));
    };
    let given = headers.get(header::AUTHORIZATION).and_then(bearer);
    let given =
        given.ok_or_else(|| unauthorized("Send the header `Authorization: Bearer` with the token."))?;
    // Digests have one length, so the comparison tells nothing of the token's.
    let same = Sha256::digest(token.expose()).as_slice().ct_eq(Sha256::digest(given).as_slice());
    if bool::from(same) { Ok(()) } else { Err(unauthorized("The token is wrong.")) }
}

/// The token of a bearer (RFC 6750, 2.1); names of schemes have no case (RFC 9110, 11.1).
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

fn unauthorized(detail: &'static str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, detail)
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

#[cfg(test)]
mod tests {
    use actix_web::App;
    use actix_web::ResponseError;
    use actix_web::middleware::from_fn;
    use actix_web::test::{TestRequest, call_service, init_service};

    use super::*;
    use crate::http::request_id;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn given(authorization: Option<&str>) -> Result<(), Problem> {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        check(Some(&Secret::new(TOKEN.to_owned())), &headers)
    }

    #[test]
    fn the_token_lets_in() {
        for scheme in ["Bearer", "bearer", "BEARER"] {
            assert!(given(Some(&format!("{scheme} {TOKEN}"))).is_ok());
        }
    }

    #[test]
    fn anything_else_is_401_with_a_challenge() {
        let longer = format!("Bearer {TOKEN}0");
        let shorter = format!("Bearer {}", &TOKEN[1..]);
        let basic = format!("Basic {TOKEN}");
        for wrong in
            [None, Some(""), Some("Bearer"), Some("Bearer "), Some(&longer), Some(&shorter), Some(&basic)]
        {
            let answer = given(wrong).unwrap_err().error_response();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{wrong:?}");
            assert_eq!(answer.headers().get(header::WWW_AUTHENTICATE).unwrap(), "Bearer");
        }
    }

    #[test]
    fn without_a_token_in_the_settings_nobody_gets_in_and_is_told_why() {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer "));
        let refused = check(None, &headers).unwrap_err();
        assert!(refused.to_string().contains("admin.bootstrap_token"), "{refused}");
    }

    #[actix_web::test]
    async fn every_address_below_is_closed_also_unknown_ones() {
        let app = App::new().configure(super::super::configure).wrap(from_fn(request_id::follow));
        let app = init_service(app).await;
        for path in ["streamers", "sessions", "streamers/x/reset", "nowhere"] {
            let request = TestRequest::get().uri(&format!("/admin/api/v1/{path}")).to_request();
            let answer = call_service(&app, request).await;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
            let headers = answer.headers();
            assert_eq!(headers.get(header::CACHE_CONTROL).unwrap(), "no-store");
            assert_eq!(headers.get(header::CONTENT_TYPE).unwrap(), "application/problem+json");
        }
        let outside = call_service(&app, TestRequest::get().uri("/elsewhere").to_request()).await;
        assert_eq!(outside.status(), StatusCode::NOT_FOUND);
    }
}
