//! `marquee-prep`: fetch and preprocess as a child process, and the local catalogue.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::{Parser, Subcommand};
use marquee_datasets::catalogue::{CatalogueOptions, CatalogueServer, FaultRule};

/// Prepares data for training: fetches posters and packs them into shards.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve generated films and posters as a TMDb-compatible API, until a signal comes
    ServeCatalogue(ServeArgs),
}

#[derive(Debug, clap::Args)]
struct ServeArgs {
    /// Films in the catalogue
    #[arg(long, default_value_t = 3000)]
    films: usize,
    /// The catalogue is a function of this number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 is any free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Key or bearer token that requests must bring; without it all are served
    #[arg(long)]
    key: Option<String>,
    /// A fault, such as movie=429,every=50,times=1,retry_after=2; may be given several times
    #[arg(long = "fault", value_name = "RULE")]
    faults: Vec<FaultRule>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.command {
        Command::ServeCatalogue(args) => serve_catalogue(args).await,
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "this is the system clock that others are given"
)]
fn system_clock() -> DateTime<Utc> {
    Utc::now()
}

#[allow(
    clippy::print_stdout,
    reason = "the line that tells callers where the server listens"
)]
async fn serve_catalogue(args: ServeArgs) -> anyhow::Result<()> {
    let address = SocketAddr::new(args.host, args.port);
    let options = CatalogueOptions {
        films: args.films,
        seed: args.seed,
        key: args.key,
        faults: args.faults,
        painters: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    let server = CatalogueServer::bind(address, options, system_clock)
        .await
        .with_context(|| {
            format!("cannot listen on {address}; choose another --port, 0 for any free one")
        })?;
    let line = serde_json::json!({
        "event": "listening",
        "api_url": server.api_url(),
        "f1_micro_ceiling": server.f1_micro_ceiling(),
    });
    println!("{line}");
    server
        .serve(stop_signal()?)
        .await
        .context("the catalogue stopped serving")
}

fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
