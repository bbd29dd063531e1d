//! What the daemon takes from the world around it: the time, chance, connections, what the host says
//! of itself, and children. All of it comes in here, so that a simulation can give it instead and play
//! the whole daemon.
//!
//! Waiting is tokio's clock, and files are real: under a simulation the first is driven by it, and the
//! second cost no simulated time.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::{TcpListener, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use marquee_domain::BootId;
use marquee_domain::env::{Clock, Random};
use marquee_domain::resources::Inventory;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use crate::clock::SystemClock;
use crate::config::Config;
use crate::process::kept::Keepers;
use crate::process::launcher::Launcher;
use crate::{inventory, proc};

/// How long `marquee-prep` may take to say its version.
const CODE_MAX: Duration = Duration::from_secs(3);

/// The world around a daemon.
#[derive(Debug, Clone)]
pub struct Env {
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub net: Arc<dyn Net>,
    pub machine: Arc<dyn Machine>,
    pub launcher: Arc<dyn Launcher>,
}

impl Env {
    /// This machine.
    #[must_use]
    pub fn real() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            net: Arc::new(Tcp),
            machine: Arc::new(ThisMachine),
            launcher: Arc::new(Keepers::default()),
        }
    }
}

/// How connections come up.
pub trait Net: std::fmt::Debug + Send + Sync {
    /// A connection that is up.
    fn connect(&self, to: Endpoint)
    -> BoxFuture<'static, Result<Channel, tonic::transport::Error>>;

    /// One that comes up when it is first used, and again whenever it broke.
    fn connect_lazily(&self, to: Endpoint) -> Channel;
}

/// What the host says of itself.
pub trait Machine: std::fmt::Debug + Send + Sync {
    /// The kernel's boot id.
    fn boot_id(&self) -> io::Result<BootId>;

    /// What it has.
    fn inventory<'a>(&'a self, config: &'a Config) -> BoxFuture<'a, Inventory>;

    /// What its `marquee-prep` says of its code; empty where it says nothing.
    fn prep_code<'a>(&'a self, bin_dir: &'a Path) -> BoxFuture<'a, String>;

    /// The environment that the daemon was started in.
    fn environment(&self) -> BTreeMap<OsString, OsString>;

    /// A port of `host` that nobody listens at just now.
    fn free_port(&self, host: &str) -> io::Result<u16>;
}

/// The kernel's random source.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that draws random numbers"
    )]
    fn uuid(&self) -> Uuid {
        Uuid::new_v4()
    }
}

/// Connections over the host's network.
#[derive(Debug, Clone, Copy, Default)]
struct Tcp;

impl Net for Tcp {
    fn connect(
        &self,
        to: Endpoint,
    ) -> BoxFuture<'static, Result<Channel, tonic::transport::Error>> {
        async move { to.connect().await }.boxed()
    }

    fn connect_lazily(&self, to: Endpoint) -> Channel {
        to.connect_lazy()
    }
}

/// The host that this process runs on.
#[derive(Debug, Clone, Copy, Default)]
struct ThisMachine;

impl Machine for ThisMachine {
    fn boot_id(&self) -> io::Result<BootId> {
        let text = proc::boot_id()?;
        text.trim()
            .parse()
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    fn inventory<'a>(&'a self, config: &'a Config) -> BoxFuture<'a, Inventory> {
        inventory::take(config).boxed()
    }

    fn prep_code<'a>(&'a self, bin_dir: &'a Path) -> BoxFuture<'a, String> {
        prep_code(bin_dir).boxed()
    }

    fn environment(&self) -> BTreeMap<OsString, OsString> {
        std::env::vars_os().collect()
    }

    fn free_port(&self, host: &str) -> io::Result<u16> {
        let address = (host, 0)
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?;
        // It is let go at once: until the child listens there, another program may take it.
        Ok(TcpListener::bind(address)?.local_addr()?.port())
    }
}

async fn prep_code(bin_dir: &Path) -> String {
    let mut command = tokio::process::Command::new(bin_dir.join("marquee-prep"));
    // After the time limit the command is dropped: a program that hangs must not stay behind.
    command.arg("code").kill_on_drop(true);
    match timeout(CODE_MAX, command.output()).await {
        Ok(Ok(said)) if said.status.success() => String::from_utf8(said.stdout)
            .map(|code| code.trim().to_owned())
            .unwrap_or_default(),
        Ok(Ok(_) | Err(_)) | Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_bound() {
        let port = ThisMachine.free_port("127.0.0.1").unwrap();
        TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!(ThisMachine.free_port("no such host").is_err());
    }

    #[test]
    fn the_steady_clock_goes_on() {
        let before = SystemClock.monotonic();
        assert!(before > Duration::ZERO);
        assert!(SystemClock.monotonic() >= before);
    }
}
