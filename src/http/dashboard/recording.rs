//! Whether the streamer's streams are recorded, in words.

use super::times;
use crate::domain::time::Millis;
use crate::journal::recordings::StreamStanding;

/// How recording stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    pub on: bool,
    pub sentence: String,
}

impl Recording {
    /// `held`: whether the recording holds the session that is going on.
    pub fn of(standing: &StreamStanding, held: bool, now: Millis) -> Recording {
        let on = standing.recorded == Some(true);
        let sentence = match &standing.stream {
            // Twitch is not asked about streams that nobody records: what is known of them may be old.
            _ if !on => "Recording is off. Votes count only while an overlay is open.".to_owned(),
            None => "Your stream is offline. It is recorded whenever you are live.".to_owned(),
            Some(stream) => {
                let since = times::clock(stream.started_at, now);
                let recorded =
                    if held { " and is being recorded." } else { ". Its recording begins in a moment." };
                format!("Your stream is live since {since}{recorded}")
            }
        };
        Recording { on, sentence }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::stream::{ChatHealth, Stream};

    fn told(recorded: Option<bool>, live: bool, held: bool) -> Recording {
        let noon = Millis(43_380_000);
        let standing = StreamStanding {
            recorded,
            stream: live.then(|| Stream { id: "1".into(), started_at: noon }),
            health: ChatHealth::Well,
            health_reason: None,
            health_since: None,
            last_message_at: None,
        };
        Recording::of(&standing, held, noon)
    }

    #[test]
    fn each_state_is_told_plainly() {
        let on = |live, held| told(Some(true), live, held).sentence;
        assert_eq!(on(true, true), "Your stream is live since 12:03 UTC and is being recorded.");
        assert_eq!(on(true, false), "Your stream is live since 12:03 UTC. Its recording begins in a moment.");
        assert_eq!(on(false, false), "Your stream is offline. It is recorded whenever you are live.");
    }

    #[test]
    fn a_stream_that_nobody_records_is_not_said_to_be_live() {
        for recorded in [None, Some(false)] {
            let off = told(recorded, true, false);
            assert!(!off.on && off.sentence.starts_with("Recording is off."), "{off:?}");
        }
    }
}
