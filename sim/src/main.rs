//! The simulation's program: parse, play, say what came of it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Parser, Subcommand};
use marquee_sim::batch::{self, Batch, Report, Server, Tally};
use marquee_sim::planted::kept_out_by;
use rand::SeedableRng as _;

/// Plays the control plane in a simulation: real coordinator, real workers, real Postgres, faults drawn from a seed.
#[derive(Debug, Parser)]
#[command(name = "marquee-sim", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Play many worlds; exit code 1 if one is wrong
    Seeds {
        /// How many
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// The first seed
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// Begin no world after so many minutes
        #[arg(long)]
        minutes: Option<u64>,
        /// Worlds at once [default: one for each core]
        #[arg(long)]
        at_once: Option<usize>,
        /// Plant a bug that must be found: its name, or "all"; needs a build with the feature "planted"
        #[arg(long)]
        planted: Option<String>,
        /// Write each world's time line into this folder
        #[arg(long)]
        timelines: Option<PathBuf>,
    },
    /// Play one world again and show what happened when
    Replay {
        seed: u64,
        #[arg(long)]
        planted: Option<String>,
    },
    /// Play one world in this process and print its report; the other commands start this
    #[command(hide = true)]
    World {
        seed: u64,
        #[arg(long)]
        postgres: PathBuf,
        #[arg(long)]
        timeline: Option<PathBuf>,
        #[arg(long)]
        planted: Option<String>,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::World {
            seed,
            postgres,
            timeline,
            planted,
        } => {
            if let Some(name) = planted {
                plant(name)?;
            }
            let random = rand::rngs::StdRng::seed_from_u64(seed);
            // Libraries that draw for themselves get the seed's numbers, too.
            mad_turmoil::rand::set_rng(random);
            // A thread of its own: the standard library draws the keys of its maps once for each thread.
            let world =
                std::thread::spawn(move || batch::play(seed, &postgres, timeline.as_deref()));
            let Ok(report) = world.join() else {
                bail!("the world of seed {seed} panicked");
            };
            say(&serde_json::to_string(&report?)?);
            Ok(true)
        }
        Command::Replay { seed, planted } => replay(seed, planted),
        Command::Seeds {
            seeds,
            first,
            minutes,
            at_once,
            planted,
            timelines,
        } => {
            let cores = || std::thread::available_parallelism().map_or(1, usize::from);
            let batch = Batch {
                first,
                count: seeds,
                within: minutes.map(|minutes| Duration::from_secs(60 * minutes)),
                at_once: at_once.unwrap_or_else(cores),
                // The first world that shows a planted bug has found it.
                first_wrong: planted.is_some(),
                planted: None,
                timelines,
            };
            match planted {
                None => play_all(&batch),
                Some(name) => hunt(&batch, &name),
            }
        }
    }
}

#[cfg(feature = "planted")]
#[allow(
    clippy::unnecessary_wraps,
    reason = "the other build has an error to tell"
)]
fn plant(name: String) -> anyhow::Result<()> {
    marquee_domain::planted::plant(name);
    Ok(())
}

#[cfg(not(feature = "planted"))]
fn plant(_: String) -> anyhow::Result<()> {
    bail!("this build has no bugs planted; build it with --features planted")
}

fn replay(seed: u64, planted: Option<String>) -> anyhow::Result<bool> {
    let server = Server::start()?;
    let folder = marquee_postgres::fresh_folder()?;
    let batch = Batch {
        first: seed,
        count: 1,
        within: None,
        at_once: 1,
        planted,
        first_wrong: true,
        timelines: Some(folder.clone()),
    };
    let tally = batch.run(&server, |_| {})?;
    let timeline = std::fs::read_to_string(folder.join(format!("{seed}.txt")));
    std::fs::remove_dir_all(&folder)?;
    say(timeline.unwrap_or_default().trim_end());
    for report in &tally.wrong {
        say(&wrong(report));
    }
    Ok(tally.wrong.is_empty())
}

fn play_all(batch: &Batch) -> anyhow::Result<bool> {
    let began = batch::real_time();
    let server = Server::start()?;
    let tally = batch.run(&server, |report| {
        if !report.wrong.is_empty() {
            say(&wrong(report));
        }
    })?;
    say(&summary(&tally, batch::real_time() - began));
    // No world is no proof, as where the minutes were over before the first one began.
    Ok(tally.wrong.is_empty() && tally.worlds > 0)
}

/// Plants bugs, one after the other, and says after how many worlds each was found. Of all of them those that another
/// guard keeps out are named and not played: that no world finds them is known.
fn hunt(batch: &Batch, name: &str) -> anyhow::Result<bool> {
    let is_all = name == "all";
    let known = marquee_domain::planted::NAMES;
    let names: Vec<&str> = match name {
        "all" => known.to_vec(),
        name if known.contains(&name) => vec![name],
        name => bail!(
            "there is no planted bug {name:?}; there are {}",
            known.join(", ")
        ),
    };
    // Asked before anything is started: in such a build each world would fail for want of the bug.
    #[cfg(not(feature = "planted"))]
    plant(String::new())?;
    let server = Server::start()?;
    let mut all_found = true;
    for name in names {
        let guard = kept_out_by(name);
        if let (true, Some(guard)) = (is_all, guard) {
            say(&format!("{name}: not played, kept out by {guard}"));
            continue;
        }
        let batch = Batch {
            planted: Some(name.to_owned()),
            ..batch.clone()
        };
        let began = batch::real_time();
        let tally = batch.run(&server, |_| {})?;
        let seconds = (batch::real_time() - began).as_secs();
        match (tally.wrong.first(), guard) {
            (Some(report), _) => say(&format!(
                "{name}: found by seed {}, after {} worlds and {seconds} s: {}",
                report.seed,
                tally.worlds,
                report.wrong.first().map_or("", String::as_str),
            )),
            (None, Some(guard)) => say(&format!(
                "{name}: not found in {} worlds, {seconds} s, kept out by {guard}",
                tally.worlds
            )),
            (None, None) => say(&format!(
                "{name}: NOT FOUND in {} worlds, {seconds} s",
                tally.worlds
            )),
        }
        all_found &= guard.is_some() || !tally.wrong.is_empty();
    }
    Ok(all_found)
}

fn wrong(report: &Report) -> String {
    let seed = report.seed;
    let mut text = format!("seed {seed} is wrong; look with: cargo xtask sim --replay {seed}");
    for what in &report.wrong {
        text.push_str("\n  ");
        text.push_str(what);
    }
    text
}

fn summary(tally: &Tally, took: Duration) -> String {
    let faults: Vec<String> = tally
        .faults
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    format!(
        "{} worlds, {} wrong; {} s of them in {} s; {} jobs, {} elements dropped before they were any, {} attempts, {} workers lost; {} statements, {} waits for a lock, {} connections over {} processes of Postgres\nfaults: {}",
        tally.worlds,
        tally.wrong.len(),
        tally.virtual_ms / 1_000,
        took.as_secs(),
        tally.jobs,
        tally.dropped,
        tally.attempts,
        tally.losses,
        tally.requests,
        tally.lock_waits,
        tally.connections.0,
        tally.connections.1,
        faults.join(", "),
    )
}

fn say(text: &str) {
    // Whoever reads may have left.
    let _ = writeln!(std::io::stdout(), "{text}");
}
