//! Xid errors: what the driver reports of a GPU besides what NVML's counters say.
//!
//! They come as NVML's events where the device supports them, else from the kernel's log where this
//! process may read it. What they mean stands in `marquee_domain::evidence`.
//!
//! Invariant: a record of the kernel's log is told once, also by a daemon that was started again: the log goes on
//! where the last one stopped, by the sequence number that the kernel gives each record of a boot.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

/// The kernel's log, one record a read.
const KERNEL_LOG: &str = "/dev/kmsg";
/// Bytes of the longest record that the kernel gives (CONSOLE_EXT_LOG_MAX).
const RECORD_MAX_BYTES: usize = 8192;
/// Records read in one go, so that a chatty kernel cannot hold the sampler up.
const RECORDS_MAX: usize = 4096;

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// Everything since the host was booted: no daemon has read it.
    Beginning,
    /// Behind the record of this number.
    After(u64),
    /// What comes from now on. A daemon that was just installed knows nothing of what was mended before.
    Now,
}

/// An Xid in the kernel's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// PCI bus id.
    pub(super) bus: String,
    pub(super) code: u64,
    /// The message as it stands there.
    pub(super) text: String,
    /// When it was written, by the clock that began with the boot.
    pub(super) since_boot: Duration,
}

/// The kernel's log, read on from where it was.
#[derive(Debug)]
pub(super) struct KernelLog<R = File> {
    source: R,
    /// The record that was read to see whether this process may.
    first: Option<String>,
    /// Number of the newest record that was read, or is not to be told.
    read_until: Option<u64>,
}

impl KernelLog {
    /// None where this process may not read it.
    pub(super) fn open(from: From) -> Option<Self> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits());
        let mut file = options.open(KERNEL_LOG).ok()?;
        if from == From::Now {
            file.seek(SeekFrom::End(0)).ok()?;
        }
        Self::of(file, from)
    }
}

impl<R: Read> KernelLog<R> {
    fn of(source: R, from: From) -> Option<Self> {
        let read_until = match from {
            From::Beginning | From::Now => None,
            From::After(sequence) => Some(sequence),
        };
        let mut log = Self {
            source,
            first: None,
            read_until,
        };
        // A log that opens may still refuse to be read (kernel.dmesg_restrict).
        log.first = match log.read() {
            Ok(record) => Some(record),
            Err(error) if error.kind() == ErrorKind::WouldBlock || is_gap(&error) => None,
            Err(_) => return None,
        };
        Some(log)
    }

    /// Number of the newest record that was read; None: none was.
    pub(super) fn read_until(&self) -> Option<u64> {
        self.read_until
    }

    /// Every Xid since the last look.
    pub(super) fn news(&mut self) -> Vec<Line> {
        let mut found = Vec::new();
        for _ in 0..RECORDS_MAX {
            let record = match self.first.take().map_or_else(|| self.read(), Ok) {
                Ok(record) if record.is_empty() => break,
                Ok(record) => record,
                // Overwritten before it was read: the next read goes on behind the gap.
                Err(error) if is_gap(&error) => continue,
                Err(_) => break,
            };
            let Some((sequence, since_boot)) = head(&record) else {
                continue;
            };
            if self.read_until.is_some_and(|until| sequence <= until) {
                continue;
            }
            self.read_until = Some(sequence);
            found.extend(parse(&record).map(|(bus, code, text)| Line {
                bus,
                code,
                text,
                since_boot,
            }));
        }
        found
    }

    fn read(&mut self) -> std::io::Result<String> {
        let mut record = vec![0; RECORD_MAX_BYTES];
        let length = self.source.read(&mut record)?;
        Ok(String::from_utf8_lossy(&record[..length]).into_owned())
    }
}

fn is_gap(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EPIPE as i32)
}

/// Sequence number and time of a record, `4,1842,90123,-;message`: the time is in microseconds since the boot.
fn head(record: &str) -> Option<(u64, Duration)> {
    let (head, _) = record.split_once(';')?;
    let mut fields = head.split(',').skip(1);
    let sequence = fields.next()?.parse().ok()?;
    let microseconds = fields.next()?.parse().ok()?;
    Some((sequence, Duration::from_micros(microseconds)))
}

