//! The house in order: rules of the source that the compiler doesn't know. Each check is a function
//! from a file to what is wrong with it, and is shown a bad file as well, so that it is known to see.

mod source;

use std::collections::BTreeSet;

use source::{NamedPath, Source, files_below, ident, idents, is_punct, root};

const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;

/// Which rooms a room may know, besides itself. A new room needs a line here.
const ROOMS: &[(&str, &[&str])] = &[
    ("settings", &[]),
    ("domain", &[]),
    ("telemetry", &[]),
    ("local", &[]),
    ("security", &["settings"]),
    ("twitch", &["domain", "settings", "telemetry"]),
    ("journal", &["domain", "settings", "telemetry"]),
    ("hot", &["domain", "settings", "telemetry"]),
    ("actors", &["domain", "settings", "telemetry", "journal", "hot"]),
    ("reconcile", &["domain", "settings", "telemetry", "security", "journal", "hot", "twitch"]),
    (
        "http",
        &["domain", "settings", "telemetry", "security", "journal", "hot", "twitch", "actors", "reconcile"],
    ),
    ("doctor", EVERY_ROOM),
    ("run", EVERY_ROOM),
    ("demo", EVERY_ROOM),
    ("lib", EVERY_ROOM),
    ("bin", EVERY_ROOM),
];
const EVERY_ROOM: &[&str] = &[
    "settings",
    "domain",
    "telemetry",
    "local",
    "security",
    "twitch",
    "journal",
    "hot",
    "actors",
    "reconcile",
    "http",
    "run",
    "doctor",
    "demo",
];

/// The crates that the domain may know: they compute, and touch nothing outside.
const DOMAIN_CRATES: [&str; 3] = ["caseless", "thiserror", "uuid"];
/// What of the standard library touches the outside world.
const OUTSIDE: [&[&str]; 9] = [
    &["std", "net"],
    &["std", "fs"],
    &["std", "io"],
    &["std", "env"],
    &["std", "os"],
    &["std", "process"],
    &["std", "thread"],
    &["std", "time", "SystemTime"],
    &["std", "time", "Instant"],
];
/// Calls and macros that end a thread of work.
const PANICS: [(&str, char); 6] = [
    ("unwrap", '.'),
    ("expect", '.'),
    ("panic", '!'),
    ("todo", '!'),
    ("unreachable", '!'),
    ("unimplemented", '!'),
];
/// Results with which a handler keeps its actor waiting or lets messages overtake each other.
const WAITING_RESULTS: [&str; 3] = ["ResponseActFuture", "ResponseFuture", "AtomicResponse"];

type Check = fn(&Source) -> Vec<String>;

