//! PostgreSQL with the functions of `schema/`, in memory. Each call is one transaction; the replay of
//! recorded traces holds it against the real one, answer for answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chatpulse::domain::holders::Holders;
use chatpulse::domain::session::{self, Command, JournaledVote, Session};
use chatpulse::domain::streamer::{self, Streamer};
use chatpulse::domain::time::Millis;
use chatpulse::domain::vote::NewVote;
use chatpulse::journal::sessions::{
    DirectoryCursor, EndedSession, Entry, Held, Hold, Lease, LiveDigest, LiveSession, LiveVersions, News,
};
use chatpulse::journal::votes::{AppendAnswer, Appended, SessionHead};
use uuid::Uuid;

use super::Rules;

/// What is asked of the journal.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "calls are few and short-lived")]
pub enum JournalCall {
    Ping,
    Append { votes: Vec<NewVote>, drained: bool },
    Hold { targets: Targets, lease: Duration, wanted: Vec<Hold> },
    HoldersOf(Vec<Uuid>),
    Release(Uuid),
    Leave,
    Held,
    Renew { lease: Duration, unbroken: bool },
    DropLapsed,
    EndOrphans { streamers: Option<Vec<Uuid>>, orphan: Duration },
    DirectorySince(Option<DirectoryCursor>),
    Entries(Vec<Uuid>),
    LiveBroadcasters(Vec<String>),
    NewerHeads(Vec<(Uuid, i64)>),
    Announce(Vec<Uuid>),
    Digest,
    Versions,
    Change { streamer_id: Uuid, expected_version: i64, event: streamer::Event },
    Reset(Uuid),
}

/// Whose sessions a hold is for.
#[derive(Clone, Copy, Debug)]
pub enum Targets {
    Overlays,
    Streamers,
}

/// What the journal answers.
#[derive(Clone, Debug, PartialEq)]
pub enum JournalAnswer {
    Done,
    Appended(AppendAnswer),
    Held(Vec<Option<Held>>),
    Holders(Vec<Holders>),
    Streamers(Vec<Uuid>),
    Lease(Lease),
    Ended(Vec<EndedSession>),
    Directory(Vec<Entry>, DirectoryCursor),
    Entries(Vec<Entry>),
    Heads(Vec<SessionHead>),
    Digest(LiveDigest),
    Versions(Vec<LiveVersions>),
    Changed(bool),
}

/// A row of `users` with its row of `configs`.
#[derive(Clone, Debug)]
struct User {
    streamer: Streamer,
    /// The transaction of the last change that instances have to learn of.
    changed: i64,
    subscribed: bool,
}

/// A row of `live_sessions`.
#[derive(Clone, Debug)]
struct Live {
    session_id: Uuid,
    key: [u8; 32],
    holders: Holders,
}

/// A row of `sessions` with its events.
#[derive(Clone, Debug)]
pub struct Stream {
    pub head: Session,
    pub events: Vec<session::Event>,
}

/// A row of `instances`.
#[derive(Clone, Copy, Debug)]
struct Running {
    since: Millis,
    until: Millis,
}

impl Running {
    fn begun(now: Millis, lease: Duration) -> Running {
        Running { since: now, until: Millis(now.0 + lease.as_millis() as i64) }
    }
}

/// All tables.
#[derive(Clone, Debug, Default)]
pub struct JournalModel {
    users: BTreeMap<Uuid, User>,
    live: BTreeMap<Uuid, Live>,
    pub streams: BTreeMap<Uuid, Stream>,
    vote_ids: BTreeSet<(Uuid, String)>,
    instances: BTreeMap<Uuid, Running>,
    /// The newest transaction that wrote.
    transaction: i64,
    /// When the server was started.
    up_since: Millis,
    /// What the call under way will notify of.
    notices: Vec<News>,
    /// The frame versions that the call under way has moved heads to, by streamer.
    pub moved: Vec<(Uuid, i64)>,
}

impl JournalModel {
    /// A server started at `up_since`, with the schema and nothing in it.
    pub fn new(up_since: Millis) -> JournalModel {
        JournalModel { up_since, ..JournalModel::default() }
    }

