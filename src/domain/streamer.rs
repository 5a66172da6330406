//! A broadcaster who uses ChatPulse: `decide` says which events a command brings about, `evolve`
//! says what an event does to the state.

use uuid::Uuid;

use super::config::{Config, Problem, VersionedConfig, check_text};
use super::stream::{ChatHealth, Stream};
use super::time::Millis;

/// Characters of a Twitch user id at most. Twitch calls ids opaque strings.
const TWITCH_ID_CHARS_MAX: usize = 64;
/// Characters of a login or a display name at most.
const NAME_CHARS_MAX: usize = 100;

/// A streamer as their events have made them.
#[derive(Clone, Debug, PartialEq)]
pub struct Streamer {
    pub id: Uuid,
    /// The version of the last event folded.
    pub version: i64,
    pub profile: Profile,
    /// The secret in the overlay's URL.
    pub overlay_uuid: Uuid,
    pub disabled: bool,
    pub config: VersionedConfig,
}

/// Who a streamer is on Twitch.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    pub twitch_user_id: String,
    pub login: String,
    pub display_name: String,
}

/// What was asked of a streamer.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Register {
        id: Uuid,
        profile: Profile,
        overlay_uuid: Uuid,
        config: Config,
    },
    /// `edited_version` is the version of the config that the editor saw.
    ChangeConfig {
        edited_version: i64,
        config: Config,
    },
    RotateOverlay {
        overlay_uuid: Uuid,
    },
    /// The streamer's names on Twitch, as they are today.
    ChangeProfile {
        login: String,
        display_name: String,
    },
    Disable,
    Enable,
}

/// What happened to a streamer.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Registered {
        id: Uuid,
        profile: Profile,
        overlay_uuid: Uuid,
        config: Config,
    },
    ConfigChanged(VersionedConfig),
    OverlayRotated {
        overlay_uuid: Uuid,
    },
    /// Chat messages of this streamer are wanted from Twitch.
    SubscriptionRequested {
        subscription_type: String,
    },
    /// Twitch has a subscription that was requested.
    SubscriptionConfirmed {
        subscription_type: String,
        /// Twitch's id of it.
        subscription_id: String,
        conduit_id: String,
    },
    /// Twitch has ended a subscription, or does not have it.
    SubscriptionRevoked {
        subscription_type: String,
        subscription_id: String,
        reason: String,
        /// Whether asking for it again may help.
        recoverable: bool,
    },
    /// Streams are recorded from now on, or not any more.
    RecordingChanged {
        recorded: bool,
    },
    /// Twitch shows that a stream is live.
    StreamWentLive(Stream),
    /// Twitch shows that it is over.
    StreamEnded {
        /// Twitch's id of the stream.
        stream_id: String,
    },
    /// The chat is doing otherwise than before.
    ChatHealthChanged {
        health: ChatHealth,
        reason: Option<String>,
        /// The last message that is known of.
        last_message_at: Option<Millis>,
    },
    /// The streamer has other names on Twitch.
    ProfileChanged {
        login: String,
        display_name: String,
    },
    Disabled,
    Enabled,
}

/// Why a command brings about nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the streamer does not exist")]
    Unknown,
    #[error("the streamer exists already")]
    AlreadyRegistered,
    #[error("the config moved on to version {current}; load it again and repeat the change")]
    ConfigMovedOn { current: i64 },
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
}

