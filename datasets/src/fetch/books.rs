//! The books of a fetch: what became of every id.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use marquee_domain::report::{FetchSummary, Remarks, SourceNote};

use super::miss::Miss;
use crate::dataset::{FetchBooks, PROBLEMS_MAX, Problem};
use crate::job::JobError;

/// Problems that are told when nothing at all could be used.
const TOLD_MAX: usize = 3;

/// Counts as it goes.
#[derive(Debug, Default)]
pub(super) struct Books {
    asked: u64,
    fetched: u64,
    gone: u64,
    rejected: BTreeMap<String, u64>,
    failed: BTreeMap<String, u64>,
    bytes: u64,
    unchanged: u64,
    resumed: u64,
    replaced_text: u64,
    problems: Vec<Problem>,
    /// What was missed so far, by outcome and class.
    missed: BTreeMap<String, u64>,
    /// What is worth knowing besides.
    pub(super) remarks: Remarks,
}

impl Books {
    /// Books for a source that listed `asked` ids, of which earlier attempts settled `resumed`.
    pub(super) fn open(asked: u64, resumed: u64) -> Self {
        Self {
            asked,
            resumed,
            ..Self::default()
        }
    }

    pub(super) fn fetched(&mut self, bytes: usize, is_unchanged: bool) {
        self.fetched += 1;
        self.unchanged += u64::from(is_unchanged);
        self.bytes += bytes as u64;
    }

    /// Takes note of the labels of what was fetched.
    pub(super) fn labelled(&mut self, labels: &[String]) {
        self.remarks.without_label += u64::from(labels.is_empty());
    }

    /// Notes what had to be replaced in the texts of a picture that was fetched, if anything had.
    pub(super) fn replaced(&mut self, id: &str, replaced: Option<(&str, &str)>) {
        let Some((class, detail)) = replaced else {
            return;
        };
        self.replaced_text += 1;
        self.note(id, class, detail);
    }

    /// The counts hold all; the list is for looking into, and must not grow with the source.
    fn note(&mut self, id: &str, class: &str, detail: &str) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem {
                id: id.to_owned(),
                class: class.to_owned(),
                detail: detail.to_owned(),
            });
        }
    }

    pub(super) fn missed(&mut self, id: &str, miss: &Miss) {
        *self.missed.entry(miss.counted_as()).or_default() += 1;
        let class = miss.class();
        match miss {
            Miss::Gone { .. } => self.gone += 1,
            Miss::Rejected { .. } => *self.rejected.entry(class.clone()).or_default() += 1,
            Miss::Failed { .. } => *self.failed.entry(class.clone()).or_default() += 1,
        }
        self.note(id, &class, miss.detail());
    }

    /// How much was missed so far, by outcome and class.
    pub(super) fn misses(&self) -> &BTreeMap<String, u64> {
        &self.missed
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Closes the books. They must balance: anything else would be a lost or doubled id.
    pub(super) fn close(
        self,
        seconds: f64,
        source: SourceNote,
        listed_on: &str,
    ) -> Result<FetchBooks, JobError> {
        let rejected: u64 = self.rejected.values().sum();
        let failed: u64 = self.failed.values().sum();
        let found = self.fetched + self.gone + rejected + failed;
        // Checked by every job, not by tests alone: a set that silently lacks pictures is worse than none.
        if found != self.asked {
            return Err(JobError::crash(format!(
                "the books do not balance: {} ids asked for, {found} accounted for ({} fetched, \
                 {} gone, {rejected} rejected, {failed} failed); this is a fault of marquee-prep",
                self.asked, self.fetched, self.gone
            )));
        }
        // An element of an array may have no share at all; then others have.
        if self.fetched == 0 && self.asked > 0 {
            return Err(JobError::bad_input(self.nothing()));
        }
        let summary = FetchSummary {
            asked: self.asked,
            fetched: self.fetched,
            gone: self.gone,
            rejected: self.rejected,
            failed: self.failed,
            bytes: self.bytes,
            seconds,
            unchanged: self.unchanged,
            resumed: self.resumed,
            replaced_text: self.replaced_text,
            source,
            remarks: self.remarks,
        };
        for note in &summary.remarks.notes {
            tracing::info!("{note}");
        }
        for warning in &summary.remarks.warnings {
            tracing::warn!("{warning}");
        }
        Ok(FetchBooks {
            summary,
            listed_on: Some(listed_on.to_owned()),
            problems: self.problems,
        })
    }

    /// Why nothing came: how many of each class, and the first by name.
    fn nothing(&self) -> String {
        let counts: Vec<String> = self
            .missed
            .iter()
            .map(|(what, count)| format!("{count} {}", what.replacen('_', ": ", 1)))
            .collect();
        let mut text = format!(
            "none of the {} pictures of the source is usable ({}); the first:",
            self.asked,
            counts.join(", ")
        );
        for problem in self.problems.iter().take(TOLD_MAX) {
            let _ = write!(text, "\n  {:?}: {}", problem.id, problem.detail);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_that_do_not_balance_are_an_error() {
        let mut books = Books::open(3, 0);
        books.fetched(10, false);
        books.missed(
            "7",
            &Miss::Gone {
                detail: String::new(),
            },
        );
        let Err(JobError::Failed(failure)) = books.close(1.0, SourceNote::default(), "2026-01-01")
        else {
            panic!("one id is not accounted for");
        };
        assert!(
            failure.message.contains("3 ids asked for, 2 accounted for"),
            "{failure:?}"
        );
    }
}
