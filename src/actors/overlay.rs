//! The overlay client: one socket. The only file that knows actix-web-actors, so that it can be exchanged.
//!
//! A socket is the body of the answer to its upgrade request, not an actor: thousands of them are told of a frame
//! by waking them, without a message to each.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use actix::Addr;
use actix_codec::{Decoder, Encoder};
use actix_http::ws::{Codec, Item};
use actix_web::web::{Bytes, BytesMut, Payload};
use actix_web::{HttpRequest, HttpResponse};
use actix_web_actors::ws::{self, CloseCode, ProtocolError};
use futures_util::Stream;
use tokio::time::{Instant, Sleep};
use uuid::Uuid;

use super::outbox::{Close, Outbox};
use super::places::Place;
use super::services::Services;
use super::session::{HelloAgain, Join, Leave, SessionActor};
use crate::telemetry::logs::Redacted;

/// Between two hellos, at most. The page takes a silence of more than twice this for a dead network.
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
/// Bytes before a client's payload, at most. The same, section 5.2.
const HEADER_MAX: usize = 14;
/// The same: closed without a code.
const NO_CODE: u16 = 1005;
/// The same: gone without having closed.
const ABNORMAL: u16 = 1006;

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

/// One overlay's socket.
struct Socket {
    id: Uuid,
    seat: Seat,
    /// Counts for the client's address until it is dropped.
    _place: Place,
    outbox: Arc<Outbox>,
    /// What the client says.
    payload: Payload,
    /// What of it is not a whole frame yet.
    incoming: BytesMut,
    codec: Codec,
    /// When it is looked again what is due.
    look: Pin<Box<Sleep>>,
    last_pong: Instant,
    last_ping: Option<Instant>,
    last_hello: Instant,
    /// A ping is due, and goes with the hello that was asked for.
    ping_with_hello: bool,
    /// Bytes of an incoming message whose end has not come.
    continued_bytes: usize,
    closed_with: Option<u16>,
}

/// Answers an upgrade request with a socket that is closed at once, so that the client learns why.
///
/// # Errors
/// [`actix_web::Error`] when the request is no WebSocket upgrade.
pub fn refuse(close: Close, request: &HttpRequest) -> Result<HttpResponse, actix_web::Error> {
    let mut answer = ws::handshake(request)?;
    let mut frame = BytesMut::new();
    write_close(close.code(), close.reason(), &mut frame);
    let body = futures_util::stream::once(std::future::ready(Ok::<_, Infallible>(frame.freeze())));
    Ok(answer.streaming(body))
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
    let mut answer = ws::handshake(request)?;
    Ok(answer.streaming(Socket::join(seat, place, payload)))
}

fn write(message: ws::Message, out: &mut BytesMut) {
    // The codec refuses nothing but continuations out of order, and here are none.
    let _ = Codec::new().encode(message, out);
}

fn write_close(code: u16, reason: &str, out: &mut BytesMut) {
    write(ws::Message::Close(Some((CloseCode::from(code), reason).into())), out);
}

impl Socket {
    /// A socket that is told of its session's frames.
    fn join(seat: Seat, place: Place, payload: Payload) -> Socket {
        let now = Instant::now();
        let frame_bytes_max = seat.services.options.overlay_message_bytes_max;
        let mut socket = Socket {
            id: Uuid::new_v4(),
            seat,
            _place: place,
            outbox: Arc::default(),
            payload,
            incoming: BytesMut::new(),
            codec: Codec::new().max_size(frame_bytes_max),
            look: Box::pin(tokio::time::sleep_until(now)),
            last_pong: now,
            last_ping: None,
            last_hello: now,
            ping_with_hello: false,
            continued_bytes: 0,
            closed_with: None,
        };
        socket.look_when_due(now);
        socket.seat.services.metrics.overlays.inc();
        tracing::debug!(overlay = %Redacted(socket.seat.overlay_uuid), "overlay connected");
        let join = Join {
            overlay_id: socket.id,
            overlay_uuid: socket.seat.overlay_uuid,
            outbox: Arc::clone(&socket.outbox),
        };
        if socket.seat.session.clone().try_send(join).is_err() {
            socket.outbox.close(Close::Restarted);
        }
        socket
    }

