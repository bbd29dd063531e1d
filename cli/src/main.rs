//! `marquee`: submit, watch and steer jobs, and run all of Marquee on one machine.
//!
//! Architecture Invariant: the CLI speaks gRPC (and reads and writes files); it knows no SQL and
//! links no libtorch. What it starts (`up`, `demo`) are the other programs, found beside its own
//! executable. Data go to stdout and everything else to stderr.

#![allow(
    clippy::print_stdout,
    reason = "stdout is where a command line puts its data"
)]
#![warn(
    clippy::print_stderr,
    reason = "it panics when nobody reads any more; say! does not"
)]

mod backup;
mod bearer;
mod bench;
mod client;
mod clock;
mod cluster;
mod commands;
mod context;
mod demo;
mod error;
mod output;
mod progress;
mod report;
mod requests;
mod say;
mod session;
mod signals;
mod source_paths;
mod target;
#[cfg(test)]
mod tests;
mod tokens;
mod top;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = commands::Cli::parse();
    // One thread: `up` and `demo` ask the kernel to end their children with the thread that made
    // them, and that must be the one that lives as long as the process.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(cli)),
        Err(error) => Err(anyhow::Error::new(error)
            .context("cannot start the runtime")
            .into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error::report(&error),
    }
}
