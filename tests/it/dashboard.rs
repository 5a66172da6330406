//! The dashboard: recording, what chat said, and that nothing typed is lost.

use serde_json::json;

use crate::support::admin::{Admin, TOKEN_SETTING, config_with};
use crate::support::browser::Browser;
use crate::support::eventually;
use crate::support::instance::{Instance, Stores};
use crate::support::overlay::Overlay;
use crate::support::platform::{ADA, Page, Stage, VIEWER, Visitor};
use crate::support::proxy::{Mode, Proxy};

fn at(stage: &Stage, path: &str) -> String {
    format!("{}{path}", stage.public_url)
}

/// Whether the dashboard says this, sooner or later.
async fn says(stage: &Stage, visitor: &Visitor, text: &str) -> Page {
    let mut page = None;
    eventually(text, async || {
        let loaded = visitor.get(&at(stage, "/dashboard")).await;
        let is_said = loaded.body.contains(text);
        page = Some(loaded);
        is_said
    })
    .await;
    page.expect("it was loaded")
}

#[tokio::test]
async fn recording_is_on_once_signed_in_and_can_be_switched_off_and_on_again() {
    let stage = Stage::set().await;
    let _instance = stage.instance(&[]).await;
    let visitor = Visitor::new();
    let dashboard = visitor.sign_in(&stage.public_url, ADA).await;
    assert_eq!(dashboard.hidden("recorded"), "no", "what the button does");
    says(&stage, &visitor, "Your stream is offline. It is recorded whenever you are live.").await;

    let (url, csrf) = (at(&stage, "/dashboard/recording"), dashboard.hidden("csrf"));
    let off = visitor.post(&url, &[("csrf", &csrf), ("recorded", "no")]).await;
    assert_eq!((off.status, off.location.as_deref()), (303, Some("/dashboard?recording-off")));
    let page = visitor.follow(&off).await;
    assert!(page.body.contains("Recording is off."), "{}", page.body);
    assert_eq!(page.hidden("recorded"), "yes");
    let on = visitor.post(&url, &[("csrf", &csrf), ("recorded", "yes")]).await;
    assert_eq!((on.status, on.location.as_deref()), (303, Some("/dashboard?recording-on")));
    assert_eq!(visitor.follow(&on).await.hidden("recorded"), "no");
}

#[tokio::test]
async fn a_stream_that_is_live_is_recorded_from_when_that_is_switched_on() {
    let stage = Stage::set().await;
    stage.platform.go_live(ADA).expect("Ada goes live");
    let instance = stage.instance(&[("CHATPULSE_SESSION__ORPHAN_SECONDS", "1")]).await;
    let visitor = Visitor::new();
    let csrf = visitor.sign_in(&stage.public_url, ADA).await.hidden("csrf");
    says(&stage, &visitor, "and is being recorded.").await;

    let url = at(&stage, "/dashboard/recording");
    visitor.post(&url, &[("csrf", &csrf), ("recorded", "no")]).await;
    let sql = instance.sql().await;
    eventually("the session has ended", async || {
        let row = sql.query_one("SELECT count(*) FROM chatpulse.live_sessions", &[]).await.expect("a count");
        row.get::<_, i64>(0) == 0
    })
    .await;
    visitor.post(&url, &[("csrf", &csrf), ("recorded", "yes")]).await;
    says(&stage, &visitor, "and is being recorded.").await;
}

#[tokio::test]
async fn recording_is_not_changed_without_a_token_or_by_a_form_that_does_not_say_how() {
    let stage = Stage::set().await;
    let _instance = stage.instance(&[]).await;
    let visitor = Visitor::new();
    let csrf = visitor.sign_in(&stage.public_url, ADA).await.hidden("csrf");
    let url = at(&stage, "/dashboard/recording");
    assert_eq!(visitor.post(&url, &[("csrf", "made up"), ("recorded", "no")]).await.status, 403);
    let fields = [("csrf", csrf.as_str()), ("recorded", "no")];
    assert_eq!(visitor.post_from(&url, "https://evil.example", &fields).await.status, 403);
    assert_eq!(Visitor::new().post(&url, &fields).await.status, 401);
    for wrong in ["", "perhaps"] {
        let answer = visitor.post(&url, &[("csrf", &csrf), ("recorded", wrong)]).await;
        assert_eq!(answer.status, 400, "{wrong:?}");
    }
    assert_eq!(visitor.get(&at(&stage, "/dashboard")).await.hidden("recorded"), "no", "it is still on");
}

/// Ada, signed in, with an overlay and a chat that is read.
async fn listening(stage: &Stage) -> (Instance, Visitor, Overlay) {
    let instance = stage.instance(&[]).await;
    stage.sign_in_bot(&instance).await;
    let visitor = Visitor::new();
    visitor.sign_in(&stage.public_url, ADA).await;
    let overlay = stage.overlay_of(&instance, ADA).await;
    eventually("the chat is subscribed to", async || {
        let all = stage.platform.subscriptions();
        all.iter().any(|found| found.kind == "channel.chat.message" && found.status == "enabled")
    })
    .await;
    (instance, visitor, overlay)
}

