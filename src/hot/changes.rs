//! What changed in the mirror since an instance last looked, bucket by bucket.

use deadpool_redis::redis::{Cmd, FromRedisValue, Value, cmd};
use uuid::Uuid;

use super::functions::Function;
use super::keys::{self, Bucket};
use super::mirror::CHANGE_LOG_TTL_MS;
use super::pool::answer;
use super::{Hot, HotError};

/// Changes one answer holds at most; the rest comes with the next.
pub const CHANGES_MAX: usize = 1000;

/// How far a bucket's change log has been read. The default one has read nothing: its first
/// answer is a reset.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Cursor {
    place: Option<Place>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    server_generation: u64,
    epoch: String,
    number: i64,
}

impl Cursor {
    /// The cursor of a place in a log; which places there are, only the server knows.
    pub fn at(server_generation: u64, epoch: String, number: i64) -> Cursor {
        Cursor { place: Some(Place { server_generation, epoch, number }) }
    }

    /// The server's generation, the log's epoch and the change number last seen; `None` at first.
    pub fn place(&self) -> Option<(u64, &str, i64)> {
        self.place.as_ref().map(|place| (place.server_generation, place.epoch.as_str(), place.number))
    }
}

/// A streamer whose mirrored state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub streamer_id: Uuid,
    /// The frame version that was mirrored: who has it, or a newer one, need not read it.
    pub version: i64,
}

/// What became of a bucket since a cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    pub bucket: Bucket,
    /// Where to go on.
    pub cursor: Cursor,
    /// Changes may have been missed (flushed, rolled back, another server, too far behind): take
    /// the heads of the own sessions of this bucket from the journal and mirror them.
    pub reset: bool,
    /// Oldest first; empty after a reset.
    pub changed: Vec<Change>,
}

/// A sign by which to see that nothing has changed in any bucket: as long as it stays the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulse {
    server_generation: u64,
    /// Random, new with each change of another instance; `None` after a flush.
    value: Option<String>,
}

impl Pulse {
    /// The pulse of a server that was heard.
    pub fn of(server_generation: u64, value: Option<String>) -> Pulse {
        Pulse { server_generation, value }
    }
}

/// The pulses between which nobody but this instance has changed anything.
///
/// What an instance changes it knows already. A beat answers the value that it takes the place of: as long as that is
/// the one known last, nobody else has beaten in between.
#[derive(Debug, Default)]
pub(super) struct OwnBeats {
    /// The value that was heard, and by which the logs were asked.
    first: Option<String>,
    /// The value after the beats of this instance that followed it.
    last: Option<String>,
}

impl OwnBeats {
    fn note(&mut self, before: &Option<String>, value: String) {
        if before.is_some() && *before == self.last {
            self.last = Some(value);
        }
    }

    /// The value that was heard as one that changes with other instances' beats only.
    fn heard(&mut self, value: Option<String>) -> Option<String> {
        if value.is_none() || value != self.last {
            self.first = value.clone();
            self.last = value;
        }
        self.first.clone()
    }
}

/// A beat of the pulse, sent after the changes it tells of: who hears it before they are there hears it too early,
/// and misses them.
pub(super) struct Beat(String);

impl Beat {
    /// Another one each time, also within one call: somebody may listen between two beats.
    pub(super) fn new() -> Beat {
        Beat(Uuid::new_v4().simple().to_string())
    }

    pub(super) fn command(&self) -> Cmd {
        let mut set = cmd("SET");
        set.arg(keys::pulse()).arg(&self.0).arg("PX").arg(CHANGE_LOG_TTL_MS).arg("GET");
        set
    }
}

impl Hot {
    /// Notes the answer to a beat.
    pub(super) fn note_beat(&self, beat: Beat, answered: Value) {
        // What is no value breaks the chain: then the logs are asked.
        if let Ok(before) = answer::<Option<String>>(answered) {
            self.own_beats().note(&before, beat.0);
        }
    }

    /// The pulse of all change logs, which stays the same while only this instance changes something. It may be
    /// lost, or come a moment after a change; so the logs have to be asked now and then also while it stays the same.
    ///
    /// # Errors
    /// [`HotError`].
    pub async fn pulse(&self) -> Result<Pulse, HotError> {
        // Read before asking: if the server changes meanwhile, the next call notices.
        let server_generation = self.server_generation();
        let mut get = cmd("GET");
        get.arg(keys::pulse());
        let value = self.ask(get).await?;
        Ok(Pulse { server_generation, value: self.own_beats().heard(value) })
    }

    /// What changed in each bucket since its cursor, in the same order. Begins the logs that are not
    /// there.
    ///
    /// # Errors
    /// [`HotError`], also when the server can't be written to: then nothing can be mirrored, so that
    /// its silence would mean nothing. All cursors stay valid.
    pub async fn changes_since(&self, cursors: &[(Bucket, Cursor)]) -> Result<Vec<Changes>, HotError> {
        // Read before asking: if the server changes meanwhile, the next call notices.
        let server_generation = self.server_generation();
        let new_epoch = Uuid::new_v4().simple().to_string();
        let commands = cursors.iter().map(|(bucket, cursor)| {
            let mut call =
                Function::ChangesSince.call(&[keys::changes(*bucket), keys::changes_epoch(*bucket)]);
            let (epoch, number) =
                cursor.place.as_ref().map_or(("", 0), |place| (place.epoch.as_str(), place.number));
            call.arg(epoch).arg(number).arg(CHANGES_MAX).arg(&new_epoch).arg(CHANGE_LOG_TTL_MS);
            call
        });
        let answers = self.send(commands.collect()).await?;
        let each = cursors.iter().zip(answers);
        each.map(|((bucket, cursor), value)| changes_of(*bucket, cursor, value, server_generation)).collect()
    }
}

fn changes_of(
    bucket: Bucket,
    cursor: &Cursor,
    value: Value,
    server_generation: u64,
) -> Result<Changes, HotError> {
    let mut items = answer::<Vec<Value>>(value)?.into_iter();
    let verdict: String = next(&mut items)?;
    let epoch: String = next(&mut items)?;
    let number: i64 = next(&mut items)?;
    let same_server = cursor.place.as_ref().is_some_and(|place| place.server_generation == server_generation);
    let reset = verdict != "changes" || !same_server;
    let mut changed = Vec::new();
    while !reset && items.len() > 0 {
        let streamer_id: String = next(&mut items)?;
        let streamer_id = streamer_id.parse().map_err(|_| HotError::Answer(streamer_id))?;
        changed.push(Change { streamer_id, version: next(&mut items)? });
    }
    let cursor = Cursor { place: Some(Place { server_generation, epoch, number }) };
    Ok(Changes { bucket, cursor, reset, changed })
}

fn next<T: FromRedisValue>(items: &mut impl Iterator<Item = Value>) -> Result<T, HotError> {
    answer(items.next().ok_or_else(|| HotError::Answer("a change log that breaks off".into()))?)
}
