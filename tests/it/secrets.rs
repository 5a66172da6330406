//! No secret is in clear anywhere: not in an instance's output when it writes all it can, nor in PostgreSQL,
//! Redis, metrics, pages that tell of errors, or what commands print.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use chatpulse::twitch::signature::MESSAGE_SIGNATURE;
use chatpulse::twitch::simulator::platform::{Failure, Fault, Rules};
use deadpool_redis::redis;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use url::Url;
use uuid::Uuid;

use crate::support::eventually;
use crate::support::instance::{Process, Stores, program};
use crate::support::overlay::Overlay;
use crate::support::platform::{ADA, BOB, BOT, CLIENT_SECRET, Stage, VIEWER, Visitor};
use crate::support::ports::free_port;
use crate::support::servers::{PROGRAM, TestRedis, connect, query, servers};
use crate::support::twitch::{Chat, SECRET, Twitch};

/// Everything that anything used here can log.
const TALKATIVE: &str =
    "trace,chatpulse=trace,tokio_postgres=trace,hyper=trace,reqwest=trace,redis=trace,h2=trace";
const OTHER_CLIENT_SECRET: &str = "a-client-secret-that-twitch-refuses";
/// What is shorter would be found by chance.
const NEEDLE_BYTES_MIN: usize = 8;
/// Of a line that holds a secret, so much is shown.
const LINE_CHARS_SHOWN: usize = 500;

/// A secret by the name of what it is.
type Secrets = Vec<(String, Vec<u8>)>;
/// Texts by the names of where they stand.
type Places = Vec<(String, String)>;

/// Stands before the simulated Twitch's OAuth, and keeps whatever passes.
struct Wire {
    address: SocketAddr,
    streams: Arc<Mutex<Vec<Stream>>>,
}

/// One direction of a connection.
type Stream = Arc<Mutex<Vec<u8>>>;

impl Wire {
    async fn before(target: SocketAddr) -> Wire {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let streams: Arc<Mutex<Vec<Stream>>> = Arc::default();
        let kept = Arc::clone(&streams);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(target).await else { continue };
                let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
                for (from, to) in [(from_near, to_far), (from_far, to_near)] {
                    let stream = Stream::default();
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&stream));
                    tokio::spawn(pass(from, to, stream));
                }
            }
        });
        Wire { address, streams }
    }

    /// What stood on the wire right after `marker`, each time.
    fn after(&self, marker: &str) -> BTreeSet<String> {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut found = BTreeSet::new();
        for stream in streams {
            let bytes = stream.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let text = String::from_utf8_lossy(&bytes);
            let values = text.split(marker).skip(1);
            let values = values.filter_map(|rest| rest.split(['"', '&', ' ', '\r']).next());
            found.extend(values.filter(|value| !value.is_empty()).map(str::to_owned));
        }
        found
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, stream: Stream) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        stream.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..length]);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// An instance that writes all it can, with secrets that nobody else has. All its output is kept.
struct Subject {
    stores: Stores,
    /// The rate limits have a database of their own.
    limits: TestRedis,
    wire: Wire,
    environment: Vec<(String, String)>,
    secrets: Secrets,
    process: Option<Process>,
    output: Arc<Mutex<Vec<String>>>,
    public: SocketAddr,
    ops: SocketAddr,
}

