//! `/auth/login`, `/auth/refresh`, `/auth/logout`, `/auth/logout-all` and `/auth/me`.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::Data;
use serde::Serialize;
use serde_json::{Value, json};

use super::caller::{Account, Origin};
use super::second_factor::{self, Factor};
use super::{guard, limits, not_set_up, tokens};
use crate::domain::operator::{Operator, canonical_email, email_problem};
use crate::domain::time::Millis;
use crate::http::admin::audit::{self, Entry};
use crate::http::admin::body::JsonBody;
use crate::http::admin::fields::{Fields, secret, text};
use crate::http::admin::operators::OperatorShape;
use crate::http::problem::{FieldProblem, Problem};
use crate::http::state::State;
use crate::journal::operator_tokens::Rotation;
use crate::security::access_token::Stage;
use crate::security::ticket::Ticket;
use crate::settings::Secret;

/// The problem of who has a second factor and gave no code.
const CODE_REQUIRED: &str = "/problems/code-required";

/// What somebody signs in with.
struct Credentials {
    email: String,
    password: Secret<String>,
    code: Option<Secret<String>>,
}

impl Credentials {
    fn read(body: Value) -> Result<Credentials, Vec<FieldProblem>> {
        let mut fields = Fields::of(body, "")?;
        let email = fields.required("email", text).unwrap_or_default();
        let password = fields.required("password", secret).unwrap_or_default();
        let code = fields.optional("code", secret);
        fields.finish(Credentials { email: canonical_email(&email), password, code })
    }
}

/// Signs in with a password, and the second factor where there is one.
pub async fn login(
    state: Data<State>,
    origin: Origin,
    JsonBody(body): JsonBody,
) -> Result<HttpResponse, Problem> {
    let given = Credentials::read(body).map_err(Problem::invalid)?;
    if state.access_tokens.is_none() {
        return Err(not_set_up());
    }
    limits::count_sign_in(&state, &origin, &given.email).await?;
    let operator = by_password(&state, &origin, &given).await?;
    let factor = if operator.mfa_enrolled {
        Some(by_code(&state, &origin, &operator, given.code.as_ref()).await?)
    } else {
        None
    };
    let tokens = tokens::begin(&state, &operator).await?;
    let entry = Entry::new(audit::SIGNED_IN, &origin).by(operator.id).about(operator.id);
    entry.with(json!({ "second_factor": factor.map(Factor::name) })).write(&state).await?;
    Ok(HttpResponse::Ok().json(tokens))
}

/// The operator with this e-mail and password. Where there is none, a password is compared all the same, and the answer
/// is the same.
async fn by_password(state: &State, origin: &Origin, given: &Credentials) -> Result<Operator, Problem> {
    let is_email = email_problem(&given.email).is_none();
    let known = if is_email { state.journal.operator_by_email(&given.email).await? } else { None };
    let hash = known.as_ref().map(|(_, hash)| hash.as_str());
    let fits = state.passwords.verify(&given.password, hash).await?;
    let entry = Entry::new(audit::SIGN_IN_FAILED, origin);
    let (entry, why) = match known {
        Some((operator, _)) if fits && !operator.disabled => return Ok(operator),
        Some((operator, _)) => (entry.by(operator.id), if fits { "disabled" } else { "password" }),
        None => (entry, "unknown"),
    };
    // What is no e-mail address may be a password in the wrong field.
    let entry = if is_email { entry.about(&given.email) } else { entry };
    entry.with(json!({ "why": why })).write(state).await?;
    Err(guard::unauthorized("The e-mail address or the password is wrong."))
}

/// Asks for the second factor of who knew the password.
async fn by_code(
    state: &State,
    origin: &Origin,
    operator: &Operator,
    code: Option<&Secret<String>>,
) -> Result<Factor, Problem> {
    let Some(code) = code else {
        let detail = "Send `code` too: six digits of your authenticator app, or a backup code.";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, detail).of_type(CODE_REQUIRED));
    };
    if let Some(factor) = second_factor::accept(state, origin, operator.id, code).await? {
        return Ok(factor);
    }
    let entry = Entry::new(audit::SIGN_IN_FAILED, origin).by(operator.id).about(&operator.email);
    entry.with(json!({ "why": "code" })).write(state).await?;
    Err(guard::unauthorized("The code is wrong, or was used already. Take the next one."))
}

