//! Access tokens of operators: JWTs (RFC 7519) signed with HMAC-SHA256, for at most 15 minutes. The header chooses
//! among our keys, by `kid`, and nothing else: algorithm, issuer and audience are fixed.
//!
//! Parsing and rules are the `jsonwebtoken` crate's; the HMAC is the one that everything here uses, plugged in as a
//! [`CryptoProvider`], which saves building RSA and elliptic curves. Times are compared here, because the crate knows
//! only the machine's clock.

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error as JwtError, ErrorKind, new_error};
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

use crate::settings::{Key, Secret};

/// How long a token lives at most, in seconds.
pub const LIFE_SECONDS_MAX: i64 = 15 * 60;
const ISSUER: &str = "chatpulse";
const AUDIENCE: &str = "chatpulse-admin";
/// How far the clocks of two instances may be apart, in seconds: a token is good this long before it was issued.
const SKEW_SECONDS: i64 = 5;
/// Ours have about 600 bytes. Longer ones are not parsed.
const TOKEN_BYTES_MAX: usize = 2048;
const KEY_ID_BYTES: usize = 8;
/// What keys' names are made of.
const KEY_ID_INPUT: &[u8] = b"chatpulse access token key id";

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    // For keys as JSON, which there are none of here.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Issues and opens access tokens.
#[derive(Clone)]
pub struct AccessTokens {
    newest: Arc<EncodingKey>,
    newest_id: String,
    /// Each with its name, the newest first.
    keys: Arc<[(String, DecodingKey)]>,
    rules: Arc<Validation>,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub operator_id: Uuid,
    /// The role's name, as it was when the token was issued.
    pub role: String,
    /// The token's own id, by which it can be denied.
    pub jti: Uuid,
    /// The family of the refresh token, so that logging out ends it.
    pub family: Uuid,
    /// Unix seconds.
    pub issued_at: i64,
    /// Unix seconds; from then on the token is refused.
    pub expires_at: i64,
    pub stage: Stage,
}

/// What its holder may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// All that the role may.
    Full,
    /// Enrol a second factor, and nothing else.
    Enrol,
    /// Change the one-time password, and nothing else.
    Password,
}

/// Why a token is refused, or not issued. For logs: who sent it learns only that it is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessTokenError {
    #[error("it is no access token, or one with something missing: sign in again")]
    Malformed,
    #[error("it was signed with a key that is not in security.token_keys (any more): sign in again")]
    UnknownKey,
    #[error("its signature is wrong: it was not issued here, or changed since")]
    Forged,
    #[error("it was issued by or for something else")]
    Elsewhere,
    #[error("it is not valid yet: compare the clocks")]
    NotYet,
    #[error("it has expired: refresh it")]
    Expired,
    #[error("an access token has to live for at least a second and at most 15 minutes")]
    Life,
    #[error("an access token could not be signed")]
    Unsigned,
}

/// The body of a token. All of it is required, and nothing may stand in it twice.
#[derive(Serialize, Deserialize)]
struct Payload {
    iss: String,
    aud: String,
    sub: Uuid,
    jti: Uuid,
    iat: i64,
    nbf: i64,
    exp: i64,
    family: Uuid,
    role: String,
    stage: Stage,
}

impl AccessTokens {
    /// Signs with the first of `keys`, which are the newest first, and accepts all. `None` without a key.
    pub fn new(keys: &[Key]) -> Option<AccessTokens> {
        let newest = keys.first()?;
        // Fails where it is in force already, which is as good.
        let _ = PROVIDER.install_default();
        Some(AccessTokens {
            newest: Arc::new(EncodingKey::from_secret(newest.expose())),
            newest_id: key_id(newest),
            keys: keys.iter().map(|key| (key_id(key), DecodingKey::from_secret(key.expose()))).collect(),
            rules: Arc::new(rules()),
        })
    }

    /// The token that says `claims`.
    ///
    /// # Errors
    /// [`AccessTokenError::Life`], [`AccessTokenError::Unsigned`].
    pub fn issue(&self, claims: &Claims) -> Result<Secret<String>, AccessTokenError> {
        if !is_short(claims.issued_at, claims.expires_at) {
            return Err(AccessTokenError::Life);
        }
        let header = Header { kid: Some(self.newest_id.clone()), ..Header::new(Algorithm::HS256) };
        let token = jsonwebtoken::encode(&header, &Payload::new(claims), &self.newest);
        token.map(Secret::new).map_err(|_| AccessTokenError::Unsigned)
    }

