//! Which built binary loads libtorch: the trainer, and no other.
//!
//! A dependency table cannot show what a build script links; the binaries themselves can.

use std::process::Command;

use anyhow::{Result, bail};

use super::Outcome;
use crate::process;
use crate::workspace::Workspace;

const TRAINER: &str = "marquee-trainer";
const TORCH: &str = "libtorch_cpu.so";

/// Starts of library names that only the trainer may need.
const RESERVED: [&str; 5] = ["libtorch", "libc10", "libnccl", "libcud", "libpython"];

pub(super) fn check(workspace: &Workspace) -> Result<Outcome> {
    if process::on_path("readelf").is_none() {
        return Ok(Outcome::Skipped(
            "readelf is not installed (package binutils)".to_owned(),
        ));
    }
    let mut broken = Vec::new();
    for bin in workspace.packages.iter().flat_map(|package| &package.bins) {
        let file = workspace.bin_dir.join(bin);
        let dynamic = process::read(
            Command::new("readelf")
                .arg("--dynamic")
                .arg("--wide")
                .arg(&file),
        )?;
        broken.extend(violations(bin, &needed(&dynamic)));
    }
    if !broken.is_empty() {
        bail!("{}", broken.join("\n"));
    }
    Ok(Outcome::Passed)
}

fn violations(bin: &str, needed: &[&str]) -> Vec<String> {
    if bin == TRAINER {
        let gpu = needed.iter().filter(|library| {
            !library.starts_with("libtorch_cpu") && !library.starts_with("libc10.so")
        });
        // The trainer is one binary for hosts with and without GPUs: it finds libtorch's CUDA half
        // as it runs.
        let mut broken: Vec<String> = gpu
            .filter(|library| is_reserved(library))
            .map(|library| {
                format!("{bin} needs {library}, so it would not start on a host without GPUs")
            })
            .collect();
        if !needed.contains(&TORCH) {
            broken.push(format!("{bin} does not need {TORCH}; what did it link?"));
        }
        return broken;
    }
    let wrong = needed.iter().filter(|library| is_reserved(library));
    wrong
        .map(|library| format!("{bin} needs {library}; only {TRAINER} may"))
        .collect()
}

fn is_reserved(library: &str) -> bool {
    RESERVED.iter().any(|start| library.starts_with(start))
}

/// The names in `(NEEDED)  Shared library: [libc.so.6]`.
pub(super) fn needed(dynamic: &str) -> Vec<&str> {
    dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split_once('[')?.1.split_once(']'))
        .map(|(name, _)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_trainer_may_need_libtorch_and_nobody_cuda() {
        let dynamic = " 0x0000000000000001 (NEEDED)             Shared library: [libtorch_cpu.so]\n\
                        0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]\n\
                        0x000000000000001d (RUNPATH)            Library runpath: [/x]\n";
        let libraries = needed(dynamic);
        assert_eq!(libraries, ["libtorch_cpu.so", "libc.so.6"]);
        assert!(violations("marquee-trainer", &libraries).is_empty());
        assert_eq!(violations("marquee-worker", &libraries).len(), 1);
        assert_eq!(violations("marquee-trainer", &["libc.so.6"]).len(), 1);
        assert_eq!(
            violations("marquee-trainer", &["libtorch_cpu.so", "libtorch_cuda.so"]).len(),
            1
        );
    }
}
