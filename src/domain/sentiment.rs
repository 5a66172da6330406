//! The arithmetic of sentiment. One formula, the same here, in `schema/` (SQL) and in `lua/`:
//!
//! for an event at time T with votes of weight w cast at t ≤ T,
//! `value := clamp(value·d(decay_speed·(T − at)) + vote_delta·Σ ±w·d(decay_speed·(T − t)), −100, 100)`
//! and `at := T`, where `d(x)` is 0 for x ≥ 100, 1 for x ≤ 0 and e^(−x) between.
//!
//! In the window model the value is `100·(for − against)/(for + against)` over the last
//! `window_seconds` whole seconds, 0 when they are empty.

use super::time::Millis;

/// Sentiment lies in −[`LIMIT`] … [`LIMIT`].
pub const LIMIT: f64 = 100.0;
/// Below this magnitude a value is stored as 0, so that no further decay can underflow.
const NEGLIGIBLE: f64 = 1e-9;
/// Below this magnitude the bar stands still: nothing more is sent until the next vote.
pub const REST: f64 = 0.5;
/// The longest window a streamer can choose, hence how many seconds a session keeps.
pub const WINDOW_SECONDS_MAX: i64 = 120;

/// Which way a vote pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    For,
    Against,
}

impl Side {
    /// +1 for, −1 against.
    pub fn sign(self) -> f64 {
        match self {
            Side::For => 1.0,
            Side::Against => -1.0,
        }
    }
}

/// How votes become a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Model {
    /// Each vote adds `vote_delta`, and the value decays exponentially.
    Decay,
    /// The balance of the votes of the last `window_seconds`.
    Window,
}

/// The numbers of a streamer's config that the arithmetic uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    pub model: Model,
    /// Points a vote of weight 1 adds at once (decay model).
    pub vote_delta: f64,
    /// Per second (decay model).
    pub decay_speed: f64,
    /// Seconds (window model).
    pub window_seconds: i64,
}

/// A vote as the arithmetic sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impulse {
    pub t: Millis,
    pub side: Side,
    /// 0 for a vote that was cast before the last reset: it stands in the journal but moves nothing.
    pub weight: f64,
}

/// The votes of one second, by weight (window model).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SecondTally {
    /// Whole second since the Unix epoch.
    pub second: i64,
    pub for_weight: f64,
    pub against_weight: f64,
}

/// What a session's votes add up to at one point in time.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Mood {
    pub at: Millis,
    /// In −100 … 100, at `at`.
    pub value: f64,
    /// Votes for since the session's start or its last reset.
    pub for_count: i64,
    /// Votes against since the session's start or its last reset.
    pub against_count: i64,
    /// Oldest first, at most [`WINDOW_SECONDS_MAX`]; empty in the decay model.
    pub seconds: Vec<SecondTally>,
}

/// The shares of a window, each 0 … 1; both 0 when the window is empty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    pub for_share: f64,
    pub against_share: f64,
}

/// d(x): 0 for x ≥ 100, 1 for x ≤ 0 (or not a number), e^(−x) between.
pub fn decay_factor(x: f64) -> f64 {
    if x >= 100.0 {
        0.0
    } else if x > 0.0 {
        (-x).exp()
    } else {
        1.0
    }
}

/// `value` after `seconds` of decay at `speed` per second.
pub fn decayed(value: f64, speed: f64, seconds: f64) -> f64 {
    settled(value * decay_factor(speed * seconds))
}

/// `value` within the limits, 0 when negligible or not a number.
fn settled(value: f64) -> f64 {
    if value.abs() < NEGLIGIBLE || value.is_nan() { 0.0 } else { value.clamp(-LIMIT, LIMIT) }
}

impl Mood {
    /// The value at `now`; a `now` before `at` reads as `at`.
    pub fn value_at(&self, params: &Params, now: Millis) -> f64 {
        match params.model {
            Model::Decay => decayed(self.value, params.decay_speed, now.seconds_since(self.at)),
            Model::Window => {
                let (for_weight, against_weight) = self.window(params, now.max(self.at));
                balance(for_weight, against_weight)
            }
        }
    }

