use super::*;

/// An event as the first release wrote it.
const REGISTERED_V1: &str = include_str!("../../../tests/fixtures/streamer_registered_v1.json");

#[test]
fn an_event_of_an_older_schema_version_is_brought_to_todays_shape() {
    let id = Uuid::now_v7();
    let data = serde_json::from_str(REGISTERED_V1).unwrap();
    let event = decode_streamer_event(id, "StreamerRegistered", 1, data).unwrap();
    let streamer::Event::Registered { profile, .. } = event else { panic!("{event:?}") };
    assert_eq!(profile.login, "streamer");
    assert_eq!(profile.display_name, "streamer");
}

#[test]
fn an_event_of_a_newer_schema_version_is_refused_with_its_version() {
    let error = decode_session_event("SessionEnded", 2, json!({ "at": 1 })).unwrap_err();
    assert!(error.to_string().contains("schema version 2"), "{error}");
}

#[test]
fn an_event_of_an_unknown_type_is_refused_by_name() {
    let error = decode_session_event("SessionPainted", 1, json!({})).unwrap_err();
    assert!(error.to_string().contains("SessionPainted"), "{error}");
}

#[test]
fn every_streamer_event_survives_the_journal() {
    let id = Uuid::now_v7();
    let profile = Profile {
        twitch_user_id: "1971641".into(),
        login: "streamer".into(),
        display_name: "Streamer ✨".into(),
    };
    let events = [
        streamer::Event::Registered { id, profile, overlay_uuid: Uuid::new_v4(), config: Config::default() },
        streamer::Event::ConfigChanged(VersionedConfig {
            version: 7,
            config: Config {
                params: Params { model: Model::Window, ..Config::default().params },
                display: Display::Split,
                ..Config::default()
            },
        }),
        streamer::Event::OverlayRotated { overlay_uuid: Uuid::new_v4() },
        streamer::Event::SubscriptionRequested { subscription_type: "channel.chat.message".into() },
        streamer::Event::SubscriptionConfirmed {
            subscription_type: "channel.chat.message".into(),
            subscription_id: "0b7f3361".into(),
            conduit_id: "3f1c2a87".into(),
        },
        streamer::Event::SubscriptionRevoked {
            subscription_type: "channel.chat.message".into(),
            subscription_id: "0b7f3361".into(),
            reason: "authorization_revoked".into(),
            recoverable: false,
        },
        streamer::Event::ProfileChanged { login: "other".into(), display_name: "Other ✨".into() },
        streamer::Event::RecordingChanged { recorded: true },
        streamer::Event::StreamWentLive(Stream { id: "9001".into(), started_at: Millis(1_763_700_000_000) }),
        streamer::Event::StreamEnded { stream_id: "9001".into() },
        streamer::Event::ChatHealthChanged {
            health: ChatHealth::Silent,
            reason: None,
            last_message_at: Some(Millis(1_763_700_000_123)),
        },
        streamer::Event::ChatHealthChanged {
            health: ChatHealth::Unauthorized,
            reason: Some("authorization_revoked".into()),
            last_message_at: None,
        },
        streamer::Event::Disabled,
        streamer::Event::Enabled,
    ];
    for event in events {
        let encoded = encode_streamer_event(&event);
        let decoded =
            decode_streamer_event(id, encoded.event_type, encoded.schema_version, encoded.data).unwrap();
        assert_eq!(decoded, event);
    }
}

#[test]
fn what_takes_votes_back_or_keeps_them_out_is_read() {
    use crate::domain::sentiment::{Mood, SecondTally};
    use crate::domain::session::{Event, VotesRetracted};
    use crate::domain::time::Millis;

    let data = json!({
        "messages": ["a"], "viewers": ["0f"], "at": 7, "value": -2.5, "for": 3, "against": 4,
        "seconds": [[5, 1, 0.5]],
    });
    let seconds = vec![SecondTally { second: 5, for_weight: 1.0, against_weight: 0.5 }];
    let mood = Mood { at: Millis(7), value: -2.5, for_count: 3, against_count: 4, seconds };
    let until = |until| VotesRetracted {
        messages: vec!["a".into()],
        viewers: vec![("0f".into(), until)],
        mood: mood.clone(),
    };
    let retracted = until(Millis(i64::MAX));
    let mut data_until = data.clone();
    data_until["until"] = json!([6]);
    let cases = [
        ("VotesRetracted", data_until, Event::VotesRetracted(until(Millis(6)))),
        ("VotesRetracted", data, Event::VotesRetracted(retracted)),
        ("VotingPaused", json!({ "at": 8 }), Event::Paused { at: Millis(8) }),
        ("VotingResumed", json!({ "at": 9 }), Event::Resumed { at: Millis(9) }),
    ];
    for (event_type, data, event) in cases {
        assert_eq!(decode_session_event(event_type, 1, data).unwrap(), event);
        assert!(decode_session_event(event_type, 1, json!({ "when": 1 })).is_err(), "{event_type}");
    }
}
