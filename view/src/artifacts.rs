//! A list of artifacts, one row each.

use chrono::{DateTime, Utc};
use marquee_proto::v1::Artifact;
use serde_json::Value;

use crate::page::{Page, Tone, View, left, right, toned};
use crate::{json, units};

/// A listing of artifacts.
#[derive(Debug)]
pub struct Artifacts<'a>(pub &'a [Artifact]);

impl View for Artifacts<'_> {
    fn page(&self, page: &mut Page, now: DateTime<Utc>) {
        if self.0.is_empty() {
            return;
        }
        let heads = [
            left("DIGEST"),
            left("NAME"),
            right("SIZE"),
            right("FILES"),
            left("JOB"),
            left("PIPELINE"),
            right("AGE"),
        ];
        let rows = self.0.iter().map(|artifact| {
            let age = units::time(artifact.committed_at.as_ref())
                .map(|at| units::about(units::between(at, now)))
                .unwrap_or_default();
            vec![
                toned(units::short_digest(&artifact.digest), Tone::Strong),
                artifact.name.as_str().into(),
                units::bytes(artifact.size_bytes).into(),
                units::count(u64::from(artifact.file_count)).into(),
                format!("{} {}", artifact.job_id, artifact.job_name).into(),
                format!("p{}", artifact.pipeline_id).into(),
                age.into(),
            ]
        });
        page.table(heads, rows.collect());
        // Below the table and not in it: what is wrong with a file is a sentence, and few artifacts
        // have one.
        for artifact in self
            .0
            .iter()
            .filter(|artifact| !artifact.damaged.is_empty())
        {
            let digest = units::short_digest(&artifact.digest);
            page.line(format!("{digest} is damaged: {}", artifact.damaged));
        }
    }

    fn json(&self, _now: DateTime<Utc>) -> Value {
        self.0.iter().map(json::artifact).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|artifact| artifact.digest.clone())
            .collect()
    }
}
