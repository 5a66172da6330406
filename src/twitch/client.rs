//! The connection to Twitch: one HTTP client, what its answers mean, and what is left of the rate limit.
//!
//! Nothing is retried here: who calls knows whether a call may be repeated, and how long it is worth
//! waiting. What an error says never holds a token, a secret, a code or a URL. The calls themselves are in
//! [`oauth`](super::oauth) and [`helix`](super::helix); each is built and read by pure functions, and what a
//! status means is told by one more, in `answer`.

mod answer;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::IntCounterVec;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Request, Response, Url};
use serde_json::Value;
use time::OffsetDateTime;

use self::answer::{REMAINING, RESET, interpret, number};
use crate::settings::Secret;

pub(super) use self::answer::{parse, quoted};

/// How long a connection may take to be made; less where the whole call has less.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Bytes of an answer that are read at most. The longest, a page of subscriptions, has some 100 KiB.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// The header with the application's client id.
const CLIENT_ID: &str = "client-id";

/// What a [`Client`] needs to know.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    pub client_id: String,
    pub client_secret: Secret<String>,
    /// The base of the API, e.g. `https://api.twitch.tv/helix`.
    pub helix_url: String,
    /// The base of authentication, e.g. `https://id.twitch.tv/oauth2`.
    pub oauth_url: String,
    /// What a call may take, from connecting to the last byte of the answer.
    pub timeout: Duration,
}

/// Why a call of Twitch failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TwitchError {
    /// The HTTP client can't be made.
    #[error("the client for Twitch can't be made: {0}")]
    Setup(String),
    /// Not reached, no answer in time, 408 or 5xx: whether it happened is unknown.
    #[error("Twitch can't be reached: {0}")]
    Away(String),
    /// The rate limit: nothing happened, and before `wait` (at least 1 s) nothing will.
    #[error("Twitch's rate limit is used up; try again in {wait:?}")]
    Limited { wait: Duration },
    /// 401: the token is not valid, or not any more.
    #[error("Twitch does not accept the token: {0}")]
    Unauthorized(String),
    /// Any other 4xx: nothing happened, and the same call would be refused again.
    #[error("Twitch refused with status {status}: {message}")]
    Refused {
        status: u16,
        /// What Twitch says about it, for people.
        message: String,
        /// Of a 409: what there is already, such as a subscription's id.
        id: Option<String>,
    },
    /// An answer of a shape that this release doesn't know. What was asked for may have happened.
    #[error("Twitch's answer is not understood: {0}")]
    Answer(String),
}

impl TwitchError {
    /// The value of a metric's label `outcome`; a call that went well has `ok`.
    pub fn outcome(&self) -> &'static str {
        match self {
            TwitchError::Setup(_) => "setup",
            TwitchError::Away(_) => "away",
            TwitchError::Limited { .. } => "limited",
            TwitchError::Unauthorized(_) => "unauthorized",
            TwitchError::Refused { .. } => "refused",
            TwitchError::Answer(_) => "answer",
        }
    }
}

/// The last word about a token bucket: points left in the upper half, when it is full again (Unix
/// seconds) in the lower one, so that both are always of one answer. 0 is long past: nothing is known.
#[derive(Default)]
struct Bucket(AtomicU64);

impl Bucket {
    fn note(&self, headers: &HeaderMap) {
        let heard = (number::<u32>(headers, REMAINING), number::<u32>(headers, RESET));
        let (Some(remaining), Some(reset)) = heard else { return };
        self.0.store((u64::from(remaining) << 32) | u64::from(reset), Ordering::Relaxed);
    }

    fn remaining(&self, now: i64) -> Option<u32> {
        let word = self.0.load(Ordering::Relaxed);
        let is_full = i64::from(word as u32) <= now;
        (!is_full).then_some((word >> 32) as u32)
    }
}

/// A client of Twitch's API for one application. Clones share connections and what is known of the limit.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    shared: Arc<Shared>,
    /// By outcome.
    outcomes: Option<IntCounterVec>,
}

