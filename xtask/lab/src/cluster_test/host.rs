//! One host: a disk, a link, and a systemd of its own, booted by systemd-nspawn. Whoever tries something on hosts sees
//! this interface alone: boot, run a command, cut the power.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use marquee_xtask::process;

use super::network::Network;

/// A busy machine takes 20 times as long as an idle one.
const BOOT_WITHIN: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(100);
/// No command that hosts are asked to run may hang for longer, in seconds.
const COMMAND_MAX_S: u32 = 600;

/// A folder that several hosts mount, as they would one of a file server.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub folder: PathBuf,
    pub at: &'static str,
}

#[derive(Debug)]
pub(super) struct Host {
    pub name: String,
    network: PathBuf,
    /// Holds the layers of its disk and the log of its console.
    folder: PathBuf,
    shared: Vec<Shared>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    nspawn: Child,
    /// The host's process 1, by our number.
    init: u32,
}

impl Host {
    /// A host with a disk and a link, which is off.
    pub(super) fn new(
        name: &str,
        address: &str,
        network: &Network,
        (hosts, base): (&Path, &Path),
        shared: Vec<Shared>,
    ) -> Result<Self> {
        let folder = hosts.join(name);
        for layer in ["upper", "work", "disk"] {
            fs::create_dir_all(folder.join(layer))?;
        }
        let at = folder.display();
        let options = format!(
            "lowerdir={},upperdir={at}/upper,workdir={at}/work",
            base.display()
        );
        process::read(
            Command::new("mount")
                .args(["-t", "overlay", "overlay", "-o", &options])
                .arg(folder.join("disk")),
        )?;
        let host = Self {
            name: name.to_owned(),
            network: network.plug(name, address)?,
            folder,
            shared,
            running: None,
        };
        host.write("/etc/hostname", &format!("{name}\n"))?;
        // Empty: systemd makes an id at the first boot, or all hosts would have one and the same.
        host.write("/etc/machine-id", "")?;
        let default = host.disk("/etc/systemd/system/default.target");
        // Not graphical.target, which is Debian's own default.
        std::os::unix::fs::symlink("/lib/systemd/system/multi-user.target", default)?;
        Ok(host)
    }

    /// A file of the host, seen from here.
    pub(super) fn disk(&self, path: &str) -> PathBuf {
        self.folder.join("disk").join(path.trim_start_matches('/'))
    }

    pub(super) fn write(&self, path: &str, text: &str) -> Result<()> {
        let file = self.disk(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Switches it on, and returns at once; [`Self::until_up`] waits for it.
    pub(super) fn power_on(&mut self) -> Result<()> {
        let console = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("console.log"))?;
        let mut start = String::new();
        for tree in super::cgroups() {
            // Each host in a cgroup of its own, whose root systemd inside takes for the root of
            // all.
            let cgroup = tree.join(&self.name);
            fs::create_dir_all(&cgroup)
                .with_context(|| format!("cannot make {}", cgroup.display()))?;
            start.push_str(&format!("echo 0 >{}/cgroup.procs; ", cgroup.display()));
        }
        start.push_str("exec systemd-nspawn \"$@\"");
        let mut command = Command::new("sh");
        command
            .args(["-ec", &start, "sh"])
            // There is no systemd outside that would keep a book of machines.
            .args(["--register=no", "--keep-unit", "--boot", "--quiet"])
            .args(["--link-journal=no", "--console=pipe"])
            .arg(format!("--machine={}", self.name))
            .arg(format!("--directory={}", self.disk("/").display()))
            .arg(format!(
                "--network-namespace-path={}",
                self.network.display()
            ))
            // Without these, what units say of devices and addresses is not enforced inside, and nobody is told.
            .args(["--capability=all", "--system-call-filter=bpf @keyring"])
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        for shared in &self.shared {
            command.arg(format!("--bind={}:{}", shared.folder.display(), shared.at));
        }
        let nspawn = command
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()
            .context("cannot start systemd-nspawn")?;
        self.running = Some(Running { nspawn, init: 0 });
        Ok(())
    }

    /// Returns when systemd says that all has started.
    pub(super) fn until_up(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let running = self.running.as_mut().context("it is off")?;
            if let Some(status) = running.nspawn.try_wait()? {
                bail!("{} did not boot: {status}\n{}", self.name, self.console());
            }
            // Asked each time: nspawn starts the host's first process some time after itself.
            running.init = first_child(running.nspawn.id()).unwrap_or(0);
            let state = match running.init {
                0 => String::new(),
                // It fails for all states but one, which it prints.
                _ => {
                    let output = self.enter("systemctl is-system-running").output()?;
                    String::from_utf8_lossy(&output.stdout).into_owned()
                }
            };
            match state.trim() {
                "running" => return Ok(()),
                // A unit that failed at the start would make later failures hard to read.
                "degraded" => {
                    let failed = self.run("systemctl --failed --no-legend --plain")?;
                    bail!("{}: units failed at its start: {failed}", self.name);
                }
                _ if begun.elapsed() > BOOT_WITHIN => {
                    bail!(
                        "{} does not come up ({state})\n{}",
                        self.name,
                        self.console()
                    )
                }
                _ => sleep(POLL),
            }
        }
    }

    pub(super) fn boot(&mut self) -> Result<()> {
        self.power_on()?;
        self.until_up()
    }

    /// Runs a script of the shell as root and gives what it prints; anything but success is an error.
    pub(super) fn run(&self, script: &str) -> Result<String> {
        process::read(&mut self.enter(script)).with_context(|| format!("on {}", self.name))
    }

    /// The same where failure is what is expected: whether it succeeded, and all that it said.
    pub(super) fn tries(&self, script: &str) -> Result<(bool, String)> {
        let output = self.enter(script).output()?;
        Ok((output.status.success(), process::said(&output)))
    }

    fn enter(&self, script: &str) -> Command {
        let init = self.running.as_ref().map_or(0, |running| running.init);
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &init.to_string(), "--all"])
            .args([
                "env",
                "--chdir=/root",
                "-i",
                "HOME=/root",
                "LANG=C.UTF-8",
                "NO_COLOR=1",
            ])
            .arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            // Ended inside, where the command runs: to end nsenter would leave it behind.
            .args(["DEBIAN_FRONTEND=noninteractive", "timeout"])
            .args([&COMMAND_MAX_S.to_string(), "sh", "-ec", script])
            .stdin(Stdio::null());
        command
    }

    /// At once and without a word to anybody inside. What the kernel had not written yet is not lost by this, as it would
    /// be by a real power cut: one kernel runs all hosts.
    pub(super) fn cut_power(&mut self) -> Result<()> {
        let mut running = self.running.take().context("it is off")?;
        // Process 1 of the host takes all of its processes with it.
        process::read(Command::new("kill").args(["-KILL", &running.init.to_string()]))?;
        running.nspawn.wait()?;
        Ok(())
    }

    pub(super) fn is_on(&self) -> bool {
        self.running.is_some()
    }

    /// The end of what its console showed.
    fn console(&self) -> String {
        let text = fs::read_to_string(self.folder.join("console.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Its journal of all boots, and its console, into `logs`.
    pub(super) fn keep_logs(&self, logs: &Path) -> Result<()> {
        fs::create_dir_all(logs)?;
        let _ = fs::copy(
            self.folder.join("console.log"),
            logs.join(format!("{}.console.log", self.name)),
        );
        if self.is_on() {
            let journal = self.run("journalctl --no-pager --output=short-precise")?;
            fs::write(logs.join(format!("{}.journal", self.name)), journal)?;
        }
        Ok(())
    }
}

/// The first child of a process with one thread.
fn first_child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
