//! Processes of this host, as the kernel shows them in `/proc`.
//!
//! A process is named by its id *and* its start time, because ids come round again. Zombies count
//! as gone: they hold no device and no memory.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

pub mod keeper;
pub mod kept;

/// One process, beyond doubt as long as the kernel is not booted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// Clock ticks since boot, field 22 of `/proc/<pid>/stat`.
    pub start: u64,
}

/// What `/proc/<pid>/stat` says, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) parent: i32,
    pub(crate) session: i32,
    pub(crate) start: u64,
}

impl ProcessId {
    /// The process that asks.
    #[must_use]
    pub fn own() -> Option<Self> {
        let pid = Pid::this().as_raw();
        Some(Self {
            pid,
            start: stat(pid)?.start,
        })
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.start == self.start && stat.is_alive())
    }
}

impl Stat {
    fn is_alive(self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command's name stands in parentheses and may hold any character, `)` included.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text
        .get(text.rfind(')')? + 1..)?
        .split_whitespace()
        .collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

/// Every process that runs and fits.
pub(crate) fn find(fits: impl Fn(i32, Stat) -> bool) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|stat| stat.is_alive() && fits(*pid, stat)))
        .collect()
}

/// Sends a signal. A process that is gone already is what one wanted.
pub(crate) fn signal(pid: i32, signal: Signal) {
    let _gone_already = kill(Pid::from_raw(pid), signal);
}

/// How often the kernel's out-of-memory killer has struck on this host since it was booted.
pub(crate) fn oom_kills() -> u64 {
    let vmstat = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = vmstat
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_and_blanks_is_read() {
        let line = "42 (a) b ()) S 7 42 43 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 0 0";
        let stat = parse_stat(line).unwrap();
        assert_eq!(
            stat,
            Stat {
                state: 'S',
                parent: 7,
                session: 43,
                start: 987_654
            }
        );
    }

    #[test]
    fn a_process_is_known_by_its_start_time_too() {
        let own = ProcessId::own().unwrap();
        assert!(own.is_alive());
        assert!(
            !ProcessId {
                start: own.start + 1,
                ..own
            }
            .is_alive()
        );
    }
}
