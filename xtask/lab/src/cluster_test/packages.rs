//! What the packages do when they are installed over others, removed and purged; and a daemon's wrong settings.

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use marquee_xtask::process;

use super::faults::counting;
use super::seen::Seen;
use super::site::{PACKAGES_AT, Site, until};

/// The same program in a package that says to be newer.
fn newer(site: &Site, name: &str) -> Result<String> {
    let mut packages = fs::read_dir(&site.packages)?.flatten();
    let package = packages
        .find(|entry| {
            let file = entry.file_name().to_string_lossy().into_owned();
            file.starts_with(&format!("{name}_")) && !file.contains("+newer")
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
            Some(version) => format!("Version: {version}+newer"),
            None => line.to_owned(),
        })
        .collect();
    fs::write(&control, lines.join("\n") + "\n")?;
    let file = format!("{name}_0+newer.deb");
    process::read(
        Command::new("dpkg-deb")
            .args(["-Zgzip", "-z1", "--root-owner-group", "-b"])
            .arg(&folder)
            .arg(site.packages.join(&file)),
    )?;
    super::remove(&folder)?;
    Ok(format!("{PACKAGES_AT}/{file}"))
}

/// The package's new version lies there and nothing is interrupted; the restart takes the running rank over.
pub(super) fn a_worker_is_upgraded_under_a_job(site: &mut Site, seen: &mut Seen) -> Result<()> {
    let package = newer(site, "marquee-worker")?;
    let job = site.submit(&counting(25))?;
    let place = site.until_running(job)?;
    let process = |site: &Site| site.on(&place, "systemctl show -P MainPID marquee-worker");
    let before = process(site)?;
    let begun = Instant::now();
    // Settings that people changed are theirs: dpkg asks, and is told to keep them.
    site.on(
        &place,
        &format!("apt-get install -q -y -o Dpkg::Options::=--force-confold {package}"),
    )?;
    ensure!(
        process(site)? == before,
        "the upgrade itself restarted the worker"
    );
    site.on(&place, "systemctl restart marquee-worker")?;
    site.until_online(&place)?;
    seen.took(format!("{place} upgraded under a running job"), begun, None);
    ensure!(process(site)? != before, "the restart restarted nothing");
    let settings = site.on(&place, "cat /etc/marquee/worker.toml")?;
    ensure!(
        settings.contains("cpu_slots = 1"),
        "the upgrade lost the settings"
    );
    let detail = site.until_succeeded(job)?;
    ensure!(
        detail["attempts"]
            .as_array()
            .is_some_and(|all| all.len() == 1),
        "the upgrade cost an attempt: {detail:#}"
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
    let pid = || host.run("systemctl show -P MainPID marquee-coordinator");
    let before = pid()?;
    let package = newer(site, "marquee-coordinator")?;
    host.run(&format!(
        "apt-get install -q -y -o Dpkg::Options::=--force-confold {package}"
    ))?;
    ensure!(
        pid()? != before,
        "the upgrade left the old coordinator running"
    );
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
    Ok(())
}
