//! What users may ask about workers.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::gpu::GpuReading;
use marquee_domain::ids::{JobId, JobName, WorkerId};
use marquee_domain::limits::{HOST_GPUS_MAX, REASON_MAX_BYTES, REQUEST_ID_MAX_BYTES};
use marquee_domain::standing::{Decision, Drain, GpuQuarantine, Standing};
use marquee_proto::convert::{self, BadField, timestamp};
use marquee_proto::gpu::evidence_to_wire;
use marquee_proto::v1;
use marquee_store::jobs;
use marquee_store::leader::{self, Living};
use marquee_store::open::{self, HeldRank, Which};
use marquee_store::workers::{self, WhichWorkers, Worker, WorkerState};
use tonic::{Request, Response, Status};

use super::scope;
use crate::app::App;
use crate::caller::Caller;
use crate::lifecycle::{self, BURN_IN_MINUTES, BURN_IN_MINUTES_MAX, LifecycleError, WantedBurnIn};

/// In place of the name of a job that whoever asks may not look at.
const OF_OTHERS: &str = "(another project's)";
/// Longest maintenance window, and how far ahead one may begin: beyond, a slip of the hand is likelier than a wish.
const WINDOW_MAX: TimeDelta = TimeDelta::days(30);
const WINDOW_AHEAD_MAX: TimeDelta = TimeDelta::days(366);

/// The service.
#[derive(Debug)]
pub(super) struct WorkersService {
    app: App,
}

impl WorkersService {
    pub(super) fn new(app: App) -> Self {
        Self { app }
    }

    /// Every worker. Of what runs there, jobs that the caller may not look at have no name.
    async fn list(&self, caller: &Caller) -> Result<Vec<v1::Worker>, LifecycleError> {
        let mut conn = self.app.db.read().await?;
        let workers = workers::list_workers(&mut conn, WhichWorkers::Ever).await?;
        let ranks = open::list_held_ranks(&mut conn, Which::All).await?;
        let jobs: BTreeSet<JobId> = ranks.iter().map(|rank| rank.key.job).collect();
        let jobs: Vec<JobId> = jobs.into_iter().collect();
        let jobs = scope::visible(&mut conn, caller, &jobs).await?;
        let names: BTreeMap<JobId, JobName> = jobs::list_job_names(&mut conn, &jobs)
            .await?
            .into_iter()
            .collect();
        let mut held: BTreeMap<WorkerId, Vec<v1::RunningRank>> = BTreeMap::new();
        for rank in ranks {
            let encoded = match names.get(&rank.key.job) {
                Some(name) => encode_rank(&rank, name.to_string()),
                // Its job was removed between the two questions; the devices are held all the same.
                None if jobs.contains(&rank.key.job) => encode_rank(&rank, String::new()),
                // Its devices are shown, since they are taken from everybody; which job it is is
                // its project's business.
                None => v1::RunningRank {
                    job_id: 0,
                    ..encode_rank(&rank, OF_OTHERS.to_owned())
                },
            };
            held.entry(rank.worker).or_default().push(encoded);
        }
        let now = self.app.clock.now();
        let with_ranks = |worker: Worker| {
            let ranks = held.remove(&worker.id).unwrap_or_default();
            let gpus = self.app.sessions.gpus(worker.id);
            let rival = self.app.sessions.rival(worker.id).unwrap_or_default();
            let cache = self.app.sessions.cache(worker.id);
            let ahead = self.app.sessions.clock_ahead(worker.id);
            v1::Worker {
                rival,
                cache,
                clock_ahead_ms: ahead.map(|ahead| ahead.num_milliseconds()),
                ..encode(worker, ranks, gpus, now)
            }
        };
        Ok(workers.into_iter().map(with_ranks).collect())
    }

    fn decision(&self, caller: &Caller, reason: String) -> Result<Decision, BadField> {
        let reason = convert::text("reason", reason, REASON_MAX_BYTES)?;
        Ok(Decision {
            by: caller.to_string(),
            at: self.app.clock.now(),
            reason,
        })
    }

