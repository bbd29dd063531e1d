//! From bare hosts to the first job: what docs/deploy.md has people do, with the time it takes.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use marquee_xtask::{process, report};

use super::seen::Seen;
use super::site::{ARTIFACTS_AT, PACKAGES_AT, PICTURES_AT, Site, until};
use super::trust;

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
    settle(site)?;
    until("a leader", || Ok(site.leader().is_some()))?;
    for worker in ["worker-1", "worker-2"] {
        site.until_online(worker)?;
    }
    seen.took("bare hosts to workers online", begun, None);
    site.host("desk")?.write("/root/first.toml", JOB)?;
    let pipeline = site.type_on("desk", "marquee --output quiet submit /root/first.toml")?;
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
            "bare hosts to first job finished, {} commands on 5 hosts",
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

/// Settings and certificates of every host.
fn settle(site: &Site) -> Result<()> {
    let authority = site.folder.join("hosts/authority");
    trust::make(&authority)?;
    let tls = "[tls]\ncert = \"/etc/marquee/tls/cert.pem\"\nkey = \"/etc/marquee/tls/key.pem\"\n";
    for head in ["head-1", "head-2"] {
        site.on(
            head,
            &format!("install -d -o marquee -g marquee -m 700 {ARTIFACTS_AT}/artifacts"),
        )?;
        trust::install(site, &authority, head, "marquee")?;
        let settings = format!(
            "listen = \"0.0.0.0:7700\"\naddress = \"{head}:7700\"\n\
             database_url = \"postgres://marquee:only-a-test@head-1/marquee\"\n\
             artifacts_dir = \"{ARTIFACTS_AT}/artifacts\"\n{tls}client_ca = \"/etc/marquee/tls/ca.pem\"\n"
        );
        site.host(head)?
            .write("/etc/marquee/coordinator.toml", &settings)?;
        site.type_on(
            head,
            "marquee-coordinator config check && systemctl restart marquee-coordinator",
        )?;
    }
    for worker in ["worker-1", "worker-2"] {
        trust::install(site, &authority, worker, "marquee-worker")?;
        let settings = format!(
            "coordinator = [\"https://head-1:7700\", \"https://head-2:7700\"]\non_stop = \"keep\"\n\
             cpu_slots = 1\nthreads_per_slot = 1\n{tls}ca = \"/etc/marquee/tls/ca.pem\"\n"
        );
        site.host(worker)?
            .write("/etc/marquee/worker.toml", &settings)?;
        site.type_on(
            worker,
            "marquee-worker config check && systemctl restart marquee-worker",
        )?;
    }
    trust::install(site, &authority, "desk", "root")?;
    let context = format!(
        "addr = [\"https://head-1:7700\", \"https://head-2:7700\"]\n{tls}ca = \"/etc/marquee/tls/ca.pem\"\n"
    );
    site.host("desk")?
        .write("/root/.config/marquee/context.toml", &context)
}
