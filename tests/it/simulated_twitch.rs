//! `chatpulse simulate --twitch`: a strict Twitch as a program of its own, as applications and testers meet
//! it.

use std::net::TcpListener;
use std::process::Stdio;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, LOCATION};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;
use url::Url;
use url::form_urlencoded::Serializer;

use crate::support::instance::{Instance, Stores, Streamer, program, signal};
use crate::support::platform::Visitor;
use crate::support::ports::free_port;
use crate::support::servers::PROGRAM;
use crate::support::{PATIENCE, eventually};

const STREAMER: &str = "700000001";
const BOT: &str = "900000000";
const VIEWER: &str = "100000001";
const CALLBACK: &str = "http://127.0.0.1:9/auth/callback";
const FREE_PORTS: [&str; 6] =
    ["simulate", "--twitch", "--listen", "127.0.0.1:0", "--listen-eventsub", "127.0.0.1:0"];

/// A running `simulate --twitch`. Killed when dropped.
struct Simulated {
    child: Child,
    /// What it printed until it was ready.
    printed: Vec<String>,
    client: Client,
}

/// What a request was answered.
struct Answer {
    status: u16,
    headers: HeaderMap,
    /// Null where it is no JSON.
    body: Value,
}

impl Simulated {
    /// Starts it on free ports, with its default accounts.
    async fn start(arguments: &[&str]) -> Simulated {
        let mut command = Command::new(PROGRAM);
        command.args(FREE_PORTS).args(arguments).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut printed = Vec::new();
        while !printed.iter().any(|line: &String| line.starts_with("Ctrl-C")) {
            let line = timeout(PATIENCE, lines.next_line()).await.expect("it becomes ready");
            printed.push(line.expect("it writes text").expect("it goes on"));
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
        let client = client.tls_certs_only([]).timeout(PATIENCE).build().expect("a client");
        Simulated { child, printed, client }
    }

    /// The settings that it printed for ChatPulse.
    fn settings(&self) -> Vec<(String, String)> {
        let lines = self.printed.iter().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn setting(&self, key: &str) -> String {
        let key = format!("CHATPULSE_TWITCH__{key}");
        let found = self.settings().into_iter().find(|(known, _)| *known == key);
        found.unwrap_or_else(|| panic!("no {key} in {:?}", self.printed)).1
    }

    /// Where the control API is, as the printed example says.
    fn control_url(&self) -> &str {
        let mut examples = self.printed.iter().filter_map(|line| line.strip_prefix("curl "));
        examples.find(|example| example.starts_with("http")).expect("an example by curl")
    }

    async fn control(&self, command: &str, body: Value) -> Value {
        let request = self.client.post(format!("{}/{command}", self.control_url()));
        let request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        let answer = sent(request).await;
        assert_eq!(answer.status, 200, "{command}: {}", answer.body);
        answer.body
    }

    async fn listed(&self, list: &str) -> Value {
        sent(self.client.get(format!("{}/{list}", self.control_url()))).await.body
    }

    /// A form to the OAuth service.
    async fn form(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let body = Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = self.client.post(format!("{}/{path}", self.setting("OAUTH_URL")));
        sent(request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)).await
    }

    /// A request to Helix with this token, of the registered application.
    fn helix(&self, method: reqwest::Method, path: &str, token: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}/{path}", self.setting("HELIX_URL")));
        request
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header("Client-Id", self.setting("CLIENT_ID"))
            .header(CONTENT_TYPE, "application/json")
    }

    async fn app_token(&self) -> String {
        let (id, secret) = (self.setting("CLIENT_ID"), self.setting("CLIENT_SECRET"));
        let fields = [("client_id", &*id), ("client_secret", &*secret), ("grant_type", "client_credentials")];
        text(&self.form("token", &fields).await.body["access_token"])
    }

