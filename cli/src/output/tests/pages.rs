//! What every view looks like on a terminal: the proof that a change of a view or of the drawing
//! changes no answer that it should not.

use chrono::{DateTime, Utc};
use marquee_domain::doctor::{Check, Report};
use marquee_domain::zoo;
use marquee_proto::convert::timestamp;
use marquee_proto::v1::{self, Artifact, Job, JobDetail, JobKind, JobState, MetricPoint, Worker};
use marquee_view::artifacts::Artifacts;
use marquee_view::coordinators::Coordinators;
use marquee_view::doctor::Reports;
use marquee_view::explain::Explanation;
use marquee_view::gpus::Gpus;
use marquee_view::metrics::Metrics;
use marquee_view::models::Models;
use marquee_view::report::Summary;
use marquee_view::workers::Workers;
use marquee_view::{Page, View, job, pipeline, samples};
use serde_json::json;

use crate::output::terminal::draw;

fn drawn(view: &impl View, now: DateTime<Utc>, width: Option<u16>) -> String {
    draw(&Page::of(view, now), false, width)
}

fn explain(detail: &JobDetail, needs: &[Job]) -> String {
    drawn(&Explanation { detail, needs }, samples::now(), None)
}

#[test]
fn a_failed_job_says_why_and_what_to_do() {
    insta::assert_snapshot!(explain(&samples::failed_train(), &[]), @r#"
    job    17 train of p3 posters
    state  failed

    Why
    It failed (out_of_memory): rank 1 was killed: the host's memory ran out; lower batch_size
    It was rank 1 on worker-2.
    It was tried 2 times, as often as it may be.

    ATTEMPT  STATE                          RAN  RANK  WORKER    DEVICES  RANK STATE  FAILURE
          1  failed                        50 s     0  worker-1  cpu 0    stopped     lost_worker: worker "worker-2" was not heard from for 10 s
                                                    1  worker-2  cpu 0    running
          2  failed (from step 1,200)  1 m 05 s     0  worker-1  cpu 0    stopped
                                                    1  worker-2  cpu 0    failed      out_of_memory: rank 1 was killed: the host's memory ran out; lower batch_size

    What to do
    Lower batch_size, or ask for more ranks: each rank holds its share of the batch.
    marquee logs 17 --tail 50   shows its last words
    marquee retry 17   tries again, with the jobs that waited for it
    "#);
}

#[test]
fn a_waiting_job_names_what_it_needs() {
    let jobs = samples::pipeline().jobs;
    let detail = JobDetail {
        job: Some(jobs[2].clone()),
        ..JobDetail::default()
    };
    insta::assert_snapshot!(explain(&detail, &jobs[1..2]), @r#"
    job    17 train of p3 posters
    state  waiting

    Why
    It waits for "preprocess" to succeed.
    It needs preprocess (job 16), which is running.

    What to do
    marquee explain 16   says more about preprocess
    "#);
}

#[test]
fn a_queued_job_gives_the_stored_reason() {
    let job = Job {
        reason: "needs 4 GPUs at once; 2 of worker gpu-03's are free in about 3 m".into(),
        ..samples::job(18, "train", JobKind::Train, JobState::Queued)
    };
    let detail = JobDetail {
        job: Some(job),
        ..JobDetail::default()
    };
    insta::assert_snapshot!(explain(&detail, &[]), @r#"
    job    18 train of p3 posters
    state  queued

    Why
    It could run and does not yet: needs 4 GPUs at once; 2 of worker gpu-03's are free in about 3 m.

    What to do
    marquee workers   shows what each host has and does
    "#);
}

#[test]
fn a_job_shows_its_facts_attempts_and_events() {
    let text = drawn(&job::Job(&samples::failed_train()), samples::now(), None);
    insta::assert_snapshot!(text, @r#"
    job       17 train
    kind      train
    pipeline  p3 posters
    state     failed
    detail    attempt 2/2, out_of_memory: rank 1 was killed: the host's memory ran out; lower batch_size
    needs     preprocess
    attempts  2 of at most 2
    ranks     2
    priority  0
    created   2027-01-15T07:55:00.000Z
    started   2027-01-15T07:57:40.000Z
    finished  2027-01-15T07:58:45.000Z

    Attempts
    ATTEMPT  STATE                          RAN  RANK  WORKER    DEVICES  RANK STATE  FAILURE
          1  failed                        50 s     0  worker-1  cpu 0    stopped     lost_worker: worker "worker-2" was not heard from for 10 s
                                                    1  worker-2  cpu 0    running
          2  failed (from step 1,200)  1 m 05 s     0  worker-1  cpu 0    stopped
                                                    1  worker-2  cpu 0    failed      out_of_memory: rank 1 was killed: the host's memory ran out; lower batch_size

    Events (UTC)
    07:55:00  submitted
    07:56:39  attempt 1: placed on worker-1 and worker-2
    07:57:30  attempt 1: failed (lost_worker): worker "worker-2" was not heard from for 10 s
    07:57:39  attempt 2: placed on worker-1 and worker-2
    07:58:45  attempt 2: failed (out_of_memory): rank 1 was killed
    "#);
}

#[test]
fn a_train_job_that_ended_says_what_held_it_up() {
    let mut detail = samples::failed_train();
    let summary = |rank: u32, all_reduce_s: f64| marquee_domain::report::TrainSummary {
        rank,
        phases: marquee_domain::report::PhaseTimes {
            step_s: 10.0,
            forward_s: 3.0,
            backward_s: 7.0 - all_reduce_s,
            all_reduce_s,
            ..Default::default()
        },
        ..Default::default()
    };
    let ranks = &mut detail.attempts.last_mut().unwrap().ranks;
    for (rank, all_reduce_s) in [(0, 4.0), (1, 0.2)] {
        ranks[rank as usize].summary_json =
            serde_json::to_string(&summary(rank, all_reduce_s)).unwrap();
    }
    let text = drawn(&job::Job(&detail), samples::now(), None);
    assert!(text.contains("speed     straggler: rank 1 takes 1.6x as long as the others"));
}

#[test]
fn a_pipeline_shows_its_jobs_in_order() {
    let text = drawn(
        &pipeline::Pipeline(&samples::pipeline()),
        samples::now(),
        None,
    );
    insta::assert_snapshot!(text, @r#"
    pipeline  p3 posters
    created   2027-01-15T07:55:00.000Z

    ID  PIPELINE    NAME        KIND        STATE      ATTEMPT    RAN  AGE  DETAIL
    15  p3 posters  fetch       fetch       succeeded      1/3   50 s  5 m
    16  p3 posters  preprocess  preprocess  running        1/3  4.0 s  5 m  resize 1,200/3,000 images (40 %), 300 images/s, 6 s left
    17  p3 posters  train       train       waiting        0/3         5 m  waits for "preprocess" to succeed
    "#);
}

#[test]
fn the_summary_sets_scores_beside_ceiling_and_baselines_and_shows_where_time_went() {
    let text = drawn(&samples::summary(), samples::now(), None);
    insta::assert_snapshot!(text, @r#"
    Pipeline p3 posters
    ID  PIPELINE    NAME        KIND        STATE      ATTEMPT    RAN  AGE  DETAIL
    15  p3 posters  fetch       fetch       succeeded      1/3   50 s  5 m
    16  p3 posters  preprocess  preprocess  running        1/3  4.0 s  5 m  resize 1,200/3,000 images (40 %), 300 images/s, 6 s left
    17  p3 posters  train       train       waiting        0/3         5 m  waits for "preprocess" to succeed

    Data
    fetched 2,990 of 3,000 (190.0 MiB), 4 gone, not usable 6 (no_poster 6)
    2,987 of 2,990 pictures in 2 classes: 2,091 train, 448 validation, 448 test; skipped 3 (truncated 1, undecodable 2)

    eval: quality of simple-cnn (trained by train) on 450 synthetic test pictures of preprocess (generated, never to be set beside real ones), 2 classes
    THRESHOLD                    MICRO F1   95 % INTERVAL  WEIGHTED F1  MACRO F1
    0.5                             0.680                        0.660     0.650
    0.25                            0.710                        0.690     0.680
    per class, tuned (headline)     0.740  0.710 to 0.770        0.720     0.710
    ceiling of this source          0.831
    baseline: every class           0.370                        0.370
    baseline: by prevalence         0.245                        0.245

    train: training of simple-cnn at 512 images/s on 2 ranks (gloo), 340 steps, 83,456 parameters
    WHERE THE TIME WENT        RANK 0        RANK 1
    input                 1.2 s   3 %   1.2 s   3 %
    forward              14.0 s  33 %  14.0 s  33 %
    backward             22.5 s  54 %  22.5 s  54 %
    all-reduce            3.0 s   7 %   3.0 s   7 %
    optimizer             0.8 s   2 %   0.8 s   2 %
    checkpoint            0.2 s   0 %   0.2 s   0 %
    other                 0.3 s   1 %   0.3 s   1 %
    all steps            42.0 s        42.0 s
    validation            4.4 s         4.4 s
    46.4 s in all: 91 % steps, 9 % validation
    compute-bound: 89 % of the step computes; only faster devices, more ranks or a lower precision would help
    "#);
}

#[test]
fn a_pipeline_of_two_models_shows_both_and_takes_no_leak_for_a_score() {
    let text = drawn(&samples::two_models(), samples::now(), None);
    let (_, evals) = text.split_once("\n\nEvaluations").unwrap();
    insta::assert_snapshot!(evals, @"
    EVAL               MODEL                  TRAINED BY    TEST PICTURES  MICRO F1   95 % INTERVAL  THRESHOLD
    eval-from-scratch  simple-cnn             from-scratch            450     0.740  0.710 to 0.770  per class, tuned
    eval-fine-tune     tf_efficientnet_lite0  fine-tune               450   no test
    these are of different test pictures: their figures do not compare

    eval-from-scratch: quality of simple-cnn (trained by from-scratch) on 450 synthetic test pictures of preprocess (generated, never to be set beside real ones), 2 classes
    THRESHOLD                    MICRO F1   95 % INTERVAL  WEIGHTED F1  MACRO F1
    0.5                             0.680                        0.660     0.650
    0.25                            0.710                        0.690     0.680
    per class, tuned (headline)     0.740  0.710 to 0.770        0.720     0.710
    ceiling of this source          0.831
    baseline: every class           0.370                        0.370
    baseline: by prevalence         0.245                        0.245

    eval-fine-tune: quality of tf_efficientnet_lite0 (trained by fine-tune) on 450 synthetic test pictures of preprocess (generated, never to be set beside real ones), 2 classes
    WARNING: leak: of 450 test pictures the model was trained on 189; evaluate elsewhere
    THRESHOLD                MICRO F1   95 % INTERVAL  WEIGHTED F1  MACRO F1
    0.5                         0.970                        0.660     0.650
    0.25                        0.710                        0.690     0.680
    per class, tuned            0.740  0.710 to 0.770        0.720     0.710
    ceiling of this source      0.831
    baseline: every class       0.370                        0.370
    baseline: by prevalence     0.245                        0.245
    there is no headline: of 450 test pictures the model was trained on 189

    from-scratch: training of simple-cnn at 512 images/s on 2 ranks (gloo), 340 steps, 83,456 parameters
    WHERE THE TIME WENT        RANK 0        RANK 1
    input                 1.2 s   3 %   1.2 s   3 %
    forward              14.0 s  33 %  14.0 s  33 %
    backward             22.5 s  54 %  22.5 s  54 %
    all-reduce            3.0 s   7 %   3.0 s   7 %
    optimizer             0.8 s   2 %   0.8 s   2 %
    checkpoint            0.2 s   0 %   0.2 s   0 %
    other                 0.3 s   1 %   0.3 s   1 %
    all steps            42.0 s        42.0 s
    validation            4.4 s         4.4 s
    46.4 s in all: 91 % steps, 9 % validation
    compute-bound: 89 % of the step computes; only faster devices, more ranks or a lower precision would help

    fine-tune: training of tf_efficientnet_lite0 at 928 images/s with the passes for features, 47324 in steps alone, on 2 ranks (gloo), 340 steps, 83,456 parameters
    WHERE THE TIME WENT        RANK 0        RANK 1
    input                 0.0 s   0 %   0.0 s   0 %
    forward               0.7 s  78 %   0.7 s  78 %
    backward              0.0 s   0 %   0.0 s   0 %
    all-reduce            0.0 s   0 %   0.0 s   0 %
    optimizer             0.0 s   0 %   0.0 s   0 %
    checkpoint            0.1 s  17 %   0.1 s  17 %
    other                 0.1 s   6 %   0.1 s   6 %
    all steps             0.9 s         0.9 s
    validation            0.2 s         0.2 s
    features, once       45.0 s        45.0 s
    48.0 s in all: 94 % features of frozen networks, 2 % steps, 4 % start and end
    features-bound: 94 % of the job computes features of frozen networks (3921 passes, 87 a second); more ranks or faster devices would help, and feature_cache spares it to later jobs
    features: computed once: 3,921 passes over 2,145 pictures in 45.0 s, 11.5 ms each; steps were then 38 times as fast as with the frozen networks in them
    ");
}

#[test]
fn without_scores_none_are_invented() {
    let empty = Summary {
        fetches: Vec::new(),
        preprocesses: Vec::new(),
        evals: Vec::new(),
        trainings: Vec::new(),
        ..samples::summary()
    };
    let text = drawn(&empty, DateTime::UNIX_EPOCH, None);
    assert!(text.contains("no eval job has succeeded yet"));
    assert!(empty.json(samples::now())["f1_micro"].is_null());
}

#[test]
fn coordinators_show_who_leads_and_who_would_take_over() {
    let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    let one = |address: &str, seconds| v1::Coordinator {
        address: address.into(),
        version: "0.1.0".into(),
        since: Some(timestamp(now - chrono::TimeDelta::seconds(seconds))),
        ..v1::Coordinator::default()
    };
    let leads = v1::Coordinator {
        leads: true,
        ..one("https://head-1:7700", 7_300)
    };
    let other = v1::Coordinator {
        other_storage: true,
        ..one("https://head-3:7700", 3)
    };
    let mut all = v1::ListCoordinatorsResponse {
        coordinators: vec![leads, one("https://head-2:7700", 40), other],
        epoch: 7,
        leader: "https://head-1:7700".into(),
        leaderless: false,
    };
    insta::assert_snapshot!(drawn(&Coordinators(&all), now, None));
    assert_eq!(
        Coordinators(&all).json(now)["leader"],
        "https://head-1:7700"
    );
    all.leaderless = true;
    all.coordinators.clear();
    let text = drawn(&Coordinators(&all), now, None);
    assert!(
        text.contains("nobody leads just now; the last one was https://head-1:7700"),
        "{text}"
    );
    assert!(Coordinators(&all).json(now)["leader"].is_null());
}

#[test]
fn workers_show_their_devices_and_what_runs_on_them() {
    let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    let gpu = |index| v1::Gpu {
        index,
        name: "Tesla K80".into(),
        memory_bytes: 12 << 30,
        ..v1::Gpu::default()
    };
    let device = v1::Device {
        kind: Some(v1::device::Kind::Gpu(1)),
    };
    let busy = Worker {
        name: "gpu-03".into(),
        state: v1::WorkerState::Online.into(),
        last_seen_at: Some(timestamp(now - chrono::TimeDelta::seconds(2))),
        inventory: Some(v1::Inventory {
            cpu_slots: 1,
            threads_per_slot: 8,
            memory_bytes: 64 << 30,
            gpus: vec![gpu(0), gpu(1)],
            flavour: "libtorch-2.11.0".into(),
            ..v1::Inventory::default()
        }),
        ranks: vec![v1::RunningRank {
            job_id: 17,
            job_name: "train".into(),
            attempt: 1,
            rank: 1,
            devices: vec![device],
        }],
        ..Worker::default()
    };
    let lost = Worker {
        name: "gpu-04".into(),
        state: v1::WorkerState::Lost.into(),
        ..Worker::default()
    };
    let text = drawn(&Workers(&[busy, lost]), now, None);
    insta::assert_snapshot!(text, @r#"
    NAME    STATE      SEEN  DEVICES                                           BUSY    MEMORY  FLAVOUR          RUNS
    gpu-03  online  2 s ago  1 cpu (8 threads each), 2 x Tesla K80 (12.0 GiB)   1/3  64.0 GiB  libtorch-2.11.0  17 train rank 1 on gpu 1
    gpu-04  lost                                                                0/0       0 B
    "#);
}

fn gpus(width: u16) -> String {
    drawn(&Gpus(&samples::gpu_workers()), samples::now(), Some(width))
}

#[test]
fn gpus_show_what_their_driver_tells() {
    insta::assert_snapshot!(gpus(160));
}

#[test]
fn a_terminal_of_eighty_columns_is_not_overrun() {
    let page = gpus(80);
    let tables = page.split("Not offered").next().unwrap_or_default();
    assert!(
        tables.lines().all(|line| line.chars().count() <= 80),
        "{page}"
    );
    for words in ["gpu-04", "marquee-trainer", "2505/2505"] {
        assert!(page.contains(words), "{words} in {page}");
    }
}

fn report_artifact() -> Artifact {
    Artifact {
        digest: "5a3cf0918d22".repeat(6)[..64].into(),
        name: "report".into(),
        job_id: 18,
        job_name: "eval".into(),
        pipeline_id: 3,
        attempt: 1,
        size_bytes: 1_300_000,
        committed_at: Some(timestamp(samples::now() - chrono::TimeDelta::minutes(4))),
        file_count: 2,
        manifest: None,
        damaged: String::new(),
    }
}

#[test]
fn artifacts_are_listed_by_digest() {
    let text = drawn(&Artifacts(&[report_artifact()]), samples::now(), None);
    insta::assert_snapshot!(text, @r#"
    DIGEST        NAME       SIZE  FILES  JOB      PIPELINE  AGE
    5a3cf0918d22  report  1.2 MiB      2  18 eval  p3        4 m
    "#);
}

#[test]
fn metrics_are_summed_up_by_name_and_rank() {
    let point = |rank, name: &str, step, value| MetricPoint {
        attempt: 1,
        rank,
        name: name.into(),
        step,
        value,
        at: None,
    };
    let points = [
        point(0, "train/loss", 10, 0.7),
        point(1, "train/loss", 10, 0.72),
        point(0, "train/loss", 20, 0.51),
        point(0, "validation/f1_micro", 20, 0.4),
    ];
    let text = drawn(&Metrics(&points), DateTime::UNIX_EPOCH, None);
    insta::assert_snapshot!(text, @r#"
    METRIC               RANK  POINTS  STEP  LAST   MIN   MAX  NEWEST, OLDEST FIRST
    train/loss              0       2    20  0.51  0.51   0.7  0.7 0.51
    train/loss              1       1    10  0.72  0.72  0.72  0.72
    validation/f1_micro     0       1    20   0.4   0.4   0.4  0.4
    "#);
}

#[test]
fn a_report_on_a_narrow_terminal_keeps_its_columns() {
    let report = Report {
        program: "marquee-worker".into(),
        version: "0.1.0".into(),
        checks: vec![
            Check::ok("marquee-prep", "marquee-prep 0.1.0"),
            Check::failed(
                "gpu 0",
                "Tesla K80, 11.2 GiB, compute capability 3.7, but its trainer is libtorch 2.11.0, which needs 7.5",
                "install the kepler flavour (docs/deploy.md)",
            ),
            Check::skipped("nccl", "no GPU: ranks speak over Gloo"),
        ],
    };
    let reports = Reports(vec![report]);
    let text = drawn(&reports, DateTime::from_timestamp(0, 0).unwrap(), Some(80));
    insta::assert_snapshot!(text);
    assert_eq!(reports.ids(), ["gpu 0"]);
    assert_eq!(
        reports.json(samples::now())[0]["checks"][1]["verdict"],
        "failed"
    );
}

#[test]
fn models_show_what_they_cost_and_where_their_weights_are() {
    let names = ["simple-cnn", "Xception", "resnet50"];
    let models = Models(names.map(|name| zoo::find(name).unwrap()).into());
    let text = drawn(&models, DateTime::UNIX_EPOCH, None);
    insta::assert_snapshot!(text);
    assert_eq!(models.ids(), ["simple-cnn", "legacy_xception", "resnet50"]);
    let json = models.json(samples::now());
    assert_eq!(json[2]["flops"], 8_178_368_512_u64);
    assert_eq!(json[1]["mean"], json!([0.5, 0.5, 0.5]));
}
