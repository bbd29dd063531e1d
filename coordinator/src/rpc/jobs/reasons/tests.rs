use std::collections::BTreeSet;

use marquee_domain::ids::{AttemptNumber, PipelineId};
use marquee_domain::resources::{Device, DeviceKind, Resources};
use marquee_domain::spec::{CommandSettings, JobSpec, NeedOn, Sharing, Work};
use marquee_store::jobs::ElementCounts;
use marquee_store::open::OpenJob;
use serde_json::json;
use uuid::Uuid;

use super::super::encode::tests::{at, running, stored};
use super::*;
use crate::scheduler::{Spent, plan};

fn spec(sharing: Sharing) -> JobSpec {
    JobSpec {
        name: "job".parse().unwrap(),
        work: Work::Command(CommandSettings {
            argv: vec!["true".into()],
            env: Default::default(),
            env_from_worker: Vec::new(),
        }),
        needs: Vec::new(),
        needs_on: Default::default(),
        inputs: Default::default(),
        resources: Resources {
            ranks: 2,
            min_ranks: None,
            device: DeviceKind::Cpu,
            devices_per_rank: 1,
        },
        priority: 0,
        max_attempts: 3,
        timeout_s: Some(600),
        reuse: true,
        array: None,
        may_fail: 0,
        element: None,
        values: Default::default(),
        watch: Default::default(),
        sharing,
    }
}

fn open_job(id: i64, sharing: Sharing) -> OpenJob {
    OpenJob {
        id: JobId(id),
        pipeline_id: PipelineId(1),
        element: None,
        to_come: 0,
        is_running: false,
        attempt: 0,
        priority: 0,
        queued_at: at(0),
        not_before: None,
        started_at: None,
        held: None,
        is_leaving: false,
        idle_since: None,
        preempted: (0, None),
        step: None,
        obstacle: None,
        spec: Some(Ok(spec(sharing))),
    }
}

fn runs(job: OpenJob) -> OpenJob {
    OpenJob {
        is_running: true,
        attempt: 1,
        started_at: Some(at(0)),
        ..job
    }
}

fn open(jobs: Vec<OpenJob>) -> Open {
    let mut open = Open::default();
    open.replace(&BTreeSet::new(), jobs);
    open
}

fn host(slots: u32) -> Host {
    Host {
        worker: marquee_domain::ids::WorkerId(Uuid::from_u128(1)),
        name: "a".into(),
        accepting: true,
        closed: None,
        devices: (0..slots).map(|index| Device::Cpu { index }).collect(),
        gpus: Default::default(),
        flavour: String::new(),
        labels: Default::default(),
        window: None,
        running: Vec::new(),
    }
}

/// What is said of a queued job.
fn said_of(open: &Open, hosts: &[Host], job: Job) -> String {
    let limits = open.limits(at(1));
    let shape_of = |job| Some(open.job(job)?.shape);
    let explainer = Explainer::new(hosts, &limits, &open.reservations, shape_of, at(1));
    queued(open, &explainer, &mut BTreeMap::new(), &job, at(1))
}

fn elements(succeeded: u32) -> Option<ElementCounts> {
    Some(ElementCounts {
        succeeded,
        queued: 4,
        ..ElementCounts::default()
    })
}

#[test]
fn what_waits_names_its_needs_and_an_array_how_far_it_is() {
    let waiting = |waits_for: &[(&str, NeedOn)], elements| Job {
        state: JobState::Waiting {
            reason: "as stored".into(),
        },
        waits_for: waits_for
            .iter()
            .map(|(name, on)| (name.parse().unwrap(), *on))
            .collect(),
        elements,
        ..stored(1)
    };
    let reason = |job| encode_with(job, String::new()).reason;
    assert_eq!(
        reason(waiting(&[("fetch", NeedOn::Succeeded)], None)),
        "waits for \"fetch\" to succeed"
    );
    assert_eq!(
        reason(waiting(&[], elements(3))),
        "3 of 7 elements have succeeded"
    );
    assert_eq!(
        reason(waiting(&[("fetch", NeedOn::Succeeded)], elements(0))),
        "waits for \"fetch\" to succeed",
        "an array that has not begun waits like any other"
    );
    // Its needs end this very moment: it is said that it waits, and not for what.
    assert_eq!(reason(waiting(&[], None)), "waits for its needs");
}

