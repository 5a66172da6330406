//! The way from an instance to the servers and back, with all that can happen on it. What happens to a
//! message is drawn when it is sent, from the seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chatpulse::actors::feed::Feed;
use chatpulse::domain::time::Millis;
use chatpulse::journal::sessions::News;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::world::World;

/// The three servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    Journal,
    Hot,
    Queue,
}

impl Server {
    /// How long an instance waits for an answer.
    fn answer_max(self) -> Duration {
        Duration::from_millis(match self {
            Server::Journal => 600,
            Server::Hot => 150,
            Server::Queue => 300,
        })
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Nothing came in time: whether there was an effect is unknown.
    TimedOut(Duration),
    /// The connection was refused or broke.
    Broken,
}

/// How often what goes wrong: chances in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub request_lost: u32,
    pub answer_lost: u32,
    /// The effect comes after the caller has given up.
    pub late: u32,
    /// Slow, but in time.
    pub slow: u32,
    pub notice_lost: u32,
}

/// What is drawn for one call.
enum Fate {
    Fine,
    Slow,
    Late,
    RequestLost,
    AnswerLost,
}

/// One instance's side of the network.
#[derive(Clone, Default)]
struct Side {
    crashed: bool,
    frozen_until: Option<Instant>,
    /// Servers that it can't reach.
    cut_off: Vec<Server>,
    /// Who is told what PostgreSQL notifies of.
    listener: Option<Arc<Feed>>,
}

struct Inner {
    world: World,
    rng: Xoshiro256PlusPlus,
    weather: Weather,
    sides: BTreeMap<Uuid, Side>,
    /// Servers that nobody can reach.
    down: Vec<Server>,
    /// Redis refuses what takes memory.
    full: bool,
}

/// The world and the way to it; handles share one.
#[derive(Clone)]
pub struct Network(Arc<Mutex<Inner>>);