    /// What `token` says, if it is one of ours and good at `now` (Unix seconds). Whether it was denied since is not
    /// known here.
    ///
    /// # Errors
    /// All but [`AccessTokenError::Unsigned`].
    pub fn open(&self, token: &str, now: i64) -> Result<Claims, AccessTokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AccessTokenError::Malformed);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| AccessTokenError::Malformed)?;
        let id = header.kid.ok_or(AccessTokenError::Malformed)?;
        let (_, key) =
            self.keys.iter().find(|(known, _)| *known == id).ok_or(AccessTokenError::UnknownKey)?;
        let opened = jsonwebtoken::decode::<Payload>(token, key, &self.rules);
        opened.map_err(|error| refusal(&error))?.claims.at(now)
    }
}

impl Payload {
    fn new(claims: &Claims) -> Payload {
        Payload {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: claims.operator_id,
            jti: claims.jti,
            iat: claims.issued_at,
            nbf: claims.issued_at.saturating_sub(SKEW_SECONDS),
            exp: claims.expires_at,
            family: claims.family,
            role: claims.role.clone(),
            stage: claims.stage,
        }
    }

    /// The claims, where `now` is within their time. Issuer and audience were compared before.
    fn at(self, now: i64) -> Result<Claims, AccessTokenError> {
        if !is_short(self.iat, self.exp) {
            return Err(AccessTokenError::Life);
        }
        if now < self.nbf.max(self.iat.saturating_sub(SKEW_SECONDS)) {
            return Err(AccessTokenError::NotYet);
        }
        if now >= self.exp {
            return Err(AccessTokenError::Expired);
        }
        Ok(Claims {
            operator_id: self.sub,
            role: self.role,
            jti: self.jti,
            family: self.family,
            issued_at: self.iat,
            expires_at: self.exp,
            stage: self.stage,
        })
    }
}

fn is_short(issued_at: i64, expires_at: i64) -> bool {
    expires_at.checked_sub(issued_at).is_some_and(|life| (1..=LIFE_SECONDS_MAX).contains(&life))
}

fn rules() -> Validation {
    let mut rules = Validation::new(Algorithm::HS256);
    rules.set_issuer(&[ISSUER]);
    rules.set_audience(&[AUDIENCE]);
    rules.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
    // Both are compared with the caller's clock, in `Payload::at`.
    rules.validate_exp = false;
    rules.validate_nbf = false;
    rules
}

fn refusal(error: &JwtError) -> AccessTokenError {
    match error.kind() {
        ErrorKind::InvalidSignature => AccessTokenError::Forged,
        ErrorKind::InvalidIssuer | ErrorKind::InvalidAudience => AccessTokenError::Elsewhere,
        _ => AccessTokenError::Malformed,
    }
}

/// A key's name: tells keys apart, and nothing of what they are.
fn key_id(key: &Key) -> String {
    let mut mac = hmac(key.expose());
    mac.update(KEY_ID_INPUT);
    hex::encode(&mac.finalize().into_bytes()[..KEY_ID_BYTES])
}

fn hmac(key: &[u8]) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(key);
    // An HMAC takes keys of any length.
    mac.expect("a key of any length")
}

/// HS256 of RFC 7518, 3.2.
struct Hs256(Hmac<Sha256>);

