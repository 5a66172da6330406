use serde_json::json;
use time::macros::datetime;

use super::*;
use crate::twitch::socket::{Closed, MessageKind};

const UTC: OffsetDateTime = datetime!(2026-01-02 03:04:05 UTC);
const SENT: &str = "2026-01-02T03:04:04.123456789Z";
const KEEPALIVE: &str = r#"{"metadata":{"message_type":"session_keepalive"},"payload":{}}"#;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn welcome_text(id: &str, keepalive: Option<u64>) -> String {
    let session = json!({"id": id, "status": "connected", "keepalive_timeout_seconds": keepalive});
    json!({"metadata": {"message_type": "session_welcome"}, "payload": {"session": session}}).to_string()
}

fn reconnect_text(url: &str) -> String {
    let session = json!({"id": "s1", "status": "reconnecting", "reconnect_url": url});
    json!({"metadata": {"message_type": "session_reconnect"}, "payload": {"session": session}}).to_string()
}

fn message_text(message_type: &str, id: &str, sent_at: &str) -> String {
    let metadata = json!({"message_type": message_type, "message_id": id, "message_timestamp": sent_at});
    json!({"metadata": metadata, "payload": {"event": id}}).to_string()
}

fn begun(now: Instant) -> Session {
    let (session, told) = Session::begin(&welcome_text("s1", Some(10)), seconds(30), now).unwrap();
    assert_eq!(told, Told::Welcome { session_id: "s1".into() });
    session
}

/// A session that has been asked to move.
fn moving(now: Instant) -> Session {
    let mut session = begun(now);
    let step = session.hear(Line::Current, &reconnect_text("ws://next"), now, UTC);
    assert_eq!(step, Step::Move { url: "ws://next".into() });
    session
}

/// The id of the message that the step tells.
fn told_id(step: Step) -> Option<String> {
    match step {
        Step::Tell(Told::Message { message_id, .. }) => Some(message_id),
        Step::Nothing => None,
        other => panic!("{other:?}"),
    }
}

fn notify(session: &mut Session, line: Line, id: &str) -> Option<String> {
    told_id(session.hear(line, &message_text("notification", id, SENT), Instant::now(), UTC))
}

#[test]
fn a_session_begins_with_a_welcome_and_nothing_else() {
    for first in [KEEPALIVE, "{}", "", r#"{"metadata":{"message_type":"session_new"}}"#] {
        let begun = Session::begin(first, seconds(30), Instant::now());
        assert!(matches!(begun, Err(Reason::NotWelcomed(_))), "{first}");
    }
}

#[test]
fn messages_are_told_with_their_payload() {
    let mut session = begun(Instant::now());
    let kinds = [("notification", MessageKind::Notification), ("revocation", MessageKind::Revocation)];
    for (message_type, kind) in kinds {
        let text = message_text(message_type, message_type, SENT);
        let told = Told::Message {
            kind,
            message_id: message_type.into(),
            sent_at: datetime!(2026-01-02 03:04:04.123456789 UTC),
            body: json!({"event": message_type}).to_string().into_bytes(),
        };
        assert_eq!(session.hear(Line::Current, &text, Instant::now(), UTC), Step::Tell(told));
    }
}

#[test]
fn a_message_that_comes_twice_is_told_once() {
    let mut session = begun(Instant::now());
    assert_eq!(notify(&mut session, Line::Current, "m1").as_deref(), Some("m1"));
    assert_eq!(notify(&mut session, Line::Current, "m1"), None);
    assert_eq!(notify(&mut session, Line::Current, "m2").as_deref(), Some("m2"));
}

#[test]
fn a_message_older_than_ten_minutes_is_dropped() {
    let mut session = begun(Instant::now());
    let mut hear = |id: &str, sent_at: &str| {
        let text = message_text("notification", id, sent_at);
        told_id(session.hear(Line::Current, &text, Instant::now(), UTC)).is_some()
    };
    assert!(hear("m1", "2026-01-02T02:54:05Z"));
    assert!(!hear("m2", "2026-01-02T02:54:04.999Z"));
    assert!(hear("m3", "2026-01-02T03:05:00Z"), "Twitch's clock may be ahead");
}

#[test]
fn messages_of_other_types_or_shapes_are_named_and_the_session_goes_on() {
    let mut session = begun(Instant::now());
    let party = message_text("party", "m1", SENT);
    for (text, name) in [(party.as_str(), "party"), ("{", "unreadable"), ("[1]", "unreadable")] {
        let step = session.hear(Line::Current, text, Instant::now(), UTC);
        assert_eq!(step, Step::Tell(Told::Unknown(name.into())));
    }
    assert!(notify(&mut session, Line::Current, "m1").is_some());
}

#[test]
fn a_session_is_dead_when_the_keepalive_of_its_welcome_has_passed_in_silence() {
    let start = Instant::now();
    let mut session = begun(start);
    let dead = start + seconds(13);
    assert_eq!(session.deadline(), Some(dead));
    assert_eq!(session.due(dead - Duration::from_millis(1)), Step::Nothing);
    assert_eq!(session.due(dead), Step::End(Reason::Silent));
}

#[test]
fn a_welcome_that_names_no_keepalive_gives_the_one_asked_for() {
    let start = Instant::now();
    let (session, _) = Session::begin(&welcome_text("s1", None), seconds(30), start).unwrap();
    assert_eq!(session.deadline(), Some(start + seconds(33)));
}

