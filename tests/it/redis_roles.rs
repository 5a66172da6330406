//! Redis by role: the shipped users and configurations, against real servers.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::slice::from_ref;
use std::time::Duration;

use chatpulse::domain::holders::Holders;
use chatpulse::domain::sentiment::Side;
use chatpulse::domain::time::Millis;
use chatpulse::domain::vote::NewVote;
use chatpulse::hot::HotError;
use chatpulse::hot::changes::Cursor;
use chatpulse::hot::chat::{ChatBatch, ChatLine, ChatWindows, Erased};
use chatpulse::hot::debounce::{Claim, Claimed};
use chatpulse::hot::deny::{Denied, DenyList};
use chatpulse::hot::keys::Bucket;
use chatpulse::hot::limits::{Limit, Limits};
use chatpulse::hot::mirror::Mirrored;
use chatpulse::hot::spill::{Durability, Failed, Spill, SpillOptions};
use deadpool_redis::redis::Value;
use uuid::Uuid;

use crate::redis_cluster::{mirror, session};
use crate::support::eventually;
use crate::support::instance::{Instance, Stores};
use crate::support::redis_servers::{RedisCluster, RedisServer, hot, shipped};
use crate::support::servers::{TestDatabase, query};

const NOW: Millis = Millis(1_763_700_000_000);

/// What an answer says in words, an error or not.
async fn said(server: &RedisServer, role: &str, words: &[&str]) -> String {
    match server.ask::<Value>(role, words).await {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    }
}

async fn assert_refused(server: &RedisServer, role: &str, words: &[&str]) {
    let said = said(server, role, words).await;
    // The second and third: what a function is told.
    let refusals = ["this user has no permissions", "can't run this command", "can't access at least one"];
    let refused = refusals.iter().any(|refusal| said.contains(refusal));
    assert!(refused, "{role} sent {words:?} and got {said}");
}

async fn assert_allowed(server: &RedisServer, role: &str, words: &[&str]) {
    let answered = server.ask::<Value>(role, words).await;
    assert!(answered.is_ok(), "{role} sent {words:?} and got {answered:?}");
}

async fn assert_nothing_was_refused(server: &RedisServer) {
    let log: Vec<HashMap<String, Value>> = server.admin(&["ACL", "LOG"]).await.unwrap();
    // The driver tells its name to servers that take it, from 7.2 on, and does not mind a refusal.
    let name = Value::BulkString(b"client|setinfo".to_vec());
    let refused: Vec<_> = log.iter().filter(|entry| entry["object"] != name).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn the_shipped_users_start_no_server_before_they_have_passwords() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let mut server = Command::new("redis-server")
        .args([
            "--port",
            "0",
            "--unixsocket",
            &socket.to_string_lossy(),
            "--dir",
            &dir.path().to_string_lossy(),
        ])
        .args(["--aclfile", &shipped("users.acl").to_string_lossy()])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert!(!server.wait().unwrap().success());
}

#[tokio::test]
async fn a_server_takes_each_shipped_configuration_and_does_what_it_says() {
    let durable =
        [("appendonly", "yes"), ("appendfsync", "always"), ("no-appendfsync-on-rewrite", "no"), ("save", "")];
    let fleeting = [("appendonly", "no"), ("save", "")];
    let refuses = ("maxmemory-policy", "noeviction");
    let promised = [
        ("cache.conf", [&fleeting[..], &[refuses]].concat()),
        ("limits.conf", [&fleeting[..], &[("maxmemory-policy", "volatile-ttl")]].concat()),
        ("queue.conf", [&durable[..], &[refuses]].concat()),
        ("single.conf", [&durable[..], &[refuses, ("databases", "3")]].concat()),
        ("cluster.conf", [&fleeting[..], &[refuses, ("cluster-enabled", "yes")]].concat()),
    ];
    for (file, settings) in promised {
        let server = RedisServer::start(file).await;
        let told: HashMap<String, String> = server.admin(&["CONFIG", "GET", "*"]).await.unwrap();
        for (name, value) in settings {
            assert_eq!(told[name], value, "{name} in {file}");
        }
        assert_ne!(told["maxmemory"], "0", "{file} bounds its memory");
        assert_eq!(told["protected-mode"], "yes", "{file}");
    }
}

