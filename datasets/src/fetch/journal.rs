//! The journal of a fetch: what became of each entry of the plan, with its picture, in the order in
//! which it became known.
//!
//! A journal is a folder of segments, `segment-NNNNN.journal`, each a sequence of frames: the word
//! `MQJ1`, the length of the header, the length of the body, the CRC-32 of both (all four little
//! endian, 4 bytes each), the header as JSON, the body.
//!
//! Invariant: a frame is there whole or does not count, so a process may be killed at any byte; a
//! segment is never written again once another one is begun, so it may be linked elsewhere.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flate2::Crc;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 4] = b"MQJ1";
const FRAME_HEAD_BYTES: usize = 16;
/// Bytes of a header: a film's details are a few hundred.
const HEADER_MAX_BYTES: u32 = 1024 * 1024;
/// Bytes of a body, at most: more than any picture that is taken.
const BODY_MAX_BYTES: u32 = 128 * 1024 * 1024;
/// Bytes after which a new segment is begun, whether or not a checkpoint closed the one before.
const SEGMENT_BYTES: u64 = 256 * 1024 * 1024;

/// Where the newest frame of an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    segment: u32,
    header: u32,
    body: u32,
    offset: u64,
}

/// What every header says.
#[derive(Debug, Serialize, Deserialize)]
struct Header<T> {
    /// The entry's place in the plan.
    at: u64,
    #[serde(flatten)]
    outcome: T,
}

/// A journal that is written and read.
#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
    /// By place in the plan.
    slots: Vec<Option<Slot>>,
    settled: u64,
    body_bytes: u64,
    writing: Option<(File, u32, u64)>,
    next_segment: u32,
    reading: BTreeMap<u32, File>,
}

impl Journal {
    /// Opens the journal in `dir` for a plan of `entries` entries, and reads what is there.
    /// `is_settled` says whether an outcome stands; one that does not is as if it were not there.
    pub(super) fn open<T: DeserializeOwned>(
        dir: &Path,
        entries: u64,
        is_settled: impl Fn(&T) -> bool,
    ) -> io::Result<Self> {
        let mut journal = Self {
            dir: dir.to_owned(),
            slots: vec![None; usize::try_from(entries).map_err(io::Error::other)?],
            settled: 0,
            body_bytes: 0,
            writing: None,
            next_segment: 0,
            reading: BTreeMap::new(),
        };
        for (number, path) in segments_in(dir)? {
            // Segments in the order in which they were written: of an entry that was settled twice,
            // the later frame counts.
            journal.scan(number, &path, &is_settled)?;
            // A segment of an earlier attempt is never written on: its end may be torn, and a
            // checkpoint may have a link to it.
            journal.next_segment = journal.next_segment.max(number + 1);
        }
        Ok(journal)
    }

    /// Entries that are settled.
    pub(super) fn settled(&self) -> u64 {
        self.settled
    }

    /// Bytes of all bodies.
    pub(super) fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    pub(super) fn has(&self, at: u64) -> bool {
        usize::try_from(at)
            .ok()
            .and_then(|at| self.slots.get(at))
            .is_some_and(Option::is_some)
    }

    /// Settles an entry.
    pub(super) fn append<T: Serialize>(
        &mut self,
        at: u64,
        outcome: &T,
        body: &[u8],
    ) -> io::Result<()> {
        let header = serde_json::to_vec(&Header { at, outcome })?;
        let too_long = |_| io::Error::other("a frame is too long");
        let head = (
            u32::try_from(header.len()).map_err(too_long)?,
            u32::try_from(body.len()).map_err(too_long)?,
        );
        if self
            .writing
            .as_ref()
            .is_some_and(|(_, _, written)| *written >= SEGMENT_BYTES)
        {
            self.close_segment()?;
        }
        let (file, number, written) = self.segment()?;
        let mut frame = Vec::with_capacity(FRAME_HEAD_BYTES + header.len());
        frame.extend_from_slice(MAGIC);
        frame.extend_from_slice(&head.0.to_le_bytes());
        frame.extend_from_slice(&head.1.to_le_bytes());
        frame.extend_from_slice(&checksum(&header, body).to_le_bytes());
        frame.extend_from_slice(&header);
        // Not synced: a frame that is lost with the machine costs one request, while a sync a picture
        // would cost more than the network does. What a checkpoint links is synced before.
        file.write_all(&frame)?;
        file.write_all(body)?;
        let slot = Slot {
            segment: *number,
            header: head.0,
            body: head.1,
            offset: *written,
        };
        *written += (frame.len() + body.len()) as u64;
        self.settle(at, slot);
        Ok(())
    }

