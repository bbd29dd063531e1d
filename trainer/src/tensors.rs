//! Named tensors in safetensors files.
//!
//! Invariant: what was written is read back bit for bit, in row-major order whatever the layout in
//! memory was. Not here: pickled files, which can run code.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::{Kind, Tensor};

use crate::error::RunError;

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

/// The bytes of a tensor in row-major order, little endian.
fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>, RunError> {
    let tensor = tensor
        .f_detach()?
        .f_to_device(tch::Device::Cpu)?
        .f_contiguous()?;
    let kind = tensor.f_kind()?;
    let mut bytes = vec![0; tensor.numel() * kind.elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}

/// The bytes of a safetensors file with `tensors`. They depend on the tensors alone, so that equal
/// weights make equal files: hence one entry of metadata, for several would come in any order.
pub(crate) fn encode<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<Vec<u8>, RunError> {
    let mut entries = Vec::new();
    for (name, tensor) in tensors {
        let kind = tensor.f_kind()?;
        let dtype = dtype_of(kind).ok_or_else(|| {
            RunError::host(format!(
                "tensor {name:?} has the kind {kind:?}, which is never saved"
            ))
        })?;
        let shape = tensor
            .size()
            .iter()
            .map(|&side| usize::try_from(side).unwrap_or(0))
            .collect::<Vec<_>>();
        entries.push((name, dtype, shape, bytes_of(tensor)?));
    }
    let views = entries
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            Ok((*name, TensorView::new(*dtype, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|error| RunError::host(format!("cannot write tensors: {error}")))?;
    // What loaders of the Python world look for.
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(about))
        .map_err(|error| RunError::host(format!("cannot write tensors: {error}")))
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

#[cfg(test)]
mod tests {
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
    fn a_torn_file_is_bad_input_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let bytes = encode([("a", &Tensor::from(1.0_f64))]).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.class, marquee_domain::FailureClass::BadInput);
        assert!(error.message.contains("t.safetensors"), "{}", error.message);
    }
}
