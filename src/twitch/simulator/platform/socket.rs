//! EventSub by WebSocket: one task a connection,
//! <https://dev.twitch.tv/docs/eventsub/handling-websocket-events/>.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::Shared;
use super::refusal::Fields;
use super::state::{Opened, Order};

/// Orders that wait for one connection, mostly notifications; one whose client reads slower is closed.
const ORDERS_MAX: usize = 4_096;
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How long a client may leave what was sent unread.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// How long a client may take to answer a close frame.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// After a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Nothing to wait for.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

const INTERNAL_ERROR: u16 = 4000;
const INBOUND_TRAFFIC: u16 = 4001;
const FAILED_PING_PONG: u16 = 4002;
const UNUSED: u16 = 4003;
const GRACE_EXPIRED: u16 = 4004;
const NETWORK_TIMEOUT: u16 = 4005;
const NETWORK_ERROR: u16 = 4006;
const CLIENT_LEFT: u16 = 1000;

impl Shared {
    /// Tells a connection's task something. One that does not keep up is closed.
    pub(super) fn order(&self, connection: u64, order: Order) {
        let mut sockets = self.sockets();
        let Some(sender) = sockets.get(&connection) else { return };
        if let Err(TrySendError::Full(_)) = sender.try_send(order) {
            // Its task notices that nobody speaks to it any more.
            sockets.remove(&connection);
        }
    }
}

/// Takes connections for as long as the platform runs.
pub(super) async fn accept_all(shared: Arc<Shared>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(shared.rules.sockets_max.min(Semaphore::MAX_PERMITS)));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // One too many is dropped.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        shared.spawn(serve(Arc::clone(&shared), stream, place));
    }
}

/// Keeps the query of the request to upgrade, and refuses every other path.
struct Upgrade<'a>(&'a mut Fields);

impl Callback for Upgrade<'_> {
    fn on_request(self, request: &Request, response: Response) -> Result<Response, ErrorResponse> {
        if request.uri().path() == "/ws" {
            *self.0 = Fields::parse(request.uri().query().unwrap_or_default().as_bytes());
            return Ok(response);
        }
        let mut refused = ErrorResponse::new(Some("there is only /ws".into()));
        *refused.status_mut() = StatusCode::NOT_FOUND;
        Err(refused)
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, _place: OwnedSemaphorePermit) {
    let mut query = Fields::default();
    let _ = stream.set_nodelay(true); // Without it frames only come a little later.
    let accepted = timeout(HANDSHAKE_MAX, accept_hdr_async(stream, Upgrade(&mut query))).await;
    let Ok(Ok(mut socket)) = accepted else { return };
    let number = shared.connections.fetch_add(1, Ordering::AcqRel);
    let (sender, orders) = mpsc::channel(ORDERS_MAX);
    shared.sockets().insert(number, sender);
    let end = match shared.act(|state, now| state.open_session(number, &query, now)) {
        Err(code) => End::Close(code),
        Ok(opened) => {
            let session_id = opened.session_id.clone();
            let end = Connection::new(&shared, number, opened, orders).run(&mut socket).await;
            shared.act(|state, now| state.session_ended(&session_id, number, end.code(), now));
            end
        }
    };
    shared.sockets().remove(&number);
    if let End::Close(code) = end {
        close(&mut socket, code).await;
    }
}

/// How a connection ends.
enum End {
    /// We close it, and say why.
    Close(u16),
    /// It is gone already, or is to be gone without a word.
    Gone(u16),
}

impl End {
    fn code(&self) -> u16 {
        match self {
            End::Close(code) | End::Gone(code) => *code,
        }
    }
}

type Socket = WebSocketStream<TcpStream>;

struct Connection<'a> {
    shared: &'a Arc<Shared>,
    number: u64,
    opened: Opened,
    orders: mpsc::Receiver<Order>,
    is_muted: bool,
    /// When silence has to be broken.
    keepalive_at: Instant,
    ping_at: Instant,
    awaits_pong: bool,
    /// When it has to belong to a shard.
    unused_at: Instant,
    /// When the client has to have reconnected.
    grace_at: Instant,
}

impl<'a> Connection<'a> {
    fn new(shared: &'a Arc<Shared>, number: u64, opened: Opened, orders: mpsc::Receiver<Order>) -> Self {
        let now = Instant::now();
        Connection {
            shared,
            number,
            keepalive_at: now + opened.keepalive,
            opened,
            orders,
            is_muted: false,
            ping_at: now + shared.rules.ping,
            awaits_pong: false,
            unused_at: now + shared.rules.unused,
            grace_at: now + FAR,
        }
    }

