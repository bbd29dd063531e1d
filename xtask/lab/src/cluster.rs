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

use marquee_xtask::report;
use marquee_xtask::setup::Setup;
use marquee_xtask::workspace::Workspace;

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
                // Any free port: the user may have a cluster of his own on the usual one.
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
        // Made before it is ready, so that it is stopped in order if it says something else.
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

    /// CPU seconds that coordinator, Postgres and worker have taken so far, without what jobs run.
    pub(crate) fn daemons_cpu_s(&self) -> Result<f64> {
        let mut all = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let stat = entry?.path().join("stat");
            // Others come and go.
            all.extend(
                fs::read_to_string(stat)
                    .ok()
                    .and_then(|stat| Process::of(&stat)),
            );
        }
        // Down the tree of processes, children of children too; the list grows while it is walked.
        let mut ours = vec![self.child.id()];
        let (mut ticks, mut at) = (0, 0);
        while let Some(&parent) = ours.get(at) {
            let children = all.iter().filter(|process| process.parent == parent);
            for process in children.filter(|process| !process.is_job()) {
                ours.push(process.id);
                ticks += process.ticks;
            }
            at += 1;
        }
        Ok(ticks as f64 / TICKS_PER_SECOND)
    }
}

/// The unit of CPU time in /proc (`USER_HZ`, the same on all that Linux runs on here).
const TICKS_PER_SECOND: f64 = 100.0;

/// What /proc/PID/stat says.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    id: u32,
    name: String,
    parent: u32,
    /// Of the process itself.
    ticks: u64,
}

impl Process {
    fn of(stat: &str) -> Option<Self> {
        let (id, rest) = stat.split_once(" (")?;
        // A name may hold anything, parentheses too.
        let (name, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks = |field: usize| fields.get(field)?.parse::<u64>().ok();
        Some(Self {
            id: id.parse().ok()?,
            name: name.to_owned(),
            parent: fields.get(1)?.parse().ok()?,
            ticks: ticks(11)? + ticks(12)?,
        })
    }

    /// Names are cut after 15 bytes.
    fn is_job(&self) -> bool {
        ["marquee-trainer", "marquee-prep"].contains(&self.name.as_str())
    }
}

impl Drop for Cluster {
    /// SIGTERM, so that it stops everything in order.
    fn drop(&mut self) {
        // "kill" and not `Child::kill`, which sends SIGKILL: Postgres and jobs would be left
        // behind.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "42 (a) (b c) S 7 42 42 0 -1 4194560 9 0 0 0 150 25 3 4 20 0 1 0 100 200 5\n";
        let process = Process::of(stat).unwrap();
        assert_eq!(
            (
                process.id,
                process.parent,
                process.ticks,
                process.name.as_str()
            ),
            (42, 7, 175, "a) (b c")
        );
        assert_eq!(Process::of("42 (short) S"), None);
    }
}
