//! The journal: PostgreSQL as the event store, the source of truth.
//!
//! Every write is one call of a function of `schema/`, one transaction, so no lock outlives a
//! round trip. Reading order: [`codec`] (what events look like at rest), [`votes`] (appending a
//! batch of votes), [`retraction`] (taking votes back), [`sessions`] (live sessions), [`holds`] (who keeps them alive),
//! [`directory`] (following what changes), [`streamers`], [`streams`] (reading events back), [`tokens`] (sealed ones of
//! Twitch), [`sign_ins`] (whose browsers are signed in), [`subscriptions`] (at Twitch), [`recordings`] (streams that are
//! live, and how chats are doing), [`examination`] (how all that stands), [`clock`], [`migrations`].

pub mod clock;
pub mod codec;
mod connection;
pub mod directory;
pub mod examination;
pub mod holds;
pub mod migrations;
pub mod operator_tokens;
pub mod operators;
pub mod recordings;
pub mod retraction;
mod rows;
pub mod security_log;
pub mod sessions;
pub mod sign_ins;
pub mod streamers;
pub mod streams;
pub mod subscriptions;
pub mod tokens;
pub mod votes;

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime};
use prometheus::Histogram;
use uuid::Uuid;

use connection::Connection;

/// How the journal is reached.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    pub pool_size: usize,
    pub connect_timeout: Duration,
    /// No answer is waited for longer than this. The server ends a statement a little earlier, so that
    /// one that waits for a lock is told from a server that is silent.
    pub statement_timeout: Duration,
}

/// The event store.
#[derive(Clone)]
pub struct Journal {
    pool: Pool,
    /// From a statement to its answer, at most.
    answer_max: Duration,
    instance_id: Uuid,
    /// Where the time of each statement is noted.
    query_seconds: Option<Histogram>,
}

/// Why the journal did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// The URL cannot be used.
    #[error("the database URL can't be used: {0}")]
    Url(String),
    /// PostgreSQL cannot be reached, or not in time. What was sent may or may not have happened.
    #[error("PostgreSQL can't be reached: {0}")]
    Away(String),
    /// A lock was not to be had in time; trying again may help.
    #[error("PostgreSQL is busy: {0}")]
    Busy(String),
    /// Data that PostgreSQL can't store; sending it again would not help.
    #[error("PostgreSQL refused data: {0}")]
    Data(String),
    /// PostgreSQL answered with another error.
    #[error("PostgreSQL refused: {0}")]
    Refused(String),
    /// The schema is not the one this release needs.
    #[error("{0}")]
    Schema(String),
    /// What stands in the journal cannot be read by this release.
    #[error("the journal holds something this release can't read: {0}")]
    Unreadable(String),
    /// The server does not keep what it acknowledged.
    #[error("{0}")]
    NotDurable(String),
}

impl From<PoolError> for JournalError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => error.into(),
            other => JournalError::Away(other.to_string()),
        }
    }
}

impl From<tokio_postgres::Error> for JournalError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            return JournalError::Away(with_source(&error));
        };
        let told = || format!("{} ({})", db.message(), db.code().code());
        match Blame::of(db.code().code()) {
            Blame::Server => JournalError::Away(told()),
            Blame::Schema => JournalError::Schema(format!("{}; run `chatpulse migrate`", db.message())),
            Blame::Others => JournalError::Busy(told()),
            Blame::Data => JournalError::Data(told()),
            Blame::Unknown => JournalError::Refused(told()),
        }
    }
}

/// What an error of PostgreSQL is to be blamed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    /// It starts, stops, has failed over and reads only, lacks connections or resources, or is broken:
    /// nothing is wrong with what it was asked.
    Server,
    /// It lacks what a migration brings.
    Schema,
    /// Others held a lock for too long.
    Others,
    Data,
    Unknown,
}

impl Blame {
    /// By the codes of PostgreSQL's manual, appendix A. 57014, a statement that took too long, is not
    /// one of 57P…, a server that shuts down.
    fn of(code: &str) -> Blame {
        const SERVER: [&str; 11] =
            ["08", "28", "53", "57P", "58", "XX", "25006", "25P03", "25P04", "3D000", "40003"];
        const SCHEMA: [&str; 3] = ["42P01", "42883", "3F000"];
        const OTHERS: [&str; 4] = ["55P03", "57014", "40001", "40P01"];
        const DATA: [&str; 3] = ["22", "23", "54"];
        let is_of = |classes: &[&str]| classes.iter().any(|class| code.starts_with(class));
        match code {
            // A missing partition.
            "23514" => Blame::Unknown,
            _ if is_of(&SERVER) => Blame::Server,
            _ if is_of(&SCHEMA) => Blame::Schema,
            _ if is_of(&OTHERS) => Blame::Others,
            _ if is_of(&DATA) => Blame::Data,
            _ => Blame::Unknown,
        }
    }
}

