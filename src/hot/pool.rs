//! Connections to Redis, one server or a cluster, time-outs, and the circuit that stops asking a
//! Redis that is away.
//!
//! Reading order: here what both kinds share, [`single`], [`cluster`], [`circuit`].

mod circuit;
mod cluster;
mod single;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_redis::redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind, Value, cmd, from_redis_value,
};

use self::circuit::{Circuit, Generation};
use self::cluster::Cluster;
use self::single::Single;
use super::HotError;
use super::changes::OwnBeats;

/// Commands sent at once at most, so that each exchange fits in its time limit.
const PIPELINE_COMMANDS_MAX: usize = 1000;

/// How to reach Redis.
#[derive(Clone)]
pub struct HotOptions {
    /// One server (`redis://…`, `rediss://…` or `redis+unix:///…`), or several nodes of a cluster,
    /// from which its other nodes are found. May hold passwords, so they are never logged.
    pub urls: Vec<String>,
    /// Connections to one server at most; to each node of a cluster there is one.
    pub pool_size: usize,
    /// The longest a call may take, waiting for a connection included.
    pub command_timeout: Duration,
    /// The longest a probe may take, making a connection included.
    pub connect_timeout: Duration,
}

/// The hot state in Redis.
#[derive(Clone)]
pub struct Hot {
    servers: Servers,
    command_timeout: Duration,
    connect_timeout: Duration,
    circuit: Arc<Circuit>,
    generation: Arc<Generation>,
    own_beats: Arc<Mutex<OwnBeats>>,
}

#[derive(Clone)]
enum Servers {
    Single(Single),
    Cluster(Cluster),
}

impl Hot {
    /// Prepares connections, without making one yet: Redis being away is no reason not to start.
    ///
    /// # Errors
    /// [`HotError::Options`] for no URL or one that can't be used.
    pub fn connect(options: &HotOptions) -> Result<Hot, HotError> {
        let generation = Arc::default();
        let servers = match options.urls.as_slice() {
            [] => return Err(HotError::Options("there is no URL".into())),
            [url] => Servers::Single(Single::new(url, options, &generation)?),
            _ => Servers::Cluster(Cluster::new(options, &generation)?),
        };
        Ok(Hot {
            servers,
            command_timeout: options.command_timeout,
            connect_timeout: options.connect_timeout,
            circuit: Arc::default(),
            generation,
            own_beats: Arc::default(),
        })
    }

    /// What is known of the pulse.
    pub(super) fn own_beats(&self) -> MutexGuard<'_, OwnBeats> {
        // Nothing in there can panic half-way, so a poisoned lock still guards whole data.
        self.own_beats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether calls are sent; `false` after two time-outs or connection errors in a row, until a
    /// [`Hot::probe`] succeeds.
    pub fn is_up(&self) -> bool {
        self.circuit.is_closed()
    }

    /// Whether this is a cluster, which may lose its newest writes when a replica takes over.
    pub fn is_cluster(&self) -> bool {
        matches!(self.servers, Servers::Cluster(_))
    }

