//! The overlay's page in a real browser.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::admin::{Admin, TOKEN_SETTING, config_with};
use crate::support::browser::Browser;
use crate::support::eventually;
use crate::support::instance::{Instance, Shared, Slot, Streamer};

/// One repeated frame a minute: what the page shows meanwhile it has worked out by itself.
const SETTINGS: [(&str, &str); 4] = [
    TOKEN_SETTING,
    ("CHATPULSE_SESSION__KEYFRAME_SECONDS", "60"),
    // Patience with a busy machine: these tests don't repeat a vote that was refused, as Twitch does.
    ("CHATPULSE_LIMITS__VOTE_WAIT_MS", "5000"),
    ("CHATPULSE_DATABASE__APPEND_TIMEOUT_MS", "5000"),
];

/// Notes each value that the bar has had, each socket, each timer and each broken rule of the page's policy.
const WITNESS: &str = "
    window.seen = { values: [], sockets: 0, timers: 0, violations: [] };
    const RealSocket = WebSocket, realTimeout = setTimeout;
    window.WebSocket = class extends RealSocket { constructor(...a) { super(...a); seen.sockets += 1; } };
    window.setTimeout = (...a) => { seen.timers += 1; return realTimeout(...a); };
    addEventListener('securitypolicyviolation', (event) => seen.violations.push(event.violatedDirective));
    new MutationObserver((records) => {
        for (const { target } of records) {
            if (target.role === 'meter') seen.values.push(Number(target.ariaValueNow));
        }
    }).observe(document, { subtree: true, attributeFilter: ['aria-valuenow'] });";

/// One instance for the tests that don't end it.
async fn instance() -> Shared {
    static INSTANCE: Slot = Slot::new();
    INSTANCE.get(&SETTINGS).await
}

/// A browser that shows a streamer's overlay, which has had its hello.
async fn showing(instance: &Instance, streamer: &Streamer) -> Browser {
    let browser = Browser::start().await;
    browser.run_first(WITNESS).await;
    open(&browser, instance, streamer).await;
    browser
}

async fn open(browser: &Browser, instance: &Instance, streamer: &Streamer) {
    browser.open(&address(instance, streamer.overlay_uuid)).await;
    shows(browser, "data('connected') === 'true' && data('live') === 'true'").await;
}

fn address(instance: &Instance, overlay_uuid: Uuid) -> String {
    format!("http://{}/overlay/{overlay_uuid}", instance.public)
}

/// Evaluates an expression that may use `value`, `data(name)`, `text(id)` and `style(selector)`.
async fn look(browser: &Browser, expression: &str) -> Value {
    let helpers = "const value = Number(document.querySelector('[role=meter]').getAttribute('aria-valuenow')); \
                   const data = (name) => document.documentElement.dataset[name]; \
                   const text = (id) => document.getElementById(id).textContent; \
                   const style = (selector) => getComputedStyle(document.querySelector(selector));";
    browser.eval(&format!("(() => {{ {helpers} return ({expression}); }})()")).await
}

/// Waits until an expression holds, see [`look`].
async fn shows(browser: &Browser, expression: &str) {
    eventually(expression, async || look(browser, expression).await == true).await;
}

/// A streamer whose votes count half the bar and take a minute to fade.
async fn slow_streamer(instance: &Instance) -> Streamer {
    Admin::of(instance).streamer(json!({ "vote_delta": 50, "decay_speed": 0.1 })).await
}

#[tokio::test]
async fn votes_move_the_bar_to_their_side() {
    let instance = instance().await;
    let streamer = slow_streamer(&instance).await;
    let browser = showing(&instance, &streamer).await;
    assert_eq!(look(&browser, "value").await, 0);
    let twitch = instance.twitch();

    twitch.say(&streamer.twitch_id, "yes").await;
    shows(&browser, "value > 0 && value <= 50 && data('side') === 'for' && text('for-count') === '1'").await;
    shows(&browser, "text('number').startsWith('+')").await;

    twitch.say(&streamer.twitch_id, "no").await;
    twitch.say(&streamer.twitch_id, "no").await;
    shows(&browser, "value < 0 && data('side') === 'against' && text('against-count') === '2'").await;
    shows(&browser, "text('number').startsWith('−')").await;
}

