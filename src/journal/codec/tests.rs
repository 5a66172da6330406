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