impl Network {
    /// A network without faults over a world.
    pub fn new(world: World, seed: u64) -> Network {
        let rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let weather = Weather::default();
        Network(Arc::new(Mutex::new(Inner {
            world,
            rng,
            weather,
            sides: BTreeMap::new(),
            down: Vec::new(),
            full: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nothing panics while it has the world")
    }

    /// Looks into the world, or changes it.
    pub fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.lock().world)
    }

    // Chance ------------------------------------------------------------------------------------------

    /// A number of a range.
    pub fn draw(&self, range: std::ops::Range<u64>) -> u64 {
        self.lock().rng.random_range(range)
    }

    /// Whether something with so many chances in a thousand happens.
    pub fn happens(&self, per_mille: u32) -> bool {
        self.lock().happens(per_mille)
    }

    /// A time between two numbers of milliseconds.
    pub fn draw_ms(&self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.draw(range))
    }

    /// An id made now, as UUIDv7 has it.
    pub fn id(&self) -> Uuid {
        let mut inner = self.lock();
        let now = inner.world.now();
        let mut random = [0u8; 10];
        inner.rng.fill_bytes(&mut random);
        uuid::Builder::from_unix_timestamp_millis(now.0 as u64, &random).into_uuid()
    }

    /// A secret.
    pub fn key(&self) -> [u8; 32] {
        let mut key = [0u8; 32];
        self.lock().rng.fill_bytes(&mut key);
        key
    }

    // Faults ------------------------------------------------------------------------------------------

    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// An instance begins; `listener` is told what PostgreSQL notifies of.
    pub fn connect(&self, instance: Uuid, listener: Arc<Feed>) {
        self.lock().sides.insert(instance, Side { listener: Some(listener), ..Side::default() });
    }

    /// The instance never acts again. What it has sent is on its way.
    pub fn crash(&self, instance: Uuid) {
        let mut inner = self.lock();
        inner.side(instance).crashed = true;
        inner.disturb(Duration::ZERO);
    }

    pub fn is_crashed(&self, instance: Uuid) -> bool {
        self.lock().side(instance).crashed
    }

    /// The instance does nothing for a while, and then goes on as if nothing had been.
    pub fn freeze(&self, instance: Uuid, time: Duration) {
        let mut inner = self.lock();
        inner.side(instance).frozen_until = Some(Instant::now() + time);
        inner.trouble(instance, time);
        inner.disturb(time);
    }

    pub fn cut_off(&self, instance: Uuid, server: Server) {
        self.lock().side(instance).cut_off.push(server);
    }

    pub fn reconnect(&self, instance: Uuid, server: Server) {
        let mut inner = self.lock();
        inner.side(instance).cut_off.retain(|cut| *cut != server);
        inner.disturb(Duration::from_secs(1));
        if server == Server::Journal {
            inner.trouble(instance, Duration::ZERO);
            self.listen_again(inner.side(instance));
        }
    }

    /// An instance has lost the connection on which it listens, and listens again a while later.
    fn listen_again(&self, side: &Side) {
        let Some(listener) = side.listener.clone().filter(|_| !side.crashed) else { return };
        tokio::spawn(async move {
            sleep(Duration::from_secs(1)).await;
            listener.start_over();
        });
    }

    pub fn take_down(&self, server: Server) {
        self.lock().down.push(server);
    }

    pub fn bring_up(&self, server: Server) {
        let mut inner = self.lock();
        if !inner.down.contains(&server) {
            return;
        }
        inner.disturb(Duration::from_secs(1));
        inner.down.retain(|down| *down != server);
        let all: Vec<Uuid> = inner.sides.keys().copied().collect();
        if server == Server::Journal {
            inner.world.restart_journal();
            for instance in all {
                inner.trouble(instance, Duration::ZERO);
                self.listen_again(inner.side(instance));
            }
        }
    }

    /// Whether Redis is out of memory.
    pub fn set_full(&self, full: bool) {
        let mut inner = self.lock();
        inner.full = full;
        inner.disturb(Duration::from_secs(1));
    }

    pub fn is_full(&self) -> bool {
        let mut inner = self.lock();
        if inner.full {
            inner.disturb(Duration::from_secs(1));
        }
        inner.full
    }

    /// All faults end; answers when the last instance thaws.
    pub fn heal(&self) -> Instant {
        let mut inner = self.lock();
        for side in inner.sides.values() {
            self.listen_again(side);
        }
        inner.weather = Weather::default();
        if inner.down.contains(&Server::Journal) {
            inner.world.restart_journal();
        }
        inner.down.clear();
        inner.full = false;
        inner.sides.values_mut().for_each(|side| side.cut_off.clear());
        let now = Instant::now();
        let running = inner.sides.values().filter(|side| !side.crashed);
        running.filter_map(|side| side.frozen_until).max().unwrap_or(now).max(now)
    }

    // The way -----------------------------------------------------------------------------------------

    /// Waits while the instance is frozen; for ever, when it has crashed.
    pub async fn running(&self, instance: Uuid) {
        loop {
            let until = {
                let mut inner = self.lock();
                let side = inner.side(instance);
                if side.crashed {
                    None
                } else {
                    match side.frozen_until.filter(|until| *until > Instant::now()) {
                        Some(until) => Some(until),
                        None => return,
                    }
                }
            };
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Sends a call of an instance to a server and waits for the answer.
    ///
    /// # Errors
    /// [`Lost`] when none comes; `effect` may have happened, or may happen later.
    pub async fn pass<A: Send + 'static>(
        &self,
        instance: Uuid,
        server: Server,
        effect: impl FnOnce(&mut World) -> A + Send + 'static,
    ) -> Result<A, Lost> {
        self.running(instance).await;
        let limit = server.answer_max();
        let (fate, there, back) = {
            let mut inner = self.lock();
            let (there, back) = (inner.rng.random_range(0..3), inner.rng.random_range(0..3));
            (inner.fate(instance, server), there, back)
        };
        let answer = match fate {
            Fate::Fine => {
                pause(there).await;
                let answer = effect(&mut self.lock().world);
                pause(back).await;
                Ok(answer)
            }
            Fate::Slow => {
                let wait = self.draw(20..limit.as_millis() as u64 * 2 / 3);
                let answer = self.apart(wait, effect).await;
                answer.map_err(|_| Lost::Broken)
            }
            Fate::Late => {
                let wait = limit.as_millis() as u64 + self.draw(1..2000);
                drop(self.apart(wait, effect));
                sleep(limit).await;
                Err(Lost::TimedOut(limit))
            }
            Fate::AnswerLost => {
                pause(there).await;
                drop(effect(&mut self.lock().world));
                self.lose(limit).await
            }
            Fate::RequestLost => self.lose(limit).await,
        };
        self.running(instance).await;
        answer
    }

    /// The effect comes by itself after a time, whether anybody waits for it or not.
    fn apart<A: Send + 'static>(
        &self,
        wait_ms: u64,
        effect: impl FnOnce(&mut World) -> A + Send + 'static,
    ) -> tokio::sync::oneshot::Receiver<A> {
        let (sender, answer) = tokio::sync::oneshot::channel();
        let network = self.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(wait_ms)).await;
            let done = effect(&mut network.lock().world);
            let _ = sender.send(done);
        });
        answer
    }

    async fn lose<A>(&self, limit: Duration) -> Result<A, Lost> {
        if self.happens(500) {
            pause(2).await;
            return Err(Lost::Broken);
        }
        sleep(limit).await;
        Err(Lost::TimedOut(limit))
    }

    /// Tells all instances that listen what PostgreSQL notifies of.
    pub fn notify(&self, notices: &[News]) {
        if notices.is_empty() {
            return;
        }
        let mut inner = self.lock();
        let sides: Vec<(Uuid, Side)> = inner.sides.iter().map(|(id, side)| (*id, side.clone())).collect();
        for (instance, side) in sides {
            let lost = inner.weather.notice_lost;
            let Some(listener) = side.listener.filter(|_| !side.crashed) else { continue };
            if side.cut_off.contains(&Server::Journal) || inner.happens(lost) {
                continue;
            }
            let (network, notices) = (self.clone(), notices.to_vec());
            tokio::spawn(async move {
                pause(1).await;
                network.running(instance).await;
                notices.into_iter().for_each(|news| listener.told(news));
            });
        }
    }
}

