//! The command line: exit codes, and sentences that say what to do.

use std::collections::HashSet;
use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use crate::support::instance::{Ended, Instance, Stores, program};
use crate::support::servers::connect;
use crate::support::twitch::SECRET;

/// Requires that a command failed with one plain sentence on standard error, and nothing else.
fn assert_fails_plainly(ended: &Ended, code: i32, says: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert_eq!(ended.stdout, "", "{ended:?}");
    // Log lines, if any, are JSON; what is left is for people.
    let sentences: Vec<&str> = ended.stderr.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(sentences.len(), 1, "{ended:?}");
    for part in says {
        assert!(sentences[0].contains(part), "{part:?} in {}", sentences[0]);
    }
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
}

#[tokio::test]
async fn migrate_tells_what_it_applied_and_can_be_repeated() {
    let stores = Stores::fresh().await;
    let environment = stores.environment(&[]);
    let first = program(&["migrate"], &environment).await;
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(first.stdout.lines().any(|line| line.starts_with("applied V1")), "{first:?}");
    let version = first.stdout.lines().last().unwrap();
    assert!(version.starts_with("the schema has version "), "{first:?}");
    let second = program(&["migrate"], &environment).await;
    assert_eq!((second.code, second.stdout.trim_end()), (Some(0), version), "{second:?}");
}

#[tokio::test]
async fn migrations_at_the_same_time_wait_for_each_other() {
    let stores = Stores::fresh().await;
    let environment = stores.environment(&[]);
    let (one, two) = tokio::join!(program(&["migrate"], &environment), program(&["migrate"], &environment));
    assert_eq!((one.code, two.code), (Some(0), Some(0)), "{one:?} {two:?}");
    let applied = [&one, &two].map(|ended| ended.stdout.contains("applied"));
    assert!(applied[0] != applied[1], "one of them applies all: {one:?} {two:?}");
}

#[tokio::test]
async fn check_config_tells_all_problems_at_once() {
    let broken = [
        ("CHATPULSE_HTTP__BIND", "here"),
        ("CHATPULSE_SESSION__TICK_MS", "5"),
        ("CHATPULSE_TWITCH__WEBHOOK_SECRET", "short"),
        ("REDIS_URL", "redis://127.0.0.1:6379"),
        ("CHATPULSE_SESSION__TIK_MS", "50"),
    ];
    let broken = broken.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let ended = program(&["check-config"], &broken).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for key in ["http.bind", "session.tick_ms", "twitch.webhook_secret", "database.url", "TIK_MS"] {
        assert!(ended.stdout.contains(key), "{key}: {}", ended.stdout);
    }
    assert!(ended.stdout.contains("4 problems"), "an unknown variable is a warning: {}", ended.stdout);

    let good = [
        ("DATABASE_URL", "postgres://chatpulse:db-password@127.0.0.1/chatpulse"),
        ("REDIS_URL", "redis://:redis-password@127.0.0.1:6379"),
        ("CHATPULSE_TWITCH__WEBHOOK_SECRET", SECRET),
    ];
    let good = good.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let ended = program(&["check-config"], &good).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("session.tick_ms") && ended.stdout.contains("environment DATABASE_URL"));
    for secret in ["db-password", "redis-password", SECRET] {
        assert!(!ended.stdout.contains(secret) && !ended.stderr.contains(secret), "{ended:?}");
    }
}

