//! What the actors need of the world, as small ports: a journal, a hot state, a queue for votes.
//! [`crate::journal::Journal`], [`crate::hot::Hot`] and [`crate::hot::spill::Spill`] are what stands
//! behind them in an instance; the simulation puts others there.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::domain::holders::Holders;
use crate::domain::time::Millis;
use crate::domain::vote::NewVote;
use crate::hot::changes::{Changes, Cursor, Pulse};
use crate::hot::debounce::{Claim, Claimed};
use crate::hot::keys::Bucket;
use crate::hot::mirror::{HotSession, MirrorEntry, Mirrored};
use crate::hot::refs::Mark;
use crate::hot::spill::{Depth, Failed, Spill, Spilled};
use crate::hot::{Hot, HotError};
use crate::journal::sessions::{
    DirectoryCursor, EndedSession, Entry, Held, Hold, IfLocked, Lease, LiveDigest, LiveVersions,
};
use crate::journal::votes::{AppendAnswer, SessionHead};
use crate::journal::{Journal, JournalError};

/// The truth. Each method is described at [`Journal`].
#[async_trait]
pub trait JournalPort: Send + Sync {
    fn instance_id(&self) -> Uuid;
    async fn ping(&self) -> Result<(), JournalError>;
    async fn append_votes(&self, votes: &[NewVote], batch_id: &str) -> Result<AppendAnswer, JournalError>;
    async fn append_drained(&self, votes: &[NewVote], batch_id: &str) -> Result<AppendAnswer, JournalError>;
    async fn hold_overlays(
        &self,
        wanted: &[Hold],
        lease: Duration,
        locked: IfLocked,
    ) -> Result<Vec<Option<Held>>, JournalError>;
    async fn hold_streamers(
        &self,
        wanted: &[Hold],
        lease: Duration,
        locked: IfLocked,
    ) -> Result<Vec<Option<Held>>, JournalError>;
    async fn holders(&self, streamer_ids: &[Uuid]) -> Result<Vec<Holders>, JournalError>;
    async fn release(&self, streamer_id: Uuid) -> Result<Option<Holders>, JournalError>;
    async fn leave(&self) -> Result<Vec<Holders>, JournalError>;
    async fn held(&self) -> Result<Vec<Uuid>, JournalError>;
    async fn renew_lease(&self, lease: Duration, unbroken: bool) -> Result<Lease, JournalError>;
    async fn drop_lapsed(&self) -> Result<Vec<Holders>, JournalError>;
    async fn end_orphans(
        &self,
        streamer_ids: Option<&[Uuid]>,
        orphan: Duration,
    ) -> Result<Vec<EndedSession>, JournalError>;
    async fn directory_since(
        &self,
        cursor: Option<DirectoryCursor>,
    ) -> Result<(Vec<Entry>, DirectoryCursor), JournalError>;
    async fn entries(&self, streamer_ids: &[Uuid]) -> Result<Vec<Entry>, JournalError>;
    async fn live_broadcasters(&self, twitch_user_ids: &[String]) -> Result<Vec<Entry>, JournalError>;
    async fn newer_heads(&self, known: &[(Uuid, i64)]) -> Result<Vec<SessionHead>, JournalError>;
    async fn announce(&self, streamer_ids: &[Uuid]) -> Result<(), JournalError>;
    async fn live_digest(&self) -> Result<LiveDigest, JournalError>;
    async fn live_versions(&self) -> Result<Vec<LiveVersions>, JournalError>;
}

