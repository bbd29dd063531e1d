//! Where a fetch job works: its folders, and what earlier attempts and an earlier dataset left there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use marquee_domain::artifact::Digest;
use marquee_domain::spec::ArrayElement;

use super::manners::Manners;
use super::plan;
use crate::dataset::{Dataset, Example};
use crate::job::JobError;

/// Name of the journal's folder in the output, while a job has no scratch folder.
const JOURNAL_DIR: &str = ".journal";

/// Where a fetch job works.
#[derive(Debug)]
pub(super) struct Workplace<'a> {
    pub(super) output: &'a Path,
    /// Folder for checkpoints.
    pub(super) checkpoints: &'a Path,
    /// A checkpoint to go on from.
    pub(super) resume: Option<&'a Path>,
    /// A folder that later attempts on this worker find again.
    pub(super) scratch: Option<&'a Path>,
    /// An earlier dataset.
    pub(super) previous: Option<Dataset>,
    pub(super) licence: Option<String>,
    /// The share of an array that this is.
    pub(super) element: Option<ArrayElement>,
    /// Folder through which shares of each host's rate come. None: the settings' own rate holds.
    pub(super) shares: Option<&'a Path>,
    pub(super) started: Instant,
}

impl Workplace<'_> {
    /// How requests are made here: as the settings say, and where no coordinator shares rates out,
    /// by an element of an array at its share of them.
    pub(super) fn manners(&self, whole: Manners) -> Manners {
        match self.shares {
            Some(_) => whole,
            None => whole.share_of(self.element),
        }
    }

    /// The journal's folder: with what an earlier attempt left, if it was at the same work.
    pub(super) fn journal_dir(&self, fingerprint: &Digest) -> Result<PathBuf, JobError> {
        // Hidden, and gone before the output is (`Engine::run`): it must never be stored as a part
        // of the dataset.
        let dir = self.scratch.unwrap_or(self.output).join(JOURNAL_DIR);
        self.make_journal_dir(&dir, fingerprint)
            .map_err(|error| on_disk(&dir, &error))?;
        Ok(dir)
    }

    fn make_journal_dir(&self, dir: &Path, fingerprint: &Digest) -> io::Result<()> {
        let is_same =
            |dir: &Path| plan::read(dir).is_some_and(|plan| plan.fingerprint == *fingerprint);
        // A job may have been on another worker since: what is further counts. Both are journals of the
        // same plan and grow only, so the larger one is further.
        let beyond = self.resume.filter(|resume| is_same(resume));
        if is_same(dir) && beyond.is_none_or(|resume| journal_bytes(resume) <= journal_bytes(dir)) {
            return Ok(());
        }
        // A journal of another plan numbers other entries: nothing of it may be taken.
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => fs::create_dir_all(dir)?,
        }
        if let Some(resume) = beyond {
            // The plan last: without it the folder counts as empty.
            let mut names: Vec<_> = fs::read_dir(resume)?
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<io::Result<_>>()?;
            names.sort_by_key(|name| *name == plan::PLAN_FILE);
            for name in names {
                link(&resume.join(&name), &dir.join(&name))?;
            }
        }
        Ok(())
    }

    /// The row of the earlier dataset with this id, and what a server needs to know about it.
    pub(super) fn earlier(&self, id: &str) -> Option<&Example> {
        self.previous.as_ref()?.example(id)
    }
}

/// Bytes of the files of a journal.
fn journal_bytes(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files
        .filter_map(|file| file.metadata().ok())
        .map(|found| found.len())
        .sum()
}

/// Another name for a file that never changes; a copy where links are impossible.
pub(super) fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(|_| ()))
}

pub(super) fn on_disk(path: &Path, error: &io::Error) -> JobError {
    JobError::crash(format!("{}: {error}", path.display()))
}
