//! What is linked into our programs: that each crate comes from crates.io, under a licence that lets us pass it on,
//! and that `NOTICE` names it. `cargo xtask notice` writes that file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Outcome;
use crate::process;
use crate::workspace::Workspace;

/// Licences under which a part may be passed on with an Apache-2.0 program, by their SPDX names.
pub(super) const ALLOWED: [&str; 18] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "IJG",
    "ISC",
    "MIT",
    "MIT-0",
    "OFL-1.1",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "WTFPL",
    "Zlib",
];
/// The one registry that parts are taken from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
const FILE: &str = "NOTICE";
const HEAD: &str = "\
Marquee
Licensed under the Apache License, Version 2.0; see LICENSE.

Its programs are linked with the following crates from crates.io, each under the licence that stands beside it; their
sources, authors and licence texts are at https://crates.io/crates/<name>. The trainer also links libtorch (PyTorch,
BSD-3-Clause, https://github.com/pytorch/pytorch). Nothing else is passed on with it: PostgreSQL, CUDA and NCCL are
those of the host. Behind the crates stand the packages from npm that are part of the web page; theirs are at
https://www.npmjs.com/package/<name>.

This file is written by `cargo xtask notice`.

";

/// A crate that is linked into a program of ours.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Linked {
    name: String,
    version: String,
    licence: String,
    source: String,
}

pub(super) fn check(workspace: &Workspace) -> Result<Outcome> {
    let linked = linked(workspace)?;
    let mut wrong = Vec::new();
    for part in &linked {
        let Linked {
            name,
            version,
            licence,
            source,
        } = part;
        if source != REGISTRY {
            wrong.push(format!(
                "{name} {version} comes from {source}, not from crates.io"
            ));
        }
        if !is_allowed(licence) {
            wrong.push(format!(
                "{name} {version} is under {licence:?}, which is none of {ALLOWED:?}"
            ));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    let path = workspace.root.join(FILE);
    let found = fs::read_to_string(&path).unwrap_or_default();
    let page = of_page(workspace)?;
    for (name, licence) in &page {
        if !is_allowed(licence) {
            bail!("{name} of the web page is under {licence:?}, which is none of {ALLOWED:?}");
        }
    }
    if found != notice(&linked, &page) {
        bail!("{FILE} does not name what is linked; run \"cargo xtask notice\"");
    }
    Ok(Outcome::Passed)
}

/// Writes `NOTICE`.
pub fn write(workspace: &Workspace) -> Result<()> {
    let path = workspace.root.join(FILE);
    let text = notice(&linked(workspace)?, &of_page(workspace)?);
    fs::write(&path, text).with_context(|| format!("cannot write {path:?}"))
}

fn notice(linked: &[Linked], page: &[(String, String)]) -> String {
    let mut text = HEAD.to_owned();
    for part in linked {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {}: {}", part.name, part.version, part.licence);
    }
    text.push('\n');
    for (name, licence) in page {
        let _ = writeln!(text, "{name}: {licence}");
    }
    text
}

/// The packages that are part of the web page, with their licences, as its lockfile says.
fn of_page(workspace: &Workspace) -> Result<Vec<(String, String)>> {
    let path = workspace.root.join("web/package-lock.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path:?}"))?;
    let lockfile: Value = serde_json::from_str(&text).with_context(|| format!("{path:?}"))?;
    let packages = lockfile["packages"].as_object();
    let packages = packages.with_context(|| format!("{path:?} has no packages"))?;
    let shipped = packages.iter().filter_map(|(path, package)| {
        let name = path.strip_prefix("node_modules/")?;
        // What builds and tests the page is no part of it.
        let is_tool = package["dev"] == true || package["devOptional"] == true;
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        (!is_tool).then(|| {
            (
                format!("{name} {}", text("version")),
                text("license").to_owned(),
            )
        })
    });
    Ok(shipped.collect())
}

fn linked(workspace: &Workspace) -> Result<Vec<Linked>> {
    let mut command = workspace.cargo("metadata");
    // The lockfile also names what other systems need; it is in nothing that is passed on.
    command.args(["--format-version", "1", "--locked", "--filter-platform"]);
    command.arg("x86_64-unknown-linux-gnu");
    let text = process::read(&mut command)?;
    let metadata: Value = serde_json::from_str(&text)?;
    read(&metadata).context("cargo metadata printed something unexpected")
}

/// The crates that members depend on to run, directly or by way of others: neither for tests nor for the build.
fn read(metadata: &Value) -> Option<Vec<Linked>> {
    let text = |value: &Value| Some(value.as_str()?.to_owned());
    let packages: BTreeMap<&str, &Value> = metadata["packages"]
        .as_array()?
        .iter()
        .filter_map(|package| Some((package["id"].as_str()?, package)))
        .collect();
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()?
        .iter()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let mut left: Vec<&str> = metadata["workspace_members"]
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let mut seen: BTreeSet<&str> = left.iter().copied().collect();
    while let Some(id) = left.pop() {
        for dependency in nodes.get(id)?["deps"].as_array()? {
            let mut kinds = dependency["dep_kinds"].as_array()?.iter();
            let id = dependency["pkg"].as_str()?;
            // A kind of null is that of what runs.
            if kinds.any(|kind| kind["kind"].is_null())
                && !is_macro(packages.get(id)?)
                && seen.insert(id)
            {
                left.push(id);
            }
        }
    }
    let mut linked = Vec::new();
    for id in seen {
        let package = packages.get(id)?;
        // Our own have no source.
        let Some(source) = package["source"].as_str() else {
            continue;
        };
        linked.push(Linked {
            name: text(&package["name"])?,
            version: text(&package["version"])?,
            licence: text(&package["license"]).unwrap_or_default(),
            source: source.to_owned(),
        });
    }
    linked.sort();
    Some(linked)
}

/// Whether a package runs in the compiler alone.
fn is_macro(package: &Value) -> bool {
    let targets = package["targets"].as_array().into_iter().flatten();
    let mut kinds = targets.filter_map(|target| target["kind"].as_array());
    kinds.any(|kinds| kinds.iter().any(|kind| kind == "proc-macro"))
}

/// Whether an SPDX expression leaves a way that is allowed. `/` is how older manifests write OR.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        // Parentheses become words of their own, so that the expression is read word by word.
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let allowed = any(&words, &mut at);
    // Words that are left mean that the expression was misread: then nothing follows from the part that was read.
    allowed && at == words.len()
}

