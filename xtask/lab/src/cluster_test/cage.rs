//! What jobs may do on a host with packages and a systemd of its own, and what becomes of one whose daemon dies.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::faults::once;
use super::seen::Seen;
use super::site::{Site, until};

/// Each unit with the most exposure that `systemd-analyze security` may find, times ten, as `cargo xtask check` has it of the
/// files before they are installed.
const UNITS: [(&str, &str, u32); 3] = [
    ("head-1", "marquee-coordinator.service", 15),
    ("worker-1", "marquee-worker.service", 25),
    ("worker-1", "marquee-cage@1.service", 23),
];
/// A key of a newer systemd than the hosts have, which ignores it as it should (docs/deploy.md, "Processes").
const NEWER_KEY: &str = "Unknown key 'DelegateSubgroup'";
/// What begins the names of the accounts of jobs.
const ACCOUNTS: &str = "marquee-job-";
/// Tries what a job must not, and says who it is.
const NOSY: &str = r#"
name = "nosy"
[jobs.look]
kind = "command"
argv = ["sh", "-c", """
id -un
cat /var/lib/marquee/worker/tls/identity.pem >/dev/null 2>&1 && echo read the key of the daemon
touch /var/lib/marquee/worker/mine 2>/dev/null && echo wrote into the folder of the daemon
touch /etc/mine /usr/mine 2>/dev/null && echo wrote into the system
for file in /proc/[0-9]*/environ; do
  grep -q NOTIFY_SOCKET $file 2>/dev/null && echo read the environment of the daemon
done
true
"""]
"#;

/// Units that are installed are as closed as they are said to be, and systemd finds nothing wrong with them.
pub(super) fn units_are_closed(site: &mut Site, _seen: &mut Seen) -> Result<()> {
    for (host, unit, most) in UNITS {
        let host = site.host(host)?;
        let (is_fine, said) = host.tries(&format!(
            "systemd-analyze security --no-pager --threshold={most} {unit}"
        ))?;
        ensure!(is_fine, "{unit} is more open than {most}: {said}");
        let said = host.run(&format!("systemd-analyze verify --man=no {unit} 2>&1"))?;
        let wrong = said.lines().find(|line| !line.contains(NEWER_KEY));
        ensure!(wrong.is_none(), "{unit}: {said}");
    }
    Ok(())
}

/// A job runs under an account of its project and gets at nothing of the daemon's; a trainer whose daemon is killed goes on, is
/// taken over by the next one, and ends once.
pub(super) fn jobs_are_caged(site: &mut Site, seen: &mut Seen) -> Result<()> {
    let job = site.submit(NOSY)?;
    site.until_succeeded(job)?;
    let said = site.at_desk(&format!("logs {job}"))?;
    ensure!(
        said.contains(ACCOUNTS) && said.trim().lines().count() == 1,
        "a job that tries what it must not: {said}"
    );

    let job = site.submit(&training(&shards(site)?))?;
    let place = site.until_running(job)?;
    let mut before = String::new();
    until("its trainer to run", || {
        before = trainers(site, &place)?;
        Ok(!before.is_empty())
    })?;
    ensure!(before.contains(ACCOUNTS), "the trainer runs as {before}");
    let main = |site: &Site| site.on(&place, "systemctl show -P MainPID marquee-worker");
    let daemon = main(site)?;
    let begun = Instant::now();
    site.on(
        &place,
        "systemctl kill --kill-whom=main -s KILL marquee-worker",
    )?;
    until("another marquee-worker", || {
        let active = site
            .host(&place)?
            .tries("systemctl is-active marquee-worker")?;
        Ok(active.0 && main(site)? != daemon)
    })?;
    seen.took(
        "marquee-worker killed under a trainer to ready again",
        begun,
        None,
    );
    let after = trainers(site, &place)?;
    ensure!(
        after == before,
        "the trainer was {before}, and after its daemon was killed it is {after}"
    );
    once(
        &site.until_succeeded(job)?,
        "kill -9 of the daemon under a trainer",
    )
}

/// The digest of the shards that the first job made.
fn shards(site: &Site) -> Result<String> {
    let artifacts = site.marquee(&["artifacts", "ls"])?;
    let all = artifacts.as_array().context("no list of artifacts")?;
    let shards = all.iter().find(|artifact| artifact["name"] == "shards");
    let digest = shards.and_then(|shards| shards["digest"].as_str());
    Ok(digest.context("the first job left no shards")?.to_owned())
}

/// Long enough for a daemon to be killed under it, on a machine that has nothing else to do.
fn training(shards: &str) -> String {
    format!(
        "name = \"long\"\n[jobs.train]\nkind = \"train\"\ninputs = {{ shards = \"artifact:{shards}\" }}\n\
         model = \"simple-cnn\"\nepochs = 60\nbatch_size = 8\noptimizer = {{ name = \"sgd\", lr = 0.01 }}\nseed = 1\n"
    )
}

/// The trainers on a host, each with its number and its account.
fn trainers(site: &Site, host: &str) -> Result<String> {
    site.on(
        host,
        "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^[^ ]*marquee-trainer run' && \
         echo ${p#/proc/} $(stat -c %U $p); done; true",
    )
}
