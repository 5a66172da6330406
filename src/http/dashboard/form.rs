//! The settings' form: what was typed, and the config that it means.

use std::collections::BTreeMap;

use url::form_urlencoded;

use crate::domain::config::{Config, Display, Problem};
use crate::domain::sentiment::{Model, Params};

/// The settings' fields, in the order in which they stand on the page; named as in the API.
pub const FIELDS: [&str; 10] = [
    "for_triggers",
    "against_triggers",
    "for_label",
    "against_label",
    "model",
    "vote_delta",
    "decay_speed",
    "window_seconds",
    "display",
    "theme",
];

/// Whole numbers up to here are exact in floating point.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// A form of the dashboard as it was sent. What a form does not have is empty.
#[derive(Clone, Default)]
pub struct Posted {
    /// The token that the form carries.
    pub csrf: String,
    /// The version of the settings that were edited; 0, which is no version, when it is not readable.
    pub version: i64,
    /// Whether the box was ticked that the overlay's address may be replaced.
    pub sure: bool,
    /// Whether streams are to be recorded, if the form says so.
    pub recorded: Option<bool>,
    pub draft: Draft,
}

impl Posted {
    /// Reads a body of the type `application/x-www-form-urlencoded` (WHATWG URL, 5.1, which knows no errors). Of a
    /// field that comes twice the first one counts; unknown fields are left out.
    pub fn parse(body: &[u8]) -> Posted {
        let mut posted = Posted::default();
        for (name, value) in form_urlencoded::parse(body) {
            match name.as_ref() {
                "csrf" => posted.csrf = value.into_owned(),
                "version" => posted.version = value.trim().parse().unwrap_or_default(),
                "sure" => posted.sure = true,
                "recorded" => posted.recorded = yes_or_no(&value),
                name => {
                    if let Some(field) = FIELDS.into_iter().find(|field| *field == name) {
                        posted.draft.0.entry(field).or_insert_with(|| value.into_owned());
                    }
                }
            }
        }
        posted
    }
}

/// Settings as they stand in the form: texts, whether they can be saved or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft(BTreeMap<&'static str, String>);

impl Draft {
    /// How a config is written into the form.
    pub fn of(config: &Config) -> Draft {
        let params = &config.params;
        Draft(BTreeMap::from([
            ("for_triggers", joined(&config.for_triggers)),
            ("against_triggers", joined(&config.against_triggers)),
            ("for_label", config.for_label.clone()),
            ("against_label", config.against_label.clone()),
            ("model", model_name(params.model).to_owned()),
            ("vote_delta", params.vote_delta.to_string()),
            ("decay_speed", params.decay_speed.to_string()),
            ("window_seconds", params.window_seconds.to_string()),
            ("display", display_name(config.display).to_owned()),
            ("theme", config.theme.clone()),
        ]))
    }

    /// A field as it was typed; empty when the form did not have it.
    pub fn text(&self, field: &str) -> &str {
        self.0.get(field).map(String::as_str).unwrap_or_default()
    }

    /// The config that is meant.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of the page: fields that are missing or can't be read, and what
    /// the domain says of the others.
    pub fn config(&self) -> Result<Config, Vec<Problem>> {
        let mut reader = Reader { draft: self, problems: Vec::new() };
        let default = Config::default();
        let config = Config {
            for_triggers: reader.take("for_triggers", lines, Vec::new()),
            against_triggers: reader.take("against_triggers", lines, Vec::new()),
            for_label: reader.take("for_label", text, default.for_label),
            against_label: reader.take("against_label", text, default.against_label),
            params: Params {
                model: reader.take("model", model, default.params.model),
                vote_delta: reader.take("vote_delta", number, default.params.vote_delta),
                decay_speed: reader.take("decay_speed", number, default.params.decay_speed),
                window_seconds: reader.take("window_seconds", whole, default.params.window_seconds),
            },
            display: reader.take("display", display, default.display),
            theme: reader.take("theme", text, default.theme),
        };
        reader.finish(config)
    }
}

type Read<T> = fn(&str) -> Result<T, &'static str>;