    /// The server is started again.
    pub fn restart(&mut self, now: Millis) {
        self.up_since = now;
    }

    /// Executes one call of an instance; answers what it answers and what is notified.
    pub fn execute(
        &mut self,
        rules: &Rules,
        now: Millis,
        instance: Uuid,
        call: &JournalCall,
    ) -> (JournalAnswer, Vec<News>) {
        let answer = match call {
            JournalCall::Ping | JournalCall::Announce(_) => {
                if let JournalCall::Announce(streamers) = call {
                    self.notices.push(News::Heads(streamers.clone()));
                }
                JournalAnswer::Done
            }
            JournalCall::Append { votes, drained } => {
                JournalAnswer::Appended(self.append(rules, now, votes, *drained))
            }
            JournalCall::Hold { targets, lease, wanted } => {
                let mut held = Vec::new();
                for wanted in wanted {
                    held.push(self.hold(rules, now, instance, *targets, wanted, *lease));
                }
                JournalAnswer::Held(held)
            }
            JournalCall::Release(streamer_id) => {
                JournalAnswer::Holders(self.let_go(now, *streamer_id, instance).into_iter().collect())
            }
            JournalCall::Leave => JournalAnswer::Holders(self.forget(now, &[instance])),
            JournalCall::Held => JournalAnswer::Streamers(self.held_by(instance)),
            JournalCall::Renew { lease, unbroken } => {
                JournalAnswer::Lease(self.renew(now, instance, *lease, *unbroken))
            }
            JournalCall::DropLapsed => JournalAnswer::Holders(self.drop_lapsed(rules, now)),
            JournalCall::EndOrphans { streamers, orphan } => {
                JournalAnswer::Ended(self.end_orphans(rules, now, instance, streamers.as_deref(), *orphan))
            }
            JournalCall::Change { streamer_id, expected_version, event } => {
                JournalAnswer::Changed(self.change(now, *streamer_id, *expected_version, event))
            }
            JournalCall::Reset(streamer_id) => JournalAnswer::Changed(self.reset(now, *streamer_id)),
            question => self.answer(question),
        };
        (answer, std::mem::take(&mut self.notices))
    }

    /// Answers a call that only reads.
    fn answer(&self, question: &JournalCall) -> JournalAnswer {
        match question {
            JournalCall::DirectorySince(cursor) => {
                let since = cursor.map(DirectoryCursor::place);
                let wanted = |id: &Uuid, user: &User| match since {
                    Some(since) => user.changed >= since,
                    None => self.live.contains_key(id),
                };
                let changed = self.users.iter().filter(|(id, user)| wanted(id, user));
                let entries = changed.filter_map(|(id, _)| self.entry(*id)).collect();
                JournalAnswer::Directory(entries, DirectoryCursor::at(self.transaction + 1))
            }
            JournalCall::Entries(streamers) => {
                let streamers: BTreeSet<_> = streamers.iter().collect();
                JournalAnswer::Entries(streamers.into_iter().filter_map(|id| self.entry(*id)).collect())
            }
            JournalCall::LiveBroadcasters(broadcasters) => {
                let live = self.live.keys().filter_map(|id| self.entry(*id));
                let wanted =
                    live.filter(|entry| broadcasters.contains(&entry.streamer.profile.twitch_user_id));
                JournalAnswer::Entries(wanted.collect())
            }
            JournalCall::NewerHeads(known) => {
                let known: BTreeMap<_, _> = known.iter().copied().collect();
                let newer = known.into_iter().filter_map(|(session_id, version)| {
                    let head = &self.streams.get(&session_id)?.head;
                    (head.version > version).then(|| SessionHead { session_id, head: head.clone() })
                });
                JournalAnswer::Heads(newer.collect())
            }
            JournalCall::HoldersOf(streamers) => {
                let streamers: BTreeSet<_> = streamers.iter().collect();
                let live = streamers.into_iter().filter_map(|id| self.live.get(id));
                JournalAnswer::Holders(live.map(|live| live.holders.clone()).collect())
            }
            JournalCall::Digest => {
                JournalAnswer::Digest(self.versions().iter().fold(LiveDigest::default(), |sum, live| {
                    LiveDigest {
                        sessions: sum.sessions + 1,
                        streamer_versions: sum.streamer_versions + live.streamer_version,
                        config_versions: sum.config_versions + live.config_version,
                        ordinals: sum.ordinals + live.ordinal,
                        paused: sum.paused + i64::from(live.paused),
                    }
                }))
            }
            _ => JournalAnswer::Versions(self.versions()),
        }
    }