    /// Whether Redis is there and takes writes; asks also while it counts as away: this is what brings
    /// it back. A cluster is there when each of its slots has a master that answers. To be called
    /// once a second.
    ///
    /// # Errors
    /// [`HotError`] when there is no sign of life, or when it would refuse writes: full, unable to
    /// write to its disk, or a replica. It then counts as away at once.
    pub async fn probe(&self) -> Result<(), HotError> {
        let refusal = self.look().await?.iter().find_map(|info| refusal(info));
        let refused = self.circuit.note_refusal(refusal.is_some());
        match refusal {
            Some(reason) => Err(HotError::Connection(reason.into())),
            None if refused => {
                // Others may have changed what was read before.
                self.generation.grow();
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// As [`Hot::probe`], for a role that is of use while its server is full: a queue that can still
    /// be emptied.
    ///
    /// # Errors
    /// [`HotError`] when there is no sign of life.
    pub async fn probe_alive(&self) -> Result<(), HotError> {
        self.look().await.map(|_| ())
    }

    async fn look(&self) -> Result<Vec<String>, HotError> {
        let looking = async {
            match &self.servers {
                Servers::Single(server) => server.probe().await,
                Servers::Cluster(cluster) => cluster.probe().await,
            }
        };
        self.within(self.connect_timeout, looking).await
    }

    /// Sends commands in one pipeline (to a cluster: one a slot, at the same time) and gives their
    /// answers, in order; an answer may be a server error. When a server lacks the function library
    /// it is loaded and its commands are sent again; so they are when the connection turns out to be lost. They have
    /// to be repeatable.
    ///
    /// All keys of one command share a slot, that of its first key; commands of different slots may
    /// be served in any order.
    ///
    /// # Errors
    /// [`HotError::Away`], [`HotError::TimedOut`] or [`HotError::Connection`]; what became of each
    /// command is then unknown.
    pub(super) async fn send(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, HotError> {
        let mut answers = Vec::with_capacity(commands.len());
        let mut commands = commands.into_iter().peekable();
        while commands.peek().is_some() {
            if !self.is_up() {
                return Err(HotError::Away);
            }
            let batch = commands.by_ref().take(PIPELINE_COMMANDS_MAX).collect();
            answers.extend(self.within(self.command_timeout, self.exchange(batch)).await?);
        }
        Ok(answers)
    }

    /// Sends one command and reads its answer.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: Cmd) -> Result<T, HotError> {
        let [only] = self.ask_together([command]).await?;
        answer(only)
    }

    /// Sends a few commands and gives their answers, all of one server; each may be a server error.
    pub(super) async fn ask_together<const N: usize>(
        &self,
        commands: [Cmd; N],
    ) -> Result<[Value; N], HotError> {
        let answers = self.send(commands.into()).await?;
        let others =
            |answers: Vec<Value>| HotError::Answer(format!("{} answers to {N} commands", answers.len()));
        answers.try_into().map_err(others)
    }

    /// Memory that the servers' data takes together, in bytes.
    ///
    /// # Errors
    /// [`HotError`] when one of them can't be asked.
    pub async fn used_memory(&self) -> Result<u64, HotError> {
        let mut question = cmd("INFO");
        question.arg("memory");
        let infos: Vec<String> = match &self.servers {
            Servers::Single(_) => vec![self.ask(question).await?],
            Servers::Cluster(_) if !self.is_up() => return Err(HotError::Away),
            Servers::Cluster(cluster) => {
                let asked = self.within(self.command_timeout, cluster.ask_masters(&question)).await?;
                asked.into_values().collect()
            }
        };
        let used = |info: &String| info_line(info, "used_memory").and_then(|bytes| bytes.parse::<u64>().ok());
        Ok(infos.iter().filter_map(used).sum())
    }

    /// A number that grows when the servers behind the URLs may have become others (a connection
    /// was lost, a slot moved, a server restarted, a replica took over): what was read before may
    /// then be newer than what is there.
    pub(super) fn server_generation(&self) -> u64 {
        self.generation.get()
    }

    async fn exchange(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, HotError> {
        match &self.servers {
            Servers::Single(server) => server.exchange(commands).await,
            Servers::Cluster(cluster) => cluster.exchange(commands).await,
        }
    }

    /// Bounds a piece of work by a time limit, and counts what became of it.
    async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, HotError>>,
    ) -> Result<T, HotError> {
        let result = match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(HotError::TimedOut { limit_ms: limit.as_millis() }),
        };
        match &result {
            Err(HotError::TimedOut { .. }) => self.circuit.count_failure(),
            Err(HotError::Connection(_)) => {
                self.circuit.count_failure();
                self.generation.grow();
            }
            _ => self.circuit.count_success(),
        }
        if let Servers::Cluster(cluster) = &self.servers
            && result.is_err()
            && !self.is_up()
        {
            cluster.renew();
        }
        result
    }
}

fn pipeline_of(commands: Vec<Cmd>) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(commands.len());
    for command in commands {
        pipeline.add_command(command);
    }
    pipeline
}

/// The answers, if they are as many as the commands and come from a server that can serve.
fn checked(answers: Vec<Value>, commands: usize) -> Result<Vec<Value>, HotError> {
    match answers.iter().find_map(unusable_server) {
        Some(reason) => Err(HotError::Connection(reason)),
        None if answers.len() == commands => Ok(answers),
        None => Err(HotError::Answer(format!("{} answers to {commands} commands", answers.len()))),
    }
}

/// An answer as the type it should have.
pub(super) fn answer<T: FromRedisValue>(value: Value) -> Result<T, HotError> {
    if let Value::ServerError(error) = value {
        return Err(HotError::Server(text_of(error)));
    }
    from_redis_value(value).map_err(|error| HotError::Answer(error.to_string()))
}

/// Asks a server for what a probe looks at.
fn info_command() -> Cmd {
    let mut info = cmd("INFO");
    info.arg(&["server", "memory", "persistence", "replication"]);
    info
}

/// Why a server refuses writes, if what it says of itself shows that. Source: redis.io, "INFO"; what
/// counts as memory is what `maxmemory` is compared with.
fn refusal(info: &str) -> Option<&'static str> {
    let number = |name| info_line(info, name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let memory = number("used_memory").saturating_sub(number("mem_not_counted_for_evict"));
    let bound = number("maxmemory");
    let evicts = info_line(info, "maxmemory_policy") != Some("noeviction");
    if bound > 0 && memory > bound && !evicts {
        Some("its memory is full (maxmemory), so it refuses writes")
    } else if info_line(info, "aof_last_write_status") == Some("err") {
        Some("it can't write its append-only file, so it refuses writes")
    } else if info_line(info, "role") == Some("slave") {
        Some("it is a replica, so it refuses writes")
    } else {
        None
    }
}

/// The value of a line `name:value` in an answer of INFO or CLUSTER INFO.
fn info_line<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    info.lines().find_map(value).map(str::trim)
}

