//! The settings' fields as the page shows them.

use super::form::Draft;
use crate::domain::config::Problem;

/// The value that a choice is saved as, and what the page says of it.
pub type Offer = (&'static str, &'static str);

/// How a field is filled in.
#[derive(Clone, Copy)]
pub enum Kind {
    Lines,
    Text,
    /// A number, and the keyboard that a phone shows for it.
    Number(&'static str),
    Radio(&'static [Offer]),
    Select(&'static [Offer]),
}

/// Name, label, hint and kind of a field.
type Described = (&'static str, &'static str, &'static str, Kind);

const MODELS: &[Offer] = &[
    ("decay", "Pulse: each vote pushes the bar, which sinks back by itself"),
    ("window", "Balance: the bar shows which side has more of the last seconds' votes"),
];
const DISPLAYS: &[Offer] = &[
    ("combined", "One bar that grows from the middle"),
    ("split", "Two shares that push against each other"),
];
/// The themes that `web/overlay.css` has.
const THEMES: &[Offer] = &[("dark", "Dark"), ("light", "Light"), ("high-contrast", "High contrast")];

const SECTIONS: &[(&str, &[Described])] = &[
    (
        "What counts as a vote",
        &[
            (
                "for_triggers",
                "Words that vote for",
                "A word or an emote's name on each line, up to 10. A message counts when it is nothing else.",
                Kind::Lines,
            ),
            (
                "against_triggers",
                "Words that vote against",
                "Likewise. A word can't stand on both sides.",
                Kind::Lines,
            ),
        ],
    ),
    (
        "What the sides are called",
        &[
            ("for_label", "Name of the side for", "Stands at the bar; up to 50 characters.", Kind::Text),
            ("against_label", "Name of the side against", "Up to 50 characters.", Kind::Text),
        ],
    ),
    (
        "How the bar moves",
        &[
            ("model", "Model", "The numbers below say which model they are for.", Kind::Radio(MODELS)),
            ("vote_delta", "Points a vote adds", "For the pulse: 1 to 50.", Kind::Number("decimal")),
            (
                "decay_speed",
                "Speed at which the bar sinks back",
                "For the pulse: 0.1 (slow) to 5 (fast) per second.",
                Kind::Number("decimal"),
            ),
            ("window_seconds", "Seconds that count", "For the balance: 5 to 120.", Kind::Number("numeric")),
        ],
    ),
    (
        "How the bar looks",
        &[
            ("display", "Shape", "Either fits both models.", Kind::Radio(DISPLAYS)),
            ("theme", "Colours", "The overlay has no background of its own.", Kind::Select(THEMES)),
        ],
    ),
];

/// Fields that belong together.
pub struct Section {
    pub legend: &'static str,
    pub fields: Vec<Field>,
}

/// A field, filled in.
pub struct Field {
    pub name: &'static str,
    pub label: &'static str,
    pub hint: &'static str,
    pub kind: Kind,
    /// As it was typed, or as it is saved.
    pub value: String,
    pub choices: Vec<Choice>,
    /// What is wrong with it, in sentences.
    pub problems: Vec<String>,
    /// What is saved by now, where it differs from what was typed.
    pub saved: Option<String>,
}

/// One of a field's values to choose from.
pub struct Choice {
    pub value: String,
    pub label: String,
    pub chosen: bool,
}

/// What the fields show.
#[derive(Default)]
pub struct Content {
    pub draft: Draft,
    pub problems: Vec<Problem>,
    /// What was typed, as it would be saved, and what is saved, if that moved on.
    pub versions: Option<(Draft, Draft)>,
}

impl Content {
    /// The form, laid out.
    pub fn sections(&self) -> Vec<Section> {
        let fields = |fields: &[Described]| fields.iter().map(|described| self.field(described)).collect();
        SECTIONS.iter().map(|&(legend, described)| Section { legend, fields: fields(described) }).collect()
    }

    fn field(&self, &(name, label, hint, kind): &Described) -> Field {
        let value = self.draft.text(name);
        let problems = self.problems.iter().filter(|problem| problem.field == name);
        let versions = self.versions.as_ref().map(|(typed, saved)| (typed.text(name), saved.text(name)));
        Field {
            name,
            label,
            hint,
            kind,
            value: value.to_owned(),
            choices: choices(kind, value),
            problems: problems.map(told).collect(),
            saved: versions.filter(|(typed, saved)| typed != saved).map(|(_, saved)| shown(kind, saved)),
        }
    }
}

impl Field {
    /// The ids of what describes the field.
    pub fn described_by(&self) -> String {
        let mut ids = format!("{}-hint", self.name);
        for (there, what) in [(!self.problems.is_empty(), "problem"), (self.saved.is_some(), "saved")] {
            if there {
                ids.push_str(&format!(" {}-{what}", self.name));
            }
        }
        ids
    }
}

/// What can be chosen, and of a list also what was chosen and isn't offered.
fn choices(kind: Kind, value: &str) -> Vec<Choice> {
    let (offers, open) = match kind {
        Kind::Radio(offers) => (offers, false),
        Kind::Select(offers) => (offers, true),
        Kind::Lines | Kind::Text | Kind::Number(_) => return Vec::new(),
    };
    let choice = |value: &str, label: &str, chosen| Choice {
        value: value.to_owned(),
        label: label.to_owned(),
        chosen,
    };
    let mut choices: Vec<Choice> =
        offers.iter().map(|(name, label)| choice(name, label, *name == value)).collect();
    if open && choices.iter().all(|choice| !choice.chosen) {
        choices.push(choice(value, value, true));
    }
    choices
}

/// A field's value in words.
fn shown(kind: Kind, value: &str) -> String {
    let offered = match kind {
        Kind::Radio(offers) | Kind::Select(offers) => offers.iter().find(|(name, _)| *name == value),
        Kind::Lines | Kind::Text | Kind::Number(_) => None,
    };
    match offered {
        Some((_, label)) => (*label).to_owned(),
        None if value.is_empty() => "(nothing)".to_owned(),
        None => value.to_owned(),
    }
}

/// A problem as a sentence that names its field.
pub fn told(problem: &Problem) -> String {
    let mut fields = SECTIONS.iter().flat_map(|(_, fields)| fields.iter());
    let label = fields.find(|field| field.0 == problem.field).map_or(problem.field, |field| field.1);
    format!("{label}: {}.", problem.detail)
}

#[cfg(test)]
mod tests {
    use url::form_urlencoded;

    use super::super::form::{FIELDS, Posted};
    use super::*;
    use crate::domain::config::Config;

    fn fields(content: &Content) -> Vec<Field> {
        content.sections().into_iter().flat_map(|section| section.fields).collect()
    }

    fn field(content: &Content, name: &str) -> Field {
        fields(content).into_iter().find(|field| field.name == name).unwrap()
    }

    #[test]
    fn the_page_has_the_fields_that_the_form_reads_in_the_same_order() {
        let names: Vec<&str> = fields(&Content::default()).iter().map(|field| field.name).collect();
        assert_eq!(names, FIELDS);
    }

    #[test]
    fn what_is_offered_can_be_read() {
        let saved = Draft::of(&Config::default());
        for (name, offers) in [("model", MODELS), ("display", DISPLAYS), ("theme", THEMES)] {
            for (offer, _) in offers {
                let text = |field| if field == name { *offer } else { saved.text(field) };
                let typed = FIELDS.map(|field| (field, text(field)));
                let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(typed).finish();
                let config = Posted::parse(body.as_bytes()).draft.config().unwrap();
                assert_eq!(Draft::of(&config).text(name), *offer);
            }
        }
    }

    #[test]
    fn a_theme_that_is_not_offered_stays_chosen() {
        let draft = Draft::of(&Config { theme: "neon".into(), ..Config::default() });
        let theme = field(&Content { draft, ..Content::default() }, "theme");
        let values: Vec<(&str, bool)> =
            theme.choices.iter().map(|choice| (choice.value.as_str(), choice.chosen)).collect();
        assert_eq!(values, [("dark", false), ("light", false), ("high-contrast", false), ("neon", true)]);
    }

    #[test]
    fn only_fields_that_differ_show_what_is_saved_and_choices_in_words() {
        let typed = Config::default();
        let mut saved = Config { against_triggers: Vec::new(), ..Config::default() };
        saved.params.model = crate::domain::sentiment::Model::Window;
        let versions = Some((Draft::of(&typed), Draft::of(&saved)));
        let content = Content { draft: Draft::of(&typed), versions, ..Content::default() };
        let differing: Vec<(&str, String)> =
            fields(&content).into_iter().filter_map(|field| Some((field.name, field.saved?))).collect();
        let expected = [("against_triggers", "(nothing)".to_owned()), ("model", MODELS[1].1.to_owned())];
        assert_eq!(differing, expected);
    }

    #[test]
    fn a_field_is_described_by_what_stands_beside_it() {
        let problem = |detail: &str| Problem { field: "vote_delta", detail: detail.into() };
        let problems = vec![problem("is 0; 1 to 50 are possible"), problem("is odd")];
        let content = Content { problems, ..Content::default() };
        let wrong = field(&content, "vote_delta");
        assert_eq!(wrong.described_by(), "vote_delta-hint vote_delta-problem");
        assert_eq!(wrong.problems[0], "Points a vote adds: is 0; 1 to 50 are possible.");
        assert_eq!(wrong.problems.len(), 2);
        assert_eq!(field(&content, "decay_speed").described_by(), "decay_speed-hint");
    }
}
