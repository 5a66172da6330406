//! One statement on a pooled connection, within a time limit.

use std::time::Duration;

use deadpool_postgres::{Client, Object};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::JournalError;

/// A connection for one statement. The server's own limit does not help when the server is silent,
/// so the answer is waited for no longer than `answer_max`.
pub(super) struct Connection {
    client: Object,
    answer_max: Duration,
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
    pub(super) fn new(client: Object, answer_max: Duration) -> Connection {
        Connection { client, answer_max }
    }

    /// All rows that a statement answers.
    pub(super) async fn query(
        self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, JournalError> {
        let client = Unfinished(Some(self.client));
        let answer = tokio::time::timeout(self.answer_max, ask(&client, sql, params)).await;
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
    client.query(&statement, params).await
}

/// Gives the connection back to its pool.
fn finish(mut client: Unfinished) {
    drop(client.0.take());
}
