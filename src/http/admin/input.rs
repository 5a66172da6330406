//! What is taken of streamers and their configs.

use serde_json::{Map, Value};

use super::fields::{Fields, Missing, text};
use crate::domain::config::{Config, Display};
use crate::domain::sentiment::{Model, Params};
use crate::domain::streamer::Profile;
use crate::http::problem::FieldProblem;

/// Whole numbers up to here are exact in JSON's floating point.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// A streamer to make.
#[derive(Debug, PartialEq)]
pub struct NewStreamer {
    pub profile: Profile,
    pub config: Config,
}

/// Reads a whole config, without its version.
///
/// # Errors
/// Everything that is wrong with it: missing and unknown fields, types, values.
pub fn config(body: Value) -> Result<Config, Vec<FieldProblem>> {
    let mut fields = Fields::of(body, "")?;
    let config = read_config(&mut fields, Missing::Refused);
    fields.finish(config)
}

/// Reads a streamer to make: the display name defaults to the login, each setting to its default.
///
/// # Errors
/// Everything that is wrong with it.
pub fn new_streamer(body: Value) -> Result<NewStreamer, Vec<FieldProblem>> {
    let mut fields = Fields::of(body, "")?;
    let twitch_user_id = fields.required("twitch_user_id", text);
    let login = fields.required("login", text);
    let display_name = fields.optional("display_name", text);
    let config = fields.optional("config", object).map(Value::Object).unwrap_or_default();
    let profile = Profile {
        display_name: display_name.or_else(|| login.clone()).unwrap_or_default(),
        twitch_user_id: twitch_user_id.unwrap_or_default(),
        login: login.unwrap_or_default(),
    };
    // A name that is wrong only because it is the login's is told once.
    let borrowed = profile.display_name == profile.login;
    fields.note(
        profile.problems().into_iter().filter(|problem| !(borrowed && problem.field == "display_name")),
    );
    let config = match config {
        Value::Null => Config::default(),
        config => fields.nested(config, "config.", |fields| read_config(fields, Missing::IsDefault)),
    };
    fields.finish(NewStreamer { profile, config })
}

/// A field that can't be read keeps a value that is fine by itself, so that it is told of once.
fn read_config(fields: &mut Fields, missing: Missing) -> Config {
    let default = Config::default();
    let config = Config {
        for_triggers: fields.take("for_triggers", texts, missing, default.for_triggers).unwrap_or_default(),
        against_triggers: fields
            .take("against_triggers", texts, missing, default.against_triggers)
            .unwrap_or_default(),
        for_label: fields.setting("for_label", text, missing, default.for_label),
        against_label: fields.setting("against_label", text, missing, default.against_label),
        params: Params {
            model: fields.setting("model", model, missing, default.params.model),
            vote_delta: fields.setting("vote_delta", number, missing, default.params.vote_delta),
            decay_speed: fields.setting("decay_speed", number, missing, default.params.decay_speed),
            window_seconds: fields.setting("window_seconds", whole, missing, default.params.window_seconds),
        },
        display: fields.setting("display", display, missing, default.display),
        theme: fields.setting("theme", text, missing, default.theme),
    };
    fields.note(config.problems());
    config
}

fn texts(value: Value) -> Result<Vec<String>, &'static str> {
    let what = "has to be a list of texts";
    let Value::Array(values) = value else { return Err(what) };
    values.into_iter().map(|value| text(value).map_err(|_| what)).collect()
}

fn number(value: Value) -> Result<f64, &'static str> {
    value.as_f64().ok_or("has to be a number")
}

fn whole(value: Value) -> Result<i64, &'static str> {
    let whole = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() <= WHOLE_MAX);
    whole.map(|number| number as i64).ok_or("has to be a whole number")
}

fn object(value: Value) -> Result<Map<String, Value>, &'static str> {
    match value {
        Value::Object(values) => Ok(values),
        _ => Err("has to be an object"),
    }
}

fn model(value: Value) -> Result<Model, &'static str> {
    match value.as_str() {
        Some("decay") => Ok(Model::Decay),
        Some("window") => Ok(Model::Window),
        _ => Err("has to be \"decay\" or \"window\""),
    }
}

