//! The step between us and a PostgreSQL program: a process of our own binary that ties itself to
//! us, leaves root behind, and becomes the program.
//!
//! PostgreSQL refuses to run as root, and what a child must do before it becomes another program
//! can be done safely only in a program of its own: between fork and exec of a process with
//! threads hardly anything is allowed. A user namespace without a mapping (`unshare -U`) makes
//! root look like nobody while files stay root's; where the kernel does not give one, the child
//! becomes another user.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{User, geteuid};

use super::PostgresError;

/// The hidden subcommand of our binary that calls [`become_program`].
pub const SUBCOMMAND: &str = "become-postgres-program";

/// Accounts that a process of root may become, in this order.
const ACCOUNTS: [&str; 2] = ["postgres", "nobody"];

/// How a PostgreSQL program gets rid of root's rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rights {
    /// We are not root.
    Keep,
    /// Into a user namespace of its own.
    Namespace,
    /// By becoming this user; the cluster's files are this user's.
    Account(User),
}

/// How to be named on the launcher's command line.
impl Rights {
    fn word(&self) -> String {
        match self {
            Self::Keep => "keep".into(),
            Self::Namespace => "namespace".into(),
            Self::Account(user) => format!("account:{}", user.name),
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        match word {
            "keep" => Some(Self::Keep),
            "namespace" => Some(Self::Namespace),
            other => {
                let name = other.strip_prefix("account:")?;
                User::from_name(name).ok().flatten().map(Self::Account)
            }
        }
    }

    /// What works here. `launcher` is our own binary, `program` any that leaves at once.
    pub(super) fn find(launcher: &Path, postgres: &Path) -> Result<Self, PostgresError> {
        if !geteuid().is_root() {
            return Ok(Self::Keep);
        }
        let namespace = Self::Namespace;
        let account = ACCOUNTS
            .iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .map(Self::Account);
        [Some(namespace), account]
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
}

/// A command that runs `program` with `rights`, tied to the calling thread: when that ends, the
/// program gets SIGINT, which is PostgreSQL's fast shutdown.
pub(super) fn command(launcher: &Path, rights: &Rights, program: &Path) -> Command {
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
pub fn become_program(args: &[OsString]) -> anyhow::Error {
    match prepare(args) {
        Ok(mut program) => anyhow::Error::from(program.exec())
            .context(format!("could not start {:?}", program.get_program())),
        Err(error) => error,
    }
}

fn prepare(args: &[OsString]) -> anyhow::Result<Command> {
    let [rights, parent, program, args @ ..] = args else {
        anyhow::bail!("usage: {SUBCOMMAND} RIGHTS PARENT PROGRAM [ARGUMENT]...");
    };
    let rights = rights.to_str().and_then(Rights::from_word);
    let rights = rights.ok_or_else(|| anyhow::anyhow!("unknown rights"))?;
    let parent: i32 = parent.to_string_lossy().parse()?;

    leave_root(&rights)?;
    // After the change of rights, which would clear it.
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGINT)?;
    // Whoever died before that was in place sends no signal.
    anyhow::ensure!(
        nix::unistd::getppid().as_raw() == parent,
        "the coordinator is gone"
    );

    let mut command = Command::new(program);
    command.args(args);
    Ok(command)
}

fn leave_root(rights: &Rights) -> anyhow::Result<()> {
    match rights {
        Rights::Keep => {}
        #[cfg(target_os = "linux")]
        Rights::Namespace => nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?,
        #[cfg(not(target_os = "linux"))]
        Rights::Namespace => anyhow::bail!("this system has no user namespaces"),
        Rights::Account(user) => {
            nix::unistd::setgid(user.gid)?;
            nix::unistd::setuid(user.uid)?;
        }
    }
    Ok(())
}
