//! Takes each key once, understands it, and keeps what was found: its source, and every problem.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Value;
use zeroize::Zeroize;

use super::layers::{self, Given, Layers};
use super::report::{Entry, Problem, Report, Source};
use super::{Needs, Secret};

/// What is wrong with a value and what to do. Says nothing of the value where that may be secret.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    pub what: String,
    pub remedy: String,
}

impl Fault {
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Fault { what: what.into(), remedy: remedy.into() }
    }
}

/// How `check-config` shows a value.
pub trait Show {
    fn show(&self) -> String;
}

impl<T: Display> Show for T {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl<T: Zeroize> Show for Secret<T> {
    fn show(&self) -> String {
        "(set)".to_owned()
    }
}

/// The settings being read.
///
/// A method that meets a problem notes it and gives a stand-in, so that reading goes on and finds
/// the rest; settings are never handed out when there was a problem.
pub struct Reader {
    layers: Layers,
    needs: Needs,
    report: Report,
}

impl Reader {
    pub fn new(layers: Layers, needs: Needs, report: Report) -> Self {
        Reader { layers, needs, report }
    }

    /// The finished report. A key of `config/default.toml` that nobody took is a problem too.
    pub fn finish(mut self) -> Report {
        for (key, given) in self.layers {
            let fault = Fault::new("is documented but not used", "report this fault of the program");
            self.report.problems.push(problem(&key, given.source, fault));
        }
        self.report
    }

    /// A value that may be absent: an empty text is none.
    pub fn optional<T: Show>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        self.take(key, |value| match text(value)? {
            "" => Ok(None),
            text => parse(text).map(Some),
        })
    }

    /// A value that commands with at least these `needs` can't do without. `hint` says what it looks
    /// like.
    pub fn required<T: Show>(
        &mut self,
        key: &'static str,
        needs: Needs,
        hint: &str,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        let problems = self.report.problems.len();
        let value = self.optional(key, parse);
        let invalid = self.report.problems.len() > problems;
        if value.is_none() && !invalid && self.needs >= needs {
            let specific = layers::variable(key);
            let name = layers::usual_variable(key).unwrap_or(&specific);
            let remedy = format!("set it in the environment ({name}) or in a settings file: {hint}");
            self.refuse(key, Fault::new("is required and not set", remedy));
        }
        value
    }

    /// Texts of a TOML array, or comma-separated.
    pub fn list<T: Display>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Fault>,
    ) -> Vec<T> {
        let parse_all = |value: &Value| {
            let texts: Vec<&str> = match value {
                Value::Array(values) => values.iter().map(text).collect::<Result<_, _>>()?,
                value => text(value)?.split(',').map(str::trim).filter(|text| !text.is_empty()).collect(),
            };
            let values = texts.into_iter().map(&parse).collect::<Result<Vec<T>, _>>()?;
            Ok((!values.is_empty()).then_some(List(values)))
        };
        self.take(key, parse_all).map(|list| list.0).unwrap_or_default()
    }

    /// A whole number within `range`.
    pub fn number(&mut self, key: &'static str, range: RangeInclusive<u32>) -> u32 {
        let parse = |value: &Value| {
            let number = whole_number(value)?;
            match u32::try_from(number) {
                Ok(number) if range.contains(&number) => Ok(Some(number)),
                _ => Err(Fault::new(
                    format!("is {number}, which is out of range"),
                    format!("write a whole number, {} to {}", range.start(), range.end()),
                )),
            }
        };
        self.take(key, parse).unwrap_or(*range.start())
    }

    /// As [`Reader::number`], for counts and sizes of things in memory.
    pub fn size(&mut self, key: &'static str, range: RangeInclusive<u32>) -> usize {
        self.number(key, range) as usize
    }

    /// A time given in milliseconds.
    pub fn millis(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Duration {
        Duration::from_millis(self.number(key, range).into())
    }

    /// A time given in seconds.
    pub fn seconds(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Duration {
        Duration::from_secs(self.number(key, range).into())
    }

    /// One of several names.
    pub fn choice<T: Copy, const N: usize>(
        &mut self,
        key: &'static str,
        choices: [(&'static str, T); N],
    ) -> T {
        let names = choices.map(|(name, _)| format!("\"{name}\"")).join(", ");
        let parse = |value: &Value| {
            let given = text(value)?;
            let known = choices.iter().find(|(name, _)| *name == given);
            let fault = || Fault::new(format!("is {given:?}"), format!("write one of {names}"));
            known.map(|(name, _)| Some(*name)).ok_or_else(fault)
        };
        let chosen = self.take(key, parse);
        choices.iter().find(|(name, _)| Some(*name) == chosen).unwrap_or(&choices[0]).1
    }

    /// Says how the unset `key` follows from another setting.
    pub fn explain(&mut self, key: &str, shown: String) {
        if let Some(entry) = self.report.entries.iter_mut().find(|entry| entry.key == key) {
            entry.shown = shown;
        }
    }

    /// Notes a problem with `key`, which was taken before: one that only shows together with others.
    pub fn refuse(&mut self, key: &str, fault: Fault) {
        let entry = self.report.entries.iter().find(|entry| entry.key == key);
        let source = entry.map_or(Source::Default, |entry| entry.source.clone());
        self.report.problems.push(problem(key, source, fault));
    }

    fn take<T: Show>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Value) -> Result<Option<T>, Fault>,
    ) -> Option<T> {
        let Some(Given { value, source }) = self.layers.remove(key) else {
            let fault = Fault::new("is used but not documented", "report this fault of the program");
            self.report.problems.push(problem(key, Source::Default, fault));
            return None;
        };
        let (value, shown) = match parse(&value) {
            Ok(Some(value)) => {
                let shown = value.show();
                (Some(value), shown)
            }
            Ok(None) => (None, "(not set)".to_owned()),
            Err(fault) => {
                self.report.problems.push(problem(key, source.clone(), fault));
                (None, "(invalid)".to_owned())
            }
        };
        self.report.entries.push(Entry { key, shown, source });
        value
    }
}

/// A list as `check-config` shows it.
struct List<T>(Vec<T>);

impl<T: Display> Display for List<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let texts: Vec<String> = self.0.iter().map(T::to_string).collect();
        f.write_str(&texts.join(", "))
    }
}

fn problem(key: &str, source: Source, Fault { what, remedy }: Fault) -> Problem {
    Problem { key: key.to_owned(), source, what, remedy }
}

fn text(value: &Value) -> Result<&str, Fault> {
    let text = value.as_str().ok_or_else(|| wrong_type(value, "a text", "write the value in quotes"))?;
    // Stands for bytes of the environment that were no Unicode.
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(Fault::new("is not valid Unicode", "write the value in UTF-8"));
    }
    Ok(text)
}

/// The number in a file, or its text in the environment (where everything is text). A number in
/// quotes in a file is taken for what it means.
fn whole_number(value: &Value) -> Result<i64, Fault> {
    let wrong = || wrong_type(value, "a whole number", "write digits only, without quotes or a unit");
    match value {
        Value::Integer(number) => Ok(*number),
        Value::String(text) => text.trim().parse().map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

fn wrong_type(value: &Value, wanted: &str, remedy: &str) -> Fault {
    let found = match value {
        Value::String(_) => "text",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section",
    };
    Fault::new(format!("is {found}, not {wanted}"), remedy)
}
