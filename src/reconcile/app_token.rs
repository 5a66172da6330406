//! The application's own token: got when it is first needed, renewed before it ends and when Twitch refuses it. It has
//! no refresh token; another is had for the asking.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::twitch::client::{Client, TwitchError};
use crate::twitch::oauth::AccessToken;

/// Renewed so long before it ends, or after half of a shorter life.
const AHEAD: Duration = Duration::from_secs(600);

/// The application's token, shared by all who call Twitch in its name.
pub struct AppToken {
    client: Client,
    current: Mutex<Option<Current>>,
}

struct Current {
    access: AccessToken,
    renew_at: Instant,
}

impl AppToken {
    pub fn new(client: Client) -> AppToken {
        AppToken { client, current: Mutex::new(None) }
    }

    /// A token that is valid as far as is known. Who asks meanwhile waits for the same one.
    ///
    /// # Errors
    /// [`TwitchError`] when there is none to be had.
    pub async fn get(&self) -> Result<AccessToken, TwitchError> {
        let mut current = self.current.lock().await;
        if let Some(known) = current.as_ref().filter(|known| Instant::now() < known.renew_at) {
            return Ok(known.access.clone());
        }
        let grant = self.client.app_grant().await?;
        let life = grant.expires_in.saturating_sub(AHEAD).max(grant.expires_in / 2);
        *current = Some(Current { access: grant.access.clone(), renew_at: Instant::now() + life });
        Ok(grant.access)
    }

    /// Calls Twitch with the token, and once more with a new one if Twitch says that it is not valid.
    ///
    /// # Errors
    /// [`TwitchError`] of the call, or of getting a token.
    pub async fn call<T>(
        &self,
        call: impl AsyncFn(&AccessToken) -> Result<T, TwitchError>,
    ) -> Result<T, TwitchError> {
        let token = self.get().await?;
        match call(&token).await {
            Err(TwitchError::Unauthorized(_)) => {
                self.refused(&token).await;
                call(&self.get().await?).await
            }
            answered => answered,
        }
    }

    async fn refused(&self, token: &AccessToken) {
        let mut current = self.current.lock().await;
        // Somebody else may have got a new one already.
        current.take_if(|known| known.access.secret().expose() == token.secret().expose());
    }
}
