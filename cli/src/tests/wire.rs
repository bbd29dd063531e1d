//! The other end of the wire, in the hands of a test: it takes down what a command asks for, and answers what no
//! coordinator of today would.
//!
//! Not here: what a real coordinator answers (`e2e/tests/cli.rs`).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use prost::bytes::{Buf as _, BufMut as _};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::tokio_stream::{self, Iter};
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Every service that a command may ask.
const SERVICES: [&str; 11] = [
    "marquee.v1.Jobs",
    "marquee.v1.Artifacts",
    "marquee.v1.Workers",
    "marquee.v1.Audit",
    "marquee.v1.Cluster",
    "marquee.v1.Projects",
    "marquee.v1.Schedules",
    "marquee.v1.Chaos",
    "marquee.v1.Users",
    "marquee.v1.Trust",
    "marquee.v1.Backups",
];

/// The messages that answer a request: one, or those of a stream.
pub(crate) type Answer = Result<Vec<Vec<u8>>, Status>;
type Answering = dyn Fn(&str, &[u8]) -> Answer + Send + Sync;

/// A request as it came: `Jobs/CancelJob`, and its message.
pub(crate) type Asked = (String, Vec<u8>);

#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) addr: SocketAddr,
    heard: Arc<Mutex<Vec<Asked>>>,
    answer: Arc<Answering>,
}

impl Wire {
    /// Listens until the test's runtime ends.
    pub(crate) async fn start(
        answer: impl Fn(&str, &[u8]) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self {
            addr: listener.local_addr().unwrap(),
            heard: Arc::default(),
            answer: Arc::new(answer),
        };
        let server = Server::builder()
            .add_service(At::<0>(wire.clone()))
            .add_service(At::<1>(wire.clone()))
            .add_service(At::<2>(wire.clone()))
            .add_service(At::<3>(wire.clone()))
            .add_service(At::<4>(wire.clone()))
            .add_service(At::<5>(wire.clone()))
            .add_service(At::<6>(wire.clone()))
            .add_service(At::<7>(wire.clone()))
            .add_service(At::<8>(wire.clone()))
            .add_service(At::<9>(wire.clone()))
            .add_service(At::<10>(wire.clone()));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        wire
    }

    /// What was asked since somebody looked last.
    pub(crate) fn heard(&self) -> Vec<Asked> {
        std::mem::take(&mut self.heard.lock().unwrap())
    }
}

/// One service of ours, by its place in [`SERVICES`].
#[derive(Clone)]
struct At<const N: usize>(Wire);

impl<const N: usize> NamedService for At<N> {
    const NAME: &'static str = SERVICES[N];
}

impl<const N: usize> Service<http::Request<Body>> for At<N> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let one = One {
            wire: self.0.clone(),
            path: request.uri().path().to_owned(),
        };
        // A single message is a stream of one.
        Box::pin(async move { Ok(Grpc::new(Raw).server_streaming(one, request).await) })
    }
}

/// One request.
struct One {
    wire: Wire,
    path: String,
}

impl ServerStreamingService<Vec<u8>> for One {
    type Response = Vec<u8>;
    type ResponseStream = Iter<std::vec::IntoIter<Result<Vec<u8>, Status>>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        let path = self.path.trim_start_matches("/marquee.v1.").to_owned();
        let message = request.into_inner();
        let answer = (self.wire.answer)(&path, &message);
        self.wire.heard.lock().unwrap().push((path, message));
        Box::pin(async move {
            let messages: Vec<_> = answer?.into_iter().map(Ok).collect();
            Ok(Response::new(tokio_stream::iter(messages)))
        })
    }
}

/// Messages as they are.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(bytes.copy_to_bytes(bytes.remaining()).to_vec()))
    }
}
