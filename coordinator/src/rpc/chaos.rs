//! Faults on purpose.

use std::time::Duration;

use marquee_domain::ids::{JobId, Rank};
use marquee_proto::convert::BadField;
use marquee_proto::v1;
use marquee_proto::v1::rehearse_request::Fault as Wire;
use tonic::{Request, Response, Status};

use crate::app::App;
use crate::caller::Caller;
use crate::lifecycle::{self, CUT_MAX, CUT_MIN, Fault};

/// The service.
#[derive(Debug)]
pub(super) struct ChaosService {
    app: App,
}

impl ChaosService {
    pub(super) fn new(app: App) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl v1::chaos_server::Chaos for ChaosService {
    async fn rehearse(
        &self,
        request: Request<v1::RehearseRequest>,
    ) -> Result<Response<v1::RehearseResponse>, Status> {
        let caller = Caller::of(&request).to_string();
        let request = request.into_inner();
        let fault = decode(request.fault)?;
        let said = lifecycle::rehearse(&self.app, &fault, request.dry_run, &caller).await?;
        Ok(Response::new(v1::RehearseResponse {
            done: said.done,
            expected: said.expected,
            attempt: said.attempt,
            epoch: self.app.role.epoch(),
        }))
    }
}

fn decode(fault: Option<Wire>) -> Result<Fault, BadField> {
    match fault {
        Some(Wire::KillRank(kill)) => Ok(Fault::KillRank {
            job: JobId(kill.job_id),
            rank: Rank(kill.rank),
        }),
        Some(Wire::CutWorker(cut)) => {
            let time = Duration::from_millis(cut.for_ms.into());
            if !(CUT_MIN..=CUT_MAX).contains(&time) {
                let why = format!(
                    "{} ms is out of range; a worker is cut off for {} to {} s",
                    cut.for_ms,
                    CUT_MIN.as_secs(),
                    CUT_MAX.as_secs()
                );
                return Err(BadField::invalid("for_ms", why));
            }
            let name = cut.name;
            Ok(Fault::CutWorker { name, time })
        }
        Some(Wire::StepDown(v1::StepDown {})) => Ok(Fault::StepDown),
        None => Err(BadField::invalid(
            "fault",
            "none is given; give kill_rank, cut_worker or step_down",
        )),
    }
}
