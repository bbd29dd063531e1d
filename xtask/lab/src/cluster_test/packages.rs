//! What the packages do when they are installed over others, removed and purged; and a daemon's wrong settings.

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use marquee_xtask::process;

use super::faults::once;
use super::seen::Seen;
use super::site::{PACKAGES_AT, Site, until};

/// The folder of packages that say to be newer.
const NEWER: &str = "newer";

/// The same program in a package that says to be newer, the later the higher its number.
fn newer(site: &Site, name: &str, number: u32) -> Result<String> {
    // The package that was made, with another version: to build a newer one would take the test's
    // time.
    let mut packages = fs::read_dir(&site.packages)?.flatten();
    let package = packages
        .find(|entry| {
            let file = entry.file_name().to_string_lossy().into_owned();
            file.starts_with(&format!("{name}_"))
        })
        .with_context(|| format!("no package {name}"))?;
    let folder = site.folder.join("hosts/newer");
    super::remove(&folder)?;
    process::read(
        Command::new("dpkg-deb")
            .arg("-R")
            .arg(package.path())
            .arg(&folder),
    )?;
    let control = folder.join("DEBIAN/control");
    let text = fs::read_to_string(&control)?;
    let lines: Vec<String> = text
        .lines()
        .map(|line| match line.strip_prefix("Version: ") {
            Some(version) => format!("Version: {version}+newer{number}"),
            None => line.to_owned(),
        })
        .collect();
    fs::write(&control, lines.join("\n") + "\n")?;
    // Apart from the others, which are named by what their names begin with.
    fs::create_dir_all(site.packages.join(NEWER))?;
    let file = format!("{NEWER}/{name}_{number}.deb");
    process::read(
        Command::new("dpkg-deb")
            // Compressed little, for each is installed once and thrown away.
            .args(["-Zgzip", "-z1", "--root-owner-group", "-b"])
            .arg(&folder)
            .arg(site.packages.join(&file)),
    )?;
    super::remove(&folder)?;
    Ok(format!("{PACKAGES_AT}/{file}"))
}

/// A gang over both workers.
const GANG: &str = "name = \"gang\"\n[jobs.gang]\nkind = \"command\"\nranks = 2\nmax_attempts = 5\n\
    argv = [\"sh\", \"-c\", \"i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo $i; sleep 1; done\"]\n";

/// One host after the other, while a gang runs on all workers: no rank is interrupted.
pub(super) fn all_is_upgraded_under_a_job(site: &mut Site, seen: &mut Seen) -> Result<()> {
    let coordinator = newer(site, "marquee-coordinator", 1)?;
    let worker = newer(site, "marquee-worker", 1)?;
    let job = site.submit(GANG)?;
    site.until_running(job)?;
    let begun = Instant::now();
    let leader = site.leader().context("nobody leads")?;
    let standby = if leader == "head-1" {
        "head-2"
    } else {
        "head-1"
    };
    // The one that stands by comes first, so that leadership moves once and not twice.
    for head in [standby, &leader] {
        let before = main_pid(site, head, "marquee-coordinator")?;
        install(site, head, &coordinator)?;
        ensure!(
            main_pid(site, head, "marquee-coordinator")? != before,
            "the upgrade left the old coordinator running on {head}"
        );
        until("somebody to lead", || Ok(site.leader().is_some()))?;
    }
    for place in ["worker-1", "worker-2"] {
        let before = main_pid(site, place, "marquee-worker")?;
        install(site, place, &worker)?;
        ensure!(
            main_pid(site, place, "marquee-worker")? == before,
            "the upgrade itself restarted the worker"
        );
        site.on(place, "systemctl restart marquee-worker")?;
        ensure!(
            main_pid(site, place, "marquee-worker")? != before,
            "the restart restarted nothing"
        );
        site.until_online(place)?;
        let settings = site.on(place, "cat /etc/marquee/worker.toml")?;
        ensure!(
            settings.contains("cpu_slots = 1"),
            "the upgrade lost the settings"
        );
    }
    seen.took(
        "both coordinators and both workers upgraded under a job",
        begun,
        None,
    );
    let running = site.job(job)?;
    ensure!(
        running["state"] == "running",
        "it ended before all was upgraded: {running:#}"
    );
    once(&site.until_succeeded(job)?, "the upgrade")
}

