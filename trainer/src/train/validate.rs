//! Validation at the end of an epoch: every rank scores its share, and the counts are added up.

use marquee_evaluation::{Confusion, SplitScores, counts};
use tch::{Kind, Reduction, Tensor};

use super::step::Stepper;
use crate::data::{Prefetch, SplitReader, scoring_requests, share};
use crate::error::RunError;
use crate::ffi;
use crate::rendezvous::Peers;
use crate::tensors::flat;

/// Score from which a label counts as predicted. Thresholds are tuned later, by the eval job.
const THRESHOLD: f64 = 0.5;

/// How a network does on the validation split.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scores {
    /// Mean over pictures and classes.
    pub(super) loss: f64,
    pub(super) f1_micro: f64,
}

/// Scores `split` over all ranks. Every rank gets the same answer, and in `gathered` the scores of all
/// rows, where it is asked for.
pub(super) fn score(
    stepper: &Stepper,
    split: &SplitReader,
    threads: usize,
    batch_size: u32,
    peers: &Peers,
    mut gathered: Option<&mut SplitScores>,
) -> Result<Scores, RunError> {
    let classes = split.index().classes.len();
    let mine = share(split.rows(), peers.rank, peers.world_size);
    let mut place = usize::try_from(mine.start).unwrap_or(0) * classes;
    if let Some(all) = &mut gathered {
        let cells = usize::try_from(split.rows()).unwrap_or(0) * classes;
        all.scores = vec![0.0; cells];
        all.truth = vec![0; cells];
    }
    let batches = Prefetch::start(
        split,
        threads,
        scoring_requests(split.rows(), batch_size, peers.rank, peers.world_size),
    )?;
    let (mut found, mut loss, mut cells) = (Confusion::default(), 0.0, 0.0);
    while let Some(batch) = batches.next() {
        let batch = batch?;
        let logits = stepper
            .logits(&batch.pixels)?
            .f_to_device(tch::Device::Cpu)?;
        let targets = batch.labels.f_to_kind(logits.f_kind()?)?;
        let sum = logits.f_binary_cross_entropy_with_logits(
            &targets,
            None::<&Tensor>,
            None::<&Tensor>,
            Reduction::Sum,
        )?;
        loss += sum.f_double_value(&[])?;
        cells += targets.numel() as f64;
        let scores = flat::<f32>(&logits.f_sigmoid()?.f_to_kind(Kind::Float)?)?;
        let truth = flat::<u8>(&batch.labels)?;
        if let Some(all) = &mut gathered {
            let end = place + scores.len();
            all.scores[place..end].copy_from_slice(&scores);
            all.truth[place..end].copy_from_slice(&truth);
            place = end;
        }
        found += counts(&truth, &scores, THRESHOLD);
        // No step ends during a validation: without this, whoever watches would see a rank that
        // stands still.
        ffi::beat();
    }
    if let (Some(all), Some(group)) = (gathered, peers.group()) {
        // Each rank has 0 in the places that others scored, so the sum over ranks holds every score.
        let (scores, truth) = (
            Tensor::f_from_slice(&all.scores)?,
            Tensor::f_from_slice(&all.truth)?,
        );
        let truth = truth.f_to_kind(Kind::Float)?;
        group.all_reduce_sum(&scores)?;
        group.all_reduce_sum(&truth)?;
        all.scores = flat(&scores)?;
        all.truth = flat(&truth.f_to_kind(Kind::Uint8)?)?;
    }
    let mine = [
        found.true_positive as f64,
        found.false_positive as f64,
        found.false_negative as f64,
        loss,
        cells,
    ];
    let [true_positive, false_positive, false_negative, loss, cells] = peers.sum(mine)?;
    let twice = 2.0 * true_positive;
    let all = twice + false_positive + false_negative;
    Ok(Scores {
        loss: loss / cells,
        f1_micro: if all > 0.0 { twice / all } else { 0.0 },
    })
}
