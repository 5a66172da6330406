//! One Redis server.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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
    /// Connections made so far.
    made: Arc<AtomicU64>,
}

/// A place for a connection that is in use.
#[derive(Default)]
struct Slot {
    used: Mutex<Option<Used>>,
    /// Held by who makes another, which is then everybody's.
    making: tokio::sync::Mutex<()>,
}

/// A connection that is in use, with its number among all that were made.
#[derive(Clone)]
struct Used {
    number: u64,
    connection: MultiplexedConnection,
}

impl Slot {
    fn used(&self) -> MutexGuard<'_, Option<Used>> {
        // Nothing in here can panic half-way, so a poisoned lock still guards whole data.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An exchange under way. One that fails, or that nobody waits for any more, leaves its connection in doubt, and all
/// that were there when it began, which lead to the same server: others are made.
struct Doubt<'a> {
    slots: &'a [Slot],
    /// How many connections had been made when it began.
    made: u64,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        for slot in self.slots {
            slot.used().take_if(|used| used.number < self.made);
        }
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
            .post_create(meet_server(Arc::new(Server::new(Arc::clone(generation)))))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        let slots = (0..options.pool_size.max(1)).map(|_| Slot::default()).collect();
        Ok(Single {
            pool,
            generation: Arc::clone(generation),
            slots,
            next: Arc::default(),
            made: Arc::default(),
        })
    }

    /// Sends the commands in one pipeline, once more if the server lacked the library or the connection in use
    /// turned out to be lost.
    pub(super) async fn exchange(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, HotError> {
        let pipeline = pipeline_of(commands);
        // There is at least one slot.
        let slot = &self.slots[self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len()];
        let used = slot.used().clone();
        if let Some(used) = used {
            match self.round_trips(used, &pipeline).await {
                Err(HotError::Connection(_)) => self.generation.grow(),
                answered => return answered,
            }
        }
        let fresh = self.fresh(slot).await?;
        self.round_trips(fresh, &pipeline).await
    }

    /// A connection that is not known to be lost: one that somebody else has just made, or another.
    async fn fresh(&self, slot: &Slot) -> Result<Used, HotError> {
        let _making = slot.making.lock().await;
        if let Some(used) = slot.used().clone() {
            return Ok(used);
        }
        let connection = Connection::take(self.pool.get().await.map_err(of_pool)?);
        let used = Used { number: self.made.fetch_add(1, Ordering::Relaxed), connection };
        *slot.used() = Some(used.clone());
        Ok(used)
    }

    /// Sends the pipeline, and once more when it finds that the server lacks the library.
    async fn round_trips(&self, used: Used, pipeline: &Pipeline) -> Result<Vec<Value>, HotError> {
        let mut connection = used.connection;
        let doubt = Doubt { slots: &self.slots, made: self.made.load(Ordering::Relaxed) };
        let mut answers = round_trip(&mut connection, pipeline).await?;
        if answers.iter().any(functions::is_missing) {
            functions::load(&mut connection).await.map_err(of_redis)?;
            answers = round_trip(&mut connection, pipeline).await?;
        }
        // All is answered: nothing is in doubt.
        std::mem::forget(doubt);
        Ok(answers)
    }

    /// What the server says of itself.
    pub(super) async fn probe(&self) -> Result<Vec<String>, HotError> {
        self.exchange(vec![info_command()]).await?.into_iter().map(answer).collect()
    }
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
