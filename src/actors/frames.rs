//! The frames of the overlay socket, as JSON. Each is encoded once and shared by all overlays of
//! a session.

use actix_codec::{Decoder, Encoder};
use actix_http::ws::{self, Codec};
use actix_web::web::{Bytes, BytesMut};
use serde::Serialize;

use crate::domain::config::{Display, VersionedConfig};
use crate::domain::sentiment::Model;
use crate::domain::session::Session;
use crate::domain::time::Millis;

/// Bytes before a server's payload, at most. Source: RFC 6455, section 5.2.
const HEADER_MAX: usize = 10;
/// The version of the frames' protocol.
const PROTOCOL: u32 = 1;

/// What a frame is, which decides what may replace it while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Hello,
    Config,
    Reset,
    Sentiment,
}

/// An encoded frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: Kind,
    /// As it goes over the socket: a text frame of a server. Clones share it.
    pub wire: Bytes,
}

impl Frame {
    /// The JSON, as a client reads it.
    pub fn text(&self) -> String {
        let read = Codec::new().client_mode().decode(&mut BytesMut::from(&self.wire[..]));
        match read {
            Ok(Some(ws::Frame::Text(text))) => String::from_utf8_lossy(&text).into_owned(),
            other => format!("{other:?}"),
        }
    }
}

#[derive(Serialize)]
struct State {
    version: i64,
    value: f64,
    at: i64,
    #[serde(rename = "for")]
    for_count: i64,
    #[serde(rename = "against")]
    against_count: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    for_share: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    against_share: Option<f64>,
}

#[derive(Serialize)]
struct Config<'a> {
    version: i64,
    model: &'static str,
    decay_speed: f64,
    window_seconds: i64,
    display: &'static str,
    theme: &'a str,
    for_label: &'a str,
    against_label: &'a str,
}

/// A frame whose state stands beside its type.
#[derive(Serialize)]
struct Flat {
    r#type: &'static str,
    #[serde(flatten)]
    state: State,
}

#[derive(Serialize)]
struct Hello<'a> {
    r#type: &'static str,
    protocol: u32,
    now: i64,
    config: Config<'a>,
    state: State,
}

#[derive(Serialize)]
struct ConfigChange<'a> {
    r#type: &'static str,
    config: Config<'a>,
    state: State,
}

impl State {
    /// In the decay model the state as journaled, which the client decays by itself; in the
    /// window model the state now, because only the server knows the window.
    fn of(session: &Session, now: Millis) -> State {
        let mood = &session.mood;
        let (value, at, shares) = match session.params.model {
            Model::Decay => (mood.value, mood.at, None),
            Model::Window => {
                let now = now.max(mood.at);
                (mood.value_at(&session.params, now), now, Some(mood.shares_at(&session.params, now)))
            }
        };
        State {
            version: session.frame_version(),
            value,
            at: at.0,
            for_count: mood.for_count,
            against_count: mood.against_count,
            for_share: shares.map(|shares| shares.for_share),
            against_share: shares.map(|shares| shares.against_share),
        }
    }
}

impl<'a> Config<'a> {
    fn of(versioned: &'a VersionedConfig) -> Config<'a> {
        let config = &versioned.config;
        Config {
            version: versioned.version,
            model: match config.params.model {
                Model::Decay => "decay",
                Model::Window => "window",
            },
            decay_speed: config.params.decay_speed,
            window_seconds: config.params.window_seconds,
            display: match config.display {
                Display::Combined => "combined",
                Display::Split => "split",
            },
            theme: &config.theme,
            for_label: &config.for_label,
            against_label: &config.against_label,
        }
    }
}

/// The first frame on a socket, and the new base whenever it comes again.
pub fn hello(config: &VersionedConfig, session: &Session, now: Millis) -> Frame {
    let state = State::of(session, now);
    encode(
        Kind::Hello,
        &Hello { r#type: "hello", protocol: PROTOCOL, now: now.0, config: Config::of(config), state },
    )
}

/// The state after votes, as a keyframe, or when a window loses a second.
pub fn sentiment(session: &Session, now: Millis) -> Frame {
    encode(Kind::Sentiment, &Flat { r#type: "sentiment", state: State::of(session, now) })
}

/// The state after a reset.
pub fn reset(session: &Session, now: Millis) -> Frame {
    encode(Kind::Reset, &Flat { r#type: "reset", state: State::of(session, now) })
}

/// A changed config, with the state re-based at the change.
pub fn config(config: &VersionedConfig, session: &Session, now: Millis) -> Frame {
    let state = State::of(session, now);
    encode(Kind::Config, &ConfigChange { r#type: "config", config: Config::of(config), state })
}

fn encode(kind: Kind, frame: &impl Serialize) -> Frame {
    // Serialising structs of numbers and strings into memory has no way to fail, nor has a text that is one frame.
    let text = serde_json::to_string(frame).unwrap_or_default();
    let mut wire = BytesMut::with_capacity(text.len() + HEADER_MAX);
    let _ = Codec::new().encode(ws::Message::Text(text.into()), &mut wire);
    Frame { kind, wire: wire.freeze() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::config::Config as Settings;
    use crate::domain::session::{Command, decide, evolve};

    fn session(config: &VersionedConfig) -> Session {
        let streamer_id = uuid::Uuid::now_v7();
        let start = Command::Start { streamer_id, ordinal: 1, config: config.clone() };
        let events = decide(start, None, Millis(1_000)).unwrap();
        evolve(None, &events[0]).unwrap()
    }

    #[test]
    fn a_hello_has_exactly_the_shape_of_the_contract() {
        let config = VersionedConfig { version: 3, config: Settings::default() };
        let frame = hello(&config, &session(&config), Millis(5_000));
        assert_eq!(
            frame.text(),
            r#"{"type":"hello","protocol":1,"now":5000,"config":{"version":3,"model":"decay","decay_speed":1.0,"window_seconds":30,"display":"combined","theme":"dark","for_label":"Yes","against_label":"No"},"state":{"version":4294967297,"value":0.0,"at":1000,"for":0,"against":0}}"#
        );
    }

    #[test]
    fn a_window_frame_has_shares_and_the_present_time() {
        let mut settings = Settings::default();
        settings.params.model = Model::Window;
        let config = VersionedConfig { version: 1, config: settings };
        let frame = sentiment(&session(&config), Millis(5_000));
        assert_eq!(
            frame.text(),
            r#"{"type":"sentiment","version":4294967297,"value":0.0,"at":5000,"for":0,"against":0,"for_share":0.0,"against_share":0.0}"#
        );
    }
}
