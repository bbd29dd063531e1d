//! One authority follows another under a running job, with daemons as they are: one worker takes part, another one is off
//! meanwhile.

use marquee_proto::v1::RotationStep::{Begin, Finish, Switch};
use marquee_proto::v1::jobs_client::JobsClient;

use super::*;

async fn take(head: &Head, step: v1::RotationStep, force: bool) -> Result<v1::Rotation, String> {
    let request = v1::RotateAuthorityRequest {
        step: step.into(),
        force,
        dry_run: false,
    };
    let mut client = TrustClient::new(head.channel().await);
    let taken = client.rotate_authority(request).await;
    let taken = taken.map_err(|status| status.message().to_owned())?;
    Ok(taken.into_inner())
}

/// Takes a step as soon as nothing is in its way.
async fn take_when_ready(head: &Head, step: v1::RotationStep) -> v1::Rotation {
    let deadline = Instant::now() + SOON;
    loop {
        match take(head, step, false).await {
            Ok(rotation) => return rotation,
            Err(why) => assert!(Instant::now() < deadline, "{step:?}: {why}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Submits a job that runs until a file is there.
async fn submit(head: &Head, file: &Path) -> i64 {
    let toml = format!(
        "name = \"one\"\n[jobs.one]\nkind = \"command\"\nargv = [\"sh\", \"-c\", \"until [ -e {} ]; do sleep 0.1; done\"]\n",
        file.display()
    );
    let format = v1::document::Format::Toml(toml);
    let request = v1::SubmitPipelineRequest {
        request_id: "one".into(),
        document: Some(v1::Document {
            format: Some(format),
        }),
        overrides: vec![],
        dry_run: false,
    };
    let mut jobs = JobsClient::new(head.channel().await);
    jobs.submit_pipeline(request)
        .await
        .unwrap()
        .into_inner()
        .jobs[0]
        .id
}

async fn job_is(head: &Head, id: i64, state: v1::JobState) -> v1::Job {
    let mut jobs = JobsClient::new(head.channel().await);
    let deadline = Instant::now() + SOON;
    loop {
        let detail = jobs.get_job(v1::GetJobRequest { id }).await.unwrap();
        let job = detail.into_inner().job.unwrap();
        if job.state() == state {
            return job;
        }
        assert!(Instant::now() < deadline, "{job:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_notices_nothing_and_a_worker_that_was_off_joins_again() {
    let head = Head::start();
    for name in ["gpu-01", "gpu-02"] {
        let joined = head.join(name, &head.address, &head.token(&[]));
        assert!(joined.status.success(), "{joined:?}");
    }
    // The second one has joined, and is off.
    let _worker = head.start_worker("gpu-01");
    head.online_is(&["gpu-01"]).await;
    let done = head.path("done");
    let job = submit(&head, &done).await;
    job_is(&head, job, v1::JobState::Running).await;

    let believed = |name: &str| {
        let pem = std::fs::read_to_string(head.path(name).join("tls/ca.pem")).unwrap();
        marquee_proto::certificate::bundle::read(&pem)
            .unwrap()
            .len()
    };
    take(&head, Begin, false).await.unwrap();
    // Whoever is off is named: he would be shut out.
    head.log_says("gpu-01", "believes other authorities").await;
    assert_eq!(believed("gpu-01"), 2);
    // The other one has come along as soon as it has said so.
    let deadline = Instant::now() + SOON;
    let why = loop {
        let why = take(&head, Switch, false).await.unwrap_err();
        if !why.contains("worker gpu-01") {
            break why;
        }
        assert!(Instant::now() < deadline, "{why}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(why.contains("worker gpu-02 does not believe"), "{why}");
    take(&head, Switch, true).await.unwrap();
    head.log_says("gpu-01", "certificate was renewed").await;

    // It finds a coordinator that it does not know, and says what to do.
    let off = head.start_worker("gpu-02");
    head.log_says("gpu-02", "join again").await;
    drop(off);
    let token = head.token(&["--name", "gpu-02"]);
    let joined = head.join("gpu-02", &head.address, &token);
    assert!(joined.status.success(), "{joined:?}");
    let _second = head.start_worker("gpu-02");
    head.online_is(&["gpu-01", "gpu-02"]).await;

    take_when_ready(&head, Finish).await;
    let deadline = Instant::now() + SOON;
    while believed("gpu-01") != 1 || believed("gpu-02") != 1 {
        assert!(
            Instant::now() < deadline,
            "the old authority is believed still"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    head.online_is(&["gpu-01", "gpu-02"]).await;
    std::fs::write(&done, "").unwrap();
    let ended = job_is(&head, job, v1::JobState::Succeeded).await;
    assert_eq!(ended.attempt, 1, "no attempt was lost: {ended:?}");
    for log in ["coordinator", "gpu-01", "gpu-02"] {
        assert!(!head.log(log).contains("PRIVATE KEY"), "{log}");
    }
}
