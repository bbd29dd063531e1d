//! What stands around every request: who may not ask is refused, a panic of its handler is its own error, a
//! coordinator in safe mode or one that stands by refuses what writes, and a message that is still to come whole has a
//! deadline and room that was kept for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use marquee_proto::error::ErrorCode;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use super::inflow::{Inflow, Metered};
use crate::access::remote;
use crate::role::Role;
use crate::walls::{Panicked, Walls, caught};

/// What may be asked of a coordinator in safe mode, or one that does not lead. Everything else changes something, or keeps a session that would.
const READS: [&str; 20] = [
    "/marquee.v1.Jobs/GetJob",
    "/marquee.v1.Jobs/GetPipeline",
    "/marquee.v1.Jobs/ListJobs",
    "/marquee.v1.Jobs/Watch",
    "/marquee.v1.Jobs/Logs",
    "/marquee.v1.Jobs/Metrics",
    "/marquee.v1.Jobs/Series",
    "/marquee.v1.Jobs/Explain",
    "/marquee.v1.Jobs/WhatIf",
    "/marquee.v1.Artifacts/ListArtifacts",
    "/marquee.v1.Artifacts/GetArtifact",
    "/marquee.v1.Artifacts/DownloadBlob",
    "/marquee.v1.Workers/ListWorkers",
    "/marquee.v1.Workers/ListCoordinators",
    "/marquee.v1.Workers/Probe",
    "/marquee.v1.Audit/",
    "/marquee.v1.Cluster/",
    "/marquee.v1.Projects/ListProjects",
    "/marquee.v1.Schedules/ListSchedules",
    "/marquee.v1.Schedules/GetSchedule",
];
/// Services that say what there is, of whatever coordinator.
const ABOUT: [&str; 2] = [HEALTH, "/grpc.reflection."];
/// Whether we are well: anybody who can connect may know.
const HEALTH: &str = "/grpc.health.";

/// Puts the guard around a service.
#[derive(Debug, Clone)]
pub struct GuardLayer {
    pub(super) walls: Walls,
    pub(super) role: Role,
    pub(super) inflow: Inflow,
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded {
            inner,
            guard: self.clone(),
        }
    }
}

/// A guarded service.
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: GuardLayer,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        if let Err(refused) = self.guard.walls.access.admit(&mut request)
            && !path.starts_with(HEALTH)
        {
            let status = ErrorCode::NotAllowed.status(refused.to_string());
            return Box::pin(async move { Ok(status.into_http()) });
        }
        if let Some(why) = &self.guard.walls.safe_mode
            && !is_read(&path)
        {
            let status = ErrorCode::SafeMode.status(why.as_ref());
            return Box::pin(async move { Ok(status.into_http()) });
        }
        if !is_about(&path)
            && let Some(status) = self.guard.role.refusal(&path, is_read(&path))
        {
            return Box::pin(async move { Ok(status.into_http()) });
        }
        let room = self.guard.inflow.of(remote(&request));
        let request = request.map(|body| Body::new(Metered::new(body, room)));
        let begins = AssertUnwindSafe(|| self.inner.call(request));
        let answer = match catch_unwind(begins) {
            Ok(answer) => answer,
            Err(panic) => {
                let answer = fault(&path, &Panicked::from_panic(panic.as_ref()));
                return Box::pin(async move { Ok(answer) });
            }
        };
        Box::pin(async move {
            match caught(answer).await {
                Ok(answer) => answer,
                Err(panicked) => Ok(fault(&path, &panicked)),
            }
        })
    }
}

fn is_read(path: &str) -> bool {
    is_about(path) || is_one_of(&READS, path)
}

fn is_about(path: &str) -> bool {
    is_one_of(&ABOUT, path)
}

fn is_one_of(paths: &[&str], path: &str) -> bool {
    let mut paths = paths.iter();
    paths.any(|read| path == *read || read.ends_with(['/', '.']) && path.starts_with(read))
}

/// The answer to a request whose handler panicked.
fn fault(path: &str, panicked: &Panicked) -> Response<Body> {
    tracing::error!(path, %panicked, "a request failed; everything else goes on");
    ErrorCode::Internal.status(panicked.to_string()).into_http()
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;

    async fn code(walls: Walls, path: &str) -> Option<Code> {
        let service = tower::service_fn(|request: Request<Body>| async move {
            assert_ne!(request.uri().path(), "/marquee.v1.Jobs/GetJob", "a fault");
            Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
        });
        let inflow = Inflow::default();
        let role = Role::default();
        let mut service = GuardLayer {
            walls,
            role,
            inflow,
        }
        .layer(service);
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let answer = service.call(request).await.unwrap();
        Status::from_header_map(answer.headers()).map(|status| status.code())
    }

    #[tokio::test]
    async fn a_handler_that_panics_answers_with_an_error() {
        let walls = Walls::default;
        let fault = code(walls(), "/marquee.v1.Jobs/GetJob").await;
        assert_eq!(fault, Some(Code::Internal));
        assert_eq!(code(walls(), "/marquee.v1.Jobs/ListJobs").await, None);
    }

    #[tokio::test]
    async fn in_safe_mode_only_reads_are_answered() {
        let walls = || Walls {
            safe_mode: Some("it died three times".into()),
            ..Walls::default()
        };
        for read in [
            "/marquee.v1.Jobs/ListJobs",
            "/marquee.v1.Workers/ListWorkers",
            "/marquee.v1.Artifacts/DownloadBlob",
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert_eq!(code(walls(), read).await, None, "{read}");
        }
        for write in [
            "/marquee.v1.Jobs/SubmitPipeline",
            "/marquee.v1.Jobs/CancelJob",
            "/marquee.v1.Jobs/ListJobsAndMore",
            "/marquee.v1.Artifacts/UploadBlob",
            "/marquee.v1.WorkerSession/Connect",
            "/marquee.v1.Workers",
        ] {
            let refused = code(walls(), write).await;
            assert_eq!(refused, Some(Code::FailedPrecondition), "{write}");
        }
    }
}
