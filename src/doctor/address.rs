//! The public address: whether what comes there arrives here, as Twitch would come: over the network, by TLS with a
//! valid certificate, following no redirects.

use std::error::Error;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;

use super::{ANSWER_MAX, Finding, Verdict};
use crate::run::twitch::{WEBHOOK_PATH, is_loopback};
use crate::settings::{Settings, Transport};

const ADDRESS: &str = "public address";
const LIVE_PATH: &str = "/health/live";
/// What an error answer of ours has as its type (RFC 9457).
const PROBLEM: &str = "application/problem+json";
/// Bytes of an answer that are looked at.
const BODY_BYTES_MAX: usize = 4_096;
/// Characters of what others say that are repeated.
const TOLD_CHARS_MAX: usize = 120;

/// What answered.
#[derive(Clone, Debug, Default)]
struct Reply {
    status: u16,
    content_type: String,
    /// Where a redirect leads.
    location: String,
    body: String,
}

/// Asks the public address for a sign of life, and whether it takes notifications.
pub(super) async fn examine(settings: &Settings) -> Vec<Finding> {
    let url = settings.http.public_url.as_str();
    let client = match client(url, is_loopback(&settings.http.public_url)) {
        Ok(client) => client,
        Err(error) => {
            let said = format!("it can't be asked: {}", with_causes(&error));
            return vec![Finding::bad(ADDRESS, said, "check that this machine has CA certificates")];
        }
    };
    let (live_url, webhook_url) = (format!("{url}{LIVE_PATH}"), format!("{url}{WEBHOOK_PATH}"));
    let live = exchange(client.get(&live_url));
    match settings.twitch.transport {
        Transport::Websocket => {
            let finding = judge_live(&live_url, &live.await);
            // Only people come there, perhaps from where this machine is not.
            vec![Finding { verdict: finding.verdict.min(Verdict::Note), ..finding }]
        }
        Transport::Webhook => {
            let (live, webhook) = tokio::join!(live, exchange(client.post(&webhook_url).body("{}")));
            let mut findings = vec![judge_live(&live_url, &live)];
            // Without an answer to either there is nothing to add.
            if live.is_ok() || webhook.is_ok() {
                findings.push(judge_webhook(&webhook_url, &webhook));
            }
            findings
        }
    }
}

fn client(url: &str, nearby: bool) -> reqwest::Result<Client> {
    let mut builder = Client::builder()
        .user_agent(concat!("chatpulse/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .timeout(ANSWER_MAX);
    if nearby {
        // No proxy leads to this machine itself.
        builder = builder.no_proxy();
    }
    if !url.starts_with("https:") {
        // Which a container may lack.
        builder = builder.tls_certs_only([]);
    }
    builder.build()
}

/// What answers, or why nothing does.
async fn exchange(request: RequestBuilder) -> Result<Reply, String> {
    let sent = request.send().await;
    let response = sent.map_err(|error| with_causes(&error.without_url()))?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Reply {
        status,
        content_type: text_of(&headers, CONTENT_TYPE),
        location: text_of(&headers, LOCATION),
        body: beginning_of(response).await,
    })
}

fn text_of(headers: &HeaderMap, name: HeaderName) -> String {
    let text = headers.get(name).and_then(|value| value.to_str().ok());
    text.unwrap_or_default().chars().take(TOLD_CHARS_MAX).collect()
}

async fn beginning_of(mut response: Response) -> String {
    let mut body = Vec::new();
    while body.len() < BODY_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            // What there is says enough.
            Ok(None) | Err(_) => break,
        }
    }
    String::from_utf8_lossy(&body).into_owned()
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

fn judge_live(url: &str, reply: &Result<Reply, String>) -> Finding {
    match reply {
        Err(why) => unreached(url, why),
        Ok(reply) if reply.status == 200 && is_live(&reply.body) => {
            Finding::good(ADDRESS, format!("GET {url} is answered by ChatPulse"))
        }
        Ok(reply) => elsewhere(&format!("GET {url}"), reply),
    }
}

/// Twitch sends notifications by POST; without a signature ChatPulse refuses them in a way of its own.
fn judge_webhook(url: &str, reply: &Result<Reply, String>) -> Finding {
    match reply {
        Err(why) => unreached(url, why),
        Ok(reply) if reply.status == 400 && reply.content_type.starts_with(PROBLEM) => Finding::good(
            ADDRESS,
            format!("POST {url} reaches ChatPulse, which refuses what Twitch has not signed"),
        ),
        Ok(reply) => elsewhere(&format!("POST {url}"), reply),
    }
}

