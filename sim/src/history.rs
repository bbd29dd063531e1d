//! What is left of a world: the rows, the files, what clients were told and what the children did.

use std::collections::BTreeMap;
use std::path::PathBuf;

use marquee_domain::artifact::Digest;
use marquee_domain::resources::Device;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::audit;
use crate::clients::{Ledger, Told};
use crate::place::{Place, artifacts_folder};
use crate::processes::{Life, Processes};
use crate::relay::Backends;

/// All of it.
#[derive(Debug)]
pub struct History {
    pub told: Vec<Told>,
    pub lives: Vec<Life>,
    /// What was seen to go wrong while it happened, and what the cluster's own history says.
    pub wrong: Vec<String>,
    pub pipelines: Vec<Pipeline>,
    pub jobs: BTreeMap<i64, Job>,
    pub arrays: Vec<Array>,
    pub needs: Vec<Need>,
    pub attempts: Vec<Attempt>,
    pub ranks: Vec<RankRow>,
    pub artifacts: Vec<Artifact>,
    /// Lines of stdout by (job, attempt, rank), in their order.
    pub lines: BTreeMap<(i64, u32, u32), Vec<String>>,
    pub blobs: PathBuf,
}

/// A row of `pipelines`.
#[derive(Debug, Deserialize)]
pub struct Pipeline {
    pub id: i64,
    pub name: String,
    pub request_id: String,
}

/// A row of the view `job_states`.
#[derive(Debug, Deserialize)]
pub struct Job {
    pub id: i64,
    pub pipeline_id: i64,
    pub array_job_id: Option<i64>,
    pub array_index: Option<i64>,
    pub array_size: Option<i64>,
    pub state: String,
    pub attempt: u32,
}

/// A row of `arrays`: how far its elements are, those among them that are no jobs.
#[derive(Debug, Deserialize)]
pub struct Array {
    pub job_id: i64,
    pub size: i64,
    pub succeeded: i64,
    pub failed: i64,
    pub cancelled: i64,
    /// Elements that are to become jobs, and those that were cancelled before they did.
    pub to_come: i64,
    pub dropped: i64,
}

/// A row of `job_needs`.
#[derive(Debug, Deserialize)]
pub struct Need {
    pub job_id: i64,
    pub needs_job_id: i64,
}

/// A row of `attempts`.
#[derive(Debug, Deserialize)]
pub struct Attempt {
    pub job_id: i64,
    pub number: u32,
    pub state: String,
}

/// A row of `attempt_ranks`, with its worker's name.
#[derive(Debug, Deserialize)]
pub struct RankRow {
    pub job_id: i64,
    pub attempt: u32,
    pub rank: u32,
    pub worker: String,
    pub devices: Vec<Device>,
    pub state: String,
}

/// A row of `artifacts`.
#[derive(Debug, Deserialize)]
pub struct Artifact {
    pub job_id: i64,
    pub attempt: u32,
    pub files: Vec<(String, Digest)>,
}

#[derive(Debug, Deserialize)]
struct LineRow {
    job_id: i64,
    attempt: u32,
    rank: u32,
    text: String,
}

#[derive(Debug, Deserialize)]
struct ArtifactRow {
    job_id: i64,
    attempt: u32,
    manifest: marquee_domain::artifact::Manifest,
}

impl History {
    pub(crate) fn read(
        place: &Place,
        backends: &Backends,
        processes: &Processes,
        ledger: &Ledger,
    ) -> anyhow::Result<Self> {
        let rows = Rows(backends);
        let jobs: Vec<Job> = rows.of(
            "SELECT id, pipeline_id, array_job_id, array_index, array_size, state, attempt
             FROM job_states ORDER BY id",
        )?;
        let mut lines: BTreeMap<_, Vec<String>> = BTreeMap::new();
        let stored: Vec<LineRow> = rows.of(
            // Children write to stdout alone, which is what `Life::said` is compared with.
            "SELECT job_id, attempt, rank, text FROM log_lines WHERE stream = 'stdout'
             ORDER BY job_id, attempt, rank, sequence, line",
        )?;
        for line in stored {
            let key = (line.job_id, line.attempt, line.rank);
            lines.entry(key).or_default().push(line.text);
        }
        let artifacts: Vec<ArtifactRow> =
            rows.of("SELECT job_id, attempt, manifest FROM artifacts ORDER BY job_id")?;
        let artifacts = artifacts.into_iter().map(|row| Artifact {
            job_id: row.job_id,
            attempt: row.attempt,
            files: row
                .manifest
                .files
                .into_iter()
                .map(|file| (file.path, file.digest))
                .collect(),
        });
        Ok(Self {
            told: ledger.entries(),
            lives: processes.lives(),
            wrong: [processes.wrong(), audit::findings(&place.url())?].concat(),
            pipelines: rows.of("SELECT id, name, request_id FROM pipelines ORDER BY id")?,
            jobs: jobs.into_iter().map(|job| (job.id, job)).collect(),
            arrays: rows.of(
                "SELECT job_id, size, succeeded, failed, cancelled, to_come, dropped FROM arrays
                 ORDER BY job_id",
            )?,
            needs: rows.of("SELECT job_id, needs_job_id FROM job_needs ORDER BY 1, 2")?,
            attempts: rows
                .of("SELECT job_id, number, state FROM attempts ORDER BY job_id, number")?,
            ranks: rows.of(
                "SELECT r.job_id, r.attempt, r.rank, w.name AS worker, r.devices, r.state
                 FROM attempt_ranks r JOIN workers w ON w.id = r.worker_id
                 ORDER BY r.job_id, r.attempt, r.rank",
            )?,
            artifacts: artifacts.collect(),
            lines,
            blobs: artifacts_folder(place),
        })
    }
}

struct Rows<'a>(&'a Backends);

impl Rows<'_> {
    fn of<T: DeserializeOwned>(&self, query: &str) -> anyhow::Result<Vec<T>> {
        // As JSON, so that one function reads rows of every shape.
        let query = format!("SELECT row_to_json(t)::text FROM ({query}) t");
        let rows = self.0.ask(&query)?;
        let rows = rows.iter().map(|row| serde_json::from_str(row));
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
