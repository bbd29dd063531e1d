//! The one module with `unsafe`: safe wrappers around the C++ shim in `shim/`, and around the three
//! calls of libc that have no safe form.
//!
//! Invariants: every handle is owned by exactly one wrapper, which frees it once; tensors are only
//! lent to the shim for the length of a call (the [`Reducer`] holds counted references of its own);
//! no C++ exception and no Rust panic crosses the border.

#![allow(
    unsafe_code,
    reason = "this module is the crate's border with C++ and libc"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::ptr;
use std::time::Duration;

use tch::Tensor;

use crate::error::TorchError;

mod gpu;
mod memory;
mod nccl;
mod script;

pub(crate) use gpu::{
    Mark, PeakMemory, download, gpu_index, peak_memory, pin, set_default_variable, synchronize_gpu,
    upload,
};
pub(crate) use memory::{copy_out, keep_memory};
pub(crate) use nccl::{Nccl, load_cuda};
pub(crate) use script::Script;

type Handle = *mut c_void;

unsafe extern "C" {
    fn marquee_last_error() -> *const c_char;
    fn marquee_to_channels_last(tensor: Handle) -> c_int;
    fn marquee_to_channels_first(tensor: Handle) -> c_int;
    fn marquee_autocast_enter(cuda: c_int, bfloat16: c_int) -> c_int;
    fn marquee_autocast_leave(cuda: c_int) -> c_int;
    fn marquee_choose_kernels(deterministic: c_int, tf32: c_int) -> c_int;

    fn marquee_store_serve(
        fd: c_int,
        host: *const c_char,
        port: u16,
        timeout_ms: i64,
        out: *mut Handle,
    ) -> c_int;
    fn marquee_store_connect(
        host: *const c_char,
        port: u16,
        timeout_ms: i64,
        out: *mut Handle,
    ) -> c_int;
    fn marquee_store_prefixed(store: Handle, prefix: *const c_char, out: *mut Handle) -> c_int;
    fn marquee_store_set(
        store: Handle,
        key: *const c_char,
        value: *const u8,
        length: usize,
    ) -> c_int;
    fn marquee_store_check(store: Handle, key: *const c_char, present: *mut c_int) -> c_int;
    fn marquee_store_agree(
        store: Handle,
        key: *const c_char,
        value: *const u8,
        length: usize,
        bytes: *mut *mut u8,
        count: *mut usize,
    ) -> c_int;
    fn marquee_store_get(
        store: Handle,
        key: *const c_char,
        bytes: *mut *mut u8,
        count: *mut usize,
    ) -> c_int;
    fn marquee_bytes_free(bytes: *mut u8);
    fn marquee_store_free(store: Handle);

    fn marquee_group_gloo(
        store: Handle,
        rank: c_int,
        size: c_int,
        address: *const c_char,
        timeout_ms: i64,
        out: *mut Handle,
    ) -> c_int;
    fn marquee_group_free(group: Handle);
    fn marquee_group_allreduce_sum(group: Handle, tensor: Handle) -> c_int;
    fn marquee_group_broadcast(
        group: Handle,
        tensors: *const Handle,
        count: usize,
        root: c_int,
    ) -> c_int;
    fn marquee_group_barrier(group: Handle) -> c_int;

    fn marquee_reducer_new(
        group: Handle,
        parameters: *const Handle,
        count: usize,
        bfloat16: c_int,
        out: *mut Handle,
    ) -> c_int;
    fn marquee_reducer_free(reducer: Handle);
    fn marquee_reducer_rebuild(reducer: Handle) -> c_int;
    fn marquee_reducer_prepare(reducer: Handle) -> c_int;
    fn marquee_backward(
        loss: Handle,
        computed: Handle,
        index: c_int,
        compute_s: *mut f64,
        waiting_s: *mut f64,
    ) -> c_int;

    fn marquee_clip_gradients(parameters: *const Handle, count: usize, max_norm: f64) -> c_int;
    fn marquee_move_towards(
        means: *const Handle,
        parameters: *const Handle,
        count: usize,
        weight: f64,
    ) -> c_int;
    fn marquee_unscale_gradients(
        parameters: *const Handle,
        count: usize,
        inverse_scale: Handle,
        found: Handle,
    ) -> c_int;
    fn marquee_forget_gradients(parameters: *const Handle, count: usize) -> c_int;
    fn marquee_sgd_step(
        parameters: *const Handle,
        momenta: *const Handle,
        count: usize,
        lr: f64,
        momentum: f64,
        weight_decay: f64,
        nesterov: c_int,
        first_step: c_int,
        found: Handle,
    ) -> c_int;
    fn marquee_adamw_step(
        parameters: *const Handle,
        averages: *const Handle,
        squares: *const Handle,
        steps: *const Handle,
        count: usize,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        found: Handle,
    ) -> c_int;
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

/// A key-value store over TCP at which ranks find each other.
#[derive(Debug)]
pub(crate) struct Store(Handle);

// SAFETY: the shim's handle owns a counted reference to the store, and the store's client takes a
// lock for each request.
unsafe impl Send for Store {}

impl Store {
    /// Serves a store on `listener`, from a thread of its own, until dropped.
    pub(crate) fn serve(listener: TcpListener, timeout: Duration) -> Result<Self, TorchError> {
        let address = listener
            .local_addr()
            .map_err(|error| TorchError::Network(error.to_string()))?;
        let host = c_text(&address.ip().to_string())?;
        let mut out = ptr::null_mut();
        // SAFETY: the socket's ownership goes to the store; the host outlives the call.
        check(unsafe {
            marquee_store_serve(
                listener.into_raw_fd(),
                host.as_ptr(),
                address.port(),
                milliseconds(timeout),
                &raw mut out,
            )
        })?;
        Ok(Self(out))
    }

    /// Connects to the store at `host:port`; its own calls wait `timeout` at most.
    pub(crate) fn connect(host: &str, port: u16, timeout: Duration) -> Result<Self, TorchError> {
        let host = c_text(host)?;
        let mut out = ptr::null_mut();
        // SAFETY: the host outlives the call.
        check(unsafe {
            marquee_store_connect(host.as_ptr(), port, milliseconds(timeout), &raw mut out)
        })?;
        Ok(Self(out))
    }

    /// The same store, with `prefix` before every key.
    pub(crate) fn prefixed(&self, prefix: &str) -> Result<Self, TorchError> {
        let prefix = c_text(prefix)?;
        let mut out = ptr::null_mut();
        // SAFETY: `self.0` is live; the new handle holds its own reference to the store.
        check(unsafe { marquee_store_prefixed(self.0, prefix.as_ptr(), &raw mut out) })?;
        Ok(Self(out))
    }

    pub(crate) fn set(&self, key: &str, value: &[u8]) -> Result<(), TorchError> {
        let key = c_text(key)?;
        // SAFETY: key and value outlive the call, which copies them.
        check(unsafe { marquee_store_set(self.0, key.as_ptr(), value.as_ptr(), value.len()) })
    }

    /// Whether `key` is there now.
    pub(crate) fn has(&self, key: &str) -> Result<bool, TorchError> {
        let key = c_text(key)?;
        let mut present = 0;
        // SAFETY: key and flag outlive the call.
        check(unsafe { marquee_store_check(self.0, key.as_ptr(), &raw mut present) })?;
        Ok(present != 0)
    }
}

impl Store {
    /// Sets `key` to `value` unless somebody has set it before, and returns what it then is: the
    /// same for everybody who asks.
    pub(crate) fn agree(&self, key: &str, value: &[u8]) -> Result<Vec<u8>, TorchError> {
        let key = c_text(key)?;
        let (mut bytes, mut count) = (ptr::null_mut(), 0);
        // SAFETY: key and value outlive the call, which copies them.
        check(unsafe {
            marquee_store_agree(
                self.0,
                key.as_ptr(),
                value.as_ptr(),
                value.len(),
                &raw mut bytes,
                &raw mut count,
            )
        })?;
        Ok(taken(bytes, count))
    }

    /// The value of `key`, which must be there.
    pub(crate) fn get(&self, key: &str) -> Result<Vec<u8>, TorchError> {
        let key = c_text(key)?;
        let (mut bytes, mut count) = (ptr::null_mut(), 0);
        // SAFETY: key and both places outlive the call.
        check(unsafe { marquee_store_get(self.0, key.as_ptr(), &raw mut bytes, &raw mut count) })?;
        Ok(taken(bytes, count))
    }
}

/// Copies bytes that the shim gave away, and frees them.
fn taken(bytes: *mut u8, count: usize) -> Vec<u8> {
    // SAFETY: the shim has just written `count` bytes there, and nobody else knows of them.
    let copy = unsafe { std::slice::from_raw_parts(bytes, count) }.to_vec();
    // SAFETY: they come from the shim and are freed once.
    unsafe { marquee_bytes_free(bytes) };
    copy
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: the handle is owned and freed nowhere else.
        unsafe { marquee_store_free(self.0) }
    }
}

