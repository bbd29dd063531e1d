//! `cargo xtask cluster-test`: whole hosts, each with a systemd of its own, on which the Debian packages are installed
//! as docs/deploy.md says. Then they lose what hosts lose: daemons, power, links, packets; and nothing may be lost.
//!
//! Invariant: whatever ends the task, nothing of it stays. Hosts, mounts and networks live in namespaces of a process
//! that the kernel ends with us; what only files can leave, a shell removes that waits for our end (`Tidy`).

mod cage;
mod faults;
mod first_job;
mod grown;
mod host;
mod image;
mod network;
mod packages;
mod restored;
mod seen;
mod site;
mod trust;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use marquee_xtask::workspace::Workspace;
use marquee_xtask::{process, report};

use self::seen::Seen;
use self::site::Site;
use crate::dist;

/// Set for the process inside the namespaces.
const INSIDE: &str = "MARQUEE_CLUSTER_TEST_INSIDE";
/// What it takes, with the Debian package of each.
const PROGRAMS: [(&str, &str); 5] = [
    ("systemd-nspawn", "systemd-container"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("unshare", "util-linux"),
    ("dpkg-deb", "dpkg"),
];

/// The options of `cluster-test`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// A folder with the packages, as `dist` made it. None: they are made, of the development build.
    pub packages: Option<PathBuf>,
    /// What to try beside the first job; all, where none is named.
    pub scenes: Vec<String>,
}