/// `error` and what caused it, on one line.
fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl Journal {
    /// A journal over a pool of connections; none is opened yet.
    ///
    /// # Errors
    /// [`JournalError::Url`] when `url` is no PostgreSQL URL.
    pub fn new(url: &str, options: &JournalOptions, instance_id: Uuid) -> Result<Journal, JournalError> {
        let config = connection_config(url, options)?;
        let manager = Manager::from_config(
            config,
            tokio_postgres::NoTls,
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let pool = Pool::builder(manager)
            .max_size(options.pool_size)
            .wait_timeout(Some(options.statement_timeout))
            .create_timeout(Some(options.connect_timeout))
            .recycle_timeout(Some(options.connect_timeout))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| JournalError::Url(error.to_string()))?;
        Ok(Journal { pool, answer_max: options.statement_timeout, instance_id, query_seconds: None })
    }

    /// The same journal, noting the time from each statement to its answer, in seconds.
    pub fn observed_by(self, query_seconds: Histogram) -> Journal {
        Journal { query_seconds: Some(query_seconds), ..self }
    }

    /// The instance that this journal writes for.
    pub fn instance_id(&self) -> Uuid {
        self.instance_id
    }

    /// Whether PostgreSQL answers.
    ///
    /// # Errors
    /// [`JournalError`] when it does not.
    pub async fn ping(&self) -> Result<(), JournalError> {
        self.client().await?.query("SELECT 1", &[]).await?;
        Ok(())
    }

    /// Refuses a server that forgets what it acknowledged, and names what is risky.
    ///
    /// # Errors
    /// [`JournalError::NotDurable`] with `fsync = off`; [`JournalError`] when it can't be asked.
    pub async fn check_durability(&self) -> Result<Vec<String>, JournalError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "SELECT current_setting('fsync'), current_setting('full_page_writes'),
                        current_setting('synchronous_standby_names'),
                        EXISTS (SELECT FROM pg_stat_replication)",
                &[],
            )
            .await?;
        if row.try_get::<_, &str>(0)? == "off" {
            return Err(JournalError::NotDurable(
                "PostgreSQL runs with fsync = off, so a power cut would lose votes that were acknowledged; \
                 set fsync = on in postgresql.conf"
                    .into(),
            ));
        }
        let mut warnings = Vec::new();
        if row.try_get::<_, &str>(1)? == "off" {
            warnings.push("full_page_writes is off: a crash may corrupt the journal".into());
        }
        if row.try_get::<_, bool>(3)? && row.try_get::<_, &str>(2)?.is_empty() {
            warnings.push(
                "replicas exist, but synchronous_standby_names is empty: a failover may lose the newest votes"
                    .into(),
            );
        }
        Ok(warnings)
    }

    /// A connection for one statement.
    async fn client(&self) -> Result<Connection, JournalError> {
        Ok(Connection::new(self.pool.get().await?, self.answer_max, self.query_seconds.clone()))
    }

    /// Who writes, and as part of what: stored with every event.
    fn metadata(&self, correlation_id: &str) -> serde_json::Value {
        serde_json::json!({ "instance": self.instance_id, "correlation_id": correlation_id })
    }
}

fn connection_config(url: &str, options: &JournalOptions) -> Result<tokio_postgres::Config, JournalError> {
    let mut config: tokio_postgres::Config =
        url.parse().map_err(|error| JournalError::Url(with_source(&error)))?;
    // A commit is acknowledged when it is on disk, whatever the server's default says.
    let session = format!(
        "-c synchronous_commit=on -c statement_timeout={} -c idle_in_transaction_session_timeout=10000 \
         -c TimeZone=UTC",
        (options.statement_timeout * 9 / 10).as_millis().max(1)
    );
    let own = config.get_options().map(|own| format!("{own} ")).unwrap_or_default();
    config
        .options(format!("{own}{session}"))
        .application_name("chatpulse")
        .connect_timeout(options.connect_timeout)
        .tcp_user_timeout(Duration::from_secs(5))
        .keepalives_idle(Duration::from_secs(15));
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_blamed_on_who_can_help_it() {
        let cases = [
            (Blame::Server, "53100 53200 53300 57P01 57P02 57P03 57P05 25006 25P03 58030 58P01"),
            (Blame::Server, "08006 08P01 28000 28P01 3D000 40003 XX000 XX001"),
            (Blame::Schema, "42P01 42883 3F000"),
            (Blame::Others, "55P03 57014 40001 40P01"),
            (Blame::Data, "22003 22P02 22P05 23505 54000"),
            (Blame::Unknown, "23514 42501 P0001 0A000"),
        ];
        for (blame, codes) in cases {
            for code in codes.split(' ') {
                assert_eq!(Blame::of(code), blame, "{code}");
            }
        }
    }
}
