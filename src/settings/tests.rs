use std::collections::BTreeSet;
use std::path::PathBuf;

use super::report::{Problem, Source};
use super::*;

/// What `serve` requires beyond the defaults.
const REQUIRED: [(&str, &str); 3] = [
    ("DATABASE_URL", "postgres://app:db-password@db.example/chatpulse"),
    ("REDIS_URL", "redis://:redis-password@cache.example:6380"),
    ("CHATPULSE_TWITCH__WEBHOOK_SECRET", "webhook-secret-value"),
];

const KEY_A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const KEY_B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

type Outcome = Result<Loaded, Report>;

fn owned(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// Loads for `serve`, with what is required unless `variables` say otherwise.
fn load_with(variables: &[(&str, &str)]) -> Outcome {
    load(Needs::Everything, None, owned(&[&REQUIRED, variables].concat()))
}

fn load_file(text: &str, variables: &[(&str, &str)]) -> (Outcome, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chatpulse.toml");
    std::fs::write(&path, text).unwrap();
    (load(Needs::Everything, Some(&path), owned(&[&REQUIRED, variables].concat())), path)
}

fn only_problem(outcome: Outcome) -> Problem {
    let mut problems = outcome.expect_err("there should be a problem").problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

fn default_keys() -> BTreeSet<String> {
    let table: toml::Table = DEFAULTS.parse().unwrap();
    let keys = |(section, keys): (&String, &toml::Value)| -> Vec<String> {
        keys.as_table().unwrap().keys().map(|key| format!("{section}.{key}")).collect()
    };
    table.iter().flat_map(keys).collect()
}

#[test]
fn the_defaults_lack_only_what_is_required() {
    let report = load(Needs::Everything, None, owned(&[])).unwrap_err();
    let keys: Vec<&str> = report.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["database.url", "redis.url", "twitch.webhook_secret"]);
    let remedies: Vec<&str> = report.problems.iter().map(|problem| problem.remedy.as_str()).collect();
    assert!(remedies[0].contains("(DATABASE_URL)"), "{remedies:?}");
    assert!(remedies[2].contains("(CHATPULSE_TWITCH__WEBHOOK_SECRET)"), "{remedies:?}");
}

#[test]
fn the_defaults_are_those_of_the_public_contract() {
    let settings = load_with(&[]).unwrap().settings;
    let Settings { http, ops, redis, session, limits, twitch, security, retention, log, .. } = settings;
    assert_eq!(http.bind.to_string(), "0.0.0.0:8080");
    assert_eq!(http.public_url.as_str(), "http://localhost:8080");
    assert!(http.workers >= 1);
    assert_eq!(ops.bind.to_string(), "127.0.0.1:9464");
    assert_eq!(redis.queue_timeout.as_millis(), 300);
    assert_eq!(redis.queue_entries_max, 500_000);
    assert_eq!(session.orphan.as_secs(), 30);
    assert_eq!(session.tick.as_millis(), 50);
    assert_eq!(session.debounce.as_millis(), 1000);
    assert_eq!((limits.operator_sign_ins_per_minute, limits.operator_codes_per_minute), (10, 5));
    assert_eq!(security.hashes_at_once, 2);
    assert_eq!(twitch.transport, Transport::Webhook);
    assert_eq!(twitch.helix_url.as_str(), "https://api.twitch.tv/helix");
    assert_eq!(twitch.eventsub_url.as_str(), "wss://eventsub.wss.twitch.tv/ws");
    assert_eq!(retention.vote_ids_days, 2);
    assert_eq!(log.filter, "info,actix_server=warn");
}

#[test]
fn each_documented_key_is_read_and_each_read_key_is_documented() {
    let report = load_with(&[]).unwrap().report;
    let read: Vec<String> = report.entries.iter().map(|entry| entry.key.to_owned()).collect();
    assert_eq!(read.iter().cloned().collect::<BTreeSet<_>>(), default_keys());
    assert_eq!(read.len(), default_keys().len(), "a key was read twice");
}

#[test]
fn a_key_on_one_side_only_is_found() {
    let mut report = Report::default();
    let mut layers = layers::gather(None, owned(&REQUIRED), &mut report);
    let moved = layers.remove("ops.bind").unwrap();
    layers.insert("ops.listen".to_owned(), moved);
    let mut reader = reader::Reader::new(layers, Needs::Everything, report);
    Settings::read(&mut reader);
    let problems = reader.finish().problems;
    let found: Vec<(&str, &str)> =
        problems.iter().map(|problem| (problem.key.as_str(), problem.what.as_str())).collect();
    let expected = [("ops.bind", "is used but not documented"), ("ops.listen", "is documented but not used")];
    assert_eq!(found, expected);
}

#[test]
fn each_key_has_a_comment_and_each_number_the_range_that_is_checked() {
    let mut section = "";
    let mut comment = String::new();
    let mut numbers = 0;
    for line in DEFAULTS.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text);
        } else if let Some((key, value)) = line.split_once(" = ") {
            let key = format!("{section}.{key}");
            assert!(!comment.is_empty(), "{key} has no comment");
            if value.parse::<i64>().is_ok() {
                check_documented_range(&key, &comment);
                numbers += 1;
            }
            comment.clear();
        } else {
            section = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')).unwrap_or(section);
            comment.clear();
        }
    }
    assert!(numbers > 20);
}