fn main_pid(site: &Site, host: &str, service: &str) -> Result<String> {
    site.on(host, &format!("systemctl show -P MainPID {service}"))
}

/// Settings that people changed are theirs: dpkg asks, and is told to keep them.
fn install(site: &Site, host: &str, package: &str) -> Result<String> {
    site.on(
        host,
        &format!("apt-get install -q -y -o Dpkg::Options::=--force-confold {package}"),
    )
}

/// `systemctl reload`: what can be is in force at once, what cannot waits, and what is wrong changes nothing.
pub(super) fn settings_are_read_anew(site: &mut Site, _seen: &mut Seen) -> Result<()> {
    let worker = site.host("worker-1")?;
    let file = "/etc/marquee/worker.toml";
    let good = worker.run(&format!("cat {file}"))?;
    let pid = main_pid(site, "worker-1", "marquee-worker")?;
    let said = |host: &str, service: &str, words: &str| {
        let ask = format!("journalctl -u {service} -o cat --no-pager | grep -F '{words}'");
        until(&format!("{service} on {host} to say {words:?}"), || {
            Ok(site.host(host)?.tries(&ask)?.0)
        })
    };
    let other = good
        .replace("\"keep\"", "\"finish\"")
        .replace("cpu_slots = 1", "cpu_slots = 2");
    worker.write(file, &other)?;
    worker.run("systemctl reload marquee-worker")?;
    said(
        "worker-1",
        "marquee-worker",
        "in force now: on_stop; these wait for a restart: cpu_slots",
    )?;
    // A key that is misspelt: a reload with it must fail and change nothing.
    worker.write(file, &format!("cpu_slot = 1\n{good}"))?;
    let (fine, _) = worker.tries("systemctl reload marquee-worker")?;
    ensure!(!fine, "wrong settings were reloaded");
    worker.write(file, &good)?;
    worker.run("systemctl reload marquee-worker")?;
    said("worker-1", "marquee-worker", "in force now: on_stop")?;
    ensure!(
        main_pid(site, "worker-1", "marquee-worker")? == pid,
        "a reload restarted the worker"
    );

    let leader = site.leader().context("nobody leads")?;
    let head = site.host(&leader)?;
    let file = "/etc/marquee/coordinator.toml";
    let good = head.run(&format!("cat {file}"))?;
    let pid = main_pid(site, &leader, "marquee-coordinator")?;
    head.write(file, &format!("{good}[access]\naccounts = \"eve\"\n"))?;
    head.run("systemctl reload marquee-coordinator")?;
    said(
        &leader,
        "marquee-coordinator",
        "in force now: access.accounts",
    )?;
    let settings = site.marquee(&["admin", "settings"])?;
    ensure!(
        settings.to_string().contains("eve"),
        "admin settings has not what is in force: {settings}"
    );
    head.write(file, &good)?;
    head.run("systemctl reload marquee-coordinator")?;
    ensure!(
        main_pid(site, &leader, "marquee-coordinator")? == pid,
        "a reload restarted the coordinator"
    );
    Ok(())
}

/// A daemon whose settings are wrong says so once, and is not started again and again.
pub(super) fn wrong_settings_are_told_once(site: &mut Site, _seen: &mut Seen) -> Result<()> {
    let host = site.host("worker-1")?;
    let good = host.run("cat /etc/marquee/worker.toml")?;
    host.write("/etc/marquee/worker.toml", &format!("cpu_slot = 1\n{good}"))?;
    let (fine, said) = host.tries("marquee-worker config check")?;
    ensure!(
        !fine && said.contains("did you mean \"cpu_slots\"?"),
        "config check: {said}"
    );
    // It fails, of course; what matters is what systemd does afterwards.
    let (_, _) = host.tries("systemctl restart marquee-worker")?;
    until("the unit to have failed", || {
        Ok(host
            .run("systemctl show -P ActiveState marquee-worker")?
            .trim()
            == "failed")
    })?;
    let restarts = host.run("systemctl show -P NRestarts marquee-worker")?;
    ensure!(
        restarts.trim() == "0",
        "it was started {restarts} times again"
    );
    host.write("/etc/marquee/worker.toml", &good)?;
    host.run("systemctl restart marquee-worker")?;
    site.until_online("worker-1")
}

