use chrono::TimeDelta;
use marquee_domain::ids::{AttemptNumber, Rank};
use marquee_domain::resources::{Device, DeviceKind, Resources};
use marquee_domain::spec::{CommandSettings, Work};
use marquee_store::open::{HeldRank, OpenJob};
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::draw::Draw;

mod elements;
mod odd;
mod times;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn spec() -> JobSpec {
    JobSpec {
        name: "job".parse().unwrap(),
        work: Work::Command(CommandSettings {
            argv: vec!["true".into()],
            env: BTreeMap::new(),
            env_from_worker: Vec::new(),
        }),
        needs: Vec::new(),
        needs_on: Default::default(),
        inputs: BTreeMap::new(),
        resources: Resources {
            ranks: 1,
            min_ranks: None,
            device: DeviceKind::Cpu,
            devices_per_rank: 1,
        },
        priority: 0,
        max_attempts: 3,
        timeout_s: None,
        reuse: true,
        array: None,
        may_fail: 0,
        element: None,
        values: Default::default(),
        watch: Default::default(),
        sharing: Default::default(),
    }
}

fn queued(id: i64) -> OpenJob {
    OpenJob {
        id: JobId(id),
        pipeline_id: PipelineId(1),
        element: None,
        to_come: 0,
        is_running: false,
        attempt: 0,
        priority: 0,
        queued_at: at(id),
        not_before: None,
        started_at: None,
        held: None,
        is_leaving: false,
        idle_since: None,
        preempted: (0, None),
        step: None,
        obstacle: None,
        spec: Some(Ok(spec())),
    }
}

fn element(id: i64, array: i64, index: u32) -> OpenJob {
    OpenJob {
        element: Some((JobId(array), index)),
        spec: None,
        ..queued(id)
    }
}

fn running(id: i64, attempt: u32) -> OpenJob {
    OpenJob {
        is_running: true,
        attempt,
        ..queued(id)
    }
}

fn worker() -> WorkerId {
    WorkerId(Uuid::from_u128(7))
}

fn held(job: i64, attempt: u32) -> HeldRank {
    HeldRank {
        key: RankKey {
            job: JobId(job),
            attempt: AttemptNumber(attempt),
            rank: Rank(0),
        },
        worker: worker(),
        devices: vec![Device::Cpu {
            index: u32::try_from(job).unwrap(),
        }],
        project: "default".into(),
    }
}

fn ids(jobs: &[i64]) -> BTreeSet<JobId> {
    jobs.iter().copied().map(JobId).collect()
}

fn open(read: Vec<OpenJob>) -> Open {
    let mut open = Open::default();
    open.replace(&BTreeSet::new(), read);
    open
}

fn pending(open: &Open) -> BTreeSet<JobId> {
    open.queue.iter().map(|job| job.job).collect()
}

/// A worker that says which code it has: without one code for all, nobody's result stands for another's.
fn with_code(open: &mut Open, codes: &[&str]) {
    let worker = |code: &&str| Worker {
        id: worker(),
        name: "w".into(),
        state: WorkerState::Online,
        version: "1".into(),
        inventory: Err("not looked at here".into()),
        prep_code: (*code).into(),
        last_seen_at: at(0),
        standing: Ok(Default::default()),
    };
    open.workers = codes.iter().map(worker).collect();
}

fn at_step(id: i64, step: &str) -> OpenJob {
    OpenJob {
        step: Some(Digest::of(step.as_bytes())),
        ..queued(id)
    }
}

#[test]
fn of_two_jobs_at_one_step_the_second_waits_and_is_named_when_the_first_leaves() {
    let mut open = Open::default();
    with_code(&mut open, &["a"]);
    open.replace(
        &ids(&[]),
        vec![at_step(1, "s"), at_step(2, "s"), at_step(3, "other")],
    );
    assert_eq!(pending(&open), ids(&[1, 3]));
    assert_eq!(open.job(JobId(2)).unwrap().twin, Some(JobId(1)));

    // It goes on in another state: the step is still its.
    let again = OpenJob {
        is_running: true,
        ..at_step(1, "s")
    };
    assert_eq!(open.replace(&ids(&[1]), vec![again]), []);
    assert_eq!(pending(&open), ids(&[3]));
    // It is gone: who had waited is named, and lines up when nobody's result stands for its own.
    assert_eq!(open.replace(&ids(&[1]), Vec::new()), [JobId(2)]);
    open.without_twin(JobId(2));
    assert_eq!(pending(&open), ids(&[2, 3]));
    assert_eq!(open.job(JobId(2)).unwrap().twin, None);
}

