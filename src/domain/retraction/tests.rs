use proptest::prelude::*;
use uuid::Uuid;

use super::super::config::{Config, VersionedConfig};
use super::super::sentiment::{Model, Side};
use super::super::session::{Command, Session, decide, evolve};
use super::*;

const START: Millis = Millis(1_763_700_000_000);
/// Numbers that have to agree differ by no more than this.
const TOLERANCE: f64 = 1e-9;

fn at(ms: i64) -> Millis {
    Millis(START.0 + ms)
}

fn vote(message_id: &str, viewer: &str, side: Side, ms: i64) -> JournaledVote {
    JournaledVote { message_id: message_id.into(), side, weight: 1.0, t: at(ms), viewer: viewer.into() }
}

/// A session's events as they come about, and its head.
struct History {
    events: Vec<Event>,
    head: Session,
}

impl History {
    fn begun(model: Model) -> History {
        let mut config = Config::default();
        config.params.model = model;
        let config = VersionedConfig { version: 1, config };
        let start = Command::Start { streamer_id: Uuid::nil(), ordinal: 1, config };
        let events = decide(start, None, START).unwrap();
        let head = evolve(None, &events[0]).unwrap();
        History { events, head }
    }

    fn note(&mut self, event: Event) {
        self.head = evolve(Some(self.head.clone()), &event).unwrap();
        self.events.push(event);
    }

    fn command(&mut self, command: Command, ms: i64) {
        for event in decide(command, Some(&self.head), at(ms)).unwrap() {
            self.note(event);
        }
    }

    fn cast(&mut self, votes: &[JournaledVote], ms: i64) {
        self.command(Command::CastVotes { votes: votes.to_vec() }, ms);
    }

    fn refold(&self, what: &Retract) -> Refold {
        let mut refold = Refold::new(what);
        self.events.iter().for_each(|event| refold.take(event));
        assert_eq!(refold.version(), self.head.version);
        refold
    }

    /// Takes votes back, as the journal does; answers how many.
    fn retract(&mut self, what: &Retract, ms: i64) -> usize {
        let mut refold = self.refold(what);
        if let Some(mut retracted) = refold.retracted() {
            retracted.mood.rebase(&self.head.params, &self.head.params, at(ms));
            self.note(Event::VotesRetracted(retracted));
        }
        refold.votes()
    }

    fn value(&self) -> f64 {
        self.head.mood.value
    }
}

fn messages(ids: &[&str]) -> Retract {
    Retract { messages: ids.iter().map(|id| (*id).to_owned()).collect(), ..Retract::default() }
}

/// All that the viewer has said.
fn viewer(viewer: &str) -> Retract {
    Retract::viewer(viewer.into(), Millis(i64::MAX))
}

fn viewer_until(viewer: &str, ms: i64) -> Retract {
    Retract::viewer(viewer.into(), at(ms))
}

fn assert_close(one: &Mood, other: &Mood) {
    assert!((one.value - other.value).abs() <= TOLERANCE, "{one:?}\n{other:?}");
    assert_eq!((one.at, one.for_count, one.against_count), (other.at, other.for_count, other.against_count));
    assert_eq!(one.seconds.len(), other.seconds.len(), "{one:?}\n{other:?}");
    for (one, other) in one.seconds.iter().zip(&other.seconds) {
        assert_eq!(one.second, other.second);
        assert!((one.for_weight - other.for_weight).abs() <= TOLERANCE);
        assert!((one.against_weight - other.against_weight).abs() <= TOLERANCE);
    }
}

#[test]
fn a_vote_that_is_taken_back_has_never_moved_anything() {
    let mut history = History::begun(Model::Decay);
    // Twice as many as the limit lets count.
    let crowd: Vec<_> = (0..20).map(|n| vote(&format!("m{n}"), "crowd", Side::For, 0)).collect();
    history.cast(&crowd, 0);
    history.cast(&[vote("a", "one", Side::For, 1_000), vote("b", "two", Side::Against, 1_000)], 1_000);
    assert_eq!(history.retract(&viewer("crowd"), 1_000), 20);
    assert_eq!((history.value(), history.head.mood.for_count, history.head.mood.against_count), (0.0, 1, 1));
    assert_eq!(history.retract(&messages(&["b"]), 2_000), 1);
    assert!((history.value() - 10.0 * (-1.0f64).exp()).abs() < 1e-12);
    assert_eq!((history.head.mood.at, history.head.mood.against_count), (at(2_000), 0));
}