/// A Gloo process group.
///
/// Dropping it leaks it: its destructor waits for operations in flight, and those of a peer that
/// hangs never end. [`Group::close`] frees it after the last operation went well.
#[derive(Debug)]
pub(crate) struct Group(Handle);

// SAFETY: a process group is used from one thread at a time here, and may be freed from any.
unsafe impl Send for Group {}

impl Group {
    /// Joins the group of `size` ranks that meet in `store`. `address` is this rank's own; an
    /// operation fails after `timeout`.
    pub(crate) fn gloo(
        store: &Store,
        rank: u32,
        size: u32,
        address: &str,
        timeout: Duration,
    ) -> Result<Self, TorchError> {
        let address = c_text(address)?;
        let (rank, size) = (narrow(rank)?, narrow(size)?);
        let mut out = ptr::null_mut();
        // SAFETY: the store is live for the call, and the group then holds its own reference.
        check(unsafe {
            marquee_group_gloo(
                store.0,
                rank,
                size,
                address.as_ptr(),
                milliseconds(timeout),
                &raw mut out,
            )
        })?;
        Ok(Self(out))
    }

    /// Sums `tensor` over all ranks, in place.
    pub(crate) fn all_reduce_sum(&self, tensor: &Tensor) -> Result<(), TorchError> {
        // SAFETY: both are live; the call returns after the operation.
        check(unsafe { marquee_group_allreduce_sum(self.0, pointer(tensor)) })
    }

