//! `/auth/mfa…`: the second factor, codes of an authenticator app (RFC 6238), and backup codes for who has lost it.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::Data;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::caller::{Account, Origin};
use super::tokens::Tokens;
use super::{forbidden, limits, password, tokens};
use crate::http::admin::audit::{self, Entry};
use crate::http::admin::body::JsonBody;
use crate::http::admin::fields::{Fields, secret};
use crate::http::problem::{FieldProblem, Problem};
use crate::http::state::State;
use crate::reconcile::vault::second_factor_place;
use crate::security::access_token::Stage;
use crate::security::totp::{TotpSeed, backup_code_digest, backup_codes};
use crate::settings::Secret;

/// What authenticator apps call us.
const ISSUER: &str = "ChatPulse";
/// Digits of an authenticator app's code.
const DIGITS: usize = 6;

/// What a code turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factor {
    App,
    BackupCode,
}

impl Factor {
    /// The name in the security log.
    pub fn name(self) -> &'static str {
        match self {
            Factor::App => "app",
            Factor::BackupCode => "backup_code",
        }
    }
}

/// Uses up a code of an operator: a step of the app, or a backup code. `None`: it is wrong, or was used before.
///
/// # Errors
/// [`Problem`] 429 when too many were tried; 503 when PostgreSQL or Redis is away.
pub async fn accept(
    state: &State,
    origin: &Origin,
    operator_id: Uuid,
    code: &Secret<String>,
) -> Result<Option<Factor>, Problem> {
    limits::count_proof(state, operator_id).await?;
    if is_of_app(code.expose()) {
        let accepted = accept_step(state, operator_id, code).await?;
        return Ok(accepted.then_some(Factor::App));
    }
    if !state.journal.use_backup_code(operator_id, &backup_code_digest(code.expose())).await? {
        return Ok(None);
    }
    let entry = Entry::new(audit::BACKUP_CODE_USED, origin).by(operator_id).about(operator_id);
    entry.write(state).await?;
    Ok(Some(Factor::BackupCode))
}

/// Whether it looks like a code of an app rather than a backup code.
fn is_of_app(code: &str) -> bool {
    let mut signs = code.chars().filter(|sign| !sign.is_whitespace());
    signs.by_ref().take(DIGITS).filter(char::is_ascii_digit).count() == DIGITS && signs.next().is_none()
}

async fn accept_step(state: &State, operator_id: Uuid, code: &Secret<String>) -> Result<bool, Problem> {
    let kept = state.journal.mfa_secret(operator_id).await?.filter(|kept| kept.confirmed);
    let Some(kept) = kept else { return Ok(false) };
    let seed = open(state, operator_id, &kept.sealed)?;
    match seed.step_of(code.expose(), tokens::now_seconds(state), kept.last_step) {
        // Of all who come with this code at once, one is let in.
        Some(step) => Ok(state.journal.accept_step(operator_id, step).await?),
        None => Ok(false),
    }
}

/// What is shown of a second factor that is about to be enrolled: this once.
#[derive(Serialize)]
struct Enrolment {
    /// To be typed into the app, where the code can't be photographed.
    secret: String,
    uri: String,
    qr_svg: String,
}