    async fn set_standing(
        &self,
        name: &str,
        text: &str,
        caller: &Caller,
        change: impl FnOnce(&mut Standing) -> Result<(), String>,
    ) -> Result<Response<v1::Worker>, Status> {
        let by = caller.to_string();
        let id = lifecycle::set_standing(&self.app, name, text, &by, change).await?;
        let id = id.to_string();
        // Read again, as everybody else will see it.
        let workers = self.list(caller).await?;
        let worker = workers.into_iter().find(|worker| worker.id == id);
        let gone = || LifecycleError::WorkerNotFound(name.to_owned());
        Ok(Response::new(worker.ok_or_else(gone)?))
    }
}

impl WorkersService {
    /// The UUID of a worker's GPU, and when its worker saw the newest evidence against it. A share is known by its
    /// number: its UUID is that of others, too.
    fn gpu(&self, name: &str, index: u32) -> Option<(String, Option<DateTime<Utc>>)> {
        let open = self.app.index.open();
        let mut here = open.workers.iter();
        let worker =
            here.find(|worker| worker.name == name && worker.state != WorkerState::Left)?;
        let gpus = &worker.inventory.as_ref().ok()?.gpus;
        let uuid = &gpus.iter().find(|gpu| gpu.index == index)?.uuid;
        let seen = lifecycle::newest_evidence(&self.app.sessions.gpus(worker.id), uuid);
        let is_shared = gpus.iter().filter(|gpu| gpu.uuid == *uuid).count() > 1;
        let by_evidence = worker.standing.as_ref().is_ok_and(|standing| {
            standing
                .quarantine_of(index, uuid)
                .is_some_and(|(_, of)| !of.evidence.is_empty())
        });
        // What evidence closed is all of them.
        let uuid = if is_shared && !by_evidence {
            String::new()
        } else {
            uuid.clone()
        };
        Some((uuid, seen))
    }

    async fn coordinators(&self) -> Result<v1::ListCoordinatorsResponse, LifecycleError> {
        let app = &self.app;
        let mut conn = app.db.read().await?;
        let (leader, living) = leader::list_coordinators(&mut conn, &app.clock).await?;
        let leaderless = leader.process.is_none() || leader.has_expired;
        let encode = |living: Living| v1::Coordinator {
            // One whose lease ran out is not the leader any more, whether it knows that or not.
            leads: !leaderless && Some(living.process) == leader.process,
            other_storage: leader
                .storage
                .is_some_and(|theirs| theirs != living.storage),
            answers: living.process == app.process,
            address: living.address,
            version: living.version,
            since: Some(timestamp(living.since)),
        };
        Ok(v1::ListCoordinatorsResponse {
            coordinators: living.into_iter().map(encode).collect(),
            epoch: u64::try_from(leader.epoch).unwrap_or(0),
            leader: leader.address,
            leaderless,
        })
    }
}

#[tonic::async_trait]
impl v1::workers_server::Workers for WorkersService {
    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let workers = self.list(&Caller::of(&request)).await?;
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn list_coordinators(
        &self,
        _: Request<v1::ListCoordinatorsRequest>,
    ) -> Result<Response<v1::ListCoordinatorsResponse>, Status> {
        Ok(Response::new(self.coordinators().await?))
    }

    async fn drain_worker(
        &self,
        request: Request<v1::DrainWorkerRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        let caller = Caller::of(&request);
        let v1::DrainWorkerRequest {
            name,
            deadline,
            reason,
        } = request.into_inner();
        let deadline = deadline.as_ref().map(convert::datetime).transpose()?;
        let decision = self.decision(&caller, reason)?;
        let drain = Drain { decision, deadline };
        let text = match deadline {
            Some(at) => format!(
                "is drained; what runs at {} UTC is moved",
                at.format("%Y-%m-%d %H:%M:%S")
            ),
            None => "is drained: what runs finishes".to_owned(),
        };
        let change = |standing: &mut Standing| {
            standing.drain = Some(drain);
            Ok(())
        };
        self.set_standing(&name, &text, &caller, change).await
    }

    async fn resume_worker(
        &self,
        request: Request<v1::ResumeWorkerRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        let caller = Caller::of(&request);
        let name = request.into_inner().name;
        let change = |standing: &mut Standing| {
            standing.drain = None;
            Ok(())
        };
        self.set_standing(&name, "is drained no more", &caller, change)
            .await
    }

