//! What reports of one rank add up to.
//!
//! Invariant: a rank's reports are taken in order and without gaps; a repeated report is skipped, one after
//! a gap is left for later, and an old attempt's is refused. Not here: the transaction (`desk`).

use chrono::{DateTime, SubsecRound as _, Utc};
use marquee_domain::artifact::Manifest;
use marquee_domain::end::{Interruption, StoppedFor};
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::job::{AttemptStateName, RankState};
use marquee_domain::limits::{
    FAILURE_MESSAGE_MAX_BYTES, LOG_LINE_MAX_BYTES, METRIC_NAME_MAX_BYTES, METRICS_PER_REPORT_MAX,
    PROBLEM_CLASSES_MAX, PROGRESS_MAX, PROGRESS_WORD_MAX_BYTES, RANKS_MAX, SUMMARY_MAX_BYTES,
};
use marquee_proto::convert::{self, BadField};
use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use marquee_store::Tx;
use marquee_store::attempts::{self, Rendezvous};
use marquee_store::checkpoints::{self, CheckpointKey};
use marquee_store::events;
use marquee_store::ranks::{LockedRank, Progress, RankChange, RankKey};
use marquee_store::reports::{LogLine, LogStream, Metric};

use crate::lifecycle::Result;

/// The reports that follow `last` without a gap, in order.
pub(super) fn next_in_order<'a>(reports: &[&'a v1::Report], last: u64) -> Vec<&'a v1::Report> {
    let mut sorted = reports.to_vec();
    sorted.sort_by_key(|report| report.sequence);
    sorted.dedup_by_key(|report| report.sequence);
    let fresh = sorted
        .into_iter()
        .skip_while(|report| report.sequence <= last);
    fresh
        .scan(last, |last, report| {
            *last += 1;
            (report.sequence == *last).then_some(report)
        })
        .collect()
}

/// Why new reports of a rank are refused.
pub(super) fn refusal(rank: &LockedRank, key: RankKey) -> Option<&'static str> {
    if rank.newest_attempt != key.attempt.0 {
        Some("a newer attempt has taken its place")
    } else if rank.state.has_ended() {
        Some("the rank has ended")
    } else {
        None
    }
}

/// What a run of reports adds up to.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) last_sequence: u64,
    pub(super) change: RankChange,
    rendezvous: Option<Rendezvous>,
    pub(super) lines: Vec<LogLine>,
    pub(super) metrics: Vec<Metric>,
    checkpoints: Vec<(u64, Manifest, DateTime<Utc>)>,
    pub(super) regrouped: Vec<v1::RankRegrouped>,
}

impl Taken {
    /// Adds reports up, in order, up to the rank's end.
    pub(super) fn fold(rank: &LockedRank, reports: &[&v1::Report], now: DateTime<Utc>) -> Self {
        let mut taken = Self {
            last_sequence: rank.last_sequence,
            ..Self::default()
        };
        let mut progress = rank.progress.clone();
        let mut state = rank.state;
        for report in reports {
            // Nothing is taken of what a rank sends after its end.
            if state.has_ended() {
                break;
            }
            taken.last_sequence = report.sequence;
            if let Err(bad) = taken.add(report, &mut progress) {
                // The stream must go on: what cannot be read ends the rank, not the session.
                let message = format!("its worker sent a report that cannot be read: {bad}");
                taken.end(RankState::Failed, now);
                taken.change.failure = Some(Failure {
                    class: FailureClass::Crash,
                    message,
                });
            }
            // A rank only moves forward, whatever the order of its words.
            let next = taken.change.state.unwrap_or(state).max(state);
            taken.change.state = (next != rank.state).then_some(next);
            state = next;
        }
        // Ended by our clock: it is compared with other times of ours.
        if state.has_ended() {
            taken.change.ended_at = Some(now);
        }
        taken
    }

