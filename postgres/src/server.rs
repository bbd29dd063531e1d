//! A running server: started, waited for, stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::PostgresError;

/// How long the server may take to become ready: recovery after a crash replays at most one
/// checkpoint interval, seconds for ours.
const READY_WITHIN: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(10);
/// How long a fast shutdown may take, and then a quit, before the next stronger means.
pub const STOP_WITHIN: Duration = Duration::from_secs(8);
/// A fast shutdown, quitting without one, and the end that nobody can refuse.
const STOP: [Signal; 3] = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL];

/// A server that takes connections. It is stopped by [`stop`](Self::stop), or with us.
#[derive(Debug)]
pub struct Server {
    child: Child,
    program: PathBuf,
}

impl Server {
    pub(crate) fn start(
        command: &mut Command,
        data: &Path,
        log: &Path,
        mut given_up: impl FnMut(Duration) -> bool,
    ) -> Result<Self, PostgresError> {
        let program = PathBuf::from(command.get_program());
        let child = command
            .spawn()
            .map_err(PostgresError::io("start", &program))?;
        let mut server = Self { child, program };
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let not_ready = |why: &str| PostgresError::NotReady {
                why: why.to_owned(),
                log: log.to_owned(),
            };
            // Its end before its readiness: the file of one that crashed at once may still say "ready".
            if let Some(status) = server.ended()? {
                return Err(not_ready(&format!("it ended with {status}")));
            }
            if is_ready(data, Some(server.child.id())) {
                return Ok(server);
            }
            let given_up = given_up(POLL_EVERY);
            if given_up || Instant::now() > deadline {
                server.stop();
                return Err(not_ready(if given_up {
                    "it was told to stop"
                } else {
                    "it took too long"
                }));
            }
        }
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, PostgresError> {
        self.child
            .try_wait()
            .map_err(PostgresError::io("wait for", &self.program))
    }

    /// Stops it in order, or else by force. The signals that it did not heed.
    pub fn stop(mut self) -> Vec<&'static str> {
        let pid = i32::try_from(self.child.id()).map(Pid::from_raw);
        let mut unheeded = Vec::new();
        // Each stronger one costs the next start something: after a quit it recovers from its log.
        for signal in STOP {
            if let Ok(pid) = pid {
                // Gone already: the wait below sees it.
                let _ = kill(pid, signal);
            }
            let deadline = Instant::now() + STOP_WITHIN;
            while Instant::now() < deadline {
                match self.ended() {
                    Ok(None) => std::thread::sleep(POLL_EVERY),
                    Ok(Some(_)) | Err(_) => return unheeded,
                }
            }
            unheeded.push(signal.as_str());
        }
        unheeded
    }
}

/// Whether the server in `data` says that it takes connections; with `pid` given, whether it is that one.
pub(crate) fn is_ready(data: &Path, pid: Option<u32>) -> bool {
    // Line 1 is the process, line 8 the state (src/include/utils/pidfile.h of PostgreSQL).
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().trim();
    let is_its_own = pid.is_none_or(|pid| first == pid.to_string());
    is_its_own && lines.nth(6).is_some_and(|line| line.trim() == "ready")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_ready_when_its_own_file_says_so() {
        let folder = crate::fresh_folder().unwrap();
        assert!(!is_ready(&folder, None), "no file yet");
        let file = folder.join("postmaster.pid");
        let lines = |state: &str| format!("42\n/data\n1\n5432\n/tmp\n\n 1 2\n{state}\n");
        fs::write(&file, lines("starting")).unwrap();
        assert!(!is_ready(&folder, Some(42)));
        fs::write(&file, lines("ready   ")).unwrap();
        assert!(is_ready(&folder, Some(42)) && is_ready(&folder, None));
        assert!(!is_ready(&folder, Some(43)), "another's");
        fs::write(&file, "42\n/data\n").unwrap();
        assert!(!is_ready(&folder, Some(42)), "half written");
        fs::remove_dir_all(folder).unwrap();
    }
}
