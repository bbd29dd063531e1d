//! `marquee bench`.

use std::path::PathBuf;

use marquee_proto::v1;

use super::submit::parse_override;
use crate::bench::{
    self, BenchPlan, Devices, Here, Input, Length, Shown, Size, Source, choose_devices, finish,
    start,
};
use crate::client::Remote;
use crate::error::{CliError, Result};
use crate::output::Format;
use crate::requests::artifacts;
use crate::session::Session;
use crate::signals::Signals;
use crate::target::OfPipeline;

/// Measure how fast a model trains here: devices x input x TensorBoard
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee bench --here --model simple-cnn --size 48x72 --batch-size 64 --steps 100
  marquee bench --dataset fetch --devices gpu:1,gpu:2 --epochs 2 --batch-size 128 --chart bench.svg
  marquee bench --set precision=bf16 --input raw --repeat 3 --json
  marquee bench --show p7

It submits one pipeline: the dataset is prepared once for each input, then each case trains alone,
from equal weights over equal batches. The first ten steps of a run are left out of its speed.
Speed-up and efficiency are against the fewest devices of the same kind. Ctrl-C stops watching, not
the jobs; --show reads their figures later.")]
pub(super) struct Args {
    /// The pictures: a dataset's digest, or the job that made it [default: the newest dataset]
    #[arg(long, value_name = "DIGEST|JOB", conflicts_with_all = ["here", "show"])]
    dataset: Option<String>,
    /// On a cluster of this machine of its own, with generated posters
    #[arg(long, conflicts_with = "show")]
    here: bool,
    /// With --here: how many posters to generate
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    films: u32,
    /// The network; "marquee models" lists them
    #[arg(long, default_value = "vgg16")]
    model: String,
    /// Pixels of the pictures, as 224 or 48x72 (width x height)
    #[arg(long, default_value = "224")]
    size: Size,
    /// Pictures in one step over all ranks, the same in every case
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch_size: u32,
    /// Train each case for so many epochs
    #[arg(long, value_name = "N", conflicts_with = "steps", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    epochs: Option<u32>,
    /// Train each case for so many steps; the first ten warm up
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(11..=1_000_000))]
    steps: u64,
    /// Such as cpu:1,cpu:2,gpu:4 [default: 1, 2, 4 ... and all that the workers have]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    devices: Vec<Devices>,
    /// original (files decoded each time), jpeg (shards), raw (shards)
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "original,jpeg,raw"
    )]
    input: Vec<Input>,
    /// on, off, or both
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "off,on", value_parser = parse_switch)]
    tensorboard: Vec<Switch>,
    /// Measure everything so often, round after round, and show medians
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    repeat: u32,
    /// A key of every train job, such as precision=bf16
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_override)]
    set: Vec<v1::Override>,
    /// Show what an earlier bench has measured
    #[arg(long, value_name = "PIPELINE")]
    show: Option<OfPipeline>,
    /// Draw the figures into this SVG file
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// Print one JSON object a line: name, value, reference, ratio, what ran
    #[arg(long)]
    json: bool,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Switch(bool);

fn parse_switch(text: &str) -> Result<Switch, String> {
    match text {
        "on" => Ok(Switch(true)),
        "off" => Ok(Switch(false)),
        _ => Err(format!("{text:?}: write on, off or off,on")),
    }
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let shown = Shown {
        chart: args.chart.clone(),
        json: args.json || session.output.format == Format::Json,
        output: session.output,
    };
    if let Some(pipeline) = args.show {
        let remote = session.remote()?;
        let id = pipeline.resolve(&remote).await?;
        return shown.show(&bench::gather(&remote, id).await?);
    }
    let mut plan = plan(&args);
    if args.here {
        return Here::new(args.films)?.run(plan, &shown).await;
    }
    let remote = session.remote()?;
    let source = dataset(args.dataset.as_deref(), &remote).await?;
    choose_devices(&mut plan, &remote).await?;
    let id = start(&remote, &plan, &source).await?;
    let mut signals = Signals::catch()?;
    tokio::select! {
        outcome = finish(&remote, id, &shown) => outcome,
        () = signals.next() => Err(CliError::Interrupted {
            hint: Some(format!(
                "the jobs go on: \"marquee bench --show p{id}\" shows their figures, \"marquee cancel \
                 p{id}\" stops them"
            )),
        }),
    }
}

fn plan(args: &Args) -> BenchPlan {
    let mut plan = BenchPlan {
        model: args.model.clone(),
        size: args.size,
        batch_size: args.batch_size,
        length: args
            .epochs
            .map_or(Length::Steps(args.steps), Length::Epochs),
        devices: args.devices.clone(),
        inputs: args.input.clone(),
        tensorboard: args.tensorboard.iter().map(|switch| switch.0).collect(),
        rounds: args.repeat,
        train: args
            .set
            .iter()
            .map(|set| (set.path.clone(), set.value.clone()))
            .collect(),
    };
    // Said twice is still one case.
    plan.devices.sort();
    plan.devices.dedup();
    plan.inputs.sort();
    plan.inputs.dedup();
    plan.tensorboard.sort_unstable();
    plan.tensorboard.dedup();
    plan
}

/// The dataset that was named, or the newest.
async fn dataset(named: Option<&str>, remote: &Remote) -> Result<Source> {
    /// Artifacts among which the newest dataset is looked for.
    const SEARCHED: usize = 1_000;
    if let Some(named) = named {
        let which = artifacts::which(named, remote).await?;
        let artifact = artifacts::find(remote, which).await?;
        return Ok(Source::Dataset(artifact.digest));
    }
    let request = v1::ListArtifactsRequest::default();
    let (listed, _) = artifacts::list(remote, request, SEARCHED).await?;
    // Listings have the newest first.
    let newest = listed
        .into_iter()
        .find(|artifact| artifact.name == "dataset");
    match newest {
        Some(artifact) => Ok(Source::Dataset(artifact.digest)),
        None => Err(CliError::Usage(
            "there is no dataset yet to train on; run a fetch job first (\"marquee submit \
             examples/folder.toml\" has one), or measure with generated posters: \"marquee bench \
             --here\""
                .to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_on_or_off() {
        assert_eq!(parse_switch("on"), Ok(Switch(true)));
        assert_eq!(parse_switch("off"), Ok(Switch(false)));
        assert!(parse_switch("yes").unwrap_err().contains("off,on"));
    }
}
