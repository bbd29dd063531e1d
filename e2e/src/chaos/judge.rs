//! What came of it: the cluster's own history, its results, and what the jobs wrote down of themselves, held together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::get_artifact_request::Which;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::{
    DownloadBlobRequest, FailureClass, GetArtifactRequest, GetJobRequest, Job, JobState,
    ListJobsRequest,
};
use serde_json::Value;
use tonic::Code;
use tonic::transport::Channel;

use super::load::{Accepted, Want};

/// A rank of an attempt: job, attempt, rank.
pub type Key = (i64, u64, u64);

/// One line that a job wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct SideLine {
    pub is_start: bool,
    pub key: Key,
    pub at: DateTime<Utc>,
}

/// What one rank did, by the audit.
#[derive(Debug, Clone, Default)]
pub struct RankHistory {
    pub granted: Option<DateTime<Utc>>,
    pub released: Option<DateTime<Utc>>,
    pub worker: String,
    pub devices: Vec<String>,
}

/// When a rank's own lines say that it ran.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: Option<DateTime<Utc>>,
    end: Option<DateTime<Utc>>,
}

/// Start and end of a rank on a device.
type Use = (DateTime<Utc>, DateTime<Utc>, Key);

/// The audit, as far as the comparison needs it.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub ranks: BTreeMap<Key, RankHistory>,
    /// Attempts that committed, by job.
    pub commits: BTreeMap<i64, Vec<u64>>,
    /// How often each request was accepted.
    pub requests: BTreeMap<String, usize>,
}

/// Reads what `marquee audit log --all --output json` printed.
pub fn read_audit(text: &str) -> Result<History> {
    let mut history = History::default();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| format!("{line:?}"))?;
        let at = line["at"]
            .as_str()
            .and_then(|at| at.parse::<DateTime<Utc>>().ok());
        let key = || {
            let job = line["job_id"].as_i64()?;
            Some((job, line["attempt"].as_u64()?, line["rank"].as_u64()?))
        };
        match line["what"].as_str().unwrap_or_default() {
            "submitted" => {
                let request = line["detail"]["request_id"].as_str().unwrap_or_default();
                *history.requests.entry(request.to_owned()).or_default() += 1;
            }
            "granted" => {
                let rank = history
                    .ranks
                    .entry(key().context("a grant names its rank")?)
                    .or_default();
                rank.granted = at;
                rank.worker = line["worker_name"].as_str().unwrap_or_default().to_owned();
                let devices = line["detail"]["devices"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                rank.devices = devices.iter().map(Value::to_string).collect();
            }
            "released" => {
                history
                    .ranks
                    .entry(key().context("a release names its rank")?)
                    .or_default()
                    .released = at;
            }
            "committed" => {
                let job = line["job_id"].as_i64().context("a commit names its job")?;
                let attempt = line["attempt"].as_u64().unwrap_or_default();
                history.commits.entry(job).or_default().push(attempt);
            }
            _ => {}
        }
    }
    Ok(history)
}

/// Reads the side file. A rank that was killed while it wrote leaves half a line.
pub fn read_side(path: &Path) -> Vec<SideLine> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(side_line).collect()
}

fn side_line(line: &str) -> Option<SideLine> {
    let mut words = line.split(' ');
    let is_start = words.next()? == "start";
    let key = (
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
    );
    let (seconds, nanos) = words.next()?.split_once('.')?;
    let at = DateTime::from_timestamp(seconds.parse().ok()?, nanos.parse().ok()?)?;
    Some(SideLine { is_start, key, at })
}

/// What the jobs' own lines say against the audit.
#[must_use]
pub fn compare(side: &[SideLine], history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut spans: BTreeMap<Key, Span> = BTreeMap::new();
    for line in side {
        let (job, attempt, rank) = line.key;
        let name = format!("job {job} attempt {attempt} rank {rank}");
        let span = spans.entry(line.key).or_default();
        let place = if line.is_start {
            &mut span.start
        } else {
            &mut span.end
        };
        if place.replace(line.at).is_some() {
            wrong.push(format!("{name} ran twice"));
        }
        let Some(known) = history.ranks.get(&line.key) else {
            wrong.push(format!("{name} ran and was never granted"));
            continue;
        };
        if known.granted.is_some_and(|granted| line.at < granted) {
            wrong.push(format!("{name} wrote before it was granted"));
        }
        if known.released.is_some_and(|released| line.at > released) {
            wrong.push(format!(
                "{name} wrote after its devices were said to be free"
            ));
        }
    }
    wrong.extend(overlaps(&spans, history));
    wrong
}

