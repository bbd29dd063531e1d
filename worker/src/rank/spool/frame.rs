//! The spool's format: batches, each with a checksum, found again behind damage.
//!
//! A batch is `b"MQS2"`, `u32` length, `u32` CRC-32C of the length and the payload, and that many bytes of
//! payload: `u32` length of a JSON head, the head, and the reports as a protobuf `Reports` message. Integers
//! are little-endian. Version 0.1 wrote no letters in front, and a checksum of the payload alone; such
//! batches are read, and batches of both kinds may follow each other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use marquee_domain::job::RankState;
use marquee_proto::v1;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::super::pump::Cursor;

const MAGIC: &[u8; 4] = b"MQS2";
/// Letters, length, checksum.
const HEAD_BYTES: u64 = 12;
/// The same of version 0.1: length, checksum.
const OLD_HEAD_BYTES: u64 = 8;
/// The highest number of a report. Ten a second for a million years.
const SEQUENCE_MAX: u64 = 1 << 50;
/// How many places that only look like the beginning of a batch one search tries. A damaged file hardly has one by
/// chance; each costs reading as much as it claims to hold.
const CANDIDATES_MAX: usize = 64;
/// Bytes looked through at once for the next batch behind damage.
const SEARCH_BYTES: usize = 256 * 1024;

/// What a batch says beside its reports.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::rank) struct Head {
    /// Number of the newest report after this batch.
    pub(in crate::rank) last_sequence: u64,
    pub(in crate::rank) state: RankState,
    pub(in crate::rank) cursor: Cursor,
}

/// A batch as it was read.
#[derive(Debug)]
pub(super) struct Batch {
    /// All of it, in the file.
    pub(super) bytes: u64,
    pub(super) head: Head,
    pub(super) reports: Vec<v1::Report>,
}

impl Batch {
    /// Number of its first report; without any, the one after its last.
    pub(super) fn first(&self) -> u64 {
        let first = self.reports.first();
        first.map_or(self.head.last_sequence + 1, |report| report.sequence)
    }
}

/// A batch as bytes.
pub(in crate::rank) fn encode(head: &Head, reports: v1::Reports) -> io::Result<Vec<u8>> {
    let head = serde_json::to_vec(head)?;
    let mut payload = length(head.len())?.to_vec();
    payload.extend(head);
    payload.extend(reports.encode_to_vec());
    framed(&payload)
}

/// A payload with its letters, length and checksum.
pub(in crate::rank) fn framed(payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = length(payload.len())?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend(length);
    bytes.extend(checksum(&length, payload).to_le_bytes());
    bytes.extend(payload);
    Ok(bytes)
}

fn length(bytes: usize) -> io::Result<[u8; 4]> {
    let length =
        u32::try_from(bytes).map_err(|_| io::Error::other("a batch of reports of 4 GiB"))?;
    Ok(length.to_le_bytes())
}

fn checksum(length: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(length), payload)
}

/// The batch at `offset`; None where no whole one is.
pub(super) fn decode(file: &File, offset: u64) -> io::Result<Option<Batch>> {
    let end = file.metadata()?.len();
    let mut head = [0; 12];
    if offset + OLD_HEAD_BYTES > end {
        return Ok(None);
    }
    file.read_exact_at(&mut head[..8], offset)?;
    let is_new = head.starts_with(MAGIC);
    let head_bytes = if is_new { HEAD_BYTES } else { OLD_HEAD_BYTES };
    if offset + head_bytes > end {
        return Ok(None);
    }
    let (length, expected) = if is_new {
        file.read_exact_at(&mut head, offset)?;
        (&head[4..8], le_u32(&head[8..12]))
    } else {
        (&head[..4], le_u32(&head[4..8]))
    };
    let bytes = head_bytes + u64::from(le_u32(length));
    // Before memory is taken for it: damage may say that it has four gigabytes.
    if offset + bytes > end {
        return Ok(None);
    }
    let mut payload = vec![0; le_u32(length) as usize];
    file.read_exact_at(&mut payload, offset + head_bytes)?;
    let found = if is_new {
        checksum(length, &payload)
    } else {
        crc32c::crc32c(&payload)
    };
    if found != expected {
        return Ok(None);
    }
    Ok(batch(bytes, &payload))
}

fn batch(bytes: u64, payload: &[u8]) -> Option<Batch> {
    let (head_len, rest) = payload.split_at_checked(4)?;
    let (head, reports) = rest.split_at_checked(le_u32(head_len) as usize)?;
    let head: Head = serde_json::from_slice(head).ok()?;
    let reports = v1::Reports::decode(reports).ok()?.reports;
    // Numbered one by one up to the head's: a checksum is right in what a job has written there, too.
    let numbers = reports.iter().rev().map(|report| report.sequence);
    let wanted = (1..=head.last_sequence).rev();
    let is_numbered =
        reports.len() as u64 <= head.last_sequence && numbers.zip(wanted).all(|(a, b)| a == b);
    (is_numbered && head.last_sequence <= SEQUENCE_MAX).then_some(Batch {
        bytes,
        head,
        reports,
    })
}

/// The next whole batch behind `offset`, which is none itself, and where it begins.
pub(super) fn find_next(file: &File, offset: u64) -> io::Result<Option<(u64, Batch)>> {
    let mut at = offset + 1;
    let mut candidates = 0;
    let mut some = vec![0; SEARCH_BYTES];
    loop {
        let found = file.read_at(&mut some, at)?;
        if found < MAGIC.len() {
            return Ok(None);
        }
        let looks_right = some[..found].windows(MAGIC.len()).enumerate();
        for (n, _) in looks_right.filter(|(_, letters)| letters == MAGIC) {
            let candidate = at + n as u64;
            if let Some(batch) = decode(file, candidate)? {
                return Ok(Some((candidate, batch)));
            }
            candidates += 1;
            if candidates == CANDIDATES_MAX {
                return Ok(None);
            }
        }
        // The letters may lie across the edge.
        at += (found - (MAGIC.len() - 1)) as u64;
    }
}

fn le_u32(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

/// A batch as version 0.1 wrote it.
#[cfg(test)]
pub(super) fn encode_old(head: &Head, reports: v1::Reports) -> Vec<u8> {
    let new = encode(head, reports).unwrap();
    let payload = &new[12..];
    [
        &length(payload.len()).unwrap()[..],
        &crc32c::crc32c(payload).to_le_bytes()[..],
        payload,
    ]
    .concat()
}