#[tokio::test]
async fn wrong_usage_and_wrong_settings_exit_with_2() {
    let stores = Stores::fresh().await;
    let environment = stores.environment(&[]);
    for arguments in [
        &["no-such-command"][..],
        &["serve", "--no-such-option"],
        &["streamer", "create", "--login", "x"],
        &["operator", "create", "--email", "ada@example.org"],
        &["operator", "create", "--email", "ada@example.org", "--role", "king"],
        &["operator", "create", "--email", "ada", "--role", "owner"],
        &["simulate", "--url", "http://127.0.0.1:1/", "--secret", "short"],
        &["simulate", "--url", "not a url", "--secret", SECRET],
        &["simulate", "--url", "http://127.0.0.1:1/", "--secret", SECRET, "--vote-share", "2"],
        &["--config", "/no/such/file.toml", "migrate"],
        &[],
    ] {
        let ended = program(arguments, &environment).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{arguments:?}: {ended:?}");
        assert!(!ended.stderr.is_empty(), "{arguments:?}");
    }
    let unset = program(&["serve"], &[]).await;
    assert_eq!(unset.code, Some(2), "{unset:?}");
    for key in ["database.url", "redis.url", "twitch.webhook_secret"] {
        assert!(unset.stderr.contains(key), "{key}: {unset:?}");
    }
    let help = program(&["--help"], &[]).await;
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn serve_says_in_a_sentence_why_it_does_not_start() {
    let stores = Stores::fresh().await;
    let unmigrated = program(&["serve"], &stores.environment(&[])).await;
    assert_fails_plainly(&unmigrated, 1, &["chatpulse migrate"]);

    let migrated = program(&["migrate"], &stores.environment(&[])).await;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for key in ["CHATPULSE_HTTP__BIND", "CHATPULSE_OPS__BIND"] {
        let ended = program(&["serve"], &stores.environment(&[(key, &taken)])).await;
        assert_fails_plainly(&ended, 1, &[&taken, "in use"]);
    }

    // Nobody listens there any more.
    drop(listener);
    let nowhere = format!("postgres://somebody:a-password@{taken}/chatpulse");
    let ended = program(&["serve"], &stores.environment(&[("DATABASE_URL", &nowhere)])).await;
    assert_fails_plainly(&ended, 1, &["PostgreSQL can't be reached"]);
    assert!(!ended.stderr.contains("a-password"), "{ended:?}");

    let wrong = stores.app_url.replace('@', "wrong@");
    let ended = program(&["serve"], &stores.environment(&[("DATABASE_URL", &wrong)])).await;
    assert_fails_plainly(&ended, 1, &["PostgreSQL"]);
}

#[tokio::test]
async fn creating_a_streamer_twice_prints_the_same_line() {
    let instance = Instance::start(&[("CHATPULSE_HTTP__PUBLIC_URL", "https://pulse.example")]).await;
    let create = [
        "streamer",
        "create",
        "--twitch-id",
        "4711",
        "--login",
        "somebody",
        "--for",
        "ja",
        "--against",
        "nein",
    ];
    let first = instance.program(&create).await;
    assert_eq!(first.code, Some(0), "{first:?}");
    assert_eq!(first.stdout.lines().count(), 1);
    let line: Value = serde_json::from_str(&first.stdout).unwrap();
    let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 3, "{line}");
    let url = format!("https://pulse.example/overlay/{}", line["overlay_uuid"].as_str().unwrap());
    assert_eq!(line["overlay_url"], url);
    let second = instance.program(&create).await;
    assert_eq!((second.code, &second.stdout), (Some(0), &first.stdout));
    let renamed = instance.program(&["streamer", "create", "--twitch-id", "4711", "--login", "other"]).await;
    assert_eq!((renamed.code, &renamed.stdout), (Some(0), &first.stdout), "{renamed:?}");

    let both_sides =
        ["streamer", "create", "--twitch-id", "12", "--login", "x", "--for", "Ja", "--against", " ja "];
    let refused = instance.program(&both_sides).await;
    assert_fails_plainly(&refused, 2, &["against_triggers", "one side only"]);
}

/// Runs `operator create`.
async fn create_operator(environment: &[(String, String)], email: &str, role: &str) -> Ended {
    program(&["operator", "create", "--email", email, "--role", role], environment).await
}

