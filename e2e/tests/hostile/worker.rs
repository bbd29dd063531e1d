//! A hostile worker: what it says of itself, and of the ranks that it is given.

use anyhow::{Context as _, Result};
use chrono::DateTime;
use marquee_e2e::jobs::state;
use marquee_proto::convert::timestamp;
use marquee_proto::v1;
use marquee_proto::v1::coordinator_message::Body as In;
use marquee_proto::v1::report::Body;
use marquee_proto::v1::worker_message::Body as Out;
use marquee_proto::v1::worker_session_client::WorkerSessionClient;
use marquee_proto::v1::{FailureClass, JobDetail, JobState};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{DEADLINE, Site, command};

/// A host that nobody is afraid of, with a slot that only our jobs want.
fn hello() -> v1::Hello {
    v1::Hello {
        worker_id: "00000000-0000-4000-8000-0000000000e1".into(),
        name: "evil".into(),
        boot_id: "00000000-0000-4000-8000-0000000000b1".into(),
        instance_id: "00000000-0000-4000-8000-0000000000a1".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        inventory: Some(v1::Inventory {
            hostname: "evil".into(),
            cpu_threads: 1,
            cpu_slots: 1,
            threads_per_slot: 1,
            address: "127.0.0.1".into(),
            labels: vec!["evil".into()],
            ..v1::Inventory::default()
        }),
        ..v1::Hello::default()
    }
}

type Session = (
    mpsc::Sender<v1::WorkerMessage>,
    Streaming<v1::CoordinatorMessage>,
);

async fn say(site: &Site, first: v1::WorkerMessage) -> Result<Session, tonic::Status> {
    let mut client = WorkerSessionClient::new(site.cluster.channel().unwrap());
    let (outbox, outbound) = mpsc::channel(8);
    outbox.send(first).await.unwrap();
    let stream = client.connect(ReceiverStream::new(outbound)).await?;
    Ok((outbox, stream.into_inner()))
}

fn message(body: Out) -> v1::WorkerMessage {
    v1::WorkerMessage { body: Some(body) }
}

/// What the coordinator says to a first message that it does not like.
async fn refusal(site: &Site, first: v1::WorkerMessage) -> String {
    match say(site, first).await {
        Err(status) => status.to_string(),
        Ok((_outbox, mut stream)) => match tokio::time::timeout(DEADLINE, stream.message()).await {
            Err(_) => "let in without a word".to_owned(),
            Ok(Err(status)) => status.to_string(),
            Ok(Ok(answer)) => format!("let in: {answer:?}"),
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_worker_is_refused_or_loses_its_own_rank_and_nobody_elses() -> Result<()> {
    let site = Site::start().await?;
    let with = |change: &dyn Fn(&mut v1::Inventory)| {
        let mut hello = hello();
        change(hello.inventory.as_mut().unwrap());
        message(Out::Hello(hello))
    };
    let named = |name: String| message(Out::Hello(v1::Hello { name, ..hello() }));
    let attacks = [
        (
            "4,000,000,000 slots",
            with(&|own| own.cpu_slots = 4_000_000_000),
            "cpu_slots",
        ),
        (
            "threads without end",
            with(&|own| own.cpu_threads = u32::MAX),
            "threads",
        ),
        (
            "more memory than there is",
            with(&|own| own.memory_bytes = u64::MAX),
            "memory",
        ),
        (
            "a host name with terminal control",
            with(&|own| own.hostname = "\u{1b}[2J".into()),
            "hostname",
        ),
        (
            "a label of 10,000 bytes",
            with(&|own| own.labels = vec!["x".repeat(10_000)]),
            "label",
        ),
        ("a name with a NUL", named("a\0b".into()), "name"),
        ("a name without end", named("x".repeat(100_000)), "name"),
        (
            "no Hello",
            message(Out::Reports(v1::Reports::default())),
            "Hello",
        ),
    ];
    for (what, first, wanted) in attacks {
        let said = refusal(&site, first).await;
        assert!(
            said.contains(wanted) && !said.starts_with("let in"),
            "{what}: {said}"
        );
    }

    // Let in, it is given a rank, and reports what nobody can store.
    let document = command("given", "true", "hosts = { labels = [\"evil\"] }\n");
    let job = site.cluster.submit("given", &document, &[]).await?.jobs[0].id;
    let (outbox, mut stream) = say(&site, message(Out::Hello(hello()))).await?;
    // Nothing is given to a worker that has not said yet what it holds.
    let first = v1::Heartbeat {
        sequence: 1,
        ..v1::Heartbeat::default()
    };
    outbox.send(message(Out::Heartbeat(first))).await?;
    let given = async {
        loop {
            let said = stream.message().await?.context("the session ended")?;
            if let Some(In::Assign(assign)) = said.body {
                break anyhow::Ok(assign);
            }
        }
    };
    let assign = tokio::time::timeout(DEADLINE, given).await??;
    assert_eq!(assign.job_id, job);
    let report = |sequence, body| v1::Report {
        job_id: assign.job_id,
        attempt: assign.attempt,
        rank: assign.rank,
        sequence,
        at: Some(timestamp(DateTime::UNIX_EPOCH)),
        body: Some(body),
    };
    let values = [("loss".to_owned(), 0.5)].into();
    let step = u64::MAX;
    let reports = vec![
        report(1, Body::Started(v1::RankStarted { pid: 1 })),
        report(2, Body::Metrics(v1::RankMetrics { step, values })),
    ];
    outbox
        .send(message(Out::Reports(v1::Reports { reports })))
        .await?;
    let failed = |detail: &JobDetail| state(detail) == JobState::Failed;
    let detail = site
        .cluster
        .wait_job(job, "failed", DEADLINE, failed)
        .await?;
    let failure = detail.job.and_then(|job| job.failure).unwrap_or_default();
    assert_eq!(failure.class(), FailureClass::Crash);
    assert!(failure.message.contains("step"), "{failure:?}");
    drop((outbox, stream));
    site.all_is_well().await
}
