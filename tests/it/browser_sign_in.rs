//! Signing in, the dashboard and signing out, in a real browser.

use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::key::Key;
use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::eventually;
use crate::support::instance::Instance;
use crate::support::platform::{ADA, Stage};

/// Notes each broken rule of a page's policy, over all pages of the tab.
const WITNESS: &str = "
    addEventListener('securitypolicyviolation', (event) => {
        const before = sessionStorage.getItem('violations') ?? '';
        sessionStorage.setItem('violations', `${before}${event.violatedDirective} on ${location.pathname}; `);
    });";
/// More than any page has to stop at.
const TABS_MAX: usize = 60;

async fn stage() -> (Stage, Instance, Browser) {
    let stage = Stage::set().await;
    let instance = stage.instance(&[]).await;
    let browser = Browser::start().await;
    browser.run_first(WITNESS).await;
    (stage, instance, browser)
}

/// The value of an expression in the page; null while the page is being left.
async fn look(browser: &Browser, expression: &str) -> Value {
    browser.client().execute(&format!("return {expression}"), Vec::new()).await.unwrap_or_default()
}

/// Waits until an expression holds.
async fn shows(browser: &Browser, expression: &str) {
    eventually(expression, async || look(browser, expression).await == true).await;
}

/// Presses keys, one after the other, as fingers do.
async fn press(browser: &Browser, keys: &[char]) {
    let mut actions = KeyActions::new("keyboard".to_owned());
    for key in keys {
        actions = actions.then(KeyAction::Down { value: *key }).then(KeyAction::Up { value: *key });
    }
    browser.client().perform_actions(actions).await.expect("keys can be pressed");
}

/// Presses Tab until an expression holds for the element `at` that has the focus, which can be seen there.
async fn tab_to(browser: &Browser, expression: &str) {
    let holds = format!("((at) => {expression})(document.activeElement)");
    for _ in 0..TABS_MAX {
        press(browser, &[Key::Tab.into()]).await;
        if look(browser, &holds).await == true {
            let outline = "getComputedStyle(document.activeElement).outlineStyle";
            assert_ne!(look(browser, outline).await, "none", "the focus can be seen at {expression}");
            return;
        }
    }
    panic!("Tab never gets to where {expression}");
}

/// Opens the sign-in, which leads to the simulated Twitch, and answers there as Ada.
async fn answer_twitch(browser: &Browser, stage: &Stage, answer: &str) {
    browser.open(&format!("{}/auth/login", stage.public_url)).await;
    is_at_twitch(browser, stage).await;
    let answer = format!(
        "(() => {{ document.querySelector('select').value = '{ADA}'; \
         document.querySelector('button[value={answer}]').click(); return true; }})()"
    );
    browser.eval(&answer).await;
}

async fn is_at_twitch(browser: &Browser, stage: &Stage) {
    let page = format!("location.href.startsWith('{}/authorize')", stage.platform.oauth_url());
    shows(browser, &format!("{page} && document.querySelector('select') !== null")).await;
}

async fn violations(browser: &Browser) -> Value {
    look(browser, "sessionStorage.getItem('violations') ?? ''").await
}

#[tokio::test]
async fn a_streamer_signs_in_changes_a_word_and_signs_out_with_the_keyboard_alone() {
    let (stage, instance, browser) = stage().await;
    answer_twitch(&browser, &stage, "authorize").await;
    shows(&browser, "location.pathname === '/dashboard' && document.body.textContent.includes('ada')").await;
    assert_eq!(look(&browser, "location.search").await, "", "neither code nor state stays in the address");
    assert_eq!(look(&browser, "document.cookie").await, "", "no script can read the session");

    tab_to(&browser, "at.id === 'for_triggers'").await;
    // On lines of its own, wherever the cursor stands.
    let word = "\njawohl\n".chars().map(|sign| if sign == '\n' { Key::Enter.into() } else { sign });
    press(&browser, &word.collect::<Vec<char>>()).await;
    tab_to(&browser, "at.tagName === 'BUTTON' && at.textContent === 'Save'").await;
    press(&browser, &[Key::Enter.into()]).await;
    let notice = "document.querySelector('.good[role=status]').textContent.startsWith('Saved.')";
    shows(&browser, notice).await;
    let words = "document.getElementById('for_triggers').value.trim().split('\\n').sort()";
    assert_eq!(look(&browser, words).await, json!(["jawohl", "yes"]));
    let sql = instance.sql().await;
    let question = "SELECT chatpulse.config_json(c) FROM chatpulse.configs c";
    let config: Value = sql.query_one(question, &[]).await.expect("one config").get(0);
    assert_eq!((&config["version"], config["for_triggers"].as_array().map(Vec::len)), (&json!(2), Some(2)));

    tab_to(&browser, "at.tagName === 'BUTTON' && at.textContent === 'Sign out'").await;
    press(&browser, &[Key::Enter.into()]).await;
    shows(&browser, "location.pathname === '/' && document.querySelector('h1') !== null").await;
    assert_eq!(violations(&browser).await, "", "the pages keep their own rules");
    browser.open(&format!("{}/dashboard", stage.public_url)).await;
    is_at_twitch(&browser, &stage).await;
}

#[tokio::test]
async fn who_says_no_at_twitch_is_told_what_that_means_and_can_begin_again() {
    let (stage, instance, browser) = stage().await;
    answer_twitch(&browser, &stage, "deny").await;
    let told = "document.querySelector('main').textContent.includes('did not allow')";
    shows(&browser, &format!("location.pathname === '/auth/callback' && {told}")).await;
    assert_eq!(look(&browser, "document.querySelector('h1').textContent.trim() !== ''").await, true);
    assert_eq!(violations(&browser).await, "", "the page keeps its own rules");
    let sql = instance.sql().await;
    let row = sql.query_one("SELECT count(*) FROM chatpulse.users", &[]).await.expect("users can be counted");
    assert_eq!(row.get::<_, i64>(0), 0, "nothing is kept of who said no");

    answer_twitch(&browser, &stage, "authorize").await;
    shows(&browser, "location.pathname === '/dashboard'").await;
}

#[tokio::test]
async fn a_sign_in_that_was_used_is_told_when_the_browser_goes_back_to_it() {
    let (stage, _instance, browser) = stage().await;
    answer_twitch(&browser, &stage, "deny").await;
    shows(&browser, "location.pathname === '/auth/callback'").await;
    // Loading it again brings the same state, which was of use once.
    browser.client().refresh().await.expect("the page loads again");
    shows(&browser, "document.querySelector('main').textContent.includes('Begin again')").await;
}
