//! A TCP proxy on the loopback that can be told to misbehave, by a seed. It lives on a thread of its own, so
//! that a busy test slows nobody's connections.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// Chunks of one direction that wait for their time; more are left to the kernel.
const CHUNKS_WAITING_MAX: usize = 1024;

/// What becomes of connections through a [`Proxy`].
#[derive(Clone, Debug, PartialEq)]
pub enum Mode {
    /// Bytes pass.
    Pass,
    /// Open connections are reset, new ones too as soon as they are made.
    Cut,
    /// Bytes are swallowed in both directions, and connections stay open; new ones are taken and answer
    /// nothing. When this ends, those connections are reset: no network delivers a stream with a hole.
    BlackHole,
    /// Each chunk of bytes comes later by this many milliseconds, in order.
    Delay(RangeInclusive<u64>),
    /// Each connection is reset after this many milliseconds.
    Flaky(RangeInclusive<u64>),
}

/// The mode, and how often all open connections had to go so far.
#[derive(Clone, Debug)]
struct Rule {
    mode: Mode,
    resets: u64,
}

/// A running proxy; ends with all its connections when dropped.
pub struct Proxy {
    pub address: SocketAddr,
    target: SocketAddr,
    rule: Option<watch::Sender<Rule>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on a free port and forwards to `target`. What is random is drawn from `seed`.
    pub fn start(target: SocketAddr, seed: u64) -> Proxy {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        let address = listener.local_addr().expect("a listener has an address");
        let (rule, rules) = watch::channel(Rule { mode: Mode::Pass, resets: 0 });
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            // All connections end with the runtime.
            runtime.expect("a runtime can be made").block_on(accept(listener, target, rules, seed));
        });
        Proxy { address, target, rule: Some(rule), thread: Some(thread) }
    }

    /// A proxy before the server that `url` names.
    pub fn before(url: &str, seed: u64) -> Proxy {
        let (start, end) = authority(url);
        Proxy::start(url[start..end].parse().expect("a URL of the tests names an address"), seed)
    }

    /// `url`, which names the target, through this proxy.
    pub fn url(&self, url: &str) -> String {
        let (start, end) = authority(url);
        assert_eq!(url[start..end], self.target.to_string(), "{url} is the target's");
        format!("{}{}{}", &url[..start], self.address, &url[end..])
    }

    /// From now on all connections are treated like this.
    pub fn set(&self, mode: Mode) {
        let Some(rule) = &self.rule else { return };
        rule.send_modify(|rule| {
            if mode == Mode::Cut || rule.mode == Mode::BlackHole && mode != Mode::BlackHole {
                rule.resets += 1;
            }
            rule.mode = mode;
        });
    }

    /// Bytes pass again.
    pub fn heal(&self) {
        self.set(Mode::Pass);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The thread ends once nobody can change its rule.
        drop(self.rule.take());
        if let Some(thread) = self.thread.take() {
            // Err: it panicked, which stands on standard error already.
            let _ = thread.join();
        }
    }
}

/// Where host and port stand in a URL.
fn authority(url: &str) -> (usize, usize) {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?']).map_or(url.len(), |at| start + at);
    (url[start..end].rfind('@').map_or(start, |at| start + at + 1), end)
}

async fn accept(
    listener: std::net::TcpListener,
    target: SocketAddr,
    rules: watch::Receiver<Rule>,
    seed: u64,
) {
    let listener = TcpListener::from_std(listener).expect("a listener can be polled");
    let mut random = StdRng::seed_from_u64(seed);
    let mut end = rules.clone();
    loop {
        let dropped = async { while end.changed().await.is_ok() {} };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = dropped => return,
        };
        // Err: such as a client that has gone already.
        let Ok((client, _)) = accepted else { continue };
        let random = StdRng::seed_from_u64(random.random());
        // Read here: who sees that the connection is taken may change the rule before its task runs.
        let resets = rules.borrow().resets;
        tokio::spawn(connection(client, target, rules.clone(), resets, random));
    }
}