/// Exchanges a refresh token for new tokens. One that comes a second time is in two hands: neither is believed.
pub async fn refresh(
    state: Data<State>,
    origin: Origin,
    JsonBody(body): JsonBody,
) -> Result<HttpResponse, Problem> {
    let given = refresh_token(body).map_err(Problem::invalid)?;
    limits::count_refresh(&state, &origin).await?;
    let old = Ticket::parse(given.expose()).ok_or_else(tokens::sign_in_again)?;
    let new = Ticket::random();
    let (operator_id, family) = match state.journal.rotate_refresh(&old.digest(), &new.digest()).await? {
        Rotation::Rotated { operator_id, family } | Rotation::Grace { operator_id, family } => {
            (operator_id, family)
        }
        Rotation::Reused { operator_id, family, access } => {
            let entry = Entry::new(audit::REFRESH_TOKEN_REUSED, &origin).by(operator_id).about(operator_id);
            entry.with(json!({ "family": family })).write(&state).await?;
            tokens::deny(&state, &access).await?;
            return Err(tokens::sign_in_again());
        }
        Rotation::Unknown => return Err(tokens::sign_in_again()),
    };
    let operator = state.journal.operator(operator_id).await?;
    let operator = operator.filter(|operator| !operator.disabled).ok_or_else(tokens::sign_in_again)?;
    Ok(HttpResponse::Ok().json(tokens::issue(&state, &operator, family, &new).await?))
}

fn refresh_token(body: Value) -> Result<Secret<String>, Vec<FieldProblem>> {
    let mut fields = Fields::of(body, "")?;
    let token = fields.required("refresh_token", secret).unwrap_or_default();
    fields.finish(token)
}

/// Ends this sign-in: its access tokens at once, and its refresh token.
pub async fn logout(state: Data<State>, account: Account, origin: Origin) -> Result<HttpResponse, Problem> {
    let mut ended = state.journal.revoke_family(account.family).await?;
    ended.push((account.jti, Millis(account.expires_at * 1000)));
    tokens::deny(&state, &ended).await?;
    Entry::own(audit::SIGNED_OUT, &account, &origin).write(&state).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Ends all sign-ins of the operator.
pub async fn logout_all(
    state: Data<State>,
    account: Account,
    origin: Origin,
) -> Result<HttpResponse, Problem> {
    let ended = state.journal.revoke_all_families(account.operator.id).await?;
    tokens::deny(&state, &ended).await?;
    Entry::own(audit::SIGNED_OUT_EVERYWHERE, &account, &origin).write(&state).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Who is signed in.
#[derive(Serialize)]
struct Me {
    operator: OperatorShape,
    stage: Stage,
    /// When the access token ends, in Unix milliseconds.
    expires_at: i64,
    /// Null without a second factor.
    backup_codes_left: Option<i64>,
}

/// Tells who is signed in.
pub async fn me(state: Data<State>, account: Account) -> Result<HttpResponse, Problem> {
    let operator = &account.operator;
    let left = match operator.mfa_enrolled {
        true => Some(state.journal.backup_codes_left(operator.id).await?),
        false => None,
    };
    Ok(HttpResponse::Ok().json(Me {
        operator: OperatorShape::from(operator),
        stage: account.stage,
        expires_at: account.expires_at * 1000,
        backup_codes_left: left,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_whole_and_their_problems_told_at_once() {
        let body = json!({ "email": " Ada@Example.COM ", "password": " kept as it is ", "code": null });
        let given = Credentials::read(body).ok().unwrap();
        assert_eq!(given.email, "ada@example.com");
        assert_eq!(given.password.expose(), " kept as it is ");
        assert!(given.code.is_none());
        let problems = Credentials::read(json!({ "email": 7, "code": 123456, "otp": "1" })).err().unwrap();
        let mut fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_ref()).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["code", "email", "otp", "password"]);
    }
}
