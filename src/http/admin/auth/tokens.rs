//! What a sign-in gives, and how it ends: an access token of 15 minutes, and a refresh token that gives the next ones.

use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use super::{guard, not_set_up};
use crate::domain::operator::Operator;
use crate::domain::time::Millis;
use crate::hot::deny::Denied;
use crate::http::admin::operators::OperatorShape;
use crate::http::problem::Problem;
use crate::http::state::State;
use crate::security::access_token::{Claims, LIFE_SECONDS_MAX, Stage};
use crate::security::ticket::Ticket;

/// How often the deny-list is loaded before somebody is sent away: it may be lost again meanwhile.
const LOADS_MAX: usize = 3;

/// Rows of tokens that have ended and are forgotten with a sign-in.
const EXPIRED_A_SIGN_IN: i32 = 1_000;

/// What an operator gets who signs in, or refreshes a sign-in.
#[derive(Serialize)]
pub struct Tokens {
    access_token: String,
    token_type: &'static str,
    /// Seconds of the access token.
    expires_in: i64,
    refresh_token: String,
    /// What has to be done first, if anything.
    stage: Stage,
    operator: OperatorShape,
}

/// Unix seconds on PostgreSQL's clock, which all instances share.
pub fn now_seconds(state: &State) -> i64 {
    state.services.clock.now().0.div_euclid(1000)
}

/// What an operator has to do before anything else.
pub fn stage_of(operator: &Operator) -> Stage {
    if operator.must_change_password {
        Stage::Password
    } else if operator.role.needs_second_factor() && !operator.mfa_enrolled {
        Stage::Enrol
    } else {
        Stage::Full
    }
}

/// Of what a token says and what the account says now, what allows less.
pub fn strictest(one: Stage, other: Stage) -> Stage {
    match (one, other) {
        (Stage::Password, _) | (_, Stage::Password) => Stage::Password,
        (Stage::Enrol, _) | (_, Stage::Enrol) => Stage::Enrol,
        (Stage::Full, Stage::Full) => Stage::Full,
    }
}

/// Signs an operator in, as they were judged.
///
/// # Errors
/// [`Problem`] 401 when the account has changed since; 503 when PostgreSQL is away or no key is set.
pub async fn begin(state: &State, operator: &Operator) -> Result<Tokens, Problem> {
    // Now and then is often enough, and a sign-in is. Failing leaves some rows for the next one.
    let _ = state.journal.forget_expired_operator_tokens(EXPIRED_A_SIGN_IN).await;
    let refresh = Ticket::random();
    let family = state.journal.begin_family(operator.id, &refresh.digest()).await?;
    issue(state, operator, family, &refresh).await
}

/// Signs an operator in anew whose other sign-ins have just ended, and denies the access tokens that came of those.
///
/// # Errors
/// [`Problem`] 401 when the account is disabled meanwhile; 503 when PostgreSQL or Redis is away.
pub async fn begin_anew(
    state: &State,
    operator_id: Uuid,
    ended: &[(Uuid, Millis)],
) -> Result<Tokens, Problem> {
    deny(state, ended).await?;
    let operator = state.journal.operator(operator_id).await?;
    let operator = operator.filter(|operator| !operator.disabled).ok_or_else(sign_in_again)?;
    begin(state, &operator).await
}

/// A new access token of a sign-in, beside its newest refresh token.
///
/// # Errors
/// [`Problem`] 401 when the sign-in has ended, or the account has changed since; 503 when PostgreSQL is away or no key
/// is set.
pub async fn issue(
    state: &State,
    operator: &Operator,
    family: Uuid,
    refresh: &Ticket,
) -> Result<Tokens, Problem> {
    let tokens = state.access_tokens.as_ref().ok_or_else(not_set_up)?;
    let issued_at = now_seconds(state);
    let claims = Claims {
        operator_id: operator.id,
        role: operator.role.name().to_owned(),
        jti: Uuid::new_v4(),
        family,
        issued_at,
        expires_at: issued_at + LIFE_SECONDS_MAX,
        stage: stage_of(operator),
    };
    let access = tokens.issue(&claims)?;
    // Noted before it is given out, so that whoever ends the sign-in denies it too.
    let until = Millis(claims.expires_at * 1000);
    if !state.journal.note_access(claims.jti, family, operator.version, until).await? {
        return Err(sign_in_again());
    }
    Ok(Tokens {
        access_token: access.expose().clone(),
        token_type: "Bearer",
        expires_in: LIFE_SECONDS_MAX,
        refresh_token: refresh.expose(),
        stage: claims.stage,
        operator: OperatorShape::from(operator),
    })
}

