//! Where each rank's time went, and what held training up.

use marquee_domain::bottleneck::{JobParts, diagnose};
use marquee_domain::report::{PhaseTimes, TrainSummary};

use super::Part;
use crate::page::{Cell, Page, left, right};
use crate::{outcome, trained, units};

/// One train job: how fast it was, and where the time of its ranks went.
pub(super) fn section(page: &mut Page, training: &Part<Vec<TrainSummary>>) {
    let [first, ..] = training.left.as_slice() else {
        return;
    };
    page.heading(title(&training.name, first));
    for went_on in &first.went_on {
        page.line(went_on.words());
    }
    table(page, &training.left, first);
}

fn title(name: &str, first: &TrainSummary) -> String {
    let backend = if first.backend == "none" {
        String::new()
    } else {
        format!(" ({})", first.backend)
    };
    let resumed = if first.resumed_from_step > 0 {
        format!(
            ", resumed from step {}",
            units::count(first.resumed_from_step)
        )
    } else {
        String::new()
    };
    // Steps over features read no picture, so their rate alone would be that of another job.
    let rate = if first.phases.features_s > 0.0 {
        format!(
            "{} images/s with the passes for features, {} in steps alone,",
            units::rate(first.whole_images_per_second()),
            units::rate(first.images_per_second)
        )
    } else {
        format!("{} images/s", units::rate(first.images_per_second))
    };
    format!(
        "{name}: training of {} at {rate} on {}{backend}, {} steps, {} parameters{resumed}",
        first.model,
        units::plural(first.world_size as usize, "rank"),
        units::count(first.steps),
        units::count(first.parameters)
    )
}

/// A phase's name and how to read it out of the times.
type Phase = (&'static str, fn(&PhaseTimes) -> f64);

/// The parts of a step, in the order in which they happen.
const PHASES: [Phase; 6] = [
    ("input", |times| times.input_s),
    ("forward", |times| times.forward_s),
    ("backward", |times| times.backward_s),
    ("all-reduce", |times| times.all_reduce_s),
    ("optimizer", |times| times.optimizer_s),
    ("checkpoint", |times| times.checkpoint_s),
];
/// Ranks that fit beside each other; JSON has all.
const RANKS_SHOWN: usize = 6;

fn table(page: &mut Page, ranks: &[TrainSummary], first: &TrainSummary) {
    let shown = &ranks[..ranks.len().min(RANKS_SHOWN)];
    let mut heads = vec![left("WHERE THE TIME WENT")];
    heads.extend(
        shown
            .iter()
            .map(|rank| right(format!("RANK {}", rank.rank))),
    );
    let row = |name: &str, cell: &dyn Fn(&PhaseTimes) -> String| {
        let cells = shown.iter().map(|rank| cell(&rank.phases).into());
        std::iter::once(Cell::from(name)).chain(cells).collect()
    };
    // As a share of the steps and not of the job: parts of different jobs are compared by it.
    let part =
        |read: fn(&PhaseTimes) -> f64| move |times: &PhaseTimes| share(read(times), times.step_s);
    let mut rows: Vec<Vec<Cell>> = PHASES
        .iter()
        .map(|(name, read)| row(name, &part(*read)))
        .collect();
    rows.push(row("other", &part(other_s)));
    rows.push(row("all steps", &|times| {
        format!("{:.1} s      ", times.step_s)
    }));
    let whole: [Phase; 2] = [
        ("validation", |times| times.validation_s),
        ("features, once", |times| times.features_s),
    ];
    for (name, read) in whole {
        // Most jobs compute no features: a row of zeros would only raise the question.
        if name == "validation" || shown.iter().any(|rank| read(&rank.phases) > 0.0) {
            rows.push(row(name, &|times| format!("{:.1} s      ", read(times))));
        }
    }
    page.table(heads, rows);
    if ranks.len() > shown.len() {
        page.line(format!(
            "(and {} more; --output json has all)",
            ranks.len() - shown.len()
        ));
    }
    if let Some(parts) = JobParts::of(ranks) {
        page.line(parts.words());
    }
    if let Some(bottleneck) = diagnose(ranks) {
        page.line(bottleneck.words());
    }
    for (label, line) in trained::lines(first) {
        page.line(format!("{label}: {line}"));
    }
    for warning in outcome::warnings(ranks) {
        page.line(format!("WARNING: {warning}"));
    }
}

/// Time of the steps that belongs to no phase: the cost of the training loop itself.
fn other_s(times: &PhaseTimes) -> f64 {
    let known: f64 = PHASES.iter().map(|(_, read)| read(times)).sum();
    // Phases are measured by clocks of their own, and may come out a hair above the whole.
    (times.step_s - known).max(0.0)
}

/// `12.3 s  45 %`.
fn share(seconds: f64, of: f64) -> String {
    let percent = if of > 0.0 { 100.0 * seconds / of } else { 0.0 };
    format!("{seconds:.1} s {percent:>3.0} %")
}