    /// Has a webhook told what is said in the streamer's chat.
    async fn read_chat(&self) -> mpsc::UnboundedReceiver<Told> {
        self.control("grant", json!({ "user_id": STREAMER, "scopes": ["channel:bot"] })).await;
        self.control("grant", json!({ "user_id": BOT, "scopes": ["user:read:chat", "user:bot"] })).await;
        let (callback, told) = webhook().await;
        let token = self.app_token().await;
        let ask = async |method: reqwest::Method, path: &str, body: Value| {
            sent(self.helix(method, path, &token).body(body.to_string())).await
        };
        let made = ask(reqwest::Method::POST, "eventsub/conduits", json!({ "shard_count": 1 })).await;
        let conduit_id = text(&made.body["data"][0]["id"]);
        let transport =
            json!({ "method": "webhook", "callback": callback, "secret": "the webhook's secret" });
        let shards = json!({ "conduit_id": conduit_id, "shards": [{ "id": "0", "transport": transport }] });
        let updated = ask(reqwest::Method::PATCH, "eventsub/conduits/shards", shards).await;
        assert_eq!((updated.status, &updated.body["errors"]), (202, &json!([])), "{}", updated.body);
        let subscription = json!({
            "type": "channel.chat.message", "version": "1",
            "condition": { "broadcaster_user_id": STREAMER, "user_id": BOT },
            "transport": { "method": "conduit", "conduit_id": conduit_id },
        });
        let subscribed = ask(reqwest::Method::POST, "eventsub/subscriptions", subscription.clone()).await;
        assert_eq!(subscribed.status, 202, "{}", subscribed.body);
        let again = ask(reqwest::Method::POST, "eventsub/subscriptions", subscription).await;
        assert_eq!(again.status, 409, "{}", again.body);
        self.shard_works().await;
        told
    }

    async fn shard_works(&self) {
        eventually("a shard works", async || self.listed("shards").await[0]["status"] == "enabled").await;
    }
}

async fn sent(request: RequestBuilder) -> Answer {
    let answer = request.send().await.expect("an answer");
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let bytes = answer.bytes().await.expect("a body");
    Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or_default() }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// What a webhook was told.
struct Told {
    message_type: String,
    body: Value,
}

/// A webhook that answers challenges, and everything else with 204.
async fn webhook() -> (String, mpsc::UnboundedReceiver<Told>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let Some(told) = read(&mut stream).await else { continue };
            let (status, answer) = match told.body["challenge"].as_str() {
                Some(challenge) => (200, challenge.to_owned()),
                None => (204, String::new()),
            };
            let length = answer.len();
            let head =
                format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
            // Err: Twitch has ended, and the test with it.
            let _ = stream.write_all(format!("{head}{answer}").as_bytes()).await;
            let _ = stream.shutdown().await;
            if sender.send(told).is_err() {
                return;
            }
        }
    });
    (url, receiver)
}

/// One request; `None` when it breaks off.
async fn read(stream: &mut BufReader<TcpStream>) -> Option<Told> {
    let (mut length, mut message_type) = (0, String::new());
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        if line.trim_end().is_empty() {
            break;
        }
        let Some((name, value)) = line.trim_end().split_once(": ") else { continue };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "twitch-eventsub-message-type" => message_type = value.to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Told { message_type, body: serde_json::from_slice(&body).ok()? })
}

/// The next chat message that a webhook is told of.
async fn next_message(told: &mut mpsc::UnboundedReceiver<Told>) -> Value {
    loop {
        let mut next = timeout(PATIENCE, told.recv()).await.expect("something is told").expect("a webhook");
        if next.message_type == "notification" {
            return next.body["event"].take();
        }
    }
}

/// What the authorize page is asked.
fn asked(client_id: &str) -> [(&str, &str); 5] {
    [
        ("response_type", "code"),
        ("client_id", client_id),
        ("redirect_uri", CALLBACK),
        ("scope", "channel:bot"),
        ("state", "where I was"),
    ]
}

