use std::time::Duration;

use reqwest::Request;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::twitch::client::ClientOptions;

const TOKEN: &str = "access-token-0123456789";
const SHARD_SECRET: &str = "shard-secret-0123456789";
const CONDUIT: &str = "3f1c2a87-161a-49f9-a165-0f21d7a4e1c4";

fn client_at(url: &str) -> Client {
    let options = ClientOptions {
        client_id: "hof5gwx0su6owfnys0yan9c87zr6t".to_owned(),
        client_secret: Secret::new("41vpdji4e9gif29md0ouet6fktd2".to_owned()),
        helix_url: format!("{url}/helix"),
        oauth_url: format!("{url}/oauth2"),
        timeout: Duration::from_secs(10),
    };
    Client::new(options).unwrap()
}

fn client() -> Client {
    client_at("http://twitch.test")
}

fn access() -> AccessToken {
    AccessToken::new(Secret::new(TOKEN.to_owned()))
}

fn json_of(request: &Request) -> Value {
    assert_eq!(request.headers()[CONTENT_TYPE], "application/json");
    serde_json::from_slice(request.body().unwrap().as_bytes().unwrap()).unwrap()
}

fn texts(of: &[&str]) -> Vec<String> {
    of.iter().map(|text| text.to_string()).collect()
}

fn condition(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

// Requests --------------------------------------------------------------------------------------------

#[test]
fn a_call_presents_token_and_application() {
    let call = client().helix_call(Method::GET, "/users", &[], &access()).unwrap();
    assert_eq!(call.request.url().as_str(), "http://twitch.test/helix/users");
    assert_eq!(call.request.headers()[AUTHORIZATION], format!("Bearer {TOKEN}"));
    assert!(call.request.headers()[AUTHORIZATION].is_sensitive());
    assert_eq!(call.request.headers()["client-id"], "hof5gwx0su6owfnys0yan9c87zr6t");
}

#[test]
fn what_is_in_a_query_is_encoded() {
    let query = paged(Some(("conduit_id", "a&b")), Some("eyJ+/="));
    let call = client().helix_call(Method::GET, SHARDS, &query, &access()).unwrap();
    assert_eq!(call.request.url().query(), Some("conduit_id=a%26b&after=eyJ%2B%2F%3D"));
    assert!(paged(None, None).is_empty());
}

#[test]
fn live_streams_are_asked_for_with_one_full_page() {
    let call = client().streams_call(&access(), &texts(&["1", "2"])).unwrap();
    assert_eq!(call.request.url().query(), Some("type=live&first=100&user_id=1&user_id=2"));
    assert!(call.is_of_app);
}

#[test]
fn shards_are_updated_with_their_transports_and_no_error_repeats_their_secrets() {
    let callback = "https://pulse.example/webhooks/eventsub";
    let shards = [
        (
            "0".to_owned(),
            ShardTransport::Webhook {
                callback: callback.to_owned(),
                secret: Secret::new(SHARD_SECRET.to_owned()),
            },
        ),
        ("1".to_owned(), ShardTransport::Websocket { session_id: "AgoQHR3s6Mb4T8GFB1l3".to_owned() }),
    ];
    let call = client().update_shards_call(&access(), CONDUIT, &shards).unwrap();
    assert_eq!(call.request.method(), Method::PATCH);
    assert_eq!(call.request.url().as_str(), "http://twitch.test/helix/eventsub/conduits/shards");
    let expected = json!({
        "conduit_id": CONDUIT,
        "shards": [
            { "id": "0", "transport": { "method": "webhook", "callback": callback, "secret": SHARD_SECRET } },
            { "id": "1", "transport": { "method": "websocket", "session_id": "AgoQHR3s6Mb4T8GFB1l3" } },
        ],
    });
    assert_eq!(json_of(&call.request), expected);
    assert!(call.secrets.iter().any(|secret| secret.expose() == SHARD_SECRET));
    assert!(!format!("{shards:?}").contains(SHARD_SECRET));
}

#[test]
fn a_subscription_delivers_into_the_conduit() {
    let new = NewSubscription {
        kind: "channel.chat.message".to_owned(),
        version: "1".to_owned(),
        condition: condition(&[("broadcaster_user_id", "1971641"), ("user_id", "2914196")]),
        conduit_id: CONDUIT.to_owned(),
    };
    let call = client().create_subscription_call(&access(), &new).unwrap();
    let expected = json!({
        "type": "channel.chat.message",
        "version": "1",
        "condition": { "broadcaster_user_id": "1971641", "user_id": "2914196" },
        "transport": { "method": "conduit", "conduit_id": CONDUIT },
    });
    assert_eq!(json_of(&call.request), expected);
    assert!(call.is_of_app);
}

#[test]
fn a_chat_message_names_what_it_answers_only_if_it_does() {
    let plain = json!({ "broadcaster_id": "1", "sender_id": "2", "message": "Hi" });
    assert_eq!(chat_message("1", "2", "Hi", None), plain);
    assert_eq!(chat_message("1", "2", "Hi", Some("p"))["reply_parent_message_id"], "p");
}

// Answers ---------------------------------------------------------------------------------------------

#[test]
fn users_are_read_without_what_is_not_used() {
    let body = br#"{"data":[{"id":"141981764","login":"twitchdev","display_name":"TwitchDev","type":"","broadcaster_type":"partner","view_count":5980557,"created_at":"2016-12-14T20:32:28Z"},{"id":"1","login":"new","display_name":null}]}"#;
    let users = all::<User>(body).unwrap();
    let names: Vec<_> = users.iter().map(|user| (&*user.id, &*user.login, &*user.display_name)).collect();
    assert_eq!(names, [("141981764", "twitchdev", "TwitchDev"), ("1", "new", "")]);
}

#[test]
fn only_live_streams_are_live() {
    let body = br#"{"data":[
        {"id":"40952121085","user_id":"101051819","user_login":"afro","type":"live","viewer_count":1490,"started_at":"2021-03-10T03:18:11Z"},
        {"id":"2","user_id":"2","type":"","started_at":""},
        {"id":"3","user_id":"3","type":"rerun","started_at":"2021-03-10T03:18:11Z"}],"pagination":{"cursor":"x"}}"#;
    let streams = live_streams(body).unwrap();
    assert_eq!(streams.len(), 1);
    assert_eq!((streams[0].id.as_str(), streams[0].user_id.as_str()), ("40952121085", "101051819"));
    assert_eq!(streams[0].started_at.unix_timestamp(), 1_615_346_291);
    let timeless = br#"{"data":[{"id":"1","user_id":"1","type":"live","started_at":"soon"}]}"#;
    assert_eq!(live_streams(timeless).unwrap_err().outcome(), "answer");
}