    /// Overwrites `tensors` with those of rank `root`.
    pub(crate) fn broadcast(&self, tensors: &[Tensor], root: u32) -> Result<(), TorchError> {
        let list = pointers(tensors);
        // SAFETY: all are live; the call returns after the operation.
        check(unsafe { marquee_group_broadcast(self.0, list.as_ptr(), list.len(), narrow(root)?) })
    }

    /// Returns when every rank has called it.
    pub(crate) fn barrier(&self) -> Result<(), TorchError> {
        // SAFETY: the group is live.
        check(unsafe { marquee_group_barrier(self.0) })
    }

    /// Leaves the group. Only for a group whose operations are all done.
    pub(crate) fn close(self) {
        let group = ManuallyDrop::new(self);
        // SAFETY: the handle is owned, and nobody uses it after this.
        unsafe { marquee_group_free(group.0) }
    }
}

/// Averages the gradients of its parameters over a group during each backward pass.
///
/// Like a [`Group`] it leaks when dropped: hooks of a backward pass that failed may still hold it.
#[derive(Debug)]
pub(crate) struct Reducer(Handle);

impl Reducer {
    /// Hooks `parameters`, which must be the same on every rank, in order, shape and type.
    /// With `bfloat16` gradients travel in half their size.
    pub(crate) fn new(
        group: &Group,
        parameters: &[Tensor],
        bfloat16: bool,
    ) -> Result<Self, TorchError> {
        let list = pointers(parameters);
        let mut out = ptr::null_mut();
        // SAFETY: the Reducer takes its own references to the group and the tensors.
        check(unsafe {
            marquee_reducer_new(
                group.0,
                list.as_ptr(),
                list.len(),
                c_int::from(bfloat16),
                &raw mut out,
            )
        })?;
        Ok(Self(out))
    }

