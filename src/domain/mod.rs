//! The rules of ChatPulse, pure: no IO, no async, no clock (time is passed in), no wire formats.
//!
//! Reading order: [`time`], [`sentiment`] (the arithmetic), [`config`] (what a streamer can set),
//! [`trigger`] (what a vote is), [`vote`], [`session`] and [`streamer`] (`decide` and `evolve`),
//! [`retraction`] (votes that are taken back), [`holders`] (who keeps a session alive), [`stream`] (what Twitch shows
//! of a broadcaster), [`operator`] (who steers this deployment), [`rank`] (which state is newer).

pub mod audience;
pub mod command;
pub mod config;
pub mod holders;
pub mod operator;
pub mod rank;
pub mod retraction;
pub mod sentiment;
pub mod session;
pub mod stream;
pub mod streamer;
pub mod time;
pub mod trigger;
pub mod vote;
