//! When jobs end, as far as one can tell, and what is told of it.

use super::*;

fn with_limit(seconds: Option<u32>, job: OpenJob) -> OpenJob {
    OpenJob {
        spec: Some(Ok(JobSpec {
            timeout_s: seconds,
            ..spec()
        })),
        ..job
    }
}

fn began(id: i64, second: i64, limit: Option<u32>) -> OpenJob {
    with_limit(
        limit,
        OpenJob {
            started_at: Some(at(second)),
            ..running(id, 1)
        },
    )
}

fn sharing(job: OpenJob, change: impl FnOnce(&mut marquee_domain::spec::Sharing)) -> OpenJob {
    let mut changed = job.spec.unwrap().unwrap();
    change(&mut changed.sharing);
    OpenJob {
        spec: Some(Ok(changed)),
        ..job
    }
}

#[test]
fn a_time_limit_is_an_end_and_one_that_is_overdue_gets_a_quarter_more() {
    let open = open(vec![
        began(1, 0, Some(100)),
        began(2, 0, None),
        with_limit(Some(100), queued(3)),
    ]);
    let cases = [
        (1, 0, Some(100)),
        (1, 99, Some(100)),
        (1, 100, Some(125)),
        (1, 1_000, Some(1_025)),
        // Before it began, by a clock that was put back.
        (1, -500, Some(100)),
        (2, 0, None),
        // It does not run; there is no such job.
        (3, 0, None),
        (4, 0, None),
    ];
    for (job, now, end) in cases {
        assert_eq!(
            open.ends_at(JobId(job), at(now)),
            end.map(at),
            "job {job} at {now}"
        );
        let planned = open.planned_end(JobId(job), at(now));
        assert_eq!(
            planned,
            end.map(|end| (at(end), false)),
            "job {job} at {now}"
        );
    }
    let longest = super::open(vec![began(1, 0, Some(u32::MAX))]);
    assert!(longest.ends_at(JobId(1), at(0)).is_some());
}

#[test]
fn what_runs_over_gets_half_as_much_again_and_never_less_than_a_second() {
    let mut open = open(vec![began(1, 0, None)]);
    for _ in 0..9 {
        open.lengths
            .learn(Step::of(&spec()), TimeDelta::seconds(10));
    }
    let end = |now| open.expected_end(JobId(1), at(now)).unwrap();
    assert_eq!(end(0), (at(10), at(10), true));
    assert_eq!(end(9), (at(10), at(10), true));
    assert_eq!(end(10), (at(15), at(15), true));
    assert_eq!(end(100), (at(150), at(150), true));
    assert_eq!(open.expected_end(JobId(2), at(0)), None);
    // A run that takes no time is not over before it began.
    let mut quick = super::open(vec![began(1, 0, None)]);
    for _ in 0..9 {
        quick.lengths.learn(Step::of(&spec()), TimeDelta::zero());
    }
    assert_eq!(
        quick.expected_end(JobId(1), at(0)),
        Some((at(1), at(1), true))
    );
}

#[test]
fn a_job_of_which_nobody_knows_has_no_length() {
    let open = open(vec![began(1, 0, None), with_limit(Some(60), queued(2))]);
    assert_eq!(open.length(JobId(1)), None);
    assert_eq!(open.expected_end(JobId(1), at(0)), None);
    let limited = open.length(JobId(2)).unwrap();
    assert_eq!(
        (limited.half, limited.is_measured),
        (TimeDelta::seconds(60), false)
    );
    assert_eq!(open.length(JobId(3)), None);
}

#[test]
fn devices_of_a_project_come_back_with_the_first_of_its_jobs_that_has_a_limit() {
    let of = |id, limit, project: &str| {
        sharing(began(id, 0, limit), |sharing| {
            sharing.project = project.parse().unwrap()
        })
    };
    let open = open(vec![
        of(1, Some(300), "vision"),
        of(2, Some(200), "vision"),
        of(3, None, "vision"),
        of(4, Some(10), "speech"),
    ]);
    assert_eq!(open.frees_at("vision", at(0)), Some(at(200)));
    assert_eq!(
        open.frees_at("vision", at(250)),
        Some(at(300)),
        "the other is overdue"
    );
    assert_eq!(open.frees_at("nobody", at(0)), None);
}

#[test]
fn deadlines_are_of_queued_jobs_alone_and_come_in_their_order() {
    let due =
        |id: i64, second: i64| sharing(queued(id), |sharing| sharing.deadline = Some(at(second)));
    let mut open = open(vec![due(1, 30), due(2, 10), due(3, 20), queued(4)]);
    assert_eq!(open.next_deadline(), Some(at(10)));
    assert_eq!(open.overdue(at(9), 9), []);
    assert_eq!(
        open.overdue(at(20), 9),
        [(JobId(2), at(10)), (JobId(3), at(20))]
    );
    assert_eq!(
        open.overdue(at(99), 1),
        [(JobId(2), at(10))],
        "no more than asked for"
    );
    open.placed(JobId(2), [held(2, 1)], at(5));
    assert_eq!(
        open.next_deadline(),
        Some(at(20)),
        "its attempt sees to it now"
    );
    open.settled(JobId(3));
    open.replace(&ids(&[1]), Vec::new());
    assert_eq!(open.next_deadline(), None);
}

#[test]
fn a_promise_is_the_first_that_was_made_and_goes_with_its_job() {
    use crate::scheduler::{Host, plan};
    let gang = OpenJob {
        spec: Some(Ok(JobSpec {
            resources: Resources {
                ranks: 2,
                ..spec().resources
            },
            ..spec()
        })),
        ..queued(1)
    };
    let mut open = open(vec![gang]);
    let host = |ends_at: i64| Host {
        worker: worker(),
        name: "a".into(),
        accepting: true,
        closed: None,
        devices: (0..2).map(|index| Device::Cpu { index }).collect(),
        gpus: BTreeMap::new(),
        flavour: String::new(),
        labels: BTreeSet::new(),
        window: None,
        running: vec![crate::scheduler::Held {
            job: JobId(9),
            devices: vec![Device::Cpu { index: 0 }],
            ends_at: Some(at(ends_at)),
            is_measured: false,
        }],
    };
    let round = |open: &mut Open, ends_at| {
        let plan = plan(
            &open.queue,
            &[host(ends_at)],
            &open.limits(at(100)),
            at(100),
        );
        open.held_back(&plan.reservations);
        open.limits(at(100)).promised.get(&JobId(1)).copied()
    };
    assert_eq!(round(&mut open, 200), Some(at(200)));
    // What runs takes longer after all: it was said before, and that it is late must be known.
    assert_eq!(round(&mut open, 900), Some(at(200)));
    open.placed(JobId(1), [held(1, 1)], at(100));
    open.held_back(&[]);
    assert!(open.limits(at(100)).promised.is_empty());
}
