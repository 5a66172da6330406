//! Redis with the functions of `lua/`, in memory. All of it may be lost at any time.

use std::collections::BTreeMap;

use chatpulse::domain::holders::Holders;
use chatpulse::domain::session::Session;
use chatpulse::domain::time::Millis;
use chatpulse::hot::changes::{Change, Changes, Cursor, Pulse};
use chatpulse::hot::debounce::Claimed;
use chatpulse::hot::keys::Bucket;
use chatpulse::hot::mirror::{HotSession, Mirrored};
use chatpulse::hot::refs::Mark;
use uuid::Uuid;

use super::Rules;

/// What is asked of Redis.
#[derive(Clone, Debug)]
pub enum HotCall {
    Probe,
    Claim(Vec<OwnedClaim>),
    ReleaseClaims(Vec<OwnedClaim>),
    Mirror(Vec<State>),
    NoteHolders(Vec<Holders>),
    Pulse,
    ChangesSince(Vec<(Bucket, Cursor)>),
    ReadAll(Vec<Uuid>, Millis),
    Marks(Vec<Uuid>),
    Discard(Uuid),
    Orphans(Millis),
    ForgetOrphan(Uuid),
    Remove(Uuid, i64),
}

impl HotCall {
    /// Whether a server that is out of memory refuses it.
    pub fn takes_memory(&self) -> bool {
        use HotCall::{ChangesSince, Claim, Mirror, NoteHolders};
        matches!(self, Claim(_) | Mirror(_) | NoteHolders(_) | ChangesSince(_))
    }
}

/// What Redis answers.
#[derive(Clone, Debug, PartialEq)]
pub enum HotAnswer {
    Done,
    Claimed(Vec<Claimed>),
    Written(Vec<Mirrored>),
    Pulse(Pulse),
    Changes(Vec<Changes>),
    Sessions(Vec<Option<HotSession>>),
    Marks(Vec<Option<Mark>>),
    Streamers(Vec<Uuid>),
    Removed(bool),
}

/// A [`chatpulse::hot::debounce::Claim`] of its own.
#[derive(Clone, Debug)]
pub struct OwnedClaim {
    pub streamer_id: Uuid,
    pub viewer: String,
    pub message_id: String,
    pub ttl_ms: u64,
}

/// A [`chatpulse::hot::mirror::MirrorEntry`] of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub session_id: Uuid,
    pub twitch_user_id: String,
    pub session: Session,
    pub config_json: String,
}

impl State {
    /// The version of the config in the JSON.
    pub fn config_json_version(&self) -> i64 {
        let config: serde_json::Value = serde_json::from_str(&self.config_json).expect("it is JSON");
        config["version"].as_i64().expect("a config has a version")
    }
}

/// A session's hash.
#[derive(Clone, Debug, Default)]
struct Hash {
    state: Option<State>,
    /// The rank of the holders.
    rank: Option<i64>,
    last_disconnect: Option<Millis>,
}

impl Hash {
    /// The ordinal of the session whose holders are there; 0 for none.
    fn held_ordinal(&self) -> i64 {
        self.rank.unwrap_or(0) >> 32
    }

    /// The ordinal of the session whose state is there; 0 for none.
    fn ordinal(&self) -> i64 {
        self.state.as_ref().map_or(0, |state| state.session.ordinal)
    }
}

/// A bucket's change log.
#[derive(Clone, Debug)]
struct Log {
    epoch: u64,
    newest: i64,
    /// Streamer → change number and version.
    entries: BTreeMap<Uuid, (i64, i64)>,
}

/// All keys of one server.
#[derive(Clone, Debug, Default)]
pub struct HotModel {
    sessions: BTreeMap<Uuid, Hash>,
    refs: BTreeMap<Uuid, Vec<Uuid>>,
    orphans: BTreeMap<Uuid, Millis>,
    ended: BTreeMap<Uuid, i64>,
    logs: BTreeMap<Bucket, Log>,
    claims: BTreeMap<(Uuid, String), (String, Millis)>,
    /// The last of the pulses.
    pulse: Option<u64>,
    /// How often the pulse was beaten; survives flushes, as random values do.
    pulses: u64,
    /// Grows with each log that is begun; survives flushes, as random ids do.
    epochs: u64,
    /// The server's run: cursors of an earlier one are worth nothing.
    run: u64,
    /// How often a state took the place of a newer one.
    pub went_back: u64,
}

/// Whether only what votes change is written: the same session with the same config is there, and its JSON is
/// of that config. Each 64th version is written whole.
fn is_moved(there: &State, state: &State) -> bool {
    there.session_id == state.session_id
        && there.session.config_version == state.session.config_version
        && there.config_json_version() == state.session.config_version
        && state.session.version % 64 != 0
}

impl HotModel {
    /// All keys are gone.
    pub fn flush(&mut self) {
        *self = HotModel {
            epochs: self.epochs,
            pulses: self.pulses,
            run: self.run,
            went_back: self.went_back,
            ..HotModel::default()
        };
    }

