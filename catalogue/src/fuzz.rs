//! A fuzzer of our own for what reads bytes from strangers: answers of an API, pictures, shards, tables,
//! lists, archives, weights; and what users, workers and jobs send: documents, values to set, manifests, reports,
//! events and spools.
//!
//! It mutates a corpus that it makes itself, and keeps every input whose verdict it has not seen
//! before. That is less than the coverage that instrumented fuzzers go by, and in exchange it needs
//! no other compiler, no second build of everything, and runs the very code that is shipped.
//!
//! Invariant: a run is a function of its seed, so what it finds can be found again.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use marquee_datasets::dice::Dice;
use marquee_datasets::readers;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

mod cluster;
mod corpus;

/// Inputs that are kept, at most.
const CORPUS_MAX: usize = 4_096;
/// Bytes of an input, at most.
const INPUT_MAX_BYTES: usize = 256 * 1024;
/// CPU time that one input may take: on a busy machine the clock on the wall says nothing.
const SLOW: Duration = Duration::from_secs(10);
/// The verdicts that are findings.
const TOO_LONG: &str = "took too long";
const PANICKED: &str = "panicked";

/// What is fuzzed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The readers of the API's answers.
    Json,
    /// The way of a picture from its file into a shard.
    Image,
    /// The reader of shards.
    Shard,
    /// The reader of tables that say what is on pictures.
    Table,
    /// The reader of lists in Parquet.
    List,
    /// The reader of `.zip` archives of pictures.
    Archive,
    /// The readers of published weights.
    Weights,
    /// The reader of pipeline documents.
    Document,
    /// The reader of values that are set in a document.
    Overrides,
    /// The readers of lists of an artifact's files, as they are sent and as they are stored.
    Manifest,
    /// The reader of what workers report.
    Reports,
    /// The reader of what children say on their channel.
    Event,
    /// The reader of reports that wait on a worker's disk.
    Spool,
}

