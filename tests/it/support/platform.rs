//! A strict Twitch over real HTTP, an instance that uses it, and people with browsers.

use std::cell::RefCell;
use std::collections::BTreeMap;

use chatpulse::settings::Secret;
use chatpulse::twitch::simulator::platform::{Account, Platform, PlatformOptions, Say};
use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use url::Url;

use super::PATIENCE;
use super::instance::{Instance, Stores, Streamer};
use super::overlay::Overlay;
use super::ports::free_port;

pub const CLIENT_ID: &str = "chatpulse_tests";
pub const CLIENT_SECRET: &str = "the-tests-client-secret";
pub const BOT: &str = "900000001";
pub const ADA: &str = "800000001";
pub const BOB: &str = "800000002";
pub const VIEWER: &str = "700000001";

/// A platform, and where the application's pages are.
pub struct Stage {
    pub platform: Platform,
    pub public_url: String,
    port: u16,
}

impl Stage {
    /// A platform with a bot, two streamers and a viewer.
    pub async fn set() -> Stage {
        Stage::set_with(|_| {}).await
    }

    pub async fn set_with(change: impl FnOnce(&mut PlatformOptions)) -> Stage {
        let port = free_port();
        let public_url = format!("http://127.0.0.1:{port}");
        let mut options = PlatformOptions::new(CLIENT_ID, Secret::new(CLIENT_SECRET.to_owned()));
        options.redirect_uris = vec![format!("{public_url}/auth/callback")];
        let account = |(id, login)| Account::new(id, login);
        options.accounts =
            [(BOT, "pulse_bot"), (ADA, "ada"), (BOB, "bob"), (VIEWER, "viewer")].map(account).to_vec();
        change(&mut options);
        let platform = Platform::start(options).await.expect("the platform starts");
        Stage { platform, public_url, port }
    }

