//! The two containers of `torch.save`: a ZIP archive (since PyTorch 1.6) and, before, pickles one
//! after the other with the storages' bytes behind them.
//!
//! Both describe tensors as views of storages. Invariant: each storage has exactly the bytes that
//! the description claims, and a view lies within its storage; otherwise the file is refused.

use std::collections::HashMap;
use std::io::{Cursor, Read as _};

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use crate::pickle::{Global, Node, Pickle, Value, View, size};
use crate::tensor::{Dtype, Tensor, Tensors};
use crate::{Result, WeightsError};

/// First pickle of the legacy format, little endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const LEGACY_PROTOCOL: i64 = 1001;
/// Bytes of all tensors, in bytes of the file: views may share storage, but not to fill a disk.
const EXPANSION_MAX: usize = 8;
/// Beside it, so that tiny files of shared tensors are read too.
const EXPANSION_FREE_BYTES: usize = 1 << 20;
/// Files in an archive: one a storage, and a handful.
const ARCHIVE_FILES_MAX: usize = 1 << 20;
/// Where training scripts put the state_dict within what they save.
const PLACES: [&str; 7] = [
    "state_dict",
    "model_state_dict",
    "model",
    "state_dict_ema",
    "model_ema",
    "net",
    "module",
];

/// How a checkpoint was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    TorchZip,
    TorchLegacy,
    Safetensors,
}

/// Reads the tensors of a PyTorch checkpoint; also what it held beside them, by name.
///
/// # Errors
/// [`WeightsError`] when the file is torn, is none that `torch.save` writes, or names anything but
/// tensors.
pub fn read_torch(bytes: &[u8]) -> Result<(Format, Tensors, Vec<String>)> {
    if bytes.starts_with(b"PK\x03\x04") {
        let (tensors, others) = read_zip(bytes)?;
        return Ok((Format::TorchZip, tensors, others));
    }
    // The opcode that names the protocol: every pickle of protocol 2 or later begins with it.
    if bytes.first() != Some(&0x80) {
        return Err(WeightsError::damaged(
            "it is no PyTorch checkpoint: neither a ZIP archive nor a pickle",
        ));
    }
    let (tensors, others) = read_legacy(bytes)?;
    Ok((Format::TorchLegacy, tensors, others))
}

/// The bytes of storages by key.
type Storages<'a> = HashMap<String, std::borrow::Cow<'a, [u8]>>;

fn read_zip(bytes: &[u8]) -> Result<(Tensors, Vec<String>)> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
    if archive.len() > ARCHIVE_FILES_MAX {
        return Err(WeightsError::damaged("the archive has too many files"));
    }
    check_entries(&mut archive, bytes.len())?;
    let names = archive
        .file_names()
        .map(|name| name.map(std::borrow::Cow::into_owned))
        .collect::<std::result::Result<Vec<String>, _>>()
        .map_err(broken)?;
    let root = names.iter().find_map(|name| name.strip_suffix("data.pkl"));
    let root = root.ok_or_else(|| {
        WeightsError::damaged("the archive has no data.pkl; it was not written by torch.save")
    })?;
    // Only programs have constants. Their weights lie elsewhere, and reading on would find a part.
    if names
        .iter()
        .any(|name| *name == format!("{root}constants.pkl"))
    {
        return Err(WeightsError::damaged(
            "it is a TorchScript program, not a file of weights; save model.state_dict()",
        ));
    }
    let mut read = |name: &str| -> Result<Vec<u8>> {
        let mut file = archive.by_name(name).map_err(broken)?;
        // A compressed file could unpack to any size.
        if file.compression() != CompressionMethod::Stored || file.size() > bytes.len() as u64 {
            return Err(WeightsError::damaged(format!(
                "{name} is compressed, which torch.save never does"
            )));
        }
        let mut content = Vec::new();
        let torn = |error| WeightsError::damaged(format!("{name} cannot be read: {error}"));
        file.read_to_end(&mut content).map_err(torn)?;
        Ok(content)
    };
    // Older versions write no order; theirs was always little.
    let order = format!("{root}byteorder");
    if names.contains(&order) && read(&order)? != b"little" {
        return Err(WeightsError::damaged(
            "it was written on a big-endian machine; save it again on a usual one",
        ));
    }
    let pickle = Pickle::read(&read(&format!("{root}data.pkl"))?)?;
    let mut storages = Storages::new();
    let at = format!("{root}data/");
    for name in &names {
        if let Some(key) = name.strip_prefix(&at) {
            storages.insert(key.to_owned(), read(name)?.into());
        }
    }
    tensors(&pickle, &storages, bytes.len())
}

