//! What events look like at rest: type names, schema versions, JSON, and the upcasters that bring
//! older events to today's shape.

mod session;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::JournalError;
use crate::domain::config::{Config, Display, VersionedConfig};
use crate::domain::sentiment::{Model, Params};
use crate::domain::stream::{ChatHealth, Stream};
use crate::domain::streamer::{self, Profile};
use crate::domain::time::Millis;

pub use session::decode_session_event;
pub(super) use session::{SecondRow, second_rows, seconds};

/// An event as it stands in the journal.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    pub event_type: &'static str,
    pub schema_version: i32,
    pub data: Value,
}

/// A config as events, Redis and the API spell it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigRecord {
    pub version: i64,
    pub for_triggers: Vec<String>,
    pub against_triggers: Vec<String>,
    pub for_label: String,
    pub against_label: String,
    pub model: ModelName,
    pub vote_delta: f64,
    pub decay_speed: f64,
    pub window_seconds: i64,
    pub display: DisplayName,
    pub theme: String,
}

/// [`Model`] in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelName {
    Decay,
    Window,
}

/// [`Display`] in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DisplayName {
    Combined,
    Split,
}

impl From<&VersionedConfig> for ConfigRecord {
    fn from(versioned: &VersionedConfig) -> Self {
        let config = &versioned.config;
        ConfigRecord {
            version: versioned.version,
            for_triggers: config.for_triggers.clone(),
            against_triggers: config.against_triggers.clone(),
            for_label: config.for_label.clone(),
            against_label: config.against_label.clone(),
            model: match config.params.model {
                Model::Decay => ModelName::Decay,
                Model::Window => ModelName::Window,
            },
            vote_delta: config.params.vote_delta,
            decay_speed: config.params.decay_speed,
            window_seconds: config.params.window_seconds,
            display: match config.display {
                Display::Combined => DisplayName::Combined,
                Display::Split => DisplayName::Split,
            },
            theme: config.theme.clone(),
        }
    }
}

impl From<ConfigRecord> for VersionedConfig {
    fn from(record: ConfigRecord) -> Self {
        let model = match record.model {
            ModelName::Decay => Model::Decay,
            ModelName::Window => Model::Window,
        };
        VersionedConfig {
            version: record.version,
            config: Config {
                for_triggers: record.for_triggers,
                against_triggers: record.against_triggers,
                for_label: record.for_label,
                against_label: record.against_label,
                params: Params {
                    model,
                    vote_delta: record.vote_delta,
                    decay_speed: record.decay_speed,
                    window_seconds: record.window_seconds,
                },
                display: match record.display {
                    DisplayName::Combined => Display::Combined,
                    DisplayName::Split => Display::Split,
                },
                theme: record.theme,
            },
        }
    }
}

#[derive(Deserialize)]
struct RegisteredData {
    twitch_user_id: String,
    login: String,
    display_name: String,
    overlay_uuid: Uuid,
    config: ConfigRecord,
}

#[derive(Deserialize)]
struct ConfigChangedData {
    config: ConfigRecord,
}

#[derive(Deserialize)]
struct OverlayRotatedData {
    overlay_uuid: Uuid,
}

#[derive(Deserialize)]
struct SubscriptionData {
    #[serde(rename = "type")]
    subscription_type: String,
}

#[derive(Deserialize)]
struct ConfirmedData {
    #[serde(rename = "type")]
    subscription_type: String,
    subscription_id: String,
    conduit_id: String,
}

#[derive(Deserialize)]
struct RevokedData {
    #[serde(rename = "type")]
    subscription_type: String,
    subscription_id: String,
    reason: String,
    recoverable: bool,
}

#[derive(Deserialize)]
struct RecordingData {
    recorded: bool,
}

#[derive(Deserialize)]
struct WentLiveData {
    stream_id: String,
    started_at: i64,
}

#[derive(Deserialize)]
struct StreamEndedData {
    stream_id: String,
}

#[derive(Deserialize)]
struct ChatHealthData {
    health: String,
    reason: Option<String>,
    last_message_at: Option<i64>,
}

#[derive(Deserialize)]
struct ProfileData {
    login: String,
    display_name: String,
}

/// Brings one event type's data from `from` to the next schema version.
struct Upcaster {
    event_type: &'static str,
    from: i32,
    upcast: fn(&mut Value),
}

/// Every change of an event's shape stands here, oldest first.
const UPCASTERS: &[Upcaster] = &[Upcaster {
    // The first shape had no display name; Twitch shows the login where there is none.
    event_type: "StreamerRegistered",
    from: 1,
    upcast: |data| data["display_name"] = data["login"].clone(),
}];

/// The schema version in which events of a type are written today.
fn newest_version(event_type: &str) -> i32 {
    let newest = UPCASTERS.iter().filter(|upcaster| upcaster.event_type == event_type);
    newest.map(|upcaster| upcaster.from + 1).max().unwrap_or(1)
}

/// `data` in today's shape.
fn upcast(event_type: &str, schema_version: i32, mut data: Value) -> Result<Value, JournalError> {
    let newest = newest_version(event_type);
    if schema_version > newest {
        let detail = format!("{event_type} in schema version {schema_version}; this release knows {newest}");
        return Err(JournalError::Unreadable(detail));
    }
    for version in schema_version..newest {
        let step = UPCASTERS.iter().find(|step| step.event_type == event_type && step.from == version);
        if let Some(step) = step {
            (step.upcast)(&mut data);
        }
    }
    Ok(data)
}

fn decode<T: serde::de::DeserializeOwned>(event_type: &str, data: Value) -> Result<T, JournalError> {
    serde_json::from_value(data).map_err(|error| JournalError::Unreadable(format!("{event_type}: {error}")))
}