#[test]
fn in_a_window_the_votes_that_are_left_share_it() {
    let mut history = History::begun(Model::Window);
    history.cast(&[vote("a", "one", Side::For, 0), vote("b", "two", Side::Against, 0)], 0);
    history.cast(&[vote("c", "one", Side::For, 1_000), vote("d", "three", Side::For, 1_000)], 1_000);
    assert_eq!(history.value(), 50.0);
    assert_eq!(history.retract(&viewer("one"), 2_000), 2);
    assert_eq!((history.value(), history.head.mood.seconds.len()), (0.0, 2));
    assert_eq!((history.head.mood.for_count, history.head.mood.against_count), (1, 1));
    history.retract(&messages(&["b"]), 2_000);
    assert_eq!((history.value(), history.head.mood.seconds.len()), (100.0, 1));
    assert_eq!(history.refold(&viewer("three")).mood().unwrap().seconds, []);
}

#[test]
fn what_is_not_there_is_not_taken_back() {
    let mut history = History::begun(Model::Decay);
    history.cast(&[vote("a", "one", Side::For, 0)], 0);
    let version = history.head.version;
    for what in [messages(&[]), messages(&["b", "one"]), viewer("a")] {
        assert_eq!(history.refold(&what).retracted(), None);
        assert_eq!(history.retract(&what, 1_000), 0);
    }
    assert_eq!(history.head.version, version);
    assert_eq!(Refold::new(&viewer("a")).mood(), None);
}

#[test]
fn the_event_names_the_messages_and_viewers_that_had_voted() {
    let mut history = History::begun(Model::Decay);
    history.cast(&[vote("a", "one", Side::For, 0), vote("b", "two", Side::For, 0)], 0);
    let named = history.refold(&messages(&["x", "b", "y", "a"])).retracted().unwrap();
    assert_eq!((named.messages, named.viewers), (vec!["a".to_owned(), "b".to_owned()], vec![]));
    let named = history.refold(&viewer_until("two", 7)).retracted().unwrap();
    assert_eq!((named.messages, named.viewers), (vec![], vec![("two".to_owned(), at(7))]));

    let mut many = messages(&["a", "x"]);
    many.add(viewer_until("two", 7));
    many.add(viewer_until("three", 7));
    let named = history.refold(&many).retracted().unwrap();
    assert_eq!((named.messages, named.viewers), (vec!["a".to_owned()], vec![("two".to_owned(), at(7))]));
}

#[test]
fn of_two_bans_of_one_viewer_the_later_one_counts() {
    let mut many = viewer_until("one", 5);
    many.add(viewer_until("two", 6));
    many.add(viewer_until("one", 9));
    many.add(viewer_until("one", 7));
    many.add(Retract::message("a".into()));
    many.add(Retract::message("a".into()));
    let viewers = [("one".to_owned(), at(9)), ("two".to_owned(), at(6))];
    assert_eq!(many, Retract { messages: ["a".to_owned()].into(), viewers: viewers.into() });
}

#[test]
fn what_came_before_a_reset_moves_nothing_and_is_not_taken_back() {
    let mut history = History::begun(Model::Decay);
    history.cast(&[vote("a", "one", Side::For, 0)], 0);
    history.command(Command::Reset, 1_000);
    // Cast before the reset, journaled after it: with weight 0.
    history.cast(&[vote("b", "one", Side::For, 500), vote("c", "two", Side::For, 1_000)], 1_000);
    assert_eq!(history.retract(&viewer("one"), 2_000), 0);
    assert_eq!(history.retract(&messages(&["a", "b"]), 2_000), 0);
    assert_eq!(history.retract(&messages(&["a", "c"]), 1_000), 1);
    assert_eq!((history.value(), history.head.mood.for_count), (0.0, 0));
}

#[test]
fn a_viewer_who_comes_back_votes_again() {
    let mut history = History::begun(Model::Decay);
    history.cast(&[vote("a", "one", Side::For, 0), vote("b", "two", Side::For, 0)], 0);
    history.retract(&viewer("one"), 0);
    history.cast(&[vote("c", "one", Side::For, 0)], 0);
    assert_eq!((history.value(), history.head.mood.for_count), (20.0, 2));
    assert_close(history.refold(&messages(&[])).mood().unwrap(), &history.head.mood);
    assert_eq!(history.retract(&viewer("one"), 0), 1);
    assert_eq!((history.value(), history.head.mood.for_count), (10.0, 1));
}

