//! A broadcaster's stream on Twitch, and how its chat is doing.

use super::time::Millis;

/// A stream that is live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Twitch's id of it.
    pub id: String,
    pub started_at: Millis,
}

/// What is seen of a broadcaster's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamSeen {
    Live(Stream),
    Offline {
        /// Which stream has ended, where that is known.
        stream_id: Option<String>,
    },
}

/// How a streamer's chat is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChatHealth {
    /// It is heard, or nobody needs it.
    Well,
    /// The stream is live and the chat is subscribed to, but nothing has been heard for a while.
    Silent,
    /// It can't be read: Twitch refuses, or does not do it for a while.
    Blocked,
    /// It can't be read because the streamer's authorization is lost.
    Unauthorized,
}

impl ChatHealth {
    /// Everything that is not well.
    pub const TROUBLES: [ChatHealth; 3] = [ChatHealth::Silent, ChatHealth::Blocked, ChatHealth::Unauthorized];

    /// The name in events, rows and metrics.
    pub fn name(self) -> &'static str {
        match self {
            ChatHealth::Well => "well",
            ChatHealth::Silent => "silent",
            ChatHealth::Blocked => "blocked",
            ChatHealth::Unauthorized => "unauthorized",
        }
    }

    /// What has this name.
    pub fn named(name: &str) -> Option<ChatHealth> {
        let all = [ChatHealth::Well].into_iter().chain(ChatHealth::TROUBLES);
        all.into_iter().find(|health| health.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_health_is_found_by_its_name() {
        for health in [ChatHealth::Well].into_iter().chain(ChatHealth::TROUBLES) {
            assert_eq!(ChatHealth::named(health.name()), Some(health));
        }
        assert_eq!(ChatHealth::named("new"), None);
    }
}
