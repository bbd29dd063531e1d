//! Xid errors: what the driver reports of a GPU besides what NVML's counters say.
//!
//! They come as NVML's events where the device supports them, else from the kernel's log where this
//! process may read it. Meanings: NVIDIA's "Xid Errors" guide.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;

/// The kernel's log, one record a read.
const KERNEL_LOG: &str = "/dev/kmsg";
/// Bytes of the longest record that the kernel gives (CONSOLE_EXT_LOG_MAX).
const RECORD_MAX_BYTES: usize = 8192;
/// Records read in one go, so that a chatty kernel cannot hold the sampler up.
const RECORDS_MAX: usize = 4096;

/// What a code means, where the device is not to be used after it. Errors of programs (13, 31, 43,
/// 45 and their kin) are left out: the next program finds the device as good as new.
pub(super) fn fatal(code: u64) -> Option<&'static str> {
    match code {
        48 => Some("uncorrectable ECC error"),
        79 => Some("the GPU has fallen off the bus"),
        95 => Some("uncontained ECC error"),
        _ => None,
    }
}

/// The kernel's log, read on from where it was.
#[derive(Debug)]
pub(super) struct KernelLog(File);

impl KernelLog {
    /// None where this process may not read it.
    pub(super) fn open() -> Option<Self> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits());
        let file = options.open(KERNEL_LOG).ok()?;
        let mut log = Self(file);
        // A log that opens may still refuse to be read (kernel.dmesg_restrict).
        let mut record = [0; RECORD_MAX_BYTES];
        match log.0.read(&mut record) {
            Ok(_) => Some(log),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Some(log),
            Err(_) => None,
        }
    }

    /// (PCI bus id, code) of every Xid since the last look.
    pub(super) fn news(&mut self) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        let mut record = vec![0; RECORD_MAX_BYTES];
        for _ in 0..RECORDS_MAX {
            match self.0.read(&mut record) {
                Ok(0) => break,
                Ok(length) => {
                    found.extend(parse(&String::from_utf8_lossy(&record[..length])));
                }
                // Overwritten before it was read: the next read goes on behind the gap.
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EPIPE as i32) => {}
                Err(_) => break,
            }
        }
        found
    }
}

/// An Xid in a line such as `NVRM: Xid (PCI:0000:3b:00): 79, pid=..., GPU has fallen off the bus.`
fn parse(line: &str) -> Option<(String, u64)> {
    let rest = line.split_once("NVRM: Xid (PCI:")?.1;
    let (bus, rest) = rest.split_once("): ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((bus.to_ascii_lowercase(), digits.parse().ok()?))
}

/// Whether NVML's bus id ("00000000:3B:00.0") and the kernel's ("0000:3b:00") are one.
pub(super) fn is_same_bus(nvml: &str, kernel: &str) -> bool {
    let nvml = nvml.to_ascii_lowercase();
    let nvml = nvml.split_once('.').map_or(nvml.as_str(), |(bus, _)| bus);
    let kernel = kernel.split_once('.').map_or(kernel, |(bus, _)| bus);
    !kernel.is_empty() && nvml.trim_start_matches('0') == kernel.trim_start_matches('0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_xid_is_read_out_of_the_kernels_words() {
        let line = "4,1842,90123,-;NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', \
                    name=<unknown>, GPU has fallen off the bus.";
        assert_eq!(parse(line), Some(("0000:3b:00".into(), 79)));
        assert_eq!(parse("6,1,2,-;NVRM: loading NVIDIA UNIX x86_64"), None);
        assert_eq!(parse("NVRM: Xid (PCI:0000:3b:00): , name"), None);
    }

    #[test]
    fn a_bus_is_known_by_both_of_its_names() {
        assert!(is_same_bus("00000000:3B:00.0", "0000:3b:00"));
        assert!(!is_same_bus("00000000:3C:00.0", "0000:3b:00"));
        assert!(!is_same_bus("00000000:3C:00.0", ""));
    }

    #[test]
    fn a_programs_own_errors_do_not_condemn_the_device() {
        assert_eq!(fatal(31), None);
        assert!(fatal(79).unwrap().contains("off the bus"));
    }
}
