use proptest::prelude::*;

use super::super::config::Config;
use super::super::sentiment::Model;
use super::*;

const STREAMER: Uuid = Uuid::from_u128(7);
const START: Millis = Millis(1_763_700_000_000);

fn at(ms: i64) -> Millis {
    Millis(START.0 + ms)
}

fn vote(t: i64, side: Side) -> JournaledVote {
    JournaledVote { message_id: "m".into(), side, weight: 1.0, t: at(t), viewer: "v".into() }
}

fn cast(votes: &[JournaledVote]) -> Command {
    Command::CastVotes { votes: votes.to_vec() }
}

fn params() -> Params {
    Config::default().params
}

fn start() -> Command {
    let config = VersionedConfig { version: 3, config: Config::default() };
    Command::Start { streamer_id: STREAMER, ordinal: 2, config }
}

/// The state that `commands` lead to, each given at its milliseconds after the start.
fn given(commands: impl IntoIterator<Item = (Command, i64)>) -> Session {
    let mut state = None;
    for (command, ms) in std::iter::once((start(), 0)).chain(commands) {
        for event in decide(command, state.as_ref(), at(ms)).expect("the history is a possible one") {
            state = evolve(state, &event);
        }
    }
    state.expect("the session has been started")
}

fn only(events: Vec<Event>) -> Event {
    let [event] = <[Event; 1]>::try_from(events).expect("one event was expected");
    event
}

fn only_cast(events: Vec<Event>) -> VotesCast {
    match only(events) {
        Event::VotesCast(cast) => cast,
        other => panic!("VotesCast was expected, not {other:?}"),
    }
}

#[test]
fn a_session_starts_once_in_the_middle() {
    let session = given([]);
    assert_eq!((session.version, session.ordinal, session.config_version), (1, 2, 3));
    assert_eq!(session.mood, Mood { at: START, ..Mood::default() });
    assert_eq!(session.frame_version(), 2 * 4_294_967_296 + 1);
    assert_eq!(decide(start(), Some(&session), START), Err(Refusal::AlreadyStarted));
}

#[test]
fn nothing_happens_before_the_start() {
    for command in [cast(&[vote(0, Side::For)]), Command::Reset, Command::End] {
        assert_eq!(decide(command, None, START), Err(Refusal::NotStarted));
    }
    assert_eq!(evolve(None, &Event::Reset { at: START }), None);
}

#[test]
fn a_batch_is_one_event_with_the_value_and_totals_after_it() {
    let session = given([(cast(&[vote(0, Side::For)]), 0)]);
    let cast = only_cast(
        decide(cast(&[vote(900, Side::For), vote(1_000, Side::Against)]), Some(&session), at(1_000)).unwrap(),
    );
    let expected = 10.0 * (-1.0f64).exp() + 10.0 * ((-0.1f64).exp() - 1.0);
    assert!((cast.value - expected).abs() < 1e-12);
    assert_eq!((cast.at, cast.for_count, cast.against_count), (at(1_000), 2, 1));
}

#[test]
fn an_empty_batch_is_no_event() {
    assert_eq!(decide(cast(&[]), Some(&given([])), START), Ok(vec![]));
}

#[test]
fn a_vote_of_the_future_is_journaled_as_one_of_now() {
    let cast = only_cast(decide(cast(&[vote(5_000, Side::For)]), Some(&given([])), at(1_000)).unwrap());
    assert_eq!((cast.votes[0].t, cast.value), (at(1_000), 10.0));
}

#[test]
fn votes_before_a_reset_are_journaled_with_weight_0() {
    let session = given([(cast(&[vote(0, Side::For)]), 0), (Command::Reset, 1_000)]);
    assert_eq!(session.mood, Mood { at: at(1_000), ..Mood::default() });
    let cast = only_cast(
        decide(cast(&[vote(999, Side::For), vote(1_000, Side::Against)]), Some(&session), at(1_000)).unwrap(),
    );
    assert_eq!([cast.votes[0].weight, cast.votes[1].weight], [0.0, 1.0]);
    assert_eq!((cast.value, cast.for_count, cast.against_count), (-10.0, 0, 1));
}

