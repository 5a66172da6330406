//! A Redis Cluster behind one connection to each of its nodes.
//!
//! There is no pool: the client's connection is cheap to clone, sends all calls over one multiplexed
//! connection a node, and a pool of it would keep a set of them to *every* node in each slot and
//! ping all of them at each use. The client's own retries are off, so that each lost connection and
//! each redirect is seen here: after either, what was read may be newer than what is there.
//!
//! A slot that is being moved to another node is asked there when the cluster says so (ASK). Keys of
//! one function that are spread over both for a moment (TRYAGAIN), a shard without a master, a
//! cluster that is down: all count as Redis being away, for all shards, since a half mirror would
//! have to be told from a whole one at each step.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deadpool_redis::cluster::{ClusterClient, ClusterClientBuilder, ClusterConnection};
use deadpool_redis::redis::cluster::ClusterConfig;
use deadpool_redis::redis::cluster_routing::{
    MultipleNodeRoutingInfo, ResponsePolicy, Route, RoutingInfo, SingleNodeRoutingInfo, Slot, SlotAddr,
};
use deadpool_redis::redis::{Arg, Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value, cmd};
use futures_util::future::join_all;

use super::circuit::Generation;
use super::{HotOptions, answer, checked, info_command, info_line, of_redis, pipeline_of};
use crate::hot::{HotError, functions};

/// How often the commands of a slot are sent at most: they may meet a redirect or two, and a master
/// without the library.
const ATTEMPTS_MAX: usize = 4;

/// Connections to the nodes of a cluster.
#[derive(Clone)]
pub(super) struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    client: ClusterClient,
    generation: Arc<Generation>,
    connection: Mutex<Option<ClusterConnection>>,
    /// The masters last seen: address → run id, the random id a server process gives itself.
    masters: Mutex<Option<BTreeMap<String, String>>>,
    /// How often the library was loaded; whoever waited for another's loading need not repeat it.
    loads: AtomicU64,
    loading: tokio::sync::Mutex<()>,
}

impl Cluster {
    pub(super) fn new(options: &HotOptions, generation: &Arc<Generation>) -> Result<Self, HotError> {
        // Shorter than the limits of a call and of the probe: the client gives up a connection when
        // it meets a limit itself, and knows nothing of calls that nobody waits for any more.
        let client = ClusterClientBuilder::new(options.urls.iter().map(String::as_str))
            .retries(0)
            .connection_timeout(options.connect_timeout / 2)
            .response_timeout(options.command_timeout * 4 / 5)
            .overall_response_timeout(None)
            .build()
            .map_err(|error| HotError::Options(error.to_string()))?;
        let shared = Shared {
            client,
            generation: Arc::clone(generation),
            connection: Mutex::default(),
            masters: Mutex::default(),
            loads: AtomicU64::default(),
            loading: tokio::sync::Mutex::default(),
        };
        Ok(Cluster { shared: Arc::new(shared) })
    }

