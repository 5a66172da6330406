//! A Twitch of our own: chat traffic as signed EventSub notifications, for demos, tests and load.
//!
//! Reading order: [`options`] (what is asked for), [`mood`] (what a chat feels, when), `crowd` (who is
//! there), `chatter` (what they write), `message` (a chat message in Twitch's full documented shape),
//! [`traffic`] (all of it together, signed), [`plan`] (when each notification is sent, again or late),
//! [`send`] (sending at that pace, whatever the answers), [`report`] (what became of it). All
//! these but `send` are pure and follow from the seed. [`platform`] is the rest of Twitch: sign-in, API,
//! deliveries; [`chat`] has viewers write there, [`serve`] runs it as a program of its own.

pub mod chat;
mod chatter;
mod crowd;
mod message;
pub mod mood;
pub mod options;
pub mod plan;
pub mod platform;
pub mod report;
pub mod send;
pub mod serve;
pub mod traffic;

use std::net::SocketAddr;

pub use options::{Options, Simulation};
pub use report::Report;
pub use send::run;
pub use traffic::{Generator, Notification};

/// Why a simulation can't start.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    #[error("{option} is {value}; {allowed}")]
    Option { option: &'static str, value: String, allowed: &'static str },
    #[error(transparent)]
    Secret(#[from] super::signature::SecretError),
    #[error("the HTTP client can't be made: {0}")]
    Client(#[from] reqwest::Error),
    #[error("can't listen: {0}")]
    Listen(std::io::Error),
    #[error("can't listen on {address}: {error}; choose another address by --listen or --listen-eventsub")]
    Address { address: SocketAddr, error: std::io::Error },
}

#[cfg(test)]
mod tests;
