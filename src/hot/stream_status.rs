//! What was last seen of broadcasters' streams, for some minutes: so that Twitch is not asked by each instance.

use deadpool_redis::redis::{Cmd, Value, cmd};
use serde::{Deserialize, Serialize};

use super::pool::answer;
use super::{Hot, HotError, keys};
use crate::domain::stream::{Stream, StreamSeen};
use crate::domain::time::Millis;

/// Under which module the cache's keys stand.
const MODULE: &str = "stream";
/// How long what was seen counts as known.
const LIFE_MS: u64 = 300 * 1000;

/// What was last seen of streams, by the broadcaster's id on Twitch.
#[derive(Clone)]
pub struct StreamStatuses {
    redis: Hot,
}

impl StreamStatuses {
    /// The statuses on the server behind `redis`.
    pub fn new(redis: Hot) -> StreamStatuses {
        StreamStatuses { redis }
    }

    /// What was seen of each of these broadcasters' streams in the last 300 s, in their order; `None` where nothing
    /// was, or where it can't be read.
    ///
    /// # Errors
    /// [`HotError`] when it is not known.
    pub async fn get(&self, twitch_user_ids: &[String]) -> Result<Vec<Option<StreamSeen>>, HotError> {
        let commands = twitch_user_ids.iter().map(|id| {
            let mut get = cmd("GET");
            get.arg(keys::cache(MODULE, id));
            get
        });
        let answers = self.redis.send(commands.collect()).await?;
        answers.into_iter().map(status).collect()
    }

    /// Remembers what Twitch told of a stream, in place of what was known.
    ///
    /// # Errors
    /// [`HotError`]; it may be remembered.
    pub async fn put(&self, twitch_user_id: &str, seen: &StreamSeen) -> Result<(), HotError> {
        self.redis.ask(set(twitch_user_id, seen)?).await
    }

    /// Remembers what Twitch answered of streams, each where nothing is known: it may have told something newer since it
    /// was asked.
    ///
    /// # Errors
    /// [`HotError`]; some of it may be remembered.
    pub async fn put_unknown(&self, statuses: &[(String, StreamSeen)]) -> Result<(), HotError> {
        let mut commands = Vec::with_capacity(statuses.len());
        for (twitch_user_id, seen) in statuses {
            let mut set = set(twitch_user_id, seen)?;
            set.arg("NX");
            commands.push(set);
        }
        for value in self.redis.send(commands).await? {
            answer::<Option<String>>(value)?;
        }
        Ok(())
    }
}

/// A status as it stands in a value, as JSON.
#[derive(Serialize, Deserialize)]
#[serde(tag = "stream", rename_all = "lowercase")]
enum Record {
    Live { id: String, started_at: i64 },
    Offline { id: Option<String> },
}

fn set(twitch_user_id: &str, seen: &StreamSeen) -> Result<Cmd, HotError> {
    let mut set = cmd("SET");
    set.arg(keys::cache(MODULE, twitch_user_id)).arg(json_of(seen)?).arg("PX").arg(LIFE_MS);
    Ok(set)
}

fn json_of(seen: &StreamSeen) -> Result<Vec<u8>, HotError> {
    let record = match seen.clone() {
        StreamSeen::Live(Stream { id, started_at }) => Record::Live { id, started_at: started_at.0 },
        StreamSeen::Offline { stream_id } => Record::Offline { id: stream_id },
    };
    serde_json::to_vec(&record)
        .map_err(|error| HotError::Answer(format!("a stream's status can't be written: {error}")))
}

/// The status of a value; `None` also of one that this release can't read, which is as good as forgotten.
fn status(value: Value) -> Result<Option<StreamSeen>, HotError> {
    let json: Option<Vec<u8>> = answer(value)?;
    let record = json.and_then(|json| serde_json::from_slice::<Record>(&json).ok());
    Ok(record.map(|record| match record {
        Record::Live { id, started_at } => StreamSeen::Live(Stream { id, started_at: Millis(started_at) }),
        Record::Offline { id } => StreamSeen::Offline { stream_id: id },
    }))
}
