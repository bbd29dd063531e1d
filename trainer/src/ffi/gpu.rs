//! What libtorch's CUDA half is told before it is used.

use std::ffi::{c_char, c_int};

use super::{c_text, check};
use crate::error::TorchError;

unsafe extern "C" {
    fn marquee_set_default(name: *const c_char, value: *const c_char) -> c_int;
}

/// Sets a variable of this process' environment, unless it is set. Only from `main`, before a second
/// thread exists.
pub(crate) fn set_default_variable(name: &str, value: &str) -> Result<(), TorchError> {
    let (name, value) = (c_text(name)?, c_text(value)?);
    // SAFETY: both outlive the call; the caller is the only thread.
    check(unsafe { marquee_set_default(name.as_ptr(), value.as_ptr()) })
}