#[test]
fn conduits_are_read() {
    let body = br#"{"data":[{"id":"26b1c993-bfcf-44d9-b876-379dacafe75a","shard_count":15},{"id":"bfcfc993-26b1-b876-44d9-afe75a379dac","shard_count":5}]}"#;
    let counts: Vec<_> = all::<Conduit>(body).unwrap().iter().map(|conduit| conduit.shard_count).collect();
    assert_eq!(counts, [15, 5]);
    assert!(all::<Conduit>(br#"{"data":null}"#).unwrap().is_empty());
}

#[test]
fn an_answer_without_data_is_not_understood() {
    for body in ["", "{}", "[]", r#"{"data":7}"#, r#"{"data":[{"id":1}]}"#] {
        assert_eq!(all::<Conduit>(body.as_bytes()).unwrap_err().outcome(), "answer", "{body}");
    }
    assert_eq!(first::<Conduit>(br#"{"data":[]}"#).unwrap_err().outcome(), "answer");
}

#[test]
fn a_page_is_the_last_one_unless_it_names_another() {
    for more in ["", r#","pagination":null"#, r#","pagination":{}"#, r#","pagination":{"cursor":null}"#] {
        let body = format!(r#"{{"data":[{{"id":"s1","type":"x"}}]{more}}}"#);
        let (found, next) = list::<SubscriptionShape>(body.as_bytes()).unwrap();
        assert_eq!((found.len(), next), (1, None), "{body}");
    }
}

#[test]
fn a_subscription_needs_no_more_than_an_id_and_a_type() {
    for body in [
        r#"{"data":[{"id":"s1","type":"x"}]}"#,
        r#"{"data":[{"id":"s1","type":"x","status":null,"version":null,"condition":null,"transport":null,"cost":null,"created_at":null}]}"#,
    ] {
        let found = Subscription::from(first::<SubscriptionShape>(body.as_bytes()).unwrap());
        assert_eq!(
            (found.id.as_str(), found.kind.as_str(), found.status.as_str()),
            ("s1", "x", ""),
            "{body}"
        );
        assert!(found.condition.is_empty() && found.conduit_id.is_none() && !found.is_enabled());
    }
}

#[test]
fn what_is_deleted_may_be_answered_with_anything() {
    for body in ["", "{}", r#"{"data":[]}"#, "gone"] {
        assert_eq!(nothing(body.as_bytes()), Ok(()), "{body}");
    }
}

#[test]
fn shards_are_read_with_statuses_of_any_name() {
    let body = br#"{"data":[
        {"id":"0","status":"enabled","transport":{"method":"webhook","callback":"https://this-is-a-callback.com"}},
        {"id":"1","status":"websocket_something_new","transport":{"method":"websocket","session_id":"9fd5164a","connected_at":"2020-11-10T14:32:18.730260295Z","disconnected_at":null}},
        {"id":"2"}],"pagination":{"cursor":""}}"#;
    let (shards, next) = list::<ShardShape>(body).unwrap();
    let shards: Vec<_> = shards.into_iter().map(Shard::from).collect();
    assert_eq!(next, None);
    assert_eq!(shards.iter().map(Shard::is_enabled).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(shards[0].callback.as_deref(), Some("https://this-is-a-callback.com"));
    assert_eq!((shards[1].method.as_str(), shards[1].session_id.as_deref()), ("websocket", Some("9fd5164a")));
    assert_eq!((shards[2].status.as_str(), shards[2].method.as_str()), ("", ""));
}

#[test]
fn shards_that_were_not_updated_are_told_apart() {
    let body = br#"{"data":[{"id":"0","status":"webhook_callback_verification_pending","transport":{"method":"webhook","callback":"https://pulse.example/"}}],"errors":[{"id":"3","message":"The shard id is outside the conduit's range","code":"invalid_parameter"},{"id":"4"}]}"#;
    let expected = [
        ShardError {
            id: "3".to_owned(),
            message: "The shard id is outside the conduit's range".to_owned(),
            code: "invalid_parameter".to_owned(),
        },
        ShardError { id: "4".to_owned(), message: String::new(), code: String::new() },
    ];
    assert_eq!(shard_errors(body, &[]).unwrap(), expected);
}

#[test]
fn without_errors_all_shards_were_updated() {
    for body in
        [r#"{"data":[{"id":"0"}]}"#, r#"{"data":[],"errors":[]}"#, r#"{"data":[],"errors":null}"#, "{}", ""]
    {
        assert!(shard_errors(body.as_bytes(), &[]).unwrap().is_empty(), "{body}");
    }
}

#[test]
fn a_shards_error_does_not_repeat_its_secret() {
    let body = json!({ "data": [], "errors": [{ "id": "0", "message": format!("bad {SHARD_SECRET}") }] });
    let secrets = [Secret::new(SHARD_SECRET.to_owned())];
    let errors = shard_errors(body.to_string().as_bytes(), &secrets).unwrap();
    assert_eq!(errors[0].message, "bad (secret)");
}

#[test]
fn subscriptions_are_read_whatever_their_transport_and_condition() {
    let body = br#"{"total":2,"data":[
        {"id":"26b1c993-bfcf-44d9-b876-379dacafe75a","status":"enabled","type":"channel.chat.message","version":"1","cost":0,"condition":{"broadcaster_user_id":"1234","user_id":"5"},"created_at":"2020-11-10T14:32:18.730260295Z","transport":{"method":"conduit","conduit_id":"3f1c2a87-161a-49f9-a165-0f21d7a4e1c4"}},
        {"id":"35016908-41ff-33ce-7879-61b8dfc2ee16","status":"brand_new_status","type":"x","version":"beta","cost":1,"condition":{"a":5,"b":null,"c":{"d":[]}},"created_at":"2020-11-10T14:32:18Z","transport":{"method":"webhook","callback":"https://this-is-a-callback.com"}}],
        "total_cost":1,"max_total_cost":10000,"pagination":{"cursor":"next-page"}}"#;
    let (found, next) = list::<SubscriptionShape>(body).unwrap();
    let found: Vec<_> = found.into_iter().map(Subscription::from).collect();
    assert_eq!(next.as_deref(), Some("next-page"));
    let ours = Subscription {
        id: "26b1c993-bfcf-44d9-b876-379dacafe75a".to_owned(),
        status: "enabled".to_owned(),
        kind: "channel.chat.message".to_owned(),
        version: "1".to_owned(),
        condition: condition(&[("broadcaster_user_id", "1234"), ("user_id", "5")]),
        conduit_id: Some(CONDUIT.to_owned()),
        cost: 0,
        created_at: "2020-11-10T14:32:18.730260295Z".to_owned(),
    };
    assert_eq!(found[0], ours);
    assert!(found[0].is_enabled() && !found[1].is_enabled());
    assert_eq!((found[1].conduit_id.as_ref(), found[1].cost), (None, 1));
    assert_eq!(found[1].condition, condition(&[("a", "5")]));
}

#[test]
fn a_chat_message_was_sent_or_says_why_not() {
    let read = |body: &str| Sent::from(first::<SentShape>(body.as_bytes()).unwrap());
    let sent = read(r#"{"data":[{"message_id":"abc-123-def","is_sent":true}]}"#);
    assert_eq!(sent, Sent { message_id: "abc-123-def".to_owned(), is_sent: true, drop_reason: None });
    for (reason, expected) in [
        (r#"{"code":"msg_duplicate","message":"Sent before."}"#, "msg_duplicate: Sent before."),
        (r#"{"code":"msg_rejected"}"#, "msg_rejected"),
        (r#""automod_held""#, "automod_held"),
    ] {
        let body = format!(r#"{{"data":[{{"message_id":"","is_sent":false,"drop_reason":{reason}}}]}}"#);
        let dropped = read(&body);
        assert!(!dropped.is_sent);
        assert_eq!(dropped.drop_reason.as_deref(), Some(expected));
    }
}

// Pages -----------------------------------------------------------------------------------------------

/// A server that gives these answers, each on a connection of its own, and yields the requests' lines.
async fn answering(bodies: Vec<&'static str>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let mut lines = Vec::new();
        for body in bodies {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0, "the head ended early");
            }
            let length = body.len();
            let answer =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            lines.push(String::from_utf8(head).unwrap().lines().next().unwrap().to_owned());
        }
        lines
    });
    (url, served)
}

#[actix_web::test]
async fn all_pages_of_shards_are_read() {
    let pages = vec![
        r#"{"data":[{"id":"0","status":"enabled"}],"pagination":{"cursor":"p2"}}"#,
        r#"{"data":[{"id":"1","status":"enabled"}],"pagination":{}}"#,
    ];
    let (url, served) = answering(pages).await;
    let shards = client_at(&url).shards(&access(), "c").await.unwrap();
    assert_eq!(shards.iter().map(|shard| shard.id.as_str()).collect::<Vec<_>>(), ["0", "1"]);
    let lines = served.await.unwrap();
    assert_eq!(lines[0], "GET /helix/eventsub/conduits/shards?conduit_id=c HTTP/1.1");
    assert_eq!(lines[1], "GET /helix/eventsub/conduits/shards?conduit_id=c&after=p2 HTTP/1.1");
}

#[actix_web::test]
async fn pages_that_lead_to_themselves_end() {
    let page = r#"{"data":[{"id":"0"}],"pagination":{"cursor":"again"}}"#;
    let (url, _served) = answering(vec![page, page]).await;
    let error = client_at(&url).shards(&access(), "c").await.unwrap_err();
    assert_eq!(error.outcome(), "answer");
}

#[actix_web::test]
async fn without_ids_nothing_is_asked() {
    // Nobody listens there: a call would fail.
    let client = client_at("http://127.0.0.1:1");
    assert_eq!(client.streams(&access(), &[]).await, Ok(Vec::new()));
    assert_eq!(client.users(&access(), &[]).await, Ok(Vec::new()));
}
