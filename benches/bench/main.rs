//! `make bench`: what ChatPulse can do on this machine, beside the limit of the machine measured in the same
//! run. `make bench SCENARIO=votes` measures one scenario alone.
//!
//! Each scenario has databases of its own, with their durable defaults on a real disk, and runs the real
//! program built for release. Load generators and limits are processes of their own ([`worker`]); what is
//! sent was signed before ([`chat`]). Where a latency is told, messages are sent when they are due, whatever
//! the answers, and their time counts from then.
//!
//! Reading order: [`scenarios`] (what is measured), [`stage`] (databases, instances, sessions), the workers
//! [`requests`], [`sockets`], [`latency`] and [`limits`], and [`report`] (tables and JSON).

mod chat;
mod http;
mod latency;
mod limits;
mod machine;
mod overlay;
mod process;
mod report;
mod requests;
mod scenarios;
mod sockets;
mod stage;
mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use machine::Machine;
use report::Report;
use scenarios::{SCENARIOS, Scenario};

/// As the program's, or the limit would be measured with another one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Everything that was measured.
#[derive(Serialize)]
struct Results {
    machine: Machine,
    postgresql: String,
    redis: String,
    seconds: f64,
    scenarios: Vec<Report>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    // Cargo says that this is a bench.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.first().is_some_and(|argument| argument == worker::ARGUMENT) {
        return worker::run();
    }
    let wanted = wanted(&arguments)?;
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    let path = results_path();
    actix_web::rt::System::new().block_on(measure(&wanted, &dir, &path))?;
    println!("\nAll figures as JSON: {}", path.display());
    Ok(())
}

fn results_path() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap_or(Path::new(".")).join("bench.json")
}

/// The scenarios that are named, in their usual order; all without a name.
fn wanted(names: &[String]) -> Result<Vec<&'static Scenario>> {
    let known = || SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
    if let Some(name) = names.iter().find(|name| SCENARIOS.iter().all(|scenario| scenario.name != **name)) {
        bail!("there is no scenario {name}; there are: {}", known());
    }
    let is_wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    Ok(SCENARIOS.iter().filter(|scenario| is_wanted(scenario.name)).collect())
}

async fn measure(wanted: &[&Scenario], dir: &Path, path: &Path) -> Result<()> {
    let began = Instant::now();
    let machine = Machine::look(dir);
    println!(
        "{}, {} cores, {:.0} GiB, Linux {}; syncing to disk takes {} ms; load {}",
        machine.processor,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        report::number(machine.disk_sync_ms),
        machine.load,
    );
    let (postgresql, redis) = (machine::postgresql(), machine::version("redis-server"));
    println!("{postgresql}; {redis}");
    let mut results = Results { machine, postgresql, redis, seconds: 0.0, scenarios: Vec::new() };
    for (place, scenario) in wanted.iter().enumerate() {
        progress(&format!("{} ({} of {})", scenario.name, place + 1, wanted.len()));
        let report = (scenario.measure)(dir.to_owned()).await;
        let report = report.with_context(|| format!("scenario {}", scenario.name))?;
        print!("{}", report.render());
        results.scenarios.push(report);
        results.seconds = began.elapsed().as_secs_f64();
        // What was measured stays, whatever becomes of the next.
        std::fs::write(path, serde_json::to_string_pretty(&results)?)?;
    }
    Ok(())
}

/// Says what is being done, for those who wait.
fn progress(text: &str) {
    eprintln!("… {text}");
}