/// Folding all events gives the head, whatever was taken back.
fn assert_folds(history: &History) {
    assert_close(history.refold(&messages(&[])).mood().unwrap(), &history.head.mood);
}

#[test]
fn what_a_viewer_says_after_the_ban_counts_whenever_its_votes_are_taken_back() {
    let mut history = History::begun(Model::Decay);
    history.cast(&[vote("a", "one", Side::For, 0), vote("b", "two", Side::For, 0)], 0);
    history.cast(&[vote("c", "one", Side::For, 1_000), vote("d", "one", Side::Against, 1_001)], 2_000);
    assert_eq!(history.retract(&viewer_until("one", 1_000), 3_000), 2);
    assert_eq!((history.head.mood.for_count, history.head.mood.against_count), (1, 1));
    assert_folds(&history);
    assert_eq!(history.retract(&viewer_until("one", 1_000), 3_000), 0);
    assert_eq!(history.retract(&messages(&["d"]), 4_000), 1);
    assert_eq!((history.head.mood.for_count, history.head.mood.against_count), (1, 0));
    assert_folds(&history);
}

#[test]
fn what_was_on_its_way_at_the_ban_is_taken_back_by_a_second_look() {
    let mut history = History::begun(Model::Window);
    let ban = viewer_until("one", 1_000);
    history.cast(&[vote("a", "one", Side::For, 0), vote("b", "two", Side::Against, 0)], 0);
    assert_eq!(history.retract(&ban, 1_000), 1);
    history.cast(&[vote("c", "one", Side::For, 900), vote("d", "one", Side::Against, 1_500)], 2_000);
    assert_eq!(history.retract(&ban, 4_000), 1);
    assert_eq!((history.head.mood.for_count, history.head.mood.against_count), (0, 2));
    assert_folds(&history);
}

#[test]
fn a_second_look_for_an_earlier_ban_does_not_undo_a_later_one() {
    let mut history = History::begun(Model::Decay);
    history.cast(&[vote("a", "one", Side::For, 0), vote("b", "two", Side::For, 0)], 0);
    history.cast(&[vote("c", "one", Side::For, 4_000)], 4_000);
    assert_eq!(history.retract(&viewer_until("one", 5_000), 5_000), 2);
    history.cast(&[vote("d", "one", Side::For, 500)], 5_500);
    assert_eq!(history.retract(&viewer_until("one", 1_000), 6_000), 1);
    assert_eq!(history.head.mood.for_count, 1);
    assert_folds(&history);
}

#[test]
fn what_is_taken_back_together_is_one_event() {
    let mut history = History::begun(Model::Decay);
    history.cast(&[vote("a", "one", Side::For, 0), vote("b", "two", Side::For, 0)], 0);
    history.cast(&[vote("c", "three", Side::For, 0), vote("d", "three", Side::For, 2_000)], 2_000);
    let mut many = viewer("one");
    many.add(viewer_until("three", 1_000));
    many.add(messages(&["b", "c"]));
    let known = history.events.len();
    assert_eq!(history.retract(&many, 3_000), 3);
    assert_eq!((history.events.len(), history.head.mood.for_count), (known + 1, 1));
    assert_folds(&history);
}

#[test]
fn what_somebody_else_took_back_meanwhile_stays_taken_back() {
    let mut history = History::begun(Model::Decay);
    history.cast(&[vote("a", "one", Side::For, 0), vote("b", "two", Side::For, 0)], 0);
    history.cast(&[vote("c", "three", Side::For, 0)], 0);
    let mut ours = history.refold(&messages(&["a", "c"]));
    assert_eq!(ours.votes(), 2);
    let known = history.events.len();
    history.retract(&viewer("two"), 0);
    history.retract(&viewer("three"), 0);
    history.events[known..].iter().for_each(|event| ours.take(event));
    assert_eq!((ours.votes(), ours.retracted().unwrap().messages), (1, vec!["a".to_owned()]));
    assert_eq!((ours.mood().unwrap().value, ours.mood().unwrap().for_count), (0.0, 0));
}

#[test]
fn an_end_is_noticed_and_a_second_start_is_not() {
    let mut history = History::begun(Model::Decay);
    history.cast(&[vote("a", "one", Side::For, 0)], 0);
    history.note(history.events[0].clone());
    assert!(!history.refold(&viewer("one")).has_ended());
    history.command(Command::End, 1_000);
    let mut refold = history.refold(&viewer("two"));
    assert!(refold.has_ended());
    assert_eq!(refold.mood().unwrap().for_count, 1);
}

