//! Taking votes back: of messages that were deleted, and of viewers who were banned. A session's events are folded
//! anew from the raw votes, without those; what the events say of values and totals is not used.
//!
//! The clamp makes this necessary: what a vote has moved depends on all the others.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::sentiment::{Impulse, Mood, Params};
use super::session::{Event, JournaledVote, VotesCast, VotesRetracted};
use super::time::Millis;

/// Whose votes are taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retract {
    /// Of chat messages, by Twitch's ids.
    pub messages: BTreeSet<String>,
    /// Of viewers, as hashes under the session's key: those cast until a moment, which is one of them. Later ones
    /// count: a viewer who was timed out comes back.
    pub viewers: BTreeMap<String, Millis>,
}

impl Retract {
    /// The vote of one chat message.
    pub fn message(message_id: String) -> Retract {
        Retract { messages: BTreeSet::from([message_id]), ..Retract::default() }
    }

    /// The votes of one viewer, a hash under the session's key, that were cast until a moment.
    pub fn viewer(viewer: String, until: Millis) -> Retract {
        Retract { viewers: BTreeMap::from([(viewer, until)]), ..Retract::default() }
    }

    /// Adds what else is to be taken back.
    pub fn add(&mut self, other: Retract) {
        self.messages.extend(other.messages);
        for (viewer, until) in other.viewers {
            let known = self.viewers.entry(viewer).or_insert(until);
            *known = until.max(*known);
        }
    }
}

/// A session's events so far, folded without what is taken back now and what was before.
///
/// Events are taken one by one, so that a few new ones are quickly added. Only votes since the last reset are kept,
/// 56 bytes each: they are folded again when it turns out that some of them were taken back.
#[derive(Debug)]
pub struct Refold {
    what: Retract,
    wanted: Marks,
    /// The version of the last event taken; 0 before the first.
    version: i64,
    ended: bool,
    /// The state after the last event; none before the start.
    now: Option<Fold>,
    /// The state at the start or the last reset.
    base: Option<Fold>,
    /// What came after that.
    steps: Vec<Step>,
    /// Whose votes in which steps turned out to have been taken back later, since the state was last made of them.
    gone: Marks,
    /// The votes that are taken back now.
    taken: Vec<Ballot>,
}

impl Refold {
    /// Nothing folded yet.
    pub fn new(what: &Retract) -> Refold {
        Refold {
            what: what.clone(),
            wanted: Marks::of(&what.messages, &what.viewers, usize::MAX),
            version: 0,
            ended: false,
            now: None,
            base: None,
            steps: Vec::new(),
            gone: Marks::default(),
            taken: Vec::new(),
        }
    }

    /// As [`Refold::new`], and up to a session's last reset taken: the event of this version, which came at `at` and
    /// found `params` in force. What came before moves nothing any more.
    pub fn since_reset(what: &Retract, version: i64, params: Params, at: Millis) -> Refold {
        let mut refold = Refold { version, ..Refold::new(what) };
        refold.begin(Fold { params, mood: Mood { at, ..Mood::default() } });
        refold
    }

    /// Takes the next event of the session.
    pub fn take(&mut self, event: &Event) {
        self.version += 1;
        match event {
            Event::Started { config, at, .. } if self.now.is_none() => {
                let mood = Mood { at: *at, ..Mood::default() };
                self.begin(Fold { params: config.config.params, mood });
            }
            Event::Started { .. } => {}
            Event::VotesCast(cast) => self.cast(cast),
            Event::VotesRetracted(retracted) => self.forget(retracted),
            Event::ConfigApplied { params, at, .. } => {
                self.step(Step::Settings { params: *params, at: *at });
            }
            Event::Paused { at } | Event::Resumed { at } => self.step(Step::Moment { at: *at }),
            Event::Reset { at } => {
                if let Some(mut now) = self.now.take() {
                    now.mood.reset(*at);
                    self.begin(now);
                }
            }
            Event::Ended { .. } => self.ended = true,
        }
    }

    /// The version of the last event taken; 0 before the first.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// Whether the session has ended.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The state at the last event's time without what is taken back; `None` before the start.
    pub fn mood(&mut self) -> Option<&Mood> {
        self.settle();
        self.now.as_ref().map(|now| &now.mood)
    }

    /// How many votes are taken back that counted until now.
    pub fn votes(&self) -> usize {
        self.taken.len()
    }

    /// What is taken back, and the state without it at the last event's time; `None` when that is nothing. Messages and
    /// viewers of whom no vote is taken back are not named.
    pub fn retracted(&mut self) -> Option<VotesRetracted> {
        if self.taken.is_empty() {
            return None;
        }
        let mood = self.mood()?.clone();
        let voted: HashSet<Key> = self.taken.iter().map(|ballot| ballot.message).collect();
        let messages = self.what.messages.iter().filter(|id| voted.contains(&Key::of(id))).cloned().collect();
        let banned = self.taken.iter().filter(|ballot| self.wanted.cover_viewer(ballot, 0));
        let banned: HashSet<Key> = banned.map(|ballot| ballot.viewer).collect();
        let viewers = self.what.viewers.iter().filter(|(viewer, _)| banned.contains(&Key::of(viewer)));
        let viewers = viewers.map(|(viewer, until)| (viewer.clone(), *until)).collect();
        Some(VotesRetracted { messages, viewers, mood })
    }

    /// A start or a reset: what came before it moves nothing any more.
    fn begin(&mut self, fold: Fold) {
        self.base = Some(fold.clone());
        self.now = Some(fold);
        self.steps.clear();
        self.gone = Marks::default();
        self.taken.clear();
    }

