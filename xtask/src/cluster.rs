//! A cluster of Marquee on this machine, for tasks that show what whole jobs do.
//!
//! Invariant: it lives in a folder of the task's own and ends with the task; the user's own cluster
//! and context file stay as they are.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::report;
use crate::setup::Setup;
use crate::workspace::Workspace;

/// Marquee on this machine, in a folder of the task's own. Ends with it.
#[derive(Debug)]
pub(crate) struct Cluster {
    marquee: PathBuf,
    child: Child,
    addr: String,
}

impl Cluster {
    /// Starts it with so many CPU devices, and returns once it answers.
    pub(crate) fn start(
        workspace: &Workspace,
        setup: &Setup,
        folder: &Path,
        cpu_slots: u32,
    ) -> Result<Self> {
        let marquee = workspace.bin_dir.join("marquee");
        let log = fs::File::create(folder.join("cluster.log"))?;
        let mut command = Command::new(&marquee);
        command
            .args([
                "up",
                "--output",
                "json",
                "--listen",
                "127.0.0.1:0",
                "--cpu-slots",
                &cpu_slots.to_string(),
            ])
            .arg("--data-dir")
            .arg(folder.join("data"))
            // The user's own context file stays as it is.
            .env("MARQUEE_CONTEXT", folder.join("context.toml"))
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = setup
            .apply(&mut command)
            .spawn()
            .with_context(|| format!("cannot start {}", marquee.display()))?;
        let stdout = child.stdout.take().context("its stdout is ours")?;
        let mut cluster = Self {
            marquee,
            child,
            addr: String::new(),
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).with_context(|| {
            let log = folder.join("cluster.log");
            format!("the cluster did not start; see {}", log.display())
        })?;
        cluster.addr = ready["addr"].as_str().context("no address")?.to_owned();
        report::note(&format!("a cluster of one worker at {}", cluster.addr));
        Ok(cluster)
    }

    /// The CLI, told where the cluster is.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.marquee);
        command.args(["--addr", &self.addr]);
        command
    }
}

impl Drop for Cluster {
    /// SIGTERM, so that it stops everything in order.
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
    }
}
