//! A hostile client.

use marquee_proto::v1;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::document::Format;
use marquee_proto::v1::get_artifact_request::Which;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::upload_blob_request::Part;
use tonic::transport::Channel;

use super::{ONE, all_is_well, assert_refused};
use crate::support::{Cluster, channel};

fn submission(toml: String, overrides: &[(&str, &str)]) -> v1::SubmitPipelineRequest {
    let overrides = overrides.iter().map(|(path, value)| v1::Override {
        path: (*path).to_owned(),
        value: (*value).to_owned(),
    });
    v1::SubmitPipelineRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        document: Some(v1::Document {
            format: Some(Format::Toml(toml)),
        }),
        overrides: overrides.collect(),
        dry_run: false,
    }
}

fn good() -> String {
    format!("name = \"p\"\n{ONE}")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_submits_is_refused_by_name_and_stops_nobody() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let deep = vec!["a"; 10_000].join(".");
    let lists = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let many: Vec<(&str, &str)> = vec![("jobs.one.priority", "1"); 1_001];
    let unknown: String = (0..20_000).map(|n| format!("k{n} = 1\n")).collect();
    let long_key = "k".repeat(500_000);
    let attacks = [
        (
            "a path of 10,000 keys",
            submission(good(), &[(&deep, "1")]),
            "more than 16 keys",
        ),
        (
            "a path of nothing",
            submission(good(), &[("", "1")]),
            "is no path",
        ),
        (
            "1,001 values",
            submission(good(), &many),
            "1001 values to set",
        ),
        (
            "lists without end",
            submission(format!("a = {lists}"), &[]),
            "document",
        ),
        (
            "6.7 MiB",
            submission("x".repeat(7_000_000), &[]),
            "7000000 bytes are too many",
        ),
        (
            "20,000 errors",
            submission(format!("{}{unknown}", good()), &[]),
            "the first",
        ),
        (
            "a key of 500,000 bytes",
            submission(format!("{}{long_key} = 1\n", good()), &[]),
            "is a key of 500000 bytes",
        ),
        (
            "a NUL in an argument",
            submission(good(), &[("jobs.one.argv", "[\"a\\u0000\"]")]),
            "holds a NUL",
        ),
        (
            "a NUL in a name",
            submission("name = \"a\\u0000\"".into(), &[]),
            "holds a NUL",
        ),
        (
            "a NUL in the request id",
            v1::SubmitPipelineRequest {
                request_id: "a\0b".into(),
                ..submission(good(), &[])
            },
            "request_id",
        ),
        (
            "a control in the request id",
            v1::SubmitPipelineRequest {
                request_id: "\u{1b}[2J".into(),
                ..submission(good(), &[])
            },
            "request_id",
        ),
        (
            "no request id",
            v1::SubmitPipelineRequest {
                request_id: String::new(),
                ..submission(good(), &[])
            },
            "request_id",
        ),
        (
            "a long request id",
            v1::SubmitPipelineRequest {
                request_id: "x".repeat(100_000),
                ..submission(good(), &[])
            },
            "request_id",
        ),
        (
            "no document",
            v1::SubmitPipelineRequest {
                document: None,
                ..submission(good(), &[])
            },
            "document",
        ),
    ];
    let mut jobs = cluster.jobs().await;
    for (what, request, said) in attacks {
        assert_refused(what, jobs.submit_pipeline(request).await, said);
    }
    let job = v1::SubmitJobRequest {
        request_id: "r".into(),
        name: "n\0".repeat(100_000),
        document: submission(good(), &[]).document,
        overrides: vec![],
    };
    assert_refused("a job's name", jobs.submit_job(job).await, "name: ");
    all_is_well(&cluster, &mut worker).await;
}

/// So many stopped a worker's session: each was parsed before anybody looked how large it was.
#[tokio::test(flavor = "multi_thread")]
async fn many_large_documents_at_once_lose_no_worker() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let jobs = cluster.jobs().await;
    let large = format!("{}# {}", good(), "a = [[1, 2, {} ]] # ".repeat(150_000));
    let submissions = (0..8).map(|_| {
        let (mut jobs, request) = (jobs.clone(), submission(large.clone(), &[]));
        async move { jobs.submit_pipeline(request).await }
    });
    for answer in futures::future::join_all(submissions).await {
        assert_refused("a large document", answer, "bytes are too many");
    }
    all_is_well(&cluster, &mut worker).await;
}