/// Reads on after a problem, so that all are told at once.
struct Reader<'a> {
    draft: &'a Draft,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    /// A field's value. One that can't be read keeps a value that is fine by itself, so that it is told of once.
    fn take<T>(&mut self, field: &'static str, read: Read<T>, fine: T) -> T {
        let text = self.draft.0.get(field).ok_or("is missing; choose or write something");
        text.and_then(|text| read(text.trim())).unwrap_or_else(|what| {
            self.problems.push(Problem { field, detail: what.to_owned() });
            fine
        })
    }

    fn finish(mut self, config: Config) -> Result<Config, Vec<Problem>> {
        let unread: Vec<&'static str> = self.problems.iter().map(|problem| problem.field).collect();
        let unfit = config.problems().into_iter().filter(|problem| !unread.contains(&problem.field));
        self.problems.extend(unfit);
        if self.problems.is_empty() {
            return Ok(config);
        }
        self.problems.sort_by_key(|problem| FIELDS.iter().position(|field| *field == problem.field));
        Err(self.problems)
    }
}

/// A trigger a line. One that holds a line break itself, as the API lets it, has a space instead, which is the same to
/// chat ([`crate::domain::trigger::normalise`]): else it would come back as two.
fn joined(triggers: &[String]) -> String {
    let on_one_line = |trigger: &String| trigger.replace("\r\n", " ").replace(['\r', '\n'], " ");
    triggers.iter().map(on_one_line).collect::<Vec<_>>().join("\n")
}

fn yes_or_no(text: &str) -> Option<bool> {
    match text {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// One trigger a line; blank lines are no triggers.
fn lines(text: &str) -> Result<Vec<String>, &'static str> {
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn text(text: &str) -> Result<String, &'static str> {
    Ok(text.to_owned())
}

/// A number, with a comma or a point before its decimals.
fn number(text: &str) -> Result<f64, &'static str> {
    let number = text.replace(',', ".").parse::<f64>().ok().filter(|number| number.is_finite());
    number.ok_or("is no number; write one such as 1.5")
}

fn whole(text: &str) -> Result<i64, &'static str> {
    let whole = number(text).ok().filter(|number| number.fract() == 0.0 && number.abs() <= WHOLE_MAX);
    whole.map(|number| number as i64).ok_or("is no whole number; write one such as 30")
}

fn model(name: &str) -> Result<Model, &'static str> {
    let known = [Model::Decay, Model::Window].into_iter().find(|model| model_name(*model) == name);
    known.ok_or("is not known here; choose one")
}

fn display(name: &str) -> Result<Display, &'static str> {
    let known = [Display::Combined, Display::Split].into_iter().find(|shape| display_name(*shape) == name);
    known.ok_or("is not known here; choose one")
}

fn model_name(model: Model) -> &'static str {
    match model {
        Model::Decay => "decay",
        Model::Window => "window",
    }
}

