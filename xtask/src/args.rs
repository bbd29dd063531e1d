//! The command line of the daily tasks. Those of the lab are handed on, words and all.

use std::path::PathBuf;

use anyhow::{Result, bail};
use marquee_xtask::check;
use marquee_xtask::demo;
use marquee_xtask::sim;
use marquee_xtask::words::{none, path_option, split, unknown};

use crate::help;

/// Tasks of the crate `marquee-xtask-lab`.
const LAB: [&str; 12] = [
    "trainer",
    "sample",
    "weights-check",
    "study",
    "transfer",
    "zoo-check",
    "gpu-check",
    "data-check",
    "dist",
    "cluster-test",
    "fuzz",
    "bench",
];

/// What the user asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Help(&'static str),
    Setup,
    Demo(demo::Options),
    Test {
        filter: Vec<String>,
    },
    /// With the words for the program that does it.
    Chaos(Vec<String>),
    Check {
        names: Vec<String>,
    },
    Sim(sim::Options),
    Notice,
    Web,
    SqlxPrepare {
        check: bool,
    },
    NcclShim {
        to: Option<PathBuf>,
    },
    /// A task of the lab, with its words.
    Lab(Vec<String>),
}

/// Reads the words after `cargo xtask`.
pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Task> {
    let Some((task, rest, wants_help)) = split(words) else {
        return Ok(Task::Help(help::HELP));
    };
    let help = |text| Ok(Task::Help(text));
    match task.as_str() {
        "help" | "--help" | "-h" => help(help::HELP),
        "demo" if wants_help => help(help::DEMO),
        "demo" => Ok(Task::Demo(parse_demo(rest)?)),
        "test" if wants_help => help(help::TEST),
        "test" => parse_test(rest),
        "chaos" if wants_help => help(help::CHAOS),
        "chaos" => Ok(Task::Chaos(rest)),
        "check" if wants_help => help(help::CHECK),
        "check" => parse_check(rest),
        "sim" if wants_help => help(help::SIM),
        "sim" => Ok(Task::Sim(parse_sim(rest)?)),
        "notice" if wants_help => help(help::NOTICE),
        "notice" => none("notice", &rest).map(|()| Task::Notice),
        "web" if wants_help => help(help::WEB),
        "web" => none("web", &rest).map(|()| Task::Web),
        "setup" if wants_help => help(help::SETUP),
        "setup" => none("setup", &rest).map(|()| Task::Setup),
        "nccl-shim" if wants_help => help(help::NCCL_SHIM),
        "nccl-shim" => Ok(Task::NcclShim {
            to: path_option("nccl-shim", "--to", &rest)?,
        }),
        "sqlx-prepare" if wants_help => help(help::SQLX_PREPARE),
        "sqlx-prepare" => match rest.as_slice() {
            [] => Ok(Task::SqlxPrepare { check: false }),
            [flag] if flag == "--check" => Ok(Task::SqlxPrepare { check: true }),
            [other, ..] => Err(unknown("sqlx-prepare", other)),
        },
        // With its words as they are: the lab reads them itself, and prints its own help.
        known if LAB.contains(&known) => Ok(Task::Lab([vec![task], rest].concat())),
        other => bail!(r#"there is no task "{other}"; "cargo xtask help" lists the tasks"#),
    }
}

fn parse_demo(words: Vec<String>) -> Result<demo::Options> {
    let mut options = demo::Options::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word == "--" {
            options.more = words.collect();
            break;
        }
        let (name, inline) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word.clone(), None),
        };
        let mut value = |what: &str| {
            inline
                .clone()
                // The next option is not the value that was forgotten.
                .or_else(|| words.next().filter(|next| !next.starts_with("--")))
                .ok_or_else(|| anyhow::anyhow!(r#""{name}" needs {what}, as in "{name} {what}""#))
        };
        match name.as_str() {
            "--keep" if inline.is_none() => options.keep = true,
            "--json" if inline.is_none() => options.json = true,
            "--films" => options.films = Some(parse_films(&value("N")?)?),
            "--data-dir" => options.data_dir = Some(value("DIR")?),
            _ => return Err(unknown("demo", &word)),
        }
    }
    Ok(options)
}

