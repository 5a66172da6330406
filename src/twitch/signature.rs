//! Is it Twitch that speaks? Verification of EventSub webhook messages, pure.
//!
//! Twitch signs the message id, the timestamp (both as the headers spell them) and the raw body with
//! HMAC-SHA256 under a shared secret:
//! <https://dev.twitch.tv/docs/eventsub/handling-webhook-events/#verifying-the-event-message>.

use std::borrow::Cow;
use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

/// Header of the message's opaque id; a resend has the same one.
pub const MESSAGE_ID: &str = "twitch-eventsub-message-id";
/// Header of the resend count. Not signed and not read here.
pub const MESSAGE_RETRY: &str = "twitch-eventsub-message-retry";
/// Header that says what the message is for: see [`MessageType`].
pub const MESSAGE_TYPE: &str = "twitch-eventsub-message-type";
/// Header of the signature.
pub const MESSAGE_SIGNATURE: &str = "twitch-eventsub-message-signature";
/// Header of the time of sending, RFC 3339.
pub const MESSAGE_TIMESTAMP: &str = "twitch-eventsub-message-timestamp";
/// Header of the subscription's type. Not signed; the body says it too.
pub const SUBSCRIPTION_TYPE: &str = "twitch-eventsub-subscription-type";
/// Header of the version of the subscription's type. Not signed and not read here.
pub const SUBSCRIPTION_VERSION: &str = "twitch-eventsub-subscription-version";

/// A message older than this is refused (Twitch's own advice against replays).
const AGE_MAX: Duration = Duration::minutes(10);
/// A message from further ahead than this is refused.
const AHEAD_MAX: Duration = Duration::minutes(1);
/// What Twitch allows as a secret: so many ASCII characters.
const SECRET_CHARS: std::ops::RangeInclusive<usize> = 10..=100;
const SIGNATURE_PREFIX: &[u8] = b"sha256=";

/// The headers of one message as they came; `None` for a header that was not there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a> {
    /// [`MESSAGE_ID`]
    pub id: Option<&'a [u8]>,
    /// [`MESSAGE_TIMESTAMP`]
    pub timestamp: Option<&'a [u8]>,
    /// [`MESSAGE_SIGNATURE`]
    pub signature: Option<&'a [u8]>,
    /// [`MESSAGE_TYPE`]
    pub message_type: Option<&'a [u8]>,
    /// [`SUBSCRIPTION_TYPE`]; Twitch need not send it with a challenge.
    pub subscription_type: Option<&'a [u8]>,
}

/// What a message is for, as its header says. The header is not signed: what the message does must
/// follow from its body too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    Notification,
    Challenge,
    Revocation,
    /// Something that Twitch did not have when this was written.
    Other,
}

/// A message that Twitch signed a short while ago. Only [`Secrets::verify`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Verified<'a> {
    id: &'a [u8],
    message_type: MessageType,
    subscription_type: Option<&'a [u8]>,
    body: &'a [u8],
}

/// Why a message is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the header {0} is missing; Twitch always sends it")]
    MissingHeader(&'static str),
    #[error("the signature is malformed; it must be sha256= and 64 hexadecimal digits")]
    MalformedSignature,
    #[error("the signature is wrong; the webhook secret here must be the subscription's")]
    WrongSignature,
    #[error("the timestamp is malformed; it must be a time in RFC 3339")]
    MalformedTimestamp,
    #[error("the message is more than 10 minutes old, or this machine's clock is ahead")]
    TooOld,
    #[error("the message is more than 1 minute ahead of this machine's clock, which may be behind")]
    TooNew,
}

/// Why a secret can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("there is no webhook secret; set one of 10 to 100 ASCII characters")]
    None,
    #[error("a webhook secret has {0} bytes; Twitch takes 10 to 100 ASCII characters")]
    Length(usize),
    #[error("a webhook secret holds a character that is not ASCII; Twitch takes 10 to 100 ASCII characters")]
    NotAscii,
}

/// The webhook secrets in force: one, or during a rotation the new one and the old one.
///
/// Holds the keyed state instead of the secrets, so that a message costs no key setup. It is wiped
/// from memory when dropped and never shown.
#[derive(Clone)]
pub struct Secrets(Vec<Hmac<Sha256>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Secrets({} not shown)", self.0.len())
    }
}