    /// Nothing of `reports` but that they cannot be stored: their rank ends for it, and nobody else.
    pub(super) fn refused(reports: &[&v1::Report], why: &str, now: DateTime<Utc>) -> Self {
        let mut taken = Self {
            last_sequence: reports.last().map_or(0, |report| report.sequence),
            ..Self::default()
        };
        taken.end(RankState::Failed, now);
        taken.change.failure = Some(Failure {
            class: FailureClass::Crash,
            message: format!("it reported what cannot be stored: {}", storable(why)),
        });
        taken
    }

    fn end(&mut self, state: RankState, at: DateTime<Utc>) {
        self.change.state = Some(state);
        self.change.ended_at = Some(at);
    }

    fn add(
        &mut self,
        report: &v1::Report,
        progress: &mut Option<Progress>,
    ) -> std::result::Result<(), BadField> {
        let at = report.at.as_ref().ok_or_else(|| BadField::missing("at"))?;
        let at = convert::datetime(at)?;
        let body = report
            .body
            .as_ref()
            .ok_or_else(|| BadField::missing("body"))?;
        match body {
            Body::Prepared(prepared) => {
                self.rendezvous = prepared.rendezvous.as_ref().map(rendezvous).transpose()?;
                self.change.state = Some(RankState::Prepared);
            }
            Body::Started(started) => {
                self.change.pid = Some(started.pid);
                self.change.state = Some(RankState::Running);
            }
            Body::Progress(new) => {
                let new = read_progress(new, progress.as_ref(), at)?;
                *progress = Some(new.clone());
                self.change.progress = Some(new);
            }
            Body::Metrics(metrics) => {
                let step = convert::bounded("metrics.step", metrics.step)?;
                let count = metrics.values.len();
                if count > METRICS_PER_REPORT_MAX {
                    let why = format!("{count} values, at most {METRICS_PER_REPORT_MAX}");
                    return Err(BadField::invalid("metrics.values", why));
                }
                for (name, value) in &metrics.values {
                    let name =
                        convert::text("metrics.values", name.clone(), METRIC_NAME_MAX_BYTES)?;
                    self.metrics.push(Metric {
                        sequence: report.sequence,
                        name,
                        step,
                        value: *value,
                        at,
                    });
                }
            }
            Body::Log(log) => self.add_log(report.sequence, log, at)?,
            Body::Checkpoint(saved) => {
                let manifest = saved.manifest.clone().unwrap_or_default().try_into()?;
                let step = convert::bounded("checkpoint.step", saved.step)?;
                self.checkpoints.push((step, manifest, at));
            }
            Body::Finished(finished) => {
                let bytes = finished.summary_json.len();
                if bytes > SUMMARY_MAX_BYTES {
                    let why = format!("{bytes} bytes are more than {SUMMARY_MAX_BYTES}");
                    return Err(BadField::invalid("summary_json", why));
                }
                let summary = storable(&finished.summary_json);
                let summary = serde_json::from_str(&summary)
                    .map_err(|e| BadField::invalid("summary_json", e))?;
                let output = finished
                    .output
                    .clone()
                    .map(Manifest::try_from)
                    .transpose()?;
                self.change.summary = Some(summary);
                self.change.output = output;
                self.end(RankState::Finished, at);
            }
            Body::Failed(failed) => {
                let failure = failed
                    .failure
                    .clone()
                    .ok_or_else(|| BadField::missing("failure"))?;
                let failure = Failure::try_from(failure)?;
                let message = storable(cut(&failure.message, FAILURE_MESSAGE_MAX_BYTES));
                self.change.failure = Some(Failure {
                    class: failure.class,
                    message,
                });
                self.end(RankState::Failed, at);
            }
            Body::Regrouped(regrouped) => {
                convert::bounded("regrouped.step", regrouped.step)?;
                convert::bounded("regrouped.steps_lost", regrouped.steps_lost)?;
                let count = regrouped.ranks.len();
                if u32::try_from(count).is_ok_and(|count| count <= RANKS_MAX) {
                    self.regrouped.push(regrouped.clone());
                } else {
                    let why = format!("{count} ranks, at most {RANKS_MAX}");
                    return Err(BadField::invalid("regrouped.ranks", why));
                }
            }
            Body::Stopped(stopped) => {
                if let Some(cause) = Interruption::from_word(&stopped.cause) {
                    let reason = storable(cut(&stopped.reason, FAILURE_MESSAGE_MAX_BYTES));
                    let told = StoppedFor { cause, reason };
                    self.change.summary = serde_json::to_value(told).ok();
                }
                self.end(RankState::Stopped, at);
            }
        }
        Ok(())
    }

