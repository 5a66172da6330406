//! A client of the admin API.

use chatpulse::domain::config::Config;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::PATIENCE;
use super::instance::{Instance, Streamer};
use super::twitch::Answer;

/// The bearer token of the instances that have one.
pub const TOKEN: &str = "the-tests-bootstrap-token-of-42-characters";
/// The setting that makes it so.
pub const TOKEN_SETTING: (&str, &str) = ("CHATPULSE_ADMIN__BOOTSTRAP_TOKEN", TOKEN);

const ROOT: &str = "/admin/api/v1";

/// Asks an instance as an operator does.
#[derive(Clone)]
pub struct Admin {
    client: reqwest::Client,
    address: std::net::SocketAddr,
}

/// A request on its way.
pub struct Asking(reqwest::RequestBuilder);

impl Admin {
    pub fn of(instance: &Instance) -> Admin {
        Admin::at(instance.public)
    }

    pub fn at(address: std::net::SocketAddr) -> Admin {
        // Err: the process has its provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().http1_only().no_proxy().tls_certs_only([]);
        let client = client.timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).build();
        Admin { client: client.expect("a client can be made"), address }
    }

    /// A request to any path, without a token.
    pub fn stranger(&self, method: &str, path: &str) -> Asking {
        let method: Method = method.parse().expect("a method");
        Asking(self.client.request(method, format!("http://{}{path}", self.address)))
    }

    /// A request to a path of the API, with the token.
    pub fn ask(&self, method: &str, path: &str) -> Asking {
        self.stranger(method, &format!("{ROOT}{path}")).with("authorization", &format!("Bearer {TOKEN}"))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path).send().await
    }

    pub async fn post(&self, path: &str) -> Answer {
        self.ask("POST", path).send().await
    }

    pub async fn create(&self, body: &Value) -> Answer {
        self.ask("POST", "/streamers").json(body).send().await
    }

    /// Saves a config over the version named by `if_match`.
    pub async fn save(&self, streamer: Uuid, if_match: &str, config: &Value) -> Answer {
        let asking = self.ask("PUT", &format!("/streamers/{streamer}/config"));
        asking.with("if-match", if_match).json(config).send().await
    }

    /// Makes a streamer whom nobody else in this database is, with these settings and defaults for the rest.
    pub async fn streamer(&self, config: Value) -> Streamer {
        let twitch_id = some_twitch_id();
        let body = json!({ "twitch_user_id": twitch_id, "login": "somebody", "config": config });
        let answer = self.create(&body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let made = answer.json();
        let uuid = |key: &str| made[key].as_str().and_then(|id| id.parse().ok()).expect(key);
        Streamer { id: uuid("streamer_id"), overlay_uuid: uuid("overlay_uuid"), twitch_id }
    }

    /// The live session of a streamer, if there is one.
    pub async fn session(&self, streamer: &Streamer) -> Option<Value> {
        let listed = self.get("/sessions?limit=200").await.json();
        assert_eq!(listed["next"], Value::Null, "all on one page");
        let mut items = listed["items"].as_array().expect("items").iter();
        items.find(|item| item["streamer_id"] == streamer.id.to_string()).cloned()
    }
}

impl Asking {
    pub fn with(self, header: &str, value: &str) -> Asking {
        Asking(self.0.header(header, value))
    }

    pub fn json(self, body: &Value) -> Asking {
        self.with("content-type", "application/json").body(body.to_string())
    }

    pub fn body(self, body: impl Into<reqwest::Body>) -> Asking {
        Asking(self.0.body(body))
    }

    pub async fn send(self) -> Answer {
        let response = self.0.send().await.expect("the instance answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.expect("the answer is whole");
        Answer { status, headers, body: String::from_utf8(body.into()).expect("answers are UTF-8") }
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Requires a problem that can be found again by its id, and is not kept by anybody.
    pub fn assert_refused(&self, status: u16) -> Value {
        self.assert_problem(status);
        let problem = self.json();
        assert_eq!(problem["request_id"], self.header("x-request-id"), "{self:?}");
        assert_eq!(self.header("cache-control"), "no-store", "{self:?}");
        assert_eq!(self.header("x-content-type-options"), "nosniff", "{self:?}");
        problem
    }
}

/// An id that no other streamer of the tests has.
pub fn some_twitch_id() -> String {
    (Uuid::new_v4().as_u128() % 1_000_000_000_000).to_string()
}

/// A whole config as `PUT …/config` takes it: the defaults with some `changes`.
pub fn config_with(changes: Value) -> Value {
    let default = Config::default();
    let mut config = json!({
        "for_triggers": default.for_triggers, "against_triggers": default.against_triggers,
        "for_label": default.for_label, "against_label": default.against_label,
        "model": "decay", "vote_delta": default.params.vote_delta,
        "decay_speed": default.params.decay_speed, "window_seconds": default.params.window_seconds,
        "display": "combined", "theme": default.theme,
    });
    for (key, value) in changes.as_object().expect("an object") {
        config[key] = value.clone();
    }
    config
}