#[test]
fn who_holds_a_job_is_said_of_what_can_still_be_held_and_before_all_else() {
    let held = |state: JobState, elements| Job {
        state,
        elements,
        held: Some(("anna".into(), at(61))),
        ..stored(4)
    };
    let by = "held since 2027-01-15 08:01:01 UTC by anna; \"marquee release 4\" lets it go";
    let queued = || stored(4).state;
    let waiting = || JobState::Waiting {
        reason: String::new(),
    };
    let ended = || JobState::Succeeded {
        attempt: AttemptNumber(1),
        finished_at: at(70),
    };
    let cases = [
        (held(queued(), None), by.to_owned()),
        (held(waiting(), None), format!("{by}; waits for its needs")),
        (
            held(waiting(), elements(1)),
            format!("{by}; 1 of 5 elements have succeeded"),
        ),
        // What runs goes on, whoever holds its array; the array itself starts no more.
        (held(running(), None), String::new()),
        (held(running(), elements(1)), by.to_owned()),
        (held(ended(), None), String::new()),
        (held(ended(), elements(1)), String::new()),
    ];
    for (job, reason) in cases {
        let name = job.state.name();
        assert_eq!(encode_with(job, String::new()).reason, reason, "{name:?}");
    }
}

#[test]
fn a_queued_job_that_no_round_has_read_says_what_is_stored() {
    let with = |obstacle: Option<serde_json::Value>| Job {
        obstacle,
        ..stored(1)
    };
    let nobody = open(Vec::new());
    let said = |obstacle| said_of(&nobody, &[], with(obstacle));
    assert_eq!(said(None), "");
    assert_eq!(
        said(Some(json!({ "class": "turn" }))),
        "as many as may run at a time were running"
    );
    // Of a later version, or damaged: nothing is better than a guess.
    for odd in [
        json!({ "class": "later" }),
        json!(null),
        json!([1]),
        json!({ "class": "busy" }),
    ] {
        assert_eq!(said(Some(odd)), "");
    }
    // It runs by now, as far as is known here: the row was read a moment earlier.
    let runs = open(vec![runs(open_job(1, Sharing::default()))]);
    assert_eq!(said_of(&runs, &[], with(None)), "");
    // And words that a round made are not lost by what is empty.
    let mut kept = stored(1);
    kept.state = JobState::Queued {
        reason: "as stored".into(),
        not_before: None,
    };
    assert_eq!(encode_with(kept.clone(), String::new()).reason, "as stored");
    assert_eq!(encode_with(kept, "newer".into()).reason, "newer");
}

#[test]
fn times_are_said_before_devices_and_forgotten_when_they_have_passed() {
    let mut delayed = open_job(1, Sharing::default());
    delayed.not_before = Some(at(60));
    let before = open(vec![delayed.clone()]);
    assert_eq!(
        said_of(&before, &[], stored(1)),
        "the next attempt starts at 08:01:00 UTC, after a back-off"
    );
    let later = open(vec![open_job(
        1,
        Sharing {
            start_after: Some(at(120)),
            ..Sharing::default()
        },
    )]);
    assert_eq!(
        said_of(&later, &[], stored(1)),
        "starts after 2027-01-15 08:02:00 UTC, as its document says"
    );
    delayed.not_before = Some(at(-60));
    let mut passed = open(vec![delayed]);
    passed.queue.wake(at(1));
    assert_eq!(
        said_of(&passed, &[], stored(1)),
        "no worker is online; start one with \"marquee-worker\""
    );
}

#[test]
fn a_turn_names_those_that_have_it_and_not_all_of_a_crowd() {
    let key = |key: &str| Sharing {
        concurrency_key: Some(key.into()),
        ..Sharing::default()
    };
    let one = open(vec![
        runs(open_job(1, key("k"))),
        open_job(2, key("k")),
        open_job(3, key("other")),
    ]);
    assert_eq!(
        said_of(&one, &[], stored(2)),
        "one job of concurrency key \"k\" runs at a time: waits for job 1"
    );
    assert!(said_of(&one, &[], stored(3)).starts_with("no worker is online"));

    let at_once = Sharing {
        at_once: Some(5),
        ..Sharing::default()
    };
    let element = |id: i64, index: u32| OpenJob {
        element: Some((JobId(100), index)),
        ..open_job(id, at_once.clone())
    };
    let mut jobs: Vec<OpenJob> = (1..=5).map(|id| runs(element(id, 0))).collect();
    jobs.push(element(6, 5));
    let full = open(jobs.clone());
    assert_eq!(
        said_of(&full, &[], stored(6)),
        "at most 5 elements run at a time (at_once): waits for job 1, job 2, job 3 and others"
    );
    jobs.remove(0);
    let one_left = open(jobs);
    assert!(said_of(&one_left, &[], stored(6)).starts_with("no worker is online"));
}

