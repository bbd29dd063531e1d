//! What a rank trains on in one step.

use tch::{Device, Tensor};

use crate::error::RunError;
use crate::ffi;

/// Pictures of one step on one rank. For a GPU they lie in pinned memory, which it can copy from while
/// it computes.
#[derive(Debug)]
pub(crate) struct Batch {
    /// uint8 `[N, height, width, 3]`, RGB; or features `[N, width]`, where the split has them.
    pub(crate) pixels: Tensor,
    /// `[N, classes]`: uint8 0 or 1, or float from 0 to 1 where pictures may be mixed.
    pub(crate) labels: Tensor,
    /// Pictures that count: N, or 0 where the batch is a stand-in.
    pub(crate) counted: u64,
    /// Pictures that count in this step over all ranks.
    pub(crate) global: u64,
    /// Place of this rank's first picture within the step. Dropout's random numbers depend on it.
    pub(crate) first: u64,
}

impl Batch {
    /// The same on `device`. To GPUs it is copied while they compute.
    pub(crate) fn on(&self, device: Device) -> Result<Self, RunError> {
        Ok(Self {
            pixels: ffi::upload(&self.pixels, device)?,
            labels: ffi::upload(&self.labels, device)?,
            ..*self
        })
    }
}