    async fn quarantine_worker(
        &self,
        request: Request<v1::QuarantineWorkerRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        let caller = Caller::of(&request);
        let v1::QuarantineWorkerRequest {
            name,
            gpu,
            reason,
            lift,
        } = request.into_inner();
        // By the largest host there can be and not by this one's GPUs: one that has failed altogether is not
        // listed any more.
        if let Some(index) = gpu.filter(|index| *index as usize >= HOST_GPUS_MAX) {
            let why = format!("{index} is out of range; hosts have at most {HOST_GPUS_MAX} GPUs");
            return Err(BadField::invalid("gpu", why).into());
        }
        let decision = self.decision(&caller, reason)?;
        let what = gpu.map_or_else(|| "it".to_owned(), |index| format!("its gpu {index}"));
        let text = if lift {
            format!("had {what} taken out of quarantine")
        } else {
            format!("had {what} put into quarantine")
        };
        let decision = (!lift).then_some(decision);
        let now = self.app.clock.now();
        let known = gpu.and_then(|index| self.gpu(&name, index));
        let (uuid, seen) = known.unwrap_or_default();
        let change = |standing: &mut Standing| {
            match (gpu, decision) {
                (None, decision) => standing.quarantine = decision,
                (Some(index), Some(decision)) => {
                    let uuid = Some(uuid.as_str()).filter(|uuid| !uuid.is_empty());
                    standing.quarantine_gpu(index, uuid, decision);
                }
                (Some(index), None) => standing.lift_gpu((index, &uuid), seen, None, now),
            }
            Ok(())
        };
        self.set_standing(&name, &text, &caller, change).await
    }

    async fn burn_in(
        &self,
        request: Request<v1::BurnInRequest>,
    ) -> Result<Response<v1::BurnInResponse>, Status> {
        let caller = Caller::of(&request);
        let v1::BurnInRequest {
            worker_name,
            gpu,
            minutes,
            request_id,
        } = request.into_inner();
        let request_id = convert::text("request_id", request_id, REQUEST_ID_MAX_BYTES)?;
        if request_id.is_empty() {
            return Err(BadField::missing("request_id").into());
        }
        if minutes > BURN_IN_MINUTES_MAX {
            let why = format!("{minutes} is out of range; at most {BURN_IN_MINUTES_MAX} fit");
            return Err(BadField::invalid("minutes", why).into());
        }
        let wanted = WantedBurnIn {
            worker_name: &worker_name,
            gpu,
            minutes: if minutes == 0 {
                BURN_IN_MINUTES
            } else {
                minutes
            },
            request_id: &request_id,
            caller: &caller.to_string(),
        };
        let job = lifecycle::burn_in(&self.app, &wanted).await?;
        let workers = self.list(&caller).await?;
        Ok(Response::new(v1::BurnInResponse {
            job_id: job.0,
            worker: workers
                .into_iter()
                .find(|worker| worker.name == worker_name),
        }))
    }

    async fn add_window(
        &self,
        request: Request<v1::AddWindowRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        let caller = Caller::of(&request);
        let v1::AddWindowRequest {
            worker_name,
            from,
            until,
            reason,
        } = request.into_inner();
        let decision = self.decision(&caller, reason)?;
        let from = from.as_ref().map(convert::datetime).transpose()?;
        let until = until.as_ref().map(convert::datetime).transpose()?;
        let (from, until) = window_of(from, until, decision.at)?;
        let clock = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M").to_string();
        let text = format!(
            "is to be empty from {} to {} UTC: what runs there then is moved",
            clock(from),
            clock(until)
        );
        let change = |standing: &mut Standing| standing.add_window(decision, (from, until));
        self.set_standing(&worker_name, &text, &caller, change)
            .await
    }

    async fn remove_window(
        &self,
        request: Request<v1::RemoveWindowRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        let caller = Caller::of(&request);
        let v1::RemoveWindowRequest {
            worker_name,
            number,
        } = request.into_inner();
        let change = |standing: &mut Standing| {
            let before = standing.windows.len();
            standing.windows.retain(|window| window.number != number);
            if standing.windows.len() == before {
                return Err(format!(
                    "it has no maintenance window {number}; \"marquee window list\" shows those there are"
                ));
            }
            Ok(())
        };
        let text = format!("has maintenance window {number} no more");
        self.set_standing(&worker_name, &text, &caller, change)
            .await
    }

    async fn probe(
        &self,
        _: Request<v1::ProbeRequest>,
    ) -> Result<Response<v1::ProbeResponse>, Status> {
        Ok(Response::new(v1::ProbeResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            now: Some(timestamp(self.app.clock.now())),
            cluster_id: self.app.cluster.to_string(),
        }))
    }
}

