//! Sending at the planned pace, whatever the answers: an open loop, as Twitch is one.

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Client, Method, Request, Url};
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout, timeout_at};

use super::plan::{Plan, Planned};
use super::report::{Outcome, Report, Tally};
use super::{Notification, Options, SimulatorError};

/// How often the plan is asked what is due.
const PACE: Duration = Duration::from_millis(1);
/// How often progress is shown.
const PROGRESS: Duration = Duration::from_secs(1);
/// A message without an answer so long after it was due has failed. Twitch waits "a few seconds".
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long the last answers are waited for when somebody asked to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// Messages that may wait for their answers, for each connection; beyond, they are not sent.
const WAITING_PER_CONNECTION: usize = 32;
/// Messages handed out in one go, so that answers are read between.
const BATCH_MAX: usize = 64;

/// Sends what `options` ask for until their duration is over or `shutdown` is ready, and waits for
/// the last answers. Shows progress on standard error once a second, unless asked to be quiet.
///
/// # Errors
/// [`SimulatorError`] before anything is sent, when the options can't be used. A target that does not
/// answer is no error: the report tells.
pub async fn run(options: Options, shutdown: impl Future<Output = ()>) -> Result<Report, SimulatorError> {
    let mut plan = Plan::new(&options, OffsetDateTime::now_utc())?;
    let mut sender = Sender::new(&options)?;
    let mut shutdown = pin!(shutdown);
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut progress = Progress::new(options.quiet);
    let patience = loop {
        tokio::select! {
            () = &mut shutdown => break STOP_PATIENCE,
            Some(ended) = sender.requests.join_next() => sender.tally_up(ended.ok()),
            _ = progress.ticks.tick() => progress.show(&sender.report()),
            _ = pace.tick() => sender.send_due(&mut plan),
        }
        while let Some(ended) = sender.requests.try_join_next() {
            sender.tally_up(ended.ok());
        }
        if plan.is_finished() {
            break ANSWER_MAX;
        }
    };
    sender.await_answers(patience).await;
    progress.end();
    Ok(sender.report())
}

type Ended = (Outcome, Duration);

struct Sender {
    client: Client,
    url: Url,
    connections: Arc<Semaphore>,
    in_flight_max: usize,
    requests: JoinSet<Ended>,
    tally: Tally,
    started: Instant,
}

impl Sender {
    fn new(options: &Options) -> Result<Self, SimulatorError> {
        let refused =
            |allowed| SimulatorError::Option { option: "--url", value: options.url.clone(), allowed };
        let url = Url::parse(&options.url)
            .map_err(|_| refused("it must be a URL such as http://127.0.0.1:8080/webhooks/eventsub"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refused("it must begin with http:// or https://"));
        }
        Ok(Sender {
            client: client(url.scheme() == "https", options.connections)?,
            url,
            connections: Arc::new(Semaphore::new(options.connections)),
            in_flight_max: options.connections.saturating_mul(WAITING_PER_CONNECTION),
            requests: JoinSet::new(),
            tally: Tally::default(),
            started: Instant::now(),
        })
    }

    fn send_due(&mut self, plan: &mut Plan) {
        let elapsed = self.started.elapsed();
        let now = OffsetDateTime::now_utc();
        for _ in 0..BATCH_MAX {
            let Some(planned) = plan.next_due(elapsed, now) else { return };
            self.send(planned);
        }
    }

    fn send(&mut self, planned: Planned) {
        if self.requests.len() >= self.in_flight_max {
            self.tally.not_sent();
            return;
        }
        self.tally.sent(&planned);
        let due = self.started + planned.due;
        let request = request(self.url.clone(), planned.notification);
        let client = self.client.clone();
        let connections = Arc::clone(&self.connections);
        self.requests.spawn(async move {
            let answer = async {
                // The semaphore is never closed; without a permit the request would still be right.
                let _connection = connections.acquire().await;
                exchange(&client, request).await
            };
            let rest = ANSWER_MAX.saturating_sub(due.elapsed());
            let outcome = timeout(rest, answer).await.unwrap_or(Outcome::TimedOut);
            (outcome, due.elapsed())
        });
    }

