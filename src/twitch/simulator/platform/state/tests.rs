use std::time::Duration;

use serde_json::from_value;
use time::macros::datetime;

use super::*;
use crate::twitch::simulator::platform::refusal::{Fields, Refusal};

const NOW: OffsetDateTime = datetime!(2026-11-21 10:00 UTC);
const REDIRECT: &str = "http://127.0.0.1:8080/auth/callback";
const WEBHOOK: &str = "http://127.0.0.1:8080/webhooks/eventsub";
const STREAMER: &str = "1";
const BOT: &str = "2";
const VIEWER: &str = "3";
const OTHER_STREAMER: &str = "4";

/// A platform with a few accounts that have allowed nothing yet.
fn platform_by(rules: Rules) -> State {
    let accounts =
        [(STREAMER, "streamer"), (BOT, "bot"), (VIEWER, "viewer"), (OTHER_STREAMER, "other_streamer")];
    State::new(&PlatformOptions {
        redirect_uris: vec![REDIRECT.into()],
        accounts: accounts.into_iter().map(|(id, login)| Account::new(id, login)).collect(),
        seed: Some(7),
        rules,
        ..PlatformOptions::new("app", Secret::new("app-secret".into()))
    })
}

fn platform() -> State {
    platform_by(Rules::default())
}

/// One where the bot may read and write in the streamer's chat, with one enabled webhook shard.
fn platform_with_chat(rules: Rules) -> (State, String) {
    let mut state = platform_by(rules);
    grant(&mut state, BOT, &["user:read:chat", "user:bot", "user:write:chat"]);
    grant(&mut state, STREAMER, &["channel:bot"]);
    let conduit_id = conduit(&mut state, 1);
    enable(&mut state, &conduit_id, "0");
    state.take_effects();
    (state, conduit_id)
}

fn app() -> Caller {
    Caller { user_id: None, scopes: Vec::new() }
}

fn user(user_id: &str, scopes: &[&str]) -> Caller {
    let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    Caller { user_id: Some(user_id.into()), scopes }
}

fn fields(pairs: &[(&str, &str)]) -> Fields {
    let mut encoded = url::form_urlencoded::Serializer::new(String::new());
    Fields::parse(encoded.extend_pairs(pairs).finish().as_bytes())
}

fn grant(state: &mut State, user_id: &str, scopes: &[&str]) -> GrantedTokens {
    let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    state.grant(user_id, &scopes, NOW).unwrap()
}

fn conduit(state: &mut State, shards: u32) -> String {
    let made = state.create_conduit(&json!({ "shard_count": shards }), &app()).unwrap();
    made["data"][0]["id"].as_str().unwrap().to_owned()
}

fn update(state: &mut State, conduit_id: &str, shard: &str, transport: Value) -> Value {
    let asked = json!({ "conduit_id": conduit_id, "shards": [{ "id": shard, "transport": transport }] });
    state.update_shards(from_value(asked).unwrap(), &app()).unwrap()
}

fn webhook(callback: &str, secret: &str) -> Value {
    json!({ "method": "webhook", "callback": callback, "secret": secret })
}

/// Sets a webhook and has it answer its challenge.
fn enable(state: &mut State, conduit_id: &str, shard: &str) {
    update(state, conduit_id, shard, webhook(WEBHOOK, "a good secret"));
    let target = challenges(state).pop().unwrap().target;
    state.challenged(&target, true);
}

fn challenges(state: &mut State) -> Vec<Challenge> {
    let effects = state.take_effects().into_iter();
    effects.filter_map(|effect| if let Effect::Challenge(it) = effect { Some(it) } else { None }).collect()
}

fn posts(state: &mut State) -> Vec<Post> {
    let effects = state.take_effects().into_iter();
    effects.filter_map(|effect| if let Effect::Post(post) = effect { Some(post) } else { None }).collect()
}

fn body(post: &Post) -> Value {
    serde_json::from_slice(&post.message.body).unwrap()
}

fn subscribe(state: &mut State, kind: &str, condition: Value, conduit_id: &str) -> Result<String, Refusal> {
    let asked = json!({
        "type": kind, "version": "1", "condition": condition,
        "transport": { "method": "conduit", "conduit_id": conduit_id },
    });
    let made = state.create_subscription(from_value(asked).unwrap(), &app(), NOW)?;
    Ok(made["data"][0]["id"].as_str().unwrap().to_owned())
}

fn of_chat() -> Value {
    json!({ "broadcaster_user_id": STREAMER, "user_id": BOT })
}

fn subscribe_to_chat(state: &mut State, conduit_id: &str) -> String {
    subscribe(state, "channel.chat.message", of_chat(), conduit_id).unwrap()
}

fn status_of_subscription(state: &State, id: &str) -> String {
    state.subscription_views().into_iter().find(|view| view.id == id).unwrap().status
}

fn send(state: &mut State, caller: &Caller, text: &str, now: OffsetDateTime) -> Result<Value, Refusal> {
    let asked = json!({ "broadcaster_id": STREAMER, "sender_id": BOT, "message": text });
    state.send_chat(from_value(asked).unwrap(), caller, now)
}