fn display_name(display: Display) -> &'static str {
    match display {
        Display::Combined => "combined",
        Display::Split => "split",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::trigger::normalise;

    fn body(fields: &[(&str, &str)]) -> Vec<u8> {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish().into_bytes()
    }

    /// A form with all fields, some of them changed.
    fn draft(changes: &[(&'static str, &str)]) -> Draft {
        let mut draft = Draft::of(&Config::default());
        draft.0.extend(changes.iter().map(|(field, text)| (*field, (*text).to_owned())));
        draft
    }

    fn fields(draft: &Draft) -> Vec<&'static str> {
        draft.config().unwrap_err().into_iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn a_config_is_the_same_after_the_form() {
        let params = Params { model: Model::Window, vote_delta: 12.5, decay_speed: 0.1, window_seconds: 90 };
        let config = Config {
            for_triggers: vec!["ja".into(), "oui oui".into()],
            against_triggers: Vec::new(),
            params,
            display: Display::Split,
            theme: "high-contrast".into(),
            ..Config::default()
        };
        for config in [Config::default(), config] {
            assert_eq!(Draft::of(&config).config().unwrap(), config);
        }
    }

    #[test]
    fn a_trigger_with_a_line_break_is_the_same_to_chat_after_the_form() {
        let triggers: Vec<String> =
            ["go\nleft", "go\r\nright", "oh\rno", "\nhey\n"].map(str::to_owned).into();
        let config = Config { for_triggers: triggers.clone(), ..Config::default() };
        assert_eq!(config.problems(), []);
        let saved = Draft::of(&config).config().unwrap();
        let normal = |triggers: &[String]| triggers.iter().map(|one| normalise(one)).collect::<Vec<_>>();
        assert_eq!(normal(&saved.for_triggers), normal(&triggers));
        assert_eq!(saved.for_triggers[0], "go left");
    }

    #[test]
    fn a_form_says_yes_or_no_to_recording_or_nothing() {
        for (text, recorded) in [("yes", Some(true)), ("no", Some(false)), ("", None), ("on", None)] {
            assert_eq!(Posted::parse(&body(&[("recorded", text)])).recorded, recorded);
        }
        assert_eq!(Posted::parse(b"csrf=t").recorded, None);
    }

    #[test]
    fn every_field_of_a_config_has_a_place_in_the_form() {
        let names: Vec<&str> = Draft::of(&Config::default()).0.into_keys().collect();
        let mut fields = FIELDS.to_vec();
        fields.sort_unstable();
        assert_eq!(names, fields);
    }

    #[test]
    fn a_body_is_read_leniently() {
        let posted = Posted::parse(&body(&[
            ("csrf", "t"),
            ("version", " 7 "),
            ("sure", "yes"),
            ("for_label", "Ja & nein"),
            ("for_label", "twice"),
            ("colour", "red"),
        ]));
        assert_eq!((posted.csrf.as_str(), posted.version, posted.sure), ("t", 7, true));
        assert_eq!(posted.draft.0, BTreeMap::from([("for_label", "Ja & nein".to_owned())]));
        for broken in [&b""[..], b"%", b"=&&=", b"version=x", b"\xff=\xff"] {
            let posted = Posted::parse(broken);
            assert_eq!((posted.version, posted.sure, posted.draft), (0, false, Draft::default()));
        }
    }

    #[test]
    fn triggers_stand_a_line_each_and_blank_lines_are_dropped() {
        let typed = "\r\n yes \r\n\r\n  \r\noh yes\r\n";
        let config = draft(&[("for_triggers", typed), ("against_triggers", "")]).config().unwrap();
        assert_eq!(config.for_triggers, ["yes", "oh yes"]);
        assert_eq!(config.against_triggers, [""; 0]);
    }

    #[test]
    fn numbers_may_have_a_comma_and_blanks_around() {
        let typed = draft(&[("vote_delta", " 12,5 "), ("decay_speed", "0.5"), ("window_seconds", "45,0")]);
        let params = typed.config().unwrap().params;
        assert_eq!((params.vote_delta, params.decay_speed, params.window_seconds), (12.5, 0.5, 45));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for wrong in ["", "ten", "1.000,5", "inf", "NaN", "1e999", "0x10", &"9".repeat(2_000)] {
            assert_eq!(fields(&draft(&[("vote_delta", wrong)])), ["vote_delta"], "{wrong}");
        }
        for wrong in ["30.5", "1e300", "-", "30 s"] {
            assert_eq!(fields(&draft(&[("window_seconds", wrong)])), ["window_seconds"], "{wrong}");
        }
    }

    #[test]
    fn all_problems_are_told_at_once_in_the_order_of_the_page() {
        let typed = draft(&[
            ("theme", ""),
            ("display", "round"),
            ("window_seconds", "half"),
            ("decay_speed", "99"),
            ("vote_delta", "x"),
            ("model", ""),
            ("against_label", " "),
            ("for_label", "x\u{7}"),
            ("against_triggers", "YES\nno"),
        ]);
        let expected: Vec<&str> = FIELDS.into_iter().filter(|field| *field != "for_triggers").collect();
        assert_eq!(fields(&typed), expected);
    }

    #[test]
    fn a_form_without_fields_is_refused_instead_of_clearing_them() {
        assert_eq!(fields(&Draft::default()), FIELDS);
    }
}
