//! The index under odd words: said twice, too late, of what is not there, and by very many.

use marquee_domain::spec::HostRules;

use super::*;

#[test]
fn words_that_come_twice_or_of_nobody_change_nothing() {
    let mut open = open(vec![queued(1)]);
    open.settled(JobId(9));
    open.without_twin(JobId(9));
    open.learn_step(JobId(9), Digest::of(b"s"));
    open.asked_to_leave(&[JobId(9)]);
    open.placed(JobId(9), [], at(0));
    assert_eq!(pending(&open), ids(&[1]));
    assert_eq!(open.running().count(), 0);
    open.settled(JobId(1));
    open.settled(JobId(1));
    assert!(open.queue.is_empty() && open.job(JobId(1)).is_none());
    assert_eq!(open.replace(&ids(&[1, 9]), Vec::new()), []);
}

#[test]
fn what_is_touched_is_read_once_and_what_could_not_be_read_is_given_back() {
    let index = Index::default();
    assert_eq!(index.take_touched(), Touched::default());
    index.touch([JobId(1), JobId(2)]);
    index.touch([JobId(2)]);
    index.touch_unsure([JobId(3)]);
    index.touch_succeeded([JobId(4)]);
    index.touch_workers();
    index.touch_projects();
    let touched = index.take_touched();
    assert_eq!(
        (touched.jobs.clone(), touched.unsure.clone()),
        (ids(&[1, 2, 3]), ids(&[3]))
    );
    assert_eq!(touched.succeeded, ids(&[4]));
    assert!(touched.workers && touched.projects);
    assert_eq!(index.touched(), Touched::default(), "it counts as read");
    index.touch(touched.jobs);
    assert_eq!(index.touched().jobs, ids(&[1, 2, 3]));
}

#[test]
fn who_avoids_workers_is_forgotten_with_success_and_in_a_crowd() {
    let index = Index::default();
    let other = WorkerId(Uuid::from_u128(8));
    index.avoid(JobId(1), []);
    assert!(index.avoided(JobId(1)).is_empty());
    index.avoid(JobId(1), [worker()]);
    index.avoid(JobId(1), [other, worker()]);
    assert_eq!(index.avoided(JobId(1)), BTreeSet::from([worker(), other]));
    index.touch_succeeded([JobId(1)]);
    assert!(index.avoided(JobId(1)).is_empty());
    let most = i64::try_from(AVOIDING_MAX).unwrap();
    for job in 1..=most + 5 {
        index.avoid(JobId(job), [worker()]);
    }
    assert_eq!(lock(&index.avoided).len(), AVOIDING_MAX);
    assert!(index.avoided(JobId(5)).is_empty(), "the oldest go first");
    assert!(!index.avoided(JobId(most + 5)).is_empty());
}

#[test]
fn one_code_counts_only_of_workers_that_are_here() {
    let mut open = Open::default();
    let code = |open: &Open| open.common_code().map(str::to_owned);
    assert_eq!(code(&open), None);
    with_code(&mut open, &["a", "b"]);
    assert_eq!(code(&open), None);
    // The one with the other code is lost, or has left.
    for state in [WorkerState::Lost, WorkerState::Left] {
        open.workers[1].state = state;
        assert_eq!(code(&open).as_deref(), Some("a"));
    }
    open.workers[0].state = WorkerState::Lost;
    assert_eq!(code(&open), None, "nobody is here");
    with_code(&mut open, &["a", ""]);
    assert_eq!(code(&open), None, "one that does not say may have any");
}

#[test]
fn held_jobs_stand_in_no_line_and_come_back_when_they_are_let_go() {
    let kept = OpenJob {
        held: Some(("anna".into(), at(0))),
        ..queued(1)
    };
    let mut open = open(vec![kept, queued(2)]);
    assert_eq!(pending(&open), ids(&[2]));
    open.replace(&ids(&[1]), vec![queued(1)]);
    assert_eq!(pending(&open), ids(&[1, 2]));
}

#[test]
fn jobs_give_way_only_where_somebody_higher_waits() {
    let gives_way = |id: i64, priority: i32| {
        let mut spec = spec();
        spec.sharing.preemptible = true;
        OpenJob {
            spec: Some(Ok(spec)),
            priority,
            started_at: Some(at(10)),
            preempted: (3, Some(at(0).date_naive())),
            ..running(id, 1)
        }
    };
    let waiting = |priority: i32| OpenJob {
        priority,
        ..queued(5)
    };
    let mut open = open(vec![gives_way(1, 0), gives_way(2, 4), running(3, 1)]);
    assert!(open.may_give_way(at(20)).is_empty(), "nobody waits");
    open.replace(&ids(&[5]), vec![waiting(0)]);
    assert!(open.may_give_way(at(20)).is_empty(), "nobody higher");
    open.replace(&ids(&[5]), vec![waiting(3)]);
    assert_eq!(open.may_give_way(at(20)), [JobId(1)]);
    open.replace(&ids(&[5]), vec![waiting(5)]);
    assert_eq!(
        open.may_give_way(at(20)),
        [JobId(1), JobId(2)],
        "job 3 never does"
    );
    // What it would lose counts from its newest checkpoint, and not from one before it began.
    open.saved_at.insert(JobId(1), at(15));
    open.saved_at.insert(JobId(2), at(5));
    let limits = open.limits(at(20));
    let saved: Vec<_> = limits.preemptible.iter().map(|job| job.saved_at).collect();
    assert_eq!(saved, [at(15), at(10)]);
    let times: Vec<u32> = limits
        .preemptible
        .iter()
        .map(|job| job.times_today)
        .collect();
    assert_eq!(times, [3, 3]);
    let tomorrow = open.limits(at(86_400));
    assert!(tomorrow.preemptible.iter().all(|job| job.times_today == 0));
    open.asked_to_leave(&[JobId(2)]);
    assert!(open.limits(at(20)).leaving.contains(&JobId(2)));
    assert_eq!(
        open.staying_on(worker()),
        [],
        "they hold nothing that is known here"
    );
}

