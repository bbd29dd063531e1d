//! What speaks against this host's GPUs, kept over restarts of the daemon and of the host: the evidence by which the
//! coordinator puts one into quarantine.
//!
//! Invariant: an event is noted once, whoever reads it how often: counters are compared with what was noted, and the
//! kernel's log goes on behind what was read. Each piece is newer than all of the same GPU before it, whatever the host's
//! clock does, since that is by what the coordinator knows it for new. Not here: what follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::evidence::{self, Evidence, EvidenceKind, Follows, clean};
use marquee_domain::gpu::GpuReading;
use marquee_domain::limits::HOST_GPUS_MAX;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::warn;

use super::xid::From;
use crate::{durable, files};

/// Its name in the daemon's data folder.
const FILE: &str = "gpu-evidence.json";
/// A GPU that does not answer for so long has vanished. A reset by hand takes less.
pub(super) const VANISHED_AFTER: Duration = Duration::from_secs(30);
/// What is not new evidence, such as one more of the same, is written down this often.
const WRITE_EVERY: Duration = Duration::from_secs(10);
/// GPUs that are remembered: those of a host, and as many that were there before.
const GPUS_MAX: usize = 2 * HOST_GPUS_MAX;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    /// How far the kernel's log was read, and in which boot.
    kernel_log: Option<Read>,
    /// By UUID.
    gpus: BTreeMap<String, Known>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Read {
    boot: String,
    until: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Known {
    evidence: Vec<Evidence>,
    /// Uncorrectable errors of the counter that begins anew with the driver, as far as they are noted.
    ecc_uncorrected: u64,
    /// It is noted that its memory waits for a repair, or could not be repaired.
    memory: bool,
    /// NVML has listed it: it is no part of a GPU, which may come and go.
    is_whole: bool,
    /// Since when the host is without it.
    missing_since: Option<DateTime<Utc>>,
}

/// How soon the file has to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    No,
    Sometime,
    Now,
}

/// The book of this host's GPUs.
#[derive(Debug)]
pub(super) struct Book {
    /// None: nothing is kept.
    path: Option<PathBuf>,
    boot: String,
    kept: Kept,
    /// No daemon has kept one before.
    is_first: bool,
    due: Due,
    written: Option<Instant>,
}

impl Book {
    /// Opens the one in the data folder. One that cannot be read is begun anew.
    pub(super) fn open(data_dir: &Path, boot: &str) -> Self {
        let path = data_dir.join(FILE);
        let read = read(&path);
        if let Err(why) = &read {
            warn!(path = %path.display(), why, "what was kept of the GPUs cannot be read; it begins anew");
        }
        let kept = read.ok().flatten();
        Self {
            path: Some(path),
            boot: boot.to_owned(),
            is_first: kept.is_none(),
            kept: kept.unwrap_or_default(),
            due: Due::No,
            written: None,
        }
    }

    /// What speaks against a GPU.
    pub(super) fn evidence(&self, uuid: &str) -> Vec<Evidence> {
        let known = self.kept.gpus.get(uuid);
        known.map_or_else(Vec::new, |known| known.evidence.clone())
    }

    /// Where to go on in the kernel's log.
    pub(super) fn log_from(&self) -> From {
        match &self.kept.kernel_log {
            Some(read) if read.boot == self.boot => From::After(read.until),
            // Booted since, and nobody has read any of it.
            Some(_) => From::Beginning,
            None if self.is_first => From::Now,
            None => From::Beginning,
        }
    }

    /// The kernel's log was read up to this record.
    pub(super) fn log_read(&mut self, until: Option<u64>) {
        let Some(until) = until else { return };
        let read = Read {
            boot: self.boot.clone(),
            until,
        };
        if self.kept.kernel_log.as_ref() != Some(&read) {
            self.kept.kernel_log = Some(read);
            self.due = self.due.max(Due::Sometime);
        }
    }

    /// NVML lists these GPUs, and no other. Says which of them were away.
    pub(super) fn listed(&mut self, uuids: &[String], now: DateTime<Utc>) {
        let listed: BTreeSet<&String> = uuids.iter().collect();
        for (uuid, known) in &mut self.kept.gpus {
            if known.is_whole && !listed.contains(uuid) && known.missing_since.is_none() {
                known.missing_since = Some(now);
                self.due = Due::Now;
            }
        }
        for uuid in uuids {
            let known = self.known(uuid);
            known.is_whole = true;
            let since = known.missing_since.take();
            if let Some(since) = since {
                let text = format!(
                    "it was not there at {} UTC, and is back",
                    since.format("%Y-%m-%d %H:%M")
                );
                self.note(uuid, EvidenceKind::Vanished, 0, 1, &text, now);
            }
        }
    }

