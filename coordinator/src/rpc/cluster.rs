//! The cluster as a whole.

mod overview;
mod usage;

pub(crate) use overview::devices;

use std::collections::BTreeSet;

use marquee_proto::v1;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::jobs::follow::{BUFFERED_MAX, News};
use crate::app::App;
use crate::caller::Caller;

/// The service.
#[derive(Debug)]
pub(super) struct ClusterService {
    app: App,
}

impl ClusterService {
    pub(super) fn new(app: App) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl v1::cluster_server::Cluster for ClusterService {
    type WatchOverviewStream = ReceiverStream<Result<v1::Overview, Status>>;

    async fn get_overview(
        &self,
        request: Request<v1::GetOverviewRequest>,
    ) -> Result<Response<v1::Overview>, Status> {
        let caller = Caller::of(&request);
        Ok(Response::new(overview::look(&self.app, &caller).await?))
    }

    async fn watch_overview(
        &self,
        request: Request<v1::WatchOverviewRequest>,
    ) -> Result<Response<Self::WatchOverviewStream>, Status> {
        let caller = Caller::of(&request);
        // Before the first look: what changes during it is news, and must not be missed.
        let news = News::new(&self.app);
        let first = overview::look(&self.app, &caller).await?;
        let (sender, receiver) = mpsc::channel(BUFFERED_MAX);
        tokio::spawn(watch(self.app.clone(), caller, news, first, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_usage(
        &self,
        request: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::Usage>, Status> {
        let caller = Caller::of(&request);
        Ok(Response::new(
            usage::look(&self.app, request.into_inner(), &caller).await?,
        ))
    }

    async fn get_gpu_history(
        &self,
        request: Request<v1::GetGpuHistoryRequest>,
    ) -> Result<Response<v1::GpuHistory>, Status> {
        let name = request.into_inner().worker_name;
        let worker = {
            let open = self.app.index.open();
            let mut named = open.workers.iter().filter(|worker| worker.name == name);
            named.next_back().map(|worker| worker.id)
        };
        let past = worker.map(|id| self.app.sessions.gpu_past(id));
        let gpus = past.unwrap_or_default().into_iter();
        let gpus = gpus.map(|(index, samples)| v1::GpuPast {
            index,
            samples: samples.into_iter().map(Into::into).collect(),
        });
        Ok(Response::new(v1::GpuHistory {
            gpus: gpus.collect(),
        }))
    }

    async fn list_settings(
        &self,
        _: Request<v1::ListSettingsRequest>,
    ) -> Result<Response<v1::ListSettingsResponse>, Status> {
        let encode = |setting: &marquee_settings::Setting| v1::Setting {
            key: setting.key.to_owned(),
            value: setting.value.clone().unwrap_or_default(),
            origin: setting.origin.clone(),
        };
        let listing = self.app.walls.listing.get();
        let settings = listing.iter().map(encode).collect();
        Ok(Response::new(v1::ListSettingsResponse { settings }))
    }
}

/// Sends what changed, at most once a second, until the reader goes away or the coordinator stops.
async fn watch(
    app: App,
    caller: Caller,
    mut news: News,
    first: v1::Overview,
    sender: mpsc::Sender<Result<v1::Overview, Status>>,
) {
    let mut sent = first.clone();
    if sender.send(Ok(first)).await.is_err() {
        return;
    }
    let mut sent_at = Instant::now();
    // None of the jobs in particular: it looks once a second by itself.
    let none = BTreeSet::new();
    while news.next(&none, &sender).await.is_ok() {
        let now = match news.seen(overview::look(&app, &caller).await) {
            Ok(Some(now)) => now,
            // Postgres is away.
            Ok(None) => continue,
            Err(status) => {
                let _ = sender.send(Err(status)).await;
                return;
            }
        };
        // The time alone is no news, but a sign of life now and then.
        let is_same = v1::Overview {
            now: sent.now,
            ..now.clone()
        } == sent;
        if is_same && sent_at.elapsed() < overview::SIGN_OF_LIFE_EVERY {
            continue;
        }
        sent = now.clone();
        sent_at = Instant::now();
        if sender.send(Ok(now)).await.is_err() {
            return;
        }
    }
}
