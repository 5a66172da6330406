use actix_web::App;
use actix_web::http::StatusCode;
use actix_web::test::{TestRequest, call_service, init_service, read_body};

use super::*;

/// What stands between `<name>` and `</name>`, once.
fn block<'a>(html: &'a str, name: &str) -> &'a str {
    let (_, rest) = html.split_once(&format!("<{name}>")).unwrap();
    let (block, after) = rest.split_once(&format!("</{name}>")).unwrap();
    assert!(!after.contains(&format!("<{name}")), "only one {name} is allowed by hash");
    block
}

fn allows(policy: &HeaderValue, directive: &str, source: &str) -> bool {
    let wanted = format!("{directive} {}", source_hash(source));
    policy.to_str().unwrap().split("; ").any(|allowed| allowed == wanted)
}

#[test]
fn the_overlay_policy_allows_exactly_what_the_document_holds() {
    let html = std::str::from_utf8(&PAGES.overlay.html).unwrap();
    assert_eq!(block(html, "style"), OVERLAY_CSS);
    assert_eq!(block(html, "script"), OVERLAY_JS);
    assert!(allows(&PAGES.overlay.policy, "style-src", block(html, "style")));
    assert!(allows(&PAGES.overlay.policy, "script-src", block(html, "script")));
    assert!(PAGES.overlay.policy.to_str().unwrap().contains("; connect-src 'self'; "));
}

#[test]
fn the_hash_is_the_one_browsers_compute() {
    // Source: CSP 2, 4.2.5 (the hash of its example).
    assert_eq!(
        source_hash("alert('Hello, world.');"),
        "'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='"
    );
}

#[test]
fn other_pages_have_their_style_and_nothing_that_runs() {
    let landing = std::str::from_utf8(&PAGES.landing.html).unwrap();
    let mut headers = HeaderMap::new();
    let error = error("Not Found", "Nothing.", false, &mut headers);
    let error_policy = headers.get(header::CONTENT_SECURITY_POLICY).unwrap();
    for (html, policy) in [(landing, &PAGES.landing.policy), (error.as_str(), error_policy)] {
        assert!(allows(policy, "style-src", block(html, "style")));
        assert!(!html.contains("<script") && !policy.to_str().unwrap().contains("script-src"));
    }
}

#[test]
fn documents_need_nothing_that_their_policy_refuses() {
    for html in [INDEX_HTML, ERROR_HTML, OVERLAY_HTML] {
        assert!(!html.contains(" style=") && !html.contains(" onclick=") && !html.contains("<link"));
    }
    for (file, end) in [(PAGE_CSS, "</style"), (OVERLAY_CSS, "</style"), (OVERLAY_JS, "</script")] {
        assert!(!file.contains(end) && !file.contains('\r'), "browsers would hash other bytes than these");
    }
}

#[actix_web::test]
async fn the_landing_page_comes_with_its_headers() {
    let app = init_service(App::new().configure(configure)).await;
    let answer = call_service(&app, TestRequest::get().uri("/").to_request()).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let header = |name: &str| answer.headers().get(name).unwrap().to_str().unwrap().to_owned();
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("referrer-policy"), "no-referrer");
    let policy = header("content-security-policy");
    for part in ["default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"] {
        assert!(policy.split("; ").any(|directive| directive == part), "{policy}");
    }
    assert!(!answer.headers().contains_key("strict-transport-security"));
    assert!(block(std::str::from_utf8(&read_body(answer).await).unwrap(), "style").contains(PAGE_CSS));

    let answer = call_service(&app, TestRequest::post().uri("/").to_request()).await;
    assert_eq!(answer.headers().get("allow").unwrap(), "GET, HEAD");
}

#[test]
fn tls_is_asked_for_again_only_where_it_is_used() {
    let mut headers = HeaderMap::new();
    secure(&mut headers, true);
    assert_eq!(headers.get("strict-transport-security").unwrap(), "max-age=31536000");
}