impl Subject {
    async fn start(stage: &Stage) -> Subject {
        let (stores, limits) = (Stores::migrated().await, TestRedis::lease().await);
        let oauth_url = Url::parse(&stage.platform.oauth_url()).expect("a URL");
        let target = oauth_url.socket_addrs(|| None).expect("an address")[0];
        let wire = Wire::before(target).await;
        let public = stage.public_url.trim_start_matches("http://").parse().expect("an address");
        let ops = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let key = || [Uuid::new_v4(), Uuid::new_v4()].map(|part| part.simple().to_string()).concat();
        let (session, newer, older, admin) = (key(), key(), key(), key());
        let mut settings = stage.settings();
        settings.extend(
            [
                ("RUST_LOG", TALKATIVE.to_owned()),
                ("RATE_LIMIT_REDIS_URL", limits.redis_url.clone()),
                ("CHATPULSE_OPS__BIND", ops.to_string()),
                ("CHATPULSE_TWITCH__OAUTH_URL", format!("http://{}/oauth2", wire.address)),
                ("CHATPULSE_SECURITY__SESSION_KEY", session.clone()),
                ("CHATPULSE_SECURITY__ENCRYPTION_KEYS", format!("{newer},{older}")),
                ("CHATPULSE_ADMIN__BOOTSTRAP_TOKEN", admin.clone()),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        let settings: Vec<(&str, &str)> =
            settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let environment = stores.environment(&settings);
        let mut secrets = Secrets::new();
        let keys = [("session key", session), ("encryption key", newer), ("older encryption key", older)];
        for (name, key) in keys {
            secrets.push((format!("{name} in bytes"), hex::decode(&key).expect("hexadecimal")));
            secrets.push((name.to_owned(), key.into_bytes()));
        }
        let texts = [
            ("admin bootstrap token", admin.as_str()),
            ("client secret", CLIENT_SECRET),
            ("wrong client secret", OTHER_CLIENT_SECRET),
            ("webhook secret", SECRET),
        ];
        secrets.extend(texts.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())));
        secrets.extend(passwords(&stores));
        let output = Arc::default();
        let mut subject =
            Subject { stores, limits, wire, environment, secrets, process: None, output, public, ops };
        subject.run().await;
        subject
    }

    /// Starts the process, in place of the one that runs.
    async fn run(&mut self) {
        self.process = None;
        let mut command = Command::new("sh");
        // What goes to standard output is kept, too.
        command.args(["-c", "exec \"$0\" serve >&2", PROGRAM]);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        self.process = Some(Process::start(&mut command, Arc::clone(&self.output)));
        let twitch = Twitch::new(self.public);
        eventually("the instance is ready", async || {
            if let Some(status) = self.process.as_mut().and_then(Process::ended) {
                panic!("the instance ended at its start with {status}: {:?}", self.output);
            }
            twitch.try_status("/health/ready").await == Some(200)
        })
        .await;
    }

    fn set(&mut self, key: &str, value: &str) {
        self.environment.retain(|(known, _)| known != key);
        self.environment.push((key.to_owned(), value.to_owned()));
    }

    fn keep(&mut self, name: &str, secret: impl Into<Vec<u8>>) {
        self.secrets.push((name.to_owned(), secret.into()));
    }

    /// Keeps a ticket as its text and as its bytes.
    fn keep_ticket(&mut self, name: &str, ticket: &str) {
        let bytes = URL_SAFE_NO_PAD.decode(ticket).expect("a ticket");
        self.keep(name, ticket);
        self.keep(&format!("{name} in bytes"), bytes);
    }

    /// The bot signs in, as `bot sign-in` leads to. Answers what that wrote beside the link.
    async fn sign_in_bot(&mut self) -> String {
        let printed = program(&["bot", "sign-in"], &self.environment).await;
        assert_eq!(printed.code, Some(0), "{printed:?}");
        let link = printed.stdout.lines().last().expect("a link").to_owned();
        let (_, ticket) = link.split_once("bot=").expect("a ticket");
        self.keep_ticket("ticket of the bot's link", ticket);
        let answer = Visitor::new().sign_in_at(&link, BOT).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        printed.stderr
    }

