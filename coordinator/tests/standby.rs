//! Two coordinators on one Postgres, as programs: one leads, the other answers and takes over when the first is killed,
//! leaves, or is stopped. The times that a take-over took are printed.
#![allow(clippy::unwrap_used, reason = "what tests share fails as they do")]

use crate::support;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::program::{Coordinator, command, eventually};
use crate::support::worker::FakeWorker;
use marquee_proto::error::leader_elsewhere;
use marquee_proto::v1;
use marquee_proto::v1::JobState;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::chaos_client::ChaosClient;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::workers_client::WorkersClient;
use marquee_store::testing::TestDatabase;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tonic::{Code, Status};

/// How long anything that must happen may take on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);
const ONE: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";
const TAKEN_OVER: i32 = 75;

/// A Postgres and a folder of artifacts that several coordinators share.
struct Site {
    database: TestDatabase,
    folder: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        Self {
            database: TestDatabase::create().await,
            folder: tempfile::Builder::new().prefix("mqs").tempdir().unwrap(),
        }
    }

    fn start(&self, name: &str) -> Coordinator {
        self.start_with_artifacts(name, &self.folder.path().join("artifacts"))
    }

    fn start_with_artifacts(&self, name: &str, artifacts: &Path) -> Coordinator {
        self.start_on(name, artifacts, &self.database.url)
    }

    fn start_on(&self, name: &str, artifacts: &Path, database: &str) -> Coordinator {
        let mut command = command(&self.folder.path().join(name), "127.0.0.1:0");
        command
            .env("MARQUEE_COORDINATOR__DATABASE_URL", database)
            .env("MARQUEE_COORDINATOR__ARTIFACTS_DIR", artifacts)
            .env("MARQUEE_COORDINATOR__TIMING__HEARTBEAT_EVERY_MS", "200")
            .env("MARQUEE_COORDINATOR__TIMING__POLL_EVERY_MS", "200");
        Coordinator::start_with(command)
    }

    async fn epochs(&self) -> Vec<String> {
        let query = "SELECT epoch::text FROM leaderships ORDER BY epoch";
        self.database.words(query).await
    }
}

fn url(coordinator: &Coordinator) -> String {
    format!("http://{}", coordinator.address)
}

async fn jobs(coordinator: &Coordinator) -> JobsClient<tonic::transport::Channel> {
    JobsClient::new(coordinator.channel().await)
}

async fn submit(coordinator: &Coordinator, request_id: &str) -> Result<v1::Job, Status> {
    let request = support::request(request_id, ONE);
    let answer = jobs(coordinator).await.submit_pipeline(request).await?;
    Ok(answer.into_inner().jobs.remove(0))
}

