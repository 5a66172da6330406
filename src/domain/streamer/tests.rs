use super::*;

const ID: Uuid = Uuid::from_u128(1);
const OVERLAY: Uuid = Uuid::from_u128(2);

fn profile() -> Profile {
    Profile { twitch_user_id: "12345".into(), login: "ninja".into(), display_name: "にんじゃ".into() }
}

fn register() -> Command {
    Command::Register { id: ID, profile: profile(), overlay_uuid: OVERLAY, config: Config::default() }
}

fn change(edited_version: i64, for_label: &str) -> Command {
    Command::ChangeConfig {
        edited_version,
        config: Config { for_label: for_label.into(), ..Config::default() },
    }
}

/// The state that registering and then `commands` lead to.
fn given(commands: impl IntoIterator<Item = Command>) -> Streamer {
    let mut state = None;
    for command in std::iter::once(register()).chain(commands) {
        for event in decide(command, state.as_ref()).expect("the history is a possible one") {
            state = evolve(state, &event);
        }
    }
    state.expect("the streamer has been registered")
}

fn problem_fields(result: Result<Vec<Event>, Refusal>) -> Vec<&'static str> {
    match result {
        Err(Refusal::Invalid(problems)) => problems.iter().map(|problem| problem.field).collect(),
        other => panic!("problems were expected, not {other:?}"),
    }
}

#[test]
fn a_streamer_is_registered_once() {
    let streamer = given([]);
    assert_eq!((streamer.id, streamer.overlay_uuid, streamer.version), (ID, OVERLAY, 1));
    assert_eq!(streamer.config, VersionedConfig { version: 1, config: Config::default() });
    assert!(!streamer.disabled);
    assert_eq!(decide(register(), Some(&streamer)), Err(Refusal::AlreadyRegistered));
}

#[test]
fn nothing_happens_to_an_unknown_streamer() {
    for command in [change(1, "Aye"), Command::RotateOverlay { overlay_uuid: ID }, Command::Disable] {
        assert_eq!(decide(command, None), Err(Refusal::Unknown));
    }
    assert_eq!(evolve(None, &Event::Disabled), None);
}

#[test]
fn a_change_of_the_config_gets_the_next_version() {
    let streamer = given([change(1, "Aye"), change(2, "Sure")]);
    assert_eq!((streamer.version, streamer.config.version), (3, 3));
    assert_eq!(streamer.config.config.for_label, "Sure");
}

#[test]
fn a_change_of_a_config_that_moved_on_is_refused() {
    let streamer = given([change(1, "Aye")]);
    for edited_version in [0, 1, 3] {
        let refused = decide(change(edited_version, "Sure"), Some(&streamer));
        assert_eq!(refused, Err(Refusal::ConfigMovedOn { current: 2 }));
    }
}

#[test]
fn a_config_with_problems_is_refused_with_all_of_them() {
    let config = Config { for_triggers: vec!["NO".into()], for_label: "".into(), ..Config::default() };
    let changed = decide(Command::ChangeConfig { edited_version: 1, config }, Some(&given([])));
    assert_eq!(problem_fields(changed), ["against_triggers", "for_label"]);
}

#[test]
fn a_registration_with_problems_is_refused_with_all_of_them() {
    let profile =
        Profile { twitch_user_id: "1 2".into(), login: "x".repeat(101), display_name: "\u{200B}".into() };
    let config = Config { theme: "".into(), ..Config::default() };
    let refused = decide(Command::Register { id: ID, profile, overlay_uuid: OVERLAY, config }, None);
    assert_eq!(problem_fields(refused), ["twitch_user_id", "login", "display_name", "theme"]);
}

#[test]
fn a_twitch_user_id_is_any_short_opaque_word() {
    let problems = |id: &str| Profile { twitch_user_id: id.into(), ..profile() }.problems().len();
    for good in ["1", "abc_DEF-9", &"9".repeat(64)] {
        assert_eq!(problems(good), 0, "{good}");
    }
    for wrong in ["", " ", "1\0", "ä", "a/b", "a:b", &"9".repeat(65)] {
        assert_eq!(problems(wrong), 1, "{wrong}");
    }
}

#[test]
fn a_rotated_overlay_has_the_new_secret() {
    let new = Uuid::from_u128(3);
    assert_eq!(given([Command::RotateOverlay { overlay_uuid: new }]).overlay_uuid, new);
}

#[test]
fn names_follow_those_on_twitch() {
    let named = |login: &str| Command::ChangeProfile { login: login.into(), display_name: "Ada ✨".into() };
    let profile = given([named("ada_new")]).profile;
    assert_eq!((profile.login.as_str(), profile.display_name.as_str()), ("ada_new", "Ada ✨"));
    let refused = decide(named(" "), Some(&given([]))).unwrap_err();
    assert!(matches!(&refused, Refusal::Invalid(problems) if problems[0].field == "login"), "{refused}");
}

#[test]
fn disabling_and_enabling_twice_is_one_event_each() {
    let disabled = given([Command::Disable]);
    assert!(disabled.disabled);
    assert_eq!(decide(Command::Disable, Some(&disabled)), Ok(vec![]));
    let enabled = given([Command::Disable, Command::Enable]);
    assert_eq!((enabled.disabled, enabled.version), (false, 3));
    assert_eq!(decide(Command::Enable, Some(&enabled)), Ok(vec![]));
}

#[test]
fn an_event_that_changes_nothing_here_counts_its_version() {
    let requested = Event::SubscriptionRequested { subscription_type: "channel.chat.message".into() };
    let streamer = evolve(Some(given([])), &requested).unwrap();
    assert_eq!(streamer, Streamer { version: 2, ..given([]) });
}