    /// Everything that the instance has written so far.
    fn log(&self) -> String {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// All that is stored, and the metrics, under names that begin with `when`.
    async fn stored(&self, when: &str) -> Places {
        let mut places = vec![
            (format!("{when}: metrics"), Twitch::new(self.ops).get("/metrics").await.body),
            (format!("{when}: Redis"), in_redis(&self.stores.redis_url).await),
            (format!("{when}: Redis of the rate limits"), in_redis(&self.limits.redis_url).await),
            (format!("{when}: Redis of the queue"), in_redis(&self.stores.queue_url).await),
        ];
        for (table, rows) in in_postgres(&self.stores.superuser_url).await {
            places.push((format!("{when}: table {table}"), rows));
        }
        places
    }

    /// What the wire to Twitch's OAuth has shown: codes, states and tokens.
    fn keep_what_passed(&mut self) {
        for (name, marker, at_least) in [
            ("access token", "\"access_token\":\"", 5),
            ("refresh token", "\"refresh_token\":\"", 4),
            ("authorization code", "?code=", 2),
            ("OAuth state", "&state=", 3),
        ] {
            let values = self.wire.after(marker);
            assert!(values.len() >= at_least, "{name}: {values:?}");
            for value in values {
                match name {
                    "OAuth state" => self.keep_ticket(name, &value),
                    _ => self.keep(name, value),
                }
            }
        }
    }
}

/// The passwords in the stores' URLs. Those of given servers are not ours, and may be any word.
fn passwords(stores: &Stores) -> Secrets {
    if !servers().private {
        return Secrets::new();
    }
    let Stores { app_url, owner_url, superuser_url, redis_url, queue_url, .. } = stores;
    let password = |url: &String| {
        let url = Url::parse(url).expect("a URL");
        url.password().map(|password| ("password of a server".to_owned(), password.as_bytes().to_vec()))
    };
    [app_url, owner_url, superuser_url, redis_url, queue_url].into_iter().filter_map(password).collect()
}

/// All rows of all tables as text, by table, and what connections of this database run.
async fn in_postgres(url: &str) -> Places {
    let sql = connect(url).await;
    let tables = "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables
                  WHERE table_type = 'BASE TABLE'
                  AND table_schema NOT IN ('pg_catalog', 'information_schema')";
    let tables = sql.query(tables, &[]).await.expect("tables can be listed");
    let mut places = Places::new();
    for table in tables.iter().map(|row| row.get::<_, String>(0)) {
        let read = format!("SELECT t::text FROM {table} AS t");
        let rows = sql.query(read.as_str(), &[]).await.expect("a table can be read");
        let rows: Vec<String> = rows.iter().map(|row| row.get::<_, String>(0)).collect();
        places.push((table, rows.join("\n")));
    }
    let running = "SELECT a::text FROM pg_stat_activity AS a WHERE datname = current_database()";
    let running = sql.query(running, &[]).await.expect("activity can be read");
    let running: Vec<String> = running.iter().map(|row| row.get::<_, String>(0)).collect();
    places.push(("pg_stat_activity".to_owned(), running.join("\n")));
    places
}

/// All keys and values of a Redis database, each as text and in hexadecimal.
async fn in_redis(url: &str) -> String {
    let keys: Vec<Vec<u8>> = query(url, redis::cmd("KEYS").arg("*")).await.expect("keys can be listed");
    let mut all = String::new();
    for key in keys {
        let kind: String = query(url, redis::cmd("TYPE").arg(&key)).await.expect("a key has a type");
        let read = match kind.as_str() {
            "string" => redis::cmd("GET").arg(&key).to_owned(),
            "hash" => redis::cmd("HGETALL").arg(&key).to_owned(),
            "list" => redis::cmd("LRANGE").arg(&key).arg(0).arg(-1).to_owned(),
            "set" => redis::cmd("SMEMBERS").arg(&key).to_owned(),
            "zset" => redis::cmd("ZRANGE").arg(&key).arg(0).arg(-1).to_owned(),
            "stream" => redis::cmd("XRANGE").arg(&key).arg("-").arg("+").to_owned(),
            // Gone meanwhile.
            "none" => continue,
            other => panic!("a type of Redis that this test can't read: {other}"),
        };
        let value: redis::Value = query(url, &read).await.expect("a key can be read");
        write_bytes(&key, &mut all);
        write_value(&value, &mut all);
    }
    all
}

fn write_value(value: &redis::Value, all: &mut String) {
    match value {
        redis::Value::BulkString(bytes) => write_bytes(bytes, all),
        redis::Value::SimpleString(text) => write_bytes(text.as_bytes(), all),
        redis::Value::Array(values) | redis::Value::Set(values) => {
            values.iter().for_each(|value| write_value(value, all));
        }
        redis::Value::Map(pairs) => pairs.iter().for_each(|(key, value)| {
            write_value(key, all);
            write_value(value, all);
        }),
        // Numbers, and nothing.
        _ => {}
    }
}

fn write_bytes(bytes: &[u8], all: &mut String) {
    for text in [String::from_utf8_lossy(bytes).as_ref(), hex::encode(bytes).as_str()] {
        all.push_str(text);
        all.push('\n');
    }
}

/// How a secret may be written: as it is, in hexadecimal, in base64, and percent-encoded.
fn forms(secret: &[u8]) -> BTreeSet<String> {
    let percent: String = url::form_urlencoded::byte_serialize(secret).collect();
    let mut forms = BTreeSet::from([
        hex::encode(secret),
        hex::encode_upper(secret),
        percent.replace('+', "%20"),
        percent,
    ]);
    forms.extend(String::from_utf8(secret.to_vec()));
    for before in 0..3_usize {
        // Among other bytes, the characters at both ends hold bits of these as well.
        let padded = [vec![0; before], secret.to_vec()].concat();
        let own = (before * 8).div_ceil(6)..padded.len() * 8 / 6;
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            forms.insert(engine.encode(&padded)[own.clone()].to_owned());
        }
    }
    forms.retain(|form| form.len() >= NEEDLE_BYTES_MIN);
    forms
}

