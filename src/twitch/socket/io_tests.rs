use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use time::format_description::well_known::Rfc3339;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{WebSocketStream, accept_async};

use super::*;
use crate::twitch::socket::{Closed, MessageKind};

/// Nothing here takes as long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Twitch's end of a connection.
type Peer = WebSocketStream<TcpStream>;

struct Twitch(TcpListener);

impl Twitch {
    async fn start() -> Twitch {
        Twitch(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn url(&self) -> String {
        format!("ws://{}/ws", self.0.local_addr().unwrap())
    }

    async fn accept(&self) -> Peer {
        let (stream, _) = timeout(PATIENCE, self.0.accept()).await.unwrap().unwrap();
        accept_async(stream).await.unwrap()
    }

    /// A session named `s1` has begun.
    async fn welcome(&self, client: &mut Client) -> Peer {
        let mut peer = self.accept().await;
        say(&mut peer, &welcome("s1")).await;
        assert_eq!(client.next().await, Told::Welcome { session_id: "s1".into() });
        peer
    }
}

struct Client {
    told: mpsc::Receiver<Told>,
    running: JoinHandle<Reason>,
    stop: oneshot::Sender<()>,
}

impl Client {
    fn start(url: String) -> Client {
        let options = SocketOptions {
            url,
            keepalive: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(30),
        };
        let (tell, told) = mpsc::channel(1);
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { stopped.await.unwrap_or(()) };
        let running = tokio::spawn(async move { run(&options, tell, stopped).await });
        Client { told, running, stop }
    }

    async fn next(&mut self) -> Told {
        timeout(PATIENCE, self.told.recv()).await.unwrap().unwrap()
    }

    async fn next_id(&mut self) -> String {
        match self.next().await {
            Told::Message { kind: MessageKind::Notification, message_id, .. } => message_id,
            other => panic!("{other:?}"),
        }
    }

    /// The session is over, for `reason`.
    async fn ends(mut self, reason: Reason) {
        // Without a time limit: some tests make the clock run ahead.
        assert_eq!(self.told.recv().await, Some(Told::Ended(reason.clone())));
        assert_eq!(self.told.recv().await, None);
        assert_eq!(self.running.await.unwrap(), reason);
    }
}

fn envelope(message_type: &str, id: &str, payload: &serde_json::Value) -> String {
    let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap();
    let metadata = json!({"message_type": message_type, "message_id": id, "message_timestamp": now});
    json!({"metadata": metadata, "payload": payload}).to_string()
}

fn welcome(id: &str) -> String {
    let session = json!({"id": id, "status": "connected", "keepalive_timeout_seconds": 10});
    envelope("session_welcome", "w", &json!({"session": session}))
}

fn reconnect(url: &str) -> String {
    let session = json!({"id": "s1", "status": "reconnecting", "reconnect_url": url});
    envelope("session_reconnect", "r", &json!({"session": session}))
}

fn notification(id: &str) -> String {
    envelope("notification", id, &json!({"subscription": {}, "event": {"message_id": id}}))
}

async fn say(peer: &mut Peer, text: &str) {
    peer.send(Message::text(text)).await.unwrap();
}

async fn close(peer: &mut Peer, code: u16) {
    peer.close(Some(CloseFrame { code: code.into(), reason: "".into() })).await.unwrap();
}

/// What the client sends next.
async fn hears(peer: &mut Peer) -> Message {
    timeout(PATIENCE, peer.next()).await.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn messages_are_told_as_they_come_until_twitch_closes() {
    let twitch = Twitch::start().await;
    let mut client = Client::start(twitch.url());
    let mut peer = twitch.welcome(&mut client).await;
    say(&mut peer, &notification("m1")).await;
    let Told::Message { kind, message_id, body, .. } = client.next().await else { panic!("no message") };
    assert_eq!((kind, message_id.as_str()), (MessageKind::Notification, "m1"));
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body, json!({"subscription": {}, "event": {"message_id": "m1"}}));
    say(&mut peer, &envelope("revocation", "m2", &json!({}))).await;
    let Told::Message { kind, .. } = client.next().await else { panic!("no message") };
    assert_eq!(kind, MessageKind::Revocation);
    say(&mut peer, &envelope("party", "m3", &json!({}))).await;
    assert_eq!(client.next().await, Told::Unknown("party".into()));
    close(&mut peer, 4003).await;
    assert!(hears(&mut peer).await.is_close(), "the close is answered");
    client.ends(Reason::Closed(Closed::Unused)).await;
}

#[tokio::test]
async fn a_ping_is_answered_and_nothing_else_is_sent() {
    let twitch = Twitch::start().await;
    let mut client = Client::start(twitch.url());
    let mut peer = twitch.welcome(&mut client).await;
    say(&mut peer, &notification("m1")).await;
    client.next_id().await;
    let ping = Bytes::from_static(b"there?");
    peer.send(Message::Ping(ping.clone())).await.unwrap();
    assert_eq!(hears(&mut peer).await, Message::Pong(ping));
}

#[tokio::test]
async fn an_owner_who_takes_slowly_loses_nothing() {
    let twitch = Twitch::start().await;
    let mut client = Client::start(twitch.url());
    let mut peer = twitch.welcome(&mut client).await;
    let ids: Vec<String> = (0..100).map(|number| format!("m{number}")).collect();
    for id in &ids {
        say(&mut peer, &notification(id)).await;
    }
    close(&mut peer, 1000).await;
    for id in &ids {
        assert_eq!(client.next_id().await, *id);
    }
    client.ends(Reason::Closed(Closed::Other(1000))).await;
}

#[tokio::test]
async fn a_silent_connection_is_given_up() {
    let twitch = Twitch::start().await;
    let mut client = Client::start(twitch.url());
    let _peer = twitch.welcome(&mut client).await;
    // From here the clock runs ahead whenever nothing else is to be done.
    tokio::time::pause();
    client.ends(Reason::Silent).await;
}

#[tokio::test]
async fn a_connection_without_a_welcome_is_given_up() {
    let twitch = Twitch::start().await;
    let client = Client::start(twitch.url());
    let _peer = twitch.accept().await;
    tokio::time::pause();
    client.ends(Reason::NoWelcome).await;
}

#[tokio::test]
async fn a_connection_that_begins_otherwise_is_given_up() {
    let twitch = Twitch::start().await;
    let client = Client::start(twitch.url());
    let mut peer = twitch.accept().await;
    say(&mut peer, &envelope("party", "m1", &json!({}))).await;
    client.ends(Reason::NotWelcomed("party".into())).await;
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_session() {
    let twitch = Twitch::start().await;
    let mut client = Client::start(twitch.url());
    let mut peer = twitch.welcome(&mut client).await;
    let text = envelope("notification", "m1", &json!({"event": "x".repeat(256 * 1024)}));
    // Err: the client may be gone before all of it is written.
    let _ = peer.send(Message::text(text)).await;
    client.ends(Reason::TooLarge).await;
}

#[tokio::test]
async fn a_connection_that_breaks_ends_the_session() {
    let twitch = Twitch::start().await;
    let mut client = Client::start(twitch.url());
    drop(twitch.welcome(&mut client).await);
    assert!(matches!(client.next().await, Told::Ended(Reason::Lost(_))));
}

#[tokio::test]
async fn nobody_there_ends_the_session_at_once() {
    // A port that no program is given by chance.
    let mut client = Client::start("ws://127.0.0.1:1/ws".to_owned());
    assert!(matches!(client.next().await, Told::Ended(Reason::Unreachable(_))));
}

#[tokio::test]
async fn a_move_to_another_connection_loses_and_doubles_nothing() {
    let twitch = Twitch::start().await;
    let mut client = Client::start(twitch.url());
    let mut old = twitch.welcome(&mut client).await;
    say(&mut old, &reconnect(&twitch.url())).await;
    let mut new = twitch.accept().await;
    say(&mut old, &notification("m1")).await;
    assert_eq!(client.next_id().await, "m1", "the old one is read while the new one says nothing");
    say(&mut old, &notification("m2")).await;
    say(&mut new, &welcome("s1")).await;
    say(&mut new, &notification("m1")).await;
    say(&mut new, &notification("m3")).await;
    // What is on its way from each may come in any order.
    let mut ids = [client.next_id().await, client.next_id().await];
    ids.sort();
    assert_eq!(ids, ["m2", "m3"]);
    assert!(hears(&mut old).await.is_close(), "the old one is closed");
    say(&mut new, &notification("m2")).await;
    say(&mut new, &notification("m4")).await;
    assert_eq!(client.next_id().await, "m4");
    close(&mut new, 4000).await;
    client.ends(Reason::Closed(Closed::InternalError)).await;
}

#[tokio::test]
async fn a_connection_that_was_left_may_break_without_harm() {
    let twitch = Twitch::start().await;
    let mut client = Client::start(twitch.url());
    let mut old = twitch.welcome(&mut client).await;
    say(&mut old, &reconnect(&twitch.url())).await;
    let mut new = twitch.accept().await;
    say(&mut new, &welcome("s2")).await;
    assert_eq!(client.next().await, Told::Welcome { session_id: "s2".into() });
    drop(old);
    say(&mut new, &notification("m1")).await;
    assert_eq!(client.next_id().await, "m1");
}

#[tokio::test]
async fn a_move_that_fails_leaves_the_session_where_it_was() {
    let twitch = Twitch::start().await;
    let elsewhere = Twitch::start().await;
    let mut client = Client::start(twitch.url());
    let mut peer = twitch.welcome(&mut client).await;
    say(&mut peer, &reconnect(&elsewhere.url())).await;
    drop(elsewhere.0.accept().await.unwrap());
    say(&mut peer, &notification("m1")).await;
    assert_eq!(client.next_id().await, "m1");
    close(&mut peer, 4004).await;
    client.ends(Reason::Closed(Closed::ReconnectTooLate)).await;
}

#[tokio::test]
async fn a_session_that_is_stopped_closes_and_says_nothing_more() {
    let twitch = Twitch::start().await;
    let mut client = Client::start(twitch.url());
    let mut peer = twitch.welcome(&mut client).await;
    client.stop.send(()).unwrap();
    assert!(hears(&mut peer).await.is_close());
    assert_eq!(client.told.recv().await, None);
    assert_eq!(client.running.await.unwrap(), Reason::Stopped);
}

#[tokio::test]
async fn a_session_that_nobody_listens_to_stops() {
    let twitch = Twitch::start().await;
    let mut client = Client::start(twitch.url());
    let mut peer = twitch.welcome(&mut client).await;
    drop(client.told);
    say(&mut peer, &notification("m1")).await;
    assert!(hears(&mut peer).await.is_close());
    assert_eq!(client.running.await.unwrap(), Reason::Stopped);
}

#[tokio::test]
async fn options_that_can_not_work_are_told() {
    let client = Client::start("https://eventsub.wss.twitch.tv/ws".into());
    let why = "the EventSub URL must be one such as wss://eventsub.wss.twitch.tv/ws";
    client.ends(Reason::Setup(why.to_owned())).await;
}
