//! Who is let in to the admin API: an operator by an access token, and the bootstrap token while nobody has an account.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpMessage, HttpRequest};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::caller::{Account, Caller, Origin};
use super::{limits, tokens};
use crate::hot::HotError;
use crate::hot::limits::Verdict;
use crate::http::problem::Problem;
use crate::http::state::State;
use crate::settings::Secret;

/// The middleware that lets in who has a token.
///
/// # Errors
/// Only those of the services further in: a refusal is an answer.
pub async fn let_in<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let admitted = match request.app_data::<Data<State>>().cloned() {
        Some(state) => admit(&state, request.request()).await,
        None => Err(nobody()),
    };
    match admitted {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.call(request).await.map(ServiceResponse::map_into_boxed_body)
        }
        Err(refused) => Ok(request.error_response(refused)),
    }
}

/// Whose token it is. Each request of an address is counted, whether its token is right or not.
async fn admit(state: &State, request: &HttpRequest) -> Result<Caller, Problem> {
    let origin = Origin::of(request, state);
    let counted = limits::count_request(state, &origin).await;
    if let Ok(verdict) = counted {
        limits::judge(verdict, "Too many requests came from this address.")?;
    }
    let token = bearer(request.headers())?;
    if is_bootstrap(state.settings.admin.bootstrap_token.as_ref(), token) {
        check_bootstrap(state, counted).await?;
        return Ok(Caller { origin, account: None });
    }
    let account = signed_in(state, token, counted).await?;
    Ok(Caller { origin, account: Some(account) })
}

/// Refuses the bootstrap token once there is an account.
async fn check_bootstrap(state: &State, counted: Result<Verdict, HotError>) -> Result<(), Problem> {
    if state.gate.has_accounts(state).await? {
        return Err(unauthorized("The bootstrap token ended with the first operator's account. Sign in."));
    }
    // When much is down this API is needed most; a token of 32 characters is not guessed meanwhile.
    if let Err(error) = counted {
        tracing::debug!(%error, "requests to the admin API can't be counted");
    }
    Ok(())
}

/// The operator of an access token. Without Redis it is not known whether they have signed out, so nobody is let in.
async fn signed_in(
    state: &State,
    token: &[u8],
    counted: Result<Verdict, HotError>,
) -> Result<Account, Problem> {
    let Some(tokens) = &state.access_tokens else {
        let has_bootstrap = state.settings.admin.bootstrap_token.is_some();
        return Err(if has_bootstrap { unauthorized("The token is wrong.") } else { nobody() });
    };
    let token = std::str::from_utf8(token).map_err(|_| ended())?;
    let claims = tokens.open(token, tokens::now_seconds(state)).map_err(|_| ended())?;
    counted?;
    if tokens::is_denied(state, claims.jti).await? {
        return Err(ended());
    }
    let operator = state.journal.operator(claims.operator_id).await?;
    let operator = operator.filter(|operator| !operator.disabled).ok_or_else(ended)?;
    Ok(Account {
        stage: tokens::strictest(claims.stage, tokens::stage_of(&operator)),
        operator,
        jti: claims.jti,
        family: claims.family,
        expires_at: claims.expires_at,
    })
}

fn is_bootstrap(token: Option<&Secret<String>>, given: &[u8]) -> bool {
    // Digests have one length, so the comparison tells nothing of the token's.
    let given = Sha256::digest(given);
    token.is_some_and(|token| Sha256::digest(token.expose()).as_slice().ct_eq(given.as_slice()).into())
}

/// The token of a bearer (RFC 6750, 2.1); names of schemes have no case (RFC 9110, 11.1).
fn bearer(headers: &HeaderMap) -> Result<&[u8], Problem> {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
    });
    token.ok_or_else(|| unauthorized("Send the header `Authorization: Bearer` with the token."))
}

/// Why nobody at all is let in.
fn nobody() -> Problem {
    unauthorized(
        "This API lets nobody in until the setting admin.bootstrap_token \
         (CHATPULSE_ADMIN__BOOTSTRAP_TOKEN) or security.token_keys (CHATPULSE_SECURITY__TOKEN_KEYS) is set.",
    )
}

/// The answer to an access token that is worth nothing (any more).
fn ended() -> Problem {
    unauthorized("This access token is not valid, or not any more. Refresh it, or sign in.")
}

/// 401, with the challenge that belongs to it (RFC 9110, 15.5.2).
pub(super) fn unauthorized(detail: &'static str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, detail)
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

#[cfg(test)]
mod tests {
    use actix_web::middleware::from_fn;
    use actix_web::test::{TestRequest, call_service, init_service};
    use actix_web::{App, ResponseError};

    use super::*;
    use crate::http::request_id;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn headers(authorization: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn is_let_in(authorization: Option<&str>) -> bool {
        let headers = headers(authorization);
        bearer(&headers).is_ok_and(|given| is_bootstrap(Some(&Secret::new(TOKEN.to_owned())), given))
    }

    #[test]
    fn the_bootstrap_token_is_known_again() {
        for scheme in ["Bearer", "bearer", "BEARER"] {
            assert!(is_let_in(Some(&format!("{scheme} {TOKEN}"))));
        }
    }

    #[test]
    fn no_other_token_is_the_bootstrap_token() {
        let longer = format!("Bearer {TOKEN}0");
        let shorter = format!("Bearer {}", &TOKEN[1..]);
        let basic = format!("Basic {TOKEN}");
        for wrong in
            [None, Some(""), Some("Bearer"), Some("Bearer "), Some(&longer), Some(&shorter), Some(&basic)]
        {
            assert!(!is_let_in(wrong), "{wrong:?}");
        }
        assert!(!is_bootstrap(None, b""), "none is set");
    }

    #[test]
    fn a_missing_token_is_401_with_a_challenge() {
        let answer = bearer(&headers(None)).unwrap_err().error_response();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers().get(header::WWW_AUTHENTICATE).unwrap(), "Bearer");
    }

    #[test]
    fn who_has_set_no_token_is_told_which_settings_to_look_at() {
        let refused = nobody().to_string();
        assert!(refused.contains("admin.bootstrap_token") && refused.contains("security.token_keys"));
    }

    #[actix_web::test]
    async fn every_address_below_is_closed_also_unknown_ones() {
        let app = App::new().configure(crate::http::admin::configure).wrap(from_fn(request_id::follow));
        let app = init_service(app).await;
        let own = ["operators", "security-log", "auth/me", "auth/mfa"];
        for path in ["streamers", "sessions", "streamers/x/reset", "nowhere"].into_iter().chain(own) {
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