fn check_documented_range(key: &str, comment: &str) {
    let words: Vec<&str> = comment.split(|c: char| c.is_whitespace() || ",;.".contains(c)).collect();
    let range = words.windows(3).find_map(|words| match words {
        [min, "to", max] => Some((min.parse::<i64>().ok()?, max.parse::<i64>().ok()?)),
        _ => None,
    });
    let (min, max) = range.unwrap_or_else(|| panic!("the comment of {key} names no range"));
    let refused = |number: i64| {
        let problems = match load_with(&[(&layers::variable(key), &number.to_string())]) {
            Ok(_) => return false,
            Err(report) => report.problems,
        };
        let remedy = format!("write a whole number, {min} to {max}");
        problems.iter().any(|problem| problem.key == key && problem.remedy == remedy)
    };
    assert_eq!([min - 1, min, max, max + 1].map(refused), [true, false, false, true], "{key}");
}

#[test]
fn the_file_wins_over_the_default_and_the_environment_over_the_file() {
    let text = "[http]\nbind = \"127.0.0.1:1000\"\n[session]\ntick_ms = 40\n";
    let (outcome, path) = load_file(text, &[("CHATPULSE_SESSION__TICK_MS", "60")]);
    let Loaded { settings, report } = outcome.unwrap();
    assert_eq!(settings.http.bind.to_string(), "127.0.0.1:1000");
    assert_eq!(settings.session.tick.as_millis(), 60);
    let source = |key: &str| &report.entries.iter().find(|entry| entry.key == key).unwrap().source;
    assert_eq!(source("http.bind"), &Source::File(path));
    assert_eq!(source("session.tick_ms"), &Source::Environment("CHATPULSE_SESSION__TICK_MS".to_owned()));
    assert_eq!(source("ops.bind"), &Source::Default);
}

#[test]
fn the_specific_variable_wins_over_the_usual_one_in_any_order() {
    let usual = ("RUST_LOG", "warn");
    let specific = ("CHATPULSE_LOG__FILTER", "debug");
    for variables in [[usual, specific], [specific, usual]] {
        assert_eq!(load_with(&variables).unwrap().settings.log.filter, "debug");
    }
    assert_eq!(load_with(&[usual]).unwrap().settings.log.filter, "warn");
}

#[test]
fn the_usual_names_reach_their_keys() {
    let roles = [("RATE_LIMIT_REDIS_URL", "redis://limits"), ("MESSAGE_QUEUE_REDIS_URL", "redis://queues/7")];
    let redis = load_with(&roles).unwrap().settings.redis;
    assert_eq!(redis.rate_limit_url.to_string(), "redis://limits");
    assert_eq!(redis.queue_url.to_string(), "redis://queues/7");
}

#[test]
fn an_empty_value_leaves_what_stood_before() {
    let text = "[http]\nbind = \"\"\n[log]\nfilter = \"warn\"\n";
    let (outcome, _) = load_file(text, &[("RUST_LOG", ""), ("CHATPULSE_LOG__FILTER", "")]);
    let settings = outcome.unwrap().settings;
    assert_eq!(settings.http.bind.to_string(), "0.0.0.0:8080");
    assert_eq!(settings.log.filter, "warn");
}