/// Where which secret stands, with the beginning of its line.
fn found(secrets: &[(String, Vec<u8>)], places: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, secret) in secrets {
        for form in forms(secret) {
            for (place, text) in places {
                let Some(at) = text.find(&form) else { continue };
                let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
                let shown = text[line..].lines().next().unwrap_or_default();
                let shown: String = shown.chars().take(LINE_CHARS_SHOWN).collect();
                found.push(format!("{name}, in {place}, as {form}: {shown}"));
            }
        }
    }
    found
}

/// Sign-ins that fail, each in its way; answers what the browser was shown.
async fn failed_sign_ins(stage: &Stage) -> Places {
    let login = format!("{}/auth/login", stage.public_url);
    let callback = format!("{}/auth/callback", stage.public_url);
    // A Twitch that repeats what it was sent. More than once: refreshing tokens asks there, too.
    let failure = Failure::Status { status: 400, message: format!("{CLIENT_SECRET} is not understood") };
    let (path, method) = ("/oauth2/token".to_owned(), Some("POST".to_owned()));
    stage.platform.fail_next(Fault { path, method, times: 20, failure });
    let quoting = Visitor::new().sign_in_at(&login, BOB).await;
    stage.platform.clear_faults();
    assert_eq!(quoting.status, 502, "{quoting:?}");

    let visitor = Visitor::new();
    let to_twitch = visitor.get(&login).await;
    let denied = visitor.follow(&visitor.answer_twitch(&to_twitch, BOB, "deny").await).await;
    assert_eq!(denied.status, 403, "{denied:?}");

    let visitor = Visitor::new();
    let to_twitch = visitor.get(&login).await;
    let back = visitor.answer_twitch(&to_twitch, BOB, "authorize").await;
    let elsewhere = Visitor::new().follow(&back).await;
    assert_eq!(elsewhere.status, 400, "{elsewhere:?}");
    let signed_in = visitor.follow(&back).await;
    assert_eq!(signed_in.status, 303, "{signed_in:?}");
    let again = visitor.follow(&back).await;
    let unknown = visitor.get(&format!("{callback}?code=made-up&state=made-up")).await;
    let link = visitor.get(&format!("{login}?bot=made-up")).await;
    assert_eq!([again.status, unknown.status, link.status], [400, 400, 400]);

    [("quoting", quoting), ("denied", denied), ("elsewhere", elsewhere), ("again", again), ("link", link)]
        .map(|(name, page)| (format!("the page {name:?}"), page.body))
        .to_vec()
}

