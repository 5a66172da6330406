//! `POST /webhooks/eventsub`: what Twitch tells. A vote is answered when it is durable.

use std::time::Duration;

use tokio::time::Instant;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use actix_web::web::{Bytes, Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use prometheus::IntCounter;
use time::OffsetDateTime;

use super::problem::Problem;
use super::state::State;
use crate::actors::cast::{Ballot, cast};
use crate::actors::session::VoteOutcome;
use crate::twitch::eventsub::{self, ChatMessage, Message};
use crate::twitch::signature::{self, Headers, SignatureError};

/// How long Twitch is asked to wait before it sends a vote again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How a request ended: its answer, and the counter of such endings.
struct Ending<'a> {
    answer: Result<HttpResponse, Problem>,
    counter: &'a IntCounter,
}

/// Takes one message of Twitch.
///
/// # Errors
/// [`Problem`] for a message that is not Twitch's (400, 403, 408, 413), or that can't be made
/// durable (503).
pub async fn receive(
    request: HttpRequest,
    payload: Payload,
    state: Data<State>,
) -> Result<HttpResponse, Problem> {
    let began = Instant::now();
    let ending = match read_body(&request, payload, &state).await {
        // A vote has arrived when its last byte has.
        Ok(body) => handle(&request, &body, &state, Instant::now()).await,
        Err(ending) => ending,
    };
    ending.counter.inc();
    state.services.metrics.webhook_duration_seconds.observe(began.elapsed().as_secs_f64());
    ending.answer
}

async fn read_body<'a>(
    request: &HttpRequest,
    payload: Payload,
    state: &'a State,
) -> Result<Bytes, Ending<'a>> {
    let limits = &state.settings.limits;
    let webhooks = &state.services.metrics.webhooks;
    if request.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        let detail = "the body has to come without Content-Encoding";
        return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail, &webhooks.malformed));
    }
    let body = payload.to_bytes_limited(limits.webhook_body_bytes);
    match tokio::time::timeout(limits.body_timeout, body).await {
        Ok(Ok(Ok(body))) => Ok(body),
        Ok(Ok(Err(_))) => {
            Err(refuse(StatusCode::BAD_REQUEST, "the body broke off before its end", &webhooks.malformed))
        }
        Ok(Err(_)) => {
            let detail = format!("the body has more than {} bytes", limits.webhook_body_bytes);
            Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, detail, &webhooks.too_large))
        }
        Err(_) => {
            let detail = format!("the body took longer than {:?}", limits.body_timeout);
            Err(refuse(StatusCode::REQUEST_TIMEOUT, detail, &webhooks.too_slow))
        }
    }
}

async fn handle<'a>(request: &HttpRequest, body: &[u8], state: &'a State, arrived: Instant) -> Ending<'a> {
    let webhooks = &state.services.metrics.webhooks;
    let headers = signature_headers(request.headers());
    let verified = match state.webhook_secrets.verify(&headers, body, OffsetDateTime::now_utc()) {
        Ok(verified) => verified,
        Err(error @ SignatureError::MissingHeader(_)) => {
            return refuse(StatusCode::BAD_REQUEST, error.to_string(), &webhooks.missing_header);
        }
        Err(error) => {
            tracing::debug!(%error, "a webhook request was refused");
            return refuse(StatusCode::FORBIDDEN, error.to_string(), &webhooks.forbidden);
        }
    };
    match eventsub::parse(&verified) {
        Ok(Message::Challenge(challenge)) => {
            let answer =
                HttpResponse::Ok().insert_header((CONTENT_TYPE, "text/plain")).body(challenge.into_owned());
            Ending { answer: Ok(answer), counter: &webhooks.challenge }
        }
        Ok(Message::ChatMessage(message)) => take_chat(&message, state, arrived).await,
        Ok(Message::Revocation(revocation)) => {
            tracing::warn!(
                subscription_type = %revocation.subscription_type,
                status = %revocation.status,
                broadcaster = revocation.broadcaster_user_id.as_deref().unwrap_or(""),
                "Twitch ended a subscription"
            );
            done(&webhooks.revocation)
        }
        // Any failure of ours here would make Twitch revoke the subscription.
        Ok(Message::Unknown { subscription_type }) => {
            log_unknown(state, &subscription_type, "is of a type that nobody asked for");
            done(&webhooks.unknown)
        }
        Err(error) => {
            let subscription_type = verified.subscription_type().unwrap_or_default();
            log_unknown(state, &subscription_type, &error.to_string());
            done(&webhooks.unknown)
        }
    }
}

async fn take_chat<'a>(message: &ChatMessage<'_>, state: &'a State, arrived: Instant) -> Ending<'a> {
    let services = &state.services;
    let webhooks = &services.metrics.webhooks;
    let live = match state.lookup.find(&message.broadcaster_user_id).await {
        Ok(Some(live)) => live,
        Ok(None) => return done(&webhooks.no_session),
        // It may be a vote for a session that another instance has just started.
        Err(unknown) => {
            let problem = Problem::unavailable(unknown.to_string(), RETRY_AFTER);
            return Ending { answer: Err(problem), counter: &webhooks.unavailable };
        }
    };
    // In a shared chat the other channels' viewers are not this streamer's chat.
    let foreign = message
        .source_broadcaster_user_id
        .as_ref()
        .is_some_and(|source| *source != message.broadcaster_user_id);
    let side = live.triggers.side_of(&message.text, &message.fragments());
    let Some(side) = side else { return done(&webhooks.no_vote) };
    if foreign {
        services.metrics.votes.ignored.inc();
        return done(&webhooks.no_vote);
    }
    let ballot =
        Ballot { message_id: &message.message_id, viewer_id: &message.chatter_user_id, side, arrived };
    let votes = &services.metrics.votes;
    let counter = match cast(services, &state.supervisor, live, ballot).await {
        VoteOutcome::Accepted => &votes.accepted,
        VoteOutcome::Debounced => &votes.debounced,
        VoteOutcome::Duplicate => &votes.duplicate,
        VoteOutcome::Late => &votes.late,
        VoteOutcome::Queued => &votes.queued,
        VoteOutcome::Unavailable => {
            votes.unavailable.inc();
            let problem = Problem::unavailable(
                "the vote can't be made durable just now; please deliver it again",
                RETRY_AFTER,
            );
            return Ending { answer: Err(problem), counter: &webhooks.unavailable };
        }
    };
    counter.inc();
    done(&webhooks.vote)
}

fn signature_headers(headers: &HeaderMap) -> Headers<'_> {
    let header = |name: &str| headers.get(name).map(|value| value.as_bytes());
    Headers {
        id: header(signature::MESSAGE_ID),
        timestamp: header(signature::MESSAGE_TIMESTAMP),
        signature: header(signature::MESSAGE_SIGNATURE),
        message_type: header(signature::MESSAGE_TYPE),
        subscription_type: header(signature::SUBSCRIPTION_TYPE),
    }
}

fn done(counter: &IntCounter) -> Ending<'_> {
    Ending { answer: Ok(HttpResponse::NoContent().finish()), counter }
}

fn refuse(
    status: StatusCode,
    detail: impl Into<std::borrow::Cow<'static, str>>,
    counter: &IntCounter,
) -> Ending<'_> {
    Ending { answer: Err(Problem::new(status, detail)), counter }
}

/// Logs a message that can't be used, once for each subscription type: Twitch may send many.
fn log_unknown(state: &State, subscription_type: &str, why: &str) {
    if state.first_unknown(subscription_type) {
        tracing::warn!(subscription_type, why, "a message of Twitch is ignored; so are others like it");
    }
}
