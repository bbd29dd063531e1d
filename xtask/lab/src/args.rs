//! The command line of the lab's tasks.

use std::path::PathBuf;

use anyhow::{Result, bail};
use marquee_xtask::words::{none, path_option, split, unknown};

use crate::help;
use crate::{bench, cluster_test, data, dist, gpu_check, trainer, zoo_check};

/// What the user asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Help(&'static str),
    Trainer(trainer::Options),
    Transfer { to: Option<PathBuf> },
    Study { names: Vec<String> },
    WeightsCheck { trained: Option<PathBuf> },
    SampleClipart { to: Option<PathBuf> },
    ZooCheck(zoo_check::Options),
    GpuCheck(gpu_check::Options),
    DataCheck,
    Dist(dist::Options),
    ClusterTest(cluster_test::Options),
    Fuzz(data::FuzzOptions),
    Bench(bench::Options),
}

/// Reads the words after `cargo xtask`, the first of which is one of these tasks.
pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Task> {
    let Some((task, rest, wants_help)) = split(words) else {
        bail!(r#"say which task; "cargo xtask help" lists them"#);
    };
    let help = |text| Ok(Task::Help(text));
    match task.as_str() {
        "trainer" if wants_help => help(help::TRAINER),
        "trainer" => parse_trainer(rest),
        "data-check" if wants_help => help(help::DATA_CHECK),
        "data-check" => none("data-check", &rest).map(|()| Task::DataCheck),
        "dist" if wants_help => help(help::DIST),
        "dist" => parse_dist(rest),
        "cluster-test" if wants_help => help(help::CLUSTER_TEST),
        "cluster-test" => parse_cluster_test(rest),
        "fuzz" if wants_help => help(help::FUZZ),
        "fuzz" => parse_fuzz(rest),
        "bench" if wants_help => help(help::BENCH),
        "bench" => parse_bench(rest),
        "zoo-check" if wants_help => help(help::ZOO_CHECK),
        "zoo-check" => parse_zoo_check(rest),
        "gpu-check" if wants_help => help(help::GPU_CHECK),
        "gpu-check" => parse_gpu_check(rest),
        "sample" if wants_help => help(help::SAMPLE),
        "sample" => parse_sample(&rest),
        "weights-check" if wants_help => help(help::WEIGHTS_CHECK),
        "weights-check" => Ok(Task::WeightsCheck {
            trained: path_option("weights-check", "--trained", &rest)?,
        }),
        "study" if wants_help => help(help::STUDY),
        "study" => match rest.iter().find(|word| word.starts_with('-')) {
            Some(option) => Err(unknown("study", option)),
            None => Ok(Task::Study { names: rest }),
        },
        "transfer" if wants_help => help(help::TRANSFER),
        "transfer" => Ok(Task::Transfer {
            to: path_option("transfer", "--to", &rest)?,
        }),
        other => bail!(r#"there is no task "{other}"; "cargo xtask help" lists the tasks"#),
    }
}

fn parse_sample(words: &[String]) -> Result<Task> {
    match words {
        [what] if what == "clipart" => Ok(Task::SampleClipart { to: None }),
        [what, to, folder] if what == "clipart" && to == "--to" => Ok(Task::SampleClipart {
            to: Some(folder.into()),
        }),
        [] => bail!(r#"say which sample: "cargo xtask sample clipart""#),
        [what, word, ..] if what == "clipart" => Err(unknown("sample clipart", word)),
        [what, ..] => Err(unknown("sample", what)),
    }
}

fn parse_dist(words: Vec<String>) -> Result<Task> {
    let mut options = dist::Options::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--debug" => options.debug = true,
            "--no-deb" => options.no_deb = true,
            "--no-archive" => options.no_archive = true,
            "--no-page" => options.no_page = true,
            "--to" => match words.next() {
                Some(folder) => options.to = Some(folder.into()),
                None => bail!(r#""--to" needs DIR"#),
            },
            _ => return Err(unknown("dist", &word)),
        }
    }
    Ok(Task::Dist(options))
}

fn parse_cluster_test(words: Vec<String>) -> Result<Task> {
    let mut options = cluster_test::Options::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--packages" => match words.next() {
                Some(folder) => options.packages = Some(folder.into()),
                None => bail!(r#""--packages" needs DIR, as "cargo xtask dist" made it"#),
            },
            name if name.starts_with('-') => return Err(unknown("cluster-test", name)),
            name if cluster_test::names().contains(&name) => options.scenes.push(word),
            name => bail!(
                r#"there is no scene "{name}"; the scenes are {}"#,
                cluster_test::names().join(", ")
            ),
        }
    }
    Ok(Task::ClusterTest(options))
}

