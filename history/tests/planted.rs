//! The checker against histories that are right, and against one broken line for each rule.

use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_domain::ids::{AttemptNumber, JobId, PipelineId, WorkerId};
use marquee_domain::job::{AttemptStateName, JobStateName, RankState};
use marquee_domain::rank::RankKey;
use marquee_domain::resources::Device;
use marquee_history::{
    Checker, Event, Finding, Limits, MissingFile, Report, Rule, StoredJob, StoredPipeline,
    StoredRank, What,
};
use uuid::Uuid;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("a time in 2027")
}

fn worker(number: u128) -> WorkerId {
    WorkerId(Uuid::from_u128(number))
}

fn granted(key: (i64, u32, u32), on: u128, slot: u32) -> What {
    What::Granted {
        key: RankKey::new(key.0, key.1, key.2),
        worker: worker(on),
        devices: vec![Device::Cpu { index: slot }],
    }
}

fn released(key: (i64, u32, u32), on: u128, state: RankState) -> What {
    What::Released {
        key: RankKey::new(key.0, key.1, key.2),
        worker: worker(on),
        state,
    }
}

fn started(job: i64, attempt: u32) -> What {
    What::Started {
        job: JobId(job),
        attempt: AttemptNumber(attempt),
    }
}

fn rank_started(job: i64, attempt: u32, rank: u32) -> What {
    What::RankStarted {
        key: RankKey::new(job, attempt, rank),
    }
}

fn reported(job: i64, attempt: u32, from: u64, to: u64) -> What {
    What::Reported {
        key: RankKey::new(job, attempt, 0),
        from,
        to,
    }
}

fn ended(job: i64, attempt: u32, state: AttemptStateName) -> What {
    What::AttemptEnded {
        job: JobId(job),
        attempt: AttemptNumber(attempt),
        state,
    }
}

fn committed(job: i64, attempt: u32) -> What {
    What::Committed {
        job: JobId(job),
        attempt: AttemptNumber(attempt),
        digest: "5a3c".into(),
    }
}

fn job_ended(job: i64, state: JobStateName) -> What {
    What::JobEnded {
        job: JobId(job),
        state,
    }
}

fn submitted(pipeline: i64, request: &str) -> What {
    What::Submitted {
        pipeline: PipelineId(pipeline),
        request_id: request.into(),
    }
}

fn added(pipeline: i64, jobs: u64) -> What {
    What::Added {
        pipeline: PipelineId(pipeline),
        jobs,
    }
}

fn lost(number: u128, heard: i64) -> What {
    What::WorkerLost {
        worker: worker(number),
        heard_at: Some(at(heard)),
    }
}

/// A history that keeps every rule, with what is stored at its end.
#[derive(Clone)]
struct History {
    /// With the second and the epoch under which each was written.
    lines: Vec<(i64, i64, What)>,
    pipelines: Vec<StoredPipeline>,
    jobs: Vec<StoredJob>,
    ranks: Vec<StoredRank>,
    missing: Vec<MissingFile>,
    now: i64,
}

