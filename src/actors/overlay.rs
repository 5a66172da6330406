//! The overlay client: one actor a socket. The only file that knows actix-web-actors, so that it
//! can be exchanged.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

use actix::{Actor, ActorContext, Addr, AsyncContext, Handler, Message, Running, StreamHandler};
use actix_http::ws::Item;
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use actix_web_actors::ws;
use uuid::Uuid;

use super::outbox::{Close, Outbox};
use super::places::Place;
use super::services::Services;
use super::session::{HelloAgain, Join, Leave, SessionActor};
use crate::telemetry::logs::Redacted;

/// Between two hellos. The page takes a silence of more than twice this for a dead network.
const HELLO_EVERY: Duration = Duration::from_secs(60);
/// After so long without it, it is looked whether the session still lives.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Looks of all sockets within so long happen at once.
const LOOKS_SHARED: Duration = Duration::from_millis(500);
/// As [`LOOKS_SHARED`], where pings are so frequent that this would be late.
const LOOK_MIN: Duration = Duration::from_millis(10);
const TOO_LONG: &str = "the message is too long";
/// RFC 6455, section 7.4.1: the message is not of the type it says (here: not UTF-8).
const INVALID_PAYLOAD: u16 = 1007;

/// A place in a session, from before the socket opens until it is gone.
pub struct Seat {
    pub services: Arc<Services>,
    pub streamer_id: Uuid,
    pub overlay_uuid: Uuid,
    pub session: Addr<SessionActor>,
    seats: Arc<AtomicUsize>,
}

impl Seat {
    /// Takes a place.
    pub fn take(
        services: Arc<Services>,
        streamer_id: Uuid,
        overlay_uuid: Uuid,
        session: Addr<SessionActor>,
        seats: Arc<AtomicUsize>,
    ) -> Seat {
        seats.fetch_add(1, Ordering::AcqRel);
        Seat { services, streamer_id, overlay_uuid, session, seats }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.seats.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.services.vacated(self.streamer_id);
        }
    }
}

/// A close code as a metric's label. Clients may make up codes, but not labels.
fn label(code: u16) -> String {
    match code {
        1000..=1015 | 4000..=4199 => code.to_string(),
        _ => "other".into(),
    }
}

/// The outbox has something.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Look;

/// One overlay socket.
pub struct OverlayActor {
    id: Uuid,
    seat: Seat,
    /// Counts for the client's address until it is dropped.
    _place: Place,
    outbox: Arc<Outbox>,
    last_pong: Instant,
    last_ping: Option<Instant>,
    last_hello: Instant,
    /// Bytes of an incoming message whose end has not come.
    continued_bytes: usize,
    closed_with: Option<u16>,
}

type SocketContext = ws::WebsocketContext<OverlayActor>;

/// A socket that is closed as soon as it is open, so that the client learns why.
struct RefusedActor(Close);

impl Actor for RefusedActor {
    type Context = ws::WebsocketContext<RefusedActor>;

    fn started(&mut self, context: &mut Self::Context) {
        context.close(Some((ws::CloseCode::from(self.0.code()), self.0.reason()).into()));
        context.stop();
    }
}

impl StreamHandler<Result<ws::Message, ws::ProtocolError>> for RefusedActor {
    fn handle(&mut self, _: Result<ws::Message, ws::ProtocolError>, _: &mut Self::Context) {}
}

