//! The journal of a fetch: what became of each entry of the plan, with its picture, in the order in
//! which it became known; and what is known of entries whose picture is still to come.
//!
//! A journal is a folder of segments, `segment-NNNNN.journal`, each a sequence of frames: the word
//! `MQJ1`, the length of the header, the length of the body, the CRC-32 of both (all four little
//! endian, 4 bytes each), the header as JSON, the body.
//!
//! Invariant: a frame is there whole or does not count, so a process may be killed at any byte; a
//! segment is never written again once another one is begun, so it may be linked elsewhere.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flate2::Crc;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

const MAGIC: &[u8; 4] = b"MQJ1";
const FRAME_HEAD_BYTES: usize = 16;
/// Bytes of a header: a film's details are a few hundred.
const HEADER_MAX_BYTES: u32 = 1024 * 1024;
/// Bytes of a body, at most: more than any picture that is taken.
const BODY_MAX_BYTES: u32 = 128 * 1024 * 1024;
/// Bytes after which a new segment is begun, whether or not a checkpoint closed the one before.
const SEGMENT_BYTES: u64 = 256 * 1024 * 1024;

/// Classes that are counted apart. The words of a service's own codes are without end.
const CLASSES_MAX: usize = 1_000;
/// What all others are counted as.
const OTHERS: &str = "others";

/// Where the newest frame of an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    segment: u32,
    header: u32,
    body: u32,
    /// What the entry is counted as: a place in the journal's classes.
    class: u16,
    offset: u64,
}

/// What a frame that is read again is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its entry is settled, and counted as this.
    Settled(String),
    /// Its entry is not settled, but what it says is known.
    Known,
    /// It is as if it were not there.
    Nothing,
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
    /// What is known of entries that are not settled.
    known: HashMap<u64, Slot>,
    classes: Classes,
    settled: u64,
    body_bytes: u64,
    writing: Option<(File, u32, u64)>,
    next_segment: u32,
    reading: BTreeMap<u32, File>,
}

