//! Shards over WebSockets, for deployments that Twitch can't reach: each shard is held by one instance, by a lease, and
//! another one takes over when that dies.
//!
//! There is no acknowledgement that Twitch waits for: what a dying instance has taken and not journaled is lost.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

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

    /// Holds one shard until another instance has it. The lease is renewed whatever else has to wait.
    async fn hold_shard(&self, shard: u32, url: &str, inbox: &mpsc::Sender<Arrival>) {
        tokio::select! {
            () = self.keep_lease(shard) => {}
            () = self.hold_sessions(shard, url, inbox) => {}
        }
    }

    /// Renews a shard's lease, until another instance has it, or this one is about to stop.
    async fn keep_lease(&self, shard: u32) {
        let mut renew = tokio::time::interval(LOOK_EVERY);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            renew.tick().await;
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            // While PostgreSQL is away nobody else can take it either.
            if let Ok(false) = self.journal.take_duty(&duty(shard), LEASE).await {
                tracing::warn!(shard, "another instance holds a shard of Twitch's conduit now");
                return;
            }
        }
    }

    /// Has one session after another, for as long as somebody takes what they bring.
    async fn hold_sessions(&self, shard: u32, url: &str, inbox: &mpsc::Sender<Arrival>) {
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let Some(reason) = self.hold_session(shard, url, inbox).await else { return };
            failures = if began.elapsed() > LONGEST_PAUSE { 0 } else { failures + 1 };
            let pause = backoff(failures, FIRST_PAUSE, LONGEST_PAUSE);
            tracing::warn!(shard, %reason, ?pause, "a shard's session is over; it begins anew");
            tokio::time::sleep(pause).await;
        }
    }

    /// Has one session to its end: it is read, attached to the shard, and what it brings is passed on, none of which
    /// waits for the others. Answers why it ended; `None` when nobody takes what it brings.
    async fn hold_session(&self, shard: u32, url: &str, inbox: &mpsc::Sender<Arrival>) -> Option<Reason> {
        let options =
            SocketOptions { url: url.to_owned(), keepalive: KEEPALIVE, connect_timeout: CONNECT_MAX };
        let (tell, told) = mpsc::channel(TOLD_MAX);
        let (welcome, welcomed) = watch::channel(None);
        let session = async {
            socket::run(&options, tell, pending()).await;
            // Why it ended is what it told last, after all that came before.
            pending::<()>().await
        };
        tokio::select! {
            ended = pass_on(shard, told, &welcome, inbox) => ended,
            // These two go on for ever.
            () = session => None,
            () = self.keep_attached(shard, welcomed) => None,
        }
    }

    /// Sees to it that Twitch sends the shard's notifications to the session that was welcomed last.
    async fn keep_attached(&self, shard: u32, mut welcomed: watch::Receiver<Option<String>>) {
        let mut attachment = Attachment::default();
        let mut look = tokio::time::interval(ATTACH_AGAIN);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                Ok(()) = welcomed.changed() => {
                    let session_id = welcomed.borrow_and_update().clone();
                    attachment = Attachment { session_id, ..Attachment::default() };
                }
            }
            if let Err(error) = self.attach(shard, &mut attachment).await {
                tracing::debug!(shard, %error, "a shard is not attached yet");
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
            attachment.checked_at = Some(Instant::now());
            return Ok(());
        }
        // Who was frozen may have lost the shard meanwhile, and must not take it back; nor must who is about to stop.
        if self.stopping.load(Ordering::Acquire) || !self.journal.take_duty(&duty(shard), LEASE).await? {
            return Ok(());
        }
        let shards = [(shard.to_string(), ShardTransport::Websocket { session_id })];
        let update = async |token: &_| self.client.update_shards(token, &conduit_id, &shards).await;
        if let Some(error) = self.app.call(update).await?.into_iter().next() {
            return Err(ReconcileError::Token(format!("Twitch refused the shard: {}", error.message)));
        }
        tracing::info!(shard, "this instance holds a shard of Twitch's conduit");
        attachment.checked_at = Some(Instant::now());
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

/// Passes on what a session tells, to its end. Answers why it ended; `None` when nobody takes messages any more.
async fn pass_on(
    shard: u32,
    mut told: mpsc::Receiver<Told>,
    welcome: &watch::Sender<Option<String>>,
    inbox: &mpsc::Sender<Arrival>,
) -> Option<Reason> {
    while let Some(told) = told.recv().await {
        match told {
            Told::Welcome { session_id } => {
                welcome.send_replace(Some(session_id));
            }
            Told::Message { kind, body, .. } => inbox.send(Arrival { kind, body }).await.ok()?,
            Told::Unknown(kind) => tracing::debug!(shard, kind, "a message of Twitch is ignored"),
            Told::Ended(reason) => return Some(reason),
        }
    }
    Some(Reason::Stopped)
}

/// How a session and its shard are connected.
#[derive(Default)]
struct Attachment {
    session_id: Option<String>,
    /// When they were last known to be.
    checked_at: Option<Instant>,
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

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn message(number: u8) -> Told {
        Told::Message {
            kind: MessageKind::Notification,
            message_id: number.to_string(),
            sent_at: OffsetDateTime::UNIX_EPOCH,
            body: vec![number],
        }
    }

    #[tokio::test]
    async fn what_a_session_tells_is_passed_on_to_its_end_however_slowly_it_is_taken() {
        let (tell, told) = mpsc::channel(8);
        let (welcome, welcomed) = watch::channel(None);
        let (inbox, mut arrivals) = mpsc::channel::<Arrival>(1);
        let welcomed_as = Told::Welcome { session_id: "s1".into() };
        for told in [welcomed_as, message(1), message(2), message(3), Told::Ended(Reason::Silent)] {
            tell.send(told).await.unwrap();
        }
        let taken = async {
            let mut taken = Vec::new();
            for _ in 0..3 {
                taken.extend(arrivals.recv().await.map(|arrival| arrival.body));
            }
            taken
        };
        let (ended, taken) = tokio::join!(pass_on(0, told, &welcome, &inbox), taken);
        assert_eq!((ended, taken), (Some(Reason::Silent), vec![vec![1], vec![2], vec![3]]));
        assert_eq!(welcomed.borrow().as_deref(), Some("s1"));
    }

    #[tokio::test]
    async fn a_session_is_given_up_when_nobody_takes_what_it_brings() {
        let (tell, told) = mpsc::channel(8);
        let (welcome, _welcomed) = watch::channel(None);
        let (inbox, arrivals) = mpsc::channel(1);
        drop(arrivals);
        tell.send(message(1)).await.unwrap();
        assert_eq!(pass_on(0, told, &welcome, &inbox).await, None);
    }
}
