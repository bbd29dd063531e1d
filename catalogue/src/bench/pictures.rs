//! Picture files: made once, then decoded, resized and normalised as a preprocess job does it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use marquee_datasets::normalise::Normalise;
use marquee_datasets::ordered::in_order;
use marquee_datasets::picture::Shrinker;
use marquee_datasets::scale::Rgb;

use super::{BATCH, LOADER_THREADS, MEAN, Round, SIDE, STD};
use crate::film::Films;
use crate::image_file::{Painter, Style};

/// Where the picture files lie.
pub const PICTURES_FOLDER: &str = "pictures";
/// As public services serve posters: 500 pixels wide, quality 85, colours at half size.
const WIDTH: u32 = 500;
const QUALITY: u8 = 85;

/// Paints `count` posters into files below `folder`; what is there is kept.
pub fn make_pictures(folder: &Path, count: usize) -> anyhow::Result<()> {
    let folder = folder.join(PICTURES_FOLDER);
    fs::create_dir_all(&folder)?;
    let missing: Vec<usize> = (0..count)
        .filter(|at| !folder.join(name_of(*at)).exists())
        .collect();
    let painter = Painter {
        films: Films::new(1, count),
        storm: None,
        style: Style::Full,
    };
    let paint = |(): &mut (), at: usize| encoded(&painter.picture(missing[at], WIDTH));
    in_order(
        LOADER_THREADS,
        missing.len(),
        || (),
        paint,
        |at, bytes| {
            let name = name_of(missing[at]);
            let aside = folder.join(format!(".{name}"));
            // Under another name first: what has its own name is kept by the next run, so it must
            // be whole.
            fs::write(&aside, bytes?)?;
            fs::rename(&aside, folder.join(name))?;
            Ok(())
        },
    )
}

fn name_of(at: usize) -> String {
    format!("{at:06}.jpg")
}

fn encoded(picture: &Rgb) -> anyhow::Result<Vec<u8>> {
    let side = |pixels: u32| u16::try_from(pixels);
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder.encode(
        &picture.bytes,
        side(picture.width)?,
        side(picture.height)?,
        ColorType::Rgb,
    )?;
    Ok(bytes)
}

/// The picture files below `folder`, in the order of their names.
pub(super) fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let folder = folder.join(PICTURES_FOLDER);
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|file| file.extension().is_some_and(|ending| ending == "jpg"));
    // As folders list files in any order, and each run is to decode the same ones in the same
    // order.
    files.sort();
    anyhow::ensure!(!files.is_empty(), "{} has no pictures", folder.display());
    Ok(files)
}

pub(super) fn normalise() -> Normalise {
    Normalise::new(MEAN, STD)
}

/// Numbers of a normalised picture.
pub(super) const NUMBERS: usize = SIDE as usize * SIDE as usize * 3;

pub(super) fn decode(folder: &Path) -> anyhow::Result<Box<Round>> {
    let files = files(folder)?;
    let mut next = files.into_iter().cycle();
    let (normalise, mut shrinker) = (normalise(), Shrinker::new(SIDE, SIDE));
    let mut numbers = vec![0.0; NUMBERS];
    Ok(Box::new(move |items| {
        let mut check = 0.0;
        for file in next.by_ref().take(items) {
            let file = fs::read(file)?;
            let pixels = shrinker.pixels(&file).map_err(anyhow::Error::msg)?;
            normalise.planes(pixels, &mut numbers);
            check += f64::from(numbers[NUMBERS / 2]);
        }
        Ok((items, check))
    }))
}

pub(super) fn loader(folder: &Path) -> anyhow::Result<Box<Round>> {
    let files = files(folder)?;
    let normalise = normalise();
    let mut first = 0;
    // Memory of batches that were used, to be used again.
    let used: Mutex<Vec<Vec<f32>>> = Mutex::default();
    Ok(Box::new(move |items| {
        let start = first;
        first += items;
        let work = |shrinker: &mut Shrinker, batch: usize| -> Result<Vec<f32>, String> {
            let places = start + batch * BATCH..start + ((batch + 1) * BATCH).min(items);
            let mut numbers = used
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop()
                .unwrap_or_default();
            numbers.resize(places.len() * NUMBERS, 0.0);
            for (place, out) in places.zip(numbers.chunks_exact_mut(NUMBERS)) {
                let file = &files[place % files.len()];
                let file = fs::read(file).map_err(|error| error.to_string())?;
                normalise.planes(shrinker.pixels(&file)?, out);
            }
            Ok(numbers)
        };
        let mut check = 0.0;
        let batches = items.div_ceil(BATCH);
        let start = || Shrinker::new(SIDE, SIDE);
        in_order(LOADER_THREADS, batches, start, work, |_, numbers| {
            let numbers = numbers.map_err(anyhow::Error::msg)?;
            check += f64::from(numbers[numbers.len() / 2]);
            used.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(numbers);
            anyhow::Ok(())
        })?;
        Ok((items, check))
    }))
}
