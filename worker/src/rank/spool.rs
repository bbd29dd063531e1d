//! The spool: a rank's numbered reports on disk until the coordinator has stored them.
//!
//! Invariants: numbers run from 1 without a gap; what was handed out to be sent is on disk, synced;
//! a batch is there whole, with its cursor, or not at all. The newest batch is never dropped, so
//! the file always tells the last number, the rank's state and the cursor.
//!
//! Format: batches of `u32` length, `u32` CRC-32C, and that many bytes: `u32` length of a JSON
//! head, the head, and the reports as a protobuf `Reports` message. Integers are little-endian.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use marquee_domain::RankKey;
use marquee_domain::job::RankState;
use marquee_proto::convert::timestamp;
use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::pump::Cursor;
use crate::durable;

/// Acknowledged bytes after which the file is written anew without them.
const COMPACT_BYTES: u64 = 8 * 1024 * 1024;
/// Length and checksum in front of a batch.
const FRAME_HEAD_BYTES: u64 = 8;

/// What a batch says beside its reports.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Head {
    /// Number of the newest report after this batch.
    last_sequence: u64,
    state: RankState,
    cursor: Cursor,
}

/// Where a batch lies and which reports it holds.
#[derive(Debug, Clone, Copy)]
struct Frame {
    /// Its reports are `first..=last`; a batch without reports has `first == last + 1`.
    first: u64,
    last: u64,
    offset: u64,
    bytes: u64,
}

/// The spool of one rank.
#[derive(Debug)]
pub struct Spool {
    key: RankKey,
    path: PathBuf,
    file: File,
    /// End of the last whole batch.
    end: u64,
    frames: VecDeque<Frame>,
    head: Head,
    acked: u64,
}

