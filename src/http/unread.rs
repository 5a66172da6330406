//! A chunked body that nobody reads to its end: its connection is closed after the answer.
//!
//! For a body with a `Content-Length` the server does so by itself. A chunked one that was dropped
//! it reads on instead, without a deadline, so that a client that sends it slowly, or not at all,
//! keeps its connection for ever. It closes the connection if somebody holds the body until the
//! answer is sent (`should_close_for_unread_payload` in actix-http's HTTP/1 dispatcher). So each
//! connection holds the chunked body of its last request.

use std::any::Any;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::HttpMessage;
use actix_web::dev::{Extensions, Payload, ServiceRequest};
use actix_web::error::PayloadError;
use actix_web::web::Bytes;
use futures_util::stream::Stream;

/// A body in two hands: its reader's and its connection's.
struct Body(Rc<RefCell<Payload>>);

impl Stream for Body {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(context)
    }
}

/// The chunked body that came last on a connection.
#[derive(Default)]
struct Last(RefCell<Option<Body>>);

/// Gives a new connection the place for [`hold`]: for `HttpServer::on_connect`.
pub fn prepare(_: &dyn Any, connection: &mut Extensions) {
    connection.insert(Last::default());
}

/// Makes the connection hold the request's body if it is chunked. All other requests cost a look
/// for the header.
pub fn hold(request: &mut ServiceRequest) {
    if !request.chunked().unwrap_or(false) {
        return;
    }
    let payload = Rc::new(RefCell::new(request.take_payload()));
    if let Some(last) = request.conn_data::<Last>() {
        last.0.replace(Some(Body(Rc::clone(&payload))));
    }
    request.set_payload(Payload::Stream { payload: Box::pin(Body(payload)) });
}
