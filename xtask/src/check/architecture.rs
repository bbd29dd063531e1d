//! Who may depend on whom, read from `cargo metadata`.
//!
//! The tables are the architecture's; a package that is not in them fails the check, so that a new
//! crate gets its place on purpose. Dependencies of every kind count, those for tests too, but for one.

use anyhow::{Result, bail};

use super::Outcome;
use crate::workspace::{Package, Workspace};

/// Each package of the workspace and those of ours it may depend on.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("marquee-domain", &[]),
    ("marquee-history", &["marquee-domain"]),
    ("marquee-proto", &["marquee-domain"]),
    ("marquee-postgres", &[]),
    // The starter is for its tests.
    (
        "marquee-store",
        &["marquee-domain", "marquee-history", "marquee-postgres"],
    ),
    ("marquee-backups", &["marquee-domain"]),
    ("marquee-arrow", &[]),
    ("marquee-datasets", &["marquee-arrow", "marquee-domain"]),
    // The test server, and what measures the data path and tries every reader of foreign bytes.
    (
        "marquee-catalogue",
        &[
            "marquee-arrow",
            "marquee-coordinator",
            "marquee-domain",
            "marquee-datasets",
            "marquee-proto",
            "marquee-weights",
            "marquee-worker",
        ],
    ),
    ("marquee-evaluation", &["marquee-arrow", "marquee-domain"]),
    ("marquee-weights", &["marquee-domain"]),
    (
        "marquee-coordinator",
        &[
            "marquee-backups",
            "marquee-domain",
            "marquee-history",
            // With the feature "s3" alone.
            "marquee-objects",
            "marquee-postgres",
            "marquee-proto",
            "marquee-settings",
            "marquee-store",
            // What it explains to browsers it says in the words of the command line.
            "marquee-view",
        ],
    ),
    (
        "marquee-worker",
        // What installs a host's runtime: the pins are those that the trainer is built with.
        &[
            "marquee-domain",
            "marquee-proto",
            "marquee-settings",
            "marquee-wheels",
        ],
    ),
    ("marquee-settings", &["marquee-domain"]),
    ("marquee-objects", &[]),
    ("marquee-wheels", &[]),
    ("marquee-view", &["marquee-domain", "marquee-proto"]),
    (
        "marquee-cli",
        &[
            // Which the coordinator's own command reads.
            "marquee-backups",
            "marquee-domain",
            "marquee-proto",
            "marquee-view",
            "marquee-weights",
        ],
    ),
    (
        "marquee-trainer",
        &["marquee-domain", "marquee-datasets", "marquee-evaluation"],
    ),
    // End-to-end tests may take any part, but start the trainer as a program: with it as a
    // dependency the default members would need libtorch.
    (
        "marquee-e2e",
        &[
            "marquee-domain",
            "marquee-postgres",
            "marquee-proto",
            "marquee-store",
            "marquee-coordinator",
            "marquee-worker",
            "marquee-datasets",
            "marquee-evaluation",
        ],
    ),
    // All of the control plane, in one thread.
    (
        "marquee-sim",
        &[
            "marquee-domain",
            "marquee-history",
            "marquee-postgres",
            "marquee-proto",
            "marquee-store",
            "marquee-coordinator",
            "marquee-worker",
        ],
    ),
    ("marquee-xtask", &["marquee-postgres", "marquee-wheels"]),
    ("marquee-xtask-lab", &["marquee-xtask"]),
];

/// Packages whose tests may use another one of ours that they themselves may not: a job that fetches is
/// tested against the server that is made for it, and what is shipped holds nothing of that server.
const MAY_TEST_WITH: &[(&str, &str)] = &[("marquee-datasets", "marquee-catalogue")];

/// Foreign crates that only the packages named may depend on.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("tch", &["marquee-trainer"]),
    ("torch-sys", &["marquee-trainer"]),
    ("sqlx", &["marquee-store"]),
    // No daemon but the coordinator speaks with an object store, and it through this.
    ("object_store", &["marquee-objects"]),
    // Other hosts' time and other dice than the machine's.
    ("turmoil", &["marquee-sim"]),
    ("mad-turmoil", &["marquee-sim"]),
];