/// Answers an upgrade request with a socket that is closed at once, for the given reason.
///
/// # Errors
/// [`actix_web::Error`] when the request is no WebSocket upgrade.
pub fn refuse(
    close: Close,
    request: &HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, actix_web::Error> {
    ws::WsResponseBuilder::new(RefusedActor(close), request, payload).start()
}

/// Answers an upgrade request with a socket for `seat`.
///
/// # Errors
/// [`actix_web::Error`] when the request is no WebSocket upgrade.
pub fn open(
    seat: Seat,
    place: Place,
    request: &HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, actix_web::Error> {
    let actor = OverlayActor {
        id: Uuid::new_v4(),
        seat,
        _place: place,
        outbox: Arc::default(),
        last_pong: Instant::now(),
        last_ping: None,
        last_hello: Instant::now(),
        continued_bytes: 0,
        closed_with: None,
    };
    let frame_bytes_max = actor.seat.services.options.overlay_message_bytes_max;
    ws::WsResponseBuilder::new(actor, request, payload).frame_size(frame_bytes_max).start()
}

impl OverlayActor {
    fn close(&mut self, code: u16, reason: &str, context: &mut SocketContext) {
        self.closed_with.get_or_insert(code);
        context.close(Some((ws::CloseCode::from(code), reason).into()));
        context.stop();
    }

    /// Looks again when something is due, or a moment later, together with other sockets: a thread that is woken
    /// for each of thousands of sockets does little else.
    fn look_when_due(&self, context: &mut SocketContext) {
        let options = &self.seat.services.options;
        let awaits_pong = self.last_ping.is_some_and(|ping| self.last_pong < ping);
        let ping_due = match self.last_ping {
            Some(ping) if awaits_pong => ping + options.pong_timeout,
            last_ping => last_ping.unwrap_or(self.last_pong) + options.ping,
        };
        // A session that died before it heard of this socket can't tell it.
        let soon = Some(self.last_hello + HELLO_WITHIN).filter(|soon| *soon > Instant::now());
        let due = ping_due.min(soon.unwrap_or(self.last_hello + HELLO_EVERY));
        let shared = (options.ping.min(options.pong_timeout) / 10).clamp(LOOK_MIN, LOOKS_SHARED);
        let began = self.seat.services.began;
        let looks = (due - began).as_nanos() / shared.as_nanos() + 1;
        let at = began + shared.saturating_mul(u32::try_from(looks).unwrap_or(u32::MAX));
        context.run_later(at - Instant::now(), |actor, context| actor.keep_alive(context));
    }

    fn keep_alive(&mut self, context: &mut SocketContext) {
        let options = &self.seat.services.options;
        let overdue = self
            .last_ping
            .is_some_and(|ping| self.last_pong < ping && ping.elapsed() >= options.pong_timeout);
        if overdue {
            return self.close(Close::TooSlow.code(), Close::TooSlow.reason(), context);
        }
        if !self.seat.session.connected() {
            return self.close(Close::Restarted.code(), Close::Restarted.reason(), context);
        }
        if self.last_hello.elapsed() >= HELLO_EVERY {
            self.last_hello = Instant::now();
            // A session that is gone is noticed above.
            let _ = self.seat.session.clone().try_send(HelloAgain { overlay_id: self.id });
        }
        let due = self.last_ping.unwrap_or(self.last_pong).elapsed() >= options.ping;
        if due {
            self.last_ping = Some(Instant::now());
            context.ping(b"");
        }
        self.look_when_due(context);
    }
}

impl Actor for OverlayActor {
    type Context = SocketContext;

    fn started(&mut self, context: &mut Self::Context) {
        self.seat.services.metrics.overlays.inc();
        tracing::debug!(overlay = %Redacted(self.seat.overlay_uuid), "overlay connected");
        self.look_when_due(context);
        let join = Join {
            overlay_id: self.id,
            overlay_uuid: self.seat.overlay_uuid,
            outbox: Arc::clone(&self.outbox),
            address: context.address().recipient(),
        };
        if self.seat.session.clone().try_send(join).is_err() {
            self.close(Close::Restarted.code(), Close::Restarted.reason(), context);
        }
    }

    fn stopping(&mut self, _: &mut Self::Context) -> Running {
        // A session that is gone needs no telling.
        let _ = self.seat.session.clone().try_send(Leave { overlay_id: self.id });
        Running::Stop
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        let code = self.closed_with.unwrap_or(1006);
        let metrics = &self.seat.services.metrics;
        metrics.overlays.dec();
        metrics.overlay_closes.with_label_values(&[&label(code)]).inc();
        tracing::debug!(overlay = %Redacted(self.seat.overlay_uuid), code, "overlay disconnected");
    }
}

impl Handler<Look> for OverlayActor {
    type Result = ();

    fn handle(&mut self, _: Look, context: &mut Self::Context) {
        let taken = self.outbox.take();
        let close = taken.close;
        for frame in taken.into_frames() {
            self.seat.services.metrics.frames_sent.inc();
            context.text(frame.text);
        }
        if let Some(close) = close {
            self.close(close.code(), close.reason(), context);
        }
    }
}

impl StreamHandler<Result<ws::Message, ws::ProtocolError>> for OverlayActor {
    fn handle(&mut self, message: Result<ws::Message, ws::ProtocolError>, context: &mut Self::Context) {
        match message {
            Ok(ws::Message::Ping(payload)) => context.pong(&payload),
            Ok(ws::Message::Pong(_)) => self.last_pong = Instant::now(),
            // What a client says is ignored, but it may not say much at a time.
            Ok(ws::Message::Text(_) | ws::Message::Binary(_) | ws::Message::Nop) => {}
            Ok(ws::Message::Continuation(item)) => self.take_continuation(&item, context),
            Ok(ws::Message::Close(reason)) => {
                self.closed_with.get_or_insert(reason.as_ref().map_or(1005, |reason| reason.code.into()));
                context.close(reason);
                context.stop();
            }
            Err(ws::ProtocolError::Overflow) => {
                self.close(ws::CloseCode::Size.into(), TOO_LONG, context);
            }
            // Invalid UTF-8 comes as an IO error of which only the text tells it from a lost connection.
            Err(ws::ProtocolError::Io(error)) if error.to_string().contains("utf-8") => {
                self.close(INVALID_PAYLOAD, "text has to be UTF-8", context);
            }
            Err(ws::ProtocolError::Io(_)) => context.stop(),
            Err(_) => self.close(ws::CloseCode::Protocol.into(), "not a valid frame", context),
        }
    }

    fn finished(&mut self, context: &mut Self::Context) {
        context.stop();
    }
}

impl OverlayActor {
    fn take_continuation(&mut self, item: &Item, context: &mut SocketContext) {
        let (bytes, last) = match item {
            Item::FirstText(bytes) | Item::FirstBinary(bytes) => {
                self.continued_bytes = 0;
                (bytes.len(), false)
            }
            Item::Continue(bytes) => (bytes.len(), false),
            Item::Last(bytes) => (bytes.len(), true),
        };
        self.continued_bytes += bytes;
        if self.continued_bytes > self.seat.services.options.overlay_message_bytes_max {
            self.close(ws::CloseCode::Size.into(), TOO_LONG, context);
        } else if last {
            self.continued_bytes = 0;
        }
    }
}
