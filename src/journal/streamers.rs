//! Streamers: appending their events with expected versions, and reading their projections.

use uuid::Uuid;

use super::sessions::Entry;
use super::{Journal, JournalError, codec, rows};
use crate::domain::streamer::{self, Command, Refusal, Streamer};

/// How often a change is decided anew when another one came in between.
const ATTEMPTS: usize = 5;

/// Why a change of a streamer was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Journal {
    /// Appends one event to a streamer's stream, together with its projections. `false` when the
    /// stream is no longer at `expected_version` (or, for a registration, when the streamer exists).
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away; the event may have been appended.
    pub async fn append_streamer_event(
        &self,
        streamer_id: Uuid,
        expected_version: i64,
        event: &streamer::Event,
        correlation_id: &str,
    ) -> Result<bool, JournalError> {
        let encoded = codec::encode_streamer_event(event);
        let client = self.client().await?;
        let row = client
            .query_one(
                "SELECT chatpulse.append_streamer_event($1, $2, $3, $4, $5, $6)",
                &[
                    &streamer_id,
                    &expected_version,
                    &encoded.event_type,
                    &encoded.schema_version,
                    &encoded.data,
                    &self.metadata(correlation_id),
                ],
            )
            .await?;
        Ok(row.try_get::<_, Option<i64>>(0)?.is_some())
    }

    /// Makes a streamer, or answers the existing one with the same Twitch id. The flag says
    /// whether it was made now.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] with every problem; [`ChangeError::Journal`] when PostgreSQL is
    /// away; may be repeated.
    pub async fn register(
        &self,
        profile: streamer::Profile,
        config: crate::domain::config::Config,
        correlation_id: &str,
    ) -> Result<(Streamer, bool), ChangeError> {
        let twitch_user_id = profile.twitch_user_id.clone();
        let id = Uuid::now_v7();
        let command = Command::Register { id, profile, overlay_uuid: Uuid::new_v4(), config };
        let events = streamer::decide(command, None)?;
        let mut created = false;
        if self.streamer_by_twitch_id(&twitch_user_id).await?.is_none() {
            for event in &events {
                created = self.append_streamer_event(id, 0, event, correlation_id).await?;
            }
        }
        match self.streamer_by_twitch_id(&twitch_user_id).await? {
            Some(streamer) => Ok((streamer, created)),
            None => Err(Refusal::Unknown.into()),
        }
    }

    /// Decides `command` on the streamer's newest state and appends what it brings about; decides
    /// anew when another change came in between.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] as the domain says; [`ChangeError::Journal`] when PostgreSQL is away.
    pub async fn change_streamer(
        &self,
        streamer_id: Uuid,
        command: Command,
        correlation_id: &str,
    ) -> Result<Entry, ChangeError> {
        for _ in 0..ATTEMPTS {
            let Some(entry) = self.entry(streamer_id).await? else { return Err(Refusal::Unknown.into()) };
            let events = streamer::decide(command.clone(), Some(&entry.streamer))?;
            let mut appended = true;
            for (version, event) in (entry.streamer.version..).zip(events) {
                appended = appended
                    && self.append_streamer_event(streamer_id, version, &event, correlation_id).await?;
            }
            if appended {
                return self.entry(streamer_id).await?.ok_or_else(|| Refusal::Unknown.into());
            }
        }
        Err(JournalError::Busy("the streamer is being changed by others all the time".into()).into())
    }

    /// A streamer by their id on Twitch.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or the row can't be read.
    pub async fn streamer_by_twitch_id(
        &self,
        twitch_user_id: &str,
    ) -> Result<Option<Streamer>, JournalError> {
        let client = self.client().await?;
        let row = client
            .query_opt("SELECT * FROM chatpulse.entries WHERE twitch_user_id = $1", &[&twitch_user_id])
            .await?;
        Ok(row.as_ref().map(rows::entry).transpose()?.map(|entry| entry.streamer))
    }

    /// Whether an overlay URL is known, and belongs to a streamer who is not disabled.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away.
    pub async fn overlay_exists(&self, overlay_uuid: Uuid) -> Result<bool, JournalError> {
        let client = self.client().await?;
        Ok(client
            .query_one(
                "SELECT EXISTS (SELECT FROM chatpulse.users WHERE overlay_uuid = $1 AND disabled_at IS NULL)",
                &[&overlay_uuid],
            )
            .await?
            .try_get(0)?)
    }

    /// Streamers by id, at most `limit`, after the given one.
    ///
    /// # Errors
    /// [`JournalError`] when PostgreSQL is away or a row can't be read.
    pub async fn streamers(&self, after: Option<Uuid>, limit: i64) -> Result<Vec<Streamer>, JournalError> {
        let client = self.client().await?;
        let rows = client
            .query(
                "SELECT * FROM chatpulse.entries
                 WHERE streamer_id > $1
                 ORDER BY streamer_id LIMIT $2",
                &[&after.unwrap_or_default(), &limit],
            )
            .await?;
        rows.iter().map(|row| Ok(rows::entry(row)?.streamer)).collect()
    }
}
