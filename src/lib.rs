//! ChatPulse shows a Twitch streamer what the chat feels, live: viewers type a word, each match is a
//! vote for or against, and a bar in the stream moves at once and sinks back as the votes age.
//!
//! This is a map for reading. The rooms stand below in an order in which each one needs only those
//! before it; every room's own page names its files in reading order. To follow one vote instead, begin
//! at [`http::webhook::receive`] and go on with [`actors::cast`], [`actors::session`],
//! [`actors::committer`] and [`journal::votes`], then back to [`actors::frames`] and
//! [`actors::overlay`]. `ARCHITECTURE.md` tells the whole of it, `tests/it/house` checks which room may
//! know which.

/// Typed settings: the defaults, a file and the environment, with every problem reported at once.
pub mod settings;

/// What the program says about itself: logs and the one list of metrics.
pub mod telemetry;

/// The rules, pure: the arithmetic of sentiment, what a vote is, what may happen to sessions and
/// streamers. No IO, no clock.
pub mod domain;

/// Secrets at rest and in browsers: what is sealed, what is signed.
pub mod security;

/// Twitch: signatures and EventSub messages that it sends, the calls of its API, and a simulated Twitch.
pub mod twitch;

/// PostgreSQL, the truth: events, heads of sessions, and their order.
pub mod journal;

/// Redis, which may be lost at any time: the mirror of sessions, the debounce, who holds what.
pub mod hot;

/// What is alive in an instance: sessions, overlay sockets, the group commit, the supervisor.
pub mod actors;

/// Keeping Twitch and us in line: tokens, the conduit, subscriptions.
pub mod reconcile;

/// Routes and answers: the only room where errors become statuses.
pub mod http;

/// Builds all rooms and runs one instance.
pub mod run;

/// Private PostgreSQL and Redis servers for `make run` and the tests; knows no other room.
pub mod local;

/// `chatpulse doctor`: looks at everything that votes need, and says what to do.
pub mod doctor;

/// `chatpulse demo`: all of it on one machine, with a chat that votes by itself.
pub mod demo;
