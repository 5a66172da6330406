//! HTTP: the only room where errors become statuses, and where the public JSON shapes live.
//!
//! Reading order: [`webhook`] (where votes come in), [`arrivals`] (the same over a WebSocket), [`socket`] (where overlays come in), [`pages`],
//! [`auth`] (signing in), [`session`] (who is signed in), [`dashboard`], [`admin`], [`health`]; around all of them [`request_id`], [`unread`] and [`problem`], and
//! [`client_address`].

pub mod admin;
pub mod arrivals;
pub mod auth;
pub mod client_address;
mod commands;
pub mod dashboard;
pub mod health;
pub mod pages;
pub mod problem;
pub mod request_id;
pub mod session;
pub mod socket;
pub mod state;
pub mod unread;
pub mod webhook;

use actix_web::web::{self, ServiceConfig};

use problem::only;

/// The routes of the public listener. Needs `web::Data<State>`.
pub fn public(routes: &mut ServiceConfig) {
    let webhook = web::resource("/webhooks/eventsub")
        .route(web::post().to(webhook::receive))
        .default_service(only("POST"));
    let socket = web::resource("/ws/overlay/{overlay_uuid}")
        .route(web::get().to(socket::open))
        .default_service(only("GET"));
    routes
        .service(webhook)
        .service(socket)
        .configure(health)
        .configure(admin::configure)
        .configure(auth::configure)
        .configure(dashboard::configure)
        .configure(pages::configure);
}

/// The routes of the ops listener. Needs `web::Data<State>`.
pub fn ops(routes: &mut ServiceConfig) {
    let metrics =
        web::resource("/metrics").route(web::get().to(health::metrics)).default_service(only("GET"));
    routes.service(metrics).configure(health);
}

fn health(routes: &mut ServiceConfig) {
    let live = web::resource("/health/live")
        .route(web::get().to(health::live))
        .route(web::head().to(health::live))
        .default_service(only("GET, HEAD"));
    let ready = web::resource("/health/ready")
        .route(web::get().to(health::ready))
        .route(web::head().to(health::ready))
        .default_service(only("GET, HEAD"));
    routes.service(live).service(ready);
}
