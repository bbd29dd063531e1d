//! What libtorch's CUDA half is told before it is used.

use std::ffi::{c_char, c_int};

use super::{c_text, check};
use crate::error::TorchError;

unsafe extern "C" {
    fn marquee_set_default(name: *const c_char, value: *const c_char) -> c_int;
    fn marquee_peak_cuda_bytes(device: c_int, bytes: *mut u64) -> c_int;
}

/// Sets a variable of this process' environment, unless it is set. Only from `main`, before a second
/// thread exists.
pub(crate) fn set_default_variable(name: &str, value: &str) -> Result<(), TorchError> {
    let (name, value) = (c_text(name)?, c_text(value)?);
    // SAFETY: both outlive the call; the caller is the only thread.
    check(unsafe { marquee_set_default(name.as_ptr(), value.as_ptr()) })
}

/// The most bytes that tensors have taken of a GPU so far; None where libtorch does not count them.
pub(crate) fn peak_cuda_bytes(device: usize) -> Option<u64> {
    let mut bytes = 0;
    let device = c_int::try_from(device).ok()?;
    // SAFETY: the number outlives the call.
    check(unsafe { marquee_peak_cuda_bytes(device, &raw mut bytes) }).ok()?;
    Some(bytes)
}
