//! What a daemon is given instead of its machine: time, chance and a network. The rest of a worker's machine is in
//! [`crate::processes`].

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use marquee_coordinator::env as coordinator;
use marquee_domain::env::{Clock, Random};
use marquee_worker::env as worker;
use tonic::codegen::http::Uri;
use tonic::transport::server::TcpConnectInfo;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use turmoil::net::{TcpListener, TcpStream};
use uuid::Uuid;

use crate::draw::Draw;
use crate::timeline::Timeline;

/// The time of day at which every world begins, in seconds. It lies in the past, so that no file that is made in
/// a simulation looks old to it.
pub(crate) const BEGIN: i64 = 1_767_225_600;
/// Where coordinators listen.
pub(crate) const PORT: u16 = 7_700;

/// A host's clock.
#[derive(Debug)]
pub struct HostClock {
    world: Timeline,
    /// How far the time of day is off.
    skew_ms: AtomicI64,
    /// How far it was set on, for good.
    set_on_ms: AtomicI64,
    /// How much time the daemon has missed, having stood still.
    missed_us: AtomicU64,
}

impl HostClock {
    pub(crate) fn new(world: Timeline) -> Self {
        Self {
            world,
            skew_ms: AtomicI64::new(0),
            set_on_ms: AtomicI64::new(0),
            missed_us: AtomicU64::new(0),
        }
    }

    /// The right time of day.
    fn right(&self) -> DateTime<Utc> {
        let since = i64::try_from(self.world.now_us()).unwrap_or(i64::MAX);
        DateTime::from_timestamp(BEGIN, 0).unwrap_or_default() + TimeDelta::microseconds(since)
    }

    pub(crate) fn set_skew(&self, ms: i64) {
        self.skew_ms.store(ms, Ordering::Relaxed);
    }

    pub(crate) fn set_on(&self, ms: i64) {
        self.set_on_ms.fetch_add(ms, Ordering::Relaxed);
    }

    pub(crate) fn miss(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.missed_us.fetch_add(us, Ordering::Relaxed);
    }
}

impl Clock for HostClock {
    fn now(&self) -> DateTime<Utc> {
        let off = [&self.skew_ms, &self.set_on_ms].map(|ms| ms.load(Ordering::Relaxed));
        self.right() + TimeDelta::milliseconds(off.iter().sum())
    }

    fn of_postgres(&self) -> Option<DateTime<Utc>> {
        // Without the host's skew: there is one database, and it has one clock.
        Some(self.right())
    }

    fn monotonic(&self) -> Duration {
        // A process that is stopped has no part in it: the monotonic clock goes on meanwhile.
        let missed = self.missed_us.load(Ordering::Relaxed);
        // Hosts have run for a while when their daemons start.
        Duration::from_secs(1_000) + Duration::from_micros(self.world.now_us() + missed)
    }
}

/// A host's random numbers. They go on over a daemon's restart.
#[derive(Debug)]
pub(crate) struct HostRandom(Mutex<Draw>);

impl HostRandom {
    pub(crate) fn new(draw: Draw) -> Self {
        Self(Mutex::new(draw))
    }
}

impl Random for HostRandom {
    fn uuid(&self) -> Uuid {
        let mut draw = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uuid::Builder::from_random_bytes(draw.bytes()).into_uuid()
    }
}

/// The simulated network, for whoever listens and whoever connects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Network;

impl coordinator::Net for Network {
    fn listen(&self, at: SocketAddr) -> BoxFuture<'static, io::Result<coordinator::Listener>> {
        async move {
            let listener = TcpListener::bind(("0.0.0.0", at.port())).await?;
            let connections = futures::stream::unfold(listener, move |listener| async move {
                let accepted = listener.accept().await;
                let connection = accepted.map(|(stream, from)| {
                    let info = TcpConnectInfo {
                        local_addr: Some(at),
                        remote_addr: Some(from),
                    };
                    coordinator::Connection::new(stream, info)
                });
                Some((connection, listener))
            });
            Ok(coordinator::Listener {
                address: at,
                connections: connections.boxed(),
            })
        }
        .boxed()
    }
}

impl worker::Net for Network {
    fn connect(
        &self,
        to: Endpoint,
    ) -> BoxFuture<'static, Result<Channel, tonic::transport::Error>> {
        async move { to.connect_with_connector(service_fn(connect)).await }.boxed()
    }

    fn connect_lazily(&self, to: Endpoint) -> Channel {
        to.connect_with_connector_lazy(service_fn(connect))
    }
}

/// A connection as clients make one too.
pub(crate) fn connect(to: Uri) -> BoxFuture<'static, io::Result<TokioIo<TcpStream>>> {
    async move {
        let host = to.host().unwrap_or_default().to_owned();
        let port = to.port_u16().unwrap_or(PORT);
        let stream = TcpStream::connect((host, port)).await?;
        Ok(TokioIo::new(stream))
    }
    .boxed()
}

/// What a coordinator is given.
pub(crate) fn coordinator_env(clock: Arc<HostClock>, random: Arc<HostRandom>) -> coordinator::Env {
    coordinator::Env {
        clock,
        random,
        net: Arc::new(Network),
        ..coordinator::Env::system()
    }
}