impl Inner {
    fn side(&mut self, instance: Uuid) -> &mut Side {
        self.sides.entry(instance).or_default()
    }

    fn happens(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.rng.random_range(0..1000) < per_mille
    }

    fn trouble(&mut self, instance: Uuid, time: Duration) {
        let until = Millis(self.world.now().0 + time.as_millis() as i64);
        let known = self.world.troubled.entry(instance).or_default();
        *known = until.max(*known);
    }

    fn disturb(&mut self, time: Duration) {
        let until = Millis(self.world.now().0 + time.as_millis() as i64);
        self.world.disturb(until);
    }

    fn fate(&mut self, instance: Uuid, server: Server) -> Fate {
        let away = self.down.contains(&server) || self.side(instance).cut_off.contains(&server);
        let Weather { request_lost, answer_lost, late, slow, .. } = self.weather;
        let fate = if away || self.happens(request_lost) {
            Fate::RequestLost
        } else if self.happens(answer_lost) {
            Fate::AnswerLost
        } else if self.happens(late) {
            Fate::Late
        } else if self.happens(slow) {
            Fate::Slow
        } else {
            Fate::Fine
        };
        if !matches!(fate, Fate::Fine | Fate::Slow) {
            self.disturb(Duration::from_secs(2));
        }
        if server == Server::Journal && !matches!(fate, Fate::Fine | Fate::Slow) {
            self.trouble(instance, Duration::from_secs(1));
        }
        fate
    }
}

/// A pause of so many milliseconds; of none it is none at all.
async fn pause(ms: u64) {
    if ms > 0 {
        sleep(Duration::from_millis(ms)).await;
    }
}
