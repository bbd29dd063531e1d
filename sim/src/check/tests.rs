//! A history that is right, and one with one thing wrong for each rule.

use std::path::PathBuf;

use marquee_domain::RankKey;
use marquee_domain::artifact::Digest;

use super::*;
use crate::faults::Fault;
use crate::history::{Artifact, Attempt, Need, RankRow};

fn life(job: i64, attempt: u32, rank: u32, from_to: (u64, u64)) -> Life {
    let key = RankKey::new(job, attempt, rank);
    Life {
        key,
        host: "worker-0".into(),
        world_size: 1,
        began_ms: from_to.0,
        ended: Some((from_to.1, Ended::Left(0))),
        said: vec![format!("begin {key}"), "line".into()],
    }
}

fn job(id: i64) -> Job {
    Job {
        id,
        pipeline_id: 1,
        array_job_id: None,
        array_index: None,
        array_size: None,
        state: "succeeded".into(),
        attempt: 1,
    }
}

fn rank(job: i64, attempt: u32, device: u32) -> RankRow {
    RankRow {
        job_id: job,
        attempt,
        rank: 0,
        worker: "worker-0".into(),
        devices: vec![Device::Cpu { index: device }],
        state: "finished".into(),
    }
}

fn attempt(job: i64, number: u32, state: &str) -> Attempt {
    Attempt {
        job_id: job,
        number,
        state: state.into(),
    }
}

fn artifact(job: i64, attempt: u32) -> Artifact {
    Artifact {
        job_id: job,
        attempt,
        files: Vec::new(),
    }
}

/// Jobs 1 and 2, of which 2 needs 1, one after the other on the same device.
fn right() -> History {
    let lives = vec![life(1, 1, 0, (100, 200)), life(2, 1, 0, (200, 300))];
    let said = |life: &Life| (key(life), life.said.clone());
    History {
        told: vec![Told::Submitted {
            request: "request-0".into(),
            pipeline: 1,
            jobs: vec![1, 2],
            count: 2,
        }],
        lines: lives.iter().map(said).collect(),
        lives,
        wrong: Vec::new(),
        pipelines: vec![Pipeline {
            id: 1,
            name: "pipeline-0".into(),
            request_id: "request-0".into(),
        }],
        jobs: BTreeMap::from([(1, job(1)), (2, job(2))]),
        arrays: Vec::new(),
        needs: vec![Need {
            job_id: 2,
            needs_job_id: 1,
        }],
        attempts: vec![attempt(1, 1, "succeeded"), attempt(2, 1, "succeeded")],
        ranks: vec![rank(1, 1, 0), rank(2, 1, 0)],
        artifacts: vec![artifact(1, 1), artifact(2, 1)],
        blobs: PathBuf::from("/nowhere"),
    }
}

/// The findings of a history that `change` has broken.
fn broken(change: impl FnOnce(&mut History)) -> Vec<String> {
    let mut history = right();
    change(&mut history);
    check(&history, true)
}

fn has(findings: &[String], words: &str) -> bool {
    findings.iter().any(|finding| finding.contains(words))
}

#[test]
fn a_right_history_has_no_finding() {
    assert_eq!(check(&right(), true), Vec::<String>::new());
}

#[test]
fn what_was_acknowledged_is_there_once() {
    let lost = broken(|h| h.pipelines.clear());
    assert!(has(&lost, "its pipeline 1 is not there"), "{lost:?}");
    let twice = broken(|h| {
        h.pipelines.push(Pipeline {
            id: 2,
            name: "pipeline-0".into(),
            request_id: "request-0 again".into(),
        });
    });
    assert!(has(&twice, "is there 2 times"), "{twice:?}");
    let anothers = broken(|h| h.pipelines[0].request_id = "request-01".into());
    assert!(
        has(&anothers, "given pipeline 1, which is of request-01"),
        "{anothers:?}"
    );
    let fewer = broken(|h| drop(h.jobs.remove(&2)));
    assert!(has(&fewer, "makes 2 jobs, and 1 are there"), "{fewer:?}");
}

/// Cancelled jobs: an array of four, of which two elements were jobs by then.
fn cancelled_array() -> History {
    let element = |id: i64| Job {
        array_job_id: (id > 1).then_some(1),
        array_index: (id > 1).then_some(id - 2),
        array_size: (id == 1).then_some(4),
        state: "cancelled".into(),
        attempt: 0,
        ..job(id)
    };
    let right = right();
    History {
        told: vec![Told::Submitted {
            request: "request-0".into(),
            pipeline: 1,
            jobs: vec![1],
            count: 5,
        }],
        jobs: (1..=3).map(|id| (id, element(id))).collect(),
        arrays: vec![Array {
            job_id: 1,
            size: 4,
            succeeded: 0,
            failed: 0,
            cancelled: 4,
            to_come: 0,
            dropped: 2,
        }],
        lives: Vec::new(),
        lines: BTreeMap::new(),
        needs: Vec::new(),
        attempts: Vec::new(),
        ranks: Vec::new(),
        artifacts: Vec::new(),
        ..right
    }
}

