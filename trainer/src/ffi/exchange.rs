//! How ranks meet and exchange: the store, the Gloo group, the reducer of gradients.

use std::ffi::{c_char, c_int};
use std::mem::ManuallyDrop;
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::ptr;
use std::time::Duration;

use tch::Tensor;

use super::{Handle, c_text, check, milliseconds, narrow, pointer, pointers};
use crate::error::TorchError;

unsafe extern "C" {
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
}

/// A key-value store over TCP at which ranks find each other.
#[derive(Debug)]
pub(crate) struct Store(pub(super) Handle);

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
                // The listening socket itself and not its port: between closing one and opening the
                // other somebody else could take it.
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
pub(crate) struct Group(pub(super) Handle);

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
