//! One statement on a pooled connection, within a time limit.

use std::time::Duration;

use deadpool_postgres::{Client, Object};
use prometheus::Histogram;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::JournalError;

/// A connection for one statement. The server's own limit does not help when the server is silent,
/// so the answer is waited for no longer than `answer_max`.
pub(super) struct Connection {
    client: Object,
    answer_max: Duration,
    query_seconds: Option<Histogram>,
}

/// Takes a connection out of the pool unless its statement came to an end: what still runs on it
/// would hold up the next one.
struct Unfinished(Option<Object>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Object::take(client));
        }
    }
}

impl Connection {
    pub(super) fn new(client: Object, answer_max: Duration, query_seconds: Option<Histogram>) -> Connection {
        Connection { client, answer_max, query_seconds }
    }

    /// All rows that a statement answers.
    pub(super) async fn query(
        self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, JournalError> {
        let client = Unfinished(Some(self.client));
        let began = self.query_seconds.as_ref().map(Histogram::start_timer);
        let answer = tokio::time::timeout(self.answer_max, ask(&client, sql, params)).await;
        drop(began);
        let Ok(answer) = answer else {
            return Err(JournalError::Away(format!("no answer within {:?}", self.answer_max)));
        };
        finish(client);
        Ok(answer?)
    }

    /// The one row that a statement answers, or none.
    pub(super) async fn query_opt(
        self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, JournalError> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }

    /// The one row that a statement always answers.
    pub(super) async fn query_one(
        self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, JournalError> {
        let row = self.query_opt(sql, params).await?;
        row.ok_or_else(|| JournalError::Unreadable("a statement answered no row".into()))
    }
}

async fn ask(
    client: &Unfinished,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    // Taken only when it is dropped.
    let Some(client) = &client.0 else { return Ok(Vec::new()) };
    let client: &Client = client;
    let statement = client.prepare_cached(sql).await?;
    match client.query(&statement, params).await {
        Err(error) if is_outdated(&error) => {
            client.statement_cache.remove(sql, &[]);
            let statement = client.prepare_cached(sql).await?;
            client.query(&statement, params).await
        }
        answer => answer,
    }
}

/// Whether a prepared statement has to be prepared anew: a migration has changed what it answers, or
/// it is gone. PostgreSQL says so before it does anything.
fn is_outdated(error: &tokio_postgres::Error) -> bool {
    [Some(&SqlState::FEATURE_NOT_SUPPORTED), Some(&SqlState::INVALID_SQL_STATEMENT_NAME)]
        .contains(&error.code())
}

/// Gives the connection back to its pool.
fn finish(mut client: Unfinished) {
    drop(client.0.take());
}