#[tokio::test]
async fn what_chat_says_is_shown_with_what_it_voted_for_and_what_was_deleted_is_not() {
    let stage = Stage::set().await;
    let (_instance, visitor, _overlay) = listening(&stage).await;
    stage.say(ADA, VIEWER, "yes");
    let page = says(&stage, &visitor, "Vote: Yes").await;
    assert!(page.body.contains("viewer"), "{}", page.body);
    says(&stage, &visitor, "The last message was heard").await;

    let bad = stage.say(ADA, VIEWER, "something bad");
    stage.say(ADA, VIEWER, "<b>loud</b>");
    let page = says(&stage, &visitor, "something bad").await;
    assert!(!page.body.contains("<b>"), "messages are text: {}", page.body);
    stage.platform.delete_message(&bad).expect("it is deleted");
    eventually("the deleted message is not shown", async || {
        let page = visitor.get(&at(&stage, "/dashboard")).await;
        page.body.contains("loud") && !page.body.contains("something bad")
    })
    .await;
}

#[tokio::test]
async fn a_trigger_with_a_line_break_is_shown_on_one_line_and_stays_one_when_saved() {
    let stage = Stage::set().await;
    let instance = stage.instance(&[TOKEN_SETTING]).await;
    let visitor = Visitor::new();
    visitor.sign_in(&stage.public_url, ADA).await;
    let ada = stage.streamer(&instance, ADA).await;
    let config = config_with(json!({ "for_triggers": ["go\nleft", "yes"] }));
    let saved = Admin::of(&instance).save(ada.id, "\"1\"", &config).await;
    assert_eq!(saved.status, 200, "{saved:?}");
    let page = says(&stage, &visitor, "go left\nyes</textarea>").await;
    let (csrf, version) = (page.hidden("csrf"), page.hidden("version"));
    let fields = [
        ("csrf", csrf.as_str()),
        ("version", version.as_str()),
        ("for_triggers", "go left\r\nyes"),
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
    assert_eq!(visitor.post(&at(&stage, "/dashboard/config"), &fields).await.status, 303);
    says(&stage, &visitor, "go left\nyes</textarea>").await;
}

#[tokio::test]
async fn the_page_can_be_looked_at_while_redis_is_away() {
    let stage = Stage::set().await;
    let mut stores = Stores::migrated().await;
    let proxy = Proxy::before(&stores.redis_url, 1);
    stores.redis_url = proxy.url(&stores.redis_url);
    let instance = stage.instance_on(stores, &[]).await;
    let visitor = Visitor::new();
    visitor.sign_in(&stage.public_url, ADA).await;
    let _overlay = stage.overlay_of(&instance, ADA).await;
    proxy.set(Mode::Cut);
    let page = says(&stage, &visitor, "Nothing can be changed just now").await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("What chat said is not known just now"), "{}", page.body);
    proxy.heal();
    eventually("all is known again", async || {
        let page = visitor.get(&at(&stage, "/dashboard")).await;
        page.status == 200 && !page.body.contains("just now")
    })
    .await;
}

/// A browser in which Ada is signed in, on her dashboard.
async fn browser(stage: &Stage) -> Browser {
    let visitor = Visitor::new();
    visitor.sign_in(&stage.public_url, ADA).await;
    let cookie = visitor.cookie("chatpulse_session").expect("a session");
    let browser = Browser::start().await;
    browser.open(&at(stage, "/")).await;
    browser.eval(&format!("document.cookie = 'chatpulse_session={cookie}; path=/'")).await;
    browser.open(&at(stage, "/dashboard")).await;
    browser
}

/// Waits until an expression holds in the page.
async fn shows(browser: &Browser, expression: &str) {
    eventually(expression, async || browser.eval(expression).await == true).await;
}

async fn type_label(browser: &Browser, text: &str) {
    let typed = format!(
        "(() => {{ const field = document.getElementById('for_label'); field.value = '{text}'; \
         field.dispatchEvent(new Event('input', {{ bubbles: true }})); return true; }})()"
    );
    browser.eval(&typed).await;
}

async fn send(browser: &Browser, action: &str) {
    let button = format!("[action=\"/dashboard/{action}\"] button");
    browser.eval(&format!("document.querySelector('{button}').click()")).await;
}

#[tokio::test]
async fn what_was_typed_outlives_other_forms_and_one_that_is_refused_until_it_is_saved_or_dropped() {
    let stage = Stage::set().await;
    let _instance = stage.instance(&[("CHATPULSE_LIMITS__FORMS_PER_MINUTE", "2")]).await;
    let browser = browser(&stage).await;
    let label = |text: &str| format!("document.getElementById('for_label')?.value === '{text}'");
    let told = "document.getElementById('kept')?.hidden === false";

    type_label(&browser, "Typed").await;
    send(&browser, "reset").await;
    shows(&browser, "document.body?.innerText.includes('The bar is in the middle')").await;
    shows(&browser, &format!("{} && {told}", label("Typed"))).await;
    assert_eq!(browser.eval("location.search").await, "", "it is told once");

    send(&browser, "config").await;
    shows(&browser, "document.body?.innerText.includes('Saved. Open overlays show it already.')").await;
    shows(&browser, &format!("{} && !({told}) && sessionStorage.length === 0", label("Typed"))).await;

    type_label(&browser, "Refused").await;
    send(&browser, "config").await;
    shows(&browser, "document.body?.innerText.includes('too often')").await;
    browser.open(&at(&stage, "/dashboard")).await;
    shows(&browser, &format!("{} && {told}", label("Refused"))).await;
    assert_eq!(browser.eval("JSON.stringify(sessionStorage).includes('csrf')").await, false);

    browser.eval("document.getElementById('drop').click()").await;
    shows(&browser, &format!("{} && !({told}) && sessionStorage.length === 0", label("Typed"))).await;
    browser.open(&at(&stage, "/dashboard")).await;
    shows(&browser, &format!("{} && !({told})", label("Typed"))).await;
}
