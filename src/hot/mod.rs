//! The hot state in Redis: everything here may be lost at any time, because the journal can write
//! it again. Redis being away is no failure but a state: calls then answer [`HotError::Away`].
//!
//! Reading order: [`keys`] (all key names), [`pool`] (connections, time-outs, the circuit),
//! [`functions`] (the Lua library), [`mirror`] (the sessions' states), [`changes`] (what changed
//! since), [`debounce`] (a viewer's last vote), [`refs`] (who holds a session). In roles of their
//! own, and not to be lost: [`queue`] (streams with consumer groups), [`spill`] (votes that wait for
//! the journal); and [`limits`] (how often somebody may), [`cache`] (what belongs to browsers), [`chat`] (what was said
//! last, and when), [`stream_status`] (who is live on Twitch), [`deny`] (tokens of operators who have signed out).

pub mod cache;
pub mod changes;
pub mod chat;
pub mod debounce;
pub mod deny;
pub mod functions;
pub mod keys;
pub mod limits;
pub mod mirror;
pub mod pool;
pub mod queue;
pub mod refs;
pub mod replies;
pub mod spill;
pub mod stream_status;

#[cfg(test)]
mod tests;

pub use pool::{Hot, HotOptions};

/// Why Redis did not do what was asked. The caller decides what that means and logs it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HotError {
    /// Redis failed several times in a row and is not asked until [`Hot::probe`] finds it again.
    #[error("Redis is away; it is not asked until a probe finds it again")]
    Away,
    /// No answer in time: whether the command took effect is unknown.
    #[error("Redis did not answer within {limit_ms} ms; check its load and the network")]
    TimedOut { limit_ms: u128 },
    /// No connection, or it broke, or the server can't serve yet.
    #[error("no usable connection to Redis ({0}); check its URL and that it is running")]
    Connection(String),
    /// The server refused the command.
    #[error("Redis refused a command: {0}")]
    Server(String),
    /// The answer has a shape that this release does not know.
    #[error("Redis answered something unexpected: {0}")]
    Answer(String),
    /// The server may lose what it acknowledged.
    #[error("the queue's Redis may lose what it takes: {0}")]
    Fleeting(String),
    /// A queue has as many entries as it may.
    #[error("the queue {0} is full")]
    Full(String),
    /// The settings can't be used.
    #[error("the Redis settings can't be used: {0}")]
    Options(String),
}
