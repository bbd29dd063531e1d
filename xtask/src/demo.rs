//! `cargo xtask demo`: say what will happen, set up, build, and become `marquee demo`.
//!
//! What the demo does and how it cleans up is the CLI's: once the binaries are there this process is
//! replaced by it, so that a Ctrl-C or a kill reaches the CLI and nobody else, and its exit code is ours.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::setup::{self, Setup};
use crate::workspace::Workspace;
use crate::{process, report, web};

/// The options of `demo`, handed on to `marquee demo`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub keep: bool,
    pub json: bool,
    pub films: Option<u32>,
    pub data_dir: Option<String>,
    /// Words for the CLI that mean nothing to this crate.
    pub more: Vec<String>,
}

/// The packages whose binaries the demo runs.
const PACKAGES: [&str; 6] = [
    "marquee-coordinator",
    "marquee-worker",
    "marquee-datasets",
    "marquee-catalogue",
    "marquee-trainer",
    "marquee-cli",
];

pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let start = Instant::now();
    // Before the first byte is fetched: some 500 MB and a private Postgres should surprise nobody.
    eprint!("{}", plan(&workspace.bin_dir, &setup::plan(), options));
    let setup = Setup::ensure()?;
    web::build_if_possible(workspace);
    report::step(
        "build: coordinator, worker, prep, catalogue, trainer, CLI",
        || build(workspace, &setup),
    )?;
    let mut command = demo_command(&workspace.bin_dir, options);
    setup.apply(&mut command);
    eprintln!(
        "==> {} (ready after {})",
        process::line(&command),
        report::duration(start.elapsed())
    );
    // Returns only if it could not be started.
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", process::line(&command)))
}

/// What is about to happen, for a person to read first; `set_up` are the sentences of the set-up.
fn plan(bin_dir: &Path, set_up: &[String], options: &Options) -> String {
    let films = options
        .films
        .map_or("3,000".to_owned(), |films| films.to_string());
    let mut lines: Vec<String> = set_up.to_vec();
    lines.push(format!(
        "build six binaries into {} (the first time some minutes, later seconds)",
        bin_dir.display()
    ));
    lines.push(format!(
        "run them: a private Postgres, a coordinator, two workers and a film API with {films} generated posters\n    \
         (under 4 minutes on 2 cores with 3,000 films); nothing listens outside this machine"
    ));
    if options.keep {
        lines.push("leave it all running at the end (--keep)".to_owned());
    }
    let lines: String = lines.iter().map(|line| format!("  - {line}\n")).collect();
    format!(
        "Marquee's demo: from posters behind an API to a trained, evaluated model, all on this machine.\n\
         It will\n{lines}"
    )
}

/// Without `--workspace`, so that a demo does not wait for crates only tests need.
fn build(workspace: &Workspace, setup: &Setup) -> Result<()> {
    let mut command = workspace.cargo("build");
    command.arg("--bins");
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    process::run(setup.apply(&mut command))
}

fn demo_command(bin_dir: &Path, options: &Options) -> Command {
    let mut command = Command::new(bin_dir.join("marquee"));
    command.arg("demo");
    if options.keep {
        command.arg("--keep");
    }
    if options.json {
        command.arg("--json");
    }
    if let Some(films) = options.films {
        command.arg("--films").arg(films.to_string());
    }
    if let Some(folder) = &options.data_dir {
        command.arg("--data-dir").arg(folder);
    }
    command.args(&options.more);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_names_what_is_fetched_built_run_and_kept() {
        let set_up = ["fetch a library, 500 MB".to_owned()];
        let options = Options {
            keep: true,
            films: Some(40),
            ..Options::default()
        };
        let text = plan(Path::new("/t/debug"), &set_up, &options);
        for part in [
            "- fetch a library, 500 MB",
            "/t/debug",
            "40 generated posters",
            "--keep",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = plan(Path::new("/t/debug"), &[], &Options::default());
        assert!(
            text.contains("3,000 generated posters") && !text.contains("--keep"),
            "{text}"
        );
    }

    #[test]
    fn the_cli_gets_each_option_and_what_follows_the_dashes_last() {
        let options = Options {
            keep: true,
            json: true,
            films: Some(40),
            data_dir: Some("/d".into()),
            more: vec!["--workers".into(), "3".into()],
        };
        let command = demo_command(Path::new("/t/debug"), &options);
        assert_eq!(
            crate::process::line(&command),
            "/t/debug/marquee demo --keep --json --films 40 --data-dir /d --workers 3"
        );
    }
}
