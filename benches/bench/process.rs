//! Child processes, and what processes cost: processor time and memory, from `/proc`.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a child may take to end by itself.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// A child process, ended when dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a program with nothing but the given environment, and hands out what it writes to its
    /// standard error.
    pub fn start(command: &mut Command) -> Result<(Process, BufReader<ChildStderr>)> {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("a child")?;
        let stderr = child.stderr.take().context("standard error is piped")?;
        Ok((Process { child }, BufReader::new(stderr)))
    }

    /// A child that was started elsewhere.
    pub fn of(child: Child) -> Process {
        Process { child }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end, and waits until it has.
    fn end(&mut self) {
        // Err: it has ended already.
        let _ = Command::new("kill").arg(self.id().to_string()).stderr(Stdio::null()).status();
        let asked = Instant::now();
        while asked.elapsed() < END_PATIENCE && !self.has_ended() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// The newest lines that a child wrote.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Takes lines until `found` has found something in one, then goes on taking them in the background.
    pub fn read_until<T>(
        mut reader: BufReader<ChildStderr>,
        found: impl Fn(&str) -> Option<T>,
    ) -> Result<(T, Lines)> {
        let lines = Lines::default();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                bail!("it ended with:\n{}", lines.all().join("\n"));
            }
            lines.push(line.trim_end().to_owned());
            if let Some(found) = found(&line) {
                let kept = lines.clone();
                std::thread::spawn(move || {
                    reader.lines().map_while(Result::ok).for_each(|line| kept.push(line));
                });
                return Ok((found, lines));
            }
        }
    }

    /// All lines so far.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn push(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

/// Processor time, user and system, that a process has used; with its children also what those have used
/// that have ended.
fn cpu_of(pid: u32, with_ended_children: bool) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the state, field 3 of proc(5), comes after it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let own = field(14)? + field(15)?;
    let ended = if with_ended_children { field(16)? + field(17)? } else { 0 };
    Some(Duration::from_micros((own + ended) * 1_000_000 / ticks_per_second()))
}

/// A unit of processor time in `/proc`; it has been a hundredth of a second on Linux for ever.
fn ticks_per_second() -> u64 {
    100
}

/// Processor time of one process.
pub fn cpu(pid: u32) -> Duration {
    cpu_of(pid, false).unwrap_or_default()
}

/// Processor time of a process with all its children, ended ones included.
pub fn cpu_with_children(pid: u32) -> Duration {
    let own = cpu_of(pid, true).unwrap_or_default();
    children(pid).into_iter().filter_map(|child| cpu_of(child, false)).sum::<Duration>() + own
}

/// Resident memory of one process, in bytes.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or_default() * 1024
}

fn children(pid: u32) -> Vec<u32> {
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path.join("children")).ok();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists: Vec<String> = threads.filter_map(|thread| read(thread.path())).collect();
    lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|child| child.parse().ok()).collect()
}
