//! The web page: built from `web/` into `web/dist/page`, from where the coordinator's build takes it in.
//!
//! Invariant: no build of ours needs it. Where Node.js or the packages cannot be had, the tasks say so and go on, and
//! the coordinator serves a page that says what is missing.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::setup::Node;
use crate::workspace::Workspace;
use crate::{process, report};

/// What the page is made of, below the checkout.
const SOURCES: [&str; 9] = [
    "proto/marquee",
    "web/proto",
    "web/src",
    "web/index.html",
    "web/package.json",
    "web/package-lock.json",
    "web/buf.gen.yaml",
    "web/tsconfig.json",
    "web/vite.config.ts",
];
/// Names the sources that the page was built from.
const STAMP: &str = "web/dist/stamp";
/// The same of the packages that were installed.
const PACKAGES_STAMP: &str = "web/node_modules/.marquee-stamp";
/// Browsers that the tests can drive, by the names that distributions give them.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// `cargo xtask web`: builds the page, whether it is built or not.
pub fn run(workspace: &Workspace) -> Result<ExitCode> {
    // Who asks for the page wants it built, also where only a tool changed that the stamp does not know of.
    let _ = fs::remove_file(workspace.root.join(STAMP));
    let built = report::step("web page", || build(workspace))?;
    report::note(&format!("built: {}", built.display()));
    report::note("the next build of marquee-coordinator takes it in");
    Ok(ExitCode::SUCCESS)
}

/// Builds the page unless it is built.
pub fn ensure(workspace: &Workspace) -> Result<()> {
    report::step("web page: npm packages and build", || build(workspace)).map(drop)
}

/// The same for tasks that work without it too.
pub fn build_if_possible(workspace: &Workspace) {
    if let Err(error) = ensure(workspace) {
        report::note(&format!(
            "the web page is not built, everything else is: {error:#}"
        ));
    }
}

fn build(workspace: &Workspace) -> Result<PathBuf> {
    // Apart from the stamp beside it: all that lies in the folder goes into the coordinator.
    let page = workspace.root.join("web/dist/page");
    let stamp = workspace.root.join(STAMP);
    let sources = digest(&workspace.root, &SOURCES)?;
    let is_built = fs::read_to_string(&stamp).is_ok_and(|found| found == sources);
    if is_built && page.join("index.html").exists() {
        return Ok(page);
    }
    let npm = packages(workspace)?;
    process::run(npm.npm(&workspace.root.join("web")).args(["run", "build"]))?;
    // Last: a build that was cut short left no stamp of these sources, and is made again.
    fs::write(&stamp, sources).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(page)
}

/// Node.js with the packages of the lockfile, which npm checks by their hashes. No package runs a program of its own.
fn packages(workspace: &Workspace) -> Result<Node> {
    let node = Node::ensure()?;
    let stamp = workspace.root.join(PACKAGES_STAMP);
    let wanted = digest(&workspace.root, &["web/package-lock.json"])?;
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(node);
    }
    let mut command = node.npm(&workspace.root.join("web"));
    process::run(command.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]))
        .context("the packages of web/package-lock.json could not be installed")?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(node)
}

/// Types, lints and format of the page's sources. None: checked; else why it could not be.
pub fn check(workspace: &Workspace) -> Result<Option<String>> {
    let node = match packages(workspace) {
        Ok(node) => node,
        Err(error) => return Ok(Some(format!("{error:#}"))),
    };
    process::run(node.npm(&workspace.root.join("web")).args(["run", "check"]))?;
    Ok(None)
}

