//! What users may ask about workers.

use std::collections::BTreeMap;

use marquee_domain::ids::WorkerId;
use marquee_proto::convert::timestamp;
use marquee_proto::v1;
use marquee_store::ranks::{self, HeldDevices};
use marquee_store::workers::{self, Worker, WorkerState};
use tonic::{Request, Response, Status};

use crate::app::App;
use crate::lifecycle::LifecycleError;

/// The service.
#[derive(Debug)]
pub(super) struct WorkersService {
    app: App,
}

impl WorkersService {
    pub(super) fn new(app: App) -> Self {
        Self { app }
    }

    async fn list(&self) -> Result<Vec<v1::Worker>, LifecycleError> {
        let mut conn = self.app.db.read().await?;
        let workers = workers::list_workers(&mut conn).await?;
        let mut held: BTreeMap<WorkerId, Vec<v1::RunningRank>> = BTreeMap::new();
        for rank in ranks::list_held_devices(&mut conn).await? {
            held.entry(rank.worker).or_default().push(encode_rank(rank));
        }
        let with_ranks = |worker: Worker| {
            let ranks = held.remove(&worker.id).unwrap_or_default();
            let gpus = self.app.sessions.gpus(worker.id);
            encode(worker, ranks, gpus)
        };
        Ok(workers.into_iter().map(with_ranks).collect())
    }
}

#[tonic::async_trait]
impl v1::workers_server::Workers for WorkersService {
    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let workers = self.list().await?;
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn probe(
        &self,
        _: Request<v1::ProbeRequest>,
    ) -> Result<Response<v1::ProbeResponse>, Status> {
        Ok(Response::new(v1::ProbeResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            now: Some(timestamp(self.app.clock.now())),
        }))
    }
}

fn encode(worker: Worker, ranks: Vec<v1::RunningRank>, gpus: Vec<v1::GpuReading>) -> v1::Worker {
    let state = match worker.state {
        WorkerState::Online => v1::WorkerState::Online,
        WorkerState::Lost => v1::WorkerState::Lost,
        WorkerState::Left => v1::WorkerState::Left,
    };
    v1::Worker {
        id: worker.id.to_string(),
        name: worker.name,
        state: state.into(),
        inventory: Some((&worker.inventory).into()),
        version: worker.version,
        last_seen_at: Some(timestamp(worker.last_seen_at)),
        ranks,
        gpus,
    }
}

fn encode_rank(rank: HeldDevices) -> v1::RunningRank {
    v1::RunningRank {
        job_id: rank.key.job.0,
        job_name: rank.job_name.to_string(),
        attempt: rank.key.attempt.0,
        rank: rank.key.rank.0,
        devices: rank.devices.iter().map(v1::Device::from).collect(),
    }
}
