//! Chaos on real processes: a cluster at work while its parts are killed, paused and cut off, and then the question
//! whether anything was lost or doubled.
//!
//! Invariant: the seed decides which faults come in which order and what is submitted; how they meet is the machine's.
//! Faults end two leases before the end; then everything must come to rest by itself.

pub mod dice;
pub mod faults;
pub mod judge;
pub mod load;
pub mod postgres;
pub mod relay;
pub mod site;
pub mod table;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::Catalogue;
use crate::process::processes_with;
use dice::Dice;
use faults::{Fault, Kind, Tally, Until};
use load::{Accepted, Load, Order, Want};
pub use table::Outcome;

/// A worker's lease.
const LEASE: Duration = Duration::from_secs(10);
/// How long the cluster may take until all is well after a fault. More is a finding.
const WELL_WITHIN: Duration = Duration::from_secs(120);
/// How long the jobs may take to end when faults have stopped.
const REST_WITHIN: Duration = Duration::from_secs(420);
/// How long devices may take to be let go when every job has ended.
const LET_GO_WITHIN: Duration = Duration::from_secs(60);

const POSTERS: &str = include_str!("../../../examples/posters.toml");

/// The clock that the jobs and the database read too: all are on this machine.
#[allow(
    clippy::disallowed_methods,
    reason = "a chaos run is about real time, which nothing else decides by"
)]
fn now() -> DateTime<Utc> {
    Utc::now()
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    pub time: Duration,
    pub seed: u64,
    pub coordinators: usize,
    pub workers: usize,
    /// Also train on two ranks with the real trainer, from fetch to eval.
    pub training: bool,
    /// Leave the folder with all logs.
    pub keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(600),
            seed: 1,
            coordinators: 1,
            workers: 3,
            training: false,
            keep: false,
        }
    }
}

/// Runs it, tells of each fault, and says what came of it.
pub async fn run(options: &Options, mut tell: impl FnMut(&str)) -> Result<Outcome> {
    let begun = Instant::now();
    let mut site = site::Site::start(options.coordinators, options.workers).await?;
    if options.keep {
        tell(&format!("everything is kept in {}", site.keep().display()));
    }
    let load = Load::new(site.client_urls(), site.folder());
    let mut dice = Dice::new(options.seed);
    let catalogue = match options.training {
        true => Some(Catalogue::start_sketches(site.folder(), 300)?),
        false => None,
    };
    if let Some(catalogue) = &catalogue {
        load.submit(
            &format!("chaos-{}-training", options.seed),
            &training(&catalogue.api_url),
        )
        .await?;
    }
    let submitting = tokio::spawn(load.clone().run(dice.clone(), options.seed));
    let mut outcome = Outcome::new(options);
    let until = Until::after(options.time.saturating_sub(LEASE * 2));
    let struck = strike_until(&mut site, &mut dice, until, &mut outcome, |line| {
        tell(&format!("{:6.1} s  {line}", begun.elapsed().as_secs_f64()));
    })
    .await;
    load.stop();
    tell("no more faults; waiting until all is quiet");
    struck?;
    submitting.await.context("the load ended")??;
    come_to_rest(&mut site, &load, &mut outcome).await?;
    judge(&site, &load, &mut outcome).await?;
    outcome.took = begun.elapsed();
    Ok(outcome)
}

/// From fetch to eval, on two ranks.
fn training(api_url: &str) -> Order {
    let mut overrides = vec![
        ("jobs.fetch.source.api_url".to_owned(), api_url.to_owned()),
        ("jobs.train.epochs".to_owned(), "20".to_owned()),
        (
            "jobs.train.checkpoint_every_steps".to_owned(),
            "4".to_owned(),
        ),
        ("jobs.train.batch_size".to_owned(), "32".to_owned()),
    ];
    for job in ["fetch", "preprocess", "train", "eval"] {
        overrides.push((format!("jobs.{job}.max_attempts"), "100".to_owned()));
    }
    Order {
        kind: "training",
        want: Want::Succeed,
        toml: POSTERS.to_owned(),
        overrides,
        writes: false,
    }
}

