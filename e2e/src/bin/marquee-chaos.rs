//! `cargo xtask chaos`: a cluster of real processes under faults; see `marquee_e2e::chaos`.

#![allow(clippy::print_stdout, reason = "a person runs it and reads its table")]

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use marquee_e2e::chaos::{self, Options};

fn main() -> Result<ExitCode> {
    let (options, json) = parse(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(chaos::run(&options, |line| eprintln!("{line}")))?;
    let text = match json {
        true => format!("{}\n", outcome.json()),
        false => outcome.text(),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(if outcome.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<(Options, bool)> {
    let mut options = Options::default();
    let mut json = false;
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word:?} needs a value"))
        };
        match word.as_str() {
            "--minutes" => {
                let minutes: f64 = value()?.parse().context("--minutes takes a number")?;
                options.time = Duration::try_from_secs_f64(minutes * 60.0).context("--minutes")?;
            }
            "--seed" => options.seed = value()?.parse().context("--seed takes a whole number")?,
            "--workers" => options.workers = count(&value()?, "--workers", 2)?,
            "--coordinators" => options.coordinators = count(&value()?, "--coordinators", 1)?,
            "--training" => options.training = true,
            "--keep" => options.keep = true,
            "--json" => json = true,
            _ => bail!("there is no option {word:?}; \"cargo xtask chaos --help\" lists them"),
        }
    }
    Ok((options, json))
}

fn count(text: &str, option: &str, least: usize) -> Result<usize> {
    let number: usize = text
        .parse()
        .with_context(|| format!("{option} takes a whole number"))?;
    if !(least..=9).contains(&number) {
        bail!("{option} {number}: give {least} to 9");
    }
    Ok(number)
}