/// A webhook request that Twitch has not signed; answers what it was answered.
async fn unsigned_notification(subject: &Subject) -> (String, String) {
    let wrong = format!("sha256={}", "0".repeat(64));
    let message = Chat::new(ADA, "yes").signed().with(MESSAGE_SIGNATURE, &wrong);
    let answer = Twitch::new(subject.public).post(&message).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    ("the answer to a wrong signature".to_owned(), format!("{answer:?}"))
}

/// Ada's overlay opens, and her chat votes.
async fn vote(stage: &Stage, subject: &Subject) -> Overlay {
    let sql = connect(&subject.stores.owner_url).await;
    let question = "SELECT overlay_uuid FROM chatpulse.users WHERE twitch_user_id = $1";
    let row = sql.query_one(question, &[&ADA]).await.expect("Ada is a streamer");
    let overlay_uuid: Uuid = row.get(0);
    let overlay = Overlay::open(subject.public, &overlay_uuid.to_string(), &[]).await.expect("it is let in");
    eventually("the chat is subscribed to", async || {
        let chat = |kind: &str, status: &str| kind == "channel.chat.message" && status == "enabled";
        let subscribed = stage.platform.subscriptions().iter().any(|found| chat(&found.kind, &found.status));
        subscribed && stage.platform.shards().iter().any(|shard| shard.status == "enabled")
    })
    .await;
    stage.say(ADA, VIEWER, "yes");
    eventually("the vote is journaled", async || {
        let question = "SELECT count(*) FROM chatpulse.events WHERE type = 'VotesCast'";
        sql.query_one(question, &[]).await.expect("the journal can be read").get::<_, i64>(0) > 0
    })
    .await;
    overlay
}

async fn tokens_are_refreshed(subject: &Subject) {
    let sql = connect(&subject.stores.owner_url).await;
    eventually("the bot's token and Ada's are refreshed", async || {
        let question = "SELECT count(*) FROM chatpulse.oauth_tokens
                        WHERE generation >= 2 AND owner_id = ANY ($1)";
        let owners: &[&str] = &[ADA, BOT];
        sql.query_one(question, &[&owners]).await.expect("tokens can be counted").get::<_, i64>(0) == 2
    })
    .await;
}

/// What commands print that look at secrets or use them.
async fn printed(subject: &Subject) -> Places {
    let mut places = Places::new();
    for command in [&["check-config"][..], &["doctor"], &["keys", "rotate"]] {
        let ended = program(command, &subject.environment).await;
        places.push((format!("the output of {command:?}"), format!("{}\n{}", ended.stdout, ended.stderr)));
    }
    places
}

#[tokio::test]
async fn no_secret_is_in_clear_anywhere() {
    let refreshed_soon = Rules { user_token: Duration::from_secs(600), ..Rules::default() };
    let stage = Stage::set_with(|options| options.rules = refreshed_soon).await;
    let mut subject = Subject::start(&stage).await;
    let mut places = Places::new();

    places.push(("the log of `bot sign-in`".to_owned(), subject.sign_in_bot().await));
    let visitor = Visitor::new();
    let dashboard = visitor.sign_in(&stage.public_url, ADA).await;
    let cookie = visitor.cookie("chatpulse_session").expect("a session");
    let (ticket, signature) = cookie.split_once('.').expect("a signed ticket");
    subject.keep_ticket("session", ticket);
    subject.keep_ticket("signature of the session", signature);
    let _overlay = vote(&stage, &subject).await;
    tokens_are_refreshed(&subject).await;
    places.extend(failed_sign_ins(&stage).await);
    places.push(unsigned_notification(&subject).await);
    // One that is not finished, so that its state is stored.
    let to_twitch = Visitor::new().get(&format!("{}/auth/login", stage.public_url)).await;
    let pending = Url::parse(to_twitch.location.as_deref().expect("a redirect")).expect("a URL");
    let state = pending.query_pairs().find(|(name, _)| name == "state").expect("a state").1.into_owned();
    subject.keep_ticket("state of a sign-in that is under way", &state);
    places.extend(subject.stored("signed in").await);
    places.extend(printed(&subject).await);

    subject.set("CHATPULSE_TWITCH__CLIENT_SECRET", OTHER_CLIENT_SECRET);
    subject.run().await;
    let refused = Visitor::new().sign_in_at(&format!("{}/auth/login", stage.public_url), BOB).await;
    assert_eq!(refused.status, 502, "{refused:?}");
    places.push(("the page \"refused\"".to_owned(), refused.body));
    places.extend(printed(&subject).await);
    let logout = format!("{}/auth/logout", stage.public_url);
    let signed_out = visitor.post(&logout, &[("csrf", &dashboard.hidden("csrf"))]).await;
    assert_eq!((signed_out.status, signed_out.location.as_deref()), (303, Some("/")), "{signed_out:?}");
    places.extend(subject.stored("signed out").await);

    let log = subject.log();
    for level in ["TRACE", "DEBUG", "INFO"] {
        assert!(log.contains(&format!("\"level\":\"{level}\"")), "nothing of the level {level}");
    }
    places.push(("the instance's output".to_owned(), log.clone()));
    subject.keep_what_passed();
    let found_now = found(&subject.secrets, &places);
    assert!(found_now.is_empty(), "{} secrets in clear:\n{}", found_now.len(), found_now.join("\n"));
    // These two are stored by design, as what they are given out from; but nobody writes them down.
    let by_design = vec![
        ("form token".to_owned(), dashboard.hidden("csrf").into_bytes()),
        ("overlay's URL".to_owned(), overlay_in(&dashboard.body).into_bytes()),
    ];
    let written = vec![("the instance's output".to_owned(), log)];
    assert_eq!(found(&by_design, &written), Vec::<String>::new());
}

