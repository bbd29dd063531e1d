//! A coordinator whose bucket refuses every request for a while: who needs a file of it waits, and nobody else.

use marquee_coordinator::env::Env;
use marquee_proto::v1::report::Body;
use marquee_proto::v1::{CheckpointSaved, JobState};
use marquee_store::testing::TestDatabase;
use tokio::time::timeout;

use super::*;
use crate::support::worker::{FakeWorker, key_of};
use crate::support::{Cluster, Ground, SOON};

const ONE: &str = "[jobs.one]\nkind = \"command\"\nargv = [\"true\"]\n";

impl Site {
    /// A coordinator in this process that keeps its files here.
    async fn cluster(&self) -> Cluster {
        let ground = Ground {
            blobs: Some(self.leader().await),
            ..Ground::default()
        };
        Cluster::start_with(TestDatabase::create().await, Env::system(), ground).await
    }

    /// From now on nobody is let in. Refused at once, so that no test waits for tries.
    fn shut(&self) {
        for method in ["HEAD", "GET", "PUT", "POST"] {
            let refused = "<Error><Code>AccessDenied</Code></Error>".to_owned();
            self.door
                .rule(method, "/films", 1_000_000, Fault::Answer(403, refused));
        }
    }

    /// Waits until somebody has asked for a file so many times.
    async fn asked_for(&self, contents: &[u8], times: usize) {
        let digest = Digest::of(contents);
        let asked = async {
            while ["HEAD", "GET"]
                .iter()
                .map(|method| self.door.count(method, digest.as_str()))
                .sum::<usize>()
                < times
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, asked).await.unwrap();
    }
}

fn train(digest: &str) -> String {
    format!(
        "[jobs.train]\nkind = \"train\"\nmodel = \"simple-cnn\"\nepochs = 1\nbatch_size = 8\n\
         optimizer = {{ name = \"sgd\", lr = 0.1 }}\ninputs = {{ shards = \"artifact:{digest}\" }}\n"
    )
}