// Any history ------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Happening {
    Votes(Vec<(i64, bool, u8)>),
    Settings { window: bool, vote_delta: f64, decay_speed: f64 },
    Reset,
    Pause,
    Retraction(Selection),
}

/// Some messages, by their numbers, and viewers until some milliseconds after the start.
#[derive(Clone, Debug)]
struct Selection {
    messages: Vec<usize>,
    viewers: Vec<(u8, i64)>,
}

impl Selection {
    fn retract(&self) -> Retract {
        Retract {
            messages: self.messages.iter().map(|number| format!("m{number}")).collect(),
            viewers: self.viewers.iter().map(|(number, ms)| (format!("v{number}"), at(*ms))).collect(),
        }
    }
}

const VIEWERS: u8 = 4;

fn any_selection() -> impl Strategy<Value = Selection> {
    // A history takes 100 seconds at most, and mostly half of that.
    let viewer = || (0..VIEWERS, prop_oneof![-500i64..60_000, Just(1_000_000i64)]);
    prop_oneof![
        prop::collection::vec(0usize..60, 0..12)
            .prop_map(|messages| Selection { messages, viewers: Vec::new() }),
        viewer().prop_map(|viewer| Selection { messages: Vec::new(), viewers: vec![viewer] }),
        (prop::collection::vec(0usize..60, 0..6), prop::collection::vec(viewer(), 0..3))
            .prop_map(|(messages, viewers)| Selection { messages, viewers }),
    ]
}

fn any_happening() -> impl Strategy<Value = Happening> {
    let vote = (-500i64..5_000, any::<bool>(), 0..VIEWERS);
    let settings =
        (any::<bool>(), 1.0..=50.0f64, 0.1..=5.0f64).prop_map(|(window, vote_delta, decay_speed)| {
            Happening::Settings { window, vote_delta, decay_speed }
        });
    prop_oneof![
        8 => prop::collection::vec(vote, 0..8).prop_map(Happening::Votes),
        1 => settings,
        1 => Just(Happening::Reset),
        1 => Just(Happening::Pause),
        2 => any_selection().prop_map(Happening::Retraction),
    ]
}

fn any_happenings() -> impl Strategy<Value = Vec<(Happening, i64)>> {
    prop::collection::vec((any_happening(), 0i64..4_000), 1..25)
}

/// The history of what happens, each thing some milliseconds after the one before; messages are numbered.
fn lived(happenings: &[(Happening, i64)]) -> History {
    let mut history = History::begun(Model::Decay);
    let (mut now, mut message) = (0, 0);
    for (happening, later) in happenings {
        now += later;
        match happening {
            Happening::Votes(votes) => {
                let mut named = Vec::new();
                for (age, is_for, viewer) in votes {
                    let side = if *is_for { Side::For } else { Side::Against };
                    named.push(vote(&format!("m{message}"), &format!("v{viewer}"), side, now - age));
                    message += 1;
                }
                history.cast(&named, now);
            }
            Happening::Settings { window, vote_delta, decay_speed } => {
                let model = if *window { Model::Window } else { Model::Decay };
                let params = Params {
                    model,
                    vote_delta: *vote_delta,
                    decay_speed: *decay_speed,
                    ..history.head.params
                };
                let config_version = history.head.config_version + 1;
                history.command(Command::ApplyConfig { config_version, params }, now);
            }
            Happening::Reset => history.command(Command::Reset, now),
            Happening::Pause => {
                history.note(Event::Paused { at: at(now) });
                history.note(Event::Resumed { at: at(now + later) });
            }
            Happening::Retraction(selection) => {
                history.retract(&selection.retract(), now);
            }
        }
    }
    history
}

