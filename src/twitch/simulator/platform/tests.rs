//! The platform as its clients meet it: over sockets.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::settings::Secret;
use crate::twitch::signature::{Headers, MessageType, Secrets};

/// Nothing here takes longer unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);
const STREAMER: &str = "1";
const BOT: &str = "2";
const SECRET: &str = "the shard's secret";

/// A platform where the bot may read the streamer's chat.
async fn platform(rules: Rules) -> Platform {
    let options = PlatformOptions {
        accounts: vec![Account::new(STREAMER, "streamer"), Account::new(BOT, "bot")],
        rules,
        ..PlatformOptions::new("app", Secret::new("app-secret".into()))
    };
    let platform = Platform::start(options).await.unwrap();
    platform.grant(BOT, &["user:read:chat", "user:bot"]).unwrap();
    platform.grant(STREAMER, &["channel:bot"]).unwrap();
    platform
}

/// The application, which speaks to the platform as it would to Twitch.
struct Application {
    client: Client,
    helix: String,
    token: String,
}

impl Application {
    async fn of(platform: &Platform) -> Application {
        let client = webhook::client(&Rules::default()).unwrap();
        let request = client
            .post(format!("{}/token", platform.oauth_url()))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body("client_id=app&client_secret=app-secret&grant_type=client_credentials");
        let answer = value(request.send().await.unwrap()).await;
        let token = answer["access_token"].as_str().unwrap().to_owned();
        Application { client, helix: platform.helix_url(), token }
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Response {
        let request = self
            .client
            .request(method, format!("{}{path}", self.helix))
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header("Client-Id", "app");
        let request = if body.is_null() {
            request
        } else {
            request.header(CONTENT_TYPE, "application/json").body(body.to_string())
        };
        request.send().await.unwrap()
    }

    /// A conduit with one shard of this transport, subscribed to the streamer's chat.
    async fn subscribe(&self, transport: Value) -> String {
        let made = self.call(Method::POST, "/eventsub/conduits", json!({ "shard_count": 1 })).await;
        let conduit_id = value(made).await["data"][0]["id"].as_str().unwrap().to_owned();
        let shards = json!({ "conduit_id": conduit_id, "shards": [{ "id": "0", "transport": transport }] });
        let updated = self.call(Method::PATCH, "/eventsub/conduits/shards", shards).await;
        assert_eq!(updated.status(), 202);
        assert_eq!(value(updated).await["errors"], json!([]));
        let subscription = json!({
            "type": "channel.chat.message", "version": "1",
            "condition": { "broadcaster_user_id": STREAMER, "user_id": BOT },
            "transport": { "method": "conduit", "conduit_id": conduit_id },
        });
        let subscribed = self.call(Method::POST, "/eventsub/subscriptions", subscription).await;
        assert_eq!(subscribed.status(), 202);
        conduit_id
    }
}

async fn value(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

/// What a webhook was sent.
#[derive(Clone, Debug, Default)]
struct Received {
    id: String,
    message_type: String,
    timestamp: String,
    signature: String,
    body: String,
}

/// A webhook that answers challenges, and with these statuses the messages in turn; then with 204.
async fn webhook_with(mut statuses: Vec<u16>) -> (String, mpsc::UnboundedReceiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/webhooks/eventsub", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::unbounded_channel();
    statuses.reverse();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let received = read(&mut stream).await;
            let body: Value = serde_json::from_str(&received.body).unwrap_or_default();
            let (status, answer) = match body["challenge"].as_str() {
                Some(challenge) => (200, challenge.to_owned()),
                None => (statuses.pop().unwrap_or(204), String::new()),
            };
            let length = answer.len();
            let head =
                format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all(format!("{head}{answer}").as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            if sender.send(received).is_err() {
                return;
            }
        }
    });
    (url, receiver)
}