// Tokens ----------------------------------------------------------------------------------------------

/// Authorizes on the page; answers the code.
fn code(state: &mut State, user_id: &str) -> String {
    let form = fields(&[
        ("client_id", "app"),
        ("redirect_uri", REDIRECT),
        ("response_type", "code"),
        ("scope", "channel:bot user:bot"),
        ("state", "xyz"),
        ("user_id", user_id),
        ("answer", "authorize"),
    ]);
    let target = url::Url::parse(&state.answer_consent(&form, NOW).unwrap()).unwrap();
    let pairs: HashMap<String, String> = target.query_pairs().into_owned().collect();
    assert_eq!((pairs["state"].as_str(), pairs["scope"].as_str()), ("xyz", "channel:bot user:bot"));
    pairs["code"].clone()
}

fn exchange(state: &mut State, pairs: &[(&str, &str)], now: OffsetDateTime) -> Result<Value, Refusal> {
    let form = [pairs, &[("client_id", "app"), ("client_secret", "app-secret")]].concat();
    state.token(&fields(&form), now)
}

fn refresh(state: &mut State, token: &str) -> Result<String, Refusal> {
    let answer = exchange(state, &[("grant_type", "refresh_token"), ("refresh_token", token)], NOW)?;
    Ok(answer["refresh_token"].as_str().unwrap().to_owned())
}

#[test]
fn a_code_is_exchanged_once_in_time_and_with_its_redirect_only() {
    let mut state = platform();
    let pairs = |code: String, redirect: &'static str| {
        [("grant_type", "authorization_code".to_owned()), ("code", code), ("redirect_uri", redirect.into())]
    };
    let exchanged = |state: &mut State, code: &str, redirect: &'static str, now| {
        let pairs = pairs(code.into(), redirect);
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(key, value)| (*key, value.as_str())).collect();
        exchange(state, &pairs, now)
    };
    let good = code(&mut state, STREAMER);
    let tokens = exchanged(&mut state, &good, REDIRECT, NOW).unwrap();
    assert_eq!(tokens["scope"], json!(["channel:bot", "user:bot"]));
    assert_eq!(exchanged(&mut state, &good, REDIRECT, NOW).unwrap_err().status, 400);

    let good = code(&mut state, STREAMER);
    assert_eq!(exchanged(&mut state, &good, "http://elsewhere/", NOW).unwrap_err().status, 400);
    assert_eq!(exchanged(&mut state, &good, REDIRECT, NOW).unwrap_err().status, 400);

    let old = code(&mut state, STREAMER);
    let late = NOW + Duration::from_secs(601);
    assert_eq!(exchanged(&mut state, &old, REDIRECT, late).unwrap_err().status, 400);
}

#[test]
fn a_user_who_denies_is_sent_back_with_the_error() {
    let form = fields(&[
        ("client_id", "app"),
        ("redirect_uri", REDIRECT),
        ("response_type", "code"),
        ("scope", "channel:bot"),
        ("state", "xyz"),
        ("answer", "deny"),
    ]);
    let expected =
        format!("{REDIRECT}?error=access_denied&error_description=The+user+denied+you+access&state=xyz");
    let mut state = platform();
    assert_eq!(state.answer_consent(&form, NOW), Ok(expected));
    assert!(!state.has_granted(STREAMER, "channel:bot"));
}

#[test]
fn the_authorize_page_is_not_shown_for_what_is_not_registered() {
    let state = platform();
    for (client_id, redirect, response_type, scope) in [
        ("other", REDIRECT, "code", "channel:bot"),
        ("app", "http://127.0.0.1:8080/auth/callback/", "code", "channel:bot"),
        ("app", REDIRECT, "token", "channel:bot"),
        ("app", REDIRECT, "code", "channel:everything"),
    ] {
        let query = fields(&[
            ("client_id", client_id),
            ("redirect_uri", redirect),
            ("response_type", response_type),
            ("scope", scope),
        ]);
        assert_eq!(state.consent(&query).unwrap_err().status, 400, "{query:?}");
    }
}

#[test]
fn wrong_clients_and_secrets_get_no_token() {
    let mut state = platform();
    for (client_id, secret, status) in
        [("app", "wrong", 403), ("other", "app-secret", 400), ("app", "", 400), ("", "app-secret", 400)]
    {
        let form = fields(&[
            ("client_id", client_id),
            ("client_secret", secret),
            ("grant_type", "client_credentials"),
        ]);
        assert_eq!(state.token(&form, NOW).unwrap_err().status, status, "{form:?}");
    }
    let token = exchange(&mut state, &[("grant_type", "client_credentials")], NOW).unwrap();
    assert_eq!(token.get("refresh_token"), None);
    let caller = state.caller(token["access_token"].as_str(), Some("app"), NOW);
    assert_eq!(caller, Ok(app()));
}