/// Foreign crates that a package must do without: the language has no IO and no async, the core
/// of a training run no network, the scheduler's crate no user code.
const NEVER_IN: &[(&str, &[&str])] = &[
    (
        "marquee-domain",
        &["tokio", "tonic", "reqwest", "futures", "rand"],
    ),
    // A history is judged by what it says alone.
    ("marquee-history", &["tokio", "tonic", "sqlx", "rand"]),
    ("marquee-evaluation", &["tokio", "tonic", "reqwest"]),
    // A view is a pure function, whoever draws it.
    (
        "marquee-view",
        &[
            "tokio",
            "tonic",
            "clap",
            "comfy-table",
            "console",
            "indicatif",
        ],
    ),
    ("marquee-trainer", &["tonic", "tonic-prost", "reqwest"]),
    // xtask waits for it.
    (
        "marquee-postgres",
        &["tokio", "tracing", "thiserror", "anyhow", "serde"],
    ),
    ("marquee-xtask", &["tokio", "clap", "reqwest"]),
];

pub(super) fn check(workspace: &Workspace) -> Result<Outcome> {
    let broken = violations(&workspace.packages);
    if !broken.is_empty() {
        bail!("{}", broken.join("\n"));
    }
    Ok(Outcome::Passed)
}

fn violations(packages: &[Package]) -> Vec<String> {
    packages.iter().flat_map(violations_of).collect()
}

fn violations_of(package: &Package) -> Vec<String> {
    let name = package.name.as_str();
    let Some((_, allowed)) = MAY_DEPEND_ON.iter().find(|(known, _)| *known == name) else {
        return vec![format!(
            "{name} is new: say in {} what it may depend on",
            file!()
        )];
    };
    let never = NEVER_IN
        .iter()
        .filter(|(who, _)| *who == name)
        .flat_map(|(_, crates)| *crates);
    let never: Vec<&&str> = never.collect();
    let mut broken = Vec::new();
    let of_tests = package.test_dependencies.iter();
    let of_tests =
        of_tests.filter(|dependency| !MAY_TEST_WITH.contains(&(name, dependency.as_str())));
    for dependency in package.dependencies.iter().chain(of_tests) {
        let dependency = dependency.as_str();
        // A package may use itself: cargo lists it so where tests turn on a feature of it.
        let is_ours = dependency.starts_with("marquee-");
        if is_ours && dependency != name && !allowed.contains(&dependency) {
            broken.push(format!("{name} depends on {dependency}, which it may not"));
        }
        let reserved = ONLY_IN.iter().find(|(what, _)| *what == dependency);
        if let Some((_, owners)) = reserved.filter(|(_, owners)| !owners.contains(&name)) {
            broken.push(format!(
                "{name} depends on {dependency}, which belongs to {} alone",
                owners.join(" and ")
            ));
        }
        if never.iter().any(|what| **what == dependency) {
            broken.push(format!("{name} must do without {dependency}"));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(name: &str, dependencies: &[&str]) -> Vec<String> {
        violations(&[Package {
            name: name.to_owned(),
            folder: std::path::PathBuf::new(),
            dependencies: dependencies.iter().map(|d| (*d).to_owned()).collect(),
            test_dependencies: Vec::new(),
            bins: Vec::new(),
            untested: Vec::new(),
        }])
    }

    #[test]
    fn the_test_server_is_for_the_tests_of_the_data_path_alone() {
        let using = |name: &str, dependencies: &[&str], test_dependencies: &[&str]| {
            let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            violations(&[Package {
                folder: std::path::PathBuf::new(),
                name: name.to_owned(),
                dependencies: names(dependencies),
                test_dependencies: names(test_dependencies),
                bins: Vec::new(),
                untested: Vec::new(),
            }])
        };
        let server = ["marquee-catalogue"];
        assert!(using("marquee-datasets", &["marquee-domain"], &server).is_empty());
        assert_eq!(using("marquee-datasets", &server, &[]).len(), 1);
        assert_eq!(using("marquee-worker", &[], &server).len(), 1);
    }

    #[test]
    fn what_the_architecture_allows_passes() {
        assert!(broken("marquee-coordinator", &["marquee-store", "tokio"]).is_empty());
        assert!(broken("marquee-trainer", &["marquee-datasets", "tch", "torch-sys"]).is_empty());
    }

    #[test]
    fn each_rule_is_broken_by_name() {
        for (package, dependency, says) in [
            (
                "marquee-worker",
                "marquee-store",
                "depends on marquee-store",
            ),
            (
                "marquee-e2e",
                "marquee-trainer",
                "depends on marquee-trainer",
            ),
            ("marquee-worker", "tch", "belongs to marquee-trainer alone"),
            (
                "marquee-coordinator",
                "sqlx",
                "belongs to marquee-store alone",
            ),
            ("marquee-domain", "tokio", "must do without tokio"),
            ("marquee-novelty", "anyhow", "is new"),
        ] {
            let found = broken(package, &[dependency]);
            assert_eq!(found.len(), 1, "{package} -> {dependency}: {found:?}");
            assert!(found[0].contains(says), "{found:?}");
        }
    }
}
