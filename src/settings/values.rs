//! The kinds of text that a setting can be: addresses, URLs, origins, secrets.
//!
//! Faults of anything that may hold a secret (also URLs: people put passwords in them) never quote
//! what was given.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;
use url::Url;

use super::Secret;
use super::reader::{Fault, Show};

/// A key of 256 bits.
pub type Key = Secret<[u8; 32]>;

/// Characters of a webhook secret. Source: Twitch, "Creating EventSub subscriptions", `transport.secret`.
const WEBHOOK_SECRET_CHARS: std::ops::RangeInclusive<usize> = 10..=100;
/// Characters that a bootstrap token has at least.
const TOKEN_CHARS_MIN: usize = 32;
/// Characters of an id given by Twitch at most; Twitch calls ids opaque.
const TWITCH_ID_CHARS_MAX: usize = 64;

/// An `http`, `https`, `ws` or `wss` URL without credentials, query or final slash, ready to have
/// a path appended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebUrl(String);

impl WebUrl {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where a listener at `bind` is reached from the same machine.
    pub(super) fn of_listener(bind: SocketAddr) -> Self {
        match bind.ip().is_unspecified() {
            true => WebUrl(format!("http://localhost:{}", bind.port())),
            false => WebUrl(format!("http://{bind}")),
        }
    }
}

impl fmt::Display for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Keys, newest first.
#[derive(Clone, Debug, Default)]
pub struct Keys(pub Vec<Key>);

impl Show for Keys {
    fn show(&self) -> String {
        "(set)".to_owned()
    }
}

/// An IP address and port.
pub fn address(text: &str) -> Result<SocketAddr, Fault> {
    let remedy = "write IP:PORT, such as 127.0.0.1:8080 or [::1]:8080";
    text.parse().map_err(|_| Fault::new(format!("{text:?} is not an address"), remedy))
}

/// An IP address or a range of them in CIDR notation.
pub fn network(text: &str) -> Result<IpNet, Fault> {
    let single = text.parse::<IpAddr>().map(IpNet::from);
    let remedy = "write an IP or a CIDR, such as 10.0.0.7 or 10.0.0.0/8";
    let fault = || Fault::new(format!("{text:?} is not an address or range of addresses"), remedy);
    single.or_else(|_| text.parse()).map_err(|_| fault())
}

/// The origin of a site, as browsers send it, or what they send for local files.
pub fn origin(text: &str) -> Result<String, Fault> {
    if matches!(text, "null" | "file://") {
        return Ok(text.to_owned());
    }
    let fault = |what: &str| Fault::new(what, "write it as https://example.com, \"file://\" or \"null\"");
    site(text, &["http", "https"]).map_err(|what| fault(&what)).map(|url| url.0)
}

/// The base of the public listener's URLs.
pub fn public_url(text: &str) -> Result<WebUrl, Fault> {
    site(text, &["http", "https"]).map_err(|what| Fault::new(what, "write it as https://pulse.example.com"))
}

/// The base URL of an HTTP service.
pub fn http_url(text: &str) -> Result<WebUrl, Fault> {
    web_url(text, &["http", "https"])
        .map(|(url, _)| url)
        .map_err(|what| Fault::new(what, "write it as https://host/path"))
}

/// The URL of a WebSocket service.
pub fn socket_url(text: &str) -> Result<WebUrl, Fault> {
    web_url(text, &["ws", "wss"])
        .map(|(url, _)| url)
        .map_err(|what| Fault::new(what, "write it as wss://host/path"))
}

fn site(text: &str, schemes: &[&str]) -> Result<WebUrl, String> {
    match web_url(text, schemes)? {
        (url, parsed) if parsed.path() == "/" => Ok(url),
        _ => Err("has a path, which is not possible here".to_owned()),
    }
}

fn web_url(text: &str, schemes: &[&str]) -> Result<(WebUrl, Url), String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL ({error})"))?;
    if !schemes.contains(&url.scheme()) {
        return Err(format!("does not begin with {}://", schemes.join(":// or ")));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user name or password, which is not possible here".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or fragment, which is not possible here".to_owned());
    }
    Ok((WebUrl(url.as_str().trim_end_matches('/').to_owned()), url))
}

/// A secret shared with Twitch that signs notifications.
pub fn webhook_secret(text: &str) -> Result<Secret<String>, Fault> {
    let remedy = "write 10 to 100 printable ASCII characters, such as `openssl rand -hex 32` prints";
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if !printable || !WEBHOOK_SECRET_CHARS.contains(&text.len()) {
        let what = if printable { "has a wrong length" } else { "has a character that is not possible" };
        return Err(Fault::new(what, remedy));
    }
    Ok(Secret::new(text.to_owned()))
}

/// The client secret of the Twitch application.
pub fn client_secret(text: &str) -> Result<Secret<String>, Fault> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let remedy = "copy it from the Twitch developer console, without spaces or a line break";
        return Err(Fault::new("has a character that is not possible", remedy));
    }
    Ok(Secret::new(text.to_owned()))
}

/// The bearer token for the admin API.
pub fn token(text: &str) -> Result<Secret<String>, Fault> {
    if text.len() < TOKEN_CHARS_MIN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let what = "is shorter than 32 characters, or has one that is not possible";
        let remedy = "write 32 or more printable ASCII characters, such as `openssl rand -hex 32` prints";
        return Err(Fault::new(what, remedy));
    }
    Ok(Secret::new(text.to_owned()))
}

/// One key.
pub fn key(text: &str) -> Result<Key, Fault> {
    let mut bytes = [0; 32];
    let fault = |_| Fault::new("is not 64 hex characters", "write what `openssl rand -hex 32` prints");
    hex::decode_to_slice(text, &mut bytes).map_err(fault)?;
    Ok(Key::new(bytes))
}

/// Keys, newest first, each only once.
pub fn keys(text: &str) -> Result<Keys, Fault> {
    let mut keys: Vec<Key> = Vec::new();
    for (index, text) in text.split(',').map(str::trim).enumerate() {
        let nth = index + 1;
        let key = key(text).map_err(|fault| Fault::new(format!("key {nth} {}", fault.what), fault.remedy))?;
        if keys.iter().any(|other| other.expose() == key.expose()) {
            return Err(Fault::new(format!("key {nth} stands there twice"), "remove the repetition"));
        }
        keys.push(key);
    }
    Ok(Keys(keys))
}

/// An id given by Twitch.
pub fn twitch_id(text: &str) -> Result<String, Fault> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if text.len() > TWITCH_ID_CHARS_MAX || !text.bytes().all(allowed) {
        let remedy = "copy the id from Twitch: letters and digits, at most 64 of them";
        return Err(Fault::new(format!("{text:?} is not an id"), remedy));
    }
    Ok(text.to_owned())
}

/// A user of Twitch by login or id, with or without an `@`.
pub fn chat_user(text: &str) -> Result<String, Fault> {
    twitch_id(text.strip_prefix('@').unwrap_or(text))
}

/// What to log, as `tracing` directives.
pub fn log_filter(text: &str) -> Result<String, Fault> {
    let remedy = "write a level (error, warn, info, debug, trace), or levels by part as \
                  info,chatpulse::hot=debug";
    let parsed = EnvFilter::builder().parse(text);
    parsed.map(|_| text.to_owned()).map_err(|error| Fault::new(format!("{text:?}: {error}"), remedy))
}