    /// The server is started again from an earlier snapshot of its keys.
    pub fn restart_from(&mut self, snapshot: HotModel) {
        *self = HotModel {
            epochs: self.epochs,
            pulses: self.pulses,
            run: self.run + 1,
            went_back: self.went_back,
            ..snapshot
        };
    }

    /// The streamers of whom some key of a session is there.
    pub fn streamers(&self) -> Vec<Uuid> {
        let keys = self.sessions.keys().chain(self.refs.keys()).chain(self.orphans.keys());
        let mut streamers: Vec<Uuid> = keys.copied().collect();
        streamers.sort();
        streamers.dedup();
        streamers
    }

    /// Executes one call.
    pub fn execute(&mut self, rules: &Rules, now: Millis, call: &HotCall) -> HotAnswer {
        match call {
            HotCall::Probe => HotAnswer::Done,
            HotCall::Claim(claims) => {
                HotAnswer::Claimed(claims.iter().map(|claim| self.claim(now, claim)).collect())
            }
            HotCall::ReleaseClaims(claims) => {
                claims.iter().for_each(|claim| self.release_claim(now, claim));
                HotAnswer::Done
            }
            HotCall::Mirror(states) => {
                self.pulses += 1;
                self.pulse = Some(self.pulses);
                HotAnswer::Written(states.iter().map(|state| self.mirror(rules, state)).collect())
            }
            HotCall::NoteHolders(all) => {
                HotAnswer::Written(all.iter().map(|holders| self.note_holders(rules, holders)).collect())
            }
            HotCall::Pulse => {
                let value = self.pulse.map(|pulse| pulse.to_string());
                HotAnswer::Pulse(Pulse::of(self.run, value))
            }
            HotCall::ChangesSince(cursors) => HotAnswer::Changes(
                cursors.iter().map(|(bucket, cursor)| self.changes_since(rules, *bucket, cursor)).collect(),
            ),
            HotCall::ReadAll(streamers, at) => {
                HotAnswer::Sessions(streamers.iter().map(|id| self.read(*id, *at)).collect())
            }
            HotCall::Marks(streamers) => {
                HotAnswer::Marks(streamers.iter().map(|id| self.mark(*id)).collect())
            }
            HotCall::Discard(streamer_id) => {
                self.discard(*streamer_id);
                HotAnswer::Done
            }
            HotCall::Orphans(since) => {
                let due = self.orphans.iter().filter(|(_, unheld)| *unheld <= since);
                HotAnswer::Streamers(due.map(|(id, _)| *id).collect())
            }
            HotCall::ForgetOrphan(streamer_id) => {
                self.orphans.remove(streamer_id);
                HotAnswer::Done
            }
            HotCall::Remove(streamer_id, ordinal) => HotAnswer::Removed(self.remove(*streamer_id, *ordinal)),
        }
    }

    fn claim(&mut self, now: Millis, claim: &OwnedClaim) -> Claimed {
        if claim.ttl_ms == 0 {
            return Claimed::Fresh;
        }
        let key = (claim.streamer_id, claim.viewer.clone());
        match self.claims.get(&key).filter(|(_, until)| *until > now) {
            Some((message_id, _)) if *message_id == claim.message_id => Claimed::Own,
            Some(_) => Claimed::Other,
            None => {
                let until = Millis(now.0 + claim.ttl_ms as i64);
                self.claims.insert(key, (claim.message_id.clone(), until));
                Claimed::Fresh
            }
        }
    }

    fn release_claim(&mut self, now: Millis, claim: &OwnedClaim) {
        let key = (claim.streamer_id, claim.viewer.clone());
        let own = |(message_id, until): &&(String, Millis)| *until > now && *message_id == claim.message_id;
        if self.claims.get(&key).filter(own).is_some() {
            self.claims.remove(&key);
        }
    }

    fn mirror(&mut self, rules: &Rules, state: &State) -> Mirrored {
        let streamer_id = state.session.streamer_id;
        let (version, ordinal) = (state.session.frame_version(), state.session.ordinal);
        let hash = self.sessions.get(&streamer_id).cloned().unwrap_or_default();
        let outdated = match &hash.state {
            _ if hash.held_ordinal() > ordinal => true,
            Some(there) => there.session.frame_version() >= version,
            // A late write of an ended session must not bring it back.
            None => self.has_ended(streamer_id, ordinal),
        };
        if outdated && rules.versions {
            return Mirrored::Older;
        }
        if hash.state.as_ref().is_some_and(|there| there.session.frame_version() > version) {
            self.went_back += 1;
        }
        let same = hash.state.as_ref().is_some_and(|there| there.session_id == state.session_id);
        let moved = hash.state.as_ref().filter(|there| is_moved(there, state));
        let config_json = moved.unwrap_or(state).config_json.clone();
        let kept = if same || (hash.rank.is_some() && hash.held_ordinal() == ordinal) {
            hash
        } else {
            if hash.rank.is_some() {
                self.refs.remove(&streamer_id);
            }
            Hash::default()
        };
        let state = State { config_json, ..state.clone() };
        self.sessions.insert(streamer_id, Hash { state: Some(state), ..kept });
        self.note_change(streamer_id, version);
        Mirrored::Written
    }