/// The readers that `marquee-catalogue fuzz` knows.
// Written here once more, so that a wrong word is told before anything is built.
const FUZZ_TARGETS: [&str; 13] = [
    "json",
    "image",
    "shard",
    "table",
    "list",
    "archive",
    "weights",
    "document",
    "overrides",
    "manifest",
    "reports",
    "event",
    "spool",
];

fn parse_fuzz(words: Vec<String>) -> Result<Task> {
    let mut options = data::FuzzOptions::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut value = |what: &str, is_good: fn(&str) -> bool| match words.next() {
            Some(value) if is_good(&value) => Ok(Some(value)),
            Some(value) => bail!(r#""{word} {value}" is not {what}"#),
            None => bail!(r#""{word}" needs {what}"#),
        };
        match word.as_str() {
            "--minutes" => {
                let is_good = |value: &str| {
                    let minutes = value.parse::<f64>();
                    minutes.is_ok_and(|minutes| minutes.is_finite() && minutes >= 0.0)
                };
                options.minutes = value("a number of minutes", is_good)?;
            }
            "--seed" => {
                options.seed = value("a whole number", |value| value.parse::<u64>().is_ok())?;
            }
            name if FUZZ_TARGETS.contains(&name) && options.target.is_empty() => {
                options.target = word;
            }
            _ => return Err(unknown("fuzz", &word)),
        }
    }
    if options.target.is_empty() {
        bail!(
            r#"say what to try, as in "cargo xtask fuzz json": {}"#,
            FUZZ_TARGETS.join(", ")
        );
    }
    Ok(Task::Fuzz(options))
}

fn parse_bench(words: Vec<String>) -> Result<Task> {
    let groups = bench::Group::ALL.map(|(name, _)| name).join(", ");
    let mut words = words.into_iter();
    let group = match words.next() {
        None => bail!("say what to measure: one of {groups}"),
        Some(word) => match bench::Group::named(&word) {
            Some(group) => group,
            None => bail!(r#"there is nothing to measure by the name "{word}"; use {groups}"#),
        },
    };
    let mut options = bench::Options {
        group,
        json: false,
        prep: None,
        bin_dir: None,
        quick: false,
        parts: Vec::new(),
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => options.json = true,
            "--prep" => match words.next() {
                Some(file) => options.prep = Some(file.into()),
                None => bail!(r#""--prep" needs FILE"#),
            },
            "--bin-dir" => match words.next() {
                Some(folder) => options.bin_dir = Some(folder.into()),
                None => bail!(r#""--bin-dir" needs DIR"#),
            },
            "--quick" => options.quick = true,
            part if !part.starts_with('-') => options.parts.push(word),
            _ => return Err(unknown("bench", &word)),
        }
    }
    Ok(Task::Bench(options))
}

fn parse_zoo_check(words: Vec<String>) -> Result<Task> {
    let mut options = zoo_check::Options::default();
    for word in words {
        match word.as_str() {
            "--json" => options.json = true,
            name if !name.starts_with('-') => options.names.push(word),
            _ => return Err(unknown("zoo-check", &word)),
        }
    }
    Ok(Task::ZooCheck(options))
}

fn parse_gpu_check(words: Vec<String>) -> Result<Task> {
    let mut options = gpu_check::Options::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--debug" => options.debug = true,
            "--run" => options.run = true,
            "--to" => match words.next() {
                Some(file) => options.to = Some(file.into()),
                None => bail!(r#""--to" needs FILE"#),
            },
            _ => return Err(unknown("gpu-check", &word)),
        }
    }
    Ok(Task::GpuCheck(options))
}

fn parse_trainer(words: Vec<String>) -> Result<Task> {
    let mut options = trainer::Options::default();
    let mut flavour = None;
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--flavour" => flavour = words.next(),
            "--test" => options.test = true,
            "--compare" => options.compare = true,
            "--kernels" => options.kernels = true,
            "--lock" => options.lock = true,
            "--to" => match words.next() {
                Some(folder) => options.to = Some(folder.into()),
                None => bail!(r#""--to" needs a folder, as in "--to ./kepler""#),
            },
            // What follows is the test runner's, whatever it looks like.
            "--" if options.test => {
                options.filter = words.collect();
                break;
            }
            _ => return Err(unknown("trainer", &word)),
        }
    }
    match flavour.as_deref() {
        Some("kepler") => Ok(Task::Trainer(options)),
        Some(other) => bail!(
            r#"there is no flavour "{other}"; "--flavour kepler" is the one besides what cargo builds by itself"#
        ),
        None => bail!(r#"say which trainer: "cargo xtask trainer --flavour kepler""#),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Task> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn trainer_needs_a_flavour_that_exists() {
        let expected = Task::Trainer(trainer::Options {
            test: true,
            filter: vec!["distributed".into()],
            ..Default::default()
        });
        let line = "trainer --flavour kepler --test -- distributed";
        assert_eq!(words(line).unwrap(), expected);
        for (line, says) in [
            ("trainer", "--flavour kepler"),
            ("trainer --flavour pascal", r#"no flavour "pascal""#),
            ("trainer --flavour kepler --to", "needs a folder"),
            ("trainer --flavour kepler -- x", r#"does not know "--""#),
        ] {
            let message = words(line).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
    }

    #[test]
    fn bench_reads_group_parts_and_options() {
        let Task::Bench(options) =
            words("bench dispatch jobs --quick --bin-dir /old --json").unwrap()
        else {
            panic!("a bench");
        };
        assert_eq!(options.group, bench::Group::Dispatch);
        assert_eq!(options.parts, ["jobs"]);
        assert_eq!(options.bin_dir, Some(PathBuf::from("/old")));
        assert!(options.quick && options.json);
    }

    #[test]
    fn a_word_that_is_not_understood_is_named() {
        for (line, named) in [
            ("demo", r#""demo""#),
            ("zoo-check --jsn", r#""--jsn""#),
            ("bench", "data"),
            ("bench dta", r#""dta""#),
            ("bench data --jsn", r#""--jsn""#),
            ("bench data --prep", r#""--prep" needs FILE"#),
            ("bench dispatch --bin-dir", r#""--bin-dir" needs DIR"#),
            ("study --films", r#""--films""#),
            ("gpu-check --to", r#""--to" needs FILE"#),
            ("data-check all", r#""all""#),
            ("fuzz", "say what to try"),
            ("fuzz json --minutes soon", r#""--minutes soon""#),
            ("fuzz json image", r#""image""#),
            (
                "cluster-test powr",
                r#"no scene "powr"; the scenes are units, cage, killed"#,
            ),
            ("cluster-test --packages", "needs DIR"),
            ("fuzz picture", r#""picture""#),
            ("fuzz json --minutes inf", r#""--minutes inf""#),
            ("fuzz json --minutes -1", r#""--minutes -1""#),
            ("fuzz json --seed 1.5", "a whole number"),
            ("fuzz json --seed", r#""--seed" needs"#),
            ("dist --to", r#""--to" needs DIR"#),
            ("dist --release", r#""--release""#),
            ("gpu-check --fast", r#""--fast""#),
            ("transfer --to", "needs a path"),
            ("weights-check --from x", r#""--from""#),
            ("sample", "cargo xtask sample clipart"),
            ("sample cliparts", r#""cliparts""#),
            ("sample clipart --from x", r#""--from""#),
        ] {
            let message = words(line).unwrap_err().to_string();
            assert!(message.contains(named), "{line}: {message}");
        }
    }

    #[test]
    fn every_reader_that_the_help_names_can_be_tried_and_no_other() {
        let names = help::FUZZ.lines().skip_while(|line| *line != "Names:");
        let names: Vec<&str> = names
            .skip(1)
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        assert_eq!(names, FUZZ_TARGETS);
        for name in names {
            let line = format!("fuzz --minutes 0.5 {name} --seed 7");
            let expected = data::FuzzOptions {
                target: name.to_owned(),
                minutes: Some("0.5".into()),
                seed: Some("7".into()),
            };
            assert_eq!(words(&line).unwrap(), Task::Fuzz(expected));
        }
    }

    #[test]
    fn options_of_the_smaller_tasks_are_read() {
        for (line, task) in [
            (
                "sample clipart --to /x",
                Task::SampleClipart {
                    to: Some("/x".into()),
                },
            ),
            (
                "study posters folder",
                Task::Study {
                    names: vec!["posters".into(), "folder".into()],
                },
            ),
            (
                "weights-check --trained /m",
                Task::WeightsCheck {
                    trained: Some("/m".into()),
                },
            ),
            ("transfer", Task::Transfer { to: None }),
            ("data-check", Task::DataCheck),
            (
                "zoo-check vgg16 --json",
                Task::ZooCheck(zoo_check::Options {
                    json: true,
                    names: vec!["vgg16".into()],
                }),
            ),
            (
                "gpu-check --run --debug --to /a.tgz",
                Task::GpuCheck(gpu_check::Options {
                    run: true,
                    debug: true,
                    to: Some("/a.tgz".into()),
                }),
            ),
        ] {
            assert_eq!(words(line).unwrap(), task, "{line}");
        }
        assert!(parse([]).is_err(), "no word is no task");
    }

    #[test]
    fn each_task_explains_itself() {
        for task in [
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
        ] {
            let Task::Help(text) = words(&format!("{task} --help")).unwrap() else {
                panic!("{task} --help is no help");
            };
            assert!(
                text.contains(&format!("Usage: cargo xtask {task}")),
                "{text}"
            );
        }
    }

    #[test]
    fn every_task_that_a_document_names_takes_what_stands_behind_it() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let mut tried = 0;
        for entry in std::fs::read_dir(root).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
            // What is typed stands alone on its line, with a comment behind it.
            let typed = text
                .lines()
                .filter_map(|line| line.strip_prefix("cargo xtask "));
            for line in typed {
                let line = line.split(" #").next().unwrap_or_default();
                let task = line.split_whitespace().next().unwrap_or_default();
                match words(line) {
                    // A daily task, which is read elsewhere.
                    Err(error) if error.to_string().contains("there is no task") => {}
                    Err(error) => panic!("{task}: {line}: {error}"),
                    Ok(_) => tried += 1,
                }
            }
        }
        assert!(tried > 3, "{tried}");
    }

    #[test]
    fn names_of_scenes_and_groups_are_told_where_one_is_wrong() {
        let message = words("cluster-test nothing").unwrap_err().to_string();
        for name in cluster_test::names() {
            assert!(message.contains(name), "{name}: {message}");
            let line = format!("cluster-test {name}");
            assert!(words(&line).is_ok(), "{line}");
        }
        let message = words("bench nothing").unwrap_err().to_string();
        for (name, _) in bench::Group::ALL {
            assert!(message.contains(name), "{name}: {message}");
            assert!(words(&format!("bench {name}")).is_ok(), "{name}");
        }
        // The same scene may be played twice, and in any order.
        let names = cluster_test::names();
        let line = format!("cluster-test {} {} {0}", names[1], names[0]);
        let Ok(Task::ClusterTest(options)) = words(&line) else {
            panic!("{line}");
        };
        assert_eq!(options.scenes, [names[1], names[0], names[1]]);
    }
}
