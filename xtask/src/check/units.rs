//! The systemd units of `deploy/`: they load without a warning and stay as closed as promised.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Outcome;
use crate::process;
use crate::workspace::Workspace;

/// Each unit with the most exposure `systemd-analyze security` may find, times ten. For
/// comparison: most daemons of this kind score 92 to 96, Redis' hardened unit 12.
const UNITS: [(&str, u32); 3] = [
    ("marquee-coordinator.service", 15),
    ("marquee-worker.service", 25),
    // What it leaves open, but for three rights of root, is for the jobs that run in it.
    ("marquee-cage@.service", 23),
];
/// Units that start no program themselves, to be verified beside those that they start.
const SOCKETS: [&str; 1] = ["marquee-cage.socket"];
/// What stands for `@` in a template's name while it is verified.
const INSTANCE: &str = "@i";

/// Where the units expect the programs.
const INSTALLED_BIN: &str = "/usr/local/bin/";

pub(super) fn check(workspace: &Workspace) -> Result<Outcome> {
    if process::on_path("systemd-analyze").is_none() {
        return Ok(Outcome::Skipped(
            "systemd-analyze is not installed (package systemd)".to_owned(),
        ));
    }
    let scratch = std::env::temp_dir().join(format!("marquee-units-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let mut broken = Vec::new();
    for (name, most_exposure) in UNITS {
        let unit = copy_with_built_programs(workspace, name, &scratch)?;
        broken.extend(complaints(
            name,
            Command::new("systemd-analyze")
                .args(["verify", "--man=no"])
                .arg(&unit),
        )?);
        broken.extend(too_open(name, most_exposure, &unit)?);
    }
    // Last: their services lie beside them by now.
    for name in SOCKETS {
        let unit = scratch.join(name);
        fs::copy(workspace.root.join("deploy").join(name), &unit)?;
        broken.extend(complaints(
            name,
            Command::new("systemd-analyze")
                .args(["verify", "--man=no"])
                .arg(&unit),
        )?);
    }
    fs::remove_dir_all(&scratch)?;
    if !broken.is_empty() {
        bail!("{}", broken.join("\n"));
    }
    Ok(Outcome::Passed)
}

/// verify wants every ExecStart program to exist; here they are those cargo has built.
fn copy_with_built_programs(workspace: &Workspace, name: &str, scratch: &Path) -> Result<PathBuf> {
    let unit = workspace.root.join("deploy").join(name);
    let text =
        fs::read_to_string(&unit).with_context(|| format!("cannot read {}", unit.display()))?;
    if !text.contains(INSTALLED_BIN) {
        bail!("{name} starts nothing from {INSTALLED_BIN}");
    }
    let built = format!("{}/", workspace.bin_dir.display());
    let copy = scratch.join(name);
    fs::write(&copy, text.replace(INSTALLED_BIN, &built))?;
    Ok(copy)
}

/// A systemd that does not know a key passes over it, which is all that these need there.
fn is_of_a_newer_systemd(line: &str) -> bool {
    // Since 254: the daemon then divides its cgroup less deeply.
    let newer = ["DelegateSubgroup"];
    newer.iter().any(|key| {
        line.contains(&format!(
            "Unknown key '{key}' in section [Service], ignoring"
        ))
    })
}

/// verify exits with 0 after mere warnings, so whatever it prints about the unit counts.
fn complaints(name: &str, command: &mut Command) -> Result<Vec<String>> {
    let output = command.output()?;
    let said = process::said(&output);
    let instance = name.replace('@', INSTANCE);
    let is_about = |line: &&str| line.contains(name) || line.contains(&instance);
    let mut complaints: Vec<String> = said
        .lines()
        .filter(|line| is_about(line) && !is_of_a_newer_systemd(line))
        .map(str::to_owned)
        .collect();
    if complaints.is_empty() && !output.status.success() {
        complaints.push(format!("{} failed: {said}", process::line(command)));
    }
    Ok(complaints)
}

fn too_open(name: &str, most_exposure: u32, unit: &Path) -> Result<Option<String>> {
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(format!("--threshold={most_exposure}"))
        .arg(unit)
        .output()?;
    if output.status.success() {
        return Ok(None);
    }
    let said = process::said(&output);
    // The last line is the score in all; those before it rate one setting each.
    let verdict = said.lines().last().unwrap_or_default();
    Ok(Some(format!(
        "{name} is more exposed than {}.{}: {verdict}",
        most_exposure / 10,
        most_exposure % 10
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(script: &str) -> Vec<String> {
        complaints(
            "marquee-worker.service",
            Command::new("sh").args(["-c", script]),
        )
        .unwrap()
    }

    #[test]
    fn a_warning_about_the_unit_counts_and_those_about_others_do_not() {
        assert_eq!(
            said("echo marquee-worker.service: Unknown lvalue >&2").len(),
            1
        );
        assert_eq!(said("echo getty.service: something else"), [] as [&str; 0]);
        assert_eq!(said("true"), [] as [&str; 0]);
        // What only a newer systemd knows is passed over, by its name and by no other.
        let unknown = |key: &str| {
            said(&format!(
                "echo \"marquee-worker.service:9: Unknown key '{key}' in section [Service], ignoring\""
            ))
        };
        assert_eq!(unknown("DelegateSubgroup"), [] as [&str; 0]);
        assert_eq!(unknown("DelegateSubgrup").len(), 1);
        // One that fails without a word about the unit is not taken for well.
        let failed = said("echo cannot connect; exit 1");
        assert!(
            failed.len() == 1 && failed[0].contains("cannot connect"),
            "{failed:?}"
        );
    }

    #[test]
    fn a_unit_that_is_open_is_found_where_systemd_can_say_so() {
        if process::on_path("systemd-analyze").is_none() {
            return;
        }
        let folder = std::env::temp_dir().join(format!("marquee-open-unit-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let unit = folder.join("open.service");
        fs::write(&unit, "[Service]\nExecStart=/bin/true\n").unwrap();
        let open = too_open("open.service", 25, &unit).unwrap();
        assert!(open.is_some_and(|text| text.contains("more exposed than 2.5")));
        fs::remove_dir_all(&folder).unwrap();
    }
}
