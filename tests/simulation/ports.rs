//! The ports of one instance: every call goes over the [`Network`] to the world.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chatpulse::actors::ports::{HotPort, JournalPort, SpillPort};
use chatpulse::actors::services::Ports;
use chatpulse::domain::holders::Holders;
use chatpulse::domain::streamer;
use chatpulse::domain::time::Millis;
use chatpulse::domain::vote::NewVote;
use chatpulse::hot::HotError;
use chatpulse::hot::changes::{Changes, Cursor, Pulse};
use chatpulse::hot::debounce::{Claim, Claimed};
use chatpulse::hot::keys::Bucket;
use chatpulse::hot::mirror::{HotSession, MirrorEntry, Mirrored};
use chatpulse::hot::refs::Mark;
use chatpulse::hot::spill::{Depth, Failed, Spilled};
use chatpulse::journal::JournalError;
use chatpulse::journal::sessions::{
    DirectoryCursor, EndedSession, Entry, Held, Hold, IfLocked, Lease, LiveDigest, LiveVersions,
};
use chatpulse::journal::votes::{AppendAnswer, SessionHead};
use uuid::Uuid;

use super::network::{Lost, Network, Server};
use super::world::hot::{HotAnswer, HotCall, OwnedClaim, State};
use super::world::journal::{JournalAnswer, JournalCall, Targets};
use super::world::queue::{QueueAnswer, QueueCall};

/// So many failures in a row, and a server is not asked until a probe finds it.
const FAILURES_MAX: u32 = 2;

/// The world as one instance reaches it.
#[derive(Clone)]
pub struct Line {
    pub network: Network,
    pub instance: Uuid,
    hot_failures: Arc<AtomicU32>,
    queue_durable: Arc<AtomicBool>,
}

/// Takes the answer that belongs to a question.
macro_rules! expect_answer {
    ($answer:expr, $pattern:pat => $value:expr) => {
        match $answer {
            $pattern => Ok($value),
            other => unreachable!("an answer to another question: {other:?}"),
        }
    };
}

impl Line {
    /// The line of an instance.
    pub fn new(network: &Network, instance: Uuid) -> Line {
        Line {
            network: network.clone(),
            instance,
            hot_failures: Arc::default(),
            queue_durable: Arc::default(),
        }
    }

    /// This line as an instance's ports.
    pub fn ports(&self) -> Ports {
        let line = Arc::new(self.clone());
        Ports {
            journal: Arc::clone(&line) as _,
            vote_journal: Arc::clone(&line) as _,
            hot: Arc::clone(&line) as _,
            spill: Some(line as _),
        }
    }

    /// Appends one event to a streamer's stream, as the admin API does.
    ///
    /// # Errors
    /// [`JournalError`] when it is not known what became of it.
    pub async fn change(
        &self,
        streamer_id: Uuid,
        expected_version: i64,
        event: streamer::Event,
    ) -> Result<bool, JournalError> {
        let call = JournalCall::Change { streamer_id, expected_version, event };
        expect_answer!(self.journal(call).await?, JournalAnswer::Changed(done) => done)
    }

    /// Puts a streamer's session back to the middle, as the admin API does.
    ///
    /// # Errors
    /// [`JournalError`] when it is not known what became of it.
    pub async fn reset(&self, streamer_id: Uuid) -> Result<bool, JournalError> {
        expect_answer!(self.journal(JournalCall::Reset(streamer_id)).await?, JournalAnswer::Changed(done) => done)
    }

    async fn journal(&self, call: JournalCall) -> Result<JournalAnswer, JournalError> {
        let (instance, network) = (self.instance, self.network.clone());
        let effect = move |world: &mut super::world::World| world.journal(instance, &call);
        let (answer, notices) =
            self.network.pass(instance, Server::Journal, effect).await.map_err(|lost| match lost {
                Lost::TimedOut(limit) => JournalError::Away(format!("no answer within {limit:?}")),
                Lost::Broken => JournalError::Away("the connection broke".into()),
            })?;
        network.notify(&notices);
        Ok(answer)
    }

