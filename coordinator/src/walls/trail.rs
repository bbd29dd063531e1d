//! What this process is at, written where a crash does not take it away: a file of slots in the data folder, one for
//! each thing under way, that is written without waiting for the disk. A process that dies leaves its pages to the
//! kernel; only the end of the machine takes them, and that is no crash of ours.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a slot: a line of text. A text of zero bytes is a free slot.
const SLOT_BYTES: usize = 256;
/// Things under way that are written down; more are not.
const SLOTS: usize = 128;

/// Where it is written down. Without a file, as in tests, nothing is.
#[derive(Debug, Clone, Default)]
pub struct Trail(Option<Arc<Slots>>);

#[derive(Debug)]
struct Slots {
    file: File,
    free: Mutex<Vec<usize>>,
}

/// Something under way. Dropped, it is through.
#[derive(Debug)]
pub struct Step(Option<(Arc<Slots>, usize)>);

impl Trail {
    /// Reads what the process before this one was at when it ended, and begins anew.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Vec<String>)> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)?;
        let mut before = Vec::new();
        for slot in 0..SLOTS {
            let mut bytes = [0; SLOT_BYTES];
            if file.read_exact_at(&mut bytes, offset(slot)).is_err() {
                break;
            }
            let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            if !text.is_empty() {
                before.push(String::from_utf8_lossy(text).into_owned());
            }
        }
        // All at once, so that a disk that fills later makes no difference.
        file.write_all_at(&[0; SLOT_BYTES * SLOTS], 0)?;
        let free = Mutex::new((0..SLOTS).rev().collect());
        Ok((Self(Some(Arc::new(Slots { file, free }))), before))
    }

    /// Notes that something begins, by what it is about: the same input has the same text each time, since that is
    /// what a crash that comes again is known by, and another input has another, or whoever kills a busy
    /// coordinator three times would have made a crash loop.
    #[must_use = "dropped, it is through"]
    pub fn step(&self, what: impl FnOnce() -> String) -> Step {
        let Some(slots) = &self.0 else {
            return Step(None);
        };
        let slot = slots.free().pop();
        let Some(slot) = slot else {
            return Step(None);
        };
        let mut text = what();
        text.truncate(text.floor_char_boundary(SLOT_BYTES - 1));
        let mut bytes = [0; SLOT_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        slots.write(slot, &bytes);
        Step(Some((slots.clone(), slot)))
    }
}

impl Slots {
    fn free(&self) -> std::sync::MutexGuard<'_, Vec<usize>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, slot: usize, bytes: &[u8]) {
        // It is a hint for after a crash; what it is about must not fail for it.
        if let Err(error) = self.file.write_all_at(bytes, offset(slot)) {
            tracing::debug!(%error, "what is under way could not be written down");
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some((slots, slot)) = self.0.take() {
            slots.write(slot, &[0]);
            slots.free().push(slot);
        }
    }
}

fn offset(slot: usize) -> u64 {
    (slot * SLOT_BYTES) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_under_way_is_there_after_the_end_and_what_was_through_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trail");
        let (trail, before) = Trail::open(&path).unwrap();
        assert!(before.is_empty());
        let through = trail.step(|| "through".into());
        let long = trail.step(|| "\u{20ac}".repeat(1_000));
        let open = trail.step(|| "job 17".into());
        drop(through);
        // As after kill -9: nobody says that these are through.
        std::mem::forget([long, open]);
        let (trail, before) = Trail::open(&path).unwrap();
        assert_eq!(before.len(), 2, "{before:?}");
        assert!(before.contains(&"job 17".to_owned()));
        let many: Vec<Step> = (0..2 * SLOTS)
            .map(|n| trail.step(|| format!("{n}")))
            .collect();
        drop(many);
        assert_eq!(Trail::open(&path).unwrap().1, [] as [String; 0]);
        // Half a file, or another program's.
        std::fs::write(&path, b"\xff\xfe what is this").unwrap();
        Trail::open(&path).unwrap();
    }
}