    /// Counts a request that ended; `None` for one that was given up.
    fn tally_up(&mut self, ended: Option<Ended>) {
        let (outcome, latency) = ended.unwrap_or((Outcome::TimedOut, Duration::ZERO));
        self.tally.ended(outcome, latency);
    }

    /// Waits for the answers still to come, but not longer than `patience`.
    async fn await_answers(&mut self, patience: Duration) {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match timeout_at(deadline, self.requests.join_next()).await {
                Ok(Some(ended)) => self.tally_up(ended.ok()),
                Ok(None) => return,
                Err(_) => break,
            }
        }
        self.requests.abort_all();
        while let Some(ended) = self.requests.join_next().await {
            self.tally_up(ended.ok());
        }
    }

    fn report(&self) -> Report {
        self.tally.report(self.started.elapsed())
    }
}

/// A client that, like Twitch, speaks HTTP/1.1, keeps connections and follows no redirects.
fn client(is_https: bool, connections: usize) -> Result<Client, SimulatorError> {
    // Err means that the process has its provider already, which does as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .http1_only()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(connections);
    if !is_https {
        // Plain HTTP must also work on a machine without any CA certificates.
        builder = builder.tls_certs_only([]);
    }
    Ok(builder.build()?)
}

fn request(url: Url, notification: Notification) -> Request {
    let mut request = Request::new(Method::POST, url);
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in notification.headers() {
        // Ids, times and hexadecimal digits are always good header values.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    *request.body_mut() = Some(notification.body.into());
    request
}

async fn exchange(client: &Client, request: Request) -> Outcome {
    let answer = match client.execute(request).await {
        Ok(answer) => answer,
        Err(error) if error.is_connect() => return Outcome::NotConnected,
        Err(_) => return Outcome::Broken,
    };
    let status = answer.status().as_u16();
    // Only a connection whose answer was read whole can be used again.
    match answer.bytes().await {
        Ok(_) => Outcome::Answered(status),
        Err(_) => Outcome::Broken,
    }
}

/// Progress for people: one line that changes on a terminal, plain lines elsewhere.
struct Progress {
    ticks: tokio::time::Interval,
    is_quiet: bool,
    is_terminal: bool,
}

impl Progress {
    fn new(is_quiet: bool) -> Self {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + PROGRESS, PROGRESS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Progress { ticks, is_quiet, is_terminal: std::io::stderr().is_terminal() }
    }

    fn show(&self, report: &Report) {
        if self.is_quiet {
            return;
        }
        let mut stderr = std::io::stderr().lock();
        // Who closed standard error does not want to know.
        let _ = if self.is_terminal {
            write!(stderr, "\r{}\x1b[K", report.progress()).and_then(|()| stderr.flush())
        } else {
            writeln!(stderr, "{}", report.progress())
        };
    }

    fn end(&self) {
        if self.is_terminal && !self.is_quiet {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn beyond_the_bound_messages_are_not_sent() {
        // Takes connections and never answers.
        let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}/", silent.local_addr().unwrap());
        let options = Options { connections: 1, quiet: true, ..Options::new(url, "simulated-secret") };
        let mut plan = Plan::new(&options, OffsetDateTime::now_utc()).unwrap();
        let mut sender = Sender::new(&options).unwrap();
        for _ in 0..WAITING_PER_CONNECTION + 5 {
            let planned = plan.next_due(Duration::from_secs(3600), OffsetDateTime::now_utc()).unwrap();
            sender.send(Planned { due: Duration::ZERO, ..planned });
        }
        sender.await_answers(Duration::ZERO).await;
        let report = sender.report();
        assert_eq!((report.sent, report.not_sent), (WAITING_PER_CONNECTION as u64, 5));
        assert_eq!(report.failures, [("timed_out", WAITING_PER_CONNECTION as u64)].into());
    }
}