/// On the head that stands by.
pub(super) fn removed_installed_purged(site: &mut Site, _seen: &mut Seen) -> Result<()> {
    let head = match site.leader().as_deref() {
        Some("head-1") => "head-2",
        _ => "head-1",
    };
    let host = site.host(head)?;
    let package = newer(site, "marquee-coordinator", 2)?;
    install(site, head, &package)?;
    let settings = "/etc/marquee/coordinator.toml";
    let data = "/var/lib/marquee/coordinator";
    let there = |path: &str| -> Result<bool> { Ok(host.tries(&format!("test -e {path}"))?.0) };

    host.run("apt-get remove -q -y marquee-coordinator")?;
    let (active, _) = host.tries("systemctl is-active marquee-coordinator")?;
    ensure!(!active, "removed, and it still runs");
    ensure!(
        there(settings)? && there(data)?,
        "remove took settings or data"
    );
    ensure!(
        !there("/usr/bin/marquee-coordinator")?,
        "remove left the program"
    );

    host.run(&format!("apt-get install -q -y {package}"))?;
    until("the coordinator to run again", || {
        Ok(host.tries("systemctl is-active marquee-coordinator")?.0)
    })?;
    ensure!(
        host.run(&format!("cat {settings}"))?
            .contains("artifacts_dir = "),
        "the settings that were kept are not in force"
    );

    let said = host.run("apt-get purge -q -y marquee-coordinator")?;
    ensure!(!there(settings)?, "purge left the settings");
    ensure!(
        there(data)? && there("/etc/marquee/secrets/database-url")?,
        "purge took data or keys"
    );
    ensure!(
        said.contains("kept /var/lib/marquee/coordinator"),
        "purge does not say what it kept: {said}"
    );
    let (fine, left) = host.tries("systemctl is-failed marquee-coordinator")?;
    ensure!(!fine, "a purged unit counts as failed: {left}");
    ensure!(
        !there("/etc/marquee/context.toml")?,
        "purge left what init wrote for the command line"
    );
    worker_removed_and_purged(site)
}

/// The other packages, on a worker that nothing runs on any more.
fn worker_removed_and_purged(site: &Site) -> Result<()> {
    let package = newer(site, "marquee-worker", 2)?;
    let host = site.host("worker-2")?;
    let there = |path: &str| -> Result<bool> { Ok(host.tries(&format!("test -e {path}"))?.0) };
    host.run("apt-get remove -q -y marquee-worker marquee-trainer")?;
    let (active, _) = host.tries("systemctl is-active marquee-worker")?;
    ensure!(!active, "removed, and the worker still runs");
    ensure!(
        there("/etc/marquee/worker.toml")? && there("/var/lib/marquee/worker/tls/identity.pem")?,
        "remove took settings or data"
    );
    ensure!(
        !there("/usr/bin/marquee-worker")? && !there("/usr/lib/marquee/torch")?,
        "remove left programs"
    );
    host.run(&format!(
        "apt-get install -q -y {package} {PACKAGES_AT}/marquee-trainer_*.deb"
    ))?;
    // It is the worker that it was.
    site.until_online("worker-2")?;
    let said = host.run("apt-get purge -q -y marquee-worker marquee-trainer")?;
    ensure!(
        !there("/etc/marquee/worker.toml")? && there("/var/lib/marquee/worker")?,
        "purge left the settings, or took the data"
    );
    ensure!(
        said.contains("kept /var/lib/marquee/worker"),
        "purge does not say what it kept: {said}"
    );
    Ok(())
}
