//! From bare hosts to the first job: what docs/deploy.md has people do, with the time it takes.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use marquee_xtask::{process, report};

use super::seen::Seen;
use super::site::{ARTIFACTS_AT, PACKAGES_AT, PICTURES_AT, Site, until};

/// Two ranks, on hosts with one device each: the gradients cross the bridge.
const JOB: &str = r#"
name = "first"
[jobs.fetch]
kind = "fetch"
source = { type = "folder", path = "/srv/pictures" }
[jobs.preprocess]
kind = "preprocess"
inputs = { dataset = "fetch.dataset" }
width = 32
height = 32
splits = { train = 0.6, validation = 0.2, test = 0.2 }
seed = 1
[jobs.train]
kind = "train"
inputs = { shards = "preprocess.shards" }
ranks = 2
model = "simple-cnn"
epochs = 2
batch_size = 8
optimizer = { name = "sgd", lr = 0.01 }
seed = 1
"#;

/// Where a coordinator keeps its authority.
const TLS: &str = "/var/lib/marquee/coordinator/tls";

const PICTURES: &str = include_str!("pictures.py");

pub(super) fn run(site: &mut Site, seen: &mut Seen) -> Result<()> {
    prepare(site)?;
    let begun = Instant::now();
    for head in ["head-1", "head-2"] {
        site.type_on(
            head,
            &format!(
                "apt-get install -q -y {PACKAGES_AT}/marquee-coordinator_*.deb {PACKAGES_AT}/marquee_*.deb"
            ),
        )?;
    }
    for worker in ["worker-1", "worker-2"] {
        site.type_on(
            worker,
            &format!(
                "apt-get install -q -y {PACKAGES_AT}/marquee-worker_*.deb {PACKAGES_AT}/marquee-trainer_*.deb"
            ),
        )?;
    }
    site.on(
        "desk",
        &format!("apt-get install -q -y {PACKAGES_AT}/marquee_*.deb"),
    )?;
    seen.took("packages installed on five hosts", begun, None);
    first_head(site)?;
    for name in ["worker-1", "worker-2"] {
        worker(site, name)?;
    }
    second_head(site)?;
    for name in ["worker-1", "worker-2"] {
        site.until_online(name)?;
    }
    seen.took("bare hosts to workers online", begun, None);
    site.host("desk")?.write("/root/first.toml", JOB)?;
    let pipeline = site.type_on(
        "desk",
        "MARQUEE_TOKEN_FILE=/root/token marquee --output quiet submit /root/first.toml",
    )?;
    let pipeline = pipeline.trim();
    until("the first jobs to end", || {
        let jobs = site.marquee(&["show", pipeline])?;
        let ended = |job: &serde_json::Value| {
            ["succeeded", "failed", "cancelled"]
                .contains(&job["state"].as_str().unwrap_or_default())
        };
        Ok(jobs["jobs"]
            .as_array()
            .is_some_and(|jobs| jobs.iter().all(ended)))
    })?;
    let jobs = site.marquee(&["show", pipeline])?;
    for job in jobs["jobs"].as_array().into_iter().flatten() {
        ensure!(
            job["state"] == "succeeded",
            "{} {}: {}",
            job["name"],
            job["state"],
            job["failure"]["message"]
        );
    }
    let train = site.marquee(&["show", &format!("{pipeline}/train")])?;
    let ranks = train["attempts"][0]["ranks"].as_array();
    let places: Vec<&str> = ranks
        .context("no ranks")?
        .iter()
        .filter_map(|rank| rank["worker_name"].as_str())
        .collect();
    ensure!(
        places.len() == 2 && places[0] != places[1],
        "two ranks on two hosts, not on {places:?}"
    );
    seen.took(
        format!(
            "bare hosts to first job finished (commands: {})",
            site.typed()
        ),
        begun,
        Some(300),
    );
    Ok(())
}

/// What is there before Marquee: pictures on a file server, and a Postgres that serves the network.
fn prepare(site: &Site) -> Result<()> {
    process::read(
        Command::new("python3")
            .args(["-c", PICTURES])
            .arg(&site.pictures),
    )?;
    site.on(
        "head-1",
        "echo \"listen_addresses = '*'\" >>/etc/postgresql/15/main/conf.d/marquee.conf\n\
         echo 'host marquee marquee 192.0.2.0/24 scram-sha-256' >>/etc/postgresql/15/main/pg_hba.conf\n\
         systemctl enable --now postgresql.service\n\
         su postgres -c \"psql -qc \\\"create role marquee login password 'only-a-test'\\\"\"\n\
         su postgres -c 'createdb -O marquee marquee'",
    )?;
    report::note(&format!("pictures at {PICTURES_AT}, Postgres on head-1"));
    Ok(())
}

