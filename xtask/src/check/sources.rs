//! Rules that are cheap to read off the sources: the scheduler is pure, SQL is in the store, every
//! public error code has its page, no test file is left out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::Outcome;
use crate::workspace::Workspace;

/// Words of code that bring IO, a clock or chance into a function. `chrono`'s types are data and
/// allowed, and so is an argument called `now`.
const IMPURE_WORDS: [&str; 6] = ["sqlx", "tokio", "tonic", "rand", "Instant", "SystemTime"];
const IMPURE_PATHS: [&str; 5] = ["::now(", "std::fs", "std::net", "std::env", "std::thread"];

pub(super) fn check(workspace: &Workspace) -> Result<Outcome> {
    let root = &workspace.root;
    let mut broken = impure_scheduler(&root.join("coordinator/src/scheduler"))?;
    broken.extend(sql_outside_the_store(root)?);
    broken.extend(error_pages(
        &fs::read_to_string(root.join("proto/src/error.rs"))?,
        &file_stems(&root.join("docs/errors"))?,
    ));
    broken.extend(left_out_tests(root)?);
    for package in &workspace.packages {
        for main in &package.untested {
            broken.extend(tests_without_a_program(main)?);
        }
    }
    if !broken.is_empty() {
        bail!("{}", broken.join("\n"));
    }
    Ok(Outcome::Passed)
}

fn impure_scheduler(folder: &Path) -> Result<Vec<String>> {
    let mut files = rust_files(folder)?;
    // Where there is nothing to check, a check would pass for ever.
    if files.is_empty() {
        bail!(
            "{} holds no Rust file; has the scheduler moved?",
            folder.display()
        );
    }
    // Tests may draw their inputs by chance.
    files.retain(|file| !file.ends_with("tests.rs"));
    let mut broken = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file)?;
        for (number, what) in impure_code(&text) {
            broken.push(format!(
                "{}:{number}: the scheduler is a pure function and does without \"{what}\"",
                file.display()
            ));
        }
    }
    Ok(broken)
}

fn impure_code(text: &str) -> Vec<(usize, &'static str)> {
    let impure_in = |line: &str| -> Vec<&'static str> {
        let is_word = |what: &str| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| word == what)
        };
        let words = IMPURE_WORDS.into_iter().filter(|word| is_word(word));
        let paths = IMPURE_PATHS.into_iter().filter(|path| line.contains(path));
        words.chain(paths).collect()
    };
    code_lines(text)
        .flat_map(|(number, line)| {
            // A message may speak of "tokio"; only code brings it in.
            let outside_strings: String = line.split('"').step_by(2).collect();
            let found = impure_in(&outside_strings);
            found.into_iter().map(move |what| (number, what))
        })
        .collect()
}

/// `sqlx::query` in the sources of any other crate.
fn sql_outside_the_store(root: &Path) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for entry in fs::read_dir(root)? {
        let folder = entry?.path();
        // This file itself holds the words that it looks for.
        let is_exempt = folder.ends_with("store") || folder.ends_with("xtask");
        let src = folder.join("src");
        if is_exempt || !src.is_dir() {
            continue;
        }
        for file in rust_files(&src)? {
            let text = fs::read_to_string(&file)?;
            for (number, _) in code_lines(&text).filter(|(_, line)| line.contains("sqlx::query")) {
                broken.push(format!(
                    "{}:{number}: SQL belongs in the store",
                    file.display()
                ));
            }
        }
    }
    Ok(broken)
}

/// Codes are string literals like "MQ0101" in the one enum that defines them.
fn error_pages(enum_source: &str, pages: &BTreeSet<String>) -> Vec<String> {
    let is_code = |text: &&str| {
        let digits = text.strip_prefix("MQ").unwrap_or_default();
        digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let codes: BTreeSet<&str> = enum_source.split('"').filter(is_code).collect();
    // Where there is nothing to check, a check would pass for ever.
    if codes.is_empty() {
        return vec![
            "proto/src/error.rs holds no error code like \"MQ0101\"; have they moved?".to_owned(),
        ];
    }
    let missing = codes.iter().filter(|code| !pages.contains(**code));
    let missing = missing.map(|code| format!("error {code} has no page docs/errors/{code}.md"));
    let orphaned = pages
        .iter()
        .filter(|page| page.starts_with("MQ") && !codes.contains(page.as_str()))
        .map(|page| format!("docs/errors/{page}.md describes an error that does not exist"));
    missing.chain(orphaned).collect()
}

/// Test files beside a `tests/main.rs` that does not name them: they would never be built, nor fail.
fn left_out_tests(root: &Path) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for entry in fs::read_dir(root)? {
        let folder = entry?.path().join("tests");
        // Without a tests/main.rs cargo builds every file there as a program of its own: none can be left out.
        let Ok(main) = fs::read_to_string(folder.join("main.rs")) else {
            continue;
        };
        broken.extend(
            left_out(&main, &folder)?
                .into_iter()
                .map(|name| format!("{}/main.rs: add `mod {name};`", folder.display())),
        );
    }
    Ok(broken)
}

/// Tests in a program or library that is built without them: they would never run, nor fail. Looks at its first file
/// and at the modules that this one names.
fn tests_without_a_program(main: &Path) -> Result<Vec<String>> {
    let text =
        fs::read_to_string(main).with_context(|| format!("cannot read {}", main.display()))?;
    let folder = main.parent().unwrap_or(main);
    let modules = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("mod ")?.strip_suffix(';'));
    let modules = modules.flat_map(|name| {
        [
            folder.join(format!("{name}.rs")),
            folder.join(name).join("mod.rs"),
        ]
    });
    let files = std::iter::once(main.to_owned()).chain(modules);
    let mut broken = Vec::new();
    for file in files.filter(|file| file.is_file()) {
        let text = fs::read_to_string(&file)?;
        if code_lines(&text).any(|(_, line)| line.contains("test]") || line.contains("cfg(test)")) {
            broken.push(format!(
                "{} has tests, and its Cargo.toml says `test = false`",
                file.display()
            ));
        }
    }
    Ok(broken)
}

