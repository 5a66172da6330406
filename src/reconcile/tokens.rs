//! Tokens are refreshed before they end, and Twitch is asked every hour whether they are still valid, as its rules
//! demand ("Validating tokens"). Every instance takes part; a token is in the hands of one at a time. Where that fails
//! it is tried again behind all others.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;

use super::vault::{REFRESH_LEASE, Refreshed};
use super::{ReconcileError, Twitch};
use crate::journal::tokens::{Owner, OwnerKind, StoredToken};
use crate::security::keyring::KeyringError;
use crate::twitch::client::TwitchError;

/// Refreshed so long before they end.
const AHEAD: Duration = Duration::from_secs(15 * 60);
/// Source: Twitch, "Validating tokens": hourly. A little sooner, since many may be due together.
const VALIDATE_EVERY: Duration = Duration::from_secs(50 * 60);
/// What Twitch did not answer is due again after so long: longer than asking about one look's tokens takes.
const VALIDATE_LEASE: Duration = Duration::from_secs(150);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Between two looks while more is due than one takes on.
const MORE_PAUSE: Duration = Duration::from_secs(1);
/// Tokens that are refreshed in a look, and so many that are validated.
const TOKENS_A_LOOK: usize = 100;
/// Tokens that Twitch is asked about at the same time.
const ASKED_AT_ONCE: usize = 10;
/// Tokens that can't be opened and are named in the log.
const NAMED_MAX: usize = 100;

impl Twitch {
    /// Keeps tokens valid, for as long as the instance runs. `ended` is told whose sign-in has ended.
    pub async fn keep_tokens(&self, ended: impl AsyncFn(&Owner)) {
        let mut unopenable = Unopenable::default();
        let mut failing = false;
        loop {
            let looked = self.look_after_tokens(&mut unopenable, &ended).await;
            match &looked {
                Err(error) if !failing => tracing::warn!(%error, "tokens of Twitch can't be kept up"),
                Ok(_) if failing => tracing::info!("tokens of Twitch are kept up again"),
                _ => {}
            }
            failing = looked.is_err();
            let more = looked.is_ok_and(|settled| settled >= TOKENS_A_LOOK);
            tokio::time::sleep(if more { MORE_PAUSE } else { LOOK_EVERY }).await;
        }
    }

    /// Refreshes what ends soon, and validates what is due. Answers how many were settled by the one that settled more.
    async fn look_after_tokens(
        &self,
        unopenable: &mut Unopenable,
        ended: &impl AsyncFn(&Owner),
    ) -> Result<usize, ReconcileError> {
        let refreshed = self.refresh_expiring(unopenable, ended).await;
        let validated = self.validate_due(unopenable, ended).await;
        Ok(refreshed?.max(validated?))
    }

    /// Refreshes what ends soon. Answers of how many it is known what became of them.
    async fn refresh_expiring(
        &self,
        unopenable: &mut Unopenable,
        ended: &impl AsyncFn(&Owner),
    ) -> Result<usize, ReconcileError> {
        let (mut settled, mut failed) = (0, Ok(()));
        for _ in 0..TOKENS_A_LOOK {
            // One at a time, so that no lease lapses while others are refreshed.
            let expiring = self.journal.take_expiring_tokens(AHEAD, REFRESH_LEASE, 1).await?;
            let Some(token) = expiring.into_iter().next() else { break };
            match self.refresh_token(&token, ended).await {
                Ok(()) => settled += 1,
                Err(ReconcileError::Keyring(error)) => unopenable.tell(&token, &error),
                Err(error) => {
                    let stops = fails_for_all(&error);
                    failed = Err(error);
                    if stops {
                        break;
                    }
                }
            }
        }
        failed.map(|()| settled)
    }

    /// Refreshes a token that was taken on.
    async fn refresh_token(
        &self,
        taken: &StoredToken,
        ended: &impl AsyncFn(&Owner),
    ) -> Result<(), ReconcileError> {
        if self.vault.refresh(taken).await? == Refreshed::Ended {
            self.say_ended(taken, ended).await;
        }
        Ok(())
    }

