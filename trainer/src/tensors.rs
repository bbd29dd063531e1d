//! Named tensors in safetensors files.
//!
//! Invariant: what was written is read back bit for bit, in row-major order whatever the layout in
//! memory was. Not here: pickled files, which can run code.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo};
use tch::{Kind, Tensor};

use crate::error::RunError;
use crate::ffi;

/// Of the number before the header, which the header's own length is a multiple of.
const LENGTH_BYTES: usize = 8;

/// Tensors by name.
pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// What is ever saved: tensors of other kinds are not.
const SAVED: [(Kind, Dtype); 6] = [
    (Kind::Float, Dtype::F32),
    (Kind::Double, Dtype::F64),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Int64, Dtype::I64),
    (Kind::Uint8, Dtype::U8),
];

fn dtype_of(kind: Kind) -> Option<Dtype> {
    let (_, dtype) = SAVED.into_iter().find(|(known, _)| *known == kind)?;
    Some(dtype)
}

/// The other way round.
fn kind_of(dtype: Dtype) -> Option<Kind> {
    let (kind, _) = SAVED.into_iter().find(|(_, known)| *known == dtype)?;
    Some(kind)
}

/// Where the bytes of a file begin in memory: what disks and the kernel take without a copy.
pub(crate) const ALIGNMENT: usize = 4096;