impl Secrets {
    /// Takes the secrets, the likeliest first.
    ///
    /// # Errors
    /// [`SecretError`] when there is none, or one that Twitch would not take.
    pub fn new<S: AsRef<str>>(secrets: impl IntoIterator<Item = S>) -> Result<Self, SecretError> {
        let keyed =
            secrets.into_iter().map(|secret| keyed(secret.as_ref())).collect::<Result<Vec<_>, _>>()?;
        if keyed.is_empty() { Err(SecretError::None) } else { Ok(Secrets(keyed)) }
    }

    /// Checks that Twitch signed `headers` and `body` and that the message is fresh at `now`.
    ///
    /// The signature is looked at before the timestamp: so a timestamp error means that Twitch's
    /// clock and ours disagree or that somebody replays, never just noise. The comparison takes the
    /// same time wherever the signatures differ.
    ///
    /// # Errors
    /// [`SignatureError`]; the first of missing header, signature, timestamp.
    pub fn verify<'a>(
        &self,
        headers: &Headers<'a>,
        body: &'a [u8],
        now: OffsetDateTime,
    ) -> Result<Verified<'a>, SignatureError> {
        let id = required(headers.id, MESSAGE_ID)?;
        let timestamp = required(headers.timestamp, MESSAGE_TIMESTAMP)?;
        let signature = required(headers.signature, MESSAGE_SIGNATURE)?;
        let message_type = required(headers.message_type, MESSAGE_TYPE)?;

        let claimed = decode_signature(signature)?;
        let genuine =
            |key: &Hmac<Sha256>| message_mac(key, id, timestamp, body).verify_slice(&claimed).is_ok();
        if !self.0.iter().any(genuine) {
            return Err(SignatureError::WrongSignature);
        }
        check_age(timestamp, now)?;
        Ok(Verified {
            id,
            message_type: MessageType::of(message_type),
            subscription_type: headers.subscription_type,
            body,
        })
    }

    /// The signature header that Twitch would send, under the first secret.
    pub fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let Some(key) = self.0.first() else { return String::new() }; // `new` refuses an empty list
        let mac = message_mac(key, id.as_bytes(), timestamp.as_bytes(), body).finalize();
        format!("sha256={}", hex::encode(mac.into_bytes()))
    }
}

/// The signature header that Twitch would send under `secret`. Who signs often makes [`Secrets`]
/// once and calls [`Secrets::sign`].
///
/// # Errors
/// [`SecretError`] when Twitch would not take `secret`.
pub fn sign(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> Result<String, SecretError> {
    Ok(Secrets::new([secret])?.sign(id, timestamp, body))
}

impl MessageType {
    fn of(header: &[u8]) -> Self {
        match header {
            b"notification" => MessageType::Notification,
            b"webhook_callback_verification" => MessageType::Challenge,
            b"revocation" => MessageType::Revocation,
            _ => MessageType::Other,
        }
    }
}

impl<'a> Verified<'a> {
    /// Twitch's id of this message, the same on a resend.
    pub fn id(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.id)
    }

    /// What the message is for.
    pub fn message_type(&self) -> MessageType {
        self.message_type
    }

    /// The subscription's type as the header says it, which nobody signed; for logs.
    pub fn subscription_type(&self) -> Option<Cow<'a, str>> {
        self.subscription_type.map(String::from_utf8_lossy)
    }

    /// The body, byte for byte.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }
}

fn keyed(secret: &str) -> Result<Hmac<Sha256>, SecretError> {
    if !secret.is_ascii() {
        return Err(SecretError::NotAscii);
    }
    let wrong_length = SecretError::Length(secret.len());
    if !SECRET_CHARS.contains(&secret.len()) {
        return Err(wrong_length);
    }
    // HMAC takes keys of any length; the error is mapped for the type's sake.
    Hmac::new_from_slice(secret.as_bytes()).map_err(|_| wrong_length)
}

fn required<'a>(header: Option<&'a [u8]>, name: &'static str) -> Result<&'a [u8], SignatureError> {
    header.filter(|value| !value.is_empty()).ok_or(SignatureError::MissingHeader(name))
}

fn decode_signature(header: &[u8]) -> Result<[u8; 32], SignatureError> {
    let digits = header.strip_prefix(SIGNATURE_PREFIX).ok_or(SignatureError::MalformedSignature)?;
    let mut signature = [0; 32];
    hex::decode_to_slice(digits, &mut signature).map_err(|_| SignatureError::MalformedSignature)?;
    Ok(signature)
}