    /// The settings of an instance that uses this platform.
    pub fn settings(&self) -> Vec<(String, String)> {
        [
            ("CHATPULSE_HTTP__BIND", format!("127.0.0.1:{}", self.port)),
            ("CHATPULSE_HTTP__PUBLIC_URL", self.public_url.clone()),
            ("CHATPULSE_TWITCH__CLIENT_ID", CLIENT_ID.into()),
            ("CHATPULSE_TWITCH__CLIENT_SECRET", CLIENT_SECRET.into()),
            ("CHATPULSE_TWITCH__BOT_USER_ID", BOT.into()),
            ("CHATPULSE_TWITCH__HELIX_URL", self.platform.helix_url()),
            ("CHATPULSE_TWITCH__OAUTH_URL", self.platform.oauth_url()),
            ("CHATPULSE_TWITCH__EVENTSUB_URL", self.platform.eventsub_url()),
            ("CHATPULSE_SECURITY__SESSION_KEY", "5e".repeat(32)),
            ("CHATPULSE_SECURITY__ENCRYPTION_KEYS", "e0".repeat(32)),
            ("CHATPULSE_LIMITS__SIGN_INS_PER_MINUTE", "1000".into()),
            ("CHATPULSE_LIMITS__FORMS_PER_MINUTE", "1000".into()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .to_vec()
    }

    /// An instance with these settings over the platform's.
    pub async fn instance(&self, settings: &[(&str, &str)]) -> Instance {
        self.instance_on(Stores::migrated().await, settings).await
    }

    pub async fn instance_on(&self, stores: Stores, settings: &[(&str, &str)]) -> Instance {
        let own = self.settings();
        let all: Vec<(&str, &str)> = own
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .chain(settings.iter().copied())
            .collect();
        Instance::start_on_migrated(stores, &all).await
    }

    /// The bot has authorized the application, as `bot sign-in` leads to.
    pub async fn sign_in_bot(&self, instance: &Instance) {
        let printed = instance.program(&["bot", "sign-in"]).await;
        assert_eq!(printed.code, Some(0), "{printed:?}");
        let link = printed.stdout.lines().last().expect("a link").to_owned();
        let answer = Visitor::new().sign_in_at(&link, BOT).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// A streamer who has signed in.
    pub async fn streamer(&self, instance: &Instance, twitch_id: &str) -> Streamer {
        let sql = instance.sql().await;
        let question = "SELECT id, overlay_uuid FROM chatpulse.users WHERE twitch_user_id = $1";
        let row = sql.query_one(question, &[&twitch_id]).await.expect("a streamer");
        Streamer { twitch_id: twitch_id.into(), id: row.get(0), overlay_uuid: row.get(1) }
    }

    /// An overlay of a streamer who has signed in.
    pub async fn overlay_of(&self, instance: &Instance, twitch_id: &str) -> Overlay {
        instance.overlay(&self.streamer(instance, twitch_id).await).await
    }

    /// Somebody says something in a channel's chat. Answers the message's id.
    pub fn say(&self, broadcaster: &str, chatter: &str, text: &str) -> String {
        self.platform.say(&Say::new(broadcaster, chatter, text)).expect("Twitch takes it")
    }
}

/// A browser: it keeps cookies and follows redirects only when asked to.
pub struct Visitor {
    client: reqwest::Client,
    cookies: RefCell<BTreeMap<String, String>>,
}

/// What a browser was answered.
#[derive(Clone, Debug)]
pub struct Page {
    pub url: Url,
    pub status: u16,
    pub location: Option<String>,
    pub headers: reqwest::header::HeaderMap,
    pub body: String,
}

impl Visitor {
    pub fn new() -> Visitor {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tls_certs_only([])
            .timeout(PATIENCE)
            .build()
            .expect("a client");
        Visitor { client, cookies: RefCell::default() }
    }

    pub async fn get(&self, url: &str) -> Page {
        self.send(self.client.get(url), url).await
    }

    /// Sends a form, as a page of the same site does.
    pub async fn post(&self, url: &str, fields: &[(&str, &str)]) -> Page {
        let origin = Url::parse(url).expect("a URL").origin().ascii_serialization();
        self.post_from(url, &origin, fields).await
    }

    /// Sends a form from a page of this origin.
    pub async fn post_from(&self, url: &str, origin: &str, fields: &[(&str, &str)]) -> Page {
        let body: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = self
            .client
            .post(url)
            .header("origin", origin)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body);
        self.send(request, url).await
    }

    async fn send(&self, request: reqwest::RequestBuilder, url: &str) -> Page {
        let cookies =
            self.cookies.borrow().iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
        let request = request.header("accept", "text/html").header(COOKIE, cookies.join("; "));
        let answer = request.send().await.expect("an answer");
        for cookie in answer.headers().get_all(SET_COOKIE) {
            let text = cookie.to_str().expect("a cookie is text");
            let (pair, attributes) = text.split_once(';').unwrap_or((text, ""));
            let (name, value) = pair.split_once('=').expect("a cookie has a name");
            let removed = attributes.contains("Max-Age=0");
            let mut cookies = self.cookies.borrow_mut();
            if removed {
                cookies.remove(name)
            } else {
                cookies.insert(name.into(), value.into())
            };
        }
        Page {
            url: Url::parse(url).expect("a URL"),
            status: answer.status().as_u16(),
            location: answer.headers().get(LOCATION).map(|to| to.to_str().expect("text").to_owned()),
            headers: answer.headers().clone(),
            body: answer.text().await.expect("a body"),
        }
    }

    /// Goes where a page redirects to.
    pub async fn follow(&self, page: &Page) -> Page {
        let to = page.location.as_ref().unwrap_or_else(|| panic!("no redirect: {page:?}"));
        self.get(page.url.join(to).expect("a URL").as_str()).await
    }

    /// Goes from a link of ours to Twitch's page, says yes there as this user, and comes back.
    pub async fn sign_in_at(&self, link: &str, user_id: &str) -> Page {
        let back = self.answer_twitch(&self.get(link).await, user_id, "authorize").await;
        self.follow(&back).await
    }

    /// Answers Twitch's question after a redirect there.
    pub async fn answer_twitch(&self, to_twitch: &Page, user_id: &str, answer: &str) -> Page {
        assert_eq!(to_twitch.status, 303, "{to_twitch:?}");
        let asked = Url::parse(to_twitch.location.as_ref().expect("a redirect")).expect("a URL");
        let page = self.get(asked.as_str()).await;
        assert_eq!(page.status, 200, "{page:?}");
        let mut fields: Vec<(String, String)> =
            asked.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        fields.extend([("user_id".into(), user_id.into()), ("answer".into(), answer.into())]);
        let fields: Vec<(&str, &str)> =
            fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let url = format!("{}{}", asked.origin().ascii_serialization(), asked.path());
        let answered = self.post(&url, &fields).await;
        assert_eq!(answered.status, 302, "{answered:?}");
        answered
    }

    /// Signs in as a streamer; ends on the dashboard.
    pub async fn sign_in(&self, public_url: &str, user_id: &str) -> Page {
        let back = self.sign_in_at(&format!("{public_url}/auth/login"), user_id).await;
        assert_eq!((back.status, back.location.as_deref()), (303, Some("/dashboard")), "{back:?}");
        let dashboard = self.follow(&back).await;
        assert_eq!(dashboard.status, 200, "{dashboard:?}");
        dashboard
    }

    /// The value of a cookie.
    pub fn cookie(&self, name: &str) -> Option<String> {
        self.cookies.borrow().get(name).cloned()
    }

    pub fn set_cookie(&self, name: &str, value: &str) {
        self.cookies.borrow_mut().insert(name.into(), value.into());
    }
}

impl Page {
    /// The value of a form's hidden field.
    pub fn hidden(&self, name: &str) -> String {
        let place = format!("name=\"{name}\" value=\"");
        let from =
            self.body.find(&place).unwrap_or_else(|| panic!("no {name} in {}", self.body)) + place.len();
        self.body[from..].split('"').next().unwrap_or_default().to_owned()
    }
}
