//! What the tests with real servers have, as far as it is needed here.
#![allow(dead_code, reason = "the rest of it is needed there")]

#[path = "../it/support/database.rs"]
pub mod database;
#[path = "../it/support/servers.rs"]
pub mod servers;
