//! The whole chain, small: posters over HTTP to a trained and evaluated model.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use marquee_domain::report::{EvalReport, FetchSummary, PreprocessSummary, TrainSummary};
use marquee_e2e::jobs::{id_of, request};
use marquee_e2e::{Catalogue, TestCluster};
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::{ListArtifactsRequest, ListJobsRequest, SubmitResponse};

const POSTERS: &str = include_str!("../../examples/posters.toml");
const FOLDER: &str = include_str!("../../examples/folder.toml");

/// A pipeline of some hundred pictures takes seconds; a busy machine may need minutes.
const DEADLINE: Duration = Duration::from_secs(300);

/// Artifacts of a pipeline, by job name, each at most once.
async fn artifacts_of(
    cluster: &TestCluster,
    submitted: &SubmitResponse,
) -> Result<Vec<(String, String)>> {
    let request = ListArtifactsRequest {
        pipeline_id: submitted.pipeline_id,
        ..Default::default()
    };
    let listed = ArtifactsClient::new(cluster.channel()?)
        .list_artifacts(request)
        .await?
        .into_inner();
    let mut pairs: Vec<_> = listed
        .artifacts
        .into_iter()
        .map(|a| (a.job_name, a.name))
        .collect();
    pairs.sort();
    Ok(pairs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posters_become_a_trained_and_evaluated_model_on_two_workers() -> Result<()> {
    let cluster = TestCluster::start(2).await?;
    let catalogue = Catalogue::start(cluster.folder(), 400)?;
    let overrides = [
        ("jobs.fetch.source.api_url", catalogue.api_url.as_str()),
        ("jobs.train.epochs", "2"),
    ];
    let submitted = cluster.submit("posters-1", POSTERS, &overrides).await?;
    let done = cluster.wait_pipeline(&submitted, DEADLINE).await?;

    let fetch: FetchSummary = serde_json::from_str(&done[0].attempts[0].ranks[0].summary_json)?;
    let counted = fetch.fetched
        + fetch.gone
        + fetch.rejected.values().sum::<u64>()
        + fetch.failed.values().sum::<u64>();
    assert_eq!(
        counted, fetch.asked,
        "every id ends in exactly one way: {fetch:?}"
    );
    assert!(fetch.source.synthetic);

    let train = done
        .iter()
        .find(|d| d.job.as_ref().is_some_and(|j| j.name == "train"))
        .expect("there is a train job");
    let ranks = &train.attempts[0].ranks;
    assert_eq!(ranks.len(), 2);
    assert_ne!(
        ranks[0].worker_name, ranks[1].worker_name,
        "one CPU device each: the ranks are spread"
    );
    for rank in ranks {
        let summary: TrainSummary = serde_json::from_str(&rank.summary_json)?;
        assert_eq!((summary.world_size, summary.backend.as_str()), (2, "gloo"));
        let phases = summary.phases;
        let parts = phases.input_s
            + phases.forward_s
            + phases.backward_s
            + phases.all_reduce_s
            + phases.optimizer_s
            + phases.checkpoint_s;
        assert!(
            parts > 0.5 * phases.step_s && parts <= 1.01 * phases.step_s,
            "phases explain the steps: {phases:?}"
        );
    }

    let eval = done.last().expect("there is an eval job");
    let report: EvalReport = serde_json::from_str(&eval.attempts[0].ranks[0].summary_json)?;
    assert!(
        report.rules.iter().any(|rule| rule.rule == "per_class"),
        "{report:?}"
    );
    assert!(
        report
            .source
            .f1_micro_ceiling
            .is_some_and(|ceiling| (0.7..0.95).contains(&ceiling))
    );

    let artifacts = artifacts_of(&cluster, &submitted).await?;
    let expected = [
        ("eval", "report"),
        ("fetch", "dataset"),
        ("preprocess", "shards"),
        ("train", "model"),
    ];
    assert_eq!(
        artifacts,
        expected.map(|(job, name)| (job.to_owned(), name.to_owned()))
    );

    let folder = cluster.folder().join("got");
    let got = cluster.cli(&[
        "artifacts",
        "get",
        &id_of(&submitted, "eval")?.to_string(),
        "--to",
        folder.to_str().expect("UTF-8"),
    ])?;
    assert!(
        got.status.success(),
        "{}",
        String::from_utf8_lossy(&got.stderr)
    );
    for file in [
        "predictions.parquet",
        "classes.json",
        "report.json",
        "report.html",
    ] {
        assert!(folder.join(file).exists(), "{file} is in the report");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_own_pictures_takes_the_same_way() -> Result<()> {
    let cluster = TestCluster::start(1).await?;
    let pictures = cluster.folder().join("pictures");
    coloured_pictures(&pictures)?;
    let overrides = [
        ("jobs.fetch.source.path", pictures.to_str().expect("UTF-8")),
        ("jobs.preprocess.width", "32"),
        ("jobs.preprocess.height", "32"),
        // Here a picture of one plain colour is what its label says.
        ("jobs.preprocess.leave_out", "[]"),
        ("jobs.train.ranks", "1"),
        ("jobs.train.epochs", "8"),
        ("jobs.train.batch_size", "16"),
    ];
    let submitted = cluster.submit("folder-1", FOLDER, &overrides).await?;
    let done = cluster.wait_pipeline(&submitted, DEADLINE).await?;
    let eval = done.last().expect("there is an eval job");
    let report: EvalReport = serde_json::from_str(&eval.attempts[0].ranks[0].summary_json)?;
    assert_eq!(
        report.classes,
        ["red", "green", "blue"],
        "in the order of labels.csv"
    );
    let best = report
        .rules
        .iter()
        .map(|rule| rule.f1_micro)
        .fold(0.0, f64::max);
    assert!(
        best > 0.8,
        "three plain colours are easy: {:?}",
        report.rules
    );
    Ok(())
}

/// 240 PNG and WebP pictures of one or two plain colours, one broken file, and their labels.csv.
fn coloured_pictures(folder: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let colours = [
        ("red", [220, 30, 30]),
        ("green", [30, 200, 40]),
        ("blue", [30, 40, 220]),
    ];
    let mut labels = String::from("path,labels,group\n");
    for index in 0..240_u32 {
        let (left, right) = (
            colours[(index % 3) as usize],
            colours[(index / 3 % 3) as usize],
        );
        let shade = u8::try_from(index % 20)?;
        let picture = image::RgbImage::from_fn(40, 40, |x, _| {
            let [r, g, b] = if x < 20 { left.1 } else { right.1 };
            image::Rgb([r + shade, g + shade, b + shade])
        });
        let name = format!("{index}.{}", if index % 2 == 0 { "png" } else { "webp" });
        picture.save(folder.join(&name))?;
        let both = if left.0 == right.0 {
            left.0.to_owned()
        } else {
            format!("{}|{}", left.0, right.0)
        };
        labels.push_str(&format!("{name},{both},g{}\n", index / 2));
    }
    std::fs::write(
        folder.join("broken.png"),
        b"\x89PNG\r\n\x1a\nand then nothing",
    )?;
    labels.push_str("broken.png,red,g999\n");
    std::fs::write(folder.join("labels.csv"), labels)?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_pipeline_is_refused_whole_and_the_same_request_twice_is_one() -> Result<()> {
    let cluster = TestCluster::start(1).await?;
    let mut jobs = cluster.jobs()?;

    let too_many = request(
        "wrong",
        POSTERS,
        &[("jobs.train.ranks", "7"), ("jobs.eval.kidn", "1")],
    );
    let status = jobs
        .submit_pipeline(too_many)
        .await
        .expect_err("two fields are wrong");
    let error = marquee_proto::error::PublicError::from(&status);
    assert_eq!(error.code.as_deref(), Some("MQ0101"));
    let fields: Vec<_> = error.fields.iter().map(|f| f.field.as_str()).collect();
    assert_eq!(fields, ["jobs.eval.kidn", "jobs.train.ranks"]);

    let command = "name = \"twice\"\n[jobs.hello]\nkind = \"command\"\nargv = [\"true\"]\n";
    let first = cluster.submit("same", command, &[]).await?;
    let second = cluster.submit("same", command, &[]).await?;
    assert_eq!(first.jobs[0].id, second.jobs[0].id);
    assert!(second.repeated_request);
    let other = command.replace("true", "false");
    let status = jobs
        .submit_pipeline(request("same", &other, &[]))
        .await
        .expect_err("another document");
    assert_eq!(
        marquee_proto::error::PublicError::from(&status)
            .code
            .as_deref(),
        Some("MQ0103")
    );
    cluster.wait_success(first.jobs[0].id, DEADLINE).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_spread_over_workers_is_one_data_set_without_a_film_twice() -> Result<()> {
    let cluster = TestCluster::start(2).await?;
    let catalogue = Catalogue::start(cluster.folder(), 200)?;
    let overrides = [
        ("jobs.fetch.source.api_url", catalogue.api_url.as_str()),
        ("jobs.fetch.array", "4"),
        ("jobs.train.epochs", "1"),
    ];
    let submitted = cluster.submit("array-1", POSTERS, &overrides).await?;
    assert_eq!(submitted.jobs.len(), 4, "an array is one row");
    let done = cluster.wait_pipeline(&submitted, DEADLINE).await?;
    let array = done[0].job.as_ref().expect("a detail has its job");
    let counts = array.elements.expect("an array counts its elements");
    assert_eq!((counts.succeeded, counts.failed), (4, 0));

    let elements = ListJobsRequest {
        array_job_id: array.id,
        ..ListJobsRequest::default()
    };
    let elements = cluster.jobs()?.list_jobs(elements).await?.into_inner().jobs;
    let mut workers = BTreeSet::new();
    let mut whole = FetchSummary::default();
    for element in &elements {
        let detail = cluster.wait_success(element.id, DEADLINE).await?;
        let rank = &detail.attempts[0].ranks[0];
        workers.insert(rank.worker_name.clone());
        whole = whole.and(serde_json::from_str(&rank.summary_json)?);
    }
    assert_eq!(whole.asked, 200);
    assert_eq!(
        workers.len(),
        2,
        "one CPU device each: both have had elements"
    );
    let rank = &done[1].attempts[0].ranks[0];
    let prepared: PreprocessSummary = serde_json::from_str(&rank.summary_json)?;
    assert_eq!(prepared.pictures, whole.fetched);
    Ok(())
}