#[test]
fn what_is_set_aside_says_so_and_how_it_comes_back() {
    let mut aside = open(vec![
        open_job(1, Sharing::default()),
        open_job(2, Sharing::default()),
    ]);
    aside
        .aside
        .keep_job_out(JobId(1), "index out of bounds".into(), at(0));
    let said = said_of(&aside, &[], stored(1));
    assert!(
        said.contains("index out of bounds") && said.contains("MQ0503"),
        "{said}"
    );
    assert!(said.contains("tried again every 5 minutes"), "{said}");
    assert!(said_of(&aside, &[], stored(2)).starts_with("no worker is online"));
}

#[test]
fn a_twin_is_named_with_the_way_to_run_all_the_same() {
    let step = marquee_domain::artifact::Digest::of(b"step");
    let at_step = |id| OpenJob {
        step: Some(step.clone()),
        ..open_job(id, Sharing::default())
    };
    let mut open = Open::default();
    open.workers = vec![marquee_store::workers::Worker {
        id: marquee_domain::ids::WorkerId(Uuid::from_u128(1)),
        name: "a".into(),
        state: marquee_store::workers::WorkerState::Online,
        version: "1".into(),
        inventory: Err("not looked at here".into()),
        prep_code: "one code".into(),
        last_seen_at: at(0),
        standing: Ok(Default::default()),
    }];
    open.replace(&BTreeSet::new(), vec![at_step(1), at_step(2)]);
    assert_eq!(
        said_of(&open, &[], stored(2)),
        "job 1 is at the same step; its result will be taken (\"reuse = false\" runs it all the same)"
    );
}

#[test]
fn devices_that_are_held_back_for_a_job_are_said_with_how_sure_that_is() {
    let hosts = |ends_at, is_measured| {
        let mut host = host(2);
        host.running.push(crate::scheduler::Held {
            job: JobId(9),
            devices: vec![Device::Cpu { index: 0 }],
            ends_at,
            is_measured,
        });
        [host]
    };
    let cases = [
        (
            None,
            false,
            "devices are held back for it as they come free",
        ),
        (
            Some(at(300)),
            false,
            "devices are held back for it: it starts by 2027-01-15 08:05:00 UTC at the latest, by the time limits of what runs",
        ),
        (
            Some(at(300)),
            true,
            "devices are held back for it: it starts by 2027-01-15 08:05:00 UTC if what runs takes no longer than its like did before",
        ),
    ];
    for (ends_at, is_measured, words) in cases {
        let hosts = hosts(ends_at, is_measured);
        let mut open = open(vec![
            open_job(1, Sharing::default()),
            open_job(2, Sharing::default()),
        ]);
        let round = plan(&open.queue, &hosts, &open.limits(at(90)), at(90));
        open.held_back(&round.reservations);
        assert_eq!(kept_for(&open, JobId(1)).as_deref(), Some(words));
        assert_eq!(kept_for(&open, JobId(2)), None);
        let said = said_of(&open, &hosts, stored(1));
        assert!(
            said.starts_with("needs 2 cpu devices, 1 of 2 are free"),
            "{said}"
        );
        assert!(said.ends_with(words), "{said}");
    }
}

#[test]
fn only_quotas_of_devices_are_given_a_time_here() {
    let devices = AtOnce {
        used: 1,
        quota: 1,
        frees_at: None,
    };
    let when = Some(at(60));
    let timed = |hit| timed(hit, when);
    assert_eq!(
        timed(QuotaHit::Gpus(devices)),
        QuotaHit::Gpus(AtOnce {
            frees_at: when,
            ..devices
        })
    );
    assert_eq!(
        timed(QuotaHit::CpuSlots(devices)),
        QuotaHit::CpuSlots(AtOnce {
            frees_at: when,
            ..devices
        })
    );
    // Those of a week know by themselves when they age.
    let hours = QuotaHit::GpuHours(Spent {
        used_hours: 2.0,
        quota_hours: 1.0,
        frees_at: None,
    });
    assert_eq!(timed(hours), hours);
}
