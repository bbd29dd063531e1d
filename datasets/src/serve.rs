//! `marquee-prep serve-catalogue`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use marquee_datasets::catalogue::{CatalogueOptions, CatalogueServer, FaultRule, Storm};
use tokio::signal::unix::{SignalKind, signal};

use crate::system_clock;

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
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
    /// Let faults befall films by this seed: what the network, the service and strangers' files bring
    #[arg(long, value_name = "SEED")]
    storm: Option<u64>,
    /// Share of the films that a storm befalls
    #[arg(long, default_value_t = 0.1, requires = "storm")]
    storm_share: f64,
    /// Write what must become of every line of the export to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// Serve small posters that are quickly painted, for rehearsals of many films
    #[arg(long)]
    sketches: bool,
    /// Write the path of each request to stdout, one a line
    #[arg(long)]
    log_requests: bool,
    /// Requests a second; more get 429, as from a service with a limit
    #[arg(long, value_name = "N")]
    rate_limit: Option<u32>,
}

/// Serves until SIGTERM or SIGINT. The first line on stdout says where.
#[allow(
    clippy::print_stdout,
    reason = "the line that tells callers where the server listens"
)]
pub(crate) async fn serve(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let address = SocketAddr::new(args.host, args.port);
    let options = CatalogueOptions {
        films: args.films,
        seed: args.seed,
        key: args.key,
        faults: args.faults,
        storm: args.storm.map(|seed| Storm {
            seed,
            share: args.storm_share,
        }),
        sketches: args.sketches,
        rate_limit: args.rate_limit,
        log_requests: args.log_requests,
        painters: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    let server = CatalogueServer::bind(address, options, system_clock)
        .await
        .with_context(|| {
            format!("cannot listen on {address}; choose another --port, 0 for any free one")
        })?;
    if let Some(file) = &args.truth {
        server
            .write_truth(file)
            .with_context(|| format!("the truth file {} cannot be written", file.display()))?;
    }
    let line = serde_json::json!({
        "event": "listening",
        "api_url": server.api_url(),
        "f1_micro_ceiling": server.f1_micro_ceiling(),
    });
    println!("{line}");
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    server
        .serve(stop)
        .await
        .context("the catalogue stopped serving")?;
    Ok(ExitCode::SUCCESS)
}
