//! The spool: a rank's numbered reports on disk until the coordinator has stored them.
//!
//! Invariants: numbers run from 1 without a gap; what was handed out to be sent is on disk, synced;
//! a batch is there whole, with its cursor, or not at all. The newest batch is never dropped, so
//! the file always tells the last number, the rank's state and the cursor.
//!
//! Room on the disk is kept behind the last batch, for the last one: whatever fills the disk, a rank can
//! say how it ended. Damage costs what it hit and no more: the batches behind it are found, and in place of
//! each report that is lost goes one that says so, since numbers have no gap.

use std::collections::VecDeque;
use std::fs::{self, File};
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
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};
use rustix::io::Errno;
use tracing::{debug, warn};

use self::frame::{Head, decode, encode, find_next};
use super::pump::{Cursor, own_line};
use crate::fault::at;
use crate::{durable, files};

pub(super) mod frame;

/// Acknowledged bytes after which the file is written anew without them.
const COMPACT_BYTES: u64 = 8 * 1024 * 1024;
/// Room kept for a rank's last report: a summary and the list of some thousand files.
const LAST_BYTES: u64 = 256 * 1024;
/// Reports that damage may have taken between two batches: as many as the largest spools hold. A file that says more was
/// written by somebody else, and what follows there is dropped: in place of each lost report one goes out.
pub(super) const LOST_MAX: u64 = 1_000_000;
/// Room for what comes before it is taken in steps of this size.
const STEP_BYTES: u64 = 64 * 1024;

/// Where a batch lies and which reports it holds.
#[derive(Debug, Clone, Copy)]
struct Frame {
    /// Its reports are `first..=last`; a batch without reports has `first == last + 1`.
    first: u64,
    last: u64,
    offset: u64,
    bytes: u64,
    /// It cannot be read any more.
    is_lost: bool,
}

/// The spool of one rank.
#[derive(Debug)]
pub struct Spool {
    key: RankKey,
    path: PathBuf,
    file: File,
    /// End of the last whole batch.
    end: u64,
    /// Up to where the disk's room is ours.
    kept_to: u64,
    frames: VecDeque<Frame>,
    head: Head,
    acked: u64,
    /// Something behind the last batch was no batch when it was opened.
    was_torn: bool,
}

impl Spool {
    /// Opens or makes the spool of `key`. A batch that was cut short by a crash was never handed
    /// out, and is dropped.
    pub fn open(path: &Path, key: RankKey) -> io::Result<Self> {
        let file = files::open_or_make(path)?;
        let mut spool = Self::empty(path, key, file);
        loop {
            let offset = spool.end;
            let last = spool.head.last_sequence;
            let is_later = |batch: &frame::Batch| batch.first() > last;
            let whole = decode(&spool.file, offset).map_err(|e| at(path, e))?;
            if let Some(batch) = whole.filter(is_later) {
                spool.take(offset, batch);
                continue;
            }
            let next = find_next(&spool.file, offset).map_err(|e| at(path, e))?;
            let is_near = |batch: &frame::Batch| batch.first() - 1 - last <= LOST_MAX;
            let Some((next, batch)) = next.filter(|(_, batch)| is_later(batch) && is_near(batch))
            else {
                break;
            };
            // None lost where it held a cursor alone.
            let (first, last) = (spool.head.last_sequence + 1, batch.first() - 1);
            warn!(rank = %key, ?path, offset, bytes = next - offset, reports = (last + 1).saturating_sub(first),
                "the spool is damaged: these reports are lost");
            spool.frames.push_back(Frame {
                first,
                last,
                offset,
                bytes: next - offset,
                is_lost: true,
            });
            spool.take(next, batch);
        }
        let length = spool.file.metadata().map_err(|e| at(path, e))?.len();
        // Cut off: left there, a later reading could take a piece of it for a batch.
        if length > spool.end {
            spool.was_torn = true;
            warn!(rank = %key, ?path, bytes = length - spool.end,
                "dropped what was no whole batch at the spool's end");
            spool.file.set_len(spool.end).map_err(|e| at(path, e))?;
        }
        // What was dropped by an earlier compaction had been acknowledged.
        spool.acked = spool.frames.front().map_or(0, |frame| frame.first - 1);
        if let Err(error) = spool.keep_room_for_the_end() {
            debug!(rank = %key, %error, "no room for a spool; it is taken when there is some");
        }
        Ok(spool)
    }

    /// A spool that does not outlive the daemon: for a rank that is refused because no file can be made.
    pub fn in_memory(key: RankKey) -> io::Result<Self> {
        let file = File::from(memfd_create("spool", MemfdFlags::CLOEXEC)?);
        Ok(Self::empty(Path::new("memory"), key, file))
    }

