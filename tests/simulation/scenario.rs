//! What happens in one run: everything is drawn from the seed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};
use chatpulse::actors::cast::{Ballot, cast};
use chatpulse::actors::committer::Committer;
use chatpulse::actors::feed::Feed;
use chatpulse::actors::lookup::Lookup;
use chatpulse::actors::services::{ActorOptions, Services};
use chatpulse::actors::session::VoteOutcome;
use chatpulse::actors::supervisor::{Drain, Supervisor};
use chatpulse::actors::upkeep;
use chatpulse::domain::config::Config;
use chatpulse::domain::sentiment::{Model, Side};
use chatpulse::domain::streamer::{self, Command, Event, Profile};
use chatpulse::journal::clock::DatabaseClock;
use chatpulse::telemetry::metrics::Metrics;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::invariants;
use super::network::{Network, Server, Weather};
use super::overlay::{self, Screen};
use super::ports::Line;
use super::world::journal::{JournalCall, Stream};
use super::world::{BEGIN, Rules, Step, World};

/// A lease, scaled down from 15 s.
pub const LEASE: Duration = Duration::from_millis(1500);
/// How long a session outlives its last overlay, scaled down from 30 s.
pub const ORPHAN: Duration = Duration::from_secs(9);
/// After the last fault all that is to be made good is made good within this time.
const QUIET: Duration = Duration::from_secs(8);
/// After the last overlay has left, everything is gone within this time.
const GONE: Duration = Duration::from_secs(13);

/// A run that takes longer hangs.
const END_MAX: Duration = Duration::from_secs(120);

/// What a run goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Votes, changes, comings and goings, and faults.
    Storm,
    /// Nothing goes wrong any more, nobody votes, overlays stay.
    Quiet,
    /// The overlays leave.
    Leaving,
}

/// What came of a run.
pub struct Outcome {
    /// What must not have happened.
    pub violations: Vec<String>,
    /// What was done to the world, if it was to be written down.
    pub trace: Vec<Step>,
    /// The journal's sessions in the end.
    pub streams: BTreeMap<Uuid, Stream>,
    /// What happened, if it was to be written down.
    pub log: Vec<String>,
}

/// One running instance, or what is left of it.
pub struct Instance {
    pub supervisor: Addr<Supervisor>,
    services: Arc<Services>,
    lookup: Lookup,
    feed: Arc<Feed>,
    line: Line,
}

/// One run.
pub struct Simulation {
    pub network: Network,
    pub screens: RefCell<Vec<(Uuid, Rc<RefCell<Screen>>)>>,
    /// Votes that were answered: message id → whose, and with what.
    pub answered: RefCell<BTreeMap<String, (Uuid, VoteOutcome)>>,
    phase: Cell<Phase>,
    instances: RefCell<Vec<Rc<Instance>>>,
    streamers: RefCell<Vec<(Uuid, String)>>,
    messages: Cell<u64>,
    log: Option<RefCell<Vec<String>>>,
}

fn options() -> ActorOptions {
    ActorOptions {
        tick: Duration::from_millis(100),
        debounce: Duration::from_millis(400),
        keyframe: Duration::from_secs(2),
        ping: Duration::from_secs(25),
        pong_timeout: Duration::from_secs(10),
        lease: LEASE,
        orphan: ORPHAN,
        drain: Duration::from_secs(2),
        idle: Duration::from_secs(4),
        vote_wait: Duration::from_millis(300),
        commit: Duration::from_millis(500),
        overlay_message_bytes_max: 4096,
        votes_waiting_max: 1000,
        overlays_per_session_max: 100,
        arbiters: 0,
        panic_on_message: None,
    }
}

