//! Messages on their way in. A message is kept in memory until it is whole, and its sender says in its first five
//! bytes how long it will be: the decoder takes the memory then. So room is kept for it before it is passed on,
//! within what one connection and what all together may take, and it has to be whole in time.
//!
//! A message that comes whole in one piece, as nearly all do, passes without any of this.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body::{Body as HttpBody, Frame, SizeHint};
use marquee_domain::limits::MESSAGE_MAX_BYTES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

/// Bytes of half messages that all connections may have here together, and one of them.
pub(super) const ALL_MAX_BYTES: usize = 256 * 1024 * 1024;
pub(super) const CONNECTION_MAX_BYTES: usize = 32 * 1024 * 1024;
/// A message up to here needs no room kept for it: what remains of it is in the connection's window.
const SMALL_BYTES: usize = 16 * 1024;
/// How long a message may take from its first byte to its last, the wait for room included. The largest takes that
/// long at 0.6 Mbit/s.
const MESSAGE_WITHIN: Duration = Duration::from_secs(120);
/// What stands before each message: a flag and its length.
const HEADER_BYTES: usize = 5;
/// Bytes that one permit stands for.
const PERMIT_BYTES: usize = 1024;

/// The room for half messages.
#[derive(Debug, Clone)]
pub(super) struct Inflow {
    all: Arc<Semaphore>,
    connections: Arc<Mutex<HashMap<SocketAddr, Weak<Semaphore>>>>,
    connection_bytes: usize,
    within: Duration,
}

impl Default for Inflow {
    fn default() -> Self {
        Self::new(ALL_MAX_BYTES, CONNECTION_MAX_BYTES, MESSAGE_WITHIN)
    }
}

impl Inflow {
    fn new(all_bytes: usize, connection_bytes: usize, within: Duration) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all_bytes / PERMIT_BYTES)),
            connections: Arc::default(),
            connection_bytes,
            within,
        }
    }

    /// The room of one request. Requests without an address have no connection that others could share.
    pub(super) fn of(&self, peer: Option<SocketAddr>) -> Room {
        let own = || Arc::new(Semaphore::new(self.connection_bytes / PERMIT_BYTES));
        let connection = match peer {
            None => own(),
            Some(peer) => {
                let connections = self.connections.lock();
                let mut connections = connections.unwrap_or_else(PoisonError::into_inner);
                let known = connections.get(&peer).and_then(Weak::upgrade);
                known.unwrap_or_else(|| {
                    // Here, since nobody says when a connection has ended: as many are remembered
                    // as are open, and a few more.
                    connections.retain(|_, connection| connection.strong_count() > 0);
                    let connection = own();
                    connections.insert(peer, Arc::downgrade(&connection));
                    connection
                })
            }
        };
        Room {
            all: self.all.clone(),
            connection,
            within: self.within,
        }
    }
}

/// Where a request's messages take their room from.
#[derive(Debug)]
pub(super) struct Room {
    all: Arc<Semaphore>,
    connection: Arc<Semaphore>,
    within: Duration,
}

type Kept = [OwnedSemaphorePermit; 2];

impl Room {
    fn keep(&self, bytes: usize) -> BoxFuture<'static, Option<Kept>> {
        // One that is longer than any may be is refused by its decoder, at once.
        let permits = bytes.min(MESSAGE_MAX_BYTES).div_ceil(PERMIT_BYTES);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let (all, connection) = (self.all.clone(), self.connection.clone());
        async move {
            // Its connection's own first: who waits for that holds nothing that others wait for.
            let own = connection.acquire_many_owned(permits).await.ok()?;
            let shared = all.acquire_many_owned(permits).await.ok()?;
            Some([own, shared])
        }
        .boxed()
    }
}

/// Where in its messages a stream is.
#[derive(Debug, Default)]
struct Framing {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header that have come.
    header_bytes: usize,
    /// Length of the message, once its header has come, and what is still to come of it.
    length: usize,
    left: usize,
}

