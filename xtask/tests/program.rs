//! The program itself: what it prints where, and its exit code.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::process::{Command, Output};

fn run(words: &[&str], folder: &std::path::Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_marquee-xtask"))
        .args(words)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).unwrap()
}

#[test]
fn help_is_an_answer_and_what_is_not_understood_an_error_that_names_it() {
    let here = std::env::temp_dir();
    for words in [
        &[][..],
        &["help"],
        &["check", "--help"],
        &["demo", "--films", "3", "--help"],
    ] {
        let ran = run(words, &here);
        assert!(ran.status.success(), "{words:?}");
        assert!(
            text(&ran.stdout).contains("Usage: cargo xtask"),
            "{words:?}"
        );
        assert_eq!(text(&ran.stderr), "", "{words:?}");
    }
    for (words, named) in [
        (&["chekc"][..], "chekc"),
        (&["check", "fmtt"], "there is no check \"fmtt\""),
        (&["check", "--all"], "--all"),
        (&["test", "lost_worker"], "cargo xtask test -- lost_worker"),
        (&["demo", "--films", "0"], "1 or more"),
        (&["demo", "--films"], "--films"),
        (&["setup", "now"], "now"),
        (&["sqlx-prepare", "--chekc"], "--chekc"),
    ] {
        let ran = run(words, &here);
        assert_eq!(ran.status.code(), Some(1), "{words:?}");
        assert_eq!(
            text(&ran.stdout),
            "",
            "{words:?}: data alone goes to stdout"
        );
        let said = text(&ran.stderr);
        assert!(
            said.starts_with("error: ") && said.contains(named),
            "{words:?}: {said}"
        );
    }
}
