//! The web page and the way browsers speak with us: gRPC-Web on the port that everything else uses, and the files
//! of the page beside it. There is no second API: what the page shows it asks of the services in `rpc`.
//!
//! Invariant: native gRPC over HTTP/2 passes untouched; whatever a browser can send passes the [`gate`] first; every
//! answer to a browser carries the headers of [`headers`]. What a job wrote is served to a browser as data alone, but
//! for the report ([`report`]), which may run nothing and ask nothing.

mod files;
mod gate;
mod headers;
mod report;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
use tonic::body::Body;
use tonic::codegen::http::request::Parts;
use tonic::codegen::http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use tonic::{Code, Status};
use tonic_web::GrpcWebLayer;
use tower::{Layer, Service};

use crate::access::{Party, remote};
use crate::app::App;
use crate::metrics;
use crate::users::{OwnPage, Who};
use gate::Refusal;

/// Puts the page and gRPC-Web around the services.
#[derive(Debug, Clone)]
pub struct WebLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    app: App,
    /// Whether connections are encrypted, by us.
    is_tls: bool,
}

impl WebLayer {
    pub(crate) fn new(app: &App, is_tls: bool) -> Self {
        let app = app.clone();
        Self {
            shared: Arc::new(Shared { app, is_tls }),
        }
    }
}

impl<S> Layer<S> for WebLayer {
    type Service = Web<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let shared = self.shared.clone();
        Web { inner, shared }
    }
}

/// The services, for browsers too.
#[derive(Debug, Clone)]
pub struct Web<S> {
    inner: S,
    shared: Arc<Shared>,
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// What our own clients send. No browser can: those speak HTTP/2 through TLS alone, and ask first whether they
    /// may send this type to another origin, which nobody answers.
    Grpc,
    GrpcWeb,
    /// The page, or something that belongs to it.
    Read,
    Other(StatusCode, &'static str),
}

fn asked(method: &Method, version: Version, headers: &HeaderMap) -> Asked {
    let content = headers.get(header::CONTENT_TYPE);
    let content = content.and_then(|value| value.to_str().ok()).unwrap_or("");
    let is_read = method == Method::GET || method == Method::HEAD;
    if content.starts_with("application/grpc-web-text") {
        // Its messages are in Base64, which what counts them on their way in cannot read.
        return Asked::Other(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send application/grpc-web+proto: the text form is not served",
        );
    }
    if content.starts_with("application/grpc-web") {
        return match method {
            &Method::POST => Asked::GrpcWeb,
            _ => Asked::Other(StatusCode::METHOD_NOT_ALLOWED, "gRPC-Web is sent by POST"),
        };
    }
    match version {
        Version::HTTP_2 if content.starts_with("application/grpc") => Asked::Grpc,
        _ if is_read => Asked::Read,
        // Any page may have a browser send text or a form here, over TLS with the certificate of whoever sits before it,
        // and the services would read either as a message.
        _ => Asked::Other(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "only gRPC over HTTP/2 (application/grpc), gRPC-Web (application/grpc-web) and the page are served",
        ),
    }
}

type ResponseFuture<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Web<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture<Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let asked = asked(request.method(), request.version(), request.headers());
        let path = request.uri().path().to_owned();
        // Before the gate, which is for browsers: none of them can send this (`Asked::Grpc`).
        if asked == Asked::Grpc {
            let answer = self.inner.call(request);
            return Box::pin(async move {
                let answer = answer.await?;
                count(&path, &answer);
                Ok(answer)
            });
        }
        let shared = self.shared.clone();
        if let Err(refusal) = gate::check(&request, shared.is_tls) {
            return Box::pin(async move { Ok(refused(&refusal)) });
        }
        // From here on the cookie of a session counts: whatever sent it is our own page, or no browser.
        request.extensions_mut().insert(OwnPage);
        match asked {
            Asked::Grpc | Asked::GrpcWeb => {
                let answer = GrpcWebLayer::new().layer(&mut self.inner).call(request);
                Box::pin(async move {
                    let mut answer = answer.await?;
                    count(&path, &answer);
                    headers::of_data(answer.headers_mut());
                    Ok(answer)
                })
            }
            Asked::Read => {
                // A body is of no interest, and must not be held over what follows.
                let mut request = request.map(drop);
                Box::pin(async move {
                    let app = &shared.app;
                    let who = match who(app, &mut request).await {
                        Ok(who) => who,
                        Err((status, why)) => return Ok(text(status, &why)),
                    };
                    let (parts, ()) = request.into_parts();
                    Ok(read(app, &parts, &who).await)
                })
            }
            Asked::Other(status, why) => Box::pin(async move { Ok(text(status, why)) }),
        }
    }
}

