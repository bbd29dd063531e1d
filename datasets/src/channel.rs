//! The way out for a child's events: the descriptor that the worker gave, else stdout.
//!
//! It leads to a file that the worker reads, so that a worker that is started again loses nothing. A disk
//! that is full ends nothing either: what does not fit is kept here and written when there is room.
//! Invariant: a line reaches the file whole and in its place, however often the disk was full in between.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::thread;
use std::time::{Duration, Instant};

use marquee_domain::child::env;

/// Bytes that are kept while the disk is full. Beyond them the child waits: minutes of progress and curves.
const KEPT_MAX_BYTES: usize = 4 * 1024 * 1024;
/// Between two tries while the disk is full.
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// How long a last word waits for room. It decides about the job, and an operator may need a while.
const LAST_WORD_MAX: Duration = Duration::from_secs(600);

/// Where events go.
pub struct Channel {
    out: Box<dyn Write + Send>,
    /// What was written here and not yet there.
    kept: Vec<u8>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}

impl Channel {
    /// The channel that this process was given. To be called before it starts others: they must not
    /// inherit the descriptor.
    pub fn from_env() -> io::Result<Self> {
        let Ok(number) = std::env::var(env::EVENTS_FD) else {
            return Ok(Self::to(Box::new(io::stdout())));
        };
        let named = |cause: &dyn std::fmt::Display| {
            let text = format!("{}={number:?}: {cause}", env::EVENTS_FD);
            io::Error::new(ErrorKind::InvalidInput, text)
        };
        let descriptor: i32 = number.parse().map_err(|e| named(&e))?;
        // To close one of those would let the next file that is opened take its place.
        if descriptor <= 2 {
            return Err(named(&"is one of stdin, stdout and stderr"));
        }
        // A descriptor of our own to the same file, since only an owned one is closed when others start.
        let path = format!("/proc/self/fd/{descriptor}");
        let out = OpenOptions::new().append(true).open(path);
        let out = out.map_err(|e| named(&e))?;
        nix::unistd::close(descriptor).map_err(|e| named(&e))?;
        Ok(Self::to(Box::new(out)))
    }

    /// A channel to any writer.
    #[must_use]
    pub fn to(out: Box<dyn Write + Send>) -> Self {
        Self {
            out,
            kept: Vec::new(),
        }
    }

    /// Writes what was kept. Comes back with some of it still kept when the disk is full.
    fn push(&mut self) -> io::Result<()> {
        while !self.kept.is_empty() {
            match self.out.write(&self.kept) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.kept.drain(..written);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // What was written in part stays so: the rest of the line is the first thing that
                // is kept.
                Err(error) if is_full(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.out.flush()
    }

    /// Sees to it that all that was said is written, for as long as there is hope. To be called after the
    /// last word.
    pub fn finish(&mut self) -> io::Result<()> {
        let since = Instant::now();
        loop {
            self.push()?;
            if self.kept.is_empty() {
                return Ok(());
            }
            if since.elapsed() > LAST_WORD_MAX {
                return Err(ErrorKind::StorageFull.into());
            }
            thread::sleep(TRY_AGAIN);
        }
    }
}

/// Of whole lines: what is written is on its way at the next [`Write::flush`].
impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.kept.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.push()?;
        while self.kept.len() > KEPT_MAX_BYTES {
            thread::sleep(TRY_AGAIN);
            self.push()?;
        }
        Ok(())
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex, PoisonError};

    /// A disk with so much room.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Disk {
        fn make_room(&self, bytes: usize) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).1 += bytes;
        }

        fn text(&self) -> String {
            let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            String::from_utf8(held.0.clone()).unwrap()
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let fits = bytes.len().min(held.1);
            if fits == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            held.0.extend_from_slice(&bytes[..fits]);
            held.1 -= fits;
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_cuts_no_line_and_loses_none() {
        let disk = Disk::default();
        let mut channel = Channel::to(Box::new(disk.clone()));
        let mut expected = String::new();
        for n in 0..100 {
            let line = format!("{{\"event\":{n}}}\n");
            expected.push_str(&line);
            channel.write_all(line.as_bytes()).unwrap();
            channel.flush().unwrap();
            // Less than a line at a time.
            disk.make_room(7);
        }
        assert!(disk.text().len() < expected.len());
        let later = disk.clone();
        let janitor = thread::spawn(move || later.make_room(1 << 20));
        channel.finish().unwrap();
        janitor.join().unwrap();
        assert_eq!(disk.text(), expected);
    }

    #[test]
    fn a_reader_that_left_is_an_error_and_not_a_wait() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut channel = Channel::to(Box::new(writer));
        channel.write_all(b"x\n").unwrap();
        assert_eq!(channel.flush().unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}
