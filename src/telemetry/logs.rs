//! Log lines on standard error: for people, or one JSON object a line.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use uuid::Uuid;

/// Characters of a redacted UUID that stay readable: enough to tell two overlays apart, of no use to
/// somebody who wants to open one.
const SHOWN_CHARS: usize = 4;

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For reading; coloured on a terminal unless `NO_COLOR` is set.
    Human,
    /// One JSON object a line, for collectors.
    Json,
}

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the log filter {filter:?} is not understood ({reason}); write a level such as info")]
    Filter { filter: String, reason: String },
    #[error("logging was started twice")]
    AlreadyStarted,
}

/// Sends the process's log lines to standard error from now on.
///
/// # Errors
/// [`Error::Filter`] when `filter` is not a list of `tracing` directives (settings check that
/// before), [`Error::AlreadyStarted`] when the process has a log already.
pub fn init(format: Format, filter: &str) -> Result<(), Error> {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    let subscriber = subscriber(format, filter, colour, io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| Error::AlreadyStarted)
}

fn subscriber<W>(
    format: Format,
    filter: &str,
    colour: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, Error>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|error| Error::Filter { filter: filter.to_owned(), reason: error.to_string() })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match format {
        Format::Human => Box::new(lines.with_ansi(colour).finish()),
        // The fields at the top level, where collectors look for them; of the spans only the innermost,
        // which names the request.
        Format::Json => Box::new(lines.json().flatten_event(true).with_span_list(false).finish()),
    })
}

/// An overlay's UUID as logs and traces may show it: its first four characters and "…".
///
/// The UUID in an overlay's URL is a bearer secret; a log must never hold it whole.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Redacted(pub Uuid);

impl fmt::Display for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = Uuid::encode_buffer();
        let text: &str = self.0.hyphenated().encode_lower(&mut buffer);
        write!(f, "{}…", text.get(..SHOWN_CHARS).unwrap_or_default())
    }
}

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    const OVERLAY: Uuid = Uuid::from_u128(0x0123_4567_89ab_4cde_8f01_2345_6789_abcd);

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, filter: &str, log: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = subscriber(format, filter, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_is_one_object_with_its_fields_at_the_top() {
        let text = logged(Format::Json, "info", || {
            let _span = tracing::info_span!("request", request_id = "r1").entered();
            tracing::info!(overlay = %Redacted(OVERLAY), "overlay opened");
        });
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "overlay opened");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["overlay"], "0123…");
        assert_eq!(line["span"]["request_id"], "r1");
    }

    #[test]
    fn a_human_line_is_plain_without_a_terminal() {
        let text = logged(Format::Human, "info", || tracing::warn!("redis is slow"));
        assert!(text.contains("WARN"), "{text}");
        assert!(text.ends_with("redis is slow\n"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn the_filter_decides_what_is_logged() {
        let log = || {
            tracing::info!("left out");
            tracing::error!("kept");
        };
        let text = logged(Format::Human, "warn", log);
        assert!(text.contains("kept") && !text.contains("left out"), "{text}");
    }

    #[test]
    fn a_wrong_filter_is_an_error_that_names_it() {
        let Err(error) = subscriber(Format::Human, "info,chatpulse=loud", false, io::sink) else {
            panic!("the filter was accepted")
        };
        assert!(error.to_string().contains("chatpulse=loud"), "{error}");
    }

    #[test]
    fn a_redacted_uuid_shows_four_characters_only() {
        assert_eq!(Redacted(OVERLAY).to_string(), "0123…");
        assert_eq!(format!("{:?}", Redacted(OVERLAY)), "0123…");
    }
}
