//! A preprocess job of 20,000 posters: whether it keeps both cores busy.

use std::fs;

use anyhow::Result;
use serde_json::json;

use super::super::figure::{Figure, Goal, Sheet};
use super::Bench;
use super::job::{Catalogue, fetch_of, run as run_job};
use crate::report;

const FILMS: usize = 20_000;
const THREADS: u32 = 2;

pub(super) fn run(bench: &Bench<'_>, sheet: &mut Sheet) -> Result<()> {
    ensure_dataset(bench)?;
    for encoding in ["jpeg", "raw"] {
        let work = json!({
            "kind": "preprocess", "width": 299, "height": 299, "encoding": encoding,
            "splits": { "train": 0.8, "validation": 0.1, "test": 0.1 }, "seed": 1, "labels": null,
            "min_label_count": 10, "shard_bytes": 512 * 1024 * 1024,
        });
        let folder = bench.folder.join("preprocess");
        let spent = run_job(bench, &work, &folder, THREADS)?;
        let pictures = spent.summary["pictures"].as_u64().unwrap_or(0);
        let ran = format!(
            "{pictures} posters of 500x750 to {encoding} shards of 299x299 in {:.1} s, {:.0} posters/s; CPU time of the job \
             and its helpers over wall time and {THREADS} cores",
            spent.wall_s,
            pictures as f64 / spent.wall_s
        );
        sheet.add(Figure {
            name: format!("preprocess ({encoding}), cores busy"),
            value: 100.0 * spent.cpu_s / spent.wall_s / f64::from(THREADS),
            unit: "%",
            is_less_better: false,
            reference: None,
            goal: Some(Goal::AtLeast(90.0)),
            ran,
        });
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

/// The posters, fetched once from our own server.
fn ensure_dataset(bench: &Bench<'_>) -> Result<()> {
    let folder = bench.folder.join("dataset");
    if folder.join("output/fetch.json").exists() {
        return Ok(());
    }
    report::note(&format!("painting and fetching {FILMS} posters, once"));
    let catalogue = Catalogue::start(bench, &["--films", &FILMS.to_string()])?;
    run_job(bench, &fetch_of(&catalogue, &json!({})), &folder, THREADS)?;
    Ok(())
}
