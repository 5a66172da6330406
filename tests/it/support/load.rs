//! Signed votes on a round-robin over instances, delivered again as Twitch does until they are taken.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;

use super::PATIENCE;
use super::balancer::Balancer;
use super::instance::Streamer;
use super::twitch::{Chat, Twitch};

/// How long a delivery is waited for.
const DELIVERY_MAX: Duration = Duration::from_secs(5);
/// Milliseconds between two deliveries of the same message.
const AGAIN_MS: std::ops::RangeInclusive<u64> = 50..=400;
/// Milliseconds between two votes of one voter.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 10..=60;

/// One delivery of a vote to one instance.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The instance's place in the round.
    pub place: usize,
    pub began: Instant,
    pub took: Duration,
    /// `None`: no answer came.
    pub status: Option<u16>,
}

/// A vote and what became of it.
#[derive(Clone, Debug)]
pub struct Vote {
    pub chat: Chat,
    pub deliveries: Vec<Delivery>,
}

impl Vote {
    /// Whether it was taken.
    pub fn answered(&self) -> bool {
        self.deliveries.iter().any(|delivery| delivery.status == Some(204))
    }
}

/// Voters at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    voters: Vec<JoinHandle<Vec<Vote>>>,
}

impl Load {
    /// So many voters, each voting for random streamers of these, one vote after the other.
    pub fn start(balancer: &Balancer, streamers: &[Streamer], voters: usize, seed: u64) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let voters = (0..voters).map(|voter| {
            let mut work = Voter {
                balancer: balancer.clone(),
                twitches: balancer.addresses().iter().map(|at| Twitch::patient(*at, DELIVERY_MAX)).collect(),
                broadcasters: streamers.iter().map(|streamer| streamer.twitch_id.clone()).collect(),
                random: StdRng::seed_from_u64(seed ^ (voter as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
                stop: Arc::clone(&stop),
                answered: Arc::clone(&answered),
            };
            tokio::spawn(async move { work.run().await })
        });
        let voters = voters.collect();
        Load { stop, answered, voters }
    }

    /// How many votes were taken so far.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more votes were taken.
    pub async fn goes_on(&self, votes: usize) {
        let goal = self.answered() + votes;
        super::eventually("votes are taken", async || self.answered() >= goal).await;
    }

    /// Lets each voter deliver its last vote and answers all of them.
    pub async fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut votes = Vec::new();
        for voter in self.voters {
            votes.extend(voter.await.expect("a voter does not panic"));
        }
        Outcome { votes }
    }
}

struct Voter {
    balancer: Balancer,
    twitches: Vec<Twitch>,
    broadcasters: Vec<String>,
    random: StdRng,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
}

impl Voter {
    async fn run(&mut self) -> Vec<Vote> {
        let mut votes = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let broadcaster = &self.broadcasters[self.random.random_range(0..self.broadcasters.len())];
            let chat = Chat::new(broadcaster, if self.random.random() { "yes" } else { "no" });
            let vote = self.deliver(chat).await;
            self.answered.fetch_add(usize::from(vote.answered()), Ordering::Relaxed);
            votes.push(vote);
            self.pause(PAUSE_MS).await;
        }
        votes
    }

    /// Delivers one message until it is taken, or nobody can expect it any more.
    async fn deliver(&mut self, chat: Chat) -> Vote {
        let deadline = Instant::now() + PATIENCE;
        let mut vote = Vote { chat, deliveries: Vec::new() };
        while !vote.answered() && Instant::now() < deadline {
            if !vote.deliveries.is_empty() {
                self.pause(AGAIN_MS).await;
            }
            let (place, _) = self.balancer.next();
            let began = Instant::now();
            let answer = self.twitches[place].try_post(&vote.chat.signed()).await;
            if answer.as_ref().is_err_and(reqwest::Error::is_connect) {
                self.balancer.failed(place);
            }
            let status = answer.ok().map(|answer| answer.status);
            vote.deliveries.push(Delivery { place, began, took: began.elapsed(), status });
        }
        vote
    }

    async fn pause(&mut self, range_ms: std::ops::RangeInclusive<u64>) {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(range_ms))).await;
    }
}

/// What voters have seen.
#[derive(Debug)]
pub struct Outcome {
    pub votes: Vec<Vote>,
}

impl Outcome {
    /// The message ids of the votes that were taken.
    pub fn answered(&self) -> HashSet<String> {
        self.votes.iter().filter(|vote| vote.answered()).map(|vote| vote.chat.message_id.clone()).collect()
    }

    /// The message ids of all votes.
    pub fn sent(&self) -> HashSet<String> {
        self.votes.iter().map(|vote| vote.chat.message_id.clone()).collect()
    }

    pub fn deliveries(&self) -> impl Iterator<Item = &Delivery> {
        self.votes.iter().flat_map(|vote| &vote.deliveries)
    }

    /// The answer that took longest, of those deliveries that `counts`.
    pub fn slowest(&self, counts: impl Fn(&Delivery) -> bool) -> Duration {
        let answered = self.deliveries().filter(|delivery| delivery.status.is_some() && counts(delivery));
        answered.map(|delivery| delivery.took).max().unwrap_or_default()
    }

    /// How often each status was answered; 0 stands for no answer.
    pub fn statuses(&self) -> BTreeMap<u16, usize> {
        let mut statuses = BTreeMap::new();
        for delivery in self.deliveries() {
            *statuses.entry(delivery.status.unwrap_or(0)).or_default() += 1;
        }
        statuses
    }
}
