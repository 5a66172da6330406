//! PostgreSQL and Redis for the tests: given by DATABASE_URL and REDIS_URL, else private ones, started once a
//! process and ended after it by their keeper. Each test takes a database of its own in both.

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use chatpulse::local::Servers;
use deadpool_redis::redis;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_chatpulse");

/// Where this process's servers listen. Database names in these URLs are for the harness alone.
pub struct TestServers {
    superuser_url: String,
    owner_url: String,
    app_url: String,
    redis_url: String,
    queue_url: String,
    /// Private servers: the roles `chatpulse_owner` and `chatpulse_app` exist, databases may be flushed. On
    /// given servers all is done as the given user, and only empty Redis databases are used.
    pub private: bool,
    leases: Leases,
    /// Ends with the process: its standard input closes.
    _keeper: Option<Servers>,
}

/// The servers of this process, started at the first call. Blocks for a second or two then.
pub fn servers() -> &'static TestServers {
    static SERVERS: OnceLock<TestServers> = OnceLock::new();
    SERVERS.get_or_init(|| match (std::env::var("DATABASE_URL"), std::env::var("REDIS_URL")) {
        (Ok(database), Ok(redis)) => TestServers::given(&database, &redis),
        _ => TestServers::private(),
    })
}

impl TestServers {
    fn given(database: &str, redis: &str) -> TestServers {
        let queue = std::env::var("MESSAGE_QUEUE_REDIS_URL").unwrap_or_else(|_| redis.to_owned());
        TestServers {
            superuser_url: database.to_owned(),
            owner_url: database.to_owned(),
            app_url: database.to_owned(),
            leases: Leases::new(databases_of(redis).min(databases_of(&queue))),
            redis_url: redis.to_owned(),
            queue_url: queue,
            private: false,
            _keeper: None,
        }
    }

    fn private() -> TestServers {
        let dir = std::env::temp_dir().join(format!("chatpulse-test-{}", Uuid::now_v7().simple()));
        let keeper = Servers::start(Path::new(PROGRAM), &dir, true).unwrap_or_else(|error| panic!("{error}"));
        let urls = keeper.urls().clone();
        TestServers {
            superuser_url: urls.superuser_url,
            owner_url: urls.migrate_url,
            app_url: urls.database_url,
            leases: Leases::new(databases_of(&urls.redis_url).min(databases_of(&urls.queue_url))),
            redis_url: urls.redis_url,
            queue_url: urls.queue_url,
            private: true,
            _keeper: Some(keeper),
        }
    }
}

/// A PostgreSQL database of one test, empty and owned by the owner's role; dropped with this guard.
pub struct TestDatabase {
    name: String,
    /// As the application's plain role.
    pub app_url: String,
    /// As the owner, who migrates.
    pub owner_url: String,
    /// As the superuser (on given servers: the given user).
    pub superuser_url: String,
}

impl TestDatabase {
    /// Makes an empty database.
    pub async fn create() -> TestDatabase {
        TestDatabase::create_from("template1").await
    }

    /// Makes a copy of the database `template`, to which nobody may be connected.
    pub async fn create_from(template: &str) -> TestDatabase {
        let servers = servers();
        let name = format!("test_{}", Uuid::now_v7().simple());
        let client = connect(&servers.superuser_url).await;
        let owner = if servers.private { " OWNER chatpulse_owner" } else { "" };
        let create = format!("CREATE DATABASE {name} TEMPLATE {template}{owner}");
        client.batch_execute(&create).await.expect("the test's database is made");
        TestDatabase {
            app_url: with_database(&servers.app_url, &name),
            owner_url: with_database(&servers.owner_url, &name),
            superuser_url: with_database(&servers.superuser_url, &name),
            name,
        }
    }

    /// Its name, for instance as the template of others.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let url = servers().superuser_url.clone();
        let dropped = blocking(async move { connect(&url).await.batch_execute(&drop).await });
        // The throwaway servers go anyway, and a panic here would hide the test's own.
        if let Err(error) = dropped {
            eprintln!("{} was not dropped: {error}", self.name);
        }
    }
}

/// Exclusive use of one database number on both Redis servers, empty at first and emptied in the end.
pub struct TestRedis {
    /// Cache, sessions and rate limits.
    pub redis_url: String,
    /// The server that syncs each write.
    pub queue_url: String,
    lease: Option<Lease>,
}

impl TestRedis {
    /// Waits for a free database number.
    pub async fn lease() -> TestRedis {
        let servers = servers();
        loop {
            let lease = servers.leases.take().await;
            let leased = TestRedis {
                redis_url: with_database(&servers.redis_url, &lease.number.to_string()),
                queue_url: with_database(&servers.queue_url, &lease.number.to_string()),
                lease: Some(lease),
            };
            if servers.private || leased.is_empty().await {
                leased.flush().await.expect("the test's Redis databases are emptied");
                return leased;
            }
            // Somebody's data on a given server: that number is never touched, nor tried again.
            leased.give_up();
            assert!(
                servers.leases.any(),
                "REDIS_URL has no empty database for the tests: give another server"
            );
        }
    }

