//! The sockets that an instance listens on, and the servers behind them.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::web::Data;
use actix_web::{App, HttpServer};
use socket2::{Domain, SockRef, Socket, Type};

use super::RunError;
use crate::http;
use crate::http::state::State;
use crate::settings::Settings;

/// Connections that may wait to be accepted: many overlays come back at once after a restart.
const BACKLOG: i32 = 4096;
/// Connections of one worker at most; below the usual limit of open files.
const CONNECTIONS_PER_WORKER: usize = 9_000;
/// The share of the drain time in which requests under way are answered, after overlays were closed.
const REQUESTS_SHARE: f64 = 0.3;
/// Requests of the ops listener that are under way at the end have so long.
const OPS_SHUTDOWN_SECONDS: u64 = 1;
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// The sockets that an instance listens on.
pub struct Listeners {
    pub public: TcpListener,
    pub ops: TcpListener,
}

impl Listeners {
    /// Listens on the addresses of the settings.
    ///
    /// # Errors
    /// [`RunError::Listen`] that says which address is taken or can't be had.
    pub fn bind(settings: &Settings) -> Result<Listeners, RunError> {
        Ok(Listeners {
            public: listen(settings.http.bind, "http.bind")?,
            ops: listen(settings.ops.bind, "ops.bind")?,
        })
    }
}

fn listen(address: SocketAddr, setting: &'static str) -> Result<TcpListener, RunError> {
    let try_listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    try_listen().map_err(|error: std::io::Error| {
        let reason = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "the port is in use; end the program that uses it, or choose another one".into()
            }
            std::io::ErrorKind::PermissionDenied => {
                "no right to use this port; choose one above 1023, or run with the right to".into()
            }
            _ => error.to_string(),
        };
        RunError::Listen { address, setting, reason }
    })
}

pub(super) fn public_server(
    settings: &Settings,
    state: Data<State>,
    listener: TcpListener,
) -> std::io::Result<Server> {
    let tcp_user_timeout = settings.overlay.tcp_user_timeout;
    let server = HttpServer::new(move || {
        App::new().app_data(state.clone()).wrap(from_fn(http::request_id::follow)).configure(http::public)
    })
    .workers(settings.http.workers)
    .max_connections(CONNECTIONS_PER_WORKER)
    .client_request_timeout(settings.limits.header_timeout)
    .keep_alive(KEEP_ALIVE)
    .shutdown_timeout(settings.http.drain.mul_f64(REQUESTS_SHARE).as_secs().max(1))
    .disable_signals()
    .on_connect(move |connection, data| {
        http::unread::prepare(connection, data);
        let Some(stream) = connection.downcast_ref::<actix_web::rt::net::TcpStream>() else { return };
        let socket = SockRef::from(stream);
        // Frames are small and due now; and a peer that no longer takes any must be noticed. Where
        // a system lacks these options it works without them.
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_tcp_user_timeout(Some(tcp_user_timeout));
    })
    .listen(listener)?;
    Ok(server.run())
}

pub(super) fn ops_server(state: Data<State>, listener: TcpListener) -> std::io::Result<Server> {
    let server = HttpServer::new(move || {
        App::new().app_data(state.clone()).wrap(from_fn(http::request_id::follow)).configure(http::ops)
    })
    .workers(1)
    .shutdown_timeout(OPS_SHUTDOWN_SECONDS)
    .disable_signals()
    .on_connect(http::unread::prepare)
    .listen(listener)?;
    Ok(server.run())
}