    fn versions(&self) -> Vec<LiveVersions> {
        let version = |(id, live): (&Uuid, &Live)| {
            let user = &self.users[id];
            LiveVersions {
                streamer_id: *id,
                streamer_version: user.streamer.version,
                config_version: user.streamer.config.version,
                ordinal: live.holders.ordinal,
                paused: false,
                changed: DirectoryCursor::at(user.changed),
            }
        };
        self.live.iter().map(version).collect()
    }

    /// The row of the view `directory`.
    pub fn entry(&self, streamer_id: Uuid) -> Option<Entry> {
        let user = self.users.get(&streamer_id)?;
        let live = self.live.get(&streamer_id).map(|live| LiveSession {
            session_id: live.session_id,
            key: live.key,
            holders: live.holders.clone(),
            paused: false,
            head: self.streams[&live.session_id].head.clone(),
        });
        Some(Entry { streamer: user.streamer.clone(), last_ordinal: self.last_ordinal(streamer_id), live })
    }

    fn last_ordinal(&self, streamer_id: Uuid) -> i64 {
        let own = self.streams.values().filter(|stream| stream.head.streamer_id == streamer_id);
        own.map(|stream| stream.head.ordinal).max().unwrap_or(0)
    }

    /// The streamers, and whether a session of theirs is live.
    pub fn streamers(&self) -> impl Iterator<Item = (&Streamer, bool)> {
        self.users.values().map(|user| (&user.streamer, self.live.contains_key(&user.streamer.id)))
    }

    /// The instances that hold a streamer's live session.
    pub fn holders(&self, streamer_id: Uuid) -> &[Uuid] {
        self.live.get(&streamer_id).map_or(&[], |live| &live.holders.ids)
    }

    /// Whether an instance's lease is running.
    pub fn is_running(&self, instance: Uuid, now: Millis) -> bool {
        self.instances.get(&instance).is_some_and(|running| running.until > now)
    }

    fn touch(&mut self, streamer_id: Uuid) {
        self.transaction += 1;
        if let Some(user) = self.users.get_mut(&streamer_id) {
            user.changed = self.transaction;
        }
        self.notices.push(News::Directory);
    }

    /// Appends what a command brings about to a session, and moves its head.
    fn decide(&mut self, session_id: Uuid, command: Command, now: Millis) {
        let Some(stream) = self.streams.get_mut(&session_id) else { return };
        // Votes that were acknowledged may follow the end of their session.
        let open = Session { ended_at: None, ..stream.head.clone() };
        for event in session::decide(command, Some(&open), now).expect("the session is open") {
            stream.head = session::evolve(Some(stream.head.clone()), &event).expect("a start comes first");
            stream.events.push(event);
            self.moved.push((stream.head.streamer_id, stream.head.frame_version()));
        }
    }

    // Votes -------------------------------------------------------------------------------------------

    fn append(&mut self, rules: &Rules, now: Millis, votes: &[NewVote], drained: bool) -> AppendAnswer {
        let mut counting: BTreeMap<Uuid, Vec<JournaledVote>> = BTreeMap::new();
        let mut heads = BTreeSet::new();
        let mut appended = Vec::with_capacity(votes.len());
        for vote in votes {
            let Some(stream) = self.streams.get(&vote.session_id) else {
                appended.push(Appended::Late);
                continue;
            };
            heads.insert(vote.session_id);
            let id = (stream.head.streamer_id, vote.message_id.clone());
            let ended = stream.head.ended_at.is_some() && !drained;
            let known = rules.duplicate_check && self.vote_ids.contains(&id);
            appended.push(match (known, ended) {
                (true, _) => Appended::Duplicate,
                (false, true) => Appended::Late,
                (false, false) => {
                    self.vote_ids.insert(id);
                    counting.entry(vote.session_id).or_default().push(journaled(vote));
                    Appended::Accepted
                }
            });
        }
        for (session_id, votes) in counting {
            self.decide(session_id, Command::CastVotes { votes }, now);
        }
        let head = |session_id| SessionHead { session_id, head: self.streams[&session_id].head.clone() };
        let heads: Vec<_> = heads.into_iter().map(head).collect();
        AppendAnswer { appended, now: (!heads.is_empty()).then_some(now), heads }
    }

