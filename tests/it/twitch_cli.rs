//! What Twitch's own command line client sends to a webhook (`twitch event trigger`, `retrigger`,
//! `verify-subscription`) and writes on its WebSocket (`twitch event websocket start-server`), and what it
//! demands of the answers. Source of headers, shapes and checks: <https://github.com/twitchdev/twitch-cli>,
//! `internal/events`. Of the types that are subscribed to here the client knows only `stream.online`,
//! `stream.offline` and `user.authorization.revoke`, and no chat.

use std::net::SocketAddr;

use deadpool_redis::redis;
use futures_util::{SinkExt, StreamExt};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use sha2::Sha256;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_async};
use uuid::Uuid;

use crate::support::admin::some_twitch_id;
use crate::support::instance::{Instance, Shared, Slot, Streamer};
use crate::support::platform::{ADA, Stage, Visitor};
use crate::support::servers::query;
use crate::support::twitch::{Answer, Chat, SECRET};
use crate::support::{PATIENCE, eventually};

const NOTIFICATION: &str = "notification";
const REVOCATION: &str = "revocation";
const VERIFICATION: &str = "webhook_callback_verification";
/// The names that the client gives to whoever acts, and to whom it happens.
const FROM_NAME: &str = "testFromUser";
const TO_NAME: &str = "testBroadcaster";

/// What the client can trigger beside the types that are subscribed to here, with their versions.
const OTHER_TOPICS: [(&str, &str); 46] = [
    ("automod.message.hold", "1"),
    ("channel.ad_break.begin", "1"),
    ("channel.ban", "1"),
    ("channel.channel_points_custom_reward.add", "1"),
    ("channel.channel_points_custom_reward.remove", "1"),
    ("channel.channel_points_custom_reward.update", "1"),
    ("channel.channel_points_custom_reward_redemption.add", "1"),
    ("channel.channel_points_custom_reward_redemption.update", "1"),
    ("channel.charity_campaign.donate", "1"),
    ("channel.charity_campaign.progress", "1"),
    ("channel.charity_campaign.start", "1"),
    ("channel.charity_campaign.stop", "1"),
    ("channel.cheer", "1"),
    ("channel.follow", "2"),
    ("channel.goal.begin", "1"),
    ("channel.goal.end", "1"),
    ("channel.goal.progress", "1"),
    ("channel.hype_train.begin", "2"),
    ("channel.hype_train.end", "2"),
    ("channel.hype_train.progress", "2"),
    ("channel.moderate", "2"),
    ("channel.moderator.add", "1"),
    ("channel.moderator.remove", "1"),
    ("channel.poll.begin", "1"),
    ("channel.poll.end", "1"),
    ("channel.poll.progress", "1"),
    ("channel.prediction.begin", "1"),
    ("channel.prediction.end", "1"),
    ("channel.prediction.lock", "1"),
    ("channel.prediction.progress", "1"),
    ("channel.raid", "1"),
    ("channel.shield_mode.begin", "1"),
    ("channel.shield_mode.end", "1"),
    ("channel.shoutout.create", "1"),
    ("channel.shoutout.receive", "1"),
    ("channel.subscribe", "1"),
    ("channel.subscription.end", "1"),
    ("channel.subscription.gift", "1"),
    ("channel.subscription.message", "1"),
    ("channel.unban", "1"),
    ("channel.unban_request.create", "1"),
    ("channel.unban_request.resolve", "1"),
    ("channel.update", "2"),
    ("extension.bits_transaction.create", "1"),
    ("user.authorization.grant", "1"),
    ("user.update", "1"),
];

/// One instance for the tests that don't disturb each other. Nobody has told it of an application at Twitch.
async fn instance() -> Shared {
    static INSTANCE: Slot = Slot::new();
    INSTANCE.get(&[]).await
}

/// A request of the client.
#[derive(Clone, Debug)]
struct Event {
    message_id: String,
    message_type: &'static str,
    topic: String,
    version: String,
    timestamp: String,
    body: String,
}

