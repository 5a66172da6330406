//! Typed settings: `config/default.toml` (compiled in) < a settings file < the environment.
//!
//! Every problem is reported at once, with its key, its source and a remedy, which is why the
//! layers are read by a small reader of our own: libraries for this stop at the first error. A new
//! setting needs three lines: one in `config/default.toml`, a field and its reading in [`sections`].
//!
//! Reading order: [`sections`] (what there is), `layers` (where values come from), `reader` (how
//! they are taken), `values` and `servers` (what they may look like), [`report`].

mod layers;
mod reader;
pub mod report;
mod secret;
pub mod sections;
mod servers;
mod values;

use std::path::Path;

pub use layers::DEFAULTS;
pub use report::Report;
pub use secret::Secret;
pub use sections::{LogFormat, QueueDurability, Settings, Transport};
pub use servers::{DatabaseUrl, RedisUrl};
pub use values::{Key, Keys, WebUrl};

/// What a command can't do without. What is given is checked for every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Only what has defaults: `healthcheck`, `simulate`.
    Nothing,
    /// PostgreSQL too: `migrate`, `streamer create`, `operator create` and the like.
    Database,
    /// All that is required: `serve`, `demo`, `check-config`.
    Everything,
}

/// Settings without a problem.
#[derive(Debug)]
pub struct Loaded {
    pub settings: Settings,
    /// Each key with its source, and warnings.
    pub report: Report,
}

/// Loads the settings: the defaults, over them `file` (or else what `CHATPULSE_CONFIG` names), over
/// them the `environment`, such as [`environment`] gives.
///
/// # Errors
/// A [`Report`] of everything that is wrong, also with all settings that could be read.
pub fn load(
    needs: Needs,
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, Report> {
    let mut report = Report::default();
    let layers = layers::gather(file, environment.into_iter().collect(), &mut report);
    let mut reader = reader::Reader::new(layers, needs, report);
    let settings = Settings::read(&mut reader);
    let report = reader.finish();
    if report.problems.is_empty() { Ok(Loaded { settings, report }) } else { Err(report) }
}

/// The process's environment. Values that are not Unicode come with U+FFFD in them, which no setting
/// accepts, so they are problems only where they matter.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests;