/// Refuses an archive whose entries share bytes. Each of ten thousand of them could be the whole file: read one
/// by one, they would be ten thousand times as large.
fn check_entries(archive: &mut ZipArchive<Cursor<&[u8]>>, file_bytes: usize) -> Result<()> {
    let overlap = || {
        WeightsError::damaged(
            "the archive's entries overlap, or are larger than the file; torch.save writes no such archive, so it \
             is not to be trusted",
        )
    };
    let mut spans = Vec::with_capacity(archive.len());
    for at in 0..archive.len() {
        let entry = archive.by_index_raw(at).map_err(broken)?;
        let data = entry.data_start().unwrap_or(entry.header_start());
        let end = data.checked_add(entry.compressed_size());
        let end = end.filter(|end| *end <= file_bytes as u64);
        spans.push((entry.header_start(), end.ok_or_else(overlap)?));
    }
    spans.sort_unstable();
    // Entries that do not overlap are together no larger than the file.
    if spans.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return Err(overlap());
    }
    Ok(())
}

fn broken(error: ZipError) -> WeightsError {
    WeightsError::damaged(format!(
        "the archive cannot be read, it may be truncated: {error}"
    ))
}

fn read_legacy(bytes: &[u8]) -> Result<(Tensors, Vec<String>)> {
    let mut at = 0;
    let mut next = || -> Result<Pickle> {
        let pickle = Pickle::read(&bytes[at..])?;
        at += pickle.length;
        Ok(pickle)
    };
    let magic = next()?;
    if magic.node(magic.root) != Some(&Node::Big(MAGIC.to_vec())) {
        return Err(WeightsError::damaged(
            "it is a pickle, but none that torch.save writes",
        ));
    }
    if next()?.root != Value::Int(LEGACY_PROTOCOL) {
        return Err(WeightsError::damaged(
            "it is of an unknown version of torch.save",
        ));
    }
    let about = next()?;
    if flag(&about, "little_endian") == Some(false) {
        return Err(WeightsError::damaged(
            "it was written on a big-endian machine; save it again on a usual one",
        ));
    }
    let pickle = next()?;
    let keys = next()?;
    let torn =
        || WeightsError::damaged("the file ends in the middle of its numbers; it is truncated");
    // For its refusal alone: no two tensors disagree on a storage from here on.
    let claimed = storages_of(&pickle)?;
    let mut storages = Storages::new();
    for key in keys.items(keys.root).ok_or_else(torn)? {
        let key = keys.text(*key).ok_or_else(torn)?;
        // A storage says how many numbers it has and not how long they are. Without a tensor that
        // tells, nothing behind it can be found.
        let Some((dtype, _)) = claimed.get(key) else {
            return Err(WeightsError::damaged(format!(
                "it holds numbers {key:?} that no tensor uses"
            )));
        };
        let header = bytes.get(at..at + 8).ok_or_else(torn)?;
        let count = u64::from_le_bytes(header.try_into().map_err(|_| torn())?);
        let length = usize::try_from(count)
            .ok()
            .and_then(|n| n.checked_mul(dtype.bytes()));
        let start = at + 8;
        at = length.and_then(|n| start.checked_add(n)).ok_or_else(torn)?;
        storages.insert(
            key.to_owned(),
            bytes.get(start..at).ok_or_else(torn)?.into(),
        );
    }
    tensors(&pickle, &storages, bytes.len())
}