#[tokio::test]
async fn an_application_signs_a_user_in_and_an_unknown_one_does_not() {
    let twitch = Simulated::start(&["--redirect-uri", CALLBACK, "--live", STREAMER]).await;
    let (id, secret) = (twitch.setting("CLIENT_ID"), twitch.setting("CLIENT_SECRET"));
    let authorize = format!("{}/authorize", twitch.setting("OAUTH_URL"));
    for (client_id, status) in [(&*id, 200), ("somebody", 400)] {
        let url = Url::parse_with_params(&authorize, asked(client_id)).unwrap();
        assert_eq!(sent(twitch.client.get(url)).await.status, status, "{client_id}");
    }
    let answer = [&asked(&id)[..], &[("user_id", STREAMER), ("answer", "authorize")]].concat();
    let redirect = twitch.form("authorize", &answer).await;
    assert_eq!(redirect.status, 302, "{}", redirect.body);
    let back = Url::parse(redirect.headers[LOCATION].to_str().unwrap()).unwrap();
    let field = |name: &str| back.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
    assert!(back.as_str().starts_with(CALLBACK) && field("state") == "where I was", "{back}");

    let code = field("code");
    let exchange = [
        ("client_id", &*id),
        ("client_secret", &*secret),
        ("grant_type", "authorization_code"),
        ("code", &*code),
        ("redirect_uri", CALLBACK),
    ];
    let with = |name: &'static str, value: &'static str| {
        let mut fields = exchange;
        fields.iter_mut().filter(|(key, _)| *key == name).for_each(|field| field.1 = value);
        fields
    };
    assert_eq!(twitch.form("token", &with("client_id", "somebody")).await.status, 400);
    assert_eq!(twitch.form("token", &with("client_secret", "guessed")).await.status, 403);
    let tokens = twitch.form("token", &exchange).await;
    assert_eq!((tokens.status, &tokens.body["scope"]), (200, &json!(["channel:bot"])), "{}", tokens.body);
    let token = text(&tokens.body["access_token"]);

    let validate = twitch.client.get(format!("{}/validate", twitch.setting("OAUTH_URL")));
    let valid = sent(validate.header(AUTHORIZATION, format!("OAuth {token}"))).await.body;
    assert_eq!((&valid["user_id"], &valid["client_id"]), (&json!(STREAMER), &json!(id)), "{valid}");
    let own = sent(twitch.helix(reqwest::Method::GET, "users", &token)).await;
    assert_eq!(own.body["data"][0]["login"], "streamer", "{}", own.body);
    let live = sent(twitch.helix(reqwest::Method::GET, "streams?user_id=700000001", &token)).await;
    assert_eq!(live.body["data"][0]["user_id"], STREAMER, "{}", live.body);
}

#[tokio::test]
async fn chat_reaches_a_webhook_and_faults_come_when_they_are_asked_for() {
    let mut twitch = Simulated::start(&[]).await;
    let mut told = twitch.read_chat().await;
    let say = json!({ "broadcaster_id": STREAMER, "user_id": VIEWER, "text": "hello" });
    let message_id = twitch.control("say", say).await["message_id"].take();
    let event = next_message(&mut told).await;
    assert_eq!((&event["message_id"], &event["message"]["text"]), (&message_id, &json!("hello")));
    assert_eq!(event["chatter_user_login"], "ada");

    let token = twitch.app_token().await;
    let fault = json!({ "path": "/helix/users", "failure": "limited", "reset_seconds": 30 });
    twitch.control("fail", fault).await;
    let ask = async || sent(twitch.helix(reqwest::Method::GET, "users?login=ada", &token)).await;
    let limited = ask().await;
    assert_eq!(limited.status, 429);
    assert_eq!(limited.headers["ratelimit-remaining"], "0");
    assert!(limited.headers.contains_key("ratelimit-reset"), "{:?}", limited.headers);
    assert_eq!(ask().await.status, 200);
    let seen = twitch.listed("requests").await;
    assert!(seen.as_array().unwrap().iter().any(|request| request["status"] == 429), "{seen}");
    let all = sent(twitch.client.get(twitch.control_url())).await;
    assert!(all.body["POST"].as_array().is_some_and(|commands| commands.len() > 20), "{}", all.body);

    signal("INT", twitch.child.id().expect("it runs"));
    let ended = timeout(PATIENCE, twitch.child.wait()).await.expect("it ends").unwrap();
    assert_eq!(ended.code(), Some(0));
}