/// Processes that had a device at the same time.
fn overlaps(spans: &BTreeMap<Key, Span>, history: &History) -> Vec<String> {
    let mut by_device: BTreeMap<(&str, &str), Vec<Use>> = BTreeMap::new();
    for (key, span) in spans {
        let (Some(start), Some(known)) = (span.start, history.ranks.get(key)) else {
            continue;
        };
        // Of one that was killed the last sign of life is its start.
        let end = span.end.unwrap_or(start);
        for device in &known.devices {
            by_device
                .entry((&known.worker, device))
                .or_default()
                .push((start, end, *key));
        }
    }
    let mut wrong = Vec::new();
    for ((worker, device), mut spans) in by_device {
        spans.sort_unstable();
        for pair in spans.windows(2) {
            if pair[1].0 < pair[0].1 {
                wrong.push(format!(
                    "{:?} and {:?} ran on {worker} {device} together",
                    pair[0].2, pair[1].2
                ));
            }
        }
    }
    wrong
}

/// How the accepted jobs ended.
#[derive(Debug, Clone, Default)]
pub struct Ends {
    pub jobs: usize,
    pub succeeded: usize,
    pub failed_as_meant: usize,
    pub cancelled_as_asked: usize,
    pub attempts: usize,
    /// Acknowledged, and not there, not through, or not as they should be.
    pub lost: Vec<String>,
    /// Results that are not what the committed attempt wrote.
    pub wrong_results: Vec<String>,
}

/// Looks each accepted job up, with the elements of arrays, and its result.
pub async fn look_up(channel: Channel, accepted: &[Accepted]) -> Result<Ends> {
    let mut ends = Ends::default();
    let mut client = JobsClient::new(channel.clone());
    for order in accepted {
        for id in &order.jobs {
            let detail = match client.get_job(GetJobRequest { id: *id }).await {
                Ok(detail) => detail.into_inner(),
                Err(status) if status.code() == Code::NotFound => {
                    ends.lost
                        .push(format!("job {id} ({}) is not there", order.kind));
                    continue;
                }
                Err(status) => return Err(status.into()),
            };
            let job = detail.job.context("a job has a row")?;
            let elements = match job.elements {
                Some(_) => elements(&mut client, job.id).await?,
                None => Vec::new(),
            };
            judge(&mut ends, order, &job);
            for element in &elements {
                judge(&mut ends, order, element);
            }
            let working = if elements.is_empty() {
                std::slice::from_ref(&job)
            } else {
                &elements
            };
            for job in working
                .iter()
                .filter(|job| order.writes && job.state() == JobState::Succeeded)
            {
                if let Some(wrong) = wrong_result(channel.clone(), job).await? {
                    ends.wrong_results.push(wrong);
                }
            }
        }
    }
    Ok(ends)
}

async fn elements(client: &mut JobsClient<Channel>, array: i64) -> Result<Vec<Job>> {
    let request = ListJobsRequest {
        array_job_id: array,
        page_size: 1_000,
        ..ListJobsRequest::default()
    };
    Ok(client.list_jobs(request).await?.into_inner().jobs)
}

fn judge(ends: &mut Ends, order: &Accepted, job: &Job) {
    ends.jobs += 1;
    ends.attempts += usize::try_from(job.attempt).unwrap_or(0);
    let class = job.failure.as_ref().map(marquee_proto::v1::Failure::class);
    match (job.state(), order.want) {
        (JobState::Succeeded, Want::Succeed | Want::Cancel) => ends.succeeded += 1,
        (JobState::Failed, Want::Fail) if class == Some(FailureClass::UserError) => {
            ends.failed_as_meant += 1
        }
        (JobState::Cancelled, Want::Cancel) => ends.cancelled_as_asked += 1,
        (state, want) => ends.lost.push(format!(
            "job {} ({}) is {} at attempt {}, and should {want:?}: {:?} {}",
            job.id,
            order.kind,
            state.as_str_name(),
            job.attempt,
            job.failure,
            job.reason,
        )),
    }
}