/// A streamer's event as it is written.
pub fn encode_streamer_event(event: &streamer::Event) -> Encoded {
    let (event_type, data) = match event {
        streamer::Event::Registered { id: _, profile, overlay_uuid, config } => {
            let config = ConfigRecord::from(&VersionedConfig { version: 1, config: config.clone() });
            let data = json!({
                "twitch_user_id": profile.twitch_user_id, "login": profile.login,
                "display_name": profile.display_name, "overlay_uuid": overlay_uuid, "config": config,
            });
            ("StreamerRegistered", data)
        }
        streamer::Event::ConfigChanged(config) => {
            ("ConfigChanged", json!({ "config": ConfigRecord::from(config) }))
        }
        streamer::Event::OverlayRotated { overlay_uuid } => {
            ("OverlayRotated", json!({ "overlay_uuid": overlay_uuid }))
        }
        streamer::Event::SubscriptionRequested { subscription_type } => {
            ("SubscriptionRequested", json!({ "type": subscription_type }))
        }
        streamer::Event::SubscriptionConfirmed { subscription_type, subscription_id, conduit_id } => {
            let data = json!({
                "type": subscription_type, "subscription_id": subscription_id, "conduit_id": conduit_id,
            });
            ("SubscriptionConfirmed", data)
        }
        streamer::Event::SubscriptionRevoked { subscription_type, subscription_id, reason, recoverable } => {
            let data = json!({
                "type": subscription_type, "subscription_id": subscription_id, "reason": reason,
                "recoverable": recoverable,
            });
            ("SubscriptionRevoked", data)
        }
        streamer::Event::ProfileChanged { login, display_name } => {
            ("ProfileChanged", json!({ "login": login, "display_name": display_name }))
        }
        streamer::Event::RecordingChanged { recorded } => {
            ("RecordingChanged", json!({ "recorded": recorded }))
        }
        streamer::Event::StreamWentLive(Stream { id, started_at }) => {
            ("StreamWentLive", json!({ "stream_id": id, "started_at": started_at.0 }))
        }
        streamer::Event::StreamEnded { stream_id } => ("StreamEnded", json!({ "stream_id": stream_id })),
        streamer::Event::ChatHealthChanged { health, reason, last_message_at } => {
            let last_message_at = last_message_at.map(|at| at.0);
            let data =
                json!({ "health": health.name(), "reason": reason, "last_message_at": last_message_at });
            ("ChatHealthChanged", data)
        }
        streamer::Event::Disabled => ("StreamerDisabled", json!({})),
        streamer::Event::Enabled => ("StreamerEnabled", json!({})),
    };
    Encoded { event_type, schema_version: newest_version(event_type), data }
}

/// A streamer's event as it was written, whichever release wrote it.
///
/// # Errors
/// [`JournalError::Unreadable`] for a type or shape that this release does not know.
pub fn decode_streamer_event(
    id: Uuid,
    event_type: &str,
    schema_version: i32,
    data: Value,
) -> Result<streamer::Event, JournalError> {
    let data = upcast(event_type, schema_version, data)?;
    Ok(match event_type {
        "StreamerRegistered" => {
            let data: RegisteredData = decode(event_type, data)?;
            let profile = Profile {
                twitch_user_id: data.twitch_user_id,
                login: data.login,
                display_name: data.display_name,
            };
            let config = VersionedConfig::from(data.config).config;
            streamer::Event::Registered { id, profile, overlay_uuid: data.overlay_uuid, config }
        }
        "ConfigChanged" => {
            streamer::Event::ConfigChanged(decode::<ConfigChangedData>(event_type, data)?.config.into())
        }
        "OverlayRotated" => streamer::Event::OverlayRotated {
            overlay_uuid: decode::<OverlayRotatedData>(event_type, data)?.overlay_uuid,
        },
        "SubscriptionRequested" => streamer::Event::SubscriptionRequested {
            subscription_type: decode::<SubscriptionData>(event_type, data)?.subscription_type,
        },
        "SubscriptionConfirmed" => {
            let ConfirmedData { subscription_type, subscription_id, conduit_id } = decode(event_type, data)?;
            streamer::Event::SubscriptionConfirmed { subscription_type, subscription_id, conduit_id }
        }
        "SubscriptionRevoked" => {
            let RevokedData { subscription_type, subscription_id, reason, recoverable } =
                decode(event_type, data)?;
            streamer::Event::SubscriptionRevoked { subscription_type, subscription_id, reason, recoverable }
        }
        "ProfileChanged" => {
            let ProfileData { login, display_name } = decode(event_type, data)?;
            streamer::Event::ProfileChanged { login, display_name }
        }
        "RecordingChanged" => streamer::Event::RecordingChanged {
            recorded: decode::<RecordingData>(event_type, data)?.recorded,
        },
        "StreamWentLive" => {
            let WentLiveData { stream_id: id, started_at } = decode(event_type, data)?;
            streamer::Event::StreamWentLive(Stream { id, started_at: Millis(started_at) })
        }
        "StreamEnded" => {
            streamer::Event::StreamEnded { stream_id: decode::<StreamEndedData>(event_type, data)?.stream_id }
        }
        "ChatHealthChanged" => {
            let ChatHealthData { health, reason, last_message_at } = decode(event_type, data)?;
            let unknown = || JournalError::Unreadable(format!("a chat that is {health}"));
            let health = ChatHealth::named(&health).ok_or_else(unknown)?;
            let last_message_at = last_message_at.map(Millis);
            streamer::Event::ChatHealthChanged { health, reason, last_message_at }
        }
        "StreamerDisabled" => streamer::Event::Disabled,
        "StreamerEnabled" => streamer::Event::Enabled,
        other => return Err(JournalError::Unreadable(format!("a streamer's event of type {other}"))),
    })
}

#[cfg(test)]
mod tests;
