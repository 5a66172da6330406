use proptest::prelude::*;

use super::*;

const DECAY: Params = Params { model: Model::Decay, vote_delta: 10.0, decay_speed: 1.0, window_seconds: 30 };
const WINDOW: Params = Params { model: Model::Window, ..DECAY };

fn impulse(t: i64, side: Side) -> Impulse {
    Impulse { t: Millis(t), side, weight: 1.0 }
}

fn mood(params: &Params, votes: &[Impulse], now: i64) -> Mood {
    let mut mood = Mood::default();
    mood.apply(params, votes, Millis(now));
    mood
}

#[test]
fn the_decay_factor_is_cut_off_before_it_underflows() {
    assert_eq!(decay_factor(-1.0), 1.0);
    assert_eq!(decay_factor(0.0), 1.0);
    assert_eq!(decay_factor(1.0), (-1.0f64).exp());
    assert!(decay_factor(99.999) > 0.0);
    assert_eq!(decay_factor(100.0), 0.0);
    assert_eq!(decay_factor(f64::INFINITY), 0.0);
    assert_eq!(decay_factor(f64::NAN), 1.0);
}

#[test]
fn a_negligible_value_is_nothing() {
    assert_eq!(decayed(1e-8, 1.0, 3.0), 0.0);
    assert_eq!(decayed(-0.9e-9, 1.0, 0.0), 0.0);
    assert_eq!(decayed(1.1e-9, 1.0, 0.0), 1.1e-9);
}

#[test]
fn a_vote_that_waited_counts_as_much_as_it_still_would() {
    let waited = mood(&DECAY, &[impulse(1_000, Side::For)], 3_000);
    assert_eq!(waited.value, 10.0 * (-2.0f64).exp());
    let prompt = mood(&DECAY, &[impulse(1_000, Side::For)], 1_000);
    assert_eq!(prompt.value_at(&DECAY, Millis(3_000)), waited.value);
}

#[test]
fn a_vote_of_the_future_counts_as_one_of_now() {
    assert_eq!(mood(&DECAY, &[impulse(9_000, Side::Against)], 1_000).value, -10.0);
    assert_eq!(mood(&WINDOW, &[impulse(9_000, Side::Against)], 1_000).seconds[0].second, 1);
}

#[test]
fn a_batch_is_clamped_once() {
    let mut votes = vec![impulse(0, Side::For); 15];
    votes.extend([impulse(0, Side::Against); 5]);
    assert_eq!(mood(&DECAY, &votes, 0).value, 100.0);
    votes.extend([impulse(0, Side::Against); 25]);
    assert_eq!(mood(&DECAY, &votes, 0).value, -100.0);
}

#[test]
fn a_vote_of_weight_0_moves_nothing() {
    let vote = Impulse { weight: 0.0, ..impulse(0, Side::For) };
    for params in [DECAY, WINDOW] {
        assert_eq!(mood(&params, &[vote], 0), Mood::default());
    }
}

#[test]
fn a_window_is_the_balance_of_its_seconds() {
    let votes = [
        impulse(0, Side::For),
        impulse(999, Side::For),
        impulse(1_000, Side::For),
        impulse(1_000, Side::Against),
    ];
    let mood = mood(&WINDOW, &votes, 1_500);
    assert_eq!(mood.value, 50.0);
    assert_eq!(mood.shares_at(&WINDOW, Millis(1_500)), Shares { for_share: 0.75, against_share: 0.25 });
    assert_eq!(mood.seconds.len(), 2);
    assert_eq!((mood.for_count, mood.against_count), (3, 1));
}

#[test]
fn a_window_loses_its_seconds_one_by_one() {
    let mood = mood(&WINDOW, &[impulse(500, Side::For), impulse(2_500, Side::Against)], 2_500);
    assert_eq!(mood.next_expiry(&WINDOW, Millis(2_500)), Some(Millis(30_000)));
    assert_eq!(mood.value_at(&WINDOW, Millis(29_999)), 0.0);
    assert_eq!(mood.value_at(&WINDOW, Millis(30_000)), -100.0);
    assert_eq!(mood.next_expiry(&WINDOW, Millis(30_000)), Some(Millis(32_000)));
    assert_eq!(mood.value_at(&WINDOW, Millis(31_999)), -100.0);
    assert_eq!(mood.value_at(&WINDOW, Millis(32_000)), 0.0);
    assert_eq!(mood.shares_at(&WINDOW, Millis(32_000)), Shares { for_share: 0.0, against_share: 0.0 });
    assert_eq!(mood.next_expiry(&WINDOW, Millis(32_000)), None);
}

