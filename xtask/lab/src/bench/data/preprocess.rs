//! A preprocess job of 20,000 posters: whether it keeps both cores busy.

use std::fs;

use anyhow::Result;
use serde_json::json;

use super::super::figure::{Figure, Goal, Sheet};
use super::job::run as run_job;
use super::{Bench, PICTURES};

/// Times that each poster is there: 20,000 in all.
const COPIES: usize = 20_000 / PICTURES;
const LABELS: usize = 8;
const THREADS: u32 = 2;

pub(super) fn run(bench: &Bench<'_>, sheet: &mut Sheet) -> Result<()> {
    ensure_dataset(bench)?;
    let settings = json!({
        "width": 299, "height": 299, "encoding": "jpeg",
        "splits": { "train": 0.8, "validation": 0.1, "test": 0.1 }, "seed": 1, "labels": null,
        "min_label_count": 10, "shard_bytes": 512 * 1024 * 1024,
    });
    let work = json!({ "kind": "preprocess", "settings": settings });
    let folder = bench.folder.join("preprocess");
    let spent = run_job(bench, &work, &folder, THREADS)?;
    fs::remove_dir_all(folder)?;
    let pictures = spent.summary["pictures"].as_u64().unwrap_or(0);
    sheet.add(Figure {
        name: "preprocess, cores busy".to_owned(),
        value: 100.0 * spent.cpu_s / spent.wall_s / f64::from(THREADS),
        unit: "%".into(),
        is_less_better: false,
        reference: None,
        goal: Some(Goal::AtLeast(90.0)),
        ran: format!(
            "{pictures} files of 500x750 ({PICTURES} posters, {COPIES} times each) to jpeg shards of 299x299 in {:.1} s, \
             {:.0} files/s; CPU time of the job and its helpers over wall time and {THREADS} cores",
            spent.wall_s,
            pictures as f64 / spent.wall_s
        ),
    });
    Ok(())
}

/// The posters of the other parts, each [`COPIES`] times, as a folder of one's own pictures.
fn ensure_dataset(bench: &Bench<'_>) -> Result<()> {
    let folder = bench.folder.join("dataset");
    // The fetch job writes this file at its end.
    if folder.join("output/fetch.json").exists() {
        return Ok(());
    }
    let pictures = folder.join("pictures");
    fs::create_dir_all(&pictures)?;
    let mut labels = String::from("path,labels\n");
    for file in fs::read_dir(bench.folder.join("pictures"))? {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        for copy in 0..COPIES {
            let label = copy % LABELS;
            let copy = format!("{copy:02}-{name}");
            let link = pictures.join(&copy);
            if !link.exists() {
                // Links, so that 20,000 files take the space of 1,000, and the disk is not what is
                // measured.
                fs::hard_link(file.path(), link)?;
            }
            labels.push_str(&format!("{copy},label {label}\n"));
        }
    }
    fs::write(pictures.join("labels.csv"), labels)?;
    let source = json!({ "type": "folder", "path": pictures });
    let work = json!({ "kind": "fetch", "settings": { "source": source } });
    run_job(bench, &work, &folder, THREADS)?;
    Ok(())
}
