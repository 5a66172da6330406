//! `POST /webhooks/eventsub`: what Twitch tells. A vote is answered when it is durable.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use actix_web::web::{Bytes, Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use prometheus::IntCounter;
use time::OffsetDateTime;

use super::commands;
use super::problem::Problem;
use super::session;
use super::state::State;
use crate::actors::cast::{Ballot, cast};
use crate::actors::directory::LiveEntry;
use crate::actors::retract::Unwanted;
use crate::actors::services::Services;
use crate::actors::session::VoteOutcome;
use crate::domain::command::Command;
use crate::domain::sentiment::Side;
use crate::domain::stream::StreamSeen;
use crate::hot::chat::{ChatLine, Erased};
use crate::journal::Journal;
use crate::journal::tokens::Owner;
use crate::reconcile::shards::Arrival;
use crate::reconcile::subscriptions::is_recoverable;
use crate::twitch::eventsub::{self, ChatMessage, Message, Revocation, ShapeError};
use crate::twitch::signature::{self, Headers, SignatureError};
use crate::twitch::socket::MessageKind;

/// So long Twitch waits to hear that votes could not be taken back, and sends it again then.
const TAKE_BACK_WAIT: Duration = Duration::from_secs(1);
/// Between tries to note that a subscription has ended: PostgreSQL may be away, or the one who made it has not noted yet
/// what Twitch has ended already.
const NOTE_AGAIN: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(15), Duration::from_secs(60)];
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
    take(eventsub::parse(&verified), verified.subscription_type().as_deref(), state, arrived).await
}

/// Takes a message that came over a WebSocket of ours; `false` when it should be tried again.
pub(super) async fn take_arrival(state: &State, arrival: &Arrival, arrived: Instant) -> bool {
    let message = match arrival.kind {
        MessageKind::Notification => eventsub::parse_notification(&arrival.body),
        MessageKind::Revocation => eventsub::parse_revocation(&arrival.body),
    };
    let ending = take(message, None, state, arrived).await;
    ending.counter.inc();
    ending.answer.is_ok()
}

async fn take<'a>(
    message: Result<Message<'_>, ShapeError>,
    told_type: Option<&str>,
    state: &'a State,
    arrived: Instant,
) -> Ending<'a> {
    let webhooks = &state.services.metrics.webhooks;
    match message {
        Ok(Message::Challenge(challenge)) => {
            let answer =
                HttpResponse::Ok().insert_header((CONTENT_TYPE, "text/plain")).body(challenge.into_owned());
            Ending { answer: Ok(answer), counter: &webhooks.challenge }
        }
        Ok(Message::ChatMessage(message)) => take_chat(&message, state, arrived).await,
        Ok(Message::Revocation(revocation)) => {
            take_revocation(&revocation, state).await;
            done(&webhooks.revocation)
        }
        Ok(Message::MessageDeleted { broadcaster_user_id, message_id }) => {
            erase(&broadcaster_user_id, Erased::Message(message_id.clone().into_owned()), state);
            let unwanted = Unwanted::Message(message_id.into_owned());
            take_back(&broadcaster_user_id, unwanted, state, arrived).await
        }
        Ok(Message::UserCleared { broadcaster_user_id, user_id, user_login }) => {
            erase(&broadcaster_user_id, Erased::User(user_login.into_owned()), state);
            let unwanted = Unwanted::Viewer(user_id.into_owned());
            take_back(&broadcaster_user_id, unwanted, state, arrived).await
        }
        Ok(Message::ChatCleared { broadcaster_user_id }) => {
            erase(&broadcaster_user_id, Erased::All, state);
            done(&webhooks.event)
        }
        Ok(Message::StreamChanged { broadcaster_user_id, seen }) => {
            take_stream(&broadcaster_user_id, seen, state).await
        }
        Ok(Message::ChatEvent) => done(&webhooks.event),
        Ok(Message::AuthorizationRevoked { user_id }) => take_withdrawal(&user_id, state).await,
        Ok(Message::ShardDisabled) => {
            tracing::warn!("Twitch has disabled a shard of the conduit");
            if let Some(twitch) = &state.twitch {
                twitch.shards_in_doubt.notify_one();
            }
            done(&webhooks.event)
        }
        // Any failure of ours here would make Twitch revoke the subscription.
        Ok(Message::Unknown { subscription_type }) => {
            log_unknown(state, &subscription_type, "is of a type that nobody asked for");
            done(&webhooks.unknown)
        }
        Err(error) => {
            log_unknown(state, told_type.unwrap_or_default(), &error.to_string());
            done(&webhooks.unknown)
        }
    }
}