impl Hs256 {
    fn of(&self, message: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(message);
        mac
    }
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>, JwtError> {
    is_hs256(*algorithm, key.family())?;
    Ok(Box::new(Hs256(hmac(key.as_bytes()))))
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, JwtError> {
    is_hs256(*algorithm, key.family())?;
    Ok(Box::new(Hs256(hmac(key.try_get_as_bytes()?))))
}

fn is_hs256(algorithm: Algorithm, key: AlgorithmFamily) -> Result<(), JwtError> {
    let fits = algorithm == Algorithm::HS256 && key == AlgorithmFamily::Hmac;
    if fits { Ok(()) } else { Err(new_error(ErrorKind::InvalidAlgorithm)) }
}

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(self.of(message).finalize().into_bytes().to_vec())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    /// Constant in time.
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        self.of(message).verify_slice(signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_763_700_000;

    fn key(byte: u8) -> Key {
        Secret::new([byte; 32])
    }

    fn tokens(keys: &[u8]) -> AccessTokens {
        AccessTokens::new(&keys.iter().map(|byte| key(*byte)).collect::<Vec<Key>>()).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            operator_id: Uuid::from_u128(1),
            role: "owner".to_owned(),
            jti: Uuid::from_u128(2),
            family: Uuid::from_u128(3),
            issued_at: NOW,
            expires_at: NOW + LIFE_SECONDS_MAX,
            stage: Stage::Full,
        }
    }

    /// What [`tokens`]`(&[1])` would put into a token, to be spoilt.
    fn parts() -> (Value, Value) {
        let header = json!({"typ": "JWT", "alg": "HS256", "kid": key_id(&key(1))});
        (header, serde_json::to_value(Payload::new(&claims())).unwrap())
    }

    /// A token by the book, with a right signature whatever it says.
    fn signed(by: u8, header: &Value, payload: &Value) -> String {
        let [header, payload] = [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let mut mac = Hmac::<Sha256>::new_from_slice(&[by; 32]).unwrap();
        mac.update(format!("{header}.{payload}").as_bytes());
        format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    /// What becomes of a token whose payload was changed before it was signed.
    fn opened_with(change: impl FnOnce(&mut Value)) -> Result<Claims, AccessTokenError> {
        let (header, mut payload) = parts();
        change(&mut payload);
        tokens(&[1]).open(&signed(1, &header, &payload), NOW)
    }

    #[test]
    fn what_was_issued_is_opened() {
        for stage in [Stage::Full, Stage::Enrol, Stage::Password] {
            let claims = Claims { stage, ..claims() };
            let token = tokens(&[1]).issue(&claims).unwrap();
            assert_eq!(tokens(&[1]).open(token.expose(), NOW), Ok(claims));
        }
    }

    #[test]
    fn a_token_is_a_jwt_as_others_sign_it() {
        let (header, payload) = parts();
        assert_eq!(tokens(&[1]).open(&signed(1, &header, &payload), NOW), Ok(claims()));
        // RFC 7515, A.1.
        let key = URL_SAFE_NO_PAD
            .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
            .unwrap();
        let message = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkz\
                       ODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = Hs256(hmac(&key)).try_sign(message.as_bytes()).unwrap();
        assert_eq!(URL_SAFE_NO_PAD.encode(&signature), "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        assert!(Hs256(hmac(&key)).verify(message.as_bytes(), &signature).is_ok());
    }

    #[test]
    fn any_other_algorithm_is_refused_also_with_a_right_signature() {
        let (mut header, payload) = parts();
        for algorithm in ["none", "None", "HS384", "HS512", "RS256", "ES256", "EdDSA", "hs256", ""] {
            header["alg"] = json!(algorithm);
            let token = signed(1, &header, &payload);
            let (message, _) = token.rsplit_once('.').unwrap();
            for token in [message, &token, &format!("{message}.")] {
                assert_eq!(tokens(&[1]).open(token, NOW), Err(AccessTokenError::Malformed), "{algorithm}");
            }
        }
    }

    #[test]
    fn another_key_is_refused_whatever_name_it_claims() {
        let (mut header, payload) = parts();
        let token = signed(2, &header, &payload);
        assert_eq!(tokens(&[1]).open(&token, NOW), Err(AccessTokenError::Forged));
        assert_eq!(tokens(&[2, 1]).open(&token, NOW), Err(AccessTokenError::Forged));
        let theirs = tokens(&[2]).issue(&claims()).unwrap();
        assert_eq!(tokens(&[1]).open(theirs.expose(), NOW), Err(AccessTokenError::UnknownKey));
        for id in [json!(null), json!(7), json!("../1")] {
            header["kid"] = id;
            assert!(tokens(&[1]).open(&signed(1, &header, &payload), NOW).is_err(), "{header}");
        }
    }

    #[test]
    fn an_older_key_opens_until_it_is_taken_away_and_the_newest_signs() {
        let old = tokens(&[1]).issue(&claims()).unwrap();
        let rotated = tokens(&[2, 1]);
        assert_eq!(rotated.open(old.expose(), NOW), Ok(claims()));
        let new = rotated.issue(&claims()).unwrap();
        assert_eq!(tokens(&[2]).open(new.expose(), NOW), Ok(claims()));
        assert_eq!(tokens(&[2]).open(old.expose(), NOW), Err(AccessTokenError::UnknownKey));
    }

    #[test]
    fn a_token_is_good_from_its_issue_to_its_end_and_no_longer() {
        let token = tokens(&[1]).issue(&claims()).unwrap();
        for (now, opened) in [
            (i64::MIN, Err(AccessTokenError::NotYet)),
            (NOW - SKEW_SECONDS - 1, Err(AccessTokenError::NotYet)),
            (NOW - SKEW_SECONDS, Ok(claims())),
            (NOW + LIFE_SECONDS_MAX - 1, Ok(claims())),
            (NOW + LIFE_SECONDS_MAX, Err(AccessTokenError::Expired)),
            (i64::MAX, Err(AccessTokenError::Expired)),
        ] {
            assert_eq!(tokens(&[1]).open(token.expose(), now), opened, "at {now}");
        }
        let early = opened_with(|payload| payload["nbf"] = json!(NOW + 1));
        assert_eq!(early, Err(AccessTokenError::NotYet));
        let ahead = opened_with(|payload| {
            payload["iat"] = json!(NOW + 60);
            payload["nbf"] = json!(NOW - 60);
        });
        assert_eq!(ahead, Err(AccessTokenError::NotYet));
    }

    #[test]
    fn no_token_lives_longer_than_fifteen_minutes() {
        for expires_at in [NOW + LIFE_SECONDS_MAX + 1, NOW, NOW - 1, i64::MAX] {
            let issued = tokens(&[1]).issue(&Claims { expires_at, ..claims() });
            assert_eq!(issued.err(), Some(AccessTokenError::Life), "{expires_at}");
            let opened = opened_with(|payload| payload["exp"] = json!(expires_at));
            assert_eq!(opened, Err(AccessTokenError::Life), "{expires_at}");
        }
        assert!(opened_with(|payload| payload["exp"] = json!(i64::MIN)).is_err());
    }

    #[test]
    fn a_token_from_or_for_elsewhere_is_refused() {
        for claim in ["iss", "aud"] {
            let opened = opened_with(|payload| payload[claim] = json!("chatpulse-other"));
            assert_eq!(opened, Err(AccessTokenError::Elsewhere), "{claim}");
            let opened = opened_with(|payload| payload[claim] = json!([ISSUER, AUDIENCE]));
            assert_eq!(opened, Err(AccessTokenError::Malformed), "{claim}");
        }
    }

    #[test]
    fn every_claim_is_required_and_has_to_be_what_it_is() {
        let (_, payload) = parts();
        let names: Vec<&String> = payload.as_object().unwrap().keys().collect();
        assert_eq!(names.len(), 10);
        for name in names {
            let without = opened_with(|payload| {
                payload.as_object_mut().unwrap().remove(name);
            });
            assert_eq!(without, Err(AccessTokenError::Malformed), "without {name}");
            for value in [json!(null), json!(true), json!({"x": 1}), json!(1.5)] {
                let opened = opened_with(|payload| payload[name] = value.clone());
                assert_eq!(opened, Err(AccessTokenError::Malformed), "{name}: {value}");
            }
        }
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let token = tokens(&[1]).issue(&claims()).unwrap();
        let token = token.expose();
        for place in 0..token.len() {
            let mut damaged = token.clone().into_bytes();
            damaged[place] ^= 1;
            let damaged = String::from_utf8(damaged).unwrap();
            assert!(tokens(&[1]).open(&damaged, NOW).is_err(), "byte {place}");
            assert!(tokens(&[1]).open(&token[..place], NOW).is_err(), "{place} bytes");
        }
        assert!(tokens(&[1]).open(&format!("{token}.{token}"), NOW).is_err());
    }

    #[test]
    fn a_long_text_is_not_looked_at() {
        let (header, mut payload) = parts();
        payload["role"] = json!("r".repeat(TOKEN_BYTES_MAX));
        let opened = tokens(&[1]).open(&signed(1, &header, &payload), NOW);
        assert_eq!(opened, Err(AccessTokenError::Malformed));
    }

    #[test]
    fn without_a_key_there_are_no_tokens() {
        assert!(AccessTokens::new(&[]).is_none());
    }

    #[test]
    fn a_key_s_name_says_nothing_of_the_key() {
        assert_ne!(key_id(&key(1)), key_id(&key(2)));
        assert!(!key_id(&key(0xab)).contains("abab"));
    }
}