#[tokio::test]
async fn creating_an_operator_prints_a_password_for_one_use() {
    let stores = Stores::migrated().await;
    let environment = stores.environment(&[]);
    let sql = connect(&stores.owner_url).await;
    let mut passwords = HashSet::new();
    for role in ["owner", "admin", "viewer"] {
        let ended = create_operator(&environment, &format!(" {role}@Example.org"), role).await;
        assert_eq!((ended.code, ended.stdout.lines().count()), (Some(0), 1), "{ended:?}");
        let line: Value = serde_json::from_str(&ended.stdout).unwrap();
        let email = format!("{role}@example.org");
        assert_eq!((&line["email"], &line["role"]), (&json!(email), &json!(role)));
        assert_eq!(line.as_object().unwrap().len(), 4, "{line}");
        let password = line["password"].as_str().unwrap().to_owned();
        assert!(password.len() >= 20, "{line}");
        assert!(!ended.stderr.contains(&password), "it is printed once");

        let account = "SELECT id, role, password_hash, must_change_password, disabled_at IS NULL
                       FROM chatpulse.operators WHERE email = $1";
        let row = sql.query_one(account, &[&email]).await.unwrap();
        assert_eq!(line["operator_id"], row.get::<_, Uuid>(0).to_string());
        let (stored_role, hash): (String, String) = (row.get(1), row.get(2));
        assert_eq!(stored_role, role);
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && !hash.contains(&password), "{hash}");
        assert!(row.get::<_, bool>(3) && row.get::<_, bool>(4), "it is for one use, and the account is open");
        assert!(passwords.insert(password), "each account has its own");
    }
}

#[tokio::test]
async fn creating_an_operator_stands_in_the_security_log() {
    let stores = Stores::migrated().await;
    let ended = create_operator(&stores.environment(&[]), "ada@example.org", "owner").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let line: Value = serde_json::from_str(&ended.stdout).unwrap();
    let sql = connect(&stores.owner_url).await;
    let log = "SELECT kind, subject, address, operator_id, detail FROM chatpulse.security_log";
    let row = sql.query_one(log, &[]).await.unwrap();
    let (kind, subject): (String, Option<String>) = (row.get(0), row.get(1));
    assert_eq!((kind.as_str(), subject.as_deref()), ("operator_created", line["operator_id"].as_str()));
    assert_eq!((row.get::<_, Option<String>>(2), row.get::<_, Option<Uuid>>(3)), (None, None));
    let detail: Value = row.get(4);
    assert_eq!(detail, json!({ "email": "ada@example.org", "role": "owner" }));
}

#[tokio::test]
async fn an_operator_who_is_there_already_stays_as_they_are() {
    let stores = Stores::migrated().await;
    let environment = stores.environment(&[]);
    let first = create_operator(&environment, "ada@example.org", "viewer").await;
    assert_eq!(first.code, Some(0), "{first:?}");
    let sql = connect(&stores.owner_url).await;
    let all = "SELECT o.id::text || o.role || o.password_hash || o.version::text,
                      (SELECT count(*) FROM chatpulse.security_log)
               FROM chatpulse.operators o";
    let look = async || {
        let row = sql.query_one(all, &[]).await.unwrap();
        (row.get::<_, String>(0), row.get::<_, i64>(1))
    };
    let before = look().await;
    for email in ["ada@example.org", "ADA@example.org"] {
        let ended = create_operator(&environment, email, "owner").await;
        assert_fails_plainly(&ended, 1, &["ada@example.org", "has an account already"]);
    }
    assert_eq!(look().await, before);
}

#[tokio::test]
async fn an_operator_with_a_wrong_email_or_role_is_refused_and_told_why() {
    let stores = Stores::migrated().await;
    let environment = stores.environment(&[]);
    for email in ["ada", "@example.org", "ada@", "a da@example.org", "ada@example.org\nx", ""] {
        let ended = create_operator(&environment, email, "viewer").await;
        assert_fails_plainly(&ended, 2, &["--email", "name@example.org"]);
    }
    let ended = create_operator(&environment, "ada@example.org", "king").await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("viewer, admin, owner"), "{ended:?}");
    let sql = connect(&stores.owner_url).await;
    let count = sql.query_one("SELECT count(*) FROM chatpulse.operators", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 0);
}