/// A safetensors file in memory, at an address that is a multiple of [`ALIGNMENT`].
#[derive(Debug)]
pub(crate) struct Encoded {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Encoded {
    /// Room for `len` bytes: that of `spare` if it is as large.
    fn with_room(len: usize, spare: Option<Self>) -> Self {
        spare.filter(|spare| spare.len == len).unwrap_or_else(|| {
            let memory = vec![0; len + ALIGNMENT];
            let start = memory.as_ptr().align_offset(ALIGNMENT);
            Self { memory, start, len }
        })
    }
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

/// A safetensors file with `tensors`. Its bytes depend on the tensors alone, so that equal weights make
/// equal files: hence one entry of metadata, for several would come in any order.
pub(crate) fn encode<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<Encoded, RunError> {
    encode_into(None, tensors)
}

/// [`encode`] into the memory of a file that is no longer wanted. Each tensor is copied once, from
/// whatever device and layout.
pub(crate) fn encode_into<'a>(
    spare: Option<Encoded>,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<Encoded, RunError> {
    let mut entries = Vec::new();
    for (name, tensor) in tensors {
        let kind = tensor.f_kind()?;
        let dtype = dtype_of(kind).ok_or_else(|| {
            RunError::host(format!(
                "tensor {name:?} has the kind {kind:?}, which is never saved"
            ))
        })?;
        entries.push((name, dtype, kind, tensor));
    }
    // The order that keeps every tensor aligned.
    entries.sort_by(|(name, dtype, ..), (other, than, ..)| than.cmp(dtype).then(name.cmp(other)));
    let mut end = 0;
    let places = entries
        .iter()
        .map(|(_, _, kind, tensor)| {
            let start = end;
            end += tensor.numel() * kind.elt_size_in_bytes();
            (start, end)
        })
        .collect::<Vec<_>>();
    let header = header(&entries, &places)?;

    let mut encoded = Encoded::with_room(header.len() + end, spare);
    let (first, rest) = encoded.memory[encoded.start..][..encoded.len].split_at_mut(header.len());
    first.copy_from_slice(&header);
    for ((_, _, _, tensor), (from, to)) in entries.iter().zip(places) {
        ffi::copy_out(tensor, &mut rest[from..to])?;
    }
    Ok(encoded)
}

/// What stands before the tensors: the length of the header, and the header.
fn header(
    entries: &[(&str, Dtype, Kind, &Tensor)],
    places: &[(usize, usize)],
) -> Result<Vec<u8>, RunError> {
    let about_tensors = entries.iter().zip(places);
    let about_tensors = about_tensors
        .map(|((name, dtype, _, tensor), &data_offsets)| {
            let shape = tensor.size();
            let shape = shape.iter().map(|&side| usize::try_from(side).unwrap_or(0));
            let info = TensorInfo {
                dtype: *dtype,
                shape: shape.collect(),
                data_offsets,
            };
            ((*name).to_owned(), info)
        })
        .collect();
    // What loaders of the Python world look for.
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let text = Metadata::new(Some(about), about_tensors)
        .map_err(|error| error.to_string())
        .and_then(|metadata| serde_json::to_vec(&metadata).map_err(|error| error.to_string()))
        .map_err(|error| RunError::host(format!("cannot write tensors: {error}")))?;
    let padded = text.len().next_multiple_of(LENGTH_BYTES);
    let mut bytes = (padded as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&text);
    // Spaces are what the format allows behind the header; they bring the first tensor to a
    // multiple of 8 bytes.
    bytes.resize(LENGTH_BYTES + padded, b' ');
    Ok(bytes)
}

/// Reads all tensors of the safetensors file at `path`.
pub(crate) fn read(path: &Path) -> Result<Tensors, RunError> {
    let damaged =
        |problem: String| RunError::input(format!("{} cannot be read: {problem}", path.display()));
    let bytes = fs::read(path).map_err(|error| damaged(error.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
    let mut tensors = Tensors::new();
    for (name, view) in file.tensors() {
        let kind = kind_of(view.dtype()).ok_or_else(|| {
            damaged(format!(
                "tensor {name:?} has the unknown type {:?}",
                view.dtype()
            ))
        })?;
        let shape = view
            .shape()
            .iter()
            .map(|&side| i64::try_from(side).unwrap_or(i64::MAX))
            .collect::<Vec<_>>();
        tensors.insert(name, Tensor::f_from_data_size(view.data(), &shape, kind)?);
    }
    Ok(tensors)
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

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    #[test]
    fn tensors_come_back_bit_for_bit_whatever_their_layout() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let plain = Tensor::from_slice(&[1.0_f64 / 3.0, -0.0, f64::MIN_POSITIVE / 2.0]);
        let image =
            Tensor::arange(2 * 3 * 4 * 5, (Kind::Float, tch::Device::Cpu)).reshape([2, 3, 4, 5]);
        let turned = image.shallow_clone();
        crate::ffi::to_channels_last(&turned).unwrap();
        let scalar = Tensor::from(7_i64);
        let all = [("a", &plain), ("b", &turned), ("c", &scalar)];
        fs::write(&path, encode(all).unwrap()).unwrap();

        let back = read(&path).unwrap();
        assert_eq!(
            Vec::<f64>::try_from(&back["a"]).unwrap()[0].to_bits(),
            (1.0_f64 / 3.0).to_bits()
        );
        assert!(back["a"].equal(&plain));
        assert!(back["b"].equal(&image));
        assert_eq!(back["c"].int64_value(&[]), 7);
    }

    #[test]
    fn a_file_is_byte_for_byte_what_the_library_would_write() {
        let plain = Tensor::from_slice(&[1.5_f32, 2.0, -3.0]);
        let double = Tensor::from_slice(&[0.1_f64]);
        let bytes = Tensor::from_slice(&[7_u8]);
        let none = Tensor::from_slice::<f32>(&[]);
        let all = [
            ("plain", &plain),
            ("bytes", &bytes),
            ("double", &double),
            ("none", &none),
        ];
        let raw = |tensor: &Tensor| {
            let mut raw = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
            tensor.copy_data_u8(&mut raw, tensor.numel());
            raw
        };
        let raw = all.map(|(name, tensor)| (name, raw(tensor), tensor));
        let views = raw.iter().map(|(name, raw, tensor)| {
            let dtype = dtype_of(tensor.kind()).unwrap();
            let shape = vec![tensor.numel()];
            (*name, TensorView::new(dtype, shape, raw).unwrap())
        });
        let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let wanted = safetensors::serialize(views, Some(about)).unwrap();

        let other = encode([("plain", &plain)]).unwrap();
        let first = encode_into(Some(other), all).unwrap();
        assert_eq!(first.as_ref(), wanted);
        let address = first.as_ref().as_ptr();
        assert_eq!(address.align_offset(ALIGNMENT), 0);
        // Other numbers in the same places.
        let _ = plain.shallow_clone().neg_();
        let second = encode_into(Some(first), all).unwrap();
        assert_eq!(second.as_ref().as_ptr(), address);
        assert_eq!(second.as_ref(), encode(all).unwrap().as_ref());
        assert_ne!(second.as_ref(), wanted);
    }

    #[test]
    fn a_torn_file_is_bad_input_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let bytes = encode([("a", &Tensor::from(1.0_f64))]).unwrap();
        fs::write(&path, &bytes.as_ref()[..bytes.as_ref().len() - 3]).unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.class, marquee_domain::FailureClass::BadInput);
        assert!(error.message.contains("t.safetensors"), "{}", error.message);
    }
}