#[test]
fn the_environment_names_a_file_unless_the_command_line_does() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, port: u16| {
        let path = directory.path().join(name);
        std::fs::write(&path, format!("[ops]\nbind = \"127.0.0.1:{port}\"\n")).unwrap();
        path
    };
    let (asked, named) = (write("asked.toml", 1001), write("named.toml", 1002));
    let variables = [("CHATPULSE_CONFIG", named.to_str().unwrap())];
    let Loaded { settings, report } = load_with(&variables).unwrap();
    assert_eq!(settings.ops.bind.port(), 1002);
    assert_eq!(report.warnings, []);
    let asked = load(Needs::Nothing, Some(&asked), owned(&variables)).unwrap();
    assert_eq!(asked.settings.ops.bind.port(), 1001);
}

#[test]
fn a_missing_file_is_a_problem_of_who_named_it() {
    let problem = only_problem(load_with(&[("CHATPULSE_CONFIG", "/nowhere/chatpulse.toml")]));
    assert_eq!(problem.key, "CHATPULSE_CONFIG");
    assert_eq!(problem.source, Source::File("/nowhere/chatpulse.toml".into()));
}

#[test]
fn all_problems_come_at_once_with_key_source_and_remedy() {
    let text =
        "[http]\nbind = \"here\"\npublic_url = \"https://pulse.example/sub\"\n[session]\ntick_ms = true\n";
    let variables = [
        ("CHATPULSE_SESSION__DEBOUNCE_MS", "0"),
        ("CHATPULSE_DATABASE__POOL_SIZE", "many"),
        ("CHATPULSE_TWITCH__TRANSPORT", "pigeon"),
        ("CHATPULSE_HTTP__TRUSTED_PROXIES", "10.0.0.0/8, 10.0.0.0/99"),
        ("CHATPULSE_HTTP__ALLOWED_ORIGINS", "https://example.com/page"),
        ("CHATPULSE_TWITCH__WEBHOOK_SECRET", "short"),
        ("CHATPULSE_TWITCH__EVENTSUB_URL", "https://example.com"),
        ("CHATPULSE_ADMIN__BOOTSTRAP_TOKEN", "too-short"),
        ("CHATPULSE_SECURITY__SESSION_KEY", "xyz"),
        ("RUST_LOG", "info,chatpulse=loud"),
        ("DATABASE_URL", "mysql://db"),
        ("REDIS_URL", "http://cache"),
    ];
    let (outcome, path) = load_file(text, &variables);
    let problems = outcome.unwrap_err().problems;
    for key in ["http.bind", "http.public_url", "session.tick_ms"] {
        let problem = problems.iter().find(|problem| problem.key == key).expect(key);
        assert_eq!(problem.source, Source::File(path.clone()));
    }
    for (name, _) in variables {
        let source = Source::Environment(name.to_owned());
        assert!(problems.iter().any(|problem| problem.source == source), "{name}: {problems:?}");
    }
    assert_eq!(problems.len(), 3 + variables.len(), "{problems:?}");
    assert!(problems.iter().all(|problem| !problem.what.is_empty() && !problem.remedy.is_empty()));
}

#[test]
fn a_problem_reads_as_a_sentence_and_a_remedy() {
    let report = load_with(&[("CHATPULSE_SESSION__TICK_MS", "5")]).unwrap_err();
    let expected = "The settings have 1 problem:\n  \
                    session.tick_ms (environment CHATPULSE_SESSION__TICK_MS): is 5, which is out of range\n      \
                    write a whole number, 10 to 1000";
    assert_eq!(report.to_string(), expected);
}

#[test]
fn an_unknown_key_in_a_file_is_a_problem_and_says_what_was_meant() {
    let remedy = |text: &str| only_problem(load_file(text, &[]).0).remedy;
    assert_eq!(remedy("[http]\nbnd = \"127.0.0.1:1\"\n"), "did you mean http.bind?");
    assert_eq!(remedy("[htp]\nbind = \"127.0.0.1:1\"\n"), "did you mean http.bind?");
    assert_eq!(remedy("tick_ms = 50\n"), "did you mean session.tick_ms?");
    assert!(remedy("http = 50\n").contains("is a section"));
    assert!(remedy("[cooking]\nrecipe = \"soup\"\n").starts_with("remove it"));
}

#[test]
fn an_unknown_variable_is_a_warning_and_says_what_was_meant() {
    let warnings = load_with(&[("CHATPULSE_HTTP_BIND", "x"), ("UNRELATED", "x")]).unwrap().report.warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].key, "CHATPULSE_HTTP_BIND");
    assert_eq!(warnings[0].remedy, "did you mean CHATPULSE_HTTP__BIND?");
}

