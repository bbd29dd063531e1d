//! Whether the coordinator dies of the same thing again and again: each start writes down that it began, what the one
//! before it was at, and that it ended in order or lived for a while.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Trail, Walls};

/// A process that lived for so long did not die of what it met at its start.
pub const STEADY: Duration = Duration::from_secs(60);
/// How long a coordinator stays in safe mode before it ends by itself, to be started anew: what kept it from working may
/// be gone, such as a Postgres that stood still under it.
pub const SAFE_MODE_FOR: Duration = Duration::from_secs(15 * 60);
/// So many in a row that died sooner, each at the same thing, are a crash loop. One is an accident, two a
/// coincidence.
const CRASHES_MAX: u32 = 3;

/// What is known of the starts before.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// The process neither ended in order nor lived for long.
    is_open: bool,
    /// So many in a row died soon after their start.
    crashes: u32,
    /// What every one of them was at.
    at: BTreeSet<String>,
}

/// This process's own entry.
#[derive(Debug)]
pub struct Starts {
    path: PathBuf,
    record: Record,
}

impl Starts {
    /// Notes a start in `data_dir`, and says whether the ones before were a crash loop.
    pub fn begin(data_dir: &Path) -> io::Result<(Self, Walls)> {
        let path = data_dir.join("starts.json");
        // What cannot be read says nothing: it is no reason to refuse a start.
        let before: Record = fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let (trail, was_at) = Trail::open(&data_dir.join("trail"))?;
        let record = after(before, was_at.into_iter().collect());
        let safe_mode = (record.crashes >= CRASHES_MAX).then(|| reason(&record));
        let mut starts = Self { path, record };
        if let Some(why) = &safe_mode {
            tracing::error!("{why}");
            // In safe mode nothing of it is done again. Whoever ends that mode wants another try.
            starts.record = Record::default();
        }
        starts.record.is_open = true;
        // Before anything else is done, so that a crash of the very next line counts too.
        starts.write()?;
        let safe_mode = safe_mode.map(Arc::from);
        let walls = Walls {
            trail,
            safe_mode,
            ..Walls::default()
        };
        Ok((starts, walls))
    }

    /// This process has lived for [`STEADY`], or ends in order.
    pub fn is_well(&mut self) {
        self.record = Record::default();
        if let Err(error) = self.write() {
            tracing::warn!(path = ?self.path, %error, "that this start went well could not be written down");
        }
    }

    fn write(&self) -> io::Result<()> {
        let aside = self.path.with_extension("json.new");
        fs::write(&aside, serde_json::to_vec(&self.record)?)?;
        fs::rename(&aside, &self.path)
    }
}

/// The record of a start after `before`, whose process was at `was_at` when it ended.
fn after(before: Record, was_at: BTreeSet<String>) -> Record {
    if !before.is_open || was_at.is_empty() {
        return Record::default();
    }
    let at: BTreeSet<String> = if before.crashes == 0 {
        was_at.clone()
    } else {
        before.at.intersection(&was_at).cloned().collect()
    };
    if at.is_empty() {
        // Killed twice at different things: that is somebody who kills.
        return Record {
            is_open: false,
            crashes: 1,
            at: was_at,
        };
    }
    Record {
        is_open: false,
        crashes: before.crashes + 1,
        at,
    }
}

fn reason(record: &Record) -> String {
    let at: Vec<&str> = record.at.iter().map(String::as_str).collect();
    format!(
        "the coordinator ended {} times in a row soon after its start, each time at: {}. It is in safe mode now: it \
         answers who reads and changes nothing; workers and their jobs go on by themselves, and report later. Look \
         at its log, put the cause right, and start it again; by itself it tries again after 15 minutes",
        record.crashes,
        at.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that dies at these things.
    fn dies_at(folder: &Path, at: &[&str]) -> Option<Arc<str>> {
        let (_, walls) = Starts::begin(folder).unwrap();
        for what in at {
            std::mem::forget(walls.trail.step(|| (*what).to_owned()));
        }
        walls.safe_mode
    }

    #[test]
    fn three_deaths_at_the_same_thing_are_a_crash_loop_and_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert_eq!(dies_at(folder, &["submit", "heartbeat of w1"]), None);
        assert_eq!(dies_at(folder, &["submit"]), None);
        assert_eq!(dies_at(folder, &["heartbeat of w2", "submit"]), None);
        let why = dies_at(folder, &[]).unwrap();
        assert!(
            why.contains("ended 3 times in a row") && why.contains("at: submit."),
            "{why}"
        );
        // Whoever ended the safe mode wants another try.
        assert_eq!(dies_at(folder, &["submit"]), None);
    }

    #[test]
    fn somebody_who_kills_it_at_anything_is_no_crash_loop() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for round in 0..10 {
            let at = format!("job {round}");
            assert_eq!(dies_at(folder, &[&at]), None);
            assert_eq!(dies_at(folder, &[]), None);
        }
        // One that went well in between is none either.
        for _ in 0..5 {
            assert_eq!(dies_at(folder, &["submit"]), None);
            assert_eq!(dies_at(folder, &["submit"]), None);
            let (mut starts, _) = Starts::begin(folder).unwrap();
            starts.is_well();
        }
        fs::write(folder.join("starts.json"), b"{").unwrap();
        assert_eq!(dies_at(folder, &[]), None);
    }
}