#[tokio::test]
async fn nobody_gets_in_without_a_user_and_its_password() {
    let server = RedisServer::start("single.conf").await;
    for user in ["", "default:@", "default:password@", "chatpulse_cache:wrong@", ":the-tests-cache-password@"]
    {
        let url = format!("redis://{user}127.0.0.1:{}", server.port);
        let mut get = deadpool_redis::redis::cmd("GET");
        get.arg("chatpulse:cache:x");
        let answered = query::<Value>(&url, &get).await;
        assert!(answered.is_err(), "{url}: {answered:?}");
    }
    assert_allowed(&server, "cache", &["GET", "chatpulse:cache:x"]).await;
}

#[tokio::test]
async fn each_roles_user_is_refused_outside_its_keys_and_commands() {
    let server = RedisServer::start("single.conf").await;
    let keys = [
        ("cache", "chatpulse:session:{00}:x"),
        ("cache", "chatpulse:deny:x"),
        ("limits", "chatpulse:rate_limit:login:x"),
        ("queue", "chatpulse:stream:{x}"),
        ("queue", "chatpulse:dlq:{x}"),
    ];
    for role in ["cache", "limits", "queue"] {
        for (owner, key) in keys {
            let touch: &[&str] = match role {
                "cache" => &["SET", key, "1"],
                "limits" => &["ZADD", key, "1", "m"],
                _ => &["XADD", key, "*", "f", "v"],
            };
            match owner == role {
                true => assert_allowed(&server, role, touch).await,
                false => assert_refused(&server, role, touch).await,
            }
        }
        for stranger in ["x", "chatpulse", "chatpulse:", "chatpulse:other:x", "other:chatpulse:session:x"] {
            let touch: &[&str] = match role {
                "cache" => &["GET", stranger],
                "limits" => &["ZCARD", stranger],
                _ => &["XLEN", stranger],
            };
            assert_refused(&server, role, touch).await;
        }
        for dangerous in [
            &["FLUSHALL"][..],
            &["FLUSHDB"],
            &["KEYS", "*"],
            &["SCAN", "0"],
            &["RANDOMKEY"],
            &["SWAPDB", "0", "1"],
            &["CONFIG", "SET", "maxmemory", "1"],
            &["CONFIG", "REWRITE"],
            &["EVAL", "return 1", "0"],
            &["SCRIPT", "LOAD", "return 1"],
            &["FUNCTION", "FLUSH"],
            &["FUNCTION", "DELETE", "chatpulse_v2"],
            &["SHUTDOWN", "NOSAVE"],
            &["MONITOR"],
            &["CLIENT", "LIST"],
            &["ACL", "LIST"],
            &["ACL", "SETUSER", "x", "on", "nopass", "+@all", "~*"],
            &["REPLICAOF", "127.0.0.1", "1"],
            &["CLUSTER", "RESET"],
            &["MODULE", "LIST"],
            &["PUBLISH", "c", "m"],
            &["BGREWRITEAOF"],
            &["SAVE"],
        ] {
            assert_refused(&server, role, dangerous).await;
        }
    }
    assert_refused(&server, "cache", &["CONFIG", "GET", "*"]).await;
    assert_refused(&server, "limits", &["CONFIG", "GET", "*"]).await;
    assert_allowed(&server, "queue", &["CONFIG", "GET", "appendonly"]).await;
    for words in [&["GET", "chatpulse:cache:x"][..], &["INFO"], &["CONFIG", "GET", "*"]] {
        assert_refused(&server, "replica", words).await;
    }
}