#[test]
fn a_refresh_token_works_until_the_one_after_it_was_used() {
    let mut state = platform();
    let first = grant(&mut state, STREAMER, &["channel:bot"]).refresh_token;
    let lost = refresh(&mut state, first.expose()).unwrap();
    let second = refresh(&mut state, first.expose()).unwrap();
    let third = refresh(&mut state, &second).unwrap();
    for ended in [first.expose(), &lost] {
        let refused = refresh(&mut state, ended).unwrap_err();
        let expected = json!({ "error": "Bad Request", "status": 400, "message": "Invalid refresh token" });
        assert_eq!(refused.body(), expected);
    }
    assert!(refresh(&mut state, &third).is_ok());
}

#[test]
fn a_strict_rotation_ends_a_refresh_token_with_its_use() {
    let mut state = platform_by(Rules { strict_rotation: true, ..Rules::default() });
    let first = grant(&mut state, STREAMER, &["channel:bot"]).refresh_token;
    let second = refresh(&mut state, first.expose()).unwrap();
    assert_eq!(refresh(&mut state, first.expose()).unwrap_err().status, 400);
    assert!(refresh(&mut state, &second).is_ok());
}

#[test]
fn an_access_token_ends_with_its_time_and_by_revocation() {
    let mut state = platform();
    let tokens = grant(&mut state, STREAMER, &["channel:bot"]);
    let token = tokens.access_token.expose();
    let identity = state.validate(token, NOW).unwrap();
    let expected = json!({
        "client_id": "app", "login": "streamer", "user_id": STREAMER, "scopes": ["channel:bot"],
        "expires_in": 14_400,
    });
    assert_eq!(identity, expected);
    assert_eq!(state.validate(token, NOW + tokens.expires_in).unwrap_err().status, 401);

    let revoked = |state: &mut State, client: &str| {
        state.revoke_token(&fields(&[("client_id", client), ("token", token)]))
    };
    assert_eq!(revoked(&mut state, "other").unwrap_err().status, 404);
    assert_eq!(revoked(&mut state, "app"), Ok(()));
    assert_eq!(revoked(&mut state, "app").unwrap_err().status, 400);
    assert_eq!(state.caller(Some(token), Some("app"), NOW).unwrap_err().status, 401);
}