/// Notes that a subscription has ended, of which Twitch tells once. What can't be noted yet is tried again beside; what
/// never can is found when the lists are compared.
async fn take_revocation(revocation: &Revocation<'_>, state: &State) {
    tracing::warn!(
        subscription_type = %revocation.subscription_type,
        status = %revocation.status,
        broadcaster = revocation.broadcaster_user_id.as_deref().unwrap_or(""),
        "Twitch ended a subscription"
    );
    let (id, status) = (&revocation.subscription_id, &revocation.status);
    if note_revocation(&state.journal, &state.services, id, status).await {
        return;
    }
    let (journal, services) = (state.journal.clone(), Arc::clone(&state.services));
    let (id, status) = (id.to_string(), status.to_string());
    actix_web::rt::spawn(async move {
        for pause in NOTE_AGAIN {
            tokio::time::sleep(pause).await;
            if note_revocation(&journal, &services, &id, &status).await {
                return;
            }
        }
    });
}

/// Whether a subscription of ours was noted as ended just now.
async fn note_revocation(journal: &Journal, services: &Services, id: &str, status: &str) -> bool {
    match journal.revoke_subscription(id, status, is_recoverable(status)).await {
        Ok(Some(_)) => {
            services.chat_wanted.notify_one();
            true
        }
        Ok(None) => false,
        Err(error) => {
            tracing::warn!(%error, "that a subscription has ended can't be noted yet");
            false
        }
    }
}

/// Takes back votes that a moderator does not want. Those of a session that has ended stay.
async fn take_back<'a>(
    broadcaster: &str,
    unwanted: Unwanted,
    state: &'a State,
    arrived: Instant,
) -> Ending<'a> {
    let webhooks = &state.services.metrics.webhooks;
    if !state.settings.chat.retract_votes {
        return done(&webhooks.event);
    }
    let live = match state.lookup.find(broadcaster).await {
        Ok(Some(live)) => live,
        Ok(None) => return done(&webhooks.event),
        Err(unknown) => {
            let problem = Problem::unavailable(unknown.to_string(), RETRY_AFTER);
            return Ending { answer: Err(problem), counter: &webhooks.unavailable };
        }
    };
    // In a long session it takes longer than Twitch waits, and goes on by itself.
    let retraction = state.retractor.retract(&live, unwanted, arrived);
    match tokio::time::timeout(TAKE_BACK_WAIT, retraction).await {
        Ok(Err(error)) => Ending { answer: Err(error.into()), counter: &webhooks.unavailable },
        _ => done(&webhooks.event),
    }
}

/// A stream has begun or ended: the recording holds the session, or lets go of it.
async fn take_stream<'a>(broadcaster: &str, seen: StreamSeen, state: &'a State) -> Ending<'a> {
    let webhooks = &state.services.metrics.webhooks;
    let Some(twitch) = &state.twitch else { return done(&webhooks.event) };
    match twitch.stream_told(broadcaster, seen).await {
        Ok(_) => done(&webhooks.event),
        Err(error) => Ending { answer: Err(error.into()), counter: &webhooks.unavailable },
    }
}

/// The dashboard shows no message that the chat does not show any more.
fn erase(broadcaster: &str, erased: Erased, state: &State) {
    if let Some(live) = state.services.directory.by_broadcaster(broadcaster) {
        state.chat_window.erase(live.streamer_id, erased);
    }
}

