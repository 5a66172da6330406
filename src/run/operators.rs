//! Operators' accounts, from the command line.

use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use crate::domain::operator::{Role, canonical_email, email_problem};
use crate::journal::JournalError;
use crate::journal::security_log::SecurityEntry;
use crate::security::password::{PasswordError, Passwords};
use crate::settings::{Secret, Settings};

/// What the security log says of an account that was made.
const CREATED: &str = "operator_created";
/// What stands there for the request: there is none.
const COMMAND: &str = "operator create";

/// An account that was made.
pub struct NewOperator {
    pub operator_id: Uuid,
    pub email: String,
    pub role: Role,
    /// For the first sign-in, at which it has to be changed. It stands nowhere else.
    pub password: Secret<String>,
    /// Why the security log knows nothing of it, if it doesn't.
    pub unlogged: Option<JournalError>,
}

/// Why no account was made.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The e-mail address can't be used.
    #[error("--email {0}")]
    Email(String),
    #[error("{0} has an account already; write another e-mail address")]
    Taken(String),
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl NewOperator {
    /// The account with its password as one line of JSON, for who has asked for it.
    ///
    /// # Errors
    /// [`serde_json::Error`], which these values don't give.
    pub fn to_json(&self) -> serde_json::Result<String> {
        #[derive(Serialize)]
        struct Line<'a> {
            operator_id: Uuid,
            email: &'a str,
            role: &'static str,
            password: &'a str,
        }
        let password = self.password.expose();
        let NewOperator { operator_id, email, role, .. } = self;
        let line = Line { operator_id: *operator_id, email, role: role.name(), password };
        serde_json::to_string(&line)
    }
}

/// Makes an operator's account with a random password.
///
/// # Errors
/// [`OperatorError`]; then there is none, unless PostgreSQL went away while it was asked.
pub async fn create(settings: &Settings, email: &str, role: Role) -> Result<NewOperator, OperatorError> {
    let email = canonical_email(email);
    if let Some(problem) = email_problem(&email) {
        return Err(OperatorError::Email(problem));
    }
    let journal = super::journal(settings, Uuid::now_v7())?;
    let password = Passwords::random();
    let hash = Passwords::new(1).hash(&password).await?;
    let Some(operator) = journal.create_operator(&email, role, &hash, true).await? else {
        return Err(OperatorError::Taken(email));
    };
    let entry = SecurityEntry {
        kind: CREATED,
        operator_id: None,
        subject: Some(operator.id.to_string()),
        address: None,
        request_id: COMMAND.into(),
        detail: json!({ "email": email, "role": role.name() }),
    };
    // The account is there, and its password is known to this process alone: it has to be shown in any case.
    let unlogged = journal.log_security(&entry).await.err();
    Ok(NewOperator { operator_id: operator.id, email, role, password, unlogged })
}
