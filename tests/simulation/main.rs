//! A simulation of several instances: the real actors of `src/actors` on one thread with a virtual clock, over
//! servers in memory, with everything that chance decides drawn from one number, the seed. The same seed makes
//! the same run.
//!
//! A run has two to four instances, streamers with overlays and voting viewers, and a storm of faults:
//! messages that are lost, late, doubled; instances that crash, freeze, are cut off; servers that are away,
//! full, flushed, rolled back. Then the faults end, and after a while everything has to be as it should be:
//! [`invariants`] says what that is.
//!
//! - [`world`]: PostgreSQL, Redis and the queue in memory. Recorded calls are replayed on the real ones, and
//!   have to get the same answers ([`replay`]).
//! - [`network`]: the way to them, with its faults. [`ports`]: that way as the actors' ports.
//! - [`scenario`]: what happens in a run. [`overlay`]: what an overlay does and must not see.
//!
//! Not simulated: HTTP and WebSockets, the encoding of SQL and Redis commands, locks (each call is one
//! indivisible effect), threads, and real time. Tests with real servers are in `tests/it`.
//!
//! To run one seed with its log:
//! `CHATPULSE_SIM_SEED=123 cargo test --test simulation one_seed -- --nocapture`; to run more seeds than usual:
//! `CHATPULSE_SIM_SEEDS=100000 cargo test --test simulation many_seeds`.

mod invariants;
mod mutations;
mod network;
mod overlay;
mod ports;
mod replay;
mod scenario;
mod support;
mod world;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use world::Rules;

/// How many seeds are run, unless `CHATPULSE_SIM_SEEDS` says otherwise.
const SEEDS: u64 = 10_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

/// Runs seeds on all cores until one fails, and answers it with its violations.
fn first_failure(
    seeds: u64,
    rules: Rules,
    fails: impl Fn(&[String]) -> bool + Sync,
) -> Option<(u64, Vec<String>)> {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            let violations = scenario::run(seed, rules, false).violations;
            if fails(&violations) {
                stop.store(true, Ordering::Relaxed);
                return Some((seed, violations));
            }
        }
        None
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|worker| worker.join().expect("a run does not panic")).min()
    })
}

#[test]
fn many_seeds() {
    let seeds = number("CHATPULSE_SIM_SEEDS").unwrap_or(SEEDS);
    if let Some((seed, violations)) =
        first_failure(seeds, Rules::default(), |violations| !violations.is_empty())
    {
        panic!(
            "seed {seed} fails:\n  {}\nwith its log: CHATPULSE_SIM_SEED={seed} cargo test --test simulation \
             one_seed -- --nocapture",
            violations.join("\n  ")
        );
    }
}

#[test]
fn one_seed() {
    let seed = number("CHATPULSE_SIM_SEED").unwrap_or(1);
    let outcome = scenario::run(seed, Rules::default(), true);
    outcome.log.iter().for_each(|line| println!("{line}"));
    assert!(outcome.violations.is_empty(), "seed {seed} fails:\n  {}", outcome.violations.join("\n  "));
}

#[test]
fn a_seed_makes_the_same_run_each_time() {
    for seed in 0..20 {
        let run = || {
            let outcome = scenario::run(seed, Rules::default(), true);
            (outcome.log, outcome.trace)
        };
        let ((log, trace), (other_log, other_trace)) = (run(), run());
        let differs = log.iter().zip(&other_log).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(format!("{trace:?}"), format!("{other_trace:?}"), "seed {seed}");
    }
}

/// For work on the simulation: how many of the first seeds fail, and how.
#[test]
#[ignore = "a survey, not a test"]
fn survey() {
    let from = number("CHATPULSE_SIM_SEED").unwrap_or(0);
    for seed in from..from + number("CHATPULSE_SIM_SEEDS").unwrap_or(100) {
        let violations = scenario::run(seed, Rules::default(), false).violations;
        for violation in violations {
            println!("{seed}: {violation}");
        }
    }
}