impl Spool {
    /// Opens or makes the spool of `key`. A batch that was cut short by a crash was never handed
    /// out, and is dropped.
    pub fn open(path: &Path, key: RankKey) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let head = Head {
            last_sequence: 0,
            state: RankState::Assigned,
            cursor: Cursor::default(),
        };
        let mut spool = Self {
            key,
            path: path.to_owned(),
            file,
            end: 0,
            frames: VecDeque::new(),
            head,
            acked: 0,
        };
        while let Some((frame, head)) = spool.read_frame(spool.end)? {
            spool.end += frame.bytes;
            spool.frames.push_back(frame);
            spool.head = head;
        }
        spool.file.set_len(spool.end)?;
        // What was dropped by an earlier compaction had been acknowledged.
        spool.acked = spool.frames.front().map_or(0, |frame| frame.first - 1);
        Ok(spool)
    }

    /// Number of the newest report, 0 before the first.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.head.last_sequence
    }

    /// Whether nothing was ever spooled.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.end == 0
    }

    /// Number up to which the coordinator has all.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// The rank's state, as its reports tell it.
    #[must_use]
    pub fn state(&self) -> RankState {
        self.head.state
    }

    /// How far the child's output was read.
    #[must_use]
    pub fn cursor(&self) -> &Cursor {
        &self.head.cursor
    }

    /// Adds reports and the cursor that goes with them, synced, or nothing of it.
    pub fn append(
        &mut self,
        at: DateTime<Utc>,
        bodies: Vec<Body>,
        cursor: Cursor,
    ) -> io::Result<()> {
        let first = self.head.last_sequence + 1;
        let state = bodies
            .iter()
            .map(state_after)
            .fold(self.head.state, RankState::max);
        let reports: Vec<v1::Report> = (first..)
            .zip(bodies)
            .map(|(sequence, body)| self.report(sequence, at, body))
            .collect();
        let last = self.head.last_sequence + reports.len() as u64;
        let head = Head {
            last_sequence: last,
            state,
            cursor,
        };
        let bytes = encode(&head, v1::Reports { reports })?;
        let written = self
            .file
            .write_all_at(&bytes, self.end)
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What is left behind `end` is written over or, after a restart, fails its checksum.
            let _best_effort = self.file.set_len(self.end);
            return Err(error);
        }
        let frame = Frame {
            first,
            last,
            offset: self.end,
            bytes: bytes.len() as u64,
        };
        self.end += frame.bytes;
        self.frames.push_back(frame);
        self.head = head;
        Ok(())
    }

    fn report(&self, sequence: u64, at: DateTime<Utc>, body: Body) -> v1::Report {
        v1::Report {
            job_id: self.key.job.0,
            attempt: self.key.attempt.0,
            rank: self.key.rank.0,
            sequence,
            at: Some(timestamp(at)),
            body: Some(body),
        }
    }

    /// Reports from number `from` on: at most `count` of them, and no further batch once there are
    /// `bytes` of them.
    pub fn read(&self, from: u64, count: usize, bytes: usize) -> io::Result<Vec<v1::Report>> {
        let mut found: Vec<v1::Report> = Vec::new();
        let mut size = 0;
        let passed = self.frames.partition_point(|frame| frame.last < from);
        for frame in self
            .frames
            .iter()
            .skip(passed)
            .filter(|frame| frame.first <= frame.last)
        {
            let (_, _, reports) = self.decode(frame.offset)?.ok_or_else(|| self.damaged())?;
            for report in reports.into_iter().filter(|report| report.sequence >= from) {
                size += report.encoded_len();
                if found.len() == count || (size > bytes && !found.is_empty()) {
                    return Ok(found);
                }
                found.push(report);
            }
        }
        Ok(found)
    }

    /// The coordinator has all reports up to `sequence`.
    pub fn ack(&mut self, sequence: u64) -> io::Result<()> {
        self.acked = self.acked.max(sequence.min(self.head.last_sequence));
        let done = self.frames.iter().take(self.frames.len().saturating_sub(1));
        let done: u64 = done
            .take_while(|frame| frame.last <= self.acked)
            .map(|frame| frame.bytes)
            .sum();
        if done >= COMPACT_BYTES {
            self.compact()
        } else {
            Ok(())
        }
    }

    /// Writes the file anew without acknowledged batches, but with the newest.
    fn compact(&mut self) -> io::Result<()> {
        while self.frames.len() > 1 && self.frames[0].last <= self.acked {
            self.frames.pop_front();
        }
        let start = self.frames.front().map_or(self.end, |frame| frame.offset);
        let mut kept = vec![0; usize::try_from(self.end - start).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut kept, start)?;
        let aside = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&aside)?;
        file.write_all(&kept)?;
        file.sync_all()?;
        fs::rename(&aside, &self.path)?;
        durable::sync_parent(&self.path)?;
        self.file = file;
        self.end -= start;
        self.frames
            .iter_mut()
            .for_each(|frame| frame.offset -= start);
        Ok(())
    }

    fn read_frame(&self, offset: u64) -> io::Result<Option<(Frame, Head)>> {
        Ok(self.decode(offset)?.map(|(bytes, head, reports)| {
            let first = reports
                .first()
                .map_or(head.last_sequence + 1, |report| report.sequence);
            (
                Frame {
                    first,
                    last: head.last_sequence,
                    offset,
                    bytes,
                },
                head,
            )
        }))
    }

    /// The batch at `offset`; None where no whole one is.
    fn decode(&self, offset: u64) -> io::Result<Option<(u64, Head, Vec<v1::Report>)>> {
        let length = self.file.metadata()?.len();
        let mut frame_head = [0; 8];
        if offset + FRAME_HEAD_BYTES > length {
            return Ok(None);
        }
        self.file.read_exact_at(&mut frame_head, offset)?;
        let (size, checksum) = frame_head.split_at(4);
        let size = u64::from(le_u32(size));
        let bytes = FRAME_HEAD_BYTES + size;
        if offset + bytes > length {
            return Ok(None);
        }
        let mut payload = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        self.file
            .read_exact_at(&mut payload, offset + FRAME_HEAD_BYTES)?;
        if crc32c::crc32c(&payload) != le_u32(checksum) || payload.len() < 4 {
            return Ok(None);
        }
        let (head_len, rest) = payload.split_at(4);
        let (head, reports) = rest
            .split_at_checked(le_u32(head_len) as usize)
            .ok_or_else(|| self.damaged())?;
        let head: Head = serde_json::from_slice(head)?;
        let reports = v1::Reports::decode(reports).map_err(io::Error::other)?;
        Ok(Some((bytes, head, reports.reports)))
    }

    fn damaged(&self) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("spool {:?} is damaged", self.path),
        )
    }
}