impl Framing {
    /// Passes over bytes. Whether a message ended in them.
    fn pass(&mut self, mut bytes: &[u8]) -> bool {
        let mut ended = false;
        while !bytes.is_empty() {
            if self.header_bytes < HEADER_BYTES {
                let count = bytes.len().min(HEADER_BYTES - self.header_bytes);
                let (header, rest) = bytes.split_at(count);
                self.header[self.header_bytes..self.header_bytes + count].copy_from_slice(header);
                self.header_bytes += count;
                bytes = rest;
                if self.header_bytes < HEADER_BYTES {
                    break;
                }
                let [_, a, b, c, d] = self.header;
                let length = u32::from_be_bytes([a, b, c, d]);
                self.length = usize::try_from(length).unwrap_or(usize::MAX);
                self.left = self.length;
            }
            let count = bytes.len().min(self.left);
            self.left -= count;
            bytes = &bytes[count..];
            if self.left == 0 {
                ended = true;
                self.header_bytes = 0;
            }
        }
        ended
    }

    /// The length of a message that has begun and is not whole, as far as it is known.
    fn open(&self) -> Option<usize> {
        match self.header_bytes {
            0 => None,
            HEADER_BYTES => Some(self.length),
            _ => Some(0),
        }
    }
}

/// A request's body, metered.
pub(super) struct Metered {
    inner: Body,
    room: Room,
    framing: Framing,
    /// For the message that is open.
    kept: Option<Kept>,
    deadline: Option<Pin<Box<Sleep>>>,
    /// What came, and waits until there is room for the message that begins in it.
    waiting: Option<(Bytes, BoxFuture<'static, Option<Kept>>)>,
}

impl Metered {
    pub(super) fn new(inner: Body, room: Room) -> Self {
        Self {
            inner,
            room,
            framing: Framing::default(),
            kept: None,
            deadline: None,
            waiting: None,
        }
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = self.deadline.as_mut();
        deadline.is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
    }

