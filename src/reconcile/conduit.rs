//! The conduit that notifications come through: found again or made, its shards led to this deployment.
//!
//! Source: Twitch, "Handling conduit events".

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::{Delivery, ReconcileError, Twitch};
use crate::twitch::client::TwitchError;
use crate::twitch::helix::{Conduit, NewSubscription, Shard, ShardTransport};

/// Shards that one request can change.
const SHARDS_A_REQUEST: usize = 100;

/// What the application hears of besides its streamers' channels, with the version and what the condition names.
pub(super) const APPLICATION_KINDS: [&str; 2] = ["user.authorization.revoke", "conduit.shard.disabled"];

impl Twitch {
    /// The conduit of this deployment, with as many shards as it should have; makes one if there is none. What went
    /// through another one is requested again.
    ///
    /// # Errors
    /// [`ReconcileError`] when Twitch or PostgreSQL is away, or Twitch refuses.
    pub async fn ensure_conduit(&self) -> Result<String, ReconcileError> {
        let known = self.journal.conduit(self.client.client_id()).await?;
        let there = self.app.call(async |token| self.client.conduits(token).await).await?;
        let conduit = match there.iter().find(|conduit| Some(&conduit.id) == known.as_ref()).cloned() {
            Some(conduit) => conduit,
            None => match self.idle_conduit(&there).await? {
                Some(conduit) => conduit,
                None => self.make_conduit(known.as_deref()).await?,
            },
        };
        if conduit.shard_count != self.options.shards {
            let resize =
                async |token: &_| self.client.resize_conduit(token, &conduit.id, self.options.shards).await;
            self.app.call(resize).await?;
        }
        // That looks through all subscriptions for those of another one.
        if known.as_ref() != Some(&conduit.id) {
            self.journal.note_conduit(self.client.client_id(), &conduit.id).await?;
        }
        Ok(conduit.id)
    }

    /// A conduit that leads nowhere: one that was made, but of which nobody could note that it was. Twitch allows five.
    async fn idle_conduit(&self, there: &[Conduit]) -> Result<Option<Conduit>, ReconcileError> {
        for conduit in there {
            let shards =
                self.app.call(async |token: &_| self.client.shards(token, &conduit.id).await).await?;
            if !shards.iter().any(Shard::is_enabled) {
                return Ok(Some(conduit.clone()));
            }
        }
        Ok(None)
    }

    async fn make_conduit(&self, gone: Option<&str>) -> Result<Conduit, ReconcileError> {
        let shards = self.options.shards;
        let made = self.app.call(async |token| self.client.create_conduit(token, shards).await).await?;
        match gone {
            Some(gone) => {
                tracing::warn!(gone, conduit = made.id, "the conduit is gone at Twitch; made another")
            }
            None => tracing::info!(conduit = made.id, shards, "made a conduit at Twitch"),
        }
        Ok(made)
    }

    /// Leads shards of the conduit here: those that don't work, and all of them when they were given another callback or
    /// secret last. Twitch asks the callback to prove itself, and enables a shard then; till then it drops what would go
    /// through it, so one that works is left alone. Answers how many it would not take.
    ///
    /// # Errors
    /// [`ReconcileError`] when Twitch or PostgreSQL is away, or Twitch refuses.
    pub async fn lead_shards_here(&self, conduit_id: &str) -> Result<usize, ReconcileError> {
        // Who holds a session attaches its shard.
        let Delivery::Webhook { callback, secret } = &self.options.delivery else { return Ok(0) };
        let transport = || ShardTransport::Webhook { callback: callback.clone(), secret: secret.clone() };
        let digest: [u8; 32] = Sha256::new()
            .chain_update(callback)
            .chain_update([0])
            .chain_update(secret.expose())
            .finalize()
            .into();
        let leads_here = |shard: &&Shard| shard.is_enabled() && shard.callback.as_ref() == Some(callback);
        let mut ids: Vec<String> = (0..self.options.shards).map(|id| id.to_string()).collect();
        if self.journal.is_conduit_led_to(conduit_id, &digest).await? {
            let shards = self.app.call(async |token: &_| self.client.shards(token, conduit_id).await).await?;
            let works: BTreeSet<&str> =
                shards.iter().filter(|shard| leads_here(shard)).map(|shard| shard.id.as_str()).collect();
            ids.retain(|id| !works.contains(id.as_str()));
        }
        let mut refused = 0;
        for ids in ids.chunks(SHARDS_A_REQUEST) {
            let shards: Vec<(String, ShardTransport)> =
                ids.iter().map(|id| (id.clone(), transport())).collect();
            let update = async |token: &_| self.client.update_shards(token, conduit_id, &shards).await;
            for error in self.app.call(update).await? {
                refused += 1;
                tracing::warn!(
                    shard = error.id,
                    code = error.code,
                    reason = error.message,
                    "Twitch refused to lead a shard here"
                );
            }
        }
        if refused == 0 {
            self.journal.note_conduit_led_to(conduit_id, &digest).await?;
        }
        Ok(refused)
    }

    /// Subscribes to what concerns the application itself.
    ///
    /// # Errors
    /// [`ReconcileError`] when Twitch is away or refuses.
    pub async fn ensure_application_subscriptions(&self, conduit_id: &str) -> Result<(), ReconcileError> {
        for kind in APPLICATION_KINDS {
            let client_id = ("client_id".to_owned(), self.client.client_id().to_owned());
            let wanted = NewSubscription {
                kind: kind.into(),
                version: "1".into(),
                condition: BTreeMap::from([client_id]),
                conduit_id: conduit_id.to_owned(),
            };
            let create = async |token: &_| self.client.create_subscription(token, &wanted).await;
            match self.app.call(create).await {
                Ok(_) | Err(TwitchError::Refused { status: 409, .. }) => {}
                // Chats go on without it; it is asked for again when the lists are compared.
                Err(error @ TwitchError::Refused { .. }) => {
                    tracing::warn!(kind, %error, "Twitch refuses a subscription of the application itself");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