    fn has_ended(&self, streamer_id: Uuid, ordinal: i64) -> bool {
        self.ended.get(&streamer_id).is_some_and(|ended| *ended >= ordinal)
    }

    /// The change log of a bucket; begun if it is not there.
    fn log(&mut self, bucket: Bucket) -> &mut Log {
        let epochs = &mut self.epochs;
        self.logs.entry(bucket).or_insert_with(|| {
            *epochs += 1;
            Log { epoch: *epochs, newest: 0, entries: BTreeMap::new() }
        })
    }

    fn note_change(&mut self, streamer_id: Uuid, version: i64) {
        let log = self.log(Bucket::of(streamer_id));
        log.newest += 1;
        log.entries.insert(streamer_id, (log.newest, version));
    }

    fn changes_since(&mut self, rules: &Rules, bucket: Bucket, cursor: &Cursor) -> Changes {
        let server_run = self.run;
        let log = self.log(bucket);
        let (epoch, newest) = (log.epoch.to_string(), log.newest);
        let (run, known, number) = cursor.place().unwrap_or((u64::MAX, "", 0));
        let reset = run != server_run || known != epoch || newest < number;
        let mut changed: Vec<(i64, Change)> = Vec::new();
        if !reset || !rules.epochs {
            let newer = log.entries.iter().filter(|(_, (place, _))| *place > number);
            changed.extend(
                newer.map(|(id, (place, version))| (*place, Change { streamer_id: *id, version: *version })),
            );
        }
        changed.sort_by_key(|(place, _)| *place);
        Changes {
            bucket,
            // Without epochs a number is all that a reader has.
            cursor: Cursor::at(server_run, epoch, if rules.epochs { newest } else { newest.max(number) }),
            reset: reset && rules.epochs,
            changed: changed.into_iter().map(|(_, change)| change).collect(),
        }
    }

    fn read(&self, streamer_id: Uuid, at: Millis) -> Option<HotSession> {
        let hash = self.sessions.get(&streamer_id)?;
        let state = hash.state.as_ref()?;
        Some(HotSession {
            session_id: state.session_id,
            twitch_user_id: state.twitch_user_id.clone(),
            session: state.session.clone(),
            config_json: state.config_json.clone(),
            last_disconnect: hash.last_disconnect,
            value_now: state.session.mood.value_at(&state.session.params, at),
        })
    }

    fn mark(&self, streamer_id: Uuid) -> Option<Mark> {
        let hash = self.sessions.get(&streamer_id)?;
        let state = hash.state.as_ref()?;
        Some(Mark {
            session_id: state.session_id,
            version: state.session.frame_version(),
            config_version: state.session.config_version,
            holders: hash.rank.unwrap_or(0),
        })
    }

    fn note_holders(&mut self, rules: &Rules, holders: &Holders) -> Mirrored {
        let (streamer_id, rank) = (holders.streamer_id, holders.rank());
        let ended = self.has_ended(streamer_id, holders.ordinal);
        let hash = self.sessions.entry(streamer_id).or_default();
        let newer = hash.rank.is_some_and(|there| there >= rank) || hash.ordinal() > holders.ordinal;
        if (newer || ended) && rules.versions {
            if hash.state.is_none() && hash.rank.is_none() {
                self.sessions.remove(&streamer_id);
            }
            return Mirrored::Older;
        }
        hash.rank = Some(rank);
        hash.last_disconnect = holders.unheld_since;
        self.refs.insert(streamer_id, holders.ids.clone());
        match holders.unheld_since {
            Some(since) => self.orphans.insert(streamer_id, since),
            None => self.orphans.remove(&streamer_id),
        };
        Mirrored::Written
    }

    fn discard(&mut self, streamer_id: Uuid) {
        self.forget_change(streamer_id);
        self.sessions.remove(&streamer_id);
        self.refs.remove(&streamer_id);
        self.orphans.remove(&streamer_id);
    }

    fn forget_change(&mut self, streamer_id: Uuid) {
        if let Some(log) = self.logs.get_mut(&Bucket::of(streamer_id)) {
            log.entries.remove(&streamer_id);
        }
    }

    fn remove(&mut self, streamer_id: Uuid, ordinal: i64) -> bool {
        let hash = self.sessions.get(&streamer_id).cloned().unwrap_or_default();
        if hash.ordinal() > ordinal {
            return false;
        }
        let ended = self.ended.entry(streamer_id).or_default();
        *ended = ordinal.max(*ended);
        self.forget_change(streamer_id);
        if hash.held_ordinal() > ordinal {
            self.sessions.insert(streamer_id, Hash { state: None, ..hash });
            return false;
        }
        self.discard(streamer_id);
        true
    }
}
