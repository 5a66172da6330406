//! Gathers the settings from their sources, the last one winning, before anything is understood.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Value;

use super::report::{Problem, Report, Source};

/// Every key with a comment and its default.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Names a settings file; `--config` wins over it.
const CONFIG_VARIABLE: &str = "CHATPULSE_CONFIG";
const PREFIX: &str = "CHATPULSE_";

/// Names that other programs use too. `CHATPULSE_<SECTION>__<KEY>` wins over them.
const USUAL_VARIABLES: [(&str, &str); 5] = [
    ("DATABASE_URL", "database.url"),
    ("REDIS_URL", "redis.url"),
    ("RATE_LIMIT_REDIS_URL", "redis.rate_limit_url"),
    ("MESSAGE_QUEUE_REDIS_URL", "redis.queue_url"),
    ("RUST_LOG", "log.filter"),
];

const REMOVE: &str = "remove it, or see `chatpulse check-config` for the settings there are";

/// Below this likeness (0 to 1, by edit distance) a known key is not offered for an unknown one.
const LIKENESS_MIN: f64 = 0.75;

/// A value as it was found, and where.
#[derive(Clone, Debug)]
pub struct Given {
    pub value: Value,
    pub source: Source,
}

/// The winning value of each key.
pub type Layers = BTreeMap<String, Given>;

/// Lays the file and the environment over the defaults. What fits no key is noted in `report`.
pub fn gather(file: Option<&Path>, environment: Vec<(String, String)>, report: &mut Report) -> Layers {
    let mut layers = Layers::new();
    for (key, value) in parse(DEFAULTS, &Source::Default, report) {
        layers.insert(key, Given { value, source: Source::Default });
    }
    if let Some((asked_by, path)) = settings_file(file, &environment) {
        lay_file(&mut layers, asked_by, &path, report);
    }
    lay_environment(&mut layers, environment, report);
    layers
}

/// The environment variable that sets `key` and nothing else.
pub fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// The usual name for `key`, where there is one.
pub fn usual_variable(key: &str) -> Option<&'static str> {
    USUAL_VARIABLES.iter().find(|(_, usual_key)| *usual_key == key).map(|(name, _)| *name)
}

fn settings_file(file: Option<&Path>, environment: &[(String, String)]) -> Option<(&'static str, PathBuf)> {
    if let Some(path) = file {
        return Some(("--config", path.to_owned()));
    }
    let named = |(name, path): &&(String, String)| name == CONFIG_VARIABLE && !path.is_empty();
    environment.iter().find(named).map(|(_, path)| (CONFIG_VARIABLE, PathBuf::from(path)))
}

fn lay_file(layers: &mut Layers, asked_by: &str, path: &Path, report: &mut Report) {
    let source = Source::File(path.to_owned());
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            report.problems.push(Problem {
                key: asked_by.to_owned(),
                source,
                what: format!("the file can't be read: {error}"),
                remedy: "correct the path, or let the user of this process read it".to_owned(),
            });
            return;
        }
    };
    for (key, value) in parse(&text, &source, report) {
        let Some(given) = layers.get_mut(&key) else {
            let remedy = remedy_for_unknown(&key, layers);
            let what = "there is no such setting".to_owned();
            report.problems.push(Problem { key, source: source.clone(), what, remedy });
            continue;
        };
        if value.as_str() != Some("") {
            *given = Given { value, source: source.clone() };
        }
    }
}

/// Keys and values of a settings file. A syntax error is noted in `report` by its line, without the
/// line's text: that may be a secret.
fn parse(text: &str, source: &Source, report: &mut Report) -> Vec<(String, Value)> {
    match text.parse::<toml::Table>() {
        Ok(table) => table.into_iter().flat_map(|(section, value)| flatten(section, value)).collect(),
        Err(error) => {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            report.problems.push(Problem {
                key: format!("line {}", before.matches('\n').count() + 1),
                source: source.clone(),
                what: "is not TOML".to_owned(),
                remedy: "correct the line; text stands in quotes, which must be closed".to_owned(),
            });
            Vec::new()
        }
    }
}

fn flatten(section: String, value: Value) -> Vec<(String, Value)> {
    match value {
        Value::Table(keys) => {
            keys.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)).collect()
        }
        value => vec![(section, value)],
    }
}

fn lay_environment(layers: &mut Layers, environment: Vec<(String, String)>, report: &mut Report) {
    let keys: BTreeMap<String, String> = layers.keys().map(|key| (variable(key), key.clone())).collect();
    let (specific, others): (Vec<_>, Vec<_>) =
        environment.into_iter().partition(|(name, _)| name.starts_with(PREFIX));
    let mut lay = |key: &str, name: String, text: String| {
        if !text.is_empty() {
            let given = Given { value: Value::String(text), source: Source::Environment(name) };
            layers.insert(key.to_owned(), given);
        }
    };
    for (name, text) in others {
        if let Some((_, key)) = USUAL_VARIABLES.iter().find(|(usual, _)| *usual == name) {
            lay(key, name, text);
        }
    }
    let mut unknown = Vec::new();
    for (name, text) in specific {
        match keys.get(&name) {
            Some(key) => lay(key, name, text),
            None if name == CONFIG_VARIABLE => {}
            None => unknown.push(name),
        }
    }
    for name in unknown {
        let guess = name[PREFIX.len()..].to_lowercase().replace("__", ".");
        let meant = nearest(&guess, layers).map(|key| format!("did you mean {}?", variable(key)));
        let remedy = meant.unwrap_or_else(|| REMOVE.to_owned());
        report.warnings.push(Problem {
            key: name.clone(),
            source: Source::Environment(name),
            what: "sets nothing; there is no such setting".to_owned(),
            remedy,
        });
    }
}

fn remedy_for_unknown(key: &str, layers: &Layers) -> String {
    if layers.keys().any(|known| known.starts_with(&format!("{key}."))) {
        return format!("{key} is a section; write its settings below a line [{key}]");
    }
    nearest(key, layers).map_or_else(|| REMOVE.to_owned(), |known| format!("did you mean {known}?"))
}

/// The known key that `key` was probably meant to be: one spelled alike, or of the same name in
/// another section.
fn nearest<'a>(key: &str, layers: &'a Layers) -> Option<&'a str> {
    let name = |key: &str| key.rsplit('.').next().map(str::to_owned);
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(key, known);
    let best = layers.keys().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    if likeness(best) >= LIKENESS_MIN {
        return Some(best);
    }
    layers.keys().find(|known| name(known) == name(key)).map(String::as_str)
}
