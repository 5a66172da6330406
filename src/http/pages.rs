//! Pages: the landing page, the overlay, and what every page's headers say.
//!
//! Documents are assembled once. Their one style and one script stand in them and are allowed by
//! the hash of their exact bytes, so nothing else runs even if somebody managed to get it in.

use std::borrow::Cow;
use std::sync::LazyLock;

use actix_web::body::BoxBody;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::web::{self, Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::problem::{self, Problem};
use super::state::State;

const INDEX_HTML: &str = include_str!("../../web/index.html");
const ERROR_HTML: &str = include_str!("../../web/error.html");
const OVERLAY_HTML: &str = include_str!("../../web/overlay.html");
const PAGE_CSS: &str = include_str!("../../web/page.css");
const OVERLAY_CSS: &str = include_str!("../../web/overlay.css");
const OVERLAY_JS: &str = include_str!("../../web/overlay.js");

const PAGE_CSS_PLACE: &str = "/*{page.css}*/";
const OVERLAY_CSS_PLACE: &str = "/*{overlay.css}*/";
const OVERLAY_JS_PLACE: &str = "/*{overlay.js}*/";

pub(super) const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
/// The overlay's address is a secret, and an answer about it personal.
pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// A year, which is what browsers' preload lists ask for. Subdomains are not ours to decide about.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

static PAGES: LazyLock<Pages> = LazyLock::new(Pages::assemble);

/// All documents, ready to be sent.
struct Pages {
    landing: Page,
    overlay: Page,
    error_policy: HeaderValue,
}

struct Page {
    html: Bytes,
    policy: HeaderValue,
    caching: HeaderValue,
}

impl Pages {
    fn assemble() -> Pages {
        let overlay = OVERLAY_HTML.replacen(OVERLAY_CSS_PLACE, OVERLAY_CSS, 1).replacen(
            OVERLAY_JS_PLACE,
            OVERLAY_JS,
            1,
        );
        Pages {
            landing: Page {
                html: INDEX_HTML.replacen(PAGE_CSS_PLACE, PAGE_CSS, 1).into(),
                policy: policy(PAGE_CSS, None),
                caching: HeaderValue::from_static("public, max-age=300"),
            },
            overlay: Page {
                html: overlay.into(),
                policy: policy(OVERLAY_CSS, Some(OVERLAY_JS)),
                caching: NO_STORE,
            },
            error_policy: policy(PAGE_CSS, None),
        }
    }
}

impl Page {
    fn answer(&self, tls: bool) -> HttpResponse {
        let mut response = HttpResponse::Ok().body(self.html.clone());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HTML);
        headers.insert(header::CACHE_CONTROL, self.caching.clone());
        headers.insert(header::CONTENT_SECURITY_POLICY, self.policy.clone());
        secure(headers, tls);
        response
    }
}

/// What a page with this style, and this script if any, may do.
///
/// `connect-src 'self'` lets the overlay open its socket: it matches `ws:` and `wss:` of the same host
/// too (CSP 3, 6.7.2.8), in Chromium since version 70, and OBS 27.2 came with 95. Naming the host
/// would be wrong behind every other name that a deployment has, and `ws: wss:` allows any host.
fn policy(style: &str, script: Option<&str>) -> HeaderValue {
    let script = script.map(|script| format!("script-src {}; connect-src 'self'; ", source_hash(script)));
    let policy = format!(
        "default-src 'none'; {}style-src {}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        script.unwrap_or_default(),
        source_hash(style)
    );
    // Base64 and the words above are always possible in a header; else the page may do nothing.
    HeaderValue::from_str(&policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
}

pub(super) fn source_hash(source: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(source)))
}

/// The headers that every answer to a browser has.
pub(super) fn secure(headers: &mut HeaderMap, tls: bool) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if tls {
        headers.insert(HeaderName::from_static("strict-transport-security"), HSTS);
    }
}

/// A page with something to know, for one person.
pub(super) fn notice(title: &str, detail: &str, tls: bool) -> HttpResponse {
    let mut response = HttpResponse::Ok().finish();
    let html = error(title, detail, tls, response.headers_mut());
    response.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
    response.set_body(BoxBody::new(html))
}

/// The page that tells of an error; also writes its headers.
pub(super) fn error(title: &str, detail: &str, tls: bool, headers: &mut HeaderMap) -> String {
    headers.insert(header::CONTENT_TYPE, HTML);
    headers.insert(header::CONTENT_SECURITY_POLICY, PAGES.error_policy.clone());
    secure(headers, tls);
    // The style comes last, and escaped texts have no braces, so nothing is replaced in what was put in.
    ERROR_HTML.replace("{title}", &escape(title)).replace("{detail}", &escape(detail)).replacen(
        PAGE_CSS_PLACE,
        PAGE_CSS,
        1,
    )
}

/// `text` as it may stand in an element or attribute, without braces, which mark places to fill.
fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'', '{', '}']) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '{' => escaped.push_str("&#123;"),
            '}' => escaped.push_str("&#125;"),
            other => escaped.push(other),
        }
    }
    escaped.into()
}

/// The routes of the pages. Needs `web::Data<State>`.
pub fn configure(routes: &mut web::ServiceConfig) {
    LazyLock::force(&PAGES);
    let allow = "GET, HEAD";
    routes
        .service(web::resource("/").get(landing).head(landing).default_service(problem::only(allow)))
        .service(
            web::resource("/overlay/{overlay_uuid}")
                .get(overlay)
                .head(overlay)
                .default_service(problem::only(allow)),
        );
}

async fn landing(request: HttpRequest) -> HttpResponse {
    PAGES.landing.answer(request.app_data::<Data<State>>().is_some_and(|state| state.tls()))
}

/// The overlay's page. An overlay with a live session is known here, also while PostgreSQL is away.
async fn overlay(state: Data<State>, overlay_uuid: web::Path<String>) -> Result<HttpResponse, Problem> {
    let overlay_uuid = Uuid::try_parse(&overlay_uuid).map_err(|_| unknown_overlay())?;
    let live = state.services.directory.streamer_of_overlay(overlay_uuid).is_some();
    if live || state.journal.overlay_exists(overlay_uuid).await? {
        Ok(PAGES.overlay.answer(state.tls()))
    } else {
        Err(unknown_overlay())
    }
}

fn unknown_overlay() -> Problem {
    Problem::not_found(
        "There is no overlay at this address. It may have been replaced: copy the current address.",
    )
}

#[cfg(test)]
mod tests;
