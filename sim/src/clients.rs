//! Those who use the cluster: they submit, cancel and retry, and ask again until they are answered. What they were
//! told is what the history must keep.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::DateTime;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::workers_client::WorkersClient;
use marquee_proto::{convert, v1};
use serde_json::json;
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::service_fn;

use crate::draw::Draw;
use crate::script::Script;
use crate::surroundings::{BEGIN, PORT, connect};
use crate::timeline::Timeline;

/// How long a client waits for an answer, and then before it asks again.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const ASK_EVERY: Duration = Duration::from_millis(400);
/// Requests come within this time.
const BUSY_MS: u64 = 14_000;

/// Elements of an array: as many as become jobs at once, and more than that.
const ELEMENTS_FEW: u64 = 4;
const ELEMENTS_MANY: u64 = 9;

/// Worlds in a hundred in which somebody empties a worker, and has it take jobs again.
const DRAINED: u64 = 30;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Submit {
        request: String,
        document: String,
        /// Jobs and elements that it makes.
        jobs: u64,
    },
    /// Of the pipeline that this request made, the job at this place.
    Cancel {
        request: String,
        place: usize,
    },
    Retry {
        request: String,
        place: usize,
    },
    /// The worker takes nothing new, and what runs there by the deadline is moved.
    Drain {
        worker: String,
        deadline_ms: u64,
    },
    /// It takes jobs again.
    Resume {
        worker: String,
    },
}

impl Wish {
    /// Which of so many clients has it: those of one pipeline, or one worker, have the same.
    #[must_use]
    pub fn owner(&self, clients: usize) -> usize {
        let (Self::Submit { request, .. }
        | Self::Cancel { request, .. }
        | Self::Retry { request, .. }
        | Self::Drain {
            worker: request, ..
        }
        | Self::Resume { worker: request }) = self;
        let number = request
            .rsplit('-')
            .next()
            .and_then(|number| number.parse().ok());
        number.unwrap_or(0_usize) % clients
    }
}

/// What somebody was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Submitted {
        request: String,
        pipeline: i64,
        /// Those of the document, without elements.
        jobs: Vec<i64>,
        /// With elements.
        count: u64,
    },
    Cancelled {
        job: i64,
        at_ms: u64,
    },
    Retried {
        job: i64,
        at_ms: u64,
    },
    Drained {
        worker: String,
    },
    Resumed {
        worker: String,
    },
    /// A final answer that was no.
    Refused {
        what: String,
    },
}

/// What all clients were told, in order.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Vec<Told>>>);

impl Ledger {
    /// All of it.
    #[must_use]
    pub fn entries(&self) -> Vec<Told> {
        self.lock().clone()
    }

    fn add(&self, told: Told) {
        self.lock().push(told);
    }