#[test]
fn nobody_waits_for_a_twin_without_one_code_for_all_or_with_reuse_off() {
    for codes in [&[][..], &[""], &["a", "b"]] {
        let mut open = Open::default();
        with_code(&mut open, codes);
        open.replace(&ids(&[]), vec![at_step(1, "s"), at_step(2, "s")]);
        assert_eq!(pending(&open), ids(&[1, 2]), "{codes:?}");
    }
    let mut open = Open::default();
    with_code(&mut open, &["a"]);
    let alone = JobSpec {
        reuse: false,
        ..spec()
    };
    let alone = OpenJob {
        spec: Some(Ok(alone)),
        ..at_step(2, "s")
    };
    open.replace(&ids(&[]), vec![at_step(1, "s"), alone]);
    assert_eq!(pending(&open), ids(&[1, 2]));
}

#[test]
fn a_step_learnt_later_makes_twins_too() {
    let mut open = open(vec![queued(1), queued(2)]);
    with_code(&mut open, &["a"]);
    let step = Digest::of(b"s");
    open.learn_step(JobId(1), step.clone());
    open.learn_step(JobId(2), step);
    assert_eq!(pending(&open), ids(&[1]));
    assert_eq!(open.job(JobId(2)).unwrap().twin, Some(JobId(1)));
}

#[test]
fn what_is_stored_of_a_line_is_known_by_job_and_once_for_an_array() {
    let blocked = json!({ "class": "busy" });
    let with = |obstacle: Option<serde_json::Value>, job: OpenJob| OpenJob { obstacle, ..job };
    let mut open = Open::default();
    open.learn_spec(JobId(10), spec());
    open.replace(
        &ids(&[]),
        vec![
            queued(1),
            with(Some(blocked.clone()), queued(2)),
            element(11, 10, 0),
            element(12, 10, 1),
        ],
    );
    let line = open.queue.get(JobId(1)).unwrap().line();
    assert_eq!(open.unlike(line, "busy", 9), [JobId(1), JobId(10)]);
    assert_eq!(
        open.unlike(line, "busy", 1),
        [JobId(1)],
        "no more than asked for"
    );
    open.told(line, "busy", &[JobId(1)]);
    assert_eq!(open.unlike(line, "busy", 9), [JobId(10)]);
    open.told(line, "busy", &[JobId(10)]);
    assert_eq!(open.unlike(line, "busy", 9), []);
    assert_eq!(
        open.unlike(line, "too big", 9),
        [JobId(1), JobId(2), JobId(10)]
    );
    // A newcomer is not like the others, and one element's leaving takes nothing from the rest.
    open.replace(&ids(&[3]), vec![queued(3)]);
    open.replace(&ids(&[11]), Vec::new());
    assert_eq!(open.unlike(line, "busy", 9), [JobId(3)]);
    open.replace(&ids(&[1, 2, 3, 10]), Vec::new());
    assert_eq!(open.unlike(line, "busy", 9), []);
    assert!(
        open.told.is_empty(),
        "nothing is kept of a line without jobs"
    );
}

#[test]
fn what_is_held_is_known_by_host_and_by_job_and_let_go_of_as_it_was_taken() {
    let mut open = Open::default();
    open.learn_spec(JobId(10), spec());
    open.replace(&ids(&[]), vec![queued(1), element(11, 10, 0)]);
    open.placed(JobId(1), [held(1, 1)], at(100));
    open.placed(JobId(11), [held(11, 1)], at(100));
    assert!(open.holds_any(&ids(&[1])) && open.holds_any(&ids(&[10])));
    assert!(!open.holds_any(&ids(&[2])));
    assert_eq!(open.running().collect::<BTreeSet<_>>(), ids(&[1, 11]));
    assert_eq!(open.job(JobId(1)).unwrap().attempt, 1);
    assert!(open.queue.is_empty());
    // An old attempt's rank may hold devices beside the new one's.
    open.replace_held(&ids(&[1]), vec![held(1, 1), held(1, 2)]);
    assert_eq!(open.held_on(worker()).count(), 3);
    open.replace_held(&ids(&[1, 11]), Vec::new());
    assert_eq!(open.held_on(worker()).count(), 0);
    assert!(!open.holds_any(&ids(&[1, 10, 11])));
}

#[test]
fn a_job_that_runs_with_an_unreadable_spec_is_known_to_run_until_it_ends() {
    let unreadable = OpenJob {
        spec: Some(Err("of a later version".into())),
        ..running(1, 1)
    };
    let lost = OpenJob {
        is_running: true,
        ..element(3, 99, 0)
    };
    let waiting = OpenJob {
        spec: Some(Err("of a later version".into())),
        ..queued(2)
    };
    let all = vec![unreadable, waiting.clone(), lost];
    let mut open = open(all.clone());
    assert_eq!(open.running().collect::<BTreeSet<_>>(), ids(&[1, 3]));
    assert!(open.queue.is_empty());
    let all: Vec<OpenJob> = all.into_iter().filter(|job| job.id != waiting.id).collect();
    assert_eq!(
        open.reconcile(all, Vec::new(), &ids(&[])),
        [] as [String; 0]
    );
    let gone = open.reconcile(Vec::new(), Vec::new(), &ids(&[]));
    assert_eq!(
        gone,
        [
            "job 1 is running here and not open",
            "job 3 is running here and not open"
        ]
    );
    assert_eq!(open.running().count(), 0);
}