    /// Sends the commands in one pipeline a slot, all at once, and gives the answers in their order.
    pub(super) async fn exchange(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, HotError> {
        let mut answers = vec![Value::Nil; commands.len()];
        let groups = groups(commands).into_iter().map(|(slot, group)| self.serve(slot, group));
        // To the end, also after a failure: the healthy shards' commands are not to be torn off.
        for answered in join_all(groups).await {
            for (place, value) in answered? {
                answers[place] = value;
            }
        }
        Ok(answers)
    }

    /// What each master says of itself, if the cluster serves all slots and all of them answer. Also
    /// looks whether they are still the same.
    pub(super) async fn probe(&self) -> Result<Vec<String>, HotError> {
        if self.shared.connection().is_none() {
            self.connect().await?;
        }
        let states = self.ask_masters(cmd("CLUSTER").arg("INFO")).await?;
        let infos = self.ask_masters(&info_command()).await?;
        let serves = |state: &String| {
            let size: Option<usize> = info_line(state, "cluster_size").and_then(|size| size.parse().ok());
            info_line(state, "cluster_state") == Some("ok") && size == Some(infos.len())
        };
        let is_master = |info: &String| info_line(info, "role") == Some("master");
        if !states.values().all(serves) || !infos.values().all(is_master) {
            return Err(HotError::Connection("not every slot of the cluster has a master".into()));
        }
        let run_id = |info: &String| info_line(info, "run_id").unwrap_or_default().to_owned();
        let masters = infos.iter().map(|(address, info)| (address.clone(), run_id(info))).collect();
        if self.shared.note(masters) {
            // A call that needs the library loads it again and reports why that fails.
            let _ = self.load(self.shared.loads.load(Ordering::Acquire)).await;
        }
        Ok(infos.into_values().collect())
    }

    /// Sends a command to each master and gives the answers by address.
    pub(super) async fn ask_masters(&self, command: &Cmd) -> Result<BTreeMap<String, String>, HotError> {
        let everywhere = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let answered = self.connection().route_command(command.clone(), everywhere).await;
        let Value::Map(answers) = answered.map_err(of_redis)? else { return Ok(BTreeMap::new()) };
        let (addresses, values): (Vec<Value>, Vec<Value>) = answers.into_iter().unzip();
        let values = checked(values, addresses.len())?;
        let each = addresses.into_iter().zip(values);
        each.map(|(address, value)| Ok((answer(address)?, answer(value)?))).collect()
    }

    /// Lets go of all connections; the next call makes new ones, beginning with the URLs. To be done
    /// when the cluster can't be reached: the client keeps to the nodes it knows, so it would not
    /// find a cluster whose nodes have all moved, and asks a frozen node for ever.
    pub(super) fn renew(&self) {
        if self.shared.connection().take().is_some() {
            self.shared.generation.grow();
        }
    }

    /// Connects, and says why that fails. Goes on when a caller gives up, for the next one.
    async fn connect(&self) -> Result<(), HotError> {
        let shared = Arc::clone(&self.shared);
        let connecting = tokio::spawn(async move {
            let connection = shared.client.get_async_connection().await.map_err(of_redis)?;
            *shared.connection() = Some(connection);
            Ok(())
        });
        connecting.await.map_err(|error| HotError::Connection(error.to_string()))?
    }

    fn connection(&self) -> ClusterConnection {
        let mut connection = self.shared.connection();
        // Connects in the background: a caller that gives up does not break that off.
        let make = || self.shared.client.get_pending_async_connection_with_config(ClusterConfig::new());
        connection.get_or_insert_with(make).clone()
    }

    /// Sends the commands of one slot to its master, following redirects.
    async fn serve(&self, slot: Option<Slot>, group: Group) -> Result<Vec<(usize, Value)>, HotError> {
        let count = group.commands.len();
        let pipeline = pipeline_of(group.commands);
        let route = slot.map_or(SingleNodeRoutingInfo::RandomPrimary, master_of);
        for _ in 0..ATTEMPTS_MAX {
            let loads = self.shared.loads.load(Ordering::Acquire);
            let sent = self.connection().route_pipeline(pipeline.clone(), 0, count, route.clone()).await;
            match sent {
                Ok(answers) if answers.iter().any(functions::is_missing) => self.load(loads).await?,
                Ok(answers) => return Ok(group.places.into_iter().zip(checked(answers, count)?).collect()),
                // The client has learned the slots' new places when it sends the commands again.
                Err(error) if is(&error, ServerErrorKind::Moved) => self.shared.generation.grow(),
                Err(error) if is(&error, ServerErrorKind::Ask) => {
                    let answers = self.ask_importing(&pipeline, &error).await?;
                    return Ok(group.places.into_iter().zip(answers).collect());
                }
                Err(error) => return Err(of_redis(error)),
            }
        }
        Err(HotError::Connection("the cluster sends from one node to another".into()))
    }

    /// Sends commands to the node that is taking over their slot. Each of them needs a word of its
    /// own that it may be served there.
    async fn ask_importing(&self, pipeline: &Pipeline, ask: &RedisError) -> Result<Vec<Value>, HotError> {
        let place = ask.redirect_node().and_then(|(address, _)| address.rsplit_once(':'));
        let place = place.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
        let Some((host, port)) = place else { return Err(HotError::Answer(ask.to_string())) };
        let mut asking = Pipeline::with_capacity(2 * pipeline.len());
        for command in pipeline.cmd_iter() {
            asking.add_command(cmd("ASKING")).add_command(command.clone());
        }
        let route = SingleNodeRoutingInfo::ByAddress { host, port };
        let count = asking.len();
        let answers = self.connection().route_pipeline(asking, 0, count, route).await.map_err(of_redis)?;
        let answers = checked(answers, count)?;
        Ok(answers.into_iter().skip(1).step_by(2).collect())
    }

    /// Loads the library into each master, unless that happened since there were `loads`.
    async fn load(&self, loads: u64) -> Result<(), HotError> {
        let _one_at_a_time = self.shared.loading.lock().await;
        if self.shared.loads.load(Ordering::Acquire) != loads {
            return Ok(());
        }
        let all = Some(ResponsePolicy::AllSucceeded);
        let everywhere = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, all));
        let loaded = self.connection().route_command(functions::load_command(), everywhere).await;
        answer::<String>(loaded.map_err(of_redis)?)?;
        self.shared.loads.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

impl Shared {
    fn connection(&self) -> MutexGuard<'_, Option<ClusterConnection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the masters; `true` when they were not the ones known.
    fn note(&self, masters: BTreeMap<String, String>) -> bool {
        let mut known = self.masters.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() == Some(&masters) {
            return false;
        }
        if known.replace(masters).is_some() {
            self.generation.grow();
        }
        true
    }
}

/// Commands of one slot, and the places of their answers.
#[derive(Default)]
struct Group {
    places: Vec<usize>,
    commands: Vec<Cmd>,
}

/// The commands by the slot of their key; those without a key together.
fn groups(commands: Vec<Cmd>) -> HashMap<Option<Slot>, Group> {
    let mut groups: HashMap<Option<Slot>, Group> = HashMap::new();
    for (place, command) in commands.into_iter().enumerate() {
        let group = groups.entry(key_of(&command).map(Slot::for_key)).or_default();
        group.places.push(place);
        group.commands.push(command);
    }
    groups
}

/// The key that decides on which node a command is served. Source: redis.io, the commands'
/// "key specifications"; for those that this program uses.
fn key_of(command: &Cmd) -> Option<&[u8]> {
    let word = |place| match command.args_iter().nth(place) {
        Some(Arg::Simple(word)) => Some(word),
        _ => None,
    };
    match word(0)? {
        b"PING" | b"INFO" | b"CONFIG" | b"CLUSTER" | b"FUNCTION" | b"WAIT" => None,
        b"FCALL" | b"FCALL_RO" => word(3),
        b"XGROUP" | b"XINFO" => word(2),
        b"XREAD" | b"XREADGROUP" => {
            let mut words = command.args_iter();
            words.find(|word| matches!(word, Arg::Simple(b"STREAMS")))?;
            match words.next() {
                Some(Arg::Simple(key)) => Some(key),
                _ => None,
            }
        }
        _ => word(1),
    }
}

fn master_of(slot: Slot) -> SingleNodeRoutingInfo {
    SingleNodeRoutingInfo::SpecificNode(Route::with_slot(slot, SlotAddr::Master))
}

fn is(error: &RedisError, kind: ServerErrorKind) -> bool {
    error.kind() == ErrorKind::Server(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &str) -> Cmd {
        let mut words = words.split(' ');
        let mut command = cmd(words.next().unwrap_or_default());
        command.arg(words.collect::<Vec<_>>());
        command
    }

    #[test]
    fn the_key_is_found_wherever_the_command_has_it() {
        for (words, key) in [
            ("SET k v", Some("k")),
            ("FCALL f 2 k other argument", Some("k")),
            ("FCALL_RO f 1 k", Some("k")),
            ("XADD k * f v", Some("k")),
            ("XGROUP CREATE k g 0 MKSTREAM", Some("k")),
            ("XREADGROUP GROUP g c COUNT 10 STREAMS k >", Some("k")),
            ("PING", None),
            ("CONFIG GET appendonly", None),
        ] {
            assert_eq!(key_of(&command(words)), key.map(str::as_bytes), "{words}");
        }
    }

    #[test]
    fn commands_of_one_bucket_go_together_in_their_order() {
        let commands = ["SET {a}1 x", "SET {b}2 x", "FCALL f 1 {a}3", "PING", "SET {b}4 x"].map(command);
        let groups = groups(commands.to_vec());
        let places = |key: &str| groups[&Some(Slot::for_key(key))].places.clone();
        assert_eq!((groups.len(), places("a"), places("b")), (3, vec![0, 2], vec![1, 4]));
        assert_eq!(groups[&None].places, [3]);
    }
}
