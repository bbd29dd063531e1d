//! What every command has in common: it explains itself, refuses what it does not know, and says the same where
//! nobody answers. Commands are found in the help, so that a new one is tried too.

use std::process::Stdio;

use super::{Home, Ran, nobody};

/// The commands and their own commands, as the help lists them: `jobs`, `audit verify`.
fn commands(home: &Home) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for name in listed(home, &[]) {
        let inner = listed(home, &[&name]);
        all.extend(inner.into_iter().map(|inner| vec![name.clone(), inner]));
        all.push(vec![name]);
    }
    all
}

/// The names below "Commands:" in the help of a command.
fn listed(home: &Home, of: &[&str]) -> Vec<String> {
    let help = home.run(&[of, &["--help"]].concat());
    let lines = help.out.lines().skip_while(|line| *line != "Commands:");
    // A name stands two columns in; the rest of what is said of it stands further in.
    let names = lines.skip(1).take_while(|line| !line.is_empty());
    names
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn run(home: &Home, words: &[String], more: &[&str]) -> Ran {
    let words: Vec<&str> = words
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect();
    home.run(&words)
}

#[test]
fn every_command_explains_itself_and_refuses_what_it_does_not_know() {
    let home = Home::new();
    let commands = commands(&home);
    assert!(commands.len() > 30, "{commands:?}");
    for words in &commands {
        let ran = run(&home, words, &["--help"]);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{words:?}");
        let usage = format!("Usage: marquee {}", words.join(" "));
        assert!(ran.out.contains(&usage), "{words:?}: {}", ran.out);
        // Read on a terminal of 80 columns or in a log: nothing is painted where it is no terminal.
        assert!(!ran.out.contains('\u{1b}'), "{words:?}");

        let ran = run(&home, words, &["--no-such-option"]);
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (Some(2), ""),
            "{words:?}: {ran:?}"
        );
        assert!(ran.err.contains("--no-such-option"), "{words:?}: {ran:?}");
        assert!(!ran.err.contains("panicked"), "{words:?}: {ran:?}");
    }
}

/// How each command that asks a coordinator is asked for something.
const ASKING: [&[&str]; 33] = [
    &["jobs", "--state", "running"],
    &["jobs", "--search", "a_b%"],
    &["show", "17"],
    &["show", "p3"],
    &["show", "train"],
    &["explain", "17"],
    &["logs", "17"],
    &["logs", "p3/train", "-n", "5"],
    &["metrics", "17"],
    &["cancel", "17"],
    &["cancel", "p3"],
    &["retry", "17"],
    &["hold", "17"],
    &["release", "17"],
    &["move", "17"],
    &["rm", "p3", "--yes"],
    &["gc", "--dry-run"],
    &["keep", "p3"],
    &["wait", "17"],
    &["top", "--once"],
    &["workers", "--gpus"],
    &["drain", "gpu-1"],
    &["resume", "gpu-1"],
    &["quarantine", "gpu-1/0"],
    &["burn-in", "gpu-1/0"],
    &["project", "list"],
    &["project", "set", "vision", "--weight", "2"],
    &["quota"],
    &["artifacts", "ls"],
    &["artifacts", "get", "17"],
    &["audit", "verify"],
    &["audit", "log"],
    &["report", "17"],
];

#[test]
fn every_command_that_asks_says_the_same_where_nobody_answers() {
    let home = Home::new();
    let addr = nobody();
    // Each tries for some seconds: they wait side by side.
    let running: Vec<_> = ASKING
        .iter()
        .map(|words| {
            let mut command = home.command(words);
            command.args(["--addr", &addr]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    for (words, child) in ASKING.iter().zip(running) {
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (Some(3), ""),
            "{words:?}: {ran:?}"
        );
        for said in [addr.as_str(), "--addr", "Connection refused"] {
            assert!(ran.err.contains(said), "{words:?} says {said}: {ran:?}");
        }
        assert_eq!(ran.err.matches("error:").count(), 1, "{words:?}: {ran:?}");
    }
    // What is written is written when there is an answer.
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_name_that_can_be_none_is_refused_before_anybody_is_asked() {
    let home = Home::new();
    let addr = nobody();
    for (words, named) in [
        (&["show", ""][..], "''"),
        (&["show", "17[x]"], "17[x]"),
        (&["show", "-1"], "-1"),
        (&["logs", "99999999999999999999"], "99999999999999999999"),
        (&["wait"], "JOB|PIPELINE"),
        (&["jobs", "-n", "many"], "many"),
        (&["logs", "17", "-n", "0"], "0"),
        (&["quarantine", "gpu-1/first"], "gpu-1/first"),
        (&["drain", "gpu-1", "--deadline", "soon"], "soon"),
        (&["project", "set", "Vision!"], "Vision!"),
        (&["project", "set", "vision", "--weight", "heavy"], "heavy"),
        (&["project", "set", "vision", "--gpus", "-1"], "-1"),
        (
            &["audit", "log", "--since", "yesterday-ish"],
            "yesterday-ish",
        ),
        (&["up", "--workers", "0"], "0"),
        (&["up", "--listen", "7700"], "7700"),
        (&["bench", "--steps", "1"], "11"),
        (&["completions", "cmd"], "bash"),
    ] {
        let mut command = home.command(words);
        command.env("MARQUEE_ADDR", &addr);
        let ran = Ran::from(command.output().unwrap());
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (Some(2), ""),
            "{words:?}: {ran:?}"
        );
        assert!(ran.err.contains(named), "{words:?} names {named}: {ran:?}");
    }
}