impl Event {
    /// `event trigger` with what it makes of a subscription's condition and an event, both JSON.
    fn trigger(topic: &str, condition: &str, event: &str) -> Event {
        let subscription = subscription(topic, "1", "enabled", condition, "null");
        Event::of(NOTIFICATION, topic, "1", format!(r#"{{"subscription":{subscription},"event":{event}}}"#))
    }

    fn of(message_type: &'static str, topic: &str, version: &str, body: String) -> Event {
        Event {
            message_id: guid(),
            message_type,
            topic: topic.into(),
            version: version.into(),
            timestamp: now(),
            body,
        }
    }

    /// `event trigger streamup --to-user ID`.
    fn stream_online(broadcaster: &str) -> Event {
        let (id, started_at) = (some_twitch_id(), now());
        let who = broadcaster_json(broadcaster);
        let event = format!(r#"{{"id":"{id}",{who},"type":"live","started_at":"{started_at}"}}"#);
        Event::trigger("stream.online", &condition(broadcaster), &event)
    }

    /// `event trigger streamdown --to-user ID`: the client does not say which stream it was.
    fn stream_offline(broadcaster: &str) -> Event {
        let event = format!("{{{}}}", broadcaster_json(broadcaster));
        Event::trigger("stream.offline", &condition(broadcaster), &event)
    }

    /// `event trigger revoke --from-user ID`.
    fn authorization_revoked(user_id: &str) -> Event {
        let client_id = "0123456789abcdef0123456789abcd";
        let user = format!(r#""user_id":"{user_id}","user_login":"{FROM_NAME}","user_name":"{FROM_NAME}""#);
        let event = format!(r#"{{{user},"client_id":"{client_id}"}}"#);
        let condition = format!(r#"{{"client_id":"{client_id}"}}"#);
        Event::trigger("user.authorization.revoke", &condition, &event)
    }

    /// `event trigger … --subscription-status STATUS --subscription-id ID`: no event, and keys in order.
    fn revocation(topic: &str, broadcaster: &str, subscription_id: &str, status: &str) -> Event {
        let subscription = json!({
            "condition": { "broadcaster_user_id": broadcaster }, "cost": 0, "created_at": now(),
            "id": subscription_id, "status": status,
            "transport": { "callback": "null", "method": "webhook" }, "type": topic, "version": "1",
        });
        Event::of(REVOCATION, topic, "1", json!({ "subscription": subscription }).to_string())
    }

    /// `event verify-subscription`. Answers the challenge, too.
    fn verification(topic: &str, version: &str, callback: &str) -> (Event, String) {
        let challenge = guid();
        let condition = condition(&some_twitch_id());
        let status = "webhook_callback_verification_pending";
        let subscription = subscription(topic, version, status, &condition, callback);
        let body = format!(r#"{{"challenge":"{challenge}","subscription":{subscription}}}"#);
        (Event::of(VERIFICATION, topic, version, body), challenge)
    }

    /// `event retrigger --id`: the same again, only sent now.
    fn again(&self) -> Event {
        Event { timestamp: now(), message_type: NOTIFICATION, ..self.clone() }
    }

    /// With `--timestamp`, as the client takes it.
    fn sent_at(self, time: OffsetDateTime) -> Event {
        Event { timestamp: written(time), ..self }
    }

    /// The request's bytes as the client's HTTP library writes them: names in their casing, in their order.
    /// Without a secret it sends neither signature nor timestamp.
    fn request(&self, to: SocketAddr, secret: Option<&str>) -> Vec<u8> {
        let Event { message_id, message_type, topic, version, timestamp, body } = self;
        let signature = secret.map(|secret| self.signature(secret));
        let header = |name: &str, value: &str| format!("{name}: {value}\r\n");
        let lines = [
            Some("POST /webhooks/eventsub HTTP/1.1\r\n".to_owned()),
            Some(header("Host", &to.to_string())),
            Some(header("User-Agent", "twitch-cli/1.1.25")),
            Some(header("Content-Length", &body.len().to_string())),
            Some(header("Content-Type", "application/json")),
            Some(header("Twitch-Eventsub-Message-Id", message_id)),
            Some(header("Twitch-Eventsub-Message-Retry", "0")),
            signature.as_ref().map(|signature| header("Twitch-Eventsub-Message-Signature", signature)),
            signature.as_ref().map(|_| header("Twitch-Eventsub-Message-Timestamp", timestamp)),
            Some(header("Twitch-Eventsub-Message-Type", message_type)),
            Some(header("Twitch-Eventsub-Subscription-Type", topic)),
            Some(header("Twitch-Eventsub-Subscription-Version", version)),
            Some(header("Accept-Encoding", "gzip")),
            Some("\r\n".to_owned()),
        ];
        let head: String = lines.into_iter().flatten().collect();
        [head.as_bytes(), body.as_bytes()].concat()
    }

    /// HMAC-SHA256 over the id, the timestamp and the body.
    fn signature(&self, secret: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key of any length");
        for part in [&self.message_id, &self.timestamp, &self.body] {
            mac.update(part.as_bytes());
        }
        format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
    }

    /// Sends it, signed with the tests' secret.
    async fn send(&self, to: SocketAddr) -> Answer {
        exchange(to, &self.request(to, Some(SECRET))).await
    }

    /// Sends it, and requires what the client calls a good answer: 2XX, here always 204.
    async fn is_taken(&self, by: SocketAddr) {
        let answer = self.send(by).await;
        assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{self:?}: {answer:?}");
    }
}

/// The client's ids have the form of a UUID, but no version in them.
fn guid() -> String {
    let random = Uuid::new_v4().as_u128();
    Uuid::from_u128(random ^ (random << 64)).to_string()
}

/// The time in the form `2006-01-02T15:04:05.999999999Z`: without zeros at the end.
fn now() -> String {
    written(OffsetDateTime::now_utc())
}

fn written(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).expect("a time of today")
}

fn condition(broadcaster: &str) -> String {
    format!(r#"{{"broadcaster_user_id":"{broadcaster}"}}"#)
}

/// The client writes the name also where Twitch has the login, which is in lower case.
fn broadcaster_json(id: &str) -> String {
    let names = format!(r#""broadcaster_user_login":"{TO_NAME}","broadcaster_user_name":"{TO_NAME}""#);
    format!(r#""broadcaster_user_id":"{id}",{names}"#)
}

fn subscription(topic: &str, version: &str, status: &str, condition: &str, callback: &str) -> String {
    let (id, created_at) = (guid(), now());
    let transport = format!(r#"{{"method":"webhook","callback":"{callback}"}}"#);
    let kind = format!(r#""status":"{status}","type":"{topic}","version":"{version}""#);
    let rest = format!(r#""transport":{transport},"created_at":"{created_at}","cost":0"#);
    format!(r#"{{"id":"{id}",{kind},"condition":{condition},{rest}}}"#)
}

/// One request on a connection of its own, as each run of the client is.
async fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let exchanged = async {
        let mut stream = TcpStream::connect(address).await.expect("the instance listens");
        stream.write_all(request).await.expect("the instance reads");
        let mut read = Vec::new();
        let mut is_whole = false;
        while !is_whole {
            let more = stream.read_buf(&mut read).await.expect("the instance answers");
            assert!(more > 0, "the answer breaks off: {:?}", String::from_utf8_lossy(&read));
            is_whole = whole(&read).is_some();
        }
        whole(&read).expect("it is whole")
    };
    timeout(PATIENCE, exchanged).await.expect("an answer comes")
}

/// The answer in these bytes, if all of it is there.
fn whole(read: &[u8]) -> Option<Answer> {
    let head_bytes = read.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, body) = (std::str::from_utf8(&read[..head_bytes]).expect("text"), &read[head_bytes + 4..]);
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().expect("a status");
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let name: HeaderName = name.parse().expect("a header's name");
        headers.append(name, HeaderValue::from_str(value).expect("a header's value"));
    }
    let length = headers.get("content-length").map_or("0", |length| length.to_str().expect("text"));
    let length: usize = length.parse().expect("a length");
    let body = String::from_utf8(body.get(..length)?.to_vec()).expect("text");
    Some(Answer { status, headers, body })
}

/// How many requests had this outcome.
async fn counted(instance: &Instance, outcome: &str) -> f64 {
    let name = format!("chatpulse_webhook_requests_total{{outcome=\"{outcome}\"}}");
    instance.metrics().await.get(&name).copied().unwrap_or_default()
}

#[tokio::test]
async fn verify_subscription_finds_nothing_to_complain_of() {
    let instance = instance().await;
    let callback = format!("http://{}/webhooks/eventsub", instance.public);
    let known = ["stream.online", "stream.offline", "user.authorization.revoke"].map(|topic| (topic, "1"));
    for (topic, version) in known.into_iter().chain(OTHER_TOPICS) {
        let (event, challenge) = Event::verification(topic, version, &callback);
        let answer = event.send(instance.public).await;
        // The body is the challenge alone, the media type text/plain, the status 2XX.
        assert_eq!(answer.body, challenge, "{topic}");
        let media_type = answer.header("content-type").split(';').next().unwrap_or_default().trim();
        assert_eq!((answer.status, media_type), (200, "text/plain"), "{topic}: {answer:?}");
        assert_eq!(answer.header("content-length"), challenge.len().to_string(), "{topic}: {answer:?}");
    }
    assert!(counted(&instance, "challenge").await >= OTHER_TOPICS.len() as f64);
}

#[tokio::test]
async fn a_challenge_is_answered_only_if_it_was_signed_with_our_secret() {
    let instance = instance().await;
    let (event, challenge) = Event::verification("stream.online", "1", "http://127.0.0.1/");
    for secret in [None, Some("another-secret-of-somebody")] {
        let answer = exchange(instance.public, &event.request(instance.public, secret)).await;
        assert_eq!(answer.status, if secret.is_none() { 400 } else { 403 }, "{answer:?}");
        answer.assert_problem(answer.status);
        assert!(!answer.body.contains(&challenge), "{answer:?}");
    }
}

#[tokio::test]
async fn every_type_that_the_client_knows_is_taken() {
    let instance = instance().await;
    let broadcaster = some_twitch_id();
    let who = format!("{{{}}}", broadcaster_json(&broadcaster));
    for (topic, version) in OTHER_TOPICS {
        let subscription = subscription(topic, version, "enabled", &condition(&broadcaster), "null");
        let body = format!(r#"{{"subscription":{subscription},"event":{who}}}"#);
        Event::of(NOTIFICATION, topic, version, body).is_taken(instance.public).await;
    }
    for event in [
        Event::stream_online(&broadcaster),
        Event::stream_offline(&broadcaster),
        Event::authorization_revoked(&some_twitch_id()),
    ] {
        event.is_taken(instance.public).await;
        // Older clients say this for the version.
        Event { version: "test".into(), message_id: guid(), ..event }.is_taken(instance.public).await;
    }
    assert!(counted(&instance, "unknown").await >= OTHER_TOPICS.len() as f64);
}

#[tokio::test]
async fn a_batch_of_drops_is_taken_and_so_are_many_events_of_one_run() {
    let instance = instance().await;
    let (organization, user) = (some_twitch_id(), some_twitch_id());
    let data = json!({
        "entitlement_id": guid(), "benefit_id": guid(), "campaign_id": guid(),
        "organization_id": organization, "created_at": now(),
        "user_id": user, "user_name": TO_NAME, "user_login": TO_NAME,
        "category_id": "1234", "category_name": "",
    });
    let condition = format!(r#"{{"organization_id":"{organization}"}}"#);
    let subscription = subscription("drop.entitlement.grant", "1", "enabled", &condition, "null");
    let events = json!([{ "id": guid(), "data": data.clone() }, { "id": guid(), "data": data }]);
    let body = format!(r#"{{"subscription":{subscription},"events":{events}}}"#);
    Event::of(NOTIFICATION, "drop.entitlement.grant", "1", body).is_taken(instance.public).await;

    // `--count 20`, and the same with `--event-id`, which makes all ids alike.
    let broadcaster = some_twitch_id();
    for _ in 0..20 {
        let event = Event::stream_online(&broadcaster);
        event.is_taken(instance.public).await;
        Event { message_id: "chosen-by-somebody".into(), ..event }.is_taken(instance.public).await;
    }
}

#[tokio::test]
async fn retriggering_an_event_changes_nothing_twice() {
    let instance = instance().await;
    let (streamer, _overlay) = instance.watched().await;
    let revoked = Event::authorization_revoked(&some_twitch_id());
    for event in [Event::stream_online(&streamer.twitch_id), revoked] {
        event.is_taken(instance.public).await;
        for _ in 0..3 {
            event.again().is_taken(instance.public).await;
        }
    }
    // A chat message in the client's clothes: it counts once, however often it comes.
    let chat = Chat::new(&streamer.twitch_id, "yes");
    let body = String::from_utf8(chat.body()).expect("text");
    let event = Event::of(NOTIFICATION, "channel.chat.message", "1", body);
    event.is_taken(instance.public).await;
    event.again().is_taken(instance.public).await;
    event.again().is_taken(instance.public).await;
    assert_eq!(instance.voted(&streamer).await, [chat.message_id]);
}

#[tokio::test]
async fn unsigned_wrongly_signed_and_old_events_are_refused() {
    let instance = instance().await;
    let event = Event::stream_online(&some_twitch_id());
    let request = |secret| event.request(instance.public, secret);
    // Without `--secret` there is neither signature nor timestamp.
    exchange(instance.public, &request(None)).await.assert_problem(400);
    exchange(instance.public, &request(Some("another-secret"))).await.assert_problem(403);
    let old = event.clone().sent_at(OffsetDateTime::now_utc() - Duration::minutes(11));
    old.send(instance.public).await.assert_problem(403);
    let early = event.clone().sent_at(OffsetDateTime::now_utc() + Duration::minutes(2));
    early.send(instance.public).await.assert_problem(403);
    event.is_taken(instance.public).await;
}

#[tokio::test]
async fn a_revocation_ends_the_subscription_that_it_names_and_no_other() {
    let stage = Stage::set().await;
    let instance = stage.instance(&[]).await;
    stage.sign_in_bot(&instance).await;
    Visitor::new().sign_in(&stage.public_url, ADA).await;
    let ada = stage.streamer(&instance, ADA).await;
    let _overlay = instance.overlay(&ada).await;
    let sql = instance.sql().await;
    let chat = async || {
        let question = "SELECT subscription_id, status, reason FROM chatpulse.eventsub_subscriptions
                        WHERE streamer_id = $1 AND type = 'channel.chat.message'";
        let row = sql.query_opt(question, &[&ada.id]).await.expect("subscriptions can be read");
        let text = |column: usize| row.as_ref().and_then(|row| row.get::<_, Option<String>>(column));
        [1, 0, 2].map(|column| text(column).unwrap_or_default())
    };
    eventually("the chat is subscribed to", async || chat().await[0] == "enabled").await;
    let [_, id, _] = chat().await;

    let unknown = Event::revocation("stream.online", ADA, &guid(), "authorization_revoked");
    unknown.is_taken(instance.public).await;
    assert_eq!(chat().await[0], "enabled", "it was another one");
    // Who replays a notification as a revocation ends nothing.
    let enabled = Event::revocation("stream.online", ADA, &id, "enabled");
    enabled.is_taken(instance.public).await;
    assert_eq!(chat().await[0], "enabled", "it says itself that it is enabled");
    assert!(counted(&instance, "revocation").await >= 1.0);

    // The client can't name a chat's type; it is the id that counts.
    Event::revocation("stream.online", ADA, &id, "authorization_revoked").is_taken(instance.public).await;
    let [status, _, reason] = chat().await;
    assert_eq!([status.as_str(), reason.as_str()], ["blocked", "authorization_revoked"]);
}

#[tokio::test]
async fn an_authorization_that_twitch_still_knows_is_not_ended_by_an_event_alone() {
    let stage = Stage::set().await;
    let instance = stage.instance(&[]).await;
    let visitor = Visitor::new();
    visitor.sign_in(&stage.public_url, ADA).await;
    let dashboard = format!("{}/dashboard", stage.public_url);
    Event::authorization_revoked(ADA).is_taken(instance.public).await;
    assert_eq!(visitor.get(&dashboard).await.status, 200, "Twitch says that the token is valid");
    stage.platform.expire_access(Some(ADA));
    stage.platform.forget_refresh(ADA);
    Event::authorization_revoked(ADA).is_taken(instance.public).await;
    assert_eq!(visitor.get(&dashboard).await.status, 303, "now it is not");
}

#[tokio::test]
async fn a_stream_that_the_client_begins_and_ends_is_recorded() {
    let stage = Stage::set().await;
    let instance = stage.instance(&[]).await;
    Visitor::new().sign_in(&stage.public_url, ADA).await;
    let ada = stage.streamer(&instance, ADA).await;
    let sql = instance.sql().await;
    let is_recorded = async || {
        let question = "SELECT chatpulse.recording() = ANY (holders) FROM chatpulse.live_sessions
                        WHERE streamer_id = $1";
        let row = sql.query_opt(question, &[&ada.id]).await.expect("live sessions can be read");
        row.is_some_and(|row| row.get(0))
    };
    // Who signs in is looked at, beside the answer; what that finds is older than what comes now.
    eventually("Twitch was asked whether Ada is live", async || {
        let key = format!("chatpulse:cache:stream:{ADA}");
        let exists = query::<u64>(&instance.stores.redis_url, redis::cmd("EXISTS").arg(key)).await;
        exists.expect("Redis answers") == 1
    })
    .await;
    assert!(!is_recorded().await);
    let online = Event::stream_online(ADA);
    online.is_taken(instance.public).await;
    eventually("the recording holds a session", async || is_recorded().await).await;
    online.again().is_taken(instance.public).await;
    assert!(is_recorded().await);
    let question = "SELECT stream_id FROM chatpulse.streams WHERE streamer_id = $1";
    let row = sql.query_one(question, &[&ada.id]).await.expect("the stream is known");
    let stream_id: String = row.get(0);
    let event: Value = serde_json::from_str(&online.body).expect("JSON");
    assert_eq!(event["event"]["id"], stream_id);
    Event::stream_offline(ADA).is_taken(instance.public).await;
    eventually("the recording lets go of it", async || !is_recorded().await).await;
}

// The client's WebSocket server -----------------------------------------------------------------------

/// The server's end of a connection.
type Peer = WebSocketStream<TcpStream>;

/// The client's envelope around a payload; both are JSON.
fn envelope(message_type: &str, payload: &str) -> String {
    let (id, now) = (guid(), now());
    let more = match message_type {
        "notification" => r#","subscription_type":"channel.chat.message","subscription_version":"1""#,
        _ => "",
    };
    let kind = format!(r#""message_type":"{message_type}","message_timestamp":"{now}"{more}"#);
    format!(r#"{{"metadata":{{"message_id":"{id}",{kind}}},"payload":{payload}}}"#)
}

/// A welcome: the id names server and client, and the keepalive is ten seconds whatever was asked for.
fn welcome(session_id: &str) -> String {
    let rest = format!(r#""keepalive_timeout_seconds":10,"reconnect_url":null,"connected_at":"{}""#, now());
    let session = format!(r#"{{"id":"{session_id}","status":"connected",{rest}}}"#);
    envelope("session_welcome", &format!(r#"{{"session":{session}}}"#))
}

fn reconnect(session_id: &str, url: &str) -> String {
    let rest = format!(r#""reconnect_url":"{url}","connected_at":"{}""#, now());
    let head = format!(r#""id":"{session_id}","status":"reconnecting","keepalive_timeout_seconds":null"#);
    let session = format!("{{{head},{rest}}}");
    envelope("session_reconnect", &format!(r#"{{"session":{session}}}"#))
}

/// The next connection, and the first line of its request.
async fn accept(listener: &TcpListener) -> (String, Peer) {
    let accepted = timeout(PATIENCE, listener.accept()).await.expect("the instance connects");
    let (stream, _) = accepted.expect("a connection");
    let mut head = [0; 1024];
    let read = stream.peek(&mut head).await.expect("it can be read");
    let line = String::from_utf8_lossy(&head[..read]).lines().next().unwrap_or_default().to_owned();
    (line, accept_async(stream).await.expect("a WebSocket"))
}

async fn say(peer: &mut Peer, text: String) {
    peer.send(Message::text(text)).await.expect("the instance is there");
}

/// Chat comes on this connection, and is journaled.
async fn chat_votes(peer: &mut Peer, instance: &Instance, streamer: &Streamer) {
    let chat = Chat::new(&streamer.twitch_id, "yes");
    let payload = String::from_utf8(chat.body()).expect("text");
    say(peer, envelope("notification", &payload)).await;
    eventually("the vote is journaled", async || {
        say(peer, envelope("session_keepalive", "{}")).await;
        instance.voted(streamer).await.contains(&chat.message_id)
    })
    .await;
}

/// What the instance says until it closes; the client's server allows it no message.
async fn said_until_closed(peer: &mut Peer) -> Vec<Message> {
    let mut said = Vec::new();
    let read = async {
        while let Some(Ok(message)) = peer.next().await {
            match message {
                Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) => {}
                other => said.push(other),
            }
        }
    };
    timeout(PATIENCE, read).await.expect("the instance closes");
    said
}

#[tokio::test]
async fn the_clients_websocket_server_is_understood_also_when_it_restarts() {
    let stage = Stage::set().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
    let url = format!("ws://{}/ws", listener.local_addr().expect("a listener has an address"));
    let settings =
        [("CHATPULSE_TWITCH__TRANSPORT", "websocket"), ("CHATPULSE_TWITCH__EVENTSUB_URL", url.as_str())];
    let instance = stage.instance(&settings).await;
    let streamer = instance.streamer(&["yes"], &["no"]).await;
    let (asked, mut before) = accept(&listener).await;
    assert!(asked.starts_with("GET /ws"), "{asked}");
    say(&mut before, welcome("1a2b3c4d_5e6f7a8b")).await;
    let _overlay = instance.overlay(&streamer).await;
    chat_votes(&mut before, &instance, &streamer).await;

    // `event websocket reconnect`: another server, another session; the old one stays for 30 s.
    let elsewhere = format!("{url}?reconnect_id=MWEyYjNjNGRfNWU2ZjdhOGI");
    say(&mut before, reconnect("1a2b3c4d_5e6f7a8b", &elsewhere)).await;
    let (asked, mut after) = accept(&listener).await;
    assert!(asked.contains("/ws?reconnect_id=MWEyYjNjNGRfNWU2ZjdhOGI "), "{asked}");
    say(&mut after, welcome("9c8b7a6d_5e4f3a2b")).await;
    chat_votes(&mut after, &instance, &streamer).await;
    let said = said_until_closed(&mut before).await;
    assert!(said.is_empty(), "{said:?}");

    // `event websocket close --reason 4006`: it comes again by itself.
    let frame = CloseFrame { code: 4006.into(), reason: "network error".into() };
    after.close(Some(frame)).await.expect("the instance is there");
    let (_, mut anew) = accept(&listener).await;
    say(&mut anew, welcome("9c8b7a6d_0a1b2c3d")).await;
    chat_votes(&mut anew, &instance, &streamer).await;
}
