use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

/// The regular example of Twitch's documentation, verbatim.
const REGULAR: &str = r##"{"subscription":{"id":"0b7f3361-672b-4d39-b307-dd5b576c9b27","status":"enabled","type":"channel.chat.message","version":"1","condition":{"broadcaster_user_id":"1971641","user_id":"2914196"},"transport":{"method":"websocket","session_id":"AgoQHR3s6Mb4T8GFB1l3DlPfiRIGY2VsbC1h"},"created_at":"2023-11-06T18:11:47.492253549Z","cost":0},
 "event":{"broadcaster_user_id":"1971641","broadcaster_user_login":"streamer","broadcaster_user_name":"streamer","chatter_user_id":"4145994","chatter_user_login":"viewer32","chatter_user_name":"viewer32","message_id":"cc106a89-1814-919d-454c-f4f2f970aae7",
  "message":{"text":"Hi chat","fragments":[{"type":"text","text":"Hi chat","cheermote":null,"emote":null,"mention":null}]},
  "color":"#00FF7F","badges":[{"set_id":"moderator","id":"1","info":""},{"set_id":"subscriber","id":"12","info":"16"},{"set_id":"sub-gifter","id":"1","info":""}],
  "message_type":"text","cheer":null,"reply":null,"channel_points_custom_reward_id":null,
  "source_broadcaster_user_id":null,"source_broadcaster_user_login":null,"source_broadcaster_user_name":null,"source_message_id":null,"source_badges":null}}"##;
const WEBHOOK_CHALLENGE: &str = r#"{"challenge":"pogchamp-kappa-360noscope-vohiyo","subscription":{"id":"f1c2a387-161a-49f9-a165-0f21d7a4e1c4","status":"webhook_callback_verification_pending","type":"channel.follow","version":"1","cost":1,"condition":{"broadcaster_user_id":"12826"},"transport":{"method":"webhook","callback":"https://example.com/webhooks/callback"},"created_at":"2019-11-16T10:11:12.634234626Z"}}"#;
const CONDUIT_CHALLENGE: &str = r#"{"challenge":"pogchamp-kappa-360noscope-vohiyo","conduit_shard":{"conduit_id":"3f1c2a87-161a-49f9-a165-0f21d7a4e1c4","shard":"42"}}"#;
const REVOCATION: &str = r#"{"subscription":{"id":"f1c2a387-161a-49f9-a165-0f21d7a4e1c4","status":"authorization_revoked","type":"channel.follow","cost":1,"version":"1","condition":{"broadcaster_user_id":"12826"},"transport":{"method":"conduit","conduit_id":"3f1c2a87-161a-49f9-a165-0f21d7a4e1c4"},"created_at":"2019-11-16T10:11:12.634234626Z"}}"#;
const STREAM_ONLINE: &str = r#"{"subscription":{"id":"f1c2a387-161a-49f9-a165-0f21d7a4e1c4","type":"stream.online","version":"1","status":"enabled","cost":0,"condition":{"broadcaster_user_id":"1337"},"transport":{"method":"webhook","callback":"https://example.com/webhooks/callback"},"created_at":"2019-11-16T10:11:12.634234626Z"},"event":{"id":"9001","broadcaster_user_id":"1337","broadcaster_user_login":"cool_user","broadcaster_user_name":"Cool_User","type":"live","started_at":"2020-10-11T10:11:12.123Z"}}"#;

fn notification(body: &[u8]) -> Result<Message<'_>, ShapeError> {
    parse_body(MessageType::Notification, body)
}

fn chat(body: &str) -> ChatMessage<'_> {
    match notification(body.as_bytes()) {
        Ok(Message::ChatMessage(message)) => message,
        other => panic!("no chat message: {other:?}"),
    }
}

/// The regular example with its event changed by `change`.
fn with_event(change: impl FnOnce(&mut Value)) -> String {
    let mut body: Value = serde_json::from_str(REGULAR).unwrap();
    change(&mut body["event"]);
    body.to_string()
}

fn with_message(message: Value) -> String {
    with_event(|event| event["message"] = message)
}

/// Whether `text` lies within `body`, not in a copy.
fn is_borrowed(body: &str, text: &str) -> bool {
    body.as_bytes().as_ptr_range().contains(&text.as_ptr())
}

#[test]
fn the_documented_chat_message_is_read_without_copying() {
    let body = REGULAR; // A constant named twice may stand in two places.
    let message = chat(body);
    assert_eq!(message.broadcaster_user_id, "1971641");
    assert_eq!(message.chatter_user_id, "4145994");
    assert_eq!(message.message_id, "cc106a89-1814-919d-454c-f4f2f970aae7");
    assert_eq!(message.text, "Hi chat");
    assert_eq!(message.source_broadcaster_user_id, None);
    assert_eq!(message.fragments(), [Fragment { kind: FragmentKind::Text, text: "Hi chat" }]);
    let mut texts =
        vec![&*message.broadcaster_user_id, &*message.chatter_user_id, &*message.message_id, &*message.text];
    let fragments = message.fragments();
    texts.extend(fragments.iter().map(|fragment| fragment.text));
    assert!(texts.into_iter().all(|text| is_borrowed(body, text)));
}

