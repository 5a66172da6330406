//! One instance at a time looks after the conduit, the subscriptions, recorded streams and the health of chats; when it
//! dies another one takes over.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::streams::{Looked, Sweep};
use super::subscriptions::Progress;
use super::{ReconcileError, Twitch, backoff};
use crate::domain::time::Millis;

pub(crate) const DUTY: &str = "twitch";
/// Another instance takes over after so long without a sign of life.
const LEASE: Duration = Duration::from_secs(15);
/// Between two looks at what is due, if nobody says that something is.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Whether Twitch still has the conduit, and all of its shards work.
const SHARDS_EVERY: Duration = Duration::from_secs(20);
/// What nobody needs any more is looked for so often within the time that it is kept.
const UNWANTED_LOOKS: u32 = 20;
const UNWANTED_EVERY_MAX: Duration = Duration::from_secs(30);
const COMPARE_EVERY: Duration = Duration::from_secs(600);
const CHATS_EVERY: Duration = Duration::from_secs(10);
/// Subscriptions that are requested in one statement.
const REQUESTED_A_CALL: i32 = 500;
/// Expired sign-ins forgotten at a look.
const EXPIRED_A_CALL: i64 = 1_000;
/// After a failure, and after many.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What the instance that has the duty knows.
struct OnDuty {
    conduit_id: String,
    /// Whether the application hears of what concerns itself.
    application_subscribed: bool,
    /// Till then Twitch lets us do nothing.
    limited_until: Option<Instant>,
    shards_looked_at: Option<Instant>,
    unwanted_ended_at: Option<Instant>,
    compared_at: Option<Instant>,
    chats_checked_at: Option<Instant>,
    /// From when on chats are known to have been heard without a break.
    heard_from: Millis,
    sweep: Sweep,
}

impl OnDuty {
    /// Leaves Twitch alone for so long. Answers how long to wait before the next look.
    fn leave_alone(&mut self, wait: Duration) -> Duration {
        self.limited_until = Some(Instant::now() + wait);
        wait.min(LEASE / 3)
    }
}

impl Twitch {
    /// Looks after conduit and subscriptions whenever this instance has the duty, for as long as it runs.
    pub async fn serve_duty(&self) {
        let mut on_duty: Option<OnDuty> = None;
        let mut failures = 0;
        loop {
            let pause = match self.serve_once(&mut on_duty).await {
                Ok(pause) => {
                    if failures > 0 {
                        tracing::info!("Twitch is kept up with again");
                    }
                    failures = 0;
                    pause
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(%error, "Twitch can't be kept up with");
                    }
                    // Whatever it was, the conduit may be the cause.
                    if let Some(on_duty) = &mut on_duty {
                        on_duty.shards_looked_at = None;
                    }
                    failures += 1;
                    backoff(failures - 1, FIRST_PAUSE, LONGEST_PAUSE)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.due.notified(), if failures == 0 => {}
                () = self.shards_in_doubt.notified(), if failures == 0 => {
                    if let Some(on_duty) = &mut on_duty {
                        on_duty.shards_looked_at = None;
                    }
                }
            }
        }
    }

    /// Lets go of all duties for good, so that other instances need not wait for the leases to lapse.
    pub async fn leave_duties(&self) {
        self.stopping.store(true, Ordering::Release);
        // Failing costs the others a wait only.
        let _ = self.journal.leave_duties().await;
    }

    /// Whether this instance still has the duty, whose lease is renewed: work may take longer than that.
    pub(super) async fn keeps_duty(&self) -> Result<bool, ReconcileError> {
        Ok(!self.stopping.load(Ordering::Acquire) && self.journal.take_duty(DUTY, LEASE).await?)
    }

    /// Does what is due. Answers how long to wait before the next look.
    async fn serve_once(&self, on_duty: &mut Option<OnDuty>) -> Result<Duration, ReconcileError> {
        if !self.keeps_duty().await? {
            if on_duty.take().is_some() {
                self.subscriptions.reset();
                self.chats.reset();
            }
            return Ok(LEASE / 3);
        }
        let duty = match on_duty {
            Some(duty) => duty,
            None => on_duty.insert(self.begin_duty().await?),
        };
        // First, since it needs no Twitch.
        if is_due(&mut duty.chats_checked_at, CHATS_EVERY) {
            self.check_chats(&mut duty.heard_from, self.clock.now()).await?;
        }
        self.look_around(duty).await?;
        if let Some(left) = duty.limited_until.and_then(|until| until.checked_duration_since(Instant::now()))
        {
            return Ok(left.min(LEASE / 3));
        }
        self.work_off(duty).await
    }