#[test]
fn the_elements_of_an_array_are_jobs_or_to_come_or_dropped_each_once() {
    let broken = |change: fn(&mut History)| {
        let mut history = cancelled_array();
        change(&mut history);
        check(&history, true)
    };
    assert_eq!(broken(|_| ()), Vec::<String>::new());
    let forgotten = broken(|h| h.arrays[0].dropped = 1);
    assert!(
        has(&forgotten, "makes 5 jobs, and 4 are there"),
        "{forgotten:?}"
    );
    assert!(
        has(&forgotten, "jobs of its own are [0, 1]"),
        "{forgotten:?}"
    );
    let twice = broken(|h| h.jobs.get_mut(&3).unwrap().array_index = Some(0));
    assert!(has(&twice, "jobs of its own are [0, 0]"), "{twice:?}");
    let miscounted = broken(|h| h.arrays[0].cancelled = 3);
    assert!(
        has(&miscounted, "counts [0, 0, 3]") && has(&miscounted, "there are [0, 0, 4]"),
        "{miscounted:?}"
    );
    let dropped = broken(|h| h.jobs.get_mut(&1).unwrap().state = "succeeded".into());
    assert!(
        has(&dropped, "were cancelled before they became jobs"),
        "{dropped:?}"
    );
    let cancelled_after_it_failed = |h: &mut History| {
        h.told.push(Told::Cancelled { job: 1, at_ms: 1 });
        h.jobs.get_mut(&1).unwrap().state = "failed".into();
        h.jobs.get_mut(&2).unwrap().state = "failed".into();
        (h.arrays[0].failed, h.arrays[0].cancelled) = (1, 3);
    };
    assert_eq!(broken(cancelled_after_it_failed), Vec::<String>::new());
    let mut history = cancelled_array();
    (history.arrays[0].dropped, history.arrays[0].to_come) = (0, 2);
    let unrest = check(&history, false);
    assert!(
        has(&unrest, "2 elements of array 1 never became jobs"),
        "{unrest:?}"
    );
}

#[test]
fn attempts_are_numbered_without_a_gap() {
    let gap = broken(|h| h.attempts[0].number = 2);
    assert!(has(&gap, "attempts [2], and it says that 1"), "{gap:?}");
}

#[test]
fn a_job_has_one_commit_and_it_is_its_newest_attempts() {
    let old = broken(|h| h.artifacts[0].attempt = 7);
    assert!(has(&old, "its artifact is of Some(7)"), "{old:?}");
    let twice = broken(|h| h.attempts.push(attempt(1, 2, "succeeded")));
    assert!(has(&twice, "[1, 2] say that they succeeded"), "{twice:?}");
    let cancelled = broken(|h| h.jobs.get_mut(&1).unwrap().state = "cancelled".into());
    assert!(
        has(&cancelled, "is cancelled, and has an artifact"),
        "{cancelled:?}"
    );
    let live = broken(|h| h.attempts.push(attempt(1, 2, "running")));
    assert!(has(&live, "its attempts [2] are live"), "{live:?}");
}

#[test]
fn what_succeeded_was_done_once_by_every_rank() {
    let killed = broken(|h| h.lives[0].ended = Some((200, Ended::Killed(9))));
    assert!(
        has(&killed, "its rank 0 ended as [Some(Killed(9))]"),
        "{killed:?}"
    );
    let missing = broken(|h| h.lives[0].world_size = 2);
    assert!(has(&missing, "its rank 1 ended as []"), "{missing:?}");
    let again = broken(|h| h.lives.push(life(1, 1, 0, (400, 500))));
    assert!(has(&again, "was started 2 times"), "{again:?}");
}

#[test]
fn a_result_is_there_and_is_the_attempts_own() {
    let folder = std::env::temp_dir().join(format!("marquee-sim-check-{}", std::process::id()));
    let with = |text: &str| {
        let digest = Digest::of(text.as_bytes());
        let place = folder.join(&digest.as_str()[..2]);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join(digest.as_str()), text).unwrap();
        broken(|h| {
            h.artifacts[0].files = vec![("result".into(), digest)];
            h.blobs = folder.clone();
        })
    };
    assert_eq!(with("1-1-0\n"), Vec::<String>::new());
    let other = with("1-2-0\n");
    assert!(has(&other, "its result is \"1-2-0\\n\""), "{other:?}");
    std::fs::remove_dir_all(&folder).unwrap();
    let gone = broken(|h| h.artifacts[0].files = vec![("result".into(), Digest::of(b"x"))]);
    assert!(has(&gone, "blob of result is not there"), "{gone:?}");
}