/// Denies access tokens for the rest of their lives, on all instances. PostgreSQL has done so already.
///
/// # Errors
/// [`Problem`] 503 when Redis is away.
pub async fn deny(state: &State, jtis: &[(Uuid, Millis)]) -> Result<(), Problem> {
    Ok(state.deny.deny(&lives(jtis, state.services.clock.now())).await?)
}

/// Whether an access token is denied. Loads the list where Redis has lost it.
///
/// # Errors
/// [`Problem`] 503 when it is not known.
pub async fn is_denied(state: &State, jti: Uuid) -> Result<bool, Problem> {
    for _ in 0..LOADS_MAX {
        match state.deny.look(jti).await? {
            Denied::Yes => return Ok(true),
            Denied::No => return Ok(false),
            Denied::NotLoaded => {
                let revoked = state.journal.revoked_access().await?;
                state.deny.load(&lives(&revoked, state.services.clock.now())).await?;
            }
        }
    }
    let detail = "ChatPulse can't tell just now who has signed out. Try again in a few seconds.";
    Err(Problem::unavailable(detail, Duration::from_secs(1)))
}

/// The answer to who holds tokens that are worth nothing any more.
pub fn sign_in_again() -> Problem {
    guard::unauthorized("This sign-in has ended. Sign in again.")
}

/// How long each token still lives. One that has ended is worth nothing by itself.
fn lives(jtis: &[(Uuid, Millis)], now: Millis) -> Vec<(Uuid, Duration)> {
    let life = |until: &Millis| u64::try_from(until.0 - now.0).ok().filter(|left| *left > 0);
    jtis.iter().filter_map(|(jti, until)| Some((*jti, Duration::from_millis(life(until)?)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::operator::Role;

    fn operator(role: Role, must_change_password: bool, mfa_enrolled: bool) -> Operator {
        let (id, email) = (Uuid::from_u128(1), "ada@example.com".to_owned());
        Operator { id, email, role, disabled: false, must_change_password, mfa_enrolled, version: 1 }
    }

    #[test]
    fn the_one_time_password_comes_first_then_the_second_factor_of_who_needs_one() {
        for role in Role::ALL {
            assert_eq!(stage_of(&operator(role, true, false)), Stage::Password);
            assert_eq!(stage_of(&operator(role, true, true)), Stage::Password);
            assert_eq!(stage_of(&operator(role, false, true)), Stage::Full);
        }
        assert_eq!(stage_of(&operator(Role::Owner, false, false)), Stage::Enrol);
        assert_eq!(stage_of(&operator(Role::Admin, false, false)), Stage::Enrol);
        assert_eq!(stage_of(&operator(Role::Viewer, false, false)), Stage::Full);
    }

    #[test]
    fn what_allows_less_counts() {
        let all = [Stage::Full, Stage::Enrol, Stage::Password];
        for (weaker, one) in all.into_iter().enumerate() {
            for (stronger, other) in all.into_iter().enumerate() {
                assert_eq!(strictest(one, other), all[weaker.max(stronger)]);
            }
        }
    }

    #[test]
    fn a_token_is_denied_for_the_rest_of_its_life() {
        let jtis = [1, 2, 3].map(Uuid::from_u128);
        let untils = [Millis(5_000), Millis(4_000), Millis(3_000)];
        let listed: Vec<_> = jtis.into_iter().zip(untils).collect();
        assert_eq!(lives(&listed, Millis(4_000)), [(jtis[0], Duration::from_secs(1))]);
    }
}
