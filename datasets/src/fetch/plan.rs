//! The plan of a fetch: what is asked for, one entry a line on disk, so that a list of any length
//! is never in memory and an attempt that goes on asks for the very same entries.
//!
//! Invariant: `plan.json` is written after `plan.jsonl` is complete; without it there is no plan.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use marquee_domain::artifact::Digest;
use marquee_domain::report::{Remarks, SourceNote};
use marquee_domain::spec::ArrayElement;
use serde::{Deserialize, Serialize};

use super::labels::Label;
use super::miss::MissClass;
use crate::durable::{AsideFile, write_json};

pub(super) const PLAN_FILE: &str = "plan.json";
pub(super) const ENTRIES_FILE: &str = "plan.jsonl";

/// One thing that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum PlanEntry {
    /// A film of the API.
    #[serde(rename = "film")]
    Film(i64),
    /// A picture of a list, at a URL or a path below the list's folder.
    #[serde(rename = "place")]
    Picture {
        id: String,
        #[serde(rename = "place")]
        location: String,
        labels: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
    },
    /// A row of the earlier dataset that is taken as it is.
    #[serde(rename = "kept")]
    Kept(String),
    /// The source itself says that this is nothing to fetch.
    #[serde(rename = "rejected")]
    Rejected {
        id: String,
        class: MissClass,
        detail: String,
    },
}

impl PlanEntry {
    /// What books call it.
    pub(super) fn id(&self) -> String {
        match self {
            Self::Film(id) => id.to_string(),
            Self::Picture { id, .. } | Self::Kept(id) | Self::Rejected { id, .. } => id.clone(),
        }
    }
}

/// What is known of a plan besides its entries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct FetchPlan {
    /// Of the settings that decide what is asked for.
    pub(super) fingerprint: Digest,
    pub(super) entries: u64,
    /// Labels in the source's own order, with their ids where the source has some.
    pub(super) labels: Vec<Label>,
    pub(super) note: SourceNote,
    /// Base of the pictures, where the source has one.
    pub(super) pictures: Option<String>,
    /// ISO date of the day on which the source was listed.
    pub(super) listed_on: String,
    /// What reading the source came to besides.
    #[serde(default, skip_serializing_if = "Remarks::is_empty")]
    pub(super) remarks: Remarks,
}

/// Writes the entries of a plan.
#[derive(Debug)]
pub(super) struct PlanWriter {
    dir: PathBuf,
    file: BufWriter<AsideFile>,
    /// The share of the list that is taken. None: all of it.
    element: Option<ArrayElement>,
    listed: u64,
    entries: u64,
}

impl PlanWriter {
    pub(super) fn create(dir: &Path, element: Option<ArrayElement>) -> io::Result<Self> {
        Ok(Self {
            dir: dir.to_owned(),
            file: BufWriter::new(AsideFile::create(&dir.join(ENTRIES_FILE))?),
            element,
            listed: 0,
            entries: 0,
        })
    }

    /// Takes an entry of the source's list, if it is in this element's share.
    pub(super) fn push(&mut self, entry: &PlanEntry) -> io::Result<()> {
        // By id, not by number: an element keeps its share when the source lists something new.
        self.listed += 1;
        if self
            .element
            .is_some_and(|element| !element.takes(&entry.id()))
        {
            return Ok(());
        }
        serde_json::to_writer(&mut self.file, entry)?;
        self.file.write_all(b"\n")?;
        self.entries += 1;
        Ok(())
    }

    /// Entries of the source's list so far, of whichever share.
    pub(super) fn listed(&self) -> u64 {
        self.listed
    }

    /// Entries of this share so far.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    pub(super) fn finish(self, plan: &FetchPlan) -> io::Result<()> {
        let file = self.file.into_inner().map_err(|error| error.into_error())?;
        file.commit()?;
        write_json(&self.dir.join(PLAN_FILE), plan)
    }
}

/// The plan in `dir`, if there is a complete one.
pub(super) fn read(dir: &Path) -> Option<FetchPlan> {
    let text = fs::read(dir.join(PLAN_FILE)).ok()?;
    // A plan that cannot be read, since it is torn or of another version, counts as missing: the
    // lists are asked for again, and the journal goes with it (`Workplace::journal_dir`).
    serde_json::from_slice(&text).ok()
}

/// The entries of the plan in `dir`, one by one.
pub(super) fn entries(
    dir: &Path,
) -> io::Result<impl Iterator<Item = io::Result<PlanEntry>> + use<>> {
    let lines = BufReader::new(File::open(dir.join(ENTRIES_FILE))?).lines();
    Ok(lines.map(|line| Ok(serde_json::from_str(&line?)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_of_an_earlier_version_is_read_and_would_be_written_alike() {
        for (text, id) in [
            (r#"{"film":12}"#, "12"),
            (r#"{"kept":"14"}"#, "14"),
            (
                r#"{"place":{"id":"a","place":"0.png","labels":["cat"],"group":"pair"}}"#,
                "a",
            ),
            (
                r#"{"place":{"id":"c","place":"http://h/2.png","labels":["cat","dog"]}}"#,
                "c",
            ),
            (
                r#"{"rejected":{"id":"g","class":"no_labels","detail":"its labels are empty"}}"#,
                "g",
            ),
        ] {
            let entry: PlanEntry = serde_json::from_str(text).unwrap();
            assert_eq!(entry.id(), id);
            assert_eq!(serde_json::to_string(&entry).unwrap(), text);
        }
    }
}
