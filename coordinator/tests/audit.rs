//! A cluster's own history, checked and searched while it works.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::support::{Cluster, channel};
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use marquee_proto::v1::JobState;
use marquee_proto::v1::audit_client::AuditClient;
use marquee_proto::v1::report::Body;
use marquee_proto::v1::verify_audit_response::Body as Answer;

const ONE: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";

async fn verify(
    cluster: &Cluster,
    expect_quiet: bool,
) -> (Vec<v1::AuditFinding>, v1::AuditSummary) {
    let request = v1::VerifyAuditRequest {
        expect_quiet,
        ..Default::default()
    };
    let mut client = AuditClient::new(channel(&cluster.running.address).await);
    let mut answers = client.verify(request).await.unwrap().into_inner();
    let mut findings = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        match answer.body.unwrap() {
            Answer::Progress(_) => {}
            Answer::Finding(finding) => findings.push(finding),
            Answer::Summary(summary) => return (findings, summary),
        }
    }
    panic!("a check ends with its summary");
}

async fn list(cluster: &Cluster, request: v1::ListAuditRequest) -> Vec<v1::AuditLine> {
    let mut client = AuditClient::new(channel(&cluster.running.address).await);
    let mut stream = client.list(request).await.unwrap().into_inner();
    let mut lines = Vec::new();
    while let Some(line) = stream.message().await.unwrap() {
        lines.push(line);
    }
    lines
}

/// One job that commits a file, and one that runs.
async fn at_work(cluster: &Cluster) -> (v1::Job, v1::Job) {
    let mut worker = cluster.worker("w1").await;
    let done = cluster.submit(ONE).await.remove(0);
    let key = worker.take_and_start().await;
    worker.log(key, &["one line"]).await;
    let output = cluster.output("data.txt", b"films").await;
    worker.finish(key, Some(output)).await;
    cluster.wait_for(done.id, JobState::Succeeded).await;
    let running = cluster.submit(ONE).await.remove(0);
    let key = worker.take_and_start().await;
    worker
        .report(key, Body::Progress(v1::RankProgress::default()))
        .await;
    (done, running)
}

#[tokio::test]
async fn a_cluster_at_work_keeps_every_rule_and_says_what_is_open() {
    let cluster = Cluster::start().await;
    let (_, running) = at_work(&cluster).await;
    let (findings, summary) = verify(&cluster, false).await;
    assert_eq!(findings, []);
    assert_eq!(
        (
            summary.jobs,
            summary.grants,
            summary.commits,
            summary.artifacts
        ),
        (2, 2, 1, 1)
    );
    assert!(summary.began_at.is_some());
    let (findings, _) = verify(&cluster, true).await;
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(
        (findings[0].rule.as_str(), findings[0].job_id),
        ("9b", running.id)
    );
}

#[tokio::test]
async fn a_file_that_is_gone_and_a_row_that_was_changed_by_hand_are_found() {
    let cluster = Cluster::start().await;
    let (done, _) = at_work(&cluster).await;
    cluster.lose_blob(b"films");
    let (findings, _) = verify(&cluster, false).await;
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(
        (findings[0].rule.as_str(), findings[0].job_id),
        ("2d", done.id)
    );
    assert!(
        findings[0].text.contains("data.txt"),
        "{}",
        findings[0].text
    );

    cluster
        .database
        .execute("UPDATE jobs SET state = 'failed' WHERE state = 'succeeded'")
        .await;
    let (findings, summary) = verify(&cluster, false).await;
    let rules: Vec<&str> = findings
        .iter()
        .map(|finding| finding.rule.as_str())
        .collect();
    assert!(
        rules.contains(&"1b") && rules.contains(&"2d"),
        "{findings:#?}"
    );
    assert_eq!(summary.findings, findings.len() as u64);
    let one_end = findings
        .iter()
        .find(|finding| finding.rule == "1b")
        .unwrap();
    assert!(one_end.line > 0 && one_end.at.is_some());
}

#[tokio::test]
async fn who_asked_for_what_is_searched_by_job_worker_and_name() {
    let cluster = Cluster::start().await;
    let (done, running) = at_work(&cluster).await;
    let request = v1::CancelJobRequest { id: running.id };
    cluster.jobs().await.cancel_job(request).await.unwrap();

    let of_job = v1::ListAuditRequest {
        job_id: running.id,
        ..Default::default()
    };
    let lines = list(&cluster, of_job.clone()).await;
    let words: Vec<&str> = lines.iter().map(|line| line.kind.as_str()).collect();
    assert_eq!(words[0], "granted");
    assert!(words.contains(&"rank_started"), "{words:?}");
    let asked = lines
        .iter()
        .find(|line| line.kind == "cancel_asked")
        .unwrap();
    assert!(
        asked.actor.starts_with("local via rpc"),
        "{:?}",
        asked.actor
    );
    assert_eq!(lines[0].worker_name, "w1");
    assert!(
        lines[0].detail_json.contains("devices"),
        "{}",
        lines[0].detail_json
    );

    let mine = v1::ListAuditRequest {
        actor: "local".into(),
        ..Default::default()
    };
    let mine = list(&cluster, mine).await;
    assert!(mine.iter().all(|line| line.actor.contains("local")));
    assert_eq!(
        mine.iter().filter(|line| line.kind == "submitted").count(),
        2
    );

    let of_pipeline = v1::ListAuditRequest {
        pipeline_id: done.pipeline_id,
        limit: 3,
        ..Default::default()
    };
    let lines = list(&cluster, of_pipeline).await;
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0].kind, "submitted");
    // From the newest line backwards, page by page, it is the same in the other order.
    let mut backwards = Vec::new();
    let mut before = 0;
    loop {
        let page = v1::ListAuditRequest {
            newest_first: true,
            before,
            limit: 3,
            ..Default::default()
        };
        let page = list(&cluster, page).await;
        let Some(last) = page.last() else { break };
        before = last.number;
        backwards.extend(page);
    }
    backwards.reverse();
    assert!(backwards.len() > 6);
    assert_eq!(
        backwards,
        list(&cluster, v1::ListAuditRequest::default()).await
    );
    let newest_of_job = v1::ListAuditRequest {
        newest_first: true,
        limit: 1,
        ..of_job.clone()
    };
    let newest = list(&cluster, newest_of_job).await;
    let all = list(&cluster, of_job.clone()).await;
    assert_eq!(newest.first(), all.last());

    let nobody = v1::ListAuditRequest {
        worker: "w2".into(),
        ..of_job
    };
    assert_eq!(list(&cluster, nobody).await, []);
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_by_its_field() {
    let cluster = Cluster::start().await;
    let mut client = AuditClient::new(channel(&cluster.running.address).await);
    let long = v1::ListAuditRequest {
        actor: "a".repeat(201),
        ..Default::default()
    };
    let refused = client.list(long).await.unwrap_err();
    let error = PublicError::from(&refused);
    assert_eq!(error.code.as_deref(), Some("MQ0102"));
    assert!(format!("{error:?}").contains("actor"), "{error:?}");
}
