//! Validation at the end of an epoch: every rank scores its share, and the counts are added up.

use marquee_evaluation::{Confusion, counts};
use tch::{Kind, Reduction, Tensor};

use super::step::Stepper;
use crate::data::{Prefetch, SplitReader, scoring_requests};
use crate::error::RunError;
use crate::rendezvous::Peers;

/// Score from which a label counts as predicted. Thresholds are tuned later, by the eval job.
const THRESHOLD: f64 = 0.5;

/// How a network does on the validation split.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scores {
    /// Mean over pictures and classes.
    pub(super) loss: f64,
    pub(super) f1_micro: f64,
}

/// Scores `split` over all ranks. Every rank gets the same answer.
pub(super) fn score(
    stepper: &Stepper,
    split: &SplitReader,
    batch_size: u32,
    peers: &Peers,
) -> Result<Scores, RunError> {
    let batches = Prefetch::start(
        split.clone(),
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
        found += counts(&flat::<u8>(&batch.labels)?, &scores, THRESHOLD);
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

/// The values of a tensor, row by row.
pub(crate) fn flat<T: tch::kind::Element + Default + Clone>(
    tensor: &Tensor,
) -> Result<Vec<T>, RunError> {
    let tensor = tensor.f_contiguous()?;
    let mut values = vec![T::default(); tensor.numel()];
    tensor.f_copy_data(&mut values, tensor.numel())?;
    Ok(values)
}