#[test]
fn who_stays_on_a_worker_is_who_runs_there_and_was_not_asked_to_leave() {
    let mut open = open(vec![running(1, 1), running(2, 1), queued(3)]);
    open.replace_held(&ids(&[]), vec![held(1, 1), held(2, 1), held(3, 1)]);
    assert_eq!(open.staying_on(worker()), [JobId(1), JobId(2)]);
    open.asked_to_leave(&[JobId(1)]);
    assert_eq!(open.staying_on(worker()), [JobId(2)]);
    assert_eq!(open.staying_on(WorkerId(Uuid::from_u128(99))), []);
    assert_eq!(open.workers_of(JobId(3)).collect::<Vec<_>>(), [worker()]);
    assert_eq!(open.workers_of(JobId(9)).count(), 0);
}

#[test]
fn rules_of_hosts_are_kept_once_for_as_long_as_a_job_names_them() {
    let wants = |id: i64, label: &str| {
        let mut spec = spec();
        spec.sharing.hosts = HostRules {
            labels: BTreeSet::from([label.to_owned()]),
            ..HostRules::default()
        };
        OpenJob {
            spec: Some(Ok(spec)),
            ..queued(id)
        }
    };
    let mut open = open(vec![
        wants(1, "ib"),
        wants(2, "ib"),
        wants(3, "nvme"),
        queued(4),
    ]);
    let rules = |open: &Open, job| open.job(JobId(job)).unwrap().shape.rules;
    assert_eq!(rules(&open, 1), rules(&open, 2));
    assert_ne!(rules(&open, 1), rules(&open, 3));
    assert_eq!(rules(&open, 4), RulesId::NONE);
    assert_eq!(open.limits(at(0)).rules.len(), 2);
    open.replace(&ids(&[1, 3]), Vec::new());
    let left = open.limits(at(0)).rules;
    assert_eq!(left.keys().collect::<Vec<_>>(), [&rules(&open, 2)]);
    open.settled(JobId(2));
    assert!(open.limits(at(0)).rules.is_empty());
}

#[test]
fn a_key_is_free_once_nothing_of_its_job_is_left_on_a_host() {
    let keyed = |job: OpenJob| {
        let mut spec = spec();
        spec.sharing.concurrency_key = Some("k".into());
        OpenJob {
            spec: Some(Ok(spec)),
            ..job
        }
    };
    let mut open = open(vec![keyed(queued(1)), keyed(queued(2))]);
    let group = open.job(JobId(2)).unwrap().group;
    let left = |open: &Open| open.limits(at(0)).groups[&group];
    assert_eq!(left(&open), 1);
    open.placed(JobId(1), [held(1, 1)], at(0));
    assert_eq!(left(&open), 0);
    // It has ended, and its program is still being stopped.
    open.settled(JobId(1));
    assert_eq!(
        (left(&open), open.running_of(group, 9)),
        (0, vec![JobId(1)])
    );
    open.replace_held(&ids(&[1]), Vec::new());
    assert_eq!((left(&open), open.running_of(group, 9)), (1, vec![]));
    open.settled(JobId(2));
    assert!(open.limits(at(0)).groups.is_empty());
}

#[test]
fn what_is_set_aside_comes_back_after_its_time_and_all_at_once() {
    let open = open(vec![queued(1), queued(2), queued(3)]);
    let shape = open.job(JobId(1)).unwrap().shape;
    let mut aside = Aside::default();
    assert!(aside.without(&open.queue).is_none(), "nothing is kept out");
    aside.keep_job_out(JobId(2), "a fault".into(), at(0));
    let left = aside.without(&open.queue).unwrap();
    assert_eq!(
        left.iter().map(|job| job.job).collect::<BTreeSet<_>>(),
        ids(&[1, 3])
    );
    assert_eq!(aside.why(JobId(2), shape), Some("a fault"));
    assert_eq!(aside.why(JobId(1), shape), None);
    // Later faults do not put off the try of the first.
    aside.keep_shape_out(shape, "all of them".into(), at(200));
    assert!(aside.without(&open.queue).unwrap().is_empty());
    assert_eq!(
        aside.why(JobId(2), shape),
        Some("a fault"),
        "its own reason says more"
    );
    aside.let_in(at(299));
    assert!(aside.why(JobId(1), shape).is_some());
    aside.let_in(at(300));
    assert!(aside.why(JobId(1), shape).is_none() && aside.without(&open.queue).is_none());
}

#[test]
fn two_words_of_one_rank_hold_its_devices_once() {
    let mut open = open(vec![running(1, 1)]);
    open.replace_held(&ids(&[]), vec![held(1, 1)]);
    open.replace_held(&ids(&[]), vec![held(1, 1), held(1, 1)]);
    assert_eq!(open.held_on(worker()).count(), 1);
    open.replace_held(&ids(&[1]), Vec::new());
    assert_eq!(open.held_on(worker()).count(), 0);
    assert!(!open.holds_any(&ids(&[1])));
}
