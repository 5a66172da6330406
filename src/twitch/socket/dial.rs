//! Connecting to Twitch's EventSub, and what a connection gives.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};
use url::Url;

use super::{Closed, Reason, SocketOptions};

/// Bytes of a message at most, as with webhooks.
pub(super) const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Bytes that are read ahead.
const READ_BUFFER_BYTES: usize = 32 * 1024;
/// Seconds of keepalive that Twitch takes.
const KEEPALIVE_SECONDS: (u64, u64) = (10, 600);
/// How long is waited for the last words of a connection.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// A connection after its handshake.
pub(super) type Connection = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A connection and the first text that came on it.
pub(super) struct Greeted {
    pub connection: Connection,
    pub first: Utf8Bytes,
}

/// What a connection gave.
pub(super) enum Heard {
    Text(Utf8Bytes),
    /// A ping, or something that doesn't concern us.
    Other,
    /// Nothing more will come.
    Ended(Reason),
}

/// Opens the connections of one session.
#[derive(Clone)]
pub(super) struct Dialer {
    connector: Connector,
    is_secure: bool,
    timeout: Duration,
}

impl Dialer {
    /// A dialer for connections to `address`, and to where Twitch asks to go from there.
    ///
    /// # Errors
    /// [`Reason::Setup`] when the machine has no CA certificates. Not needed without TLS.
    pub fn new(address: &Url, timeout: Duration) -> Result<Dialer, Reason> {
        let is_secure = address.scheme() == "wss";
        let connector = if is_secure { tls()? } else { Connector::Plain };
        Ok(Dialer { connector, is_secure, timeout })
    }

    /// Connects and waits for the first text, all within the connect timeout.
    ///
    /// # Errors
    /// [`Reason`], which never holds the URL: who knows that can take over the session.
    pub async fn greet(self, url: String) -> Result<Greeted, Reason> {
        timeout(self.timeout, self.connect(&url)).await.unwrap_or(Err(Reason::NoWelcome))
    }

    async fn connect(&self, url: &str) -> Result<Greeted, Reason> {
        if self.is_secure && !Url::parse(url).is_ok_and(|url| url.scheme() == "wss") {
            return Err(Reason::Unreachable("Twitch named an address without TLS".to_owned()));
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let connector = Some(self.connector.clone());
        let connected = connect_async_tls_with_config(url, Some(config), true, connector).await;
        let (mut connection, _) = connected.map_err(|error| Reason::Unreachable(error.to_string()))?;
        loop {
            match hear(&mut connection).await {
                Heard::Text(first) => return Ok(Greeted { connection, first }),
                Heard::Other => {}
                Heard::Ended(reason) => return Err(reason),
            }
        }
    }
}

/// Twitch's address with the wish for keepalives.
///
/// # Errors
/// [`Reason::Setup`] when the options hold no WebSocket URL.
pub(super) fn address(options: &SocketOptions) -> Result<Url, Reason> {
    let url = Url::parse(&options.url).ok().filter(|url| matches!(url.scheme(), "ws" | "wss"));
    let mut url = url.ok_or_else(|| {
        Reason::Setup("the EventSub URL must be one such as wss://eventsub.wss.twitch.tv/ws".to_owned())
    })?;
    let seconds = options.keepalive.as_secs().clamp(KEEPALIVE_SECONDS.0, KEEPALIVE_SECONDS.1);
    url.query_pairs_mut().append_pair("keepalive_timeout_seconds", &seconds.to_string());
    Ok(url)
}

/// The operating system's trust, as for all other requests.
fn tls() -> Result<Connector, Reason> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_platform_verifier())
        .map_err(|error| Reason::Setup(format!("TLS can't be set up: {error}")))?
        .with_no_client_auth();
    Ok(Connector::Rustls(Arc::new(config)))
}

/// The next thing that comes on a connection. May be dropped and asked again without loss. Pings are
/// answered with the next call, which first writes what is to be written.
pub(super) async fn hear(connection: &mut Connection) -> Heard {
    match connection.next().await {
        Some(Ok(Message::Text(text))) => Heard::Text(text),
        Some(Ok(Message::Close(frame))) => {
            let code = frame.map_or(CloseCode::Status, |frame| frame.code);
            Heard::Ended(Reason::Closed(Closed::of(code.into())))
        }
        Some(Ok(_)) => Heard::Other,
        Some(Err(Error::Capacity(_))) => Heard::Ended(Reason::TooLarge),
        Some(Err(error)) => Heard::Ended(Reason::Lost(error.to_string())),
        None => Heard::Ended(Reason::Lost("it was closed before".to_owned())),
    }
}

/// Asks Twitch to close. What it wrote before it heard of that can still be read.
pub(super) async fn ask_to_close(connection: &mut Connection) {
    let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
    // Err: Twitch doesn't listen, or was first; whoever reads on will see.
    let _ = timeout(CLOSE_PATIENCE, connection.close(Some(frame))).await;
}

/// The last thing to do with a connection: asks Twitch to close, or answers that it has.
pub(super) async fn let_go(connection: &mut Connection) {
    ask_to_close(connection).await;
    // Where Twitch was first, its close waits for an answer. Err: nobody is there any more.
    let _ = timeout(CLOSE_PATIENCE, connection.flush()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str, seconds: u64) -> SocketOptions {
        let keepalive = Duration::from_secs(seconds);
        SocketOptions { url: url.to_owned(), keepalive, connect_timeout: Duration::from_secs(10) }
    }

    #[test]
    fn twitch_is_asked_for_a_keepalive_that_it_takes() {
        for (url, seconds, expected) in [
            ("wss://eventsub.wss.twitch.tv/ws", 30, "/ws?keepalive_timeout_seconds=30"),
            ("ws://127.0.0.1:80/ws?a=b", 0, "/ws?a=b&keepalive_timeout_seconds=10"),
            ("ws://localhost:1", 6_000, "localhost:1/?keepalive_timeout_seconds=600"),
        ] {
            let address = address(&options(url, seconds)).unwrap();
            assert!(address.as_str().ends_with(expected), "{address}");
        }
    }

    #[test]
    fn what_is_no_websocket_url_is_refused() {
        for url in ["", "eventsub.wss.twitch.tv", "https://eventsub.wss.twitch.tv/ws"] {
            assert!(matches!(address(&options(url, 30)), Err(Reason::Setup(_))), "{url}");
        }
    }

    #[tokio::test]
    async fn a_session_with_tls_does_not_move_to_an_address_without() {
        let timeout = Duration::from_secs(60);
        for url in ["ws://127.0.0.1:1/ws?secret", "secret"] {
            let dialer = Dialer { connector: Connector::Plain, is_secure: true, timeout };
            let Err(Reason::Unreachable(why)) = dialer.greet(url.to_owned()).await else { panic!("{url}") };
            assert!(why.contains("without TLS") && !why.contains("secret"), "{why}");
        }
    }
}
