//! What a coordinator that was killed may have left: a server that is still on its way out, and
//! files that name a process which is no more.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::PostgresError;

/// How long a server may take for a fast shutdown: it writes a checkpoint, a fraction of a second
/// for ours, seconds on a busy disk. Quitting earlier would not help: recovery then syncs every
/// file of the cluster, which takes longer.
const FAST: Duration = Duration::from_secs(10);
/// How long it may take to quit without a checkpoint, and its children to follow it when it is
/// killed. What it had acknowledged is in its log on disk.
const QUIT: Duration = Duration::from_secs(5);
const KILL: Duration = Duration::from_secs(5);
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Waits until no process of an earlier server works in `data`, after telling it to stop. The
/// caller holds the data folder's lock, so such a server serves nobody any more. What was done, in words.
pub(crate) fn clear(data: &Path, socket_folder: &Path) -> Result<Vec<String>, PostgresError> {
    let pid_file = data.join("postmaster.pid");
    let mut notes = Vec::new();
    // Without the file no server runs there: it is the first that one writes and the last that it removes.
    let Some(postmaster) = postmaster_pid(&pid_file) else {
        return Ok(notes);
    };
    let steps = [
        (Signal::SIGINT, FAST),
        (Signal::SIGQUIT, QUIT),
        (Signal::SIGKILL, KILL),
    ];
    for (signal, limit) in steps {
        let deadline = Instant::now() + limit;
        let mut told = false;
        loop {
            let working = processes_in(data, postmaster);
            if working.is_empty() {
                forget(&pid_file, socket_folder)?;
                return Ok(notes);
            }
            // Only the postmaster: it tells its children, and they leave by themselves without it.
            // The number alone proves nothing: it may be somebody else's by now.
            if !told && working.contains(&postmaster) {
                notes.push(format!(
                    "sent {signal} to {postmaster}, a postgres that an earlier start left behind"
                ));
                let _ = kill(postmaster, signal);
                told = true;
            }
            if Instant::now() > deadline {
                break;
            }
            sleep(POLL_EVERY);
        }
    }
    let pids = processes_in(data, postmaster)
        .iter()
        .map(|pid| pid.as_raw())
        .collect();
    Err(PostgresError::StillRunning {
        pids,
        data: data.to_owned(),
    })
}

fn postmaster_pid(pid_file: &Path) -> Option<Pid> {
    let text = fs::read_to_string(pid_file).ok()?;
    text.lines()
        .next()?
        .trim()
        .parse()
        .ok()
        .filter(|pid| *pid > 1)
        .map(Pid::from_raw)
}

/// Postgres processes that work in `data`: a server and its children have it as their current
/// folder.
#[cfg(target_os = "linux")]
fn processes_in(data: &Path, _postmaster: Pid) -> Vec<Pid> {
    let Ok(data) = data.canonicalize() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let is_there = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data);
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        // Both: a person's shell may stand in the folder, and is not ours to kill.
        if is_there && name.trim_end() == "postgres" {
            found.push(Pid::from_raw(pid));
        }
    }
    found
}

/// Without /proc only the postmaster itself can be asked for.
#[cfg(not(target_os = "linux"))]
fn processes_in(_data: &Path, postmaster: Pid) -> Vec<Pid> {
    if kill(postmaster, None).is_ok() {
        vec![postmaster]
    } else {
        Vec::new()
    }
}

/// Removes the files that name a process. PostgreSQL would refuse to start where another process
/// has that number by now, as happens after a reboot.
fn forget(pid_file: &Path, socket_folder: &Path) -> Result<(), PostgresError> {
    let lock: PathBuf = socket_folder.join(".s.PGSQL.5432.lock");
    for file in [pid_file, &lock] {
        match fs::remove_file(file) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(PostgresError::io("remove", file)(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of a test's own, removed with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            Self(crate::fresh_folder().unwrap())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn files_that_name_another_process_are_removed() {
        let folder = Folder::new();
        // This very process lives, but does not work in the folder.
        let pid_file = folder.0.join("postmaster.pid");
        fs::write(&pid_file, format!("{}\n/data\n", std::process::id())).unwrap();
        clear(&folder.0, &folder.0).unwrap();
        assert!(!pid_file.exists());
    }

    /// A process named "postgres" that works in `folder` and waits.
    #[cfg(target_os = "linux")]
    fn waiting_postgres(folder: &Path) -> std::process::Child {
        let program = folder.join("postgres");
        // Not by this process: a test beside this one that starts a child at that moment would hold the
        // file open for writing, and it could not be run.
        let copied = std::process::Command::new("cp")
            .arg("/bin/sleep")
            .arg(&program)
            .status();
        assert!(copied.unwrap().success());
        let mut command = std::process::Command::new(&program);
        command.arg("60").current_dir(folder).spawn().unwrap()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_server_that_works_in_the_folder_is_told_to_stop_and_waited_for() {
        let folder = Folder::new();
        let mut child = waiting_postgres(&folder.0);
        let pid_file = folder.0.join("postmaster.pid");
        fs::write(&pid_file, format!("{}\n", child.id())).unwrap();
        // Somebody must collect the child, or it stays as a zombie (which has no folder any more).
        let waiter = std::thread::spawn(move || child.wait().unwrap());
        clear(&folder.0, &folder.0).unwrap();
        assert!(!waiter.join().unwrap().success());
        assert!(!pid_file.exists());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_that_has_the_number_by_accident_is_let_alone() {
        let (folder, elsewhere) = (Folder::new(), Folder::new());
        let mut bystander = waiting_postgres(&elsewhere.0);
        let pid_file = folder.0.join("postmaster.pid");
        fs::write(&pid_file, format!("{}\n", bystander.id())).unwrap();
        clear(&folder.0, &folder.0).unwrap();
        assert!(bystander.try_wait().unwrap().is_none(), "it still runs");
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }
}
