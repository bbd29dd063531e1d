//! `marquee bench`: real jobs on two workers, and figures that fit what the jobs reported.

use std::time::Duration;

use anyhow::{Context as _, Result};
use marquee_e2e::{Catalogue, TestCluster};
use serde_json::Value;

/// A fetch of some hundred posters; a busy machine may need minutes.
const DEADLINE: Duration = Duration::from_secs(300);

const FETCH: &str = r#"
name = "films"
[jobs.fetch]
kind = "fetch"
source = { type = "tmdb", api_url = "" }
"#;

fn bench(cluster: &TestCluster, arguments: &[&str]) -> Result<(bool, String, String)> {
    let output = cluster.cli(&[&["bench"], arguments].concat())?;
    Ok((
        output.status.success(),
        String::from_utf8(output.stdout)?,
        String::from_utf8(output.stderr)?,
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bench_runs_as_jobs_and_reports_what_they_measured() -> Result<()> {
    let cluster = TestCluster::start(2).await?;
    let (ok, _, words) = bench(&cluster, &["--model", "simple-cnn"])?;
    assert!(
        !ok && words.contains("no dataset yet") && words.contains("--here"),
        "{words}"
    );

    let catalogue = Catalogue::start(cluster.folder(), 150)?;
    let source = [("jobs.fetch.source.api_url", catalogue.api_url.as_str())];
    let submitted = cluster.submit("films-1", FETCH, &source).await?;
    cluster.wait_pipeline(&submitted, DEADLINE).await?;

    let chart = cluster.folder().join("bench.svg");
    let (ok, lines, words) = bench(
        &cluster,
        &[
            "--model",
            "simple-cnn",
            "--size",
            "32x48",
            "--batch-size",
            "8",
            "--steps",
            "20",
            "--input",
            "original,raw",
            "--tensorboard",
            "off,on",
            "--set",
            "flip=false",
            "--chart",
            chart.to_str().context("UTF-8")?,
            "--json",
        ],
    )?;
    assert!(ok, "{words}");
    let lines: Vec<Value> = lines
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let cases: Vec<&Value> = lines
        .iter()
        .filter(|line| line["device"] == "cpu")
        .collect();
    let named: Vec<&str> = cases
        .iter()
        .filter_map(|case| case["name"].as_str())
        .collect();
    assert_eq!(
        named,
        [
            "1 cpu rank, original",
            "1 cpu rank, original, TensorBoard",
            "1 cpu rank, raw",
            "1 cpu rank, raw, TensorBoard",
            "2 cpu ranks, original",
            "2 cpu ranks, original, TensorBoard",
            "2 cpu ranks, raw",
            "2 cpu ranks, raw, TensorBoard",
        ]
    );
    for case in &cases {
        assert!(
            case["value"].as_f64().is_some_and(|rate| rate > 0.0),
            "{case}"
        );
    }
    // Equal weights, equal batches, pictures equal to the pixel: the loss is the same but for the
    // order in which two ranks add up.
    let losses: Vec<f64> = cases
        .iter()
        .filter_map(|case| case["loss"].as_f64())
        .collect();
    assert_eq!(losses.len(), 8);
    for loss in &losses {
        assert!((loss - losses[0]).abs() < 1e-4, "{losses:?}");
    }
    let exposed = |case: &Value| case["exposed_all_reduce_share"].as_f64();
    // One rank exchanges nothing; the clock around nothing shows a little.
    assert!(
        exposed(cases[0]).is_some_and(|share| share < 1e-3),
        "{}",
        cases[0]
    );
    assert!(
        exposed(cases[6]).is_some_and(|share| share > 0.0),
        "{}",
        cases[6]
    );
    let compared: Vec<&str> = lines[8..]
        .iter()
        .filter_map(|line| line["name"].as_str())
        .collect();
    assert_eq!(
        compared,
        [
            "ranks",
            "ranks",
            "input",
            "input",
            "tensorboard",
            "tensorboard",
            "tensorboard",
            "tensorboard"
        ]
    );
    let svg = std::fs::read_to_string(&chart)?;
    assert!(svg.starts_with("<svg ") && svg.contains("2 cpu ranks"));

    // The same figures, read again by somebody who did not wait for them.
    let (ok, again, words) = bench(&cluster, &["--show", "p2", "--json"])?;
    assert!(ok, "{words}");
    let again: Vec<Value> = again
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    assert_eq!(again, lines);
    let (ok, _, words) = bench(&cluster, &["--show", "p1"])?;
    assert!(!ok && words.contains("is no bench"), "{words}");
    Ok(())
}
