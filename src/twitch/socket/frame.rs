//! What Twitch writes on the socket: text frames of JSON, `{"metadata":…,"payload":…}`.
//!
//! Lenient on purpose, as with webhooks: only what is used is read, and the payload of a message is
//! handed on as it came. Shapes: <https://dev.twitch.tv/docs/eventsub/websocket-reference/>.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::MessageKind;

/// Characters of an unknown type's name that are handed on.
const TYPE_CHARS_MAX: usize = 64;

/// What one text frame says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    Welcome(Welcome),
    /// All is well, there is just nothing to tell.
    Keepalive,
    /// Connect to this address, exactly as it is. Who knows it can take over the session: not for logs.
    Reconnect {
        url: String,
    },
    Message(Notice<'a>),
    Unknown {
        message_type: String,
    },
}

/// The first message of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    pub session_id: String,
    /// The longest silence to be expected.
    pub keepalive: Option<Duration>,
}

/// A notification or a revocation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Notice<'a> {
    pub kind: MessageKind,
    pub id: Cow<'a, str>,
    pub sent_at: OffsetDateTime,
    /// The payload's JSON as it came.
    pub body: &'a str,
}

/// A text frame whose shape is not the documented one.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("not JSON of the documented shape: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has no {0}")]
    Missing(&'static str),
    #[error("metadata.message_timestamp is not a time of RFC 3339")]
    Timestamp,
}

/// Reads one text frame.
///
/// # Errors
/// [`FrameError`] when it is not what Twitch documents for its type.
pub(super) fn parse(text: &str) -> Result<Frame<'_>, FrameError> {
    let Wire { metadata, payload } = serde_json::from_str(text)?;
    let (id, timestamp) = (metadata.message_id, metadata.message_timestamp);
    match metadata.message_type.as_ref() {
        "session_welcome" => welcome(payload).map(Frame::Welcome),
        "session_keepalive" => Ok(Frame::Keepalive),
        "session_reconnect" => {
            let url = filled(session(payload)?.reconnect_url, "payload.session.reconnect_url")?;
            Ok(Frame::Reconnect { url })
        }
        "notification" => notice(MessageKind::Notification, id, &timestamp, payload).map(Frame::Message),
        "revocation" => notice(MessageKind::Revocation, id, &timestamp, payload).map(Frame::Message),
        other => {
            let printable = other.chars().filter(|sign| !sign.is_control());
            Ok(Frame::Unknown { message_type: printable.take(TYPE_CHARS_MAX).collect() })
        }
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    metadata: WireMetadata<'a>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireMetadata<'a> {
    #[serde(borrow, default)]
    message_id: Cow<'a, str>,
    #[serde(borrow)]
    message_type: Cow<'a, str>,
    #[serde(borrow, default)]
    message_timestamp: Cow<'a, str>,
}

#[derive(Deserialize)]
struct WirePayload {
    session: WireSession,
}

#[derive(Deserialize)]
struct WireSession {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    keepalive_timeout_seconds: Option<u64>,
    #[serde(default)]
    reconnect_url: Option<String>,
}

fn session(payload: Option<&RawValue>) -> Result<WireSession, FrameError> {
    let payload = payload.ok_or(FrameError::Missing("payload"))?;
    let WirePayload { session } = serde_json::from_str(payload.get())?;
    Ok(session)
}

fn welcome(payload: Option<&RawValue>) -> Result<Welcome, FrameError> {
    let session = session(payload)?;
    Ok(Welcome {
        session_id: filled(session.id, "payload.session.id")?,
        keepalive: session.keepalive_timeout_seconds.map(Duration::from_secs),
    })
}

fn notice<'a>(
    kind: MessageKind,
    id: Cow<'a, str>,
    timestamp: &str,
    payload: Option<&'a RawValue>,
) -> Result<Notice<'a>, FrameError> {
    if id.is_empty() {
        return Err(FrameError::Missing("metadata.message_id"));
    }
    let sent_at = OffsetDateTime::parse(timestamp, &Rfc3339).map_err(|_| FrameError::Timestamp)?;
    let body = payload.ok_or(FrameError::Missing("payload"))?.get();
    Ok(Notice { kind, id, sent_at, body })
}