    /// The outcome of an entry with its body; None if it is not settled.
    pub(super) fn read<T: DeserializeOwned>(
        &mut self,
        at: u64,
    ) -> io::Result<Option<(T, Vec<u8>)>> {
        let slot = usize::try_from(at).ok().and_then(|at| self.slots.get(at));
        let Some(slot) = slot.copied().flatten() else {
            return Ok(None);
        };
        let file = match self.reading.entry(slot.segment) {
            std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::btree_map::Entry::Vacant(none) => {
                none.insert(File::open(path_of(&self.dir, slot.segment))?)
            }
        };
        // One read for head, header and body. The sum was only checked for the last frame of a segment
        // so far: a disk may have altered any.
        let mut frame = vec![0; FRAME_HEAD_BYTES + slot.header as usize + slot.body as usize];
        file.read_exact_at(&mut frame, slot.offset)?;
        let body = frame.split_off(FRAME_HEAD_BYTES + slot.header as usize);
        let header = &frame[FRAME_HEAD_BYTES..];
        if frame[12..FRAME_HEAD_BYTES] != checksum(header, &body).to_le_bytes() {
            return Err(io::Error::other(format!(
                "entry {at} of the journal in {} was altered",
                self.dir.display()
            )));
        }
        let header: Header<T> = serde_json::from_slice(header)?;
        Ok(Some((header.outcome, body)))
    }

    /// Ends the segment that is being written, safely on disk.
    pub(super) fn close_segment(&mut self) -> io::Result<()> {
        match self.writing.take() {
            Some((file, ..)) => file.sync_all(),
            None => Ok(()),
        }
    }

    /// The segments that are complete.
    pub(super) fn segments(&self) -> io::Result<Vec<PathBuf>> {
        let all = segments_in(&self.dir)?;
        let open = self.writing.as_ref().map(|(_, number, _)| *number);
        Ok(all
            .into_iter()
            .filter(|(number, _)| Some(*number) != open)
            .map(|(_, path)| path)
            .collect())
    }

    fn settle(&mut self, at: u64, slot: Slot) {
        let place = usize::try_from(at)
            .ok()
            .and_then(|at| self.slots.get_mut(at));
        if let Some(place) = place {
            self.settled += u64::from(place.is_none());
            self.body_bytes += u64::from(slot.body);
            *place = Some(slot);
        }
    }

    fn segment(&mut self) -> io::Result<(&mut File, &u32, &mut u64)> {
        if self.writing.is_none() {
            let number = self.next_segment;
            let file = OpenOptions::new()
                .create_new(true)
                .append(true)
                .open(path_of(&self.dir, number))?;
            self.next_segment += 1;
            self.writing = Some((file, number, 0));
        }
        let (file, number, written) = self.writing.as_mut().expect("it was begun above");
        Ok((file, number, written))
    }

