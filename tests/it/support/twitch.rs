//! A Twitch for the tests: it signs what it is told to say, and keeps its connections.

use std::net::SocketAddr;
use std::time::Duration;

use chatpulse::twitch::signature;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::PATIENCE;

/// The webhook secret of all test instances.
pub const SECRET: &str = "the tests' webhook secret";

/// A chat message of version 1 of `channel.chat.message`.
#[derive(Clone, Debug)]
pub struct Chat {
    pub broadcaster: String,
    pub chatter: String,
    pub message_id: String,
    pub text: String,
    /// By default the text as one fragment.
    pub fragments: Option<Value>,
    /// In a shared chat, the channel in which it was written.
    pub source: Option<String>,
}

impl Chat {
    /// A new message of a new viewer.
    pub fn new(broadcaster: &str, text: &str) -> Chat {
        Chat {
            broadcaster: broadcaster.into(),
            chatter: (Uuid::new_v4().as_u128() % 1_000_000_000_000).to_string(),
            message_id: Uuid::new_v4().to_string(),
            text: text.into(),
            fragments: None,
            source: None,
        }
    }

    pub fn by(self, chatter: &str) -> Chat {
        Chat { chatter: chatter.into(), ..self }
    }

    pub fn with_fragments(self, fragments: Value) -> Chat {
        Chat { fragments: Some(fragments), ..self }
    }

    pub fn written_in(self, source: &str) -> Chat {
        Chat { source: Some(source.into()), ..self }
    }

    /// Signed now, as a notification of its own.
    pub fn signed(&self) -> Signed {
        Signed::notification("channel.chat.message", &self.body())
    }

    pub fn body(&self) -> Vec<u8> {
        let text =
            json!([{ "type": "text", "text": self.text, "cheermote": null, "emote": null, "mention": null }]);
        let body = json!({
            "subscription": {
                "id": "0b7f3361-672b-4d39-b307-dd5b576c9b27", "status": "enabled",
                "type": "channel.chat.message", "version": "1",
                "condition": { "broadcaster_user_id": self.broadcaster, "user_id": "900000001" },
                "transport": { "method": "webhook", "callback": "https://example.com/webhooks/eventsub" },
                "created_at": "2026-01-01T00:00:00.492253549Z", "cost": 0,
            },
            "event": {
                "broadcaster_user_id": self.broadcaster, "broadcaster_user_login": "streamer",
                "broadcaster_user_name": "Streamer",
                "chatter_user_id": self.chatter, "chatter_user_login": "viewer", "chatter_user_name": "Viewer",
                "message_id": self.message_id,
                "message": { "text": self.text, "fragments": self.fragments.clone().unwrap_or(text) },
                "color": "#00FF7F", "badges": [], "message_type": "text", "cheer": null, "reply": null,
                "channel_points_custom_reward_id": null,
                "source_broadcaster_user_id": self.source, "source_broadcaster_user_login": null,
                "source_broadcaster_user_name": null, "source_message_id": null, "source_badges": null,
            },
        });
        serde_json::to_vec(&body).expect("JSON can be written")
    }
}

/// A message with its headers.
#[derive(Clone, Debug)]
pub struct Signed {
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Signed {
    pub fn notification(subscription_type: &str, body: &[u8]) -> Signed {
        Signed::of_type("notification", subscription_type, body)
    }

    /// Any message, signed now.
    pub fn of_type(message_type: &str, subscription_type: &str, body: &[u8]) -> Signed {
        Signed::at(OffsetDateTime::now_utc(), message_type, subscription_type, body)
    }

    /// Any message, signed at `time`.
    pub fn at(time: OffsetDateTime, message_type: &str, subscription_type: &str, body: &[u8]) -> Signed {
        let id = Uuid::new_v4().to_string();
        let timestamp = time.format(&Rfc3339).expect("a time of today");
        let signature = signature::sign(SECRET, &id, &timestamp, body).expect("a good secret");
        let headers = [
            (signature::MESSAGE_ID, id),
            (signature::MESSAGE_RETRY, "0".into()),
            (signature::MESSAGE_TYPE, message_type.into()),
            (signature::MESSAGE_SIGNATURE, signature),
            (signature::MESSAGE_TIMESTAMP, timestamp),
            (signature::SUBSCRIPTION_TYPE, subscription_type.into()),
            (signature::SUBSCRIPTION_VERSION, "1".into()),
            ("content-type", "application/json".into()),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value));
        Signed { headers: headers.into(), body: body.to_vec() }
    }