fn display(value: Value) -> Result<Display, &'static str> {
    match value.as_str() {
        Some("combined") => Ok(Display::Combined),
        Some("split") => Ok(Display::Split),
        _ => Err("has to be \"combined\" or \"split\""),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fields::NAME_CHARS_SHOWN;
    use super::*;

    fn whole_config() -> Value {
        json!({
            "for_triggers": ["ja"], "against_triggers": ["nein", "nö"], "for_label": "Ja",
            "against_label": "Nein", "model": "window", "vote_delta": 12.5, "decay_speed": 2,
            "window_seconds": 60.0, "display": "split", "theme": "light",
        })
    }

    fn names(problems: Vec<FieldProblem>) -> Vec<String> {
        let mut names: Vec<String> = problems.into_iter().map(|problem| problem.field.into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_whole_config_is_taken_as_it_is() {
        let config = config(whole_config()).unwrap();
        assert_eq!(config.against_triggers, ["nein", "nö"]);
        let params = Params { model: Model::Window, vote_delta: 12.5, decay_speed: 2.0, window_seconds: 60 };
        assert_eq!((config.params, config.display), (params, Display::Split));
    }

    #[test]
    fn all_problems_are_told_at_once_and_each_once() {
        let mut body = whole_config();
        body["for_triggers"] = json!(["ok", 7]);
        body["against_triggers"] = json!([" "]);
        body["vote_delta"] = json!("10");
        body["decay_speed"] = json!(99);
        body["window_seconds"] = json!(30.5);
        body["model"] = json!("dacey");
        body["theme"] = Value::Null;
        body["colour"] = json!(1);
        body["version"] = json!(3);
        body.as_object_mut().unwrap().remove("for_label");
        let expected = [
            "against_triggers",
            "colour",
            "decay_speed",
            "for_label",
            "for_triggers",
            "model",
            "theme",
            "version",
            "vote_delta",
            "window_seconds",
        ];
        assert_eq!(names(config(body).unwrap_err()), expected);
    }

    #[test]
    fn a_missing_side_is_no_conflict_with_a_default() {
        let mut body = whole_config();
        body["against_triggers"] = json!(["yes"]);
        body.as_object_mut().unwrap().remove("for_triggers");
        assert_eq!(names(config(body).unwrap_err()), ["for_triggers"]);
    }

    #[test]
    fn a_body_that_is_no_object_is_told_so() {
        for body in [json!([]), json!("x"), json!(null)] {
            assert!(config(body.clone()).is_err() && new_streamer(body).is_err());
        }
    }

    #[test]
    fn a_streamer_needs_an_id_and_a_login_and_has_defaults_for_the_rest() {
        let least = new_streamer(json!({ "twitch_user_id": "1", "login": "ada", "config": null })).unwrap();
        assert_eq!((least.profile.display_name.as_str(), least.config), ("ada", Config::default()));

        let body = json!({ "twitch_user_id": "1", "login": "ada", "display_name": "Ada",
                           "config": { "for_triggers": ["hype"] } });
        let some = new_streamer(body).unwrap();
        assert_eq!(some.profile.display_name, "Ada");
        assert_eq!(some.config, Config { for_triggers: vec!["hype".into()], ..Config::default() });
    }

    #[test]
    fn problems_of_a_new_streamer_say_where_they_are() {
        let body = json!({ "twitch_user_id": 7, "login": " ", "age": 3,
                           "config": { "against_triggers": ["YES"], "vote_delta": null, "x": 1 } });
        let expected =
            ["age", "config.against_triggers", "config.vote_delta", "config.x", "login", "twitch_user_id"];
        assert_eq!(names(new_streamer(body).unwrap_err()), expected);
        let body = json!({ "twitch_user_id": "a b", "login": "ada", "config": [] });
        assert_eq!(names(new_streamer(body).unwrap_err()), ["config", "twitch_user_id"]);
    }

    #[test]
    fn a_long_unknown_name_is_not_echoed_whole() {
        let mut body = whole_config();
        body["x".repeat(10_000)] = json!(1);
        assert_eq!(config(body).unwrap_err()[0].field.len(), NAME_CHARS_SHOWN);
    }
}