/// A job that has committed a file, and its artifact's digest.
async fn shards(cluster: &Cluster) -> String {
    let id = cluster.submit(ONE).await[0].id;
    let mut worker = cluster.worker("w0").await;
    let key = worker.take_and_start().await;
    let output = cluster.output("shards.json", b"{}").await;
    worker.finish(key, Some(output)).await;
    let done = cluster.wait_for(id, JobState::Succeeded).await;
    worker.goodbye().await;
    done.artifact_digest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_away_keeps_those_waiting_that_need_it_and_nobody_else() {
    let test = "a_bucket_that_is_away_keeps_those_waiting_that_need_it_and_nobody_else";
    let Some(site) = Site::start(test).await else {
        return;
    };
    let cluster = site.cluster().await;
    let digest = shards(&cluster).await;
    let mut worker = cluster.worker("w1").await;
    let training = cluster.submit(&train(&digest)).await[0].id;
    let trains = worker.take_and_start().await;
    let writing = cluster.submit(ONE).await[0].id;
    let writes = worker.take_and_start().await;
    assert_eq!((trains.0, writes.0), (training, writing));
    let weights = cluster.output("weights", b"step 10").await;
    let saved = CheckpointSaved {
        step: 10,
        manifest: Some(weights.clone()),
    };
    worker.report(trains, Body::Checkpoint(saved)).await;
    worker.stored(trains).await;
    let output = cluster.output("model.bin", b"a model").await;

    site.shut();
    site.door.forget_seen();
    // It has ended for its worker. Whether its file is there nobody can say yet.
    worker.finish(writes, Some(output)).await;
    leaves(&cluster, &worker).await;
    worker.stop_unasked(trains).await;
    let mut other = cluster.worker("w2").await;
    site.asked_for(b"a model", 2).await;
    site.asked_for(b"step 10", 2).await;
    // One that needs no file comes and goes meanwhile.
    let free = cluster.submit(ONE).await[0].id;
    let key = other.take_and_start().await;
    assert_eq!(key.0, free, "what resumes is given to nobody");
    other.finish(key, None).await;
    cluster.wait_for(free, JobState::Succeeded).await;
    let waits = cluster.job(training).await;
    assert_eq!((waits.state(), waits.attempt), (JobState::Queued, 1));
    let ends = cluster.job(writing).await;
    assert!(
        ends.state() == JobState::Running && ends.failure.is_none(),
        "neither committed nor failed: {ends:?}"
    );

    // It is back: the end is the first attempt's, and the training goes on where it was.
    site.door.no_rules();
    let done = cluster.wait_for(writing, JobState::Succeeded).await;
    assert_eq!(done.attempt, 1);
    assert!(!done.artifact_digest.is_empty());
    let assign = other.take().await;
    assert_eq!((assign.job_id, assign.attempt), (training, 2));
    let resume = assign.resume.unwrap();
    assert_eq!((resume.step, resume.manifest), (10, Some(weights)));
    let detail = cluster.detail(training).await;
    assert_eq!(detail.attempts.len(), 2, "no attempt was spent on waiting");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bucket_lost_is_told_when_it_answers_and_not_while_it_is_away() {
    let test = "what_a_bucket_lost_is_told_when_it_answers_and_not_while_it_is_away";
    let Some(site) = Site::start(test).await else {
        return;
    };
    let cluster = site.cluster().await;
    let id = cluster.submit(&format!("{ONE}max_attempts = 1\n")).await[0].id;
    let mut worker = cluster.worker("w1").await;
    let key = worker.take_and_start().await;
    let never = crate::support::manifest("model.bin", b"never sent");
    site.shut();
    site.door.forget_seen();
    worker.finish(key, Some(never)).await;
    site.asked_for(b"never sent", 2).await;
    let job = cluster.job(id).await;
    assert!(
        job.state() == JobState::Running && job.failure.is_none(),
        "{job:?}"
    );
    site.door.no_rules();
    let job = cluster.wait_for(id, JobState::Failed).await;
    let message = job.failure.unwrap().message;
    assert!(
        message.contains("model.bin") && message.contains("not uploaded"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_a_job_would_have_while_its_bucket_is_away_go_to_others() {
    let test = "devices_that_a_job_would_have_while_its_bucket_is_away_go_to_others";
    let Some(site) = Site::start(test).await else {
        return;
    };
    let cluster = site.cluster().await;
    let digest = shards(&cluster).await;
    let mut worker = cluster.worker("w1").await;
    // All that a worker has.
    let gang = train(&digest).replace("[jobs.train]\n", "[jobs.train]\nranks = 2\n");
    let training = cluster.submit(&gang).await[0].id;
    let given = [worker.take().await, worker.take().await];
    for assign in &given {
        worker.prepare(assign).await;
    }
    let keys = given.each_ref().map(key_of);
    for key in keys {
        worker.started(key).await;
    }
    let saved = CheckpointSaved {
        step: 10,
        manifest: Some(cluster.output("weights", b"step 10").await),
    };
    worker.report(keys[0], Body::Checkpoint(saved)).await;
    worker.stored(keys[0]).await;
    leaves(&cluster, &worker).await;
    for key in keys {
        worker.stop_unasked(key).await;
    }
    let back = cluster.wait_for(training, JobState::Queued).await;
    assert_eq!(back.attempt, 1);

    site.shut();
    site.door.forget_seen();
    let mut other = cluster.worker("w2").await;
    site.asked_for(b"step 10", 2).await;
    let two = format!("{ONE}{}", ONE.replace("one", "two"));
    for job in cluster.submit(&two).await {
        let key = other.take_and_start().await;
        assert_eq!(key.0, job.id);
        other.finish(key, None).await;
        cluster.wait_for(job.id, JobState::Succeeded).await;
    }
    // And it has them again when its bucket is back.
    site.door.no_rules();
    let again = [other.take().await, other.take().await];
    for assign in again {
        assert_eq!((assign.job_id, assign.attempt), (training, 2));
        assert_eq!(assign.resume.unwrap().step, 10);
    }
}

/// A worker's host goes, and the coordinator has heard so: what it stops is to go on elsewhere at once.
async fn leaves(cluster: &Cluster, worker: &FakeWorker) {
    worker.leave();
    let heard = async {
        while !cluster.app().sessions.is_leaving(worker.id()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, heard).await.unwrap();
}