impl Journal {
    /// Opens the journal in `dir` for a plan of `entries` entries, and reads what is there.
    /// `judge` says what each frame is worth.
    pub(super) fn open<T: DeserializeOwned>(
        dir: &Path,
        entries: u64,
        judge: impl Fn(&T) -> Standing,
    ) -> io::Result<Self> {
        let mut journal = Self {
            dir: dir.to_owned(),
            slots: vec![None; usize::try_from(entries).map_err(io::Error::other)?],
            known: HashMap::new(),
            classes: Classes::default(),
            settled: 0,
            body_bytes: 0,
            writing: None,
            next_segment: 0,
            reading: BTreeMap::new(),
        };
        for (number, path) in segments_in(dir)? {
            // Segments in the order in which they were written: of an entry that was settled twice,
            // the later frame counts.
            journal.scan(number, &path, &judge)?;
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

    /// How many entries are counted as what.
    pub(super) fn counts(&self) -> &BTreeMap<String, u64> {
        &self.classes.counts
    }

    pub(super) fn has(&self, at: u64) -> bool {
        usize::try_from(at)
            .ok()
            .and_then(|at| self.slots.get(at))
            .is_some_and(Option::is_some)
    }

    /// Settles an entry, which is counted as `class`.
    pub(super) fn append<T: Serialize>(
        &mut self,
        at: u64,
        outcome: &T,
        class: &str,
        body: &[u8],
    ) -> io::Result<()> {
        let slot = self.write(at, outcome, body)?;
        self.settle(at, class, slot);
        Ok(())
    }

    /// Keeps what is known of an entry that is not settled yet.
    pub(super) fn note<T: Serialize>(&mut self, at: u64, known: &T) -> io::Result<()> {
        let slot = self.write(at, known, &[])?;
        self.known.insert(at, slot);
        Ok(())
    }

    /// Writes a frame at the journal's end.
    fn write<T: Serialize>(&mut self, at: u64, outcome: &T, body: &[u8]) -> io::Result<Slot> {
        let header = serde_json::to_vec(&Header { at, outcome })?;
        let length_of = |part: &[u8], limit: u32| {
            let length = u32::try_from(part.len()).ok();
            // Whoever reads the journal again takes a longer one for the end of it.
            length
                .filter(|length| *length <= limit)
                .ok_or_else(|| io::Error::other("a frame is too long"))
        };
        let head = (
            length_of(&header, HEADER_MAX_BYTES)?,
            length_of(body, BODY_MAX_BYTES)?,
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
            class: 0,
            offset: *written,
        };
        *written += (frame.len() + body.len()) as u64;
        Ok(slot)
    }

    /// What is known of an entry that is not settled.
    pub(super) fn known<T: DeserializeOwned>(&mut self, at: u64) -> io::Result<Option<T>> {
        match self.known.get(&at).copied() {
            Some(slot) => self.read_slot(at, slot).map(|(known, _)| Some(known)),
            None => Ok(None),
        }
    }

    /// The outcome of an entry with its body; None if it is not settled.
    pub(super) fn read<T: DeserializeOwned>(
        &mut self,
        at: u64,
    ) -> io::Result<Option<(T, Vec<u8>)>> {
        let slot = usize::try_from(at).ok().and_then(|at| self.slots.get(at));
        match slot.copied().flatten() {
            Some(slot) => self.read_slot(at, slot).map(Some),
            None => Ok(None),
        }
    }

    fn read_slot<T: DeserializeOwned>(&mut self, at: u64, slot: Slot) -> io::Result<(T, Vec<u8>)> {
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
        Ok((header.outcome, body))
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

    fn settle(&mut self, at: u64, class: &str, slot: Slot) {
        self.known.remove(&at);
        let place = usize::try_from(at)
            .ok()
            .and_then(|at| self.slots.get_mut(at));
        let Some(place) = place else { return };
        match place {
            Some(before) => {
                self.classes.take_back(before.class);
                self.body_bytes -= u64::from(before.body);
            }
            None => self.settled += 1,
        }
        self.body_bytes += u64::from(slot.body);
        let class = self.classes.count(class);
        *place = Some(Slot { class, ..slot });
    }

    fn segment(&mut self) -> io::Result<(&mut File, &u32, &mut u64)> {
        if self.writing.is_none() {
            let number = self.next_segment;
            let file = OpenOptions::new()
                // A segment that is there already would be one of another process: two must never
                // write to one journal.
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
        judge: &impl Fn(&T) -> Standing,
    ) -> io::Result<()> {
        let mut file = BufReader::with_capacity(64 * 1024, File::open(path)?);
        let end = file.get_ref().metadata()?.len();
        let (mut offset, mut head, mut header) = (0, [0; FRAME_HEAD_BYTES], Vec::new());
        let mut last = None;
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
            let slot = Slot {
                segment: number,
                header: header_bytes,
                body: body_bytes,
                class: 0,
                offset,
            };
            // Each frame is taken in when the next one is there, so that the last can be checked
            // with its body first.
            if let Some((at, standing, slot)) = last.replace((read.at, judge(&read.outcome), slot))
            {
                self.take_in(at, standing, slot);
            }
            offset += length;
        }
        // The last frame of a segment may have its length but not its bytes, if power was lost.
        if let Some((at, standing, slot)) = last
            && is_whole(path, slot)?
        {
            self.take_in(at, standing, slot);
        }
        Ok(())
    }

    /// A frame of an earlier attempt. One that is worth nothing keeps its place in the file, but none in
    /// memory.
    fn take_in(&mut self, at: u64, standing: Standing, slot: Slot) {
        match standing {
            Standing::Settled(class) => self.settle(at, &class, slot),
            Standing::Known if !self.has(at) => drop(self.known.insert(at, slot)),
            Standing::Known | Standing::Nothing => {}
        }
    }
}

/// How many entries are counted as what.
#[derive(Debug, Default)]
struct Classes {
    counts: BTreeMap<String, u64>,
    /// By number, and the other way round.
    names: Vec<String>,
    numbers: HashMap<String, u16>,
}

impl Classes {
    /// Counts one more of the class, and says the class's number.
    fn count(&mut self, class: &str) -> u16 {
        let class = if self.numbers.contains_key(class) || self.names.len() < CLASSES_MAX {
            class
        } else {
            OTHERS
        };
        *self.counts.entry(class.to_owned()).or_default() += 1;
        if let Some(number) = self.numbers.get(class) {
            return *number;
        }
        // There are far fewer classes than numbers.
        let number = u16::try_from(self.names.len()).unwrap_or(u16::MAX);
        self.names.push(class.to_owned());
        self.numbers.insert(class.to_owned(), number);
        number
    }

    fn take_back(&mut self, number: u16) {
        let Some(class) = self.names.get(usize::from(number)) else {
            return;
        };
        if let Some(count) = self.counts.get_mut(class) {
            *count -= 1;
            // A class without a picture is not among the classes.
            if *count == 0 {
                self.counts.remove(class);
            }
        }
    }
}

/// Whether the frame has the bytes that its sum says.
fn is_whole(path: &Path, slot: Slot) -> io::Result<bool> {
    let mut frame = vec![0; FRAME_HEAD_BYTES + slot.header as usize + slot.body as usize];
    File::open(path)?.read_exact_at(&mut frame, slot.offset)?;
    let (header, body) = frame[FRAME_HEAD_BYTES..].split_at(slot.header as usize);
    Ok(frame[12..FRAME_HEAD_BYTES] == checksum(header, body).to_le_bytes())
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
