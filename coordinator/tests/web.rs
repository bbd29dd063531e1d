//! What browsers and pages are given: gRPC-Web over HTTP/1.1 on the port that gRPC has, the page's files with their
//! walls, and the requests that the page needs beside those of the command line.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::support;
use crate::support::{Cluster, channel, request};
use marquee_proto::v1;
use marquee_proto::v1::cluster_client::ClusterClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

mod prometheus;

/// The status line, the headers in lower case, and the body of what a request written by hand is answered with.
async fn ask(cluster: &Cluster, head: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    let address = cluster.running.address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    let head = format!("{head}\r\n{length}connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, answer[end + 4..].to_vec())
}

/// A message as gRPC frames it.
fn framed(message: &impl prost::Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    frame.extend(bytes);
    frame
}

const LIST: &str = "POST /marquee.v1.Jobs/ListJobs HTTP/1.1\r\ncontent-type: application/grpc-web+proto\r\nx-grpc-web: 1";

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_speaks_grpc_web_and_only_from_our_own_page() {
    let cluster = Cluster::start().await;
    let body = framed(&v1::ListJobsRequest::default());
    let own = format!("{LIST}\r\nhost: localhost:7700\r\norigin: http://localhost:7700");
    let (status, head, answer) = ask(&cluster, &own, &body).await;
    assert_eq!(status, 200, "{head}");
    assert!(
        head.contains("application/grpc-web+proto") && head.contains("nosniff"),
        "{head}"
    );
    // The trailers of a gRPC call stand at the end of the body.
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("grpc-status:0"), "{text:?}");

    for (what, head, wanted) in [
        (
            "another origin",
            format!("{LIST}\r\nhost: localhost:7700\r\norigin: http://evil.example"),
            403,
        ),
        (
            "another site",
            format!("{LIST}\r\nhost: localhost:7700\r\nsec-fetch-site: cross-site"),
            403,
        ),
        (
            "a name bound to us",
            format!("{LIST}\r\nhost: evil.example:7700"),
            421,
        ),
        ("no host", LIST.to_owned(), 400),
        (
            "gRPC itself over HTTP/1.1",
            LIST.replace("grpc-web+proto", "grpc") + "\r\nhost: localhost",
            415,
        ),
        (
            "what a form sends",
            LIST.replace("application/grpc-web+proto", "text/plain") + "\r\nhost: localhost",
            415,
        ),
        (
            "the text form",
            LIST.replace("grpc-web+proto", "grpc-web-text") + "\r\nhost: localhost",
            415,
        ),
        (
            "a question before a foreign request",
            LIST.replace("POST", "OPTIONS")
                .replace("application/grpc-web+proto", "")
                + "\r\nhost: localhost",
            415,
        ),
    ] {
        let (status, head, _) = ask(&cluster, &head, &body).await;
        assert_eq!(status, wanted, "{what}: {head}");
        assert!(!head.contains("access-control"), "{what}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_place_of_the_page_has_its_walls() {
    let cluster = Cluster::start().await;
    for path in ["/", "/jobs/17/logs?rank=0", "/reports/17", "/nothing"] {
        let (status, head, body) = ask(
            &cluster,
            &format!("GET {path} HTTP/1.1\r\nhost: localhost"),
            b"",
        )
        .await;
        assert_eq!(status, 200, "{path}: {head}");
        assert!(head.contains("text/html"), "{path}: {head}");
        for wall in [
            "default-src 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cross-origin-opener-policy: same-origin",
        ] {
            assert!(head.contains(wall), "{path} lacks {wall}: {head}");
        }
        assert!(
            !head.contains("unsafe") && !body.is_empty(),
            "{path}: {head}"
        );
    }
    let (status, _, _) = ask(
        &cluster,
        "GET /reports/1/document HTTP/1.1\r\nhost: localhost",
        b"",
    )
    .await;
    assert_eq!(status, 404, "there is no such report");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_a_job_wrote_is_shown_and_can_do_nothing() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let job = cluster
        .submit("[jobs.a]\nkind = \"command\"\nargv = [\"true\"]\n")
        .await
        .remove(0);
    let key = worker.take_and_start().await;
    let hostile = b"<script>fetch('/marquee.v1.Jobs/CancelJob')</script><h1>scores</h1>";
    let output = cluster.output("report.html", hostile).await;
    worker.finish(key, Some(output)).await;
    cluster.wait_for(job.id, v1::JobState::Succeeded).await;
    let ask_for = format!(
        "GET /reports/{}/document HTTP/1.1\r\nhost: localhost",
        job.id
    );
    let (status, head, body) = ask(&cluster, &ask_for, b"").await;
    assert_eq!(
        (status, body.as_slice()),
        (200, hostile.as_slice()),
        "{head}"
    );
    for wall in [
        "sandbox;",
        "default-src 'none'",
        "frame-ancestors 'self'",
        "nosniff",
    ] {
        assert!(head.contains(wall), "{wall}: {head}");
    }
    assert!(!head.contains("script-src"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_found_by_text_and_worker_and_counted() {
    let cluster = Cluster::start().await;
    let body = "[jobs.alpha_1]\nkind = \"command\"\nargv = [\"true\"]\n\
                [jobs.alphax1]\nkind = \"command\"\nargv = [\"true\"]\n\
                [jobs.many]\nkind = \"command\"\nargv = [\"true\"]\narray = 5\n";
    cluster.submit(body).await;
    let mut client = cluster.jobs().await;
    let mut find = async |request: v1::ListJobsRequest| {
        let found = client.list_jobs(request).await.unwrap().into_inner();
        let names: Vec<String> = found.jobs.iter().map(|job| job.name.clone()).collect();
        (names, found.total, found.next_page_token)
    };
    let all = v1::ListJobsRequest {
        with_total: true,
        page_size: 2,
        ..Default::default()
    };
    let (names, total, next) = find(all.clone()).await;
    // Elements are found by their array.
    assert_eq!((names.len(), total), (2, 3));
    let (names, total, last) = find(v1::ListJobsRequest {
        page_token: next,
        ..all.clone()
    })
    .await;
    assert_eq!((names.len(), total, last.as_str()), (1, 3, ""));
    for (text, found) in [
        ("ALPHA", 2),
        // A mark of LIKE is a letter like any other.
        ("alpha_", 1),
        ("%", 0),
        // The pipeline's name.
        ("test", 3),
        ("nothing", 0),
    ] {
        let request = v1::ListJobsRequest {
            text: text.into(),
            with_total: true,
            ..Default::default()
        };
        assert_eq!(find(request).await.1, found, "{text}");
    }
    let array = v1::ListJobsRequest {
        array_job_id: 3,
        with_total: true,
        ..Default::default()
    };
    assert_eq!(find(array).await.1, 5);
    let queued = v1::ListJobsRequest {
        states: vec![v1::JobState::Running.into()],
        with_total: true,
        ..Default::default()
    };
    assert_eq!(find(queued).await.1, 0);
    let mut worker = cluster.worker("w").await;
    worker.take_and_start().await;
    let on = v1::ListJobsRequest {
        worker_name: "w".into(),
        ..Default::default()
    };
    // The worker has room for more than one of them.
    let there = find(on).await.0;
    assert!(there.contains(&"alpha_1".to_owned()), "{there:?}");
    let elsewhere = v1::ListJobsRequest {
        worker_name: "v".into(),
        ..Default::default()
    };
    assert_eq!(find(elsewhere).await.0.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_is_wrong_and_stores_nothing() {
    let cluster = Cluster::start().await;
    let mut client = cluster.jobs().await;
    let dry = |body: &str| v1::SubmitPipelineRequest {
        dry_run: true,
        ..request("dry", body)
    };
    let body = "[jobs.a]\nkind = \"command\"\nargv = [\"true\"]\n[jobs.b]\nkind = \"command\"\nargv = [\"true\"]\nneeds = [\"a\"]\n";
    let planned = client
        .submit_pipeline(dry(body))
        .await
        .unwrap()
        .into_inner();
    let names: Vec<_> = planned
        .jobs
        .iter()
        .map(|job| (job.id, job.name.as_str(), job.needs.len()))
        .collect();
    assert_eq!(
        (planned.pipeline_id, names),
        (0, vec![(0, "a", 0), (0, "b", 1)])
    );
    let wrong = client
        .submit_pipeline(dry("[jobs.a]\nkind = \"command\"\n"))
        .await
        .unwrap_err();
    assert_eq!(wrong.code(), tonic::Code::InvalidArgument);
    let all = client
        .list_jobs(v1::ListJobsRequest::default())
        .await
        .unwrap();
    assert!(all.into_inner().jobs.is_empty());
    // The request id is as free as before.
    client.submit_pipeline(request("dry", body)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_follows_what_happens() {
    let cluster = Cluster::start().await;
    let mut client = ClusterClient::new(channel(&cluster.running.address).await);
    let mut stream = client
        .watch_overview(v1::WatchOverviewRequest {})
        .await
        .unwrap()
        .into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(
        (first.newest_job_id, first.queued, first.workers_online),
        (0, 0, 0)
    );
    let job = cluster
        .submit("[jobs.a]\nkind = \"command\"\nargv = [\"true\"]\n")
        .await
        .remove(0);
    let mut next = async |what: &str, wanted: &dyn Fn(&v1::Overview) -> bool| {
        let found = tokio::time::timeout(support::SOON, async {
            loop {
                let now = stream.message().await.unwrap().unwrap();
                if wanted(&now) {
                    return now;
                }
            }
        });
        found
            .await
            .unwrap_or_else(|_| panic!("the overview never said {what}"))
    };
    let queued = next("that a job waits", &|now| now.queued == 1).await;
    assert_eq!(queued.newest_job_id, job.id);
    let [reason] = queued.queue.as_slice() else {
        panic!("one reason, not {queued:?}")
    };
    assert!(reason.text.contains("no worker is online"), "{reason:?}");
    assert_eq!((reason.jobs, reason.example_job_id), (1, job.id));
    let mut worker = cluster.worker("w").await;
    let key = worker.take_and_start().await;
    let running = next("that it runs", &|now| now.running.len() == 1).await;
    assert_eq!((running.workers_online, running.cpus.unwrap().held), (1, 1));
    worker.finish(key, None).await;
    let ended = next("that it ended", &|now| {
        now.running.is_empty() && !now.ended.is_empty()
    })
    .await;
    assert_eq!(ended.ended[0].state(), v1::JobState::Succeeded);
    let usage = client
        .get_usage(v1::GetUsageRequest {
            hours: 1,
            buckets: 4,
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((usage.cpus.len(), usage.pipelines.len()), (4, 1));
    assert!(
        usage.pipelines[0].cpu_hours > 0.0 && usage.cpus[3] > 0.0,
        "{usage:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_values_become_a_curve_of_few_points_that_keeps_its_peaks() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let job = cluster
        .submit("[jobs.a]\nkind = \"command\"\nargv = [\"true\"]\n")
        .await
        .remove(0);
    let key = worker.take_and_start().await;
    for step in 0..1_000 {
        let loss = match step {
            500 => 99.0,
            501 => -99.0,
            700 => f64::NAN,
            701 => f64::INFINITY,
            702 => 1e300,
            _ => 1.0,
        };
        let values = [("loss".to_owned(), loss), ("once".to_owned(), 7.0)];
        let take = if step == 3 { 2 } else { 1 };
        let metrics = v1::RankMetrics {
            step,
            values: values.into_iter().take(take).collect(),
        };
        worker.report(key, v1::report::Body::Metrics(metrics)).await;
    }
    worker.finish(key, None).await;
    cluster.wait_for(job.id, v1::JobState::Succeeded).await;
    let mut client = cluster.jobs().await;
    let ask = |max_points| v1::SeriesRequest {
        job_id: job.id,
        max_points,
        ..Default::default()
    };
    let found = client.series(ask(10)).await.unwrap().into_inner();
    let [loss, once] = found.series.as_slice() else {
        panic!("two curves, not {found:?}")
    };
    assert_eq!(
        (
            loss.name.as_str(),
            loss.steps.len(),
            loss.values,
            loss.not_finite
        ),
        ("loss", 10, 1_000, 3)
    );
    let peak = loss.maxima.iter().copied().fold(f64::MIN, f64::max);
    let least = loss.minima.iter().copied().fold(f64::MAX, f64::min);
    assert_eq!((peak, least), (99.0, -99.0));
    assert_eq!(loss.means[0].to_bits(), 1.0_f64.to_bits());
    assert_eq!(
        (once.steps.as_slice(), once.means.as_slice()),
        ([3].as_slice(), [7.0].as_slice())
    );
    // A closer look at a part of it has each value.
    let part = v1::SeriesRequest {
        from_step: Some(495),
        to_step: Some(504),
        ..ask(10)
    };
    let part = client.series(part).await.unwrap().into_inner();
    assert_eq!(part.series[0].steps, (495..505).collect::<Vec<u64>>());
    let refused = client.series(ask(1_000_000)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let nobody = v1::SeriesRequest {
        job_id: 99,
        ..ask(0)
    };
    assert_eq!(
        client.series(nobody).await.unwrap_err().code(),
        tonic::Code::NotFound
    );
}
