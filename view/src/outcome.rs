//! What a job that ended came to: what it brought, what held it up, what it lost on the way.

use std::collections::BTreeMap;

use marquee_domain::bottleneck::diagnose;
use marquee_domain::report::{
    EvalReport, FetchSummary, PreprocessSummary, TrainSummary, UnreadableSummary, read_summary,
    rule_words,
};
use marquee_domain::spec::JobKind;
use marquee_proto::v1;

use crate::units::{bytes, count, first_line, total};
use crate::words::failure_word;

/// What a fetch, preprocess or eval job that succeeded came to; None for others.
#[must_use]
pub fn result(detail: &v1::JobDetail) -> Option<String> {
    let summary = summary_of(detail)?;
    match JobKind::try_from(detail.job.as_ref()?.kind()).ok()? {
        JobKind::Fetch => said(read_summary(summary), fetched),
        JobKind::Preprocess => said(read_summary(summary), prepared),
        JobKind::Eval => said(read_summary(summary), scored),
        JobKind::Train | JobKind::Command => None,
    }
}

/// A summary in words, or that a newer release wrote it: silence would look like a job without a result.
fn said<T>(summary: Result<T, UnreadableSummary>, words: impl Fn(&T) -> String) -> Option<String> {
    match summary {
        Ok(summary) => Some(words(&summary)),
        Err(newer @ UnreadableSummary::Newer(_)) => {
            Some(format!("its summary cannot be shown: {newer}"))
        }
        // The job left none, or it ran a program that is not ours.
        Err(UnreadableSummary::Other(_)) => None,
    }
}

/// What the report of an eval job that succeeded warns of; nothing for others.
#[must_use]
pub fn eval_warnings(detail: &v1::JobDetail) -> Vec<String> {
    let is_eval = detail
        .job
        .as_ref()
        .is_some_and(|job| JobKind::try_from(job.kind()) == Ok(JobKind::Eval));
    summary_of(detail)
        .filter(|_| is_eval)
        .and_then(|summary| read_summary::<EvalReport>(summary).ok())
        .map(|report| report.warnings)
        .unwrap_or_default()
}

/// The summary of the first rank of the attempt that succeeded.
fn summary_of(detail: &v1::JobDetail) -> Option<&str> {
    let ended = detail.attempts.iter().rev();
    ended
        // Ranks of an attempt that failed may have finished and left summaries too: they are of no result.
        .filter(|attempt| attempt.state() == v1::AttemptState::Succeeded)
        .find_map(|attempt| Some(attempt.ranks.first()?.summary_json.as_str()))
}

/// `micro F1 0.740 (0.710 to 0.770) with one threshold tuned for all classes, on 450 test pictures`.
fn scored(report: &EvalReport) -> String {
    let pictures = count(report.pictures.get("test").copied().unwrap_or_default());
    let Some(scores) = report.headline_scores() else {
        return format!(
            "no headline, on {pictures} test pictures of which the model had seen some"
        );
    };
    // The interval stands beside the figure wherever that is shown: without it two runs look
    // different that are not.
    let interval = scores
        .f1_micro_interval
        .map(|(low, high)| format!(" ({low:.3} to {high:.3})"))
        .unwrap_or_default();
    format!(
        "micro F1 {:.3}{interval} {}, on {pictures} test pictures",
        scores.f1_micro,
        rule_words(&scores.rule)
    )
}

/// `2,990 of 3,000 fetched (190.0 MiB), 4 gone, 6 rejected (no_poster 6), 0 failed`.
fn fetched(fetch: &FetchSummary) -> String {
    let mut text = format!(
        "{} of {} fetched ({}), {} gone, {}, {}",
        count(fetch.fetched),
        count(fetch.asked),
        bytes(fetch.bytes),
        count(fetch.gone),
        by_class("rejected", &fetch.rejected),
        by_class("failed", &fetch.failed),
    );
    if fetch.unchanged > 0 {
        text.push_str(&format!(
            "; {} had not changed and were not sent again",
            count(fetch.unchanged)
        ));
    }
    if fetch.replaced_text > 0 {
        text.push_str(&format!(
            "; {} with characters that could not be read, now \u{fffd}",
            count(fetch.replaced_text)
        ));
    }
    let remarks = &fetch.remarks;
    if remarks.without_label > 0 {
        text.push_str(&format!(
            "; {} have none of the labels",
            count(remarks.without_label)
        ));
    }
    for note in &remarks.notes {
        text.push_str(&format!("; {note}"));
    }
    add_warnings(&mut text, &remarks.warnings);
    text
}

fn add_warnings(text: &mut String, warnings: &[String]) {
    for warning in warnings {
        text.push_str(&format!("; WARNING: {warning}"));
    }
}

/// `2,980 pictures in splits, 10 skipped (undecodable 10)`.
fn prepared(prepared: &PreprocessSummary) -> String {
    let mut text = format!(
        "{} pictures in splits, {}",
        count(total(prepared.splits.values().copied())),
        by_class("skipped", &prepared.skipped)
    );
    add_warnings(&mut text, &prepared.warnings);
    text
}

