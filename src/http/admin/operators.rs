//! `/operators`: accounts of those who run ChatPulse.

use actix_web::HttpResponse;
use actix_web::http::{StatusCode, header};
use actix_web::web::{self, Data, Path};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::audit::{self, Entry};
use super::auth::caller::{Caller, ManageOperators, May};
use super::auth::tokens;
use super::body::JsonBody;
use super::fields::{Fields, Missing, text};
use super::paging::{Listed, Page};
use super::{ROOT, only};
use crate::domain::config;
use crate::domain::operator::{Operator, Role, canonical_email, email_problem};
use crate::http::problem::{FieldProblem, Problem};
use crate::http::state::State;
use crate::journal::operators::Changed;
use crate::security::password::Passwords;

pub fn configure(routes: &mut web::ServiceConfig) {
    let one = web::resource("/operators/{id}").get(show).patch(change);
    routes
        .service(web::resource("/operators").get(list).post(create).default_service(only("GET, POST")))
        .service(one.default_service(only("GET, PATCH")));
}

/// An operator's account.
#[derive(Debug, Serialize)]
pub struct OperatorShape {
    operator_id: Uuid,
    email: String,
    role: &'static str,
    disabled: bool,
    must_change_password: bool,
    mfa_enrolled: bool,
}

impl From<&Operator> for OperatorShape {
    fn from(operator: &Operator) -> Self {
        OperatorShape {
            operator_id: operator.id,
            email: operator.email.clone(),
            role: operator.role.name(),
            disabled: operator.disabled,
            must_change_password: operator.must_change_password,
            mfa_enrolled: operator.mfa_enrolled,
        }
    }
}

/// An account that was just made.
#[derive(Serialize)]
struct Made {
    #[serde(flatten)]
    operator: OperatorShape,
    /// For the first sign-in, shown this once.
    one_time_password: String,
}

async fn list(_: May<ManageOperators>, state: Data<State>, page: Page) -> Result<HttpResponse, Problem> {
    let operators = state.journal.operators(page.after, page.fetch()).await?;
    let (operators, next) = page.cut(operators, |operator| operator.id);
    let items: Vec<OperatorShape> = operators.iter().map(OperatorShape::from).collect();
    Ok(HttpResponse::Ok().json(Listed { items, next }))
}

async fn show(_: May<ManageOperators>, state: Data<State>, id: Path<Uuid>) -> Result<HttpResponse, Problem> {
    let operator = state.journal.operator(*id).await?.ok_or_else(unknown)?;
    Ok(HttpResponse::Ok().json(OperatorShape::from(&operator)))
}

/// Makes an account with a one-time password. The first one ends the bootstrap token.
async fn create(
    who: May<ManageOperators>,
    state: Data<State>,
    JsonBody(body): JsonBody,
) -> Result<HttpResponse, Problem> {
    let (email, role) = new_operator(body, who.account.is_none()).map_err(Problem::invalid)?;
    let password = Passwords::random();
    let hash = state.passwords.hash(&password).await?;
    let made = state.journal.create_operator(&email, role, &hash, true).await?;
    let taken = || Problem::new(StatusCode::CONFLICT, "An operator with this e-mail address exists already.");
    let operator = made.ok_or_else(taken)?;
    state.gate.note_account();
    let entry = Entry::of(audit::OPERATOR_CREATED, &who).about(operator.id);
    entry.with(json!({ "email": &operator.email, "role": role.name() })).write_if_possible(&state).await;
    let place = format!("{ROOT}/operators/{}", operator.id);
    let made =
        Made { operator: OperatorShape::from(&operator), one_time_password: password.expose().clone() };
    Ok(HttpResponse::Created().insert_header((header::LOCATION, place)).json(made))
}