    fn add_log(
        &mut self,
        sequence: u64,
        log: &v1::RankLog,
        at: DateTime<Utc>,
    ) -> std::result::Result<(), BadField> {
        let stream = match log.stream() {
            v1::log_line::Stream::Stdout => LogStream::Stdout,
            v1::log_line::Stream::Stderr => LogStream::Stderr,
            v1::log_line::Stream::Unspecified => return Err(BadField::missing("log.stream")),
        };
        // No message is long enough for more.
        let count = u32::try_from(log.lines.len()).unwrap_or(u32::MAX);
        let lines = (0..count).zip(&log.lines).map(|(line, text)| LogLine {
            sequence,
            line,
            left: count - 1 - line,
            stream,
            text: storable(cut(text, LOG_LINE_MAX_BYTES)),
            // As it is stored and read back.
            at: at.trunc_subsecs(6),
            is_damaged: false,
        });
        self.lines.extend(lines);
        Ok(())
    }

    /// Stores what comes with the rank's own row: checkpoints and where ranks meet.
    pub(super) async fn write_rows(
        &self,
        tx: &mut Tx,
        key: RankKey,
        rank: &LockedRank,
    ) -> Result<()> {
        for (step, manifest, at) in &self.checkpoints {
            let checkpoint = CheckpointKey {
                attempt: key.attempt,
                step: *step,
            };
            checkpoints::insert_checkpoint(tx, key.job, checkpoint, manifest, *at).await?;
            let text = format!("checkpoint of step {step} saved");
            events::insert_event(tx, key.job, key.attempt.0, &text, *at).await?;
        }
        match (&self.rendezvous, rank.attempt_state) {
            (Some(rendezvous), AttemptStateName::Assigned) => {
                if key.rank.0 == 0 {
                    attempts::mark_rendezvous(tx, key.job, key.attempt, rendezvous).await?;
                } else {
                    attempts::mark_standby(tx, key.job, key.attempt, rendezvous).await?;
                }
            }
            // It ended while the rank was prepared, or it is a repetition: nobody will meet there.
            (
                Some(_),
                AttemptStateName::Running
                | AttemptStateName::Succeeded
                | AttemptStateName::Failed
                | AttemptStateName::Cancelled
                | AttemptStateName::Interrupted,
            )
            | (None, _) => {}
        }
        Ok(())
    }
}

fn rendezvous(wire: &v1::Rendezvous) -> std::result::Result<Rendezvous, BadField> {
    let marquee_domain::Rendezvous { host, port } = wire.clone().try_into()?;
    Ok(Rendezvous { host, port })
}

fn read_progress(
    new: &v1::RankProgress,
    old: Option<&Progress>,
    at: DateTime<Utc>,
) -> std::result::Result<Progress, BadField> {
    let word = |field, text: &String| convert::text(field, text.clone(), PROGRESS_WORD_MAX_BYTES);
    let number = |field, value: Option<u64>| -> std::result::Result<Option<u64>, BadField> {
        value.map(|value| count(field, value)).transpose()
    };
    let phase = word("progress.phase", &new.phase)?;
    let done = count("progress.done", new.done)?;
    let bytes = number("progress.bytes", new.bytes)?;
    let problems = new.problems.iter().take(PROBLEM_CLASSES_MAX);
    let problems = problems.map(|(class, number)| {
        let field = "progress.problems";
        Ok((word(field, class)?, count(field, *number)?))
    });
    // Rate and time left are counted within a phase: the one before may have been faster by far.
    let same = old.filter(|old| old.phase == phase);
    Ok(Progress {
        phase_started_at: same.map_or(at, |old| old.phase_started_at),
        phase_started_done: same.map_or(done, |old| old.phase_started_done),
        phase_started_bytes: same.map_or(bytes.unwrap_or(0), |old| old.phase_started_bytes),
        bytes,
        problems: problems.collect::<std::result::Result<_, BadField>>()?,
        phase,
        done,
        total: number("progress.total", new.total)?,
        unit: word("progress.unit", &new.unit)?,
        at,
    })
}