#[tokio::test]
async fn the_bar_sinks_to_rest_by_itself() {
    let instance = instance().await;
    let streamer = Admin::of(&instance).streamer(json!({ "vote_delta": 50 })).await;
    let browser = showing(&instance, &streamer).await;
    instance.twitch().say(&streamer.twitch_id, "yes").await;
    shows(&browser, "value === 0 && seen.values.some((value) => value > 0)").await;
    shows(&browser, "text('number') === '0' && data('side') === 'rest'").await;

    let values = look(&browser, "seen.values").await;
    let values: Vec<f64> = serde_json::from_value(values).expect("numbers");
    // After the vote it only falls, in steps that nobody sent: one frame told of the vote, none of the way down.
    let way = values.split(|value| *value == 0.0).find(|part| !part.is_empty()).expect("a way down");
    assert!(way.len() >= 2 && way.is_sorted_by(|a, b| a >= b) && way[0] > way[way.len() - 1], "{values:?}");
    let frames = browser.events(&["Network.webSocketFrameReceived"]).await;
    let frames: Vec<Value> = frames.iter().filter_map(text_frame).collect();
    let with_vote = frames.iter().filter(|frame| frame["for"] == 1).count();
    assert_eq!(with_vote, 1, "{frames:?}");
}

fn text_frame(event: &Value) -> Option<Value> {
    let frame = &event["params"]["response"];
    (frame["opcode"] == 1).then(|| serde_json::from_str(frame["payloadData"].as_str()?).ok())?
}

#[tokio::test]
async fn the_overlay_outlives_its_server() {
    let mut instance = Instance::start(&SETTINGS).await;
    let streamer = slow_streamer(&instance).await;
    let browser = showing(&instance, &streamer).await;
    instance.twitch().say(&streamer.twitch_id, "yes").await;
    shows(&browser, "value > 0").await;

    instance.kill();
    shows(&browser, "data('connected') === 'false'").await;
    let left = look(&browser, "value").await.as_f64().expect("a number");
    assert!(left > 0.0, "it goes on from where it was: {left}");
    shows(&browser, &format!("value > 0 && value < {left} && data('live') === 'true'")).await;
    shows(&browser, "style('.panel').opacity === '1'").await;
    // Tries in vain before it gets through.
    shows(&browser, "seen.sockets >= 2 && data('connected') === 'false'").await;

    instance.start_again().await;
    shows(&browser, "data('connected') === 'true' && text('for-count') === '1'").await;
    instance.twitch().say(&streamer.twitch_id, "no").await;
    instance.twitch().say(&streamer.twitch_id, "no").await;
    shows(&browser, "value < 0 && text('against-count') === '2'").await;
}

#[tokio::test]
async fn a_change_of_settings_shows_without_a_reload() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let streamer = slow_streamer(&instance).await;
    let browser = showing(&instance, &streamer).await;
    instance.twitch().say(&streamer.twitch_id, "yes").await;
    shows(&browser, "value > 0 && data('display') === 'combined' && data('theme') === 'dark'").await;

    let changes = json!({ "display": "split", "theme": "light", "for_label": "Tea", "against_label": "Coffee",
                          "vote_delta": 50, "decay_speed": 0.1 });
    assert_eq!(admin.save(streamer.id, "\"1\"", &config_with(changes)).await.status, 200);
    shows(&browser, "data('display') === 'split' && data('theme') === 'light'").await;
    shows(&browser, "text('for-label') === 'Tea' && text('against-label') === 'Coffee'").await;
    shows(&browser, "document.querySelector('[role=meter]').ariaLabel.includes('Coffee to Tea')").await;
    shows(
        &browser,
        "value > 0 && parseInt(text('for-percent')) > 50 && style('.percent-for').display !== 'none'",
    )
    .await;

    let changes = json!({ "model": "window", "window_seconds": 120 });
    assert_eq!(admin.save(streamer.id, "\"2\"", &config_with(changes)).await.status, 200);
    shows(
        &browser,
        "data('model') === 'window' && data('display') === 'combined' && text('for-label') === 'Yes'",
    )
    .await;
    instance.twitch().say(&streamer.twitch_id, "yes").await;
    shows(&browser, "value === 100").await;
    assert_eq!(
        look(&browser, "[seen.sockets, performance.getEntriesByType('navigation').length]").await,
        json!([1, 1])
    );
}

