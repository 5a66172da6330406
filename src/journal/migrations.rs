//! Bringing the schema to the newest version. Migrations are forward-only files in `schema/`.

use std::time::Duration;

use refinery::Runner;

use super::{Journal, JournalError, JournalOptions};

mod embedded {
    refinery::embed_migrations!("schema");
}

/// Any number will do, as long as every release uses the same one.
const ADVISORY_LOCK: i64 = 0x6368_6174_7075_6c73;
/// Partitions of the journal made ahead of time; later months go to the default partition.
const PARTITION_MONTHS_AHEAD: i32 = 12;

/// What a migration did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Names of the migrations applied now, in order.
    pub applied: Vec<String>,
    /// The schema's version now.
    pub version: u32,
}

/// The version of the schema that this release needs.
pub fn newest_version() -> u32 {
    runner().get_migrations().iter().map(|migration| migration.version() as u32).max().unwrap_or(0)
}

fn runner() -> Runner {
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name("chatpulse.schema_history");
    runner
}

/// Brings the schema behind `url` (the owner's role) to the newest version, and grants the
/// application's role, `application_role`, what it may do. Concurrent calls wait for each other.
///
/// # Errors
/// [`JournalError`] when the server is away, or refuses a migration.
pub async fn migrate(url: &str, application_role: Option<&str>) -> Result<Migrated, JournalError> {
    let options = JournalOptions {
        pool_size: 1,
        connect_timeout: Duration::from_secs(5),
        statement_timeout: Duration::from_secs(600),
    };
    let journal = Journal::new(url, &options, uuid::Uuid::nil())?;
    let mut client = journal.pool.get().await?;
    // Released when the connection ends, also if this process dies.
    client.execute("SELECT pg_advisory_lock($1)", &[&ADVISORY_LOCK]).await?;
    client.batch_execute("CREATE SCHEMA IF NOT EXISTS chatpulse").await?;
    let report = runner().run_async(&mut **client.as_mut()).await.map_err(|error| {
        JournalError::Schema(format!("the migration failed: {}", super::with_source(&error)))
    })?;
    client.execute("SELECT chatpulse.create_event_partitions($1)", &[&PARTITION_MONTHS_AHEAD]).await?;
    if let Some(role) = application_role {
        client.execute("SELECT chatpulse.grant_application($1::text::name)", &[&role]).await?;
    }
    let applied = report.applied_migrations().iter().map(ToString::to_string).collect();
    Ok(Migrated { applied, version: newest_version() })
}

impl Journal {
    /// Refuses a schema that is older than this release.
    ///
    /// # Errors
    /// [`JournalError::Schema`] when a migration is missing; [`JournalError`] when it can't be asked.
    pub async fn check_schema(&self) -> Result<(), JournalError> {
        let client = self.client().await?;
        let row = client.query_one("SELECT max(version)::int4 FROM chatpulse.schema_history", &[]).await?;
        let found = row.try_get::<_, Option<i32>>(0)?.unwrap_or(0);
        let needed = newest_version() as i32;
        if found < needed {
            return Err(JournalError::Schema(format!(
                "the schema has version {found}, this release needs {needed}; run `chatpulse migrate`"
            )));
        }
        Ok(())
    }
}
