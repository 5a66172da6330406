//! Settings that belong together.

use url::Url;

use super::Finding;
use crate::run::twitch::is_loopback;
use crate::settings::report::Problem;
use crate::settings::{Settings, Transport};

const SETTINGS: &str = "settings";
/// Source: Twitch, "Create EventSub Subscription", `transport.callback`.
const CALLBACK_PORT: u16 = 443;
const RANDOM: &str = "what `openssl rand -hex 32` prints, the same for all instances";
const CONSOLE: &str = "that of the application at dev.twitch.tv/console/apps";

/// Where this deployment is reached, and by whom it has to be.
struct Reached<'a> {
    url: &'a str,
    transport: Transport,
    /// By this machine alone.
    loopback: bool,
    /// Instead of Twitch there is a stand-in nearby.
    stand_in: bool,
}

/// Looks at the settings alone; `warnings` are those that loading them gave.
pub(super) fn examine(settings: &Settings, warnings: &[Problem]) -> Vec<Finding> {
    let warned = |problem: &Problem| {
        Finding::note(SETTINGS, format!("{} {}", problem.key, problem.what), problem.remedy.clone())
    };
    let mut findings: Vec<Finding> = warnings.iter().map(warned).collect();
    let missing = missing(settings);
    if missing.is_empty() {
        findings.push(Finding::good(SETTINGS, "the application, the bot and all secrets are set"));
    }
    findings.extend(missing);
    findings.push(public_url(&Reached {
        url: settings.http.public_url.as_str(),
        transport: settings.twitch.transport,
        loopback: is_loopback(&settings.http.public_url),
        stand_in: settings.twitch.helix_url.as_str().starts_with("http:"),
    }));
    findings
}

/// What is not set, although Twitch needs it.
fn missing(settings: &Settings) -> Vec<Finding> {
    let twitch = &settings.twitch;
    let security = &settings.security;
    let needs_secret = twitch.transport == Transport::Webhook;
    let wanted = [
        (
            twitch.client_id.is_some(),
            "twitch.client_id",
            "nobody can sign in, and no chat is subscribed to",
            CONSOLE,
        ),
        (
            twitch.client_secret.is_some(),
            "twitch.client_secret",
            "nobody can sign in, and no chat is subscribed to",
            CONSOLE,
        ),
        (
            twitch.webhook_secret.is_some() || !needs_secret,
            "twitch.webhook_secret",
            "no notification can be believed",
            RANDOM,
        ),
        (
            twitch.bot_user_id.is_some(),
            "twitch.bot_user_id",
            "there is no account to read chats as",
            "the user id, a number, of the bot's account at Twitch",
        ),
        (security.session_key.is_some(), "security.session_key", "nobody can sign in", RANDOM),
        (
            !security.encryption_keys.0.is_empty(),
            "security.encryption_keys",
            "no token can be stored, so nobody can sign in",
            RANDOM,
        ),
    ];
    let absent = wanted.into_iter().filter(|(is_there, ..)| !is_there);
    absent
        .map(|(_, key, so, value)| {
            let variable = format!("CHATPULSE_{}", key.to_uppercase().replace('.', "__"));
            Finding::bad(SETTINGS, format!("{key} is not set: {so}"), format!("set {variable} to {value}"))
        })
        .collect()
}