    async fn is_empty(&self) -> bool {
        for url in [&self.redis_url, &self.queue_url] {
            let keys: u64 = query(url, &redis::cmd("DBSIZE")).await.expect("Redis answers");
            if keys > 0 {
                return false;
            }
        }
        true
    }

    async fn flush(&self) -> redis::RedisResult<()> {
        query::<()>(&self.redis_url, &redis::cmd("FLUSHDB")).await?;
        query(&self.queue_url, &redis::cmd("FLUSHDB")).await
    }

    fn give_up(mut self) {
        if let Some(lease) = self.lease.take() {
            lease.permit.forget();
        }
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let (redis_url, queue_url) = (self.redis_url.clone(), self.queue_url.clone());
        let emptied = blocking(async move { TestRedis { redis_url, queue_url, lease: None }.flush().await });
        if let Err(error) = emptied {
            // Such as in a test that took Redis away; the next lease empties it.
            eprintln!("Redis database {} was not emptied: {error}", lease.number);
        }
        servers().leases.give_back(lease);
    }
}

/// The free database numbers.
struct Leases {
    free: Mutex<Vec<u32>>,
    count: Semaphore,
}

struct Lease {
    number: u32,
    permit: SemaphorePermit<'static>,
}

impl Leases {
    fn new(databases: u32) -> Leases {
        Leases { free: Mutex::new((0..databases).collect()), count: Semaphore::new(databases as usize) }
    }

    async fn take(&'static self) -> Lease {
        let permit = self.count.acquire().await.expect("the semaphore is never closed");
        let number = self.numbers().pop().expect("there are as many numbers as permits");
        Lease { number, permit }
    }

    fn give_back(&self, lease: Lease) {
        self.numbers().push(lease.number);
        drop(lease.permit);
    }

    fn any(&self) -> bool {
        !self.numbers().is_empty()
    }

    fn numbers(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to PostgreSQL that ends with the client.
pub async fn connect(url: &str) -> Client {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.expect("PostgreSQL lets the test in");
    tokio::spawn(connection);
    client
}

/// One command on a connection of its own.
pub async fn query<T: redis::FromRedisValue>(url: &str, command: &redis::Cmd) -> redis::RedisResult<T> {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(5)));
    let client = redis::Client::open(url)?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    command.query_async(&mut connection).await
}

fn databases_of(url: &str) -> u32 {
    let url = url.to_owned();
    let ask = async move {
        let (_, number): (String, u32) =
            query(&url, redis::cmd("CONFIG").arg("GET").arg("databases")).await?;
        redis::RedisResult::Ok(number)
    };
    blocking(ask).expect("Redis tells how many databases it has")
}

/// `url` with its path, the database, exchanged.
fn with_database(url: &str, database: &str) -> String {
    let (rest, parameters) = url.split_once('?').map_or((url, String::new()), |(a, b)| (a, format!("?{b}")));
    let host = rest.find("://").map_or(0, |at| at + 3);
    let end = rest[host..].find('/').map_or(rest.len(), |at| host + at);
    format!("{}/{database}{parameters}", &rest[..end])
}

/// Runs a future to its end from a place that cannot await, such as `drop` inside a test's runtime.
fn blocking<T: Send>(future: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
        let thread = scope.spawn(move || runtime().expect("a runtime can be made").block_on(future));
        thread.join().expect("the blocking future does not panic")
    })
}

#[tokio::test]
async fn each_test_has_databases_of_its_own_that_go_with_it() {
    let (first, second) = (TestDatabase::create().await, TestDatabase::create().await);
    let owner = connect(&first.owner_url).await;
    owner.batch_execute("CREATE TABLE seen (x int)").await.expect("the owner may make tables");
    let there = "SELECT count(*) FROM pg_tables WHERE tablename = 'seen'";
    let count: i64 = connect(&second.app_url).await.query_one(there, &[]).await.unwrap().get(0);
    assert_eq!(count, 0);
    let name = first.name().to_owned();
    drop(first);
    let left = "SELECT count(*) FROM pg_database WHERE datname = $1";
    let left: i64 = connect(&second.superuser_url).await.query_one(left, &[&name]).await.unwrap().get(0);
    assert_eq!(left, 0);
}

#[tokio::test]
async fn two_leases_of_redis_do_not_see_each_other() {
    let (first, second) = (TestRedis::lease().await, TestRedis::lease().await);
    for url in [&first.redis_url, &first.queue_url] {
        query::<()>(url, redis::cmd("SET").arg("x").arg(1)).await.unwrap();
    }
    assert!(!first.is_empty().await);
    assert!(second.is_empty().await);
}

#[test]
fn the_database_of_a_url_is_exchanged() {
    for (url, with) in [
        ("postgres://u:p@h:5/db?sslmode=disable", "postgres://u:p@h:5/7?sslmode=disable"),
        ("redis://h:6379/0", "redis://h:6379/7"),
        ("redis://h", "redis://h/7"),
    ] {
        assert_eq!(with_database(url, "7"), with);
    }
}
