//! Load generators and limits run in processes of their own, so that their processor time is not the
//! server's: this program again, told by one line of JSON what to do. It says `ready`, waits for `go`, and
//! ends with one line of JSON.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::process::Process;
use super::{latency, limits, requests, sockets};

/// The argument that makes this program a worker.
pub const ARGUMENT: &str = "worker";

/// What a worker is to do.
#[derive(Serialize, Deserialize)]
pub enum Work {
    Requests(requests::Spec),
    Sockets(sockets::Spec),
    Latency(latency::Spec),
    HttpLimit(limits::HttpSpec),
    FanoutLimit(limits::FanoutSpec),
}

/// A worker, ended when dropped.
pub struct Worker {
    // Dropped in this order: the end of its input ends it.
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    process: Process,
}

impl Worker {
    /// Starts a worker, and waits until it is ready; answers what it said then.
    pub async fn start(work: Work) -> Result<(Worker, String)> {
        tokio::task::spawn_blocking(move || Worker::start_blocking(&work)).await?
    }

    fn start_blocking(work: &Work) -> Result<(Worker, String)> {
        let program = std::env::current_exe()?;
        let mut command = Command::new(program);
        command.arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().context("standard input is piped")?;
        let stdout = BufReader::new(child.stdout.take().context("standard output is piped")?);
        let mut worker = Worker { stdin, stdout, process: Process::of(child) };
        worker.tell(&serde_json::to_string(work)?)?;
        let said = worker.listen()?;
        match said.strip_prefix("ready") {
            Some(rest) => Ok((worker, rest.trim().to_owned())),
            None => bail!("a worker failed: {said}"),
        }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Lets it work.
    pub fn go(&mut self) -> Result<()> {
        self.tell("go")
    }

    /// Waits for its result.
    pub async fn result<T: DeserializeOwned + Send + 'static>(mut self) -> Result<T> {
        tokio::task::spawn_blocking(move || Ok(serde_json::from_str(&self.listen()?)?)).await?
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        self.stdin.write_all(line.as_bytes())?;
        self.stdin.write_all(b"\n")?;
        Ok(self.stdin.flush()?)
    }

    fn listen(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            bail!("a worker ended without a word");
        }
        Ok(line.trim_end().to_owned())
    }
}

/// Does what this process is told on its standard input.
pub fn run() -> Result<()> {
    match serde_json::from_str(&read_line()?)? {
        Work::Requests(spec) => requests::run(spec),
        Work::Sockets(spec) => sockets::run(spec),
        Work::Latency(spec) => latency::run(spec),
        Work::HttpLimit(spec) => limits::run_http(spec),
        Work::FanoutLimit(spec) => limits::run_fanout(spec),
    }
}

/// Says that all is prepared, and waits to be told to begin. Ends this process with its parent.
pub fn ready(said: &str) -> Result<()> {
    say(&format!("ready {said}"))?;
    let line = read_line()?;
    anyhow::ensure!(line == "go", "nobody waits for this any more");
    std::thread::spawn(|| {
        let _ = std::io::stdin().lock().read_line(&mut String::new());
        std::process::exit(0);
    });
    Ok(())
}

/// Tells the result.
pub fn finish(result: &impl Serialize) -> Result<()> {
    say(&serde_json::to_string(result)?)
}

fn say(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}

fn read_line() -> Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}