/// Job 1 loses its first attempt with its worker and commits the second. Job 2 is a gang that commits. Job 3 is
/// cancelled in mid-run, and retried later. Job 4 is an array that commits without ranks.
fn good() -> History {
    let online = |number| What::WorkerOnline {
        worker: worker(number),
    };
    let lines = vec![
        (0, 0, What::Began { last_job: JobId(0) }),
        (0, 1, What::Leader { epoch: 1 }),
        (1, 1, online(1)),
        (1, 1, online(2)),
        (2, 1, submitted(1, "a")),
        (2, 1, added(1, 4)),
        (3, 1, granted((1, 1, 0), 1, 0)),
        (3, 1, granted((2, 1, 0), 2, 0)),
        (3, 1, granted((2, 1, 1), 2, 1)),
        (4, 1, rank_started(1, 1, 0)),
        (4, 1, started(2, 1)),
        (5, 1, rank_started(2, 1, 0)),
        (5, 1, rank_started(2, 1, 1)),
        (6, 1, reported(2, 1, 1, 3)),
        (7, 1, reported(2, 1, 4, 4)),
        (20, 1, What::WorkerHeard { worker: worker(1) }),
        (31, 1, lost(1, 20)),
        (31, 1, ended(1, 1, AttemptStateName::Failed)),
        (32, 1, granted((1, 2, 0), 2, 2)),
        (33, 1, online(1)),
        (33, 1, released((1, 1, 0), 1, RankState::Stopped)),
        (34, 1, released((2, 1, 0), 2, RankState::Finished)),
        (35, 1, released((2, 1, 1), 2, RankState::Finished)),
        (35, 1, committed(2, 1)),
        (36, 1, granted((3, 1, 0), 1, 0)),
        (36, 1, rank_started(3, 1, 0)),
        (37, 1, What::CancelAsked { job: JobId(3) }),
        (40, 2, What::Leader { epoch: 2 }),
        (41, 2, released((3, 1, 0), 1, RankState::Stopped)),
        (41, 2, ended(3, 1, AttemptStateName::Cancelled)),
        (41, 2, job_ended(3, JobStateName::Cancelled)),
        (42, 2, released((1, 2, 0), 2, RankState::Finished)),
        (42, 2, committed(1, 2)),
        (43, 2, What::Revived { job: JobId(3) }),
        (44, 2, granted((3, 2, 0), 1, 0)),
        (45, 2, released((3, 2, 0), 1, RankState::Finished)),
        (45, 2, committed(3, 2)),
        (46, 2, committed(4, 1)),
        (60, 2, What::WorkerLeft { worker: worker(2) }),
        // Whoever is shut out may have been heard a moment ago.
        (60, 2, online(3)),
        (61, 2, What::WorkerShutOut { worker: worker(3) }),
    ];
    let stored = |id, attempt| StoredJob {
        id: JobId(id),
        state: JobStateName::Succeeded,
        attempt,
    };
    History {
        lines,
        pipelines: vec![StoredPipeline {
            id: PipelineId(1),
            jobs: 4,
        }],
        jobs: vec![stored(1, 2), stored(2, 1), stored(3, 2), stored(4, 1)],
        ranks: vec![StoredRank {
            key: RankKey::new(2, 1, 0),
            last_sequence: 4,
            highest_row: 3,
        }],
        missing: Vec::new(),
        now: 300,
    }
}

impl History {
    fn check(&self, quiet: bool) -> Report {
        let mut checker = Checker::new(Limits {
            lease: Duration::from_secs(10),
            slack: Duration::from_secs(1),
            let_go: Duration::from_secs(100),
        });
        for (number, (seconds, epoch, what)) in (1..).zip(&self.lines) {
            checker.event(&Event {
                number,
                at: at(*seconds),
                epoch: Some(*epoch),
                what: what.clone(),
            });
        }
        self.pipelines.iter().for_each(|p| checker.pipeline(p));
        self.jobs.iter().for_each(|job| checker.job(job));
        self.ranks.iter().for_each(|rank| checker.rank(rank));
        self.missing.iter().for_each(|file| checker.missing(file));
        checker.finish(at(self.now), quiet)
    }

    fn place(&self, what: &What) -> usize {
        let found = self.lines.iter().position(|(_, _, line)| line == what);
        found.unwrap_or_else(|| panic!("there is no line {what:?}"))
    }

    /// Puts a line behind another one, at its time.
    fn after(mut self, before: &What, what: What) -> Self {
        let place = self.place(before);
        let (seconds, epoch, _) = self.lines[place];
        self.lines.insert(place + 1, (seconds, epoch, what));
        self
    }

    fn without(mut self, what: &What) -> Self {
        let place = self.place(what);
        self.lines.remove(place);
        self
    }

    fn instead(mut self, of: &What, what: What) -> Self {
        let place = self.place(of);
        self.lines[place].2 = what;
        self
    }
}