fn filled(value: Option<String>, name: &'static str) -> Result<String, FrameError> {
    value.filter(|value| !value.is_empty()).ok_or(FrameError::Missing(name))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    // After the examples of Twitch's documentation.
    const WELCOME: &str = r#"{"metadata":{"message_id":"96a3f3b5-5dec-4eed-908e-e11ee657416c","message_type":"session_welcome","message_timestamp":"2023-07-19T14:56:51.634234626Z"},"payload":{"session":{"id":"AQoQILE98gtqShGmLD7AM6yJThAB","status":"connected","connected_at":"2023-07-19T14:56:51.616329898Z","keepalive_timeout_seconds":10,"reconnect_url":null}}}"#;
    const KEEPALIVE: &str = r#"{"metadata":{"message_id":"84c1e79a-2a4b-4c13-ba0b-4312293e9308","message_type":"session_keepalive","message_timestamp":"2023-07-19T10:11:12.634234626Z"},"payload":{}}"#;
    const NOTIFICATION: &str = r#"{"metadata":{"message_id":"befa7b53-d79d-478f-86b9-120f112b044e","message_type":"notification","message_timestamp":"2022-11-16T10:11:12.464757833Z","subscription_type":"channel.follow","subscription_version":"1"},"payload":{"subscription":{"id":"f1c2a387-161a-49f9-a165-0f21d7a4e1c4","status":"enabled","type":"channel.follow"},"event":{"user_id":"1234","user_name":"Cool_\u0055ser"}}}"#;
    const RECONNECT: &str = r#"{"metadata":{"message_id":"84c1e79a-2a4b-4c13-ba0b-4312293e9308","message_type":"session_reconnect","message_timestamp":"2022-11-18T09:10:11.634234626Z"},"payload":{"session":{"id":"AQoQexAWVYKSTIu4ec_2VAxyuhAB","status":"reconnecting","keepalive_timeout_seconds":null,"reconnect_url":"wss://cell-a.eventsub.wss.twitch.tv/ws?challenge=x&id=y","connected_at":"2022-11-16T10:11:12.634234626Z"}}}"#;
    const REVOCATION: &str = r#"{"metadata":{"message_id":"84c1e79a-2a4b-4c13-ba0b-4312293e9308","message_type":"revocation","message_timestamp":"2022-11-16T10:11:12.464757833Z","subscription_type":"channel.follow","subscription_version":"1"},"payload":{"subscription":{"id":"f1c2a387-161a-49f9-a165-0f21d7a4e1c4","status":"authorization_revoked"}}}"#;

    #[test]
    fn the_documented_messages_are_read() {
        let welcome = Welcome {
            session_id: "AQoQILE98gtqShGmLD7AM6yJThAB".into(),
            keepalive: Some(Duration::from_secs(10)),
        };
        assert_eq!(parse(WELCOME).unwrap(), Frame::Welcome(welcome));
        assert_eq!(parse(KEEPALIVE).unwrap(), Frame::Keepalive);
        let url = "wss://cell-a.eventsub.wss.twitch.tv/ws?challenge=x&id=y".into();
        assert_eq!(parse(RECONNECT).unwrap(), Frame::Reconnect { url });
    }

    #[test]
    fn a_messages_payload_is_handed_on_as_it_came() {
        let texts = [(NOTIFICATION, MessageKind::Notification), (REVOCATION, MessageKind::Revocation)];
        for (text, kind) in texts {
            let Ok(Frame::Message(notice)) = parse(text) else { panic!("{text}") };
            assert_eq!(notice.kind, kind);
            assert_eq!(notice.sent_at, datetime!(2022-11-16 10:11:12.464757833 UTC));
            assert!(text.ends_with(&format!(r#""payload":{}}}"#, notice.body)), "{}", notice.body);
        }
    }

    #[test]
    fn the_payload_may_come_first() {
        let text = r#"{"payload":{"a":1},"metadata":{"message_type":"notification","message_id":"x","message_timestamp":"2022-11-16T10:11:12Z"}}"#;
        let Ok(Frame::Message(notice)) = parse(text) else { panic!("{text}") };
        assert_eq!((notice.id.as_ref(), notice.body), ("x", r#"{"a":1}"#));
    }

    #[test]
    fn a_type_that_nobody_knows_is_named_in_so_many_printable_characters() {
        let text = format!(r#"{{"metadata":{{"message_type":"a\u0007{}"}}}}"#, "b".repeat(100));
        let message_type = format!("a{}", "b".repeat(63));
        assert_eq!(parse(&text).unwrap(), Frame::Unknown { message_type });
    }

    #[test]
    fn what_is_not_documented_is_refused() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"metadata":{}}"#,
            r#"{"metadata":{"message_type":"session_welcome"}}"#,
            r#"{"metadata":{"message_type":"session_welcome"},"payload":{"session":{"id":""}}}"#,
            r#"{"metadata":{"message_type":"session_reconnect"},"payload":{"session":{"reconnect_url":null}}}"#,
            r#"{"metadata":{"message_type":"notification","message_timestamp":"2022-11-16T10:11:12Z"},"payload":{}}"#,
            r#"{"metadata":{"message_type":"notification","message_id":"x","message_timestamp":"now"},"payload":{}}"#,
            r#"{"metadata":{"message_type":"notification","message_id":"x","message_timestamp":"2022-11-16T10:11:12Z"}}"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
