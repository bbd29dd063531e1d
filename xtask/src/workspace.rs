//! The checkout: where it is, where cargo builds it, and how to call cargo for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;

/// What cargo says about this checkout.
#[derive(Debug)]
pub struct Workspace {
    pub root: PathBuf,
    /// Where the dev profile's binaries appear; honours CARGO_TARGET_DIR and cargo's own config.
    pub bin_dir: PathBuf,
    pub packages: Vec<Package>,
}

/// A member of the workspace.
#[derive(Debug)]
pub struct Package {
    pub name: String,
    /// Where its manifest lies.
    pub folder: PathBuf,
    /// Direct dependencies of what is shipped (normal and build), by package name.
    pub dependencies: Vec<String>,
    /// Direct dependencies of the tests alone.
    pub test_dependencies: Vec<String>,
    pub bins: Vec<String>,
    /// First files of the libraries and programs that are built without their own tests (`test = false`).
    pub untested: Vec<PathBuf>,
}

/// What a build of the whole workspace has beyond the defaults: object stores, which are tested and shipped, and whose crates
/// no demo waits for. The same in every such build, so that nothing is compiled twice.
pub const WITH_ALL: [&str; 2] = ["--features", "marquee-coordinator/s3"];

impl Workspace {
    pub fn load() -> Result<Self> {
        let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
        let text = process::read(
            cargo()
                .args(["metadata", "--format-version", "1", "--no-deps"])
                .arg("--manifest-path")
                .arg(&manifest),
        )?;
        parse_metadata(&text).context("cargo metadata printed something unexpected")
    }

    /// What `package` asks for in the manifest at `path`: each dependency, by name and kind, with its
    /// version and features as text. Those by path have no version.
    pub fn requirements(&self, path: &Path, package: &str) -> Result<BTreeMap<String, String>> {
        let mut command = self.cargo("metadata");
        command
            .args(["--format-version", "1", "--no-deps", "--manifest-path"])
            .arg(path);
        parse_requirements(&process::read(&mut command)?, package)
            .context("cargo metadata printed something unexpected")
    }

    /// A cargo command in the checkout's root that checks queries against `.sqlx`, whatever
    /// DATABASE_URL the user's shell holds.
    #[must_use]
    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut command = self.cargo_here(subcommand);
        command.current_dir(&self.root);
        command
    }

    /// The same in the folder where the user stands.
    #[must_use]
    pub fn cargo_here(&self, subcommand: &str) -> Command {
        let mut command = cargo();
        command
            .arg(subcommand)
            .env("SQLX_OFFLINE", "true")
            .env_remove("DATABASE_URL");
        command
    }
}

