//! A TorchScript module, as the shim holds it.
//!
//! Invariant: the tensors that it lists are handles on the module's own numbers, so that what changes
//! them in place changes the module.

use std::ffi::{CStr, c_char, c_int};
use std::path::Path;
use std::ptr;

use tch::{Device, Tensor};

use super::{Handle, c_text, check, pointer};
use crate::error::TorchError;

unsafe extern "C" {
    fn marquee_script_load(
        path: *const c_char,
        cuda: c_int,
        as_double: c_int,
        out: *mut Handle,
    ) -> c_int;
    fn marquee_script_free(module: Handle);
    fn marquee_script_fixed(module: Handle) -> *const c_char;
    fn marquee_script_count(module: Handle, buffers: c_int) -> usize;
    fn marquee_script_entry(
        module: Handle,
        buffers: c_int,
        index: usize,
        name: *mut *const c_char,
        out: *mut Handle,
    ) -> c_int;
    fn marquee_script_forward(
        module: Handle,
        training: c_int,
        input: Handle,
        out: *mut Handle,
    ) -> c_int;
    fn marquee_script_save(module: Handle, path: *const c_char) -> c_int;
}

/// A loaded module.
#[derive(Debug)]
pub(crate) struct Script(Handle);

// SAFETY: a module is used from one thread at a time, and may be freed from any.
unsafe impl Send for Script {}

impl Script {
    /// Reads the file at `path`.
    pub(crate) fn load(path: &Path, device: Device, as_double: bool) -> Result<Self, TorchError> {
        let path = c_text(&path.to_string_lossy())?;
        let cuda = match device {
            Device::Cuda(index) => c_int::try_from(index).unwrap_or(c_int::MAX),
            Device::Cpu | Device::Mps | Device::Vulkan => -1,
        };
        let mut out = ptr::null_mut();
        // SAFETY: the path outlives the call.
        check(unsafe {
            marquee_script_load(path.as_ptr(), cuda, c_int::from(as_double), &raw mut out)
        })?;
        Ok(Self(out))
    }

    /// What tracing fixed to one way of running; empty where nothing was.
    pub(crate) fn fixed(&self) -> String {
        // SAFETY: the handle is live, and the text as long as it.
        unsafe { CStr::from_ptr(marquee_script_fixed(self.0)) }
            .to_string_lossy()
            .into_owned()
    }

    /// Parameters by name, in the order of the file.
    pub(crate) fn parameters(&self) -> Result<Vec<(String, Tensor)>, TorchError> {
        self.entries(0)
    }

    /// The same of its buffers.
    pub(crate) fn buffers(&self) -> Result<Vec<(String, Tensor)>, TorchError> {
        self.entries(1)
    }

    fn entries(&self, buffers: c_int) -> Result<Vec<(String, Tensor)>, TorchError> {
        // SAFETY: the handle is live.
        let count = unsafe { marquee_script_count(self.0, buffers) };
        let entry = |index| {
            let (mut name, mut out) = (ptr::null(), ptr::null_mut());
            // SAFETY: both places outlive the call.
            check(unsafe {
                marquee_script_entry(self.0, buffers, index, &raw mut name, &raw mut out)
            })?;
            // SAFETY: the shim has just set both; the name lives as long as the module.
            let name = unsafe { CStr::from_ptr(name) };
            Ok((name.to_string_lossy().into_owned(), owned(out)))
        };
        (0..count).map(entry).collect()
    }

    /// What the module makes of `input`.
    pub(crate) fn forward(&self, input: &Tensor, training: bool) -> Result<Tensor, TorchError> {
        let mut out = ptr::null_mut();
        // SAFETY: the tensor and the place outlive the call.
        check(unsafe {
            marquee_script_forward(self.0, c_int::from(training), pointer(input), &raw mut out)
        })?;
        Ok(owned(out))
    }

    /// Writes the module to `path`.
    pub(crate) fn save(&self, path: &Path) -> Result<(), TorchError> {
        let path = c_text(&path.to_string_lossy())?;
        // SAFETY: the path outlives the call.
        check(unsafe { marquee_script_save(self.0, path.as_ptr()) })
    }
}

/// A tensor that the shim gave away.
fn owned(handle: Handle) -> Tensor {
    // SAFETY: the shim has just made it for us, and nobody else knows of it.
    unsafe { Tensor::from_ptr(handle.cast()) }
}

impl Drop for Script {
    fn drop(&mut self) {
        // SAFETY: the handle is owned and freed nowhere else.
        unsafe { marquee_script_free(self.0) }
    }
}