    async fn hold(
        &self,
        targets: Targets,
        wanted: &[Hold],
        lease: Duration,
    ) -> Result<Vec<Option<Held>>, JournalError> {
        // Ids and keys by this run's seed.
        let own =
            |hold: &Hold| Hold { whose: hold.whose, session_id: self.network.id(), key: self.network.key() };
        let call = JournalCall::Hold { targets, lease, wanted: wanted.iter().map(own).collect() };
        expect_answer!(self.journal(call).await?, JournalAnswer::Held(held) => held)
    }

    async fn ask_hot(&self, call: HotCall) -> Result<HotAnswer, HotError> {
        let instance = self.instance;
        if self.network.is_full() && call.takes_memory() {
            let reason = "OOM command not allowed when used memory > 'maxmemory'";
            return Err(HotError::Server(reason.into()));
        }
        let effect = move |world: &mut super::world::World| world.hot(instance, &call);
        let answer = self.network.pass(instance, Server::Hot, effect).await;
        match answer {
            Ok(answer) => {
                self.hot_failures.store(0, Ordering::Relaxed);
                Ok(answer)
            }
            Err(lost) => {
                self.hot_failures.fetch_add(1, Ordering::Relaxed);
                Err(hot_error(lost))
            }
        }
    }

    async fn hot(&self, call: HotCall) -> Result<HotAnswer, HotError> {
        if !HotPort::is_up(self) {
            return Err(HotError::Away);
        }
        self.ask_hot(call).await
    }

    async fn queue(&self, call: QueueCall) -> Result<QueueAnswer, HotError> {
        let instance = self.instance;
        let effect = move |world: &mut super::world::World| world.queue(instance, &call);
        let answer = self.network.pass(instance, Server::Queue, effect).await;
        self.queue_durable.store(answer.is_ok(), Ordering::Relaxed);
        answer.map_err(hot_error)
    }
}

fn hot_error(lost: Lost) -> HotError {
    match lost {
        Lost::TimedOut(limit) => HotError::TimedOut { limit_ms: limit.as_millis() },
        Lost::Broken => HotError::Connection("the connection broke".into()),
    }
}

fn owned(claims: &[Claim<'_>]) -> Vec<OwnedClaim> {
    let own = |claim: &Claim<'_>| OwnedClaim {
        streamer_id: claim.streamer_id,
        viewer: claim.viewer.to_owned(),
        message_id: claim.message_id.to_owned(),
        ttl_ms: claim.ttl_ms,
    };
    claims.iter().map(own).collect()
}

#[async_trait]
impl JournalPort for Line {
    fn instance_id(&self) -> Uuid {
        self.instance
    }

    async fn ping(&self) -> Result<(), JournalError> {
        self.journal(JournalCall::Ping).await.map(|_| ())
    }

    async fn append_votes(&self, votes: &[NewVote], _: &str) -> Result<AppendAnswer, JournalError> {
        let call = JournalCall::Append { votes: votes.to_vec(), drained: false };
        expect_answer!(self.journal(call).await?, JournalAnswer::Appended(answer) => answer)
    }

    async fn append_drained(&self, votes: &[NewVote], _: &str) -> Result<AppendAnswer, JournalError> {
        let call = JournalCall::Append { votes: votes.to_vec(), drained: true };
        expect_answer!(self.journal(call).await?, JournalAnswer::Appended(answer) => answer)
    }

    async fn hold_overlays(
        &self,
        wanted: &[Hold],
        lease: Duration,
        _: IfLocked,
    ) -> Result<Vec<Option<Held>>, JournalError> {
        self.hold(Targets::Overlays, wanted, lease).await
    }

    async fn hold_streamers(
        &self,
        wanted: &[Hold],
        lease: Duration,
        _: IfLocked,
    ) -> Result<Vec<Option<Held>>, JournalError> {
        self.hold(Targets::Streamers, wanted, lease).await
    }

    async fn holders(&self, streamer_ids: &[Uuid]) -> Result<Vec<Holders>, JournalError> {
        let call = JournalCall::HoldersOf(streamer_ids.to_vec());
        expect_answer!(self.journal(call).await?, JournalAnswer::Holders(holders) => holders)
    }

    async fn release(&self, streamer_id: Uuid) -> Result<Option<Holders>, JournalError> {
        let call = JournalCall::Release(streamer_id);
        expect_answer!(self.journal(call).await?, JournalAnswer::Holders(mut holders) => holders.pop())
    }

