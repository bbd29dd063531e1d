//! A daemon's own unit, for commands that root types beside it: they stop and start it, so that nobody has to.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::geteuid;

/// Where systemd says that it runs the host.
const BOOTED: &str = "/run/systemd/system";

/// The unit of a daemon, as it is installed on this host.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    unit: &'static str,
}

impl Service {
    /// The unit of this name, where root asks on a host that systemd runs and that has it. None: whoever typed the
    /// command starts the daemon in a way of his own.
    #[must_use]
    pub fn installed(unit: &'static str) -> Option<Self> {
        let service = Self { unit };
        // `cat` fails only where there is no such unit; the other questions fail for one that is
        // merely off, too.
        let may_be = geteuid().is_root() && Path::new(BOOTED).is_dir();
        (may_be && service.quietly(&["cat"])).then_some(service)
    }

    /// Whether the daemon runs.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.quietly(&["is-active"])
    }

    /// Stops the daemon, and returns when it has ended.
    ///
    /// # Errors
    /// When systemd does not do it.
    pub fn stop(&self) -> io::Result<()> {
        self.order(&["stop"])
    }

    /// Has the daemon started at each boot, and starts it now, anew where it runs. Returns when it says that it is
    /// ready.
    ///
    /// # Errors
    /// When systemd does not do it, or the daemon ends instead.
    pub fn enable_and_restart(&self) -> io::Result<()> {
        self.order(&["enable", "--quiet"])?;
        self.order(&["restart"])
    }

    /// Starts the daemon where it does not run.
    ///
    /// # Errors
    /// As [`Self::enable_and_restart`].
    pub fn start(&self) -> io::Result<()> {
        self.order(&["start"])
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("systemctl");
        command.args(words).arg(self.unit).stdin(Stdio::null());
        command
    }

    fn quietly(&self, words: &[&str]) -> bool {
        let mut command = self.command(words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    fn order(&self, words: &[&str]) -> io::Result<()> {
        let output = self.command(words).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "\"systemctl {} {}\" failed: {}; \"journalctl -u {}\" says why",
            words.join(" "),
            self.unit,
            String::from_utf8_lossy(&output.stderr).trim(),
            self.unit
        )))
    }
}