struct Shared {
    options: ClientOptions,
    client_id: HeaderValue,
    helix: Url,
    oauth: Url,
    app_bucket: Bucket,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("client_id", &self.client_id()).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that follows no redirects: Twitch sends none, and a token must not go elsewhere.
    ///
    /// # Errors
    /// [`TwitchError::Setup`] for a URL or client id that can't be used, or when TLS is not to be had.
    pub fn new(options: ClientOptions) -> Result<Client, TwitchError> {
        // Err means that the process has its provider already, which does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let helix = base(&options.helix_url, "twitch.helix_url")?;
        let oauth = base(&options.oauth_url, "twitch.oauth_url")?;
        let client_id = HeaderValue::from_str(&options.client_id).map_err(|_| {
            TwitchError::Setup("twitch.client_id has a character that is not possible".to_owned())
        })?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("chatpulse/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_MAX.min(options.timeout))
            .timeout(options.timeout);
        if helix.scheme() == "http" && oauth.scheme() == "http" {
            // Not Twitch but a stand-in nearby: no proxy leads to it, and it needs no CA certificates.
            builder = builder.no_proxy().tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| TwitchError::Setup(quoted(&causes(&error), &[])))?;
        let shared = Shared { options, client_id, helix, oauth, app_bucket: Bucket::default() };
        Ok(Client { http, shared: Arc::new(shared), outcomes: None })
    }

    /// Counts each call in `outcomes`, whose one label is the outcome: `ok` or [`TwitchError::outcome`].
    pub fn observed_by(self, outcomes: IntCounterVec) -> Client {
        Client { outcomes: Some(outcomes), ..self }
    }

    /// The application's client id, which is public.
    pub fn client_id(&self) -> &str {
        &self.shared.options.client_id
    }

    /// How many points the rate limit of the app's token had left when Twitch last said so; nearly every call
    /// costs one. `None` before the first call, and when the bucket has become full since the last one. Who
    /// has much to ask for slows down by it, before Twitch refuses. Calls for a user have other buckets and
    /// change nothing here.
    pub fn allowance(&self) -> Option<u32> {
        self.shared.app_bucket.remaining(now())
    }

    pub(super) fn client_secret(&self) -> &Secret<String> {
        &self.shared.options.client_secret
    }

    pub(super) fn helix_url(&self, path: &str) -> Url {
        endpoint(&self.shared.helix, path)
    }

    pub(super) fn oauth_url(&self, path: &str) -> Url {
        endpoint(&self.shared.oauth, path)
    }

    /// `call` with the header that each call of the API needs.
    pub(super) fn identified(&self, mut call: Call) -> Call {
        call.request.headers_mut().insert(HeaderName::from_static(CLIENT_ID), self.shared.client_id.clone());
        call
    }

    /// Makes a call, judges its answer, and has `read` understand the body of a good one.
    pub(super) async fn call<T>(
        &self,
        call: Call,
        read: impl FnOnce(&[u8]) -> Result<T, TwitchError>,
    ) -> Result<T, TwitchError> {
        let result = self.exchange(call).await.and_then(|body| read(&body));
        if let Some(outcomes) = &self.outcomes {
            let outcome = result.as_ref().map_or_else(TwitchError::outcome, |_| "ok");
            outcomes.with_label_values(&[outcome]).inc();
        }
        result
    }

    async fn exchange(&self, call: Call) -> Result<Vec<u8>, TwitchError> {
        let Call { request, secrets, is_of_app } = call;
        let away = |error: reqwest::Error| TwitchError::Away(quoted(&unreached(error), &secrets));
        let mut response = self.http.execute(request).await.map_err(away)?;
        if is_of_app {
            self.shared.app_bucket.note(response.headers());
        }
        let (body, is_whole) = body_of(&mut response).await.map_err(away)?;
        interpret(response.status(), response.headers(), &body, now(), &secrets)?;
        match is_whole {
            true => Ok(body),
            false => Err(TwitchError::Answer(format!("it has more than {BODY_BYTES_MAX} bytes"))),
        }
    }
}

/// A request, and what of it no error may repeat.
pub(super) struct Call {
    pub(super) request: Request,
    pub(super) secrets: Vec<Secret<String>>,
    /// Whether it takes from the bucket of the app's token.
    pub(super) is_of_app: bool,
}

impl Call {
    pub(super) fn new(method: Method, url: Url) -> Self {
        Call { request: Request::new(method, url), secrets: Vec::new(), is_of_app: false }
    }

    /// No error repeats `secret`, even if Twitch does.
    pub(super) fn hiding(mut self, secret: &Secret<String>) -> Self {
        self.secrets.push(secret.clone());
        self
    }

    /// Presents a token, with `scheme` before it.
    ///
    /// # Errors
    /// [`TwitchError::Unauthorized`] for a text that can't be a token, because no header can carry it.
    pub(super) fn authorized(mut self, scheme: &str, token: &Secret<String>) -> Result<Self, TwitchError> {
        let mut value = HeaderValue::from_str(&format!("{scheme} {}", token.expose())).map_err(|_| {
            TwitchError::Unauthorized("it has a character that no token has; it was not sent".to_owned())
        })?;
        value.set_sensitive(true);
        self.request.headers_mut().insert(AUTHORIZATION, value);
        Ok(self.hiding(token))
    }

    pub(super) fn of_app(mut self) -> Self {
        self.is_of_app = true;
        self
    }

    pub(super) fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string())
    }

    pub(super) fn form(self, fields: &[(&str, &str)]) -> Self {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.body("application/x-www-form-urlencoded", body)
    }

    fn body(mut self, content_type: &'static str, body: String) -> Self {
        self.request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        *self.request.body_mut() = Some(body.into());
        self
    }
}

/// The body, and whether that is all of it.
async fn body_of(response: &mut Response) -> Result<(Vec<u8>, bool), reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if chunk.len() > BODY_BYTES_MAX - body.len() {
            return Ok((body, false));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((body, true))
}

fn unreached(error: reqwest::Error) -> String {
    let error = error.without_url();
    let what = if error.is_connect() {
        "no connection"
    } else if error.is_timeout() {
        "no answer in time"
    } else {
        "the exchange broke off"
    };
    format!("{what}: {}", causes(&error))
}

/// What `error` says, and each cause below it.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn base(url: &str, setting: &str) -> Result<Url, TwitchError> {
    let is_usable = |url: &Url| {
        matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
    };
    let mut url = Url::parse(url).ok().filter(is_usable).ok_or_else(|| {
        TwitchError::Setup(format!("{setting} must be a URL such as https://host/path, without a user"))
    })?;
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn endpoint(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
