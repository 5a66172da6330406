//! Connections to Redis, time-outs, and the circuit that stops asking a Redis that is away.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool_redis::redis::aio::{ConnectionLike, MultiplexedConnection};
use deadpool_redis::redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult,
    ServerErrorKind, Value, cmd, from_redis_value,
};
use deadpool_redis::{Connection, Hook, HookError, Manager, Pool, PoolError, Runtime};

use super::HotError;
use super::functions;

/// After so many time-outs or connection errors in a row Redis counts as away.
const FAILURES_MAX: u32 = 2;
/// Commands sent in one pipeline at most, so that each pipeline fits in its time limit.
const PIPELINE_COMMANDS_MAX: usize = 1000;

/// How to reach Redis.
#[derive(Clone)]
pub struct HotOptions {
    /// `redis://…` or `redis+unix:///…`; may hold a password, so it is never logged.
    pub url: String,
    /// Connections at most.
    pub pool_size: usize,
    /// The longest a call may take, waiting for a connection included.
    pub command_timeout: Duration,
    /// The longest a probe may take, making a connection included.
    pub connect_timeout: Duration,
}

/// The hot state in Redis.
#[derive(Clone)]
pub struct Hot {
    pool: Pool,
    command_timeout: Duration,
    connect_timeout: Duration,
    circuit: Arc<Circuit>,
    server: Arc<Server>,
}

impl Hot {
    /// Prepares connections, without making one yet: Redis being away is no reason not to start.
    ///
    /// # Errors
    /// [`HotError::Options`] for a URL that can't be used.
    pub fn connect(options: &HotOptions) -> Result<Hot, HotError> {
        let unusable = |reason: String| HotError::Options(reason);
        // The limits of the whole call and of the probe are shorter; this one is the last resort.
        let limit = options.command_timeout.max(options.connect_timeout);
        let connection = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(options.connect_timeout))
            .set_response_timeout(Some(limit));
        let manager = Manager::new_with_config(options.url.as_str(), connection)
            .map_err(|error| unusable(error.to_string()))?;
        let server = Arc::new(Server::default());
        let pool = Pool::builder(manager)
            .max_size(options.pool_size.max(1))
            .wait_timeout(Some(options.command_timeout))
            .create_timeout(Some(options.connect_timeout))
            .recycle_timeout(Some(options.command_timeout))
            .post_create(meet_server(Arc::clone(&server)))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        Ok(Hot {
            pool,
            command_timeout: options.command_timeout,
            connect_timeout: options.connect_timeout,
            circuit: Arc::default(),
            server,
        })
    }

    /// Whether calls are sent; `false` after two time-outs or connection errors in a row, until a
    /// [`Hot::probe`] succeeds.
    pub fn is_up(&self) -> bool {
        self.circuit.failures.load(Ordering::Relaxed) < FAILURES_MAX
    }

    /// Asks Redis for a sign of life, also while it counts as away: this is what brings it back.
    /// To be called once a second.
    ///
    /// # Errors
    /// [`HotError`] when there is no sign of life.
    pub async fn probe(&self) -> Result<(), HotError> {
        let answers = self.exchange(vec![cmd("PING")], self.connect_timeout).await?;
        answers.into_iter().try_for_each(answer)
    }

    /// Sends commands in one pipeline and gives their answers, in order; an answer may be a server
    /// error. When the server lacks the function library it is loaded and all commands are sent
    /// again, so they have to be repeatable.
    ///
    /// Each command touches one bucket only; a cluster would get one pipeline a bucket here.
    ///
    /// # Errors
    /// [`HotError::Away`], [`HotError::TimedOut`] or [`HotError::Connection`].
    pub(super) async fn send(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, HotError> {
        let mut answers = Vec::with_capacity(commands.len());
        let mut commands = commands.into_iter().peekable();
        while commands.peek().is_some() {
            if !self.is_up() {
                return Err(HotError::Away);
            }
            let batch = commands.by_ref().take(PIPELINE_COMMANDS_MAX).collect();
            answers.extend(self.exchange(batch, self.command_timeout).await?);
        }
        Ok(answers)
    }

    /// Sends one command and reads its answer.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: Cmd) -> Result<T, HotError> {
        let answers = self.send(vec![command]).await?;
        let only = answers.into_iter().next();
        answer(only.ok_or_else(|| HotError::Answer("nothing".into()))?)
    }

    /// A number that grows when the server behind the URL may have become another one: what was
    /// read before may then be newer than what is there.
    pub(super) fn server_generation(&self) -> u64 {
        self.server.generation.load(Ordering::Acquire)
    }

    async fn exchange(&self, commands: Vec<Cmd>, limit: Duration) -> Result<Vec<Value>, HotError> {
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(command);
        }
        let result = match tokio::time::timeout(limit, self.exchange_unbounded(&pipeline)).await {
            Ok(result) => result,
            Err(_) => Err(HotError::TimedOut { limit_ms: limit.as_millis() }),
        };
        match &result {
            Err(HotError::TimedOut { .. }) => self.circuit.count_failure(),
            Err(HotError::Connection(_)) => {
                self.circuit.count_failure();
                self.server.count_generation();
            }
            _ => self.circuit.count_success(),
        }
        result
    }

    async fn exchange_unbounded(&self, pipeline: &Pipeline) -> Result<Vec<Value>, HotError> {
        let mut connection = self.pool.get().await.map_err(of_pool)?;
        let answers = round_trip(&mut connection, pipeline).await?;
        if !answers.iter().any(functions::is_missing) {
            return Ok(answers);
        }
        functions::load(&mut connection).await.map_err(of_redis)?;
        round_trip(&mut connection, pipeline).await
    }
}