#[test]
fn an_expiry_is_never_earlier_than_the_last_event() {
    let mut mood = mood(&WINDOW, &[impulse(0, Side::For)], 0);
    mood.apply(&WINDOW, &[impulse(40_000, Side::For)], Millis(40_000));
    assert_eq!(mood.next_expiry(&WINDOW, Millis(0)), Some(Millis(70_000)));
}

#[test]
fn a_session_keeps_as_many_seconds_as_the_longest_window_has() {
    let mut mood = Mood::default();
    for second in 0..300 {
        mood.apply(&WINDOW, &[impulse(second * 1000, Side::For)], Millis(second * 1000));
    }
    assert_eq!(mood.seconds.len() as i64, WINDOW_SECONDS_MAX);
    assert_eq!((mood.seconds[0].second, mood.seconds[119].second), (180, 299));
}

#[test]
fn another_speed_goes_on_from_the_value_shown() {
    let slow = Params { decay_speed: 0.5, ..DECAY };
    let mut mood = mood(&DECAY, &[impulse(0, Side::For)], 0);
    mood.rebase(&DECAY, &slow, Millis(2_000));
    assert_eq!((mood.value, mood.at), (10.0 * (-2.0f64).exp(), Millis(2_000)));
}

#[test]
fn a_window_begins_empty_after_decay_and_decay_with_the_windows_balance() {
    let mut mood = mood(&DECAY, &[impulse(0, Side::For)], 0);
    mood.rebase(&DECAY, &WINDOW, Millis(1_000));
    assert_eq!(mood.value, 0.0);
    mood.apply(&WINDOW, &[impulse(1_000, Side::Against)], Millis(1_000));
    mood.rebase(&WINDOW, &DECAY, Millis(2_000));
    assert_eq!((mood.value, mood.seconds.len()), (-100.0, 0));
    assert_eq!((mood.for_count, mood.against_count), (1, 1));
}

#[test]
fn a_longer_window_takes_the_seconds_that_were_kept() {
    let short = Params { window_seconds: 5, ..WINDOW };
    let mut mood = mood(&short, &[impulse(0, Side::For)], 0);
    mood.apply(&short, &[impulse(10_000, Side::Against)], Millis(10_000));
    assert_eq!(mood.value, -100.0);
    mood.rebase(&short, &WINDOW, Millis(10_000));
    assert_eq!(mood.value, 0.0);
}

#[test]
fn a_reset_leaves_nothing_but_its_time() {
    let mut mood = mood(&WINDOW, &[impulse(0, Side::For)], 5_000);
    mood.reset(Millis(1_000));
    assert_eq!(mood, Mood { at: Millis(5_000), ..Mood::default() });
}

fn any_number() -> impl Strategy<Value = f64> {
    let usual = [0.0, -0.0, 1.0, -1.0, 10.0, 100.0, f64::MAX, f64::MIN_POSITIVE, f64::NAN, f64::INFINITY];
    prop_oneof![prop::num::f64::ANY, prop::sample::select(usual.to_vec()), -100.0..100.0]
}

fn any_time() -> impl Strategy<Value = Millis> {
    prop_oneof![any::<i64>(), 1_763_700_000_000i64..1_763_700_200_000].prop_map(Millis)
}

fn any_model() -> impl Strategy<Value = Model> {
    prop::sample::select(vec![Model::Decay, Model::Window])
}

fn any_params() -> impl Strategy<Value = Params> {
    let window_seconds = prop_oneof![any::<i64>(), 5i64..=120];
    (any_model(), any_number(), any_number(), window_seconds).prop_map(
        |(model, vote_delta, decay_speed, window_seconds)| Params {
            model,
            vote_delta,
            decay_speed,
            window_seconds,
        },
    )
}

fn good_params() -> impl Strategy<Value = Params> {
    (any_model(), 1.0..=50.0, 0.1..=5.0, 5i64..=120).prop_map(
        |(model, vote_delta, decay_speed, window_seconds)| Params {
            model,
            vote_delta,
            decay_speed,
            window_seconds,
        },
    )
}

fn any_side() -> impl Strategy<Value = Side> {
    prop::sample::select(vec![Side::For, Side::Against])
}

fn any_impulse() -> impl Strategy<Value = Impulse> {
    (any_time(), any_side(), any_number()).prop_map(|(t, side, weight)| Impulse { t, side, weight })
}

/// A mood as a broken row could hold it.
fn any_mood() -> impl Strategy<Value = Mood> {
    let tally = (prop_oneof![any::<i64>(), 1_763_700_000i64..1_763_700_200], any_number(), any_number())
        .prop_map(|(second, for_weight, against_weight)| SecondTally { second, for_weight, against_weight });
    (any_time(), any_number(), any::<i64>(), any::<i64>(), prop::collection::vec(tally, 0..5)).prop_map(
        |(at, value, for_count, against_count, seconds)| Mood {
            at,
            value,
            for_count,
            against_count,
            seconds,
        },
    )
}