fn le_u32(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn encode(head: &Head, reports: v1::Reports) -> io::Result<Vec<u8>> {
    let head = serde_json::to_vec(head)?;
    let too_large = |_| io::Error::other("a batch of reports of 4 GiB");
    let mut payload = u32::try_from(head.len())
        .map_err(too_large)?
        .to_le_bytes()
        .to_vec();
    payload.extend(head);
    payload.extend(reports.encode_to_vec());
    let mut bytes = u32::try_from(payload.len())
        .map_err(too_large)?
        .to_le_bytes()
        .to_vec();
    bytes.extend(crc32c::crc32c(&payload).to_le_bytes());
    bytes.extend(payload);
    Ok(bytes)
}

/// The state that a report tells of.
fn state_after(body: &Body) -> RankState {
    match body {
        Body::Prepared(_) => RankState::Prepared,
        Body::Started(_) => RankState::Running,
        Body::Progress(_)
        | Body::Metrics(_)
        | Body::Log(_)
        | Body::Checkpoint(_)
        | Body::Regrouped(_) => RankState::Assigned,
        Body::Finished(_) => RankState::Finished,
        Body::Failed(_) => RankState::Failed,
        Body::Stopped(_) => RankState::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rank::pump::own_line;

    const KEY: (i64, u32, u32) = (7, 1, 0);

    fn open(dir: &tempfile::TempDir) -> Spool {
        Spool::open(&dir.path().join("spool"), RankKey::new(KEY.0, KEY.1, KEY.2)).unwrap()
    }

    fn append(spool: &mut Spool, count: usize, stderr_offset: u64) {
        let mut cursor = Cursor::default();
        cursor.stderr.offset = stderr_offset;
        let bodies = (0..count).map(|n| own_line(&n.to_string())).collect();
        spool.append(DateTime::UNIX_EPOCH, bodies, cursor).unwrap();
    }

    fn numbers(reports: &[v1::Report]) -> Vec<u64> {
        reports.iter().map(|report| report.sequence).collect()
    }

    #[test]
    fn numbers_state_and_cursor_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(&dir);
        append(&mut spool, 3, 30);
        let started = Body::Started(v1::RankStarted { pid: 4 });
        spool
            .append(DateTime::UNIX_EPOCH, vec![started], spool.cursor().clone())
            .unwrap();
        append(&mut spool, 0, 40);
        let mut spool = open(&dir);
        assert_eq!(
            (spool.last_sequence(), spool.state()),
            (4, RankState::Running)
        );
        assert_eq!(spool.cursor().stderr.offset, 40);
        append(&mut spool, 2, 50);
        assert_eq!(
            numbers(&spool.read(1, 100, 1 << 20).unwrap()),
            [1, 2, 3, 4, 5, 6]
        );
        assert_eq!(numbers(&spool.read(3, 2, 1 << 20).unwrap()), [3, 4]);
        assert_eq!(
            numbers(&spool.read(3, 100, 1).unwrap()),
            [3],
            "one always goes"
        );
    }

    #[test]
    fn a_batch_that_was_cut_short_is_dropped_whole_wherever_it_was_cut() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(&dir);
        append(&mut spool, 2, 20);
        let whole = spool.end;
        append(&mut spool, 2, 40);
        let full = spool.end;
        drop(spool);
        let bytes = fs::read(dir.path().join("spool")).unwrap();
        for cut in whole..full {
            fs::write(
                dir.path().join("spool"),
                &bytes[..usize::try_from(cut).unwrap()],
            )
            .unwrap();
            let spool = open(&dir);
            assert_eq!(
                (spool.last_sequence(), spool.cursor().stderr.offset),
                (2, 20),
                "cut at {cut}"
            );
        }
        let mut garbled = bytes.clone();
        *garbled.last_mut().unwrap() ^= 1;
        fs::write(dir.path().join("spool"), &garbled).unwrap();
        assert_eq!(open(&dir).last_sequence(), 2);
    }

    #[test]
    fn acknowledged_reports_leave_the_disk_but_numbers_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(&dir);
        let line = "z".repeat(1 << 20);
        for n in 1..=12 {
            let mut cursor = Cursor::default();
            cursor.stderr.offset = n;
            spool
                .append(DateTime::UNIX_EPOCH, vec![own_line(&line)], cursor)
                .unwrap();
        }
        spool.ack(12).unwrap();
        assert!(fs::metadata(dir.path().join("spool")).unwrap().len() < 2 << 20);
        let mut spool = open(&dir);
        assert_eq!(
            (spool.last_sequence(), spool.acked()),
            (12, 11),
            "the newest batch stays"
        );
        assert_eq!(spool.cursor().stderr.offset, 12);
        append(&mut spool, 1, 13);
        assert_eq!(numbers(&spool.read(13, 9, 9999).unwrap()), [13]);
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_made_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(&dir);
        append(&mut spool, 2, 0);
        spool.ack(9).unwrap();
        assert_eq!(spool.acked(), 2);
        spool.ack(1).unwrap();
        assert_eq!(spool.acked(), 2);
    }
}
