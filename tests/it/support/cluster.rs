//! Several instances on the same stores, each behind proxies of its own.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use super::admin::{Admin, TOKEN_SETTING};
use super::balancer::Balancer;
use super::instance::{Instance, Stores, Streamer};
use super::load::Outcome;
use super::proxy::Proxy;
use super::servers::connect;
use super::twitch::Chat;
use super::watcher::{Shown, Watcher, now_ms};
use super::{PATIENCE, stretched};

/// The product's own times for a vote, where an outage is not to be waited out.
pub const VOTE_TIMES: [(&str, &str); 2] =
    [("CHATPULSE_LIMITS__VOTE_WAIT_MS", "500"), ("CHATPULSE_DATABASE__APPEND_TIMEOUT_MS", "500")];
/// What an overlay shows differs from the journal by no more than this.
const POINT: f64 = 1.0;

/// An instance and its ways to the stores.
pub struct Node {
    pub instance: Instance,
    /// As it is known in the journal.
    pub id: Uuid,
    pub postgres: Proxy,
    pub redis: Proxy,
    pub queue: Proxy,
    owner_url: String,
}

/// Instances on the same stores.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub stores: Stores,
}

/// A session's state in the journal.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub session_id: Uuid,
    pub shown: Shown,
    pub decay_speed: f64,
    pub ended: bool,
}

impl Node {
    async fn start(stores: &Stores, settings: &[(&str, &str)], seed: u64) -> Node {
        let postgres = Proxy::before(&stores.app_url, seed);
        let redis = Proxy::before(&stores.redis_url, seed + 1);
        let queue = Proxy::before(&stores.queue_url, seed + 2);
        let own = Stores {
            app_url: postgres.url(&stores.app_url),
            redis_url: redis.url(&stores.redis_url),
            queue_url: queue.url(&stores.queue_url),
            ..stores.shared()
        };
        let owner_url = stores.owner_url.clone();
        let known = instances(&connect(&owner_url).await).await;
        let instance = Instance::start_on_migrated(own, settings).await;
        let mut node = Node { instance, id: Uuid::nil(), postgres, redis, queue, owner_url };
        node.learn_id(&known).await;
        node
    }

    /// Starts the program again after its end, at the same addresses.
    pub async fn start_again(&mut self) {
        let known = instances(&connect(&self.owner_url).await).await;
        self.instance.start_again().await;
        self.learn_id(&known).await;
    }

    async fn learn_id(&mut self, known: &HashSet<Uuid>) {
        let sql = connect(&self.owner_url).await;
        super::eventually("the instance has a lease", async || {
            let new = instances(&sql).await.difference(known).copied().next();
            self.id = new.unwrap_or_default();
            new.is_some()
        })
        .await;
    }

    pub fn admin(&self) -> Admin {
        Admin::of(&self.instance)
    }

    /// An overlay of the streamer on this instance, which has had its hello.
    pub async fn watch(&self, streamer: &Streamer) -> Watcher {
        Watcher::on(self.instance.public, streamer).await
    }

    /// A new vote of a new viewer, delivered to this instance until it is taken; answers its message id.
    pub async fn vote(&self, streamer: &Streamer, word: &str) -> String {
        let (twitch, chat) = (self.instance.twitch(), Chat::new(&streamer.twitch_id, word));
        super::eventually("the vote is taken", async || twitch.post(&chat.signed()).await.status == 204)
            .await;
        chat.message_id
    }

    /// What `/health/ready` answers: the status and the body.
    pub async fn readiness(&self) -> (u16, Value) {
        let answer = self.instance.twitch().get("/health/ready").await;
        (answer.status, answer.json())
    }

    /// Waits until `/health/ready` says this in its `status`, and answers all it said then.
    pub async fn becomes(&self, status: &str) -> (u16, Value) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (code, body) = self.readiness().await;
            if body["status"] == status {
                return (code, body);
            }
            assert!(Instant::now() < deadline, "waited in vain for {status}: {body}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A metric of this instance, 0 if it is not there.
    pub async fn metric(&self, name: &str) -> f64 {
        self.instance.metrics().await.get(name).copied().unwrap_or(0.0)
    }
}

/// The instances that have a row in the journal.
async fn instances(sql: &Client) -> HashSet<Uuid> {
    let rows = sql.query("SELECT instance_id FROM chatpulse.instances", &[]).await;
    rows.expect("the journal can be read").iter().map(|row| row.get(0)).collect()
}

impl Cluster {
    /// So many instances on databases of this test on the shared servers.
    pub async fn on_shared(instances: u64, settings: &[(&str, &str)]) -> Cluster {
        Cluster::start(Stores::migrated().await, instances, settings).await
    }

    /// So many instances on stores with the newest schema.
    pub async fn start(stores: Stores, instances: u64, settings: &[(&str, &str)]) -> Cluster {
        let settings = [&[TOKEN_SETTING], settings].concat();
        let mut nodes = Vec::new();
        for place in 0..instances {
            nodes.push(Node::start(&stores, &settings, place * 100).await);
        }
        Cluster { nodes, stores }
    }

    /// Makes a streamer with the words yes and no, whom nobody else in this database is.
    pub async fn streamer(&self) -> Streamer {
        let words = json!({ "for_triggers": ["yes"], "against_triggers": ["no"] });
        self.nodes[0].admin().streamer(words).await
    }

    /// A round-robin over the instances that are ready.
    pub fn balancer(&self) -> Balancer {
        let addresses: Vec<_> = self.nodes.iter().map(|node| node.instance.public).collect();
        Balancer::over(&addresses)
    }