/// Parts joined by OR. They nest as deep as manifests write parentheses: once or twice.
fn any(words: &[&str], at: &mut usize) -> bool {
    let mut allowed = all(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        allowed |= all(words, at);
    }
    allowed
}

fn all(words: &[&str], at: &mut usize) -> bool {
    let mut allowed = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        allowed &= one(words, at);
    }
    allowed
}

fn one(words: &[&str], at: &mut usize) -> bool {
    // A manifest that names no licence allows nothing.
    let Some(word) = words.get(*at) else {
        return false;
    };
    *at += 1;
    if *word == "(" {
        let allowed = any(words, at);
        let closes = words.get(*at) == Some(&")");
        *at += 1;
        return allowed && closes;
    }
    let mut name = (*word).to_owned();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{name} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    ALLOWED.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_needs_one_way_that_is_allowed() {
        for allowed in [
            "MIT",
            "MIT/Apache-2.0",
            "MIT OR GPL-3.0",
            "GPL-3.0 OR (MIT AND ISC)",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(is_allowed(allowed), "{allowed}");
        }
        for refused in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR ISC) AND AGPL-3.0",
            "MIT ISC",
            "(MIT",
            "Apache-2.0 WITH",
            "MIT WITH",
        ] {
            assert!(!is_allowed(refused), "{refused}");
        }
    }

    /// A program of ours that links `linked`, is built with `builder` and tested with `tester`; `linked` has a macro.
    fn metadata() -> Value {
        let package = |name: &str, kind: &str, source: Option<&str>| {
            serde_json::json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT", "source": source,
                "targets": [{"kind": [kind]}]})
        };
        let needs = |on: &str, kind: Option<&str>| serde_json::json!({"pkg": on, "dep_kinds": [{"kind": kind}]});
        serde_json::json!({
            "workspace_members": ["ours"],
            "packages": [
                package("ours", "bin", None), package("linked", "lib", Some(REGISTRY)),
                package("deep", "lib", Some("git+https://example.org/deep")),
                package("derive", "proc-macro", Some(REGISTRY)), package("quote", "lib", Some(REGISTRY)),
                package("builder", "lib", Some(REGISTRY)), package("tester", "lib", Some(REGISTRY)),
            ],
            "resolve": {"nodes": [
                {"id": "ours", "deps": [needs("linked", None), needs("builder", Some("build")), needs("tester", Some("dev"))]},
                {"id": "linked", "deps": [needs("deep", None), needs("derive", None)]},
                {"id": "derive", "deps": [needs("quote", None)]},
                {"id": "deep", "deps": []}, {"id": "quote", "deps": []},
                {"id": "builder", "deps": []}, {"id": "tester", "deps": []},
            ]},
        })
    }

    #[test]
    fn what_runs_is_linked_and_what_builds_or_tests_is_not() {
        let linked = read(&metadata()).unwrap();
        let names: Vec<&str> = linked.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["deep", "linked"]);
        assert_ne!(
            linked[0].source, REGISTRY,
            "one from elsewhere is told from the others"
        );
        let text = notice(&linked, &[("preact 10.0.0".to_owned(), "MIT".to_owned())]);
        assert!(text.starts_with(HEAD));
        for line in ["linked 1.0.0: MIT\n", "preact 10.0.0: MIT\n"] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("tester"), "{text}");
    }

    #[test]
    fn a_crate_without_a_licence_is_under_none_that_is_allowed() {
        let mut metadata = metadata();
        metadata["packages"][1]["license"] = Value::Null;
        let linked = read(&metadata).unwrap();
        assert_eq!(linked[1].licence, "");
        assert!(!is_allowed(&linked[1].licence));
        metadata["resolve"] = Value::Null;
        assert!(read(&metadata).is_none(), "half of an answer is none");
    }
}
