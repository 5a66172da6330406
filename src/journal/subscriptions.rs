//! Subscriptions at Twitch: which are wanted, which are there, and what one instance at a time does for all.
//!
//! The rows are the list of what is to be done: a subscription that is wanted is tried when it is due, and due again
//! later if Twitch would not have it. Reading order: this, then `duties`.

mod duties;

use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;

use super::{Journal, JournalError};

/// What is to be done about a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// It is wanted, and Twitch doesn't have it.
    Create,
    /// Nobody needs it any more.
    Delete,
}

/// A subscription that something is to be done about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub streamer_id: Uuid,
    /// The broadcaster's id on Twitch.
    pub twitch_user_id: String,
    /// Such as `channel.chat.message`.
    pub kind: String,
    pub task: Task,
    /// Twitch's id, where it is known. Of one that is to be created: what Twitch had before, and may still have.
    pub subscription_id: Option<String>,
    /// How often it was tried in vain.
    pub attempts: u32,
}

/// A subscription that Twitch is believed to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub subscription_id: String,
    pub streamer_id: Uuid,
    pub kind: String,
    /// Whether it is what is wanted. Else it is about to be replaced or deleted.
    pub is_enabled: bool,
}

/// How a streamer's subscription stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionStanding {
    pub kind: String,
    /// `requested`, `enabled`, `blocked` or `ending`.
    pub status: String,
    /// Why it is not enabled, as far as it is known.
    pub reason: Option<String>,
}