#[tokio::test]
async fn a_function_may_do_no_more_than_who_calls_it() {
    let server = RedisServer::start("single.conf").await;
    let delete = "chatpulse_v2_delete_if_holds";
    mirror(&hot(vec![server.url("cache")]), &[session(Uuid::now_v7(), 1)]).await.unwrap();

    assert_allowed(&server, "cache", &["FCALL", delete, "1", "chatpulse:cache:x", "v"]).await;
    assert_refused(&server, "cache", &["FCALL", delete, "1", "chatpulse:stream:x", "v"]).await;
    assert_refused(&server, "queue", &["FCALL", delete, "1", "chatpulse:cache:x", "v"]).await;
    // Its own key, with commands that its role does not send.
    assert_refused(&server, "queue", &["FCALL", delete, "1", "chatpulse:stream:x", "v"]).await;
    // A key or command that only shows inside.
    let sneaky = "#!lua name=sneaky\n\
                  redis.register_function('take', function() return redis.call('GET', 'chatpulse:stream:x') end)\n\
                  redis.register_function('list', function() return redis.call('KEYS', '*') end)";
    assert_allowed(&server, "cache", &["FUNCTION", "LOAD", sneaky]).await;
    assert_refused(&server, "cache", &["FCALL", "take", "0"]).await;
    assert_refused(&server, "cache", &["FCALL", "list", "0"]).await;
}

#[tokio::test]
async fn the_hot_state_needs_no_more_than_its_user_may() {
    let server = RedisServer::start("cache.conf").await;
    let hot = hot(vec![server.url("cache")]);
    hot.probe().await.unwrap();
    let streamer_id = Uuid::now_v7();
    let bucket = Bucket::of(streamer_id);
    let session = session(streamer_id, 1);

    assert_eq!(mirror(&hot, from_ref(&session)).await.unwrap(), [Mirrored::Written]);
    assert_eq!(mirror(&hot, from_ref(&session)).await.unwrap(), [Mirrored::Older]);
    assert_eq!(hot.read(streamer_id, NOW).await.unwrap().map(|read| read.session), Some(session));
    hot.changes_since(&[(bucket, Cursor::default())]).await.unwrap();
    let claims = [Claim { streamer_id, viewer: "v", message_id: "m", ttl_ms: 60_000 }];
    assert_eq!(hot.claim(&claims).await.unwrap(), [Claimed::Fresh]);
    hot.release_claims(&claims).await.unwrap();
    assert_eq!(hot.claim(&claims).await.unwrap(), [Claimed::Fresh]);
    let holders = |version, ids: Vec<Uuid>, unheld_since| Holders {
        streamer_id,
        ordinal: 1,
        version,
        ids,
        unheld_since,
    };
    hot.note_holders(&[holders(1, vec![Uuid::now_v7()], None)]).await.unwrap();
    hot.note_holders(&[holders(2, Vec::new(), Some(NOW))]).await.unwrap();
    assert!(hot.marks(&[streamer_id]).await.unwrap()[0].is_some());
    assert_eq!(hot.orphans(NOW).await.unwrap(), [streamer_id]);
    hot.forget_orphan(streamer_id).await.unwrap();
    assert!(hot.remove(streamer_id, 1).await.unwrap());
    assert_eq!(hot.read(streamer_id, NOW).await.unwrap(), None);
    hot.discard(streamer_id).await.unwrap();
    use_windows(ChatWindows::new(hot.clone()), streamer_id).await;
    let denied = DenyList::new(hot.clone());
    denied.load(&[(Uuid::now_v7(), Duration::from_secs(60))]).await.unwrap();
    denied.deny(&[(Uuid::now_v7(), Duration::from_secs(60))]).await.unwrap();
    assert_eq!(denied.look(Uuid::now_v7()).await.unwrap(), Denied::No);
    hot.used_memory().await.unwrap();

    assert_nothing_was_refused(&server).await;
}

