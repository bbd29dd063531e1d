//! Virtual environments with the Python packages that Marquee is measured against.
//!
//! Invariants: a virtual environment belongs to one requirements file, by the digest of its text,
//! and counts only when its stamp is there, so that a killed set-up or a changed pin makes a new
//! one. Each requirement names one version. Nothing here is needed to build, test or run Marquee:
//! only the tasks that compare it with others ask for it, and a check whose tool comes that way.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{cache, tools};
use crate::{process, report};

const STAMP: &str = "marquee-setup.stamp";

/// The interpreter of the virtual environment for `requirements`, the text of a file of `name ==
/// version` lines; made in the user's cache folder first if it is not there.
pub fn ensure(name: &str, requirements: &str) -> Result<PathBuf> {
    require_pins(requirements)?;
    let folder = cache::folder()?.join(format!("python-{name}-{:016x}", key(requirements)));
    if is_complete(&folder, requirements) {
        return Ok(interpreter(&folder));
    }
    // One lock for all environments: two tasks at a time may want the same one.
    let _lock = cache::lock(&cache::folder()?)?;
    // The one we may have waited for has done the work.
    if !is_complete(&folder, requirements) {
        report::step(
            &format!("set-up: Python packages to compare with ({name})"),
            || install(requirements, &folder),
        )?;
    }
    Ok(interpreter(&folder))
}

/// A virtual environment holds its own path, so it is made in place: the stamp comes last.
fn install(requirements: &str, folder: &Path) -> Result<()> {
    tools::require_pip()?;
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder)?;
    report::note(&format!("installing with pip into {}", folder.display()));
    process::read(
        Command::new("python3")
            .args(["-m", "venv"])
            .arg(folder),
    )
    .context("python3 cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv")?;
    let list = folder.join("requirements.txt");
    fs::write(&list, requirements)?;
    process::read(
        Command::new(interpreter(folder))
            .args(["-m", "pip", "install", "--no-input", "--quiet"])
            .args(["--disable-pip-version-check", "--progress-bar=off"])
            .arg("--requirement")
            .arg(&list),
    )
    .with_context(|| format!("pip could not install the packages of {}", list.display()))?;
    fs::write(folder.join(STAMP), requirements)?;
    Ok(())
}

fn is_complete(folder: &Path, requirements: &str) -> bool {
    let stamp = fs::read_to_string(folder.join(STAMP));
    stamp.is_ok_and(|text| text == requirements) && process::is_executable(&interpreter(folder))
}

fn interpreter(folder: &Path) -> PathBuf {
    folder.join("bin/python")
}

/// Names a folder, protects nothing: the stamp holds the text itself.
fn key(requirements: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    requirements.hash(&mut hasher);
    hasher.finish()
}

/// A comparison with whatever version is the newest today could not be repeated tomorrow.
fn require_pins(requirements: &str) -> Result<()> {
    let loose = requirements
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .find(|line| !line.contains("=="));
    match loose {
        Some(line) => bail!(r#"requirement "{line}" names no version; write "{line}==<version>""#),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requirement_without_a_version_is_refused_by_name() {
        assert!(require_pins("# why\n\ntorch==2.11.0\n").is_ok());
        let message = require_pins("torch==2.11.0\ntimm\n")
            .unwrap_err()
            .to_string();
        assert!(message.contains(r#""timm""#), "{message}");
    }

    #[test]
    fn an_environment_counts_only_with_its_own_stamp() {
        let folder = scratch();
        assert!(!is_complete(&folder, "a==1"));
        fs::create_dir_all(folder.join("bin")).unwrap();
        std::os::unix::fs::symlink("/bin/sh", interpreter(&folder)).unwrap();
        assert!(!is_complete(&folder, "a==1"), "killed before the stamp");
        fs::write(folder.join(STAMP), "a==1").unwrap();
        assert!(is_complete(&folder, "a==1"));
        assert!(!is_complete(&folder, "a==2"));
        fs::remove_dir_all(&folder).unwrap();
    }

    fn scratch() -> PathBuf {
        std::env::temp_dir().join(format!("marquee-xtask-venv-{}", std::process::id()))
    }
}