    /// Before each forward pass.
    pub(crate) fn prepare(&self) -> Result<(), TorchError> {
        // SAFETY: the handle is live.
        check(unsafe { marquee_reducer_prepare(self.0) })
    }

    /// After the first backward pass: orders buckets as gradients became ready.
    pub(crate) fn rebuild(&self) -> Result<(), TorchError> {
        // SAFETY: the handle is live.
        check(unsafe { marquee_reducer_rebuild(self.0) })
    }

    /// Unhooks the parameters. Only after the last backward pass has ended, well or not.
    pub(crate) fn close(self) {
        let reducer = ManuallyDrop::new(self);
        // SAFETY: the handle is owned, and nobody uses it after this.
        unsafe { marquee_reducer_free(reducer.0) }
    }
}

/// How long a backward pass took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BackwardTimes {
    /// Until the last gradient of this rank was computed.
    pub(crate) compute_s: f64,
    /// From then until the all-reduce was done.
    pub(crate) waiting_s: f64,
}

/// Runs the backward pass of `loss`. On GPUs the times are those in which it was asked for.
pub(crate) fn backward(loss: &Tensor) -> Result<BackwardTimes, TorchError> {
    backward_marked(loss, None)
}

/// The same; sets a mark of a GPU's once its last gradient is computed.
pub(crate) fn backward_marked(
    loss: &Tensor,
    computed: Option<(&Mark, usize)>,
) -> Result<BackwardTimes, TorchError> {
    let (mark, index) = computed.map_or((ptr::null_mut(), 0), |(mark, index)| {
        (mark.handle(), c_int::try_from(index).unwrap_or(c_int::MAX))
    });
    let mut times = BackwardTimes {
        compute_s: 0.0,
        waiting_s: 0.0,
    };
    // SAFETY: the tensor, the mark and both numbers outlive the call.
    check(unsafe {
        marquee_backward(
            pointer(loss),
            mark,
            index,
            &raw mut times.compute_s,
            &raw mut times.waiting_s,
        )
    })?;
    Ok(times)
}

