//! Reads the pictures and labels of one split as tensors.

use std::sync::Arc;

use marquee_datasets::shards::{ShardIndex, ShardSet, Split};
use marquee_domain::spec::ImageEncoding;
use tch::{Device, Kind, Tensor};

use super::augment::Augment;
use super::batch::Batch;
use super::features::FeatureTable;
use super::mixing::{self, Mixing};
use super::request::{Picture, Request, View};
use crate::error::RunError;
use crate::ffi;

/// One split of the shards, with at least one row.
#[derive(Debug, Clone)]
pub(crate) struct SplitReader {
    set: Arc<ShardSet>,
    name: &'static str,
    rows: u64,
    /// What frozen networks made of its pictures, where that was computed once for all epochs.
    features: Option<Arc<FeatureTable>>,
    augment: Augment,
    mixing: Mixing,
    /// The device that batches are to be copied to without waiting; None: they stay here.
    pinned_for: Option<Device>,
}

impl SplitReader {
    /// The split `name` of `set`; None if there is none, or if it has no rows.
    pub(crate) fn of(set: &Arc<ShardSet>, name: &'static str) -> Option<Self> {
        let rows = set.split(name)?.len() as u64;
        (rows > 0).then(|| Self {
            set: set.clone(),
            name,
            rows,
            features: None,
            augment: Augment::default(),
            mixing: Mixing::default(),
            pinned_for: None,
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// From now on batches hold the features of `table` instead of pictures.
    pub(crate) fn set_features(&mut self, table: Arc<FeatureTable>) {
        self.features = Some(table);
    }

    /// The same split, with pictures changed as `augment` says.
    pub(crate) fn augmented(self, augment: Augment) -> Self {
        Self { augment, ..self }
    }

    /// The same split, with pictures mixed in pairs as `mixing` says where the plan asks for it.
    pub(crate) fn mixed(self, mixing: Mixing) -> Self {
        Self { mixing, ..self }
    }

    /// The same split, with batches in memory that a GPU copies from by itself. Nothing for a CPU.
    pub(crate) fn pinned_for(self, device: Device) -> Self {
        let pinned_for = match device {
            Device::Cuda(_) => Some(device),
            Device::Cpu | Device::Mps | Device::Vulkan => None,
        };
        Self { pinned_for, ..self }
    }

    /// How many threads read pictures, where the job does not say. Raw pictures are only copied, and
    /// one thread keeps up with that. Pictures that are decoded or changed get as many
    /// threads as the rank has cores.
    pub(crate) fn threads(&self, asked: u32, rank_threads: u32) -> usize {
        const MOST: u32 = 8;
        let is_copied = self.features.is_some()
            || self.index().encoding == ImageEncoding::Raw
                && self.augment.is_none()
                && self.mixing.is_none();
        let threads = match (asked, is_copied) {
            (0, true) => 1,
            (0, false) => rank_threads.clamp(1, MOST),
            (asked, _) => asked,
        };
        threads as usize
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) fn index(&self) -> &ShardIndex {
        self.set.index()
    }

    pub(crate) fn split(&self) -> &Split {
        self.set
            .split(self.name)
            .expect("it was there when the reader was made")
    }

    /// How many pictures of the split have each class.
    pub(crate) fn label_counts(&self) -> Result<Vec<u64>, RunError> {
        let split = self.split();
        let mut counts = vec![0; self.index().classes.len()];
        for row in 0..split.len() {
            for (count, label) in counts.iter_mut().zip(split.row(row)?.labels) {
                *count += u64::from(*label);
            }
        }
        Ok(counts)
    }

    /// Reads the pictures that `request` names.
    pub(crate) fn read(&self, request: &Request) -> Result<Batch, RunError> {
        let count = request.pictures.len();
        self.bring_near(&request.ahead);
        let (pixels, labels) = match &self.features {
            Some(table) => (
                table.of(&request.pictures)?,
                self.labels(&request.pictures, &[])?,
            ),
            None => {
                let (pixels, kept) = self.pixels(&request.pictures)?;
                (pixels, self.labels(&request.pictures, &kept)?)
            }
        };
        Ok(Batch {
            pixels: self.pinned(pixels)?,
            labels: self.pinned(labels)?,
            counted: if request.is_stand_in { 0 } else { count as u64 },
            global: request.global,
            first: request.first,
        })
    }

    /// Asks the kernel to read these rows before they are needed. In a thread of its own, since the call
    /// waits for the disk. It is only a hint: where it fails, the rows are read when they are needed.
    fn bring_near(&self, rows: &[u64]) {
        if rows.is_empty() || self.features.is_some() {
            return;
        }
        let rows: Vec<usize> = rows
            .iter()
            .filter_map(|row| usize::try_from(*row).ok())
            .collect();
        let (set, name) = (self.set.clone(), self.name);
        let reading = std::thread::Builder::new().name("read-ahead".to_owned());
        let read = move || set.split(name).map(|split| split.will_need(&rows));
        let _ = reading.spawn(read);
    }

    /// The labels of pictures. `kept` is the share of each picture that mixing has left; empty: all of
    /// each.
    fn labels(&self, pictures: &[Picture], kept: &[f32]) -> Result<Tensor, RunError> {
        let classes = self.index().classes.len();
        let of = |view: View| Ok::<_, RunError>(self.split().row(row_of(view)?)?.labels);
        let sides = [pictures.len(), classes].map(side);
        if self.mixing.is_none() || kept.is_empty() {
            let mut labels = Vec::with_capacity(pictures.len() * classes);
            for picture in pictures {
                labels.extend_from_slice(of(picture.view)?);
            }
            // As the bytes that they are: a quarter of what floats would take on the way to a GPU.
            return Ok(Tensor::f_from_data_size(&labels, &sides, Kind::Uint8)?);
        }
        let mut labels = Vec::with_capacity(pictures.len() * classes);
        for (picture, kept) in pictures.iter().zip(kept) {
            let own = of(picture.view)?;
            let other = match picture.partner {
                Some((partner, _)) => of(partner)?,
                None => own,
            };
            labels.extend(mixing::targets(own, other, *kept));
        }
        Ok(Tensor::f_from_slice(&labels)?.f_view(sides.as_slice())?)
    }

    /// The pictures, and the share of each that mixing has left.
    fn pixels(&self, pictures: &[Picture]) -> Result<(Tensor, Vec<f32>), RunError> {
        let index = self.index();
        let (width, height) = (index.width as usize, index.height as usize);
        let picture_bytes = index.picture_bytes();
        let (mut scratch, mut other) = (Vec::new(), Vec::new());
        let mut kept = vec![1.0; pictures.len()];
        // One buffer for the whole batch: it becomes the tensor in one copy.
        let mut pixels = vec![0; pictures.len() * picture_bytes];
        let outs = pixels.chunks_exact_mut(picture_bytes);
        for ((picture, out), kept) in pictures.iter().zip(outs).zip(&mut kept) {
            self.view_into(picture.view, out, &mut scratch)?;
            if let Some((partner, dice)) = picture.partner {
                other.resize(picture_bytes, 0);
                self.view_into(partner, &mut other, &mut scratch)?;
                *kept = self.mixing.apply(out, &other, (width, height), dice);
            }
        }
        let sides = [pictures.len(), height, width, 3].map(side);
        let pixels = Tensor::f_from_data_size(&pixels, &sides, Kind::Uint8)?;
        Ok((pixels, kept))
    }

    /// One row, mirrored and changed as its view says.
    fn view_into(&self, view: View, out: &mut [u8], scratch: &mut Vec<u8>) -> Result<(), RunError> {
        let size = (self.index().width as usize, self.index().height as usize);
        self.split().pixels_into(row_of(view)?, out)?;
        if view.is_flipped {
            mirror(out, size.0);
        }
        if !self.augment.is_none() {
            self.augment.apply(out, size, view.dice, scratch);
        }
        Ok(())
    }

    /// The same numbers where a GPU copies them from by itself, if there is one.
    fn pinned(&self, tensor: Tensor) -> Result<Tensor, RunError> {
        match self.pinned_for {
            Some(_) => Ok(ffi::pin(&tensor)?),
            None => Ok(tensor),
        }
    }
}

fn row_of(view: View) -> Result<usize, RunError> {
    usize::try_from(view.row).map_err(|_| {
        RunError::input(format!(
            "row {} is beyond what this host can count",
            view.row
        ))
    })
}

fn side(count: usize) -> i64 {
    i64::try_from(count).expect("what fits into memory fits into an i64")
}

/// Mirrors an RGB picture left to right, in place.
fn mirror(pixels: &mut [u8], width: usize) {
    for line in pixels.chunks_exact_mut(width * 3) {
        let (mut left, mut right) = (0, (width - 1) * 3);
        while left < right {
            for channel in 0..3 {
                line.swap(left + channel, right + channel);
            }
            left += 3;
            right -= 3;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirroring_turns_lines_but_not_colours() {
        let mut pixels = [
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18,
        ];
        mirror(&mut pixels, 3);
        assert_eq!(
            pixels,
            [
                7, 8, 9, 4, 5, 6, 1, 2, 3, 16, 17, 18, 13, 14, 15, 10, 11, 12
            ]
        );
        mirror(&mut pixels[..6], 2);
        assert_eq!(pixels[..6], [4, 5, 6, 7, 8, 9]);
    }
}
