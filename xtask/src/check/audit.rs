//! Every lockfile, held against the advisories of RustSec (cargo-audit).
//!
//! Their database is a repository and in no package registry. Where it cannot be fetched, and no copy of it is named,
//! the check is skipped by name.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Outcome;
use crate::process;
use crate::report;
use crate::setup::python;
use crate::workspace::Workspace;

const REQUIREMENTS: &str = include_str!("../../python/audit.txt");
/// Names a folder with a copy of the database (<https://github.com/rustsec/advisory-db>), for where it cannot be fetched.
const DATABASE: &str = "MARQUEE_ADVISORY_DB";
/// Of the workspace, and of the trainer for old GPUs.
const LOCKFILES: [&str; 2] = ["Cargo.lock", "trainer/flavours/kepler/Cargo.lock"];
/// Advisories that fail the check although they name no vulnerability: what is unsound may become one. What nobody
/// maintains any more is said, and fails nothing: it is nobody's fault of today.
const DENIED: &str = "unsound";

pub(super) fn check(workspace: &Workspace) -> Result<Outcome> {
    let program = match process::on_path("cargo-audit") {
        Some(program) => program,
        None => match python::ensure("audit", REQUIREMENTS) {
            Ok(interpreter) => interpreter.with_file_name("cargo-audit"),
            Err(error) => {
                return Ok(Outcome::Skipped(format!(
                    "cargo-audit is not installed (\"cargo install cargo-audit\"), and pip cannot bring it: {error:#}"
                )));
            }
        },
    };
    let copy = std::env::var_os(DATABASE)
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from);
    let mut found = Vec::new();
    for lockfile in LOCKFILES {
        let mut command = Command::new(&program);
        command
            .current_dir(&workspace.root)
            .args(["audit", "--json", "--file", lockfile])
            .stdin(Stdio::null());
        if let Some(copy) = &copy {
            command.args(["--no-fetch", "--stale", "--db"]).arg(copy);
        }
        let output = command
            .output()
            .with_context(|| format!("cannot start {}", process::line(&command)))?;
        // What it found stands on stdout, and ends with a failure too; without a database nothing does.
        let Ok(report) = serde_json::from_slice::<Value>(&output.stdout) else {
            let said = process::said(&output);
            if copy.is_some() {
                bail!("cargo-audit cannot read {DATABASE}: {said}");
            }
            let why = said.lines().next().unwrap_or("it said nothing").to_owned();
            return Ok(Outcome::Skipped(format!(
                "the advisory database cannot be fetched from here, and {DATABASE} names no copy of it: {why}"
            )));
        };
        let (bad, noted) = judge(&report);
        for line in noted {
            report::note(&format!("{lockfile}: {line}"));
        }
        found.extend(bad.into_iter().map(|line| format!("{lockfile}: {line}")));
    }
    if !found.is_empty() {
        bail!("{}", found.join("\n"));
    }
    Ok(Outcome::Passed)
}

/// The lines that fail the check, and those that are only said.
fn judge(report: &Value) -> (Vec<String>, Vec<String>) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut bad: Vec<String> = list(&report["vulnerabilities"]["list"])
        .iter()
        .map(line)
        .collect();
    let mut noted = Vec::new();
    for (kind, all) in report["warnings"].as_object().into_iter().flatten() {
        let lines = list(all).into_iter();
        let lines = lines.map(|one| format!("{kind}: {}", line(&one)));
        if kind == DENIED {
            bad.extend(lines);
        } else {
            noted.extend(lines);
        }
    }
    (bad, noted)
}

/// Of an advisory: the crate, what is wrong, and the version that mends it.
fn line(found: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let (package, advisory) = (&found["package"], &found["advisory"]);
    let mended = found["versions"]["patched"].as_array();
    let mended: Vec<String> = mended.into_iter().flatten().map(word).collect();
    let cure = if mended.is_empty() {
        "no version mends it".to_owned()
    } else {
        format!("mended in {}", mended.join(", "))
    };
    format!(
        "{} {}: {} {} ({cure})",
        word(&package["name"]),
        word(&package["version"]),
        word(&advisory["id"]),
        word(&advisory["title"]),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_vulnerable_or_unsound_fails_and_what_is_old_is_said() {
        let one = |id: &str| {
            json!({
                "package": { "name": "time", "version": "0.1.40" },
                "advisory": { "id": id, "title": "a fault" },
                "versions": { "patched": [">=0.2.23"] },
            })
        };
        let report = json!({
            "vulnerabilities": { "found": true, "list": [one("RUSTSEC-1")] },
            "warnings": { "unsound": [one("RUSTSEC-2")], "unmaintained": [one("RUSTSEC-3")] },
        });
        let (bad, noted) = judge(&report);
        assert_eq!(bad.len(), 2);
        assert_eq!(
            bad[0],
            "time 0.1.40: RUSTSEC-1 a fault (mended in >=0.2.23)"
        );
        assert!(bad[1].starts_with("unsound: "), "{bad:?}");
        assert!(
            noted.len() == 1 && noted[0].contains("RUSTSEC-3"),
            "{noted:?}"
        );
        assert_eq!(judge(&json!({})), (Vec::new(), Vec::new()));
    }

    #[test]
    fn each_lockfile_is_there() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for lockfile in LOCKFILES {
            assert!(root.join(lockfile).is_file(), "{lockfile}");
        }
    }
}
