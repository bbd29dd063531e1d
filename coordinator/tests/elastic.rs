//! Gangs that go on without some of their ranks, tried with workers that do and say what a test wants.

use crate::support::Cluster;
use crate::support::worker::{FakeWorker, Key, key_of};
use marquee_domain::ids::JobId;
use marquee_domain::job::RankState;
use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use marquee_proto::v1::{AttemptRank, FailureClass, JobDetail, JobState};

/// Three workers of one rank each of a train job that goes on with two; all ranks train.
struct Gang {
    cluster: Cluster,
    id: i64,
    workers: [FakeWorker; 3],
}

impl Gang {
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        let input = "[jobs.input]\nkind = \"command\"\nargv = [\"true\"]\n";
        let input = cluster.submit(input).await[0].id;
        let mut first = cluster.worker("w0").await;
        let key = first.take_and_start().await;
        let shards = cluster.output("shards", b"shards").await;
        first.finish(key, Some(shards)).await;
        let digest = cluster.wait_for(input, JobState::Succeeded).await;
        let digest = digest.artifact_digest;

        let mut workers = [
            first,
            cluster.worker("w1").await,
            cluster.worker("w2").await,
        ];
        // Workers of these tests have two devices each: with both taken a rank is a host.
        let train = format!(
            "[jobs.train]\nkind = \"train\"\nmodel = \"simple-cnn\"\nepochs = 1\nbatch_size = 8\n\
             ranks = {{ count = 3, min = 2 }}\ndevices_per_rank = 2\n\
             optimizer = {{ name = \"sgd\", lr = 0.1 }}\n\
             inputs = {{ shards = \"artifact:{digest}\" }}\n"
        );
        let id = cluster.submit(&train).await[0].id;
        let mut hosts = Vec::new();
        let mut order = Vec::new();
        for worker in &mut workers {
            let assign = worker.take().await;
            worker.prepare(&assign).await;
            if assign.hosts_rendezvous {
                hosts.push(assign.rank);
            }
            order.push(assign.rank);
        }
        hosts.sort_unstable();
        assert_eq!(
            hosts,
            [0, 1],
            "the store, and one to stand by on another host"
        );
        // By rank, whatever the order in which they were placed.
        let mut by_rank: Vec<_> = order.into_iter().zip(workers).collect();
        by_rank.sort_by_key(|(rank, _)| *rank);
        let mut workers = by_rank.into_iter().map(|(_, worker)| worker);
        let mut next = || workers.next().expect("there are three");
        let mut gang = Self {
            cluster,
            id,
            workers: [next(), next(), next()],
        };
        for rank in 0..3 {
            let key = gang.key(rank);
            let worker = gang.worker(rank);
            let start = worker.started(key).await;
            assert!(start.rendezvous.is_some() && start.standby.is_some());
            let progress = v1::RankProgress {
                phase: "epoch 1/1".into(),
                done: 8,
                total: Some(80),
                unit: "images".into(),
                ..v1::RankProgress::default()
            };
            worker.report(key, Body::Progress(progress)).await;
            while worker.ack(key).await < 3 {}
        }
        gang
    }

    fn key(&self, rank: u32) -> Key {
        (self.id, 1, rank)
    }

    fn worker(&mut self, rank: u32) -> &mut FakeWorker {
        &mut self.workers[rank as usize]
    }

    async fn regrouped(&mut self, rank: u32, ranks: &[u32]) {
        let key = self.key(rank);
        let body = Body::Regrouped(v1::RankRegrouped {
            step: 7,
            ranks: ranks.to_vec(),
            steps_lost: 0,
            seconds: 3.2,
        });
        self.worker(rank).report(key, body).await;
    }

    async fn finish(&mut self, rank: u32, output: Option<v1::Manifest>) {
        let key = self.key(rank);
        self.worker(rank).finish(key, output).await;
    }

    async fn model(&self) -> Option<v1::Manifest> {
        Some(self.cluster.output("model", b"model").await)
    }

    async fn until(&self, what: &str, is_so: impl Fn(&JobDetail) -> bool) -> JobDetail {
        for _ in 0..400 {
            let detail = self.cluster.detail(self.id).await;
            if is_so(&detail) {
                return detail;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("not {what}: {:#?}", self.cluster.detail(self.id).await);
    }
}

fn rank(detail: &JobDetail, rank: usize) -> &AttemptRank {
    &detail.attempts.last().expect("there is an attempt").ranks[rank]
}

fn is_lost(detail: &JobDetail, number: usize) -> bool {
    rank(detail, number).lost_at.is_some()
}

fn says(detail: &JobDetail, text: &str) -> bool {
    detail.events.iter().any(|event| event.text.contains(text))
}

#[tokio::test]
async fn rank_zero_crashes_and_the_next_one_commits_in_the_same_attempt() {
    let mut gang = Gang::start().await;
    let key = gang.key(0);
    gang.worker(0)
        .fail(key, FailureClass::Crash, "killed by signal 9")
        .await;
    gang.until("going on", |detail| is_lost(detail, 0)).await;
    gang.regrouped(1, &[1, 2]).await;
    gang.regrouped(2, &[1, 2]).await;
    let saved = gang.model().await;
    let key = gang.key(1);
    let checkpoint = v1::CheckpointSaved {
        step: 8,
        manifest: saved.clone(),
    };
    gang.worker(1)
        .report(key, Body::Checkpoint(checkpoint))
        .await;
    gang.finish(2, None).await;
    gang.finish(1, saved).await;

    let job = gang.cluster.wait_for(gang.id, JobState::Succeeded).await;
    assert_eq!(job.attempt, 1);
    assert!(!job.artifact_digest.is_empty());
    let detail = gang.cluster.detail(gang.id).await;
    for text in [
        "rank 0 was lost (crash): rank 0",
        "2 of 3 ranks are left and go on",
        "went on with 2 of 3 ranks from step 7 after 3.2 s; no step was lost",
        "checkpoint of step 8 saved",
    ] {
        let text = text.trim_end_matches(": rank 0");
        assert!(says(&detail, text), "{text}: {:#?}", detail.events);
    }
    let failure = rank(&detail, 0).failure.clone().expect("its cause is kept");
    assert!(failure.message.contains("signal 9"), "{failure:?}");
}

#[tokio::test]
async fn a_host_that_was_cut_off_is_ended_when_it_returns_and_nothing_is_taken_of_it() {
    let mut gang = Gang::start().await;
    gang.worker(0).fall_silent();
    gang.until("going on", |detail| is_lost(detail, 0)).await;

    // It trained on by itself meanwhile, and comes back with a checkpoint and a result.
    let key = gang.key(0);
    let mut back = gang.workers[0]
        .reconnect(&gang.cluster.running.address)
        .await
        .expect("it may come back");
    let forged = gang.model().await;
    let checkpoint = v1::CheckpointSaved {
        step: 99,
        manifest: forged.clone(),
    };
    back.report(key, Body::Checkpoint(checkpoint)).await;
    let stop = back.stop(key).await;
    assert!(stop.forget && stop.grace_ms == 0, "{stop:?}");
    let ended =
        |detail: &JobDetail| RankState::try_from(rank(detail, 0).state()) == Ok(RankState::Failed);
    let detail = gang.until("free again", ended).await;
    assert!(
        !says(&detail, "checkpoint of step 99"),
        "{:#?}",
        detail.events
    );
    assert_eq!(detail.attempts.len(), 1, "the attempt went on");

    gang.regrouped(1, &[1, 2]).await;
    let model = gang.model().await;
    gang.finish(1, model).await;
    gang.finish(2, None).await;
    let job = gang.cluster.wait_for(gang.id, JobState::Succeeded).await;
    assert_eq!(job.attempt, 1);
}

#[tokio::test]
async fn of_two_halves_that_both_go_on_the_first_to_say_so_counts() {
    let mut gang = Gang::start().await;
    // The network between them was cut; each half reaches the coordinator.
    gang.regrouped(1, &[1, 2]).await;
    gang.until("decided", |detail| is_lost(detail, 0)).await;
    let key = gang.key(0);
    let forged = gang.model().await;
    let body = Body::Finished(v1::RankFinished {
        summary_json: "{}".into(),
        output: forged,
    });
    gang.worker(0).report(key, body).await;
    let stop = gang.worker(0).stop(key).await;
    assert!(stop.forget, "{stop:?}");
    let detail = gang.cluster.detail(gang.id).await;
    assert_ne!(rank(&detail, 0).state(), v1::RankState::Finished);
    assert_eq!(detail.job.expect("it is there").state(), JobState::Running);
}

#[tokio::test]
async fn a_list_that_makes_no_sense_loses_nobody() {
    let mut gang = Gang::start().await;
    // Too few, not itself, nobody of the gang, not in order.
    for ranks in [&[0][..], &[1, 2], &[0, 7], &[2, 0]] {
        gang.regrouped(0, ranks).await;
    }
    let key = gang.key(0);
    while gang.worker(0).ack(key).await < 7 {}
    let detail = gang.cluster.detail(gang.id).await;
    assert!((0..3).all(|rank| !is_lost(&detail, rank)), "{detail:#?}");
}

#[tokio::test]
async fn with_fewer_than_the_least_the_attempt_fails_and_the_next_one_starts_whole() {
    let mut gang = Gang::start().await;
    for number in [2, 1] {
        let key = gang.key(number);
        gang.worker(number)
            .fail(key, FailureClass::DeviceFault, "the GPU fell off the bus")
            .await;
        if number == 2 {
            gang.until("going on", |detail| is_lost(detail, 2)).await;
        }
    }
    let key = gang.key(0);
    gang.worker(0).stop(key).await;
    for rank in 0..3 {
        let again = gang.worker(rank).take().await;
        assert_eq!((again.attempt, again.world_size), (2, 3));
        assert_eq!(key_of(&again).0, gang.id);
    }
    let detail = gang.cluster.detail(gang.id).await;
    let failure = detail.attempts[0].failure.clone().expect("it failed");
    assert_eq!(failure.class(), FailureClass::DeviceFault);
    assert!(
        failure
            .message
            .contains("1 of 3 ranks were left, fewer than ranks.min (2)"),
        "{failure:?}"
    );
}

#[tokio::test]
async fn what_the_user_got_wrong_ends_the_whole_gang() {
    let mut gang = Gang::start().await;
    let key = gang.key(2);
    gang.worker(2)
        .fail(
            key,
            FailureClass::UserError,
            "the loss is no longer a number",
        )
        .await;
    for rank in [0, 1] {
        let key = gang.key(rank);
        gang.worker(rank).stop(key).await;
    }
    gang.cluster.wait_for(gang.id, JobState::Failed).await;
}

#[tokio::test]
async fn an_output_that_was_lost_with_its_rank_is_named_as_the_cause() {
    let mut gang = Gang::start().await;
    gang.finish(1, None).await;
    gang.finish(2, None).await;
    let key = gang.key(0);
    gang.worker(0)
        .fail(key, FailureClass::Network, "the output cannot be stored")
        .await;
    let failed = |detail: &JobDetail| detail.attempts[0].failure.is_some();
    let detail = gang.until("failed", failed).await;
    let failure = detail.attempts[0].failure.clone().expect("it failed");
    assert_eq!(failure.class(), FailureClass::Network);
    assert!(
        failure
            .message
            .contains("rank 0 was lost before its output was stored"),
        "{failure:?}"
    );
}

/// Makes the gang older than it is, and its losses too: growing is a matter of minutes.
async fn long_ago(gang: &Gang) {
    let id = gang.id;
    for (table, column) in [("open_jobs", "started_at"), ("attempt_ranks", "lost_at")] {
        let older = format!(
            "UPDATE {table} SET {column} = {column} - interval '11 minutes' WHERE job_id = {id}"
        );
        gang.cluster.database.execute(&older).await;
    }
    gang.cluster.app().index.touch([JobId(id)]);
    gang.cluster.app().index.open().short_read_at = None;
}

#[tokio::test]
async fn a_gang_that_went_on_with_fewer_takes_new_ranks_at_a_checkpoint_and_at_no_cost() {
    let mut gang = Gang::start().await;
    let key = gang.key(1);
    gang.worker(1)
        .fail(key, FailureClass::Crash, "killed by signal 9")
        .await;
    gang.until("going on", |detail| is_lost(detail, 1)).await;
    gang.regrouped(0, &[0, 2]).await;
    gang.regrouped(2, &[0, 2]).await;
    // Somebody of its own priority waits for what is free: nothing is taken from him, however long ago it was.
    let taken = gang
        .cluster
        .submit("[jobs.taken]\nkind = \"command\"\nargv = [\"true\"]\ndevices_per_rank = 2\n")
        .await[0]
        .id;
    let other = gang.worker(1).take_and_start().await;
    assert_eq!(other.0, taken);
    let waits = gang
        .cluster
        .submit("[jobs.waits]\nkind = \"command\"\nargv = [\"true\"]\ndevices_per_rank = 2\n")
        .await[0]
        .id;
    long_ago(&gang).await;
    let model = gang.model().await;
    gang.worker(1).finish(other, model.clone()).await;
    let other = gang.worker(1).take_and_start().await;
    assert_eq!(other.0, waits);
    let detail = gang.cluster.detail(gang.id).await;
    assert!(
        !says(&detail, "stops at a checkpoint"),
        "{:#?}",
        detail.events
    );

    gang.worker(1).finish(other, model.clone()).await;
    // Now it is free, and nobody waits. A newcomer does not come between.
    let late = "[jobs.late]\nkind = \"command\"\nargv = [\"true\"]\npriority = -1\n";
    let detail = gang
        .until("asked to grow", |detail| {
            says(detail, "stops at a checkpoint")
        })
        .await;
    assert!(
        says(
            &detail,
            "it goes on with 2 of 3 ranks, and devices for all 3 are free"
        ),
        "{:#?}",
        detail.events
    );
    let late = gang.cluster.submit(late).await[0].id;
    let key = gang.key(0);
    let checkpoint = v1::CheckpointSaved {
        step: 9,
        manifest: model,
    };
    gang.worker(0)
        .report(key, Body::Checkpoint(checkpoint))
        .await;
    for number in [0, 2] {
        let key = gang.key(number);
        let stop = gang.worker(number).stop(key).await;
        assert!(!stop.forget, "{stop:?}");
    }
    for number in 0..3 {
        let again = gang.worker(number).take().await;
        assert_eq!((again.job_id, again.attempt), (gang.id, 2));
        assert_eq!(again.world_size, 3);
    }
    let detail = gang.cluster.detail(gang.id).await;
    assert!(
        says(&detail, "was interrupted (grown) and is not counted"),
        "{:#?}",
        detail.events
    );
    let late = gang.cluster.job(late).await;
    assert_eq!(late.state(), JobState::Queued, "{late:?}");
}
