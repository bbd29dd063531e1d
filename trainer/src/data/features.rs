//! Features of a split's rows, held in memory instead of its pictures.

use std::sync::{Mutex, PoisonError};

use tch::{TchError, Tensor};

use super::request::Picture;

/// Features of a split's rows.
#[derive(Debug)]
pub(crate) struct FeatureTable {
    /// `[rows, width]`, or twice as many rows: the second half is of the mirrored pictures.
    /// Behind a lock, since several threads read and a tensor's handle must not be used by two at once.
    features: Mutex<Tensor>,
    rows: u64,
}

impl FeatureTable {
    /// Of `rows` rows; `features` as the field says.
    pub(crate) fn new(features: Tensor, rows: u64) -> Self {
        Self {
            features: Mutex::new(features),
            rows,
        }
    }

    /// `[N, width]` for pictures.
    pub(crate) fn of(&self, pictures: &[Picture]) -> Result<Tensor, TchError> {
        let place = |picture: &Picture| {
            let view = picture.view;
            let behind = if view.is_flipped { self.rows } else { 0 };
            (view.row + behind).cast_signed()
        };
        // Outside of the lock: threads that prepare other batches need not wait for this.
        let places: Vec<i64> = pictures.iter().map(place).collect();
        let features = self.features.lock().unwrap_or_else(PoisonError::into_inner);
        features.f_index_select(0, &Tensor::f_from_slice(&places)?)
    }
}