impl Instance {
    /// Starts an instance as the program does; `None` while it can't be started.
    async fn start(network: &Network) -> Option<Rc<Instance>> {
        let line = Line::new(network, network.id());
        let clock = Arc::new(DatabaseClock::default());
        clock.sample(network.world(|world| world.now()), Instant::now());
        let metrics = Arc::new(Metrics::new().expect("each metric is made once"));
        let services = Arc::new(Services::new(options(), line.ports(), clock, metrics));
        let feed = Arc::new(Feed::new(Arc::clone(&services)));
        network.connect(line.instance, Arc::clone(&feed));
        feed.refresh().await.ok()?;
        upkeep::renew_lease(&services, true).await;
        let committer = Committer::start(Arc::clone(&services));
        let supervisor = Supervisor::new(Arc::clone(&services), committer, Arc::clone(&feed)).start();
        let lookup = Lookup::start(Arc::clone(&services));
        Some(Rc::new(Instance { lookup, supervisor, services, feed, line }))
    }

    pub fn id(&self) -> Uuid {
        self.line.instance
    }

    pub fn is_crashed(&self) -> bool {
        self.line.network.is_crashed(self.id())
    }

    /// Waits while the instance is frozen; for ever, when it has crashed.
    pub async fn running(&self) {
        self.running_or_gone().await;
    }

    /// Waits until the instance runs or has crashed.
    pub async fn running_or_gone(&self) {
        if !self.is_crashed() {
            let crash_seen = async {
                while !self.is_crashed() {
                    sleep(Duration::from_millis(200)).await;
                }
            };
            tokio::select! {
                biased;
                () = self.line.network.running(self.id()) => {}
                () = crash_seen => {}
            }
        }
    }

    /// Casts a vote as the webhook does; `None` when nobody answers.
    async fn vote(&self, vote: &Vote) -> Option<VoteOutcome> {
        self.running_or_gone().await;
        let live = self.lookup.find(&vote.broadcaster).await.ok()??;
        let ballot = Ballot {
            message_id: &vote.message_id,
            viewer_id: &vote.viewer,
            side: vote.side,
            arrived: Instant::now(),
        };
        let outcome = cast(&self.services, &self.supervisor, live, ballot).await;
        self.running_or_gone().await;
        (!self.is_crashed()).then_some(outcome)
    }

    /// Makes a change as the admin API does.
    async fn change(&self, streamer_id: Uuid, command: Option<Command>) -> bool {
        use chatpulse::actors::ports::JournalPort;
        self.running_or_gone().await;
        let Some(command) = command else {
            let done = self.line.reset(streamer_id).await.is_ok();
            let _ = self.feed.refresh().await;
            return done;
        };
        let Ok(mut entries) = self.line.entries(&[streamer_id]).await else { return false };
        let Some(entry) = entries.pop() else { return false };
        let command = match command {
            Command::ChangeConfig { config, .. } => {
                Command::ChangeConfig { edited_version: entry.streamer.config.version, config }
            }
            other => other,
        };
        let Ok(events) = streamer::decide(command, Some(&entry.streamer)) else { return false };
        let mut done = true;
        for (version, event) in (entry.streamer.version..).zip(events) {
            done = done && self.line.change(streamer_id, version, event).await.unwrap_or(false);
        }
        let _ = self.feed.refresh().await;
        done
    }
}

/// A chat message that is a vote.
struct Vote {
    broadcaster: String,
    message_id: String,
    viewer: String,
    side: Side,
}

/// Runs a seed from its beginning to its end, on this thread.
pub fn run(seed: u64, rules: Rules, written: bool) -> Outcome {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without IO can be built")
    };
    actix::System::with_tokio_rt(runtime).block_on(async move {
        let simulation = Rc::new(Simulation::new(seed, rules, written));
        if tokio::time::timeout(END_MAX, simulation.play()).await.is_err() {
            simulation.violate("the run does not come to its end".into());
        }
        simulation.outcome()
    })
}

impl Simulation {
    fn new(seed: u64, rules: Rules, written: bool) -> Simulation {
        Simulation {
            network: Network::new(World::new(rules, written), seed),
            screens: RefCell::default(),
            answered: RefCell::default(),
            phase: Cell::new(Phase::Storm),
            instances: RefCell::default(),
            streamers: RefCell::default(),
            messages: Cell::new(0),
            log: written.then(RefCell::default),
        }
    }