/// One broken line, or one thing stored otherwise, for each rule.
fn planted(rule: Rule) -> History {
    let good = good();
    match rule {
        Rule::OneRequestOnePipeline => good
            .after(&added(1, 4), submitted(2, "a"))
            .with_pipeline(2, 0),
        Rule::OneEnd => good.after(&committed(2, 1), job_ended(2, JobStateName::Failed)),
        Rule::EndsWithItsAttempt => good.without(&ended(3, 1, AttemptStateName::Cancelled)),
        Rule::NothingLost => History {
            jobs: good.jobs[1..].to_vec(),
            ..good
        },
        Rule::StoredAsItHappened => {
            let mut history = good;
            history.jobs[1].state = JobStateName::Failed;
            history
        }
        Rule::OneCommit => good.after(&committed(1, 2), committed(1, 2)),
        // The guard "AND attempt = $n" dropped: the old attempt's ranks finish too.
        Rule::NewestCommits => good.instead(&committed(1, 2), committed(1, 1)),
        Rule::WholeCommit => good.without(&released((2, 1, 1), 2, RankState::Finished)),
        Rule::FilesThere => History {
            missing: vec![MissingFile {
                job: JobId(2),
                attempt: AttemptNumber(1),
                what: "\"model.bin\" is not there".into(),
            }],
            ..good
        },
        Rule::NoGap => {
            let mut history = good
                .instead(&granted((3, 2, 0), 1, 0), granted((3, 3, 0), 1, 0))
                .instead(
                    &released((3, 2, 0), 1, RankState::Finished),
                    released((3, 3, 0), 1, RankState::Finished),
                )
                .instead(&committed(3, 2), committed(3, 3));
            history.jobs[2].attempt = 3;
            history
        }
        Rule::OneLive => good.without(&ended(1, 1, AttemptStateName::Failed)),
        Rule::Fenced => good.after(&granted((1, 2, 0), 2, 2), rank_started(1, 1, 0)),
        Rule::EpochsGrow => {
            let mut history = good;
            let place = history.place(&committed(1, 2));
            history.lines[place].1 = 1;
            history
        }
        Rule::DeviceOnce => good.instead(&granted((1, 2, 0), 2, 2), granted((1, 2, 0), 2, 1)),
        Rule::FreeOnProof => good.instead(
            &released((3, 1, 0), 1, RankState::Stopped),
            released((3, 1, 0), 1, RankState::Running),
        ),
        Rule::ReportsOnce => good.instead(&reported(2, 1, 4, 4), reported(2, 1, 3, 4)),
        Rule::CancelIsFinal => good.without(&What::Revived { job: JobId(3) }),
        Rule::GangWhole => good.without(&granted((2, 1, 0), 2, 0)),
        Rule::GangTogether => good.after(&granted((2, 1, 1), 2, 1), rank_started(2, 1, 1)),
        Rule::NotLostWhileHeard => good
            .after(
                &rank_started(1, 1, 0),
                What::WorkerHeard { worker: worker(1) },
            )
            .late_sign(),
        Rule::NoHasteAfterTakeOver => {
            let mut history = good;
            let place = history.place(&What::Leader { epoch: 2 });
            history.lines.insert(place + 1, (44, 2, lost(2, 20)));
            history
        }
        // The coordinator believes that it asked the rank to stop, and nobody answers.
        Rule::NothingStuck => good
            .without(&released((1, 1, 0), 1, RankState::Stopped))
            .elsewhere(),
        Rule::QuietInTheEnd => {
            let mut history = good.without(&committed(3, 2));
            history.jobs[2].state = JobStateName::Running;
            history
        }
    }
}

impl History {
    fn with_pipeline(mut self, id: i64, jobs: u64) -> Self {
        let id = PipelineId(id);
        self.pipelines.push(StoredPipeline { id, jobs });
        self
    }

    /// Worker 1 was heard a second before it was lost.
    fn late_sign(mut self) -> Self {
        let place = self.place(&lost(1, 20));
        let heard = What::WorkerHeard { worker: worker(1) };
        self.lines.insert(place, (30, 1, heard));
        self
    }

    /// What job 3 holds is another device than the one that is never let go.
    fn elsewhere(self) -> Self {
        self.instead(&granted((3, 1, 0), 1, 0), granted((3, 1, 0), 1, 5))
            .instead(&granted((3, 2, 0), 1, 0), granted((3, 2, 0), 1, 6))
    }
}

fn rules(findings: &[Finding]) -> Vec<Rule> {
    findings.iter().map(|finding| finding.rule).collect()
}

#[test]
fn a_right_history_is_clean() {
    let report = good().check(true);
    assert_eq!(report.findings, []);
    assert!(report.is_clean());
    assert_eq!((report.jobs, report.commits, report.grants), (4, 4, 6));
}

#[test]
fn each_rule_finds_its_broken_line() {
    for rule in Rule::ALL {
        let report = planted(*rule).check(*rule == Rule::QuietInTheEnd);
        let found = rules(&report.findings);
        assert!(
            found.contains(rule),
            "{rule} ({}) found nothing: {:#?}",
            rule.sentence(),
            report.findings
        );
        // What follows from a broken line may break others too, but a planted line is no storm.
        assert!(found.len() <= 3, "{rule}: {:#?}", report.findings);
    }
}