async fn round_trip(connection: &mut Connection, pipeline: &Pipeline) -> Result<Vec<Value>, HotError> {
    let answers = connection.req_packed_commands(pipeline, 0, pipeline.len()).await.map_err(of_redis)?;
    match answers.iter().find_map(unusable_server) {
        Some(reason) => Err(HotError::Connection(reason)),
        None if answers.len() == pipeline.len() => Ok(answers),
        None => Err(HotError::Answer(format!("{} answers to {} commands", answers.len(), pipeline.len()))),
    }
}

/// An answer as the type it should have.
pub(super) fn answer<T: FromRedisValue>(value: Value) -> Result<T, HotError> {
    if let Value::ServerError(error) = value {
        return Err(HotError::Server(text_of(error)));
    }
    from_redis_value(value).map_err(|error| HotError::Answer(error.to_string()))
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
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly};
    matches!(kind, BusyLoading | ClusterDown | MasterDown | ReadOnly)
}

fn of_redis(error: RedisError) -> HotError {
    match error.kind() {
        ErrorKind::Server(kind) if !is_unusable(kind) => HotError::Server(error.to_string()),
        ErrorKind::Extension => HotError::Server(error.to_string()),
        _ => HotError::Connection(error.to_string()),
    }
}

fn of_pool(error: PoolError) -> HotError {
    match error {
        PoolError::Backend(error) => of_redis(error),
        other => HotError::Connection(other.to_string()),
    }
}

/// Counts failures in a row.
#[derive(Default)]
struct Circuit {
    failures: AtomicU32,
}

impl Circuit {
    fn count_success(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    fn count_failure(&self) {
        // Saturating, so that a long outage can't wrap it to "up". The closure always answers.
        let _ = self
            .failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |failures| Some(failures.saturating_add(1)));
    }
}

/// What is known of the server behind the URL.
#[derive(Default)]
struct Server {
    generation: AtomicU64,
    /// The random id a server process gives itself.
    run_id: Mutex<Option<String>>,
}

impl Server {
    fn count_generation(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Notes the server's run id; `true` when it was not the one known.
    fn note(&self, run_id: &str) -> bool {
        let mut known = self.run_id.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() == Some(run_id) {
            return false;
        }
        if known.replace(run_id.to_owned()).is_some() {
            self.count_generation();
        }
        true
    }
}

/// Looks on each new connection which server it leads to, and loads the library into a new one.
fn meet_server(server: Arc<Server>) -> Hook {
    Hook::async_fn(move |connection, _| {
        let server = Arc::clone(&server);
        Box::pin(async move {
            let run_id = run_id(connection).await.map_err(HookError::Backend)?;
            if server.note(&run_id) {
                // Debounce and orphans work without the library; a call that needs it loads it
                // again and reports why that fails.
                let _ = functions::load(connection).await;
            }
            Ok(())
        })
    })
}

async fn run_id(connection: &mut MultiplexedConnection) -> RedisResult<String> {
    let info: String = cmd("INFO").arg("server").query_async(connection).await?;
    Ok(info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default().trim().to_owned())
}