    /// The driver reported an Xid of a GPU. What says nothing about the device is not noted.
    pub(super) fn xid(&mut self, uuid: &str, code: u64, text: &str, at: DateTime<Utc>) {
        let Some(xid) = evidence::xid(code) else {
            return;
        };
        match xid.follows {
            Follows::Quarantine => self.note(uuid, EvidenceKind::Xid, code, 1, text, at),
            Follows::Hold => {}
        }
    }

    /// A GPU answered.
    pub(super) fn answered(&mut self, uuid: &str, reading: &GpuReading, now: DateTime<Utc>) {
        if let Some(counted) = reading.ecc_uncorrected_volatile {
            let noted = self.known(uuid).ecc_uncorrected;
            if counted > noted {
                let text = format!("{counted} since the driver was loaded");
                self.note(uuid, EvidenceKind::Ecc, 0, counted - noted, &text, now);
            }
            if counted != noted {
                // Fewer: the driver was loaded anew, and counts from the beginning.
                self.known(uuid).ecc_uncorrected = counted;
                self.due = Due::Now;
            }
        }
        let pending = reading.memory_repair_pending;
        let failed = reading.memory_repair_failed;
        if pending.or(failed).is_some() {
            let text = match (pending, failed) {
                (_, Some(true)) => "a row of its memory could not be remapped: replace the card",
                (Some(true), _) => {
                    "rows of its memory wait to be remapped, or pages to be retired, until it is reset"
                }
                (Some(false) | None, Some(false) | None) => "",
            };
            let is_damaged = !text.is_empty();
            if is_damaged && !self.known(uuid).memory {
                self.note(uuid, EvidenceKind::Memory, 0, 1, text, now);
            }
            if self.known(uuid).memory != is_damaged {
                self.known(uuid).memory = is_damaged;
                self.due = Due::Now;
            }
        }
    }

    /// A GPU has not answered for [`VANISHED_AFTER`]; told once each time.
    pub(super) fn vanished(&mut self, uuid: &str, why: &str, now: DateTime<Utc>) {
        self.note(uuid, EvidenceKind::Vanished, 0, 1, why, now);
    }

    /// Writes down what is due.
    pub(super) fn store(&mut self, now: Instant) {
        let waits = self
            .written
            .is_some_and(|at| now.duration_since(at) < WRITE_EVERY);
        let is_due = match self.due {
            Due::No => false,
            Due::Sometime => !waits,
            Due::Now => true,
        };
        let Some(path) = self.path.as_ref().filter(|_| is_due) else {
            return;
        };
        self.written = Some(now);
        match durable::write_json(path, &self.kept) {
            Ok(()) => self.due = Due::No,
            Err(error) => {
                // Tried again in a while, like anything that can wait: what is in memory is told all the same.
                warn!(path = %path.display(), %error, "what speaks against GPUs cannot be kept");
                self.due = Due::Sometime;
            }
        }
    }

    fn known(&mut self, uuid: &str) -> &mut Known {
        if !self.kept.gpus.contains_key(uuid) {
            while self.kept.gpus.len() >= GPUS_MAX {
                // Those that are gone first; of these any, for none will be missed.
                let gone = |(_, known): &(&String, &Known)| known.missing_since.is_some();
                let mut all = self.kept.gpus.iter();
                let one = all.find(gone).or_else(|| self.kept.gpus.iter().next());
                let Some(one) = one.map(|(uuid, _)| uuid.clone()) else {
                    break;
                };
                self.kept.gpus.remove(&one);
            }
            self.due = Due::Now;
        }
        self.kept.gpus.entry(uuid.to_owned()).or_default()
    }

    fn note(
        &mut self,
        uuid: &str,
        kind: EvidenceKind,
        code: u64,
        count: u64,
        text: &str,
        at: DateTime<Utc>,
    ) {
        let known = self.known(uuid);
        let newest = known.evidence.iter().map(|piece| piece.last_at).max();
        let at = newest.map_or(at, |newest| at.max(newest + TimeDelta::microseconds(1)));
        let piece = Evidence {
            kind,
            code,
            first_at: at,
            last_at: at,
            count,
            text: clean(text),
        };
        let is_new = !known.evidence.iter().any(|other| other.is_like(&piece));
        if is_new {
            warn!(uuid, evidence = piece.words(), "this speaks against a GPU");
        }
        evidence::add(&mut known.evidence, piece);
        self.due = self.due.max(if is_new { Due::Now } else { Due::Sometime });
    }
}

/// What speaks against the GPUs of a host, by UUID, as a daemon with this data folder has written it down.
pub(crate) fn kept_evidence(data_dir: &Path) -> BTreeMap<String, Vec<Evidence>> {
    let kept = read(&data_dir.join(FILE))
        .ok()
        .flatten()
        .unwrap_or_default();
    let gpus = kept.gpus.into_iter();
    gpus.map(|(uuid, known)| (uuid, known.evidence)).collect()
}