#[test]
fn a_syntax_error_is_a_problem_with_its_line() {
    let problem = only_problem(load_file("[twitch]\nclient_secret = \"very-secret-text\n", &[]).0);
    assert_eq!((problem.key.as_str(), problem.what.as_str()), ("line 2", "is not TOML"));
    assert!(!format!("{problem:?}").contains("very-secret-text"));
}

#[test]
fn commands_need_only_what_they_use() {
    let database = [("DATABASE_URL", "postgres://db/chatpulse")];
    assert!(load(Needs::Nothing, None, owned(&[])).is_ok());
    assert!(load(Needs::Database, None, owned(&[])).is_err());
    let settings = load(Needs::Database, None, owned(&database)).unwrap().settings;
    assert_eq!(settings.redis.queue_url.expose().count(), 0);
    assert_eq!(settings.twitch.webhook_secrets().count(), 0);
    let invalid = load(Needs::Database, None, owned(&[database[0], ("REDIS_URL", "nonsense")]));
    assert_eq!(only_problem(invalid).key, "redis.url");
}

#[test]
fn the_webhook_secret_is_not_needed_over_a_websocket() {
    let variables = [&REQUIRED[..2], &[("CHATPULSE_TWITCH__TRANSPORT", "websocket")]].concat();
    assert!(load(Needs::Everything, None, owned(&variables)).is_ok());
}

#[test]
fn two_webhook_secrets_hold_during_a_rotation_the_current_one_first() {
    let previous = ("CHATPULSE_TWITCH__WEBHOOK_SECRET_PREVIOUS", "previous-secret-value");
    let twitch = load_with(&[previous]).unwrap().settings.twitch;
    let secrets: Vec<&str> = twitch.webhook_secrets().map(|secret| secret.expose().as_str()).collect();
    assert_eq!(secrets, ["webhook-secret-value", "previous-secret-value"]);
}

#[test]
fn the_webhook_secret_has_ten_to_a_hundred_printable_characters() {
    let accepted = |secret: &str| load_with(&[("CHATPULSE_TWITCH__WEBHOOK_SECRET", secret)]).is_ok();
    for (secret, expected) in [("s".repeat(9), false), ("s".repeat(10), true), ("s".repeat(100), true)] {
        assert_eq!(accepted(&secret), expected, "{secret}");
    }
    assert!(!accepted(&"s".repeat(101)));
    assert!(!accepted("with a line break\n"));
    assert!(!accepted("ünicode-secret"));
}

#[test]
fn the_keys_are_taken_newest_first_and_each_once() {
    for name in ["CHATPULSE_SECURITY__ENCRYPTION_KEYS", "CHATPULSE_SECURITY__TOKEN_KEYS"] {
        let security = load_with(&[(name, &format!("{KEY_B}, {KEY_A}"))]).unwrap().settings.security;
        let keys = [security.encryption_keys, security.token_keys].map(|keys| keys.0).concat();
        let first: Vec<u8> = keys.iter().map(|key| key.expose()[0]).collect();
        assert_eq!(first, [0xbb, 0xaa], "{name}");
        let problem = only_problem(load_with(&[(name, &format!("{KEY_A},{KEY_A}"))]));
        assert_eq!(problem.what, "key 2 stands there twice");
        let problem = only_problem(load_with(&[(name, &format!("{KEY_A},abc"))]));
        assert_eq!(problem.what, "key 2 is not 64 hex characters");
    }
}

#[test]
fn no_secret_is_ever_printed() {
    let variables = [
        ("CHATPULSE_DATABASE__MIGRATE_URL", "host=db user=owner password=owner-password"),
        ("RATE_LIMIT_REDIS_URL", "redis+unix:///run/redis.sock?db=1&pass=limit-password"),
        ("MESSAGE_QUEUE_REDIS_URL", "rediss://queue-user:queue-password@q1,rediss://:queue-password@q2"),
        ("CHATPULSE_TWITCH__CLIENT_SECRET", "client-secret-value"),
        ("CHATPULSE_TWITCH__WEBHOOK_SECRET_PREVIOUS", "previous-secret-value"),
        ("CHATPULSE_ADMIN__BOOTSTRAP_TOKEN", "token-token-token-token-token-token"),
        ("CHATPULSE_SECURITY__ENCRYPTION_KEYS", KEY_A),
        ("CHATPULSE_SECURITY__SESSION_KEY", KEY_B),
        ("CHATPULSE_SECURITY__TOKEN_KEYS", KEY_A),
    ];
    let Loaded { settings, report } = load_with(&variables).unwrap();
    let printed = format!("{settings:?} {settings:#?} {report:?} {}", report.full());
    // 170 and 187 are the bytes of the keys.
    for secret in ["password", "secret-value", "token-token", KEY_A, KEY_B, "170", "187"] {
        assert!(!printed.contains(secret), "{secret} in {printed}");
    }
    let full = report.full().to_string();
    for shown in
        ["postgres://owner@db:5432", "redis+unix:///run/redis.sock?db=1", "rediss://***@q1,rediss://***@q2"]
    {
        assert!(full.contains(shown), "{shown} not in {full}");
    }
}