/// What may be forgotten. Each method is described at [`Hot`].
#[async_trait]
pub trait HotPort: Send + Sync {
    fn is_up(&self) -> bool;
    async fn probe(&self) -> Result<(), HotError>;
    async fn used_memory(&self) -> Result<u64, HotError>;
    async fn are_live(&self, twitch_user_ids: &[String]) -> Result<Vec<bool>, HotError>;
    async fn claim(&self, claims: &[Claim<'_>]) -> Result<Vec<Claimed>, HotError>;
    async fn release_claims(&self, claims: &[Claim<'_>]) -> Result<(), HotError>;
    async fn mirror(&self, entries: &[MirrorEntry<'_>]) -> Result<Vec<Mirrored>, HotError>;
    async fn note_holders(&self, holders: &[Holders]) -> Result<Vec<Mirrored>, HotError>;
    async fn pulse(&self) -> Result<Pulse, HotError>;
    async fn changes_since(&self, cursors: &[(Bucket, Cursor)]) -> Result<Vec<Changes>, HotError>;
    async fn read_all(&self, streamer_ids: &[Uuid], now: Millis)
    -> Result<Vec<Option<HotSession>>, HotError>;
    async fn marks(&self, streamer_ids: &[Uuid]) -> Result<Vec<Option<Mark>>, HotError>;
    async fn discard(&self, streamer_id: Uuid) -> Result<(), HotError>;
    async fn orphans(&self, since: Millis) -> Result<Vec<Uuid>, HotError>;
    async fn forget_orphan(&self, streamer_id: Uuid) -> Result<(), HotError>;
    async fn remove(&self, streamer_id: Uuid, ordinal: i64) -> Result<bool, HotError>;
}

/// Where votes wait while the journal is away. Each method is described at [`Spill`].
#[async_trait]
pub trait SpillPort: Send + Sync {
    fn is_durable(&self) -> bool;
    fn is_fleeting(&self) -> bool;
    async fn probe(&self) -> Result<Depth, HotError>;
    async fn push(&self, votes: &[NewVote]) -> Result<(), HotError>;
    async fn take(&self, limit: usize) -> Result<Vec<Spilled>, HotError>;
    async fn settle(&self, ids: &[String]) -> Result<(), HotError>;
    async fn fail(&self, id: &str, reason: &str) -> Result<Failed, HotError>;
}

#[async_trait]
impl JournalPort for Journal {
    fn instance_id(&self) -> Uuid {
        Journal::instance_id(self)
    }

    async fn ping(&self) -> Result<(), JournalError> {
        Journal::ping(self).await
    }

    async fn append_votes(&self, votes: &[NewVote], batch_id: &str) -> Result<AppendAnswer, JournalError> {
        Journal::append_votes(self, votes, batch_id).await
    }

    async fn append_drained(&self, votes: &[NewVote], batch_id: &str) -> Result<AppendAnswer, JournalError> {
        Journal::append_drained(self, votes, batch_id).await
    }

    async fn hold_overlays(
        &self,
        wanted: &[Hold],
        lease: Duration,
        locked: IfLocked,
    ) -> Result<Vec<Option<Held>>, JournalError> {
        Journal::hold_overlays(self, wanted, lease, locked).await
    }

    async fn hold_streamers(
        &self,
        wanted: &[Hold],
        lease: Duration,
        locked: IfLocked,
    ) -> Result<Vec<Option<Held>>, JournalError> {
        Journal::hold_streamers(self, wanted, lease, locked).await
    }

    async fn holders(&self, streamer_ids: &[Uuid]) -> Result<Vec<Holders>, JournalError> {
        Journal::holders(self, streamer_ids).await
    }

    async fn release(&self, streamer_id: Uuid) -> Result<Option<Holders>, JournalError> {
        Journal::release(self, streamer_id).await
    }

    async fn leave(&self) -> Result<Vec<Holders>, JournalError> {
        Journal::leave(self).await
    }

    async fn held(&self) -> Result<Vec<Uuid>, JournalError> {
        Journal::held(self).await
    }

    async fn renew_lease(&self, lease: Duration, unbroken: bool) -> Result<Lease, JournalError> {
        Journal::renew_lease(self, lease, unbroken).await
    }

    async fn drop_lapsed(&self) -> Result<Vec<Holders>, JournalError> {
        Journal::drop_lapsed(self).await
    }

    async fn end_orphans(
        &self,
        streamer_ids: Option<&[Uuid]>,
        orphan: Duration,
    ) -> Result<Vec<EndedSession>, JournalError> {
        Journal::end_orphans(self, streamer_ids, orphan).await
    }

    async fn directory_since(
        &self,
        cursor: Option<DirectoryCursor>,
    ) -> Result<(Vec<Entry>, DirectoryCursor), JournalError> {
        Journal::directory_since(self, cursor).await
    }

    async fn entries(&self, streamer_ids: &[Uuid]) -> Result<Vec<Entry>, JournalError> {
        Journal::entries(self, streamer_ids).await
    }

    async fn live_broadcasters(&self, twitch_user_ids: &[String]) -> Result<Vec<Entry>, JournalError> {
        Journal::live_broadcasters(self, twitch_user_ids).await
    }

    async fn newer_heads(&self, known: &[(Uuid, i64)]) -> Result<Vec<SessionHead>, JournalError> {
        Journal::newer_heads(self, known).await
    }

    async fn announce(&self, streamer_ids: &[Uuid]) -> Result<(), JournalError> {
        Journal::announce(self, streamer_ids).await
    }

    async fn live_digest(&self) -> Result<LiveDigest, JournalError> {
        Journal::live_digest(self).await
    }

    async fn live_versions(&self) -> Result<Vec<LiveVersions>, JournalError> {
        Journal::live_versions(self).await
    }
}

#[async_trait]
impl HotPort for Hot {
    fn is_up(&self) -> bool {
        Hot::is_up(self)
    }

    async fn probe(&self) -> Result<(), HotError> {
        Hot::probe(self).await
    }

    async fn used_memory(&self) -> Result<u64, HotError> {
        Hot::used_memory(self).await
    }

    async fn are_live(&self, twitch_user_ids: &[String]) -> Result<Vec<bool>, HotError> {
        Hot::are_live(self, twitch_user_ids).await
    }

    async fn claim(&self, claims: &[Claim<'_>]) -> Result<Vec<Claimed>, HotError> {
        Hot::claim(self, claims).await
    }

    async fn release_claims(&self, claims: &[Claim<'_>]) -> Result<(), HotError> {
        Hot::release_claims(self, claims).await
    }

    async fn mirror(&self, entries: &[MirrorEntry<'_>]) -> Result<Vec<Mirrored>, HotError> {
        Hot::mirror(self, entries).await
    }

    async fn note_holders(&self, holders: &[Holders]) -> Result<Vec<Mirrored>, HotError> {
        Hot::note_holders(self, holders).await
    }

    async fn pulse(&self) -> Result<Pulse, HotError> {
        Hot::pulse(self).await
    }

    async fn changes_since(&self, cursors: &[(Bucket, Cursor)]) -> Result<Vec<Changes>, HotError> {
        Hot::changes_since(self, cursors).await
    }

    async fn read_all(
        &self,
        streamer_ids: &[Uuid],
        now: Millis,
    ) -> Result<Vec<Option<HotSession>>, HotError> {
        Hot::read_all(self, streamer_ids, now).await
    }

    async fn marks(&self, streamer_ids: &[Uuid]) -> Result<Vec<Option<Mark>>, HotError> {
        Hot::marks(self, streamer_ids).await
    }

    async fn discard(&self, streamer_id: Uuid) -> Result<(), HotError> {
        Hot::discard(self, streamer_id).await
    }

    async fn orphans(&self, since: Millis) -> Result<Vec<Uuid>, HotError> {
        Hot::orphans(self, since).await
    }

    async fn forget_orphan(&self, streamer_id: Uuid) -> Result<(), HotError> {
        Hot::forget_orphan(self, streamer_id).await
    }

    async fn remove(&self, streamer_id: Uuid, ordinal: i64) -> Result<bool, HotError> {
        Hot::remove(self, streamer_id, ordinal).await
    }
}

#[async_trait]
impl SpillPort for Spill {
    fn is_durable(&self) -> bool {
        Spill::is_durable(self)
    }

    fn is_fleeting(&self) -> bool {
        Spill::is_fleeting(self)
    }

    async fn probe(&self) -> Result<Depth, HotError> {
        Spill::probe(self).await
    }

    async fn push(&self, votes: &[NewVote]) -> Result<(), HotError> {
        Spill::push(self, votes).await
    }

    async fn take(&self, limit: usize) -> Result<Vec<Spilled>, HotError> {
        Spill::take(self, limit).await
    }

    async fn settle(&self, ids: &[String]) -> Result<(), HotError> {
        Spill::settle(self, ids).await
    }

    async fn fail(&self, id: &str, reason: &str) -> Result<Failed, HotError> {
        Spill::fail(self, id, reason).await
    }
}
