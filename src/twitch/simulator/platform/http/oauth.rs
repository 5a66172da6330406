//! OAuth, <https://dev.twitch.tv/docs/authentication/>, with a page on which one of the accounts is chosen.

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, LOCATION, REFERRER_POLICY, X_FRAME_OPTIONS,
};
use actix_web::web::{Bytes, Data, ServiceConfig, get, post, resource};
use actix_web::{HttpRequest, HttpResponse};

use super::{answered, form, query, refused, token};
use crate::twitch::simulator::platform::Shared;
use crate::twitch::simulator::platform::options::Account;
use crate::twitch::simulator::platform::refusal::{Fields, Refusal};
use crate::twitch::simulator::platform::state::Consent;

/// Accounts that the page offers.
const SHOWN_MAX: usize = 200;

pub(super) fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/authorize").route(get().to(ask)).route(post().to(answer)))
        .service(resource("/token").route(post().to(exchange)))
        .service(resource("/validate").route(get().to(validate)))
        .service(resource("/revoke").route(post().to(revoke)));
}

async fn ask(shared: Data<Shared>, request: HttpRequest) -> HttpResponse {
    let query = query(&request);
    match shared.act(|state, _| state.consent(&query).map(|consent| (consent, state.accounts()))) {
        Ok((consent, accounts)) => HttpResponse::Ok()
            .content_type("text/html; charset=utf-8")
            .insert_header((CACHE_CONTROL, "no-store"))
            .insert_header((REFERRER_POLICY, "no-referrer"))
            .insert_header((X_FRAME_OPTIONS, "DENY"))
            .insert_header((CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"))
            .body(page(&query, &consent, &accounts)),
        Err(refusal) => refused(&refusal),
    }
}

async fn answer(shared: Data<Shared>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let decided =
        form(&request, &body).and_then(|form| shared.act(|state, now| state.answer_consent(&form, now)));
    match decided {
        Ok(target) => HttpResponse::Found().insert_header((LOCATION, target)).finish(),
        Err(refusal) => refused(&refusal),
    }
}

async fn exchange(shared: Data<Shared>, request: HttpRequest, body: Bytes) -> HttpResponse {
    answered(form(&request, &body).and_then(|form| shared.act(|state, now| state.token(&form, now))))
}

async fn validate(shared: Data<Shared>, request: HttpRequest) -> HttpResponse {
    answered(match token(&request, &["OAuth", "Bearer"]) {
        Some(token) => shared.act(|state, now| state.validate(token, now)),
        None => Err(Refusal::bare(401, "missing authorization token")),
    })
}

async fn revoke(shared: Data<Shared>, request: HttpRequest, body: Bytes) -> HttpResponse {
    match form(&request, &body).and_then(|form| shared.act(|state, _| state.revoke_token(&form))) {
        Ok(()) => HttpResponse::Ok().finish(),
        Err(refusal) => refused(&refusal),
    }
}

fn page(query: &Fields, consent: &Consent, accounts: &[Account]) -> String {
    let client_id = query.get("client_id").unwrap_or_default();
    let scopes = consent.scopes.join(" ");
    let hidden: String = [
        ("response_type", "code"),
        ("client_id", client_id),
        ("redirect_uri", consent.redirect_uri.as_str()),
        ("scope", scopes.as_str()),
        ("state", consent.state.as_str()),
    ]
    .iter()
    .map(|(name, value)| format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">\n", escaped(value)))
    .collect();
    let choices: String = accounts.iter().take(SHOWN_MAX).map(choice).collect();
    let asked: String =
        consent.scopes.iter().map(|scope| format!("<li><code>{}</code></li>\n", escaped(scope))).collect();
    format!(
        "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<title>Authorize – simulated Twitch</title>
<style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:32rem;margin:2rem auto;padding:0 1rem}}</style>
<h1>Simulated Twitch</h1>
<p>The application <code>{}</code> asks to:</p>
<ul>
{asked}</ul>
<form method=\"post\" action=\"authorize\">
{hidden}<p><label>As <select name=\"user_id\">
{choices}</select></label></p>
<p><button name=\"answer\" value=\"authorize\">Authorize</button>
<button name=\"answer\" value=\"deny\">Deny</button></p>
</form>
</html>
",
        escaped(client_id)
    )
}

fn choice(account: &Account) -> String {
    let (id, name) = (escaped(&account.id), escaped(&account.display_name));
    format!("<option value=\"{id}\">{name} ({id})</option>\n")
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            sign => escaped.push(sign),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authorize_page_offers_every_account_and_shows_text_as_text() {
        let query = Fields::parse(b"client_id=app");
        let consent = Consent {
            redirect_uri: "http://127.0.0.1/callback?a=1&b=2".into(),
            scopes: vec!["channel:bot".into()],
            state: "\"><script>alert(1)</script>".into(),
        };
        let page = page(&query, &consent, &[Account::new("1", "streamer"), Account::new("2", "bot")]);
        assert!(page.contains("<option value=\"1\">streamer (1)</option>"), "{page}");
        assert!(page.contains("<option value=\"2\">bot (2)</option>"), "{page}");
        assert!(page.contains("value=\"http://127.0.0.1/callback?a=1&amp;b=2\""), "{page}");
        assert!(!page.contains("<script>"), "{page}");
    }
}