#[tokio::test]
async fn a_reset_brings_the_bar_to_rest() {
    let instance = instance().await;
    let streamer = slow_streamer(&instance).await;
    let browser = showing(&instance, &streamer).await;
    instance.twitch().say(&streamer.twitch_id, "no").await;
    shows(&browser, "value < 0 && text('against-count') === '1'").await;

    let answer = Admin::of(&instance).post(&format!("/streamers/{}/reset", streamer.id)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // By itself it would take longer than this test waits.
    shows(&browser, "value === 0 && text('against-count') === '0' && data('live') === 'true'").await;
}

#[tokio::test]
async fn a_rotated_address_shows_nothing_any_more_and_is_left_alone() {
    let instance = instance().await;
    let streamer = slow_streamer(&instance).await;
    let browser = showing(&instance, &streamer).await;
    instance.twitch().say(&streamer.twitch_id, "yes").await;
    shows(&browser, "value > 0 && style('.panel').opacity === '1'").await;
    let timers = look(&browser, "seen.timers").await;

    let answer = Admin::of(&instance).post(&format!("/streamers/{}/rotate", streamer.id)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    shows(&browser, "data('live') === 'false' && data('connected') === 'false'").await;
    shows(&browser, "style('.panel').opacity === '0'").await;
    // A new try would have been put on a timer when the socket closed.
    assert_eq!(look(&browser, "[seen.timers, seen.sockets]").await, json!([timers, 1]));

    browser.open(&address(&instance, streamer.overlay_uuid)).await;
    assert_eq!(browser.eval("document.querySelector('h1').textContent").await, "Not Found");
    let new = answer.json()["overlay_uuid"].as_str().and_then(|id| id.parse().ok()).expect("a new address");
    open(&browser, &instance, &Streamer { overlay_uuid: new, ..streamer }).await;
    shows(&browser, "value > 0").await;
}

#[tokio::test]
async fn the_page_asks_nobody_else_and_breaks_no_rule_of_its_own() {
    let instance = instance().await;
    let streamer = slow_streamer(&instance).await;
    let browser = showing(&instance, &streamer).await;
    instance.twitch().say(&streamer.twitch_id, "yes").await;
    shows(&browser, "value > 0").await;

    let (page, own) = (address(&instance, streamer.overlay_uuid), instance.public.to_string());
    let asked = browser.events(&["Network.requestWillBeSent", "Network.webSocketCreated"]).await;
    let url = |event: &Value| {
        let params = &event["params"];
        params["request"]["url"].as_str().or(params["url"].as_str()).expect("a URL").to_owned()
    };
    // The browser's own first page is no request.
    let of_the_net = |url: &String| !url.starts_with("data:") && !url.starts_with("chrome:");
    let asked: Vec<String> = asked.iter().map(url).filter(of_the_net).collect();
    assert!(asked.contains(&page) && asked.iter().any(|url| url.starts_with("ws:")), "{asked:?}");
    let foreign = |url: &&String| {
        !url.starts_with(&format!("http://{own}/")) && !url.starts_with(&format!("ws://{own}/"))
    };
    assert_eq!(asked.iter().find(foreign), None);
    assert_eq!(
        look(&browser, "performance.getEntriesByType('resource').map((entry) => entry.name)").await,
        json!([])
    );
    assert_eq!(look(&browser, "seen.violations").await, json!([]));
    assert_eq!(browser.log("browser").await, [Value::Null; 0]);

    // The rules are in force: what somebody managed to get in does nothing.
    browser.eval("document.body.insertAdjacentHTML('beforeend', '<img src=\"/x.png\" onerror=\"seen.broken = 1\">')").await;
    browser.eval("(() => { const script = document.createElement('script'); script.textContent = 'seen.broken = 2'; \
                  document.body.append(script); })()").await;
    shows(
        &browser,
        "['img-src', 'script-src-attr', 'script-src-elem'].every((name) => seen.violations.includes(name))",
    )
    .await;
    assert_eq!(look(&browser, "seen.broken === undefined").await, true);
}

#[tokio::test]
async fn labels_are_texts_whatever_they_hold() {
    let instance = instance().await;
    let labels = ["<img src=x onerror=\"seen.broken = 1\">", "</span><script>seen.broken = 2</script>"];
    let config = json!({ "for_label": labels[0], "against_label": labels[1] });
    let streamer = Admin::of(&instance).streamer(config).await;
    let browser = showing(&instance, &streamer).await;
    assert_eq!(look(&browser, "[text('for-label'), text('against-label')]").await, json!(labels));
    let inside = "document.querySelectorAll('.label *, img').length + document.scripts.length";
    assert_eq!(look(&browser, inside).await, 1, "only the page's own script");
    assert_eq!(look(&browser, "seen.broken === undefined && seen.violations.length === 0").await, true);
}

#[tokio::test]
async fn the_drawing_fits_flat_and_wide_sources_also_at_the_ends() {
    let instance = instance().await;
    let admin = Admin::of(&instance);
    let twitch = instance.twitch();
    let browser = Browser::start().await;
    browser.run_first(WITNESS).await;
    for (display, word, label) in [
        ("combined", "yes", "Yes".to_owned()),
        ("split", "no", "Yes".to_owned()),
        ("combined", "no", "W".repeat(50)),
    ] {
        let config = json!({ "model": "window", "window_seconds": 120, "display": display, "for_label": label, "against_label": label });
        let streamer = admin.streamer(config).await;
        for (width, height) in [(800, 100), (1920, 200)] {
            browser.resize(width, height).await;
            open(&browser, &instance, &streamer).await;
            twitch.say(&streamer.twitch_id, word).await;
            twitch.say(&streamer.twitch_id, word).await;
            shows(&browser, "Math.abs(value) === 100 && style('.panel').opacity === '1'").await;
            assert_eq!(look(&browser, "[innerWidth, innerHeight]").await, json!([width, height]));
            assert_fits(&browser, label.len() < 10).await;
        }
    }
}

async fn assert_fits(browser: &Browser, labels_whole: bool) {
    let root = "document.documentElement";
    let fits = format!("{root}.scrollWidth <= innerWidth && {root}.scrollHeight <= innerHeight");
    assert_eq!(look(browser, &fits).await, true, "nothing overflows");
    let outside = "Array.from(document.querySelectorAll('.panel, .side, .label, .count, .sign, .meter, .marker, .percent')) \
                   .filter((part) => { const box = part.getBoundingClientRect(); \
                       return box.left < 0 || box.top < 0 || box.right > innerWidth || box.bottom > innerHeight; }) \
                   .map((part) => part.className)";
    // The marker's kick after a vote makes it larger for a moment.
    shows(browser, "document.getAnimations().length === 0").await;
    assert_eq!(look(browser, outside).await, json!([]));
    let hidden = "Array.from(document.querySelectorAll('.label')) \
                  .filter((label) => label.clientWidth < 20 || label.clientHeight < 8 || !label.checkVisibility())";
    assert_eq!(look(browser, &format!("{hidden}.length")).await, 0, "labels can be read");
    if labels_whole {
        let cut = "Array.from(document.querySelectorAll('.label')).filter((label) => label.scrollWidth > label.clientWidth).length";
        assert_eq!(look(browser, cut).await, 0, "short labels are whole");
    }
}