    /// The shares of the window at `now`.
    pub fn shares_at(&self, params: &Params, now: Millis) -> Shares {
        let (for_weight, against_weight) = self.window(params, now.max(self.at));
        let total = for_weight + against_weight;
        Shares { for_share: share(for_weight, total), against_share: share(against_weight, total) }
    }

    /// The sums of weights for and against in the window that ends at `now`: `window_seconds` whole
    /// seconds, the one under way among them.
    fn window(&self, params: &Params, now: Millis) -> (f64, f64) {
        let oldest = now.second().saturating_sub(params.window_seconds);
        self.seconds
            .iter()
            .filter(|tally| tally.second > oldest)
            .fold((0.0, 0.0), |sum, tally| (sum.0 + tally.for_weight, sum.1 + tally.against_weight))
    }

    /// When the window next loses a second that has votes, after `now`; `None` when it is empty.
    /// A `now` before `at` reads as `at`.
    pub fn next_expiry(&self, params: &Params, now: Millis) -> Option<Millis> {
        let oldest = now.max(self.at).second().saturating_sub(params.window_seconds);
        self.seconds
            .iter()
            .find(|tally| tally.second > oldest)
            .map(|tally| Millis(tally.second.saturating_add(params.window_seconds).saturating_mul(1000)))
    }

    /// Takes the votes of one event at `now`; a `now` before the last event reads as that event's time.
    pub fn apply(&mut self, params: &Params, votes: &[Impulse], now: Millis) {
        let now = now.max(self.at);
        for vote in votes.iter().filter(|vote| vote.weight != 0.0) {
            match vote.side {
                Side::For => self.for_count = self.for_count.saturating_add(1),
                Side::Against => self.against_count = self.against_count.saturating_add(1),
            }
        }
        match params.model {
            Model::Decay => {
                let pull: f64 = votes
                    .iter()
                    .map(|vote| {
                        let age = now.seconds_since(vote.t);
                        vote.side.sign() * vote.weight * decay_factor(params.decay_speed * age)
                    })
                    .sum();
                let rest = self.value * decay_factor(params.decay_speed * now.seconds_since(self.at));
                self.value = settled(rest + params.vote_delta * pull);
            }
            Model::Window => {
                votes.iter().for_each(|vote| self.tally(vote, now));
                self.seconds.retain(|tally| tally.second > now.second() - WINDOW_SECONDS_MAX);
                let (for_weight, against_weight) = self.window(params, now);
                self.value = balance(for_weight, against_weight);
            }
        }
        self.at = now;
    }

    fn tally(&mut self, vote: &Impulse, now: Millis) {
        if vote.weight == 0.0 {
            return;
        }
        let second = vote.t.min(now).second();
        let place = self.seconds.partition_point(|tally| tally.second < second);
        if self.seconds.get(place).is_none_or(|tally| tally.second != second) {
            let empty = SecondTally { second, for_weight: 0.0, against_weight: 0.0 };
            self.seconds.insert(place, empty);
        }
        match vote.side {
            Side::For => self.seconds[place].for_weight += vote.weight,
            Side::Against => self.seconds[place].against_weight += vote.weight,
        }
    }

    /// Re-bases the value at `now` for a change from `old` to `new` numbers.
    ///
    /// The decay model goes on from the value shown; a window begins with the seconds it has,
    /// none after the decay model.
    pub fn rebase(&mut self, old: &Params, new: &Params, now: Millis) {
        let now = now.max(self.at);
        self.value = match new.model {
            Model::Decay => self.value_at(old, now),
            Model::Window => self.value_at(new, now),
        };
        if new.model == Model::Decay {
            self.seconds.clear();
        }
        self.at = now;
    }

    /// Back to the middle at `now`, counts and window empty.
    pub fn reset(&mut self, now: Millis) {
        *self = Mood { at: now.max(self.at), ..Mood::default() };
    }
}

fn balance(for_weight: f64, against_weight: f64) -> f64 {
    let total = for_weight + against_weight;
    if total > 0.0 { settled(LIMIT * (for_weight - against_weight) / total) } else { 0.0 }
}

/// The part that `weight` is of `total`, within 0 … 1; 0 of nothing.
fn share(weight: f64, total: f64) -> f64 {
    let share = weight / total;
    if share > 0.0 { share.min(1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests;