fn text_of(error: impl Into<RedisError>) -> String {
    error.into().to_string()
}

/// Why the server can't serve for now, if an answer says so.
fn unusable_server(answer: &Value) -> Option<String> {
    let Value::ServerError(error) = answer else { return None };
    error.kind().filter(|kind| is_unusable(*kind)).map(|_| text_of(error.clone()))
}

fn is_unusable(kind: ServerErrorKind) -> bool {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    matches!(kind, Ask | BusyLoading | ClusterDown | MasterDown | Moved | ReadOnly | TryAgain)
}

fn of_redis(error: RedisError) -> HotError {
    match error.kind() {
        ErrorKind::Server(kind) if !is_unusable(kind) => HotError::Server(error.to_string()),
        ErrorKind::Extension => HotError::Server(error.to_string()),
        _ => HotError::Connection(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::refusal;

    #[test]
    fn a_server_that_would_refuse_writes_is_known_by_what_it_says() {
        let full = "used_memory:2100\r\nmaxmemory:2000\r\nmaxmemory_policy:noeviction\r\n";
        assert!(refusal(full).is_some_and(|reason| reason.contains("full")));
        assert_eq!(refusal(&format!("{full}mem_not_counted_for_evict:100\r\n")), None);
        assert_eq!(refusal(&full.replace("noeviction", "volatile-ttl")), None);
        assert_eq!(refusal(&full.replace(":2000", ":0")), None);
        assert!(refusal("aof_last_write_status:err\r\n").is_some_and(|reason| reason.contains("file")));
        assert!(refusal("role:slave\r\n").is_some_and(|reason| reason.contains("replica")));
        assert_eq!(refusal("role:master\r\naof_last_write_status:ok\r\n"), None);
    }
}
