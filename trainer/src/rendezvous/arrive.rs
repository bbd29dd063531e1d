//! Reaching the store and waiting there for the other ranks.
//!
//! Invariant: every wait has an end, and asks in between whether to stop.

use std::net::{ToSocketAddrs, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use marquee_domain::FailureClass;

use crate::error::{RunError, TorchError};
use crate::ffi::Store;
use crate::stop::Stop;

/// How long a rank waits for the store and for all its peers. Hosts fetch inputs before they start
/// their ranks, and one may have to fetch what the other has in its cache.
pub(super) const RENDEZVOUS_TIMEOUT: Duration = Duration::from_secs(300);
/// One try to reach the store; between tries we look whether to stop.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two looks at who has arrived.
pub(super) const ARRIVAL_POLL: Duration = Duration::from_millis(20);

pub(super) fn connect(
    host: &str,
    port: u16,
    deadline: Instant,
    stop: &Stop,
) -> Result<Option<Store>, RunError> {
    loop {
        let error = match Store::connect(host, port, CONNECT_TIMEOUT) {
            Ok(store) => return Ok(Some(store)),
            Err(error) => error,
        };
        if stop.is_requested() {
            return Ok(None);
        }
        if Instant::now() > deadline {
            return Err(RunError::new(
                FailureClass::Collective,
                format!("the rendezvous store at {host}:{port} cannot be reached: {error}"),
            ));
        }
        tracing::warn!(host, port, %error, "the rendezvous store does not answer yet");
    }
}

/// Waits until every rank is there; false if asked to stop before.
pub(super) fn wait_for_all(
    store: &Store,
    rank: u32,
    world_size: u32,
    deadline: Instant,
    stop: &Stop,
) -> Result<bool, TorchError> {
    // A key for each rank and no common counter, so that an error can name those that are missing.
    let key = |rank: u32| format!("arrived/{rank}");
    store.set(&key(rank), b"1")?;
    let mut missing: Vec<u32> = (0..world_size).filter(|peer| *peer != rank).collect();
    loop {
        let mut still_missing = Vec::new();
        for peer in missing {
            // Asked again and again: the store can wait for a key by itself, but such a wait hears
            // of no stop.
            if !store.has(&key(peer))? {
                still_missing.push(peer);
            }
        }
        missing = still_missing;
        if missing.is_empty() {
            return Ok(true);
        }
        if stop.is_requested() {
            return Ok(false);
        }
        if Instant::now() > deadline {
            let seconds = RENDEZVOUS_TIMEOUT.as_secs();
            return Err(TorchError::Network(format!(
                "ranks {missing:?} did not arrive within {seconds} s"
            )));
        }
        thread::sleep(ARRIVAL_POLL);
    }
}

/// The address under which this host is reached from where the store is: that of the interface
/// through which we reach the store. No packet is sent.
pub(super) fn own_address(host: &str, port: u16) -> Result<String, RunError> {
    let find = || -> std::io::Result<String> {
        let peer = (host, port)
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| std::io::Error::other("no address"))?;
        let socket = UdpSocket::bind(if peer.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        })?;
        socket.connect(peer)?;
        Ok(socket.local_addr()?.ip().to_string())
    };
    find().map_err(|error| {
        RunError::new(
            FailureClass::Collective,
            format!("no way from this host to {host}:{port}: {error}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rendezvous::server::StoreServer;

    #[test]
    fn a_rank_that_waits_for_peers_can_be_stopped_and_names_them_when_time_is_up() {
        let server = StoreServer::start("127.0.0.1", 0).unwrap();
        let store = Store::connect(&server.host, server.port, Duration::from_secs(5)).unwrap();
        let soon = Instant::now() + Duration::from_millis(50);
        let error = wait_for_all(&store, 1, 4, soon, &Stop::default()).unwrap_err();
        assert!(error.to_string().contains("[0, 2, 3]"), "{error}");
        let stop = Stop::default();
        stop.request();
        let later = Instant::now() + Duration::from_secs(60);
        assert!(!wait_for_all(&store, 1, 4, later, &stop).unwrap());
    }
}