/// Changes an operator's role, or whether they may sign in. Takes effect at once.
async fn change(
    who: May<ManageOperators>,
    state: Data<State>,
    id: Path<Uuid>,
    JsonBody(body): JsonBody,
) -> Result<HttpResponse, Problem> {
    let (role, disabled) = changes(body).map_err(Problem::invalid)?;
    let before = state.journal.operator(*id).await?.ok_or_else(unknown)?;
    let access = match state.journal.change_operator(*id, role, disabled).await? {
        Changed::Done(access) => access,
        Changed::LastOwner => {
            let detail = "This is the last owner who can sign in. Make another one first.";
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        Changed::Unknown => return Err(unknown()),
    };
    let after = state.journal.operator(*id).await?.ok_or_else(unknown)?;
    note_changes(&state, &who, &before, &after).await?;
    tokens::deny(&state, &access).await?;
    Ok(HttpResponse::Ok().json(OperatorShape::from(&after)))
}

async fn note_changes(
    state: &State,
    who: &Caller,
    before: &Operator,
    after: &Operator,
) -> Result<(), Problem> {
    if before.role != after.role {
        let entry = Entry::of(audit::ROLE_CHANGED, who).about(after.id);
        entry.with(json!({ "from": before.role.name(), "to": after.role.name() })).write(state).await?;
    }
    if before.disabled != after.disabled {
        let kind = if after.disabled { audit::OPERATOR_DISABLED } else { audit::OPERATOR_ENABLED };
        Entry::of(kind, who).about(after.id).write(state).await?;
    }
    Ok(())
}

fn unknown() -> Problem {
    Problem::not_found("There is no such operator.")
}

/// Reads an account to make; `first`: it ends the bootstrap token, and nobody else could make an owner then.
fn new_operator(body: Value, first: bool) -> Result<(String, Role), Vec<FieldProblem>> {
    let mut fields = Fields::of(body, "")?;
    let email = fields.required("email", text).unwrap_or_default();
    let role = fields.take("role", role, Missing::Refused, Role::Owner).unwrap_or(Role::Owner);
    let email = canonical_email(&email);
    let problem = |field, detail| config::Problem { field, detail };
    fields.note(email_problem(&email).map(|detail| problem("email", detail)));
    if first && role != Role::Owner {
        let detail = "has to be \"owner\": the first account ends the bootstrap token";
        fields.note([problem("role", detail.to_owned())]);
    }
    fields.finish((email, role))
}

/// Reads what is to change; what is missing stays.
fn changes(body: Value) -> Result<(Option<Role>, Option<bool>), Vec<FieldProblem>> {
    let mut fields = Fields::of(body, "")?;
    let changes = (fields.optional("role", role), fields.optional("disabled", truth));
    fields.finish(changes)
}

fn role(value: Value) -> Result<Role, &'static str> {
    let named = value.as_str().and_then(Role::named);
    named.ok_or("has to be \"owner\", \"admin\" or \"viewer\"")
}

fn truth(value: Value) -> Result<bool, &'static str> {
    value.as_bool().ok_or("has to be true or false")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields<T>(read: Result<T, Vec<FieldProblem>>) -> Vec<String> {
        let problems = read.err().unwrap_or_default();
        let mut names: Vec<String> = problems.into_iter().map(|problem| problem.field.into()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_account_needs_an_e_mail_and_a_role() {
        let made = new_operator(json!({ "email": " Ada@Example.com", "role": "viewer" }), false);
        assert_eq!(made.unwrap(), ("ada@example.com".to_owned(), Role::Viewer));
        assert_eq!(fields(new_operator(json!({}), false)), ["email", "role"]);
        let wrong = json!({ "email": "ada", "role": "king", "password": "mine" });
        assert_eq!(fields(new_operator(wrong, false)), ["email", "password", "role"]);
    }

    #[test]
    fn the_first_account_is_an_owners() {
        let of = |role: &str| json!({ "email": "ada@example.com", "role": role });
        assert_eq!(fields(new_operator(of("admin"), true)), ["role"]);
        assert!(new_operator(of("owner"), true).is_ok());
    }

    #[test]
    fn what_is_not_named_stays() {
        assert_eq!(changes(json!({})).unwrap(), (None, None));
        assert_eq!(changes(json!({ "role": "admin" })).unwrap(), (Some(Role::Admin), None));
        assert_eq!(changes(json!({ "disabled": true })).unwrap(), (None, Some(true)));
        assert_eq!(
            fields(changes(json!({ "role": 1, "disabled": "yes", "email": "x" }))),
            ["disabled", "email", "role"]
        );
    }
}
