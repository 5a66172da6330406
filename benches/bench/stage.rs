//! What a scenario runs on: private databases of its own with the durable defaults, instances of the real
//! program, streamers and sessions.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use chatpulse::domain::config::Config;
use chatpulse::domain::streamer::Profile;
use chatpulse::journal::{Journal, JournalOptions};
use chatpulse::local::Servers;
use deadpool_redis::redis::{Client, Cmd, FromRedisValue, cmd};
use rand::Rng;
use serde::Serialize;
use tokio_postgres::NoTls;
use uuid::Uuid;

use super::process::{self, Lines, Process};

/// The program that is measured, built like this one.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_chatpulse");
pub const SECRET: &str = "benchmark-secret-of-the-webhook";
/// The Twitch id of the first streamer; the others count on from it.
pub const FIRST_CHANNEL: u64 = 700_000_000;
/// Longer than any measurement: nothing that the bench holds lapses.
const LEASE: Duration = Duration::from_secs(3600);
/// Sessions started by one statement.
const HOLDS_A_STATEMENT: usize = 5_000;

/// The databases of one scenario.
pub struct Stage {
    // Dropped in this order.
    servers: Servers,
    dir: PathBuf,
    redis_pid: u32,
    postgres_pid: u32,
}

/// An instance of the program.
pub struct Instance {
    process: Process,
    pub public: SocketAddr,
    pub ops: SocketAddr,
    _lines: Lines,
}

/// A streamer whose chat votes.
#[derive(Clone, Debug)]
pub struct Streamer {
    pub id: Uuid,
    pub overlay_uuid: Uuid,
}

/// Processor time of all parts since they began.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    pub server: Duration,
    pub redis: Duration,
    pub postgres: Duration,
}

impl Usage {
    /// What was used since `earlier`.
    pub fn since(self, earlier: Usage) -> Usage {
        Usage {
            server: self.server.saturating_sub(earlier.server),
            redis: self.redis.saturating_sub(earlier.redis),
            postgres: self.postgres.saturating_sub(earlier.postgres),
        }
    }

    /// Both together.
    pub fn plus(self, other: Usage) -> Usage {
        Usage {
            server: self.server + other.server,
            redis: self.redis + other.redis,
            postgres: self.postgres + other.postgres,
        }
    }

    pub fn total(self) -> Duration {
        self.server + self.redis + self.postgres
    }
}

impl Stage {
    /// Starts PostgreSQL and Redis with an empty, migrated database below `parent`, which is deleted at the end.
    pub async fn set(parent: &Path) -> Result<Stage> {
        let dir = parent.join(Uuid::now_v7().simple().to_string());
        let servers = {
            let dir = dir.clone();
            tokio::task::spawn_blocking(move || Servers::start(Path::new(PROGRAM), &dir, true)).await??
        };
        let mut stage = Stage { servers, dir, redis_pid: 0, postgres_pid: 0 };
        stage.migrate()?;
        stage.postgres_pid = stage.find_postgres()?;
        let info: String = stage.redis(cmd("INFO").arg("server")).await?;
        let pid = info.lines().find_map(|line| line.strip_prefix("process_id:"));
        stage.redis_pid = pid.context("Redis tells its process id")?.trim().parse()?;
        Ok(stage)
    }

    fn migrate(&self) -> Result<()> {
        let mut command = self.program("migrate", &[]);
        let output = command.output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn find_postgres(&self) -> Result<u32> {
        let name = "postmaster.pid";
        let folders = std::fs::read_dir(&self.dir)?.flatten().map(|folder| folder.path().join(name));
        let text = folders.filter_map(|path| std::fs::read_to_string(path).ok()).next();
        Ok(text.context(name)?.lines().next().unwrap_or_default().trim().parse()?)
    }

    fn program(&self, command: &str, settings: &[(&str, String)]) -> Command {
        let urls = self.servers.urls();
        let mut program = Command::new(PROGRAM);
        program.arg(command).env_clear();
        program.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        program.envs([
            ("DATABASE_URL", urls.database_url.as_str()),
            ("CHATPULSE_DATABASE__MIGRATE_URL", &urls.migrate_url),
            ("REDIS_URL", &urls.redis_url),
            ("MESSAGE_QUEUE_REDIS_URL", &urls.queue_url),
            ("CHATPULSE_TWITCH__WEBHOOK_SECRET", SECRET),
            ("CHATPULSE_HTTP__BIND", "127.0.0.1:0"),
            ("CHATPULSE_OPS__BIND", "127.0.0.1:0"),
            ("CHATPULSE_LOG__FORMAT", "json"),
        ]);
        program.envs(settings.iter().map(|(name, value)| (*name, value)));
        program
    }

    /// Starts an instance, and waits until it takes requests.
    pub async fn serve(&self, settings: &[(&str, String)]) -> Result<Instance> {
        let (process, reader) = Process::start(&mut self.program("serve", settings))?;
        let found = tokio::task::spawn_blocking(move || Lines::read_until(reader, addresses)).await?;
        let ((public, ops), lines) = found.context("the instance starts")?;
        Ok(Instance { process, public, ops, _lines: lines })
    }

    /// One command to the cache.
    pub async fn redis<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        let client = Client::open(self.servers.urls().redis_url.as_str())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        Ok(command.query_async(&mut connection).await?)
    }

