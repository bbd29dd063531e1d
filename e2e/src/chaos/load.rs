//! What the cluster works on meanwhile, and what each job writes down of itself.
//!
//! Every attempt of every rank adds a line at its start and one at its end to one file that all share (the side file):
//! what the jobs say, beside what the cluster says.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::{CancelJobRequest, JobState, ListJobsRequest, SubmitPipelineRequest};
use tokio::sync::Mutex;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::dice::Dice;
use crate::jobs::request;

/// Open jobs beyond which no more are submitted: the end of a run must not wait for a backlog.
const OPEN_MAX: usize = 40;
const ASK_WITHIN: Duration = Duration::from_secs(5);
const AGAIN_AFTER: Duration = Duration::from_millis(300);

/// One line is one write: lines of many processes do not mix.
const SCRIPT: &str = r#"
say() { printf '%s %s %s %s %s\n' "$1" "$MARQUEE_JOB" "$MARQUEE_ATTEMPT" "$RANK" "$(date +%s.%N)" >> "$CHAOS_SIDE"; }
say start
n=0
while [ "$n" -lt "$CHAOS_STEPS" ]; do sleep 0.2; n=$((n + 1)); done
if [ "$RANK" = 0 ]; then echo "$MARQUEE_JOB $MARQUEE_ATTEMPT" > "$MARQUEE_OUTPUT/result.txt"; fi
say end
exit "$CHAOS_EXIT"
"#;

/// The side file of a site in `folder`.
pub(super) fn side_file(folder: &Path) -> PathBuf {
    folder.join("side")
}

/// How a job should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Succeed,
    /// It leaves with an error of its own.
    Fail,
    /// A user cancels it; where that comes too late it succeeds.
    Cancel,
}

/// A submission that was acknowledged.
#[derive(Debug, Clone)]
pub struct Accepted {
    pub request_id: String,
    pub jobs: Vec<i64>,
    pub kind: &'static str,
    pub want: Want,
    /// Jobs that write to the side file, and a result.
    pub writes: bool,
}

/// A pipeline to submit.
#[derive(Debug, Clone)]
pub struct Order {
    pub kind: &'static str,
    pub want: Want,
    pub toml: String,
    pub overrides: Vec<(String, String)>,
    pub writes: bool,
}

/// Submits, cancels, and counts what is open.
#[derive(Debug, Clone)]
pub struct Load {
    urls: Vec<String>,
    side: PathBuf,
    accepted: Arc<Mutex<Vec<Accepted>>>,
    open: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// For clients that reach the coordinators at `urls`.
    #[must_use]
    pub fn new(urls: Vec<String>, folder: &Path) -> Self {
        Self {
            urls,
            side: side_file(folder),
            accepted: Arc::default(),
            open: Arc::default(),
            stop: Arc::default(),
        }
    }

    #[must_use]
    pub fn side(&self) -> &Path {
        &self.side
    }

    pub async fn accepted(&self) -> Vec<Accepted> {
        self.accepted.lock().await.clone()
    }

