//! One session with Twitch's EventSub WebSocket, for installations without a public HTTPS URL.
//!
//! [`run`] connects, tells its owner the session's id, and from then on each message once, until the
//! session ends; it follows Twitch to another connection without losing a message. What to do with
//! the id (attaching shards or subscriptions), and when to connect anew, is the owner's.
//!
//! Reading order: `frame` (what Twitch writes), `session` (what follows from it, pure), `recent`
//! (which messages were there before), `dial` (connecting), `io` (the loop around them). The protocol:
//! <https://dev.twitch.tv/docs/eventsub/handling-websocket-events/>.

use std::time::Duration;

use time::OffsetDateTime;

mod dial;
mod frame;
mod io;
mod recent;
mod session;

pub use io::run;

/// How to reach Twitch, and how patient to be.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// Twitch's address, `wss://eventsub.wss.twitch.tv/ws`; `ws://` is for a Twitch of one's own.
    pub url: String,
    /// The silence that Twitch is asked not to exceed. It takes whole seconds from 10 to 600; what lies
    /// outside is brought inside.
    pub keepalive: Duration,
    /// From the beginning of a connection to its welcome, at most. Twitch gives 30 s for a move to
    /// another connection, so it should be less.
    pub connect_timeout: Duration,
}

/// What a session tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Connected. Something has to be attached to this id within 10 s, or Twitch closes with
    /// [`Closed::Unused`]. Told once in a session; again only if Twitch gave a new id with a move to
    /// another connection.
    Welcome { session_id: String },
    /// A notification or a revocation, told once however often it came.
    Message {
        kind: MessageKind,
        /// Twitch's id of the message, the same on a resend.
        message_id: String,
        /// When Twitch sent it, by Twitch's clock.
        sent_at: OffsetDateTime,
        /// JSON as in the body of a webhook: `{"subscription":…,"event":…}`, a revocation's without
        /// `event`.
        body: Vec<u8>,
    },
    /// A message of this type was ignored: one that Twitch did not have when this was written, or
    /// `unreadable`. To be counted, and logged once.
    Unknown(String),
    /// The session is over; nothing is told after that. Connect anew after a pause that grows, with jitter.
    /// Not told to an owner who asked to stop.
    Ended(Reason),
}

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// Something happened that somebody subscribed to.
    Notification,
    /// Twitch ended a subscription; its status says why.
    Revocation,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The options can't be used, or the machine has no CA certificates. Trying again won't help.
    #[error("{0}")]
    Setup(String),
    /// No connection was to be had.
    #[error("no connection to Twitch's EventSub: {0}")]
    Unreachable(String),
    /// Twitch did not welcome in time.
    #[error("no welcome from Twitch's EventSub within the connect timeout")]
    NoWelcome,
    /// The first message was no welcome.
    #[error("Twitch's EventSub began with something else than a welcome: {0}")]
    NotWelcomed(String),
    /// Nothing came within the keepalive time: the connection is dead.
    #[error("Twitch's EventSub was silent for longer than its keepalive time")]
    Silent,
    /// A message was larger than 256 KiB.
    #[error("Twitch's EventSub sent a message of more than {} KiB", dial::MESSAGE_BYTES_MAX / 1024)]
    TooLarge,
    /// Twitch closed the connection.
    #[error("Twitch's EventSub closed the connection: {0}")]
    Closed(Closed),
    /// The connection broke.
    #[error("the connection to Twitch's EventSub broke: {0}")]
    Lost(String),
    /// The owner asked to stop, or takes nothing any more.
    #[error("asked to stop")]
    Stopped,
}

/// What Twitch says by the code it closes with:
/// <https://dev.twitch.tv/docs/eventsub/handling-websocket-events/#close-message>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    #[error("4000, an error of Twitch's own")]
    InternalError,
    #[error("4001, the client sent something")]
    InboundTraffic,
    #[error("4002, a ping was not answered")]
    FailedPingPong,
    #[error("4003, nothing was attached to the session within 10 s")]
    Unused,
    #[error("4004, the move to another connection took longer than 30 s")]
    ReconnectTooLate,
    #[error("4005, a network timeout")]
    NetworkTimeout,
    #[error("4006, a network error")]
    NetworkError,
    #[error("4007, the address to move to is not valid any more")]
    InvalidReconnect,
    /// Any other code; 1005 when there was none.
    #[error("code {0}")]
    Other(u16),
}

impl Reason {
    /// A name for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Reason::Setup(_) => "setup",
            Reason::Unreachable(_) => "unreachable",
            Reason::NoWelcome => "no_welcome",
            Reason::NotWelcomed(_) => "not_welcomed",
            Reason::Silent => "silent",
            Reason::TooLarge => "too_large",
            Reason::Closed(closed) => closed.label(),
            Reason::Lost(_) => "lost",
            Reason::Stopped => "stopped",
        }
    }
}

impl Closed {
    /// The meaning of a close code.
    pub fn of(code: u16) -> Closed {
        match code {
            4000 => Closed::InternalError,
            4001 => Closed::InboundTraffic,
            4002 => Closed::FailedPingPong,
            4003 => Closed::Unused,
            4004 => Closed::ReconnectTooLate,
            4005 => Closed::NetworkTimeout,
            4006 => Closed::NetworkError,
            4007 => Closed::InvalidReconnect,
            other => Closed::Other(other),
        }
    }

    fn label(self) -> &'static str {
        match self {
            Closed::InternalError => "closed_internal_error",
            Closed::InboundTraffic => "closed_inbound_traffic",
            Closed::FailedPingPong => "closed_failed_ping_pong",
            Closed::Unused => "closed_unused",
            Closed::ReconnectTooLate => "closed_reconnect_too_late",
            Closed::NetworkTimeout => "closed_network_timeout",
            Closed::NetworkError => "closed_network_error",
            Closed::InvalidReconnect => "closed_invalid_reconnect",
            Closed::Other(_) => "closed_other",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_close_code_of_twitch_has_a_meaning_and_a_label_of_its_own() {
        let codes = 4000..=4007;
        let known: Vec<Closed> = codes.clone().map(Closed::of).collect();
        for (code, closed) in codes.zip(&known) {
            assert!(closed.to_string().starts_with(&code.to_string()), "{code}: {closed}");
        }
        let labels: BTreeSet<&str> = known.iter().map(|closed| Reason::Closed(*closed).label()).collect();
        assert_eq!(labels.len(), known.len());
    }

    #[test]
    fn other_close_codes_are_kept() {
        assert_eq!([1000, 1006, 4008].map(Closed::of), [1000, 1006, 4008].map(Closed::Other));
    }
}
