//! The one integration binary: everything that needs real servers. It shares one set of private servers.

mod admin;
mod arithmetic;
mod browser;
mod cold_starts;
mod commands;
mod durability;
mod faults;
mod histories;
mod holds;
mod house;
mod journal;
mod local;
mod redis_cluster;
mod redis_roles;
mod schema;
mod socket;
mod support;
mod webhook;
