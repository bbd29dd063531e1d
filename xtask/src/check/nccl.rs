//! `libmarquee_nccl.so`: it builds from the pinned headers, shows the trainer's interface and nothing
//! else, and asks of others only what is there when the trainer loads it.
//!
//! Loading it drags in libtorch's CUDA half and 3 GB of libraries. Where a virtual environment with
//! them is in the cache already, for a comparison with PyTorch, the trainer loads it for real.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Outcome, linkage};
use crate::setup::Setup;
use crate::workspace::Workspace;
use crate::{nccl_shim, process, report, setup};

/// What it shows.
const EXPORTED: [&str; 4] = [
    "marquee_nccl_backend",
    "marquee_nccl_interface",
    "marquee_nccl_last_error",
    "marquee_nccl_versions",
];
/// What it takes from libtorch's CUDA half and from NCCL, as far as the names go.
const FROM_CUDA: [&str; 3] = [
    "_ZN4c10d16ProcessGroupNCCL7OptionsC1Eb",
    "_ZN4c10d16ProcessGroupNCCLC1E",
    "ncclGetVersion",
];

pub(super) fn check(workspace: &Workspace, setup: &Setup) -> Result<Outcome> {
    let shim = nccl_shim::build(workspace)?;
    if process::on_path("nm").is_none() || process::on_path("readelf").is_none() {
        return Ok(Outcome::Skipped(
            "nm or readelf is not installed (package binutils)".to_owned(),
        ));
    }
    let dynamic = process::read(
        Command::new("readelf")
            .args(["--dynamic", "--wide"])
            .arg(&shim),
    )?;
    let needed = linkage::needed(&dynamic);
    if !needed.contains(&"libtorch_cpu.so") || needed.iter().any(|name| name.contains("cuda")) {
        bail!("{} needs {needed:?}", shim.display());
    }
    // The file is carried to other hosts, where such a path leads nowhere, or to another libtorch.
    if dynamic.contains("(RUNPATH)") || dynamic.contains("(RPATH)") {
        bail!("{} says where libtorch is on this machine", shim.display());
    }
    let symbols = symbols(&shim)?;
    let shown: BTreeSet<&str> = symbols.strong().collect();
    if shown != BTreeSet::from(EXPORTED) {
        bail!("{} shows {shown:?} instead of {EXPORTED:?}", shim.display());
    }
    let mut known = BTreeSet::new();
    for library in ["libtorch_cpu.so", "libc10.so"] {
        known.extend(self::symbols(&setup.libtorch.join("lib").join(library))?.defined);
    }
    let missing = unknown(&symbols.undefined, &known);
    if !missing.is_empty() {
        bail!("{} needs {missing:?}, which nothing has", shim.display());
    }
    match cuda_half()? {
        Some(lib) => load(workspace, &shim, &lib),
        None => Ok(Outcome::Skipped(
            "loading it: no libtorch_cuda.so in the cache; the rest passed (\"cargo xtask zoo-check\" \
             fetches one)"
                .to_owned(),
        )),
    }
}

/// Symbols that neither libtorch's CPU half nor the C++ and C libraries have, and that are not those
/// expected of its CUDA half.
fn unknown(undefined: &BTreeSet<String>, known: &BTreeSet<String>) -> Vec<String> {
    let of_cuda = |name: &str| FROM_CUDA.iter().any(|start| name.starts_with(start));
    // Names with a version are of the C++ and C libraries.
    undefined
        .iter()
        .filter(|name| !name.contains('@') && !known.contains(*name) && !of_cuda(name))
        .cloned()
        .collect()
}

#[derive(Debug, Default)]
struct Symbols {
    defined: BTreeSet<String>,
    weak: BTreeSet<String>,
    undefined: BTreeSet<String>,
}

impl Symbols {
    /// Functions and data of its own, without what each object has a copy of.
    fn strong(&self) -> impl Iterator<Item = &str> {
        self.defined.difference(&self.weak).map(String::as_str)
    }
}

fn symbols(library: &Path) -> Result<Symbols> {
    let text = process::read(Command::new("nm").arg("--dynamic").arg(library))?;
    Ok(parse(&text))
}

/// Lines such as `0000000000002359 T name` and `                 U name@GLIBC_2.14`.
fn parse(text: &str) -> Symbols {
    let mut symbols = Symbols::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().rev();
        let (Some(name), Some(kind)) = (words.next(), words.next()) else {
            continue;
        };
        match kind {
            "U" => {
                symbols.undefined.insert(name.to_owned());
            }
            // Weak and not there: the loader is content without.
            "w" | "v" => {}
            _ => {
                if ["W", "V", "u"].contains(&kind) {
                    symbols.weak.insert(name.to_owned());
                }
                symbols.defined.insert(name.to_owned());
            }
        }
    }
    symbols
}

/// A folder with `libtorch_cuda.so` in a virtual environment of the cache.
fn cuda_half() -> Result<Option<PathBuf>> {
    let cache = setup::cache_folder()?;
    let Ok(entries) = std::fs::read_dir(&cache) else {
        return Ok(None);
    };
    for entry in entries.flatten() {
        let Ok(versions) = std::fs::read_dir(entry.path().join("lib")) else {
            continue;
        };
        for version in versions.flatten() {
            let lib = version.path().join("site-packages/torch/lib");
            if lib.join("libtorch_cuda.so").exists() {
                return Ok(Some(lib));
            }
        }
    }
    Ok(None)
}

/// Lets the trainer load all of it. Without a GPU it must get as far as the driver, in order.
fn load(workspace: &Workspace, shim: &Path, lib: &Path) -> Result<Outcome> {
    let output = Command::new(workspace.bin_dir.join("marquee-trainer"))
        .args(["nccl-check", "--json"])
        .env("LD_LIBRARY_PATH", lib)
        .env("MARQUEE_NCCL_SHIM", shim)
        .output()
        .context("cannot start marquee-trainer")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(text.trim())
        .with_context(|| format!("nccl-check printed {text:?}"))?;
    report::note(&format!("nccl-check: {}", report["reason"]));
    let (stage, is_usable) = (report["stage"].as_str(), report["usable"] == true);
    if is_usable || stage == Some("driver") && report["nccl"].is_string() {
        Ok(Outcome::Passed)
    } else {
        bail!(
            "nccl-check got no further than {stage:?}: {}",
            report["reason"]
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_sorted_by_who_has_them() {
        let symbols = parse(
            "0000000000002359 T marquee_nccl_backend\n000000000000343e W _ZNSt6vectorIiE\n\
             \x20                U memcpy@GLIBC_2.14\n                 U _ZN3c105ErrorE\n\
             \x20                U _ZN3c104cuda5extraEv\n                 w __gmon_start__\n",
        );
        assert_eq!(
            symbols.strong().collect::<Vec<_>>(),
            ["marquee_nccl_backend"]
        );
        let known = BTreeSet::from(["_ZN3c105ErrorE".to_owned()]);
        assert_eq!(
            unknown(&symbols.undefined, &known),
            ["_ZN3c104cuda5extraEv"]
        );
    }
}