    /// A connection to the database as the owner, past all proxies.
    pub async fn sql(&self) -> Client {
        connect(&self.stores.owner_url).await
    }

    /// A connection to the database as the superuser, past all proxies.
    pub async fn superuser(&self) -> Client {
        connect(&self.stores.superuser_url).await
    }

    /// The streamer's newest session, as the journal has it.
    pub async fn head(&self, streamer: &Streamer) -> Head {
        head(&self.sql().await, streamer).await.expect("there was a session")
    }

    /// Waits until all these overlays show the journal's state, value within a point.
    pub async fn await_shown(&self, streamer: &Streamer, watchers: &[&Watcher]) {
        self.await_shown_within(PATIENCE, streamer, watchers).await;
    }

    /// As [`Cluster::await_shown`], where it is promised within this time.
    pub async fn await_shown_within(&self, promised: Duration, streamer: &Streamer, watchers: &[&Watcher]) {
        let sql = self.sql().await;
        let began = Instant::now();
        while let Some(wrong) = wrong(&sql, streamer, watchers).await {
            assert!(began.elapsed() < stretched(promised), "waited in vain for {promised:?}: {wrong}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        watchers.iter().for_each(|watcher| watcher.assert_in_order());
    }

    /// The chat message ids of the streamer's votes as journaled, in order.
    pub async fn journaled(&self, streamer: &Streamer) -> Vec<String> {
        self.nodes[0].instance.voted(streamer).await
    }

    /// Requires that what was answered is in the journal, each once, and nothing that was not sent.
    pub async fn assert_kept(&self, streamers: &[Streamer], outcome: &Outcome) {
        let mut journaled = Vec::new();
        for streamer in streamers {
            journaled.extend(self.journaled(streamer).await);
        }
        let once: HashSet<String> = journaled.iter().cloned().collect();
        assert_eq!(once.len(), journaled.len(), "no vote counts twice");
        let answered = outcome.answered();
        let lost: Vec<_> = answered.difference(&once).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {} of {}: {lost:?}", lost.len(), answered.len());
        let sent = outcome.sent();
        assert!(once.is_subset(&sent), "nothing but what was sent");
    }

    /// Waits until the journal has all of these.
    pub async fn await_journaled(&self, streamer: &Streamer, message_ids: &[String]) {
        super::eventually("the votes are journaled", async || {
            let journaled: HashSet<String> = self.journaled(streamer).await.into_iter().collect();
            message_ids.iter().all(|id| journaled.contains(id))
        })
        .await;
        let mut counts: HashMap<String, usize> = HashMap::new();
        for id in self.journaled(streamer).await {
            *counts.entry(id).or_default() += 1;
        }
        let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "no vote counts twice: {twice:?}");
    }

    /// Who holds the streamer's live session, by the journal; `None` while none is live.
    pub async fn holders(&self, streamer: &Streamer) -> Option<HashSet<Uuid>> {
        let sql = "SELECT holders FROM chatpulse.live_sessions WHERE streamer_id = $1";
        let row = self.sql().await.query_opt(sql, &[&streamer.id]).await.expect("the journal can be read");
        row.map(|row| row.get::<_, Vec<Uuid>>(0).into_iter().collect())
    }

    /// How often the streamer's sessions have ended, by their events.
    pub async fn ends(&self, streamer: &Streamer) -> i64 {
        let sql = "SELECT count(*) FROM chatpulse.events e
                   JOIN chatpulse.sessions s ON e.stream_id = 'session-' || s.session_id
                   WHERE s.streamer_id = $1 AND e.type = 'SessionEnded'";
        let row = self.sql().await.query_one(sql, &[&streamer.id]).await.expect("the journal can be read");
        row.get(0)
    }

    /// The sum of a metric over all instances.
    pub async fn metric(&self, name: &str) -> f64 {
        let mut sum = 0.0;
        for node in &self.nodes {
            sum += node.metric(name).await;
        }
        sum
    }
}

/// The first of these overlays that does not show the journal's state.
async fn wrong(sql: &Client, streamer: &Streamer, watchers: &[&Watcher]) -> Option<String> {
    let Some(head) = head(sql, streamer).await else { return Some("there is no session".into()) };
    let now = now_ms();
    watchers.iter().enumerate().find_map(|(place, watcher)| {
        let shown = watcher.shown();
        (!is_shown(&head, shown, now)).then(|| format!("overlay {place} shows {shown:?}, not {head:?}"))
    })
}

/// Whether an overlay shows what the journal says.
pub fn is_shown(head: &Head, shown: Option<Shown>, now_ms: i64) -> bool {
    shown.is_some_and(|shown| {
        let value = |of: &Shown| of.value_at(now_ms, head.decay_speed);
        shown.version == head.shown.version
            && shown.votes == head.shown.votes
            && (value(&shown) - value(&head.shown)).abs() < POINT
    })
}

/// The streamer's newest session, as the journal has it.
pub async fn head(sql: &Client, streamer: &Streamer) -> Option<Head> {
    let asked = "SELECT session_id, ordinal, version, value, at_ms, for_count, against_count, decay_speed,
                        ended_at_ms IS NOT NULL
                 FROM chatpulse.sessions WHERE streamer_id = $1 ORDER BY ordinal DESC LIMIT 1";
    let row = sql.query_opt(asked, &[&streamer.id]).await.expect("the journal can be read")?;
    let (ordinal, version): (i64, i64) = (row.get(1), row.get(2));
    let shown = Shown {
        version: (ordinal << 32) + version,
        value: row.get(3),
        at: row.get(4),
        votes: (row.get(5), row.get(6)),
    };
    Some(Head { session_id: row.get(0), shown, decay_speed: row.get(7), ended: row.get(8) })
}
