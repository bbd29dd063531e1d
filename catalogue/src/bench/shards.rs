//! Raw shards, and one plain file with the same pixels to hold against them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use marquee_datasets::dice::Dice;
use marquee_datasets::mapping::map;
use marquee_datasets::picture::Shrinker;
use marquee_datasets::shards::{Check, ShardLayout, ShardSet, ShardWriter};
use marquee_domain::report::SourceNote;
use marquee_domain::spec::ImageEncoding;

use super::pictures::{NUMBERS, files, normalise};
use super::{Round, SIDE};

const SHARDS_FOLDER: &str = "shards";
const PLAIN_FILE: &str = "plain.rgb";
const SPLIT: &str = "train";
/// The default of a preprocess job.
const SHARD_BYTES: u64 = 512 * 1024 * 1024;
/// Both readers visit the rows in this order.
const ORDER_SEED: u64 = 7;

/// Packs the picture files below `folder` into raw shards, and into a plain file.
pub fn make_shards(folder: &Path) -> anyhow::Result<()> {
    let (dir, plain) = (folder.join(SHARDS_FOLDER), folder.join(PLAIN_FILE));
    if plain.exists() {
        return Ok(());
    }
    fs::create_dir_all(&dir)?;
    let layout = ShardLayout {
        width: SIDE,
        height: SIDE,
        encoding: ImageEncoding::Raw,
        classes: vec!["poster".to_owned()],
        source: SourceNote::default(),
        seed: 1,
        shard_bytes: SHARD_BYTES,
        notes: BTreeMap::new(),
    };
    let mut writer = ShardWriter::create(&dir, layout)?;
    let aside = plain.with_extension("aside");
    let mut out = BufWriter::new(File::create(&aside)?);
    let mut shrinker = Shrinker::new(SIDE, SIDE);
    for (at, file) in files(folder)?.into_iter().enumerate() {
        let file = fs::read(file)?;
        let pixels = shrinker.pixels(&file).map_err(anyhow::Error::msg)?;
        writer.push(SPLIT, &at.to_string(), &[1], pixels)?;
        out.write_all(pixels)?;
    }
    writer.finish()?;
    out.flush()?;
    // Last of all: the plain file under its name says that the shards beside it are whole, too.
    fs::rename(aside, plain)?;
    Ok(())
}

/// Rows at random, each as likely as any.
fn order(rows: usize) -> impl Iterator<Item = usize> {
    let mut dice = Dice::keyed(&[ORDER_SEED]);
    std::iter::repeat_with(move || dice.below(rows))
}

pub(super) fn raw(folder: &Path) -> anyhow::Result<Box<Round>> {
    // Without the sums over all bytes, which would read each file once before anything is measured.
    let set = ShardSet::open_with(&folder.join(SHARDS_FOLDER), Check::Layout)?;
    let rows = set.split(SPLIT).map_or(0, |split| split.len());
    let mut order = order(rows);
    let (normalise, mut numbers) = (normalise(), vec![0.0; NUMBERS]);
    Ok(Box::new(move |items| {
        let split = set.split(SPLIT).expect("it was there above");
        let mut check = 0.0;
        for row in order.by_ref().take(items) {
            normalise.planes(split.row(row)?.image, &mut numbers);
            check += f64::from(numbers[NUMBERS / 2]);
        }
        Ok((items, check))
    }))
}

pub(super) fn mapped(folder: &Path) -> anyhow::Result<Box<Round>> {
    let pixels = map(&folder.join(PLAIN_FILE))?;
    let mut order = order(pixels.len() / NUMBERS);
    let (normalise, mut numbers) = (normalise(), vec![0.0; NUMBERS]);
    Ok(Box::new(move |items| {
        let mut check = 0.0;
        for row in order.by_ref().take(items) {
            normalise.planes(&pixels[row * NUMBERS..][..NUMBERS], &mut numbers);
            check += f64::from(numbers[NUMBERS / 2]);
        }
        Ok((items, check))
    }))
}