/// Asks until it leads, and says how long after `since` that was.
async fn leads(coordinator: &Coordinator, request_id: &str, since: Instant) -> Duration {
    loop {
        match submit(coordinator, request_id).await {
            Ok(_) => return since.elapsed(),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                assert!(since.elapsed() < SOON, "{status}\n{}", coordinator.log());
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn job(coordinator: &Coordinator, id: i64) -> v1::Job {
    let mut jobs = jobs(coordinator).await;
    let detail = jobs.get_job(v1::GetJobRequest { id }).await.unwrap();
    detail.into_inner().job.unwrap()
}

async fn wait_for(coordinator: &Coordinator, id: i64, state: JobState) -> v1::Job {
    let started = Instant::now();
    loop {
        let job = job(coordinator, id).await;
        if job.state() == state {
            return job;
        }
        assert!(started.elapsed() < SOON, "{job:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn listed(coordinator: &Coordinator) -> v1::ListCoordinatorsResponse {
    let mut workers = WorkersClient::new(coordinator.channel().await);
    let answer = workers
        .list_coordinators(v1::ListCoordinatorsRequest {})
        .await;
    answer.unwrap().into_inner()
}

/// Waits until both are known to each other.
async fn both_live(coordinator: &Coordinator) -> v1::ListCoordinatorsResponse {
    let started = Instant::now();
    loop {
        let listed = listed(coordinator).await;
        if listed.coordinators.len() == 2 {
            return listed;
        }
        assert!(started.elapsed() < SOON, "{listed:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let worst = times[times.len() - 1];
    let median = times[times.len() / 2];
    eprintln!(
        "{what}: median {median:?}, worst of {} {worst:?}",
        times.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_answers_reads_and_sends_everybody_else_to_the_leader() {
    let site = Site::new().await;
    let first = site.start("a");
    let second = site.start("b");
    let id = submit(&first, "one").await.unwrap().id;

    let mut at_standby = jobs(&second).await;
    let list = v1::ListJobsRequest::default();
    assert_eq!(
        at_standby.list_jobs(list).await.unwrap().into_inner().jobs[0].id,
        id
    );
    assert_eq!(job(&second, id).await.state(), JobState::Queued);
    let watch = v1::WatchRequest {
        job_ids: vec![id],
        keep_open: true,
        pipeline_id: 0,
    };
    let mut watch = at_standby.watch(watch).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();

    // What changes something, or needs the one that leads, is refused with its address.
    let refused = submit(&second, "two").await.unwrap_err();
    let cancel = v1::CancelJobRequest { id };
    let not_cancelled = at_standby.cancel_job(cancel).await.unwrap_err();
    let no_session = FakeWorker::try_connect(&url(&second), "w1")
        .await
        .err()
        .unwrap();
    for refusal in [refused, not_cancelled, no_session] {
        assert_eq!(refusal.code(), Code::Unavailable);
        assert_eq!(
            leader_elsewhere(&refusal),
            Some(Some(url(&first))),
            "{refusal}"
        );
        assert!(refusal.message().contains("stands by"), "{refusal}");
    }

    // A watch at the standby goes on through what the leader does, and through a take-over.
    let mut worker = FakeWorker::connect(&url(&first), "w1").await;
    let key = worker.take_and_start().await;
    let seen = async {
        while watch.message().await.unwrap().unwrap().job.unwrap().state() != JobState::Running {}
    };
    tokio::time::timeout(SOON, seen).await.unwrap();
    assert_eq!(key.0, id);

    let both = both_live(&second).await;
    assert_eq!(
        (both.epoch, both.leaderless, both.leader),
        (1, false, url(&first))
    );
    let [leader, standby] = <[_; 2]>::try_from(both.coordinators).unwrap();
    assert!(leader.leads && leader.address == url(&first) && !leader.answers);
    assert!(!standby.leads && standby.answers && !standby.other_storage);
}

/// As `kill -9` of the leader, again and again: no attempt is spent, no child is stopped, nobody is judged.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_while_a_job_runs_on() {
    let site = Site::new().await;
    let mut leader = site.start("a");
    let mut standby = site.start("b");
    let id = submit(&leader, "one").await.unwrap().id;
    let mut worker = FakeWorker::connect(&url(&leader), "w1").await;
    let key = worker.take_and_start().await;
    let mut times = Vec::new();
    for round in 0..5 {
        both_live(&leader).await;
        // Two reports of its start, and one in each round. This worker does not send again what is lost with a stream.
        worker.log(key, &[&format!("before {round}")]).await;
        while worker.ack(key).await < 3 + round {}
        let killed = Instant::now();
        leader.signal(Signal::SIGKILL);
        times.push(leads(&standby, &format!("after {round}"), killed).await);
        worker = worker.reconnect(&url(&standby)).await.unwrap();
        let name = if round % 2 == 0 { "a" } else { "b" };
        leader.wait(SOON);
        drop(std::mem::replace(&mut leader, standby));
        standby = site.start(name);
        let now = job(&leader, id).await;
        assert_eq!((now.state(), now.attempt), (JobState::Running, 1));
    }
    worker.finish(key, None).await;
    let done = wait_for(&leader, id, JobState::Succeeded).await;
    assert_eq!(done.attempt, 1);
    assert_eq!(site.epochs().await, ["1", "2", "3", "4", "5", "6"]);
    let log = leader.log();
    assert!(!log.contains("worker lost"), "{log}");
    print("taken over after kill -9", times);
}

/// A way to Postgres for one of them, over which nothing moves any more once it is said.
struct Way {
    url: String,
    stands_still: Arc<AtomicBool>,
    _folder: tempfile::TempDir,
}

impl Way {
    fn to(database: &TestDatabase) -> Self {
        const SOCKET: &str = ".s.PGSQL.5432";
        let folder = tempfile::Builder::new().prefix("mqw").tempdir().unwrap();
        let (before, server) = database.url.split_once("?host=").unwrap();
        let server = Path::new(server).join(SOCKET);
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        let stands_still = Arc::new(AtomicBool::new(false));
        let still = stands_still.clone();
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let far = UnixStream::connect(&server).await.unwrap();
                let (near, far) = (near.into_split(), far.into_split());
                tokio::spawn(carry(near.0, far.1, still.clone()));
                tokio::spawn(carry(far.0, near.1, still.clone()));
            }
        });
        Self {
            url: format!("{before}?host={}", folder.path().display()),
            stands_still,
            _folder: folder,
        }
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, still: Arc<AtomicBool>) {
    let mut bytes = vec![0; 16_384];
    while let Ok(count) = from.read(&mut bytes).await {
        while still.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if count == 0 || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// A leader to which alone Postgres does not answer hears of no successor. It lets its workers go, so that the successor
/// hears them before it judges anybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_cannot_renew_its_lease_sends_its_workers_to_the_next_one() {
    let site = Site::new().await;
    let way = Way::to(&site.database);
    let artifacts = site.folder.path().join("artifacts");
    let mut old = site.start_on("a", &artifacts, &way.url);
    let new = site.start("b");
    let id = submit(&old, "one").await.unwrap().id;
    let mut worker = FakeWorker::connect(&url(&old), "w1").await;
    let key = worker.take_and_start().await;
    wait_for(&old, id, JobState::Running).await;
    both_live(&old).await;
    let since = Instant::now();
    way.stands_still.store(true, Ordering::Relaxed);
    leads(&new, "other", since).await;
    let told = tokio::time::timeout(SOON, worker.told_to_go())
        .await
        .unwrap();
    assert_eq!(leader_elsewhere(&told), Some(None), "{told}");
    // Nor does it take anybody in.
    let refused = worker.reconnect(&url(&old)).await.err().unwrap();
    assert_eq!(leader_elsewhere(&refused), Some(None), "{refused}");
    let mut worker = worker.reconnect(&url(&new)).await.unwrap();
    worker.finish(key, None).await;
    let done = wait_for(&new, id, JobState::Succeeded).await;
    assert_eq!(done.attempt, 1);
    assert!(!new.log().contains("worker lost"), "{}", new.log());
    way.stands_still.store(false, Ordering::Relaxed);
    assert_eq!(old.wait(SOON).code(), Some(TAKEN_OVER), "{}", old.log());
}

/// Nobody stands by: there is no other to look for, and workers stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_standby_keeps_its_workers_while_postgres_does_not_answer() {
    let site = Site::new().await;
    let way = Way::to(&site.database);
    let artifacts = site.folder.path().join("artifacts");
    let only = site.start_on("a", &artifacts, &way.url);
    let id = submit(&only, "one").await.unwrap().id;
    let mut worker = FakeWorker::connect(&url(&only), "w1").await;
    let key = worker.take_and_start().await;
    wait_for(&only, id, JobState::Running).await;
    // A new leader does not know yet that there is nobody.
    tokio::time::sleep(Duration::from_secs(8)).await;
    way.stands_still.store(true, Ordering::Relaxed);
    // Longer than a lease of the leader's.
    let told = tokio::time::timeout(Duration::from_secs(6), worker.told_to_go()).await;
    assert!(told.is_err(), "{told:?}");
    way.stands_still.store(false, Ordering::Relaxed);
    worker.finish(key, None).await;
    let done = wait_for(&only, id, JobState::Succeeded).await;
    assert_eq!(done.attempt, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_leaves_hands_over_at_once() {
    let site = Site::new().await;
    let mut leader = site.start("a");
    let mut standby = site.start("b");
    submit(&leader, "one").await.unwrap();
    let mut times = Vec::new();
    for round in 0..5 {
        both_live(&leader).await;
        let told = Instant::now();
        leader.signal(Signal::SIGTERM);
        times.push(leads(&standby, &format!("after {round}"), told).await);
        assert!(leader.wait(SOON).success());
        let name = if round % 2 == 0 { "a" } else { "b" };
        drop(std::mem::replace(&mut leader, standby));
        standby = site.start(name);
    }
    print("taken over after an orderly stop", times);
}

/// As `marquee chaos step-down` asks for.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_asked_to_hands_over_and_ends_to_be_started_again() {
    let site = Site::new().await;
    let mut leader = site.start("a");
    let standby = site.start("b");
    submit(&leader, "one").await.unwrap();
    both_live(&leader).await;
    let mut chaos = ChaosClient::new(leader.channel().await);
    let request = v1::RehearseRequest {
        fault: Some(v1::rehearse_request::Fault::StepDown(v1::StepDown {})),
        dry_run: false,
    };
    let asked = Instant::now();
    let said = chaos.rehearse(request).await.unwrap().into_inner();
    assert_eq!(said.epoch, 1);
    let took = leads(&standby, "after", asked).await;
    assert_eq!(leader.wait(SOON).code(), Some(TAKEN_OVER));
    assert_eq!(site.epochs().await, ["1", "2"]);
    print(
        "taken over from one that was asked to hand over",
        vec![took],
    );
}

/// A leader that was stopped and goes on: what it had begun fails, what it begins is refused, and it ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_stopped_changes_nothing_any_more_and_ends() {
    let site = Site::new().await;
    let mut old = site.start("a");
    let new = site.start("b");
    let id = submit(&old, "one").await.unwrap().id;
    let worker = FakeWorker::connect(&url(&old), "w1").await;
    both_live(&old).await;
    let mut asked = jobs(&old).await;
    let stopped = Instant::now();
    old.signal(Signal::SIGSTOP);
    // They lie in its sockets: the submission is read when it goes on.
    let late = tokio::spawn(async move {
        let request = support::request("late", ONE);
        asked.submit_pipeline(request).await
    });
    let took = leads(&new, "other", stopped).await;
    print("taken over from one that was stopped", vec![took]);
    let mut worker = worker.reconnect(&url(&new)).await.unwrap();
    let mut given = worker.take_and_start().await;
    while given.0 != id {
        worker.finish(given, None).await;
        given = worker.take_and_start().await;
    }
    let written = "SELECT (SELECT count(*) FROM jobs) * 1000 + (SELECT count(*) FROM attempts)";
    let before = site.database.number(written).await;

    old.signal(Signal::SIGCONT);
    let ended = old.wait(SOON);
    assert_eq!(ended.code(), Some(TAKEN_OVER), "{}", old.log());
    let late = tokio::time::timeout(SOON, late).await.unwrap().unwrap();
    let status = late.unwrap_err();
    assert!(
        matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled
        ),
        "{status}"
    );
    assert_eq!(site.database.number(written).await, before);
    // Its last words are read by a thread of their own.
    eventually("it says why", SOON, || {
        old.log()
            .contains("another coordinator has taken over (epoch 2")
    });
    let log = old.log();
    assert!(!log.contains("worker lost"), "{log}");
    // Started again it stands by.
    let again = site.start("a");
    let refused = submit(&again, "late").await.unwrap_err();
    assert_eq!(leader_elsewhere(&refused), Some(Some(url(&new))));
    worker.finish(given, None).await;
    let done = wait_for(&new, id, JobState::Succeeded).await;
    assert_eq!(done.attempt, 1);
    assert_eq!(site.epochs().await, ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_with_other_artifacts_serves_none_of_them_and_leads_only_when_somebody_starts_it_so() {
    let site = Site::new().await;
    let mut first = site.start("a");
    let elsewhere = site.folder.path().join("elsewhere");
    let mut other = site.start_with_artifacts("b", &elsewhere);
    submit(&first, "one").await.unwrap();
    let mut artifacts = ArtifactsClient::new(other.channel().await);
    let download = v1::DownloadBlobRequest {
        digest: marquee_domain::artifact::Digest::of(b"x").to_string(),
        offset: 0,
        size_bytes: None,
        job_id: 0,
    };
    let refused = artifacts.download_blob(download.clone()).await.unwrap_err();
    assert!(refused.message().contains("artifacts_dir"), "{refused}");
    assert_eq!(leader_elsewhere(&refused), Some(Some(url(&first))));
    let list = v1::ListArtifactsRequest::default();
    artifacts.list_artifacts(list).await.unwrap();
    let both = both_live(&other).await;
    assert!(
        both.coordinators
            .iter()
            .any(|one| one.other_storage && !one.leads)
    );

    first.signal(Signal::SIGKILL);
    first.wait(SOON);
    let started = Instant::now();
    while !listed(&other).await.leaderless {
        assert!(started.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Longer than a standby waits: it does not lead.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = submit(&other, "two").await.unwrap_err();
    assert!(refused.message().contains("nobody leads"), "{refused}");
    other.signal(Signal::SIGTERM);
    other.wait(SOON);
    let by_hand = site.start_with_artifacts("b", &elsewhere);
    leads(&by_hand, "two", Instant::now()).await;
    eventually("it says what is missing", SOON, || {
        by_hand.log().contains("are missing here")
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_and_started_again_need_not_wait_for_its_own_lease() {
    let site = Site::new().await;
    let mut only = site.start("a");
    submit(&only, "one").await.unwrap();
    let mut fastest = Duration::MAX;
    for round in 0..3 {
        only.signal(Signal::SIGKILL);
        only.wait(SOON);
        let started = Instant::now();
        only = site.start("a");
        let took = leads(&only, &format!("round {round}"), started).await;
        fastest = fastest.min(took);
        eprintln!("leads again after {took:?}");
    }
    // Less than its lease, once at least, whatever else the machine does.
    assert!(fastest < Duration::from_secs(3), "{fastest:?}");
    assert_eq!(site.epochs().await.len(), 4);
}
