//! The files that a rank's child writes, and how they are read. The child reaches them too: what it put in
//! their place is not read ([`crate::files`]).

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::{FallocateFlags, fallocate};

use super::lines::Position;
use super::pump::{self, Cursor, Pumped, Stdout};
use crate::files;
use crate::process::launcher::{events_path, stderr_path, stdout_path};

/// Read output is given back to the file system in steps of this size.
const PUNCH_BYTES: u64 = 16 * 1024 * 1024;

/// The files a child writes.
#[derive(Debug)]
pub(super) struct Output {
    stdout: File,
    stderr: File,
    /// None of a child without a channel.
    events: Option<File>,
}

impl Output {
    pub(super) fn open(dir: &Path) -> io::Result<Arc<Self>> {
        let events = match files::open_both(&events_path(dir)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            events => Some(events?),
        };
        Ok(Arc::new(Self {
            stdout: files::open_both(&stdout_path(dir))?,
            stderr: files::open_both(&stderr_path(dir))?,
            events,
        }))
    }

    /// Whether the child wrote nothing beyond `cursor`.
    pub(super) fn ends_at(&self, cursor: &Cursor) -> bool {
        let ends = |file: &File, read: &Position| {
            // Its length stays when blocks are given back, so it can be compared.
            file.metadata()
                .is_ok_and(|metadata| metadata.len() == read.offset)
        };
        let events = self.events.as_ref();
        ends(&self.stdout, &cursor.stdout)
            && ends(&self.stderr, &cursor.stderr)
            && events.is_none_or(|events| ends(events, &cursor.events))
    }

    /// Reads on in all of them.
    pub(super) fn step(
        &self,
        cursor: &mut Cursor,
        kind: Stdout,
        gone: bool,
        show: bool,
    ) -> io::Result<Pumped> {
        let events = self.events.as_ref();
        let said = events.map(|events| pump::step_events(events, cursor));
        let mut said = said.transpose()?.unwrap_or(Pumped {
            bodies: Vec::new(),
            at_end: true,
        });
        // A child that has a channel says everything there: nothing else counts as its word.
        let kind = if events.is_some() { Stdout::Log } else { kind };
        let logged = pump::step((&self.stdout, &self.stderr), cursor, kind, gone, show)?;
        said.bodies.extend(logged.bodies);
        said.at_end &= logged.at_end;
        Ok(said)
    }

    /// Frees the disk blocks of what was read.
    pub(super) fn give_back(&self, before: &Cursor, now: &Cursor) {
        give_back(&self.stdout, before.stdout.offset, now.stdout.offset);
        give_back(&self.stderr, before.stderr.offset, now.stderr.offset);
        if let Some(events) = &self.events {
            give_back(events, before.events.offset, now.events.offset);
        }
    }
}

/// How far a reading of a child's output came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// To its end.
    All,
    /// There is more.
    Some,
    /// Nowhere: what was read cannot be spooled now.
    Nothing,
}

/// Frees the disk blocks of output that was read. Best effort: not every file system can.
fn give_back(file: &File, before: u64, now: u64) {
    if before / PUNCH_BYTES == now / PUNCH_BYTES {
        return;
    }
    // All but the newest step, so that the tail for a failure's message stays.
    let Ok(end) = i64::try_from((now / PUNCH_BYTES - 1) * PUNCH_BYTES) else {
        return;
    };
    if end > 0 {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let _best_effort = fallocate(file, flags, 0, end);
    }
}
