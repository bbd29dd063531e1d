//! The trainer's flavour for old GPUs (`trainer/flavours/kepler`) keeps up with the current one.
//!
//! Building it takes a libtorch of 620 MB and minutes, which `cargo xtask trainer --flavour kepler`
//! does. Here is what can be said without: the two manifests differ where they have to, the lockfiles
//! agree on every package that both hold, and the sources fit the older tch.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::Outcome;
use crate::flavour;
use crate::workspace::Workspace;

/// What the flavours are there to differ in, and what tch brings with it.
const DIFFER: [&str; 3] = ["tch", "torch-sys", "ndarray"];

pub(super) fn check(workspace: &Workspace) -> Result<Outcome> {
    let current = fs::read_to_string(workspace.root.join("Cargo.lock"))?;
    let path = workspace.root.join(flavour::MANIFEST);
    let other = fs::read_to_string(path.with_file_name("Cargo.lock"))?;
    let mut broken = differing_dependencies(workspace, &path)?;
    broken.extend(differing_versions(&current, &other));
    if !broken.is_empty() {
        bail!("{}", broken.join("\n"));
    }
    flavour::check_sources(workspace)?;
    Ok(Outcome::Passed)
}

/// Dependencies, with their features, that one manifest has and the other has not.
fn differing_dependencies(workspace: &Workspace, other: &Path) -> Result<Vec<String>> {
    let current = workspace
        .requirements(
            &workspace.root.join("trainer/Cargo.toml"),
            "marquee-trainer",
        )
        .context("the trainer's manifest")?;
    let other = workspace
        .requirements(other, "marquee-trainer-kepler")
        .context("the manifest of its flavour for Kepler GPUs")?;
    Ok(compare(&current, &other))
}

fn compare(current: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> Vec<String> {
    let names: BTreeSet<&String> = current.keys().chain(other.keys()).collect();
    names
        .into_iter()
        .filter(|name| !DIFFER.contains(&name.as_str()) && current.get(*name) != other.get(*name))
        .map(|name| {
            let says = |table: &BTreeMap<String, String>| {
                table.get(name).cloned().unwrap_or("nothing".to_owned())
            };
            format!(
                "{name}: trainer/Cargo.toml says {}, {} says {}",
                says(current),
                flavour::MANIFEST,
                says(other)
            )
        })
        .collect()
}

/// Packages that both lockfiles hold, in versions that have none in common.
fn differing_versions(current: &str, other: &str) -> Vec<String> {
    let (current, other) = (locked(current), locked(other));
    other
        .iter()
        .filter(|(name, _)| !DIFFER.contains(name))
        .filter_map(|(name, versions)| {
            let known = current.get(name)?;
            // None in common, and not "not the same": either may hold a second version for a crate
            // that the other has not.
            known.is_disjoint(versions).then(|| {
                format!(
                    "the lockfiles hold {name} {} and {}; \"cargo xtask trainer --flavour kepler --lock\" \
                     takes the workspace's",
                    list(known),
                    list(versions)
                )
            })
        })
        .collect()
}

fn list(versions: &BTreeSet<&str>) -> String {
    versions.iter().copied().collect::<Vec<_>>().join(", ")
}

/// Versions by name, of a lockfile's lines `name = ".."` and `version = ".."`.
fn locked(text: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut packages: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut name = "";
    for line in text.lines() {
        let value = |key: &str| {
            line.strip_prefix(key)?
                .strip_prefix(" = \"")?
                .strip_suffix('"')
        };
        if let Some(found) = value("name") {
            name = found;
        } else if let Some(version) = value("version") {
            packages.entry(name).or_default().insert(version);
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, says)| ((*name).to_owned(), (*says).to_owned()))
            .collect()
    }

    #[test]
    fn a_dependency_of_one_manifest_alone_is_named_and_tch_may_differ() {
        let current = table(&[("tch", "=0.24.0"), ("nix", "^0.31"), ("new", "^1")]);
        let other = table(&[("tch", "=0.13.0"), ("nix", "^0.30")]);
        let broken = compare(&current, &other);
        assert_eq!(broken.len(), 2, "{broken:?}");
        assert!(broken[0].contains("new") && broken[0].contains("says nothing"));
        assert!(broken[1].contains("^0.31") && broken[1].contains("^0.30"));
    }

    #[test]
    fn lockfiles_may_hold_more_but_not_other_versions() {
        let package =
            |name, version| format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n");
        let current = package("a", "1.0.0") + &package("tch", "0.24.0") + &package("zip", "9.0.0");
        let other = package("a", "1.0.1") + &package("tch", "0.13.0") + &package("zip", "0.6.6");
        let both = other.clone() + &package("zip", "9.0.0");
        assert_eq!(differing_versions(&current, &both).len(), 1);
        let broken = differing_versions(&current, &other);
        assert!(broken[0].contains("a 1.0.0 and 1.0.1"), "{broken:?}");
        assert_eq!(broken.len(), 2);
    }
}