#[test]
fn a_finding_names_job_attempt_rank_device_worker_time_and_rule() {
    let report = planted(Rule::DeviceOnce).check(false);
    let finding = &report.findings[0];
    assert_eq!(finding.rule.code(), "4a");
    assert_eq!(finding.subject.job, Some(JobId(1)));
    assert_eq!(finding.subject.attempt, Some(AttemptNumber(2)));
    assert_eq!(finding.subject.rank.map(|rank| rank.0), Some(0));
    assert_eq!(finding.subject.worker, Some(worker(2)));
    assert_eq!(finding.subject.device, Some(Device::Cpu { index: 1 }));
    assert_eq!(finding.at, Some(at(32)));
    assert_eq!(finding.event, Some(19));
    assert!(finding.text.contains("rank 2-1-1"), "{}", finding.text);
}

#[test]
fn numbers_of_rules_are_unique() {
    let mut codes: Vec<&str> = Rule::ALL.iter().map(|rule| rule.code()).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), Rule::ALL.len());
}

/// A cluster that was upgraded: nobody knows what its old jobs did, and nothing is said of it.
#[test]
fn what_was_before_the_audit_is_not_judged() {
    let mut history = good();
    history.lines = vec![
        (0, 1, What::Began { last_job: JobId(9) }),
        (1, 1, granted((5, 3, 0), 1, 0)),
        (2, 1, released((5, 3, 0), 1, RankState::Finished)),
        (2, 1, committed(5, 3)),
        (3, 1, ended(6, 2, AttemptStateName::Failed)),
        (3, 1, job_ended(6, JobStateName::Failed)),
        (4, 1, What::Revived { job: JobId(7) }),
    ];
    history.pipelines = vec![StoredPipeline {
        id: PipelineId(1),
        jobs: 7,
    }];
    let stored = |id, state, attempt| StoredJob {
        id: JobId(id),
        state,
        attempt,
    };
    history.jobs = vec![
        stored(4, JobStateName::Succeeded, 2),
        stored(5, JobStateName::Succeeded, 3),
        stored(6, JobStateName::Failed, 2),
        stored(7, JobStateName::Queued, 4),
    ];
    assert_eq!(history.check(false).findings, []);
}

#[test]
fn a_worker_that_is_away_may_hold_devices_and_one_that_is_back_may_not() {
    let mut history = planted(Rule::NothingStuck);
    assert_eq!(rules(&history.check(false).findings), [Rule::NothingStuck]);
    history.now = 120;
    assert_eq!(history.check(false).findings, []);
    let mut away = planted(Rule::NothingStuck);
    away.lines.push((100, 2, lost(1, 60)));
    assert_eq!(away.check(false).findings, []);
}

#[test]
fn a_broken_database_fills_no_memory() {
    let mut checker = Checker::default();
    for number in 1..=5_000 {
        checker.event(&Event {
            number,
            at: at(0),
            epoch: None,
            what: committed(1, 1),
        });
    }
    let report = checker.finish(at(1), false);
    assert_eq!(report.findings.len(), 1_000);
    assert_eq!(report.more, 3_999);
    assert!(!report.is_clean());
}

#[test]
fn a_hundred_thousand_jobs_leave_nothing_open() {
    let mut checker = Checker::default();
    let jobs: i64 = 100_000;
    let mut number = 0;
    let mut line = |what| {
        number += 1;
        checker.event(&Event {
            number,
            at: at(0),
            epoch: None,
            what,
        });
    };
    for job in 1..=jobs {
        line(granted((job, 1, 0), 1, 0));
        line(released((job, 1, 0), 1, RankState::Finished));
        line(committed(job, 1));
    }
    assert_eq!(checker.live_jobs(), []);
    for id in 1..=jobs {
        checker.job(&StoredJob {
            id: JobId(id),
            state: JobStateName::Succeeded,
            attempt: 1,
        });
    }
    let report = checker.finish(at(1), true);
    assert_eq!(report.findings, []);
    assert_eq!(report.events, 300_000);
}

/// Who is told of a broken rule looks it up there.
#[test]
fn the_documentation_has_each_rule_as_it_is() {
    let page = include_str!("../../docs/reliability.md");
    for rule in Rule::ALL {
        let row = format!("| {} | {} |", rule.code(), rule.sentence());
        assert!(page.contains(&row), "docs/reliability.md lacks {row:?}");
    }
}