/// One thing that is tried: a name to choose it by, and what is done. Each leaves a cluster that works.
type Scene = (&'static str, fn(&mut Site, &mut Seen) -> Result<()>);

/// In the order in which they run.
const SCENES: [Scene; 18] = [
    ("units", cage::units_are_closed),
    ("cage", cage::jobs_are_caged),
    ("killed", faults::services_are_killed),
    ("power", faults::a_host_loses_its_power),
    ("cut", faults::a_link_is_cut),
    ("one-way", faults::a_link_carries_one_way),
    ("deaf", faults::a_link_carries_the_other_way),
    ("loss", faults::a_link_loses_packets),
    ("slow", faults::a_link_is_slow),
    ("drain", faults::a_worker_is_drained),
    ("reload", packages::settings_are_read_anew),
    ("upgrade", packages::all_is_upgraded_under_a_job),
    ("certificates", trust::certificates_end_and_are_renewed),
    ("members", trust::workers_are_shut_out_and_let_in),
    ("backup", restored::a_backup_is_restored_and_judged),
    ("fail-over", faults::the_leader_loses_its_power),
    ("settings", packages::wrong_settings_are_told_once),
    ("packages", packages::removed_installed_purged),
];

/// The names of all scenes.
pub(crate) fn names() -> Vec<&'static str> {
    SCENES.iter().map(|(name, _)| *name).collect()
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    if let Some(folder) = std::env::var_os(INSIDE) {
        return inside(Path::new(&folder), options);
    }
    // Skipped, not failed: most machines cannot boot hosts, and whoever runs all tasks is to go on.
    if let Some(why) = cannot_run() {
        report::note(&format!("skipped: cluster-test: {why}"));
        return Ok(ExitCode::SUCCESS);
    }
    let target = workspace.bin_dir.parent();
    let folder = target
        .context("the target folder has a parent")?
        .join("cluster-test");
    let base = image::ensure()?;
    let packages = match &options.packages {
        Some(folder) => std::path::absolute(folder)?,
        None => {
            let to = folder.join("packages");
            dist::run(workspace, &dist::Options::quick(&to))?;
            to
        }
    };
    // Logs of the run before, and disks of one whose machine lost power.
    for leftover in ["hosts", "logs"] {
        remove(&folder.join(leftover))?;
    }
    // Before there is anything to clean up.
    let tidy = Tidy::start(&folder.join("hosts"), &cgroups())?;
    let mut command = Command::new("setpriv");
    // The kernel ends unshare with us, and the namespaces' first process, with all in them, with unshare.
    command
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--net"])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, &folder)
        .env("MARQUEE_CLUSTER_TEST_BASE", &base)
        .env("MARQUEE_CLUSTER_TEST_PACKAGES", &packages);
    let status = command.status();
    // Here, and not at the end of the function: it waits until all is removed, also where the run
    // failed.
    drop(tidy);
    let code = status
        .with_context(|| format!("cannot start {}", process::line(&command)))?
        .code();
    Ok(match code {
        Some(0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Why this machine can boot no hosts; None where it can.
fn cannot_run() -> Option<String> {
    if !process::is_root() {
        return Some("only root can boot hosts".to_owned());
    }
    if cgroups().is_empty() {
        return Some("no cgroup tree is mounted at /sys/fs/cgroup".to_owned());
    }
    let missing = PROGRAMS
        .iter()
        .find(|(program, _)| process::on_path(program).is_none())?;
    Some(format!(
        "{} is not installed (apt-get install {})",
        missing.0, missing.1
    ))
}

/// This run's part of each cgroup tree: of version 2, and of systemd's own where version 1 is there too.
fn cgroups() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let trees = ["systemd", "unified"].map(|tree| root.join(tree));
    let mut found: Vec<PathBuf> = trees.into_iter().filter(|tree| tree.is_dir()).collect();
    if found.is_empty() && root.join("cgroup.controllers").exists() {
        found.push(root.to_owned());
    }
    found
        .iter()
        .map(|tree| tree.join("marquee-cluster-test"))
        .collect()
}

/// What runs in the namespaces, as their first process.
fn inside(folder: &Path, options: &Options) -> Result<ExitCode> {
    let place = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .with_context(|| format!("{name} is not set"))
    };
    let base = place("MARQUEE_CLUSTER_TEST_BASE")?;
    let packages = place("MARQUEE_CLUSTER_TEST_PACKAGES")?;
    let mut seen = Seen::default();
    let mut site = report::step("boot: two heads, two workers, a desk", || {
        Site::boot(folder, &base, &packages)
    })?;
    let result = play(&mut site, options, &mut seen);
    let logs = folder.join("logs");
    // Whatever the outcome, and before it is judged: of a failure the logs are what is left to look
    // at.
    if let Err(error) = site.keep_logs(&logs) {
        report::note(&format!("some logs could not be kept: {error:#}"));
    }
    report::note(&format!("logs of all hosts: {}", logs.display()));
    seen.print()?;
    result?;
    Ok(if seen.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn play(site: &mut Site, options: &Options, seen: &mut Seen) -> Result<()> {
    report::step("first job: install, join, train", || {
        first_job::run(site, seen)
    })?;
    report::step("a second coordinator", || grown::grow(site, seen))?;
    for (name, scene) in SCENES {
        if options.scenes.is_empty() || options.scenes.iter().any(|wanted| wanted == name) {
            report::step(name, || scene(site, seen)).with_context(|| format!("scene {name:?}"))?;
        }
    }
    report::step("history: held against the rules", || {
        let verdict = site.marquee(&["audit", "verify"])?;
        match verdict["clean"].as_bool() {
            Some(true) => {
                report::note(&format!(
                    "clean: {} lines, {} jobs, {} grants, {} artifacts",
                    verdict["lines"], verdict["jobs"], verdict["grants"], verdict["artifacts"]
                ));
                Ok(())
            }
            _ => bail!("the history breaks a rule: {verdict}"),
        }
    })
}

/// Removes, once we are gone, what no namespace takes with it: empty cgroups, and the hosts' disks.
#[derive(Debug)]
struct Tidy {
    shell: Child,
}

/// Reads until our end of the pipe is closed, which the kernel does however we end.
const TIDY: &str = r#"
cat >/dev/null
disks=$1
shift
for _ in $(seq 150); do
    left=
    for tree; do
        [ -d "$tree" ] || continue
        find "$tree" -depth -type d -exec rmdir {} \; 2>/dev/null
        [ -d "$tree" ] && left=yes
    done
    [ "$left" ] || break
    sleep 0.2
done
rm -rf "$disks"
"#;

impl Tidy {
    fn start(disks: &Path, cgroups: &[PathBuf]) -> Result<Self> {
        // A session of its own: a Ctrl-C is for us, and not for what cleans up after us.
        let shell = Command::new("setsid")
            .args(["sh", "-c", TIDY, "tidy"])
            .arg(disks)
            .args(cgroups)
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start setsid")?;
        Ok(Self { shell })
    }
}

impl Drop for Tidy {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