    /// A connection to the database as its owner.
    pub async fn owner(&self) -> Result<tokio_postgres::Client> {
        let (client, connection) = tokio_postgres::connect(&self.servers.urls().migrate_url, NoTls).await?;
        // Ends with the client; its errors come out of the client's calls.
        tokio::spawn(connection);
        Ok(client)
    }

    /// A connection to the database as its superuser, for what only that one may ask.
    pub async fn superuser(&self) -> Result<tokio_postgres::Client> {
        let url = &self.servers.urls().superuser_url;
        let url = url.strip_suffix("/postgres").map_or(url.clone(), |start| format!("{start}/chatpulse"));
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// The journal, for an instance that is none.
    pub fn journal(&self, pool_size: usize) -> Result<Journal> {
        let patience = Duration::from_secs(120);
        let options = JournalOptions { pool_size, connect_timeout: patience, statement_timeout: patience };
        Ok(Journal::new(&self.servers.urls().database_url, &options, Uuid::now_v7())?)
    }

    /// So many streamers with the words yes and no: the first by the program's own means, the others as copies of
    /// what that wrote, thousands at once. Their Twitch ids count from [`FIRST_CHANNEL`].
    pub async fn streamers(&self, count: usize) -> Result<Vec<Streamer>> {
        let profile = Profile {
            twitch_user_id: FIRST_CHANNEL.to_string(),
            login: "bench".into(),
            display_name: "Bench".into(),
        };
        let config = Config {
            for_triggers: vec!["yes".into()],
            against_triggers: vec!["no".into()],
            ..Config::default()
        };
        self.journal(1)?.register(profile, config, "bench").await?;
        let sql = "WITH made AS MATERIALIZED (
                SELECT gen_random_uuid() AS id, gen_random_uuid() AS overlay_uuid,
                       ($2::bigint + i)::text AS twitch_user_id, 'bench' || i AS login
                FROM generate_series(1, $1::bigint - 1) i
            ), events AS (
                INSERT INTO chatpulse.streamer_events (streamer_id, version, type, schema_version, data, metadata)
                SELECT m.id, e.version, e.type, e.schema_version,
                       e.data || jsonb_build_object('twitch_user_id', m.twitch_user_id, 'login', m.login,
                                                    'overlay_uuid', m.overlay_uuid),
                       e.metadata
                FROM made m, chatpulse.streamer_events e
            ), configs AS (
                INSERT INTO chatpulse.configs
                SELECT m.id, c.version, c.for_triggers, c.against_triggers, c.for_label, c.against_label, c.model,
                       c.vote_delta, c.decay_speed, c.window_seconds, c.display, c.theme
                FROM made m, chatpulse.configs c
            )
            INSERT INTO chatpulse.users (id, version, twitch_user_id, login, display_name, overlay_uuid)
            SELECT m.id, u.version, m.twitch_user_id, m.login, u.display_name, m.overlay_uuid
            FROM made m, chatpulse.users u";
        let owner = self.owner().await?;
        owner.execute(sql, &[&(count as i64), &(FIRST_CHANNEL as i64)]).await?;
        // Not the tables that are still empty: plans made for empty tables are bad ones for full ones.
        owner.batch_execute("ANALYZE chatpulse.users, chatpulse.configs").await?;
        let sql = "SELECT id, overlay_uuid FROM chatpulse.users ORDER BY twitch_user_id::bigint";
        let rows = owner.query(sql, &[]).await?;
        Ok(rows.iter().map(|row| Streamer { id: row.get(0), overlay_uuid: row.get(1) }).collect())
    }