fn flag(pickle: &Pickle, name: &str) -> Option<bool> {
    let entries = pickle.dict(pickle.root)?;
    let entry = entries
        .iter()
        .find(|(key, _)| pickle.text(*key) == Some(name))?;
    match entry.1 {
        Value::Bool(flag) => Some(flag),
        Value::None
        | Value::Int(_)
        | Value::Float(_)
        | Value::Global(_)
        | Value::Node(_)
        | Value::Mark => None,
    }
}

/// A storage that a tensor refers to: `('storage', class, key, device, count)`.
fn storage(pickle: &Pickle, value: Value) -> Result<(String, Dtype, usize)> {
    let odd = || WeightsError::damaged("a tensor refers to its numbers in an unknown way");
    let Some(Node::Persistent(id)) = pickle.node(value) else {
        return Err(odd());
    };
    let (kind, class, key, count, view) = match pickle.items(*id) {
        Some([kind, class, key, _device, count]) => (kind, class, key, count, Value::None),
        Some([kind, class, key, _device, count, view]) => (kind, class, key, count, *view),
        Some(_) | None => return Err(odd()),
    };
    let Value::Global(Global::Storage(dtype)) = *class else {
        return Err(odd());
    };
    if pickle.text(*kind) != Some("storage") || view != Value::None {
        return Err(odd());
    }
    let key = pickle.text(*key).ok_or_else(odd)?.to_owned();
    Ok((key, dtype, size(*count)?))
}

/// A tensor's name and what it is a view of.
type Named<'a> = (String, &'a View);

/// The tensors of a checkpoint by name, and the names of what is none: beside them, and beside the dictionary
/// that holds them.
///
/// What strangers would make (a `Namespace` of arguments, a device, an optimizer) is left out where it lies
/// beside that dictionary. Within it nothing but tensors belongs, so there it is refused.
fn entries(pickle: &Pickle) -> Result<(Vec<Named<'_>>, Vec<String>)> {
    let none = || WeightsError::damaged("it holds no dictionary of tensors by name");
    let forbidden = |name: &str| WeightsError::Forbidden {
        name: name.to_owned(),
    };
    if let Some(name) = pickle.stranger(pickle.root) {
        return Err(forbidden(name));
    }
    let root = pickle.dict(pickle.root).ok_or_else(none)?;
    let below = |name: &str| {
        let is_it = |(key, _): &&(Value, Value)| pickle.text(*key) == Some(name);
        pickle.dict(root.iter().find(is_it)?.1)
    };
    // In the order of PLACES, not of the file: a file with a running mean beside the weights gives the
    // weights.
    let place = PLACES
        .iter()
        .find_map(|place| Some((*place, below(place)?)));
    let (mut tensors, mut others) = (Vec::new(), Vec::new());
    let called = |name: &str, value: Value| match pickle.stranger(value) {
        Some(stranger) => format!("{name} ({stranger})"),
        None => name.to_owned(),
    };
    if let Some((place, _)) = place {
        let beside = root
            .iter()
            .filter_map(|(key, value)| Some((pickle.text(*key)?, *value)));
        let beside = beside.filter(|(name, _)| *name != place);
        others.extend(beside.map(|(name, value)| called(name, value)));
    }
    for (key, value) in place.map_or(root, |(_, dict)| dict) {
        let name = pickle.text(*key).ok_or_else(none)?;
        match pickle.node(*value) {
            Some(Node::Tensor(view)) => tensors.push((name.to_owned(), view)),
            Some(Node::Object(_)) => {
                return Err(forbidden(pickle.stranger(*value).unwrap_or(name)));
            }
            Some(_) | None => others.push(called(name, *value)),
        }
    }
    if tensors.is_empty() {
        return Err(none());
    }
    Ok((tensors, others))
}

/// What is known of the numbers of each storage. References that no tensor could be made of are not
/// looked at: they are strangers'.
fn storages_of(pickle: &Pickle) -> Result<HashMap<String, (Dtype, usize)>> {
    let mut known = HashMap::new();
    for value in pickle.storages() {
        let Ok((key, dtype, count)) = storage(pickle, value) else {
            continue;
        };
        // Else the same bytes would be read as two kinds of numbers.
        if *known.entry(key.clone()).or_insert((dtype, count)) != (dtype, count) {
            return Err(WeightsError::damaged(format!(
                "two tensors disagree on what the numbers {key:?} are"
            )));
        }
    }
    Ok(known)
}

