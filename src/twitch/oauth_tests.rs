use std::collections::BTreeMap;

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};

use super::*;
use crate::twitch::client::ClientOptions;

const CLIENT_ID: &str = "hof5gwx0su6owfnys0yan9c87zr6t";
const CLIENT_SECRET: &str = "41vpdji4e9gif29md0ouet6fktd2";
const REDIRECT: &str = "https://pulse.example/auth/callback";

fn client() -> Client {
    let options = ClientOptions {
        client_id: CLIENT_ID.to_owned(),
        client_secret: secret(CLIENT_SECRET),
        helix_url: "http://twitch.test/helix".to_owned(),
        oauth_url: "http://twitch.test/oauth2".to_owned(),
        timeout: Duration::from_secs(1),
    };
    Client::new(options).unwrap()
}

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

/// The fields of a call's form.
fn form(call: &Call) -> BTreeMap<String, String> {
    assert_eq!(call.request.headers()[CONTENT_TYPE], "application/x-www-form-urlencoded");
    let body = call.request.body().unwrap().as_bytes().unwrap();
    url::form_urlencoded::parse(body).into_owned().collect()
}

fn fields(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn hides(call: &Call, text: &str) -> bool {
    call.secrets.iter().any(|secret| secret.expose() == text)
}

fn user_grant(body: &str, refresh: Option<&Secret<String>>) -> Result<UserGrant, TwitchError> {
    parse::<Grant>(body.as_bytes())?.of_user(refresh)
}

// Requests --------------------------------------------------------------------------------------------

#[test]
fn the_authorize_url_asks_for_a_code_and_holds_no_secret() {
    let url = client().authorize_url(REDIRECT, &["user:read:chat", "user:bot"], "st&te=1", false);
    assert!(url.starts_with("http://twitch.test/oauth2/authorize?response_type=code&"), "{url}");
    let query: BTreeMap<String, String> = Url::parse(&url).unwrap().query_pairs().into_owned().collect();
    let expected = [
        ("response_type", "code"),
        ("client_id", CLIENT_ID),
        ("redirect_uri", REDIRECT),
        ("scope", "user:read:chat user:bot"),
        ("state", "st&te=1"),
    ];
    assert_eq!(query, fields(&expected));
    let forced = client().authorize_url(REDIRECT, &[], "s", true);
    assert!(forced.ends_with("&force_verify=true"), "{forced}");
}

#[test]
fn secrets_go_in_the_body_and_never_in_the_url() {
    let client = client();
    let access = AccessToken::new(secret("access-token"));
    let calls = [
        (client.exchange_call("the-code-1234", REDIRECT), "the-code-1234"),
        (client.refresh_call(&secret("refresh-token")), "refresh-token"),
        (client.revoke_call(&access), "access-token"),
        (client.token_call("client_credentials", &[]), CLIENT_SECRET),
    ];
    for (call, text) in calls {
        assert_eq!(call.request.method(), Method::POST);
        assert_eq!(call.request.url().query(), None);
        assert!(!call.request.url().as_str().contains(text));
        assert!(form(&call).values().any(|value| value == text), "{text}");
        assert!(hides(&call, text), "{text} may be repeated");
    }
}

#[test]
fn a_code_is_exchanged_with_the_redirect_uri_it_came_by() {
    let call = client().exchange_call("17038swieks1jh1hwcdr36hekyui", REDIRECT);
    assert_eq!(call.request.url().as_str(), "http://twitch.test/oauth2/token");
    let expected = [
        ("client_id", CLIENT_ID),
        ("client_secret", CLIENT_SECRET),
        ("grant_type", "authorization_code"),
        ("code", "17038swieks1jh1hwcdr36hekyui"),
        ("redirect_uri", REDIRECT),
    ];
    assert_eq!(form(&call), fields(&expected));
    assert!(hides(&call, CLIENT_SECRET));
}

#[test]
fn a_refresh_token_is_encoded() {
    let call = client().refresh_call(&secret("a+b/c=d&e f%"));
    let expected = [
        ("client_id", CLIENT_ID),
        ("client_secret", CLIENT_SECRET),
        ("grant_type", "refresh_token"),
        ("refresh_token", "a+b/c=d&e f%"),
    ];
    assert_eq!(form(&call), fields(&expected));
}

#[test]
fn validation_presents_the_token_in_a_header() {
    let call = client().validate_call(&AccessToken::new(secret("access-token"))).unwrap();
    assert_eq!(call.request.url().as_str(), "http://twitch.test/oauth2/validate");
    assert_eq!(call.request.headers()[AUTHORIZATION], "OAuth access-token");
    assert!(call.request.body().is_none());
    assert!(hides(&call, "access-token"));
}

// Answers ---------------------------------------------------------------------------------------------

#[test]
fn a_user_grant_has_both_tokens_scopes_and_an_end() {
    let body = r#"{"access_token":"rfx2uswqe8l4g1mkagrvg5tv0ks3","expires_in":14124,"refresh_token":"5b93chm6hdve3mycz05zfzatkfdenfspp1h1ar2xxdalen01","scope":["channel:moderate","chat:edit","chat:read"],"token_type":"bearer"}"#;
    let grant = user_grant(body, None).unwrap();
    assert_eq!(grant.access.secret().expose(), "rfx2uswqe8l4g1mkagrvg5tv0ks3");
    assert_eq!(grant.refresh.expose(), "5b93chm6hdve3mycz05zfzatkfdenfspp1h1ar2xxdalen01");
    assert_eq!(grant.expires_in, Duration::from_secs(14_124));
    assert_eq!(grant.scopes, ["channel:moderate", "chat:edit", "chat:read"]);
}

#[test]
fn scopes_may_be_a_text_a_list_null_or_missing() {
    for (scope, expected) in [
        (r#","scope":"chat:read channel:bot""#, &["chat:read", "channel:bot"][..]),
        (r#","scope":["channel:bot"]"#, &["channel:bot"]),
        (r#","scope":[""]"#, &[]),
        (r#","scope":"""#, &[]),
        (r#","scope":null"#, &[]),
        ("", &[]),
    ] {
        let body = format!(r#"{{"access_token":"a","refresh_token":"b","expires_in":1{scope}}}"#);
        assert_eq!(user_grant(&body, None).unwrap().scopes, expected, "{body}");
    }
}

#[test]
fn a_refresh_without_a_new_refresh_token_keeps_the_old_one() {
    let old = secret("old");
    for body in [r#"{"access_token":"a"}"#, r#"{"access_token":"a","refresh_token":null}"#] {
        assert_eq!(user_grant(body, Some(&old)).unwrap().refresh.expose(), "old");
        assert_eq!(user_grant(body, None).unwrap_err().outcome(), "answer");
    }
    let rotated = user_grant(r#"{"access_token":"a","refresh_token":"new"}"#, Some(&old)).unwrap();
    assert_eq!(rotated.refresh.expose(), "new");
}

#[test]
fn an_app_grant_has_a_token_and_an_end() {
    let body =
        br#"{"access_token":"jostpf5q0uzmxmkba9iyug38kjtgh","expires_in":5011271,"token_type":"bearer"}"#;
    let grant = parse::<Grant>(body).and_then(Grant::of_app).unwrap();
    assert_eq!(grant.access.secret().expose(), "jostpf5q0uzmxmkba9iyug38kjtgh");
    assert_eq!(grant.expires_in, Duration::from_secs(5_011_271));
}

#[test]
fn a_grant_without_a_token_is_not_understood() {
    for body in ["{}", r#"{"access_token":""}"#, "[]", "", r#"{"access_token":["rfx2uswqe8l4g1"]}"#] {
        let error = parse::<Grant>(body.as_bytes()).and_then(Grant::of_app).unwrap_err();
        assert_eq!(error.outcome(), "answer", "{body}");
        assert!(!error.to_string().contains("rfx2uswqe8l4g1"), "{error}");
    }
}

#[test]
fn grants_say_no_token_in_debug() {
    let body = r#"{"access_token":"access-token","refresh_token":"refresh-token","expires_in":1}"#;
    let user = user_grant(body, None).unwrap();
    let app = parse::<Grant>(body.as_bytes()).and_then(Grant::of_app).unwrap();
    let told = format!("{user:?} {app:?} {:?}", app.access);
    assert!(!told.contains("access-token") && !told.contains("refresh-token"), "{told}");
}

#[test]
fn validation_says_whose_the_token_is() {
    let body = br#"{"client_id":"wbmytr93xzw8zbg0p1izqyzzc5mbiz","login":"twitchdev","scopes":["channel:read:subscriptions"],"user_id":"141981764","expires_in":5520838}"#;
    let expected = Identity {
        user_id: "141981764".to_owned(),
        login: "twitchdev".to_owned(),
        scopes: vec!["channel:read:subscriptions".to_owned()],
        client_id: "wbmytr93xzw8zbg0p1izqyzzc5mbiz".to_owned(),
        expires_in: Duration::from_secs(5_520_838),
    };
    assert_eq!(Identity::from(parse::<Validation>(body).unwrap()), expected);
}

#[test]
fn an_apps_token_is_nobodys() {
    let body = br#"{"client_id":"wbmytr93xzw8zbg0p1izqyzzc5mbiz","scopes":null,"expires_in":1}"#;
    let identity = Identity::from(parse::<Validation>(body).unwrap());
    assert_eq!((identity.user_id.as_str(), identity.login.as_str()), ("", ""));
    assert!(identity.scopes.is_empty());
}

#[test]
fn validation_may_leave_out_all_but_the_application() {
    for body in [
        r#"{"client_id":"wbmytr93xzw8zbg0p1izqyzzc5mbiz"}"#,
        r#"{"client_id":"wbmytr93xzw8zbg0p1izqyzzc5mbiz","login":null,"user_id":null,"scopes":"","expires_in":null}"#,
    ] {
        let identity = Identity::from(parse::<Validation>(body.as_bytes()).unwrap());
        assert_eq!(identity.expires_in, LIFE_UNTOLD, "{body}");
        assert!(identity.user_id.is_empty() && identity.scopes.is_empty(), "{body}");
    }
    let scopes = br#"{"client_id":"c","scopes":"user:bot user:read:chat","expires_in":0}"#;
    let identity = Identity::from(parse::<Validation>(scopes).unwrap());
    assert_eq!(identity.scopes, ["user:bot", "user:read:chat"]);
    assert_eq!(identity.expires_in, Duration::ZERO);
}

#[test]
fn a_401_for_a_refresh_token_is_a_refusal() {
    let message = "the user disconnected".to_owned();
    let expected = TwitchError::Refused { status: 401, message: message.clone(), id: None };
    assert_eq!(refused(TwitchError::Unauthorized(message)), expected);
    let away = TwitchError::Away("no connection".to_owned());
    assert_eq!(refused(away.clone()), away);
}

#[test]
fn revoking_a_token_that_is_no_more_is_no_error() {
    let refused =
        |status, message: &str| TwitchError::Refused { status, message: message.to_owned(), id: None };
    assert_eq!(gone(Ok(())), Ok(()));
    assert_eq!(gone(Err(refused(400, "Invalid token"))), Ok(()));
    for error in [
        refused(404, "client does not exist"),
        refused(400, "missing client id"),
        refused(403, "Invalid token"),
        TwitchError::Away("no connection".to_owned()),
    ] {
        assert_eq!(gone(Err(error.clone())), Err(error));
    }
}
