//! Writes a report of made-up scores, to look at while working on the page:
//! `cargo run -p marquee-evaluation --example sample_report -- FOLDER`
#![allow(
    clippy::cast_possible_truncation,
    reason = "colours and made-up scores"
)]

use std::path::PathBuf;

use jpeg_encoder::{ColorType, Encoder};
use marquee_domain::artifact::Digest;
use marquee_domain::ids::{JobId, JobName, PipelineId};
use marquee_domain::report::{NamedJob, Overlap, Provenance, SourceNote, TrainedBy};
use marquee_evaluation::{EpochRow, EvalInput, SplitScores, Timing, write_report};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Labels, and how often each is true.
const CLASSES: [(&str, f64); 11] = [
    ("Drama", 0.31),
    ("Comedy", 0.27),
    ("Horror", 0.20),
    ("Romance", 0.17),
    ("Science Fiction", 0.14),
    ("Western", 0.12),
    ("Crime", 0.10),
    ("Documentary", 0.08),
    // A name that has to be escaped.
    ("Music & <Dance>", 0.05),
    ("War", 0.02),
    // Never true: a class without AUC and average precision.
    ("Silent", 0.0),
];
const PICTURES: usize = 300;
const WIDTH: u16 = 160;
const HEIGHT: u16 = 240;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = PathBuf::from(
        std::env::args()
            .nth(1)
            .ok_or("usage: sample_report FOLDER")?,
    );
    std::fs::create_dir_all(&dir)?;
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let test = scores(&mut random, "film");
    let truth = test.truth.clone();
    let input = EvalInput {
        model: "simple-cnn".to_owned(),
        provenance: provenance()?,
        picture_size: (48, 72),
        classes: CLASSES.map(|(name, _)| name.to_owned()).to_vec(),
        validation: scores(&mut random, "val"),
        test,
        thresholds: [("Drama".to_owned(), 0.3)].into(),
        bootstrap_resamples: 1000,
        gallery: 6,
        seed: 5,
        source: SourceNote {
            synthetic: true,
            attribution: Some("Generated posters; no rights reserved.".to_owned()),
            f1_micro_ceiling: Some(0.831),
            ..SourceNote::default()
        },
        data_warnings: Vec::new(),
        overlap: Overlap {
            recorded: true,
            comparable: true,
            trained_pictures: 1_400,
            tuned_pictures: 300,
            // So that the line on weights without a record is on the page.
            unrecorded: vec!["resnet18.safetensors".to_owned()],
            ..Overlap::default()
        },
        allow_overlap: false,
        history: history(),
        timing: Timing {
            images_per_second: 412.0,
            seconds: 1.5,
        },
        thumbnail: &|_, row| poster(&truth[row * CLASSES.len()..(row + 1) * CLASSES.len()], row),
    };
    let report = write_report(&dir, &input)?;
    eprintln!(
        "{} rules, {} warnings",
        report.rules.len(),
        report.warnings.len()
    );
    Ok(())
}

fn provenance() -> Result<Provenance, Box<dyn std::error::Error>> {
    let (eval, train): (JobName, JobName) = ("eval".parse()?, "train".parse()?);
    let job = |id, name: &JobName| NamedJob {
        job: JobId(id),
        name: name.clone(),
        pipeline: Some(PipelineId(3)),
    };
    Ok(Provenance {
        job: Some(job(18, &eval)),
        at: Some("2026-11-30T02:10:00Z".to_owned()),
        seed: 1,
        model: Some(Digest::of(b"model")),
        trained_by: Some(TrainedBy {
            job: job(17, &train),
            seed: 11,
        }),
        shards: Some(Digest::of(b"shards")),
        dataset: Some(Digest::of(b"data set")),
        split_seed: Some(2),
        layout: "raw, 48 x 72 pixels".to_owned(),
    })
}

fn scores(random: &mut ChaCha8Rng, prefix: &str) -> SplitScores {
    let mut split = SplitScores::default();
    for row in 0..PICTURES {
        split.ids.push(format!("{prefix}-{row:05}"));
        for (class, (_, chance)) in CLASSES.iter().enumerate() {
            let is_true = random.random_bool(*chance);
            // A sum of six uniform draws: normal enough.
            let noise: f64 = (0..6).map(|_| random.random_range(-1.0..1.0)).sum();
            // Rarer classes are told apart less well, as in real data.
            let clarity = 1.9 - 0.12 * class as f64;
            let logit = if is_true { clarity } else { -clarity } + noise - 0.5;
            split.truth.push(u8::from(is_true));
            split.scores.push((1.0 / (1.0 + (-logit).exp())) as f32);
        }
    }
    split
}

fn history() -> Vec<EpochRow> {
    (1..=8_u32)
        .map(|epoch| {
            let decay = (-0.35 * f64::from(epoch)).exp();
            EpochRow {
                epoch,
                step: u64::from(epoch) * 75,
                train_loss: 0.18 + 0.55 * decay,
                validation_loss: Some(0.27 + 0.42 * decay + 0.004 * f64::from(epoch)),
                validation_f1_micro: Some(0.75 - 0.9 * decay),
                seconds: 11.2 + 0.1 * f64::from(epoch),
                images_per_second: 214.0,
                of_features: false,
            }
        })
        .collect()
}

/// A striped poster whose colours follow from its labels. One in fifty is missing.
fn poster(truth: &[u8], row: usize) -> Option<Vec<u8>> {
    if row % 50 == 7 {
        return None;
    }
    let labels: Vec<usize> = (0..truth.len())
        .filter(|&class| truth[class] == 1)
        .collect();
    let mut pixels = Vec::new();
    for y in 0..usize::from(HEIGHT) {
        let class = labels
            .get(y * labels.len().max(1) / usize::from(HEIGHT))
            .copied()
            .unwrap_or(11);
        for x in 0..usize::from(WIDTH) {
            let shade = (x + y + row) % 40 * 2;
            pixels.extend(
                [class * 57, class * 101 + 60, class * 31 + 120].map(|c| ((c + shade) % 256) as u8),
            );
        }
    }
    let mut jpeg = Vec::new();
    Encoder::new(&mut jpeg, 80)
        .encode(&pixels, WIDTH, HEIGHT, ColorType::Rgb)
        .ok()?;
    Some(jpeg)
}
