//! What the fuzzer needs to try readers of files on whatever bytes.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::job::JobError;

/// Gives `read` the path of a file that holds `bytes` and is in memory alone.
pub(super) fn in_memory(bytes: &[u8], read: impl Fn(&Path) -> Result<String, JobError>) -> String {
    // Not on a disk, which millions of inputs would keep busy.
    let Ok(file) = memfd_create("input", MFdFlags::empty()) else {
        return "no memory".to_owned();
    };
    let mut file = std::fs::File::from(file);
    if file.write_all(bytes).is_err() {
        return "no memory".to_owned();
    }
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    match read(&path) {
        Ok(said) => said,
        Err(JobError::Stopped) => "stopped".to_owned(),
        Err(JobError::Failed(failure)) => words(&failure.message),
    }
}

/// The words of a message without what stands in quotes and its numbers: a new kind of error is a new
/// verdict.
pub(super) fn words(message: &str) -> String {
    let message = message.replace("\\\"", "");
    let outside = message.split('"').step_by(2);
    let words = outside.flat_map(|part| part.split(|c: char| !c.is_ascii_alphabetic()));
    let words: Vec<&str> = words.filter(|word| word.len() > 3).take(8).collect();
    words.join(" ")
}