    pub fn without(mut self, header: &str) -> Signed {
        self.headers.retain(|(name, _)| name != header);
        self
    }

    pub fn with(self, header: &str, value: &str) -> Signed {
        let mut changed = self.without(header);
        changed.headers.push((header.into(), value.into()));
        changed
    }

    /// The request's head as bytes on the wire, up to where the length of the body is told.
    pub fn head(&self, host: SocketAddr) -> String {
        let headers: String =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("POST /webhooks/eventsub HTTP/1.1\r\nhost: {host}\r\n{headers}")
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a header of ASCII"))
    }

    /// Requires a problem in the shape of RFC 9457, with this status.
    pub fn assert_problem(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        for once in ["content-type", "vary", "retry-after", "x-request-id"] {
            assert!(self.headers.get_all(once).iter().count() <= 1, "{once} of {self:?}");
        }
        let problem: Value = serde_json::from_str(&self.body).expect("a problem is JSON");
        assert_eq!(problem["status"], status, "{problem}");
        for member in ["type", "title", "detail", "request_id"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} of {problem}");
        }
        assert_eq!(problem["request_id"], self.header("x-request-id"), "{self:?}");
    }
}

/// A client with kept connections.
#[derive(Clone)]
pub struct Twitch {
    client: reqwest::Client,
    base: String,
}

impl Twitch {
    pub fn new(address: SocketAddr) -> Twitch {
        Twitch::patient(address, PATIENCE)
    }

    /// One that gives up a request after this time.
    pub fn patient(address: SocketAddr, patience: Duration) -> Twitch {
        // Err: the process has its provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .http1_only()
            .no_proxy()
            .tls_certs_only([])
            .timeout(patience)
            .redirect(reqwest::redirect::Policy::none())
            .build();
        Twitch { client: client.expect("a client can be made"), base: format!("http://{address}") }
    }

    /// Sends a message and reads the answer.
    pub async fn post(&self, message: &Signed) -> Answer {
        self.try_post(message).await.expect("the instance answers")
    }

    /// Sends a message; an instance that goes away meanwhile is an error.
    pub async fn try_post(&self, message: &Signed) -> Result<Answer, reqwest::Error> {
        let pair = |(name, value): &(String, String)| {
            let name = HeaderName::try_from(name).expect("a header's name");
            (name, HeaderValue::try_from(value).expect("a header's value"))
        };
        let request = self.client.post(format!("{}/webhooks/eventsub", self.base));
        let headers: HeaderMap = message.headers.iter().map(pair).collect();
        read(request.headers(headers).body(message.body.clone()).send().await?).await
    }

    /// Sends a chat message, which is answered with 204 as all of chat is.
    pub async fn chat(&self, chat: &Chat) {
        let answer = self.post(&chat.signed()).await;
        assert_eq!(answer.status, 204, "{chat:?}: {answer:?}");
        assert_eq!(answer.body, "");
    }

    /// Sends a new message of a new viewer; answers its message id.
    pub async fn say(&self, broadcaster: &str, text: &str) -> String {
        let chat = Chat::new(broadcaster, text);
        self.chat(&chat).await;
        chat.message_id
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    /// The status of a page of an instance that may be gone.
    pub async fn try_status(&self, path: &str) -> Option<u16> {
        let answer = self.client.get(format!("{}{path}", self.base)).send().await;
        answer.ok().map(|answer| answer.status().as_u16())
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.client.get(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await;
        read(answer.expect("the instance answers")).await.expect("the answer is whole")
    }
}

async fn read(response: reqwest::Response) -> Result<Answer, reqwest::Error> {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await?;
    Ok(Answer { status, headers, body: String::from_utf8(body.into()).expect("answers are UTF-8") })
}