fn overlay_in(page: &str) -> String {
    page.split("/overlay/").nth(1).expect("an overlay's URL")[..36].to_owned()
}

#[test]
fn a_secret_is_found_in_every_form_and_among_other_bytes() {
    let secret = b"a secret/with+signs~".to_vec();
    let secrets = vec![("secret".to_owned(), secret.clone())];
    let mut texts = vec![
        String::from_utf8(secret.clone()).unwrap(),
        format!("\\x{}", hex::encode(&secret)),
        hex::encode_upper(&secret),
        "a+secret%2Fwith%2Bsigns%7E".to_owned(),
        "a%20secret%2Fwith%2Bsigns%7E".to_owned(),
    ];
    for before in ["", "a", "ab", "abc", "client_id:"] {
        let among = [before.as_bytes(), &secret, b" and more"].concat();
        texts.push(STANDARD_NO_PAD.encode(&among));
        texts.push(URL_SAFE_NO_PAD.encode(&among));
    }
    for text in texts {
        let places = vec![("here".to_owned(), format!("first line\nsecond: {text}\nthird"))];
        let found = found(&secrets, &places);
        assert!(found.iter().any(|line| line.contains("second: ")), "{text} is not found");
    }
    let harmless = vec![("here".to_owned(), "a secret without its signs".to_owned())];
    assert_eq!(found(&secrets, &harmless), Vec::<String>::new());
}

#[tokio::test]
async fn what_redis_holds_is_seen_whatever_its_type() {
    let lease = TestRedis::lease().await;
    let url = &lease.redis_url;
    for command in [
        redis::cmd("SET").arg("key").arg("in-string").to_owned(),
        redis::cmd("HSET").arg("hash").arg("in-field").arg("in-value").to_owned(),
        redis::cmd("RPUSH").arg("list").arg("in-list").to_owned(),
        redis::cmd("SADD").arg("set").arg("in-set").to_owned(),
        redis::cmd("ZADD").arg("sorted").arg(1).arg("in-sorted").to_owned(),
        redis::cmd("XADD").arg("stream").arg("*").arg("in-entry").arg("in-stream").to_owned(),
        redis::cmd("SET").arg("bytes").arg(&[0xff_u8, 0xfe, 0xfd][..]).to_owned(),
    ] {
        query::<redis::Value>(url, &command).await.expect("Redis takes it");
    }
    let all = in_redis(url).await;
    let held = "key in-string in-field in-value in-list in-set in-sorted in-entry in-stream fffefd";
    for held in held.split(' ') {
        assert!(all.contains(held), "{held} in {all}");
    }
}
