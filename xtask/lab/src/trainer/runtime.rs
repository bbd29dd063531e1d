//! What a host with Kepler GPUs runs: for which GPUs its libraries carry kernels, and a tree to
//! install.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::kernels::{self, Kernels};
use marquee_xtask::{process, report};

/// Compute capability of the K80, times ten.
const K80: u32 = 37;

/// Prints how many pieces of machine code each library has for each compute capability. False if one
/// has some, but none that a K80 runs.
#[allow(clippy::print_stdout, reason = "the result is data")]
pub(super) fn print_kernels(folder: &Path) -> Result<bool> {
    let mut found: Vec<(String, Kernels)> = Vec::new();
    for path in libraries(folder)? {
        let kernels = kernels::read(&path)?;
        if !kernels.is_empty() {
            let name = path.strip_prefix(folder).unwrap_or(&path);
            found.push((name.display().to_string(), kernels));
        }
    }
    if found.is_empty() {
        bail!("no library below {} has device code", folder.display());
    }
    println!("{}", table(&found));
    let without: Vec<&str> = found
        .iter()
        .filter(|(_, kernels)| !kernels.serves(K80))
        .map(|(name, _)| name.as_str())
        .collect();
    if without.is_empty() {
        println!("all {} run on compute capability 3.7", found.len());
    } else {
        println!(
            "without code for compute capability 3.7: {}",
            without.join(", ")
        );
    }
    Ok(without.is_empty())
}

fn table(found: &[(String, Kernels)]) -> String {
    let capabilities: BTreeSet<u32> = found
        .iter()
        .flat_map(|(_, kernels)| kernels.sass.keys().copied())
        .collect();
    let width = found.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut lines = vec![format!("{:<width$}", "machine code for")];
    for capability in &capabilities {
        let name = format!("{}.{}", capability / 10, capability % 10);
        lines[0].push_str(&format!("{name:>6}"));
    }
    for (name, kernels) in found {
        let mut line = format!("{name:<width$}");
        for capability in &capabilities {
            let count = kernels.sass.get(capability);
            let count = count.map_or("-".to_owned(), u64::to_string);
            line.push_str(&format!("{count:>6}"));
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// All shared libraries below `folder`, sorted.
fn libraries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            found.extend(libraries(&path)?);
        } else if name.contains(".so") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A second name for the same file where the file system allows it, else a copy: these are gigabytes.
fn share(file: &Path, place: &Path) -> std::io::Result<()> {
    // Removed and not written into: the place may be a second name of a file in the cache.
    if place.exists() {
        fs::remove_file(place)?;
    }
    fs::hard_link(file, place).or_else(|_| fs::copy(file, place).map(|_| ()))
}

/// Writes `bin/marquee-trainer` and `lib/marquee` below `to`: the tree that is copied to `/usr/local`
/// of a host. Starts the installed trainer once, to show that it finds its libraries.
pub(super) fn install(trainer: &Path, runtime: &Path, to: &Path) -> Result<()> {
    report::step(&format!("install: into {}", to.display()), || {
        let (bin, lib) = (to.join("bin"), to.join("lib/marquee"));
        fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
        let installed = bin.join("marquee-trainer");
        fs::copy(trainer, &installed)
            .with_context(|| format!("cannot write {}", installed.display()))?;
        for library in libraries(runtime)? {
            let place = lib.join(library.strip_prefix(runtime)?);
            fs::create_dir_all(place.parent().unwrap_or(&lib))?;
            share(&library, &place).with_context(|| format!("cannot write {}", place.display()))?;
        }
        let version = process::read(Command::new(&installed).arg("--version"))?;
        report::note(version.trim());
        report::note(&format!(
            "copy it to the hosts, for instance with: rsync -a {}/ HOST:/usr/local/",
            to.display()
        ));
        Ok(())
    })
}
