//! Connections that do not speak, and messages that do not end.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use marquee_domain::limits::MESSAGE_MAX_BYTES;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status};

use super::all_is_well;
use crate::support::{Cluster, channel};

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_never_speak_are_closed_and_hold_nobody_up() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let address = cluster
        .running
        .address
        .trim_start_matches("http://")
        .to_owned();
    let mut silent = Vec::new();
    for number in 0..60 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        // Some say a little, or something else.
        let said: &[u8] = match number % 3 {
            0 => b"",
            1 => b"PRI * HTTP/2.0\r\n",
            _ => b"GET / HTTP/1.1\r\n",
        };
        stream.write_all(said).await.unwrap();
        silent.push(stream);
    }
    all_is_well(&cluster, &mut worker).await;
    for mut stream in silent {
        let mut rest = Vec::new();
        // Closed or reset: it is over.
        let over = timeout(Duration::from_secs(40), stream.read_to_end(&mut rest)).await;
        over.expect("the connection is closed").ok();
    }
    all_is_well(&cluster, &mut worker).await;
}

/// Sends bytes as they are: what a generated client cannot be made to send.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
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
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        use bytes::Buf as _;
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_garbage_are_refused_and_stop_nobody() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let channel = channel(&cluster.running.address).await;
    let mut garbage = BytesMut::new();
    for n in 0..100_000_u32 {
        garbage.put_u32(n.wrapping_mul(2_654_435_761));
    }
    let nested = {
        // A field within a field within a field: no message of ours is that deep.
        let mut bytes = Bytes::new();
        for _ in 0..5_000 {
            let mut outer = BytesMut::new();
            outer.put_u8(0x0a);
            prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
            outer.put(bytes);
            bytes = outer.freeze();
        }
        bytes
    };
    let large = Bytes::from(vec![0; MESSAGE_MAX_BYTES + 1]);
    for bytes in [
        garbage.freeze(),
        nested,
        large,
        Bytes::from_static(&[0xff; 64]),
    ] {
        for path in [
            "/marquee.v1.Jobs/SubmitPipeline",
            "/marquee.v1.Jobs/Watch",
            "/marquee.v1.Artifacts/UploadBlob",
            "/marquee.v1.WorkerSession/Connect",
            "/marquee.v1.Nothing/AtAll",
        ] {
            let mut client = Grpc::new(channel.clone());
            client.ready().await.unwrap();
            let path = PathAndQuery::from_static(path);
            let answer =
                client.streaming(Request::new(tokio_stream::once(bytes.clone())), path, Raw);
            // Whatever the answer, there is one.
            let answered = timeout(Duration::from_secs(30), answer).await;
            let _ = answered.expect("an answer comes");
        }
    }
    all_is_well(&cluster, &mut worker).await;
}

/// A hundred half-sent messages took 822 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_send_halves_take_no_more_than_their_room() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let before = resident_bytes();
    let mut open = Vec::new();
    for _ in 0..100 {
        let channel = channel(&cluster.running.address).await;
        let (chunks, stream) = tokio::sync::mpsc::channel::<Half>(1);
        let call = tokio::spawn(async move {
            use http_body_halves::Halves;
            Halves(ReceiverStream::new(stream)).call(channel).await;
        });
        chunks.send(Half).await.unwrap();
        open.push((chunks, call));
    }
    // They have all sent what they may.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let grown = resident_bytes().saturating_sub(before);
    // What half messages may take together, and the windows of the connections.
    assert!(grown < 500 << 20, "{} MiB", grown >> 20);
    all_is_well(&cluster, &mut worker).await;
    for (_, call) in open {
        call.abort();
    }
}

/// A message that is announced with the most bytes there may be, and sent but for the last.
#[derive(Debug)]
struct Half;

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

mod http_body_halves {
    use std::pin::Pin;
    use std::sync::OnceLock;
    use std::task::{Context, Poll, ready};

    use bytes::{BufMut as _, Bytes, BytesMut};
    use http_body::{Body, Frame};
    use marquee_domain::limits::MESSAGE_MAX_BYTES;
    use tokio_stream::Stream as _;
    use tokio_stream::wrappers::ReceiverStream;
    use tonic::Status;
    use tonic::codegen::Service as _;
    use tonic::codegen::http::Request;
    use tonic::transport::Channel;

    /// All senders share one: the memory that grows is the coordinator's.
    fn half() -> Bytes {
        static HALF: OnceLock<Bytes> = OnceLock::new();
        let make = || {
            let mut bytes = BytesMut::with_capacity(MESSAGE_MAX_BYTES + 5);
            bytes.put_u8(0);
            bytes.put_u32(u32::try_from(MESSAGE_MAX_BYTES).unwrap());
            bytes.put_bytes(7, MESSAGE_MAX_BYTES - 1);
            bytes.freeze()
        };
        HALF.get_or_init(make).clone()
    }

    /// A request body that begins messages and does not end.
    pub(super) struct Halves(pub(super) ReceiverStream<super::Half>);

    impl Body for Halves {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let next = ready!(Pin::new(&mut self.0).poll_next(cx));
            Poll::Ready(next.map(|super::Half| Ok(Frame::data(half()))))
        }
    }

    impl Halves {
        pub(super) async fn call(self, mut channel: Channel) {
            let uri = "http://coordinator/marquee.v1.Jobs/SubmitPipeline";
            let request = Request::post(uri)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(tonic::body::Body::new(self))
                .unwrap();
            std::future::poll_fn(|cx| channel.poll_ready(cx))
                .await
                .unwrap();
            let _ = channel.call(request).await;
        }
    }
}
