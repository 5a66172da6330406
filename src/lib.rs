//! ChatPulse shows a Twitch streamer what the chat feels, live: viewers type a word, each match is a
//! vote for or against, and a bar in the stream moves at once and sinks back as the votes age.

/// The rules, pure: the arithmetic of sentiment, what a vote is, what may happen to sessions and
/// streamers. No IO, no clock.
pub mod domain;