/// Who asks for the page or something of it. Where there are users, whose connection it is says no more than that.
async fn who(app: &App, request: &mut Request<()>) -> Result<Who, (StatusCode, String)> {
    let walls = &app.walls;
    walls.access.mark(request);
    let admitted = walls.access.admit(request);
    if let Ok(Party::Worker(_)) = admitted {
        let why = "a worker's certificate was shown, and workers have no business here";
        return Err((StatusCode::FORBIDDEN, why.to_owned()));
    }
    if !walls.users.is_current(&app.role) {
        let ready = walls.users.ready(&app.db, &app.role, &*app.clock).await;
        ready.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    }
    if !walls.users.are_there() {
        admitted.map_err(|refused| (StatusCode::FORBIDDEN, refused.to_string()))?;
    }
    // Who shows what stands for nobody is told so by what he asks for.
    Ok(walls
        .users
        .who(request, app.clock.now())
        .inspect_err(|why| walls.users.say_refused(remote(request), why))
        .unwrap_or_default())
}

/// What a GET of this path gives. Paths that are none of ours are places within the page, which reads them itself. The
/// page itself is for everybody: it asks who one is.
async fn read(app: &App, request: &Parts, who: &Who) -> Response<Body> {
    let path = request.uri.path();
    let is_figures = path == "/metrics";
    let report = path
        .strip_prefix("/reports/")
        .and_then(|rest| rest.strip_suffix("/document"));
    let mut answer = if (is_figures || report.is_some()) && !who.may_look() {
        text(
            StatusCode::UNAUTHORIZED,
            "log in first: on the page, or with a token in the header \"authorization\"",
        )
    } else if is_figures {
        figures(app)
    } else if let Some(job) = report {
        report::serve(app, job, who).await
    } else {
        files::serve(path, &request.headers)
    };
    if request.method == Method::HEAD {
        *answer.body_mut() = Body::empty();
    }
    answer
}

/// What Prometheus scrapes.
fn figures(app: &App) -> Response<Body> {
    let mut answer = Response::new(whole(Bytes::from(metrics::render(app))));
    let headers = answer.headers_mut();
    headers::of_data(headers);
    headers::set(headers, header::CONTENT_TYPE, metrics::CONTENT_TYPE);
    answer
}

/// Counts what a request was answered with; whether a stream went on well is not known yet.
fn count(path: &str, answer: &Response<Body>) {
    let code = Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code());
    metrics::rpc_answered(path.trim_start_matches('/'), code);
}

fn refused(refusal: &Refusal) -> Response<Body> {
    tracing::warn!(%refusal, "a browser's request was refused");
    text(refusal.status(), &refusal.to_string())
}

/// A few words for whoever asked by hand.
fn text(status: StatusCode, words: &str) -> Response<Body> {
    let mut answer = Response::new(whole(Bytes::from(format!("{words}\n"))));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers::of_data(headers);
    headers::set(headers, header::CONTENT_TYPE, "text/plain; charset=utf-8");
    answer
}

/// A body that is there already.
struct Whole(Option<Bytes>);

fn whole(bytes: Bytes) -> Body {
    Body::new(Whole(Some(bytes)))
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        let left = self.0.as_ref().map_or(0, Bytes::len);
        http_body::SizeHint::with_exact(left as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_browser_can_send_passes_without_the_gate() {
        let asks = |method: Method, version, content: &str| {
            let mut headers = HeaderMap::new();
            headers::set(&mut headers, header::CONTENT_TYPE, content);
            asked(&method, version, &headers)
        };
        let (one, two) = (Version::HTTP_11, Version::HTTP_2);
        let post = || Method::POST;
        for (method, version, content, wanted) in [
            (post(), two, "application/grpc", Asked::Grpc),
            (post(), two, "application/grpc+proto", Asked::Grpc),
            (post(), two, "application/grpc-web+proto", Asked::GrpcWeb),
            (post(), one, "application/grpc-web", Asked::GrpcWeb),
            (Method::GET, one, "", Asked::Read),
            (Method::GET, two, "text/html", Asked::Read),
            (Method::HEAD, one, "", Asked::Read),
        ] {
            assert_eq!(asks(method, version, content), wanted, "{content}");
        }
        for (method, content) in [
            // A page that was bound to our address by its name could send this over HTTP/1.1.
            (post(), "application/grpc"),
            (post(), "application/x-www-form-urlencoded"),
            (post(), "application/grpc-web-text"),
            (Method::OPTIONS, ""),
            (Method::PUT, "application/grpc-web"),
        ] {
            let what = asks(method, one, content);
            assert!(matches!(what, Asked::Other(..)), "{content}: {what:?}");
        }
        // Over TLS browsers speak HTTP/2, and send these types for any page.
        for content in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/json",
            "",
        ] {
            let what = asks(post(), two, content);
            assert!(matches!(what, Asked::Other(..)), "{content}: {what:?}");
        }
    }
}
