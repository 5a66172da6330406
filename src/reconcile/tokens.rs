//! Tokens are refreshed before they end, and Twitch is asked every hour whether they are still valid, as its rules
//! demand ("Validating tokens"). Every instance takes part; a token is in the hands of one at a time.

use std::time::Duration;

use super::vault::{REFRESH_LEASE, Refreshed};
use super::{ReconcileError, Twitch};
use crate::journal::tokens::{Owner, OwnerKind, StoredToken};
use crate::twitch::client::TwitchError;

/// Refreshed so long before they end.
const AHEAD: Duration = Duration::from_secs(15 * 60);
/// Source: Twitch, "Validating tokens": hourly.
const VALIDATE_EVERY: Duration = Duration::from_secs(60 * 60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Tokens in hand at a time.
const TOKENS_A_LOOK: i64 = 20;

impl Twitch {
    /// Keeps tokens valid, for as long as the instance runs. `ended` is told whose sign-in has ended.
    pub async fn keep_tokens(&self, ended: impl AsyncFn(&Owner)) {
        let mut failing = false;
        loop {
            let looked = self.look_after_tokens(&ended).await;
            match &looked {
                Err(error) if !failing => tracing::warn!(%error, "tokens of Twitch can't be kept up"),
                Ok(()) if failing => tracing::info!("tokens of Twitch are kept up again"),
                _ => {}
            }
            failing = looked.is_err();
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Refreshes what ends soon, and validates what was not for an hour. One that fails keeps no other waiting.
    async fn look_after_tokens(&self, ended: &impl AsyncFn(&Owner)) -> Result<(), ReconcileError> {
        let mut failed = Ok(());
        for _ in 0..TOKENS_A_LOOK {
            // One at a time, so that no lease lapses while others are refreshed.
            let expiring = self.journal.take_expiring_tokens(AHEAD, REFRESH_LEASE, 1).await?;
            let Some(token) = expiring.into_iter().next() else { break };
            match self.vault.refresh(&token).await {
                Ok(Refreshed::Renewed) => {}
                Ok(Refreshed::Ended) => self.say_ended(&token, ended).await,
                Err(error) => failed = Err(error),
            }
        }
        for token in self.journal.take_unvalidated_tokens(VALIDATE_EVERY, TOKENS_A_LOOK).await? {
            if let Err(error) = self.validate(&token, ended).await {
                failed = Err(error);
            }
        }
        failed
    }

    /// Asks Twitch whether a token is still valid; one that isn't is refreshed at once.
    async fn validate(
        &self,
        token: &StoredToken,
        ended: &impl AsyncFn(&Owner),
    ) -> Result<(), ReconcileError> {
        match self.client.validate(&self.vault.open_access(token)?).await {
            Ok(_) => Ok(()),
            Err(TwitchError::Unauthorized(_)) => {
                let taken = self.journal.take_token(&token.owner, token.generation, REFRESH_LEASE).await?;
                let Some(taken) = taken else { return Ok(()) };
                if self.vault.refresh(&taken).await? == Refreshed::Ended {
                    self.say_ended(&taken, ended).await;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What a user's withdrawing of the authorization means: no token of theirs is of use any more.
    ///
    /// # Errors
    /// [`ReconcileError`] when Twitch or PostgreSQL is away.
    pub async fn authorization_withdrawn(
        &self,
        user_id: &str,
        ended: &impl AsyncFn(&Owner),
    ) -> Result<(), ReconcileError> {
        for owner in [Owner::channel(user_id), Owner::bot(user_id)] {
            let Some(token) = self.journal.token(&owner).await? else { continue };
            // It may be told late, or twice: the owner may have signed in again.
            let asked = match self.vault.open_access(&token) {
                Ok(access) => self.client.validate(&access).await,
                // One that does not open is of no use anyway, and Twitch need not say it again.
                Err(error) => Err(TwitchError::Unauthorized(error.to_string())),
            };
            match asked {
                Ok(_) => continue,
                Err(TwitchError::Unauthorized(_)) => {}
                Err(error) => return Err(error.into()),
            }
            let reason = "the authorization was withdrawn at Twitch";
            if self.journal.invalidate_token(&owner, token.generation, reason).await? {
                self.say_ended(&token, ended).await;
            }
        }
        Ok(())
    }

    async fn say_ended(&self, token: &StoredToken, ended: &impl AsyncFn(&Owner)) {
        let (login, kind) = (&token.login, token.owner.kind.name());
        match token.owner.kind {
            OwnerKind::Channel => tracing::info!(login, kind, "a sign-in with Twitch has ended"),
            OwnerKind::Bot => {
                tracing::error!(login, kind, "the bot's authorization has ended: have it sign in again")
            }
        }
        ended(&token.owner).await;
    }
}