/// The events that `command` brings about; none for disabling what is disabled and enabling what is
/// enabled. Saving the same config again is a change: its editor gets a new version.
///
/// # Errors
/// [`Refusal`] when the command is invalid or the state does not allow it.
pub fn decide(command: Command, state: Option<&Streamer>) -> Result<Vec<Event>, Refusal> {
    let streamer = match (&command, state) {
        (Command::Register { .. }, None) => None,
        (Command::Register { .. }, Some(_)) => return Err(Refusal::AlreadyRegistered),
        (_, None) => return Err(Refusal::Unknown),
        (_, Some(streamer)) => Some(streamer),
    };
    let disabled = streamer.is_some_and(|streamer| streamer.disabled);
    Ok(match command {
        Command::Register { id, profile, overlay_uuid, config } => {
            let mut problems = profile.problems();
            problems.extend(config.problems());
            refuse(problems)?;
            vec![Event::Registered { id, profile, overlay_uuid, config }]
        }
        Command::ChangeConfig { edited_version, config } => {
            let current = streamer.map_or(0, |streamer| streamer.config.version);
            if edited_version != current {
                return Err(Refusal::ConfigMovedOn { current });
            }
            refuse(config.problems())?;
            vec![Event::ConfigChanged(VersionedConfig { version: current + 1, config })]
        }
        Command::ChangeProfile { login, display_name } => {
            let mut problems = Vec::new();
            check_names(&login, &display_name, &mut problems);
            refuse(problems)?;
            vec![Event::ProfileChanged { login, display_name }]
        }
        Command::RotateOverlay { overlay_uuid } => vec![Event::OverlayRotated { overlay_uuid }],
        Command::Disable if !disabled => vec![Event::Disabled],
        Command::Enable if disabled => vec![Event::Enabled],
        Command::Disable | Command::Enable => Vec::new(),
    })
}

/// The state after `event`. An event that does not fit the state only counts its version.
pub fn evolve(state: Option<Streamer>, event: &Event) -> Option<Streamer> {
    let Some(mut streamer) = state else {
        let Event::Registered { id, profile, overlay_uuid, config } = event else { return None };
        return Some(Streamer {
            id: *id,
            version: 1,
            profile: profile.clone(),
            overlay_uuid: *overlay_uuid,
            disabled: false,
            config: VersionedConfig { version: 1, config: config.clone() },
        });
    };
    streamer.version += 1;
    match event {
        Event::Registered { .. }
        | Event::SubscriptionRequested { .. }
        | Event::SubscriptionConfirmed { .. }
        | Event::SubscriptionRevoked { .. }
        | Event::RecordingChanged { .. }
        | Event::StreamWentLive(_)
        | Event::StreamEnded { .. }
        | Event::ChatHealthChanged { .. } => {}
        Event::ProfileChanged { login, display_name } => {
            streamer.profile.login = login.clone();
            streamer.profile.display_name = display_name.clone();
        }
        Event::ConfigChanged(config) => streamer.config = config.clone(),
        Event::OverlayRotated { overlay_uuid } => streamer.overlay_uuid = *overlay_uuid,
        Event::Disabled => streamer.disabled = true,
        Event::Enabled => streamer.disabled = false,
    }
    Some(streamer)
}

impl Profile {
    /// Everything that is wrong with this profile; empty when it can be saved.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let id = &self.twitch_user_id;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if id.is_empty() || id.len() > TWITCH_ID_CHARS_MAX || !id.bytes().all(allowed) {
            let detail =
                format!("is no Twitch user id; it has to be 1 to {TWITCH_ID_CHARS_MAX} letters or digits");
            problems.push(Problem { field: "twitch_user_id", detail });
        }
        check_names(&self.login, &self.display_name, &mut problems);
        problems
    }
}

fn check_names(login: &str, display_name: &str, problems: &mut Vec<Problem>) {
    check_text("login", login, NAME_CHARS_MAX, problems);
    check_text("display_name", display_name, NAME_CHARS_MAX, problems);
}

/// All problems in one sentence.
fn list(problems: &[Problem]) -> String {
    let named: Vec<String> =
        problems.iter().map(|problem| format!("{} {}", problem.field, problem.detail)).collect();
    format!("this can't be saved: {}", named.join("; "))
}

fn refuse(problems: Vec<Problem>) -> Result<(), Refusal> {
    if problems.is_empty() { Ok(()) } else { Err(Refusal::Invalid(problems)) }
}

#[cfg(test)]
mod tests;