#[test]
fn the_last_reset_decides() {
    let session = given([(Command::Reset, 1_000), (Command::Reset, 2_000)]);
    let cast = only_cast(decide(cast(&[vote(1_500, Side::For)]), Some(&session), at(2_500)).unwrap());
    assert_eq!((cast.votes[0].weight, cast.value), (0.0, 0.0));
}

#[test]
fn an_ended_session_refuses_everything() {
    let session = given([(Command::End, 1_000)]);
    assert_eq!(session.ended_at, Some(at(1_000)));
    let apply = Command::ApplyConfig { config_version: 9, params: params() };
    for command in [cast(&[vote(0, Side::For)]), apply, Command::Reset, Command::End] {
        assert_eq!(decide(command, Some(&session), at(2_000)), Err(Refusal::Ended));
    }
}

#[test]
fn votes_acknowledged_before_are_journaled_also_after_the_end() {
    let ended = given([(cast(&[vote(0, Side::For)]), 0), (Command::End, 1_000)]);
    let drained = Command::CastDrained { votes: vec![vote(900, Side::For)] };
    let events = decide(drained.clone(), Some(&ended), at(2_000)).unwrap();
    let session = evolve(Some(ended), &events[0]).unwrap();
    assert_eq!((session.version, session.mood.for_count, session.mood.at), (4, 2, at(2_000)));
    assert_eq!(session.ended_at, Some(at(1_000)));
    assert_eq!(only_cast(events).value, session.mood.value);
    let live = given([]);
    let votes = vec![vote(900, Side::For)];
    assert_eq!(decide(drained, Some(&live), at(2_000)), decide(cast(&votes), Some(&live), at(2_000)));
}

#[test]
fn a_new_config_goes_on_from_the_value_shown() {
    let session = given([(cast(&[vote(0, Side::For)]), 0)]);
    let faster = Params { decay_speed: 5.0, ..params() };
    let command = Command::ApplyConfig { config_version: 4, params: faster };
    let events = decide(command, Some(&session), at(2_000)).unwrap();
    let value = 10.0 * (-2.0f64).exp();
    assert_eq!(events, [Event::ConfigApplied { config_version: 4, params: faster, at: at(2_000), value }]);
    let session = evolve(Some(session), &events[0]).unwrap();
    assert_eq!((session.config_version, session.params), (4, faster));
    assert_eq!((session.mood.value, session.mood.at), (value, at(2_000)));
}

#[test]
fn a_window_after_decay_begins_empty() {
    let params = Params { model: Model::Window, ..params() };
    let apply = Command::ApplyConfig { config_version: 4, params };
    let session =
        given([(cast(&[vote(0, Side::For)]), 0), (apply, 100), (cast(&[vote(200, Side::Against)]), 200)]);
    assert_eq!(session.mood.value, -100.0);
    assert_eq!(session.mood.next_expiry(&params, at(200)), Some(at(30_000)));
}

#[test]
fn a_pause_and_its_end_go_on_from_the_value_shown() {
    let session = given([(cast(&[vote(0, Side::For)]), 0)]);
    let paused = evolve(Some(session.clone()), &Event::Paused { at: at(1_000) }).unwrap();
    assert_eq!((paused.version, paused.mood.at, paused.mood.for_count), (3, at(1_000), 1));
    assert!((paused.mood.value - 10.0 * (-1.0f64).exp()).abs() < 1e-12);
    let resumed = evolve(Some(paused), &Event::Resumed { at: at(2_000) }).unwrap();
    assert_eq!((resumed.version, resumed.mood.at), (4, at(2_000)));
    assert!((resumed.mood.value - 10.0 * (-2.0f64).exp()).abs() < 1e-12);
    assert_eq!(Session { mood: session.mood.clone(), version: 2, ..resumed }, session);
}