#[test]
fn no_secret_is_printed_when_it_is_wrong() {
    let text = "[twitch]\nclient_id = 7\nclient_secret = 48151623\n[security]\nsession_key = [\"leak\"]\n";
    let variables = [
        ("DATABASE_URL", "postgres://app:p@leak/leak@db/chatpulse"),
        ("CHATPULSE_DATABASE__MIGRATE_URL", "postgres://app:p@leak@db/chatpulse"),
        ("REDIS_URL", "redis://:leak/leak@cache"),
        ("RATE_LIMIT_REDIS_URL", "redis://user:12?leak@cache"),
        ("MESSAGE_QUEUE_REDIS_URL", "leak"),
        ("CHATPULSE_TWITCH__CLIENT_SECRET", "leak leak"),
        ("CHATPULSE_TWITCH__WEBHOOK_SECRET", "leak"),
        ("CHATPULSE_TWITCH__HELIX_URL", "https://user:leak@api.example"),
        ("CHATPULSE_HTTP__PUBLIC_URL", "https://user:leak@pulse.example"),
        ("CHATPULSE_ADMIN__BOOTSTRAP_TOKEN", "leak"),
        ("CHATPULSE_SECURITY__ENCRYPTION_KEYS", "leak"),
        ("CHATPULSE_SECURITY__TOKEN_KEYS", "leak"),
        ("CHATPULSE_SECRET", "leak"),
    ];
    let (outcome, _) = load_file(text, &variables);
    let report = outcome.unwrap_err();
    let printed = format!("{report} {report:?} {}", report.full());
    assert!(!printed.contains("leak") && !printed.contains("48151623"), "{printed}");
    assert_eq!(report.problems.len(), variables.len() - 1 + 2, "{printed}");
}

#[test]
fn the_public_url_follows_from_the_address() {
    let url = |bind: &str| load_with(&[("CHATPULSE_HTTP__BIND", bind)]).unwrap().settings.http.public_url;
    assert_eq!(url("0.0.0.0:80").as_str(), "http://localhost:80");
    assert_eq!(url("[::]:81").as_str(), "http://localhost:81");
    assert_eq!(url("[::1]:82").as_str(), "http://[::1]:82");
    assert_eq!(url("10.0.0.7:83").as_str(), "http://10.0.0.7:83");
    let given = load_with(&[("CHATPULSE_HTTP__PUBLIC_URL", "https://Pulse.example:443/")]).unwrap();
    assert_eq!(given.settings.http.public_url.as_str(), "https://pulse.example");
}

#[test]
fn the_redis_roles_follow_from_the_main_url() {
    let roles = |url: &str| {
        let redis = load_with(&[("REDIS_URL", url)]).unwrap().settings.redis;
        [redis.rate_limit_url, redis.queue_url].map(|url| url.expose().collect::<Vec<_>>().join(","))
    };
    assert_eq!(roles("redis://cache"), ["redis://cache/1", "redis://cache/2"]);
    assert_eq!(roles("rediss://u:p%2Cw@c:7/5"), ["rediss://u:p%2Cw@c:7/1", "rediss://u:p%2Cw@c:7/2"]);
    assert_eq!(
        roles("redis://c/0?protocol=resp3"),
        ["redis://c/1?protocol=resp3", "redis://c/2?protocol=resp3"]
    );
    assert_eq!(
        roles("unix:///r.sock?db=3&pass=x"),
        ["unix:///r.sock?pass=x&db=1", "unix:///r.sock?pass=x&db=2"]
    );
    let cluster = "redis://a:1,redis://b:2";
    assert_eq!(roles(cluster), [cluster, cluster]);
}

