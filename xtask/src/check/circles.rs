//! No circles of files: two files that need each other are one thing in two places, and neither can be
//! read, tested or moved alone.
//!
//! A file needs another when it names something that the other defines: in a `use`, or with a path in the
//! code. A re-export leads to where the thing is defined, and is no need by itself. Tests do not count.
//! A file may use what the modules above it define: a parent holds what its children share, and calls them.

mod graph;
mod lexer;
mod modules;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::Outcome;
use crate::workspace::Workspace;
use graph::{Circle, Graph};

/// Circles that are there and wait to be cut: all their files, below the checkout. The list only shrinks:
/// a circle that is gone must be taken out of it, so that it cannot come back.
const TOLERATED: &[&[&str]] = &[];

pub(super) fn check(workspace: &Workspace) -> Result<Outcome> {
    let folders = workspace.packages.iter().map(|package| &package.folder);
    let circles = of_packages(&workspace.root, folders)?;
    let broken = judge(&circles, TOLERATED);
    if !broken.is_empty() {
        bail!("{}", broken.join("\n"));
    }
    Ok(Outcome::Passed)
}

/// The circles of the packages in these folders, each with all programs and libraries that it has.
fn of_packages<'f>(root: &Path, folders: impl Iterator<Item = &'f PathBuf>) -> Result<Vec<Circle>> {
    let mut circles = Vec::new();
    for folder in folders {
        // Each by itself: a program names its library as a foreign crate, which leads back to no
        // file of its own.
        for main in ["lib.rs", "main.rs"] {
            let main = folder.join("src").join(main);
            if main.is_file() {
                let uses = modules::read(&main)?;
                circles.extend(Graph::new(uses, root).circles());
            }
        }
    }
    Ok(circles)
}