fn by_class(what: &str, classes: &BTreeMap<String, u64>) -> String {
    let all = count(total(classes.values().copied()));
    let classes: Vec<String> = classes
        .iter()
        .map(|(class, number)| format!("{class} {}", count(*number)))
        .collect();
    if classes.is_empty() {
        format!("{all} {what}")
    } else {
        format!("{all} {what} ({})", classes.join(", "))
    }
}

/// The ranks' summaries of a train job's newest attempt that has ended; None for other jobs.
#[must_use]
pub fn trained(detail: &v1::JobDetail) -> Option<Vec<TrainSummary>> {
    let summaries = |attempt: &v1::Attempt| -> Option<Vec<TrainSummary>> {
        attempt
            .ranks
            .iter()
            // A rank that was lost left none; with it in the list there would never be a verdict.
            .filter(|rank| rank.lost_at.is_none())
            // All or nothing: a verdict about ranks of which one is missing could name the wrong one as slow.
            .map(|rank| read_summary(&rank.summary_json).ok())
            .collect()
    };
    detail.attempts.iter().rev().find_map(summaries)
}

/// What the ranks of a train job warn of; each warning once, however many ranks gave it.
#[must_use]
pub fn warnings(ranks: &[TrainSummary]) -> Vec<String> {
    let mut warnings: Vec<String> = ranks
        .iter()
        .flat_map(|rank| rank.warnings.clone())
        .collect();
    warnings.sort();
    // Ranks of a gang run the same program over the same settings: what one warns of, all do.
    warnings.dedup();
    warnings
}