    /// Looks, where it is time to, whether conduit and subscriptions are as they should be.
    async fn look_around(&self, duty: &mut OnDuty) -> Result<(), ReconcileError> {
        if is_due(&mut duty.shards_looked_at, SHARDS_EVERY) {
            let conduit_id = self.ensure_conduit().await?;
            self.lead_shards_here(&conduit_id).await?;
            duty.application_subscribed &= conduit_id == duty.conduit_id;
            duty.conduit_id = conduit_id;
        }
        let unwanted_every = (self.options.keep / UNWANTED_LOOKS).clamp(LOOK_EVERY, UNWANTED_EVERY_MAX);
        if is_due(&mut duty.unwanted_ended_at, unwanted_every) {
            self.end_unwanted().await?;
            self.count_subscriptions().await?;
            self.journal.drop_expired_web_sessions(EXPIRED_A_CALL).await?;
        }
        // Also when the duty begins.
        if is_due(&mut duty.compared_at, COMPARE_EVERY) {
            self.request_stream_subscriptions().await?;
            self.compare_subscriptions(&duty.conduit_id).await?;
        }
        Ok(())
    }

    /// Works off some of what is due, and looks at some streams. Answers how long to wait before the next look.
    async fn work_off(&self, duty: &mut OnDuty) -> Result<Duration, ReconcileError> {
        let progress = self.work_off_due(&duty.conduit_id).await?;
        // Chats come first.
        if !duty.application_subscribed && progress == Progress::Done {
            self.ensure_application_subscriptions(&duty.conduit_id).await?;
            duty.application_subscribed = true;
        }
        let all = match progress {
            Progress::Done => true,
            Progress::More => false,
            Progress::Limited(wait) => return Ok(duty.leave_alone(wait)),
            Progress::ConduitGone => {
                duty.shards_looked_at = None;
                return Ok(FIRST_PAUSE);
            }
        };
        Ok(match self.look_at_streams(&mut duty.sweep).await? {
            // Both take from one bucket.
            Looked::Limited(wait) => duty.leave_alone(wait),
            Looked::Done if all => LOOK_EVERY,
            Looked::Done | Looked::More => Duration::ZERO,
        })
    }

    /// Requests what tells when recorded streams begin and end, where that got lost.
    async fn request_stream_subscriptions(&self) -> Result<(), ReconcileError> {
        loop {
            let requested = self.journal.request_missing_stream_subscriptions(REQUESTED_A_CALL).await?;
            if requested < u64::from(REQUESTED_A_CALL.unsigned_abs()) || !self.keeps_duty().await? {
                return Ok(());
            }
        }
    }

    async fn count_subscriptions(&self) -> Result<(), ReconcileError> {
        let counts = self.journal.subscription_counts().await?;
        self.subscriptions.reset();
        for (status, count) in counts {
            self.subscriptions.with_label_values(&[&status]).set(count);
        }
        Ok(())
    }

    async fn begin_duty(&self) -> Result<OnDuty, ReconcileError> {
        let conduit_id = self.ensure_conduit().await?;
        let refused = self.lead_shards_here(&conduit_id).await?;
        tracing::info!(conduit = conduit_id, refused, "this instance looks after Twitch's conduit");
        Ok(OnDuty {
            conduit_id,
            application_subscribed: false,
            limited_until: None,
            shards_looked_at: Some(Instant::now()),
            unwanted_ended_at: None,
            compared_at: None,
            chats_checked_at: None,
            heard_from: self.clock.now(),
            sweep: Sweep::default(),
        })
    }
}

/// Whether something that happens `every` so often is due; notes that it happens now.
fn is_due(last: &mut Option<Instant>, every: Duration) -> bool {
    let due = last.is_none_or(|last| last.elapsed() >= every);
    if due {
        *last = Some(Instant::now());
    }
    due
}