    // Holds -------------------------------------------------------------------------------------------

    fn hold(
        &mut self,
        rules: &Rules,
        now: Millis,
        instance: Uuid,
        targets: Targets,
        wanted: &Hold,
        lease: Duration,
    ) -> Option<Held> {
        let is_meant = |(id, user): &(&Uuid, &User)| match targets {
            Targets::Streamers => **id == wanted.whose,
            Targets::Overlays => user.streamer.overlay_uuid == wanted.whose,
        };
        let streamer_id = *self.users.iter().find(is_meant)?.0;
        let mut started = false;
        if !self.users[&streamer_id].streamer.disabled {
            self.instances.entry(instance).or_insert_with(|| Running::begun(now, lease));
            if let Some(live) = self.live.get_mut(&streamer_id) {
                let holders = &mut live.holders;
                if !holders.ids.contains(&instance) {
                    holders.ids.push(instance);
                    holders.unheld_since = None;
                    holders.version += 1;
                }
            } else {
                self.start(rules, now, streamer_id, instance, wanted);
                started = true;
            }
        }
        Some(Held { entry: self.entry(streamer_id)?, started })
    }

    fn start(
        &mut self,
        rules: &Rules,
        now: Millis,
        streamer_id: Uuid,
        instance: Uuid,
        &Hold { session_id, key, .. }: &Hold,
    ) {
        let ordinal = if rules.ordinals { self.last_ordinal(streamer_id) + 1 } else { 1 };
        let user = self.users.get_mut(&streamer_id).expect("the streamer was found");
        if !std::mem::replace(&mut user.subscribed, true) {
            let event = streamer::Event::SubscriptionRequested { subscription_type: CHAT.into() };
            user.streamer = streamer::evolve(Some(user.streamer.clone()), &event).expect("they exist");
        }
        let start = Command::Start { streamer_id, ordinal, config: user.streamer.config.clone() };
        let events = session::decide(start, None, now).expect("there is none yet");
        let head = session::evolve(None, &events[0]).expect("a start makes a session");
        self.moved.push((streamer_id, head.frame_version()));
        self.streams.insert(session_id, Stream { head, events });
        let holders = Holders { streamer_id, ordinal, version: 1, ids: vec![instance], unheld_since: None };
        self.live.insert(streamer_id, Live { session_id, key, holders });
        self.touch(streamer_id);
    }

    fn let_go(&mut self, now: Millis, streamer_id: Uuid, instance: Uuid) -> Option<Holders> {
        let holders = &mut self.live.get_mut(&streamer_id)?.holders;
        if holders.ids.contains(&instance) {
            holders.ids.retain(|holder| *holder != instance);
            holders.version += 1;
            if holders.ids.is_empty() {
                holders.unheld_since = Some(now);
            }
        }
        Some(holders.clone())
    }

    fn held_by(&self, instance: Uuid) -> Vec<Uuid> {
        let held = self.live.iter().filter(|(_, live)| live.holders.ids.contains(&instance));
        held.map(|(id, _)| *id).collect()
    }

    fn renew(&mut self, now: Millis, instance: Uuid, lease: Duration, unbroken: bool) -> Lease {
        let mut running = Running::begun(now, lease);
        let before = self.instances.get(&instance);
        if let Some(before) = before.filter(|before| unbroken && before.until > now) {
            running.since = before.since;
        }
        self.instances.insert(instance, running);
        Lease { now, since: running.since }
    }

    fn drop_lapsed(&mut self, rules: &Rules, now: Millis) -> Vec<Holders> {
        let lapsed = |running: &Running| running.until <= now;
        let lapsed: Vec<Uuid> =
            self.instances.iter().filter(|(_, running)| lapsed(running)).map(|(id, _)| *id).collect();
        if !rules.lapsed_leases_drop {
            return Vec::new();
        }
        self.forget(now, &lapsed)
    }