fn public_url(reached: &Reached<'_>) -> Finding {
    const HTTPS_OR_SOCKET: &str = "set http.public_url to this deployment's https address, or twitch.transport to \
                                   \"websocket\"";
    let Reached { url, transport, .. } = *reached;
    let parsed = Url::parse(url).ok();
    let tls = parsed.as_ref().is_some_and(|url| url.scheme() == "https");
    let port = parsed.as_ref().and_then(Url::port_or_known_default);
    let said = |what: &str| format!("http.public_url is {url}: {what}");
    let bad = |what: &str, remedy: &str| Finding::bad(SETTINGS, said(what), remedy);
    let good = |what: &str| Finding::good(SETTINGS, said(what));
    match (transport, reached.loopback) {
        (Transport::Websocket, true) => good("only this machine can reach it, and Twitch need not"),
        (Transport::Webhook, true) if reached.stand_in => {
            good("only this machine can reach it, as the stand-in for Twitch does")
        }
        (Transport::Webhook, true) => {
            bad("only this machine can reach it, so Twitch can't deliver to it", HTTPS_OR_SOCKET)
        }
        (_, false) if !tls => {
            let remedy = "set http.public_url to an https address of this deployment; a proxy in front of it can \
                          speak TLS";
            bad("without https nobody can sign in, and Twitch does not deliver", remedy)
        }
        (Transport::Webhook, false) if port != Some(CALLBACK_PORT) && !reached.stand_in => {
            bad("Twitch delivers to port 443 only", HTTPS_OR_SOCKET)
        }
        (Transport::Webhook, false) => good("an address that Twitch delivers to"),
        (Transport::Websocket, false) => good("an address where people can sign in"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::settings::{Needs, load};

    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const WHOLE: [(&str, &str); 7] = [
        ("CHATPULSE_HTTP__PUBLIC_URL", "https://pulse.example.com"),
        ("CHATPULSE_TWITCH__CLIENT_ID", "hof5gwx0su6owfnys0yan9c87zr6t"),
        ("CHATPULSE_TWITCH__CLIENT_SECRET", "41vpdji4e9gif29md0ouet6fktd2"),
        ("CHATPULSE_TWITCH__WEBHOOK_SECRET", "a-secret-of-tests"),
        ("CHATPULSE_TWITCH__BOT_USER_ID", "7"),
        ("CHATPULSE_SECURITY__SESSION_KEY", KEY),
        ("CHATPULSE_SECURITY__ENCRYPTION_KEYS", KEY),
    ];

    fn examined(environment: &[(&str, &str)]) -> Vec<Finding> {
        let owned = environment.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let loaded = load(Needs::Nothing, None, owned).unwrap();
        examine(&loaded.settings, &[])
    }

    #[test]
    fn a_deployment_with_all_it_needs_is_good() {
        let findings = examined(&WHOLE);
        assert_eq!(findings.len(), 2);
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Good), "{findings:?}");
    }

    #[test]
    fn each_thing_that_is_missing_is_named_with_its_variable() {
        for (left_out, _) in &WHOLE[1..] {
            let rest: Vec<_> = WHOLE.into_iter().filter(|(name, _)| name != left_out).collect();
            let findings = examined(&rest);
            let bad: Vec<_> = findings.iter().filter(|finding| finding.verdict == Verdict::Bad).collect();
            assert_eq!(bad.len(), 1, "{left_out}");
            assert!(bad[0].remedy.as_ref().unwrap().contains(left_out), "{bad:?}");
        }
    }

    #[test]
    fn no_secret_is_repeated() {
        let shown = format!("{:?}", examined(&WHOLE));
        for secret in [KEY, "41vpdji4e9gif29md0ouet6fktd2", "a-secret-of-tests"] {
            assert!(!shown.contains(secret));
        }
    }

    #[test]
    fn over_websockets_no_webhook_secret_is_needed() {
        let mut rest: Vec<_> =
            WHOLE.into_iter().filter(|(name, _)| *name != "CHATPULSE_TWITCH__WEBHOOK_SECRET").collect();
        rest.push(("CHATPULSE_TWITCH__TRANSPORT", "websocket"));
        assert!(examined(&rest).iter().all(|finding| finding.verdict == Verdict::Good));
    }

    #[test]
    fn warnings_are_notes() {
        let loaded = load(Needs::Nothing, None, []).unwrap();
        let warning = Problem {
            key: "CHATPULSE_X".into(),
            source: crate::settings::report::Source::Default,
            what: "is no setting".into(),
            remedy: "correct it".into(),
        };
        let findings = examine(&loaded.settings, &[warning]);
        assert_eq!(findings[0], Finding::note(SETTINGS, "CHATPULSE_X is no setting", "correct it"));
    }

    #[test]
    fn an_address_is_judged_by_who_has_to_reach_it() {
        use Transport::{Webhook, Websocket};
        let verdict = |url, transport, loopback, stand_in| {
            public_url(&Reached { url, transport, loopback, stand_in }).verdict
        };
        let (good, bad) = (Verdict::Good, Verdict::Bad);
        assert_eq!(verdict("https://a.example", Webhook, false, false), good);
        assert_eq!(verdict("https://a.example:8443", Webhook, false, false), bad);
        assert_eq!(verdict("https://a.example:8443", Websocket, false, false), good);
        assert_eq!(verdict("http://a.example", Webhook, false, false), bad);
        // Browsers would not keep the cookie of signing in.
        assert_eq!(verdict("http://a.example", Websocket, false, false), bad);
        assert_eq!(verdict("http://localhost:8080", Websocket, true, false), good);
        assert_eq!(verdict("http://localhost:8080", Webhook, true, true), good);
        assert_eq!(verdict("http://localhost:8080", Webhook, true, false), bad);
        assert_eq!(verdict("https://localhost", Webhook, true, false), bad);
    }
}
