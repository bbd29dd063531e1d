//! A limit on how long a request may take until its answer begins.
//!
//! Streams of answers may then run for as long as both ends like. An upload is answered when all
//! of it has come, so it has a limit of its own, between its parts.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

/// How long an answer may take to begin. What a handler waits for, a lock or a connection of
/// Postgres, has shorter limits; this one catches what they miss.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Answered after the last part of a long stream, when a worker has sent a whole output, or when many rows and
/// files are deleted.
const UNLIMITED: [&str; 5] = [
    "/marquee.v1.Artifacts/UploadBlob",
    "/marquee.v1.Artifacts/RescueOutput",
    "/marquee.v1.Artifacts/RemoveArtifact",
    "/marquee.v1.Jobs/RemovePipeline",
    "/marquee.v1.Jobs/CollectGarbage",
];

/// Puts a limit around a service.
#[derive(Debug, Clone, Copy)]
pub struct DeadlineLayer {
    pub(super) limit: Duration,
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = WithDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let limit = self.limit;
        WithDeadline { inner, limit }
    }
}

/// A service whose answers begin in time.
#[derive(Debug, Clone)]
pub struct WithDeadline<S> {
    inner: S,
    limit: Duration,
}

impl<S> Service<Request<Body>> for WithDeadline<S>
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

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let limit = self.limit;
        let answer = self.inner.call(request);
        if UNLIMITED.contains(&path.as_str()) {
            return Box::pin(answer);
        }
        Box::pin(async move {
            match tokio::time::timeout(limit, answer).await {
                Ok(answer) => answer,
                Err(_) => {
                    tracing::warn!(path, ?limit, "a request took too long");
                    let seconds = limit.as_secs();
                    let text =
                        format!("the coordinator did not answer within {seconds} s; try again");
                    Ok(Status::deadline_exceeded(text).into_http())
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    /// The status of an answer that takes ten times the limit.
    async fn code_of_slow_answer(path: &str) -> Option<Code> {
        let limit = Duration::from_millis(20);
        let slow = tower::service_fn(|_: Request<Body>| async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
        });
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let mut service = DeadlineLayer { limit }.layer(slow);
        let answer = service.call(request).await.unwrap();
        Status::from_header_map(answer.headers()).map(|status| status.code())
    }

    #[tokio::test]
    async fn a_slow_answer_is_cut_off_and_a_slow_upload_is_not() {
        let slow = code_of_slow_answer("/marquee.v1.Jobs/GetJob").await;
        assert_eq!(slow, Some(Code::DeadlineExceeded));
        for path in UNLIMITED {
            assert_eq!(code_of_slow_answer(path).await, None, "{path}");
        }
    }
}
