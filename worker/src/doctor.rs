//! `marquee-worker doctor`: whether this host can do a worker's work, and what to do where not.
//!
//! Invariant: it changes nothing, needs no coordinator, and ends: whatever it asks has a time limit.
//! Not here: the coordinator's own host (`marquee-coordinator doctor`), and curing anything.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use marquee_domain::doctor::{Check, Report};
use tokio::process::Command;

use crate::config::{Config, Settings, Sources};

mod cluster;
mod gpus;
mod host;
mod trainer;

/// How long a program of ours may take to answer: the trainer loads libtorch from a cold disk.
const PROGRAM_MAX: Duration = Duration::from_secs(60);

/// Looks at everything.
pub async fn run(file: Option<&Path>, flags: Settings) -> Report {
    let mut checks = Vec::new();
    let config = settings(file, flags, &mut checks);
    let trainer = trainer::look(&config, &mut checks).await;
    let gpus = gpus::look(&config, &trainer, &mut checks).await;
    trainer::nccl(&config, &trainer, gpus, &mut checks).await;
    host::look(&config, gpus > 0, &mut checks).await;
    cluster::look(&config, &mut checks).await;
    Report {
        program: "marquee-worker".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        checks,
    }
}

/// The worker's settings; where they are wrong, the flags alone, so that the rest is looked at too.
fn settings(file: Option<&Path>, flags: Settings, checks: &mut Vec<Check>) -> Config {
    match Config::load(Sources { file, env: None }, flags) {
        Ok(config) => {
            let found = format!(
                "worker {:?}, coordinator {}, data in {}",
                config.name,
                config.coordinators.join(", "),
                config.data_dir.display()
            );
            checks.push(Check::ok("settings", found));
            config
        }
        Err(error) => {
            let file = file.unwrap_or(Path::new(crate::config::DEFAULT_FILE));
            let cure = format!(
                "correct {} (deploy/worker.toml shows every key)",
                file.display()
            );
            checks.push(Check::failed("settings", error.to_string(), cure));
            Config::default_settings()
        }
    }
}

/// What a program says within its time; the error is in words.
async fn ask(program: &Path, arguments: &[&str]) -> Result<Output, String> {
    let asked = Command::new(program)
        .args(arguments)
        .kill_on_drop(true)
        // A program that asks something would otherwise wait for a person until its time is up.
        .stdin(std::process::Stdio::null())
        .output();
    match tokio::time::timeout(PROGRAM_MAX, asked).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(format!("does not start: {error}")),
        Err(_) => Err(format!("gave no answer in {} s", PROGRAM_MAX.as_secs())),
    }
}

/// The last line that a program wrote to stderr: the one with its error.
fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("no word on stderr")
        .to_owned()
}

/// Bytes in binary units.
fn bytes(number: u64) -> String {
    const GIB: f64 = (1_u64 << 30) as f64;
    const MIB: f64 = (1_u64 << 20) as f64;
    let number = number as f64;
    if number >= GIB {
        format!("{:.1} GiB", number / GIB)
    } else {
        format!("{:.1} MiB", number / MIB)
    }
}