async fn read(stream: &mut BufReader<tokio::net::TcpStream>) -> Received {
    let mut received = Received::default();
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            if line.trim_end().is_empty() {
                break;
            }
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "twitch-eventsub-message-id" => received.id = value.into(),
            "twitch-eventsub-message-type" => received.message_type = value.into(),
            "twitch-eventsub-message-timestamp" => received.timestamp = value.into(),
            "twitch-eventsub-message-signature" => received.signature = value.into(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    received.body = String::from_utf8(body).unwrap();
    received
}

async fn next<T>(receiver: &mut mpsc::UnboundedReceiver<T>) -> T {
    tokio::time::timeout(PATIENCE, receiver.recv()).await.unwrap().unwrap()
}

fn text(message: Message) -> Value {
    serde_json::from_str(message.to_text().unwrap()).unwrap()
}

#[tokio::test]
async fn chat_reaches_a_webhook_signed_and_again_until_it_is_taken() {
    let pause = Duration::from_millis(1);
    let platform = platform(Rules { retry_pauses: vec![pause, pause], ..Rules::default() }).await;
    let application = Application::of(&platform).await;
    let (url, mut received) = webhook_with(vec![503]).await;
    application.subscribe(json!({ "method": "webhook", "callback": url, "secret": SECRET })).await;
    assert_eq!(next(&mut received).await.message_type, "webhook_callback_verification");
    eventually(|| platform.shards()[0].status == "enabled").await;

    let message_id = platform.say(&Say::new(STREAMER, "77", "hello")).unwrap();
    let (first, second) = (next(&mut received).await, next(&mut received).await);
    assert_eq!(first.id, second.id);
    let body: Value = serde_json::from_str(&second.body).unwrap();
    assert_eq!(body["event"]["message_id"], message_id);
    let secrets = Secrets::new([SECRET]).unwrap();
    let headers = Headers {
        id: Some(second.id.as_bytes()),
        timestamp: Some(second.timestamp.as_bytes()),
        signature: Some(second.signature.as_bytes()),
        message_type: Some(second.message_type.as_bytes()),
        subscription_type: None,
    };
    let verified = secrets.verify(&headers, second.body.as_bytes(), OffsetDateTime::now_utc()).unwrap();
    assert_eq!(verified.message_type(), MessageType::Notification);
    eventually(|| platform.counts() == Counts { sent: 1, delivered: 1, failed_tries: 1, dropped: 0 }).await;
    platform.stop().await;
}

#[tokio::test]
async fn chat_reaches_a_websocket_which_may_only_listen() {
    let platform = platform(Rules::default()).await;
    let application = Application::of(&platform).await;
    let (mut socket, _) = connect_async(platform.eventsub_url()).await.unwrap();
    let welcome = text(socket.next().await.unwrap().unwrap());
    let session_id = &welcome["payload"]["session"]["id"];
    application.subscribe(json!({ "method": "websocket", "session_id": session_id })).await;
    platform.say(&Say::new(STREAMER, "77", "hello")).unwrap();
    let told = text(socket.next().await.unwrap().unwrap());
    assert_eq!(told["metadata"]["message_type"], "notification");
    assert_eq!(told["payload"]["event"]["message"]["text"], "hello");

    futures_util::SinkExt::send(&mut socket, Message::text("may I?")).await.unwrap();
    let code = loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Close(frame) => break u16::from(frame.unwrap().code),
            _ => continue,
        }
    };
    assert_eq!(code, 4001);
    eventually(|| platform.shards()[0].status == "websocket_received_inbound_traffic").await;
    platform.stop().await;
}

#[tokio::test]
async fn a_session_that_nobody_uses_is_closed() {
    let platform = platform(Rules { unused: Duration::from_millis(50), ..Rules::default() }).await;
    let (mut socket, _) = connect_async(platform.eventsub_url()).await.unwrap();
    socket.next().await.unwrap().unwrap();
    let Some(Ok(Message::Close(Some(frame)))) = socket.next().await else { panic!("it is not closed") };
    assert_eq!(u16::from(frame.code), 4003);
    eventually(|| platform.sessions().is_empty()).await;
    platform.stop().await;
}

#[tokio::test]
async fn faults_and_limits_are_answered_as_twitch_would() {
    let platform = platform(Rules::default()).await;
    let application = Application::of(&platform).await;
    let fault = |failure| Fault { path: "/helix".into(), method: None, times: 1, failure };
    platform.fail_next(fault(Failure::Limited { reset_seconds: 7 }));
    let limited = application.call(Method::GET, "/eventsub/conduits", Value::Null).await;
    assert_eq!(limited.status(), 429);
    assert_eq!(limited.headers()["ratelimit-remaining"], "0");
    platform.fail_next(fault(Failure::AnswerLost));
    let lost = application.call(Method::POST, "/eventsub/conduits", json!({ "shard_count": 1 })).await;
    assert_eq!(lost.status(), 502);
    let listed = application.call(Method::GET, "/eventsub/conduits", Value::Null).await;
    assert_eq!(listed.headers()["ratelimit-limit"], "800");
    assert_eq!(value(listed).await["data"].as_array().unwrap().len(), 1);
    let statuses: Vec<u16> = platform.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [200, 429, 502, 200]);
    platform.stop().await;
}

#[tokio::test]
async fn secrets_in_a_url_are_refused() {
    let platform = platform(Rules::default()).await;
    let url = format!(
        "{}/token?client_id=app&client_secret=app-secret&grant_type=client_credentials",
        platform.oauth_url()
    );
    let answer = webhook::client(&Rules::default()).unwrap().post(url).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    platform.stop().await;
}

#[actix_web::test]
async fn it_also_runs_beside_an_actix_system() {
    let platform = platform(Rules::default()).await;
    let application = Application::of(&platform).await;
    let answer = application.call(Method::GET, "/users?login=streamer", Value::Null).await;
    assert_eq!(value(answer).await["data"][0]["id"], STREAMER);
    platform.stop().await;
}