/// What held a train job up and what it warns of, from the summaries of its newest attempt that has
/// ended; None for other jobs.
#[must_use]
pub fn bottleneck(detail: &v1::JobDetail) -> Option<String> {
    let ranks = trained(detail)?;
    let mut lines: Vec<String> = diagnose(&ranks)
        .map(|found| found.words())
        .into_iter()
        .collect();
    lines.extend(
        warnings(&ranks)
            .into_iter()
            .map(|warning| format!("WARNING: {warning}")),
    );
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// Ranks of the attempt that runs which make no progress, one sentence each, those that hang before those that wait.
#[must_use]
pub fn hangs(detail: &v1::JobDetail) -> Vec<String> {
    let mut ranks = stalled(detail);
    // "false" sorts first: those that hang are the cause, those that wait are its effect.
    ranks.sort_by_key(|(rank, stall)| (waits(stall), rank.rank));
    let told = ranks.into_iter().map(|(rank, stall)| {
        let (number, worker) = (rank.rank, &rank.worker_name);
        let step = stall.step.map(|step| format!(" at step {}", count(step)));
        let step = step.unwrap_or_default();
        let seconds = stall.idle_ms / 1_000;
        let phase = &stall.phase;
        if waits(stall) {
            format!("Rank {number} on {worker} waits in {phase}{step}, for {seconds} s.")
        } else if stall.is_stopped {
            format!(
                "Rank {number} on {worker} hangs: it is stopped by a signal (state T){step}, for {seconds} s; \"kill -CONT\" lets it go on."
            )
        } else {
            let of = if phase.is_empty() { String::new() } else { format!(" in {phase}") };
            let process = match stall.process.as_str() {
                "" => String::new(),
                process => format!("; its main thread {process}"),
            };
            format!("Rank {number} on {worker} hangs: no progress{of}{step} for {seconds} s{process}.")
        }
    });
    told.collect()
}

/// The first rank that hangs and does not only wait for others.
#[must_use]
pub fn hung_rank(detail: &v1::JobDetail) -> Option<u32> {
    let ranks = stalled(detail);
    let hung = ranks.iter().find(|(_, stall)| !waits(stall));
    // Where all of them wait, any of them shows the exchange that does not end.
    hung.or(ranks.first()).map(|(rank, _)| rank.rank)
}

/// Whether it waits for others in an exchange, rather than they for it.
pub(crate) fn waits(stall: &v1::Stall) -> bool {
    // A rank that was stopped within an exchange looks like one that waits, and is the one that the others wait for.
    stall.waits_for_peers && !stall.is_stopped
}

fn stalled(detail: &v1::JobDetail) -> Vec<(&v1::AttemptRank, &v1::Stall)> {
    let ranks = detail
        .attempts
        .last()
        .into_iter()
        .flat_map(|attempt| &attempt.ranks);
    ranks
        .filter_map(|rank| Some((rank, rank.stall.as_ref()?)))
        .collect()
}

/// Which ranks the newest attempt lost and went on without, as sentences.
#[must_use]
pub fn losses(detail: &v1::JobDetail) -> Vec<String> {
    let Some(attempt) = detail.attempts.last() else {
        return Vec::new();
    };
    let lost = attempt.ranks.iter().filter(|rank| rank.lost_at.is_some());
    let causes: Vec<String> = lost
        .map(|rank| {
            let cause = rank.failure.as_ref().map_or_else(
                || "no cause is known".to_owned(),
                |failure| {
                    format!(
                        "{}: {}",
                        failure_word(failure),
                        first_line(&failure.message)
                    )
                },
            );
            format!(
                "rank {} on {} was lost ({cause})",
                rank.rank, rank.worker_name
            )
        })
        .collect();
    if causes.is_empty() {
        return causes;
    }
    let (all, left) = (attempt.ranks.len(), attempt.ranks.len() - causes.len());
    let mut lines = vec![format!(
        "It went on with {left} of {all} ranks: {}.",
        causes.join("; ")
    )];
    // The ranks that are left went on together: the first of them tells it for all.
    let first = attempt.ranks.iter().find(|rank| rank.lost_at.is_none());
    let summary: Option<TrainSummary> =
        first.and_then(|rank| read_summary(&rank.summary_json).ok());
    lines.extend(
        summary
            .iter()
            .flat_map(|summary| &summary.went_on)
            .map(|went_on| format!("It {}.", went_on.words())),
    );
    lines
}

#[cfg(test)]
mod tests {
    use marquee_domain::report::Remarks;

    use crate::samples::{train_summary, two_models};

    use super::*;

    #[test]
    fn a_fetch_that_ended_says_what_became_of_every_id() {
        let summary = FetchSummary {
            asked: 3_000,
            fetched: 2_990,
            gone: 4,
            rejected: BTreeMap::from([("no_poster".to_owned(), 6)]),
            bytes: 190 << 20,
            unchanged: 12,
            remarks: Remarks {
                without_label: 1_200,
                notes: vec!["columns not used: \"year\"".to_owned()],
                warnings: vec!["labels are made of other labels".to_owned()],
                ..Remarks::default()
            },
            ..FetchSummary::default()
        };
        let rank = v1::AttemptRank {
            summary_json: serde_json::to_string(&summary).unwrap(),
            ..v1::AttemptRank::default()
        };
        let attempt = v1::Attempt {
            state: v1::AttemptState::Succeeded.into(),
            ranks: vec![rank],
            ..v1::Attempt::default()
        };
        let detail = v1::JobDetail {
            job: Some(v1::Job {
                kind: v1::JobKind::Fetch.into(),
                ..v1::Job::default()
            }),
            attempts: vec![attempt],
            ..v1::JobDetail::default()
        };
        assert_eq!(
            result(&detail).unwrap(),
            "2,990 of 3,000 fetched (190.0 MiB), 4 gone, 6 rejected (no_poster 6), 0 failed; \
             12 had not changed and were not sent again; 1,200 have none of the labels; \
             columns not used: \"year\"; WARNING: labels are made of other labels"
        );
    }

    #[test]
    fn an_eval_that_ended_says_its_headline_and_what_to_doubt() {
        let detail = |report: &EvalReport| v1::JobDetail {
            job: Some(v1::Job {
                kind: v1::JobKind::Eval.into(),
                ..v1::Job::default()
            }),
            attempts: vec![v1::Attempt {
                state: v1::AttemptState::Succeeded.into(),
                ranks: vec![v1::AttemptRank {
                    summary_json: serde_json::to_string(report).unwrap(),
                    ..v1::AttemptRank::default()
                }],
                ..v1::Attempt::default()
            }],
            ..v1::JobDetail::default()
        };
        let both = two_models();
        assert_eq!(
            result(&detail(&both.evals[0].left)).unwrap(),
            "micro F1 0.740 (0.710 to 0.770) with thresholds tuned per class, on 450 test pictures"
        );
        let leak = detail(&both.evals[1].left);
        assert!(result(&leak).unwrap().starts_with("no headline"));
        assert!(eval_warnings(&leak)[0].starts_with("leak: "));
        assert!(eval_warnings(&v1::JobDetail::default()).is_empty());
    }

    #[test]
    fn what_ranks_warn_of_is_told_once() {
        let warned = |number| TrainSummary {
            warnings: vec!["NCCL cannot be used: rank 0: no shim".into()],
            ..train_summary(number)
        };
        let told = warnings(&[warned(0), warned(1)]);
        assert_eq!(told, ["NCCL cannot be used: rank 0: no shim"]);
        assert!(warnings(&[train_summary(0)]).is_empty());
    }

    #[test]
    fn a_summary_that_cannot_be_read_is_no_result_and_no_panic() {
        for summary in ["", "{", "3", "{\"asked\":-1}", "null"] {
            let rank = v1::AttemptRank {
                summary_json: summary.into(),
                ..v1::AttemptRank::default()
            };
            let detail = |kind: v1::JobKind| v1::JobDetail {
                job: Some(v1::Job {
                    kind: kind.into(),
                    ..v1::Job::default()
                }),
                attempts: vec![v1::Attempt {
                    state: v1::AttemptState::Succeeded.into(),
                    ranks: vec![rank.clone()],
                    ..v1::Attempt::default()
                }],
                ..v1::JobDetail::default()
            };
            assert_eq!(result(&detail(v1::JobKind::Fetch)), None, "{summary}");
            assert_eq!(trained(&detail(v1::JobKind::Train)), None, "{summary}");
            assert_eq!(bottleneck(&detail(v1::JobKind::Train)), None, "{summary}");
            assert!(losses(&detail(v1::JobKind::Train)).is_empty(), "{summary}");
        }
    }
}