#[test]
fn a_shared_chat_message_tells_its_source() {
    let body = with_event(|event| {
        event["source_broadcaster_user_id"] = json!("112233");
        event["source_broadcaster_user_login"] = json!("streamer33");
        event["source_broadcaster_user_name"] = json!("streamer33");
        event["source_message_id"] = json!("e03f6d5d-8ec8-4c63-b473-9e5fe61e289b");
        event["source_badges"] = json!([{"set_id":"subscriber","id":"3","info":"3"}]);
        event["is_source_only"] = json!(true);
    });
    assert_eq!(chat(&body).source_broadcaster_user_id.as_deref(), Some("112233"));
}

#[test]
fn fragments_keep_their_order_and_kind() {
    let body = with_message(json!({"text":"RAID TombRaid Cheer100 @viewer", "fragments":[
        {"type":"text","text":"RAID ","cheermote":null,"emote":null,"mention":null},
        {"type":"emote","text":"TombRaid","cheermote":null,"emote":{"id":"864205","emote_set_id":"0","owner_id":"0","format":["static"]},"mention":null},
        {"type":"text","text":" "},
        {"type":"cheermote","text":"Cheer100","cheermote":{"prefix":"cheer","bits":100,"tier":100},"emote":null,"mention":null},
        {"type":"mention","text":"@viewer","cheermote":null,"emote":null,"mention":{"user_id":"1","user_name":"Viewer","user_login":"viewer"}},
        {"type":"hologram","text":"new in 2030","hologram":{"depth":3}},
    ]}));
    let message = chat(&body);
    let expected = [
        (FragmentKind::Text, "RAID "),
        (FragmentKind::Emote, "TombRaid"),
        (FragmentKind::Text, " "),
        (FragmentKind::Other, "Cheer100"),
        (FragmentKind::Other, "@viewer"),
        (FragmentKind::Other, "new in 2030"),
    ]
    .map(|(kind, text)| Fragment { kind, text });
    assert_eq!(message.fragments(), expected);
}

#[test]
fn gifs_are_read_in_both_forms_also_with_an_empty_text() {
    for gif in [
        json!({"gif_id":"joSNxeswxuc74Juo8X","url":"https://media4.giphy.com/media/j/giphy.gif"}),
        json!({"id":"joSNxeswxuc74Juo8X","url":"https://media4.giphy.com/media/j/giphy.gif"}),
        Value::Null,
    ] {
        let body =
            with_message(json!({"text":"", "fragments":[{"type":"gif","text":"[Yes GIF]","gif":gif}]}));
        let message = chat(&body);
        assert_eq!(message.text, "");
        assert_eq!(message.fragments(), [Fragment { kind: FragmentKind::Other, text: "[Yes GIF]" }]);
    }
}

#[test]
fn a_reply_and_a_cheer_change_nothing_that_is_read() {
    let body = with_event(|event| {
        event["reply"] = json!({"parent_message_id":"a","parent_message_body":"b","parent_user_id":"1","parent_user_name":"N","parent_user_login":"n","thread_message_id":"a","thread_user_id":"1","thread_user_name":"N","thread_user_login":"n"});
        event["cheer"] = json!({"bits":100});
        event["channel_points_custom_reward_id"] = json!("c0ffee");
    });
    assert_eq!(chat(&body), chat(&with_event(|_| {})));
}

#[test]
fn every_message_type_is_accepted() {
    for message_type in [
        "text",
        "channel_points_highlighted",
        "channel_points_sub_only",
        "user_intro",
        "power_ups_message_effect",
        "power_ups_gigantified_emote",
        "new_in_2030",
    ] {
        let body = with_event(|event| event["message_type"] = json!(message_type));
        assert_eq!(chat(&body), chat(&with_event(|_| {})), "{message_type}");
    }
}

