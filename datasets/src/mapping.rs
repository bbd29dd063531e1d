//! The one place that maps a file into memory.

#![allow(
    unsafe_code,
    reason = "mapping a file is unsafe by nature; the argument stands beside it"
)]

use std::fs::File;
use std::io;
use std::path::Path;

use arrow::buffer::Buffer;
use bytes::Bytes;
use memmap2::Mmap;

/// The bytes of a file, mapped and never copied.
pub(crate) fn map(path: &Path) -> io::Result<Buffer> {
    let file = File::open(path)?;
    // SAFETY: the map is read-only and our files are immutable: they get their name only when
    // they are complete (`durable`), live in an artifact's folder that is never written again, and
    // are replaced by renaming, which leaves this map on the old file. Whoever truncates one in
    // place breaks that contract and stops this process with SIGBUS, not with a wrong result.
    let mapped = unsafe { Mmap::map(&file)? };
    Ok(Buffer::from(Bytes::from_owner(mapped)))
}