    /// Notes that the socket ends, and tells the client why.
    fn close(&mut self, code: u16, reason: &str, out: &mut BytesMut) {
        if self.closed_with.is_none() {
            self.closed_with = Some(code);
            write_close(code, reason, out);
        }
    }

    /// Looks again when something is due, or a moment later, together with other sockets: a thread that is woken
    /// for each of thousands of sockets does little else.
    fn look_when_due(&mut self, now: Instant) {
        let options = &self.seat.services.options;
        let shared = (options.ping.min(options.pong_timeout) / 10).clamp(LOOK_MIN, LOOKS_SHARED);
        let awaits_pong = self.last_ping.is_some_and(|ping| self.last_pong < ping);
        let ping_due = match self.last_ping {
            _ if self.ping_with_hello => now + shared,
            Some(ping) if awaits_pong => ping + options.pong_timeout,
            last_ping => last_ping.unwrap_or(self.last_pong) + options.ping,
        };
        // A session that died before it heard of this socket can't tell it.
        let soon = Some(self.last_hello + HELLO_WITHIN).filter(|soon| *soon > now);
        let due = ping_due.min(soon.unwrap_or(self.last_hello + HELLO_EVERY));
        let began = self.seat.services.began;
        let looks = (due - began).as_nanos() / shared.as_nanos() + 1;
        let at = began + shared.saturating_mul(u32::try_from(looks).unwrap_or(u32::MAX));
        self.look.as_mut().reset(at);
    }

    /// Does what is due.
    fn keep_alive(&mut self, out: &mut BytesMut) {
        let now = Instant::now();
        let options = &self.seat.services.options;
        let (ping, pong_timeout) = (options.ping, options.pong_timeout);
        let overdue = self.last_ping.is_some_and(|ping| self.last_pong < ping && now - ping >= pong_timeout);
        if overdue {
            return self.close(Close::TooSlow.code(), Close::TooSlow.reason(), out);
        }
        if !self.seat.session.connected() {
            return self.close(Close::Restarted.code(), Close::Restarted.reason(), out);
        }
        let ping_due = now - self.last_ping.unwrap_or(self.last_pong) >= ping;
        // With a ping, if it would be late at the next one: then both are one write.
        let hello_in = if ping_due { HELLO_EVERY.saturating_sub(ping) } else { HELLO_EVERY };
        if !self.ping_with_hello && now - self.last_hello >= hello_in {
            self.last_hello = now;
            self.ping_with_hello = ping_due;
            // A session that is gone is noticed above.
            let _ = self.seat.session.clone().try_send(HelloAgain { overlay_id: self.id });
        } else if ping_due {
            self.ping(now, out);
        }
        self.look_when_due(now);
    }

    fn ping(&mut self, now: Instant, out: &mut BytesMut) {
        self.ping_with_hello = false;
        self.last_ping = Some(now);
        write(ws::Message::Ping(Bytes::new()), out);
    }

    /// Reads what the client says.
    fn listen(&mut self, context: &mut Context<'_>, out: &mut BytesMut) {
        while self.closed_with.is_none() {
            match Pin::new(&mut self.payload).poll_next(context) {
                Poll::Ready(Some(Ok(bytes))) => {
                    self.incoming.extend_from_slice(&bytes);
                    self.take_frames(out);
                }
                // Gone without a word.
                Poll::Ready(Some(Err(_)) | None) => self.closed_with = Some(ABNORMAL),
                Poll::Pending => return,
            }
        }
    }