fn read(path: &Path) -> Result<Option<Kept>, String> {
    files::read_json(path).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "GPU-a";

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    fn open(dir: &tempfile::TempDir, boot: &str) -> Book {
        Book::open(dir.path(), boot)
    }

    fn counts(book: &Book) -> Vec<(EvidenceKind, u64, u64)> {
        let pieces = book.evidence(A).into_iter();
        pieces
            .map(|piece| (piece.kind, piece.code, piece.count))
            .collect()
    }

    #[test]
    fn evidence_outlasts_a_restart_and_is_noted_once() {
        let dir = tempfile::tempdir().unwrap();
        let reading = |count| GpuReading {
            ecc_uncorrected_volatile: Some(count),
            memory_repair_pending: Some(true),
            ..GpuReading::default()
        };
        for start in 0..3 {
            let mut book = open(&dir, "boot");
            book.answered(A, &reading(2), at(start));
            book.answered(A, &reading(2), at(start));
            book.store(Instant::now());
        }
        let mut book = open(&dir, "boot");
        let expected = [(EvidenceKind::Ecc, 0, 2), (EvidenceKind::Memory, 0, 1)];
        assert_eq!(counts(&book), expected);
        assert_eq!(book.evidence(A)[0].first_at, at(0));
        // One more; then the driver is loaded anew, and one more after that.
        book.answered(A, &reading(3), at(10));
        book.answered(A, &reading(0), at(20));
        book.answered(A, &reading(1), at(30));
        assert_eq!(counts(&book)[0], (EvidenceKind::Ecc, 0, 4));
    }

    #[test]
    fn a_program_that_provokes_errors_costs_the_gpu_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = open(&dir, "boot");
        for second in 0..100 {
            for code in [13, 31, 43, 45, 69, 74, 109] {
                book.xid(A, code, "NVRM: Xid", at(second));
            }
        }
        assert_eq!(book.evidence(A), []);
        book.xid(A, 79, "NVRM: Xid\n(PCI)", at(100));
        assert_eq!(counts(&book), [(EvidenceKind::Xid, 79, 1)]);
        assert_eq!(book.evidence(A)[0].text, "NVRM: Xid (PCI)");
    }

    #[test]
    fn a_storm_is_counted_and_rarely_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = open(&dir, "boot");
        let (start, mut writes) = (Instant::now(), 0);
        for second in 0..600 {
            book.xid(A, 79, "NVRM: Xid", at(0));
            book.log_read(Some(second));
            let before = book.written;
            book.store(start + Duration::from_secs(second));
            writes += u32::from(book.written != before);
        }
        assert_eq!(counts(&book), [(EvidenceKind::Xid, 79, 600)]);
        assert_eq!(writes, 60);
        // A clock that stands still, or is put back, makes no piece look older than the last.
        let before = book.evidence(A)[0].last_at;
        book.xid(A, 79, "NVRM: Xid", at(-1_000));
        assert!(book.evidence(A)[0].last_at > before);
    }

    #[test]
    fn a_gpu_that_was_gone_over_a_restart_is_noted_when_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let all = [A.to_owned(), "GPU-b".to_owned()];
        let mut first = open(&dir, "boot");
        first.listed(&all, at(0));
        first.store(Instant::now());
        let mut second = open(&dir, "boot");
        second.listed(&all[1..], at(60));
        second.listed(&all[1..], at(70));
        second.store(Instant::now());
        let mut third = open(&dir, "another boot");
        third.listed(&all, at(120));
        third.listed(&all, at(130));
        assert_eq!(counts(&third), [(EvidenceKind::Vanished, 0, 1)]);
        assert!(third.evidence(A)[0].text.contains("is back"));
        assert_eq!(third.evidence("GPU-b"), []);
    }

    #[test]
    fn the_kernels_log_goes_on_within_a_boot_and_begins_anew_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = open(&dir, "boot");
        assert_eq!(book.log_from(), From::Now, "just installed");
        book.log_read(Some(7));
        book.store(Instant::now());
        assert_eq!(open(&dir, "boot").log_from(), From::After(7));
        assert_eq!(open(&dir, "another").log_from(), From::Beginning);
    }

    #[test]
    fn a_book_that_cannot_be_read_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        for damaged in ["", "{", "[]", "{\"gpus\": 3}"] {
            std::fs::write(dir.path().join(FILE), damaged).unwrap();
            let mut book = open(&dir, "boot");
            assert_eq!(book.evidence(A), [], "{damaged:?}");
            book.xid(A, 79, "", at(0));
            book.store(Instant::now());
            assert_eq!(counts(&open(&dir, "boot")), [(EvidenceKind::Xid, 79, 1)]);
            assert_eq!(kept_evidence(dir.path())[A].len(), 1);
        }
    }

    #[test]
    fn ever_new_gpus_do_not_fill_the_book() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = open(&dir, "boot");
        for number in 0..1_000 {
            book.listed(&[format!("GPU-{number}")], at(number));
        }
        assert!(book.kept.gpus.len() <= GPUS_MAX);
        assert!(book.kept.gpus.contains_key("GPU-999"));
    }
}