#[test]
fn every_message_prolongs_a_session() {
    let start = Instant::now();
    let mut session = begun(start);
    let message = message_text("notification", "m1", SENT);
    for (after, text) in [(5, KEEPALIVE), (9, message.as_str()), (12, "{")] {
        session.hear(Line::Current, text, start + seconds(after), UTC);
        assert_eq!(session.deadline(), Some(start + seconds(after + 13)));
    }
}

#[test]
fn what_nobody_read_was_no_silence() {
    let start = Instant::now();
    let mut session = begun(start);
    session.paused(seconds(60));
    assert_eq!(session.due(start + seconds(60)), Step::Nothing);
    assert_eq!(session.deadline(), Some(start + seconds(73)));
}

#[test]
fn a_session_ends_as_its_connection_does() {
    let reason = Reason::Closed(Closed::Unused);
    assert_eq!(begun(Instant::now()).lose(Line::Current, reason.clone()), Step::End(reason));
}

#[test]
fn a_session_moves_once_however_often_it_is_asked() {
    let mut session = moving(Instant::now());
    let again = session.hear(Line::Current, &reconnect_text("ws://other"), Instant::now(), UTC);
    assert_eq!(again, Step::Nothing);
}

#[test]
fn the_old_connection_tells_on_until_it_ends_and_nothing_is_told_twice() {
    let start = Instant::now();
    let mut session = moving(start);
    assert!(notify(&mut session, Line::Current, "m1").is_some());
    assert_eq!(session.moved(&welcome_text("s1", Some(20)), start), Step::Switch(None));
    assert!(notify(&mut session, Line::Leaving, "m2").is_some());
    assert!(notify(&mut session, Line::Current, "m2").is_none());
    assert!(notify(&mut session, Line::Leaving, "m1").is_none());
    assert!(notify(&mut session, Line::Current, "m3").is_some());
    let closed = Reason::Closed(Closed::Other(1000));
    assert_eq!(session.lose(Line::Leaving, closed), Step::HangUp(Line::Leaving));
}

#[test]
fn the_new_connections_keepalive_holds_after_a_move() {
    let start = Instant::now();
    let mut session = moving(start);
    session.moved(&welcome_text("s1", Some(20)), start + seconds(5));
    session.lose(Line::Leaving, Reason::Closed(Closed::Other(1000)));
    assert_eq!(session.deadline(), Some(start + seconds(28)));
    session.hear(Line::Leaving, KEEPALIVE, start + seconds(20), UTC);
    assert_eq!(session.deadline(), Some(start + seconds(28)), "the old connection's talk is no sign of life");
}

#[test]
fn an_old_connection_that_does_not_end_is_dropped() {
    let start = Instant::now();
    let mut session = moving(start);
    session.moved(&welcome_text("s1", Some(20)), start);
    assert_eq!(session.deadline(), Some(start + LEAVING_MAX));
    assert_eq!(session.due(start + LEAVING_MAX), Step::HangUp(Line::Leaving));
    assert_eq!(session.deadline(), Some(start + seconds(23)));
}

#[test]
fn a_move_that_gives_another_id_is_told() {
    let mut session = moving(Instant::now());
    let told = Told::Welcome { session_id: "s2".into() };
    assert_eq!(session.moved(&welcome_text("s2", Some(10)), Instant::now()), Step::Switch(Some(told)));
}

#[test]
fn a_session_that_can_not_move_goes_on_until_its_connection_ends() {
    for fail in [
        |session: &mut Session| session.move_failed(&Reason::NoWelcome),
        |session: &mut Session| session.moved(KEEPALIVE, Instant::now()),
    ] {
        let mut session = moving(Instant::now());
        assert_eq!(fail(&mut session), Step::Nothing);
        assert!(notify(&mut session, Line::Current, "m1").is_some());
        let reason = Reason::Closed(Closed::ReconnectTooLate);
        assert_eq!(session.lose(Line::Current, reason.clone()), Step::End(reason));
    }
}

#[test]
fn a_connection_that_ends_during_a_move_leaves_the_session_to_the_next_one() {
    let start = Instant::now();
    let mut session = moving(start);
    let reason = Reason::Closed(Closed::NetworkError);
    assert_eq!(session.lose(Line::Current, reason), Step::HangUp(Line::Current));
    assert_eq!(session.deadline(), None, "the move has a time limit of its own");
    assert_eq!(session.moved(&welcome_text("s1", Some(10)), start), Step::Switch(None));
    assert_eq!(session.deadline(), Some(start + seconds(13)), "no old connection is waited for");
}

#[test]
fn a_session_without_a_connection_ends_with_the_move() {
    let mut session = moving(Instant::now());
    let reason = Reason::Closed(Closed::NetworkError);
    session.lose(Line::Current, reason.clone());
    assert_eq!(session.move_failed(&Reason::NoWelcome), Step::End(reason));
}

#[test]
fn silence_during_a_move_ends_a_session_only_when_the_move_fails() {
    let start = Instant::now();
    let mut session = moving(start);
    let late = start + seconds(20);
    assert_eq!(session.due(late), Step::Nothing);
    session.move_failed(&Reason::NoWelcome);
    assert_eq!(session.due(late), Step::End(Reason::Silent));
}