/// Faults, one after the other and now and then two at once, each kind as often as any other.
async fn strike_until(
    site: &mut site::Site,
    dice: &mut Dice,
    until: Until,
    outcome: &mut Outcome,
    mut tell: impl FnMut(&str),
) -> Result<()> {
    let mut deck: Vec<Kind> = Vec::new();
    let mut draw = |dice: &mut Dice| {
        if deck.is_empty() {
            deck.extend(Kind::ALL);
        }
        deck.swap_remove(dice.below(deck.len()))
    };
    while !until.is_over() {
        tokio::time::sleep(dice.millis(300, 2_500)).await;
        let mut kinds = vec![draw(dice)];
        if dice.once_in(5) {
            kinds.push(draw(dice));
        }
        let mut done: Vec<Fault> = Vec::new();
        for kind in kinds {
            // There is one server: what was killed can neither be stopped nor let go again.
            if kind.is_of_postgres() && done.iter().any(|fault| fault.kind.is_of_postgres()) {
                continue;
            }
            if let Some(fault) = faults::strike(site, kind, dice)? {
                tell(&format!(
                    "{} ({}), for {:.1} s",
                    kind.words(),
                    fault.name,
                    fault.lasts.as_secs_f64()
                ));
                done.push(fault);
            }
        }
        let lasts = done
            .iter()
            .map(|fault| fault.lasts)
            .max()
            .unwrap_or_default();
        tokio::time::sleep(lasts).await;
        // A coordinator that starts needs its Postgres.
        done.sort_by_key(|fault| !fault.name.starts_with("postgres"));
        let mended = Instant::now();
        let since = now();
        for fault in &done {
            faults::mend(site, fault)?;
        }
        let well = site.wait_well(since, WELL_WITHIN).await;
        let recovery = mended.elapsed();
        match well {
            Ok(revived) => {
                for name in revived {
                    tell(&format!("{name} had left by itself and was started again"));
                    outcome.left_by_themselves += 1;
                }
            }
            Err(error) => {
                tell(&format!("NOT WELL: {error:#}"));
                outcome.not_well.push(format!(
                    "{:?}: {error:#}",
                    done.iter().map(|f| f.kind).collect::<Vec<_>>()
                ));
            }
        }
        for fault in done {
            let tally: &mut Tally = outcome.faults.entry(fault.kind).or_default();
            tally.count += 1;
            tally.recoveries.push(recovery);
            outcome.done.push(fault);
        }
    }
    Ok(())
}

/// Waits until every job has ended and every device is let go.
async fn come_to_rest(site: &mut site::Site, load: &Load, outcome: &mut Outcome) -> Result<()> {
    let since = now();
    if let Err(error) = site.wait_well(since, WELL_WITHIN).await {
        outcome.not_well.push(format!("at the end: {error:#}"));
    }
    let begun = Instant::now();
    while load.count_open().await != Some(0) {
        if begun.elapsed() > REST_WITHIN {
            outcome.not_well.push(format!(
                "jobs were still open {REST_WITHIN:?} after the last fault"
            ));
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    outcome.rest = begun.elapsed();
    Ok(())
}

async fn judge(site: &site::Site, load: &Load, outcome: &mut Outcome) -> Result<()> {
    let begun = Instant::now();
    loop {
        let verified = site.cli(&["audit", "verify", "--expect-quiet", "--output", "json"])?;
        let text = String::from_utf8_lossy(&verified.stdout).into_owned();
        let found: Value = serde_json::from_str(&text).with_context(|| {
            format!(
                "audit verify said {text:?} {}",
                String::from_utf8_lossy(&verified.stderr)
            )
        })?;
        let clean = found["clean"] == true && verified.status.success();
        if clean || begun.elapsed() > LET_GO_WITHIN {
            outcome.verified = found;
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let audit = site.cli(&["audit", "log", "--all", "--output", "json"])?;
    let history = judge::read_audit(&String::from_utf8_lossy(&audit.stdout))?;
    let accepted: Vec<Accepted> = load.accepted().await;
    let side = judge::read_side(load.side());
    outcome.side_lines = side.len();
    outcome.side = judge::compare(&side, &history);
    outcome.doubled = judge::doubles(&history, &accepted);
    outcome.replaced = table::placed_again(&outcome.done, &history);
    outcome.ends = judge::look_up(site.channel(0)?, &accepted).await?;
    let mut kinds: BTreeMap<&'static str, usize> = BTreeMap::new();
    for order in &accepted {
        *kinds.entry(order.kind).or_default() += 1;
    }
    outcome.kinds = kinds;
    for process in processes_with(site.folder()) {
        if site::says(&process, "MARQUEE_ATTEMPT=") {
            outcome.side.push(format!(
                "process {} of a job is left: {}",
                process.pid, process.command
            ));
        }
    }
    Ok(())
}