/// Uses everything of the chats' windows.
async fn use_windows(windows: ChatWindows, streamer_id: Uuid) {
    let line = ChatLine {
        message_id: "m".into(),
        login: "l".into(),
        name: "L".into(),
        text: "t".into(),
        at: NOW,
        side: None,
    };
    let late = ChatLine { message_id: "n".into(), at: Millis(NOW.0 - 1), ..line.clone() };
    for lines in [vec![line], vec![late]] {
        windows.append(&[ChatBatch { streamer_id, lines, heard_at: NOW }]).await.unwrap();
    }
    windows.watch(&[streamer_id], NOW).await.unwrap();
    assert_eq!(windows.read(streamer_id).await.unwrap().len(), 2);
    assert_eq!(windows.last_heard(&[streamer_id]).await.unwrap(), [Some(NOW)]);
    assert_eq!(windows.quiet_since(NOW).await.unwrap().len(), 1);
    windows.erase(&[(streamer_id, Erased::User("l".into())), (streamer_id, Erased::All)]).await.unwrap();
    windows.unwatch(&[streamer_id]).await.unwrap();
}

#[tokio::test]
async fn limits_need_no_more_than_their_user_may() {
    let server = RedisServer::start("limits.conf").await;
    let limits = Limits::new(hot(vec![server.url("limits")]));
    limits.probe().await.unwrap();
    let limit = Limit { module: "login", window: Duration::from_secs(60), max: 1 };

    assert!(limits.check(&limit, "somebody", NOW).await.unwrap().allowed);
    assert!(!limits.check(&limit, "somebody", NOW).await.unwrap().allowed);
    assert_nothing_was_refused(&server).await;
}

#[tokio::test]
async fn the_queue_needs_no_more_than_its_user_may() {
    let server = RedisServer::start("queue.conf").await;
    let spill = |instance_id| {
        let options = SpillOptions { instance_id, entries_max: 1000, durability: Durability::Ask };
        Spill::new(hot(vec![server.url("queue")]), &options)
    };
    let queue = spill(Uuid::now_v7());
    queue.probe().await.unwrap();
    assert!(queue.is_durable(), "the shipped configuration is good enough");
    queue.push(&[vote("good"), vote("bad")]).await.unwrap();

    let taken = queue.take(10).await.unwrap();
    queue.settle(&[taken[0].id.clone()]).await.unwrap();
    while queue.fail(&taken[1].id, "the reason").await.unwrap() == Failed::Again {
        queue.take(10).await.unwrap();
    }
    assert!(spill(Uuid::now_v7()).take(10).await.unwrap().is_empty());
    let depth = queue.probe().await.unwrap();
    assert_eq!((depth.waiting, depth.dead_letters), (0, 1));
    let letter = &queue.dead_letters(None, 10).await.unwrap()[0];
    assert!(queue.retry_dead(&letter.id).await.unwrap());
    assert_nothing_was_refused(&server).await;
}

#[tokio::test]
async fn a_full_server_counts_as_away_until_it_has_room_but_a_queue_is_emptied() {
    let server = RedisServer::start("single.conf").await;
    let cache = hot(vec![server.url("cache")]);
    let options =
        SpillOptions { instance_id: Uuid::now_v7(), entries_max: 1000, durability: Durability::Ask };
    let queue = Spill::new(hot(vec![server.url("queue")]), &options);
    cache.probe().await.unwrap();
    queue.probe().await.unwrap();
    assert!(queue.take(10).await.unwrap().is_empty());
    queue.push(&[vote("waiting")]).await.unwrap();

    server.admin::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await.unwrap();
    assert!(matches!(cache.probe().await, Err(HotError::Connection(why)) if why.contains("full")));
    assert!(!cache.is_up());
    queue.probe().await.unwrap();
    assert!(queue.push(&[vote("refused")]).await.is_err());
    let taken = queue.take(10).await.unwrap();
    queue.settle(&[taken[0].id.clone()]).await.unwrap();
    assert_eq!(queue.probe().await.unwrap().waiting, 0);

    server.admin::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await.unwrap();
    cache.probe().await.unwrap();
    assert!(cache.is_up());
}