    /// Reads the frames of a segment up to its end or to the first that is not whole.
    fn scan<T: DeserializeOwned>(
        &mut self,
        number: u32,
        path: &Path,
        is_settled: &impl Fn(&T) -> bool,
    ) -> io::Result<()> {
        let mut file = BufReader::with_capacity(64 * 1024, File::open(path)?);
        let end = file.get_ref().metadata()?.len();
        let (mut offset, mut head, mut header) = (0, [0; FRAME_HEAD_BYTES], Vec::new());
        while offset + FRAME_HEAD_BYTES as u64 <= end {
            file.read_exact(&mut head)?;
            let word = |at: usize| {
                u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
            };
            let (header_bytes, body_bytes) = (word(4), word(8));
            let length = FRAME_HEAD_BYTES as u64 + u64::from(header_bytes) + u64::from(body_bytes);
            let is_odd = &head[..4] != MAGIC
                || header_bytes > HEADER_MAX_BYTES
                || body_bytes > BODY_MAX_BYTES;
            // Nothing says where a frame after a torn one would begin. What is left is asked for again.
            if is_odd || offset + length > end {
                break;
            }
            header.resize(header_bytes as usize, 0);
            file.read_exact(&mut header)?;
            // The body's bytes are checked when it is read: here it is only stepped over, so that
            // a restart takes seconds, not the time to read everything.
            file.seek_relative(i64::from(body_bytes))?;
            let Ok(read) = serde_json::from_slice::<Header<T>>(&header) else {
                break;
            };
            // What does not stand keeps its place in the file, but none in memory.
            if is_settled(&read.outcome) {
                let slot = Slot {
                    segment: number,
                    header: header_bytes,
                    body: body_bytes,
                    offset,
                };
                self.settle(read.at, slot);
            }
            offset += length;
        }
        self.check_last(number, path)
    }

    /// The last frame of a segment may have its length but not its bytes, if power was lost.
    fn check_last(&mut self, number: u32, path: &Path) -> io::Result<()> {
        let last = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(at, slot)| slot.map(|slot| (at, slot)))
            .filter(|(_, slot)| slot.segment == number)
            .max_by_key(|(_, slot)| slot.offset);
        let Some((at, slot)) = last else {
            return Ok(());
        };
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(slot.offset))?;
        let mut frame = vec![0; FRAME_HEAD_BYTES + slot.header as usize + slot.body as usize];
        file.read_exact(&mut frame)?;
        let (header, body) = frame[FRAME_HEAD_BYTES..].split_at(slot.header as usize);
        if frame[12..FRAME_HEAD_BYTES] != checksum(header, body).to_le_bytes() {
            self.slots[at] = None;
            self.settled -= 1;
        }
        Ok(())
    }
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(header);
    crc.update(body);
    crc.sum()
}

fn path_of(dir: &Path, segment: u32) -> PathBuf {
    dir.join(format!("segment-{segment:05}.journal"))
}

fn segments_in(dir: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix("segment-")?.strip_suffix(".journal"))
            .and_then(|number| number.parse().ok());
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        word: String,
    }

    fn note(word: &str) -> Note {
        Note {
            word: word.to_owned(),
        }
    }

    fn open(dir: &Path) -> Journal {
        Journal::open(dir, 10, |note: &Note| note.word != "again").unwrap()
    }

    #[test]
    fn what_was_written_is_there_again_and_the_newest_counts() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(dir.path());
        journal.append(3, &note("again"), b"").unwrap();
        journal.append(7, &note("b"), b"body of 7").unwrap();
        drop(journal);
        let mut journal = open(dir.path());
        assert_eq!(
            (journal.settled(), journal.has(3), journal.has(7)),
            (1, false, true)
        );
        journal.append(3, &note("c"), b"new").unwrap();
        for _ in 0..2 {
            assert_eq!(journal.read(3).unwrap(), Some((note("c"), b"new".to_vec())));
            assert_eq!(
                journal.read(7).unwrap(),
                Some((note("b"), b"body of 7".to_vec()))
            );
            assert_eq!(journal.read::<Note>(4).unwrap(), None);
            journal = open(dir.path());
        }
        assert_eq!(journal.segments().unwrap().len(), 2);
    }

    #[test]
    fn a_journal_that_was_cut_anywhere_keeps_its_whole_frames() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(dir.path());
        for at in 0..4 {
            journal.append(at, &note("x"), &[7; 50]).unwrap();
        }
        drop(journal);
        let file = path_of(dir.path(), 0);
        let whole = fs::read(&file).unwrap();
        for length in 0..whole.len() {
            fs::write(&file, &whole[..length]).unwrap();
            let journal = open(dir.path());
            assert_eq!(
                journal.settled(),
                (length * 4 / whole.len()) as u64,
                "{length}"
            );
        }
        let mut altered = whole.clone();
        *altered.last_mut().unwrap() ^= 1;
        fs::write(&file, altered).unwrap();
        assert_eq!(open(dir.path()).settled(), 3);
    }
}
