//! What the directory knows, and what it does not let itself be told.

use super::*;
use crate::domain::config::Config;
use crate::domain::holders::Holders;
use crate::domain::session::{self, Command};
use crate::domain::streamer::{Profile, Streamer};
use crate::domain::time::Millis;
use crate::journal::sessions::LiveSession;

fn directory() -> Directory {
    Directory::new(Arc::new(Metrics::new().unwrap()))
}

/// A streamer whose stream has `version`, and whose newest session, live or not, has `ordinal`.
fn entry(id: Uuid, version: i64, ordinal: i64, live: bool) -> Entry {
    let config = VersionedConfig { version: 1, config: Config::default() };
    let start = Command::Start { streamer_id: id, ordinal, config: config.clone() };
    let events = session::decide(start, None, Millis(0)).unwrap();
    let head = session::evolve(None, &events[0]).unwrap();
    let session_id = Uuid::from_u128(ordinal as u128);
    let holders = Holders { streamer_id: id, ordinal, version: 1, instances: Vec::new(), unheld_since: None };
    Entry {
        streamer: Streamer {
            id,
            version,
            profile: Profile {
                twitch_user_id: id.simple().to_string(),
                login: "streamer".into(),
                display_name: "Streamer".into(),
            },
            overlay_uuid: Uuid::from_u128(version as u128),
            disabled: false,
            config,
        },
        last_ordinal: ordinal,
        live: live.then_some(LiveSession { session_id, key: [7; 32], holders, paused: false, head }),
    }
}

#[test]
fn a_live_session_is_found_by_broadcaster_streamer_and_overlay() {
    let (directory, id) = (directory(), Uuid::now_v7());
    directory.adopt(&entry(id, 1, 1, true));
    assert!(directory.by_broadcaster(&id.simple().to_string()).is_some());
    assert!(directory.by_streamer(id).is_some());
    assert_eq!(directory.streamer_of_overlay(Uuid::from_u128(1)), Some(id));
}

#[test]
fn a_rotated_url_is_not_brought_back_by_what_was_read_before() {
    let (directory, id) = (directory(), Uuid::now_v7());
    directory.adopt(&entry(id, 2, 1, true));
    directory.adopt(&entry(id, 1, 1, true));
    assert_eq!(directory.streamer_of_overlay(Uuid::from_u128(1)), None);
    assert_eq!(directory.streamer_of_overlay(Uuid::from_u128(2)), Some(id));
}

#[test]
fn an_ended_session_is_not_brought_back_but_the_next_one_is_taken() {
    let (directory, id) = (directory(), Uuid::now_v7());
    directory.adopt(&entry(id, 1, 1, true));
    directory.adopt(&entry(id, 1, 1, false));
    assert!(directory.by_streamer(id).is_none());
    directory.adopt(&entry(id, 1, 1, true));
    assert!(directory.by_streamer(id).is_none(), "read before the end");
    directory.adopt(&entry(id, 1, 2, true));
    assert_eq!(directory.by_streamer(id).unwrap().ordinal, 2);
}

#[test]
fn a_session_just_started_is_not_ended_by_what_was_read_before() {
    let (directory, id) = (directory(), Uuid::now_v7());
    directory.adopt(&entry(id, 1, 1, true));
    directory.adopt(&entry(id, 1, 0, false));
    assert!(directory.by_streamer(id).is_some());
}

#[test]
fn a_pause_is_known_until_its_end_and_not_undone_by_what_was_read_before() {
    let (directory, id) = (directory(), Uuid::now_v7());
    let read = |session_version: i64, paused: bool| {
        let mut read = entry(id, 1, 1, true);
        let live = read.live.as_mut().unwrap();
        (live.paused, live.head.version) = (paused, session_version);
        read
    };
    let is_paused = || directory.by_streamer(id).unwrap().paused;
    directory.adopt(&read(1, false));
    assert!(!is_paused());
    directory.adopt(&read(3, true));
    assert!(is_paused());
    directory.adopt(&read(2, false));
    assert!(is_paused(), "read before the pause");
    assert_eq!(directory.digest().paused, 1);
    directory.adopt(&read(4, false));
    assert!(!is_paused());
    directory.adopt(&read(5, true));
    directory.adopt(&entry(id, 1, 2, true));
    assert!(!is_paused(), "another session, whose stream is short");
}

#[test]
fn a_viewer_has_one_hash_in_a_session_that_does_not_tell_who_it_is() {
    let live = LiveEntry::of(&entry(Uuid::now_v7(), 1, 1, true)).unwrap();
    assert_eq!(live.viewer_hash("4145994"), live.viewer_hash("4145994"));
    assert_ne!(live.viewer_hash("4145994"), live.viewer_hash("4145995"));
    assert_eq!(live.viewer_hash("4145994").len(), 32);
    assert!(!live.viewer_hash("4145994").contains("4145994"));
}

#[test]
fn votes_that_wait_have_a_bound_and_give_their_place_back() {
    let directory = directory();
    let first = directory.wait_for_vote(1);
    assert!(first.is_some() && directory.wait_for_vote(1).is_none());
    drop(first);
    assert!(directory.wait_for_vote(1).is_some());
}
