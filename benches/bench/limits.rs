//! What the machine can do at most, measured in the same run: the same work without a product around it.

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use actix_web::middleware::from_fn;
use actix_web::web::{self, Data, Payload};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use anyhow::Result;
use chatpulse::http::{request_id, unread};
use chatpulse::twitch::eventsub;
use chatpulse::twitch::signature::{self, Headers, Secrets};
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use time::OffsetDateTime;

use super::worker;

/// Bytes of a body at most, as the program's default.
const BODY_MAX: usize = 262_144;
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(5);

/// A server that takes signed messages, and does nothing with them.
#[derive(Serialize, Deserialize)]
pub struct HttpSpec {
    pub secret: String,
}

/// Serves a route with the program's middleware and limits that verifies the signature, reads the same fields
/// and answers 204. Says its port when it is ready.
pub fn run_http(spec: HttpSpec) -> Result<()> {
    chatpulse::run::refuse_huge_pages();
    actix_web::rt::System::new().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let secrets = Data::new(Secrets::new([&spec.secret])?);
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let server = HttpServer::new(move || {
            App::new()
                .app_data(Data::clone(&secrets))
                .wrap(from_fn(request_id::follow))
                .service(web::resource("/webhooks/eventsub").route(web::post().to(take)))
        })
        .workers(workers)
        .client_request_timeout(Duration::from_secs(5))
        .keep_alive(Duration::from_secs(75))
        .on_connect(|connection, data| {
            unread::prepare(connection, data);
            let Some(stream) = connection.downcast_ref::<actix_web::rt::net::TcpStream>() else { return };
            let socket = SockRef::from(stream);
            let _ = socket.set_tcp_nodelay(true);
            let _ = socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
        })
        .disable_signals()
        .listen(listener)?
        .run();
        let server = actix_web::rt::spawn(server);
        let told = tokio::task::spawn_blocking(move || worker::ready(&address.to_string()));
        told.await??;
        Ok(server.await??)
    })
}

async fn take(request: HttpRequest, payload: Payload, secrets: Data<Secrets>) -> HttpResponse {
    let body = match tokio::time::timeout(BODY_TIMEOUT, payload.to_bytes_limited(BODY_MAX)).await {
        Ok(Ok(Ok(body))) => body,
        _ => return HttpResponse::BadRequest().finish(),
    };
    let header = |name: &str| request.headers().get(name).map(|value| value.as_bytes());
    let headers = Headers {
        id: header(signature::MESSAGE_ID),
        timestamp: header(signature::MESSAGE_TIMESTAMP),
        signature: header(signature::MESSAGE_SIGNATURE),
        message_type: header(signature::MESSAGE_TYPE),
        subscription_type: header(signature::SUBSCRIPTION_TYPE),
    };
    let Ok(verified) = secrets.verify(&headers, &body, OffsetDateTime::now_utc()) else {
        return HttpResponse::Forbidden().finish();
    };
    match eventsub::parse(&verified) {
        Ok(message) => {
            std::hint::black_box(message);
            HttpResponse::NoContent().finish()
        }
        Err(_) => HttpResponse::BadRequest().finish(),
    }
}

/// A loop that writes frames to sockets.
#[derive(Serialize, Deserialize)]
pub struct FanoutSpec {
    pub sockets: usize,
    /// The text of a frame.
    pub text: String,
    pub every_ms: u64,
    pub seconds: f64,
}

/// Takes connections, then writes the same frame to each of them at each tick, as soon as it can.
pub fn run_fanout(spec: FanoutSpec) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    SockRef::from(&listener).listen(4096)?;
    let address = listener.local_addr()?;
    let accepting = std::thread::spawn(move || -> std::io::Result<Vec<std::net::TcpStream>> {
        let mut streams = Vec::with_capacity(spec.sockets);
        while streams.len() < spec.sockets {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            streams.push(stream);
        }
        Ok(streams)
    });
    worker::ready(&address.to_string())?;
    let mut streams = accepting.join().map_err(|_| anyhow::anyhow!("the acceptor failed"))??;
    // RFC 6455, section 5.2: a final text frame, unmasked, with a length of 16 bits.
    let mut frame = vec![0x81, 126];
    frame.extend((spec.text.len() as u16).to_be_bytes());
    frame.extend(spec.text.as_bytes());
    let begun = Instant::now();
    let mut next = begun;
    while begun.elapsed().as_secs_f64() < spec.seconds {
        for stream in &mut streams {
            // A full buffer skips a frame, as for an overlay.
            let _ = stream.write(&frame);
        }
        next += Duration::from_millis(spec.every_ms);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    worker::finish(&())
}
