//! The mirror of the sessions' heads: absolute states, the newer version wins.

use std::collections::HashMap;
use std::str::FromStr;

use deadpool_redis::redis::{Cmd, Value, cmd};
use uuid::Uuid;

use super::changes::Beat;
use super::functions::Function;
use super::keys::{self, Bucket};
use super::pool::answer;
use super::{Hot, HotError};
use crate::domain::rank;
use crate::domain::sentiment::{Model, Mood, Params, SecondTally};
use crate::domain::session::Session;
use crate::domain::time::Millis;

/// Streamers a bucket's change log keeps at most.
const CHANGE_LOG_MAX: usize = 16_384;
/// How long a change log lives without a change.
pub(super) const CHANGE_LOG_TTL_MS: u64 = 24 * 3600 * 1000;
/// How long a session and who holds it stay without a whole write of the one or a write of the other. Live sessions need no life:
/// it is for those whose end was noted by nobody, because all who knew them died.
pub(super) const SESSION_TTL_MS: u64 = 48 * 3600 * 1000;
/// Once in so many versions of a session its whole state is written, which renews the life of its keys.
const WHOLE_EVERY: i64 = 64;
/// How long the end of a session is remembered, so that a late write can't bring it back.
const ENDED_TTL_MS: u64 = 10 * 60 * 1000;
/// How long a broadcaster key outlives the last whole write of its session. It goes with the session; the
/// life is for one that a late write brings back, since its slot is another than the session's.
const BROADCASTER_TTL_S: u64 = 7 * 24 * 3600;
/// Errors by which a server says that it takes no writes for now: out of memory, can't save, too few
/// replicas, busy with a function, not permitted.
const NO_WRITES: [&str; 5] = ["OOM", "MISCONF", "NOREPLICAS", "BUSY", "NOPERM"];

/// A session's state to be mirrored.
#[derive(Clone, Copy, Debug)]
pub struct MirrorEntry<'a> {
    pub session_id: Uuid,
    pub twitch_user_id: &'a str,
    /// A live session; for an ended one there is [`Hot::remove`].
    pub session: &'a Session,
    /// The streamer's config as JSON, for whoever reads the hash.
    pub config_json: &'a str,
    /// The version of that config. Not always the session's: a vote may have been cast before a change and
    /// committed after it.
    pub config_json_version: i64,
}

/// What became of a state, or of holders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mirrored {
    Written,
    /// The same or something newer is there, or the session has ended.
    Older,
    /// The server refused this state; other states of the call are not concerned.
    Refused(String),
}

/// A session as it stands in the mirror.
#[derive(Clone, Debug, PartialEq)]
pub struct HotSession {
    pub session_id: Uuid,
    pub twitch_user_id: String,
    /// As it was mirrored.
    pub session: Session,
    pub config_json: String,
    /// When the last instance let go of the session; `None` while one holds it.
    pub last_disconnect: Option<Millis>,
    /// The value at the time asked for.
    pub value_now: f64,
}

