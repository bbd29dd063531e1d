//! `marquee demo`.

use std::path::PathBuf;

use super::submit::parse_override;
use crate::demo::{Demo, Folder};
use crate::error::Result;
use crate::output::Format;
use crate::session::Session;

/// See everything once: fetch generated posters, train on two workers, evaluate
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee demo
  marquee demo --films 600 --set jobs.train.epochs=2
  marquee demo --keep --data-dir ~/marquee-demo
  marquee demo --json | tail -1 | jq .f1_micro

Starts a coordinator with its own Postgres, two workers of one CPU thread each and a local film
catalogue, and submits examples/posters.toml. The posters are synthetic: the figures say that the
machinery works, not how well anything does on real posters.")]
pub(super) struct Args {
    /// How many films to generate
    #[arg(long, value_name = "N", default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    films: u32,
    /// Stay running at the end, and say how to look around
    #[arg(long)]
    keep: bool,
    /// Print the summary as one JSON object on the last line of stdout
    #[arg(long)]
    json: bool,
    /// Keep all data in this folder [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Change the pipeline, such as jobs.train.epochs=2
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_override)]
    set: Vec<marquee_proto::v1::Override>,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let folder = Folder::choose(args.data_dir)?;
    let demo = Demo {
        films: args.films,
        keep: args.keep,
        json: args.json || session.output.format == Format::Json,
        overrides: args.set,
    };
    demo.run(&folder, session.output).await
}
