//! What would be if a job asked for something else.

use chrono::{DateTime, Utc};
use marquee_proto::v1::{Forecast, WhatIfResponse};
use serde_json::{Value, json};

use crate::page::{Page, View};
use crate::{forecast, json, units};

/// When a job would start and end.
#[derive(Debug)]
pub struct WhatIf<'a> {
    pub job: i64,
    pub answer: &'a WhatIfResponse,
}

impl View for WhatIf<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        let ranks = units::plural(self.answer.ranks as usize, "rank");
        let sentence = |what: &str, found: Option<&Forecast>, why: &str| {
            let said = found.and_then(|found| forecast::when(found, now));
            match said {
                Some(said) => format!("With {ranks} it would {what} {said}."),
                None => format!("When it would {what} with {ranks} cannot be said: {why}."),
            }
        };
        let WhatIfResponse {
            start,
            no_start,
            end,
            no_end,
            ..
        } = self.answer;
        page.line(sentence("start", start.as_ref(), no_start));
        page.line(sentence("end", end.as_ref(), no_end));
        // Said each time: a forecast that left out whoever comes later must not be taken for a
        // promise.
        page.line("Nothing was changed. Jobs that make room for others, and whoever is submitted later, are not in it.");
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        json!({
            "job_id": self.job,
            "ranks": self.answer.ranks,
            "start": self.answer.start.as_ref().map(json::forecast),
            "no_start": json::text(&self.answer.no_start),
            "end": self.answer.end.as_ref().map(json::forecast),
            "no_end": json::text(&self.answer.no_end),
        })
    }

    fn ids(&self) -> Vec<String> {
        vec![self.job.to_string()]
    }
}

#[cfg(test)]
mod tests {
    use marquee_proto::convert::timestamp;

    use super::*;

    #[test]
    fn what_is_not_known_is_said_so() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let answer = WhatIfResponse {
            ranks: 4,
            start: Some(Forecast {
                said_at: None,
                expected_at: Some(timestamp(now)),
                likely_by: Some(timestamp(now + chrono::TimeDelta::minutes(5))),
                basis: "the time limits of 2 running jobs".into(),
            }),
            no_end: "this step was measured with 1 ranks alone".into(),
            ..WhatIfResponse::default()
        };
        let view = WhatIf {
            job: 7,
            answer: &answer,
        };
        let text = format!("{:?}", Page::of(&view, now));
        assert!(
            text.contains("With 4 ranks it would start at 2027-01-15 08:00:00 UTC (now)"),
            "{text}"
        );
        assert!(
            text.contains("When it would end with 4 ranks cannot be said: this step was measured"),
            "{text}"
        );
    }
}
