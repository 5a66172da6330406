//! `/security-log`: who did what, when, and from where; page by page as JSON, or as a whole as CSV.

use actix_web::web::{self, Bytes, Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::audit::{self, Entry};
use super::auth::caller::{May, ReadSecurityLog};
use super::paging::{Listed, Page};
use super::{csv, only};
use crate::domain::time::Millis;
use crate::http::problem::Problem;
use crate::http::state::State;
use crate::journal::JournalError;
use crate::journal::security_log::{SecurityFilter, SecurityRecord};

/// Records that an export reads at a time.
const PART: i64 = 1_000;
const COLUMNS: [&str; 8] = ["id", "at", "kind", "operator_id", "subject", "address", "request_id", "detail"];

pub fn configure(routes: &mut web::ServiceConfig) {
    routes.service(web::resource("/security-log").get(read).default_service(only("GET")));
}

/// What is asked for, as it was typed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    operator_id: Option<String>,
    kind: Option<String>,
    subject: Option<String>,
    from: Option<String>,
    to: Option<String>,
    format: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

/// What is asked for.
#[derive(Debug, PartialEq)]
struct Wanted {
    filter: SecurityFilter,
    page: Page<i64>,
    csv: bool,
}

impl Wanted {
    fn parse(query: &str) -> Result<Wanted, Problem> {
        let Ok(Query(asked)) = Query::<Asked>::from_query(query) else {
            let detail = "Only `operator_id`, `kind`, `subject`, `from`, `to`, `format`, `limit` and \
                          `cursor` are understood, each at most once.";
            return Err(Problem::bad_request(detail));
        };
        let csv = match asked.format.as_deref() {
            None | Some("json") => false,
            Some("csv") => true,
            Some(_) => return Err(Problem::bad_request("`format` has to be json or csv.")),
        };
        let operator_id = asked.operator_id.map(|id| id.parse::<Uuid>());
        let filter = SecurityFilter {
            operator_id: operator_id
                .transpose()
                .map_err(|_| Problem::bad_request("`operator_id` has to be a UUID."))?,
            kind: asked.kind,
            subject: asked.subject,
            from: moment("from", asked.from)?,
            to: moment("to", asked.to)?,
        };
        Ok(Wanted { filter, page: Page::of(asked.limit, asked.cursor)?, csv })
    }
}

/// A time in Unix milliseconds, of those that PostgreSQL knows and people write: years 1970 to 9999.
fn moment(name: &str, text: Option<String>) -> Result<Option<Millis>, Problem> {
    const END_OF_9999: i64 = 253_402_300_799_999;
    let Some(text) = text else { return Ok(None) };
    let millis = text.parse::<i64>().ok().filter(|millis| (0..=END_OF_9999).contains(millis));
    let refused = || Problem::bad_request(format!("`{name}` has to be a time in Unix milliseconds."));
    millis.map(|millis| Some(Millis(millis))).ok_or_else(refused)
}

/// An entry.
#[derive(Serialize)]
struct RecordShape {
    id: i64,
    /// In Unix milliseconds.
    at: i64,
    kind: String,
    /// Who did it; null: not known, or no operator.
    operator_id: Option<Uuid>,
    /// To whom or what.
    subject: Option<String>,
    address: Option<String>,
    request_id: String,
    detail: Value,
}

impl From<SecurityRecord> for RecordShape {
    fn from(record: SecurityRecord) -> Self {
        let SecurityRecord { id, at, kind, operator_id, subject, address, request_id, detail } = record;
        RecordShape { id, at: at.0, kind, operator_id, subject, address, request_id, detail }
    }
}

/// The log, newest first. The cursor is an entry's id.
async fn read(
    who: May<ReadSecurityLog>,
    state: Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let Wanted { filter, page, csv } = Wanted::parse(request.query_string())?;
    if csv {
        Entry::of(audit::SECURITY_LOG_EXPORTED, &who).write(&state).await?;
        return export(state, filter, page.after).await;
    }
    let records = state.journal.security_log(&filter, page.after, page.fetch()).await?;
    let (records, next) = page.cut(records, |record| record.id);
    let items: Vec<RecordShape> = records.into_iter().map(RecordShape::from).collect();
    Ok(HttpResponse::Ok().json(Listed { items, next }))
}

/// An export on its way: what was read and not yet sent.
struct Export {
    state: Data<State>,
    filter: SecurityFilter,
    text: String,
    /// The last entry in `text`, if more may follow.
    last: Option<i64>,
}

impl Export {
    /// Reads the entries that come before (are older than) this one.
    async fn read(mut self, before: Option<i64>) -> Result<Export, JournalError> {
        let records = self.state.journal.security_log(&self.filter, before, PART).await?;
        let is_full = records.len() as i64 == PART;
        self.last = records.last().map(|record| record.id).filter(|_| is_full);
        records.iter().for_each(|record| push_record(&mut self.text, record));
        Ok(self)
    }

    /// What is to be sent now, and what is left; nothing after the last.
    async fn part(self) -> Result<Option<(Bytes, Option<Export>)>, JournalError> {
        let Export { state, filter, text, last } = self;
        if text.is_empty() {
            return Ok(None);
        }
        let next = match last {
            Some(_) => Some(Export { state, filter, text: String::new(), last: None }.read(last).await?),
            None => None,
        };
        Ok(Some((Bytes::from(text), next)))
    }
}

/// Sends all entries from the newest (or from after the cursor) on, part by part: no more than two are in memory.
async fn export(
    state: Data<State>,
    filter: SecurityFilter,
    before: Option<i64>,
) -> Result<HttpResponse, Problem> {
    let mut text = String::new();
    csv::push_row(&mut text, COLUMNS);
    // The first part is read before the status is sent, so that an outage has one of its own.
    let begun = Export { state, filter, text, last: None }.read(before).await?;
    let parts = stream::try_unfold(Some(begun), |export| async move {
        match export {
            Some(export) => export.part().await,
            None => Ok(None),
        }
    });
    Ok(HttpResponse::Ok()
        .insert_header(("content-type", "text/csv; charset=utf-8; header=present"))
        .insert_header(("content-disposition", "attachment; filename=\"security-log.csv\""))
        .streaming(parts))
}

fn push_record(text: &mut String, record: &SecurityRecord) {
    let (id, at) = (record.id.to_string(), written(record.at));
    let operator_id = record.operator_id.map(|id| id.to_string()).unwrap_or_default();
    let detail = record.detail.to_string();
    let fields: [&str; 8] = [
        &id,
        &at,
        &record.kind,
        &operator_id,
        record.subject.as_deref().unwrap_or_default(),
        record.address.as_deref().unwrap_or_default(),
        &record.request_id,
        &detail,
    ];
    csv::push_row(text, fields);
}

/// A time as spreadsheets and people read it; in milliseconds where that is not possible.
fn written(at: Millis) -> String {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000);
    moment.ok().and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_else(|| at.0.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_asked_for_is_understood_or_refused() {
        let id = Uuid::from_u128(7);
        let query = format!("operator_id={id}&kind=signed_in&subject=a%20b&from=0&to=5&format=csv&cursor=9");
        let wanted = Wanted::parse(&query).unwrap();
        let filter = SecurityFilter {
            operator_id: Some(id),
            kind: Some("signed_in".into()),
            subject: Some("a b".into()),
            from: Some(Millis(0)),
            to: Some(Millis(5)),
        };
        assert_eq!((wanted.filter, wanted.page.after, wanted.csv), (filter, Some(9), true));
        assert_eq!(Wanted::parse("").unwrap().filter, SecurityFilter::default());
        let times = ["from=yesterday", "to=-1", "from=253402300800000"];
        for wrong in ["operator_id=x", "format=xml", "limit=0", "x=1"].into_iter().chain(times) {
            assert!(Wanted::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_entry_is_one_line_whatever_stands_in_it() {
        let record = SecurityRecord {
            id: 3,
            at: Millis(1_763_700_000_250),
            kind: "sign_in_failed".into(),
            operator_id: None,
            subject: Some("=HYPERLINK(\"x\")\n4,forged".into()),
            address: Some("203.0.113.9".into()),
            request_id: "@mine".into(),
            detail: json!({ "why": "unknown\n" }),
        };
        let mut text = String::new();
        push_record(&mut text, &record);
        let expected = "\"3\",\"2025-11-21T04:40:00.25Z\",\"sign_in_failed\",\"\",\
                        \"'=HYPERLINK(\"\"x\"\")\\n4,forged\",\"203.0.113.9\",\"'@mine\",\
                        \"{\"\"why\"\":\"\"unknown\\n\"\"}\"\r\n";
        assert_eq!(text, expected);
    }
}