#[test]
fn only_what_is_needed_must_be_there() {
    let body = r#"{"event":{"message_id":"m","chatter_user_id":"2","broadcaster_user_id":"1","message":{}},
                   "subscription":{"type":"channel.chat.message"}}"#;
    let message = chat(body);
    assert_eq!((message.text.as_ref(), message.fragments().len()), ("", 0));
    let nulls = body.replace("{}", r#"{"text":null,"fragments":null}"#);
    assert_eq!(chat(&nulls), message);
    let null_fragment = body.replace("{}", r#"{"fragments":[{"type":null,"text":null},{}]}"#);
    let nothing = Fragment { kind: FragmentKind::Other, text: "" };
    assert_eq!(chat(&null_fragment).fragments(), [nothing, nothing]);
}

#[test]
fn unknown_fields_and_statuses_are_accepted() {
    let mut body: Value = serde_json::from_str(REGULAR).unwrap();
    body["new"] = json!([[{"deep":[1, null, 2.5e300, true]}]]);
    body["event"]["new"] = json!({"a":{"b":[]}});
    body["event"]["message"]["new"] = json!("x");
    body["subscription"]["status"] = json!("new_in_2030");
    body["subscription"]["condition"] = Value::Null;
    assert_eq!(chat(&body.to_string()), chat(&with_event(|_| {})));
}

#[test]
fn escapes_and_500_characters_are_read_whole() {
    let text = "\"ä\\\u{1F600}\u{E0000}\n".repeat(100).chars().take(500).collect::<String>();
    let body = with_message(json!({"text":text, "fragments":[{"type":"text","text":text}]}));
    let message = chat(&body);
    assert_eq!(message.text, text);
    assert_eq!(message.fragments()[0].text, text);
    let escaped = REGULAR.replace("Hi chat", r"\u0048\u0069 \ud83d\ude00");
    assert_eq!(chat(&escaped).text, "Hi \u{1F600}");
}

#[test]
fn ids_that_the_journal_would_not_take_are_a_wrong_shape() {
    for field in ["message_id", "chatter_user_id", "broadcaster_user_id", "source_broadcaster_user_id"] {
        for bad in ["", "a\u{0}b", "a\nb", "\u{85}", &"x".repeat(65)] {
            let body = with_event(|event| event[field] = json!(bad));
            let verdict = notification(body.as_bytes());
            assert!(matches!(verdict, Err(ShapeError::Id(name)) if name.ends_with(field)), "{field} {bad:?}");
        }
        let longest = with_event(|event| event[field] = json!("x".repeat(64)));
        chat(&longest);
    }
}

#[test]
fn wrong_shapes_are_errors() {
    for field in ["message_id", "chatter_user_id", "broadcaster_user_id", "message"] {
        for wrong in [Value::Null, json!(5), json!([1])] {
            let body = with_event(|event| event[field] = wrong.clone());
            assert!(notification(body.as_bytes()).is_err(), "{field} {wrong}");
        }
        let body = with_event(|event| drop(event.as_object_mut().unwrap().remove(field)));
        assert!(notification(body.as_bytes()).is_err(), "{field} missing");
    }
    for body in ["", "null", "[]", "7", "{}", "{\"subscription\":{}}", "{\"event\":{}}", &REGULAR[1..]] {
        assert!(notification(body.as_bytes()).is_err(), "{body}");
    }
}

#[test]
fn both_forms_of_a_challenge_are_read() {
    for body in [WEBHOOK_CHALLENGE, CONDUIT_CHALLENGE] {
        let message = parse_body(MessageType::Challenge, body.as_bytes()).unwrap();
        assert_eq!(message, Message::Challenge("pogchamp-kappa-360noscope-vohiyo".into()));
    }
    let none = parse_body(MessageType::Challenge, REGULAR.as_bytes());
    assert!(matches!(none, Err(ShapeError::Missing("challenge"))));
}

#[test]
fn a_revocation_tells_the_subscription_and_the_reason() {
    let message = parse_body(MessageType::Revocation, REVOCATION.as_bytes()).unwrap();
    let expected = Revocation {
        subscription_id: "f1c2a387-161a-49f9-a165-0f21d7a4e1c4".into(),
        subscription_type: "channel.follow".into(),
        status: "authorization_revoked".into(),
        broadcaster_user_id: Some("12826".into()),
    };
    assert_eq!(message, Message::Revocation(expected));
    let bare = parse_body(MessageType::Revocation, br#"{"subscription":{"id":"a"}}"#).unwrap();
    assert!(matches!(bare, Message::Revocation(Revocation { broadcaster_user_id: None, .. })));
}

#[test]
fn a_notification_replayed_as_a_revocation_revokes_nothing() {
    let verdict = parse_body(MessageType::Revocation, REGULAR.as_bytes());
    assert!(matches!(verdict, Err(ShapeError::RevokedButEnabled)));
}

#[test]
fn other_types_are_unknown() {
    let follow = STREAM_ONLINE.replace("stream.online", "channel.follow");
    let message = notification(follow.as_bytes()).unwrap();
    assert_eq!(message, Message::Unknown { subscription_type: "channel.follow".into() });
    let message = parse_body(MessageType::Other, REGULAR.as_bytes()).unwrap();
    assert_eq!(message, Message::Unknown { subscription_type: CHANNEL_CHAT_MESSAGE.into() });
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    let deep = "[".repeat(100_000);
    for body in
        [deep.clone(), format!(r#"{{"x":{deep}"#), format!(r#"{{"subscription":{{"condition":{deep}"#)]
    {
        assert!(notification(body.as_bytes()).is_err());
    }
    let closed = format!("{deep}{}", "]".repeat(100_000));
    let ignored = REGULAR.replace("\"cheer\":null", &format!("\"cheer\":{closed}"));
    assert!(notification(ignored.as_bytes()).is_ok());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(body in any::<Vec<u8>>()) {
        for message_type in
            [MessageType::Notification, MessageType::Challenge, MessageType::Revocation, MessageType::Other]
        {
            let _ = parse_body(message_type, &body);
        }
    }

    #[test]
    fn mutations_of_a_valid_body_never_panic(
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..3_u8), 1..8)
    ) {
        let mut body = REGULAR.as_bytes().to_vec();
        for (index, byte, action) in edits {
            let at = index.index(body.len());
            match action {
                0 => body[at] = byte,
                1 => body.insert(at, byte),
                _ => body.truncate(at.max(1)),
            }
        }
        if let Ok(Message::ChatMessage(message)) = notification(&body) {
            prop_assert!(message.fragments().len() <= body.len());
            prop_assert!((1..=ID_BYTES_MAX).contains(&message.message_id.len()));
        }
    }

    #[test]
    fn any_text_is_read_as_it_was_written(text in ".{0,200}") {
        let body = with_message(json!({"text":text, "fragments":[{"type":"text","text":text}]}));
        prop_assert_eq!(chat(&body).text, text.as_str());
    }
}

#[test]
fn badges_are_read_when_somebody_asks() {
    let with_badges = |badges: Value| with_event(move |event| event["badges"] = badges.clone());
    let badges = |body: &str| chat(body).badges().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(badges(REGULAR), ["moderator", "subscriber", "sub-gifter"]);
    for none in [json!([]), Value::Null, json!("?"), json!([{ "id": 1 }])] {
        assert_eq!(badges(&with_badges(none)), Vec::<String>::new());
    }
}

#[test]
fn what_a_moderator_takes_back_is_told_with_whose_it_was() {
    let body =
        |kind: &str, event: Value| json!({ "subscription": { "type": kind }, "event": event }).to_string();
    let event = json!({
        "broadcaster_user_id": "1", "target_user_id": "2", "target_user_login": "two", "message_id": "m",
    });
    let deleted = body("channel.chat.message_delete", event.clone());
    let told = parse_notification(deleted.as_bytes()).unwrap();
    let wanted = Message::MessageDeleted { broadcaster_user_id: "1".into(), message_id: "m".into() };
    assert_eq!(told, wanted);
    let cleared = body("channel.chat.clear_user_messages", event.clone());
    let told = parse_notification(cleared.as_bytes()).unwrap();
    let wanted = Message::UserCleared {
        broadcaster_user_id: "1".into(),
        user_id: "2".into(),
        user_login: "two".into(),
    };
    assert_eq!(told, wanted);
    let emptied = body("channel.chat.clear", event);
    let told = parse_notification(emptied.as_bytes()).unwrap();
    assert_eq!(told, Message::ChatCleared { broadcaster_user_id: "1".into() });
    let short = body("channel.chat.message_delete", json!({ "broadcaster_user_id": "1" }));
    assert!(parse_notification(short.as_bytes()).is_err());
}

#[test]
fn streams_begin_and_end_as_twitch_documents_it() {
    let read = |kind: &str, event: Value| {
        let body = json!({ "subscription": { "type": kind }, "event": event }).to_string();
        match parse_notification(body.as_bytes()) {
            Ok(Message::StreamChanged { broadcaster_user_id, seen }) => {
                assert_eq!(broadcaster_user_id, "1337");
                Some(seen)
            }
            Ok(Message::ChatEvent) => None,
            other => panic!("{other:?}"),
        }
    };
    let mut online = serde_json::from_str::<Value>(STREAM_ONLINE).unwrap()["event"].take();
    let stream = Stream { id: "9001".into(), started_at: Millis(1_602_411_072_123) };
    assert_eq!(read("stream.online", online.clone()), Some(StreamSeen::Live(stream)));
    online["type"] = json!("rerun");
    assert_eq!(read("stream.online", online), None);
    let offline = json!({ "broadcaster_user_id": "1337" });
    assert_eq!(read("stream.offline", offline), Some(StreamSeen::Offline { stream_id: None }));
    let told = json!({ "broadcaster_user_id": "1337", "id": "9001" });
    assert_eq!(read("stream.offline", told), Some(StreamSeen::Offline { stream_id: Some("9001".into()) }));
}