#[test]
fn disconnecting_ends_tokens_and_tells_the_application() {
    let (mut state, conduit_id) = platform_with_chat(Rules::default());
    let tokens = grant(&mut state, STREAMER, &["channel:bot"]);
    let chat = subscribe_to_chat(&mut state, &conduit_id);
    subscribe(&mut state, "user.authorization.revoke", json!({ "client_id": "app" }), &conduit_id).unwrap();
    state.disconnect(STREAMER, NOW);
    let posts = posts(&mut state);
    let kinds: Vec<_> = posts.iter().map(|post| (post.message.kind, post.message.subscription)).collect();
    let expected = [
        ("notification", Some(("user.authorization.revoke", "1"))),
        ("revocation", Some(("channel.chat.message", "1"))),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(body(&posts[0])["event"]["user_login"], "streamer");
    assert_eq!(body(&posts[1])["subscription"]["status"], "authorization_revoked");
    assert_eq!(status_of_subscription(&state, &chat), "authorization_revoked");
    assert_eq!(state.validate(tokens.access_token.expose(), NOW).unwrap_err().status, 401);
    assert_eq!(refresh(&mut state, tokens.refresh_token.expose()).unwrap_err().status, 400);
}

// Conduits and shards ---------------------------------------------------------------------------------

#[test]
fn conduits_are_for_the_application_and_limited() {
    let mut state = platform();
    let body = json!({ "shard_count": 2 });
    assert_eq!(state.create_conduit(&body, &user(BOT, &[])).unwrap_err().status, 401);
    for count in [json!(0), json!(20_001), json!("2"), Value::Null] {
        let refused = state.create_conduit(&json!({ "shard_count": count }), &app());
        assert_eq!(refused.unwrap_err().status, 400);
    }
    let ids: Vec<String> = (0..5).map(|_| conduit(&mut state, 2)).collect();
    assert_eq!(state.create_conduit(&body, &app()).unwrap_err().status, 429);
    assert_eq!(state.delete_conduit(&fields(&[("id", &ids[0])]), &app()), Ok(()));
    assert_eq!(state.delete_conduit(&fields(&[("id", &ids[0])]), &app()).unwrap_err().status, 404);
    let resized = state.resize_conduit(&json!({ "id": ids[1], "shard_count": 9 }), &app()).unwrap();
    assert_eq!(resized, json!({ "data": [{ "id": ids[1], "shard_count": 9 }] }));
    assert_eq!(state.conduits(&app()).unwrap()["data"].as_array().unwrap().len(), 4);
}

#[test]
fn shards_that_can_not_be_are_told_one_by_one() {
    let mut state = platform();
    let id = conduit(&mut state, 2);
    for (shard, transport) in [
        ("2", webhook(WEBHOOK, "a good secret")),
        ("x", webhook(WEBHOOK, "a good secret")),
        ("0", webhook(WEBHOOK, "short")),
        ("0", webhook("http://example.com/webhooks/eventsub", "a good secret")),
        ("0", webhook("https://example.com:8443/webhooks/eventsub", "a good secret")),
        ("0", json!({ "method": "websocket", "session_id": "nobody" })),
        ("0", json!({ "method": "pigeon" })),
    ] {
        let answer = update(&mut state, &id, shard, transport);
        assert_eq!(answer["data"], json!([]));
        assert_eq!(answer["errors"][0]["id"], shard);
        assert_eq!(answer["errors"][0]["code"], "invalid_parameter");
    }
    assert!(challenges(&mut state).is_empty());
    let https = webhook("https://example.com/webhooks/eventsub", "a good secret");
    let answer = update(&mut state, &id, "0", https);
    assert_eq!(answer["data"][0]["status"], "webhook_callback_verification_pending");
}

#[test]
fn a_webhook_carries_nothing_before_it_answered_its_own_challenge() {
    let (mut state, conduit_id) = platform_with_chat(Rules::default());
    subscribe_to_chat(&mut state, &conduit_id);
    update(&mut state, &conduit_id, "0", webhook(WEBHOOK, "the first secret"));
    let first = challenges(&mut state).pop().unwrap();
    let body: Value = serde_json::from_slice(&first.message.body).unwrap();
    let named = json!({ "conduit_id": conduit_id, "shard": "0" });
    assert_eq!(body, json!({ "challenge": first.challenge, "conduit_shard": named }));

    update(&mut state, &conduit_id, "0", webhook(WEBHOOK, "the second secret"));
    let second = challenges(&mut state).pop().unwrap();
    state.challenged(&first.target, true);
    state.say(&Say::new(STREAMER, VIEWER, "lost"), NOW).unwrap();
    assert!(posts(&mut state).is_empty());
    state.challenged(&second.target, true);
    state.say(&Say::new(STREAMER, VIEWER, "heard"), NOW).unwrap();
    assert_eq!(posts(&mut state).len(), 1);

    update(&mut state, &conduit_id, "0", webhook(WEBHOOK, "the third secret"));
    let third = challenges(&mut state).pop().unwrap();
    state.challenged(&third.target, false);
    assert_eq!(state.shard_views()[0].status, "webhook_callback_verification_failed");
}

#[test]
fn a_channel_keeps_to_one_shard_and_moves_to_the_next_when_that_is_disabled() {
    let (mut state, conduit_id) = platform_with_chat(Rules::default());
    state.resize_conduit(&json!({ "id": conduit_id, "shard_count": 2 }), &app()).unwrap();
    enable(&mut state, &conduit_id, "1");
    subscribe_to_chat(&mut state, &conduit_id);
    let shard_of_next = |state: &mut State| {
        state.say(&Say::new(STREAMER, VIEWER, "hello"), NOW).unwrap();
        posts(state).first().map(|post| post.target.shard)
    };
    let first = shard_of_next(&mut state).unwrap();
    assert_eq!(shard_of_next(&mut state), Some(first));
    state.disable_shard(&conduit_id, first, FAILURES_EXCEEDED, NOW).unwrap();
    let second = shard_of_next(&mut state).unwrap();
    assert_ne!(second, first);
    state.disable_shard(&conduit_id, second, FAILURES_EXCEEDED, NOW).unwrap();
    assert_eq!(shard_of_next(&mut state), None);
    assert_eq!(state.counts().dropped, 1);
}

#[test]
fn failures_in_a_row_disable_a_shard_and_are_told() {
    let (mut state, conduit_id) = platform_with_chat(Rules { failures_max: 3, ..Rules::default() });
    state.resize_conduit(&json!({ "id": conduit_id, "shard_count": 2 }), &app()).unwrap();
    enable(&mut state, &conduit_id, "1");
    subscribe(&mut state, "conduit.shard.disabled", json!({ "client_id": "app" }), &conduit_id).unwrap();
    subscribe_to_chat(&mut state, &conduit_id);
    state.say(&Say::new(STREAMER, VIEWER, "hello"), NOW).unwrap();
    let target = posts(&mut state).pop().unwrap().target;
    for is_taken in [false, false, true, false, false] {
        assert!(state.posted(&target, is_taken, NOW));
    }
    assert!(!state.posted(&target, false, NOW));
    let told = body(&posts(&mut state).pop().unwrap());
    assert_eq!(told["event"]["shard_id"], target.shard.to_string());
    assert_eq!(told["event"]["status"], "notification_failures_exceeded");
    assert_eq!(told["event"]["transport"]["callback"], WEBHOOK);
    assert!(!state.posted(&target, false, NOW));
}

// Subscriptions ---------------------------------------------------------------------------------------

#[test]
fn chat_is_read_with_the_leave_of_both_or_as_a_moderator() {
    let mut state = platform();
    let id = conduit(&mut state, 1);
    let allowed = |state: &mut State| match subscribe(state, "channel.chat.message", of_chat(), &id) {
        Ok(made) => state.delete_subscription(&fields(&[("id", &made)]), &app()),
        Err(refusal) => Err(refusal),
    };
    let refused = Err(Refusal::new(403, "subscription missing proper authorization"));
    assert_eq!(allowed(&mut state), refused);
    grant(&mut state, BOT, &["user:read:chat"]);
    grant(&mut state, STREAMER, &["channel:bot"]);
    assert_eq!(allowed(&mut state), refused);
    grant(&mut state, BOT, &["user:bot"]);
    assert_eq!(allowed(&mut state), Ok(()));
    state.disconnect(STREAMER, NOW);
    assert_eq!(allowed(&mut state), refused);
    state.set_moderator(STREAMER, BOT, true, NOW).unwrap();
    assert_eq!(allowed(&mut state), Ok(()));
    state.ban(STREAMER, BOT, NOW).unwrap();
    assert_eq!(allowed(&mut state), refused);
    state.unban(STREAMER, BOT);
    assert_eq!(allowed(&mut state), Ok(()));
}

#[test]
fn a_subscription_that_is_there_conflicts_until_it_is_dead() {
    let (mut state, conduit_id) = platform_with_chat(Rules::default());
    let existing = subscribe_to_chat(&mut state, &conduit_id);
    let conflict = subscribe(&mut state, "channel.chat.message", of_chat(), &conduit_id).unwrap_err();
    let expected = json!({
        "error": "Conflict", "status": 409, "message": "subscription already exists", "id": existing,
    });
    assert_eq!(conflict.body(), expected);
    state.revoke_subscription(&existing, "notification_failures_exceeded", NOW).unwrap();
    assert!(subscribe(&mut state, "channel.chat.message", of_chat(), &conduit_id).is_ok());
    for _ in 0..2 {
        let other = conduit(&mut state, 1);
        assert!(subscribe(&mut state, "channel.chat.message", of_chat(), &other).is_ok());
    }
    let fourth = conduit(&mut state, 1);
    let refused = subscribe(&mut state, "channel.chat.message", of_chat(), &fourth).unwrap_err();
    assert_eq!(refused, Refusal::new(429, "maximum subscriptions with type and condition exceeded"));
}

#[test]
fn what_can_not_be_subscribed_to_is_refused() {
    let (mut state, conduit_id) = platform_with_chat(Rules::default());
    let good = json!({ "broadcaster_user_id": STREAMER });
    for (kind, condition, conduit_id, status) in [
        ("stream.sideways", good.clone(), conduit_id.as_str(), 400),
        ("stream.online", json!({}), &conduit_id, 400),
        ("stream.online", json!({ "broadcaster_user_id": "99" }), &conduit_id, 400),
        ("stream.online", json!({ "broadcaster_user_id": STREAMER, "colour": "red" }), &conduit_id, 400),
        ("stream.online", good, "nobody's", 400),
        ("user.authorization.revoke", json!({ "client_id": "other" }), &conduit_id, 403),
    ] {
        let refused = subscribe(&mut state, kind, condition, conduit_id).unwrap_err();
        assert_eq!(refused.status, status, "{kind}: {refused}");
    }
    let transport = json!({ "method": "webhook", "callback": WEBHOOK, "secret": "a good secret" });
    let condition = json!({ "broadcaster_user_id": STREAMER });
    let asked = json!({
        "type": "stream.online", "version": "1", "condition": condition, "transport": transport,
    });
    let refused = state.create_subscription(from_value(asked).unwrap(), &app(), NOW).unwrap_err();
    assert_eq!(refused, Refusal::new(400, "invalid transport"));
}

#[test]
fn a_channel_that_authorized_nothing_costs() {
    let (mut state, conduit_id) = platform_with_chat(Rules { max_total_cost: 1, ..Rules::default() });
    for (broadcaster_id, cost) in [(STREAMER, 0), (OTHER_STREAMER, 1)] {
        let condition = json!({ "broadcaster_user_id": broadcaster_id });
        let id = subscribe(&mut state, "stream.online", condition, &conduit_id).unwrap();
        let view = state.subscription_views().into_iter().find(|view| view.id == id).unwrap();
        assert_eq!(view.cost, cost);
    }
    let condition = json!({ "broadcaster_user_id": OTHER_STREAMER });
    let refused = subscribe(&mut state, "stream.offline", condition, &conduit_id).unwrap_err();
    assert_eq!(refused.status, 429);
    let list = state.subscriptions(&fields(&[]), &app()).unwrap();
    let totals = (&list["total"], &list["total_cost"], &list["max_total_cost"]);
    assert_eq!(totals, (&json!(2), &json!(1), &json!(1)));
}

#[test]
fn subscriptions_are_listed_in_pages_by_one_filter() {
    let (mut state, conduit_id) = platform_with_chat(Rules { page_size: 2, ..Rules::default() });
    subscribe_to_chat(&mut state, &conduit_id);
    for kind in ["stream.online", "stream.offline"] {
        for broadcaster_id in [STREAMER, OTHER_STREAMER] {
            let condition = json!({ "broadcaster_user_id": broadcaster_id });
            subscribe(&mut state, kind, condition, &conduit_id).unwrap();
        }
    }
    let list = |query: &[(&str, &str)]| state.subscriptions(&fields(query), &app()).unwrap();
    let first = list(&[("conduit_id", &conduit_id)]);
    let cursor = first["pagination"]["cursor"].as_str().unwrap();
    let second = list(&[("conduit_id", &conduit_id), ("after", cursor)]);
    let cursor = second["pagination"]["cursor"].as_str().unwrap();
    let third = list(&[("conduit_id", &conduit_id), ("after", cursor)]);
    let lengths = [&first, &second, &third].map(|page| page["data"].as_array().unwrap().len());
    assert_eq!((lengths, &third["pagination"]), ([2, 2, 1], &json!({})));
    assert_eq!(list(&[("user_id", BOT)])["data"].as_array().unwrap().len(), 1);
    assert_eq!(list(&[("type", "stream.online")])["data"].as_array().unwrap().len(), 2);
    assert_eq!(list(&[("status", "authorization_revoked")])["data"], json!([]));
    let refused = state.subscriptions(&fields(&[("type", "a"), ("status", "b")]), &app());
    assert_eq!(refused.unwrap_err().status, 400);
}

#[test]
fn a_banned_bot_loses_its_chat_and_hears_why() {
    let (mut state, conduit_id) = platform_with_chat(Rules::default());
    let id = subscribe_to_chat(&mut state, &conduit_id);
    state.ban(STREAMER, BOT, NOW).unwrap();
    let told = body(&posts(&mut state).pop().unwrap());
    assert_eq!(told["subscription"]["status"], "chat_user_banned");
    assert_eq!(status_of_subscription(&state, &id), "chat_user_banned");
}

#[test]
fn a_conduit_takes_its_subscriptions_with_it() {
    let (mut state, conduit_id) = platform_with_chat(Rules::default());
    let id = subscribe_to_chat(&mut state, &conduit_id);
    state.drop_conduit(&conduit_id).unwrap();
    assert_eq!(status_of_subscription(&state, &id), "conduit_deleted");
    state.say(&Say::new(STREAMER, VIEWER, "anybody?"), NOW).unwrap();
    assert!(state.take_effects().is_empty());
}

// WebSockets ------------------------------------------------------------------------------------------

/// A session by connection 1 that carries shard 0.
fn attached(state: &mut State, conduit_id: &str) -> Opened {
    let opened = state.open_session(1, &fields(&[]), NOW).unwrap();
    assert!(state.is_unused(&opened.session_id, 1));
    let transport = json!({ "method": "websocket", "session_id": opened.session_id });
    let answer = update(state, conduit_id, "0", transport);
    assert_eq!(answer["data"][0]["status"], "enabled");
    assert!(!state.is_unused(&opened.session_id, 1));
    opened
}

/// What connections were told to say.
fn said(state: &mut State) -> Vec<(u64, Value)> {
    let effects = state.take_effects().into_iter();
    let texts = effects.filter_map(|effect| match effect {
        Effect::Order { connection, order: Order::Say(text) | Order::Reconnect(text) } => {
            Some((connection, serde_json::from_str(&text).unwrap()))
        }
        _ => None,
    });
    texts.collect()
}

#[test]
fn a_session_is_welcomed_with_the_nearest_possible_keepalive() {
    let mut state = platform();
    for (asked, seconds) in [("", 10), ("30", 30), ("1", 10), ("-1", 10), ("9999", 600), ("x", 10)] {
        let query = fields(&[("keepalive_timeout_seconds", asked)]);
        let opened = state.open_session(1, &query, NOW).unwrap();
        let welcome: Value = serde_json::from_str(&opened.welcome).unwrap();
        let session = &welcome["payload"]["session"];
        assert_eq!(welcome["metadata"]["message_type"], "session_welcome");
        assert_eq!((&session["id"], &session["status"]), (&json!(opened.session_id), &json!("connected")));
        assert_eq!(session["keepalive_timeout_seconds"], seconds, "{asked:?}");
    }
}

#[test]
fn a_session_carries_its_shard_and_follows_a_reconnect() {
    for renames_on_reconnect in [false, true] {
        let (mut state, conduit_id) = platform_with_chat(Rules { renames_on_reconnect, ..Rules::default() });
        subscribe_to_chat(&mut state, &conduit_id);
        let opened = attached(&mut state, &conduit_id);
        state.say(&Say::new(STREAMER, VIEWER, "one"), NOW).unwrap();
        let (connection, notification) = said(&mut state).pop().unwrap();
        assert_eq!((connection, &notification["metadata"]["message_type"]), (1, &json!("notification")));
        assert_eq!(notification["metadata"]["subscription_type"], "channel.chat.message");
        assert_eq!(notification["payload"]["event"]["message"]["text"], "one");

        assert_eq!(state.reconnect_sessions("ws://here/ws", NOW), 1);
        let (_, message) = said(&mut state).pop().unwrap();
        let url = message["payload"]["session"]["reconnect_url"].as_str().unwrap().to_owned();
        let query = Fields::parse(url.split_once('?').unwrap().1.as_bytes());
        let reopened = state.open_session(2, &query, NOW).unwrap();
        assert_eq!(reopened.session_id != opened.session_id, renames_on_reconnect);
        assert_eq!(state.open_session(3, &query, NOW).unwrap_err(), 4007);

        state.session_ended(&opened.session_id, 1, 1000, NOW);
        state.say(&Say::new(STREAMER, VIEWER, "two"), NOW).unwrap();
        assert_eq!(said(&mut state).pop().unwrap().0, 2);
        state.session_ended(&reopened.session_id, 2, 4002, NOW);
        assert_eq!(state.shard_views()[0].status, "websocket_failed_ping_pong");
        state.say(&Say::new(STREAMER, VIEWER, "three"), NOW).unwrap();
        assert!(said(&mut state).is_empty());
    }
}

// Chat ------------------------------------------------------------------------------------------------

#[test]
fn chat_has_fragments_badges_and_replies() {
    let (mut state, conduit_id) = platform_with_chat(Rules::default());
    subscribe_to_chat(&mut state, &conduit_id);
    state.set_moderator(STREAMER, VIEWER, true, NOW).unwrap();
    let parent = state.say(&Say::new(STREAMER, STREAMER, "who is there?"), NOW).unwrap();
    let say = Say { reply_to: Some(parent.clone()), ..Say::new(STREAMER, VIEWER, "me Kappa  @bot Kappa") };
    state.say(&say, NOW).unwrap();
    let event = body(&posts(&mut state).pop().unwrap())["event"].take();
    let fragments: Vec<(&str, &str)> = event["message"]["fragments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fragment| (fragment["type"].as_str().unwrap(), fragment["text"].as_str().unwrap()))
        .collect();
    let (space, emote) = (("text", " "), ("emote", "Kappa"));
    let expected = [("text", "me "), emote, ("text", "  "), ("mention", "@bot"), space, emote];
    assert_eq!(fragments, expected);
    assert_eq!(event["badges"], json!([{ "set_id": "moderator", "id": "1", "info": "" }]));
    assert_eq!(event["reply"]["parent_message_id"], parent);
    assert_eq!(event["source_broadcaster_user_id"], Value::Null);
}

#[test]
fn a_shared_chat_brings_messages_with_their_source() {
    let (mut state, conduit_id) = platform_with_chat(Rules::default());
    subscribe_to_chat(&mut state, &conduit_id);
    state.begin_shared_chat(&[OTHER_STREAMER.into(), STREAMER.into()], NOW).unwrap();
    let id = state.say(&Say::new(OTHER_STREAMER, VIEWER, "from elsewhere"), NOW).unwrap();
    let event = body(&posts(&mut state).pop().unwrap())["event"].take();
    assert_eq!(event["broadcaster_user_id"], STREAMER);
    assert_eq!(event["source_broadcaster_user_id"], OTHER_STREAMER);
    assert_eq!(event["source_message_id"], id);
    state.say(&Say { source_only: true, ..Say::new(OTHER_STREAMER, VIEWER, "not for you") }, NOW).unwrap();
    assert!(posts(&mut state).is_empty());
    state.end_shared_chat(STREAMER, NOW).unwrap();
    state.say(&Say::new(OTHER_STREAMER, VIEWER, "alone"), NOW).unwrap();
    assert!(posts(&mut state).is_empty());
}

#[test]
fn a_message_is_sent_only_by_whom_it_may_be() {
    let (mut state, _) = platform_with_chat(Rules::default());
    let status = |result: Result<Value, Refusal>| result.unwrap_err().status;
    assert_eq!(status(send(&mut state, &user(VIEWER, &["user:write:chat"]), "hi", NOW)), 401);
    assert_eq!(status(send(&mut state, &user(BOT, &["user:bot"]), "hi", NOW)), 401);
    assert_eq!(status(send(&mut state, &app(), " ", NOW)), 400);
    assert_eq!(status(send(&mut state, &app(), &"x".repeat(501), NOW)), 422);
    assert!(send(&mut state, &app(), &"ä".repeat(500), NOW).is_ok());
    assert!(send(&mut state, &user(BOT, &["user:write:chat"]), "hi", NOW).is_ok());
    state.disconnect(STREAMER, NOW);
    assert_eq!(status(send(&mut state, &app(), "hello", NOW)), 403);
    state.ban(STREAMER, BOT, NOW).unwrap();
    assert_eq!(status(send(&mut state, &user(BOT, &["user:write:chat"]), "hello", NOW)), 403);
}

#[test]
fn a_sent_message_is_chat_unless_it_is_dropped() {
    let rules = Rules { rejected_words: vec!["Spoiler".into()], ..Rules::default() };
    let (mut state, conduit_id) = platform_with_chat(rules);
    subscribe_to_chat(&mut state, &conduit_id);
    let answer = send(&mut state, &app(), "the mood is good", NOW).unwrap();
    let event = body(&posts(&mut state).pop().unwrap())["event"].take();
    assert_eq!(event["chatter_user_id"], BOT);
    assert_eq!(event["message_id"], answer["data"][0]["message_id"]);
    let again = NOW + Duration::from_secs(29);
    for (text, code) in [("the mood is good", "msg_duplicate"), ("a spoiler", "msg_rejected")] {
        let answer = send(&mut state, &app(), text, again).unwrap();
        assert_eq!(answer["data"][0]["is_sent"], false);
        assert_eq!(answer["data"][0]["drop_reason"]["code"], code);
    }
    assert!(posts(&mut state).is_empty());
    let codes: Vec<_> = state.sent().iter().map(|sent| sent.drop_code).collect();
    assert_eq!(codes, [None, Some("msg_duplicate"), Some("msg_rejected")]);
}

#[test]
fn who_sends_too_much_has_to_wait_and_a_moderator_may_send_more() {
    let rules = Rules { chat_sends_max: 2, chat_sends_privileged_max: 3, ..Rules::default() };
    let (mut state, _) = platform_with_chat(rules);
    for text in ["one", "two"] {
        assert!(send(&mut state, &app(), text, NOW).is_ok());
    }
    assert_eq!(send(&mut state, &app(), "three", NOW).unwrap_err().status, 429);
    state.set_moderator(STREAMER, BOT, true, NOW).unwrap();
    assert!(send(&mut state, &app(), "three", NOW).is_ok());
    assert_eq!(send(&mut state, &app(), "four", NOW).unwrap_err().status, 429);
    assert!(send(&mut state, &app(), "four", NOW + Duration::from_secs(30)).is_ok());
}

#[test]
fn moderation_is_told_as_it_happens() {
    let (mut state, conduit_id) = platform_with_chat(Rules::default());
    for kind in ["channel.chat.message_delete", "channel.chat.clear_user_messages", "channel.chat.clear"] {
        subscribe(&mut state, kind, of_chat(), &conduit_id).unwrap();
    }
    let of_channel = json!({ "broadcaster_user_id": STREAMER });
    subscribe(&mut state, "stream.online", of_channel, &conduit_id).unwrap();
    let id = state.say(&Say::new(STREAMER, VIEWER, "rude"), NOW).unwrap();
    state.delete_message(&id, NOW).unwrap();
    assert_eq!(state.delete_message(&id, NOW).unwrap_err().status, 404);
    state.clear_user(STREAMER, VIEWER, NOW).unwrap();
    state.clear_chat(STREAMER, NOW).unwrap();
    state.go_live(STREAMER, NOW).unwrap();
    assert_eq!(state.go_live(STREAMER, NOW).unwrap_err().status, 409);
    let posts = posts(&mut state);
    let events: Vec<Value> = posts.iter().map(|post| body(post)["event"].take()).collect();
    assert_eq!((&events[0]["message_id"], &events[0]["target_user_id"]), (&json!(id), &json!(VIEWER)));
    assert_eq!(events[1]["target_user_login"], "viewer");
    assert_eq!(events[2]["broadcaster_user_login"], "streamer");
    assert_eq!((events.len(), &events[3]["type"]), (4, &json!("live")));
    let streams = state.streams(&fields(&[("user_id", STREAMER), ("user_id", BOT)])).unwrap();
    assert_eq!(streams["data"][0]["id"], events[3]["id"]);
}

// Requests --------------------------------------------------------------------------------------------

#[test]
fn points_run_out_and_come_back() {
    let mut state = platform_by(Rules { points_per_minute: 60, ..Rules::default() });
    let last = (0..60).map(|_| state.charge(&app(), NOW)).last().unwrap();
    let reset = NOW.unix_timestamp() + 60;
    assert_eq!(last, Points { limit: 60, remaining: 0, reset, is_allowed: true });
    assert!(!state.charge(&app(), NOW).is_allowed);
    assert!(state.charge(&user(BOT, &[]), NOW).is_allowed);
    assert!(state.charge(&app(), NOW + Duration::from_secs(1)).is_allowed);
    assert!(!state.charge(&app(), NOW + Duration::from_secs(1)).is_allowed);
}

#[test]
fn faults_are_used_up_by_the_requests_they_are_for() {
    let mut state = platform();
    let failure = Failure::Status { status: 503, message: String::new() };
    let (path, method) = ("/helix/eventsub".to_owned(), Some("POST".to_owned()));
    state.add_fault(Fault { path, method, times: 2, failure: failure.clone() });
    assert_eq!(state.take_fault("GET", "/helix/eventsub/conduits"), None);
    assert_eq!(state.take_fault("POST", "/oauth2/token"), None);
    assert_eq!(state.take_fault("POST", "/helix/eventsub/conduits"), Some(failure.clone()));
    assert_eq!(state.take_fault("post", "/helix/eventsub/subscriptions"), Some(failure));
    assert_eq!(state.take_fault("POST", "/helix/eventsub/conduits"), None);
}

#[test]
fn users_are_found_by_id_login_and_their_own_token() {
    let state = platform();
    let ids = |query: &[(&str, &str)], caller: &Caller| {
        let found = state.users(&fields(query), caller).unwrap();
        let users = found["data"].as_array().unwrap().iter();
        users.map(|user| user["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&[("id", STREAMER), ("login", "bot"), ("id", "99")], &app()), [STREAMER, BOT]);
    assert_eq!(ids(&[], &user(VIEWER, &[])), [VIEWER]);
    assert_eq!(state.users(&fields(&[]), &app()).unwrap_err().status, 400);
    let many = vec![("id", "1"); 101];
    assert_eq!(state.users(&fields(&many), &app()).unwrap_err().status, 400);
}