/// Whether it is what `http/health.rs` answers.
fn is_live(body: &str) -> bool {
    let said: Value = serde_json::from_str(body).unwrap_or_default();
    said.get("status").and_then(Value::as_str) == Some("live")
}

fn unreached(url: &str, why: &str) -> Finding {
    let said = format!("{url} can't be reached: {why}");
    let remedy = if why.to_lowercase().contains("certificate") {
        "give the proxy in front a certificate that is valid for this name, with its whole chain: Twitch takes no other"
    } else {
        "check that `chatpulse serve` runs, and that the name, the firewall and the proxy in front lead to it. If the \
         address works from outside, only this machine can't come back to itself, which does no harm"
    };
    Finding::bad(ADDRESS, said, remedy)
}

/// That something answers, but not as ChatPulse does.
fn elsewhere(asked: &str, reply: &Reply) -> Finding {
    let status = reply.status;
    let (what, remedy) = match status {
        300..=399 => (
            format!("is redirected ({status}) to {:?}", reply.location),
            "pass it on without redirecting: Twitch follows none. http.public_url is to be where redirects end",
        ),
        401 | 403 | 407 | 511 => (
            format!("is refused ({status}), not by ChatPulse"),
            "let requests to this path through without a login or a check for browsers: Twitch has none",
        ),
        404 | 405 => (
            format!("leads nowhere ({status})"),
            "have the proxy in front pass all paths and methods on to http.bind",
        ),
        500.. => (
            format!("fails ({status})"),
            "check that `chatpulse serve` runs, and that the proxy in front leads to http.bind",
        ),
        _ => (
            format!("is answered by something else ({status}, {:?})", reply.content_type),
            "check that http.public_url is this deployment's, and that no login or start page stands before it",
        ),
    };
    Finding::bad(ADDRESS, format!("{asked} {what}"), remedy)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const URL: &str = "https://pulse.example.com/path";

    fn reply(status: u16, content_type: &str, body: &str) -> Result<Reply, String> {
        Ok(Reply { status, content_type: content_type.into(), body: body.into(), ..Reply::default() })
    }

    #[test]
    fn a_sign_of_life_is_one_only_if_chatpulse_gives_it() {
        let verdict = |reply| judge_live(URL, &reply).verdict;
        assert_eq!(verdict(reply(200, "application/json", r#"{"status":"live"}"#)), Verdict::Good);
        assert_eq!(verdict(reply(200, "text/html", "<h1>Sign in</h1>")), Verdict::Bad);
        assert_eq!(verdict(reply(200, "application/json", r#"{"status":"up"}"#)), Verdict::Bad);
        assert_eq!(verdict(reply(302, "text/html", "")), Verdict::Bad);
        assert_eq!(verdict(Err("no route".into())), Verdict::Bad);
    }

    #[test]
    fn a_notification_without_a_signature_has_to_be_refused_by_chatpulse_itself() {
        let verdict = |status, kind| judge_webhook(URL, &reply(status, kind, "")).verdict;
        assert_eq!(verdict(400, PROBLEM), Verdict::Good);
        assert_eq!(verdict(400, "text/html"), Verdict::Bad);
        for status in [200, 301, 401, 403, 404, 405, 502, 503] {
            assert_eq!(verdict(status, PROBLEM), Verdict::Bad, "{status}");
        }
    }

    #[test]
    fn each_way_of_not_arriving_has_its_own_advice() {
        let remedy = |status| judge_webhook(URL, &reply(status, "text/html", "")).remedy.unwrap();
        let remedies = [302, 401, 404, 502, 200].map(remedy);
        for (place, remedy) in remedies.iter().enumerate() {
            assert!(!remedies[..place].contains(remedy), "{remedy}");
        }
        let certificate = unreached(URL, "invalid peer certificate: Expired");
        assert!(certificate.remedy.unwrap().contains("chain"));
    }

    #[tokio::test]
    async fn a_redirect_is_told_and_not_followed() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/health/live", listener.local_addr().unwrap());
        let answering = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(socket.read_u8().await.unwrap());
            }
            let answer = "HTTP/1.1 308 Permanent Redirect\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n";
            socket.write_all(answer.as_bytes()).await.unwrap();
            socket
        };
        let client = client(&url, true).unwrap();
        let (_socket, answered) = tokio::join!(answering, exchange(client.get(&url)));
        let finding = judge_live(&url, &answered);
        assert!(finding.said.contains("redirected (308) to \"/login\""), "{finding:?}");
    }
}
