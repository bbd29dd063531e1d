//! `marquee-trainer store`: a rendezvous store in a process of its own, outside the ranks.

use serde::Serialize;

use crate::error::RunError;
use crate::rendezvous::StoreServer;
use crate::stop::{block_signals, when_stdin_ends};

/// The line that says where the store is.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename = "listening")]
struct Listening<'a> {
    host: &'a str,
    port: u16,
}

/// Serves a store on `host` until SIGTERM or SIGINT, or, with `until_eof`, until stdin ends. Calls
/// `announce` with one line of JSON, such as `{"event":"listening","host":"10.0.0.7","port":41873}`,
/// as soon as ranks can connect.
///
/// # Errors
/// [`RunError`] when the address cannot be served on.
pub fn serve(
    host: &str,
    port: u16,
    until_eof: bool,
    announce: impl FnOnce(&str),
) -> Result<(), RunError> {
    // Before the store's thread starts, which inherits the blocked signals.
    let signals = block_signals()?;
    let server = StoreServer::start(host, port)?;
    if until_eof {
        when_stdin_ends()?;
    }
    let line = serde_json::to_string(&Listening {
        host: &server.host,
        port: server.port,
    })
    .map_err(|error| RunError::host(format!("the address has no form in JSON: {error}")))?;
    announce(&line);
    signals
        .wait()
        .map_err(|error| RunError::host(format!("cannot wait for signals: {error}")))?;
    Ok(())
}