    fn empty(path: &Path, key: RankKey, file: File) -> Self {
        let head = Head {
            last_sequence: 0,
            state: RankState::Assigned,
            cursor: Cursor::default(),
        };
        Self {
            key,
            path: path.to_owned(),
            file,
            end: 0,
            kept_to: 0,
            frames: VecDeque::new(),
            head,
            acked: 0,
            was_torn: false,
        }
    }

    fn take(&mut self, offset: u64, batch: frame::Batch) {
        self.frames.push_back(Frame {
            first: batch.first(),
            last: batch.head.last_sequence,
            offset,
            bytes: batch.bytes,
            is_lost: false,
        });
        self.end = offset + batch.bytes;
        self.head = batch.head;
    }

    /// Room for the rank's last report, whatever comes: to be had before the rank is accepted.
    pub fn keep_room_for_the_end(&mut self) -> io::Result<()> {
        self.keep_room(self.end + STEP_BYTES + LAST_BYTES)
    }

    /// Makes the disk's room ours up to `until`. Where a file system cannot promise room, there is none to
    /// be had, and writing finds out.
    fn keep_room(&mut self, until: u64) -> io::Result<()> {
        if until <= self.kept_to {
            return Ok(());
        }
        // Without a change of its length: what is longer than its last batch counts as torn.
        match fallocate(
            &self.file,
            FallocateFlags::KEEP_SIZE,
            self.end,
            until - self.end,
        ) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {
                self.kept_to = until;
                Ok(())
            }
            Err(error) => Err(at(&self.path, error.into())),
        }
    }

    /// Number of the newest report, 0 before the first.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.head.last_sequence
    }

    /// Bytes of its file that hold something.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.end
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

    /// Adds reports and the cursor that goes with them, synced, or nothing of it. All but the rank's last
    /// leave the room that is kept for the last.
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
            .map(|(sequence, body)| self.report(sequence, Some(at), body))
            .collect();
        let last = self.head.last_sequence + reports.len() as u64;
        let head = Head {
            last_sequence: last,
            state,
            cursor,
        };
        let bytes = encode(&head, v1::Reports { reports })?;
        let end = self.end + bytes.len() as u64;
        if !state.has_ended() && end + LAST_BYTES > self.kept_to {
            self.keep_room((end + LAST_BYTES).next_multiple_of(STEP_BYTES))?;
        }
        let written = self
            .file
            .write_all_at(&bytes, self.end)
            // Without the file's times, which nobody reads: a sync for each batch is most of what reports cost.
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What is left behind `end` is written over or, after a restart, fails its checksum. Cutting it
            // off gives the room back, which may be gone then.
            let _best_effort = self.file.set_len(self.end);
            let kept = std::mem::take(&mut self.kept_to);
            let _best_effort = self.keep_room(kept);
            return Err(crate::fault::at(&self.path, error));
        }
        self.frames.push_back(Frame {
            first,
            last,
            offset: self.end,
            bytes: bytes.len() as u64,
            is_lost: false,
        });
        self.end = end;
        self.head = head;
        Ok(())
    }

    fn report(&self, sequence: u64, at: Option<DateTime<Utc>>, body: Body) -> v1::Report {
        v1::Report {
            job_id: self.key.job.0,
            attempt: self.key.attempt.0,
            rank: self.key.rank.0,
            sequence,
            at: at.map(timestamp),
            body: Some(body),
        }
    }

    /// Reports from number `from` on: at most `count` of them, and no further batch once there are
    /// `bytes` of them. `now` stands in reports that say that others are lost.
    pub fn read(
        &mut self,
        from: u64,
        count: usize,
        bytes: usize,
        now: DateTime<Utc>,
    ) -> Vec<v1::Report> {
        let mut found: Vec<v1::Report> = Vec::new();
        let mut size = 0;
        // Frames stand in the order of their numbers: a spool of days is not gone through for each message.
        let passed = self.frames.partition_point(|frame| frame.last < from);
        for n in passed..self.frames.len() {
            let frame = self.frames[n];
            // A batch that holds a cursor and no report.
            if frame.first > frame.last {
                continue;
            }
            let reports = match self.batch(frame) {
                Some(reports) => reports,
                None => {
                    self.frames[n].is_lost = true;
                    let is_last = n + 1 == self.frames.len();
                    let numbers = frame.first.max(from)..=frame.last;
                    self.in_place_of(frame, numbers.take(count), is_last, now)
                }
            };
            for report in reports.into_iter().filter(|report| report.sequence >= from) {
                size += report.encoded_len();
                // One at least, whatever its size, or the spool would never get past it.
                if found.len() == count || (size > bytes && !found.is_empty()) {
                    return found;
                }
                found.push(report);
            }
        }
        found
    }

    fn batch(&self, frame: Frame) -> Option<Vec<v1::Report>> {
        if frame.is_lost {
            return None;
        }
        let read = decode(&self.file, frame.offset);
        let whole = read.as_ref().ok().and_then(Option::as_ref);
        // A batch that is whole and not the one that was found at the opening is damage, too.
        if whole.is_none_or(|batch| batch.head.last_sequence != frame.last) {
            warn!(rank = %self.key, path = ?self.path, first = frame.first, last = frame.last, error = ?read.err(),
                "the spool is damaged: these reports are lost");
            return None;
        }
        read.ok().flatten().map(|batch| batch.reports)
    }

    /// What goes out for those `numbers` of reports that are lost: as many, the first with a line for the rank's log.
    fn in_place_of(
        &self,
        frame: Frame,
        numbers: impl Iterator<Item = u64>,
        is_last: bool,
        now: DateTime<Utc>,
    ) -> Vec<v1::Report> {
        let count = frame.last + 1 - frame.first;
        let text = format!(
            "{count} reports of this rank are lost here (numbers {} to {}): its spool on the worker's disk is damaged",
            frame.first, frame.last
        );
        let body = |sequence| {
            // The coordinator waits for an end, and gets one, though nobody knows any more which it was.
            if sequence == frame.last && is_last && self.head.state.has_ended() {
                return lost_end(&text);
            }
            if sequence == frame.first {
                return own_line(&text);
            }
            // Nothing but its number, so that there is no gap.
            Body::Log(v1::RankLog {
                stream: v1::log_line::Stream::Stderr.into(),
                lines: Vec::new(),
            })
        };
        numbers
            .map(|sequence| self.report(sequence, Some(now), body(sequence)))
            .collect()
    }

    /// The coordinator has all reports up to `sequence`.
    pub fn ack(&mut self, sequence: u64) {
        // Only where it was torn: of a spool that is whole such a number is a mistake, and not believed.
        if sequence > self.head.last_sequence && self.was_torn {
            warn!(rank = %self.key, had = sequence, have = self.head.last_sequence,
                "the coordinator has reports that this spool has lost; numbers go on behind them, and some lines may be told twice");
            self.head.last_sequence = sequence;
        }
        self.acked = self.acked.max(sequence.min(self.head.last_sequence));
        let done = self.frames.iter().take(self.frames.len().saturating_sub(1));
        let done: u64 = done
            .take_while(|frame| frame.last <= self.acked)
            .map(|frame| frame.bytes)
            .sum();
        // It only saves room: what it wants is not what an acknowledgement hangs on.
        if done >= COMPACT_BYTES
            && let Err(error) = self.compact()
        {
            debug!(rank = %self.key, %error, "the spool stays as long as it is");
        }
    }

    /// Writes the file anew without acknowledged batches, but with the newest.
    fn compact(&mut self) -> io::Result<()> {
        let gone = self.frames.iter().take(self.frames.len().saturating_sub(1));
        let gone = gone.take_while(|frame| frame.last <= self.acked).count();
        let start = self.frames.get(gone).map_or(self.end, |frame| frame.offset);
        let mut kept = vec![0; usize::try_from(self.end - start).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut kept, start)?;
        let aside = self.path.with_extension("new");
        let mut file = files::make(&aside)?;
        file.write_all(&kept)?;
        // With the room for what comes, or not at all.
        fallocate(
            &file,
            FallocateFlags::KEEP_SIZE,
            0,
            kept.len() as u64 + LAST_BYTES,
        )
        .or_else(|error| {
            if error == Errno::OPNOTSUPP {
                Ok(())
            } else {
                Err(error)
            }
        })?;
        // Before it gets the name: after a power cut either of both files is there whole.
        file.sync_all()?;
        fs::rename(&aside, &self.path)?;
        self.frames.drain(..gone);
        self.file = file;
        self.end -= start;
        self.kept_to = self.end + LAST_BYTES;
        self.frames
            .iter_mut()
            .for_each(|frame| frame.offset -= start);
        durable::sync_parent(&self.path)
    }
}

fn lost_end(text: &str) -> Body {
    Body::Failed(v1::RankFailed {
        failure: Some(v1::Failure {
            class: v1::FailureClass::Crash.into(),
            message: format!("how it ended is not known: {text}"),
        }),
    })
}

/// The state that a report tells of.
fn state_after(body: &Body) -> RankState {
    match body {
        Body::Prepared(_) => RankState::Prepared,
        Body::Started(_) => RankState::Running,
        // These tell of no state: the lowest changes nothing.
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
mod tests;
