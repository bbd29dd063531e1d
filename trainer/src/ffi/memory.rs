//! How this process deals with memory.

use std::ffi::c_int;

use tch::{Device, TchError, Tensor};

use super::gpu::set_default_variable;

/// Bytes by which the heap grows beyond what is needed at once: a few system calls in the first step
/// instead of hundreds.
const HEAP_GROWTH_BYTES: c_int = 64 << 20;
/// libtorch's switch for huge pages behind large tensors.
const HUGE_PAGES: &str = "THP_MEM_ALLOC_ENABLE";
/// glibc's own variables for what is set here.
const HEAP_VARIABLES: [&str; 2] = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"];

/// Makes this process keep the memory of tensors from step to step. Only from `main`, before a second
/// thread exists and before libtorch has asked for memory.
///
/// As it comes, glibc gives large blocks back to the kernel as soon as they are free, and a step of
/// training then spends a good part of its time on having the same pages zeroed again. What a
/// user has set in the environment stands.
pub(crate) fn keep_memory() {
    if let Err(error) = set_default_variable(HUGE_PAGES, "1") {
        tracing::warn!(%error, "huge pages cannot be asked for");
    }
    #[cfg(target_env = "gnu")]
    if !HEAP_VARIABLES
        .iter()
        .any(|name| std::env::var_os(name).is_some())
    {
        // SAFETY: plain settings of the allocator, and no other thread is there yet. What it does not
        // know it refuses, and nothing changes.
        unsafe {
            // From the heap and never by mmap: a block of its own goes back to the kernel with each
            // free.
            libc::mallopt(libc::M_MMAP_THRESHOLD, c_int::MAX);
            // Never give memory back.
            libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
            libc::mallopt(libc::M_TOP_PAD, HEAP_GROWTH_BYTES);
        }
    }
}

/// Copies what `tensor` holds into `bytes`, in row-major order, from whatever device and layout.
///
/// # Panics
/// If `bytes` is not as long as the tensor's numbers, or not aligned for them.
pub(crate) fn copy_out(tensor: &Tensor, bytes: &mut [u8]) -> Result<(), TchError> {
    let kind = tensor.f_kind()?;
    let width = kind.elt_size_in_bytes();
    assert_eq!(bytes.len(), tensor.numel() * width, "length of a copy");
    assert!(bytes.as_ptr().addr().is_multiple_of(width), "alignment");
    if bytes.is_empty() {
        return Ok(());
    }
    let size = tensor.size();
    let mut strides = vec![1; size.len()];
    for axis in (1..size.len()).rev() {
        strides[axis - 1] = strides[axis] * size[axis];
    }
    // SAFETY: the tensor over `bytes` ends with this function, which holds them alone; it is as long as
    // they are, and they are aligned for its numbers.
    let mut target =
        unsafe { Tensor::f_from_blob(bytes.as_mut_ptr(), &size, &strides, kind, Device::Cpu) }?;
    target.f_copy_(&tensor.f_detach()?)
}