/// One connection from its beginning to its end.
async fn connection(
    client: TcpStream,
    target: SocketAddr,
    rules: watch::Receiver<Rule>,
    resets: u64,
    mut random: StdRng,
) {
    let reset = until_reset(rules.clone(), resets, StdRng::seed_from_u64(random.random()));
    // Without this, what is small would wait for what was sent before; Err: it has gone already.
    let _ = client.set_nodelay(true);
    // Kept beside the halves, to choose how the connection ends.
    let Ok(handle) = client_handle(&client) else { return };
    let forward = async {
        leave_black_hole(rules.clone()).await;
        let Ok(server) = TcpStream::connect(target).await else { return true };
        let _ = server.set_nodelay(true);
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let other = StdRng::seed_from_u64(random.random());
        // The first end of a direction ends both, as it does with the servers behind.
        tokio::select! {
            () = pump(from_client, to_server, rules.clone(), random) => {}
            () = pump(from_server, to_client, rules.clone(), other) => {}
        }
        false
    };
    let hard = tokio::select! {
        refused = forward => refused,
        () = reset => true,
    };
    if hard {
        // Closing then sends a reset.
        let _ = socket2::SockRef::from(&handle).set_linger(Some(Duration::ZERO));
    }
}

fn client_handle(client: &TcpStream) -> io::Result<socket2::Socket> {
    socket2::SockRef::from(client).try_clone()
}

