//! The one place that maps a file into memory.

#![allow(
    unsafe_code,
    reason = "mapping a file is unsafe by nature; the argument stands beside it"
)]

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow::buffer::Buffer;
use bytes::Bytes;
use memmap2::{Advice, Mmap};

/// A mapped file.
#[derive(Debug, Clone)]
pub(crate) struct Mapping(Arc<Mmap>);

impl Mapping {
    /// Its bytes, never copied.
    pub(crate) fn bytes(&self) -> Buffer {
        // The buffer holds the map, so that arrays made of it may outlive whoever opened the file.
        Buffer::from(Bytes::from_owner(self.clone()))
    }

    /// Asks the kernel to read a part of the file before it is needed. `part` lies in [`Self::bytes`];
    /// of anything else nothing is read. Waits until the disk has taken the requests.
    pub(crate) fn will_need(&self, part: &[u8]) {
        let start = part.as_ptr().addr().checked_sub(self.0.as_ptr().addr());
        if let Some(start) = start.filter(|start| start + part.len() <= self.0.len()) {
            // A hint: a kernel that does not take it reads the part when it is touched.
            let _ = self.0.advise_range(Advice::WillNeed, start, part.len());
        }
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The bytes of a file, mapped and never copied.
pub fn map(path: &Path) -> io::Result<Buffer> {
    Ok(open(path)?.bytes())
}

/// Maps a file.
pub(crate) fn open(path: &Path) -> io::Result<Mapping> {
    let file = File::open(path)?;
    // SAFETY: the map is read-only and our files are immutable: they get their name only when
    // they are complete (`durable`), live in an artifact's folder that is never written again, and
    // are replaced by renaming, which leaves this map on the old file. Whoever truncates one in
    // place breaks that contract and stops this process with SIGBUS, not with a wrong result.
    let mapped = unsafe { Mmap::map(&file)? };
    Ok(Mapping(Arc::new(mapped)))
}