    fn take_frames(&mut self, out: &mut BytesMut) {
        while self.closed_with.is_none() {
            match self.codec.decode(&mut self.incoming) {
                Ok(Some(frame)) => self.take_frame(frame, out),
                // The codec looks at a frame's length when all of it is there.
                Ok(None)
                    if self.incoming.len()
                        > self.seat.services.options.overlay_message_bytes_max + HEADER_MAX =>
                {
                    self.close(CloseCode::Size.into(), TOO_LONG, out);
                }
                Ok(None) => break,
                Err(ProtocolError::Overflow) => self.close(CloseCode::Size.into(), TOO_LONG, out),
                Err(_) => self.close(CloseCode::Protocol.into(), "not a valid frame", out),
            }
        }
        if self.incoming.is_empty() {
            // An idle socket keeps no buffer.
            self.incoming = BytesMut::new();
        }
    }

    fn take_frame(&mut self, frame: ws::Frame, out: &mut BytesMut) {
        match frame {
            ws::Frame::Ping(payload) => write(ws::Message::Pong(payload), out),
            ws::Frame::Pong(_) => {
                self.last_pong = Instant::now();
                self.look_when_due(self.last_pong);
            }
            // What a client says is ignored, but it may not say much at a time.
            ws::Frame::Text(text) if std::str::from_utf8(&text).is_err() => {
                self.close(INVALID_PAYLOAD, "text has to be UTF-8", out);
            }
            ws::Frame::Text(_) | ws::Frame::Binary(_) => {}
            ws::Frame::Continuation(item) => self.take_continuation(&item, out),
            ws::Frame::Close(reason) => {
                self.closed_with = Some(reason.as_ref().map_or(NO_CODE, |reason| reason.code.into()));
                write(ws::Message::Close(reason), out);
            }
        }
    }

    fn take_continuation(&mut self, item: &Item, out: &mut BytesMut) {
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
            self.close(CloseCode::Size.into(), TOO_LONG, out);
        } else if last {
            self.continued_bytes = 0;
        }
    }

    /// What waits in the outbox, as it is to be written. A frame that goes alone is not copied.
    fn take_outbox(&mut self, context: &mut Context<'_>) -> Option<Bytes> {
        let Poll::Ready(taken) = self.outbox.poll_take(context) else { return None };
        let close = taken.close;
        let mut out = BytesMut::new();
        let mut alone = None;
        for frame in taken.into_frames() {
            self.seat.services.metrics.frames_sent.inc();
            if let Some(before) = alone.replace(frame.wire) {
                out.extend_from_slice(&before);
            }
        }
        if self.ping_with_hello {
            let now = Instant::now();
            self.ping(now, &mut out);
            self.look_when_due(now);
        }
        if let Some(bytes) = alone {
            if out.is_empty() && close.is_none() {
                return Some(bytes);
            }
            out.extend_from_slice(&bytes);
        }
        if let Some(close) = close {
            self.close(close.code(), close.reason(), &mut out);
        }
        Some(out.freeze())
    }
}

impl Stream for Socket {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let socket = self.get_mut();
        if socket.closed_with.is_some() {
            return Poll::Ready(None);
        }
        // First, and alone: it is what thousands of sockets are woken for. The server asks again until nothing is
        // left to write, so that the rest has its turn.
        if let Some(bytes) = socket.take_outbox(context) {
            return Poll::Ready(Some(Ok(bytes)));
        }
        let mut out = BytesMut::new();
        socket.listen(context, &mut out);
        while socket.closed_with.is_none() && socket.look.as_mut().poll(context).is_ready() {
            socket.keep_alive(&mut out);
        }
        if !out.is_empty() {
            return Poll::Ready(Some(Ok(out.freeze())));
        }
        if socket.closed_with.is_some() { Poll::Ready(None) } else { Poll::Pending }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A session that is gone needs no telling.
        let _ = self.seat.session.clone().try_send(Leave { overlay_id: self.id });
        let code = self.closed_with.unwrap_or(ABNORMAL);
        let metrics = &self.seat.services.metrics;
        metrics.overlays.dec();
        metrics.overlay_closes.with_label_values(&[&label(code)]).inc();
        tracing::debug!(overlay = %Redacted(self.seat.overlay_uuid), code, "overlay disconnected");
    }
}