/// Until a connection that began after so many resets has to go.
async fn until_reset(mut rules: watch::Receiver<Rule>, resets: u64, mut random: StdRng) {
    loop {
        let rule = rules.borrow_and_update().clone();
        if rule.resets != resets || rule.mode == Mode::Cut {
            return;
        }
        let life = match rule.mode {
            Mode::Flaky(life_ms) => Some(Duration::from_millis(random.random_range(life_ms))),
            _ => None,
        };
        let worn_out = async {
            match life {
                Some(life) => sleep(life).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = worn_out => return,
            changed = rules.changed() => if changed.is_err() { return },
        }
    }
}

async fn leave_black_hole(mut rules: watch::Receiver<Rule>) {
    // Err: the proxy is dropped, and this with it.
    let _ = rules.wait_for(|rule| rule.mode != Mode::BlackHole).await;
}

/// One direction, until one of its ends has gone.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    rules: watch::Receiver<Rule>,
    mut random: StdRng,
) {
    let (enqueue, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_WAITING_MAX);
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        let mut last_due = Instant::now();
        loop {
            let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
            let mode = rules.borrow().mode.clone();
            let late = match mode {
                Mode::BlackHole | Mode::Cut => continue,
                Mode::Delay(late_ms) => Duration::from_millis(random.random_range(late_ms)),
                Mode::Pass | Mode::Flaky(_) => Duration::ZERO,
            };
            last_due = last_due.max(Instant::now() + late);
            if enqueue.send((last_due, buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = queue.recv().await {
            if due > Instant::now() {
                sleep_until(due).await;
            }
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    // What was read before the end is still written; and a reader does not outlive its writer.
    tokio::pin!(write);
    tokio::select! {
        () = read => write.await,
        () = &mut write => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    use crate::support::eventually;

    const SILENCE: Duration = Duration::from_millis(150);
    const PATIENCE: Duration = Duration::from_secs(10);

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    async fn said(stream: &mut TcpStream, text: &str) -> io::Result<String> {
        stream.write_all(text.as_bytes()).await?;
        let mut buffer = vec![0; text.len()];
        timeout(PATIENCE, stream.read_exact(&mut buffer)).await.expect("an answer or an end comes")?;
        Ok(String::from_utf8(buffer).unwrap())
    }

    async fn is_reset(stream: &mut TcpStream) -> bool {
        let mut buffer = [0; 1];
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("an end comes");
        matches!(read, Err(_) | Ok(0))
    }

    /// Whether nothing comes back of what is sent, and no end either.
    async fn is_swallowed(stream: &mut TcpStream) -> bool {
        stream.write_all(b"lost").await.unwrap();
        timeout(SILENCE, stream.read(&mut [0; 1])).await.is_err()
    }

    #[tokio::test]
    async fn bytes_pass() {
        let proxy = Proxy::start(echo().await, 1);
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(said(&mut stream, "here").await.unwrap(), "here");
        let long = "x".repeat(1_000_000);
        let (mut from, mut to) = stream.split();
        let mut back = vec![0; long.len()];
        let (wrote, read) = tokio::join!(to.write_all(long.as_bytes()), from.read_exact(&mut back));
        wrote.and(read).unwrap();
        assert_eq!(back, long.as_bytes());
    }

    #[tokio::test]
    async fn a_cut_ends_open_connections_and_refuses_new_ones_until_it_is_healed() {
        let proxy = Proxy::start(echo().await, 1);
        let mut open = TcpStream::connect(proxy.address).await.unwrap();
        said(&mut open, "here").await.unwrap();
        proxy.set(Mode::Cut);
        assert!(is_reset(&mut open).await);
        // It may be reset before it is known to be open.
        if let Ok(mut new) = TcpStream::connect(proxy.address).await {
            assert!(is_reset(&mut new).await);
        }
        proxy.heal();
        let mut new = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(said(&mut new, "again").await.unwrap(), "again");
    }

    #[tokio::test]
    async fn a_cut_that_was_healed_at_once_ends_open_connections_too() {
        let proxy = Proxy::start(echo().await, 1);
        let mut open = TcpStream::connect(proxy.address).await.unwrap();
        said(&mut open, "here").await.unwrap();
        proxy.set(Mode::Cut);
        proxy.heal();
        assert!(is_reset(&mut open).await);
    }

    #[tokio::test]
    async fn a_black_hole_is_silent_and_its_connections_do_not_survive_it() {
        let proxy = Proxy::start(echo().await, 1);
        let mut open = TcpStream::connect(proxy.address).await.unwrap();
        said(&mut open, "here").await.unwrap();
        proxy.set(Mode::BlackHole);
        assert!(is_swallowed(&mut open).await);
        // The kernel takes a connection before the proxy does; one that is taken listens to the rule.
        let listening = || proxy.rule.as_ref().map_or(0, watch::Sender::receiver_count);
        let before = listening();
        let mut new = TcpStream::connect(proxy.address).await.unwrap();
        eventually("the proxy takes the connection", async || listening() > before).await;
        assert!(is_swallowed(&mut new).await);
        proxy.heal();
        assert!(is_reset(&mut open).await && is_reset(&mut new).await);
        let mut after = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(said(&mut after, "again").await.unwrap(), "again");
    }

    #[tokio::test]
    async fn what_is_delayed_keeps_its_order() {
        let proxy = Proxy::start(echo().await, 7);
        proxy.set(Mode::Delay(1..=40));
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let began = Instant::now();
        let (mut from, mut to) = stream.split();
        let write = async {
            for digit in b'0'..=b'9' {
                to.write_all(&[digit]).await.unwrap();
                sleep(Duration::from_millis(3)).await;
            }
        };
        let mut back = [0; 10];
        let (_, read) = tokio::join!(write, timeout(PATIENCE, from.read_exact(&mut back)));
        read.unwrap().unwrap();
        assert_eq!(&back, b"0123456789");
        assert!(began.elapsed() >= Duration::from_millis(2), "each way adds at least a millisecond");
    }

    #[tokio::test]
    async fn a_flaky_connection_ends_and_the_next_one_works_for_a_while() {
        let proxy = Proxy::start(echo().await, 1);
        proxy.set(Mode::Flaky(50..=100));
        for _ in 0..3 {
            let mut stream = TcpStream::connect(proxy.address).await.unwrap();
            assert!(is_reset(&mut stream).await);
        }
        proxy.heal();
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(said(&mut stream, "here").await.unwrap(), "here");
    }

    #[tokio::test]
    async fn a_server_that_is_gone_looks_gone() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let proxy = Proxy::start(closed, 1);
        if let Ok(mut stream) = TcpStream::connect(proxy.address).await {
            assert!(is_reset(&mut stream).await);
        }
    }

    #[test]
    fn a_url_leads_through_the_proxy() {
        let proxy = Proxy::before("redis://127.0.0.1:6379/2", 1);
        let at = proxy.address;
        assert_eq!(proxy.url("redis://127.0.0.1:6379/2"), format!("redis://{at}/2"));
        assert_eq!(proxy.url("postgres://u:p@127.0.0.1:6379/db?x=1"), format!("postgres://u:p@{at}/db?x=1"));
        assert_eq!(proxy.url("redis://127.0.0.1:6379"), format!("redis://{at}"));
    }
}