    async fn run(mut self, socket: &mut Socket) -> End {
        let welcome = std::mem::take(&mut self.opened.welcome);
        if let Err(end) = self.say(socket, welcome).await {
            return end;
        }
        loop {
            let step = tokio::select! {
                order = self.orders.recv() => self.obey(socket, order).await,
                incoming = socket.next() => self.take(incoming),
                () = sleep_until(self.keepalive_at) => self.keep_alive(socket).await,
                () = sleep_until(self.ping_at) => self.ping(socket).await,
                () = sleep_until(self.unused_at) => self.check_use(),
                () = sleep_until(self.grace_at) => Err(End::Close(GRACE_EXPIRED)),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn obey(&mut self, socket: &mut Socket, order: Option<Order>) -> Result<(), End> {
        match order {
            Some(Order::Say(text)) => self.say(socket, text).await,
            Some(Order::Reconnect(text)) => {
                self.grace_at = Instant::now() + self.shared.rules.reconnect_grace;
                self.say(socket, text).await
            }
            Some(Order::Mute(is_muted)) => {
                self.is_muted = is_muted;
                Ok(())
            }
            Some(Order::Close(code)) => Err(End::Close(code)),
            Some(Order::Cut) => Err(End::Gone(NETWORK_ERROR)),
            // It did not read fast enough, or the platform ends.
            None => Err(End::Close(NETWORK_TIMEOUT)),
        }
    }

    /// A client may only answer pings, and leave.
    fn take<E>(&mut self, incoming: Option<Result<Message, E>>) -> Result<(), End> {
        match incoming {
            Some(Ok(Message::Pong(_))) => {
                self.awaits_pong = false;
                Ok(())
            }
            Some(Ok(Message::Close(_))) | None => Err(End::Gone(CLIENT_LEFT)),
            Some(Ok(_)) => Err(End::Close(INBOUND_TRAFFIC)),
            Some(Err(_)) => Err(End::Gone(NETWORK_ERROR)),
        }
    }

    async fn keep_alive(&mut self, socket: &mut Socket) -> Result<(), End> {
        let text = self.shared.act(|state, now| state.keepalive_message(now));
        self.say(socket, text).await
    }

    async fn ping(&mut self, socket: &mut Socket) -> Result<(), End> {
        if self.awaits_pong {
            return Err(End::Close(FAILED_PING_PONG));
        }
        self.awaits_pong = true;
        self.ping_at = Instant::now() + self.shared.rules.ping;
        write(socket, Message::Ping(Default::default())).await
    }

    fn check_use(&mut self) -> Result<(), End> {
        self.unused_at = Instant::now() + FAR;
        let session_id = &self.opened.session_id;
        let is_unused = self.shared.act(|state, _| state.is_unused(session_id, self.number));
        if is_unused { Err(End::Close(UNUSED)) } else { Ok(()) }
    }

    async fn say(&mut self, socket: &mut Socket, text: String) -> Result<(), End> {
        self.keepalive_at = Instant::now() + self.opened.keepalive;
        if self.is_muted { Ok(()) } else { write(socket, Message::text(text)).await }
    }
}

async fn write(socket: &mut Socket, message: Message) -> Result<(), End> {
    match timeout(WRITE_MAX, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Gone(NETWORK_ERROR)),
        Err(_) => Err(End::Gone(NETWORK_TIMEOUT)),
    }
}

/// Closes with this code, and gives the client a moment to answer.
async fn close(socket: &mut Socket, code: u16) {
    let frame = CloseFrame { code: CloseCode::from(code), reason: reason(code).into() };
    let closing = async {
        if socket.close(Some(frame)).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    // A client that does not answer is dropped.
    let _ = timeout(CLOSE_MAX, closing).await;
}

fn reason(code: u16) -> &'static str {
    match code {
        INTERNAL_ERROR => "internal server error",
        INBOUND_TRAFFIC => "sent inbound traffic",
        FAILED_PING_PONG => "failed ping pong",
        UNUSED => "connection unused",
        GRACE_EXPIRED => "client reconnect grace time expired",
        NETWORK_TIMEOUT => "network timeout",
        NETWORK_ERROR => "network error",
        4007 => "invalid reconnect attempt",
        _ => "",
    }
}
