//! `marquee-prep export DATASET OUT`.

use std::path::PathBuf;
use std::process::ExitCode;

use marquee_datasets::export::{self, Layout};

#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// A dataset folder, as a fetch job leaves it
    dataset: PathBuf,
    /// The archive to write
    out: PathBuf,
    /// `plain`: labels.csv and images/; `kaggle`: train.csv with one column a label, and Images/
    #[arg(long, default_value = "plain", value_parser = ["plain", "kaggle"])]
    layout: String,
}

#[allow(clippy::print_stdout, reason = "how many is data")]
pub(crate) fn export(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let layout = match args.layout.as_str() {
        "kaggle" => Layout::Kaggle,
        _ => Layout::Plain,
    };
    let pictures = export::to_zip(&args.dataset, &args.out, layout)?;
    println!("{pictures} pictures in {}", args.out.display());
    Ok(ExitCode::SUCCESS)
}
