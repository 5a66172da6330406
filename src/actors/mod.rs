//! The actors: one for each live session on this instance, one for each overlay socket, and the
//! supervisor that makes them, drives the tick and keeps the directory fed.
//!
//! One vote's way through here, in reading order: [`cast`] (from a matched message to its answer),
//! [`directory`] (which sessions are live), [`session`] (the actor that takes the vote),
//! [`committer`] (one commit for all sessions' waiting votes), [`frames`] and [`outbox`] (what
//! overlays are sent), [`overlay`] (the socket). Beside that way: [`supervisor`], [`feed`],
//! [`retract`] (votes that are taken back) and [`chat_window`] (what was said last).
//!
//! No handler awaits. Every queue has a bound and an outcome for when it is full.

pub mod cast;
pub mod chat_window;
mod circuit;
pub mod committer;
mod debouncer;
pub mod directory;
pub mod feed;
mod follower;
pub mod frames;
pub mod lookup;
pub mod outbox;
pub mod overlay;
pub mod places;
pub mod ports;
mod publish;
pub mod retract;
pub mod services;
pub mod session;
mod spill;
pub mod standing;
pub mod supervisor;
pub mod upkeep;
mod watch;