/// Settings and an authority on the first head, which then leads; a token for workers, and one for a person.
fn first_head(site: &Site) -> Result<()> {
    write_settings(site, "head-1")?;
    site.type_on("head-1", "marquee-coordinator init")?;
    start_again(site, "head-1")?;
    let token = site.type_on("head-1", "marquee-coordinator token create --uses 2")?;
    for worker in ["worker-1", "worker-2"] {
        site.host(worker)?.write("/root/join.token", &token)?;
    }
    // Over loopback the kernel says that it is root who asks; only the authority is to be known.
    let ca = site.on("head-1", "marquee-coordinator ca")?;
    context(site, "head-1", &["localhost"], &ca)?;
    site.type_on("head-1", "marquee admin user add ada --role admin --yes")?;
    let token = site.type_on("head-1", "marquee admin token create ada")?;
    site.host("desk")?.write("/root/token", &token)?;
    site.on("desk", "chmod 600 /root/token")?;
    context(site, "desk", &["head-1", "head-2"], &ca)
}

/// The second head gets the authority of the first, and stands by.
fn second_head(site: &Site) -> Result<()> {
    write_settings(site, "head-2")?;
    site.on(
        "head-2",
        &format!("install -d -o marquee -g marquee -m 700 {TLS}"),
    )?;
    for file in ["ca.pem", "ca.key"] {
        let text = site.on("head-1", &format!("cat {TLS}/{file}"))?;
        site.host("head-2")?
            .write(&format!("{TLS}/{file}"), &text)?;
    }
    site.on(
        "head-2",
        &format!("chown marquee:marquee {TLS}/ca.*; chmod 600 {TLS}/ca.*"),
    )?;
    site.type_on("head-2", "marquee-coordinator init")?;
    start_again(site, "head-2")
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
    site.host(head)?
        .write("/etc/marquee/secrets/database-url", url)?;
    site.on(head, "chmod 400 /etc/marquee/secrets/database-url")?;
    // The account may not read it by itself: systemd hands it to the service.
    let credential = "[Service]\nLoadCredential=database-url:/etc/marquee/secrets/database-url\n";
    let drop_in = "/etc/systemd/system/marquee-coordinator.service.d/database.conf";
    site.host(head)?.write(drop_in, credential)?;
    let settings = format!(
        "listen = \"0.0.0.0:7700\"\naddress = \"{head}:7700\"\n\
         database_url = \"credential:database-url\"\nartifacts_dir = \"{ARTIFACTS_AT}/artifacts\"\n"
    );
    site.host(head)?
        .write("/etc/marquee/coordinator.toml", &settings)
}

fn start_again(site: &Site, head: &str) -> Result<()> {
    site.on(head, "systemctl daemon-reload")?;
    site.type_on(head, "systemctl restart marquee-coordinator")?;
    Ok(())
}

fn worker(site: &Site, worker: &str) -> Result<()> {
    let settings = "on_stop = \"keep\"\ncpu_slots = 1\nthreads_per_slot = 1\n";
    site.host(worker)?
        .write("/etc/marquee/worker.toml", settings)?;
    // The package has started it.
    site.type_on(worker, "systemctl stop marquee-worker")?;
    site.type_on(
        worker,
        "marquee-worker join head-1:7700 --token-file /root/join.token",
    )?;
    site.type_on(worker, "systemctl start marquee-worker")?;
    Ok(())
}

/// Where the command line finds the coordinators, and by which authority it knows them.
fn context(site: &Site, host: &str, names: &[&str], ca: &str) -> Result<()> {
    let addresses: Vec<String> = names
        .iter()
        .map(|name| format!("\"https://{name}:7700\""))
        .collect();
    let folder = "/root/.config/marquee";
    site.host(host)?.write(&format!("{folder}/ca.pem"), ca)?;
    let text = format!(
        "addr = [{}]\n[tls]\nca = \"ca.pem\"\n",
        addresses.join(", ")
    );
    site.host(host)?
        .write(&format!("{folder}/context.toml"), &text)
}
