//! Sending to webhooks, signed: challenges, and messages that are tried again until they are taken,
//! <https://dev.twitch.tv/docs/eventsub/handling-webhook-events/>.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Client, Method, Request, Url};
use tokio::time::{sleep, timeout};

use super::options::Rules;
use super::state::{Challenge, Message, Post, timestamp};
use super::{Shared, SimulatorError};
use crate::twitch::signature::{self, Secrets};

/// Of an answer's body, so much is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// A challenge waits so long for its request's answer to arrive, which names the shard.
const CHALLENGE_PAUSE: Duration = Duration::from_millis(20);

/// A client that, like Twitch, speaks HTTP/1.1, keeps connections and follows no redirects.
pub(super) fn client(rules: &Rules) -> Result<Client, SimulatorError> {
    // Err means that the process has its provider already, which does as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .http1_only()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(rules.deliveries_max);
    if rules.allow_http {
        // Plain HTTP must also work on a machine without any CA certificates.
        builder = builder.tls_certs_only([]);
    }
    Ok(builder.build()?)
}

/// A webhook's answer.
struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Shared {
    /// Sends a challenge and tells the state what came of it.
    pub(super) fn challenge(self: &Arc<Self>, challenge: Challenge) {
        let shared = Arc::clone(self);
        self.spawn(async move {
            sleep(CHALLENGE_PAUSE).await;
            let Challenge { target, callback, secrets, message, challenge } = challenge;
            let answer = shared.request(&callback, &secrets, &message, 0).await;
            let is_right =
                answer.is_some_and(|answer| answer.status == 200 && answer.body == challenge.as_bytes());
            shared.act(|state, _| state.challenged(&target, is_right));
        });
    }

    /// Delivers a message in a task of its own, unless too many wait already.
    pub(super) fn post(self: &Arc<Self>, post: Post) {
        if self.deliveries.fetch_add(1, Ordering::AcqRel) >= self.rules.deliveries_waiting_max {
            self.deliveries.fetch_sub(1, Ordering::AcqRel);
            // Nothing follows from it that would have to be done.
            self.act(|state, _| state.gave_up());
            return;
        }
        let shared = Arc::clone(self);
        self.spawn(async move {
            shared.deliver(&post).await;
            shared.deliveries.fetch_sub(1, Ordering::AcqRel);
        });
    }

    async fn deliver(self: &Arc<Self>, post: &Post) {
        let mut pauses = self.rules.retry_pauses.iter();
        for retry in 0_u32.. {
            let answer = {
                // Never closed; without a permit the request would still be right.
                let _permit = self.permits.acquire().await;
                self.request(&post.callback, &post.secrets, &post.message, retry).await
            };
            let is_taken = answer.is_some_and(|answer| (200..300).contains(&answer.status));
            let goes_on = self.act(|state, now| state.posted(&post.target, is_taken, now));
            if is_taken {
                return;
            }
            let Some(pause) = pauses.next().filter(|_| goes_on) else { break };
            sleep(*pause).await;
        }
        self.act(|state, _| state.gave_up());
    }

    /// One try. `None` when there is no answer, or it takes too long.
    async fn request(
        &self,
        callback: &str,
        secrets: &Secrets,
        message: &Message,
        retry: u32,
    ) -> Option<Answer> {
        let mut request = Request::new(Method::POST, Url::parse(callback).ok()?);
        // A resend has the id of the first, and the time of its own sending.
        let sent_at = timestamp((self.clock)());
        let retry = retry.to_string();
        let signature = secrets.sign(&message.id, &sent_at, &message.body);
        let mut headers = vec![
            (signature::MESSAGE_ID, message.id.as_str()),
            (signature::MESSAGE_RETRY, retry.as_str()),
            (signature::MESSAGE_TYPE, message.kind),
            (signature::MESSAGE_SIGNATURE, signature.as_str()),
            (signature::MESSAGE_TIMESTAMP, sent_at.as_str()),
        ];
        if let Some((kind, version)) = message.subscription {
            headers.push((signature::SUBSCRIPTION_TYPE, kind));
            headers.push((signature::SUBSCRIPTION_VERSION, version));
        }
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_str(value).ok()?);
        }
        *request.body_mut() = Some(message.body.clone().into());
        timeout(self.rules.answer, self.answer(request)).await.ok()?
    }

    async fn answer(&self, request: Request) -> Option<Answer> {
        let mut answer = self.client.execute(request).await.ok()?;
        let status = answer.status().as_u16();
        let mut body = Vec::new();
        // Only a connection whose answer was read whole can be used again.
        while let Some(chunk) = answer.chunk().await.ok()? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                break;
            }
            body.extend_from_slice(&chunk);
        }
        Some(Answer { status, body })
    }
}