/// An Xid in a record such as `4,1842,90123,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=..., GPU has fallen off the bus.`, with
/// its message.
fn parse(record: &str) -> Option<(String, u64, String)> {
    let start = record.find("NVRM: Xid (PCI:")?;
    // Lines below the message are the kernel's notes about the device.
    let text = record[start..].lines().next()?;
    let (bus, rest) = text.split_once("(PCI:")?.1.split_once("): ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((
        bus.to_ascii_lowercase(),
        digits.parse().ok()?,
        text.to_owned(),
    ))
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
    use std::collections::VecDeque;
    use std::io;

    use super::*;

    /// One record a read, as the kernel gives them.
    #[derive(Default)]
    struct Records(VecDeque<io::Result<String>>);

    impl Read for Records {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let record = self.0.pop_front();
            let record = record.unwrap_or(Err(ErrorKind::WouldBlock.into()))?;
            out[..record.len()].copy_from_slice(record.as_bytes());
            Ok(record.len())
        }
    }

    fn xid(sequence: u64, code: u64) -> io::Result<String> {
        Ok(format!(
            "4,{sequence},90123,-;NVRM: Xid (PCI:0000:3B:00): {code}, pid='<unknown>', GPU has fallen off the bus.\n \
             SUBSYSTEM=pci\n"
        ))
    }

    fn log(
        records: impl IntoIterator<Item = io::Result<String>>,
        from: From,
    ) -> KernelLog<Records> {
        KernelLog::of(Records(records.into_iter().collect()), from).unwrap()
    }

    fn codes(lines: &[Line]) -> Vec<u64> {
        lines.iter().map(|line| line.code).collect()
    }

    #[test]
    fn an_xid_is_read_out_of_the_kernels_words() {
        let mut log = log([xid(1_842, 79)], From::Beginning);
        let lines = log.news();
        let expected = Line {
            bus: "0000:3b:00".into(),
            code: 79,
            text: "NVRM: Xid (PCI:0000:3B:00): 79, pid='<unknown>', GPU has fallen off the bus."
                .into(),
            since_boot: Duration::from_micros(90_123),
        };
        assert_eq!(lines, [expected]);
        assert_eq!(parse("6,1,2,-;NVRM: loading NVIDIA UNIX x86_64"), None);
        assert_eq!(parse("4,1,2,-;NVRM: Xid (PCI:0000:3b:00): , name"), None);
        assert_eq!(head("no record"), None);
    }

    #[test]
    fn a_daemon_that_was_started_again_goes_on_where_the_last_one_stopped() {
        let records = || (1..=5).map(|sequence| xid(sequence, 40 + sequence));
        let mut first = log(records().take(3), From::Beginning);
        assert_eq!(codes(&first.news()), [41, 42, 43]);
        assert_eq!(first.read_until(), Some(3));
        assert_eq!(codes(&first.news()), [0; 0]);
        // The kernel gives the whole log to whoever opens it.
        let mut second = log(records(), From::After(3));
        assert_eq!(codes(&second.news()), [44, 45]);
        // Nothing new yet, or all that was read is overwritten.
        assert_eq!(codes(&log(records(), From::After(9)).news()), [0; 0]);
        let gap = Err(io::Error::from_raw_os_error(
            nix::errno::Errno::EPIPE as i32,
        ));
        let mut overwritten = log([gap, xid(9, 79)], From::After(3));
        assert_eq!(codes(&overwritten.news()), [79]);
    }

    #[test]
    fn one_who_may_not_read_has_no_log() {
        let refused = Err(io::Error::from(ErrorKind::PermissionDenied));
        assert!(KernelLog::of(Records(VecDeque::from([refused])), From::Beginning).is_none());
    }

    #[test]
    fn a_bus_is_known_by_both_of_its_names() {
        assert!(is_same_bus("00000000:3B:00.0", "0000:3b:00"));
        assert!(!is_same_bus("00000000:3C:00.0", "0000:3b:00"));
        assert!(!is_same_bus("00000000:3C:00.0", ""));
    }
}
