//! Every view of what no coordinator of today says: it is shown somehow, nothing of it is obeyed by a terminal, and its
//! JSON is JSON.

use marquee_proto::v1;
use marquee_view::audit::{Lines, Verified};
use marquee_view::chaos::Rehearsed;
use marquee_view::explain::Explanation;
use marquee_view::projects::{Projects, QuotasOf};
use marquee_view::schedules::{ScheduleView, Schedules};
use marquee_view::trust::{AuthorityOf, JoinTokens, Members, NewJoinToken};
use marquee_view::users::{Changed, Settings, Tokens, Users, Who};
use marquee_view::what_if::WhatIf;
use marquee_view::workers::{Windows, Workers};
use marquee_view::{
    Page, View, artifacts, coordinators, gpus, harmless, harmless_json, job, jobs, metrics,
    pipeline, samples,
};

use crate::output::terminal::draw;
use crate::tests::odd::{message, messages};

const SEEDS: std::ops::Range<u64> = 0..25;

/// All three faces of a view.
#[track_caller]
fn faces(view: &impl View, seed: u64) {
    let now = samples::now();
    let obeyed = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
    // By turns on a narrow terminal, and where nothing is wrapped.
    let width = seed.is_multiple_of(2).then_some(60);
    let text = draw(&Page::of(view, now), false, width);
    assert!(
        !text.contains(|c| obeyed(c) && c != '\t'),
        "seed {seed}: {text:?}"
    );
    let json = format!("{:#}", view.json(now));
    let json = harmless_json(&json);
    assert!(!json.contains(obeyed), "seed {seed}: {json:?}");
    let read: Result<serde_json::Value, _> = serde_json::from_str(&json);
    assert!(read.is_ok(), "seed {seed}: {json}");
    for id in view.ids() {
        assert!(
            !harmless(&id).contains(|c| obeyed(c) && c != '\t'),
            "seed {seed}: {id:?}"
        );
    }
}

#[test]
fn jobs_and_what_belongs_to_them() {
    for seed in SEEDS {
        let listed: Vec<v1::Job> = messages("Job", seed);
        faces(&jobs::Jobs(&listed), seed);
        let detail: v1::JobDetail = message("JobDetail", seed);
        faces(&job::Job(&detail), seed);
        let needs = &listed[..2];
        faces(
            &Explanation {
                detail: &detail,
                needs,
            },
            seed,
        );
        faces(&pipeline::Pipeline(&message("Pipeline", seed)), seed);
        faces(
            &WhatIf {
                job: i64::MIN,
                answer: &message("WhatIfResponse", seed),
            },
            seed,
        );
        faces(&metrics::Metrics(&messages("MetricPoint", seed)), seed);
        faces(&artifacts::Artifacts(&messages("Artifact", seed)), seed);
    }
}

#[test]
fn hosts_and_coordinators() {
    for seed in SEEDS {
        let workers: Vec<v1::Worker> = messages("Worker", seed);
        faces(&Workers(&workers), seed);
        faces(&Windows(&workers), seed);
        faces(&gpus::Gpus(&workers), seed);
        let answer: v1::ListCoordinatorsResponse = message("ListCoordinatorsResponse", seed);
        faces(&coordinators::Coordinators(&answer), seed);
        faces(&Members(&messages("Member", seed)), seed);
        faces(&JoinTokens(&messages("JoinToken", seed)), seed);
        faces(&AuthorityOf(&message("Authority", seed)), seed);
        let token: v1::JoinToken = message("JoinToken", seed);
        faces(
            &NewJoinToken {
                token: &token,
                text: "mqj_00",
            },
            seed,
        );
    }
}

#[test]
fn projects_schedules_and_users() {
    for seed in SEEDS {
        let projects: Vec<v1::Project> = messages("Project", seed);
        faces(&Projects(&projects), seed);
        faces(&QuotasOf(&projects), seed);
        faces(&Schedules(&messages("Schedule", seed)), seed);
        faces(&ScheduleView(&message("Schedule", seed)), seed);
        faces(&Users(&messages("User", seed)), seed);
        faces(&Tokens(&messages("Token", seed)), seed);
        faces(&Who(&message("Identity", seed)), seed);
        faces(&Settings(&messages("Setting", seed)), seed);
        faces(
            &Changed {
                changed: &message("UserChanged", seed),
                verb: "added",
                dry_run: seed.is_multiple_of(3),
            },
            seed,
        );
    }
}

#[test]
fn the_history_and_rehearsals() {
    for seed in SEEDS {
        let findings: Vec<v1::AuditFinding> = messages("AuditFinding", seed);
        let summary: v1::AuditSummary = message("AuditSummary", seed);
        let verified = || Verified {
            findings: &findings,
            summary: &summary,
        };
        faces(&verified(), seed);
        faces(&Lines(&messages("AuditLine", seed)), seed);
        let answer: v1::RehearseResponse = message("RehearseResponse", seed);
        for over in [None, Some(("it was placed again", f64::NAN, verified()))] {
            faces(
                &Rehearsed {
                    fault: "kill-rank",
                    answer: &answer,
                    over,
                },
                seed,
            );
        }
    }
}

#[test]
fn nothing_at_all_is_shown_as_nothing_and_not_as_an_error() {
    let seed = 0;
    faces(&jobs::Jobs(&[]), seed);
    faces(&job::Job(&v1::JobDetail::default()), seed);
    faces(&pipeline::Pipeline(&v1::Pipeline::default()), seed);
    faces(&Workers(&[]), seed);
    faces(&Workers(&[v1::Worker::default()]), seed);
    faces(&gpus::Gpus(&[]), seed);
    faces(&Users(&[]), seed);
    faces(&Tokens(&[]), seed);
    faces(&Members(&[]), seed);
    faces(&JoinTokens(&[]), seed);
    faces(&Lines(&[]), seed);
    faces(&Schedules(&[]), seed);
    faces(&Projects(&[]), seed);
    faces(&QuotasOf(&[]), seed);
    faces(&metrics::Metrics(&[]), seed);
    faces(&artifacts::Artifacts(&[]), seed);
    faces(&Who(&v1::Identity::default()), seed);
}