/// The bounds of a maintenance window, as far as anybody can mean them.
fn window_of(
    from: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<(DateTime<Utc>, DateTime<Utc>), BadField> {
    let from = from.ok_or(BadField::missing("from"))?;
    let until = until.ok_or(BadField::missing("until"))?;
    let invalid = |field, why: String| Err(BadField::invalid(field, why));
    // A minute is a slow hand, or another clock; more is a slip.
    if from < now - TimeDelta::minutes(1) {
        return invalid(
            "from",
            format!("{from} has passed; give a time from now on"),
        );
    }
    if from > now + WINDOW_AHEAD_MAX {
        let days = WINDOW_AHEAD_MAX.num_days();
        return invalid("from", format!("{from} is more than {days} days ahead"));
    }
    if until <= from {
        return invalid("until", format!("{until} is not after {from}"));
    }
    if until > from + WINDOW_MAX {
        let days = WINDOW_MAX.num_days();
        return invalid(
            "until",
            format!("it is longer than {days} days; \"marquee drain\" has no end of its own"),
        );
    }
    Ok((from, until))
}

fn encode(
    worker: Worker,
    ranks: Vec<v1::RunningRank>,
    gpus: Vec<GpuReading>,
    now: DateTime<Utc>,
) -> v1::Worker {
    let state = match worker.state {
        WorkerState::Online => v1::WorkerState::Online,
        WorkerState::Lost => v1::WorkerState::Lost,
        WorkerState::Left => v1::WorkerState::Left,
    };
    let (closed, drain_deadline, quarantined_gpus) = match &worker.standing {
        Ok(standing) => (
            standing.closed(),
            standing.drain.as_ref().and_then(|drain| drain.deadline),
            standing
                .gpus
                .iter()
                .map(|(index, quarantine)| encode_quarantine(*index, quarantine))
                .collect(),
        ),
        Err(why) => (
            Some(format!(
                "takes no work, for what was decided about it cannot be read: {why}"
            )),
            None,
            Vec::new(),
        ),
    };
    let windows = worker
        .standing
        .iter()
        .flat_map(|standing| &standing.windows);
    let windows = windows.filter(|window| window.until > now);
    let windows = windows.map(|window| v1::MaintenanceWindow {
        number: window.number,
        from: Some(timestamp(window.from)),
        until: Some(timestamp(window.until)),
        reason: window.decision.reason.clone(),
        by: window.decision.by.clone(),
        at: Some(timestamp(window.decision.at)),
        words: window.words(now),
    });
    v1::Worker {
        windows: windows.collect(),
        closed: closed.unwrap_or_default(),
        drain_deadline: drain_deadline.map(timestamp),
        quarantined_gpus,
        id: worker.id.to_string(),
        name: worker.name,
        state: state.into(),
        inventory: worker.inventory.as_ref().ok().map(v1::Inventory::from),
        unreadable: worker.inventory.err().unwrap_or_default(),
        version: worker.version,
        last_seen_at: Some(timestamp(worker.last_seen_at)),
        ranks,
        gpus: gpus.into_iter().map(Into::into).collect(),
        rival: String::new(),
        cache: None,
        clock_ahead_ms: None,
    }
}

fn encode_quarantine(index: u32, quarantine: &GpuQuarantine) -> v1::QuarantinedGpu {
    let burn_in = quarantine.burn_in.as_ref();
    let evidence = quarantine.evidence.iter().cloned();
    v1::QuarantinedGpu {
        index,
        reason: quarantine.words(),
        by: quarantine.decision.by.clone(),
        uuid: quarantine.uuid.clone().unwrap_or_default(),
        automatic: quarantine.is_automatic,
        evidence: evidence.map(evidence_to_wire).collect(),
        burn_in_job: burn_in.map(|burn_in| burn_in.job.0),
        burn_in_failure: burn_in
            .and_then(|burn_in| burn_in.failure.clone())
            .unwrap_or_default(),
    }
}

fn encode_rank(rank: &HeldRank, job_name: String) -> v1::RunningRank {
    v1::RunningRank {
        job_id: rank.key.job.0,
        job_name,
        attempt: rank.key.attempt.0,
        rank: rank.key.rank.0,
        devices: rank.devices.iter().map(v1::Device::from).collect(),
    }
}

#[cfg(test)]
mod tests;