/// The cargo that runs us, without the variables `cargo run` sets for us: build scripts that watch
/// them would otherwise run again each time a build changes between `cargo` and `cargo xtask`.
fn cargo() -> Command {
    // The very cargo that runs us, which may not be the first on PATH (`cargo +nightly xtask`).
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

fn parse_metadata(text: &str) -> Result<Workspace> {
    let metadata: Value = serde_json::from_str(text)?;
    let path = |key: &str| -> Result<PathBuf> {
        let value = metadata[key].as_str();
        Ok(PathBuf::from(
            value.with_context(|| format!("no {key} in it"))?,
        ))
    };
    let packages = metadata["packages"]
        .as_array()
        .context("no packages in it")?;
    Ok(Workspace {
        root: path("workspace_root")?,
        bin_dir: path("target_directory")?.join("debug"),
        packages: packages.iter().map(parse_package).collect::<Result<_>>()?,
    })
}

fn parse_requirements(text: &str, package: &str) -> Result<BTreeMap<String, String>> {
    let metadata: Value = serde_json::from_str(text)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let found = packages
        .into_iter()
        .find(|found| found["name"] == package)
        .with_context(|| format!("no package {package} in it"))?;
    let dependencies = found["dependencies"].as_array().into_iter().flatten();
    Ok(dependencies
        .map(|dependency| {
            let text = |key: &str| dependency[key].as_str().unwrap_or_default().to_owned();
            let mut features: Vec<&str> = dependency["features"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            features.sort_unstable();
            let defaults = &dependency["uses_default_features"];
            let name = match text("kind").as_str() {
                "" => text("name"),
                kind => format!("{} ({kind})", text("name")),
            };
            let says = format!("{} {features:?}, default features {defaults}", text("req"));
            (name, says)
        })
        .collect())
}

fn parse_package(package: &Value) -> Result<Package> {
    let name = package["name"].as_str().context("a package has no name")?;
    let names = |list: &Value, wanted: &dyn Fn(&Value) -> bool| -> Vec<String> {
        let items = list.as_array().into_iter().flatten();
        items
            .filter(|item| wanted(item))
            .filter_map(|item| item["name"].as_str().map(str::to_owned))
            .collect()
    };
    let is_bin = |target: &Value| {
        let kinds = target["kind"].as_array();
        kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "bin"))
    };
    let targets = package["targets"].as_array().into_iter().flatten();
    let untested = targets
        .filter(|target| target["test"] == false)
        .filter_map(|target| target["src_path"].as_str().map(PathBuf::from));
    let manifest = package["manifest_path"].as_str();
    let manifest = Path::new(manifest.context("a package has no manifest")?);
    Ok(Package {
        name: name.to_owned(),
        folder: manifest.parent().unwrap_or(manifest).to_owned(),
        // Those of build scripts among them: they run on whoever builds, and decide what is linked.
        dependencies: names(&package["dependencies"], &|found| found["kind"] != "dev"),
        test_dependencies: names(&package["dependencies"], &|found| found["kind"] == "dev"),
        bins: names(&package["targets"], &is_bin),
        untested: untested.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_gives_packages_with_their_dependencies_and_binaries() {
        let workspace = parse_metadata(
            r#"{"workspace_root": "/w", "target_directory": "/t", "packages": [{"name": "a",
                "manifest_path": "/w/one/Cargo.toml", "dependencies": [{"name": "b", "kind": null}, {"name": "c", "kind": "dev"}],
                "targets": [{"name": "a", "kind": ["lib"], "test": true, "src_path": "/w/one/src/lib.rs"},
                    {"name": "a-bin", "kind": ["bin"], "test": false, "src_path": "/w/one/src/main.rs"}]}]}"#,
        )
        .unwrap();
        assert_eq!(workspace.bin_dir, PathBuf::from("/t/debug"));
        let [package] = workspace.packages.as_slice() else {
            panic!("one package, not {:?}", workspace.packages);
        };
        assert_eq!(package.name, "a");
        assert_eq!(package.folder, PathBuf::from("/w/one"));
        assert_eq!(package.dependencies, ["b"]);
        assert_eq!(package.test_dependencies, ["c"]);
        assert_eq!(package.bins, ["a-bin"]);
        assert_eq!(package.untested, [PathBuf::from("/w/one/src/main.rs")]);
        for wrong in [
            "",
            "[]",
            r#"{"workspace_root": "/w"}"#,
            r#"{"workspace_root": "/w", "target_directory": "/t", "packages": [{}]}"#,
        ] {
            assert!(parse_metadata(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn requirements_tell_kinds_features_and_defaults_apart() {
        let of = |dependency: &str| {
            let text = format!(
                r#"{{"packages": [{{"name": "other", "dependencies": []}},
                    {{"name": "a", "dependencies": [{dependency}]}}]}}"#
            );
            parse_requirements(&text, "a").unwrap()
        };
        let nix = r#"{"name": "nix", "req": "^0.31", "kind": null, "features": ["fs", "poll"],
                      "uses_default_features": true}"#;
        let all = of(nix);
        assert_eq!(all.keys().collect::<Vec<_>>(), ["nix"]);
        // The order in which features are written says nothing.
        assert_eq!(all, of(&nix.replace(r#""fs", "poll""#, r#""poll", "fs""#)));
        for (from, to) in [
            ("^0.31", "^0.30"),
            (r#", "poll""#, ""),
            ("true", "false"),
            ("null", r#""dev""#),
        ] {
            assert_ne!(all, of(&nix.replace(from, to)), "{from} -> {to}");
        }
        assert!(parse_requirements(r#"{"packages": []}"#, "a").is_err());
    }

    #[test]
    fn a_cargo_of_ours_asks_no_database_of_the_user() {
        let workspace = Workspace {
            root: "/checkout".into(),
            bin_dir: "/checkout/target/debug".into(),
            packages: Vec::new(),
        };
        let command = workspace.cargo("build");
        let set: BTreeMap<_, _> = command.get_envs().collect();
        let value = |name: &str| set.get(std::ffi::OsStr::new(name)).copied();
        assert_eq!(value("SQLX_OFFLINE"), Some(Some("true".as_ref())));
        assert_eq!(value("DATABASE_URL"), Some(None), "removed");
        // What `cargo run` sets for us would make build scripts run again each time.
        assert_eq!(value("CARGO_PKG_NAME"), Some(None));
        assert_eq!(command.get_current_dir(), Some(Path::new("/checkout")));
        assert_eq!(workspace.cargo_here("run").get_current_dir(), None);
    }
}
