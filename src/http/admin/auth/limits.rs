//! How often somebody may try. Where it can't be counted, nobody may.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use actix_web::http::StatusCode;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::caller::Origin;
use crate::hot::HotError;
use crate::hot::limits::{Limit, Verdict};
use crate::http::problem::Problem;
use crate::http::state::State;

/// In which all of these are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Of an IPv6 address, what tells customers apart: each has at least so many bits for themselves (RFC 6177).
const IPV6_PREFIX: u32 = 64;

/// Counts a request of an address.
///
/// # Errors
/// [`HotError`] when it can't be counted; what that means is up to the caller.
pub async fn count_request(state: &State, origin: &Origin) -> Result<Verdict, HotError> {
    let max = state.settings.limits.admin_requests_per_minute;
    check(state, "admin", max, &network(origin.address)).await
}

/// Counts a sign-in by an address and for an account, whether that exists or not.
///
/// # Errors
/// [`Problem`] 429 beyond a limit; 503 when Redis is away.
pub async fn count_sign_in(state: &State, origin: &Origin, email: &str) -> Result<(), Problem> {
    let max = state.settings.limits.operator_sign_ins_per_minute;
    let by_address = check(state, "operator_address", max, &network(origin.address)).await?;
    judge(by_address, "Too many sign-ins were tried from this address. Wait a little, and try again.")?;
    // Whatever was typed: bounded, and not kept in clear.
    let account = hex::encode(&Sha256::digest(email)[..16]);
    let for_account = check(state, "operator_account", max, &account).await?;
    judge(for_account, "Too many sign-ins were tried for this account. Wait a little, and try again.")
}

/// Counts an exchange of a refresh token by an address.
///
/// # Errors
/// [`Problem`] 429 beyond the limit; 503 when Redis is away.
pub async fn count_refresh(state: &State, origin: &Origin) -> Result<(), Problem> {
    let max = state.settings.limits.operator_sign_ins_per_minute;
    let verdict = check(state, "operator_refresh", max, &network(origin.address)).await?;
    judge(verdict, "Too many tokens were refreshed from this address. Wait a little, and try again.")
}

/// Counts a code of a second factor, or a password that is asked for again, for an account.
///
/// # Errors
/// [`Problem`] 429 beyond the limit; 503 when Redis is away.
pub async fn count_proof(state: &State, operator_id: Uuid) -> Result<(), Problem> {
    let max = state.settings.limits.operator_codes_per_minute;
    let verdict = check(state, "operator_code", max, &operator_id.to_string()).await?;
    judge(verdict, "Too many codes or passwords were tried for this account. Wait a little, and try again.")
}

/// Refuses what was too often.
///
/// # Errors
/// [`Problem`] 429.
pub fn judge(verdict: Verdict, detail: &'static str) -> Result<(), Problem> {
    if verdict.allowed {
        return Ok(());
    }
    Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(verdict.retry_after))
}

async fn check(state: &State, module: &'static str, max: u32, subject: &str) -> Result<Verdict, HotError> {
    let limit = Limit { module, window: WINDOW, max };
    state.limits.check(&limit, subject, state.services.clock.now()).await
}

/// Who is counted as one: an address, of IPv6 its network.
fn network(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let kept = address.to_bits() & (u128::MAX << (128 - IPV6_PREFIX));
            Ipv6Addr::from_bits(kept).to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::ResponseError;

    use super::*;

    #[test]
    fn all_addresses_of_a_customer_are_counted_as_one() {
        let counted = |address: &str| network(address.parse().unwrap());
        assert_eq!(counted("203.0.113.9"), "203.0.113.9");
        assert_eq!(counted("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(counted("2001:db8:1:2::"), counted("2001:db8:1:2:ffff::1"));
        assert_ne!(counted("2001:db8:1:3::1"), counted("2001:db8:1:2::1"));
    }

    #[test]
    fn what_was_too_often_is_refused_and_told_when_to_come_again() {
        let verdict = Verdict { allowed: false, remaining: 0, retry_after: Duration::from_secs(7) };
        let answer = judge(verdict, "Too often.").unwrap_err().error_response();
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(answer.headers().get("retry-after").unwrap(), "7");
        assert!(judge(Verdict { allowed: true, ..verdict }, "").is_ok());
    }
}
