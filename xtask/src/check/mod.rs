//! `cargo xtask check`: everything that can be said about the code without running it.
//!
//! Invariant: every check runs even if an earlier one fails; the list at the end names each as
//! passed, failed or skipped. A check is skipped only for want of its tool, and says which.

mod architecture;
mod audit;
mod circles;
mod deny;
mod flavours;
pub mod licences;
mod linkage;
mod nccl;
mod sources;
mod units;

use std::cell::Cell;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Result;

use crate::setup::Setup;
use crate::workspace::{WITH_ALL, Workspace};
use crate::{process, report, sqlx, test, web};

/// What became of a check that did not fail.
#[derive(Debug)]
enum Outcome {
    Passed,
    /// Names the tool that is missing and what installs it.
    Skipped(String),
}

/// A check: its name in the list and what it does.
type Check<'a> = (&'static str, &'a dyn Fn() -> Result<Outcome>);

/// The names of all checks, in the order in which they run: who breaks a rule should not wait for a build
/// to hear of it.
pub const NAMES: [&str; 15] = [
    "fmt",
    "architecture",
    "sources",
    "circles",
    "licences",
    "deny",
    "audit",
    "clippy",
    "flavours",
    "doc",
    "sqlx",
    "linkage",
    "nccl",
    "units",
    "web",
];

/// Runs the checks of these names; none: all.
pub fn run(workspace: &Workspace, names: &[String]) -> Result<ExitCode> {
    let setup = Setup::ensure()?;
    let is_wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    // What clippy learned of the store's queries in passing.
    let asked = Cell::new(Asked::Nothing);
    let checks: [&dyn Fn() -> Result<Outcome>; NAMES.len()] = [
        &|| fmt(workspace),
        &|| architecture::check(workspace),
        &|| sources::check(workspace),
        &|| circles::check(workspace),
        &|| licences::check(workspace),
        &|| deny::check(workspace),
        &|| audit::check(workspace),
        &|| match is_wanted("sqlx") {
            true => clippy_and_queries(workspace, &setup, &asked),
            false => clippy(workspace, &setup),
        },
        &|| flavours::check(workspace),
        &|| doc(workspace, &setup),
        &|| queries(workspace, &setup, asked.take()),
        &|| {
            test::build(workspace, &setup)?;
            linkage::check(workspace)
        },
        &|| nccl::check(workspace, &setup),
        &|| units::check(workspace),
        &|| match web::check(workspace)? {
            None => Ok(Outcome::Passed),
            Some(why) => Ok(Outcome::Skipped(why)),
        },
    ];
    let start = Instant::now();
    let wanted = NAMES
        .into_iter()
        .zip(checks)
        .filter(|(name, _)| is_wanted(name));
    // All of them, also after a failure: whoever waits for clippy wants to hear of everything at
    // once.
    let lines: Vec<String> = wanted.map(|check| run_one(&check)).collect();
    let failed = lines
        .iter()
        .filter(|line| line.starts_with("FAILED"))
        .count();
    eprintln!(
        "\ncheck: {} in {}",
        verdict(failed),
        report::duration(start.elapsed())
    );
    for line in lines {
        eprintln!("  {line}");
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs a check, prints why it failed, and returns its line for the list.
fn run_one((name, check): &Check<'_>) -> String {
    eprintln!("==> check: {name}");
    let start = Instant::now();
    let outcome = check();
    let took = report::duration(start.elapsed());
    match outcome {
        Ok(Outcome::Passed) => format!("passed   {name} ({took})"),
        Ok(Outcome::Skipped(why)) => format!("SKIPPED  {name}: {why}"),
        Err(error) => {
            eprintln!("error: {name}: {error:#}");
            format!("FAILED   {name} ({took})")
        }
    }
}

fn verdict(failed: usize) -> String {
    match failed {
        0 => "nothing failed".to_owned(),
        1 => "1 check failed".to_owned(),
        _ => format!("{failed} checks failed"),
    }
}

fn fmt(workspace: &Workspace) -> Result<Outcome> {
    process::run(workspace.cargo("fmt").args(["--all", "--check"]))?;
    Ok(Outcome::Passed)
}

fn clippy(workspace: &Workspace, setup: &Setup) -> Result<Outcome> {
    process::run(setup.apply(&mut clippy_command(workspace, None)))?;
    Ok(Outcome::Passed)
}

fn clippy_command(workspace: &Workspace, messages: Option<&str>) -> Command {
    let mut command = workspace.cargo("clippy");
    command
        .args(["--workspace", "--all-targets"])
        .args(WITH_ALL)
        .args(messages)
        .args(["--", "--deny", "warnings"]);
    command
}

/// What a compilation said about the store's queries.
#[derive(Debug, Default)]
enum Asked {
    /// Nothing: none was made, it failed, or cargo found an earlier one good.
    #[default]
    Nothing,
    /// Here is every query of the store.
    All(sqlx::Live),
}

/// Clippy, with the queries checked against a live database while it reads the store. To compile the store for the
/// check "sqlx" alone takes 123 crates once more, with the features that they have for the store alone.
fn clippy_and_queries(
    workspace: &Workspace,
    setup: &Setup,
    asked: &Cell<Asked>,
) -> Result<Outcome> {
    // Without a database clippy still has its say: what is wrong with the database, the check "sqlx" says.
    let Ok(live) = sqlx::Live::start(workspace, setup) else {
        return clippy(workspace, setup);
    };
    let mut command = clippy_command(workspace, Some(sqlx::MESSAGES));
    let stale = live.compile(workspace, setup.apply(&mut command))?;
    if stale.is_empty() {
        asked.set(Asked::All(live));
    }
    Ok(Outcome::Passed)
}

fn queries(workspace: &Workspace, setup: &Setup, asked: Asked) -> Result<Outcome> {
    match asked {
        Asked::All(live) => live.verify(workspace)?,
        Asked::Nothing => sqlx::verify(workspace, setup)?,
    }
    Ok(Outcome::Passed)
}

fn doc(workspace: &Workspace, setup: &Setup) -> Result<Outcome> {
    let mut command = workspace.cargo("doc");
    command
        .args(["--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "--deny warnings");
    process::run(setup.apply(&mut command))?;
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_is_listed_as_what_became_of_it() {
        let line = |outcome: fn() -> Result<Outcome>| run_one(&("units", &outcome));
        assert!(line(|| Ok(Outcome::Passed)).starts_with("passed   units"));
        let skipped = line(|| Ok(Outcome::Skipped("systemd is not installed".to_owned())));
        assert_eq!(skipped, "SKIPPED  units: systemd is not installed");
        let failed = line(|| anyhow::bail!("a unit is open"));
        assert!(failed.starts_with("FAILED   units"), "{failed}");
        assert_eq!(
            [0, 1, 2].map(verdict),
            ["nothing failed", "1 check failed", "2 checks failed"]
        );
    }

    #[test]
    fn the_help_names_no_check_that_there_is_not() {
        let names: std::collections::BTreeSet<&str> = NAMES.into_iter().collect();
        assert_eq!(names.len(), NAMES.len(), "one name for two checks");
    }
}
