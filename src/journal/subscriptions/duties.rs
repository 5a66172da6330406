//! What one instance at a time does for all, and the conduit that it keeps.

use std::time::Duration;

use super::super::{Journal, JournalError};

impl Journal {
    /// Whether this instance has a duty, for another `lease`.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away: then nobody has it before the lease lapses.
    pub async fn take_duty(&self, name: &str, lease: Duration) -> Result<bool, JournalError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "SELECT chatpulse.take_duty($1, $2, make_interval(secs => $3))",
                &[&name, &self.instance_id, &lease.as_secs_f64()],
            )
            .await?;
        Ok(row.try_get(0)?)
    }

    /// Lets go of all duties of this instance, so that others can have them at once.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; the leases lapse all the same.
    pub async fn leave_duties(&self) -> Result<(), JournalError> {
        let client = self.client().await?;
        client.query("DELETE FROM chatpulse.duties WHERE instance_id = $1", &[&self.instance_id]).await?;
        Ok(())
    }

    /// The conduit that an application's notifications come through; `None` before the first.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn conduit(&self, client_id: &str) -> Result<Option<String>, JournalError> {
        let client = self.client().await?;
        let sql = "SELECT conduit_id FROM chatpulse.conduits WHERE client_id = $1";
        let row = client.query_opt(sql, &[&client_id]).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    /// Whether the shards of this conduit were given this callback and secret, whose digest it is.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn is_conduit_led_to(&self, conduit_id: &str, digest: &[u8; 32]) -> Result<bool, JournalError> {
        let client = self.client().await?;
        let sql = "SELECT EXISTS (SELECT FROM chatpulse.conduits WHERE conduit_id = $1 AND led_to = $2)";
        Ok(client.query_one(sql, &[&conduit_id, &&digest[..]]).await?.try_get(0)?)
    }

    /// Notes that all shards of this conduit were given this callback and secret.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn note_conduit_led_to(&self, conduit_id: &str, digest: &[u8; 32]) -> Result<(), JournalError> {
        let client = self.client().await?;
        let sql = "UPDATE chatpulse.conduits SET led_to = $2 WHERE conduit_id = $1";
        client.query(sql, &[&conduit_id, &&digest[..]]).await?;
        Ok(())
    }

    /// Notes which conduit it is, and requests again what went through another one.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn note_conduit(&self, client_id: &str, conduit_id: &str) -> Result<(), JournalError> {
        let client = self.client().await?;
        client
            .query(
                "WITH noted AS (
                     INSERT INTO chatpulse.conduits (client_id, conduit_id) VALUES ($1, $2)
                     ON CONFLICT (client_id) DO UPDATE SET
                         conduit_id = excluded.conduit_id, changed_at = clock_timestamp(),
                         led_to = CASE WHEN conduits.conduit_id = excluded.conduit_id THEN conduits.led_to END)
                 UPDATE chatpulse.eventsub_subscriptions SET
                     status = 'requested', subscription_id = NULL, conduit_id = NULL, attempts = 0,
                     due_at = clock_timestamp(), changed_at = clock_timestamp()
                 WHERE status = 'enabled' AND conduit_id IS DISTINCT FROM $2",
                &[&client_id, &conduit_id],
            )
            .await?;
        Ok(())
    }
}
