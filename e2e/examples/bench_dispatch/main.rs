//! What it costs to run jobs that do nothing: how many a second, how long one takes, what it asks of
//! Postgres. `cargo xtask bench dispatch` builds and runs this and prints the figures.
//!
//! It speaks to a cluster of its own: a coordinator with its private Postgres and one worker of two CPU
//! devices (or workers that only talk, [`simulated`]; or a million jobs that are stored, [`stored`]; or jobs that come and
//! go for long, [`churn`]), from any folder of binaries, so that two builds can be compared. What it counts it asks of
//! Postgres and the kernel, never of the binaries, for an old build has no counters.
//!
//! Each line of stdout is one figure as JSON, see [`figure`].

mod arrays;
mod chatter;
mod churn;
mod cluster;
mod counts;
mod crowd;
mod figure;
mod latency;
mod reference;
mod simulated;
mod stored;
mod submits;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::cluster::Cluster;
use crate::reference::Reference;

/// Sizes of arrays, each a row. The first two and the last of them show the slope.
const SIZES: [u32; 5] = [100, 300, 1_000, 10_000, 100_000];

/// How much is measured.
#[derive(Debug, Clone)]
struct Options {
    bin: PathBuf,
    /// Jobs one after the other.
    jobs: u32,
    sizes: Vec<u32>,
    /// How long elements are counted; the rest of an array is cancelled then.
    window: Duration,
    is_quick: bool,
    /// Workers that only talk, and nothing else.
    is_simulated: bool,
    /// A cluster with much behind it, and nothing else.
    is_stored: bool,
    /// So many jobs that come and go, and nothing else.
    churn: Option<u32>,
}

impl Options {
    fn read(words: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut words = words.into_iter();
        let mut bin = None;
        let (mut quick, mut is_simulated, mut is_stored) = (false, false, false);
        let mut sizes = None;
        let mut churn = None;
        while let Some(word) = words.next() {
            match word.as_str() {
                "--bin-dir" => bin = Some(words.next().context("--bin-dir needs a folder")?),
                "--quick" => quick = true,
                "--simulated" => is_simulated = true,
                "--stored" => is_stored = true,
                "--churn" => {
                    let jobs = words.next().context("--churn needs a number of jobs")?;
                    churn = Some(jobs.parse().context("--churn")?);
                }
                "--sizes" => {
                    let words = words
                        .next()
                        .context("--sizes needs numbers, as in 300,10000")?;
                    let numbers = words.split(',').map(str::parse);
                    sizes = Some(
                        numbers
                            .collect::<Result<Vec<u32>, _>>()
                            .context("--sizes")?,
                    );
                }
                other => {
                    bail!(
                        "{other:?} is not known; usage: bench_dispatch --bin-dir DIR [--quick] [--sizes N,N] [--simulated | --stored | --churn JOBS]"
                    )
                }
            }
        }
        let bin = PathBuf::from(bin.context("--bin-dir is missing")?);
        for name in ["marquee", "marquee-coordinator", "marquee-worker"] {
            if !bin.join(name).is_file() {
                bail!("--bin-dir: there is no {}", bin.join(name).display());
            }
        }
        // Sizes that are asked for are all that is measured of arrays, and after one job to warm up.
        let jobs = if sizes.is_some() { 1 } else { 200 };
        Ok(if quick {
            Self {
                bin,
                jobs: 30,
                sizes: sizes.unwrap_or_else(|| vec![100, 300, 10_000]),
                window: Duration::from_secs(10),
                is_quick: true,
                is_simulated,
                is_stored,
                churn,
            }
        } else {
            Self {
                bin,
                jobs,
                sizes: sizes.unwrap_or_else(|| SIZES.to_vec()),
                window: Duration::from_secs(30),
                is_quick: false,
                is_simulated,
                is_stored,
                churn,
            }
        })
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let options = Options::read(std::env::args().skip(1))?;
    if options.is_simulated {
        simulated::measure(&options).await?;
        return chatter::measure(&options).await;
    }
    if options.is_stored {
        return stored::measure(&options).await;
    }
    if let Some(jobs) = options.churn {
        return churn::measure(&options, jobs).await;
    }
    let cluster = Cluster::start(&options.bin).await?;
    let reference = Reference::measure(&cluster).await?;
    reference.print();
    latency::measure(&cluster, &reference, &options).await?;
    drop(cluster);
    submits::measure(&reference, &options).await?;
    arrays::measure(&reference, &options).await
}