    async fn leave(&self) -> Result<Vec<Holders>, JournalError> {
        expect_answer!(self.journal(JournalCall::Leave).await?, JournalAnswer::Holders(holders) => holders)
    }

    async fn held(&self) -> Result<Vec<Uuid>, JournalError> {
        expect_answer!(self.journal(JournalCall::Held).await?, JournalAnswer::Streamers(held) => held)
    }

    async fn renew_lease(&self, lease: Duration, unbroken: bool) -> Result<Lease, JournalError> {
        let call = JournalCall::Renew { lease, unbroken };
        expect_answer!(self.journal(call).await?, JournalAnswer::Lease(lease) => lease)
    }

    async fn drop_lapsed(&self) -> Result<Vec<Holders>, JournalError> {
        expect_answer!(self.journal(JournalCall::DropLapsed).await?, JournalAnswer::Holders(holders) => holders)
    }

    async fn end_orphans(
        &self,
        streamer_ids: Option<&[Uuid]>,
        orphan: Duration,
    ) -> Result<Vec<EndedSession>, JournalError> {
        let call = JournalCall::EndOrphans { streamers: streamer_ids.map(<[Uuid]>::to_vec), orphan };
        expect_answer!(self.journal(call).await?, JournalAnswer::Ended(ended) => ended)
    }

    async fn directory_since(
        &self,
        cursor: Option<DirectoryCursor>,
    ) -> Result<(Vec<Entry>, DirectoryCursor), JournalError> {
        let call = JournalCall::DirectorySince(cursor);
        expect_answer!(self.journal(call).await?, JournalAnswer::Directory(entries, next) => (entries, next))
    }

    async fn entries(&self, streamer_ids: &[Uuid]) -> Result<Vec<Entry>, JournalError> {
        let call = JournalCall::Entries(streamer_ids.to_vec());
        expect_answer!(self.journal(call).await?, JournalAnswer::Entries(entries) => entries)
    }

    async fn live_broadcasters(&self, twitch_user_ids: &[String]) -> Result<Vec<Entry>, JournalError> {
        let call = JournalCall::LiveBroadcasters(twitch_user_ids.to_vec());
        expect_answer!(self.journal(call).await?, JournalAnswer::Entries(entries) => entries)
    }

    async fn newer_heads(&self, known: &[(Uuid, i64)]) -> Result<Vec<SessionHead>, JournalError> {
        let call = JournalCall::NewerHeads(known.to_vec());
        expect_answer!(self.journal(call).await?, JournalAnswer::Heads(heads) => heads)
    }

    async fn announce(&self, streamer_ids: &[Uuid]) -> Result<(), JournalError> {
        self.journal(JournalCall::Announce(streamer_ids.to_vec())).await.map(|_| ())
    }

    async fn live_digest(&self) -> Result<LiveDigest, JournalError> {
        expect_answer!(self.journal(JournalCall::Digest).await?, JournalAnswer::Digest(digest) => digest)
    }

    async fn live_versions(&self) -> Result<Vec<LiveVersions>, JournalError> {
        expect_answer!(self.journal(JournalCall::Versions).await?, JournalAnswer::Versions(versions) => versions)
    }
}

#[async_trait]
impl HotPort for Line {
    fn is_up(&self) -> bool {
        self.hot_failures.load(Ordering::Relaxed) < FAILURES_MAX
    }

    async fn probe(&self) -> Result<(), HotError> {
        self.ask_hot(HotCall::Probe).await.map(|_| ())
    }

    async fn used_memory(&self) -> Result<u64, HotError> {
        Ok(0)
    }

    async fn are_live(&self, twitch_user_ids: &[String]) -> Result<Vec<bool>, HotError> {
        Ok(vec![false; twitch_user_ids.len()])
    }

