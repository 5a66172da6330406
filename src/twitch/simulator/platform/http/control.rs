//! The control API, for this machine only: `POST /control/{command}` and `GET /control/{list}`, JSON both.
//! `GET /control` answers which there are.

use actix_web::web::{Bytes, Data, Path, ServiceConfig, get, post, resource};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::answered;
use crate::twitch::simulator::platform::Shared;
use crate::twitch::simulator::platform::control::{self, Command, LISTS};
use crate::twitch::simulator::platform::refusal::Refusal;

/// Every command with a body that it takes, and `fail` with each kind of failure. Of `say`, all but the first
/// three fields may be left out; of `fail`, `method` and `times`; of `expire-access`, `user_id`: then it is
/// about the application's own tokens.
const EXAMPLES: [(&str, &str); 31] = [
    ("add-user", r#"{"id":"1","login":"ada","display_name":"Ada"}"#),
    ("remove-user", r#"{"user_id":"1"}"#),
    ("grant", r#"{"user_id":"1","scopes":["channel:bot"]}"#),
    ("revoke", r#"{"user_id":"1"}"#),
    ("expire-access", r#"{"user_id":"1"}"#),
    ("forget-refresh", r#"{"user_id":"1"}"#),
    ("set-moderator", r#"{"broadcaster_id":"1","user_id":"2","is_moderator":true}"#),
    ("ban", r#"{"broadcaster_id":"1","user_id":"2"}"#),
    ("unban", r#"{"broadcaster_id":"1","user_id":"2"}"#),
    ("go-live", r#"{"broadcaster_id":"1"}"#),
    ("go-offline", r#"{"broadcaster_id":"1"}"#),
    (
        "say",
        r#"{"broadcaster_id":"1","user_id":"2","text":"yes","message_id":"m","reply_to":"n",
            "emotes":[["Kappa","25"]],"badges":[{"set_id":"vip","id":"1"}],
            "source_broadcaster_id":"3","source_only":true}"#,
    ),
    ("delete-message", r#"{"message_id":"m"}"#),
    ("clear-user", r#"{"broadcaster_id":"1","user_id":"2"}"#),
    ("clear-chat", r#"{"broadcaster_id":"1"}"#),
    ("share-chat", r#"{"broadcaster_ids":["1","3"]}"#),
    ("end-shared-chat", r#"{"broadcaster_id":"1"}"#),
    ("revoke-subscription", r#"{"subscription_id":"s","reason":"notification_failures_exceeded"}"#),
    ("drop-conduit", r#"{"conduit_id":"c"}"#),
    ("disable-shard", r#"{"conduit_id":"c","shard":0}"#),
    ("reconnect-sockets", "{}"),
    ("close-sockets", r#"{"code":4000}"#),
    ("cut-sockets", "{}"),
    ("mute-sockets", r#"{"is_muted":true}"#),
    ("fail", r#"{"path":"/helix","method":"GET","times":2,"failure":"status","status":503}"#),
    ("fail", r#"{"path":"/helix","failure":"limited","reset_seconds":10}"#),
    ("fail", r#"{"path":"/helix/eventsub/subscriptions","failure":"too_many_alike"}"#),
    ("fail", r#"{"path":"/oauth2/token","failure":"hang"}"#),
    ("fail", r#"{"path":"/oauth2/token","failure":"answer_lost"}"#),
    ("clear-faults", "{}"),
    (
        "deliver",
        r#"{"kind":"stream.offline","target":"1","event":{"broadcaster_user_id":"1",
            "broadcaster_user_login":"ada","broadcaster_user_name":"Ada"}}"#,
    ),
];

pub(super) fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("").route(get().to(index)))
        .service(resource("/{name}").route(get().to(list)).route(post().to(run)));
}

/// What can be asked.
async fn index(request: HttpRequest) -> HttpResponse {
    let shown = |(command, body): &(&str, &str)| {
        // They are JSON: a test reads them.
        json!({ "command": command, "body": serde_json::from_str::<Value>(body).unwrap_or_default() })
    };
    let examples: Vec<Value> = EXAMPLES.iter().map(shown).collect();
    answered(check_origin(&request).map(|()| json!({ "POST": examples, "GET": LISTS })))
}

async fn list(shared: Data<Shared>, request: HttpRequest, name: Path<String>) -> HttpResponse {
    let listed = || shared.act(|state, _| control::list(state, &name).ok_or_else(Refusal::not_found));
    answered(check_origin(&request).and_then(|()| listed()))
}

async fn run(shared: Data<Shared>, request: HttpRequest, name: Path<String>, body: Bytes) -> HttpResponse {
    let run = || {
        let command = command(&name, super::json(&request, &body)?)?;
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
    use std::collections::BTreeSet;

    use super::*;
    use crate::settings::Secret;
    use crate::twitch::simulator::platform::PlatformOptions;
    use crate::twitch::simulator::platform::state::State;

    #[test]
    fn every_command_has_an_example_that_it_takes() {
        for (name, body) in EXAMPLES {
            let taken = command(name, serde_json::from_str(body).unwrap()).map(drop);
            assert!(taken.is_ok(), "{name} {body}: {taken:?}");
        }
        // Who names a wrong one is told all that there are.
        let told = command("dance", json!({})).map(drop).unwrap_err().message;
        let known: BTreeSet<&str> = told.split('`').skip(1).step_by(2).collect();
        let shown: BTreeSet<&str> = EXAMPLES.iter().map(|(name, _)| *name).chain(["dance"]).collect();
        assert_eq!(known, shown);
    }

    #[test]
    fn every_list_can_be_asked_for() {
        let state = State::new(&PlatformOptions::new("app", Secret::new("app-secret".into())));
        for name in LISTS {
            assert!(control::list(&state, name).is_some_and(|list| !list.is_null()), "{name}");
        }
        assert!(control::list(&state, "secrets").is_none());
    }

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
