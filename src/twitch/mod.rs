//! What ChatPulse knows about Twitch.
//!
//! Reading order: [`signature`] (is it Twitch that speaks?), [`eventsub`] (what it says), [`client`] (asking it),
//! [`oauth`] (tokens), [`helix`] (users, conduits, subscriptions, chat), [`socket`] (notifications without a public
//! URL), [`simulator`] (a Twitch of our own, for demos, tests and load).

pub mod client;
pub mod eventsub;
pub mod helix;
pub mod oauth;
pub mod signature;
pub mod simulator;
pub mod socket;