#[test]
fn every_difference_from_postgres_is_named_and_put_right() {
    let mut open = open(vec![queued(1), queued(2), queued(3)]);
    open.placed(JobId(3), [held(3, 1)], at(100));
    let stored = vec![queued(1), running(2, 1), queued(4)];
    let differences = open.reconcile(stored.clone(), vec![held(2, 1)], &ids(&[]));
    assert_eq!(
        differences,
        [
            "job 2 is queued at attempt 0 here and running at attempt 1 in Postgres",
            "job 3 is running here and not open",
            "job 4 is open and not known here",
            "rank 0 of job 2 attempt 1 holds devices in Postgres alone",
            "rank 0 of job 3 attempt 1 holds devices here alone",
        ]
    );
    assert_eq!(pending(&open), ids(&[1, 4]));
    assert_eq!(open.running().collect::<BTreeSet<_>>(), ids(&[2]));
    assert_eq!(open.held_on(worker()).count(), 1);
    assert_eq!(
        open.reconcile(stored, vec![held(2, 1)], &ids(&[])),
        [] as [String; 0]
    );
}

#[test]
fn what_changed_while_everything_was_read_is_no_difference() {
    let mut open = Open::default();
    open.learn_spec(JobId(10), spec());
    open.replace(&ids(&[]), vec![queued(1), element(11, 10, 0)]);
    open.placed(JobId(1), [held(1, 1)], at(100));
    // Job 1 was read before it was placed; array 10 was cancelled after it was read.
    let read = vec![queued(1)];
    assert_eq!(
        open.reconcile(read, Vec::new(), &ids(&[1, 10])),
        [] as [String; 0]
    );
    assert_eq!(open.running().collect::<BTreeSet<_>>(), ids(&[1]));
    assert_eq!(pending(&open), ids(&[11]));
}

/// Jobs without a time limit are planned by what their like took, once enough of them have ended; those that wait
/// already too.
#[test]
fn what_is_planned_by_follows_from_runs_that_ended() {
    let mut open = Open::default();
    let limited = OpenJob {
        spec: Some(Ok(JobSpec {
            timeout_s: Some(600),
            ..spec()
        })),
        ..queued(3)
    };
    let began = |seconds| OpenJob {
        started_at: Some(at(seconds)),
        ..running(2, 1)
    };
    open.replace(&BTreeSet::new(), vec![queued(1), began(0), limited]);
    assert_eq!(open.planned_end(JobId(2), at(10)), None);
    for _ in 0..5 {
        open.lengths
            .learn(Step::of(&spec()), TimeDelta::seconds(100));
    }
    open.renew_lengths();
    let shape = |open: &Open, job| open.queue.get(JobId(job)).unwrap().shape;
    assert_eq!(shape(&open, 1).expected_s, Some(104));
    // A time limit is what counts where there is one.
    assert_eq!(
        (shape(&open, 3).limit_s, shape(&open, 3).expected_s),
        (Some(600), None)
    );
    // One that comes later is looked up when it comes.
    open.replace(&ids(&[4]), vec![queued(4)]);
    assert_eq!(shape(&open, 4), shape(&open, 1));
    assert_eq!(open.planned_end(JobId(2), at(10)), Some((at(104), true)));
    // It takes longer, and is given half as much again as it has had.
    assert_eq!(open.planned_end(JobId(2), at(200)), Some((at(300), true)));
    assert_eq!(open.planned_end(JobId(1), at(10)), None, "it does not run");
}

/// What Postgres would hold, in the smallest form.
#[derive(Default)]
struct Stored {
    jobs: BTreeMap<i64, OpenJob>,
    held: BTreeMap<i64, Vec<HeldRank>>,
}

impl Stored {
    fn of(&self, touched: &BTreeSet<JobId>) -> (Vec<OpenJob>, Vec<HeldRank>) {
        let named = |job: &&OpenJob| {
            touched.contains(&job.id)
                || job
                    .element
                    .is_some_and(|(array, _)| touched.contains(&array))
        };
        let jobs: Vec<OpenJob> = self.jobs.values().filter(named).cloned().collect();
        let held = self.held.iter().filter(|(job, _)| {
            touched.contains(&JobId(**job)) || jobs.iter().any(|read| read.id == JobId(**job))
        });
        let held = held.flat_map(|(_, held)| held.clone()).collect();
        (jobs, held)
    }
}

