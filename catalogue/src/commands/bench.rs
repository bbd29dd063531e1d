//! `marquee-catalogue bench`: what `cargo xtask bench data` runs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use marquee_catalogue::bench::{self, Task};

#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make what the other tasks work on: posters, shards of them, a table
    Make {
        folder: PathBuf,
        #[arg(long)]
        pictures: usize,
        #[arg(long)]
        rows: usize,
    },
    /// Do rounds of a task, as many items as each line of stdin says
    Rounds { task: String, folder: PathBuf },
    /// Find copies of pictures that were mirrored, turned, cropped or coloured anew: one JSON object a line
    Similar {
        /// Pictures of each kind
        #[arg(long, default_value_t = 400)]
        pictures: usize,
        /// Of the pictures below this folder instead of generated ones
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// Ask a server for each line of stdin, a path
    Load {
        address: SocketAddr,
        #[arg(long, default_value_t = 8)]
        connections: usize,
    },
}

#[allow(clippy::print_stdout, reason = "the outcome is data")]
pub(crate) fn bench(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::Make {
            folder,
            pictures,
            rows,
        } => {
            bench::make_pictures(folder, *pictures)?;
            // After the pictures, of which they are made.
            bench::make_shards(folder)?;
            bench::make_table(folder, *rows)?;
        }
        What::Rounds { task, folder } => {
            let known = Task::ALL.iter().find(|(name, _)| name == task);
            let Some((_, task)) = known else {
                let names: Vec<_> = Task::ALL.iter().map(|(name, _)| *name).collect();
                anyhow::bail!("there is no task {task:?}; use {}", names.join(", "));
            };
            bench::serve(
                *task,
                folder,
                std::io::stdin().lock(),
                std::io::stdout().lock(),
            )?;
        }
        What::Similar { pictures, folder } => {
            bench::similar(*pictures, folder.as_deref(), &mut std::io::stdout().lock())?;
        }
        What::Load {
            address,
            connections,
        } => {
            let paths: Vec<String> = std::io::stdin().lines().collect::<Result<_, _>>()?;
            let load = bench::load(*address, &paths, *connections)?;
            println!("{}", serde_json::to_string(&load)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}