    /// Submits no more.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Submits until it is told to stop; returns when the last submission was answered.
    pub async fn run(self, mut dice: Dice, seed: u64) -> Result<()> {
        let mut number = 0;
        let mut cancels = tokio::task::JoinSet::new();
        while !self.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(dice.millis(300, 1_500)).await;
            if self.count_open().await.is_none_or(|open| open > OPEN_MAX) {
                continue;
            }
            number += 1;
            let order = self.draw(&mut dice);
            let accepted = self
                .submit(&format!("chaos-{seed}-{number}"), &order)
                .await?;
            if order.want == Want::Cancel {
                let (load, after) = (self.clone(), dice.millis(200, 6_000));
                cancels.spawn(async move {
                    tokio::time::sleep(after).await;
                    for job in accepted.jobs {
                        load.cancel(job).await;
                    }
                });
            }
        }
        while cancels.join_next().await.is_some() {}
        Ok(())
    }

    fn draw(&self, dice: &mut Dice) -> Order {
        let job = |name: &str, steps: usize, exit: u32, more: &str| {
            format!(
                "[jobs.{name}]\nkind = \"command\"\nmax_attempts = 100\n{more}argv = [\"sh\", \"-c\", '''{SCRIPT}''']\n\
                 env = {{ CHAOS_SIDE = {:?}, CHAOS_STEPS = \"{steps}\", CHAOS_EXIT = \"{exit}\" }}\n",
                self.side
            )
        };
        let (kind, want, body) = match dice.below(20) {
            0..8 => {
                let steps = dice.below(4);
                let chain = job("a", steps, 0, "")
                    + &job("b", 1, 0, "needs = [\"a\"]\n")
                    + &job("c", 0, 0, "needs = [\"b\"]\n");
                ("chain", Want::Succeed, chain)
            }
            8..12 => {
                let size = 2 + dice.below(7);
                let array = job("array", 1, 0, &format!("array = {size}\n"));
                ("array", Want::Succeed, array)
            }
            12..17 => {
                let gang = job("gang", 5 + dice.below(20), 0, "ranks = 2\n");
                ("gang", Want::Succeed, gang)
            }
            17 => ("failing", Want::Fail, job("failing", 0, 3, "")),
            _ => (
                "cancelled",
                Want::Cancel,
                job("long", 300, 0, "ranks = 2\n"),
            ),
        };
        Order {
            kind,
            want,
            toml: format!("name = \"{kind}\"\n{body}"),
            overrides: Vec::new(),
            writes: true,
        }
    }

    /// Submits until it is acknowledged, with the same request id each time, as the CLI does.
    pub async fn submit(&self, request_id: &str, order: &Order) -> Result<Accepted> {
        let overrides: Vec<(&str, &str)> = order
            .overrides
            .iter()
            .map(|(path, value)| (path.as_str(), value.as_str()))
            .collect();
        let request = request(request_id, &order.toml, &overrides);
        let answer = loop {
            match self.try_submit(&request).await {
                Ok(answer) => break answer,
                Err(status) if is_final(&status) => {
                    return Err(status).context(format!("{} was refused", order.kind));
                }
                Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
            }
        };
        let accepted = Accepted {
            request_id: request_id.to_owned(),
            jobs: answer.jobs.iter().map(|job| job.id).collect(),
            kind: order.kind,
            want: order.want,
            writes: order.writes,
        };
        self.accepted.lock().await.push(accepted.clone());
        Ok(accepted)
    }

    async fn try_submit(
        &self,
        request: &SubmitPipelineRequest,
    ) -> std::result::Result<marquee_proto::v1::SubmitResponse, tonic::Status> {
        let mut last = tonic::Status::unavailable("there is no coordinator");
        for url in &self.urls {
            match client(url).submit_pipeline(request.clone()).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => last = status,
            }
        }
        Err(last)
    }

    async fn cancel(&self, id: i64) {
        loop {
            for url in &self.urls {
                match client(url).cancel_job(CancelJobRequest { id }).await {
                    Ok(_) => return,
                    // It was through before.
                    Err(status) if is_final(&status) => return,
                    Err(_) => {}
                }
            }
            if self.count_open().await == Some(0) {
                return;
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// Jobs that have not ended. None: nobody answers.
    pub async fn count_open(&self) -> Option<usize> {
        let request = ListJobsRequest {
            states: [JobState::Waiting, JobState::Queued, JobState::Running]
                .map(Into::into)
                .to_vec(),
            page_size: 1_000,
            ..ListJobsRequest::default()
        };
        for url in &self.urls {
            if let Ok(answer) = client(url).list_jobs(request.clone()).await {
                let open = answer.into_inner().jobs.len();
                self.open.store(open, Ordering::Relaxed);
                return Some(open);
            }
        }
        None
    }
}

/// Whether asking again cannot help.
fn is_final(status: &tonic::Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition
    )
}

fn client(url: &str) -> JobsClient<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned()).expect("the URL is made here");
    let channel = endpoint
        .connect_timeout(ASK_WITHIN)
        .timeout(ASK_WITHIN)
        .connect_lazy();
    JobsClient::new(channel)
}
