//! What ChatPulse knows about Twitch.
//!
//! Reading order: [`signature`] (is it Twitch that speaks?), [`eventsub`] (what it says),
//! [`simulator`] (a Twitch of our own, for demos, tests and load).

pub mod eventsub;
pub mod signature;
pub mod simulator;
