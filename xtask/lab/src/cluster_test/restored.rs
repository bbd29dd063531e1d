//! A backup of the cluster at work, restored beside it and judged.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::faults::counting;
use super::seen::Seen;
use super::site::{Site, until};

const BACKUP: &str = "/var/lib/marquee-backup";
/// On the desk.
const COPY: &str = "/root/backups/cluster";
/// A coordinator with a Postgres of its own, on loopback.
const SETTINGS: &str = "listen = \"127.0.0.1:7799\"\ndata_dir = \"/var/lib/marquee-restored\"\n";

/// On Postgres' host, while a job runs. The restored coordinator knows every job and has every file.
pub(super) fn a_backup_is_restored_and_judged(site: &mut Site, seen: &mut Seen) -> Result<()> {
    let job = site.submit(&counting(20))?;
    site.until_running(job)?;
    let host = site.host("head-1")?;
    let url = "--database-url /etc/marquee/secrets/database-url";
    let begun = Instant::now();
    host.run(&format!("marquee-coordinator {url} backup {BACKUP}"))?;
    seen.took("backup of a cluster at work", begun, None);
    host.run(&format!("marquee-coordinator restore --check {BACKUP}"))?;
    from_the_desk(site, seen)?;

    host.write("/root/restored.toml", SETTINGS)?;
    host.run(&format!(
        "install -d -o marquee -g marquee -m 711 /var/lib/marquee-restored; chown -R marquee {BACKUP}; \
         chmod 644 /root/restored.toml; install -m 644 /root/restored.toml /etc/marquee/restored.toml"
    ))?;
    let begun = Instant::now();
    let restored = "marquee-coordinator --config /etc/marquee/restored.toml";
    host.run(&format!("{restored} restore {BACKUP}"))?;
    seen.took("restored into an empty place", begun, None);
    // A restore over something would mix two histories.
    let (again, said) = host.tries(&format!("{restored} restore {BACKUP}"))?;
    ensure!(
        !again && said.contains("has tables already"),
        "a second restore: {said}"
    );
    host.run(&format!(
        "systemd-run --quiet --unit=restored --uid=marquee --gid=marquee {restored}"
    ))?;
    let ask = "marquee --addr http://127.0.0.1:7799 --output json";
    until("the restored coordinator to answer", || {
        Ok(host.tries(&format!("{ask} jobs"))?.0)
    })?;
    let verdict = host.run(&format!("{ask} audit verify"))?;
    let verdict: serde_json::Value = serde_json::from_str(&verdict)?;
    ensure!(
        verdict["clean"] == true,
        "the restored history breaks a rule: {verdict}"
    );
    let known = host.run(&format!("{ask} show {job}"))?;
    ensure!(known.contains("\"counting\""), "job {job} was not restored");
    host.run("systemctl stop restored.service")?;
    site.until_succeeded(job)?;
    Ok(())
}

/// The same by the command line, on a host that has nothing of the coordinator's.
fn from_the_desk(site: &Site, seen: &mut Seen) -> Result<()> {
    let would = site.marquee(&["admin", "backup", COPY, "--dry-run"])?;
    ensure!(would["room"] == "enough", "a trial says {would}");
    let begun = Instant::now();
    let made = site.marquee(&["admin", "backup", COPY])?;
    seen.took("backup from another host", begun, None);
    ensure!(
        made["files"]["count"] == would["files"]["count"] && made["fetched"] == made["files"],
        "a trial said {would}, and it came to {made}"
    );
    let again = site.marquee(&["admin", "backup", COPY])?;
    ensure!(
        again["fetched"]["count"] == 0,
        "a second one fetched files anew: {again}"
    );
    // By other means than Marquee's own: each file is what its name says, and the dump what the manifest says.
    site.on(
        "desk",
        &format!(
            "cd {COPY}/artifacts && for file in */*; do echo \"${{file#*/}}  $file\"; done | sha256sum --quiet -c - && \
             cd .. && grep -q $(sha256sum database-*.dump | cut -d' ' -f1) manifest.json"
        ),
    )?;
    Ok(())
}
