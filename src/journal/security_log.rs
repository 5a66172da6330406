//! The security log: who did what from where. It is only ever added to, and holds no secrets.
//!
//! Texts may come from whoever tries to sign in. They are stored as they came, but for their length and for what
//! PostgreSQL can't store; rows and columns stay apart, and whoever writes lines of them encodes them.

use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{Journal, JournalError};
use crate::domain::time::Millis;

/// Characters of a text that are kept. The rest of a longer one says nothing more.
const TEXT_CHARS_MAX: usize = 500;

/// Something that is to be remembered.
#[derive(Clone, Debug, PartialEq)]
pub struct SecurityEntry {
    /// What happened.
    pub kind: &'static str,
    /// Who did it; `None`: not known, or no operator.
    pub operator_id: Option<Uuid>,
    /// To whom or what.
    pub subject: Option<String>,
    /// From where: an IP address.
    pub address: Option<String>,
    pub request_id: String,
    /// What else there is to say; no secrets.
    pub detail: Value,
}

/// What is remembered.
#[derive(Clone, Debug, PartialEq)]
pub struct SecurityRecord {
    /// Grows; later ones have higher ones, but for those of the same moment.
    pub id: i64,
    pub at: Millis,
    pub kind: String,
    pub operator_id: Option<Uuid>,
    pub subject: Option<String>,
    pub address: Option<String>,
    pub request_id: String,
    pub detail: Value,
}

/// Which records are wanted; `None`: any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityFilter {
    pub operator_id: Option<Uuid>,
    pub kind: Option<String>,
    pub subject: Option<String>,
    /// Not before this.
    pub from: Option<Millis>,
    /// Before this.
    pub to: Option<Millis>,
}

impl Journal {
    /// Adds a record.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have been added.
    pub async fn log_security(&self, entry: &SecurityEntry) -> Result<(), JournalError> {
        let client = self.client().await?;
        client
            .query(
                "INSERT INTO chatpulse.security_log (kind, operator_id, subject, address, request_id, detail)
                 VALUES ($1, $2, $3, $4, $5, $6)",
                &[
                    &entry.kind,
                    &entry.operator_id,
                    &entry.subject.as_deref().map(storable),
                    &entry.address.as_deref().map(storable),
                    &storable(&entry.request_id),
                    &storable_value(&entry.detail),
                ],
            )
            .await?;
        Ok(())
    }

    /// Records that pass the filter, newest first, at most `limit`, before the one with the id `before`.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or a row can't be read.
    pub async fn security_log(
        &self,
        filter: &SecurityFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<SecurityRecord>, JournalError> {
        let (kind, subject) = (filter.kind.as_deref().map(storable), filter.subject.as_deref().map(storable));
        let (from, to) = (filter.from.map(|from| from.0), filter.to.map(|to| to.0));
        // Only what is asked for stands in the statement, so that each is planned with the index that fits it.
        let mut wanted = Wanted::default();
        wanted.push("operator_id =", "", filter.operator_id.as_ref());
        wanted.push("kind =", "", kind.as_ref());
        wanted.push("subject =", "", subject.as_ref());
        wanted.push("at >= to_timestamp(", "::bigint / 1000.0)", from.as_ref());
        wanted.push("at < to_timestamp(", "::bigint / 1000.0)", to.as_ref());
        wanted.push("id <", "", before.as_ref());
        wanted.params.push(&limit);
        let sql = format!(
            "SELECT id, chatpulse.unix_ms(at) AS at_ms, kind, operator_id, subject, address, request_id, detail
             FROM chatpulse.security_log
             WHERE true{} ORDER BY id DESC LIMIT ${}",
            wanted.conditions,
            wanted.params.len()
        );
        self.client().await?.query(&sql, &wanted.params).await?.iter().map(record).collect()
    }
}

/// Conditions of a statement, and their parameters.
#[derive(Default)]
struct Wanted<'a> {
    conditions: String,
    params: Vec<&'a (dyn ToSql + Sync)>,
}

impl<'a> Wanted<'a> {
    /// Adds a condition with a parameter between its two parts, if there is a value for it.
    fn push<T: ToSql + Sync>(&mut self, left: &str, right: &str, value: Option<&'a T>) {
        if let Some(value) = value {
            self.params.push(value);
            self.conditions += &format!(" AND {left} ${}{right}", self.params.len());
        }
    }
}

fn record(row: &Row) -> Result<SecurityRecord, JournalError> {
    Ok(SecurityRecord {
        id: row.try_get("id")?,
        at: Millis(row.try_get("at_ms")?),
        kind: row.try_get("kind")?,
        operator_id: row.try_get("operator_id")?,
        subject: row.try_get("subject")?,
        address: row.try_get("address")?,
        request_id: row.try_get("request_id")?,
        detail: row.try_get("detail")?,
    })
}

/// A text as it can be stored: not too long, and without the one character that PostgreSQL's text can't hold.
fn storable(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).map(|sign| if sign == '\0' { '\u{fffd}' } else { sign }).collect()
}

fn storable_value(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(storable(text)),
        Value::Array(items) => items.iter().map(storable_value).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (storable(name), storable_value(value))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_is_cut_and_loses_what_can_not_be_stored_but_nothing_else() {
        assert_eq!(storable("a\0b\r\n\u{202e}\"'"), "a\u{fffd}b\r\n\u{202e}\"'");
        assert_eq!(storable(&"ä".repeat(501)), "ä".repeat(500));
        let value = json!({"a\0": ["\0", 1, null, {"b": "\0c"}], "d": true});
        let stored = json!({"a\u{fffd}": ["\u{fffd}", 1, null, {"b": "\u{fffd}c"}], "d": true});
        assert_eq!(storable_value(&value), stored);
    }

    #[test]
    fn only_what_is_asked_for_stands_in_the_statement() {
        let (kind, before) = ("login".to_owned(), 7i64);
        let mut wanted = Wanted::default();
        wanted.push("operator_id =", "", None::<&Uuid>);
        wanted.push("kind =", "", Some(&kind));
        wanted.push("at < to_timestamp(", "::bigint / 1000.0)", Some(&before));
        assert_eq!(wanted.conditions, " AND kind = $1 AND at < to_timestamp( $2::bigint / 1000.0)");
        assert_eq!(wanted.params.len(), 2);
    }
}