    /// Starts a session for each streamer, held by an instance that is none, without sockets. As the program
    /// does it, but thousands at once, and without asking Twitch for their chat. Instances that run already don't
    /// hear of it.
    pub async fn hold(&self, streamers: &[Streamer]) -> Result<()> {
        let mut owner = self.owner().await?;
        let instance = Uuid::now_v7();
        let lease = "SELECT chatpulse.keep_instance($1, make_interval(secs => $2))";
        let start = "WITH new AS MATERIALIZED (
                SELECT n.session_id, n.key, u.twitch_user_id, chatpulse.clock_ms() AS now_ms, c.*
                FROM unnest($1::uuid[], $2::uuid[], $3::bytea[]) AS n (id, session_id, key)
                JOIN chatpulse.users u ON u.id = n.id
                JOIN chatpulse.configs c ON c.streamer_id = n.id
            ), keys AS (
                INSERT INTO chatpulse.session_keys (session_id, key) SELECT session_id, key FROM new
            ), live AS (
                INSERT INTO chatpulse.live_sessions (streamer_id, twitch_user_id, session_id, ordinal, holders)
                SELECT streamer_id, twitch_user_id, session_id, 1, ARRAY[$4::uuid] FROM new
            ), heads AS (
                INSERT INTO chatpulse.sessions (
                    session_id, streamer_id, ordinal, version, config_version, model, vote_delta, decay_speed,
                    window_seconds, at_ms, value, for_count, against_count, seconds, started_at_ms)
                SELECT session_id, streamer_id, 1, 1, version, model, vote_delta, decay_speed, window_seconds,
                       now_ms, 0, 0, 0, '[]', now_ms
                FROM new
            )
            INSERT INTO chatpulse.session_events (session_id, version, type, schema_version, data, metadata)
            SELECT n.session_id, 1, 'SessionStarted', 1,
                   jsonb_build_object('streamer_id', n.streamer_id, 'ordinal', 1, 'at', n.now_ms,
                                      'config', chatpulse.config_json(c)),
                   '{}'
            FROM new n JOIN chatpulse.configs c ON c.streamer_id = n.streamer_id";
        let transaction = owner.transaction().await?;
        transaction.execute(lease, &[&instance, &LEASE.as_secs_f64()]).await?;
        for part in streamers.chunks(HOLDS_A_STATEMENT) {
            let ids: Vec<Uuid> = part.iter().map(|streamer| streamer.id).collect();
            let sessions: Vec<Uuid> = part.iter().map(|_| Uuid::now_v7()).collect();
            let keys: Vec<Vec<u8>> = part.iter().map(|_| key()).collect();
            transaction.execute(start, &[&ids, &sessions, &keys, &instance]).await?;
        }
        transaction.commit().await?;
        Ok(owner.batch_execute("ANALYZE").await?)
    }

    /// Processor time of the instance and the databases.
    pub fn usage(&self, instance: &Instance) -> Usage {
        Usage {
            server: process::cpu(instance.id()),
            redis: process::cpu(self.redis_pid),
            postgres: process::cpu_with_children(self.postgres_pid),
        }
    }
}

fn key() -> Vec<u8> {
    let mut key = vec![0; 32];
    rand::rng().fill_bytes(&mut key);
    key
}

fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let address = |key: &str| line[key].as_str()?.parse().ok();
    (line["message"] == "ready").then(|| Some((address("public")?, address("ops")?)))?
}

impl Instance {
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        process::resident(self.id())
    }

    /// A metric's sum over all its labels that begin as given, such as `chatpulse_votes_total`.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = super::http::get(self.ops, "/metrics").await?;
        let samples = text.lines().filter(|line| line.starts_with(name));
        Ok(samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
    }

    /// Waits until a metric is as it should be.
    pub async fn until(&self, name: &str, patience: Duration, is_so: impl Fn(f64) -> bool) -> Result<()> {
        let waited = tokio::time::timeout(patience, async {
            while !is_so(self.metric(name).await?) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        });
        waited.await.with_context(|| format!("{name} did not become as expected"))?
    }
}