fn vote(message_id: &str) -> NewVote {
    NewVote {
        session_id: Uuid::now_v7(),
        message_id: message_id.into(),
        side: Side::For,
        weight: 1.0,
        t: NOW,
        viewer: "v".into(),
    }
}

/// An instance's stores, with Redis at these URLs; `guard` keeps the servers.
pub async fn stores(redis_url: String, queue_url: String, guard: impl Send + Sync + 'static) -> Stores {
    let database = TestDatabase::create().await;
    Stores {
        app_url: database.app_url.clone(),
        owner_url: database.owner_url.clone(),
        superuser_url: database.superuser_url.clone(),
        redis_url,
        queue_url,
        _guard: Box::new((database, guard)),
    }
}

/// Waits until the instance has all that it depends on.
pub async fn assert_ready(instance: &Instance) {
    let twitch = instance.twitch();
    let ready = async || twitch.get("/health/ready").await.body.contains(r#""status":"ready""#);
    eventually("the instance is ready and not degraded", ready).await;
}

/// The settings that name three roles on this one server.
fn on_one_server(server: &RedisServer) -> [(&'static str, String); 3] {
    [
        ("REDIS_URL", server.url("cache") + "/0"),
        ("RATE_LIMIT_REDIS_URL", server.url("limits") + "/1"),
        ("MESSAGE_QUEUE_REDIS_URL", server.url("queue") + "/2"),
    ]
}

fn borrowed<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    settings.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

#[tokio::test]
async fn the_program_works_with_the_users_of_the_roles() {
    let server = RedisServer::start("single.conf").await;
    let urls = on_one_server(&server);
    let stores = stores(urls[0].1.clone(), urls[2].1.clone(), ()).await;
    let instance = Instance::start_on(stores, &borrowed(&urls)).await;
    let (streamer, mut overlay) = instance.watched().await;
    let twitch = instance.twitch();
    let vote = twitch.say(&streamer.twitch_id, "yes").await;
    overlay.frames_until_votes(1).await;

    assert_eq!(instance.voted(&streamer).await, [vote]);
    assert_ready(&instance).await;
    drop(instance);
    assert_nothing_was_refused(&server).await;
}

#[tokio::test]
async fn a_session_goes_on_from_one_server_to_three_to_a_cluster_and_back() {
    let single = RedisServer::start("single.conf").await;
    let [cache, limits, queue] = [
        RedisServer::start("cache.conf").await,
        RedisServer::start("limits.conf").await,
        RedisServer::start("queue.conf").await,
    ];
    let cluster = RedisCluster::start().await;
    let three = [
        ("REDIS_URL", cache.url("cache")),
        ("RATE_LIMIT_REDIS_URL", limits.url("limits")),
        ("MESSAGE_QUEUE_REDIS_URL", queue.url("queue")),
    ];
    let clustered = [("REDIS_URL", cluster.urls("cache").join(",")), three[1].clone(), three[2].clone()];
    let one = on_one_server(&single);

    let stores = stores(one[0].1.clone(), one[2].1.clone(), ()).await;
    let mut instance = Instance::start_on(stores, &borrowed(&one)).await;
    let streamer = instance.streamer(&["yes"], &["no"]).await;
    let mut votes = Vec::new();
    for urls in [one.clone(), three, clustered, one] {
        instance.terminate();
        assert!(instance.stopped().await.success());
        instance.set(&borrowed(&urls));
        instance.start_again().await;
        let mut overlay = instance.overlay(&streamer).await;
        assert_eq!(overlay.hello["state"]["for"], votes.len(), "the session goes on");
        votes.push(instance.twitch().say(&streamer.twitch_id, "yes").await);
        overlay.frames_until_votes(votes.len() as i64).await;
        assert_ready(&instance).await;
    }
    assert_eq!(instance.voted(&streamer).await, votes);
}
