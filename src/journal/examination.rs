//! What an examination of a whole deployment asks of the journal: reads only, a few rows each.

use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;

use super::tokens::{Owner, OwnerKind};
use super::{Journal, JournalError};
use crate::domain::time::Millis;

/// How old what is known of a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenTimes {
    /// Since Twitch last said that it is valid.
    pub validated_ago: Duration,
    /// Until it ends; zero once it has.
    pub expires_in: Duration,
}

/// A channel of which subscriptions don't come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StuckChat {
    pub login: String,
    /// What Twitch said, about the chat's messages if they are missing; empty when nothing is known.
    pub reason: String,
    /// Whether the chat's messages are among what is missing, and not only what is taken back there, or its streams.
    pub messages: bool,
}

/// Some of the channels that are stuck, those without messages first, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StuckChats {
    pub some: Vec<StuckChat>,
    pub count: i64,
}

/// Why subscriptions are stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StuckBy {
    /// Only a person can help.
    Blocked,
    /// It failed, and is tried again.
    Failing,
}

/// How the tokens of one kind of owners are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    pub valid: i64,
    pub invalid: i64,
    /// Logins of some whose token is invalid, the latest first.
    pub invalid_logins: Vec<String>,
}

/// Something that one instance does for all, and which one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DutyHolder {
    pub name: String,
    pub instance_id: Uuid,
}

impl Journal {
    /// What PostgreSQL's clock says.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn server_clock(&self) -> Result<Millis, JournalError> {
        let client = self.client().await?;
        let sql = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
        Ok(Millis(client.query_one(sql, &[]).await?.try_get(0)?))
    }

    /// How old what is known of an owner's token is; `None` without a token.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn token_times(&self, owner: &Owner) -> Result<Option<TokenTimes>, JournalError> {
        let client = self.client().await?;
        let row = client
            .query_opt(
                "SELECT floor(extract(epoch FROM clock_timestamp() - validated_at))::bigint,
                        floor(extract(epoch FROM expires_at - clock_timestamp()))::bigint
                 FROM chatpulse.oauth_tokens WHERE owner_kind = $1 AND owner_id = $2",
                &[&owner.kind.name(), &owner.id],
            )
            .await?;
        let times = |row: Row| {
            Ok(TokenTimes { validated_ago: seconds(row.try_get(0)?), expires_in: seconds(row.try_get(1)?) })
        };
        row.map(times).transpose()
    }

    /// The channels of which subscriptions are stuck, at most `limit` of them, and how many there are; each once.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn stuck_chats(&self, by: StuckBy, limit: i64) -> Result<StuckChats, JournalError> {
        let (status, attempts_min) = match by {
            StuckBy::Blocked => ("blocked", 0),
            StuckBy::Failing => ("requested", 1),
        };
        let client = self.client().await?;
        let rows = client
            .query(
                "SELECT u.login,
                        coalesce((array_agg(e.reason ORDER BY e.type <> 'channel.chat.message', e.type))[1], ''),
                        bool_or(e.type = 'channel.chat.message') AS messages, count(*) OVER ()
                 FROM chatpulse.eventsub_subscriptions e JOIN chatpulse.users u ON u.id = e.streamer_id
                 WHERE e.status = $1 AND e.attempts >= $2
                 GROUP BY u.id, u.login
                 ORDER BY messages DESC, u.login LIMIT $3",
                &[&status, &attempts_min, &limit],
            )
            .await?;
        let count: i64 = rows.first().map(|row| row.try_get(3)).transpose()?.unwrap_or(0);
        let stuck = |row: &Row| {
            Ok(StuckChat { login: row.try_get(0)?, reason: row.try_get(1)?, messages: row.try_get(2)? })
        };
        Ok(StuckChats { some: rows.iter().map(stuck).collect::<Result<_, JournalError>>()?, count })
    }

    /// How the tokens of one kind of owners are, with the logins of at most `limit` whose are invalid.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn token_counts(&self, kind: OwnerKind, limit: i32) -> Result<TokenCounts, JournalError> {
        let client = self.client().await?;
        let row = client
            .query_one(
                "SELECT count(*) FILTER (WHERE status = 'valid'), count(*) FILTER (WHERE status = 'invalid'),
                        coalesce((array_agg(login ORDER BY changed_at DESC)
                                  FILTER (WHERE status = 'invalid'))[1:$2::integer], '{}'::text[])
                 FROM chatpulse.oauth_tokens WHERE owner_kind = $1",
                &[&kind.name(), &limit],
            )
            .await?;
        Ok(TokenCounts { valid: row.try_get(0)?, invalid: row.try_get(1)?, invalid_logins: row.try_get(2)? })
    }

    /// How many instances have a lease that has not lapsed.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn running_instances(&self) -> Result<i64, JournalError> {
        let client = self.client().await?;
        let sql = "SELECT count(*) FROM chatpulse.instances WHERE lease_until > clock_timestamp()";
        Ok(client.query_one(sql, &[]).await?.try_get(0)?)
    }

    /// What one instance does for all, as far as one does.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn duty_holders(&self) -> Result<Vec<DutyHolder>, JournalError> {
        let client = self.client().await?;
        let sql = "SELECT name, instance_id FROM chatpulse.duties
                   WHERE lease_until > clock_timestamp() ORDER BY name";
        let rows = client.query(sql, &[]).await?;
        let holder = |row: &Row| Ok(DutyHolder { name: row.try_get(0)?, instance_id: row.try_get(1)? });
        rows.iter().map(holder).collect()
    }
}

/// Whole seconds, none for what is negative.
fn seconds(of: i64) -> Duration {
    Duration::from_secs(of.max(0).unsigned_abs())
}