fn message_mac(key: &Hmac<Sha256>, id: &[u8], timestamp: &[u8], body: &[u8]) -> Hmac<Sha256> {
    key.clone().chain_update(id).chain_update(timestamp).chain_update(body)
}

fn check_age(timestamp: &[u8], now: OffsetDateTime) -> Result<(), SignatureError> {
    let sent = std::str::from_utf8(timestamp)
        .ok()
        .and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok())
        .ok_or(SignatureError::MalformedTimestamp)?;
    let age = now - sent;
    if age > AGE_MAX {
        Err(SignatureError::TooOld)
    } else if age < -AHEAD_MAX {
        Err(SignatureError::TooNew)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    const SECRET: &str = "secretabcd";
    const ID: &str = "ae2ff348-e102-16be-a3eb-6830c1bf38d2";
    const TIMESTAMP: &str = "2021-02-19T23:47:00.8091512Z";
    const SIGNATURE: &str = "sha256=d10f5bd9474b7ac7bd7105eb79c2d52768b4d0cd2a135982c3bf5a1d59a78823";
    const BODY: &str = r#"{"subscription":{"id":"ae2ff348-e102-16be-a3eb-6830c1bf38d2","status":"enabled","type":"channel.follow","version":"1","condition":{"broadcaster_user_id":"44429626"},"transport":{"method":"webhook","callback":"null"},"created_at":"2021-02-19T23:47:00.7621315Z"},"event":{"user_id":"28408015","user_login":"testFromUser","user_name":"testFromUser","broadcaster_user_id":"44429626","broadcaster_user_login":"44429626","broadcaster_user_name":"testBroadcaster"}}"#;
    const SENT: OffsetDateTime = datetime!(2021-02-19 23:47:00.8091512 UTC);

    fn headers<'a>() -> Headers<'a> {
        Headers {
            id: Some(ID.as_bytes()),
            timestamp: Some(TIMESTAMP.as_bytes()),
            signature: Some(SIGNATURE.as_bytes()),
            message_type: Some(b"notification"),
            subscription_type: Some(b"channel.follow"),
        }
    }

    fn verify(headers: Headers<'_>) -> Result<(), SignatureError> {
        Secrets::new([SECRET]).unwrap().verify(&headers, BODY.as_bytes(), SENT).map(drop)
    }

    /// What verification says of a message that was genuinely signed with `timestamp`.
    fn verify_at(timestamp: &str, now: OffsetDateTime) -> Result<(), SignatureError> {
        let secrets = Secrets::new([SECRET]).unwrap();
        let signature = secrets.sign(ID, timestamp, b"{}");
        let signed = Headers {
            timestamp: Some(timestamp.as_bytes()),
            signature: Some(signature.as_bytes()),
            ..headers()
        };
        secrets.verify(&signed, b"{}", now).map(drop)
    }

    #[test]
    fn a_recorded_notification_verifies_and_keeps_its_parts() {
        let secrets = Secrets::new([SECRET]).unwrap();
        let verified = secrets.verify(&headers(), BODY.as_bytes(), SENT).unwrap();
        assert_eq!(verified.id(), ID);
        assert_eq!(verified.message_type(), MessageType::Notification);
        assert_eq!(verified.subscription_type().as_deref(), Some("channel.follow"));
        assert_eq!(verified.body(), BODY.as_bytes());
        assert_eq!(sign(SECRET, ID, TIMESTAMP, BODY.as_bytes()).unwrap(), SIGNATURE);
    }

    #[test]
    fn a_recorded_challenge_verifies() {
        let body = r#"{"challenge":"11535768-497e-14ec-8197-ba2cb5341a01","subscription":{"id":"8d8fa82b-9792-79da-4e11-a6fa58a7a582","status":"webhook_callback_verification_pending","type":"channel.subscribe","version":"1","condition":{"broadcaster_user_id":"88525095"},"transport":{"method":"webhook","callback":"http://localhost:80/twitch/eventsub"},"created_at":"2022-02-06T04:03:24.2706497Z","cost":0}}"#;
        let challenge = Headers {
            id: Some(b"8d8fa82b-9792-79da-4e11-a6fa58a7a582"),
            timestamp: Some(b"2022-02-06T04:03:24.2726598Z"),
            signature: Some(b"sha256=091f6a5c74fba820f2d50e9d0c5e7650556ee009375af2cc662e610e670bc412"),
            message_type: Some(b"webhook_callback_verification"),
            subscription_type: None,
        };
        let secrets = Secrets::new(["HELLOabc2321"]).unwrap();
        let verified =
            secrets.verify(&challenge, body.as_bytes(), datetime!(2022-02-06 04:03:25 UTC)).unwrap();
        assert_eq!(verified.message_type(), MessageType::Challenge);
        assert_eq!(verified.subscription_type(), None);
    }

    #[test]
    fn the_message_type_is_told_by_its_header() {
        let secrets = Secrets::new([SECRET]).unwrap();
        for (header, expected) in [
            (&b"revocation"[..], MessageType::Revocation),
            (b"NOTIFICATION", MessageType::Other),
            (b"new_in_2030", MessageType::Other),
            (b"\xff", MessageType::Other),
        ] {
            let headers = Headers { message_type: Some(header), ..headers() };
            let verified = secrets.verify(&headers, BODY.as_bytes(), SENT).unwrap();
            assert_eq!(verified.message_type(), expected);
        }
    }

    #[test]
    fn a_missing_or_empty_header_is_named() {
        for (missing, name) in [
            (Headers { id: None, ..headers() }, MESSAGE_ID),
            (Headers { timestamp: None, ..headers() }, MESSAGE_TIMESTAMP),
            (Headers { signature: None, ..headers() }, MESSAGE_SIGNATURE),
            (Headers { message_type: None, ..headers() }, MESSAGE_TYPE),
            (Headers { id: Some(b""), ..headers() }, MESSAGE_ID),
            (Headers::default(), MESSAGE_ID),
        ] {
            assert_eq!(verify(missing), Err(SignatureError::MissingHeader(name)));
        }
        assert_eq!(verify(Headers { subscription_type: None, ..headers() }), Ok(()));
    }

    #[test]
    fn malformed_signatures_are_refused() {
        let hex = &SIGNATURE["sha256=".len()..];
        for malformed in [
            "sha256=".to_owned(),
            "sha256=ab".to_owned(),
            "sha256=abc".to_owned(),
            hex.to_owned(),
            format!("sha1={hex}"),
            format!("SHA256={hex}"),
            format!(" sha256={hex}"),
            format!("{SIGNATURE} "),
            format!("{SIGNATURE}00"),
            SIGNATURE[..SIGNATURE.len() - 1].to_owned(),
            SIGNATURE.replace('d', "g"),
            SIGNATURE.replace('d', "ä"),
        ] {
            let headers = Headers { signature: Some(malformed.as_bytes()), ..headers() };
            assert_eq!(verify(headers), Err(SignatureError::MalformedSignature), "{malformed}");
        }
    }

    #[test]
    fn upper_case_digits_are_the_same_signature() {
        let upper = format!("sha256={}", SIGNATURE["sha256=".len()..].to_uppercase());
        assert_eq!(verify(Headers { signature: Some(upper.as_bytes()), ..headers() }), Ok(()));
    }

    #[test]
    fn a_change_of_any_signed_part_is_refused() {
        let secrets = Secrets::new([SECRET]).unwrap();
        let other_body = BODY.replace("28408015", "28408016");
        let reformatted = Headers { timestamp: Some(b"2021-02-19T23:47:00.80915120Z"), ..headers() };
        for (headers, body) in [
            (headers(), other_body.as_str()),
            (headers(), ""),
            (Headers { id: Some(b"another"), ..headers() }, BODY),
            (reformatted, BODY),
            (Headers { signature: Some(SIGNATURE.replace("d10f", "d10e").as_bytes()), ..headers() }, BODY),
        ] {
            let verdict = secrets.verify(&headers, body.as_bytes(), SENT).map(drop);
            assert_eq!(verdict, Err(SignatureError::WrongSignature));
        }
    }

    #[test]
    fn both_secrets_are_accepted_during_a_rotation() {
        for secrets in [[SECRET, "the-new-secret"], ["the-new-secret", SECRET]] {
            assert!(Secrets::new(secrets).unwrap().verify(&headers(), BODY.as_bytes(), SENT).is_ok());
        }
        let after = Secrets::new(["the-new-secret"]).unwrap();
        let verdict = after.verify(&headers(), BODY.as_bytes(), SENT).map(drop);
        assert_eq!(verdict, Err(SignatureError::WrongSignature));
    }

    #[test]
    fn a_message_is_fresh_from_one_minute_ahead_to_ten_minutes_old() {
        let sent = "2026-11-21T10:00:00.000000001Z";
        let at = datetime!(2026-11-21 10:00:00.000000001 UTC);
        let nanosecond = Duration::nanoseconds(1);
        for (now, expected) in [
            (at, Ok(())),
            (at + AGE_MAX, Ok(())),
            (at + AGE_MAX + nanosecond, Err(SignatureError::TooOld)),
            (at - AHEAD_MAX, Ok(())),
            (at - AHEAD_MAX - nanosecond, Err(SignatureError::TooNew)),
        ] {
            assert_eq!(verify_at(sent, now), expected, "{now}");
        }
    }

    #[test]
    fn timestamps_may_have_any_number_of_digits() {
        let now = datetime!(2026-11-21 10:00:00 UTC);
        for fraction in ["", ".1", ".12", ".1234567", ".123456789", ".1234567891"] {
            assert_eq!(verify_at(&format!("2026-11-21T10:00:00{fraction}Z"), now), Ok(()), "{fraction}");
        }
        assert_eq!(verify_at("2026-11-21T12:00:00+02:00", now), Ok(()));
    }

    #[test]
    fn malformed_timestamps_are_refused() {
        for timestamp in
            ["yesterday", "1763719200", "2026-11-21", "2026-13-21T10:00:00Z", "2026-11-21T10:00:00", "\u{e9}"]
        {
            let verdict = verify_at(timestamp, datetime!(2026-11-21 10:00:00 UTC));
            assert_eq!(verdict, Err(SignatureError::MalformedTimestamp), "{timestamp}");
        }
    }

    #[test]
    fn the_signature_is_judged_before_the_timestamp() {
        let stale = SENT + Duration::days(1);
        let forged = Headers { id: Some(b"another"), ..headers() };
        let verdict = Secrets::new([SECRET]).unwrap().verify(&forged, BODY.as_bytes(), stale).map(drop);
        assert_eq!(verdict, Err(SignatureError::WrongSignature));
    }

    #[test]
    fn secrets_that_twitch_would_not_take_are_refused() {
        assert_eq!(Secrets::new(Vec::<String>::new()).map(drop), Err(SecretError::None));
        assert_eq!(Secrets::new(["123456789"]).map(drop), Err(SecretError::Length(9)));
        assert_eq!(Secrets::new(["x".repeat(101)]).map(drop), Err(SecretError::Length(101)));
        assert_eq!(Secrets::new(["sécret-sécret"]).map(drop), Err(SecretError::NotAscii));
        assert!(Secrets::new(["0123456789".to_owned(), "x".repeat(100)]).is_ok());
    }

    #[test]
    fn debug_output_does_not_show_the_secret() {
        let shown = format!("{:?}", Secrets::new([SECRET]).unwrap());
        assert_eq!(shown, "Secrets(1 not shown)");
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic_and_never_verify(
            id in proptest::option::of(any::<Vec<u8>>()),
            timestamp in proptest::option::of(any::<Vec<u8>>()),
            signature in proptest::option::of(any::<Vec<u8>>()),
            message_type in proptest::option::of(any::<Vec<u8>>()),
            body in any::<Vec<u8>>(),
        ) {
            let headers = Headers {
                id: id.as_deref(),
                timestamp: timestamp.as_deref(),
                signature: signature.as_deref(),
                message_type: message_type.as_deref(),
                subscription_type: id.as_deref(),
            };
            prop_assert!(Secrets::new([SECRET]).unwrap().verify(&headers, &body, SENT).is_err());
        }

        #[test]
        fn arbitrary_signatures_never_panic(digits in "sha256=[0-9a-fA-Fg\u{e9} ]{0,70}") {
            let forged = Headers { signature: Some(digits.as_bytes()), ..headers() };
            prop_assert!(verify(forged).is_err() || digits.eq_ignore_ascii_case(SIGNATURE));
        }

        #[test]
        fn genuinely_signed_garbage_in_the_timestamp_never_panics(timestamp in "\\PC{1,40}") {
            let _ = verify_at(&timestamp, SENT);
        }
    }
}