/// What is wrong: circles that nobody tolerates, and what is tolerated without need.
fn judge(circles: &[Circle], tolerated: &[&[&str]]) -> Vec<String> {
    let covers = |known: &[&str], circle: &Circle| {
        let known: BTreeSet<&str> = known.iter().copied().collect();
        circle
            .files
            .iter()
            .all(|file| known.contains(file.as_str()))
    };
    let new = circles
        .iter()
        .filter(|circle| !tolerated.iter().any(|known| covers(known, circle)));
    let gone = tolerated
        .iter()
        .filter(|known| !circles.iter().any(|circle| covers(known, circle)));
    let new = new.map(Circle::to_string);
    let gone = gone.map(|known| {
        format!(
            "the circle of {} is gone: take it out of the list in {}",
            known.join(", "),
            file!()
        )
    });
    new.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The circles of a crate with these files.
    fn circles(files: &[(&str, &str)]) -> Vec<Circle> {
        let folder = Folder::new();
        for (name, text) in files {
            let file = folder.0.join("one/src").join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        of_packages(&folder.0, [folder.0.join("one")].iter()).unwrap()
    }

    /// A folder of a test's own, removed with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            use std::sync::atomic::{AtomicU32, Ordering};
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("marquee-circles-{}-{number}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn files_of(circles: &[Circle]) -> Vec<Vec<&str>> {
        circles
            .iter()
            .map(|circle| circle.files.iter().map(String::as_str).collect())
            .collect()
    }

    const LIB: (&str, &str) = ("lib.rs", "mod a;\nmod b;\nmod c;\n");
    const A: &str = "one/src/a.rs";
    const B: &str = "one/src/b.rs";
    const C: &str = "one/src/c.rs";

    #[test]
    fn two_files_that_use_each_other_are_a_circle_and_a_line_of_three_is_none() {
        let found = circles(&[
            LIB,
            ("a.rs", "use super::b;\nfn f() { b::g() }\n"),
            ("b.rs", "use crate::{c::X, a::{self, f}};\n"),
            ("c.rs", "pub struct X;\n"),
        ]);
        assert_eq!(files_of(&found), [[A, B]]);
        let text = found[0].to_string();
        assert!(
            text.contains("one/src/a.rs:1") && text.contains("super::b"),
            "{text}"
        );
        assert!(
            text.contains("one/src/b.rs:1") && text.contains("crate::a"),
            "{text}"
        );
        let none = circles(&[
            LIB,
            ("a.rs", "use super::b;\n"),
            ("b.rs", "use super::c;\n"),
            ("c.rs", "\n"),
        ]);
        assert!(none.is_empty(), "{none:?}");
    }

    #[test]
    fn a_path_in_the_code_counts_and_one_in_a_comment_a_string_or_a_test_does_not() {
        let a = ("a.rs", "use super::b;\n");
        for (text, is_circle) in [
            ("fn f() { crate::a::g() }", true),
            ("fn f(x: super::a::G<'static>) -> char { 'x' }", true),
            (
                "// crate::a::g()\n/* crate::a::g() /* nested */ crate::a */",
                false,
            ),
            ("const S: &str = \"crate::a::g\\\" crate::a\";", false),
            ("const S: &str = r#\"crate::a::g \" \"#;", false),
            (
                "#[cfg(test)]\nmod tests { use crate::a; fn f() { if x { } } }",
                false,
            ),
            ("#[cfg(test)]\nuse crate::a;", false),
            ("#[cfg(not(test))]\nuse crate::a;", true),
            ("#[cfg(test)]\nfn f() {}\nuse crate::a;", true),
            ("fn quote() -> char { '\"' }\nuse crate::a;", true),
            ("use other::a;", false),
            ("mod inner { use super::super::a; }", true),
            ("mod inner { use super::a; }", false),
        ] {
            let found = circles(&[LIB, a, ("b.rs", text), ("c.rs", "")]);
            assert_eq!(!found.is_empty(), is_circle, "{text}: {found:?}");
        }
    }

    #[test]
    fn a_re_export_leads_to_where_the_thing_is_defined() {
        // `b` uses what `c` exports of its child, and only the child of `c` that `b` does not use
        // uses `b`.
        let with = |b: &str| {
            circles(&[
                LIB,
                ("a.rs", ""),
                ("b.rs", b),
                (
                    "c.rs",
                    "mod low;\nmod high;\npub use low::Low;\npub use high::High as Top;\n",
                ),
                ("c/low.rs", "pub struct Low;\n"),
                ("c/high.rs", "use crate::b;\npub struct High;\n"),
            ])
        };
        let none = with("use crate::c::Low;\n");
        assert!(none.is_empty(), "{none:?}");
        let found = with("use crate::c::Top;\n");
        assert_eq!(files_of(&found), [[B, "one/src/c/high.rs"]]);
    }

    #[test]
    fn parent_and_child_may_use_each_other_but_not_by_way_of_a_third() {
        let child = (
            "b/child.rs",
            "use super::Shared;\nuse super::super::b::Other;\npub fn go() {}\n",
        );
        let parent = (
            "b.rs",
            "mod child;\npub struct Shared;\nfn f() { child::go() }\n",
        );
        let none = circles(&[LIB, ("a.rs", ""), parent, child, ("c.rs", "")]);
        assert!(none.is_empty(), "{none:?}");
        let child = ("b/child.rs", "use crate::c;\npub fn go() {}\n");
        let found = circles(&[
            LIB,
            ("a.rs", ""),
            parent,
            child,
            ("c.rs", "use crate::b::Shared;\n"),
        ]);
        assert_eq!(files_of(&found), [[B, "one/src/b/child.rs", C]]);
    }

    #[test]
    fn the_shortest_circle_of_many_is_told_with_all_files_that_hang_together() {
        let found = circles(&[
            LIB,
            ("a.rs", "use super::b;\nuse super::c;\n"),
            ("b.rs", "use super::c;\n"),
            ("c.rs", "use super::a;\n"),
        ]);
        assert_eq!(files_of(&found), [[A, B, C]]);
        assert_eq!(found[0].steps.len(), 2, "{:?}", found[0].steps);
    }

    #[test]
    fn a_tolerated_circle_may_shrink_but_not_grow_and_its_end_is_told() {
        let circle = |files: &[&str]| Circle {
            files: files.iter().map(|file| (*file).to_owned()).collect(),
            steps: Vec::new(),
        };
        let known: &[&[&str]] = &[&[A, B, C]];
        assert!(judge(&[circle(&[A, B])], known).is_empty());
        let grown = judge(&[circle(&[A, B, C, "one/src/d.rs"])], known);
        assert_eq!(grown.len(), 2, "{grown:?}");
        assert!(grown[1].contains("is gone"), "{grown:?}");
        assert!(judge(&[], known)[0].contains("is gone"));
    }
}
