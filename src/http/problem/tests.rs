use actix_web::body::to_bytes;
use actix_web::http::header::ACCEPT;
use serde_json::{Value, json};

use super::*;

fn asked(html: bool) -> Asked {
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static("x-request-id"), HeaderValue::from_static("mine"));
    Asked { request_id: RequestId::of(&headers), html, tls: true }
}

async fn shaped(problem: Problem, html: bool) -> (HeaderMap, String) {
    let response = shape(HttpResponse::from_error(problem), || asked(html));
    let headers = response.headers().clone();
    let body = to_bytes(response.into_body()).await.unwrap_or_default();
    (headers, String::from_utf8(body.to_vec()).unwrap())
}

fn prefers_html(accept: &str) -> bool {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
    wants_html(&headers)
}

#[actix_web::test]
async fn a_problem_in_json_has_all_members_and_its_headers() {
    let errors = vec![FieldProblem { field: "login".into(), detail: "is missing".into() }];
    let problem = Problem::invalid(errors).retry_after(Duration::from_secs(5));
    let (headers, body) = shaped(problem, false).await;
    assert_eq!(headers.get(header::CONTENT_TYPE).unwrap(), "application/problem+json");
    assert_eq!(headers.get(header::RETRY_AFTER).unwrap(), "5");
    assert_eq!(headers.get(header::CACHE_CONTROL).unwrap(), "no-store");
    let expected = json!({
        "type": "about:blank", "title": "Unprocessable Entity", "status": 422,
        "detail": "Some values can't be taken as they are; they are named in `errors`.", "request_id": "mine",
        "errors": [{ "field": "login", "detail": "is missing" }],
    });
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), expected);
}

#[actix_web::test]
async fn a_page_shows_texts_and_never_markup() {
    let detail = "<script>alert(1)</script> & {title} /*{page.css}*/ '\"";
    let (headers, body) = shaped(Problem::not_found(detail), true).await;
    assert_eq!(headers.get(header::CONTENT_TYPE).unwrap(), "text/html; charset=utf-8");
    assert!(body.contains("<title>Not Found · ChatPulse</title>"), "{body}");
    let escaped =
        "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#123;title&#125; /*&#123;page.css&#125;*/ &#39;&quot;";
    assert!(body.contains(escaped), "{body}");
    assert!(!body.contains("<script"), "{body}");
}

#[actix_web::test]
async fn what_was_behind_a_failure_stays_inside() {
    let secret = || "relation \"votes\" does not exist".to_owned();
    let failures = [
        JournalError::Refused(secret()),
        JournalError::Schema(secret()),
        JournalError::Unreadable(secret()),
        JournalError::Away(secret()),
    ];
    for failure in failures {
        let away = matches!(failure, JournalError::Away(_));
        let problem = Problem::from(failure);
        assert!(problem.cause().is_some_and(|cause| cause.contains("votes")));
        for html in [false, true] {
            let (headers, body) = shaped(problem.clone(), html).await;
            assert!(!body.contains("votes"), "{body}");
            assert_eq!(headers.contains_key(header::RETRY_AFTER), away);
        }
        assert_eq!(problem.status_code().as_u16(), if away { 503 } else { 500 });
    }
}

#[test]
fn refusals_have_their_statuses() {
    let status = |refusal: Refusal| Problem::from(ChangeError::Refused(refusal)).status_code().as_u16();
    assert_eq!(status(Refusal::Unknown), 404);
    assert_eq!(status(Refusal::AlreadyRegistered), 409);
    assert_eq!(status(Refusal::ConfigMovedOn { current: 4 }), 412);
    assert_eq!(status(Refusal::Invalid(Vec::new())), 422);
}

#[test]
fn a_page_is_for_clients_that_prefer_one() {
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for html in [browser, "TEXT/HTML", "application/json;q=0.5, text/html", "text/html, application/json"] {
        assert!(prefers_html(html), "{html}");
    }
    let json = "application/problem+json, text/html";
    for other in
        ["", "*/*", "application/json", json, "text/html;q=0, */*", "text/html;q=0.5,application/json"]
    {
        assert!(!prefers_html(other), "{other}");
    }
    assert!(!wants_html(&HeaderMap::new()));
}

#[test]
fn an_answer_says_how_long_to_wait_in_whole_seconds_of_at_least_one() {
    let answer = Problem::unavailable("Later.", Duration::from_millis(10)).error_response();
    assert_eq!(answer.headers().get(header::RETRY_AFTER).unwrap(), "1");
}
