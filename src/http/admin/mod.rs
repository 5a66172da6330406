//! The admin API, `/admin/api/v1`: JSON for operators, behind a bearer token.
//!
//! Reading order: [`auth`] (signing in, and who is let in), [`operators`], [`streamers`], [`sessions`],
//! [`dead_letters`] and [`security_log`] (the routes), [`audit`] (what is written to that log), [`shapes`] (what they
//! answer), [`input`] and [`fields`] (what they take), and of HTTP [`body`], [`paging`], [`precondition`], [`csv`].

mod audit;
pub mod auth;
mod body;
mod csv;
mod dead_letters;
mod fields;
mod input;
mod operators;
mod paging;
mod precondition;
mod security_log;
pub(super) mod sessions;
mod shapes;
mod streamers;

use actix_web::http::header;
use actix_web::middleware::{DefaultHeaders, from_fn};
use actix_web::web;

use super::problem::only;

const ROOT: &str = "/admin/api/v1";

/// The routes of the admin API. Needs `web::Data<State>`.
pub fn configure(routes: &mut web::ServiceConfig) {
    let headers = DefaultHeaders::new()
        .add((header::CACHE_CONTROL, "no-store"))
        .add((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
    let guarded = web::scope("")
        .wrap(from_fn(auth::guard::let_in))
        .configure(auth::configure)
        .configure(operators::configure)
        .configure(streamers::configure)
        .configure(sessions::configure)
        .configure(dead_letters::configure)
        .configure(security_log::configure);
    routes.service(
        web::scope(ROOT)
            // Around all: refusals are not to be stored either.
            .wrap(headers)
            .configure(auth::configure_open)
            .service(guarded),
    );
}
