//! One checkpoint in, one safetensors file and a note out.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use marquee_domain::artifact::Digest;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde::Serialize;

use crate::names::to_timm;
use crate::tensor::{Dtype, Tensor, Tensors};
use crate::torch::{Format, read_torch};
use crate::{Result, WeightsError, io_error, write_whole};

/// Version of the note's layout.
const FORMAT: u32 = 1;

/// What a user says of a file.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// Where it is from, such as a URL or a package's name and version.
    pub from: Option<String>,
    /// Its licence, such as `Apache-2.0`.
    pub licence: Option<String>,
}

/// The note beside the weights, `<name>.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Note {
    pub format: u32,
    /// SHA-256 of the safetensors file.
    pub sha256: Digest,
    /// The file that was imported.
    pub imported: Imported,
    pub source: Option<String>,
    pub licence: Option<String>,
    /// The model of the zoo that the names tell of.
    pub model: Option<&'static str>,
    pub tensors: usize,
    /// Numbers in all tensors.
    pub numbers: usize,
    /// How many names changed, and whose they were.
    pub renamed: usize,
    pub renamed_from: Option<&'static str>,
    /// What wrappers had put before names, and was taken off.
    pub unwrapped: Vec<&'static str>,
    /// Tensors left out: no network has them.
    pub dropped: Vec<String>,
    /// What the file held beside tensors.
    pub ignored: Vec<String>,
}

/// The file that was imported.
#[derive(Debug, Clone, Serialize)]
pub struct Imported {
    pub file: String,
    pub sha256: Digest,
    pub format: Format,
}

/// What an import wrote.
#[derive(Debug)]
pub struct Import {
    pub weights: PathBuf,
    pub note_file: PathBuf,
    pub note: Note,
}

/// Imports `file` into the folder `to`.
///
/// # Errors
/// [`WeightsError`] when the file is no checkpoint of tensors alone, or nothing can be written.
pub fn import(file: &Path, to: &Path, source: Source) -> Result<Import> {
    // As a whole: views may point anywhere into the file, and what is made of it is bounded by its
    // size.
    let bytes = fs::read(file).map_err(io_error(file))?;
    let (format, tensors, ignored) = read(&bytes)?;
    let (tensors, renamed) = to_timm(tensors)?;
    let encoded = encode(&tensors)?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let weights = to.join(format!("{stem}.safetensors"));
    // As the file system knows them: a link, or the same path written differently, is the same
    // file.
    if fs::canonicalize(&weights).ok() == fs::canonicalize(file).ok() {
        return Err(WeightsError::damaged(format!(
            "{} would be written over itself; give another folder",
            file.display()
        )));
    }
    let note = Note {
        format: FORMAT,
        sha256: Digest::of(&encoded),
        imported: Imported {
            file: file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            sha256: Digest::of(&bytes),
            format,
        },
        source: source.from,
        licence: source.licence,
        model: renamed.model,
        tensors: tensors.len(),
        numbers: tensors.values().map(Tensor::count).sum(),
        renamed: renamed.changed,
        renamed_from: renamed.from,
        unwrapped: renamed.unwrapped.into_iter().collect(),
        dropped: renamed.dropped,
        ignored,
    };
    fs::create_dir_all(to).map_err(io_error(to))?;
    // Before the note: a note must not name weights that are not there.
    write_whole(&weights, &encoded)?;
    let note_file = to.join(format!("{stem}.json"));
    let text = serde_json::to_vec_pretty(&note)
        .map_err(|error| WeightsError::damaged(format!("cannot write the note: {error}")))?;
    write_whole(&note_file, &text)?;
    Ok(Import {
        weights,
        note_file,
        note,
    })
}

/// Reads the tensors of a file in any of the formats; also what it held beside them, by name.
///
/// # Errors
/// [`WeightsError`] when it is torn, is of no format that is known, or holds more than tensors among them.
pub fn read(bytes: &[u8]) -> Result<(Format, Tensors, Vec<String>)> {
    // A safetensors file starts with the length of its JSON header.
    if bytes.get(8) != Some(&b'{') {
        return read_torch(bytes);
    }
    let broken = |error| WeightsError::damaged(format!("it is no whole safetensors file: {error}"));
    let file = SafeTensors::deserialize(bytes).map_err(broken)?;
    let mut tensors = Tensors::new();
    for (name, view) in file.tensors() {
        let dtype = Dtype::of_safetensors(view.dtype()).ok_or_else(|| {
            WeightsError::damaged(format!("{name:?} has the unknown type {:?}", view.dtype()))
        })?;
        let (shape, bytes) = (view.shape().to_vec(), view.data().to_vec());
        tensors.insert(
            name,
            Tensor {
                dtype,
                shape,
                bytes,
            },
        );
    }
    Ok((Format::Safetensors, tensors, Vec::new()))
}

fn encode(tensors: &Tensors) -> Result<Vec<u8>> {
    let broken = |error| WeightsError::damaged(format!("cannot write safetensors: {error}"));
    let views = tensors
        .iter()
        .map(|(name, t)| {
            Ok((
                name,
                TensorView::new(t.dtype.safetensors(), t.shape.clone(), &t.bytes)?,
            ))
        })
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(broken)?;
    // What loaders of the Python world look for.
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(about)).map_err(broken)
}
