//! Shards over WebSockets, for deployments that Twitch can't reach: each shard is held by one instance, by a lease, and
//! another one takes over when that dies.
//!
//! There is no acknowledgement that Twitch waits for: what a dying instance has taken and not journaled is lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{ReconcileError, Twitch, backoff};
use crate::twitch::helix::ShardTransport;
use crate::twitch::socket::{self, MessageKind, Reason, SocketOptions, Told};

/// Another instance takes over after so long without a sign of life.
const LEASE: Duration = Duration::from_secs(15);
/// Between two renewals of a lease, and two looks for shards that nobody holds.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Between two looks whether Twitch still sends to the session.
const ATTACHED_EVERY: Duration = Duration::from_secs(30);
/// A session's id is of use to Twitch for ten seconds before something is attached.
const ATTACH_AGAIN: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Twitch is asked to be silent for no longer.
const KEEPALIVE: Duration = Duration::from_secs(10);
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// What a session may have told before its owner hears of it.
const TOLD_MAX: usize = 256;

/// A message that came over a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub kind: MessageKind,
    /// JSON as in a webhook's body.
    pub body: Vec<u8>,
}

/// Why a shard is let go of.
enum LetGo {
    /// Another instance holds it.
    Lost,
    /// The session is over; another one is begun.
    Over(Reason),
}

impl Twitch {
    /// Holds shards that nobody else does, for as long as the instance runs. What they bring goes to `inbox`, which
    /// slows Twitch down when it is full.
    pub async fn serve_shards(self: Arc<Self>, url: String, inbox: mpsc::Sender<Arrival>) {
        let mut held: BTreeSet<u32> = BTreeSet::new();
        let mut sessions: JoinSet<u32> = JoinSet::new();
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = look.tick() => {
                    // One at a time, so that instances that start together share them.
                    if let Some(shard) = self.take_shard(&held).await {
                        held.insert(shard);
                        let (twitch, url, inbox) = (Arc::clone(&self), url.clone(), inbox.clone());
                        sessions.spawn_local(async move {
                            twitch.hold_shard(shard, &url, &inbox).await;
                            shard
                        });
                    }
                }
                Some(ended) = sessions.join_next() => match ended {
                    Ok(shard) => {
                        held.remove(&shard);
                    }
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => {
                        tracing::error!(%error, "a shard's task failed; its lease lapses, and it is taken again");
                        held.clear();
                        sessions.abort_all();
                    }
                }
            }
        }
    }

    async fn take_shard(&self, held: &BTreeSet<u32>) -> Option<u32> {
        if self.stopping.load(Ordering::Acquire) {
            return None;
        }
        for shard in (0..self.options.shards).filter(|shard| !held.contains(shard)) {
            match self.journal.take_duty(&duty(shard), LEASE).await {
                Ok(true) => return Some(shard),
                Ok(false) => {}
                // Nobody can take one then; whoever looks after the conduit says so.
                Err(_) => return None,
            }
        }
        None
    }

    /// Holds one shard, over one session after another, until another instance has it.
    async fn hold_shard(&self, shard: u32, url: &str, inbox: &mpsc::Sender<Arrival>) {
        let mut failures = 0;
        loop {
            let began = tokio::time::Instant::now();
            match self.hold_session(shard, url, inbox).await {
                LetGo::Lost => return,
                LetGo::Over(reason) => {
                    failures = if began.elapsed() > LONGEST_PAUSE { 0 } else { failures + 1 };
                    let pause = backoff(failures, FIRST_PAUSE, LONGEST_PAUSE);
                    tracing::warn!(shard, %reason, ?pause, "a shard's session is over; it begins anew");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn hold_session(&self, shard: u32, url: &str, inbox: &mpsc::Sender<Arrival>) -> LetGo {
        let options =
            SocketOptions { url: url.to_owned(), keepalive: KEEPALIVE, connect_timeout: CONNECT_MAX };
        let (tell, mut told) = mpsc::channel(TOLD_MAX);
        let session = socket::run(&options, tell, std::future::pending());
        let mut session = std::pin::pin!(session);
        let mut renew = tokio::time::interval(LOOK_EVERY);
        let mut attach = tokio::time::interval(ATTACH_AGAIN);
        let mut attachment = Attachment::default();
        let mut over = None;
        loop {
            tokio::select! {
                reason = &mut session, if over.is_none() => over = Some(reason),
                _ = renew.tick() => {
                    // While PostgreSQL is away nobody else can take it either.
                    if self.stopping.load(Ordering::Acquire) {
                        return LetGo::Lost;
                    }
                    if let Ok(false) = self.journal.take_duty(&duty(shard), LEASE).await {
                        return LetGo::Lost;
                    }
                }
                _ = attach.tick() => {
                    if let Err(error) = self.attach(shard, &mut attachment).await {
                        tracing::debug!(shard, %error, "a shard is not attached yet");
                    }
                }
                told = told.recv() => match told {
                    Some(Told::Welcome { session_id }) => {
                        attachment = Attachment { session_id: Some(session_id), ..Attachment::default() };
                        attach.reset_immediately();
                    }
                    Some(Told::Message { kind, body, .. }) => {
                        if inbox.send(Arrival { kind, body }).await.is_err() {
                            return LetGo::Lost;
                        }
                    }
                    Some(Told::Unknown(kind)) => tracing::debug!(shard, kind, "a message of Twitch is ignored"),
                    Some(Told::Ended(reason)) => return LetGo::Over(reason),
                    // All that it told is taken.
                    None => return LetGo::Over(over.unwrap_or(Reason::Stopped)),
                },
            }
        }
    }

    /// Has Twitch send the shard's notifications to the session, if it does not.
    async fn attach(&self, shard: u32, attachment: &mut Attachment) -> Result<(), ReconcileError> {
        let Some(session_id) = attachment.session_id.clone() else { return Ok(()) };
        if attachment.is_recent() {
            return Ok(());
        }
        let Some(conduit_id) = self.journal.conduit(self.client.client_id()).await? else { return Ok(()) };
        if attachment.checked_at.is_some() && self.is_attached(&conduit_id, shard, &session_id).await? {
            attachment.checked_at = Some(tokio::time::Instant::now());
            return Ok(());
        }
        let shards = [(shard.to_string(), ShardTransport::Websocket { session_id })];
        let update = async |token: &_| self.client.update_shards(token, &conduit_id, &shards).await;
        if let Some(error) = self.app.call(update).await?.into_iter().next() {
            return Err(ReconcileError::Token(format!("Twitch refused the shard: {}", error.message)));
        }
        tracing::info!(shard, "this instance holds a shard of Twitch's conduit");
        attachment.checked_at = Some(tokio::time::Instant::now());
        Ok(())
    }

    async fn is_attached(
        &self,
        conduit_id: &str,
        shard: u32,
        session_id: &str,
    ) -> Result<bool, ReconcileError> {
        let shards = self.app.call(async |token: &_| self.client.shards(token, conduit_id).await).await?;
        let id = shard.to_string();
        Ok(shards.iter().any(|found| {
            found.id == id && found.is_enabled() && found.session_id.as_deref() == Some(session_id)
        }))
    }
}

/// How a session and its shard are connected.
#[derive(Default)]
struct Attachment {
    session_id: Option<String>,
    /// When they were last known to be.
    checked_at: Option<tokio::time::Instant>,
}

impl Attachment {
    fn is_recent(&self) -> bool {
        self.checked_at.is_some_and(|checked| checked.elapsed() < ATTACHED_EVERY)
    }
}

/// The name of the duty to hold a shard.
pub(crate) fn duty(shard: u32) -> String {
    format!("shard-{shard}")
}