    async fn claim(&self, claims: &[Claim<'_>]) -> Result<Vec<Claimed>, HotError> {
        expect_answer!(self.hot(HotCall::Claim(owned(claims))).await?, HotAnswer::Claimed(claimed) => claimed)
    }

    async fn release_claims(&self, claims: &[Claim<'_>]) -> Result<(), HotError> {
        self.hot(HotCall::ReleaseClaims(owned(claims))).await.map(|_| ())
    }

    async fn mirror(&self, entries: &[MirrorEntry<'_>]) -> Result<Vec<Mirrored>, HotError> {
        let own = |entry: &MirrorEntry<'_>| State {
            session_id: entry.session_id,
            twitch_user_id: entry.twitch_user_id.to_owned(),
            session: entry.session.clone(),
            config_json: entry.config_json.to_owned(),
        };
        let call = HotCall::Mirror(entries.iter().map(own).collect());
        expect_answer!(self.hot(call).await?, HotAnswer::Written(written) => written)
    }

    async fn note_holders(&self, holders: &[Holders]) -> Result<Vec<Mirrored>, HotError> {
        let call = HotCall::NoteHolders(holders.to_vec());
        expect_answer!(self.hot(call).await?, HotAnswer::Written(written) => written)
    }

    async fn pulse(&self) -> Result<Pulse, HotError> {
        expect_answer!(self.hot(HotCall::Pulse).await?, HotAnswer::Pulse(pulse) => pulse)
    }

    async fn changes_since(&self, cursors: &[(Bucket, Cursor)]) -> Result<Vec<Changes>, HotError> {
        let call = HotCall::ChangesSince(cursors.to_vec());
        expect_answer!(self.hot(call).await?, HotAnswer::Changes(changes) => changes)
    }

    async fn read_all(&self, ids: &[Uuid], now: Millis) -> Result<Vec<Option<HotSession>>, HotError> {
        let call = HotCall::ReadAll(ids.to_vec(), now);
        expect_answer!(self.hot(call).await?, HotAnswer::Sessions(sessions) => sessions)
    }

    async fn marks(&self, streamer_ids: &[Uuid]) -> Result<Vec<Option<Mark>>, HotError> {
        let call = HotCall::Marks(streamer_ids.to_vec());
        expect_answer!(self.hot(call).await?, HotAnswer::Marks(marks) => marks)
    }

    async fn discard(&self, streamer_id: Uuid) -> Result<(), HotError> {
        self.hot(HotCall::Discard(streamer_id)).await.map(|_| ())
    }

    async fn orphans(&self, since: Millis) -> Result<Vec<Uuid>, HotError> {
        expect_answer!(self.hot(HotCall::Orphans(since)).await?, HotAnswer::Streamers(orphans) => orphans)
    }

    async fn forget_orphan(&self, streamer_id: Uuid) -> Result<(), HotError> {
        self.hot(HotCall::ForgetOrphan(streamer_id)).await.map(|_| ())
    }

    async fn remove(&self, streamer_id: Uuid, ordinal: i64) -> Result<bool, HotError> {
        let call = HotCall::Remove(streamer_id, ordinal);
        expect_answer!(self.hot(call).await?, HotAnswer::Removed(removed) => removed)
    }
}

#[async_trait]
impl SpillPort for Line {
    fn is_durable(&self) -> bool {
        self.queue_durable.load(Ordering::Relaxed)
    }

    fn is_fleeting(&self) -> bool {
        false
    }

    async fn probe(&self) -> Result<Depth, HotError> {
        expect_answer!(self.queue(QueueCall::Probe).await?, QueueAnswer::Depth(depth) => depth)
    }

    async fn push(&self, votes: &[NewVote]) -> Result<(), HotError> {
        self.queue(QueueCall::Push(votes.to_vec())).await.map(|_| ())
    }

    async fn take(&self, limit: usize) -> Result<Vec<Spilled>, HotError> {
        expect_answer!(self.queue(QueueCall::Take(limit)).await?, QueueAnswer::Taken(taken) => taken)
    }

    async fn settle(&self, ids: &[String]) -> Result<(), HotError> {
        self.queue(QueueCall::Settle(ids.to_vec())).await.map(|_| ())
    }

    async fn fail(&self, id: &str, reason: &str) -> Result<Failed, HotError> {
        let call = QueueCall::Fail(id.to_owned(), reason.to_owned());
        expect_answer!(self.queue(call).await?, QueueAnswer::Failed(failed) => failed)
    }
}