#[test]
fn votes_are_kept_out_from_a_pause_to_its_end_or_the_sessions() {
    let [pause, resume, end] =
        [Event::Paused { at: START }, Event::Resumed { at: START }, Event::Ended { at: START }];
    let after = |paused: bool, event: &&Event| is_paused_after(paused, event);
    let paused = |events: &[&Event]| events.iter().fold(false, after);
    let votes = only(decide(cast(&[vote(0, Side::For)]), Some(&given([])), START).unwrap());
    let started = only(decide(start(), None, START).unwrap());
    assert!(!paused(&[&started, &votes]));
    assert!(paused(&[&started, &pause, &votes, &Event::Reset { at: START }]));
    assert!(!paused(&[&started, &pause, &resume, &votes]));
    assert!(!paused(&[&started, &pause, &end]));
}

#[test]
fn after_votes_were_taken_back_the_state_is_what_the_event_says() {
    let session = given([(cast(&[vote(0, Side::For), vote(0, Side::Against)]), 0)]);
    let mood = Mood { at: at(500), value: 3.5, for_count: 1, ..Mood::default() };
    let retracted = VotesRetracted { messages: vec!["m".into()], viewers: vec![], mood: mood.clone() };
    let after = evolve(Some(session.clone()), &Event::VotesRetracted(retracted)).unwrap();
    assert_eq!(after, Session { version: 3, mood, ..session });
}

#[test]
fn a_config_that_is_applied_already_brings_about_nothing() {
    for config_version in [2, 3] {
        let command = Command::ApplyConfig { config_version, params: params() };
        assert_eq!(decide(command, Some(&given([])), at(1)), Ok(vec![]));
    }
}

#[test]
fn an_event_is_never_earlier_than_the_one_before() {
    let session = given([(cast(&[vote(0, Side::For)]), 5_000)]);
    assert_eq!(decide(Command::Reset, Some(&session), at(1_000)), Ok(vec![Event::Reset { at: at(5_000) }]));
    assert_eq!(decide(Command::End, Some(&session), at(1_000)), Ok(vec![Event::Ended { at: at(5_000) }]));
    let cast = only_cast(decide(cast(&[vote(9_000, Side::For)]), Some(&session), at(1_000)).unwrap());
    assert_eq!((cast.at, cast.votes[0].t), (at(5_000), at(5_000)));
}

fn any_command() -> impl Strategy<Value = Command> {
    let vote = (-500i64..60_000, any::<bool>())
        .prop_map(|(t, is_for)| vote(t, if is_for { Side::For } else { Side::Against }));
    let apply = (3i64..12, any::<bool>(), 0.1..=5.0f64).prop_map(|(config_version, window, decay_speed)| {
        let model = if window { Model::Window } else { Model::Decay };
        Command::ApplyConfig { config_version, params: Params { model, decay_speed, ..params() } }
    });
    prop_oneof![
        6 => prop::collection::vec(vote, 0..6).prop_map(|votes| Command::CastVotes { votes }),
        1 => apply,
        1 => Just(Command::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_an_event_says_is_what_folding_it_gives(
        commands in prop::collection::vec((any_command(), 0i64..60_000), 1..20),
    ) {
        let mut session = given([]);
        for (command, ms) in commands {
            for event in decide(command, Some(&session), at(ms)).unwrap() {
                let before = session.clone();
                session = evolve(Some(session), &event).unwrap();
                prop_assert_eq!(session.version, before.version + 1);
                prop_assert!(session.mood.at >= before.mood.at);
                match event {
                    Event::VotesCast(cast) => {
                        prop_assert_eq!(cast.value, session.mood.value);
                        prop_assert_eq!(cast.for_count, session.mood.for_count);
                        prop_assert_eq!(cast.against_count, session.mood.against_count);
                    }
                    Event::ConfigApplied { value, .. } => prop_assert_eq!(value, session.mood.value),
                    _ => prop_assert_eq!(session.mood.value, 0.0),
                }
            }
        }
    }
}
