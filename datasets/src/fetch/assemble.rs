//! The end of a fetch: from the journal, which has the answers in the order in which they came, to a
//! dataset in the order of the plan.
//!
//! Invariant: every entry of the plan is in the books once, or the books do not balance and there is
//! no dataset.

use std::path::Path;

use marquee_domain::report::FetchSummary;

use super::books::Books;
use super::journal::Journal;
use super::labels::Labels;
use super::outcome::{Fetched, Outcome};
use super::place::{Workplace, on_disk};
use super::plan::{self, FetchPlan};
use crate::dataset::{DatasetWriter, Example};
use crate::job::{FETCHED, JobError};

/// The class of what was fetched all the same.
const REPLACED_TEXT: &str = "replaced_text";

/// What a dataset is made of, besides the journal.
#[derive(Debug)]
pub(super) struct Assembly<'a> {
    pub(super) dir: &'a Path,
    pub(super) plan: &'a FetchPlan,
    pub(super) place: &'a Workplace<'a>,
    /// Entries that earlier attempts had settled.
    pub(super) resumed: u64,
}

impl Assembly<'_> {
    /// Writes the dataset from what `journal` holds, and closes the books.
    pub(super) fn dataset(&self, journal: &mut Journal) -> Result<FetchSummary, JobError> {
        let mut books = Books::open(self.plan.entries, self.resumed);
        books.remarks = self.plan.remarks.clone();
        let mut writer = DatasetWriter::create(self.place.output)?;
        // The source's own list first, so that the order of classes does not depend on which pictures came.
        let mut labels = Labels::new(&self.plan.labels);
        let entries = plan::entries(self.dir).map_err(|error| on_disk(self.dir, &error))?;
        for (at, entry) in (0_u64..).zip(entries) {
            let entry = entry.map_err(|error| on_disk(self.dir, &error))?;
            let read = journal
                .read::<Outcome>(at)
                .map_err(|error| on_disk(self.dir, &error))?;
            // An entry that is not settled is missing in the books, which then do not balance.
            let Some((outcome, body)) = read else {
                continue;
            };
            let id = entry.id();
            match outcome.into_fetched() {
                Ok(example) => {
                    let body = self.picture_of(&id, &example, body)?;
                    books.fetched(body.len(), example.earlier);
                    let replaced = example.replaced_text.then_some((
                        REPLACED_TEXT,
                        "characters that could not be read are now \u{fffd}",
                    ));
                    // It counts as fetched all the same; the list of problems names it, so that
                    // somebody can look at its text.
                    books.replaced(&id, replaced);
                    writer.settled(&id, FETCHED, replaced)?;
                    let row = self.row_of(id, example, &body, &mut labels);
                    books.labelled(&row.labels);
                    writer.push(row, body)?;
                }
                Err(miss) => {
                    let class = miss.class();
                    writer.settled(&id, miss.outcome(), Some((&class, miss.detail())))?;
                    books.missed(&id, &miss);
                }
            }
        }
        // Of this attempt alone: nobody wrote down how long those before it took.
        let seconds = self.place.started.elapsed().as_secs_f64();
        let books = books.close(seconds, self.plan.note.clone(), &self.plan.listed_on)?;
        writer.finish(&labels.names, &books)?;
        Ok(books.summary)
    }

    fn picture_of(&self, id: &str, example: &Fetched, body: Vec<u8>) -> Result<Vec<u8>, JobError> {
        // What did not change was not sent again: its bytes are in the earlier dataset alone.
        if !example.earlier {
            return Ok(body);
        }
        let earlier = self.place.previous.as_ref();
        let picture = earlier.and_then(|dataset| dataset.picture(id));
        picture.map(<[u8]>::to_vec).ok_or_else(|| {
            JobError::bad_input(format!(
                "the earlier dataset has no picture of {id} any more"
            ))
        })
    }

    fn row_of(&self, id: String, example: Fetched, picture: &[u8], labels: &mut Labels) -> Example {
        Example {
            id,
            labels: example
                .labels
                .iter()
                .map(|label| labels.name_of(label))
                .collect(),
            label_ids: example.labels.iter().filter_map(|(id, _)| *id).collect(),
            group: example.group,
            title: example.title,
            release_date: example.release_date,
            popularity: example.popularity,
            language: example.language,
            picture_bytes: picture.len() as u64,
            picture_digest: example.digest,
            picture_etag: example.picture.etag,
            picture_modified: example.picture.last_modified,
            details_etag: example.details.etag,
            licence: self.place.licence.clone(),
            source: self.plan.note.name.clone(),
        }
    }
}
