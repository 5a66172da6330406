//! `/dead-letters`: votes of the queue that PostgreSQL refused for good.

use std::str::FromStr;

use actix_web::HttpResponse;
use actix_web::web::{self, Data, Path};
use serde::Serialize;
use serde_json::Value;

use super::audit::{self, Entry};
use super::auth::caller::{Look, May, Steer};
use super::only;
use super::paging::{Listed, Page};
use crate::hot::spill::DeadLetter;
use crate::http::problem::Problem;
use crate::http::state::State;

pub fn configure(routes: &mut web::ServiceConfig) {
    routes
        .service(web::resource("/dead-letters").get(list).default_service(only("GET")))
        .service(web::resource("/dead-letters/{id}/retry").post(retry).default_service(only("POST")));
}

/// A dead letter's id: `<milliseconds>-<number>`, as Redis gives them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct LetterId(String);

impl FromStr for LetterId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (at, number) = text.split_once('-').ok_or(())?;
        let is_number = |text: &str| text.parse::<u64>().is_ok();
        if is_number(at) && is_number(number) { Ok(LetterId(text.to_owned())) } else { Err(()) }
    }
}

/// A vote that PostgreSQL refuses.
#[derive(Debug, Serialize)]
struct DeadLetterShape {
    id: String,
    /// When it came into the queue, in Unix milliseconds.
    queued_at: Option<i64>,
    /// What PostgreSQL said.
    reason: String,
    /// How often it was tried.
    tries: u32,
    /// The vote as it stands in the queue; a text if it is no JSON.
    vote: Value,
}

impl From<DeadLetter> for DeadLetterShape {
    fn from(letter: DeadLetter) -> Self {
        let text = || Value::String(String::from_utf8_lossy(&letter.payload).into_owned());
        DeadLetterShape {
            queued_at: letter.entry_id.split_once('-').and_then(|(at, _)| at.parse().ok()),
            vote: serde_json::from_slice(&letter.payload).unwrap_or_else(|_| text()),
            id: letter.id,
            reason: letter.reason,
            tries: letter.tries,
        }
    }
}

/// The dead letters, oldest first.
async fn list(_: May<Look>, state: Data<State>, page: Page<LetterId>) -> Result<HttpResponse, Problem> {
    let after = page.after.as_ref().map(|LetterId(id)| id.as_str());
    let letters = state.spill.dead_letters(after, page.fetch() as usize).await?;
    let (letters, next) = page.cut(letters, |letter| LetterId(letter.id.clone()));
    let items: Vec<DeadLetterShape> = letters.into_iter().map(DeadLetterShape::from).collect();
    Ok(HttpResponse::Ok().json(Listed { items, next }))
}

/// Puts a dead letter back into the queue.
async fn retry(who: May<Steer>, state: Data<State>, id: Path<String>) -> Result<HttpResponse, Problem> {
    let unknown = || Problem::not_found("There is no such dead letter.");
    let LetterId(id) = id.parse().map_err(|()| unknown())?;
    if !state.spill.retry_dead(&id).await? {
        return Err(unknown());
    }
    Entry::of(audit::DEAD_LETTER_RETRIED, &who).about(&id).write(&state).await?;
    Ok(HttpResponse::NoContent().finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_of_redis_streams_are_ids() {
        assert_eq!("1763700000000-12".parse(), Ok(LetterId("1763700000000-12".into())));
        for wrong in ["", "1", "-", "1-", "a-1", "1-2-3", "1-x"] {
            assert_eq!(wrong.parse::<LetterId>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn a_dead_letter_shows_its_vote_or_what_stands_there_instead() {
        let letter = |payload: &[u8]| DeadLetter {
            id: "5-0".into(),
            entry_id: "1763700000000-3".into(),
            payload: payload.to_vec(),
            reason: "value out of range".into(),
            tries: 5,
        };
        let shown = |payload| serde_json::to_value(DeadLetterShape::from(letter(payload))).unwrap();
        let expected = serde_json::json!({
            "id": "5-0", "queued_at": 1_763_700_000_000_i64, "reason": "value out of range", "tries": 5,
            "vote": { "m": "a" },
        });
        assert_eq!(shown(br#"{"m":"a"}"#), expected);
        assert_eq!(shown(b"what?")["vote"], "what?");
    }
}
