//! What the coordinator takes from the world around it, in one value: a simulation gives its own.
//!
//! - the time, and chance: [`Clock`] and [`Random`], which worker and coordinator share;
//! - waiting: tokio's clock, which a simulation drives without a word from us;
//! - the network: [`Net`] says how connections come in. Nothing here connects to Postgres: its URL may name a
//!   socket on which a simulation listens;
//! - the planner: a test gives one that stumbles.
//!
//! Not here: files. They are real in a simulation too, in a folder of its own.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
pub use marquee_domain::env::{Clock, Random};
use marquee_domain::steady::Steady;
use nix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tonic::transport::server::{Connected, TcpConnectInfo, TcpIncoming};
use uuid::Uuid;

use crate::doorman::Doorman;
use crate::scheduler::Planner;

/// The coordinator's surroundings.
#[derive(Debug, Clone)]
pub struct Env {
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub net: Arc<dyn Net>,
    /// How rounds are planned.
    pub planner: Planner,
}

impl Env {
    /// This machine.
    #[must_use]
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            net: Arc::new(SystemNet),
            planner: crate::scheduler::plan,
        }
    }
}

/// The host's clocks. The one place that asks for the time of day.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the clock that everything else is given"
    )]
    fn now(&self) -> DateTime<Utc> {
        // Rows keep what was told, and are compared with it: one time for the whole process.
        static STEADY: Mutex<Option<Steady>> = Mutex::new(None);
        let (wall, monotonic) = (Utc::now(), self.monotonic());
        let mut steady = STEADY.lock().unwrap_or_else(PoisonError::into_inner);
        let steady = steady.get_or_insert_with(|| Steady::starting(wall, monotonic));
        let now = steady.now(wall, monotonic);
        if let Some(off) = steady.jump(wall) {
            tracing::warn!(
                off_s = off.num_seconds(),
                "the host's clock was set; times go on as they were and come nearer to it by one second in twenty"
            );
        }
        now
    }

    fn monotonic(&self) -> Duration {
        // BOOTTIME goes on while the machine is suspended, as the time of its workers does; MONOTONIC, which
        // tokio and `Instant` take, stands still. Linux has had it since 2.6.39, so this does not fail.
        clock_gettime(ClockId::CLOCK_BOOTTIME)
            .map(Duration::from)
            .unwrap_or_default()
    }
}

/// The kernel's random numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn uuid(&self) -> Uuid {
        Uuid::new_v4()
    }
}

/// How connections come in.
pub trait Net: fmt::Debug + Send + Sync {
    /// Listens at an address; port 0 takes a free one.
    fn listen(&self, at: SocketAddr) -> BoxFuture<'static, io::Result<Listener>>;
}

/// Where clients connect.
pub struct Listener {
    /// With the port that was taken.
    pub address: SocketAddr,
    pub connections: BoxStream<'static, io::Result<Connection>>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// The host's network.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemNet;

impl Net for SystemNet {
    fn listen(&self, at: SocketAddr) -> BoxFuture<'static, io::Result<Listener>> {
        Box::pin(async move {
            let listener = tokio::net::TcpListener::bind(at).await?;
            let address = listener.local_addr()?;
            // Without the delay that gathers small packets: assignments and acknowledgements are small and
            // waited for.
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let doorman = Doorman::default();
            let connections = incoming.filter_map(move |stream| {
                let connection = stream.map(|stream| {
                    let info = stream.connect_info();
                    let stream = doorman.admit(stream, info.remote_addr()?.ip())?;
                    Some(Connection::new(stream, info))
                });
                std::future::ready(connection.transpose())
            });
            Ok(Listener {
                address,
                connections: connections.boxed(),
            })
        })
    }
}

/// Bytes that tell TLS, HTTP/2 and everything else apart. The first message of each is longer.
const PEEK_BYTES: usize = 3;

/// A connection of any kind, with the addresses of its ends.
pub struct Connection {
    /// Before the connection itself, so that it is dropped first.
    _held: Option<Box<dyn Send>>,
    io: Pin<Box<dyn Duplex>>,
    /// What was looked at before it was read.
    ahead: Vec<u8>,
    info: TcpConnectInfo,
}

trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

impl Connection {
    pub fn new(io: impl AsyncRead + AsyncWrite + Send + 'static, info: TcpConnectInfo) -> Self {
        Self {
            _held: None,
            io: Box::pin(io),
            ahead: Vec::new(),
            info,
        }
    }

    /// The first bytes that the client sent, which stay to be read. Empty: it has gone without a word.
    pub(crate) async fn peek(&mut self) -> io::Result<Vec<u8>> {
        while self.ahead.len() < PEEK_BYTES {
            let mut more = [0; PEEK_BYTES];
            let room = PEEK_BYTES - self.ahead.len();
            match self.io.read(&mut more[..room]).await? {
                0 => break,
                count => self.ahead.extend(&more[..count]),
            }
        }
        Ok(self.ahead.clone())
    }

    /// The address of this end.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.info.local_addr()
    }

    /// The address of the client's end.
    #[must_use]
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.info.remote_addr()
    }

    /// Holds something for as long as the connection stands: it is dropped before that is closed.
    #[must_use]
    pub fn holding(self, held: impl Send + 'static) -> Self {
        Self {
            _held: Some(Box::new(held)),
            ..self
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buffer.remaining());
            let rest = self.ahead.split_off(count);
            buffer.put_slice(&self.ahead);
            self.ahead = rest;
            return Poll::Ready(Ok(()));
        }
        self.io.as_mut().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_clock_counts_time_since_the_start_of_the_host() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let monotonic = SystemClock.monotonic();
        assert!(
            monotonic.as_secs_f64() >= uptime - 0.011,
            "{monotonic:?} {uptime}"
        );
    }
}
