//! What the directory knows, and what it does not let itself be told.

use super::*;
use crate::domain::config::Config;
use crate::domain::holders::Holders;
use crate::domain::session::{self, Command};
use crate::domain::streamer::{Profile, Streamer};
use crate::domain::time::Millis;
use crate::journal::sessions::{DirectoryCursor, LiveSession};

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
    let holders = Holders { streamer_id: id, ordinal, version: 1, ids: Vec::new(), unheld_since: None };
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

/// A streamer's first session, whose stream has `session_version`.
fn first_session(id: Uuid, session_version: i64, paused: bool) -> Entry {
    let mut entry = entry(id, 1, 1, true);
    if let Some(live) = &mut entry.live {
        (live.paused, live.head.version) = (paused, session_version);
    }
    entry
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
    let is_paused = || directory.by_streamer(id).unwrap().paused;
    directory.adopt(&first_session(id, 1, false));
    assert!(!is_paused());
    directory.adopt(&first_session(id, 3, true));
    assert!(is_paused());
    directory.adopt(&first_session(id, 2, false));
    assert!(is_paused(), "read before the pause");
    assert_eq!(directory.digest().paused, 1);
    directory.adopt(&first_session(id, 4, false));
    assert!(!is_paused());
    directory.adopt(&first_session(id, 5, true));
    directory.adopt(&entry(id, 1, 2, true));
    assert!(!is_paused(), "another session, whose stream is short");
}

/// What the journal's comparison says of the first session.
fn versions(id: Uuid, paused: bool) -> LiveVersions {
    let changed = DirectoryCursor::at(1);
    LiveVersions { streamer_id: id, streamer_version: 1, config_version: 1, ordinal: 1, paused, changed }
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_has_just_become_known_is_no_disagreement() {
    let (directory, id) = (directory(), Uuid::now_v7());
    directory.adopt(&first_session(id, 1, false));
    tokio::time::advance(ANSWERED).await;
    assert!(directory.is_behind(&versions(id, true)), "the feed has not told of it");
    directory.adopt(&first_session(id, 2, true));
    assert!(!directory.is_behind(&versions(id, false)), "asked before the pause");
    tokio::time::advance(ANSWERED).await;
    assert!(directory.is_behind(&versions(id, false)));
    assert!(!directory.is_behind(&versions(id, true)));
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_a_server_lost_with_its_newest_events_is_undone_once_nothing_older_can_come() {
    let (directory, id) = (directory(), Uuid::now_v7());
    let is_paused = || directory.by_streamer(id).unwrap().paused;
    directory.adopt(&first_session(id, 7, true));
    directory.adopt(&first_session(id, 6, false));
    assert!(is_paused(), "read before the pause");
    tokio::time::advance(ANSWERED).await;
    directory.adopt(&first_session(id, 6, true));
    assert_eq!(directory.by_streamer(id).unwrap().session_version, 7, "it says nothing else");
    directory.adopt(&first_session(id, 5, false));
    assert!(!is_paused(), "the journal has another history now");
    directory.adopt(&first_session(id, 6, true));
    assert!(is_paused(), "whose versions count from now on");
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
