//! What this machine is, in a few lines: figures mean nothing without it.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde::Serialize;

/// What the figures were measured on.
#[derive(Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_gib: f64,
    pub kernel: String,
    /// The median time of a small write that is synced to the disk of the databases, in milliseconds.
    pub disk_sync_ms: f64,
    /// How much other programs kept the machine busy at the start: processes that ran or wanted to.
    pub load: f64,
}

impl Machine {
    /// Looks at this machine; `dir` is on the disk of the databases.
    pub fn look(dir: &Path) -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned())).unwrap_or_default()
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal");
        let kilobytes = memory.trim_end_matches(" kB").parse::<f64>().unwrap_or_default();
        Machine {
            processor: after(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kilobytes / 1024.0 / 1024.0,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            disk_sync_ms: disk_sync_ms(dir).unwrap_or(f64::NAN),
            load: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        }
    }
}

fn disk_sync_ms(dir: &Path) -> std::io::Result<f64> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join("sync");
    let mut file = std::fs::File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..50 {
        let began = Instant::now();
        file.write_all(&[0; 512])?;
        file.sync_data()?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    std::fs::remove_file(path)?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// The first line that a program says of its version.
pub fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

/// The version of PostgreSQL's programs, which are not always on the path.
pub fn postgresql() -> String {
    let on_path = version("postgres");
    if on_path != "unknown" {
        return on_path;
    }
    let folders = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let programs = folders.map(|folder| folder.path().join("bin/postgres"));
    programs.last().map_or_else(|| "PostgreSQL".into(), |program| version(&program.to_string_lossy()))
}
