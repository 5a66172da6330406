//! The fields of a JSON body. Reading goes on after a problem, so that all are told at once.

use serde_json::{Map, Value};

use crate::domain::config;
use crate::http::problem::FieldProblem;
use crate::settings::Secret;

/// Characters of an unknown field's name that are echoed.
pub const NAME_CHARS_SHOWN: usize = 40;

/// What it means that a field is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A problem.
    Refused,
    /// The default is taken.
    IsDefault,
}

/// Reads a field's value, or says what it has to be.
pub type Read<T> = fn(Value) -> Result<T, &'static str>;

/// The fields of a JSON object, taken one by one.
pub struct Fields {
    values: Map<String, Value>,
    /// Stands before each name in what is told.
    prefix: &'static str,
    problems: Vec<FieldProblem>,
}

impl Fields {
    /// The fields of a body.
    ///
    /// # Errors
    /// A body that is no object.
    pub fn of(body: Value, prefix: &'static str) -> Result<Fields, Vec<FieldProblem>> {
        match body {
            Value::Object(values) => Ok(Fields { values, prefix, problems: Vec::new() }),
            _ => Err(vec![FieldProblem {
                field: "".into(),
                detail: "the body has to be a JSON object".into(),
            }]),
        }
    }

    /// A field's value, or `default` when it is missing and may be; else a problem.
    pub fn take<T>(&mut self, name: &'static str, read: Read<T>, missing: Missing, default: T) -> Option<T> {
        match self.values.remove(name) {
            None if missing == Missing::IsDefault => Some(default),
            None => {
                self.problem(name, "is missing");
                None
            }
            Some(value) => read(value).map_err(|what| self.problem(name, what)).ok(),
        }
    }

    /// As [`Fields::take`], going on with `default` after a problem too.
    pub fn setting<T: Clone>(
        &mut self,
        name: &'static str,
        read: Read<T>,
        missing: Missing,
        default: T,
    ) -> T {
        self.take(name, read, missing, default.clone()).unwrap_or(default)
    }

    /// A field that has to be there.
    pub fn required<T: Default>(&mut self, name: &'static str, read: Read<T>) -> Option<T> {
        self.take(name, read, Missing::Refused, T::default())
    }

    /// A field that may be missing or null.
    pub fn optional<T>(&mut self, name: &'static str, read: Read<T>) -> Option<T> {
        let value = self.values.remove(name).filter(|value| !value.is_null())?;
        read(value).map_err(|what| self.problem(name, what)).ok()
    }

    /// Reads an object within this one.
    pub fn nested<T: Default>(
        &mut self,
        value: Value,
        prefix: &'static str,
        read: impl FnOnce(&mut Fields) -> T,
    ) -> T {
        let Ok(mut fields) = Fields::of(value, prefix) else { return T::default() };
        let told = read(&mut fields);
        fields.refuse_rest();
        self.problems.append(&mut fields.problems);
        told
    }

    /// What the domain says of the values; not of fields that were told of already.
    pub fn note(&mut self, problems: impl IntoIterator<Item = config::Problem>) {
        let told: Vec<String> = self.problems.iter().map(|problem| problem.field.to_string()).collect();
        for problem in problems {
            let field = format!("{}{}", self.prefix, problem.field);
            if !told.contains(&field) {
                self.problems.push(FieldProblem { field: field.into(), detail: problem.detail.into() });
            }
        }
    }

    fn problem(&mut self, name: &str, what: &'static str) {
        let field = format!("{}{name}", self.prefix);
        self.problems.push(FieldProblem { field: field.into(), detail: what.into() });
    }

    fn refuse_rest(&mut self) {
        for name in std::mem::take(&mut self.values).keys() {
            let shown: String = name.chars().take(NAME_CHARS_SHOWN).collect();
            let what = match name.as_str() {
                "version" => "is not set here; send it as the ETag in `If-Match`",
                _ => "is not known here; remove it",
            };
            self.problem(&shown, what);
        }
    }

    /// `told`, if nothing was wrong.
    ///
    /// # Errors
    /// Everything that was.
    pub fn finish<T>(mut self, told: T) -> Result<T, Vec<FieldProblem>> {
        self.refuse_rest();
        if self.problems.is_empty() { Ok(told) } else { Err(self.problems) }
    }
}

/// A text.
///
/// # Errors
/// What it has to be.
pub fn text(value: Value) -> Result<String, &'static str> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err("has to be a text"),
    }
}

/// A text that nobody else may see.
///
/// # Errors
/// What it has to be.
pub fn secret(value: Value) -> Result<Secret<String>, &'static str> {
    text(value).map(Secret::new)
}