    fn jobs_of(&self, wanted: &str) -> Option<Vec<i64>> {
        self.lock().iter().find_map(|told| match told {
            Told::Submitted { request, jobs, .. } if request == wanted => Some(jobs.clone()),
            Told::Submitted { .. }
            | Told::Cancelled { .. }
            | Told::Retried { .. }
            | Told::Drained { .. }
            | Told::Resumed { .. }
            | Told::Refused { .. } => None,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is wished for in a world, with the millisecond of each.
#[must_use]
pub fn wishes(draw: &mut Draw) -> Vec<(u64, Wish)> {
    let mut wishes = Vec::new();
    for number in 0..draw.between(6, 14) {
        let request = format!("request-{number}");
        let at = draw.between(200, BUSY_MS);
        let is_endless = draw.chance(15);
        let (document, jobs, places) = if is_endless {
            // Others may have it make room, once it has run for long enough.
            let gives_way = draw.chance(60);
            let argv = Script::endless(draw).argv();
            let job = json!({ "kind": "command", "preemptible": gives_way, "argv": argv });
            let document =
                json!({ "name": format!("pipeline-{number}"), "jobs": { "endless": job } });
            (document.to_string(), 1, 1)
        } else {
            document(draw, number)
        };
        wishes.push((
            at,
            Wish::Submit {
                request: request.clone(),
                document,
                jobs,
            },
        ));
        // One for both: so a retry meets a job that is being cancelled, too.
        let place = draw.index(places);
        // An endless job is cancelled in any case, or its world would never come to rest.
        if is_endless || draw.chance(35) {
            let cancel = at + draw.between(1, 7_000);
            let request = request.clone();
            wishes.push((cancel, Wish::Cancel { request, place }));
        }
        if !is_endless && draw.chance(35) {
            let retry = at + draw.between(1_000, 9_000);
            wishes.push((retry, Wish::Retry { request, place }));
        }
    }
    if draw.chance(DRAINED) {
        // Every world has two.
        let worker = format!("worker-{}", draw.index(2));
        let at = draw.between(2_000, BUSY_MS);
        let deadline_ms = at + draw.between(0, 3_000);
        let back = at + draw.between(500, 8_000);
        let drain = Wish::Drain {
            worker: worker.clone(),
            deadline_ms,
        };
        wishes.extend([(at, drain), (back, Wish::Resume { worker })]);
    }
    wishes.sort_by_key(|(at, _)| *at);
    wishes
}

/// A document, how many jobs and elements it makes, and how many of them are in it.
fn document(draw: &mut Draw, number: u64) -> (String, u64, usize) {
    let priority = if draw.chance(30) {
        draw.between(1, 9)
    } else {
        0
    };
    let mut job = |ranks: u64| {
        json!({
            "kind": "command",
            "ranks": ranks,
            "priority": priority,
            "argv": Script::draw(draw).argv(),
        })
    };
    // In turn and not drawn, so that each world has most of the shapes.
    let (jobs, count) = match number % 5 {
        0 => (json!({ "one": job(1) }), 1),
        1 => {
            let (mut second, first) = (job(1), job(1));
            second["inputs"] = json!({ "before": "first.output" });
            let mut third = job(1);
            third["needs"] = json!(["second"]);
            (
                json!({ "first": first, "second": second, "third": third }),
                3,
            )
        }
        2 => (json!({ "gang": job(2) }), 1),
        3 => {
            let (mut many, mut after) = (job(1), job(1));
            after["needs"] = json!(["many"]);
            // Every second one has more elements than there are devices, so that some of it are no jobs for a while, and
            // waits for an earlier job, which may fail: then they never become any, or only with a retry.
            if number.is_multiple_of(2) {
                many["array"] = json!(ELEMENTS_MANY);
                many["needs"] = json!(["before"]);
                let before = job(1);
                (
                    json!({ "before": before, "many": many, "after": after }),
                    ELEMENTS_MANY + 3,
                )
            } else {
                many["array"] = json!(ELEMENTS_FEW);
                (json!({ "many": many, "after": after }), ELEMENTS_FEW + 2)
            }
        }
        _ => {
            let mut gang = job(3);
            gang["needs"] = json!(["first"]);
            (json!({ "first": job(1), "gang": gang }), 2)
        }
    };
    let places = jobs.as_object().map_or(1, serde_json::Map::len);
    let document = json!({ "name": format!("pipeline-{number}"), "jobs": jobs });
    (document.to_string(), count, places)
}

/// Somebody with one wish after another. Ends when each is answered.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) name: String,
    pub(crate) ledger: Ledger,
    pub(crate) timeline: Timeline,
    /// The hosts of all coordinators: who does not answer, or does not lead, is not asked again at once.
    pub(crate) coordinators: Vec<String>,
}

impl Client {
    pub(crate) async fn live(self, wishes: Vec<(u64, Wish)>) -> turmoil::Result {
        let mut channels = Vec::new();
        for host in &self.coordinators {
            let endpoint = Endpoint::from_shared(format!("http://{host}:{PORT}"))?
                .connect_timeout(ANSWER_WITHIN)
                .timeout(ANSWER_WITHIN)
                // So a connection that broke without a word is given up, and the next try has a new
                // one.
                .http2_keep_alive_interval(Duration::from_secs(2))
                .keep_alive_timeout(Duration::from_secs(2));
            // Not connected yet: a coordinator may be down when the world begins.
            channels.push(endpoint.connect_with_connector_lazy(service_fn(connect)));
        }
        for (at, wish) in wishes {
            let wait = at.saturating_sub(self.timeline.now_ms());
            sleep(Duration::from_millis(wait)).await;
            self.fulfil(&channels, &wish).await;
        }
        Ok(())
    }

    async fn fulfil(&self, channels: &[Channel], wish: &Wish) {
        let mut tries = 0;
        loop {
            let channel = &channels[tries % channels.len()];
            let mut jobs = JobsClient::new(channel.clone());
            let mut workers = WorkersClient::new(channel.clone());
            tries += 1;
            let answer = match wish {
                Wish::Submit {
                    request,
                    document,
                    jobs: count,
                } => {
                    let format = v1::document::Format::Json(document.clone());
                    // The same id at each try, also at another coordinator: `check` wants one
                    // pipeline of it.
                    let submitted = jobs.submit_pipeline(v1::SubmitPipelineRequest {
                        request_id: request.clone(),
                        document: Some(v1::Document {
                            format: Some(format),
                        }),
                        ..v1::SubmitPipelineRequest::default()
                    });
                    submitted.await.map(|answer| {
                        let answer = answer.into_inner();
                        Told::Submitted {
                            request: request.clone(),
                            pipeline: answer.pipeline_id,
                            jobs: answer.jobs.iter().map(|job| job.id).collect(),
                            count: *count,
                        }
                    })
                }
                Wish::Cancel { request, place } => {
                    let Some(job) = self.job(request, *place) else {
                        return;
                    };
                    let cancelled = jobs.cancel_job(v1::CancelJobRequest { id: job }).await;
                    let at_ms = self.timeline.now_ms();
                    cancelled.map(|_| Told::Cancelled { job, at_ms })
                }
                Wish::Retry { request, place } => {
                    let Some(job) = self.job(request, *place) else {
                        return;
                    };
                    let retried = jobs.retry_job(v1::RetryJobRequest { id: job }).await;
                    let at_ms = self.timeline.now_ms();
                    retried.map(|_| Told::Retried { job, at_ms })
                }
                Wish::Drain {
                    worker,
                    deadline_ms,
                } => {
                    let deadline = DateTime::from_timestamp(BEGIN, 0).unwrap_or_default()
                        + Duration::from_millis(*deadline_ms);
                    let drained = workers.drain_worker(v1::DrainWorkerRequest {
                        name: worker.clone(),
                        deadline: Some(convert::timestamp(deadline)),
                        reason: "to be cleaned".into(),
                    });
                    let worker = worker.clone();
                    drained.await.map(|_| Told::Drained { worker })
                }
                Wish::Resume { worker } => {
                    let name = worker.clone();
                    let resumed = workers.resume_worker(v1::ResumeWorkerRequest { name });
                    let worker = worker.clone();
                    resumed.await.map(|_| Told::Resumed { worker })
                }
            };
            match answer {
                Ok(told) => {
                    self.timeline.say(
                        &self.name,
                        format!("was told after {tries} tries: {told:?}"),
                    );
                    return self.ledger.add(told);
                }
                Err(status) if may_pass(&status) => sleep(ASK_EVERY).await,
                Err(status) => {
                    let what = format!("{wish:?}: {:?} {}", status.code(), status.message());
                    self.timeline.say(
                        &self.name,
                        format!("was refused after {tries} tries: {what}"),
                    );
                    return self.ledger.add(Told::Refused { what });
                }
            }
        }
    }

    /// None: its pipeline was refused.
    fn job(&self, request: &str, place: usize) -> Option<i64> {
        self.ledger.jobs_of(request)?.get(place).copied()
    }
}

/// Whether the request may have another answer, or the same one, when it is asked again.
fn may_pass(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::Aborted
    )
}
