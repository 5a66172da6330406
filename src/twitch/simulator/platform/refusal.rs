//! How Twitch says no, and how it is asked.

use serde_json::{Value, json};
use url::form_urlencoded;

/// A refusal as Twitch's APIs word it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    pub message: String,
    /// Of what is there already, in a conflict.
    pub id: Option<String>,
    /// Whether the body lacks the status's name, as most of OAuth's do.
    is_bare: bool,
}

impl Refusal {
    /// As Helix refuses.
    pub(super) fn new(status: u16, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into(), id: None, is_bare: false }
    }

    /// As OAuth refuses.
    pub(super) fn bare(status: u16, message: impl Into<String>) -> Refusal {
        Refusal { is_bare: true, ..Refusal::new(status, message) }
    }

    /// As Twitch answers whatever is not there or not the application's.
    pub(super) fn not_found() -> Refusal {
        Refusal::new(404, "not found")
    }

    /// What was to be made is there already.
    pub(super) fn conflict(message: impl Into<String>, id: impl Into<String>) -> Refusal {
        Refusal { id: Some(id.into()), ..Refusal::new(409, message) }
    }

    /// The body of the answer.
    pub(super) fn body(&self) -> Value {
        let mut body = json!({ "status": self.status, "message": self.message });
        if !self.is_bare {
            body["error"] = error_name(self.status).into();
        }
        if let Some(id) = &self.id {
            body["id"] = id.as_str().into();
        }
        body
    }
}

/// The standard's name of a status that is used here.
fn error_name(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        410 => "Gone",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}

/// The fields of a query or a form, in order; a name may come more than once.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    pub fn parse(encoded: &[u8]) -> Fields {
        Fields(form_urlencoded::parse(encoded).into_owned().collect())
    }

    /// The first value of this name, if it is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).find(|value| !value.is_empty())
    }

    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value of this name.
    ///
    /// # Errors
    /// [`Refusal`] that names it when it is missing or empty.
    pub fn required(&self, name: &str) -> Result<&str, Refusal> {
        let refused = || Refusal::new(400, format!("Missing required parameter \"{name}\""));
        self.get(name).ok_or_else(refused)
    }
}

/// One page of `items`, which come with growing positions, after the one that the cursor `after` names.
/// Answers what belongs under `data` and under `pagination`.
///
/// # Errors
/// [`Refusal`] for a cursor that no page had.
pub(super) fn page<T>(
    items: impl Iterator<Item = (u64, T)>,
    after: Option<&str>,
    size: usize,
) -> Result<(Vec<T>, Value), Refusal> {
    let invalid = || Refusal::new(400, "The value specified in the after field is not a valid cursor");
    let after = after.map(|cursor| position(cursor).ok_or_else(invalid)).transpose()?;
    let mut page = Vec::new();
    let mut last = 0;
    for (position, item) in items.filter(|(position, _)| after.is_none_or(|after| *position > after)) {
        if page.len() == size {
            return Ok((page, json!({ "cursor": hex::encode(last.to_string()) })));
        }
        page.push(item);
        last = position;
    }
    Ok((page, json!({})))
}

fn position(cursor: &str) -> Option<u64> {
    String::from_utf8(hex::decode(cursor).ok()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_like_one_of_twitch() {
        let conflict = Refusal::conflict("subscription already exists", "7");
        let expected = json!({
            "error": "Conflict", "status": 409, "message": "subscription already exists", "id": "7",
        });
        assert_eq!(conflict.body(), expected);
        let bare = Refusal::bare(401, "invalid access token").body();
        assert_eq!(bare, json!({ "status": 401, "message": "invalid access token" }));
    }

    #[test]
    fn pages_follow_each_other_without_gaps() {
        let items = || (1..=5_u64).map(|number| (number * 10, number));
        let (first, pagination) = page(items(), None, 2).unwrap();
        let cursor = pagination["cursor"].as_str().unwrap().to_owned();
        let (second, pagination) = page(items(), Some(&cursor), 2).unwrap();
        let cursor = pagination["cursor"].as_str().unwrap().to_owned();
        let (third, pagination) = page(items(), Some(&cursor), 2).unwrap();
        assert_eq!((first, second, third, pagination), (vec![1, 2], vec![3, 4], vec![5], json!({})));
        assert_eq!(page(items(), Some("made up"), 2).unwrap_err().status, 400);
    }
}
