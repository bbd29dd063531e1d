//! `.sqlx`: what Postgres says about each checked query of the store, committed so that the
//! workspace builds without a database.
//!
//! sqlx's macros write these files themselves when they see a live DATABASE_URL and
//! SQLX_OFFLINE_DIR; this module gives them a private Postgres with all migrations applied, and
//! removes what no query asks for any more. No sqlx-cli is needed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::pg::PrivatePostgres;
use crate::setup::Setup;
use crate::workspace::Workspace;
use crate::{process, report};

/// The only package with checked queries.
const PACKAGE: &str = "marquee-store";

/// How cargo is asked what it compiled, for [`Live::compile`]: the compiler's own words still go to stderr.
pub const MESSAGES: &str = "--message-format=json-render-diagnostics";

/// File name to content.
type Queries = BTreeMap<String, String>;

/// Brings `.sqlx` up to date.
pub fn prepare(workspace: &Workspace) -> Result<ExitCode> {
    let setup = Setup::ensure()?;
    let fresh = compute(workspace, &setup)?;
    let folder = workspace.root.join(".sqlx");
    let committed = read_queries(&folder)?;
    fs::create_dir_all(&folder)?;
    // Those of queries that are gone would be read by nobody and reviewed by everybody.
    for name in committed.keys().filter(|name| !fresh.contains_key(*name)) {
        fs::remove_file(folder.join(name))?;
    }
    for (name, content) in &fresh {
        if committed.get(name) != Some(content) {
            fs::write(folder.join(name), content)?;
        }
    }
    eprintln!("{}", summary(&committed, &fresh));
    Ok(ExitCode::SUCCESS)
}

/// Fails if `.sqlx` is not what the migrations and queries give.
pub fn check(workspace: &Workspace) -> Result<ExitCode> {
    let setup = Setup::ensure()?;
    verify(workspace, &setup)?;
    eprintln!(".sqlx is current");
    Ok(ExitCode::SUCCESS)
}

/// The body of `check`, for the task that has its set-up already.
pub fn verify(workspace: &Workspace, setup: &Setup) -> Result<()> {
    compare(workspace, &compute(workspace, setup)?)
}

/// Fails if `fresh` is not what is committed.
fn compare(workspace: &Workspace, fresh: &Queries) -> Result<()> {
    let committed = read_queries(&workspace.root.join(".sqlx"))?;
    if *fresh != committed {
        bail!(
            ".sqlx is not what the migrations and queries give: {}; run \"cargo xtask sqlx-prepare\" and commit the folder",
            summary(&committed, fresh)
        );
    }
    Ok(())
}

/// A database of this checkout's migrations, for a compilation that asks it about each query.
#[derive(Debug)]
pub struct Live {
    server: PrivatePostgres,
    /// Where the macros write what they were told; in the server's folder, which goes with the server.
    folder: PathBuf,
}

impl Live {
    pub fn start(workspace: &Workspace, setup: &Setup) -> Result<Self> {
        report::step("a private Postgres with all migrations", || {
            let server = PrivatePostgres::start(&setup.postgres_bin)?;
            for file in migrations(&workspace.root.join("migrations"))? {
                server
                    .apply(&file)
                    .with_context(|| format!("cannot apply {}", file.display()))?;
            }
            let folder = server.folder().join("queries");
            fs::create_dir(&folder)?;
            Ok(Self { server, folder })
        })
    }

