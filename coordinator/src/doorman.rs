//! Who may come in: so many connections in all and of one host, each of which has to speak.
//!
//! A connection costs a task and a few buffers whoever holds it, and with TLS or without this is before anybody has
//! said who he is. Once a client has spoken it is asked every few seconds whether it lives (`rpc`).

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

/// Connections at once: a hundred workers with a few each, and everybody who watches.
const ALL_MAX: usize = 2_048;
/// Of one address: a host with a worker, and people and programs beside it, or all of a cluster on one machine.
const HOST_MAX: usize = 1_024;
/// How long a client may take until it has sent as much as every client does first: the preface of HTTP/2 with its
/// settings, or the first message of TLS.
const SPEAKS_WITHIN: Duration = Duration::from_secs(10);
const SPOKEN_BYTES: usize = 33;
/// A refusal is said at most so often.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// Counts connections.
#[derive(Debug, Clone)]
pub(crate) struct Doorman {
    count: Arc<Mutex<Count>>,
    speaks_within: Duration,
}

impl Default for Doorman {
    fn default() -> Self {
        Self {
            count: Arc::default(),
            speaks_within: SPEAKS_WITHIN,
        }
    }
}

#[derive(Debug, Default)]
struct Count {
    all: usize,
    hosts: HashMap<IpAddr, usize>,
    said: Option<Instant>,
    refused: u64,
}

impl Doorman {
    /// Lets a connection in, while there is room. It is counted until it is dropped.
    pub(crate) fn admit<S>(&self, stream: S, host: IpAddr) -> Option<Admitted<S>> {
        let mut count = self.count();
        let of_host = count.hosts.get(&host).copied().unwrap_or(0);
        if count.all >= ALL_MAX || of_host >= HOST_MAX {
            count.refused += 1;
            if count.said.is_none_or(|said| said.elapsed() > SAID_EVERY) {
                count.said = Some(Instant::now());
                tracing::warn!(
                    %host, of_host, all = count.all, refused = count.refused,
                    "connections refused: at most {HOST_MAX} of one host and {ALL_MAX} in all"
                );
            }
            return None;
        }
        count.all += 1;
        *count.hosts.entry(host).or_default() += 1;
        Some(Admitted {
            stream,
            silence: Some((Box::pin(tokio::time::sleep(self.speaks_within)), 0)),
            _place: Some(Place {
                doorman: self.clone(),
                host,
            }),
        })
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in the count.
#[derive(Debug)]
struct Place {
    doorman: Doorman,
    host: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut count = self.doorman.count();
        count.all -= 1;
        if let Some(of_host) = count.hosts.get_mut(&self.host) {
            *of_host -= 1;
            if *of_host == 0 {
                count.hosts.remove(&self.host);
            }
        }
    }
}

/// A connection that was let in. It ends if its client does not speak in time.
#[derive(Debug)]
pub(crate) struct Admitted<S> {
    stream: S,
    /// Until when it has to speak, and the bytes that it has sent; None: it has.
    silence: Option<(Pin<Box<Sleep>>, usize)>,
    /// None: what the stream is made of has it.
    _place: Option<Place>,
}

impl<S> Admitted<S> {
    /// A stream within one that was let in, as that of TLS is, whose client has to speak as every client does: who has
    /// shaken hands and says nothing would keep his place for ever.
    pub(crate) fn within(stream: S) -> Self {
        Self {
            stream,
            silence: Some((Box::pin(tokio::time::sleep(SPEAKS_WITHIN)), 0)),
            _place: None,
        }
    }
}

impl<S: Connected> Connected for Admitted<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Admitted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some((until, sent)) = &mut self.silence else {
            return read;
        };
        // Bytes and not messages: whether it is TLS is not known here.
        *sent += buffer.filled().len() - before;
        if *sent >= SPOKEN_BYTES {
            self.silence = None;
            return read;
        }
        // After the read: what has arrived by now counts.
        if until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Admitted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn doorman(speaks_within: Duration) -> Doorman {
        Doorman {
            speaks_within,
            ..Doorman::default()
        }
    }

    #[tokio::test]
    async fn a_connection_that_does_not_speak_ends() {
        let doorman = doorman(Duration::from_millis(300));
        let (_client, stream) = duplex(64);
        let mut silent = doorman.admit(stream, HOST).unwrap();
        let error = silent.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // A byte now and then is no speech either.
        let (mut other, stream) = duplex(64);
        let mut slow = doorman.admit(stream, HOST).unwrap();
        let drip = tokio::spawn(async move {
            while other.write_u8(7).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let error = loop {
            if let Err(error) = slow.read_u8().await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(slow);
        drip.await.unwrap();
    }

    #[tokio::test]
    async fn one_that_spoke_may_be_quiet() {
        let doorman = doorman(Duration::from_millis(100));
        let (mut client, stream) = duplex(64);
        let mut served = doorman.admit(stream, HOST).unwrap();
        client.write_all(&[7; SPOKEN_BYTES]).await.unwrap();
        let mut first = [0; SPOKEN_BYTES];
        served.read_exact(&mut first).await.unwrap();
        let quiet = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            client.write_u8(8).await.unwrap();
            client
        });
        assert_eq!(served.read_u8().await.unwrap(), 8);
        quiet.await.unwrap();
    }

    #[tokio::test]
    async fn one_host_and_all_together_have_so_many_places_and_no_more() {
        let doorman = Doorman::default();
        let host = |last| IpAddr::from([10, 0, 0, last]);
        let admit = |last| doorman.admit((), host(last));
        let mut inside: Vec<_> = (0..HOST_MAX).filter_map(|_| admit(1)).collect();
        assert_eq!(inside.len(), HOST_MAX);
        assert!(admit(1).is_none());
        inside.extend((HOST_MAX..ALL_MAX).filter_map(|_| admit(2)));
        assert!(admit(3).is_none(), "all places are taken");
        inside.pop();
        assert!(admit(3).is_some());
        drop(inside);
        assert!(doorman.count().hosts.is_empty());
        assert_eq!(doorman.count().all, 0);
    }
}
