//! Where the files of a folder source are: in a folder, or in a `.zip` of one.

use std::fs;
use std::path::Path;

use marquee_domain::report::Remarks;

use super::LABELS_NAME;
use super::archive::Archive;
use super::litter::PassedOver;
use super::tree::Tree;
use crate::fetch::miss::Miss;
use crate::job::JobError;

#[derive(Debug)]
enum Place {
    Folder(Tree),
    Zip(Box<Archive>),
}

/// The files of a source.
#[derive(Debug)]
pub(super) struct Store {
    place: Place,
    /// The folder of an archive in which everything is: empty, or with a final `/`.
    inside: String,
    /// Paths below the folder, joined by `/`, in order.
    pub(super) names: Vec<String>,
}

impl Store {
    pub(super) fn open(path: &Path) -> Result<Self, JobError> {
        let shown = path.display();
        let found = fs::metadata(path).map_err(|error| {
            JobError::user(format!("{shown} cannot be opened on this worker: {error}"))
        })?;
        if found.is_dir() {
            let mut tree = Tree::open(path)?;
            return Ok(Self {
                names: std::mem::take(&mut tree.names),
                place: Place::Folder(tree),
                inside: String::new(),
            });
        }
        let mut archive = Archive::open(path)?;
        let names = std::mem::take(&mut archive.names);
        let inside = inside_of(&names);
        let below = names
            .into_iter()
            .filter_map(|name| name.strip_prefix(inside.as_str()).map(str::to_owned));
        Ok(Self {
            names: below.collect(),
            place: Place::Zip(Box::new(archive)),
            inside,
        })
    }

    /// The bytes of the file at `path`, if there are at most `limit`; or the end of the job.
    pub(super) fn read(
        &mut self,
        path: &str,
        limit: usize,
    ) -> Result<Result<Vec<u8>, Miss>, JobError> {
        match &mut self.place {
            Place::Folder(tree) => Ok(tree.read(path, limit)),
            Place::Zip(archive) => archive.read(&format!("{}{path}", self.inside), limit),
        }
    }

    /// What was met on the way to the files.
    pub(super) fn remark(&self, remarks: &mut Remarks) {
        let passed: &PassedOver = match &self.place {
            Place::Folder(tree) => {
                remarks.notes.extend(tree.note_of_links());
                &tree.passed
            }
            Place::Zip(archive) => {
                remarks.warnings.extend(archive.warnings.iter().cloned());
                &archive.passed
            }
        };
        remarks.passed_over = passed.counts();
        remarks.notes.extend(passed.note());
    }
}

/// The folder of an archive in which everything is: its top, or the folder there that holds
/// `labels.csv`, or the only one, as archives of a folder have it.
fn inside_of(names: &[String]) -> String {
    let labels: Vec<&str> = names
        .iter()
        .filter_map(|name| name.strip_suffix(LABELS_NAME))
        .filter(|inside| inside.is_empty() || inside.find('/') == Some(inside.len() - 1))
        .collect();
    match labels.as_slice() {
        [only] => return (*only).to_owned(),
        [] => {}
        // A table at the top is about all that is below it, whatever lies in the folders.
        several if several.contains(&"") => return String::new(),
        _ => {}
    }
    let mut tops: Vec<&str> = names
        .iter()
        .map(|name| name.split_once('/').map_or("", |(top, _)| top))
        .collect();
    tops.sort_unstable();
    tops.dedup();
    let has_table = names.iter().any(|name| name.ends_with(".csv"));
    match tops.as_slice() {
        // A single folder of pictures is a label, unless there is a table in it.
        [only] if !only.is_empty() && has_table => format!("{only}/"),
        _ => String::new(),
    }
}