/// However transactions follow each other, and however late their jobs are read, what is kept is what reading
/// everything would give.
#[test]
fn what_is_kept_by_changes_is_what_reading_everything_gives() {
    for seed in 0..200 {
        let mut draw = Draw(seed);
        let mut stored = Stored::default();
        let mut open = Open::default();
        open.learn_spec(JobId(1000), spec());
        let mut touched = BTreeSet::new();
        let mut next = 1;
        for _ in 0..60 {
            let some = stored.jobs.keys().copied().nth(draw.below(8) as usize);
            match (draw.below(6), some) {
                (0 | 1, _) | (_, None) => {
                    let job = if draw.below(3) == 0 {
                        element(next, 1000, u32::try_from(next).unwrap())
                    } else {
                        queued(next)
                    };
                    stored.jobs.insert(next, job);
                    touched.insert(JobId(next));
                    next += 1;
                }
                // Placed: by this index itself, or (as after a restart) by what is read.
                (2, Some(id)) if !stored.jobs[&id].is_running => {
                    let job = stored.jobs.get_mut(&id).unwrap();
                    job.is_running = true;
                    job.attempt += 1;
                    let rank = held(id, job.attempt);
                    stored.held.entry(id).or_default().push(rank.clone());
                    if draw.below(2) == 0 && !touched.contains(&JobId(id)) {
                        open.placed(JobId(id), [rank], at(100));
                    } else {
                        touched.insert(JobId(id));
                    }
                }
                // Queued again, with devices that are let go of later.
                (3, Some(id)) if stored.jobs[&id].is_running => {
                    stored.jobs.get_mut(&id).unwrap().is_running = false;
                    touched.insert(JobId(id));
                }
                (4, Some(id)) => {
                    stored.held.remove(&id);
                    touched.insert(JobId(id));
                }
                (_, Some(id)) => {
                    stored.jobs.remove(&id);
                    stored.held.remove(&id);
                    touched.insert(JobId(id));
                }
            }
            if draw.below(5) < 2 {
                let (jobs, held) = stored.of(&touched);
                open.replace(&touched, jobs);
                open.replace_held(&touched, held);
                touched.clear();
                open.learn_spec(JobId(1000), spec());
            }
        }
        let (jobs, held) = stored.of(&touched);
        open.replace(&touched, jobs);
        open.replace_held(&touched, held);

        let all: Vec<OpenJob> = stored.jobs.values().cloned().collect();
        let all_held: Vec<HeldRank> = stored.held.values().flatten().cloned().collect();
        let mut fresh = Open::default();
        fresh.learn_spec(JobId(1000), spec());
        fresh.replace(&BTreeSet::new(), all.clone());
        assert_eq!(open.queue, fresh.queue, "seed {seed}");
        assert_eq!(open.elements, fresh.elements, "seed {seed}");
        let differences = open.reconcile(all, all_held, &BTreeSet::new());
        assert_eq!(differences, [] as [String; 0], "seed {seed}");
    }
}

#[test]
fn one_that_is_put_off_stands_in_no_line_until_its_time_and_is_lined_up_by_its_row() {
    let backs_off = OpenJob {
        not_before: Some(at(30)),
        ..queued(4)
    };
    let mut open = open(vec![queued(1), queued(2), running(3, 1), backs_off]);
    // One that runs, one whose own time is later, and one that nobody knows.
    for job in [1, 3, 4, 9] {
        open.put_off(JobId(job), at(10));
    }
    let not_before = |open: &Open, job| open.job(JobId(job)).unwrap().not_before;
    assert_eq!(not_before(&open, 1), Some(at(10)));
    assert_eq!(not_before(&open, 3), None);
    assert_eq!(not_before(&open, 4), Some(at(30)));
    assert_eq!(pending(&open), ids(&[1, 2, 4]), "it is queued all the same");
    assert_eq!(open.queue.wake(at(9)), Some(at(10)));
    assert!(open.queue.get(JobId(1)).unwrap().not_before.is_some());
    assert_eq!(open.queue.wake(at(10)), Some(at(30)));
    assert_eq!(open.queue.get(JobId(1)).unwrap().not_before, None);
    // Put off again, further; then its row is read, which knows nothing of that.
    open.put_off(JobId(1), at(20));
    open.put_off(JobId(1), at(15));
    assert_eq!(not_before(&open, 1), Some(at(20)));
    open.replace(&ids(&[1]), vec![queued(1)]);
    assert_eq!(not_before(&open, 1), None);
    // What is kept in memory is no difference from what is stored.
    open.put_off(JobId(2), at(40));
    let read = vec![queued(1), queued(2), running(3, 1), queued(4)];
    assert!(open.reconcile(read, vec![], &BTreeSet::new()).is_empty());
    open.placed(JobId(2), [], at(41));
    assert_eq!(not_before(&open, 2), None);
}
