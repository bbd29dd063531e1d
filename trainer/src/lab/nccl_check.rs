//! `marquee-trainer nccl-check`: whether ranks on this host's GPUs can exchange gradients by NCCL, and
//! if not, why not and what helps.
//!
//! The trial runs in a process of its own, one rank a visible GPU, each a thread: NCCL and drivers may
//! end a process or hang it, and a verdict must come all the same. Invariant: whatever happens there
//! is one [`NcclReport`] here.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use marquee_domain::child::ExitCode;
use serde::{Deserialize, Serialize};

use crate::stdout::say;

mod trial;

pub(super) use trial::trial;

/// Of what the process wrote to stderr, the end that a report quotes.
const QUOTED_BYTES: usize = 600;

/// The verdict on NCCL, as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct NcclReport {
    usable: bool,
    /// Where it ended: "libtorch", "shim", "driver", "init", "all_reduce", "abort", "regroup" or
    /// "done".
    stage: String,
    /// What was found, in words.
    reason: String,
    /// What to do about it; empty where nothing is to be done.
    cure: String,
    /// GPUs that this process sees, each of which was a rank.
    gpus: u32,
    /// NCCL's version, where it was loaded.
    nccl: Option<String>,
    /// The shared object that carries NCCL, where it was loaded.
    shim: Option<String>,
    /// Seconds from forming the group to the end of its first all-reduce.
    init_s: Option<f64>,
    /// Seconds of one all-reduce of `bytes` bytes after that.
    all_reduce_s: Option<f64>,
    bytes: Option<u64>,
    /// Seconds in which the group was aborted.
    abort_s: Option<f64>,
}

impl NcclReport {
    fn failed(stage: &str, reason: impl Into<String>, cure: &str) -> Self {
        Self {
            stage: stage.to_owned(),
            reason: reason.into(),
            cure: cure.to_owned(),
            ..Self::default()
        }
    }

    /// The verdict as lines for people.
    fn words(&self) -> String {
        let verdict = if self.usable {
            format!("NCCL works: {}", self.reason)
        } else {
            format!("NCCL cannot be used: {}", self.reason)
        };
        if self.cure.is_empty() {
            verdict
        } else {
            format!("{verdict}\n  {}", self.cure)
        }
    }
}

/// A line of the trial's process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TrialLine {
    /// What comes next.
    Stage(String),
    /// The last word.
    Report(NcclReport),
}

/// Tries NCCL, prints the verdict, and fails where NCCL cannot be used.
pub(super) fn command(limit: Duration, json: bool) -> ExitCode {
    let report = nccl_check(limit);
    match serde_json::to_string(&report) {
        Ok(line) if json => say(&line),
        Ok(_) | Err(_) => say(&report.words()),
    }
    if report.usable {
        ExitCode::OK
    } else {
        ExitCode::FAILED
    }
}

/// Tries NCCL in a process of its own, for `limit` at most.
fn nccl_check(limit: Duration) -> NcclReport {
    let started = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .args(["nccl-check", "--inner"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    });
    match started {
        Ok(child) => follow(child, limit),
        Err(error) => NcclReport::failed(
            "start",
            format!("the trial's process cannot be started: {error}"),
            "",
        ),
    }
}

/// Waits for the last word, or makes one up from how the process ended.
fn follow(mut child: Child, limit: Duration) -> NcclReport {
    // Read beside the verdict: a pipe that nobody empties would block the trial in the middle of
    // NCCL's own messages.
    let said = child.stderr.take().map(|mut stderr| {
        thread::spawn(move || {
            let mut text = Vec::new();
            // What cannot be read cannot be quoted; the verdict stands without.
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    });
    let lines = child.stdout.take().map(listen);
    let deadline = Instant::now() + limit;
    let mut stage = "start".to_owned();
    let timed_out = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.as_ref().map(|lines| lines.recv_timeout(left)) {
            Some(Ok(TrialLine::Stage(next))) => stage = next,
            Some(Ok(TrialLine::Report(report))) => {
                // It has said its last word: what it does after that is of no interest.
                end(&mut child);
                return report;
            }
            Some(Err(RecvTimeoutError::Timeout)) => break true,
            Some(Err(RecvTimeoutError::Disconnected)) | None => break false,
        }
    };
    let status = if timed_out {
        end(&mut child);
        None
    } else {
        child.wait().ok()
    };
    let said = said.and_then(|said| said.join().ok()).unwrap_or_default();
    NcclReport::failed(
        &stage,
        format!("{}{}", ending(status, &stage, limit), quote(&said)),
        "see the end of its messages; NCCL_DEBUG=INFO makes NCCL tell more",
    )
}

fn end(child: &mut Child) {
    // Either may fail because it has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

fn ending(status: Option<ExitStatus>, stage: &str, limit: Duration) -> String {
    match status {
        None => format!(
            "the trial did not end within {} s, in its stage {stage:?}",
            limit.as_secs()
        ),
        Some(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => {
                format!("the trial was ended by signal {signal} in its stage {stage:?}")
            }
            (None, code) => format!(
                "the trial left with exit code {} and no verdict, in its stage {stage:?}",
                code.unwrap_or(-1)
            ),
        },
    }
}

/// The end of what was said, on one line.
fn quote(said: &str) -> String {
    let said = said.trim();
    if said.is_empty() {
        return String::new();
    }
    let mut from = said.len().saturating_sub(QUOTED_BYTES);
    while !said.is_char_boundary(from) {
        from += 1;
    }
    format!("; it said: {}", said[from..].replace('\n', " / "))
}

/// The lines of `stdout`, from a thread; it ends with the stream.
fn listen(stdout: impl Read + Send + 'static) -> Receiver<TrialLine> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for text in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Libraries may write to stdout, too.
            if let Ok(line) = serde_json::from_str(&text)
                && sender.send(line).is_err()
            {
                return;
            }
        }
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow_shell(script: &str, limit: Duration) -> NcclReport {
        let child = Command::new("/bin/sh")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        follow(child, limit)
    }

    #[test]
    fn a_crash_a_hang_and_a_silent_end_are_verdicts_with_their_stage() {
        let long = Duration::from_secs(60);
        let crash = follow_shell(
            "echo '{\"stage\":\"init\"}'; echo 'NCCL WARN no way' >&2; kill -ABRT $$",
            long,
        );
        assert!(!crash.usable);
        assert_eq!(crash.stage, "init");
        assert!(crash.reason.contains("signal 6"), "{}", crash.reason);
        assert!(crash.reason.contains("no way"), "{}", crash.reason);

        let hang = follow_shell(
            "echo '{\"stage\":\"all_reduce\"}'; exec sleep 600",
            Duration::from_millis(300),
        );
        assert_eq!(hang.stage, "all_reduce");
        assert!(hang.reason.contains("did not end"), "{}", hang.reason);

        let silent = follow_shell("echo noise; exit 3", long);
        assert!(silent.reason.contains("exit code 3"), "{}", silent.reason);
    }

    #[test]
    fn the_last_word_of_the_trial_is_the_verdict() {
        let report = NcclReport {
            usable: true,
            stage: "done".to_owned(),
            gpus: 2,
            ..NcclReport::default()
        };
        let line = serde_json::to_string(&TrialLine::Report(report.clone())).unwrap();
        let script = format!("echo '{line}'; sleep 600");
        assert_eq!(follow_shell(&script, Duration::from_secs(60)), report);
    }
}
