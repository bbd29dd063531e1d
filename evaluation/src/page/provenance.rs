//! Which run the page is of: two runs of one model are told apart at a glance.

use marquee_domain::artifact::Digest;
use marquee_domain::report::EvalReport;
use maud::{Markup, html};

use super::format::count;

/// The page's title, by which a reader finds it among other tabs.
pub(super) fn title(report: &EvalReport) -> String {
    let job = report.provenance.as_ref().and_then(|run| run.job.as_ref());
    match job {
        // What differs between reports stands first: of many tabs a browser shows the beginnings
        // alone.
        Some(job) => format!("{} · {} · Marquee evaluation", report.model, job.words()),
        None => format!("{} · Marquee evaluation", report.model),
    }
}

/// Facts below the model's name.
pub(super) fn facts(report: &EvalReport) -> Markup {
    let Some(run) = &report.provenance else {
        return html! {};
    };
    html! {
        dl.run {
            @if let Some(job) = &run.job {
                dt { "Eval" }
                dd {
                    (job.words())
                    @if let Some(at) = &run.at { ", " (day_and_time(at)) }
                    ", seed " (run.seed)
                }
            }
            @if run.trained_by.is_some() || run.model.is_some() || report.overlap.is_some() {
                dt { "Model" }
                dd {
                    @if let Some(by) = &run.trained_by { "trained by " (by.job.words()) ", seed " (by.seed) ". " }
                    (artifact(run.model.as_ref()))
                    (learned(report))
                }
            }
            dt { "Pictures" }
            dd {
                @if !report.source.name.is_empty() { (report.source.name) ": " }
                (run.layout)
                @if let Some(seed) = run.split_seed { ", split by seed " (seed) }
                ". "
                @if let Some(dataset) = &run.dataset { "Data set " (digest(dataset)) ". " }
                (artifact(run.shards.as_ref()))
            }
        }
    }
}

/// What the model has on record of its own training.
fn learned(report: &EvalReport) -> Markup {
    let Some(overlap) = report.overlap.as_ref() else {
        return html! {};
    };
    html! {
        @if overlap.recorded {
            "Trained on " (count(overlap.trained_pictures)) " pictures, tuned on " (count(overlap.tuned_pictures)) "."
        } @else {
            "It has no record of the pictures that it was trained on."
        }
        @if !overlap.unrecorded.is_empty() {
            " Not on record: what " (overlap.unrecorded.join(", ")) " learned from before."
        }
    }
}

fn artifact(found: Option<&Digest>) -> Markup {
    html! { @if let Some(found) = found { "Artifact " (digest(found)) ". " } }
}

/// The start of a digest, with the whole of it for whoever points at it.
fn digest(digest: &Digest) -> Markup {
    html! { code title=(digest.as_str()) { (digest.short()) } }
}

/// "2026-11-30T02:10:00Z" as "2026-11-30 02:10 UTC".
fn day_and_time(at: &str) -> String {
    match at.split_once('T') {
        Some((day, time)) => {
            // The text is the caller's and was not looked at: what is no time is shown as it is.
            let minute = time.get(..5).unwrap_or(time);
            format!("{day} {minute} UTC")
        }
        None => at.to_owned(),
    }
}