/// Events of real votes, some of them late, by a clock that also steps back.
fn history() -> impl Strategy<Value = Vec<(Vec<(i64, Side)>, i64)>> {
    let votes = prop::collection::vec((-1_000i64..20_000, any_side()), 0..8);
    prop::collection::vec((votes, -2_000i64..40_000), 1..12)
}

/// The mood after `history`, and the clock's last time.
fn folded(params: &Params, history: &[(Vec<(i64, Side)>, i64)]) -> (Mood, Millis) {
    let (mut mood, mut now) = (Mood::default(), 1_763_700_000_000);
    for (votes, step) in history {
        now += step;
        let votes: Vec<Impulse> = votes.iter().map(|(age, side)| impulse(now - age, *side)).collect();
        mood.apply(params, &votes, Millis(now));
    }
    (mood, Millis(now))
}

fn is_in_bounds(value: f64) -> bool {
    (-LIMIT..=LIMIT).contains(&value)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn decay_does_not_depend_on_how_often_it_is_read(
        value in -100.0..=100.0f64,
        speed in 0.1..=5.0f64,
        steps in prop::collection::vec(0i64..5_000, 1..20),
    ) {
        let params = Params { decay_speed: speed, ..DECAY };
        let mut stepwise = Mood { value, ..Mood::default() };
        for step in &steps {
            let now = Millis(stepwise.at.0 + step);
            stepwise = Mood { value: stepwise.value_at(&params, now), at: now, ..stepwise };
        }
        let once = Mood { value, ..Mood::default() }.value_at(&params, stepwise.at);
        prop_assert!((stepwise.value - once).abs() <= 2e-9, "{} {once}", stepwise.value);
    }

    #[test]
    fn an_event_without_votes_moves_no_later_value(
        params in good_params(), history in history(), pause in 0i64..20_000, later in 0i64..20_000,
    ) {
        let (mood, _) = folded(&params, &history);
        let mut touched = mood.clone();
        touched.apply(&params, &[], Millis(mood.at.0 + pause));
        let then = Millis(mood.at.0 + pause + later);
        prop_assert!((touched.value_at(&params, then) - mood.value_at(&params, then)).abs() <= 2e-9);
    }

    #[test]
    fn a_window_expires_only_when_it_says_so(history in history(), wait in 0i64..130_000) {
        let (mood, _) = folded(&WINDOW, &history);
        let expiry = mood.next_expiry(&WINDOW, mood.at);
        let now = Millis(mood.at.0 + wait);
        if expiry.is_none_or(|expiry| now < expiry) {
            prop_assert_eq!(mood.value_at(&WINDOW, now), mood.value);
            prop_assert_eq!(mood.next_expiry(&WINDOW, now), expiry);
        } else {
            prop_assert_ne!(mood.next_expiry(&WINDOW, now), expiry);
        }
    }

    #[test]
    fn a_clock_that_steps_back_raises_no_magnitude(
        params in good_params(), history in history(), back in 0i64..1_000_000,
    ) {
        let (mood, _) = folded(&params, &history);
        let earlier = Millis(mood.at.0 - back);
        prop_assert_eq!(mood.value_at(&params, earlier), mood.value_at(&params, mood.at));
        prop_assert_eq!(mood.shares_at(&params, earlier), mood.shares_at(&params, mood.at));
        prop_assert!(mood.value_at(&params, earlier).abs() <= mood.value.abs());
        let mut touched = mood.clone();
        touched.apply(&params, &[], earlier);
        prop_assert_eq!(&touched, &mood);
        touched.rebase(&params, &params, earlier);
        prop_assert_eq!(&touched, &mood);
    }

    #[test]
    fn nothing_leads_out_of_bounds(
        mood in any_mood(),
        (old, new) in (any_params(), any_params()),
        votes in prop::collection::vec(any_impulse(), 0..6),
        (first, second) in (any_time(), any_time()),
    ) {
        let mut mood = mood;
        for now in [first, second] {
            prop_assert!(is_in_bounds(mood.value_at(&old, now)));
            let Shares { for_share, against_share } = mood.shares_at(&old, now);
            prop_assert!((0.0..=1.0).contains(&for_share) && (0.0..=1.0).contains(&against_share));
            mood.next_expiry(&old, now);
            mood.apply(&old, &votes, now);
            prop_assert!(is_in_bounds(mood.value));
            mood.rebase(&old, &new, now);
            prop_assert!(is_in_bounds(mood.value));
        }
    }
}