    /// Asks Twitch about tokens that were not asked about for long; one that is not valid any more is refreshed at once.
    /// Answers of how many it is known what became of them.
    async fn validate_due(
        &self,
        unopenable: &mut Unopenable,
        ended: &impl AsyncFn(&Owner),
    ) -> Result<usize, ReconcileError> {
        let limit = TOKENS_A_LOOK as i64;
        let due = self.journal.take_unvalidated_tokens(VALIDATE_EVERY, VALIDATE_LEASE, limit).await?;
        let mut settled = 0;
        let mut failed: Result<(), ReconcileError> = Ok(());
        for tokens in due.chunks(ASKED_AT_ONCE) {
            let answers = join_all(tokens.iter().map(|token| self.validate_token(token))).await;
            let answered = || tokens.iter().zip(&answers);
            let valid: Vec<&StoredToken> =
                answered().filter(|(_, answer)| answer.is_ok()).map(|(token, _)| token).collect();
            // Noted after Twitch has answered: what is not noted is soon due again.
            self.journal.note_validated(&valid).await?;
            settled += valid.len();
            for (token, answer) in answered() {
                let done = match answer {
                    Ok(()) => continue,
                    Err(ReconcileError::Twitch(TwitchError::Unauthorized(_))) => {
                        self.refresh_refused(token, ended).await
                    }
                    Err(error) => Err(error.clone()),
                };
                match done {
                    Ok(()) => settled += 1,
                    Err(ReconcileError::Keyring(error)) => unopenable.tell(token, &error),
                    Err(error) => failed = Err(error),
                }
            }
            if failed.as_ref().is_err_and(fails_for_all) {
                break;
            }
        }
        failed.map(|()| settled)
    }

    /// Asks Twitch whether a token is still valid.
    async fn validate_token(&self, token: &StoredToken) -> Result<(), ReconcileError> {
        self.client.validate(&self.vault.open_access(token)?).await?;
        Ok(())
    }

    /// Refreshes a token that Twitch does not accept, unless somebody else does, or has.
    async fn refresh_refused(
        &self,
        token: &StoredToken,
        ended: &impl AsyncFn(&Owner),
    ) -> Result<(), ReconcileError> {
        match self.journal.take_token(&token.owner, token.generation, REFRESH_LEASE).await? {
            Some(taken) => self.refresh_token(&taken, ended).await,
            None => Ok(()),
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

/// Whether what failed for one token fails for the others as well, just now.
fn fails_for_all(error: &ReconcileError) -> bool {
    matches!(
        error,
        ReconcileError::Journal(_)
            | ReconcileError::Twitch(TwitchError::Away(_) | TwitchError::Limited { .. })
    )
}

/// Tokens that can't be opened and were named in the log, with their generations.
#[derive(Default)]
struct Unopenable(BTreeSet<(Owner, i64)>);

impl Unopenable {
    /// Says whose token can't be opened, and what to do, unless that was said.
    fn tell(&mut self, token: &StoredToken, error: &KeyringError) {
        if !self.is_news(token) {
            return;
        }
        let (owner, login) = (token.owner.row(), &token.login);
        tracing::error!(
            owner,
            login,
            %error,
            "a stored token can't be opened: put the key that it was encrypted with back into \
             security.encryption_keys, or have its owner sign in again"
        );
        if self.0.len() == NAMED_MAX {
            tracing::error!("that many stored tokens can't be opened; others are not named any more");
        }
    }

    fn is_news(&mut self, token: &StoredToken) -> bool {
        self.0.len() < NAMED_MAX && self.0.insert((token.owner.clone(), token.generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Millis;

    fn token(id: usize, generation: i64) -> StoredToken {
        StoredToken {
            owner: Owner::channel(id.to_string()),
            login: "somebody".into(),
            scopes: Vec::new(),
            access: Vec::new(),
            refresh: Vec::new(),
            expires_at: Millis(0),
            invalid: None,
            generation,
            key_id: "k1".into(),
        }
    }

    #[test]
    fn who_has_a_token_that_does_not_open_is_named_once_for_each_token_and_of_many_some_are() {
        let mut unopenable = Unopenable::default();
        assert!(unopenable.is_news(&token(0, 1)));
        assert!(!unopenable.is_news(&token(0, 1)));
        assert!(unopenable.is_news(&token(0, 2)), "signing in again brought another one");
        assert_eq!((0..500).filter(|id| unopenable.is_news(&token(*id, 3))).count(), NAMED_MAX - 2);
    }

    #[test]
    fn twitch_being_away_ends_a_look_and_one_refused_token_does_not() {
        let limited = TwitchError::Limited { wait: Duration::from_secs(1) };
        for error in [TwitchError::Away("no route".into()), limited] {
            assert!(fails_for_all(&error.into()));
        }
        let refused = TwitchError::Refused { status: 400, message: "why".into(), id: None };
        assert!(!fails_for_all(&refused.into()));
        assert!(!fails_for_all(&KeyringError::Broken.into()));
    }
}