/// The same where nobody wants to know how long it took.
pub(crate) fn backward_untimed(loss: &Tensor) -> Result<(), TorchError> {
    // SAFETY: the tensor outlives the call; null pointers ask for no times.
    check(unsafe {
        marquee_backward(
            pointer(loss),
            ptr::null_mut(),
            0,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    })
}

/// Scales the gradients of `parameters` down to a norm, over all of them, of `max_norm` at most.
pub(crate) fn clip_gradients(parameters: &[Tensor], max_norm: f64) -> Result<(), TorchError> {
    let list = pointers(parameters);
    // SAFETY: all are live for the call.
    check(unsafe { marquee_clip_gradients(list.as_ptr(), list.len(), max_norm) })
}

/// Moves each of `means` by the share `weight` of the way to its parameter.
pub(crate) fn move_towards(
    means: &[Tensor],
    parameters: &[Tensor],
    weight: f64,
) -> Result<(), TorchError> {
    assert!(means.len() == parameters.len(), "one mean a parameter");
    let (list, targets) = (pointers(means), pointers(parameters));
    // SAFETY: both lists have `count` live tensors, as asserted.
    check(unsafe { marquee_move_towards(list.as_ptr(), targets.as_ptr(), list.len(), weight) })
}

/// Multiplies the gradients of `parameters` by `inverse_scale`; writes 1 to `found` if one of them
/// is not finite.
pub(crate) fn unscale_gradients(
    parameters: &[Tensor],
    inverse_scale: &Tensor,
    found: &Tensor,
) -> Result<(), TorchError> {
    let list = pointers(parameters);
    // SAFETY: all are live for the call.
    check(unsafe {
        marquee_unscale_gradients(
            list.as_ptr(),
            list.len(),
            pointer(inverse_scale),
            pointer(found),
        )
    })
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

/// Drops the gradients of `parameters`.
pub(crate) fn forget_gradients(parameters: &[Tensor]) -> Result<(), TorchError> {
    let list = pointers(parameters);
    // SAFETY: all are live for the call.
    check(unsafe { marquee_forget_gradients(list.as_ptr(), list.len()) })
}

/// Hyper-parameters of one step of SGD.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SgdStep {
    pub(crate) lr: f64,
    pub(crate) momentum: f64,
    pub(crate) weight_decay: f64,
    pub(crate) nesterov: bool,
    /// Whether `momenta` hold nothing yet.
    pub(crate) first: bool,
}

/// Steps `parameters` along their gradients. `momenta` has one tensor a parameter, or none at all.
/// Where `found` holds 1 nothing happens, which only the device notices.
pub(crate) fn sgd_step(
    parameters: &[Tensor],
    momenta: &[Tensor],
    step: SgdStep,
    found: Option<&Tensor>,
) -> Result<(), TorchError> {
    assert!(
        momenta.is_empty() || momenta.len() == parameters.len(),
        "one momentum a parameter"
    );
    let (list, buffers) = (pointers(parameters), pointers(momenta));
    let buffers_or_null = if buffers.is_empty() {
        ptr::null()
    } else {
        buffers.as_ptr()
    };
    // SAFETY: all lists have `count` live tensors, as asserted.
    check(unsafe {
        marquee_sgd_step(
            list.as_ptr(),
            buffers_or_null,
            list.len(),
            step.lr,
            step.momentum,
            step.weight_decay,
            c_int::from(step.nesterov),
            c_int::from(step.first),
            found.map_or(ptr::null_mut(), pointer),
        )
    })
}

/// Hyper-parameters of one step of AdamW.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamWStep {
    pub(crate) lr: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
    pub(crate) weight_decay: f64,
}

/// State of AdamW: one tensor a parameter in each list.
#[derive(Debug)]
pub(crate) struct AdamWState {
    pub(crate) averages: Vec<Tensor>,
    pub(crate) squares: Vec<Tensor>,
    /// Number of the step to come, from 1, as f32 scalars.
    pub(crate) steps: Vec<Tensor>,
}

/// Steps `parameters` along their gradients, unless `found` holds 1, as above.
pub(crate) fn adamw_step(
    parameters: &[Tensor],
    state: &AdamWState,
    step: AdamWStep,
    found: Option<&Tensor>,
) -> Result<(), TorchError> {
    let count = parameters.len();
    assert!(
        state.averages.len() == count && state.squares.len() == count && state.steps.len() == count,
        "one state a parameter"
    );
    let list = pointers(parameters);
    let (averages, squares) = (pointers(&state.averages), pointers(&state.squares));
    let steps = pointers(&state.steps);
    // SAFETY: all lists have `count` live tensors, as asserted.
    check(unsafe {
        marquee_adamw_step(
            list.as_ptr(),
            averages.as_ptr(),
            squares.as_ptr(),
            steps.as_ptr(),
            count,
            step.lr,
            step.beta1,
            step.beta2,
            step.weight_decay,
            step.eps,
            found.map_or(ptr::null_mut(), pointer),
        )
    })
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
