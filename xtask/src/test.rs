//! `cargo xtask test`: set up, build the binaries that end-to-end tests start, run every test.
//!
//! Invariant: the runner's own summary is the last thing printed, but for what else failed; its exit code is ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::pg::PrivatePostgres;
use crate::setup::{Setup, python};
use crate::workspace::{WITH_ALL, Workspace};
use crate::{process, report, secrets, sim, web};

/// A server of S3 in memory, which tests of object stores start. Of its own extra "server" only what S3 needs.
const OBJECT_STORE: &str = "moto[s3]==5.2.5\nflask==3.1.3\nflask-cors==6.0.5\n";
/// Of nextest, in `.config/nextest.toml`.
const PROFILE: &str = "xtask";
/// Its file with what tests wrote.
const WRITTEN: &str = "junit.xml";

pub fn run(workspace: &Workspace, filter: &[String]) -> Result<ExitCode> {
    let setup = Setup::ensure()?;
    web::build_if_possible(workspace);
    report::step("build: all binaries and tests", || build(workspace, &setup))?;
    // What fails here is said at once and again at the end: whoever waited for the build wants all of it.
    let mut failed = Vec::new();
    // A filter is for the tests of the crates.
    if filter.is_empty() {
        if let Err(error) = report::step(&sim::title_of_test(), || sim::test(workspace, &setup)) {
            report::note(&format!("{error:#}"));
            failed.push("the simulation");
        }
        if !report::step("test: the web page", || web::test(workspace))? {
            failed.push("the tests of the web page");
        }
    }
    let has_nextest = has_nextest(workspace);
    if has_nextest && filter.is_empty() {
        // nextest leaves examples in documentation out; they go first, so that its summary is last.
        examples_in_documentation(workspace, &setup)?;
    }
    let mut runner = if has_nextest {
        let mut command = workspace.cargo("nextest");
        // All of them: who waited for a build wants every failure of it, not the first.
        command.args(["run", "--workspace", "--no-fail-fast"]);
        command.args(WITH_ALL);
        // With a filter the options are the user's: whoever tries a few tests may want one at a time.
        if filter.is_empty() {
            command.args(["--profile", PROFILE, "--test-threads"]);
            command.arg(tests_at_once(cores()).to_string());
        }
        command
    } else {
        report::note("cargo-nextest is not installed; running cargo test");
        let mut command = workspace.cargo("test");
        command.args(["--workspace", "--no-fail-fast"]);
        command.args(WITH_ALL);
        if !filter.is_empty() {
            command.arg("--");
        }
        command
    };
    runner.args(filter);
    // One for all tests: a server of its own costs each of hundreds of test processes several times what its database
    // does. It ends with this process.
    let server = PrivatePostgres::start_for_tests(&setup.postgres_bin)?;
    runner.env("MARQUEE_TEST_POSTGRES", server.url("DATABASE"));
    let written = written(workspace);
    // That of an earlier run says nothing of this one.
    drop(fs::remove_file(&written));
    match python::ensure("object-store", OBJECT_STORE) {
        Ok(interpreter) => {
            runner.env("MARQUEE_TEST_MOTO_PYTHON", interpreter);
        }
        // Those tests say by name that they were skipped.
        Err(error) => report::note(&format!("no server of S3 to test against: {error:#}")),
    }
    eprintln!("==> {}", process::line(&runner));
    let status = environment(workspace, &setup, &mut runner)
        .status()
        .with_context(|| format!("cannot start {}", process::line(&runner)))?;
    // Without a word where all is well: the runner's summary stays the last. A run that broke off wrote nothing.
    let is_kept = has_nextest && filter.is_empty() && (status.success() || written.is_file());
    if is_kept && let Err(error) = secrets::search(&written) {
        report::note(&format!("{error:#}"));
        failed.push("the search for secrets");
    }
    if !failed.is_empty() {
        report::note(&format!("failed: {}; see above", failed.join(", ")));
        return Ok(ExitCode::FAILURE);
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Where the runner keeps all that tests wrote (`.config/nextest.toml`): below the checkout, wherever is built.
fn written(workspace: &Workspace) -> PathBuf {
    let kept = workspace.root.join("target/nextest");
    kept.join(PROFILE).join(WRITTEN)
}

/// Binaries together with tests in one build: dependencies get one set of features, so nothing is
/// compiled twice.
pub fn build(workspace: &Workspace, setup: &Setup) -> Result<()> {
    let mut command = workspace.cargo("build");
    command.args(["--workspace", "--bins", "--tests"]);
    command.args(WITH_ALL);
    process::run(setup.apply(&mut command))
}

/// How many tests run at once: most of them wait for something, and those that compute count double
/// (`.config/nextest.toml`).
fn tests_at_once(cores: usize) -> usize {
    cores * 2
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs the examples in the documentation, if there is one anywhere: to find out that there is none, rustdoc would
/// expand every crate of the workspace once more.
fn examples_in_documentation(workspace: &Workspace, setup: &Setup) -> Result<()> {
    let mut has_any = false;
    for package in &workspace.packages {
        has_any |= has_example(&package.folder.join("src"))?;
    }
    if !has_any {
        report::note("no documentation has an example to run");
        return Ok(());
    }
    report::step("test: examples in the documentation", || {
        let mut command = workspace.cargo("test");
        process::run(environment(workspace, setup, &mut command).args([
            "--workspace",
            "--doc",
            "--quiet",
        ]))
    })
}

/// Whether a file below `folder` has a code block in its documentation that rustdoc would run.
fn has_example(folder: &Path) -> Result<bool> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(false);
    };
    for entry in entries {
        let path = entry?.path();
        let found = if path.is_dir() {
            has_example(&path)?
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            examples(&text) > 0
        } else {
            false
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Code blocks in documentation that are Rust to rustdoc: those that name no other language.
fn examples(text: &str) -> usize {
    let mut is_open = false;
    let mut found = 0;
    for line in text.lines().map(str::trim_start) {
        let said = line.strip_prefix("///").or(line.strip_prefix("//!"));
        let said = said.map(str::trim_start);
        // Blocks may be fenced by tildes, too, and by more than three of either.
        let Some(fence) = said.filter(|said| said.starts_with("```") || said.starts_with("~~~"))
        else {
            continue;
        };
        is_open = !is_open;
        let words = fence.trim_start_matches(['`', '~']);
        let mut words = words.split([',', ' ']).filter(|word| !word.is_empty());
        found += usize::from(is_open && words.all(is_of_rust));
    }
    found
}

/// What rustdoc takes as said about Rust code, and not as the name of another language.
fn is_of_rust(word: &str) -> bool {
    let known = [
        "rust",
        "should_panic",
        "no_run",
        "compile_fail",
        "standalone",
        "standalone_crate",
        "test_harness",
    ];
    known.contains(&word) || word.starts_with("edition")
}

fn environment<'c>(
    workspace: &Workspace,
    setup: &Setup,
    command: &'c mut Command,
) -> &'c mut Command {
    setup
        .apply(command)
        .env("MARQUEE_BIN_DIR", &workspace.bin_dir)
}

pub fn has_nextest(workspace: &Workspace) -> bool {
    let mut command = workspace.cargo("nextest");
    command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_rust_are_examples_and_drawings_are_not() {
        for (text, count) in [
            ("/// ```\n/// assert!(true);\n/// ```\nfn one() {}\n", 1),
            ("    //! ```rust,no_run\n    //! ```\n", 1),
            (
                "/// ~~~ should_panic\n/// ~~~\n/// ````edition2024\n/// ````\n",
                2,
            ),
            (
                "//! ```text\n//! a -> b\n//! ```\n/// ```toml\n/// ```\n",
                0,
            ),
            ("/// ```ignore\n/// ```\n// ```\nlet fence = \"```\";\n", 0),
        ] {
            assert_eq!(examples(text), count, "{text}");
        }
    }

    #[test]
    fn the_profile_of_the_runner_is_there_and_names_packages_that_are() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let config = fs::read_to_string(root.join(".config/nextest.toml")).unwrap();
        assert!(config.contains(&format!("[profile.{PROFILE}]")), "{config}");
        let named = config.split("package(").skip(1);
        let named: Vec<&str> = named
            .filter_map(|rest| Some(rest.split_once(')')?.0))
            .collect();
        assert!(named.len() > 3, "{named:?}");
        for package in named {
            let folder = package.strip_prefix("marquee-").unwrap();
            assert!(root.join(folder).join("Cargo.toml").is_file(), "{package}");
        }
        assert_eq!(tests_at_once(2), 4);
        let written = format!("path = \"{WRITTEN}\"\nstore-success-output = true");
        assert!(config.contains(&written), "{config}");
    }

    #[test]
    fn an_example_is_found_in_a_folder_of_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("one/two");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("notes.md"), "/// ```\n/// ```\n").unwrap();
        assert!(!has_example(folder.path()).unwrap());
        fs::write(inner.join("mod.rs"), "/// ```\n/// ```\n").unwrap();
        assert!(has_example(folder.path()).unwrap());
        assert!(!has_example(&folder.path().join("none")).unwrap());
    }
}
