//! An overlay's socket, as a browser has it.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::PATIENCE;

/// An open socket. Pings are answered while somebody reads.
pub struct Overlay {
    pub socket: WebSocketStream<TcpStream>,
    /// The first frame, once it was read.
    pub hello: Value,
}

impl Overlay {
    /// Opens the socket of an overlay's URL; a refusal is its HTTP status.
    pub async fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Overlay, u16> {
        match timeout(PATIENCE, Overlay::try_open(address, path, headers))
            .await
            .expect("the instance answers")
        {
            Ok(overlay) => Ok(overlay),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("the socket can't be opened: {error}"),
        }
    }

    /// Opens the socket of an overlay's URL on an instance that may be gone.
    pub async fn try_open(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Overlay, Error> {
        let url = format!("ws://{address}/ws/overlay/{path}");
        let mut request = url.into_client_request().expect("a URL");
        for (name, value) in headers {
            let name: HeaderName = name.parse().expect("a header's name");
            request.headers_mut().insert(name, HeaderValue::from_str(value).expect("a header's value"));
        }
        let stream = TcpStream::connect(address).await?;
        let (socket, _) = client_async(request, stream).await?;
        Ok(Overlay { socket, hello: Value::Null })
    }

    /// The next frame, which has to be of this type.
    pub async fn next_frame(&mut self, frame_type: &str) -> Value {
        let frame = self.next_within(PATIENCE).await.unwrap_or_else(|| panic!("no {frame_type} frame came"));
        assert_eq!(frame["type"], frame_type, "{frame}");
        frame
    }

    /// The next frame, if one comes in this time.
    pub async fn next_within(&mut self, time: Duration) -> Option<Value> {
        timeout(time, self.read_frame()).await.ok()
    }

    /// The first frame of a socket that was let in; else the code that it is closed with.
    pub async fn first(&mut self) -> Result<Value, u16> {
        match timeout(PATIENCE, self.read()).await.expect("something comes") {
            Message::Text(text) => Ok(serde_json::from_str(&text).expect("a frame is JSON")),
            Message::Close(close) => Err(close.map_or(1005, |close| close.code.into())),
            other => panic!("a text frame or a close was due, not {other:?}"),
        }
    }

    /// Reads frames until one has this many votes on both sides together; answers all that were read.
    pub async fn frames_until_votes(&mut self, votes: i64) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            let frame = self.next_frame("sentiment").await;
            let sum = frame["for"].as_i64().expect("for") + frame["against"].as_i64().expect("against");
            frames.push(frame);
            if sum >= votes {
                return frames;
            }
        }
    }

    async fn read_frame(&mut self) -> Value {
        match self.read().await {
            Message::Text(text) => {
                assert!(text.starts_with(r#"{"type":""#), "type first: {text}");
                serde_json::from_str(&text).expect("a frame is JSON")
            }
            other => panic!("a text frame was due, not {other:?}"),
        }
    }

    async fn read(&mut self) -> Message {
        loop {
            match self.socket.next().await.expect("the socket is open").expect("the socket works") {
                Message::Ping(_) => {}
                message => return message,
            }
        }
    }

    pub async fn send(&mut self, message: Message) {
        self.socket.send(message).await.expect("the socket takes it");
    }

    /// Waits for a pong and answers what it holds; frames before it are passed over.
    pub async fn pong(&mut self) -> Vec<u8> {
        let read = async {
            loop {
                if let Message::Pong(payload) = self.read().await {
                    return payload.to_vec();
                }
            }
        };
        timeout(PATIENCE, read).await.expect("a pong comes")
    }

    /// Waits until the server closes the socket, and answers its code; frames before it are passed over.
    pub async fn close_code(&mut self) -> u16 {
        let read = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Close(Some(close)))) => return close.code.into(),
                    Some(Ok(Message::Close(None))) => return 1005,
                    Some(Ok(_)) => {}
                    Some(Err(error)) => panic!("the socket broke without a close frame: {error}"),
                    None => return 1006,
                }
            }
        };
        timeout(PATIENCE, read).await.expect("the socket is closed")
    }
}
