//! What a GPU is doing: marks on its stream, its memory, the wait until it is idle.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use tch::{Device, Tensor};

use super::{Handle, c_text, check, pointer};
use crate::error::TorchError;

unsafe extern "C" {
    fn marquee_set_default(name: *const c_char, value: *const c_char) -> c_int;
    fn marquee_event_new(out: *mut Handle) -> c_int;
    fn marquee_event_free(event: Handle);
    fn marquee_event_record(event: Handle, index: c_int) -> c_int;
    fn marquee_event_query(event: *const c_void, passed: *mut c_int) -> c_int;
    fn marquee_event_elapsed(
        from: *const c_void,
        to: *const c_void,
        milliseconds: *mut f64,
    ) -> c_int;
    fn marquee_pin(tensor: Handle, out: *mut Handle) -> c_int;
    fn marquee_upload(tensor: Handle, index: c_int, out: *mut Handle) -> c_int;
    fn marquee_download(tensor: Handle, out: *mut Handle) -> c_int;
    fn marquee_gpu_synchronize(index: c_int) -> c_int;
    fn marquee_gpu_peak_memory(index: c_int, allocated: *mut i64, reserved: *mut i64) -> c_int;
}

/// Sets a variable of this process' environment, unless it is set. Only from `main`, before a second
/// thread exists.
pub(crate) fn set_default_variable(name: &str, value: &str) -> Result<(), TorchError> {
    let (name, value) = (c_text(name)?, c_text(value)?);
    // SAFETY: both outlive the call; the caller is the only thread.
    check(unsafe { marquee_set_default(name.as_ptr(), value.as_ptr()) })
}

/// The GPU's index where `device` is one.
pub(crate) fn gpu_index(device: Device) -> Option<usize> {
    match device {
        Device::Cuda(index) => Some(index),
        Device::Cpu | Device::Mps | Device::Vulkan => None,
    }
}

/// A copy of `tensor` in memory that a GPU copies from by itself.
pub(crate) fn pin(tensor: &Tensor) -> Result<Tensor, TorchError> {
    // SAFETY: the tensor is live for the call.
    given(|out| unsafe { marquee_pin(pointer(tensor), out) })
}

/// `tensor` on `device`. On GPUs it is copied while they compute, and nobody waits for it here.
pub(crate) fn upload(tensor: &Tensor, device: Device) -> Result<Tensor, TorchError> {
    match gpu_index(device) {
        Some(index) if tensor.device() == Device::Cpu => {
            // SAFETY: the tensor is live for the call; pinned memory is kept until it is copied.
            given(|out| unsafe { marquee_upload(pointer(tensor), number(index), out) })
        }
        // It is where it should be already, or this rank has no GPU.
        Some(_) | None => Ok(tensor.shallow_clone()),
    }
}

/// A copy of a GPU's `tensor` on the CPU, which holds it once the GPU has come to a [`Mark`] that is
/// set after this.
pub(crate) fn download(tensor: &Tensor) -> Result<Tensor, TorchError> {
    // SAFETY: the tensor is live for the call.
    given(|out| unsafe { marquee_download(pointer(tensor), out) })
}

/// The tensor that a function of the shim gives away.
fn given(make: impl FnOnce(*mut Handle) -> c_int) -> Result<Tensor, TorchError> {
    let mut out = ptr::null_mut();
    check(make(&raw mut out))?;
    // SAFETY: it has just been made by `new at::Tensor`, as those of tch are, and is ours alone.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

/// A mark on a GPU's stream, which knows when the GPU came to it.
#[derive(Debug)]
pub(crate) struct Mark(Handle);

// SAFETY: a mark is used by one thread at a time, and may be freed from any.
unsafe impl Send for Mark {}

impl Mark {
    pub(crate) fn new() -> Result<Self, TorchError> {
        let mut out = ptr::null_mut();
        // SAFETY: the place for the handle outlives the call.
        check(unsafe { marquee_event_new(&raw mut out) })?;
        Ok(Self(out))
    }

    /// Sets it behind all that this thread has asked GPU `index` for. It can be set again.
    pub(crate) fn set(&self, index: usize) -> Result<(), TorchError> {
        // SAFETY: the handle is live.
        check(unsafe { marquee_event_record(self.0, number(index)) })
    }

    /// Whether the GPU has come to it.
    pub(crate) fn is_passed(&self) -> Result<bool, TorchError> {
        let mut passed = 0;
        // SAFETY: the handle is live and the flag outlives the call.
        check(unsafe { marquee_event_query(self.0, &raw mut passed) })?;
        Ok(passed != 0)
    }

    /// Seconds from `earlier` to this one; both must be passed.
    pub(crate) fn seconds_since(&self, earlier: &Self) -> Result<f64, TorchError> {
        let mut milliseconds = 0.0;
        // SAFETY: both handles are live and the number outlives the call.
        check(unsafe { marquee_event_elapsed(earlier.0, self.0, &raw mut milliseconds) })?;
        Ok(milliseconds / 1e3)
    }

    pub(super) fn handle(&self) -> Handle {
        self.0
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: the handle is owned and freed nowhere else.
        unsafe { marquee_event_free(self.0) }
    }
}

/// Returns when GPU `index` has done all that it was asked for.
pub(crate) fn synchronize_gpu(index: usize) -> Result<(), TorchError> {
    // SAFETY: a question to libtorch's CUDA half.
    check(unsafe { marquee_gpu_synchronize(number(index)) })
}

/// The most bytes that tensors held at once on a GPU, and that libtorch held for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeakMemory {
    pub(crate) allocated: u64,
    pub(crate) reserved: u64,
}

pub(crate) fn peak_memory(index: usize) -> Result<PeakMemory, TorchError> {
    let (mut allocated, mut reserved) = (0, 0);
    // SAFETY: both numbers outlive the call.
    check(unsafe {
        marquee_gpu_peak_memory(number(index), &raw mut allocated, &raw mut reserved)
    })?;
    let bytes = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(PeakMemory {
        allocated: bytes(allocated),
        reserved: bytes(reserved),
    })
}

fn number(index: usize) -> c_int {
    c_int::try_from(index).unwrap_or(c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a binary does that was built and started without CUDA: errors, never a crash.
    #[test]
    fn without_libtorchs_cuda_half_there_are_no_gpus_and_each_question_is_an_error() {
        assert_eq!(tch::Cuda::device_count(), 0);
        let error = Mark::new().unwrap_err().to_string();
        assert!(error.contains("cuda"), "{error}");
        assert!(synchronize_gpu(0).is_err());
        assert!(peak_memory(0).is_err());
        let tensor = Tensor::from(1.0_f32);
        assert!(upload(&tensor, Device::Cuda(0)).is_err());
        assert!(pin(&tensor).is_err());
    }
}
