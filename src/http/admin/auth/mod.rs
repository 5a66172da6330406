//! Operators' sign-ins, and who is let in.
//!
//! Reading order: [`guard`] (the middleware around all routes), [`caller`] (who asks, and what they may), [`gate`]
//! (until when the bootstrap token lets in), [`limits`], [`tokens`] (what a sign-in gives, and how it ends); the
//! routes: [`sign_in`], [`password`], [`second_factor`].

pub mod caller;
pub mod gate;
pub mod guard;
mod limits;
mod password;
mod second_factor;
mod sign_in;
pub mod tokens;

use actix_web::http::StatusCode;
use actix_web::web;

use crate::http::problem::{FieldProblem, Problem, only};
use crate::security::access_token::AccessTokenError;
use crate::security::keyring::KeyringError;
use crate::security::password::PasswordError;

/// After this time a password is worth trying again when too many are being checked.
const PASSWORDS_RETRY: std::time::Duration = std::time::Duration::from_secs(5);

/// The routes for who is not signed in yet. They stand outside of the guard.
pub fn configure_open(routes: &mut web::ServiceConfig) {
    routes
        .service(web::resource("/auth/login").post(sign_in::login).default_service(only("POST")))
        .service(web::resource("/auth/refresh").post(sign_in::refresh).default_service(only("POST")));
}

/// The routes for an operator's own account.
pub fn configure(routes: &mut web::ServiceConfig) {
    let post = |name: &str| web::resource(format!("/auth/{name}")).default_service(only("POST"));
    routes
        .service(web::resource("/auth/me").get(sign_in::me).default_service(only("GET")))
        .service(post("logout").post(sign_in::logout))
        .service(post("logout-all").post(sign_in::logout_all))
        .service(post("password").post(password::change))
        .service(
            web::resource("/auth/mfa")
                .post(second_factor::begin)
                .delete(second_factor::remove)
                .default_service(only("POST, DELETE")),
        )
        .service(post("mfa/confirm").post(second_factor::confirm))
        .service(post("mfa/backup-codes").post(second_factor::replace_backup_codes));
}

/// Why nobody signs in.
fn not_set_up() -> Problem {
    let detail = "Operators can't sign in on this server: the setting security.token_keys \
                  (CHATPULSE_SECURITY__TOKEN_KEYS) has no key.";
    Problem::unavailable(detail, std::time::Duration::from_secs(60))
}

/// 422 for one field.
fn invalid(field: &'static str, detail: String) -> Problem {
    Problem::invalid(vec![FieldProblem { field: field.into(), detail: detail.into() }])
}

/// 403 for an account that is let in, but not to this.
fn forbidden(detail: &'static str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, detail)
}

impl From<PasswordError> for Problem {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => {
                let detail = "Too many passwords are being checked just now. Try again in a few seconds.";
                Problem::unavailable(detail, PASSWORDS_RETRY).because(error)
            }
            _ => Problem::internal(error),
        }
    }
}

impl From<AccessTokenError> for Problem {
    fn from(error: AccessTokenError) -> Self {
        Problem::internal(error)
    }
}

impl From<KeyringError> for Problem {
    fn from(error: KeyringError) -> Self {
        match error {
            KeyringError::NoKey => {
                let detail = "A second factor can't be kept on this server: the setting \
                              security.encryption_keys (CHATPULSE_SECURITY__ENCRYPTION_KEYS) has no key.";
                Problem::unavailable(detail, std::time::Duration::from_secs(60)).because(error)
            }
            _ => Problem::internal(error),
        }
    }
}