    /// Writes down what happens, if it is to be written down.
    pub fn log(&self, what: impl FnOnce() -> String) {
        if let Some(log) = &self.log {
            let at = self.network.world(|world| world.now().0) - BEGIN.0;
            log.borrow_mut().push(format!("{at:>6} {}", what()));
        }
    }

    /// Notes that something happened that must not.
    pub fn violate(&self, what: String) {
        self.log(|| format!("VIOLATION {what}"));
        self.network.world(|world| world.violations.push(what));
    }

    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub fn watch(&self, streamer_id: Uuid, instance: Uuid, change: isize) {
        self.network.world(|world| {
            let overlays = world.watched.entry((streamer_id, instance)).or_default();
            *overlays = overlays.saturating_add_signed(change);
        });
    }

    /// An instance that the load balancer would choose.
    pub fn any_instance(&self) -> Option<Rc<Instance>> {
        let up: Vec<_> = self.instances.borrow().iter().filter(|one| !one.is_crashed()).cloned().collect();
        if up.is_empty() {
            return None;
        }
        Some(Rc::clone(&up[self.network.draw(0..up.len() as u64) as usize]))
    }

    async fn play(self: &Rc<Self>) {
        self.set_up().await;
        let storm = self.network.draw_ms(4000..9000);
        self.begin_storm();
        sleep(storm).await;
        self.log(|| "the storm ends".into());
        self.phase.set(Phase::Quiet);
        tokio::time::sleep_until(self.network.heal()).await;
        while self.any_instance().is_none() {
            self.start_instance().await;
        }
        self.enable_all().await;
        sleep(QUIET).await;
        invariants::after_quiet(self);
        self.log(|| "the overlays leave".into());
        self.phase.set(Phase::Leaving);
        sleep(GONE).await;
        invariants::after_all(self);
    }

    async fn set_up(self: &Rc<Self>) {
        for place in 0..self.network.draw(1..5) {
            let id = self.network.id();
            let broadcaster = format!("{}", 1000 + place);
            let name = format!("streamer{place}");
            let profile =
                Profile { twitch_user_id: broadcaster.clone(), login: name.clone(), display_name: name };
            let event =
                Event::Registered { id, profile, overlay_uuid: self.network.id(), config: self.config() };
            let call = JournalCall::Change { streamer_id: id, expected_version: 0, event };
            self.network.world(|world| world.journal(Uuid::nil(), &call));
            self.streamers.borrow_mut().push((id, broadcaster));
        }
        for _ in 0..self.network.draw(2..5) {
            self.start_instance().await;
        }
    }