#[tokio::test]
async fn healthcheck_exits_with_0_only_when_the_instance_is_ready() {
    let mut instance = Instance::start(&[]).await;
    let healthy = instance.program(&["healthcheck"]).await;
    assert_eq!(healthy.code, Some(0), "{healthy:?}");
    let body: Value = serde_json::from_str(&healthy.stdout).unwrap();
    assert_eq!(body["status"], "ready");
    instance.kill();
    let gone = instance.program(&["healthcheck"]).await;
    assert_fails_plainly(&gone, 1, &["no instance answers"]);
}

#[tokio::test]
async fn health_answers_on_both_listeners_and_metrics_on_one() {
    let instance = Instance::start(&[]).await;
    let (public, ops) = (instance.twitch(), crate::support::twitch::Twitch::new(instance.ops));
    for listener in [&public, &ops] {
        for path in ["/health/live", "/health/ready"] {
            assert_eq!(listener.get(path).await.status, 200, "{path}");
        }
    }
    assert_eq!(ops.get("/metrics").await.status, 200);
    assert_eq!(public.get("/metrics").await.status, 404);
}

#[tokio::test]
async fn simulate_reports_as_json_what_became_of_its_messages() {
    let instance = Instance::start(&[]).await;
    let (streamer, mut overlay) = instance.watched().await;
    let url = format!("http://{}/webhooks/eventsub", instance.public);
    let arguments = [
        "simulate",
        "--url",
        &url,
        "--secret",
        SECRET,
        "--rate",
        "100",
        "--duration",
        "1s",
        "--vote-share",
        "0.5",
        "--broadcaster-id",
        &streamer.twitch_id,
        "--viewers",
        "100000",
        "--json",
        "--quiet",
    ];
    let ended = program(&arguments, &[]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let number = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("{key} of {report}"));
    assert_eq!(report["answered"]["204"].as_u64(), Some(number("sent")));
    assert_eq!((number("failed"), number("not_sent")), (0, 0));
    assert!(number("votes_for") + number("votes_against") > 0, "{report}");
    assert!(report["latency_ms"]["p99"].is_number(), "{report}");
    assert!(!instance.votes(&streamer).await.is_empty());
    overlay.next_frame("sentiment").await;

    // What is not accepted shows in the exit code too.
    let wrong = [
        "simulate",
        "--url",
        &url,
        "--secret",
        "another secret",
        "--rate",
        "10",
        "--duration",
        "1",
        "--json",
        "--quiet",
    ];
    let ended = program(&wrong, &[]).await;
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(report["answered"]["403"].as_u64() > Some(0), "{report}");
}

#[tokio::test]
async fn sigterm_closes_overlays_with_4101_and_ends_with_0() {
    let mut instance = Instance::start(&[]).await;
    let (streamer, mut overlay) = instance.watched().await;
    let accepted = instance.twitch().say(&streamer.twitch_id, "yes").await;
    overlay.next_frame("sentiment").await;
    instance.terminate();
    let (code, status) = tokio::join!(overlay.close_code(), instance.stopped());
    assert_eq!((code, status.code()), (4101, Some(0)));
    assert_eq!(instance.voted(&streamer).await, [accepted]);
    let holders = "SELECT cardinality(holders) FROM chatpulse.live_sessions WHERE streamer_id = $1";
    let row = instance.sql().await.query_one(holders, &[&streamer.id]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 0, "the session is let go of");
}

#[tokio::test]
async fn an_instance_without_overlays_stops_at_once() {
    let mut instance = Instance::start(&[]).await;
    instance.terminate();
    // The drain time, 10 s by default, is for overlays.
    let status = timeout(Duration::from_secs(8), instance.stopped()).await.expect("it need not drain");
    assert_eq!(status.code(), Some(0));
}
