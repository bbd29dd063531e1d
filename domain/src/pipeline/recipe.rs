//! How a train job learns: the keys of schedules, number formats and augmentation. The defaults
//! stand here and in `docs/pipeline.md`, nowhere else.

use super::table::Table;
use crate::spec::{Backend, Colour, Crop, GradientCompression, LrSchedule, Precision, Span};

/// Steps beyond which a span is a typing error.
const STEPS_MAX: u64 = 1_000_000_000;
/// Epochs of a span: as many as a run may have.
const EPOCHS_MAX: f64 = 100_000.0;
/// A thousandth of an epoch is a step of any data set that needs a schedule.
const EPOCHS_MIN: f64 = 0.001;

/// What `OneCycleLR` does by default.
const RISE: f64 = 0.3;
const START_DIVISOR: f64 = 25.0;
const END_DIVISOR: f64 = 1e4;

/// The smallest share of a picture that a crop keeps by default: posters tell little from a corner.
const CROP_MIN_AREA: f64 = 0.5;
const CROP_MAX_STRETCH: f64 = 4.0 / 3.0;

/// `lr_schedule`: a name, or a table with a name and what belongs to it.
pub(super) fn lr_schedule(table: &mut Table<'_>) -> Option<LrSchedule> {
    let names = ["constant", "cosine", "step", "onecycle"].map(|name| (name, name));
    if !table.has("lr_schedule") || table.is_text("lr_schedule") {
        return match table.choice("lr_schedule", &names, Some("constant"))? {
            "step" => {
                table.add_error(
                    "lr_schedule",
                    "needs more than a name; give { name = \"step\", every_epochs = 10, factor = 0.1 }",
                );
                None
            }
            "onecycle" => finished(table, one_cycle(None)),
            "cosine" => Some(LrSchedule::Cosine),
            _ => Some(LrSchedule::Constant),
        };
    }
    let mut inner = table.table("lr_schedule")?;
    let read = match inner.choice("name", &names, None)? {
        "step" => step(&mut inner),
        "onecycle" => Some(one_cycle(Some(&mut inner))),
        "cosine" => Some(LrSchedule::Cosine),
        _ => Some(LrSchedule::Constant),
    };
    // A key of another schedule is an error here, and not passed over.
    inner.finish();
    finished(table, read?)
}

/// One-cycle has a warm-up of its own.
fn finished(table: &Table<'_>, schedule: LrSchedule) -> Option<LrSchedule> {
    let warms_up = table.has("warmup_steps") || table.has("warmup_epochs");
    if matches!(schedule, LrSchedule::OneCycle { .. }) && warms_up {
        table.add_error(
            "lr_schedule",
            "onecycle warms up by itself; leave warmup_steps and warmup_epochs out, or set its \"rise\"",
        );
    }
    Some(schedule)
}

fn step(table: &mut Table<'_>) -> Option<LrSchedule> {
    let every = span(table, "every_steps", "every_epochs");
    if every.is_none() {
        table.add_error(
            "every_epochs",
            "is missing; give every_epochs or every_steps",
        );
    }
    let factor = table.float("factor", 1e-6..=1.0, Some(0.1));
    Some(LrSchedule::Step {
        every: every?,
        factor,
    })
}

fn one_cycle(table: Option<&mut Table<'_>>) -> LrSchedule {
    let Some(table) = table else {
        return LrSchedule::OneCycle {
            rise: RISE,
            start_divisor: START_DIVISOR,
            end_divisor: END_DIVISOR,
        };
    };
    LrSchedule::OneCycle {
        rise: table.float("rise", 0.0..=1.0, Some(RISE)),
        start_divisor: table.float("start_divisor", 1.0..=1e9, Some(START_DIVISOR)),
        end_divisor: table.float("end_divisor", 1.0..=1e12, Some(END_DIVISOR)),
    }
}

/// `warmup_steps` or `warmup_epochs`.
pub(super) fn warmup(table: &mut Table<'_>) -> Option<Span> {
    span(table, "warmup_steps", "warmup_epochs")
}

/// A span by one of two keys; None where both are absent.
fn span(table: &mut Table<'_>, steps: &'static str, epochs: &'static str) -> Option<Span> {
    let by_steps = table
        .has(steps)
        .then(|| Span::Steps(table.int(steps, 1..=STEPS_MAX, None)));
    let by_epochs = table
        .has(epochs)
        .then(|| Span::Epochs(table.float(epochs, EPOCHS_MIN..=EPOCHS_MAX, None)));
    // Which of the two counted would depend on the order in which somebody wrote this function.
    if by_steps.is_some() && by_epochs.is_some() {
        table.add_error(steps, format!("stands beside {epochs}; give one of them"));
    }
    by_steps.or(by_epochs)
}

pub(super) fn precision(table: &mut Table<'_>) -> Option<Precision> {
    let all = [
        Precision::Fp32,
        Precision::Fp64,
        Precision::Tf32,
        Precision::Bf16,
        Precision::Fp16,
        Precision::Auto,
    ];
    let choices = all.map(|precision| (precision.as_str(), precision));
    table.choice("precision", &choices, Some(Precision::Fp32))
}

pub(super) fn backend(table: &mut Table<'_>) -> Option<Backend> {
    let choices = [
        ("auto", Backend::Auto),
        ("nccl", Backend::Nccl),
        ("gloo", Backend::Gloo),
    ];
    table.choice("backend", &choices, Some(Backend::Auto))
}

pub(super) fn gradient_compression(table: &mut Table<'_>) -> Option<GradientCompression> {
    let choices = [
        ("none", GradientCompression::None),
        ("bf16", GradientCompression::Bf16),
    ];
    table.choice(
        "gradient_compression",
        &choices,
        Some(GradientCompression::None),
    )
}

pub(super) fn crop(table: &mut Table<'_>) -> Option<Crop> {
    let mut crop = table.table("crop")?;
    let read = Crop {
        min_area: crop.float("min_area", 0.01..=1.0, Some(CROP_MIN_AREA)),
        max_stretch: crop.float("max_stretch", 1.0..=4.0, Some(CROP_MAX_STRETCH)),
    };
    crop.finish();
    Some(read)
}

pub(super) fn colour(table: &mut Table<'_>) -> Option<Colour> {
    let mut colour = table.table("colour")?;
    let read = Colour {
        brightness: colour.float("brightness", 0.0..=1.0, Some(0.0)),
        contrast: colour.float("contrast", 0.0..=1.0, Some(0.0)),
        saturation: colour.float("saturation", 0.0..=1.0, Some(0.0)),
    };
    colour.finish();
    Some(read)
}