/// Begins to enrol a second factor, in place of one that was begun and not confirmed.
pub async fn begin(
    state: Data<State>,
    account: Account,
    origin: Origin,
    JsonBody(body): JsonBody,
) -> Result<HttpResponse, Problem> {
    refuse_before_password(&account)?;
    let given = Proof::read(body, Asked::Password).map_err(Problem::invalid)?;
    let operator = &account.operator;
    if operator.mfa_enrolled {
        let detail = "You have a second factor. Remove it first, by `DELETE /admin/api/v1/auth/mfa`.";
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    password::prove(&state, &account, &origin, &given.password).await?;
    let seed = TotpSeed::random();
    let (key_id, row) = (state.keyring.newest()?, operator.id.to_string());
    let sealed = state.keyring.seal(second_factor_place(&row), seed.base32().expose())?;
    if !state.journal.store_mfa_secret(operator.id, &sealed, &key_id.to_string()).await? {
        let detail = "A second factor was enrolled meanwhile. Sign in again.";
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    Entry::own(audit::MFA_BEGUN, &account, &origin).write(&state).await?;
    let uri = seed.uri(ISSUER, &operator.email);
    let qr_svg = TotpSeed::qr_svg(&uri).map_err(Problem::internal)?;
    let (secret, uri) = (seed.base32().expose().clone(), uri.expose().clone());
    Ok(HttpResponse::Ok().json(Enrolment { secret, uri, qr_svg }))
}

/// Backup codes, shown this once.
#[derive(Serialize)]
struct BackupCodes {
    backup_codes: Vec<String>,
}

/// The same, with the sign-in that takes the place of all others.
#[derive(Serialize)]
struct Enrolled {
    #[serde(flatten)]
    codes: BackupCodes,
    #[serde(flatten)]
    tokens: Tokens,
}

/// Confirms a second factor by a first code of it. Every sign-in ends, since it came about without; the answer is a new
/// one.
pub async fn confirm(
    state: Data<State>,
    account: Account,
    origin: Origin,
    JsonBody(body): JsonBody,
) -> Result<HttpResponse, Problem> {
    refuse_before_password(&account)?;
    let given = Proof::read(body, Asked::Code).map_err(Problem::invalid)?;
    let operator_id = account.operator.id;
    limits::count_proof(&state, operator_id).await?;
    let kept = state.journal.mfa_secret(operator_id).await?.filter(|kept| !kept.confirmed);
    let kept = kept.ok_or_else(nothing_waits)?;
    let seed = open(&state, operator_id, &kept.sealed)?;
    let Some(step) = seed.step_of(given.code.expose(), tokens::now_seconds(&state), None) else {
        return Err(wrong_code(&state, &account, &origin).await?);
    };
    let (codes, digests) = fresh_codes();
    let ended = state.journal.confirm_mfa(operator_id, step, &digests, None).await?;
    let tokens = tokens::begin_anew(&state, operator_id, &ended.ok_or_else(nothing_waits)?).await?;
    Entry::own(audit::MFA_ENROLLED, &account, &origin).write_if_possible(&state).await;
    Ok(HttpResponse::Ok().json(Enrolled { codes, tokens }))
}

/// Removes the second factor. Every sign-in ends; the answer is a new one.
pub async fn remove(
    state: Data<State>,
    account: Account,
    origin: Origin,
    JsonBody(body): JsonBody,
) -> Result<HttpResponse, Problem> {
    prove_both(&state, &account, &origin, body).await?;
    let ended = state.journal.remove_mfa(account.operator.id, None).await?.ok_or_else(none_enrolled)?;
    let tokens = tokens::begin_anew(&state, account.operator.id, &ended).await?;
    Entry::own(audit::MFA_REMOVED, &account, &origin).write(&state).await?;
    Ok(HttpResponse::Ok().json(tokens))
}

/// Gives new backup codes in place of those there are.
pub async fn replace_backup_codes(
    state: Data<State>,
    account: Account,
    origin: Origin,
    JsonBody(body): JsonBody,
) -> Result<HttpResponse, Problem> {
    prove_both(&state, &account, &origin, body).await?;
    let (codes, digests) = fresh_codes();
    if !state.journal.replace_backup_codes(account.operator.id, &digests).await? {
        return Err(none_enrolled());
    }
    Entry::own(audit::BACKUP_CODES_REPLACED, &account, &origin).write_if_possible(&state).await;
    Ok(HttpResponse::Ok().json(codes))
}

/// What a signed-in operator is asked for again.
struct Proof {
    password: Secret<String>,
    code: Secret<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Password,
    Code,
    Both,
}

impl Proof {
    fn read(body: Value, asked: Asked) -> Result<Proof, Vec<FieldProblem>> {
        let mut fields = Fields::of(body, "")?;
        let mut take = |name: &'static str, unless: Asked| match asked == unless {
            true => Secret::default(),
            false => fields.required(name, secret).unwrap_or_default(),
        };
        let proof = Proof { password: take("password", Asked::Code), code: take("code", Asked::Password) };
        fields.finish(proof)
    }
}

/// Requires password and code of who is signed in and has a second factor.
async fn prove_both(state: &State, account: &Account, origin: &Origin, body: Value) -> Result<(), Problem> {
    refuse_before_password(account)?;
    let given = Proof::read(body, Asked::Both).map_err(Problem::invalid)?;
    if !account.operator.mfa_enrolled {
        return Err(none_enrolled());
    }
    password::prove(state, account, origin, &given.password).await?;
    match accept(state, origin, account.operator.id, &given.code).await? {
        Some(_) => Ok(()),
        None => Err(wrong_code(state, account, origin).await?),
    }
}

/// A one-time password was seen by somebody else: what is enrolled by it might be theirs.
fn refuse_before_password(account: &Account) -> Result<(), Problem> {
    match account.stage {
        Stage::Password => Err(forbidden("Change your one-time password first.")),
        Stage::Enrol | Stage::Full => Ok(()),
    }
}

async fn wrong_code(state: &State, account: &Account, origin: &Origin) -> Result<Problem, Problem> {
    let entry = Entry::own(audit::PROOF_FAILED, account, origin);
    entry.with(json!({ "why": "code" })).write(state).await?;
    Ok(forbidden("The code is wrong, or was used already. Take the next one."))
}

fn nothing_waits() -> Problem {
    let detail = "No second factor waits for its first code. Begin by `POST /admin/api/v1/auth/mfa`.";
    Problem::new(StatusCode::CONFLICT, detail)
}

fn none_enrolled() -> Problem {
    Problem::new(StatusCode::CONFLICT, "You have no second factor.")
}

/// New backup codes, and what is stored of them.
fn fresh_codes() -> (BackupCodes, Vec<[u8; 32]>) {
    let codes = backup_codes();
    let digests = codes.iter().map(|code| backup_code_digest(code.expose())).collect();
    (BackupCodes { backup_codes: codes.iter().map(|code| code.expose().clone()).collect() }, digests)
}

fn open(state: &State, operator_id: Uuid, sealed: &[u8]) -> Result<TotpSeed, Problem> {
    let row = operator_id.to_string();
    let seed = state.keyring.open(second_factor_place(&row), sealed)?;
    TotpSeed::from_base32(seed.expose()).ok_or_else(|| Problem::internal("a sealed second factor is no seed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_an_app_are_told_from_backup_codes() {
        for code in ["123456", " 123 456 ", "000000"] {
            assert!(is_of_app(code), "{code}");
        }
        for code in ["", "12345", "1234567", "12345a", "ABCD-EFGH-IJKL-MNOP", "١٢٣٤٥٦"] {
            assert!(!is_of_app(code), "{code}");
        }
    }

    #[test]
    fn what_is_asked_for_is_required_and_nothing_else_taken() {
        let fields = |body, asked| {
            let problems = Proof::read(body, asked).err().unwrap_or_default();
            problems.into_iter().map(|problem| problem.field.into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(fields(json!({}), Asked::Both), ["password", "code"]);
        assert_eq!(fields(json!({ "password": "x", "code": "1" }), Asked::Both), [""; 0]);
        assert_eq!(fields(json!({ "password": "x", "code": "1" }), Asked::Password), ["code"]);
        assert_eq!(fields(json!({ "password": "x", "code": "1" }), Asked::Code), ["password"]);
    }
}