fn parse_films(text: &str) -> Result<u32> {
    match text.parse() {
        Ok(films) if films > 0 => Ok(films),
        _ => bail!(r#""--films {text}": give a whole number of films, 1 or more"#),
    }
}

fn parse_sim(words: Vec<String>) -> Result<sim::Options> {
    let mut options = sim::Options::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let (name, inline) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word.clone(), None),
        };
        let number = match name.as_str() {
            "--seeds" => &mut options.seeds,
            "--first" => &mut options.first,
            "--minutes" => &mut options.minutes,
            "--replay" => &mut options.replay,
            "--planted" => {
                let value = inline.or_else(|| words.next());
                let value = value.ok_or_else(|| {
                    anyhow::anyhow!(r#""--planted" needs a NAME, or "all", as in "--planted all""#)
                })?;
                options.planted = Some(value);
                continue;
            }
            _ => return Err(unknown("sim", &word)),
        };
        let Some(value) = inline.or_else(|| words.next()) else {
            bail!(r#""{name}" needs a number, as in "{name} 200""#);
        };
        match value.parse() {
            Ok(parsed) => *number = Some(parsed),
            Err(_) => bail!(r#""{name} {value}": give a whole number"#),
        }
    }
    Ok(options)
}

fn parse_test(words: Vec<String>) -> Result<Task> {
    let mut words = words.into_iter();
    match words.next() {
        None => Ok(Task::Test { filter: Vec::new() }),
        Some(dashes) if dashes == "--" => Ok(Task::Test {
            filter: words.collect(),
        }),
        Some(other) => bail!(
            r#""cargo xtask test" does not know "{other}"; arguments for the test runner go after --: cargo xtask test -- {other}"#
        ),
    }
}

fn parse_check(words: Vec<String>) -> Result<Task> {
    let names = check::NAMES.join(", ");
    for word in &words {
        if word.starts_with('-') {
            return Err(unknown("check", word));
        }
        if !check::NAMES.contains(&word.as_str()) {
            bail!(r#"there is no check "{word}"; the checks are {names}"#);
        }
    }
    Ok(Task::Check { names: words })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Task> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn demo_takes_its_options_in_both_spellings() {
        let expected = Task::Demo(demo::Options {
            keep: true,
            json: true,
            films: Some(300),
            data_dir: Some("/tmp/d".into()),
            more: vec!["--set".into(), "a=1".into()],
        });
        assert_eq!(
            words("demo --keep --json --films 300 --data-dir=/tmp/d -- --set a=1").unwrap(),
            expected
        );
        assert_eq!(
            words("demo --films=300 --json --data-dir /tmp/d --keep -- --set a=1").unwrap(),
            expected
        );
    }

    #[test]
    fn a_word_that_is_not_understood_is_named() {
        for (line, named) in [
            ("dmeo", r#""dmeo""#),
            ("demo --flims 3", r#""--flims""#),
            ("demo --keep=yes", r#""--keep=yes""#),
            ("demo --films", r#""--films" needs N"#),
            ("demo --films none", r#""--films none""#),
            ("demo --films 0", r#""--films 0""#),
            ("demo --films -3", r#""--films -3""#),
            ("demo --films 99999999999", r#""--films 99999999999""#),
            ("demo --data-dir", r#""--data-dir" needs DIR"#),
            ("demo --data-dir --keep", r#""--data-dir" needs DIR"#),
            ("demo here", r#""here""#),
            ("DEMO", r#""DEMO""#),
            ("check fmt fmtt", r#"no check "fmtt""#),
            ("notice all", r#""all""#),
            ("web --watch", r#""--watch""#),
            ("sim 3", r#""3""#),
            ("sim --first -1", r#""--first -1""#),
            ("sim --minutes 1.5", r#""--minutes 1.5""#),
            (
                "nccl-shim --to",
                r#""cargo xtask nccl-shim --to" needs a path"#,
            ),
            ("nccl-shim --to a b", r#""b""#),
            ("sqlx-prepare --check twice", r#""--check""#),
            ("test store", "cargo xtask test -- store"),
            ("check fast", r#"no check "fast"; the checks are fmt, "#),
            ("check --fast", r#""--fast""#),
            ("setup now", r#""now""#),
            ("sim --seeds many", r#""--seeds many""#),
            ("sim --replay", r#""--replay" needs a number"#),
            ("sim --planted", r#""--planted" needs a NAME"#),
            ("sim --sedes 3", r#""--sedes""#),
            ("nccl-shim here", r#""here""#),
            ("sqlx-prepare --chekc", r#""--chekc""#),
        ] {
            let message = words(line).unwrap_err().to_string();
            assert!(message.contains(named), "{line}: {message}");
        }
    }

    #[test]
    fn a_simulation_takes_its_numbers_in_both_spellings() {
        let expected = Task::Sim(sim::Options {
            seeds: Some(200),
            first: Some(7),
            minutes: Some(10),
            replay: None,
            planted: Some("all".into()),
        });
        let line = "sim --seeds 200 --first=7 --minutes 10 --planted=all";
        assert_eq!(words(line).unwrap(), expected);
    }

    #[test]
    fn checks_are_chosen_by_name() {
        let names = vec!["circles".to_owned(), "fmt".to_owned()];
        assert_eq!(words("check circles fmt").unwrap(), Task::Check { names });
        let names = Vec::new();
        assert_eq!(words("check").unwrap(), Task::Check { names });
    }

    #[test]
    fn chaos_gets_its_words_as_they_are() {
        let expected = Task::Chaos(vec!["--minutes".into(), "10".into()]);
        assert_eq!(words("chaos --minutes 10").unwrap(), expected);
        assert_eq!(words("chaos --help").unwrap(), Task::Help(help::CHAOS));
    }

    #[test]
    fn what_follows_the_dashes_belongs_to_the_test_runner() {
        assert_eq!(
            words("test -- --help lost").unwrap(),
            Task::Test {
                filter: vec!["--help".into(), "lost".into()]
            }
        );
        assert_eq!(words("test --help").unwrap(), Task::Help(help::TEST));
    }

    #[test]
    fn the_lab_gets_its_tasks_word_for_word() {
        let line = "bench train --help -- x";
        let expected = line.split_whitespace().map(str::to_owned).collect();
        assert_eq!(words(line).unwrap(), Task::Lab(expected));
    }

    #[test]
    fn the_list_of_tasks_names_each_that_there_is_and_no_other() {
        let tasks = help::HELP
            .lines()
            .skip_while(|line| *line != "Tasks:")
            .skip(1);
        let names = tasks
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_whitespace().next());
        let mut listed: Vec<&str> = names.collect();
        for name in &listed {
            let message = match words(name) {
                Ok(_) => continue,
                Err(error) => error.to_string(),
            };
            assert!(!message.contains("no task"), "{message}");
        }
        let mut known = vec![
            "demo",
            "test",
            "chaos",
            "check",
            "setup",
            "sim",
            "sqlx-prepare",
            "web",
            "nccl-shim",
            "notice",
            "help",
        ];
        known.extend(LAB);
        known.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, known);
    }

    /// What stands in the documents in the form of a command line, and behind what it is typed.
    fn documented() -> Vec<(String, Vec<String>)> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files = vec![
            root.join("README.md"),
            root.join("ARCHITECTURE.md"),
            root.join("migrations/README.md"),
        ];
        for entry in std::fs::read_dir(root.join("docs")).unwrap() {
            let file = entry.unwrap().path();
            if file.extension().is_some_and(|end| end == "md") {
                files.push(file);
            }
        }
        let mut found = Vec::new();
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            for line in text.lines() {
                for part in line.split("cargo xtask ").skip(1) {
                    let part = part
                        .split(['`', '"', '\'', ')', '<', '#', ';', ',', ':', '|'])
                        .next()
                        .unwrap_or_default();
                    let words: Vec<String> = part.split_whitespace().map(str::to_owned).collect();
                    if !words.is_empty() && !part.contains('[') {
                        found.push((format!("{}: {line}", file.display()), words));
                    }
                }
            }
        }
        found
    }

    #[test]
    fn every_task_that_a_document_names_is_there_and_takes_what_stands_behind_it() {
        let documented = documented();
        assert!(documented.len() > 25, "{}", documented.len());
        for (place, words) in documented {
            let parsed = parse(words.clone());
            // A sentence may go on behind a task's name.
            let alone = parse([words[0].clone()]);
            let is_known =
                parsed.is_ok() || (alone.is_ok() && words.len() > 1 && !words[1].starts_with('-'));
            assert!(is_known, "{place}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn help_goes_before_whatever_else_is_wrong() {
        for task in [
            "demo",
            "test",
            "check",
            "sim",
            "notice",
            "web",
            "setup",
            "nccl-shim",
            "sqlx-prepare",
            "chaos",
        ] {
            let line = format!("{task} --no-such-word -h");
            let Ok(Task::Help(text)) = words(&line) else {
                panic!("{line}: no help");
            };
            assert!(
                text.contains(&format!("cargo xtask {task}")),
                "{task}: {text}"
            );
            assert!(text.lines().all(|line| !line.ends_with(' ')), "{task}");
        }
        for line in ["help", "--help", "-h", ""] {
            assert_eq!(words(line).unwrap(), Task::Help(help::HELP));
        }
    }
}
