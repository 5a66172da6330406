//! One Redis server.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deadpool_redis::redis::aio::{ConnectionLike, MultiplexedConnection};
use deadpool_redis::redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisResult, Value, cmd};
use deadpool_redis::{Connection, Hook, HookError, Manager, Pool, PoolError, Runtime};

use super::circuit::Generation;
use super::{HotOptions, answer, checked, info_command, of_redis, pipeline_of};
use crate::hot::HotError;
use crate::hot::functions;

/// Connections to one server: few, used by all callers at once. A pipeline does not wait for the answers to the
/// one before it, and nobody asks first whether a connection still lives, which would be a question to the server
/// for each question.
#[derive(Clone)]
pub(super) struct Single {
    /// Makes the connections, within its time limits.
    pool: Pool,
    generation: Arc<Generation>,
    slots: Arc<[Slot]>,
    next: Arc<AtomicUsize>,
}

/// A place for a connection that is in use.
#[derive(Default)]
struct Slot {
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl Slot {
    fn connection(&self) -> MutexGuard<'_, Option<MultiplexedConnection>> {
        // Nothing in here can panic half-way, so a poisoned lock still guards whole data.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An exchange under way. One that fails, or that nobody waits for any more, leaves its connection in doubt, and those
/// beside it, which lead to the same server: others are made.
struct Doubt<'a>(&'a [Slot]);

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|slot| *slot.connection() = None);
    }
}

impl Single {
    pub(super) fn new(
        url: &str,
        options: &HotOptions,
        generation: &Arc<Generation>,
    ) -> Result<Self, HotError> {
        let unusable = |reason: String| HotError::Options(reason);
        // The limits of the whole call and of the probe are shorter; this one is the last resort.
        let limit = options.command_timeout.max(options.connect_timeout);
        let connection = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(options.connect_timeout))
            .set_response_timeout(Some(limit));
        let manager =
            Manager::new_with_config(url, connection).map_err(|error| unusable(error.to_string()))?;
        let pool = Pool::builder(manager)
            .max_size(options.pool_size.max(1))
            .wait_timeout(Some(options.command_timeout))
            .create_timeout(Some(options.connect_timeout))
            .recycle_timeout(Some(options.command_timeout))
            .post_create(meet_server(Arc::new(Server::new(Arc::clone(generation)))))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        let slots = (0..options.pool_size.max(1)).map(|_| Slot::default()).collect();
        Ok(Single { pool, generation: Arc::clone(generation), slots, next: Arc::default() })
    }

    /// Sends the commands in one pipeline, once more if the server lacked the library or the connection in use
    /// turned out to be lost.
    pub(super) async fn exchange(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, HotError> {
        let pipeline = pipeline_of(commands);
        // There is at least one slot.
        let slot = &self.slots[self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len()];
        let used = slot.connection().clone();
        if let Some(connection) = used {
            match round_trips(&self.slots, connection, &pipeline).await {
                Err(HotError::Connection(_)) => self.generation.grow(),
                answered => return answered,
            }
        }
        let connection = Connection::take(self.pool.get().await.map_err(of_pool)?);
        *slot.connection() = Some(connection.clone());
        round_trips(&self.slots, connection, &pipeline).await
    }

    /// What the server says of itself.
    pub(super) async fn probe(&self) -> Result<Vec<String>, HotError> {
        self.exchange(vec![info_command()]).await?.into_iter().map(answer).collect()
    }
}

/// Sends the pipeline, and once more when it finds that the server lacks the library.
async fn round_trips(
    slots: &[Slot],
    mut connection: MultiplexedConnection,
    pipeline: &Pipeline,
) -> Result<Vec<Value>, HotError> {
    let mut doubt = Doubt(slots);
    let mut answers = round_trip(&mut connection, pipeline).await?;
    if answers.iter().any(functions::is_missing) {
        functions::load(&mut connection).await.map_err(of_redis)?;
        answers = round_trip(&mut connection, pipeline).await?;
    }
    doubt.0 = &[];
    Ok(answers)
}

async fn round_trip(
    connection: &mut MultiplexedConnection,
    pipeline: &Pipeline,
) -> Result<Vec<Value>, HotError> {
    let answers = connection.req_packed_commands(pipeline, 0, pipeline.len()).await.map_err(of_redis)?;
    checked(answers, pipeline.len())
}

fn of_pool(error: PoolError) -> HotError {
    match error {
        PoolError::Backend(error) => of_redis(error),
        other => HotError::Connection(other.to_string()),
    }
}

/// What is known of the server behind the URL.
struct Server {
    generation: Arc<Generation>,
    /// The random id a server process gives itself.
    run_id: Mutex<Option<String>>,
}

impl Server {
    fn new(generation: Arc<Generation>) -> Self {
        Server { generation, run_id: Mutex::default() }
    }

    /// Notes the server's run id; `true` when it was not the one known.
    fn note(&self, run_id: &str) -> bool {
        let mut known = self.run_id.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() == Some(run_id) {
            return false;
        }
        if known.replace(run_id.to_owned()).is_some() {
            self.generation.grow();
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
    Ok(super::info_line(&info, "run_id").unwrap_or_default().to_owned())
}