/// Names of the files and modules in `folder` that `main` has no `mod` for.
fn left_out(main: &str, folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_module = path.join("mod.rs").is_file()
            || (path.extension().is_some_and(|end| end == "rs") && !path.ends_with("main.rs"));
        if let Some(name) = path.file_stem().filter(|_| is_module) {
            let name = name.to_string_lossy().into_owned();
            if !main.lines().any(|line| line == format!("mod {name};")) {
                names.push(name);
            }
        }
    }
    names.sort();
    Ok(names)
}

fn file_stems(folder: &Path) -> Result<BTreeSet<String>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut stems = BTreeSet::new();
    for entry in entries {
        let path = entry?.path();
        stems.extend(
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned()),
        );
    }
    Ok(stems)
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Numbered lines without what follows `//`.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = |line: &'_ str| line.find("//").unwrap_or(line.len());
    (1..)
        .zip(text.lines())
        .map(move |(number, line)| (number, &line[..code(line)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_or_io_in_code_is_found_and_in_comments_and_strings_not() {
        let text = "use chrono::DateTime; // never Utc::now()\n\
                    fn place(now: DateTime<Utc>) { let s = \"tokio, Utc::now()\"; }\n\
                    let late = Utc::now();\nuse sqlx::PgPool;\nuse std::time::{Duration, Instant};\n";
        assert_eq!(
            impure_code(text),
            [(3, "::now("), (4, "sqlx"), (5, "Instant")]
        );
    }

    #[test]
    fn a_test_file_that_main_does_not_name_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("support")).unwrap();
        fs::create_dir(at("data")).unwrap();
        for file in [
            "main.rs",
            "jobs.rs",
            "lost.rs",
            "support/mod.rs",
            "data/list.csv",
        ] {
            fs::write(at(file), "").unwrap();
        }
        assert_eq!(
            left_out("mod jobs;\nmod support;\n", folder.path()).unwrap(),
            ["lost"]
        );
    }

    #[test]
    fn tests_in_a_program_that_is_built_without_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let main = at("main.rs");
        fs::write(&main, "mod run;\nmod absent;\nfn main() {} // #[test]\n").unwrap();
        fs::write(at("run.rs"), "pub fn run() {}\n").unwrap();
        // Another program's.
        fs::write(at("lib.rs"), "#[cfg(test)]\nmod tests {}\n").unwrap();
        assert_eq!(tests_without_a_program(&main).unwrap(), [""; 0]);
        fs::write(at("run.rs"), "#[cfg(test)]\nmod tests {}\n").unwrap();
        let broken = tests_without_a_program(&main).unwrap();
        assert!(
            broken.len() == 1 && broken[0].contains("run.rs"),
            "{broken:?}"
        );
        fs::write(&main, "#[tokio::test]\nasync fn it_works() {}\n").unwrap();
        assert_eq!(tests_without_a_program(&main).unwrap().len(), 1);
    }

    /// A checkout with one rule broken at a time.
    #[test]
    fn a_clock_in_the_scheduler_and_sql_outside_the_store_are_named_with_their_line() {
        let checkout = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = checkout.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write("coordinator/src/scheduler/place.rs", "fn place() {}\n");
        write(
            "coordinator/src/scheduler/deep/tests.rs",
            "use rand::Rng;\n",
        );
        write("store/src/jobs.rs", "sqlx::query!(\"SELECT 1\")\n");
        let scheduler = checkout.path().join("coordinator/src/scheduler");
        assert_eq!(impure_scheduler(&scheduler).unwrap(), [""; 0]);
        assert_eq!(sql_outside_the_store(checkout.path()).unwrap(), [""; 0]);
        write(
            "coordinator/src/scheduler/deep/clock.rs",
            "\nfn now() { Utc::now() }\n",
        );
        write(
            "worker/src/rank/spool.rs",
            "//! sqlx::query is not for us\n\nsqlx::query(\"x\");\n",
        );
        let broken = impure_scheduler(&scheduler).unwrap();
        assert!(
            broken.len() == 1 && broken[0].contains("deep/clock.rs:2"),
            "{broken:?}"
        );
        let broken = sql_outside_the_store(checkout.path()).unwrap();
        assert!(
            broken.len() == 1 && broken[0].contains("rank/spool.rs:3"),
            "{broken:?}"
        );
        // A scheduler that has moved away is not taken for a pure one.
        let moved = checkout.path().join("coordinator/src/planner");
        fs::create_dir_all(&moved).unwrap();
        assert!(impure_scheduler(&moved).is_err());
    }

    #[test]
    fn a_code_without_a_page_and_a_page_without_a_code_are_both_named() {
        let pages = BTreeSet::from([
            "MQ0102".to_owned(),
            "MQ0999".to_owned(),
            "README".to_owned(),
        ]);
        let source = r#"Self::A => "MQ0101", Self::B => "MQ0102", "MQ01" "MQabcd""#;
        let broken = error_pages(source, &pages);
        assert_eq!(broken.len(), 2, "{broken:?}");
        assert!(broken[0].contains("MQ0101") && broken[1].contains("MQ0999"));
        assert_eq!(error_pages("no codes", &pages).len(), 1);
    }
}
