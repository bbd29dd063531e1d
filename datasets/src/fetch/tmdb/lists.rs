//! Which films to ask for: by the daily export, by changes, by discover.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::Path;

use chrono::{Days, NaiveDate};
use reqwest::Url;

use super::Catalogue;
use super::answers::Page;
use super::export::{self, Line};
use crate::fetch::miss::MissClass;
use crate::fetch::place::on_disk;
use crate::fetch::plan::{PlanEntry, PlanWriter};
use crate::job::JobError;

/// Pages that the API gives for one question.
const PAGES_MAX: u32 = 500;
/// Days of changes that one question may span.
const CHANGE_DAYS_MAX: u64 = 14;

impl Catalogue<'_> {
    pub(super) async fn plan_export(
        &self,
        writer: &mut PlanWriter,
        dir: &Path,
        today: NaiveDate,
    ) -> Result<(), JobError> {
        let file = dir.join("export.json.gz");
        export::newest(&self.client, &self.settings.exports, today, &file).await?;
        let limit = self.settings.limit.unwrap_or(u64::MAX);
        let planned = tokio::task::block_in_place(|| {
            let mut seen = HashSet::new();
            // Rejected and not left out: the books name each line of the export.
            export::lines(&file, limit, |line| {
                let rejected =
                    |id: String, class, detail: String| PlanEntry::Rejected { id, class, detail };
                writer.push(&match line {
                    Line::Film(film) if !seen.insert(film.id) => rejected(
                        film.id.to_string(),
                        MissClass::DuplicateId,
                        "the export lists it twice".to_owned(),
                    ),
                    Line::Film(film) if film.adult => rejected(
                        film.id.to_string(),
                        MissClass::Adult,
                        "the export says so".to_owned(),
                    ),
                    Line::Film(film) => PlanEntry::Film(film.id),
                    Line::Unreadable(number) => rejected(
                        format!("line {number}"),
                        MissClass::UnreadableLine,
                        format!("line {number} of the export is no film"),
                    ),
                })
            })
        });
        planned.map_err(|problem| {
            JobError::network(format!(
                "the export of {} is damaged: {problem}",
                self.settings.exports
            ))
        })?;
        fs::remove_file(&file).map_err(|error| on_disk(&file, &error))
    }

    /// The rows of the earlier dataset, those that changed asked for again, and what is new.
    pub(super) async fn plan_changes(
        &self,
        writer: &mut PlanWriter,
        dir: &Path,
        today: NaiveDate,
    ) -> Result<(), JobError> {
        let previous = self.place.previous.as_ref();
        let listed = previous.and_then(|dataset| dataset.books().listed_on.clone());
        let from = self.settings.from.clone().or(listed).ok_or_else(|| {
            JobError::user(
                "changes have to be asked for from a day on; set from, or give an earlier dataset as the \
                 input previous",
            )
        })?;
        let (from, to) = (day("from", &from)?, self.last_day(today)?);
        let mut changed = BTreeSet::new();
        let mut start = from;
        while start <= to {
            let end = start
                .checked_add_days(Days::new(CHANGE_DAYS_MAX - 1))
                .map_or(to, |end| end.min(to));
            let question = [
                ("start_date", start.to_string()),
                ("end_date", end.to_string()),
            ];
            let first = self.page("movie/changes", &question, 1).await?;
            // The number of pages is that of the first answer: films that change while pages are
            // read come with the next increment, which asks from the day of this listing on.
            let mut pages = vec![first];
            for number in 2..=pages[0].total_pages {
                pages.push(self.page("movie/changes", &question, number).await?);
            }
            let films = pages.iter().flat_map(|page| &page.results);
            changed.extend(
                films
                    .filter(|film| film.adult != Some(true))
                    .map(|film| film.id),
            );
            let Some(next) = end.succ_opt() else { break };
            start = next;
        }
        // The rows that there are keep their order, so that an increment of nothing gives equal files.
        let mut push = |entry| writer.push(&entry).map_err(|error| on_disk(dir, &error));
        for row in previous.iter().flat_map(|dataset| dataset.examples()) {
            let id = row.id.parse().ok();
            // Taken out of the set: what is left in it afterwards are films that the earlier
            // dataset has not.
            match id.filter(|id| changed.remove(id)) {
                Some(id) => push(PlanEntry::Film(id))?,
                None => push(PlanEntry::Kept(row.id.clone()))?,
            }
        }
        let limit = self.settings.limit.unwrap_or(u64::MAX);
        for (id, _) in changed.into_iter().zip(0..limit) {
            push(PlanEntry::Film(id))?;
        }
        Ok(())
    }

    /// Discover gives [`PAGES_MAX`] pages for one question, so a span of days that has more films
    /// is halved until it has not.
    pub(super) async fn plan_discover(
        &self,
        writer: &mut PlanWriter,
        dir: &Path,
        today: NaiveDate,
    ) -> Result<(), JobError> {
        let from = self.settings.from.as_deref().unwrap_or_default();
        let mut open = vec![(day("from", from)?, self.last_day(today)?)];
        let (mut seen, limit) = (HashSet::new(), self.settings.limit.unwrap_or(u64::MAX));
        while let Some((start, end)) = open.pop() {
            if start > end || writer.listed() >= limit {
                continue;
            }
            let question = [
                ("primary_release_date.gte", start.to_string()),
                ("primary_release_date.lte", end.to_string()),
                ("sort_by", "primary_release_date.asc".to_owned()),
                ("include_adult", "false".to_owned()),
            ];
            let first = self.page("discover/movie", &question, 1).await?;
            let days = (end - start).num_days();
            // The API says how many pages there are, and gives only so many: the rest would be lost silently.
            if first.total_pages > PAGES_MAX && days > 0 {
                let half = start
                    .checked_add_days(Days::new(days.unsigned_abs() / 2))
                    .unwrap_or(start);
                // The earlier half on top: it is asked for next, and the plan stays in the order of release.
                if let Some(next) = half.succ_opt() {
                    open.push((next, end));
                }
                open.push((start, half));
                continue;
            }
            if first.total_pages > PAGES_MAX {
                return Err(JobError::bad_input(format!(
                    "{start} has {} pages of films and the API gives {PAGES_MAX}: a sweep by discover would \
                     lose some; use films = \"export\"",
                    first.total_pages
                )));
            }
            let mut number = 1;
            let mut page = first;
            loop {
                for film in page.results {
                    let is_wanted = film.adult != Some(true) && writer.listed() < limit;
                    // Pages shift while they are read: a film may stand on two.
                    if is_wanted && seen.insert(film.id) {
                        let entry = PlanEntry::Film(film.id);
                        writer.push(&entry).map_err(|error| on_disk(dir, &error))?;
                    }
                }
                number += 1;
                if number > page.total_pages {
                    break;
                }
                page = self.page("discover/movie", &question, number).await?;
            }
        }
        Ok(())
    }

    fn last_day(&self, today: NaiveDate) -> Result<NaiveDate, JobError> {
        self.settings
            .to
            .as_deref()
            .map_or(Ok(today), |text| day("to", text))
    }

    async fn page(
        &self,
        path: &str,
        question: &[(&str, String)],
        number: u32,
    ) -> Result<Page, JobError> {
        let mut url: Url = self.settings.api.join(path);
        url.query_pairs_mut()
            .extend_pairs(question)
            .append_pair("page", &number.to_string());
        self.ask(url, &format!("page {number} of {path}")).await
    }
}

fn day(field: &str, text: &str) -> Result<NaiveDate, JobError> {
    text.parse().map_err(|_| {
        JobError::user(format!(
            "{field} {text:?} is no day; write it as 2026-01-31"
        ))
    })
}