#[tokio::test]
async fn viewers_write_by_themselves_where_somebody_reads() {
    let chat = ["--rate", "50", "--vote-share", "1", "--for", "ja", "--against", "ja"];
    let twitch = Simulated::start(&chat).await;
    let mut told = twitch.read_chat().await;
    let event = next_message(&mut told).await;
    let channel = (&event["broadcaster_user_id"], &event["broadcaster_user_login"]);
    assert_eq!(channel, (&json!(STREAMER), &json!("streamer")), "{event}");
    assert!(text(&event["message"]["text"]).to_lowercase().contains("ja"), "{event}");
}

#[tokio::test]
async fn a_chatpulse_that_is_led_to_it_counts_votes() {
    let address = format!("127.0.0.1:{}", free_port());
    let public_url = format!("http://{address}");
    let twitch = Simulated::start(&["--redirect-uri", &format!("{public_url}/auth/callback")]).await;
    let printed = twitch.settings();
    let own = [
        ("CHATPULSE_HTTP__BIND", address.clone()),
        ("CHATPULSE_HTTP__PUBLIC_URL", public_url.clone()),
        ("CHATPULSE_SECURITY__SESSION_KEY", "5e".repeat(32)),
        ("CHATPULSE_SECURITY__ENCRYPTION_KEYS", "e0".repeat(32)),
    ];
    let printed = printed.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let settings: Vec<(&str, &str)> =
        printed.chain(own.iter().map(|(key, value)| (*key, value.as_str()))).collect();
    let instance = Instance::start_on_migrated(Stores::migrated().await, &settings).await;
    let link = instance.program(&["bot", "sign-in"]).await;
    let link = link.stdout.lines().last().expect("a link").to_owned();
    let signed_in = Visitor::new().sign_in_at(&link, BOT).await;
    assert_eq!(signed_in.status, 200, "{signed_in:?}");
    Visitor::new().sign_in(&public_url, STREAMER).await;
    let question = "SELECT id, overlay_uuid FROM chatpulse.users WHERE twitch_user_id = $1";
    let row = instance.sql().await.query_one(question, &[&STREAMER]).await.unwrap();
    let streamer = Streamer { twitch_id: STREAMER.into(), id: row.get(0), overlay_uuid: row.get(1) };
    let mut overlay = instance.overlay(&streamer).await;
    eventually("the chat is subscribed to", async || {
        let all = twitch.listed("subscriptions").await;
        all.as_array().unwrap().iter().any(|found| found["type"] == "channel.chat.message")
    })
    .await;
    twitch.shard_works().await;
    let say = json!({ "broadcaster_id": STREAMER, "user_id": VIEWER, "text": "yes" });
    let said = text(&twitch.control("say", say).await["message_id"]);
    assert_eq!(overlay.next_frame("sentiment").await["for"], 1);
    eventually("the vote is journaled", async || instance.voted(&streamer).await == [said.as_str()]).await;
}

#[tokio::test]
async fn what_it_can_not_be_told_exits_with_2_and_a_taken_port_with_1() {
    for arguments in [
        &["simulate"][..],
        &["simulate", "--listen", "127.0.0.1:0"],
        &["simulate", "--twitch", "--url", "http://127.0.0.1:1/"],
        &["simulate", "--twitch", "--duration", "1s"],
        &["simulate", "--twitch", "--listen", "0.0.0.0:0"],
        &["simulate", "--twitch", "--account", "ada"],
        &[&FREE_PORTS[..], &["--live", "5"]].concat()[..],
        &[&FREE_PORTS[..], &["--rate", "0"]].concat()[..],
    ] {
        let ended = program(arguments, &[]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{arguments:?}: {ended:?}");
        assert!(!ended.stderr.is_empty(), "{arguments:?}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = program(&["simulate", "--twitch", "--listen", &address], &[]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.stderr.contains(&address) && ended.stderr.contains("--listen"), "{ended:?}");
}

#[tokio::test]
async fn a_secret_that_was_given_is_not_printed() {
    let secret = "a-secret-of-the-testers";
    let twitch = Simulated::start(&["--client-secret", secret, "--client-id", "testers"]).await;
    assert!(!twitch.printed.iter().any(|line| line.contains(secret)), "{:?}", twitch.printed);
    let fields = [("client_id", "testers"), ("client_secret", secret), ("grant_type", "client_credentials")];
    assert_eq!(twitch.form("token", &fields).await.status, 200);
}