fn end_of(history: &History) -> i64 {
    history.head.mood.at.0 - START.0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn with_nothing_taken_back_the_fold_is_the_head(happenings in any_happenings()) {
        let history = lived(&happenings);
        let mut refold = history.refold(&messages(&[]));
        prop_assert_eq!(refold.votes(), 0);
        assert_close(refold.mood().unwrap(), &history.head.mood);
    }

    #[test]
    fn with_all_votes_taken_back_nothing_is_left(happenings in any_happenings()) {
        let mut history = lived(&happenings);
        let total = history.head.mood.for_count + history.head.mood.against_count;
        let end = end_of(&history);
        let viewers = (0..VIEWERS).map(|number| viewer(&format!("v{number}")));
        let taken: usize = viewers.map(|viewer| history.retract(&viewer, end)).sum();
        prop_assert_eq!(taken as i64, total);
        prop_assert_eq!(&history.head.mood, &Mood { at: at(end), ..Mood::default() });
    }

    #[test]
    fn taking_back_twice_is_taking_back_once(happenings in any_happenings(), selection in any_selection()) {
        let mut history = lived(&happenings);
        let end = end_of(&history);
        history.retract(&selection.retract(), end);
        let once = history.head.clone();
        prop_assert_eq!(history.retract(&selection.retract(), end), 0);
        prop_assert_eq!(&history.head, &once);
        assert_close(history.refold(&selection.retract()).mood().unwrap(), &once.mood);
    }

    #[test]
    fn the_order_of_taking_back_does_not_matter(
        happenings in any_happenings(), one in any_selection(), other in any_selection(),
        later in 0i64..3_000,
    ) {
        let after = |order: [&Selection; 2]| {
            let mut history = lived(&happenings);
            let then = end_of(&history) + later;
            let taken: usize = order.map(|what| history.retract(&what.retract(), then)).iter().sum();
            // Both have re-based the value then, or none has.
            history.command(Command::CastVotes { votes: vec![vote("last", "last", Side::For, then)] }, then);
            (taken, history.head.mood)
        };
        let ((taken, mood), (taken_again, mood_again)) = (after([&one, &other]), after([&other, &one]));
        prop_assert_eq!(taken, taken_again);
        assert_close(&mood, &mood_again);
    }

    #[test]
    fn votes_that_are_taken_back_might_as_well_not_have_been_cast(
        happenings in any_happenings(), selection in any_selection(),
    ) {
        let is_retraction = |happening: &Happening| matches!(happening, Happening::Retraction(_));
        let happenings: Vec<_> =
            happenings.into_iter().filter(|(happening, _)| !is_retraction(happening)).collect();
        let history = lived(&happenings);
        let what = selection.retract();
        let is_wanted = |vote: &JournaledVote| {
            what.messages.contains(&vote.message_id)
                || what.viewers.get(&vote.viewer).is_some_and(|until| vote.t <= *until)
        };
        // The same history without them, in which empty batches are events, too.
        let mut without = History::begun(Model::Decay);
        for event in &history.events[1..] {
            let mut event = event.clone();
            if let Event::VotesCast(cast) = &mut event {
                cast.votes.retain(|vote| !is_wanted(vote));
            }
            without.note(event);
        }
        assert_close(history.refold(&what).mood().unwrap(), &without.head.mood);
    }

    #[test]
    fn taking_back_together_is_taking_back_one_after_the_other(
        happenings in any_happenings(), one in any_selection(), other in any_selection(),
    ) {
        let (mut history, mut again) = (lived(&happenings), lived(&happenings));
        let end = end_of(&history);
        let mut both = one.retract();
        both.add(other.retract());
        let together = history.retract(&both, end);
        let taken = again.retract(&one.retract(), end) + again.retract(&other.retract(), end);
        prop_assert_eq!(together, taken);
        assert_close(&history.head.mood, &again.head.mood);
        assert_folds(&history);
        assert_folds(&again);
    }

    #[test]
    fn a_fold_from_the_last_reset_is_the_fold_of_all(
        happenings in any_happenings(), reset_ms in 0i64..2_000, rest in any_happenings(),
        selection in any_selection(),
    ) {
        let happenings: Vec<_> =
            happenings.into_iter().chain([(Happening::Reset, reset_ms)]).chain(rest).collect();
        let history = lived(&happenings);
        let is_reset = |event: &Event| matches!(event, Event::Reset { .. });
        let place = history.events.iter().rposition(is_reset).unwrap();
        let then = history.events[..=place].iter().fold(None, evolve).unwrap();
        let Event::Reset { at } = history.events[place] else { unreachable!() };
        let what = selection.retract();
        let mut late = Refold::since_reset(&what, then.version, then.params, at);
        history.events[place + 1..].iter().for_each(|event| late.take(event));
        let mut all = history.refold(&what);
        prop_assert_eq!((late.version(), late.votes()), (all.version(), all.votes()));
        assert_close(late.mood().unwrap(), all.mood().unwrap());
        let named = |refold: &mut Refold| refold.retracted().map(|told| (told.messages, told.viewers));
        prop_assert_eq!(named(&mut late), named(&mut all));
    }
}