impl Hot {
    /// Writes the states, each only if it is newer than what is there, and answers in their order. What
    /// votes change is tried first; the whole state is written where that does not do.
    ///
    /// # Errors
    /// [`HotError`] when it is not known what became of the states; writing them again is safe.
    pub async fn mirror(&self, entries: &[MirrorEntry<'_>]) -> Result<Vec<Mirrored>, HotError> {
        let new_epoch = Uuid::new_v4().simple().to_string();
        let (moves, mut whole): (Vec<usize>, Vec<usize>) =
            (0..entries.len()).partition(|place| entries[*place].session.version % WHOLE_EVERY != 0);
        let mut mirrored = vec![Mirrored::Older; entries.len()];
        let calls = moves.iter().map(|place| move_call(&entries[*place], &new_epoch)).collect();
        for (place, value) in moves.iter().zip(self.send_with_beat(calls).await?) {
            match moved(value)? {
                Some(known) => mirrored[*place] = known,
                None => whole.push(*place),
            }
        }
        // Once before, because a state that is there is not written again when only this failed; and once
        // after, because the removal of the session before may come in between.
        let broadcaster = |place: &usize| {
            broadcaster_call(entries[*place].twitch_user_id, entries[*place].session.streamer_id)
        };
        self.send(whole.iter().map(broadcaster).collect()).await?;
        let state = |place: &usize| mirror_call(&entries[*place], &new_epoch, CHANGE_LOG_MAX);
        let commands = whole.iter().flat_map(|place| [state(place), broadcaster(place)]).collect();
        // Every second answer is the broadcaster key's.
        let answers = self.send_with_beat(commands).await?.into_iter().step_by(2);
        for (place, value) in whole.iter().zip(answers) {
            mirrored[*place] = written(value)?;
        }
        if self.is_cluster() {
            // A beat that is refused says nothing of the states: others see them some seconds later.
            let beat = Beat::new();
            let answered = self.send(vec![beat.command()]).await?;
            if let Some(answered) = answered.into_iter().next() {
                self.note_beat(beat, answered);
            }
        }
        Ok(mirrored)
    }

    /// Sends changes, and after them a beat of the pulse: one server serves commands in their order. A cluster's may
    /// differ, so its beat has to be sent when the changes are answered.
    async fn send_with_beat(&self, mut changes: Vec<Cmd>) -> Result<Vec<Value>, HotError> {
        if changes.is_empty() || self.is_cluster() {
            return self.send(changes).await;
        }
        let beat = Beat::new();
        changes.push(beat.command());
        let mut answers = self.send(changes).await?;
        if let Some(answered) = answers.pop() {
            self.note_beat(beat, answered);
        }
        Ok(answers)
    }

    /// The session of a streamer as it stands at `now`; `None` when the mirror has none.
    ///
    /// # Errors
    /// [`HotError`].
    pub async fn read(&self, streamer_id: Uuid, now: Millis) -> Result<Option<HotSession>, HotError> {
        Ok(self.read_all(&[streamer_id], now).await?.pop().flatten())
    }

    /// The sessions of several streamers as they stand at `now`, in their order.
    ///
    /// # Errors
    /// [`HotError`], also when one of the sessions can't be understood.
    pub async fn read_all(
        &self,
        streamer_ids: &[Uuid],
        now: Millis,
    ) -> Result<Vec<Option<HotSession>>, HotError> {
        let commands = streamer_ids.iter().map(|streamer_id| {
            let mut call = Function::Read.call(&[keys::session(*streamer_id)]);
            call.arg(now.0);
            call
        });
        let answers = self.send(commands.collect()).await?;
        streamer_ids.iter().zip(answers).map(|(id, value)| hot_session(*id, &answer(value)?)).collect()
    }

    /// Which of these Twitch broadcasters have a session in the mirror, in their order. One that has
    /// just started or ended may be told wrongly.
    ///
    /// # Errors
    /// [`HotError`].
    pub async fn are_live(&self, twitch_user_ids: &[String]) -> Result<Vec<bool>, HotError> {
        let exists = |id: &String| {
            let mut exists = cmd("EXISTS");
            exists.arg(keys::broadcaster(id));
            exists
        };
        let answers = self.send(twitch_user_ids.iter().map(exists).collect()).await?;
        answers.into_iter().map(answer).collect()
    }

    /// Removes all keys of an ended session but for a newer one's, and answers whether it did:
    /// `false` says that a newer session of the streamer is there.
    ///
    /// # Errors
    /// [`HotError`]; removing again is safe.
    pub async fn remove(&self, streamer_id: Uuid, ordinal: i64) -> Result<bool, HotError> {
        let bucket = Bucket::of(streamer_id);
        let mut call = Function::Remove.call(&[
            keys::session(streamer_id),
            keys::refs(streamer_id),
            keys::changes(bucket),
            keys::changes_epoch(bucket),
            keys::orphans(bucket),
            keys::ended(streamer_id),
        ]);
        call.arg(streamer_id.to_string()).arg(ordinal).arg(ENDED_TTL_MS);
        let removed: Option<String> = self.ask(call).await?;
        let Some(twitch_user_id) = removed else { return Ok(false) };
        if !twitch_user_id.is_empty() {
            // In another slot, hence another command. A session that started in between has lost the key.
            let mut call = Function::DeleteIfHolds.call(&[keys::broadcaster(&twitch_user_id)]);
            call.arg(streamer_id.to_string());
            self.ask::<()>(call).await?;
            let mut exists = cmd("HEXISTS");
            exists.arg(keys::session(streamer_id)).arg("version");
            if self.ask(exists).await? {
                self.ask::<()>(broadcaster_call(&twitch_user_id, streamer_id)).await?;
            }
        }
        Ok(true)
    }
}

/// The command that notes a broadcaster's session, in a slot of its own.
fn broadcaster_call(twitch_user_id: &str, streamer_id: Uuid) -> Cmd {
    let mut set = cmd("SET");
    set.arg(keys::broadcaster(twitch_user_id)).arg(streamer_id.to_string()).arg("EX").arg(BROADCASTER_TTL_S);
    set
}

/// The call that writes what votes change of a state that is there already.
fn move_call(entry: &MirrorEntry<'_>, new_epoch: &str) -> Cmd {
    let Session { streamer_id, mood, params, .. } = entry.session;
    let bucket = Bucket::of(*streamer_id);
    let mut call = Function::Move.call(&[
        keys::session(*streamer_id),
        keys::changes(bucket),
        keys::changes_epoch(bucket),
    ]);
    call.arg(streamer_id.to_string()).arg(new_epoch).arg(CHANGE_LOG_MAX).arg(CHANGE_LOG_TTL_MS);
    call.arg(entry.session_id.to_string()).arg(entry.session.config_version);
    call.arg("version").arg(entry.session.frame_version());
    call.arg("value").arg(mood.value.to_string()).arg("last_update").arg(mood.at.0);
    call.arg("for").arg(mood.for_count).arg("against").arg(mood.against_count);
    if params.model == Model::Window {
        call.arg("seconds").arg(seconds_json(&mood.seconds));
    }
    if let Some(reset_at) = entry.session.reset_at {
        call.arg("reset_at").arg(reset_at.0);
    }
    call
}

/// The call that mirrors one whole state; `log_max` bounds its bucket's change log.
pub(super) fn mirror_call(entry: &MirrorEntry<'_>, new_epoch: &str, log_max: usize) -> Cmd {
    let streamer_id = entry.session.streamer_id;
    let bucket = Bucket::of(streamer_id);
    let mut call = Function::Mirror.call(&[
        keys::session(streamer_id),
        keys::changes(bucket),
        keys::changes_epoch(bucket),
        keys::ended(streamer_id),
        keys::refs(streamer_id),
    ]);
    call.arg(streamer_id.to_string()).arg(new_epoch).arg(log_max);
    call.arg(CHANGE_LOG_TTL_MS).arg(SESSION_TTL_MS);
    for (name, value) in fields(entry) {
        call.arg(name).arg(value);
    }
    call
}

/// The hash's fields. Numbers are written as the shortest text that reads back as the same number.
fn fields(entry: &MirrorEntry<'_>) -> Vec<(&'static str, String)> {
    let Session { mood, params, .. } = entry.session;
    let mut fields = vec![
        ("session_id", entry.session_id.to_string()),
        ("broadcaster_user_id", entry.twitch_user_id.to_owned()),
        ("version", entry.session.frame_version().to_string()),
        ("value", mood.value.to_string()),
        ("last_update", mood.at.0.to_string()),
        ("for", mood.for_count.to_string()),
        ("against", mood.against_count.to_string()),
        ("config_version", entry.session.config_version.to_string()),
        ("config_json", entry.config_json.to_owned()),
        ("config_json_version", entry.config_json_version.to_string()),
        ("vote_delta", params.vote_delta.to_string()),
        ("decay_speed", params.decay_speed.to_string()),
        ("window_seconds", params.window_seconds.to_string()),
        ("started_at", entry.session.started_at.0.to_string()),
    ];
    match params.model {
        Model::Decay => fields.push(("model", "decay".into())),
        Model::Window => {
            fields.push(("model", "window".into()));
            fields.push(("seconds", seconds_json(&mood.seconds)));
        }
    }
    if let Some(reset_at) = entry.session.reset_at {
        fields.push(("reset_at", reset_at.0.to_string()));
    }
    fields
}

fn seconds_json(seconds: &[SecondTally]) -> String {
    let rows: Vec<String> = seconds
        .iter()
        .map(|tally| format!("[{},{},{}]", tally.second, tally.for_weight, tally.against_weight))
        .collect();
    format!("[{}]", rows.join(","))
}

/// An answer to [`move_call`]; `None` when the whole state is needed.
fn moved(value: Value) -> Result<Option<Mirrored>, HotError> {
    match &value {
        Value::BulkString(word) if word == b"unknown" => Ok(None),
        _ => written(value).map(Some),
    }
}

/// An answer to a write of something versioned. What says that the server takes no writes at all is
/// an error of the whole call: nothing is wrong with the state.
pub(super) fn written(value: Value) -> Result<Mirrored, HotError> {
    let takes_no_writes = matches!(&value, Value::ServerError(error) if NO_WRITES.contains(&error.code()));
    Ok(match answer::<String>(value) {
        Ok(word) if word == "written" => Mirrored::Written,
        Ok(word) if word == "older" => Mirrored::Older,
        Ok(word) => Mirrored::Refused(format!("unknown answer {word:?}")),
        Err(error) if takes_no_writes => return Err(error),
        Err(error) => Mirrored::Refused(error.to_string()),
    })
}

/// The fields of a session's hash by name.
type Fields = HashMap<String, String>;

fn hot_session(streamer_id: Uuid, fields: &Fields) -> Result<Option<HotSession>, HotError> {
    if fields.is_empty() {
        return Ok(None);
    }
    Ok(Some(HotSession {
        session_id: parsed(fields, "session_id")?,
        twitch_user_id: parsed(fields, "broadcaster_user_id")?,
        session: session_of(streamer_id, fields)?,
        config_json: parsed(fields, "config_json")?,
        last_disconnect: parsed_if_there(fields, "last_disconnect")?.map(Millis),
        value_now: parsed(fields, "value_now")?,
    }))
}

fn session_of(streamer_id: Uuid, fields: &Fields) -> Result<Session, HotError> {
    let version: i64 = parsed(fields, "version")?;
    let (ordinal, version) = rank::split(version);
    Ok(Session {
        streamer_id,
        ordinal,
        version,
        config_version: parsed(fields, "config_version")?,
        params: Params {
            model: model_of(fields)?,
            vote_delta: parsed(fields, "vote_delta")?,
            decay_speed: parsed(fields, "decay_speed")?,
            window_seconds: parsed(fields, "window_seconds")?,
        },
        mood: Mood {
            at: Millis(parsed(fields, "last_update")?),
            value: parsed(fields, "value")?,
            for_count: parsed(fields, "for")?,
            against_count: parsed(fields, "against")?,
            seconds: fields.get("seconds").map_or(Ok(Vec::new()), |json| seconds_of(json))?,
        },
        started_at: Millis(parsed(fields, "started_at")?),
        reset_at: parsed_if_there(fields, "reset_at")?.map(Millis),
        ended_at: None,
    })
}

fn model_of(fields: &Fields) -> Result<Model, HotError> {
    match fields.get("model").map(String::as_str) {
        Some("decay") => Ok(Model::Decay),
        Some("window") => Ok(Model::Window),
        other => Err(HotError::Answer(format!("a session with the model {other:?}"))),
    }
}

fn seconds_of(json: &str) -> Result<Vec<SecondTally>, HotError> {
    let rows: Vec<(i64, f64, f64)> = serde_json::from_str(json)
        .map_err(|error| HotError::Answer(format!("a session with unreadable seconds: {error}")))?;
    let tally = |(second, for_weight, against_weight)| SecondTally { second, for_weight, against_weight };
    Ok(rows.into_iter().map(tally).collect())
}

fn parsed<T: FromStr>(fields: &Fields, name: &str) -> Result<T, HotError> {
    parsed_if_there(fields, name)?.ok_or_else(|| HotError::Answer(format!("a session without {name}")))
}

fn parsed_if_there<T: FromStr>(fields: &Fields, name: &str) -> Result<Option<T>, HotError> {
    let unreadable = |text: &str| HotError::Answer(format!("a session whose {name} is {text:?}"));
    fields.get(name).map(|text| text.parse().map_err(|_| unreadable(text))).transpose()
}
