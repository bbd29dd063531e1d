//! `cargo xtask sim`: builds the simulation's program and becomes it, so that a Ctrl-C reaches it and nobody else,
//! and its exit code is ours.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::process;
use crate::setup::{self, Setup};
use crate::workspace::Workspace;

/// Package and program.
const SIM: &str = "marquee-sim";
/// Worlds in a run of the tests.
pub const SEEDS_IN_TESTS: u64 = 200;
/// From so many worlds on a build that is optimised pays for itself: it takes thirteen minutes of a core, and saves more
/// than a second of each world.
const OPTIMISED_FROM: u64 = 1_000;

/// What to play.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub seeds: Option<u64>,
    pub first: Option<u64>,
    pub minutes: Option<u64>,
    pub replay: Option<u64>,
    pub planted: Option<String>,
}

/// Plays worlds.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let postgres = setup::postgres_bin()?;
    let mut command = command(workspace, options);
    command.env("MARQUEE_POSTGRES_BIN", postgres);
    // Returns only if it could not be started.
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", process::line(&command)))
}

/// What that step is called.
pub fn title_of_test() -> String {
    format!("test: {SEEDS_IN_TESTS} simulated worlds")
}

/// A few worlds as a step of the tests, with the program that they have built.
pub fn test(workspace: &Workspace, setup: &Setup) -> Result<()> {
    let mut command = Command::new(workspace.bin_dir.join(SIM));
    command.args(["seeds", "--seeds", &SEEDS_IN_TESTS.to_string()]);
    process::run(setup.apply(&mut command))
}

fn command(workspace: &Workspace, options: &Options) -> Command {
    let mut command = workspace.cargo("run");
    command.args(["--quiet", "--package", SIM]);
    // A profile of its own (Cargo.toml), beside the dev profile's files: neither makes the other
    // compile anew.
    if options.seeds.is_some_and(|seeds| seeds >= OPTIMISED_FROM) {
        command.args(["--profile", "sim"]);
    }
    if options.planted.is_some() {
        // Of this program alone: no daemon is built with it.
        command.args(["--features", "planted"]);
    }
    command.arg("--");
    match options.replay {
        Some(seed) => command.args(["replay", &seed.to_string()]),
        None => command.arg("seeds"),
    };
    let numbers = [
        ("--seeds", options.seeds),
        ("--first", options.first),
        ("--minutes", options.minutes),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            command.args([name, &number.to_string()]);
        }
    }
    if let Some(name) = &options.planted {
        command.args(["--planted", name]);
    }
    command
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn words(options: &Options) -> Vec<String> {
        let workspace = Workspace {
            root: PathBuf::from("/checkout"),
            bin_dir: PathBuf::from("/checkout/target/debug"),
            packages: Vec::new(),
        };
        let command = command(&workspace, options);
        let args = command.get_args();
        args.map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn bugs_are_planted_only_when_they_are_asked_for() {
        let clean = words(&Options {
            seeds: Some(5),
            ..Options::default()
        });
        assert!(!clean.contains(&"--features".to_owned()), "{clean:?}");
        assert!(clean.ends_with(&["seeds".into(), "--seeds".into(), "5".into()]));
        assert!(!clean.contains(&"--profile".to_owned()), "{clean:?}");
        let many = words(&Options {
            seeds: Some(10_000),
            ..Options::default()
        });
        assert!(many.contains(&"--profile".to_owned()), "{many:?}");
        let planted = words(&Options {
            planted: Some("all".into()),
            ..Options::default()
        });
        assert!(planted.contains(&"planted".to_owned()), "{planted:?}");
        assert!(planted.ends_with(&["--planted".into(), "all".into()]));
        let replay = words(&Options {
            replay: Some(17),
            ..Options::default()
        });
        assert!(
            replay.ends_with(&["replay".into(), "17".into()]),
            "{replay:?}"
        );
    }
}