    fn cast(&mut self, cast: &VotesCast) {
        // A vote from before the last reset stands in the journal with weight 0.
        let counting = cast.votes.iter().filter(|vote| vote.weight != 0.0).map(Ballot::of);
        let (taken, ballots): (Vec<_>, Vec<_>) = counting.partition(|ballot| self.wanted.cover(ballot, 0));
        self.taken.extend(taken);
        self.step(Step::Votes { ballots, at: cast.at });
    }

    /// Votes were taken back before: they count neither here nor as taken back now.
    fn forget(&mut self, retracted: &VotesRetracted) {
        let viewers = retracted.viewers.iter().map(|(viewer, until)| (viewer, until));
        let marks = Marks::of(&retracted.messages, viewers, self.steps.len());
        self.taken.retain(|ballot| !marks.cover(ballot, 0));
        self.gone.extend(marks);
        self.step(Step::Moment { at: retracted.mood.at });
    }

    fn step(&mut self, step: Step) {
        if let Some(now) = &mut self.now {
            now.go(&step);
            self.steps.push(step);
        }
    }

    /// Makes the state anew without the votes that are gone, if there may be some.
    fn settle(&mut self) {
        if self.gone.messages.is_empty() && self.gone.viewers.is_empty() {
            return;
        }
        let gone = std::mem::take(&mut self.gone);
        self.now.clone_from(&self.base);
        let Some(now) = &mut self.now else { return };
        for (number, step) in self.steps.iter_mut().enumerate() {
            if let Step::Votes { ballots, .. } = step {
                ballots.retain(|ballot| !gone.cover(ballot, number));
            }
            now.go(step);
        }
    }
}

/// The part of a session's state that votes move, and by which numbers.
#[derive(Clone, Debug)]
struct Fold {
    params: Params,
    mood: Mood,
}

impl Fold {
    fn go(&mut self, step: &Step) {
        match step {
            Step::Votes { ballots, at } => {
                let impulses: Vec<Impulse> = ballots.iter().map(|ballot| ballot.impulse).collect();
                self.mood.apply(&self.params, &impulses, *at);
            }
            Step::Settings { params, at } => {
                self.mood.rebase(&self.params, params, *at);
                self.params = *params;
            }
            Step::Moment { at } => self.mood.rebase(&self.params, &self.params, *at),
        }
    }
}

/// What an event does to the state.
#[derive(Debug)]
enum Step {
    Votes {
        ballots: Vec<Ballot>,
        at: Millis,
    },
    Settings {
        params: Params,
        at: Millis,
    },
    /// The value was re-based.
    Moment {
        at: Millis,
    },
}

/// A vote, as small as can be: a session may have had millions.
#[derive(Debug)]
struct Ballot {
    impulse: Impulse,
    message: Key,
    viewer: Key,
}

impl Ballot {
    fn of(vote: &JournaledVote) -> Ballot {
        let JournaledVote { message_id, side, weight, t, viewer } = vote;
        let impulse = Impulse { t: *t, side: *side, weight: *weight };
        Ballot { impulse, message: Key::of(message_id), viewer: Key::of(viewer) }
    }
}

/// Messages and viewers whose votes are meant.
#[derive(Debug, Default)]
struct Marks {
    /// Each with the number of steps from the first in which its vote is meant.
    messages: HashMap<Key, usize>,
    /// One may be banned more than once.
    viewers: HashMap<Key, Vec<Reach>>,
}

/// The votes in so many steps from the first that were cast until a moment, which is one of them.
#[derive(Clone, Copy, Debug)]
struct Reach {
    steps: usize,
    until: Millis,
}

impl Marks {
    fn of<'a>(
        messages: impl IntoIterator<Item = &'a String>,
        viewers: impl IntoIterator<Item = (&'a String, &'a Millis)>,
        steps: usize,
    ) -> Marks {
        let messages = messages.into_iter().map(|id| (Key::of(id), steps)).collect();
        let mut marks = Marks { messages, viewers: HashMap::new() };
        for (viewer, until) in viewers {
            marks.add_viewer(Key::of(viewer), Reach { steps, until: *until });
        }
        marks
    }

    /// Adds marks that reach as many steps as the known ones, or more.
    fn extend(&mut self, later: Marks) {
        self.messages.extend(later.messages);
        for (viewer, reaches) in later.viewers {
            reaches.into_iter().for_each(|reach| self.add_viewer(viewer, reach));
        }
    }

    fn add_viewer(&mut self, viewer: Key, reach: Reach) {
        let reaches = self.viewers.entry(viewer).or_default();
        reaches.retain(|known| known.steps > reach.steps || known.until > reach.until);
        reaches.push(reach);
    }

    /// Whether a vote in the step of this number, counted from 0, is meant.
    fn cover(&self, ballot: &Ballot, step: usize) -> bool {
        self.messages.get(&ballot.message).is_some_and(|steps| step < *steps)
            || self.cover_viewer(ballot, step)
    }

    /// Whether such a vote is meant because of its viewer.
    fn cover_viewer(&self, ballot: &Ballot, step: usize) -> bool {
        let is_meant = |reach: &Reach| step < reach.steps && ballot.impulse.t <= reach.until;
        self.viewers.get(&ballot.viewer).is_some_and(|reaches| reaches.iter().any(is_meant))
    }
}

/// An id in 128 bits, which leave no room for accidents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key(u64, u64);

impl Key {
    fn of(id: &str) -> Key {
        let half = |number: u8| {
            let mut hasher = DefaultHasher::new();
            (number, id).hash(&mut hasher);
            hasher.finish()
        };
        Key(half(0), half(1))
    }
}

#[cfg(test)]
mod tests;
