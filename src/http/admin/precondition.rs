//! `If-Match` (RFC 9110, 13.1.1) on the version of a config.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderValue};

use crate::http::problem::Problem;

/// Which versions of a config a change was made for.
#[derive(Debug, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: whichever it is.
    Any,
    /// The strong tags that were named.
    Tags(Vec<String>),
}

/// The ETag of a version.
pub fn etag(version: i64) -> HeaderValue {
    // Digits in quotes are always possible.
    HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

impl IfMatch {
    /// What the request is conditional on.
    ///
    /// # Errors
    /// 428 without the header (RFC 6585, 3), 400 when it can't be read.
    pub fn of(headers: &HeaderMap) -> Result<IfMatch, Problem> {
        let lines: Result<Vec<&str>, _> =
            headers.get_all(header::IF_MATCH).map(HeaderValue::to_str).collect();
        // Several lines of one header are one list (RFC 9110, 5.3).
        let text = lines.map_err(|_| unreadable())?.join(",");
        if !headers.contains_key(header::IF_MATCH) {
            let detail = "Send `If-Match` with the ETag of the config that you changed.";
            return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, detail));
        }
        if text.trim() == "*" {
            return Ok(IfMatch::Any);
        }
        tags(&text).map(IfMatch::Tags).ok_or_else(unreadable)
    }

    /// Whether a change may be made while the config has this version.
    pub fn allows(&self, version: i64) -> bool {
        match self {
            IfMatch::Any => true,
            IfMatch::Tags(tags) => tags.contains(&version.to_string()),
        }
    }
}

fn unreadable() -> Problem {
    Problem::bad_request("`If-Match` has to be an ETag in quotes, such as \"3\", a list of them, or *.")
}

/// The strong tags of a list. Weak ones match nothing here (RFC 9110, 8.8.3.2), so they are left out.
fn tags(text: &str) -> Option<Vec<String>> {
    let mut rest = text.trim();
    let mut tags = Vec::new();
    loop {
        let (weak, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let (tag, after) = quoted.strip_prefix('"')?.split_once('"')?;
        if !weak {
            tags.push(tag.to_owned());
        }
        rest = after.trim_start();
        if rest.is_empty() {
            return Some(tags);
        }
        rest = rest.strip_prefix(',')?.trim_start();
    }
}

#[cfg(test)]
mod tests {
    use actix_web::ResponseError;

    use super::*;

    fn parsed(lines: &[&str]) -> Result<IfMatch, u16> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::IF_MATCH, HeaderValue::from_str(line).unwrap());
        }
        IfMatch::of(&headers).map_err(|problem| problem.status_code().as_u16())
    }

    fn allowed(line: &str) -> Vec<i64> {
        let condition = parsed(&[line]).unwrap();
        (1..=5).filter(|version| condition.allows(*version)).collect()
    }

    #[test]
    fn a_change_is_allowed_for_the_versions_named() {
        assert_eq!(allowed("\"3\""), [3]);
        assert_eq!(allowed("\"3\" ,\"5\""), [3, 5]);
        assert_eq!(allowed("*"), [1, 2, 3, 4, 5]);
        assert!(parsed(&["\"3\"", "\"5\""]).unwrap().allows(5));
    }

    #[test]
    fn weak_and_foreign_tags_match_nothing() {
        for none in ["W/\"3\"", "\"03\"", "\"a,b\"", "\"\"", "\" 3\""] {
            assert_eq!(allowed(none), [0; 0], "{none}");
        }
        assert_eq!(allowed("W/\"3\", \"4\""), [4]);
    }

    #[test]
    fn a_missing_header_is_asked_for_and_a_broken_one_refused() {
        assert_eq!(parsed(&[]), Err(428));
        for broken in ["", "3", "\"3", "3\"", "\"3\" \"4\"", "\"3\",", "*, \"3\"", "w/\"3\""] {
            assert_eq!(parsed(&[broken]), Err(400), "{broken}");
        }
    }

    #[test]
    fn a_tag_given_out_is_accepted_again() {
        assert!(parsed(&[etag(42).to_str().unwrap()]).unwrap().allows(42));
    }
}
