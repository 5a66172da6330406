//! The admin API, `/admin/api/v1`: JSON for operators, behind a bearer token.
//!
//! Reading order: [`auth`] (who is let in), [`streamers`], [`sessions`] and
//! [`dead_letters`] (the routes), [`shapes`] (what they answer), [`input`] (what they take), and of HTTP [`body`], [`paging`], [`precondition`].

mod auth;
mod body;
mod dead_letters;
mod input;
mod paging;
mod precondition;
pub(super) mod sessions;
mod shapes;
mod streamers;

use actix_web::http::header;
use actix_web::middleware::{DefaultHeaders, from_fn};
use actix_web::web;

use super::problem::only;

/// The routes of the admin API. Needs `web::Data<State>`.
pub fn configure(routes: &mut web::ServiceConfig) {
    let headers = DefaultHeaders::new()
        .add((header::CACHE_CONTROL, "no-store"))
        .add((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
    routes.service(
        web::scope("/admin/api/v1")
            .wrap(from_fn(auth::let_in))
            // Around the line above: refusals are not to be stored either.
            .wrap(headers)
            .configure(streamers::configure)
            .configure(sessions::configure)
            .configure(dead_letters::configure),
    );
}
