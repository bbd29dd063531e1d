//! `marquee-catalogue serve`.

use std::process::ExitCode;

use anyhow::Context;
use marquee_catalogue::{CatalogueServer, RequestLog, ServeArgs};
use tokio::signal::unix::{SignalKind, signal};

use crate::system_clock;

/// Serves until SIGTERM or SIGINT. The first line on stdout says where.
#[allow(
    clippy::print_stdout,
    reason = "the line that tells callers where the server listens, and the log that was asked for"
)]
pub(crate) async fn serve(args: ServeArgs) -> anyhow::Result<ExitCode> {
    // Before anything listens: a signal that comes early must end the server in order, too.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let address = args.address();
    // Written before the answer goes out: whoever kills the server has every request that it answered.
    let log = args
        .log_requests
        .then(|| RequestLog::new(|path| println!("{path}")));
    let server = CatalogueServer::bind(address, args.options(log), system_clock)
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