fn tensors(
    pickle: &Pickle,
    storages: &Storages<'_>,
    file_bytes: usize,
) -> Result<(Tensors, Vec<String>)> {
    let (found, others) = entries(pickle)?;
    storages_of(pickle)?;
    let mut left = file_bytes
        .saturating_mul(EXPANSION_MAX)
        .saturating_add(EXPANSION_FREE_BYTES);
    let mut tensors = Tensors::new();
    for (name, view) in found {
        let (key, dtype, count) = storage(pickle, view.storage)?;
        let bytes = storages
            .get(&key)
            .ok_or_else(|| WeightsError::damaged(format!("the numbers of {name:?} are missing")))?;
        if count.checked_mul(dtype.bytes()) != Some(bytes.len()) {
            let has = bytes.len();
            return Err(WeightsError::damaged(format!(
                "{name:?} should have {count} numbers, but there are {has} bytes; the file is truncated or altered"
            )));
        }
        let tensor = gather(&name, view, dtype, bytes, &mut left)?;
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(WeightsError::damaged(format!("{name:?} is in it twice")));
        }
    }
    Ok((tensors, others))
}

/// The numbers of a view in row-major order.
fn gather(
    name: &str,
    view: &View,
    dtype: Dtype,
    storage: &[u8],
    left: &mut usize,
) -> Result<Tensor> {
    let outside = || WeightsError::damaged(format!("{name:?} reaches beyond its numbers"));
    let View {
        shape,
        strides,
        offset,
        ..
    } = view;
    if shape.len() != strides.len() {
        return Err(outside());
    }
    let width = dtype.bytes();
    let count = shape
        .iter()
        .try_fold(1_usize, |n, side| n.checked_mul(*side));
    let length = count
        .and_then(|n| n.checked_mul(width))
        .ok_or_else(outside)?;
    // Views may repeat one number a billion times (stride 0): what is made of the file has a limit.
    *left = left.checked_sub(length).ok_or_else(|| {
        WeightsError::damaged(format!(
            "with {name:?} its tensors are more than {EXPANSION_MAX} times the file; it is not to be trusted"
        ))
    })?;
    let mut bytes = Vec::with_capacity(length);
    if length > 0 {
        // The last number that the view touches; all others lie before it, since no stride is negative.
        let reach = shape
            .iter()
            .zip(strides)
            .try_fold(*offset, |at, (side, stride)| {
                // No side is 0 here, or there would be no length.
                at.checked_add((side - 1).checked_mul(*stride)?)
            });
        let end = reach.and_then(|last| (last + 1).checked_mul(width));
        if end.is_none_or(|end| end > storage.len()) {
            return Err(outside());
        }
        copy_rows(shape, strides, *offset, width, storage, &mut bytes);
    }
    Ok(Tensor {
        dtype,
        shape: shape.clone(),
        bytes,
    })
}

/// Copies number by number, or row by row where rows lie in one piece.
fn copy_rows(
    shape: &[usize],
    strides: &[usize],
    offset: usize,
    width: usize,
    storage: &[u8],
    out: &mut Vec<u8>,
) {
    // As many last axes as lie in one piece are one run.
    let mut run = 1;
    let mut outer = shape.len();
    while outer > 0 && (strides[outer - 1] == run || shape[outer - 1] == 1) {
        run *= shape[outer - 1];
        outer -= 1;
    }
    let mut place = vec![0; outer];
    loop {
        let start = offset + place.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>();
        out.extend_from_slice(&storage[start * width..(start + run) * width]);
        let Some(axis) = (0..outer).rev().find(|&axis| place[axis] + 1 < shape[axis]) else {
            return;
        };
        place[axis] += 1;
        place[axis + 1..].fill(0);
    }
}
