//! The one module with `unsafe`: safe wrappers around the C++ shim in `shim/`, and around the few calls
//! of libc and tch that have no safe form.
//!
//! Invariants: every handle is owned by exactly one wrapper, which frees it once; tensors are only
//! lent to the shim for the length of a call (the [`Reducer`] holds counted references of its own);
//! no C++ exception and no Rust panic crosses the border.

#![allow(
    unsafe_code,
    reason = "this module is the crate's border with C++ and libc"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::time::Duration;

use tch::Tensor;

use crate::error::TorchError;

mod exchange;
mod gpu;
mod memory;
mod nccl;
mod script;
mod standing;
mod step;

pub(crate) use exchange::{Group, Reducer, Store};
pub(crate) use gpu::{
    Mark, PeakMemory, download, gpu_index, peak_memory, pin, set_default_variable, synchronize_gpu,
    upload,
};
pub(crate) use memory::{copy_out, keep_memory};
pub(crate) use nccl::{Nccl, load_cuda};
pub(crate) use script::Script;
pub(crate) use standing::{beat, open_standing, stand, stand_at_step};
pub(crate) use step::{
    AdamWState, AdamWStep, SgdStep, adamw_step, backward, backward_marked, backward_untimed,
    clip_gradients, forget_gradients, move_towards, sgd_step, unscale_gradients,
};

type Handle = *mut c_void;

unsafe extern "C" {
    fn marquee_last_error() -> *const c_char;
    fn marquee_to_channels_last(tensor: Handle) -> c_int;
    fn marquee_to_channels_first(tensor: Handle) -> c_int;
    fn marquee_autocast_enter(cuda: c_int, bfloat16: c_int) -> c_int;
    fn marquee_autocast_leave(cuda: c_int) -> c_int;
    fn marquee_choose_kernels(deterministic: c_int, tf32: c_int) -> c_int;
}

/// `Code` of shim/guard.hpp.
const OK: c_int = 0;
const OUT_OF_MEMORY: c_int = 2;
const NETWORK: c_int = 3;

/// Turns a shim function's code into a result, with the text that it left for this thread.
fn check(code: c_int) -> Result<(), TorchError> {
    if code == OK {
        return Ok(());
    }
    // SAFETY: the shim keeps the text, NUL-terminated, until this thread's next call.
    let text = unsafe { CStr::from_ptr(marquee_last_error()) }
        .to_string_lossy()
        .into_owned();
    Err(match code {
        OUT_OF_MEMORY => TorchError::OutOfMemory(text),
        NETWORK => TorchError::Network(text),
        // The shim tells memory and network by type. The rest has only its text, which libtorch has
        // in many forms.
        _ => TorchError::from_text(text),
    })
}

fn c_text(text: &str) -> Result<CString, TorchError> {
    CString::new(text).map_err(|_| TorchError::Other(format!("text with a NUL byte: {text:?}")))
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn pointer(tensor: &Tensor) -> Handle {
    tensor.as_ptr().cast_mut().cast()
}

fn pointers(tensors: &[Tensor]) -> Vec<Handle> {
    tensors.iter().map(pointer).collect()
}

/// What is computed while this lives is computed in 16 bits where that is safe.
#[derive(Debug)]
pub(crate) struct Autocast {
    cuda: c_int,
}

impl Autocast {
    /// For this thread, until dropped. Not to be nested.
    pub(crate) fn enter(cuda: bool, bfloat16: bool) -> Result<Self, TorchError> {
        let cuda = c_int::from(cuda);
        // SAFETY: sets this thread's state in libtorch.
        check(unsafe { marquee_autocast_enter(cuda, c_int::from(bfloat16)) })?;
        Ok(Self { cuda })
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: undoes what `enter` did.
        if let Err(error) = check(unsafe { marquee_autocast_leave(self.cuda) }) {
            tracing::error!(%error, "autocast cannot be left");
        }
    }
}

/// Gives a 4-D tensor the channels-last layout in memory; its shape stays.
pub(crate) fn to_channels_last(tensor: &Tensor) -> Result<(), TorchError> {
    // SAFETY: the tensor is live; its storage is replaced, which tch's handle does not notice.
    check(unsafe { marquee_to_channels_last(pointer(tensor)) })
}

/// Gives a tensor the plain row-major layout in memory; its shape stays.
pub(crate) fn to_channels_first(tensor: &Tensor) -> Result<(), TorchError> {
    // SAFETY: as above.
    check(unsafe { marquee_to_channels_first(pointer(tensor)) })
}

/// Which kernels libtorch chooses: deterministic ones, or the fastest; whether products of fp32 are
/// rounded on GPUs. On CPUs it changes nothing.
pub(crate) fn choose_kernels(deterministic: bool, tf32: bool) -> Result<(), TorchError> {
    // SAFETY: sets flags of libtorch's global context.
    check(unsafe { marquee_choose_kernels(c_int::from(deterministic), c_int::from(tf32)) })
}

/// Ends the process at once, without destructors and without waiting for threads that hang in an
/// operation with a lost peer.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` does not return; the caller has flushed what it wrote.
    unsafe { libc::_exit(code) }
}

fn narrow(number: u32) -> Result<c_int, TorchError> {
    c_int::try_from(number)
        .map_err(|_| TorchError::Other(format!("rank or world size {number} is too large")))
}
