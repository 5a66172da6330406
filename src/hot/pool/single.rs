//! One Redis server behind a pool of connections.

use std::sync::{Arc, Mutex, PoisonError};

use deadpool_redis::redis::aio::{ConnectionLike, MultiplexedConnection};
use deadpool_redis::redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisResult, Value, cmd};
use deadpool_redis::{Connection, Hook, HookError, Manager, Pool, PoolError, Runtime};

use super::circuit::Generation;
use super::{HotOptions, answer, checked, info_command, of_redis, pipeline_of};
use crate::hot::HotError;
use crate::hot::functions;

/// Connections to one server.
#[derive(Clone)]
pub(super) struct Single {
    pool: Pool,
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
        Ok(Single { pool })
    }

    /// Sends the commands in one pipeline, once more if the server lacked the library.
    pub(super) async fn exchange(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, HotError> {
        let pipeline = pipeline_of(commands);
        let mut connection = self.pool.get().await.map_err(of_pool)?;
        let answers = round_trip(&mut connection, &pipeline).await?;
        if !answers.iter().any(functions::is_missing) {
            return Ok(answers);
        }
        functions::load(&mut connection).await.map_err(of_redis)?;
        round_trip(&mut connection, &pipeline).await
    }

    /// What the server says of itself.
    pub(super) async fn probe(&self) -> Result<Vec<String>, HotError> {
        self.exchange(vec![info_command()]).await?.into_iter().map(answer).collect()
    }
}

async fn round_trip(connection: &mut Connection, pipeline: &Pipeline) -> Result<Vec<Value>, HotError> {
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
