//! One pipeline with its jobs.

use chrono::{DateTime, Utc};
use marquee_proto::v1;
use serde_json::Value;

use crate::page::{Page, View};
use crate::{jobs, json, units};

/// A pipeline and its jobs, in their order.
#[derive(Debug)]
pub struct Pipeline<'a>(pub &'a v1::Pipeline);

impl View for Pipeline<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        let created = units::time(self.0.created_at.as_ref());
        page.fields(vec![
            ("pipeline", format!("p{} {}", self.0.id, self.0.name).into()),
            (
                "created",
                created.map(units::rfc3339).unwrap_or_default().into(),
            ),
            ("kept by", self.0.kept_by.as_str().into()),
        ]);
        page.gap();
        jobs::table(page, &self.0.jobs, now);
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        json::pipeline(self.0)
    }

    fn ids(&self) -> Vec<String> {
        self.0.jobs.iter().map(|job| job.id.to_string()).collect()
    }
}
