//! One line a job on a terminal, drawn anew as things change.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use console::Style;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use marquee_domain::job::JobStateName;
use marquee_proto::v1::Job;
use marquee_view::{harmless, progress, status, words};

use super::reporter::Reporter;
use crate::say::say;

/// Redraws a second, at most.
const HERTZ: u8 = 10;
/// Columns of a job's name, unless a name is longer.
const NAME_COLUMNS: usize = 12;
/// Columns of the longest state.
const STATE_COLUMNS: usize = 9;

/// Bars on stderr.
#[derive(Debug)]
pub(crate) struct Bars {
    all: MultiProgress,
    jobs: BTreeMap<i64, (ProgressBar, Job)>,
}

impl Bars {
    pub(crate) fn new() -> Self {
        Self::on(ProgressDrawTarget::stderr_with_hz(HERTZ))
    }

    fn on(target: ProgressDrawTarget) -> Self {
        Self {
            all: MultiProgress::with_draw_target(target),
            jobs: BTreeMap::new(),
        }
    }

    fn draw(bar: &ProgressBar, job: &Job, now: DateTime<Utc>) {
        let progress = job.progress.as_ref().filter(|_| is_running(job));
        let percent = progress.and_then(progress::percent);
        if bar.is_finished() {
            // A retried job goes on in its old line.
            bar.reset();
        }
        bar.set_style(style(job, percent.is_some()));
        bar.set_prefix(format!("{:NAME_COLUMNS$}", job.name));
        bar.set_position(percent.unwrap_or_default());
        bar.set_message(harmless(&status::detail(job, now)).into_owned());
        if words::has_ended(job) {
            // Left as it stands: `finish` would fill the bar of a job that failed half way.
            bar.abandon();
        } else {
            bar.tick();
        }
    }
}

fn is_running(job: &Job) -> bool {
    words::state_name(job) == Some(JobStateName::Running)
}

/// The colour of a job's state.
fn colour(job: &Job) -> &'static str {
    match words::state_name(job) {
        Some(JobStateName::Running) => "cyan",
        Some(JobStateName::Succeeded) => "green",
        Some(JobStateName::Failed) => "red",
        Some(JobStateName::Cancelled) => "yellow",
        Some(JobStateName::Waiting | JobStateName::Queued) | None => "dim",
    }
}

fn style(job: &Job, with_bar: bool) -> ProgressStyle {
    let state = words::job_state(job);
    let colour = colour(job);
    let bar = if with_bar { "{bar:24.cyan/dim} " } else { "" };
    // The state is a word of ours and the columns are constants: nothing can break the template.
    let template = format!("{{prefix}} {{state:{STATE_COLUMNS}.{colour}}} {bar}{{wide_msg}}");
    ProgressStyle::with_template(&template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key(
            "state",
            move |_: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = out.write_str(state);
            },
        )
        .progress_chars("━╸─")
}

impl Reporter for Bars {
    fn job(&mut self, job: &Job, now: DateTime<Utc>) {
        let (bar, seen) = self
            .jobs
            .entry(job.id)
            .or_insert_with(|| (self.all.add(ProgressBar::new(100)), job.clone()));
        *seen = job.clone();
        Self::draw(bar, seen, now);
    }

    fn tick(&mut self, now: DateTime<Utc>) {
        for (bar, job) in self.jobs.values().filter(|(_, job)| is_running(job)) {
            Self::draw(bar, job, now);
        }
    }

    fn note(&mut self, text: &str) {
        // Printed above the bars. It fails only when the terminal is gone, and then nobody reads it.
        let _ = self.all.println(harmless(text));
    }

    /// Leaves ordinary lines where the bars were: what comes after may scroll.
    fn finish(&mut self, now: DateTime<Utc>) {
        let _ = self.all.clear();
        self.all.set_draw_target(ProgressDrawTarget::hidden());
        for (_, job) in self.jobs.values() {
            let state = Style::from_dotted_str(colour(job)).for_stderr();
            say!(
                "{:NAME_COLUMNS$} {} {}",
                job.name,
                state.apply_to(format!("{:STATE_COLUMNS$}", words::job_state(job))),
                harmless(&status::detail(job, now))
            );
        }
        self.jobs.clear();
    }
}
