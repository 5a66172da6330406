//! Breaking a rule on purpose makes seeds fail: the simulation would notice.

use super::first_failure;
use super::world::Rules;

/// Within so many seeds a broken rule has to show.
const SEEDS: u64 = 5_000;

fn assert_noticed(rules: Rules, said: &str) {
    let fails = |violations: &[String]| violations.iter().any(|violation| violation.contains(said));
    let noticed = first_failure(SEEDS, rules, fails);
    assert!(noticed.is_some(), "no seed of {SEEDS} shows that a rule is broken: {rules:?}");
}

#[test]
fn without_the_duplicate_check_votes_count_twice() {
    assert_noticed(Rules { duplicate_check: false, ..Rules::default() }, "times");
}

#[test]
fn without_the_check_of_leases_dead_instances_keep_sessions_alive() {
    assert_noticed(Rules { lapsed_leases_drop: false, ..Rules::default() }, "did not end");
}

#[test]
fn without_the_check_of_holds_watched_sessions_end() {
    assert_noticed(Rules { holds_count: false, ..Rules::default() }, "was ended while overlays watched it");
}

#[test]
fn without_epochs_overlays_stay_behind() {
    assert_noticed(Rules { epochs: false, ..Rules::default() }, "is behind");
}

#[test]
fn without_the_check_of_versions_the_mirror_goes_back() {
    assert_noticed(Rules { versions: false, ..Rules::default() }, "the mirror went back");
}

#[test]
fn without_ordinals_a_new_session_does_not_outrank_the_one_before() {
    assert_noticed(Rules { ordinals: false, ..Rules::default() }, "overlay");
}