async fn jobs(cluster: &Cluster) -> JobsClient<Channel> {
    cluster.jobs().await
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_text_and_numbers_in_every_field_are_refused_in_our_words() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let id = cluster.submit(ONE).await[0].id;
    let mut client = jobs(&cluster).await;
    for odd in [i64::MIN, -1, 0, i64::MAX] {
        let get = client.get_job(v1::GetJobRequest { id: odd }).await;
        assert_refused("get", get, "there is no job");
        let get = client
            .get_pipeline(v1::GetPipelineRequest { id: odd })
            .await;
        assert_refused("get pipeline", get, "there is no pipeline");
        let cancel = client.cancel_job(v1::CancelJobRequest { id: odd }).await;
        assert_refused("cancel", cancel, "there is no job");
        let retry = client.retry_job(v1::RetryJobRequest { id: odd }).await;
        assert_refused("retry", retry, "there is no job");
    }
    for token in [
        "\0",
        "x",
        "9999999999999999999999",
        "1; DROP TABLE jobs",
        "é",
    ] {
        let request = v1::ListJobsRequest {
            page_token: token.into(),
            ..v1::ListJobsRequest::default()
        };
        assert_refused(token, client.list_jobs(request).await, "page_token");
    }
    let request = v1::ListJobsRequest {
        page_size: u32::MAX,
        ..v1::ListJobsRequest::default()
    };
    assert_refused("page size", client.list_jobs(request).await, "page_size");
    let logs = |attempt, rank, tail| v1::LogsRequest {
        job_id: id,
        attempt,
        rank,
        tail,
        follow: false,
    };
    for (request, said) in [
        (logs(u32::MAX, None, 0), "attempt"),
        (logs(0, Some(u32::MAX), 0), "rank"),
        (logs(0, None, u32::MAX), "tail"),
    ] {
        assert_refused(said, client.logs(request).await, said);
    }
    let metrics = |names: Vec<String>| v1::MetricsRequest {
        job_id: id,
        names,
        ..v1::MetricsRequest::default()
    };
    for names in [
        vec!["a\0".to_owned()],
        vec!["x".repeat(100_000)],
        vec!["a".to_owned(); 10_000],
    ] {
        assert_refused("names", client.metrics(metrics(names)).await, "names");
    }
    let watch = v1::WatchRequest {
        job_ids: (0..100_000).collect(),
        ..v1::WatchRequest::default()
    };
    assert_refused("watch", client.watch(watch).await, "job_ids");

    let mut artifacts = ArtifactsClient::new(channel(&cluster.running.address).await);
    for digest in [
        "",
        "\0",
        "0123456789ab%",
        "' OR 1=1 --",
        &"f".repeat(100_000),
    ] {
        let which = Some(Which::Digest(digest.to_owned()));
        let get = artifacts
            .get_artifact(v1::GetArtifactRequest { which })
            .await;
        assert_refused(digest, get, "digest");
        let digests = vec![digest.to_owned()];
        let missing = artifacts
            .find_missing_blobs(v1::FindMissingBlobsRequest {
                digests,
                ..Default::default()
            })
            .await;
        assert_refused(digest, missing, "digest");
        let download = v1::DownloadBlobRequest {
            digest: digest.to_owned(),
            offset: 0,
            size_bytes: None,
            job_id: 0,
        };
        assert_refused(digest, artifacts.download_blob(download).await, "digest");
    }
    for token in [
        "\0",
        "1",
        "9000000000000000000-1",
        "-9000000000000000000-1",
        "1-\0",
    ] {
        let request = v1::ListArtifactsRequest {
            page_token: token.into(),
            ..v1::ListArtifactsRequest::default()
        };
        assert_refused(token, artifacts.list_artifacts(request).await, "page_token");
    }
    for size_bytes in [u64::MAX, 1 << 63, 1 << 60] {
        let header = v1::UploadBlobHeader {
            digest: "0".repeat(64),
            size_bytes,
            ..Default::default()
        };
        let parts = vec![v1::UploadBlobRequest {
            part: Some(Part::Header(header)),
        }];
        let upload = artifacts.upload_blob(futures::stream::iter(parts)).await;
        assert_refused("a size", upload, "does not fit");
    }
    let key = worker.take_and_start().await;
    worker.finish(key, None).await;
    all_is_well(&cluster, &mut worker).await;
}