fn count(field: &'static str, value: u64) -> std::result::Result<u64, BadField> {
    if value <= PROGRESS_MAX {
        return Ok(value);
    }
    let why = format!("{value} is more than {PROGRESS_MAX}");
    Err(BadField::invalid(field, why))
}

/// Text that Postgres can store: it has no NUL.
fn storable(text: &str) -> String {
    // In JSON a NUL is written as an escape.
    text.replace('\0', "\u{fffd}").replace("\\u0000", "\\ufffd")
}

/// Text within its limit. A worker cuts it itself; one that does not must not fill the table.
fn cut(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn report(sequence: u64, body: Body) -> v1::Report {
        let at = Some(convert::timestamp(at(0)));
        v1::Report {
            job_id: 1,
            attempt: 1,
            rank: 0,
            sequence,
            at,
            body: Some(body),
        }
    }

    fn progress(phase: &str) -> Body {
        Body::Progress(v1::RankProgress {
            phase: phase.into(),
            ..v1::RankProgress::default()
        })
    }

    fn rank(state: RankState, last_sequence: u64) -> LockedRank {
        LockedRank {
            key: super::super::hello::key(1, 1, 0),
            worker: marquee_domain::ids::WorkerId(uuid::Uuid::nil()),
            world_size: 1,
            state,
            last_sequence,
            progress: None,
            attempt_state: AttemptStateName::Running,
            newest_attempt: 1,
            is_lost: false,
        }
    }

    #[test]
    fn repeated_reports_are_skipped_and_what_follows_a_gap_waits() {
        let reports: Vec<_> = [3, 4, 4, 5, 7]
            .map(|sequence| report(sequence, progress("p")))
            .into();
        let reports: Vec<_> = reports.iter().collect();
        let next = |last| {
            let next = next_in_order(&reports, last);
            next.iter().map(|r| r.sequence).collect::<Vec<_>>()
        };
        assert_eq!(next(3), [4, 5]);
        assert_eq!(next(5), [] as [u64; 0]);
        assert_eq!(next(6), [7]);
        assert_eq!(next(9), [] as [u64; 0]);
    }

    #[test]
    fn a_report_that_cannot_be_read_ends_the_rank_and_not_the_session() {
        let finished = v1::RankFinished {
            summary_json: "{".into(),
            output: None,
        };
        let bad = report(1, Body::Finished(finished));
        let after = report(2, progress("p"));
        let taken = Taken::fold(&rank(RankState::Running, 0), &[&bad, &after], at(9));
        assert_eq!(taken.last_sequence, 1);
        assert_eq!(taken.change.state, Some(RankState::Failed));
        assert_eq!(taken.change.ended_at, Some(at(9)));
        let failure = taken.change.failure.unwrap();
        assert_eq!(failure.class, FailureClass::Crash);
        assert!(
            failure.message.contains("summary_json"),
            "{}",
            failure.message
        );
    }

    /// Each ends its rank by itself, before Postgres or a later reader stumbles over it.
    #[test]
    fn what_no_column_and_no_reader_takes_ends_its_rank() {
        let metrics = |step, name: &str| {
            let values = [(name.to_owned(), 1.0)].into();
            Body::Metrics(v1::RankMetrics { step, values })
        };
        let counted = |done, total, bytes| {
            Body::Progress(v1::RankProgress {
                phase: "p".into(),
                done,
                total,
                bytes,
                ..v1::RankProgress::default()
            })
        };
        let problem = |class: &str, count| {
            Body::Progress(v1::RankProgress {
                problems: [(class.to_owned(), count)].into(),
                ..v1::RankProgress::default()
            })
        };
        let sized = |size_bytes| v1::Manifest {
            files: vec![v1::FileEntry {
                path: "a".into(),
                size_bytes,
                digest: "0".repeat(64),
            }],
            ..v1::Manifest::default()
        };
        let finished = |summary: String, output| {
            Body::Finished(v1::RankFinished {
                summary_json: summary,
                output,
            })
        };
        let at = v1::Rendezvous {
            host: "h\0".into(),
            port: 1,
        };
        let far = u64::MAX;
        let attacks = [
            ("metrics.step", metrics(far, "loss")),
            ("metrics.step", metrics(1 << 63, "loss")),
            ("metrics.values", metrics(1, &"m".repeat(3_000))),
            ("metrics.values", metrics(1, "a\0")),
            ("progress.done", counted(far, None, None)),
            ("progress.total", counted(0, Some(far), None)),
            ("progress.bytes", counted(0, None, Some(far))),
            ("progress.phase", progress(&"p".repeat(257))),
            ("progress.phase", progress("\u{1b}]52;c;eA==\u{7}")),
            ("progress.problems", problem("gone", far)),
            ("progress.problems", problem("a\nb", 1)),
            (
                "checkpoint.step",
                Body::Checkpoint(v1::CheckpointSaved {
                    step: far,
                    manifest: None,
                }),
            ),
            (
                "1125899906842624 bytes together",
                finished("{}".into(), Some(sized(far))),
            ),
            ("summary_json", finished("[".repeat(200_000), None)),
            (
                "summary_json",
                finished(format!("\"{}\"", "x".repeat(SUMMARY_MAX_BYTES)), None),
            ),
            (
                "rendezvous.host",
                Body::Prepared(v1::RankPrepared {
                    rendezvous: Some(at),
                }),
            ),
            (
                "regrouped.ranks",
                Body::Regrouped(v1::RankRegrouped {
                    ranks: vec![0; 5_000],
                    ..v1::RankRegrouped::default()
                }),
            ),
        ];
        for (field, body) in attacks {
            let report = report(1, body);
            let taken = Taken::fold(&rank(RankState::Running, 0), &[&report], self::at(9));
            assert_eq!(taken.change.state, Some(RankState::Failed), "{field}");
            let message = taken.change.failure.unwrap().message;
            assert!(message.contains(field), "{field}: {message}");
            assert!(message.len() < 1_000, "{message}");
            assert!(taken.metrics.is_empty() && taken.checkpoints.is_empty());
        }
        let mut late = report(1, progress("p"));
        late.at = Some(convert::timestamp(
            DateTime::from_timestamp(1 << 40, 0).unwrap(),
        ));
        let taken = Taken::fold(&rank(RankState::Running, 0), &[&late], self::at(9));
        assert_eq!(taken.change.state, Some(RankState::Failed));
    }

    #[test]
    fn a_rank_never_goes_back() {
        let prepared = report(1, Body::Prepared(v1::RankPrepared { rendezvous: None }));
        let taken = Taken::fold(&rank(RankState::Running, 0), &[&prepared], at(9));
        assert_eq!(taken.change.state, None);
        assert_eq!(taken.last_sequence, 1);
    }

    #[test]
    fn a_phase_keeps_its_start() {
        let mut first = report(1, progress("epoch 1/2"));
        first.at = Some(convert::timestamp(at(1)));
        let mut second = report(2, progress("epoch 1/2"));
        second.at = Some(convert::timestamp(at(5)));
        let taken = Taken::fold(&rank(RankState::Running, 0), &[&first, &second], at(9));
        let progress = taken.change.progress.unwrap();
        assert_eq!((progress.phase_started_at, progress.at), (at(1), at(5)));
    }

    #[test]
    fn text_with_a_nul_can_be_stored() {
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
        assert_eq!(storable("{\"a\":\"\\u0000\"}"), "{\"a\":\"\\ufffd\"}");
    }
}
