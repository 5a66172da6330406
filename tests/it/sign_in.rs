//! Signing in with Twitch, and the dashboard that it leads to.

use chatpulse::twitch::simulator::platform::Rules;

use crate::support::eventually;
use crate::support::instance::Instance;
use crate::support::platform::{ADA, BOB, BOT, Stage, Visitor};

/// The settings form as the page shows it, with changes.
fn form<'a>(csrf: &'a str, version: &'a str, changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![
        ("csrf", csrf),
        ("version", version),
        ("for_triggers", "yes"),
        ("against_triggers", "no"),
        ("for_label", "Yes"),
        ("against_label", "No"),
        ("model", "decay"),
        ("vote_delta", "10"),
        ("decay_speed", "1"),
        ("window_seconds", "30"),
        ("display", "combined"),
        ("theme", "dark"),
    ];
    for (name, value) in changes {
        fields.retain(|(known, _)| known != name);
        fields.push((name, value));
    }
    fields
}

async fn stage() -> (Stage, Instance) {
    let stage = Stage::set().await;
    let instance = stage.instance(&[]).await;
    (stage, instance)
}

#[tokio::test]
async fn a_streamer_signs_in_and_finds_their_overlay() {
    let (stage, instance) = stage().await;
    let visitor = Visitor::new();
    let dashboard = visitor.sign_in(&stage.public_url, ADA).await;
    assert!(dashboard.body.contains("/overlay/"), "{}", dashboard.body);
    assert!(dashboard.body.contains("ada"), "{}", dashboard.body);
    assert_eq!(dashboard.headers["cache-control"], "no-store");
    // Signing in again is the same streamer.
    Visitor::new().sign_in(&stage.public_url, ADA).await;
    let row = instance.sql().await.query_one("SELECT count(*) FROM chatpulse.users", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn who_is_not_signed_in_is_sent_to_sign_in() {
    let (stage, _instance) = stage().await;
    let page = Visitor::new().get(&format!("{}/dashboard", stage.public_url)).await;
    assert_eq!((page.status, page.location.as_deref()), (303, Some("/auth/login")));
    let visitor = Visitor::new();
    visitor.set_cookie("chatpulse_session", "made.up");
    let page = visitor.get(&format!("{}/dashboard", stage.public_url)).await;
    assert_eq!(page.status, 303);
}

#[tokio::test]
async fn saying_no_at_twitch_is_explained() {
    let (stage, instance) = stage().await;
    let visitor = Visitor::new();
    let login = visitor.get(&format!("{}/auth/login", stage.public_url)).await;
    let back = visitor.answer_twitch(&login, ADA, "deny").await;
    let page = visitor.follow(&back).await;
    assert_eq!(page.status, 403);
    assert!(page.body.contains("did not allow"), "{}", page.body);
    let row = instance.sql().await.query_one("SELECT count(*) FROM chatpulse.users", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_sign_in_belongs_to_its_browser_and_is_of_use_once() {
    let (stage, _instance) = stage().await;
    let visitor = Visitor::new();
    let login = visitor.get(&format!("{}/auth/login", stage.public_url)).await;
    let back = visitor.answer_twitch(&login, ADA, "authorize").await;
    let elsewhere = Visitor::new().follow(&back).await;
    assert_eq!(elsewhere.status, 400, "another browser has not begun it");
    assert_eq!(visitor.follow(&back).await.status, 303);
    let again = visitor.follow(&back).await;
    assert_eq!(again.status, 400, "it was used");
    assert!(again.body.contains("Begin again"), "{}", again.body);
}

#[tokio::test]
async fn a_made_up_state_is_refused() {
    let (stage, _instance) = stage().await;
    let visitor = Visitor::new();
    visitor.get(&format!("{}/auth/login", stage.public_url)).await;
    let other = "A".repeat(43);
    for query in ["", "state=x&code=y", &format!("state={other}&code=y")] {
        let page = visitor.get(&format!("{}/auth/callback?{query}", stage.public_url)).await;
        assert_eq!(page.status, 400, "{query}");
    }
}

#[tokio::test]
async fn signing_out_ends_the_session_for_good() {
    let (stage, _instance) = stage().await;
    let visitor = Visitor::new();
    let dashboard = visitor.sign_in(&stage.public_url, ADA).await;
    let cookie = visitor.cookie("chatpulse_session").expect("a session");
    let logout = format!("{}/auth/logout", stage.public_url);
    let refused = visitor.post(&logout, &[("csrf", "wrong")]).await;
    assert_eq!(refused.status, 403);
    let csrf = dashboard.hidden("csrf");
    let foreign = visitor.post_from(&logout, "https://evil.example", &[("csrf", &csrf)]).await;
    assert_eq!(foreign.status, 403);
    let done = visitor.post(&logout, &[("csrf", &csrf)]).await;
    assert_eq!((done.status, done.location.as_deref()), (303, Some("/")));
    visitor.set_cookie("chatpulse_session", &cookie);
    let page = visitor.get(&format!("{}/dashboard", stage.public_url)).await;
    assert_eq!(page.status, 303, "the cookie is worth nothing any more");
}

#[tokio::test]
async fn settings_are_saved_over_the_version_that_was_edited() {
    let (stage, _instance) = stage().await;
    let visitor = Visitor::new();
    let dashboard = visitor.sign_in(&stage.public_url, ADA).await;
    let csrf = dashboard.hidden("csrf");
    let url = format!("{}/dashboard/config", stage.public_url);
    let saved = visitor.post(&url, &form(&csrf, "1", &[("for_triggers", "ja\r\njawohl")])).await;
    assert_eq!(saved.status, 303, "{saved:?}");
    let page = visitor.follow(&saved).await;
    assert!(page.body.contains("jawohl") && page.hidden("version") == "2", "{}", page.body);

    let late = visitor.post(&url, &form(&csrf, "1", &[("for_triggers", "oui")])).await;
    assert_eq!(late.status, 409);
    assert!(late.body.contains("oui") && late.body.contains("jawohl"), "both versions: {}", late.body);
    assert_eq!(late.hidden("version"), "2");
    let knowingly = visitor.post(&url, &form(&csrf, "2", &[("for_triggers", "oui")])).await;
    assert_eq!(knowingly.status, 303);
}

#[tokio::test]
async fn what_can_not_be_saved_is_told_beside_what_was_typed() {
    let (stage, _instance) = stage().await;
    let visitor = Visitor::new();
    let csrf = visitor.sign_in(&stage.public_url, ADA).await.hidden("csrf");
    let url = format!("{}/dashboard/config", stage.public_url);
    let changes = [("vote_delta", "99"), ("against_triggers", "YES"), ("for_label", "<b>\"x\"</b>")];
    let page = visitor.post(&url, &form(&csrf, "1", &changes)).await;
    assert_eq!(page.status, 422);
    assert!(page.body.contains("value=\"99\"") && page.body.contains("aria-invalid"), "{}", page.body);
    assert!(!page.body.contains("<b>"), "labels are text");
}

#[tokio::test]
async fn a_form_from_elsewhere_or_without_its_token_changes_nothing() {
    let (stage, instance) = stage().await;
    let visitor = Visitor::new();
    let csrf = visitor.sign_in(&stage.public_url, ADA).await.hidden("csrf");
    let url = format!("{}/dashboard/config", stage.public_url);
    let foreign = visitor.post_from(&url, "https://evil.example", &form(&csrf, "1", &[])).await;
    assert_eq!(foreign.status, 403);
    let other = Visitor::new();
    let others = other.sign_in(&stage.public_url, BOB).await.hidden("csrf");
    let wrong = visitor.post(&url, &form(&others, "1", &[("for_label", "kept")])).await;
    assert_eq!(wrong.status, 403);
    assert!(wrong.body.contains("kept"), "nothing typed is lost: {}", wrong.body);
    assert_eq!(Visitor::new().post(&url, &form(&csrf, "1", &[])).await.status, 401);
    let sql = instance.sql().await;
    let row = sql.query_one("SELECT max(version) FROM chatpulse.configs", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_new_overlay_url_is_given_only_to_who_is_sure() {
    let (stage, _instance) = stage().await;
    let visitor = Visitor::new();
    let dashboard = visitor.sign_in(&stage.public_url, ADA).await;
    let overlay = |page: &str| page.split("/overlay/").nth(1).unwrap()[..36].to_owned();
    let before = overlay(&dashboard.body);
    let csrf = dashboard.hidden("csrf");
    let url = format!("{}/dashboard/rotate", stage.public_url);
    assert_eq!(visitor.post(&url, &[("csrf", &csrf)]).await.status, 422);
    let rotated = visitor.post(&url, &[("csrf", &csrf), ("sure", "yes")]).await;
    let after = overlay(&visitor.follow(&rotated).await.body);
    assert_ne!(before, after);
    let old = visitor.get(&format!("{}/overlay/{before}", stage.public_url)).await;
    let new = visitor.get(&format!("{}/overlay/{after}", stage.public_url)).await;
    assert_eq!((old.status, new.status), (404, 200));
}

#[tokio::test]
async fn the_bots_link_works_once_and_for_the_bot_alone() {
    let (stage, instance) = stage().await;
    let printed = instance.program(&["bot", "sign-in"]).await;
    let link = printed.stdout.lines().last().unwrap().to_owned();
    let wrong = Visitor::new().sign_in_at(&link, ADA).await;
    assert_eq!(wrong.status, 409);
    assert!(wrong.body.contains(BOT) && wrong.body.contains(ADA), "{}", wrong.body);
    assert_eq!(Visitor::new().get(&link).await.status, 400, "it was used");
    stage.sign_in_bot(&instance).await;
    let sql = instance.sql().await;
    let row =
        sql.query_one("SELECT owner_kind, owner_id, scopes FROM chatpulse.oauth_tokens", &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("bot", BOT));
    assert_eq!(row.get::<_, Vec<String>>(2), ["user:read:chat", "user:bot", "user:write:chat"]);
}

#[tokio::test]
async fn withdrawing_the_authorization_at_twitch_signs_out() {
    let (stage, instance) = stage().await;
    stage.sign_in_bot(&instance).await;
    let visitor = Visitor::new();
    visitor.sign_in(&stage.public_url, ADA).await;
    eventually("Twitch tells the application of it", async || {
        stage.platform.subscriptions().iter().any(|found| found.kind == "user.authorization.revoke")
    })
    .await;
    stage.platform.revoke(ADA);
    let url = format!("{}/dashboard", stage.public_url);
    eventually("they are signed out", async || visitor.get(&url).await.status == 303).await;
    let sql = instance.sql().await;
    let row = sql
        .query_one("SELECT status FROM chatpulse.oauth_tokens WHERE owner_id = $1", &[&ADA])
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "invalid");
}

#[tokio::test]
async fn tokens_are_refreshed_before_they_end_and_no_secret_is_in_clear_anywhere() {
    let stage = Stage::set_with(|options| {
        options.rules = Rules { user_token: std::time::Duration::from_secs(600), ..Rules::default() };
    })
    .await;
    let instance = stage.instance(&[]).await;
    Visitor::new().sign_in(&stage.public_url, ADA).await;
    let sql = instance.sql().await;
    let row = async || {
        let question = "SELECT generation, access_token, refresh_token FROM chatpulse.oauth_tokens";
        sql.query_one(question, &[]).await.unwrap()
    };
    eventually("it was refreshed", async || row().await.get::<_, i64>(0) >= 2).await;
    let tokens = stage.platform.requests();
    assert!(tokens.iter().any(|seen| seen.path.ends_with("/token")), "{tokens:?}");
    let clear = |text: &str| text.contains("the-tests-client-secret");
    assert!(!instance.lines().iter().any(|line| clear(line)));
}
