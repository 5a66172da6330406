//! `/auth/password`, and asking a signed-in operator for the password again.

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde_json::{Value, json};

use super::caller::{Account, Origin};
use super::{forbidden, invalid, limits, tokens};
use crate::domain::operator::password_problem;
use crate::http::admin::audit::{self, Entry};
use crate::http::admin::body::JsonBody;
use crate::http::admin::fields::{Fields, secret};
use crate::http::problem::{FieldProblem, Problem};
use crate::http::state::State;
use crate::settings::Secret;

/// The password there is, and the one to be.
struct Passwords {
    current: Secret<String>,
    new: Secret<String>,
}

impl Passwords {
    fn read(body: Value) -> Result<Passwords, Vec<FieldProblem>> {
        let mut fields = Fields::of(body, "")?;
        let current = fields.required("current", secret).unwrap_or_default();
        let new = fields.required("new", secret).unwrap_or_default();
        fields.finish(Passwords { current, new })
    }
}

/// Changes the operator's own password. Every sign-in ends; the answer is a new one.
pub async fn change(
    state: Data<State>,
    account: Account,
    origin: Origin,
    JsonBody(body): JsonBody,
) -> Result<HttpResponse, Problem> {
    let given = Passwords::read(body).map_err(Problem::invalid)?;
    if let Some(problem) = password_problem(given.new.expose(), &account.operator.email) {
        return Err(invalid("new", problem));
    }
    if given.new.expose() == given.current.expose() {
        return Err(invalid("new", "is the current one; choose another".into()));
    }
    prove(&state, &account, &origin, &given.current).await?;
    let hash = state.passwords.hash(&given.new).await?;
    let ended = state.journal.set_password(account.operator.id, &hash, false, None).await?;
    let ended = ended.ok_or_else(tokens::sign_in_again)?;
    let tokens = tokens::begin_anew(&state, account.operator.id, &ended).await?;
    Entry::own(audit::PASSWORD_CHANGED, &account, &origin).write(&state).await?;
    Ok(HttpResponse::Ok().json(tokens))
}

/// Requires the password of who is signed in: a token alone must not change how its owner is known.
///
/// # Errors
/// [`Problem`] 403 when it is wrong, 429 when that was tried too often, 503 when PostgreSQL or Redis is away.
pub async fn prove(
    state: &State,
    account: &Account,
    origin: &Origin,
    password: &Secret<String>,
) -> Result<(), Problem> {
    limits::count_proof(state, account.operator.id).await?;
    let known = state.journal.operator_by_email(&account.operator.email).await?;
    let hash = known.as_ref().map(|(_, hash)| hash.as_str());
    if state.passwords.verify(password, hash).await? {
        return Ok(());
    }
    let entry = Entry::own(audit::PROOF_FAILED, account, origin);
    entry.with(json!({ "why": "password" })).write(state).await?;
    Err(forbidden("The password is wrong."))
}
