//! From one coordinator to two, as docs/deploy.md has it: what the first one has moves into a Postgres of one's own, a
//! second one stands by, and people ask from a host of their own.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::seen::Seen;
use super::site::{ARTIFACTS_AT, PACKAGES_AT, Seat, Site, until};

/// Where a coordinator keeps its authority.
pub(super) const TLS: &str = "/var/lib/marquee/coordinator/tls";
const SECRET: &str = "/etc/marquee/secrets/database-url";
const BACKUP: &str = "/var/lib/marquee/moved";

pub(super) fn grow(site: &mut Site, seen: &mut Seen) -> Result<()> {
    let begun = Instant::now();
    let before = site.marquee(&["jobs"])?;
    postgres(site)?;
    move_into_postgres(site)?;
    seen.took("a private Postgres moved into another one", begun, None);
    let begun = Instant::now();
    second_head(site)?;
    desk(site)?;
    until("two coordinators to be known", || {
        let all = site.marquee(&["coordinators"])?;
        Ok(all["coordinators"]
            .as_array()
            .is_some_and(|all| all.len() == 2))
    })?;
    let after = site.marquee(&["jobs"])?;
    ensure!(
        before.as_array().map(Vec::len) == after.as_array().map(Vec::len),
        "jobs before: {before}, after: {after}"
    );
    for name in ["worker-1", "worker-2"] {
        site.until_online(name)?;
        // They joined by the first one, and find the second one when that is gone.
        until(&format!("{name} to know both coordinators"), || {
            let joined = site.on(name, "cat /var/lib/marquee/worker/tls/joined.json")?;
            Ok(joined.contains("https://head-1:7700") && joined.contains("https://head-2:7700"))
        })?;
    }
    seen.took("a second coordinator, known to all", begun, None);
    Ok(())
}

/// A Postgres that serves the network, as a company has one.
fn postgres(site: &Site) -> Result<()> {
    site.on(
        "head-1",
        "echo \"listen_addresses = '*'\" >>/etc/postgresql/15/main/conf.d/marquee.conf\n\
         echo 'host marquee marquee 192.0.2.0/24 scram-sha-256' >>/etc/postgresql/15/main/pg_hba.conf\n\
         systemctl enable --now postgresql.service\n\
         su postgres -c \"psql -qc \\\"create role marquee login password 'only-a-test'\\\"\"\n\
         su postgres -c 'createdb -O marquee marquee'",
    )?;
    Ok(())
}

fn move_into_postgres(site: &Site) -> Result<()> {
    site.on(
        "head-1",
        &format!(
            "systemctl stop marquee-coordinator\n\
             install -d -o marquee -g marquee -m 700 {BACKUP}\n\
             runuser -u marquee -- marquee-coordinator --data-dir /var/lib/marquee/coordinator backup {BACKUP}"
        ),
    )?;
    write_settings(site, "head-1")?;
    site.on(
        "head-1",
        &format!(
            "marquee-coordinator --database-url {SECRET} restore {BACKUP}\n\
             systemctl daemon-reload\n\
             systemctl start marquee-coordinator"
        ),
    )?;
    for name in ["worker-1", "worker-2"] {
        // Ranks outlive the daemons from here on.
        let settings = "on_stop = \"keep\"\ncpu_slots = 1\nthreads_per_slot = 1\n";
        site.host(name)?
            .write("/etc/marquee/worker.toml", settings)?;
        site.on(name, "systemctl restart marquee-worker")?;
    }
    Ok(())
}

/// It gets the authority of the first, and stands by.
fn second_head(site: &Site) -> Result<()> {
    site.on(
        "head-2",
        &format!(
            "apt-get install -q -y {PACKAGES_AT}/marquee-coordinator_*.deb {PACKAGES_AT}/marquee_*.deb\n\
             install -d -o marquee -g marquee -m 700 {TLS}"
        ),
    )?;
    write_settings(site, "head-2")?;
    // Both have to sign with one authority: workers believe certificates of the one that they
    // joined by.
    for file in ["ca.pem", "ca.key"] {
        let text = site.on("head-1", &format!("cat {TLS}/{file}"))?;
        site.host("head-2")?
            .write(&format!("{TLS}/{file}"), &text)?;
    }
    site.on(
        "head-2",
        &format!(
            "chown marquee:marquee {TLS}/ca.*; chmod 600 {TLS}/ca.*\n\
             systemctl daemon-reload\n\
             marquee-coordinator init"
        ),
    )?;
    Ok(())
}

fn write_settings(site: &Site, head: &str) -> Result<()> {
    site.on(
        head,
        &format!(
            "install -d -o marquee -g marquee -m 700 {ARTIFACTS_AT}/artifacts; \
             install -d -o marquee -g marquee -m 700 /etc/marquee/secrets"
        ),
    )?;
    let url = "postgres://marquee:only-a-test@head-1/marquee\n";
    site.host(head)?.write(SECRET, url)?;
    site.on(head, &format!("chmod 400 {SECRET}"))?;
    // The account may not read it by itself: systemd hands it to the service.
    let credential = format!("[Service]\nLoadCredential=database-url:{SECRET}\n");
    let drop_in = "/etc/systemd/system/marquee-coordinator.service.d/database.conf";
    site.host(head)?.write(drop_in, &credential)?;
    let settings = format!(
        "address = \"{head}:7700\"\n\
         database_url = \"credential:database-url\"\nartifacts_dir = \"{ARTIFACTS_AT}/artifacts\"\n"
    );
    site.host(head)?
        .write("/etc/marquee/coordinator.toml", &settings)
}

/// A user with a token, on a host that has the authority and nothing else.
fn desk(site: &Site) -> Result<()> {
    site.on("head-1", "marquee admin user add ada --role admin --yes")?;
    let token = site.on("head-1", "marquee admin token create ada")?;
    let ca = site.on("head-1", "marquee-coordinator ca")?;
    let shown = site.on("head-1", "marquee --output json admin ca")?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    ensure!(
        shown["certificates"].as_str().map(str::trim) == Some(ca.trim()),
        "admin ca shows another authority: {shown}"
    );
    let desk = site.host("desk")?;
    desk.run(&format!(
        "apt-get install -q -y {PACKAGES_AT}/marquee_*.deb"
    ))?;
    desk.write("/root/token", &token)?;
    desk.write("/etc/marquee/ca.pem", &ca)?;
    desk.write(
        "/etc/marquee/context.toml",
        "addr = [\"https://head-1:7700\", \"https://head-2:7700\"]\n[tls]\nca = \"ca.pem\"\n",
    )?;
    desk.run("chmod 600 /root/token")?;
    // With users in the cluster, whoever asks shows a token from now on.
    site.sit_down_at(Seat::Desk);
    Ok(())
}
