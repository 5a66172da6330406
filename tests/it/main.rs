//! The one integration binary: everything that needs real servers. It shares one set of private servers.

mod admin;
mod arithmetic;
mod browser;
mod chat_commands;
mod cold_starts;
mod commands;
mod durability;
mod faults;
mod histories;
mod holds;
mod house;
mod journal;
mod local;
mod pause;
mod redis_cluster;
mod redis_roles;
mod retraction;
mod schema;
mod sign_in;
mod socket;
mod subscriptions;
mod support;
mod twitch_journal;
mod webhook;