impl Journal {
    /// Takes on what is due, at most `limit`, chat messages first; nobody else does for `lease`.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or a row can't be read.
    pub async fn take_due_subscriptions(
        &self,
        lease: Duration,
        limit: i64,
    ) -> Result<Vec<Due>, JournalError> {
        let client = self.client().await?;
        let rows = client
            .query(
                "WITH due AS (
                     SELECT streamer_id, type FROM chatpulse.eventsub_subscriptions
                     WHERE status IN ('requested', 'ending') AND due_at <= clock_timestamp()
                     ORDER BY type <> 'channel.chat.message', due_at LIMIT $2
                     FOR UPDATE SKIP LOCKED)
                 UPDATE chatpulse.eventsub_subscriptions e
                 SET due_at = clock_timestamp() + make_interval(secs => $1)
                 FROM due d JOIN chatpulse.users u ON u.id = d.streamer_id
                 WHERE e.streamer_id = d.streamer_id AND e.type = d.type
                 RETURNING e.streamer_id, u.twitch_user_id, e.type, e.status, e.subscription_id, e.attempts",
                &[&lease.as_secs_f64(), &limit],
            )
            .await?;
        rows.iter().map(due).collect()
    }

    /// Notes that Twitch has a subscription that was wanted; `false` when it is not wanted any more.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn confirm_subscription(
        &self,
        due: &Due,
        subscription_id: &str,
        conduit_id: &str,
    ) -> Result<bool, JournalError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "SELECT chatpulse.confirm_subscription($1, $2, $3, $4, $5)",
                &[
                    &due.streamer_id,
                    &due.kind,
                    &subscription_id,
                    &conduit_id,
                    &self.metadata("subscriptions"),
                ],
            )
            .await?;
        Ok(row.try_get(0)?)
    }

    /// Notes that a subscription could not be made, and why; it is due again after `again`, or, without that,
    /// blocked until somebody does something about it.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn postpone_subscription(
        &self,
        due: &Due,
        reason: &str,
        again: Option<Duration>,
    ) -> Result<(), JournalError> {
        let client = self.client().await?;
        client
            .query(
                "UPDATE chatpulse.eventsub_subscriptions SET
                     status = CASE WHEN $5::double precision IS NULL AND status = 'requested'
                                   THEN 'blocked' ELSE status END,
                     reason = $3, attempts = $4,
                     due_at = clock_timestamp() + make_interval(secs => coalesce($5, 60)),
                     changed_at = clock_timestamp()
                 WHERE streamer_id = $1 AND type = $2 AND status IN ('requested', 'ending')",
                &[
                    &due.streamer_id,
                    &due.kind,
                    &reason,
                    &i32::try_from(due.attempts.saturating_add(1)).unwrap_or(i32::MAX),
                    &again.map(|again| again.as_secs_f64()),
                ],
            )
            .await?;
        Ok(())
    }

    /// Forgets a subscription that was deleted at Twitch, unless it is wanted again.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn forget_subscription(&self, due: &Due) -> Result<(), JournalError> {
        let client = self.client().await?;
        client
            .query(
                "DELETE FROM chatpulse.eventsub_subscriptions
                 WHERE streamer_id = $1 AND type = $2 AND status = 'ending'",
                &[&due.streamer_id, &due.kind],
            )
            .await?;
        Ok(())
    }

    /// Notes that Twitch has ended a subscription, or doesn't have it; whether asking for it again may help. Answers
    /// whose it was; `None` when it is unknown or was noted before.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn revoke_subscription(
        &self,
        subscription_id: &str,
        reason: &str,
        recoverable: bool,
    ) -> Result<Option<Uuid>, JournalError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "SELECT chatpulse.revoke_subscription($1, $2, $3, $4)",
                &[&subscription_id, &reason, &recoverable, &self.metadata("subscriptions")],
            )
            .await?;
        Ok(row.try_get(0)?)
    }

    /// Requests others in place of these subscriptions, which Twitch keeps until it has the others: the rows still know
    /// them. Answers how many that are.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn replace_subscriptions(
        &self,
        subscription_ids: &[String],
        reason: &str,
    ) -> Result<usize, JournalError> {
        if subscription_ids.is_empty() {
            return Ok(0);
        }
        let client = self.client().await?;
        let rows = client
            .query(
                "UPDATE chatpulse.eventsub_subscriptions SET
                     status = 'requested', reason = $2, attempts = 0, due_at = clock_timestamp(),
                     changed_at = clock_timestamp()
                 WHERE subscription_id = ANY ($1) AND status = 'enabled'
                 RETURNING 1",
                &[&subscription_ids, &reason],
            )
            .await?;
        Ok(rows.len())
    }

    /// Marks subscriptions that nobody has needed for `keep` for being deleted, at most `limit`. Answers how many.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn end_unwanted_subscriptions(&self, keep: Duration, limit: i32) -> Result<u64, JournalError> {
        let client = self.client().await?;
        let sql = "SELECT chatpulse.end_unwanted_subscriptions(make_interval(secs => $1), $2)";
        let row = client.query_one(sql, &[&keep.as_secs_f64(), &limit]).await?;
        Ok(row.try_get::<_, i64>(0)?.unsigned_abs())
    }

    /// Requests what live sessions need and nobody has requested, at most `limit`. Answers how many.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn request_missing_subscriptions(&self, limit: i32) -> Result<u64, JournalError> {
        let client = self.client().await?;
        let sql = "SELECT chatpulse.request_missing_subscriptions($1)";
        Ok(client.query_one(sql, &[&limit]).await?.try_get::<_, i64>(0)?.unsigned_abs())
    }

    /// Gives back what was taken on and not tried: it is due again after `wait`.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it is due again all the same, when the lease has lapsed.
    pub async fn give_back_subscriptions(&self, untried: &[Due], wait: Duration) -> Result<(), JournalError> {
        let ids: Vec<Uuid> = untried.iter().map(|due| due.streamer_id).collect();
        let kinds: Vec<&str> = untried.iter().map(|due| due.kind.as_str()).collect();
        let client = self.client().await?;
        client
            .query(
                "UPDATE chatpulse.eventsub_subscriptions e
                 SET due_at = clock_timestamp() + make_interval(secs => $3)
                 FROM unnest($1::uuid[], $2::text[]) AS u (streamer_id, type)
                 WHERE e.streamer_id = u.streamer_id AND e.type = u.type",
                &[&ids, &kinds, &wait.as_secs_f64()],
            )
            .await?;
        Ok(())
    }

    /// Subscriptions that Twitch is believed to have, by Twitch's id, at most `limit`, after the given one.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or a row can't be read.
    pub async fn known_subscriptions(
        &self,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<Known>, JournalError> {
        let client = self.client().await?;
        let rows = client
            .query(
                "SELECT subscription_id, streamer_id, type, status = 'enabled'
                 FROM chatpulse.eventsub_subscriptions WHERE subscription_id > $1
                 ORDER BY subscription_id LIMIT $2",
                &[&after.unwrap_or_default(), &limit],
            )
            .await?;
        let known = |row: &Row| {
            Ok(Known {
                subscription_id: row.try_get(0)?,
                streamer_id: row.try_get(1)?,
                kind: row.try_get(2)?,
                is_enabled: row.try_get(3)?,
            })
        };
        rows.iter().map(known).collect()
    }

    /// Requests again what was blocked, because somebody has done something about it: one streamer's, or all.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; it may have happened, and may be repeated.
    pub async fn request_blocked_subscriptions(&self, streamer_id: Option<Uuid>) -> Result<(), JournalError> {
        let client = self.client().await?;
        client
            .query(
                "UPDATE chatpulse.eventsub_subscriptions SET
                     status = 'requested', reason = NULL, attempts = 0, due_at = clock_timestamp(),
                     requested_at = clock_timestamp(), changed_at = clock_timestamp()
                 WHERE status = 'blocked' AND ($1::uuid IS NULL OR streamer_id = $1)",
                &[&streamer_id],
            )
            .await?;
        Ok(())
    }

    /// How many subscriptions there are of each status.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn subscription_counts(&self) -> Result<Vec<(String, i64)>, JournalError> {
        let client = self.client().await?;
        let sql = "SELECT status, count(*) FROM chatpulse.eventsub_subscriptions GROUP BY status";
        let rows = client.query(sql, &[]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// How a streamer's subscriptions stand.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn subscriptions_of(
        &self,
        streamer_id: Uuid,
    ) -> Result<Vec<SubscriptionStanding>, JournalError> {
        let client = self.client().await?;
        let sql = "SELECT type, status, reason FROM chatpulse.eventsub_subscriptions
                   WHERE streamer_id = $1 ORDER BY type";
        let rows = client.query(sql, &[&streamer_id]).await?;
        let standing = |row: &Row| {
            Ok(SubscriptionStanding {
                kind: row.try_get(0)?,
                status: row.try_get(1)?,
                reason: row.try_get(2)?,
            })
        };
        rows.iter().map(standing).collect()
    }
}

fn due(row: &Row) -> Result<Due, JournalError> {
    let task = match row.try_get::<_, &str>(3)? {
        "requested" => Task::Create,
        "ending" => Task::Delete,
        other => return Err(JournalError::Unreadable(format!("a subscription that is {other} and due"))),
    };
    Ok(Due {
        streamer_id: row.try_get(0)?,
        twitch_user_id: row.try_get(1)?,
        kind: row.try_get(2)?,
        task,
        subscription_id: row.try_get(4)?,
        attempts: row.try_get::<_, i32>(5)?.unsigned_abs(),
    })
}