    async fn start_instance(self: &Rc<Self>) {
        if let Some(instance) = Instance::start(&self.network).await {
            self.log(|| format!("instance {} is up", instance.id()));
            self.instances.borrow_mut().push(instance);
        } else {
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// A config with numbers of the seed.
    fn config(&self) -> Config {
        let mut config = Config::default();
        config.params.model = if self.network.happens(300) { Model::Window } else { Model::Decay };
        config.params.vote_delta = self.network.draw(1..30) as f64;
        config.params.decay_speed = self.network.draw(1..20) as f64 / 10.0;
        config.params.window_seconds = self.network.draw(5..9) as i64;
        config
    }

    fn begin_storm(self: &Rc<Self>) {
        let network = &self.network;
        let calm = network.happens(500);
        let pick = |most: u64| if calm || network.happens(500) { 0 } else { network.draw(0..most) as u32 };
        network.set_weather(Weather {
            request_lost: pick(40),
            answer_lost: pick(40),
            late: pick(40),
            slow: network.draw(0..100) as u32,
            notice_lost: pick(500),
        });
        for (place, (streamer_id, broadcaster)) in self.streamers.borrow().iter().cloned().enumerate() {
            for number in 0..network.draw(1..4) {
                let screen = Rc::<RefCell<Screen>>::default();
                self.screens.borrow_mut().push((streamer_id, Rc::clone(&screen)));
                let name = format!("overlay {place}.{number}");
                actix::spawn(overlay::run(Rc::clone(self), streamer_id, screen, name));
            }
            actix::spawn(Rc::clone(self).chat(broadcaster, streamer_id));
            actix::spawn(Rc::clone(self).administer(streamer_id));
        }
        actix::spawn(Rc::clone(self).disturb());
        actix::spawn(Rc::clone(self).look());
    }

    /// Looks now and then whether all is as it should be at every moment.
    async fn look(self: Rc<Self>) {
        while self.phase() != Phase::Leaving {
            sleep(Duration::from_millis(250)).await;
            invariants::while_settled(&self);
        }
    }

    // Votes -------------------------------------------------------------------------------------------

    /// A streamer's viewers vote, in bursts.
    async fn chat(self: Rc<Self>, broadcaster: String, streamer_id: Uuid) {
        loop {
            sleep(self.network.draw_ms(5..600)).await;
            if self.phase() != Phase::Storm {
                return;
            }
            for _ in 0..self.network.draw(1..4) {
                let number = self.messages.replace(self.messages.get() + 1);
                let vote = Rc::new(Vote {
                    broadcaster: broadcaster.clone(),
                    message_id: format!("message-{number}"),
                    viewer: format!("viewer-{}", self.network.draw(0..6)),
                    side: if self.network.happens(600) { Side::For } else { Side::Against },
                });
                actix::spawn(Rc::clone(&self).deliver(Rc::clone(&vote), streamer_id, 4));
                if self.network.happens(100) {
                    actix::spawn(Rc::clone(&self).deliver(vote, streamer_id, 1));
                }
            }
        }
    }

    /// Delivers a message until it is answered, at most so often.
    async fn deliver(self: Rc<Self>, vote: Rc<Vote>, streamer_id: Uuid, tries: u32) {
        for _ in 0..tries {
            sleep(self.network.draw_ms(0..50)).await;
            if self.phase() != Phase::Storm {
                // Nobody is left who delivers.
                return;
            }
            let Some(instance) = self.any_instance() else { continue };
            let outcome = instance.vote(&vote).await;
            self.log(|| format!("{} on {}: {outcome:?}", vote.message_id, instance.id()));
            match outcome {
                None | Some(VoteOutcome::Unavailable) => sleep(self.network.draw_ms(100..1000)).await,
                Some(outcome) => {
                    let mut answered = self.answered.borrow_mut();
                    let known = answered.entry(vote.message_id.clone()).or_insert((streamer_id, outcome));
                    if outcome == VoteOutcome::Accepted {
                        known.1 = outcome;
                    }
                    return;
                }
            }
        }
    }

    // Changes -----------------------------------------------------------------------------------------

    async fn administer(self: Rc<Self>, streamer_id: Uuid) {
        loop {
            sleep(self.network.draw_ms(500..6000)).await;
            if self.phase() != Phase::Storm {
                return;
            }
            let command = match self.network.draw(0..8) {
                0 | 1 => None,
                2..=4 => Some(Command::ChangeConfig { edited_version: 0, config: self.config() }),
                5 => Some(Command::RotateOverlay { overlay_uuid: self.network.id() }),
                6 => Some(Command::Disable),
                _ => Some(Command::Enable),
            };
            let Some(instance) = self.any_instance() else { continue };
            self.log(|| format!("{streamer_id}: {command:?}"));
            instance.change(streamer_id, command).await;
        }
    }

    /// Everybody is enabled in the end, so that there is something to see.
    async fn enable_all(&self) {
        let streamers = self.streamers.borrow().clone();
        for (streamer_id, _) in streamers {
            while let Some(instance) = self.any_instance() {
                let enable = instance.change(streamer_id, Some(Command::Enable));
                // One that crashes meanwhile never answers.
                if tokio::time::timeout(Duration::from_secs(1), enable).await == Ok(true) {
                    break;
                }
            }
        }
    }

    // Faults ------------------------------------------------------------------------------------------

    async fn disturb(self: Rc<Self>) {
        // Each run has some kinds of faults only, so that one kind does not hide what another shows.
        let kinds: Vec<u64> = (0..self.network.draw(0..4)).map(|_| self.network.draw(0..10)).collect();
        while !kinds.is_empty() {
            sleep(self.network.draw_ms(100..3000)).await;
            if self.phase() != Phase::Storm {
                return;
            }
            let kind = kinds[self.network.draw(0..kinds.len() as u64) as usize];
            let time = self.network.draw_ms(100..5000);
            let server = [Server::Journal, Server::Hot, Server::Queue][self.network.draw(0..3) as usize];
            let Some(instance) = self.any_instance() else { continue };
            match kind {
                0 => self.crash(&instance).await,
                1 | 2 => {
                    self.log(|| format!("{} freezes for {time:?}", instance.id()));
                    self.network.freeze(instance.id(), time);
                }
                3 | 4 => self.cut_off(instance.id(), server, time),
                5 => self.take_down(server, time),
                6 => self.fill(time),
                7 => {
                    self.log(|| "Redis is flushed".into());
                    self.network.world(World::flush_hot);
                }
                8 => self.roll_back(time),
                _ => self.drain(&instance).await,
            }
        }
    }

    async fn crash(self: &Rc<Self>, instance: &Instance) {
        self.log(|| format!("{} crashes", instance.id()));
        self.network.crash(instance.id());
        if self.network.happens(700) || self.phase() != Phase::Storm {
            self.start_instance().await;
        }
    }

    async fn drain(self: &Rc<Self>, instance: &Instance) {
        self.log(|| format!("{} drains", instance.id()));
        let _ = tokio::time::timeout(Duration::from_secs(3), instance.supervisor.send(Drain)).await;
        self.crash(instance).await;
    }

    fn cut_off(self: &Rc<Self>, instance: Uuid, server: Server, time: Duration) {
        self.log(|| format!("{instance} is cut off from {server:?} for {time:?}"));
        self.network.cut_off(instance, server);
        let network = self.network.clone();
        actix::spawn(async move {
            sleep(time).await;
            network.reconnect(instance, server);
        });
    }

    fn take_down(self: &Rc<Self>, server: Server, time: Duration) {
        self.log(|| format!("{server:?} is down for {time:?}"));
        self.network.take_down(server);
        let network = self.network.clone();
        actix::spawn(async move {
            sleep(time).await;
            network.bring_up(server);
        });
    }

    fn fill(self: &Rc<Self>, time: Duration) {
        self.log(|| format!("Redis is full for {time:?}"));
        self.network.set_full(true);
        let network = self.network.clone();
        actix::spawn(async move {
            sleep(time).await;
            network.set_full(false);
        });
    }

    /// Redis dies after a while and comes back with what it had now.
    fn roll_back(self: &Rc<Self>, time: Duration) {
        let snapshot = self.network.world(|world| world.hot.clone());
        let simulation = Rc::clone(self);
        actix::spawn(async move {
            sleep(time).await;
            if simulation.phase() != Phase::Storm {
                return;
            }
            simulation.log(|| "Redis is rolled back".into());
            simulation.network.world(|world| world.roll_hot_back(snapshot));
        });
    }

    fn outcome(&self) -> Outcome {
        let (violations, trace, streams) = self.network.world(|world| {
            let streams = std::mem::take(&mut world.journal.streams);
            (std::mem::take(&mut world.violations), world.trace.take().unwrap_or_default(), streams)
        });
        let log = self.log.as_ref().map(|log| log.take()).unwrap_or_default();
        Outcome { violations, trace, streams, log }
    }
}