    /// Drops all holds of instances, and their leases; answers who holds the sessions concerned now.
    fn forget(&mut self, now: Millis, instances: &[Uuid]) -> Vec<Holders> {
        self.instances.retain(|id, _| !instances.contains(id));
        let mut concerned = Vec::new();
        for Live { holders, .. } in self.live.values_mut() {
            let before = holders.ids.len();
            holders.ids.retain(|id| !instances.contains(id));
            if holders.ids.len() < before {
                holders.version += 1;
                if holders.ids.is_empty() {
                    holders.unheld_since = Some(now);
                }
                concerned.push(holders.clone());
            }
        }
        concerned
    }

    fn end_orphans(
        &mut self,
        rules: &Rules,
        now: Millis,
        instance: Uuid,
        streamers: Option<&[Uuid]>,
        orphan: Duration,
    ) -> Vec<EndedSession> {
        let orphan = orphan.as_millis() as i64;
        let long_ago = |since: Millis| now.0 - since.0 >= orphan;
        let leased = self.instances.get(&instance);
        let trusted = leased.is_some_and(|running| running.until > now && long_ago(running.since));
        if !trusted || !long_ago(self.up_since) {
            return Vec::new();
        }
        let due = |id: &Uuid, live: &Live| {
            let unheld = live.holders.unheld_since.is_some_and(long_ago);
            streamers.is_none_or(|wanted| wanted.contains(id)) && (unheld || !rules.holds_count)
        };
        let due: Vec<Uuid> = self.live.iter().filter(|(id, live)| due(id, live)).map(|(id, _)| *id).collect();
        let mut ended: Vec<_> =
            due.into_iter().filter_map(|streamer_id| self.end(now, streamer_id)).collect();
        ended.sort_by_key(|ended| ended.session_id);
        ended
    }

    fn end(&mut self, now: Millis, streamer_id: Uuid) -> Option<EndedSession> {
        let Live { session_id, holders, .. } = self.live.remove(&streamer_id)?;
        self.decide(session_id, Command::End, now);
        self.touch(streamer_id);
        Some(EndedSession { streamer_id, session_id, ordinal: holders.ordinal })
    }

    // Changes -----------------------------------------------------------------------------------------

    fn change(
        &mut self,
        now: Millis,
        streamer_id: Uuid,
        expected_version: i64,
        event: &streamer::Event,
    ) -> bool {
        let known = self.users.get(&streamer_id).map(|user| user.streamer.clone());
        if known.as_ref().map_or(0, |known| known.version) != expected_version {
            return false;
        }
        let streamer = streamer::evolve(known, event).expect("a registration comes first");
        let config = streamer.config.clone();
        match self.users.get_mut(&streamer_id) {
            Some(user) => user.streamer = streamer,
            None => {
                self.users.insert(streamer_id, User { streamer, changed: 0, subscribed: false });
            }
        }
        let live = self.live.get(&streamer_id).map(|live| live.session_id);
        match (event, live) {
            (streamer::Event::ConfigChanged(_), Some(session_id)) => {
                let params = config.config.params;
                let apply = Command::ApplyConfig { config_version: config.version, params };
                self.decide(session_id, apply, now);
            }
            (streamer::Event::Disabled, Some(_)) => {
                self.end(now, streamer_id);
            }
            _ => {}
        }
        self.touch(streamer_id);
        true
    }

    fn reset(&mut self, now: Millis, streamer_id: Uuid) -> bool {
        self.touch(streamer_id);
        let Some(session_id) = self.live.get(&streamer_id).map(|live| live.session_id) else {
            self.notices.clear();
            return false;
        };
        self.decide(session_id, Command::Reset, now);
        true
    }
}

/// The type of the subscription that a streamer's first session requests.
const CHAT: &str = "channel.chat.message";

fn journaled(vote: &NewVote) -> JournaledVote {
    let NewVote { message_id, side, weight, t, viewer, .. } = vote.clone();
    JournaledVote { message_id, side, weight, t, viewer }
}
