//! What follows from what Twitch writes, and from its silence. Pure: text and times in, steps out.
//!
//! A session has one connection at a time, but while Twitch moves it: then a second one is opened and
//! the first is read on, and when the second is welcomed the first is still read until what Twitch
//! had written on it is through. So nothing is lost between the two.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use super::frame::{self, Frame, Notice, Welcome};
use super::recent::Recent;
use super::{Reason, Told};

/// How much later than announced a keepalive may come: the network's delay.
const KEEPALIVE_GRACE: Duration = Duration::from_secs(3);
/// A message older than this is dropped, Twitch's own advice. The ids of this time would be needed to
/// know every resend; in a very busy session they are not all kept, and the journal tells the rest.
const AGE_MAX: time::Duration = time::Duration::minutes(10);
/// Ids of messages that are remembered.
const RECENT_MAX: usize = 8_192;
/// How long a connection that was left is read on. Twitch closes it itself after 30 s.
const LEAVING_MAX: Duration = Duration::from_secs(10);

/// One of a session's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The one that the session has moved away from.
    Leaving,
    Current,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    Tell(Told),
    /// Connect to this address and hand what comes first to [`Session::moved`], or say
    /// [`Session::move_failed`].
    Move {
        url: String,
    },
    /// The connection just welcomed is the current one; the one before, if there still is one, is asked to
    /// close and is leaving. Then tell, if there is something to tell.
    Switch(Option<Told>),
    /// Drop this connection.
    HangUp(Line),
    End(Reason),
}

/// The state of one session.
#[derive(Debug)]
pub(super) struct Session {
    id: String,
    /// What was asked for, in case a welcome doesn't say.
    keepalive: Duration,
    /// The longest silence of a connection that lives.
    silence_max: Duration,
    /// When the current connection last said something.
    heard: Instant,
    is_moving: bool,
    /// Why the current connection ended before the one to move to was welcomed.
    ended: Option<Reason>,
    leaving_until: Option<Instant>,
    recent: Recent,
}

impl Session {
    /// Begins with the first text of a connection.
    ///
    /// # Errors
    /// [`Reason::NotWelcomed`] when it is no welcome.
    pub fn begin(first: &str, keepalive: Duration, now: Instant) -> Result<(Session, Told), Reason> {
        let welcome = welcome(first)?;
        let told = Told::Welcome { session_id: welcome.session_id.clone() };
        let session = Session {
            silence_max: welcome.keepalive.unwrap_or(keepalive).saturating_add(KEEPALIVE_GRACE),
            id: welcome.session_id,
            keepalive,
            heard: now,
            is_moving: false,
            ended: None,
            leaving_until: None,
            recent: Recent::new(RECENT_MAX),
        };
        Ok((session, told))
    }

    /// Takes a text that came on `line`, at `now`, which is `utc` by the clock on the wall.
    pub fn hear(&mut self, line: Line, text: &str, now: Instant, utc: OffsetDateTime) -> Step {
        if line == Line::Current {
            self.heard = now;
        }
        match frame::parse(text) {
            Ok(Frame::Message(notice)) => self.take(notice, utc),
            Ok(Frame::Reconnect { url }) if line == Line::Current && !self.is_moving => {
                self.is_moving = true;
                Step::Move { url }
            }
            Ok(Frame::Welcome(_) | Frame::Keepalive | Frame::Reconnect { .. }) => Step::Nothing,
            Ok(Frame::Unknown { message_type }) => Step::Tell(Told::Unknown(message_type)),
            Err(error) => {
                tracing::debug!(%error, "a message of Twitch's EventSub can't be read");
                Step::Tell(Told::Unknown("unreadable".to_owned()))
            }
        }
    }

    fn take(&mut self, notice: Notice<'_>, utc: OffsetDateTime) -> Step {
        if utc - notice.sent_at > AGE_MAX || !self.recent.is_new(&notice.id) {
            return Step::Nothing;
        }
        Step::Tell(Told::Message {
            kind: notice.kind,
            message_id: notice.id.into_owned(),
            sent_at: notice.sent_at,
            body: notice.body.as_bytes().to_vec(),
        })
    }

    /// A connection ended.
    pub fn lose(&mut self, line: Line, reason: Reason) -> Step {
        match line {
            Line::Leaving => self.leaving_until = None,
            Line::Current if self.is_moving => self.ended = Some(reason),
            Line::Current => return Step::End(reason),
        }
        Step::HangUp(line)
    }

    /// Takes the first text of the connection to move to. After anything but [`Step::Switch`] that
    /// connection is of no use.
    pub fn moved(&mut self, first: &str, now: Instant) -> Step {
        let welcome = match welcome(first) {
            Ok(welcome) => welcome,
            Err(reason) => return self.move_failed(&reason),
        };
        self.is_moving = false;
        self.heard = now;
        self.silence_max = welcome.keepalive.unwrap_or(self.keepalive).saturating_add(KEEPALIVE_GRACE);
        if self.ended.take().is_none() {
            self.leaving_until = Some(now + LEAVING_MAX);
        }
        // Twitch keeps the id, and with it what is attached to it.
        let is_other = self.id != welcome.session_id;
        self.id.clone_from(&welcome.session_id);
        Step::Switch(is_other.then_some(Told::Welcome { session_id: welcome.session_id }))
    }

    /// The connection to move to was not to be had: the current one goes on as long as Twitch lets it.
    pub fn move_failed(&mut self, reason: &Reason) -> Step {
        tracing::warn!(%reason, "Twitch's EventSub asked to move to another connection, which failed");
        self.is_moving = false;
        self.ended.take().map_or(Step::Nothing, Step::End)
    }

    /// When [`Session::due`] has to be asked; `None` while only the move is waited for, which has a
    /// time limit of its own.
    pub fn deadline(&self) -> Option<Instant> {
        // Who moves doesn't judge the old connection: giving it up would spoil the move.
        let silent_at = (!self.is_moving).then(|| self.heard + self.silence_max);
        silent_at.into_iter().chain(self.leaving_until).min()
    }

    /// What is due at `now`.
    pub fn due(&mut self, now: Instant) -> Step {
        if self.leaving_until.is_some_and(|until| until <= now) {
            self.leaving_until = None;
            return Step::HangUp(Line::Leaving);
        }
        if !self.is_moving && self.heard + self.silence_max <= now {
            return Step::End(Reason::Silent);
        }
        Step::Nothing
    }

    /// For `pause` nothing was read, because the owner took nothing: that was no silence of Twitch.
    pub fn paused(&mut self, pause: Duration) {
        self.heard += pause;
        self.leaving_until = self.leaving_until.map(|until| until + pause);
    }
}

fn welcome(first: &str) -> Result<Welcome, Reason> {
    match frame::parse(first) {
        Ok(Frame::Welcome(welcome)) => Ok(welcome),
        Ok(Frame::Unknown { message_type }) => Err(Reason::NotWelcomed(message_type)),
        Ok(_) => Err(Reason::NotWelcomed("a message for a session that runs".to_owned())),
        Err(error) => Err(Reason::NotWelcomed(error.to_string())),
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
