//! Tensors as bytes.

use std::collections::BTreeMap;

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// What the numbers of a tensor are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Dtype {
    /// Bytes of one number.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// The storage class of PyTorch that holds such numbers.
    pub(crate) fn of_storage(class: &str) -> Option<Self> {
        Some(match class {
            "DoubleStorage" => Self::F64,
            "FloatStorage" => Self::F32,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::BF16,
            "LongStorage" => Self::I64,
            "IntStorage" => Self::I32,
            "ShortStorage" => Self::I16,
            "CharStorage" => Self::I8,
            "ByteStorage" => Self::U8,
            "BoolStorage" => Self::Bool,
            _ => return None,
        })
    }

    pub(crate) fn safetensors(self) -> safetensors::Dtype {
        use safetensors::Dtype as S;
        match self {
            Self::F64 => S::F64,
            Self::F32 => S::F32,
            Self::F16 => S::F16,
            Self::BF16 => S::BF16,
            Self::I64 => S::I64,
            Self::I32 => S::I32,
            Self::I16 => S::I16,
            Self::I8 => S::I8,
            Self::U8 => S::U8,
            Self::Bool => S::BOOL,
        }
    }

    pub(crate) fn of_safetensors(dtype: safetensors::Dtype) -> Option<Self> {
        let all = [
            Self::F64,
            Self::F32,
            Self::F16,
            Self::BF16,
            Self::I64,
            Self::I32,
            Self::I16,
            Self::I8,
            Self::U8,
            Self::Bool,
        ];
        // By way of the other direction, so that the two cannot disagree.
        all.into_iter().find(|ours| ours.safetensors() == dtype)
    }
}

/// A tensor: its numbers in row-major order, little endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// How many numbers.
    #[must_use]
    pub fn count(&self) -> usize {
        self.bytes.len() / self.dtype.bytes()
    }

    /// The same numbers in another shape; None if that has another count.
    #[must_use]
    pub fn reshaped(mut self, shape: &[usize]) -> Option<Self> {
        if shape.iter().product::<usize>() != self.count() {
            return None;
        }
        self.shape = shape.to_vec();
        Some(self)
    }
}