    /// Runs a command of cargo that compiles the store among others, with live queries: the macros write them as they
    /// expand. Returns the files of the store that cargo found current, whose queries were therefore not asked about.
    pub fn compile(&self, workspace: &Workspace, command: &mut Command) -> Result<Vec<PathBuf>> {
        command
            // A user's SQLX_OFFLINE=true would win over the URL, and the macros would read the very files that are
            // to be checked.
            .env("SQLX_OFFLINE", "false")
            .env("SQLX_OFFLINE_DIR", &self.folder)
            .env("DATABASE_URL", self.server.url())
            .stderr(Stdio::inherit());
        let output = command.output()?;
        if !output.status.success() {
            bail!("{} failed with {}", process::line(command), output.status);
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let messages = text.lines().map(serde_json::from_str::<Value>);
        let messages: Vec<Value> = messages.collect::<Result<_, _>>()?;
        Ok(fresh_artifacts(&messages, &workspace.root.join("store")))
    }

    /// Fails if `.sqlx` is not what a compilation of the whole store has written.
    pub fn verify(&self, workspace: &Workspace) -> Result<()> {
        compare(workspace, &read_queries(&self.folder)?)
    }
}

fn compute(workspace: &Workspace, setup: &Setup) -> Result<Queries> {
    let live = Live::start(workspace, setup)?;
    report::step(&format!("checking the queries of {PACKAGE}"), || {
        compile_store(workspace, &live)?;
        read_queries(&live.folder)
    })
}

/// Compiles the store with live queries, whether cargo finds an earlier result good or not.
fn compile_store(workspace: &Workspace, live: &Live) -> Result<()> {
    let stale = check_store(workspace, live)?;
    if stale.is_empty() {
        return Ok(());
    }
    // cargo found an earlier result good and expanded nothing: without it, it has to compile.
    for file in &stale {
        fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    let still = check_store(workspace, live)?;
    if !still.is_empty() {
        bail!(
            "cargo does not compile {PACKAGE} again although {} is gone",
            stale[0].display()
        );
    }
    Ok(())
}

/// `cargo check` of the store; returns the files of what cargo did not have to compile.
fn check_store(workspace: &Workspace, live: &Live) -> Result<Vec<PathBuf>> {
    let mut command = workspace.cargo("check");
    command
        .args(["--package", PACKAGE, "--all-targets"])
        .arg(MESSAGES);
    live.compile(workspace, &mut command)
}

fn fresh_artifacts(messages: &[Value], package_root: &Path) -> Vec<PathBuf> {
    messages
        .iter()
        .filter(|message| message["reason"] == "compiler-artifact" && message["fresh"] == true)
        .filter(|message| {
            let manifest = message["manifest_path"].as_str();
            manifest.is_some_and(|path| Path::new(path).starts_with(package_root))
        })
        // A build script expands no query: that it did not run again says nothing.
        .filter(|message| message["target"]["kind"] != serde_json::json!(["custom-build"]))
        .filter_map(|message| message["filenames"].as_array())
        .flatten()
        .filter_map(|name| name.as_str().map(PathBuf::from))
        .collect()
}

/// All `*.sql` in the order of their names, which start with their number; an `.up.sql` counts, a
/// `.down.sql` does not.
fn migrations(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| {
        let name = path.to_string_lossy();
        name.ends_with(".sql") && !name.ends_with(".down.sql")
    });
    files.sort();
    if files.is_empty() {
        bail!("{} holds no .sql file", folder.display());
    }
    Ok(files)
}

/// The `query-*.json` of a folder; none if there is no folder.
fn read_queries(folder: &Path) -> Result<Queries> {
    let mut queries = Queries::new();
    if !folder.exists() {
        return Ok(queries);
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("query-") && name.ends_with(".json") {
            queries.insert(name.into_owned(), fs::read_to_string(&path)?);
        }
    }
    Ok(queries)
}

fn summary(committed: &Queries, fresh: &Queries) -> String {
    let new = fresh.keys().filter(|name| !committed.contains_key(*name));
    let gone = committed.keys().filter(|name| !fresh.contains_key(*name));
    let changed = fresh
        .iter()
        .filter(|(name, content)| committed.get(*name).is_some_and(|old| old != *content));
    format!(
        "{} queries, {} new, {} changed, {} no longer used",
        fresh.len(),
        new.count(),
        changed.count(),
        gone.count()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_tells_new_changed_and_unused_queries_apart() {
        let queries = |items: &[(&str, &str)]| -> Queries {
            let owned = items
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            owned.collect()
        };
        let committed = queries(&[("same", "1"), ("old", "1"), ("edited", "1")]);
        let fresh = queries(&[("same", "1"), ("edited", "2"), ("a", "1"), ("b", "1")]);
        assert_eq!(
            summary(&committed, &fresh),
            "4 queries, 2 new, 1 changed, 1 no longer used"
        );
    }

    #[test]
    fn only_what_cargo_did_not_compile_again_is_removed() {
        let message = |fresh: bool, root: &str, kind: &str, file: &str| {
            serde_json::json!({"reason": "compiler-artifact", "fresh": fresh,
                "manifest_path": format!("{root}/Cargo.toml"),
                "target": {"kind": [kind]}, "filenames": [file]})
        };
        let messages = [
            message(true, "/w/store", "lib", "/t/libstore.rmeta"),
            message(false, "/w/store", "test", "/t/test.rmeta"),
            message(true, "/w/domain", "lib", "/t/libdomain.rmeta"),
            message(true, "/w/store", "custom-build", "/t/build-script"),
            serde_json::json!({"reason": "build-finished", "success": true}),
        ];
        assert_eq!(
            fresh_artifacts(&messages, Path::new("/w/store")),
            [PathBuf::from("/t/libstore.rmeta")]
        );
    }

    #[test]
    fn migrations_come_by_their_number_and_ways_back_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "0010_b.sql",
            "0002_a.up.sql",
            "0002_a.down.sql",
            "README.md",
            "0011_c.sql",
        ] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let files = migrations(folder.path()).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap()).collect();
        assert_eq!(names, ["0002_a.up.sql", "0010_b.sql", "0011_c.sql"]);
        let empty = tempfile::tempdir().unwrap();
        assert!(
            migrations(empty.path()).is_err(),
            "no migration is no database"
        );
        assert!(migrations(&empty.path().join("none")).is_err());
    }

    #[test]
    fn only_files_of_queries_are_read_and_a_folder_that_is_not_there_has_none() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["query-1.json", "query-2.json.tmp", "notes.json"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let queries = read_queries(folder.path()).unwrap();
        assert_eq!(queries.keys().collect::<Vec<_>>(), ["query-1.json"]);
        assert_eq!(
            read_queries(&folder.path().join("none")).unwrap(),
            Queries::new()
        );
    }

    #[test]
    fn queries_that_differ_from_what_is_committed_fail_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace {
            root: folder.path().to_owned(),
            bin_dir: folder.path().join("target/debug"),
            packages: Vec::new(),
        };
        let fresh = Queries::from([("query-1.json".to_owned(), "{}".to_owned())]);
        let error = compare(&workspace, &fresh).unwrap_err().to_string();
        assert!(
            error.contains("1 new") && error.contains("cargo xtask sqlx-prepare"),
            "{error}"
        );
        let committed = folder.path().join(".sqlx");
        fs::create_dir(&committed).unwrap();
        fs::write(committed.join("query-1.json"), "{}").unwrap();
        compare(&workspace, &fresh).unwrap();
        fs::write(committed.join("query-2.json"), "{}").unwrap();
        let error = compare(&workspace, &fresh).unwrap_err().to_string();
        assert!(error.contains("1 no longer used"), "{error}");
    }
}
