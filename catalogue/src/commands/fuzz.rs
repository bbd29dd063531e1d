//! `marquee-catalogue fuzz`: what `cargo xtask fuzz` runs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use marquee_catalogue::fuzz::{self, Target};

#[derive(Debug, clap::Args)]
pub(crate) struct FuzzArgs {
    /// What to try: json, image, shard, table, list, archive, weights, document, overrides, manifest, reports, event or
    /// spool
    target: String,
    /// How long
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// What is tried is a function of this number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where inputs that break something go
    #[arg(long, default_value = "fuzz-findings")]
    findings: PathBuf,
    /// Try this file alone, such as a finding, and say what became of it
    #[arg(long, conflicts_with = "minutes")]
    input: Option<PathBuf>,
}

#[allow(clippy::print_stdout, reason = "the outcome is data")]
pub(crate) fn fuzz(args: &FuzzArgs) -> anyhow::Result<ExitCode> {
    let known = Target::ALL.iter().find(|(name, _)| *name == args.target);
    let Some((name, target)) = known else {
        let names: Vec<_> = Target::ALL.iter().map(|(name, _)| *name).collect();
        anyhow::bail!(
            "there is no target {:?}; use {}",
            args.target,
            names.join(", ")
        );
    };
    if let Some(file) = &args.input {
        let input =
            std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
        println!("{}", serde_json::to_string(&fuzz::judge(*target, &input)?)?);
        return Ok(ExitCode::SUCCESS);
    }
    // What is caught is reported at the end; a backtrace for each would fill the screen.
    std::panic::set_hook(Box::new(|_| {}));
    let folder = &args.findings;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("{} cannot be made", folder.display()))?;
    let time = Duration::from_secs_f64((args.minutes * 60.0).clamp(0.0, 1e6));
    let outcome = fuzz::run(*target, time, args.seed, folder)?;
    let report = serde_json::json!({
        "target": name, "minutes": args.minutes, "seed": args.seed, "outcome": outcome,
    });
    println!("{report}");
    Ok(if outcome.findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