#[test]
fn whether_the_queue_is_durable_is_asked_unless_it_is_said() {
    let durable = |said: &str| load_with(&[("CHATPULSE_REDIS__QUEUE_IS_DURABLE", said)]);
    assert_eq!(durable("").unwrap().settings.redis.queue_is_durable, QueueDurability::Ask);
    assert_eq!(durable("yes").unwrap().settings.redis.queue_is_durable, QueueDurability::Yes);
    assert_eq!(durable("no").unwrap().settings.redis.queue_is_durable, QueueDurability::No);
    assert_eq!(only_problem(durable("maybe")).remedy, "write one of \"ask\", \"yes\", \"no\"");
}

#[test]
fn a_redis_url_is_one_server_or_a_cluster() {
    let accepted = |url: &str| load_with(&[("REDIS_URL", url)]).is_ok();
    for url in
        ["redis://a", "rediss://a:1/15", "redis+unix:///s?db=2", "unix:///s", "redis://a/, redis://b/0"]
    {
        assert!(accepted(url), "{url}");
    }
    for url in
        ["redis://", "redis://a/x", "redis://a/1,redis://b", "unix:///s,redis://b", "unix://", "a:6379"]
    {
        assert!(!accepted(url), "{url}");
    }
    assert!(load_with(&[("REDIS_URL", "redis://a,redis://b")]).unwrap().settings.redis.url.is_cluster());
}

#[test]
fn the_drivers_accept_what_the_settings_accept() {
    for url in ["redis://u:p@a:1/15", "redis+unix:///s?db=2", "unix:///s", "redis://a/"] {
        let redis = load_with(&[("REDIS_URL", url)]).unwrap().settings.redis;
        for url in redis.url.expose().chain(redis.queue_url.expose()) {
            assert!(deadpool_redis::Config::from_url(url).builder().is_ok(), "{url}");
        }
    }
    for url in
        ["postgres:///chatpulse?host=/run/postgresql", "postgresql://u:p%40@h1:1,h2:2/db", "host=/run user=u"]
    {
        assert!(load_with(&[("DATABASE_URL", url)]).is_ok(), "{url}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_problems() {
    let problem = only_problem(load_with(&[("CHATPULSE_OVERLAY__PING_SECONDS", "10")]));
    assert_eq!(problem.key, "overlay.pong_timeout_seconds");
    let same = [("CHATPULSE_HTTP__BIND", "127.0.0.1:9464")];
    assert_eq!(only_problem(load_with(&same)).key, "ops.bind");
}

#[test]
fn lists_are_arrays_in_a_file_and_comma_separated_in_the_environment() {
    let text =
        "[http]\nallowed_origins = [\"https://a.example\", \"null\"]\ntrusted_proxies = [\"10.0.0.0/8\"]\n";
    let variables = [("CHATPULSE_HTTP__TRUSTED_PROXIES", "::1, 192.168.0.0/16")];
    let http = load_file(text, &variables).0.unwrap().settings.http;
    assert_eq!(http.allowed_origins, ["https://a.example", "null"]);
    let proxies: Vec<String> = http.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["::1/128", "192.168.0.0/16"]);
}

#[test]
fn bytes_that_are_no_unicode_are_a_problem() {
    let problem = only_problem(load_with(&[("CHATPULSE_HTTP__PUBLIC_URL", "https://a\u{fffd}")]));
    assert_eq!(problem.what, "is not valid Unicode");
}

#[test]
fn the_report_aligns_keys_values_and_sources() {
    let full = load_with(&[]).unwrap().report.full().to_string();
    let find = |key: &str| full.lines().find(|line| line.starts_with(key)).unwrap();
    let (bind, tick) = (find("http.bind"), find("session.tick_ms"));
    assert_eq!(bind.find("0.0.0.0:8080"), tick.find("50"));
    assert_eq!(bind.find("default"), tick.find("default"));
    assert!(find("twitch.webhook_secret ").contains("(set) "));
    assert!(find("twitch.client_secret").contains("(not set) "));
    assert!(find("redis.queue_url").contains("redis://***@cache.example:6380/2 (from redis.url)"));
    assert!(full.ends_with("The settings have no problems."), "{full}");
}

#[test]
fn logs_are_json_unless_a_terminal_or_the_setting_says_otherwise() {
    let json = |format: &str, terminal| {
        load_with(&[("CHATPULSE_LOG__FORMAT", format)]).unwrap().settings.log.json(terminal)
    };
    assert!(json("auto", false) && !json("auto", true));
    assert!(json("json", true) && !json("human", false));
}
