//! The reader of what workers report, for whoever tries it on whatever bytes (`marquee-catalogue fuzz`).

use chrono::{DateTime, Utc};
use marquee_domain::ids::WorkerId;
use marquee_domain::job::{AttemptStateName, RankState};
use marquee_proto::convert::timestamp;
use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use marquee_store::ranks::{LockedRank, RankKey};
use prost::Message as _;
use uuid::Uuid;

use super::reports::{Taken, next_in_order};

/// How a message of reports was taken by the session of a rank that runs, in a word or two.
#[must_use]
pub fn read_any_reports(bytes: &[u8]) -> String {
    let Ok(reports) = v1::Reports::decode(bytes) else {
        return "no message".to_owned();
    };
    let rank = LockedRank {
        key: RankKey::new(1, 1, 0),
        worker: WorkerId(Uuid::nil()),
        state: RankState::Running,
        last_sequence: 0,
        progress: None,
        attempt_state: AttemptStateName::Running,
        newest_attempt: 1,
        world_size: 4,
        is_lost: false,
    };
    let given: Vec<&v1::Report> = reports.reports.iter().collect();
    let fresh = next_in_order(&given, rank.last_sequence);
    let taken = Taken::fold(&rank, &fresh, DateTime::<Utc>::UNIX_EPOCH);
    let state = taken.change.state.map_or("as before", RankState::as_str);
    let why = taken.change.failure.as_ref();
    let why = why.map_or("", |failure| failure.message.as_str());
    // Without what the message itself has put there.
    let why = why.split('"').next().unwrap_or_default();
    let why: String = why
        .chars()
        .filter(|c| !c.is_ascii_digit())
        .take(80)
        .collect();
    format!(
        "{} of {} {state} {why}",
        fresh.len().min(3),
        given.len().min(3)
    )
}

/// Messages with reports of each kind.
#[must_use]
pub fn report_samples() -> Vec<Vec<u8>> {
    let manifest = v1::Manifest {
        files: vec![v1::FileEntry {
            path: "a/b".into(),
            size_bytes: 3,
            digest: "ab".repeat(32),
        }],
        ..v1::Manifest::default()
    };
    let bodies = vec![
        Body::Progress(v1::RankProgress {
            phase: "epoch 1/2".into(),
            done: 3,
            total: Some(9),
            unit: "steps".into(),
            ..v1::RankProgress::default()
        }),
        Body::Metrics(v1::RankMetrics {
            step: 7,
            values: [("train/loss".to_owned(), 0.5)].into(),
        }),
        Body::Log(v1::RankLog {
            stream: v1::log_line::Stream::Stdout.into(),
            lines: vec!["a line".into()],
        }),
        Body::Checkpoint(v1::CheckpointSaved {
            step: 7,
            manifest: Some(manifest.clone()),
        }),
        Body::Regrouped(v1::RankRegrouped {
            step: 7,
            ranks: vec![0, 2],
            steps_lost: 1,
            seconds: 2.5,
        }),
        Body::Finished(v1::RankFinished {
            summary_json: "{\"code\":\"x\"}".into(),
            output: Some(manifest),
        }),
        Body::Stopped(v1::RankStopped {
            cause: "drained".into(),
            reason: "why".into(),
        }),
    ];
    let at = Some(timestamp(DateTime::<Utc>::UNIX_EPOCH));
    let report = |(sequence, body)| v1::Report {
        job_id: 1,
        attempt: 1,
        rank: 0,
        sequence,
        at,
        body: Some(body),
    };
    let all: Vec<v1::Report> = (1..).zip(bodies).map(report).collect();
    let message = |reports: Vec<v1::Report>| v1::Reports { reports }.encode_to_vec();
    let each = all.iter().map(|report| {
        let first = v1::Report {
            sequence: 1,
            ..report.clone()
        };
        message(vec![first])
    });
    each.chain([message(all.clone())]).collect()
}