impl Target {
    /// Every target by its name.
    pub const ALL: [(&'static str, Self); 13] = [
        ("json", Self::Json),
        ("image", Self::Image),
        ("shard", Self::Shard),
        ("table", Self::Table),
        ("list", Self::List),
        ("archive", Self::Archive),
        ("weights", Self::Weights),
        ("document", Self::Document),
        ("overrides", Self::Overrides),
        ("manifest", Self::Manifest),
        ("reports", Self::Reports),
        ("event", Self::Event),
        ("spool", Self::Spool),
    ];

    /// The verdict on an input: a word or two, the same for inputs that are taken alike.
    fn verdict(self, input: &[u8]) -> String {
        match self {
            Self::Json => {
                let film = readers::read_any_answer(input);
                let line = readers::read_any_export_line(input);
                format!("film {film} line {line}")
            }
            Self::Image => readers::read_any_picture(input),
            Self::Shard => readers::read_any_shard(input),
            Self::Table => readers::read_any_table(input),
            Self::List => readers::read_any_list(input),
            Self::Archive => readers::read_any_archive(input),
            Self::Weights => weights(input),
            Self::Document => cluster::document(input),
            Self::Overrides => cluster::overrides(input),
            Self::Manifest => cluster::manifest(input),
            Self::Reports => marquee_coordinator::session::readers::read_any_reports(input),
            Self::Event => marquee_worker::rank::readers::read_any_event(input),
            Self::Spool => cluster::spool(input),
        }
    }

    fn corpus(self) -> Vec<Vec<u8>> {
        match self {
            Self::Json => corpus::api_answers(),
            Self::Image => corpus::pictures(),
            Self::Shard => readers::shard_samples(),
            Self::Table => readers::table_samples(),
            Self::List => readers::list_samples(),
            Self::Archive => readers::archive_samples(),
            Self::Weights => corpus::weights(),
            Self::Document => cluster::documents(),
            Self::Overrides => cluster::override_samples(),
            Self::Manifest => cluster::manifests(),
            Self::Reports => marquee_coordinator::session::readers::report_samples(),
            Self::Event => cluster::events(),
            Self::Spool => cluster::spools(),
        }
    }
}

/// How a file of weights was taken.
fn weights(input: &[u8]) -> String {
    let read = marquee_weights::read(input);
    let renamed = read.and_then(|(format, tensors, others)| {
        let (tensors, _) = marquee_weights::to_timm(tensors)?;
        Ok(format!(
            "{format:?} {} {}",
            tensors.len().min(3),
            others.len().min(3)
        ))
    });
    renamed.unwrap_or_else(|error| {
        // The words of an error without what the file itself has put there.
        let text = error.to_string();
        let words = text.split(|c: char| !c.is_ascii_alphabetic());
        words
            .filter(|word| word.len() > 3)
            .take(5)
            .collect::<Vec<_>>()
            .join(" ")
    })
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Outcome {
    pub inputs: u64,
    pub corpus: usize,
    /// How many inputs had which verdict; the rarest are left out.
    pub verdicts: BTreeMap<String, u64>,
    /// Inputs that panicked or took too long, as files.
    pub findings: Vec<PathBuf>,
}

/// Fuzzes `target` for `time`; findings go to files in `folder`.
pub fn run(target: Target, time: Duration, seed: u64, folder: &Path) -> std::io::Result<Outcome> {
    const VERDICTS_SHOWN: usize = 40;
    let mut dice = Dice::keyed(&[seed]);
    let mut corpus = target.corpus();
    let mut verdicts: BTreeMap<String, u64> = BTreeMap::new();
    let mut outcome = Outcome {
        inputs: 0,
        corpus: 0,
        verdicts: BTreeMap::new(),
        findings: Vec::new(),
    };
    let end = Instant::now() + time;
    while Instant::now() < end {
        let input = mutated(&corpus, &mut dice);
        let verdict = judge(target, &input)?.verdict;
        outcome.inputs += 1;
        if verdict == TOO_LONG || verdict == PANICKED {
            let file = folder.join(format!("finding-{seed}-{}", outcome.inputs));
            std::fs::write(&file, &input)?;
            outcome.findings.push(file);
        }
        // A verdict that is new stands for a path through the reader that no input took before: what is
        // made of this input may go further along it.
        let seen = verdicts.entry(verdict).or_default();
        *seen += 1;
        if *seen == 1 && corpus.len() < CORPUS_MAX {
            corpus.push(input);
        }
    }
    outcome.corpus = corpus.len();
    let mut common: Vec<_> = verdicts.into_iter().collect();
    common.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    outcome.verdicts = common.into_iter().take(VERDICTS_SHOWN).collect();
    Ok(outcome)
}

/// What became of one input.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Judged {
    pub verdict: String,
    pub cpu_s: f64,
}

/// Tries one input on `target`.
pub fn judge(target: Target, input: &[u8]) -> std::io::Result<Judged> {
    let before = cpu_of_thread()?;
    // A panic is a verdict, and the run goes on. Nothing that the reader held is looked at again.
    let verdict = catch_unwind(AssertUnwindSafe(|| target.verdict(input)));
    let spent = cpu_of_thread()?.saturating_sub(before);
    let verdict = match verdict {
        Ok(verdict) if spent <= SLOW => verdict,
        Ok(_) => TOO_LONG.to_owned(),
        Err(_) => PANICKED.to_owned(),
    };
    Ok(Judged {
        verdict,
        cpu_s: spent.as_secs_f64(),
    })
}

fn cpu_of_thread() -> std::io::Result<Duration> {
    // Of this thread: what other targets do beside it must not look like a slow input.
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let spent = usage.user_time() + usage.system_time();
    let microseconds = u64::try_from(spent.num_microseconds()).unwrap_or(0);
    Ok(Duration::from_micros(microseconds))
}

/// A new input from the corpus.
fn mutated(corpus: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    const CHANGES_MAX: usize = 6;
    /// Numbers at which programs tend to go wrong.
    const EDGES: [u32; 10] = [
        0,
        1,
        0x7f,
        0xff,
        0x7fff,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fffe,
        0xffff_ffff,
    ];
    let mut input = dice.pick(corpus).clone();
    for _ in 0..=dice.below(CHANGES_MAX) {
        let at = dice.below(input.len().max(1));
        match dice.below(8) {
            0 if !input.is_empty() => input[at] ^= 1 << dice.below(8),
            1 if !input.is_empty() => input[at] = (dice.bits() & 0xff) as u8,
            2 => input.truncate(at),
            3 if !input.is_empty() => {
                let end = (at + 1 + dice.below(64)).min(input.len());
                input.drain(at..end);
            }
            4 => {
                let other = dice.pick(corpus);
                let from = dice.below(other.len().max(1));
                let end = (from + 1 + dice.below(256)).min(other.len());
                let part = other.get(from..end).unwrap_or_default().to_vec();
                input.splice(at..at, part);
            }
            5 | 6 => {
                let value = *dice.pick(&EDGES);
                let bytes = if dice.chance(0.5) {
                    value.to_be_bytes()
                } else {
                    value.to_le_bytes()
                };
                let width = *dice.pick(&[1, 2, 4]);
                for (byte, new) in input.iter_mut().skip(at).zip(&bytes[4 - width..]) {
                    *byte = *new;
                }
            }
            _ => {
                let end = (at + 1 + dice.below(128)).min(input.len());
                let part = input.get(at..end).unwrap_or_default().to_vec();
                input.splice(at..at, part);
            }
        }
    }
    input.truncate(INPUT_MAX_BYTES);
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_runs_and_finds_nothing_in_a_moment() {
        let folder = tempfile::tempdir().unwrap();
        for (name, target) in Target::ALL {
            let outcome = run(target, Duration::from_millis(700), 1, folder.path()).unwrap();
            assert_eq!(outcome.findings, Vec::<PathBuf>::new(), "{name}");
            assert!(outcome.inputs > 50, "{name}: {outcome:?}");
            assert!(outcome.verdicts.len() > 1, "{name}: {outcome:?}");
        }
    }
}