fn assert_clean(check: Check) {
    let wrong: Vec<String> = Source::all().iter().flat_map(check).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// What a check says of a file of this path and text.
fn seen(check: Check, path: &str, text: &str) -> String {
    check(&Source::parse(path, text)).join("\n")
}

fn at(source: &Source, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", source.path)
}

// Direction of imports ------------------------------------------------------------------------------

/// The room of ours that a path leads to.
fn room_named(path: &NamedPath) -> Option<&str> {
    let mut rest = path.segments.as_slice();
    let mut module = match rest.first()?.as_str() {
        "crate" => &[],
        "self" | "super" => path.module.as_slice(),
        _ => return None,
    };
    while let [step, after @ ..] = rest {
        match step.as_str() {
            "super" => module = &module[..module.len().saturating_sub(1)],
            "crate" | "self" => {}
            _ => break,
        }
        rest = after;
    }
    module.first().or(rest.first()).map(String::as_str)
}

fn imports_outward(source: &Source) -> Vec<String> {
    let room = source.room();
    let Some((_, known)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![at(source, 1, &format!("`{room}` is a room without a line in ROOMS"))];
    };
    let paths = source.paths();
    let named = paths.iter().filter_map(|path| room_named(path).map(|named| (named, path)));
    named
        .filter(|(named, _)| EVERY_ROOM.contains(named) && *named != room && !known.contains(named))
        .map(|(named, path)| at(source, path.line, &format!("`{room}` may not know `{named}`")))
        .collect()
}

#[test]
fn imports_point_inward() {
    assert_clean(imports_outward);
}

#[test]
fn an_import_that_points_outward_is_seen() {
    for (path, text) in [
        ("src/domain/x.rs", "use crate::settings::Settings;"),
        ("src/settings/x.rs", "use crate::{domain::time::Millis};"),
        ("src/telemetry/x.rs", "fn f() { crate::domain::f() }"),
        ("src/local/mod.rs", "use super::settings;"),
        ("src/journal/x.rs", "use super::super::hot::Hot;"),
        ("src/hot/x.rs", "use crate::{domain::time::Millis, journal::Journal};"),
        ("src/twitch/simulator/x.rs", "use super::super::super::hot::Hot;"),
        ("src/twitch/x.rs", "mod inner { use super::super::super::actors; }"),
        ("src/actors/x.rs", "fn f() { debug!(\"{}\", crate::http::problem::f()) }"),
        ("src/actors/x.rs", "use crate::twitch::eventsub;"),
        ("src/http/x.rs", "use crate::run::run;"),
        ("src/attic/x.rs", ""),
    ] {
        assert!(seen(imports_outward, path, text).starts_with(path), "{path}: {text}");
    }
    for (path, text) in [
        ("src/journal/x.rs", "use crate::domain::time::Millis; use super::codec;"),
        ("src/hot/mod.rs", "use self::pool::Hot;"),
        ("src/domain/x.rs", "/// Not `crate::hot`.\n#[cfg(test)] mod tests { use crate::hot::Hot; }"),
        ("src/run.rs", "use crate::http::state::State;"),
    ] {
        assert_eq!(seen(imports_outward, path, text), "", "{path}: {text}");
    }
}

/// The crates of Cargo.toml, as code names them.
fn dependencies() -> BTreeSet<String> {
    let manifest: toml::Table =
        toml::from_str(&std::fs::read_to_string(root().join("Cargo.toml")).unwrap()).unwrap();
    let names = manifest["dependencies"].as_table().unwrap().keys();
    names.map(|name| name.replace('-', "_")).collect()
}

fn outside_in_domain(source: &Source) -> Vec<String> {
    if source.room() != "domain" {
        return Vec::new();
    }
    let crates = dependencies();
    let forbidden = |path: &NamedPath| {
        let first = path.segments[0].as_str();
        crates.contains(first) && path.segments.len() > 1 && !DOMAIN_CRATES.contains(&first)
            || OUTSIDE.iter().any(|outside| {
                path.segments.iter().map(String::as_str).take(outside.len()).eq(outside.iter().copied())
            })
    };
    let paths = source.paths().into_iter().filter(forbidden);
    let mut wrong: Vec<String> = paths
        .map(|path| at(source, path.line, &format!("the domain may not know {}", path.segments.join("::"))))
        .collect();
    let waiting = source.idents().into_iter().filter(|(word, _)| word == "async" || word == "await");
    wrong.extend(waiting.map(|(word, line)| at(source, line, &format!("the domain has no `{word}`"))));
    wrong
}

#[test]
fn the_domain_is_pure() {
    assert_clean(outside_in_domain);
}

#[test]
fn io_a_clock_or_async_in_the_domain_is_seen() {
    for text in [
        "use tokio::sync::Mutex;",
        "use serde::{Deserialize, Serialize};",
        "fn f() -> reqwest::Client { todo() }",
        "use std::{fmt, net::IpAddr};",
        "use std::time::{Duration, Instant};",
        "fn f() { let now = std::time::SystemTime::now(); }",
        "use std::fs;",
        "async fn f() {}",
    ] {
        assert_ne!(seen(outside_in_domain, "src/domain/x.rs", text), "", "{text}");
    }
    let fine = "use super::time::Millis; use std::{fmt, time::Duration}; use uuid::Uuid;";
    assert_eq!(seen(outside_in_domain, "src/domain/x.rs", fine), "");
}

// The actors ------------------------------------------------------------------------------------------

fn sockets_elsewhere(source: &Source) -> Vec<String> {
    if source.path == "src/actors/overlay.rs" {
        return Vec::new();
    }
    let named = source.idents().into_iter().filter(|(word, _)| word == "actix_web_actors");
    named.map(|(_, line)| at(source, line, "actix_web_actors stays in src/actors/overlay.rs")).collect()
}

#[test]
fn one_file_knows_actix_web_actors() {
    assert_clean(sockets_elsewhere);
}

#[test]
fn a_second_file_that_knows_actix_web_actors_is_seen() {
    assert_ne!(seen(sockets_elsewhere, "src/http/socket.rs", "use actix_web_actors::ws;"), "");
    assert_eq!(seen(sockets_elsewhere, "src/actors/overlay.rs", "use actix_web_actors::ws;"), "");
}

fn unbounded_sends(source: &Source) -> Vec<String> {
    let sends = source.idents().into_iter().filter(|(word, _)| word == "do_send");
    sends.map(|(_, line)| at(source, line, "do_send queues without bound; use try_send or send")).collect()
}

#[test]
fn no_message_is_sent_without_a_bound() {
    assert_clean(unbounded_sends);
}

#[test]
fn a_message_sent_without_a_bound_is_seen() {
    assert_ne!(seen(unbounded_sends, "src/actors/x.rs", "fn f() { address.do_send(Tick) }"), "");
}

/// The session actor's handlers never wait: a wait costs the order of votes or the tick.
fn waiting_handlers(source: &Source) -> Vec<String> {
    if source.path != "src/actors/session.rs" {
        return Vec::new();
    }
    let handlers = source.bodies_of_impls("Handler");
    if handlers.is_empty() {
        return vec![at(source, 1, "no handlers were found; has the session actor moved?")];
    }
    let waits = handlers.iter().flat_map(|body| idents(body));
    let waits = waits.filter(|(word, _)| word == "async" || word == "await");
    let results = source.idents().into_iter().filter(|(word, _)| WAITING_RESULTS.contains(&word.as_str()));
    waits.chain(results).map(|(word, line)| at(source, line, &format!("`{word}` in a handler"))).collect()
}

#[test]
fn handlers_of_sessions_never_await() {
    assert_clean(waiting_handlers);
}

#[test]
fn a_handler_of_sessions_that_awaits_is_seen() {
    for text in [
        "impl Handler<Tick> for A { fn handle(&mut self) { spawn(async move { f().await }) } }",
        "impl Handler<Tick> for A { type Result = ResponseActFuture<Self, ()>; }",
        "fn no_handler_at_all() {}",
    ] {
        assert_ne!(seen(waiting_handlers, "src/actors/session.rs", text), "", "{text}");
    }
}

// Size ------------------------------------------------------------------------------------------------

fn too_long(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count() - source.test_lines;
    let file = (lines > FILE_LINES_MAX).then(|| at(source, 1, &format!("{lines} lines, tests apart")));
    let functions = source.functions().into_iter().filter(|function| function.lines > FUNCTION_LINES_MAX);
    let functions = functions.map(|function| {
        at(source, function.line, &format!("fn {} has {} lines", function.name, function.lines))
    });
    file.into_iter().chain(functions).collect()
}

#[test]
fn files_and_functions_are_short() {
    assert_clean(too_long);
}

#[test]
fn long_files_and_functions_are_seen_and_tests_do_not_count() {
    let function = |lines: usize| format!("pub fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2));
    assert_eq!(seen(too_long, "src/x.rs", &function(70)), "");
    assert_eq!(seen(too_long, "src/x.rs", &function(71)), "src/x.rs:1: fn f has 71 lines");
    let nested = format!("impl A {{\n{}}}\n", function(71));
    assert_eq!(seen(too_long, "src/x.rs", &nested), "src/x.rs:2: fn f has 71 lines");
    let file = |lines: usize| "const A: u8 = 1;\n".repeat(lines);
    assert_eq!(seen(too_long, "src/x.rs", &file(400)), "");
    assert_ne!(seen(too_long, "src/x.rs", &file(401)), "");
    let tested = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", file(400), file(100));
    assert_eq!(seen(too_long, "src/x.rs", &tested), "");
}

// Failures --------------------------------------------------------------------------------------------

fn unexplained_panics(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    collect_panics(&source.tokens, &mut found);
    let unexplained = found.into_iter().filter(|(_, line)| !source.is_explained(*line));
    unexplained
        .map(|(word, line)| at(source, line, &format!("`{word}` without a comment why it can't fail")))
        .collect()
}

fn collect_panics(tokens: &[proc_macro2::TokenTree], found: &mut Vec<(String, usize)>) {
    for (place, token) in tokens.iter().enumerate() {
        if let proc_macro2::TokenTree::Group(group) = token {
            collect_panics(&group.stream().into_iter().collect::<Vec<_>>(), found);
        }
        let Some(word) = ident(Some(token)) else { continue };
        let panics = PANICS.iter().any(|(name, sign)| {
            let before = place.checked_sub(1).and_then(|before| tokens.get(before));
            let signed =
                if *sign == '.' { is_punct(before, '.') } else { is_punct(tokens.get(place + 1), '!') };
            word == *name && signed
        });
        if panics {
            found.push((word, token.span().start().line));
        }
    }
}

#[test]
fn nothing_panics_without_saying_why_it_can_not() {
    assert_clean(unexplained_panics);
}

#[test]
fn an_unexplained_panic_is_seen_also_in_macros_but_not_in_tests() {
    for text in [
        "fn f() { g().unwrap(); }",
        "fn f() { select! { x = g() => x.expect(\"x\") } }",
        "fn f() { panic!(\"no\") }",
        "fn f() { todo!() }",
        "/// A doc comment is no reason.\nfn f() { unreachable!() }",
    ] {
        assert_ne!(seen(unexplained_panics, "src/x.rs", text), "", "{text}");
    }
    for text in [
        "fn f() { g().unwrap(); // Just made.\n}",
        "fn f() {\n    // Just made.\n    g().unwrap();\n}",
        "fn f() { g().unwrap_or_default(); }",
        "#[cfg(test)]\nmod tests { fn f() { g().unwrap(); } }",
        "const WORDS: &str = \".unwrap() panic!\";",
    ] {
        assert_eq!(seen(unexplained_panics, "src/x.rs", text), "", "{text}");
    }
}

// Migrations and words --------------------------------------------------------------------------------

/// Whether a migration says why it is safe while instances of the previous release still run.
fn says_why_it_is_safe(migration: &str) -> bool {
    const WORDS: &str = "-- Safe next to the previous release: ";
    migration.lines().any(|line| line.strip_prefix(WORDS).is_some_and(|reason| reason.len() > 10))
}

#[test]
fn every_migration_says_why_it_is_safe_next_to_the_previous_release() {
    let migrations = files_below(&root().join("schema"));
    assert!(migrations.len() >= 6, "{migrations:?}");
    for path in migrations {
        assert!(says_why_it_is_safe(&std::fs::read_to_string(root().join(&path)).unwrap()), "{path}");
    }
}

#[test]
fn a_migration_without_a_reason_is_seen() {
    assert!(!says_why_it_is_safe("CREATE TABLE chatpulse.x ();"));
    assert!(!says_why_it_is_safe("-- Safe next to the previous release: \nCREATE TABLE chatpulse.x ();"));
    assert!(says_why_it_is_safe("-- Safe next to the previous release: it does not know the new table."));
}

/// What says how the code came about instead of what it is: numbers of issues, names of tools that
/// write code. Spelled in pieces, so that this file does not find itself.
fn words_about_its_making(text: &str) -> Option<String> {
    const TOOLS: [&str; 6] = [
        concat!("clau", "de"),
        concat!("cop", "ilot"),
        concat!("chat", "gpt"),
        concat!("open", "ai"),
        concat!("anth", "ropic"),
        concat!("generated by", " ai"),
    ];
    const TICKETS: [&str; 6] = ["issue", "issues", "fixes", "closes", "resolves", "request"];
    for line in text.lines() {
        let lower = line.to_lowercase();
        let tool = TOOLS.iter().any(|tool| lower.contains(tool));
        let mut words = lower.split(|sign: char| !sign.is_alphanumeric() && sign != '#').peekable();
        let mut ticket = false;
        while let Some(word) = words.next() {
            let next = words.peek().and_then(|next| next.strip_prefix('#'));
            let numbered = next.is_some_and(|next| next.starts_with(|sign: char| sign.is_ascii_digit()));
            ticket |= TICKETS.contains(&word) && numbered;
        }
        if tool || ticket {
            return Some(line.trim().to_owned());
        }
    }
    None
}

#[test]
fn nothing_tells_of_its_making() {
    let files = files_below(root());
    assert!(files.len() > 100, "the files were found");
    for path in files {
        // Pictures and the like are no text; names in the lock file are those of others.
        let text = std::fs::read_to_string(root().join(&path)).unwrap_or_default();
        let found = words_about_its_making(&text).filter(|_| path != "Cargo.lock");
        assert_eq!(found, None, "{path}");
    }
}

#[test]
fn words_about_its_making_are_seen() {
    for text in
        [concat!("// see issue", " #12"), concat!("Fixes", " #3: colours"), concat!("with Clau", "de")]
    {
        assert!(words_about_its_making(text).is_some(), "{text}");
    }
    for text in ["color: #123456;", "&#39; is a quote", "the issue with #123 as a colour"] {
        assert_eq!(words_about_its_making(text), None, "{text}");
    }
}
