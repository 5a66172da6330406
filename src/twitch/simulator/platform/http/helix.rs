//! Helix, <https://dev.twitch.tv/docs/api/reference/>.

use actix_web::web::{Bytes, Data, ServiceConfig, delete, get, patch, post, resource};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::Value;
use time::OffsetDateTime;

use super::{json, query, refused, tell_points, token};
use crate::twitch::simulator::platform::Shared;
use crate::twitch::simulator::platform::refusal::Refusal;
use crate::twitch::simulator::platform::state::{Caller, SendAsked, ShardsAsked, State, SubscriptionAsked};

const CLIENT_ID: &str = "client-id";

pub(super) fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/users").route(get().to(users)))
        .service(resource("/streams").route(get().to(streams)))
        .service(
            resource("/eventsub/conduits")
                .route(get().to(conduits))
                .route(post().to(create_conduit))
                .route(patch().to(resize_conduit))
                .route(delete().to(delete_conduit)),
        )
        .service(
            resource("/eventsub/conduits/shards").route(get().to(shards)).route(patch().to(update_shards)),
        )
        .service(
            resource("/eventsub/subscriptions")
                .route(get().to(subscriptions))
                .route(post().to(create_subscription))
                .route(delete().to(delete_subscription)),
        )
        .service(resource("/chat/messages").route(post().to(send_chat)));
}

/// Who asks, whether the rate limit lets the request pass, and what is decided: all under one lock.
fn call(
    shared: &Data<Shared>,
    request: &HttpRequest,
    decide: impl FnOnce(&mut State, &Caller, OffsetDateTime) -> Result<HttpResponse, Refusal>,
) -> HttpResponse {
    let (token, client_id) = (token(request, &["Bearer"]), super::header(request, CLIENT_ID));
    shared.act(|state, now| {
        let caller = match state.caller(token, client_id, now) {
            Ok(caller) => caller,
            Err(refusal) => return refused(&refusal),
        };
        let points = state.charge(&caller, now);
        let mut response = if points.is_allowed {
            decide(state, &caller, now).unwrap_or_else(|refusal| refused(&refusal))
        } else {
            refused(&Refusal::new(429, "Too many requests"))
        };
        tell_points(&mut response, points);
        response
    })
}

fn ok(body: Value) -> HttpResponse {
    HttpResponse::Ok().json(body)
}

fn accepted(body: Value) -> HttpResponse {
    HttpResponse::Accepted().json(body)
}

fn no_content(_: ()) -> HttpResponse {
    HttpResponse::NoContent().finish()
}

async fn users(shared: Data<Shared>, request: HttpRequest) -> HttpResponse {
    call(&shared, &request, |state, caller, _| state.users(&query(&request), caller).map(ok))
}

async fn streams(shared: Data<Shared>, request: HttpRequest) -> HttpResponse {
    call(&shared, &request, |state, _, _| state.streams(&query(&request)).map(ok))
}

async fn conduits(shared: Data<Shared>, request: HttpRequest) -> HttpResponse {
    call(&shared, &request, |state, caller, _| state.conduits(caller).map(ok))
}

async fn create_conduit(shared: Data<Shared>, request: HttpRequest, body: Bytes) -> HttpResponse {
    call(&shared, &request, |state, caller, _| state.create_conduit(&json(&request, &body)?, caller).map(ok))
}

async fn resize_conduit(shared: Data<Shared>, request: HttpRequest, body: Bytes) -> HttpResponse {
    call(&shared, &request, |state, caller, _| state.resize_conduit(&json(&request, &body)?, caller).map(ok))
}

async fn delete_conduit(shared: Data<Shared>, request: HttpRequest) -> HttpResponse {
    call(&shared, &request, |state, caller, _| state.delete_conduit(&query(&request), caller).map(no_content))
}

async fn shards(shared: Data<Shared>, request: HttpRequest) -> HttpResponse {
    call(&shared, &request, |state, caller, _| state.shards(&query(&request), caller).map(ok))
}

async fn update_shards(shared: Data<Shared>, request: HttpRequest, body: Bytes) -> HttpResponse {
    call(&shared, &request, |state, caller, _| {
        let asked: ShardsAsked = json(&request, &body)?;
        state.update_shards(asked, caller).map(accepted)
    })
}

async fn subscriptions(shared: Data<Shared>, request: HttpRequest) -> HttpResponse {
    call(&shared, &request, |state, caller, _| state.subscriptions(&query(&request), caller).map(ok))
}

async fn create_subscription(shared: Data<Shared>, request: HttpRequest, body: Bytes) -> HttpResponse {
    call(&shared, &request, |state, caller, now| {
        let asked: SubscriptionAsked = json(&request, &body)?;
        state.create_subscription(asked, caller, now).map(accepted)
    })
}

async fn delete_subscription(shared: Data<Shared>, request: HttpRequest) -> HttpResponse {
    call(&shared, &request, |state, caller, _| {
        state.delete_subscription(&query(&request), caller).map(no_content)
    })
}

async fn send_chat(shared: Data<Shared>, request: HttpRequest, body: Bytes) -> HttpResponse {
    call(&shared, &request, |state, caller, now| {
        let asked: SendAsked = json(&request, &body)?;
        state.send_chat(asked, caller, now).map(ok)
    })
}
