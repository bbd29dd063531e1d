//! From bare hosts to the first job: what docs/deploy.md has people type, with the time it takes.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use marquee_xtask::{process, report};

use super::seen::Seen;
use super::site::{PACKAGES_AT, PICTURES_AT, Site, until};

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

/// From bare hosts to the first job finished, in seconds, and the commands that it may take.
const FIRST_JOB_S: u64 = 300;
const COMMANDS: u32 = 6;

const PICTURES: &str = include_str!("pictures.py");

pub(super) fn run(site: &mut Site, seen: &mut Seen) -> Result<()> {
    process::read(
        Command::new("python3")
            .args(["-c", PICTURES])
            .arg(&site.pictures),
    )?;
    report::note(&format!("pictures at {PICTURES_AT}"));
    // From here on only what a person types, and what those commands take.
    let begun = Instant::now();
    let token = head(site)?;
    // One worker by each of the two ways that docs/deploy.md shows.
    for (name, way) in [("worker-1", Way::AtOnce), ("worker-2", Way::InTwo)] {
        worker(site, name, way, &token)?;
    }
    for name in ["worker-1", "worker-2"] {
        site.until_online(name)?;
    }
    seen.took("bare hosts to workers online", begun, None);
    site.lay_on_desk("/root/first.toml", JOB)?;
    let pipeline = site.type_on("head-1", "marquee --output quiet submit /root/first.toml")?;
    succeeds(site, pipeline.trim())?;
    let (commands, places) = site.typed();
    seen.took("bare hosts to first job finished", begun, Some(FIRST_JOB_S));
    seen.counted(
        format!("commands from bare hosts to first job finished ({places})"),
        commands,
        COMMANDS,
    );
    Ok(())
}

/// The coordinator with a Postgres of its own, and an authority. Gives the token by which workers join.
fn head(site: &Site) -> Result<String> {
    site.type_on(
        "head-1",
        &format!(
            "apt-get install -q -y {PACKAGES_AT}/marquee-coordinator_*.deb {PACKAGES_AT}/marquee_*.deb"
        ),
    )?;
    let said = site.type_on("head-1", "marquee-coordinator init --workers 2")?;
    let token = said.lines().find(|line| line.starts_with("mqj_"));
    Ok(token
        .with_context(|| format!("init gave no token: {said}"))?
        .to_owned())
}

/// How a host becomes a worker.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// The package joins.
    AtOnce,
    /// It is installed, and then somebody lets it join.
    InTwo,
}

fn worker(site: &Site, name: &str, way: Way, token: &str) -> Result<()> {
    let install = format!(
        "apt-get install -q -y {PACKAGES_AT}/marquee-worker_*.deb {PACKAGES_AT}/marquee-trainer_*.deb"
    );
    match way {
        Way::AtOnce => {
            let with = format!("MARQUEE_JOIN=head-1:7700 MARQUEE_JOIN_TOKEN={token}");
            site.type_on(name, &format!("{with} {install}"))?;
        }
        Way::InTwo => {
            site.type_on(name, &install)?;
            site.type_on(
                name,
                &format!("echo {token} | marquee-worker join head-1:7700"),
            )?;
        }
    }
    Ok(())
}

/// All jobs of the pipeline succeed, and both workers had a rank of the training.
fn succeeds(site: &Site, pipeline: &str) -> Result<()> {
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
        // Two ranks on one host would never cross the network that is to be shown.
        places.len() == 2 && places[0] != places[1],
        "two ranks on two hosts, not on {places:?}"
    );
    Ok(())
}
