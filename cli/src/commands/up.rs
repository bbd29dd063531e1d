//! `marquee up`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use marquee_view::units;
use serde_json::json;

use crate::cluster::{ClusterOptions, Layout, LocalCluster, free_port};
use crate::context::{self, DEFAULT_ADDR, UpContext, Written};
use crate::error::{CliError, Result};
use crate::output::Format;
use crate::say::say;
use crate::session::Session;
use crate::signals::Signals;

/// Run all of Marquee on this machine: a coordinator with its own Postgres, and workers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  marquee up
  marquee up --data-dir /srv/marquee --cpu-slots 4
  marquee up --listen 127.0.0.1:0 --output json

Runs until Ctrl-C or SIGTERM and then stops everything in order; a second Ctrl-C kills what is
left. Jobs are kept in the data folder and go on when Marquee is started there again. While it
runs, other terminals find it through the context file, unless you have one of your own.")]
pub(super) struct Args {
    /// Where jobs, artifacts and logs are kept [default: ~/.local/share/marquee]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the coordinator listens; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_ADDR)]
    listen: SocketAddr,
    /// How many worker daemons to start
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// CPU devices of each worker: so many ranks can run on it at once
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    cpu_slots: u32,
    /// Threads of each worker, shared by its CPU devices [default: this machine's, shared]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    threads_per_worker: Option<u32>,
}

pub(super) async fn run(args: Args, session: &Session) -> Result<()> {
    let folder = args.data_dir.map_or_else(default_data_dir, Ok)?;
    let threads = args
        .threads_per_worker
        // Workers of one machine share its threads. Each by itself would count all of them as its
        // own.
        .unwrap_or_else(|| machine_threads() / args.workers);
    let options = ClusterOptions {
        listen: free_port(args.listen)?,
        workers: args.workers,
        slots_per_worker: args.cpu_slots,
        // More slots than threads are allowed, and share them: none at all would be a slot that can
        // run nothing.
        threads_per_slot: (threads / args.cpu_slots).max(1),
    };
    let mut signals = Signals::catch()?;
    let mut cluster = LocalCluster::new(Layout::lock(&folder)?, options)?;
    let outcome = tokio::select! {
        outcome = serve(&mut cluster, session) => outcome,
        () = signals.next() => Ok(()),
    };
    say!("stopping");
    cluster.stop(&mut signals).await;
    outcome
}

/// Starts everything and keeps it running; returns only with an error.
async fn serve(cluster: &mut LocalCluster, session: &Session) -> Result<()> {
    say!("starting in {}", cluster.layout().folder().display());
    if nix::unistd::geteuid().is_root() {
        say!("as root: every job of this cluster will run as root");
    }
    cluster.start().await?;
    // Only now that it answers: another terminal that finds the file finds a cluster.
    let path = context::default_path();
    let context = match &path {
        Some(path) => Some(UpContext::write(path, &cluster.addr(), std::process::id())?),
        None => None,
    };
    announce(cluster, context.as_ref(), session)?;
    match cluster.supervise().await {
        Err(error) => Err(error),
        Ok(never) => match never {},
    }
}

fn announce(cluster: &LocalCluster, context: Option<&Written>, session: &Session) -> Result<()> {
    let addr = cluster.addr();
    // Here, where everything answers: a program that reads this line may submit at once.
    match session.output.format {
        Format::Table => {}
        Format::Json => {
            let ready = json!({
                "event": "ready",
                "addr": addr,
                "pid": std::process::id(),
                "data_dir": cluster.layout().folder(),
            });
            session.output.text(&format!("{ready}\n"))?;
        }
        Format::Quiet => session.output.text(&format!("{addr}\n"))?,
    }
    say!("Marquee runs on this machine");
    for (label, value) in cluster.describe() {
        say!("  {label:<12} {value}");
    }
    let prefix = match context {
        Some(Written::Yes(_)) => String::new(),
        Some(Written::KeptOther { path, addr: other }) => {
            say!("  {} points to {other} and stays as it is", path.display());
            format!("MARQUEE_ADDR={addr} ")
        }
        None => format!("MARQUEE_ADDR={addr} "),
    };
    say!("In another terminal:");
    say!("  {prefix}marquee submit examples/posters.toml --wait");
    say!("  {prefix}marquee jobs");
    say!("{}", who_may(&addr));
    say!("Ctrl-C stops everything in order");
    Ok(())
}

/// Who can run programs here now, and as whom: the coordinator serves its own account and root.
fn who_may(addr: &str) -> String {
    let account = nix::unistd::User::from_uid(nix::unistd::geteuid());
    let account = account.ok().flatten().map_or_else(
        || format!("uid {}", nix::unistd::geteuid()),
        |user| user.name,
    );
    if nix::unistd::geteuid().is_root() {
        format!(
            "Jobs run as root, with all that root may do; root alone can start them at {addr}. Better: run it as an \
             account of its own (docs/deploy.md)"
        )
    } else {
        format!("Jobs run as {account}; only {account} and root can start them at {addr}")
    }
}

fn machine_threads() -> u32 {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(threads).unwrap_or(u32::MAX)
}

fn default_data_dir() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let data = set("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".local/share")))
        .context("there is no HOME to keep data in; say where with --data-dir")
        .map_err(|error| CliError::Usage(error.to_string()))?;
    Ok(data.join("marquee"))
}

impl LocalCluster {
    /// What runs, in words.
    fn describe(&self) -> Vec<(&'static str, String)> {
        let options = self.options();
        let slots = units::plural(options.slots_per_worker as usize, "CPU device");
        let threads = units::plural(options.threads_per_slot as usize, "thread");
        let workers = units::plural(options.workers as usize, "worker");
        vec![
            ("coordinator", self.addr()),
            ("workers", format!("{workers} with {slots} of {threads}")),
            ("data", self.layout().folder().display().to_string()),
            (
                "logs",
                self.layout().folder().join("log").display().to_string(),
            ),
        ]
    }
}