#[test]
fn a_device_has_one_child_at_a_time() {
    let overlap = broken(|h| h.lives[1].began_ms = 150);
    assert!(
        has(&overlap, "rank 2-1-0 began while rank 1-1-0 ran there"),
        "{overlap:?}"
    );
    let apart = broken(|h| {
        h.needs.clear();
        h.lives[1].began_ms = 150;
        h.ranks[1] = rank(2, 1, 1);
    });
    assert_eq!(apart, Vec::<String>::new());
    let elsewhere = broken(|h| h.ranks[0].worker = "worker-1".into());
    assert!(
        has(&elsewhere, "was given to worker-1, and ran on worker-0"),
        "{elsewhere:?}"
    );
    let unasked = broken(|h| drop(h.ranks.remove(0)));
    assert!(has(&unasked, "nobody gave it a device"), "{unasked:?}");
}

#[test]
fn each_line_is_stored_once() {
    let lost = broken(|h| drop(h.lines.get_mut(&(1, 1, 0)).unwrap().pop()));
    assert!(has(&lost, "(1, 1, 0) (finished) said"), "{lost:?}");
    let doubled = broken(|h| h.lines.get_mut(&(1, 1, 0)).unwrap().push("line".into()));
    assert!(has(&doubled, "(1, 1, 0) (finished) said"), "{doubled:?}");
}

#[test]
fn an_acknowledged_cancel_is_final_and_nothing_runs_on() {
    let cancelled = |h: &mut History| {
        h.told.push(Told::Cancelled { job: 2, at_ms: 250 });
        h.jobs.get_mut(&2).unwrap().state = "failed".into();
        h.attempts[1].state = "failed".into();
        h.artifacts.pop();
    };
    let failed = broken(cancelled);
    assert!(
        has(
            &failed,
            "the cancel of job 2 was acknowledged, and it is failed"
        ),
        "{failed:?}"
    );
    let back = broken(|h| {
        cancelled(h);
        h.told.push(Told::Retried { job: 2, at_ms: 400 });
    });
    assert_eq!(back, Vec::<String>::new());
    let runs = broken(|h| h.lives[1].ended = None);
    assert!(has(&runs, "rank 2-1-0 still runs on worker-0"), "{runs:?}");
}

#[test]
fn a_job_waits_for_what_it_needs() {
    let early = broken(|h| {
        h.lives[1].began_ms = 150;
        h.ranks[1] = rank(2, 1, 1);
    });
    assert!(has(&early, "job 2 began at 150 ms, and job 1"), "{early:?}");
}

#[test]
fn a_world_that_does_not_rest_says_what_is_open() {
    let mut history = right();
    history.jobs.get_mut(&2).unwrap().state = "queued".into();
    let open = check(&history, false);
    assert!(has(&open, "job 2 is still queued"), "{open:?}");
    assert!(has(&check(&right(), false), "no job is open"));
}

#[test]
fn only_what_was_cut_off_may_be_lost() {
    let line = " 20.500 head-0      ! worker lost: nothing was heard worker=x name=worker-1 jobs=0";
    let fault = |fault, begin_ms, end_ms| Planned {
        fault,
        begin_ms,
        end_ms,
    };
    assert_eq!(
        losses(line, &[fault(Fault::Hold(1), 9_000, 21_000)]),
        Vec::<String>::new()
    );
    for innocent in [
        vec![],
        vec![fault(Fault::Hold(0), 9_000, 21_000)],
        vec![fault(Fault::CoordinatorStoodStill(0), 9_000, 21_000)],
        vec![fault(Fault::Hold(1), 21_000, 22_000)],
    ] {
        assert_eq!(losses(line, &innocent).len(), 1, "{innocent:?}");
    }
}

#[test]
fn an_earlier_attempt_lives_on_only_where_its_worker_was_lost() {
    let mut history = right();
    history.lives[0].ended = Some((45_151, Ended::Killed(9)));
    let mut next = life(1, 2, 0, (150, 300));
    next.host = "worker-1".into();
    history.lives.push(next);
    let found = generations(&history, "");
    assert!(has(&found, "rank 1-2-0 began at 150 ms"), "{found:?}");
    let line = |at: &str, name: &str| {
        format!("  {at} head-0      ! worker lost: nothing was heard worker=x name={name} jobs=1")
    };
    let lost = line("0.120", "worker-0");
    assert_eq!(generations(&history, &lost), Vec::<String>::new());
    for other in [line("0.120", "worker-1"), line("0.200", "worker-0")] {
        assert_eq!(generations(&history, &other).len(), 1, "{other}");
    }
    history.lives[2].began_ms = 151;
    assert_eq!(generations(&history, ""), Vec::<String>::new());
}

#[test]
fn a_worker_that_was_given_a_device_twice_says_so() {
    let told = " 15.688 worker-2    ! a device was given to two ranks: the second waits until nothing is left of the other rank=21-1-0 device=Cpu { index: 1 } other=9-1-0";
    assert_eq!(given_twice(told).len(), 1);
    assert!(given_twice(&told.replace("two ranks", "a rank")).is_empty());
}
