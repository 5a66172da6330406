//! The control API, for this machine only: `POST /control/{command}` and `GET /control/{list}`, JSON both.

use actix_web::web::{Bytes, Data, Path, ServiceConfig, get, post, resource};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::Value;

use super::{answered, json};
use crate::twitch::simulator::platform::Shared;
use crate::twitch::simulator::platform::control::{self, Command};
use crate::twitch::simulator::platform::refusal::Refusal;

pub(super) fn routes(config: &mut ServiceConfig) {
    config.service(resource("/{name}").route(get().to(list)).route(post().to(run)));
}

async fn list(shared: Data<Shared>, request: HttpRequest, name: Path<String>) -> HttpResponse {
    let listed = || shared.act(|state, _| control::list(state, &name).ok_or_else(Refusal::not_found));
    answered(check_origin(&request).and_then(|()| listed()))
}

async fn run(shared: Data<Shared>, request: HttpRequest, name: Path<String>, body: Bytes) -> HttpResponse {
    let run = || {
        let command = command(&name, json(&request, &body)?)?;
        shared.act(|state, now| command.run(state, &shared.eventsub_url, now))
    };
    answered(check_origin(&request).and_then(|()| run()))
}

/// Only this machine may ask.
fn check_origin(request: &HttpRequest) -> Result<(), Refusal> {
    let is_local = request.peer_addr().is_some_and(|peer| peer.ip().is_loopback());
    if is_local { Ok(()) } else { Err(Refusal::new(403, "the control API is for this machine only")) }
}

fn command(name: &str, mut fields: Value) -> Result<Command, Refusal> {
    let Some(object) = fields.as_object_mut() else {
        return Err(Refusal::new(400, "the body must be a JSON object"));
    };
    object.insert("command".into(), name.into());
    serde_json::from_value(fields).map_err(|error| Refusal::new(400, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn commands_are_named_by_the_path_and_told_by_the_body() {
        for (name, fields) in [
            ("say", json!({ "broadcaster_id": "1", "user_id": "2", "text": "+1" })),
            ("reconnect-sockets", json!({})),
            ("expire-access", json!({})),
            ("fail", json!({ "path": "/helix", "times": 2, "failure": "status", "status": 503 })),
            ("fail", json!({ "path": "/oauth2/token", "failure": "hang" })),
        ] {
            assert!(command(name, fields.clone()).is_ok(), "{name} {fields}");
        }
        assert_eq!(command("dance", json!({})).map(drop).unwrap_err().status, 400);
        assert_eq!(command("say", json!([])).map(drop).unwrap_err().status, 400);
    }
}