async fn take_withdrawal<'a>(user_id: &str, state: &'a State) -> Ending<'a> {
    let webhooks = &state.services.metrics.webhooks;
    let Some(twitch) = &state.twitch else { return done(&webhooks.event) };
    let ended = async |owner: &Owner| session::sign_out(state, owner).await;
    match twitch.authorization_withdrawn(user_id, &ended).await {
        Ok(()) => done(&webhooks.event),
        Err(error) => Ending { answer: Err(error.into()), counter: &webhooks.unavailable },
    }
}

async fn take_chat<'a>(message: &ChatMessage<'_>, state: &'a State, arrived: Instant) -> Ending<'a> {
    let webhooks = &state.services.metrics.webhooks;
    let live = match state.lookup.find(&message.broadcaster_user_id).await {
        Ok(Some(live)) => live,
        Ok(None) => return done(&webhooks.no_session),
        // It may be a vote for a session that another instance has just started.
        Err(unknown) => {
            let problem = Problem::unavailable(unknown.to_string(), RETRY_AFTER);
            return Ending { answer: Err(problem), counter: &webhooks.unavailable };
        }
    };
    let streamer_id = live.streamer_id;
    let (ending, voted) = judge(message, live, state, arrived).await;
    // What is refused comes again.
    if ending.answer.is_ok() {
        state.chat_window.note(streamer_id, line(message, voted, state, arrived));
    }
    ending
}

/// What a message of a live session's chat comes to, and for which side it has voted.
async fn judge<'a>(
    message: &ChatMessage<'_>,
    live: Arc<LiveEntry>,
    state: &'a State,
    arrived: Instant,
) -> (Ending<'a>, Option<Side>) {
    let services = &state.services;
    let webhooks = &services.metrics.webhooks;
    // In a shared chat the other channels' viewers are not this streamer's chat.
    let foreign = message
        .source_broadcaster_user_id
        .as_ref()
        .is_some_and(|source| *source != message.broadcaster_user_id);
    // A streamer's own words come before commands.
    let Some(side) = live.triggers.side_of(&message.text, &message.fragments()) else {
        let ending = match Command::of(&message.text).filter(|_| !foreign) {
            Some(command) => match commands::obey(command, message, &live, state).await {
                Ok(()) => done(&webhooks.command),
                Err(error) => Ending { answer: Err(error.into()), counter: &webhooks.unavailable },
            },
            None => done(&webhooks.no_vote),
        };
        return (ending, None);
    };
    let is_heard = state.settings.chat.count_shared || !foreign;
    if live.paused
        || !is_heard
        || !state.audience.votes(&message.chatter_user_id, &message.chatter_user_login)
    {
        services.metrics.votes.ignored.inc();
        return (done(&webhooks.no_vote), None);
    }
    let ballot =
        Ballot { message_id: &message.message_id, viewer_id: &message.chatter_user_id, side, arrived };
    let votes = &services.metrics.votes;
    let (counter, voted) = match cast(services, &state.supervisor, live, ballot).await {
        VoteOutcome::Accepted => (&votes.accepted, Some(side)),
        VoteOutcome::Debounced => (&votes.debounced, None),
        VoteOutcome::Duplicate => (&votes.duplicate, Some(side)),
        VoteOutcome::Late => (&votes.late, None),
        VoteOutcome::Queued => (&votes.queued, Some(side)),
        VoteOutcome::Unavailable => {
            votes.unavailable.inc();
            let problem = Problem::unavailable(
                "the vote can't be made durable just now; please deliver it again",
                RETRY_AFTER,
            );
            return (Ending { answer: Err(problem), counter: &webhooks.unavailable }, None);
        }
    };
    counter.inc();
    (done(&webhooks.vote), voted)
}

/// A message as the dashboard shows it.
fn line(message: &ChatMessage<'_>, side: Option<Side>, state: &State, arrived: Instant) -> ChatLine {
    let login = &message.chatter_user_login;
    let name = if message.chatter_user_name.is_empty() { login } else { &message.chatter_user_name };
    ChatLine {
        message_id: message.message_id.clone().into_owned(),
        login: login.clone().into_owned(),
        name: name.clone().into_owned(),
        text: message.text.clone().into_owned(),
        at: state.services.clock.at(arrived),
        side,
    }
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
