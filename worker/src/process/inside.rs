//! What the processes of a child are at, thread by thread, as the kernel shows it: for a rank that hangs.
//!
//! Nothing of it needs the processes' help, or any right but that of their own account: of another account's, its warden
//! looks (`cage::warden`). Kernel stacks are shown to root alone.

use serde::{Deserialize, Serialize};

use crate::proc::{self, Thread};

/// Processes and threads that are looked at: more have a common cause.
const PROCESSES_MAX: usize = 16;
const THREADS_MAX: usize = 200;
/// Frames of a kernel stack.
const FRAMES_MAX: usize = 12;

/// What is taken of what another account's process says that it saw: lines, and bytes of each.
const LINES_MAX: usize = 3_000;
const LINE_MAX_BYTES: usize = 300;

/// What a look into a child found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// A signal holds its main process up.
    pub is_held_up: bool,
    /// What the main thread of its main process does.
    pub words: String,
    /// All threads, a line each with their stacks below.
    pub lines: Vec<String>,
}

impl Inside {
    /// As much of it as a look of our own could have found: who looked may be anybody that the job made of its warden.
    pub(super) fn bounded(self) -> Self {
        let bounded = |text: String| -> String {
            let end = text.floor_char_boundary(LINE_MAX_BYTES);
            text[..end].replace(|c: char| c.is_control(), "\u{fffd}")
        };
        let lines = self.lines.into_iter().take(LINES_MAX);
        Self {
            words: bounded(self.words),
            lines: lines.map(bounded).collect(),
            ..self
        }
    }
}

/// Looks into the process `main` and all below it. None where it is gone.
pub(super) fn look(main: i32) -> Option<Inside> {
    let mut lines = Vec::new();
    let mut left = THREADS_MAX;
    let mut words = None;
    let mut family = vec![main];
    family.extend(proc::family(main));
    for pid in family.iter().take(PROCESSES_MAX) {
        let threads = proc::threads(*pid);
        if threads.is_empty() {
            continue;
        }
        lines.push(format!("process {pid} ({}):", proc::command(*pid)));
        for thread in threads.iter().take(left) {
            if words.is_none() && *pid == main {
                words = Some(doing(thread));
            }
            lines.push(format!(
                "  thread {} ({}) {}",
                thread.id,
                thread.name,
                doing(thread)
            ));
            let frames = thread.stack.iter().take(FRAMES_MAX);
            lines.extend(frames.map(|frame| format!("    {frame}")));
        }
        let shown = threads.len().min(left);
        if shown < threads.len() {
            lines.push(format!("  .. and {} threads more", threads.len() - shown));
        }
        left -= shown;
    }
    if family.len() > PROCESSES_MAX {
        lines.push(format!(
            ".. and {} processes more",
            family.len() - PROCESSES_MAX
        ));
    }
    Some(Inside {
        is_held_up: is_held_up(main),
        words: words?,
        lines,
    })
}

/// Whether a signal holds the process up, or all that works for it: a shell that waits for a program which was
/// stopped is of no use either.
pub(super) fn is_held_up(main: i32) -> bool {
    let is_stopped = |pid: i32| proc::stat(pid).is_some_and(|stat| stat.is_stopped);
    if is_stopped(main) {
        return true;
    }
    let below = proc::family(main);
    !below.is_empty() && below.into_iter().all(is_stopped)
}

fn doing(thread: &Thread) -> String {
    let state = match thread.state {
        'R' => "runs",
        'S' => "sleeps",
        'D' => "waits for a disk or a driver and cannot be interrupted",
        'T' => "is stopped by a signal (state T)",
        't' => "is stopped by a debugger (state t)",
        'Z' | 'X' => "has ended",
        'I' => "idles",
        other => return format!("is in state {other}"),
    };
    match &thread.wchan {
        Some(place) => format!("{state} in {place}"),
        None => state.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sys::signal::Signal;

    use super::*;
    use crate::process::signal;

    #[test]
    fn what_a_job_says_in_its_wardens_place_is_bounded() {
        let forged = Inside {
            is_held_up: false,
            words: "\u{1b}[2J\0".repeat(1_000),
            lines: vec!["x".repeat(1_000_000); 5_000],
        };
        let bounded = forged.bounded();
        let is_fine =
            |text: &String| text.len() <= 3 * LINE_MAX_BYTES && !text.contains(['\0', '\u{1b}']);
        assert!(is_fine(&bounded.words) && bounded.lines.iter().all(is_fine));
        assert_eq!(bounded.lines.len(), LINES_MAX);
    }

    #[test]
    fn a_shell_and_what_works_for_it_are_seen_and_stopped_ones_are_told() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 1000; true"])
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let sleeper = loop {
            if let [sleeper] = proc::family(pid)[..] {
                break sleeper;
            }
            std::thread::yield_now();
        };
        assert!(!is_held_up(pid));
        // Its name is the shell's until it has become another program.
        while proc::command(sleeper) != "sleep" {
            std::thread::yield_now();
        }
        let seen = look(pid).unwrap();
        assert!(!seen.is_held_up, "{seen:?}");
        assert!(
            seen.lines.iter().any(|line| line.contains("(sleep)")),
            "{seen:?}"
        );
        signal(sleeper, Signal::SIGSTOP);
        while !is_held_up(pid) {
            std::thread::yield_now();
        }
        signal(pid, Signal::SIGSTOP);
        while !look(pid).unwrap().words.contains("state T") {
            std::thread::yield_now();
        }
        signal(sleeper, Signal::SIGKILL);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(look(pid), None);
    }
}
