//! What is asked of the coordinator while the screen is up: one stream of the cluster, and with each word of it what
//! the shown page needs beyond.
//!
//! Nothing is asked on a clock of its own: a cluster in which nothing happens costs a sign of life every 5 s.

use std::time::Duration;

use marquee_proto::v1::{self, Overview};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use super::facts::{CURVE_VALUES, Curves, LOG_FIRST, Listing, Log, Look, News, Query, SharedLog};
use super::state::{Place, Wanted};
use crate::client::{Remote, Repeat, cause, quick};
use crate::error::{CliError, Result};
use crate::requests;

/// Between two tries to connect again.
const RECONNECT_EVERY: Duration = Duration::from_millis(500);
/// The stream has a sign of life every 5 s: after three that are missing the way to the coordinator is broken.
const SILENT_MAX: Duration = Duration::from_secs(15);
/// Pages are asked for again at most this often, however much happens.
const LOOK_EVERY: Duration = Duration::from_millis(900);
/// Curves, which change slowly and are many.
const CURVES_EVERY: Duration = Duration::from_secs(5);
/// Jobs of one answer: more are found by searching.
const JOBS_SHOWN: u32 = 500;
/// News that wait for the screen; then the stream waits for it.
const NEWS_MAX: usize = 64;
/// What training calls its loss and its rate; and what a program that is no trainer of ours calls its loss.
const LOSSES: [&str; 2] = ["train/loss", "loss"];
const RATE: &str = "train/images_per_second";

/// What follows the cluster. Dropped, it ends. Its tasks are of the thread that draws: a slow line to the terminal
/// holds them up too, so that nothing piles up.
#[derive(Debug)]
pub(super) struct Feed {
    pub news: mpsc::Receiver<News>,
    wanted: watch::Sender<Wanted>,
    sender: mpsc::Sender<News>,
    remote: Remote,
    tasks: [JoinHandle<()>; 2],
    log: Option<JoinHandle<()>>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        for task in self.tasks.iter().chain(&self.log) {
            task.abort();
        }
    }
}

impl Feed {
    pub(super) fn start(remote: &Remote) -> Self {
        let (sender, news) = mpsc::channel(NEWS_MAX);
        let (wanted, asked) = watch::channel(Wanted::default());
        // A watch and not a queue: pages ask for what is shown now, and pictures of the cluster
        // that were missed matter to nobody.
        let (latest, beats) = watch::channel(None);
        let stream = spawn_local(follow(remote.clone(), sender.clone(), latest));
        let pages = spawn_local(look(remote.clone(), sender.clone(), asked, beats));
        Self {
            news,
            wanted,
            sender,
            remote: remote.clone(),
            tasks: [stream, pages],
            log: None,
        }
    }

    /// Another page is shown.
    pub(super) fn want(&mut self, wanted: Wanted, log: &SharedLog) {
        let followed = *self.wanted.borrow() == wanted;
        if followed {
            return;
        }
        if let Some(task) = self.log.take() {
            task.abort();
        }
        if let Place::Log(job) = wanted.place {
            let task = follow_log(
                self.remote.clone(),
                self.sender.clone(),
                log.clone(),
                job,
                wanted.rank,
            );
            self.log = Some(spawn_local(task));
        }
        self.wanted.send_replace(wanted);
    }

    /// Asks for a job to be cancelled, and says what came of it.
    pub(super) fn cancel(&self, id: i64) {
        let (remote, sender) = (self.remote.clone(), self.sender.clone());
        spawn_local(async move {
            let request = v1::CancelJobRequest { id };
            let asked = remote.call(Repeat::Unsafe, async || {
                remote.jobs().cancel_job(quick(request)).await
            });
            let news = match asked.await {
                Ok(job) if marquee_view::words::has_ended(&job) => {
                    News::Said(format!("job {id} is cancelled"))
                }
                Ok(_) => News::Said(format!("job {id} is being cancelled")),
                Err(error) => News::Trouble(error.to_string()),
            };
            let _ = sender.send(news).await;
        });
    }
}

/// The stream of the cluster, begun again for as long as the screen is up.
async fn follow(
    remote: Remote,
    sender: mpsc::Sender<News>,
    latest: watch::Sender<Option<Overview>>,
) {
    loop {
        let status = match follow_once(&remote, &sender, &latest).await {
            Ok(()) => Status::new(Code::Unavailable, "the coordinator is stopping"),
            Err(status) => status,
        };
        // Where several coordinators are known, the next one is asked.
        remote.may_pass(&status);
        if sender.send(News::Lost(cause(&status))).await.is_err() {
            return;
        }
        sleep(RECONNECT_EVERY).await;
    }
}

async fn follow_once(
    remote: &Remote,
    sender: &mpsc::Sender<News>,
    latest: &watch::Sender<Option<Overview>>,
) -> Result<(), Status> {
    let request = v1::WatchOverviewRequest {};
    let silent = |_| Status::new(Code::Unavailable, "nothing was heard from it for 15 s");
    let opened = timeout(SILENT_MAX, remote.cluster().watch_overview(request)).await;
    let mut stream = opened.map_err(silent)??.into_inner();
    loop {
        let message = timeout(SILENT_MAX, stream.message()).await;
        let Some(overview) = message.map_err(silent)?? else {
            return Ok(());
        };
        // Who stands by knows neither queue nor workers: the one that leads is asked from now on.
        if overview.stands_by && !overview.leader.is_empty() && remote.turn_to(&overview.leader) {
            return Err(Status::new(Code::Unavailable, "another coordinator leads"));
        }
        latest.send_replace(Some(overview.clone()));
        let news = News::Overview(Box::new(overview));
        if sender.send(news).await.is_err() {
            return Ok(());
        }
    }
}

