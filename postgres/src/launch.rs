//! The step between us and a PostgreSQL program: a process of our own binary that ties itself to
//! us, leaves root behind, and becomes the program.
//!
//! PostgreSQL refuses to run as root, and what a child must do before it becomes another program
//! can be done safely only in a program of its own: between fork and exec of a process with
//! threads hardly anything is allowed. A user namespace without a mapping (`unshare -U`) makes
//! root look like nobody while files stay root's; where the kernel does not give one, the child
//! becomes another user.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{User, geteuid};

use crate::PostgresError;
use crate::rights::Rights;

/// The hidden subcommand of our binary that calls [`become_program`].
pub const SUBCOMMAND: &str = "become-postgres-program";

/// Accounts that a process of root may become, in this order.
const ACCOUNTS: [&str; 2] = ["postgres", "nobody"];

/// The rights that work here. `launcher` is our own binary, `postgres` any program that leaves at once.
pub(crate) fn rights(launcher: &Path, postgres: &Path) -> Result<Rights, PostgresError> {
    if !geteuid().is_root() {
        return Ok(Rights::Keep);
    }
    let account = ACCOUNTS
        .iter()
        .find_map(|name| User::from_name(name).ok().flatten())
        .map(Rights::Account);
    // The namespace first: the files stay root's, so that no other account has to be able to reach the data
    // folder.
    [Some(Rights::Namespace), account]
        .into_iter()
        .flatten()
        .find(|rights| {
            let mut probe = command(launcher, rights, postgres);
            let probe = probe
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            probe.status().is_ok_and(|status| status.success())
        })
        .ok_or(PostgresError::Root)
}

/// A command that runs `program` with `rights`, tied to the calling thread: when that ends, the
/// program gets SIGINT, which is PostgreSQL's fast shutdown.
pub(crate) fn command(launcher: &Path, rights: &Rights, program: &Path) -> Command {
    let mut command = Command::new(launcher);
    command
        .arg(SUBCOMMAND)
        .arg(rights.word())
        .arg(std::process::id().to_string())
        .arg(program);
    // The service manager's socket is for us: it must not hear of the server as the coordinator.
    command.env_remove("NOTIFY_SOCKET");
    // A user's own client settings must not reach into the cluster.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    // Ctrl-C on our terminal is for us; we stop the server when we no longer need it.
    command.stdin(Stdio::null()).process_group(0);
    command
}

/// Becomes a PostgreSQL program; returns only what went wrong. `args` are those that `command`
/// gave: rights, the parent's process id, the program and its arguments. Must be called before any
/// thread is started.
#[must_use]
pub fn become_program(args: &[OsString]) -> PostgresError {
    match prepare(args) {
        Ok(mut program) => {
            let error = program.exec();
            let name = program.get_program();
            PostgresError::Launch(format!("could not start {name:?}: {error}"))
        }
        Err(why) => PostgresError::Launch(why),
    }
}

fn prepare(args: &[OsString]) -> Result<Command, String> {
    let [rights, parent, program, args @ ..] = args else {
        return Err(format!(
            "usage: {SUBCOMMAND} RIGHTS PARENT PROGRAM [ARGUMENT]..."
        ));
    };
    let text = |word: &OsStr| word.to_string_lossy().into_owned();
    let known = Rights::from_word(&text(rights));
    let rights = known.ok_or_else(|| format!("unknown rights {rights:?}"))?;
    let parent: i32 = text(parent)
        .parse()
        .map_err(|_| format!("{parent:?} is no process"))?;

    let failed = |error: nix::Error| format!("could not become an ordinary user: {error}");
    rights.leave_root().map_err(failed)?;
    // After the change of rights, which would clear it.
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGINT)
        .map_err(|error| format!("could not ask for a signal at our parent's end: {error}"))?;
    // Whoever died before that was in place sends no signal.
    if nix::unistd::getppid().as_raw() != parent {
        return Err("whoever started this is gone".into());
    }
    let mut command = Command::new(program);
    command.args(args);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_order_to_start_a_program_is_refused() {
        let ppid = nix::unistd::getppid().as_raw().to_string();
        for (words, says) in [
            (vec!["keep"], "usage: "),
            (vec!["all", &ppid, "/bin/true"], "unknown rights \"all\""),
            (
                vec!["account:nobody-of-that-name", &ppid, "/bin/true"],
                "unknown rights",
            ),
            (vec!["keep", "me", "/bin/true"], "\"me\" is no process"),
            // Ours is another: a server that is started after its coordinator's end must not run.
            (vec!["keep", "1000000000", "/bin/true"], "is gone"),
        ] {
            let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
            let error = become_program(&words).to_string();
            assert!(error.contains(says), "{words:?}: {error}");
        }
    }
}
