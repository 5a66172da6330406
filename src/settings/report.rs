//! What is said about the settings: each value with its source, and everything that is wrong.

use std::fmt;
use std::path::PathBuf;

/// Columns that values are aligned to at most; a longer one pushes its source to the right.
const VALUE_COLUMNS_MAX: usize = 44;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `config/default.toml`, compiled in.
    Default,
    File(PathBuf),
    /// The environment variable of this name.
    Environment(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Environment(name) => write!(f, "environment {name}"),
        }
    }
}

/// One setting as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: &'static str,
    /// The value for reading; a secret is only "(set)" or "(not set)".
    pub shown: String,
    pub source: Source,
}

/// Something wrong, or likely wrong, with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, or the name of what could not be assigned to one.
    pub key: String,
    pub source: Source,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {} ({}): {}", self.key, self.source, self.what)?;
        write!(f, "      {}", self.remedy)
    }
}

/// All settings with their sources, and everything that was found wrong with them.
///
/// As an error ([`fmt::Display`]) it lists the problems; [`Report::full`] is the text of
/// `chatpulse check-config`.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub entries: Vec<Entry>,
    /// Reasons not to start.
    pub problems: Vec<Problem>,
    /// Likely mistakes that are no reason not to start.
    pub warnings: Vec<Problem>,
}

impl Report {
    /// Every key with its value and source, then the warnings and problems.
    pub fn full(&self) -> impl fmt::Display + '_ {
        Full(self)
    }
}

impl std::error::Error for Report {}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(f, "problem", &self.problems)
    }
}

struct Full<'a>(&'a Report);

impl fmt::Display for Full<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { entries, problems, warnings } = self.0;
        let key_columns = entries.iter().map(|entry| entry.key.len()).max().unwrap_or(0);
        let columns = |entry: &Entry| entry.shown.chars().count();
        let value_columns =
            entries.iter().map(columns).filter(|columns| *columns <= VALUE_COLUMNS_MAX).max().unwrap_or(0);
        for Entry { key, shown, source } in entries {
            writeln!(f, "{key:key_columns$}  {shown:value_columns$}  {source}")?;
        }
        writeln!(f)?;
        if !warnings.is_empty() {
            write_list(f, "warning", warnings)?;
            writeln!(f, "\n")?;
        }
        write_list(f, "problem", problems)
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, noun: &str, list: &[Problem]) -> fmt::Result {
    match list.len() {
        0 => return write!(f, "The settings have no {noun}s."),
        1 => write!(f, "The settings have 1 {noun}:")?,
        count => write!(f, "The settings have {count} {noun}s:")?,
    }
    list.iter().try_for_each(|problem| write!(f, "\n{problem}"))
}