/// Asks for what the shown page needs, whenever the cluster has changed or another page is shown.
async fn look(
    remote: Remote,
    sender: mpsc::Sender<News>,
    mut wanted: watch::Receiver<Wanted>,
    mut beats: watch::Receiver<Option<Overview>>,
) {
    let mut curves_at: Option<Instant> = None;
    let mut before = Place::default();
    loop {
        let now = wanted.borrow_and_update().clone();
        let overview = beats.borrow_and_update().clone();
        if let Some(overview) = overview {
            // Curves are asked for at once on another page; on the same one they change too slowly
            // to be worth it each time.
            let is_other = std::mem::replace(&mut before, now.place.clone()) != now.place;
            let curves_due = is_other || curves_at.is_none_or(|at| at.elapsed() >= CURVES_EVERY);
            if curves_due {
                curves_at = Some(Instant::now());
            }
            match page(&remote, &sender, &now.place, &overview, curves_due).await {
                Ok(()) => {}
                // That the way is broken, the stream says.
                Err(CliError::Unreachable { .. }) => {}
                Err(error) => {
                    let _ = sender.send(News::Trouble(error.to_string())).await;
                }
            }
        }
        let changed = async {
            tokio::select! {
                beat = async {
                    // The pause is for news of the cluster alone: another page is asked for at
                    // once.
                    sleep(LOOK_EVERY).await;
                    beats.changed().await
                } => beat,
                change = wanted.changed() => change,
            }
        };
        if changed.await.is_err() {
            return;
        }
    }
}

/// Everything of one page.
async fn page(
    remote: &Remote,
    sender: &mpsc::Sender<News>,
    place: &Place,
    overview: &Overview,
    curves_due: bool,
) -> Result<()> {
    let tell = async |news| {
        let _ = sender.send(news).await;
    };
    match place {
        Place::Overview => {
            tell(News::Workers(requests::workers::list(remote).await?)).await;
            if curves_due {
                for job in &overview.running {
                    if let Some(curves) = curves(remote, job).await? {
                        tell(News::Curves(job.id, curves)).await;
                    }
                }
            }
        }
        Place::Hosts | Place::Gpus | Place::Host(_) => {
            tell(News::Workers(requests::workers::list(remote).await?)).await;
        }
        Place::Jobs(query) => tell(News::Jobs(list(remote, query).await?)).await,
        Place::Job(id) | Place::Log(id) => {
            let detail = requests::jobs::get(remote, *id).await?;
            let request = v1::ExplainRequest { job_id: *id };
            let why = remote.call(Repeat::Safe, async || {
                remote.jobs().explain(quick(request)).await
            });
            let why = why.await?;
            let job = detail.job.clone();
            tell(News::Look(Box::new(Look { detail, why }))).await;
            if curves_due
                && let Some(job) = job
                && let Some(curves) = curves(remote, &job).await?
            {
                tell(News::Curves(job.id, curves)).await;
            }
        }
    }
    Ok(())
}

async fn list(remote: &Remote, query: &Query) -> Result<Listing> {
    let request = v1::ListJobsRequest {
        states: query.filter.states().into_iter().map(Into::into).collect(),
        text: query.text.clone(),
        array_job_id: query.array,
        page_size: JOBS_SHOWN,
        with_total: true,
        ..v1::ListJobsRequest::default()
    };
    let answer = remote.call(Repeat::Safe, async || {
        remote.jobs().list_jobs(quick(request.clone())).await
    });
    let answer = answer.await?;
    Ok(Listing {
        query: query.clone(),
        jobs: answer.jobs,
        total: answer.total,
    })
}

/// The course of a job that may store one. Rank 0 tells of all: the gradient is the same, and so is the pace.
pub(super) async fn curves(remote: &Remote, job: &v1::Job) -> Result<Option<Curves>> {
    if !matches!(job.kind(), v1::JobKind::Train | v1::JobKind::Command) || job.attempt == 0 {
        return Ok(None);
    }
    let request = v1::SeriesRequest {
        job_id: job.id,
        rank: Some(0),
        names: LOSSES
            .iter()
            .chain(&[RATE])
            .map(|name| (*name).to_owned())
            .collect(),
        max_points: CURVE_VALUES,
        ..v1::SeriesRequest::default()
    };
    let answer = remote.call(Repeat::Safe, async || {
        remote.jobs().series(quick(request.clone())).await
    });
    let series = answer.await?.series;
    let named = |names: &[&str]| {
        let found = series
            .iter()
            .find(|series| names.contains(&series.name.as_str()));
        found.map(|series| series.means.clone()).unwrap_or_default()
    };
    Ok(Some(Curves {
        loss: named(&LOSSES),
        rate: named(&[RATE]),
    }))
}

async fn follow_log(
    remote: Remote,
    sender: mpsc::Sender<News>,
    log: SharedLog,
    job_id: i64,
    rank: Option<u32>,
) {
    let request = v1::LogsRequest {
        job_id,
        rank,
        follow: true,
        tail: LOG_FIRST,
        ..v1::LogsRequest::default()
    };
    let end = loop {
        let outcome = requests::logs::each(&remote, request, |line| {
            log.push(line);
            // Where the channel is full the screen is to be drawn anyhow, and then shows this line too.
            let _ = sender.try_send(News::Log);
            Ok(())
        });
        match outcome.await {
            Ok(()) => break "the job has ended".to_owned(),
            // The screen is up for as long as the user wants: it begins anew when there is a coordinator again.
            Err(CliError::Unreachable { .. }) => {
                sleep(RECONNECT_EVERY).await;
                // It comes anew from its beginning, and would stand there twice.
                *log.lock() = Log::default();
            }
            Err(error) => break error.to_string(),
        }
    };
    log.lock().end = Some(end);
    let _ = sender.send(News::Log).await;
}
