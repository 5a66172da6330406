//! Faults that were asked for, and the requests that came.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{State, timestamp};

/// Faults that wait, at most.
const FAULTS_MAX: usize = 1_000;

/// The next requests to a path fail.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Fault {
    /// What the path begins with, such as `/helix/eventsub/subscriptions`.
    pub path: String,
    /// `None`: all methods.
    #[serde(default)]
    pub method: Option<String>,
    /// So many requests fail.
    #[serde(default = "once")]
    pub times: u32,
    #[serde(flatten)]
    pub failure: Failure,
}

/// How a request fails.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "failure", rename_all = "snake_case")]
pub enum Failure {
    /// This status, and nothing is done.
    Status {
        status: u16,
        #[serde(default)]
        message: String,
    },
    /// 429 as of an empty bucket that is full again in so many seconds; nothing is done.
    Limited { reset_seconds: u32 },
    /// 429 with points left, as of more than three subscriptions of one type and condition.
    TooManyAlike,
    /// No answer for long, and nothing is done.
    Hang,
    /// What was asked for is done, but the answer says 502.
    AnswerLost,
}

fn once() -> u32 {
    1
}

/// A request that came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SeenRequest {
    pub method: String,
    pub path: String,
    pub query: String,
    /// What it was answered.
    pub status: u16,
    /// RFC 3339.
    pub at: String,
}

impl State {
    /// Has the next requests fail as told.
    pub fn add_fault(&mut self, fault: Fault) {
        if self.faults.len() < FAULTS_MAX && fault.times > 0 {
            self.faults.push(fault);
        }
    }

    /// Forgets the faults that have not come yet.
    pub fn clear_faults(&mut self) {
        self.faults.clear();
    }

    /// How the request that comes now fails, if it does; the oldest fitting fault is used up first.
    pub fn take_fault(&mut self, method: &str, path: &str) -> Option<Failure> {
        let fits = |fault: &Fault| {
            path.starts_with(&fault.path)
                && fault.method.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
        };
        let place = self.faults.iter().position(fits)?;
        let fault = &mut self.faults[place];
        fault.times -= 1;
        let failure = fault.failure.clone();
        if fault.times == 0 {
            self.faults.remove(place);
        }
        Some(failure)
    }

    /// Notes a request and its answer.
    pub fn saw(&mut self, method: &str, path: &str, query: &str, status: u16, now: OffsetDateTime) {
        let request = SeenRequest {
            method: method.into(),
            path: path.into(),
            query: query.into(),
            status,
            at: timestamp(now),
        };
        State::remember(&mut self.seen, request, self.rules.remembered_max);
    }

    /// The requests that came, oldest first; not those to the control API.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.seen.iter().cloned().collect()
    }
}