/// What is wrong with a job's result: it names the attempt that wrote it.
async fn wrong_result(channel: Channel, job: &Job) -> Result<Option<String>> {
    let mut client = ArtifactsClient::new(channel);
    let which = Some(Which::JobId(job.id));
    let artifact = match client.get_artifact(GetArtifactRequest { which }).await {
        Ok(artifact) => artifact.into_inner(),
        Err(status) if status.code() == Code::NotFound => {
            return Ok(Some(format!(
                "job {} succeeded without an artifact",
                job.id
            )));
        }
        Err(status) => return Err(status.into()),
    };
    let manifest = artifact.manifest.unwrap_or_default();
    let Some(file) = manifest.files.iter().find(|file| file.path == "result.txt") else {
        return Ok(Some(format!(
            "job {}: its artifact has no result.txt",
            job.id
        )));
    };
    let request = DownloadBlobRequest {
        digest: file.digest.clone(),
        offset: 0,
        size_bytes: Some(file.size_bytes),
        job_id: 0,
    };
    let mut chunks = client.download_blob(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.message().await? {
        bytes.extend_from_slice(&chunk.chunk);
    }
    let said = String::from_utf8_lossy(&bytes).trim().to_owned();
    let expected = format!("{} {}", job.id, artifact.attempt);
    Ok((said != expected).then(|| {
        format!(
            "job {}: attempt {} committed what \"{said}\" wrote",
            job.id, artifact.attempt
        )
    }))
}

/// Requests that were accepted twice, or that nobody was told of, and jobs with two commits.
#[must_use]
pub fn doubles(history: &History, accepted: &[Accepted]) -> Vec<String> {
    let known: BTreeSet<&str> = accepted
        .iter()
        .map(|order| order.request_id.as_str())
        .collect();
    let requests = history
        .requests
        .iter()
        .filter_map(|(request, count)| match count {
            1 if known.contains(request.as_str()) => None,
            1 => Some(format!(
                "request {request:?} is stored and was never acknowledged"
            )),
            more => Some(format!("request {request:?} was accepted {more} times")),
        });
    let commits = history
        .commits
        .iter()
        .filter(|(_, attempts)| attempts.len() > 1);
    let commits =
        commits.map(|(job, attempts)| format!("job {job} committed by attempts {attempts:?}"));
    requests.chain(commits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUDIT: &str = r#"{"what":"submitted","at":"2026-11-30T06:00:00Z","detail":{"request_id":"r"}}
{"what":"granted","job_id":1,"attempt":1,"rank":0,"at":"2026-11-30T06:00:01Z","worker_name":"w","detail":{"devices":[{"kind":"cpu","index":0}]}}
{"what":"released","job_id":1,"attempt":1,"rank":0,"at":"2026-11-30T06:00:09Z"}
{"what":"granted","job_id":2,"attempt":1,"rank":0,"at":"2026-11-30T06:00:01Z","worker_name":"w","detail":{"devices":[{"kind":"cpu","index":0}]}}
{"what":"committed","job_id":1,"attempt":1,"at":"2026-11-30T06:00:09Z"}"#;

    fn side(second: u32, word: &str, key: &str) -> SideLine {
        let at: DateTime<Utc> = format!("2026-11-30T06:00:{second:02}Z").parse().unwrap();
        side_line(&format!("{word} {key} {}.5", at.timestamp())).unwrap()
    }

    #[test]
    fn lines_that_agree_are_no_findings() {
        let history = read_audit(AUDIT).unwrap();
        let lines = [
            side(2, "start", "1 1 0"),
            side(8, "end", "1 1 0"),
            side(9, "start", "2 1 0"),
        ];
        assert_eq!(compare(&lines, &history), [] as [&str; 0]);
        assert_eq!(side_line("start 1 1"), None);
    }

    #[test]
    fn each_kind_of_disagreement_is_found() {
        let history = read_audit(AUDIT).unwrap();
        let found = |lines: &[SideLine]| compare(lines, &history).join("; ");
        assert!(found(&[side(0, "start", "1 1 0")]).contains("before it was granted"));
        assert!(found(&[side(10, "end", "1 1 0")]).contains("said to be free"));
        assert!(found(&[side(2, "start", "1 2 0")]).contains("never granted"));
        let twice = [side(2, "start", "1 1 0"), side(3, "start", "1 1 0")];
        assert!(found(&twice).contains("ran twice"));
        let together = [
            side(2, "start", "1 1 0"),
            side(8, "end", "1 1 0"),
            side(5, "start", "2 1 0"),
        ];
        assert!(found(&together).contains("together"));
    }

    #[test]
    fn doubles_are_named() {
        let mut history = read_audit(AUDIT).unwrap();
        let accepted = [Accepted {
            request_id: "r".into(),
            jobs: vec![1],
            kind: "chain",
            want: Want::Succeed,
            writes: true,
        }];
        assert_eq!(doubles(&history, &accepted), [] as [&str; 0]);
        assert_eq!(doubles(&history, &[]).len(), 1);
        history.commits.insert(1, vec![1, 2]);
        *history.requests.get_mut("r").unwrap() = 2;
        assert_eq!(doubles(&history, &accepted).len(), 2);
    }
}