    fn late(&self) -> Status {
        let seconds = self.room.within.as_secs();
        Status::deadline_exceeded(format!(
            "a message was begun and not sent whole within {seconds} s; send it again"
        ))
    }
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.is_late(cx) {
            // Nobody waits for the rest, and nothing is kept for it.
            this.kept = None;
            this.waiting = None;
            return Poll::Ready(Some(Err(this.late())));
        }
        if let Some((_, room)) = &mut this.waiting {
            let kept = ready!(room.as_mut().poll(cx));
            this.kept = kept;
            let came = this.waiting.take().map(|(bytes, _)| bytes);
            return Poll::Ready(came.map(|bytes| Ok(Frame::data(bytes))));
        }
        let frame = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        let bytes = match frame.into_data() {
            Ok(bytes) => bytes,
            Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
        };
        let was_open = this.framing.open().is_some();
        let ended = this.framing.pass(&bytes);
        let Some(length) = this.framing.open() else {
            (this.kept, this.deadline) = (None, None);
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        };
        if ended || !was_open {
            this.kept = None;
            let mut deadline = Box::pin(tokio::time::sleep(this.room.within));
            // So that this task is woken when it is over.
            let _ = deadline.as_mut().poll(cx);
            this.deadline = Some(deadline);
        }
        if length <= SMALL_BYTES || this.kept.is_some() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let mut room = this.room.keep(length);
        match room.as_mut().poll(cx) {
            Poll::Ready(kept) => {
                this.kept = kept;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Poll::Pending => {
                this.waiting = Some((bytes, room));
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // What waits is counted by nobody else; an exact hint is not needed for streams.
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    /// A body that is given piece by piece.
    fn body(room: Room) -> (mpsc::Sender<Bytes>, Pin<Box<Metered>>) {
        let (sender, pieces) = mpsc::channel(16);
        let pieces = ReceiverStream::new(pieces);
        let pieces = Pieces(pieces);
        (sender, Box::pin(Metered::new(Body::new(pieces), room)))
    }

    struct Pieces(ReceiverStream<Bytes>);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let next = futures::Stream::poll_next(Pin::new(&mut self.0), cx);
            next.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    /// The beginning of a message of `length` bytes, with `sent` of them.
    fn half(length: u32, sent: usize) -> Bytes {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.extend(vec![7; sent]);
        bytes.into()
    }

    async fn next(body: &mut Pin<Box<Metered>>) -> Option<Result<usize, Status>> {
        let frame = poll_fn(|cx| body.as_mut().poll_frame(cx)).await?;
        Some(frame.map(|frame| frame.into_data().unwrap().len()))
    }

    fn inflow(within: Duration) -> Inflow {
        Inflow::new(4 << 20, 2 << 20, within)
    }

    /// Longer than any test takes.
    const EVER: Duration = Duration::from_secs(600);

    const MIB: u32 = 1 << 20;

    #[tokio::test]
    async fn a_message_that_is_begun_and_not_ended_is_given_up_with_its_room() {
        let inflow = inflow(Duration::from_millis(300));
        let (sender, mut body) = body(inflow.of(None));
        sender.send(half(2 * MIB, 100)).await.unwrap();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), 105);
        assert_eq!(inflow.all.available_permits(), 2048);
        // A byte now and then does not prolong it.
        let drip = tokio::spawn(async move {
            while sender.send(Bytes::from_static(b"x")).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let status = loop {
            if let Err(status) = next(&mut body).await.unwrap() {
                break status;
            }
        };
        drip.abort();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status}");
        assert_eq!(inflow.all.available_permits(), 4096);
        // Nor does half of a header.
        let (sender, mut body) = super::tests::body(inflow.of(None));
        sender.send(Bytes::from_static(&[0, 0])).await.unwrap();
        next(&mut body).await.unwrap().unwrap();
        assert!(next(&mut body).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn one_connection_and_all_together_have_no_more_room_than_theirs() {
        let inflow = inflow(EVER);
        let peer = |port| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        let mut open = Vec::new();
        for (port, passes) in [
            (1, true),
            (1, true),
            // The connection's room is used up.
            (1, false),
            (2, true),
            (3, true),
            // All room is.
            (4, false),
        ] {
            let (sender, mut body) = body(inflow.of(peer(port)));
            sender.send(half(MIB, 10)).await.unwrap();
            let came = futures::poll!(pin!(next(&mut body)));
            assert_eq!(came.is_ready(), passes, "{port}");
            open.push((sender, body));
        }
        // Small ones, such as heartbeats, pass all the same, and so do those that come whole.
        for message in [half(10_000, 1), half(500, 500), half(0, 0)] {
            let (sender, mut body) = body(inflow.of(peer(1)));
            sender.send(message.clone()).await.unwrap();
            assert_eq!(next(&mut body).await.unwrap().unwrap(), message.len());
        }
        // One that goes away makes room for who waits.
        open.pop();
        open.remove(0);
        let (_, waits) = &mut open[1];
        assert_eq!(next(waits).await.unwrap().unwrap(), 15);
        drop(open);
        assert_eq!(inflow.all.available_permits(), 4096);
    }

    #[tokio::test]
    async fn messages_that_come_whole_in_any_pieces_pass_as_they_are() {
        let inflow = inflow(EVER);
        let (sender, mut body) = body(inflow.of(None));
        let mut all = Vec::new();
        for length in [0_u32, 1, 5, 40_000, 300_000, 2 * MIB, 0, 7] {
            all.extend_from_slice(&half(length, length as usize));
        }
        let total = all.len();
        let feed = tokio::spawn(async move {
            let mut rest = Bytes::from(all);
            let mut size = 1;
            while !rest.is_empty() {
                let piece = rest.split_to(size.min(rest.len()));
                sender.send(piece).await.unwrap();
                size = size * 3 % 100_003 + 1;
            }
        });
        let mut came = 0;
        while let Some(piece) = next(&mut body).await {
            came += piece.unwrap();
        }
        feed.await.unwrap();
        assert_eq!(came, total);
        drop(body);
        assert_eq!(inflow.all.available_permits(), 4096);
    }
}
