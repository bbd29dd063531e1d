//! `marquee-trainer make-shards`: raw shards of noise, to measure the way of pictures into training on a
//! host that has no data.
//!
//! Invariant: what is written follows from the arguments alone.

use std::collections::BTreeMap;
use std::path::Path;

use marquee_datasets::shards::{ShardLayout, ShardWriter};
use marquee_domain::report::SourceNote;
use marquee_domain::spec::ImageEncoding;

use crate::data::TRAIN;
use crate::error::RunError;

/// Classes of a picture: as many as posters have.
const CLASSES: usize = 20;
/// Bytes of one shard, about: the default of preprocess jobs.
const SHARD_BYTES: u64 = 512 << 20;

/// Writes `rows` pictures of `side` x `side` pixels into `dir`, all for training.
pub(super) fn make_shards(dir: &Path, rows: u32, side: u32) -> Result<(), RunError> {
    let failed = |error: &dyn std::fmt::Display| {
        RunError::host(format!("{} cannot be written: {error}", dir.display()))
    };
    std::fs::create_dir_all(dir).map_err(|error| failed(&error))?;
    let layout = ShardLayout {
        width: side,
        height: side,
        encoding: ImageEncoding::Raw,
        classes: (0..CLASSES).map(|class| format!("class-{class}")).collect(),
        source: SourceNote {
            synthetic: true,
            ..SourceNote::default()
        },
        seed: 1,
        shard_bytes: SHARD_BYTES,
        notes: BTreeMap::new(),
    };
    let mut writer = ShardWriter::create(dir, layout).map_err(|error| failed(&error))?;
    let mut noise = Noise(1);
    let mut picture = vec![0; side as usize * side as usize * 3];
    let mut labels = [0; CLASSES];
    for row in 0..rows {
        // Noise and not one colour: neither a disk nor a file system must be able to compress it.
        picture.fill_with(|| noise.byte());
        labels.fill_with(|| u8::from(noise.byte() < 77));
        writer
            .push(TRAIN, &format!("noise-{row}"), &labels, &picture)
            .map_err(|error| failed(&error))?;
    }
    writer.finish().map_err(|error| failed(&error))?;
    Ok(())
}

/// A stream of bytes: the upper bits of a linear congruential generator (Knuth's MMIX).
struct Noise(u64);

impl Noise {
    fn byte(&mut self) -> u8 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0.to_be_bytes()[0]
    }
}
