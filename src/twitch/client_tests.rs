use reqwest::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

const CLIENT_SECRET: &str = "client-secret-0123456789";
const TOKEN: &str = "access-token-0123456789";
const NOW: i64 = 1_790_000_000;
const WAIT_WITHOUT_HEADERS: Duration = Duration::from_secs(5);

fn options(url: &str) -> ClientOptions {
    ClientOptions {
        client_id: "hof5gwx0su6owfnys0yan9c87zr6t".to_owned(),
        client_secret: secret(CLIENT_SECRET),
        helix_url: format!("{url}/helix"),
        oauth_url: format!("{url}/oauth2"),
        timeout: Duration::from_secs(10),
    }
}

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

fn headers(of: &[(&'static str, String)]) -> HeaderMap {
    of.iter().map(|&(name, ref value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
}

fn bucket(remaining: u32, reset: i64) -> HeaderMap {
    headers(&[(REMAINING, remaining.to_string()), (RESET, reset.to_string())])
}

/// What an answer of this kind means.
fn judge(status: u16, headers: &HeaderMap, body: &str) -> Result<(), TwitchError> {
    let status = StatusCode::from_u16(status).unwrap();
    interpret(status, headers, body.as_bytes(), NOW, &[secret(CLIENT_SECRET), secret(TOKEN)])
}

fn judge_body(status: u16, body: &str) -> TwitchError {
    judge(status, &HeaderMap::new(), body).unwrap_err()
}

fn refused(status: u16, message: &str, id: Option<&str>) -> TwitchError {
    TwitchError::Refused { status, message: message.to_owned(), id: id.map(str::to_owned) }
}

// What answers mean -----------------------------------------------------------------------------------

const TOO_MANY: &str = r#"{"error":"Too Many Requests","status":429,"message":"maximum subscriptions with type and condition exceeded"}"#;
const RATE_LIMITED: &str = r#"{"error":"Too Many Requests","status":429,"message":"Too many requests"}"#;

#[test]
fn a_429_with_an_empty_bucket_is_the_rate_limit_until_the_bucket_is_full() {
    let limited = judge(429, &bucket(0, NOW + 30), RATE_LIMITED);
    assert_eq!(limited, Err(TwitchError::Limited { wait: Duration::from_secs(30) }));
}

#[test]
fn a_429_with_points_left_is_a_refusal() {
    let refusal = judge(429, &bucket(799, NOW + 30), r#"{"message":"conduit limit reached"}"#);
    assert_eq!(refusal, Err(refused(429, "conduit limit reached", None)));
}

#[test]
fn a_429_about_too_many_subscriptions_is_a_refusal_whatever_the_bucket_holds() {
    let refusal = refused(429, "maximum subscriptions with type and condition exceeded", None);
    assert_eq!(judge(429, &bucket(799, NOW + 30), TOO_MANY), Err(refusal.clone()));
    assert_eq!(judge(429, &bucket(0, NOW + 30), TOO_MANY), Err(refusal.clone()));
    assert_eq!(judge_body(429, TOO_MANY), refusal);
}

#[test]
fn a_429_that_says_nothing_of_the_bucket_waits_a_little() {
    assert_eq!(judge_body(429, ""), TwitchError::Limited { wait: WAIT_WITHOUT_HEADERS });
    let garbled = headers(&[(REMAINING, "many".to_owned()), (RESET, "soon".to_owned())]);
    let limited = judge(429, &garbled, RATE_LIMITED);
    assert_eq!(limited, Err(TwitchError::Limited { wait: WAIT_WITHOUT_HEADERS }));
}

#[test]
fn the_wait_is_at_least_a_second_and_at_most_two_minutes() {
    for (reset, seconds) in [(NOW - 5, 1), (NOW, 1), (NOW + 119, 119), (NOW + 3_600, 120), (i64::MIN, 1)] {
        let limited = judge(429, &bucket(0, reset), RATE_LIMITED);
        assert_eq!(limited, Err(TwitchError::Limited { wait: Duration::from_secs(seconds) }), "{reset}");
    }
}

#[test]
fn a_429_that_says_when_to_come_back_is_a_rate_limit() {
    let after = |more: &[(&'static str, String)], value: &str| {
        headers(&[more, &[("retry-after", value.to_owned())]].concat())
    };
    let date = "Mon, 21 Sep 2026 14:13:50 GMT";
    for (value, seconds) in [("7", 7), (" 8 ", 8), (date, 30), ("0", 1), ("86400", 120), ("-1", 1)] {
        let limited = judge(429, &after(&[], value), RATE_LIMITED);
        assert_eq!(limited, Err(TwitchError::Limited { wait: Duration::from_secs(seconds) }), "{value}");
    }
    assert_eq!(judge(429, &after(&[], "soon"), ""), Err(TwitchError::Limited { wait: WAIT_WITHOUT_HEADERS }));
    // Said by something before Twitch, whatever the bucket holds; of two waits the longer one.
    let full = [(REMAINING, "799".to_owned()), (RESET, (NOW + 1).to_string())];
    let empty = [(REMAINING, "0".to_owned()), (RESET, (NOW + 30).to_string())];
    for (more, seconds) in [(&full, 7), (&empty, 30)] {
        let limited = judge(429, &after(more, "7"), RATE_LIMITED);
        assert_eq!(limited, Err(TwitchError::Limited { wait: Duration::from_secs(seconds) }));
    }
    assert_eq!(judge(429, &after(&[], "7"), TOO_MANY).unwrap_err().outcome(), "refused");
}

#[test]
fn a_429_about_too_many_of_a_kind_is_told_by_its_words_where_the_bucket_is_not_mentioned() {
    for message in [
        "number of subscriptions with the same type and condition exceeded",
        "Maximum subscriptions with type and condition exceeded",
        "conduit limit reached",
    ] {
        assert_eq!(judge_body(429, &json!({ "message": message }).to_string()), refused(429, message, None));
    }
}

#[test]
fn a_409_says_the_id_of_what_is_there_wherever_it_stands() {
    let id = "f1c2a387-161a-49f9-a165-0f21d7a4e1c4";
    let message = "subscription already exists";
    for body in [
        json!({ "error": "Conflict", "status": 409, "message": message, "id": id }),
        json!({ "error": "Conflict", "status": 409, "message": message, "data": [{ "id": id }] }),
        json!({ "error": "Conflict", "status": 409, "message": message, "id": null, "data": { "id": id } }),
    ] {
        assert_eq!(judge_body(409, &body.to_string()), refused(409, message, Some(id)), "{body}");
    }
}

#[test]
fn a_409_without_a_usable_id_is_still_a_409() {
    let message = "subscription already exists";
    for id in [json!(null), json!(""), json!(7), json!("a\nb"), json!("a".repeat(65))] {
        let body = json!({ "message": message, "id": id });
        assert_eq!(judge_body(409, &body.to_string()), refused(409, message, None), "{body}");
    }
    let without = r#"{"error":"Conflict","status":409,"message":"subscription already exists"}"#;
    assert_eq!(judge_body(409, without), refused(409, message, None));
}

#[test]
fn a_status_tells_whether_trying_again_is_of_use() {
    let invalid = judge_body(401, r#"{"status":401,"message":"invalid access token"}"#);
    assert_eq!(invalid, TwitchError::Unauthorized("invalid access token".to_owned()));
    let missing = judge_body(404, r#"{"error":"Not Found","status":404,"message":"not found"}"#);
    assert_eq!(missing, refused(404, "not found", None));
    assert_eq!(judge_body(400, "<html>"), refused(400, "it gave no reason", None));
    assert_eq!(judge_body(403, r#"{"error":"Forbidden","message":" "}"#), refused(403, "Forbidden", None));
    for status in [408, 500, 503, 599] {
        assert_eq!(judge_body(status, "").outcome(), "away", "{status}");
    }
    assert_eq!(judge_body(302, "").outcome(), "answer");
    for status in [200, 202, 204] {
        assert_eq!(judge(status, &HeaderMap::new(), ""), Ok(()));
    }
}

#[test]
fn what_twitch_says_is_repeated_short_and_in_one_line() {
    let long = format!("a\r\n\u{1b}[31m{}", "é".repeat(1_000));
    let TwitchError::Refused { message, .. } = judge_body(400, &json!({ "message": long }).to_string())
    else {
        panic!("a 400 is a refusal");
    };
    assert!(message.starts_with("a\u{FFFD}\u{FFFD}\u{FFFD}[31mé"), "{message}");
    assert!(message.ends_with("é…") && message.chars().count() <= 201, "{message}");
}

#[test]
fn no_error_repeats_a_secret_that_twitch_repeats() {
    for status in [400, 401, 403, 409, 503] {
        let body = json!({ "message": format!("bad {TOKEN} of {CLIENT_SECRET}") });
        let error = judge_body(status, &body.to_string());
        let told = format!("{error} {error:?}");
        assert!(!told.contains(TOKEN) && !told.contains(CLIENT_SECRET), "{told}");
        assert!(told.contains("bad (secret) of (secret)"), "{told}");
    }
}

#[test]
fn an_answer_that_is_not_understood_is_not_repeated() {
    #[derive(Debug, serde::Deserialize)]
    struct Expected {
        #[serde(rename = "expires_in")]
        _expires_in: u64,
    }
    let missing = parse::<Expected>(b"{}").unwrap_err();
    assert_eq!(missing.outcome(), "answer");
    assert!(missing.to_string().contains("expires_in"), "{missing}");
    for body in [format!(r#"{{"expires_in":"{TOKEN}"}}"#), format!("\"{TOKEN}\""), TOKEN.to_owned()] {
        let error = parse::<Expected>(body.as_bytes()).unwrap_err();
        assert_eq!(error.outcome(), "answer");
        assert!(!format!("{error} {error:?}").contains(TOKEN), "{error}");
    }
}

// What is left ----------------------------------------------------------------------------------------

#[test]
fn the_allowance_is_what_was_heard_last_until_the_bucket_is_full() {
    let heard = Bucket::default();
    assert_eq!(heard.remaining(NOW), None);
    heard.note(&bucket(799, NOW + 60));
    heard.note(&bucket(12, NOW + 40));
    heard.note(&HeaderMap::new());
    assert_eq!(heard.remaining(NOW + 39), Some(12));
    assert_eq!(heard.remaining(NOW + 40), None);
}

// The client ------------------------------------------------------------------------------------------

#[test]
fn debug_says_no_secret() {
    let options = options("http://127.0.0.1:1");
    let client = Client::new(options.clone()).unwrap();
    let call = Call::new(Method::GET, client.helix_url("/x")).authorized("Bearer", &secret(TOKEN)).unwrap();
    let told = format!("{options:?} {client:?} {:?}", call.request);
    assert!(!told.contains(TOKEN) && !told.contains(CLIENT_SECRET), "{told}");
}

#[test]
fn settings_that_can_not_be_used_are_named_and_not_repeated() {
    let good = options("https://example.com");
    for (setting, bad) in [
        ("twitch.helix_url", ClientOptions { helix_url: "hunter2".to_owned(), ..good.clone() }),
        ("twitch.helix_url", ClientOptions { helix_url: "ftp://hunter2/".to_owned(), ..good.clone() }),
        ("twitch.oauth_url", ClientOptions { oauth_url: "https://a:hunter2@b/".to_owned(), ..good.clone() }),
        ("twitch.client_id", ClientOptions { client_id: "hunter2\n".to_owned(), ..good }),
    ] {
        let error = Client::new(bad).unwrap_err();
        assert_eq!(error.outcome(), "setup");
        let told = error.to_string();
        assert!(told.contains(setting) && !told.contains("hunter2"), "{told}");
    }
}

#[test]
fn a_base_may_end_with_a_slash() {
    let options = options("http://twitch.test");
    let with_slash = ClientOptions { helix_url: format!("{}/", options.helix_url), ..options };
    let client = Client::new(with_slash).unwrap();
    assert_eq!(client.helix_url("/users").as_str(), "http://twitch.test/helix/users");
}

#[test]
fn a_token_that_no_header_can_carry_is_not_sent() {
    let call = Call::new(Method::GET, Url::parse("http://127.0.0.1:1/").unwrap());
    let error = call.authorized("Bearer", &secret("a\r\nHost: elsewhere")).err().unwrap();
    assert_eq!(error.outcome(), "unauthorized");
    assert!(!error.to_string().contains("elsewhere"), "{error}");
}

/// A server that gives one answer; the handle yields the request's head.
async fn answering(answer: String) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0, "the head ended early");
        }
        // Who has read enough hangs up.
        let _ = stream.write_all(answer.as_bytes()).await;
        String::from_utf8(head).unwrap()
    });
    (url, served)
}

fn answer(status: &str, more: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{more}\r\n{body}", body.len())
}

/// Asks for `/helix/x?cursor=hidden-in-the-query` with a token.
async fn ask(client: &Client, is_of_app: bool) -> Result<Vec<u8>, TwitchError> {
    let mut url = client.helix_url("/x");
    url.set_query(Some("cursor=hidden-in-the-query"));
    let mut call = Call::new(Method::GET, url).authorized("Bearer", &secret(TOKEN)).unwrap();
    call.is_of_app = is_of_app;
    client.call(client.identified(call), |body| Ok(body.to_vec())).await
}

#[actix_web::test]
async fn a_call_names_the_application_and_brings_back_the_body() {
    let (url, served) = answering(answer("200 OK", "", "hello")).await;
    let client = Client::new(options(&url)).unwrap();
    assert_eq!(ask(&client, true).await.unwrap(), b"hello");
    let head = served.await.unwrap().to_lowercase();
    assert!(head.starts_with("get /helix/x?cursor=hidden-in-the-query http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nclient-id: hof5gwx0su6owfnys0yan9c87zr6t\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nauthorization: bearer {TOKEN}\r\n")), "{head}");
}

#[actix_web::test]
async fn what_is_left_is_heard_from_calls_for_the_app_alone() {
    let reset = now() + 60;
    for (is_of_app, remaining) in [(true, Some(42)), (false, None)] {
        let left = format!("Ratelimit-Remaining: 42\r\nRatelimit-Reset: {reset}\r\n");
        let (url, _served) = answering(answer("404 Not Found", &left, "{}")).await;
        let client = Client::new(options(&url)).unwrap();
        assert_eq!(ask(&client, is_of_app).await.unwrap_err().outcome(), "refused");
        assert_eq!(client.clone().allowance(), remaining);
    }
}

#[actix_web::test]
async fn a_success_is_one_by_whatever_status_and_with_or_without_a_body() {
    for (status, body) in
        [("200 OK", "{}"), ("202 Accepted", ""), ("204 No Content", ""), ("204 No Content", "{}")]
    {
        let (url, _served) = answering(answer(status, "Connection: close\r\n", body)).await;
        let client = Client::new(options(&url)).unwrap();
        assert!(ask(&client, true).await.is_ok(), "{status} {body}");
    }
}

#[actix_web::test]
async fn calls_are_counted_by_outcome() {
    let opts = prometheus::Opts::new("requests_total", "Calls.");
    let outcomes = IntCounterVec::new(opts, &["outcome"]).unwrap();
    for status in ["200 OK", "200 OK", "500 Internal Server Error", "401 Unauthorized"] {
        let (url, _served) = answering(answer(status, "", "{}")).await;
        let client = Client::new(options(&url)).unwrap().observed_by(outcomes.clone());
        // Whether it went well is told by the counter.
        let _ = ask(&client, true).await;
    }
    let counted = ["ok", "away", "unauthorized"].map(|outcome| outcomes.with_label_values(&[outcome]).get());
    assert_eq!(counted, [2, 1, 1]);
}

#[actix_web::test]
async fn a_redirect_is_not_followed() {
    let (url, _served) = answering(answer("302 Found", "Location: /elsewhere\r\n", "")).await;
    let error = ask(&Client::new(options(&url)).unwrap(), true).await.unwrap_err();
    assert_eq!(error.outcome(), "answer");
    assert!(error.to_string().contains("302"), "{error}");
}

#[actix_web::test]
async fn an_answer_may_have_a_mebibyte_and_no_more() {
    for (bytes, is_read) in [(BODY_BYTES_MAX, true), (BODY_BYTES_MAX + 1, false)] {
        let (url, _served) = answering(answer("200 OK", "", &"a".repeat(bytes))).await;
        match ask(&Client::new(options(&url)).unwrap(), true).await {
            Ok(body) => assert!(is_read && body.len() == bytes),
            Err(error) => assert!(!is_read && error.outcome() == "answer", "{error}"),
        }
    }
}

#[actix_web::test]
async fn who_does_not_answer_is_away_and_the_error_says_neither_url_nor_token() {
    // Takes connections and never answers.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let (broken_url, _served) = answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal".to_owned()).await;
    for (url, timeout) in [
        (silent_url, Duration::from_millis(50)),
        ("http://127.0.0.1:1".to_owned(), Duration::from_secs(10)),
        (broken_url, Duration::from_secs(10)),
    ] {
        let client = Client::new(ClientOptions { timeout, ..options(&url) }).unwrap();
        let error = ask(&client, true).await.unwrap_err();
        assert_eq!(error.outcome(), "away", "{error}");
        let told = format!("{error} {error:?}");
        assert!(!told.contains("hidden-in-the-query") && !told.contains(TOKEN), "{told}");
    }
}