/// The tests of the page: its functions, and where a browser is, the page itself on a real cluster. Says whether
/// nothing failed.
pub fn test(workspace: &Workspace) -> Result<bool> {
    let node = match packages(workspace) {
        Ok(node) => node,
        Err(error) => {
            report::note(&format!("SKIPPED  tests of the web page: {error:#}"));
            return Ok(true);
        }
    };
    let folder = workspace.root.join("web");
    // Whatever fails here, the browser is tried too: who waited for the build wants all that is wrong.
    let functions = process::run(node.npm(&folder).args(["run", "test"]));
    let browser = match browser() {
        Some(browser) => process::run(
            node.npm(&folder)
                .args(["run", "browser"])
                .env("MARQUEE_BIN_DIR", &workspace.bin_dir)
                .env("MARQUEE_CHROMIUM", browser),
        ),
        None => {
            report::note(&format!(
                "SKIPPED  tests in a browser: none of {} is on PATH; apt install chromium, or set MARQUEE_CHROMIUM",
                BROWSERS.join(", ")
            ));
            Ok(())
        }
    };
    for error in [&functions, &browser]
        .into_iter()
        .filter_map(|r| r.as_ref().err())
    {
        report::note(&format!("FAILED   {error:#}"));
    }
    Ok(functions.is_ok() && browser.is_ok())
}

/// The program that measures the page in a browser, on daemons in `bin_dir`. Err within: why it cannot run here.
pub fn measuring(workspace: &Workspace, bin_dir: &Path) -> Result<Result<Command, String>> {
    let node = packages(workspace)?;
    let Some(browser) = browser() else {
        let why = format!("none of {} is on PATH", BROWSERS.join(", "));
        return Ok(Err(why));
    };
    let mut command = node.npm(&workspace.root.join("web"));
    command
        .args(["run", "--silent", "measure", "--"])
        .env("MARQUEE_BIN_DIR", bin_dir)
        .env("MARQUEE_CHROMIUM", browser);
    Ok(Ok(command))
}

fn browser() -> Option<PathBuf> {
    match std::env::var_os("MARQUEE_CHROMIUM") {
        Some(named) if !named.is_empty() => Some(named.into()),
        _ => BROWSERS.iter().find_map(|name| process::on_path(name)),
    }
}

/// Tells whether files are as they were: names and contents of everything below some paths.
fn digest(root: &Path, paths: &[&str]) -> Result<String> {
    let mut files = Vec::new();
    for path in paths {
        collect(&root.join(path), &mut files)?;
    }
    files.sort();
    let mut hash = DefaultHasher::new();
    for file in files {
        // What is generated follows from the rest.
        if file.starts_with(root.join("web/src/gen")) {
            continue;
        }
        let contents =
            fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        // The name below the checkout: in another folder the same sources make the same page.
        file.strip_prefix(root)?.hash(&mut hash);
        contents.hash(&mut hash);
    }
    Ok(format!("{:016x}\n", hash.finish()))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_built_anew_when_a_source_changes_is_renamed_or_goes() {
        let checkout = tempfile::tempdir().unwrap();
        let root = checkout.path();
        let write = |name: &str, text: &str| {
            let file = root.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write("web/src/main.ts", "one");
        write("web/src/deep/view.ts", "two");
        write("web/index.html", "three");
        let of = || digest(root, &["web/src", "web/index.html"]).unwrap();
        let first = of();
        assert_eq!(of(), first);
        // What is generated follows from the rest, and what is not named counts for nothing.
        write("web/src/gen/api.ts", "generated");
        write("web/notes.md", "notes");
        assert_eq!(of(), first);
        let mut seen = vec![first.clone()];
        let mut next = || {
            let digest = of();
            assert!(!seen.contains(&digest), "as it was before");
            seen.push(digest);
        };
        write("web/src/deep/view.ts", "twO");
        next();
        fs::rename(root.join("web/src/main.ts"), root.join("web/src/start.ts")).unwrap();
        next();
        fs::remove_file(root.join("web/src/deep/view.ts")).unwrap();
        next();
        // The end of one file is not the beginning of the next.
        write("web/src/a.ts", "xy");
        write("web/src/b.ts", "z");
        next();
        write("web/src/a.ts", "x");
        write("web/src/b.ts", "yz");
        next();
        fs::remove_file(root.join("web/index.html")).unwrap();
        let error = digest(root, &["web/src", "web/index.html"]).unwrap_err();
        assert!(error.to_string().contains("index.html"), "{error}");
    }

    #[test]
    fn all_that_the_page_is_made_of_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for source in SOURCES {
            assert!(root.join(source).exists(), "{source} has moved");
        }
    }
}
